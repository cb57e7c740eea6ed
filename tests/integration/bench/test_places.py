"""Load from where the replicas are: generators in containers and in network namespaces, region by region."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import bench
from bench.results import RunResult, read_folder
from bench.targets import synod
from deploy import Cluster
from deploy.drivers.docker import LABEL
from deploy.topology import load_topology
from tests.support.containers import engine, without_namespaces


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Cluster]]:
    """The clusters that a benchmark made."""
    clusters: list[Cluster] = []

    class Remembered(Cluster):
        @classmethod
        def create(cls, *arguments: Any, **options: Any) -> Cluster:
            clusters.append(super().create(*arguments, **options))
            return clusters[-1]

    monkeypatch.setattr(synod, "Cluster", Remembered)
    yield clusters
    for cluster in clusters:
        if Cluster.exists(cluster.folder):
            cluster.down(timeout_s=0.0)


def run(folder: Path, *arguments: str) -> RunResult:
    """One run, which ended well."""
    brief = ("--warm-up", "1", "--no-ceilings", "--no-report", "--into", str(folder))
    done = CliRunner().invoke(bench, ["run", *brief, *arguments], catch_exceptions=False)
    (found,) = read_folder(folder).runs
    assert found.failure is None, found.failure
    assert done.exit_code == 0, done.output
    return found


def assert_from_its_regions(found: RunResult, topology: str) -> None:
    """Every region asked, from its place, over links that take at least what is declared."""
    assert found.deployment.placed
    regions = load_topology(topology).regions.names
    assert set(found.series.regions) == set(regions)
    assert all(sum(counts) for counts in found.series.regions.values())
    assert found.network is not None
    ways = [link for link in found.network.links if link.client]
    assert {link.one for link in ways} == set(regions)
    for link in ways:
        assert link.achieved_ms is not None
        assert link.achieved_ms >= 0.9 * link.declared_ms


@pytest.mark.timeout(300)
def test_load_comes_from_namespaces_beside_the_replicas_and_leaves_nothing(tmp_path: Path, made: list[Cluster]) -> None:
    if reason := without_namespaces():
        pytest.skip(reason)
    found = run(tmp_path / "results", "--driver", "namespace", "--topology", "wan3", "--seconds", "2")
    assert_from_its_regions(found, "wan3")
    assert (found.verdict.answer, found.verdict.digests) == ("ok", "agree")
    (cluster,) = made
    shown = "".join(
        subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
        for what in (["netns", "list"], ["-br", "link"])
    )
    assert cluster.layout.cluster[:8] not in shown


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_replicas_in_containers_agree_after_kills_and_cuts_under_load_from_containers(
    image: str, tmp_path: Path, made: list[Cluster]
) -> None:
    found = run(
        tmp_path / "results",
        *("--driver", "docker", "--image", image, "--replicas", "5", "--topology", "wan5", "--seconds", "60"),
        *("--in-flight", "20", "--fault", "2s partition 1,2 for 4s", "--fault", "12s kill leader for 3s"),
    )  # fmt: skip
    assert_from_its_regions(found, "wan5")
    assert {event.kind for event in found.faults} >= {"kill", "partition"}
    assert (found.verdict.answer, found.verdict.digests) == ("ok", "agree"), found.verdict
    assert found.deployment.driver == "docker"
    (cluster,) = made
    ours = ("--filter", f"label={LABEL}={cluster.layout.cluster}", "--quiet")
    assert engine("ps", "--all", *ours) == ""
    assert engine("network", "ls", *ours) == ""
    assert engine("volume", "ls", *ours) == ""
