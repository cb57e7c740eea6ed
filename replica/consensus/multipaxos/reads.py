"""Linearizable reads by read-index.

A read that arrives at the leader is granted at an index that was taken after it arrived, once three things hold:

1. everything recovered in phase 1 is decided: whatever was decided under earlier ballots then lies at or before
   ``decided``, and so does everything decided under this one that anybody may have acted upon;
2. a round that began after the index was taken has been acknowledged at the leader's own ballot by replicas that meet
   every phase-1 quorum (the leader counts for itself): none of them had promised a higher ballot by then, so no later
   leader can have decided anything before the read arrived;
3. the state is applied up to the index, which is the driver's business.

Rounds are numbered within a ballot (see `replica.consensus.rounds`). A replica that does not lead refuses, with a hint:
the client that asks the leader itself saves a hop.
"""

from __future__ import annotations

from replica.consensus.interface import Reason
from replica.consensus.rounds import ReadRounds

from .log import Log
from .messages import Heartbeat
from .state import Core, Role


class Reads(ReadRounds):
    """Reads that wait at the leader."""

    def __init__(self, core: Core, log: Log) -> None:
        super().__init__(core, core.options)
        self._ballots = core
        self._log = log

    def settle(self, recovered: int, sealed_at: int | None) -> None:
        """The turn ends: begin a round for what arrived, grant what is confirmed.

        ``recovered`` is the last slot that was recovered in phase 1, ``sealed_at`` where the epoch is about to end.
        """
        core, log = self._ballots, self._log
        if core.role is not Role.LEADING or not self.waiting:
            return
        if sealed_at is not None and log.decided >= sealed_at:
            self.refuse(Reason.SEALED, None)  # the state never reaches the seal
        ready = log.decided >= recovered or "read granted before recovery" in core.bugs
        if ready and self.begin_round(log.decided):
            core.broadcast(Heartbeat(core.ballot, log.decided, self.round))
        unconfirmed = "read granted without a round" in core.bugs
        self.grant((lambda acks: True) if unconfirmed else core.quorums.meets_every_phase1)

    def check(self) -> None:
        """Assert the invariants of waiting reads."""
        super().check()
        assert self._ballots.leads or not self.waiting, "a read waits at a replica that does not lead"
