"""Watches and leases through the client: in process, and on real replicas that stop, move and fall behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

import replica.client.watches
from replica.client import (
    AsyncStore,
    Closed,
    Compacted,
    InvalidArgument,
    LeaseExists,
    LeaseLost,
    LeaseUnknown,
    Unsupported,
    connect_async,
)
from replica.client.grpc_port import GrpcAttachment, GrpcPort
from replica.client.options import make_options
from replica.client.port import PortOptions
from replica.kv.operations import Put, WatchBatch
from replica.wire import typed as wire
from tests.support.nodes import PATIENCE_S, Nodes, admin, eventually, free_addresses, nodes


def endpoints(cluster: Nodes) -> str:
    return ",".join(client for _, client in cluster.members.values())


async def more(written: dict[int, Any]) -> None:
    """Wait until a hundred more writes were acknowledged."""
    enough = len(written) + 100
    await eventually(lambda: len(written) > enough, "a hundred writes")


class BreakablePort(GrpcPort):
    """The way to the replicas, whose streams can be broken."""

    def __init__(self, url: str, options: PortOptions) -> None:
        super().__init__(url, options)
        self.streams: list[tuple[str, GrpcAttachment]] = []

    async def attach(self, endpoint: str, hello: wire.Hello) -> GrpcAttachment:
        attachment = await super().attach(endpoint, hello)
        self.streams.append((endpoint, attachment))
        return attachment

    async def break_streams(self) -> None:
        streams, self.streams = self.streams, []
        for _, attachment in streams:
            await attachment.close()


def breakable(cluster: Nodes, ports: list[BreakablePort]) -> AsyncStore:
    def opener(url: str, options: PortOptions) -> BreakablePort:
        ports.append(BreakablePort(url, options))
        return ports[-1]

    return AsyncStore(endpoints(cluster), make_options({"timeout_s": 60}), opener=opener)


@pytest.fixture
async def store() -> AsyncIterator[AsyncStore]:
    async with connect_async("memory:") as store:
        yield store


async def taken(watch: Any, count: int) -> list[WatchBatch]:
    async with asyncio.timeout(30):
        return [await watch.next() for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- in process


async def test_a_watch_hears_of_each_change_once_and_in_order(store):
    async with store.watch("a/") as watch:
        await store.put("a/1", "x")
        await store.put("b", "not this one")
        await store.delete("a/1")
        first, second = await taken(watch, 2)
    (event,) = first.events
    assert (first.revision, event.key, event.value, event.deleted) == (1, b"a/1", b"x", False)
    assert (second.revision, second.events[0].deleted, second.events[0].value) == (3, True, b"")
    with pytest.raises(Closed):
        await watch.next()


async def test_a_watch_goes_on_from_a_read_without_losing_anything(store):
    await store.put("a", "1")
    await store.put("a", "2")
    pages = store.range("a")
    assert [item.value async for item in pages] == [b"2"]
    await store.put("a", "3")
    watch = store.watch(key="a", revision=pages.revision + 1, previous=True)
    (batch,) = await taken(watch, 1)
    (event,) = batch.events
    assert event.previous is not None
    assert (event.value, event.previous.value) == (b"3", b"2")
    watch.close()


async def test_events_come_one_by_one_to_whoever_prefers_that(store):
    await store.transaction([], [Put(b"a", b"1"), Put(b"b", b"2")])
    await store.put("c", "3")
    heard = []
    watch = store.watch(revision=1)
    async for event in watch.events():
        heard.append((event.item.mod_revision, event.key))
        if len(heard) == 3:
            break
    assert heard == [(1, b"a"), (1, b"b"), (2, b"c")]
    watch.close()


async def test_a_compacted_revision_is_a_clear_error_with_the_revision_to_resume_from(store):
    for n in range(5):
        await store.put("a", str(n))
    await store.compact(3)
    with pytest.raises(Compacted) as compacted:
        await store.watch(revision=3).next()
    assert compacted.value.revision == 4
    assert not compacted.value.may_have_taken_effect
    batches = await taken(store.watch(revision=compacted.value.revision), 2)
    assert [batch.revision for batch in batches] == [4, 5]


async def test_a_watch_of_a_revision_to_come_waits_for_it(store):
    watch = store.watch(revision=3)
    waiting = asyncio.create_task(watch.next())
    for n in range(4):
        await store.put("a", str(n))
    assert (await waiting).revision == 3
    watch.close()


async def test_a_wait_that_is_cancelled_loses_nothing(store):
    async with store.watch() as watch:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.next(), 0.01)
        await store.put("a", "1")
        await store.put("a", "2")
        assert [batch.revision for batch in await taken(watch, 2)] == [1, 2]


async def test_whoever_does_not_take_what_comes_rests_and_misses_nothing(store, monkeypatch):
    monkeypatch.setattr(replica.client.watches, "BUFFERED_BYTES_MAX", 2000)
    async with store.watch() as watch, store.watch() as quick:
        for n in range(300):
            await store.put(f"{n:03}", "x" * 50)
            assert (await quick.next()).revision == n + 1
        live = watch._live
        assert live.watch.resting
        assert live.watch.buffered < 4000
        assert [batch.revision for batch in await taken(watch, 300)] == list(range(1, 301))


async def test_what_makes_no_sense_is_refused_where_it_is_said(store):
    for arguments in ({"prefix": "a", "key": "b"}, {"puts": False, "deletes": False}, {"key": ""}):
        with pytest.raises(InvalidArgument):
            store.watch(**arguments)
    with pytest.raises(InvalidArgument):
        await store.watch(first="b", last="a").next()


async def test_a_closed_store_ends_its_watches():
    store = connect_async("memory:")
    watch = store.watch()
    waiting = asyncio.create_task(watch.next())
    await store.put("a", "1")
    await waiting
    waiting = asyncio.create_task(watch.next())
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(Closed):
        await waiting


async def test_a_store_in_a_file_tells_its_history_after_it_was_closed(tmp_path):
    url = f"file:{tmp_path / 'store'}?durability=none"
    async with connect_async(url) as store:
        for n in range(5):
            await store.put("a", str(n))
        await store.compact(2)
        lease = await store.lease(1.5, keep_alive=False)
        await store.put("leased", "", lease=lease.id)
    async with connect_async(url) as store:
        watch = store.watch(revision=3)
        batches = await taken(watch, 5)
        assert [batch.events[0].value for batch in batches[:3]] == [b"2", b"3", b"4"]
        assert [(batch.revision, batch.events[0].deleted) for batch in batches[3:]] == [(6, False), (7, True)]
        watch.close()


async def test_a_lease_is_renewed_in_the_background_until_it_is_revoked(store):
    async with store.lease(1.5) as lease:
        await store.put("a", "", lease=lease.id)
        renewal = (await store.describe_lease(lease.id)).renewal

        async with asyncio.timeout(30):
            while (await store.describe_lease(lease.id)).renewal < renewal + 3:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        described = await store.describe_lease(lease.id, names=True)
        assert (described.names, described.ttl_ms, lease.held) == ((b"a",), 1500, True)
        assert described.remaining_ms is not None
        assert 0 < described.remaining_ms <= 1500
        assert [each.lease for each in await store.leases()] == [lease.id]
    assert await store.get("a") is None
    with pytest.raises(LeaseLost):
        lease.check()


async def test_a_lease_that_is_not_renewed_ends_and_says_so(store):
    lost: list[LeaseLost] = []
    lease = await store.lease(1.0, keep_alive=False, on_lost=lost.append)
    put = await store.put("a", "", lease=lease.id)
    async with store.watch(key="a", revision=put.revision + 1) as watch:
        async with asyncio.timeout(30):
            assert (await watch.next()).events[0].deleted
            reason = await lease.wait_lost()
    assert lost
    assert not lease.held
    assert str(lease.id) in reason.reason
    for refused in (store.put("a", "", lease=lease.id), store.renew_lease(lease.id), store.revoke_lease(lease.id)):
        with pytest.raises(LeaseUnknown):
            await refused
    with pytest.raises(LeaseUnknown):
        await store.describe_lease(lease.id)
    assert await store.get("a") is None


async def test_a_lease_that_somebody_revoked_is_lost_to_its_holder(store):
    lease = await store.lease(1.5)
    await store.revoke_lease(lease.id)
    async with asyncio.timeout(30):
        assert "no lease" in (await lease.wait_lost()).reason


async def test_lease_ids_may_be_chosen_once(store):
    lease = await store.lease(60, lease=77)
    assert lease.id == 77
    with pytest.raises(LeaseExists):
        await store.lease(60, lease=77)
    await lease.revoke()
    for ttl_s in (0.0, -1.0, 1e12):
        with pytest.raises(InvalidArgument):
            store.lease(ttl_s)


# ------------------------------------------------------------------------------------------------- on real replicas


async def test_each_revision_is_seen_once_whatever_happens_to_replicas_and_streams(tmp_path, monkeypatch):
    """Watchers are disconnected, moved between replicas and slowed while leaders stop."""
    monkeypatch.setattr(replica.client.watches, "BUFFERED_BYTES_MAX", 4000)
    draw = random.Random(1)
    ports: list[BreakablePort] = []
    async with nodes(tmp_path, limits__watch_stream_bytes_max=20_000) as cluster:
        await cluster.start()
        await cluster.ready()
        written: dict[int, tuple[bytes, bytes]] = {}
        writing = True
        async with connect_async(endpoints(cluster), timeout_s=60) as writer:

            async def write(name: int) -> None:
                number = 0
                while writing:
                    key, value = b"k%d/%d" % (name, number % 7), b"%d" % number
                    written[(await writer.put(key, value)).revision] = key, value
                    number += 1

            async def watch(store: AsyncStore, seen: dict[int, WatchBatch]) -> None:
                following = store.watch(revision=1)
                last = 0
                # Until it is told of the last write, which may be before the writer has its answer.
                while not last or seen[last].events[0].key != b"the end":
                    async with asyncio.timeout(PATIENCE_S):
                        batch = await following.next()
                    assert batch.revision == last + 1, "a gap, or a revision twice"
                    last = batch.revision
                    seen[last] = batch
                    if draw.random() < 0.02:
                        await asyncio.sleep(draw.random() * 0.05)
                following.close()

            stores = [breakable(cluster, ports) for _ in range(3)]
            seen: list[dict[int, WatchBatch]] = [{} for _ in stores]
            watchers = [asyncio.create_task(watch(*each)) for each in zip(stores, seen, strict=True)]
            writers = [asyncio.create_task(write(name)) for name in range(8)]
            for _ in range(3):
                for _ in range(4):
                    await more(written)
                    await draw.choice(ports).break_streams()
                leader = await cluster.leader()
                await cluster.stop(leader.config.replica)
                await more(written)
                await cluster.start(leader.config.replica)
            writing = False
            await asyncio.gather(*writers)
            end = (await writer.put("the end", "")).revision
            written[end] = b"the end", b""
            await asyncio.gather(*watchers)
        served_by = {endpoint for port in ports for endpoint, _ in port.streams}
        for store in stores:
            await store.close()
        assert served_by
        for each in seen:
            assert sorted(each) == list(range(1, end + 1))
            for revision, (key, value) in written.items():
                ((event,),) = [each[revision].events]
                assert (event.key, event.value, event.item.mod_revision) == (key, value, revision)
        await cluster.agree()


async def test_every_replica_tells_the_same_and_a_newcomer_as_far_back_as_compaction(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(endpoints(cluster), timeout_s=60) as store:
            for n in range(60):
                await store.put(f"k{n % 5}", str(n))
            await store.compact(20)
            await store.delete_range("k")
        leader = await cluster.leader()
        async with admin(leader) as operator:
            await operator.TakeSnapshot(wire.TakeSnapshotRequest())
        old = (await cluster.followers())[0]
        peer, client = free_addresses(2)
        await cluster.join(4, peer, client)
        async with admin(leader) as operator:
            await operator.ReplaceMember(
                wire.ReplaceMemberRequest(remove=old.config.replica, add=4, peer_address=peer, client_address=client)
            )
        await asyncio.shield(old.failed)
        await cluster.stop(old.config.replica)
        await cluster.ready()
        told = []
        for replica_id in cluster.running:
            async with connect_async(cluster.members[replica_id][1], timeout_s=60) as store:
                # With one endpoint given, and no region, the watch stays where it was asked for.
                watch = store.watch(revision=21, previous=True)
                told.append([(batch.revision, batch.events) for batch in await taken(watch, 41)])
                watch.close()
                with pytest.raises(Compacted) as compacted:
                    await store.watch(revision=20).next()
                assert compacted.value.revision == 21
        assert [revision for revision, _ in told[0]] == list(range(21, 62))
        assert len(told[0][-1][1]) == 5
        assert all(each == told[0] for each in told)


async def test_leases_outlive_a_change_of_leaders_while_they_are_renewed_and_end_when_they_are_not(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(endpoints(cluster), timeout_s=60) as store:
            kept = await store.lease(20)
            left = await store.lease(2, keep_alive=False)
            await store.put("kept", "", lease=kept.id)
            written = await store.put("left", "", lease=left.id)
            leader = await cluster.leader()
            await cluster.stop(leader.config.replica)
            async with asyncio.timeout(60):
                batch = await store.watch("", revision=written.revision + 1).next()
            assert [(event.key, event.deleted) for event in batch.events] == [(b"left", True)]
            await kept.keep_alive(timeout_s=30)
            assert (await store.get("kept")) is not None
            assert kept.held
            await cluster.start(leader.config.replica)
            await cluster.ready()
            await cluster.agree()


async def test_where_changes_are_ordered_key_by_key_watches_and_leases_are_refused_and_it_is_said_why(tmp_path):
    async with nodes(tmp_path, protocol__name="abd") as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(endpoints(cluster), timeout_s=60) as store:
            async with asyncio.timeout(60):
                with pytest.raises(Unsupported) as refused:
                    await store.watch().next()
                assert "one order" in refused.value.reason
                for refuse in (store.lease(10), store.lock("x").acquire(), store.renew_lease(1)):
                    with pytest.raises(Unsupported):
                        await refuse
                await store.put("a", "1")
                item = await store.get("a")
    assert item is not None
    assert item.value == b"1"
