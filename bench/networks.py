"""The network of a run: declared by a topology, made by shaping, and measured before anything is counted.

What was declared is not what there is: loopback, two processes and a busy machine add to every round trip, and a shaper
may be wrong. So before each run the round trips are measured through the very lines that the run will use:

- *replica to replica* by the replicas, with probes that queue and travel with their messages;
- *client to replica* from each region over a stream of its own, with stale reads of a key that is not there. Such a
  read waits for nobody but the replica, so it is the way there and back and a turn of its loop. Where clients have a
  place in the replicas' own network, they are read there: ``python -m bench.networks URL ENDPOINT…``.

The median of `SAMPLES` is what a link achieved; one that misses is measured again by itself, and that counts. A network
that misses a declared round trip by more than `TOLERANCE` of it and by more than `TOLERANCE_MS` is not as declared, and
says so.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.results import Link, Network
from bench.shaping import shaped_port, shaped_url
from deploy import Cluster, ClusterError, admin
from deploy.layout import ReplicaLayout
from deploy.topology import Topology, load_topology
from replica.client.grpc_port import GrpcPort
from replica.client.port import Attachment, AttachmentLost, Port, PortOptions
from replica.kv.operations import Get
from replica.kv.runs import encode_operations
from replica.wire.typed import WIRE_VERSION, ClientFrame, Consistency, Hello, Read

__all__ = ["Shaper", "compare", "judged", "make_shaper", "round_trips"]

SAMPLES: Final = 10
"""Round trips measured of each link."""

TIMEOUT_S: Final = 20.0
"""For measuring all of them."""

START_TIMEOUT_S: Final = 120.0
"""For the start of the processes that measure from places."""

TOLERANCE: Final = 0.10
TOLERANCE_MS: Final = 2.0
"""What a measured round trip may differ from the declared one by, whichever is more."""

Pair = tuple[str, str]


def make_shaper(cluster: Cluster) -> Shaper:
    """The network of a cluster, by the topology that it was made with."""
    return Shaper(cluster)


class Shaper:
    """Shapes the replicas' links as the cluster does it, and those of clients under the client library."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._name = cluster.layout.topology
        self._topology: Topology | None = load_topology(self._name) if self._name else None

    @property
    def regions(self) -> list[str]:
        """Where clients may be; one nameless region without a topology."""
        return list(self._topology.regions.names) if self._topology is not None else [""]

    async def start(self) -> None:
        """Shape the links between the replicas as they are now."""
        await asyncio.to_thread(self._cluster.apply_topology)

    def endpoints(self, region: str) -> str:
        """The URL of a client in ``region``."""
        layout, topology, placed = self._cluster.layout, self._topology, self._placed(region)
        replicas = layout.replicas
        if topology is not None:
            replicas = sorted(replicas, key=lambda each: topology.round_trip(region, each.region))
        places = {replica.client: replica.region for replica in replicas}
        reached = {each.client: each.internal for each in replicas if each.internal} if placed else {}
        # The kernel delays what a place sends and what is sent there; it knows nothing of clients elsewhere.
        by_library = topology is not None and topology.shaped and layout.shaped_by != "none"
        if placed and layout.shaped_by == "netem":
            by_library = False
        if not by_library and not reached:
            return ",".join(places)
        return shaped_url(places, region=region, topology=self._path() if by_library else "", reached=reached)

    def _placed(self, region: str) -> bool:
        return any(place.region == region for place in self._cluster.layout.places)

    def _path(self) -> str:
        """The topology's name, or where its file is, wherever the reader may stand."""
        return str(Path(self._name).resolve()) if self._name.endswith(".toml") else self._name

    async def stop(self) -> None:
        """Nothing is held; the replicas' links stay as they are."""

    async def measure(self) -> Network:
        """Measure every link now, and hold it against what was declared."""
        replicas = self._cluster.layout.replicas
        network = await self._measure(
            [(one, other) for one in self.regions for other in replicas], [replica.replica for replica in replicas]
        )
        missed = [link for link in network.links if not _as_declared(link)]
        if not missed:
            return network
        # All were measured at once, on a machine that may have been busy with just that: those again, by themselves.
        clients = {(link.one, link.other) for link in missed if link.client}
        places = {place for link in missed if not link.client for place in (link.one, link.other)}
        again = []
        for region, place in sorted(clients):
            ways = [(region, replica) for replica in replicas if replica.region == place]
            again.append(await self._measure(ways, []))
        for one in replicas:
            if one.region in places:
                again += [await self._measure([], [one.replica])]
        found = {(link.one, link.other, link.client): link for link in network.links}
        for second in again:
            for link in second.links:
                key = link.one, link.other, link.client
                if not _as_declared(found[key]):
                    found[key] = link
        return judged(list(found.values()), name=self._name, shaper=network.shaper)

    async def _measure(self, clients: Sequence[tuple[str, ReplicaLayout]], replicas: Sequence[int]) -> Network:
        between = await self._between_replicas(replicas)
        ways = await self._from_clients(clients)
        shaper = self._cluster.layout.shaped_by or "none"
        return compare(self._topology, between, ways, name=self._name, shaper=shaper)

    async def _between_replicas(self, asked: Sequence[int]) -> dict[Pair, list[float]]:
        places = {replica.replica: replica.region for replica in self._cluster.layout.replicas}

        def ask(address: str) -> dict[int, list[float]]:
            try:
                return admin.measure_links(address, SAMPLES, timeout_s=TIMEOUT_S)
            except admin.AdminError as error:
                raise ClusterError(f"the network could not be measured: {error}") from error

        found: dict[Pair, list[float]] = {}
        replicas = [replica for replica in self._cluster.layout.replicas if replica.replica in asked]
        answers = await asyncio.gather(*(asyncio.to_thread(ask, replica.client) for replica in replicas))
        for replica, answer in zip(replicas, answers, strict=True):
            for peer, samples in answer.items():
                pair = replica.region, places.get(peer, replica.region)
                found.setdefault(_ordered(pair), []).extend(samples)
        return found

    async def _from_clients(self, ways: Sequence[tuple[str, ReplicaLayout]]) -> dict[Pair, list[float]]:
        found: dict[Pair, list[float]] = {}
        ports = {region: _port(self.endpoints(region)) for region, _ in ways if not self._placed(region)}

        async def one(region: str, replica: ReplicaLayout) -> None:
            found.setdefault((region, replica.region), []).extend(await round_trips(ports[region], replica.client))

        async def there(region: str, replicas: Sequence[ReplicaLayout]) -> None:
            url, asked = self.endpoints(region), [replica.client for replica in replicas]
            command = self._cluster.python_in(region, ["-m", "bench.networks", url, *asked], {})
            said = msgspec.json.decode(await _said(command), type=dict[str, list[float]])
            for replica in replicas:
                found.setdefault((region, replica.region), []).extend(said[replica.client])

        places = {region for region, _ in ways if self._placed(region)}
        patience_s = TIMEOUT_S + START_TIMEOUT_S * bool(places)
        try:
            async with asyncio.timeout(patience_s):
                await asyncio.gather(
                    *(one(region, replica) for region, replica in ways if region not in places),
                    *(there(place, [each for region, each in ways if region == place]) for place in sorted(places)),
                )
        except TimeoutError:
            raise ClusterError(
                f"the network could not be measured: a replica did not answer reads within {patience_s:g} s"
            ) from None
        except AttachmentLost as lost:
            raise ClusterError(f"the network could not be measured: {lost}") from None
        finally:
            for port in ports.values():
                await port.close()
        return found


