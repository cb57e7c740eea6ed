"""Links shaped by a kernel for real, in the emulated machine: few machines that run tests have netem."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.topology import load_topology
from tests.faults.guest_network import TOLERANCE
from tests.support.emulator import Disk, Emulator, MachineEnded

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(1_800)]

PROJECT = Path(__file__).parents[2]
DISK_BYTES = 1 << 30
LIFE_S = 1_700.0
TOPOLOGY = "wan3"
FAR = str(Path(__file__).with_name("guest_topology.toml"))


@pytest.fixture(autouse=True)
def _emulator() -> None:
    if (reason := Emulator.available()) is not None:
        pytest.skip(f"no emulated machine: {reason}")


def boot(folder: Path, what: str, topology: str, *, own_time: bool) -> list[dict[str, Any]]:
    """What the guest reported, line by line."""
    disk = Disk.create(folder / "disk", DISK_BYTES)
    command = [sys.executable, "-m", "tests.faults.guest_network", what, topology]
    with Emulator.boot(
        disk, command, timeout_s=LIFE_S, records=folder / "boot", working_folder=PROJECT, own_time=own_time
    ) as machine:
        try:
            outcome = machine.wait(timeout_s=LIFE_S)
        except MachineEnded as ended:
            pytest.fail(str(ended))
        lines: list[dict[str, Any]] = [msgspec.json.decode(line) for line in machine.lines()]
        assert outcome.exit_status == 0, machine.errors()
    sys.stdout.write("\n" + "\n".join(map(str, lines)) + "\n")
    return lines


def said(lines: list[dict[str, Any]], field: str) -> Any:
    return next(line[field] for line in lines if field in line)


def test_the_kernel_makes_the_round_trips_that_the_topology_declares(tmp_path: Path) -> None:
    lines = boot(tmp_path, "links", FAR, own_time=True)
    topology = load_topology(FAR)
    pings = said(lines, "pings")
    assert len(pings) == 5, "three between replicas, two from clients"
    for pair, achieved_ms in pings.items():
        declared_ms = topology.round_trip(*pair.split(".")[:2])
        assert abs(achieved_ms - declared_ms) <= TOLERANCE * declared_ms, pair
    assert said(lines, "left") == []


def test_a_cluster_on_links_of_the_kernel_takes_what_its_topology_makes_it_take(tmp_path: Path) -> None:
    lines = boot(tmp_path, "cluster", TOPOLOGY, own_time=False)
    topology = load_topology(TOPOLOGY)
    assert said(lines, "shaping") == "netem"
    # The replicas see the links, and the time that an emulated processor takes on top.
    for link in said(lines, "links"):
        assert link["achieved_ms"] is not None
        assert link["achieved_ms"] >= (1 - TOLERANCE) * link["declared_ms"]
    # A put costs the way to the leader and the leader's way to the nearest majority, and no less from anywhere.
    puts = [line for line in lines if "region" in line]
    assert len(puts) == 3
    for put in puts:
        names = topology.regions.names
        leader = put["leader"]
        majority_ms = min(topology.round_trip(leader, name) for name in names if name != leader)
        floor_ms = topology.round_trip(put["region"], leader) * (put["region"] != leader) + majority_ms
        assert put["put_ms"] >= (1 - TOLERANCE) * floor_ms, put
    assert said(lines, "left") == []
