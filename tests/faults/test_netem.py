"""Links shaped by a kernel for real, in the emulated machine: few machines that run tests have netem."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.topology import Topology, load_topology
from tests.faults.guest_network import LEADER, TOLERANCE
from tests.support.emulator import Disk, Emulator, MachineEnded

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(1_800)]

PROJECT = Path(__file__).parents[2]
DISK_BYTES = 1 << 30
LIFE_S = 1_700.0
EARLY = 0.01
"""What a measured time may lack of what the links take: figures are rounded."""

FAR = str(Path(__file__).with_name("guest_topology.toml"))


@pytest.fixture(autouse=True)
def _emulator() -> None:
    if (reason := Emulator.available()) is not None:
        pytest.skip(f"no emulated machine: {reason}")


def boot(folder: Path, what: str, topology: str) -> list[dict[str, Any]]:
    """What the guest reported, line by line."""
    disk = Disk.create(folder / "disk", DISK_BYTES)
    command = [sys.executable, "-m", "tests.faults.guest_network", what, topology]
    with Emulator.boot(
        disk, command, timeout_s=LIFE_S, records=folder / "boot", working_folder=PROJECT, own_time=True
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


def commit_ms(topology: Topology, region: str, leader: str) -> float:
    """What the network makes a put from ``region`` take: the way to the leader, and the leader's to its nearest peer,
    who makes two of three."""
    nearest_ms = min(topology.round_trip(leader, name) for name in topology.regions.names if name != leader)
    return topology.round_trip(region, leader) + nearest_ms


def assert_close(achieved_ms: float, declared_ms: float, what: object) -> None:
    """No faster than the links, and with no more on top than an emulated processor needs."""
    assert (1 - EARLY) * declared_ms <= achieved_ms <= (1 + TOLERANCE) * declared_ms, what


def test_the_kernel_makes_the_round_trips_that_the_topology_declares(tmp_path: Path) -> None:
    lines = boot(tmp_path, "links", FAR)
    topology = load_topology(FAR)
    assert said(lines, "lost") == [], "links that are as declared stay when they are shaped again"
    pings = said(lines, "pings")
    assert len(pings) == 5, "three between replicas, two from clients"
    for pair, achieved_ms in pings.items():
        declared_ms = topology.round_trip(*pair.split(".")[:2])
        assert_close(achieved_ms, declared_ms, pair)
    assert said(lines, "left") == []


def test_a_cluster_on_links_of_the_kernel_takes_what_its_topology_makes_it_take(tmp_path: Path) -> None:
    lines = boot(tmp_path, "cluster", FAR)
    topology = load_topology(FAR)
    assert said(lines, "shaping") == "netem"
    links = said(lines, "links")
    assert len(links) == 3
    for link in links:
        assert_close(link["achieved_ms"], link["declared_ms"], link)
    puts = [line for line in lines if "region" in line]
    assert {put["region"] for put in puts} == set(topology.regions.names)
    for put in puts:
        assert_close(put["put_ms"], commit_ms(topology, put["region"], put["leader"]), put)
    assert said(lines, "left") == []


def test_a_benchmark_on_links_of_the_kernel_finds_the_latencies_of_its_topology(tmp_path: Path) -> None:
    lines = boot(tmp_path, "benchmark", FAR)
    topology = load_topology(FAR)
    run = said(lines, "run")
    assert run["shaping"] == "netem"
    assert run["leaders"] == [LEADER, LEADER]
    assert len(run["links"]) == 3 + 9, "between replicas, and from the clients of each region to each replica"
    for link in run["links"]:
        if link["declared_ms"]:
            assert_close(link["achieved_ms"], link["declared_ms"], link)
    assert set(run["put_ms"]) == set(topology.regions.names)
    for region, put_ms in run["put_ms"].items():
        assert_close(put_ms, commit_ms(topology, region, LEADER), region)
        assert run["slow_ms"][region] <= (1 + 2 * TOLERANCE) * commit_ms(topology, region, LEADER), region
    assert run["verdict"] == ["ok", "agree"]
    assert said(lines, "left") == []
