"""Hand-driven clusters for WPaxos: `story`, with an owner for every key and the node's own state behind each replica.

`Estate` is a `Story` whose replicas apply what is delivered to an `ObjectMachine`, so that values, versions and
sessions are what clients would see. Whatever is delivered is compared across all replicas and incarnations: one value
at each position of each object, and positions in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from replica.consensus.interface import Command, Footprint, Proposed, ProtocolSpec, object_of
from replica.consensus.wpaxos import PROTOCOL
from replica.kv.memory import MemoryStore
from replica.kv.objects import ObjectMachine
from replica.kv.operations import Add, AnyResult, Delete, Get, Put
from replica.kv.runs import encode_operations, pack_payload
from replica.storage.coordinator import Anchor, Turn

from .story import Replica, Story


class Holder(Replica):
    """One replica; its state is an `ObjectMachine`."""

    story: Estate

    def __init__(self, story: Story, replica: int, anchor: Anchor, voting: bool) -> None:
        super().__init__(story, replica, anchor, voting)
        self.machine = ObjectMachine(MemoryStore())
        self.saved = MemoryStore()
        """What the durable snapshot holds."""
        self.objects = self
        self.applied: Any = {}
        self.results: dict[tuple[int, int], AnyResult] = {}
        """What clients of this replica were answered, by session and sequence."""

    def export(self, name: str) -> tuple[int, bytes]:
        return self.machine.export(name)

    def crash(self, *, keep_writes: int = 0, state_survives: bool = True) -> None:
        self.disk.crash(keep_writes)
        self.coordinator = None
        if not state_survives:
            self.machine = ObjectMachine(self.saved.copy())
        self.applied = self.machine.applied

    def carry_out(self, turn: Turn) -> None:
        self.core.protocol.check()
        for send in turn.sends:
            self.story.post(self.id, send)
        if turn.group:
            self.disk.write(turn.group, turn.writes)
        for install in turn.installs:
            self.machine.install(install.object, install.position, install.image)
        for delivery in turn.deliveries:
            name, position = delivery.object, delivery.position
            self.story.judge_delivery(self, name, position, delivery.commands)
            for outcome in self.machine.apply(name, position, delivery.commands):
                for offset, result in enumerate(outcome.results()):
                    self.results.setdefault((outcome.session, outcome.sequence + offset), result)
        self.applied = self.machine.applied
        self.rejections.extend(turn.rejections)
        self.refused_reads.extend(turn.refused_reads)
        assert turn.snapshot_wish is None, "objects are handed over one by one"
        if self.syncs:
            self.sync()

    def take_snapshot(self) -> None:
        while self.disk.unsynced:
            self.sync()
        self.machine.commit()
        self.saved = self.machine.store.copy()  # type: ignore[attr-defined]
        self._switch(Anchor(self.anchor.configuration, self.machine.applied, 0, f"at-{self.machine.progress}"), False)

    def ask(self, operation: Put | Get | Add | Delete, session: int, sequence: int) -> None:
        """A client of this replica asks for an operation."""
        touched = Footprint(reads=(operation.key,), read_only=True)
        if not isinstance(operation, Get):
            touched = Footprint(writes=(operation.key,))
        payload = pack_payload(0, encode_operations([operation]))
        self.step(Proposed((Command(payload, session, sequence, 1, touched),)))

    def put(self, key: bytes, value: bytes) -> tuple[int, int]:
        """Ask for a write; returns what its result will be found under."""
        self.story.sequence += 1
        self.ask(Put(key, value), self.id, self.story.sequence)
        return self.id, self.story.sequence

    def value(self, key: bytes) -> bytes | None:
        """What the state holds."""
        record = self.machine.find(key)
        return None if record is None or record.item is None else record.item.value

    def revision(self, key: bytes) -> int:
        """How often the key was written."""
        record = self.machine.find(key)
        return 0 if record is None else record.revision

    def owner_of(self, key: bytes) -> int | None:
        """Who owns a key, as far as this replica knows."""
        owner: int | None = self.inner.owner_of(object_of(key))
        return owner

    def owns(self, key: bytes) -> bool:
        """Does it own the key, phase 1 behind it?"""
        return object_of(key) in self.inner._replication.tenures

    def held(self, key: bytes) -> Any:
        """What the protocol object holds of a key."""
        return self.inner._logs[object_of(key)]


class Estate(Story):
    """Replicas 1 to n of WPaxos."""

    def __init__(
        self,
        n: int = 3,
        *,
        spec: ProtocolSpec = PROTOCOL,
        options: dict[str, int | float | str | bool] | None = None,
        zones: Iterable[str] = (),
        voting: bool = True,
        seed: int | None = None,
    ) -> None:
        self.values: dict[tuple[str, int], tuple[Command, ...]] = {}
        self.sequence = 0
        super().__init__(n, spec=spec, options=options, zones=zones, voting=voting, seed=seed, replica_type=Holder)

    def __getitem__(self, replica: int) -> Holder:
        holder = self.replicas[replica]
        assert isinstance(holder, Holder)
        return holder

    @property
    def holders(self) -> list[Holder]:
        """All replicas."""
        return [self[replica] for replica in sorted(self.replicas)]

    def counters(self, name: str) -> int:
        """A counter of the protocol, summed over the replicas that are up."""
        return sum(holder.core.status().counters.get(name, 0) for holder in self.holders if holder.up)

    def judge_delivery(self, holder: Holder, name: str, position: int, commands: tuple[Command, ...]) -> None:
        """Agreement, and no gaps."""
        known = self.values.setdefault((name, position), commands)
        assert known == commands, f"replica {holder.id} delivers {commands} at {name}:{position}, not {known}"
        reached = holder.machine.applied.get(name, 0)
        assert position <= reached + 1, f"replica {holder.id} delivers {name}:{position} behind {reached}"

    def value(self, key: bytes) -> bytes | None:
        """What all replicas that are up hold, which has to be the same."""
        held = {holder.value(key) for holder in self.holders if holder.up}
        assert len(held) == 1, f"{key!r} differs: {held}"
        return held.pop()
