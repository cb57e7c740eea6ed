"""The replica's log: votes and what is decided. The concern that every other one stands on.

Marks, delivery and truncation are those of `replica.consensus.delivery`.
"""

from __future__ import annotations

from collections.abc import Iterator

from replica.consensus.ballots import NEVER, Ballot
from replica.consensus.delivery import LOAD_BYTES_MAX, DeliveredLog
from replica.consensus.interface import (
    CorruptRecord,
    Discard,
    Put,
    Record,
    Ticket,
)
from replica.consensus.window import SLOT_MAX, Entry, slot_key, slot_of

from .messages import (
    LOG_TABLE,
    PROGRESS_KEY,
    PROGRESS_TABLE,
    AcceptedRecord,
    DecidedRecord,
    Progress,
    Report,
)
from .state import Core


class Log(DeliveredLog[Entry]):
    """Votes and decisions by slot."""

    def __init__(self, core: Core) -> None:
        super().__init__(core, core.options, LOG_TABLE)
        self._core = core
        self.commit_ballot = NEVER
        self.commit_to = 0
        """Of what was accepted at ``commit_ballot``, everything at or before ``commit_to`` is decided."""
        self.target = 0
        """The highest slot that anybody is known to know as decided."""
        self._recorded = Progress(0, 0)
        self._highest_on_disk = 0

    # ------------------------------------------------------------------------------------------------------ restart

    def restore(self, *, applied: int, base: int, snapshot: int) -> Ballot:
        """Rebuild from stable storage; returns the highest ballot of a vote. Raises `CorruptRecord`.

        ``applied`` is where the state stands, ``base`` where the epoch began, ``snapshot`` what the durable snapshot
        covers.
        """
        stable = self._core.stable
        record = stable.get(PROGRESS_TABLE, PROGRESS_KEY)
        progress = record if isinstance(record, Progress) else Progress(base, base)
        self._recorded = progress
        applied = max(applied, base)
        self.decided, self.floor = max(progress.decided, base), max(progress.floor, base)
        if snapshot > self.decided:
            # It was installed, and a crash came before the log could be discarded: votes beneath it may be for values
            # that were never decided.
            self.decided = self.floor = snapshot
        if applied < self.floor:
            raise CorruptRecord(
                LOG_TABLE, slot_key(self.floor), f"the log begins behind this slot, but the state stands at {applied}"
            )
        if applied > self.decided:
            # A slot is delivered only once its decided value is durable here, so the log vouches for these. If it does
            # not hold them, the state got ahead in some other way: it is right, and the log starts behind it.
            held = sum(1 for _ in stable.scan(LOG_TABLE, slot_key(self.decided + 1), slot_key(applied + 1)))
            if held != applied - self.decided:
                self.floor = applied
            self.decided = applied
        self.target = self.decided
        self.window.jump(applied + 1)
        self.reach = applied + 1
        highest_ballot = NEVER
        for key, stored in stable.scan(LOG_TABLE, slot_key(applied + 1), slot_key(SLOT_MAX)):
            self._highest_on_disk = slot_of(key)
            if isinstance(stored, AcceptedRecord):
                highest_ballot = max(highest_ballot, stored.ballot)
        self._load()
        return highest_ballot

    def _load(self) -> None:
        """Bring what is on disk of the slots that the window now reaches into memory. Raises `CorruptRecord`."""
        limit = self.window.limit
        if self._highest_on_disk < self.reach:
            self.reach = max(self.reach, limit)
            return
        room = LOAD_BYTES_MAX - sum(len(entry.value) for entry in self.window.entries.values())
        slot = self.reach
        for slot_held, record in self._records(self.reach, limit - 1):
            if room <= 0:
                limit = slot_held
                break
            entry = _entry(record, self._core.written)
            entry.decided = entry.decided or slot_held <= self.decided
            self.window.put(slot_held, entry)
            room -= len(record.value)
        while slot < min(limit, self.decided + 1):
            if slot not in self.window.entries:
                raise CorruptRecord(LOG_TABLE, slot_key(slot), "decided, but there is no record of it")
            slot += 1
        self.reach = limit

    def _records(self, first: int, last: int) -> Iterator[tuple[int, AcceptedRecord | DecidedRecord]]:
        """The records of slots ``first`` to ``last``, ascending, with what this turn has written."""
        for key, record in self._core.scan(LOG_TABLE, slot_key(first), slot_key(last + 1)):
            yield slot_of(key), _narrowed(record)

    # ---------------------------------------------------------------------------------------------------- acceptance

    def accept(self, slot: int, ballot: Ballot, value: bytes) -> Entry | None:
        """Vote for ``value`` at ``ballot``, durable at `Core.written`. The entry, if the slot is in the window and
        was not decided before.

        A slot that is known to be decided needs no vote: the value is the one that was decided.
        """
        if slot <= self.decided:
            return None
        window = self.window
        entry = window.entries.get(slot)
        if entry is not None:
            if entry.decided:
                return None
            if entry.ballot == ballot:
                assert entry.value == value, f"two values at slot {slot} under ballot {ballot}"
                return entry
            assert entry.ballot < ballot, f"a vote at {ballot} after one at {entry.ballot} in slot {slot}"
        core = self._core
        core.writes.append(Put(LOG_TABLE, slot_key(slot), AcceptedRecord(ballot, value)))
        if slot >= self.reach:
            self._highest_on_disk = max(self._highest_on_disk, slot)
            return None
        entry = Entry(ballot, value, core.next_ticket)
        window.entries[slot] = entry
        return entry

    def ticket_of(self, first: int, count: int) -> Ticket | None:
        """What the present records of ``count`` slots from ``first`` on wait for; None if some slot has none."""
        entries = [self.window.entries.get(slot) for slot in range(first, first + count)]
        held = [entry.ticket for entry in entries if entry is not None]
        return max(held) if held and len(held) == count else None

    def learn(self, first: int, values: tuple[bytes, ...]) -> None:
        """``values`` were decided in the slots from ``first`` on. Those behind the window are left for later."""
        core = self._core
        for slot, value in enumerate(values, first):
            if slot <= self.decided:
                continue
            if slot >= self.reach:
                break
            entry = self.window.entries.get(slot)
            if entry is not None:
                assert entry.value == value or not (entry.decided or entry.acks is not None), (
                    f"slot {slot} is decided with another value than the one decided or proposed here"
                )
                if entry.value == value:
                    entry.decided = True
                    continue
            core.writes.append(Put(LOG_TABLE, slot_key(slot), DecidedRecord(value)))
            self.window.put(slot, Entry(NEVER, value, core.next_ticket, decided=True))

    def commit(self, ballot: Ballot, to: int) -> None:
        """The leader of ``ballot``, which is being followed, says that everything at or before ``to`` is decided."""
        assert ballot >= self.commit_ballot, f"a commit at {ballot} after one at {self.commit_ballot}"
        self.target = max(self.target, to)
        if ballot > self.commit_ballot:
            self.commit_ballot, self.commit_to = ballot, to
        elif to > self.commit_to:
            self.commit_to = to

    # ------------------------------------------------------------------------------------------------------ decisions

    def advance_decided(self) -> None:
        """Move ``decided`` as far as what is held allows."""
        entries = self.window.entries
        ballot, to = self.commit_ballot, self.commit_to
        any_ballot = "commit applied to an entry of an older ballot" in self._core.bugs
        slot = self.decided + 1
        while (entry := entries.get(slot)) is not None:
            if not entry.decided:
                # Another value may have been decided here if the vote is for an older ballot.
                if slot > to or (entry.ballot != ballot and not any_ballot) or entry.acks is not None:
                    break
                entry.decided = True
            slot += 1
        self.decided = slot - 1
        self.target = max(self.target, self.decided)

    # ------------------------------------------------------------------------------------------------------- reading

    def reports(self, first: int) -> list[Report]:
        """Everything held from slot ``first`` on, which must lie behind ``decided``: for phase 1."""
        assert first > self.decided
        reports = []
        for slot, record in self._records(first, SLOT_MAX - 1):
            entry = self.window.entries.get(slot)
            if isinstance(record, DecidedRecord):
                reports.append(Report(slot, NEVER, record.value, True))
            else:
                decided = entry is not None and entry.decided and entry.ballot == record.ballot
                reports.append(Report(slot, record.ballot, record.value, decided))
        return reports

    def decided_values(self, first: int, bytes_max: int, slots_max: int) -> tuple[bytes, ...]:
        """Decided values of consecutive slots from ``first`` on, at least one if there is one. Raises `CorruptRecord`
        where the log should vouch for a slot and can't."""
        assert first > self.floor
        last = min(self.decided, first + slots_max - 1)
        values: list[bytes] = []
        size = 0
        slot = first
        if slot < self.window.first:
            stop = min(last, self.window.first - 1)
            for key, record in self._core.stable.scan(LOG_TABLE, slot_key(slot), slot_key(stop + 1)):
                if slot_of(key) != slot:
                    break
                value = _narrowed(record).value
                if values and size + len(value) > bytes_max:
                    return tuple(values)
                values.append(value)
                size += len(value)
                slot += 1
            if slot <= stop:
                raise CorruptRecord(LOG_TABLE, slot_key(slot), "decided, but there is no record of it")
        while slot <= last:
            entry = self.window.entries.get(slot)
            if entry is None or (values and size + len(entry.value) > bytes_max):
                break  # nothing in memory: beyond the window during a replay
            values.append(entry.value)
            size += len(entry.value)
            slot += 1
        return tuple(values)

    # ----------------------------------------------------------------------------------------------------- truncation

    def record_progress(self) -> None:
        """Write the marks down if they have moved."""
        progress = Progress(self.decided, self.floor)
        if progress != self._recorded:
            self._recorded = progress
            self._core.writes.append(Put(PROGRESS_TABLE, PROGRESS_KEY, progress))

    def install(self, frontier: int) -> None:
        """The state stands at ``frontier`` now, by a snapshot from elsewhere, which is durable.

        Votes behind it and the promise are untouched; what lies at or before it is void, because votes there may be
        for values that were not decided.
        """
        assert frontier >= self.delivered, f"a snapshot at {frontier} over a state that stands at {self.delivered}"
        self.window.jump(frontier + 1)
        self.reach = max(self.reach, frontier + 1)
        self.decided = max(self.decided, frontier)
        self.target = max(self.target, frontier)
        self._tail.clear()
        if "snapshot erases votes above it" in self._core.bugs:
            self.window.entries.clear()
            self._core.writes.append(Discard(LOG_TABLE, slot_key(0), slot_key(SLOT_MAX)))
            self.decided = frontier
            self._highest_on_disk = 0
        self._load()
        self._discard(frontier)
        self.record_progress()

    def _discard(self, floor: int) -> None:
        self._core.writes.append(Discard(LOG_TABLE, slot_key(0), slot_key(floor + 1)))
        self.floor = floor

    # ----------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert the invariants of the log."""
        self.window.check()
        assert self.floor <= self.delivered <= self.decided <= self.target
        assert self.sealed is None or self.sealed.frontier == self.window.first
        for slot, entry in self.window.entries.items():
            assert entry.decided or slot > self.decided, f"slot {slot} lies at or before {self.decided}, undecided"
            assert entry.ballot <= self._core.promised or entry.ballot == NEVER, (
                f"a vote at {entry.ballot} in slot {slot}, above the promise {self._core.promised}"
            )
        assert self.window.first <= self.reach <= self.window.limit
        for slot in range(self.window.first, min(self.decided + 1, self.reach)):
            assert slot in self.window.entries, f"slot {slot} is decided, but not held"


def _entry(record: AcceptedRecord | DecidedRecord, ticket: int) -> Entry:
    if isinstance(record, DecidedRecord):
        return Entry(NEVER, record.value, ticket, decided=True)
    return Entry(record.ballot, record.value, ticket)


def _narrowed(record: Record) -> AcceptedRecord | DecidedRecord:
    assert isinstance(record, AcceptedRecord | DecidedRecord), f"a {type(record).__name__} in the log"
    return record
