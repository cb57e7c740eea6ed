"""How a record lies in the log environment: behind a header with a checksum.

    offset  bytes  field
    0       1      version of this layout (1)
    1       4      epoch in which it was written, big endian
    5       4      CRC-32 over table name, key length, epoch, key and body, big endian
    9       ...    body: the record as MessagePack

The checksum covers table and key, so that a record that turns up under another name is not taken for that one.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

RECORD_VERSION: Final = 1

HEADER: Final = struct.Struct(">BII")
"""Version, epoch, checksum."""

_CONTEXT: Final = struct.Struct(">HI")


class RecordFault(ValueError):
    """Stored bytes are not the record that was written; the text says how."""


class Envelope:
    """Encloses and opens the records of one table."""

    __slots__ = ("_name",)

    def __init__(self, table: str) -> None:
        self._name = crc32(table.encode())

    def enclose(self, epoch: int, key: bytes, body: bytes) -> bytes:
        """The stored bytes of ``body``."""
        checksum = crc32(body, crc32(key, crc32(_CONTEXT.pack(len(key), epoch), self._name)))
        return HEADER.pack(RECORD_VERSION, epoch, checksum) + body

    def open(self, key: bytes, stored: bytes) -> tuple[int, bytes]:
        """Epoch and body of stored bytes. Raises `RecordFault`."""
        if len(stored) < HEADER.size:
            raise RecordFault(f"{len(stored)} bytes are too few for a header")
        version, epoch, checksum = HEADER.unpack_from(stored)
        body = stored[HEADER.size :]
        if checksum != crc32(body, crc32(key, crc32(_CONTEXT.pack(len(key), epoch), self._name))):
            raise RecordFault("its checksum doesn't match")
        if version != RECORD_VERSION:
            raise RecordFault(f"it has layout {version}, this release reads {RECORD_VERSION}")
        return epoch, body
