"""Timers of the kernel, on both event loops."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from replica.transport.timers import COARSE_S, FINE_S, FineTimers

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_callbacks_come_in_the_order_of_their_times_and_never_early(new_loop):
    async def main() -> Any:
        timers = FineTimers(asyncio.get_running_loop())
        done = asyncio.Event()
        came: list[tuple[float, float]] = []
        began = time.monotonic()
        for delay_s in (0.3, 0.0, 0.0004, 0.002):  # whatever holds up this loop, each is due after the one before
            timers.call_later(
                delay_s, partial(lambda declared: came.append((declared, time.monotonic() - began)), delay_s)
            )
        timers.call_later(0.31, done.set)
        assert came == [], "nothing is called back while timers are set"
        await done.wait()
        timers.close()
        return came

    came = run(new_loop, main())
    assert [delay_s for delay_s, _ in came] == [0.0, 0.0004, 0.002, 0.3]
    assert all(at >= delay_s for delay_s, at in came)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_cancelled_timer_is_not_called_back_and_holds_up_no_other(new_loop):
    async def main() -> Any:
        timers = FineTimers(asyncio.get_running_loop())
        came: list[str] = []
        first = timers.call_later(0.001, lambda: came.append("first"))
        timers.call_later(0.002, lambda: came.append("second"))
        first.cancel()
        await timers.sleep(0.004)
        timers.close()
        return came

    assert run(new_loop, main()) == ["second"]


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to count open files in")
def test_closed_timers_call_nobody_back_and_give_their_file_back(new_loop):
    async def main() -> Any:
        before = len(os.listdir("/proc/self/fd"))
        timers = FineTimers(asyncio.get_running_loop())
        came: list[str] = []
        timers.call_later(0.001, lambda: came.append("late"))
        timers.close()
        timers.close()
        await asyncio.sleep(0.005)
        return came, len(os.listdir("/proc/self/fd")) - before

    assert run(new_loop, main()) == ([], 0)


def test_the_resolution_is_that_of_the_kernel_where_it_has_such_timers():
    async def main() -> Any:
        timers = FineTimers(asyncio.get_running_loop())
        resolution_s = timers.resolution_s
        timers.close()
        return resolution_s

    assert asyncio.run(main()) == (FINE_S if sys.platform == "linux" else COARSE_S)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_timer_that_is_set_later_and_due_earlier_does_not_wait(new_loop):
    async def main() -> Any:
        timers = FineTimers(asyncio.get_running_loop())
        timers.call_later(3600.0, lambda: None)
        async with asyncio.timeout(60):
            await timers.sleep(0.001)
        timers.close()
        return True

    assert run(new_loop, main())
