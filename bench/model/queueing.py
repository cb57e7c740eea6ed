"""How long an operation waits at a busy server, in steady state.

Symbols, here and in the whole package: ``rate`` R in operations a second, ``service_s`` s the mean time that the server
spends on one, in seconds, utilisation ρ = R·s. Each function returns the mean time *in the queue*, in seconds, the
service itself not included; all raise `Saturated` for ρ ≥ 1, and `ModelError` for a negative argument.

Source: the waiting-time formulas of Ailijiang, Charapko, Demirbas, "Dissecting the Performance of Strongly-Consistent
Replication Protocols", SIGMOD 2019, section 3 (M/M/1, M/D/1, M/G/1, G/G/1). Their table calls the service *rate* what
the formulas use as a time; everything here is in rates R and times s. M/M/1, M/D/1 and M/G/1 are exact
(Pollaczek–Khinchine); G/G/1 is Marchal's approximation, exact for Poisson arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from .errors import ModelError, Saturated, not_negative, positive

__all__ = ["QUEUES", "gg1", "md1", "mg1", "mm1", "utilisation", "waiting_s"]


def utilisation(rate: float, service_s: float) -> float:
    """ρ = R·s. Raises `Saturated` at 1 and beyond."""
    not_negative("rate", rate)
    positive("service_s", service_s)
    busy = rate * service_s
    if busy >= 1:
        raise Saturated(rate, 1 / service_s)
    return busy


def mm1(rate: float, service_s: float) -> float:
    """Poisson arrivals, exponential service: ρ² / (R(1−ρ))."""
    busy = utilisation(rate, service_s)
    return busy * service_s / (1 - busy)


def md1(rate: float, service_s: float) -> float:
    """Poisson arrivals, constant service (the study's choice): ρ·s / (2(1−ρ))."""
    busy = utilisation(rate, service_s)
    return busy * service_s / (2 * (1 - busy))


def mg1(rate: float, service_s: float, deviation_s: float) -> float:
    """Poisson arrivals, any service with standard deviation σ: (R²σ² + ρ²) / (2R(1−ρ))."""
    busy = utilisation(rate, service_s)
    not_negative("deviation_s", deviation_s)
    if rate == 0:
        return 0.0
    return (rate * rate * deviation_s * deviation_s + busy * busy) / (2 * rate * (1 - busy))


def gg1(rate: float, service_s: float, arrivals_scv: float, service_scv: float) -> float:
    """Any arrivals, any service, by their squared coefficients of variation C_a and C_s.

    ≈ ρ²(1+C_s)(C_a+ρ²C_s) / (2R(1−ρ)(1+ρ²C_s)).
    """
    busy = utilisation(rate, service_s)
    not_negative("arrivals_scv", arrivals_scv)
    not_negative("service_scv", service_scv)
    if rate == 0:
        return 0.0
    square = busy * busy
    above = square * (1 + service_scv) * (arrivals_scv + square * service_scv)
    return above / (2 * rate * (1 - busy) * (1 + square * service_scv))


def _exponential_both(rate: float, service_s: float) -> float:
    return gg1(rate, service_s, 1.0, 1.0)


def _half_as_variable(rate: float, service_s: float) -> float:
    return mg1(rate, service_s, service_s / 2)


QUEUES: Final[Mapping[str, Callable[[float, float], float]]] = MappingProxyType(
    {"md1": md1, "mm1": mm1, "mg1": _half_as_variable, "gg1": _exponential_both}
)
"""Waiting time by name, as a function of rate and service time. ``mg1`` takes a deviation of half the mean, ``gg1``
squared coefficients of variation of 1."""


def waiting_s(queue: str, rate: float, service_s: float) -> float:
    """The waiting time by a queue of `QUEUES`. Raises `ModelError` for another name."""
    if queue not in QUEUES:
        raise ModelError(f"queue: there is no {queue!r} (there are: {', '.join(sorted(QUEUES))})")
    return QUEUES[queue](rate, service_s)
