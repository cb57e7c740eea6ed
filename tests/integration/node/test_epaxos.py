"""EPaxos on real replicas: many writers of one key, clients anywhere, paths that are counted, what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

from replica.client import connect_async
from tests.support.nodes import Nodes, eventually, nodes

from .test_keyed import ready, settled, state, urls

WRITERS = 8
WRITES = 20


def counted(cluster: Nodes, name: str) -> int:
    """What the protocol counted under that name, on all replicas."""
    return sum(node.coordinator.status().counters.get(name, 0) for node in cluster.running.values())


async def test_many_writers_of_one_key_on_all_replicas_get_one_order(tmp_path):
    async with nodes(tmp_path, protocol__name="epaxos") as cluster:
        await cluster.start()
        await ready(cluster)

        async def writer(number: int) -> None:
            async with connect_async(urls(cluster, 1 + number % 3)) as store:
                for write in range(WRITES):
                    await store.add("counter", 1)
                    await store.put("last", f"{number}-{write}")

        await asyncio.gather(*(writer(number) for number in range(WRITERS)))
        await settled(cluster)
        async with connect_async(urls(cluster)) as store:
            counter = await store.get("counter")
            last = await store.get("last")
        assert counter is not None
        assert counter.value == b"%d" % (WRITERS * WRITES)
        assert last is not None
        assert last.mod_revision == WRITERS * WRITES
        assert counted(cluster, "slow") > 0
        assert len({repr(state(cluster, each).find(b"last")) for each in cluster.members}) == 1


async def test_commands_of_clients_that_keep_to_keys_of_their_own_take_the_fast_path(tmp_path):
    async with nodes(tmp_path, protocol__name="epaxos") as cluster:
        await cluster.start()
        await ready(cluster)

        async def writer(replica: int) -> None:
            async with connect_async(urls(cluster, replica)) as store:
                for write in range(WRITES):
                    await store.put(f"of-{replica}", str(write))

        async with asyncio.timeout(60):
            while True:  # on a busy machine one may be given up for lost and decided by another: then once more
                fast, slow = counted(cluster, "fast"), counted(cluster, "slow")
                await asyncio.gather(*(writer(replica) for replica in cluster.members))
                assert counted(cluster, "fast") > fast
                if counted(cluster, "slow") == slow:
                    break


def has_discarded(cluster: Nodes, replica: int) -> bool:
    """Is anything gone from the records of a replica?"""
    protocol: Any = cluster.running[replica].coordinator.protocol
    return any(protocol._instances.floor)


async def test_a_replica_that_missed_everything_catches_up(tmp_path):
    options = {"tail_instances": 5, "progress_s": 0.005}  # and so a silence of one second is a long one
    async with nodes(
        tmp_path, protocol__name="epaxos", protocol__options=options, snapshot__every_positions=20
    ) as cluster:
        await cluster.start()
        await ready(cluster)
        await cluster.stop(3)
        write = 0
        async with connect_async(urls(cluster, 1, 2)) as store:
            while write < 100 or not (has_discarded(cluster, 1) and has_discarded(cluster, 2)):
                await store.put(f"k{write % 7}", str(write))
                write += 1
        await cluster.start(3)
        await eventually(
            lambda: cluster.running[3].begun and state(cluster, 3).applied == state(cluster, 1).applied, "catch-up"
        )
        await settled(cluster)
        assert cluster.running[3].metrics.snapshots_installed > 0
