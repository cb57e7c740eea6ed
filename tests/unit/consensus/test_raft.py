"""Raft, told as stories: propose, deliver, crash, campaign."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from replica.consensus.interface import (
    Command,
    Configuration,
    CorruptRecord,
    Member,
    PeerReset,
    Proposed,
    ReadRequested,
    Reason,
    Received,
    Reconfigure,
)
from replica.consensus.raft import PROTOCOL
from replica.consensus.raft.messages import (
    Append,
    Appended,
    Commit,
    Discarded,
    Heartbeat,
    HeartbeatAck,
    LogEntry,
    Mismatch,
    Poll,
    PollAnswer,
    Refused,
    RequestVote,
    Resume,
    TakeOver,
    Vote,
    decode_mark,
)
from replica.consensus.raft.planted import BUGS, planted
from replica.consensus.values import NOOP, encode_batch

from .story import Replica, Story


def cluster(n: int = 3, **arguments: Any) -> Story:
    return Story(n, spec=arguments.pop("spec", PROTOCOL), **arguments)


def value(payload: bytes) -> bytes:
    return encode_batch((Command(payload),))


def term(replica: Replica) -> int:
    return int(replica.core.status().ballot.split(".")[1])


def log_of(replica: Replica) -> list[tuple[int, int]]:
    """Index and term of every entry that the replica holds."""
    log = replica.inner._log
    return [(index, log.terms.at(index)) for index in range(log.floor + 1, log.last + 1)]


def successor_of(configuration: Configuration, *replicas: int) -> Configuration:
    """The next epoch, with these members."""
    return replace(configuration, epoch=configuration.epoch + 1, members=tuple(Member(replica) for replica in replicas))


# ------------------------------------------------------------------------------------------------------ the happy path


def test_what_is_proposed_is_delivered_everywhere_in_one_order():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a", b"b")
    story[1].propose(b"c")
    story.settle()
    story.wait(0.05)
    assert story[1].log == story[2].log == story[3].log == [b"a", b"b", b"c"]
    assert story[1].core.status().decided == 3, "an empty entry opens the term, and a turn's commands share one"


def test_entries_are_in_flight_together():
    story = cluster()
    story.elect(1)
    story[1].propose(b"first")
    story[1].propose(b"second")
    assert story[1].core.status().in_flight == 2
    sent = [story.codec.decode_message(wire[3]) for wire in story.wires if wire[1] == 2]
    assert [(message.prev_index, len(message.entries)) for message in sent if isinstance(message, Append)] == [
        (1, 1),
        (2, 1),
    ], "the second does not wait for the first to be acknowledged"


def test_an_append_that_is_lost_is_made_up_for_when_the_next_one_does_not_fit():
    story = cluster()
    story.elect(1)
    story[1].propose(b"first")
    story.wires = [wire for wire in story.wires if wire[1] != 2]
    story[1].propose(b"second")
    story.settle()
    story.wait(0.01)
    assert story[2].log == [b"first", b"second"], "no timeout was needed"


def test_appends_leave_before_the_leaders_own_disk_is_done_and_its_log_counts_after():
    story = cluster()
    story.elect(1)
    story[1].syncs = False
    story.isolate(3)
    story[2].syncs = False
    story[1].propose(b"a")
    story.settle()
    story[2].sync()
    story.settle()
    assert story[1].log == []
    story[1].sync()
    assert story[1].log == [b"a"]


def test_a_follower_acknowledges_and_delivers_what_its_own_disk_has():
    story = cluster()
    story.elect(1)
    story[2].syncs = False
    story[3].crash()
    story[1].propose(b"a")
    story.settle()
    assert story[1].log == [], "the acknowledgement of 2 waits for its disk"
    story[3].start()
    story.wait(0.3)
    assert story[1].log == story[3].log == [b"a"]
    assert story[2].core.status().decided == 2
    assert story[2].log == []
    story[2].sync()
    assert story[2].log == [b"a"]


def test_the_news_of_a_commit_travels_by_itself_when_nothing_follows():
    story = cluster()
    story.elect(1)
    story.wait(0.05)
    story.lose = lambda sender, to, message: isinstance(message, Heartbeat)
    story[1].propose(b"a")
    story.settle()
    assert story[2].log == []
    story.wait(0.01)
    assert story[2].log == [b"a"]


def test_a_single_replica_leads_at_once_and_commits_when_its_disk_has_it():
    story = cluster(1)
    assert story[1].leads()
    story[1].syncs = False
    story[1].propose(b"a")
    assert story[1].log == []
    story[1].sync()
    assert story[1].log == [b"a"]
    story[1].read(1)
    assert story[1].granted == {1: 2}


def test_a_quiet_cluster_writes_nothing():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.3)
    before = [story[replica].core.durable_group for replica in (1, 2, 3)]
    story.wait(1)
    assert [story[replica].core.durable_group for replica in (1, 2, 3)] == before


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_follower_refuses_with_a_hint_and_definitely():
    story = cluster()
    story.elect(1)
    story[2].propose(b"a")
    story[2].read(1)
    (rejection,) = story[2].rejections
    assert (rejection.reason, rejection.definite, rejection.hint) == (Reason.NOT_LEADER, True, 1)
    (refused,) = story[2].refused_reads
    assert (refused.reason, refused.hint) == (Reason.NOT_LEADER, 1)


def test_what_the_queue_has_no_room_for_is_refused_before_it_is_appended():
    story = cluster(options={"window_slots": 2, "queue_max": 3, "batch_max": 1})
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


def test_bytes_in_flight_are_bounded():
    story = cluster(options={"window_bytes_max": 100, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    story[1].propose(*(bytes(60) for _ in range(5)))
    assert story[1].core.status().in_flight == 2
    assert story[1].core.status().queued == 3


def test_a_deposed_leader_gives_up_on_what_it_appended_indefinitely_and_on_what_it_queued_definitely():
    story = cluster(options={"window_slots": 1, "batch_max": 1})
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"appended", b"queued")
    story[1].read(7)
    story.elect(2)
    story.heal()
    story.wait(0.2)
    outcomes = {r.command.payload: (r.reason, r.definite, r.hint) for r in story[1].rejections}
    assert outcomes == {b"appended": (Reason.LOST, False, None), b"queued": (Reason.NOT_LEADER, True, None)}
    assert [refused.token for refused in story[1].refused_reads] == [7]


# ----------------------------------------------------------------------------------------------------------- elections


def test_a_follower_that_misses_its_leader_takes_over():
    story = cluster()
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
    assert term(leader) == 2


def test_pre_vote_a_replica_that_is_cut_off_from_the_leader_alone_does_not_raise_the_term():
    story = cluster()
    story.elect(1)
    story.cut = {(1, 3), (3, 1)}
    story.wait(3)
    assert story[1].leads()
    assert term(story[1]) == term(story[3]) == 1
    assert story[3].core.status().role == "candidate"


def test_check_quorum_a_leader_without_a_majority_steps_down():
    story = cluster()
    story.elect(1)
    story.isolate(1)
    story.wait(0.5, only=[1])
    assert story[1].leads()
    story.wait(1, only=[1])
    assert not story[1].leads()
    assert story[1].core.status().leader is None


def test_a_leader_whose_process_stalled_does_not_blame_its_followers():
    story = cluster()
    story.elect(1)
    story.wait(0.2)
    story[1].clock += 5  # stalled: no timer fired meanwhile
    story[1].step()
    story.settle()
    story.wait(0.2, only=[1])
    assert story[1].leads()


def test_with_pre_vote_and_check_quorum_together_a_replica_in_a_later_term_comes_back_to_a_leader():
    """It campaigned, and was cut off before anybody heard of it. Its polls are refused, since the others hear a leader;
    that leader's messages it refuses in turn. Were it silent about its term, it would stay outside for good."""
    story = cluster()
    story.elect(1)
    story.isolate(3)
    story[3].step(Received(1, TakeOver(1)))
    story.settle()
    assert (term(story[1]), term(story[3])) == (1, 2)
    story.heal()
    story.wait(3)
    leader = story.leader()
    assert leader is not None
    leader.propose(b"a")
    story.settle()
    story.wait(0.1)
    assert story[1].log == story[2].log == story[3].log == [b"a"]
    assert len({term(story[replica]) for replica in (1, 2, 3)}) == 1


