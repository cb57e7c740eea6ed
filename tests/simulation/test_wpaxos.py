"""WPaxos in the deterministic world: sound under faults. Its planted bugs live in the zoo.

A thousand seeds, with what they covered, are a command:
`synod simulate --protocol wpaxos --replicas 3 --seeds 0:1000 --jobs 2`, and with three zones of three
`--replicas 9 --option zones=3`.
"""

import os
import subprocess
import sys

import pytest

from replica.consensus.wpaxos import PROTOCOL
from replica.simulation import PROFILES, run
from replica.simulation.survey import Survey, expected

SHAPES = [(3, {}), (5, {}), (9, {"zones": 3})]
"""Three zones of one, five of one, three of three: f_z = 1 in all of them, f_n = 0, 0 and 1."""


@pytest.mark.parametrize(("replicas", "options", "seeds"), [(3, {}, 8), (5, {}, 4), (9, {"zones": 3}, 3)])
def test_all_faults_leave_it_sound(replicas, options, seeds):
    survey = Survey()
    for seed in range(seeds):
        survey.add(run(seed, PROTOCOL, replicas, options=options, operations=300))
    assert not survey.shortcomings(PROFILES["all"], 300)


@pytest.mark.parametrize("seed", [23, 34])
def test_the_hub_of_a_star_serves_what_others_had_begun_to_claim(seed):
    """Both plan a partition in which one replica alone reaches all others, with clients at all of them."""
    assert run(seed, PROTOCOL, 9, options={"zones": 3}).counters["endured: hub"] == 1


def test_a_zone_that_was_cut_off_announces_nothing_of_what_the_others_decided():
    """The plan cuts an owner's zone off, brings it up object by object, and keeps one of its members from that."""
    assert run(578, PROTOCOL, 9, options={"zones": 3}).counters["wpaxos: lost"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"batch_max": 1},
        {"window_slots": 1},
        {"policy": "immediate", "steal_rest_s": 0.0},
        {"policy": "majority", "steal_window": 4},
        {"policy": "average", "steal_window": 4},
        {"f_z": 0},
    ],
    ids=str,
)
def test_other_options_leave_it_sound(options):
    for seed in range(2):
        run(seed, PROTOCOL, 3, options=options, operations=200)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("replicas", "options"), SHAPES)
def test_a_thousand_seeds_are_clean_and_cover_every_fault(replicas, options):
    survey = Survey()
    for seed in range(1000):
        survey.add(run(seed, PROTOCOL, replicas, options=options))
    assert not survey.shortcomings(PROFILES["all"], 500)
    assert not survey.missing(expected(PROFILES["all"], PROTOCOL.capabilities, replicas, "wpaxos"))


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed():
    program = (
        "from replica.consensus.wpaxos import PROTOCOL\n"
        "from replica.simulation import run\n"
        "print(run(17, PROTOCOL, 3, operations=200).digest)"
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
