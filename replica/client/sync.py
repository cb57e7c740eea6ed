"""The synchronous face: the same store, driven by an event loop in a thread of its own.

The thread starts with the first operation and belongs to the object. Any number of threads may share one object: what
they ask for at the same time travels together. It works where an event loop is already running, as in a notebook: the
caller's loop is not used, and no policy is set.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from replica.client.errors import Closed, Conflict, InvalidArgument, LeaseLost
from replica.client.forking import GUARD
from replica.client.locks import ELECTIONS, LOCKS, TTL_S, place_prefix
from replica.client.options import Consistency, OptionFields, Options, make_options
from replica.client.port import PortFactory, open_port
from replica.client.ranges import AsyncRange, Text
from replica.client.status import ReplicaStatus
from replica.client.store import AsyncStore
from replica.client.sync_locks import Election, Lease, Lock
from replica.client.sync_watch import Watch
from replica.client.transaction import ATTEMPTS, AsyncTransaction, pauses
from replica.kv.operations import (
    Added,
    AnyResult,
    Compacted,
    Condition,
    Deleted,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseRevoked,
    ReadOperation,
    Simple,
    Transacted,
    Written,
)

R = TypeVar("R")

JOIN_TIMEOUT_S: Final = 10.0
"""How long `close` waits for the thread after the loop was told to stop."""


class Background:
    """An event loop in a daemon thread, with the store that lives there."""

    def __init__(self, url: str, options: Options, opener: PortFactory) -> None:
        self.store = AsyncStore(url, options, opener=opener)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="synod-client", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            # grpc may have tasks under way whose stream has ended: they come to their end as under asyncio.run.
            left = asyncio.all_tasks(self.loop)
            for task in left:
                task.cancel()
            if left:
                self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self.loop.close()

    def call(self, start: Callable[[], Awaitable[R]]) -> R:
        """Run ``start`` on the loop and wait for what it returns. An interrupt of the waiting gives the call up."""
        if threading.current_thread() is self.thread:
            raise InvalidArgument("the synchronous store cannot be used on its own thread: it would wait for itself")

        async def run() -> R:
            return await start()

        future: ThreadFuture[R] = asyncio.run_coroutine_threadsafe(run(), self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Close the store and end the thread. May be called more than once."""
        if self.loop.is_closed() or not self.thread.is_alive():
            return
        if threading.current_thread() is self.thread:
            # The last reference went away here, where nobody can wait for the goodbye.
            self.loop.call_soon(self.loop.stop)
            return
        try:
            self.call(self.store.close)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(JOIN_TIMEOUT_S)


