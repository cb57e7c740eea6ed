"""Puts a second of a three-replica cluster, beside the bare pipeline of `bench.pipeline` in the same run.

``python -m bench.throughput --in-flight 1 64 512 --repetitions 3`` interleaves the two, so that what the machine does
meanwhile meets both alike, and prints a table with the medians and the ratio. Keys, values and the closed loop are the
pipeline's: one client process, writes only, every write synced. With ``--cpu`` each row is followed by what a put cost
in each process, in µs of CPU, user and system: that depends far less on who else uses the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.increments import run
from bench.pipeline import KEYS, WARM_UP_S, measure
from deploy import Cluster
from replica.client import connect_async


async def load(endpoints: str, in_flight: int, seconds: float, value_bytes: int) -> dict[str, float]:
    """Keep ``in_flight`` puts outstanding; throughput a second and latencies in milliseconds, warm-up cut away."""
    keys = [b"key-%06d" % index for index in range(KEYS)]
    value = os.urandom(value_bytes)
    latencies: list[float] = []
    async with connect_async(endpoints) as store:
        await store.put(keys[0], value)  # the session is open before the clock runs
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
        "in_flight": in_flight,
        "puts_per_s": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


class CpuMeter:
    """CPU seconds of this process, the client, and of the replicas of a cluster, from now on."""

    def __init__(self, cluster: Cluster) -> None:
        leader = cluster.leader()
        self._processes = {"client": os.getpid()}
        for state in cluster.layout.replicas:
            assert state.process is not None, "the replicas run as processes of this machine"
            role = "leader" if state.replica == leader else f"follower {state.replica}"
            self._processes[role] = state.process
        self._before = {role: _cpu_s(process) for role, process in self._processes.items()}

    def line(self, puts: float) -> str:
        """What ``puts`` puts cost since then, each."""
        parts, total = [], 0.0
        for role, process in sorted(self._processes.items()):
            now, before = _cpu_s(process), self._before[role]
            user, system = ((now[index] - before[index]) / puts * 1e6 for index in (0, 1))
            total += user + system
            parts.append(f"{role} {user:.1f} + {system:.1f}")
        return f"           CPU µs a put: {total:.1f} ({', '.join(parts)})"


def _cpu_s(process: int) -> tuple[float, float]:
    """User and system CPU seconds that a process has used."""
    # Behind the name, which may hold anything, in parentheses.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / ticks_a_second, int(fields[12]) / ticks_a_second


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="a cluster's puts a second beside a bare pipeline's")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64, 256, 512])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--protocol", default="multipaxos")
    parser.add_argument("--sync-mode", choices=["inline", "thread", "auto"], default="inline")
    parser.add_argument("--no-pipeline", action="store_true", help="only the cluster")
    parser.add_argument("--cpu", action="store_true", help="also say what a put costs in each process (on Linux)")
    parser.add_argument("--folder", default=".", help="where the data lies while it runs: a disk, not memory")
    options = parser.parse_args()
    say = sys.stdout.write
    say("in flight  synod puts/s  p50 ms  p99 ms   bare puts/s  p50 ms  p99 ms   synod/bare\n")
    replicas = 1 if options.protocol == "null" else 3
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="throughput-") as folder:
        cluster = Cluster.create(
            Path(folder) / "cluster",
            replicas=replicas,
            base_port=0,
            protocol=options.protocol,
            node={"sync_mode": options.sync_mode},
        )
        try:
            cluster.up()
            endpoints = ",".join(cluster.endpoints)
            for in_flight in options.in_flight:
                ours, bare, costs = [], [], []
                for _ in range(options.repetitions):
                    meter = CpuMeter(cluster) if options.cpu else None
                    ours.append(run(load(endpoints, in_flight, options.seconds, options.value_bytes)))
                    if meter is not None:
                        # The warm-up cost as much a second as the rest.
                        costs.append(meter.line(ours[-1]["puts_per_s"] * (options.seconds + WARM_UP_S)))
                    if not options.no_pipeline:
                        bare.append(measure(in_flight, options.seconds, value_bytes=options.value_bytes, folder=folder))
                row = [f"{in_flight:9d}"]
                medians = []
                for results in (ours, bare):
                    if results:
                        puts, p50, p99 = (
                            statistics.median(result[name] for result in results)
                            for name in ("puts_per_s", "p50_ms", "p99_ms")
                        )
                        medians.append(puts)
                        row.append(f"{puts:12,.0f}  {p50:6.2f}  {p99:6.2f}")
                if len(medians) == 2:
                    row.append(f"{medians[0] / medians[1]:10.2f}")
                say("\n".join(["  ".join(row), *costs]) + "\n")
                sys.stdout.flush()
        finally:
            cluster.down()


if __name__ == "__main__":
    main()
