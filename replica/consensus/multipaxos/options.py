"""Options of MultiPaxos and of its flexible variant: defaults, bounds, and what they make of the members."""

from __future__ import annotations

from typing import Final

import msgspec

from replica.consensus.interface import Configuration, ConfigurationError
from replica.consensus.quorums import Flexible, Grid, Majority, Quorums, checked

FRAME_BYTES_MAX: Final = 4 << 20
"""gRPC's default limit for a message, which every frame must stay below."""

COMMAND_BYTES_MAX: Final = 3 << 20
"""The largest payload of one command, so that a slot that holds it alone still travels in one frame."""

COMMAND_OVERHEAD_BYTES: Final = 40
"""What a command adds to its payload in a slot, at most: it counts towards every bound in bytes."""


class MultiPaxosOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are for processes on one machine or a local network; stretch them on a wide one."""

    heartbeat_s: float = 0.05
    """Between two heartbeats of a leader."""
    election_timeout_min_s: float = 0.4
    """A follower waits at least so long without a sign of a leader before it asks to become one; and a voter that has
    heard from a leader within this time refuses to help in replacing it."""
    election_timeout_max_s: float = 0.8
    """Each wait is drawn between the two. A leader that has not heard from a phase-2 quorum for so long steps down."""
    retransmit_s: float = 0.25
    """An unanswered prepare, accept or catch-up request is repeated after so long."""
    commit_delay_s: float = 0.005
    """What was decided is announced after so long at the latest when no accept has carried the news."""
    batch_max: int = 4096
    """Operations in one slot. 1: each operation has a slot to itself. A command is never split."""
    batch_bytes_max: int = 1 << 20
    """Bytes in one slot; a larger command has a slot to itself."""
    window_slots: int = 1024
    """Slots that may be proposed and undecided at a time."""
    window_bytes_max: int = 64 << 20
    """Bytes of values that may be proposed and undecided at a time."""
    queue_max: int = 16384
    """Operations that may wait for the window; more are refused as overload."""
    queue_bytes_max: int = 64 << 20
    """Bytes that may wait for the window."""
    reads_max: int = 16384
    """Reads that may wait for their round."""
    chunk_bytes_max: int = 1 << 20
    """Values in one message are cut about here, except that one value always travels whole."""
    tail_slots: int = 4096
    """Slots kept behind a snapshot of one's own, so that a replica that lags a little need not fetch a snapshot."""
    tail_bytes_max: int = 64 << 20
    """Bytes of values kept behind a snapshot, as far as they were delivered since the start."""


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
    for name in ("heartbeat_s", "election_timeout_min_s", "election_timeout_max_s", "retransmit_s"):
        if not 0 < getattr(options, name) < 3600:
            raise ConfigurationError(f"protocol.options.{name}: must be above 0 and below 3600 seconds")
    if not 0 <= options.commit_delay_s <= 60:
        raise ConfigurationError("protocol.options.commit_delay_s: must be 0 to 60 seconds")
    if options.election_timeout_max_s <= options.election_timeout_min_s:
        raise ConfigurationError(
            "protocol.options.election_timeout_max_s: must exceed election_timeout_min_s, or candidates collide"
        )
    if options.election_timeout_min_s < 2 * options.heartbeat_s:
        raise ConfigurationError(
            "protocol.options.election_timeout_min_s: must be at least two heartbeats, or one lost heartbeat elects"
        )
    for name in ("batch_max", "batch_bytes_max", "window_slots", "window_bytes_max", "queue_max", "queue_bytes_max"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"protocol.options.{name}: must be at least 1")
    for name in ("tail_slots", "tail_bytes_max"):
        if getattr(options, name) < 0:
            raise ConfigurationError(f"protocol.options.{name}: must not be negative")
    if options.reads_max < 1:
        raise ConfigurationError("protocol.options.reads_max: must be at least 1")
    if options.batch_bytes_max > COMMAND_BYTES_MAX:
        raise ConfigurationError(
            f"protocol.options.batch_bytes_max: must be at most {COMMAND_BYTES_MAX}, or a slot exceeds a frame"
        )
    if not 1 <= options.chunk_bytes_max <= FRAME_BYTES_MAX - COMMAND_BYTES_MAX:
        raise ConfigurationError(
            f"protocol.options.chunk_bytes_max: must be 1 to {FRAME_BYTES_MAX - COMMAND_BYTES_MAX}, so that a chunk "
            "and a frame's overhead fit the limit"
        )
    quorums_of(configuration, options)
