"""Locks and elections: places in a queue of keys that live with leases.

Theory of operation
-------------------
Whoever wants the lock (or to lead) puts a key of its own below the name, with its lease. The keys below a name form a
queue by the revisions at which they were created, and the first one is the holder. All others wait for the deletion of
the key before theirs, so the end of one wakes only one.

**Fencing.** A lease tells when a holder is gone, by clocks; and a holder that was paused may wake after that and act as
if nothing had happened. So every place has a *token*, the revision at which its key was created: larger than that of
every holder before. Whatever the lock protects should take the token with each request, remember the largest one seen,
and refuse smaller ones. Writes to this store are fenced without that: `transaction` of a lock, or its `condition` in
any transaction, take effect only while the key is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from replica.client.errors import (
    Compacted,
    ConditionFailed,
    InvalidArgument,
    LeadershipLost,
    LeaseLost,
    LockLost,
    NotAcquired,
)
from replica.client.leases import AsyncLease
from replica.client.ranges import Text, as_bytes
from replica.kv.operations import (
    Compare,
    Condition,
    Delete,
    Get,
    Got,
    KeyValue,
    Put,
    Range,
    Ranged,
    Simple,
    Transacted,
    Transaction,
    prefix_end,
)

if TYPE_CHECKING:
    from replica.client.store import AsyncStore

LOCKS: Final = b"locks/"
"""Below it lie the keys of locks: ``locks/NAME/LEASE``."""

ELECTIONS: Final = b"elections/"
"""Below it lie the keys of candidates: ``elections/NAME/LEASE``, with what each proclaims."""

TTL_S: Final = 10.0
"""How long a holder that has died keeps others waiting, unless told otherwise."""


def place_prefix(directory: bytes, name: Text) -> bytes:
    """What the keys of a queue begin with. Raises `InvalidArgument`."""
    chosen = as_bytes(name)
    if not chosen or b"/" in chosen:
        raise InvalidArgument(f"a name is not empty and has no slash in it, not {chosen!r}")
    return directory + chosen + b"/"


class Place:
    """One place in the queue of a name."""

    lost: type[LeaseLost] = LeaseLost
    what = "place"

    def __init__(self, store: AsyncStore, prefix: bytes, ttl_s: float, lease: AsyncLease | None, value: bytes) -> None:
        self._store = store
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._given = lease
        self._lease: AsyncLease | None = None
        self._value = value
        self._key = b""
        self._token = 0
        self._first = False

    # ------------------------------------------------------------------------------------------------------ the queue

    async def enter(self, timeout_s: float | None) -> int:
        """Take a place and wait until it is the first; returns its token.

        Raises:
            NotAcquired: it did not come to that within ``timeout_s``; the place was given up.
        """
        if self._lease is not None:
            raise InvalidArgument(f"the {self.what} is held, or waited for, by this object already")
        try:
            async with asyncio.timeout(timeout_s):
                self._lease = self._given or await self._store.lease(self._ttl_s)
                self._key = self._prefix + b"%016x" % self._lease.id
                await self._take_place()
                await self._wait_for_turn()
        except TimeoutError:
            await self.leave()
            raise NotAcquired(f"the {self.what} was held by others for {timeout_s:g} s") from None
        except BaseException:
            await asyncio.shield(self.leave())
            raise
        self._first = True
        return self._token

    async def _take_place(self) -> None:
        assert self._lease is not None
        done = await self._store.execute(
            Transaction(
                (Compare(self._key, "exists", "=", 0),),
                (Put(self._key, self._value, self._lease.id),),
                (Get(self._key),),
            )
        )
        assert isinstance(done, Transacted)
        if done.succeeded:
            self._token = done.revision
            return
        # With a lease that was given, another object of this program may stand here already.
        raise InvalidArgument(f"lease {self._lease.id} has a place there already: one lease, one place")

    async def _wait_for_turn(self) -> None:
        while True:
            before, revision = await self._before()
            if before is None:
                return
            async with self._store.watch(key=before.key, revision=revision + 1, puts=False) as watch:
                try:
                    await self._or_lost(watch.next())
                except Compacted:
                    continue

    async def _before(self) -> tuple[KeyValue | None, int]:
        """The place before this one, None for the first; and the revision of what was seen."""
        assert self._lease is not None
        ranged = await self._store.read(Range(self._prefix, prefix_end(self._prefix), keys_only=True))
        assert isinstance(ranged, Ranged)
        found = [item for item in ranged.items if item.create_revision < self._token]
        if all(item.key != self._key or item.create_revision != self._token for item in ranged.items):
            raise self.lost(self._lease.problem() or f"the key of the {self.what} was removed")
        self._lease.check()
        return max(found, key=lambda item: item.create_revision, default=None), ranged.revision

    async def _or_lost(self, wait: object) -> None:
        """Wait for something, but no longer than the lease lives."""
        assert self._lease is not None
        waiting = asyncio.ensure_future(wait)  # type: ignore[call-overload]
        losing = asyncio.ensure_future(self._lease.wait_lost())
        try:
            await asyncio.wait([waiting, losing], return_when=asyncio.FIRST_COMPLETED)
            if losing.done():
                raise self.lost(losing.result().reason)
            waiting.result()
        finally:
            for task in (waiting, losing):
                task.cancel()
            await asyncio.gather(waiting, losing, return_exceptions=True)

    async def leave(self) -> None:
        """Give the place up; no harm if it is gone."""
        lease, token, key = self._lease, self._token, self._key
        self._lease, self._token, self._first = None, 0, False
        if lease is None:
            return
        if lease is not self._given:
            if lease.problem() is None:
                await lease.revoke()
            else:
                lease.abandon()
        elif token:
            await self._store.execute(Transaction((Compare(key, "create", "=", token),), (Delete(key),)))

    # ------------------------------------------------------------------------------------------------------- holding

    @property
    def token(self) -> int:
        """The fencing token, larger than those of all holders before. Raises the place's error when it is not held."""
        self.check()
        return self._token

    @property
    def key(self) -> bytes:
        """The key of the place; empty before there is one."""
        return self._key

    @property
    def lease(self) -> AsyncLease:
        """The lease that the place lives with. Raises the place's error when there is none."""
        if self._lease is None:
            raise self.lost(f"the {self.what} is not held")
        return self._lease

    @property
    def held(self) -> bool:
        """Is it held, as far as this program's clock can tell?"""
        return self._first and self._lease is not None and self._lease.held

    def check(self) -> None:
        """Raises `LockLost` (of an election `LeadershipLost`) unless it is held, as far as this clock can tell."""
        if not self._first:
            raise self.lost(f"the {self.what} is not held")
        problem = self.lease.problem()
        if problem is not None:
            raise self.lost(problem)

    async def wait_lost(self) -> LeaseLost:
        """Return once the lease that the place lives with is lost (or the place was given up), with the reason."""
        return self.lost((await self.lease.wait_lost()).reason)

    @property
    def condition(self) -> Condition:
        """Holds where it is evaluated, in the store, if this place is there: fences any transaction."""
        if not self._token:
            raise self.lost(f"the {self.what} is not held")
        return Compare(self._key, "create", "=", self._token)

    async def transaction(
        self, then: Sequence[Simple], conditions: Sequence[Condition] = (), *, timeout_s: float | None = None
    ) -> Transacted:
        """Do ``then`` if the place is there and all ``conditions`` hold, atomically.

        Raises:
            LockLost, LeadershipLost: the place is gone; nothing was changed.
            ConditionFailed: one of the ``conditions`` did not hold; nothing was changed.
        """
        fence, key, token = self.condition, self._key, self._token
        done = await self._store.transaction((fence, *conditions), then, (Get(key),), timeout_s=timeout_s)
        if done.succeeded:
            return done
        (got,) = done.results
        assert isinstance(got, Got)
        if got.item is None or got.item.create_revision != token:
            self._first = False
            raise self.lost(f"the {self.what} with token {token} is not held any more")
        raise ConditionFailed("a condition of the transaction did not hold", got.item.mod_revision)


