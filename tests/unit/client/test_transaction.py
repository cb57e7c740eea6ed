"""Optimistic transactions: what they see, what they commit, and when they conflict."""

# ruff: noqa: PT012 - a transaction is a block, and its errors come from the end of it

import asyncio

import pytest

from replica.client import Conflict, InvalidArgument, NotANumber
from replica.kv.operations import KEY_BYTES_MAX


async def test_what_was_read_and_written_commits_together(store):
    await store.put("a", "1")
    async with store.txn() as t:
        item = await t.get("a")
        t.put("b", item.value + b"!")
        t.delete("a")
    assert await store.get("a") is None
    assert (await store.get("b")).mod_revision == t.revision == 2


async def test_a_read_key_that_was_changed_meanwhile_conflicts_and_nothing_is_written(store):
    await store.put("a", "1")
    with pytest.raises(Conflict):
        async with store.txn() as t:
            await t.get("a")
            await store.put("a", "2")
            t.put("b", "x")
    assert await store.get("b") is None


@pytest.mark.parametrize("change", ["put", "delete"])
async def test_a_key_read_as_absent_or_present_is_compared(store, change):
    if change == "delete":
        await store.put("a", "1")
    with pytest.raises(Conflict):
        async with store.txn() as t:
            await t.get("a")
            await (store.put("a", "2") if change == "put" else store.delete("a"))
            t.put("b", "x")


@pytest.mark.parametrize("change", ["insert", "change", "delete"])
async def test_a_range_has_no_phantoms(store, change):
    await store.put("job/1", "x")
    with pytest.raises(Conflict):
        async with store.txn() as t:
            await t.range("job/")
            if change == "delete":
                await store.delete("job/1")
            else:
                await store.put("job/1" if change == "change" else "job/2", "y")
            t.put("sum", "1")


async def test_changes_elsewhere_do_not_conflict(store):
    await store.put("job/1", "x")
    async with store.txn() as t:
        await t.range("job/")
        await t.get("own")
        await store.put("jobs", "y")
        await store.put("own2", "y")
        t.put("sum", "1")
    assert t.result.succeeded


async def test_behind_the_limit_of_a_range_changes_do_not_matter(store):
    for n in range(5):
        await store.put(f"job/{n}", "x")
    async with store.txn() as t:
        assert [item.key for item in await t.range("job/", limit=2)] == [b"job/0", b"job/1"]
        await store.put("job/3", "y")
        t.put("sum", "1")
    with pytest.raises(Conflict):
        async with store.txn() as t:
            await t.range("job/", limit=2, reverse=True)
            await store.put("job/35", "y")
            t.put("sum", "2")


async def test_all_reads_show_one_revision(store):
    await store.put("a", "1")
    await store.put("b", "1")
    async with store.txn() as t:
        a = await t.get("a")
        await store.put("b", "2")
        b = await t.get("b")
        items = await t.range("")
    assert (a.value, b.value) == (b"1", b"1")
    assert [item.value for item in items] == [b"1", b"1"]


async def test_on_an_empty_store_all_reads_show_nothing(store):
    async with store.txn() as t:
        assert await t.get("a") is None
        await store.put("b", "1")
        assert await t.get("b") is None
        assert await t.range("") == []
    with pytest.raises(Conflict):
        async with store.txn() as t:
            assert await t.get("c") is None
            await store.put("c", "1")
            t.put("d", "1")


async def test_a_transaction_sees_its_own_writes(store):
    await store.put("a/1", "1")
    await store.put("a/2", "2")
    async with store.txn() as t:
        t.put("a/0", "0")
        t.put("a/2", "changed")
        t.delete("a/1")
        t.add("count", 2)
        assert [(item.key, item.value) for item in await t.range("a/")] == [(b"a/0", b"0"), (b"a/2", b"changed")]
        assert [item.key for item in await t.range("a/", limit=1, reverse=True)] == [b"a/2"]
        assert await t.get("a/1") is None
        assert (await t.get("a/2")).value == b"changed"
        assert (await t.get("count")).value == b"2"
        t.delete_range("a/")
        assert await t.range("a/") == []
        assert await t.get("a/0") is None
        t.put("a/9", "9")
    assert [item.key async for item in store.range("")] == [b"a/9", b"count"]


