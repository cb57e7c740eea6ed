"""What a data folder holds, found out without changing a byte of it, while no replica runs on it.

Every part is looked at by itself, so that damage to one does not hide the others: the log by the walk that each start
makes, with every record's checksum, the state by the same without, each snapshot to its footer. LMDB is opened
read-only and without its locks; the folder's own lock is shared for as long as it takes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lmdb
import msgspec

from replica.consensus.interface import Frontier
from replica.kv.layout import CHANGES, CorruptState
from replica.kv.machine import StateMachine
from replica.kv.store import Store

from .coordinator import META_TABLE, Anchor
from .envelope import Envelope, RecordFault
from .environment import TABLES_MAX, open_tables
from .errors import FolderInUse, StorageError
from .folder import Identity, read_identity
from .records import PEER_PREFIX, Admission, Incarnation, PeerDisk, StoredIdentity
from .snapshots import SnapshotReader
from .state import StateMarker, StoreView
from .verification import verify_in_child

_decode_meta = msgspec.msgpack.Decoder(Anchor | StoredIdentity | Incarnation | Admission | PeerDisk).decode


class LogFindings(msgspec.Struct, kw_only=True):
    """What the log says. ``problem`` is empty when all of it can be read."""

    problem: str = ""
    tables: dict[str, int] = {}
    """Records by table."""
    bytes: int = 0
    epoch: int = 0
    protocol: str = ""
    options: dict[str, Any] = {}
    members: tuple[int, ...] = ()
    retired: tuple[int, ...] = ()
    frontier: Frontier = 0
    """What the snapshot covers."""
    base: Frontier = 0
    """Where the epoch began."""
    snapshot: str = ""
    incarnation: int = 0
    """How often the replica was started."""
    admitted: bool = False
    """Its peers have taken its disk on record: it votes."""
    peer_disks: dict[int, str] = {}


class StateFindings(msgspec.Struct, kw_only=True):
    """What the present state says; it can be built anew from snapshot and log."""

    problem: str = ""
    generation: int = 0
    clean: bool = False
    """It was closed cleanly."""
    tables: dict[str, int] = {}
    bytes: int = 0
    applied: int = 0
    revision: int = 0
    compacted: int = 0
    sessions: int = 0
    leases: int = 0


class SnapshotFindings(msgspec.Struct, kw_only=True):
    """One snapshot."""

    name: str
    problem: str = ""
    bytes: int = 0
    epoch: int = 0
    frontier: Frontier = 0
    items: int = 0
    anchored: bool = False
    """It is the one that counts."""


class Findings(msgspec.Struct, kw_only=True):
    """What a data folder holds."""

    identity: Identity
    log: LogFindings
    state: StateFindings
    snapshots: list[SnapshotFindings]

    @property
    def problems(self) -> list[str]:
        """What cannot be read, a line each."""
        parts = [self.log.problem, self.state.problem, *(each.problem for each in self.snapshots)]
        return [problem for problem in parts if problem]


def inspect_folder(path: Path) -> Findings:
    """Look at the data folder ``path``. Raises `StorageError` for what is none, or is in use."""
    identity = read_identity(path)
    with _held(path):
        log = _inspect_log(path / "log")
        return Findings(
            identity=identity,
            log=log,
            state=_inspect_state(path / "state"),
            snapshots=_inspect_snapshots(path / "snapshots", log.snapshot),
        )


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path / "LOCK", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{path / 'LOCK'}: cannot be read: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise FolderInUse(
                f"{path}: is in use by process {holder or 'unknown'}: stop the replica first, or ask it for its status"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    environment = lmdb.open(str(path), readonly=True, lock=False, max_dbs=TABLES_MAX, create=False)
    try:
        yield environment
    finally:
        environment.close()


def _inspect_log(path: Path) -> LogFindings:
    found = LogFindings()
    try:
        verified = verify_in_child(path, checksums=True)
        found.tables, found.bytes = verified.tables, verified.bytes
        with _opened(path) as environment:
            for key, record in _meta_records(environment):
                _note(found, key, record)
    except (StorageError, RecordFault, msgspec.DecodeError, lmdb.Error) as error:
        found.problem = f"log: {error}"
    return found


def _meta_records(environment: Any) -> Iterator[tuple[bytes, Any]]:
    table = open_tables(environment).get(META_TABLE)
    if table is None:
        return
    envelope = Envelope(META_TABLE)
    with environment.begin() as transaction, transaction.cursor(table) as cursor:
        for key, stored in cursor.iternext(True, True):
            yield key, _decode_meta(envelope.open(key, stored)[1])


def _note(found: LogFindings, key: bytes, record: Any) -> None:
    match record:
        case Anchor(configuration=configuration):
            found.epoch, found.protocol = configuration.epoch, configuration.protocol
            found.options = dict(configuration.options)
            found.members, found.retired = configuration.replicas, tuple(configuration.retired)
            found.frontier, found.base, found.snapshot = record.frontier, record.base, record.snapshot
        case Incarnation(number=number):
            found.incarnation = number
        case Admission():
            found.admitted = True
        case PeerDisk(disk=disk):
            found.peer_disks[int(key.removeprefix(PEER_PREFIX))] = disk
        case _:
            pass


def _inspect_state(path: Path) -> StateFindings:
    found = StateFindings()
    try:
        marker = msgspec.json.decode((path / "STATE").read_bytes(), type=StateMarker)
    except FileNotFoundError:
        return found
    except (OSError, msgspec.DecodeError) as error:
        found.problem = f"state: {path / 'STATE'} cannot be read: {error}"
        return found
    found.generation, found.clean = marker.generation, marker.clean
    directory = path / f"{marker.generation:08d}"
    if not marker.generation:
        return found
    try:
        verified = verify_in_child(directory, checksums=False)
        found.tables, found.bytes = verified.tables, verified.bytes
        if CHANGES in found.tables:  # one order over everything; a state by object has no number for all of it
            _read_state(found, directory)
    except (StorageError, CorruptState, lmdb.Error) as error:
        found.problem = f"state: {error}"
    return found


def _read_state(found: StateFindings, directory: Path) -> None:
    with _opened(directory) as environment:
        view = StoreView(environment, open_tables(environment))
        try:
            machine = StateMachine(cast("Store", view))  # loading one writes nothing
            found.applied, found.revision, found.compacted = machine.applied, machine.revision, machine.compacted
            found.sessions, found.leases = len(machine.sessions), len(machine.leases)
        finally:
            view.close()


def _inspect_snapshots(path: Path, anchored: str) -> list[SnapshotFindings]:
    found = []
    names = sorted(entry.name for entry in path.iterdir() if entry.is_file()) if path.is_dir() else []
    for name in names:
        one = SnapshotFindings(name=name, bytes=(path / name).stat().st_size, anchored=name == anchored)
        try:
            with SnapshotReader(path / name) as reader:
                anchor = reader.header.anchor
                one.epoch, one.frontier = anchor.configuration.epoch, anchor.frontier
                reader.verify()
                one.items = reader.footer.items
        except StorageError as error:
            one.problem = f"snapshot: {error}"
        found.append(one)
    if anchored and anchored not in names:
        problem = f"snapshot: {path / anchored} is missing, and the log behind it is gone: replace the replica"
        found.append(SnapshotFindings(name=anchored, problem=problem, anchored=True))
    return found
