"""The asynchronous face of the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from replica.client import transaction as transactions
from replica.client.connection import Connection
from replica.client.errors import Closed, InvalidArgument, LeaseLost, TooLarge
from replica.client.forking import GUARD
from replica.client.grpc_port import GrpcPort
from replica.client.leases import AsyncLease, LeaseRequest
from replica.client.locks import ELECTIONS, LOCKS, TTL_S, AsyncElection, AsyncLock, place_prefix
from replica.client.options import Consistency, OptionFields, Options, make_options, wire_consistency
from replica.client.port import Port, PortFactory, open_port
from replica.client.ranges import AsyncRange, Pages, Text, as_bytes, interval
from replica.client.status import ReplicaStatus, survey
from replica.client.transaction import ATTEMPTS, AsyncTransaction
from replica.client.watch import AsyncWatch
from replica.client.watches import WatchOptions
from replica.client.watching import Watching
from replica.kv.operations import (
    KEY_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Add,
    Added,
    AnyResult,
    Compact,
    Compacted,
    Condition,
    Delete,
    Deleted,
    DeleteRange,
    DescribeLease,
    Get,
    Got,
    KeepAlive,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseRevoked,
    LeasesListed,
    ListLeases,
    Put,
    Range,
    Ranged,
    ReadOperation,
    RevokeLease,
    Simple,
    Transacted,
    Transaction,
    Written,
)

R = TypeVar("R")
Future = asyncio.Future


class AsyncStore:
    """A client of one cluster, for one event loop. Made by `connect_async`; nothing is contacted before the first
    operation.

    Operations may be issued concurrently without bound on tasks; what is issued while a frame is on its way travels
    together in the next. `put`, `delete`, `add` and their like queue the operation at once and return a future:
    awaiting it is how one learns that it is done. `asyncio.gather`, `wait_for` and `ensure_future` take a future;
    `create_task` does not, and is not needed. Giving up on a future does not take the operation back, unless it was not
    sent yet.

    Keys and values are bytes; text is stored in UTF-8. Keys have 1 to 250 bytes, values up to 1 MiB.

    Every method may raise the errors of `replica.client.errors`; what an operation raises beyond the ordinary is
    stated with it. After a fork, and in another event loop, the object begins anew, with a session of its own; it can
    be pickled, which keeps the URL and the options.
    """

    def __init__(self, url: str, options: Options, *, opener: PortFactory = open_port) -> None:
        self.url = url
        self.options = options
        self._opener = opener
        self._timeout_s = options.timeout_s
        self._consistency = wire_consistency(options.consistency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port: Port | None = None
        self._main: Connection | None = None
        self._nearby: Connection | None = None
        self._watching: Watching | None = None
        self._submit: Callable[[Any, float], Future[Any]] = self._not_bound
        self._closed = False
        self._suspended = False
        self._random = random.Random()
        opener(url, options.port_options())  # a URL that makes no sense is refused where it is given
        GUARD.watch(self)

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
    ) -> Future[Written]:
        """Set ``key``. The result carries the revision, and with ``previous`` what was there before.

        Args:
            if_revision: only if the key's modification revision is this one; 0: only if there is no such key.
            lease: the lease that the key shall live with.

        Raises:
            ConditionFailed: ``if_revision`` did not hold; nothing was changed.
        """
        if key.__class__ is not bytes:
            key = as_bytes(key)
        if value.__class__ is not bytes:
            value = as_bytes(value)
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise _bad_key(key)
        if len(value) > VALUE_BYTES_MAX:
            raise _bad_value(value)
        operation: Any
        if if_revision is None and not lease and not previous:
            # The encoding of Put(key, value) without its defaults: shorter, and cheaper to make than the struct.
            operation = (1, key, value)
        else:
            operation = Put(key, value, lease, if_revision, previous)
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        return self._submit(operation, self._timeout_s if timeout_s is None else timeout_s)

    def delete(
        self, key: Text, *, if_revision: int | None = None, previous: bool = False, timeout_s: float | None = None
    ) -> Future[Deleted]:
        """Remove ``key``; the result's ``count`` says whether there was one. Conditions as for `put`."""
        return self.execute(Delete(self.key(key), if_revision, previous), timeout_s=timeout_s)

    def delete_range(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        previous: bool = False,
        timeout_s: float | None = None,
    ) -> Future[Deleted]:
        """Remove all keys with ``prefix``, or in ``[first, last)``; at once, at one revision."""
        if prefix is None and first is None and last is None:
            raise InvalidArgument("delete_range needs a prefix or an end; to remove everything say prefix=''")
        return self.execute(DeleteRange(*interval(prefix, first, last), previous), timeout_s=timeout_s)

    def add(self, key: Text, delta: int, *, timeout_s: float | None = None) -> Future[Added]:
        """Add to the decimal integer at ``key`` (absent counts as 0); the result's ``value`` is the sum.

        Raises:
            NotANumber: the value is not a decimal integer, or the sum is beyond 64 bits.
        """
        return self.execute(Add(self.key(key), delta), timeout_s=timeout_s)

    def transaction(
        self,
        conditions: Sequence[Condition],
        then: Sequence[Simple],
        otherwise: Sequence[Simple] = (),
        *,
        timeout_s: float | None = None,
    ) -> Future[Transacted]:
        """If all ``conditions`` hold do ``then``, else ``otherwise``, atomically. `txn` is the friendlier way.

        Which branch ran is in the result's ``succeeded``; that it was the second is not an error.
        """
        return self.execute(Transaction(tuple(conditions), tuple(then), tuple(otherwise)), timeout_s=timeout_s)

    def compact(self, revision: int, *, timeout_s: float | None = None) -> Future[Compacted]:
        """Forget what was superseded at or before ``revision``."""
        return self.execute(Compact(revision), timeout_s=timeout_s)

    def execute(self, operation: Any, *, timeout_s: float | None = None) -> Future[Any]:
        """Send any operation of `replica.kv.operations` that may write; the future gets its result as it is."""
        if isinstance(operation, Transaction):
            parts = len(operation.conditions) + len(operation.then) + len(operation.otherwise)
            if parts > TRANSACTION_OPERATIONS_MAX:
                raise TooLarge(
                    f"a transaction has at most {TRANSACTION_OPERATIONS_MAX} conditions and operations, not {parts}"
                )
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        return self._submit(operation, self._timeout_s if timeout_s is None else timeout_s)

    # ------------------------------------------------------------------------------------------------------ reading

    async def get(
        self,
        key: Text,
        *,
        revision: int = 0,
        consistency: Consistency | None = None,
        timeout_s: float | None = None,
    ) -> KeyValue | None:
        """The key with its value and history, as of ``revision`` if that is given; None when there is none.

        Raises:
            Compacted: ``revision`` is gone.
        """
        got = await self.read(Get(self.key(key), revision), consistency=consistency, timeout_s=timeout_s)
        assert isinstance(got, Got)
        return got.item

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
    ) -> AsyncRange:
        """Keys with ``prefix``, or in ``[first, last)``, in order: ``async for item in store.range("a/")``.

        Pages are fetched as they are needed, all at one revision; ``timeout_s`` holds for each of them. ``limit`` 0 is
        none. With ``keys_only`` the values stay behind.
        """
        start, end = interval(prefix, first, last)
        pages = Pages(Range(start, end, limit, reverse, keys_only, revision=revision))

        async def fetch(operation: Range) -> Ranged:
            page = await self.read(operation, consistency=consistency, timeout_s=timeout_s)
            assert isinstance(page, Ranged)
            return page

        return AsyncRange(pages, fetch)

    async def count(
        self,
        prefix: Text | None = None,
        *,
        first: Text | None = None,
        last: Text | None = None,
        revision: int = 0,
        consistency: Consistency | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """How many keys have ``prefix``, or lie in ``[first, last)``."""
        operation = Range(*interval(prefix, first, last), count_only=True, revision=revision)
        ranged = await self.read(operation, consistency=consistency, timeout_s=timeout_s)
        assert isinstance(ranged, Ranged)
        return ranged.count

    def read(
        self, operation: ReadOperation, *, consistency: Consistency | None = None, timeout_s: float | None = None
    ) -> Future[AnyResult]:
        """Send a read-only operation of `replica.kv.operations`; the future gets its result as it is."""
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        way = self._consistency if consistency is None else wire_consistency(consistency)
        connection = self._reader() if way == _STALE else self._main
        assert connection is not None
        return connection.submit_read(
            operation,
            self._timeout_s if timeout_s is None else timeout_s,
            way,
            alone=operation.__class__ is Range or operation.__class__ is ListLeases,
        )

    # ------------------------------------------------------------------------------------------------- transactions

    def txn(self, *, timeout_s: float | None = None) -> Any:
        """A transaction that commits at the end of its block if nothing it read has changed since.

        ::

            async with store.txn() as t:
                item = await t.get("balance")
                t.put("balance", str(int(item.value) - 10))

        Raises:
            Conflict: from the end of the block; nothing was written. `retry` runs the block again.
        """
        return transactions.transaction(self, timeout_s)

    async def retry(self, work: Callable[[AsyncTransaction], Awaitable[R]], *, attempts: int = ATTEMPTS) -> R:
        """Run ``work`` in a transaction, again after each `Conflict`, up to ``attempts`` times; returns its result.

        ``work`` may run several times, so all its effects should go through the transaction.
        """
        return await transactions.retry(self, work, attempts, self._random.random)

    # ------------------------------------------------------------------------------------------------------ watching

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
    ) -> AsyncWatch:
        """Hear of every change of ``key``, of keys with ``prefix``, or in ``[first, last)``; of all keys without any.

        ::

            async with store.watch("jobs/") as watch:
                async for batch in watch:
                    for event in batch.events:
                        print(batch.revision, event.key, event.value, event.deleted)

        One batch a revision, each once and in order, whatever becomes of replicas and connections meanwhile; the
        nearest replica serves it. It begins where it is first awaited: at ``revision``, or with what comes next. To
        read first and lose nothing, watch from the revision of the read plus one.

        Args:
            puts, deletes: leave either out.
            previous: tell what each key was before, too.
            progress: also yield batches without events, now and then, that say how far the watch has come.

        Raises, from the iteration:
            Compacted: the changes at the revision wanted are gone; its ``revision`` is the first that can be told of.
            Unsupported: the protocol has no one order of changes.
        """
        if key is not None:
            if prefix is not None or first is not None or last is not None:
                raise InvalidArgument("a watch is about a key or about an interval, not both")
            start = self.key(key)
            end = start + b"\x00"
        else:
            start, end = interval(prefix, first, last)
        if not (puts or deletes):
            raise InvalidArgument("a watch without puts and without deletions would hear nothing")
        return AsyncWatch(self, WatchOptions(start, end, puts, deletes, previous, progress), revision)

    # ---------------------------------------------------------------------------------- leases, locks and elections

    def lease(
        self,
        ttl_s: float = TTL_S,
        *,
        lease: int = 0,
        keep_alive: bool = True,
        on_lost: Callable[[LeaseLost], object] | None = None,
        timeout_s: float | None = None,
    ) -> LeaseRequest:
        """Grant a lease; await it, or enter it as a block at whose end it is revoked.

        ::

            async with store.lease(10) as lease:
                await store.put("workers/7", "here", lease=lease.id)

        Args:
            ttl_s: it ends, with its keys, so long after its last renewal.
            lease: its id; 0 lets the store choose.
            keep_alive: renew it in the background, as long as this object lives.
            on_lost: called, on the event loop, when it has ended or may have.

        Raises:
            LeaseExists: there is a lease with that id.
            Overloaded: there are too many leases.
        """
        return LeaseRequest(self, ttl_s, lease, keep_alive=keep_alive, on_lost=on_lost, timeout_s=timeout_s)

    async def leases(self, *, consistency: Consistency | None = None) -> list[LeaseDescribed]:
        """All leases, by id."""
        found: list[LeaseDescribed] = []
        while True:
            listed = await self.read(ListLeases(found[-1].lease if found else 0), consistency=consistency)
            assert isinstance(listed, LeasesListed)
            found += listed.leases
            if not listed.more:
                return found

    async def describe_lease(
        self, lease: int, *, names: bool = False, consistency: Consistency | None = None
    ) -> LeaseDescribed:
        """A lease: how long it lives, about how much of that is left, and with ``names`` its keys.

        Raises:
            LeaseUnknown: there is no such lease.
        """
        described = await self.read(DescribeLease(lease, names), consistency=consistency)
        assert isinstance(described, LeaseDescribed)
        return described

    def renew_lease(self, lease: int, *, timeout_s: float | None = None) -> Future[LeaseGranted]:
        """Give a lease its full time again. Raises `LeaseUnknown`."""
        return self.execute(KeepAlive(lease), timeout_s=timeout_s)

    def revoke_lease(self, lease: int, *, timeout_s: float | None = None) -> Future[LeaseRevoked]:
        """End a lease, and its keys with it, all at one revision. Raises `LeaseUnknown`."""
        return self.execute(RevokeLease(lease), timeout_s=timeout_s)

    def lock(self, name: Text, *, ttl_s: float = TTL_S, lease: AsyncLease | None = None) -> AsyncLock:
        """A lock that one program holds at a time, in all the cluster.

        ::

            async with store.lock("billing") as lock:
                await lock.transaction([Put(b"balance", b"7")])   # takes effect only while the lock is held
                send_invoice(fencing_token=lock.token)

        Args:
            ttl_s: a holder that has died keeps others waiting for so long.
            lease: hold it with this lease instead of one of its own.
        """
        return AsyncLock(self, place_prefix(LOCKS, name), ttl_s, lease, b"")

    def election(self, name: Text, *, ttl_s: float = TTL_S, lease: AsyncLease | None = None) -> AsyncElection:
        """An election, in all the cluster: ``await election.campaign("me")``, `leader`, `observe`, `resign`."""
        return AsyncElection(self, place_prefix(ELECTIONS, name), ttl_s, lease, b"")

    # ---------------------------------------------------------------------------------------------- the cluster itself

    async def status(self, *, timeout_s: float = 2.0) -> list[ReplicaStatus]:
        """What each replica says of itself; one that does not answer within ``timeout_s`` is in the list as such."""
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        assert self._port is not None
        return await survey(self._port, timeout_s)

    # ------------------------------------------------------------------------------------------------ life and death

    async def close(self) -> None:
        """End the session and the streams, once what is on its way has been answered (`Options.drain_s` at most).

        What was not sent fails with `Closed`, what was not answered with `MaybeCommitted`.
        """
        self._closed = True
        self._submit = self._not_bound
        if self._loop is not asyncio.get_running_loop():
            self._forget()
            return
        connections, watching, port = self._connections(), self._watching, self._port
        self._forget()
        if watching is not None:
            await watching.close()
        await asyncio.gather(*(connection.close(self.options.drain_s) for connection in connections))
        if port is not None:
            await port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url!r}{' closed' if self._closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.url, self.options, self._opener)

    # ------------------------------------------------------------------------------------------------------- inside

    def key(self, key: Text) -> bytes:
        """``key`` as bytes. Raises `InvalidArgument`."""
        name = as_bytes(key)
        if not 0 < len(name) <= KEY_BYTES_MAX:
            raise _bad_key(name)
        return name

    def value(self, value: Text) -> bytes:
        """``value`` as bytes. Raises `TooLarge`."""
        content = as_bytes(value)
        if len(content) > VALUE_BYTES_MAX:
            raise _bad_value(content)
        return content

    def _bind(self) -> None:
        """Begin on the running loop: the first use, or the first after a fork or in another loop."""
        if self._closed:
            raise Closed("the store is closed")
        if self._loop is not None and self._loop.is_running():
            raise InvalidArgument("the store is in use on another event loop: connect once for each loop")
        self._forget()
        self._loop = asyncio.get_running_loop()
        self._port = self._opener(self.url, self.options.port_options())
        self._main = self._connect(follow_leader=True)
        self._submit = self._main.submit

    def _connect(self, *, follow_leader: bool) -> Connection:
        assert self._port is not None
        options = self.options
        return Connection(
            self._port,
            cluster=options.cluster,
            region=options.region,
            zone=options.zone,
            stall_s=options.stall_s,
            follow_leader=follow_leader,
        )

    def _reader(self) -> Connection:
        """The way of stale reads: any replica will do, and no session is needed."""
        if self._nearby is None:
            self._nearby = self._connect(follow_leader=False)
        return self._nearby

    def watching(self) -> Watching:
        """What watches on the running loop."""
        if asyncio.get_running_loop() is not self._loop:
            self._bind()
        if self._watching is None:
            assert self._port is not None
            options = self.options
            self._watching = Watching(
                self._port,
                cluster=options.cluster,
                region=options.region,
                zone=options.zone,
                stall_s=options.stall_s,
            )
        return self._watching

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which the store is in use."""
        return self._loop

    async def suspend(self) -> None:
        """Let go of the network until `resume`, for a fork."""
        self._suspended = True
        # The port stays: a replica in this process lives in it.
        await asyncio.gather(*(connection.suspend() for connection in self._connections()))
        if self._watching is not None:
            await self._watching.suspend()

    def resume(self) -> None:
        """Go on after `suspend`."""
        self._suspended = False
        for connection in self._connections():
            connection.resume()
        if self._watching is not None:
            self._watching.resume()

    def _connections(self) -> list[Connection]:
        return [connection for connection in (self._main, self._nearby) if connection is not None]

    def _forget(self) -> None:
        self._loop = self._port = self._main = self._nearby = self._watching = None

    def begin_anew(self) -> None:
        """In a child process: sequences of the parent's session must not be used twice."""
        in_use = self._loop is not None and not self._loop.is_closed() and not self._suspended
        if in_use and isinstance(self._port, GrpcPort):
            GrpcPort.inherited = True
        self._submit = self._not_bound
        self._suspended = False
        if self._main is not None:
            GUARD.leave_behind(self._main)
        if self._watching is not None:
            GUARD.leave_behind(self._watching)
        self._forget()
        self._random = random.Random()

    def _not_bound(self, _operation: Any, _timeout_s: float) -> Future[Any]:
        raise Closed("the store is closed")


def connect_async(url: str, **options: Unpack[OptionFields]) -> AsyncStore:
    """A store object for ``asyncio``; see `Options` for the options.

    ``url`` is ``host:port,host:port,…`` (one endpoint is enough to find the others), or ``memory:`` and ``file:PATH``
    for one replica in this process. Nothing is contacted before the first operation.

    Raises:
        InvalidArgument: the URL or an option makes no sense.
    """
    return AsyncStore(url, make_options(options))


def _rebuild(kind: type[AsyncStore], url: str, options: Options, opener: PortFactory) -> AsyncStore:
    """What a pickled store is made of."""
    return kind(url, options, opener=opener)


def _bad_key(key: bytes) -> InvalidArgument:
    if not key:
        return InvalidArgument("a key is not empty")
    return TooLarge(f"a key has at most {KEY_BYTES_MAX} bytes, not {len(key)}")


def _bad_value(value: bytes) -> TooLarge:
    return TooLarge(f"a value has at most {VALUE_BYTES_MAX} bytes, not {len(value)}")


_STALE = wire_consistency("stale")
