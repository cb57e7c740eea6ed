"""Replicas that stop, start again, fall behind, lose their disk, and are replaced."""

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from replica.kv import operations as kv
from replica.node.errors import (
    EXIT_DAMAGED,
    EXIT_IDENTITY,
    EXIT_NOT_A_MEMBER,
    BadFolder,
    CannotListen,
    Damaged,
    NodeFailure,
    NotAMember,
    WrongIdentity,
)
from replica.node.replica import Replica
from replica.wire import typed as wire
from tests.support.nodes import (
    PATIENCE_S,
    Nodes,
    RawSession,
    Refused,
    admin,
    attach,
    eventually,
    failure_of,
    free_addresses,
    nodes,
    state_of,
)


def _caught_up(node: Replica, leader: Replica) -> bool:
    return state_of(node).applied >= state_of(leader).applied


@pytest.mark.parametrize("sync_mode", ["inline", "thread"])
async def test_when_the_leader_stops_another_leads_and_nothing_is_lost(tmp_path, sync_mode):
    async with nodes(tmp_path, sync_mode=sync_mode) as cluster:
        await cluster.start()
        first = await cluster.leader()
        async with await attach(first) as session:
            for number in range(20):
                await session.put(b"key%d" % number, b"value%d" % number)
            name, sequence = session.session, session.sequence
        await cluster.stop(first.config.replica)
        second = await cluster.leader()
        assert second is not first
        async with await attach(second, session=name) as session:
            assert [await session.get(b"key%d" % n) for n in range(20)] == [b"value%d" % n for n in range(20)]
            session.sequence = sequence
            await session.put(b"after", b"takeover")
        await cluster.start(first.config.replica)
        await cluster.ready()
        await cluster.agree()


async def test_a_cluster_that_was_stopped_goes_on_from_its_disks(tmp_path):
    async with nodes(tmp_path) as cluster:
        for round_number in range(3):
            await cluster.start()
            leader = await cluster.leader()
            async with await attach(leader) as session:
                for earlier in range(round_number):
                    assert await session.get(b"round%d" % earlier) == b"done"
                await session.put(b"round%d" % round_number, b"done")
            digest = await cluster.agree()
            await cluster.stop()
        await cluster.start()
        await cluster.leader()
        assert await cluster.agree() == digest
        assert all(node.storage.incarnation == 4 for node in cluster.running.values())
        assert not any(node.storage.state_rebuilt for node in cluster.running.values())


async def test_yielding_hands_leadership_over(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        first = await cluster.leader()
        async with admin(first) as operator:
            await operator.Yield(wire.YieldRequest())
        assert first.coordinator.status().leader != first.config.replica
        await cluster.leader()


async def test_a_snapshot_truncates_the_log_and_a_replica_that_was_away_catches_up_by_it(tmp_path):
    options = "tail_slots=0,tail_bytes_max=0"
    async with nodes(tmp_path, protocol__options=options) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        (away, _) = await cluster.followers()
        await cluster.stop(away.config.replica)
        leader = await cluster.leader()
        async with await attach(leader) as session:
            for number in range(200):
                await session.put(b"key%d" % (number % 20), b"value%d" % number)
        for node in list(cluster.running.values()):
            await node.loop.until(partial(_caught_up, node, leader))
            async with admin(node) as operator:
                reply = await operator.TakeSnapshot(wire.TakeSnapshotRequest())
                assert reply.frontier == state_of(node).applied
                assert 1 < reply.log_first <= reply.frontier + 1
                assert reply.bytes > 0
        await cluster.start(away.config.replica)
        back = cluster.running[away.config.replica]
        await cluster.agree()
        assert back.metrics.snapshots_installed == 1
        await cluster.stop()
        await cluster.start()
        async with await cluster.session() as session:
            assert await session.get(b"key19") == b"value199"
        await cluster.agree()


async def test_snapshots_are_taken_by_themselves(tmp_path):
    async with nodes(tmp_path, count=1, snapshot__every_positions=20) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            for number in range(100):
                await session.put(b"key%d" % number, b"value")
        await eventually(lambda: leader.metrics.snapshots_taken >= 2, "two snapshots")
        snapshots = Path(leader.config.data) / "snapshots"
        await eventually(lambda: len(list(snapshots.glob("*.snapshot"))) == 1, "only the newest snapshot kept")


async def test_a_replica_that_stops_gives_up_the_snapshot_that_it_is_writing(tmp_path, monkeypatch):
    monkeypatch.setattr("replica.storage.snapshots.PAUSE_S", 0.5)
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"key", b"value")
        leader.spawn(leader.transitions.take_snapshot())
        snapshots = Path(leader.config.data) / "snapshots"
        await eventually(lambda: list((snapshots / "staging").iterdir()), "a snapshot being written")
        await cluster.stop()
        assert not list((snapshots / "staging").iterdir())
        assert not list(snapshots.glob("*.snapshot"))


