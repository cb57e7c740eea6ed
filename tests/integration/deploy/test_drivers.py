"""Clusters in containers and in network namespaces, for real where there is an engine or where we are root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy import Cluster, ClusterError, admin
from deploy.drivers.docker import LABEL
from replica.cli import main
from replica.client import connect
from tests.support.containers import PROJECT, engine, without_engine, without_namespaces

PATIENT: dict[str, int | float | str | bool] = {"election_timeout_min_s": 1.0, "election_timeout_max_s": 2.0}
SETTLE_S = 60.0


def synod(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="synod")


def digests(cluster: Cluster) -> set[str]:
    """The digests of all replicas' states at one frontier, once they have come to the same."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        frontier = max(status.applied for status in cluster.status())
        found = [admin.digest(replica.client, frontier) for replica in cluster.layout.replicas]
        if len({reply.applied for reply in found}) == 1:
            return {reply.digest for reply in found}
        assert time.monotonic() < deadline, "the replicas do not come to one frontier"


def survives(cluster: Cluster) -> None:
    """Write, kill the leader, write, bring it back, cut the new leader off, heal: all the same in the end."""
    with connect(",".join(cluster.endpoints), timeout_s=60.0) as store:
        store.put("before", "1")
        killed = cluster.leader()
        assert killed is not None
        cluster.kill(killed)
        with pytest.raises(ClusterError, match="not running"):
            cluster.kill(killed)
        store.put("without one", "2")
        cluster.start(killed)
        leader = cluster.leader()
        assert leader is not None
        cluster.partition([[leader], [each.replica for each in cluster.layout.replicas if each.replica != leader]])
        store.put("across a cut", "3")
        cluster.heal()
        cluster.wait_ready()
        cluster.pause(killed)
        cluster.resume(killed)
        store.put("after", "4")
        assert len(digests(cluster)) == 1
        assert [item.key for item in store.range(prefix="")] == [b"across a cut", b"after", b"before", b"without one"]
    assert any("listening" in line for line in cluster.log_tail(killed, 200))


