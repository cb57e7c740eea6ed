"""EPaxos in the deterministic world: sound under faults. Its planted bugs live in the zoo.

A thousand seeds, with what they covered, are a command:
`synod simulate --protocol epaxos --replicas 3 --seeds 0:1000 --jobs 2`.
"""

import os
import subprocess
import sys

import pytest

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.messages import Commit, PreAccept
from replica.consensus.interface import Command, Footprint, Options, Send
from replica.consensus.raft import PROTOCOL as RAFT
from replica.consensus.values import encode_batch
from replica.simulation import PROFILES, plan_of, run
from replica.simulation.epaxos_witness import EPaxosWitness
from replica.simulation.plan import _OWN_SWARM
from replica.simulation.runner import LIVENESS_UNITS
from replica.simulation.survey import RESTS_ON, Survey, expected
from replica.simulation.violation import Violation

CHUNK = 6


@pytest.mark.parametrize(("replicas", "first"), [(3, 0), (3, 6), (5, 0)])
def test_all_faults_leave_it_sound(replicas, first):
    survey = Survey()
    for seed in range(first, first + CHUNK):
        survey.add(run(seed, PROTOCOL, replicas))
    assert not survey.shortcomings(PROFILES["all"], 500)


@pytest.mark.parametrize(
    "options", [{"batch_max": 1}, {"window_instances": 1}, {"e": 0}, {"recovery_s": 0.05}], ids=str
)
def test_other_options_leave_it_sound(options):
    for seed in range(2):
        run(seed, PROTOCOL, 3, options=options)


@pytest.mark.parametrize(
    ("replicas", "options"), [(4, {}), (7, {}), (3, {"e": 0}), (5, {"e": 0}), (5, {"e": 1})], ids=str
)
def test_other_sizes_and_quorums_leave_it_sound(replicas, options):
    survey = Survey()
    for seed in range(4 if replicas < 7 else 2):
        survey.add(run(seed, PROTOCOL, replicas, options=options, operations=300))
    assert not survey.shortcomings(PROFILES["all"], 300)


@pytest.mark.parametrize("replicas", [3, 5])
def test_short_tails_are_discarded_and_made_up_for_by_snapshots(replicas):
    survey = Survey()
    for seed in range(6 if replicas == 3 else 3):
        options: Options = {"tail_instances": 1, "window_instances": 128, "recovery_s": 0.5}
        survey.add(run(seed, PROTOCOL, replicas, options=options))
    assert survey.counters["snapshots installed"] > 0
    assert survey.slowest_recovery < LIVENESS_UNITS / 2


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (112, {}),
        (363, {"tail_instances": 50, "tail_bytes_max": 64 << 20, "window_instances": 16, "recovery_s": 0.2}),
    ],
    ids=["hurried", "slow disk"],
)
def test_a_hub_is_left_to_recover_what_those_around_it_can_not(seed, options):
    report = run(seed, PROTOCOL, 5, options=options)
    assert report.counters["endured: hub"] == 1


def test_recoveries_that_take_longer_than_they_are_left_alone_do_not_go_on_for_ever():
    """Some syncs take ten times ``recovery_s``, and hundreds of instances were left undecided by two lost replicas."""
    run(642, PROTOCOL, 5)


def test_a_few_seeds_go_through_every_path_of_the_protocol():
    survey = Survey()
    for seed in range(12):
        survey.add(run(seed, PROTOCOL, 3, options={"recovery_s": 0.05}, operations=300))
    assert not survey.missing([name for name in RESTS_ON["epaxos"] if name.startswith("epaxos: ")])
    assert any("epaxos: recoveries" in line for line in survey.lines())


def test_the_swarm_of_its_options_leaves_the_plans_of_others_alone():
    tried = set()
    for seed in range(20):
        plan = plan_of(seed, PROTOCOL, 3)
        tried |= {plan.options["tail_instances"]}
        fixed = plan_of(seed, PROTOCOL, 3, options={"tail_instances": 7})
        assert fixed.options == {**plan.options, "tail_instances": 7}
        assert fixed.faults == plan.faults
        other = plan_of(seed, RAFT, 3)
        assert not _OWN_SWARM["epaxos"].keys() & other.options.keys()
    assert len(tried) > 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("replicas", [3, 5])
def test_a_thousand_seeds_are_clean_and_cover_every_fault(replicas):
    survey = Survey()
    for seed in range(1000):
        survey.add(run(seed, PROTOCOL, replicas))
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert not survey.missing(expected(PROFILES["all"], PROTOCOL.capabilities, replicas, "epaxos"))


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed():
    program = (
        "from replica.consensus.epaxos import PROTOCOL\n"
        "from replica.simulation import run\n"
        "print(run(17, PROTOCOL, 3).digest)"
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
    assert len(digests) == 1


def test_the_witness_sees_two_decisions_that_interfere_and_miss_each_other():
    value = encode_batch((Command(b"a", footprint=Footprint(writes=(b"x",))),))
    elsewhere = encode_batch((Command(b"b", footprint=Footprint(writes=(b"y",))),))
    witness = EPaxosWitness()
    witness.sent(1, Send((2,), PreAccept(1, 1, value, (0, 0, 0))), 1)
    witness.sent(1, Send((2,), Commit(1, 1, False, b"", (0, 0, 0))), 1)
    witness.sent(2, Send((1,), Commit(2, 1, False, elsewhere, (0, 0, 0))), 1)
    witness.sent(2, Send((1,), Commit(2, 2, False, value, (1, 1, 0))), 1)
    with pytest.raises(Violation, match="neither sees the other"):
        witness.sent(3, Send((1,), Commit(3, 1, False, value, (0, 2, 0))), 1)
    with pytest.raises(Violation, match="another value"):
        witness.sent(3, Send((1,), PreAccept(1, 1, elsewhere, (0, 0, 0))), 1)
    with pytest.raises(Violation, match="has"):
        witness.sent(3, Send((1,), Commit(1, 1, True, b"", (0, 0, 0))), 1)
