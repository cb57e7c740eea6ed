"""A replica's disk: the log environment's tables, what of them would survive, snapshots, and who the disk is.

Writes go through three stations, and what a crash leaves depends on how far they came:

- *waiting*: a group handed over by `submit`, whose transaction has not begun. Groups that wait together are merged into
  one transaction, in order.
- *in flight*: the transaction that is being committed. It has been written or it has not: when the process crashes, one
  or the other, whole.
- *cached*: written by the process and not known to be on the platter: a process that dies in the middle of a sync may
  leave its transaction there for its successor to read, until a power cut takes it away again. A replica must therefore
  sync when it starts, before it acts on what it reads.
- *durable*: survives everything but the loss of the disk itself.

``adversarial`` crashes keep a prefix of *groups* rather than of transactions, as the contract of
`replica.storage.coordinator` allows: any number of waiting groups may have made it, never one without those before it.

Records are bytes here: they went through the codec. A corrupt record is one that a checksum would reveal; whoever
reads it gets `CorruptRecord`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from sortedcontainers import SortedDict

from replica.consensus.codec import Codec, MalformedValue
from replica.consensus.interface import CorruptRecord, Put, Record, Write
from replica.simulation.witness import Controls, Ledger
from replica.storage.coordinator import META_TABLE

CORRUPT: Final = b"\xc1 corrupt"
"""Stands in a table for a record whose checksum fails. 0xC1 begins no MessagePack value."""

EncodedWrite: TypeAlias = tuple[str, bytes, bytes | None, bytes]
"""Table, key, record to put (None: discard), and for a discard where the interval ends."""

Tables: TypeAlias = "dict[str, SortedDict]"


class Disk:
    """One replica's disk. It outlives the processes that use it."""

    def __init__(self, identity: str, ledger: Ledger, controls: Controls | None = None) -> None:
        """``ledger`` is entered whatever becomes durable; it outlives the disk."""
        self._ledger = ledger
        self._controls = controls or Controls()
        self.identity = identity
        """Minted when the disk was formatted; a wiped disk has another one."""
        self.incarnation = 0
        """Starts of the replica on this disk, durable."""
        self.admitted = False
        self.snapshots: dict[str, object] = {}
        """Immutable snapshots by name: durable from the moment they are complete."""
        self._latest_snapshot = ""
        self.torn = 0
        """Transactions of several groups of which a crash kept some groups and not all."""
        self._view: Tables = {}
        self._durable: Tables = {}
        self._waiting: list[tuple[int, list[EncodedWrite]]] = []
        self._flying: list[tuple[int, list[EncodedWrite]]] = []
        self._cached: list[tuple[int, list[EncodedWrite]]] = []

    # ------------------------------------------------------------------------------------------------------- writing

    def submit(self, group: int, writes: list[EncodedWrite]) -> None:
        """Hand a group over. It is readable at once and durable once `finish` has reported it."""
        _apply(self._view, writes)
        self._waiting.append((group, writes))

    @property
    def waiting(self) -> bool:
        """Is there a group whose transaction has not begun?"""
        return bool(self._waiting)

    @property
    def busy(self) -> bool:
        """Is a transaction being committed?"""
        return bool(self._flying)

    def begin(self) -> int:
        """Start to commit everything that waits as one transaction; returns how many groups it holds."""
        if self._flying:
            raise ValueError("a transaction is being committed")
        self._flying, self._waiting = self._waiting, []
        return len(self._flying)

    def finish(self) -> int:
        """The commit has succeeded: returns the highest number among the groups that are durable by it."""
        group = max(number for number, _ in self._flying)
        if self._controls.sync:
            # A sync takes along whatever was written before.
            self._settle(self._cached)
            self._cached = []
            self._settle(self._flying)
        else:
            self._cached.extend(self._flying)
        self._flying = []
        return group

    def sync(self) -> None:
        """Make durable what the process, or the one before it, has written."""
        if self._controls.sync:
            self._settle(self._cached)
            self._cached = []

    def drop(self) -> int:
        """The commit has failed and nobody cares: readers see it, and no later sync brings it to the platter."""
        group = max(number for number, _ in self._flying)
        self._flying = []
        return group

    @property
    def last_submitted(self) -> int:
        """The highest number among the groups that were ever handed over and are not durable."""
        return max((number for number, _ in (*self._flying, *self._waiting)), default=0)

    def keep_snapshot(self, name: str, image: object) -> None:
        """A snapshot is complete: from now on it is there, whatever happens."""
        self.snapshots[name] = image
        self._latest_snapshot = name

    # ------------------------------------------------------------------------------------------------------- crashes

    def crash(self, draw: random.Random, *, power: bool, adversarial: bool) -> int:
        """The process dies, and with ``power`` the machine does. Returns how many groups were lost.

        Afterwards readers see what is left.
        """
        unsettled = self._cached + self._flying
        begun = len(unsettled)
        if adversarial:
            unsettled = unsettled + self._waiting
            keep = draw.randrange(len(unsettled) + 1)
        else:
            keep = draw.choice((0, len(self._cached), begun))
        if not power:
            keep = max(keep, len(self._cached))
        lost = len(self._cached) + len(self._flying) + len(self._waiting) - keep
        if len(self._cached) < keep < begun:
            self.torn += 1
        survivors = unsettled[:keep]
        if not self._controls.batches_atomic and keep < len(unsettled):
            group, writes = unsettled[keep]
            survivors.append((group, [write for write in writes if draw.random() < 0.5]))
        if power:
            self._settle(survivors)
            self._cached = []
        else:
            self._cached = survivors
        if power and not self._controls.snapshots_synced:
            self.snapshots.pop(self._latest_snapshot, None)
        self._flying = []
        self._waiting = []
        if not self._controls.persistence:
            self._durable = {META_TABLE: SortedDict(self._durable.get(META_TABLE, {}))}
            self._cached = []
        self._view = {table: SortedDict(records) for table, records in self._durable.items()}
        for _, writes in self._cached:
            _apply(self._view, writes)
        return lost

    def corrupt(self, draw: random.Random) -> tuple[str, bytes] | None:
        """Let a record of a protocol's tables rot, where it lies and for good. Returns which, if there was one."""
        candidates = [
            (table, key) for table in sorted(self._durable) if table != META_TABLE for key in self._durable[table]
        ]
        if not candidates:
            return None
        table, key = draw.choice(candidates)
        self._durable[table][key] = CORRUPT
        if key in self._view.get(table, ()):
            self._view[table][key] = CORRUPT
        return table, key

    def _settle(self, groups: list[tuple[int, list[EncodedWrite]]]) -> None:
        enter = self._ledger.enter
        for _, writes in groups:
            _apply(self._durable, writes)
            for _, _, record, _ in writes:
                if record is not None:
                    enter(record)

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, table: str, key: bytes) -> bytes | None:
        """The bytes under ``key``, written durably or not."""
        records = self._view.get(table)
        return None if records is None else records.get(key)

    def keys(self, table: str, first: bytes, last: bytes) -> list[bytes]:
        """The keys of a half-open interval, ascending."""
        records = self._view.get(table)
        return [] if records is None else list(records.irange(first, last, inclusive=(True, False)))

    @property
    def forgives(self) -> bool:
        """Does a record that cannot be read pass for none?"""
        return not self._controls.corrupt_is_unknown

    def records(self) -> int:
        """How many records the protocol's tables hold."""
        return sum(len(records) for table, records in self._view.items() if table != META_TABLE)


