"""What the concerns of one replica share during a turn: who it is, the time, and the effects being gathered.

Shared by the protocols that are split into concerns. A concern never builds `Effects` by itself: it writes, sends and
sets timers through the one `TurnState`, which every concern of the replica holds.

All writes of a turn go out under one ticket, so "durable once everything written so far is" is one number: `written`.
A message that tells of something durable waits for it (``after=state.written``), and an own vote counts when a ticket
that is at least as high has been reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from .interface import (
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


class TurnState:
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(self, context: Context) -> None:
        self.replica: ReplicaId = context.replica
        self.epoch = context.configuration.epoch
        self.others: tuple[ReplicaId, ...] = tuple(
            replica for replica in context.configuration.replicas if replica != context.replica
        )
        self.incarnation = context.incarnation
        self.stable: Stable = context.stable
        self.randomness = context.randomness
        self.voting = context.voting

        self.now = 0.0
        self.effects = Effects()
        self.writes: list[Write] = []
        self.next_ticket: Ticket = NO_TICKET + 1
        self.durable: Ticket = NO_TICKET

    @property
    def written(self) -> Ticket:
        """The ticket under which everything written so far, in this turn too, will be durable."""
        return self.next_ticket if self.writes else self.next_ticket - 1

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

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        """The records of ``table`` in ``[first, last)``, ascending, with what this turn has written and discarded.

        Raises `CorruptRecord` on reaching a bad one.
        """
        fresh: dict[bytes, Record] = {}
        discarded: list[tuple[bytes, bytes]] = []
        for write in self.writes:
            if write.table != table:
                continue
            if isinstance(write, Put):
                if first <= write.key < last:
                    fresh[write.key] = write.record
            else:
                discarded.append((write.first, write.last))
                for key in [key for key in fresh if write.first <= key < write.last]:
                    del fresh[key]
        unseen = deque(sorted(fresh))
        for key, stored in self.stable.scan(table, first, last):
            while unseen and unseen[0] < key:
                yield unseen[0], fresh[unseen.popleft()]
            if unseen and unseen[0] == key:
                unseen.popleft()
                yield key, fresh[key]
            elif not any(start <= key < end for start, end in discarded):
                yield key, stored
        for key in unseen:
            yield key, fresh[key]
