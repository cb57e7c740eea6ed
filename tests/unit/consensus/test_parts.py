"""Ballots, the log window, the registry and options by themselves."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Iterator
from typing import Any

import pytest

from replica.consensus.ballots import NEVER, Ballot, no_ballot
from replica.consensus.interface import (
    Configuration,
    ConfigurationError,
    Context,
    Discard,
    Member,
    Put,
    Record,
    validate_configuration,
)
from replica.consensus.multipaxos import FPAXOS, PROTOCOL
from replica.consensus.multipaxos.messages import Progress, Promised
from replica.consensus.multipaxos.options import FPaxosOptions, quorums_of
from replica.consensus.multipaxos.recovery import END, Answer
from replica.consensus.quorums import Grid
from replica.consensus.registry import BUILT_IN, available, find_protocol
from replica.consensus.turn import TurnState
from replica.consensus.window import SLOT_MAX, Entry, Window, slot_key, slot_of


def configuration(n: int = 3, protocol: str = "multipaxos", zones: str = "", **options: Any) -> Configuration:
    members = tuple(Member(replica, zone=zones[replica - 1 : replica]) for replica in range(1, n + 1))
    return Configuration(1, members, protocol, options)


def test_ballots_are_ordered_by_epoch_then_round_then_replica():
    ascending = [NEVER, no_ballot(1), Ballot(1, 1, 1), Ballot(1, 1, 2), Ballot(1, 2, 1), no_ballot(2)]
    assert sorted([*ascending[3:], *ascending[:3]]) == ascending
    assert str(Ballot(1, 2, 3)) == "1.2.3"


def test_a_successor_is_above_all_that_was_seen():
    ballot = Ballot(4, 2, 3)
    assert ballot.successor(1) == Ballot(4, 3, 1)
    assert ballot.successor(1, round_seen=7) == Ballot(4, 8, 1)


def test_slot_keys_sort_as_slots_do():
    slots = [0, 1, 255, 256, 1 << 40, SLOT_MAX]
    assert sorted(slot_key(slot) for slot in slots) == [slot_key(slot) for slot in slots]
    assert [slot_of(slot_key(slot)) for slot in slots] == slots


def test_a_turn_reads_what_it_has_written_and_discarded_over_what_is_on_disk():
    class OnDisk:
        def get(self, table: str, key: bytes) -> Record | None:
            return None

        def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
            rows = {b"1": 1, b"3": 3, b"5": 5, b"7": 7}
            yield from ((key, Progress(decided, 0)) for key, decided in rows.items() if first <= key < last)

    turn = TurnState(
        Context(
            replica=1,
            configuration=configuration(),
            stable=OnDisk(),
            randomness=random.Random(1),
            incarnation=1,
            applied=0,
        )
    )
    turn.begin(0.0)

    def put(key: bytes, decided: int) -> None:
        turn.writes.append(Put("log", key, Progress(decided, 0)))

    def seen(first: bytes, last: bytes) -> list[tuple[bytes, int]]:
        records = turn.scan("log", first, last)
        return [(key, record.decided) for key, record in records if isinstance(record, Progress)]

    assert seen(b"1", b"7") == [(b"1", 1), (b"3", 3), (b"5", 5)]
    for key in (b"0", b"2", b"3", b"4", b"6", b"9"):
        put(key, 10)
    turn.writes.append(Put("other", b"2", Progress(99, 0)))
    turn.writes.append(Discard("log", b"2", b"4"))
    turn.writes.append(Discard("other", b"0", b"9"))
    assert seen(b"0", b"9") == [(b"0", 10), (b"1", 1), (b"4", 10), (b"5", 5), (b"6", 10), (b"7", 7)]
    put(b"5", 12)
    assert seen(b"4", b"6") == [(b"4", 10), (b"5", 12)], "once, as it was written last"
    put(b"3", 11)
    assert seen(b"3", b"6") == [(b"3", 11), (b"4", 10), (b"5", 12)], "written again after it was discarded"
    turn.writes.append(Discard("log", b"5", b"6"))
    assert seen(b"4", b"\xff") == [(b"4", 10), (b"6", 10), (b"7", 7), (b"9", 10)]


def test_a_window_holds_what_lies_within_and_moves_on():
    window: Window[Entry] = Window(first=3, capacity=4)
    for slot in (3, 5, 6):
        window.put(slot, Entry(Ballot(1, 1, 1), b"v", 1))
    assert list(window.gaps(6)) == [4]
    assert window.highest == 6
    with pytest.raises(AssertionError):
        window.put(7, Entry(Ballot(1, 1, 1), b"v", 1))
    window.pop_first()
    assert (window.first, window.limit) == (4, 8)
    window.jump(6)
    assert list(window.entries) == [6]
    window.jump(100)
    assert not window.entries
    assert window.highest == 99
    with pytest.raises(AssertionError):
        window.jump(99)


def test_an_entry_says_how_far_it_is():
    entry = Entry(Ballot(1, 1, 1), b"value", 7)
    assert repr(entry) == "<Entry 1.1.1 5 bytes, accepted, ticket 7>"
    entry.acks = {3, 1}
    assert "acks [1, 3]" in repr(entry)
    entry.decided = True
    assert "decided" in repr(entry)


def test_the_parts_of_a_promise_are_whole_once_they_cover_everything_however_they_come():
    def part(first: int, end: int, decided: int = 0) -> Promised:
        return Promised(Ballot(1, 1, 1), decided=decided, first=first, end=end, reports=())

    answer = Answer()
    answer.add(part(1, 5))
    answer.add(part(9, END))
    assert not answer.complete(1)
    assert answer.complete(9)
    answer.add(part(5, 7))
    answer.add(part(5, 9))
    assert answer.complete(1), "a part that came again, and reached further"
    answer.add(part(5, 6))
    assert answer.complete(1), "an old copy of it takes nothing back"
    again = Answer()
    again.add(part(1, 5))
    again.add(part(1, END))
    assert again.complete(1)
    again.add(part(1, 3))
    assert again.complete(1)
    known = Answer()
    known.add(part(8, END, decided=7))
    assert known.complete(1), "what is decided need not be reported"


def test_the_protocols_of_the_tree_are_found_by_name():
    for name in BUILT_IN:
        assert find_protocol(name).name == name
        assert name in available()


def test_an_unknown_protocol_is_refused_with_what_there_is():
    with pytest.raises(ConfigurationError, match=r"no protocol 'raftos' \(there are: .*fpaxos, multipaxos"):
        find_protocol("raftos")


def test_a_protocol_can_be_loaded_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from replica.consensus.null import PROTOCOL as MINE\nNOT_ONE = 3\n")
    assert find_protocol(f"{path}:MINE").name == "null"
    assert find_protocol(f"{path}:MINE") is find_protocol(f"{path}:MINE")
    with pytest.raises(ConfigurationError, match="defines no 'OTHER'"):
        find_protocol(f"{path}:OTHER")
    with pytest.raises(ConfigurationError, match="int, not a ProtocolSpec"):
        find_protocol(f"{path}:NOT_ONE")
    with pytest.raises(ConfigurationError, match="could not be read"):
        find_protocol(f"{tmp_path}/absent.py:MINE")


def test_two_packages_that_offer_one_name_are_told_apart(monkeypatch):
    intruder = importlib.metadata.EntryPoint("null", "elsewhere:PROTOCOL", "synod.protocols")
    broken = importlib.metadata.EntryPoint("broken", "nowhere.at_all:PROTOCOL", "synod.protocols")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: (intruder, broken))
    with pytest.raises(ConfigurationError, match="more than once"):
        find_protocol("null")
    assert "broken" in available()
    with pytest.raises(ConfigurationError, match="could not be loaded"):
        find_protocol("broken")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"heartbeat_s": 0}, "heartbeat_s"),
        ({"election_timeout_max_s": 0.4}, "election_timeout_max_s"),
        ({"heartbeat_s": 0.3}, "election_timeout_min_s"),
        ({"batch_max": 0}, "batch_max"),
        ({"batch_bytes_max": 4 << 20}, "batch_bytes_max"),
        ({"chunk_bytes_max": 2 << 20}, "chunk_bytes_max"),
        ({"tail_slots": -1}, "tail_slots"),
        ({"reads_max": 0}, "reads_max"),
        ({"commit_delay_s": -1}, "commit_delay_s"),
        ({"q1": 2}, "no such option"),
    ],
)
def test_an_option_that_cannot_work_is_refused_by_name(options, named):
    with pytest.raises(ConfigurationError, match=named):
        validate_configuration(PROTOCOL, configuration(**options))


@pytest.mark.parametrize(
    ("n", "options", "sizes"),
    [(5, {}, (3, 3)), (4, {}, (2, 3)), (5, {"q2": 2}, (4, 2)), (5, {"q1": 4}, (4, 2)), (5, {"q1": 5, "q2": 3}, (5, 3))],
)
def test_the_size_that_is_left_out_is_the_least_that_intersects(n, options, sizes):
    given = configuration(n, "fpaxos", **options)
    quorums = quorums_of(given, validate_configuration(FPAXOS, given))
    assert (quorums.phase1_size, quorums.phase2_size) == sizes


def test_a_grid_is_made_of_zones():
    given = configuration(6, "fpaxos", zones="aabbcc", quorums="grid")
    quorums = quorums_of(given, validate_configuration(FPAXOS, given))
    assert isinstance(quorums, Grid)
    assert quorums.phase1({3, 4})
    assert quorums.phase2({1, 4, 5})
    for zones, options, named in (
        ("aab", {}, "same number"),
        ("aa ", {}, "same number"),
        ("", {}, "has no zone"),
        ("abc", {"q1": 2}, "leave them out"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            validate_configuration(FPAXOS, configuration(3, "fpaxos", zones=zones, quorums="grid", **options))
    with pytest.raises(ConfigurationError, match="neither 'counted' nor 'grid'"):
        validate_configuration(FPAXOS, configuration(3, "fpaxos", quorums="magic"))


def test_options_of_the_flexible_variant_extend_the_others():
    assert issubclass(FPaxosOptions, PROTOCOL.options)


def test_an_id_is_never_given_again():
    again = Configuration(3, (Member(2), Member(3)), "multipaxos", {}, retired=(1, 3))
    with pytest.raises(ConfigurationError, match="replica id 3 has been used before"):
        validate_configuration(PROTOCOL, again)
