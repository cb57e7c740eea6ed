"""How the state lies in its tables: keys that sort as they should, and records as bytes.

``history`` holds every write that has not been compacted away, newest first within a key. One record holds versions
that were written to the store together::

    escaped key · 00 01 · inverted revision of the first one (8 bytes)  ->  `Version`, `Version`, …, ascending

A zero byte in a key is escaped to ``00 FF``; with the terminator ``00 01`` records sort as the keys do, and one key's
records lie together. The revision is inverted so that the first record at or behind (key, r) is the one that holds the
newest version that a reader at revision r may see. Version number 0 marks a deletion.

``changes`` tells which keys were written in the order of revisions, a batch a record::

    first revision (8 bytes)  ->  `Changes`

``sessions`` holds a record a session, ``leases`` a record a lease, ``leased`` which keys live with it::

    lease (8 bytes) · key  ->  nothing

``meta`` holds one record about the whole.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, TypeAlias

import msgspec

HISTORY: Final = "history"
CHANGES: Final = "changes"
SESSIONS: Final = "sessions"
LEASES: Final = "leases"
LEASED: Final = "leased"
META: Final = "meta"

TABLES: Final = (HISTORY, CHANGES, SESSIONS, LEASES, LEASED, META)
"""Everything that a snapshot must carry."""

TERMINATOR: Final = b"\x00\x01"
BEHIND: Final = b"\x00\x02"
"""In place of the terminator: behind all records of the key, before those of any later key."""

NEWEST: Final = (1 << 64) - 1
"""What revisions are subtracted from."""

REVISION: Final = Struct(">Q")
REVISION_BYTES: Final = REVISION.size

pack_revision = REVISION.pack

Version: TypeAlias = tuple[int, int, int, int, bytes]
"""One write of a key: revision, create revision, version number (0: it is deleted), lease, value."""


class CorruptState(Exception):
    """A record of the state cannot be read. The state is to be rebuilt from snapshot and log."""

    def __init__(self, table: str, key: bytes, reason: str) -> None:
        super().__init__(f"record {key.hex()} of table {table!r} cannot be read: {reason}")


class Changes(msgspec.Struct, array_like=True):
    """The keys written from one revision on.

    The i-th key was written at first revision + i; or all of them at the first, when ``shared``.
    """

    keys: list[bytes]
    shared: bool = False


def escape(key: bytes) -> bytes:
    """The key as it stands at the front of its records, without terminator."""
    return key.replace(b"\x00", b"\x00\xff") if b"\x00" in key else key


def prefix_of(key: bytes) -> bytes:
    """What all records of the key begin with, and no others."""
    return escape(key) + TERMINATOR


def key_of(record_key: bytes) -> bytes:
    """The key of a history record. Raises `CorruptState`."""
    escaped = record_key[: -REVISION_BYTES - len(TERMINATOR)]
    if record_key[-REVISION_BYTES - len(TERMINATOR) : -REVISION_BYTES] != TERMINATOR:
        raise CorruptState(HISTORY, record_key, "its key has no terminator")
    return escaped.replace(b"\x00\xff", b"\x00") if b"\x00" in escaped else escaped


_versions: Final = msgspec.msgpack.Decoder(list[Version])


def decode_versions(record_key: bytes, data: bytes) -> list[Version]:
    """The versions in a record of ``history``, at least one. Raises `CorruptState`."""
    try:
        versions = _versions.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(HISTORY, record_key, str(error)) from None
    if not versions or versions[0][0] != NEWEST - REVISION.unpack(record_key[-REVISION_BYTES:])[0]:
        raise CorruptState(HISTORY, record_key, "it does not begin with the version that its key names")
    return versions


_changes: Final = msgspec.msgpack.Decoder(Changes)


def decode_changes(record_key: bytes, data: bytes) -> tuple[int, Changes]:
    """First revision and contents of a record of ``changes``. Raises `CorruptState`."""
    try:
        changes = _changes.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptState(CHANGES, record_key, str(error)) from None
    return REVISION.unpack(record_key)[0], changes
