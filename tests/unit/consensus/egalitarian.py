"""Hand-driven clusters and random schedules for EPaxos: `story` and `chaos`, with an order by dependencies.

`Gathering` is a `Story` whose replicas keep, for each key, the sequence of the instances that wrote it and, for each
read, how many writes came before it. Whatever is delivered is compared across all replicas and incarnations:

- *agreement*: an instance is decided once, commands and dependencies alike, and delivered with those commands;
- *visibility*: of two decided instances that interfere, one depends on the other;
- *one order*: the writes of a key come in one sequence, and every read stands at one place in it;
- a command is decided in one instance only, and everything delivered was proposed.

`Turmoil` is `Chaos` over a gathering: loss, duplication, reordering, slow disks, crashes of processes and machines,
partitions, snapshots; then everything heals, and everybody must execute everything, a fresh command of each included.
"""

from __future__ import annotations

import random
from typing import Any

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.interference import Touch, touch_of
from replica.consensus.epaxos.messages import Accept, Commit, Dependencies, PreAccept, PreAccepted
from replica.consensus.interface import Command, Footprint, Message, PeerReset, Proposed, ProtocolSpec
from replica.storage.coordinator import Anchor, Turn

from .story import Replica, Story

Name = tuple[str, int]
"""(object, position)."""


def write(payload: bytes, *keys: bytes) -> Command:
    """A command that writes these keys."""
    return Command(payload, footprint=Footprint(writes=keys))


def read(payload: bytes, *keys: bytes) -> Command:
    """A command that reads these keys."""
    return Command(payload, footprint=Footprint(reads=keys, read_only=True))


class Image:
    """The state of a replica."""

    def __init__(self) -> None:
        self.executed: set[Name] = set()
        self.writes: dict[bytes, list[bytes]] = {}
        self.log: list[bytes] = []

    def copy(self) -> Image:
        other = Image()
        other.executed = set(self.executed)
        other.writes = {key: list(names) for key, names in self.writes.items()}
        other.log = list(self.log)
        return other

    def frontier(self) -> dict[str, int]:
        """By object, the last position up to which everything has been applied."""
        frontier: dict[str, int] = {}
        for name in sorted({name for name, _ in self.executed}):
            position = 0
            while (name, position + 1) in self.executed:
                position += 1
            if position:
                frontier[name] = position
        return frontier


class Peer(Replica):
    """One replica; its state is an `Image`."""

    story: Gathering

    def __init__(self, story: Story, replica: int, anchor: Anchor, voting: bool) -> None:
        super().__init__(story, replica, anchor, voting)
        self.image = Image()
        self.saved = Image()
        """What the durable snapshot holds."""
        self.applied: Any = {}

    def crash(self, *, keep_writes: int = 0, state_survives: bool = True) -> None:
        self.disk.crash(keep_writes)
        self.coordinator = None
        if not state_survives:
            self.image = self.saved.copy()
        self.applied = self.image.frontier()

    def carry_out(self, turn: Turn) -> None:
        self.core.protocol.check()
        for send in turn.sends:
            self.story.post(self.id, send)
        if turn.group:
            self.disk.write(turn.group, turn.writes)
        for delivery in turn.deliveries:
            name = (delivery.object, delivery.position)
            self.story.judge_delivery(self, name, delivery.commands)
            if name in self.image.executed:
                continue
            self.image.executed.add(name)
            for command in delivery.commands:
                self._apply(command)
        if turn.deliveries:
            self.applied = self.image.frontier()
        self.rejections.extend(turn.rejections)
        self.refused_reads.extend(turn.refused_reads)
        if turn.snapshot_wish is not None:
            self.wishes.append(turn.snapshot_wish)
        self.story.judge_decisions(self)
        if self.syncs:
            self.sync()

    def _apply(self, command: Command) -> None:
        image, footprint = self.image, command.footprint
        assert footprint is not None
        image.log.append(command.payload)
        touched = touch_of((command,))
        for key in self.story.keys:
            alone_read = Touch({}, {key: None})
            alone_write = Touch({key: None}, {})
            if touched.interferes(alone_read):  # it writes the key
                names = image.writes.setdefault(key, [])
                self.story.judge_write(self, key, len(names), command.payload)
                names.append(command.payload)
            elif touched.interferes(alone_write):
                self.story.judge_read(self, key, len(image.writes.get(key, ())), command.payload)

    def propose_commands(self, *commands: Command) -> None:
        """Clients of this replica ask for these."""
        self.story.proposed.update(command.payload for command in commands)
        self.step(Proposed(commands))

    def take_snapshot(self) -> None:
        while self.disk.unsynced:
            self.sync()
        self.saved = self.image.copy()
        self._switch(self.core.anchor_at(self.image.frontier(), f"at-{len(self.image.log)}"), False)

    def install_from(self, peer: Replica) -> bool:
        assert isinstance(peer, Peer)
        while self.disk.unsynced:
            self.sync()
        frontier, saved = peer.image.frontier(), self.saved.frontier()
        if any(frontier.get(name, 0) < position for name, position in saved.items()):
            return False
        self.image = peer.image.copy()
        self.saved = peer.image.copy()
        self.applied = frontier
        self._switch(peer.core.anchor_at(frontier, f"of-{peer.id}"), True)
        return True


