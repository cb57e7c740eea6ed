"""How EPaxos presents itself."""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import Capabilities, ProtocolSpec

from .messages import MESSAGES, TABLES
from .options import EPaxosOptions, validate
from .protocol import EPaxos

CAPABILITIES: Final = Capabilities(
    total_order=False,
    transactions=True,
    compare_and_set=True,
    exactly_once=True,
    reads=frozenset({"log"}),
    routing="nearest",
    crash_recovery=True,
    reconfiguration=False,
    footprints=True,
)

PROTOCOL: Final = ProtocolSpec(
    name="epaxos",
    summary="EPaxos: every replica proposes; only commands that interfere are ordered, by their dependencies.",
    capabilities=CAPABILITIES,
    messages=MESSAGES,
    tables=TABLES,
    options=EPaxosOptions,
    create=EPaxos,
    validate=validate,
)
