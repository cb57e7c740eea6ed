"""Runs inside the emulated machine: a cluster in network namespaces, links shaped by the kernel, and what they achieve.

    python -m tests.faults.guest_network links|cluster|benchmark TOPOLOGY

prints, one JSON object a line:

- with ``links``, ``{"lost": …}``, the packets that were lost while links were shaped again, and ``{"pings": …}``, the
  round trips that the kernel achieves between namespaces, of replicas and of clients;
- with ``cluster``, ``{"shaping": …}`` once it serves, ``{"links": …}`` with the round trips that the replicas measure
  over their streams, and one ``{"region": …}`` for a few puts from each region;
- with ``benchmark``, ``{"run": …}``, what ``synod bench run`` found with clients in all regions;
- with each, ``{"left": …}``, what is left of the network in the end.

The machine's clock goes by what its processor executes, and the host takes several times as long for it: whatever
waits here looks seldom.
"""

from __future__ import annotations

import contextlib
import math
import re
import subprocess
import sys
from pathlib import Path

import msgspec

import deploy.cluster
from deploy import Cluster, netem, shaping
from deploy.drivers.docker import place_address
from deploy.drivers.namespace import NamespaceDriver
from deploy.layout import PlaceLayout
from deploy.topology import load_topology
from tests.faults.guest_cluster import READY_TIMEOUT_S, SLOW_MACHINE, report

FOLDER = Path("/data/cluster")
RESULTS = Path("/data/results")
MODULES = ("veth", "bridge", "sch_htb", "sch_netem", "cls_u32")
PINGS = 5
ROUNDS_MAX = 12
TOLERANCE = 0.05
"""What an emulated processor, and a host that wakes it late, may add: 3 to 7 ms of 500 to 1500 were seen on a host with
up to five times as much to do as it has cores."""


POLL_S = 0.5
PUTS_EACH = 5
LEADER = "virginia"
BENCHMARK = (
    *("--driver", "namespace", "--shaping", "netem", "--leader", LEADER, "--in-flight", "3", "--set", "writes=1"),
    *("--warm-up", "5", "--seconds", "15", "--no-ceilings", "--no-report"),
)  # fmt: skip

PUTS = f"""
import json, statistics, sys, time
from replica.client import connect
with connect(sys.argv[1], timeout_s=240.0, stall_s=60.0) as store:
    store.put("warm", "up")
    taken = []
    for number in range({PUTS_EACH}):
        began = time.monotonic()
        store.put("key-%d" % number, "value")
        taken.append(1000 * (time.monotonic() - began))
print(json.dumps(statistics.median(taken)))
"""


