"""Runs inside the emulated machine: a cluster in network namespaces, links shaped by the kernel, and what they achieve.

    python -m tests.faults.guest_network links|cluster TOPOLOGY

prints, one JSON object a line: with ``links``, ``{"pings": …}``, the round trips that the kernel achieves between
namespaces, of replicas and of clients; with ``cluster``, ``{"shaping": …}`` once it serves, ``{"links": …}`` with the
round trips that the replicas measure over their streams, and one ``{"region": …}`` for a short benchmark from each
region; with both, ``{"left": …}``, what is left of the network in the end.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from deploy import Cluster, netem, shaping
from deploy.drivers.docker import place_address
from deploy.drivers.namespace import NamespaceDriver
from deploy.layout import PlaceLayout
from deploy.topology import load_topology
from tests.faults.guest_cluster import READY_TIMEOUT_S, SLOW_MACHINE, report

FOLDER = Path("/data/cluster")
MODULES = ("veth", "bridge", "sch_htb", "sch_netem", "cls_u32")
PINGS = 5
ROUNDS_MAX = 12
TOLERANCE = 0.10

PUTS = """
import json, statistics, sys, time
from replica.client import connect
with connect(sys.argv[1], timeout_s=240.0, stall_s=60.0) as store:
    store.put("warm", "up")
    taken = []
    for number in range(5):
        began = time.monotonic()
        store.put(f"key-{number}", "value")
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
    unit = f"{layout.replicas[0].unit}-clients"
    place = PlaceLayout(region=shape.region_of(0), address=place_address(layout, 0), unit=unit)
    layout.places = [place]
    assert driver.make_place(layout, place) == ""
    shaping.shape(driver, FOLDER, layout, shape, layout.replicas)
    shaping.shape_places(driver, FOLDER, layout, shape)
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
    """A cluster, what its replicas measure, and a short benchmark from each region."""
    cluster = Cluster.create(
        FOLDER, driver="namespace", topology=topology, options=dict(SLOW_MACHINE), shaping="auto",
        node={"sync_mode": "inline"},
    )  # fmt: skip
    for replica in cluster.layout.replicas:  # one after the other: a slow processor would have all of them time out
        cluster.start(replica.replica, wait=False, timeout_s=READY_TIMEOUT_S)
    cluster.up(timeout_s=READY_TIMEOUT_S)
    report({"shaping": cluster.layout.shaped_by, "notes": cluster.notes})
    replicas = cluster.layout.replicas
    report({"links": [msgspec.to_builtins(row) for row in cluster.round_trips()]})
    leader = cluster.leader()
    for replica in replicas:
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


def report_left() -> None:
    """What is left of the network."""
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    devices = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    report({"left": [*left, *(line for line in devices.splitlines() if "synod" in line)]})


if __name__ == "__main__":
    for module in MODULES:
        subprocess.run(["modprobe", module], check=True)
    {"links": links, "cluster": loaded}[sys.argv[1]](sys.argv[2])
