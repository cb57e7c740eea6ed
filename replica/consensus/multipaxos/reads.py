"""Linearizable reads by read-index.

A read that arrives at the leader is granted at an index that was taken after it arrived, once three things hold:

1. everything recovered in phase 1 is decided: whatever was decided under earlier ballots then lies at or before
   ``decided``, and so does everything decided under this one that anybody may have acted upon;
2. a round that began after the index was taken has been acknowledged at the leader's own ballot by replicas that meet
   every phase-1 quorum (the leader counts for itself): none of them had promised a higher ballot by then, so no later
   leader can have decided anything before the read arrived;
3. the state is applied up to the index, which is the driver's business.

All reads of a turn share a round. Rounds are numbered within a ballot, and an acknowledgement of a round counts for all
earlier ones, so heartbeats repeat a round whose messages were lost. A replica that does not lead refuses, with a hint:
the client that asks the leader itself saves a hop.
"""

from __future__ import annotations

from collections import deque

from replica.consensus.interface import GrantRead, Reason, RejectRead, ReplicaId

from .log import Log
from .messages import Heartbeat
from .state import Core, Role


class Reads:
    """Reads that wait at the leader."""

    def __init__(self, core: Core, log: Log) -> None:
        self._core = core
        self._log = log
        self.round = 0
        """The last round that was begun at this ballot."""
        self._arrived: list[int] = []
        """Tokens that have no index yet."""
        self._indexed: deque[tuple[int, int, list[int]]] = deque()
        """Rounds that are not confirmed yet: (round, index, tokens)."""
        self._acknowledged: dict[ReplicaId, int] = {}
        """The last round that each replica has acknowledged at this ballot."""
        self._count = 0

    def begin(self) -> None:
        """A leadership begins: rounds are numbered afresh under its ballot."""
        self.round = 0
        self._acknowledged = {}

    def on_read(self, token: int) -> None:
        """A read has arrived at a replica that leads."""
        core = self._core
        if self._count >= core.options.reads_max:
            core.effects.refused_reads.append(RejectRead(token, Reason.OVERLOADED, hint=core.replica))
        else:
            self._arrived.append(token)
            self._count += 1

    def on_acknowledged(self, sender: ReplicaId, round_: int) -> None:
        """``sender`` has promised nothing above the leader's ballot and said so after ``round_`` began."""
        if round_ > self._acknowledged.get(sender, 0):
            self._acknowledged[sender] = min(round_, self.round)

    def settle(self, recovered: int, sealed_at: int | None) -> None:
        """The turn ends: begin a round for what arrived, grant what is confirmed.

        ``recovered`` is the last slot that was recovered in phase 1, ``sealed_at`` where the epoch is about to end.
        """
        core = self._core
        if core.role is not Role.LEADING or not self._count:
            return
        if sealed_at is not None and self._log.decided >= sealed_at:
            self.refuse(Reason.SEALED, None)  # the state never reaches the seal
        if self._arrived and self._log.decided >= recovered:
            self.round += 1
            self._indexed.append((self.round, self._log.decided, self._arrived))
            self._arrived = []
            core.broadcast(Heartbeat(core.ballot, self._log.decided, self.round))
        while self._indexed:
            round_, index, tokens = self._indexed[0]
            acks = {replica for replica, last in self._acknowledged.items() if last >= round_}
            acks.add(core.replica)
            if not core.quorums.meets_every_phase1(acks):
                break
            self._indexed.popleft()
            self._count -= len(tokens)
            core.effects.reads.extend(GrantRead(token, index) for token in tokens)

    def refuse(self, reason: str, hint: ReplicaId | None) -> None:
        """Refuse everything that waits: leadership or the epoch is over."""
        tokens = [token for _, _, indexed in self._indexed for token in indexed] + self._arrived
        self._core.effects.refused_reads.extend(RejectRead(token, reason, hint=hint) for token in tokens)
        self._indexed.clear()
        self._arrived = []
        self._count = 0

    def check(self) -> None:
        """Assert the invariants of waiting reads."""
        waiting = sum(len(tokens) for _, _, tokens in self._indexed) + len(self._arrived)
        assert waiting == self._count <= self._core.options.reads_max
        assert self._core.leads or not self._count, "a read waits at a replica that does not lead"
        assert all(round_ <= self.round for round_ in self._acknowledged.values())
