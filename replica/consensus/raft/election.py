"""Elections: when to campaign, when not to, whom to vote for, when to step down, and how to hand over.

- *Pre-vote.* A follower that has had no sign of a leader for a randomised time polls first: would a majority vote for
  it? Voters that hear a leader say no, and so do those whose log goes further. So a replica that is cut off from the
  leader alone, or comes back from a partition, does not raise the term and depose anybody.
- *Check-quorum.* A leader that has not heard from a majority for an election timeout could commit nothing, and its
  heartbeats would keep others from trying: it steps down (see `replica.consensus.contacts`).
- *Both together.* A replica may be in a later term than the leader (it campaigned, and was cut off). It refuses the
  leader's messages, and says so: the leader enters that term, and an election follows. Were it silent, as check-quorum
  alone would have it, it could neither follow nor, held off by the others' polls, campaign. An answer to a poll tells
  the sender's term, so that whoever has fallen behind asks for a term that can be voted in next time.
- `Yield` hands over: the leader takes nothing new, lets what is in flight finish, brings the successor up to date,
  steps down, and tells it to campaign without a poll.

Votes are safety; all the rest here is about liveness, and clocks decide nothing else. Leases apart: see `leases`.
"""

from __future__ import annotations

from replica.consensus.contacts import Contacts
from replica.consensus.interface import ReplicaId, Ticket

from .leadership import ELECTION_TIMER, HEARTBEAT_TIMER, RETRY_TIMER, Leadership
from .leases import Grants
from .log import Log
from .messages import HeartbeatAck, Poll, PollAnswer, Refused, RequestVote, TakeOver, Vote
from .reads import Reads
from .replication import Replication
from .state import NOBODY, Core, Role


