"""A follower and its leader's messages: vote, note what is decided, acknowledge, and notice what is missing."""

from __future__ import annotations

from replica.consensus.interface import ReplicaId

from .catchup import CatchUps
from .leadership import Leadership
from .log import Log
from .messages import Accept, Accepted, Commit, Heartbeat, HeartbeatAck
from .state import Core


class Acceptor:
    """Phase 2 and heartbeats from the follower's side."""

    def __init__(self, core: Core, log: Log, leadership: Leadership, catchups: CatchUps) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._catchups = catchups

    def on_accept(self, sender: ReplicaId, message: Accept) -> None:
        """2a: vote, and answer once the votes are durable.

        A repeated accept is answered again, when the vote that it repeats is durable. A replica that has not been
        admitted does not vote; it learns what was decided by catching up.
        """
        if not self._leadership.follow(message.ballot, sender):
            return
        core, log, ballot = self._core, self._log, message.ballot
        if core.voting:
            overtaken = log.ticket_of(message.first, len(message.values)) if core.bugs else None
            for slot, value in enumerate(message.values, message.first):
                log.accept(slot, ballot, value)
            # The votes are answered when *they* are durable, not when an earlier write to the same slots is.
            after = core.vote_ticket
            if overtaken is not None and "log completion matched by slot only" in core.bugs:
                after = overtaken
            core.send(sender, Accepted(ballot, message.first, len(message.values)), after)
        log.commit(ballot, message.commit)

    def on_commit(self, sender: ReplicaId, message: Commit) -> None:
        """News of decisions."""
        if self._leadership.follow(message.ballot, sender):
            self._log.commit(message.ballot, message.commit)

    def on_heartbeat(self, sender: ReplicaId, message: Heartbeat) -> None:
        """A sign of the leader. What is still missing now was lost on the way, or never voted for: ask for it."""
        if not self._leadership.follow(message.ballot, sender):
            return
        core, log = self._core, self._log
        log.commit(message.ballot, message.commit)
        log.advance_decided()
        if core.voting:
            core.send(sender, HeartbeatAck(message.ballot, message.round, log.decided))
        self._catchups.request(sender)
        log.record_progress_when_quiet()
