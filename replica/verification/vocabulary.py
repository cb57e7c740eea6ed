"""The vocabulary of the ``kv`` model, and what each of its operations means.

Written from the description of the store, not from its code: a revisioned map in which every operation that changes
something takes the next revision, and all changes of one transaction share it.

Items are what is recorded of a key; fields that a recorder left out are None and agree with anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from .history import HistoryError, Operation
from .models import convert, unknown_operation

SYSTEM_PREFIX: Final = "\x00synod/"
"""Keys of the store itself: intervals pass over them."""

Number: TypeAlias = Annotated[int, Meta(ge=0)]


class _Argument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="operation"):
    """Base of the operations."""


class Put(_Argument, frozen=True, tag="put"):
    key: str
    value: str
    if_revision: Number | None = None
    previous: bool = False
    lease: Number = 0


class Get(_Argument, frozen=True, tag="get"):
    key: str
    revision: Number = 0


class Range(_Argument, frozen=True, tag="range"):
    first: str
    last: str
    limit: Number = 0
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False
    revision: Number = 0


class Delete(_Argument, frozen=True, tag="delete"):
    key: str
    if_revision: Number | None = None
    previous: bool = False


class DeleteRange(_Argument, frozen=True, tag="delete_range"):
    first: str
    last: str
    previous: bool = False


class Add(_Argument, frozen=True, tag="add"):
    key: str
    delta: int


class Compare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="condition", tag="compare"):
    key: str
    target: Literal["value", "version", "create", "mod", "exists"]
    relation: Literal["=", "!=", "<", ">"]
    operand: str | int

    def __post_init__(self) -> None:
        if isinstance(self.operand, str) != (self.target == "value"):
            raise ValueError(f"a comparison of {self.target} has an operand of the wrong type")


class Unchanged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="condition", tag="unchanged"):
    first: str
    last: str
    revision: Number


Condition: TypeAlias = Compare | Unchanged
Simple: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add


class Lease(_Argument, frozen=True, tag="lease"):
    """Granting, renewing or describing a lease: it shows the revision of the store, and is not judged beyond that."""

    lease: Number = 0


class Revoke(_Argument, frozen=True, tag="revoke"):
    """The end of a lease takes all keys that live with it at one revision."""

    lease: Number
    if_renewal: Number | None = None
    keys: tuple[str, ...] = ()
    """Keys that may have lived with it: never recorded, but gathered from the puts of the history."""


class Transaction(_Argument, frozen=True, tag="transaction"):
    conditions: tuple[Condition, ...] = ()
    then: tuple[Simple, ...] = ()
    otherwise: tuple[Simple, ...] = ()


class Compact(_Argument, frozen=True, tag="compact"):
    revision: Number


Action: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add | Transaction | Compact | Lease | Revoke


class RecordedItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as somebody saw it."""

    value: str | None = None
    key: str | None = None
    create: int | None = None
    mod: int | None = None
    version: int | None = None
    lease: int | None = None


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recorded result of any operation."""

    revision: Number | None = None
    item: RecordedItem | None = None
    items: tuple[RecordedItem, ...] | None = None
    previous: RecordedItem | None = None
    removed: tuple[RecordedItem, ...] = ()
    count: int | None = None
    more: bool = False
    value: int | None = None
    succeeded: bool | None = None
    results: tuple[Answer, ...] | None = None
    compacted: int | None = None
    failed: str | None = None
    detail: int | None = None


# ----------------------------------------------------------------------------------------------------------- reading

_SHAPES: Final[Mapping[str, type[Action]]] = MappingProxyType(
    {
        "put": Put,
        "get": Get,
        "range": Range,
        "delete": Delete,
        "delete_range": DeleteRange,
        "add": Add,
        "transaction": Transaction,
        "compact": Compact,
        "lease": Lease,
        "revoke": Revoke,
    }
)

OPERATIONS: Final = tuple(_SHAPES)
"""The operations of the model, by name."""

_REQUIRED: Final[Mapping[type[Action], tuple[str, ...]]] = MappingProxyType(
    {
        Get: ("item",),
        Delete: ("count",),
        DeleteRange: ("count",),
        Revoke: ("count",),
        Add: ("value",),
        Transaction: ("succeeded", "results"),
    }
)

JUDGED: Final = frozenset({"condition", "future revision", "not a number"})
"""Refusals that follow from the state, and so are judged."""

_TAKEN_AS_THEY_ARE: Final = frozenset(
    {"compacted", "invalid", "unsupported", "lease unknown", "lease exists", "leases full", "lease renewed"}
)
"""Others that are definite: limits, and which leases there are, are not part of the model, and compaction is held
against real time alone."""

Interval: TypeAlias = tuple[str, str]


def read_action(operation: Operation) -> Action:
    """What was asked. Raises `HistoryError`."""
    line = operation.invoked_line
    shape = _SHAPES.get(operation.operation)
    if shape is None:
        raise unknown_operation(operation, "kv", OPERATIONS)
    described = operation.arguments
    if operation.key is not None:
        described = {**described, "key": operation.key}
    action = convert(described, shape, line, f"arguments of {operation.operation}")
    if operation.stale and not isinstance(action, Get | Range):
        raise HistoryError(line, f"a {operation.operation} cannot be stale; only reads can")
    return action


def read_answer(operation: Operation, action: Action) -> Answer:
    """What was answered. Raises `HistoryError`."""
    answer = convert(operation.result, Answer, operation.completed_line, f"result of {operation.operation}")
    _check_complete(operation.result, answer, action, operation.completed_line)
    return answer


def _check_complete(result: Mapping[str, Any], answer: Answer, action: Action, line: int) -> None:
    if answer.failed is not None:
        if answer.failed not in JUDGED | _TAKEN_AS_THEY_ARE:
            known = ", ".join(sorted(JUDGED | _TAKEN_AS_THEY_ARE))
            raise HistoryError(
                line,
                f"the refusal {answer.failed!r} is not one of the model ({known}); one that leaves the outcome open is "
                "recorded as unknown, one that says nothing about the state as fail",
            )
        return
    if isinstance(action, Range):
        required: tuple[str, ...] = ("count",) if action.count_only else ("items",)
    else:
        required = _REQUIRED.get(type(action), ())
    for name in required:
        if name not in result:
            raise HistoryError(line, f"the result lacks {name!r}")
    if isinstance(action, Transaction) and answer.results is not None:
        branch = action.then if answer.succeeded else action.otherwise
        if len(branch) != len(answer.results):
            raise HistoryError(line, f"{len(answer.results)} results answer a branch of {len(branch)} operations")
        for nested, part, each in zip(result["results"], answer.results, branch, strict=True):
            _check_complete(nested, part, each, line)


def parts_of(action: Action) -> Iterator[Simple | Condition | Revoke]:
    """The action itself, or the operations and conditions of a transaction."""
    if isinstance(action, Transaction):
        yield from action.conditions
        yield from action.then
        yield from action.otherwise
    elif not isinstance(action, Compact | Lease):
        yield action


def reach_of(action: Action) -> tuple[list[str], list[Interval]]:
    """The keys and intervals that the action looks at or writes."""
    keys: list[str] = []
    intervals: list[Interval] = []
    for part in parts_of(action):
        if isinstance(part, Range | DeleteRange | Unchanged):
            intervals.append((part.first, part.last))
        elif isinstance(part, Revoke):
            keys.extend(part.keys)
        else:
            keys.append(part.key)
    return keys, intervals


def items_of(answer: Answer) -> Iterator[RecordedItem]:
    """All items that the answer shows."""
    for item in (answer.item, answer.previous):
        if item is not None:
            yield item
    yield from answer.items or ()
    yield from answer.removed
    for nested in answer.results or ():
        yield from items_of(nested)


def changes(action: Action, answer: Answer) -> bool:
    """Has an action that answered so changed anything?"""
    if answer.failed is not None:
        return False
    match action:
        case Put() | Add():
            return True
        case Delete() | DeleteRange() | Revoke():
            return bool(answer.count)
        case Transaction():
            branch = action.then if answer.succeeded else action.otherwise
            return any(map(changes, branch, answer.results or ()))
        case _:
            return False


def may_write(action: Action) -> bool:
    """Could the action change anything?"""
    return any(isinstance(part, Put | Add | Delete | DeleteRange | Revoke) for part in parts_of(action))


def revisions_named(action: Action) -> Iterator[int]:
    """The revisions that the action compares with, or reads at."""
    for part in parts_of(action):
        match part:
            case Put() | Delete() if part.if_revision is not None:
                yield part.if_revision
            case Compare() if part.target in {"create", "mod"} and isinstance(part.operand, int):
                yield part.operand
            case Unchanged():
                yield part.revision
            case Get() | Range() if part.revision:
                yield part.revision
            case _:
                pass


def revisions_shown(answer: Answer) -> Iterator[int]:
    """The revisions that the answer shows, beside its own."""
    for item in items_of(answer):
        if item.create is not None:
            yield item.create
        if item.mod is not None:
            yield item.mod
    if answer.detail is not None:
        yield answer.detail
