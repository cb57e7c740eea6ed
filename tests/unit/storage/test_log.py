"""The log gives back what was written or says that it can't; a commit is all or nothing."""

import struct
from pathlib import Path

import lmdb
import pytest

from replica.consensus.interface import CorruptRecord, Discard, Put
from replica.storage.coordinator import ANCHOR_KEY, LAST_KEY, META_TABLE
from replica.storage.envelope import HEADER, Envelope, RecordFault
from replica.storage.errors import CorruptStorage, StorageError, StorageFull, SyncFailed, UnreadableRecord
from replica.storage.log import LogEnvironment
from replica.storage.verification import verify_in_child

from .support import IDENTITY, MIB, SPEC, Vote, anchor_of, new_log, reopened, slot, vote


@pytest.fixture(params=["sync", "none"])
def durability(request):
    return request.param


@pytest.fixture
def log(tmp_path, durability):
    log = new_log(tmp_path / "log", durability=durability)
    yield log
    log.close()


def votes(log: LogEnvironment) -> list[int]:
    return [int(key) for key, _ in log.reader(SPEC).scan("votes", b"", LAST_KEY)]


def change_stored(path: Path, table: str, key: bytes, stored: bytes) -> None:
    """Put other bytes in place of a record, as a bug or a bad disk might."""
    environment = lmdb.open(str(path), max_dbs=8, map_size=64 * MIB)
    with environment.begin(write=True) as transaction:
        transaction.put(key, stored, db=environment.open_db(table.encode(), transaction))
    environment.close()


def stored_bytes(path: Path, table: str, key: bytes) -> bytes:
    environment = lmdb.open(str(path), max_dbs=8, map_size=64 * MIB)
    with environment.begin() as transaction:
        stored = transaction.get(key, db=environment.open_db(table.encode(), transaction, create=False))
    environment.close()
    assert stored is not None
    return bytes(stored)


# ------------------------------------------------------------------------------------------------------ reading back


def test_what_was_committed_is_read_back_also_after_a_restart(tmp_path, durability):
    log = new_log(tmp_path / "log", durability=durability)
    log.commit([[vote(1), vote(2, ballot=7)]])
    assert log.reader(SPEC).get("votes", slot(2)) == Vote(7, b"value 2")
    log.close()
    log = reopened(tmp_path / "log", durability=durability)
    assert log.reader(SPEC).get("votes", slot(1)) == Vote(1, b"value 1")
    assert votes(log) == [1, 2]
    log.close()


def test_an_absent_record_and_an_unused_table_are_none(log):
    assert log.reader(SPEC).get("votes", slot(1)) is None
    log.commit([[vote(2)]])
    assert log.reader(SPEC).get("votes", slot(1)) is None
    assert list(log.reader(SPEC).scan("promises", b"", LAST_KEY)) == []


def test_a_scan_is_half_open_and_ascending(log):
    log.commit([[vote(number) for number in (5, 3, 9, 1, 7)]])
    found = [int(key) for key, _ in log.reader(SPEC).scan("votes", slot(3), slot(7))]
    assert found == [3, 5]


def test_records_written_out_of_order_are_all_there(log):
    # Keys behind the last one are appended, others inserted; the two paths must not lose each other's records.
    log.commit([[vote(number) for number in (10, 11, 12)]])
    log.commit([[vote(13), vote(5), vote(14)]])
    log.commit([[vote(14, ballot=2), vote(15), vote(15, ballot=3)]])
    log.commit([[vote(4)]])
    log.commit([[vote(16)]])
    assert votes(log) == [4, 5, 10, 11, 12, 13, 14, 15, 16]
    assert log.reader(SPEC).get("votes", slot(14)) == Vote(2, b"value 14")
    assert log.reader(SPEC).get("votes", slot(15)) == Vote(3, b"value 15")


def test_a_discard_removes_its_half_open_range_and_nothing_else(log):
    log.commit([[vote(number) for number in range(10)]])
    log.commit([[Discard("votes", slot(3), slot(7))]])
    assert votes(log) == [0, 1, 2, 7, 8, 9]
    log.commit([[Discard("votes", b"", slot(2))]])
    assert votes(log) == [2, 7, 8, 9]
    log.commit([[Discard("votes", slot(8), LAST_KEY)]])
    assert votes(log) == [2, 7]
    log.commit([[Discard("votes", b"", LAST_KEY)]])
    assert votes(log) == []
    log.commit([[vote(1)]])
    assert votes(log) == [1]


