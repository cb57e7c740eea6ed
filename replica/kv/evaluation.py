"""What each operation on keys means: evaluated against the history, one revision for all that one operation changes.

An operation reads through, and writes into, a *draft*: the writes that it would make, by key. Only when it has come to
its end is the draft carried out, so an operation that is refused half-way has changed nothing, and the operations of a
transaction see each other's writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from heapq import merge
from itertools import filterfalse
from typing import Final

from .history import History
from .operations import (
    DELETE_RANGE_KEYS_MAX,
    LEASE_KEYS_MAX,
    LEASES_LISTED_MAX,
    RESULT_BYTES_MAX,
    SYSTEM_PREFIX,
    AboutLeases,
    Add,
    Added,
    AnyResult,
    Compact,
    Compacted,
    Compare,
    Condition,
    Delete,
    Deleted,
    DeleteRange,
    DescribeLease,
    Failed,
    Failure,
    Get,
    Got,
    GrantLease,
    KeepAlive,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseOperation,
    LeaseRevoked,
    LeasesListed,
    ListLeases,
    Put,
    Range,
    Ranged,
    RevokeLease,
    Simple,
    Transacted,
    Transaction,
    Unchanged,
    Written,
)

NUMBER_MAX: Final = (1 << 63) - 1
"""Counters are 64-bit integers, from ``-NUMBER_MAX - 1`` on."""

ITEM_BYTES: Final = 32
"""What an item of an answer counts beside its key and value."""

INTEGER: Final = re.compile(rb"-?[0-9]{1,20}", re.ASCII)
"""What a stored number looks like."""


class Refused(Exception):
    """The operation is refused; nothing of it takes effect."""

    def __init__(self, code: str, message: str, detail: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


class Bounds:
    """What every operation is held to, whatever its keys' revisions are.

    That is the room of its answer, whose the key is, and the revision that it asks for.
    """

    __slots__ = ("_room", "_system")

    def __init__(self, *, system: bool) -> None:
        self._system = system
        self._room = RESULT_BYTES_MAX

    @property
    def spent(self) -> int:
        """Bytes of keys and values in the result."""
        return RESULT_BYTES_MAX - max(0, self._room)

    def _answer(self, item: KeyValue | None) -> KeyValue | None:
        """An item that the answer must carry whole, or not at all."""
        if item is not None:
            self._room -= len(item.key) + len(item.value) + ITEM_BYTES
            if self._room < 0:
                raise Refused(
                    Failure.INVALID,
                    f"the answer would exceed {RESULT_BYTES_MAX} bytes; nothing was changed, ask for less at once",
                )
        return item

    def _check_writable(self, key: bytes) -> None:
        if not self._system and key.startswith(SYSTEM_PREFIX):
            raise Refused(Failure.INVALID, "the key belongs to the system; nothing was changed")

    def _check_revision(self, before: KeyValue | None, wanted: int | None) -> None:
        if wanted is None:
            return
        found = 0 if before is None else before.mod_revision
        if found != wanted:
            raise Refused(
                Failure.CONDITION,
                f"the key is at revision {found}, not {wanted}; nothing was changed",
                found,
            )


class Evaluation(Bounds):
    """One operation being evaluated."""

    __slots__ = ("_draft", "_history", "_revision")

    def __init__(self, history: History, *, system: bool) -> None:
        super().__init__(system=system)
        self._history = history
        self._draft: dict[bytes, KeyValue | None] = {}
        self._revision = history.revision + 1  # of the writes, should there be any

    def run(self, operation: Simple | Transaction | Compact | LeaseOperation) -> AnyResult:
        """Evaluate and carry out; a refusal is a result, too."""
        self._history.settle()
        try:
            if isinstance(operation, Transaction):
                result: AnyResult = self._transaction(operation)
            elif isinstance(operation, Compact):
                result = self._compact(operation)
            elif isinstance(operation, AboutLeases):
                result = self._lease(operation)
            else:
                result = self._simple(operation)
        except Refused as refused:
            return Failed(self._history.revision, refused.code, refused.message, refused.detail)
        if self._draft:
            self._history.write(self._draft)
        return result

    # ---------------------------------------------------------------------------------------------------- operations

    def _simple(self, operation: Simple) -> AnyResult:
        match operation:
            case Put():
                return self._put(operation)
            case Get():
                return self._get(operation)
            case Range():
                return self._range(operation)
            case Delete():
                return self._delete(operation)
            case DeleteRange():
                return self._delete_range(operation)
            case Add():
                return self._add(operation)

    def _put(self, operation: Put) -> Written:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        self._check_revision(before, operation.if_revision)
        if operation.lease:
            self._check_lease(operation.lease)
        previous = self._answer(before) if operation.previous else None
        self._write(operation.key, operation.value, before, operation.lease)
        return Written(self._revision, previous)

    def _get(self, operation: Get) -> Got:
        if operation.revision == 0:
            item = self._current(operation.key)
        else:
            self._check_readable(operation.revision)
            item = self._history.at(operation.key, operation.revision)
        return Got(self._now, self._answer(item))

    def _range(self, operation: Range) -> Ranged:
        system = self._system or operation.first.startswith(SYSTEM_PREFIX)
        if operation.count_only:
            return Ranged(self._now, (), self._count(operation, system))
        items: list[KeyValue] = []
        more = False
        for found in self._interval(operation, system):
            item = found
            if operation.keys_only:
                item = KeyValue(item.key, b"", item.create_revision, item.mod_revision, item.version, item.lease)
            size = len(item.key) + len(item.value) + ITEM_BYTES
            if size > self._room or (operation.limit and len(items) == operation.limit):
                more = True
                break
            self._room -= size
            items.append(item)
        return Ranged(self._now, tuple(items), len(items), more)

    def _delete(self, operation: Delete) -> Deleted:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        self._check_revision(before, operation.if_revision)
        if before is None:
            return Deleted(self._now)
        self._draft[operation.key] = None
        previous = self._answer(before) if operation.previous else None
        return Deleted(self._revision, 1, () if previous is None else (previous,))

    def _delete_range(self, operation: DeleteRange) -> Deleted:
        if not self._system and operation.first.startswith(SYSTEM_PREFIX):
            raise Refused(Failure.INVALID, "the interval belongs to the system; nothing was changed")
        interval = Range(operation.first, operation.last)
        found: list[KeyValue] = []
        for item in self._interval(interval, self._system):
            if len(found) == DELETE_RANGE_KEYS_MAX:
                raise Refused(
                    Failure.INVALID,
                    f"the interval holds more than {DELETE_RANGE_KEYS_MAX} keys; nothing was changed, "
                    "delete it in pieces",
                )
            if operation.previous:
                self._answer(item)
            found.append(item)
        for item in found:
            self._draft[item.key] = None
        return Deleted(self._now, len(found), tuple(found) if operation.previous else ())

    def _add(self, operation: Add) -> Added:
        self._check_writable(operation.key)
        before = self._current(operation.key)
        stored = b"0" if before is None else before.value
        if not INTEGER.fullmatch(stored):
            raise Refused(Failure.NOT_A_NUMBER, "the stored value is not a decimal integer; nothing was changed")
        value = int(stored) + operation.delta
        if not -NUMBER_MAX - 1 <= value <= NUMBER_MAX:
            raise Refused(Failure.NOT_A_NUMBER, "the sum does not fit 64 bits; nothing was changed")
        self._write(operation.key, b"%d" % value, before, 0 if before is None else before.lease)
        return Added(self._revision, value)

    def _transaction(self, operation: Transaction) -> Transacted:
        succeeded = all(map(self._holds, operation.conditions))
        branch = operation.then if succeeded else operation.otherwise
        results: list[AnyResult] = []
        for index, simple in enumerate(branch):
            try:
                results.append(self._simple(simple))
            except Refused as refused:
                name = "then" if succeeded else "otherwise"
                message = f"operation {index} of the branch {name!r}: {refused.message}"
                raise Refused(refused.code, message, refused.detail) from None
        return Transacted(self._now, succeeded, tuple(results))

    def _compact(self, operation: Compact) -> Compacted:
        history = self._history
        if operation.revision > history.revision:
            raise Refused(
                Failure.FUTURE_REVISION,
                f"cannot compact at revision {operation.revision}: the present one is {history.revision}",
                history.revision,
            )
        if operation.revision > history.compacted:
            history.compact(operation.revision)
        return Compacted(history.revision, history.compacted)

    # -------------------------------------------------------------------------------------------------------- leases

    def _lease(self, operation: LeaseOperation) -> AnyResult:
        leases, revision = self._history.leases, self._history.revision
        match operation:
            case GrantLease(ttl_ms, wanted):
                if len(leases) >= leases.maximum:
                    raise Refused(Failure.LEASES_FULL, f"there are {len(leases)} leases already; nothing was changed")
                if wanted in leases:
                    raise Refused(Failure.LEASE_EXISTS, f"a lease {wanted} exists already; nothing was changed")
                granted = leases.grant(ttl_ms, wanted)
                return LeaseGranted(revision, granted, ttl_ms, leases.known(granted).renewal)
            case KeepAlive(lease):
                self._check_lease(lease, keys=False)
                renewed = leases.renew(lease)
                return LeaseGranted(revision, lease, renewed.ttl_ms, renewed.renewal)
            case RevokeLease():
                return self._revoke(operation)
            case DescribeLease(lease, names):
                self._check_lease(lease, keys=False)
                return self._describe(lease, names=names)
            case ListLeases(after, limit):
                limit = min(limit or LEASES_LISTED_MAX, LEASES_LISTED_MAX)
                listed = leases.listed(after, limit + 1)
                described = tuple(self._describe(each, names=False) for each in listed[:limit])
                return LeasesListed(revision, described, len(listed) > limit)

    def _revoke(self, operation: RevokeLease) -> LeaseRevoked:
        leases, lease = self._history.leases, operation.lease
        self._check_lease(lease, keys=False)
        renewal = leases.known(lease).renewal
        if operation.if_renewal not in {None, renewal}:
            raise Refused(
                Failure.LEASE_RENEWED,
                f"lease {lease} was renewed since: renewal {renewal} is the last one; nothing was changed",
                renewal,
            )
        keys = leases.keys_of(lease)
        if keys:
            self._history.write(dict.fromkeys(keys))
        leases.remove(lease)
        return LeaseRevoked(self._history.revision, len(keys))

    def _describe(self, lease: int, *, names: bool) -> LeaseDescribed:
        leases = self._history.leases
        known = leases.known(lease)
        keys = tuple(leases.keys_of(lease)) if names else ()
        self._room -= ITEM_BYTES + sum(map(len, keys))
        return LeaseDescribed(self._history.revision, lease, known.ttl_ms, known.renewal, known.keys, keys)

    def _check_lease(self, lease: int, *, keys: bool = True) -> None:
        """The lease must exist and, with ``keys``, have room for one more."""
        known = self._history.leases.get(lease)
        if known is None:
            raise Refused(
                Failure.LEASE_UNKNOWN,
                f"there is no lease {lease}: it expired, was revoked or never was; nothing was changed",
            )
        if keys and known.keys + len(self._draft) >= LEASE_KEYS_MAX:
            raise Refused(
                Failure.LEASES_FULL,
                f"{known.keys} keys live with lease {lease}, and {LEASE_KEYS_MAX} may; nothing was changed",
            )

    # ---------------------------------------------------------------------------------------------------- conditions

    def _holds(self, condition: Condition) -> bool:
        if isinstance(condition, Unchanged):
            self._check_readable(condition.revision, zero_is_now=False)
            return not self._history.changed_since(condition.first, condition.last, condition.revision)
        return compare(condition, self._history.latest(condition.key))

    # ------------------------------------------------------------------------------------------------------- helpers

    @property
    def _now(self) -> int:
        """The revision that a result carries."""
        return self._revision if self._draft else self._revision - 1

    def _current(self, key: bytes) -> KeyValue | None:
        if key in self._draft:
            return self._draft[key]
        return self._history.latest(key)

    def _interval(self, operation: Range, system: bool) -> Iterator[KeyValue]:
        """The interval as the operation sees it, the draft laid over what is stored."""
        if operation.revision != 0:
            self._check_readable(operation.revision)
            return self._history.interval(
                operation.first, operation.last, operation.revision, reverse=operation.reverse, system=system
            )
        stored = self._history.interval(
            operation.first,
            operation.last,
            self._history.revision,
            reverse=operation.reverse,
            system=system,
        )
        if not self._draft:
            return stored
        first, last = operation.first, operation.last
        drafted = sorted((item for item in self._draft.values() if item is not None and first <= item.key), key=_key_of)
        inside = [
            item
            for item in drafted
            if (not last or item.key < last) and (system or not item.key.startswith(SYSTEM_PREFIX))
        ]
        if operation.reverse:
            inside.reverse()
        untouched = filterfalse(lambda item: item.key in self._draft, stored)
        return merge(untouched, inside, key=_key_of, reverse=operation.reverse)

    def _count(self, operation: Range, system: bool) -> int:
        if self._draft and operation.revision == 0:
            return sum(1 for _ in self._interval(operation, system))
        if operation.revision:
            self._check_readable(operation.revision)
        revision = operation.revision or self._history.revision
        return self._history.count(operation.first, operation.last, revision, system=system)

    def _write(self, key: bytes, value: bytes, before: KeyValue | None, lease: int) -> None:
        if before is None:
            self._draft[key] = KeyValue(key, value, self._revision, self._revision, 1, lease)
        else:
            self._draft[key] = KeyValue(key, value, before.create_revision, self._revision, before.version + 1, lease)

    def _check_readable(self, revision: int, *, zero_is_now: bool = True) -> None:
        history = self._history
        if revision > history.revision:
            raise Refused(
                Failure.FUTURE_REVISION,
                f"revision {revision} has not been reached: the present one is {history.revision}",
                history.revision,
            )
        if revision < history.compacted and not (zero_is_now and revision == 0):
            raise Refused(
                Failure.COMPACTED,
                f"revision {revision} has been compacted away: the oldest that can be read is {history.compacted}",
                history.compacted,
            )


def _key_of(item: KeyValue) -> bytes:
    return item.key


def compare(condition: Compare, item: KeyValue | None) -> bool:
    """Does the condition hold for the key as it is?"""
    operand = condition.operand
    actual: bytes | int
    match condition.target:
        case "value":
            if item is None:
                return condition.relation == "!="
            actual = item.value
        case "version":
            actual = 0 if item is None else item.version
        case "create":
            actual = 0 if item is None else item.create_revision
        case "mod":
            actual = 0 if item is None else item.mod_revision
        case "exists":
            actual = 0 if item is None else 1
    match condition.relation:
        case "=":
            return actual == operand
        case "!=":
            return actual != operand
        case "<":
            return actual < operand  # type: ignore[operator]  # of one type: checked where it is constructed
        case ">":
            return actual > operand  # type: ignore[operator]
