"""The search for a linearization of one part.

Theory of operation
-------------------
J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (1993), with the improvements of G. Lowe, "Testing
for linearizability" (2017): a depth-first search that takes, again and again, an operation that no other outstanding
operation precedes, and steps the model. Invocations and outcomes of what is not yet linearized form a doubly linked
list in the order of time, in which taking an operation and putting it back cost a few assignments; an operation may be
taken if its invocation stands before the first outcome in the list. A *configuration* is the set of operations taken
and the state reached. It is visited once: what follows from it does not depend on how it was reached.

Four things make histories of many operations with unknown outcomes tractable:

* The set is kept as the number of leading operations that have all been taken, and a bitset from there on, which is
  never much wider than the number of clients.
* An operation that is possible now, leaves the state as it is, and would do so anywhere (a read), is taken at once and
  without alternatives: in any linearization that goes on from here it can be moved to the front.
* An operation of unknown outcome is only taken for a reason: what is taken next must come out differently than it would
  have without. Of all linearizations that there are, one with the fewest such operations has this property, since an
  operation without consequences for the next one could be left out. Of several equal ones the earliest is taken first.
  A configuration is passed over if one with the same certain operations, the same state, and a subset of the uncertain
  ones was visited: it could do no more.
* Where the certain operations carry their *place* in the order of revisions, they are taken in that order. Then only
  outcomes stand in the list, and an operation may be taken if it is next and was invoked before the first of them.

Taking uncertain operations only when nothing certain is left to try is a heuristic and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from .models import NEVER, Entry, Part, State, Step
from .verdict import Budget, Verdict

CLOCK_STATES: Final = 256
"""The clock is read once in so many states."""


class Spent(msgspec.Struct):
    """What searches have spent so far. ``clock`` is read only if the budget limits seconds."""

    budget: Budget
    clock: Callable[[], float]
    states: int = 0
    started: float = 0.0

    def __post_init__(self) -> None:
        if self.budget.seconds is not None:
            self.started = self.clock()

    @property
    def late(self) -> bool:
        """Has the time run out?"""
        return self.budget.seconds is not None and self.clock() - self.started > self.budget.seconds


class Found(msgspec.Struct, frozen=True):
    """What a search came to."""

    verdict: Verdict
    order: tuple[Step, ...]
    """The linearization; of a violation, the longest."""
    stuck: Entry | None = None
    """The operation that stands in the way of going on from the longest one."""
    state: State = None
    """The state after the longest one."""


class _Chain:
    """A linearization, last operation first, shared among all that begin alike."""

    __slots__ = ("before", "entry", "state")

    def __init__(self, before: _Chain | None, entry: Entry, state: State) -> None:
        self.before = before
        self.entry = entry
        self.state = state


def _steps(chain: _Chain | None) -> tuple[Step, ...]:
    found: list[Step] = []
    while chain is not None:
        found.append((chain.entry, chain.state))
        chain = chain.before
    return tuple(reversed(found))


class Search:
    """One part being searched."""

    def __init__(self, part: Part) -> None:
        self._part = part
        certain = [entry for entry in part.entries if entry.certain]
        self._places = [entry.place for entry in certain if entry.place is not None]
        self._placed = bool(certain) and len(self._places) == len(certain)
        if self._placed:
            certain.sort(key=lambda entry: (entry.place, entry.begin))
            self._places.sort()
        else:
            certain.sort(key=_begin_of)
        self._certain = certain
        self._uncertain = sorted((entry for entry in part.entries if not entry.certain), key=_begin_of)
        self._link()
        self._pair_twins()

    def _link(self) -> None:
        """Node 0 is the head; the invocation of certain entry i is node 2i+1, its outcome 2i+2."""
        nodes: list[tuple[int, int]] = []
        for index, entry in enumerate(self._certain):
            if not self._placed:
                nodes.append((entry.begin, 2 * index + 1))
            # Outcomes that never came stand at the end, one behind the other.
            nodes.append((entry.end + index if entry.end == NEVER else entry.end, 2 * index + 2))
        nodes.sort()
        size = 2 * len(self._certain) + 1
        self._after = [0] * size
        self._before = [0] * size
        previous = 0
        for _, node in nodes:
            self._after[previous] = node
            self._before[node] = previous
            previous = node
        self._after[previous] = 0
        self._before[0] = previous

    def _pair_twins(self) -> None:
        """For each uncertain entry, the equal one invoked before it, which is to be taken first; -1 for none."""
        latest: dict[Any, int] = {}
        self._twin: list[int] = []
        for index, entry in enumerate(self._uncertain):
            self._twin.append(latest.get(entry.action, -1))
            latest[entry.action] = index

        self._givers: dict[Any, list[int]] = {}
        if self._part.indexed:
            for index, entry in enumerate(self._uncertain):
                self._givers.setdefault(self._part.gives(entry), []).append(index)

    def run(self, allowance: int, spent: Spent) -> Found:
        """Search, exploring at most ``allowance`` states and within the budget's time."""
        part = self._part
        certain = self._certain
        after, before = self._after, self._before
        lists = 1 if self._placed else 2  # nodes of an entry that stand in the list: its outcome, or both
        left = len(certain)
        base = 0
        done = 0
        used = 0
        state: Any = part.initial
        previous: Any = None  # the state before the last entry, if that was an uncertain one
        chain: _Chain | None = None
        seen: dict[tuple[int, int, Any], int | list[int]] = {}
        stack: list[tuple[Any, ...]] = []
        best: tuple[_Chain | None, Entry, Any] | None = None
        best_left = left + 1
        explored = 0
        candidates = self._candidates(state, previous, base, done, used)
        while left:
            chosen = next(candidates, None)
            if chosen is None:
                if left < best_left:
                    best_left = left
                    best = (chain, certain[self._blocking()], state)
                if not stack:
                    assert best is not None
                    spent.states += explored
                    longest, stuck, reached = best
                    return Found(Verdict.VIOLATION, _steps(longest), stuck, reached)
                candidates, node, base, done, used, state, previous, chain = stack.pop()
                if node:
                    left += 1
                    for each in (node, node + 1)[-lists:]:
                        after[before[each]] = each
                        before[after[each]] = each
                continue
            index, is_certain, new = chosen
            if is_certain:
                new_done = done | 1 << (index - base)
                whole = (~new_done & (new_done + 1)).bit_length() - 1  # how many ones it ends with
                new_base, new_done = base + whole, new_done >> whole
                new_used = used
            else:
                new_base, new_done = base, done
                new_used = used | 1 << index
            key = (new_base, new_done, new)
            visited = seen.get(key)
            if visited is None:
                seen[key] = new_used
            elif isinstance(visited, int):
                if visited & new_used == visited:
                    continue
                seen[key] = [visited, new_used]
            else:
                if any(each & new_used == each for each in visited):
                    continue
                visited.append(new_used)
            explored += 1
            if explored > allowance or (not explored % CLOCK_STATES and spent.late):
                spent.states += explored
                return Found(Verdict.UNKNOWN, ())
            node = 2 * index + 1 if is_certain else 0
            stack.append((candidates, node, base, done, used, state, previous, chain))
            if is_certain:
                entry = certain[index]
                left -= 1
                for each in (node + 1, node)[:lists]:
                    after[before[each]] = after[each]
                    before[after[each]] = before[each]
                previous = None
            else:
                entry = self._uncertain[index]
                previous = state
            base, done, used, state = new_base, new_done, new_used, new
            chain = _Chain(chain, entry, new)
            candidates = self._candidates(state, previous, base, done, used)
        spent.states += explored
        return Found(Verdict.OK, _steps(chain))

    def _blocking(self) -> int:
        """The certain entry whose outcome comes first among those that are left."""
        node = self._after[0]
        while node & 1:
            node = self._after[node]
        return (node - 2) >> 1

    def _candidates(
        self, state: Any, previous: Any, base: int, done: int, used: int
    ) -> Iterator[tuple[int, bool, Any]]:
        """What may be taken next: index, whether it is a certain one, and the state after it.

        The linked list must be as it was at the beginning whenever the iterator is resumed, and is: what was taken
        since has been put back.
        """
        step = self._part.step
        certain = self._certain
        available: list[tuple[int, Any]] = []
        possible: list[tuple[int, bool, Any]] = []
        first_outcome = certain[self._blocking()].end
        for index in self._next_by_place(base, done, first_outcome) if self._placed else self._next_by_time():
            entry = certain[index]
            new = step(state, entry)
            available.append((index, new))
            if new is not None and (previous is None or step(previous, entry) != new):
                if entry.passive and new == state:
                    yield index, True, new
                    return
                possible.append((index, True, new))
        yield from possible
        if self._uncertain and available:
            yield from self._uncertain_candidates(state, previous, used, available, first_outcome)

    def _next_by_time(self) -> Iterator[int]:
        """The certain entries that were invoked before the first outcome."""
        after = self._after
        node = after[0]
        while node & 1:
            yield node >> 1
            node = after[node]

    def _next_by_place(self, base: int, done: int, first_outcome: int) -> Iterator[int]:
        """Those of them that share the first place that is left."""
        places, certain = self._places, self._certain
        place = places[base]
        index = base
        while index < len(places) and places[index] == place:
            if not done >> (index - base) & 1 and certain[index].begin < first_outcome:
                yield index
            index += 1

    def _uncertain_candidates(
        self, state: Any, previous: Any, used: int, available: list[tuple[int, Any]], first_outcome: int
    ) -> Iterator[tuple[int, bool, Any]]:
        part = self._part
        certain = self._certain
        ahead = certain[available[0][0]]
        for index in self._useful(available):
            entry = self._uncertain[index]
            if entry.begin >= first_outcome:
                if part.indexed:
                    continue
                return
            if used >> index & 1 or (self._twin[index] >= 0 and not used >> self._twin[index] & 1):
                continue
            without = None if previous is None else tuple(part.effects(previous, entry, ahead))
            for new in part.effects(state, entry, ahead):
                if new != state and (without is None or new not in without):
                    yield index, False, new

    def _useful(self, available: list[tuple[int, Any]]) -> Iterable[int]:
        """Uncertain entries that might make one of the available possible which is not (its state is None)."""
        part = self._part
        if not part.indexed:
            return range(len(self._uncertain))
        needs = [part.needs(self._certain[index]) for index, after in available if after is None]
        return [index for need in dict.fromkeys(needs) for index in self._givers.get(need, ())]


def _begin_of(entry: Entry) -> int:
    return entry.begin
