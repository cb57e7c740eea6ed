"""Three replicas in one process, and what a client that speaks the frames by hand gets from them."""

import asyncio
import contextlib
import threading
from functools import partial

import grpc
import msgspec
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from replica.kv import operations as kv
from replica.kv import runs
from replica.kv.machine import digest_of
from replica.node.fingerprint import DigestCancelled
from replica.node.replica import Replica
from replica.node.stages import STAGES
from replica.wire import typed as wire
from tests.support.nodes import RawSession, Refused, admin, attach, eventually, nodes, state_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory):
    async with nodes(tmp_path_factory.mktemp("cluster")) as cluster:
        await cluster.start()
        yield cluster


@pytest.mark.parametrize("sync_mode", ["inline", "thread"])
async def test_what_is_put_can_be_read_on_every_replica(tmp_path, sync_mode):
    async with nodes(tmp_path, sync_mode=sync_mode) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        assert leader.writer.mode == sync_mode
        async with await attach(leader) as session:
            revisions = [await session.put(b"key%d" % number, b"value") for number in range(5)]
            assert revisions == sorted(set(revisions))
            assert await session.get(b"key3") == b"value"
            assert await session.get(b"absent") is None
        await cluster.agree()
        for follower in await cluster.followers():
            async with await attach(follower, nonce=b"") as reader:
                assert await reader.get(b"key3", wire.Consistency.STALE) == b"value"


async def test_a_run_is_answered_in_order_and_a_read_sees_it_at_once(cluster):
    async with await cluster.session() as session:
        results = await session.run(
            kv.Put(b"a", b"1"),
            kv.Put(b"a", b"2", previous=True),
            kv.Add(b"n", 5),
            kv.Put(b"a", b"3", if_revision=99),
            kv.Delete(b"a"),
        )
        kinds = [type(result) for result in results]
        assert kinds == [kv.Written, kv.Written, kv.Added, kv.Failed, kv.Deleted]
        assert results[1].previous.value == b"1"
        assert results[3].code == kv.Failure.CONDITION
        assert await session.get(b"a") is None
        assert await session.get(b"n") == b"5"


async def test_a_sequence_that_comes_twice_takes_effect_once(cluster):
    leader = await cluster.leader()
    async with await attach(leader) as session:
        (first,) = await session.run(kv.Add(b"counter", 1))
        (again,) = await session.run(kv.Add(b"counter", 1), first=1)
        assert (first, again) == (first, first)
        name = session.session
    async with await attach(leader, session=name) as session:
        assert session.session == name
        (after,) = await session.run(kv.Add(b"counter", 1), first=1)
        assert after == first
        assert await session.get(b"counter") == b"1"


def _knows_a_leader(node: Replica) -> bool:
    return node.leader() != (0, "")


async def test_a_follower_names_the_leader_and_says_that_nothing_was_proposed(cluster):
    leader = await cluster.leader()
    address = f"127.0.0.1:{leader.client_port}"
    async with await attach(leader) as session:
        name = session.session
    for follower in await cluster.followers():
        await follower.loop.until(partial(_knows_a_leader, follower))
        with pytest.raises(Refused) as refused:
            await attach(follower)
        assert (refused.value.code, refused.value.definite) == (wire.Code.NOT_LEADER, True)
        assert refused.value.leader_address == address
        async with await attach(follower, session=name) as session:
            assert session.welcome.leader_address == address
            with pytest.raises(Refused) as refused:
                await session.put(b"key", b"value")
            assert (refused.value.code, refused.value.definite) == (wire.Code.NOT_LEADER, True)
            with pytest.raises(Refused) as refused:
                await session.get(b"key")
            assert refused.value.code == wire.Code.NOT_LEADER
            assert await session.get(b"key", wire.Consistency.STALE) is None


