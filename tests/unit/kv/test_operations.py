"""What each operation does, one at a time."""

import pytest

from replica.kv import evaluation, history
from replica.kv.layout import HISTORY, key_of
from replica.kv.operations import (
    SYSTEM_PREFIX,
    VALUE_BYTES_MAX,
    Add,
    Added,
    AnyResult,
    Delete,
    Deleted,
    DeleteRange,
    Failed,
    Failure,
    Get,
    Got,
    GrantLease,
    KeyValue,
    Put,
    Range,
    Ranged,
    Written,
    prefix_end,
)

from .support import codes


def keys_of(ranged: AnyResult) -> list[bytes]:
    assert isinstance(ranged, Ranged)
    return [item.key for item in ranged.items]


def test_every_operation_of_a_run_takes_a_revision_of_its_own(replica):
    assert replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"b", b"3")) == [Written(1), Written(2), Written(3)]
    assert replica.machine.revision == 3


def test_a_key_carries_its_history(replica):
    replica.do(GrantLease(1000, 7), Put(b"a", b"1"), Put(b"b", b"x"), Put(b"a", b"2", lease=7))
    assert replica.one(Get(b"a")) == Got(3, KeyValue(b"a", b"2", 1, 3, 2, 7))


def test_a_key_that_is_written_after_its_deletion_begins_anew(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Delete(b"a"), Put(b"a", b"3"))
    assert replica.one(Get(b"a")) == Got(4, KeyValue(b"a", b"3", 4, 4, 1))


def test_what_changes_nothing_takes_no_revision(replica):
    replica.do(Put(b"a", b"1"))
    results = replica.do(Get(b"a"), Delete(b"absent"), DeleteRange(b"x", b""), Put(b"a", b"2", if_revision=9))
    assert [result.revision for result in results] == [1, 1, 1, 1]
    assert replica.machine.revision == 1


def test_a_guarded_put_happens_only_at_the_revision_it_names(replica):
    assert replica.one(Put(b"a", b"1", if_revision=0)) == Written(1)
    refused = replica.one(Put(b"a", b"2", if_revision=0))
    assert isinstance(refused, Failed)
    assert (refused.code, refused.detail) == (Failure.CONDITION, 1)
    assert replica.one(Put(b"a", b"2", if_revision=1, previous=True)) == Written(2, KeyValue(b"a", b"1", 1, 1, 1))


def test_a_deleted_key_is_at_revision_0_for_a_guard(replica):
    replica.do(Put(b"a", b"1"), Delete(b"a"))
    assert replica.one(Put(b"a", b"2", if_revision=0)) == Written(3)


def test_a_delete_can_be_guarded_and_say_what_it_removed(replica):
    replica.do(Put(b"a", b"1"))
    assert codes(replica.do(Delete(b"a", if_revision=5))) == [Failure.CONDITION]
    removed = KeyValue(b"a", b"1", 1, 1, 1)
    assert replica.one(Delete(b"a", if_revision=1, previous=True)) == Deleted(2, 1, (removed,))
    assert replica.one(Get(b"a")) == Got(2)


def test_the_past_can_be_read(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Delete(b"a"), Put(b"a", b"4"))
    values = [replica.one(Get(b"a", revision)).item for revision in (1, 2, 3, 4)]
    assert [item and item.value for item in values] == [b"1", b"2", None, b"4"]


def test_the_future_cannot_be_read(replica):
    replica.do(Put(b"a", b"1"))
    refused = replica.one(Get(b"a", 2))
    assert isinstance(refused, Failed)
    assert (refused.code, refused.detail) == (Failure.FUTURE_REVISION, 1)


AWKWARD = sorted((b"a", b"a\x00", b"a\x00\x00", b"a\x00\xff", b"a\x01", b"a\xff", b"b", b"\x00", b"\xff" * 250))


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_come_in_their_order_whatever_bytes_they_hold(replica, reverse):
    replica.do(*(Put(key, key) for key in reversed(AWKWARD)))
    answer = replica.one(Range(b"", b"", reverse=reverse))
    assert keys_of(answer) == (AWKWARD[::-1] if reverse else AWKWARD)
    assert all(item.value == item.key for item in answer.items)


@pytest.mark.parametrize("first", AWKWARD)
@pytest.mark.parametrize("last", AWKWARD)
def test_an_interval_is_half_open(replica, first, last):
    replica.do(*(Put(key, b"") for key in AWKWARD))
    assert keys_of(replica.one(Range(first, last))) == [key for key in AWKWARD if first <= key < last]
    assert replica.one(Range(first, last, count_only=True)).count == sum(first <= key < last for key in AWKWARD)


