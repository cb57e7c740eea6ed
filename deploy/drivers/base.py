"""What a driver is."""

from __future__ import annotations

import random
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar, Final

from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout

HOST: Final = "127.0.0.1"
PEER_PORT_OFFSET: Final = 100
METRICS_PORT_OFFSET: Final = 200

FIRST_FREE_PORT: Final = 10_240
"""Free ports are looked for from here up to where those begin that the system gives to outgoing connections."""

BIND_ATTEMPTS: Final = 100

_random: Final = random.SystemRandom()


class DriverError(Exception):
    """A replica could not be started, stopped or disturbed; the text says which and why."""


class Driver(ABC):
    """Starts, stops and disturbs replicas in one kind of place.

    ``folder`` is the cluster's folder. Methods that start or stop something update ``replica`` and leave saving the
    layout to the caller.
    """

    device: ClassVar[str] = ""
    """The network device by which a replica reaches its peers, where every replica has a network of its own."""

    @abstractmethod
    def check(self, layout: ClusterLayout) -> None:
        """Raises `DriverError` where this driver cannot work here. Called before anything is made."""

    @abstractmethod
    def plan(self, layout: ClusterLayout, taken: Collection[str]) -> None:
        """Fill in what the cluster needs as a whole; ``taken`` are the subnets of other clusters that are known."""

    def place(self, layout: ClusterLayout, replica: ReplicaLayout, *, base_port: int, metrics: bool) -> None:
        """Say where ``replica`` is reached. ``base_port`` is the first client port; 0 takes free ones."""
        index = replica.replica - 1
        client, peer, exposition = (
            (base_port + index, base_port + PEER_PORT_OFFSET + index, base_port + METRICS_PORT_OFFSET + index)
            if base_port
            else self._unused(layout, 3)
        )
        replica.client = f"{HOST}:{client}"
        replica.peer = f"{HOST}:{peer}"
        replica.metrics = f"{HOST}:{exposition}" if metrics else ""

    @staticmethod
    def _unused(layout: ClusterLayout, count: int) -> list[int]:
        """Free ports that no replica of the cluster has been given."""
        given = {address for each in layout.replicas for address in (each.client, each.peer, each.metrics)}
        found: list[int] = []
        while len(found) < count:
            found += [port for port in free_ports(count) if f"{HOST}:{port}" not in given]
        return found[:count]

    @abstractmethod
    def release(self, folder: Path, layout: ClusterLayout, *, wipe: bool) -> None:
        """Take away all that was made for the cluster, found by its identity and not by what anybody remembers.

        Replicas that still run are killed. With ``wipe``, data outside the folder goes as well.
        """

    def in_network(self, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, script: str) -> str:
        """Run a shell script, with privileges over it, in the network of a running replica, or of a place; returns what
        it printed.

        Raises `DriverError` with what it said when it failed.
        """
        raise DriverError(f"replicas under driver {layout.driver!r} share the network of this machine")

    def make_place(self, layout: ClusterLayout, place: PlaceLayout) -> str:
        """Make a place for clients in the cluster's network, unless it is there; `release` takes it away.

        Returns why clients that keep time with this machine cannot run there, in words; empty when they can. Raises
        `DriverError`.
        """
        raise DriverError(f"replicas under driver {layout.driver!r} share the network of this machine")

    def python_in(self, place: PlaceLayout, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The command that runs Python with these arguments in a place, with our standard streams.

        ``environment`` is added to what the place has. A process there is to end when its standard input does: that
        is all it notices of the end of the command.
        """
        raise DriverError("there are no places for clients")

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


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment, all different.

    None that the system may give to an outgoing connection: that would take the port from a replica that has yet to
    start, or to start again.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            _bind_somewhere(each)
        return [each.getsockname()[1] for each in sockets]


def _bind_somewhere(each: socket.socket) -> None:
    last = _first_outgoing_port() - 1
    for _ in range(BIND_ATTEMPTS if last > FIRST_FREE_PORT else 0):
        with suppress(OSError):  # somebody has it
            each.bind((HOST, _random.randint(FIRST_FREE_PORT, last)))
            return
    each.bind((HOST, 0))


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux, where most begin at 49152, and some at 32768
        return 32768


def routed_subnets() -> set[str]:
    """The first three numbers of each IPv4 network that this machine has a route to."""
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:  # not Linux: the engine refuses what overlaps
        return set()
    found = set()
    for line in lines:
        number = bytes.fromhex(line.split()[1])[::-1]
        found.add(".".join(map(str, number[:3])))
    return found
