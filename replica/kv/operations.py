"""What clients ask of the key-value store, and what it answers: shared by client, node and state machine.

Operations and results are MessagePack arrays that begin with a small integer tag (msgspec structs with ``array_like``),
so that any language can speak them and Python pays one C call for a whole batch. Fields are only ever appended, with
defaults. This module is a leaf: it depends on msgspec alone.

Keys are arbitrary bytes of at most `KEY_BYTES_MAX`, not empty; intervals are half-open ``[first, last)`` with an empty
``last`` for "to the end". Revisions count from 1; every command that changes something takes the next one, and all
changes of one transaction share it. Keys that begin with ``SYSTEM_PREFIX`` belong to the system.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

KEY_BYTES_MAX: Final = 250
"""A key's limit. LMDB ends at 511 bytes; zero bytes are escaped to two, and a terminator and a revision share the rest:
``2 * 250 + 2 + 8 = 510``."""

VALUE_BYTES_MAX: Final = 1 << 20
"""A value's limit, in bytes."""

TRANSACTION_OPERATIONS_MAX: Final = 256
"""Conditions plus operations of both branches in one transaction."""

RUN_OPERATIONS_MAX: Final = 1024
"""Operations in one run."""

RUN_BYTES_MAX: Final = 2 << 20
"""Encoded operations of one run, in bytes; the largest single operation that fits the other limits may go beyond it by
itself (a transaction of many large values), up to `OPERATION_BYTES_MAX`."""

OPERATION_BYTES_MAX: Final = 3 << 20
"""One encoded operation, in bytes."""

DELETE_RANGE_KEYS_MAX: Final = 100_000
"""Keys that one `DeleteRange` may remove; more are refused, so that one operation cannot stall a replica."""

SESSION_WINDOW: Final = 4096
"""Sequences that a session may have outstanding: from the first unacknowledged one on."""

LEASES_MAX: Final = 100_000
"""Leases that exist at once; more are refused."""

LEASE_KEYS_MAX: Final = 10_000
"""Keys that live with one lease; more are refused, so that the end of a lease cannot stall a replica."""

LEASE_TTL_MS_MAX: Final = 10 * 365 * 24 * 3600 * 1000
"""The longest time to live of a lease, in milliseconds."""

LEASES_LISTED_MAX: Final = 10_000
"""Leases in one answer to `ListLeases`, which says that there are more."""

RESULT_BYTES_MAX: Final = 3 << 20
"""What one operation may answer, in bytes of keys and values; a range stops there and says that there is more."""

SYSTEM_PREFIX: Final = b"\x00synod/"
"""Keys reserved for the system."""


REVISION_MAX: Final = (1 << 63) - 1
"""The largest revision, lease and session id that an operation may name."""

Key: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=KEY_BYTES_MAX)]
Bound: TypeAlias = Annotated[bytes, Meta(max_length=KEY_BYTES_MAX)]
"""An end of an interval; empty is the beginning or the end of all keys."""
Value: TypeAlias = Annotated[bytes, Meta(max_length=VALUE_BYTES_MAX)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=REVISION_MAX)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=LEASE_TTL_MS_MAX)]
Delta: TypeAlias = Annotated[int, Meta(ge=-REVISION_MAX, le=REVISION_MAX)]
# The limits in these annotations are checked where an operation is decoded (in C), not where it is constructed.


class Operation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of the operations."""


class Put(Operation, frozen=True, gc=False, tag=1):
    """Set ``key``. With ``if_revision``, only if its modification revision is that (0: the key must not exist).

    With ``lease``, the key lives as long as that lease, which must exist; without, a lease that it had counts no more.
    """

    key: Key
    value: Value
    lease: Number = 0
    if_revision: Number | None = None
    previous: bool = False


class Get(Operation, frozen=True, gc=False, tag=2):
    """Read ``key``, at ``revision`` if that is not 0."""

    key: Key
    revision: Number = 0


class Range(Operation, frozen=True, gc=False, tag=3):
    """Read an interval of keys in order. ``limit`` 0 is none; a truncated answer says so (``more``).

    Keys of the system are passed over, unless ``first`` is one.
    """

    first: Bound
    last: Bound
    limit: Number = 0
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False
    revision: Number = 0


class Delete(Operation, frozen=True, gc=False, tag=4):
    """Remove ``key``, with the same condition as `Put`."""

    key: Key
    if_revision: Number | None = None
    previous: bool = False


class DeleteRange(Operation, frozen=True, gc=False, tag=5):
    """Remove every key of an interval, at most `DELETE_RANGE_KEYS_MAX`. Keys of the system are passed over."""

    first: Bound
    last: Bound
    previous: bool = False


class Add(Operation, frozen=True, gc=False, tag=6):
    """Add ``delta`` to the decimal integer stored at ``key`` (absent counts as 0); evaluated where it is applied.

    A stored value that is no integer, and a sum beyond 64 bits, fail with ``not a number``.
    """

    key: Key
    delta: Delta


class Compare(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """``target`` of ``key`` stands in ``relation`` to ``operand``.

    Targets: ``value`` (bytes), ``version``, ``create``, ``mod`` (integers; 0 for an absent key), ``exists`` (1 or 0).
    Relations: ``=``, ``!=``, ``<``, ``>``. An absent key has no value: comparing it fails, except with ``!=``.
    """

    key: Key
    target: Literal["value", "version", "create", "mod", "exists"]
    relation: Literal["=", "!=", "<", ">"]
    operand: bytes | int

    def __post_init__(self) -> None:
        expected = bytes if self.target == "value" else int
        if not isinstance(self.operand, expected):
            raise ValueError(f"compare of {self.target!r} needs an operand of type {expected.__name__}")


class Unchanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Nothing in ``[first, last)`` was written or deleted after ``revision``: a recorded range has no phantoms.

    Fails with ``compacted`` when ``revision`` lies below the compacted one: deletions may have been forgotten.
    """

    first: Bound
    last: Bound
    revision: Number


