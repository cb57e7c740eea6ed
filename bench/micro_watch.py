"""What watches and leases cost those who write: puts a second and latencies beside none, in one run.

``python -m bench.micro_watch [--in-flight 64] [--watchers 1000] [--streams 10] [--leases 10000] [--seconds 4]
[--repetitions 3] [--json]`` starts three replicas and interleaves three conditions: nobody watches; so many watches of
the one prefix that all puts go to, over so many streams, in a process of their own that takes what it is told and does
nothing with it; so many leases, renewed three times in ``--ttl`` seconds by a process of their own. Beside the puts
stands what the watches were told (revisions times watches) and how many renewals were acknowledged.

Everything shares this machine, and the processes that watch and renew take their part of it: compare within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.increments import run
from bench.pipeline import KEYS, WARM_UP_S
from deploy import Cluster
from replica.client import connect_async
from replica.client.grpc_port import GrpcPort
from replica.client.port import PortOptions
from replica.kv.operations import prefix_end
from replica.wire.typed import WIRE_VERSION, ClientFrame, Hello, Watch

PREFIX: Final = b"watched/"
_batches: Final = msgspec.msgpack.Decoder(list[msgspec.Raw])


async def load(endpoints: str, in_flight: int, seconds: float, value_bytes: int) -> dict[str, float]:
    """Keep ``in_flight`` puts outstanding; throughput a second and latencies in milliseconds, warm-up cut away."""
    keys = [PREFIX + b"%06d" % index for index in range(KEYS)]
    value = bytes(value_bytes)
    latencies: list[float] = []
    async with connect_async(endpoints) as store:
        await store.put(keys[0], value)
        begin = time.perf_counter() + WARM_UP_S
        end = begin + seconds

        async def worker(number: int) -> None:
            position = number
            now = time.perf_counter()
            while now < end:
                started = now
                await store.put(keys[position % KEYS], value)
                position += 7
                now = time.perf_counter()
                if started >= begin:
                    latencies.append(now - started)

        await asyncio.gather(*(worker(number) for number in range(in_flight)))
    latencies.sort()
    return {
        "puts_per_s": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


# -------------------------------------------------------------------------------------------------- beside the writers


async def watch(endpoints: str, watchers: int, streams: int) -> None:
    """Watch until standard input ends; then say how much was told."""
    port = GrpcPort(endpoints, PortOptions())
    told = ended = 0

    async def one(number: int) -> None:
        nonlocal told, ended
        attachment = await port.attach(port.endpoints[number % len(port.endpoints)], Hello(wire_version=WIRE_VERSION))
        share = range(number, watchers, streams)
        await attachment.send(
            ClientFrame(watches=[Watch(id=id_ + 1, first=PREFIX, last=prefix_end(PREFIX)) for id_ in share])
        )
        started = 0
        while True:
            for news in (await attachment.receive()).watch_news:
                match news.WhichOneof("content"):
                    case "started":
                        started += len(news.ids)
                        if started == len(share):
                            ready.release()
                    case "batches":
                        told += len(news.ids) * len(_batches.decode(news.batches))
                    case "ended":
                        ended += len(news.ids)

    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one(number)) for number in range(streams)]
    for _ in range(streams):
        await ready.acquire()
    await _until_told({"ready": watchers}, lambda: {"told": told, "ended": ended}, tasks)


async def keep(endpoints: str, leases: int, ttl_s: float) -> None:
    """Hold leases until standard input ends; then say how often they were renewed."""
    renewals = 0
    async with connect_async(endpoints, timeout_s=60) as store:
        ids = [lease.id for lease in await asyncio.gather(*(_grant(store, ttl_s) for _ in range(leases)))]

        async def one(part: list[int], delay_s: float) -> None:
            nonlocal renewals
            await asyncio.sleep(delay_s)
            while True:
                began = time.monotonic()
                await asyncio.gather(*(store.renew_lease(id_) for id_ in part))
                renewals += len(part)
                await asyncio.sleep(max(0.0, ttl_s / 3 - (time.monotonic() - began)))

        parts = [ids[start : start + 100] for start in range(0, leases, 100)]
        tasks = [asyncio.create_task(one(part, ttl_s / 3 * i / len(parts))) for i, part in enumerate(parts)]
        await _until_told({"ready": leases}, lambda: {"renewals": renewals}, tasks)
        await asyncio.gather(*(store.revoke_lease(id_) for id_ in ids))


async def _grant(store: Any, ttl_s: float) -> Any:
    return await store.lease(ttl_s, keep_alive=False)


async def _until_told(ready: dict[str, int], counted: Any, tasks: list[asyncio.Task[None]]) -> None:
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    begin, before = time.perf_counter(), counted()
    await asyncio.to_thread(sys.stdin.readline)
    seconds = time.perf_counter() - begin
    after = counted()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    rates = {name: (after[name] - before[name]) / seconds for name in after}
    sys.stdout.write(json.dumps(rates) + "\n")
    sys.stdout.flush()


class Beside:
    """A process that watches or renews while there is a load."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.micro_watch", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._say()

    def _say(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> dict[str, float]:
        """What it counted, a second."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counted: dict[str, float] = self._say()
        self._process.communicate()
        return counted


# ------------------------------------------------------------------------------------------------------------- the run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="what watches and leases cost those who write")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--leases", type=int, default=10_000)
    parser.add_argument("--ttl", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--folder", default=".", help="where the data lies while it runs: a disk, not memory")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--beside", choices=["watch", "keep"], help=argparse.SUPPRESS)
    parser.add_argument("--endpoints", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.beside == "watch":
        run(watch(options.endpoints, options.watchers, options.streams))
    elif options.beside == "keep":
        run(keep(options.endpoints, options.leases, options.ttl))
    else:
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="micro-watch-") as folder:
        cluster = Cluster.create(Path(folder) / "cluster", replicas=3, base_port=0, node={"sync_mode": "inline"})
        cluster.up()
        try:
            endpoints = ",".join(cluster.endpoints)
            shared = ("--endpoints", endpoints)
            conditions: dict[str, tuple[str, ...]] = {
                "nobody": (),
                f"{options.watchers} watches, {options.streams} streams": (
                    "--beside", "watch", *shared,
                    "--watchers", str(options.watchers), "--streams", str(options.streams),
                ),
                f"{options.leases} leases of {options.ttl:g} s": (
                    "--beside", "keep", *shared, "--leases", str(options.leases), "--ttl", str(options.ttl),
                ),
            }  # fmt: skip
            found: dict[str, list[dict[str, float]]] = {name: [] for name in conditions}
            for _ in range(options.repetitions):
                for name, arguments in conditions.items():
                    beside = Beside(*arguments) if arguments else None
                    measured = run(load(endpoints, options.in_flight, options.seconds, options.value_bytes))
                    found[name].append(measured | (beside.end() if beside is not None else {}))
        finally:
            cluster.down()
    _report(found, as_json=options.json)


def _report(found: dict[str, list[dict[str, float]]], *, as_json: bool) -> None:
    medians = {
        name: {key: statistics.median(each[key] for each in results) for key in results[0]}
        for name, results in found.items()
    }
    if as_json:
        sys.stdout.write(json.dumps(medians, indent=2) + "\n")
        return
    base = medians["nobody"]["puts_per_s"]
    sys.stdout.write(f"{'beside the writers':28}  {'puts/s':>9}  {'ratio':>5}  {'p50 ms':>6}  {'p99 ms':>6}\n")
    for name, row in medians.items():
        told = ", ".join(f"{value:,.0f} {key}/s" for key, value in row.items() if key in {"told", "renewals", "ended"})
        sys.stdout.write(
            f"{name:28}  {row['puts_per_s']:9,.0f}  {row['puts_per_s'] / base:5.2f}  {row['p50_ms']:6.2f}  "
            f"{row['p99_ms']:6.2f}  {told}\n"
        )


if __name__ == "__main__":
    main()
