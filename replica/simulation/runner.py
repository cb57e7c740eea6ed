"""One run: build a world from a plan, let it go wrong, heal it, demand progress, and judge.

A run has two phases. In the first, *chaos*, the plan's faults happen while clients work. Then everything is healed:
links and clocks behave, every replica that may still run is started, and the clients get something more to do. Within
`LIVENESS_UNITS` election timeouts all of it must be done, and all members must stand at the end of the same sequence.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from replica.consensus.interface import Configuration, Member, Options, ProtocolSpec, ReplicaId
from replica.consensus.registry import find_protocol
from replica.kv import operations as kv
from replica.simulation.checks import check_complete, check_refusals
from replica.simulation.clients import PATIENCE_FACTOR_ENDURING, Client
from replica.simulation.host import Armed, Host, Process, Protocols
from replica.simulation.judge import Judge
from replica.simulation.machine import abilities_of
from replica.simulation.network import LinkProfile, Network
from replica.simulation.objects import ObjectOracle
from replica.simulation.oracle import Oracle
from replica.simulation.plan import (
    LEADER,
    OTHER,
    POINTS,
    PROFILES,
    SAME,
    TIMERS_LAST,
    Fault,
    FaultProfile,
    Plan,
    draw_plan,
)
from replica.simulation.registers import RegisterOracle
from replica.simulation.seen import FAIL, OK, UNKNOWN, Seen
from replica.simulation.violation import Violation
from replica.simulation.witness import Controls, MultiPaxosWitness, Witness
from replica.simulation.witnesses import WITNESSES
from replica.simulation.world import World
from replica.verification.history import Recorder

LIVENESS_UNITS: Final = 20.0
"""Election timeouts within which a healed cluster has to be back, everything done."""

CALM_AFTER_UNITS: Final = 8.0
"""Election timeouts after which a partition that can be endured must have stopped to disturb the leader."""

CALM_UNITS: Final = 5.0
"""Election timeouts for which the leader must then stay."""

MAKING_UP_MAX: Final = 4
"""How often the clients of a healed cluster are asked for what a run still lacks: some of that may fail as well."""

HURRIED: Final = 0.3
"""So many of the changes are asked for before who comes has been taught."""

CHECKED_ALWAYS: Final = ("invariants of the protocol", "liveness")
"""Whatever the protocol; the rest is up to the judge for its shape of decision, and to its witness."""


class SimulationFailure(AssertionError):
    """A run went wrong. The text says how, and how to see it again."""

    def __init__(self, check: str, seed: int, text: str, replay: str, trace: Sequence[str]) -> None:
        super().__init__(f"seed {seed}: {text}\n  replay with: {replay}")
        self.check = check
        self.seed = seed
        self.replay = replay
        self.trace = trace


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a run that found nothing wrong."""

    seed: int
    digest: str
    """Over everything that happened: equal digests mean equal runs."""
    events: int
    virtual_s: float
    operations: int
    succeeded: int
    failed: int
    unknown: int
    positions: int
    checked: int
    """Operations whose order was held against real time."""
    undecided: int = 0
    """Histories that a search could neither find sound nor refute: nothing is known of their operations' order."""
    faults: int
    """Faults of the plan that were carried out."""
    recovery_units: float
    """How long the healed cluster took, in election timeouts."""
    counters: Mapping[str, int]
    checks: tuple[str, ...] = ()
    """What was checked, by name."""
    skipped: tuple[str, ...] = ()
    """What was not, for want of a witness of this protocol."""
    trace: Sequence[str] = ()


