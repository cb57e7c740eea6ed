"""Options of MultiPaxos and of its flexible variant: defaults, bounds, and what they make of the members."""

from __future__ import annotations

from replica.consensus.interface import Configuration, ConfigurationError
from replica.consensus.options import LogOptions, validate_log_options
from replica.consensus.quorums import Flexible, Grid, Majority, Quorums, checked


class MultiPaxosOptions(LogOptions, frozen=True, kw_only=True):
    """Those of any leader with a log."""


class FPaxosOptions(MultiPaxosOptions, frozen=True, kw_only=True):
    """MultiPaxos with a choice of quorums."""

    quorums: str = "counted"
    """``counted``: any q1 and any q2 members. ``grid``: by the zones of the members, a phase-1 quorum is one whole
    zone and a phase-2 quorum one member of each zone."""
    q1: int = 0
    """Size of a counted phase-1 quorum. 0: the least that meets every phase-2 quorum."""
    q2: int = 0
    """Size of a counted phase-2 quorum. 0: the least that meets every phase-1 quorum, or a majority."""


def quorums_of(configuration: Configuration, options: MultiPaxosOptions) -> Quorums:
    """The quorum system of the options over the members. Raises `ConfigurationError`."""
    replicas = configuration.replicas
    if not isinstance(options, FPaxosOptions):
        return Majority(replicas)
    if options.quorums == "grid":
        if options.q1 or options.q2:
            raise ConfigurationError("protocol.options.q1, q2: a grid takes its quorums from the zones; leave them out")
        zones: dict[str, list[int]] = {}
        for member in sorted(configuration.members, key=lambda member: member.replica):
            if not member.zone:
                raise ConfigurationError(f"members: replica {member.replica} has no zone, which a grid needs")
            zones.setdefault(member.zone, []).append(member.replica)
        if len({len(zone) for zone in zones.values()}) != 1:
            raise ConfigurationError("members: the zones of a grid must have the same number of members")
        rows = [zones[name] for name in sorted(zones)]
        return checked(Grid(rows, q1_zones=1, q1_members=len(rows[0]), q2_zones=len(rows), q2_members=1))
    if options.quorums != "counted":
        raise ConfigurationError(f"protocol.options.quorums: {options.quorums!r} is neither 'counted' nor 'grid'")
    n = len(replicas)
    majority = n // 2 + 1
    q2 = options.q2 or (n + 1 - options.q1 if options.q1 else majority)
    q1 = options.q1 or n + 1 - q2
    try:
        return Flexible(replicas, q1=q1, q2=q2)
    except ConfigurationError as error:
        raise ConfigurationError(f"protocol.options.{error}") from None


def validate(configuration: Configuration, options: MultiPaxosOptions) -> None:
    """Raises `ConfigurationError` naming the option."""
    validate_log_options(options)
    quorums_of(configuration, options)
