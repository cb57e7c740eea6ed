"""A snapshot carries the whole state, or says that it doesn't."""

import io
from pathlib import Path

import pytest

from replica.kv.memory import MemoryStore
from replica.storage.errors import CorruptSnapshot, StorageError, StorageFull, WrongCluster
from replica.storage.snapshots import (
    CHUNK_BYTES,
    SnapshotCancelled,
    SnapshotReader,
    Snapshots,
    install,
    write_snapshot,
)
from replica.storage.state import LmdbStore

from .support import MIB, anchor_of


class MemoryView:
    """A view of a store in memory."""

    def __init__(self, tables: dict[str, list[tuple[bytes, bytes]]]) -> None:
        self._tables = tables
        self.closed = False

    def tables(self) -> list[str]:
        return list(self._tables)

    def items(self, table: str):
        yield from self._tables[table]

    def close(self) -> None:
        self.closed = True


CONTENT = {
    "empty": [],
    "history": [(b"key %06d" % number, b"value %d" % number * 10) for number in range(5000)],
    "large": [(b"a", bytes(MIB)), (b"b", b"")],
    "meta": [(b"\x00", b"\xff")],
}


@pytest.fixture
def snapshots(tmp_path):
    (tmp_path / "snapshots").mkdir()
    snapshots = Snapshots(tmp_path / "snapshots", "test")
    snapshots.clean_staging()
    return snapshots


def written(snapshots: Snapshots, content=CONTENT, *, frontier: int = 42) -> Path:
    return snapshots.begin(MemoryView(content), anchor_of(3, frontier=frontier)).write().path


def receive(snapshots: Snapshots, data: bytes):
    receiver = snapshots.receive()
    for begin in range(0, len(data), 50_000):
        receiver.write(data[begin : begin + 50_000])
    return receiver.finish(total_bytes=len(data))


def test_what_goes_in_comes_out_in_any_kind_of_store(snapshots, tmp_path):
    path = written(snapshots)
    memory = MemoryStore()
    memory.put("history", b"older", b"and to be replaced")
    header = install(path, memory)
    assert header.anchor == anchor_of(3, frontier=42)
    assert header.cluster == "test"
    assert memory.contents() == {table: dict(items) for table, items in CONTENT.items() if items}
    (tmp_path / "state").mkdir()
    store = LmdbStore(tmp_path / "state", map_bytes=64 * MIB)
    install(path, store, commit_bytes=CHUNK_BYTES)
    for table, items in CONTENT.items():
        assert list(store.scan(table, b"", b"")) == items
    store.close()


def test_the_name_tells_epoch_and_frontier_and_is_never_minted_twice(snapshots):
    names = {snapshots.mint_name(anchor_of(3, frontier=42)) for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("000003-000000000042-") for name in names)


def test_a_written_snapshot_leaves_nothing_in_staging_and_closes_its_view(snapshots):
    view = MemoryView(CONTENT)
    task = snapshots.begin(view, anchor_of(frontier=42))
    done = task.write()
    assert view.closed
    assert done.path.name == task.anchor.snapshot
    assert done.bytes == done.path.stat().st_size
    assert done.items == 5003
    assert list(snapshots.staging.iterdir()) == []


def test_a_cancelled_snapshot_leaves_nothing(snapshots):
    view = MemoryView(CONTENT)
    task = snapshots.begin(view, anchor_of())
    task.cancel()
    with pytest.raises(SnapshotCancelled):
        task.write()
    assert view.closed
    assert snapshots.names() == []
    assert list(snapshots.staging.iterdir()) == []


def test_no_space_for_a_snapshot_is_an_error_that_says_so_and_leaves_nothing(snapshots, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFull):
        snapshots.begin(MemoryView(CONTENT), anchor_of()).write()
    assert snapshots.names() == []
    assert list(snapshots.staging.iterdir()) == []


def test_every_flipped_byte_of_a_small_snapshot_is_found(snapshots):
    path = written(snapshots, {"t": [(b"a", b"1"), (b"b", b"2")]})
    sound = path.read_bytes()
    for position in range(len(sound)):
        content = bytearray(sound)
        content[position] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(StorageError), SnapshotReader(path) as reader:
            list(reader.items())
    path.write_bytes(sound)
    with SnapshotReader(path) as reader:
        assert list(reader.items()) == [("t", [(b"a", b"1"), (b"b", b"2")])]


