"""The voter: promises, votes, and what it is told of decisions.

A promise and a vote are durable before the answer leaves (`state.GATED`). A promise tells everything that is held
beyond what was delivered; how far that is, the candidate has to reach before it proposes anything, so nothing that was
decided is ever forgotten by a steal.
"""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import ReplicaId

from .log import Logs, ObjectLog
from .messages import Accept, Accepted, Decided, Held, Owned, Place, Prepare, Promise, Promised, Redirect, Refused
from .replication import Replication
from .state import Core
from .stealing import Stealing

HELD_MAX: Final = 256
"""Positions beyond what was delivered that are held at least; twice the window where that is more. What lies further
ahead is not voted for: an image of the object is on its way."""


class Acceptor:
    """Answers candidates and owners."""

    def __init__(self, core: Core, logs: Logs, replication: Replication, stealing: Stealing) -> None:
        self._core = core
        self._logs = logs
        self._replication = replication
        self._stealing = stealing
        self._reach = max(HELD_MAX, 2 * core.options.window_slots)

    def on_prepare(self, sender: ReplicaId, message: Prepare) -> None:
        """Somebody wants to own objects."""
        core = self._core
        if not core.voting:
            return
        for claim in message.claims:
            log = self._logs[claim.name]
            if claim.ballot < log.promised:
                core.post(sender, Refused, Owned(log.name, log.promised))
                continue
            if claim.ballot > log.promised:
                log.news_at = core.now  # a claim that is repeated may be one that can't succeed
            self._yield_to(log, claim)
            self._tell(sender, log)

    def _yield_to(self, log: ObjectLog, claim: Owned) -> None:
        """A ballot at least as high as any that was promised has come."""
        if claim.ballot > log.promised:
            self._logs.promise(log, claim.ballot)
            self._replication.deposed(log)
            self._stealing.overtaken(log)

    def _tell(self, to: ReplicaId, log: ObjectLog) -> None:
        """Say what is held, a value at a time: the outbox cuts messages by bytes."""
        core, total = self._core, len(log.entries)
        if not total:
            core.post(to, Promised, Promise(log.name, log.promised, log.delivered, 0))
        for position in sorted(log.entries):
            entry = log.entries[position]
            held = Held(position, entry.ballot, entry.value, entry.decided)
            promise = Promise(log.name, log.promised, log.delivered, total, (held,))
            core.post(to, Promised, promise, len(entry.value))

    def on_accept(self, sender: ReplicaId, message: Accept) -> None:
        """An owner asks for votes."""
        core, logs = self._core, self._logs
        if not core.voting:
            return
        for proposal in message.proposals:
            log = logs[proposal.name]
            ballot, position = proposal.ballot, proposal.position
            if ballot < log.promised:
                core.post(sender, Refused, Owned(log.name, log.promised))
                continue
            self._yield_to(log, Owned(log.name, ballot))
            if position > log.delivered:
                held = log.entries.get(position)
                if held is None or held.ballot != ballot:
                    if position > log.delivered + self._reach:
                        continue
                    logs.accept(log, position, ballot, proposal.value)
            core.post(sender, Accepted, Place(log.name, ballot, position))

    def on_decided(self, sender: ReplicaId, message: Decided) -> None:
        """An owner has counted votes."""
        for place in message.places:
            self._logs.decide(self._logs[place.name], place.ballot, place.position)

    def on_owned(self, sender: ReplicaId, message: Refused | Redirect) -> None:
        """Somebody has promised more than this replica has: so does this one, and turns to the owner."""
        for owned in message.owned:
            log = self._logs[owned.name]
            if self._core.voting and owned.ballot > log.promised:
                self._yield_to(log, owned)
            self._stealing.reroute(owned.name)
