"""A queue in discrete events: what the formulas of `queueing` are held against.

One server, first come first served, by Lindley's recursion: W(n+1) = max(0, W(n) + S(n) − A(n)), with service times S
and gaps A between arrivals drawn from a seed. The interval is by batch means: consecutive waits depend on each other,
so the run is cut into batches whose means are nearly independent.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from scipy import stats

from .errors import ModelError
from .queueing import utilisation

__all__ = ["DISTRIBUTIONS", "Waited", "simulate"]

DISTRIBUTIONS: Final = ("constant", "exponential", "gamma")
"""``gamma`` takes its squared coefficient of variation from ``scv``."""

BATCHES: Final = 50


class Waited(msgspec.Struct, frozen=True, kw_only=True):
    """Mean wait in seconds with its confidence interval."""

    mean_s: float
    low_s: float
    high_s: float


def _draw(generator: np.random.Generator, kind: str, mean: float, scv: float, count: int) -> np.ndarray:
    if kind == "constant":
        return np.full(count, mean)
    if kind == "exponential":
        return generator.exponential(mean, count)
    if kind == "gamma":
        return generator.gamma(1 / scv, mean * scv, count)
    raise ModelError(f"distribution: there is no {kind!r} (there are: {', '.join(DISTRIBUTIONS)})")


def simulate(
    rate: float,
    service_s: float,
    *,
    arrivals: str = "exponential",
    service: str = "constant",
    scv: float = 1.0,
    customers: int = 400_000,
    seed: int = 1,
    confidence: float = 0.99,
) -> Waited:
    """Wait of ``customers`` customers. Raises `Saturated` where there is no steady state, `ModelError`."""
    utilisation(rate, service_s)
    generator = np.random.default_rng(seed)
    gaps = _draw(generator, arrivals, 1 / rate, scv, customers)
    services = _draw(generator, service, service_s, scv, customers)
    # Lindley's recursion unrolled: the wait is the free walk less its lowest point so far.
    walk = np.concatenate(([0.0], np.cumsum(services[:-1] - gaps[1:])))
    waits = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    steady = waits[customers // 10 :]  # it begins empty, which is not the steady state
    means = np.array([batch.mean() for batch in np.array_split(steady, BATCHES)])
    half = float(stats.t.ppf((1 + confidence) / 2, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES))
    mean = float(means.mean())
    return Waited(mean_s=mean, low_s=mean - half, high_s=mean + half)
