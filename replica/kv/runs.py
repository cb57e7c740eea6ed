"""Runs of operations as bytes: what a client sends, what a command carries, and what is checked on the way.

A *run* is a MessagePack array of operations with consecutive sequence numbers of one session. Its *payload*, the bytes
that consensus decides on, puts before it the sequence up to which the client holds all results:
``[acknowledged, operations]``, and a third element, true, when the system itself is speaking. A payload is built by
concatenation, so that the operations are parsed where they are applied and nowhere else; `validate_run` is the one
exception, and it is a single call into C.

Limits on keys, values and numbers are part of the operations' types and hold at every decoding: a replica that applies
a run refuses what a replica that proposed it should have refused, on every replica alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from .operations import (
    KEY_BYTES_MAX,
    OPERATION_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Add,
    AnyOperation,
    AnyResult,
    ClientOperation,
    CloseSession,
    Compact,
    Compare,
    Delete,
    DeleteRange,
    DescribeLease,
    Get,
    GrantLease,
    KeepAlive,
    ListLeases,
    Number,
    OpenSession,
    Put,
    Range,
    ReadOperation,
    RevokeLease,
    Transaction,
)


class MalformedOperation(ValueError):
    """An operation, a run or a payload does not parse or lies beyond a limit. Nothing was proposed or changed."""


class OversizedOperation(MalformedOperation):
    """Well-formed, but a key, a value, an operation or a run is too large."""


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What a command carries."""

    acknowledged: Number
    operations: list[AnyOperation]
    system: bool = False


class _Parts(msgspec.Struct, frozen=True, array_like=True):
    acknowledged: int
    operations: list[msgspec.Raw]
    system: bool = False


_encode = msgspec.msgpack.Encoder().encode
_payloads: Final = msgspec.msgpack.Decoder(Payload)
_parts: Final = msgspec.msgpack.Decoder(_Parts)
_client_runs: Final = msgspec.msgpack.Decoder(list[ClientOperation])
_reads: Final = msgspec.msgpack.Decoder(list[ReadOperation])
_results: Final = msgspec.msgpack.Decoder(list[AnyResult])
_raw_results: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_one: Final = msgspec.msgpack.Decoder(AnyOperation)

# msgspec raises these for bytes that are no MessagePack, and for MessagePack of another shape.
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# ------------------------------------------------------------------------------------------------------------ coding


def encode_operations(operations: Sequence[AnyOperation]) -> bytes:
    """A run as bytes. Raises `MalformedOperation` for a number that MessagePack cannot hold."""
    try:
        return _encode(operations)
    except (OverflowError, TypeError) as error:
        raise MalformedOperation(str(error)) from None


def encode_operation(operation: AnyOperation) -> bytes:
    """One operation, to be joined with others by `join_operations`. Raises `MalformedOperation`."""
    try:
        return _encode(operation)
    except (OverflowError, TypeError) as error:
        raise MalformedOperation(str(error)) from None


def join_operations(encoded: Sequence[bytes]) -> bytes:
    """A run of operations that were encoded one by one."""
    return array_header(len(encoded)) + b"".join(encoded)


def decode_results(results: bytes, count: int) -> list[AnyResult]:
    """The answer to ``count`` operations. Raises `MalformedOperation`."""
    try:
        decoded = _results.decode(results)
    except _DECODE_ERRORS as error:
        raise MalformedOperation(f"the results do not parse: {error}") from None
    if len(decoded) != count:
        raise MalformedOperation(f"{len(decoded)} results answer {count} operations")
    return decoded


def encode_results(results: Sequence[AnyResult]) -> bytes:
    """Results as they stand in an answer."""
    return _encode(results)


def join_results(encoded: Sequence[bytes]) -> bytes:
    """The answers to several pieces of a batch as one. Raises `MalformedOperation`."""
    if len(encoded) == 1:
        return encoded[0]
    try:
        results = [bytes(result) for piece in encoded for result in _raw_results.decode(piece)]
    except _DECODE_ERRORS as error:
        raise MalformedOperation(f"the results do not parse: {error}") from None
    return array_header(len(results)) + b"".join(results)


