"""The revisioned keys on top of a `Store`: every write kept until it is compacted away.

Theory of operation
-------------------
A write appends its record to a pending list and its key to the pending changes; one `put_many` hands the whole list to
the store when somebody needs to read there, when the list has grown, or when the transaction is committed. In front
stands a cache from key to the newest version, so that a put to a key seen lately touches the store not at all.

Two invariants carry the cache: the newest record of every cached key is the cached one (or was: a deletion that has
been compacted away), and *a key with pending records is in the cache*. Hence looking up one key's newest version never
needs the pending records to be written first, while reading an interval or an older revision does. What is cached, and
when pending records are written, is invisible from outside and may differ between replicas.

Compaction is two things. `compact` moves the line below which revisions cannot be read any more: that is part of the
replicated state. `scavenge` removes what nobody can see since then, a bounded piece at a time, whenever there is
leisure: that is housekeeping, and its progress is each replica's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeAlias

import msgspec

from .layout import (
    BEHIND,
    CHANGES,
    HEADER,
    HEADER_BYTES,
    HISTORY,
    NEWEST,
    REVISION_BYTES,
    TERMINATOR,
    Changes,
    CorruptState,
    decode_changes,
    escape,
    pack_header,
    pack_revision,
    prefix_of,
    split_record_key,
)
from .leases import Leases
from .operations import SYSTEM_PREFIX, AnyOperation, KeyValue, Put, prefix_end
from .store import Store

CACHED_KEYS_MAX: Final = 1 << 16
"""Keys in the cache; when it is full, the older half goes."""

CACHED_VALUE_BYTES_MAX: Final = 1024
"""Larger values are not kept in the cache, only what is known about them."""

PENDING_RECORDS_MAX: Final = 4096
"""Records that may wait to be written to the store."""

PENDING_BYTES_MAX: Final = 4 << 20
"""Their size, judged by the commands they came from."""

SKIPPED_RECORDS_MAX: Final = 4
"""Superseded records that a scan walks over, one after the other, before it takes to seeking."""

SOUGHT_KEYS: Final = 128
"""Keys that a scan seeks one by one before it tries again whether walking will do."""

RECENT_CHANGES_MAX: Final = 4096
"""Up to so many revisions back, "has anything changed in here" is answered from the changes, else from the interval."""

Entry: TypeAlias = tuple[bytes, int, int, int, int, bytes | None]
"""A cached key: what its records begin with, create revision, revision of the newest record (0: there is none),
version (0: deleted or never there), lease, and the value unless it is too large."""

Draft: TypeAlias = Mapping[bytes, KeyValue | None]
"""Writes that are to share one revision, by key; None deletes."""

_HIDDEN: Final = escape(SYSTEM_PREFIX)
_HIDDEN_END: Final = escape(prefix_end(SYSTEM_PREFIX))

_encode = msgspec.msgpack.Encoder().encode


class History:
    """All versions of all keys between ``compacted`` and ``revision``."""

    def __init__(self, store: Store, leases: Leases) -> None:
        """``leases`` is told which keys come to live with a lease, and which no longer do."""
        self._store = store
        self.leases = leases
        self.reset(0, 0, 0)

    def reset(self, revision: int, compacted: int, scavenged: int) -> None:
        """Forget everything held in memory and go on from what the store holds."""
        self.revision = revision
        self.compacted = compacted
        self.scavenged = scavenged
        self._cache: dict[bytes, Entry] = {}
        self._records: list[tuple[bytes, bytes]] = []
        self._bytes = 0
        self._batches: list[tuple[bytes, bytes]] = []
        self._begin_batch()

    # ------------------------------------------------------------------------------------------------------- writing

    def put_plain(self, operations: Sequence[AnyOperation], start: int) -> int:
        """Execute the plain puts at the front of ``operations[start:]``; returns where they end.

        Plain is what has no condition, asks for nothing and has nothing to do with leases, neither before nor after.
        Each takes one revision. This is the loop that the speed of the whole store hangs on: it trades repetition for
        function calls.
        """
        cache = self._cache
        records = self._records
        keys = self._changed
        superseded = self._superseded
        append_record = records.append
        append_key = keys.append
        append_superseded = superseded.append
        lookup = cache.get
        revision = self.revision
        if not keys:
            self._first = revision + 1
        done = start
        for operation in islice(operations, start, None) if start else operations:
            if type(operation) is not Put or operation.if_revision is not None or operation.previous or operation.lease:
                break
            key = operation.key
            entry = lookup(key)
            if entry is None:
                if key.startswith(SYSTEM_PREFIX):
                    break
                self.revision = revision
                entry = self._load(key)
                if not keys:
                    self._first = revision + 1
            prefix, create, newest, version, leased, _ = entry
            if leased:
                break
            revision += 1
            if version == 0:
                create = revision
            version += 1
            value = operation.value
            append_record((prefix + pack_revision(NEWEST - revision), pack_header(create, version, 0) + value))
            append_key(key)
            append_superseded(newest)
            cache[key] = (
                prefix,
                create,
                revision,
                version,
                0,
                value if len(value) <= CACHED_VALUE_BYTES_MAX else None,
            )
            done += 1
        self.revision = revision
        return done

    def write(self, draft: Draft) -> None:
        """Carry out a draft that is not empty at the next revision; keys in it carry that revision already."""
        revision = self.revision + 1
        shared = len(draft) != 1
        entries = [self._entry(key) for key in draft]  # first of all: loading a key may flush what is pending
        if shared:
            self._end_batch()
        if not self._changed:
            self._first = revision
            self._shared = shared
        inverted = pack_revision(NEWEST - revision)
        system = False
        for (key, item), (prefix, _, newest, _, leased, _) in zip(draft.items(), entries, strict=True):
            if item is None:
                create, version, lease, value = 0, 0, 0, b""
                self._tombstones.append(len(self._changed))
            else:
                create, version, lease, value = item.create_revision, item.version, item.lease, item.value
            if lease != leased:
                self.leases.move(key, leased, lease)
            self._records.append((prefix + inverted, pack_header(create, version, lease) + value))
            self._changed.append(key)
            self._superseded.append(newest)
            if key.startswith(SYSTEM_PREFIX):
                system = True
                continue
            kept = value if len(value) <= CACHED_VALUE_BYTES_MAX else None
            self._cache[key] = (prefix, create, revision, version, lease, kept)
        self.revision = revision
        if shared:
            self._end_batch()
        if system or len(self._records) >= PENDING_RECORDS_MAX:
            self.flush()  # keys of the system are not cached, so nothing of theirs may be pending

    def pace(self, command_bytes: int) -> None:
        """Called once a command with its size: writes the pending records to the store when they have grown large."""
        self._bytes += command_bytes
        if self._bytes > PENDING_BYTES_MAX or len(self._records) > PENDING_RECORDS_MAX:
            self.flush()

    def flush(self) -> None:
        """Hand everything pending to the store."""
        if not self._records:
            return
        self._end_batch()
        self._store.put_many(HISTORY, self._records)
        self._store.put_many(CHANGES, self._batches, append=True)
        # Cleared in place: `put_plain` holds on to the lists while it loads a key.
        self._records.clear()
        self._batches.clear()
        self._bytes = 0

    def _begin_batch(self) -> None:
        self._changed: list[bytes] = []
        self._superseded: list[int] = []
        self._tombstones: list[int] = []
        self._first = 0
        self._shared = False

    def _end_batch(self) -> None:
        """Close the batch of changes that is being collected."""
        if not self._changed:
            return
        batch = Changes(self._changed, self._superseded, self._tombstones, self._shared)
        self._batches.append((pack_revision(self._first), _encode(batch)))
        self._changed.clear()
        self._superseded.clear()
        self._tombstones.clear()
        self._shared = False

    # ------------------------------------------------------------------------------------------------------- reading

    def latest(self, key: bytes) -> KeyValue | None:
        """The key as it stands now."""
        prefix, create, newest, version, lease, value = self._entry(key)
        if version == 0:
            return None
        if value is None:
            self.flush()
            record_key = prefix + pack_revision(NEWEST - newest)
            record = self._store.get(HISTORY, record_key)
            if record is None:
                raise CorruptState(HISTORY, record_key, "it is missing")
            value = record[HEADER_BYTES:]
        return KeyValue(key, value, create, newest, version, lease)

    def at(self, key: bytes, revision: int) -> KeyValue | None:
        """The key as it stood at ``revision``, which must not lie below ``compacted``."""
        prefix, _, newest, _, _, _ = self._entry(key)
        if newest <= revision:
            return self.latest(key)
        self.flush()
        found = self._store.seek(HISTORY, prefix + pack_revision(NEWEST - revision))
        if found is None or found[0][:-REVISION_BYTES] != prefix:
            return None
        return _key_value(*found)

    def interval(
        self, first: bytes, last: bytes, revision: int, *, reverse: bool = False, system: bool = False
    ) -> Iterator[KeyValue]:
        """Keys of ``[first, last)`` as they stood at ``revision``, in order. Nothing may be written meanwhile.

        Keys of the system are passed over unless ``system``.
        """
        for record_key, record in self._newest(first, last, revision, reverse=reverse, system=system):
            item = _key_value(record_key, record)
            if item is not None:
                yield item

    def count(self, first: bytes, last: bytes, revision: int, *, system: bool = False) -> int:
        """How many keys `interval` would yield."""
        return sum(1 for _, record in self._newest(first, last, revision, system=system) if record[8:16] != _DELETED)

    def changed_since(self, first: bytes, last: bytes, revision: int) -> bool:
        """Was any key of ``[first, last)`` written or deleted after ``revision`` (not below ``compacted``)?"""
        if revision >= self.revision:
            return False
        if self.revision - revision <= RECENT_CHANGES_MAX:
            return any(
                first <= key and (not last or key < last) and not key.startswith(SYSTEM_PREFIX)
                for _, key in self.changes(revision)
            )
        return any(
            split_record_key(record_key)[1] > revision for record_key, _ in self._newest(first, last, self.revision)
        )

    def changes(self, after: int) -> Iterator[tuple[int, bytes]]:
        """(revision, key) of every write after revision ``after`` (not below ``compacted``), in order.

        Keys of one revision stand in the order of their first write. Nothing may be written meanwhile.
        """
        self.flush()
        start = self._store.seek_before(CHANGES, pack_revision(after + 2))
        for record_key, data in self._store.scan(CHANGES, start[0] if start is not None else b"", b""):
            first, batch = decode_changes(record_key, data)
            for index, key in enumerate(batch.keys):
                revision = first if batch.shared else first + index
                if revision > after:
                    yield revision, key

    def _entry(self, key: bytes) -> Entry:
        return self._cache.get(key) or self._load(key)

    def _load(self, key: bytes) -> Entry:
        """Look the key up in the store and cache it. The key has no pending records."""
        prefix = prefix_of(key)
        found = self._store.seek(HISTORY, prefix)
        entry: Entry
        if found is None or found[0][:-REVISION_BYTES] != prefix:
            entry = (prefix, 0, 0, 0, 0, b"")
        else:
            record_key, record = found
            create, version, lease = _unpack_header(record_key, record)
            newest = NEWEST - int.from_bytes(record_key[-REVISION_BYTES:], "big")
            kept = record[HEADER_BYTES:] if len(record) <= HEADER_BYTES + CACHED_VALUE_BYTES_MAX else None
            entry = (prefix, create, newest, version, lease, kept)
        if key.startswith(SYSTEM_PREFIX):
            return entry
        if len(self._cache) >= CACHED_KEYS_MAX:
            self.flush()  # a key with pending records must be in the cache
            for old in list(islice(self._cache, len(self._cache) // 2)):
                del self._cache[old]
        self._cache[key] = entry
        return entry

    def _newest(
        self, first: bytes, last: bytes, revision: int, *, reverse: bool = False, system: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The newest record at or before ``revision`` of each key in the interval, deletions included."""
        self.flush()
        low, high = escape(first), escape(last)
        inverted = pack_revision(NEWEST - revision)
        if reverse:
            return self._newest_backwards(low, high, inverted, system)
        return self._newest_forwards(low, high, inverted, system)

    def _newest_forwards(self, low: bytes, high: bytes, inverted: bytes, system: bool) -> Iterator[tuple[bytes, bytes]]:
        """Walks from record to record while they are few a key, and seeks from key to key where they are many."""
        while not high or low < high:
            seen = b""
            skipped = 0
            for record_key, record in self._store.scan(HISTORY, low, high):
                prefix = record_key[:-REVISION_BYTES]
                if prefix.startswith(_HIDDEN) and not system:
                    low = _HIDDEN_END
                    break
                if prefix == seen or record_key[-REVISION_BYTES:] < inverted:
                    # Superseded, or written after the revision asked for.
                    skipped += 1
                    if skipped > SKIPPED_RECORDS_MAX:
                        low = prefix[: -len(TERMINATOR)] + BEHIND if prefix == seen else prefix
                        break
                    continue
                seen = prefix
                skipped = 0
                yield record_key, record
            else:
                return
            for _ in range(SOUGHT_KEYS):
                found = self._store.seek(HISTORY, low)
                if found is None or (high and found[0] >= high):
                    return
                prefix = found[0][:-REVISION_BYTES]
                if prefix.startswith(_HIDDEN) and not system:
                    low = _HIDDEN_END
                    continue
                if found[0][-REVISION_BYTES:] < inverted:
                    found = self._store.seek(HISTORY, prefix + inverted)
                if found is not None and found[0][:-REVISION_BYTES] == prefix:
                    yield found
                low = prefix[: -len(TERMINATOR)] + BEHIND

    def _newest_backwards(
        self, low: bytes, high: bytes, inverted: bytes, system: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        while True:
            oldest = self._store.seek_before(HISTORY, high)
            if oldest is None or oldest[0] < low:
                return
            prefix = oldest[0][:-REVISION_BYTES]
            if prefix.startswith(_HIDDEN) and not system:
                high = _HIDDEN
                continue
            found = self._store.seek(HISTORY, prefix + inverted)
            if found is not None and found[0][:-REVISION_BYTES] == prefix:
                yield found
            high = prefix

    # ---------------------------------------------------------------------------------------------------- compaction

    def compact(self, revision: int) -> None:
        """From now on nothing below ``revision`` can be read. ``revision`` lies in ``compacted .. self.revision``."""
        assert self.compacted <= revision <= self.revision
        self.compacted = revision

    def scavenge(self, writes: int) -> bool:
        """Remove about so many writes that compaction has made invisible; True when there is more to remove.

        Goes through the changes in the order of revisions, a batch a step. What a write at or below the line replaced
        is invisible, and so is such a write itself if it is a deletion.
        """
        if self.scavenged >= self.compacted:
            return False
        self.flush()
        removed = 0
        while removed < writes and self.scavenged < self.compacted:
            removed += self._scavenge_batch()
        return self.scavenged < self.compacted

    def _scavenge_batch(self) -> int:
        start = pack_revision(self.scavenged + 1)
        found = self._store.seek_before(CHANGES, pack_revision(self.scavenged + 2))
        if found is None:
            raise CorruptState(CHANGES, start, "it is missing")
        first, batch = decode_changes(*found)
        end = first if batch.shared else first + len(batch.keys) - 1
        if end <= self.scavenged:
            raise CorruptState(CHANGES, start, "it is missing")
        doomed = []
        deletions = set(batch.tombstones)
        for index, key in enumerate(batch.keys):
            revision = first if batch.shared else first + index
            if not self.scavenged < revision <= self.compacted:
                continue
            prefix = prefix_of(key)
            if batch.superseded[index]:
                doomed.append(prefix + pack_revision(NEWEST - batch.superseded[index]))
            if index in deletions:
                doomed.append(prefix + pack_revision(NEWEST - revision))
        self._store.delete_many(HISTORY, doomed)
        if end <= self.compacted:
            self._store.delete(CHANGES, found[0])
        self.scavenged = min(end, self.compacted)
        return len(batch.keys)


_DELETED: Final = bytes(8)


def _unpack_header(record_key: bytes, record: bytes) -> tuple[int, int, int]:
    if len(record) < HEADER_BYTES:
        raise CorruptState(HISTORY, record_key, f"{len(record)} bytes are too few")
    return HEADER.unpack_from(record)


def _key_value(record_key: bytes, record: bytes) -> KeyValue | None:
    """A history record as clients see it; None for a deletion."""
    create, version, lease = _unpack_header(record_key, record)
    if version == 0:
        return None
    key, revision = split_record_key(record_key)
    return KeyValue(key, record[HEADER_BYTES:], create, revision, version, lease)
