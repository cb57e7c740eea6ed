"""Where time and resources went: what a report needs to say why.

Two sources, both read before and after the measured part, so that a run pays for nothing in between:

- the replicas' own metrics (`Admin.Metrics`): the stages of the commands that were followed, bytes to and from peers;
- the operating system, for replicas that are processes here: processor, memory, disk. For others the replica's own
  account of its processor and memory stands in.

The stages that a replica measures are taken apart further here. From the step of the protocol to the delivery of a
command (*decide*) several things happen beside each other: the own sync, and for each of the others the way there, its
sync, its turn and the way back. The command waits for the one that completes the quorum. So of *decide*

- *network* is the round trip to that one, as the links' probes have it (the fastest others that make up the quorum);
- *sync* is a sync, which leader and followers do at the same time: the own one, as far as it fits beside the network;
- *quorum* is the rest: waiting for the others' turns and queues, or for disks slower than the own.

These three add up to *decide*, and with *queue*, *batch* and *apply* to *total*. Means are split; percentiles are given
for what was measured itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from bench.results import Resources, Stage
from deploy import Cluster, admin
from deploy.layout import ReplicaLayout
from replica.node.stages import STAGES

__all__ = ["Observer", "Reading", "make_observer", "split_stages", "stages_between"]

STACK: Final = ("queue", "batch", "sync", "network", "quorum", "apply")
"""The stages that add up to a replica's share of a latency, in the order in which they are drawn."""

COUNTED: Final = "synod_protocol_"
"""Of a protocol's own counters among the metrics."""

GAUGES: Final = ("queued", "in_flight")
"""What begins alike and is no counter."""

Buckets = dict[float, float]
"""Cumulative counts by upper bound in seconds."""


class Reading(msgspec.Struct, kw_only=True):
    """One replica at one moment. Counters since it started."""

    replica: int
    process: int = 0
    region: str = ""
    role: str = ""
    leads: bool = False
    round_trips_ms: list[float] = []
    """To each peer."""
    values: dict[str, float] = {}
    buckets: dict[str, Buckets] = {}
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_bytes: int = 0
    disk_written_bytes: int = 0
    disk_read_bytes: int = 0


def make_observer(cluster: Cluster) -> Observer:
    """The observer of a cluster's replicas."""
    return Observer(cluster)


