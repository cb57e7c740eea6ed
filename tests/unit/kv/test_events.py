"""What a watch is told of the history."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import replica.kv.history
from replica.kv.events import Piece, Place, Selection, piece_of
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import (
    SYSTEM_PREFIX,
    Compact,
    Delete,
    DeleteRange,
    GrantLease,
    KeyValue,
    Put,
    RevokeLease,
    Transaction,
    WatchBatch,
    WatchEvent,
)

from .scripts import bounds, commit_points, lease_scripts, scripts
from .support import STORES, Replica

EVERYTHING = Selection(b"", b"")


def told(
    machine: StateMachine,
    selection: Selection = EVERYTHING,
    after: int = 0,
    *,
    writes_max: int = 1000,
    bytes_max: int = 1 << 20,
) -> list[WatchBatch]:
    """Everything that a watch is told from ``after`` on, put together again as a client does."""
    batches: list[WatchBatch] = []
    place = Place(after)
    open_events: tuple[WatchEvent, ...] = ()
    while place.after < machine.revision:
        piece = piece_of(
            machine.history,
            selection,
            place,
            until=machine.revision,
            writes_max=writes_max,
            bytes_max=bytes_max,
        )
        assert (piece.place.after, piece.place.writes) > (place.after, place.writes), "every piece gets on"
        for index, batch in enumerate(piece.batches):
            events = open_events + batch.events
            open_events = ()
            if piece.partial and index == len(piece.batches) - 1:
                open_events = events
            elif events:
                batches.append(WatchBatch(batch.revision, events))
        place = piece.place
    return batches


def keys_of(batches: list[WatchBatch]) -> list[tuple[int, list[bytes]]]:
    return [(batch.revision, [event.key for event in batch.events]) for batch in batches]


def test_each_revision_is_one_batch(replica):
    replica.do(Put(b"a", b"1"), Transaction((), (Put(b"b", b"2"), Delete(b"a"))), Put(b"c", b"3"))
    assert told(replica.machine) == [
        WatchBatch(1, (WatchEvent(KeyValue(b"a", b"1", 1, 1, 1)),)),
        WatchBatch(2, (WatchEvent(KeyValue(b"b", b"2", 2, 2, 1)), WatchEvent(KeyValue(b"a", b"", 0, 2, 0)))),
        WatchBatch(3, (WatchEvent(KeyValue(b"c", b"3", 3, 3, 1)),)),
    ]
    assert [event.deleted for event in told(replica.machine)[1].events] == [False, True]


def test_a_watch_is_told_what_lies_in_its_interval_and_what_it_asked_for(replica):
    replica.do(Put(b"a", b"1"), Put(b"b", b"2"), Delete(b"a"), Put(b"c", b"3"), Delete(b"b"))
    machine = replica.machine
    assert keys_of(told(machine, Selection(b"a", b"b"))) == [(1, [b"a"]), (3, [b"a"])]
    assert keys_of(told(machine, Selection(b"", b"", puts=False))) == [(3, [b"a"]), (5, [b"b"])]
    assert keys_of(told(machine, Selection(b"b", b"", deletes=False))) == [(2, [b"b"]), (4, [b"c"])]
    assert keys_of(told(machine, EVERYTHING, after=4)) == [(5, [b"b"])]


def test_previous_values_are_told_to_whoever_asks(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Delete(b"a"), Put(b"a", b"3"))
    batches = told(replica.machine, Selection(b"", b"", previous=True))
    before = [batch.events[0].previous for batch in batches]
    assert [None if item is None else item.value for item in before] == [None, b"1", b"2", None]


def test_what_compaction_has_forgotten_is_no_previous_value(replica):
    replica.do(Put(b"a", b"1"), Put(b"a", b"2"), Put(b"a", b"3"), Compact(2))
    replica.machine.commit()
    batches = told(replica.machine, Selection(b"", b"", previous=True), after=2)
    assert [event.previous and event.previous.value for event in batches[0].events] == [b"2"]
    replica.do(Compact(3), Put(b"b", b""))
    replica.machine.commit()
    (batch,) = told(replica.machine, Selection(b"", b"", previous=True), after=3)
    assert batch.events[0].previous is None


def test_keys_of_the_system_are_told_to_whoever_watches_them(replica):
    replica.do(Put(SYSTEM_PREFIX + b"x", b""), system=True)
    assert told(replica.machine) == []
    assert len(told(replica.machine, Selection(SYSTEM_PREFIX, b""))) == 1


def test_the_end_of_a_lease_is_told_as_the_deletions_that_it_is(replica):
    replica.do(GrantLease(1), Put(b"a", b"", 1), Put(b"b", b"", 1), RevokeLease(1))
    batch = told(replica.machine)[-1]
    assert (batch.revision, [(event.key, event.deleted) for event in batch.events]) == (3, [(b"a", True), (b"b", True)])


def test_a_revision_too_large_for_one_piece_is_told_in_several(replica):
    replica.do(*[Put(b"%03d" % n, b"x") for n in range(20)])
    replica.do(DeleteRange(b"", b""), Put(b"z", b""))
    piece = piece_of(replica.machine.history, EVERYTHING, Place(20), until=22, writes_max=1000, bytes_max=10 * (48 + 3))
    assert (piece.partial, piece.place, len(piece.batches[-1].events)) == (True, Place(20, 10), 10)
    assert keys_of(told(replica.machine, EVERYTHING, 20, bytes_max=300)) == [
        (21, [b"%03d" % n for n in range(20)]),
        (22, [b"z"]),
    ]


def test_the_end_of_a_cut_revision_is_told_even_if_nothing_more_of_it_is(replica):
    replica.do(*[Put(b"%d" % n, b"x") for n in range(4)])
    replica.do(DeleteRange(b"", b""))
    selection = Selection(b"", b"2")
    first = piece_of(replica.machine.history, selection, Place(4), until=5, writes_max=9, bytes_max=60)
    assert (first.partial, first.place) == (True, Place(4, 1))
    last = piece_of(replica.machine.history, selection, Place(4, 2), until=5, writes_max=9, bytes_max=60)
    assert last == Piece(Place(5), [WatchBatch(5, ())])


def test_a_piece_looks_at_so_many_writes_and_no_more(replica):
    replica.do(*[Put(b"%d" % n, b"") for n in range(8)])
    piece = piece_of(replica.machine.history, EVERYTHING, Place(0), until=8, writes_max=3, bytes_max=1 << 20)
    assert (piece.place, len(piece.batches)) == (Place(3), 3)
    nothing = piece_of(replica.machine.history, Selection(b"x", b""), Place(0), until=8, writes_max=3, bytes_max=1000)
    assert nothing == Piece(Place(3), [])


@pytest.fixture(params=["bounds as they are", "tiny bounds"])
def pending(request, monkeypatch):
    if request.param == "tiny bounds":
        monkeypatch.setattr(replica.kv.history, "PENDING_KEYS_MAX", 1)
        monkeypatch.setattr(replica.kv.history, "CACHED_KEYS_MAX", 2)
        monkeypatch.setattr(replica.kv.history, "CACHED_VALUE_BYTES_MAX", 4)
        monkeypatch.setattr(replica.kv.history, "RECORD_BYTES_MAX", 40)
        monkeypatch.setattr(replica.kv.history, "BATCH_KEYS_MAX", 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=scripts | lease_scripts,
    interval=st.tuples(bounds, bounds),
    commits=commit_points,
    most=st.tuples(st.integers(1, 5), st.integers(1, 400)),
)
@pytest.mark.parametrize("kind", sorted(STORES))
def test_the_pieces_together_tell_what_the_states_show(pending, kind, script, interval, commits, most):  # noqa: PLR0917
    """Whatever is pending, committed, compacted and cut: the events carry each state over into the next."""
    first, last = interval
    selection = Selection(first, last, previous=True)
    writes_max, bytes_max = most
    with STORES[kind]() as store:
        machine = StateMachine(store, sessions_max=3)
        for position, step in enumerate(script, 1):
            before = machine.revision
            machine.apply(position, [step.command()])
            if machine.history.scavenged > before:
                continue
            batches = told(machine, selection, before, writes_max=writes_max, bytes_max=bytes_max)
            assert [batch.revision for batch in batches] == sorted({batch.revision for batch in batches})
            for batch in batches:
                assert len({event.key for event in batch.events}) == len(batch.events)
                for event in batch.events:
                    assert selection.holds(event.key)
                    assert event.item.mod_revision == batch.revision
                    if batch.revision >= machine.compacted:
                        item = machine.history.at(event.key, batch.revision)
                        assert item == (None if event.deleted else event.item)
            changed = {(revision, key) for revision, key in machine.history.changes(before) if selection.holds(key)}
            assert {(batch.revision, event.key) for batch in batches for event in batch.events} == changed
            if position in commits:
                machine.commit()


def test_whoever_follows_closely_costs_the_store_nothing():
    store = MemoryStore()
    replica = Replica(store)
    replica.do(Put(b"a", b"1"))
    replica.machine.commit()
    replica.do(Put(b"a", b"2"), Put(b"b", b""))
    before = store.contents()
    assert keys_of(told(replica.machine, after=1)) == [(2, [b"a"]), (3, [b"b"])]
    assert store.contents() == before


def test_whoever_follows_closely_leaves_it_to_others_to_write_what_has_become_much(monkeypatch):
    monkeypatch.setattr(replica.kv.history, "PENDING_KEYS_MAX", 2)
    store = MemoryStore()
    follower = Replica(store)
    follower.do(*[Put(b"%d" % n, b"") for n in range(4)])
    before = store.contents()
    assert len(told(follower.machine)) == 4
    assert store.contents() == before
    follower.machine.settle()
    assert store.contents() != before
