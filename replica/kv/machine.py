"""The replicated state machine: decided commands in, results out.

Theory of operation
-------------------
Commands arrive in the order of their positions, without gaps; what lies at or before ``applied`` was applied before a
restart and is passed over. Applying is deterministic: the state and every result are a function of the
sequence of commands alone. How commands are grouped into calls, when `commit` is called, and how often the process
starts again from the last commit make no difference.

Every operation of a run is evaluated on its own and takes a revision of its own if it changes something. A run of an
open session is executed once: sequences that were executed before are answered with the recorded results, sequences
beyond the window are refused. Runs outside any session (session 0) are executed as often as they are decided.

`apply` returns an `Outcome` a command. Encoding it costs something and only the replica to which the client is attached
needs it, so that is left to `Outcome.encoded`.

Durability is the driver's: everything since the last `commit` is lost in a crash, as a whole, and applied again from
the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from .evaluation import Evaluation
from .history import History
from .layout import META, CorruptState
from .operations import (
    RESULT_BYTES_MAX,
    SESSION_WINDOW,
    AnyOperation,
    AnyResult,
    CloseSession,
    Failed,
    Failure,
    Get,
    Got,
    OpenSession,
    Range,
    Ranged,
    ReadOperation,
    SessionClosed,
    SessionOpened,
    Written,
)
from .runs import MalformedOperation, Payload, array_header, unpack
from .sessions import SESSIONS_MAX, Session, Sessions, recall
from .store import Store

FORMAT: Final = 1
"""Version of the layout of the state. A replica refuses a state of another one."""

SCAVENGED_WRITES_A_COMMIT: Final = 8192
"""About so many writes are looked at, for what compaction left behind, in one commit."""

DIGEST_BYTES: Final = 16

_META_KEY: Final = b"state"


class AppliedCommand(Protocol):
    """What the machine needs of a command (`replica.consensus.interface.Command` satisfies it)."""

    @property
    def payload(self) -> bytes: ...

    @property
    def session(self) -> int: ...

    @property
    def sequence(self) -> int: ...

    @property
    def count(self) -> int: ...


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """A session was opened: ``nonce`` is the request's; ``evicted`` the session that made room for it (0: none)."""

    nonce: bytes
    session: int
    evicted: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """What applying one command came to: ``count`` results for the sequences from ``sequence`` on."""

    session: int
    sequence: int
    count: int
    opened: tuple[Opened, ...] = ()
    closed: tuple[int, ...] = ()
    """Sessions that the command closed."""
    first_revision: int = 0
    """Of a run that is nothing but puts that took effect: their revisions ascend from here. 0 for any other."""
    answers: list[AnyResult] | None = None
    """The results of any other run."""

    def results(self) -> list[AnyResult]:
        """The results, one an operation."""
        if self.answers is not None:
            return self.answers
        return [Written(revision) for revision in range(self.first_revision, self.first_revision + self.count)]

    def encoded(self) -> bytes:
        """The results as they stand in an answer: a MessagePack array."""
        return _encode(self.results())

    def pieces(self, bytes_max: int) -> list[tuple[int, int, bytes]]:
        """The results in pieces of about ``bytes_max`` bytes: (first sequence, count, encoded results) each.

        A single result may be as large as `RESULT_BYTES_MAX` and a little more.
        """
        whole = self.encoded()
        if len(whole) <= bytes_max:
            return [(self.sequence, self.count, whole)]
        pieces = []
        chunk: list[bytes] = []
        size = 0
        first = self.sequence
        for result in map(_encode, self.results()):
            if chunk and size + len(result) > bytes_max:
                pieces.append((first, len(chunk), array_header(len(chunk)) + b"".join(chunk)))
                first += len(chunk)
                chunk, size = [], 0
            chunk.append(result)
            size += len(result)
        pieces.append((first, len(chunk), array_header(len(chunk)) + b"".join(chunk)))
        return pieces


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """A fingerprint of the state at a position, the same on every replica that has applied as much."""

    applied: int
    revision: int
    keys: int
    digest: str
    """Hexadecimal, over live keys and sessions."""


class _Meta(msgspec.Struct, array_like=True):
    format: int
    applied: int
    revision: int
    compacted: int
    scavenged: int


_encode = msgspec.msgpack.Encoder().encode
_meta = msgspec.msgpack.Decoder(_Meta)


