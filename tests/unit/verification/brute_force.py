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


# --------------------------------------------------------------------------------------------------- revisioned store

Store: TypeAlias = tuple[int, tuple[tuple[str, tuple[str, int, int, int]], ...]]
"""A revision, and per key (value, create, mod, version); sorted."""

EMPTY_STORE: Store = (0, ())


def store_meanings(highest: int) -> Callable[[Store, Operation], list[Store]]:
    """The states that may follow, for a store whose revisions go up to ``highest``; 0 for one without revisions.

    Revisions that no operation of the history made may lie between two that were made.
    """

    def meaning(state: Store, operation: Operation) -> list[Store]:
        heard = operation.outcome == "ok"
        if not highest:
            answer, after = carry_out(state, operation, 0, 0)
            return [after] if not heard or answer == operation.result else []
        found: list[Store] = []
        choices = [operation.result["revision"]] if heard else list(range(1, highest + 1))
        for revision in choices:
            for base, own in ((revision - 1, revision), (revision, revision + 1)):
                if base < state[0]:
                    continue
                answer, after = carry_out(state, operation, base, own)
                took = own if after[1] != state[1] else base
                if took == revision and (not heard or answer == operation.result):
                    found.append((took, after[1]))
        return found

    return meaning


def carry_out(state: Store, operation: Operation, base: int, own: int) -> tuple[dict[str, Any], Store]:
    """What the operation answers on the state, and the state after it."""
    items = dict(state[1])
    arguments = operation.arguments
    recorded = bool(own)

    def show(key: str) -> dict[str, Any] | None:
        if key not in items:
            return None
        value, create, mod, version = items[key]
        return {"value": value, "version": version} | ({"create": create, "mod": mod} if recorded else {})

    def put(key: str, value: str) -> None:
        _, create, _, version = items.get(key, ("", own, own, 0))
        items[key] = (value, create, own, version + 1)

    name = operation.operation
    answer: dict[str, Any] = {}
    if name == "get":
        answer = {"item": show(operation.key or "")}
    elif name == "put":
        mod = items[operation.key or ""][2] if operation.key in items else 0
        if arguments.get("if_revision", mod) != mod:
            answer = {"failed": "condition"}
        else:
            put(operation.key or "", arguments["value"])
    elif name == "delete":
        answer = {"count": int(operation.key in items)}
        items.pop(operation.key or "", None)
    elif name == "add":
        value = int(items[operation.key or ""][0]) if operation.key in items else 0
        put(operation.key or "", str(value + arguments["delta"]))
        answer = {"value": value + arguments["delta"]}
    elif name == "transaction":
        (condition,) = arguments["conditions"]
        succeeded = int(condition["key"] in items) == condition["operand"]
        results: list[dict[str, Any]] = []
        for each in arguments["then"] if succeeded else arguments["otherwise"]:
            if each["operation"] == "put":
                put(each["key"], each["value"])
                results.append({})
            else:
                results.append({"item": show(each["key"])})
        answer = {"succeeded": succeeded, "results": results}
    elif name == "range":
        shown = [{"key": key} | (show(key) or {}) for key in sorted(items)]
        answer = {"items": shown, "count": len(shown), "more": False}
    after = tuple(sorted(items.items()))
    changed = name not in {"range", "get"} and after != state[1]
    revision = own if changed else base
    if recorded:
        answer = {"revision": revision} | answer
    return answer, (revision, after)


def is_store_linearizable(operations: Sequence[Operation], highest: int) -> bool:
    """As `is_linearizable`, for operations that may lead to several states."""
    meaning = store_meanings(highest)
    relevant = [each for each in operations if each.outcome != "fail"]
    seen = set()

    def extend(left: tuple[int, ...], state: Store) -> bool:
        if all(relevant[each].outcome == "unknown" for each in left):
            return True
        if (left, state) in seen:
            return False
        seen.add((left, state))
        for index in left:
            chosen = relevant[index]
            begins = (chosen.invoked, chosen.invoked_line)
            if any(moment_of_end(relevant[other]) < begins for other in left if other != index):
                continue
            rest = tuple(other for other in left if other != index)
            if any(extend(rest, after) for after in meaning(state, chosen)):
                return True
        return False

    return extend(tuple(range(len(relevant))), EMPTY_STORE)
