"""The model ``kv``: a revisioned key-value store with transactions.

Theory of operation
-------------------
Keys that are used together (in a transaction, or by an interval that holds several) are judged together, all others one
by one. A part's state is the items of its keys, exactly, with the revision of the last operation that was linearized.

Where answers carry revisions, these settle almost everything: an operation that changed something stands at the
revision that it made, any other behind the one that it saw. What is left open is which of the operations of unknown
outcome took effect, and where. Such an operation must have made a revision that nobody else claims (a *gap*), behind
everything that had ended before it was invoked. Which of several gaps it took can only matter in comparison with a
revision that somebody names; so one gap between any two of these is enough to try.

Two kinds of reads get entries that say more than real time does: a stale one stands at the revision that it saw,
whenever it was asked for; and a read at a revision is, as to what it shows, a stale one at that revision.

`replica.verification.witness` does the same for a whole history at once, without a search, where it can.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from .history import History, HistoryError, Operation
from .models import NEVER, Case, Entry, Model, Part, Place, State, Step, spans_of
from .replay import Gaps
from .semantics import Draft, Item, agrees, evaluate, is_inside
from .vocabulary import (
    JUDGED,
    Action,
    Answer,
    Compact,
    Compare,
    Get,
    Put,
    Range,
    Revoke,
    Transaction,
    changes,
    items_of,
    may_write,
    parts_of,
    reach_of,
    read_action,
    read_answer,
    revisions_named,
    revisions_shown,
)
from .witness import Witness


class Slot(NamedTuple):
    """A key in a state: its item, and the revision of the last write or deletion."""

    item: Item | None
    changed: int


class KeyValueState(NamedTuple):
    """A state of a part: the revision it is at, and its keys in order."""

    revision: int
    slots: tuple[Slot, ...]


EMPTY = Slot(None, 0)


class _StateView:
    """A state, as operations see it."""

    __slots__ = ("_keys", "_numbers", "_slots")

    def __init__(self, keys: Sequence[str], numbers: dict[str, int], slots: tuple[Slot, ...]) -> None:
        self._keys = keys
        self._numbers = numbers
        self._slots = slots

    def item(self, key: str) -> Item | None:
        return self._slots[self._numbers[key]].item

    def changed(self, first: str, last: str, revision: int) -> bool:
        return any(
            slot.changed > revision and is_inside(key, first, last)
            for key, slot in zip(self._keys, self._slots, strict=True)
        )

    def inside(self, first: str, last: str) -> Iterator[str]:
        for key, slot in zip(self._keys, self._slots, strict=True):
            if slot.item is not None and is_inside(key, first, last):
                yield key


class KeyValuePart(Part):
    """Keys that are used together."""

    def __init__(self, keys: Sequence[str], entries: Sequence[Entry], gaps: Gaps, *, revisioned: bool) -> None:
        self.keys = keys
        self.entries = entries
        self.label = _label(keys)
        self.initial: State = KeyValueState(0, (EMPTY,) * len(keys))
        self._numbers = {key: number for number, key in enumerate(keys)}
        self._gaps = gaps
        self._revisioned = revisioned
        named = {revision for entry in entries for revision in revisions_named(entry.action)}
        for entry in entries:
            if entry.answer is not None:
                named.update(revisions_shown(entry.answer))
        self._named = sorted(named)
        self._versions = any(map(_speaks_of_versions, entries))
        self.indexed = not revisioned and not self._versions and all(map(_is_plain, entries))

    def step(self, state: KeyValueState, entry: Entry) -> State | None:
        """As `Part.step`."""
        place = entry.place
        if place is None:
            return self._take(state, entry, 0, 0, 0)
        revision, seen = place
        if seen:
            return self._take(state, entry, revision, revision + 1, revision) if revision >= state.revision else None
        return self._take(state, entry, revision - 1, revision, revision) if revision > state.revision else None

    def _take(self, state: KeyValueState, entry: Entry, base: int, revision: int, reached: int) -> State | None:
        answer: Answer | None = entry.answer
        if answer is not None and answer.failed is not None and answer.failed not in JUDGED:
            return state if state.revision == reached else KeyValueState(reached, state.slots)
        evaluated, draft = evaluate(_StateView(self.keys, self._numbers, state.slots), entry.action, base, revision)
        if answer is None:
            if not draft:
                return None  # it is said, or supposed, to have changed something
        elif not agrees(answer, evaluated, entry.action):
            return None
        if not draft:
            return state if state.revision == reached else KeyValueState(reached, state.slots)
        return KeyValueState(reached, self._written(state.slots, draft, revision))

    def _written(self, slots: tuple[Slot, ...], draft: Draft, revision: int) -> tuple[Slot, ...]:
        if not self._versions:
            # Nobody looks at versions: states that differ in them alone are one.
            draft = {key: None if item is None else item._replace(version=1) for key, item in draft.items()}
        if len(slots) == 1:
            (item,) = draft.values()
            return (Slot(item, revision),)
        changed = list(slots)
        for key, item in draft.items():
            changed[self._numbers[key]] = Slot(item, revision)
        return tuple(changed)

    def effects(self, state: KeyValueState, entry: Entry, ahead: Entry) -> Iterable[State]:
        """As `Part.effects`: one state for each gap that can make a difference."""
        if not self._revisioned:
            after = self._take(state, entry, 0, 0, 0)
            if after is not None:
                yield after
            return
        assert ahead.place is not None
        revision, seen = ahead.place
        for gap in self.gaps_between(max(state.revision + 1, entry.floor), revision if seen else revision - 1):
            after = self._take(state, entry, gap - 1, gap, gap)
            if after is not None:
                yield after

    def gaps_between(self, first: int, last: int) -> Iterator[int]:
        """Gaps from ``first`` to ``last``: those that somebody names, and one of each row between them."""
        named = self._named
        gap = self._gaps.after(first)
        while gap <= last:
            yield gap
            following = bisect_right(named, gap)
            if following and named[following - 1] == gap:
                gap = self._gaps.after(gap + 1)
            elif following < len(named):
                gap = self._gaps.after(named[following])
            else:
                return

    def near(self, entry: Entry) -> Sequence[Entry]:
        """As `Part.near`: what shares a key with it."""
        touched = self.touched(entry)
        return [each for each in self.entries if touched & self.touched(each)]

    def touched(self, entry: Entry) -> frozenset[str]:
        """As `Part.touched`."""
        named, intervals = reach_of(entry.action)
        return frozenset(named).union(key for key in self.keys for interval in intervals if is_inside(key, *interval))

    def narrowed(self, entries: Sequence[Entry]) -> KeyValuePart:
        """As `Part.narrowed`."""
        claimed = [entry.place[0] for entry in entries if entry.place is not None and entry.answer is None]
        return KeyValuePart(self.keys, entries, self._gaps.without(claimed), revisioned=self._revisioned)

    def needs(self, entry: Entry) -> Hashable:
        """As `Part.needs`."""
        if isinstance(entry.action, Put):
            return None
        item = entry.answer.item
        return ("absent",) if item is None else (item.value,)

    def gives(self, entry: Entry) -> Hashable:
        """As `Part.gives`."""
        return (entry.action.value,)

    def explain(self, state: KeyValueState, entry: Entry) -> str:
        """As `Part.explain`."""
        view = _StateView(self.keys, self._numbers, state.slots)
        if entry.place is not None and entry.place < (state.revision, 1):
            return f"it stands at revision {entry.place[0]}, but revision {state.revision} was reached before"
        revision, seen = entry.place or (0, 0)
        base = revision if seen or not self._revisioned else revision - 1
        return explain(view, entry, base, base + 1 if self._revisioned else 0)


def explain(view: Any, entry: Entry, base: int, revision: int) -> str:
    """What an operation answered, and what it should have."""
    evaluated, draft = evaluate(view, entry.action, base, revision)
    if entry.answer is None:
        return "it would have changed nothing there" if not draft else "nothing speaks against it by itself"
    if agrees(entry.answer, evaluated, entry.action):
        return "its answer is right there, but it ended before something that must come first"
    return f"it answered {_shown(entry.answer)}, but there the answer is {_shown(evaluated)}"


def _shown(answer: Any) -> str:
    """A struct without the fields that say nothing."""
    if not isinstance(answer, msgspec.Struct):
        return repr(answer)
    fields = []
    for field in msgspec.structs.fields(answer):
        value = getattr(answer, field.name)
        if value != field.default or field.name == "item":
            shown = f"({', '.join(map(_shown, value))})" if isinstance(value, tuple) else _shown(value)
            fields.append(f"{field.name}={shown}")
    return f"{{{', '.join(fields)}}}"


def _label(keys: Sequence[str]) -> str:
    if not keys:
        return "no key"
    if len(keys) == 1:
        return f"key {keys[0]!r}"
    return f"keys {', '.join(map(repr, keys[:3]))}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _is_plain(entry: Entry) -> bool:
    action = entry.action
    if isinstance(action, Put):
        return action.if_revision is None and not action.previous
    return isinstance(action, Get) and entry.certain and entry.answer is not None and entry.answer.failed is None


def _speaks_of_versions(entry: Entry) -> bool:
    if entry.answer is not None and any(item.version is not None for item in items_of(entry.answer)):
        return True
    return any(isinstance(part, Compare) and part.target == "version" for part in parts_of(entry.action))


# -------------------------------------------------------------------------------------------------------- preparation


class KeyValueModel(Model):
    """Revisions count the changes of the whole store."""

    name = "kv"
    summary = "the revisioned store: put, get, range, delete, delete_range, add, transaction, compact, lease, revoke"

    def prepare(self, history: History) -> Case:
        """As `Model.prepare`."""
        return _Preparation(history).case()


class _Preparation:
    def __init__(self, history: History) -> None:
        self._entries: list[Entry] = []
        """What is judged in parts."""
        self._timed: list[Entry] = []
        """What is held against real time."""
        self._compactions: list[Entry] = []
        self._unchecked: dict[str, int] = defaultdict(int)
        self._operations = 0
        self._revisioned: bool | None = None
        self._revisioned_line = 0
        actions = [read_action(operation) for operation in history.operations]
        leased = _keys_by_lease(actions)
        for operation, read, (begin, end) in zip(history.operations, actions, spans_of(history), strict=True):
            action = read
            if isinstance(action, Revoke):
                action = msgspec.structs.replace(action, keys=leased.get(action.lease, ()))
            if operation.outcome == "fail" or (operation.resolved and operation.revision is None):
                continue
            if operation.outcome == "ok":
                self._heard(operation, action, read_answer(operation, action), begin, end)
            elif may_write(action):
                self._unheard(operation, action, begin)
            elif isinstance(action, Compact):
                self._compactions.append(Entry(operation, action, None, begin=begin, end=end, certain=False))
        self._require_revisions()
        claimed = {entry.place[0] for entry in self._timed if entry.place is not None and entry.place[1] == 0}
        self._gaps = Gaps(claimed)
        self._set_floors()

    def _heard(self, operation: Operation, action: Action, answer: Answer, begin: int, end: int) -> None:
        self._operations += 1
        self._note_revision(operation, answer)
        if answer.revision is None:
            if isinstance(action, Compact) or (
                isinstance(action, Get | Range) and (action.revision or operation.stale)
            ):
                self._unchecked["needs revisions: stale, at a revision, or a compaction"] += 1
                self._operations -= 1
                return
            passive = not changes(action, answer)
            self._entries.append(Entry(operation, action, answer, begin=begin, end=end, certain=True, passive=passive))
            return
        changed = changes(action, answer)
        place: Place = (answer.revision, 0 if changed else 1)
        entry = Entry(operation, action, answer, begin=begin, end=end, certain=True, passive=not changed, place=place)
        if not operation.stale:
            self._timed.append(entry)
        if isinstance(action, Compact):
            if answer.failed is None:
                self._compactions.append(entry)
        elif isinstance(action, Get | Range) and action.revision:
            self._seen_in_the_past(entry, action, answer)
        elif operation.stale:
            self._entries.append(_untimed(entry, action, answer, place))
        else:
            self._entries.append(entry)

    def _seen_in_the_past(self, entry: Entry, action: Get | Range, answer: Answer) -> None:
        """What a read at a revision shows is what a stale read would have shown there."""
        assert answer.revision is not None
        if answer.failed is not None:
            self._entries.append(entry)
            return
        if action.revision > answer.revision:
            raise HistoryError(
                entry.operation.completed_line,
                f"a read at revision {action.revision} is answered at revision {answer.revision}, before it",
            )
        present = msgspec.structs.replace(action, revision=0)
        shown = msgspec.structs.replace(answer, revision=action.revision)
        self._entries.append(_untimed(entry, present, shown, (action.revision, 1)))

    def _unheard(self, operation: Operation, action: Action, begin: int) -> None:
        self._operations += 1
        if operation.resolved:
            assert operation.revision is not None
            place = (operation.revision, 0)
            entry = Entry(operation, action, None, begin=begin, end=NEVER, certain=True, place=place)
            self._timed.append(entry)
        else:
            entry = Entry(operation, action, None, begin=begin, end=NEVER, certain=False)
        self._entries.append(entry)

    def _note_revision(self, operation: Operation, answer: Answer) -> None:
        has = answer.revision is not None
        if self._revisioned is None:
            self._revisioned = has
            self._revisioned_line = operation.completed_line
        elif self._revisioned != has:
            here, there = ("carries a", "has none") if has else ("has no", "carries one")
            raise HistoryError(
                operation.completed_line,
                f"the result {here} revision, but that on line {self._revisioned_line} {there}: record all or none",
            )

    def _require_revisions(self) -> None:
        """Without revisions, nothing can be said of operations that compare them."""
        if self._revisioned is not False:
            return  # they are there, or nobody was heard of, and nothing has to be explained
        for entry in self._entries:
            line = entry.operation.invoked_line
            if entry.place is not None:
                raise HistoryError(line, "it is resolved to a revision, but answers carry none")
            if any(True for _ in revisions_named(entry.action)):
                raise HistoryError(line, "it names a revision, but answers carry none: it cannot be judged")
            if entry.answer is not None and any(True for _ in revisions_shown(entry.answer)):
                raise HistoryError(
                    entry.operation.completed_line, "it shows a revision, but carries none itself: record all or none"
                )

    def _set_floors(self) -> None:
        """An uncertain change lies behind all revisions that were seen before it was invoked."""
        ended = sorted((entry.end, entry.place[0]) for entry in self._timed if entry.place is not None)
        index = furthest = 0
        for entry in sorted(self._entries, key=lambda each: each.begin):
            if entry.certain:
                continue
            while index < len(ended) and ended[index][0] < entry.begin:
                furthest = max(furthest, ended[index][1])
                index += 1
            entry.floor = furthest + 1

    def case(self) -> Case:
        parts = self._parts()
        witness = None
        if self._revisioned is not False:
            witness = Witness(
                parts=parts,
                timed=self._timed,
                compactions=self._compactions,
                gaps=self._gaps,
                explain=explain,
            )
        for entry in self._entries:
            if isinstance(entry.action, Transaction):
                past = sum(isinstance(part, Get | Range) and part.revision > 0 for part in parts_of(entry.action))
                if past:
                    self._unchecked["reads at a revision inside transactions"] += past
        return Case(
            parts=parts,
            operations=self._operations,
            uncertain=sum(not entry.certain for entry in self._entries),
            unchecked=self._unchecked,
            examine=witness.examine if witness is not None else None,
            conflict=witness.conflict if witness is not None else _no_conflict,
        )

    def _parts(self) -> list[KeyValuePart]:
        """Connected sets of keys, with the entries on them."""
        keys = set()
        reaches = []
        for entry in self._entries:
            named, intervals = reach_of(entry.action)
            reaches.append((named, intervals))
            keys.update(named)
            if entry.answer is not None:
                keys.update(item.key for item in items_of(entry.answer) if item.key is not None)
        ordered = sorted(keys)
        forest = _Forest(ordered)
        joined: set[tuple[str, str]] = set()
        anchors: list[str | None] = []
        for named, intervals in reaches:
            anchor = named[0] if named else None
            for key in named[1:]:
                forest.join(named[0], key)
            for first, last in intervals:
                inside = ordered[bisect_left(ordered, first) : bisect_left(ordered, last) if last else len(ordered)]
                if not inside:
                    continue
                if (first, last) not in joined:
                    joined.add((first, last))
                    for key in inside[1:]:
                        forest.join(inside[0], key)
                if anchor is None:
                    anchor = inside[0]
                else:
                    forest.join(anchor, inside[0])
            anchors.append(anchor)
        members: dict[str, list[str]] = defaultdict(list)
        for key in ordered:
            members[forest.root(key)].append(key)
        grouped: dict[str | None, list[Entry]] = defaultdict(list)
        for entry, anchor in zip(self._entries, anchors, strict=True):
            grouped[None if anchor is None else forest.root(anchor)].append(entry)
        return [
            KeyValuePart(
                [] if root is None else members[root], entries, self._gaps, revisioned=self._revisioned is not False
            )
            for root, entries in grouped.items()
        ]


def _keys_by_lease(actions: Iterable[Action]) -> dict[int, tuple[str, ...]]:
    """The keys that were put, or may have been, to live with each lease."""
    found: dict[int, dict[str, None]] = defaultdict(dict)
    for action in actions:
        for part in parts_of(action):
            if isinstance(part, Put) and part.lease:
                found[part.lease][part.key] = None
    return {lease: tuple(sorted(keys)) for lease, keys in found.items()}


def _untimed(entry: Entry, action: Action, answer: Answer, place: Place) -> Entry:
    return Entry(entry.operation, action, answer, begin=-1, end=NEVER, certain=True, passive=True, place=place)


def _no_conflict(orders: Sequence[Sequence[Step]]) -> str | None:
    """Without revisions, parts have nothing in common."""
    return None


class _Forest:
    """Disjoint sets of keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._parent = {key: key for key in keys}

    def root(self, key: str) -> str:
        parent = self._parent
        root = key
        while parent[root] != root:
            root = parent[root]
        while parent[key] != root:
            parent[key], key = root, parent[key]
        return root

    def join(self, one: str, other: str) -> None:
        self._parent[self.root(one)] = self.root(other)
