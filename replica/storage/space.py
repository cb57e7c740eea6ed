"""Is there room for more? Asked before proposing, so that a full disk refuses instead of stopping the replica.

Two things can run out: the file system, and the map that LMDB reserves for an environment (a fixed share of the address
space, large and sparse). Both are judged with a reserve, because what has been proposed must still be written, and
truncating a log writes, too. The answer is kept for a moment: asking the kernel costs more than a command.
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

MAP_USED_MAX: Final = 0.85
"""Above this share of pages in use, an environment counts as nearly full. What is left is for truncation (LMDB copies
the pages on the way to what it frees) and for what fragmentation keeps from large records."""

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
        self.freshness_s = FRESHNESS_S
        self.pretend_full = False
        """Answer as on a full disk, for experiments; takes effect at once."""

    def nearly_full(self) -> str | None:
        """Why nothing should be proposed, in words; None when there is room."""
        if self.pretend_full:
            return f"{self._path}: the disk is full (injected fault)"
        now = self._clock()
        if now >= self._fresh_until:
            self._reason = self._judge()
            self._fresh_until = now + self.freshness_s
        return self._reason

    def _judge(self) -> str | None:
        status = os.statvfs(self._path)
        free = status.f_bavail * status.f_frsize
        if free < self._free_bytes_min:
            return (
                f"{self._path}: the file system has {free >> 20} MiB left, {self._free_bytes_min >> 20} MiB are kept "
                "in reserve; free space, or move the replica to a larger disk"
            )
        for source in self._sources:
            usage = source()
            if usage.used_bytes > usage.map_bytes * MAP_USED_MAX:
                return (
                    f"{self._path}: {usage.name} uses {usage.used_bytes >> 20} MiB of a map of "
                    f"{usage.map_bytes >> 20} MiB; take a snapshot, delete data, or start with a larger map"
                )
        return None