Condition: TypeAlias = Compare | Unchanged

Simple: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add


class Transaction(Operation, frozen=True, gc=False, tag=7):
    """If all ``conditions`` hold, do ``then``, else ``otherwise``; atomically, at one revision.

    Operations see what earlier ones of the branch wrote. When one of them fails, nothing is changed and the whole
    transaction answers `Failed`.
    """

    conditions: tuple[Condition, ...]
    then: tuple[Simple, ...]
    otherwise: tuple[Simple, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.conditions) + len(self.then) + len(self.otherwise)
        if size > TRANSACTION_OPERATIONS_MAX:
            raise ValueError(f"a transaction has at most {TRANSACTION_OPERATIONS_MAX} parts, this one has {size}")


class Compact(Operation, frozen=True, gc=False, tag=8):
    """Forget what was superseded at or before ``revision``. What is forgotten already is not an error."""

    revision: Number


class OpenSession(Operation, frozen=True, gc=False, tag=9):
    """Register a new session; ``nonce`` pairs the request with its answer and identifies nothing."""

    nonce: Annotated[bytes, Meta(min_length=1, max_length=64)]


class CloseSession(Operation, frozen=True, gc=False, tag=10):
    """Forget the session."""

    session: Number


class AboutLeases(Operation, frozen=True, gc=False):
    """Base of the operations on leases."""


class GrantLease(AboutLeases, frozen=True, gc=False, tag=11):
    """Begin a lease that lives for ``ttl_ms`` from its last renewal on, under the id ``lease`` (0: the store chooses).

    Leases take no revision: they are no keys. What a lease's time means is the business of whoever proposes its end;
    the state machine knows no clock.
    """

    ttl_ms: Milliseconds
    lease: Number = 0


class KeepAlive(AboutLeases, frozen=True, gc=False, tag=12):
    """Renew a lease: it has its full time again, and a new ``renewal``."""

    lease: Number


class RevokeLease(AboutLeases, frozen=True, gc=False, tag=13):
    """End a lease and delete its keys, all at one revision.

    With ``if_renewal``, only if nobody has renewed it since the renewal of that number: so leases expire, by a proposal
    that names the keep-alive that its proposer saw.
    """

    lease: Number
    if_renewal: Number | None = None


class DescribeLease(AboutLeases, frozen=True, gc=False, tag=14):
    """Read what is known of a lease; with ``names``, its keys, too."""

    lease: Number
    names: bool = False


class ListLeases(AboutLeases, frozen=True, gc=False, tag=15):
    """Read the leases with ids behind ``after``, at most ``limit`` (0: as many as an answer holds)."""

    after: Number = 0
    limit: Number = 0


AnyOperation: TypeAlias = (
    Put
    | Get
    | Range
    | Delete
    | DeleteRange
    | Add
    | Transaction
    | Compact
    | OpenSession
    | CloseSession
    | GrantLease
    | KeepAlive
    | RevokeLease
    | DescribeLease
    | ListLeases
)

LeaseOperation: TypeAlias = GrantLease | KeepAlive | RevokeLease | DescribeLease | ListLeases

ClientOperation: TypeAlias = Put | Get | Range | Delete | DeleteRange | Add | Transaction | Compact | LeaseOperation
"""What may stand in a client's run; sessions are opened and closed by the replica the client is attached to."""

ReadOperation: TypeAlias = Get | Range | DescribeLease | ListLeases

READ_ONLY: Final = (Get, Range, DescribeLease, ListLeases)


# ---------------------------------------------------------------------------------------------------------- results


class KeyValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key with its value and history: ``version`` counts its writes since ``create_revision``."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of the results. ``revision`` is the store's when the operation took effect."""

    revision: int


class Written(Result, frozen=True, gc=False, tag=1):
    """A put took effect."""

    previous: KeyValue | None = None


class Got(Result, frozen=True, gc=False, tag=2):
    """A get; None when there is no such key."""

    item: KeyValue | None = None