class StateMachine:
    """The state of one replica. Not thread-safe.

    ``sessions_max`` must be the same on all replicas.
    """

    def __init__(self, store: Store, *, sessions_max: int = SESSIONS_MAX) -> None:
        """Goes on from what the store holds. Raises `CorruptState`."""
        self.store = store
        self.history = History(store)
        self.sessions = Sessions(store, sessions_max=sessions_max)
        self.applied = 0
        self._load()

    def reload(self) -> None:
        """The store's contents were replaced (a snapshot was installed): go on from them. Raises `CorruptState`."""
        self.sessions.reload()
        self._load()

    def _load(self) -> None:
        data = self.store.get(META, _META_KEY)
        if data is None:
            meta = _Meta(FORMAT, 0, 0, 0, 0)
        else:
            try:
                meta = _meta.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CorruptState(META, _META_KEY, str(error)) from None
        if meta.format != FORMAT:
            raise CorruptState(META, _META_KEY, f"the layout is version {meta.format}, this program reads {FORMAT}")
        self.applied = meta.applied
        self.history.reset(meta.revision, meta.compacted, meta.scavenged)

    @property
    def revision(self) -> int:
        """The revision of the last change; 0 before the first."""
        return self.history.revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read, but for 0 before the first compaction."""
        return self.history.compacted

    # ------------------------------------------------------------------------------------------------------ applying

    def apply(self, position: int, commands: Sequence[AppliedCommand]) -> list[Outcome]:
        """Apply the commands decided at ``position``; an outcome for each, or none at all for a position passed before.

        Raises `ValueError` for a position that leaves a gap: something decided would be lost.
        """
        if position <= self.applied:
            return []
        if position != self.applied + 1:
            raise ValueError(f"position {position} cannot follow {self.applied}: what lies between is missing")
        outcomes = [self._command(command) for command in commands]
        self.applied = position
        return outcomes

    def advance(self, position: int) -> None:
        """``position`` was decided and holds nothing to apply (the seal of an epoch). No gaps here either."""
        self.apply(position, ())

    def commit(self) -> None:
        """Make everything applied so far survive the process, together."""
        self.history.scavenge(SCAVENGED_WRITES_A_COMMIT)
        self.prepare()
        self.store.commit()

    def prepare(self) -> None:
        """Bring the store's open transaction up to ``applied``, without ending it."""
        history = self.history
        history.flush()
        self.sessions.save()
        meta = _Meta(FORMAT, self.applied, history.revision, history.compacted, history.scavenged)
        self.store.put(META, _META_KEY, _encode(meta))

    def _command(self, command: AppliedCommand) -> Outcome:
        self.history.pace(len(command.payload))
        try:
            payload = unpack(command.payload)
        except MalformedOperation:
            return self._refuse(command, Failure.INVALID, _MALFORMED)
        operations = payload.operations
        if len(operations) != command.count:
            return self._refuse(command, Failure.INVALID, _MALFORMED)
        if not command.session:
            return self._execute(command, operations, payload.system)
        session = self.sessions.use(command.session)
        if session is None:
            return self._refuse(command, Failure.SESSION_UNKNOWN, _SESSION_UNKNOWN)
        session.acknowledge(payload.acknowledged)
        if not session.is_fresh(command.sequence, command.count):
            return self._sort_out(command, session, payload)
        outcome = self._execute(command, operations, payload.system)
        _record(session, operations, outcome)
        return outcome

    def _execute(self, command: AppliedCommand, operations: Sequence[AnyOperation], system: bool) -> Outcome:
        """Execute a run from end to end."""
        history = self.history
        outcome = Outcome(session=command.session, sequence=command.sequence, count=command.count)
        revision = history.revision
        done = 0 if system else history.put_plain(operations, 0)
        if done == len(operations):
            outcome.first_revision = revision + 1
            return outcome
        results: list[AnyResult] = [Written(revision + 1 + index) for index in range(done)]
        outcome.answers = results
        while done < len(operations):
            results.append(self._one(operations[done], system, outcome))
            done += 1
            if not system and done < len(operations):
                revision = history.revision
                end = history.put_plain(operations, done)
                results.extend(Written(revision + 1 + index) for index in range(end - done))
                done = end
        return outcome

    def _one(self, operation: AnyOperation, system: bool, outcome: Outcome) -> AnyResult:
        if isinstance(operation, OpenSession):
            opened, evicted = self.sessions.open()
            outcome.opened += (Opened(operation.nonce, opened, evicted),)
            return SessionOpened(self.history.revision, opened)
        if isinstance(operation, CloseSession):
            if self.sessions.close(operation.session):
                outcome.closed += (operation.session,)
            return SessionClosed(self.history.revision)
        return Evaluation(self.history, system=system).run(operation)

    def _sort_out(self, command: AppliedCommand, session: Session, payload: Payload) -> Outcome:
        """A run of which something was executed before, or lies outside the window: judge each sequence by itself."""
        outcome = Outcome(session=command.session, sequence=command.sequence, count=command.count)
        results: list[AnyResult] = []
        outcome.answers = results
        operations = payload.operations
        index = 0
        while index < len(operations):
            sequence = command.sequence + index
            if sequence <= session.acknowledged:
                results.append(self._failed(Failure.RESULT_FORGOTTEN, _FORGOTTEN))
                index += 1
            elif sequence > session.acknowledged + SESSION_WINDOW:
                results.append(self._failed(Failure.WINDOW, _BEYOND, session.acknowledged + SESSION_WINDOW))
                index += 1
            elif (run := session.find(sequence)) is not None:
                offset = sequence - run.first
                repeated = min(run.count - offset, len(operations) - index)
                recorded = recall(run)
                for step in range(repeated):
                    operation = operations[index + step]
                    if isinstance(operation, Get | Range):
                        result: AnyResult | None = self._one(operation, payload.system, outcome)
                    elif recorded is None:
                        result = self._failed(Failure.RESULT_FORGOTTEN, _FORGOTTEN)
                    else:
                        result = recorded[offset + step]
                    # None: the client has given the number of a read to another operation.
                    results.append(result or self._failed(Failure.INVALID, _REUSED))
                index += repeated
            else:
                end = index + 1
                while end < len(operations) and session.find(command.sequence + end) is None:
                    if command.sequence + end > session.acknowledged + SESSION_WINDOW:
                        break
                    end += 1
                part = _Part(command.payload, command.session, sequence, end - index)
                executed = self._execute(part, operations[index:end], payload.system)
                _record(session, operations[index:end], executed)
                results.extend(executed.results())
                outcome.opened += executed.opened
                outcome.closed += executed.closed
                index = end
        return outcome

    def _refuse(self, command: AppliedCommand, code: str, message: str) -> Outcome:
        answers: list[AnyResult] = [self._failed(code, message)] * command.count
        return Outcome(session=command.session, sequence=command.sequence, count=command.count, answers=answers)

    def _failed(self, code: str, message: str, detail: int = 0) -> Failed:
        return Failed(self.history.revision, code, message, detail)

    # ------------------------------------------------------------------------------------------------------- reading

    def query(self, operations: Sequence[ReadOperation]) -> list[AnyResult]:
        """Answer reads from the applied state; nothing changes.

        All answers together are bounded like one: reads beyond `RESULT_BYTES_MAX` fail as ``invalid``.
        """
        results: list[AnyResult] = []
        room = RESULT_BYTES_MAX
        for operation in operations:
            if room < 0:
                results.append(self._failed(Failure.INVALID, _TOO_MUCH))
                continue
            result = Evaluation(self.history, system=False).run(operation)
            if isinstance(result, Got):
                if result.item is not None:
                    room -= len(result.item.value)
            elif isinstance(result, Ranged):
                room -= sum(len(item.key) + len(item.value) for item in result.items)
            results.append(result)
        return results

    def digest(self) -> Digest:
        """The fingerprint of the state as applied: a scan of all live keys."""
        history = self.history
        total = 0
        keys = 0
        for item in history.interval(b"", b"", history.revision, system=True):
            keys += 1
            total += int.from_bytes(blake2b(_encode(item), digest_size=DIGEST_BYTES).digest(), "big")
        sessions = blake2b(self.sessions.canonical(), digest_size=DIGEST_BYTES).digest()
        total += int.from_bytes(sessions, "big")
        folded = total % (1 << (8 * DIGEST_BYTES))
        return Digest(self.applied, history.revision, keys, folded.to_bytes(DIGEST_BYTES, "big").hex())


