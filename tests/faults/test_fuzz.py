"""A sample of what ``make fuzz`` sends."""

from pathlib import Path

import pytest

from tests.fuzz import fuzzed_cluster


@pytest.mark.parametrize("inputs", [1_500, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_malformed_and_random_input_on_every_port_does_no_harm(tmp_path: Path, inputs: int) -> None:
    told: list[str] = []
    sent = fuzzed_cluster(tmp_path / "cluster", inputs, seed=2, report=told.append)
    assert sent.total() >= inputs
    assert {"/synod.v1.Session/Attach", "/synod.v1.Peer/Connect"} <= sent.keys()
