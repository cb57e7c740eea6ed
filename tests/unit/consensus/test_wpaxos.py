"""WPaxos as stories: quorums by zones, owners, forwarding, stealing, lost zones, restarts, catch-up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replica.consensus.interface import (
    Command,
    Configuration,
    ConfigurationError,
    Footprint,
    Member,
    Message,
    Proposed,
    ProtocolSpec,
    ReadRequested,
    Reason,
    Reconfigure,
    parse_options,
    validate_configuration,
)
from replica.consensus.quorums import Grid, Quorums, checked, find_disjoint
from replica.consensus.wpaxos import PROTOCOL
from replica.consensus.wpaxos.messages import (
    Accept,
    Accepted,
    Alive,
    Changes,
    Compare,
    Decided,
    Fetch,
    Forward,
    Handed,
    Offer,
    Prepare,
    Promised,
    Relay,
)
from replica.consensus.wpaxos.options import WPaxosOptions, quorums_of
from replica.consensus.wpaxos.planted import BUGS, planted
from replica.consensus.wpaxos.policies import POLICIES, Consecutive, Majority, MovingAverage
from replica.kv.operations import Add, Added, Get, Written

from .owned import Estate

Tale = Callable[[ProtocolSpec], None]

told: set[str] = set()

SUSPICION_S = WPaxosOptions().suspicion_timeout_s


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


def cluster(*zones: str, **options: float | str | bool) -> Configuration:
    members = tuple(Member(replica, zone=zone) for replica, zone in enumerate(zones, 1))
    return Configuration(1, members, "wpaxos", dict(options))


def grid(configuration: Configuration) -> Quorums:
    return quorums_of(configuration, parse_options(PROTOCOL, configuration.options))


# ------------------------------------------------------------------------------------------------------------ quorums


@pytest.mark.parametrize(
    ("zones", "options", "sizes"),
    [
        ("abc", {}, (2, 2)),
        ("abcde", {}, (4, 2)),
        ("aaabbbccc", {}, (4, 4)),
        ("aaabbbccc", {"f_z": 0}, (6, 2)),
        ("aaabbbccc", {"f_z": 0, "f_n": 0}, (9, 1)),
        ("ab", {}, (2, 1)),
        ("aaa", {}, (2, 2)),
        ("abcde", {"f_z": 2}, (3, 3)),
        ("aaaaabbbbbccccc", {}, (6, 6)),
    ],
)
def test_quorums_follow_from_the_zones(zones, options, sizes):
    found = grid(cluster(*zones, **options))
    assert (found.phase1_size, found.phase2_size) == sizes
    if len(zones) <= 12:
        assert find_disjoint(found) is None


@pytest.mark.parametrize(
    ("zones", "options", "complaint"),
    [
        ("aabbc", {}, "the same number of members"),
        ("aaabbbccc", {"f_n": 2}, "f_n: 2 failures in a zone need zones of 5"),
        ("abc", {"f_z": 2}, "f_z: losing 2 zones needs 5 zones"),
        ("ab", {"f_z": 1}, "f_z: losing 1 zones needs 3 zones"),
        ("abc", {"f_z": -2}, "f_z"),
        ("abc", {"zones": 3}, "zones: the members say"),
        (("a", "b", ""), {}, "replica 3 has neither a zone nor a region"),
        (("", "", ""), {"zones": 4}, "zones: 4 zones cannot share 3 members"),
        (("", "", "", ""), {"zones": 3}, "the same number of members"),
        ("abc", {"policy": "never"}, "policy: 'never' is none of average, consecutive, immediate, majority"),
        ("abc", {"suspicion_timeout_s": 0.06}, "suspicion_timeout_s"),
        ("abc", {"window_slots": 0}, "window_slots"),
    ],
)
def test_what_can_not_work_is_refused_and_named(zones, options, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        validate_configuration(PROTOCOL, cluster(*zones, **options))


@pytest.mark.parametrize(
    ("sizes", "q1", "q2"),
    [
        ((3, 3, 3), (2, 1), (2, 2)),  # the members of a shared zone need not be the same
        ((3, 3, 3), (1, 2), (2, 2)),  # nor need the zones
        ((5, 3, 3), (2, 2), (2, 2)),  # a larger zone has room for both
    ],
)
def test_a_set_builder_whose_quorums_can_miss_each_other_is_refused(sizes, q1, q2):
    numbers = iter(range(1, 100))
    zones = [[next(numbers) for _ in range(size)] for size in sizes]
    with pytest.raises(ConfigurationError, match="need not meet"):
        Grid(zones, q1_zones=q1[0], q1_members=q1[1], q2_zones=q2[0], q2_members=q2[1])


def test_quorums_from_elsewhere_are_looked_at_pair_by_pair():
    story = Estate(5, spec=planted("quorums that do not intersect"))
    with pytest.raises(ConfigurationError, match="misses"):
        checked(story[1].inner._core.quorums)


def test_a_region_stands_for_a_zone_and_members_without_either_are_zones_of_their_own():
    regions = tuple(Member(number, region=region) for number, region in enumerate("vvvcccooo", 1))
    assert grid(Configuration(1, regions, "wpaxos", {})).phase2({1, 2, 4, 5})
    assert not grid(Configuration(1, regions, "wpaxos", {})).phase2({1, 2, 3, 4, 7})
    plain = tuple(Member(number) for number in range(1, 10))
    assert grid(Configuration(1, plain, "wpaxos", {})).phase2_size == 2
    assert grid(Configuration(1, plain, "wpaxos", {"zones": 3})).phase2({1, 4, 2, 5})


# ----------------------------------------------------------------------------------------------------------- policies


def moves(policy, accesses: str) -> str:
    return "".join(policy.accessed(zone) or "-" for zone in accesses)


def test_three_accesses_in_a_row_move_an_object_and_taking_turns_does_not():
    assert moves(Consecutive("a", 3), "bbabbabbb") == "--------b"
    assert moves(Consecutive("a", 3), "bcbcbcbcbc") == "----------"
    assert moves(Consecutive("a", 1), "ab") == "-b"


def test_a_majority_is_counted_over_whole_windows():
    assert moves(Majority("a", 4), "bbbabbaaabbb") == "---b-------b"
    assert moves(Majority("a", 4), "aabb") == "----"


def test_a_moving_average_wants_a_clear_lead():
    assert "b" not in moves(MovingAverage("a", 8), "ab" * 50)
    assert "b" in moves(MovingAverage("a", 8), "b" * 10)
    assert moves(MovingAverage("a", 8), "b" * 3).count("b") == 0


# ---------------------------------------------------------------------------------------------------- owners, forwards


def test_whoever_is_asked_first_owns_the_key_and_then_decides_in_one_round():
    story = Estate(3)
    story[2].put(b"x", b"1")
    story.settle()
    assert story[2].owns(b"x")
    assert [holder.owner_of(b"x") for holder in story.holders] == [2, 2, 2]
    prepares = story.tap(Prepare)
    done = story[2].put(b"x", b"2")
    story.settle()
    assert story[2].results[done] == Written(2)
    assert story.value(b"x") == b"2"
    assert not prepares


def test_keys_have_owners_of_their_own():
    story = Estate(3)
    for holder, key in zip(story.holders, (b"a", b"b", b"c"), strict=True):
        holder.put(key, b"1")
    story.settle()
    assert [story[1].owner_of(key) for key in (b"a", b"b", b"c")] == [1, 2, 3]


def test_a_command_elsewhere_is_forwarded_and_answered_where_it_was_asked():
    story = Estate(3)
    story[1].put(b"x", b"1")
    story.settle()
    forwards = story.tap(Forward)
    done = story[3].put(b"x", b"2")
    story.settle()
    assert [(sender, to) for sender, to, _ in forwards] == [(3, 1)]
    assert story[3].results[done] == Written(2)
    assert story[1].owns(b"x")


def test_a_forward_that_is_lost_is_repeated():
    story = Estate(3)
    story[1].put(b"x", b"1")
    story.settle()
    story.lose = lambda sender, to, message: isinstance(message, Forward)
    done = story[3].put(b"x", b"2")
    story.settle()
    assert done not in story[3].results
    story.lose = lambda sender, to, message: False
    story.wait(0.5)
    assert story[3].results[done] == Written(2)


def test_a_command_that_is_decided_twice_takes_effect_once():
    story = Estate(3)
    story[1].put(b"x", b"0")
    story.settle()
    story[1].ask(Add(b"n", 5), 7, 1)
    story.settle()
    story[2].ask(Add(b"n", 5), 7, 1)
    story.settle()
    assert story[2].results[7, 1] == Added(1, 5)
    assert story.value(b"n") == b"5"


def test_a_write_outside_any_session_is_given_to_an_owner_once_and_a_read_until_it_is_answered():
    story = Estate(3)
    story[1].ask(Add(b"n", 1), 7, 1)
    story.settle()
    forwarded: list[int] = []

    def listen(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Forward):
            forwarded.extend(command.sequence for command in message.commands)
        return isinstance(message, Accept | Decided) and to == 3

    story.lose = listen
    story[3].ask(Add(b"n", 1), 0, 2)
    story[3].ask(Get(b"n"), 0, 3)
    story.wait(2.0)
    assert forwarded.count(2) == 1
    assert forwarded.count(3) > 1
    assert story.value(b"n") == b"2"


def test_two_who_claim_at_once_agree_on_one_owner():
    story = Estate(3)
    one, other = story[1].put(b"x", b"1"), story[2].put(b"x", b"2")
    story.wait(1.0)
    assert one in story[1].results
    assert other in story[2].results
    assert len({holder.owner_of(b"x") for holder in story.holders}) == 1
    assert sum(holder.owns(b"x") for holder in story.holders) == 1


def test_what_touches_several_keys_is_refused_and_never_takes_effect():
    story = Estate(3)
    for touched in (Footprint(writes=(b"a", b"b")), Footprint(ranges=((b"a", b"b"),)), Footprint(), None):
        story[1].step(Proposed((Command(b"", 1, 1, 1, touched),)))
        refused = story[1].rejections.pop()
        assert refused.definite
        assert refused.reason == Reason.UNSUPPORTED
    story[1].step(ReadRequested(5), Reconfigure(6, story.configuration))
    assert [(each.token, each.reason) for each in story[1].refused_reads] == [
        (5, Reason.UNSUPPORTED),
        (6, Reason.UNSUPPORTED),
    ]


def test_more_than_the_queue_holds_is_refused_before_it_is_proposed():
    story = Estate(3, options={"queue_max": 2})
    for peer in (2, 3):
        story.isolate(peer)
    for number in range(4):
        story[1].put(b"k%d" % number, b"v")
    assert [(each.reason, each.definite) for each in story[1].rejections] == [(Reason.OVERLOADED, True)] * 2


# ----------------------------------------------------------------------------------------------------------- stealing


def use(story: Estate, replica: int, key: bytes, times: int) -> None:
    """Clients of a replica write a key, again and again."""
    for number in range(times):
        story[replica].put(key, b"%d by %d" % (number, replica))
        story.settle()


def test_an_object_moves_to_where_it_is_used_with_its_value_and_its_sessions():
    story = Estate(3)
    story[1].ask(Add(b"x", 40), 77, 1)
    story.settle()
    story.wait(0.6)
    story[3].ask(Add(b"x", 1), 99, 1)
    story.settle()
    use(story, 3, b"other", 1)
    for sequence in (2, 3):
        story[3].ask(Add(b"x", 1), 99, sequence)
        story.settle()
    assert story[3].owns(b"x")
    assert not story[1].owns(b"x")
    assert story.value(b"x") == b"43"
    # The first client, which has not heard of its success, asks again at the new owner.
    story[3].ask(Add(b"x", 40), 77, 1)
    story.settle()
    assert story[3].results[77, 1] == Added(1, 40)
    assert story.value(b"x") == b"43"


def test_an_object_that_has_just_moved_rests():
    story = Estate(3, options={"policy": "immediate", "steal_rest_s": 5.0})
    use(story, 1, b"x", 1)
    use(story, 2, b"x", 5)
    assert story[1].owns(b"x")
    story.wait(5.1)
    use(story, 2, b"x", 1)
    assert story[2].owns(b"x")
    use(story, 1, b"x", 5)
    assert story[2].owns(b"x")


def test_zones_that_take_turns_do_not_duel():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.wait(1.0)
    claims = story.counters("claims")
    for _ in range(10):
        use(story, 2, b"x", 1)
        use(story, 3, b"x", 1)
        story.wait(0.2)
    assert story.counters("claims") == claims


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_by_every_policy_an_object_ends_up_where_it_is_used(policy):
    story = Estate(9, zones="aaabbbccc", options={"policy": policy})
    use(story, 1, b"x", 3)
    story.wait(0.6)
    for _ in range(20):
        use(story, 5, b"x", 4)
        story.wait(0.1)
    assert story[5].owns(b"x")


def test_accesses_within_a_zone_move_nothing():
    story = Estate(9, zones="aaabbbccc", options={"policy": "immediate"})
    use(story, 1, b"x", 1)
    story.wait(1.0)
    offers = story.tap(Offer)
    use(story, 2, b"x", 10)
    assert story[1].owns(b"x")
    assert not offers


@trap("steal drops the decided prefix")
def test_a_new_owner_that_missed_what_was_decided_learns_it_before_it_proposes(spec):
    story = Estate(3, spec=spec)
    use(story, 1, b"x", 1)
    story.isolate(3)
    use(story, 1, b"x", 3)
    assert story[1].value(b"x") == b"2 by 1"
    story.heal()
    # What it missed is not on any wire any more, and it is asked before it has caught up.
    story.lose = lambda sender, to, message: isinstance(message, Accept | Decided) and to == 3 and sender == 1
    done = story[3].put(b"x", b"new")
    story[3].inner._contacts.start()
    story[3].inner._stealing.claim(story[3].held(b"x"))
    story[3].step()
    story.wait(1.0)
    assert story[3].owns(b"x")
    assert story[3].results[done] == Written(5)
    assert story.value(b"x") == b"new"


@trap("steal leaves the sessions behind")
def test_a_retry_at_a_new_owner_that_was_handed_the_object_takes_effect_once(spec):
    story = Estate(3, spec=spec)
    story.isolate(3)
    story[1].ask(Add(b"x", 40), 77, 1)
    story.settle()
    story.heal()
    # It missed the command, is handed the object as it stands, and only then owns it.
    claims = story.tap(Prepare)
    story[3].inner._stealing.claim(story[3].held(b"x"))
    story[3].step()
    story.wait(1.0)
    assert story[3].owns(b"x")
    assert claims
    assert story[3].core.status().counters["images"] == 1
    story[3].ask(Add(b"x", 40), 77, 1)
    story.settle()
    assert story[3].results[77, 1] == Added(1, 40)
    assert story.value(b"x") == b"40"


@trap("quorums that do not intersect")
def test_a_value_that_one_quorum_decided_is_found_by_the_next_owner(spec):
    story = Estate(5, spec=spec)
    use(story, 1, b"x", 1)
    # The owner and replica 2 decide alone, and nobody else hears of it.
    story.lose = lambda sender, to, message: isinstance(message, Accept | Decided) and to not in {1, 2}
    done = story[1].put(b"x", b"decided by two")
    story.settle()
    assert story[1].results[done] == Written(2)
    story.lose = lambda sender, to, message: False
    story.isolate(1)
    story.lose = lambda sender, to, message: sender == 2
    story.wait(SUSPICION_S + 0.1)
    story[4].put(b"x", b"by the next")
    story.wait(0.5)
    story.lose = lambda sender, to, message: False
    story.wait(3.0)
    story.heal()
    story.wait(3.0)
    assert story.value(b"x") == b"by the next"
    assert story[4].revision(b"x") == 3


def test_a_value_that_may_have_been_decided_is_taken_up_by_the_next_owner():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to == 3
    story[1].put(b"x", b"half way")
    for index in reversed(range(len(story.wires))):
        if story.wires[index][1] == 2:
            story.carry(index)
    story.wires.clear()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story.wait(SUSPICION_S + 0.1, only=(2, 3))
    story[3].put(b"x", b"after it")
    story.wait(1.0, only=(2, 3))
    assert story[3].value(b"x") == b"after it"
    assert story[3].revision(b"x") == 3
    assert story[2].value(b"x") == b"after it"


def test_a_gap_is_filled_with_nothing():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.lose = lambda sender, to, message: (
        isinstance(message, Accept) and (to == 3 or message.proposals[0].position == 2)
    )
    story[1].put(b"x", b"lost")
    story[1].put(b"x", b"behind the gap")
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story.wait(SUSPICION_S + 0.1, only=(2, 3))
    story[3].put(b"x", b"last")
    story.wait(1.0, only=(2, 3))
    assert story.counters("noops") == 1
    assert story.values["x", 2] == ()
    assert story[2].value(b"x") == story[3].value(b"x") == b"last"
    assert story[3].revision(b"x") == 3


def test_a_decision_does_not_apply_to_what_was_accepted_at_another_ballot():
    story = Estate(3)
    use(story, 1, b"x", 1)
    # Replica 3 alone hears of a value that is never decided.
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to == 2
    story.cut = {(3, 1)}
    story[1].put(b"x", b"never")
    story.settle()
    story[1].crash()
    story.cut = set()
    story.isolate(3)
    story[1].start()
    story.lose = lambda sender, to, message: False
    story.wait(SUSPICION_S + 0.1)
    use(story, 2, b"x", 2)
    story.wait(2.0)
    story.heal()
    # It is told of the decisions, and of none of the values.
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to == 3
    story[2].put(b"x", b"end")
    story.wait(2.0)
    assert story.value(b"x") == b"end"


def test_an_owner_that_is_handed_what_it_did_not_decide_owns_the_object_no_longer():
    story = Estate(9, zones="aaabbbccc")
    use(story, 1, b"x", 1)
    # Replica 3 alone hears of a value, and its zone is cut off. The two other zones decide another one.
    story.lose = lambda sender, to, message: isinstance(message, Accept) and to != 3
    story[1].put(b"x", b"late")
    story.settle()

    def crosses(sender: int, to: int) -> bool:
        return (sender <= 3) != (to <= 3)

    story.lose = lambda sender, to, message: crosses(sender, to)
    story.wait(SUSPICION_S + 0.1)
    story[6].put(b"x", b"other")
    story.wait(1.0)
    assert story[6].value(b"x") == b"other"
    # Of all that the owner learns no more than how the object stands; and replica 3 not even that.
    story.lose = lambda sender, to, message: (
        (to == 3 and isinstance(message, Handed))
        or (crosses(sender, to) and not isinstance(message, Alive | Compare | Changes | Fetch | Handed))
    )
    story.wait(2.0)
    assert story[1].value(b"x") == b"other"
    assert not story[1].owns(b"x")
    assert story[3].value(b"x") == b"0 by 1"
    story.lose = lambda sender, to, message: False
    story.wait(3.0)
    assert story.value(b"x") == b"late"
    assert story[3].revision(b"x") == 3


# ---------------------------------------------------------------------------------------------------------- lost zones


def test_a_lost_zone_holds_up_its_own_objects_for_a_suspicion_timeout_and_the_others_not_at_all():
    story = Estate(9, zones="aaabbbccc")
    use(story, 1, b"lost", 1)
    use(story, 4, b"kept", 1)
    for replica in (1, 2, 3):
        story[replica].crash()
    alive = (4, 5, 6, 7, 8, 9)
    done = story[4].put(b"kept", b"at once")
    story.settle()
    assert story[4].results[done] == Written(2)
    waits = story[7].put(b"lost", b"after a steal")
    story.wait(3 * SUSPICION_S, only=alive)
    assert story[7].results[waits] == Written(2)
    assert story[7].owns(b"lost")
    for replica in (1, 2, 3):
        story[replica].start()
    story.wait(3.0)
    assert story.value(b"lost") == b"after a steal"
    assert story.value(b"kept") == b"at once"


def test_with_more_than_f_z_zones_lost_nothing_is_stolen():
    story = Estate(5)
    use(story, 1, b"x", 1)
    story[1].crash()
    story[2].crash()
    claims = story.tap(Prepare)
    story[3].put(b"x", b"in vain")
    story.wait(3.0, only=(3, 4, 5))
    assert story[3].value(b"x") == b"0 by 1"
    assert not [claim for claim in claims if claim[0] == 3]
    # It was sent to the owner, of which nobody knows what it has seen.
    assert [(each.reason, each.definite) for each in story[3].rejections] == [(Reason.LOST, False)]
    story[3].put(b"x", b"waits")
    story[2].start()
    story.wait(3.0, only=(2, 3, 4, 5))
    assert story[3].value(b"x") == b"waits"


def test_an_owner_that_is_deaf_is_suspected_too():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.cut = {(2, 1), (3, 1)}
    done = story[2].put(b"x", b"by another")
    story.wait(4 * SUSPICION_S)
    assert story[2].results[done] == Written(2)


def test_what_an_owner_left_undecided_is_finished_by_others():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.lose = lambda sender, to, message: isinstance(message, Accepted | Decided)
    story[1].put(b"x", b"left lying")
    story.settle()
    story[1].crash()
    story.lose = lambda sender, to, message: False
    story.wait(4 * SUSPICION_S, only=(2, 3))
    assert story[2].value(b"x") == story[3].value(b"x") == b"left lying"
    assert story.counters("rescues")


# ------------------------------------------------------------------------------------------------------ links cut


def star(hub: int) -> Estate:
    """Three zones of three; the links between all but the hub are cut, as is noticed later."""
    story = Estate(9, zones="aaabbbccc")
    use(story, 9, b"owned by 9", 1)
    use(story, hub, b"owned by the hub", 1)
    story.cut = {(one, other) for one in range(1, 10) for other in range(1, 10) if hub not in {one, other}}
    return story


def test_a_claim_that_can_not_succeed_any_more_goes_to_a_replica_that_reaches_enough():
    story = star(hub=5)
    claims = story.tap(Prepare)
    done = story[1].put(b"x", b"1")
    story.settle()
    assert {sender for sender, _, _ in claims} == {1}
    story.wait(3 * SUSPICION_S)
    assert story[1].results[done] == Written(1)
    assert story[5].owns(b"x")
    assert story.counters("claims_given_up") == 1
    later = story[2].put(b"x", b"2")
    story.wait(0.1)
    assert story[2].results[later] == Written(2)


def test_a_claim_that_was_given_up_does_not_stand_in_the_way_of_others():
    story = star(hub=5)
    # Two have claimed it and do not hear of one another; those who ask are clients of neither.
    story[1].put(b"x", b"1")
    story[9].put(b"x", b"9")
    story.wait(3 * SUSPICION_S)
    done = [story[replica].put(b"x", b"by %d" % replica) for replica in (2, 5, 7)]
    story.wait(0.1)
    for replica, identity in zip((2, 5, 7), done, strict=True):
        assert identity in story[replica].results
    assert not any(holder.inner._stealing.campaigns for holder in story.holders)


def test_what_is_asked_for_where_its_owner_is_out_of_reach_is_relayed():
    story = star(hub=5)
    story.wait(2 * SUSPICION_S)
    relays = story.tap(Relay)
    done = story[1].put(b"owned by 9", b"by 1")
    story.wait(0.1)
    assert {(sender, to) for sender, to, _ in relays} == {(1, 5)}
    assert story[1].results[done] == Written(2)
    assert story[5].owns(b"owned by 9")
    assert not story[1].rejections


def test_an_owner_that_reaches_too_few_offers_its_objects_to_one_that_reaches_enough():
    story = star(hub=5)
    story.wait(2 * SUSPICION_S)
    done = story[9].put(b"owned by 9", b"at its owner")
    other = story[5].put(b"owned by 9", b"at the hub")
    story.wait(1.0)
    assert done in story[9].results
    assert other in story[5].results
    assert story[5].owns(b"owned by 9")


def test_a_replica_that_is_cut_off_refuses_what_it_has_given_to_nobody_and_mints_no_ballot_twice():
    story = Estate(3)
    use(story, 1, b"old", 1)
    assert story[3].core.status().accepting
    story.isolate(3)
    claims = story.tap(Prepare)
    story[3].put(b"new", b"1")
    story[3].put(b"old", b"2")
    story.wait(2 * SUSPICION_S)
    assert [(each.command.sequence, each.reason, each.definite) for each in story[3].rejections] == [
        (2, Reason.NOT_LEADER, True)
    ]
    assert not story[3].core.status().accepting
    story[3].put(b"new", b"3")
    assert (story[3].rejections[-1].reason, story[3].rejections[-1].definite) == (Reason.NOT_LEADER, True)
    story.wait(2 * SUSPICION_S)
    # What had been forwarded to its owner may have arrived there.
    assert [(each.command.sequence, each.definite) for each in story[3].rejections] == [
        (2, True),
        (4, True),
        (3, False),
    ]
    story.heal()
    story.wait(1.0)
    assert story[3].core.status().accepting
    done = story[3].put(b"new", b"4")
    story.wait(0.1)
    assert story[3].results[done] == Written(1)
    # The first ballot was heard by nobody, and is not used again.
    assert {claim.ballot.round for sender, _, message in claims if sender == 3 for claim in message.claims} == {2}


def test_an_owner_that_is_cut_off_does_not_keep_its_clients_waiting():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.isolate(1)
    story[1].put(b"x", b"2")
    story.wait(4 * SUSPICION_S)
    assert [(each.reason, each.definite) for each in story[1].rejections] == [(Reason.LOST, False)]
    done = story[2].put(b"x", b"3")
    story.wait(0.1)
    assert done in story[2].results


def test_a_claim_that_is_only_repeated_is_no_news():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.lose = lambda sender, to, message: isinstance(message, Promised) and to == 1
    story[1].crash()
    story[1].start()
    story[1].put(b"x", b"never gets its promises")
    done = story[2].put(b"x", b"by 2")
    story.wait(8 * SUSPICION_S)
    assert done in story[2].results


# ------------------------------------------------------------------------------------------------- durable before told


def test_nothing_is_told_before_it_is_durable():
    story = Estate(3)
    for holder in story.holders:
        holder.syncs = False
    told = story.tap(Prepare)
    story[1].put(b"x", b"1")
    story.settle()
    assert not told
    story[1].sync()
    promised = story.tap(Promised)
    story.settle()
    assert not promised
    story[2].sync()
    story.settle()
    assert promised
    assert story[1].owns(b"x")
    accepted = story.tap(Accepted)
    story.settle()
    assert not accepted
    story[2].sync()
    story.settle()
    assert accepted
    assert story[1].value(b"x") is None
    # The own vote is the second that is needed, and waits for the own disk.
    story[1].sync()
    assert story[1].value(b"x") == b"1"


@trap("vote before its sync")
def test_a_vote_that_was_not_durable_has_not_been_given(spec):
    story = Estate(3, spec=spec)
    use(story, 1, b"x", 1)
    story[1].syncs = story[2].syncs = False
    story.lose = lambda sender, to, message: to == 3
    done = story[1].put(b"x", b"in memory")
    story.settle()
    answered = done in story[1].results
    for replica in (1, 2):
        story[replica].crash(state_survives=False)
        story[replica].syncs = True
        story[replica].start()
    story.lose = lambda sender, to, message: False
    story.wait(4.0)
    use(story, 3, b"x", 1)
    story.wait(1.0)
    assert story[3].revision(b"x") == 2 + answered


@trap("promise lost on restart")
def test_a_member_that_restarted_does_not_vote_for_an_owner_that_it_helped_to_replace(spec):
    story = Estate(3, spec=spec)
    use(story, 1, b"x", 1)
    story.isolate(1)
    story.wait(SUSPICION_S + 0.1)
    # Replica 3 takes over with the promise of replica 2, and proposes where nobody hears it yet.
    story.lose = lambda sender, to, message: isinstance(message, Accept) and sender == 3
    story[3].put(b"x", b"by 3")
    story.settle()
    assert story[3].owns(b"x")
    story[2].crash()
    story[2].start()
    story.heal()
    story.cut = {(1, 3), (3, 1)}
    story[1].inner._contacts.start()  # or it would take itself to be cut off still
    done = story[1].put(b"x", b"by 1")
    story.settle()
    decided = done in story[1].results
    story.lose = lambda sender, to, message: False
    story.heal()
    story.wait(3.0)
    assert not decided
    assert story.value(b"x") is not None


def test_an_owner_that_restarts_claims_anew_and_no_ballot_is_minted_twice():
    story = Estate(3)
    claims = story.tap(Prepare)
    for number in range(4):
        done = story[1].put(b"x", b"%d" % number)
        story.settle()
        assert done in story[1].results
        story[1].crash(state_survives=number % 2 == 0)
        story[1].start()
        story.settle()
    minted = [claim.ballot for sender, to, message in claims if to == 2 for claim in message.claims]
    assert len(minted) == 4
    assert len(set(minted)) == 4
    assert minted == sorted(minted)


def test_all_lose_power_and_nothing_that_was_acknowledged_is_lost():
    story = Estate(3)
    for key in (b"a", b"b", b"c"):
        use(story, 2, key, 5)
    story[3].take_snapshot()
    use(story, 1, b"a", 2)
    for holder in story.holders:
        holder.crash(state_survives=False)
    for holder in story.holders:
        holder.start()
    story.wait(3.0)
    assert [story.value(key) for key in (b"a", b"b", b"c")] == [b"1 by 1", b"4 by 2", b"4 by 2"]


def test_a_replica_whose_disk_is_not_admitted_learns_and_neither_votes_nor_claims():
    story = Estate(3, voting=False)
    story[1].put(b"x", b"1")
    assert story[1].rejections[0].reason == Reason.NOT_LEADER
    assert story[1].rejections[0].definite


# ------------------------------------------------------------------------------------------------------------ catch-up


def test_what_a_snapshot_covers_is_discarded_object_by_object():
    story = Estate(3)
    use(story, 1, b"x", 20)
    use(story, 1, b"y", 2)
    assert len(story[2].disk.view["log"]) == 22
    story[2].take_snapshot()
    story.wait(0.1)
    assert not story[2].disk.view["log"]
    use(story, 1, b"x", 1)
    assert len(story[2].disk.view["log"]) == 1
    assert not story[2].held(b"x").entries


def test_a_replica_that_missed_everything_is_handed_every_object():
    story = Estate(3)
    story.isolate(3)
    for number in range(40):
        use(story, 1, b"k%d" % number, 3)
    for replica in (1, 2):
        story[replica].take_snapshot()
    story.heal()
    story.wait(2.0)
    assert all(story[3].value(b"k%d" % number) == b"2 by 1" for number in range(40))
    # The images survive a restart that loses the state, until a snapshot holds them.
    story[3].crash(state_survives=False)
    story[3].start()
    assert story[3].value(b"k7") == b"2 by 1"
    story[3].take_snapshot()
    story.wait(0.1)
    assert not story[3].disk.view["images"]


def test_a_decision_nobody_announced_again_is_found_by_comparing():
    story = Estate(3)
    use(story, 1, b"x", 1)
    story.lose = lambda sender, to, message: to == 3 and isinstance(message, Accept | Decided)
    use(story, 1, b"x", 1)
    assert story[2].value(b"x") != story[3].value(b"x") or story[3].revision(b"x") == 1
    story.lose = lambda sender, to, message: to == 3 and isinstance(message, Accept | Decided)
    story.wait(2.0)
    assert story[3].revision(b"x") == 2


def test_a_state_that_was_replaced_by_that_of_a_peer_delivers_the_rest_again():
    story = Estate(3)
    use(story, 1, b"x", 3)
    use(story, 2, b"y", 3)
    held = story[3]
    inner = held.inner
    inner._core.begin(held.clock)
    inner._logs.stand_at({"x": 2})
    inner._settle_again = inner._settle()
    again = [(each.object, each.position) for each in inner._settle_again.deliveries]
    assert again == [("x", 3), ("y", 1), ("y", 2), ("y", 3)]
    inner.check()


def test_every_planted_bug_has_a_story():
    assert told == set(BUGS)