def array_header(length: int) -> bytes:
    """How MessagePack begins an array of that many elements."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")


# ---------------------------------------------------------------------------------------------------------- payloads


def pack_payload(acknowledged: int, operations: bytes, *, system: bool = False) -> bytes:
    """The payload of a command; ``operations`` is copied as it is. Only the system itself may say ``system``."""
    if system:
        return b"\x93" + _encode(acknowledged) + operations + b"\xc3"
    return b"\x92" + _encode(acknowledged) + operations


def unpack(payload: bytes) -> Payload:
    """The contents of a payload, every limit checked. Raises `MalformedOperation`."""
    try:
        return _payloads.decode(payload)
    except _DECODE_ERRORS as error:
        raise MalformedOperation(str(error)) from None


def split_payload(payload: bytes, max_operations: int) -> list[tuple[int, int, bytes]]:
    """Cut a payload into payloads of at most ``max_operations`` operations each.

    Returns (offset of the first operation, number of operations, payload) in order; operations are moved, not decoded.
    Raises `MalformedOperation`.
    """
    if max_operations < 1:
        raise ValueError(f"max_operations is {max_operations}, must be at least 1")
    try:
        parts = _parts.decode(payload)
    except _DECODE_ERRORS as error:
        raise MalformedOperation(str(error)) from None
    operations = parts.operations
    if len(operations) <= max_operations:
        return [(0, len(operations), payload)]
    pieces = []
    for offset in range(0, len(operations), max_operations):
        chunk = operations[offset : offset + max_operations]
        run = array_header(len(chunk)) + b"".join(map(bytes, chunk))
        pieces.append((offset, len(chunk), pack_payload(parts.acknowledged, run, system=parts.system)))
    return pieces


# --------------------------------------------------------------------------------------------------------- validation


def validate_run(operations: bytes, count: int) -> list[ClientOperation]:
    """Check a client's run before it is proposed; returns the operations for whoever wants a footprint.

    One call into C for the whole run (0.2 µs per put of 128 bytes). Raises `MalformedOperation` saying what is wrong.
    """
    if len(operations) > OPERATION_BYTES_MAX or (len(operations) > RUN_BYTES_MAX and count > 1):
        raise OversizedOperation(
            f"a run of {count} operations has {len(operations)} bytes; {RUN_BYTES_MAX} are allowed in a run, "
            f"{OPERATION_BYTES_MAX} in a single operation"
        )
    if not 0 < count <= RUN_OPERATIONS_MAX:
        raise OversizedOperation(f"a run has 1 to {RUN_OPERATIONS_MAX} operations, this one says {count}")
    try:
        decoded = _client_runs.decode(operations)
    except _DECODE_ERRORS as error:
        raise _unparsable("the run", error) from None
    if len(decoded) != count:
        raise MalformedOperation(f"a run says it has {count} operations and has {len(decoded)}")
    return decoded


def validate_reads(operations: bytes, count: int) -> list[ReadOperation]:
    """The same for reads that do not go through the log. Raises `MalformedOperation`."""
    if len(operations) > RUN_BYTES_MAX:
        raise OversizedOperation(f"reads of {len(operations)} bytes; {RUN_BYTES_MAX} are allowed")
    if not 0 < count <= RUN_OPERATIONS_MAX:
        raise OversizedOperation(f"a batch has 1 to {RUN_OPERATIONS_MAX} reads, this one says {count}")
    try:
        decoded = _reads.decode(operations)
    except _DECODE_ERRORS as error:
        raise _unparsable("the reads", error) from None
    if len(decoded) != count:
        raise MalformedOperation(f"a batch says it has {count} reads and has {len(decoded)}")
    return decoded


def _unparsable(what: str, error: Exception) -> MalformedOperation:
    # msgspec names a bound that was exceeded by its relation; nothing else that it says contains that.
    if " of length <= " in str(error):
        return OversizedOperation(f"{what} beyond a limit: {error}")
    return MalformedOperation(f"{what} cannot be parsed: {error}")


def removes(operations: Sequence[AnyOperation]) -> bool:
    """Do the operations free space, sooner or later, and add none but for the traces of the removal?

    Reads among them do not matter, nor does renewing a lease, which only its end would free. Transactions count as
    adding: the branch that runs is known too late.
    """
    return all(isinstance(operation, _REMOVING) for operation in operations)


_REMOVING: Final = (
    Delete,
    DeleteRange,
    Compact,
    CloseSession,
    Get,
    Range,
    KeepAlive,
    RevokeLease,
    DescribeLease,
    ListLeases,
)


def check_operation(operation: AnyOperation) -> None:
    """Check one operation before it is sent, so that its own caller hears of it. Raises `MalformedOperation`."""
    if type(operation) is Put:
        # The common case, spelled out: a tenth of the price of encoding and decoding.
        key, value = operation.key, operation.value
        if type(key) is not bytes or type(value) is not bytes:
            raise MalformedOperation("keys and values are bytes")
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise MalformedOperation(f"a key has 1 to {KEY_BYTES_MAX} bytes, this one has {len(key)}")
        if len(value) > VALUE_BYTES_MAX:
            raise MalformedOperation(f"a value has at most {VALUE_BYTES_MAX} bytes, this one has {len(value)}")
        if operation.if_revision is None and operation.lease == 0:
            return
    encoded = encode_operation(operation)
    if len(encoded) > OPERATION_BYTES_MAX:
        raise MalformedOperation(f"an operation has at most {OPERATION_BYTES_MAX} bytes, this one has {len(encoded)}")
    try:
        _one.decode(encoded)
    except _DECODE_ERRORS as error:
        raise MalformedOperation(str(error)) from None


# --------------------------------------------------------------------------------------------------------- footprints


class Touched(NamedTuple):
    """What a run touches, with the fields of the protocols' footprint, in their order."""

    reads: tuple[bytes, ...]
    writes: tuple[bytes, ...]
    ranges: tuple[tuple[bytes, bytes], ...]
    read_only: bool
    written_ranges: tuple[tuple[bytes, bytes], ...]


