"""The asynchronous face on doubles of replicas: what operations do, and what faults do to them."""

import asyncio
import gc
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from replica.client import (
    AsyncStore,
    Closed,
    Compacted,
    Compare,
    ConditionFailed,
    Get,
    InvalidArgument,
    MaybeCommitted,
    NotANumber,
    Put,
    SessionLost,
    SynodError,
    TooLarge,
    Unavailable,
    WrongCluster,
    connect_async,
)
from replica.client.engine import Engine
from replica.client.options import make_options
from replica.kv.operations import KEY_BYTES_MAX, VALUE_BYTES_MAX
from replica.wire.typed import Closing, Code, ServerFrame, StatusReply

from .conftest import connected

# --------------------------------------------------------------------------------------------------------- operations


async def test_a_value_that_was_put_is_got(store):
    written = await store.put("key", "value")
    item = await store.get(b"key")
    assert (item.value, item.mod_revision, item.version) == (b"value", written.revision, 1)


async def test_a_key_that_is_not_there_is_none(store):
    assert await store.get("nothing") is None


async def test_an_older_value_is_got_at_its_revision(store):
    first = await store.put("key", "old")
    await store.put("key", "new")
    assert (await store.get("key", revision=first.revision)).value == b"old"


async def test_a_compacted_revision_says_so(store):
    first = await store.put("key", "old")
    second = await store.put("key", "new")
    await store.compact(second.revision)
    with pytest.raises(Compacted) as caught:
        await store.get("key", revision=first.revision)
    assert caught.value.revision >= second.revision


async def test_put_if_absent_succeeds_once(store):
    await store.put("key", "1", if_revision=0)
    with pytest.raises(ConditionFailed) as caught:
        await store.put("key", "2", if_revision=0)
    assert caught.value.revision == 1
    assert (await store.get("key")).value == b"1"


async def test_previous_values_come_back_when_asked_for(store):
    await store.put("key", "1")
    assert (await store.put("key", "2", previous=True)).previous.value == b"1"
    assert [item.value for item in (await store.delete("key", previous=True)).previous] == [b"2"]


async def test_delete_counts(store):
    await store.put("key", "1")
    assert (await store.delete("key")).count == 1
    assert (await store.delete("key")).count == 0


async def test_a_range_is_deleted_at_once(store):
    await asyncio.gather(*(store.put(f"a/{n}", "x") for n in range(5)), store.put("b", "y"))
    assert (await store.delete_range("a/")).count == 5
    assert [item.key async for item in store.range("")] == [b"b"]


async def test_deleting_everything_must_be_said(store):
    with pytest.raises(InvalidArgument):
        store.delete_range()


async def test_additions_do_not_conflict(store):
    sums = await asyncio.gather(*(store.add("counter", 1) for _ in range(20)))
    assert sorted(added.value for added in sums) == list(range(1, 21))


async def test_adding_to_text_is_refused(store):
    await store.put("key", "text")
    with pytest.raises(NotANumber):
        await store.add("key", 1)


async def test_a_raw_transaction_says_which_branch_ran(store):
    await store.put("key", "1")
    condition = Compare(b"key", "value", "=", b"1")
    done = await store.transaction([condition], [Put(b"key", b"2")], [Get(b"key")])
    assert done.succeeded
    done = await store.transaction([condition], [Put(b"key", b"3")], [Get(b"key")])
    assert not done.succeeded
    assert done.results[0].item.value == b"2"


@pytest.mark.parametrize("key", ["", b"x" * (KEY_BYTES_MAX + 1)])
async def test_bad_keys_are_refused_before_anything_is_sent(store, key):
    with pytest.raises(InvalidArgument):
        store.put(key, "v")
    with pytest.raises(InvalidArgument):
        store.delete(key)
    with pytest.raises(InvalidArgument):
        store.add(key, 1)
    with pytest.raises(InvalidArgument):
        await store.get(key)
    assert store.port.attempts == []


async def test_large_values_are_refused_before_anything_is_sent(store):
    with pytest.raises(TooLarge):
        store.put("key", bytes(VALUE_BYTES_MAX + 1))


async def test_values_of_the_largest_size_pass_many_at_once(store):
    values = [bytes([n]) * VALUE_BYTES_MAX for n in range(8)]
    await asyncio.gather(*(store.put(f"k{n}", value) for n, value in enumerate(values)))
    items = await asyncio.gather(*(store.get(f"k{n}") for n in range(8)))
    assert [item.value for item in items] == values


async def test_neither_key_nor_value_may_be_a_number(store):
    with pytest.raises(InvalidArgument):
        store.put("key", 7)


# --------------------------------------------------------------------------------------------------------------- ranges


@pytest.fixture
async def thousands(store):
    await asyncio.gather(*(store.put(f"k/{n:05d}", str(n)) for n in range(2500)))
    return store