class Gathering(Story):
    """Replicas 1 to n of EPaxos."""

    def __init__(
        self,
        n: int = 3,
        *,
        spec: ProtocolSpec = PROTOCOL,
        options: dict[str, int | float | str | bool] | None = None,
        keys: tuple[bytes, ...] = (b"x", b"y", b"z"),
        voting: bool = True,
        seed: int | None = None,
    ) -> None:
        self.keys = keys
        self.proposed: set[bytes] = set()
        self.values: dict[Name, tuple[Command, ...]] = {}
        self.decisions: dict[Name, tuple[bool, Dependencies, Touch | None]] = {}
        self.places: dict[bytes, Name] = {}
        self.writes: dict[bytes, list[bytes]] = {}
        self.reads: dict[tuple[bytes, bytes], int] = {}
        super().__init__(n, spec=spec, options=options, voting=voting, seed=seed, replica_type=Peer)

    def __getitem__(self, replica: int) -> Peer:
        peer = self.replicas[replica]
        assert isinstance(peer, Peer)
        return peer

    @property
    def peers(self) -> list[Peer]:
        """All replicas."""
        return [self[replica] for replica in sorted(self.replicas)]

    def counters(self, name: str) -> int:
        """A counter of the protocol, summed over the replicas that are up."""
        return sum(peer.core.status().counters.get(name, 0) for peer in self.peers if peer.up)

    # What is checked.

    def judge_delivery(self, peer: Peer, name: Name, commands: tuple[Command, ...]) -> None:
        known = self.values.setdefault(name, commands)
        assert known == commands, f"agreement: replica {peer.id} delivers {commands} at {name}, not {known}"
        for command in commands:
            assert command.payload in self.proposed, f"nobody proposed {command.payload!r}"
            place = self.places.setdefault(command.payload, name)
            assert place == name, f"{command.payload!r} is decided at {place} and at {name}"

    def judge_decisions(self, peer: Peer) -> None:
        # A decision that is not durable has not been told to anybody: a crash may still undo it.
        durable = peer.inner._core.durable
        for space in peer.inner._instances.spaces:
            for instance in space.live.values():
                if instance.decided and instance.ticket <= durable:
                    name = (str(instance.space), instance.number)
                    decision = (instance.noop, instance.dependencies)
                    known = self.decisions.setdefault(name, (*decision, None if instance.noop else instance.touch))
                    assert known[:2] == decision, f"agreement: replica {peer.id} has {decision} for {name}, not {known}"

    def judge_visibility(self) -> None:
        """Of two decided instances that interfere, one depends on the other."""
        real = [(name, decision) for name, decision in self.decisions.items() if decision[2] is not None]
        for index, (name, (_, dependencies, touch)) in enumerate(real):
            for other, (_, other_dependencies, other_touch) in real[:index]:
                assert touch is not None
                assert other_touch is not None
                if touch.interferes(other_touch):
                    seen = dependencies[int(other[0]) - 1] >= other[1]
                    assert seen or other_dependencies[int(name[0]) - 1] >= name[1], (
                        f"visibility: {name} and {other} interfere, and neither depends on the other"
                    )

    def judge_write(self, peer: Peer, key: bytes, place: int, payload: bytes) -> None:
        names = self.writes.setdefault(key, [])
        if place == len(names):
            names.append(payload)
        assert names[place] == payload, (
            f"one order: write {place} of {key!r} is {payload!r} at replica {peer.id}, {names[place]!r} elsewhere"
        )

    def judge_read(self, peer: Peer, key: bytes, place: int, payload: bytes) -> None:
        known = self.reads.setdefault((key, payload), place)
        assert known == place, (
            f"one order: {payload!r} reads {key!r} after {place} writes at replica {peer.id}, after {known} elsewhere"
        )


