"""The instances that a replica knows: what is proposed, voted for, decided and executed, by space.

In memory are the instances that are known and not executed; an executed one is on disk until it is discarded. Of each
space four marks are kept, in this order: ``executed`` (everything up to it, with single ones above), ``decided``,
``known`` (of everything up to it the value is known, or that there is none), ``highest`` (the highest number ever heard
of). The state of a replica stands at the executed marks: they may go back when a snapshot of a peer is installed, the
others never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from replica.consensus.interface import Command, CorruptRecord, Frontier, Put, Record, ReplicaId
from replica.consensus.tail import Tail
from replica.consensus.values import Batch, decode_value

from .graph import Pending
from .history import History, Trace
from .instance import Instance, Space
from .interference import NOTHING, Conflicts, touch_of
from .messages import (
    FLOOR_KEY,
    FLOOR_TABLE,
    NUMBER_MAX,
    VALUES_TABLE,
    VOTES_TABLE,
    Dependencies,
    Floor,
    InstanceId,
    Phase,
    Value,
    Vote,
    instance_key,
    number_of,
)

if TYPE_CHECKING:
    from .state import Core

RETRIES_SLOWED: Final = 6
"""Each failure doubles the patience with an instance, up to so many of them."""

PATIENCE_MAX_S: Final = 8.0
"""But never beyond this."""


class Instances:
    """All of them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.spaces = tuple(Space(member, rank) for rank, member in enumerate(core.members))
        self.by_member = {space.replica: space for space in self.spaces}
        self.conflicts = Conflicts(len(self.spaces))
        self.floor = list(core.nothing)
        """Up to here records have been discarded, by rank."""
        self.reached = list(core.nothing)
        """The furthest that was ever executed without a gap, by rank: what this replica proposes comes after it."""
        self.undecided: dict[InstanceId, Instance] = {}
        self.tails = tuple(Tail(core.options) for _ in core.members)
        """By rank, what lies behind the executed mark."""
        self._sizes = list(core.nothing)
        self.pending = Pending(self.spaces)
        self.history = History(len(self.spaces), self._decided_on_disk)
        self.on_news: Callable[[InstanceId], None]
        """Told when the value of an instance has become known, or that there is none."""

    # -------------------------------------------------------------------------------------------------------- looking

    @property
    def executed(self) -> Dependencies:
        """By rank, how far everything has been executed."""
        return tuple(space.executed for space in self.spaces)

    @property
    def proposed(self) -> int:
        """The highest number of this replica's own space that it may have used."""
        space = self.by_member[self._core.replica]
        return max(space.highest, space.executed)

    def frontier(self, numbers: Dependencies | list[int]) -> dict[str, int]:
        """Numbers by rank as a frontier by object."""
        return {str(space.replica): number for space, number in zip(self.spaces, numbers, strict=True) if number}

    def numbers(self, frontier: Frontier) -> list[int]:
        """A frontier by object as numbers by rank; 0 stands for none at all."""
        if isinstance(frontier, int):
            assert frontier == 0, "the instances of EPaxos have no common order"
            return [0] * len(self.spaces)
        return [frontier.get(str(space.replica), 0) for space in self.spaces]

    def find(self, space: ReplicaId, number: int) -> Instance | None:
        """The instance, if it is known and not executed."""
        return self.by_member[space].live.get(number)

    def has_executed(self, space: ReplicaId, number: int) -> bool:
        """Has it been executed here?"""
        return self.by_member[space].has_executed(number)

    def obtain(self, space: ReplicaId, number: int) -> Instance:
        """The instance, which must not have been executed; made if nothing was known of it."""
        where = self.by_member[space]
        instance = where.live.get(number)
        if instance is None:
            core = self._core
            assert not where.has_executed(number), f"instance {space}.{number} has been executed"
            instance = Instance(space, number, where.rank, core.first_ballot, core.nothing)
            where.live[number] = instance
            where.highest = max(where.highest, number)
            self.undecided[instance.id] = instance
            instance.due = core.now + self.patience(instance)
        return instance

    def patience(self, instance: Instance) -> float:
        """How long to wait for somebody else to decide it: the next in line the shortest, and longer after failures."""
        core = self._core
        n = len(self.spaces)
        turn = (core.rank[core.replica] - instance.rank) % n or n
        base = core.options.recovery_s
        grown = min(base * 2 ** min(instance.tries, RETRIES_SLOWED), PATIENCE_MAX_S)
        # What tells rivals apart has to grow with it, and how long one takes may be a multiple of ``base``.
        return float(grown * (1.0 + core.randomness.uniform(0.0, 0.3)) + base * 0.5 * (turn - 1))

    def archived(self, space: ReplicaId, number: int) -> Instance | None:
        """An executed instance, from disk; None where the disk can't tell it any more. Raises `CorruptRecord`."""
        core = self._core
        where = self.by_member[space]
        if number <= self.floor[where.rank]:
            return None
        key = instance_key(space, number)
        vote = core.stable.get(VOTES_TABLE, key)
        if not isinstance(vote, Vote) or vote.phase is not Phase.COMMITTED:
            return None
        value = core.stable.get(VALUES_TABLE, key)
        return self._revive(where, number, vote, value if isinstance(value, Value) else None)

    # ------------------------------------------------------------------------------------------------------- learning

    def prepare(self, instance: Instance, value: bytes, commands: tuple[Command, ...] | None) -> None:
        """Look at a value before it is learned, so that what the instance depends on can be told. ``commands`` spares
        the proposer the decoding of its own value."""
        if commands is None:
            commands = self._decoded(instance, value)
        instance.commands = commands
        instance.touch = touch_of(commands)

    def learn(self, instance: Instance, value: bytes, initial: Dependencies | None = None) -> None:
        """What the leader proposed, and the dependencies it proposed if they are known. Durable at `Core.written`.

        Later ones that interfere depend on it from now on.
        """
        fresh = instance.value is None
        if fresh:
            if instance.touch is None:
                self.prepare(instance, value, None)
            assert instance.touch is not None
            instance.value = value
            self.conflicts.add(instance.rank, instance.number, instance.touch)
            self.pending.add(instance)
        assert instance.value == value, f"two values for {instance}"
        if instance.initial is None and initial is not None:
            instance.initial = initial
        elif not fresh:
            assert initial is None or instance.initial == initial, f"two initial dependencies for {instance}"
            return
        self._core.save(instance, value=True)
        self._advance(self.spaces[instance.rank])
        self.on_news(instance.id)

    def _decoded(self, instance: Instance, value: bytes) -> tuple[Command, ...]:
        try:
            content = decode_value(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the value is malformed: {error}"
        else:
            if isinstance(content, Batch):
                return content.commands
            problem = "the value is no batch of commands"
        raise CorruptRecord(VALUES_TABLE, instance_key(instance.space, instance.number), problem)

    def dependencies(self, instance: Instance, initial: Dependencies | list[int]) -> Dependencies:
        """``initial`` and what this replica knows to interfere besides.

        What the same leader proposed later depends on this one anyway, so it is left out.
        """
        assert instance.touch is not None
        numbers = list(initial)
        self.conflicts.collect(instance.touch, numbers)
        numbers[instance.rank] = min(numbers[instance.rank], instance.number - 1)
        return tuple(numbers)

    def decide(self, instance: Instance, noop: bool, dependencies: Dependencies) -> None:
        """The instance is decided. Durable at `Core.written`."""
        assert not instance.decided
        assert noop or instance.value is not None
        instance.phase = Phase.COMMITTED
        instance.noop = noop
        instance.dependencies = dependencies
        instance.ticket = self._core.next_ticket
        self._core.save(instance)
        self.undecided.pop(instance.id, None)
        for rank, number in enumerate(dependencies):
            space = self.spaces[rank]
            space.highest = max(space.highest, number)
        if noop and instance.touch is not None:
            self.pending.remove(instance)
        self._advance(self.spaces[instance.rank])
        self.on_news(instance.id)

    def _advance(self, space: Space) -> None:
        """Move the marks ``known`` and ``decided`` as far as they go."""
        live, above = space.live, space.above
        number = max(space.known, space.executed)
        while True:
            instance = live.get(number + 1)
            if instance is not None:
                if instance.value is None and not instance.decided:
                    break
            elif number + 1 not in above:
                break
            number += 1
        space.known = number
        number = max(space.decided, space.executed)
        while True:
            instance = live.get(number + 1)
            if instance is not None:
                if not instance.decided:
                    break
            elif number + 1 not in above:
                break
            number += 1
        space.decided = number

    def execute(self, instance: Instance) -> None:
        """It has been handed to the state machine."""
        space = self.spaces[instance.rank]
        del space.live[instance.number]
        if not instance.noop:
            self.pending.remove(instance)
        self.history.add(*_trace(instance))
        self._sizes[space.rank] += len(instance.value or b"")
        if instance.number == space.executed + 1:
            number = instance.number
            while number + 1 in space.above:
                number += 1
                space.above.discard(number)
            space.executed = number
            self.reached[space.rank] = max(self.reached[space.rank], number)
            self.tails[space.rank].delivered(number, self._sizes[space.rank])
            self._sizes[space.rank] = 0
        else:
            space.above.add(instance.number)

    # ------------------------------------------------------------------------------------------- restart, and snapshots

    def restore(self, applied: Frontier, snapshot: Frontier, mark: bytes) -> None:
        """Rebuild from stable storage. Raises `CorruptRecord`.

        ``applied`` is where the state stands, ``snapshot`` what the durable snapshot covers, and ``mark`` what was said
        of it: if it was installed, the disk need not hold what it covers.
        """
        record = self._core.stable.get(FLOOR_TABLE, FLOOR_KEY)
        if isinstance(record, Floor):
            self.floor = list(record.floor)
            if record.reached:
                self.reached = list(record.reached)
        covered = self.numbers(snapshot)
        for space, number, covers in zip(self.spaces, self.numbers(applied), covered, strict=True):
            start = max(number, covers)
            if start < self.floor[space.rank]:
                key = instance_key(space.replica, self.floor[space.rank])
                raise CorruptRecord(
                    VOTES_TABLE, key, f"records begin behind this instance, but the state stands at {start}"
                )
            self._stand(space, start)
        self._remember(mark, covered)
        if any(map(int.__gt__, self.reached, covered)):
            # Not all of it need be on this disk, and it will be told; should the machine lose its state, what is
            # proposed then has to come after it all the same.
            self.write_floor()
        for space in self.spaces:
            self._load(space)

    def write_floor(self) -> None:
        """Have the floor written down, and what has been reached."""
        record = Floor(tuple(self.floor), tuple(self.reached))
        self._core.writes.append(Put(FLOOR_TABLE, FLOOR_KEY, record))

    def _remember(self, mark: bytes, covered: list[int]) -> None:
        try:
            self.history.load(mark, covered, self.executed)
        except msgspec.DecodeError as error:
            raise CorruptRecord(
                "the mark of the snapshot", b"", f"what it says of EPaxos is malformed: {error}"
            ) from None

    def stand_at(self, frontier: Frontier, mark: bytes) -> None:
        """The state is another, which stands at ``frontier``: what lies beyond is to be executed again.

        That holds for what was executed as a part of an earlier snapshot as well, of which the disk may hold no more
        than a vote. Whether it was decided is to be learned anew then, and until then the vote counts as any other.
        """
        for space, number in zip(self.spaces, self.numbers(frontier), strict=True):
            for known in [known for known in space.live if known <= number]:
                instance = space.live.pop(known)
                self.undecided.pop(instance.id, None)
                if instance.touch is not None and not (instance.noop and instance.decided):
                    self.pending.remove(instance)
            self.tails[space.rank].clear()
            again = space.above | set(range(number + 1, space.executed + 1))
            space.above = set()
            space.decided = space.known = 0
            self._stand(space, number)
            for missing in sorted(each for each in again if each > number):
                key = instance_key(space.replica, missing)
                vote = self._core.stable.get(VOTES_TABLE, key)
                if isinstance(vote, Vote):
                    self._readmit(space, missing, vote, self._core.stable.get(VALUES_TABLE, key))
        for space in self.spaces:
            self._advance(space)
        self._remember(mark, self.numbers(frontier))

    def _stand(self, space: Space, number: int) -> None:
        space.executed = number
        space.highest = max(space.highest, number)
        self.reached[space.rank] = max(self.reached[space.rank], number)
        floor = self.conflicts.floor
        # What was executed before is not remembered by key.
        floor[space.rank] = max(floor[space.rank], number)

    def _load(self, space: Space) -> None:
        core = self._core
        first = instance_key(space.replica, space.executed + 1)
        last = instance_key(space.replica, NUMBER_MAX)
        values = {number_of(key): record for key, record in core.stable.scan(VALUES_TABLE, first, last)}
        for key, vote in core.stable.scan(VOTES_TABLE, first, last):
            assert isinstance(vote, Vote)
            number = number_of(key)
            self._readmit(space, number, vote, values.get(number))
        self._advance(space)

    def _readmit(self, space: Space, number: int, vote: Vote, value: Record | None) -> None:
        """What the disk holds of an instance that is not executed is what this replica has promised and voted for."""
        instance = self._revive(space, number, vote, value if isinstance(value, Value) else None)
        space.live[number] = instance
        space.highest = max(space.highest, number)
        for rank, highest in enumerate(instance.dependencies):
            self.spaces[rank].highest = max(self.spaces[rank].highest, highest)
        if not instance.decided:
            instance.due = self._core.now + self.patience(instance)
            self.undecided[instance.id] = instance
        self._enter(instance)

    def _enter(self, instance: Instance) -> None:
        if instance.touch is not None:
            self.conflicts.add(instance.rank, instance.number, instance.touch)
            if not (instance.noop and instance.decided):
                self.pending.add(instance)

    def _revive(self, space: Space, number: int, vote: Vote, value: Value | None) -> Instance:
        instance = Instance(space.replica, number, space.rank, vote.ballot, vote.dependencies)
        instance.voted = vote.voted
        instance.phase = vote.phase
        instance.noop = vote.noop
        if value is not None:
            self.prepare(instance, value.value, None)
            instance.value = value.value
            instance.initial = value.initial
        elif vote.phase is not Phase.UNKNOWN and not vote.noop:
            key = instance_key(space.replica, number)
            raise CorruptRecord(VALUES_TABLE, key, "there is a vote for a value of which there is no record")
        return instance

    # ---------------------------------------------------------------------------------------------------- iteration

    def beyond(self, dependencies: Dependencies) -> Iterator[Instance]:
        """Everything known and not executed that ``dependencies`` do not cover."""
        for space, number in zip(self.spaces, dependencies, strict=True):
            for known in sorted(space.live):
                if known > number:
                    yield space.live[known]

    def executed_against(self, instance: Instance) -> InstanceId | None:
        """Something executed that speaks against this undecided instance, whose initial dependencies are known: it
        interferes, is not among them, and does not depend on it. Raises `CorruptRecord`."""
        assert instance.touch is not None
        assert instance.initial is not None
        found = self.history.against(instance.rank, instance.number, instance.touch, instance.initial)
        return None if found is None else (self.spaces[found[0]].replica, found[1])

    def is_blind(self, instance: Instance) -> bool:
        """May something like that have been executed and be forgotten?"""
        initial = instance.initial
        assert initial is not None
        if not self.history.is_blind(instance.rank, initial):
            return False
        # What a new command is compared with may still know.
        met = self.dependencies(instance, initial)
        return any(
            now > then for rank, (now, then) in enumerate(zip(met, initial, strict=True)) if rank != instance.rank
        )

    def decided_traces(self) -> Iterator[Trace]:
        """What is decided and was not executed since the start. The state may hold some of it all the same."""
        for space in self.spaces:
            for instance in space.live.values():
                if instance.decided:
                    yield _trace(instance)

    def _decided_on_disk(self, rank: int, first: int, last: int) -> Iterator[Trace]:
        """What the disk holds of decisions in a space between these numbers, but no-ops. Raises `CorruptRecord`."""
        core, space = self._core, self.spaces[rank]
        begin, end = instance_key(space.replica, first), instance_key(space.replica, last + 1)
        for key, vote in core.stable.scan(VOTES_TABLE, begin, end):
            if isinstance(vote, Vote) and vote.phase is Phase.COMMITTED and not vote.noop:
                value = core.stable.get(VALUES_TABLE, key)
                instance = self._revive(space, number_of(key), vote, value if isinstance(value, Value) else None)
                yield _trace(instance)

    def check(self) -> None:
        """Assert the invariants of the marks."""
        core = self._core
        for space in self.spaces:
            assert self.floor[space.rank] <= space.executed, "records discarded that were not executed"
            assert space.executed <= space.decided <= space.known <= space.highest, (
                f"space {space.replica}: {space.executed}, {space.decided}, {space.known}, {space.highest}"
            )
            assert all(number > space.executed + 1 for number in space.above)
            for number, instance in space.live.items():
                assert not space.has_executed(number)
                assert instance.voted <= instance.ballot or instance.decided
                assert instance.decided == (instance.id not in self.undecided)
                assert instance.value is not None or instance.noop or instance.phase is Phase.UNKNOWN
                assert (
                    instance.phase is Phase.COMMITTED
                    or instance.phase is Phase.ACCEPTED
                    or (instance.voted == core.first_ballot)
                )


def _trace(instance: Instance) -> Trace:
    """A decided instance, as it is remembered."""
    touch = NOTHING if instance.noop else instance.touch
    assert touch is not None
    return Trace(instance.rank, instance.number, instance.dependencies, touch)
