"""What all of the metadata store stands on: opening it, ids, types as the client knows them, and carrying units out."""

from __future__ import annotations

import asyncio
import getpass
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from replica.client import AsyncStore, Compare, Get, KeyValue, Put, Range, Unchanged
from replica.client.errors import (
    Compacted,
    Conflict,
    Indefinite,
    NotCommitted,
    Overloaded,
    Unavailable,
    Unsupported,
)
from replica.client.ranges import PAGE_KEYS
from replica.kv.operations import Added, Got, Transacted, Transaction, prefix_end
from replica.metadata.errors import (
    InvalidValue,
    NeedsTotalOrder,
    NotFound,
    StaleRevision,
    UnitTooLarge,
    UnknownType,
    WrongLayout,
)
from replica.metadata.keys import LAYOUT, Keys, type_number
from replica.metadata.model import (
    KINDS,
    OBJECT_BYTES_MAX,
    SERIAL_BITS,
    AnyObject,
    Artifact,
    AuditRecord,
    Context,
    Execution,
    Kind,
    TypeDef,
)
from replica.metadata.unit import Unit

R = TypeVar("R")
Ref = Artifact | Execution | Context | int
"""How an object is named in a call: by itself or by its id."""

ATTEMPTS: Final = 64
"""How often a unit is built anew before a `Conflict` is let through."""

RESENDS: Final = 4
"""How often a transaction whose answer was lost is sent again before that is let through."""

PAUSE_FIRST_S: Final = 0.001
PAUSE_MAX_S: Final = 0.1

BLOCK_SERIALS: Final = 256
"""Serial numbers taken at once. What a client does not use of a block is never used."""

SERIAL_MAX: Final = (1 << SERIAL_BITS) - 1

FETCHES_MAX: Final = 256
"""Reads that one query has on their way at once."""

PREFIX: Final = "md/"

_objects: msgspec.msgpack.Decoder[AnyObject] = msgspec.msgpack.Decoder(AnyObject)
_types = msgspec.msgpack.Decoder(TypeDef)
_records = msgspec.msgpack.Decoder(AuditRecord)
_encoder = msgspec.msgpack.Encoder()


def encode(value: Any) -> bytes:
    """As it is stored."""
    return _encoder.encode(value)


def object_of(item: KeyValue) -> AnyObject:
    """The object in a key, with its revisions."""
    found = _objects.decode(item.value)
    return msgspec.structs.replace(found, created=item.create_revision, revision=item.mod_revision)


def encode_object(found: AnyObject) -> bytes:
    """An object without its revisions, which the store keeps. Raises `UnitTooLarge`."""
    content = encode(msgspec.structs.replace(found, created=0, revision=0))
    if len(content) > OBJECT_BYTES_MAX:
        raise UnitTooLarge(f"{found.label} has {len(content)} bytes of metadata; an object has {OBJECT_BYTES_MAX}")
    return content


def type_of(item: KeyValue) -> TypeDef:
    """The type in a key, with its revision."""
    return msgspec.structs.replace(_types.decode(item.value), revision=item.mod_revision)


def now_ms() -> int:
    """For people to read; nothing is ordered by it."""
    return time.time_ns() // 1_000_000


def id_of(ref: Ref) -> int:
    """The id that a call names. Raises `InvalidValue`."""
    identity = ref if isinstance(ref, int) else getattr(ref, "id", None)
    if not isinstance(identity, int) or isinstance(identity, bool) or not 0 < identity < 1 << 63:
        raise InvalidValue(f"an object or its id is needed, not {ref!r}")
    return identity