SMALL: dict[str, int | float | str | bool] = {
    "window_instances": 6,
    "batch_max": 2,
    "chunk_bytes_max": 200,
    "queue_max": 40,
    "tail_instances": 40,
}
"""Bounds so tight that a short run hits them."""


class Turmoil:
    """One run."""

    def __init__(
        self,
        seed: int,
        *,
        n: int = 3,
        spec: ProtocolSpec = PROTOCOL,
        options: dict[str, int | float | str | bool] | None = None,
        keys: int = 3,
        machine_crashes: bool = True,
    ) -> None:
        self.dice = random.Random(seed)
        self.keys = tuple(b"k%d" % number for number in range(keys))
        self.story = Gathering(n, spec=spec, options={**SMALL, **(options or {})}, keys=self.keys, seed=seed)
        self.machine_crashes = machine_crashes
        self.commands = 0
        for peer in self.story.peers:
            peer.syncs = self.dice.random() < 0.5

    def run(self, steps: int) -> None:
        """Misbehave for so many steps, then demand progress."""
        actions = [
            (self.carry, 120),
            (self.tick, 20),
            (self.propose, 12),
            (self.sync, 30),
            (self.calm, 0.7),
            (self.duplicate, 2),
            (self.lose, 3),
            (self.crash, 1.2),
            (self.restart, 3),
            (self.snapshot, 1),
            (self.install, 3),
            (self.partition, 0.6),
            (self.heal_links, 1),
            (self.reset, 0.5),
        ]
        functions, weights = zip(*actions, strict=True)
        for _ in range(steps):
            self.dice.choices(functions, weights)[0]()
        self.heal()

    def anyone(self) -> Peer:
        return self.dice.choice(self.story.peers)

    def carry(self) -> None:
        wires = self.story.wires
        if wires:
            index = 0 if self.dice.random() < 0.7 else self.dice.randrange(len(wires))
            self.story.carry(index)

    def calm(self) -> None:
        self.story.wait(0.1)

    def tick(self) -> None:
        peer = self.anyone()
        peer.clock += self.dice.choice((0.01, 0.05, 0.05, 0.2, 0.5))
        peer.step()

    def command(self) -> Command:
        self.commands += 1
        payload = b"%d" % self.commands
        keys = tuple(self.dice.sample(self.keys, self.dice.choice((1, 1, 1, 2))))
        kind = self.dice.random()
        if kind < 0.05:
            return Command(payload, footprint=Footprint(ranges=((b"k", b"k9"),), read_only=True))
        if kind < 0.08:
            return Command(payload, footprint=Footprint(writes=keys[:1], written_ranges=((keys[-1], b""),)))
        if kind < 0.3:
            return read(payload, *keys)
        if kind < 0.4:
            return Command(payload, footprint=Footprint(reads=keys[:1], writes=keys[1:] or keys[:1]))
        return write(payload, *keys)

    def propose(self) -> None:
        peer = self.anyone()
        if peer.up:
            peer.propose_commands(*(self.command() for _ in range(self.dice.randrange(1, 4))))

    def sync(self) -> None:
        self.anyone().sync()

    def duplicate(self) -> None:
        if self.story.wires:
            self.story.wires.append(self.dice.choice(self.story.wires))

    def lose(self) -> None:
        if self.story.wires:
            del self.story.wires[self.dice.randrange(len(self.story.wires))]

    def crash(self) -> None:
        peer = self.anyone()
        if peer.up:
            peer.crash(
                keep_writes=self.dice.randrange(0, len(peer.disk.unsynced) + 1),
                state_survives=not self.machine_crashes or self.dice.random() < 0.6,
            )

    def restart(self) -> None:
        peer = self.anyone()
        if not peer.up:
            peer.syncs = self.dice.random() < 0.5
            peer.start()

    def snapshot(self) -> None:
        peer = self.anyone()
        if peer.up:
            peer.take_snapshot()

    def install(self) -> None:
        peer = self.anyone()
        while peer.up and peer.wishes:
            self.fulfil(peer)

    def partition(self) -> None:
        if self.dice.random() < 0.5:
            self.story.isolate(self.anyone().id)
        else:
            a, b = self.anyone().id, self.anyone().id
            if a != b:
                self.story.cut.add((a, b))

    def heal_links(self) -> None:
        self.story.heal()

    def reset(self) -> None:
        a, b = self.anyone(), self.anyone()
        if a is not b:
            a.step(PeerReset(b.id))

    def heal(self) -> None:
        """No more faults: everybody must come to execute the same, and something new of each."""
        story = self.story
        story.heal()
        latest = max(peer.clock for peer in story.peers)
        for peer in story.peers:
            peer.clock = latest
            peer.syncs = True
            if not peer.up:
                peer.start()
            peer.sync()
        probes = []
        for peer in story.peers:
            probes.append(b"probe %d" % peer.id)
            peer.propose_commands(write(probes[-1], *self.keys))
        for _ in range(400):
            story.wait(0.1)
            for peer, probe in zip(story.peers, probes, strict=True):
                if peer.wishes:
                    self.fulfil(peer)
                if any(rejection.definite and rejection.command.payload == probe for rejection in peer.rejections):
                    peer.rejections.clear()
                    peer.propose_commands(write(probe, *self.keys))
            if all(
                peer.image.executed == story.peers[0].image.executed
                and all(probe in peer.image.log for probe in probes)
                for peer in story.peers
            ):
                story.judge_visibility()
                return
        view = [peer.core.status() for peer in story.peers]
        raise AssertionError(f"no progress after everything healed: {view}")

    def fulfil(self, peer: Peer) -> None:
        wish = peer.wishes[-1]
        peer.wishes.clear()
        other = self.story[wish.peer]
        assert isinstance(wish.frontier, dict)
        frontier = other.image.frontier()
        covered = all(frontier.get(name, 0) >= position for name, position in wish.frontier.items())
        if not (other.up and covered and peer.install_from(other)):
            peer.snapshot_unavailable(wish.peer)


