"""What every side is asked to do: the mix of the workload ``metadata``, drawn alike whichever side it is asked of.

Runs are created in experiments, chosen by a Zipf law; metrics are logged in batches to recent runs; models are
registered as outputs of them, with an indexed property; the newest runs of an experiment are listed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

from bench.workload import load_workload
from replica.client import connect_async
from replica.metadata import AsyncMetadata
from replica.metadata.check import check
from replica.metadata.model import SERIAL_BITS, Artifact, Execution

RECENT: Final = 8
"""Of so many of its newest runs a caller takes one to log to."""

Clock: TypeAlias = tuple[float, float]
"""When a round begins (as `time.time` counts) and how many seconds it lasts."""


class Step(msgspec.Struct, frozen=True):
    """One operation."""

    kind: str
    experiment: int
    number: int
    """Of the caller's operations."""
    recent: int
    """Which of its newest runs is meant."""


def metadata_mix() -> Any:
    """The workload as it is declared."""
    return load_workload("metadata")


def steps(worker: int, task: int) -> Iterator[Step]:
    """What one caller does, without an end; its first step creates a run."""
    workload = metadata_mix()
    draw = random.Random(worker * 1000 + task)
    kinds, shares = list(workload.mix), list(workload.mix.values())
    experiments = range(workload.keys)
    weights = [(1 + each) ** -workload.distribution.exponent for each in experiments]
    number = 0
    while True:
        kind = draw.choices(kinds, shares)[0] if number else "create-run"
        yield Step(kind, draw.choices(experiments, weights)[0], number, draw.randrange(RECENT))
        number += 1


class Counted(msgspec.Struct):
    """What one worker was acknowledged: operations by kind within the time, and things that must be there in all."""

    within: dict[str, int]
    made: dict[str, int]
    cpu_s: float
    """What the process used during the round."""


# --------------------------------------------------------------------------------------------------------------- Synod


async def prepare(url: str) -> None:
    """Types, experiments, and the data that every run takes."""
    async with connect_async(url, timeout_s=60) as store:
        md = AsyncMetadata(store, actor="prepare")
        await md.define_type("Data")
        await md.define_type("Model", properties={"acc": float}, index=["acc"])
        await md.define_type("Train", kind="execution")
        await md.define_type("Experiment", kind="context")
        await md.put_artifact("Data", name="shared")
        async with md.load() as load:
            for number in range(metadata_mix().keys):
                await load.put_context("Experiment", f"{number}")


async def register(md: AsyncMetadata, run: int, experiment: int, name: str, acc: float) -> None:
    """A model that a run has made, its edge and its place, in one transaction."""
    serial = await md.serial()

    async def build(unit: Any) -> None:
        of = await md.type_in(unit, "artifact", "Model")
        made = md._made(Artifact, of, serial, name=name, uri=f"s3://models/{name}", properties={"acc": acc})
        await md._create(unit, of, made)
        await md._link(unit, "output", run, made.id)
        await md._link(unit, "member", made.id, experiment)

    await md.carry_out("register", build)


async def create_run(md: AsyncMetadata, data: int, experiment: int, name: str) -> int:
    """A run with its input and its place, in one transaction."""
    serial = await md.serial()

    async def build(unit: Any) -> int:
        of = await md.type_in(unit, "execution", "Train")
        made = md._made(Execution, of, serial, name=name)
        await md._create(unit, of, made)
        await md._link(unit, "input", data, made.id, "train")
        await md._link(unit, "member", made.id, experiment)
        return of.number << SERIAL_BITS | serial

    return await md.carry_out("create run", build)


def on_synod(pipe: Any, url: str, worker: int, tasks: int) -> None:
    """A worker process; each of its tasks is a caller with one operation under way."""

    async def run() -> None:
        async with connect_async(url, timeout_s=60) as store:
            md = AsyncMetadata(store, actor=f"worker {worker}")
            data = (await md.by_name("Data", "shared")).id
            contexts = [each.id async for each in md.find_all("Experiment")]
            options = metadata_mix().metadata
            callers = [(steps(worker, task), list[int](), f"{worker}/{task}") for task in range(tasks)]
            pipe.send(None)
            # Waited for in a thread: the client's connections are looked after meanwhile.
            while (clock := await asyncio.to_thread(pipe.recv)) is not None:
                begin, seconds = clock
                within, made = Counter[str](), Counter[str]()

                async def call(
                    caller: tuple[Iterator[Step], list[int], str],
                    end: float = begin + seconds,
                    within: Counter[str] = within,
                    made: Counter[str] = made,
                ) -> None:
                    source, runs, name = caller
                    for step in source:
                        run = runs[-1 - step.recent % len(runs)] if runs else 0
                        experiment = contexts[step.experiment]
                        match step.kind:
                            case "create-run":
                                runs.append(await create_run(md, data, experiment, f"{name}/{step.number}"))
                                made["runs"] += 1
                            case "log-metrics":
                                points = {f"m{each}": [(step.number, 0.5)] for each in range(options.metrics)}
                                logged = await md.log_metrics(run, points)
                                made["points"] += logged  # after the wait: other callers count meanwhile
                            case "register-artifact":
                                await register(md, run, experiment, f"{name}/{step.number}", step.number / 1e6)
                                made["models"] += 1
                            case _:
                                await md.find("Train", f"context_id = {experiment}", order_by="-id", limit=options.page)
                        if time.time() >= end:
                            return
                        within[step.kind] += 1

                await asyncio.sleep(max(0.0, begin - time.time()))
                used = time.process_time()
                await asyncio.gather(*(call(each) for each in callers))
                pipe.send(Counted(dict(within), dict(made), time.process_time() - used))

    asyncio.run(run())


async def judge(url: str) -> tuple[dict[str, int], list[str]]:
    """What there is, and what the checker says."""
    async with connect_async(url, timeout_s=60) as store:
        md = AsyncMetadata(store)
        report = await check(store)
        runs = models = points = 0
        async for _ in md.find_all("Train", at=report.revision):
            runs += 1
        async for _ in md.find_all("Model", at=report.revision):
            models += 1
        async for page in md.scan_prefix(md.keys.metrics, report.revision):
            points += sum(len(msgspec.msgpack.decode(item.value)) for item in page)
        return {"runs": runs, "models": models, "points": points}, report.faults