class Core:
    """The parts that the faces of the store share; `AsyncMetadata` is all of them together."""

    def __init__(self, store: AsyncStore, *, prefix: str = PREFIX, actor: str | None = None) -> None:
        self.store = store
        self.keys = Keys(prefix)
        self.actor = actor if actor is not None else _whoever()
        self._layout_revision = 0
        self._opening: asyncio.Lock | None = None
        self._seen = 0
        """The highest revision that this client has heard of."""
        self._serials: range = range(0)
        self._taking: asyncio.Lock | None = None
        self._types: dict[tuple[str, str], TypeDef] = {}
        self._random = random.Random()

    # ------------------------------------------------------------------------------------------------------- opening

    async def open(self) -> None:
        """See that there is a store under the prefix, laid out as this package has it. Other calls do it themselves.

        Raises:
            NeedsTotalOrder: the cluster's protocol orders keys one by one.
            WrongLayout: another version of this package has laid it out.
        """
        if self._layout_revision:
            return
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            await self._lay_out()

    async def _lay_out(self) -> None:
        if not self._layout_revision:
            key = self.keys.layout
            try:
                got = await self.store.read(Get(key))
                if isinstance(got, Got) and got.item is None:
                    # That nothing was written there since can be asked only where revisions are those of the whole
                    # store; elsewhere all of this is refused, and nothing written.
                    unwritten = Unchanged(key, key + b"\x00", got.revision)
                    begin = Transaction(
                        (unwritten, Compare(key, "exists", "=", 0)), (Put(key, b"%d" % LAYOUT),), (Get(key),)
                    )
                    await self._patiently(lambda: self.store.execute(begin))
                    got = await self.store.read(Get(key))
            except Unsupported as error:
                raise NeedsTotalOrder(f"this cluster cannot hold a metadata store: {error.reason}") from None
            assert isinstance(got, Got)
            self._see(got.revision)
            self._laid_out(got.item)

    def _laid_out(self, item: KeyValue | None) -> None:
        """Raises `WrongLayout` unless it is as this package has it."""
        found = None if item is None else item.value
        if item is None or found != b"%d" % LAYOUT:
            raise WrongLayout(
                f"the keys under {self.keys.prefix!r} have layout {found!r}, this package writes {LAYOUT}"
            )
        self._layout_revision = item.mod_revision

    def _see(self, revision: int) -> None:
        self._seen = max(self._seen, revision)

    # ------------------------------------------------------------------------------------------------------- reading

    async def fetch(self, operation: Get) -> Got:
        """One read. Raises `StaleRevision`."""
        try:
            got = await self.store.read(operation)
        except Compacted as error:
            raise _stale(error) from None
        assert isinstance(got, Got)
        self._see(got.revision)
        return got

    async def fetch_all(self, keys: Sequence[bytes], revision: int) -> list[KeyValue | None]:
        """Many reads at one revision, `FETCHES_MAX` on their way at once."""
        found: list[KeyValue | None] = []
        for begin in range(0, len(keys), FETCHES_MAX):
            some = keys[begin : begin + FETCHES_MAX]
            got = await asyncio.gather(*(self.fetch(Get(key, revision)) for key in some))
            found += [each.item for each in got]
        return found

    async def scan(
        self,
        first: bytes,
        last: bytes,
        revision: int,
        *,
        keys_only: bool = False,
        reverse: bool = False,
        page: int = PAGE_KEYS,
    ) -> AsyncIterator[list[KeyValue]]:
        """An interval at one revision, page by page."""
        left, right = first, last
        while True:
            operation = Range(left, right, page, reverse, keys_only, revision=revision)
            try:
                found = await self.store.read(operation)
            except Compacted as error:
                raise _stale(error) from None
            items: list[KeyValue] = list(found.items)  # type: ignore[union-attr]
            if items:
                yield items
            if not found.more or not items:  # type: ignore[union-attr]
                return
            if reverse:
                right = items[-1].key
            else:
                left = items[-1].key + b"\x00"

    async def scan_prefix(
        self, prefix: bytes, revision: int, *, keys_only: bool = False
    ) -> AsyncIterator[list[KeyValue]]:
        """All keys with a prefix at one revision, page by page."""
        async for page in self.scan(prefix, prefix_end(prefix), revision, keys_only=keys_only):
            yield page

    async def revision(self) -> int:
        """The newest revision: what is read at it shows every change that was acknowledged before."""
        await self.open()
        got = await self.fetch(Get(self.keys.layout))
        return got.revision

    async def at(self, revision: int | None) -> int:
        """The revision to read at: the one given, or the newest."""
        if revision is None:
            return await self.revision()
        if revision < 1:
            raise InvalidValue(f"a revision is a positive integer, not {revision!r}")
        await self.open()
        return revision

    # ----------------------------------------------------------------------------------------------------------- ids

    async def serial(self) -> int:
        """A number that no client of this store has had before."""
        if not self._serials:
            await self.open()
            if self._taking is None:
                self._taking = asyncio.Lock()
            async with self._taking:
                if not self._serials:
                    # If the answer is lost the block is, too: nobody minds.
                    added = await self._patiently(lambda: self.store.add(self.keys.serials, BLOCK_SERIALS))
                    assert isinstance(added, Added)
                    self._serials = range(added.value - BLOCK_SERIALS + 1, added.value + 1)
        number, self._serials = self._serials[0], self._serials[1:]
        assert number <= SERIAL_MAX, "a store has at most 2**40 objects"
        return number

    # --------------------------------------------------------------------------------------------------------- types

    async def type_in(self, unit: Unit, kind: Kind, name: str) -> TypeDef:
        """A type, for a unit that takes effect only while the type is as it is now. Raises `UnknownType`."""
        key = self.keys.type(kind, name)
        known = self._types.get((kind, name))
        if known is None or unit.reading:
            item = await unit.look(key)
            if item is None:
                raise UnknownType(f"no {kind} type is called {name!r}")
            known = self._remember(type_of(item))
        unit.unchanged(key, known.revision)
        return known

    def _remember(self, found: TypeDef) -> TypeDef:
        self._types[found.kind, found.name] = found
        return found

    async def types_at(self, revision: int, kind: Kind | None = None) -> list[TypeDef]:
        """All types at a revision."""
        prefix = self.keys.types + (kind[:1].encode() if kind is not None else b"")
        return [type_of(item) async for page in self.scan_prefix(prefix, revision) for item in page]

    async def type_at(self, revision: int, name: str, kind: Kind | None = None) -> TypeDef:
        """A type by its name. Raises `UnknownType`, and `InvalidValue` when several kinds have one of that name."""
        kinds: tuple[Kind, ...] = (kind,) if kind is not None else KINDS
        items = await self.fetch_all([self.keys.type(each, name) for each in kinds], revision)
        return await self._only_type(items, revision, name, kind)

    async def type_now(self, name: str, kind: Kind | None = None) -> tuple[TypeDef, int]:
        """A type by its name and a revision as new as this call, in one round trip. Raises as `type_at`."""
        await self.open()
        kinds: tuple[Kind, ...] = (kind,) if kind is not None else KINDS
        found = await asyncio.gather(*(self.fetch(Get(self.keys.type(each, name))) for each in kinds))
        revision = min(each.revision for each in found)
        items = [each.item for each in found]
        if any(item is not None and item.mod_revision > revision for item in items):
            return await self.type_at(revision, name, kind), revision
        return await self._only_type(items, revision, name, kind), revision

    async def _only_type(
        self, items: Sequence[KeyValue | None], revision: int, name: str, kind: Kind | None
    ) -> TypeDef:
        found = [type_of(item) for item in items if item is not None]
        if not found:
            names = ", ".join(sorted(each.name for each in await self.types_at(revision, kind)))
            raise UnknownType(f"no {kind or 'such'} type is called {name!r} (there are: {names or 'none'})")
        if len(found) > 1:
            raise InvalidValue(f"{name!r} is a type of {', '.join(each.kind for each in found)}: say kind=")
        return found[0]

    # ------------------------------------------------------------------------------------------------- carrying out

    async def carry_out(self, action: str, build: Callable[[Unit], Awaitable[R]], *, reading: bool = False) -> R:
        """Build a unit and commit it, anew as long as somebody else is quicker; what ``build`` returned comes back.

        Raises:
            Conflict: it was overtaken `ATTEMPTS` times. Nothing was changed.
            MaybeCommitted: the answer was lost `RESENDS` times.
        """
        await self.open()
        marker = self.keys.record(self._seen, await self.serial())
        results: list[R] = []
        pause_s = PAUSE_FIRST_S
        for attempt in range(ATTEMPTS):
            unit = Unit(self, reading=reading or attempt > 0)
            if unit.reading:
                self._laid_out(await unit.look(self.keys.layout))
            unit.unchanged(self.keys.layout, self._layout_revision)
            try:
                result = await build(unit)
            except NotCommitted:
                # An attempt whose answer was lost may have been the one: then there is nothing to complain about.
                if attempt and (done := await self._done(marker)) is not None and done < len(results):
                    return results[done]
                raise
            results.append(result)
            if unit.empty:
                return result
            record = AuditRecord(
                action=action, actor=self.actor, objects=tuple(unit.touched), time_ms=now_ms(), attempt=attempt
            )
            operation = unit.operation(marker, encode(record))
            answer = await self._patiently(lambda sent=operation: self.store.execute(sent))  # type: ignore[misc]
            assert isinstance(answer, Transacted)
            self._see(answer.revision)
            if answer.succeeded:
                return self._stamped(result, answer.revision)
            (got,) = answer.results
            assert isinstance(got, Got)
            if got.item is not None:
                done = _records.decode(got.item.value).attempt
                return self._stamped(results[done], got.item.mod_revision)
            if attempt > 0:
                await asyncio.sleep(pause_s * (0.5 + self._random.random()))
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        raise Conflict(f"{action} was overtaken by others {ATTEMPTS} times")

    async def _done(self, marker: bytes) -> int | None:
        got = await self.fetch(Get(marker))
        return None if got.item is None else _records.decode(got.item.value).attempt

    def _stamped(self, result: R, revision: int) -> R:
        """Objects that a unit has written learn the revision at which it took effect."""
        if isinstance(result, Artifact | Execution | Context) and result.revision == 0:
            return msgspec.structs.replace(result, revision=revision, created=result.created or revision)
        return result

    async def _patiently(self, send: Callable[[], Awaitable[R]]) -> R:
        """Send something that takes effect at most once however often it is sent; again where nobody answered."""
        resends = 0
        while True:
            try:
                return await send()
            except (Indefinite, Unavailable, Overloaded):
                resends += 1
                if resends >= RESENDS:
                    raise
                await asyncio.sleep(PAUSE_MAX_S * self._random.random())

    # ------------------------------------------------------------------------------------------------------- objects

    async def objects_at(self, ids: Iterable[int], revision: int) -> list[AnyObject | None]:
        """Objects by id at a revision, executions with the state that they are known to have."""
        items = await self.fetch_all([self.keys.object(each) for each in ids], revision)
        return await self.revived([None if item is None else object_of(item) for item in items], revision)

    async def revived(self, found: Sequence[AnyObject | None], revision: int) -> list[AnyObject | None]:
        """Executions that say they are running, and are not, because their lease has ended, have failed."""
        running = [each for each in found if isinstance(each, Execution) and each.state == "RUNNING"]
        if not running:
            return list(found)
        living = await self.fetch_all([self.keys.run(each.id)[1] for each in running], revision)
        dead = {each.id for each, item in zip(running, living, strict=True) if item is None}
        return [
            msgspec.structs.replace(each, state="FAILED", error=LEASE_ENDED)
            if isinstance(each, Execution) and each.id in dead
            else each
            for each in found
        ]

    async def get(self, ref: Ref, *, at: int | None = None) -> AnyObject:
        """An object by its id, as it is now or was at a revision. Raises `NotFound`."""
        identity = id_of(ref)
        revision = await self.at(at)
        (found,) = await self.objects_at([identity], revision)
        if found is None:
            raise NotFound(f"there is no object {identity} at revision {revision}")
        return found

    async def type_named(self, number: int, revision: int) -> TypeDef:
        """The type with a number. Raises `UnknownType`."""
        for found in self._types.values():
            if found.number == number:
                return found
        for found in await self.types_at(revision):
            self._remember(found)
        for found in self._types.values():
            if found.number == number:
                return found
        raise UnknownType(f"there is no type {number}")


LEASE_ENDED: Final = "its lease ended while it was running"
"""The error of an execution whose program died."""


def missing_object(identity: int) -> Callable[[], NotCommitted]:
    """For `Unit.present`."""
    return lambda: NotFound(f"there is no object {identity}")


def number_of(ref: Ref) -> int:
    """The number of an object's type."""
    return type_number(id_of(ref))


def _stale(error: Compacted) -> StaleRevision:
    return StaleRevision(error.reason, error.revision)


def _whoever() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
