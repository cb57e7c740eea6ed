"""The state behaves as ordered tables, and is trusted only when nothing of it can have been lost."""

import os
import random
import subprocess
import sys

import pytest

from replica.kv.memory import MemoryStore
from replica.storage.errors import StorageFull
from replica.storage.state import LmdbStore, StateFolder

from .support import MIB


@pytest.fixture
def store(tmp_path):
    store = LmdbStore(tmp_path, map_bytes=64 * MIB)
    yield store
    store.close()


def test_it_answers_as_the_store_in_memory_does(store):
    """A long random walk, each answer compared."""
    memory = MemoryStore()
    rng = random.Random(11)

    def key() -> bytes:
        return bytes(rng.randrange(4) for _ in range(rng.randrange(1, 4)))

    for _ in range(4000):
        table = rng.choice(["a", "b"])
        first, last = key(), rng.choice([b"", key()])
        reverse = rng.random() < 0.5
        match rng.randrange(10):
            case 0 | 1 | 2:
                value = rng.randbytes(3)
                store.put(table, first, value)
                memory.put(table, first, value)
            case 3:
                items = [(key(), b"many") for _ in range(4)]
                store.put_many(table, items)
                memory.put_many(table, items)
            case 4:
                assert store.delete(table, first) == memory.delete(table, first)
            case 5:
                keys = [key(), key()]
                store.delete_many(table, keys)
                memory.delete_many(table, keys)
            case 6:
                store.commit()
                memory.commit()
            case 7:
                assert store.seek(table, first) == memory.seek(table, first)
                assert store.seek_before(table, last) == memory.seek_before(table, last)
            case 8:
                assert list(store.scan(table, first, last, reverse=reverse)) == list(
                    memory.scan(table, first, last, reverse=reverse)
                )
            case _:
                assert store.get(table, first) == memory.get(table, first)
                assert store.count(table) == memory.count(table)
    for table in ("a", "b"):
        assert list(store.scan(table, b"", b"")) == list(memory.scan(table, b"", b""))


def test_appended_items_arrive_and_a_broken_promise_is_an_error(store):
    store.put_many("t", [(b"a", b"1"), (b"c", b"2")], append=True)
    store.put_many("t", [(b"d", b"3")], append=True)
    with pytest.raises(ValueError, match="did not ascend"):
        store.put_many("t", [(b"e", b"4"), (b"b", b"5")], append=True)


def test_clear_and_what_is_put_after_it_are_one_transaction(store):
    store.put("t", b"old", b"1")
    store.commit()
    store.clear()
    store.put("t", b"new", b"2")
    view = store.view()
    assert list(view.items("t")) == [(b"old", b"1")]
    view.close()
    store.commit()
    assert list(store.scan("t", b"", b"")) == [(b"new", b"2")]


def test_a_view_stands_still_while_the_store_goes_on(store):
    store.put("t", b"a", b"1")
    store.commit()
    view = store.view()
    store.put("t", b"b", b"2")
    store.put("u", b"c", b"3")
    store.commit()
    assert view.tables() == ["t"]
    assert list(view.items("t")) == [(b"a", b"1")]
    view.close()


def test_a_full_map_is_an_error_that_says_so(tmp_path):
    store = LmdbStore(tmp_path, map_bytes=MIB)
    with pytest.raises(StorageFull) as error:
        store.put_many("t", [(b"%d" % number, bytes(50_000)) for number in range(100)])
    assert str(tmp_path) in str(error.value)
    store.close()


# ---------------------------------------------------------------------------------------------------------- trust


def filled(folder: StateFolder) -> LmdbStore:
    generation = folder.reserve()
    folder.use(generation)
    store = LmdbStore(folder.directory(generation), map_bytes=64 * MIB)
    store.put("t", b"a", b"1")
    store.commit()
    return store


def test_after_a_crash_of_the_process_the_state_is_trusted_on_the_same_boot(tmp_path):
    filled(StateFolder(tmp_path, boot="monday")).close()
    assert StateFolder(tmp_path, boot="monday").present_generation("") == 1


def test_after_a_crash_of_the_machine_it_is_not(tmp_path):
    filled(StateFolder(tmp_path, boot="monday")).close()
    assert StateFolder(tmp_path, boot="tuesday").present_generation("") is None


def test_after_a_clean_shutdown_it_is_trusted_on_any_boot_until_it_is_used(tmp_path):
    folder = StateFolder(tmp_path, boot="monday")
    folder.finish(filled(folder))
    again = StateFolder(tmp_path, boot="tuesday")
    assert again.present_generation("") == 1
    again.use(1)
    assert StateFolder(tmp_path, boot="wednesday").present_generation("") is None


def test_where_the_platform_names_no_boot_only_a_clean_shutdown_counts(tmp_path):
    folder = StateFolder(tmp_path, boot="")
    store = filled(folder)
    assert StateFolder(tmp_path, boot="").present_generation("") is None
    folder.finish(store)
    assert StateFolder(tmp_path, boot="").present_generation("") == 1


def test_without_its_marker_the_state_is_not_trusted(tmp_path):
    folder = StateFolder(tmp_path, boot="monday")
    folder.finish(filled(folder))
    (tmp_path / "STATE").write_bytes(b'{"gener')
    assert StateFolder(tmp_path, boot="monday").present_generation("") is None


def test_an_announced_generation_counts_once_the_anchor_names_its_snapshot(tmp_path):
    folder = StateFolder(tmp_path, boot="monday")
    filled(folder).close()
    pending = folder.reserve()
    LmdbStore(folder.directory(pending), map_bytes=MIB).close()
    folder.announce(pending, "new.snapshot")
    after_crash = StateFolder(tmp_path, boot="monday")
    assert after_crash.present_generation("old.snapshot") == 1
    assert after_crash.present_generation("new.snapshot") == pending


def test_using_a_generation_removes_the_others(tmp_path):
    folder = StateFolder(tmp_path, boot="monday")
    filled(folder).close()
    second = folder.reserve()
    folder.use(second)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == [folder.directory(second).name]


def test_what_was_committed_survives_kill_9_and_what_was_not_is_gone(tmp_path):
    folder = StateFolder(tmp_path, boot="monday")
    filled(folder).close()
    script = (
        "import os, sys; from pathlib import Path; from replica.storage.state import LmdbStore\n"
        "store = LmdbStore(Path(sys.argv[1]), map_bytes=1 << 26)\n"
        "store.put('t', b'b', b'2'); store.commit(); store.put('t', b'c', b'3'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder.directory(1))], check=False, cwd=os.getcwd())
    assert done.returncode == -9
    store = LmdbStore(folder.directory(1), map_bytes=64 * MIB)
    assert list(store.scan("t", b"", b"")) == [(b"a", b"1"), (b"b", b"2")]
    store.close()
