"""What tables and plots show, from the runs of a folder. Pure.

A *point* gathers the repetitions of one target at one value of the axis; its figures are means over repetitions with
confidence intervals. The verdict of a point is that of its worst run: a point is as good as what is known of all its
runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from bench.results import (
    Deployment,
    Estimate,
    Folder,
    RunResult,
    Scalar,
    estimate,
    merged_latencies,
    percentile_ms,
    points_of,
    ratio,
)

__all__ = [
    "MODEL_ERROR_AIM",
    "Compared",
    "ExperimentView",
    "Mark",
    "PointView",
    "Prediction",
    "Predictor",
    "experiments_of",
]

Mark: TypeAlias = Literal["checked", "violation", "unknown", "not applicable", "failed"]
"""What a verdict comes to in one word."""

CORES_OF_OTHERS: Final = 0.5
"""Processor used by programs that have no part in a run, from which on its figures are not those of the machine."""

LOAD_AXES: Final = frozenset({"load.in_flight", "load.rate", "in_flight", "rate"})
"""Axes along which a curve of latency over throughput is drawn."""

WRITING: Final = frozenset(
    {"write", "update", "insert", "delete", "add", "transaction", "create-run", "log-metrics", "register-artifact"}
)


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A series that a model predicts: drawn beside what was measured, thin and dashed.

    For curves ``x`` is throughput in operations a second and ``y`` latency in ms; along any other axis ``x`` is the
    value of the axis. ``regions`` holds predicted latencies by region instead.
    """

    experiment: str
    label: str
    """Of the target that is predicted; it shares that one's colour."""
    quantity: Literal["latency", "throughput"] = "latency"
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    region: str = ""
    """Of the clients, where ``y`` is theirs alone; empty for all together."""
    regions: dict[str, float] = {}
    name: str = "model"
    """As the legend has it."""


MODEL_ERROR_AIM: Final = 0.2
"""A prediction that is off by more than this share is called wrong."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A point that a model covers, predicted and measured. Rates in operations a second, of all regions.

    What was measured is the median over the repetitions, which a single disturbed one does not move.
    """

    experiment: str = ""
    label: str
    value: Scalar
    region: str = ""
    """Empty for all regions together."""
    measured_rate: float
    predicted_rate: float
    measured_ms: float
    predicted_ms: float
    measured_ms_range: tuple[float, float] | None = None
    """Of the repetitions the smallest and the largest mean latency, where there are several."""
    limit: str

    @property
    def rate_error(self) -> float:
        """Predicted over measured throughput, less 1."""
        return self.predicted_rate / self.measured_rate - 1

    @property
    def latency_error(self) -> float:
        """Predicted over measured mean latency, less 1."""
        return self.predicted_ms / self.measured_ms - 1

    @property
    def error(self) -> float:
        """The larger of both without its sign."""
        return max(abs(self.rate_error), abs(self.latency_error))

    @property
    def good(self) -> bool:
        """Neither is off by more than `MODEL_ERROR_AIM`."""
        return self.error <= MODEL_ERROR_AIM

    @property
    def within_noise(self) -> bool:
        """The predicted latency lies between those of the repetitions."""
        low, high = self.measured_ms_range or (math.inf, -math.inf)
        return low <= self.predicted_ms <= high


class Predictor(Protocol):
    """Predicts what an experiment will show; an analytic model is one."""

    def __call__(self, experiment: ExperimentView, /) -> Sequence[Prediction]:
        """The predictions for one experiment; none when the model does not cover it."""

    def compared(self, experiment: ExperimentView, /) -> Sequence[Compared]:
        """The points of one experiment that the model covers, beside what was measured."""

    def notes(self) -> Sequence[str]:
        """What a reader must know of the predictions: where the constants come from, and what speaks against them."""


