"""Optimistic transactions: read, decide, and commit if nothing that was read has changed.

All reads of a transaction show the store at one revision, that of the first, together with what the transaction itself
has written so far. The commit is one operation of the store: its conditions say that every key that was read still has
the modification revision it had, and that nothing in any range that was read was written or deleted since (so there are
no phantoms). It takes effect entirely or, with `Conflict`, not at all. A transaction that only reads commits nothing:
one revision is consistent by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from replica.client.errors import Compacted, Conflict, InvalidArgument, NotANumber
from replica.client.ranges import Text, as_bytes, behind, interval
from replica.kv.operations import (
    Add,
    Compare,
    Condition,
    Delete,
    DeleteRange,
    Get,
    Got,
    KeyValue,
    Put,
    Simple,
    Transacted,
    Transaction,
    Unchanged,
)

if TYPE_CHECKING:
    from replica.client.store import AsyncStore

R = TypeVar("R")

ATTEMPTS: Final = 16
"""How often `retry` runs a transaction before it lets the conflict through."""

RETRY_PAUSE_FIRST_S: Final = 0.001
RETRY_PAUSE_MAX_S: Final = 0.1


class Draft:
    """What a transaction has read and will write. Pure: knows no store and no loop."""

    def __init__(self) -> None:
        self.revision = 0
        """The revision that all reads show; 0 before the first."""
        self.empty = False
        """The first read found the store at revision 0: there was nothing, and nothing can be read at 0."""
        self._keys: dict[bytes, KeyValue | None] = {}
        self._ranges: dict[tuple[bytes, bytes], None] = {}
        self._done: list[Simple] = []
        """Operations before the last deletion of a range, and that deletion."""
        self._open: dict[bytes, Put | Delete | Add] = {}
        """Operations since then, one a key."""
        self._cleared: list[tuple[bytes, bytes]] = []
        self._written: dict[bytes, Put | Delete | Add] = {}
        """What this transaction has done to a key, over all its operations."""

    # ------------------------------------------------------------------------------------------------------ writing

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        self._note(Put(key, value, lease))

    def delete(self, key: bytes) -> None:
        self._note(Delete(key))

    def delete_range(self, first: bytes, last: bytes) -> None:
        self._done += [*self._open.values(), DeleteRange(first, last)]
        self._open.clear()
        self._cleared.append((first, last))
        for key in [key for key in self._written if _within(key, first, last)]:
            self._written[key] = Delete(key)

    def add(self, key: bytes, delta: int) -> None:
        before = self._written.get(key)
        if isinstance(before, Put):
            self._note(Put(key, b"%d" % (_number(before.value, key) + delta), before.lease))
        elif isinstance(before, Delete) or (before is None and self._is_cleared(key)):
            self._note(Put(key, b"%d" % delta))
        else:
            self._note(Add(key, delta + (before.delta if before is not None else 0)))

    def _note(self, operation: Put | Delete | Add) -> None:
        self._open.pop(operation.key, None)
        self._open[operation.key] = operation
        self._written[operation.key] = operation

    # ------------------------------------------------------------------------------------------------------ reading

    def known(self, key: bytes) -> bool:
        """Whether `item` can tell without asking the store."""
        written = self._written.get(key)
        return key in self._keys or isinstance(written, Put | Delete) or self._is_cleared(key) or self.empty

    def record(self, key: bytes, item: KeyValue | None, revision: int) -> None:
        """The store holds ``item`` at the transaction's revision."""
        self._pin(revision)
        self._keys[key] = item

    def _pin(self, revision: int) -> None:
        self.revision = self.revision or revision
        self.empty = not self.revision

    def item(self, key: bytes) -> KeyValue | None:
        """The key as this transaction sees it."""
        if self.empty and key not in self._written and not self._is_cleared(key):
            self._keys[key] = None
        base = None if self._is_cleared(key) else self._keys.get(key)
        return self._overlay(key, base)

    def record_range(self, first: bytes, last: bytes, revision: int) -> None:
        """The interval was read."""
        self._pin(revision)
        self._ranges[first, last] = None

    def touches(self, first: bytes, last: bytes) -> bool:
        """Whether something in the interval was written by this transaction."""
        return bool(self._cleared) or any(_within(key, first, last) for key in self._written)

    def merge(self, items: Sequence[KeyValue], first: bytes, last: bytes) -> list[KeyValue]:
        """What a range read holds as this transaction sees it, in order of the keys."""
        stored = {item.key: item for item in items if not self._is_cleared(item.key)}
        inside = {key for key in self._written if _within(key, first, last)}
        merged = (self._overlay(key, stored.get(key)) for key in sorted(stored.keys() | inside))
        return [item for item in merged if item is not None]

    def _overlay(self, key: bytes, base: KeyValue | None) -> KeyValue | None:
        written = self._written.get(key)
        if written is None:
            return base
        if isinstance(written, Delete):
            return None
        if isinstance(written, Put):
            value = written.value
        else:
            value = b"%d" % ((_number(base.value, key) if base is not None else 0) + written.delta)
        # Its revisions are not known before the commit: 0 says so.
        return KeyValue(key, value, 0, 0, 0, written.lease if isinstance(written, Put) else 0)

    def _is_cleared(self, key: bytes) -> bool:
        return any(_within(key, first, last) for first, last in self._cleared)

    # --------------------------------------------------------------------------------------------------- committing

    def transaction(self) -> Transaction | None:
        """The operation that commits; None when nothing was written."""
        then = (*self._done, *self._open.values())
        if not then:
            return None
        conditions: list[Condition] = [Unchanged(first, last, self.revision) for first, last in self._ranges]
        for key, item in self._keys.items():
            if not any(_within(key, first, last) for first, last in self._ranges):
                conditions.append(Compare(key, "mod", "=", item.mod_revision if item is not None else 0))
        return Transaction(tuple(conditions), then)


