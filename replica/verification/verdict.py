"""What a check comes to: the verdict, what it rests on, and what was found."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

STATES_MAX: Final = 1_000_000
"""How many states a search explores unless it is told otherwise; each costs some microseconds and 200 bytes or so."""


class Verdict(StrEnum):
    """The three answers."""

    OK = "ok"
    """A linearization of everything that was judged was found."""
    VIOLATION = "violation"
    """There is none."""
    UNKNOWN = "unknown"
    """Neither was shown: the budget ran out."""


class Method(StrEnum):
    """How a verdict was reached."""

    WITNESS = "witness"
    """The revisions that operations reported give the order, which was held against real time and replayed."""
    SEARCH = "search"


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What a search may spend. A limit of states gives the same verdict everywhere; one of time does not."""

    states: int = STATES_MAX
    seconds: float | None = None


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """Where and why there is no linearization. Operations are named by their ids in the history."""

    where: str
    """The key or keys concerned."""
    reason: str
    stuck: int
    """The operation that cannot be explained."""
    prefix: tuple[int, ...]
    """The longest linearization that was found, in order; everything in it can be explained together."""
    related: tuple[int, ...] = ()
    """Operations that the reason speaks of, beside the stuck one."""
    concerned: tuple[int, ...] = ()
    """All operations on the keys concerned, in the order of invocation."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a history."""

    verdict: Verdict
    model: str
    method: Method
    operations: int
    """How many operations were judged; those that failed, and those in ``unchecked``, are not among them."""
    uncertain: int
    """How many of them have an unknown outcome."""
    parts: int
    """Into how many independent parts (keys, connected sets of keys) the history falls."""
    states: int
    """How many states were explored; 0 where the witness sufficed."""
    unchecked: dict[str, int]
    """Operations that were left out, by the reason."""
    explanation: str
    """One sentence for a reader."""
    violation: Violation | None = None
