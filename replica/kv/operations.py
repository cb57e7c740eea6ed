"""What clients ask of the key-value store, and what it answers: shared by client, node and state machine.

Operations and results are MessagePack arrays that begin with a small integer tag (msgspec structs with ``array_like``),
so that any language can speak them and Python pays one C call for a whole batch. Fields are only ever appended, with
defaults. This module is a leaf: it depends on msgspec alone.

Keys are arbitrary bytes of at most `KEY_BYTES_MAX`, not empty; intervals are half-open ``[first, last)`` with an empty
``last`` for "to the end". Revisions count from 1; every command that changes something takes the next one, and all
changes of one transaction share it. Keys that begin with ``SYSTEM_PREFIX`` belong to the system.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

KEY_BYTES_MAX: Final = 250
"""A key's limit. LMDB ends at 511 bytes; zero bytes are escaped to two, and a terminator and a revision share the rest:
``2 * 250 + 2 + 8 = 510``."""

VALUE_BYTES_MAX: Final = 1 << 20
"""A value's limit, in bytes."""

TRANSACTION_OPERATIONS_MAX: Final = 256
"""Compares plus operations of both branches in one transaction."""

SESSION_WINDOW: Final = 4096
"""Sequences that a session may have outstanding: from the first unacknowledged one on."""

RESULT_BYTES_MAX: Final = 3 << 20
"""What one operation may answer, in bytes of keys and values; a range stops there and says that there is more."""

SYSTEM_PREFIX: Final = b"\x00synod/"
"""Keys reserved for the system."""


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """Base of the operations."""


class Put(Operation, frozen=True, tag=1):
    """Set ``key``. With ``if_revision``, only if its modification revision is that (0: the key must not exist)."""

    key: bytes
    value: bytes
    lease: int = 0
    if_revision: int | None = None
    previous: bool = False


class Get(Operation, frozen=True, tag=2):
    """Read ``key``, at ``revision`` if that is not 0."""

    key: bytes
    revision: int = 0


class Range(Operation, frozen=True, tag=3):
    """Read an interval of keys in order. ``limit`` 0 is none; a truncated answer says so (``more``)."""

    first: bytes
    last: bytes
    limit: int = 0
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False
    revision: int = 0


class Delete(Operation, frozen=True, tag=4):
    """Remove ``key``, with the same condition as `Put`."""

    key: bytes
    if_revision: int | None = None
    previous: bool = False


class DeleteRange(Operation, frozen=True, tag=5):
    """Remove every key of an interval."""

    first: bytes
    last: bytes
    previous: bool = False


class Add(Operation, frozen=True, tag=6):
    """Add ``delta`` to the decimal integer stored at ``key`` (absent counts as 0); evaluated where it is applied."""

    key: bytes
    delta: int


class Compare(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """``target`` of ``key`` stands in ``relation`` to ``operand``.

    Targets: ``value`` (bytes), ``version``, ``create``, ``mod`` (integers; 0 for an absent key), ``exists`` (1 or 0).
    Relations: ``=``, ``!=``, ``<``, ``>``. An absent key has no value: comparing it fails, except with ``!=``.
    """

    key: bytes
    target: str
    relation: str
    operand: bytes | int


class Unchanged(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nothing in ``[first, last)`` was written or deleted after ``revision``: a recorded range has no phantoms."""

    first: bytes
    last: bytes
    revision: int


Condition: TypeAlias = Compare | Unchanged

Simple: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add


class Transaction(Operation, frozen=True, tag=7):
    """If all ``conditions`` hold, do ``then``, else ``otherwise``; atomically, at one revision."""

    conditions: tuple[Condition, ...]
    then: tuple[Simple, ...]
    otherwise: tuple[Simple, ...] = ()


class Compact(Operation, frozen=True, tag=8):
    """Forget what was superseded at or before ``revision``."""

    revision: int


class OpenSession(Operation, frozen=True, tag=9):
    """Register a new session; ``nonce`` pairs the request with its answer and identifies nothing."""

    nonce: bytes


class CloseSession(Operation, frozen=True, tag=10):
    """Forget the session."""

    session: int


AnyOperation: TypeAlias = (
    Put | Get | Range | Delete | DeleteRange | Add | Transaction | Compact | OpenSession | CloseSession
)

READ_ONLY: Final = (Get, Range)


# ---------------------------------------------------------------------------------------------------------- results


class KeyValue(msgspec.Struct, frozen=True, array_like=True):
    """A key with its value and history: ``version`` counts its writes since ``create_revision``."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Result(msgspec.Struct, frozen=True, array_like=True):
    """Base of the results. ``revision`` is the store's when the operation took effect."""

    revision: int


class Written(Result, frozen=True, tag=1):
    """A put took effect."""

    previous: KeyValue | None = None


class Got(Result, frozen=True, tag=2):
    """A get; None when there is no such key."""

    item: KeyValue | None = None


class Ranged(Result, frozen=True, tag=3):
    """A range. ``count`` is how many keys the interval holds; ``more`` that the answer was truncated."""

    items: tuple[KeyValue, ...] = ()
    count: int = 0
    more: bool = False


class Deleted(Result, frozen=True, tag=4):
    """``count`` keys were removed."""

    count: int = 0
    previous: tuple[KeyValue, ...] = ()


class Added(Result, frozen=True, tag=5):
    """The value after the addition."""

    value: int = 0


class Transacted(Result, frozen=True, tag=6):
    """Which branch ran, and the results of its operations."""

    succeeded: bool = False
    results: tuple[AnyResult, ...] = ()


class Compacted(Result, frozen=True, tag=7):
    """Revisions before ``compacted`` are gone."""

    compacted: int = 0


class SessionOpened(Result, frozen=True, tag=8):
    """The new session's id."""

    session: int = 0


class SessionClosed(Result, frozen=True, tag=9):
    """The session is gone (or never was)."""


class Failure:
    """Codes of `Failed`."""

    CONDITION: Final = "condition"
    """``if_revision`` did not hold; nothing was changed."""
    COMPACTED: Final = "compacted"
    """The revision asked for is gone."""
    FUTURE_REVISION: Final = "future revision"
    NOT_A_NUMBER: Final = "not a number"
    INVALID: Final = "invalid"
    """Malformed or beyond a limit; nothing was changed."""
    SESSION_UNKNOWN: Final = "session unknown"
    """The session was evicted or never opened. An earlier attempt of the same sequence may have taken effect."""
    RESULT_FORGOTTEN: Final = "result forgotten"
    """The sequence was executed once, its result is no longer kept."""
    WINDOW: Final = "window"
    """The sequence lies beyond the session's window; nothing was changed."""


class Failed(Result, frozen=True, tag=10):
    """The operation was refused, the same way on every replica. ``detail`` is a revision where the code has one."""

    code: str = Failure.INVALID
    message: str = ""
    detail: int = 0


AnyResult: TypeAlias = (
    Written | Got | Ranged | Deleted | Added | Transacted | Compacted | SessionOpened | SessionClosed | Failed
)


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys that begin with ``prefix``; empty ("to the end") when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b""
