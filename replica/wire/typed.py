"""The wire contracts as the rest of the project uses them: messages, stubs and servicers with honest types.

Import from here and nowhere deeper. The generated modules behind it are not strict-clean: the asynchronous stubs exist
only in their type stubs, and their functions take either flavour of grpc. The few casts that this needs stand here.

A service that is too busy for message objects can speak bytes instead: `method_path` names a method for a generic
handler or for `grpc.aio.Channel.stream_stream` with serialisers of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import grpc.aio

from .v1 import admin_pb2_grpc, client_pb2_grpc, peer_pb2_grpc
from .v1.admin_pb2 import (
    DigestReply,
    DigestRequest,
    InjectFaultsReply,
    InjectFaultsRequest,
    LinkFault,
    LinkMeasurement,
    MeasureLinksReply,
    MeasureLinksRequest,
    MemberStatus,
    MetricsReply,
    MetricsRequest,
    ReplaceMemberReply,
    ReplaceMemberRequest,
    StatusReply,
    StatusRequest,
    TakeSnapshotReply,
    TakeSnapshotRequest,
    YieldReply,
    YieldRequest,
)
from .v1.admin_pb2_grpc import AdminServicer
from .v1.client_pb2 import (
    ClientFrame,
    Closing,
    Code,
    Consistency,
    Endpoint,
    Hello,
    Limits,
    Read,
    ReadResult,
    Rejection,
    Run,
    RunResult,
    ServerFrame,
    Watch,
    WatchEnded,
    WatchNews,
)
from .v1.client_pb2_grpc import SessionServicer
from .v1.peer_pb2 import (
    Echo,
    EpochNotice,
    Greeting,
    LearnChunk,
    LearnRequest,
    Messages,
    PeerFrame,
    PeerReply,
    Refusal,
    SnapshotChunk,
    SnapshotRequest,
    Welcome,
)
from .v1.peer_pb2_grpc import PeerServicer

if TYPE_CHECKING:
    from .v1.admin_pb2_grpc import AdminAsyncStub
    from .v1.client_pb2_grpc import SessionAsyncStub
    from .v1.peer_pb2_grpc import PeerAsyncStub

WIRE_VERSION: Final = 1
"""The version of the contracts in `protos/synod/v1` that this code speaks; in every greeting and hello."""

PEER: Final = "synod.v1.Peer"
SESSION: Final = "synod.v1.Session"
ADMIN: Final = "synod.v1.Admin"


def method_path(service: str, method: str) -> str:
    """The path of a method as grpc spells it on the wire, e.g. ``/synod.v1.Peer/Connect``."""
    return f"/{service}/{method}"


def peer_stub(channel: grpc.aio.Channel) -> PeerAsyncStub:
    """Calls to the service `Peer`."""
    return cast("PeerAsyncStub", peer_pb2_grpc.PeerStub(channel))


def session_stub(channel: grpc.aio.Channel) -> SessionAsyncStub:
    """Calls to the service `Session`."""
    return cast("SessionAsyncStub", client_pb2_grpc.SessionStub(channel))


def admin_stub(channel: grpc.aio.Channel) -> AdminAsyncStub:
    """Calls to the service `Admin`."""
    return cast("AdminAsyncStub", admin_pb2_grpc.AdminStub(channel))


def add_peer_servicer(servicer: PeerServicer, server: grpc.aio.Server) -> None:
    """Serve `Peer` on ``server``, which must not have been started."""
    peer_pb2_grpc.add_PeerServicer_to_server(servicer, server)


def add_session_servicer(servicer: SessionServicer, server: grpc.aio.Server) -> None:
    """Serve `Session` on ``server``, which must not have been started."""
    client_pb2_grpc.add_SessionServicer_to_server(servicer, server)


def add_admin_servicer(servicer: AdminServicer, server: grpc.aio.Server) -> None:
    """Serve `Admin` on ``server``, which must not have been started."""
    admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)


__all__ = [
    # peers
    "Echo", "EpochNotice", "Greeting", "LearnChunk", "LearnRequest", "Messages", "PeerFrame", "PeerReply",
    "PeerServicer", "Refusal", "SnapshotChunk", "SnapshotRequest", "Welcome", "add_peer_servicer", "peer_stub",
    # clients
    "ClientFrame", "Closing", "Code", "Consistency", "Endpoint", "Hello", "Limits", "Read", "ReadResult", "Rejection",
    "Run", "RunResult", "ServerFrame", "SessionServicer", "Watch", "WatchEnded", "WatchNews",
    "add_session_servicer", "session_stub",
    # operators
    "AdminServicer", "DigestReply", "DigestRequest", "InjectFaultsReply", "InjectFaultsRequest", "LinkFault",
    "LinkMeasurement", "MeasureLinksReply", "MeasureLinksRequest", "MemberStatus", "MetricsReply", "MetricsRequest",
    "ReplaceMemberReply", "ReplaceMemberRequest", "StatusReply", "StatusRequest", "TakeSnapshotReply",
    "TakeSnapshotRequest", "YieldReply", "YieldRequest", "add_admin_servicer", "admin_stub",
    # names
    "ADMIN", "PEER", "SESSION", "WIRE_VERSION", "method_path",
]  # fmt: skip
