"""What the log and the state environment have in common: opening LMDB and telling what its errors mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final

import lmdb

from .errors import CorruptStorage, StorageError, StorageFull, SyncFailed
from .files import FILE_MODE
from .space import Usage

TABLES_MAX: Final = 64
"""Named databases in one environment."""

KEY_BYTES_MAX: Final = 511
"""LMDB's limit as it is built by default; it refuses empty keys, too."""

_FULL_CODES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_FULL_TEXTS: Final = tuple(os.strerror(code) for code in sorted(_FULL_CODES))

_SHORT_WRITE: Final = os.strerror(errno.EIO)
"""What LMDB also makes of a write that the kernel carried out in part, as it does when the file system fills up."""

_FULL_BYTES: Final = 1 << 20
"""With less than this left, a short write is put down to a full file system."""

_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    lmdb.IncompatibleError,
    lmdb.PanicError,
    lmdb.CursorFullError,
)


def open_environment(path: Path, *, map_bytes: int, sync: bool) -> Any:
    """The LMDB environment in the directory ``path``, which must exist.

    The map is never writable: with a writable one a full disk is a signal (SIGBUS) instead of an error, and a stray
    pointer anywhere in the process reaches the data.
    """
    try:
        return lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=TABLES_MAX,
            mode=FILE_MODE,
            sync=sync,
            metasync=True,
            writemap=False,
            create=False,
        )
    except lmdb.Error as error:
        if isinstance(error, _DAMAGE):
            raise CorruptStorage(f"{path}: LMDB can't open it ({error}); it is damaged, replace the replica") from error
        raise StorageError(
            f"{path}: LMDB can't open it ({error}); check permissions, and that {map_bytes >> 20} MiB of address space "
            "may be reserved (ulimit -v, or configure a smaller map)"
        ) from error


def open_tables(environment: Any) -> dict[str, Any]:
    """Handles of the named databases that exist, by name. Opened at once: a handle that is opened later needs a
    write transaction, and would wait for the one that a writer thread has open."""
    with environment.begin() as transaction:
        names = [key for key, _ in transaction.cursor()]
    return {name.decode(): environment.open_db(name, create=False) for name in names}


def measure(name: str, environment: Any, tables: dict[str, Any]) -> Usage:
    """How full the environment is, seen from its last commit."""
    info = environment.info()
    with environment.begin() as transaction:
        pages = 0
        size = 4096
        with transaction.cursor() as cursor:
            committed = {key.decode() for key in cursor.iternext(True, False)}
        for table, handle in list(tables.items()):
            if table not in committed:
                continue  # it belongs to the write transaction that is open, and is not there yet for others
            stat = transaction.stat(handle)
            size = stat["psize"]
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return Usage(
        name=name,
        map_bytes=info["map_size"],
        used_bytes=(pages + 4) * size,  # two meta pages, the roots of the table directory and of the free list
        file_bytes=(info["last_pgno"] + 1) * size,
    )


def explain(path: Path, error: lmdb.Error | OSError, doing: str) -> StorageError:
    """The error to raise for one of LMDB's that came up while ``doing`` ("commit to the log")."""
    if isinstance(error, lmdb.MapFullError):
        return StorageFull(
            f"{path}: can't {doing}: the reserved map is full; nothing of it was acknowledged; start with a larger map"
        )
    if _is_full(error) or (_SHORT_WRITE in str(error) and _free_bytes(path) < _FULL_BYTES):
        return StorageFull(
            f"{path}: can't {doing}: no space left ({error}); nothing of it was acknowledged; "
            "free space, then start again"
        )
    if isinstance(error, _DAMAGE):
        return CorruptStorage(f"{path}: can't {doing}: LMDB found damage ({error}); replace the replica")
    return SyncFailed(
        f"{path}: can't {doing} ({error}); nothing of it was acknowledged, what the disk holds of it is unknown; it is "
        "not tried again: check the disk (and quotas), then start the replica"
    )


def _is_full(error: lmdb.Error | OSError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL_CODES
    # The binding keeps the system's text, not its code.
    return isinstance(error, lmdb.DiskError) or any(text in str(error) for text in _FULL_TEXTS)


def _free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
