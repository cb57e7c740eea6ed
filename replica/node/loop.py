"""The loop: one task's worth of plain calls that drives one protocol over disk, network, state and clients.

A *turn* is one synchronous function on the event loop's thread. Nothing in it awaits, so nothing
interleaves with it:

1. Drain the inbox: what peers sent, what clients proposed, the reads they asked for, what operators want.
Bounded by events, by operations and by the time that earlier turns took; what is left waits for the next
turn. 2. Sample ``now``, step the coordinator. 3. Hand the messages that wait for nothing to the transport,
and flush it: they are in the sockets before the disk is touched, so that leader and followers sync at the
same time. 4. Commit the turn's group: inline, as the next callback of the event loop, or on the writer
thread, while turns go on. 5. When the group is durable: `Coordinator.durable`, which releases the messages
that waited and may ask for more. 6. Apply what was decided, hand each session its results, answer the reads
whose frontier has been reached. 7. When the answers are in the sockets, settle: do what applying has put off because no
answer needed it.

Where somebody attached here waits for the results, step 6 comes before step 4: the client works on while
the disk does. On a replica that only votes, the vote comes first, and what nobody waits for is applied at
leisure, a millisecond later.

A turn is scheduled with ``call_soon`` when something has arrived, so that whatever arrives together is
digested together and a single request waits for no company.

What is waited for elsewhere (snapshots, fetching them, changing the epoch) is in
`replica.node.transitions`; it takes hold of the loop with `Loop.quiesce`, which ends when no group is in
flight.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, Protocol

from replica.consensus.frontiers import covers
from replica.consensus.interface import (
    Admitted,
    Answer,
    Command,
    Deliver,
    Event,
    Footprint,
    Frontier,
    Install,
    Proposed,
    ReadRequested,
    Reason,
    Received,
    Reject,
    RejectRead,
    Sealed,
    Send,
    SnapshotWish,
    Write,
)
from replica.kv.machine import StateMachine
from replica.kv.runs import pack_payload
from replica.storage.coordinator import Anchor, Coordinator, Turn

from .config import Limits
from .metrics import NodeMetrics
from .sessions import PendingRead, Sessions
from .shapes import Machine
from .teaching import Teaching
from .watches import Watches

__all__ = ["Loop", "Network", "Writer", "covers"]

TURN_SECONDS_AIM: Final = 0.02
"""Turns that take longer than this (syncs apart) make the next ones smaller: heartbeats go out between
turns.
"""

TURN_OPERATIONS_MIN: Final = 256
"""A turn may always propose as many operations, however slow the machine."""

LEISURE_S: Final = 0.001
"""Where nobody waits for it, what was decided is applied so much later. Followers hear of decisions while the votes for
the next commands are under way, and on few cores they would take the processor from the leader who counts those.
"""

TIMER_GRAIN_S: Final = 0.0005
"""uvloop counts in whole milliseconds, rounded. With so much more a timer is never called before it is due: the loop
would ask for the rest of the time, be given none, and come round without a pause until it is over.
"""

FLUSH_PASSES_MAX: Final = 3
"""An inline commit waits at most so many passes of the event loop for the transport: a slow peer delays
nobody.
"""

Done = Callable[[bytes | Reject], None]


class Network(Protocol):
    """The part of the transport that the loop uses."""

    def send(self, send: Send) -> None:
        """Queue a message for its recipients; it leaves in the next pass of the event loop."""

    @property
    def unsent(self) -> bool:
        """Does anything wait that has not been handed to a socket?"""


class Writer(Protocol):
    """The part of a group writer that the loop uses (`replica.storage.writer.GroupWriter` is one)."""

    @property
    def mode(self) -> str:
        """``inline`` when `submit` blocks until the group is durable."""

    @property
    def in_flight(self) -> int:
        """Groups that were submitted and not yet reported."""

    def submit(self, group: int, writes: Sequence[Write], notify: Callable[[], None] | None = None, /) -> int:
        """Commit; the group when that is done on return, 0 when it will be reported. ``notify`` when it is durable."""


class Loop:
    """Drives one coordinator. Every method is to be called on the event loop's thread."""

    def __init__(
        self,
        *,
        coordinator: Coordinator,
        writer: Writer,
        network: Network,
        machine: Machine,
        sessions: Sessions,
        clock: Callable[[], float],
        limits: Limits,
        metrics: NodeMetrics,
        fail: Callable[[BaseException], None],
        detached_base: int,
    ) -> None:
        """``fail`` is told of anything that must stop the replica; the loop is then halted.

        ``detached_base``: commands outside a session are numbered from here on, unlike those of any other
        replica or incarnation, so that whoever applies them knows whether it asked.
        """
        self._coordinator = coordinator
        self._writer = writer
        self._network = network
        self.machine = machine
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._stages = metrics.stages
        self._fail = fail
        self._events = asyncio.get_running_loop()
        # The inbox, by kind. Commands and reads are counted against their bounds where they come in.
        self._received: deque[tuple[int, list[Any]]] = deque()
        self._received_count = 0
        self._room: asyncio.Future[None] | None = None
        self._commands: list[Command] = []
        self._reads: list[PendingRead] = []
        self._control: list[Event] = []
        # What has been asked and not been answered, by token.
        self._granted: list[tuple[Frontier, int]] = []
        self._reads_by_token: dict[int, list[PendingRead]] = {}
        self._questions: dict[int, Callable[[RejectRead | None], None]] = {}
        self._next_token = 1
        self._detached: dict[int, Done] = {}
        self._next_detached = detached_base
        # The way of a turn: outcomes that wait to be carried out, groups that wait to be committed.
        self._outcomes: deque[Turn] = deque()
        self._outcome_due = False
        self._outcome_handle: asyncio.Handle | None = None
        self._outcome_hurries = False
        self._settling = False
        self._groups: list[tuple[int, Sequence[Write]]] = []
        self._extra: list[tuple[Sequence[Write], asyncio.Future[None]]] = []
        self._passes = 0
        self._commit_scheduled = False
        self._scheduled = False
        self._halted = False
        self._paused = False
        self._resting = False
        self._idle: asyncio.Future[None] | None = None
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._operations_budget = limits.turn_operations_max
        self._delivered_followed = False
        self.sessions = sessions
        self.on_sealed: Callable[[Sealed], None]
        self.on_snapshot_wish: Callable[[SnapshotWish], None]
        self.on_applied: Callable[[int], None]
        """Told of the operations that a turn applied, if any."""
        self.on_leases: Callable[[], None]
        """Told when a turn granted or renewed leases."""
        self.watches: Watches | None = None
        """Told when a turn has applied something, and there are any."""
        self.teaching: Teaching | None = None
        """Told what a turn has applied, while anybody is taught."""

    # ------------------------------------------------------------------------------------------ what comes in

    def received(self, sender: int, messages: list[Any]) -> None:
        """Messages of the present epoch from a peer, in the order of sending."""
        if self._resting:
            return  # lost, as on a link that is down
        self._received.append((sender, messages))
        self._received_count += len(messages)
        self.wake()

    @property
    def received_waiting(self) -> int:
        """Messages that wait for their turn; the transport is held back by it."""
        return self._received_count

    async def room(self) -> None:
        """Return once what waits has been digested."""
        if self._received_count and not self._halted:
            self._room = self._room or self._events.create_future()
            await asyncio.shield(self._room)

    def _make_room(self) -> None:
        if self._room is not None and not self._received_count:
            self._room.set_result(None)
            self._room = None

    def forget_received(self) -> None:
        """The epoch has changed: what was received in the old one is void."""
        self._received.clear()
        self._received_count = 0
        self._make_room()

    def propose(self, command: Command) -> None:
        """Have a command proposed in the next turn."""
        stages = self._stages
        if stages.sequence < 0 and command.session and not stages.passes():
            stages.follow(command, perf_counter())
        self._commands.append(command)
        self.wake()

    def propose_detached(self, operations: bytes, count: int, done: Done, *, system: bool = False) -> None:
        """Propose operations outside any session; ``done`` is told their results, or the refusal."""
        self.propose_unnumbered(pack_payload(0, operations, system=system), count, done)

    def propose_unnumbered(self, payload: bytes, count: int, done: Done, footprint: Footprint | None = None) -> None:
        """The same for operations that are packed already."""
        token = self._next_detached
        self._next_detached += 1
        self._detached[token] = done
        self.propose(Command(payload, 0, token, count, footprint))

    def request_read(self, read: PendingRead) -> None:
        """Have a linearizable read granted and answered; all of a kind that arrive before the next turn share one
        token.
        """
        self._reads.append(read)
        self.wake()

    def post(self, event: Event) -> None:
        """An event that is neither a message nor a command."""
        self._control.append(event)
        self.wake()

    def ask(self, make: Callable[[int], Event], answered: Callable[[RejectRead | None], None]) -> int:
        """Post an event with a token of its own (a read without reads, a reconfiguration).

        ``answered`` is told None when it is granted, and the refusal otherwise. Returns the token, for
        `forget`.
        """
        token = self._take_token()
        self._questions[token] = answered
        self.post(make(token))
        return token

    def forget(self, token: int) -> None:
        """Nobody waits for the answer any more."""
        self._questions.pop(token, None)

    def commit(self, writes: Sequence[Write]) -> asyncio.Future[None]:
        """Commit writes outside the protocol's groups, in order with them. The future ends when they are
        durable.
        """
        future: asyncio.Future[None] = self._events.create_future()
        self._extra.append((writes, future))
        self._schedule_commit()
        return future

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds, looked at after every turn; also when the loop has halted."""
        if condition() or self._halted:
            return
        future: asyncio.Future[None] = self._events.create_future()
        self._watchers.append((condition, future))
        await future

    def _look(self) -> None:
        still = []
        for condition, future in self._watchers:
            if future.done():
                continue
            if condition() or self._halted:
                future.set_result(None)
            else:
                still.append((condition, future))
        self._watchers = still

    def wake(self) -> None:
        """Have a turn soon."""
        if not self._scheduled:
            self._scheduled = True
            self._events.call_soon(self._guarded_turn)

    # -------------------------------------------------------------------------------------------------- turns

    def start(self) -> None:
        """Start the protocol. The loop runs from here on."""
        self._guard(self._start)

    def _start(self) -> None:
        self._carry_out(self._coordinator.start(self._clock()))

    def switch(self, anchor: Anchor, *, installed: bool) -> None:
        """The anchor is durable: tell the protocol, or start that of the next epoch. The loop must be
        quiet.
        """

        def switch() -> None:
            self._carry_out(self._coordinator.switch(self._clock(), anchor, installed=installed))

        self._guard(switch)

    def admit(self) -> None:
        """The admission is durable: tell the protocol in the next turn, and not before the loop goes on if it is at
        rest.
        """
        self.post(Admitted())

    def _guard(self, function: Callable[[], None]) -> None:
        """Nothing that goes wrong in here can be survived: whatever it is, the replica stops and says so."""
        if self._halted:
            return
        try:
            function()
        except Exception as error:  # noqa: BLE001 - the replica's outermost frame
            self.halt()
            self._fail(error)

    def _guarded_turn(self) -> None:
        self._scheduled = False
        if self._halted or self._paused or self._resting:
            return
        if self._commit_scheduled:
            # A group of the last turn is about to be committed inline; what has come meanwhile shares the next.
            self._events.call_soon(self._guarded_turn)
            self._scheduled = True
            return
        self._guard(self._turn)

    def _turn(self) -> None:
        began = perf_counter()
        events, operations = self._drain()
        turn = self._coordinator.step(self._clock(), events)
        stages = self._stages
        if stages.sequence >= 0:
            # What was taken up has left the inbox; turns take from its front.
            if stages.waiting and not any(command is stages.command for command in self._commands):
                stages.stepped(began, perf_counter(), turn.group)
            stages.expire(began)
        self._carry_out(turn)
        seconds = perf_counter() - began
        metrics = self._metrics
        metrics.turns += 1
        metrics.events += len(events)
        metrics.turn_seconds.observe(seconds)
        if operations:
            metrics.operations_proposed += operations
            metrics.proposed_per_turn.observe(operations)
        if seconds > TURN_SECONDS_AIM:
            self._operations_budget = max(TURN_OPERATIONS_MIN, self._operations_budget // 2)
        elif self._operations_budget < self._limits.turn_operations_max:
            self._operations_budget = min(self._operations_budget * 2, self._limits.turn_operations_max)
        if self._received or self._commands or self._reads or self._control:
            self.wake()

    def _drain(self) -> tuple[list[Event], int]:
        events: list[Event] = []
        if self._control:
            if any(isinstance(event, Admitted) for event in self._control):
                # A protocol object that is built from here on votes, even if a seal keeps the present one from hearing.
                self._coordinator.voting = True
            events.extend(self._control)
            self._control.clear()
        room = self._limits.turn_events_max
        received = self._received
        while received and room > 0:
            sender, messages = received.popleft()
            events.extend([Received(sender, message) for message in messages])
            room -= len(messages)
            self._received_count -= len(messages)
        if self._room is not None:
            self._make_room()
        operations = 0
        commands = self._commands
        if commands:
            budget = self._operations_budget
            taken = 0
            for command in commands:
                operations += command.count
                taken += 1
                if operations >= budget:
                    break
            if taken == len(commands):
                self._commands = []
            else:
                self._commands = commands[taken:]
                commands = commands[:taken]
            events.append(Proposed(tuple(commands)))
        if self._reads:
            self._ask_reads(events)
        return events, operations

    def _ask_reads(self, events: list[Event]) -> None:
        """Have the reads that have arrived granted, all of a kind by one token."""
        reads, self._reads = self._reads, []
        by_lease = [read for read in reads if read.by_lease]
        if by_lease:
            reads = [read for read in reads if not read.by_lease]
            events.append(ReadRequested(self._token_for(by_lease), by_lease=True))
        if reads:
            events.append(ReadRequested(self._token_for(reads)))

    def _token_for(self, reads: list[PendingRead]) -> int:
        token = self._take_token()
        self._reads_by_token[token] = reads
        return token

    def _take_token(self) -> int:
        token = self._next_token
        self._next_token += 1
        return token

    def _carry_out(self, turn: Turn) -> None:
        """What leaves the replica or must become durable, now; the rest in the order that serves who waits."""
        if turn.sends:
            send = self._network.send
            for message in turn.sends:
                send(message)
        if turn.group:
            self._groups.append((turn.group, turn.writes))
        if (
            turn.deliveries
            or turn.reads
            or turn.rejections
            or turn.refused_reads
            or turn.sealed
            or turn.snapshot_wish
            or turn.answers
            or turn.installs
        ):
            self._outcomes.append(turn)
        if self._outcomes:
            if self.sessions.in_flight_operations or not (turn.sends or self._groups):
                self._outcome()
            else:
                # Nobody here waits for it, and somebody elsewhere waits for what was sent or for the disk.
                self._outcome_due = True
        if self._groups:
            self._schedule_commit()
        if self._outcome_due and not self._commit_scheduled:
            self._schedule_outcome()
        if self._watchers:
            self._look()
        self._arm()

    # ------------------------------------------------------------------------------------------------ commits

    def _schedule_commit(self) -> None:
        if self._commit_scheduled or self._halted:
            return
        if self._writer.mode == "inline":
            # One pass of the event loop lets the transport's tasks put the frames of this turn into their sockets.
            self._commit_scheduled = True
            self._events.call_soon(self._guarded_commit)
        else:
            self._guard(self._commit)

    def _guarded_commit(self) -> None:
        self._commit_scheduled = False
        self._guard(self._commit)

    def _commit(self) -> None:
        if self._writer.mode == "inline" and self._network.unsent and self._passes < FLUSH_PASSES_MAX:
            self._passes += 1
            self._commit_scheduled = True
            self._events.call_soon(self._guarded_commit)
            return
        self._passes = 0
        groups, self._groups = self._groups, []
        extra, self._extra = self._extra, []
        if not groups and not extra:
            return
        last = groups[-1][0] if groups else 0
        if len(groups) == 1 and not extra:
            writes: Sequence[Write] = groups[0][1]
        else:
            writes = [write for _, part in groups for write in part]
            for part, _ in extra:
                writes.extend(part)
        notify = None
        if extra:
            futures = [future for _, future in extra]

            def notify() -> None:
                for future in futures:
                    if not future.done():
                        future.set_result(None)
                # Where nothing but these was committed, nobody else tells of it.
                self._settled()

        durable = self._writer.submit(last, writes, notify)
        if durable:
            self._durable(durable)
        if self._outcome_due and not self._commit_scheduled:
            self._schedule_outcome()
        self._settled()

    def durable(self, group: int) -> None:
        """The writer thread reports a group."""
        self._guard(lambda: self._durable(group))

    def _durable(self, group: int) -> None:
        if 0 < self._stages.group <= group:
            self._stages.durable(perf_counter())
        turn = self._coordinator.durable(self._clock(), group)
        self._carry_out(turn)
        self._settled()

    # ----------------------------------------------------------------------------------------------- outcomes

    def _schedule_outcome(self) -> None:
        hurries = self._awaited()
        if self._outcome_handle is not None:
            if self._outcome_hurries or not hurries:
                return
            self._outcome_handle.cancel()
        self._outcome_hurries = hurries
        if hurries:
            self._outcome_handle = self._events.call_soon(self._guarded_outcome)
        else:
            self._outcome_handle = self._events.call_later(LEISURE_S, self._guarded_outcome)

    def _awaited(self) -> bool:
        """Does anybody wait for what was decided to be carried out?"""
        return bool(
            self._paused
            or self._watchers
            or self._granted
            or self._reads_by_token
            or self._questions
            or self._detached
            or self.sessions.in_flight_operations
            or (self.watches is not None and self.watches.active)
            or any(
                turn.reads
                or turn.rejections
                or turn.refused_reads
                or turn.sealed
                or turn.snapshot_wish
                or turn.answers
                or turn.installs
                for turn in self._outcomes
            )
        )

    def _guarded_outcome(self) -> None:
        self._outcome_handle = None
        self._guard(self._outcome)

    def _outcome(self) -> None:
        """Carry out, in order, what the protocol has decided."""
        self._outcome_due = False
        outcomes = self._outcomes
        applied = 0
        stages = self._stages
        began = perf_counter() if stages.sequence >= 0 else 0.0
        while outcomes:
            turn = outcomes.popleft()
            if turn.installs:
                self._install(turn.installs)
                applied += len(turn.installs)
            if turn.deliveries:
                applied += self._apply(turn.deliveries)
            if turn.answers:
                applied += self._hand_out(turn.answers)
            for refused in turn.rejections:
                self._reject(refused)
            for refused_read in turn.refused_reads:
                self._refuse_read(refused_read)
            for grant in turn.reads:
                self._granted.append((grant.frontier, grant.token))
            if turn.snapshot_wish is not None:
                self.on_snapshot_wish(turn.snapshot_wish)
            if turn.sealed is not None:
                self.on_sealed(turn.sealed)
        if self._granted:
            self._answer_reads()
        self.sessions.flush()
        if self._delivered_followed:
            self._delivered_followed = False
            stages.answered(began, perf_counter())
        if self._watchers:
            self._look()
        if not (self._settling or self.machine.settled):
            # Behind the tasks that have just been woken to send the answers.
            self._settling = True
            self._events.call_soon(self._guarded_settle)
        if applied:
            self._metrics.operations_applied += applied
            self._metrics.applied_per_turn.observe(applied)
            if self.machine.leases.touched:
                self.on_leases()
            if self.watches is not None and self.watches.active:
                self.watches.applied()
            self.on_applied(applied)
        self._settled()

    def _guarded_settle(self) -> None:
        self._settling = False
        self._guard(self.machine.settle)

    def _install(self, installs: list[Install]) -> None:
        """Replace objects by what peers have exported."""
        raise AssertionError("a protocol with one order for all commands has no objects")

    def _hand_out(self, answers: list[Answer]) -> int:
        """Hand out what the protocol has answered by itself; returns the number of operations."""
        raise AssertionError("a protocol with an order of commands does not answer them itself")

    def _apply(self, deliveries: list[Deliver]) -> int:
        machine = self.machine
        assert isinstance(machine, StateMachine), "this loop is for protocols with one order"
        apply = machine.apply
        answer = self.sessions.answer
        is_attached = self.sessions.by_session.__contains__
        detached = self._detached
        applied = 0
        stages = self._stages
        if self.teaching is not None and self.teaching.active:
            self.teaching.delivered(deliveries)
        for deliver in deliveries:
            for outcome in apply(deliver.position, deliver.commands):
                applied += outcome.count
                session = outcome.session
                if session:
                    if outcome.sequence == stages.sequence and session == stages.session:
                        self._delivered_followed = True
                    if is_attached(session):
                        answer(outcome)
                else:
                    done = detached.pop(outcome.sequence, None) if detached else None
                    if done is not None:
                        done(outcome.encoded())
        return applied

    def _reject(self, refused: Reject) -> None:
        command = refused.command
        if command.session:
            if command.sequence == self._stages.sequence and command.session == self._stages.session:
                self._stages.lose()
            self.sessions.reject(refused)
            return
        done = self._detached.pop(command.sequence, None)
        if done is not None:
            done(refused)

    def _refuse_read(self, refused: RejectRead) -> None:
        question = self._questions.pop(refused.token, None)
        if question is not None:
            question(refused)
        for read in self._reads_by_token.pop(refused.token, ()):
            self.sessions.reject_read(read, refused)

    def _answer_reads(self) -> None:
        """Answer what has been granted at a frontier that has been applied; grants come in the order asked."""
        waiting: list[tuple[Frontier, int]] = []
        for frontier, token in self._granted:
            if not self._reached(frontier):
                waiting.append((frontier, token))
                continue
            question = self._questions.pop(token, None)
            if question is not None:
                question(None)
            for read in self._reads_by_token.pop(token, ()):
                self.sessions.answer_read(read)
        self._granted = waiting

    def _reached(self, frontier: Frontier) -> bool:
        """Has everything up to ``frontier`` been applied?"""
        return covers(self.machine.applied, frontier)

    def lose_detached(self, reason: str) -> None:
        """What was proposed outside sessions and is still open will not be answered here."""
        detached, self._detached = self._detached, {}
        for token, done in detached.items():
            done(Reject(Command(b"", 0, token), reason, False))

    def lose_reads(self, reason: str) -> None:
        """Reads that wait for a grant will not be granted by the protocol object that was asked."""
        self._granted = []
        for token in [*self._reads_by_token, *self._questions]:
            self._refuse_read(RejectRead(token, reason))
        self.sessions.flush()

    # ----------------------------------------------------------------------------------- timers and stillness

    def _arm(self) -> None:
        """Have a turn when the earliest timer is due. A timer set for earlier serves: it looks again."""
        deadline = self._coordinator.next_deadline()
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        remaining = deadline - self._clock()
        self._timer = self._events.call_later(remaining + TIMER_GRAIN_S if remaining > 0 else 0, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        if self._halted or self._paused or self._resting:
            return
        deadline = self._coordinator.next_deadline()
        if deadline is not None and deadline <= self._clock():
            self.wake()
        else:
            self._arm()

    @property
    def _quiet(self) -> bool:
        return not (self._groups or self._extra or self._outcomes or self._writer.in_flight)

    async def quiesce(self) -> None:
        """Step no further until `resume`, and return once nothing is in flight to the disk or waits to be
        applied.
        """
        self._paused = True
        while not self._quiet and not self._halted:
            self._idle = self._events.create_future()
            await self._idle
        self._idle = None

    def resume(self) -> None:
        """Go on after `quiesce`."""
        self._paused = False
        if not self._halted:
            self._arm()
            self.wake()

    def rest(self) -> None:
        """Step no further until `rouse`, and lose what arrives: to its peers this replica is as if cut off.

        What waits for its turn is refused for certain; what was proposed stays open.
        """
        self._resting = True
        self.forget_received()
        commands, self._commands = self._commands, []
        for command in commands:
            self._reject(Reject(command, Reason.OVERLOADED, True))
        reads, self._reads = self._reads, []
        for read in reads:
            self.sessions.reject_read(read, RejectRead(0, Reason.OVERLOADED))
        self.sessions.flush()

    def rouse(self) -> None:
        """Go on after `rest`."""
        self._resting = False
        if not self._paused:
            self.resume()

    @property
    def resting(self) -> bool:
        """Between `rest` and `rouse`?"""
        return self._resting

    def halt(self) -> None:
        """Step no more, for good."""
        self._halted = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        for _, future in self._extra:
            future.cancel()
        self._look()

    @property
    def sealed(self) -> bool:
        """The epoch has ended and the next one has not begun here."""
        return self._coordinator.sealed is not None

    @property
    def busy(self) -> bool:
        """Something waits for the next turn already."""
        return self._scheduled or self._commit_scheduled

    @property
    def halted(self) -> bool:
        """The loop has stopped for good."""
        return self._halted

    def _settled(self) -> None:
        if self._idle is not None and self._quiet and not self._idle.done():
            self._idle.set_result(None)
