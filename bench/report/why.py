"""What a report says of why: sentences from stages, resources and ceilings, each with its figures.

No sentence is said that the figures do not carry; where nothing stands out, that is what is said. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.report.data import CORES_OF_OTHERS, ExperimentView, PointView
from bench.report.plots import fault_text
from bench.report.words import gap_text
from bench.results import Resources, RunResult

__all__ = ["explain"]

DOMINANT: Final = 0.4
"""A stage with at least this share of the latency is named as what dominates it."""

BUSY_CORE: Final = 0.85
"""A process that uses this much of a core has no more to give: its loop is one thread."""

BUSY_MACHINE: Final = 0.9
"""Of all cores."""

_STAGES: Final = {
    "way": "the client and the way to the serving replica and back",
    "queue": "waiting in the replica's inbox for a turn",
    "batch": "the turn itself, with the rest of its batch",
    "sync": "the sync to disk",
    "network": "the round trip to the quorum",
    "quorum": "waiting for the others' turns, queues and disks",
    "apply": "applying and answering",
}


def explain(view: ExperimentView, cores: int) -> list[str]:
    """Sentences about an experiment, by target: its lightest and its heaviest point."""
    found: list[str] = []
    for label in view.labels:
        points = [point for point in view.of(label) if point.usable]
        if not points:
            continue
        ends = [points[0]] if len(points) == 1 else [points[0], points[-1]]
        for point in ends:
            sentence = _point(view, point, cores)
            if sentence:
                found.append(sentence)
    for run in view.runs:
        found += _faults(run)
    return found


def _point(view: ExperimentView, point: PointView, cores: int) -> str:
    parts = [part for part in (_latency(point), _processors(point, cores), _limits(point)) if part]
    if not parts:
        return ""
    at = f" at {point.value} {view.axis_title}" if point.value != "" else ""
    return f"{point.label}{at}: " + "; ".join(parts) + "."


def _latency(point: PointView) -> str:
    stages = point.stages()
    total = sum(stages.values())
    if total <= 0:
        return ""
    ordered = sorted(stages.items(), key=lambda item: -item[1])
    name, largest = ordered[0]
    second_name, second = ordered[1] if len(ordered) > 1 else ("", 0.0)
    share = largest / total
    if share >= DOMINANT:
        text = f"{share:.0%} of a write's {total:.3g} ms is {_STAGES[name]} ({largest:.3g} ms)"
        if second_name and second / total >= DOMINANT / 2:
            text += f", {second / total:.0%} is {_STAGES[second_name]}"
        return text
    return (
        f"no stage of a write's {total:.3g} ms stands out: {_STAGES[name]} has {share:.0%}, "
        f"{_STAGES[second_name]} {second / total:.0%}"
    )


def _processors(point: PointView, cores: int) -> str:
    run = point.usable[0]
    seconds = run.measured_s[1] - run.measured_s[0]
    if seconds <= 0 or point.simulated:
        return ""
    busiest = max(
        (used for used in run.resources if used.name != "machine"), key=lambda used: _cores(used, seconds), default=None
    )
    texts = []
    if busiest is not None and _cores(busiest, seconds) >= BUSY_CORE:
        texts.append(f"{busiest.name} uses {_cores(busiest, seconds):.2f} cores and has no more to give on one thread")
    machine = next((used for used in run.resources if used.name == "machine"), None)
    others = run.cores_of_others
    if others >= CORES_OF_OTHERS:
        texts.append(f"programs that have no part in the run used {others:.2f} of the machine's {cores} cores")
    elif machine is not None and cores and _cores(machine, seconds) >= BUSY_MACHINE * cores:
        texts.append(
            f"the machine's {cores} cores are used up ({_cores(machine, seconds):.2f}): replicas and generators "
            "compete for them"
        )
    return " and ".join(texts)


def _limits(point: PointView) -> str:
    if not point.harness_limited:
        return ""
    ceiling = max(run.ceiling for run in point.usable)
    return f"the generators' own ceiling is {ceiling:,.0f} operations/s, so that the figure says little of the target"


def _cores(used: Resources, seconds: float) -> float:
    return (used.cpu_user_s + used.cpu_system_s) / seconds


def _faults(run: RunResult) -> Sequence[str]:
    found = [f"{run.id}: {fault_text(event)}: {event.error}." for event in run.faults if event.error]
    window_s = run.series.window_s
    if run.faults and run.usable:
        found.append(
            f"{run.deployment.label} ({run.id}): {gap_text(run)}; series are counted in windows of {window_s:g} s."
        )
    return found
