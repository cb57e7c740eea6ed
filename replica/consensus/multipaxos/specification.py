"""How MultiPaxos and FPaxos present themselves."""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import Capabilities, ProtocolSpec

from .messages import MESSAGES, TABLES
from .options import FPaxosOptions, MultiPaxosOptions, validate
from .protocol import MultiPaxos

CAPABILITIES: Final = Capabilities(
    total_order=True,
    transactions=True,
    compare_and_set=True,
    exactly_once=True,
    reads=frozenset({"log", "read-index"}),
    routing="leader",
    crash_recovery=True,
    reconfiguration=True,
)

PROTOCOL: Final = ProtocolSpec(
    name="multipaxos",
    summary="MultiPaxos: one leader orders all commands in a log; majorities decide.",
    capabilities=CAPABILITIES,
    messages=MESSAGES,
    tables=TABLES,
    options=MultiPaxosOptions,
    create=MultiPaxos,
    validate=validate,
)

FPAXOS: Final = ProtocolSpec(
    name="fpaxos",
    summary="Flexible Paxos: MultiPaxos with smaller quorums to decide and larger ones to take over, or a grid.",
    capabilities=CAPABILITIES,
    messages=MESSAGES,
    tables=TABLES,
    options=FPaxosOptions,
    create=MultiPaxos,
    validate=validate,
)
