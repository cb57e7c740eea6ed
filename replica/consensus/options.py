"""Options of a protocol with a leader and a log: defaults and bounds. Shared; a protocol's own options add to these."""

from __future__ import annotations

from typing import Final

import msgspec

from .interface import ConfigurationError

FRAME_BYTES_MAX: Final = 4 << 20
"""gRPC's default limit for a message, which every frame must stay below."""

COMMAND_BYTES_MAX: Final = 3 << 20
"""The largest payload of one command, so that a slot that holds it alone still travels in one frame."""

COMMAND_OVERHEAD_BYTES: Final = 40
"""What a command adds to its payload in a slot, at most: it counts towards every bound in bytes."""


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are for processes on one machine or a local network; stretch them on a wide one."""

    heartbeat_s: float = 0.05
    """Between two heartbeats of a leader."""
    election_timeout_min_s: float = 0.4
    """A follower waits at least so long without a sign of a leader before it asks to become one; and a voter that has
    heard from a leader within this time refuses to help in replacing it."""
    election_timeout_max_s: float = 0.8
    """Each wait is drawn between the two. A leader that has not heard from a quorum for so long steps down."""
    retransmit_s: float = 0.25
    """What goes unanswered is repeated after so long."""
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


def validate_log_options(options: LogOptions) -> None:
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
