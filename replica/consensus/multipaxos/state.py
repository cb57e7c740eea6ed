"""What the concerns of one replica share: its ballot and role, the clock of the turn, and the effects being gathered.

All writes of a turn go out under one ticket, so "durable once everything written so far is" is one number: `written`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from replica.consensus.ballots import Ballot, no_ballot
from replica.consensus.interface import (
    NO_TICKET,
    Context,
    Effects,
    Message,
    Persist,
    Put,
    Record,
    ReplicaId,
    Send,
    Stable,
    Ticket,
    Write,
)
from replica.consensus.quorums import Quorums

from .messages import ACCEPTOR_TABLE, PROMISE_KEY, Promise
from .options import MultiPaxosOptions

RecordType = TypeVar("RecordType", bound=Record)


class Role(StrEnum):
    """Where a replica stands. Every one of them accepts and learns besides, once it has been admitted."""

    FOLLOWER = "follower"
    POLLING = "polling"
    """Has missed its leader and asks whether a campaign would find a phase-1 quorum."""
    PREPARING = "preparing"
    """Campaigns: phase 1 is under way."""
    RECOVERING = "recovering"
    """Has a phase-1 quorum, and fetches what that quorum knows to be decided before it proposes anything."""
    LEADING = "leading"


class Core:
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(self, context: Context, options: MultiPaxosOptions, quorums: Quorums, bugs: frozenset[str]) -> None:
        self.replica: ReplicaId = context.replica
        self.epoch = context.configuration.epoch
        self.others: tuple[ReplicaId, ...] = tuple(
            replica for replica in context.configuration.replicas if replica != context.replica
        )
        self.incarnation = context.incarnation
        self.stable: Stable = context.stable
        self.randomness = context.randomness
        self.voting = context.voting
        self.options = options
        self.quorums = quorums
        self.bugs = bugs

        self.role = Role.FOLLOWER
        self.nothing = no_ballot(self.epoch)
        self.ballot = self.nothing
        """The ballot of a campaign or leadership of this replica; below every ballot while there is none."""
        self.promised = self.nothing
        """The highest ballot promised, durable or about to be."""
        self.leader: ReplicaId | None = None
        """Whom this replica takes for the leader, itself included."""
        self.heard_at = 0.0
        """When the leader last gave a sign. At the start of a replica it is taken to have done so just then."""

        self.now = 0.0
        self.effects = Effects()
        self.writes: list[Write] = []
        self.next_ticket: Ticket = NO_TICKET + 1
        self.durable: Ticket = NO_TICKET

    @property
    def leads(self) -> bool:
        """Does this replica hold a phase-1 quorum at its ballot?"""
        return self.role is Role.LEADING or self.role is Role.RECOVERING

    @property
    def written(self) -> Ticket:
        """The ticket under which everything written so far, in this turn too, will be durable."""
        return self.next_ticket if self.writes else self.next_ticket - 1

    @property
    def vote_ticket(self) -> Ticket:
        """What a vote or promise must wait for before it may leave."""
        return NO_TICKET if "vote counted before its sync" in self.bugs else self.written

    def begin(self, now: float) -> None:
        """A turn starts."""
        self.now = now
        self.effects = Effects()
        self.writes = []

    def finish(self) -> Effects:
        """The turn ends: what it asks for."""
        if self.writes:
            self.effects.persists.append(Persist(self.next_ticket, tuple(self.writes)))
            self.next_ticket += 1
            self.writes = []
        return self.effects

    def send(self, to: ReplicaId, message: Message, after: Ticket = NO_TICKET) -> None:
        """Send to one other member."""
        self.effects.sends.append(Send((to,), message, after))

    def broadcast(self, message: Message, after: Ticket = NO_TICKET) -> None:
        """Send to all other members."""
        if self.others:
            self.effects.sends.append(Send(self.others, message, after))

    def timer(self, name: str, at: float | None) -> None:
        """Set or cancel a timer."""
        self.effects.timers[name] = at

    def promise(self, ballot: Ballot) -> None:
        """Promise ``ballot``, which must be higher than what was promised. Durable at `written`."""
        assert self.voting, "a replica that has not been admitted must not promise"
        assert ballot > self.promised, f"cannot promise {ballot} after {self.promised}"
        assert ballot.epoch == self.epoch, f"ballot {ballot} is not of epoch {self.epoch}"
        self.promised = ballot
        self.writes.append(Put(ACCEPTOR_TABLE, PROMISE_KEY, Promise(ballot)))
