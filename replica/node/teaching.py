"""Lessons that this replica gives: to those who are to become members, and to nobody else.

Whoever is asked to add a member *expects* it, for as long as that takes. A newcomer asks every replica that it knows of
for a lesson, and is refused by all but that one, which takes a snapshot and from that moment on keeps what it applies
until the newcomer has it. What the two halves of a lesson promise stands in `replica.storage.learning`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from replica.consensus.interface import Deliver, ReplicaId, Sealed
from replica.storage.learning import Lesson, LessonBroken
from replica.transport import SnapshotSource, SnapshotUnserved

__all__ = ["LessonGiven", "Teaching"]

SILENCE_S: Final = 1.0
"""A learner is told that there is nothing new when there has been nothing for so long."""


class LessonGiven:
    """One lesson on its way (`replica.transport.LessonSource`)."""

    def __init__(self, teaching: Teaching, lesson: Lesson) -> None:
        self.lesson = lesson
        self.snapshot: SnapshotSource
        self._teaching = teaching
        self.stirred = asyncio.Event()

    async def news(self) -> bytes | None:
        """See `replica.transport.LessonSource`."""
        lesson = self.lesson
        if not (lesson.unsaid or lesson.problem):
            if lesson.sealed is not None:
                return None
            self.stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await self.stirred.wait()
        if not (lesson.unsaid or lesson.problem):
            return b""
        try:
            return msgspec.msgpack.encode(lesson.take())
        except LessonBroken as broken:
            raise SnapshotUnserved(str(broken), busy=True) from None

    def applied(self, position: int, /) -> None:
        """See `replica.transport.LessonSource`."""
        try:
            self.lesson.acknowledge(position)
        except LessonBroken as broken:
            self.lesson.broken(str(broken))
            self.stirred.set()
        self._teaching.progressed()

    def close(self) -> None:
        """See `replica.transport.LessonSource`."""
        self._teaching.end(self)


class Teaching:
    """The lessons of one replica, on the event loop's thread."""

    def __init__(self) -> None:
        self._expected: Counter[ReplicaId] = Counter()
        self._given: dict[ReplicaId, LessonGiven] = {}
        self._problems: dict[ReplicaId, str] = {}
        self._watching: list[asyncio.Event] = []

    # ----------------------------------------------------------------------------------------------- who is taught

    @contextlib.contextmanager
    def expecting(self, learner: ReplicaId) -> Iterator[None]:
        """Let ``learner`` have lessons within."""
        self._expected[learner] += 1
        try:
            yield
        finally:
            self._expected[learner] -= 1
            if not self._expected[learner]:
                del self._expected[learner]
                self._problems.pop(learner, None)
                given = self._given.get(learner)
                if given is not None and given.lesson.sealed is None:
                    self._break(given, "the change of the members was given up")

    def expects(self, learner: ReplicaId) -> bool:
        """May ``learner`` have a lesson?"""
        return learner in self._expected

    async def near(self, learner: ReplicaId) -> None:
        """Return once ``learner`` is near enough to become a member."""
        stirred = asyncio.Event()
        self._watching.append(stirred)
        try:
            while not self._is_near(learner):
                stirred.clear()
                await stirred.wait()
        finally:
            self._watching.remove(stirred)

    def _is_near(self, learner: ReplicaId) -> bool:
        given = self._given.get(learner)
        return given is not None and given.lesson.near

    def account(self, learner: ReplicaId) -> str:
        """How far ``learner`` has come, in words."""
        given = self._given.get(learner)
        if given is None:
            if problem := self._problems.get(learner):
                return f"its last lesson ended early: {problem}"
            return (
                "it never asked for the state: it has to run, to have been started with `join`, and to have this "
                "replica among its members"
            )
        if given.lesson.lag is None:
            return "it is still being sent the snapshot, or is installing it"
        return f"it is {given.lesson.lag} positions behind"

    # ---------------------------------------------------------------------------------------------------- lessons

    def begin(self, learner: ReplicaId, start: int) -> LessonGiven:
        """A snapshot that covers ``start`` is being taken for ``learner``: what is applied from now on it is told.

        A lesson that it had before ends.
        """
        before = self._given.get(learner)
        if before is not None:
            self._break(before, "a new lesson has begun")
        given = self._given[learner] = LessonGiven(self, Lesson(learner, start))
        return given

    def end(self, given: LessonGiven) -> None:
        """The lesson is over, or has come to nothing."""
        learner = given.lesson.learner
        if self._given.get(learner) is given:
            del self._given[learner]
            if learner in self._expected:
                self._problems[learner] = given.lesson.problem or "the connection to it was lost"

    @property
    def active(self) -> bool:
        """Is anybody being taught?"""
        return bool(self._given)

    def delivered(self, deliveries: Sequence[Deliver]) -> None:
        """These have just been applied."""
        for given in self._given.values():
            given.lesson.delivered(deliveries)
            given.stirred.set()

    def sealed(self, sealed: Sealed) -> None:
        """The epoch has ended, and everything before the seal has been applied."""
        for given in self._given.values():
            given.lesson.ended(sealed)
            given.stirred.set()

    def jumped(self) -> None:
        """The state was replaced by that of another: what lies between has not passed here."""
        for given in list(self._given.values()):
            if given.lesson.sealed is None:
                self._break(given, "the teacher fell behind itself and took over the state of another")

    def progressed(self) -> None:
        """A learner has said how far it is."""
        for stirred in self._watching:
            stirred.set()

    def _break(self, given: LessonGiven, why: str) -> None:
        given.lesson.broken(why)
        given.stirred.set()
