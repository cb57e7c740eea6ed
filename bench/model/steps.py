"""What a protocol's own steps cost: processor time a turn, at the replica that leads it and at one that follows.

A cluster in one thread without network, disk or clock: real `Coordinator` objects, messages and records through the
protocol's codec, writes durable at once. What remains is the protocol itself, which is what is timed; time in the model
of a network or of a disk must not be counted twice. A command carries ``run`` operations of ``value_bytes``, and
``together`` commands are proposed in one turn, as the node does with what has arrived together.

*Rested*, a replica sleeps before each turn, and then finds the caches full of what others did meanwhile, as it does
where every turn follows a frame or a sync and the cores are shared. That is two to three times what the same step costs
in a busy loop.

Works for every protocol by its declaration alone: with footprints and registers where it asks for them.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from sortedcontainers import SortedDict

from replica.consensus.codec import Codec
from replica.consensus.interface import (
    Command,
    Configuration,
    Event,
    Footprint,
    Frontier,
    Member,
    Options,
    Proposed,
    ProtocolSpec,
    Put,
    Received,
    Record,
    SnapshotTaken,
    Write,
)
from replica.consensus.registry import find_protocol
from replica.storage.coordinator import Anchor, Coordinator, Turn

from .errors import ModelError

__all__ = ["StepCost", "measure_steps"]

ELECTION_S: Final = 60.0
"""Virtual time after which a cluster that proposes nothing is given up."""

REST_S: Final = 0.0005
"""A rested replica has slept so long."""

CROWD_BYTES: Final = 8 << 20
"""What others have touched meanwhile: more than a core keeps for itself."""

SNAPSHOT_EVERY: Final = 512
"""Positions between two snapshots, so that logs stay as short as on a node."""


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """Processor microseconds a turn's proposals, encoding and decoding of messages and records included."""

    protocol: str
    replicas: int
    run: int
    together: int
    leading_us: float
    following_us: float
    messages: float
    """Messages on the wire a turn's proposals, of all replicas together."""
    writes: float
    """Groups of writes a turn's proposals, of all replicas together."""


class _Tables:
    """What a replica has written, as `Stable`; records as bytes, as on a disk."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._tables: dict[str, SortedDict] = {}

    def get(self, table: str, key: bytes) -> Record | None:
        data = self._tables.get(table, {}).get(key)
        return None if data is None else self._codec.decode_record(table, data)

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        rows = self._tables.get(table)
        if rows is None:
            return
        for key in list(rows.irange(first, last, inclusive=(True, False))):
            yield key, self._codec.decode_record(table, rows[key])

    def write(self, writes: Sequence[Write]) -> None:
        for write in writes:
            rows = self._tables.setdefault(write.table, SortedDict())
            if isinstance(write, Put):
                rows[write.key] = self._codec.encode(write.record)
            else:
                for key in list(rows.irange(write.first, write.last, inclusive=(True, False))):
                    del rows[key]


class _Registers:
    """The meaning of a record for a register protocol, as cheap as it can be."""

    def transition(self, _record: bytes | None, command: Command) -> tuple[bytes, bytes]:
        return command.payload, b""

    def read(self, record: bytes | None, _command: Command) -> bytes:
        return record or b""


class _Objects:
    """No object has a state: nothing is handed over in a steady run."""

    def export(self, _name: str) -> tuple[int, bytes]:
        return 0, b""


class _Replica:
    def __init__(self, spec: ProtocolSpec, configuration: Configuration, replica: int) -> None:
        self.name = replica
        self.codec = Codec(spec)
        self.tables = _Tables(self.codec)
        self.coordinator = Coordinator(
            lambda _name: spec,
            replica=replica,
            anchor=Anchor(configuration),
            stable=lambda _spec: self.tables,
            randomness=random.Random(replica),
            incarnation=1,
            applied=0 if spec.capabilities.total_order else {},
            registers=_Registers() if spec.capabilities.registers else None,
            objects=_Objects(),
        )
        self.inbox: deque[tuple[int, bytes]] = deque()
        self.spent_ns = 0
        self.applied = 0
        self.done = 0
        self.groups = 0


class _Cluster:
    """Replicas whose messages arrive at once and whose writes are durable at once."""

    def __init__(self, spec: ProtocolSpec, replicas: int, options: Options, *, rested: bool) -> None:
        self._crowd = np.zeros(CROWD_BYTES // 8) if rested else None
        members = tuple(Member(replica, region=f"r{replica}", zone=f"z{replica}") for replica in range(1, replicas + 1))
        configuration = Configuration(1, members, spec.name, options)
        self.now = 0.0
        self.messages = 0
        self.total_order = spec.capabilities.total_order
        self.replicas = {replica: _Replica(spec, configuration, replica) for replica in configuration.replicas}
        for replica in self.replicas.values():
            self._carry_out(replica, replica.coordinator.start(self.now))
        self.settle()

    def _carry_out(self, replica: _Replica, turn: Turn) -> None:
        """One replica's turn and what follows from its writes; to be called with its time running."""
        while True:
            for send in turn.sends:
                data = replica.codec.encode(send.message)
                for receiver in send.to:
                    self.messages += 1
                    if receiver in self.replicas:
                        self.replicas[receiver].inbox.append((replica.name, data))
            for delivery in turn.deliveries:
                replica.applied = delivery.position
                replica.done += len(delivery.commands)
            replica.done += len(turn.answers)
            if not turn.group:
                return
            replica.groups += 1
            replica.tables.write(turn.writes)
            turn = replica.coordinator.durable(self.now, turn.group)

    def _rest(self) -> None:
        if self._crowd is not None:
            time.sleep(REST_S)
            self._crowd.sum()

    def _turn(self, replica: _Replica, events: Sequence[Event]) -> None:
        began = time.thread_time_ns()
        self._carry_out(replica, replica.coordinator.step(self.now, events))
        replica.spent_ns += time.thread_time_ns() - began

    def settle(self) -> None:
        """Deliver until no message is under way."""
        while any(replica.inbox for replica in self.replicas.values()):
            for replica in self.replicas.values():
                if not replica.inbox:
                    continue
                frames, replica.inbox = replica.inbox, deque()
                self._rest()
                began = time.thread_time_ns()
                events: list[Event] = [Received(sender, replica.codec.decode_message(data)) for sender, data in frames]
                replica.spent_ns += time.thread_time_ns() - began
                self._turn(replica, events)

    def until_accepting(self) -> int:
        """Let time pass until a replica would propose; the replica. Raises `ModelError`."""
        while self.now < ELECTION_S:
            for name, replica in self.replicas.items():
                if replica.coordinator.status().accepting:
                    return name
            deadlines = [replica.coordinator.next_deadline() for replica in self.replicas.values()]
            self.now = max(self.now + 1e-4, min((at for at in deadlines if at is not None), default=ELECTION_S))
            for replica in self.replicas.values():
                self._turn(replica, ())
            self.settle()
        raise ModelError("protocol: no replica of it is ready to propose")

    def propose(self, name: int, commands: tuple[Command, ...]) -> None:
        """Have them decided everywhere, proposed in one turn; timers stand still."""
        self._rest()
        self._turn(self.replicas[name], (Proposed(commands),))
        self.settle()

    def snapshot(self) -> None:
        """Let every replica forget what it has delivered, untimed."""
        for replica in self.replicas.values():
            if not self.total_order or not replica.applied:
                continue
            frontier: Frontier = replica.applied
            self._carry_out(replica, replica.coordinator.step(self.now, (SnapshotTaken(frontier),)))
        self.settle()


