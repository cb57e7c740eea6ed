"""Network, faults and attribution of a run against real processes."""

import asyncio
import time
from pathlib import Path

import pytest

from bench.attribution import make_observer
from bench.faults import make_timeline
from bench.networks import make_shaper
from deploy import Cluster, admin
from deploy.topology import load_topology
from replica.client import connect_async
from tests.support.nodes import eventually


@pytest.mark.timeout(240)
async def test_a_run_far_apart_has_its_network_measured_its_leader_killed_and_its_time_accounted_for(tmp_path: Path):
    topology = load_topology("wan3")
    cluster = await asyncio.to_thread(Cluster.create, tmp_path / "c", topology="wan3", base_port=0)
    try:
        await asyncio.to_thread(cluster.up)
        shaper = make_shaper(cluster)
        await shaper.start()
        network = await shaper.measure()
        assert network.shaper == "transport"
        assert len([link for link in network.links if link.client]) == 9
        for link in network.links:
            assert link.declared_ms == topology.round_trip(link.one, link.other)
            # No upper bound: a busy machine adds what it likes. Shapers may be early by their timers' slack.
            assert link.achieved_ms is not None
            assert link.achieved_ms >= link.declared_ms - 0.2, link

        observer = make_observer(cluster)
        await observer.begin()
        leader = cluster.leader()
        assert leader is not None
        far = next(r.region for r in cluster.layout.replicas if r.replica != leader)
        least_s = topology.round_trip(far, cluster.layout.replica(leader).region) / 1000
        async with connect_async(shaper.endpoints(far)) as store:
            await store.put("first", "opens the session")
            for number in range(20):
                began = time.monotonic()
                await store.put(f"key/{number}", "value")
                assert time.monotonic() - began >= least_s - 0.001
            stages, resources = await observer.end()

            timeline = make_timeline(["0s kill leader"], cluster)
            await timeline.start(time.monotonic())
            await eventually(lambda: timeline.events() and timeline.events()[0].detail.endswith("(leader)"), "the kill")
            await store.put("after", "the others go on", timeout_s=60)
            await timeline.stop()
        [event] = timeline.events()
        assert (event.kind, event.replica, event.error) == ("kill", leader, "")
        assert event.until_s is not None
        # Started again, it is as far away as it was.
        trips = await asyncio.to_thread(admin.measure_links, cluster.layout.replica(leader).client, 2)
        assert all(min(samples) >= 10 for samples in trips.values())
    finally:
        await asyncio.to_thread(cluster.down, timeout_s=5.0)

    mean_ms = {stage.name: stage.mean_ms for stage in stages if stage.replica == leader}
    total = mean_ms.pop("total")
    assert sum(mean_ms.values()) == pytest.approx(total, rel=0.05)
    assert max(mean_ms, key=lambda name: mean_ms[name]) == "network"
    used = {resource.name: resource for resource in resources}
    assert used[f"replica {leader}"].cpu_user_s + used[f"replica {leader}"].cpu_system_s > 0
    assert used[f"replica {leader}"].network_sent_bytes > 0
    assert used["machine"].cpu_user_s > 0
