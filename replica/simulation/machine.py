"""The replicated state of a simulated host: the node's own state machines over a store in memory.

What the node keeps in its state environment dies in two ways. When the *process* crashes, the store goes back to its
last commit. When the *machine* loses power, nothing of it is trusted: the state is rebuilt from the snapshot that the
anchor names, and the log.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping

import msgspec

from replica.consensus.frontiers import covers
from replica.consensus.interface import Capabilities, Command, Deliver, Footprint, Frontier, Install, Registers
from replica.kv.layout import META, SESSIONS
from replica.kv.machine import Digest, StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.objects import Abilities, AtomicRegisters, ObjectMachine, PlainRegisters, cut
from replica.kv.objects.machine import KEYS
from replica.kv.objects.record import decode_record, encode_record
from replica.kv.operations import RUN_OPERATIONS_MAX, OpenSession
from replica.kv.runs import (
    encode_operations,
    encode_results,
    footprint,
    pack_payload,
    unpack,
    validate_reads,
    validate_run,
)
from replica.kv.sessions import SESSIONS_MAX
from replica.simulation import frames
from replica.simulation.planted import planted_sessions
from replica.simulation.violation import Violation
from replica.simulation.witness import Controls
from replica.storage.coordinator import Anchor


class Image(msgspec.Struct, frozen=True):
    """An immutable snapshot of a state at a frontier."""

    frontier: Frontier
    store: MemoryStore


class Answer(msgspec.Struct, frozen=True):
    """What a client is owed for an applied command: results for its sequences, or the session it asked for."""

    session: int = 0
    first_sequence: int = 0
    count: int = 0
    results: bytes = b""
    nonce: bytes = b""
    opened: int = 0


class Home(ABC):
    """The state environment of one host. It outlives the processes that use it.

    What differs by the shape of a protocol's decisions is in the subclasses.
    """

    def __init__(self, controls: Controls | None) -> None:
        self._controls = controls or Controls()
        self._store = MemoryStore()
        self._trusted = True
        self._open(self._store)

    # ----------------------------------------------------------------------------------------------------- lifecycle

    @abstractmethod
    def _open(self, store: MemoryStore) -> None:
        """Go on from what the store holds."""

    @abstractmethod
    def _prepare(self) -> None:
        """Bring the store's open transaction up to what was applied."""

    @property
    @abstractmethod
    def applied(self) -> Frontier:
        """Where the state stands."""

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
            self._open(self._store)
            if covers(self.applied, anchor.frontier):
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
            self._open(self._store)
        return True

    def load(self, image: Image) -> None:
        """Replace the state by a snapshot, durably as far as processes go."""
        self._store = image.store.copy()
        self._open(self._store)
        self._trusted = True

    def image(self, frontier: Frontier) -> Image:
        """A snapshot of what has been applied, brought to ``frontier`` if a seal lies there."""
        self._prepare()
        copy = self._store.copy()
        if frontier != self.applied:
            self._advance(copy, frontier)
        if not self._controls.sessions_in_snapshots:
            self._strip(copy)
        return Image(frontier, copy)

    def _advance(self, store: MemoryStore, frontier: Frontier) -> None:
        """Take the state in ``store`` over the seal at ``frontier``. Raises `ValueError` where there are no seals."""
        raise ValueError(f"the state stands at {self.applied}, not at {frontier}")

    @abstractmethod
    def _strip(self, store: MemoryStore) -> None:
        """Take the sessions out of a snapshot."""

    def commit(self) -> None:
        """What was applied so far survives the process."""
        self._prepare()
        self._store.commit()

    # ------------------------------------------------------------------------------------------------------ commands

    newest_session: int | None = None
    """The highest session id seen, where replicas mint them; None where sessions are registered through the log."""
    registers: Registers | None = None
    """What the records of a register protocol mean."""

    @abstractmethod
    def apply(self, delivery: Deliver) -> list[Answer]:
        """Apply what was decided at a position; returns what clients are owed."""

    def install(self, install: Install) -> bool:
        """Replace an object by what a peer has exported; False when it was further already."""
        raise AssertionError("the protocol does not order by object")

    def export(self, name: str) -> tuple[int, bytes]:
        """As `replica.consensus.interface.Objects.export`."""
        raise AssertionError("the protocol does not order by object")

    @abstractmethod
    def read(self, operations: bytes) -> bytes:
        """Results of read-only operations on what has been applied."""

    def footprint(self, operations: bytes) -> Footprint | None:
        """What reads touch, for protocols that ask for it."""
        return None

    def commands(self, run: frames.Run) -> list[Command]:
        """The commands that a client's run is proposed as."""
        return [Command(pack_payload(run.acknowledged, run.operations), run.session, run.first_sequence, run.count)]

    # ------------------------------------------------------------------------------------------------------ payloads

    @staticmethod
    def opening(nonce: bytes) -> bytes:
        """The payload of a command that opens a session."""
        return pack_payload(0, encode_operations([OpenSession(nonce)]))

    @staticmethod
    def nonce(payload: bytes) -> bytes:
        """The nonce of such a payload; empty for any other."""
        operation = unpack(payload).operations[0]
        return operation.nonce if isinstance(operation, OpenSession) else b""


