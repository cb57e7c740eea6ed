"""Exactly once: retries, gaps, windows, and what is forgotten."""

import pytest

from replica.kv import sessions as sessions_module
from replica.kv.machine import StateMachine
from replica.kv.operations import (
    RESULT_BYTES_MAX,
    SESSION_WINDOW,
    VALUE_BYTES_MAX,
    Add,
    Added,
    CloseSession,
    Failure,
    Get,
    OpenSession,
    Put,
    SessionClosed,
    Transaction,
    Written,
)

from .support import Command, Replica, codes, command


@pytest.fixture
def session(replica):
    return replica.open_session()


def counter(replica: Replica) -> int:
    item = replica.one(Get(b"n")).item
    return 0 if item is None else int(item.value)


def test_session_ids_are_counted_and_never_used_twice(replica):
    first = replica.open_session()
    replica.do(CloseSession(first))
    assert (first, replica.open_session()) == (1, 2)
    replica.restart()
    assert replica.open_session() == 3


def test_an_opening_is_told_with_its_nonce(replica):
    (outcome,) = replica.apply(command(OpenSession(b"abc")))
    assert [(opened.nonce, opened.session, opened.evicted) for opened in outcome.opened] == [(b"abc", 1, 0)]


def test_a_repeated_run_is_answered_as_it_was_and_not_executed_again(replica, session):
    first = replica.run(session, 1, Add(b"n", 1), Put(b"a", b"x"), Put(b"a", b"y", if_revision=1))
    assert codes(first) == ["ok", "ok", Failure.CONDITION]
    replica.do(Put(b"a", b"by somebody else"))
    assert replica.run(session, 1, Add(b"n", 1), Put(b"a", b"x"), Put(b"a", b"y", if_revision=1)) == first
    assert counter(replica) == 1
    assert replica.one(Get(b"a")).item.value == b"by somebody else"


def test_a_retry_of_5_may_follow_7(replica, session):
    replica.run(session, 7, Add(b"n", 100))
    assert replica.run(session, 5, Add(b"n", 1)) == [Added(2, 101)]
    assert replica.run(session, 5, Add(b"n", 1)) == [Added(2, 101)]
    assert replica.run(session, 7, Add(b"n", 100)) == [Added(1, 100)]
    assert replica.run(session, 6, Add(b"n", 10)) == [Added(3, 111)]
    assert counter(replica) == 111


def test_a_retry_may_be_cut_into_other_runs(replica, session):
    replica.run(session, 1, Put(b"a", b"1"), Put(b"a", b"2"))
    replica.run(session, 5, Put(b"a", b"5"))
    results = replica.run(session, 1, *(Put(b"a", b"%d" % number) for number in range(1, 7)))
    assert results == [Written(1), Written(2), Written(4), Written(5), Written(3), Written(6)]
    assert replica.machine.revision == 6


def test_sessions_do_not_answer_for_each_other(replica, session):
    other = replica.open_session()
    replica.run(session, 1, Add(b"n", 1))
    replica.run(other, 1, Add(b"n", 1))
    assert counter(replica) == 2


def test_outside_a_session_every_decision_counts(replica):
    twice = command(Add(b"n", 1))
    replica.apply(twice, twice)
    assert counter(replica) == 2


def test_reads_are_answered_anew(replica, session):
    replica.run(session, 1, Put(b"a", b"1"), Get(b"a"))
    replica.do(Put(b"a", b"2"))
    written, read = replica.run(session, 1, Put(b"a", b"1"), Get(b"a"))
    assert written == Written(1)
    assert read.item.value == b"2"


def test_a_number_given_to_a_read_cannot_be_given_to_a_write(replica, session):
    replica.run(session, 1, Get(b"a"))
    assert codes(replica.run(session, 1, Put(b"a", b""))) == [Failure.INVALID]
    assert replica.machine.revision == 0


def test_what_the_client_has_acknowledged_is_forgotten(replica, session):
    replica.run(session, 1, Add(b"n", 1))
    replica.run(session, 2, Add(b"n", 1), acknowledged=1)
    assert codes(replica.run(session, 1, Add(b"n", 1))) == [Failure.RESULT_FORGOTTEN]
    assert replica.run(session, 2, Add(b"n", 1)) == [Added(2, 2)]


