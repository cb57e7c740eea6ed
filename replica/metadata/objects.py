"""Types, artifacts, executions, contexts, and the edges between them: how they come to be and change.

Whatever is written goes through `_write`, so that an object, its names and its entries in the indexes are always one
unit; and every edge through `_link`, which writes both of its ends, on condition that what it joins is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from replica.client import ConditionFailed, KeyValue
from replica.client.errors import NotCommitted
from replica.metadata.core import Core, Ref, encode, encode_object, id_of, missing_object, now_ms, object_of, type_of
from replica.metadata.errors import AlreadyExists, CyclicParent, InvalidValue, NotFound, TypeConflict, WrongState
from replica.metadata.keys import tail_id, type_number
from replica.metadata.model import (
    CANCELED,
    COMPLETE,
    DRAFT,
    FAILED,
    KINDS,
    LIVE,
    PURGED,
    SERIAL_BITS,
    TYPES_MAX,
    AnyObject,
    Artifact,
    Context,
    EdgeKind,
    Execution,
    Kind,
    TypeDef,
)
from replica.metadata.unit import Unit
from replica.metadata.values import checked, checked_index, checked_name, declared, free, merged

O = TypeVar("O", bound=Artifact | Execution | Context)  # noqa: E741 - an object

RESERVED: Final = "synod."
"""Types whose names begin so belong to this package."""

BACKFILL_PARTS: Final = 200
"""Conditions and entries in one unit when an index is added to a type."""

ANCESTORS_MAX: Final = 200
"""Contexts above one context: the check for cycles reads them all in one transaction."""


ENDED: Final = frozenset({COMPLETE, FAILED, CANCELED})
"""States that an execution which took place elsewhere may have."""

LINEAGE: Final[Mapping[EdgeKind, tuple[bool, bool]]] = {
    "input": (True, False),
    "output": (False, True),
    "dependency": (True, True),
}
"""Edges of lineage, and which of their ends are artifacts: those alone are ever purged."""


class _Unset:
    """Leave it as it is."""


UNSET: Final = _Unset()
Maybe: TypeAlias = str | _Unset


class Objects(Core):
    """The writing of objects and edges."""

    # --------------------------------------------------------------------------------------------------------- types

    async def define_type(
        self,
        name: str,
        *,
        properties: Mapping[str, Any] | None = None,
        index: Iterable[str] = (),
        kind: Kind = "artifact",
        description: str = "",
    ) -> TypeDef:
        """Define a type, or add to one: properties and indexes, never otherwise. Saying the same again changes nothing.

        Args:
            properties: names to ``int``, ``float``, ``str``, ``bool`` or ``"json"``.
            index: properties (and for artifacts ``uri``, ``digest``) by which `find` shall be quick. An index added to
                a type that has objects already is filled before this returns.

        Raises:
            TypeConflict: a property has another type already.
        """
        if checked_name("a type's name", name).startswith(RESERVED):
            raise InvalidValue(f"names of types that begin with {RESERVED!r} are reserved")
        return await self._define(name, declared(properties or {}), tuple(index), kind, description)

    async def _define(
        self, name: str, properties: dict[str, Any], index: tuple[str, ...], kind: Kind, description: str
    ) -> TypeDef:
        if kind not in KINDS:
            raise InvalidValue(f"a type is one of {', '.join(KINDS)}, not of {kind!r}")
        key = self.keys.type(kind, name)

        async def build(unit: Unit) -> TypeDef:
            item = await unit.get(key)
            if item is None:
                counter = await unit.get(self.keys.type_numbers)
                number = int(counter.value) + 1 if counter is not None else 1
                if number > TYPES_MAX:
                    raise InvalidValue(f"a store has at most {TYPES_MAX} types")
                before = None
                after = TypeDef(name=name, kind=kind, number=number, properties=properties, description=description)
                unit.put(self.keys.type_numbers, b"%d" % number)
                after = msgspec.structs.replace(after, index=checked_index(after, index))
            else:
                before = type_of(item)
                for each, given in properties.items():
                    if before.properties.get(each, given) != given:
                        raise TypeConflict(
                            f"property {each!r} of {name!r} is {before.properties[each]} and cannot become {given}"
                        )
                after = msgspec.structs.replace(
                    before,
                    properties={**before.properties, **properties},
                    description=description or before.description,
                )
                wanted = checked_index(after, index)
                missing = tuple(each for each in wanted if each not in before.index and each not in before.building)
                after = msgspec.structs.replace(after, building=before.building + missing)
            if before is None or msgspec.structs.replace(after, revision=before.revision) != before:
                unit.put(key, encode(msgspec.structs.replace(after, revision=0)))
            return after

        found = await self.carry_out("define type", build, reading=True)
        if found.building:
            await self._backfill(key, found)
        return self._remember(await self.type_at(await self.revision(), name, kind))

    async def _backfill(self, key: bytes, found: TypeDef) -> None:
        """Write the entries of new indexes. Whoever writes an object meanwhile writes its entries, too."""
        first, last = self.keys.objects_of(found.number)
        size = max(1, BACKFILL_PARTS // (1 + len(found.building)))
        async for page in self.scan(first, last, await self.revision(), keys_only=True, page=size):
            keys = [item.key for item in page]

            async def fill(unit: Unit, keys: list[bytes] = keys) -> None:
                await unit.look_ahead(keys)
                for each in keys:
                    item = await unit.get(each)
                    assert item is not None
                    for entry in self._entries(object_of(item), found.building):
                        unit.put(entry)

            await self.carry_out("fill index", fill, reading=True)

        async def finish(unit: Unit) -> None:
            item = await unit.get(key)
            assert item is not None
            now = type_of(item)
            done = tuple(each for each in found.building if each in now.building)
            if done:
                rest = tuple(each for each in now.building if each not in done)
                after = msgspec.structs.replace(now, index=now.index + done, building=rest, revision=0)
                unit.put(key, encode(after))

        await self.carry_out("finish index", finish, reading=True)

    async def types(self, *, kind: Kind | None = None, at: int | None = None) -> list[TypeDef]:
        """All types, by kind and name."""
        found = await self.types_at(await self.at(at), kind)
        return sorted(found, key=lambda each: (KINDS.index(each.kind), each.name))

    async def type(self, name: str, *, kind: Kind | None = None, at: int | None = None) -> TypeDef:
        """A type. Raises `UnknownType`."""
        return await self.type_at(await self.at(at), name, kind)

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
    ) -> Artifact:
        """Create an artifact, in ``contexts``.

        Raises:
            UnknownType, UnknownProperty, WrongValue: nothing was created.
            AlreadyExists: another object of the type has the name, or some object the external id.
        """
        places = [id_of(each) for each in contexts]
        serial = await self.serial()

        async def build(unit: Unit) -> Artifact:
            of = await self.type_in(unit, "artifact", type)
            made = self._made(
                Artifact,
                of,
                serial,
                name=name,
                external_id=external_id,
                properties=properties,
                custom=custom,
                uri=uri,
                digest=digest,
            )
            await self._create(unit, of, made)
            for place in places:
                await self._link(unit, "member", made.id, place)
            return made

        return await self.carry_out("put artifact", build)

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
    ) -> Execution:
        """Record an execution that took place elsewhere, in its final state. For one that runs now see `execution`."""
        if state not in ENDED:
            raise InvalidValue(f"an execution that has ended is one of {', '.join(sorted(ENDED))}, not {state!r}")
        places = [id_of(each) for each in contexts]
        serial = await self.serial()

        async def build(unit: Unit) -> Execution:
            of = await self.type_in(unit, "execution", type)
            made = self._made(
                Execution,
                of,
                serial,
                name=name,
                external_id=external_id,
                properties=properties,
                custom=custom,
                state=state,
            )
            await self._create(unit, of, made)
            for place in places:
                await self._link(unit, "member", made.id, place)
            return made

        return await self.carry_out("put execution", build)

    async def put_context(
        self,
        type: str,  # noqa: A002 - the word for it
        name: str,
        *,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        external_id: str | None = None,
        parents: Iterable[Ref] = (),
    ) -> Context:
        """Create a context. Contexts have names."""
        above = [id_of(each) for each in parents]
        serial = await self.serial()

        async def build(unit: Unit) -> Context:
            of = await self.type_in(unit, "context", type)
            made = self._made(
                Context,
                of,
                serial,
                name=name,
                external_id=external_id,
                properties=properties,
                custom=custom,
            )
            await self._create(unit, of, made)
            for parent in above:
                await self._expect_kind(parent, "context")
                await self._link(unit, "parent", made.id, parent)
            return made

        return await self.carry_out("put context", build)

    async def update(
        self,
        ref: Ref,
        *,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        uri: Maybe = UNSET,
        digest: Maybe = UNSET,
        name: Maybe = UNSET,
        if_revision: int | None = None,
    ) -> AnyObject:
        """Change an object: properties given as None are taken away, those not given stay.

        Concurrent updates of different properties all take effect. With ``if_revision``, only if the object was last
        changed there.

        Raises:
            WrongState: it is published, archived or purged, which is for ever.
            replica.client.ConditionFailed: ``if_revision`` did not hold.
        """
        identity = id_of(ref)

        async def build(unit: Unit) -> AnyObject:
            before = await self._object_in(unit, identity)
            if if_revision is not None and before.revision != if_revision:
                raise ConditionFailed(f"{before.label} was changed at {before.revision}", before.revision)
            self._mutable(before)
            of = await self.type_in(unit, before.kind, before.type)
            changes: dict[str, Any] = {}
            for field, value in (("uri", uri), ("digest", digest)):
                if not isinstance(value, _Unset):
                    if not isinstance(before, Artifact):
                        raise InvalidValue(f"{before.label} is no artifact and has no {field}")
                    changes[field] = _text(field, value)
            if not isinstance(name, _Unset):
                changes["name"] = checked_name("a name", name)
                if before.name != name:
                    if before.name is not None:
                        unit.delete(self.keys.name(of.number, before.name))
                    await self._claim_name(unit, of, changes["name"], identity)
            after = self._changed(of, before, {"properties": properties, "custom": custom}, **changes)
            self._write(unit, of, before, after)
            return after

        return await self.carry_out("update", build, reading=True)

    # --------------------------------------------------------------------------------------------------------- edges

    async def put_input(self, execution: Ref, artifact: Ref, *, role: str = "") -> None:
        """The execution took the artifact. Saying it again changes the role."""
        await self._put_edge("input", id_of(artifact), id_of(execution), role, ("artifact", "execution"))

    async def put_output(self, execution: Ref, artifact: Ref, *, role: str = "") -> None:
        """The execution made the artifact."""
        await self._put_edge("output", id_of(execution), id_of(artifact), role, ("execution", "artifact"))

    async def attribute(self, artifact: Ref, context: Ref) -> None:
        """The artifact belongs to the context."""
        await self._put_edge("member", id_of(artifact), id_of(context), "", ("artifact", "context"))

    async def associate(self, execution: Ref, context: Ref) -> None:
        """The execution belongs to the context."""
        await self._put_edge("member", id_of(execution), id_of(context), "", ("execution", "context"))

    async def _put_edge(self, kind: EdgeKind, source: int, target: int, role: str, kinds: tuple[Kind, Kind]) -> None:
        _text("a role", role)

        async def build(unit: Unit) -> None:
            await self._expect_kind(source, kinds[0])
            await self._expect_kind(target, kinds[1])
            await self._link(unit, kind, source, target, role)
            unit.touched |= {source: None, target: None}

        await self.carry_out(f"put {kind}", build)

    async def add_parent(self, context: Ref, parent: Ref) -> None:
        """The context lies within the parent.

        Raises:
            CyclicParent: the parent lies within the context, or is it.
        """
        child, above = id_of(context), id_of(parent)

        async def build(unit: Unit) -> None:
            await self._expect_kind(child, "context")
            await self._expect_kind(above, "context")
            # Everything above the parent is read, and none of it may change before this takes effect.
            front, seen = [above], {above}
            while front:
                here = front.pop()
                if here == child:
                    raise CyclicParent(f"context {child} would become its own ancestor through {above}")
                for item in await unit.range(self.keys.edges_of(here, b"pp")):
                    upper = tail_id(item.key)
                    if upper not in seen:
                        seen.add(upper)
                        front.append(upper)
                if len(seen) > ANCESTORS_MAX:
                    raise InvalidValue(f"context {above} has more than {ANCESTORS_MAX} contexts above it")
            await self._link(unit, "parent", child, above)
            unit.touched |= {child: None, above: None}

        await self.carry_out("add parent", build, reading=True)

    # -------------------------------------------------------------------------------------------------------- inside

    def _made(
        self,
        make: Callable[..., O],
        of: TypeDef,
        serial: int,
        *,
        name: str | None = None,
        external_id: str | None = None,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> O:
        """A new object, checked."""
        time_ms = now_ms()
        for field in ("uri", "digest"):
            if field in more:
                more[field] = _text(field, more[field])
        return make(
            id=of.number << SERIAL_BITS | serial,
            type=of.name,
            name=None if name is None else checked_name("a name", name),
            external_id=None if external_id is None else checked_name("an external id", external_id),
            properties=merged({}, checked(of, properties or {})),
            custom=merged({}, free(custom or {})),
            create_time_ms=time_ms,
            update_time_ms=time_ms,
            **more,
        )

    def _changed(self, of: TypeDef, before: O, changes: Mapping[str, Any], **more: Any) -> O:
        """An object with some properties changed, checked."""
        return msgspec.structs.replace(
            before,
            properties=merged(before.properties, checked(of, changes.get("properties") or {})),
            custom=merged(before.custom, free(changes.get("custom") or {})),
            update_time_ms=now_ms(),
            revision=0,
            **more,
        )

    async def _create(self, unit: Unit, of: TypeDef, made: AnyObject) -> None:
        """Write a new object with its names and index entries."""
        if made.name is not None:
            await self._claim_name(unit, of, made.name, made.id)
        if made.external_id is not None:
            external = self.keys.external(made.external_id)
            await unit.absent(external, _taken(f"the external id {made.external_id!r} is taken"))
            unit.put(external, b"%d" % made.id)
        self._write(unit, of, None, made)
        unit.created.add(made.id)

    async def _claim_name(self, unit: Unit, of: TypeDef, name: str, identity: int) -> None:
        key = self.keys.name(of.number, name)
        await unit.absent(key, _taken(f"the name {name!r} is taken among {of.name!r}"))
        unit.put(key, b"%d" % identity)

    def _write(self, unit: Unit, of: TypeDef, before: AnyObject | None, after: AnyObject) -> None:
        """Put an object and what the indexes say of it."""
        fields = of.index + of.building
        old = set() if before is None else set(self._entries(before, fields))
        new = set(self._entries(after, fields))
        for entry in old - new:
            unit.delete(entry)
        # An index that is being filled may lack the entry of an object that stays as it was.
        for entry in new if of.building else new - old:
            unit.put(entry)
        unit.put(self.keys.object(after.id), encode_object(after))
        unit.touched[after.id] = None

    def _entries(self, of: AnyObject, fields: Iterable[str]) -> list[bytes]:
        """What the indexes hold for an object."""
        if isinstance(of, Artifact) and of.state == PURGED:
            return []
        found = []
        for field in fields:
            value = of.properties.get(field)
            if value is None and isinstance(of, Artifact) and field in {"uri", "digest"}:
                value = getattr(of, field) or None
            if value is not None:
                found.append(self.keys.entry(type_number(of.id), field, value, of.id))
        return found

    async def _object_in(self, unit: Unit, identity: int) -> AnyObject:
        """An object that must stay as it is until the unit takes effect. Raises `NotFound`."""
        item = await unit.get(self.keys.object(identity))
        if item is None:
            raise NotFound(f"there is no object {identity}")
        return object_of(item)

    async def _expect_kind(self, identity: int, kind: Kind) -> None:
        """Raises `NotFound` or `InvalidValue` unless the id is of an object of that kind."""
        number = type_number(identity)
        for attempt in range(2):
            for found in self._types.values():
                if found.number == number:
                    if found.kind != kind:
                        raise InvalidValue(f"object {identity} is of the {found.kind} type {found.name!r}, not {kind}")
                    return
            if attempt == 0:
                for each in await self.types_at(await self.revision()):
                    self._remember(each)
        raise NotFound(f"there is no object {identity}")

    async def _link(self, unit: Unit, kind: EdgeKind, source: int, target: int, role: str = "") -> None:
        """Write both ends of an edge, on condition that both nodes are there, and not purged."""
        for identity, purgeable in zip((source, target), LINEAGE.get(kind, (False, False)), strict=True):
            if identity in unit.created:
                continue
            await unit.present(self.keys.object(identity), missing_object(identity))
            if purgeable:
                await unit.absent(self.keys.tomb(identity), _purged(identity))
        there, back = self.keys.edge(kind, source, target)
        content = role.encode()
        unit.put(there, content)
        unit.put(back, content)

    def _mutable(self, before: AnyObject) -> None:
        if isinstance(before, Artifact) and before.state not in {LIVE, DRAFT}:
            raise WrongState(f"{before.label} is {before.state}, and that is immutable")


def _taken(text: str) -> Any:
    def make(item: KeyValue | None) -> NotCommitted:
        if item is None:
            return AlreadyExists(f"{text}, by another object of the same call")
        return AlreadyExists(f"{text} by object {item.value.decode()}", int(item.value))

    return make


def _purged(identity: int) -> Any:
    def make(_item: KeyValue | None) -> NotCommitted:
        return WrongState(f"object {identity} was purged")

    return make


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue(f"{what} is text, not {type(value).__name__}")
    return value
