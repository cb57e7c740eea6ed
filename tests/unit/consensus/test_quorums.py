"""Quorum systems by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replica.consensus.interface import ConfigurationError
from replica.consensus.quorums import (
    ENUMERATION_MEMBERS_MAX,
    Egalitarian,
    FastQuorum,
    Flexible,
    Grid,
    Majority,
    Quorums,
    checked,
    find_disjoint,
)


def subsets(members: frozenset[int]) -> Iterator[frozenset[int]]:
    for size in range(len(members) + 1):
        yield from (frozenset(chosen) for chosen in combinations(sorted(members), size))


def smallest(quorums: Quorums, phase: str) -> int:
    return min(len(side) for side in subsets(quorums.members) if getattr(quorums, phase)(side))


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_is_more_than_half(n, size):
    quorums = Majority(range(1, n + 1))
    assert quorums.phase1_size == quorums.phase2_size == size
    assert smallest(quorums, "phase1") == smallest(quorums, "phase2") == size
    assert find_disjoint(quorums) is None


def test_strangers_do_not_count():
    quorums = Majority([1, 2, 3])
    assert not quorums.phase2({1, 8, 9})
    assert not quorums.phase1({1, 8, 9})


def test_no_members_is_no_system():
    with pytest.raises(ConfigurationError, match="members"):
        Majority([])


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 6), st.integers(0, 7), st.integers(0, 7))
def test_flexible_sizes_are_accepted_exactly_when_they_intersect(n, q1, q2):
    members = range(1, n + 1)
    sound = 1 <= q1 <= n and 1 <= q2 <= n and q1 + q2 > n
    if sound:
        quorums = Flexible(members, q1=q1, q2=q2)
        assert find_disjoint(quorums) is None
        assert smallest(quorums, "phase1") == q1
        assert smallest(quorums, "phase2") == q2
    else:
        with pytest.raises(ConfigurationError, match=r"q1|q2"):
            Flexible(members, q1=q1, q2=q2)


class Unchecked(Grid):
    """A grid whose formula lets everything through, so that the enumeration can judge it."""

    def _intersects(self) -> bool:
        return True


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    q1=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    q2=st.tuples(st.integers(1, 4), st.integers(1, 3)),
)
@example(sizes=[1, 2], q1=(1, 2), q2=(1, 2))
@example(sizes=[1, 3], q1=(1, 2), q2=(1, 3))
@example(sizes=[2, 3], q1=(1, 1), q2=(1, 3))
@example(sizes=[2, 3], q1=(1, 3), q2=(1, 1))
@example(sizes=[1, 2, 3], q1=(2, 1), q2=(1, 3))
@example(sizes=[1, 2, 3], q1=(1, 3), q2=(2, 1))
@example(sizes=[1, 3], q1=(1, 3), q2=(1, 1))
@example(sizes=[1, 3], q1=(1, 1), q2=(1, 3))
@example(sizes=[2, 3], q1=(1, 3), q2=(1, 2))
@example(sizes=[2, 3], q1=(1, 2), q2=(1, 3))
def test_a_grid_is_accepted_exactly_when_all_its_quorums_intersect(sizes, q1, q2):
    numbers = iter(range(1, 20))
    zones = [[next(numbers) for _ in range(size)] for size in sizes]
    arguments = {"q1_zones": q1[0], "q1_members": q1[1], "q2_zones": q2[0], "q2_members": q2[1]}
    try:
        unchecked = Unchecked(zones, **arguments)
    except ConfigurationError:
        with pytest.raises(ConfigurationError):
            Grid(zones, **arguments)
        return
    if find_disjoint(unchecked) is None:
        grid = Grid(zones, **arguments)
        assert smallest(grid, "phase1") == grid.phase1_size
        assert smallest(grid, "phase2") == grid.phase2_size
    else:
        with pytest.raises(ConfigurationError, match="need not meet"):
            Grid(zones, **arguments)


def test_rows_meet_columns():
    grid = Grid([[1, 2, 3], [4, 5, 6]], q1_zones=1, q1_members=3, q2_zones=2, q2_members=1)
    assert grid.phase1({4, 5, 6})
    assert not grid.phase1({1, 2, 4, 5})
    assert grid.phase2({3, 4})
    assert not grid.phase2({1, 2, 3})


def test_the_quorums_of_wpaxos_tolerate_what_they_say():
    grid = Grid.tolerant([[1, 2, 3], [4, 5, 6], [7, 8, 9]], zone_failures=1, member_failures=1)
    assert grid.phase1_size == 4
    assert grid.phase2_size == 4
    assert find_disjoint(grid) is None
    assert Grid.tolerant([[1, 2, 3]], zone_failures=0, member_failures=1).phase1_size == 2
    assert Grid.tolerant([[1, 2, 3, 4, 5]], zone_failures=0, member_failures=1).phase1_size == 4
    assert Grid.tolerant([[1], [2], [3]], zone_failures=1, member_failures=0).phase2_size == 2
    with pytest.raises(ConfigurationError, match="zone_failures"):
        Grid.tolerant([[1, 2, 3]], zone_failures=-1, member_failures=1)
    with pytest.raises(ConfigurationError, match="member_failures"):
        Grid.tolerant([[1, 2, 3]], zone_failures=0, member_failures=-1)
    with pytest.raises(ConfigurationError, match="zone_failures"):
        Grid.tolerant([[1, 2, 3], [4, 5, 6]], zone_failures=1, member_failures=1)
    with pytest.raises(ConfigurationError, match="member_failures"):
        Grid.tolerant([[1, 2], [3, 4], [5, 6]], zone_failures=1, member_failures=1)


def test_a_grid_names_the_field_at_fault():
    with pytest.raises(ConfigurationError, match="q2_zones"):
        Grid([[1], [2]], q1_zones=1, q1_members=1, q2_zones=3, q2_members=1)
    with pytest.raises(ConfigurationError, match="q1_members"):
        Grid([[1], [2]], q1_zones=1, q1_members=2, q2_zones=2, q2_members=1)
    with pytest.raises(ConfigurationError, match="more than one zone"):
        Grid([[1, 2], [2, 3]], q1_zones=1, q1_members=1, q2_zones=2, q2_members=1)
    with pytest.raises(ConfigurationError, match="no member"):
        Grid([[1], []], q1_zones=1, q1_members=1, q2_zones=1, q2_members=1)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 6), st.integers(0, 7), st.integers(0, 7))
def test_fast_quorums_are_accepted_exactly_when_any_two_meet_within_any_classic_one(n, classic, fast):
    members = frozenset(range(1, n + 1))
    in_range = 1 <= classic <= fast <= n
    sound = in_range and all(
        a & b & c
        for c in subsets(members)
        if len(c) == classic
        for a in subsets(members)
        if len(a) == fast
        for b in subsets(members)
        if len(b) == fast
    )
    sound = sound and 2 * classic > n
    if sound:
        quorums = FastQuorum(members, classic=classic, fast=fast)
        assert quorums.fast(frozenset(range(1, fast + 1)))
        assert not quorums.fast(frozenset(range(1, fast)))
        assert find_disjoint(quorums) is None
    else:
        with pytest.raises(ConfigurationError, match=r"classic|fast"):
            FastQuorum(members, classic=classic, fast=fast)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 7), st.integers(-1, 4), st.integers(-1, 4))
@example(3, 1, 1)
@example(5, 1, 2)
@example(5, 2, 2)
@example(3, 2, 1)
@example(3, 2, 2)
@example(2, 0, 1)
def test_the_quorums_of_egalitarian_protocols_are_accepted_exactly_within_the_known_bounds(n, e, f):
    members = frozenset(range(1, n + 1))
    if 0 <= e <= f and 2 * f + 1 <= n and 2 * e + f - 1 <= n:
        quorums = Egalitarian(members, e=e, f=f)
        assert smallest(quorums, "phase1") == quorums.phase1_size == n - f
        assert smallest(quorums, "phase2") == quorums.phase2_size == n - f
        assert quorums.fast_size == n - e
        assert quorums.phase1(members)
        assert quorums.phase2(members)
        assert find_disjoint(quorums) is None
    else:
        with pytest.raises(ConfigurationError, match=r"^[ef][:,]"):
            Egalitarian(members, e=e, f=f)


@pytest.mark.parametrize(
    "quorums",
    [
        Majority([1, 2, 3, 4]),
        Flexible([1, 2, 3, 4, 5], q1=4, q2=2),
        Grid([[1, 2], [3, 4], [5, 6]], q1_zones=1, q1_members=2, q2_zones=3, q2_members=1),
    ],
)
def test_meeting_every_phase_1_quorum_is_what_it_says(quorums):
    takeovers = [side for side in subsets(quorums.members) if quorums.phase1(side)]
    for acks in subsets(quorums.members):
        assert quorums.meets_every_phase1(acks) == all(acks & side for side in takeovers)
        if quorums.phase2(acks):
            assert quorums.meets_every_phase1(acks)


@pytest.mark.parametrize(("n", "others"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4)])
def test_admission_asks_more_than_half_of_the_others(n, others):
    assert Majority(range(1, n + 1)).admission_others == others


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 9), st.data())
def test_two_disks_under_one_id_cannot_both_be_admitted(n, data):
    q1 = data.draw(st.integers(1, n))
    q2 = data.draw(st.integers(n + 1 - q1, n))
    others = Flexible(range(1, n + 1), q1=q1, q2=q2).admission_others
    assert others <= n - 1
    assert n == 1 or 2 * others > n - 1


def test_a_system_from_elsewhere_is_looked_at_pair_by_pair():
    class Broken(Majority):
        def phase2(self, acks):
            return bool(acks & self.members)

    class Impossible(Majority):
        def phase1(self, acks):
            return False

    assert checked(Majority([1, 2, 3])).phase2({1, 2})
    with pytest.raises(ConfigurationError, match="misses"):
        checked(Broken([1, 2, 3]))
    with pytest.raises(ConfigurationError, match="misses"):
        checked(Broken(range(1, ENUMERATION_MEMBERS_MAX + 1)))
    with pytest.raises(ConfigurationError, match="phase1"):
        checked(Impossible([1, 2, 3]))
