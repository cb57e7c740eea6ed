"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec

from .protocol import WPaxos
from .specification import PROTOCOL

BUGS: Final[dict[str, str]] = {
    "steal drops the decided prefix": "a new owner that has missed decisions proposes in positions that are taken",
    "quorums that do not intersect": "a steal asks a zone too few, and misses what the old owner has decided",
    "vote before its sync": "a vote that a crash undoes has been counted, and the next owner does not find it",
    "promise lost on restart": "a member that restarted votes for an owner that it had helped to replace",
}
"""The bugs by name, with what comes of them."""


def planted(*names: str, base: ProtocolSpec = PROTOCOL) -> ProtocolSpec:
    """``base`` with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        return WPaxos(context, options, bugs=bugs)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)
