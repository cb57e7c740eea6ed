"""What a watch is told: the writes of the history that concern it, a batch a revision.

The history tells, from any revision behind what compaction has removed, which keys were written in which order. So a
watch is a place in the history and nothing else: whoever serves it can stop anywhere, and any replica can go on from
there. Places lie between revisions or, where one revision changed more than fits a message, within one.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from .history import History
from .operations import SYSTEM_PREFIX, WatchBatch, WatchEvent

EVENT_BYTES: Final = 48
"""What an event counts beside its keys and values."""


class Selection(msgspec.Struct, frozen=True):
    """What a watch wants to be told. Keys of the system are passed over, unless ``first`` is one."""

    first: bytes
    last: bytes
    puts: bool = True
    deletes: bool = True
    previous: bool = False

    def holds(self, key: bytes) -> bool:
        """Does the interval hold the key?"""
        if key < self.first or (self.last and key >= self.last):
            return False
        return not key.startswith(SYSTEM_PREFIX) or self.first.startswith(SYSTEM_PREFIX)

    def event(self, history: History, revision: int, key: bytes) -> WatchEvent | None:
        """The write to a key of the interval as the watch is told of it; None when it does not want to be."""
        item = history.written(key, revision)
        if not (self.puts if item.version else self.deletes):
            return None
        if not self.previous:
            return WatchEvent(item)
        before = item.mod_revision - 1
        return WatchEvent(item, history.at(item.key, before) if before >= max(history.compacted, 1) else None)


def size_of(event: WatchEvent) -> int:
    """About how many bytes an event takes in a message."""
    size = EVENT_BYTES + len(event.item.key) + len(event.item.value)
    return size if event.previous is None else size + EVENT_BYTES + len(event.previous.key) + len(event.previous.value)


class Place(msgspec.Struct, frozen=True):
    """How far a watch has been told: all revisions up to ``after``, and of the next so many writes of any key."""

    after: int
    writes: int = 0


class Piece(msgspec.Struct):
    """A piece of what a watch is told, and where it ends."""

    place: Place
    batches: list[WatchBatch] = []

    @property
    def partial(self) -> bool:
        """Does the last batch go on in the next piece?"""
        return self.place.writes > 0


def piece_of(
    history: History, selection: Selection, place: Place, *, until: int, writes_max: int, bytes_max: int
) -> Piece:
    """What follows ``place`` (not before ``history.scavenged``), up to revision ``until`` at most.

    It ends behind a whole revision when about so many writes were looked at, or the events have so many bytes; within a
    revision only where that one alone has more. A single event may be as large as it likes.
    """
    writes, reached = _writes(history, place.after, until, writes_max)
    batches: list[WatchBatch] = []
    told, size = place.after, 0
    for revision, group in groupby(writes, key=itemgetter(0)):
        skipped = place.writes if revision == place.after + 1 else 0
        events: list[WatchEvent] = []
        for index, (_, key) in enumerate(group):
            if index < skipped or not selection.holds(key):
                continue
            event = selection.event(history, revision, key)
            if event is None:
                continue
            size += size_of(event)
            if size > bytes_max and batches:
                return Piece(Place(told), batches)
            if size > bytes_max and events:
                return Piece(Place(told, index), [WatchBatch(revision, tuple(events))])
            events.append(event)
        if events or skipped:  # that a revision has come to its end must be told, too
            batches.append(WatchBatch(revision, tuple(events)))
        told = revision
    return Piece(Place(reached), batches)


def _writes(history: History, after: int, until: int, writes_max: int) -> tuple[list[tuple[int, bytes]], int]:
    """About so many writes behind ``after``, whole revisions, and the last revision that they cover."""
    writes: list[tuple[int, bytes]] = []
    last = after
    for revision, key in history.changes(after):
        if revision > until:
            break
        if revision != last:
            if len(writes) >= writes_max:
                return writes, last
            last = revision
        writes.append((revision, key))
    return writes, until