class Simulation:
    """One cluster in one world."""

    def __init__(
        self,
        plan: Plan,
        spec: ProtocolSpec,
        replicas: int,
        *,
        controls: Controls | None = None,
        readable: bool = False,
        others: Mapping[str, ProtocolSpec] | None = None,
        witness: Witness | None = None,
    ) -> None:
        """``others`` are further protocols that a change of configuration may name."""
        self.plan = plan
        self.world = World(plan.seed, readable=readable)
        self.network = Network(self.world, plan.links, plan.client_links, spread=plan.spread)
        further = {name: find_protocol(name) for name in plan.protocols if name != spec.name}
        self.protocols = Protocols({**further, **(others or {}), spec.name: spec})
        self.spec = spec
        self.controls = controls or Controls()
        factory = WITNESSES.get(spec.name)
        self.witness = witness or (Witness() if factory is None else factory())
        self.history: list[Seen] = []
        self.healed = False
        self.faults = 0
        self.struck: list[tuple[float, str]] = []
        """When each of them struck, and what it was."""
        self.draw: random.Random = self.world.generator("operator")
        self.configuration = Configuration(
            epoch=1,
            members=tuple(Member(replica) for replica in range(1, replicas + 1)),
            protocol=spec.name,
            options=plan.options,
        )
        self.oracle = self._make_judge()
        self._haste = self.world.generator("haste")
        self._hurried = False
        """The change under way does not wait until who comes has caught up."""
        self.change: Configuration | None = None
        """A configuration that the operator wants and that has not been decided."""
        self.rival: Configuration | None = None
        """What another operator wants at the same time."""
        self._leaving: list[ReplicaId] = []
        self._decided = 0
        self.hosts: dict[ReplicaId, Host] = {}
        for replica in range(1, replicas + 1):
            self._add_host(replica, joining=False)
        self.clients = [
            Client(
                self.world,
                self.network,
                self.oracle,
                number=index + 1,
                profile=profile,
                directory=self._directory,
                history=self.history,
                around_the_log=bool(spec.capabilities.reads - {"log"}) and not spec.capabilities.registers,
                abilities=abilities_of(spec.capabilities),
                exactly_once=spec.capabilities.exactly_once,
                stale=not spec.capabilities.registers,
            )
            for index, profile in enumerate(plan.clients)
        ]
        self._leader: ReplicaId = 0
        self._last_target: ReplicaId = 0

    def _make_judge(self) -> Judge:
        """The judge for decisions of the protocol's shape."""
        capabilities = self.spec.capabilities
        if capabilities.registers:
            return RegisterOracle(self.world, self.configuration, self.witness)
        if capabilities.total_order:
            return Oracle(self.world, self.configuration, self.witness, sessions_max=self.plan.sessions_max)
        return ObjectOracle(self.world, self.configuration, self.witness, sessions_max=self.plan.sessions_max)

    def _add_host(self, replica: ReplicaId, *, joining: bool) -> Host:
        index = len(self.hosts)
        host = Host(
            self.world,
            self.network,
            self.protocols,
            self.oracle,
            replica=replica,
            configuration=self.configuration,
            joining=joining,
            profile=self.plan.hosts[index % len(self.plan.hosts)],
            clock_rate=1.0 if self.healed else self.plan.clock_rates[index % len(self.plan.clock_rates)],
            controls=self.controls,
            sessions_max=self.plan.sessions_max,
        )
        self.hosts[replica] = host
        return host

    def _directory(self) -> list[ReplicaId]:
        """Whom clients may ask: once all is healed, nobody that stopped for good, for it refuses connections."""
        return [
            replica
            for replica in self.configuration.replicas
            if not (self.hosts[replica].retired or (self.healed and self.hosts[replica].stopped))
        ]

    # ------------------------------------------------------------------------------------------------------------ run

    def run(self) -> Report:
        """Chaos, then healing and demand, then judgement. Raises `Violation` and whatever a protocol asserts."""
        plan, world = self.plan, self.world
        for host in self.hosts.values():
            world.after(self.draw.random() * plan.unit_s * 0.2, host.start)
        for client in self.clients:
            world.after(self.draw.random() * plan.unit_s * 0.2, client.start)
        for fault in plan.faults:
            world.at(fault.at, self._strike, fault)
        self._watch()
        world.run(plan.chaos_s)
        self._heal()
        recovery = self._settle(LIVENESS_UNITS)
        self._make_up()
        if plan.endurance and len(self._members()) == len(self.configuration.members) > 2:
            self._endure(plan.endurance)
            self._settle(LIVENESS_UNITS)
        # What is on its way must not undo anything.
        world.run(world.now + plan.unit_s / 2)
        # A change of leader in that time may have taken a position, which not everybody has heard of yet.
        self._settle(LIVENESS_UNITS)
        if self.spec.capabilities.registers:
            self._read_everywhere()
        return self._judge(recovery)

    def _make_up(self) -> None:
        """Have the clients do what they did not get to in the chaos.

        A run is not small because it was rough, and most of what was asked in it is answered.
        """
        for attempt in range(MAKING_UP_MAX):
            wanting = [
                max(client.profile.operations - client.issued, client.issued - 2 * client.succeeded + 1)
                for client in self.clients
            ]
            if attempt and max(wanting) <= 0:
                return
            for client, operations in zip(self.clients, wanting, strict=True):
                client.hurry(operations)
            self._settle(LIVENESS_UNITS * 5)

    def _settle(self, units: float) -> float:
        """Let time pass until everything is done; returns how many election timeouts that took. Raises `Violation`."""
        began = self.world.now
        unit = self.plan.unit_s
        while not self._done():
            if self.world.now >= began + units * unit:
                raise Violation("liveness", self._stuck(units))
            self.world.run(self.world.now + unit / 4)
        return (self.world.now - began) / unit

    def _read_everywhere(self) -> None:
        """Have every key that was used read through every replica, one after the other."""
        client = self.clients[0]
        keys = sorted({seen.operation.key for seen in self.history if isinstance(seen.operation, kv.Put | kv.Get)})
        for host in self._members():
            for key in keys:
                client.read_through(host.replica, key)
                self._settle(LIVENESS_UNITS)

    def _endure(self, shape: str) -> None:
        """Partition the cluster such that some replica still reaches a majority: it has to work, and to stay calm.

        Raises `Violation`.
        """
        unit = self.plan.unit_s
        center = self._find_leader() if self.draw.random() < 0.5 else self.draw.choice(self._members())
        if center is None:
            center = self.draw.choice(self._members())
        pairs = self._pairs(shape, center.replica)
        if not self._endurable(pairs):
            return
        self.world.trace.say(self.world.now, "--", f"to be endured: {shape} around {center.name}")
        self.network.block(pairs, hold=False)
        self.world.count(f"endured: {shape}")
        began = self.world.now
        for client in self.clients:
            client.hurry(2, patience=PATIENCE_FACTOR_ENDURING)
        while not all(client.idle for client in self.clients):
            if self.world.now > began + LIVENESS_UNITS * unit:
                raise Violation(
                    "progress under a partial partition", f"{shape} around {center.name}: {self._stuck(LIVENESS_UNITS)}"
                )
            self.world.run(self.world.now + unit / 4)
        if self.spec.capabilities.routing != "leader":
            self.network.unblock(pairs)
            return
        self.world.run(max(self.world.now, began + CALM_AFTER_UNITS * unit))
        leaders: list[str] = []
        for _ in range(int(CALM_UNITS * 4)):
            self.world.run(self.world.now + unit / 4)
            leader = self._find_leader()
            name = "nobody" if leader is None else f"{leader.name} at {_ballot(leader)}"
            if not leaders or leaders[-1] != name:
                leaders.append(name)
        if len(leaders) > 1:
            raise Violation(
                "stable leadership",
                f"{shape} around {center.name}: within {CALM_UNITS:g} election timeouts {', then '.join(leaders)} led",
            )
        self.network.unblock(pairs)

    def _endurable(self, pairs: list[tuple[int, int]]) -> bool:
        """Is there a replica that hears, and is heard by, enough others?"""
        blocked = set(pairs)
        members = self.configuration.replicas
        return any(
            self.witness.suffices(
                self.configuration,
                {one} | {other for other in members if not {(one, other), (other, one)} & blocked},
            )
            for one in members
        )

    def _heal(self) -> None:
        self.healed = True
        self.world.trace.say(self.world.now, "--", "everything is healed")
        self.network.heal()
        self._follow()
        coming = {replica for wanted in (self.change, self.rival) if wanted is not None for replica in wanted.replicas}
        for replica, host in list(self.hosts.items()):
            if replica not in self.configuration.replicas and replica not in coming:
                self._retire(replica)
            host.heal()
        for client in self.clients:
            client.hurry(self.plan.demand)

    def _members(self) -> list[Host]:
        return [host for host in self._all_members() if host.usable]

    def _all_members(self) -> list[Host]:
        return [self.hosts[replica] for replica in self.configuration.replicas]

    def _done(self) -> bool:
        if self.change is not None or not all(client.idle for client in self.clients):
            return False
        for host in self._members():
            process = host.process
            if process is None or process.coordinator is None or process.coordinator.sealed is not None:
                return False
            if process.coordinator.epoch != self.configuration.epoch or not self.oracle.complete(host.state):
                return False
        return True

    def _stuck(self, units: float) -> str:
        lines = []
        for host in self._members():
            process = host.process
            if process is None or process.coordinator is None:
                lines.append(f"r{host.replica} {'joins' if process is not None else 'is down'}")
                continue
            status = process.coordinator.status()
            lines.append(
                f"r{host.replica} in epoch {process.coordinator.epoch} is {status.role}, follows {status.leader}, "
                f"ballot {status.ballot}, decided {status.decided}, applied {host.state.applied}"
            )
        waiting = [
            f"c{client.number} asks r{client.target} for {client.outstanding}, has {client.budget} to go"
            for client in self.clients
            if not client.idle
        ]
        if self.change is not None:
            waiting.append(f"the operator wants epoch {self.change.epoch}")
        return (
            f"no quiet within {units:g} election timeouts "
            f"({self.oracle.positions} positions decided): {'; '.join(lines + waiting)}"
        )

    def _judge(self, recovery: float) -> Report:
        oracle, world = self.oracle, self.world
        for host in self._members():
            if host.process is not None and host.process.coordinator is not None:
                host.process.coordinator.protocol.check()
                oracle.final(host.replica, host.state)
        check_complete(self.history)
        checked = oracle.linearizable(self.history)
        refused = check_refusals(self.history, oracle)
        outcomes = [seen.outcome for seen in self.history]
        for host in self.hosts.values():
            if host.process is not None:
                host.process.tally()
        return Report(
            seed=self.plan.seed,
            digest=world.trace.digest(),
            events=world.events,
            virtual_s=world.now,
            operations=len(self.history),
            succeeded=outcomes.count(OK),
            failed=refused,
            unknown=outcomes.count(UNKNOWN) + outcomes.count(FAIL) - refused,
            positions=oracle.positions,
            checked=checked,
            undecided=oracle.undecided,
            faults=self.faults,
            recovery_units=recovery,
            counters=dict(sorted(world.counters.items())),
            checks=(*CHECKED_ALWAYS, *oracle.checks, *self.witness.checks),
            skipped=() if self.witness.checks else MultiPaxosWitness.checks,
            trace=tuple(world.trace.lines),
        )

    # -------------------------------------------------------------------------------------------------- the operator

    def _watch(self) -> None:
        """Twice per election timeout: follow the configuration, push on a change, and count changes of leader."""
        self._follow()
        leader = self._find_leader()
        if leader is not None:
            if self._leader and leader.replica != self._leader and self.spec.capabilities.routing == "leader":
                self.world.count("leader changes")
                if any(client.outstanding for client in self.clients):
                    self.world.count("leader changes with proposals in flight")
            self._leader = leader.replica
        if self.change is not None:
            if leader is not None and leader.process is not None and not leader.paused:
                asked = [self.change] if self.rival is None else [self.change, self.rival]
                self.draw.shuffle(asked)
                for configuration in asked:
                    if self._prepared(configuration, leader.process):
                        leader.process.enter(leader.process.reconfigure, configuration)
        elif self._leaving and not self.healed:
            if self.draw.random() < 0.2:
                self._retire(self._leaving[0])
        elif self._leaving:
            self._retire(self._leaving[0])
        self.world.after(self.plan.unit_s / 2, self._watch)

    def _prepared(self, configuration: Configuration, leader: Process) -> bool:
        """Has the leader taught who comes? Some operators don't wait for that."""
        if self._hurried:
            return True
        coming = set(configuration.replicas) - set(self.configuration.replicas)
        near = [leader.expect(learner) for learner in sorted(coming)]
        return all(near)

    def _follow(self) -> None:
        """Learn which configuration has been decided."""
        for decision in self.oracle.configurations[self._decided :]:
            gone = set(self.configuration.replicas) - set(decision.replicas)
            if self.rival is not None:
                # The newcomer of the proposal that lost never becomes a member.
                wanted = {*self.rival.replicas, *(self.change.replicas if self.change is not None else ())}
                gone |= wanted - set(decision.replicas)
                self.world.count("rival changes")
            self._leaving.extend(sorted(gone - set(self._leaving)))
            self.configuration = decision
            self.change = self.rival = None
        self._decided = len(self.oracle.configurations)

    def _retire(self, replica: ReplicaId) -> None:
        """Take a removed replica out of service: until then it has haunted the cluster."""
        host = self.hosts[replica]
        if replica in self._leaving:
            self._leaving.remove(replica)
        if replica in self.configuration.replicas or host.retired:
            return
        host.retired = True
        if host.process is not None:
            host.crash(power=False, why="retired")

    def _find_leader(self) -> Host | None:
        for host in self.hosts.values():
            coordinator = None if host.process is None else host.process.coordinator
            if coordinator is not None and coordinator.sealed is None and coordinator.status().accepting:
                return host
        return None

    def _target(self, fault: Fault) -> Host | None:
        """The host that a fault strikes: the leader if it says so, otherwise any that is up."""
        last = self.hosts.get(self._last_target)
        if fault.target == SAME and last is not None:
            return last if last.up else None
        leader = self._find_leader() if fault.target == LEADER else None
        if leader is None:
            candidates = [host for host in self.hosts.values() if host.up]
            if fault.target == OTHER:
                candidates = [host for host in candidates if host is not last]
            if not candidates:
                return None
            leader = candidates[self.draw.randrange(len(candidates))]
        if fault.target != OTHER:
            self._last_target = leader.replica
        return leader

    def _may_lose(self, host: Host) -> bool:
        """Would the members that can vote be a majority without this host, and is no change under way?

        A newcomer counts once its peers have taken it on record: until then it depends on all of them.
        """
        return self.change is None and self._may_lose_in_peace(host)

    def _may_lose_in_peace(self, host: Host) -> bool:
        """The same, whatever is under way."""
        if host.replica not in self.configuration.replicas or any(each.doomed for each in self._members()):
            return False
        left = [
            member for member in self._members() if member is not host and member.disk.admitted and not member.doomed
        ]
        return self.witness.suffices(self.configuration, {member.replica for member in left})

    # --------------------------------------------------------------------------------------------------------- faults

    def _strike(self, fault: Fault) -> None:
        if self.healed:
            return
        struck = _STRIKES[fault.kind](self, fault)
        if struck:
            self.faults += 1
            self.struck.append((self.world.now, f"{fault.kind} {fault.detail}".strip()))
            self.world.count(f"fault: {fault.kind}")
            self.world.trace.say(self.world.now, "--", f"fault: {fault.kind} {fault.detail} on {struck}")
        else:
            self.world.count("faults without a target")

    def _crash(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or host.armed is not None:
            return ""
        kind, _, point = fault.detail.partition("/")
        host.armed = armed = Armed(point, int(fault.number), kind == "power", fault.seconds)
        self.world.after(self.plan.unit_s, self._crash_anyway, host, armed)
        return host.name

    def _crash_anyway(self, host: Host, armed: Armed) -> None:
        if host.armed is armed and host.process is not None:
            self.world.count("crashes at: no boundary")
            host.crash(power=armed.power, why="its boundary did not come")
            self.world.after(armed.down_s, host.start)

    def _power_cut(self, fault: Fault) -> str:
        for host in list(self.hosts.values()):
            host.crash(power=True, why="power cut")
            self.world.after(fault.seconds * (0.5 + self.draw.random()), host.start)
        return "all"

    def _rolling_restart(self, fault: Fault) -> str:
        for index, host in enumerate(list(self.hosts.values())):
            self.world.after(index * fault.seconds * 2, self._restart, host, fault.seconds)
        return "all"

    def _restart(self, host: Host, seconds: float) -> None:
        if host.process is not None and not self.healed:
            host.shut_down()
            self.world.after(seconds, host.start)

    def _shut_down(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None:
            return ""
        self._restart(host, fault.seconds)
        return host.name

    def _pause(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or host.paused:
            return ""
        if fault.detail in {"", *POINTS}:
            host.armed_pause = (fault.detail, fault.seconds)
        else:
            host.pause(fault.seconds, timers_last=fault.detail == TIMERS_LAST)
        return host.name

    def _partition(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None:
            return ""
        pairs = self._pairs(fault.detail, host.replica)
        self.network.block(pairs, hold=bool(fault.number))
        self.world.count(f"partition: {fault.detail}")
        self.world.after(fault.seconds, self._mend, pairs)
        return host.name

    def _mend(self, pairs: list[tuple[int, int]]) -> None:
        if self.healed:
            return
        self.network.unblock(pairs)
        if self.draw.random() < 0.5:
            for one, other in sorted({(min(pair), max(pair)) for pair in pairs if min(pair) > 0}):
                self._reset_streams(one, other)

    def _pairs(self, shape: str, center: ReplicaId) -> list[tuple[int, int]]:
        replicas = sorted(self.hosts)
        others = [replica for replica in replicas if replica != center]
        draw = self.draw
        if shape == "clients":
            return [pair for client in self.clients for pair in ((client.endpoint, center), (center, client.endpoint))]
        if not others:
            return []
        if shape == "isolate":
            return [pair for other in others for pair in ((center, other), (other, center))]
        if shape == "deaf":
            return [(other, center) for other in others]
        if shape == "mute":
            return [(center, other) for other in others]
        if shape == "one link":
            other = draw.choice(others)
            return [(center, other), (other, center)]
        if shape == "one direction":
            other = draw.choice(others)
            return [draw.choice(((center, other), (other, center)))]
        if shape == "hub":
            return [(one, other) for one in others for other in others if one != other]
        if shape == "chain":
            order = [center, *others]
            draw.shuffle(order)
            return [(one, other) for i, one in enumerate(order) for j, other in enumerate(order) if abs(i - j) > 1]
        if shape == "halves":
            side = {replica for replica in others if draw.random() < 0.5} | {center}
            return [(one, other) for one in replicas for other in replicas if (one in side) != (other in side)]
        share = draw.uniform(0.1, 0.6)
        return [(one, other) for one in replicas for other in replicas if one != other and draw.random() < share]

    def _reset(self, fault: Fault) -> str:
        replicas = sorted(self.hosts)
        if len(replicas) < 2:
            return ""
        one, other = self.draw.sample(replicas, 2)
        self._reset_streams(one, other)
        return f"r{one} and r{other}"

    def _reset_streams(self, one: ReplicaId, other: ReplicaId) -> None:
        self.network.reset(one, other)
        self.world.after(0.02 * self.plan.unit_s * self.draw.random(), self.hosts[one].peer_reset, other)
        self.world.after(0.02 * self.plan.unit_s * self.draw.random(), self.hosts[other].peer_reset, one)

    def _slow_link(self, fault: Fault) -> str:
        replicas = sorted(self.hosts)
        if len(replicas) < 2:
            return ""
        one, other = self.draw.sample(replicas, 2)
        slow = LinkProfile(delay_s=fault.number, jitter_s=fault.number)
        for source, target in ((one, other), (other, one)):
            self.network.shape(source, target, slow)
        self.world.after(fault.seconds, self._reshape, one, other)
        return f"r{one} and r{other}"

    def _reshape(self, one: ReplicaId, other: ReplicaId) -> None:
        if not self.healed:
            self.network.shape(one, other, self.plan.links)
            self.network.shape(other, one, self.plan.links)

    def _slow_disk(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None:
            return ""
        host.sync_factor = fault.number
        self.world.after(fault.seconds, self._quick_disk, host)
        return host.name

    def _quick_disk(self, host: Host) -> None:
        host.sync_factor = 1.0

    def _failed_sync(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None:
            return ""
        host.fail_next_sync = True
        return host.name

    def _corrupt(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or not self._may_lose(host):
            return ""
        host.crash(power=True, why="bits rot")
        rotten = host.disk.corrupt(host.disk_draw)
        self.world.after(0.1 * self.plan.unit_s, host.start)
        if rotten is None:
            return ""
        self._lost(host)
        return f"{host.name}: {rotten[0]} {rotten[1].hex()}"

    def _wipe(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or not self._may_lose(host) or not host.disk.admitted:
            return ""
        host.wipe()
        self.world.after(0.1 * self.plan.unit_s, host.start)
        self._lost(host)
        return host.name

    def _lost(self, host: Host) -> None:
        """A replica will never come back: the operator has it replaced where the protocol can."""
        host.doomed = True
        if self.spec.capabilities.reconfiguration:
            self.world.after(self.draw.random() * 2 * self.plan.unit_s, self._replace_lost, host)

    def _replace_lost(self, host: Host) -> None:
        self._replace_member(host)

    def _replace(self, fault: Fault) -> str:
        # Whoever is lost goes first: a newcomer needs the rest of the members in order to be admitted.
        lost = [host for host in self._all_members() if host.doomed]
        host = lost[0] if lost else self._target(fault)
        if host is None or not (host.doomed or self._may_lose(host)) or not self._replace_member(host):
            return ""
        return host.name

    def _replace_member(self, host: Host) -> bool:
        """Have a new replica decided on in the place of one."""
        if self.change is not None or self.healed or host.replica not in self.configuration.replicas:
            return False
        self.change = self._successor(host)
        self.rival = None
        self._hurried = self._haste.random() < HURRIED or not self.spec.capabilities.total_order
        if self.draw.random() < self.plan.rivals:
            other = self.draw.choice(self._members() or [host])
            if self._may_lose_in_peace(other):
                self.rival = self._successor(other)
        return True

    def _successor(self, host: Host) -> Configuration:
        """The configuration in which a newcomer, whose machine is set up at once, stands for ``host``."""
        now = self.configuration
        replica = max(self.hosts) + 1
        protocol = self.draw.choice(self.plan.protocols) if self.plan.protocols else now.protocol
        known = {field.name for field in msgspec.structs.fields(self.protocols.find(protocol).options)}
        newcomer = self._add_host(replica, joining=True)
        self.world.after(self.draw.random() * self.plan.unit_s, newcomer.start)
        return Configuration(
            epoch=now.epoch + 1,
            members=tuple(Member(replica) if member.replica == host.replica else member for member in now.members),
            protocol=protocol,
            options={name: value for name, value in now.options.items() if name in known},
            retired=(*now.retired, host.replica),
        )

    def _snapshot(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or host.process is None:
            return ""
        host.process.enter(host.process.take_snapshot)
        return host.name

    def _yield(self, fault: Fault) -> str:
        host = self._find_leader()
        if host is None or host.process is None:
            return ""
        others = [replica for replica in self.configuration.replicas if replica != host.replica]
        successor = self.draw.choice([None, *others])
        if fault.target == SAME and self._last_target in others:
            successor = self._last_target
        host.process.enter(host.process.yield_leadership, successor)
        return host.name

    def _client_crash(self, fault: Fault) -> str:
        client = self.draw.choice(self.clients)
        client.crash()
        return f"c{client.number}"

    def _client_move(self, fault: Fault) -> str:
        client = self.draw.choice(self.clients)
        client.move()
        return f"c{client.number}"

    def _clock_jump(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or host.process is None:
            return ""
        host.clock.jump(self.world.now, fault.number)
        host.process.enter(host.process.rearm)
        return host.name

    def _clock_rate(self, fault: Fault) -> str:
        host = self._target(fault)
        if host is None or host.process is None:
            return ""
        before = host.clock.rate
        host.clock.set_rate(self.world.now, fault.number)
        host.process.enter(host.process.rearm)
        self.world.after(fault.seconds, self._clock_back, host, before)
        return host.name

    def _clock_back(self, host: Host, rate: float) -> None:
        if not self.healed:
            host.clock.set_rate(self.world.now, rate)
            if host.process is not None:
                host.process.enter(host.process.rearm)


def _ballot(host: Host) -> str:
    process = host.process
    return "" if process is None or process.coordinator is None else process.coordinator.status().ballot


_STRIKES: Final = {
    "crash": Simulation._crash,
    "power cut": Simulation._power_cut,
    "rolling restart": Simulation._rolling_restart,
    "shut down": Simulation._shut_down,
    "pause": Simulation._pause,
    "partition": Simulation._partition,
    "reset": Simulation._reset,
    "slow link": Simulation._slow_link,
    "slow disk": Simulation._slow_disk,
    "failed sync": Simulation._failed_sync,
    "corrupt": Simulation._corrupt,
    "wipe": Simulation._wipe,
    "replace": Simulation._replace,
    "snapshot": Simulation._snapshot,
    "yield": Simulation._yield,
    "client crash": Simulation._client_crash,
    "client move": Simulation._client_move,
    "clock jump": Simulation._clock_jump,
    "clock rate": Simulation._clock_rate,
}


def plan_of(
    seed: int,
    spec: ProtocolSpec,
    replicas: int,
    profile: str | FaultProfile = "all",
    *,
    options: Options | None = None,
    operations: int = 500,
) -> Plan:
    """The plan that a seed stands for. Raises `KeyError` for a profile that does not exist."""
    faults = PROFILES[profile] if isinstance(profile, str) else profile
    draw = random.Random(f"{seed}/plan")
    return draw_plan(draw, seed, spec, replicas, faults, options=options, operations=operations)


def run(
    seed: int,
    spec: ProtocolSpec,
    replicas: int = 3,
    profile: str | FaultProfile = "all",
    *,
    options: Options | None = None,
    operations: int = 500,
    controls: Controls | None = None,
    plan: Plan | None = None,
    readable: bool = False,
    recorder: Recorder | None = None,
    witness: Witness | None = None,
) -> Report:
    """Run one seed. Raises `SimulationFailure`, which names the check, the seed and how to replay it.

    ``recorder`` is given what the clients saw, whether the run was clean or not, and closed. ``witness`` stands in for
    the one that is known for the protocol's name.
    """
    given = plan is not None
    if plan is None:
        plan = plan_of(seed, spec, replicas, profile, options=options, operations=operations)
    simulation = Simulation(plan, spec, replicas, controls=controls, readable=readable, witness=witness)
    try:
        return simulation.run()
    except Exception as error:
        check = error.check if isinstance(error, Violation) else "invariants of the protocol"
        replay = f"synod simulate --protocol {spec.name} --replicas {replicas} "
        if given:
            replay += "--plan FILE --trace, with the plan in FILE"
        else:
            replay += f"--faults {profile} --operations {operations} --replay {seed} --trace"
            replay += "".join(f" --option {name}={value}" for name, value in sorted((options or {}).items()))
        text = f"{type(error).__name__}: {error} (at {simulation.world.now:.6f} s)"
        raise SimulationFailure(check, seed, text, replay, simulation.world.trace.lines) from error
    finally:
        if recorder is not None:
            simulation.oracle.record(recorder, simulation.history, simulation.struck)
