"""The session port: everything that the client knows of the way to a replica.

A *port* reaches the replicas of one cluster, an *attachment* is one stream to one of them. The client above keeps
sessions, sequences, retries and deadlines; a port moves frames, in order, or fails. Frames are the messages of
``client.proto``, whatever they travel on, so a replica serves every port with the same code.

A port is chosen by the scheme of the URL. ``synod://host:port,host:port`` and a bare ``host:port,host:port`` go over
gRPC; other schemes are found in the entry-point group ``synod.ports``, whose entries are callables of the type
`PortFactory`: ``memory:`` and ``file:PATH`` run one replica in this process. Opening a port must not start anything:
it may be created in one thread and used in another, and it is first used when an event loop runs.

The contract, which the client relies on:

- `Port.attach` opens a stream and sends ``hello`` as its first frame. It does not wait for the welcome: that is the
  first frame received.
- `Attachment.send` returns when the transport has taken the frame, and so holds back a sender that is too fast. One
  call at a time. The frame is not touched afterwards by either side.
- `Attachment.receive` returns the frames of the replica in order. One call at a time; it may wait while `send` does.
- Either raises `AttachmentLost` once the stream has ended, whichever side ended it. Frames that were sent may have
  arrived or not.
- `Attachment.close` may be called at any time and more than once; calls that wait in `send` or `receive` then raise
  `AttachmentLost`.
- What one attachment carries is answered on that attachment alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Final, Protocol, TypeAlias

import msgspec

from replica.client.errors import InvalidArgument, NotCommitted
from replica.wire.typed import ClientFrame, Hello, ServerFrame, StatusReply

ENTRY_POINT_GROUP: Final = "synod.ports"
"""The entry-point group that maps the scheme of a URL to a `PortFactory`."""


class AttachmentLost(Exception):
    """The stream cannot be opened or has ended; the text says why, for people.

    ``mismatch``: what it is to whoever waits, when another attempt would end likewise.
    """

    def __init__(self, text: str, mismatch: type[NotCommitted] | None = None) -> None:
        super().__init__(text)
        self.mismatch = mismatch


class Attachment(Protocol):
    """One stream to one replica; see the rules in the module's text."""

    async def send(self, frame: ClientFrame, /) -> None:
        """Hand over a frame; returns when it has been taken. Raises `AttachmentLost`."""

    async def receive(self) -> ServerFrame:
        """The next frame. Raises `AttachmentLost` when there will be none."""

    async def close(self) -> None:
        """End the stream now. Never raises; does nothing the second time."""


class Port(Protocol):
    """The way to the replicas of one cluster."""

    @property
    def endpoints(self) -> Sequence[str]:
        """Where to begin, in the port's own notation; at least one. Replicas may name more in their welcome."""

    async def attach(self, endpoint: str, hello: Hello) -> Attachment:
        """Open a stream to ``endpoint`` and send ``hello`` on it. Raises `AttachmentLost`. May be cancelled."""

    async def status(self, endpoint: str) -> StatusReply:
        """What the replica says of itself. Raises `AttachmentLost`. May be cancelled."""

    async def close(self) -> None:
        """Close what `attach` and `status` opened, and stop what this port started."""


class PortOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every port is given beside its URL; a port uses what it understands."""

    tls_authority: str = ""
    """File with the certificates (PEM) by which replicas are recognised; empty: no TLS."""
    tls_certificate: str = ""
    """File with this client's certificate chain (PEM), for mutual TLS."""
    tls_key: str = ""
    """File with the key of that certificate (PEM)."""
    token: str = ""
    """What this client shows to the replicas, where they ask for tokens."""


PortFactory: TypeAlias = Callable[[str, PortOptions], Port]
"""Takes the whole URL and the options; raises `InvalidArgument` when the URL makes no sense."""


def open_port(url: str, options: PortOptions) -> Port:
    """The port for ``url``. Nothing is contacted yet.

    Raises:
        InvalidArgument: the URL cannot be understood, or nothing installed serves its scheme.
    """
    scheme = scheme_of(url)
    if scheme in {"", "synod"}:
        from replica.client.grpc_port import GrpcPort  # it imports this module

        return GrpcPort(url, options)
    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if scheme not in found:
        known = ", ".join(f"{name}:" for name in sorted({"synod", *found}))
        raise InvalidArgument(f"nothing serves URLs that begin with {scheme}: (known: {known} and plain host:port)")
    factory: PortFactory = found[scheme].load()
    return factory(url, options)


def scheme_of(url: str) -> str:
    """The scheme of ``url``; empty for a list of ``host:port``.

    A colon alone does not make a scheme (``localhost:7001``): what follows it must not be a port number.
    """
    head, colon, tail = url.partition(":")
    if not colon or not head.replace("-", "").replace("+", "").replace("_", "").isalnum() or not head[0].isalpha():
        return ""
    if tail.startswith("//"):
        return head.lower()
    number = tail.partition(",")[0].strip()
    return "" if number.isdecimal() else head.lower()
