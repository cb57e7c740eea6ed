"""A command being executed on keys that are ordered one by one: each operation judged by its session, then evaluated.

Reads are executed as often as they are asked for and leave no trace. An operation that may write is executed once:

1. A key that remembers its sequence answers for it, whatever other keys have forgotten.
2. A key whose acknowledged mark has passed it: executed before, or given up; not executed again.
3. A key that does not know the session and cannot say that it is new: refused as *session unknown*, with the floor.
4. Otherwise it is executed, and entered with every key that it may write, whatever it came to.

What is refused for its form alone is refused at every repetition, so it is not entered.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from replica.kv.execution import BEYOND, CROWDED, FORGOTTEN, MALFORMED, REUSED
from replica.kv.operations import (
    RESULT_BYTES_MAX,
    SESSION_WINDOW,
    Add,
    AnyOperation,
    AnyResult,
    Delete,
    Failed,
    Failure,
    Put,
    Transaction,
    Written,
)
from replica.kv.outcomes import Outcome
from replica.kv.runs import MalformedOperation, Payload, footprint, unpack
from replica.kv.sessions import Session, recall

from .abilities import Abilities
from .evaluation import Evaluation, Keys

SESSION_UNKNOWN: Final = (
    "the key no longer knows which operations of the session it has seen; nothing was executed now, an earlier attempt "
    "may have been: open a new session, and retry only what may take effect twice"
)

_encode = msgspec.msgpack.Encoder().encode


class AppliedCommand(Protocol):
    """What execution needs of a command (`replica.consensus.interface.Command` satisfies it)."""

    @property
    def payload(self) -> bytes: ...

    @property
    def session(self) -> int: ...

    @property
    def sequence(self) -> int: ...

    @property
    def count(self) -> int: ...


def written_keys(operation: AnyOperation) -> tuple[bytes, ...]:
    """The keys that an operation may write, in the order of first mention."""
    match operation:
        case Put() | Delete() | Add():
            return (operation.key,)
        case Transaction():
            return footprint((operation,)).writes
        case _:
            return ()


def execute(keys: Keys, command: AppliedCommand, abilities: Abilities, *, sessions_max: int) -> Outcome:
    """Execute a command; a function of the records of the keys that it touches, and of nothing else."""
    outcome = Outcome(session=command.session, sequence=command.sequence, count=command.count)
    try:
        payload = unpack(command.payload)
    except MalformedOperation:
        payload = None
    if payload is None or len(payload.operations) != command.count:
        outcome.answers = [Failed(0, Failure.INVALID, MALFORMED)] * command.count
        return outcome
    outcome.answers = _Execution(keys, command, payload, abilities, sessions_max).run()
    return outcome


class _Execution:
    __slots__ = (
        "_abilities",
        "_acknowledged",
        "_keys",
        "_operations",
        "_room",
        "_sequence",
        "_session",
        "_system",
        "_max",
    )

    def __init__(
        self, keys: Keys, command: AppliedCommand, payload: Payload, abilities: Abilities, sessions_max: int
    ) -> None:
        self._keys = keys
        self._operations = payload.operations
        self._acknowledged = payload.acknowledged
        self._system = payload.system
        self._session = command.session
        self._sequence = command.sequence
        self._abilities = abilities
        self._max = sessions_max
        self._room = RESULT_BYTES_MAX

    def run(self) -> list[AnyResult]:
        results: list[AnyResult] = []
        for offset, operation in enumerate(self._operations):
            if self._room <= 0:
                results.append(Failed(0, Failure.CROWDED, CROWDED))
            elif (reason := self._abilities.refusal(operation)) is not None:
                results.append(Failed(0, Failure.UNSUPPORTED, f"{reason}; nothing was changed"))
            elif self._session and (writes := written_keys(operation)):
                results.append(self._once(operation, self._sequence + offset, writes))
            else:
                results.append(self._evaluate(operation))
        return results

    def _evaluate(self, operation: AnyOperation) -> AnyResult:
        evaluation = Evaluation(self._keys, system=self._system)
        result = evaluation.run(operation)
        self._room -= evaluation.spent
        return result

    def _once(self, operation: AnyOperation, sequence: int, writes: tuple[bytes, ...]) -> AnyResult:
        session = self._session
        windows: list[Session | None] = []
        floor = 0
        for key in writes:
            known = self._keys.find(key)
            if known is None or session not in known.sessions:
                windows.append(None)
                if known is not None and not known.admits(session):
                    floor = max(floor, known.floor)
                continue
            window = self._keys.change(key).use(session)
            assert window is not None, "it is on record"
            window.acknowledge(self._acknowledged)
            windows.append(window)
        passed = False
        for window in windows:
            if window is None:
                continue
            run = window.find(sequence)
            if run is not None:
                recorded = recall(run)
                if recorded is None:
                    return Failed(0, Failure.RESULT_FORGOTTEN, FORGOTTEN)
                return recorded[sequence - run.first] or Failed(0, Failure.INVALID, REUSED)
            passed = passed or sequence <= window.acknowledged
        if passed or sequence <= self._acknowledged:
            return Failed(0, Failure.RESULT_FORGOTTEN, FORGOTTEN)
        if floor:
            return Failed(0, Failure.SESSION_UNKNOWN, SESSION_UNKNOWN, floor)
        limit = max(window.acknowledged if window is not None else self._acknowledged for window in windows)
        if sequence > limit + SESSION_WINDOW:
            return Failed(0, Failure.WINDOW, BEYOND, limit + SESSION_WINDOW)
        result = self._evaluate(operation)
        plain = type(operation) is Put and type(result) is Written and result.previous is None
        encoded = b"" if plain else _encode([result])
        for key, window in zip(writes, windows, strict=True):
            record = self._keys.change(key)
            entered = window
            if entered is None:
                entered = record.enter(session, self._max)
                entered.acknowledge(self._acknowledged)
            if plain:
                entered.record_puts(sequence, 1, result.revision)
            else:
                entered.record_results(sequence, 1, encoded)
                record.trim()
        return result
