"""Transports on loopback with a host that writes down what it is told."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from replica.transport import (
    Accept,
    Identity,
    LessonSource,
    LinkEvent,
    LinkUp,
    PeerGreeting,
    SnapshotQuery,
    SnapshotSource,
    SnapshotUnserved,
    Transport,
    Verdict,
)

PATIENCE_S = 20.0
"""How long a condition may take on a busy machine before the test is lost; nothing is measured against it."""


class RecordingHost:
    """A host that accepts everybody, takes every message as bytes, and wakes whoever waits for something to happen."""

    def __init__(self) -> None:
        self.present_epoch = 1
        self.is_admitted = True
        self.verdict: Callable[[PeerGreeting], Verdict] = lambda _: Accept()
        self.greetings: list[PeerGreeting] = []
        self.frames: list[tuple[int, list[Any]]] = []
        self.events: list[LinkEvent] = []
        self.queries: list[SnapshotQuery] = []
        self.lesson: Callable[[SnapshotQuery], LessonSource] | None = None
        self.source: Callable[[SnapshotQuery], SnapshotSource] | None = None
        self.gate: asyncio.Event | None = None
        self._changed = asyncio.Event()

    # What the transport asks.

    def epoch(self) -> int:
        return self.present_epoch

    def protocol(self) -> str:
        return "none"

    def admitted(self) -> bool:
        return self.is_admitted

    def decode(self, data: bytes, /) -> Any:
        if data.startswith(b"malformed"):
            raise ValueError("it says so itself")
        return data

    def received(self, sender: int, messages: list[Any], /) -> Any:
        self.frames.append((sender, messages))
        self._changed.set()
        return self.gate.wait() if self.gate is not None else None

    def notified(self, event: LinkEvent, /) -> None:
        self.events.append(event)
        self._changed.set()

    async def greeted(self, greeting: PeerGreeting, /) -> Verdict:
        self.greetings.append(greeting)
        self._changed.set()
        return self.verdict(greeting)

    async def open_snapshot(self, query: SnapshotQuery, /) -> SnapshotSource:
        self.queries.append(query)
        if self.source is None:
            raise SnapshotUnserved("there is none")
        return self.source(query)

    async def open_lesson(self, query: SnapshotQuery, /) -> LessonSource:
        if self.lesson is None:
            raise SnapshotUnserved("nothing is taught here")
        return self.lesson(query)

    # What a test asks.

    @property
    def messages(self) -> list[bytes]:
        """Everything received, frame boundaries forgotten."""
        return [message for _, frame in self.frames for message in frame]

    def events_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def received_frames(self, count: int) -> bool:
        """At least so many frames have come."""
        return len(self.frames) >= count

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something that happened to this host has made the condition true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for a condition that nobody announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


class Party:
    """One replica's transport with its host."""

    def __init__(self, replica: int, *, cluster: str = "test", disk: str | None = None, incarnation: int = 1) -> None:
        self.host = RecordingHost()
        self.identity = Identity(
            cluster=cluster, replica=replica, disk=disk or f"disk-{replica}", incarnation=incarnation
        )
        self.transport = self.make("127.0.0.1:0")

    def make(self, listen: str) -> Transport:
        return Transport(self.identity, self.host, listen=listen, randomness=random.Random(self.identity.replica))

    @property
    def replica(self) -> int:
        return self.identity.replica

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.port}"

    def link_up(self, peer: int) -> bool:
        state = self.transport.peers().get(peer)
        return state is not None and state.connected


def introduce(*parties: Party) -> None:
    """Make everybody everybody's peer."""
    addresses = {party.replica: party.address for party in parties}
    for party in parties:
        party.transport.set_peers(addresses)


async def all_links_up(*parties: Party) -> None:
    for party in parties:
        for other in parties:
            if other is not party:
                await party.host.until(partial(party.link_up, other.replica))


@asynccontextmanager
async def running(*parties: Party, connected: bool = True) -> AsyncIterator[None]:
    """Start the parties, introduce them to each other, and stop them at the end."""
    try:
        for party in parties:
            await party.transport.start()
        if connected:
            introduce(*parties)
            await all_links_up(*parties)
        yield
    finally:
        for party in parties:
            await party.transport.stop()


def was_up(party: Party, peer: int, times: int) -> bool:
    """The link to the peer has come up at least so often."""
    return len(ups(party, peer)) >= times


def ups(party: Party, peer: int) -> list[LinkUp]:
    return [event for event in party.host.events_of(LinkUp) if event.peer == peer]
