"""Stories of the session engine, told without a network: who is sent what, and what becomes of each operation."""

import pytest

from replica.client.engine import FRAME_OVERHEAD_BYTES, QUEUE_OPERATIONS_MAX
from replica.client.errors import (
    InvalidArgument,
    MaybeCommitted,
    NotCommitted,
    Overloaded,
    SessionLost,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsupported,
)
from replica.client.gathering import FRAME_SPACING_S, HOLD_S
from replica.kv.operations import AnyResult, Failed, Failure, Get, Written
from replica.kv.runs import encode_results
from replica.wire.typed import Code, Consistency, Endpoint, RunResult

from .engine_driver import Driver, found, limits, no_room, operations_of

# ------------------------------------------------------------------------------------------------ the ordinary course


def test_what_accumulated_travels_as_one_run_with_consecutive_sequences():
    client = Driver()
    client.put(3)
    client.attach()
    frame = client.frame()
    (run,) = frame.runs
    assert (run.first_sequence, run.count, run.acknowledged) == (1, 3, 0)
    assert [operation[1] for operation in operations_of(frame)[0]] == [b"w1", b"w2", b"w3"]
    assert client.sent() is None


def test_results_settle_their_operations_and_raise_the_watermark():
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    client.answer(1, 2)
    assert client.outcomes == {"w1": Written(1), "w2": Written(2)}
    client.put()
    (run,) = client.frame().runs
    assert (run.first_sequence, run.acknowledged) == (3, 2)


def test_a_run_may_be_answered_in_parts_and_out_of_order():
    client = Driver()
    client.put(3)
    client.attach()
    client.sent()
    client.answer(3)
    assert client.engine.acknowledged == 0
    client.answer(1, 1)
    assert client.engine.acknowledged == 1
    client.answer(2, 1)
    assert client.engine.acknowledged == 3
    assert client.outcomes == {"w1": Written(1), "w2": Written(2), "w3": Written(3)}


def test_one_result_may_span_several_runs():
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    client.put(2)
    assert [(run.first_sequence, run.count) for run in client.send_though_unanswered().runs] == [(3, 2)]
    client.answer(2, 2)
    assert set(client.outcomes) == {"w2", "w3"}
    client.answer(1, 4, [Written(9)] * 4)
    assert client.outcomes["w1"] == client.outcomes["w4"] == Written(9)
    assert client.outcomes["w2"] == Written(2)


def test_results_that_nobody_waits_for_are_passed_over():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.answer(1)
    client.answer(1)
    client.answer(40, 3)
    assert client.outcomes == {"w1": Written(1)}


def test_results_that_make_no_sense_are_an_error_not_a_guess():
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    with pytest.raises(ValueError, match="1 results where 2"):
        client.answer(1, 2, [Written(1)])


def test_nothing_is_sent_before_the_welcome():
    client = Driver()
    client.put()
    client.engine.attaching(client.now)
    assert client.sent() is None


def test_reads_travel_by_consistency_and_are_settled_by_id():
    client = Driver()
    client.get(2)
    client.get(1, consistency=1)
    client.attach()
    frame = client.frame()
    assert [(read.id, read.consistency, read.count) for read in frame.reads] == [(1, 0, 2), (2, 1, 1)]
    client.answer_read(2, [found(b"stale")])
    client.answer_read(1, [found(b"a"), found(b"b")])
    assert [client.outcomes[name].item.value for name in ("r1", "r2", "r3")] == [b"a", b"b", b"stale"]


# ----------------------------------------------------------------------------------------------------------- sessions


def test_a_client_that_only_reads_opens_no_session():
    client = Driver()
    client.get()
    assert client.attach() == b""
    client.sent()
    client.answer_read(1, [found()])
    assert client.engine.session == 0


