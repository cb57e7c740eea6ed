"""Whether a protocol that moves objects has settled: the first seconds of a long run beside its last ones.

Objects begin somewhere and move to where they are used. So what a region's clients see at first is the way to wherever
the objects are, and at last, if each object is used in one region, the round trip to that region's own quorum. A region
counts as *settled* when its mean over the last `EDGE_S` is at most half of that over the first, or within `NEAR_MS` of
the local quorum: of what the network alone costs an operation on an object that is owned where the client is, as the
topology declares it. What the same quorum takes over the links as they were measured before the run stands beside it.
"""

from __future__ import annotations

from statistics import fmean
from typing import Final

import msgspec

from bench.model.errors import ModelError
from bench.model.placement import local_quorum_ms, zone_failures_of
from bench.report.data import PointView
from bench.results import Estimate, RunResult, Scalar, estimate
from deploy.topology import Topology, TopologyError, load_topology

__all__ = ["EDGE_S", "NEAR_MS", "Settlement", "settlements"]

EDGE_S: Final = 10.0
"""Of the first and of the last seconds of a run that are compared."""

LONG: Final = 3.0
"""Times `EDGE_S` a run must last for its ends to be compared."""

NEAR_MS: Final = 2.0


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """One region's clients of one point; means over repetitions, in ms."""

    label: str
    value: Scalar
    region: str
    first: Estimate
    last: Estimate
    declared_ms: float | None
    """The local quorum's, by the network alone, as the topology declares it; None where objects do not move."""
    measured_ms: float | None
    """The same over the links as they were measured before the run; as declared where they were not."""

    @property
    def said(self) -> str:
        """In words."""
        if self.declared_ms is not None and self.last.mean <= self.declared_ms + NEAR_MS:
            return f"at the local quorum, within {NEAR_MS:g} ms"
        if self.last.mean <= self.first.mean / 2:
            return "at most half"
        return "no" if self.declared_ms is not None else "–"


def settlements(point: PointView) -> list[Settlement]:
    """The regions of a point whose runs were long enough, without faults; none otherwise."""
    runs = [run for run in point.usable if run.measured_s[1] >= LONG * EDGE_S and not run.faults]
    if len({name for run in runs for name in run.series.region_mean_ms}) < 2:
        return []
    declared, measured = _declared_ms(runs[0]), [_measured_ms(run) for run in runs]
    found = []
    for region in runs[0].regions:
        first, last = [], []
        for run in runs:
            end = run.measured_s[1]
            one = run.series.mean_ms(region, 0.0, EDGE_S)
            other = run.series.mean_ms(region, end - EDGE_S, end)
            if one is not None and other is not None:
                first.append(one)
                last.append(other)
        begun, ended = estimate(first), estimate(last)
        if begun is not None and ended is not None:
            found.append(
                Settlement(
                    label=point.label,
                    value=point.value,
                    region=region,
                    first=begun,
                    last=ended,
                    declared_ms=declared.get(region),
                    measured_ms=_mean([local[region] for local in measured if region in local]),
                )
            )
    return found


def _declared_ms(run: RunResult) -> dict[str, float]:
    try:
        return _quorums_ms(run, load_topology(run.deployment.topology))
    except TopologyError:
        return {}


def _measured_ms(run: RunResult) -> dict[str, float]:
    """The local quorums of a run by its links as they were measured."""
    # A client's way to its own replica first: between two replicas of one region, theirs is what a quorum takes.
    taken: dict[str, float] = {}
    for link in sorted(run.network.links if run.network else [], key=lambda link: not link.client):
        if link.achieved_ms is not None and (not link.client or link.one == link.other):
            taken[f"{link.one}.{link.other}"] = link.achieved_ms
    try:
        topology = load_topology(run.deployment.topology)
    except TopologyError:
        return {}
    declared = {
        pair: taken.get(pair, taken.get(".".join(reversed(pair.split("."))), ms))
        for pair, ms in topology.round_trip_ms.items()
    }
    return _quorums_ms(run, msgspec.structs.replace(topology, round_trip_ms={**declared, **taken}))


def _quorums_ms(run: RunResult, topology: Topology) -> dict[str, float]:
    deployed = run.deployment
    if deployed.protocol != "wpaxos":
        return {}
    try:
        failures = zone_failures_of(deployed.options, topology, deployed.replicas)
        return local_quorum_ms(topology, deployed.replicas, failures)
    except ModelError:
        return {}


def _mean(found: list[float]) -> float | None:
    return fmean(found) if found else None
