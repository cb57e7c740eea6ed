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

`apply` returns an `Outcome` a command (`replica.kv.outcomes`). Encoding it costs something and only the replica to
which the client is attached needs it, so that is left to `Outcome.encoded`.

Durability is the driver's: everything since the last `commit` is lost in a crash, as a whole, and applied again from
the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Protocol, cast

import msgspec

from .evaluation import Evaluation
from .execution import CROWDED, MALFORMED, SESSION_UNKNOWN, Execution
from .history import History
from .layout import META, CorruptState
from .leases import Leases
from .operations import (
    LEASES_MAX,
    RESULT_BYTES_MAX,
    REVISION_MAX,
    AnyOperation,
    AnyResult,
    Failed,
    Failure,
    ReadOperation,
)
from .outcomes import Opened, Outcome
from .runs import MalformedOperation, Payload, unpack
from .sessions import SESSIONS_MAX, Sessions
from .store import Reader, Store

FORMAT: Final = 2
"""Version of the layout of the state. A replica refuses a state of another one."""

SCAVENGED_WRITES_A_COMMIT: Final = 8192
"""About so many writes are looked at, for what compaction left behind, in one commit."""

DIGEST_BYTES: Final = 16

DIGEST_STRETCH_KEYS: Final = 64
"""Keys that a digest takes in between two calls of what it was given to call."""

