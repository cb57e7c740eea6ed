"""A run cut by key, and the registers that a cut command is carried out on."""

from typing import Any

import pytest

from replica.kv.objects import AtomicRegisters, Part, PlainRegisters, cut
from replica.kv.objects.registers import Registers
from replica.kv.operations import (
    Add,
    AnyOperation,
    Compare,
    Delete,
    Deleted,
    Failure,
    Get,
    Got,
    Put,
    Range,
    Transaction,
    Written,
)
from replica.kv.runs import decode_results, encode_operations, unpack

from .support import command


def parts_of(*operations: AnyOperation, most: int = 100) -> list[Part]:
    return cut(operations, encode_operations(operations), acknowledged=3, operations_max=most)


def test_neighbours_on_one_key_stay_together():
    parts = parts_of(Put(b"a", b"1"), Add(b"a", 1), Put(b"b", b"2"), Put(b"a", b"3"))
    assert [(part.offset, part.count, part.touched.writes) for part in parts] == [
        (0, 2, (b"a",)),
        (2, 1, (b"b",)),
        (3, 1, (b"a",)),
    ]
    assert unpack(parts[0].payload).operations == [Put(b"a", b"1"), Add(b"a", 1)]
    assert unpack(parts[0].payload).acknowledged == 3


def test_reads_are_cut_from_writes():
    parts = parts_of(Get(b"a"), Get(b"a"), Put(b"a", b"1"))
    assert [(part.count, part.touched.read_only) for part in parts] == [(2, True), (1, False)]


def test_what_touches_several_keys_is_a_command_of_its_own():
    pair = Transaction((Compare(b"a", "exists", "=", 0),), (Put(b"b", b"1"),))
    parts = parts_of(Put(b"a", b"1"), pair, Range(b"", b""), Range(b"", b""))
    assert [part.count for part in parts] == [1, 1, 1, 1]
    assert (parts[1].touched.reads, parts[1].touched.writes) == ((b"a",), (b"b",))


def test_a_part_is_bounded():
    assert [part.count for part in parts_of(*[Put(b"a", b"")] * 5, most=2)] == [2, 2, 1]


def transition(
    registers: Registers, record: bytes | None, *operations: AnyOperation, **how: int
) -> tuple[bytes, list[Any]]:
    made = command(*operations, session=how.get("session", 0), sequence=how.get("sequence", 1))
    after, results = registers.transition(record, made)
    return after, list(decode_results(results, len(operations)))


def read(registers: Registers, record: bytes | None, *operations: AnyOperation) -> list[Any]:
    return list(decode_results(registers.read(record, command(*operations)), len(operations)))


def test_a_plain_register_is_written_whatever_it_held():
    registers = PlainRegisters()
    assert read(registers, None, Get(b"a")) == [Got(0, None)]
    one, results = transition(registers, None, Put(b"a", b"1"))
    assert results == [Written(0)]
    over, _ = transition(registers, one, Put(b"a", b"2"))
    fresh, _ = transition(registers, None, Put(b"a", b"2"))
    assert over == fresh
    assert read(registers, over, Get(b"a"))[0].item.value == b"2"
    gone, results = transition(registers, over, Delete(b"a"))
    assert results == [Deleted(0, 1)]
    assert read(registers, gone, Get(b"a")) == [Got(0, None)]


@pytest.mark.parametrize(
    "operation",
    [Add(b"a", 1), Put(b"a", b"1", if_revision=1), Put(b"a", b"1", previous=True), Transaction((), (Put(b"a", b"1"),))],
)
def test_a_plain_register_refuses_what_depends_on_what_it_holds(operation):
    registers = PlainRegisters()
    held, _ = transition(registers, None, Put(b"a", b"x"))
    after, results = transition(registers, held, operation)
    assert (after, results[0].code) == (b"", Failure.UNSUPPORTED)


def test_an_atomic_register_counts_adds_and_remembers():
    registers = AtomicRegisters()
    once, first = transition(registers, None, Add(b"n", 5), session=9, sequence=1)
    again, second = transition(registers, once, Add(b"n", 5), session=9, sequence=1)
    assert first == second
    assert read(registers, again, Get(b"n"))[0].item.value == b"5"
    _, refused = transition(registers, again, Put(b"n", b"0", if_revision=9))
    assert refused[0].code == Failure.CONDITION
