"""Asks one replica's admin service, synchronously: what drivers and commands need of a running replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec

from replica.wire.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 5.0

DECIDE_TIMEOUT_S = 40.0
"""How long a change of the members may take once who comes has caught up."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What replicas are shown: nothing by default, and plain text."""

    authority: str = ""
    """File with the certificates (PEM) by which replicas are recognised; empty: no TLS."""
    certificate: str = ""
    key: str = ""
    token: str = ""


OPEN = Access()


class AdminError(Exception):
    """A replica refused or did not answer. ``unreachable`` tells the two apart."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@contextmanager
def _stub(address: str, access: Access) -> Iterator[admin_pb2_grpc.AdminStub]:
    options = [("grpc.enable_http_proxy", 0)]
    if access.authority:
        with grpc.secure_channel(address, _credentials(access), options=options) as channel:
            yield admin_pb2_grpc.AdminStub(channel)
    else:
        with grpc.insecure_channel(address, options=options) as channel:
            yield admin_pb2_grpc.AdminStub(channel)


def _credentials(access: Access) -> grpc.ChannelCredentials:
    def read(path: str) -> bytes | None:
        return Path(path).read_bytes() if path else None

    try:
        return grpc.ssl_channel_credentials(read(access.authority), read(access.key), read(access.certificate))
    except OSError as error:
        raise AdminError(f"cannot read a certificate: {error}") from None


def _call(
    address: str,
    method: Callable[[admin_pb2_grpc.AdminStub], Callable[..., Any]],
    request: Any,
    t: float,
    access: Access = OPEN,
) -> Any:
    metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
    with _stub(address, access) as stub:
        try:
            return method(stub)(request, timeout=t, metadata=metadata)
        except grpc.RpcError as error:
            code = error.code()
            unreachable = code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
            text = error.details() or code.name
            raise AdminError(
                f"replica at {address} {'does not answer' if unreachable else 'refused'}: {text}",
                unreachable=unreachable,
            ) from None


def status(address: str, *, timeout_s: float = TIMEOUT_S, access: Access = OPEN) -> admin_pb2.StatusReply:
    """The replica's account of itself. Raises `AdminError`."""
    request = admin_pb2.StatusRequest()
    reply: admin_pb2.StatusReply = _call(address, lambda stub: stub.Status, request, timeout_s, access)
    return reply


def digest(address: str, at_least: int, *, timeout_s: float = 30.0, access: Access = OPEN) -> admin_pb2.DigestReply:
    """Digest of the state once ``at_least`` has been applied. Raises `AdminError`."""
    request = admin_pb2.DigestRequest(at_least=at_least, timeout_s=timeout_s)
    reply: admin_pb2.DigestReply = _call(address, lambda stub: stub.Digest, request, timeout_s + TIMEOUT_S, access)
    return reply


def take_snapshot(address: str, *, timeout_s: float = 120.0, access: Access = OPEN) -> admin_pb2.TakeSnapshotReply:
    """Snapshot and truncate now. Raises `AdminError`."""
    reply: admin_pb2.TakeSnapshotReply = _call(
        address, lambda stub: stub.TakeSnapshot, admin_pb2.TakeSnapshotRequest(), timeout_s, access
    )
    return reply


def replace_member(
    address: str,
    request: admin_pb2.ReplaceMemberRequest,
    *,
    timeout_s: float = DECIDE_TIMEOUT_S,
    access: Access = OPEN,
) -> admin_pb2.ReplaceMemberReply:
    """Ask the leader for a configuration with another member. Raises `AdminError`."""
    reply: admin_pb2.ReplaceMemberReply = _call(address, lambda stub: stub.ReplaceMember, request, timeout_s, access)
    return reply


def hand_over(address: str, successor: int = 0, *, access: Access = OPEN) -> None:
    """Ask the leader to give up leadership. Raises `AdminError`."""
    _call(address, lambda stub: stub.Yield, admin_pb2.YieldRequest(successor=successor), TIMEOUT_S, access)


def inject_faults(address: str, request: admin_pb2.InjectFaultsRequest, *, access: Access = OPEN) -> None:
    """Set faults. Raises `AdminError` where the replica was started without them."""
    _call(address, lambda stub: stub.InjectFaults, request, TIMEOUT_S, access)


def measure_links(
    address: str, samples: int = 10, *, timeout_s: float = 10.0, access: Access = OPEN
) -> dict[int, list[float]]:
    """Round trips to the replica's peers in milliseconds, measured now. Raises `AdminError`."""
    request = admin_pb2.MeasureLinksRequest(samples=samples, timeout_s=timeout_s)
    reply: admin_pb2.MeasureLinksReply = _call(
        address, lambda stub: stub.MeasureLinks, request, timeout_s + TIMEOUT_S, access
    )
    return {link.peer: list(link.round_trip_ms) for link in reply.links}


def metrics(address: str, *, timeout_s: float = TIMEOUT_S, access: Access = OPEN) -> str:
    """The replica's metrics in the text format of Prometheus. Raises `AdminError`."""
    reply: admin_pb2.MetricsReply = _call(
        address, lambda stub: stub.Metrics, admin_pb2.MetricsRequest(), timeout_s, access
    )
    return reply.exposition
