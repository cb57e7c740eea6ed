"""The transport of one replica: its listener for peers, a link to each of them, and snapshots.

Rules of the loop: everything here runs on one event loop and one thread. `Transport.send` only queues; the link's own
task encodes the frame and writes it when the loop turns next. So a caller that is about to *block* the loop (a
synchronous sync to disk) first awaits `Transport.flush`: when that returns, the frames have been handed to grpc's core,
whose threads carry them on without the loop and without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
import msgspec

from replica.consensus.interface import Frontier, ReplicaId
from replica.wire.typed import PEER, LearnChunk, LearnRequest, SnapshotChunk, SnapshotRequest

from . import snapshots
from .bounds import (
    FLUSH_TURNS_MAX,
    MEASURE_INTERVAL_S,
    MESSAGE_BYTES_MAX,
    PROBE_INTERVAL_S,
    ROUND_TRIPS_KEPT,
    SNAPSHOT_STALL_S,
    STOP_GRACE_S,
)
from .channels import PLAIN, Security, bind, check_address, create_server
from .errors import MessageTooLarge, SnapshotInterrupted
from .faults import NO_FAULT, LinkFault, Randomness
from .host import CONNECTION_FIRST, Identity, Learning, SnapshotSink, TransportHost
from .inbound import Inbound, InboundCounters
from .links import LinkCounters, PeerLink
from .snapshots import SnapshotServer
from .timers import FineTimers


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """How one peer is connected, for people and metrics."""

    address: str
    connected: bool
    """The stream to the peer stands."""
    heard: bool
    """The stream from the peer stands."""
    problem: str
    """Why it is not connected; empty when it is."""
    round_trip_s: float | None
    queued_messages: int
    counters: LinkCounters
    """The link's own counters, live: they go on growing."""


