"""What a round of each protocol costs: messages, round trips, and who pays.

For every protocol three things are said, per operation:

- `Work`: messages taken in, serialised and put on the wire by the replica that leads the operation, and by one that
  follows. A broadcast is serialised once but travels N−1 times. Where L replicas lead, each handles, for every
  operation of its own, L−1 of the others' (the study's multi-leader correction).
- the quorums and how many times they are waited for, one after the other;
- the syncs on the way: the leader's own runs beside those of its followers, so a round holds one.

Sources: message counts of single-leader and leaderless protocols as in section 3 of the SIGMOD 2019 study; EPaxos with
a second round for the share c of conflicting operations; ABD from its two phases (Lynch & Shvartsman 1997), reads
without the write-back where the quorum agreed. Heartbeats, batching and retransmission are left out here: `system` adds
batching, the rest is negligible under load.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .constants import MessageCosts
from .errors import ModelError, share

__all__ = ["PROTOCOLS", "Round", "Work", "capacity", "epaxos_capacity", "fast_quorum", "round_of", "service_ms"]

PROTOCOLS: Final = ("abd", "epaxos", "fpaxos", "multipaxos", "null", "raft", "vpaxos", "wankeeper", "wpaxos")
"""What `round_of` knows. VPaxos and WanKeeper are there for the study's figures and its advice."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that one replica handles for one operation."""

    taken_in: float = 0.0
    serialised: float = 0.0
    sent: float = 0.0
    """Copies on the wire: a broadcast to three peers counts three."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a protocol on ``replicas`` replicas."""

    protocol: str
    replicas: int
    leaders: int
    quorum: int
    """Answers awaited in the usual round, the leader's own included."""
    phases: float
    """Round trips to that quorum, one after the other; a fraction where only some operations need another."""
    leading: Work
    following: Work
    syncs: float
    """Syncs on the critical path."""
    penalty: bool = False
    """Does it compute dependencies (`MessageCosts.penalty`)?"""


