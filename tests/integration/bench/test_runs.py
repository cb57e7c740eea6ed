"""Runs on real clusters: what they leave behind, whatever becomes of the cluster and of whoever waits for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench.cli import INTERRUPTED, WRONG, bench
from bench.results import LOG_LINES, Folder, read_folder
from replica.verification import read_history

PATIENCE_S = 60.0

PLANTED = """
from replica.consensus.multipaxos.planted import planted

PROTOCOL = planted("quorums that do not intersect")
"""

UNWILLING = """
from msgspec.structs import replace
from replica.consensus.multipaxos import PROTOCOL as SOUND

def refuse(context, options):
    raise RuntimeError("this protocol does not like the look of it")

PROTOCOL = replace(SOUND, create=refuse)
"""

MORTAL = """
from msgspec.structs import replace
from replica.consensus.interface import Proposed
from replica.consensus.multipaxos import PROTOCOL as SOUND

def create(context, options):
    made = SOUND.create(context, options)
    step, proposals = made.step, 0

    def count(now, events):
        nonlocal proposals
        proposals += sum(isinstance(event, Proposed) for event in events)
        if proposals > 40:
            raise RuntimeError("forty proposals are enough")
        return step(now, events)

    made.step = count
    return made

PROTOCOL = replace(SOUND, create=create)
"""


def synod_bench(*arguments: str) -> Result:
    return CliRunner().invoke(bench, list(arguments), catch_exceptions=False)


def short(folder: Path, *arguments: str) -> tuple[Result, Folder]:
    """A run of half a second."""
    brief = ("--seconds", "0.5", "--warm-up", "0.2", "--no-ceilings", "--no-report", "--into", str(folder))
    return (synod_bench("run", *brief, *arguments), read_folder(folder))


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work for it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(entry.parent.name) != os.getpid():
            found.append(line)
    return found


def test_a_run_ends_in_a_folder_with_figures_a_checked_history_and_nothing_else_left(tmp_path):
    done, folder = short(tmp_path / "results", "--in-flight", "8")
    assert done.exit_code == 0, done.output
    assert folder.complete
    (run,) = folder.runs
    assert run.usable
    assert run.summary.throughput > 0
    assert run.verdict.answer == "ok"
    assert run.verdict.digests == "agree"
    assert 0 < run.verdict.sampled < 0.5
    assert sum(run.series.completed) >= run.summary.operations
    assert {entry.kind for entry in run.latencies} == {"read", "write"}
    assert len([entry for entry in run.resources if entry.replica]) == 3
    history = read_history(folder.path / run.verdict.history)
    # On a busy machine half a second is a few operations, of which a share was recorded: perhaps of one kind.
    assert history.operations
    assert {operation.operation for operation in history.operations} <= {"get", "put"}
    assert "VERDICT: of 1 runs 1 linearizable" in done.output
    assert not processes_of(tmp_path)
    assert not list(folder.path.glob(".data-*"))


@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
def test_the_leader_stands_in_the_region_that_was_asked_for(tmp_path, protocol):
    done, folder = short(
        tmp_path / "results",
        *("--protocol", protocol, "--topology", "wan3", "--leader", "california", "--in-flight", "3", "--sample", "1"),
    )
    assert done.exit_code == 0, done.output
    (run,) = folder.runs
    assert run.deployment.leader == "california"
    assert run.leader == "california", "replicas begin with that of Ohio as the likely leader"
    assert run.verdict.answer == "ok"


def test_a_suite_runs_the_protocols_that_are_listed(tmp_path):
    six = "multipaxos,fpaxos,raft,epaxos,wpaxos,abd"
    folder = tmp_path / "results"
    done = synod_bench("suite", "wan", "--protocols", six, "--no-ceilings", "--for", "0.01", "--into", str(folder))
    assert done.exit_code == INTERRUPTED, done.output
    planned = read_folder(folder).manifest.planned
    labels = {each.label.split(",")[0] for each in planned if each.experiment == "wan5"}
    assert labels == set(six.split(","))


def test_a_cluster_that_does_not_come_up_is_a_result_with_its_last_words(tmp_path):
    (tmp_path / "unwilling.py").write_text(UNWILLING)
    done, folder = short(tmp_path / "results", "--protocol", f"{tmp_path}/unwilling.py:PROTOCOL")
    assert done.exit_code == WRONG
    (run,) = folder.runs
    assert run.failure is not None
    assert "replica" in run.failure.reason
    assert not run.usable
    said = [line for lines in run.failure.logs.values() for line in lines]
    assert any("does not like the look of it" in line for line in said)
    assert all(len(lines) <= LOG_LINES for lines in run.failure.logs.values())
    assert not processes_of(tmp_path)


def test_a_mistake_is_one_line_and_nothing_is_started(tmp_path):
    folder = tmp_path / "results"
    done = synod_bench("run", "--topology", "wan5", "--into", str(folder))
    assert done.exit_code == 2
    assert "cluster.replicas: 3 replicas cannot stand in the 5 regions of wan5" in done.output
    done = synod_bench("run", "--set", "conflict.percent=5", "--set", "keys=1", "--into", str(folder))
    assert done.exit_code == 2
    assert "workload.conflict.keys" in done.output
    done = synod_bench("run", "--fault", "5s melt leader", "--into", str(folder))
    assert done.exit_code == 2
    assert not folder.exists()


def test_a_run_whose_time_is_up_can_be_gone_on_with(tmp_path):
    folder = tmp_path / "results"
    done, found = short(folder, "--in-flight", "4", "--for", "0.1")
    assert done.exit_code == INTERRUPTED
    assert not found.runs
    assert [each.id for each in found.missing] == ["run--multipaxos--4--r1"]
    again, other = short(folder, "--in-flight", "5", "--for", "0.1")
    assert again.exit_code == 2
    assert "holds the results of another suite" in again.output
    assert other.manifest.suite == found.manifest.suite


def test_everything_there_is_is_listed():
    done = synod_bench("list")
    assert done.exit_code == 0
    for name in ("quick", "ycsb-a", "multipaxos", "etcd", "wan5"):
        assert name in done.output


@pytest.mark.slow
def test_a_cluster_that_dies_in_the_run_is_a_result_with_its_last_words(tmp_path):
    (tmp_path / "mortal.py").write_text(MORTAL)
    done, folder = short(
        tmp_path / "results", "--protocol", f"{tmp_path}/mortal.py:PROTOCOL", "--in-flight", "2", "--seconds", "3"
    )
    assert done.exit_code == WRONG
    (run,) = folder.runs
    assert run.failure is not None
    assert "died" in run.failure.reason
    said = [line for lines in run.failure.logs.values() for line in lines]
    assert any("forty proposals are enough" in line for line in said)
    assert not processes_of(tmp_path)


@pytest.mark.slow
def test_a_planted_bug_makes_the_verdict_red(tmp_path):
    (tmp_path / "zoo.py").write_text(PLANTED)
    done, folder = short(
        tmp_path / "results",
        *("--protocol", f"{tmp_path}/zoo.py:PROTOCOL", "--in-flight", "16", "--seconds", "6", "--sample", "0.2"),
        *("--fault", "1.5s drop leader -> follower for 3s"),
    )
    assert done.exit_code == WRONG
    (run,) = folder.runs
    assert run.verdict.bad, run.verdict
    assert "VERDICT: WRONG" in done.output


@pytest.mark.slow
def test_a_leader_that_is_killed_leaves_a_gap_and_a_verdict(tmp_path):
    done, folder = short(
        tmp_path / "results",
        *("--in-flight", "16", "--seconds", "7", "--fault", "2s kill leader for 2s"),
    )
    assert done.exit_code == 0, done.output
    (run,) = folder.runs
    (fault,) = run.faults
    assert (fault.kind, fault.error) == ("kill", "")
    assert run.summary.gap_s > 0.1
    assert run.verdict.answer == "ok"
    assert run.verdict.digests == "agree"
    history = read_history(folder.path / run.verdict.history)
    assert [each.kind for each in history.faults] == ["kill"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")
def test_etcd_is_measured_and_judged_by_the_same_means(tmp_path):
    done, folder = short(
        tmp_path / "results", "--target", "synod", "--target", "etcd", "--workload", "transactions", "--sample", "0.2"
    )
    assert done.exit_code == 0, done.output
    assert {run.deployment.target for run in folder.runs} == {"synod", "etcd"}
    assert all(run.verdict.answer == "ok" and run.verdict.digests == "agree" for run in folder.runs)
    assert not processes_of(tmp_path)


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_and_a_folder_that_can_be_gone_on_with(tmp_path):
    folder = tmp_path / "results"
    command = [
        *(sys.executable, "-m", "replica.cli", "bench", "run", "--seconds", "0.5", "--in-flight", "4,8,16"),
        *("--no-ceilings", "--no-report", "--into", str(folder)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while not list((folder / "runs").glob("*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED, said
    assert "goes on" in said
    assert not processes_of(tmp_path)
    cut = read_folder(folder)
    assert cut.runs
    assert not cut.manifest.finished
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    whole = read_folder(folder)
    assert whole.complete
    assert [run.id for run in whole.runs] == [f"run--multipaxos--{count}--r1" for count in (4, 8, 16)]
