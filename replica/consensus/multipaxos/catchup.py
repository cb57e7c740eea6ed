"""Learning what was decided without having voted for it: values in chunks, or a snapshot when the log is gone.

A replica that knows of decided slots (from a commit, a heartbeat, or phase 1) that it can't tell from its own votes
asks for them, one chunk at a time; what it receives goes to its log as *decided* and is delivered once durable. When
the peer no longer has the first of them, the driver is asked for a snapshot.
"""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import ReplicaId
from replica.consensus.wishes import SnapshotWishes

from .log import Log
from .messages import CatchUp, Decided
from .state import Core, Role

CATCH_UP_SLOTS_MAX: Final = 4096
"""Slots in one chunk."""


class CatchUps:
    """What this replica asks for and what it is asked for."""

    def __init__(self, core: Core, log: Log) -> None:
        self._core = core
        self._log = log
        self._asked_first = 0
        self._asked_at = 0.0
        self._wishes = SnapshotWishes(core)

    @property
    def awaits_snapshot(self) -> bool:
        """Has a snapshot been wished for that is still to come, and still of use?"""
        return self._wishes.open_for(self._log.decided)

    def request(self, peer: ReplicaId) -> None:
        """Ask ``peer`` for what is missing, unless it was asked a moment ago."""
        core, first = self._core, self._log.decided + 1
        if self._log.target < first or first >= self._log.reach or self.awaits_snapshot:
            return
        if first == self._asked_first and core.now < self._asked_at + core.options.retransmit_s:
            return
        self._asked_first, self._asked_at = first, core.now
        core.send(peer, CatchUp(first))

    def on_request(self, sender: ReplicaId, message: CatchUp) -> None:
        """Answer with what is known: possibly nothing but how far it goes."""
        core, log = self._core, self._log
        values: tuple[bytes, ...] = ()
        if log.floor < message.first <= log.decided:
            values = log.decided_values(message.first, core.options.chunk_bytes_max, CATCH_UP_SLOTS_MAX)
        core.send(sender, Decided(message.first, values, log.decided, log.floor))

    def on_decided(self, sender: ReplicaId, message: Decided) -> None:
        """A chunk has come."""
        core, log = self._core, self._log
        if core.role is Role.LEADING:
            # It asked before it led. Had a later leader decided otherwise meanwhile, a refusal will tell.
            return
        log.target = max(log.target, message.decided)
        if message.values:
            log.learn(message.first, message.values)
            log.advance_decided()
            if log.decided >= message.first + len(message.values) - 1 and log.decided < message.decided:
                self.request(sender)
        elif log.decided < message.floor and message.first == log.decided + 1 and not self.awaits_snapshot:
            self._wishes.utter(sender, message.floor)

    def on_snapshot(self) -> None:
        """A snapshot was installed, or can't be had: ask again where something is missing."""
        self._wishes.forget()
        self._asked_first = 0
