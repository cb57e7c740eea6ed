"""Topologies: regions, and the round trips between them.

A topology is a TOML file, one of those shipped in ``deploy/topologies`` by name or any file by path:

    [regions]                 # one-letter or longer names; the order is that in which replicas are placed
    names = ["va", "oh", "ca"]
    [round_trip_ms]           # between two regions, either order; "va.va" is within one
    "va.oh" = 10.5
    [link]                    # optional, for every link between regions
    jitter_ms = 0.5           # standard deviation of a one-way delay
    loss = 0.0                # probability, 0 to 1

Replicas are placed in the regions in turn.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import msgspec


class TopologyError(ValueError):
    """A topology that can't be used; the text names the field."""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all links between different regions share. Milliseconds; probability."""

    jitter_ms: float = 0.0
    loss: float = 0.0


class Regions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The regions, in the order in which replicas are placed."""

    names: tuple[str, ...]


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Regions and the round trips between them, in milliseconds."""

    regions: Regions
    round_trip_ms: dict[str, float] = {}
    link: Link = Link()
    summary: str = ""

    def region_of(self, index: int) -> str:
        """The region of the ``index``-th replica, counted from 0."""
        return self.regions.names[index % len(self.regions.names)]

    def round_trip(self, one: str, other: str) -> float:
        """Milliseconds between two regions; 0 within a region that states none."""
        for pair in (f"{one}.{other}", f"{other}.{one}"):
            if pair in self.round_trip_ms:
                return self.round_trip_ms[pair]
        return 0.0


def available() -> list[str]:
    """The names of the topologies that are shipped."""
    folder = files("deploy") / "topologies"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_topology(name: str) -> Topology:
    """A shipped topology by name, or one from a file by path. Raises `TopologyError`."""
    if name in available():
        text = (files("deploy") / "topologies" / f"{name}.toml").read_text()
    elif name.endswith(".toml"):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise TopologyError(f"topology: {name} cannot be read: {error.strerror}") from None
    else:
        raise TopologyError(
            f"topology: there is no {name!r} (there are: {', '.join(available())}; or give a .toml file)"
        )
    try:
        topology = msgspec.convert(tomllib.loads(text), Topology)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise TopologyError(f"topology: {name}: {error}") from None
    _validate(name, topology)
    return topology


def _validate(name: str, topology: Topology) -> None:
    names = topology.regions.names
    if not names or len(set(names)) != len(names):
        raise TopologyError(f"topology: {name}: regions.names must be distinct and at least one")
    for pair, value in topology.round_trip_ms.items():
        one, _, other = pair.partition(".")
        if one not in names or other not in names:
            raise TopologyError(f"topology: {name}: round_trip_ms: {pair!r} is not REGION.REGION of {', '.join(names)}")
        if value < 0:
            raise TopologyError(f"topology: {name}: round_trip_ms.{pair}: {value} is negative")
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if f"{one}.{other}" not in topology.round_trip_ms and f"{other}.{one}" not in topology.round_trip_ms:
                raise TopologyError(f"topology: {name}: round_trip_ms: nothing is said of {one}.{other}")
    if not 0 <= topology.link.loss < 1:
        raise TopologyError(f"topology: {name}: link.loss: {topology.link.loss} is not a probability below 1")
