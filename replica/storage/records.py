"""How a record lies in the log environment, and the storage's own records beside those of the protocol.

    offset  bytes  field
    0       1      version of this layout (1)
    1       4      epoch in which it was written, big endian
    5       4      CRC-32 over table name, key length, epoch, key and body, big endian
    9       ...    body: the record as MessagePack

The checksum covers table and key, so that a record that turns up under another name is not taken for that one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final
from zlib import crc32

from replica.consensus.interface import Record, ReplicaId

RECORD_VERSION: Final = 1

HEADER: Final = struct.Struct(">BII")
"""Version, epoch, checksum."""

_CONTEXT: Final = struct.Struct(">HI")

IDENTITY_KEY: Final = b"identity"
INCARNATION_KEY: Final = b"incarnation"
ADMITTED_KEY: Final = b"admitted"
PEER_PREFIX: Final = b"peer/"


class StoredIdentity(Record, frozen=True, tag=2):
    """A copy of the folder's identity, so that a log that was moved to another folder is noticed."""

    cluster: str
    replica: ReplicaId
    disk: str


class Incarnation(Record, frozen=True, tag=3):
    """How often the replica has been started. Written before the replica does anything else."""

    number: int


class Admission(Record, frozen=True, tag=4):
    """The peers have taken this disk on record: the replica votes. Present or absent, never changed."""

    incarnation: int
    """In which it happened; for people."""


class PeerDisk(Record, frozen=True, tag=5):
    """The disk that a peer showed first under its id; another one under that id is refused."""

    disk: str


def peer_key(replica: ReplicaId) -> bytes:
    """The key of a peer's disk."""
    return PEER_PREFIX + b"%010d" % replica


class RecordFault(ValueError):
    """Stored bytes are not the record that was written; the text says how."""


class Seal:
    """Encloses and opens the records of one table."""

    __slots__ = ("_name",)

    def __init__(self, table: str) -> None:
        self._name = crc32(table.encode())

    def enclose(self, epoch: int, key: bytes, body: bytes) -> bytes:
        """The stored bytes of ``body``."""
        checksum = crc32(body, crc32(key, crc32(_CONTEXT.pack(len(key), epoch), self._name)))
        return HEADER.pack(RECORD_VERSION, epoch, checksum) + body

    def enclose_all(self, epoch: int, items: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The same for several (key, body)."""
        enclose = self.enclose
        return [(key, enclose(epoch, key, body)) for key, body in items]

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
