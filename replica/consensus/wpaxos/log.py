"""The logs: one for each object, of what was promised, accepted, decided and delivered.

In memory an object has its marks and the entries that were not delivered yet; what lies behind is in the state, and is
handed to whoever lacks it as an image of the object. On disk the entries stay until a snapshot of the own state covers
them, so that a machine that lost its state delivers them again. So what is kept grows with the number of objects, and
not with how often they are written.

Marks, for each object: ``delivered <= decided``; nothing at or before ``delivered`` is held in memory. An entry counts
as decided when it was accepted at the very ballot of which that was said, or is at or before a mark that was written
down after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from replica.consensus.ballots import Ballot
from replica.consensus.interface import (
    Command,
    Context,
    CorruptRecord,
    Deliver,
    Discard,
    Install,
    Put,
    Ticket,
)
from replica.consensus.values import Seal, decode_value
from replica.consensus.window import Entry

from .messages import (
    IMAGES_TABLE,
    LOG_TABLE,
    OBJECTS_TABLE,
    EntryRecord,
    ImageRecord,
    ObjectRecord,
    entry_key,
    object_key,
)
from .state import Core

DELIVER_SLOTS_MAX: Final = 1024
"""Positions delivered in one turn; the next goes on."""

DELIVER_BYTES_MAX: Final = 16 << 20
"""Bytes of values delivered in one turn."""

DELIVER_TIMER: Final = "deliver"

MARKS_MAX: Final = 256
"""Marks of quiet objects written in one tick."""

DISCARDS_MAX: Final = 512
"""Objects of which something is discarded in one tick."""

_LAST: Final = b"\xff" * 32


class ObjectLog:
    """One object. Mutable, and owned by `Logs`."""

    __slots__ = (
        "name",
        "key",
        "promised",
        "delivered",
        "decided",
        "entries",
        "stored",
        "image",
        "weight",
        "news_at",
    )

    def __init__(self, name: str, promised: Ballot) -> None:
        self.name = name
        self.key = object_key(name)
        self.promised = promised
        """Nothing below this ballot is accepted any more; its replica is who may own the object."""
        self.delivered = 0
        self.decided = 0
        """Every position up to here is decided, and delivered or held."""
        self.entries: dict[int, Entry] = {}
        """What was accepted beyond ``delivered``."""
        self.stored = 0
        """Beyond this position there is nothing of the object on disk."""
        self.image = 0
        """The position of the image on disk; 0 for none."""
        self.weight = int.from_bytes(self.key[:8], "big")
        self.news_at = 0.0
        """When anything new was last heard of the object: a claim, a value, a decision. Repetitions are no news, or an
        owner that reaches nobody who could decide would pass for one that serves."""

    @property
    def highest(self) -> int:
        """The highest position that is held or was delivered."""
        return max(self.entries, default=self.delivered)


class Logs:
    """All objects that this replica has heard of."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.by_name: dict[str, ObjectLog] = {}
        self.unfinished: dict[str, None] = {}
        """Objects with entries that were not delivered."""
        self.standing = 0
        """A sum over how far all objects are: equal at two replicas that have delivered the same."""
        self.on_delivered: Callable[[ObjectLog, tuple[Command, ...]], None] = lambda log, commands: None
        """Told of every position that is delivered, with its commands; of an image, without any."""
        self.before_install: Callable[[ObjectLog, int], None] = lambda log, position: None
        """Told that the entries up to a position are about to be dropped in favour of an image."""
        self._ready: dict[str, None] = {}
        """Objects of which something may be delivered."""
        self._stored: dict[str, None] = {}
        """Objects that have entries or an image on disk."""
        self._covered: dict[str, int] = {}
        """Up to where a snapshot covers objects of which something is still on disk."""
        self._unmarked: dict[str, None] = {}
        """Objects whose mark on disk is behind."""
        self._images: deque[tuple[Ticket, str, int, bytes]] = deque()
        """Images on their way to the disk."""

    def __getitem__(self, name: str) -> ObjectLog:
        """The object of that name, made if nobody has spoken of it yet."""
        log = self.by_name.get(name)
        if log is None:
            log = self.by_name[name] = ObjectLog(name, self._core.unowned)
            log.news_at = self._core.now
        return log

    # -------------------------------------------------------------------------------------------------------- restart

    def restore(self, context: Context) -> None:
        """Rebuild from the disk. Raises `CorruptRecord`: votes that can't be read are not to be contradicted."""
        stable = self._core.stable
        applied = context.applied if isinstance(context.applied, dict) else {}
        for _, record in stable.scan(OBJECTS_TABLE, b"", _LAST):
            assert isinstance(record, ObjectRecord)
            log = self[record.name]
            if "promise lost on restart" not in self._core.bugs:
                log.promised = record.promised
            log.decided = record.decided
        for name in applied:
            self[name].delivered = applied[name]
        for _, record in stable.scan(IMAGES_TABLE, b"", _LAST):
            assert isinstance(record, ImageRecord)
            self._take_image(self[record.name], record)
        for _, record in stable.scan(LOG_TABLE, b"", _LAST):
            assert isinstance(record, EntryRecord)
            self._take_entry(self[record.name], record)
        for log in self.by_name.values():
            self._taken(log)

    def stand_at(self, frontier: dict[str, int]) -> None:
        """The state of a peer has taken the place of the own one: deliver again what lies beyond it."""
        core = self._core
        self._images.clear()
        for name in frontier:
            self[name]
        for log in self.by_name.values():
            if log.delivered == (position := frontier.get(log.name, 0)):
                continue
            self.before_install(log, position)
            self._move(log, position)
            if (image := self._get(IMAGES_TABLE, log.key)) is not None:
                assert isinstance(image, ImageRecord)
                self._take_image(log, image)
            held = log.entries
            log.entries = {}
            for _, record in core.scan(LOG_TABLE, log.key, log.key + b"\xff" * 9):
                assert isinstance(record, EntryRecord)
                if (entry := held.get(record.position)) is not None and record.position > log.delivered:
                    log.entries[record.position] = entry
                else:
                    self._take_entry(log, record)
            self._taken(log)

    def _get(self, table: str, key: bytes) -> object:
        return next((record for _, record in self._core.scan(table, key, key + b"\x00")), None)

    def _take_image(self, log: ObjectLog, record: ImageRecord) -> None:
        log.image = record.position
        log.stored = max(log.stored, record.position)
        self._stored[log.name] = None
        if record.position > log.delivered:
            log.delivered = record.position
            self._core.effects.installs.append(Install(log.name, record.position, record.image))

    def _take_entry(self, log: ObjectLog, record: EntryRecord) -> None:
        log.promised = max(log.promised, record.ballot)
        log.decided = max(log.decided, record.decided)
        log.stored = max(log.stored, record.position)
        self._stored[log.name] = None
        if record.position > log.delivered:
            log.entries[record.position] = Entry(record.ballot, record.value, self._core.durable)

    def _taken(self, log: ObjectLog) -> None:
        """What was known to be decided and is held is decided still; the rest has to be found out again."""
        marked, log.decided = log.decided, log.delivered
        for position in [position for position in log.entries if position <= log.delivered]:
            del log.entries[position]
        while log.decided < marked and (entry := log.entries.get(log.decided + 1)) is not None:
            entry.decided = True
            log.decided += 1
        for position, entry in log.entries.items():
            entry.decided = entry.decided or position <= log.decided
        self.standing += log.weight * log.delivered
        if log.entries:
            self.unfinished[log.name] = self._ready[log.name] = None

    def _move(self, log: ObjectLog, position: int) -> None:
        """Forget how far an object is, in order to find it out anew from ``position`` on."""
        self.standing -= log.weight * log.delivered
        log.delivered = position

    # -------------------------------------------------------------------------------------------------------- writing

    def promise(self, log: ObjectLog, ballot: Ballot) -> None:
        """Accept nothing below ``ballot`` any more."""
        assert ballot >= log.promised, f"a promise of {log.promised} for {log.name!r} can't be lowered to {ballot}"
        if ballot > log.promised:
            log.promised = ballot
            self._mark(log)

    def _mark(self, log: ObjectLog) -> None:
        self._unmarked.pop(log.name, None)
        record = ObjectRecord(log.name, log.promised, log.decided)
        self._core.writes.append(Put(OBJECTS_TABLE, log.key, record))

    def mark_quiet(self) -> None:
        """Write down how far objects are decided, where nothing else has taken that along for a while."""
        before = self._core.now - self._core.options.suspicion_timeout_s
        for name in list(islice(self._unmarked, MARKS_MAX)):
            log = self.by_name[name]
            if log.news_at > before:
                return  # those behind it have had news since
            self._mark(log)

    def accept(self, log: ObjectLog, position: int, ballot: Ballot, value: bytes) -> Entry:
        """Vote for a value. What is decided there already stays decided, and has to be the same."""
        assert position > log.delivered
        self.promise(log, ballot)
        before = log.entries.get(position)
        decided = before is not None and before.decided
        if decided:
            assert before is not None
            assert before.value == value, f"another value than was decided comes to {log.name!r} at {position}"
        core = self._core
        record = EntryRecord(log.name, position, ballot, value, log.decided)
        core.writes.append(Put(LOG_TABLE, entry_key(log.key, position), record))
        entry = log.entries[position] = Entry(ballot, value, core.written, decided=decided)
        log.stored = max(log.stored, position)
        log.news_at = core.now
        self._stored[log.name] = None
        self._unmarked.pop(log.name, None)
        self.unfinished[log.name] = None
        return entry

    def decide(self, log: ObjectLog, ballot: Ballot, position: int) -> None:
        """What was accepted at ``ballot`` up to ``position`` is decided. Entries of other ballots may be of other
        values, and wait for an image."""
        for each, entry in log.entries.items():
            if each <= position and entry.ballot == ballot:
                entry.decided = True
        self.advance(log)

    def advance(self, log: ObjectLog) -> bool:
        """Move the mark over what is decided; has it moved?"""
        before = log.decided
        while (entry := log.entries.get(log.decided + 1)) is not None and entry.decided:
            log.decided += 1
        if log.decided == before:
            return False
        log.news_at = self._core.now
        self._unmarked.pop(log.name, None)
        self._unmarked[log.name] = self._ready[log.name] = None
        return True

    # -------------------------------------------------------------------------------------------------------- delivery

    def keep_image(self, log: ObjectLog, position: int, image: bytes) -> None:
        """A peer is further with an object: have its image made durable, then installed."""
        core = self._core
        if position <= max(log.delivered, log.image):
            return
        core.writes.append(Put(IMAGES_TABLE, log.key, ImageRecord(log.name, position, image)))
        log.image = position
        log.stored = max(log.stored, position)
        self._stored[log.name] = None
        self._images.append((core.written, log.name, position, image))

    def install(self) -> None:
        """Images that are durable take the place of what is older. To be done before anything is delivered."""
        core = self._core
        while self._images and self._images[0][0] <= core.durable:
            _, name, position, image = self._images.popleft()
            log = self.by_name[name]
            if position <= log.delivered:
                continue
            core.counters["images"] += 1
            core.effects.installs.append(Install(name, position, image))
            self.before_install(log, position)
            for each in [each for each in log.entries if each <= position]:
                del log.entries[each]
            log.decided = max(log.decided, position)
            self._reach(log, position)
            self.advance(log)
            self.on_delivered(log, ())

    def deliver(self) -> None:
        """Hand out what is decided, in the order of each object, within the bounds of a turn."""
        core = self._core
        deliveries = core.effects.deliveries
        slots, size = DELIVER_SLOTS_MAX, DELIVER_BYTES_MAX
        while self._ready:
            name = next(iter(self._ready))
            log = self.by_name[name]
            while log.delivered < log.decided and slots > 0 and size > 0:
                position = log.delivered + 1
                entry = log.entries.pop(position)
                commands = self._decode(log, position, entry)
                deliveries.append(Deliver(position, commands, name))
                self._reach(log, position)
                self.on_delivered(log, commands)
                slots -= 1
                size -= len(entry.value)
            if log.delivered < log.decided:
                core.timer(DELIVER_TIMER, core.now)
                return
            del self._ready[name]

    def _reach(self, log: ObjectLog, position: int) -> None:
        self.standing += log.weight * (position - log.delivered)
        log.delivered = position
        if not log.entries:
            self.unfinished.pop(log.name, None)

    def _decode(self, log: ObjectLog, position: int, entry: Entry) -> tuple[Command, ...]:
        if entry.commands is not None:
            return entry.commands
        try:
            content = decode_value(entry.value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = f"the decided value is malformed: {error}"
            raise CorruptRecord(LOG_TABLE, entry_key(log.key, position), reason) from None
        assert not isinstance(content, Seal), "nobody proposes a seal"
        return content.commands

    # ------------------------------------------------------------------------------------------------------ discarding

    def discard(self, frontier: dict[str, int]) -> None:
        """A durable snapshot of the own state covers ``frontier``: nothing at or before it is needed on disk."""
        for name in self._stored:
            if covered := frontier.get(name, 0):
                log = self.by_name[name]
                assert covered <= log.delivered, f"a snapshot of {name!r} at {covered}, which stands at {log.delivered}"
                self._covered[name] = covered

    def discard_covered(self) -> None:
        """Discard what snapshots cover, of some objects at a time, so that no turn takes long."""
        writes = self._core.writes
        for name in list(islice(self._covered, DISCARDS_MAX)):
            log = self.by_name[name]
            covered = self._covered.pop(name)
            writes.append(Discard(LOG_TABLE, log.key, entry_key(log.key, covered + 1)))
            if 0 < log.image <= covered:
                writes.append(Discard(IMAGES_TABLE, log.key, log.key + b"\x00"))
                log.image = 0
            if log.stored <= covered:
                self._stored.pop(name, None)

    # -------------------------------------------------------------------------------------------------------- queries

    def idle_since(self, before: float) -> Iterator[ObjectLog]:
        """Objects with entries that were not delivered, of which nothing has been heard since ``before``."""
        for name in self.unfinished:
            log = self.by_name[name]
            if log.news_at <= before:
                yield log

    def check(self) -> None:
        """Assert the invariants of all objects with entries."""
        for name in self.unfinished:
            log = self.by_name[name]
            assert log.delivered <= log.decided, f"{name!r} was delivered beyond what is decided"
            assert all(position > log.delivered for position in log.entries), f"{name!r} holds what was delivered"
            assert all(entry.ballot <= log.promised for entry in log.entries.values()), f"{name!r} broke a promise"
            for position in range(log.delivered + 1, log.decided + 1):
                assert position in log.entries, f"{name!r} has lost the decided position {position}"
        total = sum(log.weight * log.delivered for log in self.by_name.values())
        assert total == self.standing, "the sum over all objects is wrong"