def test_what_the_client_has_given_up_is_not_executed_late(replica, session):
    replica.run(session, 3, Add(b"n", 1), acknowledged=2)
    assert codes(replica.run(session, 2, Add(b"n", 10))) == [Failure.RESULT_FORGOTTEN]
    assert counter(replica) == 1


def test_acknowledgements_never_go_back(replica, session):
    replica.run(session, 3, Add(b"n", 1), acknowledged=2)
    assert codes(replica.run(session, 2, Add(b"n", 10), acknowledged=0)) == [Failure.RESULT_FORGOTTEN]


def test_the_window_ends_where_it_says(replica, session):
    results = replica.run(session, SESSION_WINDOW, Add(b"n", 1), Add(b"n", 10), Put(b"a", b""))
    assert codes(results) == ["ok", Failure.WINDOW, Failure.WINDOW]
    assert results[1].detail == SESSION_WINDOW
    assert counter(replica) == 1
    assert codes(replica.run(session, SESSION_WINDOW + 1, Add(b"n", 10), acknowledged=1)) == ["ok"]


def test_an_unknown_session_executes_nothing(replica):
    results = replica.run(9, 1, Put(b"a", b""), Get(b"a"))
    assert codes(results) == [Failure.SESSION_UNKNOWN] * 2
    assert "may have been" in results[0].message
    assert replica.machine.revision == 0


def test_a_closed_session_is_unknown(replica, session):
    replica.run(session, 1, Put(b"a", b""))
    outcome = replica.apply(command(CloseSession(session)))[0]
    assert (outcome.results(), outcome.closed) == ([SessionClosed(1)], (session,))
    assert codes(replica.run(session, 1, Put(b"a", b""))) == [Failure.SESSION_UNKNOWN]
    assert replica.do(CloseSession(session)) == [SessionClosed(1)], "closing twice is no error"
    replica.restart()
    assert codes(replica.run(session, 1, Put(b"a", b""))) == [Failure.SESSION_UNKNOWN]


def test_the_session_used_least_recently_makes_room(store):
    replica = Replica(store, sessions_max=2)
    old, used = replica.open_session(), replica.open_session()
    replica.run(old, 1, Put(b"a", b""))
    (outcome,) = replica.apply(command(OpenSession(b"n")))
    assert (outcome.opened[0].session, outcome.opened[0].evicted) == (3, used)
    assert codes(replica.run(used, 1, Put(b"a", b""))) == [Failure.SESSION_UNKNOWN]
    assert replica.run(old, 1, Put(b"a", b"")) == [Written(1)]
    assert len(replica.machine.sessions) == 2


def test_who_was_used_last_survives_a_restart(store):
    replica = Replica(store, sessions_max=2)
    old, used = replica.open_session(), replica.open_session()
    replica.run(old, 1, Put(b"a", b""))
    replica.restart(sessions_max=2)
    (outcome,) = replica.apply(command(OpenSession(b"n")))
    assert outcome.opened[0].evicted == used


def test_results_survive_a_restart(replica, session):
    first = replica.run(session, 1, Add(b"n", 1), Put(b"a", b"")), replica.run(session, 3, Put(b"a", b""))
    replica.restart()
    again = replica.run(session, 1, Add(b"n", 1), Put(b"a", b"")), replica.run(session, 3, Put(b"a", b""))
    assert again == first
    assert counter(replica) == 1


def test_large_results_are_forgotten_but_not_that_they_were_executed(replica, session, monkeypatch):
    monkeypatch.setattr(sessions_module, "RESULTS_BYTES_MAX", 300)
    replica.do(Put(b"a", bytes(100)))
    for sequence in range(1, 5):
        assert codes(replica.run(session, sequence, Put(b"a", bytes(100), previous=True))) == ["ok"]
    repeated = [codes(replica.run(session, sequence, Put(b"a", bytes(100), previous=True))) for sequence in range(1, 5)]
    assert repeated == [[Failure.RESULT_FORGOTTEN], [Failure.RESULT_FORGOTTEN], ["ok"], ["ok"]]
    assert replica.machine.revision == 5


