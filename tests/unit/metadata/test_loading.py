"""Loading many things."""

import asyncio
import math
from typing import Any

import pytest

from replica.client import MaybeCommitted, Unavailable, connect_async
from replica.kv.operations import Transaction
from replica.metadata import AlreadyExists, AsyncMetadata, InvalidValue, NotFound, SyncLoad, UnknownProperty, WrongState
from replica.metadata.check import check
from replica.metadata.loading import IN_FLIGHT
from replica.metadata.unit import PARTS_MAX
from tests.unit.metadata.flaky import Flaky


def put(load: SyncLoad, *parts: list[str], error: Exception | None = None) -> None:
    """Artifacts of these names; between one part and the next everything is acknowledged."""
    for at, names in enumerate(parts):
        if at:
            load.flush()
        for name in names:
            load.put_artifact("Data", name=name)
    if error is not None:
        raise error


def test_what_is_loaded_is_as_if_it_had_been_put_one_by_one(lab):
    """And the checker, at the end of every test, finds all names, index entries and both ends of every edge."""
    with lab.load() as load:
        project = load.put_context("Project", "p", parents=[load.put_context("Project", "above")])
        before: list[int] = []
        for layer in range(4):
            made = []
            for number in range(30):
                run = load.put_execution("Train", name=f"{layer}/{number}", contexts=[project])
                for each in before[number : number + 3]:
                    load.put_input(run, each, role="train")
                data = load.put_artifact(
                    "Data",
                    name=f"{layer}/{number}",
                    external_id=f"x{layer}/{number}",
                    uri=f"s3://{layer}/{number}",
                    properties={"rows": number, "source": "s" * number},
                    contexts=[project],
                )
                load.put_output(run, data)
                made.append(data)
            before = made
    assert load.acknowledged == 2 + 4 * 90 + 3 * (28 * 3 + 2 + 1)
    assert len(lab.find("Data", "properties.rows = 7 AND context = 'p'")) == 4
    assert lab.by_external_id("x3/29").uri == "s3://3/29"
    found = lab.lineage(lab.by_name("Data", "3/5"), direction="up", hops=10)
    assert [node.name for node in found.nodes.values()][:2] == ["3/5", "3/5"]
    assert max(found.depth.values()) == 7
    assert {edge.role for edge in found.edges} == {"", "train"}


