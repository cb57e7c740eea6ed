"""From a folder to a running storage: whatever a crash leaves, the state belongs to the anchor."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from replica.consensus.interface import Put
from replica.storage.coordinator import ANCHOR_KEY, META_TABLE, Anchor
from replica.storage.errors import CorruptStorage, StorageError
from replica.storage.recovery import Storage, format_storage
from replica.storage.space import SpaceGuard, Usage
from replica.storage.state import LmdbStore

from .support import MIB, anchor_of, new_storage, opened, vote


def commit_anchor(storage: Storage, anchor: Anchor) -> None:
    storage.log.commit([[Put(META_TABLE, ANCHOR_KEY, anchor)]])


def take_snapshot(storage: Storage, *, frontier: int) -> Anchor:
    task = storage.begin_snapshot(anchor_of(frontier=frontier))
    task.write()
    commit_anchor(storage, task.anchor)
    storage.snapshot_taken(task.anchor)
    return task.anchor


def fill(store: LmdbStore, frontier: int) -> None:
    """A state machine's state: here just how far it is."""
    store.put("meta", b"applied", b"%d" % frontier)
    store.put("history", b"key", b"as of %d" % frontier)
    store.commit()


def applied(storage: Storage) -> int:
    return int(storage.state.get("meta", b"applied") or b"0")


def crash(storage: Storage) -> None:
    """What a crash of the process leaves: nothing is committed, synced or marked."""
    storage.state.close()
    storage.log._environment.close()
    storage.folder.close()


def boot_again(path: Path) -> None:
    """What a crash of the machine leaves for the state: the marker of another boot."""
    marker = path / "state" / "STATE"
    content = msgspec.json.decode(marker.read_bytes())
    content["boot"] = "another"
    marker.write_bytes(msgspec.json.encode(content))


def peer_snapshot(tmp_path: Path, *, frontier: int, epoch: int = 1) -> bytes:
    """A snapshot that another replica of the cluster has taken."""
    path = tmp_path / f"peer-{frontier}"
    format_storage(path, cluster="test", replica=1, anchor=anchor_of())
    with opened(path) as peer:
        fill(peer.state, frontier)
        return peer.begin_snapshot(anchor_of(epoch, frontier=frontier)).write().path.read_bytes()


def fetch(storage: Storage, data: bytes) -> Anchor:
    receiver = storage.snapshots.receive()
    receiver.write(data)
    return receiver.finish(total_bytes=len(data))


