"""Options of EPaxos: defaults, bounds, and the quorums that follow from them."""

from __future__ import annotations

import msgspec

from replica.consensus.interface import Configuration, ConfigurationError
from replica.consensus.options import COMMAND_BYTES_MAX, FRAME_BYTES_MAX
from replica.consensus.quorums import Egalitarian


class EPaxosOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are for processes on one machine or a local network; stretch them on a wide one."""

    f: int = -1
    """Failures that the protocol survives. -1: as many as possible, ``(n - 1) // 2``."""
    e: int = -1
    """Failures up to which a command without contention is decided in one round trip. -1: as many as possible."""
    batch_max: int = 4096
    """Operations in one instance. 1: each operation has an instance to itself. A batch interferes as the union of its
    commands; a command is never split."""
    batch_bytes_max: int = 1 << 20
    """Bytes in one instance; a larger command has one to itself."""
    window_instances: int = 128
    """Instances that a replica leads and that have not been executed yet. It bounds what can be entangled: a chain of
    dependencies is at most n times as long, and ends when everybody's window is full."""
    queue_max: int = 16384
    """Operations that may wait for the window; more are refused as overload."""
    queue_bytes_max: int = 64 << 20
    """Bytes that may wait for the window."""
    retransmit_s: float = 0.25
    """What goes unanswered is repeated after so long; and a missing fast quorum is waited for so long."""
    recovery_s: float = 0.5
    """An instance that is not decided after so long is recovered by others, the next of them a little later each."""
    progress_s: float = 0.05
    """How often a replica looks for what is overdue, and tells how far it is if there is news."""
    chunk_bytes_max: int = 1 << 20
    """Values in one message are cut about here, except that one value always travels whole."""
    tail_instances: int = 4096
    """Instances of a space kept behind a snapshot, for replicas that lag a little; more of them as long as a replica
    lacks them that a snapshot would not help."""
    tail_bytes_max: int = 64 << 20
    """Bytes of values of a space kept behind a snapshot, as far as they were executed since the start."""

    @property
    def tail_slots(self) -> int:
        """`tail_instances`, as what protocols share calls it."""
        return self.tail_instances


def quorums_of(configuration: Configuration, options: EPaxosOptions) -> Egalitarian:
    """The quorums over the members. Raises `ConfigurationError`."""
    n = len(configuration.members)
    f = options.f if options.f >= 0 else (n - 1) // 2
    e = options.e if options.e >= 0 else min(f, (n + 1 - f) // 2)
    try:
        return Egalitarian(configuration.replicas, e=e, f=f)
    except ConfigurationError as error:
        raise ConfigurationError(f"protocol.options.{error}") from None


def validate(configuration: Configuration, options: EPaxosOptions) -> None:
    """Raises `ConfigurationError` naming the option."""
    for name in ("f", "e"):
        if getattr(options, name) < -1:
            raise ConfigurationError(f"protocol.options.{name}: must be 0 or more, or -1 for as many as possible")
    for name in ("retransmit_s", "recovery_s", "progress_s"):
        if not 0 < getattr(options, name) < 3600:
            raise ConfigurationError(f"protocol.options.{name}: must be above 0 and below 3600 seconds")
    for name in ("batch_max", "batch_bytes_max", "window_instances", "queue_max", "queue_bytes_max", "tail_instances"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"protocol.options.{name}: must be at least 1")
    if options.tail_bytes_max < 0:
        raise ConfigurationError("protocol.options.tail_bytes_max: must not be negative")
    if options.batch_bytes_max > COMMAND_BYTES_MAX:
        raise ConfigurationError(
            f"protocol.options.batch_bytes_max: must be at most {COMMAND_BYTES_MAX}, or an instance exceeds a frame"
        )
    if not 1 <= options.chunk_bytes_max <= FRAME_BYTES_MAX - COMMAND_BYTES_MAX:
        raise ConfigurationError(
            f"protocol.options.chunk_bytes_max: must be 1 to {FRAME_BYTES_MAX - COMMAND_BYTES_MAX}, so that a chunk "
            "and a frame's overhead fit the limit"
        )
    quorums_of(configuration, options)
