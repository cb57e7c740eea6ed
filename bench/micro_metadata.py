"""Metadata written by many processes: Synod beside SQLite in one run, and what questions cost as the store grows.

``python -m bench.micro_metadata [--processes 16] [--seconds 5] [--repetitions 3] [--json]`` starts three replicas and
interleaves two conditions in rounds: so many processes that each, over and over, record an execution with one input and
two outputs (objects, names, an indexed property, edges both ways), on `replica.metadata`, and on SQLite (WAL,
``synchronous=FULL``), with the same rows in tables and the same uniqueness and references declared, in one transaction
each, waiting for locks as long as it takes. Every process has ``--tasks`` such units under way on Synod; on SQLite a
connection has one at a time, which is all that it can have. Afterwards both sides are counted: nothing acknowledged may
be missing.

``--scale N`` instead fills one replica with N artifacts and ten times as many edges, and times find by an indexed
property, by name, and lineages of ten hops.

Everything shares this machine: the ratio within one run is what means something. The ratio is given with an interval of
95 % over the repetitions (Student's t on the logarithms).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from deploy import Cluster
from replica.client import Put, connect_async
from replica.kv.operations import Transaction
from replica.metadata import AsyncMetadata
from replica.metadata.check import check
from replica.metadata.core import encode_object
from replica.metadata.model import SERIAL_BITS, Artifact, Execution

STUDENT_95: Final = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Two-sided quantiles, by the number of repetitions."""

SQLITE_TIMEOUT_S: Final = 120.0
LINEAGES: Final = 20
FAN: Final = 10
"""Inputs of each execution in the store that is filled."""

SCHEMA: Final = """
CREATE TABLE object (id INTEGER PRIMARY KEY, kind TEXT, type TEXT, name TEXT, body TEXT, UNIQUE (type, name));
CREATE TABLE property (object INTEGER REFERENCES object, name TEXT, value REAL, PRIMARY KEY (object, name));
CREATE INDEX by_value ON property (name, value);
CREATE TABLE edge (source INTEGER REFERENCES object, target INTEGER REFERENCES object, kind TEXT, role TEXT,
                   PRIMARY KEY (source, target, kind));
CREATE INDEX by_target ON edge (target);
CREATE TABLE audit (id INTEGER PRIMARY KEY, actor TEXT, action TEXT, time_ms INTEGER);
"""


# ------------------------------------------------------------------------------------------------------ the two workers


async def record(md: AsyncMetadata, data: Artifact, name: str) -> None:
    """One unit of work on Synod: an execution with an input and two outputs, in one transaction."""
    serials = [await md.serial() for _ in range(3)]

    async def build(unit: Any) -> None:
        train = await md.type_in(unit, "execution", "Train")
        model = await md.type_in(unit, "artifact", "Model")
        run = md._made(Execution, train, serials[0], name=name)
        await md._create(unit, train, run)
        await md._link(unit, "input", data.id, run.id, "train")
        for number, serial in enumerate(serials[1:]):
            made = md._made(Artifact, model, serial, name=f"{name}/{number}", properties={"acc": serial / 1e6})
            await md._create(unit, model, made)
            await md._link(unit, "output", run.id, made.id)

    await md.carry_out("record", build)


def on_synod(url: str, worker: int, tasks: int, times: tuple[float, float], answer: Any) -> None:
    """A process that writes to Synod; answers how many units were acknowledged within the time, and in all."""
    begin, seconds = times

    async def run() -> tuple[int, int]:
        counted = done = 0
        async with connect_async(url, timeout_s=60) as store:
            md = AsyncMetadata(store, actor=f"worker {worker}")
            data = await md.by_name("Data", "shared")
            assert isinstance(data, Artifact)
            await asyncio.sleep(max(0.0, begin - time.time()))

            async def work(task: int) -> None:
                nonlocal counted, done
                number = 0
                while time.time() < begin + seconds:
                    await record(md, data, f"{begin}/{worker}/{task}/{number}")
                    number += 1
                    done += 1
                    counted += time.time() < begin + seconds

            await asyncio.gather(*(work(task) for task in range(tasks)))
        return counted, done

    answer.put(asyncio.run(run()))


