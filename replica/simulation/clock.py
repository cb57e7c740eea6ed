"""A replica's own clock: monotonic, but neither right nor steady.

A protocol is told ``now`` by its replica's clock, never by the world's. The clock has an arbitrary origin (a monotonic
clock starts anew with the machine), runs fast or slow by a rate, and jumps ahead; it never goes back.
"""

from __future__ import annotations


class Clock:
    """Maps the world's time to a replica's. Piecewise linear, strictly increasing."""

    __slots__ = ("_base", "_origin", "rate")

    def __init__(self, now: float, *, origin: float = 0.0, rate: float = 1.0) -> None:
        """At the world's ``now`` this clock shows ``origin``; a second of the world is ``rate`` seconds here."""
        if rate <= 0:
            raise ValueError(f"a clock's rate is positive, not {rate}")
        self._base = now
        self._origin = origin
        self.rate = rate

    def read(self, now: float) -> float:
        """What the clock shows at the world's ``now``."""
        return self._origin + (now - self._base) * self.rate

    def world_time(self, shown: float) -> float:
        """When, in the world's time, the clock will show ``shown`` if nothing disturbs it."""
        return self._base + (shown - self._origin) / self.rate

    def set_rate(self, now: float, rate: float) -> None:
        """From ``now`` on run at ``rate``."""
        if rate <= 0:
            raise ValueError(f"a clock's rate is positive, not {rate}")
        self._origin = self.read(now)
        self._base = now
        self.rate = rate

    def jump(self, now: float, ahead: float) -> None:
        """Skip ``ahead`` seconds."""
        if ahead < 0:
            raise ValueError("a monotonic clock does not go back")
        self._origin = self.read(now) + ahead
        self._base = now
