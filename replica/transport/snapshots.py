"""Snapshots between replicas: a file's bytes in chunks, on a connection of their own; and lessons, which go on.

The receiver takes the next chunk when its sink has taken the one before, and grpc's flow control carries that back to
the sender: neither holds more than a few chunks in memory. Files are read and written on worker threads. A transfer
that broke starts anew; what it left in the sink is worthless, and every error says which kind it was.

A lesson is a snapshot followed by what is decided, for a replica that is to become a member; the learner says how far
it has come on the same stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgspec

from replica.consensus.interface import Frontier, ReplicaId
from replica.wire.typed import LearnChunk, LearnRequest, SnapshotChunk, SnapshotRequest, peer_stub

from .bounds import BLOCKED_POLL_S, LAST_WORD_S, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_STALL_S, SNAPSHOT_STREAMS_MAX
from .channels import Security, open_channel
from .errors import SnapshotInterrupted, SnapshotRefused
from .faults import LinkFault, Randomness, Shaper
from .host import (
    Identity,
    Learning,
    LessonSource,
    SnapshotQuery,
    SnapshotSink,
    SnapshotSource,
    SnapshotUnserved,
    TransportHost,
)
from .security import certified, certified_as

_LOG = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_FRONTIER: msgspec.msgpack.Decoder[Frontier] = msgspec.msgpack.Decoder(Frontier)

_REFUSALS = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)


class SnapshotServer:
    """Serves `Peer.FetchSnapshot` and `Peer.Learn`."""

    def __init__(
        self,
        *,
        identity: Identity,
        host: TransportHost,
        randomness: Randomness,
        fault_towards: Callable[[ReplicaId], LinkFault],
        streams_max: int = SNAPSHOT_STREAMS_MAX,
        mutual: bool = False,
    ) -> None:
        self.served = 0
        self._identity = identity
        self._host = host
        self._randomness = randomness
        self._fault_towards = fault_towards
        self._streams_max = streams_max
        self._streams = 0
        self._mutual = mutual

    async def fetch(
        self, request: SnapshotRequest, context: grpc.aio.ServicerContext[SnapshotRequest, SnapshotChunk]
    ) -> None:
        """The handler of one transfer."""
        query = await self._query(request, context)
        self._streams += 1
        try:
            try:
                source = await self._host.open_snapshot(query)
            except SnapshotUnserved as refusal:
                await _abort(context, refusal)
            else:
                try:
                    await self._send(query.replica, source, context, context.write)
                finally:
                    await _on_thread(source.close)
        finally:
            self._streams -= 1

    async def learn(
        self, requests: AsyncIterator[LearnRequest], context: grpc.aio.ServicerContext[LearnRequest, LearnChunk]
    ) -> None:
        """The handler of one lesson."""
        first = await anext(requests, None)
        if first is None:
            return
        query = await self._query(first.request, context)
        self._streams += 1
        try:
            lesson = await self._host.open_lesson(query)
        except BaseException as error:
            self._streams -= 1
            if isinstance(error, SnapshotUnserved):
                await _abort(context, error)
            raise
        await self._teach(query.replica, lesson, requests, context)

    async def _teach(
        self,
        learner: ReplicaId,
        lesson: LessonSource,
        requests: AsyncIterator[LearnRequest],
        context: grpc.aio.ServicerContext[LearnRequest, LearnChunk],
    ) -> None:
        async def hear() -> None:
            async for request in requests:
                lesson.applied(request.applied)

        hearing = asyncio.get_running_loop().create_task(hear())
        shaper: Shaper | None = None
        try:
            try:
                await self._send(
                    learner, lesson.snapshot, context, lambda chunk: context.write(LearnChunk(snapshot=chunk))
                )
            finally:
                self._streams -= 1  # what follows is little
                await _on_thread(lesson.snapshot.close)
            while (news := await lesson.news()) is not None:
                shaper = await self._travel(learner, shaper, len(news))
                await context.write(LearnChunk(news=news))
            # The learner hangs up. Were that done here, what was told last could be lost with what it has yet to say.
            await asyncio.wait([hearing], timeout=LAST_WORD_S)
        except SnapshotUnserved as refusal:
            await _abort(context, refusal)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)
            lesson.close()

    async def _query(self, request: SnapshotRequest, context: grpc.aio.ServicerContext[Any, Any]) -> SnapshotQuery:
        """Who asks, and for what; a request that cannot be answered is refused here."""
        if request.cluster != self._identity.cluster:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"this is a replica of cluster {self._identity.cluster!r}, not {request.cluster!r}",
            )
        if self._mutual and not certified(context, request.replica):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate is that of {certified_as(context)}, not of replica {request.replica}",
            )
        if self._streams >= self._streams_max:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._streams} snapshots are being sent already")
        try:
            frontier = _FRONTIER.decode(request.frontier)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the frontier does not decode: {error}")
        return SnapshotQuery(replica=request.replica, disk=request.disk, frontier=frontier, epoch=request.epoch)

    async def _send(
        self,
        replica: ReplicaId,
        source: SnapshotSource,
        context: grpc.aio.ServicerContext[Any, Any],
        write: Callable[[SnapshotChunk], Awaitable[None]],
    ) -> None:
        total, offset = source.total_bytes, 0
        _LOG.info("sending a snapshot of %d bytes to replica %d", total, replica)
        shaper: Shaper | None = None
        while True:
            data = await _on_thread(source.read, SNAPSHOT_CHUNK_BYTES)
            shaper = await self._travel(replica, shaper, len(data))
            last = offset + len(data) >= total
            await write(SnapshotChunk(data=data, offset=offset, total_bytes=total, last=last))
            offset += len(data)
            if last:
                self.served += 1
                return
            if not data:
                await context.abort(grpc.StatusCode.DATA_LOSS, f"the snapshot ends after {offset} of {total} bytes")

    async def _travel(self, replica: ReplicaId, shaper: Shaper | None, size: int) -> Shaper | None:
        """Wait as long as a chunk takes on a link that is shaped; nothing is lost, as on a connection."""
        fault = self._fault_towards(replica)
        if fault.harmless:
            return None
        reliable = msgspec.structs.replace(fault, loss=0.0)
        if shaper is None:
            shaper = Shaper(reliable, self._randomness)
        shaper.fault = reliable
        while True:
            now = time.monotonic()
            arrival = shaper.arrival(now, size)
            if arrival is not None:
                await asyncio.sleep(arrival - now)
                return shaper
            await asyncio.sleep(BLOCKED_POLL_S)
            shaper.fault = msgspec.structs.replace(self._fault_towards(replica), loss=0.0)


async def fetch_snapshot(
    *,
    identity: Identity,
    peer: ReplicaId,
    address: str,
    frontier: Frontier,
    epoch: int,
    sink: SnapshotSink,
    security: Security,
    stall_s: float = SNAPSHOT_STALL_S,
) -> int:
    """Fetch a snapshot from ``peer`` into ``sink`` and return its size in bytes.

    Raises `SnapshotRefused`, `SnapshotInterrupted`, and whatever the sink raises. Cancelling it ends the transfer; a
    write to the sink that is under way is waited for.
    """
    request = _request(identity, frontier, epoch)
    async with open_channel(address, peer, security) as channel:
        call = peer_stub(channel).FetchSnapshot(request)
        try:
            return await _receive(peer, sink, lambda: _read(peer, call, stall_s))
        finally:
            call.cancel()


async def learn(
    *,
    identity: Identity,
    peer: ReplicaId,
    address: str,
    sink: SnapshotSink,
    learning: Learning,
    security: Security,
    stall_s: float = SNAPSHOT_STALL_S,
) -> None:
    """Have ``peer`` teach this replica: a snapshot into ``sink``, and then what is decided, until ``learning`` says
    that it is over.

    Raises `SnapshotRefused`, `SnapshotInterrupted`, and whatever sink and learning raise; what was learned is then of
    no use. Cancelling it ends the lesson.
    """
    async with open_channel(address, peer, security) as channel:
        call = peer_stub(channel).Learn()

        async def snapshot() -> object:
            chunk = await _read(peer, call, stall_s)
            return chunk.snapshot if isinstance(chunk, LearnChunk) and chunk.HasField("snapshot") else chunk

        async def say(request: LearnRequest) -> None:
            try:
                await call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await _read(peer, call, stall_s)  # which knows why
                raise SnapshotInterrupted(peer, "the lesson has ended") from None

        try:
            await say(LearnRequest(request=_request(identity, 0, 0)))
            applied: int | None = await learning.begin(await _receive(peer, sink, snapshot))
            while applied is not None:
                await say(LearnRequest(applied=applied))
                chunk = await _read(peer, call, stall_s)
                if not isinstance(chunk, LearnChunk) or chunk.HasField("snapshot"):
                    raise SnapshotInterrupted(peer, "the lesson has ended")
                if chunk.news:
                    applied = await learning.take(chunk.news)
        finally:
            call.cancel()


def _request(identity: Identity, frontier: Frontier, epoch: int) -> SnapshotRequest:
    return SnapshotRequest(
        cluster=identity.cluster,
        replica=identity.replica,
        disk=identity.disk,
        frontier=msgspec.msgpack.encode(frontier),
        epoch=epoch,
    )


async def _read(peer: ReplicaId, call: Any, stall_s: float) -> object:
    """What comes next. Raises `SnapshotRefused`, `SnapshotInterrupted`."""
    try:
        async with asyncio.timeout(stall_s):
            return await call.read()
    except TimeoutError:
        raise SnapshotInterrupted(peer, f"nothing came for {stall_s:g} s") from None
    except grpc.aio.AioRpcError as error:
        raise _typed(peer, error) from None


async def _receive(peer: ReplicaId, sink: SnapshotSink, read: Callable[[], Awaitable[object]]) -> int:
    """Have the chunks of a snapshot go into ``sink``; returns their bytes."""
    offset = 0
    while True:
        chunk = await read()
        if not isinstance(chunk, SnapshotChunk):
            raise SnapshotInterrupted(peer, f"it ended after {offset} bytes")
        if chunk.offset != offset:
            raise SnapshotInterrupted(peer, f"expected byte {offset}, got {chunk.offset}")
        await _on_thread(sink.write, chunk.data)
        offset += len(chunk.data)
        if chunk.last:
            if offset != chunk.total_bytes:
                raise SnapshotInterrupted(peer, f"it holds {offset} of {chunk.total_bytes} bytes")
            return offset


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: SnapshotUnserved) -> None:
    busy = grpc.StatusCode.RESOURCE_EXHAUSTED
    await context.abort(busy if refusal.busy else grpc.StatusCode.FAILED_PRECONDITION, str(refusal))


async def _on_thread(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Call on a worker thread. A cancellation waits for the call, so that nobody touches a file after it was closed."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        raise


def _typed(peer: ReplicaId, error: grpc.aio.AioRpcError) -> SnapshotRefused | SnapshotInterrupted:
    text = error.details() or error.code().name
    if error.code() in _REFUSALS:
        return SnapshotRefused(peer, text, busy=error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    return SnapshotInterrupted(peer, f"{error.code().name.lower().replace('_', ' ')}: {text}")
