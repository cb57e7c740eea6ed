"""Random schedules over a `Story`: whatever order, loss, duplication, slow disk and crash a seed comes up with.

One seed replays exactly. While it runs, agreement and the replicas' invariants are checked at each step, and every read
that is granted must cover what had been delivered anywhere when it arrived. Then everything heals, and all replicas
must get to the same log with a fresh command in it.
"""

from __future__ import annotations

import random
from typing import TypeAlias

from replica.consensus.interface import PeerReset, ProtocolSpec
from replica.consensus.multipaxos import PROTOCOL

from .story import Replica, Story

Options: TypeAlias = dict[str, int | float | str | bool]

SMALL: Options = {
    "window_slots": 4,
    "tail_slots": 3,
    "chunk_bytes_max": 40,
    "batch_max": 2,
    "queue_max": 20,
    "reads_max": 10,
}
"""Bounds so tight that a short run hits all of them."""


class Chaos:
    """One run."""

    def __init__(
        self,
        seed: int,
        *,
        n: int = 3,
        spec: ProtocolSpec = PROTOCOL,
        options: Options | None = None,
        machine_crashes: bool = True,
    ) -> None:
        self.dice = random.Random(seed)
        self.story = Story(n, spec=spec, options=SMALL if options is None else options, seed=seed)
        self.machine_crashes = machine_crashes
        self.commands = 0
        self.tokens = 0
        self.reads: dict[int, tuple[int, int]] = {}
        """By token: the replica asked, and the furthest position delivered anywhere when it was."""
        for replica in self.story.replicas.values():
            replica.syncs = self.dice.random() < 0.5

    def run(self, steps: int) -> None:
        """Misbehave for so many steps, then demand progress."""
        actions = [
            (self.carry, 120),
            (self.tick, 20),
            (self.propose, 12),
            (self.sync, 30),
            (self.read, 4),
            (self.calm, 1),
            (self.duplicate, 2),
            (self.lose, 3),
            (self.crash, 1.2),
            (self.restart, 3),
            (self.snapshot, 1),
            (self.install, 3),
            (self.partition, 0.6),
            (self.heal_links, 1),
            (self.hand_over, 0.3),
            (self.reset, 0.5),
        ]
        functions, weights = zip(*actions, strict=True)
        for _ in range(steps):
            self.dice.choices(functions, weights)[0]()
            self.judge_reads()
        self.heal()

    def anyone(self) -> Replica:
        return self.dice.choice(list(self.story.replicas.values()))

    def carry(self) -> None:
        wires = self.story.wires
        if wires:
            index = 0 if self.dice.random() < 0.7 else self.dice.randrange(len(wires))
            self.story.carry(index)

    def calm(self) -> None:
        """For a moment all that is up and reachable works."""
        self.story.wait(0.1)

    def tick(self) -> None:
        replica = self.anyone()
        replica.clock += self.dice.choice((0.01, 0.05, 0.05, 0.2, 0.5))
        replica.step()

    def propose(self) -> None:
        replica = self.story.leader() if self.dice.random() < 0.8 else self.anyone()
        if replica is not None and replica.up:
            batch = [b"%d" % (self.commands + index) for index in range(self.dice.randrange(1, 5))]
            self.commands += len(batch)
            replica.propose(*batch)

    def sync(self) -> None:
        self.anyone().sync()

    def read(self) -> None:
        replica = self.story.leader() if self.dice.random() < 0.8 else self.anyone()
        if replica is not None and replica.up:
            self.tokens += 1
            self.reads[self.tokens] = (replica.id, max(self.story.decided, default=0))
            replica.read(self.tokens)

    def judge_reads(self) -> None:
        for replica in self.story.replicas.values():
            for token, frontier in replica.granted.items():
                asked, at_least = self.reads.pop(token)
                assert asked == replica.id
                assert frontier >= at_least, f"read {token} misses what was delivered before it was asked for"
            replica.granted.clear()
            for refused in replica.refused_reads:
                self.reads.pop(refused.token)
            replica.refused_reads.clear()

    def duplicate(self) -> None:
        if self.story.wires:
            self.story.wires.append(self.dice.choice(self.story.wires))

    def lose(self) -> None:
        if self.story.wires:
            del self.story.wires[self.dice.randrange(len(self.story.wires))]

    def crash(self) -> None:
        replica = self.anyone()
        if replica.up:
            replica.crash(
                keep_writes=self.dice.randrange(0, len(replica.disk.unsynced) + 1),
                state_survives=not self.machine_crashes or self.dice.random() < 0.6,
            )
            self.reads = {token: read for token, read in self.reads.items() if read[0] != replica.id}

    def restart(self) -> None:
        replica = self.anyone()
        if not replica.up:
            replica.syncs = self.dice.random() < 0.5
            replica.start()

    def snapshot(self) -> None:
        replica = self.anyone()
        if replica.up and replica.applied > replica.snapshot:
            replica.take_snapshot()

    def install(self) -> None:
        replica = self.anyone()
        while replica.up and replica.wishes:
            self.fulfil(replica)

    def partition(self) -> None:
        if self.dice.random() < 0.5:
            self.story.isolate(self.anyone().id)
        else:
            a, b = self.anyone().id, self.anyone().id
            if a != b:
                self.story.cut.add((a, b))

    def heal_links(self) -> None:
        self.story.heal()

    def hand_over(self) -> None:
        replica = self.story.leader()
        if replica is not None:
            replica.yields(self.anyone().id)

    def reset(self) -> None:
        a, b = self.anyone(), self.anyone()
        if a is not b:
            a.step(PeerReset(b.id))

    def heal(self) -> None:
        """No more faults: everybody must come to agree, and to decide something new."""
        story = self.story
        story.heal()
        latest = max(replica.clock for replica in story.replicas.values())
        for replica in story.replicas.values():
            replica.clock = latest
            replica.syncs = True
            if not replica.up:
                replica.start()
            replica.sync()
        probe = None
        for _ in range(400):
            story.wait(0.1)
            for replica in story.replicas.values():
                if replica.wishes:
                    self.fulfil(replica)
            leader = story.leader()
            if leader is not None and (probe is None or self.commands % 10 == 0):
                probe = b"probe"
                leader.propose(probe)
            self.commands += 1
            last = max(story.decided, default=0)
            if any(command.payload == b"probe" for commands in story.decided.values() for command in commands) and all(
                replica.applied == last for replica in story.replicas.values()
            ):
                self.judge_reads()
                return
        view = [replica.core.status() for replica in story.replicas.values()]
        raise AssertionError(f"no progress after everything healed: {view}")

    def fulfil(self, replica: Replica) -> None:
        wish = replica.wishes[-1]
        replica.wishes.clear()
        peer = self.story[wish.peer]
        assert isinstance(wish.frontier, int)
        if not (peer.up and peer.applied >= wish.frontier and replica.install_from(peer)):
            replica.snapshot_unavailable(wish.peer)
