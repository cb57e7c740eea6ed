"""What a cluster folder says about its cluster: one JSON file, replaced atomically.

The file describes what was asked for and where it runs; it holds nothing that a replica's own data folder does not
know better. Membership is decided by the replicas; `Cluster.replace` follows it here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

FILE_NAME = "cluster.json"
CERTIFICATES = "certs"
"""The folder of the cluster's authority, where there is one."""

FORMAT = 1


class LayoutError(Exception):
    """The folder holds no cluster, or one that can't be read."""


class ReplicaLayout(msgspec.Struct, kw_only=True):
    """One replica: where it lies and how it is reached."""

    replica: int
    peer: str
    client: str
    metrics: str = ""
    region: str = ""
    zone: str = ""
    formatted: bool = False
    """Its data folder has been formatted once. It is never formatted again: a wiped folder is a new replica."""
    joining: bool = False
    """It was added to a running cluster, and not at the start."""
    replaces: int = 0
    """The replica whose place it is taking at the moment; 0 when it is a member in its own right."""
    arriving: bool = False
    """It is being added at the moment, in nobody's place."""
    process: int = 0
    """Its process id on this machine; 0 when it was not started, has been stopped, or runs on another kernel."""
    unit: str = ""
    """The name of its container or network namespace, where it has one."""
    internal: str = ""
    """Where others in the cluster's own network reach its clients' listener; empty: at ``client``, as everybody."""

    @property
    def address(self) -> str:
        """Its host, as its peers know it."""
        return self.peer.rpartition(":")[0]


class PlaceLayout(msgspec.Struct, kw_only=True):
    """A place for clients of one region, in the cluster's own network."""

    region: str
    address: str
    """Its host, as the replicas see it."""
    unit: str
    """The name of the container or network namespace."""


class ClusterLayout(msgspec.Struct, kw_only=True):
    """A cluster. ``node`` holds further fields of the replicas' configuration, as TOML would nest them."""

    format: int = FORMAT
    cluster: str
    driver: str
    protocol: str
    options: dict[str, int | float | str | bool] = {}
    topology: str = ""
    node: dict[str, Any] = {}
    tls: bool = False
    """Replicas and clients know each other by certificates of the authority in ``certs``."""
    replicas: list[ReplicaLayout] = []
    places: list[PlaceLayout] = []
    """Where clients run within the cluster's own network, for as long as it is up."""
    last_replica: int = 0
    """The highest id ever given: ids are not used twice."""
    image: str = ""
    """What containers are made from."""
    subnet: str = ""
    """The cluster's own network, for drivers that make one: the first three numbers of its addresses."""
    shaping: Literal["auto", "netem", "transport", "none"] = "auto"
    """How the topology was asked to be made."""
    shaped_by: str = ""
    """How it is made: ``netem``, ``transport``, ``none``; empty until the cluster has been up."""
    groups: list[list[int]] = []
    """The sides of a partition; empty when there is none."""

    def cut_off(self, replica: int) -> list[int]:
        """The replicas that this one cannot talk to, as the partition says. One that no side names stands alone."""
        if not self.groups:
            return []
        side = next((group for group in self.groups if replica in group), [replica])
        return [entry.replica for entry in self.replicas if entry.replica not in side]

    def replica(self, replica: int) -> ReplicaLayout:
        """The replica of that id. Raises `LayoutError`."""
        for entry in self.replicas:
            if entry.replica == replica:
                return entry
        known = ", ".join(str(entry.replica) for entry in self.replicas)
        raise LayoutError(f"there is no replica {replica} in this cluster (there are: {known})")


def load(folder: Path) -> ClusterLayout:
    """Read the description of the cluster in ``folder``. Raises `LayoutError`."""
    path = folder / FILE_NAME
    try:
        layout = msgspec.json.decode(path.read_bytes(), type=ClusterLayout)
    except FileNotFoundError:
        raise LayoutError(f"{folder} holds no cluster (no {FILE_NAME}): start one with `synod cluster up`") from None
    except (OSError, msgspec.DecodeError) as error:
        raise LayoutError(f"{path} cannot be read: {error}") from None
    if layout.format > FORMAT:
        raise LayoutError(f"{path} was written by a newer release (format {layout.format}, known: {FORMAT})")
    return layout


def save(folder: Path, layout: ClusterLayout) -> None:
    """Write the description, durably and at once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    staged = path.with_suffix(".tmp")
    with staged.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(layout), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
