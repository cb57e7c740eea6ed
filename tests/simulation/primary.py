"""One fixed primary: the worked example of the guide in ``replica/simulation/README.md``, which shows all of it.

The member with the lowest id is the primary for ever, so there is nothing to elect and nothing to recover but the log.
A value is decided once a majority, the primary included, has it durably. Nothing is ever truncated or reconfigured.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from replica.consensus import interface as api


class Append(api.Message, frozen=True, tag=1):
    """The primary's value for a position, and how far the log is decided."""

    position: int
    commands: tuple[api.Command, ...]
    committed: int


class Appended(api.Message, frozen=True, tag=2):
    """The sender has that position durably."""

    position: int


class Entry(api.Record, frozen=True, tag=1):
    """What is on disk under a position."""

    commands: tuple[api.Command, ...]


class PrimaryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds."""

    election_timeout_s: float = 0.5
    """Nobody is elected here; five times what the primary waits before it repeats itself."""
    resend_max: int = 64
    """Positions that are repeated to one follower at a time."""


LOG = "log"


def key_of(position: int) -> bytes:
    """Keys sort as positions do."""
    return b"%010d" % position


class Primary(api.Protocol):
    """One replica."""

    def __init__(self, context: api.Context, options: PrimaryOptions, bugs: frozenset[str] = frozenset()) -> None:
        assert isinstance(context.applied, int)
        self.me = context.replica
        self.primary = min(context.configuration.replicas)
        self.peers = tuple(each for each in context.configuration.replicas if each != self.me)
        self.majority = len(context.configuration.replicas) // 2 + 1
        self.stable = context.stable
        self.options = options
        self.bugs = bugs
        self.delivered = self.committed = context.applied
        self.log: dict[int, tuple[api.Command, ...]] = {}
        self.votes: dict[int, set[int]] = {}
        """By position, who has it durably: a set, or an answer that arrives twice would count for two."""
        self.tickets: dict[int, int] = {}
        """The position that a ticket of ours writes."""
        self.next_ticket = 1

    def start(self, now: float) -> api.Effects:
        effects = api.Effects()
        for key, record in self.stable.scan(LOG, b"", b"\xff"):
            assert isinstance(record, Entry)
            self.log[int(key)] = record.commands
            self.votes[int(key)] = {self.me}
        effects.timers["tick"] = now + self.options.election_timeout_s / 5
        self.settle(effects)
        return effects

    def step(self, now: float, events: Sequence[api.Event]) -> api.Effects:
        effects = api.Effects()
        for event in events:
            match event:
                case api.Proposed(commands) if self.me == self.primary:
                    self.append(max(self.log, default=0) + 1, commands, self.me, effects)
                case api.Proposed(commands):
                    effects.rejections += [
                        api.Reject(command, api.Reason.NOT_LEADER, definite=True, hint=self.primary)
                        for command in commands
                    ]
                case api.ReadRequested(token) if self.me == self.primary:
                    # Nobody else decides anything, so whatever was decided is in the primary's own log.
                    effects.reads.append(api.GrantRead(token, max(self.log, default=0)))
                case api.ReadRequested(token):
                    effects.refused_reads.append(api.RejectRead(token, api.Reason.NOT_LEADER, hint=self.primary))
                case api.Received(sender, Append(position, commands, committed)):
                    if position and position not in self.log:
                        self.append(position, commands, sender, effects)
                    elif position:
                        # It may be known and not durable yet: the answer waits for whatever has been written.
                        effects.sends.append(api.Send((sender,), Appended(position), after=self.next_ticket - 1))
                    self.committed = max(self.committed, committed)
                case api.Received(sender, Appended(position)):
                    self.votes.setdefault(position, set()).add(sender)
                case api.Persisted(ticket):
                    self.votes.setdefault(self.tickets.pop(ticket), set()).add(self.me)
                case api.TimerFired():
                    effects.timers["tick"] = now + self.options.election_timeout_s / 5
                    if self.me == self.primary:
                        self.send_again(effects)
                case _:
                    pass
        self.settle(effects)
        return effects

    def append(self, position: int, commands: tuple[api.Command, ...], sender: int, effects: api.Effects) -> None:
        """Write a position down, and say so once that is durable."""
        self.log[position] = commands
        ticket = self.next_ticket
        self.next_ticket += 1
        self.tickets[ticket] = position
        effects.persists.append(api.Persist(ticket, (api.Put(LOG, key_of(position), Entry(commands)),)))
        if sender != self.me:
            after = api.NO_TICKET if "vote counted before its sync" in self.bugs else ticket
            effects.sends.append(api.Send((sender,), Appended(position), after))
        elif self.peers:
            # Were it to leave at once, a crash could make the primary use the position for something else.
            after = api.NO_TICKET if "position used twice" in self.bugs else ticket
            effects.sends.append(api.Send(self.peers, Append(position, commands, self.committed), after))

    def send_again(self, effects: api.Effects) -> None:
        """Repeat to each follower what it has not confirmed, and how far the log is decided."""
        for peer in self.peers:
            missing = [position for position, votes in self.votes.items() if self.me in votes and peer not in votes]
            for position in missing[: self.options.resend_max]:
                effects.sends.append(api.Send((peer,), Append(position, self.log[position], self.committed)))
            effects.sends.append(api.Send((peer,), Append(0, (), self.committed)))

    def settle(self, effects: api.Effects) -> None:
        """What follows from the events of a turn: decide, then deliver in order and without gaps."""
        if self.me == self.primary:
            while len(self.votes.get(self.committed + 1, ())) >= self.majority:
                self.committed += 1
        while self.delivered < self.committed and self.delivered + 1 in self.log:
            self.delivered += 1
            effects.deliveries.append(api.Deliver(self.delivered, self.log[self.delivered]))

    def status(self) -> api.Status:
        leads = self.me == self.primary
        return api.Status(
            role="primary" if leads else "follower",
            leader=self.primary,
            ballot="",
            decided=self.committed,
            delivered=self.delivered,
            accepting=leads,
        )

    def check(self) -> None:
        assert self.delivered <= self.committed, "something was delivered that was not decided"


def validate(configuration: api.Configuration, options: PrimaryOptions) -> None:
    if options.election_timeout_s <= 0:
        raise api.ConfigurationError("protocol.options.election_timeout_s: must be above 0")


PROTOCOL = api.ProtocolSpec(
    name="primary",
    summary="one fixed primary",
    capabilities=api.Capabilities(
        total_order=True,
        transactions=True,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset({"log", "read-index"}),
        routing="leader",
        crash_recovery=True,
        reconfiguration=False,
    ),
    messages=(Append, Appended),
    tables={LOG: Entry},
    options=PrimaryOptions,
    create=Primary,
    validate=validate,
)


def planted(bug: str) -> api.ProtocolSpec:
    """The protocol with a mistake in it: for tests, and in no registry."""

    def create(context: api.Context, options: Any) -> api.Protocol:
        return Primary(context, options, frozenset({bug}))

    return replace(PROTOCOL, create=create)
