"""A run that is not simply plain puts from end to end: mixed operations, retries, and what lies outside the window.

The answers to one run are bounded together. When they have reached `RESULT_BYTES_MAX`, the operations that remain are
refused as ``crowded``: not executed and not remembered, so that the client can send them again under the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from .evaluation import Evaluation
from .history import History
from .operations import (
    READ_ONLY,
    RESULT_BYTES_MAX,
    SESSION_WINDOW,
    AnyOperation,
    AnyResult,
    CloseSession,
    Failed,
    Failure,
    OpenSession,
    SessionClosed,
    SessionOpened,
    Written,
)
from .outcomes import Opened, Outcome
from .runs import Payload
from .sessions import Recorded, Session, Sessions, recall

_encode = msgspec.msgpack.Encoder().encode


class Execution:
    """One run being executed; results are appended to ``outcome.answers``."""

    def __init__(
        self, history: History, sessions: Sessions, outcome: Outcome, session: Session | None, payload: Payload
    ) -> None:
        self._history = history
        self._sessions = sessions
        self._outcome = outcome
        self._session = session
        self._operations = payload.operations
        self._system = payload.system
        self._room = RESULT_BYTES_MAX
        self._results: list[AnyResult] = []
        outcome.answers = self._results

    def execute(self, start: int, end: int, *, puts: range = range(0)) -> None:
        """Execute the operations from ``start`` to ``end``, none of which was executed before.

        ``puts`` are the revisions of the plain puts at their front that have been carried out already.
        """
        operations = self._operations[start:end]
        if self._room <= 0:
            self._results.extend([self._failed(Failure.CROWDED, CROWDED)] * len(operations))
            return
        if not puts:
            puts = self._puts(operations, 0)
        results: list[AnyResult] = [Written(revision) for revision in puts]
        done = len(results)
        while done < len(operations) and self._room > 0:
            results.append(self._one(operations[done]))
            results.extend(Written(revision) for revision in self._puts(operations, done + 1))
            done = len(results)
        if self._session is not None:
            first = self._outcome.sequence + start
            if done == len(puts):
                self._session.record_puts(first, done, puts[0])
            else:
                kept = [
                    None if isinstance(operation, READ_ONLY) else result
                    for operation, result in zip(operations, results, strict=False)
                ]
                self._session.record_results(first, done, _encode(kept))
        results.extend([self._failed(Failure.CROWDED, CROWDED)] * (len(operations) - done))
        self._results.extend(results)

    def _puts(self, operations: Sequence[AnyOperation], start: int) -> range:
        """Execute the plain puts at the front of ``operations[start:]``; returns their revisions."""
        if self._system or start >= len(operations):
            return range(0)
        revision = self._history.revision + 1
        return range(revision, revision + self._history.put_plain(operations, start) - start)

    def sort_out(self) -> None:
        """Some of the run was executed before, or lies outside the window: judge each sequence by itself."""
        session = self._session
        assert session is not None
        count = len(self._operations)
        limit = session.acknowledged + SESSION_WINDOW
        index = 0
        while index < count:
            sequence = self._outcome.sequence + index
            if sequence <= session.acknowledged:
                self._results.append(self._failed(Failure.RESULT_FORGOTTEN, FORGOTTEN))
                index += 1
            elif sequence > limit:
                self._results.append(self._failed(Failure.WINDOW, BEYOND, limit))
                index += 1
            elif (run := session.find(sequence)) is not None:
                offset = sequence - run.first
                end = index + min(run.count - offset, count - index)
                self._repeat(run, offset, index, end)
                index = end
            else:
                end = index + 1
                while end < count and self._outcome.sequence + end <= limit:
                    if session.find(self._outcome.sequence + end) is not None:
                        break
                    end += 1
                self.execute(index, end)
                index = end

    def _repeat(self, run: Recorded, offset: int, start: int, end: int) -> None:
        """Answer operations whose sequences were executed as part of ``run``, from ``offset`` in it on."""
        recorded = recall(run)
        for step, operation in enumerate(self._operations[start:end]):
            result: AnyResult | None
            if isinstance(operation, READ_ONLY):
                result = self._one(operation) if self._room > 0 else self._failed(Failure.CROWDED, CROWDED)
            elif recorded is None:
                result = self._failed(Failure.RESULT_FORGOTTEN, FORGOTTEN)
            else:
                # Nothing recorded: the client has given the number of a read to another operation.
                result = recorded[offset + step] or self._failed(Failure.INVALID, REUSED)
            self._results.append(result)

    def _one(self, operation: AnyOperation) -> AnyResult:
        if isinstance(operation, OpenSession):
            opened, evicted = self._sessions.open()
            self._outcome.opened += (Opened(operation.nonce, opened, evicted),)
            return SessionOpened(self._history.revision, opened)
        if isinstance(operation, CloseSession):
            if self._sessions.close(operation.session):
                self._outcome.closed += (operation.session,)
            return SessionClosed(self._history.revision)
        evaluation = Evaluation(self._history, system=self._system)
        result = evaluation.run(operation)
        self._room -= evaluation.spent
        return result

    def _failed(self, code: str, message: str, detail: int = 0) -> Failed:
        return Failed(self._history.revision, code, message, detail)


# The texts are part of the replicated results, so they are ours and never a library's.
MALFORMED: Final = "the run does not parse or lies beyond a limit; nothing of it was executed"
SESSION_UNKNOWN: Final = (
    "the session was closed, evicted or never opened; nothing was executed now, "
    "an earlier attempt may have been: open a new session, and retry only what may take effect twice"
)
FORGOTTEN: Final = (
    "the sequence was executed before, or given up, and its result is no longer kept; it is not executed again"
)
BEYOND: Final = "the sequence lies beyond the session's window; nothing was changed, retry when results have come"
REUSED: Final = "the sequence was used for a read before; nothing was changed"
CROWDED: Final = (
    "the answers to what stands before it fill one message; nothing was changed, send it again or ask for less at once"
)
