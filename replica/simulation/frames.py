"""What travels between the endpoints of a simulated network.

Replicas exchange what `protos/synod/v1/peer.proto` describes, clients and replicas what ``client.proto`` does, reduced
to the fields that decide anything. Protocol messages are bytes that went through the codec.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from replica.consensus.interface import Configuration, Frontier, ReplicaId
from replica.storage.coordinator import Anchor
from replica.storage.learning import News


class Messages(msgspec.Struct, frozen=True):
    """Protocol messages of one epoch, in the order of sending."""

    epoch: int
    incarnation: int
    disk: str
    messages: tuple[bytes, ...]


class Greeting(msgspec.Struct, frozen=True):
    """A replica makes itself known: on opening a stream, and again until its disk is on record."""

    epoch: int
    incarnation: int
    disk: str
    joining: bool = False
    lesson: str = ""
    """Of who is joining: the lesson that it is given, and how far it has come."""
    applied: int = 0


class Welcome(msgspec.Struct, frozen=True):
    """The sender of the greeting is on record here, durably."""

    disk: str
    """Whose greeting is answered: that of the disk of this name."""


class Refusal(msgspec.Struct, frozen=True):
    """The id is on record with another disk, or is not (or no longer) a member's in ``epoch``."""

    different_disk: bool
    epoch: int


class EpochNotice(msgspec.Struct, frozen=True):
    """The sender has reached ``epoch``; whoever is behind fetches a snapshot."""

    epoch: int


class SnapshotRequest(msgspec.Struct, frozen=True):
    """At least this epoch, and at least this frontier if the epochs are equal."""

    epoch: int
    frontier: Frontier
    number: int


class SnapshotOffer(msgspec.Struct, frozen=True):
    """A snapshot with the anchor that goes with it; ``anchor`` None refuses."""

    number: int
    anchor: Anchor | None = None
    image: object = None


class LessonBegun(msgspec.Struct, frozen=True):
    """What a learner begins with; what is decided from there on follows under the lesson's name."""

    lesson: str
    anchor: Anchor
    image: object


class LessonNews(msgspec.Struct, frozen=True):
    """What was decided, for a learner."""

    lesson: str
    news: News


class LessonTaken(msgspec.Struct, frozen=True):
    """How far a learner has come."""

    lesson: str
    applied: int


PeerFrame: TypeAlias = (
    Messages
    | Greeting
    | Welcome
    | Refusal
    | EpochNotice
    | SnapshotRequest
    | SnapshotOffer
    | LessonBegun
    | LessonNews
    | LessonTaken
)


# ----------------------------------------------------------------------------------------------------------- clients


class OpenSession(msgspec.Struct, frozen=True):
    """A client asks for a session; ``nonce`` pairs the request with `Opened`."""

    nonce: bytes


class Run(msgspec.Struct, frozen=True):
    """Operations with consecutive sequences."""

    session: int
    first_sequence: int
    count: int
    acknowledged: int
    operations: bytes


class Read(msgspec.Struct, frozen=True):
    """Read-only operations outside the log. ``stale`` asks for whatever this replica has applied."""

    id: int
    count: int
    operations: bytes
    stale: bool = False


class Opened(msgspec.Struct, frozen=True):
    """The session for a nonce."""

    nonce: bytes
    session: int


class Results(msgspec.Struct, frozen=True):
    """Results of a run, or of a part of one."""

    session: int
    first_sequence: int
    count: int
    results: bytes


class ReadResults(msgspec.Struct, frozen=True):
    """Results of a `Read`."""

    id: int
    results: bytes


class Rejected(msgspec.Struct, frozen=True):
    """A run (session, first sequence, count) or an opening (nonce) that will not be answered."""

    session: int
    first_sequence: int
    count: int
    reason: str
    definite: bool
    hint: ReplicaId | None
    nonce: bytes = b""


class ReadRejected(msgspec.Struct, frozen=True):
    """A read that will not be answered."""

    id: int
    reason: str
    hint: ReplicaId | None


ClientFrame: TypeAlias = OpenSession | Run | Read
ServerFrame: TypeAlias = Opened | Results | ReadResults | Rejected | ReadRejected


# -------------------------------------------------------------------------------------------------------- operators


class Change(msgspec.Struct, frozen=True):
    """What the operator asks a leader to decide."""

    configuration: Configuration
