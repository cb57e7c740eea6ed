"""Protocols that are not one log, on real replicas: by object, from a package outside the tree, and registers."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

from replica.client import AsyncStore, connect_async
from replica.client.errors import Unsupported
from replica.kv.objects import ObjectMachine
from replica.kv.operations import VALUE_BYTES_MAX, Add, KeyValue, Written
from replica.wire import typed as wire
from tests.support.nodes import PATIENCE_S, Nodes, admin, attach, eventually, nodes
from tests.support.packages import install

KEYS = 40


@pytest.fixture
def partitioned(tmp_path, monkeypatch):
    """The package `partitioned`, installed where this process looks for packages."""
    monkeypatch.syspath_prepend(str(install("partitioned", tmp_path / "site")))
    yield "partitioned"
    sys.modules.pop("partitioned", None)


def urls(cluster: Nodes, *replicas: int) -> str:
    return ",".join(cluster.members[each][1] for each in replicas or cluster.members)


def state(cluster: Nodes, replica: int) -> ObjectMachine:
    machine = cluster.running[replica].machine
    assert isinstance(machine, ObjectMachine)
    return machine


async def ready(cluster: Nodes) -> None:
    for node in list(cluster.running.values()):
        await eventually(_is_ready(node), "a ready replica")


def _is_ready(node: Any) -> Callable[[], bool]:
    # Not admitted, a replica names no session; and that takes both others, one of which may be stopped next.
    return lambda: node.begun and node.coordinator.voting and node.coordinator.status().accepting


async def value(store: AsyncStore, key: str) -> bytes | None:
    item = await store.get(key)
    return None if item is None else item.value


async def everything(store: AsyncStore) -> list[KeyValue]:
    return [item async for item in store.range(prefix="")]


async def overwrite(store: AsyncStore) -> None:
    async with store.txn() as transaction:
        await transaction.get("a")
        transaction.put("a", b"1")


async def settled(cluster: Nodes) -> str:
    """The one digest of all replicas, once they stand alike."""

    digests: list[Any] = []

    def equal() -> bool:
        digests[:] = [state(cluster, each).digest() for each in cluster.running]
        return len({(each.standing, each.digest) for each in digests}) == 1

    await eventually(equal, "equal states")
    return str(digests[0].digest)


async def test_a_protocol_from_another_package_serves_clients_on_any_replica(tmp_path, partitioned):
    async with nodes(tmp_path, protocol__name=partitioned) as cluster:
        await cluster.start()
        await ready(cluster)
        for replica in cluster.members:
            async with connect_async(urls(cluster, replica)) as store:
                await asyncio.gather(*(store.add(f"n/{key}", 1) for key in range(KEYS)))
        async with connect_async(urls(cluster)) as store:
            items = await asyncio.gather(*(store.get(f"n/{key}") for key in range(KEYS)))
            assert {item.value for item in items if isinstance(item, KeyValue)} == {b"3"}
            assert {item.mod_revision for item in items if isinstance(item, KeyValue)} == {3}
        await settled(cluster)


async def test_what_was_applied_is_there_after_every_replica_was_started_again(tmp_path, partitioned):
    async with nodes(tmp_path, protocol__name=partitioned, snapshot__every_positions=20) as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster)) as store:
            await asyncio.gather(*(store.put(f"k/{key}", b"%d" % key) for key in range(KEYS)))
            before = await settled(cluster)
        await cluster.stop()
        await cluster.start()
        await ready(cluster)
        assert await settled(cluster) == before
        async with connect_async(urls(cluster)) as store:
            assert await value(store, "k/7") == b"7"
            assert await store.put("k/7", b"again") == Written(2)


async def test_what_needs_one_revision_or_several_keys_is_refused_with_reasons(tmp_path, partitioned):
    async with nodes(tmp_path, protocol__name=partitioned) as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster)) as store:
            await store.put("a", b"1")
            with pytest.raises(Unsupported, match="one revision for all keys"):
                await store.get("a", revision=1)
            with pytest.raises(Unsupported, match="spans several keys"):
                await everything(store)
            with pytest.raises(Unsupported, match="one revision for all keys"):
                await store.compact(1)


async def test_registers_are_read_and_written_through_any_replica(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await ready(cluster)
        for replica in cluster.members:
            async with connect_async(urls(cluster, replica)) as store:
                await asyncio.gather(*(store.put(f"k/{key}", b"%d" % replica) for key in range(KEYS)))
                for other in cluster.members:
                    async with connect_async(urls(cluster, other)) as reader:
                        items = await asyncio.gather(*(reader.get(f"k/{key}") for key in range(KEYS)))
                        assert {item.value for item in items if isinstance(item, KeyValue)} == {b"%d" % replica}
        async with connect_async(urls(cluster)) as store:
            await store.delete("k/1")
            assert await store.get("k/1") is None


async def test_many_large_registers_at_once_are_more_than_a_frame_and_pass_all_the_same(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await ready(cluster)
        large = bytes(VALUE_BYTES_MAX)
        async with connect_async(urls(cluster, 1), timeout_s=PATIENCE_S) as store:
            await asyncio.gather(*(store.put(f"k/{key}", large) for key in range(6)))
        async with connect_async(urls(cluster, 2), timeout_s=PATIENCE_S) as store:
            items = await asyncio.gather(*(store.get(f"k/{key}") for key in range(6)))
        assert [item.value == large for item in items if isinstance(item, KeyValue)] == [True] * 6
        assert not any(node.failed.done() for node in cluster.running.values())


async def test_registers_survive_the_loss_of_one_replica_and_the_restart_of_all(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster)) as store:
            await store.put("a", b"before")
        await cluster.stop(2)
        async with connect_async(urls(cluster, 1, 3)) as store:
            await store.put("a", b"meanwhile")
        await cluster.stop()
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster, 2)) as store:
            assert await value(store, "a") == b"meanwhile"


async def test_registers_refuse_what_depends_on_what_they_hold(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster)) as store:
            with pytest.raises(Unsupported, match="condition on a write depends on what the key holds"):
                await store.put("a", b"1", if_revision=0)
            with pytest.raises(Unsupported, match="addition depends"):
                await store.add("a", 1)
            with pytest.raises(Unsupported, match="transaction depends"):
                await overwrite(store)
            with pytest.raises(Unsupported, match="spans several keys"):
                await everything(store)
            assert await store.get("a") is None


async def test_a_digest_or_a_snapshot_of_registers_is_refused_with_reasons(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await ready(cluster)
        async with admin(cluster.running[1]) as asked:
            with pytest.raises(grpc.aio.AioRpcError, match="linearizable reads of the keys"):
                await asked.Digest(wire.DigestRequest())
            with pytest.raises(grpc.aio.AioRpcError, match="has no snapshots"):
                await asked.TakeSnapshot(wire.TakeSnapshotRequest())
            with pytest.raises(grpc.aio.AioRpcError, match="cannot change its members"):
                await asked.ReplaceMember(wire.ReplaceMemberRequest(remove=3, add=4))


async def test_transactions_and_ranges_over_keys_that_are_ordered_one_by_one(tmp_path):
    async with nodes(tmp_path, protocol__name="epaxos") as cluster:
        await cluster.start()
        await ready(cluster)
        async with connect_async(urls(cluster, 1)) as one, connect_async(urls(cluster, 2)) as other:
            await one.put("from", b"100")
            await asyncio.gather(*(transfer(store) for store in (one, other) * 10))
            assert [(item.key, item.value) for item in await everything(other)] == [(b"from", b"80"), (b"to", b"20")]
            with pytest.raises(Unsupported, match="one revision for all keys"):
                await one.get("from", revision=1)
        await settled(cluster)


def owned_by(*replicas: int) -> list[str]:
    """Some keys that are led by one of these replicas."""
    owner_of = sys.modules["partitioned"].owner_of
    return [name for name in (f"k/{key}" for key in range(KEYS)) if owner_of(name, (1, 2, 3)) in replicas]


async def transfer(store: AsyncStore) -> None:
    done = await store.transaction((), (Add(b"from", -1), Add(b"to", 1)))
    assert done.succeeded


async def test_a_replica_that_missed_everything_fetches_the_state_of_others(tmp_path, partitioned):
    async with nodes(tmp_path, protocol__name=partitioned, snapshot__every_positions=50) as cluster:
        await cluster.start()
        await ready(cluster)
        await cluster.stop(3)
        async with connect_async(urls(cluster, 1, 2)) as store:
            for number in range(20):
                await asyncio.gather(*(store.put(name, b"%d" % number) for name in owned_by(1, 2)))
        await cluster.start(3)
        await ready(cluster)
        await settled(cluster)


async def test_a_session_id_that_was_made_up_does_not_use_up_the_clock_of_the_replicas(tmp_path, partitioned):
    async with nodes(tmp_path, protocol__name=partitioned) as cluster:
        await cluster.start()
        await ready(cluster)
        node = cluster.running[1]
        async with await attach(node, session=(1 << 63) - 1) as made_up:
            assert made_up.session == 0, "it was not welcomed"
        async with await attach(node) as session:
            assert session.session < 1 << 48
