"""The judge of register protocols.

There is no order of decisions and no applied state to look at: what counts is what clients see. Their histories are
judged key by key with the register model of `replica.verification`, by search, unknown outcomes included; at the end of
a run every key is read through every replica, so that a write that was acknowledged and is gone is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from replica.consensus.interface import Command, Configuration, Deliver, ReplicaId
from replica.kv import operations as kv
from replica.simulation.judge import Judge
from replica.simulation.machine import RegisterHome
from replica.simulation.record import record_registers
from replica.simulation.seen import Seen
from replica.simulation.violation import Violation
from replica.simulation.witness import Witness
from replica.simulation.world import World
from replica.verification import Budget, Header, Verdict, check
from replica.verification.history import Recorder

STATES_MAX: Final = 1_000_000
"""What the search may explore in one run; a history that needs more is reported as undecided, not as sound, and a
survey bears only a few of those."""


class RegisterOracle(Judge):
    """Judges one run of a register protocol."""

    checks = ("acknowledged implies decided", "definite refusals", "linearizability")

    def __init__(self, world: World, configuration: Configuration, witness: Witness) -> None:
        """See the base."""
        super().__init__(world, configuration, witness)
        self._written: dict[bytes, set[bytes]] = {}

    @property
    def positions(self) -> int:
        """See the base."""
        return 0

    def started(self, replica: ReplicaId, state: RegisterHome) -> None:
        """See the base."""

    def stopped(self, replica: ReplicaId) -> None:
        """See the base."""

    def moved(self, replica: ReplicaId, state: RegisterHome) -> None:
        """See the base."""
        raise Violation("invariants of the protocol", f"r{replica} installs a snapshot, and has registers")

    def delivered(self, replica: ReplicaId, delivery: Deliver, state: RegisterHome) -> None:
        """See the base."""
        raise Violation("invariants of the protocol", f"r{replica} delivers, and has registers")

    def applied(self, replica: ReplicaId, state: RegisterHome) -> None:
        """See the base."""

    def answered(self, replica: ReplicaId, command: Command) -> None:
        """See the base."""
        self.witness.answered(replica, command, self.configuration, self.ledgers)

    def complete(self, state: RegisterHome) -> bool:
        """See the base."""
        return True

    def final(self, replica: ReplicaId, state: RegisterHome) -> None:
        """See the base."""

    # ------------------------------------------------------------------------------------------------------- clients

    def sent(self, operation: kv.AnyOperation) -> None:
        """See the base."""
        if isinstance(operation, kv.Put):
            self._written.setdefault(operation.key, set()).add(operation.value)

    def forgotten(self, session: int) -> None:
        """See the base."""
        raise Violation("exactly once", f"session {session} was answered as unknown, and nothing remembers sessions")

    def was_decided(self, session: int, sequence: int) -> bool:
        """Nobody can tell; the search does, since whatever was refused definitely must not be seen."""
        return False

    def acknowledged(self, seen: Seen, result: kv.AnyResult) -> None:
        """See the base."""
        if isinstance(result, kv.Failed):
            raise Violation("acknowledged implies decided", f"{seen.operation!r} was answered {result!r}")
        if isinstance(seen.operation, kv.Get):
            self.read(seen.operation, result)

    def read(self, operation: kv.AnyOperation, result: kv.AnyResult) -> None:
        """See the base: a value that was read was written."""
        assert isinstance(operation, kv.Get)
        assert isinstance(result, kv.Got)
        if result.item is not None and result.item.value not in self._written.get(operation.key, ()):
            raise Violation("acknowledged implies decided", f"{operation!r} was answered {result!r}, never written")

    # ----------------------------------------------------------------------------------------------------------- end

    def linearizable(self, history: Sequence[Seen]) -> int:
        """See the base."""
        recorder = Recorder(Header(model="register"))
        self.record(recorder, history, ())
        report = check(recorder.history(), budget=Budget(states=STATES_MAX))
        if report.verdict is Verdict.VIOLATION:
            raise Violation("linearizability", report.explanation)
        if report.verdict is Verdict.UNKNOWN:
            self.undecided += 1
            self._world.count("histories that the search could not decide")
            return 0
        return report.operations

    def record(self, recorder: Recorder, history: Sequence[Seen], faults: Sequence[tuple[float, str]]) -> None:
        """See the base."""
        record_registers(recorder, history, faults)