class Ranged(Result, frozen=True, gc=False, tag=3):
    """A range. ``count`` is the number of items, or with ``count_only`` of keys in the interval.

    ``more`` says that the answer was truncated: ask again from behind the last item (before it, in reverse).
    """

    items: tuple[KeyValue, ...] = ()
    count: int = 0
    more: bool = False


class Deleted(Result, frozen=True, gc=False, tag=4):
    """``count`` keys were removed."""

    count: int = 0
    previous: tuple[KeyValue, ...] = ()


class Added(Result, frozen=True, gc=False, tag=5):
    """The value after the addition."""

    value: int = 0


class Transacted(Result, frozen=True, gc=False, tag=6):
    """Which branch ran, and the results of its operations."""

    succeeded: bool = False
    results: tuple[AnyResult, ...] = ()


class Compacted(Result, frozen=True, gc=False, tag=7):
    """Revisions before ``compacted`` are gone."""

    compacted: int = 0


class SessionOpened(Result, frozen=True, gc=False, tag=8):
    """The new session's id."""

    session: int = 0


class SessionClosed(Result, frozen=True, gc=False, tag=9):
    """The session is gone (or never was)."""


class LeaseGranted(Result, frozen=True, gc=False, tag=11):
    """A lease began, or was renewed; ``renewal`` numbers that among all grants and renewals of the store."""

    lease: int = 0
    ttl_ms: int = 0
    renewal: int = 0


class LeaseRevoked(Result, frozen=True, gc=False, tag=12):
    """A lease has ended, and ``count`` keys with it."""

    count: int = 0


class LeaseDescribed(Result, frozen=True, gc=False, tag=13):
    """A lease: ``count`` keys live with it, whose ``names`` are there if they were asked for.

    ``remaining_ms`` is no part of the state: a replica that knows when it applied the last renewal adds how much of the
    time is left, by its own clock; None where nobody knows.
    """

    lease: int = 0
    ttl_ms: int = 0
    renewal: int = 0
    count: int = 0
    names: tuple[bytes, ...] = ()
    remaining_ms: int | None = None


class LeasesListed(Result, frozen=True, gc=False, tag=14):
    """Leases by id. ``more`` says that the answer was truncated: ask again from behind the last one."""

    leases: tuple[LeaseDescribed, ...] = ()
    more: bool = False


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
    """The sequence was executed before (or given up, when the client acknowledged it without its result) and its result
    is no longer kept. It is not executed again."""
    WINDOW: Final = "window"
    """The sequence lies beyond the session's window; nothing was changed."""
    UNSUPPORTED: Final = "unsupported"
    """The store has no such operation under its protocol (`replica.kv.objects`); nothing was changed."""
    LEASE_UNKNOWN: Final = "lease unknown"
    """There is no such lease: it expired, was revoked, or never was. Nothing was changed."""
    LEASE_EXISTS: Final = "lease exists"
    """A lease with that id exists already; nothing was changed."""
    LEASE_RENEWED: Final = "lease renewed"
    """``if_renewal`` did not hold: the lease was renewed since, and lives. ``detail`` numbers its last renewal."""
    LEASES_FULL: Final = "leases full"
    """There are as many leases as there may be, or as many keys with one lease; nothing was changed."""
    CROWDED: Final = "crowded"
    """The answers to the operations before it, in the same run or batch of reads, fill `RESULT_BYTES_MAX`. It was not
    executed and may be sent again under the same number. Everything behind it in the run fails in the same way."""


class Failed(Result, frozen=True, gc=False, tag=10):
    """The operation was refused, the same way on every replica. ``detail`` is a revision where the code has one."""

    code: str = Failure.INVALID
    message: str = ""
    detail: int = 0


AnyResult: TypeAlias = (
    Written
    | Got
    | Ranged
    | Deleted
    | Added
    | Transacted
    | Compacted
    | SessionOpened
    | SessionClosed
    | Failed
    | LeaseGranted
    | LeaseRevoked
    | LeaseDescribed
    | LeasesListed
)


# ------------------------------------------------------------------------------------------------------------- events


class WatchEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key was written or deleted.

    ``item`` is the key as it was from then on; after a deletion it has version 0 and no value, and ``mod_revision`` is
    the deletion's. ``previous`` is the key as it was before, for a watch that asked for it: None when there was none,
    or when compaction has forgotten it.
    """

    item: KeyValue
    previous: KeyValue | None = None

    @property
    def deleted(self) -> bool:
        """Was the key deleted?"""
        return self.item.version == 0

    @property
    def key(self) -> bytes:
        """The key."""
        return self.item.key

    @property
    def value(self) -> bytes:
        """What it was set to; empty for a deletion."""
        return self.item.value


class WatchBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything that one revision changed, as far as a watch is concerned."""

    revision: int
    events: tuple[WatchEvent, ...]


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all keys that begin with ``prefix``; empty ("to the end") when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else b""
