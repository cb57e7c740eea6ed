"""What is checked about a run as a whole, once it has ended.

`replica.simulation.oracle` objects while a run is under way. What remains is real time: an operation that began after
another had ended must not take effect before it. In a total order every result carries the revision at which its
operation took effect, and the oracle has held every result against the one sequence of decisions; so revisions are a
witness, and comparing them with real time settles linearizability without a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from replica.kv import operations as kv
from replica.simulation.judge import Judge
from replica.simulation.seen import FAIL, OK, PENDING, Seen
from replica.simulation.violation import Violation

Place: TypeAlias = tuple[int, int]
"""A revision, and 0 for the operation that made it, 1 for one that only saw it."""


def changes(result: kv.AnyResult) -> bool:
    """Did the operation with this result change the store?"""
    match result:
        case kv.Written() | kv.Added():
            return True
        case kv.Deleted() | kv.LeaseRevoked():
            return result.count > 0
        case kv.Transacted():
            return any(changes(each) for each in result.results)
        case _:
            return False


def place_of(result: kv.AnyResult) -> Place:
    """Where in the order of revisions the operation with this result stands."""
    return result.revision, 0 if changes(result) else 1


def check_real_time(history: Sequence[Seen]) -> int:
    """The order of revisions must agree with real time; returns how many operations that covers. Raises `Violation`.

    Every operation must stand at or behind the furthest place of all that ended before it began, a change strictly.
    """
    concerned = [
        (seen, place_of(seen.result))
        for seen in history
        if seen.outcome == OK and seen.consistency != "stale" and seen.result is not None
    ]
    moments = [(seen.invoked, 1, index) for index, (seen, _) in enumerate(concerned)]
    # At one instant an end sorts before a beginning: the stricter reading.
    moments += [(seen.completed or 0.0, 0, index) for index, (seen, _) in enumerate(concerned)]
    moments.sort()
    furthest: Place = (0, 0)
    who: Seen | None = None
    for _, begins, index in moments:
        seen, place = concerned[index]
        if begins:
            if place < furthest or (place == furthest and place[1] == 0):
                raise Violation(
                    "linearizability",
                    f"operation #{seen.number} of client {seen.client} ({seen.operation!r}, {seen.consistency}) began "
                    f"at {seen.invoked:.6f} and took effect at revision {place[0]}, but "
                    + (
                        f"#{who.number} of client {who.client} ({who.operation!r}) had ended at "
                        f"{who.completed:.6f} and taken effect at revision {furthest[0]}"
                        if who is not None
                        else "another had taken effect before"
                    ),
                )
        elif place > furthest:
            furthest, who = place, seen
    return len(concerned)


def check_refusals(history: Sequence[Seen], judge: Judge) -> int:
    """What was refused definitely, and never asked for again, must not have been decided. Raises `Violation`."""
    failed = [seen for seen in history if seen.outcome == FAIL]
    for seen in failed:
        if judge.was_decided(seen.session, seen.sequence):
            raise Violation(
                "definite refusals",
                f"operation {seen.session}:{seen.sequence} of client {seen.client} was refused definitely and was "
                "decided all the same",
            )
    return len(failed)


def check_complete(history: Sequence[Seen]) -> None:
    """Nothing is left without an outcome. Raises `Violation`."""
    for seen in history:
        if seen.outcome == PENDING:
            raise Violation(
                "liveness", f"operation #{seen.number} of client {seen.client} has no outcome: {seen.operation!r}"
            )
