"""Makes a failing run small: takes out faults, chance and clients for as long as the same check still objects.

A plan is data, and every subsystem draws from a generator of its own, so a run without one of its faults is a run that
can be repeated as exactly as the first. What remains is usually a handful of faults that read as a story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace

from replica.consensus.interface import ProtocolSpec
from replica.simulation.network import LinkProfile
from replica.simulation.plan import Fault, Plan
from replica.simulation.runner import SimulationFailure, run
from replica.simulation.witness import Controls

ATTEMPTS_MAX: Final = 400
"""Runs that a shrinking may take."""


class Shrunk:
    """The smallest plan found, how it fails, and how many runs that took."""

    def __init__(self, plan: Plan, failure: SimulationFailure, attempts: int) -> None:
        self.plan = plan
        self.failure = failure
        self.attempts = attempts


def shrink(
    plan: Plan,
    spec: ProtocolSpec,
    replicas: int,
    *,
    controls: Controls | None = None,
    attempts_max: int = ATTEMPTS_MAX,
    progress: Callable[[int, Plan], None] | None = None,
) -> Shrunk:
    """Shrink ``plan``, which fails. ``progress`` is called after every run with its number and the smallest plan.

    The smaller run has to fail by the same check; by which replica or at what position may differ. Raises `ValueError`
    for a plan that does not fail.
    """
    first = _failure(plan, spec, replicas, controls)
    if first is None:
        raise ValueError(f"the run of seed {plan.seed} does not fail: there is nothing to shrink")
    best, failure, attempts = plan, first, 1
    shrinking = True
    while shrinking and attempts < attempts_max:
        shrinking = False
        for smaller in _smaller(best):
            if attempts >= attempts_max:
                break
            attempts += 1
            found = _failure(smaller, spec, replicas, controls)
            if progress is not None:
                progress(attempts, best)
            if found is not None and found.check == first.check:
                best, failure, shrinking = smaller, found, True
                break
    return Shrunk(best, failure, attempts)


def _failure(plan: Plan, spec: ProtocolSpec, replicas: int, controls: Controls | None) -> SimulationFailure | None:
    try:
        run(plan.seed, spec, replicas, plan=plan, controls=controls)
    except SimulationFailure as failure:
        return failure
    return None


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with something taken out, the most promising first."""
    faults = plan.faults
    size = len(faults)
    while size >= 1:
        for start in range(0, len(faults), size):
            yield replace(plan, faults=_without(faults, start, size))
        size //= 2
    if plan.endurance:
        yield replace(plan, endurance="")
    if plan.rivals or plan.protocols or plan.spread:
        yield replace(plan, rivals=0.0, protocols=(), spread=0.0)
    if len(plan.clients) > 1:
        yield replace(plan, clients=plan.clients[: len(plan.clients) // 2])
    busiest = max(client.operations for client in plan.clients)
    if busiest > 1:
        yield replace(
            plan, clients=tuple(replace(client, operations=client.operations // 2) for client in plan.clients)
        )
    if plan.demand > 1:
        yield replace(plan, demand=1)
    calm = LinkProfile(delay_s=plan.links.delay_s, jitter_s=plan.links.jitter_s)
    if plan.links != calm:
        yield replace(plan, links=calm)
        for name in ("loss", "duplication", "reordering", "tail"):
            if getattr(plan.links, name):
                yield replace(plan, links=replace(plan.links, **{name: 0.0}))
    if plan.client_links.loss:
        yield replace(plan, client_links=replace(plan.client_links, loss=0.0))
    if any(rate != 1.0 for rate in plan.clock_rates):
        yield replace(plan, clock_rates=tuple(1.0 for _ in plan.clock_rates))
    if plan.chaos_s > 2 * plan.unit_s:
        yield replace(plan, chaos_s=plan.chaos_s * 0.7)


def _without(faults: tuple[Fault, ...], start: int, size: int) -> tuple[Fault, ...]:
    return faults[:start] + faults[start + size :]
