"""One replica's half: it carries out the operations of its own clients, and holds records for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, TypeVar

import msgspec

from replica.consensus.interface import (
    NO_TICKET,
    Admitted,
    Answer,
    Capabilities,
    Command,
    Context,
    Effects,
    Event,
    Persist,
    Persisted,
    Proposed,
    Protocol,
    ProtocolSpec,
    Put,
    ReadRequested,
    Reason,
    Received,
    Reconfigure,
    Reject,
    RejectRead,
    ReplicaId,
    Send,
    Status,
    Ticket,
    TimerFired,
)
from replica.consensus.options import COMMAND_OVERHEAD_BYTES
from replica.consensus.quorums import Quorums

from .messages import NEVER, TABLE, Found, Holding, Kept, Query, Register, Stamp, Store, Stored, Wanted
from .options import AbdOptions, quorums_of, validate

T = TypeVar("T")

REPEAT: Final = "repeat"
"""The timer that looks after requests without an answer."""

REPEATED_BYTES_MAX: Final = 8 << 20
"""Bytes of records that are repeated at once, or one record more: what a link would drop is not worth its encoding."""

ITEM_BYTES: Final = 64
"""What an item of a message counts beside its key and record."""


class Phase(Enum):
    """How far an operation has come."""

    QUERY = 1
    STORE = 2


class Work(msgspec.Struct):
    """An operation of a client of this replica."""

    request: int
    command: Command
    key: bytes
    reads: bool
    asked: float
    phase: Phase = Phase.QUERY
    found: dict[ReplicaId, Stamp] = {}
    """Who has answered the query, and with which stamp."""
    stamp: Stamp = NEVER
    record: bytes | None = None
    """The highest stamp found, with its record; then what is being stored."""
    results: bytes = b""
    stored: set[ReplicaId] = set()


class Abd(Protocol):
    """See the package."""

    def __init__(
        self,
        context: Context,
        options: AbdOptions,
        *,
        quorums: Quorums | None = None,
        bugs: frozenset[str] = frozenset(),
    ) -> None:
        """``bugs`` are for the tests that have to find them (`replica.consensus.abd.planted`)."""
        if context.registers is None:
            raise ValueError("ABD needs to be told what records mean: the driver gave it no registers")
        self._me = context.replica
        self._run = context.incarnation
        self._registers = context.registers
        self._stable = context.stable
        self._options = options
        self._quorums = quorums or quorums_of(context.configuration, options)
        self._peers = tuple(each for each in context.configuration.replicas if each != self._me)
        self._voting = context.voting
        self._bugs = bugs
        self._now = 0.0
        self._works: dict[int, Work] = {}
        """Operations under way, by request; the oldest first."""
        self._bytes = 0
        """What their commands come to."""
        self._next_request = context.incarnation << 32
        self._using: dict[bytes, tuple[int, int]] = {}
        """By key that is being written from here: the highest counter used, and how many writes are under way.

        It is kept until the last of them is done, those that still query included: they may have been answered before
        another stored what it had minted.
        """
        self._next_ticket: Ticket = 1
        self._durable: Ticket = NO_TICKET
        self._writes: dict[bytes, Register] = {}
        """What this step writes, under ``_next_ticket``."""
        self._undurable: dict[bytes, tuple[Ticket, Register]] = {}
        """What was written and is not known to be durable, by key."""
        self._votes: dict[Ticket, list[tuple[int, Found | None]]] = {}
        """The own answers that wait for a ticket: to a query, or (None) to a store."""
        self._outgoing: dict[tuple[ReplicaId, Ticket], tuple[list[Found], list[int]]] = {}
        self._wanted: list[Wanted] = []
        self._kept: list[Kept] = []
        self._armed = False
        self._counters: Counter[str] = Counter()
        """What happened how often since the start."""

    # ---------------------------------------------------------------------------------------------------------- driver

    def start(self, now: float) -> Effects:
        """Nothing is under way, and the records are read when they are needed."""
        self._now = now
        return Effects()

    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """Digest events; everything that they ask for leaves together."""
        self._now = now
        effects = Effects()
        for event in events:
            match event:
                case Received(sender, Query(wanted)):
                    self._queried(sender, wanted)
                case Received(sender, Holding(found)):
                    for each in found:
                        self._heard(sender, each, effects)
                case Received(sender, Store(kept)):
                    self._asked_to_store(sender, kept)
                case Received(sender, Stored(requests)):
                    for request in requests:
                        self._is_stored(sender, request, effects)
                case Proposed(commands):
                    for command in commands:
                        self._propose(command, effects)
                case Persisted(ticket):
                    self._persisted(ticket, effects)
                case TimerFired():
                    self._armed = False
                    self._repeat(effects)
                case Admitted():
                    self._voting = True
                case ReadRequested(token) | Reconfigure(token):
                    effects.refused_reads.append(RejectRead(token, Reason.UNSUPPORTED))
                case _:
                    pass
        self._finish(effects)
        return effects

    def status(self) -> Status:
        """Every replica is like every other."""
        return Status(
            role="replica",
            leader=None,
            ballot="",
            decided={},
            delivered={},
            accepting=self._voting,
            in_flight=len(self._works),
            counters=dict(self._counters),
        )

    def check(self) -> None:
        """What must hold between two steps."""
        assert not self._writes
        assert not self._wanted
        assert not self._kept
        assert len(self._works) <= self._options.queue_max
        assert self._bytes == sum(_weight(work.command) for work in self._works.values())
        writing: dict[bytes, int] = {}
        for work in self._works.values():
            assert work.record is not None or work.phase is Phase.QUERY
            if not work.reads:
                writing[work.key] = writing.get(work.key, 0) + 1
        assert writing == {key: count for key, (_, count) in self._using.items()}
        assert all(ticket > self._durable for ticket, _ in self._undurable.values())

    # ------------------------------------------------------------------------------------------------------ operations

    def _propose(self, command: Command, effects: Effects) -> None:
        touched = command.footprint
        keys = () if touched is None else tuple(dict.fromkeys((*touched.reads, *touched.writes)))
        if touched is None or len(keys) != 1 or touched.ranges or touched.written_ranges:
            effects.rejections.append(Reject(command, Reason.UNSUPPORTED, True))
            return
        if not self._voting:
            # Another disk may have minted stamps under this id: until the peers have taken this one on record, none may
            # be minted here.
            effects.rejections.append(Reject(command, Reason.NOT_LEADER, True))
            return
        weight = _weight(command)
        over = self._bytes > 0 and self._bytes + weight > self._options.queue_bytes_max
        if over or len(self._works) >= self._options.queue_max:
            effects.rejections.append(Reject(command, Reason.OVERLOADED, True))
            return
        self._next_request += 1
        request = self._next_request
        work = Work(request, command, keys[0], touched.read_only, self._now, found={}, stored=set())
        self._works[request] = work
        self._bytes += weight
        if not work.reads:
            used, count = self._using.get(work.key, (0, 0))
            self._using[work.key] = (used, count + 1)
        wanted = Wanted(request, work.key, work.reads)
        self._wanted.append(wanted)
        ticket, own = self._find(wanted)
        self._vote(ticket, own, request, effects)

    def _heard(self, sender: ReplicaId, found: Found, effects: Effects) -> None:
        """Somebody has told what it holds."""
        work = self._works.get(found.request)
        if work is None or work.phase is not Phase.QUERY:
            return
        work.found[sender] = found.stamp
        if self._is_later(found.stamp, work.stamp):
            work.stamp, work.record = found.stamp, found.record
        if not self._quorums.phase1(work.found.keys()):
            return
        if work.reads:
            work.results = self._registers.read(work.record, work.command)
            holders = {replica for replica, stamp in work.found.items() if stamp == work.stamp}
            settled = work.record is None or self._quorums.phase2(holders)
            if settled or "reader without write-back" in self._bugs:
                # Nothing was ever written, or what was read lies where every later query finds it.
                self._counters["reads_in_one_round"] += 1
                self._answer(work, effects)
                return
            self._counters["write_backs"] += 1
        else:
            # The record that is replaced makes no difference, so nobody has sent it.
            work.record, work.results = self._registers.transition(None, work.command)
            if not work.record:
                self._answer(work, effects)
                return
            self._counters["writes"] += 1
            work.stamp = self._mint(work.key, work.stamp)
        self._store(work, effects)

    def _mint(self, key: bytes, highest: Stamp) -> Stamp:
        """A stamp above ``highest`` that nobody has ever used on the key, nor will."""
        used, count = self._using[key]
        if "a stamp shared by two writes" in self._bugs:
            used = 0
        counter = max(highest.counter, used) + 1
        self._using[key] = (max(counter, used), count)
        if "versions without writer id" in self._bugs:
            return Stamp(counter, 0, 0)
        return Stamp(counter, self._me, 0 if "stamps used again after a crash" in self._bugs else self._run)

    def _store(self, work: Work, effects: Effects) -> None:
        assert work.record is not None
        work.phase = Phase.STORE
        work.asked = self._now
        kept = Kept(work.request, work.key, work.stamp, work.record)
        self._kept.append(kept)
        self._vote(self._hold(kept), None, work.request, effects)

    def _is_stored(self, sender: ReplicaId, request: int, effects: Effects) -> None:
        work = self._works.get(request)
        if work is None or work.phase is not Phase.STORE:
            return
        work.stored.add(sender)
        if self._quorums.phase2(work.stored):
            self._answer(work, effects)

    def _answer(self, work: Work, effects: Effects) -> None:
        del self._works[work.request]
        self._bytes -= _weight(work.command)
        if not work.reads:
            used, count = self._using[work.key]
            if count > 1:
                self._using[work.key] = (used, count - 1)
            else:
                del self._using[work.key]
        effects.answers.append(Answer(work.command, work.results))

    def _repeat(self, effects: Effects) -> None:
        """Ask again for what was not answered, of those who did not answer."""
        wanted: dict[ReplicaId, list[Wanted]] = {}
        kept: dict[ReplicaId, list[Kept]] = {}
        repeated = size = 0
        for work in self._works.values():
            if work.asked + self._options.repeat_s > self._now:
                continue
            if repeated == self._options.repeat_max or size > REPEATED_BYTES_MAX:
                break
            repeated += 1
            self._counters["repeats"] += 1
            size += len(work.record or b"") if work.phase is Phase.STORE else 0
            work.asked = self._now
            for peer in self._peers:
                if work.phase is Phase.QUERY and peer not in work.found:
                    wanted.setdefault(peer, []).append(Wanted(work.request, work.key, work.reads))
                elif work.phase is Phase.STORE and peer not in work.stored:
                    assert work.record is not None
                    kept.setdefault(peer, []).append(Kept(work.request, work.key, work.stamp, work.record))
        for peer in self._peers:
            self._ask((peer,), wanted.get(peer, []), kept.get(peer, []), effects)

    # --------------------------------------------------------------------------------------------------------- holding

    def _held(self, key: bytes) -> tuple[Ticket, Register | None]:
        """What this replica holds under a key, and the ticket that must be durable before anybody is told."""
        fresh = self._writes.get(key)
        if fresh is not None:
            return self._next_ticket, fresh
        if key in self._undurable:
            return self._undurable[key]
        register = self._stable.get(TABLE, key)
        assert register is None or isinstance(register, Register)
        return NO_TICKET, register

    def _find(self, wanted: Wanted) -> tuple[Ticket, Found]:
        """The answer to a query, and the ticket that it has to wait for."""
        ticket, register = self._held(wanted.key)
        if register is None:
            return ticket, Found(wanted.request, NEVER)
        return ticket, Found(wanted.request, register.stamp, register.record if wanted.reads else None)

    def _hold(self, kept: Kept) -> Ticket:
        """Hold a record unless a later one is held already; the ticket after which this is durable."""
        ticket, held = self._held(kept.key)
        if held is None or self._is_later(kept.stamp, held.stamp):
            self._writes[kept.key] = Register(kept.stamp, kept.record)
            ticket = self._next_ticket
        return NO_TICKET if "acknowledged before its sync" in self._bugs else ticket

    def _is_later(self, one: Stamp, other: Stamp) -> bool:
        return one > other

    def _vote(self, ticket: Ticket, found: Found | None, request: int, effects: Effects) -> None:
        """Count the own answer, once what it tells is durable."""
        if ticket > self._durable:
            self._votes.setdefault(ticket, []).append((request, found))
        elif found is not None:
            self._heard(self._me, found, effects)
        else:
            self._is_stored(self._me, request, effects)

    def _queried(self, sender: ReplicaId, wanted: tuple[Wanted, ...]) -> None:
        if not self._voting:
            return
        for each in wanted:
            ticket, found = self._find(each)
            self._outgoing.setdefault((sender, ticket), ([], []))[0].append(found)

    def _asked_to_store(self, sender: ReplicaId, kept: tuple[Kept, ...]) -> None:
        if not self._voting:
            return
        for each in kept:
            ticket = self._hold(each)
            self._outgoing.setdefault((sender, ticket), ([], []))[1].append(each.request)

    def _persisted(self, ticket: Ticket, effects: Effects) -> None:
        self._durable = ticket
        for key in [key for key, (waiting, _) in self._undurable.items() if waiting <= ticket]:
            del self._undurable[key]
        for request, found in self._votes.pop(ticket, ()):
            self._vote(ticket, found, request, effects)

    def _finish(self, effects: Effects) -> None:
        """Send off what the step has gathered."""
        if self._writes:
            ticket = self._next_ticket
            self._next_ticket += 1
            effects.persists.append(
                Persist(ticket, tuple(Put(TABLE, key, register) for key, register in self._writes.items()))
            )
            for key, register in self._writes.items():
                self._undurable[key] = (ticket, register)
            self._writes = {}
        if self._peers:
            self._ask(self._peers, self._wanted, self._kept, effects)
        self._wanted, self._kept = [], []
        chunk = self._options.chunk_bytes_max
        for (peer, after), (found, requests) in self._outgoing.items():
            for some_found in _cut(found, _found_bytes, chunk):
                effects.sends.append(Send((peer,), Holding(some_found), after))
            for some_requests in _cut(requests, _request_bytes, chunk):
                effects.sends.append(Send((peer,), Stored(some_requests), after))
        self._outgoing = {}
        if self._works and not self._armed and self._peers:
            self._armed = True
            effects.timers[REPEAT] = self._now + self._options.repeat_s

    def _ask(self, peers: tuple[ReplicaId, ...], wanted: list[Wanted], kept: list[Kept], effects: Effects) -> None:
        chunk = self._options.chunk_bytes_max
        for some_wanted in _cut(wanted, _wanted_bytes, chunk):
            effects.sends.append(Send(peers, Query(some_wanted)))
        for some_kept in _cut(kept, _kept_bytes, chunk):
            effects.sends.append(Send(peers, Store(some_kept)))


def _weight(command: Command) -> int:
    """What an operation under way counts, in bytes."""
    return len(command.payload) + COMMAND_OVERHEAD_BYTES


def _cut(items: Iterable[T], size_of: Callable[[T], int], bytes_max: int) -> Iterator[tuple[T, ...]]:
    """The items in order, in pieces of so many bytes, or of one item each where that alone has more."""
    piece: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if piece and total + size > bytes_max:
            yield tuple(piece)
            piece, total = [], 0
        piece.append(item)
        total += size
    if piece:
        yield tuple(piece)


def _wanted_bytes(wanted: Wanted) -> int:
    return ITEM_BYTES + len(wanted.key)


def _found_bytes(found: Found) -> int:
    return ITEM_BYTES + len(found.record or b"")


def _kept_bytes(kept: Kept) -> int:
    return ITEM_BYTES + len(kept.key) + len(kept.record)


def _request_bytes(_: int) -> int:
    return ITEM_BYTES


PROTOCOL: Final = ProtocolSpec(
    name="abd",
    summary="an atomic register a key at majorities of replicas, without consensus",
    capabilities=Capabilities(
        total_order=False,
        transactions=False,
        compare_and_set=False,
        exactly_once=False,
        reads=frozenset({"quorum"}),
        routing="nearest",
        crash_recovery=True,
        reconfiguration=False,
        footprints=True,
        registers=True,
    ),
    messages=(Query, Holding, Store, Stored),
    tables={TABLE: Register},
    options=AbdOptions,
    create=Abd,
    validate=validate,
)
