"""Options of Raft: those of any leader with a log, and the lease."""

from __future__ import annotations

from replica.consensus.interface import Configuration, ConfigurationError
from replica.consensus.options import LogOptions, validate_log_options


class RaftOptions(LogOptions, frozen=True, kw_only=True):
    """Durations are for processes on one machine or a local network; stretch them on a wide one."""

    lease_s: float = 0.0
    """For how long a follower that answers a heartbeat promises its vote to nobody else, so that the leader may answer
    reads by itself meanwhile. 0: no leases, and no part of the protocol depends on clocks."""
    lease_drift: float = 0.1
    """By how much of an interval the clocks of two replicas may come to differ in measuring it, at most. Declared, not
    measured: where a clock is worse than this, reads by lease may be stale."""


def validate(configuration: Configuration, options: RaftOptions) -> None:
    """Raises `ConfigurationError` naming the option."""
    validate_log_options(options)
    if not 0 <= options.lease_drift < 1:
        raise ConfigurationError("protocol.options.lease_drift: must be at least 0 and below 1")
    if options.lease_s and not 2 * options.heartbeat_s <= options.lease_s <= options.election_timeout_min_s:
        raise ConfigurationError(
            "protocol.options.lease_s: must be 0 (no leases), or from two heartbeats to election_timeout_min_s: a "
            "shorter lease ends before it is renewed, a longer one keeps followers from replacing a leader that is gone"
        )
