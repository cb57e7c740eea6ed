"""The parts from which the model's constants come, measured for real, briefly."""

import msgspec
import pytest

from bench.micro_round import measure_synced_round
from bench.micro_transport import measure_round
from bench.model.calibration import combine, load, measure_pass, store
from bench.model.system import Deployment, closed_loop


def test_a_round_asks_every_peer_and_later_answers_take_longer():
    found = measure_round(2, seconds=0.2)
    assert found.peers == 2
    assert 0 < found.answered_us[0] <= found.answered_us[1]
    assert found.leading_us > 0
    assert found.following_us > 0


def test_a_round_with_synced_logs_takes_longer_than_one_log_and_is_timed_by_size(tmp_path):
    (alone, _) = measure_synced_round(tmp_path, 0, rounds=5, sizes=(144, 9_000))
    assert len(alone.answered_us) == 1
    assert alone.following_us == 0
    small, large = measure_synced_round(tmp_path, 2, rounds=5, sizes=(144, 9_000))
    assert (small.value_bytes, large.value_bytes) == (144, 9_000)
    assert 0 < small.answered_us[0] <= small.answered_us[1]
    assert small.following_us > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_pass_of_the_calibration_finds_every_constant_and_predicts_with_them(tmp_path):
    said: list[str] = []
    made = measure_pass({"multipaxos": (3,)}, folder=tmp_path, seconds=0.1, report=said.append)
    assert said[0] == "the transport between two replicas"
    for name, value in msgspec.structs.asdict(made).items():
        if name.endswith("_us"):
            assert value >= 0, name
    assert min(made.hop_us, made.frame_in_us, made.frame_out_us, made.sync_us) > 0
    assert set(made.rounds) == {"3", "5"}
    assert set(made.steps) == {"multipaxos/3", "null/1"}
    assert {count: len(costs.answered_us) for count, costs in made.synced_rounds.items()} == {"1": 1, "3": 2, "5": 4}
    path = tmp_path / "calibration.json"
    store(path, combine([made, made]))
    said_of = closed_loop(load(path), Deployment(protocol="multipaxos"), 64)
    assert said_of.throughput > closed_loop(load(path), Deployment(protocol="multipaxos"), 1).throughput
