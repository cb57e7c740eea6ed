"""Predictions beside measurements: the same points, the same plots, and the error of each.

`Model` answers what the report asks of a predictor: given an experiment, what would this build's model (`system`) have
said of each of its points? It is told nothing of the measurements but what was deployed and asked: protocol, replicas,
network, durability, batches, workload, load, and which replica led. `Model.compared` then puts both side by side.

What the model does not cover gets no prediction, and no error: other systems, simulated runs, runs with faults, YCSB's
inserts and the metadata mix (operations of many kinds), protocols that were not calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.report.data import LOAD_AXES, Compared, ExperimentView, PointView, Prediction
from bench.results import RunResult
from deploy.topology import Topology, TopologyError, load_topology

from .calibration import DEFAULT_FILE, describe_machine, doubts, load, store
from .errors import ModelError
from .placement import zone_failures_of
from .system import Calibration, Deployment, Predicted, closed_loop, open_loop

__all__ = ["CALIBRATION", "Model", "model_of"]

CALIBRATION: Final = "calibration.json"
"""The calibration that goes with results, in their folder."""

_PLAIN_KINDS: Final = frozenset({"read", "write"})


class Model:
    """The model of one machine, as the report's predictor."""

    def __init__(self, constants: Calibration) -> None:
        self._constants = constants

    def __call__(self, experiment: ExperimentView, /) -> Sequence[Prediction]:
        """A series for each target that the model covers."""
        found: list[Prediction] = []
        for label in experiment.labels:
            points = [(point, said) for point in experiment.of(label) if (said := self.of(point)) is not None]
            if not points:
                continue
            if experiment.axis in LOAD_AXES and experiment.numeric:
                found.append(
                    Prediction(
                        experiment=experiment.name,
                        label=label,
                        x=tuple(said.throughput for _, said in points),
                        y=tuple(said.latency_ms for _, said in points),
                    )
                )
            elif experiment.numeric:
                x = tuple(float(point.value) for point, _ in points)
                found.append(
                    Prediction(
                        experiment=experiment.name, label=label, x=x, y=tuple(said.latency_ms for _, said in points)
                    )
                )
                found.append(
                    Prediction(
                        experiment=experiment.name,
                        label=label,
                        quantity="throughput",
                        x=x,
                        y=tuple(said.throughput for _, said in points),
                    )
                )
                found.extend(
                    Prediction(
                        experiment=experiment.name,
                        label=label,
                        region=name,
                        x=x,
                        y=tuple(latency for _, said in points for latency in _latency_in(said, name)),
                    )
                    for name in experiment.region_names
                    if all(_latency_in(said, name) for _, said in points)
                )
            regions = points[0][1].regions
            if len(points) == 1 and len(regions) > 1:
                found.append(
                    Prediction(
                        experiment=experiment.name,
                        label=label,
                        regions={entry.region: entry.latency_ms for entry in regions},
                    )
                )
        return found

    def notes(self) -> Sequence[str]:
        """Where the constants come from, and what speaks against them."""
        constants = self._constants
        passes = f"{constants.passes} pass{'es' if constants.passes > 1 else ''}"
        made = f"Constants from a calibration of {constants.created or 'an unknown day'}, {passes}, on "
        made += f"{constants.machine or 'no named machine'}."
        return [made, *(f"Not to be trusted: {reason}." for reason in doubts(constants))]

    def of(self, point: PointView) -> Predicted | None:
        """What the model says of a point; None where it has nothing to say."""
        usable = point.usable
        if not usable or point.simulated or any(run.faults for run in usable):
            return None
        run = usable[0]
        deployed = _deployment(run)
        if deployed is None:
            return None
        try:
            if run.load.get("loop") == "open":
                return open_loop(self._constants, deployed, float(run.load["rate"]))
            return closed_loop(self._constants, deployed, float(run.load["in_flight"]))
        except (ModelError, KeyError):
            return None

    def compared(self, experiment: ExperimentView, /) -> Sequence[Compared]:
        """Every point that the model covers, and its regions where there are several."""
        found: list[Compared] = []
        for point in experiment.points:
            said = self.of(point)
            rate = point.median(lambda run: run.summary.throughput)
            latency = point.median(lambda run: run.summary.mean_ms)
            if said is None or not rate or not latency:
                continue
            seen = [run.summary.mean_ms for run in point.usable]
            whole = Compared(
                experiment=experiment.name,
                label=point.label,
                value=point.value,
                measured_rate=rate,
                predicted_rate=said.throughput,
                measured_ms=latency,
                predicted_ms=said.latency_ms,
                measured_ms_range=(min(seen), max(seen)) if len(seen) > 1 else None,
                limit=said.limit,
            )
            found.append(whole)
            measured = point.by_region()
            found.extend(
                msgspec.structs.replace(
                    whole,
                    region=entry.region,
                    measured_ms=measured[entry.region][0].mean,
                    predicted_ms=entry.latency_ms,
                    measured_ms_range=None,
                )
                for entry in said.regions
                if len(said.regions) > 1 and entry.region in measured
            )
        return found


