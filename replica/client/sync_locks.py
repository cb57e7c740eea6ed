"""Leases, locks and elections for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from replica.client.errors import LeaseLost
from replica.client.leases import AsyncLease
from replica.client.locks import AsyncElection, AsyncLock
from replica.client.ranges import Text
from replica.kv.operations import Condition, KeyValue, Simple, Transacted

if TYPE_CHECKING:
    from replica.client.sync import Background, Store

P = TypeVar("P", AsyncLock, AsyncElection)


class Lease:
    """A lease that this program holds, renewed in the background. Made by `Store.lease`; see `AsyncLease`."""

    def __init__(self, store: Store, lease: AsyncLease) -> None:
        self._store = store
        self._lease = lease

    @property
    def id(self) -> int:
        """What `put(..., lease=...)` takes."""
        return self._lease.id

    @property
    def ttl_s(self) -> float:
        """How long it lives without a renewal."""
        return self._lease.ttl_s

    @property
    def held(self) -> bool:
        """Does the lease live, for certain?"""
        return self._lease.held

    def check(self) -> None:
        """Raises `LeaseLost` unless the lease lives for certain."""
        self._lease.check()

    def wait_lost(self, *, timeout_s: float | None = None) -> LeaseLost:
        """Return once the lease is lost, with the reason. Raises `TimeoutError`."""

        async def wait() -> LeaseLost:
            async with asyncio.timeout(timeout_s):
                return await self._lease.wait_lost()

        return self._store._call(lambda _store: wait())

    def keep_alive(self, *, timeout_s: float | None = None) -> None:
        """Renew the lease now. Raises `LeaseLost` when it is gone."""
        self._lease.check()
        self._store._call(lambda _store: self._lease.keep_alive(timeout_s=timeout_s))

    def revoke(self, *, timeout_s: float | None = None) -> None:
        """End the lease, and its keys with it. One that has ended already is no error."""
        self._store._call(lambda _store: self._lease.revoke(timeout_s=timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.revoke()

    def __repr__(self) -> str:
        return repr(self._lease).replace("AsyncLease", "Lease")


class _Place(Generic[P]):
    """What a lock and a candidate have in common."""

    _kind: type[P]

    def __init__(self, store: Store, name: Text, ttl_s: float, lease: Lease | None) -> None:
        self._store = store
        self._name = name
        self._ttl_s = ttl_s
        self._given = lease
        self._background: Background | None = None
        self._place: P | None = None

    def _make(self, background: Background, lease: AsyncLease | None) -> P:
        raise NotImplementedError

    def _fresh(self) -> P:
        """The place on the present loop; in a child process another one than the parent's."""
        background = self._store._running()
        if self._place is None or self._background is not background:
            self._background = background
            self._place = self._make(background, None if self._given is None else self._given._lease)
        return self._place

    def _present(self) -> P:
        if self._place is None:
            return self._fresh()
        return self._place

    @property
    def token(self) -> int:
        """The fencing token, larger than those of all holders before. Raises the place's error when it is not held."""
        return self._present().token

    @property
    def key(self) -> bytes:
        """The key of the place; empty before there is one."""
        return self._present().key

    @property
    def held(self) -> bool:
        """Is it held, as far as this program's clock can tell?"""
        return self._present().held

    def check(self) -> None:
        """Raises `LockLost` (of an election `LeadershipLost`) unless it is held, as far as this clock can tell."""
        self._present().check()

    def wait_lost(self, *, timeout_s: float | None = None) -> LeaseLost:
        """Return once the lease that the place lives with is lost, with the reason. Raises `TimeoutError`."""
        place = self._present()

        async def wait() -> LeaseLost:
            async with asyncio.timeout(timeout_s):
                return await place.wait_lost()

        return self._store._call(lambda _store: wait())

    @property
    def condition(self) -> Condition:
        """Fences any transaction; see `AsyncLock.condition`."""
        return self._present().condition

    def transaction(
        self, then: Sequence[Simple], conditions: Sequence[Condition] = (), *, timeout_s: float | None = None
    ) -> Transacted:
        """Do ``then`` if the place is there and all ``conditions`` hold; see `AsyncLock.transaction`."""
        place = self._present()
        return self._store._call(lambda _store: place.transaction(then, conditions, timeout_s=timeout_s))

    def _leave(self) -> None:
        place = self._place
        if place is not None and self._background is self._store._background:
            self._store._call(lambda _store: place.leave())


class Lock(_Place[AsyncLock]):
    """A lock by name. Made by `Store.lock`; see `AsyncLock`."""

    def _make(self, background: Background, lease: AsyncLease | None) -> AsyncLock:
        return background.store.lock(self._name, ttl_s=self._ttl_s, lease=lease)

    def acquire(self, *, timeout_s: float | None = None) -> int:
        """Wait for the lock, and return its fencing token. Raises `NotAcquired` after ``timeout_s``."""
        place = self._fresh()
        return self._store._call(lambda _store: place.acquire(timeout_s=timeout_s))

    def release(self) -> None:
        """Let others have the lock. No error if it was lost: who must know asks `check` before."""
        self._leave()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Election(_Place[AsyncElection]):
    """An election by name. Made by `Store.election`; see `AsyncElection`."""

    def _make(self, background: Background, lease: AsyncLease | None) -> AsyncElection:
        return background.store.election(self._name, ttl_s=self._ttl_s, lease=lease)

    def campaign(self, value: Text = b"", *, timeout_s: float | None = None) -> int:
        """Stand as a candidate, and return when this one leads, with its fencing token."""
        place = self._fresh()
        return self._store._call(lambda _store: place.campaign(value, timeout_s=timeout_s))

    def proclaim(self, value: Text, *, timeout_s: float | None = None) -> None:
        """Let observers see another value. Raises `LeadershipLost` if this candidate does not lead any more."""
        place = self._present()
        self._store._call(lambda _store: place.proclaim(value, timeout_s=timeout_s))

    def resign(self) -> None:
        """Lead no more, or stand no more."""
        self._leave()

    def leader(self) -> KeyValue | None:
        """The key of whoever leads; see `AsyncElection.leader`."""
        place = self._fresh()
        return self._store._call(lambda _store: place.leader())

    def observe(self) -> Iterator[KeyValue | None]:
        """Whoever leads, and each change of that; see `AsyncElection.observe`."""
        seen: AsyncIterator[KeyValue | None] = self._fresh().observe()

        async def following() -> Any:
            return await anext(seen)

        while True:
            yield self._store._call(lambda _store: following())