class PointView(msgspec.Struct, kw_only=True):
    """One target at one value of the axis."""

    label: str
    value: Scalar
    runs: list[RunResult]

    @property
    def deployment(self) -> Deployment:
        """What was measured."""
        return self.runs[0].deployment

    @property
    def usable(self) -> list[RunResult]:
        """The runs that have figures."""
        return [run for run in self.runs if run.usable]

    def figure(self, of: Callable[[RunResult], float]) -> Estimate | None:
        """The mean of a figure over the repetitions that have it."""
        return estimate([of(run) for run in self.usable])

    @property
    def throughput(self) -> Estimate | None:
        """Operations a second."""
        return self.figure(lambda run: run.summary.throughput)

    @property
    def p50(self) -> Estimate | None:
        """Milliseconds."""
        return self.figure(lambda run: run.summary.p50_ms)

    @property
    def p99(self) -> Estimate | None:
        """Milliseconds."""
        return self.figure(lambda run: run.summary.p99_ms)

    @property
    def mean(self) -> Estimate | None:
        """Milliseconds."""
        return self.figure(lambda run: run.summary.mean_ms)

    def median(self, of: Callable[[RunResult], float]) -> float:
        """The median of a figure over the repetitions; 0 when none has it."""
        return statistics.median([of(run) for run in self.usable] or [0.0])

    def by_region(self) -> dict[str, tuple[Estimate, float]]:
        """Of each region's clients the mean latency over repetitions and the 99th percentile of all, in ms."""
        regions = sorted({entry.region for run in self.usable for entry in run.latencies})
        found: dict[str, tuple[Estimate, float]] = {}
        for region in regions:
            means, tails = [], []
            for run in self.usable:
                histogram = merged_latencies(run, region=region)
                if histogram.get_total_count():
                    means.append(histogram.get_mean_value() / 1e3)
                    tails.append(percentile_ms(histogram, 99))
            average = estimate(means)
            if average is not None:
                found[region] = average, max(tails)
        return found

    def stages(self) -> dict[str, float]:
        """Mean milliseconds of each stage at the replica that served most, and beyond it ``way``: what clients saw in
        addition, on the way to that replica and back. Empty when nothing was measured.
        """
        sums: dict[str, float] = {}
        weight = 0.0
        for run in self.usable:
            served = {stage.replica: stage.count for stage in run.stages if stage.name == "total"}
            if not served:
                continue
            leading = max(served, key=lambda replica: served[replica])
            mine = {stage.name: stage.mean_ms for stage in run.stages if stage.replica == leading}
            total = mine.pop("total")
            seen = _mean_write_ms(run)
            mine["way"] = max(0.0, seen - total) if seen is not None else 0.0
            for name, mean_ms in mine.items():
                sums[name] = sums.get(name, 0.0) + mean_ms
            weight += 1
        return {name: value / weight for name, value in sums.items()} if weight else {}

    @property
    def slow_paths(self) -> Estimate | None:
        """The share of commands on the slow path of a protocol that has a fast and a slow one and counts them."""
        shares = []
        for run in self.usable:
            taken = run.counters.get("fast", 0) + run.counters.get("slow", 0)
            if taken:
                shares.append(run.counters.get("slow", 0) / taken)
        return estimate(shares)

    @property
    def mark(self) -> Mark:
        """The worst of the runs' verdicts."""
        if not self.usable:
            return "failed"
        answers = {run.verdict.answer for run in self.usable}
        if any(run.verdict.bad for run in self.runs):
            return "violation"
        if "unknown" in answers:
            return "unknown"
        return "not applicable" if "not applicable" in answers else "checked"

    @property
    def sampled(self) -> float:
        """The share of operations that was judged, over all runs."""
        shares = [run.verdict.sampled for run in self.usable]
        return math.fsum(shares) / len(shares) if shares else 0.0

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not a good one; why runs failed."""
        found: dict[str, None] = {}
        for run in self.runs:
            if run.failure is not None:
                found[f"{run.id}: {run.failure.reason}"] = None
            elif run.verdict.bad:
                detail = run.verdict.digest_detail if run.verdict.digests == "differ" else run.verdict.reason
                found[f"{run.id}: {detail}"] = None
            elif run.verdict.answer != "ok":
                found[run.verdict.reason] = None
        return list(found)

    @property
    def harness_limited(self) -> bool:
        """At least one run was close to the generators' ceiling: no ratio may be claimed."""
        return any(run.harness_limited for run in self.usable)

    @property
    def simulated(self) -> bool:
        """It was not measured but simulated."""
        return self.deployment.simulated

    @property
    def network_differs(self) -> bool:
        """The network was not as declared in at least one run."""
        return any(run.network is not None and not run.network.as_declared for run in self.usable)

    def flags(self) -> list[str]:
        """What a reader must know beside the figure."""
        found = []
        if self.simulated:
            found.append("simulated")
        if self.harness_limited:
            found.append("harness-limited")
        elif any(run.near_null for run in self.usable):
            found.append("harness-limited (null)")
        if any(run.leader_astray for run in self.usable):
            found.append("leader not where it was to be")
        if self.network_differs:
            found.append("network not as declared")
        others = max((run.cores_of_others for run in self.usable), default=0.0)
        if others >= CORES_OF_OTHERS:
            found.append(f"others used {others:.1f} cores")
        if self.deployment.durability == "none":
            found.append("not durable")
        if self.deployment.consistency == "stale":
            found.append("stale reads")
        if len(self.usable) < len(self.runs):
            found.append(f"{len(self.runs) - len(self.usable)} of {len(self.runs)} runs failed")
        return found