async def test_a_read_through_the_log_is_answered_like_any_other(cluster):
    async with await cluster.session() as session:
        await session.put(b"key", b"value")
        assert await session.get(b"key", wire.Consistency.LOG) == b"value"
        assert await session.get(b"key", wire.Consistency.READ_INDEX) == b"value"
        with pytest.raises(Refused) as refused:
            await session.get(b"key", wire.Consistency.QUORUM)
        assert (refused.value.code, refused.value.definite) == (wire.Code.UNSUPPORTED, True)
        with pytest.raises(Refused) as refused:
            await session.read(kv.Put(b"key", b"sneaked in"), consistency=wire.Consistency.LOG)
        assert refused.value.code == wire.Code.INVALID
        assert await session.get(b"key") == b"value"


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([kv.Put(b"k" * (kv.KEY_BYTES_MAX + 1), b"v")], wire.Code.TOO_LARGE),
        ([kv.Put(b"k", b"v" * (kv.VALUE_BYTES_MAX + 1))], wire.Code.TOO_LARGE),
        ([kv.Put(b"k%d" % number, b"v" * 1000) for number in range(kv.RUN_OPERATIONS_MAX + 1)], wire.Code.TOO_LARGE),
        ([kv.Put(b"k%d" % number, bytes(kv.VALUE_BYTES_MAX)) for number in range(3)], wire.Code.TOO_LARGE),
        ([kv.Put(b"", b"v")], wire.Code.INVALID),
        ([kv.OpenSession(b"nonce")], wire.Code.INVALID),
    ],
    ids=["key", "value", "operations in a run", "bytes in a run", "empty key", "operation that is not for clients"],
)
async def test_what_is_too_large_or_malformed_is_refused_before_it_is_proposed(cluster, operations, code):
    leader = await cluster.leader()
    async with await attach(leader) as session:
        applied = state_of(leader).applied
        with pytest.raises(Refused) as refused:
            await session.run(*operations)
        assert (refused.value.code, refused.value.definite) == (code, True)
        assert "\n" not in str(refused.value)
        assert state_of(leader).applied == applied
        assert await session.put(b"key", b"the session goes on")


async def test_bytes_that_are_no_operations_are_refused_and_the_stream_goes_on(cluster):
    async with await cluster.session() as session:
        for junk in (b"", b"\xc1", b"\x91\x91\x01", b"\x92" * 40, b"\xdd\xff\xff\xff\xff"):
            with pytest.raises(Refused) as refused:
                await session.run_encoded(junk, 1)
            assert (refused.value.code, refused.value.definite) == (wire.Code.INVALID, True)
        assert await session.put(b"key", b"value")


async def test_a_frame_beyond_the_limit_ends_the_stream_and_nothing_else(cluster):
    leader = await cluster.leader()
    async with await attach(leader) as session:
        name = session.session
        run = wire.Run(first_sequence=1, count=1, operations=bytes(leader.config.limits.frame_bytes_max + (2 << 20)))
        await session.send(wire.ClientFrame(runs=[run]))
        with pytest.raises(grpc.RpcError, match="larger than max"):
            await session.ended()
    async with await attach(leader, session=name) as session:
        assert await session.put(b"key", b"value")


async def test_a_client_of_another_version_is_told_so(cluster):
    leader = await cluster.leader()
    with pytest.raises(Refused) as refused:
        await attach(leader, wire_version=99)
    assert refused.value.code == wire.Code.WIRE_VERSION
    assert "version 99" in str(refused.value)
    assert refused.value.definite


async def test_a_client_of_another_cluster_is_told_so(cluster):
    with pytest.raises(Refused) as refused:
        await cluster.session(cluster="elsewhere")
    assert refused.value.code == wire.Code.WRONG_CLUSTER
    async with await cluster.session(cluster="test") as session:
        assert session.welcome.cluster == "test"


async def test_a_stream_that_does_not_greet_is_turned_away(cluster):
    leader = await cluster.leader()
    async with RawSession(f"127.0.0.1:{leader.client_port}") as session:
        await session.send(wire.ClientFrame(runs=[wire.Run(first_sequence=1, count=1)]))
        frame = await session.receive()
        assert frame.rejections[0].code == wire.Code.INVALID
        assert await session.ended() is None


async def test_an_unknown_session_is_answered_so_and_never_created(cluster):
    leader = await cluster.leader()
    async with await attach(leader, session=4711) as session:
        (result,) = await session.run(kv.Put(b"of nobody", b"value"))
        assert result.code == kv.Failure.SESSION_UNKNOWN
        assert await session.get(b"of nobody") is None


