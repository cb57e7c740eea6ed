"""Replicas in this process on loopback, with real data folders, and a client that speaks the frames by hand."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc.aio
import msgspec

from deploy.drivers.base import free_ports
from replica.kv import operations as kv
from replica.kv import runs
from replica.kv.machine import StateMachine
from replica.node.config import LogConfig, NodeConfig, load_config
from replica.node.errors import NodeFailure
from replica.node.logs import make_logger
from replica.node.replica import Replica
from replica.wire import typed as wire

PATIENCE_S = 30.0
"""How long a condition may take on a busy machine before the test is lost; nothing is measured against it."""


PATIENT_ELECTIONS = "election_timeout_min_s=1.0,election_timeout_max_s=2.0"
"""On a machine that is very busy, replicas that hold their elections as early as they may never stop to."""


async def eventually(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Wait until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)
    return found


def free_addresses(count: int) -> list[str]:
    """Addresses on loopback that nobody listens on, all different."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


def state_of(node: Replica) -> StateMachine:
    """The state of a replica whose protocol has one order over all commands."""
    assert isinstance(node.machine, StateMachine)
    return node.machine


class Nodes:
    """The replicas of one cluster, to be started, stopped, crashed and replaced."""

    def __init__(self, root: Path, count: int, settings: dict[str, Any]) -> None:
        self.root = root
        self.settings = settings
        addresses = free_addresses(2 * count)
        self.members = {
            replica: (addresses[2 * replica - 2], addresses[2 * replica - 1]) for replica in range(1, count + 1)
        }
        self.running: dict[int, Replica] = {}

    def config(self, replica: int, **settings: Any) -> NodeConfig:
        """The configuration of one replica; settings are fields by their path, dots written as two underscores."""
        peer, client = self.members[replica]
        flags: dict[str, Any] = {
            "cluster": "test",
            "replica": replica,
            "data": str(self.root / f"replica-{replica}"),
            "members": ",".join(f"{each}={at[0]}/{at[1]}" for each, at in sorted(self.members.items())),
            "listen.peer": peer,
            "listen.client": client,
            "log.level": "error",
            "enable_fault_injection": True,
            "storage.log_map_bytes": 1 << 30,
            "storage.state_map_bytes": 1 << 30,
            **self.settings,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
        if flags.get("protocol.name", "multipaxos") in {"multipaxos", "fpaxos"}:
            flags["protocol.options"] = ",".join(filter(None, (PATIENT_ELECTIONS, flags.get("protocol.options"))))
        return load_config(flags=flags)

    async def start(self, *replicas: int, **settings: Any) -> None:
        """Start these replicas (all, when none is named)."""
        names = replicas or tuple(self.members)
        for replica in names:
            node = Replica(self.config(replica, **{"bootstrap": True, **settings}), quiet_logger(replica))
            await node.start()
            self.running[replica] = node

    async def join(self, replica: int, peer: str, client: str) -> Replica:
        """Start a replica that is to be added; the others are those to ask."""
        self.members[replica] = (peer, client)
        node = Replica(self.config(replica, join=True), quiet_logger(replica))
        await node.start()
        self.running[replica] = node
        return node

    async def stop(self, *replicas: int) -> None:
        """Stop these replicas cleanly (all, when none is named)."""
        names = replicas or tuple(self.running)
        await asyncio.gather(*(self.running.pop(each).stop() for each in names))

    async def leader(self) -> Replica:
        """The replica that would propose, once there is one."""
        leader: Replica = await eventually(self._leader, "a leader that takes commands")
        return leader

    def _leader(self) -> Replica | None:
        leading = [
            node
            for node in self.running.values()
            if node.begun and not node.failed.done() and node.coordinator.status().accepting
        ]
        return leading[0] if leading else None

    async def session(self, **hello: Any) -> "RawSession":
        """A session at the leader, whoever that comes to be. Raises `Refused` for what waiting does not cure."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await attach(await self.leader(), **hello)
            except Refused as refused:
                if refused.code not in {wire.Code.NOT_LEADER, wire.Code.UNAVAILABLE}:
                    raise
                assert time.monotonic() < deadline, "no leader kept its place for long enough to open a session"

    async def followers(self) -> list[Replica]:
        """All but the leader."""
        leader = await self.leader()
        return [node for node in self.running.values() if node is not leader]

    async def ready(self) -> None:
        """Wait until every replica that runs is ready."""
        for node in self.running.values():
            await eventually(partial(_is_ready, node), "readiness")

    async def agree(self) -> str:
        """Wait until all replicas that run have applied what the leader has, and compare their digests."""
        leader = await self.leader()
        applied = state_of(leader).applied
        for node in self.running.values():
            await eventually(partial(_has_applied, node, applied), f"position {applied} applied")
        # What clients left behind (the end of a session) may still be on its way: states are compared at one position.
        await eventually(self._stand_together, "one position of all replicas")
        digests = {state_of(node).digest().digest for node in self.running.values()}
        assert len(digests) == 1, digests
        return digests.pop()

    def _stand_together(self) -> bool:
        first, *others = [state_of(node).applied for node in self.running.values()]
        return all(other == first for other in others)


def _is_ready(node: Replica) -> bool:
    return node.begun and not node.problem()


def _has_applied(node: Replica, position: int) -> bool:
    return state_of(node).applied >= position


@asynccontextmanager
async def nodes(root: Path, count: int = 3, **settings: Any) -> AsyncIterator[Nodes]:
    """A cluster that is gone at the end; its replicas are not started yet."""
    cluster = Nodes(root, count, {name.replace("__", "."): value for name, value in settings.items()})
    try:
        yield cluster
    finally:
        await cluster.stop()


def quiet_logger(replica: int) -> Any:
    """A logger that speaks of errors alone."""
    return make_logger(LogConfig(level="error"), cluster="test", replica=replica)


async def failure_of(node: Replica) -> NodeFailure:
    """Why a replica stopped by itself, once it has."""
    async with asyncio.timeout(PATIENCE_S):
        failure: NodeFailure = await asyncio.shield(node.failed)
        return failure


class Refused(Exception):
    """What was asked came back as a rejection."""

    def __init__(self, rejection: wire.Rejection) -> None:
        super().__init__(rejection.message)
        self.code = rejection.code
        self.definite = rejection.definite
        self.leader_address = rejection.leader_address


class RawSession:
    """One stream to one replica: frames by hand, one thing at a time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = 0
        self.welcome = wire.ServerFrame.Welcome()
        self.sequence = 0
        self.acknowledged = 0
        self._read_id = 0
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", 16 << 20)])
        self.call: Any = wire.session_stub(self._channel).Attach()

    @classmethod
    async def open(cls, address: str, **hello: Any) -> Self:
        """Attach, opening a session unless ``hello`` names one. Raises `Refused`."""
        session = cls(address)
        fields = {"wire_version": wire.WIRE_VERSION, "nonce": os.urandom(16), "client": "raw", **hello}
        try:
            await session.send(wire.ClientFrame(hello=wire.Hello(**fields)))
            frame = await session.receive()
        except BaseException:
            await session.close()
            raise
        if frame.rejections:
            await session.close()
            raise Refused(frame.rejections[0])
        session.welcome = frame.welcome
        session.session = frame.welcome.session
        return session

    async def send(self, frame: wire.ClientFrame) -> None:
        """Send a frame as it is."""
        async with asyncio.timeout(PATIENCE_S):
            await self.call.write(frame)

    async def receive(self) -> wire.ServerFrame:
        """The next frame, whatever it is; fails at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            frame = await self.call.read()
        assert isinstance(frame, wire.ServerFrame), f"the stream ended: {await self.call.details()}"
        return frame

    async def ended(self) -> wire.Closing | None:
        """Read to the end of the stream; its `Closing`, if it said one."""
        closing = None
        async with asyncio.timeout(PATIENCE_S):
            while (frame := await self.call.read()) is not grpc.aio.EOF:
                if frame.HasField("closing"):
                    closing = frame.closing
        return closing

    async def run(self, *operations: kv.AnyOperation, first: int | None = None) -> list[Any]:
        """Have operations executed under the next sequences (or from ``first`` on). Raises `Refused`."""
        return await self.run_encoded(runs.encode_operations(operations), len(operations), first=first)

    async def run_encoded(self, operations: bytes, count: int, *, first: int | None = None) -> list[Any]:
        """The same for bytes."""
        if first is None:
            first = self.sequence + 1
            self.sequence += count
        run = wire.Run(first_sequence=first, count=count, acknowledged=self.acknowledged, operations=operations)
        await self.send(wire.ClientFrame(runs=[run]))
        results: dict[int, Any] = {}
        while len(results) < count:
            frame = await self.receive()
            for rejection in frame.rejections:
                raise Refused(rejection)
            for result in frame.results:
                decoded = runs.decode_results(result.results, result.count)
                sequences = range(result.first_sequence, result.first_sequence + result.count)
                results.update(zip(sequences, decoded, strict=True))
        return [results[first + index] for index in range(count)]

    async def read(
        self, *operations: kv.AnyOperation, consistency: wire.Consistency = wire.Consistency.LINEARIZABLE
    ) -> list[Any]:
        """Read. Raises `Refused`."""
        self._read_id += 1
        encoded = msgspec.msgpack.encode(operations)
        read = wire.Read(id=self._read_id, consistency=consistency, count=len(operations), operations=encoded)
        await self.send(wire.ClientFrame(reads=[read]))
        while True:
            frame = await self.receive()
            for rejection in frame.rejections:
                raise Refused(rejection)
            for result in frame.read_results:
                assert result.id == self._read_id
                return list(runs.decode_results(result.results, len(operations)))

    async def put(self, key: bytes, value: bytes) -> int:
        """Put and return the revision."""
        (written,) = await self.run(kv.Put(key, value))
        assert isinstance(written, kv.Written), written
        return written.revision

    async def get(self, key: bytes, consistency: wire.Consistency = wire.Consistency.LINEARIZABLE) -> bytes | None:
        """Get the value."""
        (got,) = await self.read(kv.Get(key), consistency=consistency)
        assert isinstance(got, kv.Got), got
        return None if got.item is None else got.item.value

    async def close(self) -> None:
        """Hang up."""
        self.call.cancel()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


async def attach(node: Replica, **hello: Any) -> RawSession:
    """A session at that replica."""
    return await RawSession.open(f"127.0.0.1:{node.client_port}", **hello)


@asynccontextmanager
async def admin(node: Replica) -> AsyncIterator[Any]:
    """The replica's `Admin` service."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.client_port}") as channel:
        yield wire.admin_stub(channel)