def on_sqlite(path: str, worker: int, times: tuple[float, float], answer: Any) -> None:
    """A process that writes the same to SQLite."""
    begin, seconds = times
    database = sqlite3.connect(path, timeout=SQLITE_TIMEOUT_S, isolation_level=None)
    database.execute("PRAGMA synchronous=FULL")
    database.execute("PRAGMA foreign_keys=ON")
    time.sleep(max(0.0, begin - time.time()))
    counted = done = 0
    while time.time() < begin + seconds:
        name = f"{begin}/{worker}/{done}"
        database.execute("BEGIN IMMEDIATE")
        insert = "INSERT INTO object (kind, type, name, body) VALUES (?, ?, ?, ?) RETURNING id"
        (run,) = database.execute(insert, ("execution", "Train", name, "{}")).fetchone()
        database.execute("INSERT INTO edge VALUES (1, ?, 'input', 'train')", (run,))
        for number in range(2):
            (made,) = database.execute(insert, ("artifact", "Model", f"{name}/{number}", "{}")).fetchone()
            database.execute("INSERT INTO property VALUES (?, 'acc', ?)", (made, made / 1e6))
            database.execute("INSERT INTO edge VALUES (?, ?, 'output', '')", (run, made))
        now_ms = time.time_ns() // 1_000_000
        database.execute("INSERT INTO audit (actor, action, time_ms) VALUES (?, 'record', ?)", (str(worker), now_ms))
        database.execute("COMMIT")
        done += 1
        counted += time.time() < begin + seconds
    database.close()
    answer.put((counted, done))


def together(target: Any, arguments: list[tuple[Any, ...]], start_s: float, seconds: float) -> tuple[float, int]:
    """Run a process for each of the arguments, at one time; returns units a second, and how many in all."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    begin = time.time() + start_s
    processes = [context.Process(target=target, args=(*each, (begin, seconds), answer)) for each in arguments]
    for process in processes:
        process.start()
    answers = [answer.get(timeout=SQLITE_TIMEOUT_S + start_s + seconds) for _ in processes]
    for process in processes:
        process.join()
    if not all(counted for counted, _ in answers):
        raise SystemExit(
            f"a process did nothing within its time: give them longer than {start_s:g} s to start (--start)"
        )
    return sum(counted for counted, _ in answers) / seconds, sum(done for _, done in answers)


async def prepare(url: str) -> None:
    """Types, and the artifact that every run takes."""
    async with connect_async(url, timeout_s=60) as store:
        md = AsyncMetadata(store)
        await md.define_type("Data")
        await md.define_type("Model", properties={"acc": float}, index=["acc"])
        await md.define_type("Train", kind="execution")
        await md.put_artifact("Data", name="shared")


async def judge(url: str) -> tuple[int, list[str]]:
    """How many executions there are, and what the checker says."""
    async with connect_async(url, timeout_s=60) as store:
        report = await check(store)
        count = 0
        async for _ in AsyncMetadata(store).find_all(kind="execution"):
            count += 1
        return count, report.faults


def against_sqlite(options: argparse.Namespace) -> dict[str, Any]:
    """The comparison."""
    rates: dict[str, list[float]] = {"synod": [], "sqlite": []}
    totals = {"synod": 0, "sqlite": 0}
    with tempfile.TemporaryDirectory(prefix="synod-metadata-", dir=options.folder) as folder:
        path = str(Path(folder) / "metadata.sqlite")
        database = sqlite3.connect(path)
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(SCHEMA)
        database.execute("INSERT INTO object VALUES (1, 'artifact', 'Data', 'shared', '{}')")
        database.commit()
        cluster = Cluster.create(Path(folder) / "cluster", replicas=3, base_port=0)
        try:
            cluster.up()
            url = ",".join(cluster.endpoints)
            asyncio.run(prepare(url))
            workers = range(options.processes)
            for repetition in range(options.repetitions):
                # Which goes first changes, so that what drifts meanwhile favours neither.
                for side in ("synod", "sqlite") if repetition % 2 == 0 else ("sqlite", "synod"):
                    if side == "synod":
                        each = [(url, worker, options.tasks) for worker in workers]
                        rate, done = together(on_synod, each, options.start, options.seconds)
                    else:
                        rate, done = together(on_sqlite, [(path, n) for n in workers], options.start, options.seconds)
                    rates[side].append(rate)
                    totals[side] += done
            found, faults = asyncio.run(judge(url))
        finally:
            cluster.down(timeout_s=5.0)
        (kept,) = database.execute("SELECT count(*) FROM object WHERE kind = 'execution'").fetchone()
        database.close()
    ratios = [left / right for left, right in zip(rates["synod"], rates["sqlite"], strict=True)]
    return {
        "processes": options.processes,
        "tasks": options.tasks,
        "seconds": options.seconds,
        "units_per_s": rates,
        "ratio": interval(ratios),
        "acknowledged": totals,
        "found": {"synod": found, "sqlite": kept},
        "lost": {"synod": totals["synod"] - found, "sqlite": totals["sqlite"] - kept},
        "faults": faults,
    }


def interval(ratios: list[float]) -> dict[str, float]:
    """Geometric mean with an interval of 95 %; without one for a single repetition."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = 0.0
    if len(logs) > 1:
        half = STUDENT_95.get(len(logs), 2.3) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"mean": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


# ------------------------------------------------------------------------------------------------------------ the scale


