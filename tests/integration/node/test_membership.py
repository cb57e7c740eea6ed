"""Changes of the members that are refused: nothing is changed by them."""

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from replica.node.replica import Replica
from replica.wire import typed as wire
from tests.support.nodes import eventually, nodes


async def change(node: Replica, **request: Any) -> wire.ReplaceMemberReply:
    """Ask a replica to change the members."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.client_port}") as channel:
        return await wire.admin_stub(channel).ReplaceMember(wire.ReplaceMemberRequest(**request))


async def refused(node: Replica, code: grpc.StatusCode, what: str, **request: Any) -> None:
    """The change is refused for certain, and the members are what they were."""
    before = node.coordinator.configuration
    with pytest.raises(grpc.aio.AioRpcError, match=what) as refusal:
        await change(node, **request)
    assert refusal.value.code() is code
    assert "nothing was changed" in (refusal.value.details() or "")
    assert node.coordinator.configuration == before


async def test_the_last_member_cannot_be_removed(tmp_path: Path) -> None:
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        node = await cluster.leader()
        await refused(node, grpc.StatusCode.INVALID_ARGUMENT, "is the last member", remove=1)
        await refused(node, grpc.StatusCode.INVALID_ARGUMENT, "neither who leaves nor who comes")
        await refused(node, grpc.StatusCode.INVALID_ARGUMENT, "replica 7 is not a member", remove=7)
        session = await cluster.session()
        await session.close()


async def test_a_member_is_not_removed_when_the_others_that_are_up_would_be_no_majority(tmp_path: Path) -> None:
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        up, down = (node.config.replica for node in await cluster.followers())
        await cluster.stop(down)
        await eventually(lambda: not leader.transport.peers()[down].connected, "the loss of a replica noticed")
        await refused(leader, grpc.StatusCode.FAILED_PRECONDITION, "2 are a majority", remove=up)
        reply = await change(leader, remove=down)
        assert reply.epoch == 2
        assert set(leader.coordinator.configuration.replicas) == {leader.config.replica, up}


async def test_a_member_that_leads_is_removed_and_another_goes_on(tmp_path: Path) -> None:
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        await change(leader, remove=leader.config.replica)
        await leader.failed
        await cluster.stop(leader.config.replica)
        assert (await cluster.leader()) is not leader
        session = await cluster.session()
        await session.close()
