"""The leader's side of the log: its queue, appending, what each follower has, commitment, retransmission.

A leader opens its term with an empty entry; each turn's commands go out at once, in as many entries as the batch bounds
ask for, within a window of uncommitted entries. Behind the window they queue; behind the queue they are refused,
definitely, before anything is appended.

Of each follower the leader knows how far its log matches (``match``: acknowledged in this term, durable there) and what
to send next. A follower that keeps up is sent new entries the moment they are appended, one message for all such
followers. One that lags is fed from memory or disk, a few chunks at a time. One whose log may differ is *probed*: one
append at a time, going back as its answers tell, until one fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from replica.consensus.intake import Intake
from replica.consensus.interface import Command, Configuration, Reason, Reject, RejectRead, ReplicaId, Send, Ticket
from replica.consensus.values import NOOP, encode_batch, encode_seal

from .log import Log
from .messages import Append, Appended, Commit, Discarded, LogEntry, Mismatch, Resume
from .state import Core

COMMIT_TIMER = "commit"

CHUNKS_MAX: Final = 4
"""Appends under way to a follower that is being fed."""


class Progress:
    """What a leader knows of one follower."""

    __slots__ = ("match", "next", "probing", "voting", "moved_at", "chunks")

    def __init__(self, following: int, now: float) -> None:
        self.match = 0
        """Its log matches up to here, durably."""
        self.next = following
        """What to send next; while probing, what is being sent."""
        self.probing = True
        self.voting = True
        self.moved_at = now
        """When it last got further, or was sent something again."""
        self.chunks: deque[int] = deque()
        """Where each of the chunks that it was fed, and has not acknowledged, ends."""


class Replication:
    """What a leader appends, and what has become of it. Empty, apart from own writes in flight, at any other
    replica."""

    def __init__(self, core: Core, log: Log) -> None:
        self._core = core
        self._log = log
        self._queue = Intake(core, core.options)
        self.followers: dict[ReplicaId, Progress] = {}
        self.opening = 0
        """The index at which this leader opened its term."""
        self._seal: tuple[int, Configuration] | None = None
        """A seal that was asked for, with the token of the request; appended once the queue is empty."""
        self._in_flight: deque[tuple[int, int]] = deque()
        """Entries appended in this term and not committed, ascending, with the bytes of their values."""
        self._in_flight_bytes = 0
        self._own: deque[tuple[Ticket, int, int]] = deque()
        """Own entries that are not durable yet: (ticket, term, last index)."""
        self._own_match = 0
        """Up to where the own log is durable, as far as it was appended in this term."""
        self._commit_sent = 0
        self._commit_armed = False
        self._run_first = 0
        self._run: list[LogEntry] = []
        self._run_bytes = 0

    @property
    def queued(self) -> int:
        """Operations that wait."""
        return self._queue.operations

    @property
    def queue_full(self) -> bool:
        """Would another command be refused?"""
        return self._queue.full

    @property
    def in_flight(self) -> int:
        """Entries appended and not committed."""
        return len(self._in_flight)

    @property
    def sealed_at(self) -> int | None:
        """Where a seal stands in the log: no command is appended behind it."""
        return self._log.seal

    @property
    def sealing(self) -> bool:
        """Has a seal been asked for or appended?"""
        return self._seal is not None or self._log.seal is not None

    @property
    def idle(self) -> bool:
        """Is there nothing queued and nothing uncommitted?"""
        return not (self._queue or self._in_flight or self._seal or self._log.decided < self.opening)

    def has_everything(self, replica: ReplicaId) -> bool:
        """Does that follower hold the whole log?"""
        follower = self.followers.get(replica)
        return follower is not None and follower.match == self._log.last

    # ---------------------------------------------------------------------------------------------------- leadership

    def begin(self) -> None:
        """This replica was elected: open the term."""
        core, log = self._core, self._log
        assert core.leads
        self.opening = log.append(core.term, NOOP)
        self.followers = {replica: Progress(self.opening, core.now) for replica in core.others}
        self._own_match = 0
        self._in_flight.append((self.opening, len(NOOP)))
        self._in_flight_bytes = len(NOOP)
        self._commit_sent = log.decided
        for replica in core.others:
            self._send_chunk(replica, self.followers[replica])
        self._note_own()

    def abandon(self, hint: ReplicaId | None) -> None:
        """Leadership is over: refuse what was never appended, and give up on what was."""
        core, log = self._core, self._log
        rejections = core.effects.rejections
        for index, _ in self._in_flight:
            entry = log.window.entries.get(index)
            if entry is not None and index > log.decided and entry.commands:
                rejections.extend(Reject(command, Reason.LOST, False, hint) for command in entry.commands)
        self.refuse_queue(Reason.NOT_LEADER, hint)
        if self._seal is not None:
            asked, appended = self._seal[0], log.seal is not None
            reason = Reason.LOST if appended else Reason.NOT_LEADER
            core.effects.refused_reads.append(RejectRead(asked, reason, not appended, hint))
        self._seal = None
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._own_match = 0
        self.followers = {}
        self.opening = 0
        self._run = []
        self._run_bytes = 0
        self._commit_armed = False
        core.timer(COMMIT_TIMER, None)

    def refuse_queue(self, reason: str, hint: ReplicaId | None) -> None:
        """Refuse what waits and was never appended."""
        self._queue.refuse(reason, hint)

    # ------------------------------------------------------------------------------------------------------ appending

    def on_proposed(self, commands: Iterable[Command]) -> None:
        """Clients ask a replica that leads for these."""
        if self.sealing:
            self._core.effects.rejections.extend(Reject(command, Reason.SEALED, True) for command in commands)
        else:
            self._queue.offer(commands)

    def on_reconfigure(self, token: int, configuration: Configuration) -> None:
        """Decide a seal behind everything that was taken on so far."""
        assert self._core.leads
        assert not self.sealing
        self._seal = (token, configuration)

    def settle(self) -> None:
        """The turn ends: append as much as the window takes, feed who lags, and see that the news of commitment
        travels."""
        core, log = self._core, self._log
        if not core.leads:
            return
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= log.decided:
            self._in_flight_bytes -= in_flight.popleft()[1]
        if log.seal is not None:
            self.refuse_queue(Reason.SEALED, None)
        else:
            while self._queue and self._room():
                commands = self._queue.take()
                self._append(encode_batch(commands), commands)
            if self._seal is not None and not self._queue and self._room():
                self._append(encode_seal(self._seal[1]), None)
        if self._run:
            self._flush()
            self._note_own()
        for replica, follower in self.followers.items():
            self._feed(replica, follower)
        if log.decided > self._commit_sent:
            if log.sealed is not None or not core.options.commit_delay_s:
                # The seal silences this replica, so the others must hear of it now.
                self.announce()
            elif not self._commit_armed:
                self._commit_armed = True
                core.timer(COMMIT_TIMER, core.now + core.options.commit_delay_s)

    def announce(self) -> None:
        """Tell everybody what is committed."""
        self._commit_armed = False
        if self._log.decided > self._commit_sent:
            self._commit_sent = self._log.decided
            self._core.broadcast(Commit(self._core.term, self._commit_sent))

    def _room(self) -> bool:
        return (
            len(self._in_flight) < self._core.options.window_slots
            and self._in_flight_bytes < self._core.options.window_bytes_max
            and self._log.has_room
        )

    def _append(self, value: bytes, commands: tuple[Command, ...] | None) -> None:
        core, log = self._core, self._log
        assert log.seal is None, "an append behind the seal"
        if self._run and self._run_bytes + len(value) > core.options.chunk_bytes_max:
            self._flush()
        index = log.append(core.term, value, commands)
        self._in_flight.append((index, len(value)))
        self._in_flight_bytes += len(value)
        if not self._run:
            self._run_first = index
        self._run.append(LogEntry(core.term, value))
        self._run_bytes += len(value)

    def _flush(self) -> None:
        """Send what was gathered to all that keep up, not waiting for the own disk: it counts later."""
        core, log, first = self._core, self._log, self._run_first
        last = first + len(self._run) - 1
        ahead_max = 2 * core.options.window_slots
        to = []
        for replica, follower in self.followers.items():
            if not follower.probing and follower.next == first and last - follower.match <= ahead_max:
                follower.next = last + 1
                to.append(replica)
        if to:
            message = Append(core.term, first - 1, log.terms.at(first - 1), tuple(self._run), log.decided)
            core.effects.sends.append(Send(tuple(to), message))
            if len(to) == len(self.followers):
                self._commit_sent = max(self._commit_sent, log.decided)
        self._run = []
        self._run_bytes = 0

    def _note_own(self) -> None:
        core, log = self._core, self._log
        if core.voting:
            self._own.append((core.written, core.term, log.last))
        if "vote counted before its sync" in core.bugs:
            self._own_match = log.last
            self._count()

    # ----------------------------------------------------------------------------------------------------- commitment

    def on_persisted(self, ticket: Ticket) -> None:
        """Own entries up to ``ticket`` are durable. They count in the term that they were appended in, and in no other:
        within it a leader's log only grows."""
        core, own = self._core, self._own
        while own and own[0][0] <= ticket:
            _, term, last = own.popleft()
            if core.leads and term == core.term:
                self._own_match = max(self._own_match, last)
                self._count()

    def on_appended(self, sender: ReplicaId, message: Appended) -> None:
        """A follower's log matches this leader's so far."""
        core, follower = self._core, self.followers[sender]
        assert message.term == core.term, f"an answer of term {message.term} for a leader of term {core.term}"
        assert message.index <= self._log.last, f"replica {sender} matches beyond the log: {message}"
        follower.voting = message.voting
        if message.index > follower.match:
            follower.match = message.index
            follower.moved_at = core.now
        if follower.probing:
            follower.probing = False
            follower.next = follower.match + 1
            follower.chunks.clear()
        follower.next = max(follower.next, follower.match + 1)
        while follower.chunks and follower.chunks[0] <= follower.match:
            follower.chunks.popleft()
        self._count()

    def _count(self) -> None:
        """Commit what a majority holds, if it is of the own term."""
        core, log = self._core, self._log
        decided = log.decided
        matches = {
            replica: follower.match
            for replica, follower in self.followers.items()
            if follower.voting and follower.match > decided
        }
        if core.voting and self._own_match > decided:
            matches[core.replica] = self._own_match
        for index in sorted(set(matches.values()), reverse=True):
            if core.quorums.phase2({replica for replica, match in matches.items() if match >= index}):
                if log.terms.at(index) == core.term or "commits an older term by counting" in core.bugs:
                    log.commit(index)
                return

    # ----------------------------------------------------------------------------------------------- lagging followers

    def on_mismatch(self, sender: ReplicaId, message: Mismatch) -> None:
        """A follower's log differs from this leader's: go back to where they may agree."""
        follower, terms = self.followers[sender], self._log.terms
        if message.prev_index <= follower.match:
            return  # it was overtaken
        if follower.probing and message.prev_index != follower.next - 1:
            return  # the answer to an earlier probe
        if message.conflict_term:
            # Skip all of that term that this log does not have. If it has some, they may agree at its last entry.
            prev = terms.last_at_most(message.conflict_term, message.prev_index - 1)
            if prev < terms.floor or terms.at(prev) != message.conflict_term:
                prev = min(prev, message.conflict_first - 1)
        else:
            prev = message.last
        prev = max(follower.match, min(prev, message.prev_index - 1))
        self._probe(sender, follower, prev + 1)

    def on_resume(self, sender: ReplicaId, message: Resume) -> None:
        """A follower stands somewhere else than it did: on a snapshot."""
        follower = self.followers[sender]
        if message.last > follower.match:
            self._probe(sender, follower, min(message.last, self._log.last) + 1)

    def retransmit(self, peer: ReplicaId | None = None) -> None:
        """Send anew what went unacknowledged for too long; with ``peer``, to that one at once."""
        core, log = self._core, self._log
        if not core.leads:
            return
        before = core.now - core.options.retransmit_s
        for replica, follower in self.followers.items():
            if peer is not None and replica != peer:
                continue
            if follower.match == log.last or (peer is None and follower.moved_at > before):
                continue
            if follower.probing:
                self._probe(replica, follower, follower.next)
            else:
                follower.next = follower.match + 1
                follower.chunks.clear()
                follower.moved_at = core.now
                self._send_chunk(replica, follower)

    def _probe(self, replica: ReplicaId, follower: Progress, following: int) -> None:
        follower.probing = True
        follower.next = following
        follower.chunks.clear()
        follower.moved_at = self._core.now
        self._send_chunk(replica, follower)

    def _feed(self, replica: ReplicaId, follower: Progress) -> None:
        """Go on with what a follower lacks, if it is not being probed."""
        while not follower.probing and follower.next <= self._log.last and len(follower.chunks) < CHUNKS_MAX:
            self._send_chunk(replica, follower)

    def _send_chunk(self, replica: ReplicaId, follower: Progress) -> None:
        core, log = self._core, self._log
        if follower.next <= log.floor:
            follower.probing = True
            core.send(replica, Discarded(core.term, log.floor))
            return
        prev = follower.next - 1
        entries = log.entries_from(follower.next, core.options.chunk_bytes_max)
        core.send(replica, Append(core.term, prev, log.terms.at(prev), entries, log.decided))
        if not follower.probing:
            follower.next += len(entries)
            follower.chunks.append(follower.next - 1)

    # ----------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert the invariants of a leader."""
        core, log = self._core, self._log
        self._queue.check()
        assert self._in_flight_bytes == sum(size for _, size in self._in_flight)
        assert core.leads or not (self._queue or self._in_flight or self.followers), "a leader's work at a follower"
        assert not self._run, "entries that were not sent"
        if not core.leads:
            return
        assert log.last_term == core.term, "a leader that has not opened its term"
        assert self.opening <= log.floor or log.terms.at(self.opening) == core.term
        assert self.followers.keys() == set(core.others)
        for replica, follower in self.followers.items():
            assert follower.match <= log.last, f"replica {replica} matches up to {follower.match}, behind the log"
            assert follower.probing or follower.match < follower.next <= log.last + 1
