"""What a replica is whatever it stands on: a state machine, a coordinator, a loop and sessions.

`Core` is the engine that the sessions talk to. `replica.node.replica` puts it on disks and network,
`replica.node.embedded` into somebody else's process.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from replica.consensus.interface import (
    Command,
    ConfigurationError,
    CorruptRecord,
    Footprint,
    Member,
    ProtocolSpec,
    Reject,
    Stable,
)
from replica.consensus.registry import find_protocol
from replica.kv.history import History
from replica.kv.machine import StateMachine
from replica.kv.objects import ObjectMachine, Part
from replica.kv.objects.minting import Mint
from replica.kv.operations import (
    KEY_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    ClientOperation,
    Compact,
    RevokeLease,
)
from replica.kv.runs import encode_operations, encode_results, validate_reads
from replica.storage.coordinator import Anchor, Coordinator
from replica.storage.errors import StorageError
from replica.wire import typed as wire

from .clock import monotonic_clock
from .compaction import Compactor
from .config import NodeConfig
from .errors import BadFolder, Damaged, NodeFailure
from .expiry import TICK_S, Expiry
from .folder import describe
from .logs import Logger
from .loop import Loop, Network, Writer
from .metrics import NodeMetrics
from .objects import KeyedSessions, ObjectLoop
from .sessions import PendingRead, Sessions
from .shapes import Machine, abilities_of, make_registers
from .watches import Watches

__all__ = ["Core"]

READ_PREFERENCE: Final = ("read-index", "lease", "quorum", "log")
"""Ways to a linearizable read; the first that a protocol offers is taken."""


class Core:
    """The part of a replica that serves its clients. On one event loop, that of its making."""

    def __init__(self, config: NodeConfig, logger: Logger, metrics: NodeMetrics) -> None:
        self.config = config
        self.log = logger
        self.metrics = metrics
        self.clock = monotonic_clock()
        self.failed: asyncio.Future[NodeFailure] = asyncio.get_running_loop().create_future()
        """Set when the replica cannot go on; it takes part in nothing more by then."""
        self.begun = False
        """The replica has a place in an epoch. Before, it waits to join, and has neither coordinator nor loop."""
        self.stopping = False
        self.learning = ""
        """What this replica is being taught before it has a place in an epoch, in words; empty when it is not."""
        self.resting = ""
        """Why this replica takes part in nothing for want of room, if so."""
        self.isolated = ""
        """Why this replica has known nothing new for a while, if so."""
        self.watches = Watches(self._history, self._cannot_watch, limits=config.limits, metrics=metrics)
        shape = KeyedSessions if _is_keyed(config.protocol.name) else Sessions
        self.sessions = shape(
            self,
            cluster=config.cluster,
            limits=config.limits,
            batch_max=config.batch_max,
            metrics=metrics,
            watches=self.watches,
        )
        self.machine: Machine
        self.coordinator: Coordinator
        self.loop: Loop
        self.expiry = Expiry(lambda: self.machine.leases, clock=self.clock, term=self._lease_term, propose=self._expire)
        self.compactor = Compactor(
            config.compaction,
            clock=self.clock,
            standing=lambda: (self.machine.revision, self.machine.compacted),
            leads=lambda: bool(self._lease_term()),
            propose=self._compact,
        )
        self._leases_begun = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def make_loop(
        self,
        anchor: Anchor,
        *,
        stable: Callable[[ProtocolSpec], Stable],
        incarnation: int,
        voting: bool,
        writer: Writer,
        network: Network,
    ) -> None:
        """Build coordinator and loop for the epoch of ``anchor``, on the state as it stands. Raises `BadFolder`."""
        capabilities = find_protocol(anchor.configuration.protocol).capabilities
        shape: type[Loop] = Loop
        if isinstance(self.sessions, KeyedSessions) == capabilities.total_order:
            raise BadFolder(
                f"{self.config.data}: the cluster runs protocol {anchor.configuration.protocol!r}, the configuration "
                f"names {self.config.protocol.name!r}, which orders commands in another way; name the cluster's"
            )
        if isinstance(self.sessions, KeyedSessions):
            shape = ObjectLoop
            self.sessions.abilities = abilities_of(capabilities)
            self.sessions.reads_everywhere = not capabilities.registers
            try:
                self.sessions.mint = Mint(self.config.replica, incarnation)
            except ValueError as error:
                raise BadFolder(f"{self.config.data}: {error}") from error
        try:
            self.coordinator = Coordinator(
                find_protocol,
                replica=self.config.replica,
                anchor=anchor,
                stable=stable,
                randomness=random.Random(),
                incarnation=incarnation,
                applied=self.machine.applied,
                voting=voting,
                registers=make_registers(capabilities),
                objects=self,
            )
        except ConfigurationError as error:
            raise BadFolder(f"{self.config.data}: {error}") from error
        self.loop = shape(
            coordinator=self.coordinator,
            writer=writer,
            network=network,
            machine=self.machine,
            sessions=self.sessions,
            clock=self.clock,
            limits=self.config.limits,
            metrics=self.metrics,
            fail=self.fail,
            # 16 bits of the replica, 15 of the incarnation, 32 to count with.
            detached_base=(self.config.replica & 0xFFFF) << 47 | (incarnation & 0x7FFF) << 32,
        )

        self.loop.watches = self.watches
        self.loop.on_leases = self.leases_touched
        self.spawn(self._keep_leases())
        if self.config.compaction.enabled:
            self.spawn(self._keep_compacted())

    def _history(self) -> History:
        """What watches are told from; where nothing can be watched, nobody asks."""
        assert isinstance(self.machine, StateMachine), "watches need one order over all changes"
        return self.machine.history

    def _cannot_watch(self) -> tuple[wire.Code, str] | None:
        """Why nothing can be watched here; None when it can."""
        problem = self.unavailable() or self.isolated
        if problem:
            return wire.Code.UNAVAILABLE, problem
        spec = self.coordinator.spec
        if not spec.capabilities.total_order:
            return (
                wire.Code.UNSUPPORTED,
                f"a watch needs one order over all changes, and the protocol {spec.name!r} orders them by key",
            )
        return None

    # ------------------------------------------------------------------------------------------------------- leases

    def leases_touched(self) -> None:
        """Leases were granted or renewed, or came with a snapshot."""
        self.expiry.observe()
        self._leases_begun.set()

    async def _keep_leases(self) -> None:
        """Look after the timers of leases, while there are any."""
        while True:
            self.expiry.tick()
            if self.expiry.needed:
                await asyncio.sleep(TICK_S)
            else:
                self._leases_begun.clear()
                await self._leases_begun.wait()
                self.expiry.idle()

    async def _keep_compacted(self) -> None:
        """Give up old revisions, as far as the configuration says and while this replica leads."""
        while True:
            self.compactor.look()
            await asyncio.sleep(self.config.compaction.every_s)

    def _compact(self, revision: int) -> None:
        self.log.debug("compaction", revision=revision)
        self.loop.propose_detached(encode_operations([Compact(revision)]), 1, _not_waited_for, system=True)

    def _lease_term(self) -> str:
        """What this replica leads by; empty while it does not, or nothing may be proposed."""
        if not self.begun or self.loop.halted or self.refusal(removing=True) is not None:
            return ""
        status = self.coordinator.status()
        return f"{self.coordinator.epoch}/{status.ballot}" if status.accepting else ""

    def _expire(self, ended: list[RevokeLease]) -> None:
        self.log.debug("leases run out", leases=[each.lease for each in ended])
        batch = self.config.batch_max
        for start in range(0, len(ended), batch):
            piece = ended[start : start + batch]
            self.loop.propose_detached(encode_operations(piece), len(piece), _not_waited_for, system=True)

    def address_of(self, member: Member) -> tuple[str, str]:
        """Peer and client address of a member; those in the configuration file stand before those pinned."""
        named = self.config.member(member.replica)
        peer, client = member.peer_address, member.client_address
        if named is not None:
            peer, client = named.peer or peer, named.client or client
        if member.replica == self.config.replica:
            client = self.config.advertise.client or client
        return peer, client

    # ---------------------------------------------------------------------------------------------- work and failure

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
        self.sessions.close_all(wire.Code.UNAVAILABLE, "the replica has failed")

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run ``work`` beside the loop; if it fails, the replica fails."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def cancel_tasks(self) -> None:
        """End what was spawned."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ----------------------------------------------------------------------------------- the sessions' engine

    def propose(self, command: Command) -> None:
        """Queue a command for the next turn."""
        self.loop.propose(command)

    def foresee(self, payload: bytes, acknowledged: int, operations: list[ClientOperation]) -> None:
        """A payload is about to be proposed: the state machine of an order need not parse it again."""
        if isinstance(self.machine, StateMachine):
            self.machine.foresee(payload, acknowledged, operations)

    def propose_detached(
        self, operations: bytes, count: int, done: Callable[[bytes | Reject], None], *, system: bool = False
    ) -> None:
        """Queue operations outside any session."""
        self.loop.propose_detached(operations, count, done, system=system)

    def propose_part(self, part: Part, done: Callable[[bytes | Reject], None]) -> None:
        """Queue operations that were cut out of a run."""
        self.loop.propose_unnumbered(part.payload, part.count, done, Footprint(*part.touched))

    @property
    def newest_session(self) -> int:
        """The highest session id seen, where replicas name sessions."""
        return 0 if isinstance(self.machine, StateMachine) else self.machine.newest_session

    @property
    def names_sessions(self) -> bool:
        """Has this disk been admitted by the peers, so that no other of the replica's name can have named the same?"""
        return self.coordinator.voting

    def export(self, name: str) -> tuple[int, bytes]:
        """As `replica.consensus.interface.Objects.export`."""
        assert isinstance(self.machine, ObjectMachine), "only orders by object have any"
        return self.machine.export(name)

    def request_read(self, read: PendingRead) -> None:
        """Queue a linearizable read."""
        self.loop.request_read(read)

    def read_now(self, operations: bytes, count: int) -> bytes:
        """Answer reads from what has been applied."""
        results = self.machine.query(validate_reads(operations, count))
        if self.expiry.needed:
            results = list(map(self.expiry.annotate, results))
        return encode_results(results)

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
            cluster=self.config.cluster,
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
                watches_max=limits.session_watches_max,
            ),
            exactly_once=self.coordinator.capabilities.exactly_once,
            routing=self.coordinator.capabilities.routing,
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
        if self.stopping:
            return "the replica is shutting down"
        if self.failed.done():
            return "the replica has failed"
        if self.begun:
            return self.resting
        return f"the replica {self.learning or 'waits'} to be made a member of the cluster"

    def refusal(self, *, removing: bool = False) -> tuple[wire.Code, str] | None:
        """Why nothing may be proposed at present; with ``removing``, not even what frees space."""
        problem = self.unavailable()
        if problem:
            return wire.Code.UNAVAILABLE, problem
        full = self.nearly_full(removing=removing)
        return None if full is None else (wire.Code.STORAGE_FULL, full)

    def nearly_full(self, *, removing: bool = False) -> str | None:
        """Why there is no room for more (with ``removing``: for removing something), in words; None while there is."""
        return None

    def offers(self, read: str) -> bool:
        """Does the protocol offer that way to read?"""
        return read in self.coordinator.capabilities.reads

    @property
    def default_read(self) -> str:
        """How a read that only asks to be linearizable is served."""
        if self.config.reads != "auto":
            return self.config.reads
        offered = self.coordinator.capabilities.reads
        return next((way for way in READ_PREFERENCE if way in offered), "log")


def _is_keyed(protocol: str) -> bool:
    """Are its commands ordered by object, or its records registers? An unknown one is complained of later."""
    try:
        return not find_protocol(protocol).capabilities.total_order
    except ConfigurationError:
        return False


def _not_waited_for(_outcome: bytes | Reject) -> None:
    """Whether it came to anything shows in the state."""
