"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec

from .protocol import EPaxos
from .specification import PROTOCOL

BUGS: Final[dict[str, str]] = {
    "executes ignoring dependencies": "replicas execute in the order of hearing of decisions, each in another one",
    "single-ballot recovery": "a promise passes for a vote at its ballot, and what was decided is decided otherwise",
    "vote before its sync": "a vote that a crash undoes has been counted, and the next recovery does not find it",
    "instance minted twice": "a leader that restarted proposes another command under a number that it has used",
}
"""The bugs by name, with what comes of them."""


def planted(*names: str, base: ProtocolSpec = PROTOCOL) -> ProtocolSpec:
    """``base`` with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        return EPaxos(context, options, bugs=bugs)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)
