"""`synod simulate`: try a protocol in the deterministic world, many seeds at once, or one again in detail."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.simulation import Plan, Report, SimulationFailure

FAULT_PROFILES: Final = ("all", "recoverable", "crashes", "network", "none")

COVERAGE_RUNS: Final = 200
"""From so many runs on, something that never happened fails the command."""

FAILURES_MAX: Final = 10
"""After so many failing seeds the rest is not worth the time."""


def parse_seeds(ctx: click.Context, param: click.Parameter, value: str) -> range:
    """``A:B`` (from A up to but without B) or ``N`` (from 0 on, N of them). Raises a usage error for anything else."""
    first, colon, last = value.partition(":")
    try:
        seeds = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not of the form A:B, such as 0:200", ctx, param) from None
    if not seeds:
        raise click.BadParameter(f"{value!r} is empty: the second number must exceed the first", ctx, param)
    return seeds


@click.command()
@click.option("--protocol", required=True, help="A protocol's name, or path/to/file.py:ATTRIBUTE.")
@click.option("--seeds", callback=parse_seeds, default="0:100", show_default=True, help="From A up to but without B.")
@click.option("--replicas", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option("--faults", type=click.Choice(FAULT_PROFILES), default="all", show_default=True)
@click.option("--operations", type=click.IntRange(1), default=500, show_default=True, help="Of all clients, a run.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the protocol, kept fixed.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the seeds.")
@click.option("--replay", type=int, metavar="SEED", help="Run this seed alone.")
@click.option("--trace", is_flag=True, help="With --replay: print who did what, and when.")
@click.option("--shrink", is_flag=True, help="With --replay: take out whatever the failure does not need.")
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --shrink: write the smallest plan here. Without: run the plan in this file.",
)
@click.option(
    "--history",
    "history_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --replay or --plan: write what the clients saw here, for `synod check`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def simulate(
    *,
    protocol: str,
    seeds: range,
    replicas: int,
    faults: str,
    operations: int,
    options: tuple[str, ...],
    jobs: int,
    replay: int | None,
    trace: bool,
    shrink: bool,
    plan_file: Path | None,
    history_file: Path | None,
    as_json: bool,
) -> None:
    """Try a protocol in the deterministic world.

    Each seed is a run of a whole cluster, with its own faults; a seed that fails is printed with the command that
    repeats it exactly.

    \b
    Exit status:
      0  all runs were clean
      1  some run was not; or many were, and something was never covered or a run was too tame; or more than
         1 % of the histories could not be judged
      2  wrong usage
    """
    from replica.consensus.interface import ConfigurationError
    from replica.consensus.registry import find_protocol
    from replica.simulation import PROFILES

    try:
        spec = find_protocol(protocol)
        fixed = _parse_options(spec, options)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    if shrink and replay is None:
        raise click.UsageError("--shrink makes one run small: name it with --replay SEED")
    plan = _read_plan(plan_file) if plan_file is not None and not shrink else None
    if trace and replay is None and plan is None:
        raise click.UsageError("--trace shows one run: name it with --replay SEED or --plan FILE")
    if history_file is not None and replay is None and plan is None:
        raise click.UsageError("--history holds one run: name it with --replay SEED or --plan FILE")
    how = (protocol, replicas, faults, operations, fixed)
    if shrink and replay is not None:
        plan = _shrink(how, replay, plan_file)
    if plan is not None or replay is not None:
        seed = plan.seed if plan is not None else replay or 0
        _replay(how, seed, plan, trace=trace, history_file=history_file, as_json=as_json)
        return
    from replica.simulation.survey import Survey, expected

    survey = Survey()
    failures: list[tuple[int, str, str]] = []
    began = time.perf_counter()
    with click.progressbar(length=len(seeds), label="seeds", file=sys.stderr) as bar:
        for seed, report, check, text in _results(how, seeds, jobs):
            bar.update(1)
            if report is not None:
                survey.add(report)
                continue
            failures.append((seed, check, text))
            if len(failures) >= FAILURES_MAX:
                break
    seconds = time.perf_counter() - began
    failures.sort()
    missing = []
    wanted = expected(PROFILES[faults], spec.capabilities, replicas, spec.name)
    if survey.runs >= COVERAGE_RUNS and not failures:
        missing = [f"never covered: {name}" for name in survey.missing(wanted)]
        missing += survey.shortcomings(PROFILES[faults], operations)
    missing += survey.doubts()
    if as_json:
        click.echo(
            json.dumps(
                {
                    "protocol": spec.name,
                    "replicas": replicas,
                    "runs": survey.runs,
                    "events": survey.events,
                    "operations": survey.operations,
                    "succeeded": survey.succeeded,
                    "undecided": survey.undecided,
                    "seconds": seconds,
                    "events_per_second": survey.events / seconds / jobs,
                    "counters": survey.counters,
                    "missing": missing,
                    "failures": [{"seed": seed, "check": check, "text": text} for seed, check, text in failures],
                }
            )
        )
    else:
        for line in survey.lines():
            click.echo(line)
        click.echo(f"{seconds:.1f} s with {jobs} jobs: {survey.events / seconds / jobs:.0f} events a second and job")
        for _, _, text in failures:
            click.echo(text, err=True)
        if failures:
            click.echo(f"{len(failures)} of {survey.runs + len(failures)} runs failed", err=True)
        for text in missing:
            click.echo(text, err=True)
    if failures or missing:
        sys.exit(1)


def _parse_options(spec: Any, options: tuple[str, ...]) -> dict[str, Any]:
    """Raises `ConfigurationError`."""
    from replica.consensus.interface import ConfigurationError, parse_options

    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigurationError(f"--option {option!r} is not of the form NAME=VALUE")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    parse_options(spec, parsed)
    return parsed


def _read_plan(path: Path) -> Plan:
    import msgspec

    from replica.simulation import Plan

    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError as error:
        raise click.UsageError(f"--plan {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise click.UsageError(f"--plan {path} holds no plan: {error}") from None


def _shrink(how: tuple[Any, ...], seed: int, path: Path | None) -> Plan:
    import msgspec

    from replica.consensus.registry import find_protocol
    from replica.simulation import plan_of
    from replica.simulation.shrink import ATTEMPTS_MAX, shrink

    protocol, replicas, faults, operations, options = how
    spec = find_protocol(protocol)
    plan = plan_of(seed, spec, replicas, faults, operations=operations, options=options)
    with click.progressbar(length=ATTEMPTS_MAX, label="shrinking", file=sys.stderr) as bar:
        try:
            shrunk = shrink(plan, spec, replicas, progress=lambda attempt, best: bar.update(1))
        except ValueError as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"{len(plan.faults)} faults became {len(shrunk.plan.faults)} in {shrunk.attempts} runs:", err=True)
    for fault in shrunk.plan.faults:
        click.echo(f"  {fault.at:.6f} s: {fault.kind} {fault.detail} on {fault.target}", err=True)
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(shrunk.plan)))
    return shrunk.plan


def _replay(
    how: tuple[Any, ...], seed: int, plan: Plan | None, *, trace: bool, history_file: Path | None, as_json: bool
) -> None:
    from replica.consensus.registry import find_protocol
    from replica.simulation import SimulationFailure, run
    from replica.simulation.survey import Survey
    from replica.verification.history import Header, Recorder

    protocol, replicas, faults, operations, options = how
    try:
        with ExitStack() as stack:
            recorder = None
            if history_file is not None:
                attributes = {"protocol": protocol, "replicas": replicas, "seed": seed}
                sink = stack.enter_context(history_file.open("wb"))
                model = "register" if find_protocol(protocol).capabilities.registers else "kv"
                recorder = Recorder(Header(model=model, attributes=attributes), sink)
            report = run(
                seed,
                find_protocol(protocol),
                replicas,
                faults,
                operations=operations,
                options=options,
                plan=plan,
                readable=trace,
                recorder=recorder,
            )
    except SimulationFailure as failure:
        for line in failure.trace:
            click.echo(line)
        click.echo(_told(failure, find_protocol(protocol).name, protocol), err=True)
        sys.exit(1)
    for line in report.trace:
        click.echo(line)
    if as_json:
        click.echo(json.dumps({"seed": seed, "digest": report.digest, "counters": dict(report.counters)}))
        return
    survey = Survey()
    survey.add(report)
    for line in survey.lines():
        click.echo(line)
    click.echo(f"digest {report.digest}")


def _results(how: tuple[Any, ...], seeds: range, jobs: int) -> Iterator[tuple[int, Report | None, str, str]]:
    """Seed, report (None for a failure), and for a failure the check and the text, in the order of completion."""
    if jobs == 1:
        for seed in seeds:
            yield _one((how, seed))
        return
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, [(how, seed) for seed in seeds], chunksize=4)


def _one(task: tuple[tuple[Any, ...], int]) -> tuple[int, Report | None, str, str]:
    from replica.consensus.registry import find_protocol
    from replica.simulation import SimulationFailure, run

    (protocol, replicas, faults, operations, options), seed = task
    try:
        report = run(seed, find_protocol(protocol), replicas, faults, operations=operations, options=options)
    except SimulationFailure as failure:
        return seed, None, failure.check, _told(failure, find_protocol(protocol).name, protocol)
    return seed, report, "", ""


def _told(failure: SimulationFailure, name: str, protocol: str) -> str:
    """The failure, with the protocol in its replay as the user has named it."""
    return str(failure).replace(f"--protocol {name} ", f"--protocol {protocol} ")
