"""The session port over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import grpc

from replica.client import tls
from replica.client.errors import InvalidArgument, NotCommitted, PermissionDenied, Unauthenticated
from replica.client.port import AttachmentLost, PortOptions
from replica.wire.typed import ClientFrame, Hello, ServerFrame, StatusReply, StatusRequest, admin_stub, session_stub

DEFAULT_PORT: Final = 7001
"""The client port that an endpoint without one means."""

FRAME_BYTES_MAX: Final = 16 << 20
"""What the channel lets through in either direction; the replica states its own, lower limit in the welcome."""

_CHANNEL_OPTIONS: Final[Mapping[str, int]] = {
    "grpc.max_receive_message_length": FRAME_BYTES_MAX,
    "grpc.max_send_message_length": FRAME_BYTES_MAX,
    # A shared subchannel would share its back-off, too: after a restart of the replica a fresh channel would wait.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_retries": 0,
    # The loss of a machine shows on a quiet stream as well; replicas allow this pace.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    # Without it a replica that went silent is noticed after a minute: the one above is not enough (grpcio 1.85).
    "grpc.http2.ping_timeout_ms": 5_000,
}


_INHERITED: Final = (
    "this process was forked while gRPC was in use, which gRPC does not survive: start children with spawn or "
    "forkserver, or fork on another thread than the event loop's and with nobody else using gRPC"
)


class GrpcAttachment:
    """One call of ``Session.Attach`` on a channel of its own."""

    def __init__(self, channel: grpc.aio.Channel, call: Any, endpoint: str, options: PortOptions) -> None:
        self._channel = channel
        self._call = call
        self._endpoint = endpoint
        self._options = options
        self._closed = False

    async def send(self, frame: ClientFrame, /) -> None:
        try:
            await self._call.write(frame)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._lost(error) from None
        except asyncio.CancelledError:
            self._reraise_own_cancellation()
            raise AttachmentLost(f"{self._endpoint}: the stream was closed") from None

    async def receive(self) -> ServerFrame:
        try:
            frame = await self._call.read()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise await self._lost(error) from None
        except asyncio.CancelledError:
            self._reraise_own_cancellation()
            raise AttachmentLost(f"{self._endpoint}: the stream was closed") from None
        if frame is grpc.aio.EOF:
            raise await self._lost(None)
        return cast("ServerFrame", frame)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._call.cancel()
        await self._channel.close()

    def _reraise_own_cancellation(self) -> None:
        # grpc.aio reports a call that was cancelled as a cancellation of whoever waits on it: tell the two apart.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def _lost(self, error: BaseException | None) -> AttachmentLost:
        if isinstance(error, grpc.aio.AioRpcError):
            return await lost(self._endpoint, error.code(), error.details() or "", self._options)
        if self._call.done():
            code, details = await self._call.code(), await self._call.details()
            return await lost(self._endpoint, code, details or "", self._options)
        return AttachmentLost(f"{self._endpoint}: the stream ended")


class GrpcPort:
    """Replicas at ``host:port`` addresses. A channel lives as long as the attachment that uses it."""

    inherited = False
    """This process was forked while gRPC was in use: its threads are missing here, nothing would ever be answered."""

    def __init__(self, url: str, options: PortOptions) -> None:
        self._endpoints = parse_endpoints(url)
        self._options = options
        tls.check_options(options)

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    async def attach(self, endpoint: str, hello: Hello) -> GrpcAttachment:
        if self.inherited:
            raise AttachmentLost(_INHERITED)
        metadata = self._metadata(endpoint)
        channel = self._channel(endpoint)
        attachment = GrpcAttachment(channel, session_stub(channel).Attach(metadata=metadata), endpoint, self._options)
        try:
            await attachment.send(ClientFrame(hello=hello))
        except BaseException:
            await attachment.close()
            raise
        return attachment

    async def status(self, endpoint: str) -> StatusReply:
        if self.inherited:
            raise AttachmentLost(_INHERITED)
        metadata = self._metadata(endpoint)
        channel = self._channel(endpoint)
        try:
            return await admin_stub(channel).Status(StatusRequest(), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise await lost(endpoint, error.code(), error.details() or "", self._options) from None
        finally:
            await channel.close()

    async def close(self) -> None:
        """Nothing is held beyond the attachments."""

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        options = list(_CHANNEL_OPTIONS.items())
        if not self._options.tls_authority:
            return grpc.aio.insecure_channel(endpoint, options=options)
        return grpc.aio.secure_channel(endpoint, tls.credentials(self._options), options=options)

    def _metadata(self, endpoint: str) -> tuple[tuple[str, str], ...]:
        """What every call carries. Raises `AttachmentLost` where the token would go out for everybody to read."""
        token = self._options.token
        if not token:
            return ()
        if not self._options.tls_authority and not tls.is_loopback(endpoint):
            raise AttachmentLost(
                f"{endpoint}: a token is not sent to another host in plain text: give tls_authority", Unauthenticated
            )
        return (("authorization", f"Bearer {token}"),)


def parse_endpoints(url: str) -> tuple[str, ...]:
    """The addresses in ``host:port,host:port`` with or without ``synod://`` in front.

    Raises:
        InvalidArgument: there is none, or one cannot be read.
    """
    text = url.removeprefix("synod://").strip().rstrip("/")
    endpoints = [_endpoint(part.strip()) for part in text.split(",") if part.strip()]
    if not endpoints:
        raise InvalidArgument(f"no endpoint in {url!r}: expected host:port,host:port")
    return tuple(dict.fromkeys(endpoints))


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16 or "/" in text:
        raise InvalidArgument(f"cannot read the endpoint {text!r}: expected host:port, with [] around an IPv6 address")
    return f"{host}:{port}"


async def lost(endpoint: str, code: grpc.StatusCode, details: str, options: PortOptions) -> AttachmentLost:
    """What became of a connection or call that ended with that status."""
    mismatch: type[NotCommitted] | None = _MISMATCHES.get(code)
    text = _describe(code, details)
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in details for sign in _HANDSHAKE):
        reason = await tls.explain(endpoint, options)
        if reason:
            return AttachmentLost(f"{endpoint}: {reason}", Unauthenticated)
    return AttachmentLost(f"{endpoint}: {text}", mismatch)


_MISMATCHES: Final[Mapping[grpc.StatusCode, type[NotCommitted]]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}

_HANDSHAKE: Final = ("Socket closed", "handshake failed", "verification check failed", "Connection reset")
"""How gRPC words the failures that a handshake may be the reason of."""


def _describe(code: grpc.StatusCode, details: str) -> str:
    """The end of a call in a few words."""
    # "failed to connect to all addresses; last error: UNKNOWN: ipv4:…": the last error says it all.
    details = details.strip().rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    name = code.name.lower().replace("_", " ")
    return f"{name}: {details}" if details else name
