"""A replica whose disk fills up, whoever fills it: it takes part in nothing, says so, goes on when there is room."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replica.node.replica import Replica
from tests.support.nodes import Nodes, eventually, nodes, state_of

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, where the folder of replica 3 lies."""
    path = tmp_path / "replica-3"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def pretend(node: Replica, problem: str | None) -> None:
    """Have the replica find that there is no room."""
    node.storage.space.exhausted = lambda: problem  # type: ignore[method-assign]


async def write(cluster: Nodes, count: int) -> None:
    async with await cluster.session() as session:
        for number in range(count):
            await session.put(b"key %d" % number, b"value")


@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
async def test_a_follower_without_room_rests_and_then_makes_up_for_it(tmp_path: Path, protocol: str) -> None:
    async with nodes(tmp_path, protocol__name=protocol) as cluster:
        await cluster.start()
        await cluster.ready()
        await write(cluster, 10)
        await cluster.agree()
        follower = (await cluster.followers())[0]
        pretend(follower, "the disk is full")
        await eventually(lambda: follower.resting, "the lack of room noticed")
        standing = state_of(follower).applied
        await write(cluster, 20)
        assert state_of(follower).applied == standing
        assert follower.problem() == "the disk is full"
        await eventually(lambda: not follower.ready, "its health tells")
        follower.refresh_gauges()
        assert follower.metrics.values()["resting"] == 1
        assert not follower.failed.done()
        pretend(follower, None)
        await cluster.ready()
        await cluster.agree()
        assert state_of(follower).applied > standing
        follower.refresh_gauges()
        assert follower.metrics.values()["resting"] == 0


@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
async def test_a_leader_without_room_is_relieved_by_others(tmp_path: Path, protocol: str) -> None:
    async with nodes(tmp_path, protocol__name=protocol) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with await cluster.session() as session:
            await session.put(b"key", b"before")
            pretend(leader, "the disk is full")
            closing = await session.ended()
            assert closing is not None
            assert "the disk is full" in closing.message
        others = [node for node in cluster.running.values() if node is not leader]
        await eventually(lambda: any(node.coordinator.status().accepting for node in others), "another leader")
        del cluster.running[leader.config.replica]
        await write(cluster, 5)
        cluster.running[leader.config.replica] = leader
        pretend(leader, None)
        await cluster.ready()
        await cluster.agree()


async def test_two_replicas_without_room_stop_the_cluster_and_nothing_is_lost(tmp_path: Path) -> None:
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        await write(cluster, 10)
        followers = await cluster.followers()
        for node in followers:
            pretend(node, "the disk is full")
        await eventually(lambda: all(node.resting for node in followers), "the lack of room noticed")
        await asyncio.sleep(0)
        for node in followers:
            pretend(node, None)
        await cluster.ready()
        async with await cluster.session() as session:
            assert await session.get(b"key 9") == b"value"
        await cluster.agree()


async def test_a_disk_that_is_filled_by_somebody_else_is_survived(tmp_path: Path, small_disk: Path) -> None:
    settings: dict[str, Any] = {"limits__storage_reserve_bytes": 8 * MIB}
    async with nodes(tmp_path, **settings) as cluster:
        await cluster.start()
        await cluster.ready()
        await write(cluster, 10)
        small = cluster.running[3]
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            while not small.resting:
                # In steps smaller than what is left when it rests, so that no commit can meet a disk without any room.
                if small.storage.space.exhausted() is None:
                    file.write(bytes(MIB // 2))
                    file.flush()
                await asyncio.sleep(0.01)
        assert "the file system has" in small.problem()
        others = [node for node in cluster.running.values() if node is not small]
        await eventually(lambda: any(node.coordinator.status().accepting for node in others), "a leader with room")
        del cluster.running[3]
        await write(cluster, 20)
        cluster.running[3] = small
        assert not small.failed.done()
        ballast.unlink()
        await cluster.ready()
        await cluster.agree()
