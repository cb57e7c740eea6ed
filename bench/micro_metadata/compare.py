"""The mix of the workload `metadata` by many processes: Synod beside SQLite and PostgreSQL in one run."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.micro_metadata.databases import NoPostgreSQL, on_database, opened, postgresql, servers
from bench.micro_metadata.work import Counted, judge, on_synod, prepare
from bench.results import ratio
from bench.usage import Meter
from deploy import Cluster

START_S: Final = 0.3
"""From the word to the beginning of a round, so that all processes have heard it."""

READY_S: Final = 300.0
SIDES: Final = ("synod", "sqlite", "postgresql")
MADE: Final = ("runs", "models", "points")
CPU: Final = ("servers", "callers")
IDENTITY: Final = {
    "sqlite": "INTEGER PRIMARY KEY",
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=1, help="callers in each process; on SQL each has a connection")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--sides", default=",".join(SIDES), help="which of " + ", ".join(SIDES))


class Side(msgspec.Struct):
    """One of those that are compared, with its processes."""

    name: str
    processes: list[Any]
    pipes: list[Any]
    judge: Callable[[], tuple[dict[str, int], list[str]]]
    servers: Callable[[], dict[str, int]] = dict
    """Processes that serve, beside those that ask."""
    rates: list[float] = []
    kinds: Counter[str] = Counter()
    made: Counter[str] = Counter()
    served_s: float = 0.0
    asked_s: float = 0.0
    """CPU time of both."""

    def ready(self) -> None:
        """Wait until all of its processes are."""
        for pipe in self.pipes:
            if not pipe.poll(READY_S):
                raise SystemExit(f"a process of {self.name} was not ready within {READY_S:g} s")
            pipe.recv()

    def round(self, seconds: float) -> None:
        """One round by all processes."""
        meter = Meter(self.servers())
        meter.begin()
        begin = time.time() + START_S
        for pipe in self.pipes:
            pipe.send((begin, seconds))
        done = 0
        for pipe in self.pipes:
            if not pipe.poll(READY_S):
                raise SystemExit(f"a process of {self.name} did not end its round within {READY_S:g} s")
            counted: Counted = pipe.recv()
            done += sum(counted.within.values())
            self.kinds += Counter(counted.within)
            self.made += Counter(counted.made)
            self.asked_s += counted.cpu_s
        self.served_s += sum(each.cpu_user_s + each.cpu_system_s for each in meter.end())
        self.rates.append(done / seconds)

    def end(self) -> None:
        """Let the processes go."""
        for pipe in self.pipes:
            with suppress(OSError):  # it may have gone already
                pipe.send(None)
        for process in self.processes:
            process.join(30.0)
            if process.is_alive():
                process.kill()
                process.join()


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Rates, ratios and counts; a table of them; whether nothing was lost."""
    wanted = options.sides.split(",")
    if unknown := set(wanted) - set(SIDES):
        raise SystemExit(f"there is no side {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    skipped: dict[str, str] = {}
    sides: list[Side] = []
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="synod-metadata-", dir=options.folder))
        ).resolve()
        for name in wanted:
            try:
                sides.append(_begun(name, folder, options, stack))
            except NoPostgreSQL as error:
                skipped[name] = str(error)
                sys.stderr.write(f"skipped {name}: {error}\n")
        for side in sides:
            side.ready()
        for number in range(options.repetitions if sides else 0):
            # Each begins in its turn, so that what drifts meanwhile favours nobody.
            at = number % len(sides)
            for side in sides[at:] + sides[:at]:
                side.round(options.seconds)
            text = ", ".join(f"{side.name} {side.rates[-1]:.0f}/s" for side in sides)
            sys.stderr.write(f"round {number + 1} of {options.repetitions}: {text}\n")
        for side in sides:
            side.end()
        figures = _figures(sides, options) | {"skipped": skipped}
    good = not figures["faults"] and not any(any(each["lost"].values()) for each in figures["sides"].values())
    return figures, table(figures), good


