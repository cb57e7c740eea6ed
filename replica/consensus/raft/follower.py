"""A follower and its leader's messages: make the log agree, note what is committed, acknowledge."""

from __future__ import annotations

from replica.consensus.interface import ReplicaId
from replica.consensus.wishes import SnapshotWishes

from .leadership import Leadership
from .leases import Grants
from .log import Log
from .messages import Append, Appended, Commit, Discarded, Heartbeat, HeartbeatAck, Mismatch, Resume
from .state import Core


class Follower:
    """Replication and heartbeats from the follower's side."""

    def __init__(self, core: Core, log: Log, leadership: Leadership, grants: Grants, wishes: SnapshotWishes) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._grants = grants
        self._wishes = wishes

    def on_append(self, sender: ReplicaId, message: Append) -> None:
        """AppendEntries. An acknowledgement is sent for a repeated append, too, and waits for everything written so
        far: what an append repeats may have been removed and written anew while an earlier write was under way.
        """
        leadership = self._leadership
        if not leadership.follow(message.term, sender):
            return
        core, log, prev = self._core, self._log, message.prev_index
        by_index = "append matched by index alone" in core.bugs and prev <= log.last
        if prev > log.decided and not by_index and not log.matches(prev, message.prev_term):
            core.send(sender, self._mismatch(prev), core.term_ticket)
            return
        index = log.follow(prev, message.entries)
        leadership.matched = max(leadership.matched, index)
        core.send(sender, Appended(message.term, index, core.voting), core.vote_ticket)
        self._commit(message.commit)

    def _mismatch(self, prev: int) -> Mismatch:
        term, log = self._core.term, self._log
        if prev > log.last:
            return Mismatch(term, prev, log.last)
        conflict = log.terms.at(prev)
        return Mismatch(term, prev, log.last, conflict, max(log.terms.first_of(prev), log.decided + 1))

    def _commit(self, to: int) -> None:
        if "commit beyond what matches" in self._core.bugs:
            self._log.commit(min(to, self._log.last))
        else:
            self._log.commit(min(to, self._leadership.matched))

    def on_commit(self, sender: ReplicaId, message: Commit) -> None:
        """News of what is committed."""
        if self._leadership.follow(message.term, sender):
            self._commit(message.commit)

    def on_heartbeat(self, sender: ReplicaId, message: Heartbeat) -> None:
        """A sign of the leader, who asks whether it still is."""
        if not self._leadership.follow(message.term, sender):
            return
        core = self._core
        self._commit(message.commit)
        if core.voting:
            if message.lease:
                self._grants.grant(message.term)
            core.send(sender, HeartbeatAck(message.term, message.round), core.term_ticket)
        self._log.record_progress_when_quiet()

    def on_discarded(self, sender: ReplicaId, message: Discarded) -> None:
        """What is missing here can be had as a snapshot alone."""
        if not self._leadership.follow(message.term, sender):
            return
        if self._log.decided >= message.floor:
            self.resume()
        elif not self._wishes.open_for(self._log.decided):
            self._wishes.utter(sender, message.floor)

    def resume(self) -> None:
        """Tell the leader where this log ends by now."""
        core = self._core
        if core.leader is not None and not core.leads:
            core.send(core.leader, Resume(core.term, self._log.last), core.term_ticket)