async def test_a_session_that_was_asked_for_on_a_stream_before_is_not_opened_twice(cluster):
    leader = await cluster.leader()
    before = len(leader.machine.sessions)
    nonce = b"the same client"
    async with await attach(leader, nonce=nonce) as first, await attach(leader, nonce=nonce) as second:
        assert first.session == second.session
        assert await second.put(b"key", b"value")
    assert len(leader.machine.sessions) == before + 1


async def test_a_client_that_comes_again_while_its_session_is_being_opened_gets_that_one(cluster, monkeypatch):
    leader = await cluster.leader()
    before = len(leader.machine.sessions)
    held = []
    propose = leader.propose_detached

    def hold(*arguments, **options):
        held.append(lambda: propose(*arguments, **options))

    monkeypatch.setattr(leader, "propose_detached", hold)
    nonce = b"an impatient client"
    asking = asyncio.create_task(attach(leader, nonce=nonce))
    await eventually(lambda: held, "the opening")
    again = asyncio.create_task(attach(leader, nonce=nonce))
    await asyncio.gather(asking, return_exceptions=True)
    held[0]()
    async with await again as session:
        assert await session.put(b"key", b"value")
    assert len(held) == 1
    assert len(leader.machine.sessions) == before + 1
    if not asking.cancelled() and asking.exception() is None:
        await asking.result().close()


@pytest.mark.parametrize("session", [1 << 63, (1 << 64) - 1])
async def test_an_id_that_no_session_can_have_is_refused(cluster, session):
    leader = await cluster.leader()
    async with await attach(leader, session=session) as made_up:
        assert made_up.session == 0, "it was not welcomed"
    async with await attach(leader) as good:
        assert await good.put(b"key", b"value")


async def test_a_second_stream_takes_the_session_over(cluster):
    leader = await cluster.leader()
    async with await attach(leader) as first, await attach(leader, session=first.session) as second:
        closing = await first.ended()
        assert closing is not None
        assert "another stream" in closing.message
        assert await second.put(b"key", b"value")


async def test_goodbye_closes_the_session(cluster):
    leader = await cluster.leader()
    async with await attach(leader) as session:
        name = session.session
        assert name in state_of(leader).sessions
        await session.send(wire.ClientFrame(goodbye=True))
        await session.ended()
    await eventually(lambda: name not in state_of(leader).sessions, "the session closed")