def test_the_first_write_asks_for_an_attachment_with_a_session():
    client = Driver()
    client.get()
    client.attach()
    client.sent()
    client.put()
    assert client.sent() is None
    assert client.wish().stay
    client.lose_stream()
    assert client.attach(session=9) == b"nonce-1"
    frame = client.frame()
    assert frame.runs[0].first_sequence == 1
    assert frame.reads[0].id == 1


def test_a_session_is_asked_for_by_one_nonce_until_it_is_there():
    client = Driver()
    client.put()
    first = client.engine.attaching(client.now).nonce
    client.lose_stream()
    assert client.attach(session=7) == first == b"nonce-1"
    client.engine.session_lost("it was evicted")
    client.lose_stream()
    client.put()
    assert client.engine.attaching(client.now).nonce == b"nonce-2"


def test_the_session_is_kept_across_attachments():
    client = Driver()
    client.put()
    client.attach(session=7)
    client.lose_stream()
    hello = client.engine.attaching(client.now)
    assert (hello.session, hello.nonce) == (7, b"")


def test_a_stream_lost_after_sending_is_followed_by_the_same_sequences():
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    client.put()
    client.send_though_unanswered()
    client.lose_stream()
    client.put()
    client.attach()
    assert client.sent_runs() == [(1, 2), (3, 1), (4, 1)]
    client.answer(1, 4)
    assert client.outcomes["w4"] == Written(4)


def test_after_a_reconnection_settled_operations_are_not_sent_again():
    client = Driver()
    client.put(4)
    client.attach()
    client.sent()
    client.answer(1, 2)
    client.lose_stream()
    client.attach()
    frame = client.frame()
    (run,) = frame.runs
    assert (run.first_sequence, run.count, run.acknowledged) == (3, 2, 2)
    assert [operation[1] for operation in operations_of(frame)[0]] == [b"w3", b"w4"]
    client.answer(3, 2)
    assert len(client.outcomes) == 4


def test_a_lost_session_leaves_what_was_sent_open_and_what_was_not_takes_a_new_one():
    client = Driver()
    sent = client.put(2)
    client.attach(session=7, limits=limits(session_window=2))
    client.sent()
    waiting = client.put()
    client.reject(1, 2, Code.SESSION_UNKNOWN)
    assert all(isinstance(client.outcomes[token], SessionLost) for token in sent)
    assert client.wish().stay
    client.lose_stream()
    assert client.attach(session=8) == b"nonce-2"
    assert client.sent_runs() == [(1, 1)]
    client.answer(1)
    assert client.outcomes[waiting[0]] == Written(1)


def unknown(count: int = 1) -> list[AnyResult]:
    return [Failed(1, Failure.SESSION_UNKNOWN, "the session is not known")] * count


def test_what_a_lost_session_refused_at_its_only_attempt_is_done_under_the_next():
    client = Driver()
    client.put(3, timeout_s=5.0)
    client.attach(session=7)
    client.sent()
    client.answer(2, results=[Written(1)])
    client.answer(1, results=unknown())
    assert isinstance(client.outcomes.pop("w3"), SessionLost)
    client.lose_stream()
    client.attach(session=8)
    frame = client.frame()
    assert [(run.first_sequence, run.count) for run in frame.runs] == [(1, 1)]
    assert operations_of(frame)[0][0][1] == b"w1"
    client.answer(1)
    assert client.outcomes == {"w1": Written(1), "w2": Written(1)}


def test_all_that_one_frame_refuses_is_done_under_the_next_session_in_order():
    client = Driver()
    client.put(4)
    client.attach(session=7)
    client.sent()
    parts = [RunResult(first_sequence=n, count=2, results=encode_results(unknown(2))) for n in (1, 3)]
    client.receive(results=parts)
    assert client.outcomes == {}
    client.lose_stream()
    client.attach(session=8)
    assert [operation[1] for run in operations_of(client.frame()) for operation in run] == [b"w1", b"w2", b"w3", b"w4"]


