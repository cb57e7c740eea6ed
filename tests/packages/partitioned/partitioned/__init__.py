"""A protocol in a package of its own: every key has a log, led by one replica for ever.

The owner of a key is a function of its bytes. It gives each command on the key the next position, makes that durable,
and sends it to the others; what a majority has on disk is decided. A command that arrives elsewhere is forwarded.
Nobody takes over from an owner: while it is down, its keys stand still, and the other keys go on. There is nothing to
elect. What a snapshot covers is discarded; whoever lacks it is sent the key as it stands at its owner, value and
sessions, makes that durable and has it installed.

It is here to show what a protocol that is ordered by object looks like, and that one needs no edit in Synod: its entry
point is in ``pyproject.toml``. `PartitionedOptions.bug_reuses_positions` lets a position leave before it is durable,
for a suite that must notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import msgspec

from replica.consensus.interface import (
    Capabilities,
    Command,
    Configuration,
    Context,
    Deliver,
    Discard,
    Effects,
    Event,
    Install,
    Message,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    Reason,
    Received,
    Record,
    Reject,
    Send,
    SnapshotTaken,
    Status,
    TimerFired,
    object_of,
)

TICK = "tick"
LOG = "log"
IMAGES = "images"
LAST = b"\xff" * 32
"""Behind every key of a table."""

Slot = tuple[str, int]


class Entry(Record, frozen=True, tag=1):
    name: str
    position: int
    command: Command


class Image(Record, frozen=True, tag=1):
    """An object as its owner exported it."""

    position: int
    image: bytes


class Append(Message, frozen=True, tag=1):
    entries: tuple[Entry, ...]


class Appended(Message, frozen=True, tag=2):
    slots: tuple[Slot, ...]


class Decided(Message, frozen=True, tag=4):
    """How far the sender's objects are decided. Said again and again: whoever restarts has forgotten it."""

    frontier: dict[str, int]


class Forward(Message, frozen=True, tag=3):
    commands: tuple[Command, ...]


class Lacking(Message, frozen=True, tag=5):
    """What the sender can't go on with is not in its log: where it stands, by object."""

    frontier: dict[str, int]


class Handed(Message, frozen=True, tag=6):
    name: str
    position: int
    image: bytes


class PartitionedOptions(msgspec.Struct, frozen=True, kw_only=True):
    election_timeout_s: float = 0.5
    """There are no elections; it is what the pace of repetition is derived from."""
    resend_max: int = 256
    bug_reuses_positions: bool = False


def key_of(slot: Slot) -> bytes:
    return slot[1].to_bytes(8, "big") + slot[0].encode("latin-1")


def owner_of(name: str, replicas: tuple[int, ...]) -> int:
    """The replica that leads an object."""
    return replicas[crc32(name.encode()) % len(replicas)]


