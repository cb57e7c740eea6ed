"""Durable files: what must survive a power cut is synced, and so is the directory that names it."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

_PREALLOCATED_AT_ONCE = 1 << 20

_AMPLE = 16
"""Room for that many times what would be preallocated."""


def sync_directory(path: Path) -> None:
    """Make the names in the directory durable: a synced file whose name is lost is lost."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create the directory, and its parents where they are missing, durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace the file atomically and durably: after a crash it holds the old content or the new one."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    scratch.replace(path)
    sync_directory(path.parent)


def preallocate(path: Path, size: int) -> None:
    """Lengthen the file to ``size`` with zeros that are really written, durably; nobody may be writing it.

    It serves speed alone: on a disk without ample room the file stays as it is.
    """
    descriptor = os.open(path, os.O_WRONLY)
    try:
        before = os.fstat(descriptor).st_size
        status = os.fstatvfs(descriptor)
        if before >= size or status.f_bavail * status.f_frsize < _AMPLE * (size - before):
            return
        zeros = bytes(_PREALLOCATED_AT_ONCE)
        try:
            for offset in range(before, size, len(zeros)):
                os.pwrite(descriptor, zeros[: size - offset], offset)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory with everything in it; one that is absent is fine. Not durable by itself."""
    if not path.is_dir() or path.is_symlink():
        return
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            entry.unlink()
    path.rmdir()