class Transport:
    """Streams to and from all peers. Made, started, used and stopped on one event loop."""

    def __init__(
        self,
        identity: Identity,
        host: TransportHost,
        *,
        listen: str,
        security: Security = PLAIN,
        randomness: Randomness | None = None,
    ) -> None:
        """``listen`` is ``host:port``, port 0 for any; ``randomness`` is for pauses and injected faults."""
        self._identity = identity
        self._host = host
        self._listen = listen
        self._security = security
        self._randomness = randomness if randomness is not None else random.Random()
        self._links: dict[ReplicaId, PeerLink] = {}
        self._shapes: dict[ReplicaId, LinkFault] = {}
        self._faults: dict[ReplicaId, LinkFault] = {}
        self._connections = itertools.count(CONNECTION_FIRST)
        self._closing: set[asyncio.Task[None]] = set()
        self._prober: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._timers = FineTimers(asyncio.get_running_loop())
        self._inbound = Inbound(
            identity=identity,
            host=host,
            randomness=self._randomness,
            timers=self._timers,
            fault_towards=self._fault_towards,
            greeted=self._greeted,
            mutual=security.mutual,
        )
        self._snapshots = SnapshotServer(
            identity=identity,
            host=host,
            randomness=self._randomness,
            fault_towards=self._fault_towards,
            mutual=security.mutual,
        )

    # --------------------------------------------------------------------------------------------------- life and peers

    async def start(self) -> None:
        """Listen for peers. Raises `AddressUnavailable`, and then nothing has been started.

        From here on the host's methods are called. Nobody is connected to before `set_peers`.
        """
        assert self._server is None
        check_address(self._listen)
        server = create_server()
        self._port = bind(server, self._listen, self._security)
        server.add_generic_rpc_handlers((self._handlers(),))
        await server.start()
        self._server = server
        self._prober = asyncio.get_running_loop().create_task(self._probe(), name="round trips")

    async def stop(self) -> None:
        """End all streams, both ways. Messages that are still queued are dropped. May be called again."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
            self._prober = None
        self._inbound.retain(frozenset(), f"replica {self._identity.replica} is stopping")
        self.set_peers({})
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(STOP_GRACE_S)
        self._timers.close()

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before the start."""
        return self._port

    def set_peers(self, addresses: Mapping[ReplicaId, str]) -> None:
        """From now on these are the peers, by id; this replica itself is passed over.

        Links to new ones begin to connect, links to others end, and so do the streams from others. A peer whose
        address changed gets a new link.
        """
        wanted = {replica: at for replica, at in addresses.items() if replica != self._identity.replica}
        for replica, link in list(self._links.items()):
            if wanted.get(replica) != link.address:
                del self._links[replica]
                closing = asyncio.get_running_loop().create_task(link.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        for replica, address in wanted.items():
            if replica not in self._links:
                link = PeerLink(
                    peer=replica,
                    address=address,
                    identity=self._identity,
                    host=self._host,
                    security=self._security,
                    randomness=self._randomness,
                    timers=self._timers,
                    next_connection=self._connections.__next__,
                )
                link.set_fault(self._fault_towards(replica))
                self._links[replica] = link
                link.start()
        self._inbound.retain(frozenset(wanted), f"not a peer of replica {self._identity.replica}")

    def peers(self) -> dict[ReplicaId, PeerState]:
        """How each peer is connected, now."""
        arrived = self._inbound.arrived()
        return {
            replica: PeerState(
                address=link.address,
                connected=link.up,
                heard=replica in arrived,
                problem=link.problem,
                round_trip_s=link.round_trip_s,
                queued_messages=link.queued_messages,
                counters=link.counters,
            )
            for replica, link in sorted(self._links.items())
        }

    async def measure_round_trips(self, samples: int, timeout_s: float) -> dict[ReplicaId, list[float]]:
        """Measure the round trip to each peer that often, through whatever shapes the links; seconds.

        A probe travels with the messages and queues with them. Less than ``samples`` of a peer, or none, when it does
        not answer for ``timeout_s``. At most ``ROUND_TRIPS_KEPT``.
        """
        samples = min(samples, ROUND_TRIPS_KEPT)
        for link in self._links.values():
            link.forget_round_trips()
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            behind = [link for link in self._links.values() if len(link.round_trips) < samples]
            if not behind:
                break
            for link in behind:
                link.probe()
            await asyncio.sleep(MEASURE_INTERVAL_S)
        return {replica: list(link.round_trips)[:samples] for replica, link in sorted(self._links.items())}

    @property
    def inbound(self) -> InboundCounters:
        """What has come in, live."""
        return self._inbound.counters

    # --------------------------------------------------------------------------------------------------------- messages

    def send(self, to: Iterable[ReplicaId], data: bytes) -> None:
        """Queue one encoded message of the present epoch for each of ``to``. Encode once, however many recipients.

        Never waits and never fails for a peer's sake: for a peer that is unknown, not connected or not keeping up the
        message is dropped (and counted, where there is a link). Raises `MessageTooLarge`, and then sends to nobody.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            raise MessageTooLarge(len(data), MESSAGE_BYTES_MAX)
        epoch = self._host.epoch()
        links = self._links
        for replica in to:
            link = links.get(replica)
            if link is not None:
                link.send(data, epoch)

    async def flush(self) -> None:
        """Hand what has been sent so far to grpc's core, as far as the links are free to.

        Await it between `send` and anything that blocks the loop. It takes one turn of the loop, and up to
        ``FLUSH_TURNS_MAX`` when a link is still writing the frame before; a link that is not done even then, or whose
        peer does not keep up, is not waited for.
        """
        for _ in range(FLUSH_TURNS_MAX):
            await asyncio.sleep(0)
            if not self.unsent:
                return

    @property
    def unsent(self) -> bool:
        """Something that was sent has not been handed to grpc's core yet, and soon will be.

        For callers who wait in their own way. Links that are stuck at a peer that does not keep up do not count.
        """
        return any(link.unsent for link in self._links.values())

    # ----------------------------------------------------------------------------------------------------------- faults

    def set_faults(self, faults: Mapping[ReplicaId, LinkFault], *, heal: bool = False) -> None:
        """Replace the faults on the links to the peers named; with ``heal``, first remove all. Takes effect at once.

        A link that is blocked keeps an established stream and loses the messages; while either direction is blocked no
        new stream comes about. `NO_FAULT` removes one.
        """
        if heal:
            self._faults.clear()
        self._faults.update(faults)
        self._reshape()

    def set_shapes(self, shapes: Mapping[ReplicaId, LinkFault]) -> None:
        """Replace what all links are like even without faults: a topology. Faults come on top."""
        self._shapes = dict(shapes)
        self._reshape()

    def faults(self) -> dict[ReplicaId, LinkFault]:
        """The faults that are set, by peer."""
        return {peer: fault for peer, fault in sorted(self._faults.items()) if not fault.harmless}

    # -------------------------------------------------------------------------------------------------------- snapshots

    async def fetch_snapshot(
        self,
        peer: ReplicaId,
        *,
        frontier: Frontier,
        epoch: int,
        sink: SnapshotSink,
        stall_s: float = SNAPSHOT_STALL_S,
    ) -> int:
        """Fetch a snapshot that covers at least ``frontier`` of at least ``epoch``; return its size in bytes.

        ``sink.write`` gets the bytes in order, on a worker thread; the next come when it has returned. Raises
        `SnapshotRefused` (ask another peer, or the same later if ``busy``), `SnapshotInterrupted` (ask again), and
        what the sink raises. After an error what the sink holds is worthless. Safe to cancel.
        """
        return await snapshots.fetch_snapshot(
            identity=self._identity,
            peer=peer,
            address=self._address_for_snapshots(peer),
            frontier=frontier,
            epoch=epoch,
            sink=sink,
            security=self._security,
            stall_s=stall_s,
        )

    async def learn(self, peer: ReplicaId, *, sink: SnapshotSink, learning: Learning) -> None:
        """Have ``peer`` teach this replica until ``learning`` says that it is over; see `snapshots.learn`.

        Raises `SnapshotRefused`, `SnapshotInterrupted`, and what sink and learning raise.
        """
        await snapshots.learn(
            identity=self._identity,
            peer=peer,
            address=self._address_for_snapshots(peer),
            sink=sink,
            learning=learning,
            security=self._security,
        )

    # --------------------------------------------------------------------------------------------------------- internal

    def _address_for_snapshots(self, peer: ReplicaId) -> str:
        link = self._links.get(peer)
        if link is None:
            raise SnapshotInterrupted(peer, "it is not one of the peers")
        if self._fault_towards(peer).blocked:
            raise SnapshotInterrupted(peer, "blocked by an injected fault")
        return link.address

    def _handlers(self) -> grpc.GenericRpcHandler:
        connect: Any = grpc.stream_stream_rpc_method_handler(self._inbound.connect)
        fetch: Any = grpc.unary_stream_rpc_method_handler(
            self._snapshots.fetch,
            request_deserializer=SnapshotRequest.FromString,
            response_serializer=SnapshotChunk.SerializeToString,
        )
        learn: Any = grpc.stream_stream_rpc_method_handler(
            self._snapshots.learn,
            request_deserializer=LearnRequest.FromString,
            response_serializer=LearnChunk.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(PEER, {"Connect": connect, "FetchSnapshot": fetch, "Learn": learn})

    def _fault_towards(self, peer: ReplicaId) -> LinkFault:
        shape, fault = self._shapes.get(peer, NO_FAULT), self._faults.get(peer, NO_FAULT)
        if fault is NO_FAULT:
            return shape
        return shape.combined(fault)

    def _reshape(self) -> None:
        for replica, link in self._links.items():
            link.set_fault(self._fault_towards(replica))
        self._inbound.faults_changed()

    def _greeted(self, peer: ReplicaId) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.kick()

    async def _probe(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            for link in self._links.values():
                link.probe()