def test_nobody_votes_for_a_log_that_lacks_what_is_committed():
    story = cluster()
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()
    story[1].crash()
    story.heal()
    votes = story.tap(Vote)
    story[3].clock += 0.41
    story[2].clock += 0.41
    story[2].step(Received(3, RequestVote(term=9, last_index=1, last_term=1)))
    story.settle()
    assert votes == []
    assert term(story[2]) == 9, "it enters the term all the same"
    story.wait(3)
    assert story[2].leads()
    assert story[2].log == story[3].log == [b"a"]


def test_a_log_is_judged_by_the_term_of_its_last_entry_first_and_by_its_length_then():
    story = cluster(1)
    story[1].propose(b"a")  # the log ends at 2, in term 1
    up_to_date = story[1].inner._election._up_to_date
    assert up_to_date(2, 1)
    assert up_to_date(1, 2)
    assert not up_to_date(1, 1)
    assert not up_to_date(9, 0)


def test_a_vote_is_given_once_in_a_term_and_remembered_across_a_restart():
    story = cluster()
    votes = story.tap(Vote)
    story[3].step(Received(1, RequestVote(term=5, last_index=0, last_term=0)))
    story[3].crash()
    story[3].start()
    story[3].step(Received(2, RequestVote(term=5, last_index=0, last_term=0)))
    story[3].step(Received(1, RequestVote(term=5, last_index=0, last_term=0)))
    story.settle()
    assert [(sender, to) for sender, to, _ in votes] == [(3, 1), (3, 1)], "the same again, and nobody else"


