"""Replicas that missed everything, and replicas that lost their disk, under load."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.increments import Audit, Outcome, audit
from deploy import Cluster, ClusterError, admin
from replica.client import connect_async
from tests.support.load import IncrementClient


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # A short tail, so that a snapshot is what brings a late replica up to date.
    found = Cluster.create(tmp_path / "cluster", replicas=3, base_port=0, options={"tail_slots": 16})
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


def follower(cluster: Cluster) -> int:
    """Some replica that does not lead."""
    leader = cluster.leader()
    return next(replica.replica for replica in cluster.layout.replicas if replica.replica != leader)


def verify(cluster: Cluster, outcome: Outcome) -> None:
    async def read_back() -> Audit:
        async with connect_async(",".join(cluster.endpoints)) as store:
            return await audit(store, [outcome])

    found = asyncio.run(read_back())
    assert found.clean, found
    frontier = max(status.applied for status in cluster.wait_ready())
    assert len({admin.digest(endpoint, frontier).digest for endpoint in cluster.endpoints}) == 1


@pytest.mark.timeout(300)
def test_a_replica_that_was_down_while_the_log_was_truncated_comes_back_by_snapshot(cluster: Cluster) -> None:
    late = follower(cluster)
    with IncrementClient(cluster, "load", in_flight=32) as client:
        client.wait_acknowledged(200)
        cluster.kill(late)
        missed = max(status.applied for status in cluster.status())
        client.wait_acknowledged(client.acknowledged + 4_000)
        for replica in cluster.layout.replicas:
            if replica.replica != late:
                reply = admin.take_snapshot(replica.client)
                assert reply.log_first > missed + 1, "the log still reaches back to what the replica missed"
        client.wait_acknowledged(client.acknowledged + 200)
        cluster.start(late)
        frontier = max(status.applied for status in cluster.status())
        admin.digest(cluster.layout.replica(late).client, frontier)  # it has caught up that far
        (status,) = [status for status in cluster.status() if status.replica == late]
        assert status.snapshot_frontier > missed
        outcome = client.finish()
    verify(cluster, outcome)


@pytest.mark.timeout(300)
def test_a_wiped_disk_is_refused_under_its_old_id_and_replaced_with_one_call(cluster: Cluster) -> None:
    victim = follower(cluster)
    layout = cluster.layout.replica(victim)
    with IncrementClient(cluster, "load", in_flight=32) as client:
        client.wait_acknowledged(200)
        cluster.kill(victim)
        shutil.rmtree(cluster.folder.resolve() / f"replica-{victim}" / "data")

        with pytest.raises(ClusterError, match="does not exist; format it first"):
            cluster.start(victim)

        layout.formatted = False  # whoever formats it again by hand gets no further
        with pytest.raises(ClusterError, match="is on record here with disk"):
            cluster.start(victim)

        client.wait_acknowledged(client.acknowledged + 200)
        added = cluster.replace(victim)
        assert added == 4
        client.wait_acknowledged(client.acknowledged + 200)
        outcome = client.finish()
    assert sorted(replica.replica for replica in cluster.layout.replicas) == sorted({1, 2, 3, 4} - {victim})
    verify(cluster, outcome)