async def test_a_long_range_is_fetched_page_by_page(thousands, cluster):
    before = len(cluster.replicas[0].frames)
    items = await thousands.range("k/").all()
    assert [item.key for item in items] == [b"k/%05d" % n for n in range(2500)]
    assert len(cluster.replicas[0].frames) - before == 3


async def test_a_long_range_backwards(thousands):
    keys = [item.key async for item in thousands.range("k/", reverse=True)]
    assert keys == [b"k/%05d" % n for n in reversed(range(2500))]


@pytest.mark.parametrize("limit", [1, 999, 1000, 1001, 2000, 2500, 9999])
async def test_a_limit_holds_over_pages(thousands, limit):
    items = await thousands.range("k/", limit=limit).all()
    assert len(items) == min(limit, 2500)


async def test_all_pages_show_one_revision(thousands):
    found = thousands.range("k/")
    first = await found.page()
    assert found.revision == 2500
    await thousands.put("k/99999", "too late")
    await thousands.delete("k/02000")
    rest = await found.all()
    assert len(first) + len(rest) == 2500
    assert rest[-1].key == b"k/02499"


async def test_ranges_have_two_ends_or_a_prefix(store):
    await asyncio.gather(*(store.put(key, "v") for key in "abcde"))
    assert [item.key async for item in store.range(first="b", last="d")] == [b"b", b"c"]
    assert [item.key async for item in store.range(first="d")] == [b"d", b"e"]
    with pytest.raises(InvalidArgument):
        store.range("a", first="b")


async def test_the_greatest_keys_end_a_range(store):
    greatest = b"\xff" * KEY_BYTES_MAX
    await store.put(greatest, "last")
    await store.put(b"\xff" * (KEY_BYTES_MAX - 1), "before")
    pages = store.range(b"\xff", limit=2)
    assert [item.key async for item in pages] == [b"\xff" * (KEY_BYTES_MAX - 1), greatest]


async def test_count_and_keys_only(thousands):
    assert await thousands.count("k/0001") == 10
    assert [item.value async for item in thousands.range("k/0001", keys_only=True)] == [b""] * 10


# ------------------------------------------------------------------------------------------------------ finding leaders


async def test_the_leader_is_found_from_a_follower_by_its_hint(store, cluster):
    cluster.leader = 3
    await store.put("key", "value")
    assert store.port.attempts == ["replica-1", "replica-3"]


async def test_without_hints_the_endpoints_are_tried_in_turn(store, cluster):
    cluster.leader = 3
    for replica in cluster.replicas:
        replica.hints = False
    await store.put("key", "value")
    assert store.port.attempts == ["replica-1", "replica-2", "replica-3"]


async def test_a_leader_that_moves_is_followed_with_everything_done_once(store, cluster):
    async def move() -> None:
        for leader in (2, 3, 1, 2):
            await asyncio.sleep(0)
            cluster.leader = leader
            await store.put("moved", str(leader))

    await asyncio.gather(move(), *(store.add("counter", 1) for _ in range(200)))
    assert (await store.get("counter")).value == b"200"


async def test_unreachable_replicas_are_passed_over(store, cluster):
    cluster.replicas[0].reachable = False
    cluster.leader = 2
    await store.put("key", "value")
    assert store.port.attempts == ["replica-1", "replica-2"]


async def test_nothing_reachable_is_definitely_not_done(cluster):
    for replica in cluster.replicas:
        replica.reachable = False
    async with connected(cluster, timeout_s=0.2) as store:
        with pytest.raises(Unavailable, match="replica-2: connection refused"):
            await store.put("key", "value")


async def test_another_cluster_fails_at_once(cluster):
    def refuse(stream, hello):
        stream.put(ServerFrame(closing=Closing(code=Code.WRONG_CLUSTER, message="this is cluster x")))
        stream.end()

    for replica in cluster.replicas:
        replica.on_hello = refuse
    async with connected(cluster, timeout_s=60) as store:
        with pytest.raises(WrongCluster, match="this is cluster x"):
            await store.put("key", "value")


async def test_stale_reads_go_to_any_replica_without_a_session(cluster):
    async with connected(cluster) as store:
        await store.put("key", "value")
        cluster.replicas[0].reachable = False
        cluster.replicas[0].break_streams()
        cluster.leader = 0
        assert (await store.get("key", consistency="stale")).value == b"value"
    hellos = [hello for replica in cluster.replicas[1:] for hello in replica.hellos]
    assert all(not hello.session and not hello.nonce for hello in hellos)


# --------------------------------------------------------------------------------------------------------- exactly once


def swallow(stream, frame):
    """Execute and lose the answer with the stream."""
    stream.replica.answers = False
    stream.serve(frame)
    stream.replica.answers = True
    stream.end()
    return True


