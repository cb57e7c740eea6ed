"""Rounds by which a leader confirms that it still leads, and the reads that wait for them. Shared by protocols with a
leader.

A read is granted at an index that was taken after the read arrived, once a round that began after the index was taken
has been acknowledged by replicas that meet every quorum which could have elected somebody else. All reads of a turn
share a round. Rounds are numbered within a leadership, and an acknowledgement of a round counts for all earlier ones,
so heartbeats repeat a round whose messages were lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from .interface import GrantRead, Reason, RejectRead, ReplicaId
from .options import LogOptions
from .turn import TurnState


class ReadRounds:
    """Reads that wait at a leader."""

    def __init__(self, core: TurnState, options: LogOptions) -> None:
        self._core = core
        self._options = options
        self.round = 0
        """The last round that was begun in this leadership."""
        self._arrived: list[int] = []
        """Tokens that have no index yet."""
        self._indexed: deque[tuple[int, int, list[int]]] = deque()
        """Rounds that are not confirmed yet: (round, index, tokens)."""
        self._acknowledged: dict[ReplicaId, int] = {}
        """The last round that each replica has acknowledged."""
        self.waiting = 0
        """Reads that wait."""

    def begin(self) -> None:
        """A leadership begins: its rounds are numbered afresh."""
        self.round = 0
        self._acknowledged = {}

    def on_read(self, token: int) -> None:
        """A read has arrived at a replica that leads."""
        if self.waiting >= self._options.reads_max:
            self._core.effects.refused_reads.append(RejectRead(token, Reason.OVERLOADED, hint=self._core.replica))
        else:
            self._arrived.append(token)
            self.waiting += 1

    def on_acknowledged(self, sender: ReplicaId, round_: int) -> None:
        """``sender`` still takes this replica for the leader, and said so after ``round_`` began."""
        if round_ > self._acknowledged.get(sender, 0):
            self._acknowledged[sender] = min(round_, self.round)

    def begin_round(self, index: int) -> bool:
        """Give what has arrived ``index`` and a new round, which the caller announces. False if nothing has."""
        if not self._arrived:
            return False
        self.round += 1
        self._indexed.append((self.round, index, self._arrived))
        self._arrived = []
        return True

    def confirmed(self, suffices: Callable[[AbstractSet[ReplicaId]], bool]) -> int:
        """The last round that was acknowledged by replicas that suffice, the leader counted in; 0 for none."""
        for round_ in sorted(set(self._acknowledged.values()), reverse=True):
            if suffices(self._acknowledgers(round_)):
                return round_
        return self.round if suffices({self._core.replica}) else 0

    def grant(self, suffices: Callable[[AbstractSet[ReplicaId]], bool]) -> None:
        """Grant what waits for rounds that are confirmed by now."""
        grants = self._core.effects.reads
        while self._indexed:
            round_, index, tokens = self._indexed[0]
            if not suffices(self._acknowledgers(round_)):
                break
            self._indexed.popleft()
            self.waiting -= len(tokens)
            grants.extend(GrantRead(token, index) for token in tokens)

    def grant_all(self, index: int) -> None:
        """Grant everything that waits: ``index`` is known to cover it without a round."""
        tokens = self._tokens()
        self._core.effects.reads.extend(GrantRead(token, index) for token in tokens)
        self._clear()

    def refuse(self, reason: str, hint: ReplicaId | None) -> None:
        """Refuse everything that waits: leadership or the epoch is over."""
        self._core.effects.refused_reads.extend(RejectRead(token, reason, hint=hint) for token in self._tokens())
        self._clear()

    def _acknowledgers(self, round_: int) -> set[ReplicaId]:
        acks = {replica for replica, last in self._acknowledged.items() if last >= round_}
        acks.add(self._core.replica)
        return acks

    def _tokens(self) -> list[int]:
        return [token for _, _, indexed in self._indexed for token in indexed] + self._arrived

    def _clear(self) -> None:
        self._indexed.clear()
        self._arrived = []
        self.waiting = 0

    def check(self) -> None:
        """Assert the invariants of waiting reads."""
        assert len(self._tokens()) == self.waiting <= self._options.reads_max
        assert all(round_ <= self.round for round_ in self._acknowledged.values())
