"""The tail of a log: what is kept behind a snapshot, so that a replica that lags a little need not fetch one.

Bounded by slots and by bytes. The bytes of a slot are known as far as it was delivered since the start; what was
delivered before that counts by slots alone.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol


class TailBounds(Protocol):
    """The options that bound a tail."""

    @property
    def tail_slots(self) -> int: ...

    @property
    def tail_bytes_max(self) -> int: ...


class Tail:
    """How much lies behind each slot that was delivered lately."""

    def __init__(self, options: TailBounds) -> None:
        self._options = options
        self._marks: deque[tuple[int, int]] = deque()
        """How the bytes delivered since the start add up: (last slot, bytes up to it), once a turn."""
        self._bytes = 0

    def delivered(self, last: int, size: int) -> None:
        """``size`` bytes of values have been delivered, up to slot ``last``."""
        self._bytes += size
        self._marks.append((last, self._bytes))
        if len(self._marks) > self._options.tail_slots + 1:
            self._marks.popleft()

    def floor(self, frontier: int) -> int:
        """Up to which slot to discard, now that a snapshot covers ``frontier``."""
        options = self._options
        floor = frontier - options.tail_slots
        over = False
        for slot, size in self._marks:
            behind = self._bytes - size
            if over or behind > options.tail_bytes_max:
                over = True
                floor = max(floor, min(slot, frontier))
            if behind <= options.tail_bytes_max:
                break
        return floor

    def clear(self) -> None:
        """The state was replaced."""
        self._marks.clear()
