"""The replicated state machine for orders by object: decided commands in, results out.

Theory of operation
-------------------
A delivery names an object and a position in it. Deliveries of different objects come in any order, and positions of one
object may come out of order, as the protocol's dependencies allow; what the protocol promises is that commands that
interfere come in the same order on every replica. The state is then a function of *which* positions have been applied:
each key's record depends on the commands that may write the key, and on their order among themselves alone. So two
states that have applied the same positions are equal, whatever order they took, and `digest` shows it.

What has been applied is remembered as a frontier and the stretches above it, by object, and becomes durable in the same
commit as the data. Whatever is delivered a second time is passed over.

An object that stands for a key (`replica.consensus.interface.object_of`) can be handed from replica to replica:
`export` gives its record, sessions included, and `install` puts it in the place of an older one.

How commands are grouped into calls, when `commit` is called, and how often the process starts again from the last
commit make no difference. Durability is the driver's: what was not committed is delivered again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from heapq import merge
from typing import Final, cast

import msgspec

from replica.kv.execution import CROWDED
from replica.kv.layout import META, CorruptState
from replica.kv.leases import Leases
from replica.kv.operations import RESULT_BYTES_MAX, SYSTEM_PREFIX, AnyResult, Failed, Failure, KeyValue, ReadOperation
from replica.kv.outcomes import Outcome
from replica.kv.store import Reader, Store

from .abilities import Abilities
from .evaluation import Evaluation
from .execution import AppliedCommand, execute
from .positions import Positions
from .record import SESSIONS_PER_KEY_MAX, KeyRecord, decode_record, encode_record

FORMAT: Final = 1
"""Version of the layout of the state."""

KEYS: Final = "keys"
"""The table of records, by key."""

OBJECTS: Final = "objects"
"""The table of what has been applied, by the object's name."""

CACHED_BYTES_MAX: Final = 32 << 20
"""What the records held in memory may come to before those that are written are let go."""

RECORD_BYTES: Final = 200
"""What a record counts beside its value."""

DIGEST_BYTES: Final = 16

DIGEST_STRETCH_KEYS: Final = 64
"""Keys that a digest takes in between two calls of what it was given to call."""

_META_KEY: Final = b"objects"


class ObjectDigest(msgspec.Struct, frozen=True, array_like=True):
    """A fingerprint of the state, the same on every replica that has applied the same positions."""

    applied: dict[str, int]
    progress: int
    """How many positions that is, of all objects together."""
    standing: str
    """Hexadecimal, over everything that tells which positions have been applied: digests compare where it is equal."""
    keys: int
    digest: str
    """Hexadecimal, over the records of all keys."""


class _Meta(msgspec.Struct, array_like=True):
    format: int
    newest_session: int


_encode = msgspec.msgpack.Encoder().encode
_meta: Final = msgspec.msgpack.Decoder(_Meta)
_positions: Final = msgspec.msgpack.Decoder(Positions)


