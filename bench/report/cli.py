"""``synod bench report`` and ``synod bench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.results import ResultsError, read_folder

if TYPE_CHECKING:
    from bench.report.compare import Side

__all__ = ["compare", "report"]


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--quiet", is_flag=True, help="Write the page and print no tables.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw predictions by this calibration (default: that in FOLDER, or this machine's data/calibration.json).",
)
def report(folder: Path, quiet: bool, calibration: Path | None) -> None:
    """Make plots and report.html in FOLDER from the results it holds, and print the tables.

    A folder of a suite that was interrupted will do: the report says what is missing.
    """
    from bench.model import ModelError
    from bench.model.beside import model_of
    from bench.report import print_tables, write_report

    try:
        found = read_folder(folder)
        try:
            model = model_of(folder, calibration)
        except ModelError as error:
            if calibration is not None:
                raise
            model = None
            click.echo(f"Without predictions: {error}", err=True)
        path = write_report(found, model)
    except (ResultsError, ModelError) as error:
        raise click.ClickException(str(error)) from None
    if not quiet:
        print_tables(found, predictor=model)
    click.echo(f"Report: {path}")


@click.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Exit with status 1 when anything may not be compared.")
def compare(first: str, second: str, as_json: bool, strict: bool) -> None:
    """Ratios of SECOND over FIRST, with confidence intervals.

    Each is a folder of results, or FOLDER:TARGET for one target of it. Points that differ in durability, reads,
    replicas, network, workload or capability, and those that the harness limited, are listed without a ratio.
    """
    from bench.report.compare import compare as compare_sides
    from bench.report.terminal import print_comparison

    sides = [_side(text) for text in (first, second)]
    found = compare_sides(*sides)
    if not found:
        raise click.ClickException(
            "the two have no point in common: the same experiment at the same value of its axis"
            + ("" if all(side.label for side in sides) else " (and the same target, unless FOLDER:TARGET names one)")
        )
    if as_json:
        import msgspec

        rows = [
            {
                "experiment": each.experiment,
                "axis": each.axis,
                "value": each.value,
                "first": each.first.label,
                "second": each.second.label,
                "throughput": each.throughput,
                "p50": each.p50,
                "p99": each.p99,
                "verdict": each.verdict,
                "differences": each.differences,
            }
            for each in found
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
    else:
        print_comparison(found, first, second)
    if strict and any(each.differences for each in found):
        raise click.exceptions.Exit(1)


def _side(text: str) -> Side:
    path, label = Path(text), ""
    if not path.exists() and ":" in text:
        head, _, label = text.rpartition(":")
        path = Path(head)
    try:
        folder = read_folder(path)
    except ResultsError as error:
        raise click.ClickException(str(error)) from None
    if label and all(run.deployment.label != label for run in folder.runs):
        known = ", ".join(sorted({run.deployment.label for run in folder.runs}))
        raise click.ClickException(f"{path} holds no target {label!r} (there are: {known})")
    from bench.report.compare import Side

    return Side(folder=folder, label=label)