def test_a_vote_that_is_not_durable_was_never_given():
    story = cluster()
    story[1].syncs = False
    for replica in (1, 2, 3):
        story[replica].clock += 0.41
    story[1].clock += 1
    story[1].step()
    story.settle()
    assert story[1].core.status().role == "candidate"
    assert term(story[2]) == 0, "the request waits for the own vote"
    story[2].syncs = False
    story[1].sync()
    story.isolate(3)
    story.settle()
    assert not story[1].leads(), "and the other vote for the other's disk"
    story[2].sync()
    story.settle()
    assert story[1].core.status().role == "leader"


def test_terms_grow_across_restarts():
    story = cluster()
    story.elect(1)
    for expected in (2, 3):
        story[1].crash()
        story[1].start()
        story.elect(1)
        assert term(story[1]) == expected


def test_a_slow_disk_does_not_make_a_candidate_start_over():
    story = cluster()
    story[1].syncs = False
    for replica in (2, 3):
        story[replica].clock += 0.41
    for _ in range(40):
        story[1].clock += 0.2
        story[1].step()
        story.settle()
    assert story[1].inner._core.term == 1
    story[1].sync()
    story.settle()
    story[1].sync()
    story.settle()
    assert story[1].leads()


def test_votes_that_were_lost_are_asked_for_again():
    story = cluster()
    story.lose = lambda sender, to, message: isinstance(message, Vote)
    for replica in (1, 2, 3):
        story[replica].clock += 0.41
    story[1].clock += 0.5
    story[1].step()
    story.settle()
    assert story[1].core.status().role == "candidate"
    story.lose = lambda sender, to, message: False
    story.wait(0.3)
    assert story[1].leads()
    assert term(story[1]) == 1


def test_a_poll_of_an_earlier_life_counts_for_nothing():
    story = cluster()
    story.isolate(1)
    story[1].clock += 1
    story[1].step()
    poll = next(m for m in (story.codec.decode_message(wire[3]) for wire in story.wires) if isinstance(m, Poll))
    story[1].crash()
    story[1].start()
    story[1].clock += 1
    story[1].step()
    story[1].step(Received(2, PollAnswer(poll.incarnation, poll.number, True, 0)))
    assert story[1].core.status().role == "candidate"
    assert story[1].inner._core.term == 0


def test_a_replica_that_is_not_admitted_follows_but_neither_votes_nor_counts():
    story = cluster()
    story[3].voting = False
    story[3].crash()
    story[3].start()
    story.elect(1)
    story[2].crash()
    story[1].propose(b"a")
    story.settle()
    story.wait(0.2)
    assert story[1].log == [], "the acknowledgement of 3 counts for nothing"
    assert log_of(story[3]) == [(1, 1), (2, 1)], "though it has the entry"
    assert story[3].core.status().role == "learner"
    votes = story.tap(Vote)
    story[3].step(Received(2, RequestVote(term=9, last_index=9, last_term=9)))
    story.settle()
    assert votes == []
    story[2].start()
    story.wait(0.5)
    assert story[1].log == story[3].log == [b"a"]

    story[2].crash()
    story[3].carry_out(story[3].core.admit(story[3].clock))
    story[1].propose(b"b")
    story.settle()
    story.wait(0.5)
    assert story[1].log == story[3].log == [b"a", b"b"]


def test_nobody_is_elected_before_a_majority_is_admitted():
    story = cluster(voting=False)
    story.wait(3)
    assert story.leader() is None
    for replica in (1, 2):
        story[replica].carry_out(story[replica].core.admit(story[replica].clock))
    story.wait(3)
    assert story.leader() is not None


# ------------------------------------------------------------------------------------------------------------ handover


def test_leadership_is_handed_over_once_what_is_in_flight_has_finished():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story[1].yields(3)
    story[1].propose(b"late")
    assert story[1].leads()
    assert story[1].rejections[0].hint == 3
    polls = story.tap(Poll)
    story.settle()
    assert story[1].log == [b"a"]
    assert story[3].leads()
    assert polls == []
    story[3].propose(b"b")
    story.settle()
    story.wait(0.1)
    assert story[1].log == [b"a", b"b"]
    assert len(story[1].rejections) == 1


def test_a_successor_that_lags_is_brought_up_to_date_first():
    story = cluster()
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()
    story.heal()
    handed = story.tap(TakeOver)
    story[1].yields(3)
    story.settle()
    assert handed == [], "3 could not be elected"
    story.wait(0.4)
    assert story[3].leads()
    assert story[3].log == [b"a"]


def test_without_a_named_successor_the_most_advanced_follower_is_chosen():
    story = cluster()
    story.elect(1)
    story.lose = lambda sender, to, message: to == 2 and isinstance(message, Append)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.15)
    story[1].yields()
    story.settle()
    assert story[3].leads()


def test_yielding_alone_changes_nothing():
    story = cluster(1)
    story[1].yields()
    story[1].propose(b"a")
    assert story[1].log == [b"a"]


