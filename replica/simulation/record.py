"""Writes down what the clients of a run saw, in the history format of `replica.verification`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from replica.kv import operations as kv
from replica.kv.transcript import describe_operation, describe_result
from replica.simulation.checks import changes
from replica.simulation.model import Model
from replica.simulation.seen import FAIL, OK, PENDING, UNKNOWN, Seen
from replica.verification.history import Recorder, text

Described: TypeAlias = "tuple[str, str | None, dict[str, Any]]"


def record(recorder: Recorder, history: Iterable[Seen], model: Model, faults: Iterable[tuple[float, str]] = ()) -> None:
    """Hand a run's operations to ``recorder``, in the order of time, and close it.

    ``model`` has executed everything that was decided: it tells what became of operations whose outcome their clients
    never learned.
    """
    for identifier, seen in _tell(recorder, list(history), describe_operation, describe_result):
        if seen.outcome in {UNKNOWN, PENDING} and seen.session:
            executed = model.executed.get((seen.session, seen.sequence))
            # Whoever was executed and changed nothing has left no trace: that is as good as never.
            took_effect = executed is not None and changes(executed[0])
            recorder.resolved(identifier, executed[0].revision if executed and took_effect else None)
    _end(recorder, faults)


def record_plainly(
    recorder: Recorder, history: Iterable[Seen], executed: Callable[[Seen], bool], faults: Iterable[tuple[float, str]]
) -> None:
    """The same for stores without revisions, which are left out. ``executed``: was it carried out in the end?"""
    for identifier, seen in _tell(recorder, list(history), describe_operation, _without_revisions):
        if seen.outcome in {UNKNOWN, PENDING} and seen.session and not executed(seen):
            recorder.resolved(identifier, None)
    _end(recorder, faults)


def record_registers(recorder: Recorder, history: Iterable[Seen], faults: Iterable[tuple[float, str]]) -> None:
    """The same for registers: reads and writes of a value, null for a key that is not there."""
    for _ in _tell(recorder, list(history), _register_operation, _register_result):
        pass
    _end(recorder, faults)


def _end(recorder: Recorder, faults: Iterable[tuple[float, str]]) -> None:
    for time, kind in faults:
        recorder.fault(time, kind)
    recorder.close()


def _tell(
    recorder: Recorder,
    operations: list[Seen],
    describe: Callable[[kv.AnyOperation], Described],
    answer: Callable[[kv.AnyResult], dict[str, Any]],
) -> Iterator[tuple[int, Seen]]:
    """Record all operations, then yield each with its identifier."""
    moments: list[Moment] = []
    for index, seen in enumerate(operations):
        # A client asks for the next thing in the instant of an answer: the answer comes first.
        moments.append((seen.invoked, 1, index))
        if seen.completed is not None:
            moments.append((seen.completed, 0, index))
    moments.sort()
    identifiers: dict[int, int] = {}
    for time, begins, index in moments:
        seen = operations[index]
        if begins:
            name, key, arguments = describe(seen.operation)
            identifiers[index] = recorder.invoke(
                seen.client, name, time, key=key, arguments=arguments, stale=seen.consistency == "stale"
            )
        elif seen.outcome == OK:
            assert seen.result is not None
            recorder.ok(identifiers[index], time, answer(seen.result))
        elif seen.outcome == FAIL:
            recorder.fail(identifiers[index], time, "refused")
        else:
            recorder.unknown(identifiers[index], time, "given up")
    for index, seen in enumerate(operations):
        yield identifiers[index], seen


Moment: TypeAlias = tuple[float, int, int]


def _without_revisions(result: kv.AnyResult) -> dict[str, Any]:
    return {name: _plain(value) for name, value in describe_result(result).items() if name not in _REVISIONS}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items() if name not in _REVISIONS}
    return [_plain(each) for each in value] if isinstance(value, list) else value


_REVISIONS = frozenset({"revision", "create", "mod", "detail"})


def _register_operation(operation: kv.AnyOperation) -> Described:
    match operation:
        case kv.Put():
            return "write", text(operation.key), {"value": text(operation.value)}
        case kv.Delete():
            return "write", text(operation.key), {"value": None}
        case kv.Get():
            return "read", text(operation.key), {}
        case _:
            raise TypeError(f"{type(operation).__name__} is not an operation of registers")


def _register_result(result: kv.AnyResult) -> dict[str, Any]:
    if isinstance(result, kv.Got):
        return {"value": None if result.item is None else text(result.item.value)}
    return {}
