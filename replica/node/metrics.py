"""What a node counts, and its exposition for Prometheus.

The loop adds to plain numbers, once a turn and never once a command; the families that Prometheus reads are
made when somebody scrapes. Every node has a registry of its own, so that several can live in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .distributions import Distribution
from .stages import Stages

__all__ = ["Distribution", "NodeMetrics"]

PREFIX: Final = "synod_"
"""What all names begin with where they are exposed."""

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class NodeMetrics(Collector):
    """The numbers of one node. Counters only grow; gauges are asked for when they are scraped."""

    def __init__(self, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """``gauges`` yields name to (help, value)."""
        self._gauges = gauges
        self.turns = 0
        self.events = 0
        self.operations_proposed = 0
        self.operations_applied = 0
        self.operations_refused = 0
        self.reads_served = 0
        self.commits = 0
        self.state_commits = 0
        self.snapshots_taken = 0
        self.snapshots_installed = 0
        self.leader_changes = 0
        self.sessions_opened = 0
        self.sessions_closed_slow = 0
        self.watches_opened = 0
        self.watches_ended_slow = 0
        self.turn_seconds = Distribution(SECONDS)
        self.sync_seconds = Distribution(SECONDS)
        self.proposed_per_turn = Distribution(SIZES)
        self.applied_per_turn = Distribution(SIZES)
        self.stages = Stages()
        self.round_trips: Mapping[int, float] = {}
        """Smoothed, to each peer that was measured, in seconds. Replaced as a whole: scrapes come on another thread."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def values(self) -> dict[str, float]:
        """Every counter and gauge without labels by its name, and of every distribution its sum and count; for logs."""
        return {
            sample.name.removeprefix(PREFIX): round(sample.value, 6)
            for family in self.collect()
            for sample in family.samples
            if not sample.labels
        }

    def collect(self) -> Iterator[Metric]:
        """The families, made now."""
        for name, text, value in (
            ("turns", "Turns of the loop.", self.turns),
            ("events", "Events that the protocol digested.", self.events),
            ("operations_proposed", "Operations handed to the protocol.", self.operations_proposed),
            ("operations_applied", "Operations applied to the state.", self.operations_applied),
            ("operations_refused", "Operations refused before or after proposing.", self.operations_refused),
            ("reads_served", "Reads answered.", self.reads_served),
            ("log_commits", "Transactions of the log environment.", self.commits),
            ("state_commits", "Transactions of the state environment.", self.state_commits),
            ("snapshots_taken", "Snapshots of the own state.", self.snapshots_taken),
            ("snapshots_installed", "Snapshots fetched from a peer.", self.snapshots_installed),
            ("leader_changes", "Times that another leader became known.", self.leader_changes),
            ("sessions_attached_ever", "Streams of clients that were welcomed.", self.sessions_opened),
            (
                "sessions_closed_slow",
                "Streams closed because their client did not take its answers.",
                self.sessions_closed_slow,
            ),
            ("watches_opened", "Watches that were begun.", self.watches_opened),
            ("watches_ended_slow", "Watches ended because their client did not keep up.", self.watches_ended_slow),
        ):
            yield CounterMetricFamily(f"synod_{name}", text, value=float(value))
        yield self.turn_seconds.family("synod_turn_seconds", "Duration of a turn, inline sync included.")
        yield self.sync_seconds.family("synod_sync_seconds", "Duration of a commit of the log environment.")
        yield self.proposed_per_turn.family("synod_proposed_per_turn", "Operations proposed in one turn.")
        yield self.applied_per_turn.family("synod_applied_per_turn", "Operations applied in one turn.")
        for name, stage in self.stages.distributions.items():
            yield stage.family(f"synod_stage_{name}_seconds", f"Stage {name!r} of the commands that were followed.")
        links = GaugeMetricFamily(
            "synod_peer_round_trip_seconds",
            "Smoothed round trip to a peer, through the links as they are.",
            labels=["peer"],
        )
        for peer, seconds in sorted(self.round_trips.items()):
            links.add_metric([str(peer)], seconds)
        yield links
        for name, (text, gauge) in self._gauges().items():
            yield GaugeMetricFamily(f"synod_{name}", text, value=gauge)
