"""The protocol object: hands events to the concerns, and settles them at the end of each turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from replica.consensus.interface import (
    Admitted,
    Command,
    Context,
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
from .contacts import Contacts
from .log import DELIVER_TIMER, Logs, ObjectLog
from .messages import (
    Accept,
    Accepted,
    Alive,
    Changes,
    Compare,
    Decided,
    Fetch,
    Forward,
    Handed,
    Offer,
    Prepare,
    Promised,
    Redirect,
    Refused,
    Relay,
)
from .options import WPaxosOptions, quorums_of, zones_of
from .replication import Replication
from .state import TICK_TIMER, Core
from .stealing import Stealing


class WPaxos(Protocol):
    """One replica of WPaxos; the package's docstring tells the theory."""

    def __init__(self, context: Context, options: WPaxosOptions, *, bugs: frozenset[str] = frozenset()) -> None:
        """``bugs`` plants known mistakes for tests (see `planted`); no option reaches it."""
        assert context.objects is not None, "a driver gives protocols that order by object a view of the state"
        configuration = context.configuration
        quorums = quorums_of(configuration, options)
        if "quorums that do not intersect" in bugs:
            quorums = _Careless(quorums)
        self._context = context
        self._core = core = Core(context, options, quorums, zones_of(configuration, options), bugs)
        self._contacts = Contacts(core)
        self._logs = logs = Logs(core)
        self._catchups = CatchUps(core, logs, self._contacts, context.objects)
        self._replication = Replication(core, logs, self._contacts)
        self._stealing = Stealing(core, logs, self._contacts, self._replication, self._catchups)
        self._acceptor = Acceptor(core, logs, self._replication, self._stealing)
        logs.on_delivered = self._delivered
        logs.before_install = self._replaced
        self._handlers: dict[type[Message], Callable[[ReplicaId, Any], None]] = {
            Prepare: self._acceptor.on_prepare,
            Promised: self._stealing.on_promised,
            Accept: self._acceptor.on_accept,
            Accepted: self._replication.on_accepted,
            Refused: self._acceptor.on_owned,
            Redirect: self._acceptor.on_owned,
            Decided: self._acceptor.on_decided,
            Forward: self._stealing.on_forward,
            Relay: self._stealing.on_relay,
            Offer: self._stealing.on_offer,
            Alive: self._on_alive,
            Compare: self._catchups.on_compare,
            Changes: self._catchups.on_changes,
            Fetch: self._catchups.on_fetch,
            Handed: self._catchups.on_handed,
        }

    def start(self, now: float) -> Effects:
        """Rebuild from stable storage. Raises `CorruptRecord`: a replica that can't tell its votes must not go on."""
        core = self._core
        core.begin(now)
        self._contacts.start()
        self._logs.restore(self._context)
        self._catchups.start()
        core.timer(TICK_TIMER, now + core.options.heartbeat_s)
        return self._settle()

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """One turn."""
        core = self._core
        core.begin(now)
        for event in events:
            if isinstance(event, Received):
                self._contacts.heard(event.sender)
                self._handlers[type(event.message)](event.sender, event.message)
            elif isinstance(event, Proposed):
                self._stealing.on_proposed(event.commands)
            elif isinstance(event, Persisted):
                core.durable = event.ticket
                self._stealing.persisted()
            elif isinstance(event, TimerFired):
                self._on_timer(event.name)
            else:
                self._on_rare(event)
        return self._settle()

    def _settle(self) -> Effects:
        """What follows from the events of a turn, once they are all in: images first, which replace what is older."""
        self._logs.install()
        self._stealing.settle()
        self._replication.settle()
        self._logs.deliver()
        return self._core.finish()

    # --------------------------------------------------------------------------------------------------------- events

    def _delivered(self, log: ObjectLog, commands: tuple[Command, ...]) -> None:
        self._replication.delivered(log, commands)
        self._stealing.delivered(log, commands)
        self._catchups.changed(log)

    def _replaced(self, log: ObjectLog, position: int) -> None:
        """An image is about to take the place of what lies up to a position.

        If this replica owns the object and has not decided so much, somebody else has, at a higher ballot perhaps. From
        then on nothing may be announced as decided at the own ballot: others may have accepted other values at it.
        """
        if position > log.decided and log.name in self._replication.tenures:
            self._replication.deposed(log)
            self._stealing.reroute(log.name)
        self._replication.replaced(log, position)

    def _on_alive(self, sender: ReplicaId, message: Alive) -> None:
        self._contacts.on_alive(sender, message)
        self._catchups.on_alive(sender, message)

    def _on_timer(self, name: str) -> None:
        core = self._core
        if name == TICK_TIMER:
            core.timer(TICK_TIMER, core.now + core.options.heartbeat_s)
            self._stealing.tick()
            self._replication.tick()
            self._catchups.tick()
            self._logs.mark_quiet()
            self._logs.discard_covered()
        else:
            assert name == DELIVER_TIMER, f"a timer {name!r} that nobody set"  # the turn itself delivers

    def _on_rare(self, event: Event) -> None:
        core = self._core
        if isinstance(event, SnapshotTaken):
            if isinstance(event.frontier, dict):
                self._logs.discard(event.frontier)
        elif isinstance(event, SnapshotInstalled):
            self._logs.stand_at(event.frontier if isinstance(event.frontier, dict) else {})
        elif isinstance(event, PeerReset):
            self._replication.reset(event.peer)
        elif isinstance(event, Admitted):
            core.voting = True
        elif isinstance(event, ReadRequested | Reconfigure):
            core.effects.refused_reads.append(RejectRead(event.token, Reason.UNSUPPORTED))
        elif not isinstance(event, Yield | SnapshotUnavailable):  # no leader of everything, and no snapshot asked for
            raise TypeError(f"{type(event).__name__} is no event")

    # --------------------------------------------------------------------------------------------------------- queries

    def status(self) -> Status:
        """The replica's own view."""
        core, logs = self._core, self._logs.by_name
        owned = len(self._replication.tenures)
        return Status(
            role=("owner" if owned else "voter") if core.voting else "learner",
            leader=None,
            ballot="",
            decided={name: log.decided for name, log in logs.items() if log.decided},
            delivered={name: log.delivered for name, log in logs.items() if log.delivered},
            accepting=core.voting and not self._stealing.full and not self._contacts.cut_off(),
            queued=self._stealing.operations,
            in_flight=self._replication.in_flight,
            counters=dict(core.counters),
        )

    def owner_of(self, name: str) -> ReplicaId | None:
        """Who owns an object, as far as this replica knows; None where nobody has claimed it."""
        log = self._logs.by_name.get(name)
        return log.promised.replica or None if log is not None else None

    def check(self) -> None:
        """Assert the invariants of this replica."""
        self._logs.check()
        self._replication.check()
        self._stealing.check()
        self._catchups.check()


class _Careless(Quorums):
    """The planted bug: phase 1 is content with a phase-2 quorum, as if any two of those met."""

    def __init__(self, sound: Quorums) -> None:
        super().__init__(sound.members)
        self._sound = sound

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return self._sound.phase2(acks)

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return self._sound.phase2(acks)

    @property
    def phase1_size(self) -> int:
        return self._sound.phase2_size

    @property
    def phase2_size(self) -> int:
        return self._sound.phase2_size
