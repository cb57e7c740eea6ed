"""The model of this build: batches, disks, and processes that share the cores of one machine.

What the study's model leaves out is what this store lives on. Whatever has accumulated travels as one frame, is one
command, and shares one sync; so an operation costs something by itself (`Costs.per operation`) and a share of what its
batch costs (`per frame`, `per command`). For a batch of b operations, in a closed loop with C operations in flight:

    path(b)   what stands one after the other on the way of the batch: the client, the way to the leader, the leader's
              turn, the slower of its own sync and (way + follower's turn + follower's sync + way back), the state
              machine, the way back, the client again; D the network's share (`placement`)
    work(b)   processor time of all processes for the batch: client, leader, n−1 followers
    W(C)      = max( D + path(b),  C·work(b)/(b·cores) + D )       latency
    X(C)      = C / W(C)                                           throughput (Little's law)

A closed loop gathers: the answers to one batch leave in one frame, so their successors come together again, and b = C
as long as ``batch_max`` and the limit of a run allow. With ``batch_max`` = 1 every operation is a command of its own,
and only frames and syncs are shared. Clients of several regions gather by region, each with its own D.

``company`` says how much more processor time the same work takes when every core is busy, which it is here as soon as
the cores and not the path are the limit: caches and the two threads of a core are shared as well.

An open loop at rate R sees the same path with the batch that its own waiting makes: b is the fixed point of
b = max(1, R·T(b)), T(b) the time that a batch keeps the leader; and waits in an M/D/1 queue of batches (`queueing`).

Assumptions: every process runs one Python thread; all processes of one machine share ``cores``; syncs take no processor
time; the leader's disk is like its followers'. Constants come from `calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from deploy.topology import Topology

from . import placement, queueing
from .errors import ModelError, Saturated, positive

__all__ = [
    "Calibration",
    "Deployment",
    "Predicted",
    "RegionLatency",
    "StepCosts",
    "capacity",
    "closed_loop",
    "open_loop",
]

FORMAT: Final = 1

RUN_OPERATIONS_MAX: Final = 512
"""The operations that a client puts in one run at most."""

WITHOUT_BATCH: Final = frozenset({"epaxos", "abd", "wpaxos"})
"""Protocols to which every operation is a command of its own, whatever travelled together."""


class StepCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Processor µs of a protocol's own steps: a command, and an operation in it. By replica count in `Calibration`."""

    leading_command_us: float
    leading_operation_us: float
    following_command_us: float
    following_operation_us: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts of this build cost on one machine. Times in µs, of one operation, command, frame or byte."""

    format: int = FORMAT
    created: str = ""
    machine: str = ""
    cores: int = 2
    value_bytes: int = 128
    """With which the times by operation were measured."""
    hop_us: float
    """From a message handed over to its receipt by an idle peer on loopback, without shaping."""
    frame_in_us: float
    frame_out_us: float
    """Processor time a frame, t_in and t_out."""
    byte_us: float
    """Processor time a byte that is sent and received, both ends together."""
    client_hop_us: float
    """As ``hop_us``, between client and replica."""
    client_operation_us: float
    client_frame_us: float
    """The client's own processor time: an operation, and a frame there and back."""
    service_operation_us: float
    """At the replica the client is attached to: an operation checked, its result encoded."""
    apply_operation_us: float
    apply_command_us: float
    """The state machine with its share of the state's commits."""
    sync_us: float
    """A commit of one record to the log, synced."""
    unsynced_us: float
    """The same without syncing."""
    log_operation_us: float
    """What each further operation of 128 bytes adds to a commit."""
    company: float = 1.0
    """Processor time on a busy machine over that on an idle one."""
    steps: Mapping[str, StepCosts] = {}
    """By ``protocol/replicas``."""

    def steps_of(self, protocol: str, replicas: int) -> StepCosts:
        """Measured for that many replicas, or for the nearest number. Raises `ModelError`."""
        found = {
            int(name.rpartition("/")[2]): costs
            for name, costs in self.steps.items()
            if name.rpartition("/")[0] == protocol
        }
        if not found:
            known = ", ".join(sorted({name.rpartition("/")[0] for name in self.steps})) or "nothing"
            raise ModelError(f"protocol: {protocol!r} has not been calibrated (calibrated: {known})")
        return found[min(found, key=lambda count: (abs(count - replicas), count))]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be predicted."""

    protocol: str
    replicas: int = 3
    topology: Topology | None = None
    """None: everything on loopback."""
    leader: str | None = None
    """The region of the leader; the first by default."""
    durability: str = "sync"
    batch_max: int = RUN_OPERATIONS_MAX
    q2: int | None = None
    zone_failures: int = 0
    conflict: float = 0.0
    locality: float | None = None
    write_share: float = 1.0
    value_bytes: int = 128


class RegionLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the clients in one region."""

    region: str
    latency_ms: float
    network_ms: float


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """A point of the curve."""

    in_flight: float
    throughput: float
    """Operations a second."""
    latency_ms: float
    """Mean over all operations."""
    regions: tuple[RegionLatency, ...]
    batch: float
    limit: str
    """``path``: waiting for one another; ``cores``: every core is busy."""
    parts_ms: Mapping[str, float]
    """Where the latency goes; adds up to the latency of the first region when the path is the limit."""


