"""Leases: keys that live as long as somebody keeps them alive."""

import pytest

from replica.kv import evaluation
from replica.kv.memory import MemoryStore
from replica.kv.operations import (
    Add,
    CloseSession,
    Compare,
    Delete,
    DescribeLease,
    Failed,
    Failure,
    Get,
    Got,
    GrantLease,
    KeepAlive,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseRevoked,
    LeasesListed,
    ListLeases,
    Put,
    Range,
    RevokeLease,
    Transaction,
    Written,
)

from .support import Replica, codes


def test_a_revoked_lease_takes_its_keys_with_it_at_one_revision(replica):
    replica.do(GrantLease(5000), Put(b"a", b"1", 1), Put(b"b", b"2", 1), Put(b"c", b"3"))
    assert replica.one(RevokeLease(1)) == LeaseRevoked(4, 2)
    assert [item.key for item in replica.one(Range(b"", b"")).items] == [b"c"]
    assert [key for _, key in replica.machine.history.changes(3)] == [b"a", b"b"]


def test_leases_take_no_revision_unless_keys_end_with_them(replica):
    results = replica.do(GrantLease(5000), KeepAlive(1), RevokeLease(1))
    assert results == [LeaseGranted(0, 1, 5000, 1), LeaseGranted(0, 1, 5000, 2), LeaseRevoked(0, 0)]


def test_a_lease_gets_the_id_that_was_asked_for_or_the_next_that_is_free(replica):
    granted = replica.do(GrantLease(1, 2), GrantLease(1), GrantLease(1), GrantLease(1, 2))
    assert [result.lease for result in granted[:3]] == [2, 1, 3]
    assert codes(granted[3:]) == [Failure.LEASE_EXISTS]


def test_a_key_is_put_under_a_lease_that_exists_or_not_at_all(replica):
    refused = replica.do(Put(b"a", b"1", 7), Transaction((), (Put(b"b", b""), Put(b"a", b"1", 7))))
    assert codes(refused) == [Failure.LEASE_UNKNOWN, Failure.LEASE_UNKNOWN]
    assert replica.machine.revision == 0


@pytest.mark.parametrize("operation", [KeepAlive(7), RevokeLease(7), RevokeLease(7, 1), DescribeLease(7)])
def test_an_unknown_lease_is_refused_and_nothing_is_changed(replica, operation):
    before = replica.machine.digest()
    refused = replica.one(operation)
    assert isinstance(refused, Failed)
    assert (refused.code, "no lease 7" in refused.message) == (Failure.LEASE_UNKNOWN, True)
    assert replica.machine.digest().digest == before.digest


def test_an_expiry_that_names_an_earlier_keep_alive_comes_to_nothing(replica):
    (granted, *_) = replica.do(GrantLease(5000), Put(b"a", b"1", 1), KeepAlive(1))
    late = replica.one(RevokeLease(1, granted.renewal), system=True)
    assert (late.code, late.detail) == (Failure.LEASE_RENEWED, 2)
    assert replica.one(Get(b"a")).item is not None
    assert replica.one(RevokeLease(1, 2), system=True) == LeaseRevoked(2, 1)


def test_an_expiry_does_not_end_a_new_lease_under_the_old_id(replica):
    (granted, *_) = replica.do(GrantLease(5000, 9), RevokeLease(9), GrantLease(5000, 9))
    assert codes([replica.one(RevokeLease(9, granted.renewal))]) == [Failure.LEASE_RENEWED]
    assert 9 in replica.machine.leases


def test_a_key_follows_the_lease_of_its_last_put(replica):
    replica.do(GrantLease(1), GrantLease(1), Put(b"a", b"", 1), Put(b"b", b"", 1), Put(b"c", b"", 1))
    replica.do(Put(b"a", b"", 2), Put(b"b", b""), Delete(b"c"))
    described = replica.do(DescribeLease(1, True), DescribeLease(2, True))
    assert [lease.names for lease in described] == [(), (b"a",)]
    replica.do(RevokeLease(1), RevokeLease(2))
    assert [item.key for item in replica.one(Range(b"", b"")).items] == [b"b"]


def test_counting_on_does_not_take_a_key_from_its_lease(replica):
    replica.do(GrantLease(1), Put(b"n", b"1", 1), Add(b"n", 1))
    assert replica.one(DescribeLease(1, True)).names == (b"n",)


