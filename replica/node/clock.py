"""The clock of a node: seconds that never go back and go on while the machine sleeps.

Leases are judged by this clock, so it must count suspension: Linux has a clock for that, elsewhere the
monotonic clock stands in (macOS counts suspension there as well).
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["monotonic_clock"]


def monotonic_clock() -> Callable[[], float]:
    """The function that tells the time."""
    boottime: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if boottime is None:
        return time.monotonic
    clock_gettime = time.clock_gettime
    clock = boottime

    def now() -> float:
        return clock_gettime(clock)

    return now
