"""From a folder to a running replica's storage, in an order that a crash at any point can't upset.

1. The identity is checked and the folder locked, before anything is written.
2. The log is verified in a child process, where damage can't take this one down, and opened.
3. The start is counted, durably: the *incarnation* precedes everything that the replica does.
4. The state is used as it is where it can be trusted, and otherwise built anew from the snapshot that the anchor names;
   what the log holds beyond it is for the protocol to deliver again. Damage to it is no misfortune: it is built anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec

from .coordinator import Anchor
from .errors import CorruptSnapshot, CorruptStorage, WrongProtocol
from .files import make_directory, remove_tree
from .folder import DataFolder, Identity, format_folder, mint_identity, open_folder
from .log import LOG_MAP_BYTES, LOG_PREALLOCATED_BYTES, Durability, LogEnvironment
from .snapshots import INSTALL_COMMIT_BYTES, Snapshots, SnapshotTask, install
from .space import FREE_BYTES_MIN, SpaceGuard, Usage
from .state import STATE_MAP_BYTES, LmdbStore, StateFolder
from .verification import verify_in_child

STATE_VERIFIED_BYTES_MAX: Final = 256 << 20
"""Up to this size a state that was not closed cleanly is walked before it is used; half a second or so. A larger one is
trusted unseen: it is the page cache's, and the replica is wanted."""


def format_storage(
    path: Path,
    *,
    cluster: str,
    replica: int,
    anchor: Anchor | None,
    fill: Callable[[LmdbStore], object] | None = None,
) -> Identity:
    """Make ``path`` the data folder of a replica that has never run, and return its identity with a new disk.

    ``anchor`` carries the first configuration of a new cluster; None is for a replica that joins one and will be given
    the anchor with a snapshot. ``fill`` makes the state that a new cluster begins with, where that is not an empty one;
    it must be the same on all of its replicas. What it raises leaves the folder unformatted.

    Raises `AlreadyFormatted`, `FolderInUse`, `StorageError`, `OSError`.
    """
    identity = mint_identity(cluster, replica)

    def prepare(folder: DataFolder) -> None:
        begins = anchor
        if anchor is not None and fill is not None:
            begins = _begin_with(folder, anchor, fill)
        LogEnvironment.create(folder.log, identity, begins)

    format_folder(path, identity, prepare)
    return identity


def _begin_with(folder: DataFolder, anchor: Anchor, fill: Callable[[LmdbStore], object]) -> Anchor:
    """Have the folder's first snapshot hold what ``fill`` puts into a store, and return the anchor that names it."""
    draft = folder.state / "draft"
    make_directory(draft)
    store = LmdbStore(draft)
    try:
        fill(store)
        store.commit()
        task = Snapshots(folder.snapshots, folder.identity.cluster).begin(store.view(), anchor)
        task.write()
    finally:
        store.close()
    remove_tree(draft)
    return task.anchor


class Installation(msgspec.Struct, frozen=True):
    """A state built from a snapshot, beside the present one, that becomes the present one with the anchor's commit."""

    anchor: Anchor
    generation: int


