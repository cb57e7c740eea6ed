"""An emulated machine whose power can be cut.

Theory of operation
-------------------
Killing a process proves nothing about syncing: what it wrote stays in the kernel's page cache and reaches the disk
later. Only a machine that loses its memory tells a store that syncs from one that does not. Here the machine is a
virtual one under software emulation (qemu with TCG; no hardware virtualisation, no privileges), and three layers lie
between a program in it and the bytes that outlive it:

1. the guest's page cache. It is qemu's memory: a cut loses it, always.
2. the drive's volatile write cache (`VolatileCache`). The guest's disk is served over NBD by this process, which holds
   written sectors back until the guest sends FLUSH. At a cut a subset of the sectors still held survives: none, all, or
   a seeded random choice. That is all a drive promises; it tears writes, and reorders those with no flush between.
3. the image file. What reached it is kept; the host does not lose power, so there is no fourth layer.

What the guest sees: the host's root file system read-only (9p), so programs and packages need no image of their own;
the data disk at `DATA_FOLDER` (ext4, its journal replayed at mount); a folder shared with the host at
`EXCHANGE_FOLDER`; loopback. `/run` is its own memory (`TMPDIR` and `HOME` are there).

What the host keeps: the lines that the command wrote to standard output. They leave through a port that has to do with
neither the disk nor the guest's memory, so they are the record of what was acknowledged. A line cut off in the middle
does not count. Lines that had not left the guest at the cut are missing, never the other way round: a recorded
acknowledgement was made before the cut.

What this does not model: a drive that loses flushed data, sectors that rot, and the host's own failure.
"""

from tests.support.emulator.cache import VolatileCache
from tests.support.emulator.disk import Disk
from tests.support.emulator.errors import EmulatorError, EmulatorUnavailable, MachineEnded
from tests.support.emulator.machine import (
    DATA_FOLDER,
    EXCHANGE_FOLDER,
    Emulator,
    Machine,
    Outcome,
    PowerCut,
    Writeback,
)

__all__ = [
    "Emulator",
    "Machine",
    "Outcome",
    "PowerCut",
    "Writeback",
    "Disk",
    "VolatileCache",
    "DATA_FOLDER",
    "EXCHANGE_FOLDER",
    "EmulatorError",
    "EmulatorUnavailable",
    "MachineEnded",
]
