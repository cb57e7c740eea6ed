"""What replicas say to each other, and what they keep. Everything travels in lists: one message for a whole turn, or
several where one would be too large for a frame."""

from __future__ import annotations

from typing import Final

import msgspec

from replica.consensus.interface import Message, Record

TABLE: Final = "registers"
"""The table of records, by key."""


class Stamp(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Orders the writes of one key. ``run`` is the writer's incarnation, so that no two writes ever share a stamp."""

    counter: int
    writer: int
    run: int


NEVER: Final = Stamp(0, 0, 0)
"""The stamp of a key that was never written."""


class Register(Record, frozen=True, tag=1):
    """What a replica holds under a key."""

    stamp: Stamp
    record: bytes


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """One key that is asked for: its record, or (to write it) its stamp alone."""

    request: int
    key: bytes
    reads: bool


class Found(msgspec.Struct, frozen=True, array_like=True):
    """What the sender holds, with the record for whoever asked in order to read."""

    request: int
    stamp: Stamp
    record: bytes | None = None


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A record to be held unless a later one is."""

    request: int
    key: bytes
    stamp: Stamp
    record: bytes


class Query(Message, frozen=True, tag=1):
    """What do you hold?"""

    wanted: tuple[Wanted, ...]


class Holding(Message, frozen=True, tag=2):
    """The answer to a `Query`: durable."""

    found: tuple[Found, ...]


class Store(Message, frozen=True, tag=3):
    """Hold this."""

    kept: tuple[Kept, ...]


class Stored(Message, frozen=True, tag=4):
    """The answer to a `Store`: this, or something later, is durable here."""

    requests: tuple[int, ...]
