"""Writes down what the clients of a run saw, in the history format of `replica.verification`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from replica.kv.transcript import describe_operation, describe_result
from replica.simulation.checks import changes
from replica.simulation.clients import FAIL, OK, PENDING, UNKNOWN, Seen
from replica.simulation.model import Model
from replica.verification.history import Recorder

Moment: TypeAlias = tuple[float, int, int]


def record(recorder: Recorder, history: Iterable[Seen], model: Model, faults: Iterable[tuple[float, str]] = ()) -> None:
    """Hand a run's operations to ``recorder``, in the order of time, and close it.

    ``model`` has executed everything that was decided: it tells what became of operations whose outcome their clients
    never learned.
    """
    operations = list(history)
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
            name, key, arguments = describe_operation(seen.operation)
            identifiers[index] = recorder.invoke(
                seen.client, name, time, key=key, arguments=arguments, stale=seen.consistency == "stale"
            )
        elif seen.outcome == OK:
            assert seen.result is not None
            recorder.ok(identifiers[index], time, describe_result(seen.result))
        elif seen.outcome == FAIL:
            recorder.fail(identifiers[index], time, "refused")
        else:
            recorder.unknown(identifiers[index], time, "given up")
    for index, seen in enumerate(operations):
        if seen.outcome in {UNKNOWN, PENDING} and seen.session:
            executed = model.executed.get((seen.session, seen.sequence))
            # Whoever was executed and changed nothing has left no trace: that is as good as never.
            took_effect = executed is not None and changes(executed[0])
            recorder.resolved(identifiers[index], executed[0].revision if executed and took_effect else None)
    for time, kind in faults:
        recorder.fault(time, kind)
    recorder.close()
