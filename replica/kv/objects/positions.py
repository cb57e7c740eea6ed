"""Which positions of an object have been applied: all up to a frontier, and single stretches above it."""

from __future__ import annotations

from bisect import bisect_right

import msgspec


class Positions(msgspec.Struct, array_like=True):
    """A set of positions from 1 on. ``above`` are disjoint closed stretches behind a gap, ascending."""

    frontier: int = 0
    above: list[tuple[int, int]] = []

    def holds(self, position: int) -> bool:
        """Is the position in the set?"""
        if position <= self.frontier:
            return True
        index = bisect_right(self.above, position, key=_first) - 1
        return index >= 0 and position <= self.above[index][1]

    def add(self, position: int) -> None:
        """Add a position that is not in the set."""
        above = self.above
        if position == self.frontier + 1:
            self.frontier = position
            if above and above[0][0] == position + 1:
                self.frontier = above.pop(0)[1]
            return
        index = bisect_right(above, position, key=_first)
        first = last = position
        if index < len(above) and above[index][0] == position + 1:
            last = above.pop(index)[1]
        if index and above[index - 1][1] == position - 1:
            index -= 1
            first = above.pop(index)[0]
        above.insert(index, (first, last))

    def raise_to(self, frontier: int) -> None:
        """Add everything up to ``frontier``."""
        if frontier <= self.frontier:
            return
        self.frontier = frontier
        while self.above and self.above[0][0] <= self.frontier + 1:
            self.frontier = max(self.frontier, self.above.pop(0)[1])


def _first(stretch: tuple[int, int]) -> int:
    return stretch[0]
