"""What the concerns of one replica share, beside what every protocol's turn has.

**Nothing leaves before what it tells of is durable.** Every message of a turn waits for everything written until then,
what the replica says to itself included (`Core.tell`). So a replica that crashed and started again is one that was slow
and lost some messages, nothing worse, and what was proved of the protocol for replicas that stop for good holds for
replicas that come back.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from replica.consensus.ballots import no_ballot
from replica.consensus.interface import NO_TICKET, Context, Effects, Message, Put, ReplicaId, Send, Ticket
from replica.consensus.quorums import Egalitarian
from replica.consensus.turn import TurnState

from .instance import Instance
from .messages import VALUES_TABLE, VOTES_TABLE, Dependencies, Value, Vote, instance_key
from .options import EPaxosOptions

TICK_TIMER: Final = "tick"

QUIET_TICKS: Final = 20
"""Without news a replica tells how far it is every so many ticks."""


class Core(TurnState):
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(self, context: Context, options: EPaxosOptions, quorums: Egalitarian, bugs: frozenset[str]) -> None:
        super().__init__(context)
        self.options = options
        self.quorums = quorums
        self.bugs = bugs
        self.members: tuple[ReplicaId, ...] = context.configuration.replicas
        self.rank = {member: rank for rank, member in enumerate(self.members)}
        self.quiet_s = QUIET_TICKS * options.progress_s
        """Something comes from everybody at least so often."""
        self.present_s = 2 * self.quiet_s
        """Whoever was heard of so long ago is there, as far as can be told."""
        self.nothing: Dependencies = (0,) * len(self.members)
        self.first_ballot = no_ballot(self.epoch)
        """The ballot of an instance's own leader, below every ballot of a recovery."""
        self.counters: Counter[str] = Counter()
        """What happened how often since the start."""
        self._heard_at = dict.fromkeys(self.others, 0.0)
        """When something last came from a peer, whatever it was."""
        self._own: deque[tuple[Ticket, Message]] = deque()
        self._votes: dict[tuple[ReplicaId, int], Instance] = {}
        self._values: dict[tuple[ReplicaId, int], Instance] = {}

    # -------------------------------------------------------------------------------------------------------- hearing

    def hears(self, *members: ReplicaId) -> None:
        """Something has come from these, or is taken to have come."""
        for member in members:
            self._heard_at[member] = self.now

    @property
    def present(self) -> int:
        """How many members are there, this one included."""
        return 1 + sum(at >= self.now - self.present_s for at in self._heard_at.values())

    # -------------------------------------------------------------------------------------------------------- writing

    @property
    def written(self) -> Ticket:
        """The ticket under which everything written so far, in this turn too, will be durable."""
        return self.next_ticket if self._votes or self._values or self.writes else self.next_ticket - 1

    def save(self, instance: Instance, *, value: bool = False) -> None:
        """Have the vote at an instance written with this turn, and its value if that is news."""
        self._votes[instance.id] = instance
        if value:
            self._values[instance.id] = instance

    def finish(self) -> Effects:
        """The turn ends: what it asks for. An instance is written once, as it stands now."""
        for instance in self._values.values():
            assert instance.value is not None
            key = instance_key(instance.space, instance.number)
            self.writes.append(Put(VALUES_TABLE, key, Value(instance.value, instance.initial)))
        for instance in self._votes.values():
            key = instance_key(instance.space, instance.number)
            vote = Vote(instance.ballot, instance.voted, instance.phase, instance.noop, instance.dependencies)
            self.writes.append(Put(VOTES_TABLE, key, vote))
        self._values = {}
        self._votes = {}
        return super().finish()

    # -------------------------------------------------------------------------------------------------------- speaking

    @property
    def _after(self) -> Ticket:
        return NO_TICKET if "vote before its sync" in self.bugs else self.written

    def tell(self, to: ReplicaId, message: Message) -> None:
        """Say something to a member, perhaps to this one itself, once all that was written is durable."""
        if to == self.replica:
            self._own.append((self._after, message))
        else:
            self.effects.sends.append(Send((to,), message, self._after))

    def tell_all(self, message: Message) -> None:
        """The same to every other member."""
        if self.others:
            self.effects.sends.append(Send(self.others, message, self._after))

    def tell_some(self, to: Sequence[ReplicaId], message: Message) -> None:
        """The same to these other members, if any."""
        if to:
            self.effects.sends.append(Send(tuple(to), message, self._after))

    def ask_all(self, message: Message) -> None:
        """To everybody, this replica included."""
        self.tell_all(message)
        self.tell(self.replica, message)

    def heard(self) -> Message | None:
        """The next thing that this replica has said to itself, if the time for it has come."""
        if self._own and self._own[0][0] <= self.durable:
            return self._own.popleft()[1]
        return None

    @property
    def unheard(self) -> int:
        """What it has said to itself and not heard."""
        return len(self._own)
