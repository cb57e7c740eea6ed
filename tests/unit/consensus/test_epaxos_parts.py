"""The parts of EPaxos by themselves: what interferes, what is depended on, and components of a graph."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica.consensus.ballots import no_ballot
from replica.consensus.epaxos import history
from replica.consensus.epaxos.graph import Blocked, Pending, components
from replica.consensus.epaxos.history import History, Trace
from replica.consensus.epaxos.instance import Instance, Space
from replica.consensus.epaxos.interference import Conflicts, Touch, touch_of
from replica.consensus.interface import Command, Footprint

RANKS = range(3)
KEYS = [b"a", b"b", b"c", b"d"]

intervals = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([*KEYS, b""])), max_size=1).map(tuple)
keys = st.lists(st.sampled_from(KEYS), max_size=2).map(tuple)
footprints = st.builds(Footprint, reads=keys, writes=keys, ranges=intervals, written_ranges=intervals)


def touched(footprint: Footprint) -> tuple[set[bytes], set[bytes]]:
    """The keys read and written, by looking at each."""

    def within(ranges: tuple[tuple[bytes, bytes], ...]) -> set[bytes]:
        return {key for key in KEYS for first, last in ranges if first <= key and (not last or key < last)}

    return {*footprint.reads} | within(footprint.ranges), {*footprint.writes} | within(footprint.written_ranges)


def touch(footprint: Footprint) -> Touch:
    return touch_of((Command(b"", footprint=footprint),))


@given(footprints, footprints)
def test_commands_interfere_when_one_writes_what_the_other_touches(one, other):
    (reads, writes), (other_reads, other_writes) = touched(one), touched(other)
    expected = bool(writes & (other_reads | other_writes) or other_writes & reads)
    found = touch(one).interferes(touch(other))
    assert found == touch(other).interferes(touch(one))
    assert found or not expected  # intervals may overlap between the keys that are looked at here


def test_a_command_without_footprint_interferes_with_everything_that_touches_anything():
    unknown = touch_of((Command(b""),))
    assert unknown.interferes(touch(Footprint(reads=(b"a",))))
    assert unknown.interferes(unknown)


@given(st.lists(st.tuples(st.integers(0, 2), footprints), max_size=12), footprints)
def test_dependencies_cover_whatever_interferes(known, asked):
    conflicts = Conflicts(3)
    numbers = [0, 0, 0]
    placed = []
    for rank, footprint in known:
        numbers[rank] += 1
        conflicts.add(rank, numbers[rank], touch(footprint))
        placed.append((rank, numbers[rank], touch(footprint)))
    dependencies = [0, 0, 0]
    conflicts.collect(touch(asked), dependencies)
    for rank, number, other in placed:
        assert not touch(asked).interferes(other) or dependencies[rank] >= number
    assert all(number <= highest for number, highest in zip(dependencies, numbers, strict=True))


def test_what_all_have_executed_is_forgotten_by_key_and_becomes_the_floor():
    conflicts = Conflicts(1)
    for number in range(1, 3001):
        conflicts.add(0, number, touch(Footprint(writes=(b"%d" % number,))))
    conflicts.forget([0])
    conflicts.forget([2999])
    assert len(conflicts) == 3000
    conflicts.forget([3000])
    assert len(conflicts) == 0
    for floor, expected in ((7, 3000), (4000, 4000)):
        conflicts.raise_floor([floor])
        dependencies = [0]
        conflicts.collect(touch(Footprint(writes=(b"1",))), dependencies)
        assert dependencies == [expected]


def graph(edges: dict[int, list[int]]) -> dict[int, Instance]:
    return {number: Instance(1, number, 0, no_ballot(1), ()) for number in edges}


@settings(max_examples=200)
@given(st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.integers(1, n), max_size=4), min_size=n, max_size=n)))
def test_components_are_those_of_reachability_each_after_what_it_depends_on(rows):
    edges = dict(enumerate(rows, 1))
    nodes = graph(edges)
    reach = {number: {number} for number in edges}
    for _ in edges:
        for number, row in edges.items():
            for other in row:
                reach[number] |= reach[other]
    done: list[set[int]] = []
    for component in components(nodes[1], lambda node: [nodes[other] for other in edges[node.number]]):
        found = {node.number for node in component}
        assert [node.number for node in component] == sorted(found)
        assert all(found == {other for other in reach[number] if number in reach[other]} for number in found)
        outside = set().union(*(reach[number] for number in found)) - found
        assert outside <= set().union(*done)
        done.append(found)
    assert set().union(*done) == reach[1]


def test_a_chain_may_be_longer_than_any_stack():
    length = 50_000
    nodes = graph({number: [] for number in range(1, length + 1)})
    found = list(components(nodes[length], lambda node: [nodes[node.number - 1]] if node.number > 1 else []))
    assert [component[0].number for component in found] == list(range(1, length + 1))


def test_whatever_reaches_what_is_missing_waits_for_it():
    nodes = graph({number: [] for number in range(1, 5)})
    edges = {4: [2, 3], 3: [1], 2: []}
    found = components(
        nodes[4], lambda node: (9, 9) if node.number == 1 else [nodes[other] for other in edges[node.number]]
    )
    assert [node.number for node in next(found)] == [2]
    with pytest.raises(Blocked) as blocked:
        next(found)
    assert blocked.value.of == (9, 9)
    assert sorted(blocked.value.names) == [(1, 1), (1, 3), (1, 4)]


def test_the_highest_that_writes_a_key_stands_for_those_before_it():
    space = Space(1, 0)
    pending = Pending([space])
    for number in range(1, 6):
        instance = Instance(1, number, 0, no_ballot(1), (number - 1,))
        instance.touch = touch(Footprint(writes=(b"a",)) if number != 4 else Footprint(reads=(b"a",)))
        space.live[number] = instance
        pending.add(instance)
    assert [other.number for other in pending.edges(space.live[5])] == [4, 3]
    assert [other.number for other in pending.edges(space.live[4])] == [3]
    pending.remove(space.live[3])
    assert [other.number for other in pending.edges(space.live[4])] == [2]


# -------------------------------------------------------------------------------------------------------------- history


class Executed:
    """Three spaces, what was executed in them, and what a replica remembers of it."""

    def __init__(self) -> None:
        self.disk: list[Trace] = []
        self.history = History(len(RANKS), self.read)

    def read(self, rank: int, first: int, last: int):
        return iter([trace for trace in self.disk if trace.rank == rank and first <= trace.number <= last])

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(max((trace.number for trace in self.disk if trace.rank == rank), default=0) for rank in RANKS)

    def execute(self, rank: int, footprint: Footprint, ahead: tuple[int, ...] = (0, 0, 0)) -> None:
        """The next of a space; it depends on everything, and on what is ``ahead`` of that."""
        dependencies = tuple(done + more for done, more in zip(self.numbers, ahead, strict=True))
        trace = Trace(rank, self.numbers[rank] + 1, dependencies, touch(footprint))
        self.disk.append(trace)
        self.history.add(*trace)

    def against(self, rank: int, number: int, asked: Touch, dependencies: tuple[int, ...]) -> set[tuple[int, int]]:
        """What speaks against an instance, by looking at all."""
        return {
            (trace.rank, trace.number)
            for trace in self.disk
            if trace.rank != rank
            and trace.number > dependencies[trace.rank]
            and trace.dependencies[rank] < number
            and asked.interferes(trace.touch)
        }

    def tick(self) -> None:
        self.history.tick(self.numbers, None, (0, 0, 0))

    def restart(self, mark: bytes, frontier: tuple[int, ...]) -> None:
        self.history = History(len(RANKS), self.read)
        self.history.load(mark, frontier, self.numbers)


ahead = st.tuples(*[st.sampled_from([0, 0, 0, 2])] * 3)
executions = st.lists(st.tuples(st.sampled_from(RANKS), footprints, ahead), max_size=8)


@settings(max_examples=200)
@given(executions, executions, st.booleans(), footprints, st.data())
def test_what_speaks_against_a_value_is_remembered_by_key_and_over_restarts(before, after, folded, asked, data):
    world = Executed()
    with pytest.MonkeyPatch.context() as patch:
        if folded:
            patch.setattr(history, "RECENT_MAX", 0)
        for each in before:
            world.execute(*each)
            world.tick()
        frontier = world.numbers
        mark = world.history.mark(frontier, world.numbers)
        for each in after:
            world.execute(*each)
            world.tick()
        for stage in ("running", "restarted", "after another snapshot", "restarted on that"):
            if stage == "restarted":
                world.restart(mark, frontier)
            elif stage == "after another snapshot":
                mark = world.history.mark(world.numbers, world.numbers)
            elif stage == "restarted on that":
                world.restart(mark, world.numbers)
            rank = data.draw(st.sampled_from(RANKS))
            number = world.numbers[rank] + data.draw(st.integers(1, 3))
            dependencies = tuple(data.draw(st.integers(0, done)) for done in world.numbers)
            found = world.history.against(rank, number, touch(asked), dependencies)
            expected = world.against(rank, number, touch(asked), dependencies)
            assert (found is None) == (not expected)
            assert not world.history.is_blind(rank, dependencies)


def test_what_all_have_executed_is_forgotten_once_nothing_older_can_come_up():
    world = Executed()
    written = Footprint(writes=(b"a",))
    for _ in range(3):
        world.execute(1, written)
    # All have executed these, but replica 0 had proposed two by then that may not know them.
    world.history.tick(world.numbers, (0, 3, 0), (2, 3, 0))
    world.history.tick(world.numbers, (0, 3, 0), (2, 3, 0))
    assert world.history.against(0, 2, touch(written), (0, 0, 0)) is not None
    for _ in range(2):
        world.execute(0, Footprint(writes=(b"b",)))
    world.history.tick(world.numbers, (0, 3, 0), (2, 3, 0))
    assert len(world.history) == 2 * 2, "what was executed since"
    assert not world.history.is_blind(0, (0, 0, 0))


@pytest.mark.parametrize("folded", [False, True])
def test_a_snapshot_from_before_what_made_it_forgettable_says_that_it_is_forgotten(folded, monkeypatch):
    if folded:
        monkeypatch.setattr(history, "RECENT_MAX", 0)
    world = Executed()
    world.execute(1, Footprint(writes=(b"a",)))
    world.tick()
    world.history.tick(world.numbers, (0, 1, 0), (1, 1, 0))
    behind = world.numbers
    world.execute(0, Footprint(writes=(b"b",)))
    world.history.tick(world.numbers, None, (0, 0, 0))
    marks = {at: world.history.mark(at, world.numbers) for at in (behind, world.numbers)}
    for at, blind in ((behind, True), (world.numbers, False)):
        world.restart(marks[at], at)
        assert world.history.is_blind(0, (0, 0, 0)) is blind


def test_with_too_many_keys_the_older_are_forgotten_and_the_replica_is_blind_for_them(monkeypatch):
    monkeypatch.setattr(history, "RECENT_MAX", 4)
    monkeypatch.setattr(history, "KEYS_MAX", 10)
    world = Executed()
    for number in range(100):
        world.execute(1, Footprint(writes=(b"%d" % number,)))
        world.tick()
        assert len(world.history) <= 2 * 10 + 4 + 2
    blind = next(number for number in range(100) if not world.history.is_blind(0, (0, number, 0)))
    assert 60 < blind < 90
    assert world.history.against(0, 1, touch(Footprint(reads=(b"%d" % blind,))), (0, 0, 0)) == (1, blind + 1)
    mark = world.history.mark(world.numbers, world.numbers)
    world.restart(mark, world.numbers)
    assert world.history.is_blind(0, (0, blind - 1, 0))
    assert not world.history.is_blind(0, (0, blind, 0))


def test_a_mark_of_a_frontier_ahead_of_what_is_known_to_be_executed_says_what_is_unknown():
    """A snapshot of an earlier release held 7 above its frontier; 6 was executed since, so the state stands at 7."""
    world = Executed()
    world.history.load(b"", (0, 5, 0), (0, 5, 0))
    world.history.add(1, 6, (0, 5, 0), touch(Footprint(writes=(b"a",))))
    mark = world.history.mark((0, 7, 0), (0, 6, 0))
    world.history.load(mark, (0, 7, 0), (0, 7, 0))
    assert world.history.is_blind(0, (0, 6, 0))
    assert not world.history.is_blind(0, (0, 7, 0))


@pytest.mark.parametrize("earlier", [Footprint(reads=(b"a",)), Footprint(ranges=((b"a", b"b"),))])
def test_a_write_is_told_of_earlier_reads_after_a_restart(earlier, monkeypatch):
    monkeypatch.setattr(history, "RECENT_MAX", 0)
    world = Executed()
    world.execute(1, earlier)
    world.tick()
    world.restart(world.history.mark(world.numbers, world.numbers), world.numbers)
    assert world.history.against(0, 1, touch(Footprint(writes=(b"a",))), (0, 0, 0)) == (1, 1)
    assert world.history.against(0, 1, touch(Footprint(reads=(b"a",))), (0, 0, 0)) is None


def test_the_keys_of_a_snapshot_of_an_earlier_release_are_unknown():
    world = Executed()
    world.execute(1, Footprint(writes=(b"a",)))
    world.restart(b"", (0, 1, 0))
    assert world.history.is_blind(0, (0, 0, 0))
    assert not world.history.is_blind(0, (0, 1, 0))


def test_a_mark_of_a_frontier_behind_what_was_folded_says_that_this_is_unknown(monkeypatch):
    monkeypatch.setattr(history, "RECENT_MAX", 0)
    world = Executed()
    world.execute(1, Footprint(writes=(b"a",)))
    world.tick()
    world.restart(world.history.mark((0, 0, 0), world.numbers), (0, 0, 0))
    assert world.history.is_blind(0, (0, 0, 0))
