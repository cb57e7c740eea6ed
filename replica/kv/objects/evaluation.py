"""What each operation means where every key has a revision of its own.

As in `replica.kv.evaluation` an operation reads through, and writes into, a *draft*, which is carried out only when the
operation has come to its end. Here the writes of one operation to several keys take the next revision of each key.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Final, Protocol

from replica.kv.evaluation import INTEGER, ITEM_BYTES, NUMBER_MAX, Bounds, Refused, compare
from replica.kv.operations import (
    SYSTEM_PREFIX,
    Add,
    Added,
    AnyOperation,
    AnyResult,
    Condition,
    Delete,
    Deleted,
    Failed,
    Failure,
    Get,
    Got,
    KeyValue,
    Put,
    Range,
    Ranged,
    Simple,
    Transacted,
    Transaction,
    Unchanged,
    Written,
)

from .record import KeyRecord

UNSUPPORTED: Final = "the operation is not possible without one revision for all keys; nothing was changed"


class Keys(Protocol):
    """The keys that operations work on."""

    def find(self, key: bytes) -> KeyRecord | None:
        """The record of a key that was ever written; it must not be changed."""

    def change(self, key: bytes) -> KeyRecord:
        """The record of a key, made if need be, to be changed."""

    def interval(self, first: bytes, last: bytes, *, reverse: bool, system: bool) -> Iterator[KeyValue]:
        """The items of an interval in order; ``system`` True includes the keys of the system."""


class Evaluation(Bounds):
    """One operation being evaluated."""

    __slots__ = ("_draft", "_keys")

    def __init__(self, keys: Keys, *, system: bool) -> None:
        super().__init__(system=system)
        self._keys = keys
        self._draft: dict[bytes, KeyValue | None] = {}

    def run(self, operation: AnyOperation) -> AnyResult:
        """Evaluate and carry out; a refusal is a result, too."""
        try:
            if isinstance(operation, Transaction):
                result: AnyResult = self._transaction(operation)
            else:
                result = self._simple(operation)
        except Refused as refused:
            return Failed(0, refused.code, refused.message, refused.detail)
        for key, item in self._draft.items():
            record = self._keys.change(key)
            record.item = item
            record.revision += 1
        return result

    # ---------------------------------------------------------------------------------------------------- operations

    def _simple(self, operation: AnyOperation) -> AnyResult:
        match operation:
            case Put():
                return self._put(operation)
            case Get():
                return self._get(operation)
            case Range():
                return self._range(operation)
            case Delete():
                return self._delete(operation)
            case Add():
                return self._add(operation)
            case _:
                raise Refused(Failure.UNSUPPORTED, UNSUPPORTED)

    def _put(self, operation: Put) -> Written:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        self._check_revision(before, operation.if_revision)
        previous = self._answer(before) if operation.previous else None
        return Written(self._write(operation.key, operation.value, before), previous)

    def _get(self, operation: Get) -> Got:
        if operation.revision:
            raise Refused(Failure.UNSUPPORTED, UNSUPPORTED)
        return Got(self._revision(operation.key), self._answer(self._current(operation.key)))

    def _range(self, operation: Range) -> Ranged:
        if operation.revision:
            raise Refused(Failure.UNSUPPORTED, UNSUPPORTED)
        system = self._system or operation.first.startswith(SYSTEM_PREFIX)
        found = self._interval(operation, system)
        if operation.count_only:
            return Ranged(0, (), sum(1 for _ in found))
        items: list[KeyValue] = []
        more = False
        for each in found:
            item = each
            if operation.keys_only:
                item = KeyValue(item.key, b"", item.create_revision, item.mod_revision, item.version, item.lease)
            size = len(item.key) + len(item.value) + ITEM_BYTES
            if size > self._room or (operation.limit and len(items) == operation.limit):
                more = True
                break
            self._room -= size
            items.append(item)
        return Ranged(0, tuple(items), len(items), more)

    def _delete(self, operation: Delete) -> Deleted:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        self._check_revision(before, operation.if_revision)
        if before is None:
            return Deleted(self._revision(operation.key))
        previous = self._answer(before) if operation.previous else None
        self._draft[operation.key] = None
        return Deleted(self._revision(operation.key), 1, () if previous is None else (previous,))

    def _add(self, operation: Add) -> Added:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        stored = b"0" if before is None else before.value
        if not INTEGER.fullmatch(stored):
            raise Refused(Failure.NOT_A_NUMBER, "the stored value is not a decimal integer; nothing was changed")
        value = int(stored) + operation.delta
        if not -NUMBER_MAX - 1 <= value <= NUMBER_MAX:
            raise Refused(Failure.NOT_A_NUMBER, "the sum does not fit 64 bits; nothing was changed")
        return Added(self._write(operation.key, b"%d" % value, before), value)

    def _transaction(self, operation: Transaction) -> Transacted:
        succeeded = all(map(self._holds, operation.conditions))
        branch: tuple[Simple, ...] = operation.then if succeeded else operation.otherwise
        results: list[AnyResult] = []
        for index, simple in enumerate(branch):
            try:
                results.append(self._simple(simple))
            except Refused as refused:
                name = "then" if succeeded else "otherwise"
                message = f"operation {index} of the branch {name!r}: {refused.message}"
                raise Refused(refused.code, message, refused.detail) from None
        return Transacted(0, succeeded, tuple(results))

    # ------------------------------------------------------------------------------------------------------- helpers

    def _holds(self, condition: Condition) -> bool:
        if isinstance(condition, Unchanged):
            raise Refused(Failure.UNSUPPORTED, UNSUPPORTED)
        return compare(condition, self._current(condition.key))

    def _revision(self, key: bytes) -> int:
        """The key's revision as the operation sees it."""
        record = self._keys.find(key)
        return (0 if record is None else record.revision) + (key in self._draft)

    def _current(self, key: bytes) -> KeyValue | None:
        if key in self._draft:
            return self._draft[key]
        record = self._keys.find(key)
        return None if record is None else record.item

    def _write(self, key: bytes, value: bytes, before: KeyValue | None) -> int:
        record = self._keys.find(key)
        revision = 1 if record is None else record.revision + 1
        if before is None:
            self._draft[key] = KeyValue(key, value, revision, revision, 1)
        else:
            self._draft[key] = KeyValue(key, value, before.create_revision, revision, before.version + 1)
        return revision

    def _interval(self, operation: Range, system: bool) -> Iterator[KeyValue]:
        """The interval as the operation sees it, the draft laid over what is stored."""
        first, last, reverse = operation.first, operation.last, operation.reverse
        stored = self._keys.interval(first, last, reverse=reverse, system=system)
        if not self._draft:
            return stored
        drafted = [
            item
            for key, item in sorted(self._draft.items(), reverse=reverse)
            if item is not None
            and first <= key
            and (not last or key < last)
            and (system or not key.startswith(SYSTEM_PREFIX))
        ]
        untouched = (item for item in stored if item.key not in self._draft)
        return merge(untouched, drafted, key=_key_of, reverse=reverse)


def _key_of(item: KeyValue) -> bytes:
    return item.key
