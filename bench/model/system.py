"""The model of this build: batches, disks, and processes that share the cores of one machine.

What the study's model leaves out is what this store lives on. Whatever has accumulated travels as one frame, is
proposed in one turn, and shares one sync; so an operation costs something by itself (``per operation``) and a share of
what its batch costs (``per frame``, ``per command``). For a batch of b operations of a client:

    served(b)  the client, one replica that decides alone and syncs, and the ways between: everything but replication
    round(b)   a frame to each of the others, syncs of all logs side by side, answers until a quorum has it, between
               transports and logs alone, less the sync that is in served(b) already; all processes on the cores and
               the disk of the machine, and asleep while they wait
    crowd(b)   when the leader applies and answers, the others apply the batch before: n processes on the same cores
    path(b)    = served + round + the leader's and a follower's steps + crowd
    work(b)    processor time of all processes for the batch

    W(C)       = max( D + path(b),  C·work(b)/(b·cores) + D )       latency; D the network's share (`placement`)
    X(C)       = C / W(C)                                           throughput (Little's law)

A closed loop gathers: the answers to one batch leave in one frame, so their successors come together again, and b = C
as long as the limit of a run allows. With ``batch_max`` = 1 every operation is a command of its own, and only frames,
turns and syncs are shared. Clients of several regions gather by region, each with its own D.

Where reads and writes are mixed, each kind has its own frames (`replica.client.gathering`): those who were answered by
a frame of one kind and go on with the other wait for half of its cycle in the mean, unless the way is long. A read is a
round without syncs; it waits for the commit that keeps the leader's thread when it arrives.

An open loop at rate R is a bulk service: what arrives while a frame is unanswered leaves with the next, so b is the
fixed point of b = max(1, R·path(b)), and whoever meets an unanswered frame (the share p = RTe^{RT}/(1 + RTe^{RT}) of
Poisson arrivals, T = path(b)) waits for half of T in the mean.

A replica's loop around its turns (``loop``: events gathered, effects carried out) is paid by each replica of a cluster:
once by a follower on a write's way and once more by the leader for the votes, and by both again for what follows.

``company`` says how much more processor time the same work takes where there are more processes than cores: whoever is
woken finds the caches full of what another did meanwhile, and the two threads of a core share it. Rounds were measured
in company; all else is multiplied by it.

Assumptions: every process runs one Python thread; all processes of one machine share ``cores`` and one disk, in several
regions as well. Constants come from `calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from deploy.topology import Topology
from replica.client.gathering import FRAME_SPACING_S

from . import placement
from .errors import ModelError, Saturated, positive
from .rounds import round_of

__all__ = [
    "Calibration",
    "Deployment",
    "Predicted",
    "RegionLatency",
    "RoundCosts",
    "StepCosts",
    "capacity",
    "closed_loop",
    "open_loop",
]

FORMAT: Final = 3

RUN_OPERATIONS_MAX: Final = 512
"""The operations that a client puts in one run at most."""

TURNS: Final = 2
"""Of a replica's loop in a round: what a frame brings and what is durable then."""

ROUNDS_MAX: Final = 200
"""After so many a fixed point is as near as it will come."""

WITHOUT_BATCH: Final = frozenset({"epaxos", "abd", "wpaxos"})
"""Protocols to which every operation is a command of its own, whatever travelled together."""


class StepCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Processor µs of a protocol's own steps: a turn with one operation, and each further command and operation."""

    leading_turn_us: float
    leading_command_us: float
    leading_operation_us: float
    following_turn_us: float
    following_command_us: float
    following_operation_us: float

    def leading_us(self, commands: float, operations: float) -> float:
        """Of a turn that proposes so many, at the replica that leads."""
        return (
            self.leading_turn_us
            + (commands - 1) * self.leading_command_us
            + (operations - 1) * self.leading_operation_us
        )

    def following_us(self, commands: float, operations: float) -> float:
        """The same at one that follows."""
        return (
            self.following_turn_us
            + (commands - 1) * self.following_command_us
            + (operations - 1) * self.following_operation_us
        )


