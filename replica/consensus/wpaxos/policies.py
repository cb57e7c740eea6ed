"""When an object should move: what its owner makes of where the accesses come from. Pure, and knows no messages.

A policy is told the zone of every access, the owner's own among them, and says which other zone should own the object,
if one should. `Consecutive` is the study's choice (three in a row): two zones that take turns move nothing, so they do
not duel. `Majority` judges a window of accesses at a time. `MovingAverage` weighs each access a little less than the
next, and wants a clear lead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

LEAD: Final = 0.6
"""The share of the weighed accesses that a zone must have under `MovingAverage`; above one half, so that two zones of
the same weight do not pass an object to and fro."""


class Policy(Protocol):
    """What an owner keeps for one object while it owns it."""

    def accessed(self, zone: str) -> str | None:
        """An access from ``zone``: the zone that should own the object now, or None to leave it where it is."""


class Consecutive:
    """``count`` accesses in a row from one other zone. With 1, the object goes to whoever asked last."""

    def __init__(self, own: str, count: int) -> None:
        self._own = own
        self._count = count
        self._zone = own
        self._row = 0

    def accessed(self, zone: str) -> str | None:
        """See the base."""
        self._row = self._row + 1 if zone == self._zone else 1
        self._zone = zone
        return zone if zone != self._own and self._row >= self._count else None


class Majority:
    """More than half of a window of accesses."""

    def __init__(self, own: str, window: int) -> None:
        self._own = own
        self._window = window
        self._seen: dict[str, int] = {}
        self._accesses = 0

    def accessed(self, zone: str) -> str | None:
        """See the base."""
        self._seen[zone] = self._seen.get(zone, 0) + 1
        self._accesses += 1
        if self._accesses < self._window:
            return None
        most = max(self._seen, key=lambda each: self._seen[each])
        count = self._seen[most]
        self._seen = {}
        self._accesses = 0
        return most if most != self._own and 2 * count > self._window else None


class MovingAverage:
    """An exponential average over about ``window`` accesses, in which one zone has a clear lead."""

    def __init__(self, own: str, window: int) -> None:
        self._own = own
        self._weight = 2 / (window + 1)
        self._shares: dict[str, float] = {own: 1.0}

    def accessed(self, zone: str) -> str | None:
        """See the base."""
        shares = {each: share * (1 - self._weight) for each, share in self._shares.items()}
        shares[zone] = shares.get(zone, 0.0) + self._weight
        self._shares = shares
        return zone if zone != self._own and shares[zone] > LEAD else None


POLICIES: Final[dict[str, Callable[[str, int, int], Policy]]] = {
    "immediate": lambda own, after, window: Consecutive(own, 1),
    "consecutive": lambda own, after, window: Consecutive(own, after),
    "majority": lambda own, after, window: Majority(own, window),
    "average": lambda own, after, window: MovingAverage(own, window),
}
"""By name: made of the own zone, ``steal_after`` and ``steal_window``."""
