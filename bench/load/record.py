"""The sample of operations that is judged: from a generator's memory to a history.

During a run a generator appends one tuple for each recorded operation (`Recorder.add`); everything else is done when
the clock has stopped. A recording is bounded, and a bound that is reached ends it at that moment: `to_history` takes
the earliest end of all generators, leaves out what was invoked later, and takes what was still on its way for unknown.
That keeps a history sound, since whatever a kept answer may have seen is in it.

A scan is recorded as far as its first key's group goes: a range that was answered in full over an interval was also
answered in full over every part of it. So it connects no more keys than a transaction does.

Long values are recorded by their fingerprint; two writes never write the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from bench.operations import Stream
from replica.kv.operations import (
    Get,
    Got,
    KeyValue,
    Put,
    Range,
    Ranged,
    Transacted,
    Transaction,
    Written,
)
from replica.kv.transcript import describe_operation, describe_result
from replica.verification.history import (
    AnyEvent,
    Fail,
    Header,
    History,
    Invoke,
    Ok,
    Unknown,
    brief,
    merge_events,
)

STALE_READS: Final = frozenset({"get", "range"})


class Recorded(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One recorded operation, in the words of the history format. Times of the monotonic clock."""

    operation: str
    invoked: float
    completed: float | None = None
    key: str | None = None
    arguments: dict[str, Any] = {}
    outcome: str = "unknown"
    result: dict[str, Any] = {}
    error: str = ""
    intended: float | None = None


class Recording(msgspec.Struct, kw_only=True):
    """What one generator recorded. ``until`` is when it stopped recording; None: it recorded all of the run."""

    operations: list[Recorded] = []
    until: float | None = None


class Recorder:
    """Gathers recorded operations; see the module's text for the bound."""

    def __init__(self, stream: Stream, operations_max: int) -> None:
        self._stream = stream
        self._left = operations_max
        self._raw: list[tuple[Any, float, float, str, Any, float | None]] = []
        self.until: float | None = None

    def admit(self, now: float) -> bool:
        """May an operation that is invoked now be recorded? Counts it."""
        if self._left <= 0:
            if self.until is None:
                self.until = now
            return False
        self._left -= 1
        return True

    def add(
        self, operation: Any, invoked: float, completed: float, *, outcome: str, answer: Any, intended: float | None
    ) -> None:
        """An admitted operation has an outcome: ``ok`` with the RPC's answer, or the error's text."""
        self._raw.append((operation, invoked, completed, outcome, answer, intended))

    def finish(self, result: Callable[[Any, Any], Any]) -> Recording:
        """Everything in the history's words. ``result`` makes an RPC's answer one of the store's vocabulary."""
        recorded = []
        for operation, invoked, completed, outcome, answer, intended in self._raw:
            shown: Any = operation
            described: dict[str, Any] = {}
            if outcome == "ok":
                found = result(operation, answer)
                if isinstance(operation, Range):
                    shown, found = _within_group(operation, found, self._stream)
                described = describe_result(_short_result(found))
            elif isinstance(operation, Get | Range):
                continue  # a read without an answer says nothing
            name, key, arguments = describe_operation(_short(shown))
            recorded.append(
                Recorded(
                    operation=name,
                    invoked=invoked,
                    completed=completed,
                    key=key,
                    arguments=arguments,
                    outcome=outcome,
                    result=described,
                    error="" if outcome == "ok" else str(answer),
                    intended=intended,
                )
            )
        return Recording(operations=recorded, until=self.until)


def _within_group(operation: Range, found: Ranged, stream: Stream) -> tuple[Range, Ranged]:
    """The range as far as it was answered and as its first key's group goes."""
    if stream.workload.shares.keys() & {"list-runs"}:
        return operation, found  # an experiment is a group
    _, last = stream.bounds(operation.first)
    if found.more and found.items:
        last = min(last, found.items[-1].key + b"\x00")
    items = tuple(item for item in found.items if item.key < last)
    return Range(operation.first, last), Ranged(found.revision, items, len(items))


def _short_value(value: bytes) -> bytes:
    return brief(value).encode("latin-1")


def _short(operation: Any) -> Any:
    if isinstance(operation, Put):
        return Put(operation.key, _short_value(operation.value))
    if isinstance(operation, Transaction):
        return Transaction(
            operation.conditions,
            tuple(_short(each) for each in operation.then),
            tuple(_short(each) for each in operation.otherwise),
        )
    return operation


def _short_item(item: KeyValue) -> KeyValue:
    return KeyValue(
        item.key, _short_value(item.value), item.create_revision, item.mod_revision, item.version, item.lease
    )


def _short_result(result: Any) -> Any:
    match result:
        case Got(item=KeyValue() as item):
            return Got(result.revision, _short_item(item))
        case Ranged():
            return Ranged(result.revision, tuple(_short_item(item) for item in result.items), result.count, result.more)
        case Transacted():
            return Transacted(result.revision, result.succeeded, tuple(_short_result(each) for each in result.results))
        case Written():
            return Written(result.revision)
        case _:
            return result


# ---------------------------------------------------------------------------------------------------------- a history

_OF_ORDER: Final = frozenset({"revision", "create", "mod", "version"})


def _unordered(result: Any) -> Any:
    """A described result without what depends on an order over all keys."""
    if isinstance(result, dict):
        return {name: _unordered(value) for name, value in result.items() if name not in _OF_ORDER}
    if isinstance(result, list | tuple):
        return [_unordered(each) for each in result]
    return result


def to_history(
    recordings: list[tuple[str, Recording]],
    *,
    start: float,
    stale: bool,
    revisions: bool = True,
    attributes: dict[str, Any],
) -> History:
    """One history of all generators' recordings, with times from ``start`` on, by the model ``kv``.

    Without ``revisions`` those that were reported are left out, since they do not count in one order over all keys:
    such a history is searched, where another is replayed in the order that they give.
    """
    ends = [recording.until for _, recording in recordings if recording.until is not None]
    until = min(ends) if ends else None
    parts: list[list[AnyEvent]] = []
    for client, recording in recordings:
        events: list[tuple[float, int, AnyEvent]] = []
        for number, each in enumerate(recording.operations, 1):
            if until is not None and each.invoked >= until:
                continue
            is_stale = stale and each.operation in STALE_READS
            invoke = Invoke(
                id=number,
                client=client,
                operation=each.operation,
                time=each.invoked - start,
                key=each.key,
                arguments=each.arguments,
                intended=None if each.intended is None else each.intended - start,
                stale=is_stale,
            )
            events.append((invoke.time, 0, invoke))
            if each.completed is not None and (until is None or each.completed <= until):
                time = each.completed - start
                outcome: AnyEvent
                if each.outcome == "ok":
                    outcome = Ok(id=number, time=time, result=each.result if revisions else _unordered(each.result))
                elif each.outcome == "fail":
                    outcome = Fail(id=number, time=time, error=each.error)
                else:
                    outcome = Unknown(id=number, time=time, error=each.error)
                events.append((time, 1, outcome))
        events.sort(key=lambda event: event[:2])
        parts.append([event for _, _, event in events])
    header = Header(model="kv", attributes=attributes)
    return History.of_events(header, merge_events(parts))
