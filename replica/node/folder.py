"""The data folder and the configuration: do they belong together, and what to do about a folder that is
empty.

A folder is formatted only when that was asked for (``bootstrap``, ``join``), so that an empty or wiped
folder is never silently taken for that of the replica which had been there. Asking for it again changes
nothing for a folder that is formatted already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from replica.consensus.interface import Configuration, Options
from replica.consensus.registry import find_protocol
from replica.kv.restoring import restore
from replica.kv.store import Store
from replica.storage.backup import BackupError, BackupReader
from replica.storage.coordinator import Anchor
from replica.storage.errors import CorruptStorage, NotFormatted, StorageError, WrongReplica
from replica.storage.folder import Identity, is_formatted, read_identity
from replica.storage.recovery import Storage, format_storage, open_storage

from .config import NodeConfig
from .errors import BadFolder, Damaged, NodeFailure

__all__ = ["describe", "open_data", "prepare_folder"]


def prepare_folder(config: NodeConfig, *, backup: Path | None = None) -> Identity:
    """Format the folder as the configuration asks, and return its identity. Raises `BadFolder`,
    `NodeFailure`.

    With a ``backup`` the new cluster, of which all replicas must be given the same one, begins with what is in there.
    """
    fill = None if backup is None else _filled_from(config, backup)
    path = Path(config.data)
    anchor = Anchor(configuration=config.initial_configuration()) if config.bootstrap else None
    try:
        return format_storage(path, cluster=config.cluster, replica=config.replica, anchor=anchor, fill=fill)
    except StorageError as error:
        raise describe(error) from error
    except OSError as error:
        raise BadFolder(f"{path}: cannot be formatted: {error.strerror or error}") from error


def _filled_from(config: NodeConfig, backup: Path) -> Callable[[Store], object]:
    """What fills a new state with a backup, which has been read to its end once. Raises `BadFolder`."""
    if not config.bootstrap:
        raise BadFolder("restore: a replica that joins is given its state by the others")
    spec = find_protocol(config.protocol.name)
    if not spec.capabilities.total_order:
        raise BadFolder(
            f"restore: protocol {config.protocol.name!r} orders by object and has no revisions to restore; restore "
            "into a cluster of one that orders everything, for example multipaxos or raft"
        )
    try:
        with BackupReader(backup) as reader:
            header = reader.header
            reader.verify()
    except BackupError as error:
        raise BadFolder(f"restore: {error}") from error
    if header.cluster == config.cluster:
        raise BadFolder(
            f"restore: {backup} is of cluster {header.cluster!r} itself, and a restored cluster is another one: give "
            "it an identity of its own"
        )

    def fill(store: Store) -> None:
        with BackupReader(backup) as again:
            restore(store, revision=header.revision, items=again.items(), leases=header.leases)

    return fill


def open_data(config: NodeConfig) -> Storage:
    """Open the data folder for a start, formatting an empty one if that was asked for.

    Raises `BadFolder` for a folder that is not this replica's or was pinned to something else, `NodeFailure`.
    """
    path = Path(config.data)
    if not is_formatted(path) and (config.bootstrap or config.join):
        prepare_folder(config)
    try:
        identity = read_identity(path)
        storage = open_storage(
            path,
            cluster=config.cluster,
            replica=config.replica,
            durability=config.durability,
            log_map_bytes=config.storage.log_map_bytes,
            state_map_bytes=config.storage.state_map_bytes,
            free_bytes_min=config.limits.storage_reserve_bytes,
        )
    except NotFormatted as error:
        raise BadFolder(
            f"{error}: say --bootstrap if this is the first start of a new cluster, --join if the replica is to be "
            "added to a running one; a replica whose disk was lost is replaced by one with a new id"
        ) from error
    except StorageError as error:
        raise describe(error) from error
    except OSError as error:
        raise BadFolder(f"{path}: cannot be opened: {error.strerror or error}") from error
    assert identity == storage.identity
    try:
        if storage.anchor is not None:
            _compare(config, storage.anchor.configuration)
    except BaseException:
        storage.close()
        raise
    return storage


def describe(error: StorageError) -> NodeFailure:
    """The failure that a storage error is to the node: with the exit status that fits."""
    if isinstance(error, CorruptStorage):
        return Damaged(str(error))
    if isinstance(error, NotFormatted | WrongReplica) or type(error).__name__ in _PINNED:
        return BadFolder(str(error))
    return NodeFailure(str(error))


_PINNED = frozenset({"AlreadyFormatted", "WrongCluster", "WrongProtocol", "NewerFormat", "FolderInUse"})


def _compare(config: NodeConfig, pinned: Configuration) -> None:
    """What the folder is pinned to is changed by a reconfiguration, never by editing a file."""
    where = f"{config.data} (epoch {pinned.epoch})"
    how = "it is changed by a reconfiguration of the running cluster, not in the configuration"
    if config.protocol.name != pinned.protocol:
        raise BadFolder(
            f"protocol.name: {config.protocol.name!r} is not what {where} is pinned to, {pinned.protocol!r}; {how}"
        )
    if config.protocol.options != pinned.options:
        raise BadFolder(
            f"protocol.options: {_words(config.protocol.options)} is not what {where} is pinned to, "
            f"{_words(pinned.options)}; {how}"
        )
    if pinned.epoch == 1 and not config.join:
        given = sorted(member.replica for member in config.members)
        if given != list(pinned.replicas):
            raise BadFolder(
                f"members: {', '.join(map(str, given))} are not those that {where} is pinned to, "
                f"{', '.join(map(str, pinned.replicas))}; {how}"
            )


def _words(options: Options) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(options.items())) or "no options"
