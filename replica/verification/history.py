"""The history format: what clients asked, when, and what came of it, one JSON object a line.

A history is a header, events, and an end:

    {"type":"header","format":"synod-history","version":1,"model":"register"}
    {"type":"invoke","id":1,"client":"a","operation":"write","key":"x","arguments":{"value":"1"},"time":0.5}
    {"type":"ok","id":1,"time":0.6,"result":{}}
    {"type":"end","events":2}

Rules
-----
* An operation is an ``invoke`` and at most one outcome of the same ``id``: ``ok`` (it took effect and answered this),
  ``fail`` (it has *not* taken effect and never will, and its refusal tells nothing about the state), ``unknown`` (it
  may take effect at any time after its invocation, or never). Without an outcome it is unknown. A refusal that depends
  on the state, such as a condition that did not hold, is an ``ok``: it has observed something.
* Times are seconds on one clock, from any origin. An operation precedes another if it ended before the other began.
  Among equal times the order of lines decides, which is right for a recorder in one process; `merge_events` joins the
  events of several such that equal times of different recorders count as concurrent.
* A client may have several operations outstanding.
* ``resolved`` says what became of an operation whose outcome its client never learned: the ``revision`` that it made,
  or null if it changed nothing, be it that it was never carried out. Only somebody who knows the decided order (a
  simulator) can write it.
* Fields are only ever appended, with defaults; a change of meaning raises ``version``, and a reader refuses versions
  that it does not know.

Bytes stand as text with one character a byte (`text`), so that equality and order of keys are those of the bytes.

`Recorder` appends an event in a fraction of a microsecond and encodes many of them in one call; `read_history` names
the line of whatever is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias

import msgspec

FORMAT: Final = "synod-history"
VERSION: Final = 1

PENDING_EVENTS_MAX: Final = 4096
"""A recorder with a sink encodes and writes its events when it holds so many."""

BRIEF_BYTES_MAX: Final = 64
"""Up to this length `brief` keeps a value as it is."""


class HistoryError(ValueError):
    """A history does not follow the format, or asks what its model does not know. Nothing was judged.

    ``line`` is where, counted from 1; 0 for a history that was never a file.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line
        self.message = message


class Event(
    msgspec.Struct,
    frozen=True,
    tag_field="type",
    omit_defaults=True,
    forbid_unknown_fields=True,
    kw_only=True,
    gc=False,
):
    """Base of the lines of a history."""


