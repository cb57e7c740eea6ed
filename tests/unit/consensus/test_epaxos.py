"""EPaxos as stories: both paths, what interferes, execution, recovery by every rule, restarts, catch-up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replica.consensus.epaxos import PROTOCOL, catchup, history, interference, rounds
from replica.consensus.epaxos.messages import (
    VALUES_TABLE,
    VOTES_TABLE,
    Accept,
    Accepted,
    Commit,
    Fetch,
    Fetched,
    PartlyValidated,
    PreAccept,
    PreAccepted,
    Progress,
    Recover,
    Validate,
    Validated,
    Waiting,
    instance_key,
)
from replica.consensus.epaxos.planted import BUGS, planted
from replica.consensus.interface import (
    Command,
    Configuration,
    ConfigurationError,
    Footprint,
    Member,
    Message,
    PeerReset,
    ProtocolSpec,
    ReadRequested,
    Received,
    Reconfigure,
    Yield,
    validate_configuration,
)

from .egalitarian import Gathering, Peer, read, write

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


def only(*kinds: type[Message], links: set[tuple[int, int]]) -> Callable[[int, int, Message], bool]:
    """Lose messages of these kinds on all links but these, and everything else not at all."""
    return lambda sender, to, message: isinstance(message, kinds) and (sender, to) not in links


def recover(story: Gathering, peer: Peer, number: int = 1, space: int = 1) -> None:
    """Let time pass at one replica until it recovers that instance anew; what it sends waits on the wires."""
    peer.inner._recovery._meet((space, number))
    attempts = peer.inner._recovery.attempts
    before = attempts.get((space, number))
    for member in story.replicas:
        peer.inner._recovery.heard_from(member)  # at another time, it may be
    for _ in range(400):
        peer.clock += 0.05
        peer.step()
        if attempts.get((space, number)) not in {None, before}:
            return
    raise AssertionError(f"replica {peer.id} does not recover {space}.{number}")


def between(*members: int) -> Callable[[int, int, Message], bool]:
    """Only these hear each other."""
    return lambda sender, to, message: sender not in members or to not in members


# ------------------------------------------------------------------------------------------------------- the two paths


def test_a_command_without_company_is_decided_in_one_round_trip():
    story = Gathering(3)
    heard = story.tap(Accept)
    story[2].propose_commands(write(b"a", b"x"))
    story.settle()
    assert not heard
    assert [peer.image.log for peer in story.peers] == [[b"a"]] * 3
    assert story.counters("fast") == 1
    assert story.counters("slow") == 0


def test_commands_that_do_not_interfere_stay_on_the_fast_path():
    story = Gathering(5)
    for peer, key in zip(story.peers, (b"a", b"b", b"c", b"d", b"e"), strict=True):
        peer.propose_commands(write(key, key))
    story.settle()
    assert story.counters("fast") == 5
    assert all(len(peer.image.log) == 5 for peer in story.peers)


def test_reads_of_one_key_do_not_interfere():
    story = Gathering(3)
    for peer in story.peers:
        peer.propose_commands(read(b"%d" % peer.id, b"x"))
    story.settle()
    assert story.counters("fast") == 3


def test_commands_that_meet_take_the_slow_path_and_get_one_order():
    story = Gathering(3)
    for peer in story.peers:
        peer.propose_commands(write(b"%d" % peer.id, b"x"))
    story.settle()
    assert story.counters("slow") >= 1
    assert len({tuple(peer.image.writes[b"x"]) for peer in story.peers}) == 1


def test_many_writers_of_one_key_on_all_replicas_get_one_order():
    story = Gathering(5, options={"batch_max": 1})
    for number in range(20):
        for peer in story.peers:
            peer.propose_commands(write(b"%d-%d" % (peer.id, number), b"x"))
    story.settle()
    assert {len(peer.image.log) for peer in story.peers} == {100}
    assert len({tuple(peer.image.writes[b"x"]) for peer in story.peers}) == 1


def test_a_transaction_comes_after_what_it_met_on_each_of_its_keys():
    story = Gathering(3)
    story[1].propose_commands(write(b"a", b"x"))
    story[2].propose_commands(write(b"b", b"y"))
    story.settle()
    story[3].propose_commands(Command(b"t", footprint=Footprint(reads=(b"x",), writes=(b"y", b"z"))))
    story.settle()
    for peer in story.peers:
        assert peer.image.log[-1] == b"t"


def test_a_batch_interferes_as_the_union_of_its_commands():
    story = Gathering(3)
    story[1].propose_commands(write(b"a", b"x"), write(b"b", b"y"))
    story[2].propose_commands(write(b"c", b"y"))
    story.settle()
    assert story.counters("led") == 2
    assert story.counters("slow") >= 1


def test_an_interval_interferes_with_the_keys_in_it_and_a_command_without_footprint_with_all():
    story = Gathering(3)
    story[1].propose_commands(write(b"a", b"x"))
    story[2].propose_commands(Command(b"r", footprint=Footprint(ranges=((b"w", b"z"),), read_only=True)))
    story.settle()
    assert story.counters("slow") >= 1
    assert len({story.reads[b"x", b"r"]}) == 1


def test_a_command_that_is_executed_before_another_is_proposed_comes_first():
    story = Gathering(3)
    story[1].propose_commands(write(b"first", b"x"))
    story.settle()
    story[3].propose_commands(write(b"second", b"x"))
    story.settle()
    assert story[2].image.writes[b"x"] == [b"first", b"second"]


def test_with_a_larger_fast_quorum_a_replica_that_is_down_costs_a_round_trip_and_no_more():
    story = Gathering(5, options={"e": 0})
    story[5].crash()
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()
    assert story.counters("slow") == 0
    story.wait(0.4)
    assert story.counters("slow") == 1
    assert story[2].image.log == [b"a"]


def test_a_leader_does_not_wait_for_a_fast_quorum_of_those_who_are_gone():
    """Seven, three of them gone: four are enough to decide and not to decide fast, and recoveries would come first."""
    story = Gathering(7, options={"recovery_s": 0.1, "retransmit_s": 0.25})
    for member in (5, 6, 7):
        story[member].crash()
    story[1].propose_commands(write(b"a", b"x"))
    story.wait(20)
    assert story[1].image.log == [b"a"]
    story[1].propose_commands(write(b"b", b"x"))
    story.settle()
    assert story[1].image.log == [b"a", b"b"], "at once, no time has passed"


def test_lost_messages_are_repeated():
    story = Gathering(3)
    lost: set[type[Message]] = set()

    def once(sender: int, to: int, message: Message) -> bool:
        if type(message) in lost or isinstance(message, Progress):
            return False
        lost.add(type(message))
        return True

    story.lose = once
    story[1].propose_commands(write(b"a", b"x"))
    story[2].propose_commands(write(b"b", b"x"))
    story.wait(5)
    assert [sorted(peer.image.log) for peer in story.peers] == [[b"a", b"b"]] * 3


# --------------------------------------------------------------------------------------------------------- durability


def test_what_is_repeated_in_one_turn_is_bounded_and_all_has_its_time(monkeypatch):
    monkeypatch.setattr(rounds, "REPEATED_BYTES_MAX", 1000)
    story = Gathering(3, options={"batch_max": 1})
    story.lose = only(PreAccept, links=set())
    for number in range(20):
        story[1].propose_commands(write(b"%300d" % number, b"x"))
    story.settle()
    for events in ((PeerReset(2),), ()):  # the second time it is the clock that has them repeated
        story[1].clock += 0.3 if not events else 0.0
        story[1].step(*events)
        assert 1 <= sum(to == 2 for _, to, _, _ in story.wires) <= 5
        story.settle()
    heard = story.tap(PreAccept)
    story.wait(3)
    assert {message.number for _, _, message in heard} == set(range(1, 21))
    assert len(story[3].image.log) == 20


def test_nothing_leaves_a_replica_before_its_disk_has_it():
    story = Gathering(3)
    for peer in story.peers:
        peer.syncs = False
    story[1].propose_commands(write(b"a", b"x"))
    assert not story.wires
    story[1].sync()
    assert len(story.wires) == 2
    story.settle()
    assert not story.wires
    assert not story[1].image.log
    story[2].sync()
    story.settle()
    assert not story[1].image.log, "it is executed when the decision is durable"
    story[1].sync()
    assert story[1].image.log == [b"a"]


@trap("vote before its sync")
def test_a_vote_that_a_crash_takes_back_has_not_been_counted(spec):
    story = Gathering(3, spec=spec)
    story[2].syncs = False
    story.lose = only(PreAccept, links={(1, 2)})
    story[1].propose_commands(write(b"a", b"x"))
    story.lose = only(PreAccept, Commit, links={(1, 2)})
    story.settle()
    done = story[1].image.log == [b"a"]
    story[2].crash()
    story[1].crash()
    story[2].syncs = True
    story[2].start()
    story.lose = between(2, 3)
    story[2].propose_commands(write(b"b", b"x"))
    story[3].propose_commands(write(b"c", b"x"))
    story.wait(3)
    story.lose = lambda sender, to, message: False
    story[1].start()
    story.wait(10)
    assert not done, "what was acknowledged stood on one disk"


@trap("instance minted twice")
def test_a_number_is_never_used_twice(spec):
    story = Gathering(3, spec=spec)
    story[1].syncs = False
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()  # what leaves before it is durable arrives
    story[1].crash()
    story[1].syncs = True
    story[1].start()
    story[1].propose_commands(write(b"b", b"x"))
    story.wait(5)
    assert story[1].image.log == story[2].image.log == [b"b"]


def test_a_leader_that_restarts_goes_on_with_what_it_proposed():
    story = Gathering(3)
    story.lose = only(PreAccept, links=set())
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story[1].start()
    story.settle()
    assert story[3].image.log == [b"a"]
    assert story.counters("recoveries") == 0


def test_a_leader_that_restarts_goes_on_with_its_vote():
    story = Gathering(3)
    story.lose = only(Accept, links=set())
    story[1].propose_commands(write(b"a", b"x"))
    story[2].propose_commands(write(b"b", b"x"))
    story.settle()
    story[1].crash()
    story[2].crash()
    story.lose = lambda sender, to, message: False
    story[1].start()
    story[2].start()
    story.settle()
    assert len({tuple(peer.image.writes[b"x"]) for peer in story.peers}) == 1
    assert len(story[1].image.log) == 2


def test_a_machine_that_lost_its_state_executes_in_the_same_order_again():
    story = Gathering(3, options={"batch_max": 1})
    for number in range(10):
        for peer in story.peers:
            peer.propose_commands(write(b"%d-%d" % (peer.id, number), b"x"))
    story.settle()
    before = list(story[2].image.writes[b"x"])
    story[2].crash(state_survives=False)
    assert not story[2].image.log
    story[2].start()
    story.settle()
    assert story[2].image.writes[b"x"] == before


def test_what_all_have_executed_still_comes_before_a_proposal_that_was_made_without_knowing_it(monkeypatch):
    monkeypatch.setattr(interference, "YOUNG_MIN", 1)
    story = Gathering(3)
    story.lose = lambda sender, to, message: sender == 1 and isinstance(message, PreAccept | PreAccepted)
    story[1].propose_commands(write(b"proposed first", b"x"))
    story[2].propose_commands(write(b"decided first", b"x"))
    story.settle()
    assert [peer.image.log for peer in story.peers] == [[b"decided first"]] * 3
    story.wait(0.4)
    assert not [peer.id for peer in (story[2], story[3]) if len(peer.inner._instances.conflicts)]
    story.lose = lambda sender, to, message: False
    story.wait(1)
    assert [peer.image.log for peer in story.peers] == [[b"decided first", b"proposed first"]] * 3
    story.judge_visibility()
    story[1].crash(state_survives=False)
    story[1].start()
    assert story[1].image.log == [b"decided first", b"proposed first"]


def test_forgetting_takes_no_dependency_back(monkeypatch):
    monkeypatch.setattr(interference, "YOUNG_MIN", 3)
    monkeypatch.setattr(interference, "KEYS_MAX", 6)
    dice = random.Random(7)
    keys = [b"%d" % number for number in range(12)]
    for _ in range(40):
        conflicts, numbers, everywhere = interference.Conflicts(3), [0, 0, 0], [0, 0, 0]
        owed: dict[bytes, list[int]] = {key: [0, 0, 0] for key in keys}
        for _ in range(60):
            rank, key = dice.randrange(3), dice.choice(keys)
            numbers[rank] += 1
            conflicts.add(rank, numbers[rank], interference.Touch({key: None}, {}))
            owed[key][rank] = numbers[rank]
            if dice.random() < 0.3:
                everywhere = [
                    dice.randrange(done, number + 1) for done, number in zip(everywhere, numbers, strict=True)
                ]
                conflicts.forget(everywhere)
            found = [0, 0, 0]
            asked = dice.choice(keys)
            conflicts.collect(interference.Touch({}, {asked: None}), found)
            assert all(number >= least for number, least in zip(found, owed[asked], strict=True))


def test_the_keys_that_are_remembered_are_bounded_though_a_replica_was_never_heard_of(monkeypatch):
    monkeypatch.setattr(interference, "YOUNG_MIN", 1)
    monkeypatch.setattr(interference, "KEYS_MAX", 8)
    story = Gathering(3, options={"batch_max": 1})
    story.isolate(3)
    for number in range(30):
        story[1].propose_commands(write(b"%d" % number, b"key %d" % number))
        story.wait(0.1)
    assert all(len(peer.inner._instances.conflicts) <= 20 for peer in (story[1], story[2]))
    assert len(story[2].image.log) == 30
    assert story.counters("slow") == 0


def test_a_replica_that_has_not_been_admitted_learns_and_does_not_vote():
    story = Gathering(3, voting=False)
    story[1].propose_commands(write(b"a", b"x"))
    assert story[1].rejections[0].definite
    for peer in (story[1], story[2]):
        peer.carry_out(peer.core.admit(peer.clock))
    heard = story.tap(PreAccepted)
    story[1].propose_commands(write(b"b", b"x"))
    story.settle()
    assert {sender for sender, _, _ in heard} == {2}
    assert story[3].image.log == [b"b"]
    assert story[3].core.status().role == "learner"


# ----------------------------------------------------------------------------------------------------------- execution


@trap("executes ignoring dependencies")
def test_execution_follows_dependencies_and_not_the_order_of_news(spec):
    story = Gathering(3, spec=spec)
    held: list[tuple[int, int, int, bytes]] = []
    story[1].propose_commands(write(b"a", b"x"))
    story.lose = only(Commit, links={(1, 2)})
    story.settle()
    story.lose = lambda sender, to, message: False
    story[2].propose_commands(write(b"b", b"x"))
    story.settle()  # replica 3 has heard of the second decision alone
    assert not held
    assert story[3].image.log == []
    story.wait(3)
    assert story[3].image.log == [b"a", b"b"]


def test_an_instance_does_not_wait_for_what_it_does_not_interfere_with():
    story = Gathering(3)
    story.lose = only(Accept, PreAccepted, links=set())
    story[1].propose_commands(write(b"stuck", b"y"))
    story.settle()
    story.lose = only(Accept, links=set())
    story[1].propose_commands(write(b"free", b"x"))
    story.settle()
    assert story[1].image.log == [b"free"]
    assert story[1].image.executed == {("1", 2)}


def test_a_window_bounds_what_a_replica_leads_and_the_rest_waits():
    story = Gathering(3, options={"window_instances": 2, "batch_max": 1, "queue_max": 3})
    story.isolate(1)
    story[1].propose_commands(*(write(b"%d" % number, b"x") for number in range(4)))
    status = story[1].core.status()
    assert (status.in_flight, status.queued) == (2, 1)
    assert [rejection.definite for rejection in story[1].rejections] == [True]
    story.heal()
    story.wait(1)
    assert story[2].image.writes[b"x"] == [b"0", b"1", b"2"]


# ------------------------------------------------------------------------------------------------------------ recovery


def lone_proposal(story: Gathering, reached: set[int], payload: bytes = b"a", leader: int = 1) -> None:
    """A leader proposes; only these pre-accept, nobody answers it, and it dies."""
    story.lose = only(PreAccept, links={(leader, to) for to in reached})
    story[leader].propose_commands(write(payload, b"x"))
    story.lose = lambda sender, to, message: (
        to == leader or (isinstance(message, PreAccept) and sender == leader and to not in reached)
    )
    story.settle()
    story[leader].crash()
    story.lose = lambda sender, to, message: False


def test_what_may_have_been_decided_on_the_fast_path_is_kept():
    story = Gathering(3)
    lone_proposal(story, {2})
    heard = story.tap(Validate)
    story.wait(3)
    assert heard
    assert story[2].image.log == story[3].image.log == [b"a"]


def test_what_nobody_who_is_left_has_seen_becomes_nothing():
    story = Gathering(3)
    story.lose = only(PreAccept, links=set())
    story[1].propose_commands(write(b"a", b"x"), write(b"b", b"y"))
    story.settle()
    story.lose = lambda sender, to, message: False
    story[1].crash()
    story[2].propose_commands(write(b"c", b"x"))
    story.settle()
    story.wait(3)
    assert story[2].image.log == story[3].image.log == [b"c"]


def test_a_missing_number_that_others_cover_is_found_out():
    story = Gathering(3, options={"batch_max": 1})
    story.lose = lambda sender, to, message: isinstance(message, PreAccept) and message.number == 1
    story[1].propose_commands(write(b"lost", b"y"), write(b"kept", b"x"))
    story.settle()
    story[1].crash()
    story.wait(5)
    assert story[2].image.log == story[3].image.log == [b"kept"]
    assert story[2].image.frontier() == {"1": 2}


def test_a_leader_that_answers_a_recovery_has_not_decided_and_its_commands_are_proposed_anew():
    story = Gathering(3)
    story.lose = lambda sender, to, message: isinstance(message, PreAccepted) or (sender, to) == (1, 3)
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()
    story.lose = lambda sender, to, message: isinstance(message, PreAccepted | PreAccept)
    recover(story, story[2])
    story.settle()
    assert story.counters("noops") >= 1
    story.lose = lambda sender, to, message: False
    story.wait(3)
    assert [peer.image.log for peer in story.peers] == [[b"a"]] * 3
    assert story.places[b"a"][1] > 1


def test_a_decided_instance_that_does_not_know_it_speaks_against_a_fast_decision():
    story = Gathering(5)
    lone_proposal(story, {3})
    story.lose = lambda sender, to, message: 3 in {sender, to}
    story[2].propose_commands(write(b"b", b"x"))
    story.settle()
    assert story[2].image.log == [b"b"]
    heard = story.tap(Validated)
    recover(story, story[3])
    story.settle()
    story.wait(2)
    assert {message.against for _, _, message in heard if message.against} == {((2, 1, True),)}
    assert [peer.image.log for peer in story.peers if peer.up] == [[b"b"]] * 4


def discarding(story: Gathering, *members: int, key: bytes, restart: bool = False) -> None:
    """The first of these proposes, these execute that and discard it behind a snapshot; and perhaps start again."""
    for number in range(6):
        story[members[0]].propose_commands(write(b"%d" % number, key if number < 3 else b"z"))
    story.settle()
    for member in members:
        peer = story[member]
        peer.take_snapshot()
        assert peer.inner._instances.floor[members[0] - 1] > 0
        if restart:
            peer.crash()
            peer.start()
    story.settle()


@pytest.fixture
def reckless(monkeypatch):
    """What lies behind a snapshot is discarded whoever lacks it, as after a long silence."""
    monkeypatch.setattr(catchup, "SILENCE", 0)


@pytest.fixture
def forgetful(monkeypatch, reckless):
    """Next to nothing is remembered by key, as if many keys had been used while a replica was away."""
    monkeypatch.setattr(history, "KEYS_MAX", 1)
    monkeypatch.setattr(history, "RECENT_MAX", 0)


@pytest.mark.usefixtures("forgetful")
def test_what_was_forgotten_is_nothing_against_a_value_that_somebody_in_every_quorum_held_first():
    story = Gathering(3, options={"tail_instances": 1, "batch_max": 1})
    lone_proposal(story, {2})
    discarding(story, 3, 2, key=b"y", restart=True)
    heard = story.tap(PartlyValidated)
    story.wait(3)
    assert heard
    assert story[2].image.writes == story[3].image.writes
    assert story[2].image.writes[b"x"] == [b"a"]


@pytest.mark.usefixtures("reckless")
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("key", "outcome"), [(b"x", []), (b"y", [b"a"])])
def test_whether_something_interferes_is_remembered_by_key_when_it_has_been_discarded(key, outcome, restart):
    """Replica 3 pre-accepted the value and was cut off while the others, three of five, went on and forgot."""
    story = Gathering(5, options={"tail_instances": 1, "batch_max": 1})
    lone_proposal(story, {3})
    story.lose = lambda sender, to, message: 3 in {sender, to}
    discarding(story, 2, 4, 5, key=key, restart=restart)
    story[5].crash()
    story.lose = lambda sender, to, message: False
    heard = story.tap(Validated)
    story.wait(3)
    assert heard
    for member in (2, 3, 4):
        for wish in story[member].wishes[-1:]:
            story[member].install_from(story[wish.peer])
    story.wait(3)
    assert [story[member].inner.status().decided["1"] for member in (2, 3, 4)] == [1] * 3
    assert [[name for name in story[member].image.log if name == b"a"] for member in (2, 3, 4)] == [outcome] * 3


@pytest.mark.usefixtures("reckless")
def test_whoever_installs_a_snapshot_remembers_by_key_what_its_giver_executed():
    """Of five, 1 proposed and is gone, 3 pre-accepted it and was cut off. 2 and 5 executed what interferes; 4 has their
    state, and neither values nor records."""
    story = Gathering(5, options={"tail_instances": 1, "batch_max": 1})
    lone_proposal(story, {3})
    story.lose = lambda sender, to, message: (
        3 in {sender, to} or (4 in {sender, to} and isinstance(message, Commit | Fetched))
    )
    discarding(story, 2, 5, key=b"x")
    assert story[4].install_from(story[2])
    for _ in range(2):
        story[4].take_snapshot()
        story[4].crash()
        story[4].start()
    story[2].crash()
    story.lose = lambda sender, to, message: False
    heard = story.tap(Validated)
    story.wait(3)
    answers = [answer.against for sender, _, answer in heard if sender == 4]
    assert answers
    assert all(against and against[0] in {(2, number, True) for number in (1, 2, 3)} for against in answers)


def concerns(message: Message, space: int, number: int) -> bool:
    """Is it about that instance?"""
    return (getattr(message, "space", 0), getattr(message, "number", 0)) == (space, number)


def test_a_snapshot_tells_of_what_the_state_holds_and_has_not_been_executed_again_since_the_start():
    """Of five, 1 proposed to 2 alone and is gone. 3 to 5 decided what interferes as (4, 2), behind an open (4, 1).
    5 executed it, started again, and can't execute it anew at once; then its state closes the gap."""
    story = Gathering(5, options={"batch_max": 1})

    def lose(*rules: Callable[[int, int, Message], bool]) -> None:
        story.lose = lambda sender, to, message: (
            isinstance(message, Progress | Fetch | Fetched) or any(rule(sender, to, message) for rule in rules)
        )

    lose(lambda sender, to, message: concerns(message, 4, 1) and isinstance(message, Commit))
    story[4].propose_commands(write(b"gap", b"y"))
    story.settle()
    # (2, 2) is known everywhere, and (2, 1) before it is not known to 5.
    lose(
        lambda sender, to, message: concerns(message, 2, 1) and to == 5,
        lambda sender, to, message: concerns(message, 4, 1),
    )
    for payload, key in ((b"p", b"z"), (b"q", b"x")):
        story[2].propose_commands(write(payload, key))
        story.settle()
    lose(lambda sender, to, message: not (isinstance(message, PreAccept) and (sender, to) == (1, 2)))
    story[1].propose_commands(write(b"lone", b"x"))
    story.settle()
    lose(
        lambda sender, to, message: not {sender, to} <= {3, 4, 5},
        lambda sender, to, message: isinstance(message, Commit) and to != 5,
        lambda sender, to, message: concerns(message, 2, 1) or concerns(message, 4, 1),
    )
    story[4].propose_commands(write(b"other", b"x"))
    story.settle()
    assert ("4", 2) not in story[5].image.executed, "its dependencies cover what is not known"
    # Now it is known, and (4, 2) executed; the process dies before that is on the disk.
    known = story[2].inner._instances.archived(2, 1)
    story[5].syncs = False
    story[5].step(Received(2, Commit(2, 1, False, known.value, known.dependencies)))
    assert ("4", 2) in story[5].image.executed
    story[5].crash()
    story[5].syncs = True
    story[5].start()
    gap = story[4].inner._instances.archived(4, 1)
    story[5].step(Received(4, Commit(4, 1, False, gap.value, gap.dependencies)))
    assert story[5].image.frontier()["4"] == 2
    assert story[5].inner.status().delivered["4"] == 1
    story[5].take_snapshot()
    assert story[3].install_from(story[5])
    story[5].crash()
    story[5].start()
    story[1].crash()
    story[4].crash()
    heard = story.tap(Validated)
    tapped = story.lose
    lose(tapped)
    story.wait(3)
    answers = {sender: message.against for sender, _, message in heard if concerns(message, 1, 1)}
    assert {3, 5} & answers.keys()
    assert all(answers[member] == ((4, 2, True),) for member in {3, 5} & answers.keys())


