"""Is an LMDB environment readable to its end? Found out in a child process, where damage can do no harm.

LMDB trusts its own pages. A damaged one can make it read beyond the file (SIGBUS), follow a wild pointer (SIGSEGV),
stop at an assertion (SIGABRT) or go round in circles. A replica that met that in its own process would die without a
word, at each start again. So a child opens the environment read-only, without LMDB's locks, walks every table, and
checks that keys ascend, that there are as many records as the table says, and (for the log) that every record is what
its checksum says. How the child ends becomes one clear line.

A record that damage to a page has made *invisible* can't be told at the moment it is looked up; the walk tells, because
the counts don't match. That is why it runs at every start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from .errors import CorruptStorage, StorageError

TIMEOUT_BASE_S: Final = 30.0
"""What the child may take for an empty environment on a machine that is very busy."""

TIMEOUT_BYTES_PER_S: Final = 10 << 20
"""A disk below this speed is taken for one that hangs."""

_DAMAGED: Final = 3
_UNREADABLE: Final = 4


class Verified(msgspec.Struct, frozen=True):
    """What the walk has found."""

    tables: dict[str, int]
    """Records by table."""
    bytes: int
    """Of keys and records."""


def verify_in_child(path: Path, *, checksums: bool) -> Verified:
    """Walk the environment in the directory ``path``, which nobody may be writing. ``checksums`` is for a log.

    Raises `CorruptStorage` when it is damaged, `StorageError` when the child can't do its work.
    """
    file = path / "data.mdb"
    try:
        size = file.stat().st_size
    except OSError as error:
        raise CorruptStorage(f"{file}: can't be read ({error.strerror}); restore it, or replace the replica") from error
    timeout_s = TIMEOUT_BASE_S + size / TIMEOUT_BYTES_PER_S
    # The child finds the package where this process found it, installed or not.
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "replica.storage.walk", str(path), "log" if checksums else "state"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired:
        raise CorruptStorage(
            f"{file}: could not be verified within {timeout_s:.0f} s, so it is damaged or the disk hangs; check the "
            "disk, or replace the replica"
        ) from None
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=Verified)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = said[-1] if said else "it said nothing"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        if done.returncode in {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}:
            raise StorageError(f"{file}: its verification was stopped by {name}; start the replica again")
        raise CorruptStorage(f"{file}: reading it ends in {name}, so it is damaged; replace the replica")
    if done.returncode == _DAMAGED:
        raise CorruptStorage(f"{file}: is damaged ({last}); replace the replica")
    raise StorageError(f"{file}: can't be verified ({last}); check permissions and memory, then start again")