def test_a_transaction_attaches_what_it_leaves_behind(replica):
    replica.do(GrantLease(1), GrantLease(1))
    steps = (Put(b"a", b"", 1), Put(b"b", b"", 1), Put(b"a", b"", 2), Delete(b"b"))
    replica.one(Transaction((Compare(b"a", "exists", "=", 0),), steps))
    assert [replica.one(DescribeLease(lease)).count for lease in (1, 2)] == [0, 1]


def test_leases_are_listed_in_order_and_in_pieces(replica):
    replica.do(*[GrantLease(lease, lease) for lease in (9, 3, 5)], Put(b"a", b"", 5))
    first = replica.one(ListLeases(0, 2))
    assert first == LeasesListed(1, (LeaseDescribed(1, 3, 3, 2), LeaseDescribed(1, 5, 5, 3, 1)), more=True)
    assert [lease.lease for lease in replica.one(ListLeases(5, 2)).leases] == [9]


def test_a_retried_grant_and_a_retried_keep_alive_happen_once(replica):
    session = replica.open_session()
    granted = replica.run(session, 1, GrantLease(5000), KeepAlive(1))
    assert replica.run(session, 1, GrantLease(5000), KeepAlive(1)) == granted
    assert (len(replica.machine.leases), replica.machine.leases.known(1).renewal) == (1, 2)


def test_the_end_of_a_session_does_not_end_its_leases(replica):
    session = replica.open_session()
    replica.run(session, 1, GrantLease(5000), Put(b"a", b"1", 1))
    replica.one(CloseSession(session), system=True)
    assert replica.one(Get(b"a")) == Got(1, KeyValue(b"a", b"1", 1, 1, 1, 1))


def test_leases_and_their_keys_survive_a_restart(replica):
    replica.do(GrantLease(5000), Put(b"a", b"1", 1), GrantLease(7000), KeepAlive(1))
    before = replica.machine.digest()
    replica.restart()
    assert replica.machine.digest() == before
    assert list(replica.machine.leases.touched) == [1, 2]  # whoever keeps the timers begins anew
    assert replica.one(GrantLease(1)).lease == 3
    assert replica.one(RevokeLease(1)).count == 1


def test_a_lease_is_part_of_the_digest(replica):
    before = replica.machine.digest()
    replica.one(GrantLease(5000))
    granted = replica.machine.digest()
    replica.one(KeepAlive(1))
    assert len({before.digest, granted.digest, replica.machine.digest().digest}) == 3


def test_whoever_keeps_the_timers_hears_of_what_began_and_was_renewed(replica):
    replica.do(GrantLease(1), GrantLease(1), RevokeLease(1), KeepAlive(2))
    assert list(replica.machine.leases.touched) == [2]


def test_there_are_only_so_many_leases():
    replica = Replica(MemoryStore(), leases_max=2)
    granted = replica.do(GrantLease(1), GrantLease(1), GrantLease(1))
    assert codes(granted) == ["ok", "ok", Failure.LEASES_FULL]
    replica.do(RevokeLease(1))
    assert replica.one(GrantLease(1)).lease == 3


def test_only_so_many_keys_live_with_one_lease(replica, monkeypatch):
    monkeypatch.setattr(evaluation, "LEASE_KEYS_MAX", 2)
    puts = replica.do(GrantLease(1), *[Put(key, b"", 1) for key in (b"a", b"b", b"c")])
    assert codes(puts[1:]) == ["ok", "ok", Failure.LEASES_FULL]
    together = Transaction((), (Put(b"d", b""), Put(b"c", b"", 1)))
    assert codes([replica.one(together)]) == [Failure.LEASES_FULL]
    assert replica.machine.revision == 2


def test_puts_that_have_nothing_to_do_with_leases_stay_plain(replica):
    replica.do(GrantLease(1), Put(b"leased", b"", 1))
    assert replica.do(Put(b"a", b""), Put(b"leased", b""), Put(b"b", b"")) == [Written(2), Written(3), Written(4)]
    assert replica.one(DescribeLease(1)).count == 0


def test_a_put_that_was_answered_has_left_its_lease_for_whoever_looks(replica):
    replica.do(GrantLease(1), Put(b"leased", b"", 1))
    replica.run(0, 1, Put(b"leased", b"free"))
    assert not replica.machine.settled
    replica.do(RevokeLease(1))
    assert replica.one(Get(b"leased")).item.value == b"free"