async def _said(command: Sequence[str]) -> bytes:
    """What a command prints. Raises `ClusterError`."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ClusterError(f"the network could not be measured: {lines[-1] if lines else 'the probe said nothing'}")
    return out


def _port(url: str) -> Port:
    return shaped_port(url, PortOptions()) if url.startswith("shaped:") else GrpcPort(url, PortOptions())


def _ordered(pair: Pair) -> Pair:
    return min(pair), max(pair)


async def round_trips(port: Port, endpoint: str, samples: int = SAMPLES) -> list[float]:
    """Milliseconds of so many stale reads, one after the other. Raises `AttachmentLost`."""
    attachment: Attachment = await port.attach(endpoint, Hello(wire_version=WIRE_VERSION, client="synod-bench-probe"))
    operations = encode_operations([Get(b"\x01probe")])
    found = []
    try:
        frame = await attachment.receive()
        if frame.rejections:
            raise AttachmentLost(f"{endpoint}: {frame.rejections[0].message}")
        for number in range(1, samples + 2):
            read = Read(id=number, count=1, operations=operations, consistency=Consistency.STALE)
            began = time.monotonic()
            await attachment.send(ClientFrame(reads=[read]))
            while not (await attachment.receive()).read_results:
                pass
            found.append(1000 * (time.monotonic() - began))
    finally:
        await attachment.close()
    return found[1:]  # the first one paid for what is set up at first use


def compare(
    topology: Topology | None,
    replicas: Mapping[Pair, Sequence[float]],
    clients: Mapping[Pair, Sequence[float]],
    *,
    name: str,
    shaper: str,
) -> Network:
    """What was measured (milliseconds) beside what was declared. Pure."""
    links = []
    for measured, client in ((replicas, False), (clients, True)):
        for (one, other), samples in sorted(measured.items()):
            declared = topology.round_trip(one, other) if topology is not None else 0.0
            achieved = statistics.median(samples) if samples else None
            links.append(Link(one=one, other=other, declared_ms=declared, achieved_ms=achieved, client=client))
    return judged(links, name=name, shaper=shaper)


def judged(links: list[Link], *, name: str, shaper: str) -> Network:
    """The network of these links, and what about it is not as declared. Pure."""
    network = Network(topology=name, shaper=shaper, links=links)
    for link in links:
        if _as_declared(link):
            continue
        between = f"{'clients in ' if link.client else ''}{link.one or 'here'} and {link.other or 'here'}"
        if link.achieved_ms is None:
            network.problems.append(f"between {between} no round trip could be measured")
        else:
            network.problems.append(
                f"between {between} a round trip takes {link.achieved_ms:.1f} ms, declared are {link.declared_ms:g} ms"
            )
    network.as_declared = not network.problems
    return network


def _as_declared(link: Link) -> bool:
    achieved = link.achieved_ms
    return achieved is not None and abs(achieved - link.declared_ms) <= max(TOLERANCE * link.declared_ms, TOLERANCE_MS)


async def _probe(url: str, endpoints: Sequence[str]) -> dict[str, list[float]]:
    """Round trips to each endpoint, from where this process runs."""
    port = _port(url)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await asyncio.gather(*(round_trips(port, endpoint) for endpoint in endpoints))
            return dict(zip(endpoints, found, strict=True))
    finally:
        await port.close()


def main() -> None:
    """The probe in a place for clients."""
    url, *endpoints = sys.argv[1:]
    sys.stdout.write(msgspec.json.encode(asyncio.run(_probe(url, endpoints))).decode() + "\n")


if __name__ == "__main__":
    main()
