"""The log environment: what a protocol has promised and accepted, and the storage's own few records, on LMDB.

Each table of the protocol is a named database of one LMDB environment; the table ``meta`` is the storage's. All writes
of a commit are one LMDB transaction. With durability ``sync`` a commit is on disk when it returns (LMDB syncs the data
pages, then writes its meta page through a descriptor opened for synchronous writes); with ``none`` only the operating
system holds it, and a log that was not closed before the machine stopped is refused.

Every record carries a checksum and its epoch (`replica.storage.envelope`). A record that can't be read is reported as
`UnreadableRecord`, never as absent. A commit that failed is fatal: nothing in it was acknowledged, whether it is on
disk is unknown, and every later commit is refused with the same error.

Commits may run on a writer thread while the protocol reads on its own: `expect` shows the readers what has been handed
over, `settle` what has been committed since. One thread reads and calls those two, one at a time commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import lmdb
import msgspec

from replica.consensus.codec import Codec, MalformedValue
from replica.consensus.interface import Discard, ProtocolSpec, Put, Record, ReplicaId, Write

from .boot import boot_id
from .coordinator import ANCHOR_KEY, META_TABLE, Anchor
from .envelope import Envelope, RecordFault
from .environment import KEY_BYTES_MAX, explain, measure, open_environment, open_tables
from .errors import CorruptStorage, StorageError, UnreadableRecord, WrongReplica
from .files import preallocate, sync_directory, write_file
from .folder import Identity
from .records import (
    ADMITTED_KEY,
    IDENTITY_KEY,
    INCARNATION_KEY,
    PEER_PREFIX,
    Admission,
    Incarnation,
    PeerDisk,
    StoredIdentity,
    peer_key,
)
from .space import Usage

Durability: TypeAlias = Literal["sync", "none"]
"""``sync``: a commit is on disk when it returns. ``none``: it survives the process, not the machine (experiments)."""

LOG_MAP_BYTES: Final = 16 << 30
"""Address space reserved for the log. The file is sparse and grows with its use."""

LOG_PREALLOCATED_BYTES: Final = 64 << 20
"""Zeros written to a new log ahead of its use. A sync that needn't grow the file, nor turn reserved blocks into written
ones, spares the file system a transaction of its own: a third of a commit of 30 KB on ext4. Once the log has been
truncated, LMDB uses its old pages again and has the same advantage."""

_EVERYTHING: Final = b"\xff" * KEY_BYTES_MAX
"""Sorts behind every key."""

_decode_meta: Final = msgspec.msgpack.Decoder(Anchor | StoredIdentity | Incarnation | Admission | PeerDisk).decode


class LogEnvironment:
    """The log of one replica, open. Commits are atomic and in order."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        *,
        durability: Durability = "sync",
        map_bytes: int = LOG_MAP_BYTES,
        preallocated_bytes: int = 0,
    ) -> None:
        """Open the log in ``path`` and check that it is that of ``identity``.

        The file is first made to be at least ``preallocated_bytes`` long, where the disk has room for that.

        Raises `CorruptStorage`, `WrongReplica`, `StorageError`.
        """
        self.path = path
        self.durability: Durability = durability
        self.failure: StorageError | None = None
        """Why commits are refused, once one has failed."""
        if not (path / "data.mdb").is_file():
            raise CorruptStorage(f"{path}: holds no log; restore it, or replace the replica")
        _refuse_lost_writes(path)
        preallocate(path / "data.mdb", min(preallocated_bytes, map_bytes))
        self._environment = open_environment(path, map_bytes=map_bytes, sync=durability == "sync")
        try:
            self._prepare(identity)
        except BaseException:
            self._environment.close()
            raise

    def _prepare(self, identity: Identity) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._tables: dict[str, Any] = open_tables(self._environment)
        self._envelopes: dict[str, Envelope] = {}
        # The last key of each table, where it is known: keys behind it are appended, which fills pages to the brim.
        self._last_keys: dict[str, bytes] = {}
        # Groups handed over to be committed, oldest first; the readers see them before they are.
        self._expected: deque[tuple[int, Sequence[Write]]] = deque()
        self.anchor: Anchor | None = None
        self.incarnation = 0
        self.admitted = False
        self.peer_disks: dict[ReplicaId, str] = {}
        stored: StoredIdentity | None = None
        self.epoch = 0
        for key, record in self.reader(_meta_decoder, check_epoch=False).scan(META_TABLE, b"", _EVERYTHING):
            if isinstance(record, StoredIdentity):
                stored = record
            else:
                self._note(key, record)
        if stored is None:
            raise CorruptStorage(f"{self.path}: the log doesn't say whose it is; restore it, or replace the replica")
        if (stored.cluster, stored.replica, stored.disk) != (identity.cluster, identity.replica, identity.disk):
            raise WrongReplica(
                f"{self.path}: is the log of replica {stored.replica} of {stored.cluster!r} on disk {stored.disk}, the "
                f"folder belongs to replica {identity.replica} of {identity.cluster!r} on disk {identity.disk}; "
                "put the right log back, or replace the replica"
            )
        marker = self.path / "UNSYNCED"
        if self.durability == "none":
            write_file(marker, boot_id().encode())
        elif marker.exists():
            # The last run was without syncs, on this boot: what it wrote is in the page cache and goes to disk now.
            self.sync()
            marker.unlink()
            sync_directory(self.path)

    @classmethod
    def create(cls, path: Path, identity: Identity, anchor: Anchor | None) -> None:
        """Make an empty log in the directory ``path``. Without an ``anchor`` the replica waits to be given one.

        For `replica.storage.folder.format_folder` alone. Raises `StorageError`.
        """
        environment = open_environment(path, map_bytes=LOG_MAP_BYTES, sync=True)
        try:
            envelope = Envelope(META_TABLE)
            encode = msgspec.msgpack.Encoder().encode
            records: list[tuple[bytes, Record]] = [
                (IDENTITY_KEY, StoredIdentity(identity.cluster, identity.replica, identity.disk))
            ]
            if anchor is not None:
                records.append((ANCHOR_KEY, anchor))
            with environment.begin(write=True) as transaction:
                table = environment.open_db(META_TABLE.encode(), transaction)
                for key, record in records:
                    transaction.put(key, envelope.enclose(0, key, encode(record)), db=table)
        except lmdb.Error as error:
            raise explain(path, error, "create the log") from error
        finally:
            environment.close()
        sync_directory(path)

    # ---------------------------------------------------------------------------------------------------- reading

    def reader(self, decode: ProtocolSpec | Decode, *, check_epoch: bool = True) -> LogReader:
        """A reader over the tables of a protocol, which sees what was committed or is expected to be."""
        if isinstance(decode, ProtocolSpec):
            decode = Codec(decode).decode_record
        return LogReader(self, decode, check_epoch=check_epoch)

    def expect(self, number: int, writes: Sequence[Write]) -> None:
        """Group ``number`` has been handed over to be committed: readers see it from now on."""
        self._expected.append((number, writes))

    def settle(self, number: int) -> None:
        """The expected groups up to ``number`` have been committed."""
        while self._expected and self._expected[0][0] <= number:
            self._expected.popleft()

    def usage(self) -> Usage:
        """How full the log is."""
        return measure("the log", self._environment, self._tables)

    # ---------------------------------------------------------------------------------------------------- writing

    def commit(self, groups: Iterable[Sequence[Write]]) -> int:
        """Commit the writes of all ``groups``, in order, as one transaction; return how many bytes of records it held.

        When it returns the writes are durable, as far as the log's durability goes. Raises `StorageFull`, `SyncFailed`,
        `CorruptStorage`: fatal, and so is every commit from then on.
        """
        if self.failure is not None:
            raise self.failure
        transaction = None
        try:
            transaction = self._environment.begin(write=True)
            commit = _Commit(self, transaction, self._tables, self._envelopes, self._last_keys)
            for writes in groups:
                commit.add(writes)
            commit.flush()
            closing, transaction = transaction, None
            closing.commit()
        except (lmdb.Error, OSError) as error:
            self.failure = explain(self.path, error, "commit to the log")
            if transaction is not None:
                transaction.abort()
            raise self.failure from error
        except BaseException as error:
            self.failure = StorageError(
                f"{self.path}: can't commit to the log ({error!r}); nothing of it was acknowledged"
            )
            if transaction is not None:
                transaction.abort()
            raise
        self._tables.update(commit.created)
        for key, record in commit.noted:
            self._note(key, record)
        return commit.bytes

    def sync(self) -> None:
        """Put on disk what was committed without a sync. Raises `SyncFailed`; fatal."""
        try:
            self._environment.sync(True)
        except (lmdb.Error, OSError) as error:
            self.failure = explain(self.path, error, "sync the log")
            raise self.failure from error

    def begin_incarnation(self) -> int:
        """Count this start of the replica, durably whatever the durability, and return its number."""
        record = Incarnation(self.incarnation + 1)
        self.commit([[Put(META_TABLE, INCARNATION_KEY, record)]])
        if self.durability == "none":
            self.sync()
        return record.number

    def admission_writes(self) -> list[Write]:
        """The writes that put on record that the peers have admitted this disk."""
        return [Put(META_TABLE, ADMITTED_KEY, Admission(self.incarnation))]

    def peer_disk_writes(self, replica: ReplicaId, disk: str) -> list[Write]:
        """The writes that put a peer's disk on record. To be durable before the peer is told.

        Raises `ValueError` when another disk is on record: a replica id belongs to one disk for good.
        """
        known = self.peer_disks.get(replica)
        if known is not None and known != disk:
            raise ValueError(f"replica {replica} is on record with disk {known}, not {disk}")
        return [Put(META_TABLE, peer_key(replica), PeerDisk(disk))]

    def close(self) -> None:
        """Close the log. A log without syncs is synced first, so that it is as good as any other."""
        if self.durability == "none" and self.failure is None:
            self.sync()
            (self.path / "UNSYNCED").unlink(missing_ok=True)
            sync_directory(self.path)
        self._environment.close()

    def _note(self, key: bytes, record: Record) -> None:
        """Keep what the storage's own records say."""
        match record:
            case Anchor():
                self.anchor = record
                self.epoch = record.configuration.epoch
            case Incarnation():
                self.incarnation = record.number
            case Admission():
                self.admitted = True
            case PeerDisk():
                # Replaced, not changed: another thread may be looking at it.
                self.peer_disks = {**self.peer_disks, int(key[len(PEER_PREFIX) :]): record.disk}