class Storage:
    """Everything durable of one replica, open. Owned by one thread."""

    def __init__(
        self,
        folder: DataFolder,
        log: LogEnvironment,
        states: StateFolder,
        state: LmdbStore,
        *,
        state_rebuilt: bool,
        state_map_bytes: int,
        free_bytes_min: int,
    ) -> None:
        self.folder = folder
        self.log = log
        self.state = state
        self.state_rebuilt = state_rebuilt
        """The state wasn't trusted and was built from the snapshot."""
        self.states = states
        self.snapshots = Snapshots(folder.snapshots, folder.identity.cluster)
        self._state_map_bytes = state_map_bytes
        self.space = SpaceGuard(folder.path, (log.usage, self._state_usage), free_bytes_min=free_bytes_min)

    def _state_usage(self) -> Usage:
        return self.state.usage()  # of the present store: an installation replaces it

    @property
    def identity(self) -> Identity:
        """Whose storage this is."""
        return self.folder.identity

    @property
    def anchor(self) -> Anchor | None:
        """Where the replica stands; None while it waits to join."""
        return self.log.anchor

    @property
    def incarnation(self) -> int:
        """The number of this start."""
        return self.log.incarnation

    # ---------------------------------------------------------------------------------------------------- snapshots

    def begin_snapshot(self, anchor: Anchor) -> SnapshotTask:
        """A snapshot of the state as of its last commit, which must stand at the frontier of ``anchor``.

        Have the task's `write` run on a worker thread, then commit the task's anchor (which names the snapshot), and
        call `snapshot_taken`.
        """
        return self.snapshots.begin(self.state.view(), anchor)

    def snapshot_taken(self, anchor: Anchor) -> None:
        """``anchor`` is durable: the snapshots before the one that it names are of no use any more."""
        self.snapshots.keep_only(anchor.snapshot)

    def prepare_installation(self, anchor: Anchor) -> Installation:
        """Build the state that ``anchor`` stands for, from the snapshot that it names, beside the present one.

        Takes long: for a worker thread, and one at a time. Commit the anchor next and call `adopt`, or call `discard`.
        A crash in between leaves the old anchor with the old state, or the new one with the new. Raises
        `CorruptSnapshot`, `StorageFull`, `StorageError`; then nothing has changed.
        """
        generation = self.states.reserve()
        try:
            _fill(
                self.states.directory(generation),
                self.snapshots.path_of(anchor.snapshot),
                map_bytes=self._state_map_bytes,
                sync=True,
            )
            self.states.announce(generation, anchor.snapshot)
        except BaseException:
            self.states.sweep()
            raise
        return Installation(anchor, generation)

    def adopt(self, installation: Installation) -> LmdbStore:
        """The anchor of ``installation`` is durable: its state is the present one from now on, and is returned.

        What was written to the one before is gone; that store must not be used any more.
        """
        self.state.close()
        self.states.use(installation.generation)
        self.state = LmdbStore(self.states.directory(installation.generation), map_bytes=self._state_map_bytes)
        self.snapshots.keep_only(installation.anchor.snapshot)
        return self.state

    def discard(self, installation: Installation) -> None:
        """The anchor of ``installation`` is not going to be committed."""
        self.states.retract()
        self.snapshots.remove(installation.anchor.snapshot)

    def rebuild_state(self) -> LmdbStore:
        """The state turned out to be damaged: build it anew from the anchor's snapshot, and return it.

        Raises `StorageError`.
        """
        self.state.close()
        self.states.distrust()
        self.state, self.state_rebuilt = _recover_state(
            self.states, self.snapshots, self.anchor, map_bytes=self._state_map_bytes
        )
        return self.state

    # ------------------------------------------------------------------------------------------------------ closing

    def close(self) -> None:
        """Close everything cleanly: what was applied is committed and synced, and trusted at the next start.

        After a failed commit only what can't do harm is done. Raises `StorageError`.
        """
        try:
            if self.log.failure is None:
                self.states.finish(self.state)
            else:
                self.state.close()
        finally:
            try:
                self.log.close()
            finally:
                self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_storage(
    path: Path,
    *,
    cluster: str | None = None,
    replica: int | None = None,
    protocol: str | None = None,
    durability: Durability = "sync",
    log_map_bytes: int = LOG_MAP_BYTES,
    state_map_bytes: int = STATE_MAP_BYTES,
    log_preallocated_bytes: int = LOG_PREALLOCATED_BYTES,
    free_bytes_min: int = FREE_BYTES_MIN,
    verify: bool = True,
) -> Storage:
    """Open the data folder ``path`` for a start of its replica.

    May take a while: the log is verified, and the state may have to be rebuilt. May run on another thread than the one
    that goes on to use the storage.

    ``cluster``, ``replica`` and ``protocol``, where given, must be what the folder is pinned to. ``verify``
    False skips the verification of the log. Raises `StorageError`.
    """
    folder = open_folder(path, cluster=cluster, replica=replica)
    try:
        if verify:
            verify_in_child(folder.log, checksums=True)
        log = LogEnvironment(
            folder.log,
            folder.identity,
            durability=durability,
            map_bytes=log_map_bytes,
            preallocated_bytes=log_preallocated_bytes if durability == "sync" else 0,
        )
        try:
            check_protocol(folder, log.anchor, protocol)
            log.begin_incarnation()
            snapshots = Snapshots(folder.snapshots, folder.identity.cluster)
            snapshots.clean_staging()
            snapshots.keep_only(log.anchor.snapshot if log.anchor is not None else "")
            states = StateFolder(folder.state)
            state, rebuilt = _recover_state(states, snapshots, log.anchor, map_bytes=state_map_bytes)
        except BaseException:
            log.close()
            raise
    except BaseException:
        folder.close()
        raise
    return Storage(
        folder,
        log,
        states,
        state,
        state_rebuilt=rebuilt,
        state_map_bytes=state_map_bytes,
        free_bytes_min=free_bytes_min,
    )


def check_protocol(folder: DataFolder, anchor: Anchor | None, protocol: str | None) -> None:
    """Raises `WrongProtocol` when the replica stands in an epoch of another protocol."""
    if protocol is None or anchor is None or anchor.configuration.protocol == protocol:
        return
    raise WrongProtocol(
        f"{folder.path}: stands in epoch {anchor.configuration.epoch} of protocol "
        f"{anchor.configuration.protocol!r}, not {protocol!r}; it changes by a "
        "reconfiguration of the cluster, not in a file"
    )


def _recover_state(
    states: StateFolder, snapshots: Snapshots, anchor: Anchor | None, *, map_bytes: int
) -> tuple[LmdbStore, bool]:
    """The state that belongs to ``anchor``, and whether it had to be rebuilt."""
    name = anchor.snapshot if anchor is not None else ""
    generation = states.present_generation(name)
    if generation is not None and _is_sound(states, generation):
        states.use(generation)
        return LmdbStore(states.directory(generation), map_bytes=map_bytes), False
    generation = states.reserve()
    if name:
        try:
            _fill(states.directory(generation), snapshots.path_of(name), map_bytes=map_bytes)
        except CorruptSnapshot as error:
            raise CorruptStorage(
                f"{snapshots.path_of(name)}: the state must be rebuilt from it and can't be ({error}); the log "
                "behind it is gone, so replace the replica"
            ) from error
    states.use(generation)
    return LmdbStore(states.directory(generation), map_bytes=map_bytes), True


def _is_sound(states: StateFolder, generation: int) -> bool:
    """Can the generation be read? A replica that crashed may have crashed on it, and must not do so forever."""
    directory = states.directory(generation)
    if states.marker.clean or (directory / "data.mdb").stat().st_size > STATE_VERIFIED_BYTES_MAX:
        return True
    try:
        verify_in_child(directory, checksums=False)
    except CorruptStorage:
        return False
    return True


def _fill(directory: Path, snapshot: Path, *, map_bytes: int, sync: bool = False) -> None:
    store = LmdbStore(directory, map_bytes=map_bytes)
    try:
        install(snapshot, store, commit_bytes=INSTALL_COMMIT_BYTES)
        if sync:
            store.sync()
    finally:
        store.close()
