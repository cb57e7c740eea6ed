"""The traps that implementations of MultiPaxos have fallen into, each as a story.

A story marked `trap` is told twice: the protocol must come out of it, and the protocol with that very bug planted must
not, or the story proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replica.consensus.interface import ProtocolSpec
from replica.consensus.multipaxos import PROTOCOL
from replica.consensus.multipaxos.messages import Accept, Accepted, Commit, Decided, Heartbeat, Prepare, Promised
from replica.consensus.multipaxos.planted import BUGS, planted
from replica.consensus.registry import available, find_protocol

from .story import Story

Tale = Callable[[ProtocolSpec], None]

told: set[str] = set()


def trap(bug: str) -> Callable[[Tale], Callable[[bool], None]]:
    """The story holds, and does not hold once ``bug`` is planted."""

    def decorate(tale: Tale) -> Callable[[bool], None]:
        told.add(bug)

        def test(planted_bug: bool) -> None:
            if not planted_bug:
                tale(PROTOCOL)
                return
            with pytest.raises(AssertionError):
                tale(planted(bug))

        test.__name__ = tale.__name__
        test.__doc__ = tale.__doc__
        parametrized: Callable[[bool], None] = pytest.mark.parametrize(
            "planted_bug", [False, True], ids=["sound", "planted"]
        )(test)
        return parametrized

    return decorate


@trap("phase 1b omits decided slots")
def test_a_leader_that_missed_a_commit_never_reuses_the_slot(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"first")
    story.settle()
    story.wait(0.05)
    assert story[2].log == [b"first"]

    story[1].crash()
    story.heal()
    story.elect(3)
    story[3].propose(b"second")
    story.settle()
    story.wait(0.2)
    assert story[3].log == story[2].log == [b"first", b"second"]


@trap("gaps never filled")
def test_a_new_leader_fills_gaps_with_no_ops(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and message.first == 1
    story[1].propose(b"lost")
    story.lose = lambda sender, to, message: (isinstance(message, Accept) and message.first == 1) or to == 1
    story[1].propose(b"kept")
    story.settle()
    story[1].crash()

    story.lose = lambda sender, to, message: False
    story.elect(2)
    story[2].propose(b"new")
    story.settle()
    assert story[2].state.get(1) == ()
    assert story[2].log == [b"kept", b"new"]


@trap("commit applied to an entry of an older ballot")
def test_a_commit_says_nothing_of_a_vote_at_an_older_ballot(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story[1].syncs = False
    story.lose = lambda sender, to, message: to in {1, 2}
    story[1].propose(b"old")  # reaches 3 alone, which votes for it
    story.settle()
    story[1].crash()

    story.lose = lambda sender, to, message: False
    story[1].syncs = True
    story[1].start()
    story.isolate(3)
    story.elect(2)
    story[2].propose(b"new")
    story.settle()
    assert story[2].log == [b"new"]

    story.heal()
    story.wait(0.3)
    assert story[3].log == [b"new"]


@trap("promise lost on restart")
def test_a_promise_survives_a_restart(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story.isolate(1)
    story.elect(3)  # with the promise of 2
    story[2].crash()
    story[2].start()

    story.heal()
    story.isolate(3)
    story[1].propose(b"old")  # by a leader that was deposed and does not know
    story.settle()
    story.heal()
    story.isolate(1)
    story[3].propose(b"new")
    story.settle()
    assert story[3].log == [b"new"]
    assert story[1].log == []


@trap("vote counted before its sync")
def test_a_vote_counts_once_it_is_durable(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story.isolate(3)
    story[2].syncs = False
    story[1].propose(b"first")
    story.settle()
    story[2].crash()
    story[1].crash()

    story.heal()
    story[2].syncs = True
    story[2].start()
    story.elect(2)
    story[2].propose(b"second")
    story.settle()
    assert story[2].log == [b"second"]
    assert story[1].log == [], "it was never decided"


@trap("duplicate acknowledgements counted twice")
def test_an_acknowledgement_that_arrives_twice_is_one(spec):
    story = Story(5, spec=spec)
    story.elect(1)
    story.lose = lambda sender, to, message: to in {3, 4, 5}
    story[1].propose(b"first")
    duplicated = list[tuple[int, int, int, bytes]]()
    while story.wires:
        wire = story.wires[0]
        if wire[1] == 1 and isinstance(story.codec.decode_message(wire[3]), Accepted):
            duplicated.append(wire)
        story.carry(0)
    story.wires.extend(duplicated)
    story.settle()
    story[1].crash()
    story[2].crash()

    story.lose = lambda sender, to, message: False
    story.elect(3)
    story[3].propose(b"second")
    story.settle()
    assert story[3].log == [b"second"]


@trap("log completion matched by slot only")
def test_the_completion_of_an_overtaken_write_acknowledges_nothing(spec):
    """The ABA race: two writes to one slot, of which the first is durable and the second still under way."""
    story = Story(3, spec=spec)
    story.elect(1)
    story[1].syncs = False
    story.lose = lambda sender, to, message: to in {1, 3}
    story[1].propose(b"old")  # 2 votes, and its disk has that
    story.settle()
    story[1].crash()

    story.lose = lambda sender, to, message: False
    story[1].syncs = True
    story[1].start()
    story.isolate(2)
    story.elect(3)  # with the promise of 1, which lost its own vote
    story.heal()
    story.isolate(1)
    story[2].syncs = False
    story[3].propose(b"new")  # 2 votes again at the same slot, and its disk does not have that
    story.settle()
    story[2].crash()
    story[3].crash()

    story.heal()
    story[2].syncs = True
    story[2].start()
    story.elect(2)
    story[2].propose(b"last")
    story.settle()
    assert story[2].log == [b"old", b"last"]
    assert story[3].log == [], "its value was never decided"


@trap("quorums that do not intersect")
def test_nobody_takes_over_without_hearing_from_somebody_who_may_know(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story[1].propose(b"first")
    story.settle()
    story.isolate(3)
    for _ in range(40):
        story.wait(0.05)
        assert not story[3].leads()


@trap("any vote adopted")
def test_the_highest_ballot_is_adopted_when_acceptors_report_different_values(spec):
    story = Story(5, spec=spec)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to != 2
    story[1].propose(b"of the first")
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: (isinstance(message, Accept) and to != 3) or 2 in {sender, to}
    story.elect(4)
    story[4].propose(b"of the fourth")
    story.settle()
    story[4].crash()

    story.lose = lambda sender, to, message: False
    story.elect(5)  # 2 reports the first, 3 the fourth
    story[5].propose(b"new")
    story.settle()
    assert story[5].log == [b"of the fourth", b"new"]


@trap("phase 1b counted before it is whole")
def test_a_promise_in_parts_counts_only_when_complete(spec):
    story = Story(3, options={"chunk_bytes_max": 64, "batch_max": 1}, spec=spec)
    story.elect(1)
    story.lose = lambda sender, to, message: to in {1, 3}
    big = [bytes([65 + index]) * 50 for index in range(4)]
    for payload in big:
        story[1].propose(payload)
    story.settle()
    story[1].crash()

    dropped: list[Promised] = []

    def lose_the_second_part(sender, to, message):
        if isinstance(message, Promised) and message.first == 2 and len(dropped) < 2:
            dropped.append(message)
            return True
        return False

    story.lose = lose_the_second_part
    for other in (2, 3):
        story[other].clock += 0.41
    while not dropped:
        story[3].clock += 0.05
        story[3].step()
        story.settle()
    assert not story[3].leads(), "it has parts 1, 3 and 4, and may not propose over part 2"
    story.wait(0.3, only=[3])  # it asks again, and the part is lost again
    assert not story[3].leads()
    story.wait(0.3, only=[3])
    assert story[3].leads()
    story[3].propose(b"new")
    story.settle()
    assert story[3].log == [*big, b"new"]


@trap("ballot used before it is durable")
def test_a_ballot_is_used_once_across_restarts(spec):
    story = Story(3, spec=spec)
    story[1].syncs = False
    asked = story.tap(Prepare)
    for _ in range(2):
        for replica in (1, 2, 3):
            story[replica].clock += 0.41
        story[1].clock += 1
        story[1].step()
        story.settle()
        story[1].crash()
        story[1].start()
    assert 1 not in {sender for sender, _, _ in asked}, "no candidate asks for promises that it has not given itself"


@trap("read granted without a round")
def test_a_deposed_leader_that_does_not_know_it_grants_no_read(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story.isolate(1)
    story.elect(2)
    story[2].propose(b"new")
    story.settle()
    story[1].read(1)
    story.heal()
    story.settle()
    assert story[1].granted == {}
    assert [refused.token for refused in story[1].refused_reads] == [1]


@trap("read granted before recovery")
def test_a_read_waits_until_everything_recovered_is_decided(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    story[1].propose(b"a")
    story.settle()
    assert story[1].log == [b"a"]
    assert story[2].log == []
    story[1].crash()
    story.lose = lambda sender, to, message: isinstance(message, Accept)
    story.elect(2)
    story[2].read(1)
    story.settle()
    story.wait(0.1)
    assert story[2].granted == {}, "the recovered slot may have been acknowledged, and is not decided here yet"
    story.lose = lambda sender, to, message: False
    story.wait(0.4)
    assert story[2].granted == {1: 1}


@trap("snapshot erases votes above it")
def test_a_vote_above_an_installed_snapshot_still_counts(spec):
    story = Story(3, options={"tail_slots": 0}, spec=spec)
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"1")
    story.settle()
    story[1].take_snapshot()
    story.heal()
    story.isolate(2)
    story[1].propose(b"2")
    while any(isinstance(story.codec.decode_message(data), Accept) for _, _, _, data in story.wires):
        story.carry(0)
    assert story[3].install_from(story[1]), "its vote for the second slot is on the way"
    story.settle()
    assert story[1].log == [b"1", b"2"]
    story[1].crash()

    story.heal()
    story.elect(3)
    story[3].propose(b"3")
    story.settle()
    assert story[3].log == [b"2", b"3"]


@trap("no poll before a campaign")
def test_a_replica_that_was_cut_off_does_not_depose_the_leader_when_it_returns(spec):
    story = Story(3, spec=spec)
    story.elect(1)
    ballot = story[1].core.status().ballot
    story.isolate(3)
    story.wait(4)
    story.heal()
    story.wait(2)
    assert story[1].leads()
    assert story[1].core.status().ballot == ballot
    assert story[3].core.status().leader == 1


def test_every_bug_that_can_be_planted_has_its_story():
    assert told == set(BUGS)


def test_planted_bugs_are_out_of_reach_of_configurations():
    assert all("planted" not in name for name in available())
    for name in available():
        assert "bugs" not in find_protocol(name).options.__struct_fields__
    with pytest.raises(ValueError, match="no bug of the name 'imaginary'"):
        planted("imaginary")


# --------------------------------------------------------------------------------------------------- more of phase 1


def test_a_candidate_prefers_the_vote_of_a_higher_ballot_to_its_own():
    story = Story(5)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to != 5
    story[1].propose(b"of the first")
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: (isinstance(message, Accept) and to != 3) or 5 in {sender, to}
    story.elect(4)
    story[4].propose(b"of the fourth")
    story.settle()
    story[4].crash()

    story.lose = lambda sender, to, message: False
    story.elect(5)  # it holds the first itself, 3 reports the fourth
    story[5].propose(b"new")
    story.settle()
    assert story[5].log == [b"of the fourth", b"new"]


def test_a_candidate_that_fetches_slowly_is_not_stuck():
    story = Story(3, options={"chunk_bytes_max": 1, "batch_max": 1})
    story.elect(1)
    story.isolate(3)
    slots = [b"%d" % slot for slot in range(6)]
    for payload in slots:
        story[1].propose(payload)
        story.settle()
    story.wait(0.1)
    story[1].crash()
    story.heal()
    allowed = 0

    def lose_what_is_not_allowed(sender, to, message):
        nonlocal allowed
        if not isinstance(message, Decided):
            return False
        allowed -= 1
        return allowed < 0

    story.lose = lose_what_is_not_allowed
    story.elect(3, accepting=False)
    ballot = story[3].core.status().ballot
    for _ in slots:
        story.wait(0.9)
        allowed = 1  # a chunk holds one value
        story.wait(0.4)
    assert story[3].log == slots
    assert story[3].core.status().ballot == ballot


def test_a_candidate_that_can_fetch_nothing_leaves_the_field():
    story = Story(3)
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"a")
    story.settle()
    story.wait(0.1)
    story[1].crash()
    story.heal()
    story.lose = lambda sender, to, message: isinstance(message, Decided)
    story.elect(3, accepting=False)
    ballot = story[3].core.status().ballot
    story.wait(1.5)
    assert story[3].core.status().ballot == ballot, "two election timeouts are its patience"
    story.wait(1.0)
    assert story[3].core.status().ballot != ballot
    story.lose = lambda sender, to, message: False
    story.wait(3.0)
    assert story[2].log == story[3].log == [b"a"]


def test_a_member_that_truncated_its_log_provides_a_snapshot_before_anything_is_proposed_there():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    for payload in (b"1", b"2", b"3"):
        story[1].propose(payload)
        story.settle()
    story.wait(0.1)
    story[1].take_snapshot()
    story[2].take_snapshot()
    story.heal()
    story[1].yields(3)  # told to take over, 3 campaigns without a poll
    story.settle()
    assert story[3].leads(), "phase 1 is complete"
    story[3].propose(b"4")
    story.settle()
    assert story[3].log == []
    assert story[3].wishes[-1].frontier == 3

    story[3].install_from(story[story[3].wishes[-1].peer])
    story.settle()
    story.wait(0.1)
    assert story[1].log == story[2].log == [b"1", b"2", b"3", b"4"]
    assert story[3].log == [b"4"]


def test_a_voter_refuses_the_poll_of_a_candidate_that_would_need_a_snapshot():
    story = Story(3, options={"tail_slots": 0})
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"1")
    story.settle()
    story.wait(0.1)
    story[2].take_snapshot()
    story[1].crash()
    story.heal()
    story[2].clock += 0.41
    story.wait(3, only=[3])
    assert not story[3].leads()
    story.wait(2)
    assert story[2].leads(), "the voter that refused can lead at once"


def test_a_decided_value_beats_any_ballot():
    story = Story(3)
    story.elect(1)
    story.lose = lambda sender, to, message: isinstance(message, Commit | Heartbeat)
    story[1].propose(b"one")
    story[1].propose(b"two")
    story.settle()
    assert story[1].log == [b"one", b"two"]
    assert story[2].log == []
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story.elect(2)
    assert story[2].log == [b"one", b"two"]


def test_a_candidate_does_not_lead_before_it_knows_what_its_quorum_knows():
    story = Story(3)
    story.elect(1)
    story.isolate(3)
    story[1].propose(b"first")
    story.settle()
    story.wait(0.05)
    story[1].crash()
    story.heal()
    story.lose = lambda sender, to, message: isinstance(message, Decided)
    for other in (2, 3):
        story[other].clock += 0.41
    story.wait(0.5, only=[3])
    assert story[3].leads(), "phase 1 is complete"
    story[3].propose(b"second")
    story.settle()
    assert not story.decided.get(2), "but it proposes nothing yet"
    story.lose = lambda sender, to, message: False
    story.wait(0.5)
    assert story[3].log == [b"first", b"second"]