def measure_steps(
    protocol: str,
    replicas: int,
    *,
    run: int = 1,
    together: int = 1,
    value_bytes: int = 128,
    turns: int = 400,
    rested: bool = False,
    options: Options | None = None,
) -> StepCost:
    """Time ``turns`` turns, ``rested`` or not, that each propose ``together`` commands of ``run`` operations.

    Raises `ModelError`, and `LookupError` for no such protocol.
    """
    spec = find_protocol(protocol)
    cluster = _Cluster(spec, replicas, options or {}, rested=rested)
    leader = cluster.until_accepting()
    payload = bytes(run * (value_bytes + 16))
    by_object = not spec.capabilities.total_order
    warm = max(1, turns // 4)

    def commands(turn: int) -> tuple[Command, ...]:
        # Keys come back: what a protocol does once a key (to find it an owner) is done when the clock starts.
        made = []
        for number in range(turn * together, (turn + 1) * together):
            key = b"key%08d" % (number % (warm * together))
            footprint = Footprint(writes=(key,)) if spec.capabilities.footprints or by_object else None
            made.append(Command(payload, session=1, sequence=1 + number * run, count=run, footprint=footprint))
        return tuple(made)

    for turn in range(warm):
        cluster.propose(leader, commands(turn))
    for each in cluster.replicas.values():
        each.spent_ns = each.groups = 0
    cluster.messages = 0
    done, since = cluster.replicas[leader].done, 0
    for turn in range(warm, warm + turns):
        cluster.propose(leader, commands(turn))
        since += together
        if since >= SNAPSHOT_EVERY:
            since = 0
            spent = {name: each.spent_ns for name, each in cluster.replicas.items()}
            cluster.snapshot()
            for name, each in cluster.replicas.items():
                each.spent_ns = spent[name]
    decided, asked = cluster.replicas[leader].done - done, turns * together
    if decided < asked * 0.9:
        raise ModelError(f"protocol: {protocol} carried out {decided} of {asked} commands in an undisturbed cluster")
    followers = [each for name, each in cluster.replicas.items() if name != leader]
    return StepCost(
        protocol=protocol,
        replicas=replicas,
        run=run,
        together=together,
        leading_us=cluster.replicas[leader].spent_ns / turns / 1e3,
        following_us=sum(each.spent_ns for each in followers) / turns / 1e3 / len(followers) if followers else 0.0,
        messages=cluster.messages / turns,
        writes=sum(each.groups for each in cluster.replicas.values()) / turns,
    )