class StateHome(Home):
    """For protocols with one order over all commands."""

    machine: StateMachine

    def __init__(self, *, sessions_max: int = SESSIONS_MAX, controls: Controls | None = None) -> None:
        self._sessions_max = sessions_max
        super().__init__(controls)

    def _open(self, store: MemoryStore) -> None:
        self.machine = self._build(store)

    def _build(self, store: MemoryStore) -> StateMachine:
        machine = StateMachine(store, sessions_max=self._sessions_max)
        sessions = planted_sessions(self._controls)
        if sessions is not None:
            machine.sessions = sessions(store, sessions_max=self._sessions_max)
        return machine

    def _prepare(self) -> None:
        self.machine.prepare()

    def _advance(self, store: MemoryStore, frontier: Frontier) -> None:
        assert isinstance(frontier, int)
        twin = self._build(store)
        twin.advance(frontier)
        twin.commit()

    def _strip(self, store: MemoryStore) -> None:
        store.delete_many(SESSIONS, [key for key, _ in store.scan(SESSIONS, b"", b"")])

    def commit(self) -> None:
        """See the base."""
        self.machine.commit()

    @property
    def applied(self) -> int:
        """The last position applied."""
        return self.machine.applied

    @property
    def revision(self) -> int:
        """The store's revision."""
        return self.machine.revision

    def apply(self, delivery: Deliver) -> list[Answer]:
        """See the base."""
        answers: list[Answer] = []
        for outcome in self.machine.apply(delivery.position, delivery.commands):
            answers.extend(Answer(nonce=opened.nonce, opened=opened.session) for opened in outcome.opened)
            if outcome.session:
                answers.append(Answer(outcome.session, outcome.sequence, outcome.count, outcome.encoded()))
        return answers

    def read(self, operations: bytes) -> bytes:
        """See the base."""
        return encode_results(self.machine.query(validate_reads(operations, operations[0] & 0x0F)))

    def digest(self) -> Digest:
        """The fingerprint of the state."""
        return self.machine.digest()


class ObjectHome(Home):
    """For protocols that order by object."""

    machine: ObjectMachine

    def __init__(self, abilities: Abilities, *, sessions_max: int, controls: Controls | None = None) -> None:
        self.abilities = abilities
        self._sessions_max = sessions_max
        super().__init__(controls)

    def _open(self, store: MemoryStore) -> None:
        self.machine = ObjectMachine(store, abilities=self.abilities, sessions_max=self._sessions_max)

    def _prepare(self) -> None:
        self.machine.prepare()

    def _strip(self, store: MemoryStore) -> None:
        for key, data in list(store.scan(KEYS, b"", b"")):
            record = decode_record(data)
            record.sessions.clear()
            store.put(KEYS, key, encode_record(record))

    @property
    def applied(self) -> dict[str, int]:
        """The frontier of each object."""
        return self.machine.applied

    @property
    def newest_session(self) -> int:  # type: ignore[override]
        """See the base."""
        return self.machine.newest_session

    def apply(self, delivery: Deliver) -> list[Answer]:
        """See the base."""
        outcomes = self.machine.apply(delivery.object, delivery.position, delivery.commands)
        return [
            Answer(outcome.session, outcome.sequence, outcome.count, outcome.encoded())
            for outcome in outcomes
            if outcome.session
        ]

    def install(self, install: Install) -> bool:
        """See the base."""
        return self.machine.install(install.object, install.position, install.image)

    def export(self, name: str) -> tuple[int, bytes]:
        """See the base."""
        return self.machine.export(name)

    def read(self, operations: bytes) -> bytes:
        """See the base."""
        return encode_results(self.machine.query(validate_reads(operations, operations[0] & 0x0F)))

    def footprint(self, operations: bytes) -> Footprint | None:
        """See the base."""
        return Footprint(*footprint(validate_reads(operations, operations[0] & 0x0F)))

    def commands(self, run: frames.Run) -> list[Command]:
        """See the base."""
        return _cut(run)


class RegisterHome(Home):
    """For register protocols: the records are the protocol's own, so there is nothing here but what they mean."""

    newest_session = 0

    def __init__(self, abilities: Abilities, *, sessions_max: int, controls: Controls | None = None) -> None:
        self.abilities = abilities
        self.registers = AtomicRegisters(sessions_max=sessions_max) if abilities.compare_and_set else PlainRegisters()
        super().__init__(controls)

    def _open(self, store: MemoryStore) -> None:
        pass

    def _prepare(self) -> None:
        pass

    def _strip(self, store: MemoryStore) -> None:
        pass

    @property
    def applied(self) -> dict[str, int]:
        """Nothing is ever applied."""
        return {}

    def apply(self, delivery: Deliver) -> list[Answer]:
        """See the base."""
        raise AssertionError("a register protocol answers by itself")

    def read(self, operations: bytes) -> bytes:
        """See the base."""
        raise AssertionError("registers are read through the protocol")

    def commands(self, run: frames.Run) -> list[Command]:
        """See the base."""
        return _cut(run)


def _cut(run: frames.Run) -> list[Command]:
    """A command for each key that a run touches in a row."""
    parts = cut(
        validate_run(run.operations, run.count),
        run.operations,
        acknowledged=run.acknowledged,
        operations_max=RUN_OPERATIONS_MAX,
    )
    return [
        Command(part.payload, run.session, run.first_sequence + part.offset, part.count, Footprint(*part.touched))
        for part in parts
    ]


def make_home(capabilities: Capabilities, *, sessions_max: int, controls: Controls) -> Home:
    """The state for a protocol of that shape."""
    abilities = abilities_of(capabilities)
    if capabilities.registers:
        return RegisterHome(abilities, sessions_max=sessions_max, controls=controls)
    if capabilities.total_order:
        return StateHome(sessions_max=sessions_max, controls=controls)
    return ObjectHome(abilities, sessions_max=sessions_max, controls=controls)


def abilities_of(capabilities: Capabilities) -> Abilities:
    """What the store can do under a protocol."""
    return Abilities(
        total_order=capabilities.total_order,
        transactions=capabilities.transactions,
        compare_and_set=capabilities.compare_and_set,
    )
