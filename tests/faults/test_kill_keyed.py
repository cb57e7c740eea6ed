"""``kill -9`` of any replica under load, where commands are ordered by object or records are registers.

Clients on all replicas read and write a few keys together, every value once, and write down what they saw. Whatever is
killed meanwhile, afterwards their history has to be linearizable, a last read of every key included: so nothing that
was acknowledged is lost, and no read ever goes back.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import Cluster
from replica.client import AsyncStore, Indefinite, NotCommitted, connect_async
from replica.verification import Header, Recorder, Verdict, check
from tests.support.packages import install

KEYS = 6
WORKERS = 9
ACKNOWLEDGED_BETWEEN_KILLS = 300
TIMEOUT_S = 5.0


@pytest.fixture(params=["abd", "epaxos", "wpaxos", pytest.param("partitioned", marks=pytest.mark.slow)])
def cluster(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    site = install("partitioned", tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    monkeypatch.syspath_prepend(str(site))
    found = Cluster.create(tmp_path / "cluster", replicas=3, protocol=request.param, base_port=0)
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


class Load:
    """Workers that read and write, each by way of one replica for a start."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.recorder = Recorder(Header(model="register"))
        self.acknowledged = 0
        self.stopping = False
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._values = 0

    async def work(self, worker: int) -> None:
        """One worker, until `stopping`."""
        endpoints = self._cluster.endpoints
        first = worker % len(endpoints)
        async with connect_async(",".join(endpoints[first:] + endpoints[:first]), timeout_s=TIMEOUT_S) as store:
            while not self.stopping:
                key = f"k{self._draw.randrange(KEYS)}"
                await (self.read(store, worker, key) if self._draw.random() < 0.5 else self.write(store, worker, key))

    async def read(self, store: AsyncStore, worker: int, key: str) -> None:
        """One read."""
        asked = self.recorder.invoke(worker, "read", time.monotonic(), key=key)
        try:
            item = await store.get(key)
        except NotCommitted as error:
            self.recorder.fail(asked, time.monotonic(), str(error))
            return
        self.acknowledged += 1
        self.recorder.ok(asked, time.monotonic(), {"value": None if item is None else item.value.decode()})

    async def write(self, store: AsyncStore, worker: int, key: str) -> None:
        """One write, of a value that nobody has written before."""
        self._values += 1
        value = str(self._values)
        asked = self.recorder.invoke(worker, "write", time.monotonic(), key=key, arguments={"value": value})
        try:
            await store.put(key, value)
        except Indefinite as error:
            self.recorder.unknown(asked, time.monotonic(), str(error))
        except NotCommitted as error:
            self.recorder.fail(asked, time.monotonic(), str(error))
        else:
            self.acknowledged += 1
            self.recorder.ok(asked, time.monotonic())


async def kills_under_load(cluster: Cluster, kills: int) -> Load:
    load = Load(cluster, kills)
    draw = random.Random(f"kills {kills}")
    workers = [asyncio.create_task(load.work(number)) for number in range(WORKERS)]

    async def progress(more: int) -> None:
        aim = load.acknowledged + more
        while load.acknowledged < aim:
            if any(worker.done() for worker in workers):
                await asyncio.gather(*workers)
            await asyncio.sleep(0.005)

    victims = [replica.replica for replica in cluster.layout.replicas]
    for _ in range(kills):
        await progress(ACKNOWLEDGED_BETWEEN_KILLS)
        victim = draw.choice(victims)
        cluster.kill(victim)
        await asyncio.sleep(draw.uniform(0.0, 0.5))
        await asyncio.to_thread(cluster.start, victim, wait=False)
    await asyncio.to_thread(cluster.wait_ready)
    await progress(ACKNOWLEDGED_BETWEEN_KILLS)
    load.stopping = True
    await asyncio.gather(*workers)
    for number, endpoint in enumerate(cluster.endpoints):
        async with connect_async(endpoint) as store:
            for key in range(KEYS):
                await load.read(store, WORKERS + number, f"k{key}")
    load.recorder.close()
    return load


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_what_clients_saw_is_linearizable_whoever_is_killed(cluster: Cluster, kills: int) -> None:
    load = asyncio.run(kills_under_load(cluster, kills))
    report = check(load.recorder.history())
    assert report.verdict is Verdict.OK, report.explanation
    assert load.acknowledged >= ACKNOWLEDGED_BETWEEN_KILLS * (kills + 1)
