"""The protocol object: hands events to the concerns, and settles them at the end of each turn."""

from __future__ import annotations

from collections.abc import Sequence

from replica.consensus.delivery import DELIVER_TIMER
from replica.consensus.interface import (
    Admitted,
    Context,
    CorruptRecord,
    Effects,
    Event,
    Frontier,
    Message,
    PeerReset,
    Persisted,
    Proposed,
    Protocol,
    ReadRequested,
    Reason,
    Received,
    Reconfigure,
    Reject,
    RejectRead,
    ReplicaId,
    SnapshotInstalled,
    SnapshotTaken,
    SnapshotUnavailable,
    Status,
    TimerFired,
    Yield,
)
from replica.consensus.quorums import Majority
from replica.consensus.wishes import SnapshotWishes

from .election import Election
from .follower import Follower
from .leadership import ELECTION_TIMER, HEARTBEAT_TIMER, RETRY_TIMER, Leadership
from .leases import LEASE_TIMER, Grants
from .log import Log
from .messages import (
    TERM_KEY,
    TERM_TABLE,
    Append,
    Appended,
    Commit,
    CurrentTerm,
    Discarded,
    Heartbeat,
    HeartbeatAck,
    Mismatch,
    Poll,
    PollAnswer,
    Refused,
    RequestVote,
    Resume,
    TakeOver,
    Vote,
)
from .options import RaftOptions
from .reads import Reads
from .reconfiguration import Reconfiguration
from .replication import COMMIT_TIMER, Replication
from .snapshots import Snapshots
from .state import Core, Role


