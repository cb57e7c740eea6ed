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
from replica.consensus.quorums import Quorums

from .acceptor import Acceptor
from .catchup import CatchUps
from .election import Election
from .leadership import ELECTION_TIMER, HEARTBEAT_TIMER, RETRY_TIMER, Leadership
from .log import Log
from .messages import (
    ACCEPTOR_TABLE,
    PROMISE_KEY,
    Accept,
    Accepted,
    CatchUp,
    Commit,
    Decided,
    Heartbeat,
    HeartbeatAck,
    Poll,
    PollAnswer,
    Prepare,
    Promise,
    Promised,
    Refused,
    TakeOver,
)
from .options import MultiPaxosOptions, quorums_of
from .reads import Reads
from .reconfiguration import Reconfiguration
from .recovery import Recovery
from .replication import COMMIT_TIMER, Replication
from .snapshots import Snapshots
from .state import Core, Role


class MultiPaxos(Protocol):
    """One replica of MultiPaxos; the package's docstring tells the theory."""

    def __init__(
        self,
        context: Context,
        options: MultiPaxosOptions,
        *,
        bugs: frozenset[str] = frozenset(),
        quorums: Quorums | None = None,
    ) -> None:
        """``bugs`` and ``quorums`` plant known mistakes for tests (see `planted`); no option reaches them."""
        self._context = context
        quorums = quorums or quorums_of(context.configuration, options)
        self._core = core = Core(context, options, quorums, bugs)
        self._log = Log(core)
        self._reads = Reads(core, self._log)
        self._replication = Replication(core, self._log)
        self._leadership = Leadership(core, self._replication, self._reads)
        self._catchups = CatchUps(core, self._log)
        self._acceptor = Acceptor(core, self._log, self._leadership, self._catchups)
        self._recovery = Recovery(
            core=core,
            log=self._log,
            leadership=self._leadership,
            replication=self._replication,
            reads=self._reads,
            catchups=self._catchups,
        )
        self._election = Election(
            core=core,
            log=self._log,
            leadership=self._leadership,
            replication=self._replication,
            reads=self._reads,
            recovery=self._recovery,
        )
        self._snapshots = Snapshots(core, self._log, self._leadership, self._catchups)
        self._reconfiguration = Reconfiguration(core, self._replication)

    def start(self, now: float) -> Effects:
        """Rebuild from stable storage. Raises `CorruptRecord`: an acceptor that can't tell its promise or its votes
        must not go on."""
        core, context = self._core, self._context
        core.begin(now)
        core.heard_at = now
        promise = core.stable.get(ACCEPTOR_TABLE, PROMISE_KEY)
        if isinstance(promise, Promise) and "promise lost on restart" not in core.bugs:
            core.promised = promise.ballot
            self._leadership.see(promise.ballot)
        assert isinstance(context.applied, int)
        assert isinstance(context.base, int)
        assert isinstance(context.snapshot, int)
        highest = self._log.restore(applied=context.applied, base=context.base, snapshot=context.snapshot)
        if highest > core.promised:
            if not core.bugs:
                raise CorruptRecord(
                    ACCEPTOR_TABLE, PROMISE_KEY, f"there is a vote at {highest}, above the promise {core.promised}"
                )
            core.promised = highest
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
                self._recovery.on_persisted(event.ticket)
                self._replication.on_persisted(event.ticket)
            elif isinstance(event, ReadRequested):
                self._on_read(event)
            elif isinstance(event, TimerFired):
                self._on_timer(event.name)
            else:
                self._on_rare(event)
        return self._settle()

    def _settle(self) -> Effects:
        """What follows from the events of a turn, once they are all in. The order matters: what is decided comes
        first, since leading, proposing and reading depend on it."""
        core, log = self._core, self._log
        log.advance()
        self._recovery.settle()
        self._replication.settle()
        if log.sealed is None:
            self._reads.settle(self._replication.recovered_last, self._replication.sealed_at)
            self._election.settle()
        else:
            self._reads.refuse(Reason.SEALED, None)
            self._replication.refuse_queue(Reason.SEALED, None)
        if core.writes or log.sealed is not None:
            log.record_progress()
        return core.finish()

    # --------------------------------------------------------------------------------------------------------- events

    @property
    def _accepting(self) -> bool:
        return self._core.leads and not self._election.yielding

    def _on_received(self, sender: ReplicaId, message: Message) -> None:
        if isinstance(message, Accepted):
            if self._election.on_contact(sender, message.ballot):
                self._replication.on_accepted(sender, message)
        elif isinstance(message, Accept):
            self._acceptor.on_accept(sender, message)
        elif isinstance(message, Commit):
            self._acceptor.on_commit(sender, message)
        elif isinstance(message, Heartbeat):
            self._acceptor.on_heartbeat(sender, message)
        elif isinstance(message, HeartbeatAck):
            self._election.on_heartbeat_ack(sender, message)
        elif isinstance(message, Prepare):
            self._recovery.on_prepare(sender, message)
        elif isinstance(message, Promised):
            self._recovery.on_promised(sender, message)
        elif isinstance(message, Refused):
            self._recovery.on_refused(message)
        elif isinstance(message, Poll):
            self._election.on_poll(sender, message)
        elif isinstance(message, PollAnswer):
            self._election.on_poll_answer(sender, message)
        elif isinstance(message, TakeOver):
            self._election.on_take_over(sender, message)
        elif isinstance(message, CatchUp):
            self._catchups.on_request(sender, message)
        elif isinstance(message, Decided):
            self._catchups.on_decided(sender, message)
        else:
            raise TypeError(f"{type(message).__name__} is no message of this protocol")

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
            self._reads.on_read(event.token)
        else:
            refused = RejectRead(event.token, Reason.NOT_LEADER, hint=self._election.hint)
            self._core.effects.refused_reads.append(refused)

    def _on_timer(self, name: str) -> None:
        if name == HEARTBEAT_TIMER:
            self._election.on_heartbeat_due()
        elif name == ELECTION_TIMER:
            self._election.on_timeout()
        elif name == COMMIT_TIMER:
            if self._core.role is Role.LEADING:
                self._replication.announce()
        elif name == RETRY_TIMER:
            self._recovery.retry()
        else:
            assert name == DELIVER_TIMER, f"a timer {name!r} that nobody set"  # the turn itself delivers

    def _on_rare(self, event: Event) -> None:
        if isinstance(event, SnapshotTaken):
            self._snapshots.on_taken(event.frontier)
        elif isinstance(event, SnapshotInstalled):
            self._snapshots.on_installed(event.frontier)
        elif isinstance(event, SnapshotUnavailable):
            self._snapshots.on_unavailable()
        elif isinstance(event, PeerReset):
            self._replication.retransmit(event.peer)
            self._recovery.retry()
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
            ballot=str(core.promised),
            decided=log.decided,
            delivered=log.delivered,
            accepting=self._accepting
            and log.sealed is None
            and not self._replication.sealing
            and self._replication.queued < core.options.queue_max,
            log_first=log.floor + 1,
            queued=self._replication.queued,
            in_flight=self._replication.in_flight,
        )

    def check(self) -> None:
        """Assert the invariants of this replica."""
        core = self._core
        self._log.check()
        self._replication.check()
        self._reads.check()
        if core.role in {Role.PREPARING, Role.RECOVERING, Role.LEADING}:
            assert core.voting
            assert core.ballot.replica == core.replica
            assert core.ballot == core.promised, f"campaigns at {core.ballot}, but has promised {core.promised}"
        else:
            assert core.ballot == core.nothing
        assert core.leader != core.replica or core.leads
        assert not core.leads or core.leader == core.replica
