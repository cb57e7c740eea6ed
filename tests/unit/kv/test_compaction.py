"""Compaction: what can be read afterwards, and what is left on the disk."""

from replica.kv.history import RECORD_BYTES_MAX
from replica.kv.layout import decode_versions, key_of
from replica.kv.machine import StateMachine
from replica.kv.operations import (
    Compact,
    Compacted,
    Delete,
    Failed,
    Failure,
    Get,
    Put,
    Range,
    Transaction,
)

from .support import Replica


def scavenge(replica: Replica) -> None:
    while replica.machine.history.scavenge(1):
        pass


def versions(replica: Replica) -> list[tuple[bytes, int]]:
    """What the store holds, as key and revision."""
    return [
        (key_of(record_key), version[0])
        for record_key, data in replica.machine.store.scan("history", b"", b"")
        for version in decode_versions(record_key, data)
    ]


def values(replica: Replica, revision: int = 0) -> dict[bytes, bytes]:
    return {item.key: item.value for item in replica.one(Range(b"", b"", revision=revision)).items}


def test_the_compacted_revision_is_the_oldest_that_can_be_read(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"))
    assert replica.one(Compact(2)) == Compacted(3, 2)
    scavenge(replica)
    assert replica.one(Get(b"a", 2)).item.value == b"2"
    refused = replica.one(Get(b"a", 1))
    assert isinstance(refused, Failed)
    assert (refused.code, refused.detail) == (Failure.COMPACTED, 2)
    assert "2" in refused.message


def test_compaction_takes_no_revision_and_repeating_it_is_no_error(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"))
    assert replica.do(Compact(2), Compact(1)) == [Compacted(2, 2), Compacted(2, 2)]


def test_the_future_cannot_be_compacted(replica):
    refused = replica.one(Compact(1))
    assert isinstance(refused, Failed)
    assert (refused.code, refused.detail) == (Failure.FUTURE_REVISION, 0)


def test_what_nobody_can_see_is_removed(replica):
    replica.do(*(Put(b"%d" % (number % 3), b"%d" % number) for number in range(30)), Delete(b"0"))
    replica.do(Compact(31))
    scavenge(replica)
    store = replica.machine.store
    assert store.count("history") == 2
    assert store.count("changes") == 0
    assert values(replica) == {b"1": b"28", b"2": b"29"}


def test_what_somebody_can_see_stays(replica):
    replica.do(Put(b"a", b"1"), Put(b"b", b"1"), Delete(b"a"), Put(b"a", b"4"), Put(b"b", b"5"))
    replica.do(Compact(3))
    scavenge(replica)
    assert values(replica, 3) == {b"b": b"1"}
    assert values(replica, 4) == {b"a": b"4", b"b": b"1"}
    assert values(replica, 5) == {b"a": b"4", b"b": b"5"}


def test_a_key_written_after_its_compacted_deletion_is_not_lost(replica):
    replica.do(Put(b"a", b"1"), Delete(b"a"), Put(b"a", b"3"))
    replica.do(Compact(2))
    scavenge(replica)
    assert replica.one(Get(b"a")).item.value == b"3"
    replica.restart()
    assert replica.one(Get(b"a")).item.value == b"3"
    assert replica.one(Put(b"a", b"4", if_revision=3)).revision == 4


def test_a_key_whose_deletion_was_compacted_can_be_written_again(replica):
    replica.do(Put(b"a", b"1"), Delete(b"a"), Compact(2))
    scavenge(replica)
    replica.do(Put(b"a", b"3"), Put(b"a", b"4"), Compact(4))
    scavenge(replica)
    assert replica.machine.store.count("history") == 1
    assert replica.one(Get(b"a")).item.version == 2


def test_removal_goes_on_in_bounded_pieces_across_a_restart(replica):
    for number in range(10):
        replica.do(Put(b"a", b"%d" % number))
        replica.machine.history.flush()
    replica.do(Compact(10))
    assert replica.machine.history.scavenge(3)
    left = replica.machine.store.count("changes")
    assert left == 7
    machine = replica.machine
    machine.prepare()
    machine.store.commit()
    replica.machine = StateMachine(machine.store)
    assert replica.machine.history.scavenged == 3
    scavenge(replica)
    assert replica.machine.store.count("changes") == 0
    assert values(replica) == {b"a": b"9"}


def test_a_line_in_the_middle_of_a_batch_keeps_the_rest_of_it(replica):
    replica.do(*(Put(b"a", b"%d" % number) for number in range(6)))
    replica.do(Compact(3))
    scavenge(replica)
    assert [revision for revision, _ in replica.machine.history.changes(3)] == [4, 5, 6]
    assert [replica.one(Get(b"a", revision)).item.value for revision in (3, 4, 6)] == [b"2", b"3", b"5"]
    replica.do(Compact(5))
    scavenge(replica)
    assert replica.one(Get(b"a", 5)).item.value == b"4"
    assert versions(replica) == [(b"a", 5), (b"a", 6)]


def test_changes_are_told_in_order_with_those_of_one_transaction_together(replica):
    replica.do(Put(b"z", b""), Put(b"a", b""))
    replica.do(Transaction((), (Put(b"c", b""), Delete(b"a"), Put(b"b", b""))))
    replica.do(Put(b"d", b""))
    told = list(replica.machine.history.changes(0))
    assert told == [(1, b"z"), (2, b"a"), (3, b"c"), (3, b"a"), (3, b"b"), (4, b"d")]
    assert list(replica.machine.history.changes(2)) == told[2:]
    assert list(replica.machine.history.changes(4)) == []


def test_versions_that_were_written_together_lie_together_and_are_cut_where_the_line_is(replica):
    replica.do(*(Put(b"a", b"%d" % number) for number in range(4)), Put(b"b", b""), Delete(b"a"), Put(b"a", b"6"))
    replica.machine.history.flush()
    assert replica.machine.store.count("history") == 2
    replica.do(Compact(3))
    scavenge(replica)
    assert versions(replica) == [(b"a", 3), (b"a", 4), (b"a", 6), (b"a", 7), (b"b", 5)]
    assert [replica.one(Get(b"a", revision)).item for revision in (3, 5, 6)][2] is None
    replica.do(Compact(6))
    scavenge(replica)
    assert versions(replica) == [(b"a", 7), (b"b", 5)]


def test_versions_of_one_key_are_spread_over_records_of_bounded_size(replica):
    sizes = [10, 3000, 10, 10, 5000, 900, 900, 900, 900, 900, 1, 100_000, 1, 0]
    replica.do(*(Put(b"a", bytes(size)) for size in sizes))
    replica.machine.history.flush()
    records = list(replica.machine.store.scan("history", b"", b""))
    assert all(len(data) <= RECORD_BYTES_MAX or len(decode_versions(key, data)) == 1 for key, data in records)
    assert len(records) < len(sizes)
    replica.restart()
    for revision, size in enumerate(sizes, 1):
        assert replica.one(Get(b"a", revision)).item.value == bytes(size)
        assert values(replica, revision) == {b"a": bytes(size)}
