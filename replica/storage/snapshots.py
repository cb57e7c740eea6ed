"""Snapshots: immutable files that carry the whole state at one frontier, with the anchor that goes with it.

A snapshot is written to ``staging/``, synced, and renamed into its place; only the anchor's commit in the log makes it
the one that counts. Its format depends on neither protocol nor LMDB: it carries the tables of the state machine, item
by item, in key order. It is a file of frames (`replica.storage.frames`) with the magic ``SYNODSNP``:

    kind 1    the header, once and first: `SnapshotHeader` as MessagePack
    kind 2    items: MessagePack array of the table's index in the header and an array of [key, value]
    kind 3    the footer, once and last: `SnapshotFooter`, whose checksum covers the checksums of all frames before it

A file without a footer was cut short. A reader checks every frame, and the counts and the footer's checksum at the end.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO, Final, Protocol
from zlib import crc32

import lmdb
import msgspec

from replica.kv.store import Store

from .coordinator import Anchor
from .environment import explain
from .errors import CorruptSnapshot, StorageError, WrongCluster
from .files import DIRECTORY_MODE, sync_directory
from .frames import FrameReader, frame, private

SNAPSHOT_VERSION: Final = 1

CHUNK_BYTES: Final = 64 << 10
"""Keys and values in one frame, more or less."""

PAUSE_S: Final = 0.0001
"""After each frame the writer sleeps, however briefly: a thread that merely lets go of the interpreter has it back
before the loop's wakes up, and the loop then waits for the interpreter's switch interval (5 ms) again and again."""

INSTALL_COMMIT_BYTES: Final = 64 << 20
"""Keys and values in one transaction while a state is filled that nobody uses yet."""

MAGIC: Final = b"SYNODSNP"
_CHECKSUM: Final = Struct(">I")
_HEADER_KIND: Final = 1
_ITEMS_KIND: Final = 2
_FOOTER_KIND: Final = 3

_STAGING: Final = "staging"


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is of. Fields are only ever appended."""

    version: int
    cluster: str
    anchor: Anchor
    """Where a replica stands that installs it; the name of the snapshot is the holder's affair, and empty here."""
    tables: tuple[str, ...]


class SnapshotFooter(msgspec.Struct, frozen=True, array_like=True):
    """What must have come before."""

    frames: int
    """Of items."""
    items: int
    checksum: int


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(SnapshotHeader).decode
_decode_items = msgspec.msgpack.Decoder(tuple[int, list[tuple[bytes, bytes]]]).decode
_decode_footer = msgspec.msgpack.Decoder(SnapshotFooter).decode


