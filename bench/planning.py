"""From a suite to the runs that it means, in order; and everything that is refused before anything starts.

A *plan* is one run: a target at a point, once. Planning resolves what varies along the axis, asks each target whether
it can do what is wanted (an answer of no is a skip, aloud), and refuses what makes no sense at all with a `SuiteError`
that names the field. Plans of the same experiment, point and repetition have the same seed, whatever the target: all
are asked the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from bench.operations import check_sharing
from bench.results import PlannedRun, Point, Scalar, Skipped
from bench.suite import (
    ClusterShape,
    Experiment,
    Load,
    Suite,
    SuiteError,
    TargetEntry,
    validate_history,
    validate_load,
    validate_shape,
)
from bench.targets import Target, TargetError, TargetUnavailable, find_target
from bench.workload import Workload, WorkloadError, load_workload, rephrase
from deploy.topology import TopologyError, load_topology

T = TypeVar("T", bound=msgspec.Struct)

OVERHEAD_S = 1.5
"""What a run costs beside its load: generators, judging. A guess, for the time that is left."""

DEPLOYMENT_S = 2.5
"""What it costs to start a deployment and to stop it. Another."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    id: str
    experiment: Experiment
    entry: TargetEntry
    label: str
    shape: ClusterShape
    workload: Workload
    load: Load
    point: Point
    repetition: int
    seed: int
    regions: tuple[str, ...]
    """Of the clients; one empty name where there are no regions."""

    @property
    def clients(self) -> int:
        """Generator processes."""
        return len(self.regions) * self.load.processes

    def preloads(self, client: int) -> tuple[int, ...]:
        """The regions, by number, whose keys a client writes before the run (`Load.preload_at`)."""
        place, process = divmod(client, self.load.processes)
        if not self.workload.preload or process:
            return ()
        if self.load.preload_at == "farthest":
            return tuple(home for home in range(len(self.regions)) if self._farthest(home) == place)
        leader = self.regions.index(self.shape.leader) if self.shape.leader in self.regions else 0
        return tuple(range(len(self.regions))) if place == leader else ()

    def _farthest(self, region: int) -> int:
        """The region with clients that is farthest from another one."""
        topology = load_topology(self.shape.topology)
        here = self.regions[region]
        others = [place for place in range(len(self.regions)) if place != region]
        return max(others, key=lambda place: topology.round_trip(here, self.regions[place]))

    @property
    def prefix(self) -> str:
        """Of all keys: runs may share a cluster, and start from nothing nevertheless."""
        return f"{crc32(f'{self.experiment.name}|{self.point.value}|{self.repetition}'.encode()):08x}/"

    @property
    def deployment(self) -> str:
        """Two plans with the same may use one deployment, one after the other."""
        return msgspec.json.encode((self.entry, self.shape)).decode()

    @property
    def load_s(self) -> float:
        """How long there is load."""
        return self.load.warm_up_s + self.load.seconds + self.load.cool_down_s

    @property
    def seconds(self) -> float:
        """How long it takes, about, if it needs a deployment of its own."""
        return self.load_s + OVERHEAD_S + DEPLOYMENT_S

    def announced(self) -> PlannedRun:
        """For the manifest."""
        return PlannedRun(
            id=self.id,
            experiment=self.experiment.name,
            label=self.label,
            axis=self.point.axis,
            value=self.point.value,
            repetition=self.repetition,
        )


class Planned(msgspec.Struct, kw_only=True):
    """All runs of a suite in order, and what was left out."""

    plans: list[Plan]
    skipped: list[Skipped]


def plan_suite(suite: Suite) -> Planned:
    """The runs of ``suite``. Raises `SuiteError`."""
    plans: list[Plan] = []
    skipped: list[Skipped] = []
    if not suite.targets:
        raise SuiteError("suite.targets: there is none (name one with --target or --protocol)")
    for experiment in suite.experiments:
        able = _able_targets(suite, experiment, skipped)
        for repetition in range(experiment.repetitions or suite.repetitions):
            for value, entry in _turns(suite, _values(experiment), able if repetition % 2 == 0 else able[::-1]):
                plan = resolve(experiment, entry, value, repetition=repetition, seed=suite.seed)
                if _refusal(plan, find_target(entry.target)(plan.entry, plan.shape)):
                    continue  # said by `_able_targets`
                plans.append(plan)
    if not plans:
        raise SuiteError("nothing is left to run: " + "; ".join(f"{each.label}: {each.reason}" for each in skipped))
    _distinct(plans)
    return Planned(plans=plans, skipped=skipped)


