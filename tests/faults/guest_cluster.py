"""Runs inside the emulated machine: a three-replica cluster on the machine's disk, and a load until the power goes.

    python -m tests.faults.guest_cluster BOOT DURABILITY EXPECTATIONS

brings the cluster in ``/data/cluster`` up (creating it at the first boot), audits what earlier boots were told
(``EXPECTATIONS``: a JSON file with their outcomes), prints ``{"audit": …}``, and then loads it as client ``boot-N``,
printing every acknowledgement as it comes.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import msgspec

from bench.increments import MARKERS, Outcome, audit, marker, run, run_increments
from deploy import Cluster, ClusterError
from replica.client import connect_async

FOLDER = Path("/data/cluster")
IN_FLIGHT = 32
READY_TIMEOUT_S = 900.0
STALL_S = 60.0
OPERATION_TIMEOUT_S = 240.0
SLOW_MACHINE = {"heartbeat_s": 0.5, "election_timeout_min_s": 5.0, "election_timeout_max_s": 10.0}
"""The emulated processor is an order of magnitude slower than a real one."""


def report(value: object) -> None:
    """One line, in one write: the record survives the machine."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def missing(outcomes: list[Outcome]) -> list[str]:
    """Acknowledged operations of which no file of any replica holds a trace.

    A replica that ran without syncing refuses to start after such an end. What its files hold says whether it had
    cause to.
    """
    found: set[bytes] = set()
    for path in FOLDER.rglob("*"):
        if path.is_file() and path.suffix in {".mdb", ".snapshot"}:
            found.update(re.findall(re.escape(MARKERS) + rb"[a-z0-9-]+/[0-9]{10}", path.read_bytes()))
    return [
        f"{outcome.client}/{number}"
        for outcome in outcomes
        for number in outcome.acknowledged
        if marker(outcome.client, number) not in found
    ]


async def main(boot: int, durability: str, outcomes: list[Outcome]) -> None:
    """See the module's text."""
    if Cluster.exists(FOLDER):
        cluster = Cluster.open(FOLDER)
    else:
        cluster = Cluster.create(
            FOLDER, base_port=0, options=dict(SLOW_MACHINE), node={"durability": durability, "sync_mode": "inline"}
        )
    try:
        cluster.up(timeout_s=READY_TIMEOUT_S)
    except ClusterError as error:
        report({"failed": str(error), "missing": missing(outcomes)})
        return
    async with connect_async(",".join(cluster.endpoints), timeout_s=OPERATION_TIMEOUT_S, stall_s=STALL_S) as store:
        report({"audit": await audit(store, outcomes)})
        await run_increments(
            store,
            f"boot-{boot}",
            in_flight=IN_FLIGHT,
            stop=asyncio.Event(),
            record=sys.stdout,
            timeout_s=OPERATION_TIMEOUT_S,
        )


if __name__ == "__main__":
    expected = msgspec.json.decode(Path(sys.argv[3]).read_bytes(), type=list[Outcome])
    run(main(int(sys.argv[1]), sys.argv[2], expected))
