"""A unit of work: everything that one call changes, as one transaction of the store.

A unit first tries its luck. What it needs to hold (this object exists, that name is free, this type is as I know it) is
put as conditions, not read beforehand, so that a create is one message to the cluster and back. Where a condition does
not hold nothing has happened, and the work is built anew, this time reading what it depends on, all at one revision; so
the reading attempt finds the reason and raises the proper error, or finds that somebody was merely quicker and goes on.

Every unit writes a *record* of itself, for the audit trail, under a key that it chose before its first attempt and on
condition that the key is absent. That makes retries harmless: of all attempts of one call, those whose answer was lost
included, at most one takes effect, and the record says which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from replica.client import Compare, Delete, Get, KeyValue, Put, Unchanged
from replica.client.errors import NotCommitted
from replica.kv.operations import TRANSACTION_OPERATIONS_MAX, Condition, Simple, Transaction, prefix_end
from replica.metadata.errors import UnitTooLarge

if TYPE_CHECKING:
    from replica.metadata.core import Core

PARTS_MAX: Final = TRANSACTION_OPERATIONS_MAX
"""Conditions and writes of one unit."""

Missing = Callable[[], NotCommitted]
Taken = Callable[[KeyValue | None], NotCommitted]


class Unit:
    """One attempt. ``reading`` says that it reads what it depends on; the first attempt does not, unless it must."""

    def __init__(self, core: Core, *, reading: bool) -> None:
        self._core = core
        self.reading = reading
        self.revision = 0
        """Where it reads; 0 before the first read."""
        self.touched: dict[int, None] = {}
        """Objects that it creates or changes, for the audit trail."""
        self.created: set[int] = set()
        """Objects that come to be with it."""
        self._conditions: dict[tuple[bytes, str], Condition] = {}
        self._writes: dict[bytes, Put | Delete] = {}
        self._known: dict[bytes, KeyValue | None] = {}

    # ------------------------------------------------------------------------------------------------------ reading

    async def look(self, key: bytes) -> KeyValue | None:
        """The key at this unit's revision, without depending on it."""
        if key not in self._known:
            got = await self._core.fetch(Get(key, self.revision))
            self.revision = self.revision or got.revision
            self._known[key] = got.item
        return self._known[key]

    async def look_ahead(self, keys: Iterable[bytes]) -> None:
        """Read many keys at once that will be looked at, at this unit's revision."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._known]
        if missing and not self.revision:
            await self.look(missing.pop())
        self._known.update(zip(missing, await self._core.fetch_all(missing, self.revision), strict=True))

    async def get(self, key: bytes) -> KeyValue | None:
        """The key at this unit's revision; the unit takes effect only if it is unchanged since."""
        item = await self.look(key)
        self.unchanged(key, item.mod_revision if item is not None else 0)
        return item

    async def range(self, prefix: bytes) -> list[KeyValue]:
        """All keys with ``prefix``; the unit takes effect only if none was written, added or deleted since."""
        found = self._core.store.range(prefix, revision=self.revision)
        items = await found.all()
        self.revision = self.revision or found.revision or 0
        first, last = prefix, prefix_end(prefix)
        self._conditions[first, "range"] = Unchanged(first, last, self.revision)
        return items

    # --------------------------------------------------------------------------------------------------- conditions

    def unchanged(self, key: bytes, revision: int) -> None:
        """Only if the key was last modified at ``revision`` (0: there is none)."""
        self._conditions[key, "mod"] = Compare(key, "mod", "=", revision)

    async def present(self, key: bytes, missing: Missing) -> None:
        """Only if there is such a key, whatever becomes of its value meanwhile."""
        if isinstance(self._writes.get(key), Put):
            return
        if self.reading and await self.look(key) is None:
            raise missing()
        self._conditions[key, "exists"] = Compare(key, "exists", "=", 1)

    async def absent(self, key: bytes, taken: Taken) -> None:
        """Only if there is no such key."""
        if isinstance(self._writes.get(key), Put):
            raise taken(None)
        if self.reading and (item := await self.look(key)) is not None:
            raise taken(item)
        self._conditions[key, "exists"] = Compare(key, "exists", "=", 0)

    # ------------------------------------------------------------------------------------------------------ writing

    def put(self, key: bytes, value: bytes = b"", *, lease: int = 0) -> None:
        """Set a key."""
        self._writes[key] = Put(key, value, lease)

    def delete(self, key: bytes) -> None:
        """Remove a key."""
        self._writes[key] = Delete(key)

    def pending(self, key: bytes) -> bytes | None:
        """What this unit itself sets the key to; None when it does not."""
        written = self._writes.get(key)
        return written.value if isinstance(written, Put) else None

    @property
    def empty(self) -> bool:
        """There is nothing to write."""
        return not self._writes

    def operation(self, marker: bytes, record: bytes) -> Transaction:
        """The transaction. When it does not take effect it answers what stands at ``marker``.

        Raises:
            UnitTooLarge: it has more parts than the store takes.
        """
        conditions = (*self._conditions.values(), Compare(marker, "exists", "=", 0))
        writes: tuple[Simple, ...] = (*self._writes.values(), Put(marker, record))
        parts = len(conditions) + len(writes) + 1
        if parts > PARTS_MAX:
            raise UnitTooLarge(f"this is {parts} conditions and writes; one transaction takes {PARTS_MAX}")
        return Transaction(conditions, writes, (Get(marker),))


Build = Callable[[Unit], Awaitable[object]]
