"""Many processes write metadata while replicas are killed; afterwards the checker walks over everything."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import Cluster
from replica.client import connect
from replica.metadata import Metadata
from replica.metadata.check import check
from tests.support import metadata_writers


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("processes", "rounds", "kills"),
    [(3, 15, 2), pytest.param(16, 60, 8, marks=pytest.mark.slow)],
    ids=["three processes", "sixteen processes"],
)
def test_every_promise_holds_after_many_wrote_while_replicas_were_killed(
    tmp_path: Path, processes: int, rounds: int, kills: int
) -> None:
    cluster = Cluster.create(tmp_path / "cluster", replicas=3, base_port=0)
    draw = random.Random(processes)
    writers: list[subprocess.Popen[str]] = []
    try:
        cluster.up()
        endpoints = ",".join(cluster.endpoints)
        with connect(endpoints, timeout_s=60) as store:
            md = Metadata(store)
            metadata_writers.prepare(md)
            logs = [tmp_path / f"writer-{number}" for number in range(processes)]
            for number, log in enumerate(logs):
                command = [sys.executable, "-m", "tests.support.metadata_writers", endpoints]
                with log.open("w") as out:
                    process = subprocess.Popen([*command, str(number), str(number), str(rounds)], stdout=out, text=True)
                writers.append(process)
            total = processes * rounds
            for number in range(kills):
                # Not by the clock: each kill when its share of the work is done.
                while sum(len(log.read_text().splitlines()) for log in logs) < total * number // kills:
                    if all(process.poll() is not None for process in writers):
                        break
                    time.sleep(0.05)
                leader = cluster.leader()
                victim = leader if leader is not None and number % 3 != 2 else draw.choice([1, 2, 3])
                cluster.kill(victim)
                cluster.restart(victim)
            assert [process.wait() for process in writers] == [0] * processes
            lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
            assert len(lines) == total
            acknowledged = {identity for line in lines for identity in line.get("ids", [])}
            md.reap()
            report = store.call(lambda inner: check(inner, present=acknowledged))
            assert not report.count, report.faults
            done = {line["did"] for line in lines if "did" in line}
            assert {"create", "update", "run", "publish"} <= done
            assert report.objects >= len(acknowledged)
            assert not [line for line in lines if "lost" in line]
            published = [line for line in lines if line.get("did") == "publish"]
            assert len(md.versions("asset")) >= len(published)
    finally:
        for process in writers:
            if process.poll() is None:
                process.kill()
                process.wait()
        cluster.down(timeout_s=5.0)
