"""Watches for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from replica.client.errors import Closed, SynodError
from replica.client.watch import AsyncWatch
from replica.kv.operations import WatchBatch, WatchEvent

if TYPE_CHECKING:
    from replica.client.sync import Background, Store


class Watch:
    """Made by `Store.watch`: ``for batch in watch``. For one thread at a time. See `AsyncWatch`."""

    def __init__(self, store: Store, arguments: dict[str, Any]) -> None:
        self._store = store
        self._arguments = arguments
        self._revision: int = arguments["revision"]
        self._background: Background | None = None
        self._watch: AsyncWatch | None = None
        self._closed = False

    @property
    def revision(self) -> int:
        """The first revision that was not yielded yet; 0 before a watch of what comes next has begun."""
        return self._revision

    def begin(self) -> int:
        """See `AsyncWatch.begin`."""
        watch = self._running()
        self._revision = self._store._call(lambda _store: watch.begin())
        return self._revision

    def next(self, *, timeout_s: float | None = None) -> WatchBatch:
        """The next batch, once there is one. Raises `TimeoutError` when there is none within ``timeout_s``."""
        watch = self._running()

        async def wait() -> WatchBatch:
            async with asyncio.timeout(timeout_s):
                return await watch.next()

        try:
            batch = self._store._call(lambda _store: wait())
        except (SynodError, TimeoutError):
            raise
        except BaseException:
            # Interrupted: a batch may be on its way to this thread. The watch begins again behind the last that came.
            self._watch = None
            raise
        self._revision = batch.revision + 1
        return batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchBatch:
        return self.next()

    def events(self) -> Iterator[WatchEvent]:
        """See `AsyncWatch.events`."""
        while True:
            yield from self.next().events

    def close(self) -> None:
        """End the watch."""
        self._closed = True
        watch, self._watch = self._watch, None
        if watch is not None and self._background is self._store._background:

            async def close() -> None:
                watch.close()

            self._store._call(lambda _store: close())

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> AsyncWatch:
        if self._closed:
            raise Closed("the watch was closed")
        background = self._store._running()
        if self._watch is None or self._background is not background:
            # In a child process, too: it goes on from where the parent was.
            self._background = background
            self._watch = background.store.watch(**{**self._arguments, "revision": self._revision})
        return self._watch
