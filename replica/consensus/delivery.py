"""The delivered end of a log: what is decided goes to the state machine in slot order, within bounds, up to a seal.
Shared by the protocols that order by a log.

Three marks move over the slots, in this order: ``floor`` (before it the log is gone or void), ``delivered`` (handed to
the state machine), ``decided`` (everything at or before it is known to be decided). A slot is delivered when it is
decided *and* this replica's own record of it is durable, so that after the crash of a process its state never lies
beyond what its log can vouch for (an installed snapshot excepted).

What a record is, how slots come to be decided, and how records on disk get into the window is the protocol's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar
from typing import Protocol as TypingProtocol

import msgspec

from .interface import Command, CorruptRecord, Deliver, Sealed, Ticket
from .options import LogOptions
from .tail import Tail
from .turn import TurnState
from .values import Seal, decode_value
from .window import Window, slot_key

DELIVER_SLOTS_MAX: Final = 1024
"""Slots delivered in one turn; a replay after a restart goes on in the next."""

DELIVER_BYTES_MAX: Final = 16 << 20
"""Bytes of values delivered in one turn."""

LOAD_BYTES_MAX: Final = 64 << 20
"""Bytes of values in the window above which no more are loaded from disk into it."""

DELIVER_TIMER: Final = "deliver"


class Deliverable(TypingProtocol):
    """What delivery needs to know of an entry."""

    value: bytes
    ticket: Ticket
    commands: tuple[Command, ...] | None


EntryType = TypeVar("EntryType", bound=Deliverable)


class DeliveredLog(ABC, Generic[EntryType]):
    """The marks, the window, delivery and truncation."""

    def __init__(self, turn: TurnState, options: LogOptions, table: str) -> None:
        """``table`` is where the records of slots stand."""
        self._turn = turn
        self._table = table
        self.window: Window[EntryType] = Window(first=1, capacity=2 * options.window_slots)
        self.decided = 0
        """Every slot at or before this one is decided."""
        self.floor = 0
        """The decided values of slots at or before this one can't be had from this log."""
        self.sealed: Sealed | None = None
        self.reach = 1
        """Slots before this one are in memory if they hold anything; what later ones hold is on disk alone. The end of
        the window, or less while it is being filled from disk."""
        self._tail = Tail(options)
        self._written_before: Ticket = 0
        """What had been written when the log was last asked whether it is quiet."""

    @property
    def delivered(self) -> int:
        """The last slot handed to the state machine."""
        return self.window.first - 1

    @abstractmethod
    def advance_decided(self) -> None:
        """Move ``decided`` as far as what is held allows."""

    @abstractmethod
    def record_progress(self) -> None:
        """Write the marks down if they have moved."""

    @abstractmethod
    def _load(self) -> None:
        """Bring what is on disk of the slots that the window now reaches into memory. Raises `CorruptRecord`."""

    @abstractmethod
    def _discard(self, floor: int) -> None:
        """Discard the slots at or before ``floor``, which becomes the floor."""

    # ------------------------------------------------------------------------------------------------------ delivery

    def advance(self) -> None:
        """Move ``decided`` and deliver as far as possible; asks for another turn when this one's budget is spent."""
        if self.sealed is not None:
            return
        budget_slots, budget_bytes = DELIVER_SLOTS_MAX, DELIVER_BYTES_MAX
        while True:
            self.advance_decided()
            slots, size = self._deliver(budget_slots, budget_bytes)
            if not slots:
                break
            budget_slots -= slots
            budget_bytes -= size
            self._load()
            if budget_slots <= 0 or budget_bytes <= 0:
                self._turn.timer(DELIVER_TIMER, self._turn.now)
                break

    def _deliver(self, slots_max: int, bytes_max: int) -> tuple[int, int]:
        """Deliver up to so much; how many slots and bytes were delivered."""
        window, durable = self.window, self._turn.durable
        entries, deliveries = window.entries, self._turn.effects.deliveries
        first = slot = window.first
        size = 0
        while slot <= self.decided and slot - first < slots_max and size < bytes_max:
            entry = entries.get(slot)
            if entry is None or entry.ticket > durable:
                break
            commands = entry.commands
            if commands is None:
                content = self._decode(slot, entry.value)
                if isinstance(content, Seal):
                    self.sealed = Sealed(slot, content.configuration)
                    self._turn.effects.sealed = self.sealed
                    break
                commands = content
            deliveries.append(Deliver(slot, commands))
            size += len(entry.value)
            del entries[slot]
            slot += 1
            window.first = slot
        if slot > first:
            self._tail.delivered(slot - 1, size)
        return slot - first, size

    def _decode(self, slot: int, value: bytes) -> tuple[Command, ...] | Seal:
        try:
            content = decode_value(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptRecord(self._table, slot_key(slot), f"the decided value is malformed: {error}") from None
        return content if isinstance(content, Seal) else content.commands

    # ----------------------------------------------------------------------------------------------------- the marks

    def record_progress_when_quiet(self) -> None:
        """Write the marks down if nothing else has been written since the last call.

        Whatever is written takes the marks along, so a busy log is never far behind; a sync for them alone would stand
        in the way of the next votes.
        """
        if self._turn.written == self._written_before:
            self.record_progress()
        self._written_before = self._turn.written

    def truncate(self, frontier: int) -> None:
        """A durable snapshot of the own state covers ``frontier``: discard what lies behind the tail."""
        assert frontier <= self.delivered, f"a snapshot at {frontier} of a state that stands at {self.delivered}"
        floor = self._tail.floor(frontier)
        if floor > self.floor:
            self._discard(floor)
        self.record_progress()
