"""``synod bench``: run suites, look at what they left behind.

Exit status: 0 when all is well; 1 when a run failed, or a verdict is wrong; 2 for a mistake in what was asked; 130 when
it was interrupted, or its time was up, before the end (the folder can be resumed).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import results
from bench.conclusion import conclusion
from bench.faults import FaultError, parse_fault
from bench.planning import Plan, expected_s
from bench.results import RunResult
from bench.runner import Interrupted, Settings, default_command, run_suite
from bench.suite import (
    Experiment,
    Suite,
    SuiteError,
    TargetEntry,
    available_suites,
    load_suite,
    parse_suite,
    scaled,
)
from bench.targets import known_targets
from bench.workload import available_workloads
from deploy.drivers import DRIVERS
from deploy.drivers.docker import DEFAULT_IMAGE
from deploy.shaping import SHAPINGS
from deploy.topology import available as available_topologies
from replica.cli.lazy import LazyGroup
from replica.consensus.registry import available as available_protocols

INTERRUPTED = 130
WRONG = 1

PROTOCOL_HOSTS = ("synod", "simulated")
"""Targets that run a protocol of one's choice."""

LINE_WIDTH = 130
"""Of tables that go to a file or a pipe."""


@click.group(
    cls=LazyGroup,
    core={
        "calibrate": "bench.simulated.cli:calibrate",
        "compare": "bench.report.cli:compare",
        "report": "bench.report.cli:report",
    },
)
def bench() -> None:
    """Measure protocols and systems against each other, with a verdict beside each figure."""


# ---------------------------------------------------------------------------------------------------------- options

_TARGET_HELP = "What is measured; may be repeated (see `synod bench list`)."
_PROTOCOL_HELP = (
    "A protocol of Synod by name, or path.py:ATTRIBUTE; may be repeated, or a list with commas. A suite that has it "
    "runs it with its own options."
)


def _common(command: Any) -> Any:
    for option in (
        click.option("--target", "targets", multiple=True, help=_TARGET_HELP),
        click.option("--protocol", "--protocols", "protocols", multiple=True, help=_PROTOCOL_HELP),
        click.option(
            "--into", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of the results."
        ),
        click.option("--repetitions", type=click.IntRange(min=1), help="Instead of the suite's."),
        click.option("--seconds", type=float, help="What is measured of each run, instead of the suite's."),
        click.option(
            "--scale",
            type=click.FloatRange(min=0, min_open=True),
            default=1.0,
            help="All times of the suite by this factor, faults included: 0.1 for a first look.",
        ),
        click.option("--seed", type=int, help="Instead of the suite's."),
        click.option(
            "--driver", type=click.Choice(sorted(DRIVERS)), help="Where replicas and load run.  [default: process]"
        ),
        click.option("--shaping", type=click.Choice(SHAPINGS), help="Of the links between replicas.  [default: auto]"),
        click.option("--leader", metavar="REGION", help="Where in the topology the leader is to stand in each run."),
        click.option("--image", help=f"Of the containers of --driver docker.  [default: {DEFAULT_IMAGE}]"),
        click.option("--for", "seconds_max", type=float, default=0.0, help="Stop cleanly after so many seconds."),
        click.option("--keep-data", is_flag=True, help="Leave the data folders of the clusters."),
        click.option("--check-perf", is_flag=True, help="Also let etcd's own program measure etcd (a minute)."),
        click.option("--no-ceilings", is_flag=True, help="Do not measure the generators first."),
        click.option("--report/--no-report", "wants_report", default=True, help="Make report.html at the end."),
    ):
        command = option(command)
    return command


