"""Options of ABD, and what they make of the members."""

from __future__ import annotations

import msgspec

from replica.consensus.interface import Configuration, ConfigurationError
from replica.consensus.options import COMMAND_BYTES_MAX
from replica.consensus.quorums import Flexible, Majority, Quorums


class AbdOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of quorums, patience, bounds."""

    q1: int = 0
    """Replicas that are queried, at least. 0: the least that meets every q2, or a majority."""
    q2: int = 0
    """Replicas that hold a write, at least. 0: the least that meets every q1, or a majority."""
    repeat_s: float = 0.2
    """What was not answered for so long is asked for again."""
    repeat_max: int = 512
    """Requests that are repeated at once."""
    queue_max: int = 16384
    """Operations under way at a replica; more are refused, definitely."""
    queue_bytes_max: int = 64 << 20
    """Bytes of the commands that are under way at a replica."""
    chunk_bytes_max: int = 1 << 20
    """Records in one message are cut about here, except that one record always travels whole."""


def quorums_of(configuration: Configuration, options: AbdOptions) -> Quorums:
    """The quorum system over the members. Raises `ConfigurationError`."""
    replicas = configuration.replicas
    if not options.q1 and not options.q2:
        return Majority(replicas)
    n = len(replicas)
    for name, size in (("q1", options.q1), ("q2", options.q2)):
        if not 0 <= size <= n:
            raise ConfigurationError(f"protocol.options.{name}: {size} is not from 0 to {n}, the number of members")
    q2 = options.q2 or n + 1 - options.q1
    q1 = options.q1 or n + 1 - q2
    try:
        return Flexible(replicas, q1=q1, q2=q2)
    except ConfigurationError as error:
        raise ConfigurationError(f"protocol.options.{error}") from None


def validate(configuration: Configuration, options: AbdOptions) -> None:
    """Raises `ConfigurationError` naming the option."""
    if not options.repeat_s > 0:
        raise ConfigurationError(f"protocol.options.repeat_s: {options.repeat_s} is not a positive number of seconds")
    for name in ("repeat_max", "queue_max", "queue_bytes_max"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"protocol.options.{name}: {getattr(options, name)} is not at least 1")
    if not 1 <= options.chunk_bytes_max <= COMMAND_BYTES_MAX:
        raise ConfigurationError(
            f"protocol.options.chunk_bytes_max: must be 1 to {COMMAND_BYTES_MAX}, or a message exceeds a frame"
        )
    quorums_of(configuration, options)
