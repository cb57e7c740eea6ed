"""Changes of the members: those that are refused change nothing, and who comes learns before it votes."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from replica.node.replica import Replica
from replica.transport import LinkRefused, RefusalCode
from replica.wire import typed as wire
from tests.support.nodes import attach, eventually, free_addresses, nodes

CALM = "election_timeout_min_s=4.0,election_timeout_max_s=6.0"
"""Who leads when a lesson begins is to lead when it ends, however busy the machine is."""


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


async def test_who_is_to_come_and_never_asks_for_the_state_is_not_made_a_member(tmp_path: Path) -> None:
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        peer, client = free_addresses(2)
        await refused(
            leader,
            grpc.StatusCode.FAILED_PRECONDITION,
            "replica 4 did not catch up within 0.2 s .it never asked for the state",
            remove=(await cluster.followers())[0].config.replica,
            add=4,
            peer_address=peer,
            client_address=client,
            catch_up_s=0.2,
        )
        await refused(
            leader,
            grpc.StatusCode.INVALID_ARGUMENT,
            "catch_up_s: -1",
            add=4,
            peer_address=peer,
            client_address=client,
            catch_up_s=-1.0,
        )
        async with await cluster.session() as session:
            await session.put(b"key", b"as before")


@pytest.mark.parametrize("protocol", ["multipaxos", "fpaxos", "raft"])
async def test_who_comes_has_everything_before_it_votes(tmp_path: Path, protocol: str, monkeypatch: Any) -> None:
    async with nodes(tmp_path, protocol__name=protocol, protocol__options=CALM) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        session = await attach(leader)
        for number in range(20):
            await session.put(b"before %d" % number, b"value")
        peer, client = free_addresses(2)
        held, release = asyncio.Event(), asyncio.Event()
        near = leader.teaching.near

        async def held_near(learner: int) -> None:
            await near(learner)
            held.set()
            await release.wait()
            await near(learner)

        monkeypatch.setattr(leader.teaching, "near", held_near)
        new = await cluster.join(4, peer, client)

        async def fetched(*_: Any) -> bool:
            return False

        # Nothing is fetched at the seal: what it knows by then it was taught.
        monkeypatch.setattr(new.transitions, "_fetch", fetched)
        gone = (await cluster.followers())[0]
        changing = asyncio.create_task(
            change(leader, remove=gone.config.replica, add=4, peer_address=peer, client_address=client)
        )
        await held.wait()
        for number in range(20):
            await session.put(b"during %d" % number, b"value")
        reached = leader.machine.applied
        await eventually(lambda: new.machine.applied == reached, "the learner is told of what is written meanwhile")
        assert leader.coordinator.epoch == 1
        assert 4 not in leader.coordinator.configuration.replicas
        assert not new.begun
        assert "learns from replica" in new.problem()
        assert new.storage.anchor is None, "a learner has no place in the epoch that could be recovered"
        release.set()
        assert (await changing).epoch == 2
        await gone.failed
        await cluster.stop(gone.config.replica)
        await cluster.ready()
        await session.close()
        assert new.metrics.snapshots_installed == 0
        # It is needed for a majority now.
        other = next(node for node in await cluster.followers() if node is not new)
        await cluster.stop(other.config.replica)
        async with await cluster.session() as again:
            assert await again.get(b"during 19") == b"value"
            await again.put(b"after", b"value")
        await cluster.agree()


async def test_a_lesson_that_breaks_changes_nothing_and_is_begun_again(tmp_path: Path, monkeypatch: Any) -> None:
    async with nodes(tmp_path, protocol__options=CALM) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"key", b"value")
        teaching = leader.teaching
        begun = []
        begin = teaching.begin

        def begin_badly(learner: int, start: int) -> Any:
            given = begin(learner, start)
            begun.append(given)
            if len(begun) == 1:
                given.lesson.broken("the first is to break")
            return given

        monkeypatch.setattr(teaching, "begin", begin_badly)
        peer, client = free_addresses(2)
        await cluster.join(4, peer, client)
        reply = await change(leader, add=4, peer_address=peer, client_address=client)
        assert reply.epoch == 2
        assert len(begun) >= 2
        await cluster.ready()
        await cluster.agree()
        await eventually(lambda: not teaching.active, "the end of the lesson")


async def test_a_leader_that_is_deposed_while_it_teaches_has_changed_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    async with nodes(tmp_path, protocol__options=CALM) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        peer, client = free_addresses(2)
        never = asyncio.Event()

        async def not_yet(_learner: int) -> None:
            await never.wait()

        monkeypatch.setattr(leader.teaching, "near", not_yet)
        await cluster.join(4, peer, client)
        changing = asyncio.create_task(change(leader, add=4, peer_address=peer, client_address=client))
        await eventually(lambda: leader.teaching.active, "a lesson")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{leader.client_port}") as channel:
            await wire.admin_stub(channel).Yield(wire.YieldRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="the members were not changed: not leader"):
            await changing
        await eventually(lambda: not leader.teaching.active, "the end of the lesson")
        assert await change(await cluster.leader(), add=4, peer_address=peer, client_address=client)
        await cluster.ready()
        await cluster.agree()


async def test_a_refusal_of_what_a_replica_was_before_it_became_a_member_does_not_end_it(tmp_path: Path) -> None:
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        node = await cluster.leader()
        node.notified(LinkRefused(2, RefusalCode.NOT_A_MEMBER, "replica 1 is not a member of epoch 0", 0))
        assert not node.failed.done()
        node.notified(LinkRefused(2, RefusalCode.NOT_A_MEMBER, "replica 1 is not a member of epoch 2", 1))
        assert "epoch 2" in str(await node.failed)
