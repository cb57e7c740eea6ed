"""What replicas of WPaxos send to one another and write down.

Everything is said of objects, by name, and many objects share a message: what a turn has to say to the same replicas
goes out together. Tags are part of the wire and disk format: they are never reused, and fields are only appended, with
defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Command, Message, Record, ReplicaId

LOG_TABLE: Final = "log"
"""What was accepted, by object and position."""

OBJECTS_TABLE: Final = "objects"
"""What was promised and how much is known to be decided, by object."""

IMAGES_TABLE: Final = "images"
"""Objects as peers exported them, by object, until a snapshot holds them."""

KEY_BYTES: Final = 16
"""Bytes of a name's fingerprint in the keys of records. Names may be as long as a disk's keys, so that a position would
not fit behind them; records state the name itself."""


def object_key(name: str) -> bytes:
    """The key of an object's records, and the beginning of those of its positions."""
    return blake2b(name.encode("latin-1"), digest_size=KEY_BYTES).digest()


def entry_key(key: bytes, position: int) -> bytes:
    """The key of what was accepted at a position: sorts as positions do."""
    return key + position.to_bytes(8, "big")


# ------------------------------------------------------------------------------------------------------------- items


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """Who may own an object: the highest ballot that the sender knows of."""

    name: str
    ballot: Ballot


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What a member holds at a position; ``decided``: it knows that this is the decided value."""

    position: int
    ballot: Ballot
    value: bytes
    decided: bool


class Promise(msgspec.Struct, frozen=True, array_like=True):
    """A part of what a member holds of an object beyond ``delivered``, which it has applied: of ``total`` values."""

    name: str
    ballot: Ballot
    delivered: int
    total: int
    held: tuple[Held, ...] = ()


class Proposal(msgspec.Struct, frozen=True, array_like=True):
    """A value for a position of an object, at the owner's ballot."""

    name: str
    ballot: Ballot
    position: int
    value: bytes


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A position of an object at a ballot: a vote for what was proposed there, or "decided up to here"."""

    name: str
    ballot: Ballot
    position: int


class Reached(msgspec.Struct, frozen=True, array_like=True):
    """How far an object has been applied at the sender."""

    name: str
    position: int


class Handing(msgspec.Struct, frozen=True, array_like=True):
    """An object as it stands at the sender: value, version and sessions."""

    name: str
    position: int
    image: bytes


# ----------------------------------------------------------------------------------------------------------- messages


class Prepare(Message, frozen=True, tag=1):
    """The sender wants to own these objects, at these ballots of its own."""

    claims: tuple[Owned, ...]


class Promised(Message, frozen=True, tag=2):
    """The sender will accept nothing below these ballots any more; and this is what it holds."""

    promises: tuple[Promise, ...]


class Accept(Message, frozen=True, tag=3):
    """The owner asks for votes."""

    proposals: tuple[Proposal, ...]


class Accepted(Message, frozen=True, tag=4):
    """The sender has these durably, or has already applied what was decided there."""

    votes: tuple[Place, ...]


class Refused(Message, frozen=True, tag=5):
    """The sender has promised higher ballots."""

    owned: tuple[Owned, ...]


class Decided(Message, frozen=True, tag=6):
    """What was accepted at the ballot is decided up to the position."""

    places: tuple[Place, ...]


class Forward(Message, frozen=True, tag=7):
    """Clients of the sender ask for these commands, on objects that the recipient owns as far as the sender knows."""

    commands: tuple[Command, ...]


class Redirect(Message, frozen=True, tag=8):
    """Somebody else owns these objects."""

    owned: tuple[Owned, ...]


class Offer(Message, frozen=True, tag=9):
    """The sender owns these objects at these ballots, or has tried to; they are used where the recipient is, or nothing
    can be decided where the sender is: the recipient should take them."""

    owned: tuple[Owned, ...]


class Alive(Message, frozen=True, tag=10):
    """A sign of life. ``sequence`` counts the changes of the sender's objects since its start, ``standing`` is a sum
    over how far they all are, ``heard`` names those from whom it has heard lately."""

    incarnation: int
    sequence: int
    standing: int
    heard: tuple[ReplicaId, ...]


class Compare(Message, frozen=True, tag=11):
    """Which objects have changed at the recipient, in that incarnation, after that many changes?"""

    incarnation: int
    after: int


class Changes(Message, frozen=True, tag=12):
    """These, among the changes up to ``upto``."""

    incarnation: int
    after: int
    upto: int
    reached: tuple[Reached, ...]


class Fetch(Message, frozen=True, tag=13):
    """The sender can't get further than this with these objects: what is decided there has passed it by."""

    reached: tuple[Reached, ...]


class Handed(Message, frozen=True, tag=14):
    """Objects as they stand at the sender."""

    objects: tuple[Handing, ...]


class Relay(Message, frozen=True, tag=15):
    """Clients of the sender ask for these commands, on objects whose owners it does not reach and which it cannot claim
    either; the recipient, which is in touch with more, is to own them."""

    commands: tuple[Command, ...]


# ------------------------------------------------------------------------------------------------------------ records


class EntryRecord(Record, frozen=True, tag=1):
    """A vote. ``decided`` is up to where the object was known to be decided when it was written."""

    name: str
    position: int
    ballot: Ballot
    value: bytes
    decided: int


class ObjectRecord(Record, frozen=True, tag=1):
    """A promise, and up to where the object is known to be decided."""

    name: str
    promised: Ballot
    decided: int


class ImageRecord(Record, frozen=True, tag=1):
    """An object as a peer exported it."""

    name: str
    position: int
    image: bytes


MESSAGES: Final[tuple[type[Message], ...]] = (
    Prepare,
    Promised,
    Accept,
    Accepted,
    Refused,
    Decided,
    Forward,
    Redirect,
    Offer,
    Alive,
    Compare,
    Changes,
    Fetch,
    Handed,
    Relay,
)

TABLES: Final[Mapping[str, type[Record]]] = {
    LOG_TABLE: EntryRecord,
    OBJECTS_TABLE: ObjectRecord,
    IMAGES_TABLE: ImageRecord,
}