def test_puts_and_discards_of_one_commit_take_effect_in_their_order(log):
    log.commit([[vote(1), Discard("votes", b"", LAST_KEY), vote(2)], [vote(3), Discard("votes", slot(3), slot(4))]])
    assert votes(log) == [2]


def test_appending_goes_on_correctly_after_the_tail_was_discarded(log):
    log.commit([[vote(number) for number in range(5)]])
    log.commit([[Discard("votes", slot(2), LAST_KEY), vote(2, ballot=9)]])
    log.commit([[vote(3, ballot=9)]])
    assert votes(log) == [0, 1, 2, 3]
    assert log.reader(SPEC).get("votes", slot(2)) == Vote(9, b"value 2")


def test_large_and_small_records_of_one_commit_come_back_whole(log):
    values = [b"x" * size for size in (1, 127, 2048, 65_536, MIB)]
    log.commit([[vote(number, value=value) for number, value in enumerate(values)]])
    reader = log.reader(SPEC)
    assert [record.value for _, record in reader.scan("votes", b"", LAST_KEY)] == values


# ----------------------------------------------------------------------------------------------------- own writes


def test_a_reader_sees_what_was_handed_over_before_it_is_committed(log):
    reader = log.reader(SPEC)
    log.commit([[vote(1), vote(2), vote(3)]])
    log.expect(1, [vote(2, ballot=5), Discard("votes", slot(3), slot(4))])
    log.expect(2, [vote(4)])
    assert reader.get("votes", slot(2)) == Vote(5, b"value 2")
    assert reader.get("votes", slot(3)) is None
    assert [(int(key), record.ballot) for key, record in reader.scan("votes", b"", LAST_KEY)] == [
        (1, 1),
        (2, 5),
        (4, 1),
    ]


def test_a_write_behind_a_discard_that_is_under_way_is_seen(log):
    log.commit([[vote(1), vote(2)]])
    log.expect(1, [vote(3), Discard("votes", b"", LAST_KEY), vote(2, ballot=8)])
    reader = log.reader(SPEC)
    assert reader.get("votes", slot(1)) is None
    assert reader.get("votes", slot(2)) == Vote(8, b"value 2")
    assert [int(key) for key, _ in reader.scan("votes", b"", LAST_KEY)] == [2]


def test_reading_is_the_same_before_during_and_after_the_commit_of_a_group(log):
    group = [vote(2, ballot=4), Discard("votes", slot(1), slot(2)), vote(7)]
    log.commit([[vote(1), vote(2)]])
    reader = log.reader(SPEC)
    log.expect(1, group)
    before = list(reader.scan("votes", b"", LAST_KEY))
    log.commit([group])
    during = list(reader.scan("votes", b"", LAST_KEY))
    log.settle(1)
    assert before == during == list(reader.scan("votes", b"", LAST_KEY))
    assert [int(key) for key, _ in before] == [2, 7]


# ------------------------------------------------------------------------------------------------------ corruption


@pytest.mark.parametrize("position", [0, 2, 6, HEADER.size, -1], ids=["version", "epoch", "checksum", "body", "end"])
def test_a_record_with_a_flipped_bit_is_unknown_and_never_absent(tmp_path, position):
    log = new_log(tmp_path / "log")
    log.commit([[vote(1), vote(2), vote(3)]])
    log.close()
    stored = bytearray(stored_bytes(tmp_path / "log", "votes", slot(2)))
    stored[position] ^= 0x10
    change_stored(tmp_path / "log", "votes", slot(2), bytes(stored))
    log = reopened(tmp_path / "log")
    reader = log.reader(SPEC)
    with pytest.raises(CorruptRecord) as error:
        reader.get("votes", slot(2))
    assert (error.value.table, error.value.key) == ("votes", slot(2))
    assert str(tmp_path / "log") in str(error.value)
    assert "\n" not in str(error.value)
    assert reader.get("votes", slot(1)) == Vote(1, b"value 1")
    with pytest.raises(CorruptRecord):
        list(reader.scan("votes", b"", LAST_KEY))
    log.close()


@pytest.mark.parametrize("keep", [0, 3, HEADER.size, HEADER.size + 4])
def test_a_torn_record_is_unknown(tmp_path, keep):
    log = new_log(tmp_path / "log")
    log.commit([[vote(1, value=b"v" * 100)]])
    log.close()
    stored = stored_bytes(tmp_path / "log", "votes", slot(1))
    change_stored(tmp_path / "log", "votes", slot(1), stored[:keep])
    log = reopened(tmp_path / "log")
    with pytest.raises(UnreadableRecord):
        log.reader(SPEC).get("votes", slot(1))
    log.close()


