"""Ballots: who may propose, totally ordered, owned by exactly one replica each.

A ballot is minted by the replica that it names and is durably reserved (as that replica's own promise) before any
message carries it, so no ballot is ever minted twice, across restarts either.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .interface import ReplicaId


class Ballot(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Ordered by epoch, then round, then the replica that owns it."""

    epoch: int
    round: int
    replica: ReplicaId

    def __str__(self) -> str:
        return f"{self.epoch}.{self.round}.{self.replica}"

    def successor(self, replica: ReplicaId, *, round_seen: int = 0) -> Ballot:
        """The ballot that ``replica`` mints next, above this one and above every ballot of round ``round_seen``."""
        return Ballot(self.epoch, max(self.round, round_seen) + 1, replica)


def no_ballot(epoch: int) -> Ballot:
    """Below every ballot of ``epoch`` that a replica may own."""
    return Ballot(epoch, 0, 0)


NEVER: Final = Ballot(-1, 0, 0)
"""Below every ballot of every epoch: the ballot of a value that is known to be decided without a vote of one's own."""