async def test_a_state_that_is_not_trusted_is_rebuilt_from_snapshot_and_log(tmp_path):
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"before", b"1")
            async with admin(leader) as operator:
                await operator.TakeSnapshot(wire.TakeSnapshotRequest())
            await session.put(b"behind", b"2")
        digest = state_of(leader).digest()
        await cluster.stop()
        shutil.rmtree(Path(leader.config.data) / "state")
        (Path(leader.config.data) / "state").mkdir()
        await cluster.start()
        leader = await cluster.leader()
        assert leader.storage.state_rebuilt
        await eventually(lambda: state_of(leader).applied >= digest.applied, "what the log holds applied again")
        assert state_of(leader).digest().digest == digest.digest
        async with await attach(leader) as session:
            assert await session.get(b"before") == b"1"
            assert await session.get(b"behind") == b"2"


async def test_a_wiped_disk_is_refused_under_its_old_id(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"key", b"value")
        victim = (await cluster.followers())[0].config.replica
        await cluster.stop(victim)
        shutil.rmtree(tmp_path / f"replica-{victim}")
        await cluster.start(victim)
        wiped = cluster.running[victim]
        failure = await failure_of(wiped)
        assert isinstance(failure, WrongIdentity)
        assert failure.exit_status == EXIT_IDENTITY
        assert "does not come back under its id" in str(failure)
        assert not wiped.storage.log.admitted
        async with await cluster.session() as session:
            assert await session.get(b"key") == b"value"