def fast_quorum(replicas: int) -> int:
    """EPaxos: n − e with the largest e that n ≥ max(2e+f−1, 2f+1) allows for the largest f, the leader included."""
    f = (replicas - 1) // 2
    e = (replicas + 1 - f) // 2
    return max(replicas - e, replicas // 2 + 1)


def _majority(replicas: int) -> int:
    return replicas // 2 + 1


def round_of(
    protocol: str,
    replicas: int,
    *,
    q2: int | None = None,
    zones: int = 3,
    zone_failures: int = 0,
    conflict: float = 0.0,
    write_share: float = 1.0,
    disagreement: float = 0.0,
    commits: bool = False,
    thrifty: bool = False,
) -> Round:
    """The round of ``protocol``. Raises `ModelError` naming the field.

    ``q2``: phase-2 quorum of FPaxos. ``zones``: how many zones share the replicas (WPaxos, VPaxos, WanKeeper), of which
    ``zone_failures`` f_z may be lost. ``conflict``: the share of EPaxos operations that need the slow path.
    ``disagreement``: the share of ABD's reads that write back. ``commits``: count EPaxos's commit broadcasts, which the
    study leaves out. ``thrifty``: a zoned protocol asks the zones of its phase-2 quorum alone, and not everybody.
    """
    share("conflict", conflict)
    share("write_share", write_share)
    share("disagreement", disagreement)
    if replicas < 1:
        raise ModelError(f"replicas: {replicas} is not a positive number")
    n = replicas
    if protocol == "null":
        if n != 1:
            raise ModelError(f"replicas: null has one replica, not {n}")
        return Round(
            protocol=protocol,
            replicas=1,
            leaders=1,
            quorum=1,
            phases=0,
            leading=Work(taken_in=1, serialised=1, sent=1),
            following=Work(),
            syncs=write_share,
        )
    if protocol in {"multipaxos", "raft", "fpaxos"}:
        quorum = _majority(n)
        if protocol == "fpaxos" and q2 is not None:
            quorum = q2
        if not 1 <= quorum <= n:
            raise ModelError(f"q2: a quorum of {quorum} does not fit {n} replicas")
        return Round(
            protocol=protocol,
            replicas=n,
            leaders=1,
            quorum=quorum,
            phases=1,
            leading=Work(taken_in=n, serialised=2, sent=n),
            following=Work(taken_in=1, serialised=1, sent=1),
            syncs=write_share,
        )
    if protocol == "epaxos":
        rounds = 1 + conflict
        broadcast = 1.0 if commits else 0.0
        return Round(
            protocol=protocol,
            replicas=n,
            leaders=n,
            quorum=fast_quorum(n),
            phases=rounds,
            leading=Work(
                taken_in=1 + rounds * (n - 1),
                serialised=1 + rounds + broadcast,
                sent=1 + (rounds + broadcast) * (n - 1),
            ),
            following=Work(taken_in=rounds + broadcast, serialised=rounds, sent=rounds),
            syncs=rounds,
            penalty=True,
        )
    if protocol == "abd":
        rounds = write_share * 2 + (1 - write_share) * (1 + disagreement)
        return Round(
            protocol=protocol,
            replicas=n,
            leaders=n,
            quorum=_majority(n),
            phases=rounds,
            leading=Work(taken_in=1 + rounds * (n - 1), serialised=1 + rounds, sent=1 + rounds * (n - 1)),
            following=Work(taken_in=rounds, serialised=rounds, sent=rounds),
            syncs=write_share + (1 - write_share) * disagreement,
        )
    if protocol in {"wpaxos", "vpaxos", "wankeeper"}:
        return _zoned(protocol, n, zones, zone_failures if protocol == "wpaxos" else 0, thrifty=thrifty)
    raise ModelError(f"protocol: the model knows no {protocol!r} (it knows: {', '.join(PROTOCOLS)})")


def _zoned(protocol: str, n: int, zones: int, zone_failures: int, *, thrifty: bool) -> Round:
    if not 1 <= zones <= n:
        raise ModelError(f"zones: {zones} zones cannot share {n} replicas")
    if not 0 <= zone_failures < zones:
        raise ModelError(f"zone_failures: {zone_failures} of {zones} zones cannot be lost")
    size = n // zones
    # The phase-2 quorum takes a majority (f_n + 1 of 2 f_n + 1) in each of f_z + 1 zones.
    in_zone = _majority(size)
    quorum = in_zone * (zone_failures + 1)
    others = (size * (zone_failures + 1) if thrifty else n) - 1
    # Of the other leaders' operations a leader sees those that ask its zone.
    seen = 1.0 if zones > 1 else 0.0
    if thrifty and zones > 1:
        seen = zone_failures / (zones - 1)
    return Round(
        protocol=protocol,
        replicas=n,
        leaders=zones,
        quorum=quorum,
        phases=1,
        leading=Work(taken_in=1 + others, serialised=2, sent=1 + others),
        following=Work(taken_in=seen, serialised=seen, sent=seen),
        syncs=1,
    )


def service_ms(found: Round, costs: MessageCosts, *, wire: bool = True) -> float:
    """What one operation costs the replica that leads it, in ms, its share of the others' operations included.

    For a single leader this is the study's s = 2·t_out + N·t_in + 2·N·s_m/b.
    """
    own, other = found.leading, found.following
    rest = found.leaders - 1
    taken_in = own.taken_in + rest * other.taken_in
    serialised = own.serialised + rest * other.serialised
    sent = own.sent + rest * other.sent
    factor = costs.penalty if found.penalty else 1.0
    processor = factor * (taken_in * costs.t_in_ms + serialised * costs.t_out_ms)
    return processor + (costs.wire_ms * (taken_in + sent) if wire else 0.0)


def capacity(found: Round, costs: MessageCosts, *, wire: bool = True) -> float:
    """Operations a second at which the leaders are busy all the time, the load spread evenly over them."""
    return 1e3 * found.leaders / service_ms(found, costs, wire=wire)


def epaxos_capacity(replicas: int, conflict: float, costs: MessageCosts) -> float:
    """The form in which the study's figure of EPaxos capacity against conflict is computed, operations a second.

    1000·N / (n_in·(t_in+x) + n_out·(t_out+x)), n_in = 2(1+c)(N−1)+1, n_out = (1+c)·N+1, times in ms and x the wire time
    of one message. A broadcast is put on the wire once here, and commit broadcasts are not counted.
    """
    share("conflict", conflict)
    n = replicas
    rounds = 1 + conflict
    taken_in = 2 * rounds * (n - 1) + 1
    serialised = rounds * n + 1
    x = costs.wire_ms
    busy = taken_in * (costs.t_in_ms * costs.penalty + x) + serialised * (costs.t_out_ms * costs.penalty + x)
    return 1e3 * n / busy
