"""Turns the messages and records that a protocol declares into bytes and back.

MessagePack through msgspec, typed by the protocol's declaration. A value that does not decode raises `MalformedValue`
with the reason; whoever holds the bytes decides what that means (a frame is dropped, a record is *unknown*).
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import msgspec

from .interface import Message, ProtocolSpec, Record


class MalformedValue(ValueError):
    """Bytes that are not a message or record of the protocol."""


class Codec:
    """Encodes and decodes for one protocol. Stateless apart from its msgspec coders."""

    def __init__(self, spec: ProtocolSpec) -> None:
        encoder = msgspec.msgpack.Encoder()
        self.encode = encoder.encode
        self._messages: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_union(spec.messages))
        self._records: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        for table, declared in spec.tables.items():
            types = declared if isinstance(declared, tuple) else (declared,)
            self._records[table] = msgspec.msgpack.Decoder(_union(types))

    def decode_message(self, data: bytes) -> Message:
        """Raises `MalformedValue`."""
        try:
            message: Message = self._messages.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedValue(str(error)) from None
        return message

    def decode_record(self, table: str, data: bytes) -> Record:
        """Raises `MalformedValue`, and `KeyError` for a table that the protocol has not declared."""
        try:
            record: Record = self._records[table].decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedValue(str(error)) from None
        return record


def _union(types: tuple[type[Any], ...]) -> Any:
    return reduce(or_, types) if types else msgspec.Raw
