"""A bare replication pipeline: the ceiling that the whole system is measured against.

Three processes and a client do only what no replicated, durable store of this shape could leave out: grpc.aio streams
with protobuf frames, adaptive batching, one synced LMDB commit a turn on every replica, a majority of two, an unsynced
LMDB state, a future an operation in the client. There are no sessions, revisions, elections, retries, recovery or
checks: it is a happy path that must never be used for anything but a ratio.

``python -m bench.pipeline --in-flight 512 --seconds 5`` prints one line of JSON: throughput in puts a second and
latency in milliseconds. Frames reuse the contracts of ``synod/v1`` so that encoding costs what it costs the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import grpc
import lmdb
import msgspec

from replica.wire.v1 import client_pb2, peer_pb2

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)]
KEYS = 1_000
WARM_UP_S = 1.0


def _run_loop(main: Callable[[], Awaitable[Any]]) -> Any:
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(_as_coroutine(main))
    return asyncio.run(_as_coroutine(main))


async def _as_coroutine(main: Callable[[], Awaitable[Any]]) -> Any:
    return await main()


class Disk:
    """A synced log of batches and an unsynced state, both in LMDB."""

    def __init__(self, folder: str, *, sync: bool) -> None:
        os.makedirs(folder)
        self._log = lmdb.open(os.path.join(folder, "log"), map_size=8 << 30, sync=sync)
        self._state = lmdb.open(os.path.join(folder, "state"), map_size=8 << 30, sync=False)
        self._transaction = self._state.begin(write=True)
        self._decode = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]]).decode
        self._batches = 0

    def append(self, slot: int, batch: bytes) -> None:
        """Returns when the batch is durable."""
        with self._log.begin(write=True) as transaction:
            transaction.put(slot.to_bytes(8, "big"), batch, append=True)

    def apply(self, batch: bytes) -> int:
        """Put the pairs of a batch; returns how many they were."""
        pairs = self._decode(batch)
        with self._transaction.cursor() as cursor:
            cursor.putmulti(pairs)
        self._batches += 1
        if self._batches % 64 == 0:
            self._transaction.commit()
            self._transaction = self._state.begin(write=True)
        return len(pairs)


class Outbox:
    """One writer task a stream; whatever accumulated leaves as one frame."""

    def __init__(self, write: Callable[[Any], Awaitable[None]], frame: Callable[[list[Any]], Any]) -> None:
        self._write = write
        self._frame = frame
        self._items: list[Any] = []
        self._ready = asyncio.Event()

    def add(self, item: Any) -> None:
        self._items.append(item)
        self._ready.set()

    async def run(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            items, self._items = self._items, []
            await self._write(self._frame(items))


async def _follow(folder: str, sync: bool, ports: Connection) -> None:
    disk = Disk(folder, sync=sync)

    async def connect(frames: AsyncIterator[peer_pb2.PeerFrame], context: Any) -> AsyncIterator[peer_pb2.PeerReply]:
        slot = 0
        async for frame in frames:
            for batch in frame.messages.messages:
                slot += 1
                disk.append(slot, batch)
                yield peer_pb2.PeerReply(echo=peer_pb2.Echo(sent_us=slot))
                disk.apply(batch)

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(
        connect, peer_pb2.PeerFrame.FromString, peer_pb2.PeerReply.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Peer", {"Connect": handler}),))
    ports.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


async def _lead(folder: str, sync: bool, followers: list[int], ports: Connection) -> None:
    disk = Disk(folder, sync=sync)
    inbox: list[tuple[Outbox, client_pb2.Run]] = []
    wake = asyncio.Event()
    acknowledged = [0] * len(followers)
    decided = 0

    async def attach(frames: AsyncIterator[client_pb2.ClientFrame], context: Any) -> None:
        outbox = Outbox(context.write, lambda results: client_pb2.ServerFrame(results=results))
        writer = asyncio.create_task(outbox.run())
        try:
            async for frame in frames:
                inbox.extend((outbox, run) for run in frame.runs)
                wake.set()
        finally:
            writer.cancel()

    def frame_of(batches: list[bytes]) -> peer_pb2.PeerFrame:
        return peer_pb2.PeerFrame(messages=peer_pb2.Messages(messages=batches))

    async def listen(index: int, call: Any) -> None:
        async for reply in call:
            acknowledged[index] = reply.echo.sent_us
            wake.set()

    tasks = []
    peers = []
    for index, port in enumerate(followers):
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        call = channel.stream_stream(
            "/bare.Peer/Connect", peer_pb2.PeerFrame.SerializeToString, peer_pb2.PeerReply.FromString
        )()
        outbox = Outbox(call.write, frame_of)
        peers.append(outbox)
        tasks += [asyncio.create_task(outbox.run()), asyncio.create_task(listen(index, call))]

    server = grpc.aio.server(options=OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(
        attach, client_pb2.ClientFrame.FromString, client_pb2.ServerFrame.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Session", {"Attach": handler}),))
    ports.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()

    slot = 0
    pending: dict[int, tuple[Outbox, client_pb2.Run, bytes]] = {}
    while True:
        await wake.wait()
        wake.clear()
        taken = inbox[:]
        inbox.clear()
        fresh = []
        for outbox, run in taken:
            slot += 1
            batch = run.operations
            pending[slot] = (outbox, run, batch)
            fresh.append((slot, batch))
            for peer in peers:
                peer.add(batch)
        if fresh:
            await asyncio.sleep(0)  # the writers hand the frames to the network before the sync blocks the loop
            for number, batch in fresh:
                disk.append(number, batch)
        # A majority of three: this replica, which has synced everything above, and the faster follower.
        for number in range(decided + 1, min(slot, max(acknowledged)) + 1):
            outbox, run, batch = pending.pop(number)
            count = disk.apply(batch)
            results = msgspec.msgpack.encode([number] * count)
            outbox.add(client_pb2.RunResult(first_sequence=run.first_sequence, count=count, results=results))
            decided = number


def _process(own_session: bool, role: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    if own_session:
        os.setsid()
    _run_loop(lambda: role(*arguments))


class BareClient:
    """The client: puts alone, whatever accumulated leaves as one frame."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self._call = self._channel.stream_stream(
            "/bare.Session/Attach", client_pb2.ClientFrame.SerializeToString, client_pb2.ServerFrame.FromString
        )()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, list[asyncio.Future[int]]] = {}
        self._queue: list[tuple[bytes, bytes]] = []
        self._futures: list[asyncio.Future[int]] = []
        self._ready = asyncio.Event()
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def put(self, key: bytes, value: bytes) -> asyncio.Future[int]:
        """Queue a put; the future gets the number of its slot."""
        future: asyncio.Future[int] = self._loop.create_future()
        self._queue.append((key, value))
        self._futures.append(future)
        if len(self._queue) == 1:
            self._ready.set()
        return future

    async def close(self) -> None:
        """End the stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _write(self) -> None:
        encode = msgspec.msgpack.encode
        sequence = 1
        while True:
            await self._ready.wait()
            self._ready.clear()
            pairs, self._queue = self._queue, []
            self._waiting[sequence], self._futures = self._futures, []
            run = client_pb2.Run(first_sequence=sequence, count=len(pairs), operations=encode(pairs))
            sequence += len(pairs)
            await self._call.write(client_pb2.ClientFrame(runs=[run]))

    async def _read(self) -> None:
        decode = msgspec.msgpack.Decoder(list[int]).decode
        async for frame in self._call:
            for result in frame.results:
                for future, value in zip(self._waiting.pop(result.first_sequence), decode(result.results), strict=True):
                    if not future.done():
                        future.set_result(value)


async def _load(port: int, in_flight: int, seconds: float, value_bytes: int) -> dict[str, float]:
    client = BareClient(port)
    put = client.put
    keys = [b"key-%06d" % index for index in range(KEYS)]
    value = os.urandom(value_bytes)
    latencies: list[float] = []
    end = time.perf_counter() + WARM_UP_S + seconds
    begin = end - seconds

    async def worker(number: int) -> None:
        position = number
        now = time.perf_counter()
        while now < end:
            started = now
            await put(keys[position % KEYS], value)
            position += 7
            now = time.perf_counter()
            if started >= begin:
                latencies.append(now - started)

    await asyncio.gather(*(worker(number) for number in range(in_flight)))
    await client.close()
    latencies.sort()
    return {
        "in_flight": in_flight,
        "puts_per_s": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


class Pipeline:
    """The three processes. Their data lies in ``folder``, which must be on the disk and not in memory."""

    def __init__(self, folder: str, *, sync: bool = True, own_sessions: bool = False) -> None:
        """With ``own_sessions`` each process is a session of its own, as the replicas of a cluster are: Linux divides
        the processor among sessions first."""
        self._folder = folder
        self._sync = sync
        self._own_sessions = own_sessions
        self._processes: list[Any] = []
        self.port = 0
        """Where the leader serves clients, once it is started."""

    def start(self) -> None:
        """Start all three; returns when the leader serves."""
        context = multiprocessing.get_context("spawn")
        followers = []
        for name in ("follower-1", "follower-2"):
            here, there = context.Pipe()
            arguments = (_follow, os.path.join(self._folder, name), self._sync, there)
            followers.append(
                self._begin(context.Process(target=_process, args=(self._own_sessions, *arguments), daemon=True), here)
            )
        here, there = context.Pipe()
        leading = (_lead, os.path.join(self._folder, "leader"), self._sync, followers, there)
        self.port = self._begin(
            context.Process(target=_process, args=(self._own_sessions, *leading), daemon=True), here
        )

    def _begin(self, process: Any, ports: Any) -> int:
        process.start()
        self._processes.append(process)
        port: int = ports.recv()
        return port

    @property
    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        names = ("follower 1", "follower 2", "leader")
        return {name: process.pid for name, process in zip(names, self._processes, strict=True)}

    @property
    def dead(self) -> list[str]:
        """Which of them do not run any more."""
        names = ("follower 1", "follower 2", "leader")
        return [name for name, each in zip(names, self._processes, strict=False) if not each.is_alive()]

    def stop(self) -> None:
        """Kill them; there is nothing to save."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
            process.join()


def measure(
    in_flight: int, seconds: float, *, value_bytes: int = 128, sync: bool = True, folder: str | None = None
) -> dict[str, float]:
    """Run the pipeline with ``in_flight`` puts outstanding from one client in this process.

    Returns ``puts_per_s``, ``p50_ms`` and ``p99_ms``. The data lies under ``folder`` (a temporary folder of the current
    directory, so that it is on the disk and not in memory) and is removed.
    """
    with tempfile.TemporaryDirectory(dir=folder or ".", prefix="pipeline-") as root:
        pipeline = Pipeline(root, sync=sync)
        try:
            pipeline.start()
            result: dict[str, float] = _run_loop(lambda: _load(pipeline.port, in_flight, seconds, value_bytes))
            return result
        finally:
            pipeline.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure a bare replication pipeline, the ceiling of this design")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[512])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--no-sync", action="store_true", help="do not sync the log")
    options = parser.parse_args()
    for in_flight in options.in_flight:
        result = measure(in_flight, options.seconds, value_bytes=options.value_bytes, sync=not options.no_sync)
        sys.stdout.write(json.dumps({name: round(value, 3) for name, value in result.items()}) + "\n")


if __name__ == "__main__":
    main()
