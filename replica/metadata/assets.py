"""Datasets, annotations, splits and packages: named assets whose versions are drafted, published, archived and purged.

An *asset* is a name and a kind. Its *versions* are artifacts, so that executions take them and lineage goes through
them. A version begins as a draft, which can be changed as any artifact; publishing numbers it ``schema.revision.patch``
behind the version before, and from then on it cannot change. Archived ones are no longer offered; purged ones have lost
their content, and keep id, name, digest and edges, so that what was made of them still has a past.

Publishing compares the asset's record, so versions are numbered without gaps however many publish at once. Whatever
refers to a version writes its edge at the version, and purging compares those edges, so nothing can come to refer to
what is being purged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import EllipsisType
from typing import Any, Final

import msgspec

from replica.client import KeyValue
from replica.metadata.core import Ref, encode, id_of, now_ms, object_of
from replica.metadata.errors import (
    AliasMoved,
    InvalidValue,
    NotFound,
    Referenced,
    WrongState,
)
from replica.metadata.keys import ALIAS, check_text, tail_id
from replica.metadata.model import (
    ARCHIVED,
    ASSET_KINDS,
    DRAFT,
    FIRST_VERSION,
    LIVE,
    NAME_BYTES_MAX,
    PUBLISHED,
    PURGED,
    RUNNING,
    SERIAL_BITS,
    Artifact,
    Asset,
    AssetKind,
    Bump,
    Execution,
    TypeDef,
    Version,
)
from replica.metadata.objects import RESERVED, Objects, _text
from replica.metadata.unit import Unit
from replica.metadata.values import declared, free, merged

LATEST: Final = "latest"
REFERENCES_SHOWN: Final = 5

_assets = msgspec.msgpack.Decoder(Asset)


class Assets(Objects):
    """Versioned assets, aliases, and the end of artifacts."""

    async def draft(
        self,
        kind: AssetKind,
        name: str,
        *,
        of: Iterable[Ref] = (),
        uri: str = "",
        digest: str = "",
        properties: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Begin a new version of an asset, which comes to be with its first draft.

        Args:
            of: what it is made of: versions (or other artifacts) that it depends on.
            properties: any JSON values.

        Raises:
            InvalidValue: the asset is of another kind.
            NotFound, WrongState: something in ``of`` is not there, or was purged.
        """
        parts = [id_of(each) for each in of]
        _asset_name(kind, name)
        type_name = await self._version_type(kind)
        serials = await self.serial(), await self.serial()

        async def build(unit: Unit) -> Artifact:
            asset = await self._asset_in(unit, kind, name, serials[0])
            return await self._draft(
                unit, type_name, asset, serials[1], parts, uri=uri, digest=digest, properties=properties
            )

        return await self.carry_out("draft", build, reading=True)

    async def publish(self, draft: Ref, *, bump: Bump = "revision") -> Artifact:
        """Number a draft and make it immutable. The first version of an asset is 1.0.0.

        Raises:
            WrongState: it is no draft (any more), or depends on something that is not published.
        """
        identity = id_of(draft)
        _check_bump(bump)

        async def build(unit: Unit) -> Artifact:
            before = await self._object_in(unit, identity)
            if not isinstance(before, Artifact) or not before.asset:
                raise WrongState(f"{before.label} is no version of an asset: draft one")
            if before.state != DRAFT:
                raise WrongState(f"{before.label} is {before.state} already")
            item = await unit.get(self.keys.asset(before.asset))
            assert item is not None
            for edge in await unit.range(self.keys.edges_of(identity, b"ud")):
                await self._publishable(unit, tail_id(edge.key))
            return await self._number(unit, before, _assets.decode(item.value), bump)

        return await self.carry_out("publish", build, reading=True)

    async def package(
        self,
        name: str,
        of: Iterable[Ref],
        *,
        bump: Bump = "revision",
        properties: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Publish a package: what a training pins, as one version. All of ``of`` must be published."""
        parts = [id_of(each) for each in of]
        _asset_name("package", name)
        _check_bump(bump)
        type_name = await self._version_type("package")
        serials = await self.serial(), await self.serial()

        async def build(unit: Unit) -> Artifact:
            for part in parts:
                await self._publishable(unit, part)
            asset = await self._asset_in(unit, "package", name, serials[0])
            made = await self._draft(unit, type_name, asset, serials[1], parts, properties=properties)
            return await self._number(unit, made, asset, bump)

        return await self.carry_out("publish package", build, reading=True)

    async def archive(self, ref: Ref) -> Artifact:
        """Offer an artifact no longer. A version must be published. What refers to it keeps doing so."""
        identity = id_of(ref)

        async def build(unit: Unit) -> Artifact:
            before = await self._artifact_in(unit, identity)
            if before.state not in {LIVE, PUBLISHED}:
                raise WrongState(f"{before.label} is {before.state}; what is archived was {LIVE} or {PUBLISHED}")
            return await self._to_state(unit, before, ARCHIVED)

        return await self.carry_out("archive", build, reading=True)

    async def purge(self, ref: Ref) -> Artifact:
        """Take away what an archived artifact, or a draft, holds. Its id, name, digest and past edges remain.

        Raises:
            WrongState: it is neither archived nor a draft.
            Referenced: something that is not purged depends on it, an alias points at it, or a running execution
                uses it.
        """
        identity = id_of(ref)

        async def build(unit: Unit) -> Artifact:
            before = await self._artifact_in(unit, identity)
            if before.state not in {ARCHIVED, DRAFT}:
                raise WrongState(f"{before.label} is {before.state}; archive it first")
            by = await self._references(unit, identity)
            if by:
                shown = ", ".join(by[:REFERENCES_SHOWN]) + (", …" if len(by) > REFERENCES_SHOWN else "")
                raise Referenced(f"{before.label} is referenced by {shown}", tuple(by))
            unit.put(self.keys.tomb(identity))
            if before.state == DRAFT:
                unit.delete(self.keys.draft(before.asset, identity))
            emptied = msgspec.structs.replace(before, uri="", properties={}, custom={})
            return await self._to_state(unit, before, PURGED, emptied)

        return await self.carry_out("purge", build, reading=True)

    # ------------------------------------------------------------------------------------------------------- aliases

    async def alias(self, alias: str, ref: Ref | None, *, if_current: Ref | EllipsisType | None = ...) -> None:
        """Point an alias at an artifact (None: take it away), at once for everybody.

        Args:
            if_current: only if it points there now (None: nowhere). Left out: wherever it points.

        Raises:
            AliasMoved: it does not point at ``if_current``.
            WrongState: the artifact was purged, or is a draft.
        """
        _check_alias(alias)
        key = self.keys.alias(alias)

        async def build(unit: Unit) -> None:
            item = await unit.get(key)
            current = None if item is None else int(item.value)
            if if_current is not ...:
                expected = None if if_current is None else id_of(if_current)
                if current != expected:
                    raise AliasMoved(f"the alias {alias!r} points at {current}, not at {expected}", current)
            if current is not None:
                unit.delete(self.keys.alias_at(current, alias))
                unit.touched[current] = None
            if ref is None:
                unit.delete(key)
                return
            identity = id_of(ref)
            target = await self._artifact_in(unit, identity)
            if target.state in {PURGED, DRAFT}:
                raise WrongState(f"{target.label} is {target.state}")
            unit.put(key, b"%d" % identity)
            unit.put(self.keys.alias_at(identity, alias), alias.encode())
            unit.touched[identity] = None

        await self.carry_out("alias", build, reading=True)

    async def resolve(self, text: str, *, at: int | None = None) -> Artifact:
        """The artifact that a text names: an alias, ``name@latest``, ``name@1.2.3``, or ``name`` (its latest).

        Raises:
            NotFound: nothing is called so.
        """
        check_text("a name", text, 2 * NAME_BYTES_MAX)
        revision = await self.at(at)
        (item,) = await self.fetch_all([self.keys.alias(text)], revision)
        identity = None if item is None else int(item.value)
        if identity is None:
            name, _, tail = text.rpartition("@")
            name, tail = (name, tail) if name else (text, LATEST)
            identity = await self._version_id(name, tail, revision)
        (found,) = await self.objects_at([identity], revision) if identity else (None,)
        if not isinstance(found, Artifact):
            raise NotFound(f"nothing is called {text!r} at revision {revision}")
        return found

    async def aliases(self, ref: Ref | None = None, *, at: int | None = None) -> dict[str, int]:
        """All aliases, or those that point at an artifact, with the ids that they point at."""
        revision = await self.at(at)
        if ref is not None:
            identity = id_of(ref)
            prefix = self.keys.edges_of(identity, ALIAS)
            return {item.value.decode(): identity async for page in self.scan_prefix(prefix, revision) for item in page}
        targets = {int(item.value) async for page in self.scan_prefix(self.keys.aliases, revision) for item in page}
        found: dict[str, int] = {}
        for target in sorted(targets):
            found |= await self.aliases(target, at=revision)
        return found

    # ---------------------------------------------------------------------------------------------------- what there is

    async def assets(self, *, kind: AssetKind | None = None, at: int | None = None) -> list[Asset]:
        """All assets, by name."""
        revision = await self.at(at)
        found = [_asset_of(item) async for page in self.scan_prefix(self.keys.assets, revision) for item in page]
        return sorted((each for each in found if kind in {None, each.kind}), key=lambda each: each.name)

    async def asset(self, name: str, *, at: int | None = None) -> Asset:
        """An asset by its name. Raises `NotFound`."""
        revision = await self.at(at)
        (item,) = await self.fetch_all([self.keys.asset_name(name)], revision)
        if item is not None:
            (item,) = await self.fetch_all([self.keys.asset(int(item.value))], revision)
        if item is None:
            raise NotFound(f"no asset is called {name!r} at revision {revision}")
        return _asset_of(item)

    async def versions(self, name: str, *, at: int | None = None) -> list[Artifact]:
        """The published versions of an asset, the oldest first; archived and purged ones are among them."""
        revision = await self.at(at)
        return await self._artifacts(self.keys.version_list((await self.asset(name, at=revision)).id), revision)

    async def drafts(self, name: str, *, at: int | None = None) -> list[Artifact]:
        """The drafts of an asset."""
        revision = await self.at(at)
        asset = await self.asset(name, at=revision)
        prefix = self.keys.drafts_of(asset.id)
        ids = [tail_id(item.key) async for page in self.scan_prefix(prefix, revision) for item in page]
        return [each for each in await self.objects_at(ids, revision) if isinstance(each, Artifact)]

    # -------------------------------------------------------------------------------------------------------- inside

    async def _artifacts(self, prefix: bytes, revision: int) -> list[Artifact]:
        ids = [int(item.value) async for page in self.scan_prefix(prefix, revision) for item in page]
        return [each for each in await self.objects_at(ids, revision) if isinstance(each, Artifact)]

    async def _version_id(self, name: str, tail: str, revision: int) -> int | None:
        (item,) = await self.fetch_all([self.keys.asset_name(name)], revision)
        if item is None:
            return None
        asset = int(item.value)
        if tail == LATEST:
            (item,) = await self.fetch_all([self.keys.asset(asset)], revision)
            return None if item is None else _assets.decode(item.value).last_id or None
        version = Version.parse(tail)
        if version is None:
            return None
        (item,) = await self.fetch_all([self.keys.version(asset, _triple(version))], revision)
        return None if item is None else int(item.value)

    async def _version_type(self, kind: AssetKind) -> str:
        """The type of an asset's versions; defined with the first of them."""
        if kind not in ASSET_KINDS:
            raise InvalidValue(f"an asset is one of {', '.join(ASSET_KINDS)}, not {kind!r}")
        name = RESERVED + kind
        if ("artifact", name) not in self._types:
            described = f"versions of a {kind}"
            await self._define(name, declared({}), (), "artifact", described)
        return name

    async def _asset_in(self, unit: Unit, kind: AssetKind, name: str, serial: int) -> Asset:
        """The asset, created if it is not there; unchanged until the unit takes effect."""
        item = await unit.get(self.keys.asset_name(name))
        if item is None:
            asset = Asset(id=serial, name=name, kind=kind)
            unit.put(self.keys.asset_name(name), b"%d" % serial)
            unit.put(self.keys.asset(serial), encode(asset))
            return asset
        identity = int(item.value)
        found = await unit.get(self.keys.asset(identity))
        assert found is not None
        asset = _asset_of(found)
        if asset.kind != kind:
            raise InvalidValue(f"{name!r} is a {asset.kind}, not a {kind}")
        return asset

    async def _draft(
        self,
        unit: Unit,
        type_name: str,
        asset: Asset,
        serial: int,
        parts: list[int],
        *,
        uri: str = "",
        digest: str = "",
        properties: Mapping[str, Any] | None,
    ) -> Artifact:
        of: TypeDef = await self.type_in(unit, "artifact", type_name)
        time_ms = now_ms()
        made = Artifact(
            id=of.number << SERIAL_BITS | serial,
            type=of.name,
            name=f"{asset.name}@draft-{serial}",
            custom=merged({}, free(properties or {})),
            create_time_ms=time_ms,
            update_time_ms=time_ms,
            uri=_text("uri", uri),
            digest=_text("digest", digest),
            state=DRAFT,
            asset=asset.id,
        )
        await self._create(unit, of, made)
        unit.put(self.keys.draft(asset.id, made.id))
        for part in parts:
            await self._expect_kind(part, "artifact")
            await self._link(unit, "dependency", part, made.id)
        return made

    async def _number(self, unit: Unit, before: Artifact, asset: Asset, bump: Bump) -> Artifact:
        """Publish: number the version, and say so wherever it is told."""
        last = Version.parse(asset.last)
        version = FIRST_VERSION if last is None else last.next(bump)
        name = f"{asset.name}@{version}"
        of = await self.type_in(unit, "artifact", before.type)
        assert before.name is not None
        unit.delete(self.keys.name(of.number, before.name))
        await self._claim_name(unit, of, name, before.id)
        after = msgspec.structs.replace(
            before, name=name, state=PUBLISHED, version=str(version), update_time_ms=now_ms(), revision=0
        )
        self._write(unit, of, before, after)
        unit.delete(self.keys.draft(asset.id, before.id))
        unit.put(self.keys.version(asset.id, _triple(version)), b"%d" % before.id)
        newer = msgspec.structs.replace(asset, last=str(version), last_id=before.id, count=asset.count + 1, revision=0)
        unit.put(self.keys.asset(asset.id), encode(newer))
        return after

    async def _publishable(self, unit: Unit, identity: int) -> None:
        """Raises `WrongState` unless a published version may depend on the artifact."""
        part = await self._artifact_in(unit, identity)
        if part.state not in {LIVE, PUBLISHED}:
            raise WrongState(f"a published version cannot depend on {part.label}, which is {part.state}")

    async def _artifact_in(self, unit: Unit, identity: int) -> Artifact:
        found = await self._object_in(unit, identity)
        if not isinstance(found, Artifact):
            raise InvalidValue(f"{found.label} is no artifact")
        return found

    async def _to_state(self, unit: Unit, before: Artifact, state: str, emptied: Artifact | None = None) -> Artifact:
        of = await self.type_in(unit, "artifact", before.type)
        after = msgspec.structs.replace(emptied or before, state=state, update_time_ms=now_ms(), revision=0)
        self._write(unit, of, before, after)
        return after

    async def _references(self, unit: Unit, identity: int) -> list[str]:
        """What refers to an artifact; whatever is added meanwhile stops the unit."""
        aliases = await unit.range(self.keys.edges_of(identity, ALIAS))
        by = [f"alias {item.value.decode()!r}" for item in aliases]
        for item in await unit.range(self.keys.edges_of(identity, b"dd")):
            # Purged is for ever: such a dependant need not be held still.
            stored = await unit.look(self.keys.object(tail_id(item.key)))
            assert stored is not None
            other = object_of(stored)
            if isinstance(other, Artifact) and other.state != PURGED:
                by.append(other.label)
        for item in await unit.range(self.keys.edges_of(identity, b"di")):
            found = await unit.look(self.keys.object(tail_id(item.key)))
            assert found is not None
            user = object_of(found)
            living = await unit.look(self.keys.run(user.id)[1])
            if isinstance(user, Execution) and user.state == RUNNING and living is not None:
                by.append(user.label)
        return by


def _asset_of(item: KeyValue) -> Asset:
    return msgspec.structs.replace(_assets.decode(item.value), revision=item.mod_revision)


def _asset_name(kind: str, name: str) -> None:
    check_text(f"the name of a {kind}", name, NAME_BYTES_MAX - 64)
    if "@" in name:
        raise InvalidValue(f"the name of a {kind} has no @, which separates versions: {name!r}")


def _check_alias(alias: str) -> None:
    check_text("an alias", alias, NAME_BYTES_MAX)
    name, _, tail = alias.rpartition("@")
    if name and (tail == LATEST or Version.parse(tail) is not None):
        raise InvalidValue(f"{alias!r} names a version and cannot be an alias")


def _check_bump(bump: str) -> None:
    if bump not in {"schema", "revision", "patch"}:
        raise InvalidValue(f"a version bumps schema, revision or patch, not {bump!r}")


def _triple(version: Version) -> tuple[int, int, int]:
    return version.schema, version.revision, version.patch
