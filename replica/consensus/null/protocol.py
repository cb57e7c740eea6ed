"""The protocol object of ``null``; the package's docstring tells the theory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from replica.consensus.interface import (
    NO_TICKET,
    Admitted,
    Capabilities,
    Command,
    Configuration,
    ConfigurationError,
    Context,
    CorruptRecord,
    Deliver,
    Discard,
    Effects,
    Event,
    GrantRead,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    ReadRequested,
    Reason,
    Reconfigure,
    Record,
    Reject,
    RejectRead,
    Sealed,
    SnapshotInstalled,
    SnapshotTaken,
    Status,
    Ticket,
    TimerFired,
    Write,
)
from replica.consensus.window import SLOT_MAX, slot_key, slot_of

LOG_TABLE: Final = "log"

REPLAY_TIMER: Final = "replay"

REPLAY_SLOTS_MAX: Final = 1024
"""Slots delivered in one turn of the replay after a restart."""

COMMAND_BYTES_MAX: Final = 3 << 20
"""The largest payload of one command, as for the replicated protocols."""


class Commands(Record, frozen=True, tag=1):
    """What was decided in a slot."""

    commands: tuple[Command, ...]


class Seal(Record, frozen=True, tag=2):
    """The end of the epoch, in favour of ``configuration``."""

    configuration: Configuration


class NullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds; there is nothing to tune."""

    batch_max: int = 4096
    """Operations in one slot. 1: each operation has a slot to itself. A command is never split."""
    batch_bytes_max: int = 1 << 20
    """Bytes of payload in one slot; a larger command has a slot to itself."""
    queue_max: int = 65536
    """Operations that may wait for the disk; more are refused as overload."""
    queue_bytes_max: int = 128 << 20
    """Bytes of payload that may wait for the disk."""


