"""``synod cluster`` and ``synod member`` as a person types them, on real processes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy import Cluster, ClusterError, admin
from deploy.layout import save
from replica.cli import main
from replica.client import connect


def synod(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="synod")


def done(*arguments: str) -> str:
    result = synod(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "cluster"
    yield str(path)
    if Cluster.exists(path):
        Cluster.open(path).down(timeout_s=5.0)


@pytest.mark.timeout(300)
def test_a_cluster_lives_through_what_its_commands_do_to_it(folder: str) -> None:
    done("cluster", "up", "--folder", folder, "--base-port", "0")
    endpoints = ",".join(Cluster.open(folder).endpoints)
    done("put", "--endpoints", endpoints, "greeting", "hello")

    assert "is killed" in done("cluster", "kill", "--folder", folder, "leader")
    status = synod("cluster", "status", "--folder", folder, "--json")
    assert status.exit_code == 3
    assert [row["running"] for row in json.loads(status.output)].count(False) == 1
    assert done("get", "--endpoints", endpoints, "greeting").strip() == "hello"

    done("cluster", "up", "--folder", folder)
    assert all(row["ready"] for row in json.loads(done("cluster", "status", "--folder", folder, "--json")))
    done("cluster", "restart", "--folder", folder, "leader")

    assert "replica 4 stands in the place of replica 2" in done("member", "replace", "--folder", folder, "2")
    members = json.loads(done("member", "list", "--folder", folder, "--json"))
    assert members["epoch"] == 2
    assert [member["replica"] for member in members["members"]] == [1, 3, 4]
    again = synod("member", "replace", "--folder", folder, "1", "--with", "2")
    assert again.exit_code == 1
    assert "given before" in again.output

    done("cluster", "down", "--folder", folder)
    done("cluster", "up", "--folder", folder)
    with connect(",".join(Cluster.open(folder).endpoints)) as store:
        item = store.get("greeting")
        assert item is not None
        assert item.value == b"hello"
    done("cluster", "down", "--folder", folder, "--wipe")
    assert not Path(folder).exists()


def test_a_port_in_use_is_one_clear_line(folder: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster = Cluster.create(folder, base_port=0)
        port = taken.getsockname()[1]
        cluster.layout.replica(2).client = f"127.0.0.1:{port}"
        save(Path(folder), cluster.layout)
        result = synod("cluster", "up", "--folder", folder)
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.output
    assert "replica 2" in result.output


def test_links_get_the_delays_of_the_topology(folder: str) -> None:
    done("cluster", "up", "--folder", folder, "--base-port", "0", "--topology", "wan3")
    cluster = Cluster.open(folder)
    assert [replica.region for replica in cluster.layout.replicas] == ["ohio", "virginia", "california"]
    with connect(",".join(cluster.endpoints)) as store:
        store.put("far", "away")
        begin = time.monotonic()
        store.put("far", "away")
        # No quorum of the three regions is nearer than Ohio and Virginia.
        assert time.monotonic() - begin >= 0.0105


@pytest.mark.timeout(240)
def test_a_replacement_whose_outcome_is_unknown_is_finished_by_another_call(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("cluster", "up", "--folder", folder, "--base-port", "0")
    cluster = Cluster.open(folder)

    def silent(*arguments: object, **options: object) -> None:
        raise admin.AdminError("replica at 127.0.0.1:1 does not answer: deadline exceeded", unreachable=True)

    with monkeypatch.context() as patched:
        patched.setattr(admin, "replace_member", silent)
        with pytest.raises(ClusterError, match=r"not known whether .*member replace 2"):
            cluster.replace(2, timeout_s=0.5)
    with pytest.raises(ClusterError, match="still taking the place of replica 2"):
        cluster.replace(3)
    assert cluster.replace(2) == 4
    assert [replica.replica for replica in cluster.layout.replicas] == [1, 4, 3]


@pytest.mark.timeout(240)
def test_a_partition_holds_until_it_is_healed_also_over_a_restart(folder: str) -> None:
    done("cluster", "up", "--folder", folder, "--base-port", "0", "--fault-injection")
    cluster = Cluster.open(folder)
    assert "cut: 1 | 2,3" in done("cluster", "partition", "--folder", folder, "1", "2,3")
    with connect(",".join(cluster.endpoints), timeout_s=60.0) as store:
        store.put("by", "the majority")
        done("cluster", "kill", "--folder", folder, "1")
        cluster = Cluster.open(folder)
        cluster.start(1, wait=False)
        measured = {(link.one, link.other): link.achieved_ms for link in cluster.round_trips()}
        assert measured[1, 2] is None
        assert measured[2, 3] is not None
        done("cluster", "heal", "--folder", folder)
        cluster.wait_ready()
    assert "achieved" in done("cluster", "network", "--folder", folder)