class Election:
    """Timers, polls, votes, heartbeats."""

    def __init__(
        self,
        *,
        core: Core,
        log: Log,
        leadership: Leadership,
        replication: Replication,
        reads: Reads,
        grants: Grants,
    ) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._replication = replication
        self._reads = reads
        self._grants = grants
        self._poll = 0
        self._granted: set[ReplicaId] = set()
        """Who has granted the present poll."""
        self._votes: set[ReplicaId] = set()
        """Who has voted in the present campaign, durably."""
        self._own_ticket: Ticket | None = None
        """What the own vote waits for; None once it counts."""
        self._released = 0
        """The term whose leader has asked for the present campaign."""
        self._contacts = Contacts(core, core.options)
        self._successor: ReplicaId | None = None
        self._yields_until: float | None = None
        self._abstains_until = 0.0

    @property
    def yielding(self) -> bool:
        """Is leadership about to be handed over?"""
        return self._core.leads and self._yields_until is not None

    @property
    def hint(self) -> ReplicaId | None:
        """Where a client should turn."""
        return self._successor if self.yielding else self._core.leader

    def start(self) -> None:
        """The replica has started, or has been admitted."""
        core = self._core
        if not core.voting:
            return
        self._leadership.wait()
        if not core.others:
            self._campaign(released=0)

    # ---------------------------------------------------------------------------------------------------------- polls

    def on_timeout(self) -> None:
        """The election timer has fired."""
        core = self._core
        if not core.voting or core.leads:
            return
        if core.role is Role.FOLLOWER:
            due = max(core.heard_at + self._leadership.timeout, self._abstains_until, self._grants.until)
            if core.now < due:
                core.timer(ELECTION_TIMER, due)
                return
        if core.role is Role.CAMPAIGNING and self._own_ticket is not None:
            # Nobody can have answered yet. Another campaign would only add to what a slow disk has to write.
            self._leadership.wait()
            return
        self._ask()

    def _ask(self) -> None:
        core, log = self._core, self._log
        self._leadership.step_down(None)
        core.role = Role.POLLING
        self._poll += 1
        self._granted = {core.replica}
        if core.quorums.phase1(self._granted) or "no poll before a campaign" in core.bugs:
            self._campaign(released=0)
            return
        core.broadcast(Poll(core.incarnation, self._poll, self._next_term(), log.last, log.last_term))

    def _next_term(self) -> int:
        return max(self._core.term, self._leadership.term_seen) + 1

    def on_poll(self, sender: ReplicaId, message: Poll) -> None:
        """Somebody considers a campaign."""
        core = self._core
        if not core.voting:
            return
        hears_leader = core.leads or (
            core.leader != sender and core.now < core.heard_at + core.options.election_timeout_min_s
        )
        granted = (
            not hears_leader
            and message.term > core.term
            and self._up_to_date(message.last_index, message.last_term)
            and not self._grants.binds(0)
        )
        core.send(sender, PollAnswer(message.incarnation, message.number, granted, core.term))

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        """Does a log that ends so go at least as far as this one?"""
        if "votes without looking at the log" in self._core.bugs:
            return True
        return (last_term, last_index) >= (self._log.last_term, self._log.last)

    def on_poll_answer(self, sender: ReplicaId, message: PollAnswer) -> None:
        """An answer; only those to the present poll count."""
        core = self._core
        self._leadership.see(message.term)
        if (
            core.role is Role.POLLING
            and message.granted
            and message.incarnation == core.incarnation
            and message.number == self._poll
        ):
            self._granted.add(sender)
            if core.quorums.phase1(self._granted):
                self._campaign(released=0)

    # ---------------------------------------------------------------------------------------------------------- votes

    def _campaign(self, *, released: int) -> None:
        """Enter the next term with a vote for oneself, and ask for more once that is durable."""
        core = self._core
        assert core.voting, "a replica that has not been admitted must not campaign"
        if self._grants.binds(released):
            # A promise was given since the poll.
            self._leadership.step_down(core.leader)
            return
        self._leadership.step_down(None)
        core.adopt(self._next_term(), vote=core.replica)
        core.role = Role.CAMPAIGNING
        self._votes = set()
        self._own_ticket = core.written
        self._released = released
        self._request(core.others)
        if "vote counted before its sync" in core.bugs:
            self._count_own_vote()

    def _request(self, voters: tuple[ReplicaId, ...]) -> None:
        core, log = self._core, self._log
        for voter in voters:
            message = RequestVote(core.term, log.last, log.last_term, self._released)
            core.send(voter, message, core.vote_ticket)
        core.timer(RETRY_TIMER, core.now + core.options.retransmit_s)

    def retry(self) -> None:
        """Ask those again who have not voted."""
        core = self._core
        if core.role is Role.CAMPAIGNING:
            self._request(tuple(replica for replica in core.others if replica not in self._votes))

    def on_persisted(self, ticket: Ticket) -> None:
        """The own vote counts once it is durable, and the campaign's time starts to run."""
        core = self._core
        if core.role is Role.CAMPAIGNING and self._own_ticket is not None and ticket >= self._own_ticket:
            self._leadership.wait()
            self._count_own_vote()

    def _count_own_vote(self) -> None:
        self._own_ticket = None
        self._votes.add(self._core.replica)
        self._try_to_lead()

    def on_request_vote(self, sender: ReplicaId, message: RequestVote) -> None:
        """RequestVote. While a promise binds it, this replica neither votes nor enters the term."""
        core = self._core
        if not core.voting or self._grants.binds(message.released):
            return
        if message.term < core.term:
            core.send(sender, Refused(core.term), core.term_ticket)
            return
        self._leadership.enter(message.term)
        if core.voted_for == NOBODY and self._up_to_date(message.last_index, message.last_term):
            core.vote(sender)
            core.heard_at = core.now  # the candidate is given time before this replica helps another
        if core.voted_for == sender:
            core.send(sender, Vote(core.term), core.vote_ticket)

    def on_vote(self, sender: ReplicaId, message: Vote) -> None:
        """Somebody has voted for this replica."""
        core = self._core
        if core.role is Role.CAMPAIGNING and message.term == core.term:
            self._votes.add(sender)
            self._try_to_lead()

    def _try_to_lead(self) -> None:
        core = self._core
        if not core.quorums.phase1(self._votes):
            return
        core.role = Role.LEADING
        core.leader = core.replica
        core.timer(RETRY_TIMER, None)
        core.timer(ELECTION_TIMER, None)
        core.timer(HEARTBEAT_TIMER, core.now)
        self._contacts.begin()
        self._successor = None
        self._yields_until = None
        self._reads.begin()
        self._replication.begin()

    def on_refused(self, message: Refused) -> None:
        """Somebody is in a later term."""
        self._leadership.enter(message.term)

    # ----------------------------------------------------------------------------------------------------- heartbeats

    def on_heartbeat_due(self) -> None:
        """The leader's timer: a sign of life, and all that is done once in a while."""
        core = self._core
        if not core.leads:
            return
        if self._contacts.quorum_lost(core.quorums.phase2):
            self._leadership.step_down(None)
            return
        core.timer(HEARTBEAT_TIMER, core.now + core.options.heartbeat_s)
        self._reads.beat()
        self._replication.retransmit()
        self._log.record_progress_when_quiet()

    def on_heartbeat_ack(self, sender: ReplicaId, message: HeartbeatAck) -> None:
        """A voter follows in this term."""
        self._contacts.heard(sender)
        self._reads.on_acknowledged(sender, message.round)

    def on_contact(self, sender: ReplicaId, index: int) -> None:
        """A voter has acknowledged entries up to ``index``."""
        self._contacts.heard(sender, index)

    # -------------------------------------------------------------------------------------------------------- handover

    def on_yield(self, successor: ReplicaId | None) -> None:
        """Hand over, to ``successor`` or else to whoever has come furthest of those in contact."""
        core = self._core
        if not core.leads or not core.others:
            return
        if successor not in core.others:
            successor = self._contacts.furthest()
        self._successor = successor
        self._yields_until = core.now + core.options.election_timeout_max_s

    def settle(self) -> None:
        """The turn ends: hand over once nothing is in flight and the successor holds it all, or time is up."""
        core, successor = self._core, self._successor
        if self._yields_until is None or not core.leads:
            return
        ready = self._replication.idle and (successor is None or self._replication.has_everything(successor))
        if not ready and core.now < self._yields_until:
            return
        self._replication.announce()
        term = core.term
        self._abstains_until = core.now + 2 * core.options.election_timeout_max_s
        self._leadership.step_down(successor)
        if successor is not None:
            core.send(successor, TakeOver(term))

    def on_take_over(self, sender: ReplicaId, message: TakeOver) -> None:
        """The leader of that term asks this replica to succeed it."""
        core = self._core
        if not core.voting or message.term != core.term or core.leads or core.leader not in {sender, None}:
            return
        self._abstains_until = core.now
        self._campaign(released=message.term)
