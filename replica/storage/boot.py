"""Has the machine been up since? Unsynced writes survive a crash of the process, not one of the machine."""

from __future__ import annotations

from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names the run of the kernel; empty on platforms that don't say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
