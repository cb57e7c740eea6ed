"""Keeps a system under load: the closed and the open loop of one generator.

*Closed*: so many operations are outstanding at any time; the next is issued when one has been answered. Throughput is
what the system makes of it. A system that stalls is asked nothing meanwhile, so the latencies of a closed loop say
little about what independent clients would have seen.

*Open*: operations are meant to be sent at times that do not depend on the answers (constant gaps, or exponential ones
for Poisson arrivals, as pure as the operations themselves). Each latency counts from the intended time, so neither a
stall of the system nor a late generator can hide. Beyond ``in_flight_max`` outstanding operations the loop waits, and
the intended times go on.

Both draw the operations of their client in order from a `Stream`, and both go on, uncounted, before and after the
measured part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

import numpy as np

from bench.load.clients import Client
from bench.load.measure import Notes, Window
from bench.load.record import Recorder
from bench.operations import Planned, Stream
from replica.transport.timers import FineTimers

PAUSE_AFTER_FAILURE_S: Final = 0.02
"""A worker of a closed loop waits so long after a failure, so that a system that refuses is not flooded."""

TICK_S: Final = 0.000_25
"""An open loop wakes up at most so often; what is due then is sent together."""

LOADING: Final = 256
"""Writes in flight while keys are loaded."""

LOAD_ATTEMPTS: Final = 5

_ARRIVALS: Final = 1024
"""Gaps drawn at once."""


class Driver:
    """One generator at work."""

    def __init__(self, client: Client, stream: Stream, notes: Notes, recorder: Recorder, window: Window) -> None:
        self._client = client
        self._stream = stream
        self._notes = notes
        self._recorder = recorder
        self._window = window

    # ----------------------------------------------------------------------------------------------------- closed loop

    async def closed(self, in_flight: int) -> None:
        """Keep ``in_flight`` operations outstanding until the window's end, and wait for the last of them."""
        operations = iter(self._stream)
        delay = self._window.start - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        await asyncio.gather(*(self._worker(operations) for _ in range(in_flight)))

    async def _worker(self, operations: Iterator[Planned]) -> None:
        clock, end = time.monotonic, self._window.end
        issue, note, recorder = self._client.issue, self._notes.note, self._recorder
        now = clock()
        while now < end:
            planned = next(operations)
            recorded = planned.recorded and recorder.admit(now)
            started = now
            try:
                answer = await issue(planned.operation)
                now = clock()
                if recorded:
                    recorder.add(planned.operation, started, now, outcome="ok", answer=answer, intended=None)
                if planned.after is not None:
                    await self._follow(planned.after, now, recorded=planned.recorded, intended=None)
                    now = clock()
            except Exception as error:  # noqa: BLE001 - whatever a client raises is an outcome, and is counted
                now = clock()
                self._failed(planned.operation, started, now, error, recorded=recorded, intended=None)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
                now = clock()
            else:
                note(planned.kind, started, now)

    async def _follow(self, operation: Any, invoked: float, *, recorded: bool, intended: float | None) -> None:
        """The write of an update. Raises `_Noted` when it fails."""
        recorded = recorded and self._recorder.admit(invoked)
        try:
            answer = await self._client.issue(operation)
        except Exception as error:
            self._failed(operation, invoked, time.monotonic(), error, recorded=recorded, intended=intended)
            raise _Noted from error
        if recorded:
            ended = time.monotonic()
            self._recorder.add(operation, invoked, ended, outcome="ok", answer=answer, intended=intended)

    def _failed(
        self,
        operation: Any,
        started: float,
        ended: float,
        error: Exception,
        *,
        recorded: bool,
        intended: float | None,
    ) -> None:
        if isinstance(error, _Noted):
            return
        outcome = self._client.outcome(error)
        self._notes.failure(ended, error, unknown=outcome == "unknown")
        if recorded:
            self._recorder.add(operation, started, ended, outcome=outcome, answer=error, intended=intended)

    # ------------------------------------------------------------------------------------------------------- open loop

    async def open(self, rate: float, arrivals: str, *, seed: int, in_flight_max: int) -> None:
        """Send operations at their times until the window's end, and wait for the last of them."""
        operations = iter(self._stream)
        outstanding: set[asyncio.Task[None]] = set()
        slots = asyncio.Semaphore(in_flight_max)
        clock, end = time.monotonic, self._window.end
        timers = FineTimers(asyncio.get_running_loop())
        try:
            for intended in arrival_times(rate, arrivals, seed=seed, start=self._window.start):
                if intended >= end:
                    break
                early = intended - clock()
                if early > 0:
                    await timers.sleep(max(TICK_S, early))
                self._notes.offer(intended)
                await slots.acquire()
                task = asyncio.ensure_future(self._one(next(operations), intended, slots.release))
                outstanding.add(task)
                task.add_done_callback(outstanding.discard)
            if outstanding:
                await asyncio.wait(outstanding)
        finally:
            timers.close()

    async def _one(self, planned: Planned, intended: float, release: Callable[[], None]) -> None:
        started = time.monotonic()
        recorded = planned.recorded and self._recorder.admit(started)
        try:
            answer = await self._client.issue(planned.operation)
            now = time.monotonic()
            if recorded:
                self._recorder.add(planned.operation, started, now, outcome="ok", answer=answer, intended=intended)
            if planned.after is not None:
                await self._follow(planned.after, now, recorded=planned.recorded, intended=intended)
                now = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever a client raises is an outcome, and is counted
            self._failed(planned.operation, started, time.monotonic(), error, recorded=recorded, intended=intended)
        else:
            self._notes.note_open(planned.kind, intended, started, now)
        finally:
            release()

    # --------------------------------------------------------------------------------------------------------- loading

    async def load(self, regions: Collection[int] | None = None) -> None:
        """Write every key once, or those that belong to the ``regions`` given.

        Raises the client's error when a key cannot be written after `LOAD_ATTEMPTS`.
        """
        keys = self._stream.loads(regions)

        async def worker() -> None:
            for put, sampled in keys:
                for attempt in range(LOAD_ATTEMPTS):
                    started = time.monotonic()
                    recorded = sampled and self._recorder.admit(started)
                    try:
                        answer = await self._client.issue(put)
                    except Exception as error:
                        if recorded:
                            outcome = self._client.outcome(error)
                            self._recorder.add(
                                put, started, time.monotonic(), outcome=outcome, answer=error, intended=None
                            )
                        if attempt == LOAD_ATTEMPTS - 1:
                            raise
                        await asyncio.sleep(PAUSE_AFTER_FAILURE_S * 2**attempt)
                        continue
                    if recorded:
                        self._recorder.add(put, started, time.monotonic(), outcome="ok", answer=answer, intended=None)
                    break

        await asyncio.gather(*(worker() for _ in range(LOADING)))


class _Noted(Exception):
    """A failure that has been noted already."""


def arrival_times(rate: float, arrivals: str, *, seed: int, start: float) -> Iterator[float]:
    """When the operations of an open loop are meant to be sent: the same for the same seed, from ``start`` on."""
    block, last = 0, start
    while True:
        if arrivals == "constant":
            gaps = np.full(_ARRIVALS, 1 / rate)
        else:
            draw = np.random.Generator(np.random.Philox(key=seed & ((1 << 64) - 1), counter=block << 192))
            gaps = draw.exponential(1 / rate, _ARRIVALS)
        times = last + np.cumsum(gaps)
        yield from times.tolist()
        last = float(times[-1])
        block += 1
