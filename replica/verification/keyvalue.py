"""The vocabulary of the ``kv`` model, and what each of its operations means.

Written from the description of the store, not from its code: a revisioned map in which every operation that changes
something takes the next revision, and all changes of one transaction share it.

Items are what is recorded of a key; fields that a recorder left out are None and agree with anything.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

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


class Transaction(_Argument, frozen=True, tag="transaction"):
    conditions: tuple[Condition, ...] = ()
    then: tuple[Simple, ...] = ()
    otherwise: tuple[Simple, ...] = ()


class Compact(_Argument, frozen=True, tag="compact"):
    revision: Number


Action: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add | Transaction | Compact


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