class _Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Of one batch, µs."""

    parts: dict[str, float]
    work: float

    @property
    def path(self) -> float:
        return sum(self.parts.values())


def _validate(deployment: Deployment) -> None:
    if deployment.durability not in {"sync", "none"}:
        raise ModelError(f"durability: {deployment.durability!r} is neither 'sync' nor 'none'")
    if deployment.batch_max < 1:
        raise ModelError(f"batch_max: {deployment.batch_max} is not a positive number")
    positive("value_bytes", deployment.value_bytes)


def _costs(constants: Calibration, deployment: Deployment, batch: float) -> _Costs:
    """One batch of ``batch`` operations on an idle machine."""
    protocol, n = deployment.protocol, deployment.replicas
    writes = deployment.write_share
    commands = batch if protocol in WITHOUT_BATCH else max(1.0, batch / deployment.batch_max)
    phases = 2.0 if protocol == "abd" else 1.0 + (deployment.conflict if protocol == "epaxos" else 0.0)
    steps = constants.steps_of(protocol, n)
    extra_bytes = batch * deployment.value_bytes
    peers = n - 1
    # Bytes beyond the smallest frame cost both ends; a frame to n−1 peers is paid n−1 times by the leader's loop.
    to_peer = extra_bytes * constants.byte_us / 2
    client_way = extra_bytes * constants.byte_us / 2
    commit = (constants.sync_us if deployment.durability == "sync" else constants.unsynced_us) * (
        1.0 if writes > 0 else 0.0
    ) + (batch - 1) * constants.log_operation_us * writes
    client = constants.client_frame_us + batch * constants.client_operation_us + client_way
    leading = (
        commands * steps.leading_command_us
        + batch * steps.leading_operation_us
        + phases * peers * (constants.frame_in_us + constants.frame_out_us)
        + peers * to_peer
    )
    service = batch * constants.service_operation_us + constants.frame_in_us + constants.frame_out_us + client_way
    following = (
        commands * steps.following_command_us
        + batch * steps.following_operation_us
        + phases * (constants.frame_in_us + constants.frame_out_us)
        + to_peer
    )
    applying = commands * constants.apply_command_us + batch * constants.apply_operation_us
    vote = commit
    if peers:
        vote = max(commit, 2 * constants.hop_us * phases + following + commit * phases)
    parts = {
        "client": client,
        "way to the leader and back": 2 * constants.client_hop_us,
        "service": service,
        "protocol": leading,
        "sync and quorum": vote,
        "state machine": applying,
    }
    busy_commit = commit - (constants.sync_us if deployment.durability == "sync" and writes else 0.0)
    work = client + service + leading + applying + busy_commit + peers * (following + applying + busy_commit)
    return _Costs(parts=parts, work=work)


def _network(deployment: Deployment) -> list[placement.NetworkTime]:
    if deployment.topology is None:
        return [placement.NetworkTime(region="", to_leader_ms=0.0, quorum_ms=0.0)]
    return placement.network_ms(
        deployment.protocol,
        deployment.topology,
        deployment.replicas,
        leader=deployment.leader,
        q2=deployment.q2,
        zone_failures=deployment.zone_failures,
        conflict=deployment.conflict,
        locality=deployment.locality,
        write_share=deployment.write_share,
    )


def closed_loop(constants: Calibration, deployment: Deployment, in_flight: float) -> Predicted:
    """``in_flight`` operations, spread evenly over the regions, each followed by the next one. Raises `ModelError`."""
    _validate(deployment)
    positive("in_flight", in_flight)
    networks = _network(deployment)
    share = in_flight / len(networks)
    batch = min(share, float(RUN_OPERATIONS_MAX))
    costs = _costs(constants, deployment, max(1.0, batch))
    batches = max(1.0, share / max(1.0, batch))
    latencies = [network.total_ms + costs.path * batches / 1e3 for network in networks]
    rates = [share / latency * 1e3 for latency in latencies]
    limit = "path"
    possible = constants.cores * 1e6 * max(1.0, batch) / (costs.work * constants.company)
    if sum(rates) > possible:
        # The cores are the limit: everybody waits longer by the same time, until they carry no more than they can.
        limit = "cores"
        low, high = 0.0, in_flight / possible * 1e3
        for _ in range(60):
            waiting = (low + high) / 2
            if sum(share / (latency + waiting) * 1e3 for latency in latencies) > possible:
                low = waiting
            else:
                high = waiting
        latencies = [latency + high for latency in latencies]
        rates = [share / latency * 1e3 for latency in latencies]
    total = sum(rates)
    return Predicted(
        in_flight=in_flight,
        throughput=total,
        latency_ms=in_flight / total * 1e3,
        regions=tuple(
            RegionLatency(region=network.region, latency_ms=latency, network_ms=network.total_ms)
            for network, latency in zip(networks, latencies, strict=True)
        ),
        batch=max(1.0, batch),
        limit=limit,
        parts_ms={
            **{name: us / 1e3 for name, us in costs.parts.items()},
            "network": networks[0].total_ms,
        },
    )


def capacity(constants: Calibration, deployment: Deployment) -> float:
    """Operations a second that the machine can carry in the largest batches."""
    _validate(deployment)
    costs = _costs(constants, deployment, float(RUN_OPERATIONS_MAX))
    by_cores = constants.cores * 1e6 * RUN_OPERATIONS_MAX / (costs.work * constants.company)
    by_leader = 1e6 * RUN_OPERATIONS_MAX / _leader_us(costs)
    return min(by_cores, by_leader)


def _leader_us(costs: _Costs) -> float:
    """How long a batch keeps the leader's only thread."""
    return costs.parts["service"] + costs.parts["protocol"] + costs.parts["state machine"]