def test_what_a_replica_told_of_its_proposals_holds_after_its_machine_lost_the_state():
    story = Gathering(3, options={"batch_max": 1})
    # (1, 2) is executed at 2 before (1, 1); 3 installs the state of 2, which holds it above the frontier.
    story.lose = lambda sender, to, message: (
        3 in {sender, to}
        or isinstance(message, Progress | Fetch | Fetched)
        or (isinstance(message, PreAccept) and message.number == 1)
    )
    story[1].propose_commands(write(b"a", b"x"), write(b"b", b"y"))
    story.settle()
    assert story[2].image.executed == {("1", 2)}
    assert story[3].install_from(story[2])
    # Then (1, 1) is decided and executed, too, and by its state 3 has executed both when it starts again.
    story.lose = lambda sender, to, message: isinstance(message, Progress | Fetch | Fetched) or concerns(message, 1, 2)
    story.wait(1)
    story[3].crash()
    story[3].start()
    told: list[Progress] = []

    def listen(sender: int, to: int, message: Message) -> bool:
        if sender == 3 and isinstance(message, Progress):
            told.append(message)
        return True

    story.lose = listen
    story.wait(2)
    assert told[-1].executed == (2, 0, 0)
    story[3].crash(state_survives=False)
    story[3].start()
    story[3].propose_commands(write(b"c", b"y"))
    story.settle()
    proposal = story[3].inner._instances.find(3, 1)
    assert proposal.number > told[-1].proposed
    assert proposal.initial[0] == 2


