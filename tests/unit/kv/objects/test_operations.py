"""What operations mean where every key has a revision of its own."""

import pytest

from replica.kv.operations import (
    Add,
    Added,
    Compact,
    Compare,
    Delete,
    Deleted,
    DeleteRange,
    Failed,
    Failure,
    Get,
    Got,
    KeyValue,
    OpenSession,
    Put,
    Range,
    Transacted,
    Transaction,
    Unchanged,
    Written,
)
from tests.unit.kv.support import codes

from .support import KEY_BY_KEY, Objects


def test_each_key_counts_its_own_revisions(objects):
    assert objects.one(Put(b"a", b"1")) == Written(1)
    assert objects.one(Put(b"a", b"2")) == Written(2)
    assert objects.one(Put(b"b", b"3")) == Written(1)
    assert objects.one(Get(b"a")) == Got(2, KeyValue(b"a", b"2", 1, 2, 2))


def test_a_deleted_key_goes_on_counting(objects):
    objects.one(Put(b"a", b"1"))
    assert objects.one(Delete(b"a")) == Deleted(2, 1)
    assert objects.one(Get(b"a")) == Got(2, None)
    assert objects.one(Put(b"a", b"2")) == Written(3)
    assert objects.one(Get(b"a")) == Got(3, KeyValue(b"a", b"2", 3, 3, 1))
    assert objects.one(Delete(b"never there")) == Deleted(0)


def test_conditions_name_the_revision_of_the_key(objects):
    objects.one(Put(b"b", b"makes no difference"))
    assert objects.one(Put(b"a", b"1", if_revision=0)) == Written(1)
    refused = objects.one(Put(b"a", b"2", if_revision=7))
    assert (refused.code, refused.detail) == (Failure.CONDITION, 1)
    assert objects.one(Put(b"a", b"2", if_revision=1, previous=True)).previous.value == b"1"
    assert objects.one(Delete(b"a", if_revision=2, previous=True)).previous[0].value == b"2"


def test_additions_are_computed_where_they_are_applied(objects):
    assert objects.one(Add(b"n", 4)) == Added(1, 4)
    assert objects.one(Add(b"n", -5)) == Added(2, -1)
    objects.one(Put(b"n", b"x"))
    assert objects.one(Add(b"n", 1)).code == Failure.NOT_A_NUMBER


def test_a_transaction_takes_the_next_revision_of_each_key_that_it_writes(objects):
    objects.one(Put(b"a", b"1"))
    objects.one(Put(b"a", b"2"))
    done = objects.one(
        Transaction(
            (Compare(b"a", "mod", "=", 2), Compare(b"b", "exists", "=", 0)),
            (Put(b"a", b"3"), Put(b"b", b"1"), Get(b"a"), Add(b"n", 1)),
        )
    )
    assert done == Transacted(0, True, (Written(3), Written(1), Got(3, KeyValue(b"a", b"3", 1, 3, 3)), Added(1, 1)))
    otherwise = objects.one(Transaction((Compare(b"a", "version", "<", 3),), (Put(b"a", b"4"),), (Get(b"b"),)))
    assert otherwise == Transacted(0, False, (Got(1, KeyValue(b"b", b"1", 1, 1, 1)),))


def test_a_transaction_that_fails_has_changed_nothing(objects):
    objects.one(Put(b"x", b"no number"))
    before = objects.machine.digest().digest
    assert objects.one(Transaction((), (Put(b"a", b"1"), Add(b"x", 1)))).code == Failure.NOT_A_NUMBER
    assert objects.machine.digest().digest == before


def test_a_range_shows_what_stands_in_it_now(objects):
    for key in (b"c", b"a", b"b"):
        objects.one(Put(key, key))
    objects.one(Delete(b"b"))
    objects.restart()
    objects.one(Put(b"ab", b"ab"))
    assert [item.key for item in objects.one(Range(b"", b"")).items] == [b"a", b"ab", b"c"]
    assert [item.key for item in objects.one(Range(b"", b"c", reverse=True)).items] == [b"ab", b"a"]
    shortened = objects.one(Range(b"", b"", limit=2))
    assert ([item.key for item in shortened.items], shortened.more) == ([b"a", b"ab"], True)
    assert objects.one(Range(b"", b"", count_only=True)).count == 3
    inside = objects.one(Transaction((), (Put(b"b", b"new"), Delete(b"a"), Range(b"", b"", keys_only=True))))
    assert [item.key for item in inside.results[2].items] == [b"ab", b"b", b"c"]


@pytest.mark.parametrize(
    "operation",
    [
        Get(b"a", revision=1),
        Range(b"", b"", revision=1),
        Put(b"a", b"1", lease=3),
        DeleteRange(b"", b""),
        Compact(1),
        OpenSession(b"nonce"),
        Transaction((Unchanged(b"", b"", 1),), (Put(b"a", b"1"),)),
        Transaction((), (Put(b"a", b"1"), DeleteRange(b"", b""))),
    ],
)
def test_what_needs_one_revision_for_all_keys_is_refused_and_changes_nothing(objects, operation):
    refused = objects.one(operation)
    assert isinstance(refused, Failed)
    assert refused.code == Failure.UNSUPPORTED
    assert objects.machine.digest().keys == 0


@pytest.mark.parametrize(
    "operation",
    [
        Range(b"", b""),
        Transaction((Compare(b"a", "exists", "=", 0),), (Put(b"b", b"1"),)),
        Transaction((), (Range(b"", b""),)),
    ],
)
def test_a_machine_of_single_keys_refuses_what_spans_several(store, operation):
    objects = Objects(store, abilities=KEY_BY_KEY)
    assert objects.one(operation).code == Failure.UNSUPPORTED
    assert objects.machine.digest().keys == 0


def test_a_machine_of_single_keys_has_transactions_on_one(store):
    objects = Objects(store, abilities=KEY_BY_KEY)
    done = objects.one(Transaction((Compare(b"a", "exists", "=", 0),), (Put(b"a", b"1"), Get(b"a"))))
    assert codes(done.results) == ["ok", "ok"]


def test_keys_of_the_system_are_not_written(objects):
    assert objects.one(Put(b"\x00synod/x", b"1")).code == Failure.INVALID
