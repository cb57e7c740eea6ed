"""How Raft presents itself."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from replica.consensus.interface import Capabilities, ProtocolSpec

from .messages import MESSAGES, TABLES
from .options import RaftOptions, validate
from .protocol import Raft

CAPABILITIES: Final = Capabilities(
    total_order=True,
    transactions=True,
    compare_and_set=True,
    exactly_once=True,
    reads=frozenset({"log", "read-index", "lease"}),
    routing="leader",
    crash_recovery=True,
    reconfiguration=True,
)


def narrow(capabilities: Capabilities, options: RaftOptions) -> Capabilities:
    """Leases have to be asked for."""
    return capabilities if options.lease_s else replace(capabilities, reads=capabilities.reads - {"lease"})


PROTOCOL: Final = ProtocolSpec(
    name="raft",
    summary="Raft: a leader elected for a term orders all commands in its log; majorities commit.",
    capabilities=CAPABILITIES,
    messages=MESSAGES,
    tables=TABLES,
    options=RaftOptions,
    create=Raft,
    validate=validate,
    narrow=narrow,
)