def test_a_fresh_folder_starts_empty_at_the_anchor_it_was_given(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        assert storage.anchor == anchor_of()
        assert storage.incarnation == 1
        assert applied(storage) == 0


def test_a_folder_that_waits_to_join_has_no_anchor(tmp_path):
    format_storage(tmp_path / "data", cluster="test", replica=1, anchor=None)
    with opened(tmp_path / "data") as storage:
        assert storage.anchor is None
        data = peer_snapshot(tmp_path, frontier=9, epoch=4)
        installation = storage.prepare_installation(fetch(storage, data))
        commit_anchor(storage, installation.anchor)
        storage.adopt(installation)
        assert applied(storage) == 9
    with opened(tmp_path / "data") as storage:
        assert storage.anchor is not None
        assert storage.anchor.configuration.epoch == 4
        assert applied(storage) == 9


def test_after_a_crash_of_the_process_the_state_is_as_it_was_committed(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    storage.state.put("meta", b"applied", b"6")
    crash(storage)
    with opened(tmp_path / "data") as storage:
        assert not storage.state_rebuilt
        assert applied(storage) == 5


def test_after_a_crash_of_the_machine_it_is_rebuilt_from_the_snapshot(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    take_snapshot(storage, frontier=5)
    fill(storage.state, 8)
    crash(storage)
    boot_again(tmp_path / "data")
    with opened(tmp_path / "data") as storage:
        assert storage.state_rebuilt
        assert applied(storage) == 5  # the rest is in the log, and is delivered again


def test_after_a_crash_of_the_machine_before_any_snapshot_it_starts_empty(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    crash(storage)
    boot_again(tmp_path / "data")
    with opened(tmp_path / "data") as storage:
        assert storage.state_rebuilt
        assert applied(storage) == 0


def test_after_a_clean_shutdown_it_is_trusted_on_another_boot(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        storage.state.put("meta", b"applied", b"6")  # a clean shutdown commits what is open
    boot_again(tmp_path / "data")
    with opened(tmp_path / "data") as storage:
        assert not storage.state_rebuilt
        assert applied(storage) == 6


def test_a_crash_while_the_state_is_rebuilt_is_made_good_by_the_next_start(tmp_path, monkeypatch):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    take_snapshot(storage, frontier=5)
    crash(storage)
    boot_again(tmp_path / "data")

    def crashing(_folder, _generation):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("replica.storage.state.StateFolder.use", crashing)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "data")
    with opened(tmp_path / "data") as storage:
        assert storage.state_rebuilt
        assert applied(storage) == 5
    generations = [entry for entry in (tmp_path / "data" / "state").iterdir() if entry.is_dir()]
    assert len(generations) == 1


def test_a_state_that_cannot_be_rebuilt_stops_the_start_in_one_line(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    anchor = take_snapshot(storage, frontier=5)
    crash(storage)
    boot_again(tmp_path / "data")
    path = tmp_path / "data" / "snapshots" / anchor.snapshot
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptStorage) as error:
        opened(tmp_path / "data")
    assert anchor.snapshot in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_state_is_built_anew_on_request(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        take_snapshot(storage, frontier=5)
        storage.state.put("meta", b"applied", b"what?")
        storage.state.commit()
        assert storage.rebuild_state() is storage.state
        assert applied(storage) == 5


def test_a_state_that_cannot_be_read_after_a_crash_is_built_anew(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    take_snapshot(storage, frontier=5)
    fill(storage.state, 8)
    directory = storage.state.path
    crash(storage)
    with open(directory / "data.mdb", "r+b") as file:
        file.truncate(2 * 4096)  # the two meta pages, and nothing of what they lead to
    with opened(tmp_path / "data") as storage:
        assert storage.state_rebuilt
        assert applied(storage) == 5


def test_staging_and_snapshots_that_do_not_count_are_swept_at_the_start(tmp_path):
    storage = new_storage(tmp_path / "data")
    fill(storage.state, 5)
    anchor = take_snapshot(storage, frontier=5)
    storage.begin_snapshot(anchor_of(frontier=5)).write()  # never anchored
    (storage.snapshots.staging / "half").write_bytes(b"...")
    crash(storage)
    with opened(tmp_path / "data") as storage:
        assert storage.snapshots.names() == [anchor.snapshot]
        assert list(storage.snapshots.staging.iterdir()) == []


def test_an_old_snapshot_goes_only_after_the_anchor_that_supersedes_it(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        first = take_snapshot(storage, frontier=5)
        fill(storage.state, 9)
        task = storage.begin_snapshot(anchor_of(frontier=9))
        task.write()
        assert sorted(storage.snapshots.names()) == sorted([first.snapshot, task.anchor.snapshot])
        commit_anchor(storage, task.anchor)
        storage.snapshot_taken(task.anchor)
        assert storage.snapshots.names() == [task.anchor.snapshot]


def test_a_snapshot_that_waits_for_its_anchor_outlives_one_that_is_taken_meanwhile(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        fetched = fetch(storage, peer_snapshot(tmp_path, frontier=20))
        own = take_snapshot(storage, frontier=5)
        assert sorted(storage.snapshots.names()) == sorted([fetched.snapshot, own.snapshot])
        installation = storage.prepare_installation(fetched)
        commit_anchor(storage, installation.anchor)
        storage.adopt(installation)
        assert storage.snapshots.names() == [fetched.snapshot]
        assert applied(storage) == 20


# --------------------------------------------------------------------------------- the switch to an installed snapshot

STEPS = ("received", "prepared", "anchored", "adopted")


def install_up_to(storage: Storage, data: bytes, last: str) -> None:
    anchor = fetch(storage, data)
    if last == "received":
        return
    installation = storage.prepare_installation(anchor)
    if last == "prepared":
        return
    commit_anchor(storage, installation.anchor)
    if last == "anchored":
        return
    storage.adopt(installation)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("end", ["crash", "power cut", "shutdown"])
def test_a_stop_after_any_step_leaves_the_old_anchor_and_state_or_the_new_ones(tmp_path, step, end):
    path = tmp_path / "data"
    storage = new_storage(path)
    fill(storage.state, 5)
    take_snapshot(storage, frontier=5)
    fill(storage.state, 7)
    storage.log.commit([[vote(6), vote(7), vote(30)]])
    install_up_to(storage, peer_snapshot(tmp_path, frontier=20), step)
    if end == "shutdown":
        storage.close()
    else:
        crash(storage)
        if end == "power cut":
            boot_again(path)
    with opened(path) as storage:
        anchor = storage.anchor
        assert anchor is not None
        if step in {"anchored", "adopted"}:
            assert (anchor.frontier, applied(storage)) == (20, 20)
        else:
            assert anchor.frontier == 5
            assert applied(storage) == (5 if end == "power cut" else 7)
        assert storage.snapshots.names() == [anchor.snapshot]
        # Whatever was stopped can be done to its end now.
        install_up_to(storage, peer_snapshot(tmp_path, frontier=33), "adopted")
        assert applied(storage) == 33


def test_the_replica_goes_on_with_its_state_while_another_is_prepared(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        anchor = fetch(storage, peer_snapshot(tmp_path, frontier=20))
        installation = storage.prepare_installation(anchor)
        fill(storage.state, 6)
        assert applied(storage) == 6
        commit_anchor(storage, installation.anchor)
        assert storage.adopt(installation) is storage.state
        assert applied(storage) == 20


def test_an_installation_can_be_discarded(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        storage.discard(storage.prepare_installation(fetch(storage, peer_snapshot(tmp_path, frontier=20))))
        assert applied(storage) == 5
        assert storage.snapshots.names() == []
        assert len([entry for entry in (tmp_path / "data" / "state").iterdir() if entry.is_dir()]) == 1


def test_a_damaged_snapshot_changes_nothing(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        anchor = fetch(storage, peer_snapshot(tmp_path, frontier=20))
        path = storage.snapshots.path_of(anchor.snapshot)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(StorageError):
            storage.prepare_installation(anchor)
        assert applied(storage) == 5
        assert storage.states.marker.pending is None


# -------------------------------------------------------------------------------------------------------------- space


def test_a_log_that_fills_its_map_refuses_before_anything_fails(tmp_path):
    format_storage(tmp_path / "data", cluster="test", replica=1, anchor=anchor_of())
    with opened(tmp_path / "data") as storage:
        guard = SpaceGuard(storage.folder.path, (storage.log.usage,), free_bytes_min=0, clock=ticking())
        assert guard.nearly_full() is None
        written = 0
        while guard.nearly_full() is None:
            storage.log.commit([[vote(written + number, value=bytes(20_000)) for number in range(50)]])
            written += 50
        reason = guard.nearly_full()
        assert reason is not None
        assert "the log uses" in reason
        # What was under way still fits, and so does making room.
        storage.log.commit([[vote(written, value=bytes(MIB))]])


def ticking() -> Callable[[], float]:
    """A clock on which every answer is stale."""
    clock = iter(range(1_000_000))
    return lambda: float(next(clock))


def test_little_free_space_on_the_file_system_refuses_too(tmp_path):
    guard = SpaceGuard(tmp_path, (), free_bytes_min=1 << 60)
    reason = guard.nearly_full()
    assert reason is not None
    assert "kept in reserve" in reason


@pytest.mark.parametrize(
    ("used", "adding", "removing"), [(0.84, True, True), (0.86, False, True), (0.94, False, True), (0.96, False, False)]
)
def test_a_map_takes_removals_beyond_the_mark_for_everything_else_and_up_to_one_of_their_own(
    tmp_path, used, adding, removing
):
    guard = SpaceGuard(tmp_path, (lambda: usage(used=int(1000 * used)), usage), free_bytes_min=0)
    assert (guard.nearly_full() is None, guard.nearly_full(removing=True) is None) == (adding, removing)


@pytest.mark.parametrize(
    ("free", "reusable", "passing"),
    [
        (100, 0, "everything"),
        (99, 0, "removals"),
        (99, 1, "everything"),
        (75, 25, "everything"),
        (75, 24, "removals"),
        (74, 500, "removals"),
        (50, 500, "removals"),
        (49, 500, "nothing"),
    ],
)
def test_free_pages_within_the_files_make_up_for_a_part_of_the_reserve(monkeypatch, free, reusable, passing):
    monkeypatch.setattr("os.statvfs", lambda _path: SimpleNamespace(f_bavail=free, f_frsize=1))
    sources = (lambda: usage(file=100 + reusable), lambda: usage(file=1000))
    guard = SpaceGuard(Path("/"), sources, free_bytes_min=100)
    assert (guard.nearly_full() is None) == (passing == "everything")
    assert (guard.nearly_full(removing=True) is None) == (passing != "nothing")


def usage(*, used: int = 100, file: int = 1000) -> Usage:
    return Usage(name="it", map_bytes=1000, used_bytes=used, file_bytes=file)


def test_a_replica_rests_with_a_quarter_of_the_reserve_left_and_goes_on_with_more(tmp_path, monkeypatch):
    free = [1000]
    monkeypatch.setattr("os.statvfs", lambda _path: SimpleNamespace(f_bavail=free[0], f_frsize=1 << 20))
    guard = SpaceGuard(tmp_path, (), free_bytes_min=400 << 20)
    for left, rests in [(1000, False), (100, False), (99, True), (149, True), (150, False), (100, False), (99, True)]:
        free[0] = left
        assert (guard.exhausted() is not None) == rests, left
    assert "99 MiB left: the replica rests until there are 150 MiB" in str(guard.exhausted())


def test_a_replica_rests_when_a_map_is_all_but_full(tmp_path):
    guard = SpaceGuard(tmp_path, (lambda: usage(used=981), usage), free_bytes_min=0)
    assert "start it with a larger map" in str(guard.exhausted())
    assert SpaceGuard(tmp_path, (lambda: usage(used=980),), free_bytes_min=0).exhausted() is None


def test_the_answer_about_space_is_kept_for_a_moment(tmp_path, monkeypatch):
    asked: list[object] = []
    real = os.statvfs

    def counting(path):
        asked.append(path)
        return real(path)

    monkeypatch.setattr("os.statvfs", counting)
    now = [0.0]
    guard = SpaceGuard(tmp_path, (), free_bytes_min=0, clock=lambda: now[0])
    for _ in range(1000):
        guard.nearly_full()
    now[0] = 10.0
    guard.nearly_full()
    assert len(asked) == 2


def test_a_full_disk_can_be_pretended(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        storage.space.pretend_full = True
        assert "injected" in str(storage.space.nearly_full())
        storage.space.pretend_full = False
        assert storage.space.nearly_full() is None


def test_a_folder_can_be_moved(tmp_path):
    with new_storage(tmp_path / "data") as storage:
        fill(storage.state, 5)
        take_snapshot(storage, frontier=5)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    with opened(tmp_path / "moved") as storage:
        assert applied(storage) == 5