FORESEEN_BYTES_MAX: Final = 4 << 20
"""Payloads that may be remembered with what they were parsed into, in bytes."""

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


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """A fingerprint of the state at a position, the same on every replica that has applied as much."""

    applied: int
    revision: int
    keys: int
    digest: str
    """Hexadecimal, over live keys, sessions, leases and where the history begins."""


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

    ``sessions_max`` and ``leases_max`` must be the same on all replicas.
    """

    def __init__(self, store: Store, *, sessions_max: int = SESSIONS_MAX, leases_max: int = LEASES_MAX) -> None:
        """Goes on from what the store holds. Raises `CorruptState`."""
        self.store = store
        self.leases = Leases(store, leases_max=leases_max)
        self.history = History(store, self.leases)
        self.sessions = Sessions(store, sessions_max=sessions_max)
        self.applied = 0
        # By identity: a payload that is held here keeps its number.
        self._foreseen: dict[int, tuple[bytes, Payload]] = {}
        self._foreseen_bytes = 0
        self._load()

    def reload(self) -> None:
        """The store's contents were replaced (a snapshot was installed): go on from them. Raises `CorruptState`."""
        self.sessions.reload()
        self.leases.reload()
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

    @property
    def settled(self) -> bool:
        """Is there nothing left for `settle` to do?"""
        return self.history.settled

    def settle(self) -> None:
        """Do what applying has put off because no answer needs it. Whoever has sent the answers calls this; what needs
        it done before, does it.
        """
        self.history.settle()

    def advance(self, position: int) -> None:
        """``position`` was decided and holds nothing to apply (the seal of an epoch). No gaps here either."""
        self.apply(position, ())

    def commit(self) -> None:
        """Make everything applied so far survive the process, together."""
        self.history.scavenge(SCAVENGED_WRITES_A_COMMIT)
        self.prepare()
        self.store.commit()

    @property
    def scavenging(self) -> bool:
        """Has compaction left behind more than one commit removes? Then the next one goes on with it."""
        return self.history.scavenged < self.history.compacted

    def prepare(self) -> None:
        """Bring the store's open transaction up to ``applied``, without ending it."""
        history = self.history
        history.flush()
        self.sessions.save()
        self.leases.save()
        meta = _Meta(FORMAT, self.applied, history.revision, history.compacted, history.scavenged)
        self.store.put(META, _META_KEY, _encode(meta))

    def foresee(self, payload: bytes, acknowledged: int, operations: Sequence[AnyOperation]) -> None:
        """``payload`` was packed here, of operations that have been parsed and found good: when it comes back, as this
        very object, it need not be parsed again.
        """
        if acknowledged > REVISION_MAX:
            return
        self._foreseen[id(payload)] = payload, Payload(acknowledged, list(operations))
        self._foreseen_bytes += len(payload)
        while self._foreseen_bytes > FORESEEN_BYTES_MAX:
            # What is decided elsewhere, or refused, never comes back.
            oldest = next(iter(self._foreseen))
            self._foreseen_bytes -= len(self._foreseen.pop(oldest)[0])

    def _parse(self, payload: bytes) -> Payload:
        foreseen = self._foreseen.pop(id(payload), None) if self._foreseen else None
        if foreseen is None:
            return unpack(payload)
        self._foreseen_bytes -= len(payload)
        return foreseen[1]

    def _command(self, command: AppliedCommand) -> Outcome:
        self.history.pace(len(command.payload))
        try:
            payload = self._parse(command.payload)
        except MalformedOperation:
            return self._refuse(command, Failure.INVALID, MALFORMED)
        operations = payload.operations
        if len(operations) != command.count:
            return self._refuse(command, Failure.INVALID, MALFORMED)
        session = None
        fresh = True
        if command.session:
            session = self.sessions.use(command.session)
            if session is None:
                return self._refuse(command, Failure.SESSION_UNKNOWN, SESSION_UNKNOWN)
            session.acknowledge(payload.acknowledged)
            fresh = session.is_fresh(command.sequence, command.count)
        outcome = Outcome(session=command.session, sequence=command.sequence, count=command.count)
        history = self.history
        done = 0
        revision = history.revision
        if fresh and not payload.system:
            # Nearly every run is plain puts from end to end, none executed before: then this is all there is to do.
            done = history.put_plain(operations, 0)
            if done == len(operations):
                outcome.first_revision = revision + 1
                if session is not None:
                    session.record_puts(command.sequence, done, revision + 1)
                return outcome
        execution = Execution(history, self.sessions, outcome, session, payload)
        if fresh:
            execution.execute(0, len(operations), puts=range(revision + 1, revision + 1 + done))
        else:
            execution.sort_out()
        return outcome

    def _refuse(self, command: AppliedCommand, code: str, message: str) -> Outcome:
        answers: list[AnyResult] = [Failed(self.history.revision, code, message)] * command.count
        return Outcome(session=command.session, sequence=command.sequence, count=command.count, answers=answers)

    # ------------------------------------------------------------------------------------------------------- reading

    def query(self, operations: Sequence[ReadOperation]) -> list[AnyResult]:
        """Answer reads from the applied state; nothing changes.

        All answers together are bounded like one: once they have reached `RESULT_BYTES_MAX`, the rest fails as
        ``crowded``. The first is always answered.
        """
        results: list[AnyResult] = []
        room = RESULT_BYTES_MAX
        for operation in operations:
            if room <= 0:
                results.append(Failed(self.history.revision, Failure.CROWDED, CROWDED))
                continue
            evaluation = Evaluation(self.history, system=False)
            results.append(evaluation.run(operation))
            room -= evaluation.spent
        return results

    def digest(self, *, between: Callable[[], None] | None = None) -> Digest:
        """The fingerprint of the state as applied: a scan of all live keys.

        ``between`` is called every `DIGEST_STRETCH_KEYS` keys; what it raises ends the scan.
        """
        history = self.history
        total = 0
        keys = 0
        for item in history.interval(b"", b"", history.revision, system=True):
            keys += 1
            total += int.from_bytes(blake2b(_encode(item), digest_size=DIGEST_BYTES).digest(), "big")
            if between is not None and keys % DIGEST_STRETCH_KEYS == 0:
                between()
        sessions = blake2b(self.sessions.canonical(), digest_size=DIGEST_BYTES).digest()
        total += int.from_bytes(sessions, "big")
        if history.compacted:
            compacted = blake2b(b"compacted" + _encode(history.compacted), digest_size=DIGEST_BYTES).digest()
            total += int.from_bytes(compacted, "big")
        if self.leases.used:
            leases = blake2b(self.leases.canonical(), digest_size=DIGEST_BYTES).digest()
            total += int.from_bytes(leases, "big")
        folded = total % (1 << (8 * DIGEST_BYTES))
        return Digest(self.applied, history.revision, keys, folded.to_bytes(DIGEST_BYTES, "big").hex())


def write_meta(store: Store, *, revision: int) -> None:
    """Have a store that was filled by hand stand at ``revision``, before any command, its history beginning there."""
    store.put(META, _META_KEY, _encode(_Meta(FORMAT, 0, revision, revision, revision)))


def digest_of(reader: Reader, *, between: Callable[[], None] | None = None) -> Digest:
    """What `StateMachine.digest` says of the state that ``reader`` holds as it was committed. Raises `CorruptState`."""
    # A machine that was just loaded has nothing to write, and neither loading nor the digest writes by itself.
    return StateMachine(cast("Store", reader)).digest(between=between)


__all__ = ["AppliedCommand", "Digest", "Opened", "Outcome", "StateMachine", "digest_of", "write_meta"]
