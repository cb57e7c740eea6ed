"""Exactly once without a registry: retries, late duplicates, evictions, transactions over several keys."""

import pytest

from replica.kv.objects import SESSIONS_PER_KEY_MAX
from replica.kv.objects.minting import CLOCK_AHEAD_MAX, REPLICAS_MAX, Mint
from replica.kv.operations import (
    REVISION_MAX,
    SESSION_WINDOW,
    Add,
    Added,
    Compare,
    Failure,
    Get,
    Put,
    Transaction,
    Written,
)

from .support import Objects

TRANSFER = Transaction((), (Add(b"from", -1), Add(b"to", 1)))


@pytest.fixture
def crowded(store):
    """Keys that remember two sessions."""
    return Objects(store, sessions_max=2)


def value(objects: Objects, key: bytes) -> int:
    item = objects.one(Get(key)).item
    return 0 if item is None else int(item.value)


def test_a_retry_is_answered_as_the_original_was(objects):
    first = objects.run(9, 1, Add(b"n", 1), Put(b"a", b"x"), Put(b"a", b"y", if_revision=7))
    objects.restart()
    assert objects.run(9, 1, Add(b"n", 1), Put(b"a", b"x"), Put(b"a", b"y", if_revision=7)) == first
    assert value(objects, b"n") == 1


def test_a_retry_of_5_may_follow_7(objects):
    assert objects.run(9, 7, Add(b"n", 100)) == [Added(1, 100)]
    assert objects.run(9, 5, Add(b"n", 1)) == [Added(2, 101)]
    assert objects.run(9, 5, Add(b"n", 1)) == [Added(2, 101)]
    assert objects.run(9, 7, Add(b"n", 100)) == [Added(1, 100)]


def test_a_late_duplicate_of_what_the_client_has_acknowledged_is_not_executed(objects):
    objects.run(9, 5, Add(b"n", 1))
    objects.run(9, 6, Add(b"n", 1), acknowledged=5)
    assert objects.run(9, 5, Add(b"n", 1))[0].code == Failure.RESULT_FORGOTTEN
    assert value(objects, b"n") == 2


def test_an_original_that_arrives_after_its_retry_is_not_executed(objects):
    objects.run(9, 1, Put(b"a", b"mine"))  # the retry, by way of another replica
    objects.run(8, 1, Put(b"a", b"somebody else's"))
    assert objects.run(9, 1, Put(b"a", b"mine")) == [Written(1)]
    assert objects.one(Get(b"a")).item.value == b"somebody else's"


def test_the_session_used_least_recently_makes_room_and_is_refused_from_then_on(crowded):
    crowded.run(10, 1, Add(b"n", 1))
    crowded.run(20, 1, Add(b"n", 1))
    crowded.run(10, 2, Add(b"n", 1))
    crowded.run(30, 1, Add(b"n", 1))
    refused = crowded.run(20, 1, Add(b"n", 1))[0]
    assert (refused.code, refused.detail) == (Failure.SESSION_UNKNOWN, 20)
    assert crowded.run(20, 2, Add(b"n", 1))[0].code == Failure.SESSION_UNKNOWN
    assert crowded.run(10, 3, Add(b"n", 1)) == [Added(5, 5)]
    assert value(crowded, b"n") == 5


def test_a_session_that_may_have_been_evicted_is_refused_whether_it_was_or_not(crowded):
    for session in (10, 20, 30):
        crowded.run(session, 1, Add(b"n", 1))
    refused = crowded.run(5, 1, Add(b"n", 1))[0]
    assert (refused.code, refused.detail) == (Failure.SESSION_UNKNOWN, 10)
    assert crowded.run(11, 1, Add(b"n", 1)) == [Added(4, 4)]


def test_a_refusal_says_how_high_the_next_session_must_be(crowded):
    high = Mint(3, 1)
    for _ in range(3):
        crowded.run(high.mint(), 1, Add(b"n", 1))
    mint = Mint(2, 1)
    refused = crowded.run(mint.mint(), 1, Add(b"n", 1))[0]
    assert refused.code == Failure.SESSION_UNKNOWN
    mint.saw(refused.detail)
    assert crowded.run(mint.mint(), 1, Add(b"n", 1)) == [Added(4, 4)]


