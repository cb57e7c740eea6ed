"""Streams between replicas over gRPC: the codec, connections, and faults of a link (delay, loss, partition).

It may import `replica.consensus` for the messages and `replica.wire` for the frames, never storage or the
node. `Transport` is the way in; a host implements `TransportHost`.
"""

from .channels import PLAIN, Security, bind, check_address, create_server, open_channel
from .errors import (
    AddressUnavailable,
    MessageTooLarge,
    SnapshotError,
    SnapshotInterrupted,
    SnapshotRefused,
    TransportError,
)
from .faults import NO_FAULT, LinkFault
from .host import (
    Accept,
    EpochSeen,
    Identity,
    Learning,
    LessonSource,
    LinkDown,
    LinkEvent,
    LinkRefused,
    LinkUp,
    PeerArrived,
    PeerDeparted,
    PeerGreeting,
    RefusalCode,
    Refuse,
    SnapshotQuery,
    SnapshotSink,
    SnapshotSource,
    SnapshotUnserved,
    TransportHost,
    Verdict,
)
from .transport import PeerState, Transport

__all__ = [
    "Transport", "TransportHost", "PeerState", "Identity",
    # greetings
    "PeerGreeting", "Verdict", "Accept", "Refuse", "RefusalCode",
    # events
    "LinkEvent", "LinkUp", "LinkDown", "LinkRefused", "PeerArrived", "PeerDeparted", "EpochSeen",
    # faults
    "LinkFault", "NO_FAULT",
    # snapshots
    "SnapshotQuery", "SnapshotSource", "SnapshotSink", "SnapshotUnserved",
    # lessons
    "LessonSource", "Learning",
    # channels
    "Security", "PLAIN", "check_address", "create_server", "bind", "open_channel",
    # errors
    "TransportError", "AddressUnavailable", "MessageTooLarge", "SnapshotError", "SnapshotRefused",
    "SnapshotInterrupted",
]  # fmt: skip
