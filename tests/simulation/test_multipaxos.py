"""MultiPaxos in the deterministic world: sound under faults. Its planted bugs live in the zoo.

Seeds come in chunks so that pytest-xdist can share them out. A thousand of them, with what they covered, are a command:
`synod simulate --protocol multipaxos --replicas 3 --seeds 0:1000 --jobs 2`.
"""

import os
import subprocess
import sys

import pytest
from msgspec.structs import replace

from replica.consensus.multipaxos import FPAXOS, PROTOCOL
from replica.simulation import PROFILES, Controls, Fault, Plan, SimulationFailure, plan_of, run
from replica.simulation.survey import Survey, expected
from replica.verification import Header, Recorder, Verdict, check

CHUNK = 10


def chunks(number: int) -> list[range]:
    return [range(first, first + CHUNK) for first in range(0, number, CHUNK)]


@pytest.mark.parametrize("replicas", [3, 5])
@pytest.mark.parametrize("seeds", chunks(100), ids=lambda seeds: f"{seeds.start}-{seeds.stop}")
def test_all_faults_leave_it_sound(replicas, seeds):
    survey = Survey()
    for seed in seeds:
        survey.add(run(seed, PROTOCOL, replicas))
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert not survey.skipped


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("replicas", [3, 5])
def test_a_thousand_seeds_are_clean_and_cover_every_fault(replicas):
    survey = Survey()
    for seed in range(1000):
        survey.add(run(seed, PROTOCOL, replicas))
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert not survey.missing(expected(PROFILES["all"], PROTOCOL.capabilities, replicas))


@pytest.mark.parametrize("replicas", [3, 5])
def test_the_independent_checker_agrees(replicas):
    for seed in range(8):
        recorder = Recorder(Header(model="kv"))
        run(seed, PROTOCOL, replicas, recorder=recorder)
        judged = check(recorder.history())
        assert judged.verdict is Verdict.OK, f"seed {seed}: {judged.explanation}"


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed():
    program = (
        "from replica.consensus.multipaxos import PROTOCOL\n"
        "from replica.simulation import run\n"
        "print(run(17, PROTOCOL, 5).digest, run(18, PROTOCOL, 3).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "4711")
    }
    assert digests == {f"{run(17, PROTOCOL, 5).digest} {run(18, PROTOCOL, 3).digest}\n"}


@pytest.mark.parametrize("options", [{"q1": 4, "q2": 2}, {"q1": 2, "q2": 4}], ids=str)
def test_flexible_quorums_are_sound(options):
    for seed in range(10):
        run(seed, FPAXOS, 5, options=options)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_unusual_sizes_are_sound(replicas):
    for seed in range(6):
        run(seed, PROTOCOL, replicas)


def plan_with_a_wiped_disk(seed: int) -> Plan:
    """One replica misses what the others decide, another loses its disk, and the third is gone for a while."""
    plan = plan_of(seed, PROTOCOL, 3, operations=150)
    unit = plan.unit_s
    faults = (
        Fault(at=3.0 * unit, kind="partition", detail="isolate", seconds=1.5 * unit),
        Fault(at=4.3 * unit, kind="wipe", target="other"),
        Fault(at=4.4 * unit, kind="crash", target="leader", detail="process/", number=1.0, seconds=2 * unit),
    )
    return replace(plan, faults=faults, chaos_s=8 * unit, endurance="")


def test_a_wiped_disk_that_passes_for_the_old_one_is_noticed_and_one_that_may_not_is_harmless():
    reports = [run(seed, PROTOCOL, 3, plan=plan_with_a_wiped_disk(seed)) for seed in range(5)]
    assert sum(report.counters.get("replicas stopped because their disk is another", 0) for report in reports)
    broken = Controls(same_disk=False)
    caught = 0
    for seed in range(5):
        try:
            run(seed, PROTOCOL, 3, plan=plan_with_a_wiped_disk(seed), controls=broken)
        except SimulationFailure:
            caught += 1
    assert caught
