"""How channels and servers are made: the only place that knows grpc's options and credentials.

Peers and clients have separate listeners, each a server of its own made here: in plain text, or by TLS.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from replica.consensus.interface import ReplicaId

from .bounds import GRPC_MESSAGE_BYTES_MAX, KEEPALIVE_INTERVAL_S, KEEPALIVE_TIMEOUT_S, LOOKAHEAD_BYTES
from .errors import AddressUnavailable
from .security import Credentials, replica_name


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials of a listener and of the channels that lead to its like. None: plain text."""

    credentials: Credentials | None = None

    @property
    def mutual(self) -> bool:
        """Must whoever connects show a certificate?"""
        return self.credentials is not None and self.credentials.mutual


PLAIN = Security()

PORT_MAX: Final = 65535

Options = Sequence[tuple[str, Any]]


def _common_options(message_bytes_max: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_INTERVAL_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        # The one above does not end a connection by itself (seen with grpcio 1.85): without this one a silent peer is
        # noticed after a minute.
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ]


def server_options(message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX) -> Options:
    """Options of every server, for peers and for clients."""
    return [
        *_common_options(message_bytes_max),
        # Otherwise a second process binds the same port and the kernel deals the connections out between them.
        ("grpc.so_reuseport", 0),
        # Peers and clients ping as often as they are told to above; that is no abuse.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(KEEPALIVE_INTERVAL_S * 500)),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def channel_options(message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX) -> Options:
    """Options of every channel between replicas."""
    return [
        *_common_options(message_bytes_max),
        # Each channel is a connection of its own: a snapshot must not share one with the messages.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        # Replicas are on one's own network; a proxy named in the environment is not meant for them.
        ("grpc.enable_http_proxy", 0),
    ]


def create_server(
    message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> grpc.aio.Server:
    """A server with the options above. Add services, `bind` it, start it."""
    return grpc.aio.server(options=server_options(message_bytes_max), interceptors=interceptors)


def bind(server: grpc.aio.Server, address: str, security: Security = PLAIN) -> int:
    """Listen on ``address`` (``host:port``, port 0 for any) and return the port.

    Raises `AddressUnavailable`, with one line that says why. The server must then be stopped like any other, or grpc
    complains about it at the end; `check_address` before `create_server` spares that.
    """
    check_address(address)
    try:
        if security.credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, security.credentials.server())
    except (RuntimeError, ValueError) as error:
        raise AddressUnavailable(address, str(error)) from None
    if port == 0:
        raise AddressUnavailable(address, "the address was refused")
    return int(port)


def open_channel(address: str, peer: ReplicaId, security: Security = PLAIN) -> grpc.aio.Channel:
    """A channel to the listener of ``peer``, with a connection of its own. With TLS, whoever answers must be certified
    to be that replica.
    """
    if security.credentials is None:
        return grpc.aio.insecure_channel(address, options=channel_options())
    options = [*channel_options(), ("grpc.ssl_target_name_override", replica_name(peer))]
    return grpc.aio.secure_channel(address, security.credentials.channel(), options=options)


def check_address(address: str) -> None:
    """Find out whether the address can be listened on, now, and if not why, in the system's words.

    grpc's own report is long, goes to the terminal, and does not say why. Raises `AddressUnavailable`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise AddressUnavailable(address, f"expected host:port with a port from 0 to {PORT_MAX}")
    try:
        for family, kind, protocol, _, target in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                # As grpc does: a port that only lingers from a connection of before is free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
    except OSError as error:
        raise AddressUnavailable(address, getattr(error, "strerror", None) or str(error)) from None
