"""Synod's own clusters, started through `deploy`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from bench.results import Deployment
from bench.suite import ClusterShape, TargetEntry
from bench.targets.base import Digests, Target, TargetError, TargetUnavailable
from bench.workload import TRANSACTIONAL, Workload
from deploy import Cluster, ClusterError, ClusterLayout, admin
from deploy.drivers import DriverError, docker, find_driver
from deploy.topology import TopologyError, load_topology
from replica import __version__
from replica.consensus.interface import ConfigurationError, ProtocolSpec
from replica.consensus.registry import find_protocol

SETTLE_TIMEOUT_S: Final = 20.0
"""For replicas that lag behind, before digests are compared."""

POLL_S: Final = 0.1

PLACE_TIMEOUT_S: Final = 30.0
"""For leadership to be handed over to the region where it is wanted."""

_WAYS: Final = frozenset({"read-index", "log", "lease", "quorum"})


@lru_cache(maxsize=64)
def _find(name: str) -> ProtocolSpec:
    """As `find_protocol`, which looks through all installed packages, and a plan asks for hundreds of runs."""
    return find_protocol(name)


class SynodTarget(Target):
    """A cluster of replicas in processes of this machine, in containers or in network namespaces."""

    rpc = "session"

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        super().__init__(entry, shape)
        self.protocol = entry.protocol or "multipaxos"
        try:
            self.spec: ProtocolSpec = _find(self.protocol)
        except ConfigurationError as error:
            raise TargetError(str(error)) from None
        self.ordered = self.spec.capabilities.total_order
        self.led = self.spec.capabilities.routing == "leader"
        self.replicas = 1 if self.spec.name == "null" else shape.replicas
        self._sync_mode: str = shape.sync_mode

    def describe(self) -> Deployment:
        shape = self.shape
        return Deployment(
            target="synod",
            label=self.entry.label or self._label(),
            protocol=self.protocol,
            options=shape.options,
            replicas=self.replicas,
            durability=shape.durability,
            sync_mode=self._sync_mode,
            batch_max=shape.batch_max,
            consistency=shape.consistency,
            topology=shape.topology,
            leader=shape.leader if self.led else "",
            driver=shape.driver,
            placed=self.cluster is not None and bool(self.cluster.layout.places),
            version=__version__,
            node=shape.node,
        )

    def _label(self) -> str:
        name = _short_name(self.protocol)
        changed = [f"{field} {value}" for field, value in sorted(self.entry.cluster.items()) if field != "options"]
        changed += [f"{name} {value}" for name, value in sorted(self.entry.cluster.get("options", {}).items())]
        return ", ".join([name, *changed])

    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        self._check_driver()
        able = self.spec.capabilities
        name = self.spec.name
        transactional = sorted(TRANSACTIONAL & workload.shares.keys())
        if transactional and not able.transactions:
            return f"{name} has no transactions over several keys, which mix.{transactional[0]} needs"
        if ("scan" in workload.shares or "list-runs" in workload.shares) and not able.total_order:
            return f"{name} orders each key by itself, and a scan needs one order over all keys"
        if "add" in workload.shares and not able.compare_and_set:
            return f"{name} cannot make a command depend on what it reads, which mix.add needs"
        if self.shape.consistency in _WAYS and self.shape.consistency not in able.reads:
            ways = ", ".join(sorted(able.reads)) or "none"
            return f"{name} has no reads by {self.shape.consistency} (it has: {ways})"
        if name == "null" and self.shape.topology:
            return "null has one replica and no network between replicas"
        if faults and name == "null":
            return "null has one replica, and nothing that survives its loss"
        if not able.crash_recovery and any(fault.get("kind") in {"crash", "kill"} for fault in faults):
            return f"{name} does not recover from a crash"
        return ""

    def _check_driver(self) -> None:
        """Raises `TargetUnavailable` where replicas cannot run in the way that is wanted."""
        image = self.shape.image or docker.DEFAULT_IMAGE
        wanted = ClusterLayout(cluster="", driver=self.shape.driver, protocol=self.protocol, image=image)
        try:
            find_driver(wanted.driver).check(wanted)
        except DriverError as error:
            raise TargetUnavailable(str(error)) from None

    def start(self, folder: Path) -> None:
        shape = self.shape
        node = dict(shape.node)
        node |= {"durability": shape.durability, "sync_mode": shape.sync_mode, "batch_max": shape.batch_max}
        node.setdefault("enable_fault_injection", True)
        try:
            self.cluster = Cluster.create(
                folder / "cluster",
                replicas=self.replicas,
                protocol=self.protocol,
                options=dict(shape.options),
                topology=shape.topology if self.replicas > 1 else "",
                base_port=0,
                node=node,
                driver=shape.driver,
                shaping=shape.shaping,
                image=shape.image,
            )
            self.cluster.up()
            self._sync_mode = next((s.sync_mode for s in self.cluster.status() if s.sync_mode), shape.sync_mode)
        except ClusterError as error:
            raise TargetError(str(error)) from None

    def place_leader(self) -> None:
        wanted = self.shape.leader
        if not wanted or not self.led or self.cluster is None:
            return
        deadline = time.monotonic() + PLACE_TIMEOUT_S
        places = {each.replica: each for each in self.cluster.layout.replicas}
        said = "nobody leads"
        while True:
            leader = self.cluster.leader()
            if leader is not None and places[leader].region == wanted:
                return
            if time.monotonic() > deadline:
                raise TargetError(f"the leader could not be placed in {wanted} within {PLACE_TIMEOUT_S:g} s: {said}")
            if leader is not None:
                said = f"replica {leader} in {places[leader].region} leads"
                successor = next(each.replica for each in places.values() if each.region == wanted)
                try:
                    admin.hand_over(places[leader].client, successor)
                except admin.AdminError as error:
                    said = f"{said}; {error}"
            time.sleep(POLL_S)

    def url(self, region: str) -> str:
        assert self.cluster is not None
        replicas = sorted(self.cluster.layout.replicas, key=lambda each: each.region != region)
        return ",".join(each.client for each in replicas)

    def stop(self) -> None:
        if self.cluster is not None:
            cluster, self.cluster = self.cluster, None
            cluster.down()
            cluster.discard_volumes()

    def dead(self) -> list[str]:
        if self.cluster is None:
            return []
        return [f"replica {each.replica}" for each in self.cluster.status() if not each.running]

    def logs(self, lines: int) -> dict[str, list[str]]:
        if self.cluster is None:
            return {}
        return {
            f"replica {each.replica}": self.cluster.log_tail(each.replica, lines)
            for each in self.cluster.layout.replicas
        }

    def digests(self) -> Digests:
        assert self.cluster is not None
        statuses = [each for each in self.cluster.status() if each.running]
        if len(statuses) < 2:
            return "not compared", "fewer than two replicas run"
        if not self.spec.capabilities.total_order:
            return "not compared", "replicas of this protocol share no frontier"
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while True:
            frontier = max(each.applied for each in statuses)
            try:
                found = {each.replica: admin.digest(each.client, frontier) for each in statuses}
            except admin.AdminError as error:
                if time.monotonic() > deadline:
                    return "not compared", str(error)
                time.sleep(POLL_S)
                continue
            # A session that ends is a command as well: compare what was taken at one frontier.
            if len({reply.applied for reply in found.values()}) == 1 or time.monotonic() > deadline:
                break
            statuses = [each for each in self.cluster.status() if each.running]
        detail = ", ".join(f"{replica}: {reply.digest[:16]} at {reply.applied}" for replica, reply in found.items())
        if len({reply.applied for reply in found.values()}) > 1:
            return "not compared", f"the replicas are not at one frontier: {detail}"
        agree = len({reply.digest for reply in found.values()}) == 1
        return ("agree" if agree else "differ"), detail

    def processes(self) -> dict[str, int]:
        if self.cluster is None:
            return {}
        return {f"replica {each.replica}": each.process for each in self.cluster.layout.replicas if each.process}


def _short_name(protocol: str) -> str:
    """Of a protocol from a file the name of that or of its package, with its own in there unless that is PROTOCOL."""
    where, colon, attribute = protocol.rpartition(":")
    if not colon or not where.endswith(".py"):
        return protocol
    path = Path(where)
    name = path.resolve().parent.name if path.stem == "__init__" else path.stem
    return name if attribute == "PROTOCOL" else f"{name}:{attribute}"


def check_topology(shape: ClusterShape) -> None:
    """Raises `TargetUnavailable` for a topology that there is not, or that has more regions than replicas."""
    if not shape.topology:
        return
    try:
        topology = load_topology(shape.topology)
    except TopologyError as error:
        raise TargetUnavailable(str(error)) from None
    regions = topology.regions.names
    if len(regions) > shape.replicas:
        raise TargetUnavailable(
            f"cluster.replicas: {shape.replicas} replicas cannot stand in the {len(regions)} regions of "
            f"{shape.topology} ({', '.join(regions)})"
        )
