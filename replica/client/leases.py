"""Leases as programs hold them: renewed in the background, and lost for certain before anybody else can think so.

A lease counts as held until its time has passed since its last successful renewal was *sent*: the cluster counts from
later on, so it never ends a lease that its holder still believes in (as far as clocks of both run alike). When the
holder was not run for a while (stopped, suspended with its machine), it finds that out at the next question, `check`,
whatever its timers have had time to do. What matters beyond all clocks are fencing tokens (`replica.client.locks`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from replica.client.errors import Closed, InvalidArgument, LeaseLost, LeaseUnknown, SynodError
from replica.kv.operations import LEASE_TTL_MS_MAX, GrantLease, KeepAlive, LeaseGranted, RevokeLease

if TYPE_CHECKING:
    from replica.client.store import AsyncStore

logger = logging.getLogger("replica.client")

RENEWALS: Final = 3
"""A lease is renewed so many times within its time to live."""

RETRY_S: Final = 0.1
"""After a renewal that failed, the next follows so soon."""


def now() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class AsyncLease:
    """A lease that this program holds. Made by `AsyncStore.lease`."""

    def __init__(
        self,
        store: AsyncStore,
        granted: LeaseGranted,
        sent: float,
        *,
        keep_alive: bool,
        on_lost: Callable[[LeaseLost], object] | None,
    ) -> None:
        self._store = store
        self.id = granted.lease
        """What `put(..., lease=...)` takes."""
        self.ttl_s = granted.ttl_ms / 1000
        """How long it lives without a renewal."""
        self._until = sent + self.ttl_s
        self._on_lost = on_lost
        self._process = os.getpid()
        self._lost: LeaseLost | None = None
        self._revoked = False
        self._watchers: list[asyncio.Future[None]] = []
        self._keeper = asyncio.get_running_loop().create_task(self._keep(renew=keep_alive), name="synod-lease")

    @property
    def held(self) -> bool:
        """Does the lease live, for certain?"""
        return self.problem() is None

    def problem(self) -> str | None:
        """Why the lease may have ended; None when it lives for certain."""
        if self._process != os.getpid():
            return f"lease {self.id} belongs to the process that it was granted to"
        if self._revoked:
            return f"lease {self.id} was revoked"
        if self._lost is not None:
            return self._lost.reason
        if now() >= self._until:
            return f"lease {self.id} was not renewed within its {self.ttl_s:g} s"
        return None

    def check(self) -> None:
        """Raises `LeaseLost` unless the lease lives for certain."""
        problem = self.problem()
        if problem is not None:
            raise LeaseLost(problem)

    async def wait_lost(self) -> LeaseLost:
        """Return once the lease is lost, with the reason."""
        while (problem := self.problem()) is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(future)
            await future
        return LeaseLost(problem)

    async def keep_alive(self, *, timeout_s: float | None = None) -> None:
        """Renew the lease now. Raises `LeaseLost` when it is gone."""
        self.check()
        sent = now()
        try:
            await self._store.execute(KeepAlive(self.id), timeout_s=timeout_s)
        except LeaseUnknown as error:
            self._lose(error.reason)
            raise LeaseLost(error.reason) from None
        self._until = max(self._until, sent + self.ttl_s)

    async def revoke(self, *, timeout_s: float | None = None) -> None:
        """End the lease, and its keys with it. One that has ended already is no error."""
        if self._process != os.getpid():
            raise LeaseLost(f"lease {self.id} belongs to the process that it was granted to")
        self._stop()
        self._revoked = True
        self._wake()
        with suppress(LeaseUnknown):
            await self._store.execute(RevokeLease(self.id), timeout_s=timeout_s)

    def abandon(self) -> None:
        """Renew the lease no more; it ends when its time has run out."""
        self._stop()

    async def _keep(self, *, renew: bool) -> None:
        pause_s = self.ttl_s / RENEWALS
        while True:
            left_s = self._until - now()
            if left_s <= 0:
                self._lose(f"lease {self.id} was not renewed within its {self.ttl_s:g} s")
                return
            await asyncio.sleep(min(pause_s, left_s) if renew else left_s)
            if not renew or now() >= self._until:
                continue
            try:
                # An answer that comes after the lease has ended is of no use.
                await self.keep_alive(timeout_s=min(self.ttl_s / RENEWALS, max(RETRY_S, self._until - now())))
                pause_s = self.ttl_s / RENEWALS
            except LeaseLost:
                return
            except Closed:
                self._lose(f"lease {self.id} is renewed no more: the store was closed")
                return
            except SynodError as error:
                logger.debug("lease %d was not renewed: %s", self.id, error)
                pause_s = min(RETRY_S, self.ttl_s / RENEWALS)

    def _lose(self, reason: str) -> None:
        if self._lost is not None or self._revoked:
            return
        self._lost = LeaseLost(reason)
        self._stop()
        self._wake()
        if self._on_lost is not None:
            try:
                self._on_lost(self._lost)
            except Exception:
                logger.exception("what is called when a lease is lost failed")

    def _wake(self) -> None:
        for future in self._watchers:
            if not future.done():
                future.set_result(None)
        self._watchers.clear()

    def _stop(self) -> None:
        if self._keeper is not asyncio.current_task():
            self._keeper.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.revoke()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.ttl_s:g} s{'' if self.held else ', lost'}>"


class LeaseRequest:
    """What `AsyncStore.lease` returns: await it for a lease, or enter it for one that ends with the block."""

    def __init__(
        self,
        store: AsyncStore,
        ttl_s: float,
        lease: int,
        *,
        keep_alive: bool,
        on_lost: Callable[[LeaseLost], object] | None,
        timeout_s: float | None,
    ) -> None:
        self._store = store
        self._operation = GrantLease(milliseconds(ttl_s), lease)
        self._keep_alive = keep_alive
        self._on_lost = on_lost
        self._timeout_s = timeout_s
        self._lease: AsyncLease | None = None

    def __await__(self) -> Generator[Any, None, AsyncLease]:
        return self._grant().__await__()

    async def _grant(self) -> AsyncLease:
        sent = now()
        granted = await self._store.execute(self._operation, timeout_s=self._timeout_s)
        assert isinstance(granted, LeaseGranted)
        return AsyncLease(self._store, granted, sent, keep_alive=self._keep_alive, on_lost=self._on_lost)

    async def __aenter__(self) -> AsyncLease:
        self._lease = await self._grant()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lease is not None
        await self._lease.revoke()


def milliseconds(ttl_s: float) -> int:
    """A time to live as the store counts it. Raises `InvalidArgument`."""
    ttl_ms = round(ttl_s * 1000)
    if not 1 <= ttl_ms <= LEASE_TTL_MS_MAX:
        raise InvalidArgument(f"a lease lives from 1 ms to {LEASE_TTL_MS_MAX // 1000} s, not {ttl_s:g} s")
    return ttl_ms
