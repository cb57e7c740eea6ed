"""Asking: find, lineage, history, differences, and the typed watch.

Every answer shows one revision. A find narrows the search by what the filter demands at its top level (a name, a
context, an indexed field), reads the objects that are left page by page, and judges each of them by the whole filter;
so an index makes it quicker and never changes what is found. What a client holds is a page of answers and a page of
candidates, however many objects there are.
"""

from __future__ import annotations

import base64
import binascii
import heapq
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from replica.client import AsyncWatch, Get, WatchBatch
from replica.client.errors import Compacted
from replica.kv.operations import prefix_end
from replica.metadata.core import Core, Ref, id_of, object_of
from replica.metadata.errors import FilterError, InvalidValue, NotFound, StaleRevision, UnknownProperty
from replica.metadata.filters import (
    ATTRIBUTES,
    Comparison,
    Field,
    Node,
    check,
    conjuncts,
    holds,
    literal_prefix,
    parse,
    predicates,
)
from replica.metadata.keys import ALIAS, KIND_AT_SOURCE, KIND_AT_TARGET, tail_id, type_number, value_part
from replica.metadata.model import (
    AnyObject,
    Change,
    Context,
    Edge,
    EdgeKind,
    History,
    Kind,
    Lineage,
    Page,
    TypeDef,
)
from replica.metadata.values import is_nan

LIMIT: Final = 100
"""Objects on a page, unless a find says otherwise."""

LIMIT_MAX: Final = 10_000

CANDIDATES: Final = 512
"""Candidates that are read and judged at once."""

NODES_MAX: Final = 100_000
"""Nodes in one lineage; what lies beyond is cut, and said to be."""

HISTORY_MAX: Final = 1000
"""States in one history, unless it is told otherwise."""

Direction: TypeAlias = Literal["up", "down", "both"]
_LETTERS: Final[Mapping[str, tuple[bytes, ...]]] = {"up": (b"u",), "down": (b"d",), "both": (b"d", b"u")}