class RoundCosts(msgspec.Struct, frozen=True, kw_only=True):
    """A frame to each of the others and their answers, between transports alone. Times in µs."""

    answered_us: tuple[float, ...]
    """When the first has answered, the second, ...; of synced rounds: and the own log is synced."""
    operation_us: float = 0.0
    """What each further operation of 128 bytes adds."""
    leading_us: float
    following_us: float
    """Processor time at the replica that asks, and at each that answers."""
    leading_operation_us: float = 0.0
    following_operation_us: float = 0.0
    """What each further operation of 128 bytes adds to it."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What the parts of this build cost on one machine. Times in µs, of one operation, command, frame or byte."""

    format: int = FORMAT
    created: str = ""
    machine: str = ""
    cores: int = 2
    passes: int = 1
    """Each constant is the median of so many."""
    spread: Mapping[str, float] = {}
    """Of constants by name: the largest pass less the smallest, over the median."""
    others_cores: float = 0.0
    """What other programs kept busy meanwhile."""
    value_bytes: int = 128
    """With which the times by operation were measured."""
    hop_us: float
    """From a message handed over to its receipt by an idle peer on loopback, without shaping."""
    frame_in_us: float
    frame_out_us: float
    """Processor time a frame, t_in and t_out, where frames follow one another."""
    byte_us: float
    """Processor time a byte that is sent and received, both ends together."""
    rounds: Mapping[str, RoundCosts] = {}
    synced_rounds: Mapping[str, RoundCosts] = {}
    """By the number of replicas; synced, of one replica as well: the commit of one log."""
    served_frame_us: float
    served_operation_us: float
    served_command_us: float
    """Latency with one replica that decides alone and syncs nothing: a batch, an operation in it, and what it is more
    where an operation is a command of its own."""
    synced_frame_us: float
    synced_operation_us: float
    """The same where it syncs."""
    client_frame_us: float
    client_operation_us: float
    """The client's own processor time of it."""
    node_frame_us: float
    node_operation_us: float
    node_command_us: float
    """The replica's."""
    apply_operation_us: float
    apply_command_us: float
    """The state machine with its share of the state's commits."""
    sync_us: float
    """A commit of one record to the log, synced, by itself: the mean."""
    unsynced_us: float
    log_operation_us: float
    """A commit without syncing, and each further operation in it."""
    loop_us: float = 0.0
    """Processor time of a replica's loop around one turn, beside frames, syncs and the protocol's steps."""
    busy_frame_us: float = 0.0
    busy_operation_us: float = 0.0
    """Processor time of client and replica together with as many others at work as there are cores; 0: as without."""
    steps: Mapping[str, StepCosts] = {}
    """By ``protocol/replicas``."""

    def company(self, processes: int, operations: float) -> float:
        """How many times the processor time that work takes by itself it takes among so many processes."""
        if processes <= self.cores:
            return 1.0
        alone = self.client_frame_us + self.node_frame_us
        alone += operations * (self.client_operation_us + self.node_operation_us)
        busy = self.busy_frame_us + operations * self.busy_operation_us
        return max(1.0, busy / alone)

    def round_of(self, replicas: int, answers: int, operations: float, *, synced: bool) -> tuple[float, float, float]:
        """When so many of the others have answered, and the processor time of the asker and of one other; µs.

        For numbers of replicas that were not measured: the nearest, and a frame sent more or less.
        """
        given = self.synced_rounds if synced else self.rounds
        measured = {int(count): costs for count, costs in given.items() if replicas == 1 or int(count) > 1}
        if replicas == 1 and not synced:
            return 0.0, 0.0, 0.0
        if not measured:
            raise ModelError("calibration: it holds no rounds: calibrate again")
        nearest = min(measured, key=lambda count: (abs(count - replicas), count))
        costs, more = measured[nearest], (replicas - nearest) * self.frame_out_us
        answered = costs.answered_us[min(max(answers, 1), len(costs.answered_us)) - 1]
        answered += (operations - 1) * costs.operation_us
        leading = costs.leading_us + (operations - 1) * costs.leading_operation_us
        following = costs.following_us + (operations - 1) * costs.following_operation_us
        return max(self.hop_us, answered + more), max(self.frame_out_us, leading + more), following

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
    spread: bool = False
    """What is not local is owned by the other regions, evenly; else by the leader's."""
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
    leader: float
    """How long the batch keeps the leader's only thread, syncs apart."""
    commit: float
    """How long the leader's own commit keeps it."""

    @property
    def path(self) -> float:
        return sum(self.parts.values())


