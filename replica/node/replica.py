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
import time
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, Final

import grpc

from replica.consensus.codec import Codec
from replica.consensus.frontiers import reach
from replica.consensus.interface import (
    Configuration,
    Frontier,
    PeerReset,
    ReplicaId,
    Send,
    Status,
    Yield,
)
from replica.consensus.registry import find_protocol
from replica.storage.coordinator import Anchor
from replica.transport import (
    PLAIN,
    Accept,
    AddressUnavailable,
    EpochSeen,
    Identity,
    Learning,
    LessonSource,
    LinkEvent,
    LinkRefused,
    LinkUp,
    PeerArrived,
    PeerGreeting,
    RefusalCode,
    Refuse,
    Security,
    SnapshotQuery,
    SnapshotSink,
    SnapshotSource,
    Transport,
    Verdict,
    bind,
    create_server,
)
from replica.transport.security import Credentials, TlsFiles
from replica.wire import typed as wire

from .access import AdminGuard, TokenFileError, Tokens
from .admin import AdminService
from .callers import Callers
from .config import NodeConfig, TlsConfig
from .errors import BadSecurity, CannotListen, NotAMember, WrongIdentity
from .health import Exposition, Health
from .logs import Logger
from .metrics import NodeMetrics
from .resources import resident_bytes
from .session_service import SessionService
from .shapes import progress_of
from .stored import Stored, admissions_needed

__all__ = ["Replica"]

RECEIVED_MAX: Final = 100_000
"""Messages of peers that may wait for a turn; beyond it the transport stops reading."""

HOUSEKEEPING_S: Final = 0.1
"""How often a replica looks at what nobody tells it: readiness, the leader."""

GAUGES_S: Final = 1.0
"""How old gauges may be when they are scraped, if readiness and leader are what they were. Taking them costs as much as
hundreds of puts, for what the environments hold is counted.
"""

ISOLATED_S: Final = 5.0
"""A replica that could serve nobody for so long sends those who watch here to others, who may know more."""

HAND_OVER_S: Final = 1.0
"""How long a leader that stops waits to be relieved."""

STOP_GRACE_S: Final = 0.5
"""How long clients have to take their last frames."""

FLUSH_TIMEOUT_S: Final = 10.0
"""How long a replica that stops waits for its disk."""


def _security(name: str, tls: TlsConfig) -> Security:
    """What a listener and its like use. Raises `BadSecurity`."""
    if not tls.certificate:
        return PLAIN
    try:
        return Security(
            credentials=Credentials(TlsFiles(certificate=tls.certificate, key=tls.key, authority=tls.authority))
        )
    except (OSError, ValueError) as error:
        raise BadSecurity(f"security.{name}: {error}") from error


def _nothing_yet(_data: bytes) -> Any:
    raise ValueError("this replica is not a member of the cluster yet")


