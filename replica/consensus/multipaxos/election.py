"""Elections: when to campaign, when not to, when to step down, and how to hand over.

- A follower that has had no sign of a leader for a randomised time *polls* first: would a phase-1 quorum promise?
  Voters that hear a leader say no, so a replica that is cut off from the leader alone, or comes back from a partition,
  does not disturb the others by raising the ballot. A voter also says no to a candidate that it would have to send a
  snapshot, since it could lead at once itself; the most advanced voter is refused by nobody on that ground.
- A leader that has not heard from a phase-2 quorum for an election timeout could decide nothing, and its heartbeats
  would keep others from trying: it steps down (see `replica.consensus.contacts`).
- `Yield` hands over: the leader takes nothing new, lets what is in flight finish, and tells the successor to campaign
  without a poll.

All of this is about liveness. Nothing here is needed for safety, and clocks decide nothing else.
"""

from __future__ import annotations

from replica.consensus.ballots import Ballot
from replica.consensus.contacts import Contacts
from replica.consensus.interface import ReplicaId

from .leadership import ELECTION_TIMER, HEARTBEAT_TIMER, Leadership
from .log import Log
from .messages import Heartbeat, HeartbeatAck, Poll, PollAnswer, TakeOver
from .reads import Reads
from .recovery import Recovery
from .replication import Replication
from .state import Core, Role


class Election:
    """Timers, polls, heartbeats."""

    def __init__(
        self,
        *,
        core: Core,
        log: Log,
        leadership: Leadership,
        replication: Replication,
        reads: Reads,
        recovery: Recovery,
    ) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._replication = replication
        self._reads = reads
        self._recovery = recovery
        self._poll = 0
        self._granted: set[ReplicaId] = set()
        self._contacts = Contacts(core, core.options)
        self._successor: ReplicaId | None = None
        self._yields_until: float | None = None
        self._abstains_until = 0.0
        self._led = core.nothing
        """The ballot that contacts and handover belong to."""

    @property
    def yielding(self) -> bool:
        """Is leadership about to be handed over?"""
        return self._yields_until is not None and self._core.leads and self._led == self._core.ballot

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
        if core.quorums.phase1({core.replica}) and core.quorums.phase2({core.replica}) and not core.others:
            self._recovery.campaign()

    # ---------------------------------------------------------------------------------------------------------- polls

    def on_timeout(self) -> None:
        """The election timer has fired."""
        core = self._core
        if not core.voting or core.leads:
            return
        if core.role is Role.FOLLOWER:
            due = max(core.heard_at + self._leadership.timeout, self._abstains_until)
            if core.now < due:
                core.timer(ELECTION_TIMER, due)
                return
        if self._recovery.awaits_disk:
            # Another campaign would only add to what a slow disk has to write.
            self._leadership.wait()
            return
        self._ask()

    def _ask(self) -> None:
        core = self._core
        self._leadership.step_down(None)
        core.role = Role.POLLING
        self._poll += 1
        self._granted = {core.replica}
        if core.quorums.phase1(self._granted):
            self._recovery.campaign()
            return
        if "no poll before a campaign" in core.bugs:
            self._recovery.campaign()
            return
        ballot = core.promised.successor(core.replica, round_seen=self._leadership.round_seen)
        core.broadcast(Poll(core.incarnation, self._poll, ballot, self._log.decided))

    def on_poll(self, sender: ReplicaId, message: Poll) -> None:
        """Somebody considers a campaign."""
        core, log = self._core, self._log
        if not core.voting:
            return
        hears_leader = core.leads or (
            core.leader != sender and core.now < core.heard_at + core.options.election_timeout_min_s
        )
        granted = not hears_leader and message.ballot > core.promised and message.decided >= log.floor
        core.send(sender, PollAnswer(message.incarnation, message.number, granted, core.promised))

    def on_poll_answer(self, sender: ReplicaId, message: PollAnswer) -> None:
        """An answer; only those to the present poll count."""
        core = self._core
        self._leadership.see(message.promised)
        if (
            core.role is Role.POLLING
            and message.granted
            and message.incarnation == core.incarnation
            and message.number == self._poll
        ):
            self._granted.add(sender)
            if core.quorums.phase1(self._granted):
                self._recovery.campaign()

    # ----------------------------------------------------------------------------------------------------- heartbeats

    def on_heartbeat_due(self) -> None:
        """The leader's timer: a sign of life, and all that is done once in a while."""
        core = self._core
        if not core.leads:
            return
        if self._quorum_lost() or self._recovery.stuck:
            self._leadership.step_down(None)
            return
        core.timer(HEARTBEAT_TIMER, core.now + core.options.heartbeat_s)
        core.broadcast(Heartbeat(core.ballot, self._log.decided, self._reads.round))
        self._replication.retransmit()
        self._log.record_progress_when_quiet()

    def on_heartbeat_ack(self, sender: ReplicaId, message: HeartbeatAck) -> None:
        """A voter follows."""
        if self.on_contact(sender, message.ballot, message.decided):
            self._reads.on_acknowledged(sender, message.round)

    def on_contact(self, sender: ReplicaId, ballot: Ballot, progress: int | None = None) -> bool:
        """Has ``sender`` given a sign at this leader's ballot?"""
        core = self._core
        if not core.leads or ballot != core.ballot:
            return False
        self._begin_with_ballot()
        self._contacts.heard(sender, progress)
        return True

    def _begin_with_ballot(self) -> None:
        """Forget what belongs to an earlier leadership."""
        core = self._core
        if self._led != core.ballot:
            self._led = core.ballot
            self._contacts.begin()
            self._successor = None
            self._yields_until = None

    def _quorum_lost(self) -> bool:
        self._begin_with_ballot()
        return self._contacts.quorum_lost(self._core.quorums.phase2)

    # -------------------------------------------------------------------------------------------------------- handover

    def on_yield(self, successor: ReplicaId | None) -> None:
        """Hand over, to ``successor`` or else to whoever has come furthest of those in contact."""
        core = self._core
        if not core.leads or not core.others:
            return
        self._begin_with_ballot()
        if successor not in core.others:
            successor = self._contacts.furthest()
        self._successor = successor
        self._yields_until = core.now + core.options.election_timeout_max_s

    def settle(self) -> None:
        """The turn ends: hand over once nothing is in flight, or time is up."""
        core = self._core
        if self._yields_until is None or not core.leads or self._led != core.ballot:
            return
        if core.role is Role.LEADING and not self._replication.idle and core.now < self._yields_until:
            return
        successor = self._successor
        if core.role is Role.LEADING:
            self._replication.announce()
        if successor is not None:
            core.send(successor, TakeOver(core.ballot))
        self._abstains_until = core.now + 2 * core.options.election_timeout_max_s
        self._leadership.step_down(successor)

    def on_take_over(self, sender: ReplicaId, message: TakeOver) -> None:
        """The leader of that ballot asks this replica to succeed it."""
        core = self._core
        if not core.voting or message.ballot < core.promised or message.ballot.replica != sender or core.leads:
            return
        self._leadership.see(message.ballot)
        self._abstains_until = core.now
        self._recovery.campaign()