@pytest.mark.usefixtures("forgetful")
def test_all_but_the_leader_are_enough_whatever_has_been_forgotten():
    story = Gathering(5, options={"tail_instances": 1, "batch_max": 1})
    lone_proposal(story, {3})
    story.lose = lambda sender, to, message: 3 in {sender, to}
    discarding(story, 2, 4, 5, key=b"x", restart=True)
    story.lose = lambda sender, to, message: False
    story.wait(5)
    assert [story[member].inner.status().decided["1"] for member in (2, 4, 5)] == [1] * 3


def test_a_vote_holds_for_an_instance_that_was_executed_in_a_snapshot_and_is_not_in_the_next():
    story = Gathering(3, options={"batch_max": 1, "tail_instances": 1})

    def of_the_second(message: Message) -> bool:
        return (getattr(message, "space", 0), getattr(message, "number", 0)) == (1, 2)

    def of_catching_up(message: Message) -> bool:
        return isinstance(message, Progress | Fetch | Fetched)

    # Replica 1 decides its second instance with 3, which never hears so, and executes it before its first.
    story.lose = lambda sender, to, message: (
        2 in {sender, to}
        or (isinstance(message, PreAccept) and message.number == 1)
        or isinstance(message, Commit | Progress | Fetched)
    )
    story[1].propose_commands(write(b"a", b"x"), write(b"voted", b"y"))
    story.settle()
    assert story[3].install_from(story[1])
    # Once the first is decided as well, nothing is missing in the state of 3, though its disk has the vote alone.
    story.lose = lambda sender, to, message: of_the_second(message) or of_catching_up(message)
    story.wait(0.3)
    story.lose = lambda sender, to, message: 3 in {sender, to} or of_the_second(message) or of_catching_up(message)
    for number in range(4):
        story[2].propose_commands(write(b"b%d" % number, b"z"))
    story.settle()
    story[2].take_snapshot()
    story[3].crash()
    story[3].start()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    installed = False
    for _ in range(20):
        story.wait(0.5)
        for peer in (story[2], story[3]):
            wishes, peer.wishes = peer.wishes, []
            for wish in wishes:
                installed |= story[wish.peer].up and peer.install_from(story[wish.peer])
    assert installed, "replica 3 stands at a state in which the second instance is not executed"
    story[1].start()
    story.wait(5)
    assert [story[member].image.writes[b"y"] for member in (1, 2, 3)] == [[b"voted"]] * 3


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(("key", "restart"), [(b"x", False), (b"x", True), (b"y", True)])
def test_what_was_forgotten_and_may_speak_against_a_value_is_not_guessed(key: bytes, restart: bool):
    story = Gathering(5, options={"tail_instances": 1, "batch_max": 1})
    lone_proposal(story, {3})
    story.lose = lambda sender, to, message: 3 in {sender, to}
    discarding(story, 2, 4, 5, key=key, restart=restart)
    story[5].crash()
    story.lose = lambda sender, to, message: False
    heard = story.tap(PartlyValidated)
    story.wait(3)
    assert heard
    assert story[3].inner.status().decided.get("1", 0) == 0
    story[5].start()
    story[1].start()  # it has not decided, so nobody has
    for _ in range(3):
        story.wait(3)
        for peer in story.peers:
            if peer.wishes:
                peer.install_from(story[peer.wishes.pop().peer])
    assert [sorted(peer.image.log) for peer in story.peers] == [[b"%d" % number for number in range(6)]] * 5
    assert [peer.inner.status().decided["1"] for peer in story.peers] == [1] * 5


