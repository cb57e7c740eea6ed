"""A small protocol's tables, and folders with them, for the tests of the storage."""

from pathlib import Path

import msgspec

from replica.consensus.interface import (
    Capabilities,
    Configuration,
    Context,
    Member,
    Protocol,
    ProtocolSpec,
    Put,
    Record,
)
from replica.storage.coordinator import Anchor
from replica.storage.folder import Identity
from replica.storage.log import Durability, LogEnvironment
from replica.storage.recovery import Storage, format_storage, open_storage

MIB = 1 << 20


class Vote(Record, frozen=True, tag=1):
    """What an acceptor remembers of a slot."""

    ballot: int
    value: bytes = b""


class Options(msgspec.Struct, frozen=True):
    """None."""


def no_protocol(_context: Context, _options: Options) -> Protocol:
    raise AssertionError("the storage never builds a protocol")


def accept_all(_configuration: Configuration, _options: Options) -> None:
    pass


SPEC = ProtocolSpec(
    name="ballots",
    summary="Votes by slot, for tests of the storage.",
    capabilities=Capabilities(
        total_order=True,
        transactions=True,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset(),
        routing="leader",
        crash_recovery=True,
        reconfiguration=True,
    ),
    messages=(),
    tables={"votes": Vote, "promises": Vote},
    options=Options,
    create=no_protocol,
    validate=accept_all,
)


def anchor_of(epoch: int = 1, *, frontier: int = 0, protocol: str = "ballots", snapshot: str = "") -> Anchor:
    """An anchor of a cluster of one."""
    configuration = Configuration(epoch, (Member(1),), protocol)
    return Anchor(configuration, frontier=frontier, base=0, snapshot=snapshot)


def slot(number: int) -> bytes:
    """The key of a slot."""
    return b"%08d" % number


def vote(number: int, ballot: int = 1, value: bytes = b"") -> Put:
    """A vote to be written."""
    return Put("votes", slot(number), Vote(ballot, value or b"value %d" % number))


def new_log(path: Path, *, durability: Durability = "sync", map_bytes: int = 64 * MIB) -> LogEnvironment:
    """A log of its own, without a data folder around it."""
    path.mkdir()
    LogEnvironment.create(path, IDENTITY, anchor_of())
    return LogEnvironment(path, IDENTITY, durability=durability, map_bytes=map_bytes)


def reopened(path: Path, *, durability: Durability = "sync", map_bytes: int = 64 * MIB) -> LogEnvironment:
    """That log, opened again."""
    return LogEnvironment(path, IDENTITY, durability=durability, map_bytes=map_bytes)


IDENTITY = Identity(cluster="test", replica=1, disk="disk-1")


def new_storage(path: Path) -> Storage:
    """A freshly formatted data folder, open."""
    format_storage(path, cluster="test", replica=1, anchor=anchor_of())
    return opened(path)


def opened(path: Path, *, verify: bool = False) -> Storage:
    """A data folder, open, with small maps."""
    return open_storage(
        path,
        verify=verify,
        log_preallocated_bytes=0,
        cluster="test",
        replica=1,
        log_map_bytes=64 * MIB,
        state_map_bytes=256 * MIB,
        free_bytes_min=MIB,
    )
