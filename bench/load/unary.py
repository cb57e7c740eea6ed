"""A lean client for unary gRPC calls: many at once on one connection, in a few microseconds each.

grpc.aio spends about 100 µs on a unary call, which would make the generator the limit of whatever is measured through
it. This speaks just enough of HTTP/2 (RFC 9113) and of gRPC's framing over it for that one purpose:

- The header block of a method is encoded once, without the dynamic table, and sent as it is with every call.
- We announce a header table of size 0, so header blocks of the server do not depend on each other. Trailers are
  compared as bytes with those that have been decoded before (by the library hpack): a server sends the same few.
- Whatever was issued in one turn of the event loop leaves in one write.
- Flow control is kept: what we may send is what the peer's windows allow, and calls wait in order otherwise. The
  windows that we grant are as large as they may be.

Connections are plain TCP to addresses that the harness itself has started. There is no retry: when a connection ends,
whatever was outstanding fails with `CallLost`, and the next call opens it anew.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Final, cast

from hpack import Decoder  # type: ignore[attr-defined, unused-ignore]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW_MAX: Final = (1 << 31) - 1
WINDOW_INITIAL: Final = 65_535
WINDOW_RENEWED_AT: Final = 1 << 30
"""Bytes received after which the connection's window is opened again."""
TRAILERS_KNOWN_MAX: Final = 1024
"""Decoded header blocks that are remembered."""
STREAM_LAST: Final = (1 << 31) - 1

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PADDED, PRIORITY = 8, 32

_frame_head: Final = struct.Struct(">HBBBI")
"""Length in two parts, type, flags, stream."""
_message_head: Final = struct.Struct(">BI")
"""Compressed or not, and the length of the message."""