class Observer:
    """Reads counters when the measured part begins and ends. A replica that cannot be asked is left out.

    ``leader`` is who led at the latest reading, ``counters`` what the protocol counted in between.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._before: dict[int, Reading] = {}
        self.leader = ""
        self.counters: dict[str, int] = {}
        self._machine_before = (0.0, 0.0)

    async def begin(self) -> None:
        """Remember the counters."""
        self._before = await self._read()
        self.leader = leader_of(self._before.values())
        self._machine_before = _machine()

    async def end(self) -> tuple[list[Stage], list[Resources]]:
        """What was spent since `begin`."""
        after = await self._read()
        self.leader = leader_of(after.values())
        user_s, system_s = _machine()
        stages: list[Stage] = []
        resources: list[Resources] = []
        quorum = quorum_of(self._cluster.layout.options, len(self._cluster.layout.replicas))
        for replica, now in sorted(after.items()):
            before = self._before.get(replica)
            if before is None or before.process != now.process:
                before = Reading(replica=replica)  # it has started since: all of its counters are of this run
            for name, count in counters_between(before, now).items():
                self.counters[name] = self.counters.get(name, 0) + count
            stages.extend(stages_between(before, now, quorum=quorum))
            resources.append(resources_between(before, now))
        resources.append(
            Resources(
                name="machine",
                cpu_user_s=user_s - self._machine_before[0],
                cpu_system_s=system_s - self._machine_before[1],
                memory_bytes=psutil.virtual_memory().used,
            )
        )
        return stages, resources

    async def _read(self) -> dict[int, Reading]:
        entries = list(self._cluster.layout.replicas)
        readings = await asyncio.gather(*(asyncio.to_thread(read, entry) for entry in entries))
        return {reading.replica: reading for reading in readings if reading is not None}


def read(entry: ReplicaLayout) -> Reading | None:
    """The counters of one replica now; None when it cannot be asked."""
    try:
        status = admin.status(entry.client)
        text = admin.metrics(entry.client)
    except admin.AdminError:
        return None
    reading = Reading(replica=entry.replica, process=entry.process, region=entry.region, role=status.role)
    reading.leads = status.leader == entry.replica
    reading.round_trips_ms = sorted(member.round_trip_ms for member in status.members if member.round_trip_ms > 0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                name = sample.name.removesuffix("_bucket")
                reading.buckets.setdefault(name, {})[float(sample.labels["le"])] = sample.value
            elif not sample.labels:
                reading.values[sample.name] = sample.value
    reading.cpu_user_s = reading.values.get("synod_cpu_seconds", 0.0)
    reading.memory_bytes = int(reading.values.get("synod_resident_bytes", 0))
    reading.disk_written_bytes = int(reading.values.get("synod_log_bytes_written", 0))
    if entry.process:
        _ask_system(entry.process, reading)
    return reading


def _ask_system(process: int, reading: Reading) -> None:
    try:
        found = psutil.Process(process)
        times = found.cpu_times()
        reading.cpu_user_s, reading.cpu_system_s = times.user, times.system
        reading.memory_bytes = found.memory_info().rss
        counters = found.io_counters()
        reading.disk_written_bytes, reading.disk_read_bytes = counters.write_bytes, counters.read_bytes
    except (psutil.Error, AttributeError):
        return  # gone, somebody else's, or a system that does not count: the replica's own account stands


def leader_of(readings: Iterable[Reading]) -> str:
    """Who leads, by region, or by replica where there are no regions; empty when nobody or several say so. Pure."""
    leading = [each for each in readings if each.leads]
    if len(leading) != 1:
        return ""
    return leading[0].region or f"replica {leading[0].replica}"


def counters_between(before: Reading, now: Reading) -> dict[str, int]:
    """What the protocol of one replica counted between two readings, by its own names. Pure."""
    found = {}
    for name, value in now.values.items():
        if name.startswith(COUNTED):
            found[name.removeprefix(COUNTED)] = int(value - before.values.get(name, 0.0))
    for gauge in GAUGES:
        found.pop(gauge, None)
    return found


def _machine() -> tuple[float, float]:
    """What the whole machine has spent in programs and in the system.

    What runs with a lowered priority is counted apart by systems that know of it; it is work in programs all the same.
    """
    times = psutil.cpu_times()
    return times.user + getattr(times, "nice", 0.0), times.system


def resources_between(before: Reading, now: Reading) -> Resources:
    """What a replica used between two readings. Pure."""

    def grown(name: str) -> int:
        return int(now.values.get(name, 0.0) - before.values.get(name, 0.0))

    return Resources(
        name=f"replica {now.replica}",
        replica=now.replica,
        role=now.role,
        cpu_user_s=now.cpu_user_s - before.cpu_user_s,
        cpu_system_s=now.cpu_system_s - before.cpu_system_s,
        memory_bytes=now.memory_bytes,
        disk_written_bytes=now.disk_written_bytes - before.disk_written_bytes,
        disk_read_bytes=now.disk_read_bytes - before.disk_read_bytes,
        network_sent_bytes=grown("synod_peer_bytes_sent"),
        network_received_bytes=grown("synod_peer_bytes_received"),
    )


def quorum_of(options: Mapping[str, object], replicas: int) -> int:
    """How many replicas must hold a command: what the protocol was told (``q2``), or a majority."""
    told = options.get("q2")
    return told if isinstance(told, int) and told > 0 else replicas // 2 + 1


def stages_between(before: Reading, now: Reading, *, quorum: int) -> list[Stage]:
    """The stages of what a replica served between two readings; none if it served nothing. Pure."""
    measured: dict[str, Stage] = {}
    for name in STAGES:
        family = f"synod_stage_{name}_seconds"
        buckets = {
            bound: count - before.buckets.get(family, {}).get(bound, 0.0)
            for bound, count in now.buckets.get(family, {}).items()
        }
        total = now.values.get(f"{family}_sum", 0.0) - before.values.get(f"{family}_sum", 0.0)
        count = int(max(buckets.values(), default=0.0))
        if count:
            measured[name] = Stage(
                name=name,
                replica=now.replica,
                count=count,
                mean_ms=1000 * total / count,
                p50_ms=1000 * quantile(buckets, 0.5),
                p99_ms=1000 * quantile(buckets, 0.99),
            )
    if "decide" not in measured:
        return []
    return split_stages(measured, round_trips_ms=now.round_trips_ms, quorum=quorum)


def split_stages(measured: Mapping[str, Stage], *, round_trips_ms: Sequence[float], quorum: int) -> list[Stage]:
    """*decide* taken apart into *network*, *sync* and *quorum*; the other stages as they were measured. Pure."""
    decide = measured["decide"]
    others = sorted(round_trips_ms)
    reached = min(quorum - 1, len(others))
    network_ms = min(others[reached - 1] if reached else 0.0, decide.mean_ms)
    own = measured.get("sync")
    sync_ms = min(own.mean_ms if own is not None else 0.0, decide.mean_ms - network_ms)

    def part(name: str, mean_ms: float) -> Stage:
        return Stage(name=name, replica=decide.replica, count=decide.count, mean_ms=mean_ms)

    parts = {
        **{name: stage for name, stage in measured.items() if name not in {"sync", "decide"}},
        "network": part("network", network_ms),
        "quorum": part("quorum", decide.mean_ms - network_ms - sync_ms),
        "sync": part("sync", sync_ms),
    }
    if own is not None:
        parts["sync"].p50_ms, parts["sync"].p99_ms = own.p50_ms, own.p99_ms
    order = [*STACK, "total"]
    return [parts[name] for name in order if name in parts]


def quantile(buckets: Buckets, share: float) -> float:
    """A quantile from cumulative counts, interpolated within its bucket. Pure."""
    wanted = share * max(buckets.values(), default=0.0)
    below_bound, below_count = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= wanted:
            if bound == float("inf") or count == below_count:
                return below_bound
            return below_bound + (bound - below_bound) * (wanted - below_count) / (count - below_count)
        below_bound, below_count = bound, count
    return below_bound