def test_whoever_hears_from_no_quorum_does_not_take_one_ballot_after_the_other():
    story = Gathering(5)
    lone_proposal(story, {2})
    story.lose = between(2, 5)
    story.wait(30)
    for member in (2, 5):
        assert story[member].inner.status().counters["recoveries"] <= 1
    story.lose = lambda sender, to, message: False
    story.wait(3)
    assert [story[member].inner.status().decided["1"] for member in (2, 3, 4, 5)] == [1] * 4


def test_a_replica_that_reaches_a_quorum_alone_recovers_what_others_can_not():
    """All hear replica 5 alone, and what it asks and is told takes longer than others leave an instance to it."""
    story = Gathering(5, options={"recovery_s": 0.05})
    story.lose = lambda sender, to, message: 5 not in {sender, to}
    story[1].propose_commands(write(b"a", b"x"))
    for _ in range(200):
        for peer in story.peers:
            peer.clock += 0.05
            peer.step()
        # A step of everybody for each hop.
        for _ in range(len(story.wires)):
            story.carry(0)
        if all(peer.inner.status().decided.get("1") for peer in story.peers):
            return
    raise AssertionError("nobody decides the instance")


def test_votes_that_are_a_quorum_decide_whatever_has_been_promised_since():
    story = Gathering(5)
    lone_proposal(story, {2})
    late: list[tuple[int, Message]] = []

    def hold(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Accepted):
            late.append((sender, message))
        return isinstance(message, Accepted)

    recover(story, story[2])
    story.lose = hold
    story.settle()
    recover(story, story[5])
    story.lose = lambda sender, to, message: not (isinstance(message, Recover) and to == 2)
    story.settle()
    instance = story[2].inner._instances.find(1, 1)
    assert instance.ballot.replica == 5
    assert instance.voted.replica == 2
    assert len(late) == 3
    for sender, message in late:
        assert not instance.decided
        story[2].step(Received(sender, message))
        if instance.decided:
            break
    assert instance.decided
    story.lose = lambda sender, to, message: False
    story.wait(3)
    assert [story[member].image.log for member in (2, 3, 4, 5)] == [[b"a"]] * 4


