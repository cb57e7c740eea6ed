"""A small protocol for trying the world itself: one fixed primary, and followers that store what it sends.

The member with the lowest id is the primary for ever, so there is nothing to elect and nothing to recover but the log.
A value is decided once a majority, the primary included, has it durably. Nothing is ever truncated or reconfigured.

Each of the ``bug_`` options breaks one rule, for checks that must notice.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from replica.consensus.interface import (
    Capabilities,
    Command,
    Configuration,
    Context,
    Deliver,
    Effects,
    Event,
    GrantRead,
    Message,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    ReadRequested,
    Reason,
    Received,
    Record,
    Reject,
    RejectRead,
    Send,
    Status,
    TimerFired,
)

TICK = "tick"
LOG = "log"


class Append(Message, frozen=True, tag=1):
    position: int
    commands: tuple[Command, ...]
    committed: int


class Appended(Message, frozen=True, tag=2):
    position: int


class Entry(Record, frozen=True, tag=1):
    commands: tuple[Command, ...]


class PrimaryOptions(msgspec.Struct, frozen=True, kw_only=True):
    election_timeout_s: float = 0.5
    resend_max: int = 64
    bug_reuses_positions: bool = False
    bug_votes_unsynced: bool = False


def key_of(position: int) -> bytes:
    return b"%010d" % position


class Primary(Protocol):
    def __init__(self, context: Context, options: PrimaryOptions) -> None:
        self.me = context.replica
        self.peers = tuple(each for each in context.configuration.replicas if each != self.me)
        self.primary = context.configuration.replicas[0]
        self.majority = len(context.configuration.replicas) // 2 + 1
        self.options = options
        self.stable = context.stable
        assert isinstance(context.applied, int)
        self.delivered = context.applied
        self.committed = context.applied
        self.log: dict[int, tuple[Command, ...]] = {}
        self.votes: dict[int, set[int]] = {}
        self.tickets: dict[int, tuple[int, int]] = {}
        self.next_ticket = 1
        self.reads: list[int] = []

    def start(self, now: float) -> Effects:
        effects = Effects()
        for key, record in self.stable.scan(LOG, b"", b"\xff"):
            assert isinstance(record, Entry)
            self.log[int(key)] = record.commands
        for position in self.log:
            self.votes[position] = {self.me}
        effects.timers[TICK] = now + self.options.election_timeout_s / 5
        self.settle(effects)
        return effects

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        effects = Effects()
        for event in events:
            match event:
                case Proposed(commands):
                    if self.me == self.primary:
                        self.append(max(self.log, default=0) + 1, commands, self.me, effects)
                    else:
                        effects.rejections.extend(
                            Reject(command, Reason.NOT_LEADER, True, self.primary) for command in commands
                        )
                case ReadRequested(token):
                    if self.me == self.primary:
                        # Nobody else can decide anything, so the primary's own log is up to date.
                        effects.reads.append(GrantRead(token, max(self.log, default=0)))
                    else:
                        effects.refused_reads.append(RejectRead(token, Reason.NOT_LEADER, True, self.primary))
                case Received(sender, Append(position, commands, committed)):
                    if position and position not in self.log:
                        self.append(position, commands, sender, effects)
                    elif position:
                        effects.sends.append(Send((sender,), Appended(position), self.next_ticket - 1))
                    self.committed = max(self.committed, committed)
                case Received(sender, Appended(position)):
                    self.votes.setdefault(position, set()).add(sender)
                case Persisted(ticket):
                    position, sender = self.tickets.pop(ticket)
                    self.votes.setdefault(position, set()).add(self.me)
                case TimerFired():
                    effects.timers[TICK] = now + self.options.election_timeout_s / 5
                    if self.me == self.primary and self.peers:
                        self.send_again(effects)
                case _:
                    pass
        self.settle(effects)
        return effects

    def append(self, position: int, commands: tuple[Command, ...], sender: int, effects: Effects) -> None:
        self.log[position] = commands
        ticket = self.next_ticket
        self.next_ticket += 1
        self.tickets[ticket] = (position, sender)
        effects.persists.append(Persist(ticket, (Put(LOG, key_of(position), Entry(commands)),)))
        if sender == self.me:
            if self.peers:
                # A position must not leave before it is durable, or a crash would let it be used twice.
                after = 0 if self.options.bug_reuses_positions else ticket
                effects.sends.append(Send(self.peers, Append(position, commands, self.committed), after))
        else:
            after = 0 if self.options.bug_votes_unsynced else ticket
            effects.sends.append(Send((sender,), Appended(position), after))

    def send_again(self, effects: Effects) -> None:
        for peer in self.peers:
            missing = [p for p, votes in self.votes.items() if self.me in votes and peer not in votes]
            missing = missing[: self.options.resend_max]
            for position in missing:
                effects.sends.append(Send((peer,), Append(position, self.log[position], self.committed)))
            effects.sends.append(Send((peer,), Append(0, (), self.committed)))

    def settle(self, effects: Effects) -> None:
        if self.me == self.primary:
            while len(self.votes.get(self.committed + 1, ())) >= self.majority:
                self.committed += 1
        while self.delivered < self.committed and self.delivered + 1 in self.log:
            self.delivered += 1
            effects.deliveries.append(Deliver(self.delivered, self.log[self.delivered]))

    def status(self) -> Status:
        leads = self.me == self.primary
        return Status(
            role="primary" if leads else "follower",
            leader=self.primary,
            ballot="",
            decided=self.committed,
            delivered=self.delivered,
            accepting=leads,
        )

    def check(self) -> None:
        assert self.delivered <= self.committed


def validate(configuration: Configuration, options: PrimaryOptions) -> None:
    pass


PROTOCOL = ProtocolSpec(
    name="primary",
    summary="one fixed primary",
    capabilities=Capabilities(
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
