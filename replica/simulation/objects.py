"""The judge of protocols that order by object.

There is no one sequence of decisions, so the judge keeps one for each key: of the commands that may write it, in the
order in which the first replica to deliver each of them did. Every other replica, and every restart, has to deliver
them in the same order, and reads between the same two of them; and whoever delivers a position of an object has to
deliver what anybody else did. Beside that the commands are executed on a `PlainStore`, as they are first delivered, and
each answer that a client receives is held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from replica.consensus.interface import Command, Configuration, Deliver, Footprint, Install, ReplicaId
from replica.kv import operations as kv
from replica.kv.objects.positions import Positions
from replica.kv.runs import footprint, unpack
from replica.simulation.judge import Judge
from replica.simulation.machine import ObjectHome
from replica.simulation.model import same_result
from replica.simulation.plain import Execution, PlainStore
from replica.simulation.record import record_plainly
from replica.simulation.seen import OK, Seen
from replica.simulation.serial import Placed, check_serial
from replica.simulation.violation import Violation
from replica.simulation.witness import Witness
from replica.simulation.world import World
from replica.verification.history import Recorder

DIGEST_EVERY: Final = 16
"""Deliveries of a replica between two comparisons of whole states."""

Place: TypeAlias = tuple[str, int, int]
"""A decided command: object, position, and its index at that position."""


class ObjectOracle(Judge):
    """Judges one run of a protocol that orders by object."""

    checks = (
        "one value per slot",
        "one order per key",
        "state digests",
        "acknowledged implies decided",
        "acknowledged implies durable",
        "exactly once",
        "definite refusals",
        "linearizability",
    )

    def __init__(self, world: World, configuration: Configuration, witness: Witness, *, sessions_max: int) -> None:
        """See the base."""
        super().__init__(world, configuration, witness)
        self.store = PlainStore(sessions_max=sessions_max)
        self._decisions: dict[tuple[str, int], tuple[Command, ...]] = {}
        self._delivered: dict[str, Positions] = {}
        self._touched: dict[tuple[str, int], list[Footprint]] = {}
        self._orders: dict[bytes, list[Place]] = {}
        """By key, the commands that may write it."""
        self._reads: dict[tuple[Place, bytes], int] = {}
        """Behind how many of them a command that reads the key was delivered."""
        self._cursors: dict[ReplicaId, dict[bytes, int]] = {}
        """By replica and key, how many of them it has delivered."""
        self._steps: dict[ReplicaId, int] = {}
        self._digests: dict[str, str] = {}
        self._decided: set[tuple[int, int]] = set()

    @property
    def positions(self) -> int:
        """See the base."""
        return len(self._decisions)

    # ------------------------------------------------------------------------------------------------------ replicas

    def started(self, replica: ReplicaId, state: ObjectHome) -> None:
        """See the base."""
        for name, positions in state.machine.positions.items():
            if not _within(positions, self._delivered.get(name)):
                raise Violation("one order per key", f"r{replica} starts with object {name!r} where nobody has been")
        self._cursors[replica] = {}
        self._place(replica, state, self._orders)

    def _place(self, replica: ReplicaId, state: ObjectHome, keys: Iterable[bytes]) -> None:
        """Find out where in the order of each key a state stands. Raises `Violation` when it lacks one in between."""
        cursors = self._cursors[replica]
        for key in keys:
            held = [state.machine.holds(name, position) for name, position, _ in self._orders[key]]
            count = sum(held)
            if not all(held[:count]):
                missing = self._orders[key][held.index(False)]
                raise Violation(
                    "one order per key", f"r{replica} has key {key!r} without what was decided at {_named(missing)}"
                )
            cursors[key] = count

    def stopped(self, replica: ReplicaId) -> None:
        """See the base."""
        self._cursors.pop(replica, None)

    def moved(self, replica: ReplicaId, state: ObjectHome) -> None:
        """See the base."""
        self.started(replica, state)
        self._compare(replica, state)

    def delivered(self, replica: ReplicaId, delivery: Deliver, state: ObjectHome) -> None:
        """See the base."""
        name, position = delivery.object, delivery.position
        if not name or position < 1:
            raise Violation("invariants of the protocol", f"r{replica} delivers position {position} of object {name!r}")
        known = self._decisions.get((name, position))
        first = known is None
        if first:
            self._decide(delivery)
        elif known != delivery.commands:
            raise Violation(
                "one value per slot",
                f"r{replica} delivers {_brief(delivery.commands)} at {name}:{position}, "
                f"where {_brief(known or ())} was delivered before",
            )
        if state.machine.holds(name, position):
            self._world.count("deliveries passed over")
            return
        for index, touched in enumerate(self._touched[name, position]):
            self._order(replica, (name, position, index), touched, first=first)
        if first:
            for command in delivery.commands:
                self.store.execute(command)

    def _decide(self, delivery: Deliver) -> None:
        name, position = delivery.object, delivery.position
        self._decisions[name, position] = delivery.commands
        self._touched[name, position] = [
            Footprint(*footprint(unpack(command.payload).operations)) for command in delivery.commands
        ]
        self._delivered.setdefault(name, Positions(above=[])).add(position)
        self.witness.decided_in(name, position, delivery.commands, self.configuration, self.ledgers)
        for command in delivery.commands:
            for offset in range(command.count):
                self._decided.add((command.session, command.sequence + offset))

    def _order(self, replica: ReplicaId, place: Place, touched: Footprint, *, first: bool) -> None:
        cursors = self._cursors[replica]
        for key in self._read_keys(touched):
            cursor = cursors.get(key, 0)
            expected = self._reads.setdefault((place, key), cursor) if first else self._reads.get((place, key), 0)
            if cursor != expected:
                raise Violation(
                    "one order per key",
                    f"r{replica} delivers {_named(place)}, which reads key {key!r}, behind {cursor} writes of it; "
                    f"others did behind {expected}",
                )
        for key in touched.writes:
            order = self._orders.setdefault(key, [])
            cursor = cursors.get(key, 0)
            if first and cursor == len(order):
                order.append(place)
            elif cursor >= len(order) or order[cursor] != place:
                expected_place = _named(order[cursor]) if cursor < len(order) else "nothing"
                raise Violation(
                    "one order per key",
                    f"r{replica} delivers {_named(place)}, which may write key {key!r}, where others deliver "
                    f"{expected_place}",
                )
            cursors[key] = cursor + 1

    def _read_keys(self, touched: Footprint) -> list[bytes]:
        """The keys read and not written; of an interval, those that somebody has written."""
        keys = dict.fromkeys(touched.reads)
        for low, high in touched.ranges:
            keys.update(dict.fromkeys(key for key in sorted(self._orders) if low <= key and (not high or key < high)))
        return [key for key in keys if key not in touched.writes]

    def installed(self, replica: ReplicaId, install: Install, state: ObjectHome) -> None:
        """See the base."""
        reached = self._delivered.get(install.object)
        if reached is None or reached.frontier < install.position:
            raise Violation(
                "one order per key", f"r{replica} installs object {install.object!r} at {install.position}, unheard of"
            )
        self._world.count("objects installed")
        key = install.object.encode("latin-1")
        self._place(replica, state, [key] if key in self._orders else [])
        self._compare(replica, state)

    def applied(self, replica: ReplicaId, state: ObjectHome) -> None:
        """See the base."""
        self._steps[replica] = steps = self._steps.get(replica, 0) + 1
        if steps % DIGEST_EVERY == 0:
            self._compare(replica, state)

    def _compare(self, replica: ReplicaId, state: ObjectHome) -> None:
        """Hold a state against those that have applied the same positions."""
        digest = state.machine.digest()
        known = self._digests.setdefault(digest.standing, digest.digest)
        if known != digest.digest:
            raise Violation(
                "state digests", f"r{replica} has digest {digest.digest} at {digest.applied}, others have {known}"
            )

    def complete(self, state: ObjectHome) -> bool:
        """See the base."""
        positions = state.machine.positions
        return all(positions.get(name) == reached for name, reached in self._delivered.items())

    def final(self, replica: ReplicaId, state: ObjectHome) -> None:
        """See the base."""
        if not self.complete(state):
            raise Violation("liveness", f"r{replica} has not applied everything that was decided")
        self._compare(replica, state)
        answered = state.machine.query([kv.Range(b"", b"")])[0]
        assert isinstance(answered, kv.Ranged)
        keys = self.store.keys
        expected = tuple(entry for key in sorted(keys) if (entry := keys[key].entry) is not None)
        if answered.items != expected:
            raise Violation(
                "acknowledged implies durable",
                f"r{replica} holds {len(answered.items)} keys, the decided commands give {len(expected)}, and not the "
                "same",
            )

    # ------------------------------------------------------------------------------------------------------- clients

    def forgotten(self, session: int) -> None:
        """See the base."""
        if not any(session <= key.floor for key in self.store.keys.values()):
            raise Violation("exactly once", f"session {session} was answered as unknown, and no key has evicted it")

    def was_decided(self, session: int, sequence: int) -> bool:
        """See the base."""
        return (session, sequence) in self._decided

    def acknowledged(self, seen: Seen, result: kv.AnyResult) -> None:
        """See the base."""
        executed = self.store.executed.get((seen.session, seen.sequence))
        if executed is None:
            raise Violation(
                "acknowledged implies decided",
                f"operation {seen.session}:{seen.sequence} was answered {result!r} and was never executed",
            )
        if not any(same_result(result, each.result) for each in executed):
            raise Violation(
                "exactly once",
                f"operation {seen.session}:{seen.sequence} was answered {result!r}, its one execution gives "
                f"{executed[0].result!r}",
            )

    def read(self, operation: kv.AnyOperation, result: kv.AnyResult) -> None:
        """See the base: every item that it shows was there once."""
        if isinstance(result, kv.Got) and isinstance(operation, kv.Get):
            self._check_item(operation, operation.key, result.revision, result.item)
        elif isinstance(result, kv.Ranged):
            for item in result.items:
                self._check_item(operation, item.key, item.mod_revision, item)
        else:
            raise Violation("linearizable reads", f"{operation!r} was answered {result!r}")

    def _check_item(self, operation: kv.AnyOperation, key: bytes, revision: int, item: kv.KeyValue | None) -> None:
        held = self.store.keys.get(key)
        past = [None] if held is None else held.past
        if revision >= len(past):
            raise Violation("linearizable reads", f"{operation!r} saw revision {revision}, before it was decided")
        if past[revision] != item:
            raise Violation(
                "linearizable reads", f"{operation!r} was answered {item!r}; at that revision it is {past[revision]!r}"
            )

    # ----------------------------------------------------------------------------------------------------------- end

    def linearizable(self, history: Sequence[Seen]) -> int:
        """See the base."""
        placed: list[Placed] = []
        shown = 0
        remaining = dict(self.store.executed)
        for seen in history:
            if seen.consistency == "stale":
                continue
            executed = remaining.pop((seen.session, seen.sequence), []) if seen.session else _outside(seen)
            if seen.outcome == OK and seen.result is not None:
                result = seen.result
                executed = [each for each in executed if same_result(result, each.result)]
                if any((each.made, each.saw) != (executed[0].made, executed[0].saw) for each in executed):
                    self._world.count("reads of which nobody knows when they saw what they saw")
                    continue
            elif executed and not executed[0].made:
                continue
            if executed:
                saw = self._completed(seen.operation, executed[0].saw)
                completed = seen.completed if seen.outcome == OK else None
                shown += completed is not None
                name = f"#{seen.number} of client {seen.client} ({seen.operation!r})"
                placed.append(Placed(name, seen.invoked, completed, executed[0].made, saw))
        for (session, sequence), executed in remaining.items():
            if executed[0].made:
                placed.append(Placed(f"{session}:{sequence}", 0.0, None, executed[0].made, executed[0].saw))
        check_serial(placed)
        return shown

    def _completed(self, operation: kv.AnyOperation, saw: dict[bytes, int]) -> dict[bytes, int]:
        """An interval has also seen that keys were not there which somebody wrote later."""
        if not isinstance(operation, kv.Range):
            return saw
        inside = (
            key for key in self.store.keys if operation.first <= key and (not operation.last or key < operation.last)
        )
        return {**dict.fromkeys(inside, 0), **saw}

    def record(self, recorder: Recorder, history: Sequence[Seen], faults: Sequence[tuple[float, str]]) -> None:
        """See the base."""
        record_plainly(recorder, history, lambda seen: (seen.session, seen.sequence) in self.store.executed, faults)


def _outside(seen: Seen) -> list[Execution]:
    """What a read outside any session saw, as far as its answer tells."""
    if isinstance(seen.operation, kv.Get) and isinstance(seen.result, kv.Got):
        return [Execution(seen.result, {}, {seen.operation.key: seen.result.revision})]
    if isinstance(seen.result, kv.Ranged):
        return [Execution(seen.result, {}, {item.key: item.mod_revision for item in seen.result.items})]
    return []


def _within(positions: Positions, reached: Positions | None) -> bool:
    if reached is None:
        return positions.frontier == 0 and not positions.above
    return positions.frontier <= reached.frontier and all(
        reached.holds(first) and reached.holds(last) for first, last in positions.above
    )


def _named(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def _brief(commands: tuple[Command, ...]) -> str:
    if not commands:
        return "a no-op"
    return " and ".join(f"{command.session}:{command.sequence}+{command.count}" for command in commands)
