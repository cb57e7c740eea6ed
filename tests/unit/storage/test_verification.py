"""Damage in the pages of LMDB is found before the replica's own process meets it."""

import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from replica.storage.errors import CorruptStorage, StorageError
from replica.storage.recovery import open_storage
from replica.storage.verification import verify_in_child

from .support import new_log, new_storage, reopened, vote

PAGE = 4096


def log_with_records(path: Path, count: int = 400) -> Path:
    log = new_log(path)
    log.commit([[vote(number, value=b"value-%06d-" % number * 8) for number in range(count)]])
    log.close()
    return path


def test_a_sound_log_is_walked_to_its_end(tmp_path):
    found = verify_in_child(log_with_records(tmp_path / "log"), checksums=True)
    assert found.tables == {"meta": 2, "votes": 400}
    assert found.bytes > 400 * 96


def test_the_walk_writes_nothing(tmp_path):
    path = log_with_records(tmp_path / "log")
    (path / "lock.mdb").unlink()
    before = (path / "data.mdb").read_bytes()
    verify_in_child(path, checksums=True)
    assert [entry.name for entry in path.iterdir()] == ["data.mdb"]
    assert (path / "data.mdb").read_bytes() == before


def test_a_flipped_byte_in_a_record_is_named(tmp_path):
    path = log_with_records(tmp_path / "log")
    content = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(content.replace(b"value-000123-value", b"value-000123-walue"))
    with pytest.raises(CorruptStorage) as error:
        verify_in_child(path, checksums=True)
    assert b"00000123".hex() in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_log_that_was_cut_short_does_not_take_the_process_down(tmp_path):
    path = log_with_records(tmp_path / "log")
    size = (path / "data.mdb").stat().st_size
    with open(path / "data.mdb", "r+b") as file:
        file.truncate(size // 2 // PAGE * PAGE)
    with pytest.raises(CorruptStorage) as error:
        verify_in_child(path, checksums=True)
    assert "replace the replica" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_damaged_page_passes_for_a_sound_log(tmp_path):
    path = log_with_records(tmp_path / "log", count=120)
    sound = (path / "data.mdb").read_bytes()
    pages = len(sound) // PAGE
    noticed = 0
    for page in range(2, pages):
        content = bytearray(sound)
        # The header of the page and the first of its pointers: what makes LMDB wander.
        for offset in range(8, 40):
            content[page * PAGE + offset] ^= 0xA5
        (path / "data.mdb").write_bytes(content)
        try:
            found = verify_in_child(path, checksums=True)
        except CorruptStorage:
            noticed += 1
        else:
            # A page that nothing leads to (an older copy, or the list of free pages) is no part of the log.
            assert found.tables == {"meta": 2, "votes": 120}
    assert noticed >= 3


def damaged_leaves(path: Path, damage: Callable[[bytearray, int, int], None]) -> list[str]:
    """What the walk says when one leaf page after the other is damaged, where it says anything.

    A page of LMDB begins with its number (8 bytes), two more, flags (2; 2 stands for a leaf), and the end of the array
    of pointers to its records (2), which begins at byte 16.
    """
    sound = (path / "data.mdb").read_bytes()
    said = []
    for page in range(2, len(sound) // PAGE):
        begin = page * PAGE
        flags, lower = struct.unpack_from("<HH", sound, begin + 10)
        if flags != 2 or lower < 16 + 2 * 8:
            continue
        content = bytearray(sound)
        damage(content, begin, lower)
        (path / "data.mdb").write_bytes(content)
        try:
            verify_in_child(path, checksums=False)
        except CorruptStorage as error:
            said.append(str(error))
    (path / "data.mdb").write_bytes(sound)
    return said


@pytest.mark.skipif(sys.byteorder == "big", reason="the pages of LMDB are in the byte order of the machine")
def test_a_record_that_became_invisible_is_missed(tmp_path):
    path = log_with_records(tmp_path / "log", count=120)

    def hide_last(content: bytearray, begin: int, lower: int) -> None:
        struct.pack_into("<H", content, begin + 12, lower - 2)

    said = damaged_leaves(path, hide_last)
    assert said
    assert all("holds 119 records where 120 are counted" in line for line in said)


@pytest.mark.skipif(sys.byteorder == "big", reason="the pages of LMDB are in the byte order of the machine")
def test_records_that_changed_places_are_noticed(tmp_path):
    path = log_with_records(tmp_path / "log", count=120)

    def swap_first_two(content: bytearray, begin: int, _lower: int) -> None:
        pointers = content[begin + 16 : begin + 20]
        content[begin + 16 : begin + 20] = pointers[2:] + pointers[:2]

    said = damaged_leaves(path, swap_first_two)
    assert said
    assert all("don't ascend" in line for line in said)


def test_a_start_on_a_damaged_log_is_refused_before_anything_is_written(tmp_path):
    storage = new_storage(tmp_path / "data")
    storage.log.commit([[vote(number, value=b"value-%06d-" % number * 8) for number in range(400)]])
    storage.close()
    file = tmp_path / "data" / "log" / "data.mdb"
    content = file.read_bytes().replace(b"value-000123-value", b"value-000123-walue")
    file.write_bytes(content)
    with pytest.raises(CorruptStorage):
        open_storage(tmp_path / "data")
    assert file.read_bytes() == content


def test_a_child_that_is_stopped_from_outside_does_not_condemn_the_log(tmp_path, monkeypatch):
    path = log_with_records(tmp_path / "log", count=1)

    def killed(command, **_options):
        return subprocess.CompletedProcess(command, -signal.SIGKILL, b"", b"")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(StorageError, match="SIGKILL") as error:
        verify_in_child(path, checksums=True)
    assert not isinstance(error.value, CorruptStorage)


def test_a_verified_log_opens(tmp_path):
    path = log_with_records(tmp_path / "log")
    verify_in_child(path, checksums=True)
    reopened(path).close()
