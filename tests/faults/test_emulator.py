"""The emulated machine itself: synced data outlives a power cut there, and unsynced data does not.

The second half matters as much as the first. A test bed on which nothing is ever lost proves nothing about the store.
"""

import io
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults import lmdb_writer
from tests.support.emulator import (
    Disk,
    Emulator,
    EmulatorError,
    Machine,
    MachineEnded,
    VolatileCache,
    Writeback,
)
from tests.support.emulator.cache import SECTOR_BYTES, PowerLost

CUTS = 6
LIFE_S = 90.0
DISK_BYTES = 128 << 20
OLD, NEW = b"o" * SECTOR_BYTES, b"n" * SECTOR_BYTES

emulated = [
    pytest.mark.emulator,
    pytest.mark.timeout(400),
    pytest.mark.skipif(Emulator.available() is not None, reason=f"no emulated machine: {Emulator.available()}"),
]


def boot_writer(disk: Disk, mode: str, records: Path, **options: Any) -> Machine:
    command = [sys.executable, "-I", lmdb_writer.__file__, "/data/numbers", mode]
    return Emulator.boot(disk, command, timeout_s=LIFE_S, records=records, **options)


def note(text: str) -> None:
    """Shown by pytest beside a failure, and with -s."""
    sys.stdout.write(f"{text}\n")


def kept_by(machine: Machine) -> int:
    """What the writer found when it started: numbers 0 to this, exclusively."""
    first = machine.wait_for_line(lambda line: line.startswith("kept "), timeout_s=LIFE_S)
    return int(machine.lines()[first].split()[1])


def acknowledged_in(lines: tuple[str, ...]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("acknowledged ")]


class TestDrive:
    """The volatile write cache alone; needs no emulator."""

    def drive(self, *, honours_flush: bool = True) -> tuple[io.BytesIO, VolatileCache]:
        image = io.BytesIO(OLD * 64)
        return image, VolatileCache(image, honours_flush=honours_flush)

    def test_a_write_is_read_back_before_it_is_durable(self):
        image, cache = self.drive()
        cache.write(SECTOR_BYTES, NEW)
        assert cache.read(SECTOR_BYTES - 1, SECTOR_BYTES + 2) == b"o" + NEW + b"o"
        assert NEW not in image.getvalue()

    def test_a_cut_loses_what_was_written_after_the_last_flush(self):
        image, cache = self.drive()
        cache.write(0, NEW * 2)
        cache.flush()
        cache.write(5 * SECTOR_BYTES, NEW * 3)
        loss = cache.cut(surviving=0.0, seed=0)
        assert (loss.held, loss.survived) == (3, 0)
        assert image.getvalue() == NEW * 2 + OLD * 62

    def test_a_forced_write_is_durable_and_takes_nothing_else_along(self):
        image, cache = self.drive()
        cache.write(0, NEW)
        cache.write(SECTOR_BYTES, NEW, durable=True)
        cache.cut(surviving=0.0, seed=0)
        assert image.getvalue() == OLD + NEW + OLD * 62

    def test_any_subset_of_what_is_held_may_survive_in_whole_sectors(self):
        outcomes = set()
        for seed in range(20):
            image, cache = self.drive()
            cache.write(0, NEW * 8)
            cache.cut(surviving=0.5, seed=seed)
            sectors = [
                image.getvalue()[start : start + SECTOR_BYTES] for start in range(0, 8 * SECTOR_BYTES, SECTOR_BYTES)
            ]
            assert set(sectors) <= {OLD, NEW}
            outcomes.add(tuple(sector == NEW for sector in sectors))
        assert len(outcomes) > 10

    def test_power_lost_at_a_flush_is_lost_before_it_and_only_where_something_is_held(self):
        image, cache = self.drive()
        assert not cache.power_down_at_flush(timeout_s=0)
        cache.flush()
        cache.write(0, NEW)
        with pytest.raises(PowerLost):
            cache.flush()
        assert cache.power_down_at_flush(timeout_s=0)
        assert cache.cut(surviving=0.0, seed=0).held == 1
        assert image.getvalue() == OLD * 64

    def test_a_drive_with_a_capacitor_loses_nothing(self):
        image, cache = self.drive()
        cache.write(0, NEW * 64)
        cache.cut(surviving=1.0, seed=0)
        assert image.getvalue() == NEW * 64

    def test_an_orderly_power_down_keeps_everything(self):
        image, cache = self.drive(honours_flush=False)
        cache.write(0, NEW)
        cache.close()
        assert image.getvalue() == NEW + OLD * 63

    def test_a_failed_flush_makes_nothing_durable(self):
        image, cache = self.drive()
        cache.fail_flushes()
        cache.write(0, NEW)
        with pytest.raises(OSError, match="told to fail"):
            cache.flush()
        cache.cut(surviving=0.0, seed=0)
        assert image.getvalue() == OLD * 64


