"""The replay: operations carried out in the order of revisions on one table."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from .models import Entry
from .semantics import Item, agrees, evaluate, is_inside
from .vocabulary import JUDGED, Answer


class Gaps:
    """The revisions that no operation of known place claims."""

    def __init__(self, claimed: Iterable[int]) -> None:
        self._claimed = frozenset(claimed)
        self._starts: list[int] = []
        self._ends: list[int] = []  # of rows of claimed revisions
        for revision in sorted(self._claimed):
            if self._ends and self._ends[-1] == revision - 1:
                self._ends[-1] = revision
            else:
                self._starts.append(revision)
                self._ends.append(revision)

    def after(self, first: int) -> int:
        """The first gap that is not before ``first``."""
        index = bisect_right(self._starts, first) - 1
        if index >= 0 and self._ends[index] >= first:
            return self._ends[index] + 1
        return first

    def without(self, claimed: Iterable[int]) -> Gaps:
        """The gaps that are left when these are claimed as well."""
        return Gaps(self._claimed.union(claimed))

    def __contains__(self, revision: int) -> bool:
        return revision > 0 and self.after(revision) == revision


class Table:
    """The one state of the replay."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self._changed: dict[str, int] = {}
        self._known: list[str] = []  # keys that were ever written, in order

    def item(self, key: str) -> Item | None:
        return self.items.get(key)

    def changed(self, first: str, last: str, revision: int) -> bool:
        return any(self._changed[key] > revision for key in self._within(first, last))

    def inside(self, first: str, last: str) -> Iterator[str]:
        return (key for key in self._within(first, last) if key in self.items)

    def _within(self, first: str, last: str) -> Iterator[str]:
        known = self._known
        end = bisect_left(known, last) if last else len(known)
        return (known[index] for index in range(bisect_left(known, first), end) if is_inside(known[index], first, last))

    def write(self, draft: dict[str, Item | None], revision: int) -> None:
        for key, item in draft.items():
            if key not in self._changed:
                insort(self._known, key)
            self._changed[key] = revision
            if item is None:
                self.items.pop(key, None)
            else:
                self.items[key] = item

    def carry_out(self, entry: Entry, revision: int, seen: int) -> bool:
        """Carry ``entry`` out at its place. False, and nothing changed, if it cannot have answered so there."""
        answer: Answer | None = entry.answer
        if answer is not None and answer.failed is not None and answer.failed not in JUDGED:
            return True
        base, own = bases(revision, seen)
        evaluated, draft = evaluate(self, entry.action, base, own)
        if seen:
            right = not draft and (answer is None or agrees(answer, evaluated, entry.action))
        else:
            right = bool(draft) and (answer is None or agrees(answer, evaluated, entry.action))
        if right:
            self.write(draft, own)
        return right


def bases(revision: int, seen: int) -> tuple[int, int]:
    """The revision that an operation at this place finds, and the one that it takes if it changes something."""
    return (revision, revision + 1) if seen else (revision - 1, revision)
