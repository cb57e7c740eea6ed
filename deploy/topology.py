"""Topologies: regions, and what lies between them.

A topology is a TOML file, one of those shipped in ``deploy/topologies`` by name or any file by path:

    summary = "two coasts"
    [regions]                 # the order is that in which replicas are placed
    names = ["va", "oh", "ca"]
    [round_trip_ms]           # between two regions, either order; "va.va" is within one
    "va.oh" = 10.5
    [link]                    # optional, what all links between different regions share, each way
    jitter_ms = 0.5           # of a one-way delay
    jitter_shape = "normal"   # jitter_ms is the standard deviation; "uniform": at most so much either way
    loss = 0.0                # probability, 0 to 1, of a message between replicas; a client's stream is resent instead
    bandwidth_mbit_s = 0      # of one link in one direction; 0: no limit
    [links."va.ca"]           # optional, instead of [link] for one pair; "va.va" is within a region
    loss = 0.001

Replicas are placed in the regions in turn. `Topology.link_between` is the one-way link between two places; the same
shapes replicas' links inside the transport and clients' links under the client library.
"""

from __future__ import annotations

import math
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec


class TopologyError(ValueError):
    """A topology that can't be used; the text names the field."""


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a link is like in one direction beside its delay. Milliseconds, a probability, megabits a second."""

    jitter_ms: float = 0.0
    jitter_shape: Literal["uniform", "normal"] = "normal"
    loss: float = 0.0
    bandwidth_mbit_s: float = 0.0


class OneWay(msgspec.Struct, frozen=True, kw_only=True):
    """One direction between two places: what a driver or a client is to make of it."""

    delay_ms: float
    jitter_ms: float
    jitter_shape: Literal["uniform", "normal"]
    loss: float
    rate_bytes_s: float

    @property
    def harmless(self) -> bool:
        """Nothing is done to what passes."""
        return not (self.delay_ms or self.jitter_ms or self.loss or self.rate_bytes_s)


class Regions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The regions, in the order in which replicas are placed."""

    names: tuple[str, ...]


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Regions and the round trips between them, in milliseconds."""

    regions: Regions
    round_trip_ms: dict[str, float] = {}
    link: Link = Link()
    links: dict[str, Link] = {}
    summary: str = ""

    def region_of(self, index: int) -> str:
        """The region of the ``index``-th replica, counted from 0."""
        return self.regions.names[index % len(self.regions.names)]

    @property
    def shaped(self) -> bool:
        """Is anything done to any link?"""
        return any(
            not self.link_between(one, other).harmless for one in self.regions.names for other in self.regions.names
        )

    def link_between(self, one: str, other: str) -> OneWay:
        """The link from one region to another, or within one."""
        link = self.links.get(f"{one}.{other}") or self.links.get(f"{other}.{one}")
        if link is None:
            link = self.link if one != other else Link()
        return OneWay(
            delay_ms=self.round_trip(one, other) / 2,
            jitter_ms=link.jitter_ms,
            jitter_shape=link.jitter_shape,
            loss=link.loss,
            rate_bytes_s=link.bandwidth_mbit_s * 1e6 / 8,
        )

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
    for field, pairs in (("round_trip_ms", topology.round_trip_ms), ("links", topology.links)):
        for pair in pairs:
            one, _, other = pair.partition(".")
            if one not in names or other not in names:
                raise TopologyError(f"topology: {name}: {field}: {pair!r} is not REGION.REGION of {', '.join(names)}")
    for pair, value in topology.round_trip_ms.items():
        if not (value >= 0 and math.isfinite(value)):
            raise TopologyError(f"topology: {name}: round_trip_ms.{pair}: {value} is not a duration")
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if f"{one}.{other}" not in topology.round_trip_ms and f"{other}.{one}" not in topology.round_trip_ms:
                raise TopologyError(f"topology: {name}: round_trip_ms: nothing is said of {one}.{other}")
    for title, link in (("link", topology.link), *((f"links.{pair}", link) for pair, link in topology.links.items())):
        if not 0 <= link.loss < 1:
            raise TopologyError(f"topology: {name}: {title}.loss: {link.loss} is not a probability below 1")
        for field in ("jitter_ms", "bandwidth_mbit_s"):
            value = getattr(link, field)
            if not (value >= 0 and math.isfinite(value)):
                raise TopologyError(f"topology: {name}: {title}.{field}: {value} is not a number of at least 0")
