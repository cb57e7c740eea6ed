"""What the concerns of one replica share besides the turn: its ballot, promise and role."""

from __future__ import annotations

from enum import StrEnum

from replica.consensus.ballots import Ballot, no_ballot
from replica.consensus.interface import NO_TICKET, Context, Put, ReplicaId, Ticket
from replica.consensus.quorums import Quorums
from replica.consensus.turn import TurnState

from .messages import ACCEPTOR_TABLE, PROMISE_KEY, Promise
from .options import MultiPaxosOptions


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


class Core(TurnState):
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(self, context: Context, options: MultiPaxosOptions, quorums: Quorums, bugs: frozenset[str]) -> None:
        super().__init__(context)
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

    @property
    def leads(self) -> bool:
        """Does this replica hold a phase-1 quorum at its ballot?"""
        return self.role is Role.LEADING or self.role is Role.RECOVERING

    @property
    def vote_ticket(self) -> Ticket:
        """What a vote or promise must wait for before it may leave."""
        return NO_TICKET if "vote counted before its sync" in self.bugs else self.written

    def promise(self, ballot: Ballot) -> None:
        """Promise ``ballot``, which must be higher than what was promised. Durable at `written`."""
        assert self.voting, "a replica that has not been admitted must not promise"
        assert ballot > self.promised, f"cannot promise {ballot} after {self.promised}"
        assert ballot.epoch == self.epoch, f"ballot {ballot} is not of epoch {self.epoch}"
        self.promised = ballot
        self.writes.append(Put(ACCEPTOR_TABLE, PROMISE_KEY, Promise(ballot)))
