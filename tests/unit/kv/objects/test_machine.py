"""The state is a function of which positions have been applied: order, repetition, crashes, moves."""

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica.kv.layout import CorruptState
from replica.kv.memory import MemoryStore
from replica.kv.objects import ObjectMachine, object_digest_of
from replica.kv.objects.machine import KEYS
from replica.kv.objects.positions import Positions
from replica.kv.operations import Add, Delete, Failure, Get, Put, Transaction
from tests.unit.kv.support import Command

from .support import Objects, command, object_of

KEYS_USED = (b"a", b"b", b"\x00c", b"\xff")

operations = st.sampled_from(KEYS_USED).flatmap(
    lambda key: st.sampled_from(
        (
            Put(key, b"1"),
            Put(key, b"x", previous=True),
            Put(key, b"2", if_revision=1),
            Add(key, 2),
            Delete(key),
            Get(key),
        )
    )
)
deliveries = st.lists(st.tuples(operations, st.integers(1, 5), st.integers(1, 6), st.integers(0, 3)), max_size=40)


def logs(script: list[Any]) -> dict[str, list[Command]]:
    """By object, what is decided at positions 1, 2, 3 …: each key is an object."""
    decided: dict[str, list[Command]] = {}
    for operation, session, sequence, acknowledged in script:
        made = command(operation, session=session, sequence=sequence, acknowledged=min(acknowledged, sequence - 1))
        decided.setdefault(object_of(operation.key), []).append(made)
    return decided


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""


@UNHURRIED
@given(deliveries, st.randoms(use_true_random=False))
def test_two_replicas_that_applied_the_same_positions_hold_the_same(script, draw):
    decided = logs(script)
    straight = ObjectMachine(MemoryStore(), sessions_max=2)
    for name, commands in decided.items():
        for position, each in enumerate(commands, 1):
            straight.apply(name, position, [each])
    store = MemoryStore()
    crooked = ObjectMachine(store, sessions_max=2)
    reached = dict.fromkeys(decided, 0)
    while any(reached[name] < len(commands) for name, commands in decided.items()):
        name = draw.choice(sorted(decided))
        step = draw.random()
        if step < 0.1:
            crooked.commit()
        elif step < 0.2:
            store.crash()
            crooked = ObjectMachine(store, sessions_max=2)
            reached = {name: crooked.applied.get(name, 0) for name in decided}
        elif step < 0.3 and reached[name]:
            assert crooked.apply(name, reached[name], [decided[name][reached[name] - 1]]) == []
        elif reached[name] < len(decided[name]):
            crooked.apply(name, reached[name] + 1, [decided[name][reached[name]]])
            reached[name] += 1
    assert crooked.digest() == straight.digest()
    crooked.commit()
    assert object_digest_of(store) == straight.digest()


def test_positions_may_come_out_of_order_and_are_remembered_so(objects):
    machine = objects.machine
    machine.apply("1", 3, [command(Put(b"c", b"3"))])
    machine.apply("1", 1, [command(Put(b"a", b"1"))])
    assert machine.applied == {"1": 1}
    objects.restart()
    machine = objects.machine
    assert machine.apply("1", 3, [command(Put(b"c", b"again"))]) == []
    assert machine.holds("1", 3)
    assert not machine.holds("1", 2)
    machine.apply("1", 2, ())
    assert machine.applied == {"1": 3}
    assert machine.covers({"1": 3, "2": 0})
    assert not machine.covers({"2": 1})


def test_states_that_stand_differently_say_so():
    one, other = ObjectMachine(MemoryStore()), ObjectMachine(MemoryStore())
    one.apply("1", 1, ())
    other.apply("1", 1, ())
    assert one.digest() == other.digest()
    other.apply("1", 3, ())
    assert one.digest().applied == other.digest().applied
    assert one.digest().standing != other.digest().standing


@UNHURRIED
@given(st.lists(st.integers(1, 30), unique=True))
def test_positions_are_a_set(added):
    positions = Positions(above=[])
    for number in added:
        positions.add(number)
    assert {number for number in range(1, 32) if positions.holds(number)} == set(added)
    assert all(first > positions.frontier + 1 for first, _ in positions.above)
    positions.raise_to(15)
    assert {number for number in range(1, 32) if positions.holds(number)} == set(added) | set(range(1, 16))
    assert all(first > positions.frontier + 1 for first, _ in positions.above)


def test_an_object_that_moves_takes_its_versions_and_sessions_along(objects):
    objects.run(9, 1, Add(b"n", 5), name="n")
    objects.run(9, 2, Add(b"n", 1), name="n")
    position, image = objects.machine.export("n")
    assert position == 2
    there = Objects(MemoryStore())
    assert there.machine.install("n", position, image)
    assert there.machine.applied == {"n": 2}
    assert there.run(9, 2, Add(b"n", 1), name="n")[0].value == 6
    assert there.run(9, 3, Add(b"n", 1), name="n")[0].value == 7


def test_an_older_image_is_passed_over(objects):
    objects.run(9, 1, Put(b"a", b"1"), name="a")
    old = objects.machine.export("a")
    objects.run(9, 2, Put(b"a", b"2"), name="a")
    assert not objects.machine.install("a", *old)
    assert objects.one(Get(b"a")).item.value == b"2"


def test_an_installed_object_survives_with_the_next_commit(objects):
    source = Objects(MemoryStore())
    source.run(9, 1, Put(b"a", b"1"), name="a")
    objects.machine.install("a", *source.machine.export("a"))
    objects.restart()
    assert objects.one(Get(b"a")).item.value == b"1"
    assert objects.machine.applied["a"] == 1


def test_an_object_nobody_has_written_is_exported_as_nothing(objects):
    assert objects.machine.export("a") == (0, b"")
    assert objects.machine.install("b", 3, b"")
    assert objects.machine.applied == {"b": 3}
    assert objects.machine.digest().keys == 0


def test_a_state_beyond_a_gap_is_not_exported(objects):
    objects.machine.apply("a", 2, ())
    with pytest.raises(ValueError, match="gap at 1"):
        objects.machine.export("a")


def test_records_let_go_for_room_are_read_again(store, monkeypatch):
    monkeypatch.setattr("replica.kv.objects.machine.CACHED_BYTES_MAX", 2000)
    objects = Objects(store)
    draw = random.Random(5)
    expected: dict[bytes, int] = {}
    for sequence in range(1, 300):
        key = b"%d" % draw.randrange(40)
        expected[key] = expected.get(key, 0) + 1
        assert objects.run(9, sequence, Add(key, 1))[0].value == expected[key]


def test_what_cannot_be_read_is_said_to_be_corrupt(objects):
    objects.one(Put(b"a", b"1"))
    objects.machine.commit()
    objects.machine.store.put(KEYS, b"a", b"\xc1")
    with pytest.raises(CorruptState):
        objects.restart() or objects.one(Get(b"a"))


def test_a_malformed_command_is_refused_and_passed(objects):
    broken = command(Put(b"a", b"1"))
    broken = type(broken)(b"\xc1", 9, 1, 2)
    (outcome,) = objects.apply("x", broken)
    assert [result.code for result in outcome.results()] == [Failure.INVALID] * 2
    assert objects.machine.applied == {"x": 1}


def test_the_newest_session_seen_is_remembered(objects):
    objects.run(90, 1, Put(b"a", b"1"))
    objects.run(7, 1, Transaction((), (Put(b"b", b"1"),)))
    objects.restart()
    assert objects.machine.newest_session == 90
