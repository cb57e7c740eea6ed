"""What replicas of EPaxos send to one another and write down.

An instance is named by its *space* (the replica that leads it) and its *number* there, from 1. Dependencies are a tuple
with one number for each member, in the order of their ids: everything in that member's space up to the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeAlias

import msgspec

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Message, Record, ReplicaId

InstanceId: TypeAlias = tuple[ReplicaId, int]
"""(space, number)."""

Dependencies: TypeAlias = tuple[int, ...]
"""By member, in the order of ids: all instances of its space up to this number."""


class Phase(IntEnum):
    """How far a replica has gone with an instance."""

    UNKNOWN = 0
    PREACCEPTED = 1
    ACCEPTED = 2
    COMMITTED = 3


# ---------------------------------------------------------------------------------------------------- the usual course


class PreAccept(Message, frozen=True, tag=1):
    """The leader of an instance proposes ``value`` with the dependencies that it knows of."""

    space: ReplicaId
    number: int
    value: bytes
    initial: Dependencies


class PreAccepted(Message, frozen=True, tag=2):
    """The sender has pre-accepted, durably, with these dependencies; an empty tuple: exactly the initial ones."""

    space: ReplicaId
    number: int
    dependencies: Dependencies


class Accept(Message, frozen=True, tag=3):
    """Vote at ``ballot`` for the value, or for nothing at all (``noop``), with these dependencies.

    ``value`` is empty for a no-op, and for recipients that are known to hold it.
    """

    ballot: Ballot
    space: ReplicaId
    number: int
    noop: bool
    value: bytes
    dependencies: Dependencies


class Accepted(Message, frozen=True, tag=4):
    """The sender's vote at ``ballot`` is durable."""

    ballot: Ballot
    space: ReplicaId
    number: int


class Commit(Message, frozen=True, tag=5):
    """The instance is decided. ``value`` is empty as in `Accept`."""

    space: ReplicaId
    number: int
    noop: bool
    value: bytes
    dependencies: Dependencies


# ------------------------------------------------------------------------------------------------------------ recovery


class Recover(Message, frozen=True, tag=6):
    """Promise ``ballot`` for the instance, and tell what you hold of it."""

    ballot: Ballot
    space: ReplicaId
    number: int


class Recovered(Message, frozen=True, tag=7):
    """The promise, durable, with what the sender held when it gave it: the ballot of its last vote apart from the
    promised one. ``value`` is empty and ``initial`` None where they are unknown."""

    ballot: Ballot
    space: ReplicaId
    number: int
    voted: Ballot
    phase: Phase
    noop: bool
    value: bytes
    dependencies: Dependencies
    initial: Dependencies | None


class Validate(Message, frozen=True, tag=8):
    """Might ``value`` have been decided on the fast path with these initial dependencies? Name what speaks against."""

    ballot: Ballot
    space: ReplicaId
    number: int
    value: bytes
    initial: Dependencies


class Validated(Message, frozen=True, tag=9):
    """What interferes with the value and neither depends on it nor is among its dependencies: (space, number, is it
    committed?)."""

    ballot: Ballot
    space: ReplicaId
    number: int
    against: tuple[tuple[ReplicaId, int, bool], ...]


class Waiting(Message, frozen=True, tag=10):
    """A recovery of the instance waits for others. ``votes`` replicas, its leader not among them, pre-accepted it with
    its initial dependencies."""

    space: ReplicaId
    number: int
    votes: int


class Refused(Message, frozen=True, tag=11):
    """The sender has promised ``ballot`` for the instance, which is higher than what it was asked at."""

    ballot: Ballot
    space: ReplicaId
    number: int


# ------------------------------------------------------------------------------------------------------------ catch-up


class Progress(Message, frozen=True, tag=12):
    """How far the sender has executed each space without a gap. Asks for no answer.

    ``proposed`` is the highest number that it has used itself: what it proposes from now on is not only numbered above
    it but comes after all of that (None: an earlier release, which did not say).
    """

    executed: Dependencies
    proposed: int | None = None


class Fetch(Message, frozen=True, tag=13):
    """Send what is decided in ``space`` from number ``first`` on."""

    space: ReplicaId
    first: int


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A decided instance."""

    number: int
    noop: bool
    value: bytes
    dependencies: Dependencies


class Fetched(Message, frozen=True, tag=14):
    """Decided instances of ``space`` from ``first`` on, in order, perhaps with gaps.

    What lies at or before ``floor`` in each space the sender has executed and can't tell any more: who needs it needs a
    snapshot.
    """

    space: ReplicaId
    first: int
    entries: tuple[Entry, ...]
    floor: Dependencies


class PartlyValidated(Message, frozen=True, tag=15):
    """`Validated`, but the same may be said of something that the sender has executed and discarded. A message of its
    own: whoever does not know it must not take it for the whole answer."""

    ballot: Ballot
    space: ReplicaId
    number: int
    against: tuple[tuple[ReplicaId, int, bool], ...]


MESSAGES: Final = (
    PreAccept,
    PreAccepted,
    Accept,
    Accepted,
    Commit,
    Recover,
    Recovered,
    Validate,
    Validated,
    Waiting,
    Refused,
    Progress,
    Fetch,
    Fetched,
    PartlyValidated,
)


# ------------------------------------------------------------------------------------------------------------- records


class Value(Record, frozen=True, tag=1):
    """The value of an instance and the dependencies that its leader proposed (None: not known here)."""

    value: bytes
    initial: Dependencies | None


class Vote(Record, frozen=True, tag=2):
    """Where this replica stands: what it promised, and apart from that the ballot, phase and content of its vote."""

    ballot: Ballot
    voted: Ballot
    phase: Phase
    noop: bool
    dependencies: Dependencies


class Floor(Record, frozen=True, tag=3):
    """Up to these numbers records have been discarded. ``reached`` is the furthest that this replica had executed: what
    it proposes comes after that, though a lost state or a peer's snapshot took it back (empty: unknown)."""

    floor: Dependencies
    reached: Dependencies = ()


VALUES_TABLE: Final = "values"
VOTES_TABLE: Final = "votes"
FLOOR_TABLE: Final = "floor"

FLOOR_KEY: Final = b"floor"

TABLES: Final[Mapping[str, type[Record] | tuple[type[Record], ...]]] = {
    VALUES_TABLE: (Value,),
    VOTES_TABLE: (Vote,),
    FLOOR_TABLE: (Floor,),
}

NUMBER_MAX: Final = (1 << 64) - 2
"""The last number that a key can name (one more must still be representable)."""


def instance_key(space: ReplicaId, number: int) -> bytes:
    """The key of an instance's records: space by space, they sort as the numbers do."""
    return space.to_bytes(8, "big") + number.to_bytes(8, "big")


def number_of(key: bytes) -> int:
    """The number in a key."""
    return int.from_bytes(key[8:], "big")