class _Token(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ends: the revision, the question, and the place of the last object in the order."""

    revision: int
    question: str
    place: list[Any]


class Queries(Core):
    """The reading of many objects."""

    # ---------------------------------------------------------------------------------------------------------- find

    async def find(
        self,
        type: str | None = None,  # noqa: A002 - the word for it
        filter: str = "",  # noqa: A002 - the word for it
        *,
        kind: Kind | None = None,
        order_by: str = "id",
        limit: int = LIMIT,
        page: str | None = None,
        at: int | None = None,
    ) -> Page:
        """Objects of a type (or of all types of a kind) of which a filter holds; see `replica.metadata.filters`.

        Args:
            order_by: a field; with ``-`` before it, the greatest first. What has no value comes last.
            limit: objects on a page.
            page: ``next`` of the page before; the answer shows the same revision. Ask the same otherwise.
            at: the revision to show; the newest if left out.

        Raises:
            FilterError: the filter or the order makes no sense; its ``position`` says where.
            UnknownType, UnknownProperty: there is no such type or property.
            StaleRevision: ``at`` or the page's revision has been compacted.
        """
        if not 1 <= limit <= LIMIT_MAX:
            raise InvalidValue(f"a page has 1 to {LIMIT_MAX} objects, not {limit!r}")
        question = repr((type, filter, kind, order_by))
        token = _read_token(page, question, at)
        revision = token.revision if token is not None else await self.at(at)
        search = await self._search(type, kind, filter, order_by, revision)
        after = tuple(token.place) if token is not None else None
        found = await self._best(search, limit, after)
        more = None
        if len(found) > limit:
            found = found[:limit]
            more = _write_token(_Token(revision, question, list(search.place(found[-1]))))
        return Page(items=tuple(found), revision=revision, next=more)

    async def find_all(
        self,
        type: str | None = None,  # noqa: A002
        filter: str = "",  # noqa: A002
        *,
        kind: Kind | None = None,
        at: int | None = None,
    ) -> AsyncIterator[AnyObject]:
        """All objects of which a filter holds, one by one in the order of ids, all at one revision."""
        search = await self._search(type, kind, filter, "id", await self.at(at))
        async for some in self._matches(search, None):
            for each in some:
                yield each

    async def _search(
        self, type_name: str | None, kind: Kind | None, source: str, order_by: str, revision: int
    ) -> _Search:
        types = (
            [await self.type_at(revision, type_name, kind)]
            if type_name is not None
            else await self.types_at(revision, kind)
        )
        node = parse(source)

        def type_of_field(field: Field) -> str | None:
            if field.of == "custom":
                return None
            if not field.of:
                return ATTRIBUTES[field.name]
            kinds = {each.properties[field.name] for each in types if field.name in each.properties}
            if not kinds:
                known = ", ".join(sorted({name for each in types for name in each.properties}))
                text = f"no property {field.name!r} at position {field.position} (there are: {known or 'none'})"
                raise UnknownProperty(text)
            return kinds.pop() if len(kinds) == 1 else None

        check(node, source, type_of_field)
        order, descending = _order(order_by)
        type_of_field(order)
        return _Search(sorted(types, key=lambda each: each.number), node, revision, order, descending)

    async def _best(self, search: _Search, limit: int, after: tuple[Any, ...] | None) -> list[AnyObject]:
        """The first ``limit + 1`` objects behind a place."""
        by_id = search.order == Field("", "id") and not search.descending
        begin = after[-1] + 1 if after is not None and by_id else None
        kept: list[AnyObject] = []
        async for some in self._matches(search, begin):
            new = [each for each in some if after is None or search.place(each) > after]
            kept = heapq.nsmallest(limit + 1, kept + new, key=search.place)
            if by_id and len(kept) > limit:
                break
        return kept

    async def _matches(self, search: _Search, begin: int | None) -> AsyncIterator[list[AnyObject]]:
        """Objects of which the filter holds, some at a time, by id unless an index gives another order."""
        async for some in self._candidates(search, begin):
            objects = [each for each in await self.revived(some, search.revision) if each is not None]
            yield await self._judge(search, objects)

    async def _candidates(self, search: _Search, begin: int | None) -> AsyncIterator[list[AnyObject | None]]:
        revision = search.revision
        numbers = {each.number for each in search.types}
        ids = await self._narrowed(search)
        if ids is not None:
            chosen = sorted(each for each in ids if type_number(each) in numbers and (begin is None or each >= begin))
            for start in range(0, len(chosen), CANDIDATES):
                items = await self.fetch_all(
                    [self.keys.object(each) for each in chosen[start : start + CANDIDATES]], revision
                )
                yield [None if item is None else object_of(item) for item in items]
            return
        for of in search.types:
            ends = self._index_interval(of, search.node)
            if ends is not None and begin is None and search.order != Field("", "id"):
                async for page in self.scan(*ends, revision, keys_only=True, page=CANDIDATES):
                    items = await self.fetch_all([self.keys.object(tail_id(item.key)) for item in page], revision)
                    yield [None if item is None else object_of(item) for item in items]
                continue
            if ends is not None:
                # The order of ids is wanted, and the index has another: its ids are sorted here.
                found = [
                    tail_id(item.key) async for page in self.scan(*ends, revision, keys_only=True) for item in page
                ]
                chosen = sorted(each for each in found if begin is None or each >= begin)
                for start in range(0, len(chosen), CANDIDATES):
                    items = await self.fetch_all(
                        [self.keys.object(each) for each in chosen[start : start + CANDIDATES]], revision
                    )
                    yield [None if item is None else object_of(item) for item in items]
                continue
            first, last = self.keys.objects_of(of.number)
            if begin is not None:
                first = max(first, self.keys.object(begin))
            if first < last:
                async for page in self.scan(first, last, revision, page=CANDIDATES):
                    yield [object_of(item) for item in page]

    async def _narrowed(self, search: _Search) -> set[int] | None:
        """The only objects that can be meant, where the filter demands an id, a name or a context."""
        for each in conjuncts(search.node):
            if each.field.of or each.relation not in {"=", "IN"}:
                continue
            values = each.value if each.relation == "IN" else (each.value,)
            match each.field.name:
                case "id":
                    return {value for value in values if isinstance(value, int) and 0 < value < 1 << 63}
                case "name":
                    keys = [self.keys.name(of.number, str(value)) for of in search.types for value in values]
                    return await self._named(keys, search.revision)
                case "external_id":
                    return await self._named([self.keys.external(str(value)) for value in values], search.revision)
                case "context":
                    kinds = await self.types_at(search.revision, "context")
                    keys = [self.keys.name(of.number, str(value)) for of in kinds for value in values]
                    return await self._members(await self._named(keys, search.revision), search.revision)
                case "context_id":
                    whole = {value for value in values if isinstance(value, int) and 0 < value < 1 << 63}
                    return await self._members(whole, search.revision)
        return None

    async def _named(self, keys: Sequence[bytes], revision: int) -> set[int]:
        return {int(item.value) for item in await self.fetch_all(keys, revision) if item is not None}

    async def _members(self, contexts: set[int], revision: int) -> set[int]:
        found: set[int] = set()
        for context in contexts:
            prefix = self.keys.edges_of(context, b"mm")
            async for page in self.scan_prefix(prefix, revision, keys_only=True):
                found.update(tail_id(item.key) for item in page)
        return found

    def _index_interval(self, of: TypeDef, node: Node | None) -> tuple[bytes, bytes] | None:
        """The part of an index in which everything lies that can be meant; None when no index helps."""
        found: dict[str, tuple[int, bytes, bytes]] = {}
        for each in conjuncts(node):
            name = each.field.name
            declared = each.field.of == "properties" and name in of.properties
            attribute = not each.field.of and of.kind == "artifact" and name in {"uri", "digest"}
            # An attribute may be shadowed by a property of its name, whose values then stand in the index.
            if name not in of.index or not (declared or (attribute and name not in of.properties)):
                continue
            ends = _interval(self.keys.index(of.number, name), each)
            if ends is None:
                continue
            rank = {"=": 0, "LIKE": 1}.get(each.relation, 3)
            if name in found:
                # Two comparisons of one field bound it from both sides.
                before, first, last = found[name]
                found[name] = min(before, rank, 2), max(first, ends[0]), min(last, ends[1])
            else:
                found[name] = rank, *ends
        if not found:
            return None
        _, first, last = min(found.values())
        return first, max(first, last)

    async def _judge(self, search: _Search, found: Sequence[AnyObject]) -> list[AnyObject]:
        """Those of which the filter holds."""
        contexts: dict[int, list[Context]] = {}
        if search.needs_contexts:
            for each in found:
                contexts[each.id] = await self.contexts_of(each, at=search.revision)
        return [each for each in found if holds(search.node, _values(each, contexts.get(each.id, []))) is True]

    # ------------------------------------------------------------------------------------------------------ neighbours

    async def by_name(self, type: str, name: str, *, kind: Kind | None = None, at: int | None = None) -> AnyObject:  # noqa: A002
        """The object of a type that has a name. Raises `NotFound`, `UnknownType`."""
        revision = await self.at(at)
        of = await self.type_at(revision, type, kind)
        ids = await self._named([self.keys.name(of.number, name)], revision)
        for found in await self.objects_at(ids, revision):
            if found is not None:
                return found
        raise NotFound(f"no {type} is called {name!r} at revision {revision}")

    async def by_external_id(self, external_id: str, *, at: int | None = None) -> AnyObject:
        """The object with an external id. Raises `NotFound`."""
        revision = await self.at(at)
        ids = await self._named([self.keys.external(external_id)], revision)
        for found in await self.objects_at(ids, revision):
            if found is not None:
                return found
        raise NotFound(f"nothing has the external id {external_id!r} at revision {revision}")

    async def edges(self, ref: Ref, *, at: int | None = None) -> list[Edge]:
        """All edges of an object, in both directions."""
        return await self._edges(id_of(ref), b"", await self.at(at))

    async def contexts_of(self, ref: Ref, *, at: int | None = None) -> list[Context]:
        """The contexts that an artifact or execution belongs to."""
        return await self._neighbours(ref, b"mc", at, Context)

    async def parents_of(self, context: Ref, *, at: int | None = None) -> list[Context]:
        """The contexts that a context lies within, one step up."""
        return await self._neighbours(context, b"pp", at, Context)

    async def children_of(self, context: Ref, *, at: int | None = None) -> list[Context]:
        """The contexts that lie within a context, one step down."""
        return await self._neighbours(context, b"pc", at, Context)

    async def members_of(self, context: Ref, *, at: int | None = None) -> AsyncIterator[AnyObject]:
        """The artifacts and executions of a context, one by one."""
        revision = await self.at(at)
        prefix = self.keys.edges_of(id_of(context), b"mm")
        async for page in self.scan_prefix(prefix, revision, keys_only=True):
            for found in await self.objects_at([tail_id(item.key) for item in page], revision):
                if found is not None:
                    yield found

    async def _neighbours(self, ref: Ref, letters: bytes, at: int | None, kind: type[Context]) -> list[Context]:
        revision = await self.at(at)
        prefix = self.keys.edges_of(id_of(ref), letters)
        ids = [tail_id(item.key) async for page in self.scan_prefix(prefix, revision, keys_only=True) for item in page]
        return [each for each in await self.objects_at(ids, revision) if isinstance(each, kind)]

    async def _edges(self, identity: int, letters: bytes, revision: int) -> list[Edge]:
        prefix = self.keys.edges_of(identity, letters)
        begin = len(self.keys.edges_of(identity))
        found = []
        async for page in self.scan_prefix(prefix, revision):
            for item in page:
                here = item.key[begin : begin + 2]
                if here != ALIAS and (edge := edge_of(identity, here, tail_id(item.key), item.value)) is not None:
                    found.append(edge)
        return found

    # ------------------------------------------------------------------------------------------------------- lineage

    async def lineage(
        self,
        ref: Ref,
        *,
        direction: Direction = "both",
        hops: int = 10,
        stop: str = "",
        at: int | None = None,
        nodes_max: int = NODES_MAX,
    ) -> Lineage:
        """What an object was made from (``up``), and what was made of it (``down``), breadth first, at one revision.

        Args:
            hops: edges between the object and the farthest shown; an execution is a hop between its artifacts.
            stop: a filter; nodes of which it holds are shown, and not gone beyond.
            nodes_max: nodes shown; ``cut`` names those beyond which there is more.

        ``both`` follows one direction from the object up and one down, not the siblings.
        """
        if direction not in _LETTERS:
            raise InvalidValue(f"a direction is up, down or both, not {direction!r}")
        if hops < 0:
            raise InvalidValue(f"hops are counted from 0, not {hops!r}")
        if not 1 <= nodes_max <= NODES_MAX:
            raise InvalidValue(f"a lineage has 1 to {NODES_MAX} nodes, not {nodes_max!r}")
        root = id_of(ref)
        revision = await self.at(at)
        stopping = await self._search(None, None, stop, "id", revision)
        (found,) = await self.objects_at([root], revision)
        if found is None:
            raise NotFound(f"there is no object {root} at revision {revision}")
        nodes: dict[int, AnyObject] = {root: found}
        depth = {root: 0}
        edges: dict[tuple[int, int, str], Edge] = {}
        cut: set[int] = set()
        for letters in _LETTERS[direction]:
            front, seen = [root], {root}
            for hop in range(hops + 1):
                if stopping.node is not None:
                    ends = {each.id for each in await self._judge(stopping, [nodes[each] for each in front])}
                    front = [each for each in front if each not in ends]
                if not front:
                    break
                if hop == hops:
                    for each in front:
                        if await self._edges_some(each, letters, revision):
                            cut.add(each)
                    break
                front = await self._expand(
                    front=front,
                    letters=letters,
                    revision=revision,
                    nodes=nodes,
                    depth=depth,
                    edges=edges,
                    seen=seen,
                    cut=cut,
                    hop=hop,
                    nodes_max=nodes_max,
                )
        return Lineage(
            root=root,
            direction=direction,
            nodes=nodes,
            edges=tuple(edges.values()),
            depth=depth,
            cut=frozenset(cut),
            revision=revision,
        )

    async def _expand(
        self,
        *,
        front: list[int],
        letters: bytes,
        revision: int,
        nodes: dict[int, AnyObject],
        depth: dict[int, int],
        edges: dict[tuple[int, int, str], Edge],
        seen: set[int],
        cut: set[int],
        hop: int,
        nodes_max: int,
    ) -> list[int]:
        """One hop: the edges of all nodes of the front, and the nodes at their ends that are new."""
        reached: dict[int, None] = {}
        for each in front:
            for edge in await self._edges(each, letters, revision):
                other = edge.target if edge.source == each else edge.source
                if other not in seen and other not in reached:
                    if len(nodes) + len(reached) >= nodes_max:
                        cut.add(each)
                        continue
                    reached[other] = None
                edges[edge.source, edge.target, edge.kind] = edge
        seen.update(reached)
        new = [each for each in reached if each not in nodes]
        for each, found in zip(new, await self.objects_at(new, revision), strict=True):
            assert found is not None, f"an edge leads to {each}, which is not there"
            nodes[each] = found
        for each in reached:
            depth.setdefault(each, hop + 1)
        return list(reached)

    async def _edges_some(self, identity: int, letters: bytes, revision: int) -> bool:
        prefix = self.keys.edges_of(identity, letters)
        async for page in self.scan(prefix, prefix_end(prefix), revision, keys_only=True, page=1):
            return bool(page)
        return False

    # ------------------------------------------------------------------------------------------- history and changes

    async def history(self, ref: Ref, *, limit: int = HISTORY_MAX, at: int | None = None) -> History:
        """The states of an object, the newest first, as far back as they have not been compacted."""
        identity = id_of(ref)
        revision = await self.at(at)
        key = self.keys.object(identity)
        states: list[AnyObject] = []
        item = (await self.fetch(Get(key, revision))).item
        if item is None:
            raise NotFound(f"there is no object {identity} at revision {revision}")
        complete = True
        while item is not None:
            state = object_of(item)
            states.append(state if states else (await self.revived([state], revision))[0] or state)
            if item.mod_revision == item.create_revision:
                break
            if len(states) >= limit:
                complete = False
                break
            try:
                item = (await self.fetch(Get(key, item.mod_revision - 1))).item
            except StaleRevision:
                complete = False
                break
        return History(states=tuple(states), complete=complete)

    async def diff(
        self,
        before: int,
        after: int,
        *,
        type: str | None = None,  # noqa: A002
        kind: Kind | None = None,
    ) -> AsyncIterator[Change]:
        """What changed between two revisions: each object that did, as it was at ``before`` and as it was at ``after``.

        Objects are never removed (a purged one remains, emptied), so that is all. By id; one page is held at a time.

        Raises:
            StaleRevision: either has been compacted.
        """
        if not 0 < before <= after:
            raise InvalidValue(f"a difference goes from an earlier to a later revision, not from {before} to {after}")
        await self.open()
        types = [await self.type_at(after, type, kind)] if type is not None else await self.types_at(after, kind)
        for of in sorted(types, key=lambda each: each.number):
            async for page in self.scan(*self.keys.objects_of(of.number), after):
                changed = [item for item in page if item.mod_revision > before]
                older = await self.fetch_all([item.key for item in changed], before)
                for item, old in zip(changed, older, strict=True):
                    yield Change(
                        revision=item.mod_revision,
                        before=None if old is None else object_of(old),
                        after=object_of(item),
                    )

    async def watch(
        self,
        type: str | None = None,  # noqa: A002
        *,
        kind: Kind | None = None,
        revision: int = 0,
    ) -> Changes:
        """Hear of every object that is created or changed, once each and in order, from ``revision`` on or from now.

        An execution whose program died is told of when somebody has marked it (`reap`).
        """
        await self.open()
        number = None
        if type is not None:
            number = (await self.type_at(await self.revision(), type, kind)).number
        first, last = (
            self.keys.objects_of(number) if number is not None else (self.keys.objects, prefix_end(self.keys.objects))
        )
        watch = self.store.watch(first=first, last=last, revision=revision, deletes=False, previous=True)
        if not revision:
            await watch.begin()
        return Changes(watch, kind if number is None else None)


class Changes:
    """A watch of objects: ``async for change in changes``. For one task at a time."""

    def __init__(self, watch: AsyncWatch, kind: Kind | None) -> None:
        self._watch = watch
        self._kind = kind
        self._ready: list[Change] = []

    @property
    def revision(self) -> int:
        """The first revision of which not everything was told yet."""
        return self._ready[0].revision if self._ready else self._watch.revision

    async def next(self) -> Change:
        """The next change, once there is one. Raises `StaleRevision` when it has been compacted."""
        while not self._ready:
            try:
                batch = await self._watch.next()
            except Compacted as error:
                raise StaleRevision(error.reason, error.revision) from None
            self._ready = [each for each in changes_in(batch) if self._kind in {None, each.after.kind}]
        return self._ready.pop(0)

    def __aiter__(self) -> Changes:
        return self

    async def __anext__(self) -> Change:
        return await self.next()

    def close(self) -> None:
        """Hear no more."""
        self._watch.close()


def changes_in(batch: WatchBatch) -> list[Change]:
    """The objects in a batch of events."""
    return [
        Change(
            revision=batch.revision,
            before=None if event.previous is None else object_of(event.previous),
            after=object_of(event.item),
        )
        for event in batch.events
    ]


class _Search(msgspec.Struct):
    """A find, understood."""

    types: list[TypeDef]
    node: Node | None
    revision: int
    order: Field
    descending: bool

    @property
    def needs_contexts(self) -> bool:
        return any(each.field.multiple for each in predicates(self.node))

    def place(self, of: AnyObject) -> tuple[Any, ...]:
        """Where an object stands in the order; ends with its id, so that no two stand in one place."""
        if self.order.name == "id" and not self.order.of:
            return (-of.id if self.descending else of.id, of.id)
        value = _values(of, [])(self.order)
        if value is None or is_nan(value) or not isinstance(value, bool | int | float | str):
            return (2, 0, of.id)
        if isinstance(value, str):
            return (1, _reversed(value) if self.descending else value, of.id)
        return (0, -value if self.descending else value, of.id)


def _reversed(text: str) -> tuple[int, ...]:
    """Sorts the other way round: the greatest text first, a longer one before what it begins with."""
    return (*(-ord(character) for character in text), 1)


def _values(of: AnyObject, contexts: Sequence[Context]) -> Callable[[Field], Any]:
    """The fields of an object."""

    def value(field: Field) -> Any:
        if field.of == "properties":
            return of.properties.get(field.name)
        if field.of == "custom":
            return of.custom.get(field.name)
        if field.name == "context":
            return [each.name for each in contexts]
        if field.name == "context_id":
            return [each.id for each in contexts]
        found = getattr(of, field.name, None)
        # Text that was never given is absent.
        return None if found == "" else found

    return value


def _order(text: str) -> tuple[Field, bool]:
    """The field of an order, and whether the greatest comes first. Raises `FilterError`."""
    descending = text.startswith("-")
    name = text[1:] if descending else text
    of, dot, rest = name.partition(".")
    if dot and of in {"properties", "custom"} and rest:
        return Field(of, rest, int(descending)), descending
    if name not in ATTRIBUTES or Field("", name).multiple:
        known = ", ".join(each for each in ATTRIBUTES if not Field("", each).multiple)
        raise FilterError(
            f"nothing is ordered by {name!r}; there are properties.NAME, custom.NAME, {known}", text, int(descending)
        )
    return Field("", name), descending


def _interval(begin: bytes, each: Comparison) -> tuple[bytes, bytes] | None:
    """Where in an index everything lies of which a comparison may hold. Wider is allowed, narrower is not."""
    if each.relation == "LIKE":
        prefix = begin + value_part(literal_prefix(each.value))[:-1]
        return prefix, prefix_end(prefix)
    if each.relation in {"IN", "!="}:
        return None
    part = value_part(each.value)
    # Long text counts with its beginning alone: what is equal there may lie on either side.
    same = begin + (part[:-1] if part[:1] == b"s" else part)
    kind = begin + part[:1]
    match each.relation:
        case "=":
            return begin + part, prefix_end(begin + part)
        case "<" | "<=":
            return kind, prefix_end(same)
        case _:
            return same, prefix_end(kind)


def _write_token(token: _Token) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def _read_token(text: str | None, question: str, at: int | None) -> _Token | None:
    """Raises `InvalidValue`."""
    if text is None:
        return None
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        token = msgspec.msgpack.decode(content, type=_Token)
    except (ValueError, binascii.Error, msgspec.MsgspecError, AttributeError, TypeError):
        raise InvalidValue(f"{text!r} is no page token of this store") from None
    if token.question != question or at not in {None, token.revision}:
        raise InvalidValue("the page token belongs to another question: ask the same with it, or leave it out")
    return msgspec.structs.replace(token, place=[tuple(x) if isinstance(x, list) else x for x in token.place])


def edge_of(identity: int, letters: bytes, other: int, role: bytes) -> Edge | None:
    """The edge that stands at a node; None for letters that stand for none."""
    kind: EdgeKind | None
    if (kind := KIND_AT_SOURCE.get(letters)) is not None:
        return Edge(source=identity, target=other, kind=kind, role=role.decode())
    if (kind := KIND_AT_TARGET.get(letters)) is not None:
        return Edge(source=other, target=identity, kind=kind, role=role.decode())
    return None
