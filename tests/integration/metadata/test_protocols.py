"""On which protocols a metadata store can be, and what the others answer."""

import pytest

from replica.client import connect_async
from replica.metadata import AsyncMetadata, NeedsTotalOrder
from tests.support.nodes import nodes


@pytest.mark.parametrize("protocol", ["epaxos", "abd"])
async def test_without_one_order_over_all_keys_there_is_no_metadata_store(tmp_path, protocol):
    async with nodes(tmp_path, 3, protocol__name=protocol) as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(",".join(client for _, client in cluster.members.values()), timeout_s=30) as store:
            with pytest.raises(NeedsTotalOrder, match="total order"):
                await AsyncMetadata(store).put_artifact("Data")


async def test_on_raft_there_is_one(tmp_path):
    async with nodes(tmp_path, 1, protocol__name="raft") as cluster:
        await cluster.start()
        await cluster.ready()
        async with connect_async(cluster.members[1][1], timeout_s=30) as store:
            md = AsyncMetadata(store)
            await md.define_type("Data")
            made = await md.put_artifact("Data", name="x")
            assert await md.by_name("Data", "x") == made
