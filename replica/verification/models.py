"""What a model is, the models of registers.

A model divides a history into *parts* that can be judged one by one: linearizability is local, so a history of many
objects is linearizable if that of each object is. A part knows its operations, as *entries*, and its object's
sequential meaning: `Part.step` says which state follows when an entry takes effect, or that it cannot.

To add a model, subclass `Model` and `Part` and hand the model to `replica.verification.checker.check`; or enter it in
`MODELS`, to make it known by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

import msgspec

from .history import History, HistoryError, Operation
from .verdict import Violation

State: TypeAlias = Hashable
Place: TypeAlias = tuple[int, int]
"""Where an operation stands in the order of revisions: its revision, and 0 for the one that made it, 1 for one that
only saw it."""

NEVER: Final = 1 << 60
"""The rank at which an operation of unknown outcome ends."""


class Entry:
    """An operation as the search sees it."""

    __slots__ = ("action", "answer", "begin", "certain", "end", "floor", "operation", "passive", "place")

    def __init__(
        self,
        operation: Operation,
        action: Any,
        answer: Any,
        *,
        begin: int,
        end: int,
        certain: bool,
        passive: bool = False,
        place: Place | None = None,
        floor: int = 0,
    ) -> None:
        self.operation = operation
        self.action = action
        """What was asked, as the model reads it; hashable."""
        self.answer = answer
        """What was answered; None when nobody heard."""
        self.begin = begin
        """Ranks: positions in the sequence of all invocations and outcomes. An entry precedes another if it ends at a
        lower rank than the other begins."""
        self.end = end
        self.certain = certain
        """Must it take effect? Others may."""
        self.passive = passive
        """Given its answer, it has changed nothing, whatever it found."""
        self.place = place
        self.floor = floor
        """The lowest revision at which an uncertain entry can have taken effect."""


class Part(ABC):
    """Operations that must be judged together, and the object they work on."""

    label: str
    initial: State
    entries: Sequence[Entry]
    """In the order of invocation. Where all certain ones have a place, the search keeps to that order."""
    indexed: bool = False
    """Are `needs` and `gives` to be asked? They spare the search to try every uncertain entry everywhere."""

    @abstractmethod
    def step(self, state: Any, entry: Entry) -> State | None:
        """The state after ``entry``, or None when its answer is not possible in ``state``. States are never None."""

    def effects(self, state: Any, entry: Entry, ahead: Entry) -> Iterable[State]:
        """The states in which an uncertain entry may leave the object, before the certain entry ``ahead``."""
        after = self.step(state, entry)
        return () if after is None else (after,)

    def touched(self, entry: Entry) -> frozenset[str]:
        """The keys that ``entry`` looks at or writes, for parts of several keys."""
        return frozenset()

    def near(self, entry: Entry) -> Sequence[Entry]:
        """The entries that work on what ``entry`` works on: those to look at when it cannot be explained."""
        return self.entries

    def narrowed(self, entries: Sequence[Entry]) -> Part:
        """The same part with other entries, of which more are certain."""
        raise NotImplementedError(f"{type(self).__name__} has no witness")

    def needs(self, entry: Entry) -> Hashable:
        """What must stand in the object for the certain ``entry`` to be possible; None for nothing special."""
        return None

    def gives(self, entry: Entry) -> Hashable:
        """What the uncertain ``entry`` puts there. An entry that gives what the next one does not need is of no use."""
        return None

    @abstractmethod
    def explain(self, state: Any, entry: Entry) -> str:
        """Why the answer of ``entry`` is not possible in ``state``."""


Step: TypeAlias = tuple[Entry, State]
"""An entry that was linearized, and the state after it."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A history made ready for judgement."""

    parts: Sequence[Part]
    operations: int
    uncertain: int
    unchecked: Mapping[str, int] = {}
    examine: Callable[[bool], Examined] | None = None
    """What is judged before any part is searched, if there is anything; true to settle parts, too, where that is
    possible."""
    conflict: Callable[[Sequence[Sequence[Step]]], str | None] | None = None
    """Given the linearizations of all searched parts: why they cannot all be true, or None."""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What the quicker way has shown."""

    violation: Violation | None = None
    parts: Sequence[Part] = ()
    """What still has to be searched; nothing, if all is settled."""


class Model(ABC):
    """The sequential meaning of the operations of a history."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def prepare(self, history: History) -> Case:
        """Read and divide a history. Raises `HistoryError` for what the model does not know."""


def spans_of(history: History) -> list[tuple[int, int]]:
    """The ranks between which each operation of the history took effect; `NEVER` ends those of unknown outcome."""
    moments: list[tuple[float, int, int, bool]] = []
    for index, operation in enumerate(history.operations):
        moments.append((operation.invoked, operation.invoked_line, index, False))
        if operation.outcome == "ok" and operation.completed is not None:
            moments.append((operation.completed, operation.completed_line, index, True))
    moments.sort()
    begins = [0] * len(history.operations)
    ends = [NEVER] * len(history.operations)
    for rank, (_, _, index, ends_here) in enumerate(moments):
        (ends if ends_here else begins)[index] = rank
    return list(zip(begins, ends, strict=True))


Shape = TypeVar("Shape")


def convert(value: Any, shape: type[Shape], line: int, what: str) -> Shape:
    """Read arguments or a result. Raises `HistoryError`."""
    try:
        return msgspec.convert(value, shape)
    except (msgspec.ValidationError, ValueError) as error:
        raise HistoryError(line, f"{what}: {error}") from None