async def fill(md: AsyncMetadata, artifacts: int) -> None:
    """Artifacts in layers: each execution takes ten artifacts of the layer before and makes ten of its own.

    Half of the edges are of lineage, the other half say to which of a hundred projects each artifact belongs (five of
    them). They are written as the store lays them out, many to a transaction, without a transaction each.
    """
    await md.define_type("Step", properties={"number": int}, index=["number"])
    await md.define_type("Run", kind="execution")
    await md.define_type("Project", kind="context")
    projects = [(await md.put_context("Project", f"p{number}")).id for number in range(100)]
    step, run = await md.type("Step"), await md.type("Run", kind="execution")
    puts: list[Put] = []
    before: list[int] = []
    layer: list[int] = []
    waiting: set[asyncio.Task[Any]] = set()
    maker = 0

    async def send(some: list[Put]) -> None:
        await md.store.execute(Transaction((), tuple(some)))

    async def write(item: Put) -> None:
        nonlocal puts, waiting
        puts.append(item)
        if len(puts) == 250:
            some, puts = puts, []
            waiting.add(asyncio.create_task(send(some)))
            if len(waiting) >= 8:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()

    async def link(kind: Any, source: int, target: int) -> None:
        for key in md.keys.edge(kind, source, target):
            await write(Put(key, b""))

    for number in range(artifacts):
        if number % FAN == 0:
            maker = run.number << SERIAL_BITS | await md.serial()
            await write(Put(md.keys.object(maker), encode_object(Execution(id=maker, type="Run"))))
            # Ten of the layer before, far apart, so that lineages widen.
            for place in range(min(FAN, len(before))):
                await link("input", before[(number * 7 + place * 101) % len(before)], maker)
        identity = step.number << SERIAL_BITS | await md.serial()
        made = Artifact(id=identity, type="Step", name=f"step {number}", properties={"number": number})
        await write(Put(md.keys.object(identity), encode_object(made)))
        await write(Put(md.keys.name(step.number, f"step {number}"), b"%d" % identity))
        await write(Put(md.keys.entry(step.number, "number", number, identity), b""))
        await link("output", maker, identity)
        for place in range(8):
            await link("member", identity, projects[(number + 13 * place) % 100])
        layer.append(identity)
        if len(layer) >= 1000:
            before, layer = layer, []
    await send(puts)
    await asyncio.gather(*waiting)


async def timed(what: list[Any]) -> dict[str, float]:
    """Run coroutines one after the other; median and greatest time in milliseconds."""
    times = []
    for each in what:
        begin = time.perf_counter()
        await each
        times.append((time.perf_counter() - begin) * 1e3)
    return {"p50_ms": statistics.median(times), "max_ms": max(times)}


async def at_scale(url: str, artifacts: int) -> dict[str, Any]:
    """Fill, ask, and check."""
    async with connect_async(url, timeout_s=120) as store:
        md = AsyncMetadata(store)
        begin = time.perf_counter()
        await fill(md, artifacts)
        filled = time.perf_counter() - begin
        numbers = [(artifacts * (each + 1)) // (LINEAGES + 2) for each in range(LINEAGES)]
        named = [await md.by_name("Step", f"step {number}") for number in numbers]
        figures: dict[str, Any] = {"artifacts": artifacts, "filled_s": filled}
        figures["find_indexed"] = await timed([md.find("Step", f"properties.number = {each}") for each in numbers])
        figures["find_range_100"] = await timed(
            [md.find("Step", f"properties.number >= {each} AND properties.number < {each + 100}") for each in numbers]
        )
        figures["by_name"] = await timed([md.by_name("Step", f"step {each}") for each in numbers])
        figures["lineage_up_10_hops"] = await timed([md.lineage(each, direction="up", hops=10) for each in named])
        figures["lineage_nodes"] = statistics.median(
            [len((await md.lineage(each, direction="up", hops=10)).nodes) for each in named]
        )
        begin = time.perf_counter()
        report = await check(store)
        figures |= {"edges": report.edges, "faults": report.count, "check_s": time.perf_counter() - begin}
        figures["first_faults"] = report.faults[:3]
        figures["client_max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return figures


def scale(options: argparse.Namespace) -> dict[str, Any]:
    """A store of so many artifacts on one replica."""
    with tempfile.TemporaryDirectory(prefix="synod-metadata-", dir=options.folder) as folder:
        cluster = Cluster.create(Path(folder) / "cluster", replicas=1, base_port=0)
        try:
            cluster.up()
            return asyncio.run(at_scale(",".join(cluster.endpoints), options.scale))
        finally:
            cluster.down(timeout_s=5.0)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 if anything acknowledged was lost or the checker found faults."""
    parser = argparse.ArgumentParser(description="metadata on Synod and on SQLite")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--start", type=float, default=15.0, help="seconds that the processes have to get ready")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--scale", type=int, metavar="ARTIFACTS")
    parser.add_argument("--folder", help="where the data goes; a disk, not a memory file system")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = scale(options) if options.scale else against_sqlite(options)
    sys.stdout.write(json.dumps(figures, indent=None if options.json else 2) + "\n")
    if options.scale:
        return 1 if figures["faults"] else 0
    return 1 if any(figures["lost"].values()) or figures["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