def test_sessions_on_one_key_do_not_crowd_another(crowded):
    for session in range(1, 9):
        crowded.run(session, 1, Put(b"a", b""))
    assert crowded.run(1, 2, Put(b"b", b"")) == [Written(1)]


def test_a_transaction_is_remembered_by_every_key_that_it_may_write(objects):
    first = objects.run(9, 1, TRANSFER)
    assert objects.run(9, 1, TRANSFER) == first
    assert (value(objects, b"from"), value(objects, b"to")) == (-1, 1)


def test_one_key_that_still_remembers_a_transaction_answers_for_all(crowded):
    first = crowded.run(9, 1, TRANSFER)
    for session in (10, 11):
        crowded.run(session, 1, Add(b"from", 1))
    assert crowded.run(9, 1, TRANSFER) == first
    for session in (12, 13):
        crowded.run(session, 1, Add(b"to", 1))
    assert crowded.run(9, 1, TRANSFER)[0].code == Failure.SESSION_UNKNOWN
    assert value(crowded, b"from") == 1


def test_a_transaction_leaves_the_keys_that_it_only_compares_alone(objects):
    objects.run(9, 1, Put(b"a", b"1"))
    before = objects.machine.export("a")[1], objects.machine.find(b"a")
    objects.run(8, 1, Transaction((Compare(b"a", "exists", "=", 1),), (Put(b"b", b"2"), Get(b"a"))))
    assert objects.machine.find(b"a") == before[1]
    assert list(objects.machine.find(b"a").sessions) == [9]


def test_a_transaction_that_found_its_condition_false_is_remembered_as_that(objects):
    guarded = Transaction((Compare(b"a", "exists", "=", 1),), (Put(b"b", b"2"),), (Get(b"b"),))
    first = objects.run(9, 1, guarded)
    objects.one(Put(b"a", b"1"))
    assert objects.run(9, 1, guarded) == first
    assert objects.one(Get(b"b")).item is None


def test_reads_are_executed_whenever_they_are_asked(objects):
    objects.run(9, 1, Get(b"a"))
    objects.one(Put(b"a", b"1"))
    assert objects.run(9, 1, Get(b"a"))[0].item.value == b"1"
    assert not objects.machine.find(b"a").sessions


def test_a_sequence_beyond_the_window_changes_nothing(objects):
    assert objects.run(9, SESSION_WINDOW + 1, Add(b"n", 1))[0].code == Failure.WINDOW
    assert objects.run(9, SESSION_WINDOW + 1, Add(b"n", 1), acknowledged=1) == [Added(1, 1)]


def test_the_default_bound_is_kept(objects):
    for session in range(1, SESSIONS_PER_KEY_MAX + 3):
        objects.run(session, 1, Put(b"a", b""))
    record = objects.machine.find(b"a")
    assert (len(record.sessions), record.floor) == (SESSIONS_PER_KEY_MAX, 2)


def test_results_kept_for_a_key_are_bounded(objects):
    large = Put(b"a", b"x" * 300_000, previous=True)
    for session in range(1, 9):
        objects.run(session, 1, large)
    answers = [objects.run(session, 1, large)[0] for session in range(1, 9)]
    assert isinstance(answers[-1], Written)
    assert answers[1].code == Failure.RESULT_FORGOTTEN
    assert objects.one(Get(b"a")).revision == 8


def test_no_two_sessions_are_ever_minted_alike():
    mints = [Mint(replica, incarnation) for replica in (1, 2, REPLICAS_MAX) for incarnation in (1, 2, 900)]
    minted = [mint.mint() for mint in mints for _ in range(50)]
    assert len(set(minted)) == len(minted)


def test_a_mint_stays_above_what_it_has_seen():
    one, other = Mint(1, 1), Mint(2, 1)
    seen = [other.mint() for _ in range(10)]
    one.saw(seen[-1])
    assert one.mint() > seen[-1]
    with pytest.raises(ValueError, match="cannot name sessions"):
        Mint(REPLICAS_MAX + 1, 1)


def test_an_id_far_ahead_of_the_clock_was_made_up():
    mint, other = Mint(1, 1), Mint(2, 1)
    for _ in range(1000):
        named = other.mint()
    assert mint.plausible(named)
    assert not mint.plausible(REVISION_MAX)
    assert not mint.plausible((CLOCK_AHEAD_MAX + 1) << 32)
    mint.saw(named)
    assert mint.plausible((CLOCK_AHEAD_MAX + 1000) << 32)
