"""A replica that learns before it votes: what is decided, on its way from a member to who is to become one.

A newcomer is not in the configuration of the running epoch: it has no vote, is counted in no quorum, and hears nothing
of the protocol. Instead a member, the *teacher*, gives it a snapshot of its state and then everything that the protocol
delivers from there on: decided commands, by position. Such a *lesson* knows nothing of the protocol, and nothing that
the newcomer does or fails to do can delay a decision. When the newcomer is near, the next epoch, in which it votes, is
proposed. The seal of the present one ends the lesson, and the newcomer, which has everything before the seal, enters
the next epoch as the old members do: with a snapshot of its own state. A lesson that breaks has changed nothing: it is
begun again, or the newcomer fetches the snapshot of the seal, should that have been decided.

`Lesson` is the teacher's half and `Learner` the newcomer's. Both are pure; simulator and node share them. They need one
order over all commands; protocols that order by object decide no seals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from replica.consensus.interface import Configuration, Deliver, ReplicaId, Sealed

from .coordinator import Anchor

__all__ = ["NEAR_POSITIONS", "NEWS_BYTES_MAX", "UNTAKEN_BYTES_MAX", "Learner", "Lesson", "LessonBroken", "News"]

NEAR_POSITIONS: Final = 1000
"""A learner that has applied all but so many of its teacher's positions is near enough to become a member: it makes up
for them while the old members write their snapshots of the seal."""

UNTAKEN_BYTES_MAX: Final = 256 << 20
"""So many bytes of commands a teacher keeps for one learner, the time that the snapshot takes included."""

NEWS_BYTES_MAX: Final = 1 << 20
"""Commands that one piece of news may hold, in bytes; a single position may hold more."""


class LessonBroken(Exception):
    """The lesson cannot go on; the learner begins a new one. The text says why."""


class News(msgspec.Struct, frozen=True, array_like=True):
    """What a teacher tells: positions in order without gaps, or the seal that follows the last of them."""

    deliveries: tuple[Deliver, ...] = ()
    sealed: Sealed | None = None


class Lesson:
    """The teacher's half: what has been applied since the snapshot, until the learner has it."""

    def __init__(self, learner: ReplicaId, start: int, *, untaken_bytes_max: int = UNTAKEN_BYTES_MAX) -> None:
        """The snapshot that ``learner`` is given covers ``start``; what is applied from here on is to be told."""
        self.learner = learner
        self.start = start
        self.sealed: Sealed | None = None
        self.problem = ""
        """Why nothing more can be told; empty while it can."""
        self.acknowledged = -1
        """What the learner says it has applied; -1 before it has the snapshot."""
        self._untaken_bytes_max = untaken_bytes_max
        self._applied = start
        self._told = start
        self._untold: deque[tuple[Deliver, int]] = deque()
        self._untaken: deque[tuple[Deliver, int]] = deque()
        """Told and not acknowledged: all before what is untold."""
        self._bytes = 0
        self._seal_told = False

    # ------------------------------------------------------------------------------------------- from the protocol

    def delivered(self, deliveries: Iterable[Deliver]) -> None:
        """The teacher has applied these."""
        for delivery in deliveries:
            if self.problem or self.sealed is not None or delivery.position <= self._applied:
                continue
            if delivery.position != self._applied + 1:
                self.broken(f"positions {self._applied + 1} to {delivery.position - 1} did not pass the teacher")
                return
            size = sum(len(command.payload) for command in delivery.commands)
            self._untold.append((delivery, size))
            self._bytes += size
            self._applied = delivery.position
            if self._bytes > self._untaken_bytes_max:
                self.broken(f"more than {self._untaken_bytes_max} bytes were written that the learner has not taken")

    def ended(self, sealed: Sealed) -> None:
        """The epoch has ended: the lesson does, once this is told."""
        self.sealed = sealed

    def broken(self, why: str) -> None:
        """Nothing more can be told."""
        self.problem = self.problem or why
        self._untold.clear()
        self._untaken.clear()
        self._bytes = 0

    # ------------------------------------------------------------------------------------------------- to the learner

    @property
    def unsaid(self) -> bool:
        """Is there something that has not been told yet?"""
        return self._told < self._applied or (self.sealed is not None and not self._seal_told)

    def take(self, bytes_max: int = NEWS_BYTES_MAX) -> News:
        """The next news. Raises `LessonBroken`."""
        if self.problem:
            raise LessonBroken(self.problem)
        taken: list[Deliver] = []
        room = bytes_max
        while self._untold and (not taken or self._untold[0][1] <= room):
            delivery, size = self._untold.popleft()
            self._untaken.append((delivery, size))
            taken.append(delivery)
            room -= size
        if taken:
            self._told = taken[-1].position
        sealed = self.sealed if self._told == self._applied else None
        self._seal_told = sealed is not None
        return News(tuple(taken), sealed)

    def rewind(self) -> None:
        """What was told and not acknowledged may have been lost: tell it again."""
        self._untold.extendleft(reversed(self._untaken))
        self._untaken.clear()
        self._told = self._applied - len(self._untold)
        self._seal_told = False

    def acknowledge(self, position: int) -> None:
        """The learner has applied everything up to ``position``. Raises `LessonBroken` for what cannot be."""
        if not self.start <= position <= self._applied:
            raise LessonBroken(f"position {position} is not one of {self.start} to {self._applied}")
        self.acknowledged = max(self.acknowledged, position)
        self._told = max(self._told, position)
        for told in (self._untaken, self._untold):
            while told and told[0][0].position <= position:
                self._bytes -= told.popleft()[1]

    @property
    def lag(self) -> int | None:
        """How many positions the learner is behind its teacher; None before it has the snapshot."""
        return None if self.acknowledged < 0 else self._applied - self.acknowledged

    @property
    def near(self) -> bool:
        """May the learner become a member now?"""
        lag = self.lag
        return not self.problem and lag is not None and lag <= NEAR_POSITIONS


class Learner:
    """The newcomer's half: where it stands, and what is news to it."""

    def __init__(self, replica: ReplicaId, applied: int) -> None:
        self.replica = replica
        self.applied = applied

    def accept(self, news: News) -> list[Deliver]:
        """Those of the positions that are to be applied now. Raises `LessonBroken` when there is a gap before them."""
        fresh = []
        for delivery in news.deliveries:
            if delivery.position <= self.applied:
                continue
            if delivery.position != self.applied + 1:
                raise LessonBroken(f"position {delivery.position} came after {self.applied}")
            self.applied = delivery.position
            fresh.append(delivery)
        return fresh

    def anchor(self, sealed: Sealed) -> Anchor | None:
        """Where this replica is to stand in the epoch after the seal, for a snapshot of its state as it is now; None
        when it is no member of that. Raises `LessonBroken` when something before the seal is missing here.
        """
        configuration: Configuration = sealed.configuration
        if configuration.member(self.replica) is None:
            return None
        assert isinstance(sealed.frontier, int), "seals are decided by protocols of one order"
        if self.applied != sealed.frontier - 1:
            raise LessonBroken(f"the seal at {sealed.frontier} came after {self.applied}")
        return Anchor(configuration=configuration, frontier=sealed.frontier, base=sealed.frontier)
