"""What each operation of the ``kv`` model means: what it answers on a given state, and what it writes.

Written from the description of the store, not from its code, and slow where that makes it plain. `evaluate` works on
anything that offers `View`, so that the search (immutable states) and the replay (one table) share one meaning;
`agrees` holds a recorded answer against the one that was evaluated.

Every operation that changes something takes the next revision, all its changes share it, and its parts see what earlier
parts have written. Without revisions (a history that does not record them) all revisions are 0 here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from .vocabulary import (
    SYSTEM_PREFIX,
    Action,
    Add,
    Answer,
    Compact,
    Compare,
    Condition,
    Delete,
    DeleteRange,
    Get,
    Lease,
    Put,
    Range,
    RecordedItem,
    Revoke,
    Simple,
    Transaction,
    Unchanged,
)

NUMBER_MAX: Final = (1 << 63) - 1
"""Counters hold 64 bits; the least is one below the negative of this."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)

UNTOLD: Final = Answer(count=-1)
"""The model cannot say what is answered: a read of the past, where the past is not kept."""


class Item(NamedTuple):
    """A key that exists."""

    value: str
    create: int
    mod: int
    version: int
    lease: int = 0


Draft: TypeAlias = dict[str, Item | None]
"""What an operation writes; None deletes."""


class View(Protocol):
    """A state, as operations see it."""

    def item(self, key: str) -> Item | None:
        """The key, if it exists."""

    def changed(self, first: str, last: str, revision: int) -> bool:
        """Was any key of the interval written or deleted after ``revision``?"""

    def inside(self, first: str, last: str) -> Iterable[str]:
        """The keys that exist in an interval, in order; ``last`` empty is the end."""


