"""How WPaxos presents itself."""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import Capabilities, ProtocolSpec

from .messages import MESSAGES, TABLES
from .options import WPaxosOptions, validate
from .protocol import WPaxos

CAPABILITIES: Final = Capabilities(
    total_order=False,
    transactions=False,
    compare_and_set=True,
    exactly_once=True,
    reads=frozenset({"log"}),
    routing="nearest",
    crash_recovery=True,
    reconfiguration=False,
    footprints=True,
)

PROTOCOL: Final = ProtocolSpec(
    name="wpaxos",
    summary="WPaxos: an owner for every key, which moves to where the key is used; quorums by zones.",
    capabilities=CAPABILITIES,
    messages=MESSAGES,
    tables=TABLES,
    options=WPaxosOptions,
    create=WPaxos,
    validate=validate,
)