def serve(stream, frame):
    """All is well."""
    stream.serve(frame)
    return True


def lose(stream, _frame):
    """Lose the frame with the stream."""
    stream.end()
    return True


def forget_session(stream, frame):
    """The session was evicted before the frame was applied."""
    stream.replica.cluster.close_session(stream.session)
    stream.serve(frame)
    return True


@pytest.mark.parametrize("fault", [swallow, lose])
async def test_a_write_takes_effect_once_whatever_is_lost(store, cluster, fault):
    await store.add("counter", 1)
    for _ in range(5):
        cluster.replicas[0].scripts.append(fault)
        await store.add("counter", 1)
    assert (await store.get("counter")).value == b"6"
    assert len(cluster.replicas[0].hellos) == 6
    assert len({hello.session for hello in cluster.replicas[0].hellos[1:]}) == 1


async def test_hundreds_of_writes_take_effect_once_while_streams_break(store, cluster):
    cluster.replicas[0].scripts.extend([swallow, lose, serve] * 4)
    await asyncio.gather(*(add_some(store, 20) for _ in range(20)))
    assert (await store.get("counter")).value == b"400"


async def add_some(store: Any, count: int) -> None:
    for _ in range(count):
        await store.add("counter", 1)


async def test_without_exactly_once_a_lost_answer_is_indefinite(cluster):
    cluster.exactly_once = False
    async with connected(cluster) as store:
        await store.add("counter", 1)
        cluster.replicas[0].scripts.append(swallow)
        with pytest.raises(MaybeCommitted):
            await store.add("counter", 1)
        await store.add("counter", 1)
        assert (await store.get("counter")).value == b"3"


async def test_an_idle_client_does_not_notice_that_its_session_was_evicted(store, cluster):
    await store.add("counter", 1)
    cluster.replicas[0].scripts.append(forget_session)
    await asyncio.gather(*(store.add("counter", 1) for _ in range(10)))
    assert (await store.get("counter")).value == b"11"
    assert len({hello.nonce for hello in cluster.replicas[0].hellos if hello.nonce}) == 2


async def test_what_may_have_happened_before_the_session_was_lost_is_indefinite(store, cluster):
    await store.add("counter", 1)
    cluster.replicas[0].scripts.extend([swallow, forget_session])
    with pytest.raises(SessionLost):
        await store.add("counter", 1)
    await store.add("counter", 1)
    assert (await store.get("counter")).value == b"3"


async def test_a_cluster_that_answers_operation_by_operation_is_understood(cluster):
    cluster.batch_max = 1
    async with connected(cluster) as store:
        written = await asyncio.gather(*(store.put(f"k{n}", "v") for n in range(100)))
        assert [result.revision for result in written] == list(range(1, 101))


# ------------------------------------------------------------------------------------------------------------ deadlines


async def test_a_deadline_while_the_replica_is_silent_is_indefinite(store, cluster):
    await store.put("key", "1")
    cluster.replicas[0].scripts.append(lambda _stream, _frame: True)
    with pytest.raises(MaybeCommitted):
        await store.put("key", "2", timeout_s=0.1)


async def test_a_silent_replica_is_left_for_another(cluster):
    async with connected(cluster, stall_s=0.2) as store:
        await store.put("key", "1")

        def fall_silent(_stream, _frame):
            cluster.leader = 2
            return True

        cluster.replicas[0].scripts.append(fall_silent)
        await store.put("key", "2")
    assert "replica-2" in store.port.attempts


async def test_a_cancelled_operation_that_was_not_sent_never_happens(store, cluster):
    cluster.leader = 0
    for replica in cluster.replicas:
        replica.reachable = False
    future = store.put("key", "value")
    await asyncio.sleep(0)
    future.cancel()
    for replica in cluster.replicas:
        replica.reachable = True
    cluster.leader = 1
    await store.put("other", "value")
    assert await store.get("key") is None


async def test_a_result_for_a_cancelled_operation_harms_nobody(store, cluster):
    await store.put("key", "1")
    futures = [store.put("key", str(n)) for n in range(5)]
    await asyncio.sleep(0)
    futures[2].cancel()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [False, False, True, False, False]


# -------------------------------------------------------------------------------------------------------- back-pressure


async def test_more_operations_than_the_window_wait_their_turn(cluster, monkeypatch):
    cluster.limits.session_window = 8
    seen = []
    original = Engine.next_frame

    def watch(engine, now):
        frame = original(engine, now)
        seen.append(engine.outstanding)
        return frame

    monkeypatch.setattr(Engine, "next_frame", watch)
    async with connected(cluster) as store:
        await asyncio.gather(*(store.put(f"k{n}", "v") for n in range(100)))
    assert max(seen) == 8


