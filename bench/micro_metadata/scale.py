"""Load very many artifacts and edges, and ask.

Artifacts come in layers of a thousand: each execution takes ten artifacts of the layer before and makes ten of its own;
the other edges say to which of a hundred projects an artifact belongs.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from deploy import Cluster
from replica.client import connect_async
from replica.metadata import AsyncMetadata
from replica.metadata.check import check

LAYER: Final = 1000
FAN: Final = 10
"""Artifacts that an execution takes and that it makes."""

PROJECTS: Final = 100
ASKED: Final = 20
"""How often each question is asked."""

PROGRESS_S: Final = 5.0
TIMEOUT_S: Final = 120.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--artifacts", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000, help="at least so many; 3 to 102 an artifact")


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str, bool]:
    """Figures, a table of them, and whether the checker found no fault."""
    with tempfile.TemporaryDirectory(prefix="synod-metadata-", dir=options.folder) as folder:
        cluster = Cluster.create(Path(folder) / "cluster", replicas=options.replicas, base_port=0)
        try:
            cluster.up()
            figures = asyncio.run(at_scale(",".join(cluster.endpoints), options.artifacts, options.edges))
        finally:
            cluster.down(timeout_s=5.0)
        stored = sum(each.stat().st_blocks * 512 for each in Path(folder).rglob("*") if each.is_file())
        figures["disk_mb"] = stored / options.replicas / 1e6
    return figures, table(figures), not figures["faults"]


def say(text: str) -> None:
    """Progress, apart from the figures."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def fill(
    md: AsyncMetadata, artifacts: int, edges: int, progress: Callable[[int, int], None] = lambda _made, _linked: None
) -> int:
    """Load so many artifacts and at least so many edges; returns how many edges. Holds the ids of two layers."""
    await md.define_type("Step", properties={"number": int}, index=["number"])
    await md.define_type("Run", kind="execution")
    await md.define_type("Project", kind="context")
    memberships = max(1, min(PROJECTS, -(-edges // artifacts) - 2))
    linked = 0
    async with md.load() as load:
        projects = [await load.put_context("Project", f"p{number}") for number in range(PROJECTS)]
        before: list[int] = []
        layer: list[int] = []
        maker = 0
        for number in range(artifacts):
            if number % FAN == 0:
                progress(number, linked)
                maker = await load.put_execution("Run", contexts=[projects[number // FAN % PROJECTS]])
                linked += 1
                # From far apart, so that lineages widen.
                places = dict.fromkeys((number * 7 + place * 101) % len(before) for place in range(FAN) if before)
                for place in places:
                    await load.put_input(maker, before[place])
                linked += len(places)
            made = await load.put_artifact(
                "Step",
                name=f"step {number}",
                properties={"number": number},
                contexts=[projects[(number + 13 * place) % PROJECTS] for place in range(memberships)],
            )
            await load.put_output(maker, made)
            linked += 1 + memberships
            layer.append(made)
            if len(layer) == LAYER:
                before, layer = layer, []
    return linked


async def timed(what: Iterable[Awaitable[Any]]) -> dict[str, Any]:
    """Await one after the other; times in milliseconds, and what was answered."""
    times, answers = [], []
    for each in what:
        begin = time.perf_counter()
        answers.append(await each)
        times.append((time.perf_counter() - begin) * 1e3)
    return {"p50_ms": statistics.median(times), "max_ms": max(times), "answers": answers}


async def pages(md: AsyncMetadata, source: str, order_by: str, limit: int) -> AsyncIterator[int]:
    """Ask page by page; how many objects each holds."""
    token = None
    while True:
        page = await md.find("Step", source, order_by=order_by, limit=limit, page=token)
        yield len(page)
        if (token := page.next) is None:
            return


async def at_scale(url: str, artifacts: int, edges: int) -> dict[str, Any]:
    """Load, ask, and check."""
    begin = shown = time.perf_counter()

    def progress(made: int, linked: int) -> None:
        nonlocal shown
        if (now := time.perf_counter()) - shown >= PROGRESS_S:
            shown = now
            say(f"{made} of {artifacts} artifacts, {linked} edges, {now - begin:.0f} s, client {peak_mb():.0f} MB")

    async with connect_async(url, timeout_s=TIMEOUT_S) as store:
        md = AsyncMetadata(store, actor="scale")
        linked = await fill(md, artifacts, edges, progress)
        figures: dict[str, Any] = {"artifacts": artifacts, "edges": linked, "load_s": time.perf_counter() - begin}
        figures["load_peak_mb"] = peak_mb()
        say(f"loaded in {figures['load_s']:.0f} s")
        asked: dict[str, dict[str, Any]] = {}
        figures["asked"] = asked
        numbers = [artifacts * (each + 1) // (ASKED + 2) for each in range(ASKED)]
        asked["by name"] = await timed(md.by_name("Step", f"step {each}") for each in numbers)
        named = asked["by name"]["answers"]
        asked["find by an indexed property"] = await timed(
            md.find("Step", f"properties.number = {each}") for each in numbers
        )
        asked["find a hundred by a range of it"] = await timed(
            md.find("Step", f"properties.number >= {each} AND properties.number < {each + 100}") for each in numbers
        )
        asked["the first 20 by an indexed property, descending"] = await timed(
            md.find("Step", order_by="-properties.number", limit=20) for _ in numbers
        )
        asked["20 members of a context"] = await timed(
            md.find("Step", f"context = 'p{each % PROJECTS}'", limit=20) for each in numbers
        )
        for hops in (2, 10):
            for direction in ("up", "down"):
                asked[f"lineage of {hops} hops {direction}"] = await timed(
                    md.lineage(each, direction=direction, hops=hops)
                    for each in (named[-10:] if direction == "up" else named[:10])
                )
        for what, source, order_by, limit in (
            ("all artifacts in pages of 1000", "", "id", 1000),
            ("all artifacts in pages of 1000 by an indexed property", "", "-properties.number", 1000),
            ("all members of a context in pages of 100", "context = 'p5'", "id", 100),
        ):
            asked[what] = await paged(pages(md, source, order_by, limit))
        for each in asked.values():
            _count(each)
        figures["asked_peak_mb"] = peak_mb()
        begin = time.perf_counter()
        report = await check(store)
        figures |= {"check_s": time.perf_counter() - begin, "checked": str(report), "check_peak_mb": peak_mb()}
        figures["faults"] = report.count + (report.edges != linked)
        figures["first_faults"] = report.faults[:3]
        return figures


async def paged(source: AsyncIterator[int]) -> dict[str, Any]:
    """Times of pages, and how many objects they held in all."""
    times: list[float] = []
    objects, begin = 0, time.perf_counter()
    async for some in source:
        times.append((time.perf_counter() - begin) * 1e3)
        begin = time.perf_counter()
        objects += some
    return {"p50_ms": statistics.median(times), "max_ms": max(times), "objects": objects, "s": sum(times) / 1e3}


def _count(asked: dict[str, Any]) -> None:
    """Replace answers by how much they held."""
    answers = asked.pop("answers", None)
    if answers is not None:
        asked["objects"] = statistics.median(
            len(getattr(each, "nodes", getattr(each, "items", [0]))) for each in answers
        )


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(figures: dict[str, Any]) -> str:
    """The figures for people, as Markdown."""
    loaded = f"{figures['artifacts']} artifacts, {figures['edges']} edges: loaded in {figures['load_s']:.0f} s"
    lines = [
        f"{loaded} ({figures['edges'] / figures['load_s']:.0f} edges/s), {figures['disk_mb']:.0f} MB a replica",
        "",
        "| question | p50 ms | max ms | objects in the answer |",
        "| --- | --- | --- | --- |",
    ]
    for what, each in figures["asked"].items():
        whole = f" in {each['s']:.1f} s" if "s" in each else ""
        lines.append(f"| {what} | {each['p50_ms']:.1f} | {each['max_ms']:.1f} | {each['objects']:g}{whole} |")
    memory = f"{figures['load_peak_mb']:.0f} MB loading, {figures['asked_peak_mb']:.0f} MB asking"
    checking = f"{figures['check_peak_mb']:.0f} MB with the checker, which took {figures['check_s']:.0f} s"
    return "\n".join(
        [*lines, "", f"peak memory of the client: {memory}, {checking}", *figures["first_faults"], figures["checked"]]
    )
