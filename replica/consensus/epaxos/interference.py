"""Which commands interfere, and what a new one must come after.

Two commands interfere when one writes what the other reads or writes; two reads never do. `Touch` is what a batch
touches, the union over its commands. Most touch single keys; one with intervals is *wide*, as is a command without a
footprint, which is taken to write everything.

`Conflicts` remembers for each key and each space the highest instance that writes it and the highest that reads it, and
so answers what a new command depends on. It may say too much (a dependency is on everything in a space up to a number,
and a wide command is compared with the highest instance of all), which costs a fast path and never safety. Keys are
forgotten by generations: while the young one fills the old one stands, until everything in it has been executed
everywhere, or until there are ``KEYS_MAX`` keys beside it. What is forgotten by key becomes part of the *floor*: from
then on every command depends on it. That costs nothing where it has been executed, since what a leader proposes comes
after that anyway; but a command that its leader proposed before may arrive late, and must not be taken for one that
met nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from replica.consensus.interface import Command

KEYS_MAX: Final = 1 << 20
"""Keys in a generation."""

YOUNG_MIN: Final = 1024
"""A young generation with fewer keys is left to grow."""

_EVERYTHING: Final = ((b"", b""),)


class Touch:
    """What a batch touches. Dicts serve as ordered sets, so that runs replay."""

    __slots__ = ("writes", "reads", "ranges", "written_ranges")

    def __init__(
        self,
        writes: dict[bytes, None],
        reads: dict[bytes, None],
        ranges: tuple[tuple[bytes, bytes], ...] = (),
        written_ranges: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """``reads``: keys that are read and not written."""
        self.writes = writes
        self.reads = reads
        self.ranges = ranges
        self.written_ranges = written_ranges

    @property
    def wide(self) -> bool:
        """Does it touch intervals?"""
        return bool(self.ranges or self.written_ranges)

    def interferes(self, other: Touch) -> bool:
        """Exactly: does one write what the other reads or writes?"""
        if (
            not self.writes.keys().isdisjoint(other.writes)
            or not self.writes.keys().isdisjoint(other.reads)
            or not self.reads.keys().isdisjoint(other.writes)
        ):
            return True
        if not (self.ranges or self.written_ranges or other.ranges or other.written_ranges):
            return False
        return (
            _hits(self.written_ranges, other.writes, other.reads)
            or _hits(other.written_ranges, self.writes, self.reads)
            or _hits(self.ranges, other.writes)
            or _hits(other.ranges, self.writes)
            or _overlap(self.written_ranges, other.written_ranges)
            or _overlap(self.written_ranges, other.ranges)
            or _overlap(self.ranges, other.written_ranges)
        )


NOTHING: Final = Touch({}, {})
"""What a no-op touches."""


def touch_of(commands: Iterable[Command]) -> Touch:
    """The union over the commands."""
    writes: dict[bytes, None] = {}
    reads: dict[bytes, None] = {}
    ranges: dict[tuple[bytes, bytes], None] = {}
    written: dict[tuple[bytes, bytes], None] = {}
    for command in commands:
        footprint = command.footprint
        if footprint is None:
            written[b"", b""] = None
            continue
        for key in footprint.writes:
            writes[key] = None
        for key in footprint.reads:
            reads[key] = None
        for interval in footprint.ranges:
            ranges[interval] = None
        for interval in footprint.written_ranges:
            written[interval] = None
    for key in writes:
        reads.pop(key, None)
    return Touch(writes, reads, tuple(ranges), tuple(written))


def _hits(intervals: Iterable[tuple[bytes, bytes]], *keys: Iterable[bytes]) -> bool:
    return any(
        first <= key and (not last or key < last) for first, last in intervals for group in keys for key in group
    )


def _overlap(ours: Sequence[tuple[bytes, bytes]], theirs: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(
        (not last or other_first < last) and (not other_last or first < other_last)
        for first, last in ours
        for other_first, other_last in theirs
    )


class Conflicts:
    """The highest instances by key, for ``spaces`` spaces. Positions in lists are ranks of members."""

    def __init__(self, spaces: int) -> None:
        self._n = spaces
        self.floor = [0] * spaces
        """Everything up to here every command depends on."""
        self._young: dict[bytes, list[int]] = {}
        self._old: dict[bytes, list[int]] = {}
        self._young_top = [0] * spaces
        self._old_top = [0] * spaces
        self._wide_reads = [0] * spaces
        self._wide_writes = [0] * spaces
        self._any_reads = [0] * spaces
        self._any_writes = [0] * spaces

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, rank: int, number: int, touch: Touch) -> None:
        """An instance with that touch is known."""
        n, young = self._n, self._young
        for key in touch.writes:
            entry = young.get(key)
            if entry is None:
                young[key] = entry = [0] * (2 * n)
            entry[rank] = max(entry[rank], number)
        for key in touch.reads:
            entry = young.get(key)
            if entry is None:
                young[key] = entry = [0] * (2 * n)
            entry[n + rank] = max(entry[n + rank], number)
        self._young_top[rank] = max(self._young_top[rank], number)
        for tops, concerned in (
            (self._any_writes, touch.writes or touch.written_ranges),
            (self._any_reads, touch.reads or touch.ranges),
            (self._wide_writes, touch.written_ranges),
            (self._wide_reads, touch.ranges),
        ):
            if concerned and number > tops[rank]:
                tops[rank] = number

    def collect(self, touch: Touch, dependencies: list[int]) -> None:
        """Raise ``dependencies`` to cover what is known to interfere with ``touch``."""
        n = self._n
        raise_to(dependencies, self.floor)
        if touch.writes or touch.written_ranges:
            raise_to(dependencies, self._wide_reads)
            raise_to(dependencies, self._wide_writes)
        elif touch.reads or touch.ranges:
            raise_to(dependencies, self._wide_writes)
        if touch.ranges:
            raise_to(dependencies, self._any_writes)
        if touch.written_ranges:
            raise_to(dependencies, self._any_writes)
            raise_to(dependencies, self._any_reads)
        for generation in (self._young, self._old):
            if not generation:
                continue
            find = generation.get
            for key in touch.writes:
                entry = find(key)
                if entry is not None:
                    for rank in range(n):
                        dependencies[rank] = max(dependencies[rank], entry[rank])
                        dependencies[rank] = max(dependencies[rank], entry[n + rank])
            for key in touch.reads:
                entry = find(key)
                if entry is not None:
                    for rank in range(n):
                        dependencies[rank] = max(dependencies[rank], entry[rank])

    def raise_floor(self, numbers: Sequence[int]) -> None:
        """From now on every command depends on everything up to ``numbers``."""
        raise_to(self.floor, numbers)

    def forget(self, everywhere: Sequence[int]) -> None:
        """Everything up to ``everywhere`` has been executed by all replicas."""
        full = len(self._young) >= KEYS_MAX
        if self._old and (full or all(top <= done for top, done in zip(self._old_top, everywhere, strict=True))):
            self.raise_floor(self._old_top)
            self._old = {}
            self._old_top = [0] * self._n
        if not self._old and len(self._young) >= YOUNG_MIN:
            self._old, self._old_top = self._young, self._young_top
            self._young, self._young_top = {}, [0] * self._n


def raise_to(numbers: list[int], to: Sequence[int]) -> None:
    """Raise each of ``numbers`` to the one in its place, where that is higher."""
    for rank, number in enumerate(to):
        numbers[rank] = max(numbers[rank], number)
