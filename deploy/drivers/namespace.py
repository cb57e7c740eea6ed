"""Replicas as processes of this machine, each in a network namespace of its own. Needs Linux and root, and no engine.

    replica 1  eth0 ──┐
    replica 2  eth0 ──┼── bridge  (in a namespace of its own: the hub)
    replica 3  eth0 ──┤
    this machine   ───┘

The bridge stands in a namespace so that no firewall of this machine, such as the one a container engine sets up, is
asked about what crosses it. Clients on this machine reach every replica at its address.

All names begin with ``synod-`` and the first eight digits of the cluster's identity; `release` finds by them whatever
there is, and ends whoever still lives in one of the namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.drivers.base import DriverError
from deploy.drivers.docker import address_of, free_subnet
from deploy.drivers.process import ProcessDriver
from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout

__all__ = ["NamespaceDriver"]

CLIENT_PORT: Final = 7001
PEER_PORT: Final = 7101
METRICS_PORT: Final = 7201

COMMAND_TIMEOUT_S: Final = 120.0
GONE_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02


class NamespaceDriver(ProcessDriver):
    """Starts ``synod serve`` by ``ip netns exec``."""

    device = "eth0"

    def check(self, layout: ClusterLayout) -> None:
        if not sys.platform.startswith("linux"):
            raise DriverError("the namespace driver needs Linux")
        if os.geteuid() != 0:
            raise DriverError("the namespace driver needs root: it makes network namespaces")
        if shutil.which("ip") is None:
            raise DriverError("the program ip is not installed: the namespace driver needs iproute2")

    def plan(self, layout: ClusterLayout, taken: Collection[str]) -> None:
        layout.subnet = free_subnet(layout.cluster, taken)

    def place(self, layout: ClusterLayout, replica: ReplicaLayout, *, base_port: int, metrics: bool) -> None:
        # Every replica has all ports of an address of its own.
        address = address_of(layout, replica)
        replica.peer = f"{address}:{PEER_PORT}"
        replica.client = f"{address}:{CLIENT_PORT}"
        replica.metrics = f"{address}:{METRICS_PORT}" if metrics else ""
        replica.unit = f"{_hub(layout)}-{replica.replica}"

    def start(self, folder: Path, layout: ClusterLayout, replica: ReplicaLayout) -> None:
        if not self.alive(folder, replica):
            self.make_network(layout, replica)
        super().start(folder, layout, replica)

    def command(self, replica: ReplicaLayout, command: list[str]) -> list[str]:
        found = shutil.which("ip")
        assert found is not None
        return [found, "netns", "exec", replica.unit, *command]

    def in_network(self, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, script: str) -> str:
        return _checked("ip", "netns", "exec", unit.unit, "sh", "-c", script)

    def make_place(self, layout: ClusterLayout, place: PlaceLayout) -> str:
        self._join(layout, place.unit, f"c{place.address.rpartition('.')[2]}", place.address)
        return ""

    def python_in(self, place: PlaceLayout, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in environment.items()]
        return ["ip", "netns", "exec", place.unit, "env", *variables, sys.executable, *arguments]

    def release(self, folder: Path, layout: ClusterLayout, *, wipe: bool) -> None:
        hub = _hub(layout)
        names = [name for name in _namespaces() if name == hub or name.startswith(f"{hub}-")]
        for name in names:
            _end_all(name)
        _run("ip", "link", "del", _host_end(layout))  # it may have gone with its other end
        for name in names:
            _checked("ip", "netns", "del", name)
        for replica in layout.replicas:
            replica.process = 0

    def make_network(self, layout: ClusterLayout, replica: ReplicaLayout) -> None:
        """Make what is not there yet."""
        self._join(layout, replica.unit, f"r{replica.replica}", address_of(layout, replica))

    @staticmethod
    def _join(layout: ClusterLayout, own: str, port: str, address: str) -> None:
        """The namespace ``own``, joined to the hub at ``port``."""
        there = _namespaces()
        hub = _hub(layout)
        if hub not in there:
            _checked("ip", "netns", "add", hub)
            _in(hub, "link set lo up", "link add bridge0 type bridge", "link set bridge0 up")
            _checked("ip", "link", "add", _host_end(layout), "type", "veth", "peer", "name", "host", "netns", hub)
            _in(hub, "link set host master bridge0", "link set host up")
            _checked("ip", "address", "add", f"{layout.subnet}.1/24", "dev", _host_end(layout))
            _checked("ip", "link", "set", _host_end(layout), "up")
        if own not in there:
            _checked("ip", "netns", "add", own)
            _in(own, "link set lo up", f"link add eth0 type veth peer name {port} netns {hub}")
            _in(own, f"address add {address}/24 dev eth0", "link set eth0 up")
            _in(hub, f"link set {port} master bridge0", f"link set {port} up")


def _hub(layout: ClusterLayout) -> str:
    return f"synod-{layout.cluster[:8]}"


def _host_end(layout: ClusterLayout) -> str:
    """This machine's device; a device's name has 15 characters at most."""
    return f"synod{layout.cluster[:8]}"


def _namespaces() -> set[str]:
    return {line.split()[0] for line in _checked("ip", "netns", "list").splitlines() if line.strip()}


def _in(namespace: str, *commands: str) -> None:
    for command in commands:
        _checked("ip", "-n", namespace, *command.split())


def _end_all(namespace: str) -> None:
    """Kill whoever lives in the namespace, and wait until nobody does."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while pids := [int(pid) for pid in _checked("ip", "netns", "pids", namespace).split()]:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                continue  # it has gone, or is not ours to collect
        if time.monotonic() > deadline:
            raise DriverError(f"processes {', '.join(map(str, pids))} in namespace {namespace} cannot be killed")
        time.sleep(POLL_S)


def _checked(*command: str) -> str:
    ended = _run(*command)
    if ended.returncode:
        lines = [line.strip() for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
        raise DriverError(f"`{' '.join(command[:6])} …` failed: {lines[-1] if lines else 'it said nothing'}")
    return ended.stdout


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise DriverError(f"the program {command[0]} is not installed: the namespace driver needs iproute2") from None
    except subprocess.TimeoutExpired:
        raise DriverError(f"`{' '.join(command[:6])} …` did not end within {COMMAND_TIMEOUT_S:g} s") from None