def test_what_may_have_happened_before_the_session_was_lost_is_not_done_again():
    client = Driver()
    client.put()
    client.attach(session=7)
    client.sent()
    client.lose_stream()
    client.attach(session=7)
    client.sent()
    client.answer(1, results=unknown())
    assert isinstance(client.outcomes["w1"], SessionLost)


def test_operations_taken_back_keep_their_deadlines():
    client = Driver()
    client.put(timeout_s=1.0)
    client.put(timeout_s=5.0)
    client.attach(session=7)
    client.sent()
    client.answer(1, 2, unknown(2))
    client.pass_time(1.5)
    assert isinstance(client.outcomes["w1"], Unavailable)
    assert set(client.outcomes) == {"w1"}


def test_a_session_that_is_unknown_at_the_greeting_is_lost_too():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.lose_stream()
    client.engine.attaching(client.now)
    client.close(Code.SESSION_UNKNOWN)
    assert isinstance(client.outcomes["w1"], SessionLost)
    assert client.engine.session == 0


# ------------------------------------------------------------------------------------------------------------- leaders


def test_a_replica_that_does_not_lead_is_left_for_the_one_it_names():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.reject(1, 1, Code.NOT_LEADER, leader="there:1")
    assert client.wish().hint == "there:1"
    assert client.outcomes == {}
    client.lose_stream()
    client.attach()
    assert client.sent_runs() == [(1, 1)]


def test_a_welcome_that_names_another_leader_is_a_hint():
    client = Driver()
    client.put()
    client.attach(leader=2, leader_address="there:1")
    assert client.sent() is None
    assert client.wish().hint == "there:1"
    assert client.sent() is None


def test_a_stale_reader_does_not_care_who_leads():
    client = Driver(follow_leader=False)
    client.get(consistency=1)
    client.attach(leader=2, leader_address="there:1")
    assert client.engine.take_wish() is None


PLACES = [
    Endpoint(replica=1, address="far", region="us", zone="a"),
    Endpoint(replica=2, address="near", region="eu", zone="b"),
    Endpoint(replica=3, address="here", region="eu", zone="a"),
]


def test_where_any_replica_will_do_a_client_without_a_region_looks_for_the_nearest():
    client = Driver()
    client.put()
    client.attach(routing="nearest", endpoints=PLACES)
    assert client.engine.seeks_nearest
    assert client.engine.nearer("near")
    wish = client.engine.take_wish()
    assert wish is not None
    assert wish.hint == "near"
    assert client.sent() is None


def test_a_client_that_knows_its_region_or_follows_a_leader_measures_nothing():
    placed = Driver(region="eu")
    placed.put()
    placed.attach(routing="nearest", endpoints=PLACES)
    assert not placed.engine.seeks_nearest
    led = Driver()
    led.put()
    led.attach(endpoints=PLACES)
    assert not led.engine.seeks_nearest


def test_nobody_moves_while_writes_that_could_not_be_repeated_are_on_their_way():
    client = Driver()
    client.put()
    client.attach(routing="nearest", exactly_once=False, endpoints=PLACES)
    assert client.sent() is not None
    assert not client.engine.nearer("near")
    client.answer(1)
    assert client.engine.nearer("near")


def test_a_stale_reader_prefers_its_own_zone_then_its_region():
    client = Driver(follow_leader=False, region="eu", zone="a")
    client.get(consistency=1)
    client.attach(replica=1, endpoints=PLACES)
    assert client.wish().hint == "here"
    client.lose_stream()
    client.attach(replica=1, endpoints=PLACES)
    assert client.wish().hint == "near"
    client.lose_stream()
    client.attach(replica=1, endpoints=PLACES)
    assert client.engine.take_wish() is None
    assert client.frame().reads


def test_a_client_that_does_not_say_where_it_is_stays_where_it_is():
    client = Driver(follow_leader=False)
    client.get(consistency=1)
    client.attach(replica=1, endpoints=PLACES)
    assert client.engine.take_wish() is None


