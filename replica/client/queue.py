"""Operations that wait for their turn to be sent, with deadlines that cost nothing an operation.

Deadlines are kept by *mark*: the first operation of a mark writes down the deadline, and those that follow with the
same timeout within the same tick of the clock share it. So a queue of thousands holds a handful of marks.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

NO_TIMEOUT: Final = -1.0
"""No operation has this timeout: a queue whose mark has it begins a new mark with the next operation."""


class Batch(Generic[T]):
    """Operations taken together. A token is None once its operation has been settled."""

    __slots__ = ("marks", "operations", "tokens")

    def __init__(self, operations: list[Any], tokens: list[T | None], marks: list[tuple[int, float]]) -> None:
        self.operations = operations
        self.tokens = tokens
        self.marks = marks
        """Where a deadline begins to hold, and the deadline."""


class Queue(Generic[T]):
    """First in, first out. `add` is the one function here that runs once an operation."""

    __slots__ = ("_mark_timeout_s", "_marks", "now", "operations", "tokens")

    def __init__(self) -> None:
        self.operations: list[Any] = []
        self.tokens: list[T | None] = []
        self.now = 0.0
        self._marks: list[tuple[int, float]] = []
        self._mark_timeout_s = NO_TIMEOUT

    def __len__(self) -> int:
        return len(self.operations)

    def tick(self, now: float) -> None:
        """Operations added from now on count their timeout from ``now``."""
        self.now = now
        self._mark_timeout_s = NO_TIMEOUT

    def add(self, operation: Any, token: T, timeout_s: float) -> None:
        """Append an operation that must be settled ``timeout_s`` after the last `tick`."""
        if timeout_s != self._mark_timeout_s:
            self._mark_timeout_s = timeout_s
            self._marks.append((len(self.operations), self.now + timeout_s))
        self.operations.append(operation)
        self.tokens.append(token)

    def take(self, count: int) -> Batch[T]:
        """Remove and return up to ``count`` operations from the front."""
        if count >= len(self.operations):
            batch = Batch(self.operations, self.tokens, self._marks)
            self.operations, self.tokens, self._marks = [], [], []
            self._mark_timeout_s = NO_TIMEOUT
            return batch
        marks, rest = split_marks(self._marks, count)
        batch = Batch(self.operations[:count], self.tokens[:count], marks)
        self.operations, self.tokens, self._marks = self.operations[count:], self.tokens[count:], rest
        return batch

    def put_back(self, batch: Batch[T]) -> None:
        """Undo a `take`: ``batch`` goes to the front again."""
        taken = len(batch.operations)
        self._marks = batch.marks + [(taken + start, deadline) for start, deadline in self._marks]
        self.operations = batch.operations + self.operations
        self.tokens = batch.tokens + self.tokens

    def remove_expired(self, now: float) -> list[T]:
        """Remove what is past its deadline and return the tokens."""
        if not any(deadline <= now for _, deadline in self._marks):
            return []
        batch = self.take(len(self.operations))
        expired: list[T] = []
        for start, end, deadline in spans(batch.marks, len(batch.operations)):
            if deadline <= now:
                expired += [token for token in batch.tokens[start:end] if token is not None]
                continue
            self._marks.append((len(self.operations), deadline))
            self.operations += batch.operations[start:end]
            self.tokens += batch.tokens[start:end]
        return expired

    def clear(self) -> list[T]:
        """Remove everything and return the tokens."""
        return [token for token in self.take(len(self.operations)).tokens if token is not None]


def spans(marks: list[tuple[int, float]], count: int) -> list[tuple[int, int, float]]:
    """Marks of ``count`` operations as (start, end, deadline)."""
    ends = [start for start, _ in marks[1:]] + [count] if marks else []
    return [(start, end, deadline) for (start, deadline), end in zip(marks, ends, strict=True)]


def split_marks(marks: list[tuple[int, float]], index: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The marks of the operations before ``index`` and of those from there on (counted from 0 again)."""
    before = [mark for mark in marks if mark[0] < index]
    behind = [(start - index, deadline) for start, deadline in marks if start >= index]
    if before and (not behind or behind[0][0] > 0):
        behind.insert(0, (0, before[-1][1]))
    return before, behind
