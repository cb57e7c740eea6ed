"""Random schedules over EPaxos: agreement, visibility, one order a key and progress, whatever is lost or crashes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.planted import planted
from replica.consensus.interface import ProtocolSpec

from .egalitarian import Ambush, Turmoil

SEEDS = 6
STEPS = 1200


def run_seeds(seeds: Iterable[int], spec: ProtocolSpec = PROTOCOL, *, n: int = 3, **options: int) -> None:
    for seed in seeds:
        Turmoil(seed, n=n, spec=spec, options=dict(options)).run(STEPS)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_any_schedule_keeps_one_order_and_ends_in_progress(n):
    run_seeds(range(SEEDS), n=n)


@pytest.mark.parametrize(("e", "f"), [(0, 2), (1, 2), (1, 1), (0, 0)])
def test_any_schedule_keeps_one_order_with_other_quorums(e, f):
    run_seeds(range(SEEDS // 2), n=5, e=e, f=f)


@pytest.mark.parametrize("window", [1, 2, 64])
def test_any_schedule_keeps_one_order_under_other_windows(window):
    run_seeds(range(SEEDS // 2), window_instances=window, batch_max=1)


@pytest.mark.parametrize("bug", ["executes ignoring dependencies", "vote before its sync", "instance minted twice"])
def test_random_schedules_find_planted_bugs(bug):
    with pytest.raises(AssertionError):
        run_seeds(range(200), planted(bug))


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5])
def test_many_schedules(n):
    run_seeds(range(1000, 1500), n=n)


def run_ambushes(seeds: Iterable[int], spec: ProtocolSpec = PROTOCOL, *, n: int = 5) -> None:
    for seed in seeds:
        Ambush(seed, n=n, spec=spec).run()


@pytest.mark.parametrize("n", [3, 5])
def test_an_instance_that_is_recovered_again_and_again_is_decided_once(n):
    run_ambushes(range(25), n=n)


def test_contested_recoveries_find_the_single_ballot():
    with pytest.raises(AssertionError, match="agreement"):
        run_ambushes(range(200), planted("single-ballot recovery"))


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_many_contested_recoveries(n):
    run_ambushes(range(1000, 2000), n=n)
