"""The bare pipeline of `bench.pipeline`, as a target: the ceiling of the design, under the same generator.

It carries puts and answers with the number of a batch; it can neither be read nor judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.pipeline import Pipeline
from bench.results import Deployment
from bench.suite import ClusterShape, TargetEntry
from bench.targets.base import Digests, Target
from bench.workload import Workload


class BareTarget(Target):
    """Three processes that do only what no such store could leave out."""

    rpc = "bare"
    judged = False

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        super().__init__(entry, shape)
        self._pipeline: Pipeline | None = None

    def describe(self) -> Deployment:
        return Deployment(
            target="bare",
            label=self.entry.label or "bare pipeline",
            replicas=3,
            durability=self.shape.durability,
            sync_mode="inline",
        )

    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        if set(workload.shares) != {"write"}:
            return "the bare pipeline carries puts and nothing else"
        if faults or self.shape.topology or self.shape.replicas != 3:
            return "the bare pipeline has three replicas, no faults and no links that are shaped"
        return ""

    def start(self, folder: Path) -> None:
        self._pipeline = Pipeline(str(folder), sync=self.shape.durability == "sync", own_sessions=True)
        self._pipeline.start()

    def url(self, region: str) -> str:
        assert self._pipeline is not None
        return f"127.0.0.1:{self._pipeline.port}"

    def stop(self) -> None:
        if self._pipeline is not None:
            self._pipeline.stop()

    def dead(self) -> list[str]:
        return self._pipeline.dead if self._pipeline is not None else []

    def logs(self, lines: int) -> dict[str, list[str]]:
        return {}

    def digests(self) -> Digests:
        return "not compared", "the bare pipeline keeps no state that could be asked for"

    def processes(self) -> dict[str, int]:
        return self._pipeline.processes if self._pipeline is not None else {}
