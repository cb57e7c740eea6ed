"""``kill -9`` while somebody watches: every revision once and in order, held against what was written."""

import asyncio
import random
from pathlib import Path

import pytest

import replica.client.watches
from deploy import Cluster
from replica.client import AsyncStore, Compacted, WatchBatch, connect_async
from tests.support.nodes import PATIENCE_S, eventually

WRITES_BETWEEN_KILLS = 300

THE_END = b"the end"
"""The key that is written last. A watch may be told of it before the writer has its answer."""


async def follow(store: AsyncStore, seen: dict[int, WatchBatch], draw: random.Random) -> None:
    """Watch from the beginning to the end; slowly at times, and from the revision to resume from where something is
    compacted."""
    watch = store.watch(revision=1)
    last = 0
    while last not in seen or seen[last].events[0].key != THE_END:
        try:
            async with asyncio.timeout(PATIENCE_S):
                batch = await watch.next()
        except Compacted as compacted:
            if compacted.revision <= last + 1:
                pytest.fail(f"told of {last}, then to resume from {compacted.revision}")
            last = compacted.revision - 1
            watch = store.watch(revision=compacted.revision)
            continue
        assert batch.revision == last + 1, "a gap, or a revision twice"
        last = batch.revision
        seen[last] = batch
        if draw.random() < 0.01:
            await asyncio.sleep(draw.random() * 0.1)
    watch.close()


async def more(written: dict[int, tuple[bytes, bytes]]) -> None:
    """Wait until so many more writes were acknowledged."""
    enough = len(written) + WRITES_BETWEEN_KILLS
    await eventually(lambda: len(written) >= enough, "writes")


async def run(cluster: Cluster, kills: int, draw: random.Random) -> None:
    endpoints = ",".join(cluster.endpoints)
    written: dict[int, tuple[bytes, bytes]] = {}
    writing = True
    async with connect_async(endpoints, timeout_s=60) as writer:

        async def write(name: int) -> None:
            number = 0
            while writing:
                key, value = b"k%d/%d" % (name, number % 7), b"%d" % number
                written[(await writer.put(key, value)).revision] = key, value
                number += 1

        stores = [connect_async(endpoints, timeout_s=60) for _ in range(3)]
        seen: list[dict[int, WatchBatch]] = [{} for _ in stores]
        watchers = [asyncio.create_task(follow(*each, draw)) for each in zip(stores, seen, strict=True)]
        writers = [asyncio.create_task(write(name)) for name in range(8)]
        for number in range(kills):
            await more(written)
            assert not any(task.done() for task in (*writers, *watchers))
            leader = cluster.leader()
            victim = leader if leader is not None else draw.choice([each.replica for each in cluster.layout.replicas])
            await asyncio.to_thread(cluster.kill, victim)
            if number % 3 == 2:
                await writer.compact(max(written) - 50)
            await more(written)
            await asyncio.to_thread(cluster.restart, victim)
        writing = False
        await asyncio.gather(*writers)
        last = (await writer.put(THE_END, b"")).revision
        written[last] = THE_END, b""
        await asyncio.gather(*watchers)
        for store in stores:
            await store.close()
    for each in seen:
        assert last in each
        for revision, batch in each.items():
            ((event,),) = [batch.events]
            if revision in written:  # others were written by attempts whose answer was lost
                assert (event.key, event.value) == written[revision]
        assert len(each) > last // 2


@pytest.mark.parametrize(
    "kills", [2, pytest.param(15, marks=[pytest.mark.slow, pytest.mark.timeout(400)])], ids=["twice", "fifteen times"]
)
def test_watchers_see_each_revision_once_while_leaders_are_killed(tmp_path: Path, monkeypatch, kills):
    monkeypatch.setattr(replica.client.watches, "BUFFERED_BYTES_MAX", 10_000)
    cluster = Cluster.create(tmp_path / "cluster", replicas=3, base_port=0)
    try:
        cluster.up()
        asyncio.run(run(cluster, kills, random.Random(kills)))
    finally:
        cluster.down(timeout_s=5.0)
