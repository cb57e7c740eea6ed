"""The volatile write cache of a drive: what was written but not flushed may be lost when the power goes.

The rules, which are those of ATA, NVMe and virtio-blk drives with a write-back cache:

- a write is visible to reads at once, and is held in volatile memory;
- a flush makes every write that completed before it durable; a write with FUA is durable when it completes;
- a sector (512 bytes) is atomic, and nothing larger is;
- the drive may make held sectors durable at any time and in any order. At a cut, any subset of them may have survived.

Of a sector written twice between flushes only the later content is a candidate to survive, besides the flushed one.
"""

import random
import threading
from dataclasses import dataclass
from typing import BinaryIO

SECTOR_BYTES = 512
CACHE_BYTES_MAX = 64 << 20
"""A drive's memory is finite: when this much is held, all of it is made durable, as a real drive may at any time."""


@dataclass(frozen=True, slots=True)
class CacheLoss:
    """What a cut found in the cache, in sectors of 512 bytes."""

    held: int
    survived: int


class VolatileCache:
    """A drive in front of an image file. Safe to use from several threads; each operation is atomic against `cut`.

    `honours_flush = False` makes a drive that lies: it confirms flushes, and keeps nothing until it is closed.
    It exists to show that a test notices.
    """

    def __init__(self, image: BinaryIO, *, honours_flush: bool = True) -> None:
        self._image = image
        self._honours_flush = honours_flush
        self._held: dict[int, bytes] = {}  # sector number -> content
        self._lock = threading.Lock()
        self._down = False
        self._flush_fails = False
        self._dies_at_flush = False
        self._died = threading.Event()
        self.flushes = 0

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, at whatever alignment. Raises PowerLost after a cut."""
        with self._lock:
            self._assert_powered()
            first = offset // SECTOR_BYTES
            last = (offset + length + SECTOR_BYTES - 1) // SECTOR_BYTES
            self._image.seek(first * SECTOR_BYTES)
            content = bytearray(self._image.read((last - first) * SECTOR_BYTES))
            if self._held:
                for sector in range(first, last):
                    held = self._held.get(sector)
                    if held is not None:
                        start = (sector - first) * SECTOR_BYTES
                        content[start : start + SECTOR_BYTES] = held
            start = offset - first * SECTOR_BYTES
            return bytes(content[start : start + length])

    def write(self, offset: int, content: bytes, *, durable: bool = False) -> None:
        """Holds whole sectors; with `durable` (FUA) they bypass the cache. Raises PowerLost after a cut."""
        if offset % SECTOR_BYTES or len(content) % SECTOR_BYTES:
            raise ValueError(f"a write of {len(content)} bytes at {offset} is not whole sectors")
        with self._lock:
            self._assert_powered()
            first = offset // SECTOR_BYTES
            count = len(content) // SECTOR_BYTES
            for index in range(count):
                self._held[first + index] = content[index * SECTOR_BYTES : (index + 1) * SECTOR_BYTES]
            if durable and self._honours_flush:
                self._make_durable(range(first, first + count))
            elif len(self._held) * SECTOR_BYTES > CACHE_BYTES_MAX and self._honours_flush:
                self._make_durable(list(self._held))

    def flush(self) -> None:
        """Makes all that is held durable. Raises OSError if told to fail, PowerLost after a cut."""
        with self._lock:
            self._assert_powered()
            if self._dies_at_flush and self._held:
                self._down = True
                self._died.set()
                raise PowerLost
            if self._flush_fails:
                raise OSError("the drive was told to fail flushes")
            self.flushes += 1
            if self._honours_flush:
                self._make_durable(list(self._held))

    def fail_flushes(self) -> None:
        """From now on a flush fails and keeps nothing; reads and writes go on."""
        with self._lock:
            self._flush_fails = True

    def power_down_at_flush(self, timeout_s: float) -> bool:
        """Loses power at the next flush of anything, before it is done. Returns whether one came in time."""
        with self._lock:
            self._dies_at_flush = True
        return self._died.wait(timeout_s)

    def power_down(self) -> None:
        """From now on every operation raises PowerLost. What is held stays undecided until `cut`."""
        with self._lock:
            self._down = True

    def cut(self, *, surviving: float, seed: int) -> CacheLoss:
        """Powers down; each held sector survives with probability `surviving`, the others are lost."""
        with self._lock:
            self._down = True
            chance = random.Random(seed)
            sectors = sorted(self._held)
            survivors = [sector for sector in sectors if chance.random() < surviving]
            self._make_durable(survivors)
            self._held.clear()
            return CacheLoss(held=len(sectors), survived=len(survivors))

    def close(self) -> None:
        """An orderly power-down: what is held becomes durable."""
        with self._lock:
            self._down = True
            self._make_durable(list(self._held))

    def _make_durable(self, sectors: range | list[int]) -> None:
        # Runs of sectors are one write each; the image is unbuffered, and its page cache outlives the guest.
        run: list[bytes] = []
        start = 0
        for sector in sorted(sectors):
            if run and sector != start + len(run):
                self._write_run(start, run)
                run = []
            if not run:
                start = sector
            run.append(self._held.pop(sector))
        if run:
            self._write_run(start, run)

    def _write_run(self, start: int, run: list[bytes]) -> None:
        self._image.seek(start * SECTOR_BYTES)
        content = b"".join(run)
        written = self._image.write(content)
        assert written == len(content), "a short write to the image: is the host's disk full?"

    def _assert_powered(self) -> None:
        if self._down:
            raise PowerLost


class PowerLost(Exception):
    """The drive has no power: the operation has no answer, not even an error."""