def test_two_recoveries_that_wait_for_each_other_end():
    """Of five, 1 and 2 proposed and are gone; each was pre-accepted by one of the rest that had not seen the other."""
    story = Gathering(5)
    story.lose = only(PreAccept, links={(1, 3)})
    story[1].propose_commands(write(b"a", b"x"))
    story.lose = lambda sender, to, message: to == 1 or (isinstance(message, PreAccept) and (sender, to) != (1, 3))
    story.settle()
    story[1].crash()
    story.lose = only(PreAccept, links={(2, 4)})
    story[2].propose_commands(write(b"b", b"x"))
    story.lose = lambda sender, to, message: to == 2 or (isinstance(message, PreAccept) and (sender, to) != (2, 4))
    story.settle()
    story[2].crash()
    story.lose = lambda sender, to, message: False
    heard = story.tap(Validated)
    story.wait(20)
    assert heard
    story[3].propose_commands(write(b"c", b"x"))
    story.wait(5)
    assert {peer.image.log[-1] for peer in story.peers if peer.up} == {b"c"}
    assert len({tuple(peer.image.log) for peer in story.peers if peer.up}) == 1


def test_a_recovery_waits_for_what_speaks_against_it_and_goes_by_how_that_is_decided():
    story = Gathering(5)
    # (1, 1) reaches 3 and 4, which pre-accept it alone; (2, 1) reaches 5 alone, and its leader answers recoveries.
    lone_proposal(story, {3, 4})
    story.lose = only(PreAccept, links={(2, 5)})
    story[2].propose_commands(write(b"b", b"x"))
    story.lose = lambda sender, to, message: isinstance(message, PreAccept | PreAccepted)
    story.settle()
    waits = story.tap(Waiting)
    tap = story.lose
    story.lose = lambda sender, to, message: tap(sender, to, message) or isinstance(message, PreAccept | PreAccepted)
    story.wait(20, only=[3, 4, 5])
    story.lose = lambda sender, to, message: False
    story.wait(10)
    assert waits
    assert len({tuple(peer.image.log) for peer in story.peers if peer.up}) == 1