def expected_s(plans: Sequence[Plan]) -> float:
    """How long all of them take, about: of runs that follow each other, those that can share a deployment."""
    total, deployed = 0.0, ""
    for plan in plans:
        alone = plan.experiment.fresh or bool(plan.experiment.faults)
        total += plan.load_s + OVERHEAD_S + (DEPLOYMENT_S if alone or plan.deployment != deployed else 0.0)
        deployed = "" if alone else plan.deployment
    return total


def _turns(
    suite: Suite, values: Sequence[Scalar], entries: Sequence[TargetEntry]
) -> Iterator[tuple[Scalar, TargetEntry]]:
    """The runs of one repetition in their order."""
    if suite.turns == "points":
        yield from ((value, entry) for value in values for entry in entries)
    else:
        yield from ((value, entry) for entry in entries for value in values)


def _distinct(plans: Sequence[Plan]) -> None:
    seen: set[str] = set()
    for plan in plans:
        if plan.id in seen:
            raise SuiteError(
                f"suite.targets: {plan.label!r} appears more than once: give each target a label of its own"
            )
        seen.add(plan.id)


def _able_targets(suite: Suite, experiment: Experiment, skipped: list[Skipped]) -> list[TargetEntry]:
    """The targets that can do some of the experiment; what they cannot do is noted once for each reason."""
    able = []
    for entry in suite.targets:
        if entry.experiments and experiment.name not in entry.experiments:
            continue
        can = False
        reasons: dict[str, None] = {}
        label = entry.label
        for value in _values(experiment):
            plan = resolve(experiment, entry, value, repetition=0, seed=suite.seed)
            label = plan.label
            why = _refusal(plan, find_target(entry.target)(plan.entry, plan.shape))
            if why:
                reasons[why] = None
            else:
                can = True
        skipped += [Skipped(experiment=experiment.name, label=label, reason=reason) for reason in reasons]
        if can:
            able.append(entry)
    return able


def _refusal(plan: Plan, target: Target) -> str:
    try:
        return target.refusal(plan.workload, plan.experiment.faults)
    except TargetUnavailable as error:
        return str(error)


def _values(experiment: Experiment) -> list[Scalar]:
    if experiment.sweep is not None:
        if not experiment.sweep.values:
            raise SuiteError(f"experiment {experiment.name}: sweep.values: there is none")
        return list(experiment.sweep.values)
    steps = experiment.load.saturation
    if steps is not None:
        validate_load(experiment.load)
        count = int(math.log(steps.last / steps.first, steps.factor) + 1e-9) + 1
        found = [steps.first * steps.factor**step for step in range(count)]
        return [round(value) for value in found] if experiment.load.loop == "closed" else list(found)
    return [""]


def resolve(experiment: Experiment, entry: TargetEntry, value: Scalar, *, repetition: int, seed: int) -> Plan:
    """The run of one target at one point. Raises `SuiteError` that names the field."""
    where = f"experiment {experiment.name}"
    load, shape, name = experiment.load, experiment.cluster, experiment.workload
    changes = dict(experiment.changes)
    axis = ""
    if experiment.load.saturation is not None:
        axis = "load.in_flight" if experiment.load.loop == "closed" else "load.rate"
    if experiment.sweep is not None:
        axis = experiment.sweep.axis
    part, _, field = axis.partition(".")
    try:
        if part == "workload" and not field:
            name = str(value)
        elif part == "workload":
            changes[field] = value
        elif part == "load":
            load = _changed(load, {field: value}, "load")
        elif part == "cluster":
            shape = _changed(shape, {field: value}, "cluster")
        elif part == "history":
            history = _changed(experiment.history, {field: value}, "history")
            experiment = msgspec.structs.replace(experiment, history=history)
        elif axis:
            raise SuiteError(f"sweep.axis: {axis!r} is not workload or a field of workload, load, cluster or history")
        shape = _changed(shape, entry.cluster, "cluster")
        workload = load_workload(name, changes)
        validate_load(load)
        validate_shape(shape)
        validate_history(experiment.history)
        regions = _regions(load, shape)
        target = find_target(entry.target)(entry, shape)
        label = target.describe().label
        plan = Plan(
            id=_identifier(experiment.name, label, value, repetition),
            experiment=experiment,
            entry=entry,
            label=label,
            shape=shape,
            workload=workload,
            load=load,
            point=Point(axis=axis, value=value, parameters=_parameters(load, shape, workload)),
            repetition=repetition,
            seed=(seed << 20) ^ crc32(f"{experiment.name}|{value}|{repetition}".encode()),
            regions=regions,
        )
        _check_sharing(plan)
        _check_preload(plan)
        _check_times(plan)
    except (SuiteError, WorkloadError, TargetError) as error:
        raise SuiteError(f"{where}: {error}") from None
    return plan


