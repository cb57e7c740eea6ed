"""Loading: very many objects and edges, as many to a transaction as it takes, with little memory.

`Load` has the methods of the store that create things, and answers at once with ids that are already certain; what it
was told is held until it fills a transaction, and some transactions are on their way at once. Each is a unit like any
other, so every promise holds after each of them: what differs is only that objects share one.

An edge may join what was told before it, acknowledged or not: a transaction waits for those that it builds upon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from replica.metadata.core import Ref, encode_object, id_of
from replica.metadata.errors import InvalidValue, UnitTooLarge
from replica.metadata.model import COMPLETE, AnyObject, Artifact, Context, EdgeKind, Execution, Kind
from replica.metadata.objects import ENDED, LINEAGE, Objects, _text
from replica.metadata.unit import PARTS_MAX, Unit

IN_FLIGHT: Final = 8
"""Transactions on their way at once."""

BYTES_MAX: Final = 512 << 10
"""Content of objects in one transaction, unless a single one is larger."""

_FIXED_PARTS: Final = 4
"""The layout, the audit record, its absence, and the question for it."""


class _Item(msgspec.Struct, frozen=True):
    """One thing to do, and what it adds to a transaction."""

    build: Callable[[Unit], Awaitable[None]]
    conditions: frozenset[tuple[str, int | str]]
    writes: int
    size: int
    creates: int
    """The id of what comes to be; 0 for an edge."""
    joins: tuple[int, ...]
    """Ids that must be there."""
    claims: tuple[bytes, ...] = ()
    """Keys that must not be there."""


class Load:
    """Things on their way into the store; made by `AsyncMetadata.load`, for one task at a time.

    Each call is all or nothing, and calls take effect in their order where one builds on another. An error of one
    refuses those that share its transaction, is raised by a later call or at the end of the block, and ends the load;
    what was acknowledged before stays, and `acknowledged` counts it.
    """

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._held: list[_Item] = []
        self._conditions: set[tuple[str, int | str]] = set()
        self._parts = _FIXED_PARTS
        self._size = 0
        self._homes: dict[int, asyncio.Task[None]] = {}
        """For each object that is not acknowledged yet, the transaction that brings it."""
        self._sent: set[asyncio.Task[None]] = set()
        self._broken: BaseException | None = None
        self.acknowledged = 0
        """Calls that have taken effect for certain."""

    # ------------------------------------------------------------------------------------------------------- objects

    async def put_artifact(
        self,
        type: str,  # noqa: A002 - the word for it
        *,
        name: str | None = None,
        uri: str = "",
        digest: str = "",
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        external_id: str | None = None,
        contexts: Iterable[Ref] = (),
    ) -> int:
        """See `AsyncMetadata.put_artifact`. Returns the id that it will have."""
        return await self._object(
            Artifact,
            "artifact",
            type,
            [("member", id_of(each)) for each in contexts],
            name=name,
            external_id=external_id,
            properties=properties,
            custom=custom,
            uri=uri,
            digest=digest,
        )

    async def put_execution(
        self,
        type: str,  # noqa: A002 - the word for it
        *,
        name: str | None = None,
        state: str = COMPLETE,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        external_id: str | None = None,
        contexts: Iterable[Ref] = (),
    ) -> int:
        """See `AsyncMetadata.put_execution`. Returns the id that it will have."""
        if state not in ENDED:
            raise InvalidValue(f"an execution that has ended is one of {', '.join(sorted(ENDED))}, not {state!r}")
        return await self._object(
            Execution,
            "execution",
            type,
            [("member", id_of(each)) for each in contexts],
            name=name,
            external_id=external_id,
            properties=properties,
            custom=custom,
            state=state,
        )

    async def put_context(
        self,
        type: str,  # noqa: A002 - the word for it
        name: str,
        *,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        external_id: str | None = None,
        parents: Iterable[Ref] = (),
    ) -> int:
        """See `AsyncMetadata.put_context`. Returns the id that it will have."""
        return await self._object(
            Context,
            "context",
            type,
            [("parent", id_of(each)) for each in parents],
            name=name,
            external_id=external_id,
            properties=properties,
            custom=custom,
        )

    # --------------------------------------------------------------------------------------------------------- edges

    async def put_input(self, execution: Ref, artifact: Ref, *, role: str = "") -> None:
        """See `AsyncMetadata.put_input`."""
        await self._edge("input", id_of(artifact), id_of(execution), role, ("artifact", "execution"))

    async def put_output(self, execution: Ref, artifact: Ref, *, role: str = "") -> None:
        """See `AsyncMetadata.put_output`."""
        await self._edge("output", id_of(execution), id_of(artifact), role, ("execution", "artifact"))

    async def attribute(self, artifact: Ref, context: Ref) -> None:
        """See `AsyncMetadata.attribute`."""
        await self._edge("member", id_of(artifact), id_of(context), "", ("artifact", "context"))

    async def associate(self, execution: Ref, context: Ref) -> None:
        """See `AsyncMetadata.associate`."""
        await self._edge("member", id_of(execution), id_of(context), "", ("execution", "context"))

    # ----------------------------------------------------------------------------------------------------- the block

    async def flush(self) -> None:
        """Send what is held, and wait until everything is acknowledged."""
        await self._send()
        while self._sent:
            await self._some()
        self._look()

    async def __aenter__(self) -> Self:
        await self._store.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.finish(error)

    async def finish(self, error: BaseException | None) -> None:
        """Leave the block: everything is acknowledged; after an error, what is held is not sent any more."""
        if error is None and self._broken is None:
            await self.flush()
            return
        self._held = []
        # What is on its way may take effect whether or not anybody waits, so its end is waited for.
        await asyncio.gather(*self._sent, return_exceptions=True)
        self._sent = set()
        if error is None:
            self._look()

    # -------------------------------------------------------------------------------------------------------- inside

    async def _object(
        self,
        make: Any,
        kind: Kind,
        type_name: str,
        places: list[tuple[EdgeKind, int]],
        **fields: Any,
    ) -> int:
        store = self._store
        of = await store.type_in(Unit(store, reading=False), kind, type_name)
        made: AnyObject = store._made(make, of, await store.serial(), **fields)
        for _, place in places:
            await store._expect_kind(place, "context")

        async def build(unit: Unit) -> None:
            # The type may have gained an index since.
            now = await store.type_in(unit, kind, type_name)
            await store._create(unit, now, made)
            for edge, place in places:
                await store._link(unit, edge, made.id, place)

        conditions: set[tuple[str, int | str]] = {("type", of.number), *(("object", place) for _, place in places)}
        names: list[tuple[str, int | str]] = []
        claims: list[bytes] = []
        if made.name is not None:
            names.append(("name", f"{of.number}/{made.name}"))
            claims.append(store.keys.name(of.number, made.name))
        if made.external_id is not None:
            names.append(("external", made.external_id))
            claims.append(store.keys.external(made.external_id))
        await self._add(
            _Item(
                build=build,
                conditions=frozenset(conditions.union(names)),
                writes=1 + len(names) + len(of.index) + len(of.building) + 2 * len(places),
                size=len(encode_object(made)),
                creates=made.id,
                joins=tuple(place for _, place in places),
                claims=tuple(claims),
            )
        )
        return made.id

    async def _edge(self, kind: EdgeKind, source: int, target: int, role: str, kinds: tuple[Kind, Kind]) -> None:
        store = self._store
        _text("a role", role)
        await store._expect_kind(source, kinds[0])
        await store._expect_kind(target, kinds[1])

        async def build(unit: Unit) -> None:
            await store._link(unit, kind, source, target, role)
            unit.touched |= {source: None, target: None}

        conditions: list[tuple[str, int | str]] = [("object", source), ("object", target)]
        conditions += [("tomb", each) for each, of in zip((source, target), kinds, strict=True) if of == "artifact"]
        await self._add(
            _Item(
                build=build,
                conditions=frozenset(conditions if kind in LINEAGE else conditions[:2]),
                writes=2,
                size=2 * len(role),
                creates=0,
                joins=(source, target),
            )
        )

    async def _add(self, item: _Item) -> None:
        self._look()
        more = len(item.conditions - self._conditions) + item.writes
        if self._held and (self._parts + more > PARTS_MAX or self._size + item.size > BYTES_MAX):
            await self._send()
            more = len(item.conditions) + item.writes
        self._held.append(item)
        self._conditions |= item.conditions
        if item.creates:
            # What joins it within the same transaction needs no condition.
            self._conditions |= {("object", item.creates), ("tomb", item.creates)}
        self._parts += more
        self._size += item.size

    async def _send(self) -> None:
        """Put what is held on its way."""
        if not self._held:
            return
        while len(self._sent) >= IN_FLIGHT:
            await self._some()
        self._look()
        items, self._held = self._held, []
        self._conditions, self._parts, self._size = set(), _FIXED_PARTS, 0
        own = [item.creates for item in items if item.creates]
        before = {self._homes[each] for item in items for each in item.joins if each in self._homes}
        task = asyncio.create_task(self._carry(items, before))
        self._sent.add(task)
        for each in own:
            self._homes[each] = task

    async def _carry(self, items: list[_Item], before: set[asyncio.Task[None]]) -> None:
        for task in before:
            await asyncio.shield(task)
        await self._carry_some(items)

    async def _carry_some(self, items: list[_Item]) -> None:
        keys = self._store.keys

        async def build(unit: Unit) -> None:
            if unit.reading:
                own = {item.creates for item in items}
                joins = dict.fromkeys(each for item in items for each in item.joins if each not in own)
                await unit.look_ahead(key for each in joins for key in (keys.object(each), keys.tomb(each)))
                await unit.look_ahead(key for item in items for key in item.claims)
            for item in items:
                await item.build(unit)

        try:
            await self._store.carry_out("load", build)
        except UnitTooLarge:
            if len(items) == 1:
                raise
            # A type has gained an index since they were counted.
            await self._carry_some(items[: len(items) // 2])
            await self._carry_some(items[len(items) // 2 :])
            return
        self.acknowledged += len(items)
        for item in items:
            self._homes.pop(item.creates, None)

    async def _some(self) -> None:
        """Wait until a transaction has ended."""
        done, self._sent = await asyncio.wait(self._sent, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None and self._broken is None:
                self._broken = error

    def _look(self) -> None:
        if self._broken is not None:
            raise self._broken


class Loads(Objects):
    """The loading of many things."""

    def load(self) -> Load:
        """Create very many things, a transaction for as many as it takes::

            async with md.load() as load:
                run = await load.put_execution("Train", name="r1")
                await load.put_output(run, await load.put_artifact("Model", name="m1"))

        The calls are those of the store and answer with ids, at once; at the end of the block everything has taken
        effect. Use the store's own calls where each must have taken effect when it returns.

        Raises, from a later call or at the end of the block:
            AlreadyExists, NotFound and others: something was refused, with what shared its transaction.
        """
        return Load(self)