def test_where_nobody_leads_writes_prefer_the_own_zone_as_well():
    client = Driver(region="eu", zone="b")
    client.put()
    client.attach(replica=1, endpoints=PLACES)
    assert client.wish().hint == "near"


def test_a_rejection_of_the_greeting_keeps_its_hint_when_the_stream_is_closed_after_it():
    client = Driver()
    client.put()
    client.engine.attaching(client.now)
    client.reject(0, 0, Code.NOT_LEADER, leader="there:1")
    client.close(Code.NOT_LEADER)
    assert client.wish().hint == "there:1"


def test_a_rejected_read_is_asked_again():
    client = Driver()
    client.get()
    client.attach()
    client.sent()
    client.reject_read(1, Code.NOT_LEADER, leader="there:1")
    client.lose_stream()
    client.attach()
    assert client.frame().reads[0].id == 1


def test_another_cluster_is_recognised():
    client = Driver()
    client.put()
    client.engine.attaching(client.now)
    client.close(Code.WRONG_CLUSTER)
    assert client.wish().mismatch


# ----------------------------------------------------------------------------------------------- definite, indefinite


def test_an_indefinite_rejection_is_tried_again_under_the_same_sequence():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.reject(1, 1, Code.UNAVAILABLE, definite=False)
    client.lose_stream()
    client.attach()
    assert client.sent_runs() == [(1, 1)]
    client.answer(1)
    assert client.outcomes == {"w1": Written(1)}


def test_a_deadline_before_anything_was_sent_is_definite():
    client = Driver()
    client.put(timeout_s=1.0)
    client.pass_time(1.5)
    assert isinstance(client.outcomes["w1"], Unavailable)
    assert "nobody answers" in str(client.outcomes["w1"])
    client.attach()
    assert client.sent() is None


def test_a_deadline_after_sending_is_indefinite_and_the_operation_is_not_sent_again():
    client = Driver()
    client.put(timeout_s=1.0)
    client.attach()
    client.sent()
    client.pass_time(1.5)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)
    client.lose_stream()
    client.put()
    client.attach()
    frame = client.frame()
    assert [(run.first_sequence, run.acknowledged) for run in frame.runs] == [(2, 1)]
    client.answer(1)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)


def test_a_deadline_after_definite_refusals_alone_is_definite():
    client = Driver()
    client.put(timeout_s=1.0)
    client.attach()
    client.sent()
    client.reject(1, 1, Code.NOT_LEADER)
    client.lose_stream()
    client.pass_time(1.5)
    assert isinstance(client.outcomes["w1"], Unavailable)


def test_a_definite_refusal_does_not_speak_for_an_earlier_attempt():
    client = Driver()
    client.put(timeout_s=1.0)
    client.attach()
    client.sent()
    client.lose_stream()
    client.attach()
    client.sent()
    client.reject(1, 1, Code.NOT_LEADER)
    client.pass_time(1.5)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)


@pytest.mark.parametrize(("code", "error"), [(Code.UNSUPPORTED, Unsupported), (Code.STORAGE_FULL, MaybeCommitted)])
def test_only_what_the_protocol_does_not_offer_was_refused_to_an_earlier_attempt_too(code, error):
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.lose_stream()
    client.attach()
    client.sent()
    client.reject(1, 1, code)
    assert isinstance(client.outcomes["w1"], error)


def test_a_part_refused_definitely_says_nothing_of_the_part_that_is_still_on_its_way():
    client = Driver()
    client.put(3, timeout_s=2)
    client.attach()
    client.sent()
    client.reject(3, 1, Code.OVERLOADED)  # the replica had room for the first two alone
    client.pass_time(2)
    assert [type(client.outcomes[token]) for token in ("w1", "w2")] == [MaybeCommitted] * 2