class _Part(msgspec.Struct, frozen=True):
    """A part of a command, to be executed like one."""

    payload: bytes
    session: int
    sequence: int
    count: int


def _record(session: Session, operations: Sequence[AnyOperation], outcome: Outcome) -> None:
    """Remember an executed run in its session."""
    if outcome.answers is None:
        session.record_puts(outcome.sequence, outcome.count, outcome.first_revision)
        return
    kept = [
        None if isinstance(operation, Get | Range) else result
        for operation, result in zip(operations, outcome.answers, strict=True)
    ]
    session.record_results(outcome.sequence, outcome.count, _encode(kept))


# The texts are part of the replicated results, so they are ours and never a library's.
_MALFORMED: Final = "the run does not parse or lies beyond a limit; nothing of it was executed"
_SESSION_UNKNOWN: Final = (
    "the session was closed, evicted or never opened; nothing was executed now, "
    "an earlier attempt may have been: open a new session, and retry only what may take effect twice"
)
_FORGOTTEN: Final = (
    "the sequence was executed before, or given up, and its result is no longer kept; it is not executed again"
)
_BEYOND: Final = "the sequence lies beyond the session's window; nothing was changed, retry when results have come"
_REUSED: Final = "the sequence was used for a read before; nothing was changed"
_TOO_MUCH: Final = "the answers together exceed what one batch of reads may return; ask for less at once"