async def test_one_operation_a_command_can_be_asked_for(tmp_path):
    async with nodes(tmp_path, batch_max=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            results = await session.run(*(kv.Add(b"counter", 1) for _ in range(20)))
            assert [result.value for result in results] == list(range(1, 21))
        await cluster.agree()


async def test_a_full_queue_refuses_before_proposing(tmp_path):
    async with nodes(tmp_path, limits__queued_operations_max=10) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            with pytest.raises(Refused) as refused:
                await session.run(*(kv.Put(b"k%d" % number, b"v") for number in range(11)))
            assert (refused.value.code, refused.value.definite) == (wire.Code.OVERLOADED, True)
            assert state_of(leader).revision == 0
            assert len(await session.run(*(kv.Put(b"k%d" % number, b"v") for number in range(10)))) == 10


async def test_a_client_that_does_not_take_its_answers_is_closed(tmp_path):
    async with nodes(tmp_path, count=1, limits__session_outgoing_bytes_max=4 << 20) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with await attach(leader) as session:
            await session.put(b"big", bytes(1 << 20))
            encoded = runs.encode_operations([kv.Get(b"big"), kv.Get(b"big")])
            closing = None
            # Sending on a stream that has ended is an error, and hides what the stream said last.
            with contextlib.suppress(grpc.RpcError):
                for number in range(100):
                    if leader.metrics.sessions_closed_slow:
                        break
                    read = wire.Read(id=number + 1, count=2, operations=encoded)
                    await session.send(wire.ClientFrame(reads=[read]))
                closing = await session.ended()
            assert leader.metrics.sessions_closed_slow == 1
            assert closing is None or closing.code == wire.Code.OVERLOADED


async def test_a_full_disk_refuses_before_proposing_and_goes_on_when_there_is_room(cluster):
    leader = await cluster.leader()
    async with admin(leader) as operator, await attach(leader) as session:
        await session.put(b"key", b"before")
        await operator.InjectFaults(wire.InjectFaultsRequest(disk_full=True))
        with pytest.raises(Refused) as refused:
            await session.put(b"key", b"never")
        assert (refused.value.code, refused.value.definite) == (wire.Code.STORAGE_FULL, True)
        assert await session.get(b"key") == b"before"
        await operator.InjectFaults(wire.InjectFaultsRequest(disk_full=False))
        session.sequence = 1
        await session.put(b"key", b"after")
        assert await session.get(b"key") == b"after"


async def test_the_stages_of_commands_and_what_a_replica_uses_are_among_its_metrics(cluster):
    leader = await cluster.leader()
    async with admin(leader) as operator, await attach(leader) as session:
        for number in range(20):
            await session.put(b"key", b"%d" % number)
        text = (await operator.Metrics(wire.MetricsRequest())).exposition
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    for stage in STAGES:
        assert found[f"synod_stage_{stage}_seconds_count"] >= 1, stage
        assert found[f"synod_stage_{stage}_seconds_sum"] >= 0, stage
    assert found["synod_cpu_seconds"] > 0
    assert found["synod_resident_bytes"] > 1 << 20
    assert found["synod_log_bytes_written"] > 0
    assert found["synod_peer_bytes_sent"] > 0
    assert found["synod_peer_bytes_received"] > 0


async def test_links_are_shaped_apart_from_faults_and_their_round_trips_measured(cluster):
    leader = await cluster.leader()
    peers = [replica for replica in cluster.members if replica != leader.config.replica]
    async with admin(leader) as operator:
        shapes = [wire.LinkFault(peer=peer, delay_ms=30) for peer in peers]
        await operator.InjectFaults(wire.InjectFaultsRequest(shapes=shapes, reshape=True))
        await operator.InjectFaults(wire.InjectFaultsRequest(heal=True))  # takes no shape away
        reply = await operator.MeasureLinks(wire.MeasureLinksRequest(samples=2))
        assert sorted(link.peer for link in reply.links) == peers
        assert all(len(link.round_trip_ms) == 2 and min(link.round_trip_ms) >= 29.5 for link in reply.links)
        wrong = wire.LinkFault(peer=peers[0], jitter_shape="square")
        with pytest.raises(grpc.RpcError) as refused:
            await operator.InjectFaults(wire.InjectFaultsRequest(shapes=[wrong], reshape=True))
        assert "jitter_shape" in str(refused.value.details())


async def test_a_digest_is_worked_out_while_the_replica_goes_on(tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow_digest(reader, *, between):
        begun.set()
        go_on.wait(60)
        return digest_of(reader, between=between)

    monkeypatch.setattr("replica.node.fingerprint.digest_of", slow_digest)
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with admin(leader) as operator, await attach(leader) as session:
            await session.put(b"key", b"value")
            before = state_of(leader).digest()
            asked = asyncio.ensure_future(operator.Digest(wire.DigestRequest(at_least=before.applied)))
            try:
                await eventually(begun.is_set, "the digest being worked out")
                await session.put(b"key", b"another")
                assert await session.get(b"key") == b"another"
                assert not asked.done()
            finally:
                go_on.set()
            reply = await asked
            assert (reply.applied, reply.revision, reply.keys, reply.digest) == msgspec.structs.astuple(before)
            reply = await operator.Digest(wire.DigestRequest())
            assert reply.digest == state_of(leader).digest().digest != before.digest


async def test_a_replica_that_stops_gives_up_the_digest_that_it_is_working_out(tmp_path, monkeypatch):
    given_up = threading.Event()

    def endless_digest(_reader, *, between):
        try:
            while True:
                between()
        except DigestCancelled:
            given_up.set()
            raise

    monkeypatch.setattr("replica.node.fingerprint.digest_of", endless_digest)
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        async with admin(leader) as operator:
            asked = asyncio.ensure_future(operator.Digest(wire.DigestRequest()))
            await eventually(lambda: leader.transitions._reading is not None, "the digest being worked out")
            await cluster.stop()
            assert given_up.is_set()
            with pytest.raises(grpc.RpcError):
                await asked
