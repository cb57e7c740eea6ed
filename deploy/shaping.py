"""Makes a cluster's network what its topology says, by the means that there are.

| shaping | links between replicas | needs |
| --- | --- | --- |
| ``netem`` | by the kernel, in each replica's own network (`deploy.netem`) | such networks, and netem |
| ``transport`` | inside the replicas' transport, message by message | replicas that accept faults |
| ``none`` | as they are | |
| ``auto`` | the first of these that there is | |

What was made is read back from the kernel before anybody relies on it, and `measure` asks the replicas what their round
trips really are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from deploy import admin, netem
from deploy.drivers import Driver, DriverError
from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout
from deploy.topology import OneWay, Topology
from replica.wire.v1 import admin_pb2

__all__ = [
    "SHAPINGS",
    "LinkRoundTrip",
    "ShapingError",
    "choose",
    "measure",
    "named",
    "partition",
    "shape",
    "shape_places",
]

Shaping: TypeAlias = Literal["auto", "netem", "transport", "none"]

SHAPINGS: Final[tuple[Shaping, ...]] = ("auto", "netem", "transport", "none")

SAMPLES: Final = 10

Links: TypeAlias = list[tuple[ReplicaLayout, OneWay]]

KernelLinks: TypeAlias = list[tuple[ReplicaLayout | PlaceLayout, OneWay]]


class ShapingError(Exception):
    """The network could not be made as asked; the text says why and what to do."""


class LinkRoundTrip(msgspec.Struct, frozen=True, kw_only=True):
    """Between two replicas: what the topology declares and the median of what was measured, in milliseconds."""

    one: int
    other: int
    one_region: str
    other_region: str
    declared_ms: float
    achieved_ms: float | None
    """None when the peer did not answer."""


def named(name: str) -> Shaping:
    """The shaping of that name. Raises `ShapingError`."""
    for each in SHAPINGS:
        if each == name:
            return each
    raise ShapingError(f"shaping: there is no {name!r} (there are: {', '.join(SHAPINGS)})")


def choose(driver: Driver, folder: Path, layout: ClusterLayout) -> tuple[str, str]:
    """By what means, and a line for the reader where it is not what one would expect. Raises `ShapingError`.

    Asks the kernel, in the network of a replica that runs.
    """
    if layout.shaping in {"none", "transport"}:
        return layout.shaping, ""
    missing = _why_no_netem(driver, folder, layout)
    if not missing:
        return "netem", ""
    if layout.shaping == "netem":
        raise ShapingError(f"shaping by netem is not possible: {missing} (--shaping transport needs none)")
    # Without a network of its own nobody expects a replica's to be shaped by the kernel.
    note = f"{missing}: the transport shapes the links instead" if driver.device else ""
    return "transport", note


def _why_no_netem(driver: Driver, folder: Path, layout: ClusterLayout) -> str:
    if not driver.device:
        return f"replicas under driver {layout.driver!r} share the network of this machine"
    running = next((replica for replica in layout.replicas if driver.alive(folder, replica)), None)
    if running is None:
        raise ShapingError("no replica runs, so that there is no network to be shaped")
    try:
        driver.in_network(folder, layout, running, netem.probe_script())
    except DriverError as error:
        if netem.is_missing(str(error)):
            return netem.NO_NETEM
        raise ShapingError(f"the network of replica {running.replica} cannot be shaped: {error}") from None
    return ""


def shape(
    driver: Driver,
    folder: Path,
    layout: ClusterLayout,
    topology: Topology,
    replicas: Sequence[ReplicaLayout],
    *,
    access: admin.Access = admin.OPEN,
) -> None:
    """Shape what these replicas send, by the means in ``layout.shaped_by``. Faults that are set stay, and so do links
    that the kernel shapes as declared.

    Raises:
        ShapingError: the kernel does not do what it was told.
        DriverError, AdminError: a replica cannot be reached.
    """
    for replica in replicas:
        links = [
            (other, topology.link_between(replica.region, other.region))
            for other in layout.replicas
            if other.replica != replica.replica
        ]
        if layout.shaped_by == "transport":
            _shape_transport(replica, links, access)
        elif layout.shaped_by == "netem":
            clients = [(place, topology.link_between(replica.region, place.region)) for place in layout.places]
            _shape_kernel(driver, folder, layout, replica, [*links, *clients])


def shape_places(driver: Driver, folder: Path, layout: ClusterLayout, topology: Topology) -> None:
    """Shape what clients in places send; the replicas' half of those links is `shape`'s. Raises as that does.

    Only the kernel does it: the transport's shaping is that of replicas.
    """
    if layout.shaped_by != "netem":
        return
    for place in layout.places:
        links = [(replica, topology.link_between(place.region, replica.region)) for replica in layout.replicas]
        _shape_kernel(driver, folder, layout, place, [*links])


def _shape_transport(replica: ReplicaLayout, links: Links, access: admin.Access) -> None:
    request = admin_pb2.InjectFaultsRequest(reshape=True)
    for other, link in links:
        request.shapes.add(
            peer=other.replica,
            delay_ms=link.delay_ms,
            jitter_ms=link.jitter_ms,
            jitter_shape=link.jitter_shape,
            loss=link.loss,
            rate_bytes_s=link.rate_bytes_s,
        )
    admin.inject_faults(replica.client, request, access=access)


def _shape_kernel(
    driver: Driver, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, links: KernelLinks
) -> None:
    if not links:
        return
    whose = f"replica {unit.replica}" if isinstance(unit, ReplicaLayout) else f"clients in {unit.region}"
    wanted = {other.address: link for other, link in links}
    show = netem.show_script(driver.device)

    def read(script: str) -> dict[str, netem.Shaped]:
        try:
            return netem.read_back(driver.in_network(folder, layout, unit, script))
        except ValueError as error:
            raise ShapingError(f"the network of {whose} cannot be read back: {error}") from None

    # Making a network anew loses what is under way, and every stream that crosses it then waits to send it again.
    found = read(show)
    stays = bool(found) and all(address in wanted and not found[address].differs(wanted[address]) for address in found)
    missing = {address: link for address, link in wanted.items() if not stays or address not in found}
    if stays and missing:
        found = read(f"{netem.extend_script(driver.device, missing, before=len(found))}\n{show}")
    elif missing:
        found = read(f"{netem.shape_script(driver.device, missing)}\n{show}")
    for address, link in wanted.items():
        wrong = found[address].differs(link) if address in found else "it is not shaped"
        if wrong:
            raise ShapingError(f"the link of {whose} to {address} is not as declared: {wrong}")


def partition(
    driver: Driver,
    folder: Path,
    layout: ClusterLayout,
    replicas: Sequence[ReplicaLayout],
    *,
    access: admin.Access = admin.OPEN,
) -> None:
    """Cut these replicas off from whom ``layout.groups`` says, and from nobody else.

    Raises `DriverError` or `AdminError`.
    """
    for replica in replicas:
        cut = set(layout.cut_off(replica.replica))
        others = [other for other in layout.replicas if other.replica != replica.replica]
        if driver.device:
            script = netem.block_script(
                {other.address for other in others if other.replica in cut}, {other.address for other in others}
            )
            driver.in_network(folder, layout, replica, script)
        else:
            request = admin_pb2.InjectFaultsRequest(heal=not cut)
            for other in others:
                request.links.add(peer=other.replica, blocked=other.replica in cut)
            admin.inject_faults(replica.client, request, access=access)


def measure(
    layout: ClusterLayout, topology: Topology | None, *, samples: int = SAMPLES, access: admin.Access = admin.OPEN
) -> list[LinkRoundTrip]:
    """The round trips between all pairs of replicas, measured now. Raises `AdminError`."""
    found: dict[tuple[int, int], list[float]] = {}
    for replica in layout.replicas:
        for peer, taken in admin.measure_links(replica.client, samples, access=access).items():
            found.setdefault((min(replica.replica, peer), max(replica.replica, peer)), []).extend(taken)
    rows = []
    for (one, other), taken in sorted(found.items()):
        places = layout.replica(one).region, layout.replica(other).region
        median = statistics.median(taken) if taken else math.nan
        rows.append(
            LinkRoundTrip(
                one=one,
                other=other,
                one_region=places[0],
                other_region=places[1],
                declared_ms=topology.round_trip(*places) if topology is not None else 0.0,
                achieved_ms=None if math.isnan(median) else median,
            )
        )
    return rows
