"""A hand-driven cluster for tests that read as stories: propose, deliver, crash, campaign.

Each replica is a real `Coordinator` over a dictionary for a disk. Nothing happens by itself: messages wait in `wires`
until the story says `settle`, writes become durable when the story lets the disk sync, and every replica has a clock of
its own, which the story moves. Messages and records pass through the protocol's codec, as on a real wire and disk.

Whatever is delivered is compared across all replicas and incarnations, and every step is followed by `check`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from replica.consensus.codec import Codec
from replica.consensus.interface import (
    Command,
    Configuration,
    Event,
    Member,
    Message,
    Objects,
    Proposed,
    ProtocolSpec,
    Put,
    ReadRequested,
    Received,
    Reconfigure,
    Record,
    Reject,
    RejectRead,
    Send,
    SnapshotUnavailable,
    SnapshotWish,
    Write,
    Yield,
)
from replica.consensus.multipaxos import PROTOCOL
from replica.storage.coordinator import Anchor, Coordinator, Turn

Table = dict[str, dict[bytes, bytes]]


class DiskReader:
    """`Stable` over a disk: what was asked to be written, durable yet or not."""

    def __init__(self, disk: Disk, codec: Codec) -> None:
        self._disk = disk
        self._codec = codec

    def get(self, table: str, key: bytes) -> Record | None:
        data = self._disk.view.get(table, {}).get(key)
        return None if data is None else self._codec.decode_record(table, data)

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        rows = self._disk.view.get(table, {})
        for key in sorted(key for key in rows if first <= key < last):
            yield key, self._codec.decode_record(table, rows[key])


class Disk:
    """Groups of writes: visible at once, durable when synced, lost in a crash if they were not."""

    def __init__(self) -> None:
        self.durable: Table = {}
        self.view: Table = {}
        self.unsynced: list[tuple[int, list[Write]]] = []
        self.encode: Callable[[Record], bytes] = lambda record: b""

    def write(self, group: int, writes: list[Write]) -> None:
        self.unsynced.append((group, writes))
        self._carry_out(self.view, writes)

    def sync(self) -> int:
        """Make everything durable; the last group, or 0."""
        last = 0
        for group, writes in self.unsynced:
            self._carry_out(self.durable, writes)
            last = group
        self.unsynced = []
        return last

    def crash(self, keep: int) -> None:
        """Lose all but the first ``keep`` unsynced groups."""
        for _, writes in self.unsynced[:keep]:
            self._carry_out(self.durable, writes)
        self.unsynced = []
        self.view = {table: dict(rows) for table, rows in self.durable.items()}

    def _carry_out(self, tables: Table, writes: list[Write]) -> None:
        for write in writes:
            rows = tables.setdefault(write.table, {})
            if isinstance(write, Put):
                rows[write.key] = self.encode(write.record)
            else:
                for key in [key for key in rows if write.first <= key < write.last]:
                    del rows[key]


class Fixed:
    """Randomness that always draws the same point of an interval."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def random(self) -> float:
        return self.fraction

    def uniform(self, a: float, b: float, /) -> float:
        return a + (b - a) * self.fraction

    def randrange(self, start: int, stop: int, /) -> int:
        return start + int((stop - start) * self.fraction)