class DiskReader:
    """`Stable` on a disk, through the codec of one protocol."""

    def __init__(self, disk: Disk, codec: Codec) -> None:
        self._disk = disk
        self._codec = codec

    def get(self, table: str, key: bytes) -> Record | None:
        """The record, or None. Raises `CorruptRecord`."""
        data = self._disk.read(table, key)
        if data == CORRUPT and self._disk.forgives:
            return None
        return None if data is None else self._decode(table, key, data)

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        """Records of a half-open interval, ascending. Raises `CorruptRecord` on reaching a bad one."""
        for key in self._disk.keys(table, first, last):
            data = self._disk.read(table, key)
            if data is not None and not (data == CORRUPT and self._disk.forgives):
                yield key, self._decode(table, key, data)

    def _decode(self, table: str, key: bytes, data: bytes) -> Record:
        try:
            return self._codec.decode_record(table, data)
        except MalformedValue as error:
            raise CorruptRecord(table, key, str(error)) from None


def encode_writes(writes: list[Write], encode: Callable[[Record], bytes], tables: frozenset[str]) -> list[EncodedWrite]:
    """Writes as the disk takes them. Raises `KeyError` for a table that was not declared."""
    encoded: list[EncodedWrite] = []
    for write in writes:
        if write.table not in tables:
            raise KeyError(f"table {write.table!r} was not declared (there are: {', '.join(sorted(tables))})")
        if isinstance(write, Put):
            encoded.append((write.table, write.key, encode(write.record), b""))
        else:
            encoded.append((write.table, write.first, None, write.last))
    return encoded


def _apply(tables: Tables, writes: list[EncodedWrite]) -> None:
    for table, key, record, last in writes:
        records = tables.get(table)
        if records is None:
            records = tables[table] = SortedDict()
        if record is not None:
            records[key] = record
        else:
            for doomed in list(records.irange(key, last, inclusive=(True, False))):
                del records[doomed]