class Partitioned(Protocol):
    def __init__(self, context: Context, options: PartitionedOptions) -> None:
        self.me = context.replica
        self.replicas = context.configuration.replicas
        self.peers = tuple(each for each in self.replicas if each != self.me)
        self.majority = len(self.replicas) // 2 + 1
        self.options = options
        self.stable = context.stable
        self.delivered: dict[str, int] = dict(context.applied) if isinstance(context.applied, dict) else {}
        self.decided = dict(self.delivered)
        self.log: dict[Slot, Entry] = {}
        self.votes: dict[Slot, set[int]] = {}
        self.last: dict[str, int] = {}
        self.tickets: dict[int, tuple[Slot, ...]] = {}
        self.next_ticket = 1
        assert context.objects is not None
        self.objects = context.objects
        self.images: dict[int, list[tuple[str, Image]]] = {}
        """Images on their way to the disk, by ticket."""
        self.lacking: dict[str, int] = {}
        """Objects that could not go on at the last tick, and where they stood."""
        self.forwarded: dict[tuple[int, int], tuple[int, Command]] = {}
        """Commands that were sent to the owner of their key, until they are delivered here. Should the owner give them
        more than one position, they are executed once all the same."""

    def start(self, now: float) -> Effects:
        effects = Effects()
        for _, record in self.stable.scan(LOG, b"", LAST):
            assert isinstance(record, Entry)
            slot = (record.name, record.position)
            self.log[slot] = record
            self.last[record.name] = max(record.position, self.last.get(record.name, 0))
            if self.owns(record.name):
                self.votes[slot] = {self.me}
        for key, record in self.stable.scan(IMAGES, b"", LAST):
            assert isinstance(record, Image)
            self.install(key.decode("latin-1"), record, effects)
        effects.timers[TICK] = now + self.options.election_timeout_s / 5
        self.settle(effects)
        return effects

    def install(self, name: str, image: Image, effects: Effects) -> None:
        """Have a durable image take the place of what is older."""
        if image.position > self.delivered.get(name, 0):
            effects.installs.append(Install(name, image.position, image.image))
            self.delivered[name] = image.position
            self.decided[name] = max(image.position, self.decided.get(name, 0))

    def owns(self, name: str) -> bool:
        return owner_of(name, self.replicas) == self.me

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        effects = Effects()
        for event in events:
            match event:
                case Proposed(commands):
                    self.propose(commands, effects)
                case Received(_, Forward(commands)):
                    self.propose(commands, effects)
                case Received(sender, Append(entries)):
                    fresh = tuple(entry for entry in entries if (entry.name, entry.position) not in self.log)
                    slots = tuple((entry.name, entry.position) for entry in entries)
                    if fresh:
                        self.write(fresh, effects)
                    effects.sends.append(Send((sender,), Appended(slots), self.next_ticket - 1))
                case Received(sender, Appended(slots)):
                    for slot in slots:
                        if slot in self.votes:
                            self.votes[slot].add(sender)
                case Received(_, Decided(frontier)):
                    for name, position in frontier.items():
                        self.decided[name] = max(position, self.decided.get(name, 0))
                case Persisted(ticket):
                    for name, image in self.images.pop(ticket, ()):
                        self.install(name, image, effects)
                    for slot in self.tickets.pop(ticket, ()):
                        if slot in self.votes:
                            self.votes[slot].add(self.me)
                case SnapshotTaken(frontier):
                    assert isinstance(frontier, dict)
                    self.discard(frontier, effects)
                case Received(sender, Lacking(frontier)):
                    for name, position in frontier.items():
                        reached, exported = self.objects.export(name)
                        if reached > position:
                            effects.sends.append(Send((sender,), Handed(name, reached, exported)))
                case Received(_, Handed(name, position, image)):
                    if position > self.delivered.get(name, 0):
                        self.keep(name, Image(position, image), effects)
                case TimerFired():
                    effects.timers[TICK] = now + self.options.election_timeout_s / 5
                    self.send_again(effects)
                    self.ask_for_what_is_gone(effects)
                case _:
                    pass
        self.settle(effects)
        return effects

    def propose(self, commands: tuple[Command, ...], effects: Effects) -> None:
        entries = []
        for command in commands:
            touched = command.footprint
            assert touched is not None
            keys = {*touched.reads, *touched.writes}
            if len(keys) != 1 or touched.ranges or touched.written_ranges:
                effects.rejections.append(Reject(command, Reason.UNSUPPORTED, True))
                continue
            name = object_of(keys.pop())
            if not self.owns(name):
                owner = owner_of(name, self.replicas)
                self.forwarded[command.session, command.sequence] = (owner, command)
                effects.sends.append(Send((owner,), Forward((command,))))
                continue
            position = max(self.last.get(name, 0), self.delivered.get(name, 0)) + 1
            self.last[name] = position
            self.votes[name, position] = set()
            entries.append(Entry(name, position, command))
        if entries:
            ticket = self.write(tuple(entries), effects)
            if self.peers:
                # A position must not leave before it is durable, or a crash would let it be used twice.
                after = 0 if self.options.bug_reuses_positions else ticket
                effects.sends.append(Send(self.peers, Append(tuple(entries)), after))

    def discard(self, frontier: dict[str, int], effects: Effects) -> None:
        covered = [slot for slot in self.log if slot[1] <= frontier.get(slot[0], 0)]
        discards = []
        for slot in covered:
            del self.log[slot]
            self.votes.pop(slot, None)
            discards.append(Discard(LOG, key_of(slot), key_of(slot) + b"\x00"))
        for key, record in self.stable.scan(IMAGES, b"", LAST):
            assert isinstance(record, Image)
            if record.position <= frontier.get(key.decode("latin-1"), 0):
                discards.append(Discard(IMAGES, key, key + b"\x00"))
        if discards:
            effects.persists.append(Persist(self.next_ticket, tuple(discards)))
            self.next_ticket += 1

    def ask_for_what_is_gone(self, effects: Effects) -> None:
        """Ask the owners of objects that cannot go on: what comes next has been discarded."""
        asked: dict[int, dict[str, int]] = {}
        stuck: dict[str, int] = {}
        for name, decided in self.decided.items():
            delivered = self.delivered.get(name, 0)
            if delivered < decided and (name, delivered + 1) not in self.log and not self.owns(name):
                stuck[name] = delivered
                # It may be on its way: an object that stood there at the last tick, too, is asked for.
                if self.lacking.get(name) == delivered:
                    asked.setdefault(owner_of(name, self.replicas), {})[name] = delivered
        self.lacking = stuck
        for owner in sorted(asked):
            effects.sends.append(Send((owner,), Lacking(asked[owner])))

    def keep(self, name: str, image: Image, effects: Effects) -> None:
        ticket = self.next_ticket
        self.next_ticket += 1
        self.images[ticket] = [(name, image)]
        effects.persists.append(Persist(ticket, (Put(IMAGES, name.encode("latin-1"), image),)))

    def write(self, entries: tuple[Entry, ...], effects: Effects) -> int:
        ticket = self.next_ticket
        self.next_ticket += 1
        self.tickets[ticket] = tuple((entry.name, entry.position) for entry in entries)
        writes = []
        for entry in entries:
            self.log[entry.name, entry.position] = entry
            writes.append(Put(LOG, key_of((entry.name, entry.position)), entry))
        effects.persists.append(Persist(ticket, tuple(writes)))
        return ticket

    def send_again(self, effects: Effects) -> None:
        for peer in self.peers:
            missing = [slot for slot, votes in self.votes.items() if self.me in votes and peer not in votes]
            if missing:
                entries = tuple(self.log[slot] for slot in missing[: self.options.resend_max])
                effects.sends.append(Send((peer,), Append(entries)))
            effects.sends.append(Send((peer,), self.news()))
        for owner, command in list(self.forwarded.values())[: self.options.resend_max]:
            effects.sends.append(Send((owner,), Forward((command,))))

    def news(self) -> Decided:
        return Decided({name: self.decided[name] for name in sorted(self.decided) if self.owns(name)})

    def settle(self, effects: Effects) -> None:
        changed = False
        for name in list(self.last):
            decided = self.decided.get(name, 0)
            while len(self.votes.get((name, decided + 1), ())) >= self.majority:
                decided += 1
                changed = True
            if decided:
                self.decided[name] = decided
        if changed and self.peers:
            effects.sends.append(Send(self.peers, self.news()))
        for name, decided in self.decided.items():
            position = self.delivered.get(name, 0) + 1
            while position <= decided and (name, position) in self.log:
                command = self.log[name, position].command
                self.forwarded.pop((command.session, command.sequence), None)
                effects.deliveries.append(Deliver(position, (command,), name))
                self.delivered[name] = position
                position += 1

    def status(self) -> Status:
        return Status(
            role="owner of its part",
            leader=None,
            ballot="",
            decided=dict(self.decided),
            delivered=dict(self.delivered),
            accepting=True,
        )

    def check(self) -> None:
        for name, position in self.delivered.items():
            assert position <= self.decided.get(name, 0), f"{name!r} is delivered beyond what was decided"


def validate(configuration: Configuration, options: PartitionedOptions) -> None:
    """Every configuration works."""


PROTOCOL = ProtocolSpec(
    name="partitioned",
    summary="every key is led by one replica for ever",
    capabilities=Capabilities(
        total_order=False,
        transactions=False,
        compare_and_set=True,
        exactly_once=True,
        reads=frozenset({"log"}),
        routing="nearest",
        crash_recovery=True,
        reconfiguration=False,
        footprints=True,
    ),
    messages=(Append, Appended, Forward, Decided, Lacking, Handed),
    tables={LOG: Entry, IMAGES: Image},
    options=PartitionedOptions,
    create=Partitioned,
    validate=validate,
)