@trap("single-ballot recovery")
def test_a_promise_is_no_vote(spec):
    """The schedule that Sutra published against the original: a replica that voted long ago, and promised since, tells
    of its old vote as if it were of the promised ballot, and what was decided in between is decided otherwise."""
    story = Gathering(5, spec=spec)
    lone_proposal(story, {2, 3})

    # At a first ballot 4 learns from 2 that the value may have been decided, and votes for it. Nobody hears that.
    recover(story, story[4])
    hears = between(2, 4, 5)
    story.lose = lambda sender, to, message: hears(sender, to, message) or isinstance(message, Accept)
    story.settle()
    assert story[4].inner._instances.find(1, 1).phase.name == "ACCEPTED"
    story[4].coordinator, asleep = None, story[4].coordinator

    # At a second one 5 asks the leader itself, which is back and has decided nothing: a no-op is decided by three.
    story[1].start()
    story.wires.clear()
    recover(story, story[5])
    hears = between(1, 3, 5)
    story.lose = lambda sender, to, message: hears(sender, to, message) or isinstance(message, Commit)
    story.settle()
    assert story[5].image.executed == {("1", 1)}
    assert story[5].image.log == []

    # A third is promised by 4 and by 2, who voted for nothing at it.
    story[4].coordinator = asleep
    story[1].crash()
    story[5].crash()
    story.wires.clear()
    story.lose = lambda sender, to, message: (sender, to) != (2, 4) or not isinstance(message, Recover)
    while story[4].inner._instances.find(1, 1).ballot < story[3].inner._instances.find(1, 1).ballot:
        recover(story, story[2])
        story.settle()

    # At a fourth 2 asks 3 and 4.
    story.wires.clear()
    recover(story, story[2])
    story.lose = between(2, 3, 4)
    story.settle()
    story[5].start()
    story.lose = lambda sender, to, message: False
    story.wait(10)
    assert story[2].image.log == story[3].image.log == []