class Store:
    """A client of one cluster for programs without an event loop. Made by `connect`; nothing is contacted before the
    first operation.

    May be shared by threads, survives a fork (the child begins anew, with a session of its own) and pickling (which
    keeps the URL and the options), and is closed when the interpreter exits. Methods are those of `AsyncStore`, and
    wait for their results.
    """

    def __init__(self, url: str, options: Options, *, opener: PortFactory = open_port) -> None:
        self.url = url
        self.options = options
        self._opener = opener
        self._background: Background | None = None
        self._finalizer: weakref.finalize[[], Any] | None = None
        self._lock = threading.Lock()
        self._closed = False
        opener(url, options.port_options())  # a URL that makes no sense is refused where it is given
        GUARD.watch_face(self)

    # ------------------------------------------------------------------------------------------------------ writing

    def put(
        self,
        key: Text,
        value: Text,
        *,
        if_revision: int | None = None,
        lease: int = 0,
        previous: bool = False,
        timeout_s: float | None = None,
    ) -> Written:
        """See `AsyncStore.put`."""
        return self._call(
            lambda store: store.put(
                key, value, if_revision=if_revision, lease=lease, previous=previous, timeout_s=timeout_s
            )
        )

    def put_many(self, items: Sequence[tuple[Text, Text]], *, timeout_s: float | None = None) -> list[Written]:
        """Set many keys, each by itself but all on their way together: far quicker than one after the other.

        Waits for all of them. Raises the error of the first that failed; the others may have taken effect.
        """

        async def run(store: AsyncStore) -> list[Written]:
            futures = [store.put(key, value, timeout_s=timeout_s) for key, value in items]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
            return [future.result() for future in futures]

        return self._call(run)

    def delete(
        self, key: Text, *, if_revision: int | None = None, previous: bool = False, timeout_s: float | None = None
    ) -> Deleted:
        """See `AsyncStore.delete`."""
        return self._call(
            lambda store: store.delete(key, if_revision=if_revision, previous=previous, timeout_s=timeout_s)
        )

    def delete_range(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        previous: bool = False,
        timeout_s: float | None = None,
    ) -> Deleted:
        """See `AsyncStore.delete_range`."""
        return self._call(
            lambda store: store.delete_range(prefix, first=first, last=last, previous=previous, timeout_s=timeout_s)
        )

    def add(self, key: Text, delta: int, *, timeout_s: float | None = None) -> Added:
        """See `AsyncStore.add`."""
        return self._call(lambda store: store.add(key, delta, timeout_s=timeout_s))

    def transaction(
        self,
        conditions: Sequence[Condition],
        then: Sequence[Simple],
        otherwise: Sequence[Simple] = (),
        *,
        timeout_s: float | None = None,
    ) -> Transacted:
        """See `AsyncStore.transaction`."""
        return self._call(lambda store: store.transaction(conditions, then, otherwise, timeout_s=timeout_s))

    def compact(self, revision: int, *, timeout_s: float | None = None) -> Compacted:
        """See `AsyncStore.compact`."""
        return self._call(lambda store: store.compact(revision, timeout_s=timeout_s))

    def execute(self, operation: Any, *, timeout_s: float | None = None) -> Any:
        """See `AsyncStore.execute`."""
        return self._call(lambda store: store.execute(operation, timeout_s=timeout_s))

    # ------------------------------------------------------------------------------------------------------ reading

    def get(
        self,
        key: Text,
        *,
        revision: int = 0,
        consistency: Consistency | None = None,
        timeout_s: float | None = None,
    ) -> KeyValue | None:
        """See `AsyncStore.get`."""
        return self._call(lambda store: store.get(key, revision=revision, consistency=consistency, timeout_s=timeout_s))

    def range(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
        revision: int = 0,
        consistency: Consistency | None = None,
        timeout_s: float | None = None,
    ) -> RangeIterator:
        """See `AsyncStore.range`: ``for item in store.range("a/")``."""
        pages = self._running().store.range(
            prefix,
            first=first,
            last=last,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            revision=revision,
            consistency=consistency,
            timeout_s=timeout_s,
        )
        return RangeIterator(self, pages)

    def count(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        revision: int = 0,
        consistency: Consistency | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """See `AsyncStore.count`."""
        return self._call(
            lambda store: store.count(
                prefix, first=first, last=last, revision=revision, consistency=consistency, timeout_s=timeout_s
            )
        )

    def read(
        self, operation: ReadOperation, *, consistency: Consistency | None = None, timeout_s: float | None = None
    ) -> AnyResult:
        """See `AsyncStore.read`."""
        return self._call(lambda store: store.read(operation, consistency=consistency, timeout_s=timeout_s))

    # ------------------------------------------------------------------------------------------------- transactions

    @contextmanager
    def txn(self, *, timeout_s: float | None = None) -> Iterator[SyncTransaction]:
        """A transaction that commits at the end of its block if nothing it read has changed since.

        ::

            with store.txn() as t:
                item = t.get("balance")
                t.put("balance", str(int(item.value) - 10))

        Raises:
            Conflict: from the end of the block; nothing was written. `retry` runs the block again.
        """
        txn = SyncTransaction(self, AsyncTransaction(self._running().store, timeout_s))
        try:
            yield txn
            if not txn.ended:
                txn.commit()
        finally:
            txn.abandon()

    def retry(self, work: Callable[[SyncTransaction], R], *, attempts: int = ATTEMPTS) -> R:
        """Run ``work`` in a transaction, again after each `Conflict`, up to ``attempts`` times; returns its result.

        ``work`` may run several times, so all its effects should go through the transaction. It runs in this thread.
        """
        for pause_s in pauses(attempts, random.random):
            try:
                with self.txn() as txn:
                    result = work(txn)
            except Conflict:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                return result
        raise InvalidArgument("a transaction needs at least one attempt")

    # ------------------------------------------------------------------------------- watches, leases, locks, elections

    def watch(
        self,
        prefix: Text | None = None,
        *,
        key: Text | None = None,
        first: Text | None = None,
        last: Text | None = None,
        revision: int = 0,
        puts: bool = True,
        deletes: bool = True,
        previous: bool = False,
        progress: bool = False,
    ) -> Watch:
        """See `AsyncStore.watch`: ``for batch in store.watch("jobs/")``."""
        arguments: dict[str, Any] = {
            "prefix": prefix,
            "key": key,
            "first": first,
            "last": last,
            "revision": revision,
            "puts": puts,
            "deletes": deletes,
            "previous": previous,
            "progress": progress,
        }
        self._running().store.watch(**arguments)  # what makes no sense is refused where it is given
        return Watch(self, arguments)

    def lease(
        self,
        ttl_s: float = TTL_S,
        *,
        lease: int = 0,
        keep_alive: bool = True,
        on_lost: Callable[[LeaseLost], object] | None = None,
        timeout_s: float | None = None,
    ) -> Lease:
        """See `AsyncStore.lease`; as a block, it is revoked at the end. ``on_lost`` is called on the store's thread."""
        granted = self._call(
            lambda store: store.lease(ttl_s, lease=lease, keep_alive=keep_alive, on_lost=on_lost, timeout_s=timeout_s)
        )
        return Lease(self, granted)

    def leases(self, *, consistency: Consistency | None = None) -> list[LeaseDescribed]:
        """See `AsyncStore.leases`."""
        return self._call(lambda store: store.leases(consistency=consistency))

    def describe_lease(
        self, lease: int, *, names: bool = False, consistency: Consistency | None = None
    ) -> LeaseDescribed:
        """See `AsyncStore.describe_lease`."""
        return self._call(lambda store: store.describe_lease(lease, names=names, consistency=consistency))

    def renew_lease(self, lease: int, *, timeout_s: float | None = None) -> LeaseGranted:
        """See `AsyncStore.renew_lease`."""
        return self._call(lambda store: store.renew_lease(lease, timeout_s=timeout_s))

    def revoke_lease(self, lease: int, *, timeout_s: float | None = None) -> LeaseRevoked:
        """See `AsyncStore.revoke_lease`."""
        return self._call(lambda store: store.revoke_lease(lease, timeout_s=timeout_s))

    def lock(self, name: Text, *, ttl_s: float = TTL_S, lease: Lease | None = None) -> Lock:
        """See `AsyncStore.lock`: ``with store.lock("billing") as lock``."""
        place_prefix(LOCKS, name)  # what makes no sense is refused where it is given
        return Lock(self, name, ttl_s, lease)

    def election(self, name: Text, *, ttl_s: float = TTL_S, lease: Lease | None = None) -> Election:
        """See `AsyncStore.election`."""
        place_prefix(ELECTIONS, name)
        return Election(self, name, ttl_s, lease)

    # ---------------------------------------------------------------------------------------------- the cluster itself

    def status(self, *, timeout_s: float = 2.0) -> list[ReplicaStatus]:
        """See `AsyncStore.status`."""
        return self._call(lambda store: store.status(timeout_s=timeout_s))

    def call(self, start: Callable[[AsyncStore], Awaitable[R]]) -> R:
        """Run ``start`` with the asynchronous store on the store's thread, and wait for what it returns.

        For layers that are written once, for `AsyncStore`, and want a synchronous face as well.
        """
        return self._call(start)

    # ------------------------------------------------------------------------------------------------ life and death

    def close(self) -> None:
        """See `AsyncStore.close`; ends the thread as well."""
        with self._lock:
            self._closed = True
            finalizer, self._finalizer, self._background = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url!r}{' closed' if self._closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.url, self.options, self._opener)

    # ------------------------------------------------------------------------------------------------------- inside

    def _running(self) -> Background:
        background = self._background
        if background is not None:
            return background
        with self._lock:
            if self._closed:
                raise Closed("the store is closed")
            if self._background is None:
                self._background = Background(self.url, self.options, self._opener)
                # Runs when the object is forgotten, and at the latest when the interpreter exits.
                self._finalizer = weakref.finalize(self, self._background.stop)
            return self._background

    def _call(self, start: Callable[[AsyncStore], Awaitable[R]]) -> R:
        background = self._running()
        return background.call(lambda: start(background.store))

    def begin_anew(self) -> None:
        """In a child process: the thread stayed behind in the parent, and its session is the parent's."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._background is not None:
            GUARD.leave_behind(self._background)
        self._background = self._finalizer = None
        self._lock = threading.Lock()


class RangeIterator:
    """The items of a range; fetches pages as they are needed."""

    def __init__(self, store: Store, pages: AsyncRange) -> None:
        self._store = store
        self._pages = pages
        self._items: Iterator[KeyValue] = iter(())

    @property
    def revision(self) -> int | None:
        """The revision that all items show; None before the first page has come."""
        return self._pages.revision

    def all(self) -> list[KeyValue]:
        """What is left of the range, as a list."""
        return list(self)

    def __iter__(self) -> RangeIterator:
        return self

    def __next__(self) -> KeyValue:
        while True:
            for item in self._items:
                return item
            page = self._store._call(lambda _store: self._pages.page())
            if not page:
                raise StopIteration
            self._items = iter(page)


class SyncTransaction:
    """A transaction in the making; made by `Store.txn`. See `AsyncTransaction`."""

    def __init__(self, store: Store, txn: AsyncTransaction) -> None:
        self._store = store
        self._txn = txn

    @property
    def revision(self) -> int:
        """Where the transaction reads (0: it has not read); once committed, the revision of what it wrote."""
        return self._txn.revision

    @property
    def result(self) -> Transacted | None:
        """The outcome, once it has committed something."""
        return self._txn.result

    @property
    def ended(self) -> bool:
        """It was committed or abandoned."""
        return self._txn.ended

    def get(self, key: Text) -> KeyValue | None:
        """See `AsyncTransaction.get`."""
        return self._store._call(lambda _store: self._txn.get(key))

    def range(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        limit: int = 0,
        reverse: bool = False,
    ) -> list[KeyValue]:
        """See `AsyncTransaction.range`."""
        return self._store._call(
            lambda _store: self._txn.range(prefix, first=first, last=last, limit=limit, reverse=reverse)
        )

    def put(self, key: Text, value: Text, *, lease: int = 0) -> None:
        """See `AsyncTransaction.put`."""
        self._txn.put(key, value, lease=lease)

    def delete(self, key: Text) -> None:
        """See `AsyncTransaction.delete`."""
        self._txn.delete(key)

    def delete_range(self, prefix: Text | None = None, *, first: Text | None = None, last: Text | None = None) -> None:
        """See `AsyncTransaction.delete_range`."""
        self._txn.delete_range(prefix, first=first, last=last)

    def add(self, key: Text, delta: int) -> None:
        """See `AsyncTransaction.add`."""
        self._txn.add(key, delta)

    def commit(self) -> Transacted | None:
        """See `AsyncTransaction.commit`."""
        return self._store._call(lambda _store: self._txn.commit())

    def abandon(self) -> None:
        """End the transaction without writing anything."""
        self._txn.abandon()


def connect(url: str, **options: Unpack[OptionFields]) -> Store:
    """A store object for programs without an event loop; see `Options` for the options.

    ``url`` is ``host:port,host:port,…`` (one endpoint is enough to find the others), or ``memory:`` and ``file:PATH``
    for one replica in this process. Nothing is contacted before the first operation.

    Raises:
        InvalidArgument: the URL or an option makes no sense.
    """
    return Store(url, make_options(options))


def _rebuild(kind: type[Store], url: str, options: Options, opener: PortFactory) -> Store:
    """What a pickled store is made of."""
    return kind(url, options, opener=opener)
