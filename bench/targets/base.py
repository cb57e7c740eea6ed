"""What a target is, and the table of those there are.

A target belongs to one deployment: it is made from the shape that is wanted, started with empty folders, loaded through
the RPC that it names, and stopped. Its methods block; the runner calls them from a thread. A target that cannot run
here says so with `TargetUnavailable` before anything is started, and is then skipped aloud.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from bench.load.generator import GeneratorResult, GeneratorSpec
from bench.load.measure import Window
from bench.results import Deployment, Network, Resources
from bench.suite import ClusterShape, TargetEntry
from bench.workload import Workload
from deploy import Cluster

Digests = tuple[Literal["agree", "differ", "not compared"], str]


class TargetError(Exception):
    """A target could not be started, or has died; the text says why."""


class TargetUnavailable(TargetError):
    """The target cannot run here, or cannot do what is asked of it."""


class Target(ABC):
    """One deployment of one system."""

    rpc: str = "session"
    """What its generators speak: ``session``, ``etcd`` or ``bare``."""

    judged: bool = True
    """Its answers make sense as a history."""

    ordered: bool = True
    """Revisions count in one order over all keys."""

    simulated: bool = False
    """It makes its own load, in virtual time (`generate`), and no process is started for it."""

    cluster: Cluster | None = None
    """Of replicas of Synod: what faults, shaping and attribution act on. None for other systems."""

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        self.entry = entry
        self.shape = shape

    @abstractmethod
    def describe(self) -> Deployment:
        """What is deployed, as results have it. May be asked before it is started."""

    @abstractmethod
    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        """Why this system cannot do that; empty when it can. Raises `TargetUnavailable` where it cannot run at all."""

    @abstractmethod
    def start(self, folder: Path) -> None:
        """Start everything with its data under ``folder``; returns when it serves. Raises `TargetError`."""

    def place_leader(self) -> None:
        """Let the leader stand in the region that the shape names, if it names one. Raises `TargetError`."""
        return

    @abstractmethod
    def url(self, region: str) -> str:
        """How clients in ``region`` reach it."""

    @abstractmethod
    def stop(self) -> None:
        """Stop everything; does nothing when nothing runs. Folders stay."""

    @abstractmethod
    def dead(self) -> list[str]:
        """The names of processes that should run and do not."""

    @abstractmethod
    def logs(self, lines: int) -> dict[str, list[str]]:
        """The last lines of what each process printed."""

    @abstractmethod
    def digests(self) -> Digests:
        """Do all replicas hold the same at the end? Called when nothing is written any more."""

    def generate(self, specs: Sequence[GeneratorSpec]) -> tuple[list[GeneratorResult], Window]:
        """A simulated target's run: what the generators would have measured, and when. Raises `TargetError`."""
        raise TargetError(f"{self.entry.target} is loaded by generators")

    def used(self) -> list[Resources]:
        """What the replicas of a simulated target used in its latest run."""
        return []

    def counted(self) -> dict[str, int]:
        """What the protocol of a simulated target counted in its latest run."""
        return {}

    def led_by(self) -> tuple[str, str]:
        """Who led a simulated target when the measured part of its latest run began, and when it ended."""
        return "", ""

    def note(self) -> str:
        """What the manifest is to say of it; empty for nothing."""
        return ""

    def network(self) -> Network | None:
        """The network of a simulated target."""
        return None

    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        return {}


_TARGETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "synod": "bench.targets.synod:SynodTarget",
        "etcd": "bench.targets.etcd:EtcdTarget",
        "bare": "bench.targets.bare:BareTarget",
        "simulated": "bench.targets.simulated:SimulatedTarget",
        "instant": "bench.targets.instant:InstantTarget",
        "instant-etcd": "bench.targets.instant:InstantEtcdTarget",
    }
)


def known_targets() -> list[str]:
    """The names there are."""
    return sorted(_TARGETS)


def find_target(name: str) -> type[Target]:
    """The class of a target. Raises `TargetError`."""
    if name not in _TARGETS:
        raise TargetError(f"target: there is no {name!r} (there are: {', '.join(known_targets())})")
    module, _, attribute = _TARGETS[name].partition(":")
    found: type[Target] = getattr(import_module(module), attribute)
    return found
