"""Random schedules for Raft: agreement, linearizable reads and progress, whatever is lost, repeated or crashes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica.consensus.interface import ProtocolSpec
from replica.consensus.raft import PROTOCOL
from replica.consensus.raft.planted import planted

from .chaos import SMALL, Chaos

SEEDS = 20
STEPS = 1200


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_any_schedule_keeps_agreement_and_ends_in_progress(n):
    for seed in range(SEEDS):
        Chaos(seed, n=n, spec=PROTOCOL).run(STEPS)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(min_value=0, max_value=2**32),
    n=st.integers(min_value=1, max_value=5),
    window=st.integers(min_value=1, max_value=16),
    tail=st.integers(min_value=0, max_value=16),
    chunk=st.integers(min_value=1, max_value=200),
)
def test_any_schedule_under_any_bounds(seed, n, window, tail, chunk):
    options = {**SMALL, "window_slots": window, "tail_slots": tail, "chunk_bytes_max": chunk}
    Chaos(seed, n=n, spec=PROTOCOL, options=options).run(400)


def run_seeds(seeds: Iterable[int], spec: ProtocolSpec) -> None:
    for seed in seeds:
        Chaos(seed, spec=spec).run(STEPS)


@pytest.mark.parametrize("bug", ["votes without looking at the log", "commit beyond what matches"])
def test_random_schedules_find_planted_bugs(bug):
    with pytest.raises(AssertionError):
        run_seeds(range(200), planted(bug))


@pytest.mark.slow
def test_many_schedules():
    for seed in range(1000, 2000):
        Chaos(seed, n=(3, 5, 3, 4)[seed % 4], spec=PROTOCOL).run(3000)
