"""Timers finer than the event loop's.

Event loops wait in whole milliseconds (uvloop's timers count in them, asyncio's poll rounds up to one), which is as
much as a round trip within a data centre: a link of 0.26 ms could not be shaped by them. `FineTimers` waits on a timer
of the kernel instead (``timerfd``), whose expiry the loop sees like any readable file: to some ten microseconds, on
every loop. Time is `time.monotonic`, not the loop's, which may stand still for a whole pass. One file descriptor serves
all timers of one owner. Where the kernel has none (anything but Linux) the loop's own timers are used, and
`FineTimers.resolution_s` says so.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)

FINE_S: Final = 0.00005
"""What a kernel timer is late by, with the pass of the loop that sees it."""

COARSE_S: Final = 0.001
"""What an event loop's own timer may be off by."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """One callback to come. `cancel` calls it off."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call back; does nothing once that has happened."""
        self.callback = None


class FineTimers:
    """Timers of one owner on one event loop. `call_later` may be used once the loop runs; `close` when done."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Timer]] = []
        self._made = 0
        self._armed_for = 0.0
        self._closed = False
        self._file = -1
        self._spec = _TimerSpec()
        if sys.platform == "linux":
            self._library = ctypes.CDLL(None, use_errno=True)
            self._file = self._library.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
            if self._file >= 0:
                loop.add_reader(self._file, self._expired)

    @property
    def resolution_s(self) -> float:
        """How late a callback may come on an idle machine, about."""
        return FINE_S if self._file >= 0 else COARSE_S

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back on the loop after ``delay_s`` seconds, never before this returns."""
        timer = Timer(callback)
        if self._file < 0:
            self._loop.call_later(delay_s, self._call, timer)
            return timer
        self._made += 1
        when = time.monotonic() + delay_s
        heappush(self._heap, (when, self._made, timer))
        if not self._armed_for or when < self._armed_for:
            self._arm()
        return timer

    async def sleep(self, delay_s: float) -> None:
        """Wait so long. May be cancelled."""
        future: asyncio.Future[None] = self._loop.create_future()
        timer = self.call_later(delay_s, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """Call nobody back any more. May be called again."""
        self._closed = True
        self._heap.clear()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _call(self, timer: Timer) -> None:
        callback, timer.callback = timer.callback, None
        if callback is not None and not self._closed:
            callback()

    def _arm(self) -> None:
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        self._armed_for = heap[0][0] if heap else 0.0
        if not heap:
            return  # what is armed already expires into nothing
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(max(1, int(self._armed_for * 1e9)), 1_000_000_000)  # 0 would disarm
        if self._library.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _expired(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        now = max(time.monotonic(), self._armed_for)
        heap = self._heap
        while heap and heap[0][0] <= now:
            self._call(heappop(heap)[2])
            if self._closed:
                return
        self._arm()


__all__ = ["COARSE_S", "FINE_S", "FineTimers", "Timer"]