async def test_a_member_is_replaced_and_the_old_one_retires(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            for number in range(30):
                await session.put(b"key%d" % number, b"value")
        old = (await cluster.followers())[0]
        peer, client = free_addresses(2)
        new = await cluster.join(4, peer, client)
        assert new.problem().endswith("to be made a member of the cluster")
        with pytest.raises(Refused) as refused:
            await attach(new, session=1)
        assert (refused.value.code, refused.value.definite) == (wire.Code.UNAVAILABLE, True)
        request = wire.ReplaceMemberRequest(remove=old.config.replica, add=4, peer_address=peer, client_address=client)
        async with admin(leader) as operator:
            reply = await operator.ReplaceMember(request)
        assert reply.epoch == 2
        failure = await failure_of(old)
        assert isinstance(failure, NotAMember)
        assert failure.exit_status == EXIT_NOT_A_MEMBER
        del cluster.running[old.config.replica]
        await old.stop()
        await cluster.ready()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            assert await session.get(b"key29") == b"value"
            assert 4 in {endpoint.replica for endpoint in session.welcome.endpoints}
            await session.put(b"in epoch two", b"yes")
        await cluster.agree()
        assert new.storage.log.admitted
        assert new.coordinator.configuration.retired == (old.config.replica,), "though it never met that one"
        # One of the old members goes: the new one is needed for a majority.
        other = next(node for node in cluster.running.values() if node not in {leader, new})
        await cluster.stop(other.config.replica)
        async with await cluster.session() as session:
            await session.put(b"with the new one", b"yes")
        # The retired one learns at its next start, too, that it is none any more.
        members = dict(cluster.members)
        del cluster.members[4]
        await cluster.start(old.config.replica)
        again = cluster.running[old.config.replica]
        assert isinstance(await failure_of(again), NotAMember)
        cluster.members = members
        del cluster.running[old.config.replica]
        await again.stop()


async def test_the_leader_itself_can_be_replaced(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"key", b"value")
        peer, client = free_addresses(2)
        await cluster.join(4, peer, client)
        async with admin(leader) as operator:
            reply = await operator.ReplaceMember(
                wire.ReplaceMemberRequest(remove=leader.config.replica, add=4, peer_address=peer, client_address=client)
            )
        assert reply.epoch == 2
        assert isinstance(await failure_of(leader), NotAMember)
        await cluster.stop(leader.config.replica)
        await cluster.ready()
        async with await cluster.session() as session:
            assert await session.get(b"key") == b"value"
        await cluster.agree()


async def test_a_leader_that_is_replaced_says_so_though_the_others_have_gone_on_before_it(tmp_path, monkeypatch):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        refused = asyncio.Event()
        refuse, write = leader._refused, leader.transitions._write

        def once_refused(*refusal: Any) -> None:
            refuse(*refusal)
            refused.set()

        async def write_slowly(task: Any) -> Any:
            if task.anchor.configuration.epoch == 1:
                return await write(task)  # for the newcomer
            await asyncio.wait_for(refused.wait(), PATIENCE_S)
            return await write(task)

        monkeypatch.setattr(leader, "_refused", once_refused)
        monkeypatch.setattr(leader.transitions, "_write", write_slowly)
        peer, client = free_addresses(2)
        await cluster.join(4, peer, client)
        async with admin(leader) as operator:
            reply = await operator.ReplaceMember(
                wire.ReplaceMemberRequest(remove=leader.config.replica, add=4, peer_address=peer, client_address=client)
            )
        assert reply.epoch == 2
        assert "is not a member of epoch 2" in str(await failure_of(leader))


async def test_a_replica_that_missed_a_change_of_members_follows_by_snapshot(tmp_path):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        gone, away = (node.config.replica for node in await cluster.followers())
        await cluster.stop(away)
        peer, client = free_addresses(2)
        await cluster.join(4, peer, client)
        async with admin(leader) as operator:
            await operator.ReplaceMember(
                wire.ReplaceMemberRequest(remove=gone, add=4, peer_address=peer, client_address=client)
            )
        await failure_of(cluster.running[gone])
        await cluster.stop(gone)
        # One old member and the new one are up: a majority, but the new one is not admitted by one alone.
        members = dict(cluster.members)
        del cluster.members[4]
        await cluster.start(away)
        cluster.members = members
        back = cluster.running[away]
        await eventually(lambda: back.begun and back.coordinator.epoch == 2, "the later epoch")
        assert back.metrics.snapshots_installed == 1
        await cluster.ready()
        async with await cluster.session() as session:
            await session.put(b"key", b"value")
        await cluster.agree()


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda node: {"remove": 9, "add": 4}, "replica 9 is not a member"),
        (lambda node: {"remove": 1, "add": 2}, "ids are never used again"),
        (lambda node: {"remove": 1, "add": 4, "peer_address": "nowhere"}, "peer_address: "),
    ],
)
async def test_a_change_of_members_that_makes_no_sense_is_refused(tmp_path, request_of, words):
    async with nodes(tmp_path) as cluster:
        await cluster.start()
        await cluster.ready()
        leader = await cluster.leader()
        fields = {"peer_address": "127.0.0.1:1", "client_address": "127.0.0.1:2", **request_of(leader)}
        async with admin(leader) as operator:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await operator.ReplaceMember(wire.ReplaceMemberRequest(**fields))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert words in str(refused.value.details())
        (follower, _) = await cluster.followers()
        fields = {"peer_address": "127.0.0.1:1", "client_address": "127.0.0.1:2", "remove": 1, "add": 4}
        async with admin(follower) as operator:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await operator.ReplaceMember(wire.ReplaceMemberRequest(**fields))
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert f"ask the leader, replica {leader.config.replica}" in str(refused.value.details())
        assert leader.coordinator.epoch == 1


# ------------------------------------------------------------------------------------------- what ends in one line


