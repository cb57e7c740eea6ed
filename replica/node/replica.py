"""One replica: everything put together, started, and stopped again.

`Replica` opens the data folder, builds protocol, state machine, transport and services around one `Loop`,
and is the host that the transport talks to and the engine that the sessions talk to. What it decides
itself:

- **Greetings.** A peer is let in when it is a member of the present configuration and shows the disk that
  is on record here under its id. A disk seen first is put on record, durably, before the peer is answered.
- **Admission.** A freshly formatted replica does not vote before so many of the others have its disk on
  record that any two such sets meet: a wiped disk that came back under the old id is then refused by one of
  those that it needs.
- **Fatal errors.** Whatever goes wrong in the loop or on the disk ends the replica: `failed` is set,
  nothing is retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import grpc

from replica.consensus.codec import Codec
from replica.consensus.interface import (
    Command,
    Configuration,
    ConfigurationError,
    CorruptRecord,
    Member,
    PeerReset,
    Reject,
    ReplicaId,
    Send,
    Status,
    Yield,
)
from replica.consensus.registry import find_protocol
from replica.kv.layout import CorruptState
from replica.kv.machine import StateMachine
from replica.kv.operations import (
    KEY_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
)
from replica.kv.runs import encode_results, validate_reads
from replica.storage.coordinator import Anchor, Coordinator
from replica.storage.errors import StorageError
from replica.storage.recovery import Storage
from replica.storage.writer import GroupWriter
from replica.transport import (
    Accept,
    AddressUnavailable,
    EpochSeen,
    Identity,
    LinkEvent,
    LinkRefused,
    LinkUp,
    PeerArrived,
    PeerGreeting,
    RefusalCode,
    Refuse,
    SnapshotQuery,
    SnapshotSource,
    Transport,
    Verdict,
    bind,
    create_server,
)
from replica.wire import typed as wire

from .admin import AdminService
from .clock import monotonic_clock
from .config import NodeConfig
from .errors import BadFolder, CannotListen, Damaged, NodeFailure, NotAMember, WrongIdentity
from .folder import describe, open_data
from .health import Exposition, Health
from .logs import Logger
from .loop import Loop
from .metrics import NodeMetrics
from .sessions import PendingRead, Sessions, SessionService
from .transitions import Transitions

__all__ = ["Replica", "admissions_needed"]

RECEIVED_MAX: Final = 100_000
"""Messages of peers that may wait for a turn; beyond it the transport stops reading."""

HOUSEKEEPING_S: Final = 0.1
"""How often a replica looks at what nobody tells it: readiness, the leader, the gauges."""

HAND_OVER_S: Final = 1.0
"""How long a leader that stops waits to be relieved."""

STOP_GRACE_S: Final = 0.5
"""How long clients have to take their last frames."""

FLUSH_TIMEOUT_S: Final = 10.0
"""How long a replica that stops waits for its disk."""

READ_PREFERENCE: Final = ("read-index", "lease", "quorum", "log")
"""Ways to a linearizable read, the first that a protocol offers is taken."""


def _nothing_yet(_data: bytes) -> Any:
    raise ValueError("this replica is not a member of the cluster yet")


def admissions_needed(members: int) -> int:
    """How many of the *other* members must have a disk on record before its replica votes.

    Any two sets of that many of the ``members - 1`` others meet, so that a second disk under the same id is
    refused by somebody whom it needs. For a majority system of n = 2f + 1 it is n - q + 1 = f + 1.
    """
    others = members - 1
    return 0 if others == 0 else others // 2 + 1


class Replica:
    """One replica of one cluster, in this process. Made, started and stopped on one event loop."""

    def __init__(self, config: NodeConfig, logger: Logger) -> None:
        self.config = config
        self.log = logger
        self.failed: asyncio.Future[NodeFailure] = asyncio.get_running_loop().create_future()
        """Set when the replica cannot go on; it has stopped taking part by then."""
        self.metrics = NodeMetrics(self._gauges)
        self._started_at = time.monotonic()
        self._clock = monotonic_clock()
        self._stopping = False
        self._leader: ReplicaId | None = None
        self._admitted_by: set[ReplicaId] = set()
        self._admitting = False
        self._recording: dict[ReplicaId, tuple[str, asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._addresses: dict[ReplicaId, str] = {}
        self._gauge_values: Mapping[str, tuple[str, float]] = {}
        self._opened = False
        self._closed = False
        self._server: grpc.aio.Server | None = None
        self.exposition: Exposition | None = None
        self.ready = False
        self.was_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the replica could serve for the first time."""
        self.begun = False
        """The replica has a place in an epoch; before, it waits to join, and has neither coordinator nor
        loop.
        """
        self.client_port = 0
        self.storage: Storage
        self.machine: StateMachine
        self.coordinator: Coordinator
        self.loop: Loop
        self.writer: GroupWriter
        self.transport: Transport
        self.sessions: Sessions
        self.transitions: Transitions
        self.health: Health
        self.decode: Callable[[bytes], Any] = _nothing_yet
        """Decodes a message of the present epoch."""
        self._encode: Callable[[Any], bytes]

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open the data, listen, and take part. Raises `NodeFailure`; nothing is left running then."""
        self.storage = await asyncio.to_thread(open_data, self.config)
        self._opened = True
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, identity = self.config, self.storage.identity
        self.sessions = Sessions(
            self, cluster=identity.cluster, limits=config.limits, batch_max=config.batch_max, metrics=self.metrics
        )
        self.transport = Transport(
            Identity(
                cluster=identity.cluster,
                replica=identity.replica,
                disk=identity.disk,
                incarnation=self.storage.incarnation,
            ),
            self,
            listen=config.listen.peer,
        )
        self.transitions = Transitions(self)
        try:
            self.machine = StateMachine(self.storage.state)
            self.writer = GroupWriter(
                self.storage.log,
                mode=config.sync_mode,
                deliver=asyncio.get_running_loop().call_soon_threadsafe,
                on_durable=self._durable,
                on_failure=self.fail,
                observe=self._synced,
            )
        except CorruptState as error:
            raise Damaged(f"{config.data}: {error}") from error
        except StorageError as error:
            raise describe(error) from error
        try:
            await self.transport.start()
        except AddressUnavailable as error:
            raise CannotListen(f"listen.peer: {error}") from error
        await self._listen()
        if self.storage.anchor is None:
            self.transitions.join()
        else:
            self.begin(self.storage.anchor)
        self.spawn(self._keep_house())

    async def _listen(self) -> None:
        config = self.config
        server = create_server(config.limits.frame_bytes_max + (1 << 20))
        try:
            self.client_port = bind(server, config.listen.client)
        except AddressUnavailable as error:
            raise CannotListen(f"listen.client: {error}") from error
        server.add_generic_rpc_handlers((SessionService(self.sessions).handler(),))
        wire.add_admin_servicer(AdminService(self), server)
        self.health = Health(server)
        await server.start()
        self._server = server
        if config.listen.metrics:
            self.exposition = Exposition(config.listen.metrics, self.metrics)

    def begin(self, anchor: Anchor) -> None:
        """Take part in the epoch of ``anchor``, which is durable, with the state as it stands."""
        log = self.storage.log
        if not log.admitted and admissions_needed(len(anchor.configuration.members)) == 0:
            log.commit([log.admission_writes()])
        self.transitions.align(anchor)
        try:
            self.coordinator = Coordinator(
                find_protocol,
                replica=self.config.replica,
                anchor=anchor,
                stable=log.reader,
                randomness=random.Random(),
                incarnation=self.storage.incarnation,
                applied=self.machine.applied,
                voting=log.admitted,
            )
        except ConfigurationError as error:
            raise BadFolder(f"{self.config.data}: {error}") from error
        loop = Loop(
            coordinator=self.coordinator,
            writer=self.writer,
            network=self,
            machine=self.machine,
            clock=self._clock,
            limits=self.config.limits,
            metrics=self.metrics,
            fail=self.fail,
            # 16 bits of the replica, 15 of the incarnation, 32 to count with.
            detached_base=(self.config.replica & 0xFFFF) << 47 | (self.storage.incarnation & 0x7FFF) << 32,
        )
        loop.sessions = self.sessions
        loop.on_sealed = self.transitions.sealed
        loop.on_snapshot_wish = self.transitions.wished
        loop.on_applied = self.transitions.applied
        self.loop = loop
        self.prepare_epoch(anchor.configuration)
        self.enter_epoch()
        self.begun = True
        loop.start()
        self._consider_admission()

    def prepare_epoch(self, configuration: Configuration) -> None:
        """Speak the protocol of ``configuration`` from here on."""
        codec = Codec(find_protocol(configuration.protocol))
        self._encode = codec.encode
        self.decode = codec.decode_message

    def enter_epoch(self) -> None:
        """The coordinator is in a new epoch: connect to its members; stop when this replica is none of
        them.
        """
        configuration = self.coordinator.configuration
        if configuration.member(self.config.replica) is None:
            self.fail(
                NotAMember(
                    f"replica {self.config.replica} is not a member of epoch {configuration.epoch}: the cluster has "
                    "gone on without it, and starting it again is in vain; its data folder may be removed"
                )
            )
            return
        self.transport.set_peers({member.replica: self.address_of(member)[0] for member in configuration.members})
        self.log.info(
            "epoch entered",
            epoch=configuration.epoch,
            protocol=configuration.protocol,
            members=list(configuration.replicas),
            applied=self.machine.applied,
        )

    def address_of(self, member: Member) -> tuple[str, str]:
        """Peer and client address of a member; those in the configuration file stand before those pinned."""
        named = self.config.member(member.replica)
        peer, client = member.peer_address, member.client_address
        if named is not None:
            peer, client = named.peer or peer, named.client or client
        if member.replica == self.config.replica:
            client = self.config.advertise.client or client
        return peer, client

    async def stop(self) -> None:
        """Stop taking part and close the data cleanly. May be called in any state, and again."""
        self._stopping = True
        if self._closed:
            return
        self._closed = True
        if self.begun and not self.loop.halted:
            await self._hand_over()
        self.sessions.close_all(wire.Code.UNAVAILABLE, "the replica is shutting down")
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.begun and not self.loop.halted:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self.loop.quiesce()
            except TimeoutError:
                self.log.warning("the disk did not come to rest", waited_s=FLUSH_TIMEOUT_S)
            self.loop.halt()
        await self.transport.stop()
        if self.exposition is not None:
            self.exposition.close()
        self._close_data()

    def _close_data(self) -> None:
        if self._opened:
            self._opened = False
            self.writer.close()
            if self.begun and self.writer.failure is None and not self.failed.done():
                self.machine.commit()
            self.storage.close()

    async def _hand_over(self) -> None:
        """Give up leadership, so that the others need not wait for a timeout; briefly."""
        if self.coordinator.status().leader != self.config.replica or len(self.coordinator.configuration.members) == 1:
            return
        self.loop.post(Yield())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                await self.loop.until(lambda: self.coordinator.status().leader != self.config.replica)

    def fail(self, error: BaseException) -> None:
        """The replica cannot go on: it takes part in nothing more, and `failed` says why."""
        if self.begun:
            self.loop.halt()
        if self.failed.done():
            return
        if isinstance(error, NodeFailure):
            failure = error
        elif isinstance(error, StorageError):
            failure = describe(error)
        elif isinstance(error, CorruptRecord):
            failure = Damaged(str(error))
        else:
            failure = NodeFailure(f"{type(error).__name__}: {error}")
            self.log.error("unexpected failure", exc_info=error)
        failure.__cause__ = error if failure is not error else error.__cause__
        self.failed.set_result(failure)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the loop; if it fails, the replica fails."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def take_over(self, machine: StateMachine) -> None:
        """An installed snapshot has replaced the state."""
        self.machine = machine
        if self.begun:
            self.loop.machine = machine

    # ------------------------------------------------------------------------------- the loop's network, disk

    def send(self, send: Send) -> None:
        """Encode a message, once, and queue it for its recipients."""
        self.transport.send(send.to, self._encode(send.message))

    @property
    def unsent(self) -> bool:
        """Do frames wait that no socket has got yet?"""
        return self.transport.unsent

    def _durable(self, group: int) -> None:
        self.loop.durable(group)

    def _synced(self, seconds: float) -> None:
        self.metrics.commits += 1
        self.metrics.sync_seconds.observe(seconds)

    # ----------------------------------------------------------------------------------- the transport's host

    def epoch(self) -> int:
        """The present epoch; 0 while this replica waits to join."""
        return self.coordinator.epoch if self.begun else 0

    def protocol(self) -> str:
        """The protocol of the present epoch."""
        return self.coordinator.configuration.protocol if self.begun else self.config.protocol.name

    def admitted(self) -> bool:
        """Has this replica been admitted, durably?"""
        return self.storage.log.admitted

    def received(self, sender: ReplicaId, messages: list[Any], /) -> Awaitable[None] | None:
        """Messages of the present epoch; the stream is held back while too many wait."""
        self.loop.received(sender, messages)
        return self.loop.room() if self.loop.received_waiting > RECEIVED_MAX else None

    def notified(self, event: LinkEvent, /) -> None:
        """Something happened to a link."""
        match event:
            case LinkUp(peer=peer, admitted=admitted):
                if admitted:
                    self._admitted_by.add(peer)
                if self.begun:
                    self.loop.post(PeerReset(peer))
                    self._consider_admission()
            case PeerArrived(peer=peer):
                if self.begun:
                    self.loop.post(PeerReset(peer))
            case EpochSeen(peer=peer, epoch=epoch):
                if self.begun:
                    self.transitions.later_epoch(peer, epoch)
            case LinkRefused(peer=peer, code=code, message=message):
                self._refused(peer, code, message)
            case _:
                pass

    def _refused(self, peer: ReplicaId, code: RefusalCode, message: str) -> None:
        """A peer does not let this replica in. What cannot get better by itself ends the replica."""
        if code is RefusalCode.NOT_A_MEMBER and self.begun:
            self.fail(NotAMember(f"replica {peer} says: {message}"))
        elif code in {RefusalCode.DIFFERENT_DISK, RefusalCode.WRONG_CLUSTER}:
            self.fail(WrongIdentity(f"replica {peer} says: {message}"))
        else:
            self.log.debug("refused by peer", peer=peer, code=code.name, problem=message)

    async def greeted(self, greeting: PeerGreeting, /) -> Verdict:
        """Judge a peer that opens a stream."""
        if not self.begun:
            return Refuse(RefusalCode.UNSPECIFIED, "this replica is not a member itself yet")
        configuration = self.coordinator.configuration
        if configuration.member(greeting.replica) is None:
            if greeting.epoch > configuration.epoch:
                self.transitions.later_epoch(greeting.replica, greeting.epoch)
                return Refuse(RefusalCode.UNSPECIFIED, f"this replica is in epoch {configuration.epoch} still")
            return Refuse(
                RefusalCode.NOT_A_MEMBER,
                f"replica {greeting.replica} is not a member of epoch {configuration.epoch} of cluster "
                f"{self.storage.identity.cluster!r} (members: {', '.join(map(str, configuration.replicas))})",
            )
        if greeting.epoch == configuration.epoch and greeting.protocol != configuration.protocol:
            return Refuse(
                RefusalCode.PROTOCOL,
                f"epoch {configuration.epoch} runs {configuration.protocol!r}, not {greeting.protocol!r}",
            )
        return await self._recognise(greeting.replica, greeting.disk)

    async def _recognise(self, peer: ReplicaId, disk: str) -> Verdict:
        """Is the disk the one on record? One that is seen first is recorded before this returns."""
        known = self.storage.log.peer_disks.get(peer)
        if known is None and peer in self._recording:
            known = self._recording[peer][0]
        if known is not None and known != disk:
            return Refuse(
                RefusalCode.DIFFERENT_DISK,
                f"replica {peer} is on record here with disk {known}, and this is disk {disk}: a replica whose disk "
                "was lost or wiped does not come back under its id; add one with a new id in its place",
            )
        if peer not in self.storage.log.peer_disks:
            if peer not in self._recording:
                self._recording[peer] = disk, self.loop.commit(self.storage.log.peer_disk_writes(peer, disk))
            future = self._recording[peer][1]
            try:
                await asyncio.shield(future)
            finally:
                self._recording.pop(peer, None)
        return Accept(admitted=True)

    def _consider_admission(self) -> None:
        members = self.coordinator.configuration.replicas
        needed = admissions_needed(len(members))
        if self.storage.log.admitted or self._admitting or len(self._admitted_by & set(members)) < needed:
            return
        self._admitting = True
        self.spawn(self._admit())

    async def _admit(self) -> None:
        await self.loop.commit(self.storage.log.admission_writes())
        self.log.info("admitted", by=sorted(self._admitted_by))
        self.loop.admit()

    async def open_snapshot(self, query: SnapshotQuery, /) -> SnapshotSource:
        """Serve a snapshot to a peer."""
        return await self.transitions.serve(query)

    # ----------------------------------------------------------------------------------- the sessions' engine

    def propose(self, command: Command) -> None:
        """Queue a command for the next turn."""
        self.loop.propose(command)

    def propose_detached(
        self, operations: bytes, count: int, done: Callable[[bytes | Reject], None], *, system: bool = False
    ) -> None:
        """Queue operations outside any session."""
        self.loop.propose_detached(operations, count, done, system=system)

    def request_read(self, read: PendingRead) -> None:
        """Queue a linearizable read."""
        self.loop.request_read(read)

    def read_now(self, operations: bytes, count: int) -> bytes:
        """Answer reads from what has been applied."""
        return encode_results(self.machine.query(validate_reads(operations, count)))

    def leader(self, hint: int | None = None) -> tuple[int, str]:
        """The leader, or the replica hinted at, and where clients reach it."""
        leader = hint or (self.coordinator.status().leader if self.begun else None)
        member = self.coordinator.configuration.member(leader) if leader else None
        return (0, "") if member is None else (member.replica, self.address_of(member)[1])

    def describe(self) -> wire.ServerFrame.Welcome:
        """The welcome, but for the session."""
        configuration = self.coordinator.configuration
        limits = self.config.limits
        leader, leader_address = self.leader()
        return wire.ServerFrame.Welcome(
            wire_version=wire.WIRE_VERSION,
            cluster=self.storage.identity.cluster,
            replica=self.config.replica,
            epoch=configuration.epoch,
            protocol=configuration.protocol,
            limits=wire.Limits(
                key_bytes_max=KEY_BYTES_MAX,
                value_bytes_max=VALUE_BYTES_MAX,
                run_operations_max=limits.run_operations_max,
                frame_bytes_max=limits.frame_bytes_max,
                session_window=limits.session_operations_max,
                transaction_operations_max=TRANSACTION_OPERATIONS_MAX,
            ),
            exactly_once=self.coordinator.spec.capabilities.exactly_once,
            leader=leader,
            leader_address=leader_address,
            endpoints=[
                wire.Endpoint(
                    replica=member.replica, address=self.address_of(member)[1], region=member.region, zone=member.zone
                )
                for member in configuration.members
            ],
        )

    def unavailable(self) -> str:
        """Why this replica serves nobody at present; empty when it does."""
        if self._stopping:
            return "the replica is shutting down"
        if self.failed.done():
            return "the replica has failed"
        return "" if self.begun else "the replica waits to be made a member of the cluster"

    def refusal(self) -> tuple[wire.Code, str] | None:
        """Why nothing may be proposed at present."""
        problem = self.unavailable()
        if problem:
            return wire.Code.UNAVAILABLE, problem
        full = self.storage.space.nearly_full()
        return None if full is None else (wire.Code.STORAGE_FULL, full)

    def offers(self, read: str) -> bool:
        """Does the protocol offer that way to read?"""
        return read in self.coordinator.spec.capabilities.reads

    @property
    def default_read(self) -> str:
        """How a read that only asks to be linearizable is served."""
        if self.config.reads != "auto":
            return self.config.reads
        offered = self.coordinator.spec.capabilities.reads
        return next((way for way in READ_PREFERENCE if way in offered), "log")

    # ------------------------------------------------------------------------------------------- housekeeping

    def problem(self) -> str:
        """Why linearizable commands would not be served, here or through the leader; empty when they would."""
        unavailable = self.unavailable()
        if unavailable:
            return unavailable
        if not self.storage.log.admitted:
            needed = admissions_needed(len(self.coordinator.configuration.members))
            return f"waiting to be admitted by {needed} of the other members ({len(self._admitted_by)} so far)"
        status = self.coordinator.status()
        if status.accepting:
            return ""
        if status.leader is None:
            return "no leader is known"
        if status.leader == self.config.replica:
            return "this replica is about to lead"
        peer = self.transport.peers().get(status.leader)
        if peer is None or not peer.connected:
            return f"the leader, replica {status.leader}, cannot be reached"
        return ""

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            await self._look_around()

    async def _look_around(self) -> None:
        ready = not self.problem()
        if ready != self.ready:
            self.ready = ready
            self.log.info("ready" if ready else "not ready", problem=self.problem() or None)
            await self.health.set(ready)
            if ready and not self.was_ready.done():
                self.was_ready.set_result(None)
        if not self.begun:
            return
        status = self.coordinator.status()
        if status.leader != self._leader:
            self._leader = status.leader
            self.metrics.leader_changes += 1
            self.log.info("leader", leader=status.leader, ballot=status.ballot, role=status.role)
        self._gauge_values = self._measure(status)

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        return self._gauge_values  # made on the loop's thread; a scrape comes from another

    def _measure(self, status: Status) -> Mapping[str, tuple[str, float]]:
        loop, sessions = self.loop, self.sessions
        return {
            "ready": ("1 when linearizable commands would be served, here or through the leader.", float(self.ready)),
            "leading": ("1 when this replica leads.", float(status.leader == self.config.replica)),
            "epoch": ("The configuration epoch.", float(self.coordinator.epoch)),
            "applied": ("The last position applied.", float(self.machine.applied)),
            "revision": ("The revision of the store.", float(self.machine.revision)),
            "sessions": ("Sessions in the replicated state.", float(len(self.machine.sessions))),
            "sessions_attached": ("Streams of clients.", float(sessions.attached)),
            "operations_in_flight": ("Operations of clients attached here.", float(sessions.in_flight_operations)),
            "bytes_in_flight": ("Their payloads.", float(sessions.in_flight_bytes)),
            "reads_waiting": ("Reads that wait for their frontier.", float(sessions.reads_waiting)),
            "received_waiting": ("Messages of peers that wait for a turn.", float(loop.received_waiting)),
            "protocol_queued": ("Commands that the protocol holds back.", float(status.queued)),
            "protocol_in_flight": ("Positions proposed and not decided.", float(status.in_flight)),
            "groups_in_flight": ("Groups of writes on their way to the disk.", float(self.writer.in_flight)),
            "sync_inline": ("1 when syncs run inline.", float(self.writer.mode == "inline")),
        }

    @property
    def uptime_s(self) -> float:
        """Since the replica was made, in seconds."""
        return time.monotonic() - self._started_at