# ----------------------------------------------------------------------------------------------------- life and death


async def test_close_waits_for_what_is_on_its_way_and_says_goodbye(cluster):
    async with connected(cluster) as store:
        await store.put("key", "1")
        futures = [store.put(f"k{n}", "v") for n in range(10)]
    assert [future.result().revision for future in futures] == list(range(2, 12))
    assert cluster.machine.sessions.use(cluster.replicas[0].hellos[0].session or 1) is None


async def test_close_fails_what_cannot_be_answered(cluster):
    async with connected(cluster, drain_s=0.05) as store:
        await store.put("key", "1")
        cluster.replicas[0].scripts.append(lambda _stream, _frame: True)
        sent = store.put("key", "2")
        await asyncio.sleep(0.02)
    with pytest.raises(MaybeCommitted):
        await sent


async def test_a_closed_store_refuses(store):
    await store.put("key", "1")
    await store.close()
    with pytest.raises(Closed):
        store.put("key", "2")
    with pytest.raises(Closed):
        await store.get("key")


async def test_closing_twice_and_closing_an_unused_store_do_nothing(cluster):
    async with connected(cluster) as store:
        await store.close()
        await store.close()
    assert store.port.attempts == []


def test_a_store_can_be_used_in_one_loop_after_another(cluster):
    from tests.support.doubles import DoublePort

    store = AsyncStore("double:", make_options({}), opener=lambda _url, _options: DoublePort(cluster))

    async def use() -> None:
        await store.add("counter", 1)

    asyncio.run(use())
    asyncio.run(use())
    asyncio.run(store.close())
    assert len({hello.nonce for hello in cluster.replicas[0].hellos}) == 2
    gc.collect()


def test_nothing_is_contacted_and_no_loop_is_needed_to_connect():
    store = connect_async("127.0.0.1:1", timeout_s=3)
    assert repr(store) == "<AsyncStore '127.0.0.1:1'>"


def test_a_store_is_pickled_without_its_session():
    store = pickle.loads(pickle.dumps(connect_async("127.0.0.1:1,127.0.0.1:2", timeout_s=3, zone="a")))
    assert (store.url, store.options.timeout_s, store.options.zone) == ("127.0.0.1:1,127.0.0.1:2", 3.0, "a")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("", {}),
        ("host:port", {}),
        ("127.0.0.1:99999", {}),
        ("nosuchscheme:x", {}),
        ("127.0.0.1:1", {"timeout": 3}),
        ("127.0.0.1:1", {"timeout_s": 0}),
        ("127.0.0.1:1", {"consistency": "eventual"}),
    ],
)
def test_urls_and_options_that_make_no_sense_are_refused_where_they_are_given(url, options):
    with pytest.raises(InvalidArgument):
        connect_async(url, **options)


async def test_status_tells_of_every_replica_and_names_the_silent(store, cluster):
    for replica in cluster.replicas:
        replica.status = StatusReply(replica=replica.number, role="follower", leader=1, ready=True)
    cluster.replicas[1].reachable = False
    found = await store.status()
    assert [(status.replica, status.reachable) for status in found] == [(1, True), (3, True), (0, False)]
    assert "connection refused" in found[2].problem


def test_every_error_says_whether_it_may_have_taken_effect_and_what_to_do():
    def kinds(kind: type[SynodError]) -> Iterator[type[SynodError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from kinds(below)

    for kind in kinds(SynodError):
        error = kind("something happened")
        assert "something happened" in str(error)
        assert ("may have taken effect" in str(error)) == error.may_have_taken_effect
        assert pickle.loads(pickle.dumps(error)).reason == "something happened"
        assert error.advice or kind.__subclasses__(), kind


# ------------------------------------------------------------------------------------------------------ the nearest


async def test_where_any_replica_will_do_the_nearest_is_measured_and_used(cluster, monkeypatch):
    monkeypatch.setattr("replica.client.connection.MEASURE_TIMEOUT_S", 0.05)
    cluster.routing = "nearest"
    async with connected(cluster) as store:
        answer, never = store.port.status, asyncio.Event()

        async def status(endpoint: str) -> StatusReply:
            if endpoint != "replica-3":
                await never.wait()
            reply: StatusReply = await answer(endpoint)
            return reply

        store.port.status = status
        for number in range(1000):
            await store.put("key", b"%d" % number)
            if cluster.replicas[2].frames:
                break
            await asyncio.sleep(0.01)
        assert store.port.attempts[-1] == "replica-3"
        assert cluster.replicas[2].frames


async def test_a_client_of_a_leader_does_not_measure(cluster):
    async with connected(cluster) as store:
        asked: list[str] = []
        store.port.status = asked.append
        await store.put("key", "value")
        assert not asked
        assert store.port.attempts == ["replica-1"]