class AsyncLock(Place):
    """A lock by name, held by one program at a time. Made by `AsyncStore.lock`; for one task at a time."""

    lost = LockLost
    what = "lock"

    async def acquire(self, *, timeout_s: float | None = None) -> int:
        """Wait for the lock, and return its fencing token. Raises `NotAcquired` after ``timeout_s``."""
        return await self.enter(timeout_s)

    async def release(self) -> None:
        """Let others have the lock. No error if it was lost: who must know asks `check` before."""
        await self.leave()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


class AsyncElection(Place):
    """An election by name: candidates campaign, one leads, everybody may observe. Made by `AsyncStore.election`."""

    lost = LeadershipLost
    what = "leadership"

    async def campaign(self, value: Text = b"", *, timeout_s: float | None = None) -> int:
        """Stand as a candidate, and return when this one leads, with its fencing token."""
        self._value = self._store.value(value)
        return await self.enter(timeout_s)

    async def proclaim(self, value: Text, *, timeout_s: float | None = None) -> None:
        """Let observers see another value. Raises `LeadershipLost` if this candidate does not lead any more."""
        self.check()
        put = Put(self._key, self._store.value(value), self.lease.id)
        await self.transaction((put,), timeout_s=timeout_s)

    async def resign(self) -> None:
        """Lead no more, or stand no more."""
        await self.leave()

    async def leader(self) -> KeyValue | None:
        """The key of whoever leads, with what it proclaims; its ``create_revision`` is the token. None: nobody does."""
        leader, _ = await self._leader()
        return leader

    async def _leader(self) -> tuple[KeyValue | None, int]:
        ranged = await self._store.read(Range(self._prefix, prefix_end(self._prefix)))
        assert isinstance(ranged, Ranged)
        return min(ranged.items, key=_created, default=None), ranged.revision

    async def observe(self) -> AsyncIterator[KeyValue | None]:
        """Whoever leads, and each change of that or of what is proclaimed; None while nobody leads.

        Of several changes in quick succession only the last may be seen.
        """
        seen: KeyValue | None = None
        begun = False
        while True:
            leader, revision = await self._leader()
            if not begun or leader != seen:
                begun, seen = True, leader
                yield leader
            async with self._store.watch(self._prefix, revision=revision + 1) as watch:
                try:
                    await watch.next()
                except Compacted:
                    continue


def _created(item: KeyValue) -> int:
    return item.create_revision