def _validate(deployment: Deployment) -> None:
    if deployment.durability not in {"sync", "none"}:
        raise ModelError(f"durability: {deployment.durability!r} is neither 'sync' nor 'none'")
    if deployment.batch_max < 1:
        raise ModelError(f"batch_max: {deployment.batch_max} is not a positive number")
    positive("value_bytes", deployment.value_bytes)


def _costs(constants: Calibration, deployment: Deployment, batch: float, *, writes: bool = True) -> _Costs:
    """One batch of ``batch`` operations, the network's share not counted."""
    protocol, n = deployment.protocol, deployment.replicas
    zones = n if deployment.topology is None else min(n, len(deployment.topology.regions.names))
    shape = round_of(
        protocol,
        n,
        q2=deployment.q2,
        zones=zones,
        zone_failures=min(deployment.zone_failures, zones - 1),
        conflict=deployment.conflict if protocol == "epaxos" else 0.0,
        write_share=1.0 if writes else 0.0,
    )
    commands = batch if protocol in WITHOUT_BATCH else max(1.0, batch / deployment.batch_max)
    steps = constants.steps_of(protocol, n)
    alone = constants.steps["null/1"].leading_us(commands, batch) if "null/1" in constants.steps else 0.0
    company = constants.company(n + 1, batch)
    loop = company * constants.loop_us if n > 1 else 0.0
    leading = company * max(0.0, steps.leading_us(commands, batch) - alone)
    following = company * steps.following_us(commands, batch)
    applying = company * (commands * constants.apply_command_us + batch * constants.apply_operation_us)
    # Bytes beyond what the times by operation were measured with cost both ends of the client's frame; those of a
    # frame to the others are paid by the leader's loop for each, and by the one that takes it in.
    way = batch * max(0.0, deployment.value_bytes - constants.value_bytes) * constants.byte_us
    to_peer = (batch - 1) * deployment.value_bytes * constants.byte_us / 2 if writes else 0.0
    synced = deployment.durability == "sync" and writes
    if synced:
        served = constants.synced_frame_us + batch * constants.synced_operation_us
    else:
        served = constants.served_frame_us + batch * constants.served_operation_us
    served += way + (commands - 1) * constants.served_command_us
    client = constants.client_frame_us + batch * constants.client_operation_us + way / 2
    node = constants.node_frame_us + batch * constants.node_operation_us + way / 2
    node += (commands - 1) * constants.node_command_us
    served += (company - 1) * (client + node)
    client, node = company * client, company * node

    answers = shape.quorum - 1
    phases = max(1.0, shape.phases) if answers else 0.0
    answered, asking, answering = constants.round_of(n, answers, batch, synced=synced)
    peers = n - 1
    together = deployment.topology is None
    at_once = max(1.0, peers / constants.cores) if together else 1.0
    # The leader's own commit is in what one replica by itself takes.
    commit, committing, _ = constants.round_of(1, 0, batch, synced=True) if synced else (0.0, 0.0, 0.0)
    vote = 0.0
    if answers:
        # Rounds were measured with the bytes of one operation, or synced with those of all.
        carried = (peers + 1) * to_peer if not synced else 0.0
        reached = answered + carried + (loop + following) * at_once + loop
        vote = max(0.0, phases * reached - commit)
        asking = max(0.0, asking - committing)
    crowd = 0.0
    if together and peers:
        rate = min(1.0, constants.cores / n)
        # Until they are through with it, the leader's work and the client's proceed at that rate.
        crowd = applying * (1 / rate - 1)
    parts = {
        "client and one replica": served,
        "protocol": leading,
        "the quorum": vote,
        "the others' state machines": max(0.0, crowd),
    }
    logged = constants.unsynced_us + (batch - 1) * constants.log_operation_us if writes and not synced else 0.0
    carrying = 0.0 if synced else 2 * to_peer
    looping = TURNS * loop * phases
    work = client + node + leading + looping + phases * (asking + peers * (answering + carrying))
    work += peers * (following + applying + logged + looping)
    return _Costs(parts=parts, work=work, leader=node + leading + looping + phases * asking, commit=commit)


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
        spread=deployment.spread,
        write_share=deployment.write_share,
    )


