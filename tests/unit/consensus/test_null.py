"""The protocol without replication, told as stories."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from replica.consensus.interface import Command, ConfigurationError, CorruptRecord, Proposed, Reason
from replica.consensus.null import PROTOCOL
from replica.storage.coordinator import Anchor

from .story import Story


def alone(**options) -> Story:
    return Story(1, spec=PROTOCOL, options=options)


def test_a_command_is_delivered_when_it_is_durable():
    story = alone()
    story[1].syncs = False
    story[1].propose(b"a", b"b")
    assert story[1].log == []
    story[1].sync()
    assert story[1].log == [b"a", b"b"]
    assert story[1].applied == 1


def test_batches_are_cut():
    story = alone(batch_max=2, batch_bytes_max=10)
    story[1].propose(b"a", b"b", b"c", b"d" * 20, b"e")
    assert [len(story[1].state[slot]) for slot in sorted(story[1].state)] == [2, 1, 1, 1]


def test_a_restart_delivers_what_the_state_lacks_and_reuses_no_slot():
    story = alone()
    story[1].propose(b"a")
    story[1].syncs = False
    story[1].propose(b"b")
    story[1].propose(b"c")
    story[1].crash(keep_writes=1)
    story[1].syncs = True
    story[1].start()
    story[1].propose(b"d")
    assert story[1].log == [b"a", b"b", b"d"]


def test_a_long_replay_is_spread_over_turns_and_comes_before_what_is_new():
    story = alone(batch_max=1)
    for _ in range(5):
        story[1].propose(*(b"%d" % number for number in range(900)))
    story[1].crash(state_survives=False)
    story[1].log.clear()
    story[1].start()
    story[1].read(1)
    story[1].propose(b"new")
    assert len(story[1].log) < 4500
    assert story[1].granted == {}, "what it must cover is still being replayed"
    story.wait(0.1)
    assert len(story[1].log) == 4501
    assert story[1].log[-1] == b"new"
    assert story[1].granted[1] >= 4500


def test_the_log_is_cut_behind_a_snapshot():
    story = alone()
    for payload in (b"a", b"b", b"c"):
        story[1].propose(payload)
    story[1].take_snapshot()
    assert not story[1].disk.durable["log"]
    story[1].crash(state_survives=False)
    story[1].start()
    story[1].propose(b"d")
    assert story[1].applied == 4


def test_overload_is_refused_definitely_and_passes():
    story = alone(queue_max=2)
    story[1].syncs = False
    story[1].step(Proposed(tuple(Command(b"%d" % number) for number in range(4))))
    assert [(r.command.payload, r.reason, r.definite) for r in story[1].rejections] == [
        (b"2", Reason.OVERLOADED, True),
        (b"3", Reason.OVERLOADED, True),
    ]
    assert not story[1].core.status().accepting
    story[1].sync()
    assert story[1].core.status().accepting


def test_a_state_restored_from_elsewhere_is_gone_on_from():
    story = alone()
    story[1].propose(b"a")
    story[1].applied = 7
    story[1]._switch(Anchor(story.configuration, 7, 0, "backup"), True)
    story[1].propose(b"b")
    assert story[1].applied == 8
    assert list(story[1].disk.durable["log"]) == [(8).to_bytes(8, "big")]


def test_what_cannot_be_is_refused_definitely():
    story = alone(queue_max=1)
    story[1].propose(bytes(4 << 20))
    assert story[1].rejections[0].reason == Reason.UNSUPPORTED
    following = replace(story.configuration, epoch=2)
    story[1].reconfigure(1, replace(following, epoch=3))
    story[1].syncs = False
    story[1].reconfigure(2, following)
    story[1].reconfigure(3, following)
    assert [(r.token, r.reason) for r in story[1].refused_reads] == [(1, Reason.UNSUPPORTED), (3, Reason.SEALED)]


def test_a_seal_ends_the_epoch_and_is_reached_again_after_a_restart():
    story = alone()
    following = replace(story.configuration, epoch=2)
    story[1].propose(b"a")
    story[1].syncs = False
    story[1].reconfigure(5, following)
    story[1].propose(b"late")
    assert story[1].rejections[0].reason == Reason.SEALED
    story[1].read(6)
    assert story[1].granted == {6: 1}
    story[1].sync()
    assert story[1].core.sealed is not None
    assert story[1].core.sealed.frontier == 2
    story[1].syncs = True
    story[1].crash(state_survives=False)
    story[1].start()
    assert story[1].core.sealed is not None
    assert story[1].core.sealed.configuration == following
    story[1].next_epoch()
    story[1].propose(b"b")
    assert story[1].applied == 3


def test_a_replica_that_is_not_admitted_takes_nothing():
    story = Story(1, spec=PROTOCOL, voting=False)
    story[1].propose(b"a")
    story[1].read(1)
    assert story[1].rejections[0].reason == Reason.NOT_LEADER
    assert story[1].refused_reads[0].reason == Reason.NOT_LEADER
    story[1].carry_out(story[1].core.admit(0.0))
    story[1].propose(b"b")
    assert story[1].log == [b"b"]


def test_a_missing_slot_is_corruption():
    story = alone(batch_max=1)
    story[1].propose(b"a", b"b", b"c")
    story[1].crash(state_survives=False)
    del story[1].disk.view["log"][(2).to_bytes(8, "big")]
    with pytest.raises(CorruptRecord, match="missing"):
        story[1].start()


def test_more_than_one_member_is_refused():
    with pytest.raises(ConfigurationError, match="takes one member, not 3"):
        Story(3, spec=PROTOCOL)
