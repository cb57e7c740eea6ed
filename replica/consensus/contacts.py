"""Whom a leader hears from: the check that it still has a quorum, and who has come furthest. Shared by protocols with a
leader.

A leader that has not heard from a quorum for an election timeout could decide nothing, and its heartbeats would keep
others from trying: it has to step down. What counts are heartbeats that it had the chance to send, so a stall of its
own process is not held against its followers.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from .interface import ReplicaId
from .options import LogOptions
from .turn import TurnState


class Contacts:
    """What one leadership knows of its followers; begun anew with each."""

    def __init__(self, core: TurnState, options: LogOptions) -> None:
        self._core = core
        self._options = options
        self._at: dict[ReplicaId, float] = {}
        self._progress: dict[ReplicaId, int] = {}
        self._missed = 0

    def begin(self) -> None:
        """A leadership begins: everybody is given an election timeout to answer."""
        self._at = dict.fromkeys(self._core.others, self._core.now)
        self._progress = {}
        self._missed = 0

    def heard(self, replica: ReplicaId, progress: int | None = None) -> None:
        """A follower has answered; ``progress`` is how far it has come in the log, where the answer says so."""
        self._at[replica] = self._core.now
        if progress is not None:
            self._progress[replica] = progress

    def quorum_lost(self, suffices: Callable[[AbstractSet[ReplicaId]], bool]) -> bool:
        """To be asked with every heartbeat. No contact with members that suffice (the leader counted in) for the
        shorter election timeout, and as many heartbeats unanswered since as fill the time from there to the longer
        one."""
        core, options = self._core, self._options
        since = core.now - options.election_timeout_min_s
        present = {replica for replica, at in self._at.items() if at >= since}
        present.add(core.replica)
        if suffices(present):
            self._missed = 0
            return False
        self._missed += 1
        return self._missed * options.heartbeat_s > options.election_timeout_max_s - options.election_timeout_min_s

    def furthest(self) -> ReplicaId | None:
        """Of those heard from within the longer election timeout, whoever has come furthest."""
        core = self._core
        oldest = core.now - self._options.election_timeout_max_s
        present = [replica for replica in core.others if self._at.get(replica, oldest) > oldest]
        return max(present, key=lambda replica: self._progress.get(replica, 0), default=None)
