"""A watch as programs see it: batches of changes, one a revision, to be iterated over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from replica.client.errors import Closed
from replica.client.watches import WatchOptions
from replica.client.watching import LiveWatch
from replica.kv.operations import WatchBatch, WatchEvent

if TYPE_CHECKING:
    from replica.client.store import AsyncStore


class AsyncWatch:
    """Made by `AsyncStore.watch`. For one task at a time.

    It is a place in the history and can be left and taken up again: cancelling a wait loses nothing, and in a child
    process or on another event loop it goes on from where it was.
    """

    def __init__(self, store: AsyncStore, options: WatchOptions, revision: int) -> None:
        self._store = store
        self._options = options
        self._revision = revision
        self._live: LiveWatch | None = None
        self._closed = False

    @property
    def revision(self) -> int:
        """The first revision that was not yielded yet; 0 before a watch of what comes next has begun."""
        return self._revision

    async def begin(self) -> int:
        """Wait until a replica serves the watch; returns the first revision that it tells of.

        Whatever happens from then on is told.
        """
        self._revision = await self._running().begun()
        return self._revision

    async def next(self) -> WatchBatch:
        """The next batch, once there is one. Raises as `AsyncStore.watch` says, and `Closed`."""
        batch = await self._running().next()
        self._revision = batch.revision + 1
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        return await self.next()

    async def events(self) -> AsyncIterator[WatchEvent]:
        """The events one by one; those of one revision stand together, and carry it as ``item.mod_revision``."""
        while True:
            for event in (await self.next()).events:
                yield event

    def close(self) -> None:
        """End the watch."""
        self._closed = True
        if self._live is not None and self._live.watching is self._store._watching:
            self._live.close()
        self._live = None

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> LiveWatch:
        if self._closed:
            raise Closed("the watch was closed")
        watching = self._store.watching()
        if self._live is None or self._live.watching is not watching:
            self._live = watching.open(self._options, self._revision)
        return self._live
