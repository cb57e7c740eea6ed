"""Snapshots between replicas: a file's bytes in chunks, on a connection of their own.

The receiver takes the next chunk when its sink has taken the one before, and grpc's flow control carries that back to
the sender: neither holds more than a few chunks in memory. Files are read and written on worker threads. A transfer
that broke starts anew; what it left in the sink is worthless, and every error says which kind it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgspec

from replica.consensus.interface import Frontier, ReplicaId
from replica.wire.typed import SnapshotChunk, SnapshotRequest, peer_stub

from .bounds import BLOCKED_POLL_S, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_STALL_S, SNAPSHOT_STREAMS_MAX
from .channels import Security, open_channel
from .errors import SnapshotInterrupted, SnapshotRefused
from .faults import LinkFault, Randomness, Shaper
from .host import Identity, SnapshotQuery, SnapshotSink, SnapshotSource, SnapshotUnserved, TransportHost
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
    """Serves `Peer.FetchSnapshot`."""

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
        query = SnapshotQuery(replica=request.replica, disk=request.disk, frontier=frontier, epoch=request.epoch)
        self._streams += 1
        try:
            try:
                source = await self._host.open_snapshot(query)
            except SnapshotUnserved as refusal:
                busy = grpc.StatusCode.RESOURCE_EXHAUSTED
                code = busy if refusal.busy else grpc.StatusCode.FAILED_PRECONDITION
                await context.abort(code, str(refusal))
            else:
                try:
                    await self._send(query.replica, source, context)
                finally:
                    await _on_thread(source.close)
        finally:
            self._streams -= 1

    async def _send(
        self,
        replica: ReplicaId,
        source: SnapshotSource,
        context: grpc.aio.ServicerContext[SnapshotRequest, SnapshotChunk],
    ) -> None:
        total, offset = source.total_bytes, 0
        _LOG.info("sending a snapshot of %d bytes to replica %d", total, replica)
        shaper: Shaper | None = None
        while True:
            data = await _on_thread(source.read, SNAPSHOT_CHUNK_BYTES)
            shaper = await self._travel(replica, shaper, len(data))
            last = offset + len(data) >= total
            await context.write(SnapshotChunk(data=data, offset=offset, total_bytes=total, last=last))
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
    request = SnapshotRequest(
        cluster=identity.cluster,
        replica=identity.replica,
        disk=identity.disk,
        frontier=msgspec.msgpack.encode(frontier),
        epoch=epoch,
    )
    async with open_channel(address, peer, security) as channel:
        call = peer_stub(channel).FetchSnapshot(request)
        offset = 0
        try:
            while True:
                try:
                    async with asyncio.timeout(stall_s):
                        chunk = await call.read()
                except TimeoutError:
                    raise SnapshotInterrupted(peer, f"nothing came for {stall_s:g} s") from None
                except grpc.aio.AioRpcError as error:
                    raise _typed(peer, error) from None
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
        finally:
            call.cancel()


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