async def start_of(cluster: Nodes, replica: int = 1, /, **settings: Any) -> Exception:
    """Why the replica does not start."""
    with pytest.raises(NodeFailure) as refused:
        await cluster.start(replica, **settings)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.fixture
async def used(tmp_path):
    """A cluster of one that has been used and stopped."""
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        async with await cluster.session() as session:
            for number in range(10):
                await session.put(b"key%d" % number, b"value")
        await cluster.stop()
        yield cluster
        # Whatever was refused: the data is as it was.
        if not (tmp_path / "spoilt").exists():
            await cluster.start()
            async with await cluster.session() as session:
                assert await session.get(b"key9") == b"value"


async def test_a_folder_that_was_never_formatted_is_not_taken(tmp_path):
    async with nodes(tmp_path, count=1) as cluster:
        failure = await start_of(cluster, bootstrap=False)
        assert isinstance(failure, BadFolder)
        assert "--bootstrap" in str(failure)
        assert not (tmp_path / "replica-1").exists()


async def test_the_folder_of_another_cluster_is_refused(used):
    failure = await start_of(used, cluster="other")
    assert isinstance(failure, BadFolder)
    assert "belongs to cluster 'test', not 'other'" in str(failure)


async def test_the_folder_of_another_protocol_is_refused(used):
    failure = await start_of(used, protocol__name="null")
    assert isinstance(failure, BadFolder)
    assert "'null' is not what" in str(failure)
    failure = await start_of(used, protocol__options="heartbeat_s=0.01")
    assert "heartbeat_s=0.01 is not what" in str(failure)


async def test_the_folder_of_a_later_release_is_refused(used):
    path = Path(used.config(1).data) / "FORMAT"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"format":1', b'"format":99'))
    failure = await start_of(used)
    assert isinstance(failure, BadFolder)
    assert "format 99" in str(failure)
    path.write_bytes(content)


async def test_a_folder_in_use_is_refused(used):
    await used.start()
    failure = await start_of(used)
    assert isinstance(failure, BadFolder)
    assert "is in use" in str(failure)
    await used.stop()


@pytest.mark.parametrize("field", ["listen.peer", "listen.client", "listen.metrics"])
async def test_a_port_in_use_is_one_clear_line(used, field):
    (address,) = free_addresses(1)
    host, port = address.split(":")
    server = await asyncio.start_server(lambda *_: None, host, int(port))
    async with server:
        failure = await start_of(used, **{field.replace(".", "__"): address})
    assert isinstance(failure, CannotListen)
    assert str(failure).startswith(f"{field}: cannot listen on {address}: ")
    assert "in use" in str(failure)


async def test_a_damaged_log_ends_the_start_and_nothing_is_guessed(used):
    (used.root / "spoilt").touch()
    path = Path(used.config(1).data) / "log" / "data.mdb"
    content = bytearray(path.read_bytes())
    damaged = content.replace(b"key7", b"kex7")
    assert damaged != content
    path.write_bytes(damaged)
    failure = await start_of(used)
    assert isinstance(failure, Damaged)
    assert failure.exit_status == EXIT_DAMAGED
    assert "replace" in str(failure)


async def test_a_failed_sync_stops_the_replica_at_once_and_loses_nothing_acknowledged(tmp_path, monkeypatch):
    async with nodes(tmp_path, count=1, sync_mode="thread") as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"acknowledged", b"yes")

            def fails(_groups):
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(leader.storage.log, "commit", fails)
            run = wire.Run(first_sequence=2, count=1, operations=b"\x91\x93\x01\xc4\x01k\xc4\x01v")
            await session.send(wire.ClientFrame(runs=[run]))
            failure = await failure_of(leader)
            assert "Input/output error" in str(failure)
            assert leader.loop.halted
        await cluster.stop()
        await cluster.start()
        async with await cluster.session() as session:
            assert await session.get(b"acknowledged") == b"yes"
            assert await session.read(kv.Get(b"k")) == [kv.Got(1)]


