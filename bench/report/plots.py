"""The plots of a report, each a function from what is to be shown to a figure.

All of them take the palette of the report. Where a model may be held against measurements, the experiment's
`Prediction` series are drawn thin and dashed in the colour of the target that they predict. Points of a simulation are
hollow, points that the harness limited carry a cross, and points whose verdict is not good a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.report.data import ExperimentView, PointView
from bench.report.settling import settlements
from bench.report.style import FAULT, INK, STAGE_COLOURS, Palette, figure, thousands
from bench.results import Estimate, RunResult, Scalar, merged_latencies

__all__ = [
    "bars",
    "cdf",
    "curve",
    "lines",
    "regions",
    "regions_along",
    "regions_over_time",
    "resources",
    "slow_paths",
    "stages",
    "timeline",
]

WIDTH: Final = 8.6
"""Inches."""

CDF_POINTS: Final = 400

TAILS_MAX: Final = 4
"""A curve of more targets leaves their 99th percentiles to the table."""

PROCESSES_MAX: Final = 8
"""Of one target that are shown singly; the busiest."""


def _bounds(found: Estimate) -> tuple[float, float]:
    return (
        found.mean if found.low is None else max(found.low, 0.0),
        found.mean if found.high is None else found.high,
    )


def _plain(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(thousands))
    axis.set_minor_formatter(NullFormatter())


def _log_latency(axis: Any, low: float, high: float) -> None:
    """Ticks for an axis that is logarithmic already: less than a decade or two needs more than powers of ten."""
    if low > 0 and high / low < 20:
        steps = (1, 2, 3, 5, 7) if high / low > 3 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
        marks = [step * 10.0**power for power in range(-4, 8) for step in steps]
        axis.set_ticks([mark for mark in marks if low <= mark <= high])
    _plain(axis)


def _mark(axes: Any, point: PointView, x: float, y: float, palette: Palette) -> None:
    """The marker of a point, saying what must be known of it."""
    colour = palette.colour(point.label)
    axes.plot(
        [x], [y], linestyle="none", marker=palette.marker(point.label), color=colour,
        markerfacecolor="white" if point.simulated else colour, zorder=4,
    )  # fmt: skip
    if point.harness_limited:
        axes.plot([x], [y], linestyle="none", marker="x", markersize=11, color=INK, zorder=5)
    if point.mark not in {"checked", "not applicable"}:
        axes.plot(
            [x], [y], linestyle="none", marker="o", markersize=13, markerfacecolor="none",
            markeredgecolor=FAULT, markeredgewidth=1.6, zorder=5,
        )  # fmt: skip


def _legend(made: Any, view: ExperimentView, palette: Palette, extra: Sequence[Any] = ()) -> None:
    """Below the plot: the targets, and what the marks mean that occur."""
    handles: list[Any] = [
        Line2D([], [], color=palette.colour(label), marker=palette.marker(label), label=label)
        for label in view.labels
        if any(point.usable for point in view.of(label))
    ]
    handles += extra
    if view.predictions:
        names = dict.fromkeys(prediction.name for prediction in view.predictions)
        handles += [Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label=name) for name in names]
    points = [point for point in view.points if point.usable]
    if any(point.simulated for point in points):
        handles.append(
            Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="none", label="simulated")
        )
    if any(point.harness_limited for point in points):
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="none", label="limited by the harness"))
    if any(point.mark not in {"checked", "not applicable"} for point in points):
        handles.append(
            Line2D([], [], markeredgecolor=FAULT, marker="o", markersize=10, markerfacecolor="none",
                   linestyle="none", label="not shown to be correct")
        )  # fmt: skip
    made.legend(handles=handles, loc="outside lower center", ncols=min(4, max(2, len(handles))))


def _predicted(axes: Any, view: ExperimentView, palette: Palette, quantity: str) -> None:
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    for prediction in view.predictions:
        if prediction.quantity == quantity and prediction.x and not prediction.region:
            axes.plot(
                prediction.x,
                prediction.y,
                color=palette.colour(prediction.label),
                linestyle="--",
                linewidth=1.1,
                zorder=2,
            )
    # A model may run off to infinity; the measurements say what is to be seen.
    axes.set_ylim(low, high)
    axes.set_xlim(left, right)


def curve(view: ExperimentView, palette: Palette) -> Any:
    """Latency over throughput, as the load grows: the median with its band, and of few targets the 99th percentile."""
    with figure(WIDTH, 4.6) as (made, grid):
        axes = grid[0][0]
        tails = len(view.labels) <= TAILS_MAX
        banded = any(len(point.usable) > 1 for point in view.points)
        heaviest: list[tuple[PointView, float, float]] = []
        for label in view.labels:
            points = [(p, p.throughput, p.p50, p.p99) for p in view.of(label)]
            shown = [(p, t, m, n) for p, t, m, n in points if t is not None and m is not None and n is not None]
            if not shown:
                continue
            colour = palette.colour(label)
            xs = [t.mean for _, t, _, _ in shown]
            axes.plot(xs, [m.mean for _, _, m, _ in shown], color=colour, zorder=3)
            if tails:
                axes.plot(xs, [n.mean for _, _, _, n in shown], color=colour, linestyle=":", linewidth=1.3, zorder=3)
            axes.fill_between(
                xs, [_bounds(m)[0] for _, _, m, _ in shown], [_bounds(m)[1] for _, _, m, _ in shown],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
            for point, through, median, _ in shown:
                low, high = _bounds(through)
                axes.plot([low, high], [median.mean] * 2, color=colour, linewidth=1, alpha=0.6)
                _mark(axes, point, through.mean, median.mean, palette)
            heaviest.append((shown[-1][0], xs[-1], shown[-1][2].mean))
        axes.set_xlim(left=0)
        axes.set_yscale("log")
        _log_latency(axes.yaxis, *axes.get_ylim())
        _plain(axes.xaxis)
        _predicted(axes, view, palette, "latency")
        _name_ends(made, axes, heaviest, palette)
        axes.set_xlabel("throughput, operations/s")
        axes.set_ylabel("latency, ms (log)")
        axes.set_title(f"{view.title}\nlatency over throughput, by {view.axis_title}")
        extra = [Line2D([], [], color=INK, label="median, with 95 % band" if banded else "median")]
        if tails:
            extra.append(Line2D([], [], color=INK, linestyle=":", linewidth=1.3, label="99th percentile"))
        _legend(made, view, palette, extra)
        return made


def _name_ends(made: Any, axes: Any, ends: Sequence[tuple[PointView, float, float]], palette: Palette) -> None:
    """Write the load at the heaviest point of each curve, unless that would be written over another."""
    made.draw_without_rendering()  # where a point lies in pixels is known from here on
    written: list[tuple[float, float]] = []
    for point, x, y in ends:
        column, row = axes.transData.transform((x, y))
        if all(abs(column - other) > 45 or abs(row - height) > 16 for other, height in written):
            written.append((column, row))
            axes.annotate(
                f"{point.value}", (x, y), xytext=(8, 3), textcoords="offset points", fontsize=8.5,
                color=palette.colour(point.label), zorder=6,
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )  # fmt: skip


def _throughput(point: PointView) -> Estimate | None:
    return point.throughput


def _median(point: PointView) -> Estimate | None:
    return point.p50


def lines(view: ExperimentView, palette: Palette) -> Any:
    """Throughput and median latency along an axis of numbers, with their confidence bands."""
    with figure(WIDTH, 4.2, 1, 2) as (made, grid):
        for axes, quantity, of in (
            (grid[0][0], "throughput", _throughput),
            (grid[0][1], "latency", _median),
        ):
            for label in view.labels:
                shown = [(p, found) for p in view.of(label) if (found := of(p)) is not None]
                if not shown:
                    continue
                colour = palette.colour(label)
                xs = [float(p.value) for p, _ in shown]
                axes.plot(xs, [found.mean for _, found in shown], color=colour, zorder=3)
                axes.fill_between(
                    xs, [_bounds(f)[0] for _, f in shown], [_bounds(f)[1] for _, f in shown],
                    color=colour, alpha=0.15, linewidth=0,
                )  # fmt: skip
                for point, found in shown:
                    _mark(axes, point, float(point.value), found.mean, palette)
            values = [float(value) for value in view.values]
            if min(values) > 0 and max(values) / min(values) >= 16:
                axes.set_xscale("log")
            axes.set_xticks(values)
            _plain(axes.xaxis)
            _plain(axes.yaxis)
            axes.set_ylim(bottom=0)
            _predicted(axes, view, palette, quantity)
            axes.set_xlabel(view.axis_title)
            axes.set_ylabel("throughput, operations/s" if quantity == "throughput" else "median latency, ms")
        _headline(made, view.title)
        _legend(made, view, palette)
        return made


def bars(view: ExperimentView, palette: Palette) -> Any:
    """Throughput and median latency where the axis has no numbers, or a single value."""
    values = view.values
    with figure(WIDTH, 4.2, 1, 2) as (made, grid):
        for axes, name, of in (
            (grid[0][0], "throughput, operations/s", _throughput),
            (grid[0][1], "median latency, ms", _median),
        ):
            _grouped(axes, view, palette, values, of)
            axes.set_ylabel(name)
            _plain(axes.yaxis)
            if len(values) > 1:
                axes.set_xlabel(view.axis_title)
        _headline(made, view.title)
        _legend(made, view, palette)
        return made


def _grouped(
    axes: Any,
    view: ExperimentView,
    palette: Palette,
    values: Sequence[Scalar],
    of: Callable[[PointView], Estimate | None],
) -> None:
    labels = view.labels
    width = 0.8 / len(labels)
    tallest = 0.0
    for place, label in enumerate(labels):
        for position, value in enumerate(values):
            point = view.at(label, value)
            found = of(point) if point is not None else None
            if point is None or found is None:
                continue
            x = position + (place - (len(labels) - 1) / 2) * width
            low, high = _bounds(found)
            tallest = max(tallest, high)
            axes.bar(
                [x], [found.mean], width * 0.9, color=palette.colour(label), alpha=0.35 if point.simulated else 0.85,
                yerr=[[found.mean - low], [high - found.mean]], error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
                hatch="//" if point.simulated else None, edgecolor=palette.colour(label),
            )  # fmt: skip
            _mark(axes, point, x, found.mean, palette)
    axes.set_xticks(range(len(values)), [f"{value}" for value in values] if len(values) > 1 or values[0] else [""])
    longest = max(len(f"{value}") for value in values)
    if longest * len(values) > 44:
        axes.tick_params(axis="x", labelrotation=30)
    axes.grid(visible=False, axis="x")
    if len(values) == 1:
        axes.set_xlim(-1.0, 1.0)  # a single group need not fill the plot
    if tallest:
        axes.set_ylim(0, tallest * 1.12)


def cdf(view: ExperimentView, palette: Palette, value: Scalar) -> Any:
    """The share of operations that took at most so long, of all repetitions at one value of the axis."""
    with figure(WIDTH, 4.2) as (made, grid):
        axes = grid[0][0]
        shown = False
        for label in view.labels:
            point = view.at(label, value)
            if point is None or not point.usable:
                continue
            total = None
            for run in point.usable:
                histogram = merged_latencies(run)
                if total is None:
                    total = histogram
                else:
                    total.add(histogram)
            if total is None or not total.get_total_count():
                continue
            shown = True
            shares = [100 * (1 - 10 ** (-4 * step / CDF_POINTS)) for step in range(CDF_POINTS + 1)]
            xs = [total.get_value_at_percentile(share) / 1e3 for share in shares]
            axes.plot(xs, [share / 100 for share in shares], color=palette.colour(label), label=label)
        if shown:
            axes.set_xscale("log")
            _log_latency(axes.xaxis, *axes.get_xlim())
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99], ["0", "25 %", "50 %", "75 %", "90 %", "99 %"])
        axes.set_xlabel("latency from the intended start, ms (log)")
        axes.set_ylabel("share of operations")
        at = f" at {value} {view.axis_title}" if value != "" else ""
        axes.set_title(f"{view.title}\nlatencies{at}")
        made.legend(
            handles=[
                Line2D([], [], color=palette.colour(label), label=label)
                for label in view.labels
                if (point := view.at(label, value)) is not None and point.usable
            ],
            loc="outside lower center",
            ncols=4,
        )
        return made


def regions(view: ExperimentView, palette: Palette, value: Scalar) -> Any:
    """Mean latency by the region of the client, with confidence intervals; a dash at the 99th percentile."""
    found = {label: point.by_region() for label in view.labels if (point := view.at(label, value)) is not None}
    names = list(dict.fromkeys(name for run in view.runs for name in run.regions)) or sorted(
        {name for by_region in found.values() for name in by_region}
    )
    width = 0.8 / max(1, len(found))
    with figure(WIDTH, 4.4) as (made, grid):
        axes = grid[0][0]
        tallest = 0.0
        for place, (label, by_region) in enumerate(found.items()):
            predicted = [p for p in view.predictions if p.label == label and p.regions]
            for position, name in enumerate(names):
                if name not in by_region:
                    continue
                mean, tail = by_region[name]
                low, high = _bounds(mean)
                x = position + (place - (len(found) - 1) / 2) * width
                tallest = max(tallest, high, tail)
                axes.bar(
                    [x], [mean.mean], width * 0.9, color=palette.colour(label), alpha=0.85,
                    yerr=[[mean.mean - low], [high - mean.mean]],
                    error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
                )  # fmt: skip
                axes.plot([x - width * 0.3, x + width * 0.3], [tail] * 2, color=palette.colour(label), linewidth=1.6)
                for prediction in predicted:
                    if name in prediction.regions:
                        height = [prediction.regions[name]] * 2
                        ends = [x - width * 0.45, x + width * 0.45]
                        axes.plot(ends, height, color=INK, linestyle="--", linewidth=1.1)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(0, tallest * 1.08 if tallest else 1)
        axes.grid(visible=False, axis="x")
        _plain(axes.yaxis)
        axes.set_xlabel("region of the client")
        axes.set_ylabel("latency, ms")
        at = f" at {value} {view.axis_title}" if value != "" else ""
        axes.set_title(f"{view.title}\nlatency by region{at}")
        handles: list[Any] = [Patch(color=palette.colour(label), alpha=0.85, label=f"{label}: mean") for label in found]
        handles.append(Line2D([], [], color="#777777", linewidth=1.6, label="99th percentile"))
        if any(prediction.regions for prediction in view.predictions):
            handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label="model"))
        made.legend(handles=handles, loc="outside lower center", ncols=4)
        return made


PANELS: Final = 3
"""Side by side."""


def _headline(made: Any, title: str, what: str = "") -> None:
    """Over all panels of a figure."""
    made.suptitle(f"{title}\n{what}" if what else title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def _finish_panels(grid: Any, count: int, title: str) -> None:
    """One scale from 0 for all, the title of the axis below the last panel of each column, none beyond the last one."""
    grid[0][0].set_ylim(bottom=0)
    columns = len(grid[0])
    for place in range(columns * len(grid)):
        axes = grid[place // columns][place % columns]
        axes.set_visible(place < count)
        if place < count <= place + columns:
            axes.set_xlabel(title)
            axes.tick_params(labelbottom=True)


def regions_along(view: ExperimentView, palette: Palette) -> Any:
    """Mean latency of each region's clients along an axis of numbers, with bands: a panel a region, one scale."""
    names = view.region_names
    columns = min(PANELS, len(names))
    rows = math.ceil(len(names) / columns)
    found = {label: [(point, point.by_region()) for point in view.of(label)] for label in view.labels}
    with figure(WIDTH, 1.4 + 2.5 * rows, rows, columns, sharey=True, sharex=True) as (made, grid):
        values = [float(value) for value in view.values]
        for place, name in enumerate(names):
            axes = grid[place // columns][place % columns]
            for label, points in found.items():
                shown = [(point, by_region[name][0]) for point, by_region in points if name in by_region]
                if not shown:
                    continue
                colour = palette.colour(label)
                xs = [float(point.value) for point, _ in shown]
                axes.plot(xs, [mean.mean for _, mean in shown], color=colour, zorder=3)
                axes.fill_between(
                    xs, [_bounds(mean)[0] for _, mean in shown], [_bounds(mean)[1] for _, mean in shown],
                    color=colour, alpha=0.15, linewidth=0,
                )  # fmt: skip
                for point, mean in shown:
                    _mark(axes, point, float(point.value), mean.mean, palette)
            for prediction in view.predictions:
                if prediction.region == name and prediction.quantity == "latency":
                    axes.plot(
                        prediction.x, prediction.y, color=palette.colour(prediction.label), linestyle="--",
                        linewidth=1.1, zorder=2,
                    )  # fmt: skip
            axes.set_title(name, fontsize=10)
            axes.set_xticks(values)
            _plain(axes.xaxis)
            _plain(axes.yaxis)
            if place % columns == 0:
                axes.set_ylabel("mean latency, ms")
        _finish_panels(grid, len(names), view.axis_title)
        _headline(made, view.title, "by region of the client")
        _legend(made, view, palette)
        return made


def slow_paths(view: ExperimentView, palette: Palette) -> Any:
    """The measured share of commands that took the slow path, along an axis of numbers."""
    with figure(WIDTH, 3.2) as (made, grid):
        axes = grid[0][0]
        handles = []
        for label in view.labels:
            shown = [(point, share) for point in view.of(label) if (share := point.slow_paths) is not None]
            if not shown:
                continue
            colour = palette.colour(label)
            xs = [float(point.value) for point, _ in shown]
            axes.plot(xs, [100 * share.mean for _, share in shown], color=colour, zorder=3)
            axes.fill_between(
                xs, [100 * _bounds(share)[0] for _, share in shown], [100 * _bounds(share)[1] for _, share in shown],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
            for point, share in shown:
                _mark(axes, point, float(point.value), 100 * share.mean, palette)
            handles.append(Line2D([], [], color=colour, marker=palette.marker(label), label=label))
        axes.set_ylim(0, 105)
        axes.set_xticks([float(value) for value in view.values])
        _plain(axes.xaxis)
        axes.set_xlabel(view.axis_title)
        axes.set_ylabel("slow paths, % of commands")
        axes.set_title(f"{view.title}\nhow many commands took the slow path")
        made.legend(handles=handles, loc="outside lower center", ncols=4)
        return made


def regions_over_time(view: ExperimentView, palette: Palette, value: Scalar) -> Any:
    """Mean latency of each region's clients over the time of the run, a panel a region: how a protocol settles."""
    names = view.region_names
    columns = min(PANELS, len(names))
    rows = math.ceil(len(names) / columns)
    local = False
    with figure(WIDTH, 1.4 + 2.3 * rows, rows, columns, sharey=True, sharex=True) as (made, grid):
        for place, name in enumerate(names):
            axes = grid[place // columns][place % columns]
            for label in view.labels:
                point = view.at(label, value)
                for run in point.usable if point is not None else []:
                    # When the load has ended, only what was slow is still answered.
                    until = math.ceil(round(run.measured_s[1] / run.series.window_s, 6))
                    means = run.series.region_mean_ms.get(name, [])[:until]
                    middles = [(step + 0.5) * run.series.window_s for step in range(len(means))]
                    heights = [math.nan if mean is None else mean for mean in means]
                    axes.plot(middles, heights, color=palette.colour(label), linewidth=1.1, alpha=0.8)
                for row in settlements(point) if point is not None else []:
                    if row.region == name and row.declared_ms is not None:
                        axes.axhline(row.declared_ms, color=INK, linestyle="--", linewidth=1.1)
                        local = True
            axes.set_title(name, fontsize=10)
            _plain(axes.yaxis)
            if place % columns == 0:
                axes.set_ylabel("mean latency, ms")
        _finish_panels(grid, len(names), "seconds from the start of the run")
        at = f" at {value} {view.axis_title}" if value != "" else ""
        _headline(made, view.title, f"latency over time{at}")
        handles = [Line2D([], [], color=palette.colour(label), label=label) for label in view.labels]
        if local:
            text = "local quorum, by the network alone"
            handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.1, label=text))
        made.legend(handles=handles, loc="outside lower center", ncols=4)
        return made


def timeline(run: RunResult, palette: Palette) -> Any:
    """Throughput, errors and tail latency of one run over time, with its faults."""
    series = run.series
    window_s = series.window_s
    times = [position * window_s for position in range(len(series.completed) + 1)]
    colour = palette.colour(run.deployment.label)
    with figure(WIDTH, 5.4, 3, 1, sharex=True, height_ratios=[3, 1.2, 1.8]) as (made, grid):
        through, errors, latency = grid[0][0], grid[1][0], grid[2][0]
        through.stairs([count / window_s for count in series.completed], times, fill=True, color=colour, alpha=0.35)
        through.stairs([count / window_s for count in series.completed], times, color=colour, linewidth=1.4)
        through.set_ylabel("completed,\noperations/s")
        unknown = [count / window_s for count in series.unknown] or [0.0] * (len(times) - 1)
        failed = [count / window_s for count in series.failed] or [0.0] * (len(times) - 1)
        errors.stairs(failed, times, fill=True, color="#E69F00")
        both = [one + other for one, other in zip(failed, unknown, strict=True)]
        errors.stairs(both, times, baseline=failed, fill=True, color="#CC79A7")
        errors.set_ylabel("errors/s")
        errors.set_ylim(0, max([*both, 1.0]) * 1.15)
        tails = [math.nan if value is None else value for value in series.p99_ms]
        if not all(math.isnan(value) for value in tails):
            middles = [start + window_s / 2 for start in times[: len(tails)]]
            latency.plot(middles, tails, color=colour, linewidth=1.4, marker=".", markersize=4)
            latency.set_yscale("log")
            _log_latency(latency.yaxis, *latency.get_ylim())
        latency.set_ylabel("p99, ms (log)")
        latency.set_xlabel("seconds from the start of the run")
        for axes in (through, errors):
            _plain(axes.yaxis)
        top = max([count / window_s for count in series.completed], default=1.0) or 1.0
        through.set_ylim(0, top * 1.25)
        measured_from, measured_to = run.measured_s
        if measured_to > measured_from:
            through.plot(
                [measured_from, measured_to], [0, 0], color=INK, linewidth=3, solid_capstyle="butt", clip_on=False
            )
        through.set_xlim(0, max(times[-1], *(event.at_s for event in run.faults), 0.001))
        for number, event in enumerate(sorted(run.faults, key=lambda event: event.at_s), start=1):
            for axes in (through, errors, latency):
                axes.axvline(event.at_s, color=FAULT, linewidth=1.1, linestyle="-" if not event.error else ":")
                if event.until_s is not None and event.until_s > event.at_s:
                    axes.axvspan(event.at_s, event.until_s, color=FAULT, alpha=0.07, linewidth=0)
            through.annotate(
                f"{number}", (event.at_s, top * 1.25), xytext=(3, -11), textcoords="offset points", fontsize=9,
                fontweight="bold", color=FAULT,
            )  # fmt: skip
        through.set_title(f"{run.deployment.label}: availability around the faults")
        handles: list[Any] = [
            Patch(color=colour, alpha=0.5, label="completed"),
            Patch(color="#E69F00", label="refused for certain"),
            Patch(color="#CC79A7", label="outcome unknown"),
            Line2D([], [], color=INK, linewidth=3, label="measured part"),
        ]
        handles += [
            Line2D([], [], color=FAULT, label=f"{number}: {fault_text(event)}")
            for number, event in enumerate(sorted(run.faults, key=lambda event: event.at_s), start=1)
        ]
        made.legend(handles=handles, loc="outside lower center", ncols=2)
        return made


def fault_text(event: Any) -> str:
    """What happened and when, in a line."""
    until = f" until {event.until_s:.1f} s" if event.until_s is not None else ""
    return f"{event.detail or event.kind} at {event.at_s:.1f} s{until}" + (" (failed)" if event.error else "")


def stages(view: ExperimentView, palette: Palette) -> Any:
    """Where the time of a write goes: bars of stages that add up to the mean latency that clients saw."""
    del palette
    shown = [(point, found) for label in view.labels for point in view.of(label) if (found := point.stages())]
    with figure(WIDTH, 1.5 + 0.36 * max(2, len(shown))) as (made, grid):
        axes = grid[0][0]
        for row, (_, found) in enumerate(shown):
            left = 0.0
            for name, colour in STAGE_COLOURS.items():
                value = found.get(name, 0.0)
                axes.barh([row], [value], left=left, color=colour, height=0.7)
                left += value
            axes.annotate(
                f"{left:.3g} ms", (left, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        names = [point.label + (f", {point.value}" if point.value != "" else "") for point, _ in shown]
        axes.set_yticks(range(len(shown)), names)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        _plain(axes.xaxis)
        axes.set_xlabel("mean milliseconds of a write")
        by = f", by target and {view.axis_title}" if view.axis else ""
        axes.set_title(f"{view.title}\nwhere the time goes{by}")
        texts = {"way": "client and way to the replica", "network": "network (round trip to the quorum)"}
        made.legend(
            handles=[Patch(color=colour, label=texts.get(name, name)) for name, colour in STAGE_COLOURS.items()],
            loc="outside lower center",
            ncols=4,
        )
        return made


def resources(view: ExperimentView, palette: Palette, value: Scalar) -> Any:
    """Processor time that each process of a run used, in cores, at one value of the axis."""
    rows: list[tuple[str, float, float, str]] = []
    for label in view.labels:
        point = view.at(label, value)
        run = point.usable[0] if point is not None and point.usable else None
        if run is None:
            continue
        seconds = (run.measured_s[1] - run.measured_s[0]) or 1.0
        busiest = sorted(run.resources, key=lambda each: -(each.cpu_user_s + each.cpu_system_s))
        shown = {each.name for each in busiest[:PROCESSES_MAX]}
        rest = [each for each in run.resources if each.name not in shown]
        for used in run.resources:
            if used.name in shown:
                role = f" ({used.role})" if used.role and not used.name.startswith(used.role) else ""
                name = f"{label}: {used.name}{role}"
                rows.append((name, used.cpu_user_s / seconds, used.cpu_system_s / seconds, label))
        if rest:
            means = [sum(getattr(each, name) for each in rest) / len(rest) for name in ("cpu_user_s", "cpu_system_s")]
            name = f"{label}: mean of the {len(rest)} others"
            rows.append((name, means[0] / seconds, means[1] / seconds, label))
    with figure(WIDTH, 1.4 + 0.32 * max(2, len(rows))) as (made, grid):
        axes = grid[0][0]
        for row, (_, user, system, label) in enumerate(rows):
            axes.barh([row], [user], color=palette.colour(label), alpha=0.9, height=0.7)
            axes.barh([row], [system], left=user, color=palette.colour(label), alpha=0.45, height=0.7)
            axes.annotate(
                f"{user + system:.2f}", (user + system, row), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=8.5,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [name for name, _, _, _ in rows])
        axes.set_ylim(max(1, len(rows)) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("processor, cores (dark: user, light: system)")
        at = f" at {value} {view.axis_title}" if value != "" else ""
        axes.set_title(f"{view.title}\nprocessor time{at}")
        return made