# ------------------------------------------------------------------------------------------------------------ catch-up


def test_a_replica_that_missed_decisions_fetches_them():
    story = Gathering(3, options={"chunk_bytes_max": 300, "batch_max": 1})
    story.isolate(3)
    for number in range(30):
        story[1 + number % 2].propose_commands(write(b"%*d" % (1000 if number == 20 else 1, number), b"x"))
    story.settle()
    heard = story.tap(Fetched)
    story.heal()
    story.wait(5)
    assert len(heard) > 1
    for _, _, message in heard:
        assert len(message.entries) <= 1 or sum(len(entry.value) for entry in message.entries) <= 300
    assert story[3].image.writes[b"x"] == story[1].image.writes[b"x"]


def test_a_copy_of_an_answer_brings_about_no_further_question():
    story = Gathering(3, options={"chunk_bytes_max": 1, "batch_max": 1})
    story.isolate(3)
    for number in range(12):
        story[1].propose_commands(write(b"%d" % number, b"x"))
    story.settle()
    story.heal()
    questions = 0

    def repeat_answers(sender, to, message):
        nonlocal questions
        questions += isinstance(message, Fetch)
        if isinstance(message, Fetched):
            story[to].step(Received(sender, message))
        return False

    story.lose = repeat_answers
    story.wait(2)
    assert story[3].image.writes[b"x"] == story[1].image.writes[b"x"]
    assert questions <= 12 + 2, "one for each chunk, not twice as many with every answer"


@pytest.mark.usefixtures("reckless")
def test_a_replica_that_missed_everything_takes_a_snapshot():
    story = Gathering(3, options={"tail_instances": 2, "batch_max": 1})
    story.isolate(3)
    for number in range(20):
        story[1].propose_commands(write(b"%d" % number, b"x"))
    story.settle()
    for peer in (story[1], story[2]):
        peer.take_snapshot()
    story.heal()
    story.wait(3)
    wish = story[3].wishes[-1]
    assert wish.frontier == {"1": 18}
    assert story[3].install_from(story[wish.peer])
    story[2].propose_commands(write(b"more", b"x"))
    story.wait(3)
    assert story[3].image.writes[b"x"] == story[1].image.writes[b"x"]
    assert len(story[3].image.log) == 21


def floor_of(peer: Peer) -> list[int]:
    """Up to where a replica has discarded, after a snapshot."""
    peer.take_snapshot()
    return list(peer.inner._instances.floor)


def test_two_that_lack_something_of_each_other_discard_none_of_it():
    """1 and 3 decided these, and hear of each other's decisions no more; 2 is gone."""
    story = Gathering(3, options={"tail_instances": 1, "batch_max": 1})
    story[2].crash()
    story.lose = lambda sender, to, message: isinstance(message, Commit | Fetched)
    for number in range(5):
        story[1].propose_commands(write(b"a%d" % number, b"x"))
        story[3].propose_commands(write(b"b%d" % number, b"y"))
    story.settle()
    story.lose = lambda sender, to, message: isinstance(message, Commit | Fetched | Recover)
    story.wait(1)
    assert story[1].inner.status().delivered == {"1": 5}
    assert story[3].inner.status().delivered == {"3": 5}
    assert floor_of(story[1]) == floor_of(story[3]) == [0, 0, 0]
    story.lose = lambda sender, to, message: True
    story.wait(5)
    assert floor_of(story[1]) == floor_of(story[3]) == [0, 0, 0]
    story.lose = lambda sender, to, message: False
    story.wait(6)
    assert sorted(story[1].image.log) == sorted(story[3].image.log)
    assert len(story[1].image.log) == 10
    assert floor_of(story[1]) == floor_of(story[3]) == [4, 0, 4]


def test_what_a_peer_lacks_is_discarded_where_a_snapshot_helps_it_or_it_has_been_silent_for_long():
    story = Gathering(3, options={"tail_instances": 1, "batch_max": 1})
    story.lose = lambda sender, to, message: to == 3
    for number in range(5):
        story[1].propose_commands(write(b"a%d" % number, b"x"))
    story.wait(1.5)
    assert floor_of(story[1]) == [4, 0, 0], "it has told that it has nothing"
    story.isolate(3)
    story[2].propose_commands(write(b"b", b"x"), write(b"c", b"x"), write(b"d", b"x"))
    story.wait(5)
    assert floor_of(story[2]) == [0, 0, 0], "it was heard of not long ago, and has got further perhaps"
    story.wait(6)
    assert floor_of(story[2]) == [4, 2, 0]


