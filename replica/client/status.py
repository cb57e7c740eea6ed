"""What replicas say of themselves."""

from __future__ import annotations

import asyncio

import msgspec

from replica.client.port import AttachmentLost, Port
from replica.wire.typed import StatusReply


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica's account of itself, or why there is none."""

    endpoint: str
    reachable: bool
    problem: str = ""
    """Why it is not reachable or not ready, in words."""
    cluster: str = ""
    replica: int = 0
    epoch: int = 0
    protocol: str = ""
    role: str = ""
    leader: int = 0
    """The leader as this replica sees it; 0: unknown."""
    leader_address: str = ""
    ballot: str = ""
    ready: bool = False
    """Linearizable commands would be served, here or through the leader."""
    accepting: bool = False
    """This replica itself would propose."""
    decided: int = 0
    applied: int = 0
    revision: int = 0
    compacted: int = 0
    durability: str = ""
    sync_mode: str = ""
    version: str = ""
    sessions: int = 0
    log_bytes: int = 0
    state_bytes: int = 0
    snapshot_frontier: int = 0
    uptime_s: float = 0.0


async def survey(port: Port, timeout_s: float) -> list[ReplicaStatus]:
    """Ask the known endpoints, then those that the answers name; ordered by replica, the silent ones last."""
    answers: dict[str, ReplicaStatus] = {}
    to_ask = set(port.endpoints)
    while to_ask:
        asked = sorted(to_ask)
        named: set[str] = set()
        for endpoint, answer in zip(
            asked, await asyncio.gather(*(_ask(port, endpoint, timeout_s) for endpoint in asked)), strict=True
        ):
            if isinstance(answer, StatusReply):
                answers[endpoint] = _status(endpoint, answer)
                named.update(member.client_address for member in answer.members if member.client_address)
            else:
                answers[endpoint] = ReplicaStatus(endpoint=endpoint, reachable=False, problem=answer)
        to_ask = named - answers.keys()
    # A replica may answer at the address that was given and at the one it goes by.
    unique: dict[tuple[int, str], ReplicaStatus] = {}
    for status in answers.values():
        unique.setdefault((status.replica, "" if status.reachable else status.endpoint), status)
    return sorted(unique.values(), key=lambda status: (not status.reachable, status.replica, status.endpoint))


async def _ask(port: Port, endpoint: str, timeout_s: float) -> StatusReply | str:
    try:
        async with asyncio.timeout(timeout_s):
            return await port.status(endpoint)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except AttachmentLost as lost:
        return str(lost)


def _status(endpoint: str, reply: StatusReply) -> ReplicaStatus:
    copied = {
        name: getattr(reply, name) for name in ReplicaStatus.__struct_fields__ if name not in {"endpoint", "reachable"}
    }
    return ReplicaStatus(endpoint=endpoint, reachable=True, **copied)
