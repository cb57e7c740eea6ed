"""What a driver is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from deploy.layout import ClusterLayout, ReplicaLayout


class DriverError(Exception):
    """A replica could not be started, stopped or disturbed; the text says which and why."""


class Driver(ABC):
    """Starts, stops and disturbs replicas in one kind of place.

    ``folder`` is the cluster's folder. Methods that start or stop something update ``replica`` and leave saving the
    layout to the caller.
    """

    @abstractmethod
    def start(self, folder: Path, layout: ClusterLayout, replica: ReplicaLayout) -> None:
        """Start the replica; return without waiting until it serves. Raises `DriverError`."""

    @abstractmethod
    def alive(self, folder: Path, replica: ReplicaLayout) -> bool:
        """Is it running (paused counts as running)?"""

    @abstractmethod
    def stop(self, folder: Path, replica: ReplicaLayout, timeout_s: float) -> bool:
        """Ask it to shut down, wait, and kill it if it has not gone by then: False in that case."""

    @abstractmethod
    def kill(self, folder: Path, replica: ReplicaLayout) -> None:
        """``kill -9``, and return once it is gone. Raises `DriverError` if it was not running."""

    @abstractmethod
    def pause(self, folder: Path, replica: ReplicaLayout) -> None:
        """Stop the replica's processor time without its knowledge. Raises `DriverError` if it was not running."""

    @abstractmethod
    def resume(self, folder: Path, replica: ReplicaLayout) -> None:
        """Undo `pause`."""

    @abstractmethod
    def log_tail(self, folder: Path, replica: ReplicaLayout, lines: int) -> list[str]:
        """The last lines of what the replica printed."""
