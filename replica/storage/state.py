"""The state environment: what the decided commands made of the data, on LMDB without syncs.

It isn't synced, because it can be rebuilt from a snapshot and the log. So it survives a crash of the process (the
operating system holds what was written) and a clean shutdown (it is synced then), but **after a crash of the machine it
is not trusted at all**: LMDB without syncs can come back torn. ``state/STATE`` says under which boot it was last used
and whether it was closed, and names the *generation*, the directory that holds the present environment:

    state/STATE               JSON: generation, boot, clean, and a pending generation while a snapshot is installed
    state/<generation>/       an LMDB environment, one named database per table

A snapshot that replaces the state is filled into a new generation beside the old one, so that the replica goes on
meanwhile. It is announced in ``STATE`` as pending before the anchor that names the snapshot is committed to the log;
whichever of the two a crash leaves, `present_generation` finds the state that belongs to the anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from .boot import boot_id
from .environment import explain, measure, open_environment, open_tables
from .files import make_directory, remove_tree, write_file
from .space import Usage

STATE_MAP_BYTES: Final = 64 << 30
"""Address space reserved for the state. The file is sparse and grows with its use."""


class LmdbStore:
    """Ordered tables on LMDB (`replica.kv.store.Store`). Used by one thread, except for what says otherwise.

    The write transaction is opened by the first access after a commit and kept open: reads go through it and see
    everything. Nothing else may open one.
    """

    def __init__(self, path: Path, *, map_bytes: int = STATE_MAP_BYTES) -> None:
        """Open the environment in the directory ``path``. Raises `StorageError`."""
        self.path = path
        self._environment = open_environment(path, map_bytes=map_bytes, sync=False)
        try:
            self._tables: dict[str, Any] = open_tables(self._environment)
        except lmdb.Error as error:
            self._environment.close()
            raise explain(path, error, "read the state") from error
        self._transaction: Any = None
        self._cursors: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------------ transactions

    def _begin(self) -> Any:
        try:
            self._transaction = self._environment.begin(write=True)
        except lmdb.Error as error:
            raise explain(self.path, error, "begin to write the state") from error
        return self._transaction

    def commit(self) -> None:
        """End the open transaction: it survives the process now. Raises `StorageFull`, `SyncFailed`; fatal."""
        transaction = self._transaction
        if transaction is None:
            return
        self._transaction = None
        self._cursors = {}
        try:
            transaction.commit()
        except (lmdb.Error, OSError) as error:
            raise explain(self.path, error, "commit the state") from error

    def abort(self) -> None:
        """Forget everything since the last commit; the store must be closed next, since handles may be gone with it."""
        transaction, self._transaction, self._cursors = self._transaction, None, {}
        if transaction is not None:
            transaction.abort()

    def sync(self) -> None:
        """Put on disk what has been committed. Raises `SyncFailed`."""
        try:
            self._environment.sync(True)
        except (lmdb.Error, OSError) as error:
            raise explain(self.path, error, "sync the state") from error

    def close(self) -> None:
        """Close without committing what is open."""
        self.abort()
        self._environment.close()

    def _table(self, name: str) -> Any:
        transaction = self._transaction or self._begin()
        table = self._tables.get(name)
        if table is None:
            try:
                table = self._environment.open_db(name.encode(), transaction)
            except lmdb.Error as error:
                raise explain(self.path, error, f"create table {name!r} of the state") from error
            self._tables[name] = table
        return table

    def _cursor(self, name: str) -> Any:
        # One cursor a table and transaction, for positioned reads: making one costs as much as the read.
        cursor = self._cursors.get(name)
        if cursor is None:
            table = self._table(name)
            cursor = self._cursors[name] = self._transaction.cursor(table)
        return cursor

    # ------------------------------------------------------------------------------------------------------ reading

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        handle = self._tables.get(table) or self._table(table)
        value: bytes | None = (self._transaction or self._begin()).get(key, None, handle)
        return value

    def seek(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The first item at or behind ``key``."""
        return _seek(self._cursors.get(table) or self._cursor(table), key)

    def seek_before(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The last item before ``key``; an empty key means the last of the table."""
        return _seek_before(self._cursors.get(table) or self._cursor(table), key)

    def scan(self, table: str, first: bytes, last: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Items in ``[first, last)`` (empty ``last``: to the end). The table must not be written while it runs."""
        handle = self._table(table)
        return _scan(self._transaction, handle, first, last, reverse)

    def count(self, table: str) -> int:
        """How many items the table holds."""
        handle = self._table(table)
        entries: int = self._transaction.stat(handle)["entries"]
        return entries

    def tables(self) -> list[str]:
        """The names of the tables."""
        return sorted(self._tables)

    # ------------------------------------------------------------------------------------------------------ writing

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Insert or replace. Raises `StorageFull`; fatal."""
        handle = self._tables.get(table) or self._table(table)
        try:
            (self._transaction or self._begin()).put(key, value, db=handle)
        except lmdb.Error as error:
            raise explain(self.path, error, "write to the state") from error

    def put_many(self, table: str, items: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Insert or replace several; ``append`` promises ascending keys behind the last one of the table.

        Raises `StorageFull`; fatal. Raises `ValueError` when the promise is broken.
        """
        cursor = self._cursors.get(table) or self._cursor(table)
        try:
            _, added = cursor.putmulti(items, append=append)
        except lmdb.Error as error:
            raise explain(self.path, error, "write to the state") from error
        if added != len(items):
            # The binding passes over, silently, what LMDB refuses to append.
            raise ValueError(f"table {table!r}: {len(items) - added} of {len(items)} appended keys did not ascend")

    def delete(self, table: str, key: bytes) -> bool:
        """Remove; True when it was there."""
        handle = self._tables.get(table) or self._table(table)
        try:
            removed: bool = (self._transaction or self._begin()).delete(key, b"", handle)
        except lmdb.Error as error:
            raise explain(self.path, error, "write to the state") from error
        return removed

    def delete_many(self, table: str, keys: Iterable[bytes]) -> None:
        """Remove several; absent ones are passed over."""
        handle = self._table(table)
        delete = self._transaction.delete
        try:
            for key in keys:
                delete(key, b"", handle)
        except lmdb.Error as error:
            raise explain(self.path, error, "write to the state") from error

    def clear(self) -> None:
        """Remove everything, as part of the open transaction."""
        transaction = self._transaction or self._begin()
        try:
            for handle in self._tables.values():
                transaction.drop(handle, delete=False)
        except lmdb.Error as error:
            raise explain(self.path, error, "clear the state") from error

    # ----------------------------------------------------------------------------------------------------- snapshots

    def view(self) -> StoreView:
        """What has been committed, as it stands now, to be read on another thread while this one goes on."""
        return StoreView(self._environment, dict(self._tables))

    def usage(self) -> Usage:
        """How full the environment is, seen from its last commit."""
        return measure("the state", self._environment, self._tables)


def _scan(transaction: Any, handle: Any, first: bytes, last: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
    with transaction.cursor(handle) as cursor:
        if reverse:
            if not (cursor.prev() if last and cursor.set_range(last) else cursor.last()):
                return
            for item in cursor.iterprev(True, True):
                if item[0] < first:
                    return
                yield item
        else:
            if not (cursor.set_range(first) if first else cursor.first()):
                return
            if not last:
                yield from cursor.iternext(True, True)
                return
            for item in cursor.iternext(True, True):
                if item[0] >= last:
                    return
                yield item


def _seek(cursor: Any, key: bytes) -> tuple[bytes, bytes] | None:
    if not (cursor.set_range(key) if key else cursor.first()):
        return None
    item: tuple[bytes, bytes] = cursor.item()
    return item


def _seek_before(cursor: Any, key: bytes) -> tuple[bytes, bytes] | None:
    found = cursor.prev() if key and cursor.set_range(key) else cursor.last()
    if not found:
        return None
    item: tuple[bytes, bytes] = cursor.item()
    return item


class StoreView:
    """A read transaction over the committed state (`replica.kv.store.Reader`).

    Any one thread may use it, and must close it, before the store is: the pages that it sees are not used again before
    that.
    """

    def __init__(self, environment: Any, tables: dict[str, Any]) -> None:
        self._transaction = environment.begin()
        with self._transaction.cursor() as cursor:
            names = {key.decode() for key in cursor.iternext(True, False)}
        # A table of the open write transaction isn't there yet for this view.
        self._tables = {name: handle for name, handle in tables.items() if name in names}
        self._cursors: dict[str, Any] = {}

    def _cursor(self, table: str) -> Any:
        cursor = self._cursors.get(table)
        if cursor is None:
            cursor = self._cursors[table] = self._transaction.cursor(self._tables[table])
        return cursor

    def tables(self) -> list[str]:
        """The names of the tables."""
        return sorted(self._tables)

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All items of a table, ascending."""
        with self._transaction.cursor(self._tables[table]) as cursor:
            yield from cursor.iternext(True, True)

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        if table not in self._tables:
            return None
        value: bytes | None = self._transaction.get(key, None, self._tables[table])
        return value

    def seek(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The first item at or behind ``key``."""
        return _seek(self._cursor(table), key) if table in self._tables else None

    def seek_before(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The last item before ``key``; an empty key means the last of the table."""
        return _seek_before(self._cursor(table), key) if table in self._tables else None

    def scan(self, table: str, first: bytes, last: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Items in ``[first, last)`` (empty ``last``: to the end)."""
        if table not in self._tables:
            return iter(())
        return _scan(self._transaction, self._tables[table], first, last, reverse)

    def count(self, table: str) -> int:
        """How many items the table holds."""
        if table not in self._tables:
            return 0
        entries: int = self._transaction.stat(self._tables[table])["entries"]
        return entries

    def close(self) -> None:
        """Let go of the pages."""
        self._transaction.abort()


# ------------------------------------------------------------------------------------------------------- generations


class Pending(msgspec.Struct, frozen=True):
    """A generation that becomes the present one when the anchor names ``snapshot``."""

    generation: int
    snapshot: str


class StateMarker(msgspec.Struct, frozen=True, kw_only=True):
    """What ``state/STATE`` says."""

    generation: int = 0
    """The present generation; 0: there is none, build one."""
    boot: str = ""
    """The run of the kernel in which it was last used."""
    clean: bool = False
    """It was synced and closed, and has not been used since."""
    pending: Pending | None = None


class StateFolder:
    """The generations of the state in one directory, and which of them counts."""

    def __init__(self, path: Path, *, boot: str | None = None) -> None:
        """``boot`` stands in for the boot id, for tests."""
        self.path = path
        self._boot = boot_id() if boot is None else boot
        self.marker = self._read()

    def _read(self) -> StateMarker:
        try:
            return msgspec.json.decode((self.path / "STATE").read_bytes(), type=StateMarker)
        except (FileNotFoundError, msgspec.DecodeError):
            # Without a marker nothing is trusted, which is always safe: the state can be rebuilt.
            return StateMarker()

    def _write(self, marker: StateMarker) -> None:
        write_file(self.path / "STATE", msgspec.json.encode(marker))
        self.marker = marker

    def directory(self, generation: int) -> Path:
        """Where a generation lies."""
        return self.path / f"{generation:08d}"

    def present_generation(self, snapshot: str) -> int | None:
        """The generation to use for an anchor that names ``snapshot``; None when it must be rebuilt from that."""
        marker = self.marker
        trusted = marker.clean or (marker.boot != "" and marker.boot == self._boot)
        generation = marker.generation
        if marker.pending is not None and marker.pending.snapshot == snapshot:
            generation = marker.pending.generation
        if not trusted or generation == 0 or not (self.directory(generation) / "data.mdb").is_file():
            return None
        return generation

    def reserve(self) -> int:
        """Make room for a new generation and return its number. Any thread may call it."""
        taken = {int(entry.name) for entry in self.path.iterdir() if entry.name.isdecimal()}
        generation = max(taken | {self.marker.generation}) + 1
        make_directory(self.directory(generation))
        return generation

    def announce(self, generation: int, snapshot: str) -> None:
        """``generation`` holds what ``snapshot`` says; it counts as soon as the anchor names that snapshot."""
        self._write(
            StateMarker(
                generation=self.marker.generation,
                boot=self._boot,
                clean=False,
                pending=Pending(generation, snapshot),
            )
        )

    def use(self, generation: int) -> None:
        """``generation`` is the present one and is about to be written. The others are removed."""
        self._write(StateMarker(generation=generation, boot=self._boot, clean=False))
        self.sweep()

    def sweep(self) -> None:
        """Remove generations that do not count."""
        keep = {self.marker.generation}
        if self.marker.pending is not None:
            keep.add(self.marker.pending.generation)
        for entry in self.path.iterdir():
            if entry.name.isdecimal() and int(entry.name) not in keep:
                remove_tree(entry)

    def retract(self) -> None:
        """What was announced is not going to be installed."""
        self._write(StateMarker(generation=self.marker.generation, boot=self._boot, clean=False))
        self.sweep()

    def finish(self, store: LmdbStore) -> None:
        """Commit, sync and close the present state, so that it is trusted across boots."""
        store.commit()
        store.sync()
        store.close()
        # What was announced stays so: the anchor may have been committed, and not been adopted any more.
        self._write(msgspec.structs.replace(self.marker, boot=self._boot, clean=True))

    def distrust(self) -> None:
        """Forget the present state: the next start rebuilds it."""
        self._write(StateMarker(generation=0, boot=self._boot))


__all__ = ["STATE_MAP_BYTES", "LmdbStore", "StateFolder", "StateMarker", "StoreView"]