def test_parts_that_were_refused_definitely_one_after_the_other_make_a_definite_whole():
    client = Driver()
    client.put(3, timeout_s=2)
    client.attach()
    client.sent()
    client.reject(3, 1, Code.NOT_LEADER)
    client.reject(1, 2, Code.NOT_LEADER)
    client.pass_time(2)
    assert {type(outcome) for outcome in client.outcomes.values()} == {Unavailable}


def test_a_part_that_was_on_its_way_when_the_session_was_lost_is_not_done_again():
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    client.reject(2, 1, Code.NOT_LEADER)  # the first may have been executed, and its answer lost with the stream
    client.lose_stream()
    client.attach()
    assert client.sent_runs() == [(1, 2)]
    client.answer(1, 2, [Failed(1, Failure.SESSION_UNKNOWN, "evicted")] * 2)
    assert isinstance(client.outcomes["w1"], SessionLost)


@pytest.mark.parametrize("code", [Failure.CROWDED, Failure.WINDOW])
def test_a_refusal_that_is_not_remembered_is_open_while_another_attempt_is_on_its_way(code):
    client = Driver()
    client.put(2)
    client.attach()
    client.sent()
    client.lose_stream()
    client.attach()
    assert client.sent_runs() == [(1, 2)]
    client.answer(1, 2, [Written(1), Failed(1, code, "not now")])  # of the first attempt: the second is still to come
    assert client.outcomes["w1"] == Written(1)
    assert isinstance(client.outcomes["w2"], MaybeCommitted)


def test_a_refusal_that_is_not_remembered_is_definite_at_the_only_attempt():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.answer(1, 1, [Failed(1, Failure.CROWDED, "not now")])
    assert client.outcomes["w1"] == Failed(1, Failure.CROWDED, "not now")


def test_a_final_refusal_after_a_lost_stream_is_indefinite():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.lose_stream()
    client.attach()
    client.sent()
    client.reject(1, 1, Code.STORAGE_FULL)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.STORAGE_FULL, StorageFull),
        (Code.UNSUPPORTED, Unsupported),
        (Code.INVALID, InvalidArgument),
        (Code.TOO_LARGE, TooLarge),
    ],
)
def test_a_final_refusal_is_definite(code, error):
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.reject(1, 1, code)
    assert isinstance(client.outcomes["w1"], error)
    assert isinstance(client.outcomes["w1"], NotCommitted)


def test_deadlines_are_kept_each_for_itself():
    client = Driver()
    client.put(timeout_s=5.0)
    client.put(timeout_s=1.0)
    client.get(timeout_s=1.0)
    client.get(timeout_s=5.0)
    client.attach()
    client.sent()
    client.put(timeout_s=1.0)
    client.pass_time(1.5)
    assert set(client.outcomes) == {"w2", "r3", "w5"}
    client.answer(1, 2)
    client.answer_read(1, [found(), found()])
    assert client.outcomes["w1"] == Written(1)
    assert client.outcomes["r4"] == found()
    assert isinstance(client.outcomes["w2"], MaybeCommitted)


def test_reads_never_fail_as_indefinite():
    client = Driver()
    client.get(timeout_s=1.0)
    client.attach()
    client.sent()
    client.pass_time(1.5)
    assert isinstance(client.outcomes["r1"], Unavailable)


def test_without_exactly_once_a_lost_stream_is_never_followed_by_a_repetition():
    client = Driver()
    client.put(2)
    client.attach(exactly_once=False)
    client.sent()
    client.put()
    client.lose_stream()
    assert all(isinstance(client.outcomes[token], MaybeCommitted) for token in ("w1", "w2"))
    client.attach(exactly_once=False)
    assert client.sent_runs() == [(3, 1)]


def test_without_exactly_once_an_indefinite_rejection_ends_the_operation():
    client = Driver()
    client.put()
    client.attach(exactly_once=False)
    client.sent()
    client.reject(1, 1, Code.UNAVAILABLE, definite=False)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)


