"""A core with a data folder beneath it: opened, committed, snapshot and closed again, with or without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from replica.consensus.interface import Configuration, Frontier, ReplicaId, Send
from replica.consensus.registry import find_protocol
from replica.kv.layout import CorruptState
from replica.kv.store import Store
from replica.storage.coordinator import Anchor
from replica.storage.errors import StorageError
from replica.storage.recovery import Storage
from replica.storage.writer import GroupWriter
from replica.transport import Learning, SnapshotRefused, SnapshotSink

from .config import NodeConfig
from .core import Core
from .errors import Damaged, NotAMember
from .folder import describe, open_data
from .logs import Logger
from .metrics import NodeMetrics
from .shapes import Machine, make_machine
from .teaching import Teaching
from .transitions import Transitions

__all__ = ["Stored", "admissions_needed"]


def admissions_needed(members: int) -> int:
    """How many of the *other* members must have a disk on record before its replica votes.

    Any two sets of that many of the ``members - 1`` others meet, so that a second disk under the same id is refused by
    somebody whom it needs. For a majority system of n = 2f + 1 it is n - q + 1 = f + 1.
    """
    others = members - 1
    return 0 if others == 0 else others // 2 + 1


class Stored(Core):
    """A replica on a data folder. Without a network of its own: `replica.node.replica.Replica` adds that."""

    def __init__(self, config: NodeConfig, logger: Logger, metrics: NodeMetrics) -> None:
        super().__init__(config, logger, metrics)
        self.storage: Storage
        self.writer: GroupWriter
        self.teaching = Teaching()
        self.transitions = Transitions(self)
        self._opened = False

    async def open(self) -> None:
        """Open the data folder. Raises `NodeFailure`; nothing is left open then."""
        self.storage = await asyncio.to_thread(open_data, self.config)
        self._opened = True
        try:
            self.machine = self._recover_machine()
            self.writer = GroupWriter(
                self.storage.log,
                mode=self.config.sync_mode,
                deliver=asyncio.get_running_loop().call_soon_threadsafe,
                on_durable=self._durable,
                on_failure=self.fail,
                observe=self._synced,
            )
        except (CorruptState, StorageError) as error:
            self.storage.close()
            self._opened = False
            failure = describe(error) if isinstance(error, StorageError) else Damaged(f"{self.config.data}: {error}")
            raise failure from error

    def make_machine(self, store: Store) -> Machine:
        """The state of the present protocol's shape, on what the store holds. Raises `CorruptState`."""
        anchor = self.storage.anchor
        name = self.config.protocol.name if anchor is None else anchor.configuration.protocol
        return make_machine(find_protocol(name).capabilities, store)

    def _recover_machine(self) -> Machine:
        """The machine on the recovered state; a state that it cannot read is built anew. Raises `CorruptState`."""
        try:
            return self.make_machine(self.storage.state)
        except CorruptState as error:
            self.log.warning("the state is built anew from snapshot and log", problem=str(error))
            return self.make_machine(self.storage.rebuild_state())

    def close_data(self) -> None:
        """Wait for the disk, mark the data as cleanly closed, and close it. The loop must have halted."""
        if self._opened:
            self._opened = False
            self.writer.close()
            if self.begun and self.writer.failure is None and not self.failed.done():
                self.machine.commit()
            else:
                # What the open transaction holds may be half of a turn: the last commit is whole.
                self.storage.state.abort()
            self.storage.close()

    def begin(self, anchor: Anchor) -> None:
        """Take part in the epoch of ``anchor``, which is durable, with the state as it stands."""
        if self.retires(anchor):
            return
        log = self.storage.log
        if not log.admitted and admissions_needed(len(anchor.configuration.members)) == 0:
            log.commit([log.admission_writes()])
        self.transitions.align(anchor)
        self.make_loop(
            anchor,
            stable=log.reader,
            incarnation=self.storage.incarnation,
            voting=log.admitted,
            writer=self.writer,
            network=self,
        )
        self.loop.teaching = self.teaching
        self.loop.on_sealed = self.transitions.sealed
        self.loop.on_snapshot_wish = self.transitions.wished
        self.loop.on_applied = self.transitions.applied
        self.prepare_epoch(anchor.configuration)
        self.enter_epoch()
        self.begun = True
        self.loop.start()

    def retires(self, anchor: Anchor) -> bool:
        """Is this replica no member any more? Then it stops, and this returns True."""
        configuration = anchor.configuration
        if configuration.member(self.config.replica) is not None:
            return False
        self.fail(
            NotAMember(
                f"replica {self.config.replica} is not a member of epoch {configuration.epoch}: the cluster has gone "
                "on without it, and starting it again is in vain; its data folder may be removed"
            )
        )
        return True

    def take_over(self, machine: Machine) -> None:
        """An installed snapshot has replaced the state."""
        self.machine = machine
        self.teaching.jumped()
        if self.begun:
            self.loop.machine = machine
            self.leases_touched()
            self.watches.applied()

    def nearly_full(self, *, removing: bool = False) -> str | None:
        """Why there is no room for more (with ``removing``: for removing something) on the disk or in the maps."""
        return self.storage.space.nearly_full(removing=removing)

    def _durable(self, group: int) -> None:
        self.loop.durable(group)

    def _synced(self, seconds: float) -> None:
        self.metrics.commits += 1
        self.metrics.sync_seconds.observe(seconds)

    # --------------------------------------------------------------------------------------------------- the network

    def prepare_epoch(self, configuration: Configuration) -> None:
        """The protocol of ``configuration`` is spoken from here on."""

    def enter_epoch(self) -> None:
        """The coordinator is in a new epoch."""

    def send(self, send: Send) -> None:
        """Queue a message. A replica without a network is alone and has nobody to send to."""

    @property
    def unsent(self) -> bool:
        """Do frames wait that no socket has got yet?"""
        return False

    def ask(self, addresses: Mapping[ReplicaId, str]) -> None:
        """Connect to those who may know whether this replica is a member."""

    async def fetch_snapshot(self, peer: ReplicaId, *, frontier: Frontier, epoch: int, sink: SnapshotSink) -> int:
        """Fetch a snapshot into ``sink``; its size in bytes. Raises `SnapshotError`."""
        raise SnapshotRefused(peer, "this replica has no network")

    async def learn(self, peer: ReplicaId, *, sink: SnapshotSink, learning: Learning) -> None:
        """Have a peer teach this replica. Raises `SnapshotError`."""
        raise SnapshotRefused(peer, "this replica has no network")
