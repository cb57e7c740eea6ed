"""TLS of a client: its credentials, and why a connection did not come about.

gRPC says of most failed handshakes that the socket was closed. What a person needs to know (no certificate was given,
this one is not accepted, that is not TLS at all) shows in how the handshake fails, so when a connection has failed it
is made once more with the standard library, step by step.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Final

import grpc

from replica.client.errors import InvalidArgument
from replica.client.port import PortOptions

PROBE_TIMEOUT_S: Final = 2.0
"""A handshake that takes longer tells nothing."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How HTTP/2 begins: what refuses a certificate does so when it is spoken to."""

_LOOPBACK: Final = ("127.", "localhost", "[::1]", "::1")


def credentials(options: PortOptions) -> grpc.ChannelCredentials:
    """Credentials of a channel, from the files as they are now. Raises `InvalidArgument`."""

    def read(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    try:
        return grpc.ssl_channel_credentials(
            read(options.tls_authority), read(options.tls_key), read(options.tls_certificate)
        )
    except OSError as error:
        raise InvalidArgument(f"cannot read a TLS file: {error}") from None


def check_options(options: PortOptions) -> None:
    """Raises `InvalidArgument` for files that do not go together or cannot be read."""
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise InvalidArgument("options: tls_certificate and tls_key are given together")
    if options.tls_certificate and not options.tls_authority:
        raise InvalidArgument("options: tls_authority is required with tls_certificate")
    if options.tls_authority:
        credentials(options)


def is_loopback(endpoint: str) -> bool:
    """Does the endpoint name this very host?"""
    return endpoint.startswith(_LOOPBACK)


async def explain(endpoint: str, options: PortOptions) -> str:
    """Why no secured connection to ``endpoint`` comes about, as far as the handshake tells; empty when it does not."""
    if not options.tls_authority:
        spoken = await _handshake(endpoint, _context(PortOptions()))
        if spoken is None or isinstance(spoken, _Refused):
            return "it speaks TLS, and the client was given no tls_authority"
        return ""
    try:
        context = _context(options)
    except OSError as problem:  # ssl.SSLError is one
        return f"the client's certificate files cannot be used: {problem}"
    error = await _handshake(endpoint, context)
    if isinstance(error, _Refused) or (isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")):
        # With TLS 1.3 the client's certificate is judged when the client believes to be connected.
        if options.tls_certificate:
            return "the replica does not accept this client's certificate"
        return "the replica demands a certificate of the client, and none was given"
    if not isinstance(error, ssl.SSLError):
        return ""
    reason = (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the replica's certificate is not accepted here: {error.verify_message or reason}"
    return f"it does not speak TLS: {reason}" if "wrong version" in reason else ""


def _context(options: PortOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.tls_authority or None)
    context.set_alpn_protocols(["h2"])
    if not options.tls_authority:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.tls_certificate:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    return context


class _Refused(ConnectionError):
    """The other side has seen what this one showed, and hung up."""


async def _handshake(endpoint: str, context: ssl.SSLContext) -> Exception | None:
    """What the handshake, and a word after it, end with; None when they succeed."""
    # On a thread: what is said after the handshake, asyncio takes for the end of the stream.
    return await asyncio.to_thread(_shake_hands, endpoint, context)


def _shake_hands(endpoint: str, context: ssl.SSLContext) -> Exception | None:
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    try:
        with (
            socket.create_connection((host, int(port)), PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            secured.sendall(_PREFACE)
            return None if secured.recv(1) else _Refused("closed")
    except OSError as error:  # ssl.SSLError and TimeoutError are such
        return error
