"""The coordinator over a protocol that does what the test tells it."""

from __future__ import annotations

import random

import msgspec
import pytest

from replica.consensus.codec import Codec, MalformedValue
from replica.consensus.interface import (
    Capabilities,
    Command,
    Configuration,
    ConfigurationError,
    Context,
    Discard,
    Effects,
    Event,
    Member,
    Message,
    Options,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    ReadRequested,
    Reason,
    Record,
    Sealed,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    Status,
    TimerFired,
    validate_configuration,
)
from replica.storage.coordinator import ANCHOR_KEY, META_TABLE, Anchor, Coordinator


class Note(Record, frozen=True, tag=1):
    text: str


class Word(Message, frozen=True, tag=1):
    text: str


class NoOptions(msgspec.Struct, frozen=True):
    pause_s: float = 1.0


class Scripted(Protocol):
    """Returns the effects that were laid out for it, and remembers what it was told."""

    def __init__(self, context: Context, options: NoOptions) -> None:
        self.context = context
        self.options = options
        self.script: list[Effects] = []
        self.told: list[list[Event]] = []

    def start(self, now):
        return Effects()

    def step(self, now, events):
        self.told.append(list(events))
        return self.script.pop(0) if self.script else Effects()

    def snapshot_mark(self, frontier):
        return f"mark of {frontier}".encode()

    def status(self):
        return Status(role="scripted", leader=None, ballot="", decided=0, delivered=0, accepting=True)


SPEC = ProtocolSpec(
    name="scripted",
    summary="for tests",
    capabilities=Capabilities(
        total_order=True,
        transactions=True,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset({"log"}),
        routing="leader",
        crash_recovery=True,
        reconfiguration=True,
    ),
    messages=(Word,),
    tables={"notes": Note},
    options=NoOptions,
    create=Scripted,
    validate=lambda configuration, options: None,
)

CONFIGURATION = Configuration(1, (Member(1), Member(2)), "scripted")


class Nothing:
    def get(self, table, key):
        return None

    def scan(self, table, first, last):
        return iter(())


def coordinator(spec: ProtocolSpec = SPEC, anchor: Anchor | None = None, **arguments) -> Coordinator:
    return Coordinator(
        lambda name: spec,
        replica=1,
        anchor=anchor or Anchor(CONFIGURATION),
        stable=lambda _: Nothing(),
        randomness=random.Random(1),
        incarnation=1,
        applied=arguments.pop("applied", 0),
        **arguments,
    )


def scripted(driven: Coordinator) -> Scripted:
    assert isinstance(driven.protocol, Scripted)
    return driven.protocol


def put(text: str) -> Put:
    return Put("notes", text.encode(), Note(text))


def test_the_writes_of_a_turn_make_one_group_and_messages_wait_for_the_tickets_they_name():
    driven = coordinator()
    scripted(driven).script = [
        Effects(
            persists=[Persist(1, (put("a"),)), Persist(2, (put("b"),))],
            sends=[Send((2,), Word("now")), Send((2,), Word("after 1"), 1), Send((2,), Word("after 2"), 2)],
        )
    ]
    turn = driven.step(0.0, [TimerFired("x")])
    assert turn.group == 1
    assert turn.writes == [put("a"), put("b")]
    assert [send.message for send in turn.sends] == [Word("now")]
    released = driven.durable(0.0, 1)
    assert [send.message for send in released.sends] == [Word("after 1"), Word("after 2")]
    assert scripted(driven).told[-1] == [Persisted(1), Persisted(2)]


def test_a_message_for_a_ticket_that_is_durable_leaves_at_once():
    driven = coordinator()
    scripted(driven).script = [Effects(persists=[Persist(1, (put("a"),))])]
    driven.step(0.0, [TimerFired("x")])
    driven.durable(0.0, 1)
    scripted(driven).script = [Effects(sends=[Send((2,), Word("late"), 1)])]
    assert len(driven.step(0.0, [TimerFired("x")]).sends) == 1


def test_several_groups_may_become_durable_together_and_each_once():
    driven = coordinator()
    scripted(driven).script = [
        Effects(persists=[Persist(ticket, (put("a"),))], sends=[Send((2,), Word(str(ticket)), ticket)])
        for ticket in (1, 2, 3)
    ]
    assert [driven.step(0.0, [TimerFired("x")]).group for _ in range(3)] == [1, 2, 3]
    assert [send.message for send in driven.durable(0.0, 2).sends] == [Word("1"), Word("2")]
    assert driven.durable(0.0, 2).sends == []
    assert driven.durable_group == 2
    with pytest.raises(ValueError, match="never issued"):
        driven.durable(0.0, 9)


def test_due_timers_fire_after_the_events_of_the_turn_in_the_order_of_their_times():
    driven = coordinator()
    scripted(driven).script = [Effects(timers={"late": 3.0, "early": 1.0, "never": 9.0})]
    driven.step(0.0, [TimerFired("x")])
    assert driven.next_deadline() == 1.0
    driven.step(5.0, [ReadRequested(1)])
    assert scripted(driven).told[-1] == [ReadRequested(1), TimerFired("early"), TimerFired("late")]
    assert driven.next_deadline() == 9.0
    scripted(driven).script = [Effects(timers={"never": None})]
    driven.step(5.0, [ReadRequested(2)])
    assert driven.next_deadline() is None


