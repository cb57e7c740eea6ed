"""A state from nothing but keys: what a backup holds, as a store that goes on from there.

Keys keep their revisions and versions, leases their ids and a full time to live. The history begins at the revision of
the backup, as if everything before had been compacted; there are no sessions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from .layout import HISTORY, NEWEST, pack_revision, prefix_of
from .leases import Leases
from .machine import write_meta
from .operations import KeyValue
from .store import Store

CHUNK_BYTES: Final = 8 << 20
"""So much is written before a store that nobody uses yet commits."""

ENDED_TTL_MS: Final = 10_000
"""What is left to a lease of which no more than its id is known."""

_encode = msgspec.msgpack.Encoder().encode


def restore(store: Store, *, revision: int, items: Iterable[KeyValue], leases: Iterable[tuple[int, int]] = ()) -> int:
    """Fill an empty store with ``items``, whose keys ascend, as of ``revision``; returns how many there were.

    ``leases`` are ids and times to live in milliseconds. Raises `ValueError` for what cannot have been so.
    """
    table = Leases(store)
    for lease, ttl_ms in leases:
        table.grant(ttl_ms, lease)
    records: list[tuple[bytes, bytes]] = []
    size = count = 0
    for item in items:
        if not 0 < item.create_revision <= item.mod_revision <= revision or item.version < 1:
            raise ValueError(f"key {item.key!r} has revisions that cannot be, as of revision {revision}")
        if item.lease and item.lease not in table:
            # It ended while the backup was taken, and is going to end here.
            table.grant(ENDED_TTL_MS, item.lease)
        version = (item.mod_revision, item.create_revision, item.version, item.lease, item.value)
        records.append((prefix_of(item.key) + pack_revision(NEWEST - item.mod_revision), _encode([version])))
        if item.lease:
            table.move(item.key, 0, item.lease)
        size += len(item.key) + len(item.value)
        count += 1
        if size >= CHUNK_BYTES:
            store.put_many(HISTORY, records, append=True)
            store.commit()
            records, size = [], 0
    if records:
        store.put_many(HISTORY, records, append=True)
    table.save()
    write_meta(store, revision=revision)
    store.commit()
    return count
