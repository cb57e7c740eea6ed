"""Real time held against an order that is known key by key.

Where commands are ordered by key, every operation that was carried out stands at a known place in the order of each
key that it touched: it *made* a revision of the key, or *saw* one. Its answer was held against an execution in such an
order already. What remains is whether one order of everything agrees with all keys' orders and with real time, and
there is one if and only if the two relations together have no cycle. That settles linearizability, transactions over
several keys included, without a search.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import msgspec

from replica.simulation.violation import Violation


class Placed(msgspec.Struct):
    """An operation that was carried out. Times in seconds; None when its client never heard of it."""

    name: str
    invoked: float
    completed: float | None
    made: dict[bytes, int]
    saw: dict[bytes, int]


def check_serial(operations: Sequence[Placed]) -> None:
    """Is there an order that agrees with every key's and with real time? Raises `Violation`."""
    count = len(operations)
    makers: dict[tuple[bytes, int], int] = {}
    for index, placed in enumerate(operations):
        for key, revision in placed.made.items():
            if (key, revision) in makers:
                raise Violation("exactly once", f"revision {revision} of key {key!r} was made twice")
            makers[key, revision] = index
    after: dict[int, list[int]] = defaultdict(list)
    before = [0] * count

    def precedes(one: int | None, other: int | None) -> None:
        if one is not None and other is not None and one != other:
            after[one].append(other)
            before[other] += 1

    for index, placed in enumerate(operations):
        for key, revision in placed.made.items():
            precedes(makers.get((key, revision - 1)), index)
        for key, revision in placed.saw.items():
            precedes(makers.get((key, revision)), index)
            precedes(index, makers.get((key, revision + 1)))
    # Time is a chain of moments at which operations ended; each was preceded by what ended then or earlier.
    moments = [(placed.completed, 0, index) for index, placed in enumerate(operations) if placed.completed is not None]
    beginnings = [(placed.invoked, 1, index) for index, placed in enumerate(operations)]
    latest: int | None = None
    # At one instant an end sorts before a beginning: the stricter reading.
    for _, begins, index in sorted([*moments, *beginnings]):
        if begins:
            precedes(latest, index)
        else:
            moment = len(before)
            before.append(0)
            precedes(latest, moment)
            precedes(index, moment)
            latest = moment
    free = deque(node for node, number in enumerate(before) if number == 0)
    left = len(before)
    while free:
        node = free.popleft()
        left -= 1
        for follower in after[node]:
            before[follower] -= 1
            if before[follower] == 0:
                free.append(follower)
    if left:
        raise Violation("linearizability", _explain(operations, after, before))


def _explain(operations: Sequence[Placed], after: dict[int, list[int]], before: list[int]) -> str:
    """A cycle among what could not be ordered, in words."""
    # Only nodes on or behind a cycle are left: walking backwards from any of them must come round.
    preceding = {follower: node for node in range(len(before)) if before[node] for follower in after[node]}
    node = next(node for node in range(len(before)) if before[node])
    walked: list[int] = []
    while node not in walked:
        walked.append(node)
        node = preceding[node]
    cycle = reversed(walked[walked.index(node) :])
    names = [operations[each].name for each in cycle if each < len(operations)]
    return (
        "no order agrees with the keys' and with real time: each of these has to come before the next, and the last "
        f"before the first: {'; '.join(names)}"
    )
