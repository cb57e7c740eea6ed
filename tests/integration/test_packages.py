"""A protocol in a package of its own is found by its entry point, and runs everywhere with no edit in this tree.

`tests/integration/node/test_keyed.py` runs the same package on replicas in this process, and
`tests/faults/test_kill_keyed.py` on replicas that are killed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.results import read_folder
from tests.support.packages import PACKAGES, install

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path):
    """Of a process that has the package `partitioned` beside what is installed anyway."""
    site = install("partitioned", tmp_path / "site")
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


def run(environment: dict[str, str], *command: str) -> str:
    """What a Python program prints. Fails with what it complained of."""
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_simulator_finds_it_and_says_what_was_checked(environment):
    said = run(
        environment, *("replica.cli", "simulate", "--protocol", "partitioned", "--seeds", "0:2", "--faults", "crashes")
    )
    assert "2 runs" in said
    assert "one order per key" in said


def test_the_bench_measures_it(environment, tmp_path):
    said = run(
        environment,
        *("bench.throughput", "--protocol", "partitioned", "--no-pipeline", "--in-flight", "8"),
        *("--repetitions", "1", "--seconds", "0.5", "--folder", str(tmp_path)),
    )
    row = said.splitlines()[-1].split()
    assert row[0] == "8"
    assert float(row[1].replace(",", "")) > 0


SUITE = """
repetitions = 1

[[targets]]
protocol = "multipaxos"

[[experiments]]
name = "writes"
workload = "writes"

[experiments.load]
in_flight = 8
seconds = 0.5
warm_up_s = 0.2

[experiments.history]
fraction = 0.5
"""


@pytest.mark.parametrize("protocol", ["partitioned", f"{PACKAGES}/partitioned/partitioned/__init__.py:PROTOCOL"])
def test_a_suite_measures_and_judges_it_by_its_entry_point_and_by_its_path(environment, tmp_path, protocol):
    (tmp_path / "own.toml").write_text(SUITE)
    said = run(
        environment if protocol == "partitioned" else dict(os.environ),
        *("replica.cli", "bench", "suite", str(tmp_path / "own.toml"), "--protocol", protocol),
        *("--no-ceilings", "--into", str(tmp_path / "results")),
    )
    folder = read_folder(tmp_path / "results")
    assert folder.complete
    (result,) = folder.runs
    assert result.deployment.label == "partitioned"
    assert result.usable, result.failure
    assert result.verdict.answer == "ok", result.verdict
    assert "partitioned" in (tmp_path / "results" / "report.html").read_text()
    assert "VERDICT: of 1 runs 1 linearizable" in said


def test_without_the_package_there_is_no_such_protocol():
    done = subprocess.run(
        [sys.executable, "-m", "replica.cli", "simulate", "--protocol", "partitioned", "--seeds", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "partitioned" in done.stderr