def _check_sharing(plan: Plan) -> None:
    if plan.load.loop == "closed" and plan.load.in_flight < plan.clients:
        raise SuiteError(
            f"load.in_flight: {plan.load.in_flight} cannot be shared among {plan.clients} generator processes "
            f"({len(plan.regions)} regions with {plan.load.processes} each)"
        )
    check_sharing(plan.workload, plan.clients)


def _check_preload(plan: Plan) -> None:
    if plan.load.preload_at == "leader":
        return
    for able, missing in (
        (plan.workload.preload, "a workload that writes its keys before the clock runs (workload.preload)"),
        (plan.workload.locality is not None, "keys that belong to a region (workload.locality)"),
        (len(plan.regions) > 1, "clients in several regions (cluster.topology, load.regions)"),
    ):
        if not able:
            raise SuiteError(f"load.preload_at: {plan.load.preload_at!r} needs {missing}")


def _check_times(plan: Plan) -> None:
    for table in plan.experiment.faults:
        at_s = table.get("at_s", 0.0)
        if isinstance(at_s, int | float) and at_s >= plan.load_s:
            raise SuiteError(
                f"faults.at_s: {at_s:g} s is when the run is over ({plan.load_s:g} s with warm-up and cool-down); "
                "to shorten a run with its faults, use --scale"
            )


def _regions(load: Load, shape: ClusterShape) -> tuple[str, ...]:
    if not shape.topology:
        if shape.leader:
            raise SuiteError(f"cluster.leader: {shape.leader!r} is a region, which needs a topology (cluster.topology)")
        if load.regions > 1:
            raise SuiteError(f"load.regions: {load.regions} regions need a topology (cluster.topology)")
        return ("",)
    try:
        names = load_topology(shape.topology).regions.names
    except TopologyError as error:
        raise SuiteError(f"cluster.{error}") from None
    if len(names) > shape.replicas:
        raise SuiteError(
            f"cluster.replicas: {shape.replicas} replicas cannot stand in the {len(names)} regions of {shape.topology}"
        )
    if shape.leader and shape.leader not in names:
        raise SuiteError(
            f"cluster.leader: {shape.topology} has no region {shape.leader!r} (it has: {', '.join(names)})"
        )
    if load.regions > len(names):
        raise SuiteError(f"load.regions: {shape.topology} has {len(names)} regions, not {load.regions}")
    return names[: load.regions or len(names)]


def _parameters(load: Load, shape: ClusterShape, workload: Workload) -> dict[str, Scalar]:
    """What a reader wants to know of a point without reading all of its configuration."""
    found: dict[str, Scalar] = {"loop": load.loop, "replicas": shape.replicas, "batch_max": shape.batch_max}
    found["in_flight" if load.loop == "closed" else "rate"] = load.in_flight if load.loop == "closed" else load.rate
    found |= {"keys": workload.keys, "value_bytes": workload.value.bytes, "durability": shape.durability}
    found["writes"] = round(math.fsum(share for kind, share in workload.shares.items() if kind not in _READING), 6)
    if workload.conflict is not None:
        found["conflict_percent"] = workload.conflict.percent
    if workload.locality is not None:
        found["locality_deviation"] = workload.locality.deviation
    if shape.topology:
        found["topology"] = shape.topology
    return found


_READING = frozenset({"read", "scan", "list-runs"})


def _changed(struct: T, changes: Mapping[str, Any], root: str) -> T:
    """``struct`` with fields changed, by path, and checked anew."""
    if not changes:
        return struct
    table: dict[str, Any] = msgspec.to_builtins(struct)
    for path, value in changes.items():
        *parents, name = path.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = {**inner.get(name, {}), **value} if isinstance(value, dict) else value
    try:
        return msgspec.convert(table, type(struct))
    except msgspec.ValidationError as error:
        raise SuiteError(rephrase(error, root)) from None


def _identifier(experiment: str, label: str, value: Scalar, repetition: int) -> str:
    parts = [experiment, label, *([str(value)] if value != "" else []), f"r{repetition + 1}"]
    return "--".join("".join(_slug(part)) for part in parts)


def _slug(text: str) -> Iterator[str]:
    for character in text:
        yield character if character.isalnum() or character in "._-" else "-"
