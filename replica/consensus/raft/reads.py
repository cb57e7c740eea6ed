"""Linearizable reads: by read-index, or by a lease.

A read that arrives at the leader is granted at an index that was taken after it arrived, once

1. the leader has committed an entry of its own term: whatever was committed in earlier terms then lies at or before
   its commit mark, and so does everything of this term that anybody may have acted upon;
2. a round of heartbeats that began after the index was taken has been answered, in the leader's own term, by replicas
   that meet every majority (the leader counts for itself): none of them had voted in a later term by then, so no later
   leader can have committed anything before the read arrived. Or the leader holds a lease (see `leases`), which says
   the same without a round, if the read may be served so;
3. the state is applied up to the index, which is the driver's business.

Every heartbeat is a round (see `replica.consensus.rounds`). A replica that does not lead refuses, with a hint: the
client that asks the leader itself saves a hop.
"""

from __future__ import annotations

from replica.consensus.interface import GrantRead, Reason, ReplicaId
from replica.consensus.rounds import ReadRounds

from .leases import Lease
from .log import Log
from .messages import Heartbeat
from .state import Core


class Reads:
    """Reads that wait at the leader, and its heartbeats."""

    def __init__(self, core: Core, log: Log) -> None:
        self._core = core
        self._log = log
        self._rounds = ReadRounds(core, core.options)
        self.lease = Lease(core, self._rounds)

    def begin(self) -> None:
        """A leadership begins."""
        self._rounds.begin()
        self.lease.begin()

    def on_read(self, token: int, *, by_lease: bool, opening: int) -> None:
        """A read has arrived at a replica that leads, and opened its term at index ``opening``."""
        core, log = self._core, self._log
        if "read granted without a round" in core.bugs or (by_lease and log.decided >= opening and self.lease.holds):
            core.effects.reads.append(GrantRead(token, log.decided))
        else:
            self._rounds.on_read(token)

    def on_acknowledged(self, sender: ReplicaId, round_: int) -> None:
        """A voter has answered a heartbeat of this term."""
        self._rounds.on_acknowledged(sender, round_)
        self.lease.renew()

    def beat(self) -> None:
        """Send a heartbeat."""
        self._rounds.round += 1
        self._announce()

    def _announce(self) -> None:
        core, round_ = self._core, self._rounds.round
        self.lease.sent(round_)
        core.broadcast(Heartbeat(core.term, self._log.decided, round_, core.options.lease_s > 0))

    def settle(self, opening: int, sealed_at: int | None) -> None:
        """The turn ends: begin a round for what arrived, grant what is confirmed. ``sealed_at`` is where the epoch is
        about to end."""
        core, log = self._core, self._log
        if not core.leads or not self._rounds.waiting:
            return
        if sealed_at is not None and log.decided >= sealed_at:
            self._rounds.refuse(Reason.SEALED, None)  # the state never reaches the seal
        opened = log.decided >= opening or "read granted before the term is opened" in core.bugs
        if opened and self._rounds.begin_round(log.decided):
            self._announce()
        self._rounds.grant(core.quorums.meets_every_phase1)

    def abandon(self, reason: str, hint: ReplicaId | None) -> None:
        """Leadership or the epoch is over: refuse everything that waits."""
        self._rounds.refuse(reason, hint)
        self.lease.begin()

    def check(self) -> None:
        """Assert the invariants of waiting reads."""
        self._rounds.check()
        assert self._core.leads or not self._rounds.waiting, "a read waits at a replica that does not lead"