async def test_several_writes_of_one_key_come_to_the_last(store):
    await store.put("n", "5")
    async with store.txn() as t:
        t.put("a", "1")
        t.put("a", "2")
        t.add("n", 1)
        t.add("n", 1)
        t.delete("b")
        t.put("b", "1")
        t.add("b", 4)
    assert [(item.key, item.value) async for item in store.range("")] == [(b"a", b"2"), (b"b", b"5"), (b"n", b"7")]
    assert (await store.get("a")).version == 1


async def test_adding_behind_a_deletion_counts_from_zero(store):
    await store.put("n", "5")
    await store.put("m/n", "5")
    async with store.txn() as t:
        t.delete("n")
        t.add("n", 1)
        t.delete_range("m/")
        t.add("m/n", 2)
        assert (await t.get("n")).value == b"1"
        assert (await t.get("m/n")).value == b"2"
    assert ((await store.get("n")).value, (await store.get("m/n")).value) == (b"1", b"2")


async def test_adding_to_text_of_its_own_is_refused(store):
    with pytest.raises(NotANumber):
        async with store.txn() as t:
            t.put("a", "text")
            t.add("a", 1)


async def test_blind_additions_conflict_with_nobody(store):
    async def add() -> None:
        async with store.txn() as t:
            t.add("n", 1)

    await asyncio.gather(*(add() for _ in range(20)))
    assert (await store.get("n")).value == b"20"


async def test_a_block_that_raises_writes_nothing(store):
    with pytest.raises(ZeroDivisionError):
        async with store.txn() as t:
            t.put("a", "1")
            raise ZeroDivisionError
    assert await store.get("a") is None


async def test_an_abandoned_transaction_writes_nothing_and_takes_no_more(store):
    async with store.txn() as t:
        t.put("a", "1")
        t.abandon()
    assert await store.get("a") is None
    with pytest.raises(InvalidArgument):
        t.put("a", "2")


async def test_committing_early_is_possible(store):
    async with store.txn() as t:
        t.put("a", "1")
        result = await t.commit()
        assert (await store.get("a")).mod_revision == result.revision
    with pytest.raises(InvalidArgument):
        await t.commit()


async def test_a_transaction_that_only_reads_sends_no_write(store, cluster):
    await store.put("a", "1")
    applied = cluster.machine.applied
    async with store.txn() as t:
        await t.get("a")
    assert t.result is None
    assert cluster.machine.applied == applied


async def test_the_longest_keys_are_compared(store):
    longest = b"\xff" * KEY_BYTES_MAX
    with pytest.raises(Conflict):
        async with store.txn() as t:
            await t.range(longest, limit=1)
            await store.put(longest, "x")
            t.put("a", "1")


async def test_a_transaction_whose_revision_is_compacted_conflicts(store):
    await store.put("a", "1")
    with pytest.raises(Conflict, match="compacted"):
        async with store.txn() as t:
            await t.get("a")
            last = await store.put("a", "2")
            await store.put("a", "3")
            await store.compact(last.revision + 1)
            await t.get("b")


async def test_retry_runs_until_nobody_interfered(store):
    await store.put("n", "0")
    attempts = 0

    async def increment(t):
        nonlocal attempts
        attempts += 1
        item = await t.get("n")
        t.put("n", str(int(item.value) + 1))
        return attempts

    await asyncio.gather(*(store.retry(increment, attempts=1000) for _ in range(10)))
    assert (await store.get("n")).value == b"10"
    assert attempts >= 10


async def test_retry_gives_up_in_the_end(store):
    await store.put("n", "0")

    async def lose(t):
        await t.get("n")
        await store.add("n", 1)
        t.put("x", "1")

    with pytest.raises(Conflict):
        await store.retry(lose, attempts=3)
    assert (await store.get("n")).value == b"3"
