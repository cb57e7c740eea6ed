"""Locks and elections: one holder at a time, with tokens that grow; and what becomes of holders that are lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from replica.client import (
    AsyncStore,
    ConditionFailed,
    InvalidArgument,
    LeadershipLost,
    LockLost,
    NotAcquired,
    Put,
    connect,
    connect_async,
)
from replica.kv.operations import Compare


@pytest.fixture
async def store() -> AsyncIterator[AsyncStore]:
    async with connect_async("memory:") as store:
        yield store


async def places(store: AsyncStore, name: str, count: int) -> None:
    """Wait until so many hold or want a lock."""
    async with asyncio.timeout(30):
        while True:
            found = store.range(f"locks/{name}/", keys_only=True)
            if len(await found.all()) == count:
                return
            await store.watch(f"locks/{name}/", revision=(found.revision or 0) + 1).next()


async def test_one_holds_a_lock_at_a_time_in_the_order_of_asking_and_tokens_grow(store):
    holding: list[int] = []
    order: list[int] = []
    tokens: list[int] = []

    async def work(number: int) -> None:
        async with store.lock("shared") as lock:
            holding.append(number)
            assert holding == [number]
            order.append(number)
            tokens.append(lock.token)
            await asyncio.sleep(0)
            holding.remove(number)

    async with asyncio.timeout(60):
        async with store.lock("shared"):
            tasks = []
            for number in range(8):
                tasks.append(asyncio.create_task(work(number)))
                await places(store, "shared", number + 2)
        await asyncio.gather(*tasks)
    assert order == list(range(8))
    assert tokens == sorted(set(tokens))
    assert await store.count("locks/") == 0
    assert await store.leases() == []


async def test_whoever_waits_for_too_long_gives_the_place_up(store):
    async with store.lock("x") as held:
        waiting = store.lock("x")
        with pytest.raises(NotAcquired):
            await waiting.acquire(timeout_s=0.1)
        assert [item.key async for item in store.range("locks/x/")] == [held.key]
        impatient = asyncio.create_task(store.lock("x").acquire())
        await places(store, "x", 2)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        await places(store, "x", 1)
        held.check()


async def test_a_lock_whose_lease_has_expired_is_a_clear_error_and_changes_nothing(store):
    lease = await store.lease(1.5, keep_alive=False)
    lock = store.lock("x", lease=lease)
    token = await lock.acquire()
    assert lock.token == token
    await lock.transaction([Put(b"guarded", b"1")])
    async with asyncio.timeout(30):
        async with store.lock("x") as other:
            assert other.token > token
            for use in (lock.check, lambda: lock.token):
                with pytest.raises(LockLost):
                    use()
            assert not lock.held
            with pytest.raises(LockLost) as lost:
                await lock.transaction([Put(b"guarded", b"late")])
            assert not lost.value.may_have_taken_effect
            await other.transaction([Put(b"guarded", b"2")])
    await lock.release()
    assert (await store.get("guarded")).value == b"2"


async def test_a_lock_whose_key_was_removed_is_lost(store):
    async with store.lock("x") as lock:
        await store.delete(lock.key)
        with pytest.raises(LockLost):
            await lock.transaction([Put(b"guarded", b"late")])
        with pytest.raises(LockLost):
            lock.check()
    assert await store.get("guarded") is None


async def test_other_conditions_of_a_guarded_transaction_are_told_apart_from_a_lost_lock(store):
    async with store.lock("x") as lock:
        with pytest.raises(ConditionFailed):
            await lock.transaction([Put(b"a", b"1")], [Compare(b"a", "exists", "=", 1)])
        lock.check()


async def test_the_fence_guards_any_transaction(store):
    async with store.lock("x") as lock:
        fence = lock.condition
        assert (await store.transaction([fence], [Put(b"a", b"1")])).succeeded
    assert not (await store.transaction([fence], [Put(b"a", b"2")])).succeeded


async def test_a_name_is_a_name_and_a_lock_is_not_entered_twice(store):
    for name in ("", "a/b"):
        with pytest.raises(InvalidArgument):
            store.lock(name)
    async with store.lock("x") as lock:
        with pytest.raises(InvalidArgument):
            await lock.acquire()
    with pytest.raises(LockLost):
        _ = lock.token


async def test_candidates_lead_one_after_the_other_and_everybody_sees_who(store):
    observer = store.election("boss")
    seen = observer.observe()
    assert await anext(seen) is None
    first, second = store.election("boss"), store.election("boss")
    async with asyncio.timeout(60):
        token = await first.campaign("one")
        assert (await anext(seen)).value == b"one"
        campaign = asyncio.create_task(second.campaign("two"))
        await first.proclaim("one, still")
        assert (await anext(seen)).value == b"one, still"
        leader = await observer.leader()
        assert (leader.value, leader.create_revision) == (b"one, still", token)
        await first.resign()
        assert await campaign > token
        while (leader := await anext(seen)) is None or leader.value != b"two":
            pass
        with pytest.raises(LeadershipLost):
            await first.proclaim("late")
        await store.delete(second.key)
        with pytest.raises(LeadershipLost):
            await second.proclaim("late")
        while await anext(seen) is not None:
            pass
    await seen.aclose()


def test_the_synchronous_face_has_all_that():
    with connect("memory:") as store:
        with store.watch("a/", previous=True) as watch:
            store.put("a/1", "x")
            assert watch.next(timeout_s=30).events[0].value == b"x"
            with pytest.raises(TimeoutError):
                watch.next(timeout_s=0.01)
            store.put("a/1", "y")
            for batch in watch:
                assert batch.events[0].previous is not None
                assert batch.events[0].previous.value == b"x"
                break
            assert watch.revision == 3
        with store.lease(30) as lease:
            store.put("leased", "", lease=lease.id)
            assert store.describe_lease(lease.id, names=True).names == (b"leased",)
            assert [each.lease for each in store.leases()] == [lease.id]
            lease.keep_alive()
            lease.check()
        assert store.get("leased") is None
        assert not lease.held
        with store.lock("x") as lock:
            assert lock.held
            token = lock.token
            lock.transaction([Put(b"guarded", b"1")])
            with pytest.raises(NotAcquired):
                store.lock("x").acquire(timeout_s=0.05)
        with store.lock("x") as lock:
            assert lock.token > token
        election = store.election("boss")
        election.campaign("me")
        leader = election.leader()
        assert leader is not None
        assert leader.value == b"me"
        seen = election.observe()
        assert next(seen) == leader
        election.resign()
        assert next(seen) is None


async def test_the_synchronous_face_works_where_a_loop_is_running_as_in_a_notebook():
    with connect("memory:") as store, store.watch() as watch, store.lock("x") as lock:
        assert lock.held
        assert watch.next(timeout_s=30).events[0].key == lock.key