class TestMachine:
    pytestmark = emulated

    def test_what_was_acknowledged_after_a_sync_outlives_every_power_cut(self, tmp_path, record_property):
        seed = random.randrange(2**32)
        note(f"seed {seed}")
        chance = random.Random(seed)
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        owed = 0  # every number below was acknowledged
        for cut in range(CUTS):
            # In turn the cruellest for a missing sync, and the cruellest for a missing barrier.
            writeback, surviving = ((Writeback.LAZY, 0.0), (Writeback.EAGER, 0.5))[cut % 2]
            started_s = time.monotonic()
            with boot_writer(disk, "synced", tmp_path / f"boot-{cut}", writeback=writeback) as machine:
                kept = kept_by(machine)
                first_words_s = time.monotonic() - started_s
                assert kept >= owed, f"seed {seed}, cut {cut}: {kept} were kept of {owed} acknowledged"
                count = chance.randint(1, 300)
                machine.wait_for_lines(1 + count, timeout_s=LIFE_S)
                time.sleep(chance.uniform(0, 0.01))  # so that the cut falls anywhere in a commit
                power_cut = machine.cut_power(surviving=surviving, seed=seed + cut, at_flush=surviving > 0)
            acknowledged = acknowledged_in(power_cut.lines)
            assert len(acknowledged) >= count
            owed = max(kept, *(number + 1 for number in acknowledged))
            assert acknowledged == list(range(kept, owed))
            figures = (
                f"cut {cut}: boot {machine.boot_s:.1f} s, first words {first_words_s:.1f} s, kept {kept}, "
                f"acknowledged up to {owed}, {power_cut.flushes} flushes, "
                f"{power_cut.sectors_survived} of {power_cut.sectors_held} sectors in the drive's cache survived"
            )
            note(figures)
            record_property(f"cut {cut}", figures)
        with boot_writer(disk, "read", tmp_path / "boot-last") as machine:
            assert kept_by(machine) >= owed
            outcome = machine.wait(timeout_s=LIFE_S)
        assert (outcome.exit_status, outcome.unmounted) == (0, True)
        assert disk.complaints() == ""

    def test_what_was_acknowledged_without_a_sync_is_lost(self, tmp_path):
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        with boot_writer(disk, "unsynced", tmp_path / "first") as machine:
            assert kept_by(machine) == 0
            machine.wait_for_lines(1 + 200, timeout_s=LIFE_S)
            power_cut = machine.cut_power(surviving=1.0)
        with boot_writer(disk, "read", tmp_path / "second") as machine:
            kept = kept_by(machine)
            assert machine.wait(timeout_s=LIFE_S).exit_status == 0
        acknowledged = acknowledged_in(power_cut.lines)
        note(f"{kept} were kept of {len(acknowledged)} acknowledged")
        assert len(acknowledged) >= 200
        assert kept == lmdb_writer.SYNCED_PROLOGUE

    def test_a_drive_that_lies_about_flushes_loses_even_what_was_synced(self, tmp_path):
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        with boot_writer(disk, "synced", tmp_path / "first", honours_flush=False) as machine:
            machine.wait_for_lines(1 + 50, timeout_s=LIFE_S)
            assert machine.cut_power(surviving=0.0).sectors_held > 0
        with boot_writer(disk, "read", tmp_path / "second") as machine:
            assert kept_by(machine) == 0

    def test_a_failing_flush_reaches_the_program_and_takes_nothing_acknowledged(self, tmp_path):
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        with boot_writer(disk, "synced", tmp_path / "first") as machine:
            machine.wait_for_lines(1 + 20, timeout_s=LIFE_S)
            machine.fail_flushes()
            outcome = machine.wait(timeout_s=LIFE_S)
            acknowledged = acknowledged_in(machine.lines())
        assert outcome.exit_status != 0
        assert "Input/output error" in machine.errors()
        with boot_writer(disk, "read", tmp_path / "second") as machine:
            assert kept_by(machine) >= len(acknowledged)

    def test_a_command_has_its_streams_its_status_loopback_and_the_exchange_folder(self, tmp_path):
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        script = (
            "read word; echo said $word; echo problem >&2; echo for the host >/exchange/note; "
            "touch /etc/mine 2>/dev/null || echo root is read-only; "
            f'{sys.executable} -I -c \'import socket; s = socket.create_server(("127.0.0.1", 0)); '
            'socket.create_connection(s.getsockname()); print("connected")\'; exit 7'
        )
        with Emulator.boot(disk, script, timeout_s=LIFE_S, records=tmp_path / "boot") as machine:
            with pytest.raises(EmulatorError, match="in use"):
                Emulator.boot(disk, "true", timeout_s=LIFE_S)
            machine.send("hello")
            outcome = machine.wait(timeout_s=LIFE_S)
        assert (outcome.exit_status, outcome.unmounted) == (7, True)
        assert machine.lines() == ("said hello", "root is read-only", "connected")
        assert (machine.records / "output.log").read_text().splitlines() == list(machine.lines())
        assert machine.errors() == "problem\n"
        assert (machine.exchange / "note").read_text() == "for the host\n"
        assert disk.complaints() == ""
        with pytest.raises(MachineEnded):
            machine.cut_power()

    def test_a_machine_that_outlives_its_time_is_killed(self, tmp_path):
        disk = Disk.create(tmp_path / "disk", DISK_BYTES)
        with Emulator.boot(disk, "sleep 1000", timeout_s=15, records=tmp_path / "boot") as machine:
            with pytest.raises(TimeoutError, match=r"waited 0\.1 s"):
                machine.wait_for_lines(1, timeout_s=0.1)
            with pytest.raises(TimeoutError, match="outlived its 15 s"):
                machine.wait(timeout_s=LIFE_S)
