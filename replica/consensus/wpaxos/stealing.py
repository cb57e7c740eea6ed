"""Phase 1: becoming the owner of an object, and finding the owner for the commands of this replica's clients.

A command goes to the owner of its object, as far as this replica knows: whoever minted the highest ballot that it has
promised. An object is claimed (stolen, where it had an owner) in four cases:

- it is asked for and nobody owns it, or this replica did before it restarted;
- its owner offers it, because it is used here (`policies`);
- it is asked for and its owner is suspected: a lost zone's objects move when they are needed;
- something was accepted and nothing has been heard of it for long: whoever proposed it may be gone, and what it has
  decided perhaps has to reach everybody.

Links may be cut such that this replica reaches too few to claim anything, while another that it does reach can (the
hub of a star). Then commands are *relayed* to that one, which claims their objects whoever owned them, and claims and
objects of this replica's that have got stuck are offered to it. Where there is no such replica, commands that were
given to nobody are refused, definitely, so that clients turn elsewhere.

A ballot is durable as the own promise before anybody hears of it, so it is never minted twice. Once a phase-1 quorum
has promised, the claimant has to have *delivered* as far as any of them before it proposes anything; beyond that it
takes up what was decided, what was accepted at the highest ballot, or nothing at all. Two claimants do not duel: the
lower ballot gives way and turns to the higher, and claims again only if that one is suspected or stays silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Command, Reason, Reject, ReplicaId, Ticket, object_of
from replica.consensus.options import COMMAND_BYTES_MAX, COMMAND_OVERHEAD_BYTES

from .catchup import CatchUps
from .contacts import Contacts
from .log import Logs, ObjectLog
from .messages import Forward, Held, Offer, Owned, Prepare, Promised, Redirect, Relay
from .replication import CommandId, Replication
from .state import Core

CAMPAIGNS_MAX: Final = 1024
"""Claims at a time; the next waits for a tick."""

RESCUES_MAX: Final = 64
"""Objects claimed in one tick because nothing was heard of them."""

ROUTED_MAX: Final = 1024
"""Waiting commands that are looked at in one tick."""

FORWARDS_MAX: Final = 4
"""A command is forwarded again after so many times ``retransmit_s`` at the latest."""

SILENCES: Final = 3
"""So many suspicion timeouts without news of an object whose owner is alive, and it is claimed in spite of that."""

PATIENCE: Final = 20
"""So many suspicion timeouts after which a command is given up; it may be decided even so, if it was given to an owner.
Where no owner can be reached or made, one is enough for a command that was given to nobody, and ``SILENCES`` for
others."""


class _Answer:
    """What a member holds of an object that is claimed."""

    __slots__ = ("delivered", "total", "held")

    def __init__(self) -> None:
        self.delivered = -1
        self.total = 0
        self.held: dict[int, Held] = {}

    @property
    def complete(self) -> bool:
        return self.delivered >= 0 and sum(each > self.delivered for each in self.held) == self.total


class Campaign:
    """One object that is being claimed."""

    __slots__ = ("ballot", "ticket", "answers", "waiting", "sent_at")

    def __init__(self, ballot: Ballot, ticket: Ticket, now: float) -> None:
        self.ballot = ballot
        self.ticket = ticket
        self.answers: dict[ReplicaId, _Answer] = {}
        self.waiting: dict[CommandId, tuple[ReplicaId, Command]] = {}
        """Commands that others have forwarded meanwhile."""
        self.sent_at = now


class _Pending:
    """A command of this replica's clients, until it is delivered here."""

    __slots__ = ("command", "name", "since", "due", "interval", "given")

    def __init__(self, command: Command, name: str, now: float) -> None:
        self.command = command
        self.name = name
        self.since = now
        self.due = now
        """When it is to be forwarded next, if it still has to be."""
        self.interval = 0.0
        """Between the last forward and the next: every one doubles it, up to a bound, since an owner may be far."""
        self.given = False
        """Has an owner been given it?"""

    def may_be_given(self) -> bool:
        """Nothing makes a write outside any session take effect once, so that it is given to an owner only once."""
        touched = self.command.footprint
        read_only = touched is not None and touched.read_only
        return not self.given or bool(self.command.session) or read_only