def _targets(targets: Sequence[str], protocols: Sequence[str], entries: list[TargetEntry]) -> list[TargetEntry]:
    """The suite's entries, or what the options put in their place."""
    names = [name.strip() for text in protocols for name in text.split(",") if name.strip()]
    if not targets and not names:
        return entries
    # Protocols are run on the kinds of cluster that are asked for: real ones, unless only simulated ones are.
    hosts = [target for target in targets if target in PROTOCOL_HOSTS] or ["synod"]
    kept = [entry for entry in entries if entry.target in targets and not (entry.target in PROTOCOL_HOSTS and names)]
    made = [entry for host in hosts for name in names for entry in _entries_of(name, host, entries)]
    have = {entry.target for entry in [*kept, *made]}
    made += [
        TargetEntry(target=target, protocol="multipaxos" if target in PROTOCOL_HOSTS else "")
        for target in dict.fromkeys(targets)
        if target not in have
    ]
    return [*made, *kept]


def _entries_of(protocol: str, host: str, entries: list[TargetEntry]) -> list[TargetEntry]:
    """How the suite runs ``protocol``, with the options that it gives it there; as it is where the suite has it not."""
    own = [entry for entry in entries if entry.target in PROTOCOL_HOSTS and entry.protocol == protocol]
    if not own:
        return [TargetEntry(target=host, protocol=protocol)]
    return [msgspec.structs.replace(entry, target=host) for entry in own]


def _finish_suite(suite: Suite, options: dict[str, Any]) -> Suite:
    """The suite with what the options put in the place of its own."""
    seconds, repetitions, seed = options["seconds"], options["repetitions"], options["seed"]
    experiments = [scaled(each, options.get("scale", 1.0)) for each in suite.experiments]
    if seconds is not None:
        experiments = [
            msgspec.structs.replace(each, load=msgspec.structs.replace(each.load, seconds=seconds))
            for each in experiments
        ]
    names = ("driver", "shaping", "leader", "image")
    where = {field: options[field] for field in names if options.get(field) is not None}
    if where:
        experiments = [
            msgspec.structs.replace(each, cluster=msgspec.structs.replace(each.cluster, **where))
            for each in experiments
        ]
    if repetitions is not None:
        experiments = [msgspec.structs.replace(each, repetitions=0) for each in experiments]
    return msgspec.structs.replace(
        suite,
        targets=_targets(options["targets"], options["protocols"], suite.targets),
        repetitions=repetitions or suite.repetitions,
        seed=suite.seed if seed is None else seed,
        experiments=experiments,
    )


# --------------------------------------------------------------------------------------------------------- commands


@bench.command("suite")
@click.argument("name")
@_common
@click.option("--only", multiple=True, help="Only this experiment of the suite; may be repeated.")
def suite_command(name: str, only: tuple[str, ...], folder: Path | None, **options: Any) -> None:
    """Run the suite NAME (or a .toml file); the same command with --into goes on where it stopped."""
    try:
        suite = load_suite(name)
        if only:
            known = [each.name for each in suite.experiments]
            for wanted in only:
                if wanted not in known:
                    raise SuiteError(f"--only: {suite.name} has no experiment {wanted!r} (it has: {', '.join(known)})")
            kept = [each for each in suite.experiments if each.name in only]
            entries = [each for each in suite.targets if not each.experiments or set(each.experiments) & set(only)]
            suite = msgspec.structs.replace(suite, experiments=kept, targets=entries)
        suite = _finish_suite(suite, options)
    except SuiteError as error:
        raise click.UsageError(str(error)) from None
    _run(suite, folder, options)