_EVERYTHING: Final = (b"", b"")


def footprint(operations: Sequence[AnyOperation]) -> Touched:
    """The union over the operations, without duplicates, in the order of first mention.

    A transaction counts with both branches. Compaction, sessions and leases interfere with everything.
    """
    touched = _Footprint()
    for operation in operations:
        touched.add(operation)
    return Touched(
        tuple(touched.reads),
        tuple(touched.writes),
        tuple(touched.ranges),
        not touched.writes and not touched.written_ranges,
        tuple(touched.written_ranges),
    )


class _Footprint:
    """Collects; dicts serve as ordered sets."""

    def __init__(self) -> None:
        self.reads: dict[bytes, None] = {}
        self.writes: dict[bytes, None] = {}
        self.ranges: dict[tuple[bytes, bytes], None] = {}
        self.written_ranges: dict[tuple[bytes, bytes], None] = {}

    def add(self, operation: AnyOperation) -> None:
        match operation:
            case Put() | Delete() | Add():
                self.writes[operation.key] = None
            case Get():
                self.reads[operation.key] = None
            case Range():
                self.ranges[operation.first, operation.last] = None
            case DeleteRange():
                self.written_ranges[operation.first, operation.last] = None
            case Transaction():
                for condition in operation.conditions:
                    if isinstance(condition, Compare):
                        self.reads[condition.key] = None
                    else:
                        self.ranges[condition.first, condition.last] = None
                for simple in (*operation.then, *operation.otherwise):
                    self.add(simple)
            case DescribeLease() | ListLeases():
                self.ranges[_EVERYTHING] = None
            case Compact() | OpenSession() | CloseSession() | GrantLease() | KeepAlive() | RevokeLease():
                self.written_ranges[_EVERYTHING] = None