def inside(namespace: str, *command: str) -> str:
    """What a command prints in a replica's network."""
    done = subprocess.run(["ip", "netns", "exec", namespace, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout


def ping(namespace: str, address: str, declared_ms: float) -> float:
    """The shortest round trip in milliseconds: what the link takes, without what an emulated processor adds.

    On a host that is busy with other things nearly all of them are late, so they are repeated until one is not.
    """
    shortest = math.inf
    for _ in range(ROUNDS_MAX):
        said = inside(namespace, "busybox", "ping", "-c", str(PINGS), address)
        shortest = min(shortest, *(float(found) for found in re.findall(r"time=([0-9.]+) ms", said)))
        if shortest <= (1 + TOLERANCE) * declared_ms:
            break
    return shortest


def links(topology: str) -> None:
    """Namespaces and what shapes them, and nobody in them: the kernel's own round trips."""
    cluster = Cluster.create(FOLDER, driver="namespace", topology=topology)
    layout = cluster.layout
    driver, shape = NamespaceDriver(), load_topology(topology)
    for replica in layout.replicas:
        driver.make_network(layout, replica)
    driver.in_network(FOLDER, layout, layout.replicas[0], netem.probe_script())
    layout.shaped_by = "netem"
    shaping.shape(driver, FOLDER, layout, shape, layout.replicas)
    # The longest link always has a packet under way while it is shaped again, and while a client comes to it.
    far, near = layout.replicas[-1], layout.replicas[-2]
    command = ["ip", "netns", "exec", far.unit, "busybox", "ping", "-c", str(2 * PINGS), near.address]
    watched = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watched.stdout is not None
    shown = watched.stdout.readline() + watched.stdout.readline()  # the first has come back
    shaping.shape(driver, FOLDER, layout, shape, layout.replicas)
    unit = f"{layout.replicas[0].unit}-clients"
    place = PlaceLayout(region=shape.region_of(0), address=place_address(layout, 0), unit=unit)
    layout.places = [place]
    assert driver.make_place(layout, place) == ""
    shaping.shape(driver, FOLDER, layout, shape, layout.replicas)
    shaping.shape_places(driver, FOLDER, layout, shape)
    under_way = watched.poll() is None
    shown += watched.communicate(timeout=READY_TIMEOUT_S)[0]
    assert under_way, shown
    back = {int(found) for found in re.findall(r"seq=([0-9]+) ", shown)}
    report({"lost": sorted(set(range(PINGS)) - back)})  # for its last ones the program does not wait long enough
    pings = {}
    for index, one in enumerate(layout.replicas):
        for other in layout.replicas[index + 1 :]:
            declared_ms = shape.round_trip(one.region, other.region)
            pings[f"{one.region}.{other.region}"] = ping(one.unit, other.address, declared_ms)
    for replica in layout.replicas[1:]:
        declared_ms = shape.round_trip(place.region, replica.region)
        pings[f"{place.region}.{replica.region}.client"] = ping(place.unit, replica.address, declared_ms)
    report({"pings": pings})
    driver.release(FOLDER, layout, wipe=True)
    report_left()


def loaded(topology: str) -> None:
    """A cluster, what its replicas measure, and a few puts from each region."""
    cluster = Cluster.create(
        FOLDER, driver="namespace", topology=topology, options=dict(SLOW_MACHINE), shaping="auto",
        node={"sync_mode": "inline"},
    )  # fmt: skip
    for replica in cluster.layout.replicas:  # one after the other: a slow processor would have all of them time out
        cluster.start(replica.replica, wait=False, timeout_s=READY_TIMEOUT_S)
    cluster.up(timeout_s=READY_TIMEOUT_S)
    report({"shaping": cluster.layout.shaped_by, "notes": cluster.notes})
    report({"links": [msgspec.to_builtins(row) for row in cluster.round_trips()]})
    for replica in cluster.layout.replicas:
        leader = cluster.leader()
        said = inside(replica.unit, sys.executable, "-c", PUTS, ",".join(cluster.endpoints))
        report(
            {
                "region": replica.region,
                "put_ms": float(said),
                "leader": leader and cluster.layout.replica(leader).region,
            }
        )
    cluster.down(timeout_s=120.0)
    report_left()


def benchmark(topology: str) -> None:
    """A benchmark of MultiPaxos with clients in the namespaces of all regions."""
    from bench.cli import bench  # here, because the others would wait a minute for what it imports
    from bench.results import merged_latencies, percentile_ms, read_folder

    options = [word for name, value in SLOW_MACHINE.items() for word in ("--option", f"{name}={value}")]
    arguments = ["run", *BENCHMARK, *options, "--topology", topology, "--into", str(RESULTS)]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            bench.main(arguments, prog_name="bench")
        except SystemExit as ended:
            status = ended.code
    (run,) = read_folder(RESULTS).runs
    assert not status, run.failure
    report(
        {
            "run": {
                "shaping": run.network and run.network.shaper,
                "leaders": [run.leader, run.leader_at_end],
                "links": [msgspec.to_builtins(link) for link in run.network.links] if run.network else [],
                "put_ms": {region: percentile_ms(merged_latencies(run, region=region), 50) for region in run.regions},
                "slow_ms": {region: percentile_ms(merged_latencies(run, region=region), 95) for region in run.regions},
                "operations": run.summary.operations,
                "verdict": [run.verdict.answer, run.verdict.digests],
            }
        }
    )
    report_left()


def report_left() -> None:
    """What is left of the network."""
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    devices = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    report({"left": [*left, *(line for line in devices.splitlines() if "synod" in line)]})


if __name__ == "__main__":
    for module in MODULES:
        subprocess.run(["modprobe", module], check=True)
    deploy.cluster.POLL_S = POLL_S
    {"links": links, "cluster": loaded, "benchmark": benchmark}[sys.argv[1]](sys.argv[2])