@bench.command("run")
@_common
@click.option("--workload", default="uniform", show_default=True, help="A workload by name, or a .toml file.")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change the workload: value.bytes=512.")
@click.option("--in-flight", "in_flight", default="64", show_default=True, help="Closed loop: one number, or a list.")
@click.option("--rate", default="", help="Open loop: operations a second, one number or a list.")
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True)
@click.option("--saturate", is_flag=True, help="Step the load up until throughput stops growing.")
@click.option("--warm-up", "warm_up_s", type=float, default=1.0, show_default=True, help="Seconds.")
@click.option("--processes", type=int, default=1, show_default=True, help="Generator processes in each region.")
@click.option("--replicas", type=int, default=3, show_default=True)
@click.option("--topology", default="", help="Regions and their round trips; see `synod bench list`.")
@click.option("--durability", type=click.Choice(["sync", "none"]), default="sync", show_default=True)
@click.option("--sync-mode", type=click.Choice(["inline", "thread", "auto"]), default="inline", show_default=True)
@click.option("--batch-max", type=int, default=512, show_default=True, help="1: an operation a command.")
@click.option("--consistency", default="linearizable", show_default=True, help="Of reads.")
@click.option("--option", "protocol_options", multiple=True, metavar="NAME=VALUE", help="An option of the protocol.")
@click.option("--fault", "faults", multiple=True, metavar="WORDS", help='For example "3s kill leader for 2s".')
@click.option("--sample", type=float, default=0.02, show_default=True, help="Share of the keys that is judged.")
def run_command(folder: Path | None, **options: Any) -> None:
    """One experiment from options alone: targets at one load, or at several."""
    try:
        suite = _finish_suite(_single(options), options)
    except SuiteError as error:
        raise click.UsageError(str(error)) from None
    _run(suite, folder, options)


def _single(options: dict[str, Any]) -> Suite:
    load: dict[str, Any] = {
        "warm_up_s": options["warm_up_s"],
        "processes": options["processes"],
        "arrivals": options["arrivals"],
    }
    sweep: dict[str, Any] | None = None
    if options["rate"]:
        rates = _numbers("--rate", options["rate"], float)
        load |= {"loop": "open", "rate": rates[0]}
        sweep = {"axis": "load.rate", "values": rates}
    else:
        counts = _numbers("--in-flight", options["in_flight"], int)
        load |= {"in_flight": counts[0]}
        sweep = {"axis": "load.in_flight", "values": counts}
    if options["saturate"]:
        load["saturation"] = {"first": 100.0, "last": 1_000_000.0} if options["rate"] else {}
        sweep = None
    experiment: dict[str, Any] = {
        "name": "run",
        "workload": options["workload"],
        "changes": dict(_assignment("--set", text) for text in options["changes"]),
        "load": load,
        "cluster": {
            "replicas": options["replicas"],
            "topology": options["topology"],
            "durability": options["durability"],
            "sync_mode": options["sync_mode"],
            "batch_max": options["batch_max"],
            "consistency": options["consistency"],
            "options": dict(_assignment("--option", text) for text in options["protocol_options"]),
        },
        "history": {"fraction": options["sample"]},
        "faults": _faults(options["faults"]),
    }
    if sweep is not None:
        experiment["sweep"] = sweep
    default = {"target": "synod", "protocol": "multipaxos"}
    return parse_suite({"name": "run", "repetitions": 1, "targets": [default], "experiments": [experiment]})


