"""The client on three real replicas, whose leader stops, yields and comes back under load."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from replica.client import AsyncStore, ConditionFailed, Unavailable, Unsupported, connect, connect_async
from replica.kv.operations import VALUE_BYTES_MAX
from replica.wire.typed import YieldRequest
from tests.support.nodes import Nodes, admin, nodes


@pytest.fixture
async def cluster(tmp_path) -> AsyncIterator[Nodes]:
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        yield cluster


@pytest.fixture
async def store(cluster) -> AsyncIterator[AsyncStore]:
    async with connect_async(endpoints(cluster), timeout_s=60) as store:
        yield store


def endpoints(cluster: Nodes) -> str:
    return ",".join(client for _, client in cluster.members.values())


async def test_every_operation(store, cluster):
    written = await asyncio.gather(*(store.put(f"k/{n:04d}", str(n)) for n in range(1500)))
    assert sorted(result.revision for result in written) == list(range(1, 1501))
    assert [item.value async for item in store.range("k/")] == [b"%d" % n for n in range(1500)]
    with pytest.raises(ConditionFailed):
        await store.put("k/0000", "x", if_revision=0)
    assert (await store.delete_range("k/00")).count == 100
    async with store.txn() as t:
        count = len(await t.range("k/"))
        t.put("count", str(count))
    assert (await store.get("count")).value == b"1400"
    assert (await store.get("k/0000", revision=1500)).value == b"0"
    await store.compact(t.revision)
    await cluster.agree()


@pytest.mark.parametrize("consistency", ["linearizable", "log", "read-index"])
async def test_every_way_to_read_reflects_what_was_acknowledged(store, consistency):
    for n in range(20):
        await store.put("key", str(n))
        assert (await store.get("key", consistency=consistency)).value == b"%d" % n


async def test_a_way_to_read_that_the_protocol_does_not_offer_is_refused(store):
    with pytest.raises(Unsupported):
        await store.get("key", consistency="quorum")


async def test_reads_by_lease_reflect_what_was_acknowledged_and_have_to_be_asked_for(tmp_path):
    async with nodes(tmp_path, protocol__name="raft", protocol__options="lease_s=0.2") as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(endpoints(cluster), timeout_s=60) as store:
            for n in range(20):
                await store.put("key", str(n))
                for consistency in ("lease", "read-index"):
                    found = await store.get("key", consistency=consistency)
                    assert found is not None
                    assert found.value == b"%d" % n


async def test_stale_reads_are_served_where_no_majority_is_left(store, cluster):
    await store.put("key", "value")
    await cluster.agree()
    await cluster.stop(1, 2)
    assert (await store.get("key", consistency="stale")).value == b"value"
    with pytest.raises(Unavailable):
        await store.get("key", timeout_s=1)


async def test_values_of_the_largest_size(store):
    values = [bytes([n]) * VALUE_BYTES_MAX for n in range(10)]
    await asyncio.gather(*(store.put(f"k{n}", value) for n, value in enumerate(values)))
    items = await asyncio.gather(*(store.get(f"k{n}") for n in range(10)))
    assert [item.value for item in items] == values
    assert [item.value async for item in store.range("k")] == values


async def count_up(store: AsyncStore, stop: asyncio.Event) -> int:
    done = 0
    while not stop.is_set():
        await store.add("counter", 1)
        done += 1
    return done


async def counted(store: AsyncStore, tasks: int, disturb) -> int:
    """Additions acknowledged to so many tasks while ``disturb`` does its worst."""
    stop = asyncio.Event()
    counters = [asyncio.create_task(count_up(store, stop)) for _ in range(tasks)]
    try:
        await disturb()
    finally:
        stop.set()
    return sum(await asyncio.gather(*counters))


async def test_every_addition_counts_once_while_leaders_stop_and_return(store, cluster):
    async def disturb() -> None:
        for _ in range(3):
            before = (await store.add("disturbed", 1)).value
            leader = (await cluster.leader()).config.replica
            await cluster.stop(leader)
            assert (await store.add("disturbed", 1)).value == before + 1
            await cluster.start(leader)
            await cluster.ready()

    done = await counted(store, 50, disturb)
    assert int((await store.get("counter")).value) == done > 0
    await cluster.agree()


async def test_every_addition_counts_once_while_leadership_is_handed_over(store, cluster):
    async def disturb() -> None:
        for _ in range(5):
            await store.add("disturbed", 1)
            async with admin(await cluster.leader()) as operator:
                await operator.Yield(YieldRequest())

    done = await counted(store, 50, disturb)
    assert int((await store.get("counter")).value) == done > 0
    await cluster.agree()


async def test_transactions_do_not_lose_updates_while_leadership_is_handed_over(store, cluster):
    await store.put("counter", "0")

    async def increment(t) -> None:
        item = await t.get("counter")
        t.put("counter", str(int(item.value) + 1))

    async def disturb() -> None:
        for _ in range(3):
            await store.add("disturbed", 1)
            async with admin(await cluster.leader()) as operator:
                await operator.Yield(YieldRequest())

    await asyncio.gather(disturb(), *(store.retry(increment, attempts=1000) for _ in range(30)))
    assert (await store.get("counter")).value == b"30"


async def test_unbatched_replicas_answer_the_same(tmp_path):
    async with nodes(tmp_path, batch_max=1) as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(endpoints(cluster)) as store:
            written = await asyncio.gather(*(store.put(f"k{n}", "v") for n in range(300)))
            assert sorted(result.revision for result in written) == list(range(1, 301))


async def test_status_tells_of_all_replicas_from_one_endpoint(cluster):
    async with connect_async(cluster.members[2][1]) as store:
        found = await store.status()
        assert [status.replica for status in found] == [1, 2, 3]
        assert all(status.ready for status in found)
        assert [status.role for status in found].count("leader") == 1


async def test_the_synchronous_face_on_replicas(cluster):
    def use() -> int:
        with connect(endpoints(cluster), timeout_s=60) as store:
            store.put_many([(f"k{n}", "v") for n in range(500)])
            store.retry(lambda t: t.put("sum", str(len(t.range("k")))))
            item = store.get("sum")
            assert item is not None
            return int(item.value)

    assert await asyncio.to_thread(use) == 500
