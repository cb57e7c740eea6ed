"""ABD in the deterministic world: sound under faults. Its planted bugs live in the zoo.

There is no order of decisions to compare: each key's history, as its clients saw it, is searched for an order that a
register allows and that real time agrees with, and at the end every key is read through every replica. Such an order
exists only if no read returns an older value than one before it did, so linearizability is also that *reads never go
backwards*. A search may give up; here it must not, for what it gave up on was not judged at all.

A thousand seeds, with what they covered, are a command:
`synod simulate --protocol abd --replicas 3 --seeds 0:1000 --jobs 2`.
"""

from collections.abc import Iterable
from typing import Any

import pytest

from replica.consensus.abd import PROTOCOL
from replica.kv import operations as kv
from replica.simulation import PROFILES, run
from replica.simulation import registers as judge
from replica.simulation.registers import RegisterOracle
from replica.simulation.runner import LIVENESS_UNITS
from replica.simulation.survey import RESTS_ON, Survey, expected
from replica.verification import Header, Recorder, Verdict, check


def surveyed(seeds: Iterable[int], replicas: int, **how: Any) -> Survey:
    survey = Survey()
    for seed in seeds:
        survey.add(run(seed, PROTOCOL, replicas, **how))
    return survey


@pytest.mark.parametrize(("replicas", "first"), [(3, 0), (3, 8), (5, 0), (5, 5)])
def test_all_faults_leave_it_sound_and_every_history_is_judged(replicas, first):
    survey = surveyed(range(first, first + (8 if replicas == 3 else 5)), replicas)
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert survey.undecided == 0
    assert survey.checked == survey.operations - survey.failed
    assert not survey.skipped
    assert "linearizability" in survey.checks


@pytest.mark.parametrize(
    ("replicas", "options"),
    [
        (3, {"q1": 1}),
        (3, {"q2": 3}),
        (5, {"q1": 2, "q2": 4}),
        (5, {"q1": 4, "q2": 2}),
        (3, {"repeat_max": 1}),
        (3, {"repeat_s": 0.02}),
        (3, {"queue_max": 2}),
    ],
    ids=str,
)
def test_other_quorums_and_bounds_leave_it_sound(replicas, options):
    # Replicas that are lost for good may be more than a quorum of all but one can do without: they come back here.
    survey = surveyed(range(3), replicas, profile="recoverable", options=options)
    assert survey.undecided == 0
    assert survey.checked == survey.operations - survey.failed


@pytest.mark.parametrize("replicas", [1, 2, 4, 7])
def test_unusual_sizes_are_sound(replicas):
    assert surveyed(range(3), replicas, operations=300).undecided == 0


@pytest.mark.parametrize("replicas", [3, 5])
def test_healed_clusters_are_soon_back(replicas):
    survey = surveyed(range(20, 26), replicas, profile="crashes", operations=200)
    assert survey.slowest_recovery < LIVENESS_UNITS / 2
    assert survey.undecided == 0


def test_a_few_seeds_go_through_every_path_of_the_protocol():
    survey = surveyed(range(4), 3)
    assert not survey.missing(RESTS_ON["abd"])
    assert set(RESTS_ON["abd"]) <= set(expected(PROFILES["all"], PROTOCOL.capabilities, 3, "abd"))
    assert not set(RESTS_ON["abd"]) & set(expected(PROFILES["none"], PROTOCOL.capabilities, 3, "abd"))


def test_every_key_is_read_through_every_replica_at_the_end(monkeypatch):
    seen = []
    judged = RegisterOracle.linearizable

    def remembering(self, history):
        seen.extend(history)
        return judged(self, history)

    monkeypatch.setattr(RegisterOracle, "linearizable", remembering)
    run(3, PROTOCOL, 3, "recoverable", operations=60)
    keys = {entry.operation.key for entry in seen}
    last = seen[-3 * len(keys) :]
    assert all(isinstance(entry.operation, kv.Get) for entry in last)
    assert sorted(entry.operation.key for entry in last) == sorted([*keys] * 3)


def test_the_independent_checker_agrees():
    for seed in range(3):
        recorder = Recorder(Header(model="register"))
        run(seed, PROTOCOL, 3, recorder=recorder)
        judged = check(recorder.history())
        assert judged.verdict is Verdict.OK, f"seed {seed}: {judged.explanation}"


def test_a_search_that_gives_up_is_no_evidence_and_says_so(monkeypatch):
    monkeypatch.setattr(judge, "STATES_MAX", 1)
    survey = surveyed(range(2), 3, operations=100)
    assert survey.undecided == 2
    assert survey.checked == 0
    assert "2 of 2 histories undecided" in "\n".join(survey.lines())
    assert survey.doubts()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("replicas", [3, 5])
def test_a_thousand_seeds_are_clean_and_cover_every_fault(replicas):
    survey = surveyed(range(1000), replicas)
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert not survey.missing(expected(PROFILES["all"], PROTOCOL.capabilities, replicas, "abd"))
    assert not survey.doubts()