def _numbers(option: str, text: str, kind: type[int | float]) -> list[int | float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise SuiteError(f"{option}: {text!r} is not a number, or a list of numbers with commas") from None


def _assignment(option: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SuiteError(f"{option}: {text!r} is not NAME=VALUE")
    return name, _scalar(value)


def _scalar(text: str) -> Any:
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _faults(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The tables of faults that are given in words."""
    try:
        return [msgspec.to_builtins(parse_fault(text)) for text in texts]
    except FaultError as error:
        raise SuiteError(f"--fault: {error}") from None


@bench.command("list")
def list_command() -> None:
    """Name the suites, workloads, targets, protocols and topologies that there are."""
    for title, names in (
        ("suites", [(name, load_suite(name).summary) for name in available_suites()]),
        ("workloads", [(name, _summary_of_workload(name)) for name in available_workloads()]),
        ("targets", [(name, "") for name in known_targets()]),
        ("protocols", [(name, "") for name in available_protocols()]),
        ("topologies", [(name, "") for name in available_topologies()]),
    ):
        click.echo(f"{title}:")
        width = max((len(name) for name, _ in names), default=0)
        for name, summary in names:
            click.echo(f"  {name.ljust(width)}  {summary}".rstrip())


def _summary_of_workload(name: str) -> str:
    from bench.workload import load_workload

    return load_workload(name).summary


# ---------------------------------------------------------------------------------------------------------- running


def default_folder(name: str) -> Path:
    """Where results go unless they are told where: a folder of its own for each time."""
    return Path("results") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _run(suite: Suite, folder: Path | None, options: dict[str, Any]) -> None:
    target = folder or default_folder(suite.name)
    settings = Settings(
        folder=target,
        command=default_command(),
        seconds_max=options["seconds_max"],
        ceilings=not options["no_ceilings"],
        keep_data=options["keep_data"],
        check_perf=options["check_perf"],
    )
    sys.exit(execute(suite, settings, wants_report=options["wants_report"]))


def execute(suite: Suite, settings: Settings, *, wants_report: bool) -> int:
    """Run, print the tables, make the report; returns the exit status."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LINE_WIDTH)
    status = 0
    try:
        with Display(console) as display:
            _interruptible(run_suite(suite, settings, display))
    except (SuiteError, results.ResultsError) as error:
        raise click.UsageError(str(error)) from None
    except Interrupted as reason:
        console.print(f"Stopped: {reason}. The same command with --into {settings.folder} goes on.", soft_wrap=True)
        status = INTERRUPTED
    found = results.read_folder(settings.folder)
    if not found.runs:
        console.print("No run was completed.")
        return status or WRONG
    from bench.model import ModelError
    from bench.model.beside import model_of
    from bench.report import print_tables, write_report  # a second to import

    model = None
    if wants_report:
        try:
            model = model_of(settings.folder)
        except ModelError as error:
            console.print(f"without predictions: {error}", soft_wrap=True)
    print_tables(found, predictor=model)
    if wants_report:
        console.print(f"report: {write_report(found, model)}", soft_wrap=True)
    console.print(f"results: {settings.folder}", soft_wrap=True)
    sentence, good = conclusion(found)
    console.print(sentence, style="bold green" if good else "bold red", soft_wrap=True)
    return status or (0 if good else WRONG)


def _interruptible(work: Coroutine[Any, Any, Any]) -> None:
    """Run to the end. The first interrupt cancels, so that all is stopped in order; then it raises `Interrupted`."""

    async def main() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        asked: list[int] = []

        def stop(number: int) -> None:
            asked.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            await task
        except asyncio.CancelledError:
            if not asked:
                raise RuntimeError("the benchmark cancelled itself, which it should never do") from None
            raise Interrupted("it was interrupted") from None

    asyncio.run(main())


class Display:
    """Progress for people: bars with the time left in a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._runs = self._progress.add_task("runs", total=None)
        self._done = 0
        self._total = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def planned(self, plans: list[Plan], ceilings: int, done: int) -> None:
        """See `bench.runner.Watcher`."""
        left = expected_s(plans) / max(1, len(plans)) * (len(plans) - done) + ceilings * 2.5
        self._total = len(plans) + ceilings
        self._done = done
        self._progress.update(self._runs, total=self._total, completed=done)
        already = f", {done} of them done before" if done else ""
        self.says(f"{len(plans)} runs{already}; about {left / 60:.0f} min {left % 60:.0f} s to go")

    def begins(self, what: str) -> None:
        """See `bench.runner.Watcher`."""
        self._progress.update(self._runs, description=what)
        if not self._console.is_terminal:
            self._console.print(f"[{self._done + 1}/{self._total}] {what}", markup=False, soft_wrap=True)

    def ended(self, run: RunResult | None, seconds: float) -> None:
        """See `bench.runner.Watcher`."""
        self._done += 1
        self._progress.update(self._runs, completed=self._done)
        if run is not None and run.failure is not None:
            self.says(f"{run.id} failed: {run.failure.reason}")
        elif run is not None and run.verdict.bad:
            self.says(f"{run.id}: {run.verdict.answer}: {run.verdict.reason}")

    def says(self, text: str) -> None:
        """See `bench.runner.Watcher`."""
        self._console.print(text, markup=False, soft_wrap=True)


__all__ = ["Experiment", "bench", "execute"]
