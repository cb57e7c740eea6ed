"""Published bugs, planted on purpose: for tests of the tests.

`planted` builds a protocol with mistakes that real implementations have made, so that a suite can show that it catches
them. Neither an option nor the registry reaches it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from replica.consensus.interface import Context, Objects, Protocol, ProtocolSpec

from .protocol import WPaxos
from .specification import PROTOCOL

BUGS: Final[dict[str, str]] = {
    "steal drops the decided prefix": "a new owner that has missed decisions proposes in positions that are taken",
    "quorums that do not intersect": "a steal asks a zone too few, and misses what the old owner has decided",
    "vote before its sync": "a vote that a crash undoes has been counted, and the next owner does not find it",
    "promise lost on restart": "a member that restarted votes for an owner that it had helped to replace",
    "steal leaves the sessions behind": "an object moves without what its sessions did: a retry takes effect twice",
}
"""The bugs by name, with what comes of them."""


def planted(*names: str, base: ProtocolSpec = PROTOCOL) -> ProtocolSpec:
    """``base`` with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        if "steal leaves the sessions behind" in bugs and context.objects is not None:
            context = replace(context, objects=_Forgetful(context.objects))
        return WPaxos(context, options, bugs=bugs)

    return replace(base, summary=f"{base.summary} With planted bugs: {', '.join(sorted(bugs))}.", create=create)


class _Forgetful(Objects):
    """Objects as they are handed over, but for their sessions. The one place here that knows how a driver writes them:
    as an array that ends with a map by session."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def export(self, name: str) -> tuple[int, bytes]:
        position, image = self._objects.export(name)
        if not image:
            return position, image
        *rest, sessions = msgspec.msgpack.decode(image)
        assert isinstance(sessions, dict), "an object's image does not end with its sessions"
        return position, msgspec.msgpack.encode([*rest, {}])
