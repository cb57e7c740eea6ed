"""What protocols with a leader and a log share, by itself: turns, the queue, contacts, rounds, wishes, the tail."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from replica.consensus.contacts import Contacts
from replica.consensus.intake import Intake
from replica.consensus.interface import (
    Command,
    Configuration,
    Context,
    Discard,
    Member,
    Put,
    Reason,
    Record,
    Write,
)
from replica.consensus.multipaxos.messages import DecidedRecord
from replica.consensus.options import COMMAND_BYTES_MAX, LogOptions
from replica.consensus.raft.terms import Terms
from replica.consensus.rounds import ReadRounds
from replica.consensus.tail import Tail
from replica.consensus.turn import TurnState
from replica.consensus.wishes import SNAPSHOT_PATIENCE_S, SnapshotWishes


class Shelf:
    """What is on a disk."""

    def __init__(self, **values: str) -> None:
        self.rows: dict[bytes, Record] = {key.encode(): record(value) for key, value in values.items()}

    def get(self, table: str, key: bytes) -> Record | None:
        return self.rows.get(key)

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        yield from sorted((key, value) for key, value in self.rows.items() if first <= key < last)


def record(text: str) -> DecidedRecord:
    return DecidedRecord(text.encode())


def state(stable: Shelf | None = None, replica: int = 1, n: int = 3) -> TurnState:
    members = tuple(Member(number) for number in range(1, n + 1))
    return TurnState(
        Context(
            replica=replica,
            configuration=Configuration(1, members, "shared"),
            stable=stable or Shelf(),
            randomness=random.Random(1),
            incarnation=1,
            applied=0,
        )
    )


def two_of(replicas: object) -> bool:
    assert isinstance(replicas, set)
    return len(replicas) >= 2


# ------------------------------------------------------------------------------------------------------------ the turn


def test_everything_that_a_turn_writes_goes_under_one_ticket():
    turn = state()
    turn.begin(1.0)
    assert turn.written == 0
    turn.writes.append(Put("t", b"a", record("1")))
    assert turn.written == 1
    turn.writes.append(Put("t", b"b", record("2")))
    (persist,) = turn.finish().persists
    assert (persist.ticket, len(persist.writes)) == (1, 2)
    turn.begin(2.0)
    assert turn.written == 1
    assert turn.finish().persists == []


@pytest.mark.parametrize(
    ("writes", "seen"),
    [
        ([], "a1 c3"),
        ([Put("t", b"b", record("2"))], "a1 b2 c3"),
        ([Put("t", b"c", record("new")), Put("t", b"d", record("4"))], "a1 cnew d4"),
        ([Put("other", b"b", record("2"))], "a1 c3"),
        ([Discard("t", b"a", b"b")], "c3"),
        ([Discard("t", b"a", b"z"), Put("t", b"b", record("2"))], "b2"),
        ([Put("t", b"b", record("2")), Discard("t", b"a", b"c")], "c3"),
        ([Discard("t", b"c", b"d"), Put("t", b"c", record("new"))], "a1 cnew"),
    ],
)
def test_a_scan_sees_what_the_turn_has_written_and_discarded(writes: list[Write], seen: str):
    turn = state(Shelf(a="1", c="3"))
    turn.begin(0.0)
    turn.writes.extend(writes)
    found = [f"{key.decode()}{value.value.decode()}" for key, value in turn.scan("t", b"a", b"z")]  # type: ignore[attr-defined]
    assert " ".join(found) == seen


# ----------------------------------------------------------------------------------------------------------- the queue


def test_a_batch_takes_one_command_and_then_as_many_as_its_bounds_allow():
    intake = Intake(state(), LogOptions(batch_max=10, batch_bytes_max=200))
    intake.offer([Command(b"x", count=6), Command(b"y", count=6), Command(b"z" * 150), Command(b"w" * 90)])
    assert [[command.payload[:1] for command in intake.take()] for _ in range(4)] == [[b"x"], [b"y"], [b"z"], [b"w"]]
    assert not intake
    intake.check()


def test_what_there_is_no_room_for_is_refused_definitely():
    turn = state()
    intake = Intake(turn, LogOptions(queue_max=2))
    intake.offer([Command(b"a"), Command(b"b"), Command(b"c"), Command(bytes(COMMAND_BYTES_MAX))])
    assert [(reject.reason, reject.definite) for reject in turn.effects.rejections] == [
        (Reason.OVERLOADED, True),
        (Reason.UNSUPPORTED, True),
    ]
    assert intake.full
    intake.refuse(Reason.NOT_LEADER, 2)
    assert [reject.hint for reject in turn.effects.rejections[2:]] == [2, 2]
    assert intake.operations == 0


def test_a_queue_is_full_from_its_bound_on_also_where_a_command_went_beyond():
    intake = Intake(state(), LogOptions(queue_max=4))
    full = []
    for command in (Command(b"a", count=3), Command(b"b", count=1)):
        intake.offer([command])
        full.append(intake.full)
    assert full == [False, True]
    assert intake.take() == (Command(b"a", count=3), Command(b"b", count=1))
    core = state()
    intake = Intake(core, LogOptions(queue_max=4))
    intake.offer([Command(payload, count=3) for payload in (b"a", b"b", b"c")])
    assert [reject.command.payload for reject in core.effects.rejections] == [b"c"], "there were six already"
    assert intake.full


# ------------------------------------------------------------------------------------------------------------ contacts


def test_a_quorum_is_lost_after_silence_and_as_many_heartbeats_as_fill_the_timeout():
    turn = state()
    contacts = Contacts(turn, LogOptions(heartbeat_s=0.1, election_timeout_min_s=0.4, election_timeout_max_s=0.8))
    contacts.begin()
    turn.now = 0.5
    assert [contacts.quorum_lost(two_of) for _ in range(5)] == [False, False, False, False, True]
    contacts.heard(2)
    assert not contacts.quorum_lost(two_of)
    turn.now = 60.0  # the process stalled: nobody had anything to answer
    assert not contacts.quorum_lost(two_of)


def test_the_furthest_is_chosen_among_those_in_contact():
    turn = state()
    contacts = Contacts(turn, LogOptions())
    contacts.begin()
    contacts.heard(2, 9)
    turn.now = 5.0
    contacts.heard(3, 4)
    assert contacts.furthest() == 3
    contacts.heard(2)
    assert contacts.furthest() == 2
    turn.now = 10.0
    assert contacts.furthest() is None


def test_a_leader_that_heard_of_a_quorum_just_in_time_has_not_lost_it():
    core, options = state(), LogOptions(election_timeout_min_s=0.5, election_timeout_max_s=1.0)
    contacts = Contacts(core, options)
    assert contacts.furthest() is None, "nobody was asked yet"
    contacts.begin()

    def lost() -> bool:
        return contacts.quorum_lost(lambda present: len(present) >= 2)

    core.now = 0.5
    assert not any(lost() for _ in range(100)), "an election timeout ago is still in time"
    core.now = 0.625
    heartbeats = 1
    while not lost():
        heartbeats += 1
    assert heartbeats * options.heartbeat_s > 0.5 >= (heartbeats - 1) * options.heartbeat_s
    contacts.heard(3, 8)
    contacts.heard(2, 7)
    assert contacts.furthest() == 3
    core.now = 1.0
    contacts.heard(2, 7)
    core.now = 1.75
    assert contacts.furthest() == 2, "the other was not heard of for the longer election timeout"


# -------------------------------------------------------------------------------------------------------------- rounds


def test_an_acknowledgement_counts_for_its_round_and_those_before_it_and_for_none_that_was_not_begun():
    turn = state(n=5)
    rounds = ReadRounds(turn, LogOptions())
    rounds.begin()
    assert not rounds.begin_round(1), "nothing waits"
    for token, index in ((1, 10), (2, 20)):
        rounds.on_read(token)
        assert rounds.begin_round(index)
    rounds.on_acknowledged(2, 1)
    assert rounds.confirmed(two_of) == 1
    rounds.grant(two_of)
    assert [(grant.token, grant.frontier) for grant in turn.effects.reads] == [(1, 10)]
    rounds.on_acknowledged(3, 99)
    assert rounds.confirmed(two_of) == 2
    rounds.on_read(3)
    rounds.begin_round(30)
    rounds.grant(two_of)
    assert [grant.token for grant in turn.effects.reads] == [1, 2], "99 was not an answer to a round to come"
    rounds.check()


# -------------------------------------------------------------------------------------------------------------- wishes


def test_a_wish_is_open_until_it_is_of_no_use_or_patience_ends():
    turn = state()
    wishes = SnapshotWishes(turn)
    assert not wishes.open_for(0)
    wishes.utter(2, 10)
    assert wishes.open_for(9)
    assert not wishes.open_for(10)
    turn.now = SNAPSHOT_PATIENCE_S - 0.5
    assert wishes.open_for(9)
    turn.now = SNAPSHOT_PATIENCE_S
    assert not wishes.open_for(9)
    wishes.utter(2, 10)
    wishes.forget()
    assert not wishes.open_for(9)


# ------------------------------------------------------------------------------------------------------------ the tail


def test_a_tail_is_bounded_by_slots_and_by_bytes_as_far_as_they_are_known():
    tail = Tail(LogOptions(tail_slots=4, tail_bytes_max=100))
    for slot in range(1, 11):
        tail.delivered(slot, 10)
    assert tail.floor(10) == 6
    tail.delivered(11, 85)
    assert tail.floor(11) == 9
    assert tail.floor(9) == 9, "never beyond the snapshot"
    tail.clear()
    assert tail.floor(9) == 5


# ------------------------------------------------------------------------------------------------------------ the terms


def test_terms_are_kept_as_runs():
    terms = Terms(3, 1)
    for index, term in ((5, 2), (9, 4)):
        terms.begin(index, term)
    assert [terms.at(index) for index in range(3, 11)] == [1, 1, 2, 2, 2, 2, 4, 4]
    assert [terms.first_of(index) for index in (4, 8, 9)] == [3, 5, 9]
    assert [terms.last_at_most(term, 10) for term in (0, 1, 2, 3, 4, 9)] == [3, 4, 8, 8, 10, 10]
    assert terms.last_at_most(2, 6) == 6
    terms.raise_floor(6)
    assert (terms.floor, terms.floor_term, terms.last_term) == (6, 2, 4)
    terms.cut(9)
    assert terms.last_term == 2
    terms.raise_floor(20)
    assert (terms.floor, terms.floor_term) == (20, 2)


def test_terms_never_decrease_and_the_floor_stays():
    terms = Terms(3, 2)
    with pytest.raises(AssertionError):
        terms.begin(4, 1)
    with pytest.raises(AssertionError):
        terms.at(2)
    with pytest.raises(AssertionError):
        terms.cut(3)
