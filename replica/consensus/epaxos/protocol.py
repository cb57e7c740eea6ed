"""The protocol object: hands events to the concerns, and settles them at the end of each turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from replica.consensus.interface import (
    Admitted,
    Context,
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

from .acceptor import Acceptor
from .catchup import CatchUps
from .execution import DELIVER_TIMER, Execution
from .instances import Instances
from .messages import (
    Accept,
    Accepted,
    Commit,
    Fetch,
    Fetched,
    PartlyValidated,
    PreAccept,
    PreAccepted,
    Progress,
    Recover,
    Recovered,
    Refused,
    Validate,
    Validated,
    Waiting,
)
from .options import EPaxosOptions, quorums_of
from .recovery import Recovery
from .rounds import Rounds
from .state import TICK_TIMER, Core


class EPaxos(Protocol):
    """One replica of EPaxos; the package's docstring tells the theory."""

    def __init__(self, context: Context, options: EPaxosOptions, *, bugs: frozenset[str] = frozenset()) -> None:
        """``bugs`` plants known mistakes for tests (see `planted`); no option reaches it."""
        self._context = context
        self._core = core = Core(context, options, quorums_of(context.configuration, options), bugs)
        self._instances = instances = Instances(core)
        self._execution = Execution(core, instances)
        self._rounds = Rounds(core, instances, self._execution)
        self._catchups = CatchUps(core, instances, self._rounds, self._execution)
        self._acceptor = Acceptor(core, instances, self._rounds, self._catchups)
        self._recovery = Recovery(core, instances, self._rounds, self._execution)
        self._handlers: dict[type[Message], Callable[[ReplicaId, Any], None]] = {
            PreAccept: self._acceptor.on_preaccept,
            PreAccepted: self._rounds.on_preaccepted,
            Accept: self._acceptor.on_accept,
            Accepted: self._rounds.on_accepted,
            Commit: self._acceptor.on_commit,
            Recover: self._acceptor.on_recover,
            Recovered: self._recovery.on_recovered,
            Validate: self._acceptor.on_validate,
            Validated: self._recovery.on_validated,
            PartlyValidated: self._recovery.on_validated,
            Waiting: lambda _, message: self._recovery.on_waiting(message),
            Refused: self._on_refused,
            Progress: self._catchups.on_progress,
            Fetch: self._catchups.on_fetch,
            Fetched: self._catchups.on_fetched,
        }

    def start(self, now: float) -> Effects:
        """Rebuild from stable storage. Raises `CorruptRecord`: a replica that can't tell its votes must not go on."""
        core, context = self._core, self._context
        core.begin(now)
        core.hears(*core.others)
        self._instances.restore(context.applied, context.snapshot, context.snapshot_mark)
        self._execution.restart()
        self._catchups.start()
        self._rounds.resume()
        core.timer(TICK_TIMER, now + core.options.progress_s)
        return self._settle()

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """One turn."""
        core = self._core
        core.begin(now)
        for event in events:
            if isinstance(event, Received):
                core.hears(event.sender)
                self._recovery.heard_from(event.sender)
                self._handlers[type(event.message)](event.sender, event.message)
            elif isinstance(event, Proposed):
                self._on_proposed(event)
            elif isinstance(event, Persisted):
                core.durable = event.ticket
            elif isinstance(event, TimerFired):
                self._on_timer(event.name)
            else:
                self._on_rare(event)
        return self._settle()

    def _settle(self) -> Effects:
        """What follows from the events of a turn, once they are all in. What this replica has said to itself and may
        hear by now comes first: its own votes count like those of others."""
        core = self._core
        while (message := core.heard()) is not None:
            self._handlers[type(message)](core.replica, message)
        self._recovery.settle()
        self._execution.settle()
        self._rounds.settle()
        return core.finish()

    # --------------------------------------------------------------------------------------------------------- events

    def _on_proposed(self, event: Proposed) -> None:
        core = self._core
        if core.voting:
            self._rounds.on_proposed(event.commands)
        else:
            core.effects.rejections.extend(Reject(command, Reason.NOT_LEADER, True) for command in event.commands)

    def _on_refused(self, _: ReplicaId, message: Refused) -> None:
        self._rounds.on_refused(message)
        self._recovery.on_refused(message)

    def _on_timer(self, name: str) -> None:
        core = self._core
        if name == TICK_TIMER:
            core.timer(TICK_TIMER, core.now + core.options.progress_s)
            self._rounds.tick()
            self._recovery.tick()
            self._catchups.tick()
        else:
            assert name == DELIVER_TIMER, f"a timer {name!r} that nobody set"  # the turn itself delivers

    def _on_rare(self, event: Event) -> None:
        core = self._core
        if isinstance(event, SnapshotTaken):
            self._catchups.on_taken(event.frontier)
        elif isinstance(event, SnapshotInstalled):
            self._catchups.on_installed(event.frontier, event.mark)
        elif isinstance(event, SnapshotUnavailable):
            self._catchups.on_unavailable()
        elif isinstance(event, PeerReset):
            self._rounds.on_reset(event.peer)
        elif isinstance(event, Admitted):
            core.voting = True
            self._rounds.resume()
        elif isinstance(event, ReadRequested | Reconfigure):
            core.effects.refused_reads.append(RejectRead(event.token, Reason.UNSUPPORTED))
        elif not isinstance(event, Yield):  # there is no leadership to give up
            raise TypeError(f"{type(event).__name__} is no event")

    # --------------------------------------------------------------------------------------------------------- queries

    def status(self) -> Status:
        """The replica's own view."""
        core, instances = self._core, self._instances
        return Status(
            role="proposer" if core.voting else "learner",
            leader=None,
            ballot=str(core.first_ballot),
            decided=instances.frontier([space.decided for space in instances.spaces]),
            delivered=instances.frontier(instances.executed),
            accepting=core.voting and not self._rounds.intake.full,
            queued=self._rounds.intake.operations,
            in_flight=self._rounds.in_flight,
            counters=dict(core.counters),
        )

    def snapshot_mark(self, frontier: Frontier) -> bytes:
        """What was executed, by key: see `history`."""
        instances = self._instances
        return instances.history.mark(instances.numbers(frontier), instances.executed, instances.decided_traces())

    def check(self) -> None:
        """Assert the invariants of this replica."""
        self._instances.check()
        self._execution.check()
        self._rounds.check()
        self._recovery.check()
