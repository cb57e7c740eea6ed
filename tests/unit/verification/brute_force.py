"""The definition of linearizability, tried out literally: every order of every choice of operations.

Shares nothing with the checker but the records of a history. Factorial in the number of operations: for small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from replica.verification.history import Operation

Meaning: TypeAlias = Callable[[Any, Operation], Any]
"""The state after the operation took effect with the answer that is on record; `IMPOSSIBLE` if it cannot have."""

IMPOSSIBLE = object()


def moment_of_end(operation: Operation) -> tuple[float, int]:
    """When it ended for good; an operation of unknown outcome never did."""
    if operation.outcome == "ok" and operation.completed is not None:
        return operation.completed, operation.completed_line
    return float("inf"), 0


def is_linearizable(operations: Sequence[Operation], initial: Any, meaning: Meaning) -> bool:
    """Is there an order, respecting time, of all that are ok and some of the unknown, that the meaning allows?"""
    relevant = [each for each in operations if each.outcome != "fail"]

    def extend(left: list[Operation], state: Any) -> bool:
        if all(each.outcome == "unknown" for each in left):
            return True
        for chosen in left:
            begins = (chosen.invoked, chosen.invoked_line)
            if any(moment_of_end(other) < begins for other in left if other is not chosen):
                continue
            after = meaning(state, chosen)
            if after is not IMPOSSIBLE and extend([each for each in left if each is not chosen], after):
                return True
        return False

    return extend(relevant, initial)


def register(state: Any, operation: Operation) -> Any:
    """A register with compare-and-set; the state is its value."""
    arguments, result = operation.arguments, operation.result
    heard = operation.outcome == "ok"
    if operation.operation == "write":
        return arguments["value"]
    if operation.operation == "read":
        return state if not heard or result["value"] == state else IMPOSSIBLE
    succeeded = state == arguments["from"]
    if heard and result["succeeded"] != succeeded:
        return IMPOSSIBLE
    return arguments["to"] if succeeded else state
