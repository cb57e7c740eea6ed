"""Members that come and go under load, until nobody is left of those that founded the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.increments import audit
from deploy import Cluster, admin
from replica.client import connect_async
from replica.verification import Verdict, check
from tests.faults.test_kill_keyed import KEYS, Load
from tests.support.load import IncrementClient

WORKERS = 4
PROGRESS = 100


@pytest.fixture(params=["multipaxos", pytest.param("raft", marks=pytest.mark.slow)])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    found = Cluster.create(tmp_path / "cluster", replicas=3, protocol=request.param, base_port=0)
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


async def exchanged_under_load(cluster: Cluster, founders: int) -> Load:
    """Add one and remove a founder, so many times, while workers read and write."""
    load = Load(cluster, founders)
    workers = [asyncio.create_task(load.work(number)) for number in range(WORKERS)]

    async def progress() -> None:
        aim = load.acknowledged + PROGRESS
        while load.acknowledged < aim:
            if any(worker.done() for worker in workers):
                await asyncio.gather(*workers)
            await asyncio.sleep(0.005)

    for founder in range(1, founders + 1):
        await progress()
        added = await asyncio.to_thread(cluster.add)
        assert added == 3 + founder
        await progress()
        await asyncio.to_thread(cluster.remove_member, founder)
        await progress()
    load.stopping = True
    await asyncio.gather(*workers)
    for number, endpoint in enumerate(cluster.endpoints):
        async with connect_async(endpoint) as store:
            for key in range(KEYS):
                await load.read(store, WORKERS + number, f"k{key}")
    load.recorder.close()
    return load


@pytest.mark.parametrize("founders", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_founders_leave_one_after_another_and_nothing_is_lost(cluster: Cluster, founders: int) -> None:
    with IncrementClient(cluster, "load", in_flight=8) as client:
        client.wait_acknowledged(50)
        load = asyncio.run(exchanged_under_load(cluster, founders))
        outcome = client.finish()
    members = {replica.replica for replica in cluster.layout.replicas}
    assert members == set(range(founders + 1, founders + 4))
    for status in cluster.wait_ready():
        assert status.epoch == 1 + 2 * founders
        reply = admin.status(status.client)
        assert {member.replica for member in reply.members} == members

    report = check(load.recorder.history())
    assert report.verdict is Verdict.OK, report.explanation

    async def read_back() -> None:
        async with connect_async(",".join(cluster.endpoints)) as store:
            found = await audit(store, [outcome])
            assert found.clean, found

    asyncio.run(read_back())
    frontier = max(status.applied for status in cluster.wait_ready())
    assert len({admin.digest(endpoint, frontier).digest for endpoint in cluster.endpoints}) == 1
