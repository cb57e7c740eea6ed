"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec

from .protocol import MultiPaxos
from .specification import PROTOCOL

BUGS: Final[dict[str, str]] = {
    "phase 1b omits decided slots": "a new leader that missed a commit uses the slot again",
    "gaps never filled": "slots that nobody reported in phase 1 stay open, and everything behind them waits",
    "commit applied to an entry of an older ballot": "a follower delivers its vote instead of what was decided",
    "promise lost on restart": "an acceptor that restarted accepts what it had promised not to",
    "vote counted before its sync": "a vote is sent, or counted by its own leader, before it is durable",
    "duplicate acknowledgements counted twice": "one follower's repeated answer passes for two",
    "log completion matched by slot only": "a vote is answered when an earlier write to its slot is durable",
    "no poll before a campaign": "a replica that lost sight of the leader deposes it; hurts progress, not safety",
}
"""The bugs by name, with what comes of them."""


def planted(*names: str, base: ProtocolSpec = PROTOCOL) -> ProtocolSpec:
    """``base`` with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        return MultiPaxos(context, options, bugs=bugs)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)
