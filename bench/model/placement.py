"""What the network alone costs an operation, by the region of the client: D_L and D_Q from a topology.

Replicas are placed in the regions in turn, as `deploy` places them. A client asks

- the *leader*, wherever it is (MultiPaxos, FPaxos, Raft): D_L is the round trip to it, D_Q the leader's to its quorum;
- the *nearest* replica, which leads the operation itself (EPaxos, ABD): D_L is the round trip within the region, D_Q
  that replica's, once for each phase;
- the nearest replica, which passes the operation on to the *owner* of its object unless it owns it itself (WPaxos;
  VPaxos and WanKeeper in the study): the share l of operations whose object is owned in the client's own region stays,
  the rest pays the way to the owner.

Conflicts cost EPaxos another round for the share c of operations (the slow path asks a majority). In a workload with
*owned conflicts*, the study's conflict experiment for owners, the share c of operations meets the object of another
region instead of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deploy.topology import Topology

from .errors import ModelError, share
from .quorum_latency import wan_ms
from .rounds import PROTOCOLS, fast_quorum

__all__ = ["NetworkTime", "local_quorum_ms", "network_ms", "regions_of", "zone_failures_of"]


class NetworkTime(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds on the network, of one operation of a client in ``region``."""

    region: str
    to_leader_ms: float
    quorum_ms: float
    """All phases together."""

    @property
    def total_ms(self) -> float:
        """D_L + D_Q."""
        return self.to_leader_ms + self.quorum_ms


def regions_of(topology: Topology, replicas: int) -> list[str]:
    """The region of each replica, in the order of their ids."""
    if replicas < 1:
        raise ModelError(f"replicas: {replicas} is not a positive number")
    return [topology.region_of(index) for index in range(replicas)]


def _region(topology: Topology, field: str, name: str) -> str:
    if name not in topology.regions.names:
        known = ", ".join(topology.regions.names)
        raise ModelError(f"{field}: the topology has no region {name!r} (it has: {known})")
    return name


def _peers(topology: Topology, placed: list[str], replica: int) -> list[float]:
    """The round trips from one replica to the others."""
    here = placed[replica]
    return [topology.round_trip(here, other) for index, other in enumerate(placed) if index != replica]


def network_ms(
    protocol: str,
    topology: Topology,
    replicas: int,
    *,
    leader: str | None = None,
    q2: int | None = None,
    zone_failures: int = 0,
    conflict: float = 0.0,
    locality: float | None = None,
    owner: str | None = None,
    spread: bool = False,
    write_share: float = 1.0,
    disagreement: float = 0.0,
) -> list[NetworkTime]:
    """The network's share of the latency for clients in each region of ``topology``. Raises `ModelError`.

    ``leader``: the leader's region (default: the first). ``owner``: the region that owns what is not local (default:
    the leader's); with ``spread``, the other regions do, evenly. ``locality`` l in [0, 1]: the share of operations on
    objects owned where the client is; by default 1 − ``conflict``. ``disagreement``: the share of ABD's reads that
    write back. A read of a leader is confirmed by a round to its quorum, so reads and writes cost a leader-based
    protocol the same.
    """
    if protocol not in PROTOCOLS:
        raise ModelError(f"protocol: the model knows no {protocol!r} (it knows: {', '.join(PROTOCOLS)})")
    share("conflict", conflict)
    share("write_share", write_share)
    share("disagreement", disagreement)
    local = 1 - conflict if locality is None else share("locality", locality)
    placed = regions_of(topology, replicas)
    lead = _region(topology, "leader", leader or placed[0])
    if lead not in placed:
        raise ModelError(f"leader: no replica stands in {lead!r}")
    own = _region(topology, "owner", owner or lead)
    found = []
    for region in topology.regions.names:
        nearest = min(range(replicas), key=lambda index: (topology.round_trip(region, placed[index]), index))
        near_ms = topology.round_trip(region, placed[nearest])
        if protocol in {"multipaxos", "fpaxos", "raft", "null"}:
            quorum = q2 if protocol == "fpaxos" and q2 is not None else replicas // 2 + 1
            to_leader = topology.round_trip(region, lead)
            waited = wan_ms(_peers(topology, placed, placed.index(lead)), quorum)
        elif protocol == "epaxos":
            peers = _peers(topology, placed, nearest)
            to_leader = near_ms
            waited = wan_ms(peers, fast_quorum(replicas)) + conflict * wan_ms(peers, replicas // 2 + 1)
        elif protocol == "abd":
            phases = write_share * 2 + (1 - write_share) * (1 + disagreement)
            to_leader = near_ms
            waited = phases * wan_ms(_peers(topology, placed, nearest), replicas // 2 + 1)
        else:
            failures = zone_failures if protocol == "wpaxos" else 0
            zone = placed[nearest]
            here = _zone_quorum_ms(topology, placed, zone, failures)
            owners = sorted(set(placed) - {zone}) if spread else [name for name in [own] if name != zone]
            remote = 1 - local if owners else 0.0
            there, way = (
                sum(times) / max(1, len(owners))
                for times in (
                    [_zone_quorum_ms(topology, placed, name, failures) for name in owners],
                    [topology.round_trip(zone, name) for name in owners],
                )
            )
            to_leader = near_ms + remote * way
            waited = (1 - remote) * here + remote * there
        found.append(NetworkTime(region=region, to_leader_ms=to_leader, quorum_ms=waited))
    return found


def zone_failures_of(options: Mapping[str, object], topology: Topology | None, replicas: int) -> int:
    """WPaxos' f_z: as its options say, or one from three zones on. Zones are the regions, or else the replicas."""
    given = options.get("f_z", -1)
    if isinstance(given, int) and given >= 0:
        return given
    zones = replicas if topology is None else min(replicas, len(topology.regions.names))
    return 1 if zones >= 3 else 0


def local_quorum_ms(topology: Topology, replicas: int, zone_failures: int) -> dict[str, float]:
    """What the network costs an operation of WPaxos on an object that its own region owns. Raises `ModelError`."""
    found = network_ms("wpaxos", topology, replicas, zone_failures=zone_failures, locality=1.0)
    return {entry.region: entry.total_ms for entry in found}


def _zone_quorum_ms(topology: Topology, placed: list[str], region: str, failures: int) -> float:
    """A zone's phase 2: a majority of the own zone, and of the nearest f_z zones."""
    if region not in placed:
        raise ModelError(f"owner: no replica stands in {region!r}")
    zones = sorted(set(placed))
    if not 0 <= failures < len(zones):
        raise ModelError(f"zone_failures: {failures} of {len(zones)} zones cannot be lost")
    within = topology.round_trip(region, region) if placed.count(region) > 1 else 0.0
    others = sorted(topology.round_trip(region, zone) for zone in zones if zone != region)
    return max([within, *others[:failures]])