class _Commit:
    """One transaction in the making."""

    def __init__(
        self,
        log: LogEnvironment,
        transaction: Any,
        tables: dict[str, Any],
        envelopes: dict[str, Envelope],
        last_keys: dict[str, bytes],
    ) -> None:
        self._environment = log._environment
        self._encode = log._encode
        self._epoch = log.epoch
        self._transaction = transaction
        self._tables = tables
        self._envelopes = envelopes
        self._last_keys = last_keys
        self._batches: dict[str, list[tuple[bytes, bytes]]] = {}
        self.created: dict[str, Any] = {}
        """Tables that come with this transaction; their handles hold for others once it is committed."""
        self.noted: list[tuple[bytes, Record]] = []
        self.bytes = 0

    def add(self, writes: Sequence[Write]) -> None:
        """Write one group. Puts are gathered by table, for one call each."""
        batches = self._batches
        for write in writes:
            name = write.table
            if type(write) is Put:
                envelope = self._envelopes.get(name)
                if envelope is None:
                    envelope = self._envelopes[name] = Envelope(name)
                stored = envelope.enclose(self._epoch, write.key, self._encode(write.record))
                self.bytes += len(stored)
                batch = batches.get(name)
                if batch is None:
                    batches[name] = [(write.key, stored)]
                else:
                    batch.append((write.key, stored))
                if name == META_TABLE:
                    self.noted.append((write.key, write.record))
                    if type(write.record) is Anchor:
                        self._epoch = write.record.configuration.epoch
            elif type(write) is Discard:
                self._put(name, batches.pop(name, []))
                self._discard(name, write.first, write.last)

    def flush(self) -> None:
        """Write what has been gathered."""
        for name, items in self._batches.items():
            self._put(name, items)
        self._batches = {}

    def _table(self, name: str) -> Any:
        table = self._tables.get(name) or self.created.get(name)
        if table is None:
            table = self._environment.open_db(name.encode(), self._transaction)
            self.created[name] = table
        return table

    def _put(self, name: str, items: list[tuple[bytes, bytes]]) -> None:
        if not items:
            return
        table = self._table(name)
        last = self._last_keys.get(name)
        append = last is not None
        for key, _ in items:
            if last is None or key > last:
                last = key
            else:
                append = False
        # Appending is promised only for keys that ascend from the table's last one: the binding passes over, silently,
        # what LMDB refuses to append.
        if len(items) == 1:
            key, stored = items[0]
            written = self._transaction.put(key, stored, append=append, db=table)
        else:
            with self._transaction.cursor(table) as cursor:
                _, added = cursor.putmulti(items, append=append)
            written = added == len(items)
        assert written, f"table {name!r} took fewer records than it was given"
        if name in self._last_keys and last is not None:
            self._last_keys[name] = last
        else:
            self._find_last_key(name, table)

    def _discard(self, name: str, first: bytes, last: bytes) -> None:
        table = self._table(name)
        with self._transaction.cursor(table) as cursor:
            if not cursor.last():
                return
            if cursor.key() < last and cursor.first() and cursor.key() >= first:
                # All of it: LMDB frees whole pages, instead of record by record.
                self._transaction.drop(table, delete=False)
                self._last_keys.pop(name, None)
                return
            found = cursor.set_range(first) if first else cursor.first()
            while found and cursor.key() < last:
                # Deleting moves the cursor on to the next record.
                found = cursor.delete() and bool(cursor.key())
        self._find_last_key(name, table)

    def _find_last_key(self, name: str, table: Any) -> None:
        with self._transaction.cursor(table) as cursor:
            if cursor.last():
                self._last_keys[name] = cursor.key()
            else:
                self._last_keys.pop(name, None)