def test_a_record_that_turns_up_under_another_key_or_table_is_not_taken_for_that_one(tmp_path):
    log = new_log(tmp_path / "log")
    log.commit([[vote(1)]])
    log.close()
    stored = stored_bytes(tmp_path / "log", "votes", slot(1))
    change_stored(tmp_path / "log", "votes", slot(2), stored)
    change_stored(tmp_path / "log", "promises", slot(1), stored)
    log = reopened(tmp_path / "log")
    reader = log.reader(SPEC)
    with pytest.raises(UnreadableRecord):
        reader.get("votes", slot(2))
    with pytest.raises(UnreadableRecord):
        reader.get("promises", slot(1))
    log.close()


def test_flipped_bytes_in_the_file_are_noticed_at_the_record_that_they_hit(tmp_path):
    log = new_log(tmp_path / "log")
    log.commit([[vote(number, value=b"marker-%04d" % number * 20) for number in range(20)]])
    log.close()
    path = tmp_path / "log" / "data.mdb"
    content = bytearray(path.read_bytes())
    found = content.find(b"marker-0007marker-0007")
    while found >= 0:  # older copies of the page may hold it, too
        content[found + 3] ^= 0xFF
        found = content.find(b"marker-0007marker-0007", found + 1)
    path.write_bytes(content)
    log = reopened(tmp_path / "log")
    with pytest.raises(UnreadableRecord):
        log.reader(SPEC).get("votes", slot(7))
    assert log.reader(SPEC).get("votes", slot(6)) is not None
    log.close()


def test_a_damaged_anchor_refuses_the_start(tmp_path):
    new_log(tmp_path / "log").close()
    stored = bytearray(stored_bytes(tmp_path / "log", META_TABLE, ANCHOR_KEY))
    stored[-1] ^= 1
    change_stored(tmp_path / "log", META_TABLE, ANCHOR_KEY, bytes(stored))
    with pytest.raises(UnreadableRecord):
        reopened(tmp_path / "log")


def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path):
    new_log(tmp_path / "log").close()
    (tmp_path / "log" / "data.mdb").write_bytes(b"\0" * 65_536)
    with pytest.raises(CorruptStorage) as error:
        reopened(tmp_path / "log")
    assert str(tmp_path / "log") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_of_an_unknown_layout_is_unknown():
    envelope = Envelope("votes")
    stored = envelope.enclose(1, b"key", b"body")
    assert envelope.open(b"key", stored) == (1, b"body")
    version, epoch, checksum = HEADER.unpack_from(stored)
    with pytest.raises(RecordFault, match="layout 9"):
        envelope.open(b"key", struct.pack(">BII", version + 8, epoch, checksum) + b"body")


# --------------------------------------------------------------------------------------------------------- epochs


def test_the_switch_of_the_epoch_takes_the_old_tables_with_it_in_one_commit(log):
    log.commit([[vote(1), vote(2)]])
    later = anchor_of(2, frontier=2)
    log.commit([[Put(META_TABLE, ANCHOR_KEY, later), Discard("votes", b"", LAST_KEY), vote(3)]])
    assert log.anchor == later
    assert votes(log) == [3]


def test_a_record_of_another_epoch_is_not_taken_for_one_of_this(tmp_path):
    log = new_log(tmp_path / "log")
    log.commit([[vote(1)]])
    log.commit([[Put(META_TABLE, ANCHOR_KEY, anchor_of(2))]])
    with pytest.raises(UnreadableRecord, match="epoch 1"):
        log.reader(SPEC).get("votes", slot(1))
    log.close()


# ----------------------------------------------------------------------------------------------------- own records


def test_admission_and_the_disks_of_peers_are_remembered(tmp_path):
    log = new_log(tmp_path / "log")
    before = log.admitted
    log.commit([log.admission_writes(), log.peer_disk_writes(2, "disk-2"), log.peer_disk_writes(13, "disk-13")])
    assert (before, log.admitted) == (False, True)
    log.close()
    log = reopened(tmp_path / "log")
    assert log.admitted
    assert log.peer_disks == {2: "disk-2", 13: "disk-13"}
    assert log.peer_disk_writes(2, "disk-2")
    with pytest.raises(ValueError, match="disk-2"):
        log.peer_disk_writes(2, "another")
    log.close()


# ------------------------------------------------------------------------------------------------------- durability


