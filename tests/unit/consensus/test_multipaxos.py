"""MultiPaxos, told as stories: propose, deliver, crash, campaign."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from replica.consensus.ballots import NEVER, Ballot
from replica.consensus.delivery import DELIVER_SLOTS_MAX
from replica.consensus.interface import (
    Command,
    Configuration,
    CorruptRecord,
    Member,
    Message,
    PeerReset,
    Proposed,
    ReadRequested,
    Reason,
    Received,
    Reconfigure,
)
from replica.consensus.multipaxos import FPAXOS
from replica.consensus.multipaxos.log import Log
from replica.consensus.multipaxos.messages import (
    Accept,
    Accepted,
    CatchUp,
    Commit,
    Decided,
    Heartbeat,
    HeartbeatAck,
    Poll,
    Prepare,
    Promised,
    Refused,
    Report,
    TakeOver,
)
from replica.consensus.values import NOOP, Batch, Seal, decode_value, encode_batch, encode_seal, is_seal

from .story import Story


def successor_of(configuration: Configuration, *replicas: int) -> Configuration:
    """The next epoch, with these members."""
    return replace(configuration, epoch=configuration.epoch + 1, members=tuple(Member(replica) for replica in replicas))


# ------------------------------------------------------------------------------------------------------ the happy path


def test_what_is_proposed_is_delivered_everywhere_in_one_order():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a", b"b")
    story[1].propose(b"c")
    story.settle()
    story.wait(0.05)
    assert story[1].log == story[2].log == story[3].log == [b"a", b"b", b"c"]
    assert story[1].core.status().decided == 2, "a turn's commands share a slot"


def test_a_heartbeat_syncs_the_marks_of_a_quiet_log_once_and_those_of_a_busy_one_never():
    story = Story(3)
    story.elect(1)
    story.wait(0.2)

    def groups() -> list[int]:
        return [story[replica].core.durable_group for replica in (1, 2, 3)]

    before = groups()
    for count in range(1, 5):
        story[1].propose(b"a")
        story.settle()
        story.wait(0.05)
        assert groups() == [group + count for group in before], "a group for the vote, and none for the marks"
    story.wait(0.2)
    assert groups() == [group + 5 for group in before], "now nothing else takes the marks along"


def test_with_a_batch_of_one_every_operation_has_a_slot_to_itself():
    story = Story(3, options={"batch_max": 1})
    story.elect(1)
    story[1].propose(b"a", b"b", b"c")
    story.settle()
    assert story[1].core.status().decided == 3


def test_slots_of_one_turn_travel_together_as_far_as_a_message_may_go():
    story = Story(3, options={"batch_max": 1, "chunk_bytes_max": 1000})
    story.elect(1)
    heard = story.tap(Accept)
    story[1].propose(b"a", b"b", b"c")
    story.settle()
    assert [(message.first, len(message.values)) for _, to, message in heard if to == 2] == [(1, 3)]
    heard.clear()
    story[1].propose(bytes(400), bytes(400), bytes(400), bytes(3000), b"last")
    story.settle()
    sizes = [sum(map(len, message.values)) for _, to, message in heard if to == 2]
    assert all(len(message.values) == 1 or sum(map(len, message.values)) <= 1000 for _, _, message in heard)
    assert len(sizes) == 4, "two, one, the large one by itself, the last"
    assert story[1].log[-1] == b"last"


def test_a_queue_that_a_command_filled_beyond_its_bound_accepts_no_more():
    story = Story(3, options={"window_slots": 1, "queue_max": 3, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    for payload in (b"0", b"1", b"2"):
        story[1].step(Proposed((Command(payload, count=2),)))
    assert story[1].core.status().queued == 4
    assert not story[1].core.status().accepting
    story[1].step(Proposed((Command(b"3"),)))
    assert [rejection.command.payload for rejection in story[1].rejections] == [b"3"]


def test_batches_are_cut_by_operations_and_by_bytes():
    story = Story(3, options={"batch_max": 10, "batch_bytes_max": 180})
    story.elect(1)
    commands = [Command(b"x", count=6), Command(b"y", count=6), Command(b"z" * 90), Command(b"w" * 20)]
    story[1].step(Proposed(tuple(commands)))
    story.settle()
    assert [len(story[1].state[slot]) for slot in sorted(story[1].state)] == [1, 2, 1]


def test_slots_are_in_flight_together_and_decided_in_any_order():
    story = Story(3)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and message.first == 1
    story[1].propose(b"first")
    story[1].propose(b"second")
    story.settle()
    assert story[1].log == [], "the second is decided, but has to wait for the first"
    assert story[1].core.status().in_flight == 2
    story.lose = lambda sender, to, message: False
    story.wait(0.4)  # the first is sent again
    assert story[1].log == [b"first", b"second"]


def test_accepts_leave_before_the_leaders_own_disk_is_done_and_its_vote_counts_after():
    story = Story(3)
    story.elect(1)
    story[1].syncs = False
    story.isolate(3)
    story[2].syncs = False
    story[1].propose(b"a")
    assert any(wire[1] == 2 for wire in story.wires)
    story.settle()
    story[2].sync()
    story.settle()
    assert story[1].log == []
    story[1].sync()
    assert story[1].log == [b"a"]


def test_a_follower_delivers_what_its_own_disk_has_and_nothing_else():
    story = Story(3)
    story.elect(1)
    story[2].syncs = False
    story[1].propose(b"a")
    story.settle()
    story.wait(0.1)
    assert story[1].log == story[3].log == [b"a"]
    assert story[2].core.status().decided == 1
    assert story[2].log == []
    story[2].sync()
    assert story[2].log == [b"a"]


def test_an_accept_carries_the_news_of_a_decision_and_spares_it_the_journey():
    story = Story(3)
    story.elect(1)
    commits: list[int] = []

    def lose(_sender: int, _to: int, message: Message) -> bool:
        if isinstance(message, Commit):
            commits.append(message.commit)
        return isinstance(message, Heartbeat)

    story.lose = lose
    delay = story[1].inner._core.options.commit_delay_s
    for _ in range(5):
        story[1].propose(b"a")
        story.settle()
        story.wait(0.8 * delay)
    assert story[2].log == [b"a"] * 4
    assert commits == []
    story.wait(delay)
    assert story[2].log == [b"a"] * 5
    assert commits


def test_the_news_of_a_decision_travels_by_itself_when_nothing_follows():
    story = Story(3)
    story.elect(1)
    story.wait(0.05)
    story.lose = lambda sender, to, message: isinstance(message, Heartbeat)
    story[1].propose(b"a")
    story.settle()
    assert story[2].log == []
    story.wait(0.01)
    assert story[2].log == [b"a"]


def test_a_follower_does_not_decode_what_it_has_not_delivered():
    story = Story(3)
    story.elect(1)
    garbage = Accept(story[1].inner._core.ballot, 1, (b"\xc1 not a value",), 0)
    story[2].step(Received(1, garbage))
    story[2].core.protocol.check()
    assert story[2].log == []


def test_a_decided_value_that_cannot_be_decoded_stops_the_replica():
    story = Story(3)
    story.elect(1)
    ballot = story[1].inner._core.ballot
    story[2].step(Received(1, Accept(ballot, 1, (b"\xc1 not a value",), 0)))
    with pytest.raises(CorruptRecord, match="malformed"):
        story[2].step(Received(1, Commit(ballot, 1)))


def test_a_single_replica_leads_at_once_and_decides_when_its_disk_has_it():
    story = Story(1)
    assert story[1].leads()
    story[1].syncs = False
    story[1].propose(b"a")
    assert story[1].log == []
    story[1].sync()
    assert story[1].log == [b"a"]
    story[1].read(1)
    assert story[1].granted == {1: 1}


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_follower_refuses_with_a_hint_and_definitely():
    story = Story(3)
    story.elect(1)
    story[2].propose(b"a")
    story[2].read(1)
    (rejection,) = story[2].rejections
    assert (rejection.reason, rejection.definite, rejection.hint) == (Reason.NOT_LEADER, True, 1)
    (refused,) = story[2].refused_reads
    assert (refused.reason, refused.hint) == (Reason.NOT_LEADER, 1)


def test_what_the_queue_has_no_room_for_is_refused_before_it_is_proposed():
    story = Story(3, options={"window_slots": 2, "queue_max": 3, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    story[1].propose(*(b"%d" % number for number in range(5)))
    story[1].propose(b"5", b"6", b"7", b"8")
    assert [rejection.command.payload for rejection in story[1].rejections] == [b"3", b"4", b"7", b"8"]
    assert all(rejection.reason == Reason.OVERLOADED and rejection.definite for rejection in story[1].rejections)
    assert not story[1].core.status().accepting
    story.heal()
    story.wait(0.5)
    assert story[1].log == [b"0", b"1", b"2", b"5", b"6"]
    assert story[1].core.status().accepting


def test_a_queue_bounded_in_bytes_takes_one_command_however_large():
    story = Story(3, options={"queue_bytes_max": 100})
    story.elect(1)
    story[1].propose(b"x" * 200, b"y")
    assert [rejection.command.payload for rejection in story[1].rejections] == [b"y"]
    story.settle()
    assert story[1].log == [b"x" * 200]


def test_a_command_too_large_for_a_frame_is_refused():
    story = Story(1)
    story[1].propose(bytes((3 << 20) + 1))
    assert story[1].rejections[0].reason == Reason.UNSUPPORTED
    assert story[1].rejections[0].definite


def test_bytes_in_flight_are_bounded():
    story = Story(3, options={"window_bytes_max": 100, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    story[1].propose(*(bytes(60) for _ in range(5)))
    assert story[1].core.status().in_flight == 2
    assert story[1].core.status().queued == 3


def test_a_deposed_leader_gives_up_on_what_it_proposed_indefinitely_and_on_what_it_queued_definitely():
    story = Story(3, options={"window_slots": 1, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"proposed", b"queued")
    story[1].read(7)
    story.elect(2)
    story.heal()
    story.wait(0.2)
    outcomes = {r.command.payload: (r.reason, r.definite, r.hint) for r in story[1].rejections}
    assert outcomes == {b"proposed": (Reason.LOST, False, 2), b"queued": (Reason.NOT_LEADER, True, 2)}
    assert [refused.token for refused in story[1].refused_reads] == [7]


# ----------------------------------------------------------------------------------------------------------- elections


def test_a_follower_that_misses_its_leader_takes_over():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[1].crash()
    story.wait(2)
    leader = story.leader()
    assert leader is not None
    leader.propose(b"b")
    story.settle()
    assert leader.log == [b"a", b"b"]


def test_a_voter_that_hears_the_leader_refuses_a_poll():
    story = Story(3)
    story.elect(1)
    story.cut = {(1, 3), (3, 1)}
    story.wait(3)
    assert story[1].leads()
    assert story[1].core.status().ballot == "1.1.1"
    assert story[3].core.status().role == "candidate"


def test_a_voter_that_has_just_started_waits_before_it_helps_to_depose_anyone():
    story = Story(3)
    story.elect(1)
    story.isolate(3)
    story[2].crash()
    story[2].start()
    story.cut = {(1, 3), (3, 1), (1, 2)}
    story[3].clock += 1
    story[3].step()
    story.settle()
    assert story[3].core.status().role == "candidate"
    assert story[1].leads()


def test_a_leader_that_lost_its_phase_2_quorum_steps_down():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    story.wait(0.5, only=[1])
    assert story[1].leads()
    story.wait(1, only=[1])
    assert not story[1].leads()
    assert story[1].core.status().leader is None


def test_a_leader_whose_process_stalled_does_not_blame_its_followers():
    story = Story(3)
    story.elect(1)
    story.wait(0.2)
    story[1].clock += 5  # stalled: no timer fired meanwhile
    story[1].step()
    story.settle()
    story.wait(0.2, only=[1])
    assert story[1].leads()


def test_a_leader_keeps_leading_when_one_follower_is_gone():
    story = Story(3)
    story.elect(1)
    story[3].crash()
    story.wait(3)
    assert story[1].leads()
    assert story[1].core.status().ballot == "1.1.1"


def test_ballots_grow_across_restarts():
    story = Story(3)
    story.elect(1)
    for expected in ("1.2.1", "1.3.1"):
        story[1].crash()
        story[1].start()
        story.elect(1)
        assert story[1].core.status().ballot == expected


def test_a_promise_that_was_not_durable_was_never_given():
    story = Story(3)
    story[1].syncs = False
    for replica in (1, 2, 3):
        story[replica].clock += 0.41
    story[1].clock += 1
    story[1].step()
    story.settle()
    assert story[1].core.status().role == "candidate"
    assert story[2].core.status().ballot == "1.0.0", "the prepare waits for the own promise"
    story[1].sync()
    story.settle()
    assert story[2].core.status().ballot == "1.1.1"


def test_a_ballot_that_is_not_durable_proposes_nothing_even_where_one_replica_elects():
    story = Story(3, spec=FPAXOS, options={"q1": 1, "q2": 3})
    story[1].syncs = False
    story[1].step(Received(2, Prepare(Ballot(1, 1, 2), 1)))
    story[1].clock += 2
    story[1].step()
    assert [group for group, _ in story[1].disk.unsynced] == [1, 2], "a promise to 2, and then its own"
    story[1].carry_out(story[1].core.durable(story[1].clock, 1))
    assert not story[1].leads()
    story[1].sync()
    assert story[1].leads()


def test_slots_that_a_new_leader_knew_to_be_decided_are_passed_over():
    story = Story(3, options={"window_slots": 1, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    second = encode_batch((Command(b"second"),))

    def no_news(sender, to, message):
        return isinstance(message, Commit | Heartbeat) or (isinstance(message, Accept) and message.first == 2)

    story.lose = no_news
    story[1].propose(b"first", b"second")
    story.settle()
    story[2].step(Received(1, Accept(story[1].inner._core.ballot, 2, (second,), 0)))
    story.settle()
    assert story[1].log == [b"first", b"second"]
    assert story[2].core.status().decided == 0
    story[1].crash()
    story.heal()
    story.lose = lambda sender, to, message: False
    story[3].step(Received(1, Decided(2, (second,), decided=2, floor=0)))
    story.elect(3)
    story[3].propose(b"third")
    story.settle()
    assert story[3].log == [b"first", b"second", b"third"]


def test_a_leader_that_is_told_of_another_decision_in_its_slot_survives_until_it_is_deposed():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"old")
    story.elect(2)
    story[2].propose(b"new")
    story.settle()
    late = Decided(1, (encode_batch((Command(b"new"),)),), decided=1, floor=0)
    story[1].step(Received(3, late))  # an answer to a question from before it led
    assert story[1].log == []
    story.heal()
    story.wait(0.3)
    assert story[1].log == [b"new"]


def test_a_slow_disk_does_not_make_a_candidate_start_over():
    story = Story(3)
    story[1].syncs = False
    for replica in (2, 3):
        story[replica].clock += 0.41
    story.wait(5, only=[1])
    assert len(story[1].disk.unsynced) == 1
    story[1].sync()
    story.settle()
    assert story[1].leads()
    assert story[1].core.status().ballot == "1.1.1"


def test_leadership_is_handed_over_once_what_is_in_flight_has_finished():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story[1].yields(3)
    story[1].propose(b"late")
    assert story[1].leads()
    assert story[1].rejections[0].hint == 3
    story.settle()
    assert story[1].log == [b"a"]
    assert story[3].leads()
    story[3].propose(b"b")
    story.settle()
    story.wait(0.1)
    assert story[1].log == [b"a", b"b"]
    assert len(story[1].rejections) == 1


def test_without_a_named_successor_the_most_advanced_follower_is_chosen():
    story = Story(3)
    story.elect(1)
    story.lose = lambda sender, to, message: to == 2 and isinstance(message, Accept | Decided)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.15)
    story[1].yields()
    story.settle()
    assert story[3].leads()


def test_only_the_leader_itself_asks_for_a_successor():
    story = Story(3)
    story.elect(1)
    ballot = Ballot(*map(int, story[1].core.status().ballot.split(".")))
    for stranger in (2, 3):
        story[5 - stranger].step(Received(stranger, TakeOver(ballot)))
        story.settle()
        assert story[5 - stranger].core.status().role == "follower"
    assert story[1].leads()
    story[3].step(Received(1, TakeOver(ballot)))
    story.settle()
    assert story[3].leads()


def test_a_refusal_of_an_earlier_ballot_does_not_depose_nor_does_one_that_knows_no_higher():
    story = Story(3)
    story.elect(1)
    ballot = Ballot(*map(int, story[1].core.status().ballot.split(".")))
    story[1].step(
        Received(2, Refused(replace(ballot, round=ballot.round - 1), replace(ballot, round=ballot.round + 9)))
    )
    assert story[1].leads()
    story[1].step(Received(2, Refused(ballot, ballot)))
    assert story[1].leads()
    story[1].step(Received(2, Refused(ballot, replace(ballot, round=ballot.round + 9))))
    assert not story[1].leads()


def test_yielding_alone_changes_nothing():
    story = Story(1)
    story[1].yields()
    story[1].propose(b"a")
    assert story[1].log == [b"a"]


def test_a_replica_that_is_not_admitted_learns_but_neither_votes_nor_campaigns():
    story = Story(3)
    story[3].voting = False
    story[3].crash()
    story[3].start()
    story.elect(1)
    story[2].crash()
    story[1].propose(b"a")
    story.settle()
    story.wait(0.2)
    assert story[1].log == [], "the vote of 3 would be needed"
    story[2].start()
    story.wait(0.5)
    assert story[1].log == [b"a"]
    assert story[3].log == [b"a"], "it learned by catching up"
    assert story[3].core.status().role == "learner"
    assert story[3].core.status().ballot == "1.0.0"

    story[2].crash()
    story[3].carry_out(story[3].core.admit(story[3].clock))
    story[1].propose(b"b")
    story.settle()
    story.wait(0.5)
    assert story[1].log == story[3].log == [b"a", b"b"]


def test_nobody_is_elected_before_a_quorum_is_admitted():
    story = Story(3, voting=False)
    story.wait(3)
    assert story.leader() is None
    for replica in (1, 2):
        story[replica].carry_out(story[replica].core.admit(story[replica].clock))
    story.wait(3)
    assert story.leader() is not None


# --------------------------------------------------------------------------------------------------- loss and catch-up


def test_accepts_that_were_lost_are_sent_again_to_those_who_lack_them():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"a")
    story.settle()
    story.heal()
    sent = story.tap(Accept)
    story.wait(0.4)
    assert story[1].log == [b"a"]
    assert sorted(to for _, to, _ in sent) == [2, 3], "each once"


def test_a_peer_that_came_back_is_sent_what_it_has_not_answered_at_once():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"a")
    story.settle()
    story.heal()
    story[1].step(PeerReset(2))
    story.settle()
    assert story[1].log == [b"a"]


def test_what_is_repeated_is_cut_into_messages_that_fit_a_frame():
    story = Story(3, options={"chunk_bytes_max": 1000, "batch_max": 1})
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept)
    story[1].propose(bytes(400), bytes(400), bytes(3000), b"last")
    story.settle()
    heard = story.tap(Accept)
    story[1].step(PeerReset(2))
    story.settle()
    story.wait(2)
    for _, _, message in heard:
        assert len(message.values) == 1 or sum(map(len, message.values)) <= 1000
    assert story[2].log[-1] == b"last"


def test_what_is_repeated_travels_together():
    story = Story(3, options={"batch_max": 1})
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept)
    story[1].propose(b"a", b"b", b"c")
    story.settle()
    heard = story.tap(Accept)
    story[1].step(PeerReset(2))
    story.settle()
    assert [(to, message.first, len(message.values)) for _, to, message in heard] == [(2, 1, 3)]


@pytest.mark.parametrize(("chunk_bytes", "count"), [(1 << 20, 5), (150, 2), (1, 1)])
def test_a_peer_hands_on_as_much_of_its_log_as_fits_a_message(chunk_bytes, count):
    story = Story(3, options={"batch_max": 1, "chunk_bytes_max": chunk_bytes})
    story.elect(1)
    for number in range(5):
        story[1].propose(b"%050d" % number)
        story.settle()
    story.wait(0.1)
    heard = story.tap(Decided)
    story[1].step(Received(2, CatchUp(1)))
    story.settle()
    assert [len(message.values) for _, to, message in heard[:1]] == [count]


def test_what_everybody_knows_to_be_decided_is_not_announced_again():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.2)
    heard = story.tap(Commit)
    story[1].yields(2)
    story.settle()
    assert story[2].leads()
    assert not heard


def test_a_repeated_accept_is_answered_again_and_written_once():
    story = Story(3)
    story.elect(1)
    story.lose = lambda sender, to, message: to in {1, 3}
    story[1].propose(b"a")
    story.settle()
    before = dict(story[2].disk.durable["log"])
    story.lose = lambda sender, to, message: False
    ballot = story[1].inner._core.ballot
    story[2].syncs = False
    story[2].step(Received(1, Accept(ballot, 1, (encode_batch((Command(b"a"),)),), 0)))
    assert isinstance(story.codec.decode_message(story.wires[-1][3]), Accepted)
    assert story[2].disk.durable["log"] == before
    assert story[2].disk.unsynced == []


def test_a_laggard_catches_up_from_the_log_in_chunks():
    story = Story(3, options={"chunk_bytes_max": 100, "window_slots": 4, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    for number in range(30):
        story[1].propose(b"%030d" % number)
        story.settle()
    story.heal()
    answers = story.tap(Decided)
    story.wait(1)
    chunks = [len(message.values) for _, _, message in answers]
    assert story[3].log == story[1].log
    assert len(chunks) > 5
    assert max(chunks) <= 4


def test_a_peer_hands_on_what_is_decided_and_not_delivered_there_yet():
    story = Story(3)
    story.elect(1)
    story[2].syncs = False
    for payload in (b"a", b"b"):
        story[1].propose(payload)
        story.settle()
    story.wait(0.05)
    assert story[2].core.status().decided == 2
    assert story[2].log == [], "its own disk does not have them"
    answers = story.tap(Decided)
    story[2].step(Received(3, CatchUp(1)))
    story.settle()
    assert [decode_value(value) for value in answers[-1][2].values] == [
        Batch((Command(b"a"),)),
        Batch((Command(b"b"),)),
    ]


def test_a_peer_that_knows_no_more_and_has_truncated_nothing_is_not_asked_for_a_snapshot():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.05)
    assert story[3].log == [b"a"]
    story[3].step(Received(2, Decided(2, (), 1, 0)))
    assert story[3].wishes == []


def test_a_promise_that_fits_travels_in_one_part():
    story = Story(3)
    story.elect(1)
    story.isolate(3)
    story[2].syncs = False
    for number in range(4):
        story[1].propose(b"%d" % number)
    story.settle()
    story[2].sync()
    story[1].crash()
    story.heal()
    story[2].syncs = True
    parts = story.tap(Promised)
    story.elect(3)
    story.settle()
    assert [len(message.reports) for sender, to, message in parts if to == 3] == [4]
    assert story[3].log == [b"0", b"1", b"2", b"3"]


def test_an_acceptor_far_behind_still_votes_and_keeps_what_lies_beyond_its_window_on_disk():
    story = Story(3, options={"window_slots": 4, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    for number in range(20):
        story[1].propose(b"%d" % number)
        story.settle()
    story.heal()
    story.lose = lambda sender, to, message: isinstance(message, Decided)
    story[2].crash()
    story[1].propose(b"needs the vote of 3")
    story.settle()
    assert story[1].log[-1] == b"needs the vote of 3"
    assert story[3].log == []
    assert len(story[3].inner._log.window.entries) == 0
    story.lose = lambda sender, to, message: False
    story.wait(1)
    assert story[3].log == story[1].log


def test_a_laggard_whose_entries_are_gone_asks_for_a_snapshot_and_goes_on_behind_it():
    story = Story(3, options={"tail_slots": 2})
    story.elect(1)
    story.isolate(3)
    for number in range(10):
        story[1].propose(b"%d" % number)
        story.settle()
    story[1].take_snapshot()
    story.heal()
    story.wait(0.1)
    assert [(wish.peer, wish.frontier) for wish in story[3].wishes] == [(1, 8)], "once, though it has to wait"
    story.wait(1)
    assert len(story[3].wishes) == 1
    story[3].install_from(story[1])
    story[1].propose(b"after")
    story.settle()
    story.wait(0.1)
    assert story[3].log == [b"after"]
    assert story[3].applied == 11


def test_a_snapshot_that_cannot_be_had_is_wished_for_again():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()
    story[1].take_snapshot()
    story.heal()
    story.wait(0.2)
    story[3].snapshot_unavailable(1)
    story.wait(0.4)
    assert len(story[3].wishes) == 2


def test_a_snapshot_that_arrives_at_its_wisher_once_that_leads_makes_it_give_way():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()  # 2 has voted and does not know yet that it is decided
    story[1].take_snapshot()
    story.heal()
    story.isolate(2)
    story.wait(0.1)
    assert story[3].wishes, "1 has nothing to send but a snapshot"
    story.heal()
    story.isolate(1)
    story.lose = lambda sender, to, message: isinstance(message, Accepted)
    story.elect(3)
    story[3].propose(b"b")
    story[3].install_from(story[1])  # it was under way all the while
    assert not story[3].leads()
    assert [(r.command.payload, r.definite) for r in story[3].rejections] == [(b"b", False)]
    story.lose = lambda sender, to, message: False
    story.heal()
    story.wait(2)
    assert story[1].log == [b"a", b"b"], "it had been proposed, and the next leader recovers it"
    assert story[3].log == [b"b"], "behind the snapshot"


def test_a_tail_is_kept_behind_a_snapshot_within_slots_and_bytes():
    story = Story(1, options={"tail_slots": 5})
    for number in range(20):
        story[1].propose(b"%d" % number)
    story[1].take_snapshot()
    assert len(story[1].disk.durable["log"]) == 5
    story = Story(1, options={"tail_slots": 10, "tail_bytes_max": 250})
    for _ in range(20):
        story[1].propose(bytes(80))
    story[1].take_snapshot()
    assert len(story[1].disk.durable["log"]) == 2


def test_a_snapshot_erases_no_promise_and_no_vote_above_it():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"1")
    story.settle()
    story[1].take_snapshot()
    story.heal()
    story.lose = lambda sender, to, message: to == 1 and sender == 2
    story[1].propose(b"2")
    story.settle()
    assert story[3].applied == 0
    promised = story[3].core.status().ballot
    story[3].install_from(story[1])
    story[3].crash()
    story[3].start()
    assert story[3].core.status().ballot == promised
    assert [entry.value for entry in story[3].inner._log.window.entries.values()] == [encode_batch((Command(b"2"),))][
        : 2 - story[3].applied
    ]


def test_a_snapshot_that_is_no_news_any_more_is_not_waited_for():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"1")
    story.settle()
    story[1].take_snapshot()
    story.heal()
    story.wait(0.1)
    assert story[3].wishes, "1 has nothing to send but a snapshot"
    ballot = story[1].inner._core.ballot
    story[3].step(Received(2, Decided(1, (encode_batch((Command(b"1"),)),), decided=1, floor=0)))  # 2 has more
    story[3].step(Received(1, Accept(ballot, 3, (NOOP,), 2)))
    sent = story.tap(CatchUp)
    story[3].step(Received(1, Heartbeat(ballot, 2, 0)))
    story.settle()
    assert [message.first for _, _, message in sent] == [2]


def test_memory_that_is_full_leaves_the_rest_of_the_log_on_disk_until_there_is_room(monkeypatch):
    monkeypatch.setattr("replica.consensus.multipaxos.log.LOAD_BYTES_MAX", 290)
    held: list[int] = []
    load = Log._load

    def load_and_look(log: Log) -> None:
        load(log)
        held.append(sum(len(entry.value) for entry in log.window.entries.values()))

    story = Story(3, options={"batch_max": 1})
    story.elect(1)
    for number in range(40):
        story[1].propose(b"%050d" % number)
        story.settle()
    story.wait(0.1)
    story[2].crash(state_survives=False)
    story[2].log.clear()
    story.isolate(2)
    monkeypatch.setattr(Log, "_load", load_and_look)
    story[2].start()
    story.wait(0.05, only=[2])
    assert story[2].log == story[1].log
    assert len(held) > 5
    assert max(held) < 290 + 100, "one value more than there was room for at most"


def test_what_was_learned_out_of_order_is_reported_as_decided():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    value = encode_batch((Command(b"second"),))
    story[3].step(Received(1, Decided(2, (value,), decided=2, floor=0)))
    story[3].step(Received(1, Decided(2, (value,), decided=2, floor=0)))
    ballot = Ballot(1, 9, 2)
    story.wires.clear()
    story[3].step(Received(2, Prepare(ballot, 1)))
    answer = story.codec.decode_message(story.wires[-1][3])
    assert answer == Promised(ballot, decided=0, first=1, end=0, reports=(Report(2, NEVER, value, True),))


# -------------------------------------------------------------------------------------------------------------- restart


def test_a_replica_that_lost_its_state_replays_its_log():
    story = Story(3)
    story.elect(1)
    for number in range(5):
        story[1].propose(b"%d" % number)
        story.settle()
    story.wait(0.1)
    story[2].crash(state_survives=False)
    story[2].log.clear()
    story.isolate(2)
    story[2].start()
    assert story[2].log == [b"0", b"1", b"2", b"3", b"4"], "without asking anybody"


def test_a_long_replay_is_spread_over_turns():
    story = Story(3, options={"batch_max": 1})
    story.elect(1)
    for _ in range(3):
        story[1].propose(*(b"%d" % number for number in range(900)))
        story.settle()
    story.wait(0.1)
    story[2].crash(state_survives=False)
    story[2].log.clear()
    story.isolate(2)
    story[2].start()
    assert len(story[2].log) == DELIVER_SLOTS_MAX
    story.wait(0.1, only=[2])
    assert len(story[2].log) == 2700


def test_a_single_replica_recovers_what_it_had_written_and_never_reuses_a_slot():
    story = Story(1)
    story[1].syncs = False
    story[1].propose(b"a")
    story[1].crash(keep_writes=1)
    story[1].syncs = True
    story[1].start()
    story[1].propose(b"b")
    assert story[1].log == [b"a", b"b"]


def test_a_state_ahead_of_the_log_is_taken_for_decided():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.1)
    story[2].crash()
    for table in ("log", "progress"):
        story[2].disk.durable[table].clear()
    story[2].disk.crash(0)
    story[2].start()
    assert story[2].core.status().delivered == 1
    story.wires.clear()
    story[2].step(Received(3, CatchUp(1)))
    assert story.codec.decode_message(story.wires[-1][3]) == Decided(1, (), decided=1, floor=1)
    story.wait(0.1)
    story[1].propose(b"b")
    story.settle()
    story.wait(0.1)
    assert story[2].log == [b"a", b"b"]


def test_votes_beneath_an_installed_snapshot_are_void_even_if_a_crash_kept_them():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story[1].syncs = False
    story.lose = lambda sender, to, message: to in {1, 2}
    story[1].propose(b"never decided")  # only 3 votes for it
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story[1].syncs = True
    story[1].start()
    story.isolate(3)
    story.elect(2)
    story[2].propose(b"decided")
    story.settle()
    story[2].take_snapshot()

    # The switch to the fetched snapshot is durable, and the crash comes before the log is cut.
    story[3].applied = story[2].applied
    story[3].anchor = story[2].anchor
    story[3].crash()
    story[3].start()
    assert story[3].disk.durable["log"], "the void vote is still there"
    story.wires.clear()
    story[3].step(Received(1, CatchUp(1)))
    answer = story.codec.decode_message(story.wires[-1][3])
    assert answer == Decided(first=1, values=(), decided=1, floor=1), "it vouches for nothing there"


def test_a_state_behind_the_log_is_corruption():
    story = Story(1, options={"tail_slots": 0})
    story[1].propose(b"a")
    story[1].take_snapshot()
    story[1].crash()
    story[1].applied = 0
    story[1].anchor = replace(story[1].anchor, frontier=0)
    with pytest.raises(CorruptRecord, match="the log begins behind"):
        story[1].start()


def test_a_vote_above_the_promise_is_corruption():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[2].crash()
    del story[2].disk.view["acceptor"]
    story[2].applied = 0
    with pytest.raises(CorruptRecord, match="above the promise"):
        story[2].start()


def test_a_hole_beneath_the_decided_mark_is_corruption():
    story = Story(1)
    for payload in (b"a", b"b", b"c"):
        story[1].propose(payload)
    story[1].crash(state_survives=False)
    del story[1].disk.view["log"][(2).to_bytes(8, "big")]
    with pytest.raises(CorruptRecord, match="no record"):
        story[1].start()


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_hole_in_what_a_peer_asks_for_is_corruption(missing):
    story = Story(3)
    story.elect(1)
    for payload in (b"a", b"b", b"c"):
        story[1].propose(payload)
        story.settle()
    story.wait(0.1)
    del story[1].disk.view["log"][missing.to_bytes(8, "big")]
    with pytest.raises(CorruptRecord, match="no record"):
        story[1].step(Received(2, CatchUp(missing)))


# ---------------------------------------------------------------------------------------------------------------- reads


def test_a_read_is_granted_at_an_index_that_a_later_round_has_confirmed():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[1].read(1)
    assert story[1].granted == {}, "nothing was confirmed after it arrived"
    story.settle()
    assert story[1].granted == {1: 1}


def test_acknowledgements_of_an_earlier_round_confirm_nothing():
    story = Story(3)
    story.elect(1)
    story[1].read(1)
    story.lose = lambda sender, to, message: isinstance(message, HeartbeatAck)
    story.settle()
    story.lose = lambda sender, to, message: False
    ballot = story[1].inner._core.ballot
    story.isolate(1)
    story[1].read(2)
    story[1].step(Received(2, HeartbeatAck(ballot, 1, 0)))
    assert story[1].granted == {1: 0}


def test_a_round_that_was_lost_is_repeated_by_heartbeats():
    story = Story(3)
    story.elect(1)
    story.isolate(1)
    story[1].read(1)
    story.settle()
    story.heal()
    story.wait(0.1)
    assert story[1].granted == {1: 0}


def test_reads_that_wait_are_bounded():
    story = Story(3, options={"reads_max": 2})
    story.elect(1)
    story.isolate(1)
    for token in (1, 2, 3):
        story[1].read(token)
    assert [(refused.token, refused.reason) for refused in story[1].refused_reads] == [(3, Reason.OVERLOADED)]


# ----------------------------------------------------------------------------------------------------- flexible quorums


def test_flexible_quorums_decide_with_few_and_elect_with_many():
    story = Story(5, spec=FPAXOS, options={"q1": 4, "q2": 2})
    story.elect(1)
    for replica in (3, 4, 5):
        story[replica].crash()
    story[1].propose(b"a")
    story.settle()
    assert story[1].log == [b"a"], "two of five decide"
    story[1].crash()
    for replica in (3, 4):
        story[replica].start()
    story.wait(3)
    assert story.leader() is None, "three of five do not elect"
    story[5].start()
    story.wait(3)
    leader = story.leader()
    assert leader is not None
    leader.propose(b"b")
    story.settle()
    assert leader.log == [b"a", b"b"]


def test_check_quorum_counts_phase_2_quorums():
    story = Story(5, spec=FPAXOS, options={"q1": 4, "q2": 2})
    story.elect(1)
    for replica in (3, 4, 5):
        story[replica].crash()
    story.wait(3)
    assert story[1].leads()
    story[2].crash()
    story.wait(2)
    assert not story[1].leads()


def test_a_read_needs_acknowledgements_that_meet_every_phase_1_quorum():
    story = Story(5, spec=FPAXOS, options={"q1": 3, "q2": 3})
    story.elect(1)
    story.cut = {(3, 1), (4, 1), (5, 1)}
    story[1].read(1)
    story.settle()
    assert story[1].granted == {}, "3, 4 and 5 could have elected another"
    story.cut = {(4, 1), (5, 1)}
    story.wait(0.1)
    assert story[1].granted == {1: 0}


def test_grid_quorums_elect_with_a_zone_and_decide_across_zones():
    story = Story(4, spec=FPAXOS, options={"quorums": "grid"}, zones=["a", "a", "b", "b"])
    story.elect(1)
    story[4].crash()
    story[2].crash()
    story[1].propose(b"a")
    story.settle()
    assert story[1].log == [b"a"], "1 and 3: one of each zone"
    story[1].crash()
    story[2].start()
    story.wait(3)
    assert story.leader() is None, "2 and 3 are no zone"
    story[4].start()
    story.wait(3)
    leader = story.leader()
    assert leader is not None
    leader.propose(b"b")
    story.settle()
    assert leader.log == [b"a", b"b"]


def test_flexible_quorums_that_need_not_intersect_are_refused():
    with pytest.raises(ValueError, match=r"protocol\.options\.q1, q2: .*need not intersect"):
        Story(5, spec=FPAXOS, options={"q1": 2, "q2": 3})


# ------------------------------------------------------------------------------------------------------------ the seal


def test_a_seal_ends_the_epoch_behind_everything_that_was_taken_on():
    story = Story(3)
    story.elect(1)
    following = successor_of(story.configuration, 1, 2, 3)
    story[1].propose(b"before")
    story[1].reconfigure(9, following)
    story[1].propose(b"after")
    assert story[1].rejections[0].reason == Reason.SEALED
    assert story[1].rejections[0].definite
    story.settle()
    story.wait(0.1)
    for replica in (1, 2, 3):
        assert story[replica].log == [b"before"]
        sealed = story[replica].core.sealed
        assert sealed is not None
        assert (sealed.frontier, sealed.configuration) == (2, following)


def test_the_next_epoch_goes_on_behind_the_seal():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"before")
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.settle()
    for replica in (1, 2, 3):
        story[replica].next_epoch()
    story.elect(2)
    story[2].propose(b"after")
    story.settle()
    story.wait(0.1)
    assert story[1].log == story[3].log == [b"before", b"after"]
    assert story[1].applied == 3
    assert story[2].core.status().ballot == "2.1.2"
    story[3].crash(state_survives=False)
    story[3].start()
    assert story[3].log == [b"before", b"after", b"after"], "replayed from the base of its epoch"


def test_a_restart_before_the_switch_reaches_the_seal_again():
    story = Story(3)
    story.elect(1)
    story[1].propose(b"before")
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.settle()
    story.wait(0.1)
    story[2].crash(state_survives=False)
    story[2].log.clear()
    story[2].start()
    story.wait(0.1)
    assert story[2].log == [b"before"]
    assert story[2].core.sealed is not None


def test_a_new_leader_honours_a_seal_and_voids_what_stands_behind_it():
    """The seal was accepted by a minority, a value behind it under a higher ballot by another."""
    story = Story(5)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to != 2
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3, 4, 5))
    story.settle()
    story[1].crash()
    story.isolate(2)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and (message.first == 1 or to == 2)
    story.elect(3)
    story[3].propose(b"first")  # accepted by nobody else
    story[3].propose(b"second")  # chosen at slot 2, behind what will be the seal
    story.settle()
    assert story[3].log == []
    story[3].crash()
    story.heal()
    story.lose = lambda sender, to, message: False
    story.elect(2, accepting=False)
    story.wait(0.2)
    for replica in (2, 4, 5):
        assert story[replica].log == []
        sealed = story[replica].core.sealed
        assert sealed is not None
        assert sealed.frontier == 1


def test_a_leader_that_recovered_a_seal_takes_nothing_on_behind_it():
    story = Story(3)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to != 2
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.wires = [wire for wire in story.wires if wire[1] == 2]
    story.carry(0)
    story[1].crash()
    story.wires.clear()
    story.lose = lambda sender, to, message: isinstance(message, Accept)
    story.elect(2, accepting=False)
    story[2].propose(b"behind")
    story.settle()
    assert [(r.reason, r.definite) for r in story[2].rejections] == [(Reason.SEALED, True)]
    assert not story[2].core.status().accepting


def test_only_a_leader_seals_once_and_only_into_the_next_epoch():
    story = Story(3)
    story.elect(1)
    following = successor_of(story.configuration, 1, 2, 3)
    story[2].reconfigure(1, following)
    story[1].reconfigure(2, replace(following, epoch=5))
    story.isolate(1)
    story[1].reconfigure(3, following)
    story[1].reconfigure(4, following)
    assert [(r.token, r.reason) for r in story[2].refused_reads] == [(1, Reason.NOT_LEADER)]
    assert [(r.token, r.reason) for r in story[1].refused_reads] == [(2, Reason.UNSUPPORTED), (4, Reason.SEALED)]
    story.elect(2)
    story.heal()
    story.wait(0.2)
    last = story[1].refused_reads[-1]
    assert (last.token, last.reason, last.definite) == (3, Reason.LOST, False)


def test_a_replica_that_is_sealed_takes_nothing_more():
    story = Story(1)
    following = successor_of(story.configuration, 1)
    story[1].reconfigure(9, following)
    effects = story[1].inner.step(1.0, [Proposed((Command(b"late"),)), ReadRequested(1), Reconfigure(2, following)])
    assert [(r.reason, r.definite) for r in effects.rejections] == [(Reason.SEALED, True)]
    assert [(r.token, r.reason) for r in effects.refused_reads] == [(1, Reason.SEALED), (2, Reason.SEALED)]


def test_a_candidate_that_needs_a_snapshot_which_is_not_to_be_had_leaves_the_field():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"1")
    story.settle()
    story.wait(0.1)
    story[1].take_snapshot()
    story[2].take_snapshot()
    story.heal()
    story[1].yields(3)
    story.settle()
    assert story[3].leads()
    story[3].snapshot_unavailable(story[3].wishes[-1].peer)
    assert not story[3].leads()
    story.wait(3)
    leader = story.leader()
    assert leader is not None
    assert leader.id != 3


def test_a_read_that_waits_when_the_epoch_ends_is_refused():
    story = Story(3)
    story.elect(1)
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.lose = lambda sender, to, message: isinstance(message, HeartbeatAck)
    story[1].read(1)
    story.settle()
    assert [(refused.token, refused.reason) for refused in story[1].refused_reads] == [(1, Reason.SEALED)]


def test_a_read_is_refused_once_the_seal_is_decided_though_the_leaders_own_disk_has_yet_to_hold_it():
    story = Story(3)
    story.elect(1)
    story[1].syncs = False
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.settle()
    assert story[1].core.status().decided == 1
    assert story[1].core.sealed is None, "not before its record of the seal is durable"
    story[1].read(1)
    story.settle()
    assert story[1].granted == {}, "a grant would be for a state that is never reached"
    assert [(refused.token, refused.reason) for refused in story[1].refused_reads] == [(1, Reason.SEALED)]


# -------------------------------------------------------------------------------------------------------------- values


def test_values_tell_a_seal_from_commands_without_being_decoded():
    story = Story(1)
    seal = encode_seal(story.configuration)
    assert is_seal(seal)
    assert decode_value(seal) == Seal(story.configuration)
    assert not is_seal(NOOP)
    assert decode_value(NOOP) == Batch()
    commands = (Command(b"a", session=3, sequence=9, count=2),)
    assert not is_seal(encode_batch(commands))
    assert decode_value(encode_batch(commands)) == Batch(commands)


def test_a_poll_of_an_earlier_life_counts_for_nothing():
    story = Story(3)
    story.isolate(1)
    story[1].clock += 1
    story[1].step()
    answers = [wire for wire in story.wires if isinstance(story.codec.decode_message(wire[3]), Poll)]
    assert answers
    story.settle()
    assert story[1].core.status().role == "candidate"
