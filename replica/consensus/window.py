"""The log window: the slots of a log that a replica keeps in memory. Shared by the protocols that order by a log.

Slots count from 1. The window begins at the first slot that has not been delivered and is ``capacity`` slots long;
what lies before it has been delivered and is read from stable storage when somebody asks for it, what lies behind its
end may be accepted but stays on disk until the window reaches it. So memory is bounded however far a replica lags.

The window knows nothing of quorums or messages: it holds entries of whatever type a protocol keeps; `Entry` is a value
under a ballot with the ticket of the write that makes it durable. Delivery is in slot order and stops at the first gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from .ballots import Ballot
from .interface import Command, ReplicaId, Ticket

EntryType = TypeVar("EntryType")

SLOT_MAX: Final = (1 << 64) - 2
"""The last slot that a key can name (one more must still be representable)."""


def slot_key(slot: int) -> bytes:
    """The key of a slot's record: eight bytes that sort as the slots do."""
    return slot.to_bytes(8, "big")


def slot_of(key: bytes) -> int:
    """The slot of a key."""
    return int.from_bytes(key, "big")


class Entry:
    """What is known of one slot. Mutable, and owned by the window that holds it.

    ``acks`` is the set of replicas known to have durably accepted this value *at this ballot*, kept by the leader that
    proposed it there, and None everywhere else. ``commands`` spares the proposer the decoding of its own value.
    """

    __slots__ = ("ballot", "value", "ticket", "decided", "acks", "commands", "sent_at")

    def __init__(self, ballot: Ballot, value: bytes, ticket: Ticket, *, decided: bool = False) -> None:
        self.ballot = ballot
        self.value = value
        self.ticket = ticket
        self.decided = decided
        self.acks: set[ReplicaId] | None = None
        self.commands: tuple[Command, ...] | None = None
        self.sent_at = 0.0

    def __repr__(self) -> str:
        state = "decided" if self.decided else f"acks {sorted(self.acks)}" if self.acks is not None else "accepted"
        return f"<Entry {self.ballot} {len(self.value)} bytes, {state}, ticket {self.ticket}>"


class Window(Generic[EntryType]):
    """Entries by slot, for the slots ``first <= slot < limit``."""

    def __init__(self, *, first: int, capacity: int) -> None:
        if first < 1 or capacity < 1:
            raise ValueError(f"a window of {capacity} slots cannot begin at slot {first}")
        self.first = first
        """The first slot that has not been delivered."""
        self.capacity = capacity
        self.entries: dict[int, EntryType] = {}

    @property
    def limit(self) -> int:
        """The first slot behind the window."""
        return self.first + self.capacity

    @property
    def highest(self) -> int:
        """The highest slot that holds an entry; ``first - 1`` when none does."""
        return max(self.entries, default=self.first - 1)

    def put(self, slot: int, entry: EntryType) -> None:
        """Hold ``entry`` at ``slot``, replacing what was there."""
        assert self.first <= slot < self.limit, f"slot {slot} is outside the window [{self.first}, {self.limit})"
        self.entries[slot] = entry

    def pop_first(self) -> EntryType:
        """Let go of the first slot, which has been delivered, and move on by one."""
        entry = self.entries.pop(self.first)
        self.first += 1
        return entry

    def jump(self, first: int) -> None:
        """Begin at ``first``, letting go of everything before it."""
        assert first >= self.first, f"the window cannot go back from slot {self.first} to {first}"
        if first - self.first > len(self.entries):
            self.entries = {slot: entry for slot, entry in self.entries.items() if slot >= first}
        else:
            for slot in range(self.first, first):
                self.entries.pop(slot, None)
        self.first = first

    def gaps(self, last: int) -> Iterator[int]:
        """The slots from ``first`` to ``last`` that hold nothing, ascending."""
        return (slot for slot in range(self.first, last + 1) if slot not in self.entries)

    def check(self) -> None:
        """Assert that the window keeps its bounds."""
        assert all(self.first <= slot < self.limit for slot in self.entries), "an entry lies outside the window"
