"""A backup taken under load, restored elsewhere, and what a folder says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deploy import Cluster, ClusterError
from deploy.restore_cli import restore_cluster
from replica.cli import main
from replica.client import connect
from tests.support.load import IncrementClient

TWO_LOOKS = ("--json", "--count", "2", "--interval", "0.5")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster.create(tmp_path / "cluster", replicas=3, base_port=0)
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


def synod(*arguments: str, status: int = 0) -> Any:
    """What the program prints, as JSON if it is that."""
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == status, done.output
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.output


@pytest.mark.timeout(300)
def test_a_backup_under_load_is_restored_with_the_same_keys_and_revisions(cluster: Cluster, tmp_path: Path) -> None:
    endpoints = ",".join(cluster.endpoints)
    with IncrementClient(cluster, "load", in_flight=8) as client:
        client.wait_acknowledged(100)
        with connect(endpoints) as store:
            for number in range(1500):
                store.put(f"runs/{number:05d}", f"value {number}" * 3)
            store.put("runs/00007", "again")
            lease = store.lease(600)
            store.put("held", "by a lease", lease=lease.id)
            taken = synod("backup", str(tmp_path / "backup"), "--endpoints", endpoints, "--json")
            store.delete("runs/00009")
            looks = [json.loads(line) for line in synod("top", "--endpoints", endpoints, *TWO_LOOKS).splitlines()]
        client.wait_acknowledged(client.acknowledged + 100)
        client.finish()
    assert [look["replica"] for look in looks[1]] == [1, 2, 3]
    assert max(look["writes_per_s"] for look in looks[1]) > 0
    assert sum(look["role"] == "leader" for look in looks[1]) == 1
    assert synod("backup", str(tmp_path / "backup"), "--verify", "--json") == taken

    elsewhere = restore_cluster(tmp_path / "backup", tmp_path / "elsewhere", protocol="raft", base_port=0)
    assert elsewhere.layout.cluster != cluster.layout.cluster
    try:
        elsewhere.up()
        there = ",".join(elsewhere.endpoints)
        with connect(there) as store:
            item = store.get("runs/00007")
            assert item is not None
            assert (item.value, item.version) == (b"again", 2)
            assert store.get("runs/00009") is not None, "the backup is as of its revision"
            assert [each.ttl_ms for each in store.leases()] == [600_000]
        again = synod("backup", str(tmp_path / "again"), "--endpoints", there, "--json")
        assert (again["revision"], again["keys"], again["digest"]) == (
            taken["revision"],
            taken["keys"],
            taken["digest"],
        )
        with connect(there) as store:
            assert store.put("runs/00009", "goes on").revision == taken["revision"] + 1
        assert synod("inspect", str(elsewhere.folder / "replica-1" / "data"), status=2).startswith("Error")
    finally:
        elsewhere.down()
    found = synod("inspect", str(elsewhere.folder / "replica-1" / "data"), "--json")
    assert found["problems"] == []
    assert found["state"]["revision"] == taken["revision"] + 1
    assert (found["log"]["protocol"], found["log"]["members"]) == ("raft", [1, 2, 3])


@pytest.mark.timeout(120)
def test_a_backup_is_restored_into_nothing_that_holds_something_and_damage_restores_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("mine")
    (tmp_path / "bad").write_bytes(b"SYNODBAK and then nothing of the kind")
    with pytest.raises(ClusterError, match="is not empty"):
        restore_cluster(tmp_path / "bad", tmp_path / "full", base_port=0)
    assert (tmp_path / "full" / "kept").read_text() == "mine"
    with pytest.raises(ClusterError, match="is damaged"):
        restore_cluster(tmp_path / "bad", tmp_path / "new", base_port=0)
    with pytest.raises(ClusterError, match="orders by object"):
        restore_cluster(tmp_path / "bad", tmp_path / "new", protocol="epaxos", base_port=0)
    assert not (tmp_path / "new").exists()


@pytest.mark.timeout(120)
def test_damage_is_told_part_by_part_and_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    found = Cluster.create(tmp_path / "cluster", replicas=1, base_port=0)
    found.up()
    with connect(found.endpoints[0]) as store:
        for number in range(200):
            store.put(f"k{number}", "v" * 200)
    found.down()
    data = found.folder / "replica-1" / "data"
    files = sorted(path for path in data.rglob("*") if path.is_file())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    assert synod("inspect", str(data), "--json")["state"]["revision"] == 200
    assert sorted(path for path in data.rglob("*") if path.is_file()) == files
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files} == before
    log = data / "log" / "data.mdb"
    log.write_bytes(log.read_bytes().replace(b"v" * 200, b"v" * 199 + b"w"))
    told = synod("inspect", str(data), "--json", status=1)
    assert len(told["problems"]) == 1
    assert told["problems"][0].startswith("log: ")
    assert told["state"]["revision"] == 200
