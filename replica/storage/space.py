"""Is there room for more? Asked before proposing, so that a full disk refuses instead of stopping the replica.

Two things can run out: the file system, and the map that LMDB reserves for an environment (a fixed share of the address
space, large and sparse). Both are judged with a reserve, because what has been proposed must still be written, and
truncating a log writes, too. The answer is kept for a moment: asking the kernel costs more than a command.

There are three marks. Beyond the first nothing is taken that adds data; what removes it is taken up to the second, or a
full store could never be emptied. Removing writes at first (a record in the log, a tombstone in the history) and frees
only when the history is compacted; and LMDB never gives pages back to the file system but uses them again itself. So
what counts is the pages in use, not the extent of the files, and free pages within the files make up for a part of the
reserve that the file system lacks. A removal copies the pages that it touches: in a small map, remove in pieces.

The third mark is for what this replica does not decide: a follower writes what its leader proposes, and others may use
the same disk. Beyond it the replica *rests*: it writes no more and so takes part in nothing, as if it were cut off,
which any protocol survives, and goes on when there is room again. What is left below that mark is for what was
under way. A commit that fails all the same, because the disk filled up faster than anybody looked, is fatal and not
tried again: LMDB may have written a part of it, and whether a write that failed for want of space may be repeated is
not told apart, safely on every file system, from a sync that failed, after which nobody knows what the disk holds. The
replica then ends with one line that says so, has acknowledged nothing of it, and starts again once there is room.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

FREE_BYTES_MIN: Final = 256 << 20
"""Below this much free space in the file system, proposals are refused."""

FREE_SHARE_REMOVING: Final = 0.5
"""Of the reserve: with less left in the file system, removals are refused, too."""

FREE_SHARE_REUSING: Final = 0.75
"""Of the reserve: with less left in the file system, free pages within the files do not make up for it. Above
`FREE_SHARE_REMOVING`, so that fragmentation, which has files grow in spite of free pages, leaves room for removals."""

FREE_SHARE_RESTING: Final = 0.25
"""Of the reserve: with less left in the file system, the replica rests."""

FREE_SHARE_ROUSING: Final = 0.375
"""Of the reserve: with as much left again, a replica that rests goes on."""

MAP_USED_RESTING: Final = 0.98
"""Above this share of pages in use, the replica rests as well: it needs a larger map."""

MAP_USED_MAX: Final = 0.85
"""Above this share of pages in use, an environment counts as nearly full. What is left is for truncation (LMDB copies
the pages on the way to what it frees) and for what fragmentation keeps from large records."""

MAP_USED_REMOVING_MAX: Final = 0.95
"""Above this share removals are refused, too."""

FRESHNESS_S: Final = 0.25
"""How long an answer holds. At 1 GB/s a disk takes the reserve in as long."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How full an environment is."""

    name: str
    map_bytes: int
    """What is reserved: a commit that needs more fails."""
    used_bytes: int
    """Pages that hold data or lead to it."""
    file_bytes: int
    """The file's extent: used pages, and free ones that LMDB will use again."""


class SpaceGuard:
    """Watches the environments and the file system of one data folder."""

    def __init__(
        self,
        path: Path,
        sources: Sequence[Callable[[], Usage]],
        *,
        free_bytes_min: int = FREE_BYTES_MIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._sources = tuple(sources)
        self._free_bytes_min = free_bytes_min
        self._clock = clock
        self._fresh_until = float("-inf")
        self._reason: str | None = None
        self._reason_removing: str | None = None
        self._resting_until_free = 0.0
        self.freshness_s = FRESHNESS_S
        self.pretend_full = False
        """Answer as on a full disk, for experiments; takes effect at once."""

    def nearly_full(self, *, removing: bool = False) -> str | None:
        """Why nothing should be proposed, in words; None when there is room. ``removing``: nothing but removals is."""
        if self.pretend_full:
            return f"{self._path}: the disk is full (injected fault)"
        now = self._clock()
        if now >= self._fresh_until:
            self._reason, self._reason_removing = self._judge()
            self._fresh_until = now + self.freshness_s
        return self._reason_removing if removing else self._reason

    def exhausted(self) -> str | None:
        """Why this replica should rest, in words; None while it need not. Asks the kernel each time.

        Once it has said so, it takes more room than was lacking for it to say otherwise.
        """
        status = os.statvfs(self._path)
        free = status.f_bavail * status.f_frsize
        wanted = self._free_bytes_min * FREE_SHARE_RESTING
        if free < max(wanted, self._resting_until_free):
            self._resting_until_free = self._free_bytes_min * FREE_SHARE_ROUSING
            return (
                f"{self._path}: the file system has {free >> 20} MiB left: the replica rests until there are "
                f"{int(self._resting_until_free) >> 20} MiB; free space, or move it to a larger disk"
            )
        self._resting_until_free = 0.0
        for usage in (source() for source in self._sources):
            if usage.used_bytes > usage.map_bytes * MAP_USED_RESTING:
                return (
                    f"{self._path}: {usage.name} uses {usage.used_bytes >> 20} MiB of a map of "
                    f"{usage.map_bytes >> 20} MiB: the replica rests; start it with a larger map"
                )
        return None

    def _judge(self) -> tuple[str | None, str | None]:
        """What keeps from adding data, and what keeps from removing it as well."""
        status = os.statvfs(self._path)
        free = status.f_bavail * status.f_frsize
        reserve = self._free_bytes_min
        usages = [source() for source in self._sources]
        for usage in usages:
            if usage.used_bytes > usage.map_bytes * MAP_USED_MAX:
                full = f"{self._path}: {usage.name} uses {usage.used_bytes >> 20} MiB of a map of "
                full += f"{usage.map_bytes >> 20} MiB; "
                if usage.used_bytes > usage.map_bytes * MAP_USED_REMOVING_MAX:
                    full += "not even deletions are taken: take a snapshot, or start with a larger map"
                    return full, full
                reason = full + "take a snapshot, delete data and compact, or start with a larger map"
                break
        else:
            reason = None
        if free < reserve:
            lacking = (
                f"{self._path}: the file system has {free >> 20} MiB left, {reserve >> 20} MiB are kept in reserve; "
            )
            if free < reserve * FREE_SHARE_REMOVING:
                lacking += "not even deletions are taken: free space, or move the replica to a larger disk"
                return lacking, lacking
            spare = min((max(0, usage.file_bytes - usage.used_bytes) for usage in usages), default=0)
            if free < reserve * FREE_SHARE_REUSING or free + spare < reserve:
                reason = lacking + "free space, delete data and compact, or move the replica to a larger disk"
        return reason, None