async def test_it_takes_few_transactions_and_little_memory(monkeypatch):
    async with connect_async("memory:") as store:
        md = AsyncMetadata(store)
        await md.define_type("Data", properties={"rows": int}, index=["rows"])
        sent, flying, most = [], 0, 0
        execute = store.execute

        async def counted(operation, **options):
            nonlocal flying, most
            if isinstance(operation, Transaction):
                sent.append(len(operation.conditions) + len(operation.then) + len(operation.otherwise))
            flying += 1
            most = max(most, flying)
            try:
                return await execute(operation, **options)
            finally:
                flying -= 1

        monkeypatch.setattr(store, "execute", counted)
        async with md.load() as load:
            for number in range(2000):
                await load.put_artifact("Data", name=f"{number}", properties={"rows": number})
                assert number - load.acknowledged <= (IN_FLIGHT + 2) * PARTS_MAX / 4
        # An object, its name, that the name is free, and its entry in the index: nothing is wasted.
        assert len(sent) == math.ceil(2000 / ((PARTS_MAX - 5) // 4)) == 33
        assert max(sent) <= PARTS_MAX
        assert most <= IN_FLIGHT
        report = await check(store)
        assert (report.count, report.entries, report.names) == (0, 2000, 2000)


async def test_an_edge_waits_for_what_it_joins(monkeypatch):
    async with connect_async("memory:") as store:
        md = AsyncMetadata(store)
        await md.define_type("Data")
        await md.define_type("Train", kind="execution")
        run = await md.put_execution("Train")
        execute, order = store.execute, []

        async def slow(operation, **options):
            """The first is overtaken by whatever is sent meanwhile."""
            order.extend([operation] if isinstance(operation, Transaction) else [])
            for _ in range(2000 if order == [operation] else 0):
                await asyncio.sleep(0)
            return await execute(operation, **options)

        monkeypatch.setattr(store, "execute", slow)
        async with md.load() as load:
            made = [await load.put_artifact("Data") for _ in range(PARTS_MAX)]
            for each in made:
                await load.put_input(run, each)
        assert len(await md.edges(run)) == PARTS_MAX
        assert not (await check(store)).count


def test_a_refusal_ends_the_load_and_what_was_acknowledged_stays(lab):
    lab.put_artifact("Data", name="taken")
    load = lab.load()
    with pytest.raises(AlreadyExists), load:
        put(load, ["first"], ["taken", "with it"], [])
    assert load.acknowledged == 1
    assert [each.name for each in lab.find("Data")] == ["taken", "first"]
    with pytest.raises(AlreadyExists):
        load.put_artifact("Data", name="later")


def test_two_of_one_name_are_refused_in_one_load(lab):
    with pytest.raises(AlreadyExists), lab.load() as load:
        put(load, ["same", "same"])
    assert not lab.find("Data").items


def test_bad_input_is_refused_where_it_is_said_and_the_load_goes_on(lab):
    with lab.load() as load:
        data = load.put_artifact("Data")
        with pytest.raises(UnknownProperty):
            load.put_artifact("Data", properties={"columns": 1})
        with pytest.raises(InvalidValue, match="not execution"):
            load.put_output(data, data)
        with pytest.raises(InvalidValue):
            load.put_execution("Train", state="RUNNING")
        load.put_artifact("Data")
    assert len(lab.find("Data")) == 2


def test_an_edge_needs_what_it_joins(lab):
    run = lab.put_execution("Train")
    gone = lab.put_artifact("Data")
    lab.purge(lab.archive(gone))
    with pytest.raises(WrongState, match="purged"), lab.load() as load:
        load.put_input(run, gone)
    with pytest.raises(NotFound), lab.load() as load:
        load.put_input(run, gone.id + 1000)
    assert not lab.edges(run)


def test_an_error_within_the_block_sends_no_more(lab):
    with pytest.raises(ZeroDivisionError), lab.load() as load:
        put(load, ["first"], ["second"], error=ZeroDivisionError())
    assert [each.name for each in lab.find("Data")] == ["first"]


async def test_an_index_that_is_added_meanwhile_is_whole(monkeypatch):
    async with connect_async("memory:") as store:
        md, other = AsyncMetadata(store), AsyncMetadata(store)
        await md.define_type("Data", properties={"rows": int})

        async def grow() -> None:
            await asyncio.sleep(0)
            await other.define_type("Data", index=["rows"])

        async with asyncio.TaskGroup() as group:
            growing = group.create_task(grow())
            async with md.load() as load:
                number = 0
                while not growing.done() or number < 500:
                    await load.put_artifact("Data", properties={"rows": number})
                    number += 1
        report = await check(store)
        assert (report.count, report.entries) == (0, number)


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "after it took effect"])
async def test_a_crash_at_any_step_of_a_load_leaves_nothing_half_done(before, monkeypatch):
    monkeypatch.setattr("replica.metadata.core.PAUSE_MAX_S", 0.0)
    step, ends = 0, set()
    async with connect_async("memory:") as store:
        while True:
            step += 1
            prefix = f"p{step}/"
            md = AsyncMetadata(store, prefix=prefix)
            await md.define_type("Data", properties={"rows": int}, index=["rows"])
            await md.define_type("Train", kind="execution")
            flaky: Any = Flaky(store, step, before=before)
            told: list[int] = []
            load = AsyncMetadata(flaky, prefix=prefix).load()
            try:
                async with load:
                    for number in range(150):
                        made = await load.put_artifact("Data", name=f"{number}", properties={"rows": number})
                        run = await load.put_execution("Train", name=f"{number}")
                        await load.put_output(run, made)
                        told += [made, run]
            except (Unavailable, MaybeCommitted):
                pass
            else:
                break
            report = await check(store, prefix=prefix)
            assert not report.count, (step, report.faults)
            assert report.objects + report.edges >= load.acknowledged
            assert report.edges <= report.objects / 2
            ends.add(report.objects)
    assert len(ends) > 3
    assert len(told) == load.acknowledged * 2 / 3 == 300
