"""Runs as bytes: building, cutting and checking them."""

from typing import Any

import msgspec
import pytest

from replica.kv import machine, runs
from replica.kv.operations import (
    KEY_BYTES_MAX,
    LEASE_TTL_MS_MAX,
    REVISION_MAX,
    RUN_BYTES_MAX,
    RUN_OPERATIONS_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Add,
    AnyOperation,
    ClientOperation,
    CloseSession,
    Compact,
    Compare,
    Delete,
    DeleteRange,
    DescribeLease,
    Get,
    GrantLease,
    KeepAlive,
    ListLeases,
    OpenSession,
    Put,
    Range,
    RevokeLease,
    Transaction,
    Unchanged,
    prefix_end,
)

from .support import Command

RUN: list[AnyOperation] = [
    Put(b"a", b"1", 3, 0, True),
    Get(b"a", 4),
    Range(b"a", b"", 5, True),
    Delete(b"a"),
    DeleteRange(b"", b"z"),
    Add(b"n", -1),
    Transaction((Compare(b"a", "value", "<", b"x"), Unchanged(b"", b"", 1)), (Put(b"a", b""),), (Get(b"a"),)),
    Compact(3),
    GrantLease(1000, 4),
    KeepAlive(4),
    RevokeLease(4, 7),
    DescribeLease(4, True),
    ListLeases(4, 1),
]


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("acknowledged", [0, 127, 128, 2**40])
def test_a_payload_keeps_what_was_packed(acknowledged, system):
    payload = runs.unpack(runs.pack_payload(acknowledged, runs.encode_operations(RUN), system=system))
    assert (payload.acknowledged, payload.operations, payload.system) == (acknowledged, RUN, system)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 1000, 70_000])
def test_operations_encoded_one_by_one_join_to_the_same_run(count):
    operations = [Get(b"a")] * count
    assert runs.join_operations([runs.encode_operation(Get(b"a"))] * count) == runs.encode_operations(operations)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 100])
def test_a_payload_is_cut_without_losing_anything(size):
    payload = runs.pack_payload(9, runs.encode_operations(RUN))
    pieces = runs.split_payload(payload, size)
    assert all(count <= size for _, count, _ in pieces)
    joined: list[AnyOperation] = []
    for offset, count, piece in pieces:
        unpacked = runs.unpack(piece)
        assert (offset, count, unpacked.acknowledged) == (len(joined), len(unpacked.operations), 9)
        joined += unpacked.operations
    assert joined == RUN


def test_a_valid_run_passes():
    assert runs.validate_run(runs.encode_operations(RUN), len(RUN)) == RUN
    for operation in RUN:
        runs.check_operation(operation)