class Raft(Protocol):
    """One replica of Raft; the package's docstring tells the theory."""

    def __init__(self, context: Context, options: RaftOptions, *, bugs: frozenset[str] = frozenset()) -> None:
        """``bugs`` plants known mistakes for tests (see `planted`); no option reaches it."""
        self._context = context
        self._core = core = Core(context, options, Majority(context.configuration.replicas), bugs)
        self._log = Log(core)
        self._reads = Reads(core, self._log)
        self._replication = Replication(core, self._log)
        self._leadership = Leadership(core, self._log, self._replication, self._reads)
        self._grants = Grants(core)
        wishes = SnapshotWishes(core)
        self._follower = Follower(core, self._log, self._leadership, self._grants, wishes)
        self._election = Election(
            core=core,
            log=self._log,
            leadership=self._leadership,
            replication=self._replication,
            reads=self._reads,
            grants=self._grants,
        )
        self._snapshots = Snapshots(core, self._log, self._leadership, self._follower, wishes)
        self._reconfiguration = Reconfiguration(core, self._replication)

    def start(self, now: float) -> Effects:
        """Rebuild from stable storage. Raises `CorruptRecord`: a replica that can't tell its vote or its log must not
        go on."""
        core, context = self._core, self._context
        core.begin(now)
        core.heard_at = now
        record = core.stable.get(TERM_TABLE, TERM_KEY)
        if isinstance(record, CurrentTerm) and "term and vote lost on restart" not in core.bugs:
            core.term, core.voted_for = record.term, record.voted_for
        assert isinstance(context.applied, int)
        assert isinstance(context.base, int)
        assert isinstance(context.snapshot, int)
        highest = self._log.restore(
            applied=context.applied, base=context.base, snapshot=context.snapshot, mark=context.snapshot_mark
        )
        if self._log.last_term > core.term and not core.bugs and self._log.last != context.snapshot:
            raise CorruptRecord(
                TERM_TABLE, TERM_KEY, f"there is an entry of term {self._log.last_term}, beyond the term {core.term}"
            )
        if highest > core.term:
            core.adopt(highest)  # that of a snapshot which was installed just before a crash
        self._grants.restart()
        self._election.start()
        return self._settle()

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """One turn."""
        core = self._core
        core.begin(now)
        for event in events:
            if self._log.sealed is not None:
                self._refuse(event)
            elif isinstance(event, Received):
                self._on_received(event.sender, event.message)
            elif isinstance(event, Proposed):
                self._on_proposed(event)
            elif isinstance(event, Persisted):
                core.durable = event.ticket
                self._election.on_persisted(event.ticket)
                self._replication.on_persisted(event.ticket)
            elif isinstance(event, ReadRequested):
                self._on_read(event)
            elif isinstance(event, TimerFired):
                self._on_timer(event.name)
            else:
                self._on_rare(event)
        return self._settle()

    def _settle(self) -> Effects:
        """What follows from the events of a turn, once they are all in. The order matters: what is committed comes
        first, since appending and reading depend on it."""
        core, log = self._core, self._log
        log.advance()
        self._replication.settle()
        if log.sealed is None:
            self._reads.settle(self._replication.opening, self._replication.sealed_at)
            self._election.settle()
        else:
            self._reads.abandon(Reason.SEALED, None)
            self._replication.refuse_queue(Reason.SEALED, None)
        if core.writes or log.sealed is not None:
            log.record_progress()
        return core.finish()

    # --------------------------------------------------------------------------------------------------------- events

    @property
    def _accepting(self) -> bool:
        return self._core.leads and not self._election.yielding

    def _on_received(self, sender: ReplicaId, message: Message) -> None:
        if isinstance(message, Append):
            self._follower.on_append(sender, message)
        elif isinstance(message, Commit):
            self._follower.on_commit(sender, message)
        elif isinstance(message, Heartbeat):
            self._follower.on_heartbeat(sender, message)
        elif isinstance(message, Discarded):
            self._follower.on_discarded(sender, message)
        elif isinstance(message, Appended | Mismatch | Resume | HeartbeatAck):
            if self._core.leads and message.term == self._core.term:
                self._on_answer(sender, message)
        elif isinstance(message, RequestVote):
            self._election.on_request_vote(sender, message)
        elif isinstance(message, Vote):
            self._election.on_vote(sender, message)
        elif isinstance(message, Refused):
            self._election.on_refused(message)
        elif isinstance(message, Poll):
            self._election.on_poll(sender, message)
        elif isinstance(message, PollAnswer):
            self._election.on_poll_answer(sender, message)
        elif isinstance(message, TakeOver):
            self._election.on_take_over(sender, message)
        else:
            raise TypeError(f"{type(message).__name__} is no message of this protocol")

    def _on_answer(self, sender: ReplicaId, message: Appended | Mismatch | Resume | HeartbeatAck) -> None:
        """A follower answers the leader of the present term."""
        if isinstance(message, Appended):
            if message.voting:
                self._election.on_contact(sender, message.index)
            self._replication.on_appended(sender, message)
        elif isinstance(message, HeartbeatAck):
            self._election.on_heartbeat_ack(sender, message)
        elif isinstance(message, Mismatch):
            self._replication.on_mismatch(sender, message)
        else:
            self._replication.on_resume(sender, message)

    def _on_proposed(self, event: Proposed) -> None:
        if self._accepting:
            self._replication.on_proposed(event.commands)
            return
        hint = self._election.hint
        self._core.effects.rejections.extend(
            Reject(command, Reason.NOT_LEADER, True, hint) for command in event.commands
        )

    def _on_read(self, event: ReadRequested) -> None:
        if self._accepting:
            self._reads.on_read(event.token, by_lease=event.by_lease, opening=self._replication.opening)
        else:
            refused = RejectRead(event.token, Reason.NOT_LEADER, hint=self._election.hint)
            self._core.effects.refused_reads.append(refused)

    def _on_timer(self, name: str) -> None:
        if name == HEARTBEAT_TIMER:
            self._election.on_heartbeat_due()
        elif name == ELECTION_TIMER:
            self._election.on_timeout()
        elif name == COMMIT_TIMER:
            if self._core.leads:
                self._replication.announce()
        elif name == RETRY_TIMER:
            self._election.retry()
        elif name == LEASE_TIMER:
            self._reads.lease.on_timer()
        else:
            assert name == DELIVER_TIMER, f"a timer {name!r} that nobody set"  # the turn itself delivers

    def _on_rare(self, event: Event) -> None:
        if isinstance(event, SnapshotTaken):
            self._snapshots.on_taken(event.frontier)
        elif isinstance(event, SnapshotInstalled):
            self._snapshots.on_installed(event.frontier, event.mark)
        elif isinstance(event, SnapshotUnavailable):
            self._snapshots.on_unavailable()
        elif isinstance(event, PeerReset):
            self._replication.retransmit(event.peer)
            self._election.retry()
        elif isinstance(event, Reconfigure):
            self._reconfiguration.on_reconfigure(event, accepting=self._accepting, hint=self._election.hint)
        elif isinstance(event, Yield):
            self._election.on_yield(event.successor)
        elif isinstance(event, Admitted):
            if not self._core.voting:
                self._core.voting = True
                self._election.start()
        else:
            raise TypeError(f"{type(event).__name__} is no event")

    def _refuse(self, event: Event) -> None:
        """The epoch is over: nothing is taken on any more."""
        effects = self._core.effects
        if isinstance(event, Proposed):
            effects.rejections.extend(Reject(command, Reason.SEALED, True) for command in event.commands)
        elif isinstance(event, ReadRequested | Reconfigure):
            effects.refused_reads.append(RejectRead(event.token, Reason.SEALED))
        elif isinstance(event, Persisted):
            self._core.durable = event.ticket

    # --------------------------------------------------------------------------------------------------------- queries

    def status(self) -> Status:
        """The replica's own view."""
        core, log = self._core, self._log
        role = "leader" if core.leads else "candidate" if core.role is not Role.FOLLOWER else "follower"
        return Status(
            role=role if core.voting else "learner",
            leader=core.leader,
            ballot=f"{core.epoch}.{core.term}",
            decided=log.decided,
            delivered=log.delivered,
            accepting=self._accepting
            and log.sealed is None
            and not self._replication.sealing
            and not self._replication.queue_full,
            log_first=log.floor + 1,
            queued=self._replication.queued,
            in_flight=self._replication.in_flight,
        )

    def snapshot_mark(self, frontier: Frontier) -> bytes:
        """The term of the entry at ``frontier``, and the present term."""
        assert isinstance(frontier, int)
        return self._log.mark_at(frontier)

    def check(self) -> None:
        """Assert the invariants of this replica."""
        core = self._core
        self._log.check()
        self._replication.check()
        self._reads.check()
        if core.role in {Role.CAMPAIGNING, Role.LEADING}:
            assert core.voting
            assert core.voted_for == core.replica, f"leads or campaigns in term {core.term}, voted for {core.voted_for}"
        assert core.leader != core.replica or core.leads
        assert not core.leads or core.leader == core.replica