class Replica(Stored):
    """One replica of one cluster, in this process. Made, started and stopped on one event loop."""

    def __init__(self, config: NodeConfig, logger: Logger) -> None:
        super().__init__(config, logger, NodeMetrics(self._gauges))
        self._started_at = time.monotonic()
        self._leader: ReplicaId | None = None
        self._metrics_logged_at = self._started_at
        self._admitted_by: set[ReplicaId] = set()
        self._admitting = False
        self._recording: dict[ReplicaId, tuple[str, asyncio.Future[None]]] = {}
        self._gauge_values: Mapping[str, tuple[str, float]] = {}
        self._gauges_taken_at = -inf
        self._closed = False
        self._server: grpc.aio.Server | None = None
        self.exposition: Exposition | None = None
        self.ready = False
        self._unready_since = self._started_at
        self.was_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the replica could serve for the first time."""
        self.client_port = 0
        self.transport: Transport
        self.health: Health
        self.decode: Callable[[bytes], Any] = _nothing_yet
        """Decodes a message of the present epoch."""
        self._encode: Callable[[Any], bytes]

    # ------------------------------------------------------------------------------------------------ life

    async def start(self) -> None:
        """Open the data, listen, and take part. Raises `NodeFailure`; nothing is left running then."""
        security = self.config.security
        peers, clients = _security("peer", security.peer), _security("client", security.client)
        try:
            tokens = Tokens(security.tokens) if security.tokens else None
        except TokenFileError as error:
            raise BadSecurity(f"security.tokens: {error}") from error
        self.sessions.callers = Callers(tokens, operations_per_s_max=self.config.limits.client_operations_per_s_max)
        await self.open()
        try:
            await self._start(peers, clients, tokens)
        except BaseException:
            await self.stop()
            raise

    async def _start(self, peers: Security, clients: Security, tokens: Tokens | None) -> None:
        config, identity = self.config, self.storage.identity
        self.transport = Transport(
            Identity(
                cluster=identity.cluster,
                replica=identity.replica,
                disk=identity.disk,
                incarnation=self.storage.incarnation,
            ),
            self,
            listen=config.listen.peer,
            security=peers,
        )
        try:
            await self.transport.start()
        except AddressUnavailable as error:
            raise CannotListen(f"listen.peer: {error}") from error
        await self._listen(clients, tokens)
        if self.storage.anchor is None:
            self.transitions.join()
        else:
            self.begin(self.storage.anchor)
        self.spawn(self._keep_house())

    async def _listen(self, security: Security, tokens: Tokens | None) -> None:
        config = self.config
        guards = () if tokens is None else (AdminGuard(tokens),)
        server = create_server(config.limits.frame_bytes_max + (1 << 20), guards)
        try:
            self.client_port = bind(server, config.listen.client, security)
        except AddressUnavailable as error:
            raise CannotListen(f"listen.client: {error}") from error
        server.add_generic_rpc_handlers((SessionService(self.sessions, self._frame_failed).handler(),))
        wire.add_admin_servicer(AdminService(self), server)
        self.health = Health(server)
        await server.start()
        self._server = server
        if config.listen.metrics:
            self.exposition = Exposition(config.listen.metrics, self.metrics)

    def _frame_failed(self, error: Exception) -> None:
        self.log.error("failed on a frame of a client", exc_info=error)

    def begin(self, anchor: Anchor) -> None:
        """Take part in the epoch of ``anchor``, which is durable, with the state as it stands."""
        super().begin(anchor)
        if self.begun:
            self._consider_admission()

    def prepare_epoch(self, configuration: Configuration) -> None:
        """Speak the protocol of ``configuration`` from here on."""
        codec = Codec(find_protocol(configuration.protocol))
        self._encode = codec.encode
        self.decode = codec.decode_message

    def enter_epoch(self) -> None:
        """The coordinator is in a new epoch: connect to its members."""
        configuration = self.coordinator.configuration
        self.transport.set_peers({member.replica: self.address_of(member)[0] for member in configuration.members})
        self.log.info(
            "epoch entered",
            epoch=configuration.epoch,
            protocol=configuration.protocol,
            members=list(configuration.replicas),
            applied=progress_of(self.machine),
        )

    async def stop(self) -> None:
        """Stop taking part and close the data cleanly. May be called in any state, and again."""
        self.stopping = True
        if self._closed:
            return
        self._closed = True
        if self.begun and not self.loop.halted:
            await self._hand_over()
        self.sessions.close_all(wire.Code.UNAVAILABLE, "the replica is shutting down")
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        await self.cancel_tasks()
        await self.transitions.end_reading()
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
        self.close_data()

    async def _hand_over(self) -> None:
        """Give up leadership, so that the others need not wait for a timeout; briefly."""
        if self.coordinator.status().leader != self.config.replica or len(self.coordinator.configuration.members) == 1:
            return
        self.loop.post(Yield())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                await self.loop.until(lambda: self.coordinator.status().leader != self.config.replica)

    # ------------------------------------------------------------------------------- the loop's network, disk

    def send(self, send: Send) -> None:
        """Encode a message, once, and queue it for its recipients."""
        self.transport.send(send.to, self._encode(send.message))

    @property
    def unsent(self) -> bool:
        """Do frames wait that no socket has got yet?"""
        return self.transport.unsent

    def ask(self, addresses: Mapping[ReplicaId, str]) -> None:
        """Connect to those who may know whether this replica is a member."""
        self.transport.set_peers(addresses)

    async def fetch_snapshot(self, peer: ReplicaId, *, frontier: Frontier, epoch: int, sink: SnapshotSink) -> int:
        """Fetch a snapshot from a peer. Raises `SnapshotError`."""
        return await self.transport.fetch_snapshot(peer, frontier=frontier, epoch=epoch, sink=sink)

    async def learn(self, peer: ReplicaId, *, sink: SnapshotSink, learning: Learning) -> None:
        """Have a peer teach this replica. Raises `SnapshotError`, and what ``learning`` raises."""
        await self.transport.learn(peer, sink=sink, learning=learning)

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
            case LinkRefused(peer=peer, code=code, message=message, epoch=epoch):
                self._refused(peer, code, message, epoch)
            case _:
                pass

    def _refused(self, peer: ReplicaId, code: RefusalCode, message: str, epoch: int) -> None:
        """A peer does not let this replica in. What cannot get better by itself ends the replica."""
        if code is RefusalCode.NOT_A_MEMBER and self.begun:
            # Who asked as a learner, and has become a member since, is told of what it was.
            if self.coordinator.sealed is None and epoch == self.coordinator.epoch:
                self.fail(NotAMember(f"replica {peer} says: {message}"))
            # Else it is about to go by itself, once it is durable here who comes after it: somebody may wait for that.
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
                future = self.loop.commit(self.storage.log.peer_disk_writes(peer, disk))
                self._recording[peer] = disk, future
                # Not when this greeting ends: it may be given up, and another disk must not come in between.
                future.add_done_callback(lambda _: self._recording.pop(peer, None))
            await asyncio.shield(self._recording[peer][1])
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

    async def open_lesson(self, query: SnapshotQuery, /) -> LessonSource:
        """Teach a replica that is to become a member."""
        return await self.transitions.teach(query)

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
        if self.coordinator.capabilities.routing != "leader":
            return (
                "it takes no commands: it is in touch with too few of the other members, or too many are waiting here"
            )
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

    def _look_for_room(self) -> None:
        """Rest without room, before a commit fails for want of it; go on when there is some again."""
        problem = self.storage.space.exhausted() or ""
        if bool(problem) != bool(self.resting):
            if problem:
                self.log.error("no room: resting", problem=problem)
                self.loop.rest()
                self.sessions.close_all(wire.Code.UNAVAILABLE, problem)
            else:
                self.log.info("room again: going on", rested_for=self.resting)
                for peer in self.coordinator.configuration.replicas:
                    if peer != self.config.replica:
                        self.loop.post(PeerReset(peer))
                self.loop.rouse()
        self.resting = problem

    async def _look_around(self) -> None:
        self.sessions.review()
        if self.begun and not self.loop.halted:
            self._look_for_room()
        ready = not self.problem()
        if ready != self.ready:
            self.ready = ready
            self._gauges_taken_at = -inf
            self.log.info("ready" if ready else "not ready", problem=self.problem() or None)
            await self.health.set(ready)
            if ready and not self.was_ready.done():
                self.was_ready.set_result(None)
        if ready:
            self._unready_since = time.monotonic()
            self.isolated = ""
        elif time.monotonic() - self._unready_since > ISOLATED_S:
            self.isolated = self.problem()
            self.watches.end_all(wire.Code.UNAVAILABLE, self.isolated)
        if not self.begun:
            return
        status = self.coordinator.status()
        if status.leader != self._leader:
            self._leader = status.leader
            self._gauges_taken_at = -inf
            self.metrics.leader_changes += 1
            self.log.info("leader", leader=status.leader, ballot=status.ballot, role=status.role)
        now = time.monotonic()
        every = self.config.log.metrics_every_s
        logs = every > 0 and now - self._metrics_logged_at >= every
        if logs or now - self._gauges_taken_at >= GAUGES_S:
            self._gauges_taken_at = now
            self._gauge_values = self._measure(status)
        if logs:
            self._metrics_logged_at = now
            self.log.info("metrics", **self.metrics.values())

    def refresh_gauges(self) -> None:
        """Let the gauges say what is now; on the loop's thread."""
        if self.begun:
            self._gauge_values = self._measure(self.coordinator.status())

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        return self._gauge_values  # made on the loop's thread; a scrape comes from another

    def _measure(self, status: Status) -> Mapping[str, tuple[str, float]]:
        loop, sessions = self.loop, self.sessions
        links = [peer.counters for peer in self.transport.peers().values()]
        inbound = self.transport.inbound
        written = self.writer.statistics
        self.metrics.round_trips = {
            peer: state.round_trip_s for peer, state in self.transport.peers().items() if state.round_trip_s is not None
        }
        anchor = self.coordinator.anchor
        return {
            "ready": ("1 when linearizable commands would be served, here or through the leader.", float(self.ready)),
            "leading": ("1 when this replica leads.", float(status.leader == self.config.replica)),
            "resting": ("1 while this replica takes part in nothing for want of room.", float(bool(self.resting))),
            "epoch": ("The configuration epoch.", float(self.coordinator.epoch)),
            "applied": ("The last position applied.", float(progress_of(self.machine))),
            "revision": ("The revision of the store.", float(self.machine.revision)),
            "compacted": ("The oldest revision that can be read.", float(self.machine.compacted)),
            "decided": ("The last position known to be decided.", float(reach(status.decided))),
            "log_first": ("The first position that the log still holds.", float(status.log_first)),
            "snapshot_frontier": ("What the snapshot covers.", float(reach(anchor.frontier) if anchor.snapshot else 0)),
            "log_bytes": ("In use in the log environment.", float(self.storage.log.usage().used_bytes)),
            "state_bytes": ("In use in the state environment.", float(self.storage.state.usage().used_bytes)),
            "peers_connected": (
                "Peers that this replica can send to.",
                float(sum(peer.connected for peer in self.transport.peers().values())),
            ),
            "peer_messages_dropped": (
                "Messages to peers that were not sent: link down or full.",
                float(sum(link.dropped_down + link.dropped_full for link in links)),
            ),
            "sessions": ("Sessions in the replicated state.", float(len(self.machine.sessions))),
            "sessions_attached": ("Streams of clients.", float(sessions.attached)),
            "operations_in_flight": ("Operations of clients attached here.", float(sessions.in_flight_operations)),
            "bytes_in_flight": ("Their payloads.", float(sessions.in_flight_bytes)),
            "reads_waiting": ("Reads that wait for their frontier.", float(sessions.reads_waiting)),
            "received_waiting": ("Messages of peers that wait for a turn.", float(loop.received_waiting)),
            "protocol_queued": ("Commands that the protocol holds back.", float(status.queued)),
            "protocol_in_flight": ("Positions proposed and not decided.", float(status.in_flight)),
            "groups_in_flight": ("Groups of writes on their way to the disk.", float(self.writer.in_flight)),
            "cpu_seconds": ("Processor time of this process so far.", time.process_time()),
            "resident_bytes": ("Memory of this process.", float(resident_bytes())),
            "log_bytes_written": ("Records committed to the log so far.", float(written.bytes)),
            "log_syncs": ("Commits of the log so far.", float(written.commits)),
            "peer_bytes_sent": ("Sent to peers so far.", float(sum(link.bytes for link in links))),
            "peer_frames_sent": ("Frames sent to peers so far.", float(sum(link.frames for link in links))),
            "peer_messages_sent": ("Messages sent to peers so far.", float(sum(link.messages for link in links))),
            "peer_bytes_received": ("Received from peers so far.", float(inbound.bytes)),
            "peer_frames_received": ("Frames received from peers so far.", float(inbound.frames)),
            "peer_messages_received": ("Messages received from peers so far.", float(inbound.messages)),
            "leases": ("Leases in the replicated state.", float(len(self.machine.leases))),
            "watches": ("Watches of clients attached here.", float(len(self.watches))),
            "watches_behind": ("Watches that are still read to.", float(self.watches.behind)),
            "watch_bytes_untaken": ("News of watches that clients have not taken.", float(self.watches.untaken_bytes)),
            "sync_inline": ("1 when syncs run inline.", float(self.writer.mode == "inline")),
            **{
                f"protocol_{name}": (f"Counted by the protocol since it was started here: {name}.", float(count))
                for name, count in sorted(status.counters.items())
            },
        }

    @property
    def uptime_s(self) -> float:
        """Since the replica was made, in seconds."""
        return time.monotonic() - self._started_at