async def test_what_a_failure_leaves_half_done_is_not_kept(tmp_path):
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            for number in range(5):
                await session.put(b"key", b"value%d" % number)
            digest = state_of(leader).digest().digest
            # Records reach the store's open transaction before the position that they belong to does.
            state_of(leader).history.flush()
            leader.fail(OSError("something broke"))
        await cluster.stop()
        await cluster.start()
        leader = await cluster.leader()
        await leader.loop.until(lambda: state_of(leader).revision == 5)
        assert state_of(leader).digest().digest == digest
        async with await attach(leader) as session:
            (got,) = await session.read(kv.Get(b"key"))
            assert (got.item.version, got.item.value) == (5, b"value4")


async def test_the_state_is_committed_early_when_much_has_been_written(tmp_path):
    settings = {"storage__state_commit_ms": 3_600_000.0, "storage__state_commit_bytes": 100_000}
    async with nodes(tmp_path, count=1, **settings) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"key", bytes(10_000))
            assert leader.metrics.state_commits == 0
            for _ in range(10):
                await session.put(b"key", bytes(10_000))
            assert leader.metrics.state_commits == 1


async def fill(session: RawSession, node: Replica) -> None:
    """Put large values until one is refused."""
    for _ in range(100):
        await session.put(b"key", bytes(100_000))
        node.storage.space._fresh_until = 0.0  # judge the next one anew


async def test_a_log_that_is_nearly_full_refuses_and_a_snapshot_makes_room(tmp_path):
    settings = {"protocol__options": "tail_slots=0,tail_bytes_max=0", "storage__log_map_bytes": 4 << 20}
    async with nodes(tmp_path, count=1, **settings) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            with pytest.raises(Refused) as refused:
                await fill(session, leader)
            assert (refused.value.code, refused.value.definite) == (wire.Code.STORAGE_FULL, True)
            assert "the log uses" in str(refused.value)
            async with admin(leader) as operator:
                await operator.TakeSnapshot(wire.TakeSnapshotRequest())
            await leader.loop.until(lambda: leader.refusal() is None)
            await session.run(kv.Put(b"key", b"again"), first=session.sequence)
            assert await session.get(b"key") == b"again"


async def fill_state(session: RawSession, node: Replica) -> None:
    """Put large values under ever new keys until one is refused."""
    for number in range(1000):
        await session.run(*(kv.Put(b"key%06d/%d" % (number, index), bytes(30_000)) for index in range(10)))
        node.transitions.commit_state()
        node.storage.space._fresh_until = 0.0  # judge the next one anew


async def test_a_state_that_is_nearly_full_can_still_be_emptied(tmp_path):
    async with nodes(tmp_path, count=1, storage__state_map_bytes=16 << 20) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            with pytest.raises(Refused) as refused:
                await fill_state(session, leader)
            assert (refused.value.code, refused.value.definite) == (wire.Code.STORAGE_FULL, True)
            assert "the state uses" in str(refused.value)
            for adding in ([kv.Put(b"k", b"v")], [kv.Delete(b"k"), kv.Put(b"k", b"v")], [kv.Add(b"k", 1)]):
                with pytest.raises(Refused) as refused:
                    await session.run(*adding)
                assert (refused.value.code, refused.value.definite) == (wire.Code.STORAGE_FULL, True)
        # Whoever comes to make room may be somebody else.
        async with await attach(leader) as session:
            (deleted,) = await session.run(kv.DeleteRange(b"key", b"kez"))
            assert deleted.count > 300
            assert leader.refusal() is not None, "the history still holds what was deleted"
            await session.run(kv.Get(b"k"), kv.Compact(deleted.revision))
            await eventually(lambda: leader.refusal() is None, "room again")
            assert leader.storage.state.usage().used_bytes < 1 << 20
            await session.put(b"key", b"again")
            assert await session.get(b"key") == b"again"


async def test_what_compaction_leaves_behind_is_removed_though_nothing_more_comes(tmp_path):
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            for _ in range(20):
                await session.run(*(kv.Put(b"key%d" % (index % 10), bytes(100)) for index in range(1000)))
                session.acknowledged = session.sequence
            (compacted,) = await session.run(kv.Compact(20_000))
            assert isinstance(compacted, kv.Compacted)
            await eventually(lambda: not state_of(leader).scavenging, "everything superseded removed")
            assert state_of(leader).store.count("history") == 10
