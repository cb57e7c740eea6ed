"""What changes where a replica stands: snapshots of its own, snapshots of others, the next epoch, learning, joining.

All of it follows one pattern. The long part (writing a snapshot, fetching one, building a state from it)
runs beside the loop, on worker threads. Then the loop is brought to rest, the anchor is committed to the
log, which is the one switch that a crash can see, and the coordinator is told. One transition at a time.

The seal of an epoch occupies a position at which there is nothing to apply. The state is committed and
snapshot *short* of it, because a state that stood at the seal before the anchor is durable would never meet
the seal again after a crash; `align` takes the machine over it once the anchor is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from replica.consensus.frontiers import covers, joined, reach
from replica.consensus.interface import (
    Deliver,
    Frontier,
    Put,
    Reason,
    ReplicaId,
    Sealed,
    SnapshotUnavailable,
    SnapshotWish,
)
from replica.kv.layout import CorruptState
from replica.kv.machine import Digest, StateMachine
from replica.kv.objects import ObjectDigest, ObjectMachine, RegisterMachine
from replica.storage.coordinator import ANCHOR_KEY, META_TABLE, Anchor
from replica.storage.errors import CorruptSnapshot, StorageError, StorageFull, WrongCluster
from replica.storage.learning import Learner, LessonBroken, News
from replica.storage.snapshots import SnapshotReceiver, SnapshotTask, SnapshotWritten
from replica.transport import (
    LessonSource,
    SnapshotError,
    SnapshotQuery,
    SnapshotRefused,
    SnapshotSource,
    SnapshotUnserved,
)

from .errors import NodeFailure
from .fingerprint import DigestCancelled, DigestTask
from .shapes import progress_of
from .teaching import LessonGiven

if TYPE_CHECKING:
    from .stored import Stored

__all__ = ["SnapshotReport", "Transitions"]

T = TypeVar("T")

JOIN_PAUSE_S: Final = 0.5
"""Between two rounds of asking the members whether this replica is one of them."""

CATCH_UP_PAUSE_S: Final = 0.3
"""How long a replica that hears of a later epoch waits for the seal to arrive by itself before it fetches a
snapshot.
"""

STATE_COMMIT_OPERATIONS: Final = 200_000
"""So many operations are committed to the state without waiting for the time to pass."""

STATE_COMMIT_DELAYS_MAX: Final = 4
"""A busy loop may put a commit of the state off so often, by a quarter of its interval each time."""

SCAVENGE_INTERVALS: Final = 0.25
"""While compaction has left something behind, the next commit, which removes a piece of it, is due after so much of the
interval.
"""

STATE_COMMIT_SHARE_MIN: Final = 0.75
"""Each commit of the state is due when between this share and all of its interval, or of its size, has passed. Replicas
apply the same at the same time: were it the same share for all, they would commit together, and a majority would stand
still instead of one of them.
"""


class SnapshotReport(msgspec.Struct, frozen=True):
    """What a snapshot came to."""

    frontier: Frontier
    bytes: int


class Transitions:
    """The transitions of one replica. Everything here runs on the event loop's thread unless it says
    otherwise.
    """

    def __init__(self, replica: Stored) -> None:
        self._replica = replica
        self._lock = asyncio.Lock()
        self._fetching = False
        self._problems: dict[ReplicaId, str] = {}
        self._wanted_epoch = 0
        self._snapshot_due = False
        self._covered: tuple[Anchor | None, int] = (None, 0)
        """How many positions the snapshot of an anchor covers."""
        self._snapshot_bytes_at = 0
        self._uncommitted = 0
        self._commit_timer: asyncio.TimerHandle | None = None
        self._commit_delays = 0
        self._commit_share = random.uniform(STATE_COMMIT_SHARE_MIN, 1.0)
        self._committed_bytes = 0
        """What the log had been given when the state was last committed."""
        self._reading: tuple[SnapshotTask | DigestTask, asyncio.Future[Any]] | None = None

    # ------------------------------------------------------------------------------------------ state commits

    def applied(self, operations: int) -> None:
        """A turn has applied something: see that it is committed, and that the log does not grow without
        end.
        """
        self._uncommitted += operations
        replica = self._replica
        share = self._commit_share
        uncommitted_bytes = replica.writer.statistics.bytes - self._committed_bytes
        if (
            self._uncommitted >= share * STATE_COMMIT_OPERATIONS
            or uncommitted_bytes >= share * replica.config.storage.state_commit_bytes
        ):
            self.commit_state()
        elif self._commit_timer is None:
            self._commit_in(share)
        if not self._snapshot_due and self._is_snapshot_due():
            self._snapshot_due = True
            self._replica.spawn(self._take_due_snapshot())

    def _commit_due(self) -> None:
        self._commit_timer = None
        replica = self._replica
        if replica.loop.busy and self._commit_delays < STATE_COMMIT_DELAYS_MAX:
            self._commit_delays += 1
            self._commit_in(0.25)
            return
        self.commit_state()

    def _commit_in(self, intervals: float) -> None:
        seconds = intervals * self._replica.config.storage.state_commit_ms / 1000
        self._commit_timer = asyncio.get_running_loop().call_later(seconds, self._commit_due)

    def commit_state(self) -> None:
        """Commit what has been applied to the state environment."""
        if self._commit_timer is not None:
            self._commit_timer.cancel()
            self._commit_timer = None
        self._commit_delays = 0
        self._uncommitted = 0
        self._commit_share = random.uniform(STATE_COMMIT_SHARE_MIN, 1.0)
        replica = self._replica
        self._committed_bytes = replica.writer.statistics.bytes
        if replica.loop.halted:
            return
        try:
            replica.machine.commit()
        except Exception as error:  # noqa: BLE001 - a timer calls this: nobody else would hear of it
            replica.fail(error)
            return
        replica.metrics.state_commits += 1
        if replica.machine.scavenging:
            # Nothing more may come (a full store takes no puts), and the space would not be freed.
            self._commit_in(SCAVENGE_INTERVALS)

    # ------------------------------------------------------------------------------------------ own snapshots

    def _is_snapshot_due(self) -> bool:
        replica = self._replica
        policy = replica.config.snapshot
        if isinstance(replica.machine, RegisterMachine):
            return False
        anchor = replica.coordinator.anchor
        if self._covered[0] is not anchor:
            self._covered = (anchor, reach(anchor.frontier))
        if policy.every_positions and progress_of(replica.machine) - self._covered[1] >= policy.every_positions:
            return True
        written = replica.writer.statistics.bytes - self._snapshot_bytes_at
        return bool(policy.every_bytes) and written >= policy.every_bytes

    async def _take_due_snapshot(self) -> None:
        try:
            await self.take_snapshot()
        except NodeFailure as error:
            # The replica goes on with the snapshot that it has; the next one is due after as much again.
            self._replica.log.warning("no snapshot", problem=str(error))
        finally:
            self._snapshot_bytes_at = self._replica.writer.statistics.bytes
            self._snapshot_due = False

    async def take_snapshot(self) -> SnapshotReport:
        """Take a snapshot of the state as applied now, and let the protocol truncate its log behind it.

        Raises `NodeFailure` when it cannot be written; the replica then goes on as before.
        """
        async with self._lock:
            return await self._take_snapshot()

    async def _take_snapshot(self, begun: Callable[[int], object] | None = None) -> SnapshotReport:
        """``begun`` is told the position that the snapshot will cover, before anything more is applied."""
        replica = self._replica
        coordinator, storage = replica.coordinator, replica.storage
        if isinstance(replica.machine, RegisterMachine):
            raise NodeFailure(
                f"protocol {coordinator.configuration.protocol!r} has no snapshots: its records are all there is, and "
                "nothing grows with the number of writes"
            )
        if coordinator.sealed is not None:
            raise NodeFailure("the epoch is being changed, which takes a snapshot by itself")
        self.commit_state()
        frontier = replica.machine.applied
        task = storage.begin_snapshot(coordinator.anchor_at(frontier))
        if begun is not None:
            begun(reach(frontier))
        try:
            written = await self._write(task)
        except (StorageError, OSError) as error:
            raise NodeFailure(f"the snapshot cannot be written: {error}") from error
        async with self._at_rest():
            if coordinator.epoch != task.anchor.configuration.epoch or replica.loop.sealed:
                storage.snapshots.remove(task.anchor.snapshot)
                raise NodeFailure("the epoch was changed meanwhile, which took a snapshot by itself")
            await replica.loop.commit(coordinator.anchor_writes(task.anchor))
            storage.snapshot_taken(task.anchor)
            replica.loop.switch(task.anchor, installed=False)
        replica.metrics.snapshots_taken += 1
        replica.log.info("snapshot taken", frontier=frontier, bytes=written.bytes)
        return SnapshotReport(frontier, written.bytes)

    async def _write(self, task: SnapshotTask) -> SnapshotWritten:
        """Write a snapshot on a worker thread. Whoever is cancelled here has the thread stop first: it reads the state,
        which is closed next.
        """
        return await self._read(task, task.write)

    async def _read(self, task: SnapshotTask | DigestTask, run: Callable[[], T]) -> T:
        """``run`` the task, which reads the state, on a worker thread; with the lock held."""
        reading = asyncio.ensure_future(asyncio.to_thread(run))
        self._reading = task, reading
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()  # it was given up: whatever came of it is of no use
            raise
        finally:
            if reading.done():
                self._reading = None

    async def end_reading(self) -> None:
        """The state is about to be closed: have the thread that reads it stop, whoever waits for it."""
        if self._reading is not None:
            task, reading = self._reading
            task.cancel()
            await asyncio.wait([reading])

    async def digest(self) -> Digest | ObjectDigest:
        """The digest of the state as applied now, worked out beside the loop. One transition at a time: snapshots and
        changes of the epoch wait for it.

        Raises `NodeFailure`.
        """
        async with self._lock:
            replica = self._replica
            self.commit_state()
            if replica.loop.halted:
                raise NodeFailure("the replica has stopped")
            if isinstance(replica.machine, RegisterMachine):
                raise NodeFailure("there is no state by itself, apart from the protocol's records")
            by_object = isinstance(replica.machine, ObjectMachine)
            task = DigestTask(replica.storage.state.view(), by_object=by_object)
            try:
                return await self._read(task, task.run)
            except DigestCancelled as error:
                raise NodeFailure("the replica is shutting down") from error
            except CorruptState as error:
                raise NodeFailure(f"the state cannot be read: {error}") from error

    # ----------------------------------------------------------------------------------------- the next epoch

    def sealed(self, sealed: Sealed) -> None:
        """The protocol has reached the seal: everything before it has been applied."""
        self._replica.teaching.sealed(sealed)
        self._replica.spawn(self._follow_seal(sealed))

    async def _follow_seal(self, sealed: Sealed) -> None:
        replica = self._replica
        async with self._lock:
            coordinator = replica.coordinator
            if coordinator.sealed is not sealed:
                return  # a snapshot of a later epoch was installed meanwhile
            replica.log.info("epoch sealed", epoch=coordinator.epoch, frontier=sealed.frontier)
            self.commit_state()
            task = replica.storage.begin_snapshot(coordinator.anchor_after_seal(""))
            await self._write(task)
            async with self._at_rest():
                await replica.loop.commit(coordinator.anchor_writes(task.anchor))
                replica.storage.snapshot_taken(task.anchor)
                self._enter(task.anchor, installed=False)

    def _enter(self, anchor: Anchor, *, installed: bool) -> None:
        """``anchor`` is durable and of a later epoch, or installed: go on from it."""
        replica = self._replica
        if replica.retires(anchor):
            return
        later = anchor.configuration.epoch != replica.coordinator.epoch
        if later:
            replica.loop.forget_received()
        if later or installed:
            replica.sessions.lose_in_flight("the replica took over the state of another, or a new epoch began")
            replica.loop.lose_detached(Reason.LOST)
            replica.loop.lose_reads(Reason.SEALED)
        self.align(anchor)
        if later:
            replica.prepare_epoch(anchor.configuration)
        replica.loop.switch(anchor, installed=installed)
        if later:
            replica.enter_epoch()

    def align(self, anchor: Anchor) -> None:
        """Take the machine over the position of the seal, at which there is nothing to apply."""
        machine = self._replica.machine
        if isinstance(machine, StateMachine) and anchor.frontier == anchor.base and machine.applied + 1 == anchor.base:
            machine.advance(machine.applied + 1)

    # ------------------------------------------------------------------------------------- snapshots of peers

    def wished(self, wish: SnapshotWish) -> None:
        """The protocol needs what has been discarded elsewhere."""
        if not self._fetching:
            self._fetching = True
            self._replica.spawn(self._fulfil(wish))

    async def _fulfil(self, wish: SnapshotWish) -> None:
        replica = self._replica
        try:
            frontier = joined(wish.frontier, replica.coordinator.anchor.frontier)
            fetched = await self._fetch(wish.peer, frontier, replica.coordinator.epoch)
        finally:
            self._fetching = False
        if not fetched:
            replica.loop.post(SnapshotUnavailable(wish.peer))

    def later_epoch(self, peer: ReplicaId, epoch: int) -> None:
        """``peer`` has gone on to a later epoch."""
        if epoch > self._wanted_epoch and not self._fetching:
            self._fetching = True
            self._wanted_epoch = epoch
            self._replica.spawn(self._catch_up(peer, epoch))

    async def _catch_up(self, peer: ReplicaId, epoch: int) -> None:
        replica = self._replica
        try:
            await asyncio.sleep(CATCH_UP_PAUSE_S)
            async with self._lock:
                pass  # a seal that is being followed is perhaps this one
            if replica.coordinator.epoch < epoch:
                await self._fetch(peer, 0, epoch)
        finally:
            self._fetching = False
            self._wanted_epoch = 0  # the peer's next notice asks again, should it be needed

    def join(self) -> None:
        """Wait to be made a member: ask those named in the configuration until one sends a snapshot."""
        self._replica.spawn(self._join())

    async def _join(self) -> None:
        replica = self._replica
        peers = [member for member in replica.config.members if member.replica != replica.config.replica]
        replica.ask({member.replica: member.peer for member in peers})
        replica.log.info("waiting to be made a member", asked=[member.replica for member in peers])
        while replica.storage.anchor is None:
            for member in peers:
                # Who is to become a member is taught by the leader; who has become one without is sent the state.
                if await self._learn(member.replica) or await self._fetch(member.replica, 0, 0):
                    return
            await asyncio.sleep(JOIN_PAUSE_S)

    async def _learn(self, peer: ReplicaId) -> bool:
        """Be taught by ``peer`` until the epoch begins in which this replica is a member. False when it does not teach,
        or the lesson broke.
        """
        replica = self._replica
        receiver = replica.storage.snapshots.receive()
        try:
            await replica.learn(peer, sink=receiver, learning=_Lessons(self, peer, receiver))
        except StorageFull as error:
            replica.storage.state.abort()
            self._unlearned(peer, error, news=True)
        except (SnapshotError, CorruptSnapshot, WrongCluster, LessonBroken, OSError) as error:
            self._unlearned(peer, error, news=bool(replica.learning))
        finally:
            receiver.abandon()
            replica.learning = ""
        return replica.storage.anchor is not None

    def _unlearned(self, peer: ReplicaId, error: Exception, *, news: bool) -> None:
        log = self._replica.log
        (log.warning if news else log.debug)("not taught", peer=peer, problem=str(error))

    async def take_up(self, receiver: SnapshotReceiver, size: int) -> int:
        """Go on from a snapshot without a place in its epoch; returns the position reached."""
        replica = self._replica
        storage = replica.storage
        anchor = await asyncio.to_thread(receiver.finish, total_bytes=size)
        installation = await asyncio.to_thread(storage.prepare_installation, anchor)
        # No anchor is committed: a replica that stops before it is a member begins anew, and looks at none of it.
        self._take_over(storage.adopt(installation))
        return reach(replica.machine.applied)

    @property
    def replica_id(self) -> ReplicaId:
        """Whose transitions these are."""
        return self._replica.config.replica

    def tell_learning(self, peer: ReplicaId, position: int) -> None:
        """Let the status say how far the lesson has come."""
        self._replica.learning = f"learns from replica {peer}, has reached position {position}, and waits"

    def learned(self, deliveries: list[Deliver]) -> None:
        """Apply what a teacher has applied. Raises `StorageFull`."""
        machine = self._replica.machine
        assert isinstance(machine, StateMachine), "lessons need one order"
        for delivery in deliveries:
            self._uncommitted += sum(command.count for command in delivery.commands)
            machine.apply(delivery.position, delivery.commands)
        machine.settle()
        if self._uncommitted >= STATE_COMMIT_OPERATIONS:
            self._uncommitted = 0
            machine.commit()

    async def graduate(self, anchor: Anchor) -> None:
        """The state has everything before the seal that ``anchor`` stands behind: enter its epoch."""
        replica = self._replica
        storage = replica.storage
        replica.machine.commit()
        self._uncommitted = 0
        task = storage.begin_snapshot(anchor)
        await self._write(task)
        storage.log.commit([[Put(META_TABLE, ANCHOR_KEY, task.anchor)]])
        storage.snapshot_taken(task.anchor)
        replica.log.info("joined", epoch=anchor.configuration.epoch, frontier=anchor.frontier, learned=True)
        replica.begin(task.anchor)

    async def _fetch(self, peer: ReplicaId, frontier: Frontier, epoch: int) -> bool:
        """Fetch a snapshot and install it. False when there is none to be had from that peer now."""
        replica = self._replica
        storage = replica.storage
        receiver = storage.snapshots.receive()
        try:
            size = await replica.fetch_snapshot(peer, frontier=frontier, epoch=epoch, sink=receiver)
            anchor = await asyncio.to_thread(receiver.finish, total_bytes=size)
        except (SnapshotError, CorruptSnapshot, StorageFull, WrongCluster, OSError) as error:
            # Asking again is usual, while waiting to be made a member or for a peer that is busy: say each thing once.
            news = not isinstance(error, SnapshotRefused) and self._problems.get(peer) != str(error)
            (replica.log.warning if news else replica.log.debug)("no snapshot", peer=peer, problem=str(error))
            self._problems[peer] = str(error)
            return False
        finally:
            receiver.abandon()
        async with self._lock:
            return await self._install(anchor, size)

    async def _install(self, anchor: Anchor, size: int) -> bool:
        replica = self._replica
        storage = replica.storage
        if not self._is_news(anchor):
            storage.snapshots.remove(anchor.snapshot)
            return True
        try:
            installation = await asyncio.to_thread(storage.prepare_installation, anchor)
        except (CorruptSnapshot, StorageFull) as error:
            replica.log.warning("snapshot not installed", problem=str(error))
            storage.snapshots.remove(anchor.snapshot)
            return False
        if storage.anchor is None:
            # This replica joins: there is no loop yet that could be disturbed.
            storage.log.commit([[Put(META_TABLE, ANCHOR_KEY, anchor)]])
            self._take_over(storage.adopt(installation))
            replica.log.info("joined", epoch=anchor.configuration.epoch, frontier=anchor.frontier, bytes=size)
            replica.begin(anchor)
            return True
        async with self._at_rest():
            if not self._is_news(anchor):
                storage.discard(installation)
                return True
            await replica.loop.commit(replica.coordinator.anchor_writes(anchor))
            self._take_over(storage.adopt(installation))
            self._enter(anchor, installed=True)
        replica.metrics.snapshots_installed += 1
        replica.log.info("snapshot installed", epoch=anchor.configuration.epoch, frontier=anchor.frontier, bytes=size)
        return True

    def _take_over(self, store: Any) -> None:
        """The machine goes on from the store of an installed snapshot."""
        replica = self._replica
        if self._commit_timer is not None:
            self._commit_timer.cancel()
            self._commit_timer = None
        self._uncommitted = 0
        try:
            replica.take_over(replica.make_machine(store))
        except CorruptState as error:
            raise NodeFailure(f"the installed snapshot cannot be used: {error}") from error

    def _is_news(self, anchor: Anchor) -> bool:
        """Would the snapshot take this replica further than it is?"""
        replica = self._replica
        if replica.storage.anchor is None:
            return anchor.configuration.member(replica.config.replica) is not None
        epoch = replica.coordinator.epoch
        if anchor.configuration.epoch != epoch:
            return anchor.configuration.epoch > epoch
        # By object a snapshot may lie ahead in one and behind in another. What the own one covers is not to be lost:
        # the log need not hold it any more.
        standing = replica.coordinator.anchor.frontier
        return not covers(replica.machine.applied, anchor.frontier) and covers(anchor.frontier, standing)

    # -------------------------------------------------------------------------------------- serving snapshots

    async def serve(self, query: SnapshotQuery) -> SnapshotSource:
        """A snapshot for a peer; one is taken when the last does not reach far enough. Raises
        `SnapshotUnserved`.
        """
        replica = self._replica
        storage = replica.storage
        if storage.anchor is None:
            raise SnapshotUnserved("this replica has no state itself yet", busy=True)
        configuration = replica.coordinator.configuration
        if configuration.member(query.replica) is None:
            raise SnapshotUnserved(f"replica {query.replica} is not a member of epoch {configuration.epoch}")
        known = storage.log.peer_disks.get(query.replica)
        if known is not None and known != query.disk:
            raise SnapshotUnserved(f"replica {query.replica} is on record with another disk")
        if query.epoch > configuration.epoch:
            raise SnapshotUnserved(f"this replica is in epoch {configuration.epoch} itself", busy=True)
        anchor = replica.coordinator.anchor
        if not anchor.snapshot or not covers(anchor.frontier, query.frontier):
            if not covers(replica.machine.applied, query.frontier):
                raise SnapshotUnserved(f"this replica has applied {replica.machine.applied} itself", busy=True)
            try:
                await self.take_snapshot()
            except NodeFailure as error:
                raise SnapshotUnserved(str(error), busy=True) from error
        try:
            return storage.snapshots.send(replica.coordinator.anchor.snapshot)
        except CorruptSnapshot as error:
            raise SnapshotUnserved(str(error), busy=True) from error

    async def teach(self, query: SnapshotQuery) -> LessonSource:
        """A lesson for a replica that is to become a member. Raises `SnapshotUnserved`."""
        replica = self._replica
        teaching = replica.teaching
        if not replica.begun or not teaching.expects(query.replica):
            raise SnapshotUnserved(f"this replica was not asked to make replica {query.replica} a member", busy=True)
        given: list[LessonGiven] = []
        async with self._lock:
            try:
                await self._take_snapshot(lambda start: given.append(teaching.begin(query.replica, start)))
                given[0].snapshot = replica.storage.snapshots.send(replica.coordinator.anchor.snapshot)
            except (NodeFailure, CorruptSnapshot) as error:
                for each in given:
                    each.lesson.broken(str(error))
                    teaching.end(each)
                raise SnapshotUnserved(str(error), busy=True) from error
            except BaseException:
                for each in given:
                    teaching.end(each)
                raise
        replica.log.info("teaching", learner=query.replica, start=given[0].lesson.start)
        return given[0]

    # ----------------------------------------------------------------------------------------------- internal

    @contextlib.asynccontextmanager
    async def _at_rest(self) -> Any:
        """The loop steps no further and nothing is in flight."""
        loop = self._replica.loop
        await loop.quiesce()
        try:
            yield
        finally:
            loop.resume()


_news: msgspec.msgpack.Decoder[News] = msgspec.msgpack.Decoder(News)


class _Lessons:
    """The learner's side of one lesson (`replica.transport.Learning`)."""

    def __init__(self, transitions: Transitions, peer: ReplicaId, receiver: SnapshotReceiver) -> None:
        self._transitions = transitions
        self._peer = peer
        self._receiver = receiver
        self._learner: Learner

    async def begin(self, total_bytes: int, /) -> int:
        """See `replica.transport.Learning`."""
        position = await self._transitions.take_up(self._receiver, total_bytes)
        self._learner = Learner(self._transitions.replica_id, position)
        self._transitions.tell_learning(self._peer, position)
        return position

    async def take(self, news: bytes, /) -> int | None:
        """See `replica.transport.Learning`. Raises `LessonBroken`, `StorageFull`."""
        try:
            told = _news.decode(news)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LessonBroken(f"what replica {self._peer} told does not decode: {error}") from None
        learner = self._learner
        self._transitions.learned(learner.accept(told))
        self._transitions.tell_learning(self._peer, learner.applied)
        if told.sealed is None:
            return learner.applied
        anchor = learner.anchor(told.sealed)
        if anchor is None:
            raise LessonBroken("the epoch ended without making this replica a member")
        await self._transitions.graduate(anchor)
        return None
