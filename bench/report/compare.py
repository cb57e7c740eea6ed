"""Two sets of runs, held against each other: ratios with confidence intervals, and what may not be compared.

What is compared is the same experiment at the same value of its axis. Two runs that differ in what they promise
(durability, the way of reading, transactions that one side cannot do), in what they were asked (the workload, the loop)
or in where they ran (replicas, network, simulated or not) are not compared: `incomparable` names the difference, and no
ratio is formed. Neither is one for a figure that the harness limited.

Within one folder repetitions are interleaved, so ratios are formed in pairs. Between two folders nothing pairs them:
the interval is Welch's, on the logarithms, with the degrees of freedom of Welch and Satterthwaite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.report.data import ExperimentView, PointView, experiments_of, paired_ratio
from bench.results import CONFIDENCE, Estimate, Folder, RunResult, Scalar
from bench.workload import Workload

__all__ = ["Comparison", "Side", "compare", "incomparable", "unpaired_ratio"]

_FIGURES: Final[dict[str, Callable[[RunResult], float]]] = {
    "throughput": lambda run: run.summary.throughput,
    "p50": lambda run: run.summary.p50_ms,
    "p99": lambda run: run.summary.p99_ms,
}


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison: a folder, and one target of it unless each is compared with its namesake."""

    folder: Folder
    label: str = ""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One point of both sides. A ratio is the second's figure over the first's; None where it may not be said."""

    experiment: str
    axis: str
    value: Scalar
    first: PointView
    second: PointView
    differences: list[str]
    """Why the two may not be compared; empty when they may."""
    throughput: Estimate | None = None
    p50: Estimate | None = None
    p99: Estimate | None = None

    @property
    def verdict(self) -> str:
        """Of both sides."""
        return self.first.mark if self.first.mark == self.second.mark else f"{self.first.mark} / {self.second.mark}"


def incomparable(one: RunResult, other: RunResult) -> list[str]:
    """What two runs differ in that makes a ratio of theirs meaningless; empty when nothing does."""
    here, there = one.deployment, other.deployment
    found = []
    for name, text in (
        ("durability", "durability"),
        ("consistency", "reads"),
        ("replicas", "replicas"),
        ("topology", "network"),
        ("leader", "the leader's region"),
    ):
        mine, theirs = getattr(here, name), getattr(there, name)
        if name == "leader" and not (mine and theirs):
            continue  # one of them has no single leader, or leaves it where it is
        if mine != theirs:
            found.append(f"{text}: {mine or 'none'} against {theirs or 'none'}")
    if here.simulated != there.simulated:
        found.append("one is simulated, the other measured")
    asked, other_asked = _asked(one), _asked(other)
    if asked != other_asked:
        found.append("the workload differs" + _fields(asked, other_asked))
    begun, other_begun = (run.load.get("preload_at", "leader") for run in (one, other))
    if begun != other_begun and asked.get("preload"):
        found.append(f"where keys were written before the run: {begun} against {other_begun}")
    if one.load.get("loop") != other.load.get("loop"):
        found.append(f"loop: {one.load.get('loop')} against {other.load.get('loop')}")
    can = {kind for entry in one.latencies for kind in [entry.kind]}
    could = {kind for entry in other.latencies for kind in [entry.kind]}
    if can != could and one.usable and other.usable:
        found.append(f"kinds of operations that were done: {', '.join(sorted(can))} against {', '.join(sorted(could))}")
    return found


def _asked(run: RunResult) -> dict[str, object]:
    """The workload, with the defaults of what it could not say yet when it was stored."""
    try:
        found: dict[str, object] = msgspec.to_builtins(msgspec.convert(run.workload, Workload))
    except msgspec.ValidationError:
        return run.workload
    return found


def _fields(one: dict[str, object], other: dict[str, object]) -> str:
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return f" ({', '.join(names)})" if names else ""


def compare(first: Side, second: Side) -> list[Comparison]:
    """Every point that both sides have, in the first side's order."""
    same_folder = first.folder.path.resolve() == second.folder.path.resolve()
    theirs = {view.name: view for view in experiments_of(second.folder)}
    found = []
    for view in experiments_of(first.folder):
        other = theirs.get(view.name)
        if other is None:
            continue
        for point in _chosen(view, first.label):
            label = second.label or point.label
            against = other.at(label, point.value)
            if against is not None and not (same_folder and label == point.label):
                found.append(_compared(view, point, against, paired=same_folder))
    return found


def _chosen(view: ExperimentView, label: str) -> Sequence[PointView]:
    return [point for point in view.points if label in {"", point.label}]


def _compared(view: ExperimentView, first: PointView, second: PointView, *, paired: bool) -> Comparison:
    differences = incomparable(first.runs[0], second.runs[0])
    for point in (first, second):
        if point.usable and point.harness_limited:
            differences.append(f"{point.label}: limited by the harness")
        if not point.usable:
            differences.append(f"{point.label}: there are no figures")
    ratios: dict[str, Estimate | None] = {}
    if not differences:
        for name, of in _FIGURES.items():
            if paired:
                ratios[name] = paired_ratio(second, first, of)
            else:
                ratios[name] = unpaired_ratio([of(run) for run in second.usable], [of(run) for run in first.usable])
    return Comparison(
        experiment=view.title,
        axis=view.axis_title,
        value=first.value,
        first=first,
        second=second,
        differences=differences,
        **ratios,
    )


def unpaired_ratio(
    numerators: Sequence[float], denominators: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """The ratio of two means of logarithms, with Welch's interval; open with fewer than two values on a side."""
    above = [math.log(value) for value in numerators if value > 0]
    below = [math.log(value) for value in denominators if value > 0]
    if not above or not below:
        return None
    difference = math.fsum(above) / len(above) - math.fsum(below) / len(below)
    count = min(len(above), len(below))
    if count < 2:
        return Estimate(mean=math.exp(difference), low=None, high=None, count=count, confidence=confidence)
    errors = [_variance(values) / len(values) for values in (above, below)]
    error = math.sqrt(sum(errors))
    if error == 0:
        half = 0.0
    else:
        from scipy.stats import t

        freedom = sum(errors) ** 2 / sum(
            part**2 / (len(values) - 1) for part, values in zip(errors, (above, below), strict=True)
        )
        half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return Estimate(
        mean=math.exp(difference),
        low=math.exp(difference - half),
        high=math.exp(difference + half),
        count=count,
        confidence=confidence,
    )


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