def test_a_limited_range_says_that_there_is_more_and_can_be_continued(replica):
    replica.do(*(Put(b"%d" % number, b"") for number in range(5)))
    first = replica.one(Range(b"", b"", limit=3))
    assert (keys_of(first), first.more) == ([b"0", b"1", b"2"], True)
    rest = replica.one(Range(b"2\x00", b"", limit=3))
    assert (keys_of(rest), rest.more) == ([b"3", b"4"], False)
    backwards = replica.one(Range(b"", b"3", limit=2, reverse=True))
    assert (keys_of(backwards), backwards.more) == ([b"2", b"1"], True)


def test_a_range_without_values_still_tells_the_revisions(replica):
    replica.do(Put(b"a", b"long"), Put(b"a", b"longer"))
    assert replica.one(Range(b"", b"", keys_only=True)).items == (KeyValue(b"a", b"", 1, 2, 2),)


def test_a_range_finds_each_key_once_however_many_versions_it_has(replica):
    for round_ in range(40):
        replica.do(*(Put(b"%d" % key, b"%d" % round_) for key in range(5)))
    for revision, value in ((0, b"39"), (100, b"19"), (5, b"0")):
        answer = replica.one(Range(b"", b"", revision=revision))
        assert [(item.key, item.value) for item in answer.items] == [(b"%d" % key, value) for key in range(5)]


def test_a_range_stops_where_the_answer_would_grow_too_large(replica, monkeypatch):
    monkeypatch.setattr(evaluation, "RESULT_BYTES_MAX", 2 * (1 + 100 + evaluation.ITEM_BYTES))
    replica.do(*(Put(b"%d" % number, bytes(100)) for number in range(3)))
    answer = replica.one(Range(b"", b""))
    assert (keys_of(answer), answer.more) == ([b"0", b"1"], True)


def test_a_range_can_be_deleted_at_one_revision(replica):
    replica.do(*(Put(key, b"") for key in (b"a", b"b", b"c")))
    answer = replica.one(DeleteRange(b"a", b"c", previous=True))
    assert (answer.revision, answer.count) == (4, 2)
    assert [item.key for item in answer.previous] == [b"a", b"b"]
    assert keys_of(replica.one(Range(b"", b""))) == [b"c"]
    assert keys_of(replica.one(Range(b"", b"", revision=3))) == [b"a", b"b", b"c"]


def test_a_deletion_that_is_too_large_is_refused_as_a_whole(replica, monkeypatch):
    monkeypatch.setattr(evaluation, "DELETE_RANGE_KEYS_MAX", 2)
    replica.do(*(Put(key, b"") for key in (b"a", b"b", b"c")))
    assert codes(replica.do(DeleteRange(b"", b""))) == [Failure.INVALID]
    assert len(keys_of(replica.one(Range(b"", b"")))) == 3


def test_a_counter_counts_from_nothing(replica):
    assert replica.do(Add(b"n", 5), Add(b"n", -7)) == [Added(1, 5), Added(2, -2)]
    assert replica.one(Get(b"n")).item.value == b"-2"


@pytest.mark.parametrize("stored", [b"", b"x", b"1.5", b" 1", b"+1", b"1_0", b"\xd9\xa1", b"9" * 30, b"1\n"])
def test_only_plain_integers_can_be_added_to(replica, stored):
    replica.do(Put(b"n", stored))
    assert codes(replica.do(Add(b"n", 1))) == [Failure.NOT_A_NUMBER]
    assert replica.one(Get(b"n")).item.value == stored


def test_a_sum_beyond_64_bits_is_refused(replica):
    replica.do(Put(b"n", b"%d" % (2**63 - 1)))
    assert codes(replica.do(Add(b"n", 1))) == [Failure.NOT_A_NUMBER]
    assert replica.one(Add(b"n", -1)) == Added(2, 2**63 - 2)