def open_loop(constants: Calibration, deployment: Deployment, rate: float) -> Predicted:
    """Arrivals at ``rate`` operations a second, whatever happens to those before. Raises `Saturated`, `ModelError`."""
    _validate(deployment)
    positive("rate", rate)
    possible = capacity(constants, deployment)
    if rate >= possible:
        raise Saturated(rate, possible)
    networks = _network(deployment)
    batch = 1.0
    for _ in range(200):
        costs = _costs(constants, deployment, batch)
        held_s = max(_leader_us(costs), costs.work * constants.company / constants.cores) / 1e6
        wanted = min(float(RUN_OPERATIONS_MAX), max(1.0, rate * held_s * 2))
        if abs(wanted - batch) < 1e-6:
            break
        batch = (batch + wanted) / 2
    costs = _costs(constants, deployment, batch)
    held_s = max(_leader_us(costs), costs.work * constants.company / constants.cores) / 1e6
    waited_ms = queueing.md1(min(rate / batch, 0.999 / held_s), held_s) * 1e3
    latencies = [network.total_ms + waited_ms + costs.path / 1e3 for network in networks]
    mean = sum(latencies) / len(latencies)
    return Predicted(
        in_flight=rate * mean / 1e3,
        throughput=rate,
        latency_ms=mean,
        regions=tuple(
            RegionLatency(region=network.region, latency_ms=latency, network_ms=network.total_ms)
            for network, latency in zip(networks, latencies, strict=True)
        ),
        batch=batch,
        limit="path",
        parts_ms={
            "waiting": waited_ms,
            **{name: us / 1e3 for name, us in costs.parts.items()},
            "network": networks[0].total_ms,
        },
    )
