"""Malformed and random input on every port of replicas that run: ``make fuzz``, or ``python -m tests.fuzz``.

A cluster of three processes is started; the third is stopped, and the fuzzer takes its place towards the other two,
with its disk and a later incarnation, so that what it sends passes the greeting. Inputs are drawn from a seed:

- *clients' port*: frames that are random bytes, golden frames with bytes changed, cut off or repeated, and sound frames
  whose operations are such; calls of `Admin` likewise; greetings that make no sense; bytes that are no HTTP/2;
- *peers' port*: the same for greetings, frames and snapshot requests; within sound frames, messages that do not decode
  and messages of other epochs. What decodes and lies is not sent: no protocol here claims to withstand a liar;
- *metrics' port*: bytes that are no HTTP, requests that make no sense.

All through it clients write and read. At the end every replica must be the process that it was, must have logged no
failure, must hold no more memory than it did after the first fifth, but for a bound, and must serve.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from deploy import Cluster
from replica.client import connect_async
from replica.consensus.codec import Codec, MalformedValue
from replica.consensus.registry import find_protocol
from replica.storage.folder import read_identity
from replica.wire import typed as wire
from tests.golden.file import load

GROWTH_BYTES_MAX = 48 << 20
"""What a replica may hold more than after the first fifth: its log and its caches grow with what clients write."""

FRAMES_A_STREAM = 200
CONCURRENT = 8
CALL_TIMEOUT_S = 10.0

FAILURES = ("failed on a frame", "raised in core", "raised by servicer", "Fatal", "failed")
"""What a replica says that did not stand an input. gRPC reports as raised what does not decode, which is no failure."""

OPENINGS = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01")
"""How connections begin: like HTTP/2, HTTP, TLS, or like nothing."""

_IDENTITY: Callable[[bytes], bytes] = bytes


class Fuzzer:
    """Draws inputs and sends them; counts what was sent where."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.random = random.Random(seed)
        self.sent: Counter[str] = Counter()
        self.cluster = cluster
        self.targets = cluster.layout.replicas[:2]
        self.impersonated = cluster.layout.replicas[2]
        self.disk = read_identity(cluster.folder / f"replica-{self.impersonated.replica}" / "data").disk
        self.incarnation = 1000
        known = {name: bytes.fromhex(versions[-1]) for name, versions in load().items()}
        self.frames = [data for name, data in known.items() if name.startswith("wire/")]
        self.messages = [data for name, data in known.items() if name.startswith(f"{cluster.layout.protocol}/message/")]
        self.operations = [data for name, data in known.items() if name.startswith("kv/operation/")]
        self.codec = Codec(find_protocol(cluster.layout.protocol))

    # ---------------------------------------------------------------------------------------------------- what is sent

    def noise(self) -> bytes:
        """Random bytes, mostly few."""
        return self.random.randbytes(int(self.random.expovariate(1 / 60)))

    def mutated(self, data: bytes) -> bytes:
        """Sound bytes, made unsound (or not)."""
        drawn, changed = self.random, bytearray(data)
        for _ in range(1 + int(drawn.expovariate(1.0))):
            at = drawn.randrange(len(changed) + 1)
            match drawn.randrange(5):
                case 0 if at < len(changed):
                    changed[at] = drawn.randrange(256)
                case 1:
                    del changed[at:]
                case 2:
                    changed[at:at] = changed[: drawn.randrange(len(changed) + 1)]
                case 3:
                    changed[at:at] = self.noise()
                case _:
                    changed[at:at] = b"\xff" * drawn.randrange(12)
        return bytes(changed)

    def frame(self) -> bytes:
        """A frame for either port."""
        return self.noise() if self.random.random() < 0.3 else self.mutated(self.random.choice(self.frames))

    def client_frame(self) -> bytes:
        """A frame that a client might send after its greeting."""
        drawn = self.random
        if drawn.random() < 0.2:
            return self.frame()
        count = drawn.choice([0, 1, 1, 1, 2, 5000, (1 << 32) - 1])
        made = self.mutated(drawn.choice(self.operations)) if drawn.random() < 0.7 else self.noise()
        operations = b"\x91" + made if drawn.random() < 0.7 else made
        frame = wire.ClientFrame()
        match drawn.randrange(4):
            case 0:
                frame.runs.add(first_sequence=drawn.choice([0, 1, 1 << 63]), count=count, operations=operations)
            case 1:
                frame.reads.add(id=1, consistency=drawn.randrange(6), count=count, operations=operations)
            case 2:
                frame.watches.add(
                    id=drawn.randrange(3), first=self.noise(), last=self.noise(), revision=drawn.randrange(9)
                )
            case _:
                frame.unwatch.append(drawn.randrange(1 << 40))
        return frame.SerializeToString()

    def peer_frame(self) -> bytes:
        """A frame that a peer might send after its greeting, with nothing in it that would be believed."""
        drawn = self.random
        if drawn.random() < 0.4:
            return self.frame_that_says_nothing()
        epoch = drawn.choice([1, 1, 1, 0, 2, (1 << 64) - 1])
        messages = [
            self.noise() if drawn.random() < 0.4 else self.mutated(drawn.choice(self.messages)) for _ in range(3)
        ]
        if epoch == 1:
            messages = [data for data in messages if not self.decodes(data)]
        return wire.PeerFrame(messages=wire.Messages(epoch=epoch, messages=messages)).SerializeToString()

    def frame_that_says_nothing(self) -> bytes:
        """A frame in which no message of the present epoch would be found."""
        while True:
            data = self.frame()
            try:
                frame = wire.PeerFrame.FromString(data)
            except DecodeError:
                return data
            if not any(self.decodes(each) for each in frame.messages.messages):
                return data

    def goes_on(self, data: bytes) -> bool:
        """Does a client's stream go on behind that frame?"""
        try:
            frame = wire.ClientFrame.FromString(data)
        except DecodeError:
            return False
        return not frame.HasField("hello") and not frame.goodbye

    def decodes(self, data: bytes) -> bool:
        """Is it a message of the protocol?"""
        try:
            self.codec.decode_message(data)
        except MalformedValue:
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- where it goes

    async def attach(self, address: str, frames: list[bytes]) -> None:
        """Frames on a stream of the clients' service, behind a sound greeting or none."""
        hello = wire.Hello(wire_version=wire.WIRE_VERSION, nonce=self.random.randbytes(16), client="fuzz")
        # What a stream ends with comes last, so that what is counted was looked at.
        sound = [frame for frame in frames if self.goes_on(frame)]
        sent = [wire.ClientFrame(hello=hello).SerializeToString(), *sound, self.frame()]
        if self.random.random() < 0.1:
            sent = [self.frame()]
        await self._stream(address, wire.method_path(wire.SESSION, "Attach"), sent)

    async def connect(self, address: str, recipient: int, frames: list[bytes]) -> None:
        """Frames on a stream of the peers' service, behind a sound greeting or none."""
        self.incarnation += 1
        greeting = wire.Greeting(
            wire_version=wire.WIRE_VERSION,
            cluster=self.cluster.layout.cluster,
            replica=self.impersonated.replica,
            recipient=recipient,
            disk=self.disk,
            incarnation=self.incarnation,
            connection=1,
            epoch=1,
            protocol=self.cluster.layout.protocol,
            admitted=True,
        )
        sent = [wire.PeerFrame(greeting=greeting).SerializeToString(), *frames]
        if self.random.random() < 0.1:
            sent = frames[:1]
        await self._stream(address, wire.method_path(wire.PEER, "Connect"), sent)

    async def _stream(self, address: str, path: str, frames: list[bytes]) -> None:
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.stream_stream(path, request_serializer=_IDENTITY, response_deserializer=_IDENTITY)()
            with suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    for frame in frames:
                        await call.write(frame)
                        self.sent[path] += 1
                    await call.done_writing()
                    while await call.read() is not grpc.aio.EOF:
                        pass
            call.cancel()

    async def call(self, address: str, service: str, methods: list[str], count: int) -> None:
        """Calls of single methods with requests that make no sense."""
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            for _ in range(count):
                path = wire.method_path(service, self.random.choice(methods))
                make = channel.unary_stream if path.endswith("FetchSnapshot") else channel.unary_unary
                call: Any = make(path, request_serializer=_IDENTITY, response_deserializer=_IDENTITY)(
                    self.frame(), timeout=CALL_TIMEOUT_S
                )
                self.sent[path] += 1
                with suppress(grpc.RpcError, asyncio.CancelledError):
                    await (call.read() if path.endswith("FetchSnapshot") else call)
                call.cancel()

    async def raw(self, address: str, count: int) -> None:
        """Bytes on a bare connection."""
        host, _, port = address.rpartition(":")
        for _ in range(count):
            opening = self.random.choice(
                [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01"]
            )
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        writer.write(opening + self.noise())
                        self.sent["bare connection"] += 1
                        with suppress(OSError):
                            await writer.drain()
                            writer.write_eof()
                            await reader.read(1 << 16)
                    finally:
                        writer.transport.abort()

    async def some(self) -> None:
        """One of the ways, on one of the replicas."""
        target = self.random.choice(self.targets)
        chosen = self.random.random()
        if chosen < 0.45:
            await self.attach(target.client, [self.client_frame() for _ in range(FRAMES_A_STREAM)])
        elif chosen < 0.85:
            await self.connect(target.peer, target.replica, [self.peer_frame() for _ in range(FRAMES_A_STREAM)])
        elif chosen < 0.90:
            methods = ["Status", "Digest", "MeasureLinks", "InjectFaults", "ReplaceMember", "Nonsense"]
            await self.call(target.client, wire.ADMIN, methods, 5)
        elif chosen < 0.95:
            await self.call(target.peer, wire.PEER, ["FetchSnapshot", "Nonsense"], 5)
        else:
            await self.raw(self.random.choice([target.client, target.peer, target.metrics]), 5)


async def fuzz(cluster: Cluster, inputs: int, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Send so many inputs. Raises `AssertionError` when a replica did not stand them."""
    fuzzer = Fuzzer(cluster, seed)
    processes = {each.replica: each.process for each in fuzzer.targets}
    endpoints = ",".join(each.client for each in fuzzer.targets)
    early: dict[int, int] = {}
    async with connect_async(endpoints, timeout_s=60.0) as store:
        served = 0
        began = time.monotonic()
        while (sent := fuzzer.sent.total()) < inputs:
            some: list[Awaitable[Any]] = [fuzzer.some() for _ in range(CONCURRENT)]
            served += 1
            await asyncio.gather(*some, store.put("served", str(served)))
            if not early and sent >= inputs / 5:
                early = {replica: resident(process) for replica, process in processes.items()}
            if served % 50 == 0:
                report(f"{sent} inputs, {sent / (time.monotonic() - began):.0f} a second")
        found = await store.get("served")
        assert found is not None
        assert found.value == str(served).encode()
    for target in fuzzer.targets:
        name, process = f"replica {target.replica}", processes[target.replica]
        lines = cluster.log_tail(target.replica, 100_000)
        failures = [line for line in lines if any(sign in line for sign in FAILURES) and "[DecodeError]" not in line]
        assert not failures, f"{name} logged: {lines[lines.index(failures[0]) :][:40]}"
        (status,) = [each for each in cluster.status() if each.replica == target.replica]
        assert status.running, f"{name} is gone: {lines[-3:]}"
        assert cluster.layout.replica(target.replica).process == process
        growth = resident(process) - early[target.replica]
        report(f"{name}: {early[target.replica] >> 20} MiB after a fifth, {growth / (1 << 20):+.1f} MiB since")
        assert growth < GROWTH_BYTES_MAX, f"{name} holds {growth >> 20} MiB more than after the first fifth"
    return fuzzer.sent


def resident(process: int) -> int:
    """Memory of a process in bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def fuzzed_cluster(folder: Path, inputs: int, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Start a cluster, fuzz it, and take it down."""
    cluster = Cluster.create(folder, replicas=3, base_port=0, metrics=True, node={"log": {"level": "error"}})
    try:
        cluster.up()
        cluster.stop(3)
        return asyncio.run(fuzz(cluster, inputs, seed, report))
    finally:
        cluster.down(timeout_s=5.0)


def _report(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Malformed input on every port.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sent = fuzzed_cluster(Path(folder) / "cluster", arguments.inputs, arguments.seed, _report)
    for where, count in sorted(sent.items()):
        sys.stdout.write(f"{count:8d}  {where}\n")
    sys.stdout.write(f"{sent.total():8d}  inputs with seed {arguments.seed}: every replica stood them\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