def test_a_turn_without_events_or_due_timers_does_not_disturb_the_protocol():
    driven = coordinator()
    driven.step(0.0, [])
    assert scripted(driven).told == []


def test_between_the_seal_and_the_switch_everything_is_refused_definitely():
    driven = coordinator()
    following = Configuration(2, (Member(1), Member(3)), "scripted")
    scripted(driven).script = [Effects(sealed=Sealed(7, following), timers={"x": 1.0})]
    assert driven.step(0.0, [TimerFired("x")]).sealed == Sealed(7, following)
    assert driven.next_deadline() is None
    turn = driven.step(2.0, [Proposed((Command(b"c"),)), ReadRequested(4)])
    assert [(r.reason, r.definite) for r in turn.rejections] == [(Reason.SEALED, True)]
    assert [(r.token, r.reason) for r in turn.refused_reads] == [(4, Reason.SEALED)]

    anchor = driven.anchor_after_seal("snapshot")
    assert anchor == Anchor(following, frontier=7, base=7, snapshot="snapshot")
    writes = driven.anchor_writes(anchor)
    assert writes[0] == Put(META_TABLE, ANCHOR_KEY, anchor)
    assert [write.table for write in writes[1:] if isinstance(write, Discard)] == ["notes"]
    driven.switch(3.0, anchor, installed=False)
    assert (driven.epoch, driven.sealed) == (2, None)
    context = scripted(driven).context
    assert (context.applied, context.base, context.snapshot) == (7, 7, 7)


def test_a_snapshot_in_the_same_epoch_is_reported_to_the_protocol_that_goes_on():
    driven = coordinator()
    before = driven.protocol
    taken = Anchor(CONFIGURATION, frontier=5, snapshot="own")
    assert driven.anchor_writes(taken) == [Put(META_TABLE, ANCHOR_KEY, taken)]
    driven.switch(0.0, taken, installed=False)
    driven.switch(0.0, Anchor(CONFIGURATION, frontier=9, snapshot="fetched"), installed=True)
    assert driven.protocol is before
    assert scripted(driven).told == [[SnapshotTaken(5)], [SnapshotInstalled(9)]]


def test_what_a_protocol_says_about_a_snapshot_goes_with_it_to_whoever_stands_on_it():
    driven = coordinator(anchor=Anchor(CONFIGURATION, base=3, snapshot="older"))
    taken = driven.anchor_at(5, "own")
    assert taken == Anchor(CONFIGURATION, frontier=5, base=3, snapshot="own", mark=b"mark of 5")
    elsewhere = coordinator(anchor=Anchor(CONFIGURATION, base=3))
    elsewhere.switch(0.0, taken, installed=True)
    assert scripted(elsewhere).told == [[SnapshotInstalled(5, b"mark of 5")]]
    restarted = coordinator(anchor=elsewhere.anchor)
    assert scripted(restarted).context.snapshot_mark == b"mark of 5"


def test_no_switch_while_a_group_is_in_flight_and_none_backwards():
    driven = coordinator(anchor=Anchor(msgspec.structs.replace(CONFIGURATION, epoch=3)))
    with pytest.raises(ValueError, match="behind the present epoch"):
        driven.switch(0.0, Anchor(CONFIGURATION), installed=False)
    with pytest.raises(ValueError, match="not sealed"):
        driven.anchor_after_seal("x")
    scripted(driven).script = [Effects(persists=[Persist(1, (put("a"),))])]
    driven.step(0.0, [TimerFired("x")])
    with pytest.raises(ValueError, match="in flight"):
        driven.switch(0.0, Anchor(driven.configuration, frontier=1), installed=True)


def test_the_table_of_the_storage_is_not_for_protocols():
    with pytest.raises(ValueError, match="reserved table 'meta'"):
        coordinator(msgspec.structs.replace(SPEC, tables={"meta": Note}))


def test_an_admission_is_passed_on():
    driven = coordinator(voting=False)
    assert not scripted(driven).context.voting
    driven.admit(0.0)
    assert driven.voting
    assert len(scripted(driven).told) == 1


@pytest.mark.parametrize(
    ("ids", "options", "named"),
    [
        ((), {}, "at least one"),
        ((0, 1), {}, "not a positive"),
        ((1, 1), {}, "more than once"),
        ((1,), {"speed": 3}, r"options\.speed"),
        ((1,), {"pause_s": "long"}, "pause_s"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_naming_the_field(ids: tuple[int, ...], options: Options, named):
    with pytest.raises(ConfigurationError, match=named):
        validate_configuration(SPEC, Configuration(1, tuple(map(Member, ids)), "scripted", options))


def test_a_configuration_knows_its_members():
    configuration = Configuration(1, (Member(3, zone="b"), Member(1, zone="a")), "scripted")
    assert configuration.replicas == (1, 3)
    assert configuration.member(3) == Member(3, zone="b")
    assert configuration.member(2) is None


def test_bytes_that_are_no_message_or_record_are_told_apart():
    codec = Codec(SPEC)
    assert codec.decode_message(codec.encode(Word("hello"))) == Word("hello")
    assert codec.decode_record("notes", codec.encode(Note("hello"))) == Note("hello")
    with pytest.raises(MalformedValue):
        codec.decode_message(b"\xc1")
    with pytest.raises(MalformedValue):
        codec.decode_record("notes", codec.encode(Word("hello"))[:-1])
    with pytest.raises(KeyError):
        codec.decode_record("unknown", b"")
