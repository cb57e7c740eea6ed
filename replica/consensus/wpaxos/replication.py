"""The owner's side: commands into positions, votes counted, decisions announced, lost messages repeated.

An owner proposes at its ballot while earlier positions are still undecided, up to a window an object. Everybody is
asked, since everybody learns; whatever phase-2 quorum answers first decides. The own vote counts when the own disk has
it, and any vote counts only for the ballot at which it was given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeAlias

from replica.consensus.ballots import Ballot
from replica.consensus.intake import cut
from replica.consensus.interface import Command, ReplicaId, Ticket
from replica.consensus.values import NOOP, encode_batch
from replica.consensus.window import Entry

from .contacts import Contacts
from .log import Logs, ObjectLog
from .messages import Accept, Accepted, Decided, Offer, Owned, Place, Proposal
from .policies import POLICIES
from .state import Core

REPEATED_MAX: Final = 256
"""Proposals repeated in one tick."""

CommandId: TypeAlias = tuple[int, int]
"""(session, sequence)."""


class Tenure:
    """What an owner knows of an object that it owns."""

    __slots__ = ("ballot", "next", "queue", "known", "policy", "rests_until", "announced")

    def __init__(self, core: Core, ballot: Ballot, next_position: int, rests_until: float) -> None:
        options = core.options
        self.ballot = ballot
        self.next = next_position
        """The next position to propose in."""
        self.queue: deque[Command] = deque()
        self.known: dict[CommandId, None] = {}
        """Commands that wait or are proposed and not delivered: repeating one is no use."""
        self.policy = POLICIES[options.policy](core.zone, options.steal_after, options.steal_window)
        self.rests_until = rests_until
        """The object is not offered to anybody before."""
        self.announced = 0
        """Up to where decisions have been announced at this ballot."""


class Replication:
    """Everything that this replica owns."""

    def __init__(self, core: Core, logs: Logs, contacts: Contacts) -> None:
        self._core = core
        self._logs = logs
        self._contacts = contacts
        self.tenures: dict[str, Tenure] = {}
        self.waiting = 0
        """Commands that wait for a position, of all objects together."""
        self._busy: dict[str, None] = {}
        """Owned objects with something queued, undecided, or decided and not announced."""
        self._touched: dict[str, None] = {}
        """Those of them that something has happened to in this turn."""
        self._own: deque[tuple[Ticket, str, int, Ballot]] = deque()
        """Own votes on their way to the disk."""
        self.undecided_bytes = 0
        """Bytes of values that are proposed and undecided."""

    # ------------------------------------------------------------------------------------------------------ ownership

    def own(self, log: ObjectLog, ballot: Ballot, values: dict[int, bytes]) -> Tenure:
        """Phase 1 is over: propose what may have been decided, with nothing at all where nobody knows of anything."""
        core = self._core
        top = max(values, default=log.delivered)
        tenure = Tenure(core, ballot, log.delivered + 1, core.now + core.options.steal_rest_s)
        self.tenures[log.name] = tenure
        while tenure.next <= top:
            value = values.get(tenure.next)
            if value is None:
                core.counters["noops"] += 1
                value = NOOP
            self._propose(log, tenure, value)
        return tenure

    def deposed(self, log: ObjectLog) -> None:
        """Somebody else has a higher ballot. What waits is asked for again by the replicas whose clients asked."""
        tenure = self.tenures.pop(log.name, None)
        if tenure is None:
            return
        self._core.counters["lost"] += 1
        self.waiting -= len(tenure.queue)
        self._busy.pop(log.name, None)
        for entry in log.entries.values():
            if entry.acks is not None:
                if not entry.decided:
                    self.undecided_bytes -= len(entry.value)
                entry.acks = None

    def replaced(self, log: ObjectLog, position: int) -> None:
        """The entries up to a position are about to be dropped: an image takes their place."""
        for each, entry in log.entries.items():
            if each <= position and entry.acks is not None and not entry.decided:
                self.undecided_bytes -= len(entry.value)

    def accessed(self, log: ObjectLog, sender: ReplicaId) -> None:
        """An object was asked for at ``sender``: should it move there?"""
        core, tenure = self._core, self.tenures[log.name]
        zone = tenure.policy.accessed(core.zones[sender])
        if zone is None or sender == core.replica or core.zones[sender] != zone or core.now < tenure.rests_until:
            return
        tenure.rests_until = core.now + core.options.steal_rest_s
        core.counters["offers"] += 1
        core.post(sender, Offer, Owned(log.name, tenure.ballot))

    # ------------------------------------------------------------------------------------------------------- proposing

    def enqueue(self, log: ObjectLog, commands: Iterable[Command]) -> None:
        """Have commands on an owned object decided, unless they are on their way."""
        tenure = self.tenures[log.name]
        for command in commands:
            identity = (command.session, command.sequence)
            if identity not in tenure.known:
                tenure.known[identity] = None
                tenure.queue.append(command)
                self.waiting += 1
        self._busy[log.name] = self._touched[log.name] = None

    def _propose(
        self, log: ObjectLog, tenure: Tenure, value: bytes, commands: tuple[Command, ...] | None = None
    ) -> None:
        core = self._core
        position = tenure.next
        tenure.next += 1
        entry = self._logs.accept(log, position, tenure.ballot, value)
        entry.acks = set()
        entry.commands = commands
        entry.sent_at = core.now
        if not entry.decided:
            self.undecided_bytes += len(value)
        own_ticket = 0 if "vote before its sync" in core.bugs else entry.ticket
        self._own.append((own_ticket, log.name, position, tenure.ballot))
        core.post_all(Accept, Proposal(log.name, tenure.ballot, position, value), len(value))
        self._busy[log.name] = self._touched[log.name] = None

    def _pump(self, log: ObjectLog, tenure: Tenure) -> None:
        options = self._core.options
        while (
            tenure.queue
            and tenure.next - 1 - log.decided < options.window_slots
            and self.undecided_bytes < options.window_bytes_max
        ):
            commands, _, _ = cut(tenure.queue, options)
            self.waiting -= len(commands)
            self._propose(log, tenure, encode_batch(commands), commands)

    # -------------------------------------------------------------------------------------------------------- counting

    def on_accepted(self, sender: ReplicaId, message: Accepted) -> None:
        """Votes have come."""
        for vote in message.votes:
            self._count(sender, vote.name, vote.position, vote.ballot)

    def _count(self, voter: ReplicaId, name: str, position: int, ballot: Ballot) -> None:
        tenure = self.tenures.get(name)
        if tenure is None or tenure.ballot != ballot:
            return
        log = self._logs.by_name[name]
        entry = log.entries.get(position)
        if entry is None or entry.ballot != ballot or entry.acks is None:
            return
        entry.acks.add(voter)
        if not entry.decided and self._core.quorums.phase2(entry.acks):
            entry.decided = True
            self.undecided_bytes -= len(entry.value)
            self._touched[name] = None

    def settle(self) -> None:
        """At the end of a turn: the own votes that are durable, what is decided, and what may be proposed now."""
        core, logs = self._core, self._logs
        while True:
            while self._own and self._own[0][0] <= core.durable:
                _, name, position, ballot = self._own.popleft()
                self._count(core.replica, name, position, ballot)
            touched, self._touched = self._touched, {}
            for name in touched:
                if name not in self._busy:
                    continue
                log, tenure = logs.by_name[name], self.tenures[name]
                logs.advance(log)
                if log.decided > tenure.announced:
                    tenure.announced = log.decided
                    core.post_all(Decided, Place(name, tenure.ballot, log.decided))
                self._pump(log, tenure)
                if not tenure.queue and tenure.next - 1 <= log.decided:
                    del self._busy[name]
            if not (self._own and self._own[0][0] <= core.durable):
                return

    def delivered(self, log: ObjectLog, commands: tuple[Command, ...]) -> None:
        """A position has been delivered, or (without commands) an image was installed."""
        tenure = self.tenures.get(log.name)
        if tenure is None:
            return
        for command in commands:
            tenure.known.pop((command.session, command.sequence), None)
        tenure.next = max(tenure.next, log.delivered + 1)
        if log.name in self._busy:
            self._touched[log.name] = None

    # ------------------------------------------------------------------------------------------------------- repeating

    def tick(self) -> None:
        """Ask again for votes that have not come, and go on with what there was no room for."""
        core = self._core
        self._touched.update(self._busy)
        overdue = core.now - core.options.retransmit_s
        left = REPEATED_MAX
        for name in self._busy:
            log, tenure = self._logs.by_name[name], self.tenures[name]
            for position in range(log.decided + 1, tenure.next):
                entry = log.entries.get(position)
                if left <= 0:
                    return
                if entry is not None and not entry.decided and entry.sent_at <= overdue:
                    self._repeat(log, tenure, position, entry)
                    left -= 1

    def reset(self, peer: ReplicaId) -> None:
        """What was on its way to a peer may be lost: what it has not voted for is due at once."""
        for name in self._busy:
            for entry in self._logs.by_name[name].entries.values():
                if entry.acks is not None and peer not in entry.acks:
                    entry.sent_at = self._core.now - self._core.options.retransmit_s

    def _repeat(self, log: ObjectLog, tenure: Tenure, position: int, entry: Entry) -> None:
        core = self._core
        entry.sent_at = core.now
        missing = tuple(other for other in core.others if other not in (entry.acks or ()))
        core.post_some(missing, Accept, Proposal(log.name, tenure.ballot, position, entry.value), len(entry.value))

    # -------------------------------------------------------------------------------------------------------- queries

    @property
    def busy(self) -> Iterable[str]:
        """Owned objects with something queued, undecided, or decided and not announced."""
        return self._busy

    @property
    def in_flight(self) -> int:
        """Positions that are proposed and undecided."""
        return sum(self.tenures[name].next - 1 - self._logs.by_name[name].decided for name in self._busy)

    def check(self) -> None:
        """Assert the invariants of what is owned."""
        core, undecided, waiting = self._core, 0, 0
        for name, tenure in self.tenures.items():
            log = self._logs.by_name[name]
            assert tenure.ballot == log.promised, f"{name!r} is owned at {tenure.ballot}, with {log.promised} promised"
            assert tenure.ballot.replica == core.replica
            waiting += len(tenure.queue)
            for position, entry in log.entries.items():
                assert position < tenure.next or entry.ballot != tenure.ballot
                if entry.acks is not None and not entry.decided:
                    undecided += len(entry.value)
                    assert not core.quorums.phase2(entry.acks), f"{name!r} has not counted its votes at {position}"
        assert waiting == self.waiting
        assert undecided == self.undecided_bytes, f"{undecided} bytes are undecided, not {self.undecided_bytes}"
