"""Responders that answer at once: what a generator can do at best, for each kind of RPC.

``python -m bench.load.instant session`` (or ``etcd``) prints the port that it listens on and serves until its standard
input ends. It keeps nothing and decides nothing, so answers make no sense as a history; every put was written at
revision 1, nothing is ever found. What a generator reaches against it is its *ceiling*: a system that comes within
`bench.results.CEILING_FACTOR` of that is limited by the harness.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import grpc
import msgspec

from bench.increments import run
from bench.load import etcd_messages as etcd
from bench.load.unary import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    literal,
    message,
    opening,
)
from replica.kv.operations import (
    KEY_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_OPERATIONS_MAX,
    SESSION_WINDOW,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Added,
    AnyResult,
    Deleted,
    Got,
    Ranged,
    Transacted,
    Written,
)
from replica.wire.v1 import client_pb2

WIRE_VERSION: Final = 1
WINDOW_RENEWED_AT: Final = 1 << 20

_OPERATIONS: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])
_ENCODER: Final = msgspec.msgpack.Encoder()


# ---------------------------------------------------------------------------------------------------- Synod's session

# By the tag of an operation, which is the second byte of its encoding.
_ANSWERS: Final[dict[int, AnyResult]] = {
    1: Written(1),
    2: Got(1),
    3: Ranged(1),
    4: Deleted(1),
    5: Deleted(1),
    6: Added(1, value=1),
    7: Transacted(1, succeeded=True),
}
_ENCODED: Final = {tag: msgspec.Raw(_ENCODER.encode(answer)) for tag, answer in _ANSWERS.items()}


def _answer(operations: bytes) -> bytes:
    """The encoded results of an encoded run."""
    return _ENCODER.encode([_ENCODED[bytes(memoryview(each)[1:2])[0]] for each in _OPERATIONS.decode(operations)])


async def _attach(frames: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for received in frames:
        reply = client_pb2.ServerFrame()
        if received.HasField("hello"):
            reply.welcome.wire_version = received.hello.wire_version or WIRE_VERSION
            reply.welcome.cluster = "instant"
            reply.welcome.replica = reply.welcome.leader = 1
            reply.welcome.session = 1
            reply.welcome.epoch = 1
            reply.welcome.protocol = "instant"
            reply.welcome.exactly_once = True
            limits = reply.welcome.limits
            limits.key_bytes_max, limits.value_bytes_max = KEY_BYTES_MAX, VALUE_BYTES_MAX
            limits.run_operations_max, limits.frame_bytes_max = RUN_OPERATIONS_MAX, 2 * RUN_BYTES_MAX
            limits.session_window = SESSION_WINDOW
            limits.transaction_operations_max = TRANSACTION_OPERATIONS_MAX
        for each in received.runs:
            reply.results.add(first_sequence=each.first_sequence, count=each.count, results=_answer(each.operations))
        for each in received.reads:
            reply.read_results.add(id=each.id, results=_answer(each.operations))
        yield reply
        if received.goodbye:
            return


async def _serve_sessions() -> int:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)])
    handler = grpc.stream_stream_rpc_method_handler(
        _attach, client_pb2.ClientFrame.FromString, client_pb2.ServerFrame.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("synod.v1.Session", {"Attach": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return port


_KEPT: list[Any] = []


# -------------------------------------------------------------------------------------------------------------- etcd


class InstantUnary(asyncio.Protocol):
    """The server's end of a connection: whatever is called, the same bytes answer, as soon as the call is complete.

    A revision in the header is all that the answers of puts, ranges, deletions and transactions have in common; the
    other fields are absent.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._greeted = False
        self._received = 0
        self._transport: asyncio.Transport | None = None
        body = message(etcd.PutResponse(header={"revision": 1}).SerializeToString())
        # 0x88 is ":status: 200" in the static table.
        head = b"\x88" + literal(b"content-type", b"application/grpc")
        self._pieces = (
            frame(HEADERS, END_HEADERS, 0, head),
            frame(DATA, 0, 0, body),
            frame(HEADERS, END_HEADERS | END_STREAM, 0, literal(b"grpc-status", b"0")),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: those of uvloop are transports without saying so.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(opening(client=False))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        position = 0
        if not self._greeted:
            if len(data) < len(PREFACE):
                self._buffer = data
                return
            position, self._greeted = len(PREFACE), True
        out: list[bytes] = []
        while len(data) - position >= 9:
            size = int.from_bytes(data[position : position + 3], "big")
            if len(data) - position < 9 + size:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = data[position + 5 : position + 9]
            payload_at = position + 9
            position = payload_at + size
            if kind == DATA:
                self._received += size
            if kind in {DATA, HEADERS} and flags & END_STREAM:
                for piece in self._pieces:
                    out += (piece[:5], stream, piece[9:])
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, data[payload_at:position]))
        self._buffer = data[position:]
        if self._received > WINDOW_RENEWED_AT:
            out.append(frame(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        if out and self._transport is not None:
            self._transport.write(b"".join(out))


async def _serve_unary() -> int:
    server = await asyncio.get_running_loop().create_server(InstantUnary, "127.0.0.1", 0)
    _KEPT.append(server)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _main(rpc: str) -> None:
    port = await (_serve_sessions() if rpc == "session" else _serve_unary())
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass
    with contextlib.suppress(AttributeError):
        await _KEPT[0].stop(0)


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(_main(sys.argv[1]))


if __name__ == "__main__":
    main()
