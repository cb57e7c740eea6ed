"""WPaxos on real replicas: keys that move to their users, a zone that is lost, catch-up key by key, what it refuses.

Replicas that name no zone are zones of their own: f_z = 1 and f_n = 0 with three of them, f_n = 1 in three zones of
three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from replica.client import AsyncStore, connect_async
from replica.client.errors import Unsupported
from tests.support.nodes import Nodes, eventually, nodes

from .test_keyed import ready, settled, state, urls, value

WRITERS = 6
WRITES = 20

ACCESSES = 5
"""So many accesses in a row are more than a key needs to be offered to where they come from."""


def owner_of(cluster: Nodes, replica: int, key: str) -> int | None:
    """Who owns a key, as far as a replica knows."""
    protocol: Any = cluster.running[replica].coordinator.protocol
    owner: int | None = protocol.owner_of(key)
    return owner


def owned_by(cluster: Nodes, owner: int, key: str) -> Callable[[], bool]:
    return lambda: all(owner_of(cluster, replica, key) == owner for replica in cluster.running)


async def test_many_writers_of_one_key_on_all_replicas_get_one_order(tmp_path):
    async with nodes(tmp_path, protocol__name="wpaxos") as cluster:
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
            assert await value(store, "counter") == b"%d" % (WRITERS * WRITES)
            last = await store.get("last")
        assert last is not None
        assert last.mod_revision == WRITERS * WRITES


async def test_a_key_moves_to_where_it_is_used_with_its_value_and_its_sessions(tmp_path):
    async with nodes(tmp_path, protocol__name="wpaxos", protocol__options={"steal_rest_s": 0.0}) as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster, 1)) as first:
            for _ in range(ACCESSES):
                await first.add("n", 1)
            sessions = dict(state(cluster, 1).find(b"n").sessions)  # type: ignore[union-attr]
            total = ACCESSES
            async with asyncio.timeout(60):
                # An offer that comes while the machine is too busy for a claim is repeated as long as the key is used;
                # and a client that a busy replica has driven to another comes back when it begins anew.
                while total == ACCESSES or not owned_by(cluster, 3, "n")():
                    async with connect_async(urls(cluster, 3)) as other:
                        for _ in range(ACCESSES):
                            total += 1
                            assert (await other.add("n", 1)).value == total
            await settled(cluster)
            record = state(cluster, 3).find(b"n")
            assert record is not None
            assert sessions.keys() < record.sessions.keys()
            assert await value(first, "n") == b"%d" % total


@pytest.mark.parametrize(("count", "options", "lost"), [(3, {}, (1,)), (9, {"zones": 3}, (1, 4, 7))], ids=str)
async def test_what_a_lost_zone_owned_is_written_again_and_the_rest_goes_on(tmp_path, count, options, lost):
    async with nodes(tmp_path, count, protocol__name="wpaxos", protocol__options=options) as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster, 1)) as here, connect_async(urls(cluster, 2)) as there:
            await here.put("lost", b"1")
            await there.put("kept", b"1")
        async with connect_async(urls(cluster, 2)) as store:
            # Whoever stalls on a busy machine may have lost a key before: it is asked for at its first owner again.
            async with asyncio.timeout(60):
                while not owned_by(cluster, 1, "lost")():
                    async with connect_async(urls(cluster, 1)) as here:
                        for _ in range(ACCESSES):
                            await here.put("lost", b"1")
            await asyncio.gather(*(cluster.stop(replica) for replica in lost))
            await store.put("kept", b"2")
            await store.put("lost", b"2")
            assert owner_of(cluster, 2, "lost") not in lost
            assert await value(store, "lost") == b"2"
            await cluster.start(*lost)
            await ready(cluster)
            await settled(cluster)
            assert await value(store, "lost") == b"2"
            assert await value(store, "kept") == b"2"


async def test_a_replica_that_missed_everything_is_handed_every_key(tmp_path):
    async with nodes(tmp_path, protocol__name="wpaxos", snapshot__every_positions=20) as cluster:
        await cluster.start()
        await ready(cluster)
        await cluster.stop(3)
        async with connect_async(urls(cluster, 1, 2)) as store:
            await asyncio.gather(*(store.put(f"k{write % 30}", str(write)) for write in range(300)))
        await cluster.start(3)
        await ready(cluster)
        await settled(cluster)
        async with connect_async(urls(cluster, 3)) as store:
            assert await value(store, "k7") is not None


async def test_a_replica_that_is_cut_off_says_what_it_lacks_and_not_a_leader(tmp_path):
    async with nodes(tmp_path, protocol__name="wpaxos") as cluster:
        await cluster.start()
        await ready(cluster)
        await cluster.stop(1, 2)
        left = cluster.running[3]
        await eventually(left.problem, "it has noticed")
        assert "too few of the other members" in left.problem()


async def write_two(store: AsyncStore) -> None:
    async with store.txn() as transaction:
        transaction.put("a", b"1")
        transaction.put("b", b"1")


async def test_what_it_can_not_do_is_refused_with_reasons(tmp_path):
    async with nodes(tmp_path, protocol__name="wpaxos") as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster)) as store:
            with pytest.raises(Unsupported, match="one by one"):
                await write_two(store)
            assert await store.put("a", b"1", if_revision=0) is not None