def test_an_unsynced_log_is_used_again_after_a_crash_of_the_process_on_the_same_boot(tmp_path):
    log = new_log(tmp_path / "log", durability="none")
    log.commit([[vote(1)]])
    log._environment.close()  # what a crash leaves: nothing was synced or marked
    log = reopened(tmp_path / "log")
    assert votes(log) == [1]
    assert not (tmp_path / "log" / "UNSYNCED").exists()
    log.close()


def test_an_unsynced_log_is_refused_once_the_machine_has_been_down(tmp_path):
    log = new_log(tmp_path / "log", durability="none")
    log.commit([[vote(1)]])
    log._environment.close()
    (tmp_path / "log" / "UNSYNCED").write_text("another boot")
    for durability in ("sync", "none"):
        with pytest.raises(CorruptStorage, match="durability none"):
            reopened(tmp_path / "log", durability=durability)


def test_an_unsynced_log_that_was_closed_is_as_good_as_any(tmp_path):
    log = new_log(tmp_path / "log", durability="none")
    log.commit([[vote(1)]])
    log.close()
    assert not (tmp_path / "log" / "UNSYNCED").exists()
    reopened(tmp_path / "log").close()


def test_a_preallocated_log_is_an_ordinary_one(tmp_path):
    path = tmp_path / "log"
    log = new_log(path)
    log.commit([[vote(1)]])
    log.close()
    log = LogEnvironment(path, IDENTITY, map_bytes=64 * MIB, preallocated_bytes=3 * MIB)
    assert (path / "data.mdb").stat().st_size == 3 * MIB
    for number in range(2, 100):
        log.commit([[vote(number, value=bytes(50_000))]])
    log.close()
    assert (path / "data.mdb").stat().st_size > 3 * MIB
    log = LogEnvironment(path, IDENTITY, map_bytes=64 * MIB, preallocated_bytes=3 * MIB)
    assert votes(log) == list(range(1, 100))
    log.close()
    assert verify_in_child(path, checksums=True).tables["votes"] == 99


# ---------------------------------------------------------------------------------------------------------- failures


def test_a_full_map_is_fatal_and_every_later_commit_is_refused_alike(tmp_path):
    log = new_log(tmp_path / "log", map_bytes=MIB)
    log.commit([[vote(0)]])
    with pytest.raises(StorageFull) as error:
        log.commit([[vote(number, value=bytes(50_000)) for number in range(1, 40)]])
    assert "nothing of it was acknowledged" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(StorageFull):
        log.commit([[vote(1)]])
    log.close()
    log = reopened(tmp_path / "log")
    assert votes(log) == [0]
    log.close()


def test_a_failed_sync_is_fatal_and_never_tried_again(tmp_path):
    log = new_log(tmp_path / "log")
    log.commit([[vote(1)]])
    sound = log._environment
    attempts = []

    class FailingTransaction:
        """One whose sync fails, after which nobody knows what the disk holds."""

        def __init__(self, transaction: lmdb.Transaction) -> None:
            self._transaction = transaction

        def __getattr__(self, name):
            return getattr(self._transaction, name)

        def commit(self):
            attempts.append(1)
            self._transaction.abort()
            raise lmdb.Error("mdb_txn_commit: Input/output error")

    class FailingEnvironment:
        def __getattr__(self, name):
            return getattr(sound, name)

        def begin(self, write=False):
            transaction = sound.begin(write=write)
            return FailingTransaction(transaction) if write else transaction

    log._environment = FailingEnvironment()
    for _ in range(3):
        with pytest.raises(SyncFailed, match="not tried again"):
            log.commit([[vote(2)]])
    assert len(attempts) == 1
    log._environment = sound
    with pytest.raises(SyncFailed):
        log.commit([[vote(2)]])
    assert votes(log) == [1]
    log.close()


def test_a_record_that_cannot_be_encoded_stops_the_log_and_leaves_nothing_of_its_group(tmp_path):
    log = new_log(tmp_path / "log")
    with pytest.raises(TypeError):
        log.commit([[vote(1), Put("votes", slot(2), Vote(1, object()))]])  # type: ignore[arg-type]
    with pytest.raises(StorageError):
        log.commit([[vote(3)]])
    log.close()
    log = reopened(tmp_path / "log")
    assert votes(log) == []
    log.close()


def test_identity_is_checked_before_anything_is_written(tmp_path):
    new_log(tmp_path / "log").close()
    before = (tmp_path / "log" / "data.mdb").read_bytes()
    with pytest.raises(StorageError):
        LogEnvironment(tmp_path / "log", IDENTITY.__class__(cluster="test", replica=2, disk="disk-1"))
    assert (tmp_path / "log" / "data.mdb").read_bytes() == before