def test_large_values_survive_although_they_are_not_cached(replica):
    value = bytes(range(256)) * (VALUE_BYTES_MAX // 256)
    replica.do(Put(b"a", value))
    assert replica.one(Get(b"a")).item.value == value
    assert replica.one(Put(b"a", b"", previous=True)).previous.value == value


class TestKeysOfTheSystem:
    KEY = SYSTEM_PREFIX + b"x"

    @pytest.mark.parametrize(
        "write",
        [
            Put(KEY, b""),
            Put(KEY, b"", if_revision=0),
            Add(KEY, 1),
            Delete(KEY),
            DeleteRange(KEY, prefix_end(KEY)),
        ],
    )
    def test_clients_cannot_write_them(self, replica, write):
        assert codes(replica.do(Put(b"a", b""), write, Put(b"b", b""))) == ["ok", Failure.INVALID, "ok"]
        assert replica.machine.revision == 2

    def test_the_system_can(self, replica):
        assert replica.do(Put(self.KEY, b"1"), Put(self.KEY, b"2"), system=True) == [Written(1), Written(2)]
        assert replica.one(Get(self.KEY)).item.version == 2

    @pytest.mark.parametrize("reverse", [False, True])
    def test_intervals_of_clients_pass_over_them(self, replica, reverse):
        replica.do(Put(self.KEY, b""), Put(b"\x00", b""), Put(b"z", b""), system=True)
        assert sorted(keys_of(replica.one(Range(b"", b"", reverse=reverse)))) == [b"\x00", b"z"]
        assert replica.one(Range(b"", b"", count_only=True)).count == 2
        assert replica.one(DeleteRange(b"", b"")).count == 2
        assert replica.one(Get(self.KEY)).item is not None

    def test_who_asks_for_them_by_name_may_see_them(self, replica):
        replica.do(Put(self.KEY, b""), system=True)
        assert keys_of(replica.one(Range(SYSTEM_PREFIX, prefix_end(SYSTEM_PREFIX)))) == [self.KEY]


def test_the_answers_to_one_batch_of_reads_are_bounded_together(replica):
    value = bytes(VALUE_BYTES_MAX)
    replica.do(Put(b"a", value))
    answers = replica.machine.query([Get(b"a")] * 5)
    assert codes(answers) == ["ok", "ok", "ok", Failure.CROWDED, Failure.CROWDED]


def test_plain_puts_are_answered_before_their_versions_are_made_and_seen_by_whoever_looks(replica):
    machine = replica.machine
    assert replica.do(Put(b"a", b"1"), Put(b"a", b"2")) == [Written(1), Written(2)]
    assert not machine.settled
    assert machine.revision == 2
    machine.settle()
    assert machine.settled
    replica.do(Put(b"a", b"3"))
    assert replica.one(Get(b"a")).item.value == b"3"
    replica.do(Put(b"a", b"4"))
    before = machine.digest()
    assert before.revision == 4
    machine.settle()
    assert machine.digest() == before
    replica.do(Put(b"a", b"5"))
    replica.restart()
    assert replica.one(Get(b"a")).item == KeyValue(b"a", b"5", 1, 5, 5)


def test_only_so_many_puts_wait_for_their_versions(replica, monkeypatch):
    monkeypatch.setattr(history, "TAKEN_ON_PUTS_MAX", 2)
    replica.do(Put(b"a", b""), Put(b"b", b""))
    assert not replica.machine.settled
    replica.do(Put(b"c", b""))
    assert replica.machine.settled


def test_what_has_become_much_is_written_a_part_at_a_time_and_what_has_waited_longest_first(replica, monkeypatch):
    monkeypatch.setattr(history, "PENDING_KEYS_MAX", 4)
    monkeypatch.setattr(history, "RELIEVED_KEYS_MIN", 1)
    keys = [b"%d" % number for number in range(6)]
    written: list[bytes] = []
    put_many = replica.machine.store.put_many

    def observed(table, items, **options):
        if table == HISTORY:
            written.extend(key_of(record_key) for record_key, _ in items)
        put_many(table, items, **options)

    monkeypatch.setattr(replica.machine.store, "put_many", observed)
    replica.do(*[Put(key, b"old") for key in keys])
    replica.machine.settle()
    assert written == keys[:2]
    replica.do(Put(keys[0], b"new"))
    replica.machine.settle()
    assert written == keys[:3]
    assert [replica.one(Get(key)).item.value for key in keys] == [b"new"] + [b"old"] * 5
    assert replica.one(Get(keys[0], revision=1)).item.value == b"old"
    replica.restart()
    assert [replica.one(Get(key)).item.value for key in keys] == [b"new"] + [b"old"] * 5


def test_changes_are_complete_though_their_versions_are_written_already(replica, monkeypatch):
    monkeypatch.setattr(history, "PENDING_KEYS_MAX", 0)
    replica.do(Put(b"a", b""), Put(b"b", b""))
    replica.machine.settle()
    replica.restart()
    assert list(replica.machine.history.changes(0)) == [(1, b"a"), (2, b"b")]
