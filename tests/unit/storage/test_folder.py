"""A data folder belongs to one replica of one cluster, for good, and to one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from replica.storage.errors import (
    AlreadyFormatted,
    CorruptStorage,
    FolderInUse,
    NewerFormat,
    NotFormatted,
    StorageError,
    WrongCluster,
    WrongProtocol,
    WrongReplica,
)
from replica.storage.folder import (
    FORMAT_VERSION,
    Identity,
    format_folder,
    is_formatted,
    mint_identity,
    open_folder,
    read_identity,
)
from replica.storage.log import LogEnvironment
from replica.storage.recovery import format_storage, open_storage

from .support import anchor_of, new_storage


def formatted(path: Path, *, cluster: str = "c", replica: int = 1) -> Identity:
    return format_storage(path, cluster=cluster, replica=replica, anchor=anchor_of())


def one_line_about(error: pytest.ExceptionInfo[StorageError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_a_formatted_folder_opens_with_the_identity_it_was_given(tmp_path):
    identity = formatted(tmp_path / "data", cluster="orders", replica=3)
    with open_folder(tmp_path / "data", cluster="orders", replica=3) as folder:
        assert folder.identity == identity
    assert identity.format == FORMAT_VERSION
    assert identity.created


def test_every_format_mints_another_disk(tmp_path):
    assert formatted(tmp_path / "a").disk != formatted(tmp_path / "b").disk


def test_a_folder_of_another_cluster_is_refused(tmp_path):
    formatted(tmp_path / "data", cluster="orders")
    with pytest.raises(WrongCluster) as error:
        open_folder(tmp_path / "data", cluster="invoices")
    assert "'orders'" in one_line_about(error, tmp_path / "data")


def test_a_folder_of_another_replica_is_refused(tmp_path):
    formatted(tmp_path / "data", replica=1)
    with pytest.raises(WrongReplica) as error:
        open_folder(tmp_path / "data", replica=2)
    assert "replica 1, not 2" in one_line_about(error, tmp_path / "data")


def test_another_protocol_than_that_of_the_epoch_is_refused(tmp_path):
    formatted(tmp_path / "data")
    with pytest.raises(WrongProtocol) as error:
        open_storage(tmp_path / "data", protocol="raft")
    assert "'ballots', not 'raft'" in one_line_about(error, tmp_path / "data")
    open_storage(tmp_path / "data", protocol="ballots").close()


def test_a_folder_that_does_not_exist_or_is_empty_is_not_formatted(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotFormatted) as error:
            open_folder(path)
        assert "format it first" in one_line_about(error, path)


def test_formatting_twice_is_refused_and_changes_nothing(tmp_path):
    identity = formatted(tmp_path / "data")
    with pytest.raises(AlreadyFormatted):
        formatted(tmp_path / "data")
    assert read_identity(tmp_path / "data") == identity


def test_a_folder_with_something_else_in_it_is_not_formatted_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(AlreadyFormatted) as error:
        formatted(tmp_path)
    assert "thesis.tex" in one_line_about(error, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_fresh_file_system_with_its_lost_and_found_can_be_formatted(tmp_path):
    (tmp_path / "lost+found").mkdir()
    formatted(tmp_path)
    assert is_formatted(tmp_path)


def test_an_interrupted_format_is_no_data_folder_and_can_be_done_over(tmp_path):
    path = tmp_path / "data"

    def crash(_folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        format_folder(path, mint_identity("c", 1), crash)
    with pytest.raises(NotFormatted):
        open_folder(path)
    identity = formatted(path)
    with open_folder(path) as folder:
        assert folder.identity == identity


def test_a_later_format_is_refused_whatever_else_it_changed(tmp_path):
    formatted(tmp_path / "data")
    later = {"format": FORMAT_VERSION + 1, "cluster": {"name": "c"}}
    (tmp_path / "data" / "FORMAT").write_bytes(msgspec.json.encode(later))
    with pytest.raises(NewerFormat) as error:
        open_folder(tmp_path / "data")
    assert "later release" in one_line_about(error, tmp_path / "data")


def test_a_damaged_identity_is_refused(tmp_path):
    formatted(tmp_path / "data")
    (tmp_path / "data" / "FORMAT").write_bytes(b'{"format": 1, "clu')
    with pytest.raises(CorruptStorage) as error:
        open_folder(tmp_path / "data")
    one_line_about(error, tmp_path / "data")


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    path = tmp_path / "data"
    formatted(path)
    script = (
        "import sys; from pathlib import Path; from replica.storage.folder import open_folder\n"
        "folder = open_folder(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.getcwd()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(FolderInUse) as error:
            open_folder(path)
        assert f"process {process.pid}" in one_line_about(error, path)
        process.kill()
    open_folder(path).close()


def test_a_refused_start_leaves_the_folder_to_others(tmp_path):
    formatted(tmp_path / "data")
    with pytest.raises(WrongProtocol):
        open_storage(tmp_path / "data", protocol="raft")
    open_folder(tmp_path / "data").close()


def test_a_log_from_another_disk_is_noticed(tmp_path):
    formatted(tmp_path / "a")
    formatted(tmp_path / "b")
    (tmp_path / "a" / "log" / "data.mdb").replace(tmp_path / "b" / "log" / "data.mdb")
    with pytest.raises(WrongReplica) as error:
        open_storage(tmp_path / "b")
    one_line_about(error, tmp_path / "b")


def test_a_missing_log_is_never_taken_for_an_empty_one(tmp_path):
    formatted(tmp_path / "data")
    (tmp_path / "data" / "log" / "data.mdb").unlink()
    with pytest.raises(CorruptStorage) as error:
        open_storage(tmp_path / "data")
    one_line_about(error, tmp_path / "data")
    assert not (tmp_path / "data" / "log" / "data.mdb").exists()


def test_each_start_has_its_own_incarnation_also_when_it_ends_in_a_crash(tmp_path):
    seen = []
    storage = new_storage(tmp_path / "data")
    seen.append(storage.incarnation)
    storage.close()
    script = (
        "import os, sys; from pathlib import Path; from replica.storage.recovery import open_storage\n"
        "print(open_storage(Path(sys.argv[1])).incarnation, flush=True); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "data")], stdout=subprocess.PIPE, check=False
        )
        seen.append(int(done.stdout))
    with open_storage(tmp_path / "data") as storage:
        seen.append(storage.incarnation)
    assert seen == [1, 2, 3, 4]


def test_the_incarnation_is_durable_before_the_log_can_be_used(tmp_path):
    path = tmp_path / "data"
    formatted(path)
    with open_folder(path) as folder:
        log = LogEnvironment(folder.log, folder.identity)
        number = log.begin_incarnation()
        log.close()
        log = LogEnvironment(folder.log, folder.identity)
        assert log.incarnation == number
        log.close()
