"""A disk that is really full: nothing is acknowledged that isn't there, and what was there stays readable.

A small file system of its own shows it as it is; where the tests may not mount one, a limit on the size of files stands
in for it, which cuts a write short in the same place.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replica.storage.coordinator import LAST_KEY
from replica.storage.errors import StorageFull
from replica.storage.recovery import format_storage, open_storage
from replica.storage.state import LmdbStore

from .support import MIB, SPEC, anchor_of, new_log, reopened, vote


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_the_log_on_a_full_disk_fails_for_good_and_keeps_what_was_acknowledged(small_disk):
    log = new_log(small_disk / "log", map_bytes=1 << 30)
    acknowledged = 0

    def write_on() -> None:
        nonlocal acknowledged
        while True:
            log.commit([[vote(acknowledged, value=bytes(100_000))]])
            acknowledged += 1

    with pytest.raises(StorageFull) as error:
        write_on()
    assert "nothing of it was acknowledged" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(StorageFull):
        log.commit([[vote(0)]])
    log.close()
    assert acknowledged > 100
    log = reopened(small_disk / "log", map_bytes=1 << 30)
    found = [int(key) for key, _ in log.reader(SPEC).scan("votes", b"", LAST_KEY)]
    assert found == list(range(acknowledged))
    log.close()


def test_the_state_on_a_full_disk_is_an_error_and_no_signal(small_disk):
    (small_disk / "state").mkdir()
    store = LmdbStore(small_disk / "state", map_bytes=1 << 30)
    store.put_many("t", [(b"%06d" % number, bytes(100_000)) for number in range(300)])
    with pytest.raises(StorageFull):
        store.commit()
    store.close()


def test_proposals_are_refused_while_there_is_still_room_to_commit(small_disk):
    path = small_disk / "data"
    format_storage(path, cluster="test", replica=1, anchor=anchor_of())
    with open_storage(
        path, log_map_bytes=1 << 30, state_map_bytes=1 << 30, free_bytes_min=4 * MIB, verify=False
    ) as storage:
        storage.space.freshness_s = 0.0
        written = 0
        while storage.space.nearly_full() is None:
            storage.log.commit([[vote(written, value=bytes(100_000))]])
            written += 1
        assert "kept in reserve" in str(storage.space.nearly_full())
        assert 50 < written < 150
        storage.log.commit([[vote(written, value=bytes(100_000))]])  # what was proposed before still fits
    with open_storage(path, verify=True) as storage:
        assert len(list(storage.log.reader(SPEC).scan("votes", b"", LAST_KEY))) == written + 1


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.unit.storage.support import reopened, vote
from replica.storage.errors import SyncFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write is cut short instead
log = reopened(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
number = 0
try:
    while True:
        log.commit([[vote(number, value=bytes(100_000))]])
        number += 1
except SyncFailed as error:
    assert "nothing of it was acknowledged" in str(error)
    print(number)
"""


def test_a_write_that_is_cut_short_fails_the_commit_and_keeps_what_was_acknowledged(tmp_path: Path):
    new_log(tmp_path / "log").close()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "log")], capture_output=True, check=False, cwd=os.getcwd()
    )
    assert done.returncode == 0, done.stderr.decode()
    acknowledged = int(done.stdout)
    assert acknowledged > 10
    log = reopened(tmp_path / "log")
    found = [int(key) for key, _ in log.reader(SPEC).scan("votes", b"", LAST_KEY)]
    assert found == list(range(acknowledged))
    log.close()
