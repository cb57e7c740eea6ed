"""Mistakes that implementations of ABD have made, to be planted and found. Nothing but tests imports this."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from replica.consensus.interface import Context, Protocol, ProtocolSpec

from .protocol import PROTOCOL, Abd

BUGS: Final = {
    "versions without writer id": "two writers choose the same version, and replicas differ under it",
    "reader without write-back": "a read returns what a later one does not find any more",
    "acknowledged before its sync": "a write that was answered is gone after a power cut",
    "a stamp shared by two writes": "two writes through one replica at once choose the same stamp",
    "stamps used again after a crash": "a replica that restarted gives another value a stamp that is on its way",
}
"""The bugs by name, with what comes of them."""


def planted(*names: str) -> ProtocolSpec:
    """ABD with the bugs of these names. Raises `ValueError` for an unknown name."""
    unknown = sorted(set(names) - BUGS.keys())
    if unknown:
        raise ValueError(f"no bug of the name {', '.join(map(repr, unknown))} (there are: {', '.join(sorted(BUGS))})")
    bugs = frozenset(names)

    def create(context: Context, options: Any) -> Protocol:
        return Abd(context, options, bugs=bugs)

    return replace(
        PROTOCOL, summary=f"{PROTOCOL.summary}. With planted bugs: {', '.join(sorted(bugs))}.", create=create
    )
