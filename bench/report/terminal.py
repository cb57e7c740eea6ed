"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report.compare import Comparison
from bench.report.data import ExperimentView, Mark, PointView, Predictor, experiments_of
from bench.report.disagreement import disagreements, print_disagreements
from bench.report.settling import Settlement, settlements
from bench.report.words import gap_text, interval, number, ratio_text, share_text, verdict_short
from bench.results import Estimate, Folder

__all__ = ["comparison_table", "print_comparison", "print_tables", "table"]

WIDTH_ELSEWHERE: Final = 140
"""Columns where there is no terminal to ask."""

_STYLES: Final[dict[Mark, str]] = {
    "checked": "green",
    "violation": "bold red",
    "unknown": "yellow",
    "not applicable": "dim",
    "failed": "bold red",
}


def table(view: ExperimentView) -> Table:
    """One experiment: a row a point, the verdict beside every figure."""
    made = Table(title=view.title, title_justify="left", title_style="bold")
    several = len(view.labels) > 1
    if view.axis:
        made.add_column(view.axis_title, justify="right")
    made.add_column("target")
    made.add_column("operations/s", justify="right", no_wrap=True)
    made.add_column("p50 ms", justify="right", no_wrap=True)
    made.add_column("p99 ms", justify="right", no_wrap=True)
    if several:
        made.add_column(f"× {view.baseline}", justify="right")
    slow = view.has_slow_paths
    if slow:
        made.add_column("slow paths", justify="right", no_wrap=True)
    made.add_column("verdict", no_wrap=True)
    if any(point.flags() for point in view.points):
        made.add_column("to be known")
    flagged = len(made.columns) > 5 + several + slow + bool(view.axis)
    for value in view.values:
        for label in view.labels:
            point = view.at(label, value)
            if point is None:
                continue
            cells = [f"{value}"] if view.axis else []
            cells += [label, interval(point.throughput), _mean(point.p50), _mean(point.p99)]
            if several:
                cells.append(ratio_text(view.ratio_to_baseline(point)) if label != view.baseline else "1")
            if slow:
                cells.append(share_text(point.slow_paths))
            made.add_row(*cells, _verdict(point), *([", ".join(point.flags())] if flagged else []))
        if several:
            made.add_section()
    made.caption = "✓ judged linearizable, with the share of the operations that was judged"
    made.caption_justify = "left"
    return made


def settlement_table(view: ExperimentView, rows: Sequence[Settlement]) -> Table:
    """The first seconds of long runs beside the last ones, by region."""
    made = Table(title=f"{view.title}: the first ten seconds and the last", title_justify="left", title_style="bold")
    if view.axis:
        made.add_column(view.axis_title, justify="right")
    made.add_column("target")
    made.add_column("region")
    for name in ("first 10 s, mean ms", "last 10 s", "local quorum", "as measured"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("settled")
    for row in rows:
        local = ["–" if found is None else number(found) for found in (row.declared_ms, row.measured_ms)]
        cells = [f"{row.value}"] if view.axis else []
        made.add_row(*cells, row.label, row.region, interval(row.first), interval(row.last), *local, row.said)
    return made


def _mean(found: Estimate | None) -> str:
    return "–" if found is None else number(found.mean)


def _verdict(point: PointView) -> Text:
    return Text(verdict_short(point), style=_STYLES[point.mark])


def _console() -> Console:
    """Standard output; a file or a pipe is as wide as the tables need."""
    out = Console()
    return out if out.is_terminal else Console(width=WIDTH_ELSEWHERE)


DISAGREEMENTS_SHOWN: Final = 12
"""So many points of the model at most, the worst; the page has them all."""


def print_tables(folder: Folder, console: Console | None = None, predictor: Predictor | None = None) -> None:
    """Print what a folder holds, what it lacks, and where it is not what ``predictor`` says."""
    out = console or _console()
    for view in experiments_of(folder):
        out.print(table(view))
        settled = [row for point in view.points for row in settlements(point)]
        if settled:
            out.print(settlement_table(view, settled))
        for run in (run for point in view.points for run in point.usable if run.faults):
            out.print(f"  {run.deployment.label}: {gap_text(run)}")
        for reason in dict.fromkeys(reason for point in view.points for reason in point.reasons):
            out.print(f"  {reason}", style="red" if any(p.mark in {"violation", "failed"} for p in view.points) else "")
    if predictor is not None:
        found = disagreements([(folder.path.name, folder, predictor)])
        if found.rows:
            print_disagreements(found, out, rows_max=DISAGREEMENTS_SHOWN)
    for skipped in folder.manifest.skipped:
        out.print(f"skipped: {skipped.experiment}: {skipped.label}: {skipped.reason}", style="yellow")
    for problem in folder.problems:
        out.print(f"problem: {problem}", style="red")
    if folder.missing:
        out.print(
            f"{len(folder.missing)} of {len(folder.manifest.planned)} planned runs are missing: this is what there is",
            style="yellow",
        )


def comparison_table(comparisons: Sequence[Comparison], first: str, second: str) -> Table:
    """Ratios of the second over the first."""
    made = Table(title=f"{second} over {first}", title_justify="left", title_style="bold")
    made.add_column("experiment")
    made.add_column("at", justify="right")
    made.add_column("target")
    for name in ("operations/s", "p50", "p99"):
        made.add_column(f"{name} ratio", justify="right")
    made.add_column("verdict")
    made.add_column("not comparable because")
    for each in comparisons:
        targets = each.first.label
        if each.second.label != targets:
            targets = f"{each.second.label} / {targets}"
        made.add_row(
            each.experiment,
            f"{each.value}",
            targets,
            ratio_text(each.throughput),
            ratio_text(each.p50),
            ratio_text(each.p99),
            Text(each.verdict, style=_STYLES[_worse(each)]),
            Text("; ".join(each.differences), style="yellow"),
        )
    return made


def _worse(each: Comparison) -> Mark:
    order: list[Mark] = ["violation", "failed", "unknown", "not applicable", "checked"]
    return min((each.first.mark, each.second.mark), key=order.index)


def print_comparison(
    comparisons: Sequence[Comparison], first: str, second: str, console: Console | None = None
) -> None:
    """Print the table."""
    (console or _console()).print(comparison_table(comparisons, first, second))
