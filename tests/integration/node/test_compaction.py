"""Compaction without anybody asking: on all replicas alike, and who watches is told where to go on."""

from pathlib import Path
from typing import Any

import pytest

from replica.client import Compacted, connect_async
from tests.support.nodes import eventually, nodes

KEPT = 5


async def test_old_revisions_are_given_up_on_all_replicas_and_a_watch_is_told_where_to_resume(tmp_path: Path) -> None:
    policy: dict[str, Any] = {"compaction__keep_revisions": KEPT, "compaction__every_s": 0.05}
    async with nodes(tmp_path, **policy) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with connect_async(f"127.0.0.1:{leader.client_port}") as store:
            for number in range(30):
                await store.put("key", str(number))
            replicas = list(cluster.running.values())
            await eventually(
                lambda: all(node.machine.compacted == 30 - KEPT for node in replicas), "the compaction on all of them"
            )
            await cluster.agree()
            with pytest.raises(Compacted) as compacted:
                await store.watch(revision=1).next()
            assert compacted.value.revision == 30 - KEPT + 1
            resumed = store.watch(revision=compacted.value.revision)
            seen = [(await resumed.next()).revision for _ in range(KEPT)]
            assert seen == list(range(30 - KEPT + 1, 31))
            found = await store.get("key")
            assert found is not None
            assert found.value == b"29"
