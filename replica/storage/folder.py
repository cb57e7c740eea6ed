"""The data folder: its layout, its identity, and who holds it.

    FORMAT        the identity, as JSON: cluster, replica, disk, format version, when it was formatted
    LOCK          held (flock) by the process that has the folder open
    log/          the log environment: what was promised and accepted, and the anchor
    state/        the state environment: what the decided commands made of it; can be rebuilt
    snapshots/    immutable snapshots; staging/ in it holds those being written or received

A folder is formatted once and then belongs to one replica of one cluster for good. The ``disk`` is minted then: a
folder that was wiped and formatted again is another disk, and its replica a new member. ``FORMAT`` is written last, so
that a format that was interrupted is recognised (``FORMAT.new`` stands alone) and can be done over.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from .errors import (
    AlreadyFormatted,
    CorruptStorage,
    FolderInUse,
    NewerFormat,
    NotFormatted,
    StorageError,
    WrongCluster,
    WrongReplica,
)
from .files import FILE_MODE, make_directory, remove_tree, sync_directory, write_file

FORMAT_VERSION: Final = 1
"""Version of the layout and of every file format in it. A folder of a later one is refused."""

_HARMLESS: Final = frozenset({"lost+found"})
"""What a fresh file system may hold when it is mounted as the data folder."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Whose folder this is; written once."""

    cluster: str
    replica: int
    disk: str
    """A UUID minted when the folder was formatted: the same replica on another disk is another voter."""
    format: int = FORMAT_VERSION
    created: str = ""
    """When it was formatted, in ISO 8601, UTC; for people."""


def mint_identity(cluster: str, replica: int) -> Identity:
    """An identity for a folder that is about to be formatted, with a disk that never existed before."""
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Identity(cluster=cluster, replica=replica, disk=str(uuid.uuid4()), created=created)


class DataFolder:
    """An open data folder: its identity, the paths in it, and the lock that this process holds until `close`."""

    def __init__(self, path: Path, identity: Identity, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @property
    def log(self) -> Path:
        """The log environment's directory."""
        return self.path / "log"

    @property
    def state(self) -> Path:
        """Where the state environments lie."""
        return self.path / "state"

    @property
    def snapshots(self) -> Path:
        """Where the snapshots lie."""
        return self.path / "snapshots"

    def close(self) -> None:
        """Let another process open the folder. Calling it again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_formatted(path: Path) -> bool:
    """Does the folder carry an identity?"""
    return (path / "FORMAT").is_file()


def format_folder(path: Path, identity: Identity, prepare: Callable[[DataFolder], None]) -> None:
    """Make ``path`` the data folder of ``identity``, durably. ``prepare`` fills it before it becomes valid.

    Raises `AlreadyFormatted` when anything is there already, `FolderInUse`, `OSError`.
    """
    path = path.absolute()
    if is_formatted(path):
        raise AlreadyFormatted(
            f"{path}: is already formatted; start the replica on it as it is, or choose an empty folder"
        )
    interrupted = (path / "FORMAT.new").is_file()
    if path.is_dir() and not interrupted:
        found = sorted(entry.name for entry in path.iterdir() if entry.name not in _HARMLESS)
        if found and found != ["LOCK"]:
            raise AlreadyFormatted(
                f"{path}: is not empty (it holds {found[0]!r}) and is not a data folder; choose an empty folder"
            )
    make_directory(path)
    with DataFolder(path, identity, _lock(path)) as folder:
        if is_formatted(path):  # by another process, since we looked
            raise AlreadyFormatted(f"{path}: was formatted meanwhile; start the replica on it as it is")
        # From here on a crash leaves FORMAT.new without FORMAT, by which the next attempt knows that it may start over:
        # nobody can have started a replica on the folder yet.
        draft = path / "FORMAT.new"
        draft.write_bytes(msgspec.json.encode(identity))
        sync_directory(path)
        for part in (folder.log, folder.state, folder.snapshots):
            remove_tree(part)
            make_directory(part)
        make_directory(folder.snapshots / "staging")
        prepare(folder)
        write_file(path / "FORMAT", msgspec.json.encode(identity))


def read_identity(path: Path) -> Identity:
    """The identity of a data folder, without opening it. Raises `NotFormatted`, `NewerFormat`, `CorruptStorage`."""
    try:
        content = (path / "FORMAT").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        state = "does not exist" if not path.exists() else "is not a data folder (it has no file FORMAT)"
        raise NotFormatted(f"{path}: {state}; format it first, once, for this replica") from None
    try:
        # The version is looked at first: a later format may have changed everything else.
        version = msgspec.json.decode(content, type=dict[str, object]).get("format")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NewerFormat(
                f"{path}: has format {version}, this release reads up to {FORMAT_VERSION}; start a later release"
            )
        return msgspec.json.decode(content, type=Identity)
    except msgspec.DecodeError as error:
        raise CorruptStorage(
            f"{path / 'FORMAT'}: can't be read ({error}); restore that file, or replace the replica"
        ) from None


def open_folder(path: Path, *, cluster: str | None = None, replica: int | None = None) -> DataFolder:
    """Open a data folder and hold it. ``cluster`` and ``replica``, where given, must be those it was formatted for.

    Raises `NotFormatted`, `NewerFormat`, `CorruptStorage`, `WrongCluster`, `WrongReplica`, `FolderInUse`.
    """
    path = path.absolute()
    identity = read_identity(path)
    if cluster is not None and cluster != identity.cluster:
        raise WrongCluster(
            f"{path}: belongs to cluster {identity.cluster!r}, not {cluster!r}; start the replica on its own folder"
        )
    if replica is not None and replica != identity.replica:
        raise WrongReplica(
            f"{path}: belongs to replica {identity.replica}, not {replica}; start the replica on its own folder"
        )
    folder = DataFolder(path, identity, _lock(path))
    for part in (folder.log, folder.state, folder.snapshots):
        if not part.is_dir():
            folder.close()
            raise CorruptStorage(f"{part}: is missing; restore it, or replace the replica")
    return folder


def _lock(path: Path) -> int:
    """Hold ``LOCK`` until the descriptor is closed or the process ends, however it ends."""
    descriptor = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        who = f"process {holder}" if holder else "another process"
        raise FolderInUse(f"{path}: is in use by {who}; stop it first, or use another folder") from None
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"{path}: can't be locked ({error}); use a local file system") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor
