"""What a consensus protocol is: events in, effects out, declared capabilities.

Theory of operation
-------------------
A protocol is a pure state machine. A *driver* (the node, the simulator, or a test that feeds events by hand) calls
`Protocol.step` with the present time and the events that have accumulated, and carries out the `Effects` that come
back. A protocol never waits, never reads a clock, never sends and never touches a disk; the only thing that it may ask
synchronously is `Stable`, a reader over what it has itself asked to be written.

One turn of a driver, which is the contract that every protocol may rely on:

1. Drain the inbox, sample ``now`` *after* that, call ``step(now, events)``.
2. Hand every message whose ``after`` is ``NO_TICKET`` to the network at once (so that leader and followers sync at the
   same time), and put the writes of the turn into one atomic group.
3. When the group is durable, release the messages that waited on its tickets and feed ``Persisted(ticket)`` for each
   ticket, in order. Tickets complete in the order in which they were issued, each is atomic, and a crash keeps a
   prefix of them that holds at least those that were reported.
4. Carry out ``installs``, apply ``deliveries`` in the order given and hand out ``answers``; answer reads once the state
   has reached the stated frontier.

What a protocol must keep:

- Nothing that a peer may count on leaves before it is durable. The replica's own vote is subject to the same rule:
  it counts when its ticket has been reported, never earlier.
- A completion is matched by what was written (ballot and slot, or the protocol's own equivalent), never by position
  alone: a write may have been overtaken by another to the same position while it was in flight.
- The network may lose, duplicate and reorder; a stream that reconnects may do all three. Protocols retransmit.
- Every identifier that a replica mints is reserved durably or carries the ``incarnation`` before it is sent.
- Safety never depends on ``now``; only leases that a protocol declares may, and they judge by ``now`` alone.
- No iteration over a set or any other order that differs between runs may reach the effects.

Three shapes of decision. `Capabilities` says which one a protocol has, and a driver builds the state for it:

- *One order* (``total_order``): positions 1, 2, 3 … without gaps, one state machine with global revisions.
- *An order by object*: `Deliver.object` names what the position counts in. An object is a sequence of decisions, and
  what it stands for is the protocol's business: a key with a log of its own (WPaxos), or the instances that one replica
  leads (EPaxos). Deliveries of different objects need no common order, yet commands that interfere are delivered in the
  same order on every replica. Within an object positions may be delivered out of order where the protocol's
  dependencies allow it. The state remembers what it applied above the frontier, and a driver passes over what was
  applied before: a protocol that starts again may deliver anything above ``Context.applied`` once more. What one turn
  delivers is applied as one: no state is committed and no snapshot taken in the middle of it. Keys have
  revisions of their own and no global one. Positions count from 1 in each object. A replica that loses power loses
  what it applied since its last snapshot, so a protocol discards what it delivered only up to what `SnapshotTaken` or
  `SnapshotInstalled` has covered. A snapshot of a peer is installed when it covers everything that the own one covers;
  it replaces the whole state, which may thereby go *back* in objects where this replica was further: what was
  delivered above the frontier of `SnapshotInstalled` is to be delivered again, in an order that the dependencies allow.
  Two replicas that each lack what the other has discarded cannot help each other in this way. So either discard nothing
  that a peer lacks, or, where objects stand for keys, hand over single objects (`Objects.export`, `Install`).
- *Registers* (``registers``): there is no order and no log; the record under a key *is* the vote. The protocol holds
  the records in a table of its own, computes with the pure functions of `Registers` that the driver injects, and
  answers commands itself (`Answer`). Its frontier is an empty map. Reads are commands whose footprint says
  ``read_only``, answered with `Registers.read`; `ReadRequested` is never asked of it, and there are no snapshots.

Where commands are ordered by object or in registers, and ``footprints`` is declared, a driver cuts a client's run into
commands each of which touches one key (a transaction is a command of its own, refused where ``transactions`` is not
declared), so that keys do not interfere only because they travelled together. Names of objects that stand for a key
are made by `object_of`. Sessions are then named by the replica to which a client attaches, and what makes a command
take effect once is remembered in the records of the keys that it may write (`Footprint.writes`): commands with such a
key in common are to be ordered even if they are the same command twice.

Membership is an *epoch*. A `Configuration` names the members, the protocol and its options. To change any of them a
protocol is told `Reconfigure`; it decides a *seal* in its own order, and from the position of the seal on nothing more
is delivered in the epoch: `Effects.sealed` says so. The driver then takes a snapshot at the sealed frontier, makes it
durable together with the next configuration, and starts a fresh protocol object in the next epoch whose first position
follows the frontier. Messages of another epoch never reach a protocol: the driver answers them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias
from typing import Protocol as TypingProtocol

import msgspec

ReplicaId: TypeAlias = int
"""A replica's identity, 1 or more. Never reused, not even after its replica was removed."""

Ticket: TypeAlias = int
"""Names a group of durable writes of one protocol object; minted from 1 upwards without gaps."""

NO_TICKET: Final[Ticket] = 0
"""The ticket of a message that waits for nothing."""

Frontier: TypeAlias = int | dict[str, int]
"""How far a state has been applied: for a total order the last position (0: nothing), else by object the last position
up to which everything has been applied (an object that is missing stands at 0)."""

Options: TypeAlias = dict[str, int | float | str | bool]
"""Protocol options as they stand in a configuration: scalars by name."""


# --------------------------------------------------------------------------------------------------------- commands


class Footprint(msgspec.Struct, frozen=True, array_like=True):
    """What a command touches, as far as a protocol needs to know in order to tell interference.

    ``ranges`` are half-open ``[first, last)`` intervals of keys that are read, ``written_ranges`` such intervals that
    are written (an empty ``last``: to the end); two commands interfere when one writes a key that the other reads or
    writes.
    """

    reads: tuple[bytes, ...] = ()
    writes: tuple[bytes, ...] = ()
    ranges: tuple[tuple[bytes, bytes], ...] = ()
    read_only: bool = False
    written_ranges: tuple[tuple[bytes, bytes], ...] = ()


class Command(msgspec.Struct, frozen=True, array_like=True):
    """An opaque payload: ``count`` operations of one session with consecutive sequences from ``sequence`` on.

    The driver builds commands; where a protocol's capabilities ask for footprints, ``footprint`` is the union over the
    operations. ``session`` 0 marks a command outside any session.
    """

    payload: bytes
    session: int = 0
    sequence: int = 0
    count: int = 1
    footprint: Footprint | None = None


# ---------------------------------------------------------------------------------------------------- configuration


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A replica as the configuration knows it. Protocols use ``replica``, ``region`` and ``zone`` alone."""

    replica: ReplicaId
    peer_address: str = ""
    client_address: str = ""
    region: str = ""
    zone: str = ""


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """The members, the protocol and its options during one epoch."""

    epoch: int
    members: tuple[Member, ...]
    protocol: str
    options: Options = {}
    retired: tuple[ReplicaId, ...] = ()
    """The ids of members of earlier epochs that are members no more. It travels with the configuration, so that who
    joined after they left knows of them, too."""

    @property
    def replicas(self) -> tuple[ReplicaId, ...]:
        """The members' ids, ascending."""
        return tuple(sorted(member.replica for member in self.members))

    def member(self, replica: ReplicaId) -> Member | None:
        """The member with that id, or None."""
        return next((member for member in self.members if member.replica == replica), None)


class ConfigurationError(ValueError):
    """A configuration or option that cannot work; the text names the field and says what would be accepted."""


# -------------------------------------------------------------------------------------------------- messages, records


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of the messages between replicas. Subclasses declare ``tag=<small int>``, unique in their protocol.

    Fields are only ever appended, with defaults, so that a cluster can be upgraded replica by replica.
    """


class Record(msgspec.Struct, frozen=True, array_like=True):
    """Base of durable records. Subclasses declare ``tag=<small int>``; the same rule of growth as for messages."""


class Put(msgspec.Struct, frozen=True):
    """Write ``record`` under ``key`` in ``table``, replacing what was there."""

    table: str
    key: bytes
    record: Record


class Discard(msgspec.Struct, frozen=True):
    """Remove the keys of ``table`` in the half-open interval ``[first, last)``."""

    table: str
    first: bytes
    last: bytes


Write: TypeAlias = Put | Discard


class CorruptRecord(Exception):
    """A durable record cannot be read. It is *unknown*, never *absent*: the replica must not vote on without it."""

    def __init__(self, table: str, key: bytes, reason: str) -> None:
        super().__init__(f"record {key.hex()} of table {table!r} cannot be read: {reason}")
        self.table = table
        self.key = key
        self.reason = reason


class Stable(TypingProtocol):
    """Reads what this protocol object has asked to be written, durable yet or not (read your own writes)."""

    def get(self, table: str, key: bytes) -> Record | None:
        """The record, or None when there is none. Raises `CorruptRecord`."""

    def scan(self, table: str, first: bytes, last: bytes) -> Iterator[tuple[bytes, Record]]:
        """Records with keys in ``[first, last)``, ascending. Raises `CorruptRecord` on reaching a bad one."""


class Randomness(TypingProtocol):
    """The seeded source of randomness that a driver injects (`random.Random` satisfies it)."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float, /) -> float: ...

    def randrange(self, start: int, stop: int, /) -> int: ...


class Registers(TypingProtocol):
    """What the records of a register protocol mean: pure functions of the key-value model.

    A record is opaque to the protocol; None stands for one that was never written. A command touches one key.
    """

    def transition(self, record: bytes | None, command: Command) -> tuple[bytes, bytes]:
        """The record after ``command`` and the encoded results, one for each of its operations.

        The record is empty when nothing is to be written. Where ``compare_and_set`` is not declared, ``record`` makes
        no difference to a command that only writes, and may be None whatever is held.
        """

    def read(self, record: bytes | None, command: Command) -> bytes:
        """The encoded results of a command that only reads."""


class Objects(TypingProtocol):
    """Reads the applied state by object, for protocols that hand an object from replica to replica.

    It sees what was delivered in earlier turns, not what the present step is about to deliver.
    """

    def export(self, name: str) -> tuple[int, bytes]:
        """The position that the object has reached and its image: values, versions and sessions. (0, b"") for none."""


def object_of(key: bytes) -> str:
    """The name of the object that stands for ``key`` alone."""
    return key.decode("latin-1")


def key_of(name: str) -> bytes:
    """The key that an object stands for. Raises `UnicodeEncodeError` for a name that `object_of` never makes."""
    return name.encode("latin-1")


# ----------------------------------------------------------------------------------------------------------- events


class Received(msgspec.Struct, frozen=True):
    """A message of the present epoch from ``sender``, a member. May be a duplicate, late, or out of order."""

    sender: ReplicaId
    message: Message


class Proposed(msgspec.Struct, frozen=True):
    """Clients ask for these commands to be decided."""

    commands: tuple[Command, ...]


class ReadRequested(msgspec.Struct, frozen=True):
    """A linearizable read: grant it at a frontier that covers everything acknowledged before this event.

    ``footprint`` says what is read, where the protocol asks for footprints: only that need be covered.
    """

    token: int
    footprint: Footprint | None = None
    by_lease: bool = False
    """The asker accepts an answer that rests on clocks, where the protocol holds a lease."""


class TimerFired(msgspec.Struct, frozen=True):
    """The timer of that name has reached its time. Stale firings of a timer that was reset never arrive."""

    name: str


class Persisted(msgspec.Struct, frozen=True):
    """The writes under ``ticket``, and so all under earlier tickets, are durable."""

    ticket: Ticket


class SnapshotTaken(msgspec.Struct, frozen=True):
    """A durable snapshot of the local state covers ``frontier``: what lies at or before it may be discarded."""

    frontier: Frontier


class SnapshotInstalled(msgspec.Struct, frozen=True):
    """A snapshot fetched from a peer has durably replaced the local state up to ``frontier`` (same epoch).

    It erases no promise and no vote above ``frontier``. The state now stands at ``frontier``. ``mark`` is what the
    peer's protocol object had to say about the snapshot (`Protocol.snapshot_mark`).
    """

    frontier: Frontier
    mark: bytes = b""


class SnapshotUnavailable(msgspec.Struct, frozen=True):
    """The snapshot wished for from ``peer`` could not be fetched; another wish may be uttered."""

    peer: ReplicaId


class PeerReset(msgspec.Struct, frozen=True):
    """The stream to or from ``peer`` broke and is up again, or the peer restarted: messages may have been lost."""

    peer: ReplicaId


class Reconfigure(msgspec.Struct, frozen=True):
    """Decide a seal that ends this epoch in favour of ``configuration`` (whose epoch is the next one)."""

    token: int
    configuration: Configuration


class Yield(msgspec.Struct, frozen=True):
    """Give up leadership if held (graceful shutdown, maintenance); to ``successor`` where the protocol can."""

    successor: ReplicaId | None = None


class Admitted(msgspec.Struct, frozen=True):
    """The peers have taken this replica's disk on record, durably: from now on it may promise and vote."""


Event: TypeAlias = (
    Received
    | Proposed
    | ReadRequested
    | TimerFired
    | Persisted
    | SnapshotTaken
    | SnapshotInstalled
    | SnapshotUnavailable
    | PeerReset
    | Reconfigure
    | Yield
    | Admitted
)


# ---------------------------------------------------------------------------------------------------------- effects


class Persist(msgspec.Struct, frozen=True):
    """Make ``writes`` durable, atomically."""

    ticket: Ticket
    writes: tuple[Write, ...]


class Send(msgspec.Struct, frozen=True):
    """Send ``message`` to each of ``to`` (never the sender itself) once ticket ``after`` is durable."""

    to: tuple[ReplicaId, ...]
    message: Message
    after: Ticket = NO_TICKET


class Deliver(msgspec.Struct, frozen=True):
    """``commands`` are decided at ``position`` and everything they depend on has been delivered: apply them.

    A no-op delivers an empty tuple, so that the applied frontier advances without gaps. ``object`` names the object
    for protocols that order by object, and is empty for a total order.
    """

    position: int
    commands: tuple[Command, ...]
    object: str = ""


class Install(msgspec.Struct, frozen=True):
    """Replace the applied state of ``object`` by ``image``, which a peer exported at ``position``.

    Passed over when the object stands at ``position`` or beyond. Whoever asks for it has made the image durable itself
    and asks again after a restart that finds ``Context.applied`` short of it.
    """

    object: str
    position: int
    image: bytes


class Answer(msgspec.Struct, frozen=True):
    """A register protocol has carried out ``command``: the encoded results, to be handed to whoever waits for them."""

    command: Command
    results: bytes


class GrantRead(msgspec.Struct, frozen=True):
    """The read may be answered from the local state once it has been applied up to ``frontier``."""

    token: int
    frontier: Frontier


class Reason:
    """Why a command or read was refused (`Reject.reason`)."""

    NOT_LEADER: Final = "not leader"
    OVERLOADED: Final = "overloaded"
    SEALED: Final = "sealed"
    UNSUPPORTED: Final = "unsupported"
    LOST: Final = "lost"


class Reject(msgspec.Struct, frozen=True):
    """A command will not be answered by this replica.

    ``definite``: it was never proposed and will never take effect. Otherwise it may yet be decided. ``hint`` is the
    replica to turn to, where one is known.
    """

    command: Command
    reason: str
    definite: bool
    hint: ReplicaId | None = None


class RejectRead(msgspec.Struct, frozen=True):
    """A read (or a `Reconfigure`, by its token) is refused; reads have no effect, so asking again is always safe."""

    token: int
    reason: str
    definite: bool = True
    hint: ReplicaId | None = None


class Sealed(msgspec.Struct, frozen=True):
    """The epoch ends at ``frontier``, the position of the seal; ``configuration`` is decided to follow it.

    Everything before the seal has been delivered, the seal itself never is: a restart before the switch became durable
    finds the state short of ``frontier`` and reaches the seal again.
    """

    frontier: Frontier
    configuration: Configuration


class SnapshotWish(msgspec.Struct, frozen=True):
    """What is needed has been discarded elsewhere: fetch a snapshot from ``peer`` that covers at least ``frontier``."""

    peer: ReplicaId
    frontier: Frontier


class Effects(msgspec.Struct):
    """What one step asks for. Lists keep their order; ``timers`` maps a name to its time, or None to cancel it."""

    persists: list[Persist] = msgspec.field(default_factory=list)
    sends: list[Send] = msgspec.field(default_factory=list)
    timers: dict[str, float | None] = msgspec.field(default_factory=dict)
    deliveries: list[Deliver] = msgspec.field(default_factory=list)
    reads: list[GrantRead] = msgspec.field(default_factory=list)
    rejections: list[Reject] = msgspec.field(default_factory=list)
    refused_reads: list[RejectRead] = msgspec.field(default_factory=list)
    sealed: Sealed | None = None
    snapshot_wish: SnapshotWish | None = None
    installs: list[Install] = msgspec.field(default_factory=list)
    answers: list[Answer] = msgspec.field(default_factory=list)


# ----------------------------------------------------------------------------------------------------- capabilities


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a protocol offers. Node, client and benchmark refuse the rest with a clear error."""

    total_order: bool
    """One order over all commands; otherwise an order per key or object."""
    transactions: bool
    """Commands that touch several keys."""
    compare_and_set: bool
    """Commands whose effect depends on what they read."""
    exactly_once: bool
    """A retried command takes effect once. Without it an indefinite write must never be retried."""
    reads: frozenset[str]
    """Ways to a linearizable read, of ``log``, ``read-index``, ``lease``, ``quorum``."""
    routing: str
    """Whom a client should ask: ``leader``, ``owner``, ``nearest``, ``head-tail``."""
    crash_recovery: bool
    """A replica that restarts from its disk is the same replica."""
    reconfiguration: bool
    """The protocol can decide a seal."""
    footprints: bool = False
    """The protocol needs `Command.footprint`."""
    registers: bool = False
    """Register updates instead of an order of commands: needs `Context.registers` and answers by itself."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol's account of itself, for people and metrics."""

    role: str
    leader: ReplicaId | None
    ballot: str
    decided: Frontier
    delivered: Frontier
    accepting: bool
    """Would commands be proposed now, rather than refused?"""
    log_first: int = 0
    """The first position that the log still holds or will hold; 0 for a protocol without a log."""
    queued: int = 0
    in_flight: int = 0
    counters: dict[str, int] = {}
    """What has happened how often since the protocol object was made, by names of the protocol's own: EPaxos counts
    its fast and slow paths here. Counters only grow. Names are words joined by underscores: they end as metrics."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a protocol object is given at its birth, at first start and after every restart alike."""

    replica: ReplicaId
    configuration: Configuration
    stable: Stable
    randomness: Randomness
    incarnation: int
    """Grows with every start of this replica; durable before the protocol object is built."""
    applied: Frontier
    """Where the recovered local state stands: positions at or before it are decided and must not be delivered again.
    It may lie beyond what the local log holds."""
    base: Frontier = 0
    """Where the epoch begins: the sealed frontier of the epoch before (0 for the first)."""
    snapshot: Frontier = 0
    """What the durable snapshot covers, this replica's own or one installed (0: there is none). When it lies beyond
    what the protocol has recorded as decided it was installed, and the log at or before it need not hold what was
    decided: a crash may have come between the switch and the protocol's answer to `SnapshotInstalled`."""
    snapshot_mark: bytes = b""
    """What was said about that snapshot when it was taken (`Protocol.snapshot_mark`)."""
    voting: bool = True
    """False until this replica has been admitted by its peers: it may learn, but must not promise, vote or campaign,
    nor mint anything: its id may have been that of another disk, whose incarnations began at 1 as well."""
    registers: Registers | None = None
    """The meaning of records, for protocols that declare ``registers``."""
    objects: Objects | None = None
    """The applied state by object, for protocols that order by object."""


class Protocol(ABC):
    """One replica's half of a protocol during one epoch. Not thread-safe; driven as the module says."""

    @abstractmethod
    def start(self, now: float) -> Effects:
        """Called once, before any step: rebuild from ``Context.stable``, arm timers. Raises `CorruptRecord`."""

    @abstractmethod
    def step(self, now: float, events: Sequence[Event]) -> Effects:
        """Digest ``events`` in order and return what is to be done. ``now`` is in seconds and never goes back."""

    @abstractmethod
    def status(self) -> Status:
        """A snapshot of the protocol's own view, cheap enough to be asked often."""

    def snapshot_mark(self, frontier: Frontier) -> bytes:
        """What must be known of a snapshot of this replica's state at ``frontier`` besides the state itself.

        The driver asks when it takes a snapshot, keeps the answer beside it, and hands it to whoever installs the
        snapshot in the same epoch or restarts on it. ``frontier`` lies at or behind that of the last snapshot, and not
        beyond what has been delivered; by object the state may hold single positions since before the start, which are
        to be delivered again, and the frontier then runs over them. Raft's is the term of the last entry, EPaxos' what
        was executed by key; most protocols need none.
        """
        return b""

    def check(self) -> None:  # noqa: B027 - protocols that have invariants override it, the others need not
        """Assert the invariants of this replica's state. Raises `AssertionError`. Called often by the simulator."""


class ProtocolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How a protocol presents itself; what the entry-point group ``synod.protocols`` names."""

    name: str
    summary: str
    capabilities: Capabilities
    messages: tuple[type[Message], ...]
    tables: Mapping[str, type[Record] | tuple[type[Record], ...]]
    """The record types by table. Table names are lower-case words, unique in the protocol."""
    options: type[msgspec.Struct]
    """A frozen struct of the options with their defaults; durations end in ``_s``, sizes in ``_bytes``."""
    create: Callable[[Context, Any], Protocol]
    """Builds a protocol object from a context and an instance of ``options``."""
    validate: Callable[[Configuration, Any], None]
    """Raises `ConfigurationError` for a configuration that can't work, quorums that do not intersect included."""
    narrow: Callable[[Capabilities, Any], Capabilities] | None = None
    """What the options make of ``capabilities``, where some of it has to be asked for; None: all of it is there."""

    def offers(self, options: Any) -> Capabilities:
        """What a cluster with these options is capable of."""
        return self.capabilities if self.narrow is None else self.narrow(self.capabilities, options)


def parse_options(spec: ProtocolSpec, options: Options) -> Any:
    """The options of a configuration as the protocol's own type. Raises `ConfigurationError` naming the field."""
    known = {field.name for field in msgspec.structs.fields(spec.options)}
    for name in options:
        if name not in known:
            accepted = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(
                f"protocol.options.{name}: protocol {spec.name!r} has no such option (it has: {accepted})"
            )
    try:
        return msgspec.convert(options, spec.options)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"protocol.options: {error}") from None


def validate_configuration(spec: ProtocolSpec, configuration: Configuration) -> Any:
    """Check ``configuration`` for ``spec`` and return the parsed options. Raises `ConfigurationError`."""
    ids = [member.replica for member in configuration.members]
    if not ids:
        raise ConfigurationError("members: a cluster has at least one replica")
    for replica in ids:
        if replica < 1:
            raise ConfigurationError(f"members: replica id {replica} is not a positive integer")
    for replica in sorted(set(ids)):
        if ids.count(replica) > 1:
            raise ConfigurationError(f"members: replica id {replica} appears more than once")
    for replica in sorted(set(ids) & set(configuration.retired)):
        raise ConfigurationError(f"members: replica id {replica} has been used before; ids are never used again")
    options = parse_options(spec, configuration.options)
    spec.validate(configuration, options)
    return options
