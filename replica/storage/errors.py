"""What can go wrong with a data folder, as errors that a caller can act on.

Every message is one line that names the path, says what was found and what to do. An error of a commit also says
whether anything of it may have been acknowledged: nothing ever was, because acknowledging comes after it.
"""

from __future__ import annotations

from pathlib import Path

from replica.consensus.interface import CorruptRecord


class StorageError(Exception):
    """Base of the errors of this package. The replica can't run, or can't go on, on this folder."""


class NotFormatted(StorageError):
    """The folder is no data folder: it doesn't exist, is empty, or lacks its identity."""


class AlreadyFormatted(StorageError):
    """Formatting would overwrite what is there."""


class WrongCluster(StorageError):
    """The folder belongs to another cluster."""


class WrongReplica(StorageError):
    """The folder belongs to another replica, or its parts belong to different disks."""


class WrongProtocol(StorageError):
    """The folder stands in an epoch of another protocol than the one asked for."""


class NewerFormat(StorageError):
    """The folder was written by a later release."""


class FolderInUse(StorageError):
    """Another process has the folder open."""


class CorruptStorage(StorageError):
    """A file can't be trusted: damaged, truncated, or written without syncs before a crash of the machine."""


class UnreadableRecord(CorruptStorage, CorruptRecord):
    """One record of the log can't be read: it is *unknown*, never absent, so the replica must not vote on."""

    def __init__(self, path: Path, table: str, key: bytes, reason: str) -> None:
        CorruptRecord.__init__(self, table, key, reason)
        message = (
            f"{path}: record {key.hex()} of table {table!r} can't be read ({reason}); what this replica promised is "
            "unknown, so it must not take part again: replace it with a new member on an empty folder"
        )
        self.args = (message,)
        self.path = path


class CorruptSnapshot(CorruptStorage):
    """A snapshot file, or one being received, doesn't carry what it says."""


class StorageFull(StorageError):
    """No space: in the file system, or in the map reserved for an environment."""


class SyncFailed(StorageError):
    """A commit or sync failed. It is never retried: after a failed fsync nobody knows what the disk holds."""
