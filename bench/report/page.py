"""The page: one file that needs nothing else, with every plot in it.

``plots/`` gets each plot as a file of its own as well (SVG, and PNG for slides). The page holds no script and loads
nothing, so that it can be read without a network and in ten years.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from bench.report import plots
from bench.report.data import LOAD_AXES, ExperimentView, PointView, Predictor, experiments_of
from bench.report.disagreement import disagreements
from bench.report.settling import settlements
from bench.report.style import Palette, rendered
from bench.report.why import explain
from bench.report.words import interval, latency, number, ratio_text, share_text, verdict_text
from bench.results import PLOTS, REPORT, Folder, Network, RunResult

__all__ = ["environment", "write_report"]

TIMELINES_MAX: Final = 8
"""So many timelines of one experiment at most are on the page; the files of all runs have the rest."""

LOG_LINES_SHOWN: Final = 12


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A plot on the page. ``text`` says what is to be seen, for those who do not see it."""

    name: str
    text: str
    data: str
    """As the address of an image."""


def write_report(folder: Folder, predictor: Predictor | None = None) -> Path:
    """Make ``plots/`` and ``report.html`` from what a folder holds; returns the path of the page.

    ``predictor`` is asked for what a model has to say of each experiment; its series are drawn on the same plots.
    """
    views = experiments_of(folder, predictor)
    palette = Palette(list(dict.fromkeys(label for view in views for label in view.labels)))
    target = folder.path / PLOTS
    target.mkdir(parents=True, exist_ok=True)
    sections = [_section(view, palette, target, folder.manifest.machine.cores, predictor) for view in views]
    name = folder.path.name
    text = (
        environment()
        .get_template("report.html.j2")
        .render(
            disagreements=None if predictor is None else disagreements([(name, folder, predictor)]),
            manifest=folder.manifest,
            folder=folder,
            sections=sections,
            totals=_totals(views),
            suite=msgspec.json.format(msgspec.json.encode(folder.manifest.suite), indent=2).decode(),
            verdict_text=verdict_text,
        )
    )
    path = folder.path / REPORT
    staged = path.with_name(f".{REPORT}.tmp")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)
    return path


def environment() -> Environment:
    """Where the templates are, and what they may use."""
    made = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        interval=interval,
        signed=_signed,
        share=share_text,
        latency=latency,
        number=number,
        ratio=ratio_text,
        mebibytes=_mebibytes,
    )
    return made


def _signed(share: float) -> str:
    return f"{share:+.0%}"


def _section(
    view: ExperimentView, palette: Palette, target: Path, cores: int, predictor: Predictor | None
) -> dict[str, Any]:
    compared = [] if predictor is None else list(predictor.compared(view))
    return {
        "compared": compared,
        "wrong": [row for row in compared if not row.good],
        "view": view,
        "rows": [point for value in view.values for label in view.labels if (point := view.at(label, value))],
        "plots": list(_plots(view, palette, target)),
        "why": explain(view, cores),
        "networks": _networks(view),
        "failures": [run for run in view.runs if run.failure is not None],
        "log_lines": LOG_LINES_SHOWN,
        "setting": _setting(view),
        "resources": _resources(view),
        "reasons": list(dict.fromkeys(reason for point in view.points for reason in point.reasons)),
        "slow_paths": view.has_slow_paths,
        "settled": [row for point in view.points for row in settlements(point)],
        "notes": list(dict.fromkeys(note for run in view.runs for note in run.notes)),
    }


def _plots(view: ExperimentView, palette: Palette, target: Path) -> Iterator[Plot]:
    if not any(point.usable for point in view.points):
        return

    def made(kind: str, text: str, draw: Callable[[], Any]) -> Plot:
        name = f"{_file_name(view.name)}-{kind}"
        picture = draw()
        vector = rendered(picture)
        (target / f"{name}.svg").write_bytes(vector)
        (target / f"{name}.png").write_bytes(rendered(picture, "png"))
        address = "data:image/svg+xml;base64," + base64.b64encode(vector).decode("ascii")
        return Plot(name=name, text=text, data=address)

    faulty = [run for run in view.runs if run.faults and run.series.completed]
    if view.axis in LOAD_AXES and view.numeric:
        yield made("curve", f"{view.title}: latency over throughput", lambda: plots.curve(view, palette))
    elif view.numeric:
        yield made(
            "lines", f"{view.title}: throughput and latency by {view.axis_title}", lambda: plots.lines(view, palette)
        )
    elif not faulty or len(view.labels) > 1:
        yield made("bars", f"{view.title}: throughput and latency", lambda: plots.bars(view, palette))
    shown: dict[str, RunResult] = {}
    for run in faulty:
        shown.setdefault(f"{run.deployment.label}/{run.point.value}", run)
    for number_of, run in enumerate(list(shown.values())[:TIMELINES_MAX], start=1):
        yield made(
            f"timeline-{number_of}",
            f"{run.deployment.label}: throughput and errors over time, with faults",
            lambda run=run: plots.timeline(run, palette),  # type: ignore[misc]
        )
    value = _middle(view)
    if any(len({entry.region for entry in run.latencies}) > 1 for run in view.runs):
        if view.numeric and view.axis not in LOAD_AXES:
            yield made(
                "regions-along",
                f"{view.title}: latency by region and {view.axis_title}",
                lambda: plots.regions_along(view, palette),
            )
        yield made("regions", f"{view.title}: latency by region", lambda: plots.regions(view, palette, value))
        if any(settlements(point) for point in view.points):
            yield made(
                "regions-over-time",
                f"{view.title}: latency by region over the time of the run",
                lambda: plots.regions_over_time(view, palette, value),
            )
    if view.numeric and view.has_slow_paths:
        yield made("slow-paths", f"{view.title}: share of slow paths", lambda: plots.slow_paths(view, palette))
    if any(run.latencies for run in view.runs):
        yield made("cdf", f"{view.title}: distribution of latencies", lambda: plots.cdf(view, palette, value))
    if any(point.stages() for point in view.points):
        yield made("stages", f"{view.title}: where the time of a write goes", lambda: plots.stages(view, palette))
    if any(run.resources for run in view.runs):
        yield made("resources", f"{view.title}: processor time", lambda: plots.resources(view, palette, value))