class Null(Protocol):
    """The only replica."""

    def __init__(self, context: Context, options: NullOptions) -> None:
        self._context = context
        self._options = options
        self._voting = context.voting
        self._delivered = 0
        self._floor = 0
        """Slots at or before this one have been discarded."""
        self._next_slot = 1
        self._pending: deque[tuple[Ticket, int, Commands | Seal]] = deque()
        """Written and not durable yet, in order: (ticket, slot, record)."""
        self._queued_operations = 0
        self._queued_bytes = 0
        self._sealing = False
        self._sealed: Sealed | None = None
        self._next_ticket: Ticket = NO_TICKET + 1
        self._writes: list[Write] = []
        self._durable: Ticket = NO_TICKET
        self._reads: list[int] = []
        """Reads of this turn, and those that wait for the end of the replay."""
        self._now = 0.0
        self._replay_to = 0
        """The last slot that was in the log at the start; what lies at or before it is delivered from there."""

    # ---------------------------------------------------------------------------------------------------------- turns

    def start(self, now: float) -> Effects:
        """Deliver what the state lacks. Raises `CorruptRecord`."""
        context = self._context
        assert isinstance(context.applied, int)
        assert isinstance(context.base, int)
        assert isinstance(context.snapshot, int)
        self._floor = max(context.base, context.snapshot)
        self._now = now
        self._delivered = max(context.applied, context.base)
        last = self._delivered
        for key, _ in context.stable.scan(LOG_TABLE, slot_key(last + 1), slot_key(SLOT_MAX)):
            if slot_of(key) != last + 1:
                raise CorruptRecord(LOG_TABLE, key, f"slot {last + 1} before it is missing")
            last += 1
        self._replay_to = last
        self._next_slot = last + 1
        effects = Effects()
        self._settle(effects)
        return effects

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """One turn."""
        self._now = now
        effects = Effects()
        self._writes = []
        proposed: list[Command] = []
        for event in events:
            if isinstance(event, Proposed):
                self._take_on(event, proposed, effects)
            elif isinstance(event, Persisted):
                self._durable = event.ticket
            elif isinstance(event, ReadRequested):
                self._on_read(event, effects)
            elif isinstance(event, Reconfigure):
                self._write_commands(proposed)
                proposed = []
                self._on_reconfigure(event, effects)
            elif isinstance(event, SnapshotTaken | SnapshotInstalled):
                self._on_snapshot(event)
            elif isinstance(event, Admitted):
                self._voting = True
            elif isinstance(event, TimerFired):
                assert event.name == REPLAY_TIMER, f"a timer {event.name!r} that nobody set"
        self._write_commands(proposed)
        self._settle(effects)
        if self._writes:
            effects.persists.append(Persist(self._next_ticket, tuple(self._writes)))
            self._next_ticket += 1
        return effects

    # --------------------------------------------------------------------------------------------------------- events

    def _take_on(self, event: Proposed, proposed: list[Command], effects: Effects) -> None:
        options, reject = self._options, effects.rejections.append
        for command in event.commands:
            size = len(command.payload)
            if not self._voting:
                reject(Reject(command, Reason.NOT_LEADER, True))
            elif self._sealing:
                reject(Reject(command, Reason.SEALED, True))
            elif size > COMMAND_BYTES_MAX:
                reject(Reject(command, Reason.UNSUPPORTED, True))
            elif self._queued_operations >= options.queue_max or (
                self._queued_bytes > 0 and self._queued_bytes + size > options.queue_bytes_max
            ):
                reject(Reject(command, Reason.OVERLOADED, True, self._context.replica))
            else:
                self._queued_operations += command.count
                self._queued_bytes += size
                proposed.append(command)

    def _write_commands(self, commands: list[Command]) -> None:
        options = self._options
        batch: list[Command] = []
        operations = size = 0
        for command in commands:
            if batch and (
                operations + command.count > options.batch_max or size + len(command.payload) > options.batch_bytes_max
            ):
                self._write(Commands(tuple(batch)))
                batch, operations, size = [], 0, 0
            batch.append(command)
            operations += command.count
            size += len(command.payload)
        if batch:
            self._write(Commands(tuple(batch)))

    def _write(self, record: Commands | Seal) -> None:
        self._writes.append(Put(LOG_TABLE, slot_key(self._next_slot), record))
        self._pending.append((self._next_ticket, self._next_slot, record))
        self._next_slot += 1

    def _settle(self, effects: Effects) -> None:
        """The turn ends: deliver what is durable, the rest of the replay first, and grant reads."""
        if self._sealed is None:
            self._replay(effects)
        pending = self._pending
        while pending and pending[0][0] <= self._durable and self._replayed and self._sealed is None:
            _, slot, record = pending.popleft()
            if isinstance(record, Commands):
                for command in record.commands:
                    self._queued_operations -= command.count
                    self._queued_bytes -= len(command.payload)
            self._deliver(slot, record, effects)
        if self._sealed is not None:
            effects.refused_reads.extend(RejectRead(token, Reason.SEALED) for token in self._reads)
        elif self._replayed:
            effects.reads.extend(GrantRead(token, self._delivered) for token in self._reads)
        else:
            return
        self._reads = []

    @property
    def _replayed(self) -> bool:
        return self._delivered >= self._replay_to

    def _replay(self, effects: Effects) -> None:
        """Deliver from the log, a bounded number of slots a turn."""
        first = self._delivered + 1
        last = min(self._replay_to, self._delivered + REPLAY_SLOTS_MAX)
        if first <= last:
            for key, record in self._context.stable.scan(LOG_TABLE, slot_key(first), slot_key(last + 1)):
                assert isinstance(record, Commands | Seal)
                self._deliver(slot_of(key), record, effects)
                if self._sealed is not None:
                    return
        if not self._replayed:
            effects.timers[REPLAY_TIMER] = self._now

    def _deliver(self, slot: int, record: Commands | Seal, effects: Effects) -> None:
        assert slot == self._delivered + 1, f"slot {slot} is to be delivered after {self._delivered}"
        if isinstance(record, Seal):
            self._sealing = True
            self._sealed = effects.sealed = Sealed(slot, record.configuration)
            return
        self._delivered = slot
        effects.deliveries.append(Deliver(slot, record.commands))

    def _on_read(self, event: ReadRequested, effects: Effects) -> None:
        if not self._voting:
            effects.refused_reads.append(RejectRead(event.token, Reason.NOT_LEADER))
        elif len(self._reads) >= self._options.queue_max:
            effects.refused_reads.append(RejectRead(event.token, Reason.OVERLOADED, hint=self._context.replica))
        else:
            self._reads.append(event.token)

    def _on_reconfigure(self, event: Reconfigure, effects: Effects) -> None:
        refuse = effects.refused_reads.append
        if event.configuration.epoch != self._context.configuration.epoch + 1:
            refuse(RejectRead(event.token, Reason.UNSUPPORTED))
        elif not self._voting:
            refuse(RejectRead(event.token, Reason.NOT_LEADER))
        elif self._sealing:
            refuse(RejectRead(event.token, Reason.SEALED))
        else:
            self._sealing = True
            self._write(Seal(event.configuration))

    def _on_snapshot(self, event: SnapshotTaken | SnapshotInstalled) -> None:
        frontier = event.frontier
        assert isinstance(frontier, int)
        if isinstance(event, SnapshotInstalled):
            # Nobody can send one; a driver that restores a backup into a replica at rest may.
            assert frontier >= self._delivered
            assert not self._pending, "a snapshot was installed over commands in flight"
            self._delivered = frontier
            self._next_slot = max(self._next_slot, frontier + 1)
            self._replay_to = max(self._replay_to, frontier)
        assert frontier <= self._delivered, f"a snapshot at {frontier} of a state that stands at {self._delivered}"
        self._writes.append(Discard(LOG_TABLE, slot_key(0), slot_key(frontier + 1)))
        self._floor = max(self._floor, frontier)

    # -------------------------------------------------------------------------------------------------------- queries

    def status(self) -> Status:
        """Always the leader, once admitted."""
        return Status(
            role="leader" if self._voting else "learner",
            leader=self._context.replica if self._voting else None,
            ballot=str(self._context.configuration.epoch),
            decided=self._delivered,
            delivered=self._delivered,
            accepting=self._voting and not self._sealing and self._queued_operations < self._options.queue_max,
            log_first=self._floor + 1,
            queued=self._queued_operations,
            in_flight=len(self._pending),
        )

    def check(self) -> None:
        """Assert the invariants."""
        assert self._queued_operations >= 0
        assert self._queued_bytes >= 0
        assert self._delivered < self._next_slot
        slots = [slot for _, slot, _ in self._pending]
        assert slots == list(range(self._next_slot - len(slots), self._next_slot))
        tickets = [ticket for ticket, _, _ in self._pending]
        assert tickets == sorted(tickets)


def _validate(configuration: Configuration, options: NullOptions) -> None:
    if len(configuration.members) != 1:
        raise ConfigurationError(
            f"members: protocol 'null' replicates nothing and takes one member, not {len(configuration.members)}; "
            "choose another protocol"
        )
    for name in ("batch_max", "batch_bytes_max", "queue_max", "queue_bytes_max"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"protocol.options.{name}: must be at least 1")


PROTOCOL: Final = ProtocolSpec(
    name="null",
    summary="One replica without replication: the ceiling of the harness itself.",
    capabilities=Capabilities(
        total_order=True,
        transactions=True,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset({"log", "read-index"}),
        routing="leader",
        crash_recovery=True,
        reconfiguration=True,
    ),
    messages=(),
    tables={LOG_TABLE: (Commands, Seal)},
    options=NullOptions,
    create=Null,
    validate=_validate,
)
