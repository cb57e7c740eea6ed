"""Telling how far one is, fetching what was missed, and forgetting what all have executed.

A commit is sent once. Whoever misses it learns from the next `Progress` of a peer that there is more, and if the gap
stays for a while fetches what is decided, in chunks. What the peer has discarded it can't tell: then the driver is
asked for a snapshot. What everybody has executed is dropped from memory; records on disk stay for a tail behind the
own snapshot.

A snapshot replaces the whole state, so two replicas that each lack what the other has discarded can't help one another.
Therefore what a peer lacks is discarded only if this replica has executed all that the peer has, as it told a moment
ago: then a snapshot helps the peer. If it has not, it lacks something itself, and the two make it up to each other from
their records. A peer that has been silent for long is not waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from replica.consensus.interface import Discard, Frontier, ReplicaId, SnapshotWish

from .execution import Execution
from .instance import Space
from .instances import Instances
from .messages import (
    VALUES_TABLE,
    VOTES_TABLE,
    Commit,
    Dependencies,
    Entry,
    Fetch,
    Fetched,
    Progress,
    instance_key,
)
from .rounds import Rounds
from .state import QUIET_TICKS, Core

FETCH_INSTANCES_MAX: Final = 1024
"""Instances in one chunk."""

FETCH_AHEAD_MAX: Final = 8192
"""A replica that holds so many decided instances of a space unexecuted fetches no more of it."""

SILENCE: Final = 10
"""A peer that has missed so many times ``QUIET_TICKS`` may be gone, and may find what it lacks discarded."""

SNAPSHOT_PATIENCE_S: Final = 10.0
"""A wish that was neither fulfilled nor declared unavailable is uttered again after so long."""


class CatchUps:
    """What this replica tells, asks for and is asked for."""

    def __init__(self, core: Core, instances: Instances, rounds: Rounds, execution: Execution) -> None:
        self._core = core
        self._instances = instances
        self._rounds = rounds
        self._execution = execution
        self._told: Dependencies = core.nothing
        self._quiet = 0
        self._peers: dict[ReplicaId, Dependencies] = {}
        """How far others are, as far as they have told since the start."""
        self._proposed: dict[ReplicaId, int] = {}
        """What numbers they had used when they told so."""
        self._told_at: dict[ReplicaId, float] = {}
        """And when that was; of those who have not told anything, when this replica started."""
        self._stuck: list[tuple[int, float]] = [(0, 0.0)] * len(core.members)
        """By rank: where the decided ones end, and since when."""
        self._asked: list[int] = [0] * len(core.members)
        """By rank: the number from which on the others were asked last."""
        self._wished_at: float | None = None
        self._wished: list[int] = []

    def start(self) -> None:
        """From now on others are listened to."""
        self._told_at = dict.fromkeys(self._core.others, self._core.now)

    # --------------------------------------------------------------------------------------------------------- telling

    def tick(self) -> None:
        """Tell the news, forget what everybody knows, and ask for what has been missing for a while."""
        core, instances = self._core, self._instances
        executed = instances.executed
        self._quiet += 1
        if executed != self._told or self._quiet >= QUIET_TICKS:
            self._told = executed
            self._quiet = 0
            core.tell_all(Progress(executed, instances.proposed))
        self._remember_less(executed)
        # Who has not told yet may have executed nothing: then memory is bounded by the number of keys alone.
        told = (self._peers.get(peer, core.nothing) for peer in core.others)
        instances.conflicts.forget([min(column) for column in zip(executed, *told, strict=True)])
        for rank, space in enumerate(instances.spaces):
            mark, since = self._stuck[rank]
            if space.decided != mark:
                self._stuck[rank] = (space.decided, core.now)
            elif core.now >= since + core.options.retransmit_s:
                ahead = [peer for peer in core.others if self._peers.get(peer, core.nothing)[rank] > space.decided]
                if ahead and space.decided - space.executed < FETCH_AHEAD_MAX and not self._awaits_snapshot:
                    self._stuck[rank] = (space.decided, core.now)
                    peer = ahead[core.randomness.randrange(0, len(ahead))]
                    self._fetch(peer, space)

    def _remember_less(self, executed: Dependencies) -> None:
        core, instances = self._core, self._instances
        everywhere: Dependencies | None = None
        proposed = core.nothing
        if all(peer in self._proposed for peer in core.others):
            told = (self._peers[peer] for peer in core.others)
            everywhere = tuple(min(column) for column in zip(executed, *told, strict=True))
            used = {**self._proposed, core.replica: instances.proposed}
            proposed = tuple(used[member] for member in core.members)
        instances.history.tick(executed, everywhere, proposed)

    def on_progress(self, sender: ReplicaId, message: Progress) -> None:
        """How far a peer is. It may have gone back: the last word holds."""
        self._peers[sender] = message.executed
        self._told_at[sender] = self._core.now
        if message.proposed is not None:
            self._proposed[sender] = message.proposed
        else:
            self._proposed.pop(sender, None)

    # -------------------------------------------------------------------------------------------------------- fetching

    @property
    def _awaits_snapshot(self) -> bool:
        return (
            self._wished_at is not None
            and self._core.now < self._wished_at + SNAPSHOT_PATIENCE_S
            and any(wished > done for wished, done in zip(self._wished, self._instances.executed, strict=True))
        )

    def _fetch(self, peer: ReplicaId, space: Space) -> None:
        self._asked[space.rank] = space.decided + 1
        self._core.tell(peer, Fetch(space.replica, space.decided + 1))

    def on_fetch(self, sender: ReplicaId, message: Fetch) -> None:
        """Answer with what is decided here."""
        instances = self._instances
        space = instances.by_member[message.space]
        entries: list[Entry] = []
        size = 0
        floor = tuple(instances.floor)
        for number in range(message.first, min(message.first + FETCH_INSTANCES_MAX, space.highest + 1)):
            if space.has_executed(number):
                instance = instances.archived(message.space, number)
                if instance is None:
                    if not entries:
                        floor = self._untold(message.space, number)
                    break
            else:
                instance = space.live.get(number)
                if instance is None or not instance.decided:
                    continue
            value = b"" if instance.noop else instance.value or b""
            size += len(value)
            if entries and size > self._core.options.chunk_bytes_max:
                break
            entries.append(Entry(number, instance.noop, value, instance.dependencies))
        self._core.tell(sender, Fetched(message.space, message.first, tuple(entries), floor))

    def tell_executed(self, to: ReplicaId, space: ReplicaId, number: int) -> None:
        """Somebody is still concerned with an instance that was executed here."""
        instance = self._instances.archived(space, number)
        if instance is None:
            self._core.tell(to, Fetched(space, number, (), self._untold(space, number)))
            return
        value = b"" if instance.noop else instance.value or b""
        self._core.tell(to, Commit(space, number, instance.noop, value, instance.dependencies))

    def _untold(self, space: ReplicaId, number: int) -> Dependencies:
        """What must be covered by a snapshot for whoever needs an instance that was executed and can't be told."""
        instances = self._instances
        if number <= instances.floor[self._core.rank[space]]:
            return tuple(instances.floor)
        return tuple(map(max, instances.floor, instances.executed))

    def on_fetched(self, sender: ReplicaId, message: Fetched) -> None:
        """A chunk has come."""
        core, instances = self._core, self._instances
        space = instances.by_member[message.space]
        for entry in message.entries:
            if space.has_executed(entry.number):
                continue
            instance = instances.obtain(message.space, entry.number)
            if instance.decided:
                continue
            if not entry.noop:
                instances.learn(instance, entry.value)
            self._rounds.learned(instance, entry.noop, entry.dependencies)
        if message.entries:
            known = self._peers.get(sender, core.nothing)[space.rank]
            more = message.first <= space.decided < known and space.decided - space.executed < FETCH_AHEAD_MAX
            # Only what was asked for last leads on: did every copy of an answer, a network that repeats some messages
            # would be filled with the questions and answers that each brings about.
            if more and message.first == self._asked[space.rank]:
                self._fetch(sender, space)
        elif not space.has_executed(message.first) and message.first <= message.floor[space.rank]:
            self._wish(sender, message.floor)

    def _wish(self, peer: ReplicaId, floor: Dependencies) -> None:
        if self._awaits_snapshot:
            return
        self._wished_at, self._wished = self._core.now, list(floor)
        self._core.effects.snapshot_wish = SnapshotWish(peer, self._instances.frontier(floor))

    # -------------------------------------------------------------------------------------------------------- snapshots

    def on_taken(self, frontier: Frontier) -> None:
        """The own state is durable in a snapshot up to ``frontier``: discard what lies well behind.

        The state may hold more than is known to be executed: single instances that came with the snapshot of a peer.
        """
        instances = self._instances
        covered = map(min, instances.numbers(frontier), instances.executed)
        numbers = [tail.floor(number) for tail, number in zip(instances.tails, covered, strict=True)]
        for lacks in self._not_to_be_helped_otherwise():
            numbers = list(map(min, numbers, lacks))
        self._discard(numbers)

    def _not_to_be_helped_otherwise(self) -> Iterator[Dependencies]:
        """How far those are that need the records of what lies beyond, since a snapshot may not help them."""
        core, executed = self._core, self._instances.executed
        for peer in core.others:
            told = self._peers.get(peer, core.nothing)
            since = core.now - self._told_at[peer]
            helped = peer in self._peers and since <= core.present_s and all(map(int.__ge__, executed, told))
            if since < SILENCE * core.quiet_s and not helped:
                yield told

    def on_installed(self, frontier: Frontier, mark: bytes) -> None:
        """The state of a peer has taken the place of the own one. No promise and no vote behind it is touched."""
        instances = self._instances
        instances.stand_at(frontier, mark)
        self._discard(instances.numbers(frontier))
        self._rounds.forget_executed()
        self._execution.restart()
        self.on_unavailable()

    def on_unavailable(self) -> None:
        """The wish is fulfilled or can't be: ask again where something is missing."""
        self._wished_at = None

    def _discard(self, numbers: list[int]) -> None:
        core, instances = self._core, self._instances
        moved = any(map(int.__gt__, instances.reached, instances.executed))
        for space, number in zip(instances.spaces, numbers, strict=True):
            floor = instances.floor[space.rank]
            if number > floor:
                first, last = instance_key(space.replica, floor + 1), instance_key(space.replica, number + 1)
                core.writes.extend((Discard(VALUES_TABLE, first, last), Discard(VOTES_TABLE, first, last)))
                instances.floor[space.rank] = number
                moved = True
        if moved:
            instances.write_floor()
