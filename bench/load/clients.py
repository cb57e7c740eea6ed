"""How a generator speaks to what it measures: one client a kind of RPC, all of them alike to the generator.

`Client.issue` sends an operation of `replica.kv.operations` and returns a future. What the future gives is the RPC's
own answer; `Client.result` makes it a result of the store's vocabulary later, and only for what is recorded.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, cast

from bench.load import etcd_messages as etcd
from bench.load.unary import CallFailed, CallLost, UnaryConnection
from bench.pipeline import BareClient
from replica.client import AsyncStore, Indefinite, SynodError, connect_async
from replica.client.options import Consistency
from replica.kv.operations import (
    AnyOperation,
    AnyResult,
    Compare,
    Delete,
    Deleted,
    Get,
    Got,
    KeyValue,
    Put,
    Range,
    Ranged,
    Simple,
    Transacted,
    Transaction,
    Written,
)

Outcome = Literal["fail", "unknown"]

CALLS_A_CONNECTION = 64
"""etcd: another connection is opened for so many calls in flight."""

CONNECTIONS_MAX = 8

RECONNECT_PAUSE_S = 0.05

SWEEP_S = 0.05
"""How often deadlines are looked at."""


class Client(ABC):
    """A way to a system under test, on one event loop."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, so that the first operation does not pay for it. Raises `OSError` or `SynodError`."""

    @abstractmethod
    def issue(self, operation: Any) -> asyncio.Future[Any]:
        """Send an operation. The future fails with what `outcome` understands."""

    @abstractmethod
    def result(self, operation: Any, answer: Any) -> AnyResult:
        """The answer in the store's vocabulary."""

    @abstractmethod
    def outcome(self, error: Exception) -> Outcome:
        """Did the operation certainly not take effect, or is that unknown?"""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class SessionClient(Client):
    """Synod's own client library: one session, whatever accumulates travels together."""

    def __init__(self, url: str, *, region: str, consistency: Consistency, timeout_s: float) -> None:
        self._store: AsyncStore = connect_async(url, region=region, consistency=consistency, timeout_s=timeout_s)

    async def open(self) -> None:
        # A read on the way of the writes: the session is open before the clock runs.
        await self._store.delete(b"bench/open")

    def issue(self, operation: Any) -> asyncio.Future[Any]:
        kind = operation.__class__
        if kind is Put:
            return self._store.put(operation.key, operation.value)
        if kind is Get or kind is Range:
            return self._store.read(operation)
        return self._store.execute(operation)

    def result(self, operation: Any, answer: Any) -> AnyResult:
        return cast("AnyResult", answer)

    def outcome(self, error: Exception) -> Outcome:
        return "unknown" if isinstance(error, Indefinite) or not isinstance(error, SynodError) else "fail"

    async def close(self) -> None:
        await self._store.close()


