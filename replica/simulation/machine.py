"""The replicated state of a simulated host: the node's own state machine over a store in memory.

What the node keeps in its state environment dies in two ways. When the *process* crashes, the store goes back to its
last commit. When the *machine* loses power, nothing of it is trusted: the state is rebuilt from the snapshot that the
anchor names, and the log.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from replica.consensus.interface import Command
from replica.kv.layout import META, SESSIONS
from replica.kv.machine import Digest, StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import OpenSession
from replica.kv.runs import encode_operations, encode_results, pack_payload, unpack, validate_reads
from replica.kv.sessions import SESSIONS_MAX
from replica.simulation.planted import planted_sessions
from replica.simulation.violation import Violation
from replica.simulation.witness import Controls
from replica.storage.coordinator import Anchor


class Image(msgspec.Struct, frozen=True):
    """An immutable snapshot of a state at a frontier."""

    frontier: int
    store: MemoryStore


class Answer(msgspec.Struct, frozen=True):
    """What a client is owed for an applied command: results for its sequences, or the session it asked for."""

    session: int = 0
    first_sequence: int = 0
    count: int = 0
    results: bytes = b""
    nonce: bytes = b""
    opened: int = 0


class StateHome:
    """The state environment of one host. It outlives the processes that use it."""

    def __init__(self, *, sessions_max: int = SESSIONS_MAX, controls: Controls | None = None) -> None:
        self._sessions_max = sessions_max
        self._controls = controls or Controls()
        self._store = MemoryStore()
        self._trusted = True
        self._machine = self._build(self._store)

    def _build(self, store: MemoryStore) -> StateMachine:
        machine = StateMachine(store, sessions_max=self._sessions_max)
        sessions = planted_sessions(self._controls)
        if sessions is not None:
            machine.sessions = sessions(store, sessions_max=self._sessions_max)
        return machine

    # ----------------------------------------------------------------------------------------------------- lifecycle

    def crash(self, draw: random.Random, *, power: bool) -> None:
        """Lose what was not committed; with ``power``, everything: what is found then has holes."""
        self._store.crash()
        if power:
            self._trusted = not self._controls.power_distrusts_state
            for table, rows in self._store.contents().items():
                if table != META:
                    self._store.delete_many(table, [key for key in rows if draw.random() < 0.2])
            self._store.commit()

    def recover(self, anchor: Anchor, snapshots: Mapping[str, object]) -> bool:
        """Make the state usable at a start; True if it had to be rebuilt from the anchor's snapshot.

        A state that does not reach the anchor is no use either: the crash came between the anchor and the state.
        """
        if self._trusted:
            self._machine = self._build(self._store)
            frontier = anchor.frontier
            assert isinstance(frontier, int)
            if self._machine.applied >= frontier:
                return False
        self._trusted = True
        if anchor.snapshot:
            image = snapshots.get(anchor.snapshot)
            if image is None:
                raise Violation("acknowledged implies durable", f"snapshot {anchor.snapshot} is named and gone")
            assert isinstance(image, Image)
            self.load(image)
        else:
            self._store = MemoryStore()
            self._machine = self._build(self._store)
        return True

    def load(self, image: Image) -> None:
        """Replace the state by a snapshot, durably as far as processes go."""
        self._store = image.store.copy()
        self._machine = self._build(self._store)
        self._trusted = True

    def image(self, frontier: int) -> Image:
        """A snapshot of what has been applied, brought to ``frontier`` if a seal lies there."""
        self._machine.prepare()
        copy = self._store.copy()
        if frontier != self._machine.applied:
            twin = self._build(copy)
            twin.advance(frontier)
            twin.commit()
        if not self._controls.sessions_in_snapshots:
            copy.delete_many(SESSIONS, [key for key, _ in copy.scan(SESSIONS, b"", b"")])
        return Image(frontier, copy)

    def commit(self) -> None:
        """What was applied so far survives the process."""
        self._machine.commit()

    # ------------------------------------------------------------------------------------------------------ commands

    @property
    def applied(self) -> int:
        """The last position applied."""
        return self._machine.applied

    @property
    def revision(self) -> int:
        """The store's revision."""
        return self._machine.revision

    def apply(self, position: int, commands: Sequence[Command]) -> list[Answer]:
        """Apply what was decided at a position; returns what clients are owed."""
        answers: list[Answer] = []
        for outcome in self._machine.apply(position, commands):
            answers.extend(Answer(nonce=opened.nonce, opened=opened.session) for opened in outcome.opened)
            if outcome.session:
                answers.append(Answer(outcome.session, outcome.sequence, outcome.count, outcome.encoded()))
        return answers

    def read(self, operations: bytes) -> bytes:
        """Results of read-only operations on what has been applied."""
        return encode_results(self._machine.query(validate_reads(operations, operations[0] & 0x0F)))

    def digest(self) -> Digest:
        """The fingerprint of the state."""
        return self._machine.digest()

    @property
    def machine(self) -> StateMachine:
        """The state machine itself, for checks."""
        return self._machine

    # ------------------------------------------------------------------------------------------------------ payloads

    @staticmethod
    def payload(acknowledged: int, operations: bytes) -> bytes:
        """The payload of a command that carries a run."""
        return pack_payload(acknowledged, operations)

    @staticmethod
    def opening(nonce: bytes) -> bytes:
        """The payload of a command that opens a session."""
        return pack_payload(0, encode_operations([OpenSession(nonce)]))

    @staticmethod
    def nonce(payload: bytes) -> bytes:
        """The nonce of such a payload; empty for any other."""
        operation = unpack(payload).operations[0]
        return operation.nonce if isinstance(operation, OpenSession) else b""
