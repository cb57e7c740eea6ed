"""What the transport and its host (the node) say to each other: one interface, and the data that crosses it.

All of it happens on the event loop's thread. The host's plain methods are called from within the transport's own tasks
and must return quickly without blocking: take the data, wake yourself, return.
"""

from __future__ import annotations

from collections.abc import Awaitable
from enum import IntEnum
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from replica.consensus.interface import Frontier, ReplicaId


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this replica is, from start to end of the process."""

    cluster: str
    replica: ReplicaId
    disk: str
    """Identity of the data folder, minted when it was formatted."""
    incarnation: int
    """Grows with every start, durably; at least 1."""


class RefusalCode(IntEnum):
    """Why a greeting was refused; the numbers are those of the wire."""

    UNSPECIFIED = 0
    WRONG_CLUSTER = 1
    WRONG_RECIPIENT = 2
    NOT_A_MEMBER = 3
    DIFFERENT_DISK = 4
    VERSION = 5
    STALE_CONNECTION = 6
    PROTOCOL = 7
    CERTIFICATE = 8


class PeerGreeting(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer says of itself when it opens a stream. Version, cluster and recipient have been checked."""

    replica: ReplicaId
    disk: str
    incarnation: int
    connection: int
    epoch: int
    protocol: str
    admitted: bool
    """False while the peer asks to be taken on record under its id."""


class Accept(msgspec.Struct, frozen=True):
    """The greeting is accepted. ``admitted``: the peer's disk is durably on record here under the peer's id."""

    admitted: bool = True


class Refuse(msgspec.Struct, frozen=True):
    """The greeting is refused; ``message`` is for people, on both sides."""

    code: RefusalCode
    message: str


Verdict: TypeAlias = Accept | Refuse


# ----------------------------------------------------------------------------------------------------------- events


class LinkUp(msgspec.Struct, frozen=True):
    """The outgoing stream to ``peer`` stands: messages sent from now on may arrive, earlier ones may be lost.

    ``admitted``: the peer holds this replica's disk on record, durably. ``epoch`` is the peer's own.
    """

    peer: ReplicaId
    epoch: int
    disk: str
    incarnation: int
    admitted: bool


class LinkDown(msgspec.Struct, frozen=True):
    """The outgoing stream to ``peer`` broke; it is being opened again. Nothing is queued meanwhile."""

    peer: ReplicaId
    reason: str


class LinkRefused(msgspec.Struct, frozen=True):
    """``peer`` refused the greeting. It is asked again with growing pauses until the host removes the peer or stops."""

    peer: ReplicaId
    code: RefusalCode
    message: str
    epoch: int
    """The epoch of the greeting that was refused."""


class PeerArrived(msgspec.Struct, frozen=True):
    """``peer`` opened a stream to this replica and was accepted. What it sent on an earlier one may be lost."""

    peer: ReplicaId
    incarnation: int
    restarted: bool
    """The peer was heard before in this process, with a lower incarnation."""


class PeerDeparted(msgspec.Struct, frozen=True):
    """The stream from ``peer`` ended and no newer one has replaced it."""

    peer: ReplicaId


class EpochSeen(msgspec.Struct, frozen=True):
    """``peer`` is in a later epoch than this replica. Repeated while it lasts, not more often than every 250 ms."""

    peer: ReplicaId
    epoch: int


LinkEvent: TypeAlias = LinkUp | LinkDown | LinkRefused | PeerArrived | PeerDeparted | EpochSeen


# -------------------------------------------------------------------------------------------------------- snapshots


class SnapshotQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer asks for: a snapshot that covers at least ``frontier``, of at least ``epoch``."""

    replica: ReplicaId
    disk: str
    frontier: Frontier
    epoch: int


class SnapshotSource(Protocol):
    """A snapshot that stands still while it is read. ``read`` and ``close`` are called on a worker thread."""

    @property
    def total_bytes(self) -> int:
        """Its size; constant."""

    def read(self, size: int, /) -> bytes:
        """The next at most ``size`` bytes; empty at the end. Raises `OSError`."""

    def close(self) -> None:
        """Called exactly once, whatever became of the transfer."""


class SnapshotSink(Protocol):
    """Where a snapshot goes. ``write`` is called on a worker thread, one call at a time, in order."""

    def write(self, data: bytes, /) -> Any:
        """Take the next bytes; the return value is ignored. An exception ends the fetch and reaches the fetcher."""


class LessonSource(Protocol):
    """A snapshot, and then what is decided (see `replica.storage.learning`), for one learner."""

    @property
    def snapshot(self) -> SnapshotSource:
        """What is sent first."""

    async def news(self) -> bytes | None:
        """What is sent next, encoded; empty when there has been nothing for a while, None at the end. Raises
        `SnapshotUnserved` when the lesson cannot go on.
        """

    def applied(self, position: int, /) -> None:
        """The learner says how far it has come."""

    def close(self) -> None:
        """Called exactly once, whatever became of the lesson; the snapshot is closed by then."""


class Learning(Protocol):
    """What the learner does with a lesson."""

    async def begin(self, total_bytes: int, /) -> int:
        """The snapshot is in the sink: go on from it, and return the position that it covers."""

    async def take(self, news: bytes, /) -> int | None:
        """Take news; the position reached, or None when the lesson is over."""


class SnapshotUnserved(Exception):
    """Raised by a host that does not serve a snapshot request; the text goes to the peer. ``busy``: ask again."""

    def __init__(self, message: str, *, busy: bool = False) -> None:
        super().__init__(message)
        self.busy = busy


# -------------------------------------------------------------------------------------------------------------- host


class TransportHost(Protocol):
    """What the transport asks of the node and tells it."""

    def epoch(self) -> int:
        """The configuration epoch that this replica is in. Read for every frame: keep it an attribute away."""

    def protocol(self) -> str:
        """The name of the protocol of that epoch."""

    def admitted(self) -> bool:
        """Whether this replica has been admitted, durably."""

    def decode(self, data: bytes, /) -> Any:
        """One message of the present epoch from its bytes. Raises `ValueError` (the codec's `MalformedValue` is one):
        that message is then counted, logged and dropped, the others of its frame are not."""

    def received(self, sender: ReplicaId, messages: list[Any], /) -> Awaitable[None] | None:
        """The decoded messages of one frame, in the order of sending, of the present epoch, from an accepted peer.

        Called once a frame. Returning an awaitable pauses the reading of this peer until it is done: that is how a
        full inbox pushes back; the peer's own queue then fills and drops.
        """

    def notified(self, event: LinkEvent, /) -> None:
        """Something happened to a link."""

    async def greeted(self, greeting: PeerGreeting, /) -> Verdict:
        """Judge a peer that opens a stream: is it a member, is its disk the one on record?

        May wait, for example until the peer's disk identity has been recorded durably; then the answer says so. The
        peer is told nothing before this returns, and gives up after ``GREETING_TIMEOUT_S``. An exception ends the
        stream without an answer.
        """

    async def open_snapshot(self, query: SnapshotQuery, /) -> SnapshotSource:
        """Serve a snapshot to a peer, or raise `SnapshotUnserved`. Judge here whether the peer may have one."""

    async def open_lesson(self, query: SnapshotQuery, /) -> LessonSource:
        """Teach a replica that is to become a member, or raise `SnapshotUnserved`."""


CONNECTION_FIRST: Final = 1
"""The first connection of an incarnation; each attempt takes the next number."""