class View(Protocol):
    """A state that stands still while it is written: `replica.storage.state.StoreView`, or one in memory."""

    def tables(self) -> list[str]:
        """The names of the tables."""

    def items(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All items of a table, ascending."""

    def close(self) -> None:
        """No more is read."""


# ---------------------------------------------------------------------------------------------------------- writing


class SnapshotCancelled(Exception):
    """The snapshot was given up before it was complete; nothing is left of it."""


class SnapshotWritten(msgspec.Struct, frozen=True):
    """A snapshot that is complete, durable and in its place."""

    path: Path
    bytes: int
    items: int


class SnapshotTask:
    """A snapshot about to be written. `write` takes long and may run on any thread, while the replica goes on."""

    def __init__(self, snapshots: Snapshots, view: View, anchor: Anchor) -> None:
        self._snapshots = snapshots
        self._view = view
        self._cancelled = False
        self.anchor = anchor
        """The anchor to commit once the snapshot has been written: it names the snapshot."""

    def cancel(self) -> None:
        """Have `write` give up soon. From any thread."""
        self._cancelled = True

    def _between_frames(self) -> None:
        if self._cancelled:
            raise SnapshotCancelled
        time.sleep(PAUSE_S)

    def write(self) -> SnapshotWritten:
        """Write the snapshot, durably, and put it in its place; to be called once.

        Raises `SnapshotCancelled`, `StorageFull`, `StorageError`; then nothing is left of it, and the replica goes on
        with the snapshot that it has.
        """
        staged = self._snapshots.staging / self.anchor.snapshot
        try:
            try:
                with open(staged, "xb", buffering=0, opener=private) as file:
                    items = write_snapshot(
                        file,
                        self._view,
                        cluster=self._snapshots.cluster,
                        anchor=self.anchor,
                        between=self._between_frames,
                    )
                    os.fsync(file.fileno())
                    size = file.tell()
            finally:
                self._view.close()
            path = self._snapshots.publish(staged, self.anchor.snapshot)
        except (OSError, lmdb.Error) as error:
            staged.unlink(missing_ok=True)
            raise explain(staged, error, "write the snapshot") from error
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return SnapshotWritten(path, size, items)


def write_snapshot(
    file: BinaryIO | Any,
    view: View,
    *,
    cluster: str,
    anchor: Anchor,
    between: Callable[[], object] = lambda: None,
) -> int:
    """Write all of ``view`` as a snapshot to ``file`` and return the number of items.

    ``between`` is called before each frame of items; what it raises ends the writing.
    """
    tables = tuple(view.tables())
    chain = 0
    frames = 0
    total = 0

    def put(kind: int, payload: bytes) -> None:
        nonlocal chain
        framed, checksum = frame(kind, payload)
        chain = crc32(_CHECKSUM.pack(checksum), chain)
        _write_all(file, framed)

    _write_all(file, MAGIC)
    header = SnapshotHeader(SNAPSHOT_VERSION, cluster, msgspec.structs.replace(anchor, snapshot=""), tables)
    put(_HEADER_KIND, _encode(header))
    for index, table in enumerate(tables):
        for items in _chunks(view.items(table)):
            between()
            put(_ITEMS_KIND, _encode((index, items)))
            frames += 1
            total += len(items)
    put(_FOOTER_KIND, _encode(SnapshotFooter(frames, total, chain)))
    return total


def _chunks(items: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    chunk: list[tuple[bytes, bytes]] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(item[0]) + len(item[1])
        if size >= CHUNK_BYTES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def _write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


# ---------------------------------------------------------------------------------------------------------- reading


class SnapshotReader(FrameReader):
    """Reads a snapshot file."""

    error = CorruptSnapshot
    remedy = "take or fetch another snapshot"

    def __init__(self, path: Path) -> None:
        """Open the file and read its header. Raises `CorruptSnapshot`, `StorageError`."""
        super().__init__(path, MAGIC, "snapshot")
        self._chain = 0
        try:
            kind, payload = self._next()
            if kind != _HEADER_KIND:
                raise self.damage("its header is missing")
            self.header = self.decode(_decode_header, payload)
            if self.header.version > SNAPSHOT_VERSION:
                raise StorageError(
                    f"{path}: has format {self.header.version}, this release reads up to {SNAPSHOT_VERSION}; "
                    "use a later release"
                )
        except BaseException:
            self.close()
            raise

    def frames(self) -> Iterator[bytes]:
        """The payloads of the frames of items, checked; complete when it ends without `CorruptSnapshot`."""
        frames = 0
        while True:
            before = self._chain
            kind, payload = self._next()
            if kind == _ITEMS_KIND:
                frames += 1
                yield payload
                continue
            if kind != _FOOTER_KIND:
                raise self.damage(f"a frame of unknown kind {kind}")
            self.footer = self.decode(_decode_footer, payload)
            if (self.footer.frames, self.footer.checksum) != (frames, before):
                raise self.damage("its frames are not those that were written")
            self.end()
            return

    def items(self) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
        """Tables with items in key order, chunk by chunk; complete when it ends without `CorruptSnapshot`."""
        total = 0
        for payload in self.frames():
            index, items = self.decode(_decode_items, payload)
            if index >= len(self.header.tables):
                raise self.damage(f"items of table {index}, of which the header doesn't know")
            total += len(items)
            yield self.header.tables[index], items
        if total != self.footer.items:
            raise self.damage(f"{total} items where {self.footer.items} were written")

    def verify(self) -> None:
        """Read it to the end. Raises `CorruptSnapshot`."""
        for _ in self.frames():
            pass

    def _next(self) -> tuple[int, bytes]:
        kind, payload, checksum = self.frame()
        self._chain = crc32(_CHECKSUM.pack(checksum), self._chain)
        return kind, payload


def install(path: Path, store: Store, *, commit_bytes: int | None = None) -> SnapshotHeader:
    """Replace everything in ``store`` by what the snapshot holds, and commit.

    It is one transaction, unless ``commit_bytes`` allows a store that nobody uses yet to be filled in several. Raises
    `CorruptSnapshot`, `StorageFull`; then the store must not be used.
    """
    with SnapshotReader(path) as reader:
        store.clear()
        size = 0
        for table, items in reader.items():
            store.put_many(table, items, append=True)
            size += sum(len(key) + len(value) for key, value in items)
            if commit_bytes is not None and size >= commit_bytes:
                store.commit()
                size = 0
        store.commit()
        return reader.header


# ---------------------------------------------------------------------------------------------------- the directory


class Snapshots:
    """The snapshots of one data folder."""

    def __init__(self, path: Path, cluster: str) -> None:
        self.path = path
        self.cluster = cluster
        self.staging = path / _STAGING
        # Complete, and to be named by an anchor yet: one that was fetched may wait while another is taken.
        self._waiting: set[str] = set()

    def mint_name(self, anchor: Anchor) -> str:
        """A name that no snapshot has had. It tells people where the snapshot stands; programs ask the header."""
        where = f"{anchor.frontier:012d}" if isinstance(anchor.frontier, int) else "objects"
        return f"{anchor.configuration.epoch:06d}-{where}-{uuid.uuid4().hex[:12]}.snapshot"

    def path_of(self, name: str) -> Path:
        """Where the snapshot of that name lies. Raises `ValueError` for what can't be a name."""
        if not name or "/" in name or name.startswith(".") or name == _STAGING:
            raise ValueError(f"{name!r} is not the name of a snapshot")
        return self.path / name

    def names(self) -> list[str]:
        """The snapshots that are complete, whichever counts."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_file())

    def begin(self, view: View, anchor: Anchor) -> SnapshotTask:
        """A snapshot of ``view``, which stands at the anchor's frontier; the task's anchor names it."""
        return SnapshotTask(self, view, msgspec.structs.replace(anchor, snapshot=self.mint_name(anchor)))

    def publish(self, staged: Path, name: str) -> Path:
        """Put a staged file that has been synced in its place, durably."""
        path = self.path_of(name)
        self._waiting.add(name)
        staged.rename(path)
        sync_directory(self.path)
        return path

    def send(self, name: str) -> SnapshotSource:
        """The bytes of a snapshot, to be sent. They stay readable even if the snapshot is superseded meanwhile."""
        return SnapshotSource(self.path_of(name))

    def receive(self) -> SnapshotReceiver:
        """A place for the bytes of a snapshot that a peer sends."""
        return SnapshotReceiver(self)

    def keep_only(self, name: str) -> None:
        """Remove what that one supersedes, once the anchor that names it is durable.

        Snapshots that were completed in this run and wait for their anchor stay. An empty name stands for no snapshot.
        """
        self._waiting.discard(name)
        for other in self.names():
            if other != name and other not in self._waiting:
                self.path_of(other).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a snapshot that no anchor is going to name."""
        self._waiting.discard(name)
        self.path_of(name).unlink(missing_ok=True)

    def clean_staging(self) -> None:
        """Remove what an earlier run began and didn't finish."""
        self.staging.mkdir(DIRECTORY_MODE, exist_ok=True)
        for entry in self.staging.iterdir():
            entry.unlink()


class SnapshotSource:
    """A snapshot's bytes, front to back."""

    def __init__(self, path: Path) -> None:
        """Raises `CorruptSnapshot` when it isn't there."""
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise CorruptSnapshot(f"{path}: can't be opened ({error.strerror})") from error
        self._total_bytes = os.fstat(self._file.fileno()).st_size

    @property
    def total_bytes(self) -> int:
        """The size of the file."""
        return self._total_bytes

    def read(self, size: int, /) -> bytes:
        """The next at most ``size`` bytes; empty at the end. Raises `OSError`."""
        return self._file.read(size) or b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SnapshotReceiver:
    """Takes the bytes of a snapshot into staging. Any one thread at a time may call it."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._path = snapshots.staging / f"{uuid.uuid4().hex}.receiving"
        self._file = open(self._path, "xb", buffering=0, opener=private)  # noqa: SIM115 - closed by `finish`, `abandon`
        self.received_bytes = 0

    def write(self, data: bytes, /, *, offset: int | None = None) -> None:
        """Take the next bytes. Raises `ValueError` when ``offset`` isn't where they belong, `OSError`."""
        if offset is not None and offset != self.received_bytes:
            raise ValueError(f"{len(data)} bytes for offset {offset}, where {self.received_bytes} is due")
        _write_all(self._file, data)
        self.received_bytes += len(data)

    def finish(self, *, total_bytes: int | None = None) -> Anchor:
        """Check what has come, make it durable and put it in its place. Takes long; for a worker thread.

        Returns the anchor to be installed, which names the snapshot. Raises `CorruptSnapshot`, `WrongCluster`,
        `StorageError`, `OSError`; then nothing is left of it.
        """
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            if total_bytes is not None and total_bytes != self.received_bytes:
                raise CorruptSnapshot(
                    f"{self._path}: {self.received_bytes} bytes came of {total_bytes}; fetch the snapshot again"
                )
            with SnapshotReader(self._path) as reader:
                if reader.header.cluster != self._snapshots.cluster:
                    raise WrongCluster(
                        f"{self._path}: is a snapshot of cluster {reader.header.cluster!r}, not "
                        f"{self._snapshots.cluster!r}; check the addresses of the members"
                    )
                reader.verify()
                anchor = reader.header.anchor
            name = self._snapshots.mint_name(anchor)
            self._snapshots.publish(self._path, name)
        except BaseException:
            self.abandon()
            raise
        return msgspec.structs.replace(anchor, snapshot=name)

    def abandon(self) -> None:
        """Give up; nothing is left. After `finish` it does nothing."""
        self._file.close()
        self._path.unlink(missing_ok=True)
