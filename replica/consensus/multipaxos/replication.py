"""Phase 2: the leader's queue, slots, votes and retransmission, and the acceptor's answer.

A leader proposes recovered values and no-ops first, then what clients ask for; each turn's commands go out at once, in
as many slots as the batch bounds ask for, within a window of undecided slots. Behind the window they queue; behind the
queue they are refused, definitely, before anything is proposed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from replica.consensus.ballots import Ballot
from replica.consensus.intake import Intake
from replica.consensus.interface import (
    Command,
    Configuration,
    Reason,
    Reject,
    RejectRead,
    ReplicaId,
    Send,
    Ticket,
)
from replica.consensus.values import NOOP, encode_batch, encode_seal, is_seal

from .log import Log
from .messages import Accept, Accepted, Commit
from .state import Core, Role

COMMIT_TIMER = "commit"


class Replication:
    """What a leader proposes. Empty, apart from own votes in flight, at a replica that does not lead."""

    def __init__(self, core: Core, log: Log) -> None:
        self._core = core
        self._log = log
        self._queue = Intake(core, core.options)

        self.next_slot = 1
        """The next slot to propose in."""
        self.recovered_last = 0
        """The last slot that phase 1 found something in; reads wait until it is decided."""
        self._recovered: dict[int, bytes] = {}
        self.sealed_at: int | None = None
        """The slot in which a seal was proposed or recovered: nothing is proposed behind it."""
        self._seal: tuple[int, Configuration] | None = None
        """A seal that was asked for, with the token of the request; proposed once the queue is empty."""
        self._in_flight: deque[tuple[int, int]] = deque()
        """Slots proposed and not yet within the decided prefix, ascending, with the bytes of their values."""
        self._in_flight_bytes = 0

        self._own_votes: deque[tuple[Ticket, Ballot, int, int]] = deque()
        """Own votes that are not durable yet: (ticket, ballot, first slot, count)."""
        self._commit_sent = 0
        self._commit_armed = False
        self._run_first = 0
        self._run: list[bytes] = []
        self._run_bytes = 0

    @property
    def queued(self) -> int:
        """Operations that wait."""
        return self._queue.operations

    @property
    def in_flight(self) -> int:
        """Slots proposed and not decided."""
        return len(self._in_flight)

    @property
    def sealing(self) -> bool:
        """Has a seal been asked for or proposed?"""
        return self._seal is not None or self.sealed_at is not None

    @property
    def idle(self) -> bool:
        """Is there nothing queued and nothing undecided?"""
        return not (self._queue or self._in_flight or self._seal or self.next_slot <= self.recovered_last)

    # ---------------------------------------------------------------------------------------------------- leadership

    def begin(self, recovered: dict[int, bytes]) -> None:
        """Phase 1 is complete and everything decided before it is known: propose ``recovered`` and fill the gaps."""
        log = self._log
        self.next_slot = log.decided + 1
        held = {slot: entry.value for slot, entry in log.window.entries.items() if entry.decided and slot > log.decided}
        values = {slot: value for slot, value in recovered.items() if slot > log.decided} | held
        self.recovered_last = max(values, default=log.decided)
        seal = min((slot for slot, value in values.items() if is_seal(value)), default=None)
        if seal is not None:
            # A seal may have been decided there. Whatever stands behind it was never delivered and never will be.
            self.recovered_last = self.sealed_at = seal
        self._recovered = values
        self._commit_sent = log.decided

    def abandon(self, hint: ReplicaId | None) -> None:
        """Leadership is over: refuse what was never proposed, and give up on what was."""
        core = self._core
        rejections = core.effects.rejections
        entries = self._log.window.entries
        for slot, _ in self._in_flight:
            entry = entries.get(slot)
            if entry is not None and entry.acks is not None and not entry.decided and entry.commands:
                rejections.extend(Reject(command, Reason.LOST, False, hint) for command in entry.commands)
        for entry in entries.values():
            entry.acks = None
        self.refuse_queue(Reason.NOT_LEADER, hint)
        if self.sealed_at is not None and self._seal is not None:
            core.effects.refused_reads.append(RejectRead(self._seal[0], Reason.LOST, False, hint))
        elif self._seal is not None:
            core.effects.refused_reads.append(RejectRead(self._seal[0], Reason.NOT_LEADER, True, hint))
        self._seal = None
        self.sealed_at = None
        self._in_flight.clear()
        self._in_flight_bytes = 0
        self._recovered = {}
        self.recovered_last = 0
        self._commit_armed = False
        core.timer(COMMIT_TIMER, None)

    def refuse_queue(self, reason: str, hint: ReplicaId | None) -> None:
        """Refuse what waits and was never proposed."""
        self._queue.refuse(reason, hint)

    # ------------------------------------------------------------------------------------------------------ proposing

    def on_proposed(self, commands: Iterable[Command]) -> None:
        """Clients ask a replica that leads for these."""
        if self.sealing:
            self._core.effects.rejections.extend(Reject(command, Reason.SEALED, True) for command in commands)
        else:
            self._queue.offer(commands)

    def on_reconfigure(self, token: int, configuration: Configuration) -> None:
        """Decide a seal behind everything that was taken on so far."""
        assert self._core.role is Role.LEADING
        assert not self.sealing
        self._seal = (token, configuration)

    def settle(self) -> None:
        """The turn ends: propose as much as the window takes, and see that the news of decisions travels."""
        core, log = self._core, self._log
        if core.role is not Role.LEADING:
            return
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= log.decided:
            self._in_flight_bytes -= in_flight.popleft()[1]
        self.next_slot = max(self.next_slot, log.decided + 1)
        if self.next_slot <= self.recovered_last:
            self._propose_recovered()
        if self.sealed_at is not None:
            self.refuse_queue(Reason.SEALED, None)
        elif self.next_slot > self.recovered_last:
            while self._queue and self._room():
                commands = self._queue.take()
                self._propose(encode_batch(commands), commands)
            if self._seal is not None and not self._queue and self._room():
                self.sealed_at = self.next_slot
                self._propose(encode_seal(self._seal[1]), None)
        self._flush()
        if log.decided > self._commit_sent:
            if log.sealed is not None or not core.options.commit_delay_s:
                # The seal silences this replica, so the others must hear of it now.
                self.announce()
            elif not self._commit_armed:
                self._commit_armed = True
                core.timer(COMMIT_TIMER, core.now + core.options.commit_delay_s)

    def announce(self) -> None:
        """Tell everybody what is decided."""
        self._commit_armed = False
        if self._log.decided > self._commit_sent:
            self._commit_sent = self._log.decided
            self._core.broadcast(Commit(self._core.ballot, self._commit_sent))

    def _room(self) -> bool:
        return (
            self.next_slot <= self._log.decided + self._core.options.window_slots
            and self.next_slot < self._log.reach
            and self._in_flight_bytes < self._core.options.window_bytes_max
        )

    def _propose_recovered(self) -> None:
        entries = self._log.window.entries
        while self.next_slot <= self.recovered_last and self._room():
            value = self._recovered.pop(self.next_slot, None)
            entry = entries.get(self.next_slot)
            if entry is not None and entry.decided:
                self.next_slot += 1
                continue
            if value is None and "gaps never filled" in self._core.bugs:
                self.next_slot += 1
                continue
            self._propose(NOOP if value is None else value, None)

    def _propose(self, value: bytes, commands: tuple[Command, ...] | None) -> None:
        core, slot = self._core, self.next_slot
        assert self.sealed_at is None or slot <= self.sealed_at, "a proposal behind the seal"
        entry = self._log.accept(slot, core.ballot, value)
        assert entry is not None, f"slot {slot} is not free to propose in"
        assert entry.acks is None, f"slot {slot} is proposed twice under ballot {core.ballot}"
        entry.acks = set()
        entry.commands = commands
        entry.sent_at = core.now
        self.next_slot = slot + 1
        self._in_flight.append((slot, len(value)))
        self._in_flight_bytes += len(value)
        if self._run and (
            slot != self._run_first + len(self._run) or self._run_bytes + len(value) > core.options.chunk_bytes_max
        ):
            self._flush()
        if not self._run:
            self._run_first = slot
        self._run.append(value)
        self._run_bytes += len(value)

    def _flush(self) -> None:
        """Send what was gathered, not waiting for the own disk: the ballot is durable, the own vote counts later."""
        if not self._run:
            return
        core, first, count = self._core, self._run_first, len(self._run)
        core.broadcast(Accept(core.ballot, first, tuple(self._run), self._log.decided))
        self._commit_sent = max(self._commit_sent, self._log.decided)
        if self._commit_armed:
            # The accepts have carried the news.
            self._commit_armed = False
            core.timer(COMMIT_TIMER, None)
        if core.voting:
            self._own_votes.append((core.written, core.ballot, first, count))
        self._run = []
        self._run_bytes = 0
        if "vote counted before its sync" in core.bugs:
            self._count_votes(core.replica, first, count)

    # --------------------------------------------------------------------------------------------------------- voting

    def on_persisted(self, ticket: Ticket) -> None:
        """Own votes up to ``ticket`` are durable. They count at the ballot they were cast at, and at no other."""
        core, own = self._core, self._own_votes
        while own and own[0][0] <= ticket:
            _, ballot, first, count = own.popleft()
            if ballot == core.ballot:
                self._count_votes(core.replica, first, count)

    def on_accepted(self, sender: ReplicaId, message: Accepted) -> None:
        """2b of this leader's ballot."""
        assert message.ballot == self._core.ballot, f"votes at {message.ballot} for a leader at {self._core.ballot}"
        self._count_votes(sender, message.first, message.count)

    def _count_votes(self, voter: ReplicaId, first: int, count: int) -> None:
        core = self._core
        if core.role is not Role.LEADING:
            return
        entries = self._log.window.entries
        phase2 = core.quorums.phase2
        for slot in range(max(first, self._log.decided + 1), min(first + count, self.next_slot)):
            entry = entries.get(slot)
            if entry is None or entry.acks is None or entry.decided:
                continue
            if voter in entry.acks and "duplicate acknowledgements counted twice" in core.bugs:
                entry.decided = len(entry.acks) + 1 >= core.quorums.phase2_size
            entry.acks.add(voter)
            if phase2(entry.acks):
                entry.decided = True

    # --------------------------------------------------------------------------------------------------- retransmission

    def retransmit(self, peer: ReplicaId | None = None) -> None:
        """Repeat accepts that went unanswered for too long; with ``peer``, all that it has not answered, at once.

        Bounded by a chunk: what is left over has its turn with the next heartbeat.
        """
        core, log = self._core, self._log
        if core.role is not Role.LEADING:
            return
        before = core.now - core.options.retransmit_s
        budget = core.options.chunk_bytes_max
        to: tuple[ReplicaId, ...] = ()
        first, run = 0, list[bytes]()
        for slot, size in self._in_flight:
            entry = log.window.entries.get(slot)
            if entry is None or entry.acks is None or entry.decided:
                continue
            if peer is None and entry.sent_at > before:
                continue
            acks = entry.acks
            missing = (
                tuple(replica for replica in core.others if replica not in acks)
                if peer is None
                else ()
                if peer in acks
                else (peer,)
            )
            if not missing:
                continue
            if budget <= 0:
                break
            if run and (missing != to or slot != first + len(run) or size > budget):
                self._repeat(to, first, run)
                run = []
            if not run:
                to, first = missing, slot
            run.append(entry.value)
            budget -= size
            if peer is None:
                entry.sent_at = core.now
        if run:
            self._repeat(to, first, run)

    def _repeat(self, to: tuple[ReplicaId, ...], first: int, run: list[bytes]) -> None:
        message = Accept(self._core.ballot, first, tuple(run), self._log.decided)
        self._core.effects.sends.append(Send(to, message))

    # ----------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert the invariants of proposing."""
        core, log = self._core, self._log
        self._queue.check()
        assert self._in_flight_bytes == sum(size for _, size in self._in_flight)
        assert core.leads or not (self._queue or self._in_flight), "proposals at a replica that does not lead"
        assert not self._run, "proposals that were not sent"
        proposed = {slot for slot, _ in self._in_flight}
        for slot, entry in log.window.entries.items():
            if entry.acks is not None:
                assert core.role is Role.LEADING, f"slot {slot} counts votes at a replica that does not lead"
                assert entry.ballot == core.ballot, f"slot {slot} counts votes of another ballot"
                assert entry.acks <= core.quorums.members
                assert slot in proposed or slot <= log.decided
        if core.role is Role.LEADING and not core.bugs:
            for slot in range(log.decided + 1, self.next_slot):
                assert slot in log.window.entries, f"slot {slot} was passed over"