def _latency_in(said: Predicted, region: str) -> list[float]:
    """That of the clients in a region, if the prediction has it."""
    return [entry.latency_ms for entry in said.regions if entry.region == region]


def _deployment(run: RunResult) -> Deployment | None:
    """What the run was, for the model; None where the model does not cover it."""
    if run.deployment.target != "synod" or not run.deployment.protocol:
        return None
    shares = _shares(run)
    if not shares or not shares.keys() <= _PLAIN_KINDS:
        return None
    if run.deployment.protocol == "wpaxos" and run.load.get("preload_at") == "farthest":
        return None  # its objects are on their way for much of the run; the model knows them settled
    topology = _topology(run)
    options = run.deployment.options
    conflict = 0.0
    if isinstance(table := run.workload.get("conflict"), dict):
        conflict = float(table.get("percent", 0.0)) / 100
    value = run.workload.get("value")
    return Deployment(
        protocol=run.deployment.protocol,
        replicas=run.deployment.replicas,
        topology=topology,
        leader=_leader(run, topology),
        durability=run.deployment.durability,
        batch_max=run.deployment.batch_max or 1,
        q2=int(options["q2"]) if "q2" in options else None,
        zone_failures=zone_failures_of(options, topology, run.deployment.replicas),
        conflict=conflict,
        locality=_locality(run),
        # The keys that clients contend for are in one place; keys that all use are where they were used last.
        spread=not isinstance(run.workload.get("conflict"), dict),
        write_share=shares.get("write", 0.0),
        value_bytes=int(value.get("bytes", 128)) if isinstance(value, dict) else 128,
    )


def _locality(run: RunResult) -> float | None:
    """The share of operations on objects that are owned where the client is, once they have moved there.

    Clients with keys of their own find them at home but for the conflicts (None). Of keys that all regions use alike
    each region comes to own its share. Keys around a mean for each region (the means evenly spread) belong to whoever's
    mean is nearest.
    """
    if isinstance(run.workload.get("conflict"), dict):
        return None
    regions = max(1, len(run.regions))
    if isinstance(table := run.workload.get("locality"), dict):
        deviation = float(table["deviation"])
        if table.get("kind") == "uniform":
            return min(1.0, 1 / regions / (deviation * math.sqrt(12)))
        return math.erf(0.5 / regions / (deviation * math.sqrt(2)))
    return 1 / regions


def _shares(run: RunResult) -> dict[str, float]:
    mix = run.workload.get("mix")
    if isinstance(mix, dict) and mix:
        return {str(kind): float(share) for kind, share in mix.items() if share > 0}
    writes = run.workload.get("writes")
    share = 0.5 if writes is None else float(writes)
    return {kind: part for kind, part in (("read", 1 - share), ("write", share)) if part > 0}


def _topology(run: RunResult) -> Topology | None:
    if not run.deployment.topology:
        return None
    try:
        found = load_topology(run.deployment.topology)
    except TopologyError:
        return None
    # Clients may stand in some of the regions only; the others do not count for latency.
    return found if found.round_trip_ms else None


def _leader(run: RunResult, topology: Topology | None) -> str | None:
    """Where the leader stood, or else the region of the replica that served most."""
    if topology is not None and run.leader in topology.regions.names:
        return run.leader
    served = {stage.replica: stage.count for stage in run.stages if stage.name == "total"}
    if topology is None or not served:
        return None
    return topology.region_of(max(served, key=lambda replica: served[replica]) - 1)


def model_of(folder: Path, given: Path | None = None) -> Model | None:
    """The model for a folder of results: of the calibration ``given``, or that in the folder, or this machine's.

    What was found elsewhere is copied into the folder, so that the report can be made again. None when there is none,
    or when the only one was made on another machine. Raises `ModelError` for one that was given or lies in the folder
    and cannot be used.
    """
    kept = folder / CALIBRATION
    if given is not None:
        constants = load(given)
    elif kept.exists():
        return Model(load(kept))
    elif DEFAULT_FILE.exists():
        constants = load(DEFAULT_FILE)
        if constants.machine != describe_machine():
            return None
    else:
        return None
    store(kept, constants)
    return Model(constants)
