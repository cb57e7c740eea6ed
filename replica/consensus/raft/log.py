"""The replica's log: entries, conflicts, how far it is committed. The concern that every other one stands on.

Indexes count from 1 and the log has no gaps: it holds the entries behind ``floor`` up to ``last``. Marks, delivery and
truncation behind a snapshot are those of `replica.consensus.delivery`, where *committed* is called decided. Entries
that the window does not reach are on disk alone; their terms are in memory all the same (see `terms`), so that log
matching never reads.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replica.consensus.delivery import LOAD_BYTES_MAX, DeliveredLog
from replica.consensus.interface import Command, CorruptRecord, Discard, Put, Record, Ticket
from replica.consensus.values import is_seal
from replica.consensus.window import SLOT_MAX, slot_key, slot_of

from .messages import (
    LOG_TABLE,
    PROGRESS_KEY,
    PROGRESS_TABLE,
    STARTS_TABLE,
    EntryRecord,
    LogEntry,
    Mark,
    Progress,
    TermStart,
    decode_mark,
    encode_mark,
)
from .state import Core
from .terms import Terms

END: Final = slot_key(SLOT_MAX)
"""Behind every index."""


class Entry:
    """An entry in memory. ``commands`` spares whoever appended it first the decoding of its own value."""

    __slots__ = ("term", "value", "ticket", "commands")

    def __init__(self, term: int, value: bytes, ticket: Ticket, commands: tuple[Command, ...] | None = None) -> None:
        self.term = term
        self.value = value
        self.ticket = ticket
        self.commands = commands

    def __repr__(self) -> str:
        return f"<Entry of term {self.term}, {len(self.value)} bytes, ticket {self.ticket}>"


class Log(DeliveredLog[Entry]):
    """Entries by index."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, core.options, LOG_TABLE)
        self._core = core
        self.last = 0
        """The last index; ``floor`` when the log holds nothing."""
        self.terms = Terms(0, 0)
        self.seal: int | None = None
        """Where a seal stands that has not been delivered."""
        self._recorded = Progress(0, 0, 0)

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.terms.last_term

    # ------------------------------------------------------------------------------------------------------ restart

    def restore(self, *, applied: int, base: int, snapshot: int, mark: bytes) -> int:
        """Rebuild from stable storage; returns the highest term that is known of. Raises `CorruptRecord`.

        ``applied`` is where the state stands, ``base`` where the epoch began (in term 0), ``snapshot`` what the durable
        snapshot covers, and ``mark`` what was said about it.
        """
        stable = self._core.stable
        record = stable.get(PROGRESS_TABLE, PROGRESS_KEY)
        progress = record if isinstance(record, Progress) else Progress(base, base, 0)
        self._recorded = progress
        applied = max(applied, base)
        self.floor = progress.floor
        self.terms = Terms(self.floor, progress.floor_term)
        for key, start in stable.scan(STARTS_TABLE, slot_key(self.floor + 1), END):
            assert isinstance(start, TermStart)
            self.terms.begin(slot_of(key), start.term)
        self.last = self._find_last(max(applied, self.floor))
        self.decided = max(progress.commit, base, applied, snapshot)
        taken = self._mark_of(mark)
        if snapshot > base:
            self._stand_on(snapshot, taken.last_term)
        if applied < self.floor:
            raise CorruptRecord(
                LOG_TABLE, slot_key(self.floor), f"the log begins behind this entry, but the state stands at {applied}"
            )
        if self.last < self.decided:
            raise CorruptRecord(LOG_TABLE, slot_key(self.decided), "committed, but there is no record of it")
        self.window.jump(applied + 1)
        self.reach = applied + 1
        self._load()
        return max(self.terms.last_term, taken.term)

    def _find_last(self, known: int) -> int:
        """Where the log ends, if it reaches ``known``; else the floor. Notes where an undelivered seal stands."""
        last = known
        for key, record in self._core.stable.scan(LOG_TABLE, slot_key(known + 1), END):
            last += 1
            if slot_of(key) != last:
                raise CorruptRecord(LOG_TABLE, slot_key(last), "there are later entries, but no record of it")
            if is_seal(_narrowed(record).value):
                self.seal = last
        if last == known > self.floor and self._core.stable.get(LOG_TABLE, slot_key(known)) is None:
            last = self.floor
            for key, _ in self._core.stable.scan(LOG_TABLE, slot_key(self.floor + 1), slot_key(known)):
                last = slot_of(key)
        return last

    def _mark_of(self, data: bytes) -> Mark:
        try:
            return decode_mark(data)
        except msgspec.DecodeError as error:
            raise CorruptRecord(LOG_TABLE, b"", f"the mark of the snapshot cannot be read: {error}") from None

    def _load(self) -> None:
        """Bring what is on disk of the indexes that the window now reaches into memory. Raises `CorruptRecord`."""
        stop = min(self.window.limit, self.last + 1)
        if self.reach >= stop:
            return
        room = LOAD_BYTES_MAX - sum(len(entry.value) for entry in self.window.entries.values())
        ticket = self._core.written
        for key, record in self._core.scan(LOG_TABLE, slot_key(self.reach), slot_key(stop)):
            if room <= 0:
                return
            found, index = _narrowed(record), slot_of(key)
            self._expect(index, self.reach, found.term)
            self.window.put(index, Entry(found.term, found.value, ticket))
            self.reach = index + 1
            room -= len(found.value)
        if self.reach < stop:
            raise CorruptRecord(LOG_TABLE, slot_key(self.reach), "there are later entries, but no record of it")

    def _expect(self, index: int, expected: int, term: int) -> None:
        if index != expected:
            raise CorruptRecord(LOG_TABLE, slot_key(expected), "there are later entries, but no record of it")
        if term != self.terms.at(index):
            raise CorruptRecord(
                LOG_TABLE, slot_key(index), f"an entry of term {term}, where one of {self.terms.at(index)} was written"
            )

    # ----------------------------------------------------------------------------------------------------- appending

    @property
    def has_room(self) -> bool:
        """Would the window hold another entry?"""
        return self.reach == self.last + 1 < self.window.limit

    def append(self, term: int, value: bytes, commands: tuple[Command, ...] | None = None) -> int:
        """Append an entry, durable at `Core.written`; its index. Behind the window it is on disk alone."""
        core = self._core
        index = self.last + 1
        if term != self.terms.last_term:
            self.terms.begin(index, term)
            core.writes.append(Put(STARTS_TABLE, slot_key(index), TermStart(term)))
        core.writes.append(Put(LOG_TABLE, slot_key(index), EntryRecord(term, value)))
        if self.reach == index < self.window.limit:
            self.window.entries[index] = Entry(term, value, core.next_ticket, commands)
            self.reach = index + 1
        if is_seal(value):
            self.seal = index
        self.last = index
        return index

    def matches(self, index: int, term: int) -> bool:
        """Is the entry at ``index``, which does not lie before the floor, of ``term``?"""
        return index <= self.last and self.terms.at(index) == term

    def follow(self, prev_index: int, entries: tuple[LogEntry, ...]) -> int:
        """Make the log agree with ``entries``, which follow a matching entry at ``prev_index``; up to where it does."""
        if prev_index < self.decided:
            # What is committed is the same in every log that a leader of this term may have.
            entries = entries[self.decided - prev_index :]
            prev_index = self.decided
        index = prev_index
        for position, entry in enumerate(entries):
            if index == self.last or self.terms.at(index + 1) != entry.term:
                if index < self.last:
                    self.remove_from(index + 1)
                for fresh in entries[position:]:
                    index = self.append(fresh.term, fresh.value)
                return index
            index += 1
        if "truncates on a delayed append" in self._core.bugs and prev_index <= index < self.last:
            self.remove_from(index + 1)
        return index

    def remove_from(self, index: int) -> None:
        """Remove the entries from ``index`` on: another leader has put others there, and they were never committed."""
        if not self._core.bugs:
            assert index > self.decided, f"the entry at {index} conflicts, but {self.decided} is committed"
        index = max(index, self.window.first, self.floor + 1)
        if index > self.last:
            return
        core = self._core
        core.writes.append(Discard(LOG_TABLE, slot_key(index), END))
        core.writes.append(Discard(STARTS_TABLE, slot_key(index), END))
        for doomed in range(index, self.reach):
            self.window.entries.pop(doomed, None)
        self.reach = min(self.reach, index)
        self.last = index - 1
        self.decided = min(self.decided, self.last)
        self.terms.cut(index)
        if self.seal is not None and self.seal >= index:
            self.seal = None

    # ---------------------------------------------------------------------------------------------------- commitment

    def commit(self, index: int) -> None:
        """Everything at or before ``index``, which the log holds, is committed."""
        assert index <= self.last, f"committed up to {index}, but the log ends at {self.last}"
        self.decided = max(self.decided, index)

    def advance_decided(self) -> None:
        """Nothing more than what `commit` was told."""

    def record_progress(self) -> None:
        """Write the marks down if they have moved."""
        progress = Progress(self.decided, self.floor, self.terms.floor_term)
        if progress != self._recorded:
            self._recorded = progress
            self._core.writes.append(Put(PROGRESS_TABLE, PROGRESS_KEY, progress))

    # ------------------------------------------------------------------------------------------------------- reading

    def entries_from(self, first: int, bytes_max: int) -> tuple[LogEntry, ...]:
        """Entries from ``first`` on, at least one if there is one, as many as ``bytes_max`` allows. Raises
        `CorruptRecord`."""
        assert first > self.floor
        found: list[LogEntry] = []
        size = 0
        index, window = first, self.window
        while index <= self.last:
            entry = window.entries.get(index)
            if entry is None:
                stop = window.first if index < window.first else self.last + 1
                for key, record in self._core.scan(LOG_TABLE, slot_key(index), slot_key(stop)):
                    stored = _narrowed(record)
                    self._expect(slot_of(key), index, stored.term)
                    if found and size + len(stored.value) > bytes_max:
                        return tuple(found)
                    found.append(LogEntry(stored.term, stored.value))
                    size += len(stored.value)
                    index += 1
                if index < stop:
                    raise CorruptRecord(LOG_TABLE, slot_key(index), "there are later entries, but no record of it")
                continue
            if found and size + len(entry.value) > bytes_max:
                break
            found.append(LogEntry(entry.term, entry.value))
            size += len(entry.value)
            index += 1
        return tuple(found)

    # ----------------------------------------------------------------------------------------------------- snapshots

    def mark_at(self, frontier: int) -> bytes:
        """What goes along with a snapshot of the own state at ``frontier``."""
        return encode_mark(Mark(self.terms.at(frontier), self._core.term))

    def install(self, frontier: int, last_term: int) -> None:
        """The state stands at ``frontier`` now, by a snapshot from elsewhere, which is durable; the entry there was of
        ``last_term``. What the log holds behind it stays if it belongs to that entry."""
        assert frontier >= self.delivered, f"a snapshot at {frontier} over a state that stands at {self.delivered}"
        self._stand_on(frontier, last_term)
        self.window.jump(frontier + 1)
        self.reach = max(self.reach, frontier + 1)
        if self.seal is not None and self.seal <= frontier:
            self.seal = None
        self._tail.clear()
        self._load()
        if frontier > self.floor:
            self._discard(frontier)
        self.record_progress()

    def _stand_on(self, frontier: int, last_term: int) -> None:
        """Everything up to ``frontier`` is committed and ends in an entry of ``last_term``: drop a log that does not
        agree. By log matching one that does agree at the frontier agrees before it."""
        if frontier <= self.floor or self.matches(frontier, last_term):
            self.decided = max(self.decided, frontier)
            return
        core = self._core
        core.writes.append(Discard(LOG_TABLE, slot_key(0), END))
        core.writes.append(Discard(STARTS_TABLE, slot_key(0), END))
        self.window.entries.clear()
        self.reach = self.window.first
        self.floor = self.last = frontier
        self.terms = Terms(frontier, last_term)
        self.decided = frontier
        self.seal = None

    def _discard(self, floor: int) -> None:
        core = self._core
        core.writes.append(Discard(LOG_TABLE, slot_key(0), slot_key(floor + 1)))
        core.writes.append(Discard(STARTS_TABLE, slot_key(0), slot_key(floor + 1)))
        self.terms.raise_floor(floor)
        self.floor = floor

    # ----------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert the invariants of the log."""
        self.window.check()
        assert self.floor == self.terms.floor
        assert self.floor <= self.delivered <= self.decided <= self.last
        assert self.sealed is None or self.sealed.frontier == self.window.first
        assert self.terms.last_term <= self._core.term, "an entry of a term that this replica has not seen"
        assert self.window.first <= self.reach <= min(self.window.limit, self.last + 1)
        assert len(self.window.entries) == self.reach - self.window.first
        for index, entry in self.window.entries.items():
            assert self.window.first <= index < self.reach, f"the entry at {index} is out of reach"
            assert entry.term == self.terms.at(index), f"the entry at {index} is of term {entry.term}"


def _narrowed(record: Record) -> EntryRecord:
    assert isinstance(record, EntryRecord), f"a {type(record).__name__} in the log"
    return record
