"""`synod check`: is a recorded history linearizable?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from replica.cli.lazy import one_line
from replica.verification.checker import MODELS, UnknownModel, check, find_model
from replica.verification.history import History, HistoryError, read_history
from replica.verification.picture import draw_report
from replica.verification.verdict import STATES_MAX, Budget, Report, Verdict

EXIT_STATUS: Final = {Verdict.OK: 0, Verdict.VIOLATION: 1, Verdict.UNKNOWN: 3}

PREFIX_SHOWN: Final = 12
"""So many operations of the linearization are printed, the last ones."""


@click.command(name="check")
@click.argument("path", metavar="HISTORY", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", "model_name", metavar="MODEL", help="By default the one that the history names.")
@click.option("--html", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path), help="Draw the result.")
@click.option(
    "--budget",
    metavar="STATES",
    type=click.IntRange(min=1),
    default=STATES_MAX,
    show_default=True,
    help="How many states a search may explore.",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long it may search, as well.")
@click.option("--no-witness", is_flag=True, help="Search, even where revisions give the order of operations.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_history(
    *,
    path: Path,
    model_name: str | None,
    html: Path | None,
    budget: int,
    seconds: float | None,
    no_witness: bool,
    as_json: bool,
) -> None:
    """Judge whether HISTORY is linearizable.

    \b
    Exit status:
      0  ok: a linearization was found
      1  violation: there is none
      2  wrong usage, or a history that is malformed (the line is named)
      3  unknown: the budget ran out before either was shown
    """
    started = time.monotonic()
    history = _read(path)
    try:
        model = find_model(history.header.model if model_name is None else model_name)
        report = check(history, model, budget=Budget(states=budget, seconds=seconds), witness=not no_witness)
    except UnknownModel as error:
        raise click.BadParameter(str(error), param_hint="--model") from None
    except HistoryError as error:
        raise click.UsageError(f"{path}: {error}") from None
    elapsed = time.monotonic() - started
    if html is not None:
        try:
            html.write_text(draw_report(history, report), encoding="utf-8")
        except OSError as error:
            raise click.BadParameter(one_line(error), param_hint="--html") from None
    if as_json:
        facts = msgspec.to_builtins(report) | {"seconds": round(elapsed, 3)}
        click.echo(json.dumps(facts))
    else:
        _print(history, report, elapsed)
        if html is not None:
            click.echo(f"picture     {html}")
    sys.exit(EXIT_STATUS[report.verdict])


def _read(path: Path) -> History:
    try:
        return read_history(path)
    except HistoryError as error:
        raise click.UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {one_line(error)}") from None


def _print(history: History, report: Report, elapsed: float) -> None:
    colour = {Verdict.OK: "green", Verdict.VIOLATION: "red", Verdict.UNKNOWN: "yellow"}[report.verdict]
    click.echo(f"verdict     {click.style(str(report.verdict), fg=colour, bold=True)}: {report.explanation}")
    click.echo(f"model       {report.model}: {MODELS[report.model].summary}")
    click.echo(
        f"judged      {report.operations} operations, {report.uncertain} of unknown outcome, in {report.parts} parts"
    )
    explored = f", {report.states} states" if report.states else ""
    click.echo(f"method      {report.method}{explored}, {elapsed:.2f} s")
    for reason, count in sorted(report.unchecked.items()):
        click.echo(f"not judged  {count}: {reason}")
    if report.violation is None:
        return
    by_id = {operation.id: operation for operation in history.operations}
    violation = report.violation
    click.echo(f"where       {violation.where}")
    prefix = violation.prefix
    if len(prefix) > PREFIX_SHOWN:
        click.echo(f"            … {len(prefix) - PREFIX_SHOWN} operations that can be explained, then")
    numbered = list(enumerate(prefix, 1))[-PREFIX_SHOWN:]
    rows = [(str(number), identifier) for number, identifier in numbered]
    rows += [("!", identifier) for identifier in (*violation.related, violation.stuck)]
    for mark, identifier in rows:
        operation = by_id[identifier]
        answer = operation.result if operation.outcome == "ok" else operation.outcome
        click.echo(f"{mark:>10}  line {operation.invoked_line}, client {operation.client}: {operation} → {answer}")
