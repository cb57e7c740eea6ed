"""Raft in the deterministic world: sound under faults. Its planted bugs live in the zoo.

A thousand seeds, with what they covered, are a command:
`synod simulate --protocol raft --replicas 3 --seeds 0:1000 --jobs 2`.
"""

import pytest

from replica.consensus.raft import PROTOCOL
from replica.simulation import PROFILES, FaultProfile, run
from replica.simulation.survey import Survey, expected
from replica.verification import Header, Recorder, Verdict, check

TAME = FaultProfile(clocks=False)
"""Everything but clocks that are worse than leases are declared to bear."""


@pytest.mark.parametrize("replicas", [3, 5])
@pytest.mark.parametrize("first", [0, 12])
def test_all_faults_leave_it_sound(replicas, first):
    survey = Survey()
    for seed in range(first, first + 12):
        survey.add(run(seed, PROTOCOL, replicas))
    assert survey.fewest_operations >= 500
    assert survey.least_success > 0.5
    assert not survey.skipped


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [3, 5])
def test_a_thousand_seeds_are_clean_and_cover_every_fault(replicas):
    survey = Survey()
    for seed in range(1000):
        survey.add(run(seed, PROTOCOL, replicas))
    assert survey.fewest_operations >= 500
    assert not survey.missing(expected(PROFILES["all"], PROTOCOL.capabilities, replicas))


@pytest.mark.parametrize("replicas", [3, 5])
def test_leases_are_sound_while_clocks_keep_to_what_was_declared(replicas):
    for seed in range(8):
        run(seed, PROTOCOL, replicas, TAME, options={"lease_s": 0.3})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_leases_are_sound_for_many_seeds():
    for seed in range(500):
        run(seed, PROTOCOL, 3, TAME, options={"lease_s": 0.3})


@pytest.mark.parametrize("replicas", [3, 5])
def test_the_independent_checker_agrees(replicas):
    for seed in range(4):
        recorder = Recorder(Header(model="kv"))
        run(seed, PROTOCOL, replicas, recorder=recorder)
        judged = check(recorder.history())
        assert judged.verdict is Verdict.OK, f"seed {seed}: {judged.explanation}"


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_unusual_sizes_are_sound(replicas):
    for seed in range(4):
        run(seed, PROTOCOL, replicas)