class _Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The operations of one region's client."""

    latency_ms: float
    batch: float
    work_us: float
    """Processor time an operation."""
    parts: dict[str, float]
    """Of the mean operation, µs; without the network."""


def _flow(constants: Calibration, deployment: Deployment, network: placement.NetworkTime, in_flight: float) -> _Flow:
    """``in_flight`` operations of one client in a closed loop, on a machine that is idle otherwise."""
    writes = deployment.write_share
    net_us = network.total_ms * 1e3

    def costs(batch: float, *, of_writes: bool) -> _Costs:
        size = min(max(1.0, batch), float(RUN_OPERATIONS_MAX))
        return _costs(constants, deployment, size, writes=of_writes)

    if writes in {0.0, 1.0}:
        batch = max(1.0, min(in_flight, float(RUN_OPERATIONS_MAX)))
        found = costs(batch, of_writes=writes == 1.0)
        batches = max(1.0, in_flight / batch)
        parts = {name: us * batches for name, us in found.parts.items()}
        return _Flow(
            latency_ms=network.total_ms + found.path * batches / 1e3,
            batch=batch,
            work_us=found.work / batch,
            parts=parts,
        )
    # Who changes from one kind to the other meets a frame of it that is under way.
    meeting = (in_flight - 1) / in_flight if in_flight > 1 and net_us < FRAME_SPACING_S * 1e6 else 0.0
    of_writes, of_reads = max(1.0, in_flight * writes), max(1.0, in_flight * (1 - writes))
    rounds = 0
    while True:
        writing, reading = costs(of_writes, of_writes=True), costs(of_reads, of_writes=False)
        cycle_w = net_us + writing.path * max(1.0, of_writes / RUN_OPERATIONS_MAX)
        behind = meeting * writing.commit**2 / (2 * cycle_w)
        cycle_r = net_us + reading.path * max(1.0, of_reads / RUN_OPERATIONS_MAX) + behind
        gathering = writes * cycle_w * meeting * (1 - writes) / 2 + (1 - writes) * cycle_r * meeting * writes / 2
        latency = writes * cycle_w + (1 - writes) * cycle_r + gathering
        rate = in_flight / latency
        wanted = max(1.0, rate * writes * cycle_w), max(1.0, rate * (1 - writes) * cycle_r)
        rounds += 1
        if rounds == ROUNDS_MAX or abs(wanted[0] - of_writes) + abs(wanted[1] - of_reads) < 1e-6:
            break
        of_writes, of_reads = (of_writes + wanted[0]) / 2, (of_reads + wanted[1]) / 2
    parts = {name: writes * us + (1 - writes) * reading.parts[name] for name, us in writing.parts.items()}
    parts["gathering"] = gathering
    parts["behind a commit"] = (1 - writes) * behind
    return _Flow(
        latency_ms=latency / 1e3,
        batch=writes * of_writes + (1 - writes) * of_reads,
        work_us=writes * writing.work / min(of_writes, RUN_OPERATIONS_MAX)
        + (1 - writes) * reading.work / min(of_reads, RUN_OPERATIONS_MAX),
        parts=parts,
    )


