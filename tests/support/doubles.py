"""Doubles of replicas for tests of the client: the real state machine behind a script of faults.

A `ClusterDouble` is one state machine that several `ReplicaDouble` serve, as if consensus were instant and never
wrong. What a test wants to go wrong it says on a replica double: who leads, which frames to lose, when to break the
stream. `DoublePort` reaches them within the process, `serve` over a real gRPC server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from replica.client.port import AttachmentLost
from replica.consensus.interface import Command
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import CloseSession, OpenSession, SessionOpened
from replica.kv.runs import encode_operations, encode_results, pack_payload, split_payload, validate_reads
from replica.wire.typed import (
    ADMIN,
    SESSION,
    WIRE_VERSION,
    ClientFrame,
    Closing,
    Code,
    Endpoint,
    Hello,
    Limits,
    ReadResult,
    Rejection,
    RunResult,
    ServerFrame,
    StatusReply,
    StatusRequest,
)


class ClusterDouble:
    """The replicated state, decided on the spot."""

    def __init__(self, replicas: int = 1, *, exactly_once: bool = True, batch_max: int = 10_000) -> None:
        self.machine = StateMachine(MemoryStore())
        self.exactly_once = exactly_once
        self.routing = "leader"
        self.batch_max = batch_max
        self.leader = 1
        self.limits = Limits(session_window=4096, run_operations_max=1024, frame_bytes_max=4 << 20)
        self.replicas = [ReplicaDouble(self, number) for number in range(1, replicas + 1)]
        self.executed: list[tuple[int, int]] = []
        """(session, sequence) of all operations handed to the machine, retries included."""

    @property
    def endpoints(self) -> list[str]:
        return [replica.address for replica in self.replicas]

    def apply(self, payload: bytes, session: int, sequence: int, count: int) -> bytes:
        self.executed += [(session, sequence + offset) for offset in range(count)] if session else []
        command = Command(payload, session, sequence, count)
        return self.machine.apply(self.machine.applied + 1, [command])[0].encoded()

    def open_session(self, nonce: bytes) -> int:
        payload = pack_payload(0, encode_operations([OpenSession(nonce)]))
        outcome = self.machine.apply(self.machine.applied + 1, [Command(payload)])[0]
        opened = outcome.results()[0]
        assert isinstance(opened, SessionOpened)
        return opened.session

    def serves(self, replica: int) -> bool:
        """Does the replica take commands?"""
        return self.routing != "leader" or self.leader == replica

    def close_session(self, session: int) -> None:
        self.apply(pack_payload(0, encode_operations([CloseSession(session)])), 0, 0, 1)


Handler = Callable[["StreamDouble", ClientFrame], bool]
"""Sees each frame before the replica does; True when it has dealt with it."""


@dataclass
class ReplicaDouble:
    """One replica. The fields below the line are the test's to set."""

    cluster: ClusterDouble
    number: int
    # ---
    address: str = ""
    reachable: bool = True
    hints: bool = True
    """Whether a replica that does not lead says who does."""
    answers: bool = True
    """Whether results leave; False: they are executed and kept back."""
    scripts: deque[Handler] = field(default_factory=deque)
    """The next frames that carry operations go to these, one each."""
    on_hello: Callable[[StreamDouble, Hello], None] | None = None
    """Answers greetings in the replica's place."""
    hellos: list[Hello] = field(default_factory=list)
    frames: list[ClientFrame] = field(default_factory=list)
    streams: list[StreamDouble] = field(default_factory=list)
    status: StatusReply = field(default_factory=StatusReply)

    def __post_init__(self) -> None:
        self.address = self.address or f"replica-{self.number}"

    def attach(self) -> StreamDouble:
        stream = StreamDouble(self)
        self.streams.append(stream)
        return stream

    def break_streams(self) -> None:
        """As when the process dies: every stream ends."""
        for stream in self.streams:
            stream.end()
        self.streams.clear()


