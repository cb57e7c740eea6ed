"""One instance as a replica knows it, and a member's space of them: plain mutable data."""

from __future__ import annotations

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Command, ReplicaId, Ticket

from .interference import Touch
from .messages import Dependencies, InstanceId, Phase


class Instance:
    """What is known of one instance. ``id`` is (space, number)."""

    __slots__ = (
        "id",
        "space",
        "number",
        "rank",
        "ballot",
        "voted",
        "phase",
        "noop",
        "value",
        "commands",
        "touch",
        "initial",
        "dependencies",
        "ticket",
        "due",
        "tries",
        "beyond",
        "own",
    )

    def __init__(self, space: ReplicaId, number: int, rank: int, ballot: Ballot, dependencies: Dependencies) -> None:
        self.id: InstanceId = (space, number)
        self.space = space
        self.number = number
        self.rank = rank
        self.ballot = ballot
        """The highest ballot promised."""
        self.voted = ballot
        """The ballot of the vote, apart from what was promised since."""
        self.phase = Phase.UNKNOWN
        self.noop = False
        """Is the vote, or the decision, for nothing at all?"""
        self.value: bytes | None = None
        """What the leader proposed, whatever was voted for since. There is only one value beside nothing at all."""
        self.commands: tuple[Command, ...] = ()
        self.touch: Touch | None = None
        self.initial: Dependencies | None = None
        """The dependencies that the leader proposed."""
        self.dependencies = dependencies
        self.ticket: Ticket = 0
        """When the decision is durable."""
        self.due = 0.0
        """When it should be recovered, if it is not decided by then."""
        self.tries = 0
        self.beyond = ballot
        """The highest ballot that anybody is known to have promised."""
        self.own = False
        """Proposed here, since the start, for clients who may still be waiting."""

    @property
    def decided(self) -> bool:
        """Is it?"""
        return self.phase is Phase.COMMITTED

    def __repr__(self) -> str:
        what = "nothing" if self.noop else f"{len(self.value)} bytes" if self.value is not None else "unknown"
        return (
            f"<Instance {self.space}.{self.number} {self.phase.name.lower()} {what} {self.dependencies}, "
            f"promised {self.ballot}, voted {self.voted}>"
        )


class Space:
    """The instances that one member leads."""

    __slots__ = ("replica", "rank", "executed", "above", "decided", "known", "highest", "live")

    def __init__(self, replica: ReplicaId, rank: int) -> None:
        self.replica = replica
        self.rank = rank
        self.executed = 0
        self.above: set[int] = set()
        """Numbers executed beyond ``executed``."""
        self.decided = 0
        self.known = 0
        self.highest = 0
        self.live: dict[int, Instance] = {}
        """Known, and not executed."""

    def has_executed(self, number: int) -> bool:
        """Has that one been executed here?"""
        return number <= self.executed or number in self.above
