"""Conditions, branches, and one revision for everything."""

import pytest

from replica.kv.operations import (
    Add,
    Added,
    Compact,
    Compare,
    Condition,
    Delete,
    DeleteRange,
    Failed,
    Failure,
    Get,
    Put,
    Range,
    Transacted,
    Transaction,
    Unchanged,
)

from .support import Replica, codes


def holds(replica: Replica, *conditions: Condition) -> bool:
    result = replica.one(Transaction(conditions, (), ()))
    assert isinstance(result, Transacted), result
    return result.succeeded


def test_all_changes_of_a_transaction_share_one_revision(replica):
    replica.do(Put(b"a", b""), Put(b"old", b""))
    result = replica.one(Transaction((), (Put(b"a", b"1"), Put(b"b", b"2"), Delete(b"old"), Add(b"n", 4))))
    assert result.revision == 3
    assert {each.revision for each in result.results} == {3}
    assert {item.key: item.mod_revision for item in replica.one(Range(b"", b"")).items} == {b"a": 3, b"b": 3, b"n": 3}


def test_operations_see_what_earlier_ones_of_the_branch_wrote(replica):
    replica.do(Put(b"b", b"1"), Put(b"d", b"1"))
    result = replica.one(
        Transaction(
            (),
            (
                Put(b"a", b"2"),
                Put(b"c", b"2"),
                Delete(b"d"),
                Range(b"", b""),
                Range(b"", b"", reverse=True, limit=2),
                Get(b"a"),
                DeleteRange(b"b", b"d"),
                Range(b"", b"", count_only=True),
                Range(b"", b"", revision=2),
            ),
        )
    )
    *_, forward, backward, got, deleted, count, past = result.results
    assert [item.key for item in forward.items] == [b"a", b"b", b"c"]
    assert ([item.key for item in backward.items], backward.more) == ([b"c", b"b"], True)
    assert got.item.value == b"2"
    assert deleted.count == 2
    assert count.count == 1
    assert [item.key for item in past.items] == [b"b", b"d"]


def test_a_key_written_twice_in_a_transaction_is_one_change_of_two_versions(replica):
    replica.one(Transaction((), (Put(b"a", b"1"), Put(b"a", b"2"))))
    item = replica.one(Get(b"a")).item
    assert (item.value, item.version, item.create_revision, item.mod_revision) == (b"2", 2, 1, 1)
    assert list(replica.machine.history.changes(0)) == [(1, b"a")]


def test_the_other_branch_runs_when_a_condition_fails(replica):
    fork = Transaction((Compare(b"a", "exists", "=", 1),), (Put(b"b", b"then"),), (Put(b"b", b"otherwise"),))
    assert not replica.one(fork).succeeded
    assert replica.one(Get(b"b")).item.value == b"otherwise"


def test_a_transaction_that_only_reads_takes_no_revision(replica):
    replica.do(Put(b"a", b""))
    assert replica.one(Transaction((), (Get(b"a"),))).revision == 1
    assert replica.machine.revision == 1


@pytest.mark.parametrize(
    ("culprit", "code"),
    [
        (Put(b"a", b"", if_revision=9), Failure.CONDITION),
        (Add(b"a", 1), Failure.NOT_A_NUMBER),
        (Get(b"a", 99), Failure.FUTURE_REVISION),
        (Put(b"\x00synod/x", b""), Failure.INVALID),
    ],
)
def test_when_an_operation_fails_nothing_of_the_transaction_happens(replica, culprit, code):
    replica.do(Put(b"a", b"text"))
    before = replica.machine.digest()
    result = replica.one(Transaction((), (Put(b"b", b""), culprit, Put(b"c", b""))))
    assert isinstance(result, Failed)
    assert result.code == code
    assert "operation 1 of the branch 'then'" in result.message
    after = replica.machine.digest()
    assert (after.revision, after.keys, after.digest) == (before.revision, before.keys, before.digest)


@pytest.mark.parametrize(
    ("target", "relation", "operand", "expected"),
    [
        ("value", "=", b"m", True),
        ("value", "<", b"n", True),
        ("value", ">", b"m", False),
        ("value", "!=", b"m", False),
        ("version", "=", 2, True),
        ("create", "=", 1, True),
        ("mod", ">", 1, True),
        ("mod", "<", 2, False),
        ("exists", "=", 1, True),
        ("exists", "=", 0, False),
    ],
)
def test_what_can_be_compared(replica, target, relation, operand, expected):
    replica.do(Put(b"a", b"k"), Put(b"a", b"m"))
    assert holds(replica, Compare(b"a", target, relation, operand)) is expected


@pytest.mark.parametrize("relation", ["=", "<", ">"])
def test_an_absent_key_has_no_value_to_compare(replica, relation):
    assert not holds(replica, Compare(b"a", "value", relation, b""))
    assert holds(replica, Compare(b"a", "value", "!=", b""))
    assert holds(replica, Compare(b"a", "mod", "=", 0), Compare(b"a", "version", "=", 0))


class TestUnchanged:
    def test_it_holds_until_something_in_the_interval_is_written(self, replica):
        replica.do(Put(b"a", b""), Put(b"c", b""))
        assert holds(replica, Unchanged(b"a", b"c", 2))
        replica.do(Put(b"c", b""))
        assert holds(replica, Unchanged(b"a", b"c", 2))
        replica.do(Put(b"b", b""))
        assert not holds(replica, Unchanged(b"a", b"c", 2))
        assert holds(replica, Unchanged(b"a", b"c", 4))

    def test_a_deletion_is_a_change(self, replica):
        replica.do(Put(b"a", b""), Delete(b"a"))
        assert not holds(replica, Unchanged(b"", b"", 1))

    def test_so_is_a_key_that_came_and_went(self, replica):
        replica.do(Put(b"z", b""), Put(b"a", b""), Delete(b"a"))
        assert not holds(replica, Unchanged(b"a", b"b", 1))

    def test_many_changes_elsewhere_do_not_disturb_it(self, replica, monkeypatch):
        monkeypatch.setattr("replica.kv.history.RECENT_CHANGES_MAX", 3)
        replica.do(Put(b"a", b""), *(Put(b"x%d" % number, b"") for number in range(10)))
        assert holds(replica, Unchanged(b"", b"b", 1))
        replica.do(Delete(b"a"), *(Put(b"x%d" % number, b"") for number in range(10)))
        assert not holds(replica, Unchanged(b"", b"b", 1))

    @pytest.mark.parametrize("revision", [0, 1])
    def test_below_the_compacted_revision_nobody_knows(self, replica, revision):
        replica.do(Put(b"a", b""), Put(b"b", b""), Compact(2))
        refused = replica.one(Transaction((Unchanged(b"", b"", revision),), ()))
        assert isinstance(refused, Failed)
        assert (refused.code, refused.detail) == (Failure.COMPACTED, 2)

    def test_nor_in_the_future(self, replica):
        assert codes(replica.do(Transaction((Unchanged(b"", b"", 1),), ()))) == [Failure.FUTURE_REVISION]


def test_a_lost_update_is_caught(replica):
    """Two clients read a counter and both try to write it back: the second is told."""
    replica.do(Put(b"n", b"1"))
    read = replica.one(Get(b"n")).item.mod_revision
    write = Transaction((Compare(b"n", "mod", "=", read),), (Put(b"n", b"2"),))
    assert replica.one(write).succeeded
    assert not replica.one(write).succeeded
    assert replica.one(Add(b"n", 1)) == Added(3, 3)
