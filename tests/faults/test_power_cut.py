"""A power cut for real: three replicas in an emulated machine whose plug is pulled under load.

``kill -9`` proves nothing about syncing, since the page cache survives it. Here the page cache goes with the machine,
and of what the drive had taken without being asked to flush, each sector survives or not by chance.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.increments import Audit, Outcome
from tests.faults.guest_cluster import IN_FLIGHT
from tests.support.emulator import Disk, Emulator, Machine

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(10_800)]

DISK_BYTES = 4 << 30
FIRST_LINE_TIMEOUT_S = 900.0
LOAD_TIMEOUT_S = 900.0
PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _emulator() -> None:
    if (reason := Emulator.available()) is not None:
        pytest.skip(f"no emulated machine: {reason}")


class Plug:
    """One disk, the boots on it, and what each boot was told."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.folder = folder
        self.durability = durability
        self.disk = Disk.create(folder / "disk", DISK_BYTES)
        self.outcomes: list[Outcome] = []
        self.boots = 0

    def boot(self) -> tuple[Machine, dict[str, Any]]:
        """Start the machine; returns it with its first line."""
        self.boots += 1
        expectations = self.folder / f"expectations-{self.boots}.json"
        expectations.write_bytes(msgspec.json.encode(self.outcomes))
        machine = Emulator.boot(
            self.disk,
            [sys.executable, "-m", "tests.faults.guest_cluster", str(self.boots), self.durability, str(expectations)],
            timeout_s=FIRST_LINE_TIMEOUT_S + LOAD_TIMEOUT_S,
            records=self.folder / f"boot-{self.boots}",
            working_folder=PROJECT,
        )
        machine.wait_for_lines(1, timeout_s=FIRST_LINE_TIMEOUT_S)
        first: dict[str, Any] = msgspec.json.decode(machine.lines()[0])
        return machine, first

    def load_and_cut(self, machine: Machine, randomness: random.Random, acknowledgements: int) -> Outcome:
        """Wait for that many acknowledgements, cut the power, and note what was acknowledged."""
        machine.wait_for_lines(1 + acknowledgements, timeout_s=LOAD_TIMEOUT_S)
        cut = machine.cut_power(
            surviving=randomness.random(), seed=randomness.randrange(1 << 30), at_flush=randomness.random() < 0.7
        )
        acknowledged = [msgspec.json.decode(line)["acknowledged"] for line in cut.lines[1:]]
        # One operation a worker was outstanding; numbers are given in order.
        unknown: list[int] = []
        number, known = 0, set(acknowledged)
        while len(unknown) < IN_FLIGHT:
            number += 1
            if number not in known:
                unknown.append(number)
        outcome = Outcome(client=f"boot-{self.boots}", acknowledged=acknowledged, unknown=unknown)
        self.outcomes.append(outcome)
        return outcome


def note(text: str) -> None:
    """Shown by pytest beside a failure, and with -s."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


def audit_of(first: dict[str, Any]) -> Audit:
    assert "audit" in first, first
    return msgspec.convert(first["audit"], Audit)


def test_nothing_acknowledged_is_lost_when_the_power_is_cut_again_and_again(tmp_path: Path) -> None:
    cuts = 10
    randomness = random.Random(2)
    plug = Plug(tmp_path, "sync")
    for _ in range(cuts):
        machine, first = plug.boot()
        with machine:
            assert audit_of(first).clean, first
            outcome = plug.load_and_cut(machine, randomness, randomness.randrange(100, 600))
        note(f"cut {plug.boots}: {len(outcome.acknowledged)} acknowledged, nothing of what was before it was lost")
    machine, first = plug.boot()
    with machine:
        found = audit_of(first)
    note(f"{cuts} power cuts: {found.acknowledged} acknowledged, total {found.total}, {len(found.lost)} lost")
    assert found.clean, found
    assert found.acknowledged == sum(len(outcome.acknowledged) for outcome in plug.outcomes)


def test_without_syncing_a_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "none")
    machine, _ = plug.boot()
    with machine:
        outcome = plug.load_and_cut(machine, random.Random(1), 200)
    assert outcome.acknowledged
    machine, first = plug.boot()
    with machine:
        # The replicas refuse what they can't trust, rather than serve a state with holes; the holes must be there.
        lost = first["missing"] if "failed" in first else audit_of(first).lost
    note(f"without syncing: {len(lost)} of {len(outcome.acknowledged)} acknowledged lost; {first}"[:300])
    assert lost
