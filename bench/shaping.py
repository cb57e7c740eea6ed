"""A client somewhere else: the client library's way to the replicas, with the delays of a topology.

The port of ``shaped://ADDRESS=REGION,ADDRESS=REGION?region=HERE&topology=NAME`` goes to the replicas over gRPC as ever,
from a place in region HERE. What a client and a replica say to each other crosses a line in each direction, the same
pure one that shapes the links between replicas: delay with jitter, a rate, and never an overtaking. Nothing in the
client library knows of it, and no process stands in between that the measurement would have to pay for.

- A stream costs a round trip to set up before its first frame sets out, as TCP does.
- A stream does not lose anything. A segment that the topology loses is sent again, which holds it up, and all behind
  it, by a round trip (`StreamShaper`).
- Delays are kept by timers of the kernel (`replica.transport.timers`), to some ten microseconds, not to the millisecond
  of an event loop.
- Where a replica is, is said in the URL, and learnt from the welcome for those that join later; one that nobody placed
  is taken to be here.
- ``ADDRESS=REGION@OTHER`` is a replica that calls itself ADDRESS and is reached at OTHER, as from a place within the
  replicas' own network. Without a topology nothing is delayed: where the kernel does it, or nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlencode

from deploy.topology import OneWay, Topology, TopologyError, load_topology
from replica.client.errors import InvalidArgument
from replica.client.grpc_port import GrpcPort
from replica.client.port import Attachment, AttachmentLost, PortOptions
from replica.transport.faults import LinkFault, Pump, Randomness, Shaper
from replica.transport.timers import FineTimers
from replica.wire.typed import ClientFrame, Hello, ServerFrame, StatusReply

__all__ = ["SCHEME", "ShapedPort", "StreamShaper", "shaped_port", "shaped_url"]

SCHEME: Final = "shaped"

SEGMENT_BYTES: Final = 1448
"""What one segment of TCP carries over Ethernet: the unit that is lost."""

AS_IT_IS: Final = OneWay(delay_ms=0.0, jitter_ms=0.0, jitter_shape="normal", loss=0.0, rate_bytes_s=0.0)
"""A link that nothing is done to."""

QUEUED_FRAMES_MAX: Final = 1024
"""Frames that have crossed the line and wait for the stream; a sender that is faster is held back."""


def shaped_url(
    replicas: Mapping[str, str], *, region: str, topology: str, reached: Mapping[str, str] | None = None
) -> str:
    """The URL for a client in ``region``; ``replicas`` maps client addresses to regions.

    ``reached`` says at what other address a replica is reached. Without a topology (empty) nothing is delayed.
    """
    reached = reached or {}
    places = ",".join(
        f"{address}={quote(place)}" + (f"@{reached[address]}" if reached.get(address, address) != address else "")
        for address, place in replicas.items()
    )
    return f"{SCHEME}://{places}?{urlencode({'region': region, 'topology': topology})}"


def shaped_port(url: str, options: PortOptions) -> ShapedPort:
    """The port of a URL that `shaped_url` made. Raises `InvalidArgument`."""
    places, _, query = url.removeprefix(f"{SCHEME}:").removeprefix("//").partition("?")
    fields = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    try:
        region, name = fields["region"], fields["topology"]
        topology = load_topology(name) if name else None
    except KeyError as missing:
        raise InvalidArgument(f"{url!r}: it says no {missing.args[0]}") from None
    except TopologyError as error:
        raise InvalidArgument(str(error)) from None
    regions: dict[str, str] = {}
    reached: dict[str, str] = {}
    for place in places.split(","):
        address, _, where = place.partition("=")
        where, _, other = where.partition("@")
        regions[address] = unquote(where)
        reached[address] = other or address
    for where in (region, *regions.values()):
        if topology is not None and where not in topology.regions.names:
            raise InvalidArgument(
                f"{url!r}: {where!r} is no region of topology {fields['topology']} "
                f"(there are: {', '.join(topology.regions.names)})"
            )
    port = GrpcPort(",".join(regions), options)
    return ShapedPort(port, topology=topology, region=region, regions=regions, reached=reached)


class StreamShaper(Shaper):
    """Decides when a frame of a stream arrives. It always does: what is lost on the way is sent again.

    A segment is lost with the link's probability and costs the frame, and what follows it, another round trip
    (fast retransmit: the sender learns of the gap from what arrives behind it).
    """

    def __init__(self, link: OneWay, randomness: Randomness) -> None:
        super().__init__(
            LinkFault(
                delay_s=link.delay_ms / 1000,
                jitter_s=link.jitter_ms / 1000,
                jitter_shape=link.jitter_shape,
                rate_bytes_s=link.rate_bytes_s,
            ),
            randomness,
        )
        self._loss = link.loss
        self._round_trip_s = 2 * link.delay_ms / 1000
        self.resent = 0

    def arrival(self, now: float, size_bytes: int) -> float:
        """When a frame handed over at ``now`` arrives, never before an earlier one."""
        arrival = super().arrival(now, size_bytes)
        assert arrival is not None, "the link neither loses nor blocks"
        if self._loss:
            segments = max(1, -(-size_bytes // SEGMENT_BYTES))
            if self._randomness.random() < 1 - (1 - self._loss) ** segments:
                self.resent += 1
                arrival += self._round_trip_s
                self._last_arrival = arrival
        return arrival


class ShapedPort:
    """Another port, seen from a region of a topology."""

    def __init__(
        self,
        port: GrpcPort,
        *,
        topology: Topology | None,
        region: str,
        regions: Mapping[str, str],
        reached: Mapping[str, str] | None = None,
        randomness: random.Random | None = None,
    ) -> None:
        self._port = port
        self._topology = topology
        self._region = region
        self._regions = dict(regions)
        self._reached = dict(reached or {})
        self._randomness = randomness or random.Random()
        self._timers: FineTimers | None = None

    @property
    def endpoints(self) -> Sequence[str]:
        """Where to begin: the nearest first."""
        return sorted(self._port.endpoints, key=lambda endpoint: self._link(endpoint).delay_ms)

    async def attach(self, endpoint: str, hello: Hello) -> Attachment:
        """Open a stream, over the delays of the way there."""
        link, address = self._link(endpoint), self._reached.get(endpoint, endpoint)
        if link.harmless:
            return _Listening(await self._port.attach(address, hello), self._learn)
        timers = self._clockwork()
        # The handshake there and back, and the way of the first frame.
        await timers.sleep(3 * link.delay_ms / 1000)
        attachment = await self._port.attach(address, hello)
        return ShapedAttachment(
            _Listening(attachment, self._learn), endpoint, link, timers=timers, randomness=self._randomness
        )

    async def status(self, endpoint: str) -> StatusReply:
        """What the replica says of itself, over the delays of the way there and back."""
        delay_s = self._link(endpoint).delay_ms / 1000
        timers = self._clockwork()
        await timers.sleep(3 * delay_s)
        reply = await self._port.status(self._reached.get(endpoint, endpoint))
        await timers.sleep(delay_s)
        return reply

    async def close(self) -> None:
        """Close the port beneath, and the timers."""
        await self._port.close()
        if self._timers is not None:
            self._timers.close()
            self._timers = None

    def _clockwork(self) -> FineTimers:
        if self._timers is None:
            self._timers = FineTimers(asyncio.get_running_loop())
        return self._timers

    def _link(self, endpoint: str) -> OneWay:
        if self._topology is None:
            return AS_IT_IS
        return self._topology.link_between(self._region, self._regions.get(endpoint, self._region))

    def _learn(self, frame: ServerFrame) -> None:
        for endpoint in frame.welcome.endpoints:
            if self._topology is not None and endpoint.region in self._topology.regions.names:
                self._regions.setdefault(endpoint.address, endpoint.region)


class _Listening:
    """An attachment whose welcome is overheard."""

    def __init__(self, attachment: Attachment, learn: Callable[[ServerFrame], None]) -> None:
        self.send = attachment.send
        self.close = attachment.close
        self._receive = attachment.receive
        self._learn: Callable[[ServerFrame], None] | None = learn

    async def receive(self) -> ServerFrame:
        frame = await self._receive()
        if self._learn is not None:  # the first frame is the welcome
            learn, self._learn = self._learn, None
            learn(frame)
        return frame


class _Line:
    """One direction: frames go in, and come out in order when their time has come."""

    def __init__(self, shaper: StreamShaper, timers: FineTimers, *, sized: bool) -> None:
        self._sized = sized
        self._out: deque[Any] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._pump: Pump[Any] = Pump(
            shaper,
            self._arrived,
            clock=monotonic,
            call_later=timers.call_later,
            slack_s=timers.resolution_s / 2,
        )

    def offer(self, frame: Any) -> bool:
        """Send a frame, or whatever else, on its way; False while the line is full."""
        size = frame.ByteSize() if self._sized and not isinstance(frame, Exception) else 0
        return len(self._out) < QUEUED_FRAMES_MAX and self._pump.push(size, frame)

    async def put(self, frame: Any) -> None:
        """Send it on its way once there is room."""
        while not self.offer(frame):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    @property
    def ready(self) -> bool:
        """Something has arrived."""
        return bool(self._out)

    async def take(self) -> Any:
        """The next thing that has arrived."""
        while not self._out:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._free()
        return self._out.popleft()

    def close(self) -> None:
        self._pump.close()

    def _arrived(self, items: Iterable[Any]) -> None:
        self._out.extend(items)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._free()

    def _free(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class ShapedAttachment:
    """A stream over two lines. Keeps the contract of `replica.client.port.Attachment`."""

    def __init__(
        self, attachment: Attachment, endpoint: str, link: OneWay, *, timers: FineTimers, randomness: Randomness
    ) -> None:
        sized = bool(link.rate_bytes_s or link.loss)
        self._attachment = attachment
        self._there = _Line(StreamShaper(link, randomness), timers, sized=sized)
        self._back = _Line(StreamShaper(link, randomness), timers, sized=sized)
        self._lost: AttachmentLost | None = None
        self._ended = AttachmentLost(f"{endpoint}: the stream was closed")
        loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._tasks = [loop.create_task(self._carry_there()), loop.create_task(self._carry_back())]

    async def send(self, frame: ClientFrame, /) -> None:
        """Hand over a frame; returns when the line has taken it."""
        if self._lost is not None:
            raise self._lost
        if self._closed.done() or not self._there.offer(frame):
            await self._unless_closed(self._there.put(frame))

    async def receive(self) -> ServerFrame:
        """The next frame that has arrived."""
        if self._back.ready and not self._closed.done():
            frame = await self._back.take()  # at once
        else:
            frame = await self._unless_closed(self._back.take())
        if isinstance(frame, AttachmentLost):
            self._lost = frame
            raise frame
        assert isinstance(frame, ServerFrame)
        return frame

    async def close(self) -> None:
        """End the stream now; what is under way is gone."""
        if self._closed.done():
            return
        self._closed.set_result(None)
        for task in self._tasks:
            task.cancel()
        self._there.close()
        self._back.close()
        await self._attachment.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _unless_closed(self, work: Any) -> Any:
        if self._closed.done():
            work.close()
            raise self._ended
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, self._closed], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._ended
            return task.result()
        finally:
            task.cancel()

    async def _carry_there(self) -> None:
        while True:
            frame = await self._there.take()
            try:
                await self._attachment.send(frame)
            except AttachmentLost:
                return  # the other direction learns why, behind all that was said before

    async def _carry_back(self) -> None:
        while True:
            try:
                frame: Any = await self._attachment.receive()
            except AttachmentLost as lost:
                await self._back.put(lost)
                return
            await self._back.put(frame)
