"""What processes of this machine use: CPU time, memory, and what they read from and wrote to disk (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bench.results import Resources


class Usage(msgspec.Struct, frozen=True):
    """Counters of one process since it began. Seconds and bytes."""

    user_s: float = 0.0
    system_s: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


def usage_of(process: int) -> Usage | None:
    """The process's counters; None where they cannot be read (it is gone, or this is not Linux)."""
    try:
        # Behind the name, which may hold anything, in parentheses.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        disk = dict(
            line.split(": ", 1) for line in Path(f"/proc/{process}/io").read_text().splitlines() if ": " in line
        )
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(
        user_s=int(fields[11]) / ticks,
        system_s=int(fields[12]) / ticks,
        memory_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        read_bytes=int(disk.get("read_bytes", 0)),
        written_bytes=int(disk.get("write_bytes", 0)),
    )


class Meter:
    """What each of some processes uses between `begin` and `end`."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._before: dict[str, Usage] = {}

    def begin(self) -> None:
        """Remember the counters."""
        for name, process in self._processes.items():
            found = usage_of(process)
            if found is not None:
                self._before[name] = found

    def end(self) -> list[Resources]:
        """What was used since; a process that has ended meanwhile is left out."""
        found = []
        for name, before in self._before.items():
            now = usage_of(self._processes[name])
            if now is None:
                continue
            number = name.rpartition(" ")[2]
            found.append(
                Resources(
                    name=name,
                    replica=int(number) if number.isdigit() and name.startswith("replica") else 0,
                    cpu_user_s=now.user_s - before.user_s,
                    cpu_system_s=now.system_s - before.system_s,
                    memory_bytes=now.memory_bytes,
                    disk_read_bytes=now.read_bytes - before.read_bytes,
                    disk_written_bytes=now.written_bytes - before.written_bytes,
                )
            )
        return found
