"""Append points of metrics, from one program."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from deploy import Cluster
from replica.client import connect, connect_async
from replica.metadata import AsyncMetadata, Metadata
from replica.metadata.check import check

BATCH: Final = 1000
METRICS: Final = 4
"""Metrics that a training logs at each step."""

TASKS: Final = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--seconds", type=float, default=10.0, help="for each of the two")


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Points a second as a training logs them and in batches of a thousand; both are read back and counted."""
    with tempfile.TemporaryDirectory(prefix="synod-metadata-", dir=options.folder) as folder:
        cluster = Cluster.create(Path(folder) / "cluster", replicas=options.replicas, base_port=0)
        try:
            cluster.up()
            url = ",".join(cluster.endpoints)
            figures: dict[str, Any] = {"as_a_training": as_a_training(url, options.seconds)}
            figures |= asyncio.run(in_batches(url, options.seconds))
        finally:
            cluster.down(timeout_s=5.0)
    good = not figures["faults"] and all(figures[each]["lost"] == 0 for each in ("as_a_training", "in_batches"))
    lines = ["| points | points/s | lost | read back, points/s |", "| --- | --- | --- | --- |"]
    for key, what in (
        ("as_a_training", f"`run.log`, {METRICS} metrics a step, one thread"),
        ("in_batches", f"`log_metrics`, {BATCH} points a call, {TASKS} calls at once"),
    ):
        each = figures[key]
        lines.append(f"| {what} | {each['per_s']:.0f} | {each['lost']} | {each['read_per_s']:.0f} |")
    return figures, "\n".join(lines), good


def as_a_training(url: str, seconds: float) -> dict[str, Any]:
    """A loop that logs at each step and does nothing else."""
    with connect(url, timeout_s=60) as store:
        md = Metadata(store)
        md.define_type("Train", kind="execution")
        begin = time.perf_counter()
        with md.execution("Train") as run:
            step = 0
            while time.perf_counter() - begin < seconds:
                run.log(step, {f"metric {number}": step / (1 + number) for number in range(METRICS)})
                step += 1
        took = time.perf_counter() - begin
        points = step * METRICS
        begin = time.perf_counter()
        found = sum(1 for number in range(METRICS) for _ in md.metric(run.id, f"metric {number}"))
        read = time.perf_counter() - begin
    return {"points": points, "per_s": points / took, "lost": points - found, "read_per_s": found / read}


async def in_batches(url: str, seconds: float) -> dict[str, Any]:
    """Some tasks, each with a metric of its own."""
    async with connect_async(url, timeout_s=60) as store:
        md = AsyncMetadata(store)
        await md.define_type("Train", kind="execution")
        owner = await md.put_execution("Train")
        begin = time.perf_counter()

        async def work(task: int) -> int:
            step = 0
            while time.perf_counter() - begin < seconds:
                await md.log_metrics(owner, {f"metric {task}": [(step + at, float(at)) for at in range(BATCH)]})
                step += BATCH
            return step

        points = sum(await asyncio.gather(*(work(task) for task in range(TASKS))))
        took = time.perf_counter() - begin
        begin, found = time.perf_counter(), 0
        for task in range(TASKS):
            async for _ in md.metric(owner, f"metric {task}"):
                found += 1
        read = time.perf_counter() - begin
        report = await check(store)
    one = {"points": points, "per_s": points / took, "lost": points - found, "read_per_s": found / read}
    return {"in_batches": one, "faults": report.count}