class TestNamespaces:
    @pytest.fixture(autouse=True)
    def _namespaces(self) -> None:
        if reason := without_namespaces():
            pytest.skip(reason)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        yield tmp_path / "cluster"
        if Cluster.exists(tmp_path / "cluster"):
            Cluster.open(tmp_path / "cluster").down(timeout_s=5.0)

    def left(self, cluster: Cluster) -> str:
        mine = cluster.layout.cluster[:8]
        shown = "".join(
            subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
            for what in (["netns", "list"], ["-br", "link"])
        )
        return "\n".join(line for line in shown.splitlines() if mine in line)

    @pytest.mark.timeout(300)
    def test_a_cluster_in_namespaces_survives_kills_and_cuts_and_leaves_nothing(self, folder: Path) -> None:
        cluster = Cluster.create(folder, driver="namespace", topology="wan3", options=PATIENT)
        cluster.up()
        assert cluster.layout.shaped_by in {"netem", "transport"}
        assert cluster.notes or cluster.layout.shaped_by == "netem", "what is done instead is said"
        for link in cluster.round_trips():
            assert link.achieved_ms is not None
            assert link.achieved_ms >= 0.9 * link.declared_ms
        survives(cluster)
        # The tool has crashed: all that the next one has is the folder, and that names no process.
        forgotten = Cluster.open(folder)
        for replica in forgotten.layout.replicas:
            replica.process = 0
        assert self.left(forgotten)
        forgotten.down()
        assert self.left(forgotten) == ""
        assert [each.running for each in cluster.status()] == [False] * 3

    def test_a_cluster_that_does_not_come_up_is_taken_away(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[Cluster] = []

        def late(cluster: Cluster, **options: object) -> None:
            made.append(cluster)
            raise ClusterError("not ready after 0 s: replica 1: no leader is known")

        monkeypatch.setattr(Cluster, "wait_ready", late)
        result = synod("cluster", "up", "--driver", "namespace", "--folder", str(folder))
        assert result.exit_code == 1
        assert result.output.count("\n") == 1, result.output
        assert not folder.exists()
        assert self.left(made[0]) == ""


@pytest.mark.docker
@pytest.mark.timeout(900)
class TestContainers:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "cluster"
        yield path
        if Cluster.exists(path):
            cluster = Cluster.open(path)
            cluster.down(timeout_s=5.0)
            cluster.remove()

    def left(self, cluster: Cluster) -> list[str]:
        ours = ("--filter", f"label={LABEL}={cluster.layout.cluster}", "--quiet")
        return [*engine("ps", "--all", *ours).split(), *engine("network", "ls", *ours).split()]

    def volumes(self, cluster: Cluster) -> list[str]:
        return engine("volume", "ls", "--quiet", "--filter", f"label={LABEL}={cluster.layout.cluster}").split()

    def test_the_image_is_not_root_and_has_no_build_tools(self, image: str) -> None:
        look = "id --user; command -v gcc || command -v make || command -v pip3 >/dev/null || true; ls /source /wheels"
        said = subprocess.run(
            ["docker", "run", "--rm", "--entrypoint", "sh", image, "-c", look],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.stdout.split() == ["10001"]
        assert "/wheels" in said.stderr

    def test_a_cluster_in_containers_survives_kills_and_cuts_and_leaves_nothing(self, image: str, folder: Path) -> None:
        cluster = Cluster.create(
            folder, driver="docker", image=image, topology="wan3", options=PATIENT, base_port=0, metrics=True
        )
        cluster.up(timeout_s=180.0)
        assert cluster.layout.shaped_by in {"netem", "transport"}
        survives(cluster)
        forgotten = Cluster.open(folder)
        assert len(self.left(forgotten)) == 4
        forgotten.down()
        assert self.left(forgotten) == []
        assert len(self.volumes(forgotten)) == 3
        forgotten.up(timeout_s=180.0)
        with connect(",".join(forgotten.endpoints), timeout_s=60.0) as store:
            kept = store.get("across a cut")
        assert kept is not None
        forgotten.down()
        forgotten.remove()
        assert self.volumes(forgotten) == []

    def test_a_lost_container_is_replaced_by_a_member_of_its_own_address(self, image: str, folder: Path) -> None:
        cluster = Cluster.create(folder, driver="docker", image=image, options=PATIENT, base_port=0)
        cluster.up(timeout_s=180.0)
        with connect(",".join(cluster.endpoints), timeout_s=60.0) as store:
            store.put("kept", "yes")
            cluster.kill(1)
            assert cluster.replace(1, timeout_s=180.0) == 4
            store.put("and", "on")
        assert [replica.replica for replica in cluster.layout.replicas] == [4, 2, 3]
        assert len(digests(cluster)) == 1

    def test_a_port_in_use_is_one_clear_line_and_nothing_is_left(self, image: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            up = ("cluster", "up", "--driver", "docker", "--image", image, "--folder", str(folder))
            result = synod(*up, "--base-port", str(port - 1))
        assert result.exit_code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in result.output
        assert result.output.count("\n") == 1
        assert not folder.exists()
        assert f"127.0.0.1:{port - 1}" not in engine("ps", "--all", "--format", "{{.Ports}}")

    def test_the_plain_file_is_a_cluster_by_itself(self, image: str) -> None:
        ports = (7001, 7002, 7003)
        for port in ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    pytest.skip(f"port {port} is in use, which deploy/compose.yaml publishes")
        program = ["docker", "compose"]
        if subprocess.run([*program, "version"], capture_output=True, check=False).returncode:
            program = ["docker-compose"]
        project = f"synod-test-{os.getpid()}"
        compose = [*program, "-p", project, "-f", str(PROJECT / "deploy" / "compose.yaml")]
        environment = {**os.environ, "SYNOD_IMAGE": image}
        try:
            subprocess.run([*compose, "up", "-d", "--no-build"], env=environment, check=True, capture_output=True)
            with connect(",".join(f"127.0.0.1:{port}" for port in ports), timeout_s=120.0) as store:
                store.put("greeting", "hello")
                item = store.get("greeting")
            assert item is not None
            assert item.value == b"hello"
        finally:
            subprocess.run([*compose, "down", "--volumes"], env=environment, check=True, capture_output=True)
        assert engine("ps", "--all", "--quiet", "--filter", f"name={project}") == ""


def test_an_image_that_is_missing_is_one_clear_line_and_leaves_no_cluster(tmp_path: Path) -> None:
    if reason := without_engine():
        pytest.skip(reason)
    with pytest.raises(ClusterError, match=r"image synod:nowhere is missing: .*cluster image"):
        Cluster.create(tmp_path / "c", driver="docker", image="synod:nowhere", base_port=0)
    assert not Cluster.exists(tmp_path / "c")


def test_an_engine_that_does_not_run_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("docker") is None:
        pytest.skip("the program docker is not installed")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(ClusterError, match="no Docker engine is running"):
        Cluster.create(tmp_path / "c", driver="docker", base_port=0)


def test_docker_that_is_not_installed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = synod("cluster", "up", "--driver", "docker", "--folder", str(tmp_path / "c"))
    assert result.exit_code == 1
    assert result.output == "Error: the program docker is not installed: containers need a Docker engine\n"
    assert not (tmp_path / "c").exists()
