"""The order of revisions as a witness: a whole history judged without a search.

Theory of operation
-------------------
Under a total order every answer carries the revision at which its operation took effect: the order is known and only
has to be held against what was seen, in O(n log n).

1. *Real time.* An operation that began after another had ended must stand behind it. One sweep over all invocations and
   outcomes compares each with the furthest place that had been reached before.
2. *Replay.* All operations are carried out in the order of their places on one table, and what they answered is
   compared with what the table answers.

Operations of unknown outcome are in the way. Where somebody saw what one wrote, with the revision, that settles where
it took effect; where versions jump, somebody unseen must have written in between. `Witness` settles what it can in
these two ways and supposes that the others never took effect. If the replay agrees, a linearization has been *found*,
however it was guessed, and the verdict is ok. Where it does not agree, the keys concerned are left to the search; if no
operation of unknown outcome could have touched them, that is a violation.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from .models import NEVER, Entry, Examined, Part, Place, Step
from .semantics import Item, agrees, evaluate, is_inside
from .verdict import Violation
from .vocabulary import JUDGED, Add, Answer, Compact, Get, Put, Range, RecordedItem, Transaction, items_of, parts_of

GUESSES_MAX: Final = 16
"""So often the witness tries to explain all missing writes together before it leaves keys to the search."""


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


class _Table:
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


class Witness:
    """One history under examination."""

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        timed: Sequence[Entry],
        compactions: Sequence[Entry],
        gaps: Gaps,
        explain: Callable[[Any, Entry, int, int], str],
    ) -> None:
        """``timed`` are the entries whose places must agree with real time."""
        self._parts = parts
        self._timed = timed
        self._compactions = compactions
        self._gaps = gaps
        self._explain = explain
        self._supposed: dict[int, tuple[Part, Entry]] = {}
        """Gaps, and what is supposed to have taken effect there."""
        self._forced: dict[int, Entry] = {}
        """Those among them that can have been written by nobody else."""

    def examine(self, replay: bool) -> Examined:
        """Judge everything that can be judged without a search; without ``replay``, real time only."""
        violation = self._real_time() or self._compaction()
        if violation is not None or not replay:
            return Examined(violation=violation, parts=self._parts)
        violation = self._suppose()
        if violation is not None:
            return Examined(violation=violation)
        return self._replay()

    def conflict(self, orders: Sequence[Sequence[Step]]) -> str | None:
        """Parts were searched one by one: do two of them claim the same revision? Then nothing has been shown."""
        searched = {id(entry) for order in orders for entry, _ in order}
        claims = {
            gap for gap, (part, _) in self._supposed.items() if not any(id(entry) in searched for entry in part.entries)
        }
        for order in orders:
            for entry, state in order:
                if entry.certain:
                    continue
                gap: int = getattr(state, "revision")  # noqa: B009 - states of these parts have one
                if gap in claims:
                    return f"every part has a linearization, but two of them need revision {gap} for themselves"
                claims.add(gap)
        return None

    # ---------------------------------------------------------------------------------------------------- real time

    def _real_time(self) -> Violation | None:
        claimed: dict[int, Entry] = {}
        moments: list[tuple[int, bool, int]] = []
        for index, entry in enumerate(self._timed):
            assert entry.place is not None
            if entry.place[1] == 0:
                first = claimed.setdefault(entry.place[0], entry)
                if first is not entry:
                    return self._pair(
                        entry, first, f"both made revision {entry.place[0]}, and a revision has one operation only"
                    )
            moments.append((entry.begin, True, index))
            if entry.end != NEVER:
                moments.append((entry.end, False, index))
        moments.sort()
        furthest: Place = (0, 0)
        reached: Entry | None = None
        for _, begins, index in moments:
            entry = self._timed[index]
            place = entry.place
            assert place is not None
            if not begins:
                if place > furthest:
                    furthest, reached = place, entry
            elif reached is not None and place < furthest:
                return self._pair(
                    entry,
                    reached,
                    f"it was invoked after {reached.operation} (operation {reached.operation.id}) had ended, but "
                    f"stands at revision {place[0]} and that one at {furthest[0]}",
                )
        return None

    def _compaction(self) -> Violation | None:
        """What was compacted before a read began cannot be read; what nobody has compacted must not be refused."""
        ended = sorted((entry.end, _line(entry), entry) for entry in self._compactions if entry.answer is not None)
        lines: list[tuple[int, Entry]] = []  # the line after each compaction that ended, and who drew it
        for _, line, entry in ended:
            lines.append(max(lines[-1], (line, entry), key=_first) if lines else (line, entry))
        asked = sorted((entry.begin, _line(entry)) for entry in self._compactions)
        highest: list[int] = []
        for _, line in asked:
            highest.append(max(highest[-1], line) if highest else line)
        for entry in self._timed:
            answer: Answer | None = entry.answer
            action = entry.action
            if not isinstance(action, Get | Range) or not action.revision or answer is None:
                continue
            if answer.failed == "compacted":
                before = bisect_left(asked, (entry.end, 0))
                if not before or highest[before - 1] <= action.revision:
                    return _alone(entry, "it was refused as compacted, but nobody had compacted so far")
            elif answer.failed is None:
                before = bisect_left(ended, entry.begin, key=_first)
                if before and lines[before - 1][0] > action.revision:
                    line, by = lines[before - 1]
                    return self._pair(
                        entry, by, f"it reads at revision {action.revision}, which was compacted before ({line})"
                    )
        return None

    def _pair(self, entry: Entry, other: Entry, reason: str) -> Violation:
        """Two operations disagree; concerned is whatever was under way meanwhile."""
        first, last = min(entry.begin, other.begin), max(entry.end, other.end)
        concerned = [each for each in self._timed if each.begin <= last and each.end >= first]
        # What had begun before agrees with time, as far as it stands before the other one.
        before = sorted(
            (each for each in self._timed if each.begin < entry.begin and _place_of(each) <= _place_of(other)),
            key=_place_of,
        )
        return Violation(
            where="the order of revisions",
            reason=f"{entry.operation} is out of order: {reason}",
            stuck=entry.operation.id,
            prefix=tuple(each.operation.id for each in before),
            related=(other.operation.id,),
            concerned=tuple(each.operation.id for each in concerned),
        )

    # ----------------------------------------------------------------------------------------------------- supposing

    def _suppose(self) -> Violation | None:
        """Give operations of unknown outcome the gaps at which they must have taken effect.

        Finds what no guess could explain on the way: an item that nobody can have written, or that was out of date.
        """
        open_parts = []
        for part in self._parts:
            facts = _Facts(part, self._gaps)
            if (violation := facts.contradiction()) is not None:
                return violation
            if facts.uncertain:
                if (violation := self._pin(facts)) is not None:
                    return violation
                open_parts.append(facts)
        draw = random.Random(0)
        best: list[tuple[int, _Job]] = []
        fewest: int | None = None
        for attempt in range(GUESSES_MAX):
            eagerness = (0.0, 1.0)[attempt] if attempt < 2 else draw.random()
            jobs: list[_Job] = []
            unmet = 0
            for facts in open_parts:
                unmet += self._jobs(facts, jobs, draw, eagerness)
            plan = self._schedule(jobs)
            unmet += len(jobs) - len(plan)
            if fewest is None or unmet < fewest:
                fewest, best = unmet, plan
            if not unmet:
                break
        for gap, job in best:
            self._settle(job.facts, gap, job.entry)
        return None

    def _pin(self, facts: _Facts) -> Violation | None:
        """What somebody saw was written by somebody; those who are known by what they wrote come first."""
        loose: list[int] = []
        for gap, pin in sorted(facts.pins.items()):
            candidates = facts.candidates(pin)
            count = bisect_right(candidates, gap, key=_floor_of)
            if not count:
                return facts.unwritten(gap, pin)
            if count == 1:
                self._forced[gap] = candidates[0]
                self._settle(facts, gap, candidates[0])
            elif all(item.value is not None for item in pin.items.values()):
                self._settle_latest(facts, gap, candidates[:count])
            else:
                loose.append(gap)
        for gap in loose:
            candidates = facts.candidates(facts.pins[gap])
            self._settle_latest(facts, gap, candidates[: bisect_right(candidates, gap, key=_floor_of)])
        return None

    def _settle_latest(self, facts: _Facts, gap: int, candidates: Sequence[Entry]) -> None:
        """The candidate that was invoked last: others may be needed at an earlier gap."""
        for entry in reversed(candidates):
            if id(entry) not in facts.settled:
                self._settle(facts, gap, entry)
                return

    def _settle(self, facts: _Facts, gap: int, entry: Entry) -> None:
        if gap not in self._supposed:
            facts.settle(gap, entry)
            self._supposed[gap] = (facts.part, entry)

    def _jobs(self, facts: _Facts, jobs: list[_Job], draw: random.Random, eagerness: float) -> int:
        """Where versions jump by more than the known writes, unseen ones must have come in between.

        Puts serve in the order of their floors; where there are too few of them, or with the probability ``eagerness``,
        transactions without conditions whose keys all jump there. Adds to ``jobs``; returns how many writes are still
        missing.
        """
        jumps = facts.jumps()
        puts: dict[str, list[Entry]] = defaultdict(list)
        transactions: dict[str, list[Entry]] = defaultdict(list)
        for entry in facts.uncertain:
            if id(entry) in facts.settled:
                continue
            action = entry.action
            if isinstance(action, Put) and action.if_revision is None:
                puts[action.key].append(entry)
            elif isinstance(action, Transaction) and not action.conditions:
                keys = _keys_put(action.then)
                if len(keys) == len(set(keys)):
                    for key in keys:
                        transactions[key].append(entry)
        used: set[int] = set()
        for key, key_jumps in jumps.items():
            served = 0
            for jump in key_jumps:
                free = bisect_left(puts[key], jump.last, key=_floor_of) - served
                for entry in transactions[key]:
                    if jump.missing <= (0 if draw.random() < eagerness else free):
                        break
                    if id(entry) not in used:
                        others = [jumps.get(each, []) for each in _keys_put(entry.action.then) if each != key]
                        chosen = _common_window([[jump], *others], entry.floor)
                        if chosen is not None:
                            used.add(id(entry))
                            jobs.append(_Job(*_window(chosen, entry.floor), facts, entry))
                            for each in chosen:
                                each.missing -= 1
                served += min(free, jump.missing)
        unmet = 0
        for key, key_jumps in jumps.items():
            servants = deque(puts[key])
            for jump in key_jumps:
                for _ in range(jump.missing):
                    if not servants or servants[0].floor >= jump.last:
                        unmet += 1
                        continue
                    servant = servants.popleft()
                    jobs.append(_Job(max(jump.first + 1, servant.floor), jump.last - 1, facts, servant))
        return unmet

    def _schedule(self, jobs: list[_Job]) -> list[tuple[int, _Job]]:
        """Each job takes one gap between its bounds; the one with the earliest bound goes first.

        For jobs of unit length that finds a schedule if there is one. What is too late for its bound is left out, and
        the replay will disagree.
        """
        jobs.sort(key=lambda job: job.release)
        plan: list[tuple[int, _Job]] = []
        ready: list[tuple[int, int, _Job]] = []
        gap = index = 0
        while index < len(jobs) or ready:
            if not ready:
                gap = max(gap, jobs[index].release)
            gap = self._gaps.after(gap)
            while gap in self._supposed:
                gap = self._gaps.after(gap + 1)
            while index < len(jobs) and jobs[index].release <= gap:
                heapq.heappush(ready, (jobs[index].bound, index, jobs[index]))
                index += 1
            while ready and ready[0][0] < gap:
                heapq.heappop(ready)
            if ready:
                _, _, job = heapq.heappop(ready)
                plan.append((gap, job))
                gap += 1
        return plan

    # ------------------------------------------------------------------------------------------------------ replaying

    def _replay(self) -> Examined:
        order: list[tuple[int, int, int, int, Entry, Part]] = []
        for part in self._parts:
            for entry in part.entries:
                if entry.certain:
                    assert entry.place is not None
                    order.append((*entry.place, entry.begin, len(order), entry, part))
        for gap, (part, entry) in self._supposed.items():
            order.append((gap, 0, entry.begin, len(order), entry, part))
        order.sort()
        table = _Table()
        wrong: dict[int, Violation] = {}
        suspects: list[Part] = []
        done: dict[int, list[int]] = defaultdict(list)
        for revision, seen, _, _, entry, part in order:
            if id(part) in wrong:
                continue
            base, own = (revision, revision + 1) if seen else (revision - 1, revision)
            answer: Answer | None = entry.answer
            if answer is None or answer.failed is None or answer.failed in JUDGED:
                evaluated, draft = evaluate(table, entry.action, base, own)
                if draft if seen else not draft:
                    right = False
                else:
                    right = answer is None or agrees(answer, evaluated, entry.action)
                if not right:
                    wrong[id(part)] = Violation(
                        where=part.label,
                        reason=f"{entry.operation} cannot have taken effect at revision {revision}: "
                        + self._explain(table, entry, base, own),
                        stuck=entry.operation.id,
                        prefix=tuple(done[id(part)]),
                        concerned=tuple(each.operation.id for each in part.near(entry)),
                    )
                    suspects.append(part)
                    continue
                table.write(draft, own)
            done[id(part)].append(entry.operation.id)
        for part in suspects:
            if all(entry.certain for entry in part.entries):
                return Examined(violation=wrong[id(part)])
        return Examined(parts=[self._narrowed(part) for part in suspects])

    def _narrowed(self, part: Part) -> Part:
        """The part with what is forced made certain, so that the search need not find it out again."""
        forced = {id(entry): gap for gap, entry in self._forced.items()}
        entries = []
        for entry in part.entries:
            if id(entry) in forced:
                entries.append(
                    Entry(
                        entry.operation,
                        entry.action,
                        None,
                        begin=entry.begin,
                        end=NEVER,
                        certain=True,
                        place=(forced[id(entry)], 0),
                    )
                )
            else:
                entries.append(entry)
        return part.narrowed(entries)


class _Pin(msgspec.Struct, frozen=True):
    """Items that were seen to have been written at one revision."""

    items: dict[str, RecordedItem]
    seen_by: Entry


class _Jump(msgspec.Struct):
    """Between two revisions, so many writes of a key are missing that its versions count."""

    first: int
    last: int
    missing: int


class _Job(msgspec.Struct, frozen=True):
    """An operation that must take effect at some gap between two revisions, both included."""

    release: int
    bound: int
    facts: _Facts
    entry: Entry


class _Facts:
    """What the answers of one part show of single keys."""

    def __init__(self, part: Part, gaps: Gaps) -> None:
        self.part = part
        self.uncertain = sorted((entry for entry in part.entries if not entry.certain), key=_floor_of)
        self.settled: set[int] = set()
        self.pins: dict[int, _Pin] = {}
        """Gaps at which somebody saw a key written."""
        self._gaps = gaps
        self._makers: dict[int, Entry] = {}
        """Who made a revision."""
        self._writes: dict[str, list[int]] = defaultdict(list)
        """Revisions at which a key is known to have been put, in order once all are known."""
        self._versions: dict[str, dict[int, tuple[int, int, int]]] = defaultdict(dict)
        """Revisions at which a key was seen to have been written: its creation and version, and until when it was seen
        like that."""
        self._puts: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        self._others: list[Entry] = []
        for entry in self.uncertain:
            if isinstance(entry.action, Put):
                self._puts[entry.action.key, entry.action.value].append(entry)
            else:
                self._others.append(entry)
        for entry in part.entries:
            if entry.certain and entry.place is not None and entry.place[1] == 0:
                self._makers[entry.place[0]] = entry
                for key in _keys_written(entry):
                    self._writes[key].append(entry.place[0])
        for revisions in self._writes.values():
            revisions.sort()

    def contradiction(self) -> Violation | None:
        """An item that cannot have been seen, whatever the uncertain did. Notes all others."""
        for entry in self.part.entries:
            if entry.answer is None or entry.place is None:
                continue
            revision, seen = entry.place
            found = revision if seen else revision - 1  # the state that it found, before any writes of its own
            for key, item in _shown(entry.action, entry.answer):
                if item.mod is None:
                    continue
                if (refutation := self._refutation(key, item, found)) is not None:
                    return self._violation(entry, *refutation)
                self._note(entry, key, item, found)
        return None

    def _refutation(self, key: str, item: RecordedItem, found: int) -> tuple[str, int] | None:
        """Why nobody can have seen the item at the revision ``found``, and the operation that shows it."""
        assert item.mod is not None
        writes = self._writes[key]
        later = bisect_right(writes, item.mod)
        if later < len(writes) and writes[later] <= found:
            maker = self._makers[writes[later]].operation
            return (
                f"it shows {key!r} as of revision {item.mod}, at revision {found}, but {maker} (operation {maker.id}) "
                f"wrote it at revision {writes[later]}"
            ), maker.id
        by = self._makers.get(item.mod)
        if by is not None and isinstance(by.action, Put):
            action = by.action
            if action.key != key or item.value not in {None, action.value}:
                return (
                    f"it shows {key!r} with the value {item.value!r} of revision {item.mod}, but that revision was "
                    f"made by {by.operation} (operation {by.operation.id})"
                ), by.operation.id
        return None

    def _note(self, entry: Entry, key: str, item: RecordedItem, found: int) -> None:
        mod, create = item.mod, item.create
        assert mod is not None
        if mod in self._gaps:
            self._add_pin(mod, key, item, entry)
        if create is None:
            return
        if create != mod and create in self._gaps:
            self._add_pin(create, key, RecordedItem(key=key, create=create, mod=create), entry)
        if item.version is not None:
            known = self._versions[key].get(mod, (create, item.version, mod))
            self._versions[key][mod] = (*known[:2], max(known[2], found))

    def _add_pin(self, gap: int, key: str, item: RecordedItem, entry: Entry) -> None:
        pin = self.pins.get(gap)
        if pin is None:
            pin = self.pins[gap] = _Pin({}, entry)
        known = pin.items.get(key)
        if known is None or known.value is None:
            pin.items[key] = item

    def candidates(self, pin: _Pin) -> list[Entry]:
        """The uncertain entries that could have written all items of the pin, by floor."""
        others = [entry for entry in self._others if _could_write(entry, pin.items)]
        if len(pin.items) > 1:
            return others
        ((key, item),) = pin.items.items()
        if item.value is not None:
            puts = self._puts.get((key, item.value), [])
        else:
            puts = [entry for entry in self.uncertain if isinstance(entry.action, Put) and entry.action.key == key]
        return sorted([*puts, *others], key=_floor_of) if others else puts

    def unwritten(self, gap: int, pin: _Pin) -> Violation:
        """Nobody can have written what the pin shows."""
        key, item = next(iter(pin.items.items()))
        value = "" if item.value is None else f" with the value {item.value!r}"
        return self._violation(
            pin.seen_by, f"it shows {key!r}{value} of revision {gap}, but nobody who could can have made that revision"
        )

    def settle(self, gap: int, entry: Entry) -> None:
        """From now on ``entry`` is taken to have made the revision ``gap``."""
        self.settled.add(id(entry))
        action = entry.action
        for key in _keys_put((action,) if isinstance(action, Put | Add) else getattr(action, "then", ())):
            insort(self._writes[key], gap)

    def jumps(self) -> dict[str, list[_Jump]]:
        """Where keys have had more writes than are known, in the order of revisions."""
        found: dict[str, list[_Jump]] = {}
        for key, versions in self._versions.items():
            known = self._writes[key]
            creation = counted = since = until = 0  # the last version that is accounted for, and its time
            for mod, (create, version, last_seen) in sorted(versions.items()):
                if create != creation:
                    creation = since = until = create
                    counted = 1
                missing = version - counted - (bisect_right(known, mod) - bisect_right(known, since))
                if missing > 0:
                    found.setdefault(key, []).append(_Jump(until, mod, missing))
                counted, since, until = version, mod, last_seen
        return found

    def _violation(self, entry: Entry, reason: str, *related: int) -> Violation:
        """``entry`` cannot be explained; what stands before it, of those that are certain, serves as the prefix."""
        stands = sorted(
            (each for each in self.part.entries if each.place is not None and each.place < _place_of(entry)),
            key=_place_of,
        )
        return Violation(
            where=self.part.label,
            reason=f"{entry.operation} cannot have answered so: {reason}",
            stuck=entry.operation.id,
            prefix=tuple(each.operation.id for each in stands),
            related=related,
            concerned=tuple(each.operation.id for each in self.part.near(entry)),
        )


def _common_window(jumps: Sequence[Sequence[_Jump]], floor: int) -> list[_Jump] | None:
    """The first jumps, one of each sequence, that have a revision in common that is not below ``floor``."""
    waiting = [[jump for jump in each if jump.missing > 0] for each in jumps]
    while all(waiting):
        chosen = [each[0] for each in waiting]
        first, last = _window(chosen, floor)
        if first <= last:
            return chosen
        min(waiting, key=lambda each: each[0].last).pop(0)
    return None


def _window(jumps: Sequence[_Jump], floor: int) -> tuple[int, int]:
    return max(floor, *(jump.first + 1 for jump in jumps)), min(jump.last for jump in jumps) - 1


def _shown(action: Any, answer: Answer) -> Iterator[tuple[str, RecordedItem]]:
    """The items in an answer, by key; an item of an operation on one key need not name it."""
    if isinstance(action, Transaction):
        branch = action.then if answer.succeeded else action.otherwise
        for each, result in zip(branch, answer.results or (), strict=False):
            yield from _shown(each, result)
        return
    for item in items_of(answer):
        key = item.key if item.key is not None else getattr(action, "key", None)
        if key is not None:
            blank = isinstance(action, Range) and action.keys_only
            yield (
                key,
                RecordedItem(
                    key=key, value=None if blank else item.value, create=item.create, mod=item.mod, version=item.version
                ),
            )


def _keys_put(operations: Iterable[Any]) -> list[str]:
    return [each.key for each in operations if isinstance(each, Put | Add)]


def _keys_written(entry: Entry) -> list[str]:
    """The keys that a certain entry which changed something is known to have put."""
    action = entry.action
    if isinstance(action, Transaction):
        if entry.answer is not None:
            return _keys_put(action.then if entry.answer.succeeded else action.otherwise)
        return [] if action.conditions else _keys_put(action.then)
    return _keys_put((action,))


def _could_write(entry: Entry, seen: dict[str, RecordedItem]) -> bool:
    """Could the uncertain entry have written all these?"""
    parts = list(parts_of(entry.action))
    for key, item in seen.items():
        for part in parts:
            if isinstance(part, Add) and part.key == key:
                break
            if isinstance(part, Put) and part.key == key and item.value in {None, part.value}:
                break
        else:
            return False
    return True


def _place_of(entry: Entry) -> Place:
    assert entry.place is not None
    return entry.place


def _floor_of(entry: Entry) -> int:
    return entry.floor


def _first(pair: tuple[Any, ...]) -> Any:
    return pair[0]


def _line(entry: Entry) -> int:
    """The revision below which a compaction lets nothing be read."""
    assert isinstance(entry.action, Compact)
    answer: Answer | None = entry.answer
    return entry.action.revision if answer is None or answer.compacted is None else answer.compacted


def _alone(entry: Entry, reason: str) -> Violation:
    return Violation(
        where=f"key {entry.operation.key!r}" if entry.operation.key is not None else "an interval",
        reason=f"{entry.operation} cannot have answered so: {reason}",
        stuck=entry.operation.id,
        prefix=(),
        concerned=(entry.operation.id,),
    )