def test_without_exactly_once_a_definite_rejection_of_a_whole_run_is_tried_again():
    client = Driver()
    client.put(2)
    client.attach(exactly_once=False)
    client.sent()
    client.reject(1, 2, Code.NOT_LEADER)
    client.lose_stream()
    client.attach(exactly_once=False)
    assert client.sent_runs() == [(1, 2)]


def test_without_exactly_once_a_run_refused_in_part_is_not_sent_again():
    client = Driver()
    client.put(2)
    client.attach(exactly_once=False)
    client.sent()
    client.answer(1)
    client.reject(2, 1, Code.NOT_LEADER)
    assert client.outcomes["w1"] == Written(1)
    assert isinstance(client.outcomes["w2"], Unavailable)


def test_everything_can_be_failed_each_with_what_is_true_of_it():
    client = Driver()
    sent = client.put(timeout_s=9.0)
    read = client.get()
    client.attach(limits=limits(session_window=1))
    client.sent()
    queued = client.put()
    client.engine.fail_everything(Unavailable("end"), MaybeCommitted("end"))
    client.sent()
    assert isinstance(client.outcomes[sent[0]], MaybeCommitted)
    assert isinstance(client.outcomes[queued[0]], Unavailable)
    assert isinstance(client.outcomes[read[0]], Unavailable)
    assert client.engine.idle


# ------------------------------------------------------------------------------------------------------------- bounds


def test_no_sequence_goes_beyond_the_window():
    client = Driver()
    client.put(5)
    client.attach(limits=limits(session_window=3))
    assert client.sent_runs() == [(1, 3)]
    client.answer(2)
    assert client.sent() is None
    client.answer(1)
    assert client.sent_runs() == [(4, 2)]


def test_a_run_has_no_more_operations_than_the_replica_takes():
    client = Driver()
    client.put(5)
    client.attach(limits=limits(run_operations_max=2))
    assert client.sent_runs() == [(1, 2), (3, 2), (5, 1)]


def test_large_values_are_spread_over_frames():
    client = Driver()
    client.put(5, value=bytes(60_000))
    client.attach(limits=limits(frame_bytes_max=150_000))
    frames = []
    while (frame := client.sent()) is not None:
        assert frame.ByteSize() <= 150_000
        frames.append([(run.first_sequence, run.count) for run in frame.runs])
    assert sum(count for frame in frames for _, count in frame) == 5
    assert len(frames) == 3
    client.answer(1, 5)
    assert len(client.outcomes) == 5


def test_an_operation_too_large_for_any_frame_fails_and_takes_no_sequence():
    client = Driver()
    client.put(1, value=bytes(200_000))
    client.put(1)
    client.attach(limits=limits(frame_bytes_max=150_000))
    assert client.sent_runs() == [(1, 1)]
    assert isinstance(client.outcomes["w1"], TooLarge)
    client.answer(1)
    assert client.outcomes["w2"] == Written(1)


def test_what_is_sent_again_is_spread_over_frames_as_well():
    client = Driver()
    client.put(4, value=bytes(60_000))
    client.attach(limits=limits(frame_bytes_max=150_000))
    assert sum(count for _, count in client.sent_runs()) == 4
    client.lose_stream()
    client.attach(limits=limits(frame_bytes_max=150_000))
    again = []
    while (frame := client.sent()) is not None:
        assert frame.ByteSize() <= 150_000
        again += [run.first_sequence for run in frame.runs]
    assert again[0] == 1
    client.answer(1, 4)
    assert len(client.outcomes) == 4


def test_a_full_queue_refuses_definitely():
    client = Driver()
    for _ in range(QUEUE_OPERATIONS_MAX):
        client.engine.write((1, b"k", b"v"), "token", 1.0)
    with pytest.raises(Overloaded):
        client.engine.write((1, b"k", b"v"), "token", 1.0)


