"""Knows everything that happens in a world, and objects at once when it must not.

The oracle stands outside the replicas. It is told of every delivery on every replica and keeps the one true sequence of
decisions, which the first replica to deliver a position establishes; every other replica, and every restart, has to
agree with it. Beside that it executes the sequence on a `Model`, and holds each answer that a client receives
against the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from replica.consensus.interface import Command, Configuration, Deliver, ReplicaId, Sealed
from replica.kv import operations as kv
from replica.kv.sessions import SESSIONS_MAX
from replica.simulation.checks import check_real_time
from replica.simulation.judge import Judge
from replica.simulation.machine import StateHome
from replica.simulation.model import Model, same_result
from replica.simulation.record import record
from replica.simulation.seen import Seen
from replica.simulation.violation import Violation
from replica.simulation.witness import Witness
from replica.simulation.world import World
from replica.verification.history import Recorder

DIGEST_EVERY = 32
"""Positions between two comparisons of whole states; revisions are compared at each."""

Decision: TypeAlias = "tuple[Command, ...] | Configuration"
"""Commands, or the configuration that a seal decides on."""


class Oracle(Judge):
    """Judges protocols with one order over all commands."""

    checks = (
        "one value per slot",
        "prefixes",
        "state digests",
        "acknowledged implies decided",
        "acknowledged implies durable",
        "exactly once",
        "definite refusals",
        "linearizability",
    )

    def __init__(
        self, world: World, configuration: Configuration, witness: Witness, *, sessions_max: int = SESSIONS_MAX
    ) -> None:
        """See the base."""
        super().__init__(world, configuration, witness)
        self.model = Model(sessions_max=sessions_max)
        self.decisions: list[Decision] = []
        """What was decided, by position less one."""
        self._at: dict[ReplicaId, int] = {}
        self._revisions: dict[int, int] = {0: 0}
        self._digests: dict[int, str] = {}
        self._decided: set[tuple[int, int]] = set()

    @property
    def positions(self) -> int:
        """See the base."""
        return len(self.decisions)

    # ------------------------------------------------------------------------------------------------------ replicas

    def started(self, replica: ReplicaId, state: StateHome) -> None:
        """See the base."""
        applied = state.applied
        if applied > len(self.decisions):
            raise Violation("prefixes", f"r{replica} starts at {applied}, only {len(self.decisions)} were decided")
        self._at[replica] = applied

    def stopped(self, replica: ReplicaId) -> None:
        """See the base."""
        self._at.pop(replica, None)

    def moved(self, replica: ReplicaId, state: StateHome) -> None:
        """See the base."""
        frontier = state.applied
        if frontier > len(self.decisions):
            raise Violation("prefixes", f"r{replica} installs {frontier}, only {len(self.decisions)} were decided")
        if frontier < self._at.get(replica, 0):
            raise Violation("prefixes", f"r{replica} goes back from {self._at[replica]} to {frontier}")
        self._at[replica] = frontier
        self._compare(replica, state, whole=True)

    def delivered(self, replica: ReplicaId, delivery: Deliver, state: StateHome) -> None:
        """See the base."""
        position = delivery.position
        if position != self._at[replica] + 1:
            raise Violation("prefixes", f"r{replica} delivers position {position} after {self._at[replica]}")
        self._at[replica] = position
        self._decide(replica, position, delivery.commands)

    def sealed(self, replica: ReplicaId, sealed: Sealed) -> None:
        """See the base."""
        frontier = sealed.frontier
        assert isinstance(frontier, int)
        if frontier != self._at[replica] + 1:
            raise Violation("prefixes", f"r{replica} seals at {frontier} after {self._at[replica]}")
        self._decide(replica, frontier, sealed.configuration)

    def _decide(self, replica: ReplicaId, position: int, decision: Decision) -> None:
        if position <= len(self.decisions):
            if self.decisions[position - 1] != decision:
                raise Violation(
                    "one value per slot",
                    f"r{replica} delivers {_brief(decision)} at position {position}, "
                    f"where {_brief(self.decisions[position - 1])} was delivered before",
                )
            return
        if position != len(self.decisions) + 1:
            raise Violation("prefixes", f"r{replica} delivers {position} when {len(self.decisions)} were decided")
        self.decisions.append(decision)
        if isinstance(decision, Configuration):
            self.configuration = decision
            self.configurations.append(decision)
        else:
            self.witness.decided(position, decision, self.configuration, self.ledgers)
            for command in decision:
                for offset in range(command.count):
                    self._decided.add((command.session, command.sequence + offset))
            self.model.execute(decision)

    def applied(self, replica: ReplicaId, state: StateHome) -> None:
        """See the base."""
        self._compare(replica, state, whole=state.applied % DIGEST_EVERY == 0)

    def _compare(self, replica: ReplicaId, state: StateHome, *, whole: bool) -> None:
        position, revision = state.applied, state.revision
        known = self._revisions.setdefault(position, revision)
        if known != revision:
            raise Violation(
                "state digests", f"r{replica} is at revision {revision} at position {position}, others at {known}"
            )
        if whole:
            self.compare_digest(replica, state)

    def compare_digest(self, replica: ReplicaId, state: StateHome) -> None:
        """Hold a state against the others at the same position."""
        digest = state.digest().digest
        known = self._digests.setdefault(state.applied, digest)
        if known != digest:
            raise Violation(
                "state digests", f"r{replica} has digest {digest} at position {state.applied}, others have {known}"
            )

    # ------------------------------------------------------------------------------------------------------- clients

    def was_decided(self, session: int, sequence: int) -> bool:
        """See the base."""
        return (session, sequence) in self._decided

    def opened(self, nonce: bytes, session: int) -> None:
        """See the base."""
        if session not in self.model.openings.get(nonce, ()):
            raise Violation("acknowledged implies decided", f"session {session} was never opened for its nonce")

    def forgotten(self, session: int) -> None:
        """See the base."""
        if session not in self.model.evicted:
            raise Violation("exactly once", f"session {session} is open and was answered as unknown")

    def acknowledged(self, seen: Seen, result: kv.AnyResult) -> None:
        """See the base."""
        session, sequence = seen.session, seen.sequence
        expected = self.model.executed.get((session, sequence))
        if expected is None:
            raise Violation(
                "acknowledged implies decided",
                f"operation {session}:{sequence} was answered {result!r} and is in no decided command",
            )
        if not any(same_result(result, each) for each in expected):
            raise Violation(
                "exactly once",
                f"operation {session}:{sequence} was answered {result!r}, its one execution gives {expected[0]!r}",
            )

    def read(self, operation: kv.AnyOperation, result: kv.AnyResult) -> None:
        """See the base."""
        if result.revision > self.model.revision:
            raise Violation("linearizable reads", f"a read saw revision {result.revision}, before it was decided")
        expected = self.model.read_at(operation, result.revision)
        if not same_result(result, expected):
            raise Violation(
                "linearizable reads", f"{operation!r} was answered {result!r}; at that revision it is {expected!r}"
            )

    # ----------------------------------------------------------------------------------------------------------- end

    def complete(self, state: StateHome) -> bool:
        """See the base."""
        return state.applied == len(self.decisions)

    def final(self, replica: ReplicaId, state: StateHome) -> None:
        """A replica that stands at the end of the sequence holds what the model holds."""
        self.compare_digest(replica, state)
        if state.applied != len(self.decisions):
            raise Violation("prefixes", f"r{replica} stands at {state.applied} of {len(self.decisions)}")
        answered = state.machine.query([kv.Range(b"", b"")])[0]
        assert isinstance(answered, kv.Ranged)
        expected = tuple(self.model.live[key] for key in sorted(self.model.live))
        if answered.items != expected or answered.revision != self.model.revision:
            raise Violation(
                "acknowledged implies durable",
                f"r{replica} holds {len(answered.items)} keys at revision {answered.revision}, "
                f"the decided commands give {len(expected)} at {self.model.revision}",
            )

    def linearizable(self, history: Sequence[Seen]) -> int:
        """See the base."""
        return check_real_time(history)

    def record(self, recorder: Recorder, history: Sequence[Seen], faults: Sequence[tuple[float, str]]) -> None:
        """See the base."""
        record(recorder, history, self.model, faults)


def _brief(decision: Decision) -> str:
    if isinstance(decision, Configuration):
        return f"the seal of epoch {decision.epoch - 1}"
    if not decision:
        return "a no-op"
    return " and ".join(f"{command.session}:{command.sequence}+{command.count}" for command in decision)
