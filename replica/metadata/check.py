"""A checker that walks everything and believes nothing: ``python -m replica.metadata.check ENDPOINTS``.

It reads the whole store at one revision and reports each place where a promise is broken: an edge without its other end
or without a node, a name, external id or index entry that is missing or stale, a name that two objects bear, an id that
was given twice, versions that do not follow each other, aliases, drafts and running marks that point nowhere, metrics
without an owner, what cannot be read at all. It is written from the layout as the package documents it, apart from the
code that writes; it holds the ids and edges in memory, not the objects.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from replica.client import AsyncStore, KeyValue, SynodError, connect_async
from replica.metadata.core import PREFIX, Core, object_of, type_of
from replica.metadata.keys import ALIAS, KIND_AT_SOURCE, KIND_AT_TARGET, hexadecimal, tail_id, type_number
from replica.metadata.model import (
    DRAFT,
    FIRST_VERSION,
    LIVE,
    PURGED,
    RUNNING,
    AnyObject,
    Artifact,
    Asset,
    Execution,
    TypeDef,
    Version,
)
from replica.metadata.queries import edge_of

FAULTS_MAX: Final = 1000
"""Faults that are kept; more are counted."""

_KINDS_AT_ENDS: Final = {
    "input": ({"artifact"}, {"execution"}),
    "output": ({"execution"}, {"artifact"}),
    "dependency": ({"artifact"}, {"artifact"}),
    "member": ({"artifact", "execution"}, {"context"}),
    "parent": ({"context"}, {"context"}),
}


class Report(msgspec.Struct):
    """What the checker found: ``faults`` in words, and how much there was to look at."""

    revision: int
    faults: list[str] = []
    count: int = 0
    """Faults, those not kept included."""
    types: int = 0
    objects: int = 0
    edges: int = 0
    names: int = 0
    entries: int = 0
    versions: int = 0
    aliases: int = 0
    records: int = 0
    chunks: int = 0

    def add(self, text: str) -> None:
        """A fault."""
        self.count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)

    def __str__(self) -> str:
        looked = (
            f"revision {self.revision}: {self.types} types, {self.objects} objects, {self.edges} edges, "
            f"{self.names} names, {self.entries} index entries, {self.versions} versions, {self.aliases} aliases, "
            f"{self.records} audit records, {self.chunks} chunks of metrics"
        )
        return f"{looked}: {self.count or 'no'} fault{'' if self.count == 1 else 's'}"


async def check(
    store: AsyncStore,
    *,
    prefix: str = PREFIX,
    at: int | None = None,
    present: Iterable[int] = (),
) -> Report:
    """Walk everything at one revision. ``present`` are ids of objects that must be there, as acknowledged."""
    core = Core(store, prefix=prefix)
    return await _Walk(core, Report(await core.at(at))).everything(present)


class _Walk:
    def __init__(self, core: Core, report: Report) -> None:
        self.core = core
        self.keys = core.keys
        self.report = report
        self.types: dict[int, TypeDef] = {}
        self.expected: set[bytes] = set()
        """Keys that objects demand, to be crossed out one by one."""
        self.objects: dict[int, str] = {}
        """Every object's state, or kind."""
        self.published: dict[int, tuple[int, str]] = {}
        self.running: set[int] = set()

    async def everything(self, present: Iterable[int]) -> Report:
        await self._each(self.keys.types, self._type)
        await self._each(self.keys.objects, self._object)
        await self._each(self.keys.names, self._demanded("name", "names"))
        await self._each(self.keys.externals, self._demanded("external id", "names"))
        await self._each(self.keys.indexes, self._demanded("index entry", "entries"))
        await self._each(self.keys.drafts, self._demanded("draft", ""))
        await self._each(self.keys.running, self._demanded("running mark", ""))
        await self._each(self.keys.tombs, self._demanded("tomb", ""))
        await self._edges()
        await self._assets()
        for key in self.expected:
            self.report.add(f"{key!r} is missing")
        await self._each(self.keys.metrics, self._chunk)
        await self._each(self.keys.audit, self._record)
        for identity in present:
            if identity not in self.objects:
                self.report.add(f"object {identity} was acknowledged and is not there")
        return self.report

    async def _each(self, prefix: bytes, look: Callable[[KeyValue], None]) -> None:
        async for page in self.core.scan_prefix(prefix, self.report.revision):
            for item in page:
                try:
                    look(item)
                except (msgspec.MsgspecError, ValueError) as error:
                    self.report.add(f"{item.key!r} cannot be read: {error}")

    def _type(self, item: KeyValue) -> None:
        of = type_of(item)
        self.report.types += 1
        if of.number in self.types:
            self.report.add(f"types {of.name!r} and {self.types[of.number].name!r} have the same number")
        if item.key != self.keys.type(of.kind, of.name):
            self.report.add(f"type {of.name!r} stands at {item.key!r}")
        self.types[of.number] = of

    def _object(self, item: KeyValue) -> None:
        found = object_of(item)
        self.report.objects += 1
        if item.key != self.keys.object(found.id):
            self.report.add(f"object {found.id} stands at {item.key!r}")
        of = self.types.get(type_number(found.id))
        if of is None or of.name != found.type or of.kind != found.kind:
            self.report.add(f"object {found.id} says it is of type {found.type!r}, its id says {of and of.name!r}")
            return
        self.objects[found.id] = found.kind
        for name in found.properties:
            if name not in of.properties:
                self.report.add(f"object {found.id} has a property {name!r} that {of.name!r} does not declare")
        if found.name is not None:
            self._demand(self.keys.name(of.number, found.name), f"the name of {found.label}")
        if found.external_id is not None:
            self._demand(self.keys.external(found.external_id), f"the external id of {found.label}")
        self._entries(of, found)
        if isinstance(found, Artifact):
            self._states(found)
        if isinstance(found, Execution) and found.state == RUNNING:
            self.expected.add(self.keys.run(found.id)[0])

    def _entries(self, of: TypeDef, found: AnyObject) -> None:
        if isinstance(found, Artifact) and found.state == PURGED:
            return
        for field in of.index:
            value = found.properties.get(field)
            if value is None and isinstance(found, Artifact):
                value = {"uri": found.uri, "digest": found.digest}.get(field) or None
            if value is not None:
                self.expected.add(self.keys.entry(of.number, field, value, found.id))

    def _states(self, found: Artifact) -> None:
        if found.state == PURGED:
            self.expected.add(self.keys.tomb(found.id))
            if found.uri or found.properties or found.custom:
                self.report.add(f"{found.label} was purged and has content")
        if not found.asset and found.state == DRAFT:
            self.report.add(f"{found.label} is a draft of nothing")
        if found.asset and found.state == LIVE:
            self.report.add(f"{found.label} is a version and {LIVE}")
        if found.asset and found.state == DRAFT:
            self.expected.add(self.keys.draft(found.asset, found.id))
        if found.version:
            self.published[found.id] = found.asset, found.version

    def _demand(self, key: bytes, what: str) -> None:
        if key in self.expected:
            self.report.add(f"{what} is borne twice")
        self.expected.add(key)

    def _demanded(self, what: str, counter: str) -> Callable[[KeyValue], None]:
        numbered = what in {"name", "external id"}

        def look(item: KeyValue) -> None:
            if counter:
                setattr(self.report, counter, getattr(self.report, counter) + 1)
            if item.key in self.expected:
                self.expected.discard(item.key)
                if numbered and int(item.value) not in self.objects:
                    self.report.add(f"{what} {item.key!r} leads to {item.value!r}, which is not there")
            elif what == "index entry" and self._building(item.key):
                return
            else:
                self.report.add(f"{what} {item.key!r} is stale: nothing demands it")

        return look

    def _building(self, key: bytes) -> bool:
        """An entry of an index that is being filled may be there or not."""
        return any(
            key.startswith(self.keys.index(of.number, field)) for of in self.types.values() for field in of.building
        )

    async def _edges(self) -> None:
        forward: dict[tuple[int, int, str], str] = {}
        back: dict[tuple[int, int, str], str] = {}
        begin = len(self.keys.edges_of(0))
        targets: set[tuple[int, bytes]] = set()

        def look(item: KeyValue) -> None:
            here = int(item.key[begin - 17 : begin - 1], 16)
            letters = item.key[begin : begin + 2]
            if letters == ALIAS:
                targets.add((here, item.value))
                if item.key != self.keys.alias_at(here, item.value.decode()):
                    self.report.add(f"alias {item.value!r} stands at {item.key!r}")
                return
            edge = edge_of(here, letters, tail_id(item.key), item.value)
            if edge is None or len(item.key) != begin + 18:
                self.report.add(f"{item.key!r} is no edge")
                return
            ends = forward if letters in KIND_AT_SOURCE else back
            assert letters in KIND_AT_SOURCE or letters in KIND_AT_TARGET
            ends[edge.source, edge.target, edge.kind] = edge.role

        await self._each(self.keys.edges, look)
        self.report.edges = len(forward)
        for edge, role in forward.items():
            if edge not in back:
                self.report.add(f"edge {edge} has no other end")
            elif back[edge] != role:
                self.report.add(f"the ends of edge {edge} have different roles")
        for edge in back:
            if edge not in forward:
                self.report.add(f"edge {edge} has no beginning")
        for source, target, kind in forward.keys() | back.keys():
            for identity, kinds in zip((source, target), _KINDS_AT_ENDS[kind], strict=True):
                if self.objects.get(identity) not in kinds:
                    self.report.add(f"the {kind} edge from {source} to {target} dangles at {identity}")
        self._cycles({(source, target) for source, target, kind in forward if kind == "parent"})
        await self._aliases(targets)

    def _cycles(self, parents: set[tuple[int, int]]) -> None:
        """Take away contexts without parents until none is left; what remains is a cycle."""
        above: dict[int, set[int]] = {}
        below: dict[int, set[int]] = {}
        for child, parent in parents:
            above.setdefault(child, set()).add(parent)
            below.setdefault(parent, set()).add(child)
        free = [each for each in below if each not in above]
        while free:
            parent = free.pop()
            for child in below.get(parent, ()):
                above[child].discard(parent)
                if not above[child]:
                    del above[child]
                    free.append(child)
        if above:
            self.report.add(f"contexts are their own ancestors: {sorted(above)[:10]}")

    async def _aliases(self, targets: set[tuple[int, bytes]]) -> None:
        pointing = {self.keys.alias(name.decode()): (identity, name) for identity, name in targets}

        def look(item: KeyValue) -> None:
            self.report.aliases += 1
            found = pointing.pop(item.key, None)
            if found is None or found[0] != int(item.value):
                self.report.add(f"alias {item.key!r} points at {item.value!r}, which does not know of it")
            elif found[0] not in self.objects:
                self.report.add(f"alias {item.key!r} points at {item.value!r}, which is not there")

        await self._each(self.keys.aliases, look)
        if len(targets) != self.report.aliases or pointing:
            self.report.add(f"objects know of aliases that are gone: {sorted(pointing)[:10]}")

    async def _assets(self) -> None:
        assets: dict[int, Asset] = {}
        names: set[bytes] = set()
        numbered: dict[int, list[tuple[Version, int]]] = {}

        def asset(item: KeyValue) -> None:
            found = msgspec.msgpack.decode(item.value, type=Asset)
            if found.id in assets or item.key != self.keys.asset(found.id):
                self.report.add(f"asset {found.name!r} stands at {item.key!r}")
            assets[found.id] = found
            name = self.keys.asset_name(found.name)
            if name in names:
                self.report.add(f"the asset name {found.name!r} is borne twice")
            names.add(name)

        def name(item: KeyValue) -> None:
            if item.key not in names or int(item.value) not in assets:
                self.report.add(f"asset name {item.key!r} is stale")
            names.discard(item.key)

        def version(item: KeyValue) -> None:
            self.report.versions += 1
            owner, number = item.key[len(self.keys.versions) :].split(b"/")
            parsed = Version.parse(number.decode())
            identity = int(item.value)
            if parsed is None or self.published.pop(identity, None) != (int(owner, 16), str(parsed)):
                self.report.add(f"version {item.key!r} leads to {identity}, which is another")
            if parsed is not None:
                numbered.setdefault(int(owner, 16), []).append((parsed, identity))

        await self._each(self.keys.assets, asset)
        await self._each(self.keys.asset_names, name)
        await self._each(self.keys.versions, version)
        for key in names:
            self.report.add(f"{key!r} is missing")
        for identity in self.published:
            self.report.add(f"object {identity} is a version that its asset does not list")
        for identity in numbered.keys() - assets.keys():
            self.report.add(f"there are versions of asset {identity}, which is not there")
        for each in assets.values():
            self._contiguous(each, numbered.get(each.id, []))

    def _contiguous(self, asset: Asset, versions: list[tuple[Version, int]]) -> None:
        before: Version | None = None
        for version, _ in versions:
            follows = (
                version == FIRST_VERSION
                if before is None
                else version in {before.next("schema"), before.next("revision"), before.next("patch")}
            )
            if not follows:
                self.report.add(f"version {version} of {asset.name!r} does not follow {before}")
            before = version
        last = versions[-1] if versions else (None, 0)
        if (asset.last, asset.last_id, asset.count) != (str(last[0] or ""), last[1], len(versions)):
            self.report.add(f"asset {asset.name!r} says {asset.last!r} of {asset.count}, there are {len(versions)}")

    def _chunk(self, item: KeyValue) -> None:
        self.report.chunks += 1
        owner = int(item.key[len(self.keys.metrics) :][:16], 16)
        if owner not in self.objects:
            self.report.add(f"metrics {item.key!r} have no owner")

    def _record(self, item: KeyValue) -> None:
        self.report.records += 1
        hint = item.key[len(self.keys.audit) :][:16]
        if not hint < hexadecimal(item.create_revision) or item.version != 1:
            self.report.add(f"audit record {item.key!r} was changed, or knows the future")


def main(arguments: list[str]) -> int:
    """``ENDPOINTS [PREFIX]``; returns the exit status: 0 whole, 1 faults, 5 could not be read."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m replica.metadata.check ENDPOINTS [PREFIX]\n")
        return 2

    async def run() -> Report:
        async with connect_async(arguments[0]) as store:
            return await check(store, prefix=arguments[1] if len(arguments) == 2 else PREFIX)

    try:
        report = asyncio.run(run())
    except SynodError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 5
    sys.stdout.write("".join(f"{line}\n" for line in (*report.faults, str(report))))
    return 1 if report.count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