def _middle(view: ExperimentView) -> Any:
    """The value that single plots are drawn at: the middle one of those at which every target has figures."""
    having = [
        value
        for value in view.values
        if all((point := view.at(label, value)) is not None and point.usable for label in view.labels)
    ]
    values = having or [value for value in view.values if any(p.usable for p in view.points if p.value == value)]
    return values[len(values) // 2]


def _setting(view: ExperimentView) -> list[tuple[str, str]]:
    """What all runs of an experiment share, in a few words."""
    run = view.runs[0]
    deployments = [point.deployment for point in view.points]

    def all_of(name: str) -> str:
        return ", ".join(dict.fromkeys(str(getattr(each, name)) for each in deployments if getattr(each, name) != ""))

    loop = run.load.get("loop", "")
    described = f"{loop} loop" if loop else ""
    for name, text in (("in_flight", "in flight"), ("rate", "operations/s meant")):
        if name in run.load and (loop == "open") == (name == "rate") and not view.axis.endswith(name):
            described += f", {run.load[name]} {text}"
    measured = run.measured_s[1] - run.measured_s[0]
    pairs = [
        ("replicas", all_of("replicas")),
        ("durability", all_of("durability")),
        ("sync", all_of("sync_mode")),
        ("operations of a client in one command, at most", all_of("batch_max")),
        ("reads", all_of("consistency")),
        ("network", all_of("topology") or "this machine"),
        ("leader", _leaders(view)),
        ("clients in", ", ".join(filter(None, run.regions))),
        ("load", described),
        ("measured", f"{measured:g} s, {max(len(point.runs) for point in view.points)} repetition(s)"),
        ("workload", str(run.workload.get("name") or run.workload.get("summary") or "")),
    ]
    return [(name, text) for name, text in pairs if text]


def _leaders(view: ExperimentView) -> str:
    """Where the leaders stood, by target, where there are regions."""
    found: dict[str, dict[str, None]] = {}
    for run in view.runs:
        if run.deployment.topology and run.leader:
            found.setdefault(run.leader, {})[run.deployment.label] = None
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{place}: {', '.join(labels)}" for place, labels in found.items())


def _networks(view: ExperimentView) -> list[Network]:
    """The distinct networks of an experiment; of those that are alike the first."""
    found: dict[str, Network] = {}
    for run in view.runs:
        network = run.network
        if network is not None and (network.topology or network.problems):
            kept = found.setdefault(network.topology, network)
            if kept.as_declared and not network.as_declared:
                found[network.topology] = network
    return list(found.values())


def _resources(view: ExperimentView) -> list[dict[str, Any]]:
    """What each process used at the middle of the axis, a second of the measured part."""
    value = _middle(view) if any(point.usable for point in view.points) else None
    rows = []
    for label in view.labels:
        point: PointView | None = view.at(label, value) if value is not None else None
        run = point.usable[0] if point is not None and point.usable else None
        if run is None:
            continue
        seconds = (run.measured_s[1] - run.measured_s[0]) or 1.0
        rows += [
            {
                "label": label,
                "used": used,
                "cores": (used.cpu_user_s + used.cpu_system_s) / seconds,
                "seconds": seconds,
            }
            for used in run.resources
        ]
    return rows


def _totals(views: list[ExperimentView]) -> dict[str, int]:
    found = {"checked": 0, "violation": 0, "unknown": 0, "not applicable": 0, "failed": 0}
    for view in views:
        for point in view.points:
            found[point.mark] += 1
    return found


def _mebibytes(value: float) -> str:
    return f"{value / (1 << 20):,.1f}"


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)
