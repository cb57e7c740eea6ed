"""What the concerns of one replica share besides the turn: its term, vote and role."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from replica.consensus.interface import NO_TICKET, Context, Put, ReplicaId, Ticket
from replica.consensus.quorums import Quorums
from replica.consensus.turn import TurnState

from .messages import TERM_KEY, TERM_TABLE, CurrentTerm
from .options import RaftOptions

NOBODY: Final = 0
"""Stands for the vote that was not given."""


class Role(StrEnum):
    """Where a replica stands."""

    FOLLOWER = "follower"
    POLLING = "polling"
    """Has missed its leader and asks whether a campaign would find a majority."""
    CAMPAIGNING = "campaigning"
    LEADING = "leading"


class Core(TurnState):
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(self, context: Context, options: RaftOptions, quorums: Quorums, bugs: frozenset[str]) -> None:
        super().__init__(context)
        self.options = options
        self.quorums = quorums
        self.bugs = bugs

        self.role = Role.FOLLOWER
        self.term = 0
        """The latest term that this replica has seen, durable or about to be."""
        self.voted_for: ReplicaId = NOBODY
        """Whom it voted for in that term."""
        self.term_ticket: Ticket = NO_TICKET
        """What the present term and vote wait for: nothing that tells of them leaves earlier."""
        self.leader: ReplicaId | None = None
        """Whom this replica takes for the leader, itself included."""
        self.heard_at = 0.0
        """When the leader last gave a sign. At the start of a replica it is taken to have done so just then."""

    @property
    def leads(self) -> bool:
        """Does this replica lead in its term?"""
        return self.role is Role.LEADING

    @property
    def vote_ticket(self) -> Ticket:
        """What a vote or an acknowledgement must wait for before it may leave."""
        return NO_TICKET if "vote counted before its sync" in self.bugs else self.written

    def adopt(self, term: int, *, vote: ReplicaId = NOBODY) -> None:
        """Enter ``term``, which must be beyond the present one, with a vote for ``vote`` if that is somebody."""
        assert term > self.term, f"cannot go from term {self.term} to {term}"
        self.term, self.voted_for = term, vote
        self._write()

    def vote(self, candidate: ReplicaId) -> None:
        """Vote in the present term."""
        assert self.voted_for == NOBODY, f"a second vote in term {self.term}: {self.voted_for}, then {candidate}"
        self.voted_for = candidate
        self._write()

    def _write(self) -> None:
        assert self.voting or self.voted_for == NOBODY, "a replica that has not been admitted must not vote"
        self.writes.append(Put(TERM_TABLE, TERM_KEY, CurrentTerm(self.term, self.voted_for)))
        self.term_ticket = self.written
