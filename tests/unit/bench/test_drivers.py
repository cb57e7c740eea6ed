"""Measurements on clusters in containers and namespaces: what options and suites ask for, and what is refused first."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli import _finish_suite
from bench.suite import ClusterShape, TargetEntry, load_suite
from bench.targets.base import TargetUnavailable
from bench.targets.synod import SynodTarget
from bench.workload import load_workload


def options(**given: str) -> dict[str, object]:
    nothing: dict[str, object] = {"seconds": None, "repetitions": None, "seed": None, "targets": (), "protocols": ()}
    return nothing | {"driver": None, "shaping": None} | given


def test_every_experiment_of_a_suite_runs_where_the_options_say() -> None:
    suite = _finish_suite(load_suite("quick"), options(driver="namespace", shaping="transport"))
    assert {each.cluster.driver for each in suite.experiments} == {"namespace"}
    assert {each.cluster.shaping for each in suite.experiments} == {"transport"}
    assert _finish_suite(load_suite("quick"), options()).experiments == load_suite("quick").experiments


def test_results_say_where_the_replicas_ran() -> None:
    assert SynodTarget(TargetEntry(target="synod"), ClusterShape(driver="docker")).describe().driver == "docker"
    assert SynodTarget(TargetEntry(target="synod"), ClusterShape()).describe().driver == "process"


def test_containers_without_an_engine_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = SynodTarget(TargetEntry(target="synod"), ClusterShape(driver="docker"))
    with pytest.raises(TargetUnavailable, match="docker is not installed"):
        target.refusal(load_workload("uniform"), [])
    target = SynodTarget(TargetEntry(target="synod"), ClusterShape())
    assert target.refusal(load_workload("uniform"), []) == ""
