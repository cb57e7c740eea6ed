"""Leases: keys that live as long as somebody keeps them alive.

Theory of operation
-------------------
A lease is granted with a time to live, renewed by keep-alives, and ends by a revocation, which deletes its keys at one
revision. Nothing here knows what time it is. Whoever leads keeps the timers outside the replicated state
(`replica.node.expiry`), and when one has run out proposes a revocation that names the last renewal that it saw. Every
grant and every renewal takes the next number of one counter, so a renewal that was decided before the proposal makes it
come to nothing, and so does a new lease under an old id.

So time may be told wrong anywhere without harm to the state: a lease ends too late or too early, and at the same place
of the log on every replica. Clients that must know which (a lock's holder) have fencing tokens for it.

Which keys live with a lease is told by the keys' records; the table ``leased`` says the same the other way round. It is
written as keys come and go, while the leases themselves are held in memory and written at each commit, as sessions are.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .layout import LEASED, LEASES, REVISION_BYTES, CorruptState, pack_revision
from .operations import LEASES_MAX
from .store import Store


class Lease(msgspec.Struct, array_like=True):
    """One lease: ``renewal`` numbers its grant or last keep-alive, ``keys`` live with it."""

    ttl_ms: int
    renewal: int
    keys: int = 0


class _Counters(msgspec.Struct, array_like=True):
    """The last id that was chosen, and the last number of a renewal."""

    lease: int = 0
    renewal: int = 0


_encode = msgspec.msgpack.Encoder().encode
_lease = msgspec.msgpack.Decoder(Lease)
_counters = msgspec.msgpack.Decoder(_Counters)

_COUNTERS_KEY: Final = pack_revision(0)  # leases count from 1


class Leases:
    """The table of leases, held in memory and written to the store at each commit."""

    def __init__(self, store: Store, *, leases_max: int = LEASES_MAX) -> None:
        self._store = store
        self.maximum = leases_max
        """Leases that may exist at once."""
        self.reload()

    def reload(self) -> None:
        """Forget everything held in memory and read the store. Raises `CorruptState`."""
        self._counters = _Counters()
        self._leases: dict[int, Lease] = {}
        self._dirty: dict[int, None] = {}
        self.touched: dict[int, None] = {}
        """Leases that were granted or renewed, and not ended, since somebody last cleared this: for whoever keeps the
        timers, and no part of the state."""
        for key, data in self._store.scan(LEASES, b"", b""):
            try:
                if key == _COUNTERS_KEY:
                    self._counters = _counters.decode(data)
                else:
                    lease = int.from_bytes(key, "big")
                    self._leases[lease] = _lease.decode(data)
                    self.touched[lease] = None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CorruptState(LEASES, key, str(error)) from None

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    @property
    def used(self) -> bool:
        """Has there ever been a lease?"""
        return self._counters.renewal > 0

    def get(self, lease: int) -> Lease | None:
        """The lease; None when there is none."""
        return self._leases.get(lease)

    def known(self, lease: int) -> Lease:
        """The lease, which must exist."""
        return self._leases[lease]

    def listed(self, after: int, limit: int) -> list[int]:
        """Ids behind ``after``, ascending, at most ``limit``."""
        return sorted(lease for lease in self._leases if lease > after)[:limit]

    def grant(self, ttl_ms: int, lease: int) -> int:
        """Begin a lease under an id that is free, or for 0 under the next one that is; returns the id."""
        counters = self._counters
        if not lease:
            counters.lease += 1
            while counters.lease in self._leases:
                counters.lease += 1
            lease = counters.lease
        self._leases[lease] = Lease(ttl_ms, self._renewal())
        self._note(lease)
        return lease

    def renew(self, lease: int) -> Lease:
        """Renew a lease, which must exist."""
        known = self._leases[lease]
        known.renewal = self._renewal()
        self._note(lease)
        return known

    def remove(self, lease: int) -> None:
        """End a lease, which must exist and with which no keys live any more."""
        assert not self._leases.pop(lease).keys
        self._dirty[lease] = None
        self.touched.pop(lease, None)

    def _renewal(self) -> int:
        self._counters.renewal += 1
        return self._counters.renewal

    def _note(self, lease: int) -> None:
        self._dirty[lease] = None
        self.touched[lease] = None

    # ----------------------------------------------------------------------------------------------------------- keys

    def move(self, key: bytes, before: int, after: int) -> None:
        """``key`` lived with the lease ``before`` and now lives with ``after`` (0: with none)."""
        if before:
            self._leases[before].keys -= 1
            self._dirty[before] = None
            self._store.delete(LEASED, pack_revision(before) + key)
        if after:
            self._leases[after].keys += 1
            self._dirty[after] = None
            self._store.put(LEASED, pack_revision(after) + key, b"")

    def keys_of(self, lease: int) -> list[bytes]:
        """The keys that live with a lease, in order."""
        if not self._leases[lease].keys:
            return []
        first, last = pack_revision(lease), pack_revision(lease + 1)
        return [row[REVISION_BYTES:] for row, _ in self._store.scan(LEASED, first, last)]

    # --------------------------------------------------------------------------------------------------------- saving

    def save(self) -> None:
        """Write what has changed since the last call to the store."""
        if not self._dirty:
            return
        records = []
        for lease in sorted(self._dirty):
            key = pack_revision(lease)
            found = self._leases.get(lease)
            if found is None:
                self._store.delete(LEASES, key)
            else:
                records.append((key, _encode(found)))
        records.append((_COUNTERS_KEY, _encode(self._counters)))
        self._store.put_many(LEASES, records)
        self._dirty.clear()

    def canonical(self) -> bytes:
        """All leases as bytes that are equal on replicas at equal positions."""
        return _encode([self._counters, sorted(self._leases.items())])
