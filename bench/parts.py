"""What takes part in a run besides the load: the seams between its halves, as types.

The runner starts a deployment, then the parts of a run in order, then the generators; it stops the parts in reverse. A
part is an object with the methods of one of these protocols, made by a factory that the runner finds in the module
named here. Times are `time.monotonic` of this machine; everything recorded is in seconds from the start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench.results import FaultEvent, Network, Resources, Stage
from deploy import Cluster


class FaultTimeline(Protocol):
    """Faults at their times, against a live cluster. Made by ``bench.faults.make_timeline(tables, cluster)``.

    ``bench.faults.parse_faults(tables)`` checks the tables of a suite or of flags before anything starts and raises
    `ValueError` naming the field.
    """

    async def start(self, run_start: float) -> None:
        """Begin: the fault at 0 s happens at ``run_start``. Returns at once; the timeline runs beside the load."""

    async def stop(self) -> None:
        """End it, heal what is still broken (paused replicas go on, killed ones start again) and wait for that."""

    def events(self) -> list[FaultEvent]:
        """What was injected so far."""


class NetworkShaper(Protocol):
    """The links of a topology, of the replicas and of the clients. Made by ``bench.networks.make_shaper(cluster)``."""

    async def start(self) -> None:
        """Shape the links between replicas, and open the clients' ways to them."""

    def endpoints(self, region: str) -> str:
        """The URL by which a client in ``region`` reaches the cluster, shaped as the topology has it."""

    async def measure(self) -> Network:
        """The declared network beside the one that is measured now."""

    async def stop(self) -> None:
        """Close the clients' ways. The replicas' links stay as they are."""


class Observer(Protocol):
    """Where time and resources go. Made by ``bench.attribution.make_observer(cluster)``."""

    leader: str
    """Who led at the latest reading; empty: nobody."""

    counters: dict[str, int]
    """What the protocol counted between `begin` and `end`."""

    async def begin(self) -> None:
        """The measured part begins: remember counters."""

    async def end(self) -> tuple[list[Stage], list[Resources]]:
        """The measured part is over: what was used since `begin`."""


FaultTables = Sequence[Mapping[str, Any]]
"""Faults as a suite's TOML has them: tables with ``at_s``, ``kind`` and what the kind needs."""

__all__ = ["Cluster", "FaultTables", "FaultTimeline", "NetworkShaper", "Observer"]
