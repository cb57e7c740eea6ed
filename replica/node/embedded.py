"""One replica inside somebody else's process: ``connect("memory:")`` and ``connect("file:PATH")``.

For tests, notebooks and scripts. No network and nobody to agree with: the protocol ``null`` over the same loop,
sessions and state machine as everywhere else. In memory everything is gone with the port. In a file the data folder is
that of a replica, one process may have it open at a time, and ``?durability=none`` trades power cuts for speed.

The client finds the two factories in the entry-point group ``synod.ports``. Making a port starts nothing: the replica
comes up with the first attachment, on the event loop that runs then, and goes down with `EmbeddedPort.close`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from sortedcontainers import SortedDict

from replica import __version__
from replica.client.errors import InvalidArgument
from replica.client.port import AttachmentLost, PortOptions
from replica.consensus.frontiers import reach
from replica.consensus.interface import Discard, ProtocolSpec, Put, Record, Send, Stable, Write
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.storage.coordinator import Anchor
from replica.wire import typed as wire

from .attachment import Attachment
from .config import MemberConfig, NodeConfig, ProtocolConfig
from .core import Core
from .errors import NodeFailure
from .metrics import NodeMetrics
from .shapes import progress_of
from .stored import Stored

__all__ = ["EmbeddedPort", "file_port", "memory_port"]

CLUSTER: Final = "embedded"

MEMORY_LOG_POSITIONS_MAX: Final = 1024
"""Positions kept of a log in memory, which nothing is ever recovered from."""

_LOG = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------------- replicas


class _Quiet:
    """The logger of an embedded replica: what the standard library's logging makes of it, as a guest should."""

    def debug(self, event: str, **fields: Any) -> None:
        _LOG.debug("%s %s", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        _LOG.debug("%s %s", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        _LOG.warning("%s %s", event, fields)

    def error(self, event: str, *, exc_info: Any = None, **fields: Any) -> None:
        _LOG.error("%s %s", event, fields, exc_info=exc_info)


class MemoryLog:
    """A log in memory: writes are there at once, for as long as the process lives."""

    mode = "inline"
    in_flight = 0

    def __init__(self) -> None:
        self._tables: dict[str, SortedDict] = {}

    def submit(self, group: int, writes: Sequence[Write], notify: Callable[[], None] | None = None, /) -> int:
        """As a group writer does."""
        for write in writes:
            match write:
                case Put(table=table, key=key, record=record):
                    self._table(table)[key] = record
                case Discard(table=table, first=first, last=last):
                    rows = self._table(table)
                    for key in list(rows.irange(first, last, (True, False))):
                        del rows[key]
        if notify is not None:
            notify()
        return group

    def reader(self, _spec: ProtocolSpec) -> Stable:
        """Reads what was written."""
        return self

    def get(self, table: str, key: bytes) -> Record | None:
        found: Record | None = self._table(table).get(key)
        return found

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        rows = self._table(table)
        for key in list(rows.irange(first, last, (True, False))):
            yield key, rows[key]

    def _table(self, name: str) -> SortedDict:
        return self._tables.setdefault(name, SortedDict())


class MemoryReplica(Core):
    """A replica that is nowhere but here."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config, _Quiet(), NodeMetrics(dict))
        self.machine = StateMachine(MemoryStore())
        self._truncating = False

    async def start(self) -> None:
        """Take part; alone, that is to lead."""
        log = MemoryLog()
        self.make_loop(
            Anchor(configuration=self.config.initial_configuration()),
            stable=log.reader,
            incarnation=1,
            voting=True,
            writer=log,
            network=self,
        )
        self.loop.on_sealed = self._never
        self.loop.on_snapshot_wish = self._never
        self.loop.on_applied = self._applied
        self.begun = True
        self.loop.start()

    async def stop(self) -> None:
        """Everything is gone."""
        self.stopping = True
        self.loop.halt()
        await self.cancel_tasks()

    def _applied(self, _operations: int) -> None:
        covered = reach(self.coordinator.anchor.frontier)
        if progress_of(self.machine) - covered >= MEMORY_LOG_POSITIONS_MAX and not self._truncating:
            self._truncating = True
            self.spawn(self._truncate())

    async def _truncate(self) -> None:
        """The state is as lasting as the log, so the log is of no use: say that a snapshot covers it."""
        try:
            await self.loop.quiesce()
            self.machine.commit()
            self.loop.switch(self.coordinator.anchor_at(self.machine.applied), installed=False)
        finally:
            self.loop.resume()
            self._truncating = False

    def send(self, send: Send) -> None:
        """There is nobody to send to."""

    @property
    def unsent(self) -> bool:
        """Never anything."""
        return False

    def _never(self, _event: object) -> None:
        raise AssertionError("a single replica in memory meets neither seals nor snapshots of others")


class FileReplica(Stored):
    """A replica on a data folder of this process."""

    def __init__(self, config: NodeConfig) -> None:
        super().__init__(config, _Quiet(), NodeMetrics(dict))

    async def start(self) -> None:
        """Open the folder, formatting an empty one, and take part. Raises `NodeFailure`."""
        await self.open()
        assert self.storage.anchor is not None
        self.begin(self.storage.anchor)

    async def stop(self) -> None:
        """Close the folder cleanly."""
        self.stopping = True
        if self.begun and not self.loop.halted:
            await self.loop.quiesce()
            self.loop.halt()
        await self.cancel_tasks()
        self.close_data()


# ------------------------------------------------------------------------------------------------------------- ports


class EmbeddedPort:
    """A client's way to the one replica in its own process."""

    def __init__(self, endpoint: str, make: Callable[[], MemoryReplica | FileReplica]) -> None:
        self._endpoint = endpoint
        self._make = make
        self._starting: asyncio.Lock | None = None
        self._replica: MemoryReplica | FileReplica | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        self._attachments: set[EmbeddedAttachment] = set()
        self._closed = False

    @property
    def endpoints(self) -> Sequence[str]:
        """The one there is."""
        return (self._endpoint,)

    async def attach(self, _endpoint: str, hello: wire.Hello) -> EmbeddedAttachment:
        """Attach to the replica, starting it if this is the first time. Raises `AttachmentLost`."""
        replica = await self._running()
        attachment = EmbeddedAttachment(replica, self._attachments.discard)
        self._attachments.add(attachment)
        await attachment.send(wire.ClientFrame(hello=hello))
        return attachment

    async def status(self, _endpoint: str) -> wire.StatusReply:
        """What the replica says of itself. Raises `AttachmentLost`."""
        replica = await self._running()
        status = replica.coordinator.status()
        configuration = replica.coordinator.configuration
        return wire.StatusReply(
            cluster=replica.config.cluster,
            replica=replica.config.replica,
            epoch=configuration.epoch,
            protocol=configuration.protocol,
            role=status.role,
            leader=status.leader or 0,
            leader_address=self._endpoint,
            ready=status.accepting,
            accepting=status.accepting,
            decided=status.decided if isinstance(status.decided, int) else 0,
            applied=progress_of(replica.machine),
            revision=replica.machine.revision,
            compacted=replica.machine.compacted,
            durability=replica.config.durability if isinstance(replica, FileReplica) else "none",
            sessions=len(replica.machine.sessions),
            version=__version__,
            problem=replica.unavailable(),
        )

    async def close(self) -> None:
        """Hang up and stop the replica."""
        self._closed = True
        for attachment in list(self._attachments):
            await attachment.close()
        replica, self._replica = self._replica, None
        if replica is not None and self._process == os.getpid():
            await replica.stop()

    async def _running(self) -> MemoryReplica | FileReplica:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise AttachmentLost(f"{self._endpoint}: the port was closed")
        if self._replica is not None and (self._process, self._loop) != (os.getpid(), loop):
            raise AttachmentLost(
                f"{self._endpoint}: the store lives in the process and on the event loop that opened it; connect again"
            )
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._replica is None:
                replica = self._make()
                try:
                    await replica.start()
                except NodeFailure as failure:
                    raise AttachmentLost(str(failure)) from failure
                self._replica, self._loop, self._process = replica, loop, os.getpid()
        failed = self._replica.failed
        if failed.done():
            raise AttachmentLost(str(failed.result()))
        return self._replica


class EmbeddedAttachment:
    """A stream that is two method calls."""

    def __init__(self, replica: MemoryReplica | FileReplica, forget: Callable[[EmbeddedAttachment], None]) -> None:
        self._replica = replica
        self._forget = forget
        self._attachment: Attachment = replica.sessions.attach()
        self._unread: deque[wire.ServerFrame] = deque()
        self._closed = False

    async def send(self, frame: wire.ClientFrame, /) -> None:
        """Hand over a frame. Raises `AttachmentLost`."""
        if self._closed or self._attachment.ended:
            raise AttachmentLost(self._why())
        self._replica.sessions.receive(self._attachment, frame)
        # Whoever sends in a loop lets the replica have its turn.
        await asyncio.sleep(0)

    async def receive(self) -> wire.ServerFrame:
        """The next frame. Raises `AttachmentLost`."""
        frame = await self._attachment.next_frame()
        if frame is None or self._closed:
            raise AttachmentLost(self._why())
        return frame

    async def close(self) -> None:
        """End the stream."""
        if not self._closed:
            self._closed = True
            self._replica.sessions.detach(self._attachment)
            self._forget(self)

    def _why(self) -> str:
        failed = self._replica.failed
        return str(failed.result()) if failed.done() else "the stream has ended"


def memory_port(url: str, _options: PortOptions) -> EmbeddedPort:
    """The port for ``memory:``. Each has a store of its own."""
    if url.partition(":")[2]:
        raise InvalidArgument(f"{url!r}: nothing follows 'memory:'")
    return EmbeddedPort("memory:", lambda: MemoryReplica(_config("memory")))


def file_port(url: str, _options: PortOptions) -> EmbeddedPort:
    """The port for ``file:PATH`` and ``file:PATH?durability=none``."""
    path, _, query = url.partition(":")[2].removeprefix("//").partition("?")
    given = parse_qs(query, keep_blank_values=True)
    durability = given.pop("durability", ["sync"])[-1]
    if not path or given or durability not in {"sync", "none"}:
        raise InvalidArgument(f"{url!r}: expected file:PATH or file:PATH?durability=none")
    path = os.path.abspath(os.path.expanduser(path))
    return EmbeddedPort(f"file:{path}", lambda: FileReplica(_config(path, durability)))


def _config(data: str, durability: str = "sync") -> NodeConfig:
    return NodeConfig(
        cluster=CLUSTER,
        replica=1,
        data=data,
        members=(MemberConfig(replica=1, peer="embedded:1"),),
        protocol=ProtocolConfig(name="null"),
        durability="none" if durability == "none" else "sync",
        sync_mode="inline",
        bootstrap=True,
    )