class ExperimentView(msgspec.Struct, kw_only=True):
    """One experiment: its points in the order in which they were planned."""

    name: str
    title: str
    axis: str
    axis_title: str
    plot: str
    points: list[PointView]
    predictions: list[Prediction] = []
    against: str = ""
    """The target that the suite wants the others to be held against, or the beginning of its name."""

    @property
    def labels(self) -> list[str]:
        """The targets, in the order in which they were planned."""
        return list(dict.fromkeys(point.label for point in self.points))

    @property
    def values(self) -> list[Scalar]:
        """The values of the axis, in order."""
        values = list(dict.fromkeys(point.value for point in self.points))
        if all(isinstance(value, int | float) for value in values):
            return sorted(values, key=float)
        return values

    @property
    def numeric(self) -> bool:
        """Is the axis one of numbers, with more than one value?"""
        values = self.values
        return len(values) > 1 and all(isinstance(value, int | float) for value in values)

    @property
    def runs(self) -> list[RunResult]:
        """All runs."""
        return [run for point in self.points for run in point.runs]

    def of(self, label: str) -> list[PointView]:
        """The points of one target, along the axis."""
        order = {value: position for position, value in enumerate(self.values)}
        return sorted((point for point in self.points if point.label == label), key=lambda point: order[point.value])

    def at(self, label: str, value: Scalar) -> PointView | None:
        """The point of a target at a value."""
        return next((point for point in self.points if (point.label, point.value) == (label, value)), None)

    @property
    def has_slow_paths(self) -> bool:
        """Some commands took a slow path; where none did, there is nothing to show."""
        return any(found.mean > 0 for point in self.points if (found := point.slow_paths) is not None)

    @property
    def region_names(self) -> list[str]:
        """Of the clients, in the order of the topology; none where there are no regions."""
        return list(dict.fromkeys(name for run in self.runs for name in run.regions))

    @property
    def baseline(self) -> str:
        """The target that the others are held against: the suite's, another system where there is one, or the first."""
        wanted = [label for label in self.labels if self.against and label.startswith(self.against)]
        if wanted:
            return wanted[0]
        others = [
            label
            for label in self.labels
            if any(p.deployment.target != "synod" for p in self.points if p.label == label)
        ]
        return others[0] if others and len(others) < len(self.labels) else self.labels[0]

    def ratio_to_baseline(self, point: PointView) -> Estimate | None:
        """Throughput over the baseline's at the same value, in pairs of one repetition each."""
        other = self.at(self.baseline, point.value)
        if other is None or point.label == self.baseline or point.harness_limited or other.harness_limited:
            return None
        if point.simulated != other.simulated or point.deployment.durability != other.deployment.durability:
            return None
        return paired_ratio(point, other, lambda run: run.summary.throughput)


def paired_ratio(one: PointView, other: PointView, of: Callable[[RunResult], float]) -> Estimate | None:
    """How many times the other's figure one's is, repetition by repetition."""
    theirs = {run.repetition: of(run) for run in other.usable}
    return ratio([(of(run), theirs[run.repetition]) for run in one.usable if run.repetition in theirs])


def _mean_write_ms(run: RunResult) -> float | None:
    total, count = 0.0, 0
    for kind in sorted({entry.kind for entry in run.latencies} & WRITING):
        histogram = merged_latencies(run, origin="sent", kind=kind)
        recorded = histogram.get_total_count()
        if recorded:
            total += histogram.get_mean_value() / 1e3 * recorded
            count += recorded
    return total / count if count else None


def experiments_of(folder: Folder, predictor: Predictor | None = None) -> list[ExperimentView]:
    """The experiments of a folder, in the order of their first runs, with what ``predictor`` makes of them."""
    declared = _declared(folder.manifest.suite)
    views: dict[str, ExperimentView] = {}
    for (experiment, label, value), runs in points_of(folder.runs).items():
        view = views.get(experiment)
        if view is None:
            known = declared.get(experiment, {})
            axis = next((run.point.axis for run in runs if run.point.axis), "")
            sweep = known.get("sweep")
            title = sweep.get("title", "") if isinstance(sweep, Mapping) else ""
            view = views[experiment] = ExperimentView(
                name=experiment,
                title=str(known.get("title") or experiment),
                axis=axis,
                axis_title=str(title) or axis_title(axis),
                plot=str(known.get("plot") or ""),
                points=[],
                against=str(folder.manifest.suite.get("baseline") or ""),
            )
        view.points.append(PointView(label=label, value=value, runs=sorted(runs, key=lambda run: run.repetition)))
    found = list(views.values())
    if predictor is not None:
        for view in found:
            view.predictions = list(predictor(view))
    return found


def _declared(suite: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    entries = suite.get("experiments")
    found: dict[str, Mapping[str, object]] = {}
    for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, str) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            found[str(entry["name"])] = entry
    return found


_AXES: Final = {
    "in_flight": "operations in flight",
    "rate": "offered load, operations a second",
    "replicas": "replicas",
    "percent": "conflicting operations, %",
    "writes": "share of writes",
    "bytes": "value size, bytes",
    "batch_max": "operations in one command, at most",
    "durability": "durability",
    "deviation": "spread of each region's keys, share of all",
    "workload": "workload",
    "keys": "keys",
}


def axis_title(axis: str) -> str:
    """An axis of a sweep, with its unit, for people."""
    return _AXES.get(axis.rpartition(".")[2], axis.replace("_", " "))