class Stealing:
    """What this replica claims, and what its clients wait for."""

    def __init__(
        self, core: Core, logs: Logs, contacts: Contacts, replication: Replication, catchups: CatchUps
    ) -> None:
        self._core = core
        self._logs = logs
        self._contacts = contacts
        self._replication = replication
        self._catchups = catchups
        self.campaigns: dict[str, Campaign] = {}
        self.pending: dict[CommandId, _Pending] = {}
        self._by_name: dict[str, dict[CommandId, _Pending]] = {}
        self.operations = 0
        """Operations that wait here for their delivery."""
        self._bytes = 0
        self._waiting = 0
        """Commands of others that wait for a claim, of all objects together."""
        self._grown: dict[str, None] = {}
        """Claims that may have succeeded."""
        self._offered_at = 0.0
        """When objects on which nothing can be decided here were last offered to another replica."""
        self._moved: dict[str, None] = {}
        """Objects that may have another owner than those who wait for them have turned to."""

    @property
    def full(self) -> bool:
        """Would another command be refused?"""
        return self.operations >= self._core.options.queue_max

    # ------------------------------------------------------------------------------------------------ from the clients

    def on_proposed(self, commands: Sequence[Command]) -> None:
        """Clients of this replica ask for commands."""
        core, options, reject = self._core, self._core.options, self._core.effects.rejections.append
        asked: dict[str, None] = {}
        cut_off = self._contacts.cut_off()
        for command in commands:
            length = len(command.payload) + COMMAND_OVERHEAD_BYTES
            name = _object(command)
            identity = (command.session, command.sequence)
            if not core.voting:
                reject(Reject(command, Reason.NOT_LEADER, True))
            elif name is None or length > COMMAND_BYTES_MAX:
                reject(Reject(command, Reason.UNSUPPORTED, True))
            elif identity in self.pending:
                asked[name] = None
            elif cut_off:
                reject(Reject(command, Reason.NOT_LEADER, True))
            elif self.full or (self._bytes and self._bytes + length > options.queue_bytes_max):
                reject(Reject(command, Reason.OVERLOADED, True, core.replica))
            else:
                self.pending[identity] = pending = _Pending(command, name, core.now)
                self._by_name.setdefault(name, {})[identity] = pending
                self.operations += command.count
                self._bytes += length
                asked[name] = None
        for name in asked:
            if name in self._replication.tenures:
                self._replication.accessed(self._logs[name], core.replica)
            self.route(name)

    def route(self, name: str, *, lost: bool = False) -> None:
        """Bring the commands that wait for an object to its owner, those that were just sent excepted; or to this
        replica, or to one that is in touch with more, if the owner is ``lost``."""
        core, log = self._core, self._logs[name]
        waiting = self._by_name.get(name)
        if not waiting:
            return
        if name in self._replication.tenures:
            given = [pending for pending in waiting.values() if pending.may_be_given()]
            self._replication.enqueue(log, [pending.command for pending in given])
            for pending in given:
                pending.given = True
            return
        if name in self.campaigns:
            return
        owner = log.promised.replica
        kind: type[Forward | Relay] = Forward
        if lost or self._lost(owner):
            if self._contacts.may_claim():
                self.claim(log)
                return
            helper = self._contacts.helper()
            if helper is not None:
                owner, kind = helper, Relay
            elif self._lost(owner):
                return
        first = core.options.retransmit_s
        for pending in waiting.values():
            if pending.due <= core.now and pending.may_be_given():
                pending.given = True
                core.counters["forwarded" if kind is Forward else "relayed"] += 1
                pending.interval = min(2 * pending.interval, FORWARDS_MAX * first) or first
                pending.due = core.now + pending.interval
                core.post(owner, kind, pending.command, len(pending.command.payload))

    def _lost(self, owner: ReplicaId) -> bool:
        """Does whoever minted an object's ballot not serve it? To be asked where this replica doesn't."""
        return owner in (0, self._core.replica) or self._contacts.suspects(owner)

    def reroute(self, name: str) -> None:
        """The object may have another owner than a moment ago: at the end of the turn, turn to it."""
        if name in self._by_name:
            self._moved[name] = None

    def delivered(self, log: ObjectLog, commands: tuple[Command, ...]) -> None:
        """Commands have been delivered; or an image was installed, and a claim may go on."""
        if log.name in self.campaigns:
            self._grown[log.name] = None
        if log.name in self._by_name:
            for command in commands:
                self._drop((command.session, command.sequence))

    def _drop(self, identity: CommandId) -> None:
        pending = self.pending.pop(identity, None)
        if pending is None:
            return
        self.operations -= pending.command.count
        self._bytes -= len(pending.command.payload) + COMMAND_OVERHEAD_BYTES
        waiting = self._by_name[pending.name]
        del waiting[identity]
        if not waiting:
            del self._by_name[pending.name]

    # ------------------------------------------------------------------------------------------------- from the others

    def on_forward(self, sender: ReplicaId, message: Forward) -> None:
        """Clients of another replica ask for commands on objects that are owned here, or were."""
        self._asked_elsewhere(sender, message.commands, relayed=False)

    def on_relay(self, sender: ReplicaId, message: Relay) -> None:
        """Another replica can't reach the owners of the objects that its clients ask for, nor claim them."""
        self._asked_elsewhere(sender, message.commands, relayed=True)

    def _asked_elsewhere(self, sender: ReplicaId, commands: Sequence[Command], *, relayed: bool) -> None:
        core, replication = self._core, self._replication
        if not core.voting:
            return
        asked: dict[str, None] = {}
        for command in commands:
            name = _object(command)
            if name is None:
                continue
            log = self._logs[name]
            room = replication.waiting + self._waiting < core.options.queue_max
            if name in replication.tenures:
                if not relayed:  # it could not take the object
                    asked[name] = None
                if room:
                    replication.enqueue(log, (command,))
                continue
            owner = log.promised.replica
            if name not in self.campaigns:
                if owner not in (0, core.replica) and not relayed:
                    core.post(sender, Redirect, Owned(name, log.promised))
                    continue
                self.claim(log)
            campaign = self.campaigns.get(name)
            if campaign is None and not relayed and not self._contacts.may_claim():
                core.post(sender, Offer, Owned(name, log.promised))  # perhaps it may
            elif campaign is not None and room:
                identity = (command.session, command.sequence)
                self._waiting += identity not in campaign.waiting
                campaign.waiting[identity] = (sender, command)
        for name in asked:
            replication.accessed(self._logs[name], sender)

    def on_offer(self, sender: ReplicaId, message: Offer) -> None:
        """An owner finds that objects are used here."""
        for owned in message.owned:
            log = self._logs[owned.name]
            if log.promised == owned.ballot and owned.name not in self.campaigns:
                self.claim(log)

    # --------------------------------------------------------------------------------------------------------- claiming

    def claim(self, log: ObjectLog) -> None:
        """Ask everybody to promise this replica the object; not while too few are in touch with it to succeed, since
        a claim that fails stands in the way of owners that could go on."""
        core = self._core
        if not core.voting or log.name in self.campaigns or len(self.campaigns) >= CAMPAIGNS_MAX:
            return
        if not self._contacts.may_claim():
            return
        assert log.name not in self._replication.tenures, f"{log.name!r} is owned already"
        core.counters["claims"] += 1
        if log.promised.replica not in (0, core.replica):
            core.counters["steals"] += 1
        ballot = log.promised.successor(core.replica)
        self._logs.promise(log, ballot)
        log.news_at = core.now
        self.campaigns[log.name] = Campaign(ballot, core.written, core.now)
        self._grown[log.name] = None
        core.post_all(Prepare, Owned(log.name, ballot))

    def overtaken(self, log: ObjectLog) -> None:
        """Somebody claims the object at a higher ballot: give way, and turn there."""
        campaign = self.campaigns.pop(log.name, None)
        if campaign is not None:
            self._core.counters["overtaken"] += 1
            self._waiting -= len(campaign.waiting)
        self.reroute(log.name)

    def on_promised(self, sender: ReplicaId, message: Promised) -> None:
        """Promises have come, or parts of them."""
        for promise in message.promises:
            campaign = self.campaigns.get(promise.name)
            if campaign is None or campaign.ballot != promise.ballot:
                continue
            answer = campaign.answers.setdefault(sender, _Answer())
            if promise.delivered >= answer.delivered:
                answer.delivered, answer.total = promise.delivered, promise.total
            for held in promise.held:
                answer.held[held.position] = held
            self._grown[promise.name] = None

    def persisted(self) -> None:
        """The own disk has caught up."""
        for name, campaign in self.campaigns.items():
            if campaign.ticket <= self._core.durable:
                self._grown[name] = None

    def settle(self) -> None:
        """Turn to new owners, and take over what a quorum has promised."""
        core = self._core
        moved, self._moved = self._moved, {}
        for name in moved:
            for pending in self._by_name.get(name, {}).values():
                pending.due = core.now
                pending.interval = 0.0
            self.route(name)
        grown, self._grown = self._grown, {}
        for name in grown:
            campaign = self.campaigns.get(name)
            if campaign is not None:
                self._try(self._logs[name], campaign)

    def _try(self, log: ObjectLog, campaign: Campaign) -> None:
        core = self._core
        complete = {replica: answer for replica, answer in campaign.answers.items() if answer.complete}
        acks = set(complete)
        if campaign.ticket <= core.durable:
            acks.add(core.replica)
        if not core.quorums.phase1(acks):
            return
        furthest = max(complete, key=lambda replica: complete[replica].delivered, default=core.replica)
        behind = furthest in complete and complete[furthest].delivered > log.delivered
        if behind and "steal drops the decided prefix" not in core.bugs:
            self._catchups.lacks(log, furthest, complete[furthest].delivered)
            return
        best = {position: Held(position, e.ballot, e.value, e.decided) for position, e in log.entries.items()}
        for answer in complete.values():
            for position, held in answer.held.items():
                known = best.get(position)
                if known is None or (held.decided, held.ballot) > (known.decided, known.ballot):
                    best[position] = held
        values = {position: held.value for position, held in best.items() if position > log.delivered}
        del self.campaigns[log.name]
        self._waiting -= len(campaign.waiting)
        core.counters["owned"] += 1
        self._replication.own(log, campaign.ballot, values)
        self._replication.enqueue(log, [command for _, command in campaign.waiting.values()])
        self.route(log.name)

    # ------------------------------------------------------------------------------------------------------------- time

    def tick(self) -> None:
        """Repeat what was not answered, turn to others where an owner is lost, and rescue what was left lying."""
        core = self._core
        timeout = core.options.suspicion_timeout_s
        overdue = core.now - core.options.retransmit_s
        self._hand_over()
        for name, campaign in self.campaigns.items():
            if campaign.sent_at <= overdue:
                campaign.sent_at = core.now
                missing = tuple(
                    other
                    for other in core.others
                    if (answer := campaign.answers.get(other)) is None or not answer.complete
                )
                core.post_some(missing, Prepare, Owned(name, campaign.ballot))
                self._grown[name] = None
        for name in list(islice(self._by_name, ROUTED_MAX)):
            self._tend(name)
        quiet = []
        for log in self._logs.idle_since(core.now - timeout / 2):
            if log.name in self._replication.tenures or log.name in self.campaigns:
                continue
            silences = 1 if self._contacts.suspects(log.promised.replica) else SILENCES
            if core.now - log.news_at >= timeout * silences * (
                1.0 + 0.5 * self._turn(log) + 0.2 * core.randomness.random()
            ):
                quiet.append(log)
                if len(quiet) == RESCUES_MAX:
                    break
        for log in quiet:
            core.counters["rescues"] += 1
            self.claim(log)

    def _hand_over(self) -> None:
        """Give up claims that can't succeed, and offer what can't go on here to a replica that reaches more."""
        core, contacts = self._core, self._contacts
        may_claim, may_decide = contacts.may_claim(), contacts.may_decide()
        if may_claim and may_decide:
            return
        healthy, helper = contacts.healthy(), contacts.helper()
        offered: list[Owned] = []
        for name, campaign in [] if may_claim else list(self.campaigns.items()):
            promised = {replica for replica, answer in campaign.answers.items() if answer.complete}
            if not core.quorums.phase1(healthy | promised):
                core.counters["claims_given_up"] += 1
                del self.campaigns[name]
                self._waiting -= len(campaign.waiting)
                offered.append(Owned(name, campaign.ballot))
                self.reroute(name)
        if not may_decide and core.now >= self._offered_at + core.options.retransmit_s:
            self._offered_at = core.now
            busy = islice(self._replication.busy, RESCUES_MAX)
            offered.extend(Owned(name, self._replication.tenures[name].ballot) for name in busy)
        if helper is not None:
            for owned in offered:
                core.post(helper, Offer, owned)

    def _turn(self, log: ObjectLog) -> int:
        """How many others come before this replica when it comes to rescuing an object: its owner is the first."""
        members = len(self._core.others) + 1
        return (self._core.rank + 1 - log.promised.replica) % members

    def _tend(self, name: str) -> None:
        """Look after the commands that wait for an object."""
        core, log = self._core, self._logs[name]
        timeout = core.options.suspicion_timeout_s
        owned = name in self._replication.tenures or name in self.campaigns
        waiting = list(self._by_name[name].items())
        oldest = min(pending.since for _, pending in waiting)
        stranded = core.now - oldest >= timeout and self._stranded(log)
        # To the end of the line, so that the next tick looks at others.
        self._by_name[name] = self._by_name.pop(name)
        for identity, pending in waiting:
            patience = PATIENCE if not stranded else SILENCES if pending.given else 1
            if core.now - pending.since >= patience * timeout:
                reason = Reason.LOST if pending.given else Reason.NOT_LEADER
                core.effects.rejections.append(Reject(pending.command, reason, not pending.given))
                self._drop(identity)
        if name not in self._by_name:
            return
        oldest = min(pending.since for pending in self._by_name[name].values())
        silent = core.now - max(oldest, log.news_at) >= SILENCES * timeout * (1.0 + core.randomness.random())
        self.route(name, lost=not owned and silent)

    def _stranded(self, log: ObjectLog) -> bool:
        """Can nothing come of commands on an object as long as this replica reaches no more than it does?"""
        contacts = self._contacts
        if log.name in self._replication.tenures:
            able = contacts.may_decide()
        else:
            able = not self._lost(log.promised.replica) or log.name in self.campaigns or contacts.may_claim()
        return not able and contacts.helper() is None

    # -------------------------------------------------------------------------------------------------------- queries

    def check(self) -> None:
        """Assert the invariants of claims and waiting commands."""
        assert len(self.campaigns) <= CAMPAIGNS_MAX
        for name, campaign in self.campaigns.items():
            assert campaign.ballot == self._logs.by_name[name].promised, f"the claim of {name!r} was overtaken"
            assert name not in self._replication.tenures
        assert self.operations == sum(pending.command.count for pending in self.pending.values())
        assert sum(map(len, self._by_name.values())) == len(self.pending)
        assert self._waiting == sum(len(campaign.waiting) for campaign in self.campaigns.values())


def _object(command: Command) -> str | None:
    """The object of the one key that a command touches; None when it touches another number of keys."""
    touched = command.footprint
    if touched is None or touched.ranges or touched.written_ranges:
        return None
    keys = {*touched.reads, *touched.writes}
    return object_of(next(iter(keys))) if len(keys) == 1 else None
