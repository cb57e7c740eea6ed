"""The synchronous face: the same methods, waited for. They run on the thread of the `Store` that is given."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from replica.client import AsyncStore, Store
from replica.metadata.core import PREFIX
from replica.metadata.keys import Keys
from replica.metadata.loading import Load
from replica.metadata.model import Change, Execution, Kind
from replica.metadata.queries import Changes
from replica.metadata.runs import Output, Run
from replica.metadata.store import AsyncMetadata

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

FETCHED_MAX: Final = 256
"""Items that an iterator takes from the store's thread at once."""


def _waiting(
    method: Callable[Concatenate[AsyncMetadata, P], Awaitable[R]],
) -> Callable[Concatenate[Metadata, P], R]:
    @functools.wraps(method)
    def call(self: Metadata, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.store.call(lambda store: method(self._inner(store), *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncMetadata, P], AsyncIterator[T]],
) -> Callable[Concatenate[Metadata, P], Iterator[T]]:
    @functools.wraps(method)
    def call(self: Metadata, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        source: list[AsyncIterator[T]] = []

        async def some(store: AsyncStore) -> list[T]:
            if not source:
                source.append(method(self._inner(store), *args, **kwargs))
            items: list[T] = []
            async for item in source[0]:
                items.append(item)
                if len(items) >= FETCHED_MAX:
                    break
            return items

        while items := self.store.call(some):
            yield from items
            if len(items) < FETCHED_MAX:
                return

    return call


class Metadata:
    """A metadata store on a cluster: ``Metadata(connect(url))``. Methods are those of `AsyncMetadata`."""

    def __init__(self, store: Store, *, prefix: str = PREFIX, actor: str | None = None) -> None:
        self.store = store
        self._prefix = prefix
        self._actor = actor
        self._async: AsyncMetadata | None = None
        Keys(prefix)  # one that makes no sense is refused where it is given

    def _inner(self, store: AsyncStore) -> AsyncMetadata:
        """The asynchronous twin on the store's loop; made anew where the store was, as after a fork."""
        if self._async is None or self._async.store is not store:
            self._async = AsyncMetadata(store, prefix=self._prefix, actor=self._actor)
        return self._async

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.store, self._prefix, self._actor)

    open = _waiting(AsyncMetadata.open)
    revision = _waiting(AsyncMetadata.revision)

    define_type = _waiting(AsyncMetadata.define_type)
    types = _waiting(AsyncMetadata.types)
    type = _waiting(AsyncMetadata.type)

    put_artifact = _waiting(AsyncMetadata.put_artifact)
    put_execution = _waiting(AsyncMetadata.put_execution)
    put_context = _waiting(AsyncMetadata.put_context)
    update = _waiting(AsyncMetadata.update)
    put_input = _waiting(AsyncMetadata.put_input)
    put_output = _waiting(AsyncMetadata.put_output)
    attribute = _waiting(AsyncMetadata.attribute)
    associate = _waiting(AsyncMetadata.associate)
    add_parent = _waiting(AsyncMetadata.add_parent)

    draft = _waiting(AsyncMetadata.draft)
    publish = _waiting(AsyncMetadata.publish)
    package = _waiting(AsyncMetadata.package)
    archive = _waiting(AsyncMetadata.archive)
    purge = _waiting(AsyncMetadata.purge)
    alias = _waiting(AsyncMetadata.alias)
    aliases = _waiting(AsyncMetadata.aliases)
    resolve = _waiting(AsyncMetadata.resolve)
    assets = _waiting(AsyncMetadata.assets)
    asset = _waiting(AsyncMetadata.asset)
    versions = _waiting(AsyncMetadata.versions)
    drafts = _waiting(AsyncMetadata.drafts)

    get = _waiting(AsyncMetadata.get)
    by_name = _waiting(AsyncMetadata.by_name)
    by_external_id = _waiting(AsyncMetadata.by_external_id)
    find = _waiting(AsyncMetadata.find)
    find_all = _iterating(AsyncMetadata.find_all)
    edges = _waiting(AsyncMetadata.edges)
    contexts_of = _waiting(AsyncMetadata.contexts_of)
    parents_of = _waiting(AsyncMetadata.parents_of)
    children_of = _waiting(AsyncMetadata.children_of)
    members_of = _iterating(AsyncMetadata.members_of)
    lineage = _waiting(AsyncMetadata.lineage)
    history = _waiting(AsyncMetadata.history)
    diff = _iterating(AsyncMetadata.diff)
    audit = _iterating(AsyncMetadata.audit)

    log_metrics = _waiting(AsyncMetadata.log_metrics)
    metric_names = _waiting(AsyncMetadata.metric_names)
    metric = _iterating(AsyncMetadata.metric)
    reap = _waiting(AsyncMetadata.reap)

    def execution(self, /, *args: Any, **kwargs: Any) -> SyncRun:
        """See `AsyncMetadata.execution`: ``with md.execution("Train", inputs=[data]) as run``."""
        return SyncRun(self, args, kwargs)

    def load(self) -> SyncLoad:
        """See `AsyncMetadata.load`: ``with md.load() as load``."""
        return SyncLoad(self)

    def watch(self, type: str | None = None, *, kind: Kind | None = None, revision: int = 0) -> SyncChanges:  # noqa: A002
        """See `AsyncMetadata.watch`: ``for change in md.watch("Model")``."""
        changes = self.store.call(lambda store: self._inner(store).watch(type, kind=kind, revision=revision))
        return SyncChanges(self.store, changes)