LONGEST = Put(b"k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX))

INVALID: dict[str, Any] = {
    "empty key": Put(b"", b""),
    "long key": Get(b"k" * (KEY_BYTES_MAX + 1)),
    "long key to put": Put(b"k" * (KEY_BYTES_MAX + 1), b""),
    "long value": Put(b"a", bytes(VALUE_BYTES_MAX + 1)),
    "long bound": Range(b"k" * (KEY_BYTES_MAX + 1), b""),
    "negative revision": Get(b"a", -1),
    "negative lease": Put(b"a", b"", -1),
    "huge revision": Compact(2**63),
    "a lease of no time": GrantLease(0),
    "a lease for ever": GrantLease(LEASE_TTL_MS_MAX + 1),
    "huge delta": Add(b"a", 2**63),
    "unknown target": Transaction((msgspec.structs.replace(Compare(b"a", "mod", "=", 1), target="size"),), ()),
    "unknown relation": Transaction((msgspec.structs.replace(Compare(b"a", "mod", "=", 1), relation="~"),), ()),
    "large transaction": Transaction((), (LONGEST,) * 4),
    "text for a key": msgspec.structs.replace(Put(b"a", b""), key="a"),
    "a number that does not fit": Add(b"a", 2**70),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_operation_is_refused_by_the_client(name):
    with pytest.raises(runs.MalformedOperation):
        runs.check_operation(INVALID[name])


@pytest.mark.parametrize("name", sorted(INVALID.keys() - {"a number that does not fit"}))
def test_an_invalid_operation_is_refused_before_it_is_proposed(name):
    run = msgspec.msgpack.encode([Get(b"a"), INVALID[name]])
    with pytest.raises(runs.MalformedOperation):
        runs.validate_run(run, 2)


@pytest.mark.parametrize("name", sorted(INVALID.keys() - {"a number that does not fit", "large transaction"}))
def test_and_by_whoever_applies_it(name):
    run = msgspec.msgpack.encode([INVALID[name]])
    with pytest.raises(runs.MalformedOperation):
        runs.unpack(runs.pack_payload(0, run))


def test_the_longest_key_and_value_pass():
    runs.check_operation(LONGEST)
    assert runs.validate_run(runs.encode_operations([LONGEST]), 1) == [LONGEST]


@pytest.mark.parametrize("session", [OpenSession(b"n"), CloseSession(1)])
def test_clients_do_not_open_and_close_sessions_in_runs(session):
    with pytest.raises(runs.MalformedOperation):
        runs.validate_run(runs.encode_operations([session]), 1)


def test_a_run_has_as_many_operations_as_it_says():
    run = runs.encode_operations([Get(b"a"), Get(b"b")])
    for count in (0, 1, 3):
        with pytest.raises(runs.MalformedOperation):
            runs.validate_run(run, count)
        with pytest.raises(runs.MalformedOperation):
            runs.validate_reads(run, count)


def test_a_run_is_bounded_in_operations_and_bytes():
    many = [Get(b"a")] * (RUN_OPERATIONS_MAX + 1)
    with pytest.raises(runs.OversizedOperation):
        runs.validate_run(runs.encode_operations(many), len(many))
    large = [Put(b"a", bytes(VALUE_BYTES_MAX))] * (RUN_BYTES_MAX // VALUE_BYTES_MAX)
    with pytest.raises(runs.OversizedOperation):
        runs.validate_run(runs.encode_operations(large), len(large))


def test_reads_are_reads():
    with pytest.raises(runs.MalformedOperation):
        runs.validate_reads(runs.encode_operations([Put(b"a", b"")]), 1)


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x91", b"\x91\x92\x01", b"\x91\x93\x63\x01\x02", b"\xff" * 20])
def test_garbage_is_refused_with_a_reason(garbage):
    for check in (
        lambda: runs.validate_run(garbage, 1),
        lambda: runs.unpack(garbage),
        lambda: runs.decode_results(garbage, 1),
    ):
        with pytest.raises(runs.MalformedOperation, match=r"\w"):
            check()


def test_a_value_is_compared_with_bytes_and_a_number_with_a_number():
    with pytest.raises(ValueError, match="bytes"):
        Compare(b"a", "value", "=", 1)
    with pytest.raises(ValueError, match="int"):
        Compare(b"a", "mod", "=", b"1")


def test_a_transaction_is_bounded():
    with pytest.raises(ValueError, match=str(TRANSACTION_OPERATIONS_MAX)):
        Transaction((), (Get(b"a"),) * (TRANSACTION_OPERATIONS_MAX + 1))


def test_a_footprint_is_the_union_in_the_order_of_first_mention():
    touched = runs.footprint(RUN[:7])
    assert touched.writes == (b"a", b"n")
    assert touched.reads == (b"a",)
    assert touched.ranges == ((b"a", b""), (b"", b""))
    assert touched.written_ranges == ((b"", b"z"),)
    assert not touched.read_only
    assert runs.footprint([Get(b"a"), Range(b"", b"")]).read_only
    assert runs.footprint([Compact(1)]).written_ranges == ((b"", b""),)


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", b""), (b"", b""), (b"a\x00", b"a\x01")]
)
def test_the_end_of_a_prefix(prefix, end):
    assert prefix_end(prefix) == end


def test_a_payload_that_was_foreseen_is_not_parsed_again_and_another_that_equals_it_is(replica, monkeypatch):
    monkeypatch.setattr(machine, "FORESEEN_BYTES_MAX", 100)
    parsed: list[bytes] = []

    def unpack(payload: bytes) -> runs.Payload:
        parsed.append(payload)
        return runs.unpack(payload)

    monkeypatch.setattr(machine, "unpack", unpack)
    operations: list[ClientOperation] = [Put(b"a", b"1")]
    mine = runs.pack_payload(0, runs.encode_operations(operations))
    foresee = replica.machine.foresee
    foresee(mine, 0, operations)
    for payload in (mine, bytes(bytearray(mine)), mine):
        (outcome,) = replica.machine.apply(replica.machine.applied + 1, [Command(payload)])
        assert len(outcome.results()) == 1
    assert parsed == [mine, mine]
    assert replica.machine.revision == 3
    # Only so much is remembered, and never a number that no payload may carry.
    large = [runs.pack_payload(0, runs.encode_operations([Put(b"a", bytes(60))])) for _ in range(2)]
    for payload in large:
        foresee(payload, 0, [Put(b"a", bytes(60))])
    foresee(mine, REVISION_MAX + 1, operations)
    parsed.clear()
    for payload in (*large, mine):
        replica.machine.apply(replica.machine.applied + 1, [Command(payload)])
    assert parsed == [large[0], mine]