class EtcdClient(Client):
    """etcd's v3 interface, over `UnaryConnection`: a call an operation, as its interface has it.

    The first address is that of the leader: forwarding would cost a hop that is no part of the protocol.
    """

    def __init__(self, url: str, *, consistency: str, timeout_s: float, in_flight: int) -> None:
        self._addresses = url.split(",")
        self._serializable = consistency == "stale"
        self._timeout_s = timeout_s
        self._connections: list[UnaryConnection] = []
        self._count = min(CONNECTIONS_MAX, max(1, in_flight // CALLS_A_CONNECTION))
        self._turn = 0
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._place = 0

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        last: OSError = OSError("no address")
        for _ in self._addresses:
            address = self._addresses[self._place % len(self._addresses)]
            made = [UnaryConnection(loop, address) for _ in range(self._count)]
            try:
                for connection in made:
                    await connection.connect()
            except OSError as error:
                last = error
                self._place += 1
                continue
            self._connections = made
            return
        raise last

    def issue(self, operation: Any) -> asyncio.Future[Any]:
        self._turn += 1
        connection = self._connections[self._turn % self._count]
        if not connection.connected and (self._reconnecting is None or self._reconnecting.done()):
            self._reconnecting = asyncio.ensure_future(self._reconnect())
        path, request = _encode(operation, serializable=self._serializable)
        future = connection.call(path, request)
        loop = future.get_loop()
        self._deadlines.append((loop.time() + self._timeout_s, future))
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_S, self._sweep)
        return future

    def _sweep(self) -> None:
        """Give up what is past its deadline, in the order of issue."""
        loop = asyncio.get_running_loop()
        now, deadlines = loop.time(), self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1].done()):
            _, future = deadlines.popleft()
            if not future.done():
                future.set_exception(CallLost("the deadline passed before the answer came"))
        self._sweeper = loop.call_later(SWEEP_S, self._sweep) if deadlines else None

    async def _reconnect(self) -> None:
        await asyncio.sleep(RECONNECT_PAUSE_S)
        self._place += 1
        try:
            await self.open()
        except OSError:
            return  # the next operation tries again

    def result(self, operation: Any, answer: Any) -> AnyResult:
        return _decode(operation, answer)

    def outcome(self, error: Exception) -> Outcome:
        if isinstance(error, CallLost):
            return "fail" if str(error) == "not connected" else "unknown"
        # Invalid, exhausted and unimplemented calls were not proposed; anything else may have been.
        return "fail" if isinstance(error, CallFailed) and error.status in {3, 8, 12} else "unknown"

    async def close(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._connections:
            connection.close()
        await asyncio.sleep(0)


class PipelineClient(Client):
    """The client of `bench.pipeline`, which knows puts and nothing else."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._client: BareClient | None = None

    async def open(self) -> None:
        self._client = BareClient(self._port)
        await self._client.put(b"bench/open", b"")

    def issue(self, operation: Any) -> asyncio.Future[Any]:
        assert self._client is not None
        return self._client.put(operation.key, operation.value)

    def result(self, operation: Any, answer: Any) -> AnyResult:
        return Written(answer)

    def outcome(self, error: Exception) -> Outcome:
        return "unknown"

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def open_client(
    rpc: str, url: str, *, region: str, consistency: Consistency, timeout_s: float, in_flight: int
) -> Client:
    """The client for an RPC."""
    makers: dict[str, Callable[[], Client]] = {
        "session": lambda: SessionClient(url, region=region, consistency=consistency, timeout_s=timeout_s),
        "bare": lambda: PipelineClient(url),
        "etcd": lambda: EtcdClient(url, consistency=consistency, timeout_s=timeout_s, in_flight=in_flight),
    }
    return makers[rpc]()


# ------------------------------------------------------------------------------------------------ etcd's vocabulary


def _encode(operation: AnyOperation, *, serializable: bool) -> tuple[str, bytes]:
    """The method and the request."""
    match operation:
        case Put():
            return etcd.PUT, etcd.PutRequest(key=operation.key, value=operation.value).SerializeToString()
        case Get() | Range():
            return etcd.RANGE, _range(operation, serializable=serializable).SerializeToString()
        case Delete():
            return etcd.DELETE_RANGE, etcd.DeleteRangeRequest(key=operation.key).SerializeToString()
        case Transaction():
            request = etcd.TxnRequest(
                compare=[_compare(each) for each in operation.conditions if isinstance(each, Compare)],
                success=[_nested(each) for each in operation.then],
                failure=[_nested(each) for each in operation.otherwise],
            )
            return etcd.TXN, request.SerializeToString()
        case _:
            raise TypeError(f"etcd has no counterpart of {type(operation).__name__}")


def _range(operation: Get | Range, *, serializable: bool) -> Any:
    if isinstance(operation, Get):
        return etcd.RangeRequest(key=operation.key, serializable=serializable)
    return etcd.RangeRequest(
        key=operation.first or b"\x00",
        range_end=operation.last or b"\x00",
        limit=operation.limit,
        keys_only=operation.keys_only,
        count_only=operation.count_only,
        sort_order=etcd.DESCENDING if operation.reverse else 0,
        serializable=serializable,
    )


_RELATIONS = {"=": etcd.EQUAL, ">": etcd.GREATER, "<": etcd.LESS, "!=": etcd.NOT_EQUAL}


def _compare(condition: Compare) -> Any:
    operand = condition.operand
    match condition.target:
        case "exists":
            wanted = (condition.relation == "=") == bool(operand)
            return etcd.Compare(
                key=condition.key, target=etcd.VERSION, result=etcd.GREATER if wanted else etcd.EQUAL, version=0
            )
        case "version":
            return etcd.Compare(
                key=condition.key, target=etcd.VERSION, result=_RELATIONS[condition.relation], version=operand
            )
        case "create":
            return etcd.Compare(
                key=condition.key, target=etcd.CREATE, result=_RELATIONS[condition.relation], create_revision=operand
            )
        case "mod":
            return etcd.Compare(
                key=condition.key, target=etcd.MOD, result=_RELATIONS[condition.relation], mod_revision=operand
            )
        case _:
            return etcd.Compare(
                key=condition.key, target=etcd.VALUE, result=_RELATIONS[condition.relation], value=operand
            )


def _nested(operation: Simple) -> Any:
    match operation:
        case Put():
            return etcd.RequestOp(request_put=etcd.PutRequest(key=operation.key, value=operation.value))
        case Get() | Range():
            return etcd.RequestOp(request_range=_range(operation, serializable=False))
        case Delete():
            return etcd.RequestOp(request_delete_range=etcd.DeleteRangeRequest(key=operation.key))
        case _:
            raise TypeError(f"etcd has no counterpart of {type(operation).__name__} in a transaction")


def _decode(operation: AnyOperation, answer: bytes) -> AnyResult:
    match operation:
        case Put():
            return Written(etcd.PutResponse.FromString(answer).header.revision)
        case Get() | Range():
            return _ranged(operation, etcd.RangeResponse.FromString(answer), 0)
        case Delete():
            deleted = etcd.DeleteRangeResponse.FromString(answer)
            return Deleted(deleted.header.revision, deleted.deleted)
        case Transaction():
            reply = etcd.TxnResponse.FromString(answer)
            revision = reply.header.revision
            branch = operation.then if reply.succeeded else operation.otherwise
            results: list[AnyResult] = []
            for each, response in zip(branch, reply.responses, strict=True):
                if isinstance(each, Put):
                    results.append(Written(revision))
                elif isinstance(each, Delete):
                    results.append(Deleted(revision, response.response_delete_range.deleted))
                else:
                    assert isinstance(each, Get | Range)
                    results.append(_ranged(each, response.response_range, revision))
            return Transacted(revision, reply.succeeded, tuple(results))
        case _:
            raise TypeError(f"etcd has no counterpart of {type(operation).__name__}")


def _ranged(operation: Get | Range, reply: Any, revision: int) -> AnyResult:
    at = reply.header.revision or revision
    items = tuple(
        KeyValue(each.key, each.value, each.create_revision, each.mod_revision, each.version) for each in reply.kvs
    )
    if isinstance(operation, Get):
        return Got(at, items[0] if items else None)
    return Ranged(at, items, reply.count if operation.count_only else len(items), reply.more)
