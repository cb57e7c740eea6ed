"""The revisioned keys on top of a `Store`: every write kept until it is compacted away.

Theory of operation
-------------------
A *version* is one write of a key: revision, create revision, version number, lease, value. A write appends a version to
the list that is kept of its key, and the key to the pending changes. When somebody needs to read in the store, or when
the transaction is committed, each key's pending versions go to the store together, as one record: a key that is
overwritten a hundred times between two commits costs one insertion, not a hundred. Where much is pending before that,
the keys that have waited longest go, a few in each turn, so that no turn takes long.

A plain put, which nearly every write is, can be answered before any of that: its answer is its revision. So it is only
taken on, and `settle` makes the versions afterwards, when the answers are on their way, or as soon as somebody looks.

The lists are a cache, too: the last version in a key's list is its newest, so that a put to a key seen lately touches
the store not at all. What stands behind the first one in a list is pending.

Two invariants carry the cache: the newest version of every cached key is the cached one (or was: a deletion that has
been compacted away), and *a key with pending versions is in the cache*. Hence looking up one key's newest version never
needs what is pending to be written first, while reading an interval or an older revision does. What is cached, when
pending versions are written, and so how they are spread over records, is invisible from outside and may differ between
replicas.

Compaction is two things. `compact` moves the line below which revisions cannot be read any more: that is part of the
replicated state. `scavenge` removes what nobody can see since then, a bounded piece at a time, whenever there is
leisure: that is housekeeping, and its progress is each replica's own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Final, TypeAlias, cast

import msgspec

from .layout import (
    BEHIND,
    CHANGES,
    HISTORY,
    NEWEST,
    REVISION_BYTES,
    TERMINATOR,
    Changes,
    CorruptState,
    Version,
    decode_changes,
    decode_versions,
    escape,
    key_of,
    pack_revision,
    prefix_of,
)
from .leases import Leases
from .operations import SYSTEM_PREFIX, AnyOperation, KeyValue, Put, prefix_end
from .store import Store

CACHED_KEYS_MAX: Final = 1 << 16
"""Keys in the cache; when it is full, the older half goes."""

CACHED_VALUE_BYTES_MAX: Final = 1024
"""Larger values are not kept in the cache, only what is known about them."""

TAKEN_ON_PUTS_MAX: Final = 4096
"""Puts whose versions may wait to be made."""

PENDING_KEYS_MAX: Final = 4096
"""With more keys that have pending versions, `settle` writes those that have waited longest to the store: what that
costs hangs on the keys. With twice as many all are written at once."""

PENDING_BYTES_MAX: Final = 3 << 19
"""The same for the size of all pending versions, judged by the commands they came from."""

RELIEVED_KEYS_MIN: Final = 256
"""So many keys are written together, if there are as many: fewer cost more, and more hold up the replica for longer."""

RECORD_BYTES_MAX: Final = 4000
"""Versions of one key share a record up to this size: it fills one page of LMDB. A larger one stands alone."""

BATCH_KEYS_MAX: Final = 1024
"""When a batch of changes has as many keys, the next command begins another."""

SKIPPED_RECORDS_MAX: Final = 4
"""Superseded records that a scan walks over, one after the other, before it takes to seeking."""

SOUGHT_KEYS: Final = 128
"""Keys that a scan seeks one by one before it tries again whether walking will do."""

RECENT_CHANGES_MAX: Final = 4096
"""Up to so many revisions back, "has anything changed in here" is answered from the changes, else from the interval."""

Cached: TypeAlias = tuple[int, int, int, int, bytes | None]
"""A `Version`, but without its value when that is too large to be kept."""

Draft: TypeAlias = Mapping[bytes, KeyValue | None]
"""Writes that are to share one revision, by key; None deletes."""

_SYSTEM_END: Final = prefix_end(SYSTEM_PREFIX)
_HIDDEN: Final = escape(SYSTEM_PREFIX)
_HIDDEN_END: Final = escape(prefix_end(SYSTEM_PREFIX))

_ABSENT: Final[Cached] = (0, 0, 0, 0, b"")
"""What stands for a key that was never written: revision 0, version 0."""

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
        self._cache: dict[bytes, list[Cached]] = {}
        # Keys with pending versions, and their lists; a key's is longer than one exactly if it stands here.
        self._pending: list[tuple[bytes, list[Cached]]] = []
        # Puts that have got their revisions, the first of which stands before them, and not yet their versions.
        self._taken_on: list[tuple[int, Sequence[Put]]] = []
        self._taken_on_puts = 0
        self._flushed = revision
        """Changes up to here are in the store; those behind it are pending."""
        self._batched = revision
        """Changes up to here are in batches, or in the store."""
        self._bytes = 0
        self._batches: list[tuple[bytes, bytes]] = []
        self._changed: list[bytes] = []
        self._first = 0
        self._shared = False

    # ------------------------------------------------------------------------------------------------------- writing

    def put_plain(self, operations: Sequence[AnyOperation], start: int) -> int:
        """Take on the plain puts at the front of ``operations[start:]``; returns where they end.

        Plain is what has no condition, asks for nothing, brings no lease and is no key of the system. Each takes one
        revision, and that is its answer; the versions are made by `settle`.
        """
        done = start
        for operation in islice(operations, start, None) if start else operations:
            if type(operation) is not Put or operation.if_revision is not None or operation.previous or operation.lease:
                break
            key = operation.key
            if key < _SYSTEM_END and key.startswith(SYSTEM_PREFIX):
                break
            done += 1
        count = done - start
        if count:
            puts = operations if count == len(operations) else operations[start:done]
            self._taken_on.append((self.revision + 1, cast("Sequence[Put]", puts)))
            self._taken_on_puts += count
            self.revision += count
            if self._taken_on_puts > TAKEN_ON_PUTS_MAX:
                self.settle()
        return done

    @property
    def settled(self) -> bool:
        """Have all versions been made?"""
        return not self._taken_on

    def settle(self) -> None:
        """Make the versions of the puts that were taken on, and write what is pending to the store when it is much."""
        self._make_taken_on()
        if self._bytes > PENDING_BYTES_MAX or len(self._pending) > PENDING_KEYS_MAX:
            self._relieve()

    def _make_taken_on(self) -> None:
        """The part of `settle` that whoever looks at keys or leases needs: it costs the store nothing but lookups."""
        if self._taken_on:
            taken_on, self._taken_on, self._taken_on_puts = self._taken_on, [], 0
            for first, puts in taken_on:
                self._make_versions(first, puts)

    def _make_versions(self, revision: int, puts: Sequence[Put]) -> None:
        """``puts`` take effect at consecutive revisions from ``revision`` on.

        This is the loop that the speed of the whole store hangs on: it trades repetition for function calls.
        """
        keys = self._changed
        append_key = keys.append
        append_pending = self._pending.append
        lookup = self._cache.get
        if not keys:
            self._first = revision
        for put in puts:
            key = put.key
            versions = lookup(key)
            if versions is None:
                versions = self._load(key)
                if not keys:
                    self._first = revision
            _, create, version, leased, _ = versions[-1]
            if leased:
                self.leases.move(key, leased, 0)
            if len(versions) == 1:
                append_pending((key, versions))
            # A deleted key, like an absent one, has create revision and version 0.
            versions.append((revision, create or revision, version + 1, 0, put.value))
            append_key(key)
            revision += 1

    def write(self, draft: Draft) -> None:
        """Carry out a draft that is not empty at the next revision; keys in it carry that revision already."""
        self.settle()
        revision = self.revision + 1
        shared = len(draft) != 1
        lists = [self._entry(key) for key in draft]  # first of all: loading a key may flush what is pending
        if shared:
            self._end_batch()
        if not self._changed:
            self._first = revision
            self._shared = shared
        system = False
        for (key, item), versions in zip(draft.items(), lists, strict=True):
            if key.startswith(SYSTEM_PREFIX):
                system = True
            else:
                self._cache[key] = versions  # loading the others may have pushed it out
            if len(versions) == 1:
                self._pending.append((key, versions))
            leased = versions[-1][3]
            if item is None:
                versions.append((revision, 0, 0, 0, b""))
            else:
                versions.append((revision, item.create_revision, item.version, item.lease, item.value))
            if versions[-1][3] != leased:
                self.leases.move(key, leased, versions[-1][3])
            self._changed.append(key)
        self.revision = revision
        if shared:
            self._end_batch()
        if system:
            self.flush()  # keys of the system are not cached, so nothing of theirs may be pending

    def pace(self, command_bytes: int) -> None:
        """Called once a command with its size, before it: writes what is pending to the store when that has grown large
        and `settle`, which would do it at a better time, was not called."""
        self._bytes += command_bytes
        if self._bytes > 2 * PENDING_BYTES_MAX or len(self._pending) > 2 * PENDING_KEYS_MAX:
            self.flush()
        elif len(self._changed) >= BATCH_KEYS_MAX:
            self._end_batch()

    def flush(self) -> None:
        """Hand everything pending to the store."""
        self._make_taken_on()
        if self._pending:
            # In place: `_make_versions` holds on to the list while it loads a key.
            pending = self._pending.copy()
            self._pending.clear()
            self._store_versions(pending)
        self._store_changes()
        self._bytes = 0

    def _relieve(self) -> None:
        """Hand so much of what is pending to the store that the rest is within its bounds, and what has waited longest
        first: of that the most has come together, and it makes the fullest records.

        Everything at once would hold up the replica for many turns, and all replicas at the same time, for they have
        applied the same.
        """
        keys = len(self._pending)
        if not keys:
            self._bytes = 0  # they were reads, or changed nothing
            return
        # Keys are taken to hold equally much. Those that have waited longest hold more, so this errs to the safe side.
        excess = max(1 - PENDING_BYTES_MAX / self._bytes if self._bytes else 0.0, 1 - PENDING_KEYS_MAX / keys)
        count = min(keys, max(ceil(keys * excess), RELIEVED_KEYS_MIN))
        relieved = self._pending[:count]
        del self._pending[:count]
        self._store_versions(relieved)
        self._bytes -= self._bytes * count // keys
        self._store_batches()

    def _store_versions(self, pending: list[tuple[bytes, list[Cached]]]) -> None:
        """Write the pending versions of these keys, which count as pending no more."""
        pending.sort()  # by key, and no key is there twice: neighbours share pages
        records: list[tuple[bytes, bytes]] = []
        for key, versions in pending:
            newest = versions[-1]
            fresh = cast("list[Version]", versions[1:])  # a value is dropped below, once it has been written
            data = _encode(fresh)
            if len(data) <= RECORD_BYTES_MAX or len(fresh) == 1:
                records.append((prefix_of(key) + pack_revision(NEWEST - fresh[0][0]), data))
            else:
                records.extend(_split(prefix_of(key), fresh))
            value = newest[4]
            if value is not None and len(value) > CACHED_VALUE_BYTES_MAX:
                newest = (*newest[:4], None)
            # In place: `put_plain` holds on to the lists while it loads a key.
            versions[:] = (newest,)
        self._store.put_many(HISTORY, records)

    def _store_changes(self) -> None:
        """Hand the pending changes to the store, the batch that is being collected included."""
        self._end_batch()
        self._store_batches()

    def _store_batches(self) -> None:
        if self._batches:
            self._store.put_many(CHANGES, self._batches, append=True)
            self._batches.clear()
            self._flushed = self._batched

    def _end_batch(self) -> None:
        """Close the batch of changes that is being collected."""
        if not self._changed:
            return
        self._batches.append((pack_revision(self._first), _encode(Changes(self._changed, self._shared))))
        self._batched = self._first if self._shared else self._first + len(self._changed) - 1
        self._changed.clear()
        self._shared = False

    # ------------------------------------------------------------------------------------------------------- reading

    def latest(self, key: bytes) -> KeyValue | None:
        """The key as it stands now."""
        revision, create, version, lease, value = self._entry(key)[-1]
        if version == 0:
            return None
        if value is None:  # nothing is pending, or the value would be at hand
            prefix = prefix_of(key)
            found = self._store.seek(HISTORY, prefix)
            stored = _ABSENT if found is None or found[0][:-REVISION_BYTES] != prefix else decode_versions(*found)[-1]
            if stored[0] != revision:
                raise CorruptState(HISTORY, prefix, f"the version of revision {revision} is missing")
            value = stored[4]
            assert value is not None
        return KeyValue(key, value, create, revision, version, lease)

    def at(self, key: bytes, revision: int) -> KeyValue | None:
        """The key as it stood at ``revision``, which must not lie below ``compacted``."""
        if self._entry(key)[-1][0] <= revision:
            return self.latest(key)
        self.flush()
        prefix = prefix_of(key)
        found = self._store.seek(HISTORY, prefix + pack_revision(NEWEST - revision))
        if found is None or found[0][:-REVISION_BYTES] != prefix:
            return None
        return _key_value(key, _version_at(*found, revision))

    def interval(
        self, first: bytes, last: bytes, revision: int, *, reverse: bool = False, system: bool = False
    ) -> Iterator[KeyValue]:
        """Keys of ``[first, last)`` as they stood at ``revision``, in order. Nothing may be written meanwhile.

        Keys of the system are passed over unless ``system``.
        """
        for record_key, version in self._newest(first, last, revision, reverse=reverse, system=system):
            item = _key_value(key_of(record_key), version)
            if item is not None:
                yield item

    def count(self, first: bytes, last: bytes, revision: int, *, system: bool = False) -> int:
        """How many keys `interval` would yield."""
        return sum(1 for _, version in self._newest(first, last, revision, system=system) if version[2])

    def changed_since(self, first: bytes, last: bytes, revision: int) -> bool:
        """Was any key of ``[first, last)`` written or deleted after ``revision`` (not below ``compacted``)?"""
        if revision >= self.revision:
            return False
        if self.revision - revision <= RECENT_CHANGES_MAX:
            return any(
                first <= key and (not last or key < last) and not key.startswith(SYSTEM_PREFIX)
                for _, key in self.changes(revision)
            )
        return any(version[0] > revision for _, version in self._newest(first, last, self.revision))

    def changes(self, after: int) -> Iterator[tuple[int, bytes]]:
        """(revision, key) of every write after revision ``after`` (not below ``compacted``), in order.

        Keys of one revision stand in the order of their first write. Nothing may be written meanwhile. Whoever asks for
        no more than what is pending, as those do that follow closely, costs the store nothing.
        """
        self._make_taken_on()
        for first, batch in self._stored_changes(after) if after < self._flushed else self._pending_changes():
            for index, key in enumerate(batch.keys):
                revision = first if batch.shared else first + index
                if revision > after:
                    yield revision, key

    def _stored_changes(self, after: int) -> Iterator[tuple[int, Changes]]:
        self._store_changes()
        start = self._store.seek_before(CHANGES, pack_revision(after + 2))
        for record in self._store.scan(CHANGES, start[0] if start is not None else b"", b""):
            yield decode_changes(*record)

    def _pending_changes(self) -> Iterator[tuple[int, Changes]]:
        for record in self._batches:
            yield decode_changes(*record)
        if self._changed:
            yield self._first, Changes(self._changed, self._shared)

    def written(self, key: bytes, revision: int) -> KeyValue:
        """The key as the write at ``revision`` left it; version 0 for a deletion. ``revision`` is from `changes`, and
        not below ``scavenged``.
        """
        self._make_taken_on()
        for version in reversed(self._cache.get(key, ())):
            number, create, count, lease, value = version
            if number == revision and value is not None:
                return KeyValue(key, value, create, revision, count, lease)
        prefix = prefix_of(key)
        found = self._store.seek(HISTORY, prefix + pack_revision(NEWEST - revision))
        stored = _ABSENT if found is None or found[0][:-REVISION_BYTES] != prefix else _version_at(*found, revision)
        number, create, count, lease, value = stored
        if number != revision or value is None:
            raise CorruptState(HISTORY, prefix, f"the version of revision {revision} is missing")
        return KeyValue(key, value, create, revision, count, lease)

    def _entry(self, key: bytes) -> list[Cached]:
        self._make_taken_on()
        return self._cache.get(key) or self._load(key)

    def _load(self, key: bytes) -> list[Cached]:
        """Look the key up in the store and cache it. The key has no pending versions."""
        prefix = prefix_of(key)
        found = self._store.seek(HISTORY, prefix)
        newest = _ABSENT
        if found is not None and found[0][:-REVISION_BYTES] == prefix:
            stored = decode_versions(*found)[-1]
            newest = stored if len(stored[4]) <= CACHED_VALUE_BYTES_MAX else (*stored[:4], None)
        versions = [newest]
        if key.startswith(SYSTEM_PREFIX):
            return versions
        if len(self._cache) >= CACHED_KEYS_MAX:
            self.flush()  # a key with pending versions must be in the cache
            for old in list(islice(self._cache, len(self._cache) // 2)):
                del self._cache[old]
        self._cache[key] = versions
        return versions

    def _newest(
        self, first: bytes, last: bytes, revision: int, *, reverse: bool = False, system: bool = False
    ) -> Iterator[tuple[bytes, Version]]:
        """Of each key in the interval the newest version at or before ``revision``, deletions included, behind the key
        of the record that holds it."""
        self.flush()
        low, high = escape(first), escape(last)
        inverted = pack_revision(NEWEST - revision)
        if reverse:
            records = self._records_backwards(low, high, inverted, system)
        else:
            records = self._records_forwards(low, high, inverted, system)
        return ((record_key, _version_at(record_key, data, revision)) for record_key, data in records)

    def _records_forwards(
        self, low: bytes, high: bytes, inverted: bytes, system: bool
    ) -> Iterator[tuple[bytes, bytes]]:
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
                    # Superseded, or all of it written after the revision asked for.
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

    def _records_backwards(
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

        Goes through the changes in the order of revisions, batch by batch. Of each key that was written in them, at or
        below the line, everything before the last such write is invisible, and so is that write itself if it is a
        deletion.
        """
        if self.scavenged >= self.compacted:
            return False
        self.flush()
        last: dict[bytes, int] = {}
        emptied: list[bytes] = []
        seen = 0
        while seen < writes and self.scavenged < self.compacted:
            seen += self._gather(last, emptied)
        for key, revision in last.items():
            self._remove_before(key, revision)
        self._store.delete_many(CHANGES, emptied)
        return self.scavenged < self.compacted

    def _gather(self, last: dict[bytes, int], emptied: list[bytes]) -> int:
        """Move ``scavenged`` over a batch, noting the last write of each key up to the line; how many keys it has."""
        start = pack_revision(self.scavenged + 1)
        found = self._store.seek_before(CHANGES, pack_revision(self.scavenged + 2))
        if found is None:
            raise CorruptState(CHANGES, start, "it is missing")
        first, batch = decode_changes(*found)
        end = first if batch.shared else first + len(batch.keys) - 1
        if end <= self.scavenged:
            raise CorruptState(CHANGES, start, "it is missing")
        for index, key in enumerate(batch.keys):
            revision = first if batch.shared else first + index
            if self.scavenged < revision <= self.compacted:
                last[key] = revision
        if end <= self.compacted:
            emptied.append(found[0])
        self.scavenged = min(end, self.compacted)
        return len(batch.keys)

    def _remove_before(self, key: bytes, revision: int) -> None:
        """Remove the versions of ``key`` before that of ``revision``, and that one, too, if it is a deletion."""
        prefix = prefix_of(key)
        seek = self._store.seek
        start = prefix + pack_revision(NEWEST - revision)
        found = seek(HISTORY, start)
        if found is None or found[0][:-REVISION_BYTES] != prefix:
            raise CorruptState(HISTORY, start, "it is missing")
        record_key, data = found
        doomed: list[bytes] = []
        while found is not None and found[0][:-REVISION_BYTES] == prefix:
            doomed.append(found[0])
            found = seek(HISTORY, found[0] + b"\x00")
        versions = decode_versions(record_key, data)
        kept = [version for version in versions if version[0] > revision or (version[0] == revision and version[2])]
        if len(kept) == len(versions):
            del doomed[0]
        elif kept:
            self._store.put(HISTORY, prefix + pack_revision(NEWEST - kept[0][0]), _encode(kept))
        self._store.delete_many(HISTORY, doomed)


def _split(prefix: bytes, versions: list[Version]) -> Iterator[tuple[bytes, bytes]]:
    """Versions of one key as records of at most `RECORD_BYTES_MAX`, where no single version is larger."""
    data = _encode(versions)
    if len(data) <= RECORD_BYTES_MAX or len(versions) == 1:
        yield prefix + pack_revision(NEWEST - versions[0][0]), data
        return
    # As many as fit if all are of one size, and no more than leaves something over.
    first = min(max(1, len(versions) * RECORD_BYTES_MAX // len(data)), len(versions) - 1)
    yield from _split(prefix, versions[:first])
    yield from _split(prefix, versions[first:])


def _version_at(record_key: bytes, data: bytes, revision: int) -> Version:
    """The newest version at or before ``revision`` in a record that begins no later."""
    versions = decode_versions(record_key, data)
    newest = versions[-1]
    if newest[0] <= revision:
        return newest
    return versions[bisect_right(versions, revision, key=_revision_of) - 1]


def _revision_of(version: Version) -> int:
    return version[0]


def _key_value(key: bytes, version: Version) -> KeyValue | None:
    """A version as clients see it; None for a deletion."""
    revision, create, number, lease, value = version
    return KeyValue(key, value, create, revision, number, lease) if number else None