@pytest.mark.usefixtures("reckless")
def test_what_is_kept_behind_a_snapshot_is_bounded_in_bytes_too():
    story = Gathering(3, options={"tail_instances": 1000, "tail_bytes_max": 300, "batch_max": 1})
    for number in range(20):
        story[1].propose_commands(write(b"%100d" % number, b"x"))
    story.settle()
    story[1].take_snapshot()
    floor = story[1].inner._instances.floor[0]
    assert 16 <= floor < 20
    assert story[1].inner._instances.archived(1, floor) is None
    assert story[1].inner._instances.archived(1, floor + 1) is not None


def test_a_snapshot_of_more_than_is_known_to_be_executed_discards_no_more_than_that():
    story = Gathering(3, options={"tail_instances": 1, "batch_max": 1})
    story.lose = lambda sender, to, message: (
        3 in {sender, to} or (isinstance(message, PreAccept) and message.number == 1)
    )
    story[1].propose_commands(*(write(b"%d" % number, b"%d" % number) for number in range(10)))
    story.settle()
    assert story[2].image.frontier() == {}
    assert len(story[2].image.executed) == 9
    assert story[3].install_from(story[2])  # nine of them, and no way to tell which
    story.lose = lambda sender, to, message: to == 3 and getattr(message, "number", 0) != 1
    story.wait(1)
    assert story[3].image.frontier() == {"1": 10}
    assert story[3].inner.status().delivered == {"1": 1}
    story[3].take_snapshot()
    story[3].core.protocol.check()
    story.heal()
    story.lose = lambda sender, to, message: False
    story.wait(3)
    assert story[3].inner.status().delivered == {"1": 10}


def with_one_behind() -> Gathering:
    """Replicas 1 and 3 have executed three commands, 2 is cut off and has executed the first."""
    story = Gathering(3, options={"batch_max": 1})
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()
    story.isolate(2)
    story[1].propose_commands(write(b"b", b"x"), write(b"c", b"y"))
    story.settle()
    return story


def test_a_snapshot_that_takes_the_state_back_is_followed_by_what_it_lacks():
    story = with_one_behind()
    assert story[3].install_from(story[2]) is True
    assert story[3].image.log == [b"a", b"b", b"c"]
    story.heal()
    story.wait(3)
    assert story[2].image.writes == story[3].image.writes == story[1].image.writes


def test_what_a_replica_proposes_comes_after_what_it_had_executed_when_a_snapshot_took_it_back():
    story = with_one_behind()
    story.lose = lambda sender, to, message: 3 in {sender, to}
    assert story[3].install_from(story[2])
    # Had it executed these as part of a snapshot, they would not be on its disk.
    for table in (VOTES_TABLE, VALUES_TABLE):
        for number in (2, 3):
            del story[3].disk.durable[table][instance_key(1, number)]
    story[3].image = story[2].image.copy()
    story[3].crash()
    story[3].start()
    assert story[3].inner.status().delivered == {"1": 1}
    story[3].propose_commands(write(b"d", b"z"))
    story.settle()
    assert story[3].inner._instances.find(3, 1).initial == (3, 0, 0)


def test_a_replica_that_was_shown_a_snapshot_starts_on_it():
    story = Gathering(3, options={"tail_instances": 1, "batch_max": 1})
    for number in range(10):
        story[1].propose_commands(write(b"%d" % number, b"x"))
    story.settle()
    story[2].take_snapshot()
    story[2].crash(state_survives=False)
    assert len(story[2].image.log) == 10
    story[2].start()
    story[3].propose_commands(write(b"more", b"x"))
    story.wait(1)
    assert story[2].image.writes[b"x"] == story[1].image.writes[b"x"]


def test_whoever_asks_about_something_executed_is_told_the_decision():
    story = Gathering(3)
    story.lose = only(Commit, links={(1, 2)})
    story[1].propose_commands(write(b"a", b"x"))
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: isinstance(message, Progress)
    story.wait(3)
    assert story[3].image.log == [b"a"]


# ------------------------------------------------------------------------------------------------- what it is asked for


def test_what_it_does_not_offer_is_refused():
    story = Gathering(3)
    story[1].step(ReadRequested(1), Reconfigure(2, story.configuration), Yield())
    assert [(refused.token, refused.reason) for refused in story[1].refused_reads] == [
        (1, "unsupported"),
        (2, "unsupported"),
    ]


def configuration(n: int, **options: float) -> Configuration:
    return Configuration(1, tuple(Member(replica) for replica in range(1, n + 1)), "epaxos", dict(options))


@pytest.mark.parametrize(
    ("n", "options", "field"),
    [
        (3, {"f": 2}, "f"),
        (5, {"f": 1, "e": 2}, "e"),
        (7, {"f": 3, "e": 3}, "e, f"),
        (3, {"e": -2}, "e"),
        (3, {"window_instances": 0}, "window_instances"),
        (3, {"recovery_s": 0.0}, "recovery_s"),
        (3, {"batch_bytes_max": 1 << 30}, "batch_bytes_max"),
        (3, {"tail_bytes_max": -1}, "tail_bytes_max"),
        (3, {"chunk_bytes_max": 1 << 30}, "chunk_bytes_max"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_the_name_of_the_option(n, options, field):
    with pytest.raises(ConfigurationError, match=rf"protocol\.options\.{field}"):
        validate_configuration(PROTOCOL, configuration(n, **options))


@pytest.mark.parametrize(
    ("n", "fast", "classic"), [(1, 1, 1), (2, 2, 2), (3, 2, 2), (4, 3, 3), (5, 3, 3), (6, 4, 4), (7, 5, 4), (9, 6, 5)]
)
def test_quorums_are_as_small_as_can_be(n, fast, classic):
    story = Gathering(n)
    quorums = story[1].inner._core.quorums
    assert (quorums.fast_size, quorums.phase2_size) == (fast, classic)


def test_every_planted_bug_has_its_story():
    assert told == BUGS.keys()
    with pytest.raises(ValueError, match="no bug of the name"):
        planted("no such bug")