class Replica:
    """One replica: its disk and state survive a crash, its coordinator does not."""

    def __init__(self, story: Story, replica: int, anchor: Anchor, voting: bool) -> None:
        self.story = story
        self.id = replica
        self.disk = Disk()
        self.anchor = anchor
        self.voting = voting
        self.incarnation = 0
        self.clock = 0.0
        self.applied = 0
        self.state: dict[int, tuple[Command, ...]] = {}
        self.coordinator: Coordinator | None = None
        self.syncs = True
        """Does the disk sync with each turn, or when the story says `sync`?"""
        self.granted: dict[int, int] = {}
        self.rejections: list[Reject] = []
        self.refused_reads: list[RejectRead] = []
        self.wishes: list[SnapshotWish] = []
        self.objects: Objects | None = None
        """The state by object, for protocols that ask for it."""
        self.log: list[bytes] = []
        """Payloads in the order of delivery, since the replica was made."""

    @property
    def up(self) -> bool:
        return self.coordinator is not None

    @property
    def snapshot(self) -> int:
        """What the durable snapshot covers."""
        assert isinstance(self.anchor.frontier, int)
        return self.anchor.frontier

    @property
    def inner(self) -> Any:
        """The protocol object, for tests that look inside."""
        return self.core.protocol

    @property
    def core(self) -> Coordinator:
        assert self.coordinator is not None, f"replica {self.id} is down"
        return self.coordinator

    def start(self) -> None:
        self.incarnation += 1
        spec = self.story.spec
        codec = Codec(spec)
        self.disk.encode = codec.encode
        self.coordinator = Coordinator(
            lambda name: spec,
            replica=self.id,
            anchor=self.anchor,
            stable=lambda _: DiskReader(self.disk, codec),
            randomness=self.story.randomness(self.id),
            incarnation=self.incarnation,
            applied=self.applied,
            voting=self.voting,
            objects=self.objects,
        )
        self.carry_out(self.core.start(self.clock))

    def crash(self, *, keep_writes: int = 0, state_survives: bool = True) -> None:
        """Stop; lose unsynced writes but for the first, and the state if it was a crash of the machine."""
        self.disk.crash(keep_writes)
        self.coordinator = None
        if not state_survives:
            self.applied = self.snapshot

    def step(self, *events: Event) -> None:
        if self.up:
            self.carry_out(self.core.step(self.clock, list(events)))

    def carry_out(self, turn: Turn) -> None:
        self.core.protocol.check()
        for send in turn.sends:
            self.story.post(self.id, send)
        if turn.group:
            self.disk.write(turn.group, turn.writes)
        for delivery in turn.deliveries:
            assert delivery.position == self.applied + 1, f"{delivery.position} follows {self.applied}"
            self.applied = delivery.position
            self.state[delivery.position] = delivery.commands
            self.log.extend(command.payload for command in delivery.commands)
            self.story.judge(self.id, delivery.position, delivery.commands)
        for grant in turn.reads:
            assert isinstance(grant.frontier, int)
            self.granted[grant.token] = grant.frontier
        self.rejections.extend(turn.rejections)
        self.refused_reads.extend(turn.refused_reads)
        if turn.snapshot_wish is not None:
            self.wishes.append(turn.snapshot_wish)
        if self.syncs:
            self.sync()

    def sync(self) -> None:
        """The disk catches up; what waited for it goes on."""
        group = self.disk.sync()
        if group and self.up:
            self.carry_out(self.core.durable(self.clock, group))

    # What clients and operators ask.

    def propose(self, *payloads: bytes) -> None:
        self.step(Proposed(tuple(Command(payload) for payload in payloads)))

    def read(self, token: int) -> None:
        self.step(ReadRequested(token))

    def yields(self, successor: int | None = None) -> None:
        self.step(Yield(successor))

    def reconfigure(self, token: int, configuration: Configuration) -> None:
        self.step(Reconfigure(token, configuration))

    # Snapshots.

    def take_snapshot(self) -> None:
        """Of the own state, durable at once."""
        self._switch(self.core.anchor_at(self.applied, f"at-{self.applied}"), False)

    def install_from(self, peer: Replica) -> bool:
        """Fetch the peer's state as it stands; False, and nothing done, if it is no news here."""
        # What is still being written may be delivered once it is durable, and bring the state further.
        while self.disk.unsynced:
            self.sync()
        if peer.applied <= self.applied:
            return False
        self.state = dict(peer.state)
        self.applied = peer.applied
        self._switch(peer.core.anchor_at(peer.applied, f"of-{peer.id}"), True)
        return True

    def snapshot_unavailable(self, peer: int) -> None:
        self.step(SnapshotUnavailable(peer))

    def next_epoch(self) -> None:
        """Switch after a seal."""
        anchor = self.core.anchor_after_seal("sealed")
        assert isinstance(anchor.frontier, int)
        self.applied = anchor.frontier
        self._switch(anchor, False)

    def _switch(self, anchor: Anchor, installed: bool) -> None:
        while self.disk.unsynced:
            self.sync()
        self.disk.write(0, self.core.anchor_writes(anchor)[1:])
        self.disk.sync()
        self.anchor = anchor
        self.carry_out(self.core.switch(self.clock, anchor, installed=installed))

    def leads(self) -> bool:
        return self.up and self.core.status().role == "leader"