def test_an_overloaded_replica_is_given_a_pause_that_grows():
    client = Driver()
    client.put()
    client.attach()
    pauses = []
    for _ in range(3):
        assert client.sent_runs() == [(1, 1)]
        client.reject(1, 1, Code.OVERLOADED)
        assert client.sent() is None
        pauses.append(client.engine.pause(client.now))
        client.now += pauses[-1]
    assert 0 < pauses[0] < pauses[1] < pauses[2]
    assert client.engine.take_wish() is None
    client.sent()
    client.answer(1)
    assert client.outcomes == {"w1": Written(1)}


def test_what_its_caller_gave_up_before_it_was_sent_is_never_sent():
    client = Driver()
    client.put(3)
    client.abandoned.add("w2")
    client.attach()
    frame = client.frame()
    assert [operation[1] for operation in operations_of(frame)[0]] == [b"w1", b"w3"]
    client.answer(1, 2)
    assert set(client.outcomes) == {"w1", "w3"}


def test_the_frame_leaves_room_for_its_own_overhead():
    client = Driver()
    client.put(200, value=bytes(1000))
    client.attach(limits=limits(frame_bytes_max=4 * FRAME_OVERHEAD_BYTES))
    while (frame := client.sent()) is not None:
        assert frame.ByteSize() <= 4 * FRAME_OVERHEAD_BYTES


# ------------------------------------------------------------------------------------------------- one among many


def test_one_bad_operation_does_not_fail_its_company():
    client = Driver()
    client.put(3)
    client.attach()
    client.sent()
    client.reject(1, 3, Code.INVALID)
    assert client.sent_runs() == [(1, 1), (2, 1), (3, 1)]
    client.answer(1)
    client.reject(2, 1, Code.INVALID)
    client.answer(3)
    assert isinstance(client.outcomes["w2"], InvalidArgument)
    assert client.outcomes["w1"] == Written(1)
    assert client.outcomes["w3"] == Written(3)


def test_reads_that_found_no_room_beside_others_are_asked_for_alone():
    client = Driver()
    client.get(3)
    client.attach()
    client.sent()
    client.answer_read(1, [found(b"large"), no_room(), no_room()])
    assert set(client.outcomes) == {"r1"}
    frame = client.frame()
    assert [(read.id, read.count) for read in frame.reads] == [(2, 1), (3, 1)]
    client.answer_read(3, [found(b"c")])
    client.answer_read(2, [no_room()])
    assert client.outcomes["r3"].item.value == b"c"
    assert client.outcomes["r2"] == no_room()


def test_reads_are_separated_when_their_stream_broke():
    client = Driver()
    client.get(3)
    client.attach()
    client.sent()
    client.lose_stream()
    client.attach()
    assert [read.count for read in client.frame().reads] == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------------ silence


def test_a_replica_that_leaves_operations_unanswered_is_left():
    client = Driver(stall_s=3.0)
    client.put()
    client.attach()
    client.sent()
    client.pass_time(2.0)
    assert client.engine.take_wish() is None
    client.pass_time(1.5)
    assert "no answer" in client.wish().reason


def test_an_idle_replica_is_not_left():
    client = Driver(stall_s=3.0)
    client.put()
    client.attach()
    client.sent()
    client.answer(1)
    client.pass_time(60)
    client.put()
    client.sent()
    client.pass_time(1.0)
    assert client.engine.take_wish() is None


def test_a_welcome_that_does_not_come_is_not_waited_for_forever():
    client = Driver(stall_s=3.0)
    client.put()
    client.engine.attaching(client.now)
    client.pass_time(3.5)
    assert client.engine.take_wish() is not None