def test_every_shortened_snapshot_is_found(snapshots):
    path = written(snapshots, {"t": [(b"a", b"1"), (b"b", b"2")]})
    sound = path.read_bytes()
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        with pytest.raises(CorruptSnapshot), SnapshotReader(path) as reader:
            reader.verify()
    path.write_bytes(sound + b"\0")
    with pytest.raises(CorruptSnapshot, match="follows its end"), SnapshotReader(path) as reader:
        reader.verify()


def test_a_missing_or_doubled_frame_is_found_though_every_frame_is_sound(snapshots):
    content = {"t": [(b"%06d" % number, bytes(1000)) for number in range(400)]}
    path = written(snapshots, content)
    sound = path.read_bytes()
    frames = []
    position = 8
    while position < len(sound):
        length = int.from_bytes(sound[position : position + 4], "big") + 9
        frames.append(sound[position : position + length])
        position += length
    assert len(frames) >= 5
    for tampered in ([*frames[:2], *frames[3:]], [*frames[:2], frames[1], *frames[2:]]):
        path.write_bytes(sound[:8] + b"".join(tampered))
        with pytest.raises(CorruptSnapshot), SnapshotReader(path) as reader:
            reader.verify()


def test_a_snapshot_that_is_not_there_is_an_error_that_names_it(snapshots):
    for attempt in (lambda: snapshots.send("gone"), lambda: install(snapshots.path_of("gone"), MemoryStore())):
        with pytest.raises(CorruptSnapshot, match="gone"):
            attempt()


def test_a_name_from_elsewhere_cannot_lead_out_of_the_folder(snapshots):
    for name in ("../log/data.mdb", "", ".", "staging", "a/b"):
        with pytest.raises(ValueError, match="not the name"):
            snapshots.path_of(name)


# ------------------------------------------------------------------------------------------------- sent and received


def test_a_snapshot_travels_byte_by_byte(snapshots, tmp_path):
    path = written(snapshots)
    source = snapshots.send(path.name)
    data = b""
    while chunk := source.read(10_000):
        data += chunk
    assert len(data) == source.total_bytes
    source.close()
    (tmp_path / "other").mkdir()
    other = Snapshots(tmp_path / "other", "test")
    other.clean_staging()
    anchor = receive(other, data)
    assert other.names() == [anchor.snapshot]
    assert anchor.frontier == 42
    assert other.path_of(anchor.snapshot).read_bytes() == path.read_bytes()


def test_a_snapshot_being_sent_survives_its_being_superseded(snapshots):
    path = written(snapshots)
    size = path.stat().st_size
    source = snapshots.send(path.name)
    snapshots.keep_only(path.name)
    snapshots.keep_only("another")
    assert not path.exists()
    assert len(source.read(size + 1)) == size
    source.close()


def test_what_comes_damaged_or_short_is_refused_and_leaves_nothing(snapshots):
    data = written(snapshots).read_bytes()
    snapshots.remove(snapshots.names()[0])
    with pytest.raises(CorruptSnapshot):
        receive(snapshots, data[:-100])
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    with pytest.raises(CorruptSnapshot):
        receive(snapshots, bytes(damaged))
    receiver = snapshots.receive()
    receiver.write(data[:1000])
    with pytest.raises(CorruptSnapshot, match="1000 bytes came of"):
        receiver.finish(total_bytes=len(data))
    assert snapshots.names() == []
    assert list(snapshots.staging.iterdir()) == []


def test_a_gap_in_what_comes_is_refused(snapshots):
    receiver = snapshots.receive()
    receiver.write(b"abc", offset=0)
    with pytest.raises(ValueError, match="where 3 is due"):
        receiver.write(b"def", offset=4)
    receiver.abandon()
    assert list(snapshots.staging.iterdir()) == []


def test_a_snapshot_of_another_cluster_is_refused(snapshots, tmp_path):
    data = written(snapshots).read_bytes()
    (tmp_path / "other").mkdir()
    other = Snapshots(tmp_path / "other", "another")
    other.clean_staging()
    with pytest.raises(WrongCluster):
        receive(other, data)
    assert other.names() == []


def test_the_bytes_depend_on_the_content_alone(snapshots):
    def bytes_of() -> bytes:
        file = io.BytesIO()
        write_snapshot(file, MemoryView(CONTENT), cluster="test", anchor=anchor_of(snapshot="some name"))
        return file.getvalue()

    assert bytes_of() == bytes_of()
    assert written(snapshots, frontier=0).read_bytes() != bytes_of()  # another epoch