class CallFailed(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


class CallLost(Exception):
    """The connection ended before the answer came; the call may have been executed."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    size = len(payload)
    return _frame_head.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def opening(*, client: bool) -> bytes:
    """What a connection begins with: our settings (no header table, large windows) and a large window."""
    settings = struct.pack(">HIHI", 1, 0, 4, WINDOW_MAX)
    head = PREFACE if client else b""
    return (
        head
        + frame(SETTINGS, 0, 0, settings)
        + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - WINDOW_INITIAL))
    )


def message(payload: bytes) -> bytes:
    """A message of gRPC."""
    return _message_head.pack(0, len(payload)) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header that is not to be indexed, without compression."""
    assert len(name) < 127
    assert len(value) < 127
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request_headers(authority: str, path: str) -> bytes:
    """The header block of a unary call."""
    # 0x83 and 0x86 are ":method: POST" and ":scheme: http" in the static table.
    return (
        b"\x83\x86"
        + literal(b":path", path.encode())
        + literal(b":authority", authority.encode())
        + literal(b"content-type", b"application/grpc")
        + literal(b"te", b"trailers")
    )


class UnaryConnection(asyncio.Protocol):
    """One connection. `call` returns a future of the encoded answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._address = address
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Future[None] | None = None
        self._blocks: dict[str, bytes] = {}
        self._reset()

    def _reset(self) -> None:
        self._next = 1
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answers: dict[int, bytes] = {}
        self._out: list[bytes] = []
        self._held: deque[tuple[int, bytes, bytes]] = deque()
        """Calls that wait for the peer's window: stream, headers, data."""
        self._window = WINDOW_INITIAL
        self._stream_window = WINDOW_INITIAL
        self._frame_max = 16_384
        self._received = 0
        self._buffer = b""
        self._flushing = False
        self._statuses: dict[bytes, tuple[int, str] | None] = {}

    async def connect(self) -> None:
        """Open the connection, unless it is open. Raises `OSError`."""
        if self._transport is not None:
            return
        if self._opening is not None:
            await self._opening
            return
        self._opening = self._loop.create_future()
        try:
            host, _, port = self._address.rpartition(":")
            self._reset()
            await self._loop.create_connection(lambda: self, host, int(port))
            self._opening.set_result(None)
        except OSError as error:
            self._opening.set_exception(error)
            self._opening.exception()  # it is raised here; others who wait get it, too
            raise
        finally:
            self._opening = None

    @property
    def connected(self) -> bool:
        """Is it open?"""
        return self._transport is not None

    def call(self, path: str, request: bytes) -> asyncio.Future[bytes]:
        """Issue a call; fails with `CallFailed` or `CallLost`."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._transport is None or self._next > STREAM_LAST:
            future.set_exception(CallLost("not connected"))
            return future
        stream = self._next
        self._next += 2
        self._calls[stream] = future
        block = self._blocks.get(path)
        if block is None:
            block = self._blocks[path] = request_headers(self._address, path)
        data = _message_head.pack(0, len(request)) + request
        if self._held or len(data) > self._window or len(data) > min(self._stream_window, self._frame_max):
            self._held.append((stream, block, data))
            self._release()
        else:
            self._send(stream, block, data)
        return future

    def _send(self, stream: int, block: bytes, data: bytes) -> None:
        size, length = len(data), len(block)
        self._window -= size
        self._out += (
            _frame_head.pack(length >> 8, length & 0xFF, HEADERS, END_HEADERS, stream),
            block,
            _frame_head.pack(size >> 8, size & 0xFF, DATA, END_STREAM, stream),
            data,
        )
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _release(self) -> None:
        """Send what the windows allow, in order. A message beyond a frame or a stream's window is refused."""
        while self._held:
            stream, block, data = self._held[0]
            if len(data) > min(self._stream_window, WINDOW_MAX):
                self._held.popleft()
                self._fail(stream, CallFailed(8, f"a request of {len(data)} bytes is larger than the server's window"))
                continue
            if len(data) > self._window:
                return
            self._held.popleft()
            if len(data) <= self._frame_max:
                self._send(stream, block, data)
            else:
                self._send_in_pieces(stream, block, data)

    def _send_in_pieces(self, stream: int, block: bytes, data: bytes) -> None:
        self._window -= len(data)
        self._out.append(frame(HEADERS, END_HEADERS, stream, block))
        for start in range(0, len(data), self._frame_max):
            piece = data[start : start + self._frame_max]
            last = start + self._frame_max >= len(data)
            self._out.append(frame(DATA, END_STREAM if last else 0, stream, piece))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------------------------------------ asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: those of uvloop are transports without saying so.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(opening(client=True))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(
                    CallLost(f"{self._address}: the connection ended: {error or 'closed by the server'}")
                )

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        position, end = 0, len(data)
        unpack = _frame_head.unpack_from
        while end - position >= 9:
            high, low, kind, flags, stream = unpack(data, position)
            start = position + 9
            stop = start + (high << 8 | low)
            if stop > end:
                break
            position = stop
            if kind == DATA:
                self._received += stop - start
                answers = self._answers
                answers[stream] = answers[stream] + data[start:stop] if stream in answers else data[start:stop]
                if flags & PADDED:
                    self._abort("padded frames are not understood")
                    return
                if flags & END_STREAM:
                    self._fail(stream, CallFailed(13, "the answer ended without a status"))
            elif kind == HEADERS:
                if flags & (PADDED | PRIORITY) or not flags & END_HEADERS:
                    self._abort("padded, prioritised and continued headers are not understood")
                    return
                if flags & END_STREAM:
                    self._finish(stream, data[start:stop])
            else:
                self._control(kind, flags, stream, data[start:stop])
        self._buffer = data[position:]
        if self._received > WINDOW_RENEWED_AT:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
            self._flush()

    def _finish(self, stream: int, block: bytes) -> None:
        """The trailers have come."""
        future = self._calls.pop(stream, None)
        answer = self._answers.pop(stream, b"")
        if future is None or future.done():
            return
        if block in self._statuses:
            status = self._statuses[block]
        else:
            status = _status(block)
            if len(self._statuses) < TRAILERS_KNOWN_MAX:
                self._statuses[block] = status
        if status is None:
            if len(answer) < 5:
                future.set_exception(CallFailed(13, "an answer without a message"))
            else:
                future.set_result(answer[5:])
        else:
            future.set_exception(CallFailed(*status))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:  # SETTINGS
                for place in range(0, len(payload) - 5, 6):
                    name, value = struct.unpack_from(">HI", payload, place)
                    if name == 4:
                        self._stream_window = value
                    elif name == 5:
                        self._frame_max = value
                self._out.append(frame(SETTINGS, ACK, 0, b""))
                self._flush()
                self._release()
            case 8 if stream == 0:  # WINDOW_UPDATE
                self._window += int.from_bytes(payload, "big") & WINDOW_MAX
                self._release()
            case 6 if not flags & ACK:  # PING
                self._out.append(frame(PING, ACK, 0, payload))
                self._flush()
            case 3:  # RST_STREAM
                code = int.from_bytes(payload, "big")
                self._fail(stream, CallFailed(14, f"the server reset the call (HTTP/2 error {code})"))
            case 7:  # GOAWAY
                self._abort("the server is going away")
            case _:
                return

    def _fail(self, stream: int, error: Exception) -> None:
        self._answers.pop(stream, None)
        future = self._calls.pop(stream, None)
        if future is not None and not future.done():
            future.set_exception(error)

    def _abort(self, why: str) -> None:
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(CallLost(f"{self._address}: {why}"))
        if self._transport is not None:
            self._transport.abort()


def _status(block: bytes) -> tuple[int, str] | None:
    """The status that trailers carry; None for OK."""
    headers = {}
    for name, value in Decoder().decode(block, raw=True):
        headers[bytes(name)] = bytes(value)
    status = int(headers.get(b"grpc-status", b"2"))
    return None if status == 0 else (status, headers.get(b"grpc-message", b"").decode("utf-8", "replace"))
