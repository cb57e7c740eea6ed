"""A replica as a machine in virtual time: one processor, one disk, and the node's own way of taking turns.

What the node does, with a clock that is told how long things take: a turn drains what has come, steps the protocol,
hands over its frames, commits its group, and applies what was decided. The outcome of a turn leaves when the processor
has done its work; a sync that is inline keeps the processor from the next turn, one on the thread does not. Frames to
one place travel together. Nothing crashes, so records are kept as they are and nothing is ever read back after a loss.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from sortedcontainers import SortedDict

from bench.simulated.costs import Costs
from replica.consensus.codec import Codec
from replica.consensus.frontiers import covers
from replica.consensus.interface import (
    Command,
    Configuration,
    Event,
    Frontier,
    Proposed,
    ProtocolSpec,
    Put,
    ReadRequested,
    Received,
    Record,
    Reject,
    ReplicaId,
    Write,
    Yield,
)
from replica.kv.objects.minting import Mint
from replica.simulation import frames
from replica.simulation.machine import Answer, make_home
from replica.simulation.witness import Controls
from replica.simulation.world import World
from replica.storage.coordinator import Anchor, Coordinator, Turn

__all__ = ["Machine", "SimulationLimit"]

TURN_EVENTS_MAX: Final = 4096
"""Events that one turn takes up, as in the node."""

COMMIT_EVERY: Final = 256
"""Deliveries between commits of the state in memory."""


class SimulationLimit(Exception):
    """The protocol asked for what is not simulated here; the text says what."""


class _Tables:
    """What a protocol had written: records as they are, readable at once."""

    def __init__(self) -> None:
        self._tables: dict[str, SortedDict] = {}

    def _table(self, name: str) -> SortedDict:
        return self._tables.setdefault(name, SortedDict())

    def get(self, table: str, key: bytes) -> Record | None:
        found: Record | None = self._table(table).get(key)
        return found

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        rows = self._table(table)
        for key in list(rows.irange(first, last, inclusive=(True, False))):
            yield key, rows[key]

    def write(self, writes: Sequence[Write]) -> None:
        for write in writes:
            rows = self._table(write.table)
            if isinstance(write, Put):
                rows[write.key] = write.record
            else:
                for key in list(rows.irange(write.first, write.last, inclusive=(True, False))):
                    del rows[key]


class Machine:
    """One replica.

    Args:
        carry: sends a frame of so many bytes to a replica (positive) or a client (negative).
        sync_mode: ``inline`` or ``thread``.
        durable: whether a commit takes a sync; without, it takes nothing.
    """

    def __init__(
        self,
        world: World,
        *,
        replica: ReplicaId,
        spec: ProtocolSpec,
        configuration: Configuration,
        costs: Costs,
        carry: Callable[[int, int, int, Any], None],
        sync_mode: str,
        durable: bool,
    ) -> None:
        self.world = world
        self.replica = replica
        self.spec = spec
        self.busy_s = 0.0
        """Processor time used so far."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.syncs = 0
        self._costs = costs
        self._carry = carry
        self._inline = sync_mode != "thread"
        self._durable = durable
        self._codec = Codec(spec)
        self._tables = _Tables()
        self.home = make_home(spec.capabilities, sessions_max=1 << 16, controls=Controls())
        self._mint = None if self.home.newest_session is None else Mint(replica, 1)
        self.coordinator = Coordinator(
            lambda _name: spec,
            replica=replica,
            anchor=Anchor(configuration),
            stable=lambda _spec: self._tables,
            randomness=random.Random(f"{world.seed}/protocol/{replica}"),
            incarnation=1,
            applied=self.home.applied,
            voting=True,
            registers=self.home.registers,
            objects=self.home,
        )
        self._inbox: deque[Event] = deque()
        self._commands: list[Command] = []
        self._frames_in = 0
        self._bytes_in = 0
        self._free_at = 0.0
        self._scheduled = False
        self._wake_at = float("inf")
        self._unsynced: list[int] = []
        self._syncing = False
        self._sessions: dict[int, int] = {}
        self._openings: dict[bytes, int] = {}
        self._reads: dict[int, tuple[int, frames.Read]] = {}
        self._granted: list[tuple[Frontier, int]] = []
        self._tokens = 0
        self._deliveries = 0

    def start(self) -> None:
        """Take part from now on."""
        self._carry_out(self.coordinator.start(self.world.now), self.world.now)

    # ---------------------------------------------------------------------------------------------------- what comes in

    def receive(self, sender: int, size: int, content: Any) -> None:
        """A frame has arrived: messages of a peer, or frames of a client."""
        self._frames_in += 1
        self._bytes_in += size
        self.received_bytes += size if sender > 0 else 0
        if sender > 0:
            self._inbox.extend(Received(sender, message) for message in content)
        else:
            for part in content:
                self._client(sender, part)
        self._schedule()

    def hand_over(self, successor: int) -> None:
        """Ask the protocol to give up leadership in favour of a replica."""
        self._inbox.append(Yield(successor))
        self._schedule()

    def _client(self, sender: int, part: Any) -> None:
        if isinstance(part, frames.Run):
            self._sessions[part.session] = sender
            self._commands.extend(self.home.commands(part))
        elif isinstance(part, frames.OpenSession):
            if self._mint is not None:
                self._mint.saw(self.home.newest_session or 0)
                self._carry(self.replica, sender, 16, [frames.Opened(part.nonce, self._mint.mint())])
            else:
                self._openings[part.nonce] = sender
                self._commands.append(Command(self.home.opening(part.nonce)))
        else:
            self._tokens += 1
            self._reads[self._tokens] = (sender, part)
            if part.stale:
                self._granted.append((self.home.applied, self._tokens))
            else:
                self._inbox.append(ReadRequested(self._tokens, self.home.footprint(part.operations)))

    # ------------------------------------------------------------------------------------------------------------ turns

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.world.at(max(self.world.now, self._free_at), self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._free_at > self.world.now:
            self._schedule()
            return
        costs = self._costs
        served = sum(command.count for command in self._commands)
        if self._commands:
            self._inbox.append(Proposed(tuple(self._commands)))
            self._commands = []
        events = [self._inbox.popleft() for _ in range(min(len(self._inbox), TURN_EVENTS_MAX))]
        messages = sum(1 for event in events if isinstance(event, Received))
        spent = costs.turn_s + self._frames_in * costs.frame_s + self._bytes_in * costs.byte_s
        spent += messages * costs.message_s + served * costs.serve_s
        self._frames_in = self._bytes_in = 0
        turn = self.coordinator.step(self.world.now, events)
        self._carry_out(turn, self.world.now + spent, spent=spent)
        if self._inbox or self._commands:
            self._schedule()

    def _carry_out(self, turn: Turn, done_at: float, *, spent: float = 0.0) -> None:
        """Let what a step asked for happen when the processor has got so far. ``spent``: until ``done_at``."""
        if turn.snapshot_wish is not None:
            raise SimulationLimit(f"replica {self.replica} of {self.spec.name} wishes for a snapshot")
        if turn.sealed is not None:
            raise SimulationLimit(f"{self.spec.name} sealed an epoch")
        frames_out, spent_out = self._frames_of(turn)
        done_at += spent_out
        self._tables.write(turn.writes)
        for target, size, content in frames_out:
            self.world.at(done_at, self._hand_over, target, size, content)
        applied_s, answers = self._apply(turn)
        busy_s = spent + spent_out + applied_s
        self.busy_s += busy_s
        self._free_at = max(self._free_at, self.world.now) + busy_s
        for target, size, content in answers:
            self.world.at(done_at + applied_s, self._hand_over, target, size, content)
        if turn.group:
            self._commit(turn.group, done_at)
        self._arm()

    def _hand_over(self, target: int, size: int, content: Any) -> None:
        if target > 0:
            self.sent_bytes += size
        self._carry(self.replica, target, size, content)

    def _frames_of(self, turn: Turn) -> tuple[list[tuple[int, int, Any]], float]:
        """The frames to peers, one each, and what it takes to make them."""
        costs = self._costs
        sizes: dict[int, int] = {}
        contents: dict[int, list[Any]] = {}
        for send in turn.sends:
            size = len(self._codec.encode(send.message))
            for peer in send.to:
                sizes[peer] = sizes.get(peer, 0) + size
                contents.setdefault(peer, []).append(send.message)
        count = sum(len(content) for content in contents.values())
        spent = len(sizes) * costs.frame_s + count * costs.message_s + sum(sizes.values()) * costs.byte_s
        return [(peer, sizes[peer], contents[peer]) for peer in sizes], spent

    # ---------------------------------------------------------------------------------------------------------- commits

    def _commit(self, group: int, at: float) -> None:
        self._unsynced.append(group)
        if self._inline:
            # The processor waits for its disk.
            self.syncs += 1
            self.busy_s += self._costs.commit_s
            self._free_at = max(self._free_at, at) + (self._costs.sync_s if self._durable else 0.0)
            self.world.at(self._free_at, self._synced, group)
        elif not self._syncing:
            self._syncing = True
            self.world.at(at, self._begin_sync)

    def _begin_sync(self) -> None:
        """The writer takes all groups that have accumulated."""
        last = self._unsynced[-1]
        self.syncs += 1
        self.busy_s += self._costs.commit_s
        self.world.after(self._costs.sync_s if self._durable else 0.0, self._synced, last)

    def _synced(self, group: int) -> None:
        self._unsynced = [each for each in self._unsynced if each > group]
        turn = self.coordinator.durable(self.world.now, group)
        if not self._inline:
            self._syncing = bool(self._unsynced)
            if self._syncing:
                self._begin_sync()
        # A completion is taken up as soon as the processor is free.
        begins = max(self.world.now, self._free_at) if not self._inline else self.world.now
        self._carry_out(turn, begins)

    # ---------------------------------------------------------------------------------------------------------- outcome

    def _apply(self, turn: Turn) -> tuple[float, list[tuple[int, int, Any]]]:
        """Apply what was decided; what that takes, and the frames to clients."""
        costs = self._costs
        operations = 0
        parts: dict[int, list[Any]] = {}

        def answer(client: int | None, part: Any) -> None:
            if client is not None:
                parts.setdefault(client, []).append(part)

        for install in turn.installs:
            self.home.install(install)
        for delivery in turn.deliveries:
            operations += sum(command.count for command in delivery.commands)
            for owed in self.home.apply(delivery):
                answer(*self._addressed(owed))
            self._deliveries += 1
            if self._deliveries % COMMIT_EVERY == 0:
                self.home.commit()
        for done in turn.answers:
            command = done.command
            operations += command.count
            answer(*self._addressed(Answer(command.session, command.sequence, command.count, done.results)))
        for reject in turn.rejections:
            answer(*self._rejected(reject))
        self._granted += [(grant.frontier, grant.token) for grant in turn.reads]
        waiting = []
        for frontier, token in self._granted:
            if not covers(self.home.applied, frontier):
                waiting.append((frontier, token))
                continue
            client, read = self._reads.pop(token)
            operations += read.count
            answer(client, frames.ReadResults(read.id, self.home.read(read.operations)))
        self._granted = waiting
        for refused in turn.refused_reads:
            asked = self._reads.pop(refused.token, None)
            if asked is not None:
                answer(asked[0], frames.ReadRejected(asked[1].id, refused.reason, refused.hint))
        sizes = {client: sum(_size(part) for part in each) for client, each in parts.items()}
        spent = operations * costs.apply_s + len(parts) * costs.frame_s + sum(sizes.values()) * costs.byte_s
        return spent, [(client, sizes[client], each) for client, each in parts.items()]

    def _addressed(self, owed: Answer) -> tuple[int | None, Any]:
        if owed.nonce:
            return self._openings.pop(owed.nonce, None), frames.Opened(owed.nonce, owed.opened)
        part = frames.Results(owed.session, owed.first_sequence, owed.count, owed.results)
        return self._sessions.get(owed.session), part

    def _rejected(self, reject: Reject) -> tuple[int | None, Any]:
        command = reject.command
        nonce = b"" if command.session else self.home.nonce(command.payload)
        client = self._sessions.get(command.session) if command.session else self._openings.pop(nonce, None)
        part = frames.Rejected(
            command.session, command.sequence, command.count, reject.reason, reject.definite, reject.hint, nonce
        )
        return client, part

    # ----------------------------------------------------------------------------------------------------------- timers

    def _arm(self) -> None:
        deadline = self.coordinator.next_deadline()
        if deadline is not None and (deadline < self._wake_at or self._wake_at <= self.world.now):
            self._wake_at = deadline
            self.world.at(deadline, self._woken, deadline)

    def _woken(self, deadline: float) -> None:
        if self._wake_at != deadline:
            return
        self._wake_at = float("inf")
        due = self.coordinator.next_deadline()
        if due is not None and due <= self.world.now:
            self._schedule()
        else:
            self._arm()


def _size(part: Any) -> int:
    results = getattr(part, "results", b"")
    return 16 + len(results)


def size_of(part: msgspec.Struct) -> int:
    """Bytes of a client's frame."""
    return 24 + len(getattr(part, "operations", b""))
