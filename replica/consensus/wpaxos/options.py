"""Options of WPaxos: defaults, bounds, and what they make of the members: zones and quorums."""

from __future__ import annotations

import msgspec

from replica.consensus.interface import Configuration, ConfigurationError, ReplicaId
from replica.consensus.options import COMMAND_BYTES_MAX, FRAME_BYTES_MAX
from replica.consensus.quorums import Grid, Quorums, checked

from .policies import POLICIES


class WPaxosOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are for processes on one machine or a local network; stretch them on a wide one."""

    f_z: int = -1
    """Zones that may be lost. -1: one where there are three zones or more, else none."""
    f_n: int = -1
    """Replicas that may fail in each zone. -1: as many as possible, ``(l - 1) // 2`` of ``l``."""
    zones: int = 0
    """Where no member says in which zone or region it stands: deal the members into so many zones, in turn. 0: each of
    them is a zone of its own."""
    policy: str = "consecutive"
    """When an object moves: ``immediate``, ``consecutive``, ``majority`` or ``average``."""
    steal_after: int = 3
    """``consecutive``: accesses in a row from one other zone after which it gets the object."""
    steal_window: int = 16
    """``majority``: so many accesses are counted before it is decided who gets the object. ``average``: how many of
    the last accesses have a say."""
    steal_rest_s: float = 0.5
    """An object that has moved is not offered to others for so long: the hysteresis against duelling zones."""
    heartbeat_s: float = 0.05
    """Between two signs of life; also how often a replica looks for what is overdue."""
    suspicion_timeout_s: float = 0.8
    """Whoever has been silent, or deaf to this replica, for so long is suspected, and its objects may be stolen."""
    retransmit_s: float = 0.25
    """What goes unanswered is repeated after so long."""
    batch_max: int = 4096
    """Operations in one slot. 1: each operation has a slot to itself. A command is never split."""
    batch_bytes_max: int = 1 << 20
    """Bytes in one slot; a larger command has a slot to itself."""
    window_slots: int = 64
    """Slots of one object that may be proposed and undecided at a time."""
    window_bytes_max: int = 64 << 20
    """Bytes of values that a replica may have proposed and undecided at a time, of all its objects together."""
    queue_max: int = 16384
    """Operations that wait at the replica of their clients; more are refused as overload. As many may wait for it from
    others."""
    queue_bytes_max: int = 64 << 20
    """Bytes of commands that wait at the replica of their clients."""
    chunk_bytes_max: int = 1 << 20
    """Values in one message are cut about here, except that one value always travels whole."""


def zones_of(configuration: Configuration, options: WPaxosOptions) -> dict[ReplicaId, str]:
    """The zone of each member: its zone, or its region where it names no zone. Raises `ConfigurationError`."""
    members = sorted(configuration.members, key=lambda member: member.replica)
    named = {member.replica: member.zone or member.region for member in members}
    if any(named.values()):
        for replica, zone in named.items():
            if not zone:
                raise ConfigurationError(
                    f"members: replica {replica} has neither a zone nor a region, which others have; give it one"
                )
        if options.zones:
            raise ConfigurationError("protocol.options.zones: the members say in which zones they stand; leave it out")
        return named
    if not 0 <= options.zones <= len(members):
        raise ConfigurationError(
            f"protocol.options.zones: {options.zones} zones cannot share {len(members)} members; "
            f"give 1 to {len(members)}, or 0 for one each"
        )
    count = options.zones or len(members)
    return {member.replica: f"zone {index % count + 1}" for index, member in enumerate(members)}


def quorums_of(configuration: Configuration, options: WPaxosOptions) -> Quorums:
    """The grid over the members' zones. Raises `ConfigurationError`, also when two quorums could miss each other."""
    rows: dict[str, list[ReplicaId]] = {}
    for replica, zone in zones_of(configuration, options).items():
        rows.setdefault(zone, []).append(replica)
    sizes = {len(row) for row in rows.values()}
    if len(sizes) != 1:
        told = ", ".join(f"{zone!r} has {len(rows[zone])}" for zone in sorted(rows))
        raise ConfigurationError(
            f"members: zones must have the same number of members, or quorums that are counted by zone can miss each "
            f"other ({told})"
        )
    (size,) = sizes
    f_z = options.f_z if options.f_z >= 0 else (1 if len(rows) >= 3 else 0)
    f_n = options.f_n if options.f_n >= 0 else (size - 1) // 2
    if size < 2 * f_n + 1:
        raise ConfigurationError(
            f"protocol.options.f_n: {f_n} failures in a zone need zones of {2 * f_n + 1} members or more; "
            f"they have {size}"
        )
    if len(rows) < 2 * f_z + 1:
        raise ConfigurationError(
            f"protocol.options.f_z: losing {f_z} zones needs {2 * f_z + 1} zones or more; there are {len(rows)}"
        )
    return checked(Grid.tolerant([rows[zone] for zone in sorted(rows)], zone_failures=f_z, member_failures=f_n))


def validate(configuration: Configuration, options: WPaxosOptions) -> None:
    """Raises `ConfigurationError` naming the option."""
    for name in ("f_z", "f_n"):
        if getattr(options, name) < -1:
            raise ConfigurationError(f"protocol.options.{name}: must be 0 or more, or -1 for the default")
    if options.policy not in POLICIES:
        raise ConfigurationError(
            f"protocol.options.policy: {options.policy!r} is none of {', '.join(sorted(POLICIES))}"
        )
    for name in ("heartbeat_s", "suspicion_timeout_s", "retransmit_s"):
        if not 0 < getattr(options, name) < 3600:
            raise ConfigurationError(f"protocol.options.{name}: must be above 0 and below 3600 seconds")
    if not 0 <= options.steal_rest_s < 3600:
        raise ConfigurationError("protocol.options.steal_rest_s: must be 0 or more and below 3600 seconds")
    if options.suspicion_timeout_s < 2 * options.heartbeat_s:
        raise ConfigurationError(
            "protocol.options.suspicion_timeout_s: must be at least two heartbeats, or one that is lost arouses it"
        )
    for name in (
        "steal_after",
        "steal_window",
        "batch_max",
        "batch_bytes_max",
        "window_slots",
        "window_bytes_max",
        "queue_max",
        "queue_bytes_max",
    ):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"protocol.options.{name}: must be at least 1")
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