def _begun(name: str, folder: Path, options: argparse.Namespace, stack: ExitStack) -> Side:
    """A side with its data and processes, which end with the stack. Raises `NoPostgreSQL`."""
    found: Callable[[], tuple[dict[str, int], list[str]]]
    serving: Callable[[], dict[str, int]] = dict
    target: Any = on_database
    arguments: tuple[str, ...]
    if name == "synod":
        cluster = Cluster.create(folder / "cluster", replicas=options.replicas, base_port=0)
        stack.callback(cluster.down, timeout_s=5.0)
        cluster.up()
        url = ",".join(cluster.endpoints)
        asyncio.run(prepare(url))
        target, arguments = on_synod, (url,)

        def serving() -> dict[str, int]:
            return {f"replica {each.replica}": each.process for each in cluster.layout.replicas if each.process}

        def found() -> tuple[dict[str, int], list[str]]:
            return asyncio.run(judge(url))
    else:
        address = str(folder / "metadata.sqlite")
        if name == "postgresql":
            place = folder / "postgresql"
            address = stack.enter_context(postgresql(place, options.processes * options.tasks))

            def serving() -> dict[str, int]:
                return servers(place)

        database = opened(name, address)
        database.prepare(IDENTITY[name])
        database.close()
        arguments = (name, address)

        def found() -> tuple[dict[str, int], list[str]]:
            again = opened(name, address)
            try:
                return again.judge(), []
            finally:
                again.close()

    context = multiprocessing.get_context("spawn")
    side = Side(name, [], [], found, serving, [], Counter(), Counter())
    stack.callback(side.end)
    for worker in range(options.processes):
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments, worker, options.tasks), daemon=True)
        process.start()
        theirs.close()
        side.processes.append(process)
        side.pipes.append(ours)
    return side


def _figures(sides: list[Side], options: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "processes": options.processes,
        "tasks": options.tasks,
        "seconds": options.seconds,
        "repetitions": options.repetitions,
        "replicas": options.replicas,
        "sides": {},
        "ratios": {},
        "faults": [],
    }
    for side in sides:
        there, faults = side.judge()
        figures["faults"] += faults
        figures["sides"][side.name] = {
            "per_s": side.rates,
            "acknowledged": dict(side.made),
            "found": there,
            # More than was acknowledged can be there only where an answer was lost, which these rounds wait for.
            "lost": {what: side.made[what] - count for what, count in there.items()},
            "kinds": dict(side.kinds),
            "server_cpu_ms": 1e3 * side.served_s / max(1, side.kinds.total()),
            "caller_cpu_ms": 1e3 * side.asked_s / max(1, side.kinds.total()),
        }
    if sides and sides[0].name == "synod":
        for other in sides[1:]:
            found = ratio(list(zip(sides[0].rates, other.rates, strict=True)))
            if found is not None:
                figures["ratios"][f"synod / {other.name}"] = msgspec.to_builtins(found)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures for people, as Markdown."""
    callers = f"{figures['processes']} processes, {figures['tasks']} callers each, {figures['replicas']} replicas"
    lines = [
        f"{callers}, {figures['repetitions']} interleaved rounds of {figures['seconds']:g} s",
        "",
        f"| | operations/s, median, least, most | CPU ms an operation: {', '.join(CPU)} | {', '.join(MADE)} | lost |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, side in figures["sides"].items():
        rates, made = side["per_s"], side["acknowledged"]
        counts = ", ".join(str(made.get(what, 0)) for what in MADE)
        spread = f"{statistics.median(rates):.0f}, {min(rates):.0f}, {max(rates):.0f}"
        cpu = f"{side['server_cpu_ms']:.2f}, {side['caller_cpu_ms']:.2f}"
        lines.append(f"| {name} | {spread} | {cpu} | {counts} | {sum(side['lost'].values())} |")
    lines += [f"| {name} | skipped: {why} | | | |" for name, why in figures["skipped"].items()]
    lines.append("")
    for what, each in figures["ratios"].items():
        interval = f"95 % interval {each['low']:.2f} to {each['high']:.2f}" if each["low"] is not None else "one round"
        lines.append(f"{what}: {each['mean']:.2f} ({interval})")
    lines += [f"fault: {each}" for each in figures["faults"][:3]] or ["the checker found no fault"]
    return "\n".join(lines)
