"""``make demo``: a three-replica cluster, a load, the leader killed meanwhile, and the verdict.

Everything runs on this machine and in a temporary folder that is removed. The exit status is 1 when anything that was
acknowledged is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from bench.increments import Audit, Outcome, audit, longest_gap, run, run_increments
from deploy import Cluster, ClusterError, admin
from replica.client import AsyncStore, SynodError, connect_async

REPLICAS = 3
IN_FLIGHT = 64
WINDOW_S = 0.25
"""Acknowledgements are counted in windows of this length for the picture of the gap."""


def say(text: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def demo(folder: Path, *, protocol: str, seconds: float) -> bool:
    """Run it; True when the verdict is good."""
    say(f"Starting {REPLICAS} replicas of {protocol} …")
    cluster = await asyncio.to_thread(Cluster.create, folder, replicas=REPLICAS, protocol=protocol, base_port=0)
    try:
        await asyncio.to_thread(cluster.up)
        say(f"Ready: {', '.join(cluster.endpoints)} (every acknowledged write is synced on a majority)")
        async with connect_async(",".join(cluster.endpoints)) as store:
            return await _with_cluster(cluster, store, seconds)
    finally:
        await asyncio.to_thread(cluster.down)


async def _with_cluster(cluster: Cluster, store: AsyncStore, seconds: float) -> bool:
    stop = asyncio.Event()
    begin = time.monotonic()
    say(f"Load: {IN_FLIGHT} transactions in flight from one client; the leader is killed (kill -9) half-way …")
    load = asyncio.create_task(run_increments(store, "demo", in_flight=IN_FLIGHT, stop=stop))
    await asyncio.sleep(seconds / 2)
    leader = await asyncio.to_thread(cluster.leader)
    if leader is None:
        raise ClusterError("no replica led before the kill: the machine may be overloaded")
    killed_at = time.monotonic()
    await asyncio.to_thread(cluster.kill, leader)
    await asyncio.sleep(seconds / 4)
    await asyncio.to_thread(cluster.start, leader)
    await asyncio.sleep(seconds / 4)
    stop.set()
    outcome = await load
    end = time.monotonic()
    found = await audit(store, [outcome])
    digests = await asyncio.to_thread(_digests, cluster)
    _report(outcome, found, digests, leader=leader, begin=begin, killed_at=killed_at, end=end)
    return found.clean and len(set(digests.values())) == 1


def _digests(cluster: Cluster) -> dict[int, str]:
    """Each replica's digest of its state, at the same frontier (nothing is written any more)."""
    frontier = max(status.applied for status in cluster.status())
    return {replica.replica: admin.digest(replica.client, frontier).digest[:16] for replica in cluster.layout.replicas}


def _report(
    outcome: Outcome,
    found: Audit,
    digests: dict[int, str],
    *,
    leader: int,
    begin: float,
    killed_at: float,
    end: float,
) -> None:
    before = sum(1 for t in outcome.times if t < killed_at)
    gap = longest_gap(outcome.times, killed_at - WINDOW_S, end)
    say()
    say(_timeline(outcome.times, begin, killed_at, end))
    say()
    say(f"throughput before the kill   {before / (killed_at - begin):10,.0f} transactions/s")
    say(f"gap after killing leader {leader}   {gap * 1e3:10,.0f} ms without an acknowledgement")
    say(f"acknowledged                 {found.acknowledged:10,}")
    say(f"outcome unknown              {found.unknown:10,}")
    say(f"refused, had no effect       {len(outcome.refused):10,}")
    say(f"total in the store           {found.total:10,}")
    say(f"acknowledged and lost        {len(found.lost):10,}")
    say(f"applied twice                {found.duplicated:10,}")
    agree = len(set(digests.values())) == 1
    say(f"digests of the replicas      {'agree' if agree else 'DIFFER'}: {digests}")
    for problem in [*found.lost[:5], *found.resurrected[:5], *found.problems]:
        say(f"  PROBLEM {problem}")
    say()
    good = found.clean and agree
    say("VERDICT: nothing acknowledged was lost, nothing was applied twice" if good else "VERDICT: WRONG, see above")


def _timeline(times: list[float], begin: float, killed_at: float, end: float) -> str:
    """A bar a window, so that the gap can be seen."""
    count = int((end - begin) / WINDOW_S) + 1
    windows = [0] * count
    for t in times:
        windows[min(count - 1, int((t - begin) / WINDOW_S))] += 1
    highest = max(windows) or 1
    blocks = " ▁▂▃▄▅▆▇█"
    bars = "".join(blocks[-(-(len(blocks) - 1) * value // highest)] for value in windows)  # rounded up: only 0 is blank
    mark = " " * int((killed_at - begin) / WINDOW_S) + "^ kill -9 of the leader"
    return f"acknowledgements in each {WINDOW_S:g} s:\n|{bars}|\n {mark}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="a cluster, a load, the leader killed meanwhile, and the verdict")
    parser.add_argument("--protocol", default="multipaxos")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of the load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="synod-demo-") as folder:
        try:
            good = run(demo(Path(folder) / "cluster", protocol=options.protocol, seconds=options.seconds))
        except (ClusterError, SynodError, admin.AdminError) as error:
            say(f"The demo could not be finished: {error}")
            return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