def test_a_takeover_of_an_earlier_term_is_void():
    story = cluster()
    story.elect(1)
    story[1].crash()
    story.elect(2)
    story[3].step(Received(1, TakeOver(1)))
    story.settle()
    assert story[2].leads()
    assert term(story[2]) == 2


# ----------------------------------------------------------------------------------------------------- log matching


def with_a_divergent_tail(length: int, **options: int) -> Story:
    """Replica 1 led term 1 alone with ``length`` entries that nobody else has; 2 has led since."""
    story = cluster(options={"batch_max": 1, **options})
    story.elect(1)
    story.isolate(1)
    story[1].propose(*(b"lost %d" % number for number in range(length)))
    story.elect(2)
    story[2].propose(*(b"kept %d" % number for number in range(length)))
    story.settle()
    return story


def test_a_follower_whose_log_parts_from_the_leaders_takes_the_leaders():
    story = with_a_divergent_tail(20)
    assert len(log_of(story[1])) == 21
    story.heal()
    story.wait(0.5)
    assert log_of(story[1]) == log_of(story[2])
    assert story[1].log == story[2].log == [b"kept %d" % number for number in range(20)]


def test_the_leader_goes_back_by_whole_terms():
    story = with_a_divergent_tail(200)
    story.heal()
    mismatches = story.tap(Mismatch)
    story.wait(0.5)
    assert story[1].log == story[2].log
    assert len(mismatches) <= 3, "and not two hundred times"


def test_an_append_that_arrives_late_removes_nothing():
    story = cluster()
    story.elect(1)
    story.wait(0.1)
    story[1].propose(b"first")
    late = [wire for wire in story.wires if isinstance(story.codec.decode_message(wire[3]), Append)]
    story.settle()
    story[1].propose(b"second")
    story.settle()
    before = log_of(story[2])
    story.wires.extend(late)
    story.settle()
    assert log_of(story[2]) == before == [(1, 1), (2, 1), (3, 1)]


def test_an_append_is_refused_where_the_entry_before_it_is_of_another_term():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wires.clear()
    story[2].step(Received(3, Append(7, 2, 6, (LogEntry(7, NOOP),), 0)))
    answer = story.codec.decode_message(story.wires[-1][3])
    assert answer == Mismatch(7, 2, last=2, conflict_term=1, conflict_first=2), "not below what is committed"
    assert log_of(story[2]) == [(1, 1), (2, 1)]


def test_a_commit_mark_holds_as_far_as_the_log_is_known_to_match():
    story = with_a_divergent_tail(3)
    story.lose = lambda sender, to, message: isinstance(message, Append) and to == 1
    story.heal()
    story.wait(0.3)
    assert term(story[1]) == term(story[2]) == 2, "heartbeats with commit marks have arrived"
    assert story[1].core.status().decided == 1
    assert story[1].log == []


def test_what_was_overwritten_while_it_was_being_written_is_acknowledged_when_its_successor_is_durable():
    story = cluster()
    story.elect(1)
    story[3].syncs = False
    story[3].step(Received(1, Append(1, 1, 1, (LogEntry(1, value(b"old")),), 0)))
    story[3].step(Received(2, Append(2, 1, 1, (LogEntry(2, value(b"new")),), 0)))
    story.wires.clear()
    first, second = story[3].disk.unsynced[-2:]
    story[3].carry_out(story[3].core.durable(story[3].clock, first[0]))
    sent = [story.codec.decode_message(wire[3]) for wire in story.wires if wire[1] == 2]
    assert sent == [], "the first write to the index says nothing of the second"
    story[3].carry_out(story[3].core.durable(story[3].clock, second[0]))
    sent = [story.codec.decode_message(wire[3]) for wire in story.wires if wire[1] == 2]
    assert sent == [Appended(2, 2)]


# ------------------------------------------------------------------------------------------------------------- figure 8


def figure_8(story: Story) -> None:
    """The paper's figure 8: an entry of an earlier term that a majority holds, and that is replaced all the same."""
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Append)
    story[1].propose(b"first")  # (a) 1 alone has it, of term 1
    story.settle()
    story[1].crash()
    story.elect(5, accepting=False)  # (b) the others elect 5, which has another there, of term 2
    assert log_of(story[5]) == [(1, 1), (2, 2)]
    story[5].crash()
    story[1].start()
    story.lose = lambda sender, to, message: (
        isinstance(message, Append) and (to == 4 or (message.prev_index == 2 and story[to].inner._log.last == 2))
    )
    story.elect(1, accepting=False)  # (c) 1 leads term 3, and brings the entry of term 1 to 2 and 3, but not its own
    story.wait(0.3)
    assert log_of(story[1]) == [(1, 1), (2, 1), (3, 3)]
    assert log_of(story[2]) == log_of(story[3]) == [(1, 1), (2, 1)]
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story[5].start()
    story.elect(5)  # (d) 5 leads term 4, and replaces it
    story[5].propose(b"second")
    story.settle()
    story.wait(0.1)