class Story:
    """A cluster of replicas 1 to n."""

    def __init__(
        self,
        n: int = 3,
        *,
        spec: ProtocolSpec = PROTOCOL,
        options: dict[str, int | float | str | bool] | None = None,
        zones: Iterable[str] = (),
        voting: bool = True,
        seed: int | None = None,
        replica_type: type[Replica] = Replica,
    ) -> None:
        names = [*zones] or [""] * n
        members = tuple(Member(replica, zone=names[replica - 1]) for replica in range(1, n + 1))
        self.spec = spec
        self.codec = Codec(spec)
        self.seed = seed
        self.configuration = Configuration(1, members, spec.name, options or {})
        self.wires: list[tuple[int, int, int, bytes]] = []
        """Messages under way: (sender, recipient, epoch, bytes)."""
        self.cut: set[tuple[int, int]] = set()
        """Links that lose everything: (sender, recipient)."""
        self.lose: Callable[[int, int, Message], bool] = lambda sender, to, message: False
        """Which messages get lost besides."""
        self.decided: dict[int, tuple[Command, ...]] = {}
        self.replicas = {m.replica: replica_type(self, m.replica, Anchor(self.configuration), voting) for m in members}
        for replica in self.replicas.values():
            replica.start()

    def __getitem__(self, replica: int) -> Replica:
        return self.replicas[replica]

    def randomness(self, replica: int) -> Fixed | random.Random:
        """All wait about 0.75 s for a leader, lower ids a little less, so that it is known who campaigns; with a seed,
        anybody may."""
        if self.seed is not None:
            return random.Random(f"{self.seed}-{replica}")
        return Fixed(0.8 + 0.02 * replica)

    def judge(self, replica: int, position: int, commands: tuple[Command, ...]) -> None:
        """Agreement: one value a slot, whoever delivers it, whenever."""
        known = self.decided.setdefault(position, commands)
        assert known == commands, f"replica {replica} delivers {commands} at {position}, where {known} was delivered"

    # The network.

    def post(self, sender: int, send: Send) -> None:
        epoch = self.replicas[sender].core.epoch
        data = self.codec.encode(send.message)
        self.wires.extend((sender, to, epoch, data) for to in send.to)

    def settle(self) -> None:
        """Carry messages until there are none."""
        for _ in range(100_000):
            if not self.wires:
                return
            self.carry(0)
        raise AssertionError("the replicas talk without end")

    def carry(self, index: int) -> None:
        """Carry one message, unless its link is cut or its recipient is down."""
        sender, to, epoch, data = self.wires.pop(index)
        message = self.codec.decode_message(data)
        replica = self.replicas.get(to)
        if replica is None or not replica.up or replica.core.epoch != epoch:
            return
        if (sender, to) in self.cut or self.lose(sender, to, message):
            return
        replica.step(Received(sender, message))

    def tap(self, kind: type[Message]) -> list[tuple[int, int, Any]]:
        """Listen from now on for messages of a kind: (sender, recipient, message)."""
        heard: list[tuple[int, int, Any]] = []

        def listen(sender: int, to: int, message: Message) -> bool:
            if isinstance(message, kind):
                heard.append((sender, to, message))
            return False

        self.lose = listen
        return heard

    def isolate(self, replica: int) -> None:
        """Cut all its links, both ways."""
        for other in self.replicas:
            if other != replica:
                self.cut |= {(replica, other), (other, replica)}

    def heal(self) -> None:
        self.cut.clear()

    # Time.

    def wait(self, seconds: float, *, only: Iterable[int] | None = None) -> None:
        """Let time pass, in small steps, timers fire, and messages arrive."""
        chosen = [self.replicas[replica] for replica in (only or self.replicas)]
        step_s = min(0.01, seconds)
        for _ in range(max(1, round(seconds / step_s))):
            for replica in chosen:
                replica.clock += step_s
                if replica.up:
                    deadline = replica.core.next_deadline()
                    if deadline is not None and deadline <= replica.clock:
                        replica.step()
            self.settle()

    def elect(self, replica: int, *, accepting: bool = True) -> None:
        """Make this one the leader: its clock runs ahead of those of the others, who have missed a leader, too."""
        for other in self.replicas.values():
            other.clock += 0.41
        for _ in range(100):
            if self[replica].leads() and (not accepting or self[replica].core.status().accepting):
                self.settle()
                return
            self[replica].clock += 0.05
            self[replica].step()
            self.settle()
        raise AssertionError(f"replica {replica} was not elected: {self[replica].core.status()}")

    def leader(self) -> Replica | None:
        """The leader with the highest ballot."""
        leaders = [replica for replica in self.replicas.values() if replica.leads()]
        return max(leaders, key=lambda replica: tuple(map(int, replica.core.status().ballot.split("."))), default=None)


def payloads(commands: Iterable[Command]) -> list[bytes]:
    """What the commands carry."""
    return [command.payload for command in commands]