Decode: TypeAlias = Callable[[str, bytes], Record]
"""Makes the record of a table from its body; raises `MalformedValue`, or `KeyError` for an unknown table."""


def _meta_decoder(table: str, body: bytes) -> Record:
    if table != META_TABLE:
        raise KeyError(table)
    try:
        record: Record = _decode_meta(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedValue(str(error)) from None
    return record


class LogReader:
    """Reads the tables of one protocol, its own writes included (`replica.consensus.interface.Stable`)."""

    def __init__(self, log: LogEnvironment, decode: Decode, *, check_epoch: bool) -> None:
        self._log = log
        self._decode = decode
        self._check_epoch = check_epoch

    def get(self, table: str, key: bytes) -> Record | None:
        """The record, or None when there is none. Raises `UnreadableRecord`."""
        for _, writes in reversed(self._log._expected):
            for write in reversed(writes):
                if write.table != table:
                    continue
                if isinstance(write, Put):
                    if write.key == key:
                        return write.record
                elif write.first <= key < write.last:
                    return None
        handle = self._log._tables.get(table)
        if handle is None:
            return None
        try:
            with self._log._environment.begin() as transaction:
                stored = transaction.get(key, None, handle)
        except lmdb.Error as error:
            raise UnreadableRecord(self._log.path, table, key, str(error)) from error
        return None if stored is None else self._read(table, key, stored)

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        """Records with keys in ``[first, last)``, ascending, as they stand now.

        Raises `UnreadableRecord` on reaching a bad one.
        """
        if not self._log._expected:
            return self._committed(table, first, last)
        overlay: dict[bytes, Record] = {}
        hidden: list[tuple[bytes, bytes]] = []
        for _, writes in self._log._expected:
            for write in writes:
                if write.table != table:
                    continue
                if isinstance(write, Put):
                    if first <= write.key < last:
                        overlay[write.key] = write.record
                else:
                    hidden.append((write.first, write.last))
                    for key in [key for key in overlay if write.first <= key < write.last]:
                        del overlay[key]
        return self._merged(self._committed(table, first, last), overlay, hidden)

    def _merged(
        self,
        committed: Iterator[tuple[bytes, Record]],
        overlay: dict[bytes, Record],
        hidden: list[tuple[bytes, bytes]],
    ) -> Iterator[tuple[bytes, Record]]:
        below = (
            item
            for item in committed
            if item[0] not in overlay and not any(first <= item[0] < last for first, last in hidden)
        )
        return merge(below, sorted(overlay.items(), key=_key), key=_key)

    def _committed(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        handle = self._log._tables.get(table)
        if handle is None or first >= last:
            return
        key = first
        try:
            with self._log._environment.begin() as transaction, transaction.cursor(handle) as cursor:
                if not (cursor.set_range(first) if first else cursor.first()):
                    return
                for key, stored in cursor.iternext(True, True):
                    if key >= last:
                        return
                    yield key, self._read(table, key, stored)
        except lmdb.Error as error:
            raise UnreadableRecord(self._log.path, table, key, str(error)) from error

    def _read(self, table: str, key: bytes, stored: bytes) -> Record:
        log = self._log
        envelope = log._envelopes.get(table) or log._envelopes.setdefault(table, Envelope(table))
        try:
            epoch, body = envelope.open(key, stored)
            if self._check_epoch and epoch != log.epoch:
                raise RecordFault(f"it is of epoch {epoch}, the replica stands in epoch {log.epoch}")
            return self._decode(table, body)
        except (RecordFault, MalformedValue) as error:
            raise UnreadableRecord(log.path, table, key, str(error)) from None


def _key(item: tuple[bytes, Record]) -> bytes:
    return item[0]


def _refuse_lost_writes(path: Path) -> None:
    """A log that was written without syncs and not closed before the machine stopped may lack votes, or be torn."""
    marker = path / "UNSYNCED"
    try:
        written_on = marker.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return
    if not written_on or written_on != boot_id():
        raise CorruptStorage(
            f"{path}: was written with durability none and the machine stopped before it was closed, so votes may be "
            "lost; replace the replica with a new member on an empty folder"
        )


__all__ = ["Durability", "LOG_MAP_BYTES", "LogEnvironment", "LogReader"]
