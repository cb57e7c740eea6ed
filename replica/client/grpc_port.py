"""The session port over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import grpc

from replica.client.errors import InvalidArgument
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

    def __init__(self, channel: grpc.aio.Channel, call: Any, endpoint: str) -> None:
        self._channel = channel
        self._call = call
        self._endpoint = endpoint
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
            return AttachmentLost(f"{self._endpoint}: {describe(error)}")
        if self._call.done():
            code, details = await self._call.code(), await self._call.details()
            return AttachmentLost(f"{self._endpoint}: {details or code.name.lower()}")
        return AttachmentLost(f"{self._endpoint}: the stream ended")


class GrpcPort:
    """Replicas at ``host:port`` addresses. A channel lives as long as the attachment that uses it."""

    inherited = False
    """This process was forked while gRPC was in use: its threads are missing here, nothing would ever be answered."""

    def __init__(self, url: str, options: PortOptions) -> None:
        self._endpoints = parse_endpoints(url)
        self._credentials = _credentials(options) if options.tls_authority else None

    @property
    def endpoints(self) -> Sequence[str]:
        return self._endpoints

    async def attach(self, endpoint: str, hello: Hello) -> GrpcAttachment:
        if self.inherited:
            raise AttachmentLost(_INHERITED)
        channel = self._channel(endpoint)
        attachment = GrpcAttachment(channel, session_stub(channel).Attach(), endpoint)
        try:
            await attachment.send(ClientFrame(hello=hello))
        except BaseException:
            await attachment.close()
            raise
        return attachment

    async def status(self, endpoint: str) -> StatusReply:
        if self.inherited:
            raise AttachmentLost(_INHERITED)
        channel = self._channel(endpoint)
        try:
            return await admin_stub(channel).Status(StatusRequest())
        except grpc.aio.AioRpcError as error:
            raise AttachmentLost(f"{endpoint}: {describe(error)}") from None
        finally:
            await channel.close()

    async def close(self) -> None:
        """Nothing is held beyond the attachments."""

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        options = list(_CHANNEL_OPTIONS.items())
        if self._credentials is None:
            return grpc.aio.insecure_channel(endpoint, options=options)
        return grpc.aio.secure_channel(endpoint, self._credentials, options=options)


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


def _credentials(options: PortOptions) -> grpc.ChannelCredentials:
    def read(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    try:
        return grpc.ssl_channel_credentials(
            read(options.tls_authority), read(options.tls_key), read(options.tls_certificate)
        )
    except OSError as error:
        raise InvalidArgument(f"cannot read a TLS file: {error}") from None


def describe(error: grpc.aio.AioRpcError) -> str:
    """A gRPC error in a few words."""
    details = (error.details() or "").strip()
    # "failed to connect to all addresses; last error: UNKNOWN: ipv4:…": the last error says it all.
    details = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    code = error.code().name.lower().replace("_", " ")
    return f"{code}: {details}" if details else code