def test_figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting():
    story = cluster(5, options={"chunk_bytes_max": 1})
    figure_8(story)
    assert story[1].log == [], "three of five held the entry, and it was not committed"
    assert story[2].log == story[3].log == story[5].log == [b"second"]


def test_figure_8_an_entry_of_an_earlier_term_that_was_committed_by_counting_is_noticed():
    story = cluster(5, options={"chunk_bytes_max": 1}, spec=planted("commits an older term by counting"))
    with pytest.raises(AssertionError, match=r"delivers .* at 2, where .*first.* was delivered"):
        figure_8(story)
    assert story[1].log == [b"first"]


# --------------------------------------------------------------------------------------------------- loss and catch-up


def test_a_peer_that_came_back_is_sent_what_it_has_not_acknowledged_at_once():
    story = cluster()
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"a")
    story.settle()
    story.heal()
    story[1].step(PeerReset(2))
    story.settle()
    assert story[1].log == [b"a"]


def test_a_laggard_is_fed_in_chunks_a_few_at_a_time():
    story = cluster(options={"chunk_bytes_max": 100, "window_slots": 4, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    for number in range(30):
        story[1].propose(b"%030d" % number)
        story.settle()
    story.heal()
    chunks = story.tap(Append)
    story.wait(1)
    assert story[3].log == story[1].log
    sizes = [len(message.entries) for _, to, message in chunks if to == 3]
    assert len(sizes) >= 15
    assert max(sizes) <= 2


def test_a_follower_far_behind_its_window_keeps_what_lies_beyond_on_disk():
    story = cluster(options={"window_slots": 2, "batch_max": 1})
    story.elect(1)
    story.lose = lambda sender, to, message: to == 3 and isinstance(message, Heartbeat | Commit)
    entries = tuple(LogEntry(1, value(b"%d" % number)) for number in range(40))
    story[3].step(Received(1, Append(1, 1, 1, entries, 0)))
    assert story[3].inner._log.last == 41
    assert len(story[3].inner._log.window.entries) <= 4
    story[3].step(Received(1, Append(1, 41, 1, (), 41)))
    assert story[3].log == [b"%d" % number for number in range(40)]


def test_a_laggard_whose_entries_are_gone_asks_for_a_snapshot_and_goes_on_behind_it():
    story = cluster(options={"tail_slots": 2, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    for number in range(10):
        story[1].propose(b"%d" % number)
        story.settle()
    story[1].take_snapshot()
    story.heal()
    story.wait(0.4)
    assert [(wish.peer, wish.frontier) for wish in story[3].wishes] == [(1, 9)], "once, though it has to wait"
    story.wait(1)
    assert len(story[3].wishes) == 1
    story[3].install_from(story[1])
    story[1].propose(b"after")
    story.settle()
    story.wait(0.1)
    assert story[3].log == [b"after"]
    assert story[3].applied == 12


def test_a_snapshot_that_cannot_be_had_is_wished_for_again():
    story = cluster(options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()
    story[1].take_snapshot()
    story.heal()
    story.wait(0.4)
    story[3].snapshot_unavailable(1)
    story.wait(0.4)
    assert len(story[3].wishes) == 2


def test_a_follower_that_needs_no_snapshot_any_more_says_where_its_log_ends():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wires.clear()
    story[2].step(Received(1, Discarded(1, 1)))
    assert story.codec.decode_message(story.wires[-1][3]) == Resume(1, 2)
    assert story[2].wishes == []


def test_a_snapshot_tells_the_term_of_its_last_entry_and_that_of_whoever_took_it():
    story = cluster(options={"tail_slots": 0})
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[1].step(Received(2, RequestVote(term=4, last_index=0, last_term=0)))
    story[1].take_snapshot()
    mark = decode_mark(story[1].anchor.mark)
    assert (mark.last_term, mark.term) == (1, 4)


def test_whoever_installs_a_snapshot_enters_the_term_of_its_maker_and_follows_no_leader_of_an_earlier_one():
    """Otherwise the leader of term 1, whose entries at these indexes were replaced, could count on it for them."""
    story = cluster(5, options={"tail_slots": 0, "batch_max": 1})
    story.isolate(3)
    story.elect(1)
    story.isolate(1)
    story[1].propose(b"never committed")
    story.elect(2)
    story[2].propose(b"committed")
    story.settle()
    assert (term(story[2]), term(story[3])) == (2, 0)
    story[2].take_snapshot()
    story[3].install_from(story[2])
    assert term(story[3]) == 2
    assert (story[3].inner._log.last, story[3].inner._log.last_term) == (3, 2)
    story.wires.clear()
    story[3].step(Received(1, Append(1, 1, 1, (LogEntry(1, value(b"never committed")),), 0)))
    assert [story.codec.decode_message(wire[3]) for wire in story.wires if wire[1] == 1] == [Refused(2)]


def test_entries_behind_a_snapshot_stay_if_they_belong_to_it_and_go_if_not():
    story = cluster(options={"tail_slots": 0, "batch_max": 1})
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.1)
    story.lose = lambda sender, to, message: (
        isinstance(message, Commit | Heartbeat) or (isinstance(message, Append) and message.prev_index > 2 and to == 2)
    )
    story[1].propose(b"b")
    story.settle()
    story[3].step(Received(1, Append(1, 3, 1, (LogEntry(1, value(b"c")),), 0)))
    assert log_of(story[3])[-1] == (4, 1)
    assert story[1].applied == 3
    story[3].install_from(story[1])
    assert log_of(story[3]) == [(4, 1)], "it follows what the snapshot ends with"

    story[2].step(Received(1, Append(1, 2, 1, (), 2)))
    other = tuple(LogEntry(2, value(b"other %d" % number)) for number in range(3))
    story[2].step(Received(3, Append(2, 2, 1, other, 2)))
    assert log_of(story[2])[-1] == (5, 2)
    story[2].install_from(story[1])
    assert log_of(story[2]) == [], "its entry at the end of the snapshot was another"
    assert story[2].inner._log.last == 3


def test_a_crash_between_the_switch_to_a_snapshot_and_the_answer_to_it_changes_nothing():
    story = with_a_divergent_tail(3, tail_slots=0)
    story[2].take_snapshot()
    story[1].applied = story[2].applied
    story[1].anchor = story[2].anchor
    story[1].crash()
    story[1].start()
    assert story[1].inner._log.last == story[2].applied
    assert log_of(story[1]) == [], "what it held was never committed"
    assert term(story[1]) == 2
    story.heal()
    story[2].propose(b"after")
    story.wait(0.5)
    assert story[1].log == [b"after"]


def test_a_tail_is_kept_behind_a_snapshot_within_slots_and_bytes():
    story = cluster(1, options={"tail_slots": 5})
    for number in range(20):
        story[1].propose(b"%d" % number)
    story[1].take_snapshot()
    assert len(story[1].disk.durable["log"]) == 5
    assert story[1].inner._log.terms.floor_term == 1
    story = cluster(1, options={"tail_slots": 10, "tail_bytes_max": 250})
    for _ in range(20):
        story[1].propose(bytes(80))
    story[1].take_snapshot()
    assert len(story[1].disk.durable["log"]) == 2


# -------------------------------------------------------------------------------------------------------------- restart


def test_a_replica_that_lost_its_state_replays_its_log():
    story = cluster()
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
    story = cluster(options={"batch_max": 1})
    story.elect(1)
    for _ in range(3):
        story[1].propose(*(b"%d" % number for number in range(900)))
        story.settle()
    story.wait(0.1)
    story[2].crash(state_survives=False)
    story[2].log.clear()
    story.isolate(2)
    story[2].start()
    assert 0 < len(story[2].log) < 2700
    story.wait(0.1, only=[2])
    assert len(story[2].log) == 2700


def test_a_single_replica_recovers_what_it_had_written():
    story = cluster(1)
    story[1].syncs = False
    story[1].propose(b"a")
    story[1].crash(keep_writes=1)
    story[1].syncs = True
    story[1].start()
    story[1].propose(b"b")
    assert story[1].log == [b"a", b"b"]


def corrupted(story: Story, table: str, key: bytes) -> Replica:
    """Replica 2 after the loss of a record."""
    story.elect(1)
    for number in range(3):
        story[1].propose(b"%d" % number)
        story.settle()
    story.wait(0.3)
    story[2].crash(state_survives=False)
    del story[2].disk.view[table][key]
    return story[2]


@pytest.mark.parametrize(
    ("table", "key", "problem"),
    [
        ("term", b"term", "beyond the term"),
        ("log", (3).to_bytes(8, "big"), "no record"),
        ("log", (4).to_bytes(8, "big"), "no record"),
        ("starts", (1).to_bytes(8, "big"), "an entry of term 1"),
    ],
)
def test_a_record_that_is_missing_is_corruption(table, key, problem):
    replica = corrupted(cluster(), table, key)
    with pytest.raises(CorruptRecord, match=problem):
        replica.start()


def test_a_committed_value_that_cannot_be_decoded_stops_the_replica():
    story = cluster()
    story.elect(1)
    story[2].step(Received(1, Append(1, 1, 1, (LogEntry(1, b"\xc1 not a value"),), 0)))
    with pytest.raises(CorruptRecord, match="malformed"):
        story[2].step(Received(1, Commit(1, 2)))


def test_a_state_behind_the_log_is_corruption():
    story = cluster(1, options={"tail_slots": 0})
    story[1].propose(b"a")
    story[1].take_snapshot()
    story[1].crash()
    story[1].applied = 0
    story[1].anchor = replace(story[1].anchor, frontier=0)
    with pytest.raises(CorruptRecord, match="the log begins behind"):
        story[1].start()


# ---------------------------------------------------------------------------------------------------------------- reads


def test_a_read_is_granted_at_an_index_that_a_later_round_has_confirmed():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[1].read(1)
    assert story[1].granted == {}, "nothing was confirmed after it arrived"
    story.settle()
    assert story[1].granted == {1: 2}


def test_a_read_waits_for_a_commit_of_the_leaders_own_term():
    story = cluster()
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: isinstance(message, Appended)
    story.elect(2, accepting=False)
    story[2].read(1)
    story.settle()
    story.wait(0.2)
    assert story[2].granted == {}, "it does not know yet how far its predecessor had committed"
    story.lose = lambda sender, to, message: False
    story.wait(0.4)
    assert story[2].granted == {1: 3}


def test_a_leader_that_was_replaced_grants_nothing():
    story = cluster()
    story.elect(1)
    story.isolate(1)
    story.elect(2)
    story[2].propose(b"new")
    story.settle()
    story[1].read(1)
    story.heal()
    story.wait(0.2)
    assert story[1].granted == {}
    assert [refused.token for refused in story[1].refused_reads] == [1]


def test_answers_to_an_earlier_heartbeat_confirm_nothing():
    story = cluster()
    story.elect(1)
    story.wait(0.2)
    answered = story[1].inner._reads._rounds.round
    story.isolate(1)
    story[1].read(1)
    story[1].step(Received(2, HeartbeatAck(1, answered)))
    assert story[1].granted == {}
    story[1].step(Received(2, HeartbeatAck(1, answered + 1)))
    assert story[1].granted == {1: 1}


def test_reads_that_wait_are_bounded():
    story = cluster(options={"reads_max": 2})
    story.elect(1)
    story.isolate(1)
    for token in (1, 2, 3):
        story[1].read(token)
    assert [(refused.token, refused.reason) for refused in story[1].refused_reads] == [(3, Reason.OVERLOADED)]


# --------------------------------------------------------------------------------------------------------------- leases

LEASE = {"lease_s": 0.3, "lease_drift": 0.1}


def by_lease(story: Story, replica: int, token: int) -> None:
    story[replica].step(ReadRequested(token, by_lease=True))


def test_a_read_by_lease_is_granted_at_once():
    story = cluster(options=LEASE)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.1)
    story.isolate(1)
    by_lease(story, 1, 1)
    assert story[1].granted == {1: 2}


def test_a_read_that_asks_for_read_index_does_not_rest_on_a_lease():
    story = cluster(options=LEASE)
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    story[1].read(1)
    assert story[1].granted == {}


def test_leases_are_off_unless_asked_for():
    story = cluster()
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    by_lease(story, 1, 1)
    assert story[1].granted == {}


def test_a_lease_runs_from_when_the_heartbeat_was_sent_and_ends_before_any_promise_does():
    story = cluster(options=LEASE)
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    sent = max(story[1].inner._reads.lease._sent, default=0)
    until = story[1].inner._reads.lease._until
    assert until <= story[1].clock + 0.3 * 0.9
    assert sent == 0 or story[1].inner._reads.lease._sent[sent] <= story[1].clock
    story[1].clock = until - 0.001
    by_lease(story, 1, 1)
    story[1].clock = until + 0.001
    by_lease(story, 1, 2)
    assert list(story[1].granted) == [1]


def stalled_leader(spec: Any) -> Story:
    """1 holds a lease and stands still; 2 has taken over and committed; then 1 goes on with a read in its queue."""
    story = cluster(options=LEASE, spec=spec)
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    story.wait(1.5, only=[2, 3])
    assert story[2].leads()
    story[2].propose(b"new")
    story.settle()
    assert story[2].log == [b"new"]
    story[1].clock += 1.5
    by_lease(story, 1, 1)
    return story


def test_after_a_pause_a_lease_is_judged_by_the_time_and_not_by_its_timer():
    assert stalled_leader(PROTOCOL)[1].granted == {}


def test_a_lease_that_goes_by_its_timer_is_noticed():
    assert stalled_leader(planted("stale lease read after a pause"))[1].granted == {1: 1}, "without what is new"


def test_whoever_has_promised_a_lease_votes_for_nobody_else_meanwhile():
    story = cluster(options=LEASE)
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    votes = story.tap(Vote)
    request = RequestVote(term=9, last_index=9, last_term=9)
    story[2].step(Received(3, request))
    story.settle()
    assert votes == []
    assert term(story[2]) == 1, "it does not even enter the term"
    story[2].clock += 0.31
    story[2].step(Received(3, request))
    story.settle()
    assert [(sender, to) for sender, to, _ in votes] == [(2, 3)]


def test_a_replica_that_restarts_has_forgotten_what_it_promised_and_keeps_quiet_for_a_lease():
    story = cluster(options=LEASE)
    story.elect(1)
    story.wait(0.1)
    story.isolate(1)
    story[2].crash()
    story[2].start()
    votes = story.tap(Vote)
    story[2].step(Received(3, RequestVote(term=9, last_index=9, last_term=9)))
    story.settle()
    assert votes == []


def test_a_leader_that_hands_over_frees_those_who_promised_it_a_lease():
    story = cluster(options=LEASE)
    story.elect(1)
    story.wait(0.1)
    story[1].yields(3)
    story.settle()
    assert story[3].leads(), "at once"
    by_lease(story, 1, 1)
    assert story[1].granted == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lease_s": 0.05}, "lease_s"),
        ({"lease_s": 0.5}, "lease_s"),
        ({"lease_s": 0.3, "lease_drift": 1.0}, "lease_drift"),
        ({"heartbeat_s": 0.0}, "heartbeat_s"),
        ({"election_timeout_max_s": 0.1}, "election_timeout_max_s"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(options, problem):
    with pytest.raises(ValueError, match=rf"protocol\.options\.{problem}"):
        cluster(options=options)


# ------------------------------------------------------------------------------------------------------------- the seal


def test_a_seal_ends_the_epoch_behind_everything_that_was_taken_on():
    story = cluster()
    story.elect(1)
    following = successor_of(story.configuration, 1, 2, 3)
    story[1].propose(b"before")
    story[1].reconfigure(9, following)
    story[1].propose(b"after")
    assert (story[1].rejections[0].reason, story[1].rejections[0].definite) == (Reason.SEALED, True)
    story.settle()
    story.wait(0.1)
    for replica in (1, 2, 3):
        assert story[replica].log == [b"before"]
        sealed = story[replica].core.sealed
        assert sealed is not None
        assert (sealed.frontier, sealed.configuration) == (3, following)


def test_the_next_epoch_begins_in_term_0_behind_the_seal():
    story = cluster()
    story.elect(1)
    story[1].propose(b"before")
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.settle()
    story.wait(0.1)
    for replica in (1, 2, 3):
        story[replica].next_epoch()
    story.elect(2)
    story[2].propose(b"after")
    story.settle()
    story.wait(0.1)
    assert story[1].log == story[3].log == [b"before", b"after"]
    assert story[2].core.status().ballot == "2.1"
    assert story[1].applied == 5
    story[3].crash(state_survives=False)
    story[3].start()
    assert story[3].log == [b"before", b"after", b"after"], "replayed from the base of its epoch"


def test_a_restart_before_the_switch_reaches_the_seal_again():
    story = cluster()
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


def test_a_new_leader_that_inherits_a_seal_takes_nothing_on_and_commits_it():
    story = cluster()
    story.elect(1)
    story.isolate(3)
    story.lose = lambda sender, to, message: isinstance(message, Appended)
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.settle()
    story[1].crash()
    story.heal()
    story.elect(2, accepting=False)
    story[2].propose(b"behind")
    story.settle()
    assert [(r.reason, r.definite) for r in story[2].rejections] == [(Reason.SEALED, True)]
    assert not story[2].core.status().accepting
    story.lose = lambda sender, to, message: False
    story.wait(0.5)
    for replica in (2, 3):
        sealed = story[replica].core.sealed
        assert sealed is not None
        assert sealed.frontier == 2, "the opening of the second term stands behind it and is never delivered"


def test_a_seal_that_another_leader_replaced_never_was():
    story = cluster()
    story.elect(1)
    story.isolate(1)
    story[1].reconfigure(9, successor_of(story.configuration, 1, 2, 3))
    story.elect(2)
    story.heal()
    story.wait(0.5)
    assert [(r.token, r.reason, r.definite) for r in story[1].refused_reads] == [(9, Reason.LOST, False)]
    story[2].propose(b"a")
    story.settle()
    story.wait(0.1)
    assert story[1].log == [b"a"]
    assert story[1].core.sealed is None


def test_only_a_leader_seals_once_and_only_into_the_next_epoch():
    story = cluster()
    story.elect(1)
    following = successor_of(story.configuration, 1, 2, 3)
    story[2].reconfigure(1, following)
    story[1].reconfigure(2, replace(following, epoch=5))
    story.isolate(1)
    story[1].reconfigure(3, following)
    story[1].reconfigure(4, following)
    assert [(r.token, r.reason) for r in story[2].refused_reads] == [(1, Reason.NOT_LEADER)]
    assert [(r.token, r.reason) for r in story[1].refused_reads] == [(2, Reason.UNSUPPORTED), (4, Reason.SEALED)]


def test_a_replica_that_is_sealed_takes_nothing_more():
    story = cluster(1)
    following = successor_of(story.configuration, 1)
    story[1].reconfigure(9, following)
    effects = story[1].inner.step(1.0, [Proposed((Command(b"late"),)), ReadRequested(1), Reconfigure(2, following)])
    assert [(r.reason, r.definite) for r in effects.rejections] == [(Reason.SEALED, True)]
    assert [(r.token, r.reason) for r in effects.refused_reads] == [(1, Reason.SEALED), (2, Reason.SEALED)]


def test_an_unknown_bug_cannot_be_planted():
    with pytest.raises(ValueError, match="no bug of the name"):
        planted("no such bug")
    assert all(BUGS.values())