def test_acknowledged_results_make_room_for_others(replica, session, monkeypatch):
    monkeypatch.setattr(sessions_module, "RESULTS_BYTES_MAX", 300)
    replica.do(Put(b"a", bytes(100)))
    for sequence in range(1, 10):
        replica.run(session, sequence, Put(b"a", bytes(100), previous=True), acknowledged=sequence - 1)
    assert codes(replica.run(session, 9, Put(b"a", bytes(100), previous=True))) == ["ok"]
    assert replica.machine.sessions.use(session).kept_bytes < 300


def test_a_long_life_leaves_a_short_record(replica, session):
    for sequence in range(1, 2000):
        replica.run(session, sequence, Put(b"a", b""), acknowledged=max(0, sequence - 10))
    (run,) = replica.machine.sessions.use(session).runs
    assert (run.first, run.count) == (1990, 10)
    assert replica.run(session, 1995, Put(b"a", b"")) == [Written(1995)]


def test_operations_whose_answers_find_no_room_can_be_sent_again(replica, session):
    replica.do(Put(b"a", bytes(VALUE_BYTES_MAX)))
    crowd = [*[Transaction((), (Add(b"n", 1), Get(b"a")))] * 5, Put(b"b", b"")]
    results = replica.run(session, 1, *crowd)
    assert codes(results) == ["ok"] * 3 + [Failure.CROWDED] * 3
    assert counter(replica) == 3
    assert codes(replica.run(session, 4, *crowd[3:])) == ["ok"] * 3
    assert counter(replica) == 5


@pytest.mark.parametrize("fresh", [Put(b"b", b""), Add(b"n", 1), Get(b"b")])
def test_reads_that_are_repeated_take_room_like_any_other(replica, session, fresh):
    replica.do(Put(b"a", bytes(VALUE_BYTES_MAX)))
    replica.run(session, 1, *[Get(b"a")] * 3)
    results = replica.run(session, 1, *[Get(b"a")] * 3, fresh)
    assert codes(results) == ["ok"] * 3 + [Failure.CROWDED]
    assert replica.machine.revision == 1
    assert codes(replica.run(session, 4, fresh)) == ["ok"]


def test_answers_can_be_taken_in_pieces(replica, session):
    made = command(Put(b"a", bytes(1000)), Get(b"a"), Get(b"a"), Get(b"a"), session=session, sequence=5)
    (outcome,) = replica.apply(made)
    pieces = outcome.pieces(1500)
    assert [(first, count) for first, count, _ in pieces] == [(5, 2), (7, 1), (8, 1)]
    assert all(len(encoded) < 1500 for _, _, encoded in pieces)
    assert outcome.pieces(RESULT_BYTES_MAX) == [(5, 4, outcome.encoded())]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x92\x00", b"\x92\x00\x91\x92\x01\xc4", b"\xc1", b"\x92\x00\x90", b"\x92\x00\x91\x93\x01\xc4\x00\xc4\x00"],
)
def test_a_malformed_run_changes_nothing_and_is_refused_alike_everywhere(replica, session, payload):
    before = replica.machine.digest()
    (outcome,) = replica.apply(Command(payload, 0, 1, 1))
    assert codes(outcome.results()) == [Failure.INVALID]
    assert replica.machine.digest().digest == before.digest


def test_numbers_that_no_client_can_have_counted_to_are_refused_and_harm_nobody(replica, session):
    last = (1 << 64) - 1
    assert codes(replica.run(session, last - 2, *[Put(b"a", b"")] * 3, acknowledged=last - 3)) == [Failure.INVALID] * 3
    assert codes(replica.run(session, last, Put(b"a", b""), acknowledged=last)) == [Failure.INVALID]
    replica.restart()
    assert replica.run(session, 1, Put(b"a", b"")) == [Written(1)]


def test_positions_come_without_gaps(store):
    machine = StateMachine(store)
    machine.apply(1, [command(Add(b"n", 1))])
    with pytest.raises(ValueError, match="missing"):
        machine.apply(3, [])
    assert machine.apply(1, [command(Add(b"n", 1))]) == [], "applied before a restart"
    machine.advance(2)
    assert (machine.applied, machine.revision) == (2, 1)