class AsyncTransaction:
    """A transaction in the making; made by `AsyncStore.txn`. For one task at a time."""

    def __init__(self, store: AsyncStore, timeout_s: float | None) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._draft = Draft()
        self._ended = False
        self.result: Transacted | None = None
        """The outcome, once it has committed something."""

    @property
    def revision(self) -> int:
        """Where the transaction reads (0: it has not read); once committed, the revision of what it wrote."""
        return self.result.revision if self.result is not None else self._draft.revision

    async def get(self, key: Text) -> KeyValue | None:
        """The key as this transaction sees it. What it wrote itself has revision 0."""
        self._check()
        name, draft = as_bytes(key), self._draft
        if not draft.known(name):
            got = await self._get(Get(name, draft.revision))
            draft.record(name, got.item, got.revision)
        return draft.item(name)

    async def range(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> list[KeyValue]:
        """The interval as this transaction sees it, in order.

        With a ``limit`` only what lies up to the last item returned counts as read.
        """
        self._check()
        draft = self._draft
        start, end = interval(prefix, first, last)
        # Where own writes may hide or add items, the whole interval is needed to know the first ones.
        bound = 0 if draft.touches(start, end) else limit
        items: list[KeyValue] = []
        revision = 0
        try:
            if not draft.empty:
                found = self._store.range(
                    first=start,
                    last=end,
                    limit=bound,
                    reverse=reverse,
                    revision=draft.revision,
                    timeout_s=self._timeout_s,
                )
                items = await found.all()
                revision = found.revision or 0
        except Compacted as error:
            raise self._overtaken(error) from None
        if bound and len(items) == bound:
            edge = items[-1].key
            recorded = (edge, end) if reverse else (start, behind(edge))
        else:
            recorded = (start, end)
        draft.record_range(*recorded, revision)
        merged = draft.merge(items, start, end) if not bound else items
        if reverse and not bound:
            merged.reverse()
        return merged[:limit] if limit else merged

    def put(self, key: Text, value: Text, *, lease: int = 0) -> None:
        """Set a key at commit."""
        self._check()
        self._draft.put(self._store.key(key), self._store.value(value), lease)

    def delete(self, key: Text) -> None:
        """Remove a key at commit; no harm if there is none."""
        self._check()
        self._draft.delete(self._store.key(key))

    def delete_range(self, prefix: Text | None = None, *, first: Text | None = None, last: Text | None = None) -> None:
        """Remove an interval at commit, including keys that others put there meanwhile."""
        self._check()
        self._draft.delete_range(*interval(prefix, first, last))

    def add(self, key: Text, delta: int) -> None:
        """Add to a decimal integer at commit. Not having read the key, it conflicts with nobody."""
        self._check()
        self._draft.add(self._store.key(key), delta)

    async def commit(self) -> Transacted | None:
        """Commit now; leaving the ``with`` block does it otherwise. None when there was nothing to write.

        Raises:
            Conflict: something that was read has changed; nothing was written.
        """
        self._check()
        self._ended = True
        operation = self._draft.transaction()
        if operation is None:
            return None
        result = await self._store.execute(operation, timeout_s=self._timeout_s)
        assert isinstance(result, Transacted)
        if not result.succeeded:
            raise Conflict(f"what the transaction had read at revision {self._draft.revision} was changed since")
        self.result = result
        return result

    def abandon(self) -> None:
        """End the transaction without writing anything."""
        self._ended = True

    @property
    def ended(self) -> bool:
        """It was committed or abandoned."""
        return self._ended

    async def _get(self, operation: Get) -> Got:
        try:
            got = await self._store.read(operation, timeout_s=self._timeout_s)
        except Compacted as error:
            raise self._overtaken(error) from None
        assert isinstance(got, Got)
        return got

    def _overtaken(self, error: Compacted) -> Conflict:
        return Conflict(f"revision {self._draft.revision}, where the transaction reads, was compacted: {error.reason}")

    def _check(self) -> None:
        if self._ended:
            raise InvalidArgument("the transaction has ended")


@asynccontextmanager
async def transaction(store: AsyncStore, timeout_s: float | None) -> AsyncIterator[AsyncTransaction]:
    """Commits at the end of the block, unless the block raised."""
    txn = AsyncTransaction(store, timeout_s)
    try:
        yield txn
        if not txn.ended:
            await txn.commit()
    finally:
        txn.abandon()


async def retry(
    store: AsyncStore, work: Callable[[AsyncTransaction], Awaitable[R]], attempts: int, jitter: Callable[[], float]
) -> R:
    """Run ``work`` in a transaction until it commits without a conflict."""
    for pause_s in pauses(attempts, jitter):
        try:
            async with transaction(store, None) as txn:
                result = await work(txn)
        except Conflict:
            if pause_s is None:
                raise
            await asyncio.sleep(pause_s)
        else:
            return result
    raise InvalidArgument("a transaction needs at least one attempt")


def pauses(attempts: int, jitter: Callable[[], float]) -> Iterator[float | None]:
    """One item an attempt: how long to wait after it fails, longer and longer; None after the last."""
    pause_s = RETRY_PAUSE_FIRST_S
    for _ in range(attempts - 1):
        yield pause_s * (0.5 + jitter())
        pause_s = min(2 * pause_s, RETRY_PAUSE_MAX_S)
    if attempts > 0:
        yield None


def _within(key: bytes, first: bytes, last: bytes) -> bool:
    return first <= key and (not last or key < last)


def _number(value: bytes, key: bytes) -> int:
    try:
        return int(value)
    except ValueError:
        raise NotANumber(f"the value of {key!r} is not a decimal integer") from None
