"""Where a model and measurements disagree, and by how much: every point that the model covers, the worst first.

The figures of a point are those of `data.Compared`; its error is the larger of the errors of throughput and of mean
latency. The same rows are a table for a terminal, a section of a report, and a page of several folders of results.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.report.data import MODEL_ERROR_AIM, Compared, Predictor, experiments_of
from bench.report.words import number
from bench.results import Folder

__all__ = ["Disagreements", "disagreements", "print_disagreements"]


class Disagreements(msgspec.Struct, frozen=True, kw_only=True):
    """All points of some folders of results, the worst first."""

    rows: tuple[tuple[str, Compared], ...]
    """With the folder that each comes from."""
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> list[tuple[str, Compared]]:
        """Those that are off by more than `MODEL_ERROR_AIM`."""
        return [(source, row) for source, row in self.rows if not row.good]

    @property
    def sources(self) -> list[str]:
        """The folders, by name."""
        return sorted({source for source, _ in self.rows})

    def sentence(self) -> str:
        """What it comes to."""
        if not self.rows:
            return "The model covers none of the points."
        points = [row for _, row in self.rows if not row.region]
        errors = [row.error for row in points]
        wrong = [row for row in points if not row.good]
        noisy = sum(row.within_noise for row in wrong)
        said = (
            f"Of {len(points)} points {len(points) - len(wrong)} are predicted within {MODEL_ERROR_AIM:.0%}; "
            f"the median error is {statistics.median(errors):.0%}, the largest {max(errors):.0%}."
        )
        if noisy:
            said += f" Of the others, {noisy} lie between the repetitions of what was measured."
        regions = [row for _, row in self.rows if row.region]
        if regions:
            off = sum(not row.good for row in regions)
            said += f" By region: {len(regions) - off} of {len(regions)} latencies within {MODEL_ERROR_AIM:.0%}."
        return said


def disagreements(folders: Iterable[tuple[str, Folder, Predictor]]) -> Disagreements:
    """Every point of the folders (a name, the results, the model of their machine), the largest error first."""
    rows: list[tuple[str, Compared]] = []
    notes: dict[str, None] = {}
    for source, folder, predictor in folders:
        rows += [(source, row) for view in experiments_of(folder) for row in predictor.compared(view)]
        notes.update(dict.fromkeys(predictor.notes()))
    rows.sort(key=lambda each: -each[1].error)
    return Disagreements(rows=tuple(rows), notes=tuple(notes))


def print_disagreements(found: Disagreements, console: Console, *, rows_max: int | None = None) -> None:
    """Print the table, its ``rows_max`` worst rows at most, and what it comes to."""
    several = len(found.sources) > 1
    made = Table(title="Where model and measurement disagree", title_justify="left", title_style="bold")
    if several:
        made.add_column("results")
    for name in ("experiment", "target"):
        made.add_column(name)
    made.add_column("at", justify="right")
    made.add_column("region")
    for name in ("measured/s", "predicted/s", "error", "measured ms", "predicted ms", "error"):
        made.add_column(name, justify="right", no_wrap=True)
    shown = found.rows if rows_max is None else found.rows[:rows_max]
    for source, row in shown:
        cells = _cells(row)
        made.add_row(*([source] if several else []), *cells, style="" if row.good else "yellow")
    if shown:
        console.print(made)
    if len(shown) < len(found.rows):
        console.print(f"and {len(found.rows) - len(shown)} points with smaller errors", style="dim")
    console.print(found.sentence(), soft_wrap=True)
    for note in found.notes:
        console.print(note, soft_wrap=True)


def _cells(row: Compared) -> Sequence[str]:
    return (
        row.experiment,
        row.label,
        f"{row.value}",
        row.region or "all",
        number(row.measured_rate),
        number(row.predicted_rate),
        f"{row.rate_error:+.0%}",
        number(row.measured_ms),
        number(row.predicted_ms),
        f"{row.latency_error:+.0%}" + (" *" if row.within_noise and not row.good else ""),
    )


def page_of(found: Disagreements, path: Path) -> Path:
    """Write the page of `Disagreements`; returns its path."""
    from bench.report.page import environment

    text = environment().get_template("disagreements.html.j2").render(found=found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
