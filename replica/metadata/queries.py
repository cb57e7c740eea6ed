"""Asking: find, lineage, history, differences, and the typed watch.

Every answer shows one revision. A find narrows the search by what the filter demands at its top level (a name, a
context, an indexed field), reads the objects that are left page by page, and judges each of them by the whole filter;
so an index makes it quicker and never changes what is found. A page in the order of ids, or of an indexed field, is
read from its beginning and no further than it goes. What a client holds is a page of answers and a page of candidates,
however many objects there are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from replica.client import AsyncWatch, Get, WatchBatch
from replica.client.errors import Compacted
from replica.kv.operations import prefix_end
from replica.metadata.core import Core, Ref, id_of, object_of
from replica.metadata.errors import FilterError, InvalidValue, NotFound, StaleRevision, UnknownProperty
from replica.metadata.filters import (
    ATTRIBUTES,
    And,
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
from replica.metadata.keys import ALIAS, KIND_AT_SOURCE, KIND_AT_TARGET, hexadecimal, tail_id, type_number, value_part
from replica.metadata.model import (
    SERIAL_BITS,
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
from replica.metadata.values import INDEXABLE_ATTRIBUTES, is_nan

LIMIT: Final = 100
"""Objects on a page, unless a find says otherwise."""

LIMIT_MAX: Final = 10_000

CANDIDATES: Final = 512
"""Candidates that are read and judged at once."""

WALKED_MAX: Final = 4 * CANDIDATES
"""Candidates that are taken from an index for its order alone; if they are not enough, everything is read in a scan,
which is several times quicker an object."""

FRONT: Final = 64
"""Nodes of a lineage whose edges are read at once."""

NODES_MAX: Final = 100_000
"""Nodes in one lineage; what lies beyond is cut, and said to be."""

HISTORY_MAX: Final = 1000
"""States in one history, unless it is told otherwise."""

NOWHERE: Final = 2
"""The place in an order of what has no value."""

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
        search = await self._search(type, kind, filter, order_by, token.revision if token is not None else at)
        revision = search.revision
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
        search = await self._search(type, kind, filter, "id", at)
        async for some in self._matches(search, None, CANDIDATES):
            for each in some:
                yield each

    async def _search(
        self, type_name: str | None, kind: Kind | None, source: str, order_by: str, at: int | None
    ) -> _Search:
        """A question understood, at a revision or (None) at the newest."""
        if type_name is not None and at is None:
            of, revision = await self.type_now(type_name, kind)
            types = [of]
        else:
            revision = await self.at(at)
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
        narrow = next((each for each in conjuncts(node) if _names(each)), None)
        # Members of a context are listed at it: nothing is left to ask of them.
        rest = _without(node, narrow) if narrow is not None and narrow.field.multiple else node
        return _Search(sorted(types, key=lambda each: each.number), node, revision, order, descending, narrow, rest)

    async def _best(self, search: _Search, limit: int, after: tuple[Any, ...] | None) -> list[AnyObject]:
        """The first ``limit + 1`` objects behind a place."""
        if (walked := await self._walk(search, limit, after)) is not None:
            return walked
        by_id = search.order == Field("", "id", search.order.position)
        kept: list[AnyObject] = []
        page = min(limit + 1, CANDIDATES) if by_id and search.rest is None else CANDIDATES
        async for some in self._matches(search, after[-1] if by_id and after is not None else None, page):
            new = [each for each in some if after is None or search.place(each) > after]
            kept = heapq.nsmallest(limit + 1, kept + new, key=search.place)
            if by_id and len(kept) > limit:
                break
        return kept

    async def _walk(self, search: _Search, limit: int, after: tuple[Any, ...] | None) -> list[AnyObject] | None:
        """The first ``limit + 1`` objects behind a place, from an index that has their order; None where none has.

        Values of one place in the index (long text, large integers) have any order there, so what is found ends only
        where the index has gone beyond the place of the last.
        """
        of, field = search.types[0] if len(search.types) == 1 else None, search.order
        if of is None or field.name not in of.index or not _indexed(of, field) or search.narrow is not None:
            return None
        begin = self.keys.index(of.number, field.name)
        chosen = self._index_interval(of, search.node)
        if chosen is not None and chosen[0] != field.name:
            return None
        # A comparison of the field itself holds of nothing that has no value, nothing that is not in the index.
        demanded = chosen is not None
        first, last = chosen[1:] if chosen is not None else (begin, prefix_end(begin))
        if after is not None:
            if after[0] == NOWHERE:
                return None
            here = begin + value_part(search.value_at(after, of.properties.get(field.name) == "bool"))
            if _ambiguous(here):
                return None
            first, last = (first, min(last, prefix_end(here))) if search.descending else (max(first, here), last)
        kept: list[AnyObject] = []
        walked = 0
        if first >= last:
            return kept if demanded else None
        page_keys = max(FRONT, min(CANDIDATES, limit + 1))
        async for page in self.scan(
            first, last, search.revision, keys_only=True, reverse=search.descending, page=page_keys
        ):
            parts = [item.key[:-16] for item in page]
            if any(_ambiguous(part) for part in parts):
                return None
            found = await self.objects_at([tail_id(item.key) for item in page], search.revision)
            for each in await self._judge(search, [each for each in found if each is not None]):
                place = search.place(each)
                if place[0] != NOWHERE and (after is None or place > after):
                    kept.append(each)
            kept = heapq.nsmallest(limit + 1, kept, key=search.place)
            if len(kept) > limit:
                bound = begin + value_part(_values(kept[-1], [])(field))
                if parts[-1] < bound if search.descending else parts[-1] > bound:
                    return kept
            walked += len(page)
            if not demanded and walked >= max(WALKED_MAX, 2 * limit):
                return None
        return kept if demanded or len(kept) > limit else None

    async def _matches(self, search: _Search, begin: int | None, page: int) -> AsyncIterator[list[AnyObject]]:
        """Objects of which the filter holds, some at a time, in the order of ids if that is the search's."""
        async for some in self._candidates(search, begin, page):
            objects = [each for each in await self.revived(some, search.revision) if each is not None]
            yield await self._judge(search, objects)

    async def _candidates(
        self, search: _Search, begin: int | None, page_keys: int
    ) -> AsyncIterator[list[AnyObject | None]]:
        """All objects that can be meant; those from the id ``begin`` on, in the direction of the search, suffice."""
        revision = search.revision
        by_id = search.order.name == "id" and not search.order.of
        backwards = by_id and search.descending

        def within(prefix: bytes, lowest: int, highest: int) -> tuple[bytes, bytes]:
            """The interval of ids of types from one number to another behind a prefix, from ``begin`` on."""
            low, high = lowest << SERIAL_BITS, (highest + 1) << SERIAL_BITS
            if begin is not None:
                low, high = (low, min(high, begin + 1)) if backwards else (max(low, begin), high)
            return prefix + hexadecimal(low), prefix + hexadecimal(max(low, high))

        async def listed(first: bytes, last: bytes) -> AsyncIterator[list[AnyObject | None]]:
            """The objects whose ids the keys of an interval end in."""
            if first < last:
                pages = self.scan(first, last, revision, keys_only=True, reverse=backwards, page=page_keys)
                async for page in pages:
                    ids = (tail_id(item.key) for item in page)
                    yield await self._read([each for each in ids if type_number(each) in numbers], revision)

        async def chosen(ids: Iterable[int]) -> AsyncIterator[list[AnyObject | None]]:
            meant = (each for each in ids if type_number(each) in numbers)
            behind = [each for each in meant if begin is None or (each <= begin if backwards else each >= begin)]
            behind.sort(reverse=backwards)
            for start in range(0, len(behind), page_keys):
                yield await self._read(behind[start : start + page_keys], revision)

        types = search.types[::-1] if backwards else search.types
        numbers = {of.number for of in types}
        if not types:
            return
        if search.narrow is not None:
            ids, contexts = await self._narrowed(search.narrow, search)
            if len(contexts) == 1:
                # The members of a context stand in the order of ids.
                members = self.keys.edges_of(contexts.pop(), b"mm")
                async for some in listed(*within(members, min(numbers), max(numbers))):
                    yield some
                return
            async for some in chosen(ids | await self._members(contexts, revision)):
                yield some
            return
        for of in types:
            index = self._index_interval(of, search.node)
            if index is not None and by_id:
                # The index has another order than is wanted: its ids are sorted here.
                pages = self.scan(*index[1:], revision, keys_only=True)
                async for some in chosen([tail_id(item.key) async for page in pages for item in page]):
                    yield some
            elif index is not None:
                async for some in listed(*index[1:]):
                    yield some
            else:
                first, last = within(self.keys.objects, of.number, of.number)
                if first < last:
                    async for page in self.scan(first, last, revision, page=page_keys, reverse=backwards):
                        yield [object_of(item) for item in page]

    async def _read(self, ids: Sequence[int], revision: int) -> list[AnyObject | None]:
        """Objects as they are written."""
        items = await self.fetch_all([self.keys.object(each) for each in ids], revision)
        return [None if item is None else object_of(item) for item in items]

    async def _narrowed(self, each: Comparison, search: _Search) -> tuple[set[int], set[int]]:
        """The only objects that can be meant, by id, or the contexts whose members they are."""
        values = each.value if each.relation == "IN" else (each.value,)
        whole = {value for value in values if isinstance(value, int) and 0 < value < 1 << 63}
        match each.field.name:
            case "id":
                return whole, set()
            case "name":
                keys = [self.keys.name(of.number, str(value)) for of in search.types for value in values]
                return await self._named(keys, search.revision), set()
            case "external_id":
                keys = [self.keys.external(str(value)) for value in values]
                return await self._named(keys, search.revision), set()
            case "context":
                kinds = await self.types_at(search.revision, "context")
                keys = [self.keys.name(of.number, str(value)) for of in kinds for value in values]
                return set(), await self._named(keys, search.revision)
        return set(), whole

    async def _named(self, keys: Sequence[bytes], revision: int) -> set[int]:
        return {int(item.value) for item in await self.fetch_all(keys, revision) if item is not None}

    async def _members(self, contexts: set[int], revision: int) -> set[int]:
        found: set[int] = set()
        for context in contexts:
            prefix = self.keys.edges_of(context, b"mm")
            async for page in self.scan_prefix(prefix, revision, keys_only=True):
                found.update(tail_id(item.key) for item in page)
        return found

    def _index_interval(self, of: TypeDef, node: Node | None) -> tuple[str, bytes, bytes] | None:
        """An index and the part of it in which everything lies that can be meant; None when no index helps."""
        found: dict[str, tuple[int, bytes, bytes]] = {}
        for each in conjuncts(node):
            name = each.field.name
            if name not in of.index or not _indexed(of, each.field):
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
        name, (_, first, last) = min(found.items(), key=lambda each: each[1])
        return name, first, max(first, last)

    async def _judge(self, search: _Search, found: Sequence[AnyObject]) -> list[AnyObject]:
        """Those of which the filter holds."""
        contexts = await self._contexts(found, search.revision) if search.needs_contexts else {}
        return [each for each in found if holds(search.rest, _values(each, contexts.get(each.id, []))) is True]

    async def _contexts(self, found: Sequence[AnyObject], revision: int) -> dict[int, list[Context]]:
        """The contexts of many objects, each context read once."""
        of: dict[int, list[int]] = {}
        for begin in range(0, len(found), FRONT):
            some = [each.id for each in found[begin : begin + FRONT]]
            edges = await asyncio.gather(*(self._edges(each, b"mc", revision) for each in some))
            of |= {each: [edge.target for edge in there] for each, there in zip(some, edges, strict=True)}
        distinct = list(dict.fromkeys(context for there in of.values() for context in there))
        read = {each.id: each for each in await self._read(distinct, revision) if isinstance(each, Context)}
        return {each: [read[context] for context in there if context in read] for each, there in of.items()}

    # ------------------------------------------------------------------------------------------------------ neighbours

    async def by_name(self, type: str, name: str, *, kind: Kind | None = None, at: int | None = None) -> AnyObject:  # noqa: A002
        """The object of a type that has a name. Raises `NotFound`, `UnknownType`."""
        if at is None:
            of, revision = await self.type_now(type, kind)
        else:
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
        stopping = await self._search(None, None, stop, "id", revision) if stop.strip() else None
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
                if stopping is not None:
                    ends = {each.id for each in await self._judge(stopping, [nodes[each] for each in front])}
                    front = [each for each in front if each not in ends]
                if not front:
                    break
                if hop == hops:
                    for begin in range(0, len(front), FRONT):
                        some = front[begin : begin + FRONT]
                        more = await asyncio.gather(*(self._edges_some(each, letters, revision) for each in some))
                        cut.update(each for each, there in zip(some, more, strict=True) if there)
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
        for begin in range(0, len(front), FRONT):
            some = front[begin : begin + FRONT]
            read = await asyncio.gather(*(self._edges(each, letters, revision) for each in some))
            for each, edge in ((each, edge) for each, found in zip(some, read, strict=True) for edge in found):
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
    narrow: Comparison | None
    """What names the only objects that can be meant."""
    rest: Node | None
    """What is to be asked of those."""

    @property
    def needs_contexts(self) -> bool:
        return any(each.field.multiple for each in predicates(self.rest))

    def place(self, of: AnyObject) -> tuple[Any, ...]:
        """Where an object stands in the order; ends with its id, so that no two stand in one place."""
        if self.order.name == "id" and not self.order.of:
            return (-of.id if self.descending else of.id, of.id)
        value = _values(of, [])(self.order)
        if value is None or is_nan(value) or not isinstance(value, bool | int | float | str):
            return (NOWHERE, 0, of.id)
        if isinstance(value, str):
            return (1, _reversed(value) if self.descending else value, of.id)
        return (0, -value if self.descending else value, of.id)

    def value_at(self, place: tuple[Any, ...], boolean: bool) -> Any:
        """The value that stands at a place, which is not `NOWHERE`."""
        value = place[1]
        if place[0] == 1:
            return "".join(chr(-each) for each in value[:-1]) if self.descending else value
        if boolean:
            return bool(value)
        return -value if self.descending else value


def _names(each: Comparison) -> bool:
    """It names the only objects that can be meant."""
    named = {"id", "name", "external_id", "context", "context_id"}
    return not each.field.of and each.field.name in named and each.relation in {"=", "IN"}


def _without(node: Node | None, known: Comparison) -> Node | None:
    """A filter without one of its conjuncts."""
    if node is known:
        return None
    if not isinstance(node, And):
        return node
    left, right = _without(node.left, known), _without(node.right, known)
    return And(left, right) if left is not None and right is not None else left if right is None else right


def _indexed(of: TypeDef, field: Field) -> bool:
    """An index of the field's name is one of this field: a property may bear the name of an attribute, and has it."""
    if field.of == "properties":
        return field.name in of.properties
    return (
        not field.of
        and of.kind == "artifact"
        and field.name in INDEXABLE_ATTRIBUTES
        and field.name not in of.properties
    )


def _ambiguous(key: bytes) -> bool:
    """Text with a zero byte within: there the order of keys is not that of values."""
    return b"\x00" in key[:-1]


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