class FaultWindow(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A fault that was injected, in seconds on the history's clock; ``until`` is None for one that never ended."""

    time: float
    kind: str
    until: float | None = None
    detail: str = ""


class Header(Event, frozen=True, kw_only=True, gc=False, tag="header"):
    """The first line."""

    format: str = FORMAT
    version: int = VERSION
    model: str = ""
    """The model by which to judge, if nobody says otherwise; see `replica.verification.models`."""
    faults: tuple[FaultWindow, ...] = ()
    """The faults that were planned; those that happened by the way are lines of their own."""
    attributes: dict[str, Any] = {}
    """Whatever else is worth keeping: protocol, seed, durability, how reads were done."""


class Invoke(Event, frozen=True, kw_only=True, gc=False, tag="invoke"):
    """A client asked for something."""

    id: int
    client: int | str
    operation: str
    time: float
    key: str | None = None
    """For an operation on one key; others name their keys among the arguments."""
    arguments: dict[str, Any] = {}
    intended: float | None = None
    """When the load generator meant to ask: an open loop that lags behind must not hide it."""
    stale: bool = False
    """The operation did not ask for linearizability: it is held against its own revision only, if it has one."""


class Ok(Event, frozen=True, kw_only=True, gc=False, tag="ok"):
    """The operation took effect."""

    id: int
    time: float
    result: dict[str, Any] = {}


class Fail(Event, frozen=True, kw_only=True, gc=False, tag="fail"):
    """The operation did not take effect and never will."""

    id: int
    time: float
    error: str = ""


class Unknown(Event, frozen=True, kw_only=True, gc=False, tag="unknown"):
    """Nobody waits for the operation any more; it may yet take effect."""

    id: int
    time: float
    error: str = ""


class Resolved(Event, frozen=True, kw_only=True, gc=False, tag="resolved"):
    """An operation of unknown outcome made ``revision``, or changed nothing (None)."""

    id: int
    revision: int | None


class Fault(Event, frozen=True, kw_only=True, gc=False, tag="fault"):
    """A fault that was injected."""

    time: float
    kind: str
    until: float | None = None
    detail: str = ""


class End(Event, frozen=True, kw_only=True, gc=False, tag="end"):
    """The last line; without it the history was cut off. ``events`` counts the lines between the header and this."""

    events: int


AnyEvent: TypeAlias = Invoke | Ok | Fail | Unknown | Resolved | Fault
Line: TypeAlias = Header | Invoke | Ok | Fail | Unknown | Resolved | Fault | End

Outcome: TypeAlias = Literal["ok", "fail", "unknown"]


class Operation(msgspec.Struct, kw_only=True, gc=False):
    """One operation from its invocation to its outcome. Times in seconds, lines counted from 1."""

    id: int
    client: int | str
    operation: str
    key: str | None
    arguments: dict[str, Any]
    intended: float | None
    invoked: float
    invoked_line: int
    stale: bool = False
    outcome: Outcome = "unknown"
    completed: float | None = None
    """None for an operation without an outcome."""
    completed_line: int = 0
    result: dict[str, Any] = {}
    error: str = ""
    resolved: bool = False
    """The outcome is unknown to the client, but has been found out."""
    revision: int | None = None
    """What a resolved operation made; None if it changed nothing."""

    def __str__(self) -> str:
        arguments = [] if self.key is None else [self.key]
        arguments += [f"{name}={value!r}" for name, value in self.arguments.items()]
        return f"{self.operation}({', '.join(arguments)})"


class History(msgspec.Struct, frozen=True):
    """A complete history: operations in the order of their invocations."""

    header: Header
    operations: tuple[Operation, ...]
    faults: tuple[FaultWindow, ...] = ()

    @classmethod
    def of_events(cls, header: Header, events: Iterable[AnyEvent], *, first_line: int = 2) -> History:
        """Pair invocations with their outcomes. Raises `HistoryError`."""
        operations: dict[int, Operation] = {}
        faults = list(header.faults)
        for line, event in enumerate(events, first_line):
            match event:
                case Invoke():
                    if event.id in operations:
                        first = operations[event.id].invoked_line
                        raise HistoryError(line, f"operation {event.id} is invoked again; it was on line {first}")
                    operations[event.id] = Operation(
                        id=event.id,
                        client=event.client,
                        operation=event.operation,
                        key=event.key,
                        arguments=event.arguments,
                        intended=event.intended,
                        invoked=event.time,
                        invoked_line=line,
                        stale=event.stale,
                    )
                case Ok() | Fail() | Unknown():
                    operation = _invoked(operations, event.id, line)
                    if operation.completed is not None:
                        raise HistoryError(
                            line,
                            f"operation {event.id} has a second outcome; the first, {operation.outcome}, is on "
                            f"line {operation.completed_line}",
                        )
                    if event.time < operation.invoked:
                        raise HistoryError(
                            line,
                            f"operation {event.id} ends at {event.time!r}, before it was invoked at "
                            f"{operation.invoked!r} on line {operation.invoked_line}",
                        )
                    operation.completed = event.time
                    operation.completed_line = line
                    if isinstance(event, Ok):
                        operation.outcome = "ok"
                        operation.result = event.result
                    else:
                        operation.outcome = "fail" if isinstance(event, Fail) else "unknown"
                        operation.error = event.error
                case Resolved():
                    operation = _invoked(operations, event.id, line)
                    if operation.outcome != "unknown":
                        raise HistoryError(
                            line,
                            f"operation {event.id} cannot be resolved: its outcome is {operation.outcome}, on "
                            f"line {operation.completed_line}",
                        )
                    if operation.resolved:
                        raise HistoryError(line, f"operation {event.id} is resolved a second time")
                    operation.resolved = True
                    operation.revision = event.revision
                case Fault():
                    faults.append(FaultWindow(event.time, event.kind, event.until, event.detail))
        for operation in operations.values():
            if operation.resolved and operation.outcome == "ok":
                raise HistoryError(
                    operation.completed_line, f"operation {operation.id} is ok and was resolved as well; one is wrong"
                )
        ordered = sorted(operations.values(), key=lambda each: (each.invoked, each.invoked_line))
        return cls(header, tuple(ordered), tuple(faults))

    def events(self) -> Iterator[AnyEvent]:
        """The events again, in the order of their lines."""
        numbered: list[tuple[int, AnyEvent]] = []
        for each in self.operations:
            invoke = Invoke(
                id=each.id,
                client=each.client,
                operation=each.operation,
                time=each.invoked,
                key=each.key,
                arguments=each.arguments,
                intended=each.intended,
                stale=each.stale,
            )
            numbered.append((each.invoked_line, invoke))
            if each.completed is None:
                continue
            outcome: AnyEvent
            if each.outcome == "ok":
                outcome = Ok(id=each.id, time=each.completed, result=each.result)
            elif each.outcome == "fail":
                outcome = Fail(id=each.id, time=each.completed, error=each.error)
            else:
                outcome = Unknown(id=each.id, time=each.completed, error=each.error)
            numbered.append((each.completed_line, outcome))
        numbered.sort(key=_line_of)
        yield from (event for _, event in numbered)
        yield from (Resolved(id=each.id, revision=each.revision) for each in self.operations if each.resolved)
        planned = set(self.header.faults)
        for fault in self.faults:
            if fault not in planned:
                yield Fault(time=fault.time, kind=fault.kind, until=fault.until, detail=fault.detail)


def _line_of(numbered: tuple[int, AnyEvent]) -> int:
    return numbered[0]


def _invoked(operations: dict[int, Operation], identifier: int, line: int) -> Operation:
    operation = operations.get(identifier)
    if operation is None:
        raise HistoryError(line, f"operation {identifier} was never invoked before this line")
    return operation


# --------------------------------------------------------------------------------------------------------- recording

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(Line)


class Recorder:
    """Collects events while a run goes on. Not thread-safe, and never blocks but to write to its sink.

    With a ``sink`` events are encoded and written in batches and only those not yet written are held; without one all
    are held, for `history`. The owner of the sink closes it, after `close`.
    """

    __slots__ = ("_append", "_events", "_kept", "_next", "_sink", "_written", "header")

    def __init__(self, header: Header, sink: BinaryIO | None = None) -> None:
        """Writes the header to the sink."""
        self.header = header
        self._sink = sink
        self._events: list[AnyEvent] = []
        self._append: Callable[[AnyEvent], None] = self._events.append
        self._next = 1
        self._written = 0
        if sink is not None:
            sink.write(_encoder.encode_lines((header,)))

    def invoke(
        self,
        client: int | str,
        operation: str,
        time: float,
        *,
        key: str | None = None,
        arguments: dict[str, Any] | None = None,
        intended: float | None = None,
        stale: bool = False,
    ) -> int:
        """A client asks now; returns the id by which to report the outcome."""
        if len(self._events) >= PENDING_EVENTS_MAX:
            self.flush()
        identifier = self._next
        self._next = identifier + 1
        self._append(
            Invoke(
                id=identifier,
                client=client,
                operation=operation,
                time=time,
                key=key,
                arguments=arguments or {},
                intended=intended,
                stale=stale,
            )
        )
        return identifier

    def ok(self, identifier: int, time: float, result: dict[str, Any] | None = None) -> None:
        """It took effect and answered this."""
        self._append(Ok(id=identifier, time=time, result=result or {}))

    def fail(self, identifier: int, time: float, error: str = "") -> None:
        """It did not take effect and never will."""
        self._append(Fail(id=identifier, time=time, error=error))

    def unknown(self, identifier: int, time: float, error: str = "") -> None:
        """Nobody waits for it any more; it may yet take effect."""
        self._append(Unknown(id=identifier, time=time, error=error))

    def resolved(self, identifier: int, revision: int | None) -> None:
        """It has been found out that an operation of unknown outcome made ``revision``, or changed nothing (None)."""
        self._append(Resolved(id=identifier, revision=revision))

    def fault(self, time: float, kind: str, *, until: float | None = None, detail: str = "") -> None:
        """A fault was injected."""
        self._append(Fault(time=time, kind=kind, until=until, detail=detail))

    def append(self, event: AnyEvent) -> None:
        """An event that somebody else made; its id must not collide with those that `invoke` gives out."""
        self._append(event)

    def flush(self) -> None:
        """Hand what is held to the sink, if there is one."""
        if self._sink is not None and self._events:
            self._sink.write(_encoder.encode_lines(self._events))
            self._written += len(self._events)
            self._events.clear()

    def close(self) -> None:
        """Write everything and the end. Nothing may be recorded afterwards. What has no outcome is unknown."""
        if self._sink is not None:
            self.flush()
            self._sink.write(_encoder.encode_lines((End(events=self._written),)))
            self._sink.flush()

    def history(self) -> History:
        """All that was recorded so far, in memory. Raises `HistoryError`, and `ValueError` when there is a sink."""
        if self._sink is not None:
            raise ValueError("this recorder writes to a sink and holds nothing; read the history from there")
        return History.of_events(self.header, self._events)


def merge_events(recordings: Sequence[Iterable[AnyEvent]]) -> list[AnyEvent]:
    """The events of several recorders that share a clock, as one, with ids of its own.

    At equal times invocations come before outcomes, across recorders: what may have been concurrent counts as
    concurrent. Within one recorder the order stays as it was, which comes first where the two disagree.
    """
    merged: list[tuple[float, int, int, AnyEvent]] = []
    identifiers: dict[tuple[int, int], int] = {}
    for recording, events in enumerate(recordings):
        latest = float("-inf")
        rank = 0
        for position, event in enumerate(events):
            renamed = event
            moment = float("inf") if isinstance(event, Resolved) else event.time
            if not isinstance(event, Fault):
                identifier = identifiers.setdefault((recording, event.id), len(identifiers) + 1)
                renamed = msgspec.structs.replace(event, id=identifier)
            kind = 0 if isinstance(event, Invoke | Fault) else 1
            if moment > latest:
                latest, rank = moment, kind
            elif moment == latest:
                rank = max(rank, kind)
                kind = rank
            merged.append((moment, kind, position, renamed))
    merged.sort(key=lambda each: each[:3])
    return [event for _, _, _, event in merged]


def write_history(history: History, path: str | PathLike[str]) -> None:
    """Write a history as a file, anew."""
    events = list(history.events())
    with Path(path).open("wb") as sink:
        sink.write(_encoder.encode_lines((history.header, *events, End(events=len(events)))))


# ----------------------------------------------------------------------------------------------------------- reading


def read_history(path: str | PathLike[str]) -> History:
    """Read a whole history. Raises `HistoryError`, which names the line, and `OSError`."""
    return parse_history(Path(path).read_bytes())


def parse_history(data: bytes) -> History:
    """A history from its bytes. Raises `HistoryError`."""
    lines = data.split(b"\n")
    whole = not lines.pop()  # a file that ends with a line feed leaves an empty piece
    if not whole:
        lines = data.split(b"\n")
    if not lines:
        raise HistoryError(1, "the history is empty; its first line must be a header")
    header = _line(lines[0], 1, cut=not whole and len(lines) == 1)
    if not isinstance(header, Header):
        raise HistoryError(1, f"a history begins with a header, not with {_kind(header)!r}")
    if header.format != FORMAT:
        raise HistoryError(1, f"the format is {header.format!r}, not {FORMAT!r}")
    if header.version != VERSION:
        raise HistoryError(1, f"the history has version {header.version}; this program reads version {VERSION}")
    events: list[AnyEvent] = []
    end = 0
    for number, raw in enumerate(lines[1:], 2):
        if end:
            raise HistoryError(number, f"something follows the end, which was on line {end}")
        line = _line(raw, number, cut=not whole and number == len(lines))
        if isinstance(line, Header):
            raise HistoryError(number, "a second header; histories cannot be joined end to end")
        if isinstance(line, End):
            if line.events != len(events):
                raise HistoryError(number, f"the end counts {line.events} events, but {len(events)} stand before it")
            end = number
        else:
            events.append(line)
    if not end:
        raise HistoryError(len(lines), "the history is truncated: after this line its end is missing")
    return History.of_events(header, events)


def _line(raw: bytes, number: int, *, cut: bool) -> Line:
    try:
        return _decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise HistoryError(number, f"malformed: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if cut:
            raise HistoryError(number, "the history is truncated in the middle of this line") from None
        what = "it is empty" if not raw.strip() else str(error)
        raise HistoryError(number, f"malformed: {what}") from None


def _kind(line: Line) -> str:
    return str(type(line).__struct_config__.tag)


# ------------------------------------------------------------------------------------------------------------- bytes


def text(data: bytes) -> str:
    """Bytes as text, one character a byte (Latin-1): lossless, and in the order of the bytes."""
    return data.decode("latin-1")


def brief(data: bytes) -> str:
    """A value as text; a long one as a fingerprint, for models that only ask whether values are equal."""
    if len(data) <= BRIEF_BYTES_MAX:
        return data.decode("latin-1")
    return f"#{blake2b(data, digest_size=16).hexdigest()}:{len(data)}"
