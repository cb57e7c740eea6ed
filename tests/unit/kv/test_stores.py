"""What every store must do, and what the one in memory does for the simulator."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica.kv.layout import HISTORY, META, SESSIONS, TABLES, CorruptState, key_of, prefix_of
from replica.kv.machine import DIGEST_STRETCH_KEYS, StateMachine, digest_of
from replica.kv.memory import MemoryStore
from replica.kv.operations import Delete, Get, Got, OpenSession, Put
from replica.storage.state import LmdbStore

from .support import STORES, Replica, command

ROWS = [(b"a", b"1"), (b"b", b"2"), (b"c", b""), (b"\xff\xff", b"4")]


@pytest.fixture
def filled(store):
    store.put_many("t", ROWS)
    return store


def test_a_table_is_empty_until_something_is_put_there(store):
    assert store.get("t", b"a") is None
    assert store.seek("t", b"") is None
    assert store.seek_before("t", b"") is None
    assert list(store.scan("t", b"", b"")) == []
    assert store.count("t") == 0
    assert not store.delete("t", b"a")


def test_reads_see_what_was_written_before_the_commit(filled):
    assert [filled.get("t", key) for key, _ in ROWS] == [value for _, value in ROWS]
    filled.put("t", b"a", b"new")
    assert filled.get("t", b"a") == b"new"
    assert filled.count("t") == 4
    filled.commit()
    assert filled.get("t", b"a") == b"new"


def test_tables_do_not_mix(filled):
    filled.put("u", b"a", b"other")
    assert filled.get("t", b"a") == b"1"
    assert filled.count("u") == 1


def test_seeking_finds_the_neighbours(filled):
    assert filled.seek("t", b"") == ROWS[0]
    assert filled.seek("t", b"b") == ROWS[1]
    assert filled.seek("t", b"b\x00") == ROWS[2]
    assert filled.seek("t", b"\xff\xff\xff") is None
    assert filled.seek_before("t", b"b") == ROWS[0]
    assert filled.seek_before("t", b"") == ROWS[3]
    assert filled.seek_before("t", b"\xff\xff\xff") == ROWS[3]
    assert filled.seek_before("t", b"a") is None


def test_deleting_removes_and_tells(filled):
    assert filled.delete("t", b"a")
    assert not filled.delete("t", b"a")
    filled.delete_many("t", iter([b"b", b"absent"]))
    assert list(filled.scan("t", b"", b"")) == ROWS[2:]


def test_clearing_leaves_nothing(filled):
    filled.put("u", b"a", b"")
    filled.clear()
    assert (filled.count("t"), filled.count("u")) == (0, 0)
    filled.put("t", b"z", b"")
    assert list(filled.scan("t", b"", b"")) == [(b"z", b"")]


def test_appending_demands_ascending_keys(filled):
    filled.put_many("t", [(b"\xff\xff\x01", b""), (b"\xff\xff\x02", b"")], append=True)
    with pytest.raises(ValueError, match="t"):
        filled.put_many("t", [(b"a0", b"")], append=True)


keys = st.binary(min_size=1, max_size=3)
bounds = st.binary(max_size=3)


@pytest.mark.parametrize("kind", sorted(STORES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(keys, bounds, max_size=12),
    gone=st.lists(keys, max_size=4),
    interval=st.tuples(bounds, bounds),
    reverse=st.booleans(),
)
def test_a_scan_is_a_sorted_slice(kind, rows, gone, interval, reverse):
    first, last = interval
    with STORES[kind]() as store:
        store.put_many("t", list(rows.items()))
        store.delete_many("t", gone)
        left = {key: value for key, value in rows.items() if key not in gone}
        inside = sorted(item for item in left.items() if first <= item[0] and (not last or item[0] < last))
        assert list(store.scan("t", first, last, reverse=reverse)) == (inside[::-1] if reverse else inside)
        assert store.count("t") == len(left)


class TestTheStoreInMemory:
    def test_a_crash_loses_what_was_not_committed(self):
        store = MemoryStore()
        store.put_many("t", ROWS)
        store.commit()
        store.put("t", b"a", b"new")
        store.delete("t", b"b")
        store.put("u", b"x", b"")
        store.clear()
        store.put("t", b"z", b"")
        twin = store.committed_copy()
        store.crash()
        assert store.contents() == {"t": dict(ROWS)}
        assert twin.contents() == store.contents()

    def test_a_copy_is_independent(self):
        store = MemoryStore()
        store.put_many("t", ROWS)
        twin = store.copy()
        store.delete("t", b"a")
        twin.crash()
        assert twin.contents() == {"t": dict(ROWS)}


def test_a_snapshot_of_the_tables_is_the_whole_state(store):
    source = Replica(MemoryStore())
    session = source.open_session()
    source.run(session, 1, Put(b"a", b"1"), Put(b"a", b"2"))
    source.machine.prepare()
    target = StateMachine(store)
    target.apply(1, [command(Put(b"stale", b""))])
    store.clear()
    for table in TABLES:
        store.put_many(table, list(source.machine.store.scan(table, b"", b"")))
    target.reload()
    assert target.digest() == source.machine.digest()
    assert target.query([Get(b"stale")]) == [Got(target.revision)]
    repeated = command(Put(b"a", b"1"), Put(b"a", b"2"), session=session, sequence=1)
    (outcome,) = target.apply(target.applied + 1, [repeated])
    assert [result.revision for result in outcome.results()] == [1, 2]
    assert target.revision == 2


@pytest.mark.parametrize(("table", "key"), [(META, b"state"), (SESSIONS, bytes(8))])
def test_a_record_that_does_not_parse_is_corrupt_and_never_taken_for_absent(store, table, key):
    Replica(store).restart()
    store.put(table, key, b"\xc1")
    with pytest.raises(CorruptState, match=table):
        StateMachine(store)


@pytest.mark.parametrize("damaged", [b"\xc1", b"\x90", b"\x91\x95\x02\x01\x01\x00\xc4\x011"])
def test_versions_that_do_not_parse_or_stand_elsewhere_are_corrupt_and_never_taken_for_absent(store, damaged):
    replica = Replica(store)
    replica.do(Put(b"a", b"1"))
    replica.restart()
    ((record_key, _),) = store.scan(HISTORY, b"", b"")
    store.put(HISTORY, record_key, damaged)
    with pytest.raises(CorruptState, match=HISTORY):
        StateMachine(store).query([Get(b"a")])


def test_a_state_of_another_layout_is_refused(store):
    replica = Replica(store)
    replica.machine.commit()
    record = bytearray(store.get(META, b"state"))
    record[1] += 1
    store.put(META, b"state", bytes(record))
    with pytest.raises(CorruptState, match="layout"):
        StateMachine(store)


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20), st.integers(1, 2**63 - 1))
def test_record_keys_sort_as_keys_do_and_can_be_read_back(one, other, revision):
    assert (prefix_of(one) < prefix_of(other)) == (one < other)
    assert key_of(prefix_of(one) + (2**64 - 1 - revision).to_bytes(8, "big")) == one


def test_a_view_of_what_was_committed_has_the_digest_of_the_machine_and_keeps_it(tmp_path):
    store = LmdbStore(tmp_path, map_bytes=64 << 20)
    machine = StateMachine(store)
    machine.commit()
    view = store.view()
    assert digest_of(view) == machine.digest(), "an empty state has one, too"
    view.close()
    machine.apply(1, [command(OpenSession(b"nonce"), system=True)])
    machine.apply(2, [command(*(Put(b"%d" % (number % 100), b"%d" % number) for number in range(1000)), session=1)])
    machine.apply(3, [command(Delete(b"7"), session=1, sequence=1001)])
    machine.commit()
    view = store.view()
    before = machine.digest()
    stretches: list[None] = []
    machine.apply(4, [command(Put(b"8", b"later"), session=1, sequence=1002)])
    assert digest_of(view, between=lambda: stretches.append(None)) == before
    assert before.keys == 99
    assert len(stretches) == 99 // DIGEST_STRETCH_KEYS
    assert machine.digest() != before
    view.close()
    store.close()
