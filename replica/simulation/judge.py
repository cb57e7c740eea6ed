"""What stands outside the replicas, is told of everything that happens, and objects at once.

There is a judge for each shape of decision: `replica.simulation.oracle` for one order, `replica.simulation.objects` for
orders by object, `replica.simulation.registers` for registers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from replica.consensus.interface import Command, Configuration, Deliver, Install, ReplicaId, Sealed
from replica.kv import operations as kv
from replica.simulation.seen import Seen
from replica.simulation.violation import Violation
from replica.simulation.witness import Ledger, Witness
from replica.simulation.world import World
from replica.verification.history import Recorder


class Judge(ABC):
    """Judges one run while it happens. ``state`` is always the home of the state of the replica concerned."""

    checks: tuple[str, ...]
    """What is checked whenever the protocol's capabilities make it meaningful, by name."""

    def __init__(self, world: World, configuration: Configuration, witness: Witness) -> None:
        """``configuration`` is that of the first epoch."""
        self._world = world
        self.configuration = configuration
        """Of the present epoch, as far as anybody has got."""
        self.configurations: list[Configuration] = []
        """Those that were decided, in order."""
        self.witness = witness
        self.ledgers: dict[ReplicaId, Ledger] = {}
        self.refusals = 0
        self.undecided = 0
        """Histories that a search could neither find sound nor refute."""
        self._minted: set[int] = set()

    # ------------------------------------------------------------------------------------------------------ replicas

    @property
    @abstractmethod
    def positions(self) -> int:
        """How many positions were decided, of all objects together."""

    @abstractmethod
    def started(self, replica: ReplicaId, state: Any) -> None:
        """A replica comes up."""

    @abstractmethod
    def stopped(self, replica: ReplicaId) -> None:
        """A replica's process has ended."""

    @abstractmethod
    def moved(self, replica: ReplicaId, state: Any) -> None:
        """A replica's state was replaced by a snapshot, or carried over a seal."""

    @abstractmethod
    def delivered(self, replica: ReplicaId, delivery: Deliver, state: Any) -> None:
        """A replica is about to apply a delivery."""

    @abstractmethod
    def applied(self, replica: ReplicaId, state: Any) -> None:
        """A replica has applied a delivery."""

    def sealed(self, replica: ReplicaId, sealed: Sealed) -> None:
        """A replica has reached the seal of an epoch."""
        raise Violation("invariants of the protocol", f"r{replica} reports a seal, and declares no reconfiguration")

    def installed(self, replica: ReplicaId, install: Install, state: Any) -> None:
        """A replica has replaced an object by an image of it."""
        raise Violation("invariants of the protocol", f"r{replica} installs an object, and has one order for all")

    def answered(self, replica: ReplicaId, command: Command) -> None:
        """A replica answers a command by itself."""
        raise Violation("invariants of the protocol", f"r{replica} answers a command, and has no registers")

    @abstractmethod
    def complete(self, state: Any) -> bool:
        """Has everything that was decided been applied there?"""

    @abstractmethod
    def final(self, replica: ReplicaId, state: Any) -> None:
        """At the end: a complete state holds what it has to. Raises `Violation`."""

    # ------------------------------------------------------------------------------------------------------- clients

    def sent(self, operation: kv.AnyOperation) -> None:  # noqa: B027 - only some judges remember it
        """A client asks for an operation."""

    def refused(self, replica: ReplicaId, command: Command) -> None:
        """A replica has refused a command definitely."""
        self.refusals += 1

    def minted(self, session: int) -> None:
        """A replica has named a session."""
        if session in self._minted:
            raise Violation("exactly once", f"session {session} was named twice")
        self._minted.add(session)

    def opened(self, nonce: bytes, session: int) -> None:
        """A client was told that its session is open."""
        if session not in self._minted:
            raise Violation("acknowledged implies decided", f"session {session} was never named")

    @abstractmethod
    def forgotten(self, session: int) -> None:
        """A client was told that its session is not known."""

    @abstractmethod
    def was_decided(self, session: int, sequence: int) -> bool:
        """Has the operation been decided?"""

    @abstractmethod
    def acknowledged(self, seen: Seen, result: kv.AnyResult) -> None:
        """A client has received a result."""

    @abstractmethod
    def read(self, operation: kv.AnyOperation, result: kv.AnyResult) -> None:
        """A client has received the answer to a read outside the log."""

    # ----------------------------------------------------------------------------------------------------------- end

    @abstractmethod
    def linearizable(self, history: Sequence[Seen]) -> int:
        """Real time agrees with the order of decisions; for how many operations was that shown? Raises `Violation`."""

    @abstractmethod
    def record(self, recorder: Recorder, history: Sequence[Seen], faults: Sequence[tuple[float, str]]) -> None:
        """Write down what the clients saw."""