def closed_loop(constants: Calibration, deployment: Deployment, in_flight: float) -> Predicted:
    """``in_flight`` operations, spread evenly over the regions, each followed by the next one. Raises `ModelError`."""
    _validate(deployment)
    positive("in_flight", in_flight)
    networks = _network(deployment)
    share = in_flight / len(networks)
    flows = [_flow(constants, deployment, network, share) for network in networks]
    latencies = [flow.latency_ms for flow in flows]
    rates = [share / latency * 1e3 for latency in latencies]
    limit = "path"
    work = sum(flow.work_us * rate for flow, rate in zip(flows, rates, strict=True)) / sum(rates)
    possible = constants.cores * 1e6 / work
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
        batch=sum(flow.batch for flow in flows) / len(flows),
        limit=limit,
        parts_ms={
            **{name: us / 1e3 for name, us in flows[0].parts.items()},
            "network": networks[0].total_ms,
        },
    )


def _mixed(deployment: Deployment, of: Callable[[bool], float]) -> float:
    """The mean over writes and reads."""
    share = deployment.write_share
    return (share * of(True) if share > 0 else 0.0) + ((1 - share) * of(False) if share < 1 else 0.0)


def capacity(constants: Calibration, deployment: Deployment) -> float:
    """Operations a second that the machine can carry in the largest batches."""
    _validate(deployment)
    largest = float(RUN_OPERATIONS_MAX)

    def costs(writes: bool) -> _Costs:
        return _costs(constants, deployment, largest, writes=writes)

    by_cores = constants.cores * 1e6 * largest / _mixed(deployment, lambda w: costs(w).work)
    by_leader = 1e6 * largest / _mixed(deployment, lambda w: costs(w).leader + costs(w).commit)
    return min(by_cores, by_leader)


def open_loop(constants: Calibration, deployment: Deployment, rate: float) -> Predicted:
    """Arrivals at ``rate`` operations a second, whatever happens to those before. Raises `Saturated`, `ModelError`."""
    _validate(deployment)
    positive("rate", rate)
    possible = capacity(constants, deployment)
    if rate >= possible:
        raise Saturated(rate, possible)
    networks = _network(deployment)
    share = rate / len(networks)
    latencies: list[float] = []
    batches: list[float] = []
    shown: dict[str, float] = {}
    for network in networks:
        long = network.total_ms > FRAME_SPACING_S * 1e3
        batch, rounds = 1.0, 0
        while True:
            path_us = _mixed(
                deployment,
                lambda writes, batch=batch, network=network: (  # type: ignore[misc]
                    _costs(constants, deployment, batch, writes=writes).path
                ),
            )
            cycle_s = path_us / 1e6 + (0.0 if long else network.total_ms / 1e3)
            wanted = 1.0 if long else min(float(RUN_OPERATIONS_MAX), max(1.0, share * cycle_s))
            rounds += 1
            if rounds == ROUNDS_MAX or abs(wanted - batch) < 1e-6:
                break
            batch = (batch + wanted) / 2
        offered = min(share * cycle_s, 50.0)
        met = 0.0 if long else offered * math.exp(offered) / (1 + offered * math.exp(offered))
        waited_ms = met * cycle_s / 2 * 1e3
        latencies.append(network.total_ms + waited_ms + path_us / 1e3)
        batches.append(batch)
        shown = shown or {"gathering": waited_ms, "path": path_us / 1e3, "network": network.total_ms}
    mean = sum(latencies) / len(latencies)
    return Predicted(
        in_flight=rate * mean / 1e3,
        throughput=rate,
        latency_ms=mean,
        regions=tuple(
            RegionLatency(region=network.region, latency_ms=latency, network_ms=network.total_ms)
            for network, latency in zip(networks, latencies, strict=True)
        ),
        batch=sum(batches) / len(batches),
        limit="path",
        parts_ms=shown,
    )