def test_without_exactly_once_a_silent_replica_is_left_only_when_a_deadline_has_passed():
    client = Driver(stall_s=3.0)
    client.put(timeout_s=10.0)
    client.attach(exactly_once=False)
    client.sent()
    client.pass_time(5.0)
    assert client.engine.take_wish() is None
    client.pass_time(6.0)
    assert isinstance(client.outcomes["w1"], MaybeCommitted)
    assert client.engine.take_wish() is not None


# ------------------------------------------------------------------------------------------------------------ goodbye


def test_goodbye_is_said_once_nothing_is_outstanding():
    client = Driver()
    client.put()
    client.attach()
    client.sent()
    client.engine.say_goodbye()
    assert client.sent() is None
    client.answer(1)
    assert client.frame().goodbye
    assert client.sent() is None


# ---------------------------------------------------------------------------------------------------------- gathering


def test_what_is_asked_for_meanwhile_gathers_until_the_answer_and_travels_together():
    client = Driver()
    client.put(4)
    client.attach()
    client.sent()
    for _ in range(3):
        client.put()
        assert client.sent() is None
    client.answer(1, 4)
    assert client.sent_runs() == [(5, 3)]


def test_a_request_by_itself_waits_for_nobody():
    client = Driver()
    client.put()
    client.attach()
    for first in (1, 2, 3):
        assert client.sent_runs() == [(first, 1)]
        client.answer(first)
        client.put()


def test_reads_and_writes_do_not_wait_for_each_other():
    client = Driver()
    client.put(4)
    client.get(4)
    client.attach()
    client.sent()
    client.answer_read(1, [found(b"a")] * 4)
    client.put()
    client.get(2)
    frame = client.frame()
    assert not frame.runs
    assert [read.count for read in frame.reads] == [2]
    client.answer(1, 4)
    assert client.sent_runs() == [(5, 1)]


def test_stale_reads_and_large_ones_never_gather():
    client = Driver()
    client.attach()
    for number in (1, 2):
        client.get(8, consistency=Consistency.STALE)
        assert [read.id for read in client.frame().reads] == [number]
    for number in range(3, 9):
        client.engine.read(Get(b"key"), f"alone{number}", 10.0, 0, alone=True)
        assert [read.id for read in client.frame().reads] == [number]


def test_what_gathers_is_sent_in_time_when_the_answer_stays_away():
    client = Driver()
    client.put(4)
    client.attach()
    client.sent()
    client.put()
    assert client.sent() is None
    assert client.engine.pause(client.now) == pytest.approx(HOLD_S)
    client.now += HOLD_S / 2
    client.put()
    assert client.sent() is None
    assert client.engine.pause(client.now) == pytest.approx(HOLD_S / 2)
    client.now += HOLD_S / 2
    assert client.sent_runs() == [(5, 2)]
    assert not client.engine.pause(client.now)


def test_on_a_long_way_more_frames_are_under_way():
    client = Driver()
    client.put(4)
    client.attach()
    client.sent()
    client.now += 3.5 * FRAME_SPACING_S
    client.answer(1, 4)
    client.put(4)
    frames = 0
    while client.sent() is not None:
        frames += 1
        client.put()
    assert frames == 4


def test_a_frame_counts_until_all_of_it_is_answered_or_given_up():
    client = Driver()
    client.put(2)
    client.put(2, timeout_s=0.005)
    client.attach()
    client.sent()
    client.put()
    client.answer(1, 2)
    assert client.sent() is None
    client.pass_time(0.01)
    assert isinstance(client.outcomes["w4"], MaybeCommitted)
    assert client.sent_runs() == [(5, 1)]


def test_a_refused_frame_and_a_lost_stream_hold_nothing_up():
    client = Driver()
    client.put(4)
    client.attach()
    client.sent()
    client.put()
    client.reject(1, 4, Code.OVERLOADED)
    client.now += 1.0
    assert client.sent_runs() == [(1, 4), (5, 1)]
    client.lose_stream()
    client.put()
    client.attach()
    assert client.sent_runs() == [(1, 4), (5, 1), (6, 1)]