class StreamDouble:
    """One stream, seen from the replica."""

    def __init__(self, replica: ReplicaDouble) -> None:
        self.replica = replica
        self.session = 0
        self.outgoing: deque[ServerFrame] = deque()
        self.ended = False
        self._changed = asyncio.Event()

    # --- what a test's handler may do

    def put(self, frame: ServerFrame) -> None:
        self.outgoing.append(frame)
        self._changed.set()

    def end(self) -> None:
        self.ended = True
        self._changed.set()

    def serve(self, frame: ClientFrame) -> None:
        """Do what a replica does."""
        cluster = self.replica.cluster
        if frame.HasField("hello"):
            self._greet(frame.hello)
        answer = ServerFrame()
        leads = cluster.serves(self.replica.number)
        for run in frame.runs:
            if not leads:
                answer.rejections.append(self.not_leader(first_sequence=run.first_sequence, count=run.count))
                continue
            payload = pack_payload(run.acknowledged, run.operations)
            if run.count <= cluster.batch_max:
                results = cluster.apply(payload, self.session, run.first_sequence, run.count)
                answer.results.append(RunResult(first_sequence=run.first_sequence, count=run.count, results=results))
                continue
            for offset, piece_count, piece in split_payload(payload, cluster.batch_max):
                first = run.first_sequence + offset
                results = cluster.apply(piece, self.session, first, piece_count)
                answer.results.append(RunResult(first_sequence=first, count=piece_count, results=results))
        for read in frame.reads:
            if not leads and read.consistency != 1:
                answer.rejections.append(self.not_leader(read_id=read.id))
                continue
            results = encode_results(cluster.machine.query(validate_reads(read.operations, read.count)))
            answer.read_results.append(ReadResult(id=read.id, results=results))
        if self.replica.answers and (answer.results or answer.read_results or answer.rejections):
            self.put(answer)
        if frame.goodbye:
            cluster.close_session(self.session)
            self.end()

    def not_leader(self, *, first_sequence: int = 0, count: int = 0, read_id: int = 0) -> Rejection:
        cluster = self.replica.cluster
        known = cluster.leader if self.replica.hints else 0
        address = cluster.replicas[known - 1].address if known else ""
        return Rejection(
            first_sequence=first_sequence,
            count=count,
            read_id=read_id,
            code=Code.NOT_LEADER,
            definite=True,
            leader=known,
            leader_address=address,
        )

    def _greet(self, hello: Hello) -> None:
        self.replica.hellos.append(hello)
        if self.replica.on_hello is not None:
            self.replica.on_hello(self, hello)
            return
        cluster = self.replica.cluster
        self.session = hello.session
        if not hello.session and hello.nonce:
            if not cluster.serves(self.replica.number):
                self.put(ServerFrame(rejections=[self.not_leader()]))
                self.put(ServerFrame(closing=Closing(code=Code.NOT_LEADER, message="no session opened")))
                self.end()
                return
            self.session = cluster.open_session(hello.nonce)
        known = cluster.leader if self.replica.hints and cluster.routing == "leader" else 0
        self.put(
            ServerFrame(
                welcome=ServerFrame.Welcome(
                    wire_version=WIRE_VERSION,
                    cluster="double",
                    replica=self.replica.number,
                    session=self.session,
                    protocol="double",
                    limits=cluster.limits,
                    exactly_once=cluster.exactly_once,
                    routing=cluster.routing,
                    leader=known,
                    leader_address=cluster.replicas[known - 1].address if known else "",
                    endpoints=[Endpoint(replica=r.number, address=r.address) for r in cluster.replicas],
                )
            )
        )

    # --- the two ends that a transport uses

    def take(self, frame: ClientFrame) -> None:
        """A frame of the client has arrived."""
        if self.ended:
            return
        if frame.runs or frame.reads:
            self.replica.frames.append(frame)
            if self.replica.scripts and self.replica.scripts.popleft()(self, frame):
                return
        self.serve(frame)

    async def next(self) -> ServerFrame | None:
        """The next frame for the client; None at the end."""
        while not self.outgoing:
            if self.ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.outgoing.popleft()


class DoubleAttachment:
    """The client's end of a stream within the process. Frames are copied, as a network would."""

    def __init__(self, stream: StreamDouble) -> None:
        self._stream = stream

    async def send(self, frame: ClientFrame, /) -> None:
        if self._stream.ended:
            raise AttachmentLost(f"{self._stream.replica.address}: the stream ended")
        self._stream.take(ClientFrame.FromString(frame.SerializeToString()))

    async def receive(self) -> ServerFrame:
        frame = await self._stream.next()
        if frame is None:
            raise AttachmentLost(f"{self._stream.replica.address}: the stream ended")
        return frame

    async def close(self) -> None:
        self._stream.end()


class DoublePort:
    """The way to the doubles of one cluster."""

    def __init__(self, cluster: ClusterDouble, endpoints: list[str] | None = None) -> None:
        self._cluster = cluster
        self.endpoints = endpoints or cluster.endpoints
        self.attempts: list[str] = []

    async def attach(self, endpoint: str, hello: Hello) -> DoubleAttachment:
        self.attempts.append(endpoint)
        replica = next((r for r in self._cluster.replicas if r.address == endpoint), None)
        if replica is None or not replica.reachable:
            raise AttachmentLost(f"{endpoint}: connection refused")
        attachment = DoubleAttachment(replica.attach())
        await attachment.send(ClientFrame(hello=hello))
        return attachment

    async def status(self, endpoint: str) -> StatusReply:
        replica = next((r for r in self._cluster.replicas if r.address == endpoint), None)
        if replica is None or not replica.reachable:
            raise AttachmentLost(f"{endpoint}: connection refused")
        return replica.status

    async def close(self) -> None:
        pass


def _handler(replica: ReplicaDouble) -> grpc.GenericRpcHandler:
    async def attach(request_iterator, context):
        stream = replica.attach()

        async def read() -> None:
            async for frame in request_iterator:
                stream.take(frame)
            stream.end()

        reader = asyncio.create_task(read())
        try:
            while (frame := await stream.next()) is not None:
                await context.write(frame)
        finally:
            reader.cancel()

    method: Any = grpc.stream_stream_rpc_method_handler(
        attach, request_deserializer=ClientFrame.FromString, response_serializer=ServerFrame.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SESSION, {"Attach": method})


def _admin_handler(replica: ReplicaDouble) -> grpc.GenericRpcHandler:
    async def status(_request, _context):
        return replica.status

    method: Any = grpc.unary_unary_rpc_method_handler(
        status, request_deserializer=StatusRequest.FromString, response_serializer=StatusReply.SerializeToString
    )
    return grpc.method_handlers_generic_handler(ADMIN, {"Status": method})


@asynccontextmanager
async def serve(
    cluster: ClusterDouble, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[list[grpc.aio.Server]]:
    """Serve every replica of ``cluster`` over gRPC on a free port of loopback; their addresses are changed to it."""
    servers = []
    for replica in cluster.replicas:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_handler(replica), _admin_handler(replica)))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        replica.address = f"127.0.0.1:{port}"
        await server.start()
        servers.append(server)
    try:
        yield servers
    finally:
        for replica in cluster.replicas:
            replica.break_streams()
        for server in servers:
            await server.stop(0)
