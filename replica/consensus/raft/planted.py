"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec

from .protocol import Raft
from .specification import PROTOCOL

BUGS: Final[dict[str, str]] = {
    "commits an older term by counting": "what a majority holds is taken for committed, and then replaced (figure 8)",
    "truncates on a delayed append": "an append that arrives late removes what was acknowledged since",
    "commit beyond what matches": "a follower delivers entries of its own that the leader never had",
    "term and vote lost on restart": "a replica that restarted votes twice in a term",
    "vote counted before its sync": "a vote or an entry is told of, or counted by its own leader, before it is durable",
    "stale lease read after a pause": "a lease is taken to hold until its timer fires, however late that is",
    "votes without looking at the log": "a replica is elected that lacks what is committed",
    "append matched by index alone": "entries are appended behind an entry that the leader does not have",
    "read granted without a round": "a deposed leader answers reads from its old state",
    "read granted before the term is opened": "a new leader answers reads before it knows what was committed",
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
        return Raft(context, options, bugs=bugs)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)
