"""Cutting a client's run into commands each of which touches one key.

Keys must not interfere only because they travelled in one run. Operations that follow each other on one key stay
together, since their sequences do; a transaction and a range are commands of their own. A command is either all reads
or all writes, since reads do not conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from replica.kv.operations import Add, AnyOperation, Delete, Get, Put
from replica.kv.runs import MalformedOperation, Touched, array_header, footprint, pack_payload


class Part(msgspec.Struct, frozen=True):
    """A command to be: ``count`` operations from ``offset`` in the run on, as a payload, and what they touch."""

    offset: int
    count: int
    payload: bytes
    touched: Touched


_raw: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


def cut(
    operations: Sequence[AnyOperation], encoded: bytes, *, acknowledged: int, operations_max: int, system: bool = False
) -> list[Part]:
    """Cut a run, given both decoded and encoded, into parts of at most ``operations_max`` operations.

    Operations are moved, not encoded again. Raises `MalformedOperation` when the two do not fit each other.
    """
    raw = _raw.decode(encoded)
    if len(raw) != len(operations):
        raise MalformedOperation(f"a run of {len(operations)} operations holds {len(raw)}")
    parts: list[Part] = []
    start = 0
    while start < len(operations):
        end = start + 1
        if (subject := _subject(operations[start])) is not None:
            while end < len(operations) and end - start < operations_max and _subject(operations[end]) == subject:
                end += 1
        run = array_header(end - start) + b"".join(map(bytes, raw[start:end]))
        payload = pack_payload(acknowledged, run, system=system)
        parts.append(Part(start, end - start, payload, footprint(operations[start:end])))
        start = end
    return parts


def _subject(operation: AnyOperation) -> tuple[bytes, bool] | None:
    """The one key that the operation touches and whether it only reads it; None for an operation of its own."""
    match operation:
        case Get():
            return operation.key, True
        case Put() | Delete() | Add():
            return operation.key, False
        case _:
            return None