def unknown_operation(operation: Operation, model: str, known: Iterable[str]) -> HistoryError:
    """The error for an operation that a model does not have."""
    return HistoryError(
        operation.invoked_line,
        f"the model {model!r} has no operation {operation.operation!r}; it has: {', '.join(sorted(known))}",
    )


# --------------------------------------------------------------------------------------------------------- registers

Value: TypeAlias = str | int | None


class Read(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``read``."""


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``write``."""

    value: Value


class CompareAndSet(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"expected": "from", "value": "to"}
):
    """Arguments of ``cas``: set to ``value`` if it is ``expected``."""

    expected: Value
    value: Value


class ReadAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Result of ``read``; null before the first write."""

    value: Value


class WriteAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Result of ``write``."""


class SwapAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Result of ``cas``."""

    succeeded: bool


_REGISTER: Final[dict[str, tuple[type, type]]] = {"read": (Read, ReadAnswer), "write": (Write, WriteAnswer)}
_SWAPS: Final[dict[str, tuple[type, type]]] = _REGISTER | {"cas": (CompareAndSet, SwapAnswer)}


class RegisterPart(Part):
    """One register. Its state is a tuple of its value alone, so that null is a state."""

    initial: State = (None,)

    def __init__(self, label: str, entries: list[Entry]) -> None:
        self.label = label
        sensitive = _is_sensitive(entries)
        self.entries = _relevant(entries, sensitive=sensitive)
        self.indexed = not sensitive

    def step(self, state: tuple[Value], entry: Entry) -> State | None:
        """As `Part.step`."""
        action: Read | Write | CompareAndSet = entry.action
        answer: Any = entry.answer
        if isinstance(action, Write):
            return (action.value,)
        if isinstance(action, Read):
            return state if answer is None or answer.value == state[0] else None
        succeeded = action.expected == state[0]
        if answer is not None and answer.succeeded != succeeded:
            return None
        return (action.value,) if succeeded else state

    def needs(self, entry: Entry) -> Hashable:
        """As `Part.needs`; values are wrapped, since None is one."""
        if isinstance(entry.action, Write):
            return None
        return (entry.answer.value if isinstance(entry.action, Read) else entry.action.expected,)

    def gives(self, entry: Entry) -> Hashable:
        """As `Part.gives`."""
        return (entry.action.value,)

    def explain(self, state: tuple[Value], entry: Entry) -> str:
        """As `Part.explain`."""
        action = entry.action
        held = "nothing" if state[0] is None else repr(state[0])
        if isinstance(action, Read):
            return f"it read {entry.answer.value!r}, but the register held {held}"
        if isinstance(action, CompareAndSet):
            outcome = "succeeded" if entry.answer.succeeded else "failed"
            return f"comparing with {action.expected!r} {outcome}, but the register held {held}"
        return "a write is always possible"


def _is_sensitive(entries: list[Entry]) -> bool:
    """Is there a comparison that may have come out as it did because of *any* other value?"""
    return any(
        isinstance(entry.action, CompareAndSet) and (entry.answer is None or not entry.answer.succeeded)
        for entry in entries
    )


def _relevant(entries: list[Entry], *, sensitive: bool) -> list[Entry]:
    """Without the uncertain entries that make no difference to anything certain.

    A value that nobody is seen to have found can be left out of any linearization, with the operation that wrote it.
    """
    found: set[Value] = set()
    for entry in entries:
        if isinstance(entry.action, CompareAndSet):
            found.add(entry.action.expected)
        elif isinstance(entry.action, Read) and entry.answer is not None:
            found.add(entry.answer.value)
    return [
        entry
        for entry in entries
        if entry.certain or (not isinstance(entry.action, Read) and (sensitive or entry.action.value in found))
    ]


class RegisterModel(Model):
    """A register a key."""

    name = "register"
    summary = "a register a key: read, write"
    operations: ClassVar[Mapping[str, tuple[type, type]]] = _REGISTER

    def prepare(self, history: History) -> Case:
        """As `Model.prepare`."""
        grouped: dict[str | None, list[Entry]] = defaultdict(list)
        unchecked: dict[str, int] = defaultdict(int)
        uncertain = 0
        for operation, (begin, end) in zip(history.operations, spans_of(history), strict=True):
            if operation.operation not in self.operations:
                raise unknown_operation(operation, self.name, self.operations)
            shape, answered = self.operations[operation.operation]
            action: Any = convert(operation.arguments, shape, operation.invoked_line, "arguments")
            if operation.outcome == "fail" or (operation.resolved and operation.revision is None):
                continue
            if operation.stale:
                if shape is not Read:
                    raise HistoryError(operation.invoked_line, "only a read can be stale")
                unchecked["stale"] += 1
                continue
            certain = operation.outcome == "ok" or (operation.resolved and shape is not Read)
            answer: Any = None
            if operation.outcome == "ok":
                answer = convert(operation.result, answered, operation.completed_line, "result")
            uncertain += not certain
            passive = isinstance(action, Read) or (isinstance(answer, SwapAnswer) and not answer.succeeded)
            grouped[operation.key].append(
                Entry(operation, action, answer, begin=begin, end=end, certain=certain, passive=passive)
            )
        parts = [
            RegisterPart("the register" if key is None else f"key {key!r}", entries) for key, entries in grouped.items()
        ]
        operations = sum(map(len, grouped.values()))
        return Case(parts=parts, operations=operations, uncertain=uncertain, unchecked=unchecked)


class SwapRegisterModel(RegisterModel):
    """A register with compare-and-set a key."""

    name = "cas-register"
    summary = "a register with compare-and-set a key: read, write, cas"
    operations = _SWAPS