class SyncRun:
    """An execution that is under way; made by `Metadata.execution`. See `Run`."""

    def __init__(self, metadata: Metadata, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._metadata = metadata
        self._args, self._kwargs = args, kwargs
        self._run: Run | None = None

    @property
    def _begun(self) -> Run:
        assert self._run is not None, "the run has not begun"
        return self._run

    @property
    def execution(self) -> Execution:
        """See `Run.execution`."""
        return self._begun.execution

    @property
    def id(self) -> int:
        """The execution's id."""
        return self._begun.id

    @property
    def held(self) -> bool:
        """Is the run alive, for certain?"""
        return self._begun.held

    def output(self, type: str, **arguments: Any) -> Output:  # noqa: A002 - the word for it
        """See `Run.output`."""
        return self._begun.output(type, **arguments)

    def set(self, *, properties: Mapping[str, Any] | None = None, custom: Mapping[str, Any] | None = None) -> None:
        """See `Run.set`."""
        self._begun.set(properties=properties, custom=custom)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Run.log`."""
        self._metadata.store.call(lambda _store: self._begun.log(step, values))

    def flush(self) -> None:
        """See `Run.flush`."""
        self._metadata.store.call(lambda _store: self._begun.flush())

    def __enter__(self) -> Self:
        async def begin(store: AsyncStore) -> Run:
            run = self._metadata._inner(store).execution(*self._args, **self._kwargs)
            return await run.begin()

        self._run = self._metadata.store.call(begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metadata.store.call(lambda _store: self._begun.finish(error))


def _loading(method: Callable[Concatenate[Load, P], Awaitable[R]]) -> Callable[Concatenate[SyncLoad, P], R]:
    @functools.wraps(method)
    def call(self: SyncLoad, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._metadata.store.call(lambda _store: method(self._begun, *args, **kwargs))

    return call


class SyncLoad:
    """Things on their way into the store; made by `Metadata.load`. See `Load`."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._load: Load | None = None

    @property
    def _begun(self) -> Load:
        assert self._load is not None, "the load has not begun"
        return self._load

    put_artifact = _loading(Load.put_artifact)
    put_execution = _loading(Load.put_execution)
    put_context = _loading(Load.put_context)
    put_input = _loading(Load.put_input)
    put_output = _loading(Load.put_output)
    attribute = _loading(Load.attribute)
    associate = _loading(Load.associate)
    flush = _loading(Load.flush)

    @property
    def acknowledged(self) -> int:
        """See `Load.acknowledged`."""
        return self._begun.acknowledged

    def __enter__(self) -> Self:
        async def begin(store: AsyncStore) -> Load:
            return await self._metadata._inner(store).load().__aenter__()

        self._load = self._metadata.store.call(begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metadata.store.call(lambda _store: self._begun.finish(error))


class SyncChanges:
    """A watch of objects; made by `Metadata.watch`. For one thread at a time."""

    def __init__(self, store: Store, changes: Changes) -> None:
        self._store = store
        self._changes = changes

    @property
    def revision(self) -> int:
        """See `Changes.revision`."""
        return self._changes.revision

    def next(self, *, timeout_s: float | None = None) -> Change:
        """The next change, once there is one. Raises `TimeoutError` when there is none within ``timeout_s``."""

        async def wait(_store: AsyncStore) -> Change:
            async with asyncio.timeout(timeout_s):
                return await self._changes.next()

        return self._store.call(wait)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        return self.next()

    def close(self) -> None:
        """Hear no more."""

        async def close(_store: AsyncStore) -> None:
            self._changes.close()

        self._store.call(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _rebuild(kind: type[Metadata], store: Store, prefix: str, actor: str | None) -> Metadata:
    """What a pickled one is made of."""
    return kind(store, prefix=prefix, actor=actor)