class Refused(Exception):
    """The operation is refused, and changes nothing."""

    def __init__(self, code: str, detail: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


def evaluate(view: View, action: Action, base: int, revision: int) -> tuple[Answer, Draft]:
    """What ``action`` answers, and what it writes.

    Args:
        base: the revision of the state that the operation finds.
        revision: the one that it takes if it changes something.
    """
    draft: Draft = {}
    try:
        answer = _Evaluation(view, draft, base, revision).run(action)
    except Refused as refused:
        return Answer(revision=base, failed=refused.code, detail=refused.detail), {}
    return answer, draft


class _Evaluation:
    def __init__(self, view: View, draft: Draft, base: int, revision: int) -> None:
        self._view = view
        self._draft = draft
        self._base = base
        self._revision = revision

    @property
    def _now(self) -> int:
        return self._revision if self._draft else self._base

    def run(self, action: Action) -> Answer:
        match action:
            case Transaction():
                succeeded = all(self._holds(condition) for condition in action.conditions)
                branch = action.then if succeeded else action.otherwise
                results = tuple([self._simple(each) for each in branch])
                return Answer(revision=self._now, succeeded=succeeded, results=results)
            case Compact() | Lease():
                return Answer(revision=self._base)
            case Revoke():
                for key in action.keys:
                    found = self._view.item(key)
                    if found is not None and found.lease == action.lease:
                        self._draft[key] = None
                return Answer(revision=self._now, count=len(self._draft))
            case _:
                return self._simple(action)

    def _simple(self, action: Simple) -> Answer:
        match action:
            case Put():
                before = self._item(action.key)
                _check_revision(before, action.if_revision)
                self._write(action.key, action.value, before, action.lease)
                previous = _recorded(action.key, before) if action.previous and before is not None else None
                return Answer(revision=self._revision, previous=previous)
            case Get():
                if action.revision:
                    return self._past(action)
                item = self._item(action.key)
                return Answer(revision=self._now, item=None if item is None else _recorded(action.key, item))
            case Range():
                return self._range(action)
            case Delete():
                before = self._item(action.key)
                _check_revision(before, action.if_revision)
                if before is None:
                    return Answer(revision=self._now, count=0)
                self._draft[action.key] = None
                last = (_recorded(action.key, before),)
                return Answer(revision=self._revision, count=1, removed=last if action.previous else ())
            case DeleteRange():
                found = self._inside(action.first, action.last)
                removed = tuple(_recorded(key, item) for key, item in found) if action.previous else ()
                for key, _ in found:
                    self._draft[key] = None
                return Answer(revision=self._now, count=len(found), removed=removed)
            case Add():
                before = self._item(action.key)
                stored = "0" if before is None else before.value
                if not _INTEGER.fullmatch(stored):
                    raise Refused("not a number")
                value = int(stored) + action.delta
                if not -NUMBER_MAX - 1 <= value <= NUMBER_MAX:
                    raise Refused("not a number")
                self._write(action.key, str(value), before, 0 if before is None else before.lease)
                return Answer(revision=self._revision, value=value)

    def _range(self, action: Range) -> Answer:
        if action.revision:
            return self._past(action)
        found = self._inside(action.first, action.last)
        if action.count_only:
            return Answer(revision=self._now, count=len(found), items=())
        ordered = found[::-1] if action.reverse else found
        kept = ordered[: action.limit] if action.limit else ordered
        items = [_recorded(key, item._replace(value="") if action.keys_only else item) for key, item in kept]
        return Answer(revision=self._now, items=tuple(items), count=len(items), more=len(kept) < len(ordered))

    def _past(self, action: Get | Range) -> Answer:
        if action.revision > self._base:
            raise Refused("future revision", self._base)
        return UNTOLD

    def _holds(self, condition: Condition) -> bool:
        if isinstance(condition, Unchanged):
            if condition.revision > self._base:
                raise Refused("future revision", self._base)
            return not self._view.changed(condition.first, condition.last, condition.revision)
        return _compare(condition, self._view.item(condition.key))

    def _item(self, key: str) -> Item | None:
        if key in self._draft:
            return self._draft[key]
        return self._view.item(key)

    def _inside(self, first: str, last: str) -> list[tuple[str, Item]]:
        keys = set(self._view.inside(first, last))
        keys.update(key for key in self._draft if is_inside(key, first, last))
        found = [(key, self._item(key)) for key in sorted(keys)]
        return [(key, item) for key, item in found if item is not None]

    def _write(self, key: str, value: str, before: Item | None, lease: int) -> None:
        if before is None:
            self._draft[key] = Item(value, self._revision, self._revision, 1, lease)
        else:
            self._draft[key] = Item(value, before.create, self._revision, before.version + 1, lease)


def is_inside(key: str, first: str, last: str) -> bool:
    """Does an interval hold the key? Keys of the system are in none, unless it begins with one."""
    if key < first or (last and key >= last):
        return False
    return first.startswith(SYSTEM_PREFIX) or not key.startswith(SYSTEM_PREFIX)


def _check_revision(before: Item | None, wanted: int | None) -> None:
    found = 0 if before is None else before.mod
    if wanted is not None and wanted != found:
        raise Refused("condition", found)


def _compare(condition: Compare, item: Item | None) -> bool:
    operand = condition.operand
    if condition.target == "value":
        if item is None:
            return condition.relation == "!="
        assert isinstance(operand, str)
        return _relates(item.value < operand, item.value > operand, condition.relation)
    assert isinstance(operand, int)
    if condition.target == "exists":
        actual = 0 if item is None else 1
    elif item is None:
        actual = 0
    else:
        actual = {"version": item.version, "create": item.create, "mod": item.mod}[condition.target]
    return _relates(actual < operand, actual > operand, condition.relation)


def _relates(less: bool, greater: bool, relation: str) -> bool:
    match relation:
        case "=":
            return not less and not greater
        case "!=":
            return less or greater
        case "<":
            return less
        case _:
            return greater


def _recorded(key: str, item: Item) -> RecordedItem:
    return RecordedItem(key=key, value=item.value, create=item.create, mod=item.mod, version=item.version)


# --------------------------------------------------------------------------------------------------------- agreement


def agrees(recorded: Answer, evaluated: Answer, action: Action) -> bool:
    """Can ``action`` have answered ``recorded`` where the model answers ``evaluated``? Unrecorded fields agree."""
    if evaluated is UNTOLD:
        return recorded.failed is None
    if recorded.failed is not None or evaluated.failed is not None:
        return (
            recorded.failed == evaluated.failed
            and recorded.revision in {None, evaluated.revision}
            and (recorded.detail is None or evaluated.detail is None or recorded.detail == evaluated.detail)
        )
    if recorded.revision is not None and recorded.revision != evaluated.revision:
        return False
    match action:
        case Put():
            return not action.previous or item_agrees(recorded.previous, evaluated.previous)
        case Get():
            return item_agrees(recorded.item, evaluated.item)
        case Range():
            return _range_agrees(recorded, evaluated, action)
        case Revoke():
            return recorded.count == evaluated.count
        case Delete() | DeleteRange():
            if recorded.count != evaluated.count:
                return False
            return not action.previous or _items_agree(recorded.removed, evaluated.removed)
        case Add():
            return recorded.value == evaluated.value
        case Transaction():
            if recorded.succeeded != evaluated.succeeded:
                return False
            branch = action.then if evaluated.succeeded else action.otherwise
            return all(
                agrees(one, other, each)
                for one, other, each in zip(recorded.results or (), evaluated.results or (), branch, strict=True)
            )
        case Compact() | Lease():
            return True


def _range_agrees(recorded: Answer, evaluated: Answer, action: Range) -> bool:
    """A store may end a range early, for its size, if it says that there is more."""
    if action.count_only:
        return recorded.count == evaluated.count
    seen, true = recorded.items or (), evaluated.items or ()
    cut = recorded.more and len(seen) < len(true)
    if recorded.more != evaluated.more and not cut:
        return False
    if recorded.count not in {None, len(seen)}:
        return False
    return _items_agree(seen, true[: len(seen)] if cut else true)


def _items_agree(recorded: Sequence[RecordedItem], evaluated: Sequence[RecordedItem]) -> bool:
    return len(recorded) == len(evaluated) and all(map(item_agrees, recorded, evaluated))


def item_agrees(recorded: RecordedItem | None, evaluated: RecordedItem | None) -> bool:
    """Are both the same key in the same version, as far as that was recorded?"""
    if recorded is None or evaluated is None:
        return recorded is evaluated
    return (
        recorded.value in {None, evaluated.value}
        and recorded.key in {None, evaluated.key}
        and recorded.create in {None, evaluated.create}
        and recorded.mod in {None, evaluated.mod}
        and recorded.version in {None, evaluated.version}
    )