class Ambush:
    """Random schedules about one contested instance: it is proposed, and then recovered again and again.

    Each recovery is heard by some only, and what it asks to be voted for, or has decided, is lost on the way to some;
    in between replicas crash and come back. A run is short, so that many fit where `Turmoil` has one: the mistakes that
    a recovery can make take four ballots in a row that few other schedules contain.
    """

    def __init__(self, seed: int, *, n: int = 5, spec: ProtocolSpec = PROTOCOL) -> None:
        self.dice = random.Random(f"ambush {seed}")
        self.story = Gathering(n, spec=spec, seed=seed)

    def run(self, recoveries: int = 10) -> None:
        """Propose, recover so many times, then let everything heal."""
        story, dice = self.story, self.dice
        leaders = dice.sample(story.peers, dice.choice((1, 1, 2)))
        for leader in leaders:
            self.hear(kinds=(PreAccept, PreAccepted, Accept, Commit))
            leader.propose_commands(write(b"of %d" % leader.id, b"x"))
            story.settle()
        for _ in range(recoveries):
            for peer in story.peers:
                if peer.up and dice.random() < 0.08:
                    peer.crash(state_survives=dice.random() < 0.7)
                elif not peer.up and dice.random() < 0.6:
                    peer.start()
            story.wires.clear()
            self.hear(kinds=dice.choice(((Accept, Commit), (Commit,))))
            self.recover(dice.choice(story.peers), dice.choice(leaders))
            story.settle()
        story.lose = lambda sender, to, message: False
        latest = max(peer.clock for peer in story.peers)
        for peer in story.peers:
            peer.clock = latest
            if not peer.up:
                peer.start()
        for peer in story.peers:
            peer.propose_commands(write(b"probe %d" % peer.id, b"x"))
        for _ in range(60):
            story.wait(0.5)
            if all(peer.image.executed == story.peers[0].image.executed for peer in story.peers) and (
                len(story.peers[0].image.log) >= len(story.peers)
            ):
                break
        else:
            raise AssertionError(f"no progress after everything healed: {[p.core.status() for p in story.peers]}")
        story.judge_visibility()

    def hear(self, kinds: tuple[type[Message], ...]) -> None:
        """From now on only some hear each other, and messages of these kinds are lost on some links besides."""
        members = sorted(self.story.replicas)
        audience = set(self.dice.sample(members, self.dice.randrange(2, len(members) + 1)))
        chance = self.dice.choice((0.5, 0.9, 1.0))
        cut = {(kind, a, b) for kind in kinds for a in members for b in members if self.dice.random() < chance}
        self.story.lose = lambda sender, to, message: (
            sender not in audience or to not in audience or (type(message), sender, to) in cut
        )

    def recover(self, peer: Peer, leader: Peer) -> None:
        """Let time pass at one replica until it recovers the instance."""
        if not peer.up or peer.inner._instances.has_executed(leader.id, 1):
            return
        peer.inner._recovery._meet((leader.id, 1))
        for member in self.story.replicas:
            peer.inner._recovery.heard_from(member)  # at another time, it may be
        begun = peer.core.status().counters.get("recoveries", 0)
        for _ in range(200):
            peer.clock += 0.1
            peer.step()
            if peer.core.status().counters.get("recoveries", 0) > begun:
                return
