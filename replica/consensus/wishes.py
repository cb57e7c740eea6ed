"""A replica's wish for a snapshot: uttered once, and again only after patience. Shared by the protocols with a log."""

from __future__ import annotations

from typing import Final

from .interface import ReplicaId, SnapshotWish
from .turn import TurnState

SNAPSHOT_PATIENCE_S: Final = 10.0
"""A wish that was neither fulfilled nor declared unavailable is uttered again after so long."""


class SnapshotWishes:
    """The wish that is open, if one is."""

    def __init__(self, core: TurnState) -> None:
        self._core = core
        self._wished_at: float | None = None
        self._frontier = 0

    def open_for(self, reached: int) -> bool:
        """Has a snapshot been wished for that is still to come, and of use to a replica that has ``reached`` so far?"""
        return (
            self._wished_at is not None
            and reached < self._frontier
            and self._core.now < self._wished_at + SNAPSHOT_PATIENCE_S
        )

    def utter(self, peer: ReplicaId, frontier: int) -> None:
        """Ask the driver for a snapshot of ``peer`` that covers ``frontier``."""
        self._wished_at, self._frontier = self._core.now, frontier
        self._core.effects.snapshot_wish = SnapshotWish(peer, frontier)

    def forget(self) -> None:
        """A snapshot was installed, or can't be had there."""
        self._wished_at = None
