"""Snapshots: truncating the log behind one's own, and standing on one that was fetched."""

from __future__ import annotations

from replica.consensus.interface import Frontier

from .catchup import CatchUps
from .leadership import Leadership
from .log import Log
from .state import Core, Role


class Snapshots:
    """What the driver reports about snapshots."""

    def __init__(self, core: Core, log: Log, leadership: Leadership, catchups: CatchUps) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._catchups = catchups

    def on_taken(self, frontier: Frontier) -> None:
        """The own state up to ``frontier`` is durable in a snapshot."""
        assert isinstance(frontier, int)
        self._log.truncate(frontier)

    def on_installed(self, frontier: Frontier) -> None:
        """The state stands on a fetched snapshot now. No promise and no vote behind it is touched."""
        assert isinstance(frontier, int)
        if self._core.role is Role.LEADING:
            # It was wished for before the campaign, and comes from somebody outside the quorum who knew more decided
            # than the quorum did. What this leader proposed anew in those slots was decided, so it gives way.
            self._leadership.step_down(None)
        self._log.install(frontier)
        self._catchups.on_snapshot()

    def on_unavailable(self) -> None:
        """The snapshot can't be had there. A candidate that needs it leaves the field to others."""
        self._catchups.on_snapshot()
        if self._core.role is Role.RECOVERING:
            self._leadership.step_down(None)
