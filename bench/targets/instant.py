"""A responder that answers at once, as a target: the ceiling of the generators that speak its RPC."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.results import Deployment
from bench.suite import ClusterShape, TargetEntry
from bench.targets.base import Digests, Target, TargetError
from bench.workload import Workload

STOP_TIMEOUT_S: Final = 5.0


class InstantTarget(Target):
    """One process of `bench.load.instant`."""

    rpc = "session"
    judged = False

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        super().__init__(entry, shape)
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def describe(self) -> Deployment:
        label = self.entry.label or f"instant responder ({self.rpc})"
        return Deployment(target="instant", label=label, replicas=1, durability="none", version="")

    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        return "an instant responder keeps nothing" if workload.preload or faults else ""

    def start(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load.instant", self.rpc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TargetError("the instant responder died while it came up")
        self._port = int(line)

    def url(self, region: str) -> str:
        return f"127.0.0.1:{self._port}"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def dead(self) -> list[str]:
        return ["instant responder"] if self._process is not None and self._process.poll() is not None else []

    def logs(self, lines: int) -> dict[str, list[str]]:
        return {}

    def digests(self) -> Digests:
        return "not compared", "an instant responder keeps nothing"


class InstantEtcdTarget(InstantTarget):
    """The same for etcd's RPC."""

    rpc = "etcd"
