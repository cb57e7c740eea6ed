"""Simulated clusters of Synod as a target: any number of replicas, with costs that were measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.load.generator import GeneratorResult, GeneratorSpec
from bench.load.measure import Window
from bench.results import Deployment, Network, Resources
from bench.simulated.costs import DEFAULT_FILE, load_costs
from bench.simulated.machine import SimulationLimit
from bench.simulated.run import Simulation
from bench.suite import ClusterShape, TargetEntry
from bench.targets.base import Digests, TargetError
from bench.targets.synod import SynodTarget
from bench.workload import Workload
from deploy.topology import load_topology
from replica.consensus.interface import ConfigurationError
from replica.simulation.world import RunawayWorld

COSTS_VARIABLE = "SYNOD_BENCH_COSTS"
"""Names another file of costs than ``data/costs.json``."""


class SimulatedTarget(SynodTarget):
    """The same protocols as those of clusters in processes, in virtual time; see `bench.simulated`."""

    rpc = "simulated"
    simulated = True

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        super().__init__(entry, shape)
        self._simulation: Simulation | None = None
        try:
            self.costs = load_costs(Path(os.environ.get(COSTS_VARIABLE) or DEFAULT_FILE))
        except ValueError as error:
            raise TargetError(str(error)) from None

    def describe(self) -> Deployment:
        found = super().describe()
        label = self.entry.label or f"{found.label}, simulated"
        mode = "thread" if self.shape.sync_mode == "thread" else "inline"
        return msgspec.structs.replace(
            found,
            target="simulated",
            label=label,
            simulated=True,
            sync_mode=mode,
            node={**found.node, "costs": msgspec.to_builtins(self.costs)},
        )

    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        if faults:
            return "nothing fails in a simulated benchmark: faults are for real clusters and for `synod simulate`"
        if self.spec.capabilities.registers and self.shape.consistency == "stale":
            return f"{self.spec.name} keeps registers, which are not read stale in a simulated benchmark"
        return super().refusal(workload, faults)

    def start(self, folder: Path) -> None:
        shape = msgspec.structs.replace(self.shape, replicas=self.replicas)
        try:
            self._simulation = Simulation(
                self.spec,
                shape,
                topology=load_topology(shape.topology) if shape.topology else None,
                costs=self.costs,
                seed=1,
            )
            self._simulation.start()
        except (ConfigurationError, SimulationLimit, RunawayWorld) as error:
            raise TargetError(str(error)) from None

    def generate(self, specs: Sequence[GeneratorSpec]) -> tuple[list[GeneratorResult], Window]:
        assert self._simulation is not None
        try:
            return self._simulation.generate(specs)
        except (SimulationLimit, RunawayWorld) as error:
            raise TargetError(str(error)) from None

    def place_leader(self) -> None:
        assert self._simulation is not None
        if self.shape.leader and self.led:
            try:
                self._simulation.place_leader(self.shape.leader)
            except (SimulationLimit, RunawayWorld) as error:
                raise TargetError(str(error)) from None

    def counted(self) -> dict[str, int]:
        assert self._simulation is not None
        return self._simulation.counters

    def led_by(self) -> tuple[str, str]:
        assert self._simulation is not None
        if not self.led:
            return "", ""
        return self._simulation.led_by[0], self._simulation.led_by[-1]

    def note(self) -> str:
        costs = self.costs
        figures = ", ".join(
            f"{name.removesuffix('_s').replace('_', ' ')} {getattr(costs, name) * 1e6:.4g}"
            for name in costs.__struct_fields__
            if name.endswith("_s")
        )
        origin = (
            f"measured {costs.measured} on {costs.machine.processor or costs.machine.architecture}, "
            f"misfit {costs.misfit:.0%}"
            if costs.measured
            else "the defaults: nothing was measured here (`synod bench calibrate`)"
        )
        return f"Simulated runs take things to cost, in µs of one processor: {figures} ({origin})."

    def used(self) -> list[Resources]:
        assert self._simulation is not None
        return self._simulation.resources

    def network(self) -> Network | None:
        return None if self._simulation is None else self._simulation.network()

    def url(self, region: str) -> str:
        return "simulated:"

    def stop(self) -> None:
        simulation, self._simulation = self._simulation, None
        if simulation is not None:
            simulation.interrupt()  # a run that is being made on another thread ends

    def dead(self) -> list[str]:
        return []

    def logs(self, lines: int) -> dict[str, list[str]]:
        return {}

    def digests(self) -> Digests:
        assert self._simulation is not None
        if len(self._simulation.machines) < 2:
            return "not compared", "fewer than two replicas run"
        if not self.spec.capabilities.total_order:
            return "not compared", "replicas of this protocol share no frontier"
        found = self._simulation.digests()
        detail = ", ".join(f"{replica}: {digest[:16]} at {applied}" for replica, (applied, digest) in found.items())
        if len({applied for applied, _ in found.values()}) > 1:
            return "not compared", f"the replicas are not at one frontier: {detail}"
        return ("agree" if len({digest for _, digest in found.values()}) == 1 else "differ"), detail

    def processes(self) -> dict[str, int]:
        return {}
