"""How long a quorum takes to answer: order statistics of round trips.

A leader that needs a quorum of Q replicas and is one of them waits for the (Q−1)-th fastest of its N−1 peers. Where the
round trips are alike and random (a LAN) that is an order statistic of N−1 independent draws; where they are given by a
map (a WAN) it is the (Q−1)-th smallest entry, or by simulation where the entries vary, too.

Source: section 3 of the SIGMOD 2019 study, which takes the LAN round trip as normal with mean 0.4271 ms and standard
deviation 0.0476 ms, and draws by Monte Carlo; the exact expectation here needs no draws:

    E[X_(k)] = ∫₀¹ F⁻¹(u) · Beta(u; k, m−k+1) du        (k-th smallest of m)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import integrate, stats

from .errors import ModelError, not_negative

__all__ = ["STUDY_LAN_DEVIATION_MS", "STUDY_LAN_MEAN_MS", "lan_ms", "lan_ms_drawn", "wan_ms", "wan_ms_drawn"]

STUDY_LAN_MEAN_MS: Final = 0.4271
STUDY_LAN_DEVIATION_MS: Final = 0.0476


def _awaited(replicas: int, quorum: int) -> tuple[int, int]:
    """How many peers there are, and the how-manieth answer completes the quorum (0: none is needed)."""
    if replicas < 1:
        raise ModelError(f"replicas: {replicas} is not a positive number")
    if not 1 <= quorum <= replicas:
        raise ModelError(f"quorum: {quorum} of {replicas} replicas cannot be had (1 to {replicas})")
    return replicas - 1, quorum - 1


def lan_ms(
    replicas: int, quorum: int, *, mean_ms: float = STUDY_LAN_MEAN_MS, deviation_ms: float = STUDY_LAN_DEVIATION_MS
) -> float:
    """Mean time in ms until ``quorum`` of ``replicas`` have answered, the asker included: exact, round trips normal."""
    peers, awaited = _awaited(replicas, quorum)
    not_negative("mean_ms", mean_ms)
    not_negative("deviation_ms", deviation_ms)
    if awaited == 0:
        return 0.0
    density = stats.beta(awaited, peers - awaited + 1).pdf
    standard, _ = integrate.quad(lambda u: float(stats.norm.ppf(u) * density(u)), 0.0, 1.0, limit=200)
    return mean_ms + deviation_ms * float(standard)


def lan_ms_drawn(
    replicas: int,
    quorum: int,
    *,
    mean_ms: float = STUDY_LAN_MEAN_MS,
    deviation_ms: float = STUDY_LAN_DEVIATION_MS,
    draws: int = 100_000,
    seed: int = 1,
) -> tuple[float, float]:
    """The same by Monte Carlo, as the study did: the mean and its standard error, in ms."""
    peers, awaited = _awaited(replicas, quorum)
    if awaited == 0:
        return 0.0, 0.0
    round_trips = np.random.default_rng(seed).normal(mean_ms, deviation_ms, size=(draws, peers))
    waited = np.partition(round_trips, awaited - 1, axis=1)[:, awaited - 1]
    return float(waited.mean()), float(waited.std(ddof=1) / np.sqrt(draws))


def wan_ms(round_trips_ms: Sequence[float], quorum: int) -> float:
    """Time in ms until a quorum has answered, from the asker's round trips to its peers: the (Q−1)-th smallest."""
    _, awaited = _awaited(len(round_trips_ms) + 1, quorum)
    if awaited == 0:
        return 0.0
    return sorted(round_trips_ms)[awaited - 1]


def wan_ms_drawn(
    round_trips_ms: Sequence[float], quorum: int, *, jitter_ms: float, draws: int = 20_000, seed: int = 1
) -> float:
    """The mean of the same where each one-way delay varies normally with standard deviation ``jitter_ms``.

    A round trip is two delays, so its deviation is √2 times theirs; no delay is below 0.
    """
    _, awaited = _awaited(len(round_trips_ms) + 1, quorum)
    not_negative("jitter_ms", jitter_ms)
    if awaited == 0:
        return 0.0
    drawn = np.random.default_rng(seed).normal(
        round_trips_ms, jitter_ms * np.sqrt(2), size=(draws, len(round_trips_ms))
    )
    waited = np.partition(np.maximum(drawn, 0.0), awaited - 1, axis=1)[:, awaited - 1]
    return float(waited.mean())
