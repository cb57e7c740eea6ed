"""What stands between a protocol and the world, as a pure module that the node and the simulator share.

A `Coordinator` owns one protocol object at a time and keeps the contract of `replica.consensus.interface`:

- **Tickets become groups.** All writes of one turn are merged into one *group*, to be committed atomically. Groups are
  numbered from 1, committed in order, and reported back by `durable`. A driver that can't commit at once may merge
  several waiting groups into one transaction; it then reports the last of them.
- **Messages are gated.** A message that names a ticket is held back until the group of that ticket is durable. The rest
  leaves with the turn, before the sync starts.
- **Timers** are kept here: a driver asks for `next_deadline` and steps when it has come.
- **Snapshots switch atomically.** An `Anchor` says which snapshot, frontier, epoch and configuration the replica stands
  on. `anchor_writes` yields the writes that make a new anchor durable in *one* commit of the log environment; after
  that commit `switch` tells the protocol (same epoch) or starts the next protocol object (later epoch). What was in
  flight in the old epoch is dropped: the seal has made it void.

A driver's turn:

    turn = coordinator.step(now, events)       # events in the order of arrival; due timers are added
    carry out turn.sends                        # before the sync, so that peers sync at the same time
    commit turn.writes as turn.group            # inline or on the writer thread; a failure stops the replica
    carry out coordinator.durable(now, group)   # gated messages, and what the protocol makes of Persisted

Installs, deliveries, answers, reads, rejections and the seal come back in each `Turn`, to be carried out in that
order. A seal stops the protocol: the driver takes a snapshot at the sealed frontier, commits the anchor that follows,
and calls `switch`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from replica.consensus.interface import (
    NO_TICKET,
    Admitted,
    Answer,
    Configuration,
    Context,
    Deliver,
    Discard,
    Effects,
    Event,
    Frontier,
    GrantRead,
    Install,
    Objects,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    Randomness,
    ReadRequested,
    Reason,
    Reconfigure,
    Record,
    Registers,
    Reject,
    RejectRead,
    ReplicaId,
    Sealed,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    SnapshotWish,
    Stable,
    Status,
    Ticket,
    TimerFired,
    Write,
    validate_configuration,
)

META_TABLE = "meta"
"""The table of the log environment that belongs to the storage itself; no protocol may declare one of that name."""

ANCHOR_KEY = b"anchor"

LAST_KEY = b"\xff" * 32
"""Sorts behind every key that a protocol may use."""


class Anchor(Record, frozen=True, tag=1):
    """Where a replica stands: one durable record, and the only switch between snapshots and epochs.

    ``frontier`` is what the snapshot covers, ``base`` where the epoch began. ``snapshot`` names the snapshot in the
    data folder and is empty while there is none (a new cluster starts from the empty state). ``mark`` is what the
    protocol of the replica that took the snapshot said about it (`Protocol.snapshot_mark`).
    """

    configuration: Configuration
    frontier: Frontier = 0
    base: Frontier = 0
    snapshot: str = ""
    mark: bytes = b""


class Turn(msgspec.Struct):
    """What a driver is to do now. ``group`` is 0 when nothing needs to be written."""

    group: int = 0
    writes: list[Write] = msgspec.field(default_factory=list)
    sends: list[Send] = msgspec.field(default_factory=list)
    deliveries: list[Deliver] = msgspec.field(default_factory=list)
    reads: list[GrantRead] = msgspec.field(default_factory=list)
    rejections: list[Reject] = msgspec.field(default_factory=list)
    refused_reads: list[RejectRead] = msgspec.field(default_factory=list)
    sealed: Sealed | None = None
    snapshot_wish: SnapshotWish | None = None
    installs: list[Install] = msgspec.field(default_factory=list)
    answers: list[Answer] = msgspec.field(default_factory=list)


class Coordinator:
    """Drives one protocol object on behalf of a driver. Pure: no clock, I/O or randomness of its own."""

    def __init__(
        self,
        find_protocol: Callable[[str], ProtocolSpec],
        *,
        replica: ReplicaId,
        anchor: Anchor,
        stable: Callable[[ProtocolSpec], Stable],
        randomness: Randomness,
        incarnation: int,
        applied: Frontier,
        voting: bool = True,
        registers: Registers | None = None,
        objects: Objects | None = None,
    ) -> None:
        """``stable`` builds the reader for a protocol; ``applied`` is where the recovered state stands.

        ``registers`` and ``objects`` are needed by protocols of those shapes alone. Raises `ConfigurationError`.
        """
        self._find_protocol = find_protocol
        self._replica = replica
        self._stable = stable
        self._randomness = randomness
        self._incarnation = incarnation
        self.voting = voting
        self._registers = registers
        self._objects = objects
        self.anchor = anchor
        self._next_group = 1
        self._durable_group = 0
        self._build(applied)

    def _build(self, applied: Frontier) -> None:
        configuration = self.anchor.configuration
        self.spec = self._find_protocol(configuration.protocol)
        if META_TABLE in self.spec.tables:
            raise ValueError(f"protocol {self.spec.name!r} declares the reserved table {META_TABLE!r}")
        options = validate_configuration(self.spec, configuration)
        self.capabilities = self.spec.offers(options)
        self.protocol: Protocol = self.spec.create(
            Context(
                replica=self._replica,
                configuration=configuration,
                stable=self._stable(self.spec),
                randomness=self._randomness,
                incarnation=self._incarnation,
                applied=applied,
                base=self.anchor.base,
                snapshot=self.anchor.frontier,
                snapshot_mark=self.anchor.mark,
                voting=self.voting,
                registers=self._registers,
                objects=self._objects,
            ),
            options,
        )
        self.sealed: Sealed | None = None
        self._timers: dict[str, float] = {}
        # Groups not yet durable, oldest first: the group, its tickets, and the messages that wait on each ticket.
        self._waiting: deque[tuple[int, list[Ticket]]] = deque()
        self._gated: dict[Ticket, list[Send]] = {}
        self._durable_ticket: Ticket = NO_TICKET

    # ------------------------------------------------------------------------------------------------------ queries

    @property
    def configuration(self) -> Configuration:
        """The configuration of the present epoch."""
        return self.anchor.configuration

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return self.anchor.configuration.epoch

    @property
    def durable_group(self) -> int:
        """The last group that was reported durable."""
        return self._durable_group

    def next_deadline(self) -> float | None:
        """When the earliest timer is due, in seconds of the driver's clock."""
        return min(self._timers.values(), default=None)

    def status(self) -> Status:
        """The protocol's own account."""
        return self.protocol.status()

    # -------------------------------------------------------------------------------------------------------- turns

    def start(self, now: float) -> Turn:
        """Start the protocol object; to be called once after construction. Raises `CorruptRecord`."""
        return self._digest(self.protocol.start(now), Turn())

    def step(self, now: float, events: Sequence[Event]) -> Turn:
        """One turn. Timers that are due at ``now`` are fired after ``events``."""
        if self.sealed is not None:
            return self._refuse(events)
        due = sorted((at, name) for name, at in self._timers.items() if at <= now)
        if due:
            for _, name in due:
                del self._timers[name]
            events = [*events, *(TimerFired(name) for _, name in due)]
        if not events:
            return Turn()
        return self._digest(self.protocol.step(now, events), Turn())

    def durable(self, now: float, group: int) -> Turn:
        """The writes of all groups up to ``group`` are durable: release what waited on them.

        A group of an epoch that has ended meanwhile releases nothing.
        """
        if group <= self._durable_group:
            return Turn()
        if group >= self._next_group:
            raise ValueError(f"group {group} was never issued")
        self._durable_group = group
        turn = Turn()
        events: list[Event] = []
        while self._waiting and self._waiting[0][0] <= group:
            _, tickets = self._waiting.popleft()
            for ticket in tickets:
                self._durable_ticket = ticket
                turn.sends.extend(self._gated.pop(ticket, ()))
                events.append(Persisted(ticket))
        if not events or self.sealed is not None:
            return turn
        return self._digest(self.protocol.step(now, events), turn)

    def admit(self, now: float) -> Turn:
        """This replica has been admitted, durably.

        A driver that has other events for the same turn sets `voting` and puts `Admitted` among them instead.
        """
        self.voting = True
        return self.step(now, [Admitted()])

    # ----------------------------------------------------------------------------------------------------- switching

    def anchor_at(self, frontier: Frontier, snapshot: str = "") -> Anchor:
        """The anchor for a snapshot of the own state at ``frontier``, in the present epoch."""
        mark = self.protocol.snapshot_mark(frontier)
        return msgspec.structs.replace(self.anchor, frontier=frontier, snapshot=snapshot, mark=mark)

    def anchor_after_seal(self, snapshot: str) -> Anchor:
        """The anchor that follows the seal, for a snapshot of that name taken at the sealed frontier."""
        if self.sealed is None:
            raise ValueError("the epoch is not sealed")
        return Anchor(
            configuration=self.sealed.configuration,
            frontier=self.sealed.frontier,
            base=self.sealed.frontier,
            snapshot=snapshot,
        )

    def anchor_writes(self, anchor: Anchor) -> list[Write]:
        """The writes that make ``anchor`` the present one, for one atomic commit of the log environment.

        A later epoch takes the tables of the present protocol with it: the seal has made their records void.
        """
        writes: list[Write] = [Put(META_TABLE, ANCHOR_KEY, anchor)]
        if anchor.configuration.epoch != self.epoch:
            writes.extend(Discard(table, b"", LAST_KEY) for table in sorted(self.spec.tables))
        return writes

    def switch(self, now: float, anchor: Anchor, *, installed: bool) -> Turn:
        """``anchor`` is durable and, if a snapshot was ``installed``, the state stands at its frontier.

        In the same epoch the protocol goes on; ``installed`` False means that the snapshot is of the own state. In a
        later epoch a new protocol object starts. No group may be in flight. Raises `ConfigurationError`.
        """
        if self._waiting:
            raise ValueError("a group is in flight: report it durable before the switch")
        if anchor.configuration.epoch < self.epoch:
            raise ValueError(f"epoch {anchor.configuration.epoch} is behind the present epoch {self.epoch}")
        same_epoch = anchor.configuration.epoch == self.epoch
        self.anchor = anchor
        if not same_epoch:
            self._build(anchor.frontier)
            return self.start(now)
        event: Event = SnapshotTaken(anchor.frontier)
        if installed:
            event = SnapshotInstalled(anchor.frontier, anchor.mark)
        return self.step(now, [event])

    # ------------------------------------------------------------------------------------------------------ internal

    def _digest(self, effects: Effects, turn: Turn) -> Turn:
        if effects.persists:
            group = self._next_group
            self._next_group += 1
            tickets = []
            for persist in effects.persists:
                tickets.append(persist.ticket)
                turn.writes.extend(persist.writes)
            self._waiting.append((group, tickets))
            turn.group = group
        for send in effects.sends:
            if send.after <= self._durable_ticket:
                turn.sends.append(send)
            else:
                self._gated.setdefault(send.after, []).append(send)
        for name, at in effects.timers.items():
            if at is None:
                self._timers.pop(name, None)
            else:
                self._timers[name] = at
        turn.installs.extend(effects.installs)
        turn.deliveries.extend(effects.deliveries)
        turn.answers.extend(effects.answers)
        turn.reads.extend(effects.reads)
        turn.rejections.extend(effects.rejections)
        turn.refused_reads.extend(effects.refused_reads)
        if effects.sealed is not None:
            self.sealed = turn.sealed = effects.sealed
            self._timers.clear()
        turn.snapshot_wish = effects.snapshot_wish
        return turn

    def _refuse(self, events: Sequence[Event]) -> Turn:
        """Between the seal and the switch nothing is proposed; refusals are definite and clients ask again."""
        turn = Turn()
        for event in events:
            if isinstance(event, Proposed):
                turn.rejections.extend(Reject(command, Reason.SEALED, True) for command in event.commands)
            elif isinstance(event, ReadRequested | Reconfigure):
                turn.refused_reads.append(RejectRead(event.token, Reason.SEALED))
        return turn
