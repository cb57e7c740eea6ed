"""Who is there: signs of life, and whom to suspect.

A replica is suspected when it has been silent for a suspicion timeout, or has not heard this replica for as long: one
that is deaf can own objects and serve nobody. Suspicion is never a matter of safety; it says whose objects may be
stolen without having been offered, and whether this replica itself may claim any. Where links are cut such that it may
not, another may be in touch with more: signs of life say with whom.
"""

from __future__ import annotations

from replica.consensus.interface import ReplicaId

from .messages import Alive
from .state import Core


class Contacts:
    """What this replica knows of the others' health."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._heard_at: dict[ReplicaId, float] = {}
        self._hears_at: dict[ReplicaId, float] = {}
        self._hears: dict[ReplicaId, tuple[ReplicaId, ...]] = {}
        """Whom each of the others has heard, as it last said."""

    def start(self) -> None:
        """Everybody is given a suspicion timeout to show up."""
        self._heard_at = dict.fromkeys(self._core.others, self._core.now)
        self._hears_at = dict.fromkeys(self._core.others, self._core.now)

    def heard(self, replica: ReplicaId) -> None:
        """Something has come from a replica."""
        self._heard_at[replica] = self._core.now

    def on_alive(self, sender: ReplicaId, message: Alive) -> None:
        """It says whom it has heard."""
        self._hears[sender] = message.heard
        if self._core.replica in message.heard:
            self._hears_at[sender] = self._core.now

    def present(self) -> tuple[ReplicaId, ...]:
        """Those that have been heard within a suspicion timeout."""
        oldest = self._core.now - self._core.options.suspicion_timeout_s
        return tuple(replica for replica in self._core.others if self._heard_at[replica] >= oldest)

    def healthy(self) -> set[ReplicaId]:
        """This replica, and those that it does not suspect."""
        return {replica for replica in self._core.others if not self.suspects(replica)} | {self._core.replica}

    def may_claim(self) -> bool:
        """Are enough in touch with this replica for a claim to succeed?"""
        return self._core.quorums.phase1(self.healthy())

    def may_decide(self) -> bool:
        """Are enough in touch with this replica for what it proposes to be decided?"""
        return self._core.quorums.phase2(self.healthy())

    def helper(self) -> ReplicaId | None:
        """A replica that this one is in touch with and that is itself in touch with enough for a claim, as far as is
        known: in the same zone, if there is one."""
        core = self._core
        able = [
            replica
            for replica in core.others
            if not self.suspects(replica) and core.quorums.phase1({replica, *self._hears.get(replica, ())})
        ]
        return min(able, key=lambda replica: (core.zones[replica] != core.zone, replica), default=None)

    def cut_off(self) -> bool:
        """Can this replica neither claim nor decide anything, nor turn to one that can?"""
        return not self.may_claim() and not self.may_decide() and self.helper() is None

    def suspects(self, replica: ReplicaId) -> bool:
        """Is it to be taken for lost? Never this replica itself."""
        if replica not in self._heard_at:
            return replica != self._core.replica
        oldest = self._core.now - self._core.options.suspicion_timeout_s
        return min(self._heard_at[replica], self._hears_at[replica]) < oldest
