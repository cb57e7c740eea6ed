"""One simulated cluster, and the runs that are made on it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.load.drive import LOADING
from bench.load.generator import GeneratorResult, GeneratorSpec, window_of
from bench.load.measure import Notes, Window
from bench.load.record import Recorder
from bench.operations import Stream
from bench.results import Link, Network, Resources
from bench.shaping import StreamShaper
from bench.simulated.clients import Client, Load
from bench.simulated.costs import Costs
from bench.simulated.machine import Machine, SimulationLimit
from bench.suite import ClusterShape
from deploy.topology import OneWay, Topology
from replica.consensus.interface import Configuration, Member, ProtocolSpec
from replica.simulation.machine import StateHome
from replica.simulation.world import World
from replica.transport.faults import LinkFault, Shaper

__all__ = ["Simulation"]

LAN_S: Final = 0.00005
"""One way between two machines of one room, on top of what the topology says: switch and wire."""

ELECTION_S_MAX: Final = 120.0
"""Virtual seconds within which somebody has to lead."""

HANDED_OVER_S: Final = 2.0
"""Virtual seconds that a handover is given before it is asked for again."""

QUIET_S: Final = 0.05
"""Between the end of what came before and the start of a run."""

SETTLE_S: Final = 5.0
"""Virtual seconds after the last run, before states are compared."""

SLICE_S: Final = 0.02
"""Virtual seconds between two looks at whether something has come about."""

PLACE_S_MAX: Final = 60.0
"""Virtual seconds for leadership to be handed over to the region where it is wanted."""

DRAIN_S_MAX: Final = 60.0
"""Virtual seconds after the end of a load within which everything has to be answered."""


class Simulation:
    """A cluster in virtual time. It outlives its runs, like a cluster that is kept for several loads."""

    def __init__(
        self,
        spec: ProtocolSpec,
        shape: ClusterShape,
        *,
        topology: Topology | None,
        costs: Costs,
        seed: int,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises `ConfigurationError` for options or members that the protocol refuses."""
        self.world = World(seed)
        self.costs = costs
        self.spec = spec
        self.shape = shape
        self.topology = topology
        self._random = random.Random(f"{seed}/links")
        self._links: dict[tuple[int, int], Shaper] = {}
        self._places: dict[int, str] = {}
        self._clients: dict[int, Client] = {}
        self._interrupted = False
        ids = range(1, shape.replicas + 1)
        for replica in ids:
            self._places[replica] = topology.region_of(replica - 1) if topology is not None else ""
        configuration = Configuration(
            epoch=1,
            members=tuple(Member(replica, region=self._places[replica]) for replica in ids),
            protocol=spec.name,
            options=dict(options if options is not None else shape.options),
        )
        self.machines = {
            replica: Machine(
                self.world,
                replica=replica,
                spec=spec,
                configuration=configuration,
                costs=costs,
                carry=self._carry,
                sync_mode=shape.sync_mode,
                durable=shape.durability == "sync",
            )
            for replica in ids
        }

    # ------------------------------------------------------------------------------------------------------ the network

    def _link(self, one: int, other: int) -> OneWay:
        here, there = self._places[one], self._places[other]
        if self.topology is None:
            return OneWay(delay_ms=1000 * LAN_S, jitter_ms=0.0, jitter_shape="normal", loss=0.0, rate_bytes_s=0.0)
        link = self.topology.link_between(here, there)
        return OneWay(
            delay_ms=link.delay_ms + 1000 * LAN_S,
            jitter_ms=link.jitter_ms,
            jitter_shape=link.jitter_shape,
            loss=link.loss,
            rate_bytes_s=link.rate_bytes_s,
        )

    def _carry(self, source: int, target: int, size: int, content: Any) -> None:
        shaper = self._links.get((source, target))
        if shaper is None:
            link = self._link(source, target)
            if source > 0 and target > 0:
                fault = LinkFault(
                    delay_s=link.delay_ms / 1000,
                    jitter_s=link.jitter_ms / 1000,
                    jitter_shape=link.jitter_shape,
                    loss=link.loss,
                    rate_bytes_s=link.rate_bytes_s,
                )
                shaper = Shaper(fault, self._random)
            else:
                shaper = StreamShaper(link, self._random)
            self._links[source, target] = shaper
        arrival = shaper.arrival(self.world.now, size)
        if arrival is not None:
            receiver = self.machines[target] if target > 0 else self._clients[target]
            self.world.at(arrival, receiver.receive, source, size, content)

    def network(self) -> Network | None:
        """What was simulated, in the words of a measured network; None without a topology."""
        if self.topology is None:
            return None
        regions = list(dict.fromkeys(self._places[replica] for replica in self.machines))
        found = Network(topology=self.shape.topology, shaper="simulated")
        for client in (False, True):
            for place, one in enumerate(regions):
                for other in regions if client else regions[place + 1 :]:
                    declared = self.topology.round_trip(one, other)
                    found.links.append(
                        Link(
                            one=one,
                            other=other,
                            declared_ms=declared,
                            achieved_ms=declared + 2000 * LAN_S,
                            client=client,
                        )
                    )
        return found

    # ----------------------------------------------------------------------------------------------------- the cluster

    def start(self) -> None:
        """Start all replicas, and let time pass until commands are taken. Raises `SimulationLimit`."""
        for machine in self.machines.values():
            self.world.at(self.world.now, machine.start)
        deadline = self.world.now + ELECTION_S_MAX
        while not any(machine.coordinator.status().accepting for machine in self.machines.values()):
            if self.world.now >= deadline:
                raise SimulationLimit(f"no replica of {self.spec.name} takes commands after {ELECTION_S_MAX:g} s")
            self._pass(self.world.now + SLICE_S)

    def place_leader(self, region: str) -> None:
        """Let the leader stand in ``region``. Raises `SimulationLimit`."""
        successor = next(replica for replica in self.machines if self._places[replica] == region)
        deadline = self.world.now + PLACE_S_MAX
        while self.leader_region != region:
            if self.world.now >= deadline:
                raise SimulationLimit(f"the leader could not be placed in {region} within {PLACE_S_MAX:g} s")
            if self.leader:
                self.machines[self.leader].hand_over(successor)
            self._pass(self.world.now + HANDED_OVER_S)

    def interrupt(self) -> None:
        """End whatever run is being made, on whichever thread: it raises `SimulationLimit`."""
        self._interrupted = True

    def _pass(self, until: float) -> None:
        """Let time pass, in slices between which an interrupt is noticed."""
        while self.world.now < until:
            if self._interrupted:
                raise SimulationLimit("the simulation was interrupted")
            self.world.run(min(until, self.world.now + SLICE_S))

    def _way(self, endpoint: int, hint: int) -> int:
        """Whom a client asks: whoever was named, the leader, or the nearest."""
        if hint:
            return hint
        if self.spec.capabilities.routing == "leader":
            for replica, machine in self.machines.items():
                if machine.coordinator.status().accepting:
                    return replica
        return min(self.machines, key=lambda replica: (self._link(endpoint, replica).delay_ms, replica))

    @property
    def leader(self) -> int:
        """Who takes commands, of several the first; 0 when nobody does."""
        return next((r for r, machine in self.machines.items() if machine.coordinator.status().accepting), 0)

    @property
    def leader_region(self) -> str:
        """Where it stands, or which replica it is where there are no regions; empty when nobody leads."""
        return self._places[self.leader] or f"replica {self.leader}" if self.leader else ""

    # ----------------------------------------------------------------------------------------------------------- a run

    def generate(self, specs: Sequence[GeneratorSpec]) -> tuple[list[GeneratorResult], Window]:
        """Make one run; what each generator measured, and when. Raises `SimulationLimit`."""
        world = self.world
        world.events = 0
        clients = [self._client(spec) for spec in specs]
        waiting = len(clients)

        def opened() -> None:
            nonlocal waiting
            waiting -= 1

        for client in clients:
            client.open(opened)
        self._until(lambda: not waiting, "a session was opened for every client")
        streams = [self._stream(spec) for spec in specs]
        loaded = [Recorder(stream, spec.operations_max) for stream, spec in zip(streams, specs, strict=True)]
        for spec, client, stream, recorder in zip(specs, clients, streams, loaded, strict=True):
            if spec.preload:
                self._preload(client, stream, recorder, spec.preload)
        window = window_of(specs[0].load, world.now + QUIET_S)
        notes = [Notes(window, spec.load.window_s, open_loop=spec.load.loop == "open") for spec in specs]
        recorders = [Recorder(stream, spec.operations_max) for stream, spec in zip(streams, specs, strict=True)]
        loads = [
            Load(client, spec, stream, note, recorder)
            for client, spec, stream, note, recorder in zip(clients, specs, streams, notes, recorders, strict=True)
        ]
        for load in loads:
            load.start(window.start, window.end)
        self._pass(window.measured_from)
        counted = self._counted()
        self.led_by = [self.leader_region]
        begun = {r: (m.busy_s, m.sent_bytes, m.received_bytes) for r, m in self.machines.items()}
        clients_begun = [client.busy_s for client in clients]
        self._pass(window.measured_to)
        self._account(begun)
        self.led_by.append(self.leader_region)
        self.counters = {name: count - counted.get(name, 0) for name, count in self._counted().items()}
        used = [client.busy_s - begin for client, begin in zip(clients, clients_begun, strict=True)]
        self._pass(window.end)
        self._until(lambda: not any(load.outstanding for load in loads), "everything was answered")
        results = [
            GeneratorResult(
                measured=note.finish(),
                recording=recorder.finish(_itself),
                loaded=load.finish(_itself),
                cpu_user_s=seconds,
                cpu_system_s=0.0,
                memory_bytes=0,
            )
            for note, recorder, load, seconds in zip(notes, recorders, loaded, used, strict=True)
        ]
        return results, window

    def _stream(self, spec: GeneratorSpec) -> Stream:
        return Stream(
            spec.workload,
            seed=spec.seed,
            client=spec.client,
            clients=spec.clients,
            region=spec.region_index,
            regions=spec.regions,
            prefix=spec.prefix.encode(),
            fraction=spec.fraction,
        )

    def _client(self, spec: GeneratorSpec) -> Client:
        number = len(self._clients)
        able = self.spec.capabilities
        stale = self.shape.consistency == "stale"
        client = Client(
            self.world,
            number,
            costs=self.costs,
            batch_max=self.shape.batch_max,
            # Registers are read by commands, too, and so is where the protocol offers nothing else.
            in_runs=able.registers or (not stale and (self.shape.consistency == "log" or able.reads == {"log"})),
            stale=stale,
            way=lambda hint: self._way(-1 - number, hint),
            carry=self._carry,
        )
        self._clients[client.endpoint] = client
        self._places[client.endpoint] = spec.region or self._places[1]
        return client

    def _preload(self, client: Client, stream: Stream, recorder: Recorder, regions: Sequence[int]) -> None:
        keys = iter(stream.loads(regions))
        outstanding = 0

        def following() -> None:
            nonlocal outstanding
            following_key = next(keys, None)
            if following_key is None:
                return
            put, sampled = following_key
            started = self.world.now
            recorded = sampled and recorder.admit(started)
            outstanding += 1

            def done(outcome: str, answer: Any) -> None:
                nonlocal outstanding
                outstanding -= 1
                if recorded:
                    recorder.add(put, started, self.world.now, outcome=outcome, answer=answer, intended=None)
                following()

            client.issue(put, done)

        for _ in range(LOADING):
            following()
        self._until(lambda: not outstanding, "the keys were loaded")

    def _until(self, condition: Any, what: str) -> None:
        deadline = self.world.now + DRAIN_S_MAX
        while not condition():
            if self.world.now >= deadline:
                raise SimulationLimit(f"not after {DRAIN_S_MAX:g} s of virtual time: {what}")
            self._pass(self.world.now + SLICE_S)

    def _account(self, begun: Mapping[int, tuple[float, int, int]]) -> None:
        self.resources = [
            Resources(
                name=f"replica {replica}",
                replica=replica,
                role=machine.coordinator.status().role,
                cpu_user_s=machine.busy_s - begun[replica][0],
                network_sent_bytes=machine.sent_bytes - begun[replica][1],
                network_received_bytes=machine.received_bytes - begun[replica][2],
            )
            for replica, machine in self.machines.items()
        ]

    def _counted(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for machine in self.machines.values():
            found.update(machine.coordinator.status().counters)
        return dict(found)

    resources: list[Resources]
    """What each replica used in the measured part of the latest run."""

    counters: dict[str, int]
    """What the protocol counted in the measured part of the latest run, of all replicas together."""

    led_by: list[str]
    """Who led when that part began, and when it ended."""

    def digests(self) -> dict[int, tuple[int, str]]:
        """Where each replica of a total order stands, and the digest of its state, once everything has settled."""
        self._pass(self.world.now + SETTLE_S)
        found = {}
        for replica, machine in self.machines.items():
            assert isinstance(machine.home, StateHome), "only a total order has one state to compare"
            digest = machine.home.digest()
            found[replica] = (digest.applied, digest.digest)
        return found


def _itself(_operation: Any, answer: Any) -> Any:
    return answer
