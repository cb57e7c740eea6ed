"""Repairs of a guess that the replay did not agree with.

The replay of one part stops at an operation whose answer is not what the table holds. Something of unknown outcome must
have touched the keys concerned before, or something that was guessed to have done so has not: each single change of
that kind makes another guess. Guesses are tried in the order of how far their replay gets, best first, until one gets
through or the allowance is spent. Like all guesses, a repair decides nothing by failing.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, TypeAlias

from .facts import Facts, keys_put, place_of, shown_items
from .models import Entry, Place
from .replay import Gaps, Table
from .vocabulary import Add, Put, Transaction

EVALUATIONS_MAX: Final = 100_000
"""So many operations may be carried out to repair one part."""

GAPS_MAX: Final = 8
"""So many gaps are tried for one operation at one repair, the latest ones."""

Guess: TypeAlias = Mapping[int, Entry]


class Repair:
    """One part under repair."""

    def __init__(self, facts: Facts, gaps: Gaps, *, taken: Collection[int], fixed: Collection[int]) -> None:
        """``taken`` gaps belong to other parts; what stands at ``fixed`` ones is beyond doubt."""
        self._facts = facts
        self._gaps = gaps
        self._taken = taken
        self._fixed = fixed
        self._certain = sorted(
            (
                (place_of(entry), entry.begin, number, entry)
                for number, entry in enumerate(facts.part.entries)
                if entry.certain
            ),
        )
        self._reach: dict[int, frozenset[str]] = {}
        self._spent = 0

    def find(self, start: Guess) -> Guess | None:
        """A guess that the replay agrees with, or None if none was found."""
        waiting: list[tuple[int, int, int, Guess, Entry, Place]] = []
        visited = set()
        fresh: list[Guess] = [dict(start), {gap: entry for gap, entry in start.items() if gap in self._fixed}]
        while self._spent < EVALUATIONS_MAX:
            for guess in fresh:
                name = frozenset((gap, id(entry)) for gap, entry in guess.items())
                if name in visited:
                    continue
                visited.add(name)
                reached, wrong, place = self._replay(guess)
                if wrong is None:
                    return guess
                heapq.heappush(waiting, (-reached, len(guess), len(visited), guess, wrong, place))
            if not waiting:
                return None
            _, _, _, guess, wrong, place = heapq.heappop(waiting)
            fresh = list(self._repairs(guess, wrong, place))
        return None

    def _replay(self, guess: Guess) -> tuple[int, Entry | None, Place]:
        """How many certain entries agree, the first that does not, and its place."""
        table = Table()
        order: list[tuple[Place, int, int, Entry]] = [*self._certain]
        order += [((gap, 0), entry.begin, -1, entry) for gap, entry in guess.items()]
        order.sort(key=lambda each: each[:3])
        agreed = 0
        for place, _, _, entry in order:
            self._spent += 1
            if not table.carry_out(entry, *place):
                return agreed, entry, place
            agreed += entry.certain
        return agreed, None, (0, 0)

    def _repairs(self, guess: Guess, wrong: Entry, place: Place) -> Iterator[Guess]:
        """Guesses that differ in one operation that touches what ``wrong`` looked at."""
        last = place[0] if place[1] else place[0] - 1
        used = {id(entry) for entry in guess.values()}
        unexplained = self._unexplained(guess, wrong)
        keys = self._concerned(guess, wrong)
        for gap, entry in guess.items():
            if gap not in self._fixed and gap <= last and keys & self._keys(entry):
                yield {each: other for each, other in guess.items() if each != gap}
        for entry in self._facts.uncertain:
            if id(entry) in used or entry.floor > last or not keys & self._keys(entry):
                continue
            for gap in unexplained or self._places_for(entry, guess, last):
                if entry.floor <= gap <= last and gap not in guess and gap not in self._taken:
                    yield {**guess, gap: entry}

    def _unexplained(self, guess: Guess, wrong: Entry) -> list[int]:
        """The gaps of which ``wrong`` shows an item, but at which nobody is guessed to have written."""
        if wrong.answer is None:
            return []
        shown = (item.mod for _, item in shown_items(wrong.action, wrong.answer))
        return [mod for mod in shown if mod is not None and mod in self._gaps and mod not in guess]

    def _concerned(self, guess: Guess, wrong: Entry) -> frozenset[str]:
        """The keys that ``wrong`` looked at, and those of guessed operations that may have touched them."""
        keys = self._keys(wrong)
        while True:
            wider = keys.union(*(self._keys(entry) for entry in guess.values() if keys & self._keys(entry)))
            if wider == keys:
                return keys
            keys = wider

    def _places_for(self, entry: Entry, guess: Guess, last: int) -> list[int]:
        """Gaps where ``entry`` may have taken effect: one between any two operations that touch its keys."""
        keys = self._keys(entry)
        borders = sorted(
            {
                place[0]
                for place, _, _, each in self._certain
                if keys & self._keys(each) and entry.floor <= place[0] <= last
            }
            | {gap for gap, each in guess.items() if keys & self._keys(each)}
            | {entry.floor - 1}
        )
        written = _surely_written(entry.action)
        found: list[int] = []
        for index in range(len(borders) - 1, -1, -1):
            end = borders[index + 1] if index + 1 < len(borders) else last
            gap = self._free(max(borders[index] + 1, entry.floor), guess)
            if gap <= end and not any(self._facts.is_quiet(key, gap) for key in written):
                found.append(gap)
                if len(found) == GAPS_MAX:
                    break
        return found

    def _free(self, first: int, guess: Guess) -> int:
        gap = self._gaps.after(first)
        while gap in guess or gap in self._taken:
            gap = self._gaps.after(gap + 1)
        return gap

    def _keys(self, entry: Entry) -> frozenset[str]:
        known = self._reach.get(id(entry))
        if known is None:
            known = self._reach[id(entry)] = self._facts.part.touched(entry)
        return known


def _surely_written(action: Any) -> list[str]:
    """The keys that the action puts whenever it changes anything."""
    if isinstance(action, Put | Add):
        return [action.key]
    if isinstance(action, Transaction) and not action.otherwise:
        return keys_put(action.then)
    return []
