"""A disk for an emulated machine: a sparse image file with an ext4 file system on it."""

import fcntl
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.support.emulator.cache import SECTOR_BYTES
from tests.support.emulator.errors import EmulatorError
from tests.support.emulator.host import program

DISK_BYTES_MIN = 16 << 20  # below this mkfs makes no journal, and there would be nothing to recover


@dataclass(frozen=True, slots=True)
class Disk:
    """The image at `path`. It outlives machines: boot the same disk again to see what a cut left."""

    path: Path

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> "Disk":
        """Makes and formats an image; the file is sparse. Raises FileExistsError, EmulatorError."""
        if size_bytes < DISK_BYTES_MIN or size_bytes % SECTOR_BYTES:
            raise ValueError(
                f"a disk is a multiple of {SECTOR_BYTES} bytes and at least {DISK_BYTES_MIN}: {size_bytes}"
            )
        with path.open("xb") as image:
            image.truncate(size_bytes)
        # The inode tables are written now, or the guest would write them in the background while it is measured.
        extended = "lazy_itable_init=0,lazy_journal_init=0"
        formatted = subprocess.run(
            [program("mkfs.ext4"), "-q", "-F", "-m", "0", "-E", extended, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if formatted.returncode:
            raise EmulatorError(f"mkfs.ext4 failed: {formatted.stderr.strip()}")
        return cls(path)

    def attach(self) -> BinaryIO:
        """The image, opened for one machine alone. Raises EmulatorError while another machine has it."""
        image = self.path.open("r+b", buffering=0)
        try:
            fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            image.close()
            raise EmulatorError(f"{self.path} is in use by another machine") from None
        return image

    def size_bytes(self) -> int:
        return os.stat(self.path).st_size

    def complaints(self) -> str:
        """What e2fsck finds wrong after a clean shutdown, nothing if the file system is sound. Changes nothing.

        After a cut the journal has not been replayed yet: boot once, then ask.
        """
        checked = subprocess.run(
            [program("e2fsck"), "-f", "-n", str(self.path)], capture_output=True, text=True, check=False
        )
        return "" if checked.returncode == 0 else checked.stdout + checked.stderr
