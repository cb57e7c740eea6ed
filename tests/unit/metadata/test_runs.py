"""Executions as blocks, and what is left when something fails at any step of one."""

import asyncio
from typing import Any

import pytest

from replica.client import MaybeCommitted, Unavailable, connect_async
from replica.metadata import AlreadyExists, AsyncMetadata, Context, RunLost, UnknownType
from replica.metadata.check import check
from tests.unit.metadata.flaky import Flaky

# A run is a block, and what is awaited is what becomes of it at its end.
# ruff: noqa: PT012


async def state(md: AsyncMetadata, ref: Any) -> str:
    found = await md.get(ref)
    assert not isinstance(found, Context)
    return found.state


def test_outputs_come_to_be_at_the_end_of_the_block(lab):
    data = lab.put_artifact("Data")
    with lab.execution("Train", inputs={"train": data}, context="exp7", properties={"epochs": 3}) as run:
        output = run.output("Model", name="m", properties={"acc": 0.9}, role="weights")
        assert lab.get(run.id).state == "RUNNING"
        assert lab.find("Model").items == ()
        run.log(1, {"loss": 0.5})
        run.set(custom={"host": "a"})
    assert (run.execution.state, run.execution.custom) == ("COMPLETE", {"host": "a"})
    assert lab.get(output.id) == output.artifact
    assert lab.find("Model", "context = 'exp7'").items == (output.artifact,)
    assert [(each.kind, each.role) for each in lab.edges(run.id)] == [
        ("output", "weights"), ("member", ""), ("input", "train"),
    ]  # fmt: skip
    assert len(list(lab.metric(run.id, "loss"))) == 1


def test_an_exception_fails_the_execution_and_publishes_nothing(lab):
    with pytest.raises(ZeroDivisionError), lab.execution("Train") as run:
        run.output("Model", name="m")
        raise ZeroDivisionError("oh")
    failed = lab.get(run.id)
    assert (failed.state, failed.error) == ("FAILED", "ZeroDivisionError: oh")
    assert lab.find("Model").items == ()


def test_an_output_that_cannot_be_fails_them_all(lab):
    lab.put_artifact("Model", name="taken")
    with pytest.raises(AlreadyExists), lab.execution("Train") as run:
        output = run.output("Model", name="free")
        run.output("Model", name="taken")
    assert lab.get(run.id).state == "FAILED"
    assert output.artifact is None
    assert [each.name for each in lab.find("Model")] == ["taken"]


def test_two_outputs_of_one_name_are_refused(lab):
    with pytest.raises(AlreadyExists, match="same call"), lab.execution("Train") as run:
        run.output("Model", name="m")
        run.output("Model", name="m")
    assert lab.find("Model").items == ()


def test_a_run_of_an_unknown_type_does_not_begin(lab):
    with pytest.raises(UnknownType), lab.execution("Cook"):
        pytest.fail("it began")
    assert lab.find(kind="execution").items == ()


def test_a_cancelled_run_is_marked_so(store):
    async def run(inner):
        md = AsyncMetadata(inner, prefix="cancelled/")
        await md.define_type("Train", kind="execution")
        begun = asyncio.Event()
        runs = []

        async def work() -> None:
            async with md.execution("Train") as run:
                runs.append(run)
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await state(md, runs[0].id)

    assert store.call(run) == "CANCELED"


def test_a_run_whose_lease_has_ended_has_failed_and_publishes_nothing(lab):
    with pytest.raises(RunLost), lab.execution("Train") as run:
        run.output("Model", name="m")
        lab.store.revoke_lease(run._run._lease.id)
        # From this revision on it has failed, though nobody has written that down.
        assert lab.get(run.id).state == "FAILED"
        assert [each.id for each in lab.find("Train", "state = 'FAILED'")] == [run.id]
        assert [each.id for each in lab.reap()] == [run.id]
        assert lab.reap() == []
    assert lab.get(run.id).error == "its lease ended while it was running"
    assert lab.find("Model").items == ()


# ------------------------------------------------------------------------------------------------- faults at every step


async def publish(md: AsyncMetadata) -> None:
    async with md.execution("Train", context="exp", inputs=[(await md.by_name("Data", "d")).id]) as run:
        run.output("Model", name="a")
        run.output("Model", name="b")
        await run.log(1, {"loss": 1.0})


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "after it took effect"])
async def test_a_crash_at_any_step_of_a_run_leaves_all_or_nothing(before, monkeypatch):
    monkeypatch.setattr("replica.metadata.core.PAUSE_MAX_S", 0.0)
    step, whole = 0, []
    async with connect_async("memory:") as store:
        while True:
            step += 1
            prefix = f"p{step}/"
            md = AsyncMetadata(store, prefix=prefix)
            await md.define_type("Data")
            await md.define_type("Model")
            await md.define_type("Train", kind="execution")
            await md.put_artifact("Data", name="d")
            flaky: Any = Flaky(store, step, before=before)
            failed = False
            try:
                await publish(AsyncMetadata(flaky, prefix=prefix))
            except (Unavailable, MaybeCommitted):
                failed = True
            # The program is gone: so are, in time, its leases.
            for lease in await store.leases():
                await store.revoke_lease(lease.lease)
            await md.reap()
            report = await check(store, prefix=prefix)
            assert not report.count, (step, report.faults)
            models = (await md.find("Model")).items
            runs = (await md.find("Train")).items
            assert len(models) in {0, 2}, step
            if models:
                assert [await state(md, each) for each in runs] == ["COMPLETE"]
            else:
                assert [await state(md, each) for each in runs] in (["FAILED"], [])
            whole.append(bool(models))
            if not failed and flaky.steps < step:
                break
    assert step > 12
    assert True in whole
    assert False in whole


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "after it took effect"])
async def test_a_publish_that_is_interrupted_once_takes_effect_once(before, monkeypatch):
    """Unlike above the store is well again at once: whatever step fails, the call succeeds or has changed nothing."""
    monkeypatch.setattr("replica.metadata.core.PAUSE_MAX_S", 0.0)
    step = 0
    async with connect_async("memory:") as store:
        while True:
            step += 1
            prefix = f"p{step}/"
            md = AsyncMetadata(store, prefix=prefix)
            flaky: Any = Flaky(store, step, before=before, once=True)
            interrupted = AsyncMetadata(flaky, prefix=prefix)
            draft = await md.draft("dataset", "iris")
            try:
                await interrupted.publish(draft)
            except Unavailable:
                assert await state(md, draft) == "DRAFT"  # a read failed, before anything was sent
                await interrupted.publish(draft)
            assert [each.version for each in await md.versions("iris")] == ["1.0.0"]
            assert len([each async for each in md.audit(draft)]) == 2
            report = await check(store, prefix=prefix)
            assert not report.count, (step, report.faults)
            if flaky.steps < step:
                break
    assert step > 5
