"""The parts from which the model's constants come, measured for real, briefly."""

import msgspec
import pytest

from bench.micro_log import commit_together
from bench.micro_transport import measure_round
from bench.model.calibration import combine, load, measure_pass, store
from bench.model.system import Deployment, closed_loop


def test_a_round_asks_every_peer_and_later_answers_take_longer():
    found = measure_round(2, seconds=0.2)
    assert found.peers == 2
    assert 0 < found.answered_us[0] <= found.answered_us[1]
    assert found.leading_us > 0
    assert found.following_us > 0


def test_commits_that_begin_together_are_timed_in_each_process_and_apart_by_size(tmp_path):
    found = commit_together(tmp_path, counts=(1, 3), sizes=(144, 9_000), rounds=4)
    assert set(found) == {(1, 144), (1, 9_000), (3, 144), (3, 9_000)}
    for (count, size), together in found.items():
        assert (together.processes, together.value_bytes) == (count, size)
        assert [len(each) for each in together.rounds] == [count] * 4
        assert all(took > 0 for each in together.rounds for took in each)


@pytest.mark.slow
def test_a_pass_of_the_calibration_finds_every_constant_and_predicts_with_them(tmp_path):
    said: list[str] = []
    made = measure_pass({"multipaxos": (3,)}, folder=tmp_path, seconds=0.1, report=said.append)
    assert said[0] == "the transport between two replicas"
    for name, value in msgspec.structs.asdict(made).items():
        if name.endswith("_us") and not name.endswith(("command_us", "operation_us")):
            assert value > 0, name
    assert set(made.rounds) == {"3", "5"}
    assert set(made.steps) == {"multipaxos/3", "null/1"}
    assert {count: len(rounds[0]) for count, rounds in made.syncs.items()} == {"1": 1, "3": 3, "5": 5}
    path = tmp_path / "calibration.json"
    store(path, combine([made, made]))
    said_of = closed_loop(load(path), Deployment(protocol="multipaxos"), 64)
    assert said_of.throughput > closed_loop(load(path), Deployment(protocol="multipaxos"), 1).throughput
