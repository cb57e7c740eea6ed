"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec, ReplicaId
from replica.consensus.quorums import Majority

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
    "quorums that do not intersect": "a leader takes over without hearing from anybody who knows what was decided",
    "any vote adopted": "a new leader proposes the first vote it hears of, not the one of the highest ballot",
    "phase 1b counted before it is whole": "a new leader goes by the first part of an answer",
    "ballot used before it is durable": "a candidate that restarts campaigns at the same ballot again",
    "read granted without a round": "a leader that was replaced and does not know it answers from the past",
    "read granted before recovery": "a new leader answers reads before what it recovered is decided",
    "snapshot erases votes above it": "an acceptor that installs a snapshot forgets what it voted for behind it",
    "no poll before a campaign": "a replica that lost sight of the leader deposes it; hurts progress, not safety",
}
"""The bugs by name, with what comes of them."""


class Apart(Majority):
    """One member too few for phase 1."""

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        """Without the check of a constructor that would refuse it."""
        return len(acks & self.members) >= len(self.members) - self.phase2_size


def planted(*names: str, base: ProtocolSpec = PROTOCOL) -> ProtocolSpec:
    """``base`` with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        apart = "quorums that do not intersect" in bugs
        quorums = Apart(context.configuration.replicas) if apart else None
        return MultiPaxos(context, options, bugs=bugs, quorums=quorums)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)
