"""A backup carries every key, or says that it does not; and a state goes on from one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from replica.kv import operations as kv
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.restoring import restore
from replica.storage.backup import BackupError, BackupHeader, BackupReader, write_backup

HEADER = BackupHeader(version=1, cluster="test", revision=900, leases=((5, 60_000),))
ITEMS = [
    kv.KeyValue(b"key %04d" % n, b"value %d" % n * 200, n + 1, n + 2 + n // 2, 2, 5 if n == 7 else 0)
    for n in range(500)
]


def test_what_was_written_is_read_again_and_its_digest_is_that_of_the_keys(tmp_path: Path) -> None:
    footer = write_backup(tmp_path / "a", HEADER, ITEMS)
    with BackupReader(tmp_path / "a") as reader:
        assert reader.header == HEADER
        assert list(reader.items()) == ITEMS
        assert reader.footer == footer
    other = write_backup(tmp_path / "b", BackupHeader(version=1, cluster="other", revision=900), ITEMS)
    assert other.digest == footer.digest
    assert write_backup(tmp_path / "c", HEADER, ITEMS[:-1]).digest != footer.digest


def test_no_file_is_overwritten_and_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    write_backup(tmp_path / "a", HEADER, ITEMS)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(BackupError, match="exists already"):
        write_backup(tmp_path / "a", HEADER, [])
    assert (tmp_path / "a").read_bytes() == before

    def interrupted() -> Iterator[kv.KeyValue]:
        yield from ITEMS[:100]
        raise KeyError

    with pytest.raises(KeyError):
        write_backup(tmp_path / "b", HEADER, interrupted())
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("place", [0, 3, 20, 400, 5000, 90_000, -30, -1])
def test_a_byte_that_changed_is_noticed_wherever_it_is(tmp_path: Path, place: int) -> None:
    write_backup(tmp_path / "a", HEADER, ITEMS)
    data = bytearray((tmp_path / "a").read_bytes())
    data[place] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(BackupError), BackupReader(tmp_path / "a") as reader:
        reader.verify()


@pytest.mark.parametrize("length", [0, 7, 8, 12, 100, 70_000])
def test_a_file_that_was_cut_short_is_noticed(tmp_path: Path, length: int) -> None:
    write_backup(tmp_path / "a", HEADER, ITEMS)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:length])
    with pytest.raises(BackupError), BackupReader(tmp_path / "a") as reader:
        reader.verify()


def test_a_state_goes_on_from_a_backup_with_its_revisions_versions_and_leases() -> None:
    store = MemoryStore()
    assert restore(store, revision=900, items=ITEMS, leases=HEADER.leases) == 500
    machine = StateMachine(store)
    assert (machine.applied, machine.revision, machine.compacted) == (0, 900, 900)
    got, ranged = machine.query([kv.Get(b"key 0007"), kv.Range(b"", b"", 3)])
    assert isinstance(got, kv.Got)
    assert got.item == ITEMS[7]
    assert isinstance(ranged, kv.Ranged)
    assert list(ranged.items) == ITEMS[:3]
    assert machine.leases.keys_of(5) == [b"key 0007"]
    again = MemoryStore()
    restore(again, revision=900, items=ITEMS, leases=HEADER.leases)
    assert StateMachine(again).digest() == machine.digest()


def test_keys_that_cannot_have_been_at_that_revision_are_refused() -> None:
    with pytest.raises(ValueError, match="revisions that cannot be"):
        restore(MemoryStore(), revision=3, items=[kv.KeyValue(b"k", b"v", 2, 4, 1)])
