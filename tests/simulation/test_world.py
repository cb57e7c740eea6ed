"""The world is deterministic, does what it says, and notices what it is there to notice."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from replica.consensus.interface import ProtocolSpec
from replica.simulation import Controls, SimulationFailure, plan_of, run
from replica.verification.history import Header, Recorder
from tests.simulation.primary import PROTOCOL, planted

ROOT = Path(__file__).resolve().parents[2]

RECOVERABLE = "recoverable"


def first_failure(seeds: Iterable[int], spec: ProtocolSpec = PROTOCOL, **how: Any) -> SimulationFailure | None:
    """The failure of the first seed that has one, or None."""
    for seed in seeds:
        try:
            run(seed, spec, 3, RECOVERABLE, operations=150, **how)
        except SimulationFailure as failure:
            return failure
    return None


def test_the_same_seed_is_the_same_run():
    one, other = (run(7, PROTOCOL, 3, RECOVERABLE, operations=200) for _ in range(2))
    assert one == other
    assert one.digest != run(8, PROTOCOL, 3, RECOVERABLE, operations=200).digest


def test_a_readable_trace_does_not_change_the_run():
    quiet = run(7, PROTOCOL, 3, RECOVERABLE, operations=200)
    told = run(7, PROTOCOL, 3, RECOVERABLE, operations=200, readable=True)
    assert told.digest == quiet.digest
    assert any("-> r2" in line for line in told.trace)
    assert not quiet.trace


def test_the_same_seed_is_the_same_run_under_another_hash_seed():
    program = (
        "from tests.simulation.primary import PROTOCOL\n"
        "from replica.simulation import run\n"
        "print(run(11, PROTOCOL, 5, 'recoverable', operations=150).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(digests) == 1


def test_a_sound_protocol_passes_under_faults():
    reports = [run(seed, PROTOCOL, 3, RECOVERABLE, operations=200) for seed in range(20)]
    assert all(report.operations >= 200 for report in reports)
    assert sum(report.succeeded for report in reports) > 0.5 * sum(report.operations for report in reports)
    total: dict[str, int] = {}
    for report in reports:
        for name, number in report.counters.items():
            total[name] = total.get(name, 0) + number
    for name in (
        "unsynced writes lost",
        "states rebuilt from snapshot and log",
        "snapshots taken",
        "groups merged into one transaction",
        "frames duplicated",
        "frames reordered",
        "frames lost in a partition",
        "frames released after a partition",
        "fault: power cut",
        "fault: pause",
        "fault: clock jump",
        "runs retried",
    ):
        assert total.get(name), f"{name} never happened"


def test_a_disk_that_keeps_nothing_is_noticed():
    assert first_failure(range(30), controls=Controls(persistence=False)) is not None


def test_a_disk_that_reports_before_it_has_synced_is_noticed():
    assert first_failure(range(200), controls=Controls(sync=False)) is not None


@pytest.mark.parametrize(
    ("bug", "checks"),
    [
        ("position used twice", {"one value per slot"}),
        ("vote counted before its sync", {"prefixes", "one value per slot", "liveness"}),
    ],
)
def test_a_planted_bug_is_noticed(bug, checks):
    failure = first_failure(range(200), planted(bug))
    assert failure is not None
    assert failure.check in checks


def test_a_failure_names_its_seed_and_how_to_replay_it():
    broken = planted("position used twice")
    failure = first_failure(range(200), broken)
    assert failure is not None
    assert f"seed {failure.seed}:" in str(failure)
    assert f"--replay {failure.seed}" in failure.replay
    with pytest.raises(SimulationFailure) as again:
        run(failure.seed, broken, 3, RECOVERABLE, operations=150)
    assert str(again.value) == str(failure)


def test_what_clients_saw_is_a_history():
    recorder = Recorder(Header(model="kv"))
    report = run(9, PROTOCOL, 3, RECOVERABLE, operations=150, recorder=recorder)
    history = recorder.history()
    assert len(history.operations) == report.operations
    outcomes = [operation.outcome for operation in history.operations]
    assert outcomes.count("ok") == report.succeeded
    assert outcomes.count("unknown") == report.unknown
    assert len(history.faults) == report.faults


def test_a_plan_without_its_faults_still_runs():
    plan = plan_of(3, PROTOCOL, 3, RECOVERABLE, operations=100)
    assert plan.faults
    calm = run(
        3, PROTOCOL, 3, plan=type(plan)(**{**{f: getattr(plan, f) for f in plan.__struct_fields__}, "faults": ()})
    )
    assert calm.faults == 0