class ObjectMachine:
    """The state of one replica whose protocol orders by object. Not thread-safe.

    ``abilities`` and ``sessions_max`` must be the same on all replicas.
    """

    revision: Final = 0
    """There is no revision of the whole."""
    compacted: Final = 0
    sessions: Final = ()
    """There is no register of sessions: they are with the keys."""

    def __init__(
        self,
        store: Store,
        *,
        abilities: Abilities | None = None,
        sessions_max: int = SESSIONS_PER_KEY_MAX,
    ) -> None:
        """Goes on from what the store holds. Raises `CorruptState`."""
        self.store = store
        self.abilities = abilities or Abilities(total_order=False)
        self._sessions_max = sessions_max
        self.reload()

    def reload(self) -> None:
        """The store's contents were replaced (a snapshot was installed): go on from them. Raises `CorruptState`."""
        self._records: dict[bytes, KeyRecord] = {}
        self._changed: dict[bytes, None] = {}
        self._cached_bytes = 0
        self._objects: dict[str, Positions] = {}
        self._advanced: dict[str, None] = {}
        self.leases = Leases(self.store)
        """None, ever."""
        self.progress = 0
        """How many positions have been applied, of all objects together."""
        self.newest_session = 0
        """The highest session id seen in a command or a refusal: what is minted here has to lie above it.

        Not part of the replicated state, since what it sees differs.
        """
        data = self.store.get(META, _META_KEY)
        try:
            if data is not None:
                meta = _meta.decode(data)
                if meta.format != FORMAT:
                    raise ValueError(f"the layout is version {meta.format}, this program reads {FORMAT}")
                self.newest_session = meta.newest_session
        except ValueError as error:
            raise CorruptState(META, _META_KEY, str(error)) from None
        for key, data in self.store.scan(OBJECTS, b"", b""):
            try:
                self._objects[key.decode()] = _positions.decode(data)
            except ValueError as error:
                raise CorruptState(OBJECTS, key, str(error)) from None
        self.progress = sum(map(_size, self._objects.values()))

    # ------------------------------------------------------------------------------------------------------ positions

    @property
    def applied(self) -> dict[str, int]:
        """The frontier of every object of which anything was applied."""
        return {name: positions.frontier for name, positions in self._objects.items() if positions.frontier}

    @property
    def positions(self) -> Mapping[str, Positions]:
        """What has been applied, in full; not to be changed."""
        return self._objects

    def holds(self, name: str, position: int) -> bool:
        """Has the position of the object been applied?"""
        positions = self._objects.get(name)
        return positions is not None and positions.holds(position)

    def covers(self, frontier: Mapping[str, int]) -> bool:
        """Has everything up to ``frontier`` been applied?"""
        objects = self._objects
        for name, position in frontier.items():
            positions = objects.get(name)
            if position > (0 if positions is None else positions.frontier):
                return False
        return True

    def _positions_of(self, name: str) -> Positions:
        positions = self._objects.get(name)
        if positions is None:
            if not name:
                raise ValueError("a delivery by object names its object")
            positions = self._objects[name] = Positions(above=[])
        self._advanced[name] = None
        return positions

    # ------------------------------------------------------------------------------------------------------- applying

    def apply(self, name: str, position: int, commands: Sequence[AppliedCommand]) -> list[Outcome]:
        """Apply the commands decided at ``position`` of the object ``name``; an outcome for each.

        None at all when the position was applied before. Raises `ValueError` for a position below 1.
        """
        if position < 1:
            raise ValueError(f"position {position} of object {name!r}: positions count from 1")
        if self.holds(name, position):
            return []
        outcomes = [execute(self, command, self.abilities, sessions_max=self._sessions_max) for command in commands]
        for command, outcome in zip(commands, outcomes, strict=True):
            self.newest_session = max(self.newest_session, command.session)
            for result in outcome.results():
                if isinstance(result, Failed) and result.code == Failure.SESSION_UNKNOWN:
                    self.newest_session = max(self.newest_session, result.detail)
        self._positions_of(name).add(position)
        self.progress += 1
        if self._cached_bytes > CACHED_BYTES_MAX:
            self._flush()
        return outcomes

    def export(self, name: str) -> tuple[int, bytes]:
        """The position reached by an object that stands for a key, and its image. (0, b"") for none.

        Raises `ValueError` when something was applied beyond a gap: no position describes such a state.
        """
        positions = self._objects.get(name)
        if positions is None:
            return 0, b""
        if positions.above:
            raise ValueError(f"object {name!r} was applied beyond a gap at {positions.frontier + 1}")
        record = self.find(name.encode("latin-1"))
        return positions.frontier, b"" if record is None else encode_record(record)

    def install(self, name: str, position: int, image: bytes) -> bool:
        """Replace the record of the key for which the object stands; False when it stands there or beyond.

        Raises `ValueError` for an image that cannot be read.
        """
        positions = self._objects.get(name)
        if positions is not None and positions.frontier >= position:
            return False
        if image:
            # An empty image says that the key was never written, so there is nothing older here either.
            key = name.encode("latin-1")
            self._forget(key)
            self._remember(key, decode_record(image))
            self._changed[key] = None
        reached = self._positions_of(name)
        before = _size(reached)
        reached.raise_to(position)
        self.progress += _size(reached) - before
        return True

    def commit(self) -> None:
        """Make everything applied so far survive the process, together."""
        self.prepare()
        self.store.commit()

    @property
    def scavenging(self) -> bool:
        """Is there anything left to tidy up? Never: nothing of the past is kept."""
        return False

    settled: Final = True
    """Nothing is put off until the answers have left."""

    def settle(self) -> None:
        """There is nothing to be done."""

    def prepare(self) -> None:
        """Bring the store's open transaction up to what was applied, without ending it."""
        self._flush()
        if self._advanced:
            written = [(name.encode(), _encode(self._objects[name])) for name in sorted(self._advanced)]
            self.store.put_many(OBJECTS, written)
            self._advanced.clear()
        self.store.put(META, _META_KEY, _encode(_Meta(FORMAT, self.newest_session)))

    # ----------------------------------------------------------------------------------------------------------- keys

    def find(self, key: bytes) -> KeyRecord | None:
        """The record of a key that was ever written; it must not be changed. Raises `CorruptState`."""
        record = self._records.get(key)
        if record is not None:
            return record
        data = self.store.get(KEYS, key)
        if data is None:
            return None
        record = _read(key, data)
        self._remember(key, record)
        return record

    def change(self, key: bytes) -> KeyRecord:
        """The record of a key, made if need be, to be changed. Raises `CorruptState`."""
        record = self.find(key)
        if record is None:
            record = KeyRecord(sessions={})
            self._remember(key, record)
        elif key in self._changed:
            return record
        self._changed[key] = None
        self._cached_bytes += 0 if record.item is None else len(record.item.value)
        return record

    def interval(self, first: bytes, last: bytes, *, reverse: bool, system: bool) -> Iterator[KeyValue]:
        """The items of an interval in order; ``system`` True includes the keys of the system."""
        changed = [key for key in self._changed if first <= key and (not last or key < last)]
        changed.sort(reverse=reverse)
        stored = (
            (key, _read(key, data))
            for key, data in self.store.scan(KEYS, first, last, reverse=reverse)
            if key not in self._changed
        )
        held = ((key, self._records[key]) for key in changed)
        for key, record in merge(stored, held, key=_key_of, reverse=reverse):
            if record.item is not None and (system or not key.startswith(SYSTEM_PREFIX)):
                yield record.item

    def _remember(self, key: bytes, record: KeyRecord) -> None:
        self._records[key] = record
        self._cached_bytes += RECORD_BYTES + (0 if record.item is None else len(record.item.value))

    def _forget(self, key: bytes) -> None:
        self._records.pop(key, None)

    def _flush(self) -> None:
        """Hand the changed records to the store, and let go of the rest when there is much of it."""
        if self._changed:
            written = [(key, encode_record(self._records[key])) for key in sorted(self._changed)]
            self.store.put_many(KEYS, written)
            self._changed.clear()
        if self._cached_bytes > CACHED_BYTES_MAX:
            self._records.clear()
            self._cached_bytes = 0

    # -------------------------------------------------------------------------------------------------------- reading

    def query(self, operations: Sequence[ReadOperation]) -> list[AnyResult]:
        """Answer reads from the applied state; nothing changes. Bounded as `StateMachine.query` is."""
        results: list[AnyResult] = []
        room = RESULT_BYTES_MAX
        for operation in operations:
            if room <= 0:
                results.append(Failed(0, Failure.CROWDED, CROWDED))
                continue
            evaluation = Evaluation(self, system=False)
            results.append(evaluation.run(operation))
            room -= evaluation.spent
        return results

    def digest(self, *, between: Callable[[], None] | None = None) -> ObjectDigest:
        """The fingerprint of the state as applied: a scan of all keys.

        ``between`` is called every `DIGEST_STRETCH_KEYS` keys; what it raises ends the scan.
        """
        self._flush()
        total = 0
        keys = 0
        for key, data in self.store.scan(KEYS, b"", b""):
            total += int.from_bytes(blake2b(_encode((key, data)), digest_size=DIGEST_BYTES).digest(), "big")
            keys += 1
            if between is not None and keys % DIGEST_STRETCH_KEYS == 0:
                between()
        folded = total % (1 << (8 * DIGEST_BYTES))
        standing = blake2b(_encode(sorted(self._objects.items())), digest_size=DIGEST_BYTES).hexdigest()
        return ObjectDigest(self.applied, self.progress, standing, keys, folded.to_bytes(DIGEST_BYTES, "big").hex())


def _size(positions: Positions) -> int:
    return positions.frontier + sum(last - first + 1 for first, last in positions.above)


def _key_of(found: tuple[bytes, KeyRecord]) -> bytes:
    return found[0]


def _read(key: bytes, data: bytes) -> KeyRecord:
    try:
        return decode_record(data)
    except ValueError as error:
        raise CorruptState(KEYS, key, str(error)) from None


def object_digest_of(reader: Reader, *, between: Callable[[], None] | None = None) -> ObjectDigest:
    """What `ObjectMachine.digest` says of the state that ``reader`` holds as committed. Raises `CorruptState`."""
    # A machine that was just loaded has nothing to write, and neither loading nor the digest writes by itself.
    return ObjectMachine(cast("Store", reader)).digest(between=between)
