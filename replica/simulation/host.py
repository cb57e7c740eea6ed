"""A replica in the simulated world: what the node does around a protocol, in virtual time.

A `Host` is a machine with a disk, a state store and a clock; it lives as long as the world. A `Process` is one run of
the replica on it, from a start to a crash; everything it holds in memory goes with it. The process drives the very
`Coordinator`, protocol and key-value state machine that the node runs. What it does between two effects is cut at
*boundaries*: at each of them the process may die, if a crash has been armed.

What a turn looks like depends on the host's profile, since the node can be configured either way and every order that
it may produce has to be produced here:

- ``sync_mode`` *inline*: the whole process waits while a group is committed; what arrives piles up. *thread*: turns go
  on, and the groups that accumulate are merged into the next transaction.
- ``apply_first``: deliveries of a turn are applied before its own group is durable, or after.
- ``frames``: the messages of a turn to one peer travel as one frame, or each by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from replica.consensus.codec import Codec, MalformedValue
from replica.consensus.frontiers import covers, joined, reach
from replica.consensus.interface import (
    Answer as Answered,
)
from replica.consensus.interface import (
    Command,
    Configuration,
    CorruptRecord,
    Deliver,
    Event,
    Frontier,
    Install,
    PeerReset,
    Proposed,
    ProtocolSpec,
    ReadRequested,
    Reason,
    Received,
    Reconfigure,
    Record,
    Reject,
    RejectRead,
    ReplicaId,
    Send,
    SnapshotUnavailable,
    SnapshotWish,
    Stable,
    Yield,
)
from replica.kv.objects.minting import Mint
from replica.kv.sessions import SESSIONS_MAX
from replica.simulation import frames
from replica.simulation.clock import Clock
from replica.simulation.disk import Disk, DiskReader, EncodedWrite, encode_writes
from replica.simulation.judge import Judge
from replica.simulation.machine import Answer, Image, make_home
from replica.simulation.network import Endpoint, Network
from replica.simulation.planted import planted_coordinator
from replica.simulation.violation import Violation
from replica.simulation.witness import Controls, Ledger
from replica.simulation.world import World
from replica.storage.coordinator import ANCHOR_KEY, META_TABLE, Anchor, Coordinator, Turn
from replica.storage.learning import Learner, Lesson, LessonBroken

OPERATOR: Final[Endpoint] = 0
"""Where an operator's requests come from. No endpoint of the network: an operator reaches every host that is up."""

HOST_GROUP: Final = 0
"""The number of a group that belongs to the host itself rather than to the coordinator."""

INBOX_COMMANDS_MAX: Final = 512
"""Commands that wait for a turn; more are refused, definitely."""

TURN_EVENTS_MAX: Final = 256

_META_ENCODER = msgspec.msgpack.Encoder()
_ANCHORS = msgspec.msgpack.Decoder(Anchor)


class PeerDisk(Record, frozen=True, tag=1):
    """The disk that a peer showed under its id."""

    disk: str


_PEER_DISKS = msgspec.msgpack.Decoder(PeerDisk)


class HostProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How a host behaves; drawn for each host of a run. Times in seconds."""

    sync_mode: str = "inline"
    sync_s: float = 0.0004
    sync_jitter_s: float = 0.0001
    sync_tail: float = 0.0
    sync_tail_s: float = 0.0
    sync_max_s: float = 1.0
    """No sync takes longer, whatever befalls the disk: beyond that it would be a failed one."""
    turn_s: float = 0.0001
    turn_tail: float = 0.0
    turn_tail_s: float = 0.0
    apply_first: bool = True
    frames: bool = True
    snapshot_every: int = 200
    snapshot_s: float = 0.005
    state_commit_every: int = 20
    boot_s: float = 0.01
    adversarial: bool = False
    greeting_s: float = 0.05
    fetch_timeout_s: float = 0.5
    check_every: int = 4


class Crashed(Exception):
    """Raised at a boundary to unwind a process that dies there."""


class Armed(msgspec.Struct):
    """A crash waiting for its boundary: the ``countdown``-th one of that name ("" is any)."""

    point: str
    countdown: int
    power: bool
    down_s: float


class Protocols:
    """Finds specifications by name and keeps one codec for each."""

    def __init__(self, specs: dict[str, ProtocolSpec]) -> None:
        self._specs = specs
        self._codecs: dict[str, Codec] = {}

    def find(self, name: str) -> ProtocolSpec:
        """Raises `KeyError`."""
        return self._specs[name]

    def codec(self, spec: ProtocolSpec) -> Codec:
        """The codec of a specification."""
        codec = self._codecs.get(spec.name)
        if codec is None:
            codec = self._codecs[spec.name] = Codec(spec)
        return codec


class Host:
    """A machine that runs one replica, again and again."""

    def __init__(
        self,
        world: World,
        network: Network,
        protocols: Protocols,
        oracle: Judge,
        *,
        replica: ReplicaId,
        configuration: Configuration,
        joining: bool,
        profile: HostProfile,
        clock_rate: float = 1.0,
        controls: Controls | None = None,
        sessions_max: int = SESSIONS_MAX,
    ) -> None:
        """A freshly formatted host. ``joining`` waits to be made a member by somebody else; ``configuration`` then
        only names peers to ask."""
        self.world = world
        self.network = network
        self.protocols = protocols
        self.oracle = oracle
        self.replica = replica
        self.profile = profile
        self.name = f"r{replica}"
        self.crash_draw = world.generator(f"crash {replica}")
        self.disk_draw = world.generator(f"disk {replica}")
        self.turn_draw = world.generator(f"turns {replica}")
        self._clock_draw = world.generator(f"clock {replica}")
        self.clock = Clock(world.now, origin=self._clock_draw.uniform(0.0, 1000.0), rate=clock_rate)
        self.introduction = configuration
        self.controls = controls or Controls()
        self.formats = 0
        self._ledger = oracle.ledgers[replica] = Ledger()
        self.disk = self._format()
        self._sessions_max = sessions_max
        self._capabilities = protocols.find(configuration.protocol).capabilities
        self.state = make_home(self._capabilities, sessions_max=sessions_max, controls=self.controls)
        if not joining:
            anchor = Anchor(configuration=configuration)
            self.disk.submit(HOST_GROUP, [(META_TABLE, ANCHOR_KEY, _META_ENCODER.encode(anchor), b"")])
            self.disk.begin()
            self.disk.finish()
        self.process: Process | None = None
        self.armed: Armed | None = None
        self.stopped = ""
        """Why this replica never runs again; empty while it may."""
        self.doomed = False
        """Something on its disk is beyond repair; it may not have noticed yet."""
        self.retired = False
        """Taken out of service by the operator, after another has taken its place."""
        self.paused = False
        self.armed_pause: tuple[str, float] | None = None
        """A pause waiting for its boundary ("" is any), and how long it lasts."""
        self._timers_last = False
        self._deferred: list[tuple[Process, Callable[..., None], tuple[Any, ...]]] = []
        self.resume_at = 0.0
        self.restart_blocked = False
        self._power_lost = False
        self.sync_factor = 1.0
        self.fail_next_sync = False
        network.register(replica, self._receive)

    def _format(self) -> Disk:
        self.formats += 1
        identity = self.formats if self.controls.same_disk else 1
        return Disk(f"disk-{self.replica}-{identity}", self._ledger, self.controls)

    # ------------------------------------------------------------------------------------------------- life and death

    @property
    def up(self) -> bool:
        """Is a process running?"""
        return self.process is not None

    @property
    def usable(self) -> bool:
        """May this host ever take part again?"""
        return not self.stopped and not self.retired

    def start(self) -> None:
        """Start the replica, unless it runs or may not."""
        if self.process is not None or not self.usable or self.restart_blocked:
            return
        if self._power_lost:
            # A monotonic clock begins anew with the machine.
            self.clock = Clock(self.world.now, origin=self._clock_draw.uniform(0.0, 1000.0), rate=self.clock.rate)
            self._power_lost = False
        # What a process before this one wrote in the middle of a sync may be readable and not durable.
        if self.controls.sync_at_start:
            self.disk.sync()
        self.disk.incarnation += 1
        self.world.count("starts")
        self.world.trace.note(self.world.now, "start", self.replica)
        self.world.trace.say(self.world.now, self.name, f"starts (incarnation {self.disk.incarnation})")
        self.process = process = Process(self)
        process.enter(process.begin)

    def crash(self, *, power: bool, why: str) -> None:
        """The process dies; with ``power`` the machine does."""
        process = self.process
        self.armed = None
        self.armed_pause = None
        if process is not None:
            process.tally()
            process.dead = True
            self.process = None
            self.oracle.stopped(self.replica)
        self.paused = False
        self._deferred.clear()
        torn = self.disk.torn
        lost = self.disk.crash(self.crash_draw, power=power, adversarial=self.profile.adversarial)
        self.state.crash(self.crash_draw, power=power)
        if power:
            self._power_lost = True
        if self.disk.torn > torn:
            self.world.count("merged transactions torn")
        if lost:
            self.world.count("unsynced writes lost", lost)
        self.world.trace.note(self.world.now, "crash", self.replica, why.encode())
        self.world.trace.say(
            self.world.now, self.name, f"{'loses power' if power else 'crashes'} ({why}), {lost} groups lost"
        )

    def stop(self, reason: str) -> None:
        """The replica refuses to run again."""
        self.stopped = reason
        self.world.trace.say(self.world.now, self.name, f"stops for good: {reason}")
        self.crash(power=False, why=reason)

    def shut_down(self) -> None:
        """End the process in good order: leadership was given up before, the state is committed."""
        if self.process is not None:
            self.process.enter(self.process.close)

    def wipe(self) -> None:
        """The disk is lost and replaced by an empty, formatted one. The id stays, the identity does not."""
        if self.process is not None:
            self.crash(power=True, why="disk wiped")
        before = self.disk
        anchor = Anchor(configuration=self.introduction)
        self.disk = self._format()
        if not self.controls.same_disk:
            self.disk.admitted = before.admitted
            self.disk.incarnation = before.incarnation
        self.disk.submit(HOST_GROUP, [(META_TABLE, ANCHOR_KEY, _META_ENCODER.encode(anchor), b"")])
        self.disk.begin()
        self.disk.finish()
        self.state = make_home(self._capabilities, sessions_max=self._sessions_max, controls=self.controls)

    def pause(self, seconds: float, *, timers_last: bool = False) -> None:
        """Everything on this host stands still; the clock does not.

        ``timers_last``: on waking the process looks at what has arrived before it looks at its timers, as an event loop
        does that was stopped while it polled. Otherwise what was due first comes first.
        """
        if self.process is None or self.paused:
            return
        self.paused = True
        self._timers_last = timers_last
        self.resume_at = self.world.now + seconds
        self.world.trace.say(self.world.now, self.name, f"pauses for {seconds:.3f} s")
        self.world.after(seconds, self._resume, self.process)

    def _resume(self, process: Process) -> None:
        if self.process is not process or not self.paused:
            return
        self.paused = False
        self.world.trace.say(self.world.now, self.name, "resumes")
        deferred, self._deferred = self._deferred, []
        if self._timers_last:
            deferred.sort(key=lambda entry: entry[1] == entry[0]._woken)
        for owner, action, arguments in deferred:
            owner.enter(action, *arguments)

    def defer(self, process: Process, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Do something once the pause is over."""
        self._deferred.append((process, action, arguments))

    def heal(self) -> None:
        """Take every fault away: what is usable runs, with a clock that is right and a disk that is quick."""
        self.armed = None
        self.armed_pause = None
        self.fail_next_sync = False
        self.sync_factor = 1.0
        self.clock.set_rate(self.world.now, 1.0)
        self.restart_blocked = False
        if self.process is not None:
            if self.paused:
                self._resume(self.process)
            if self.process is not None:
                self.process.rearm()
        self.start()

    # --------------------------------------------------------------------------------------------------------- inputs

    def _receive(self, sender: Endpoint, frame: Any) -> None:
        if self.process is not None:
            self.process.enter(self.process.receive, sender, frame)

    def peer_reset(self, peer: ReplicaId) -> None:
        """The streams to ``peer`` broke and are up again."""
        if self.process is not None:
            self.process.enter(self.process.reset_peer, peer)

    @property
    def held_s(self) -> float:
        """How long what leaves this host now is held up: the rest of a pause that began within the present turn."""
        return max(0.0, self.resume_at - self.world.now) if self.paused else 0.0

    def boundary(self, name: str) -> None:
        """A place between two effects. Raises `Crashed` when a crash was armed for it.

        A pause armed for it begins here: what the turn still sends leaves when the pause is over.
        """
        if self.armed_pause is not None and self.armed_pause[0] in {"", name}:
            seconds = self.armed_pause[1]
            self.armed_pause = None
            self.world.count("pauses within a turn")
            self.pause(seconds)
        armed = self.armed
        if armed is not None and (not armed.point or armed.point == name):
            armed.countdown -= 1
            if armed.countdown <= 0:
                self.world.count(f"crashes at: {name}")
                raise Crashed(name)


class _Switch(msgspec.Struct):
    """An anchor on its way into the log environment."""

    anchor: Anchor
    image: Image
    kind: str  # "taken", "installed" or "sealed"
    wished_from: ReplicaId = 0


class _Teaching(msgspec.Struct):
    """A lesson that a process gives."""

    name: str
    begun_at: float
    lesson: Lesson


class _Learning(msgspec.Struct):
    """A lesson that a process is given."""

    name: str
    teacher: ReplicaId
    learner: Learner
    heard_at: float
    graduating: bool = False


class Process:
    """One run of a replica, from its start to its end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.trace = host.world.trace
        self.replica = host.replica
        self.disk = host.disk
        self.profile = host.profile
        self.incarnation = host.disk.incarnation
        self.dead = False
        self._draw = host.turn_draw
        self.coordinator: Coordinator | None = None
        self.steps = 0
        self._inbox: deque[Event] = deque()
        self._commands: list[Command] = []
        self._turn_scheduled = False
        self._wake_at: float | None = None
        self._last_now = 0.0
        self._blocked = False  # inline: a sync is under way and nothing else happens
        self._afterwards: deque[Turn] = deque()
        self._completions: deque[Callable[[], None] | None] = deque()
        self._flying: list[Callable[[], None] | None] = []
        self._outgoing: dict[ReplicaId, list[bytes]] = {}
        self._peer_incarnations: dict[ReplicaId, int] = {}
        self._welcomed: set[ReplicaId] = set()
        self._recording: set[ReplicaId] = set()
        self._admitting = False
        self._switches: deque[_Switch] = deque()
        self._switching = False
        self._staging = False
        self._fetch = 0
        self._fetches = 0
        self._fetch_arrived = 0
        self._snapshots = 0
        self._fetch_peer: ReplicaId = 0
        self._fetch_wished = False
        self._since_commit = 0
        self._expected: set[ReplicaId] = set()
        self._teaching: dict[ReplicaId, _Teaching] = {}
        self._taught = 0
        self._learning: _Learning | None = None
        self._sessions: dict[int, Endpoint] = {}
        self._openings: dict[bytes, Endpoint] = {}
        self._tokens = 0
        self._reads: dict[int, tuple[Endpoint, frames.Read]] = {}
        self._granted: list[tuple[Frontier, int]] = []
        self._mint = None if host.state.newest_session is None else Mint(host.replica, self.incarnation)
        self._freeze_commits = False

    def tally(self) -> None:
        """Add what the protocol has counted of itself to what was covered: this process or its epoch ends."""
        if self.coordinator is not None:
            for name, number in self.coordinator.status().counters.items():
                assert name.isidentifier(), f"{name!r} cannot be a part of a metric's name"
                self.world.count(f"{self.coordinator.spec.name}: {name}", number)

    # -------------------------------------------------------------------------------------------------------- entries

    def enter(self, action: Callable[..., None], *arguments: Any) -> None:
        """Every way into the process: nothing happens when it is dead, later when paused, and a crash ends it."""
        if self.dead:
            return
        host = self.host
        if host.paused:
            host.defer(self, action, arguments)
            return
        try:
            action(*arguments)
        except Crashed as crashed:
            armed = host.armed
            assert armed is not None
            power, down_s = armed.power, armed.down_s
            host.crash(power=power, why=f"at: {crashed}")
            self.world.after(down_s, host.start)
        except CorruptRecord as corrupt:
            self.world.count("replicas stopped by a corrupt record")
            host.stop(str(corrupt))
            if not host.doomed:
                raise Violation(
                    "records are whole", f"no fault has struck the disk of {host.name}: {corrupt}"
                ) from None

    def now(self) -> float:
        """The replica's own time, which never goes back."""
        self._last_now = max(self._last_now, self.host.clock.read(self.world.now))
        return self._last_now

    # ----------------------------------------------------------------------------------------------- start and end

    def begin(self) -> None:
        """Come up from the disk."""
        host = self.host
        host.boundary("start")
        data = self.disk.read(META_TABLE, ANCHOR_KEY)
        if data is None:
            self._poll()
            return
        anchor = _ANCHORS.decode(data)
        rebuilt = host.state.recover(anchor, self.disk.snapshots)
        if rebuilt:
            self.world.count("states rebuilt from snapshot and log")
        self._drop_snapshots(anchor)
        host.oracle.started(self.replica, host.state)
        self.world.after(self.profile.boot_s, self.enter, self._run, anchor)

    def _run(self, anchor: Anchor) -> None:
        host = self.host
        now = self.now()
        self.coordinator = coordinator = planted_coordinator(host.controls)(
            host.protocols.find,
            replica=self.replica,
            anchor=anchor,
            stable=self._stable,
            randomness=self.world.generator(f"protocol {self.replica} {host.formats} {self.incarnation}"),
            incarnation=self.incarnation,
            applied=host.state.applied,
            voting=self.disk.admitted,
            registers=host.state.registers,
            objects=host.state,
        )
        self._greet()
        self._carry_out(coordinator.start(now))
        coordinator.protocol.check()

    def _stable(self, spec: ProtocolSpec) -> Stable:
        return DiskReader(self.disk, self.host.protocols.codec(spec))

    def close(self) -> None:
        """A graceful end: what was applied is committed, and the process leaves."""
        if not self._freeze_commits:
            self.host.state.commit()
        self.world.count("graceful shutdowns")
        self.host.crash(power=False, why="shut down")

    def _drop_snapshots(self, anchor: Anchor) -> None:
        """Remove what no anchor names, nor any that is yet to be committed."""
        kept = {anchor.snapshot, *(switch.anchor.snapshot for switch in self._switches)}
        for name in [name for name in self.disk.snapshots if name not in kept]:
            del self.disk.snapshots[name]

    # --------------------------------------------------------------------------------------------------------- frames

    def receive(self, sender: Endpoint, frame: Any) -> None:
        """A frame has arrived."""
        if isinstance(frame, frames.Messages):
            self._messages(sender, frame)
        elif sender < 0:
            self._client(sender, frame)
        elif isinstance(frame, frames.Greeting):
            self._greeted(sender, frame)
        elif isinstance(frame, frames.Welcome):
            self._welcome(sender, frame)
        elif isinstance(frame, frames.Refusal):
            self._refused(frame)
        elif isinstance(frame, frames.EpochNotice):
            self._epoch_notice(sender, frame.epoch)
        elif isinstance(frame, frames.SnapshotRequest):
            self._snapshot_requested(sender, frame)
        elif isinstance(frame, frames.LessonBegun):
            self._lesson_begun(sender, frame)
        elif isinstance(frame, frames.LessonNews):
            self._lesson_told(sender, frame)
        elif isinstance(frame, frames.LessonTaken):
            self._lesson_taken(sender, frame.lesson, frame.applied)
        else:
            self._snapshot_offered(sender, frame)

    def _messages(self, sender: ReplicaId, frame: frames.Messages) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            return
        known = self._peer_incarnations.get(sender, 0)
        if frame.incarnation < known:
            self.world.count("frames of an older incarnation dropped")
            return
        self._peer_incarnations[sender] = frame.incarnation
        if frame.epoch != coordinator.epoch:
            self._other_epoch(sender, frame.epoch)
            return
        if coordinator.configuration.member(sender) is None:
            self._send(sender, frames.Refusal(False, coordinator.epoch))
            return
        record = self._peer_disk(sender)
        if record is not None and record != frame.disk:
            self._send(sender, frames.Refusal(True, coordinator.epoch))
            return
        codec = self.host.protocols.codec(coordinator.spec)
        for data in frame.messages:
            try:
                message = codec.decode_message(data)
            except MalformedValue as error:
                raise AssertionError(f"a message from r{sender} does not decode: {error}") from None
            if self.trace.readable:
                self.trace.say(self.world.now, self.host.name, f"<- r{sender}  {message!r}")
            self._inbox.append(Received(sender, message))
        self._schedule_turn()

    def _other_epoch(self, sender: ReplicaId, epoch: int) -> None:
        assert self.coordinator is not None
        if epoch < self.coordinator.epoch:
            self.world.count("messages of an older epoch answered")
            self._send(sender, frames.EpochNotice(self.coordinator.epoch))
        else:
            self._epoch_notice(sender, epoch)

    def _send(self, target: Endpoint, frame: Any, *, transfer_s: float = 0.0) -> None:
        self.trace.note(self.world.now, type(frame).__name__, self.replica)
        self.host.network.send(self.replica, target, frame, transfer_s=transfer_s + self.host.held_s)

    # --------------------------------------------------------------------------------- greetings, disks, admission

    def _greet(self) -> None:
        """Make this replica known to its peers, and again until enough of them have its disk on record."""
        coordinator = self.coordinator
        assert coordinator is not None
        greeting = frames.Greeting(coordinator.epoch, self.incarnation, self.disk.identity)
        for peer in coordinator.configuration.replicas:
            if peer != self.replica:
                self._send(peer, greeting)
        if not self.disk.admitted:
            self._admit_if_known()
            self.world.after(self.profile.greeting_s, self.enter, self._greet_again, coordinator.epoch)

    def _greet_again(self, epoch: int) -> None:
        if self.coordinator is not None and self.coordinator.epoch == epoch and not self.disk.admitted:
            self._greet()

    def _greeted(self, sender: ReplicaId, greeting: frames.Greeting) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            return
        if greeting.joining:
            if coordinator.configuration.member(sender) is not None:
                self._send(sender, frames.EpochNotice(coordinator.epoch))
            self._teach(sender, greeting)
            return
        record = self._peer_disk(sender)
        if record is not None and record != greeting.disk:
            self.world.count("greetings of another disk refused")
            self._send(sender, frames.Refusal(True, coordinator.epoch))
            return
        if greeting.epoch > coordinator.epoch:
            self._epoch_notice(sender, greeting.epoch)
            return
        if coordinator.configuration.member(sender) is None:
            self._send(sender, frames.Refusal(False, coordinator.epoch))
            return
        if greeting.incarnation > self._peer_incarnations.get(sender, 0):
            self._peer_incarnations[sender] = greeting.incarnation
            self._inbox.append(PeerReset(sender))
            self._schedule_turn()
        if greeting.epoch < coordinator.epoch:
            self._send(sender, frames.EpochNotice(coordinator.epoch))
        if record is not None:
            self._send(sender, frames.Welcome(greeting.disk))
        elif sender not in self._recording:
            self._recording.add(sender)
            written = _META_ENCODER.encode(PeerDisk(greeting.disk))
            self._submit(
                HOST_GROUP,
                [(META_TABLE, _peer_key(sender), written, b"")],
                lambda: self._recorded(sender, greeting.disk),
            )

    def _recorded(self, sender: ReplicaId, disk: str) -> None:
        self._recording.discard(sender)
        self._send(sender, frames.Welcome(disk))

    def _peer_disk(self, peer: ReplicaId) -> str | None:
        if peer in self._recording:
            return None
        data = self.disk.read(META_TABLE, _peer_key(peer))
        return None if data is None else _PEER_DISKS.decode(data).disk

    def _welcome(self, sender: ReplicaId, welcome: frames.Welcome) -> None:
        if self.coordinator is None or welcome.disk != self.disk.identity or self.disk.admitted:
            return
        self._welcomed.add(sender)
        self._admit_if_known()

    def _admit_if_known(self) -> None:
        """Enough peers know this disk when any quorum of others that might know another one meets them."""
        coordinator = self.coordinator
        assert coordinator is not None
        members = coordinator.configuration.replicas
        needed = min(len(members) - (len(members) // 2 + 1) + 1, len(members) - 1)
        if len(self._welcomed.intersection(members)) < needed or self._admitting:
            return
        self._admitting = True
        self._submit(HOST_GROUP, [], self._admitted)

    def _admitted(self) -> None:
        self.disk.admitted = True
        self.world.count("admissions")
        if self.coordinator is not None:
            self._carry_out(self.coordinator.admit(self.now()))

    def _refused(self, refusal: frames.Refusal) -> None:
        if refusal.different_disk:
            self.world.count("replicas stopped because their disk is another")
            self.host.stop("the peers know this replica by another disk")
        elif self.coordinator is not None and refusal.epoch > self.coordinator.epoch:
            self.world.count("replicas stopped because they were removed")
            self.host.stop(f"no member in epoch {refusal.epoch}")

    def reset_peer(self, peer: ReplicaId) -> None:
        """The streams to a peer broke and are up again."""
        coordinator = self.coordinator
        if coordinator is not None and coordinator.configuration.member(peer) is not None:
            self._inbox.append(PeerReset(peer))
            self._send(peer, frames.Greeting(coordinator.epoch, self.incarnation, self.disk.identity))
            self._schedule_turn()

    # ------------------------------------------------------------------------------------------ epochs and snapshots

    def _poll(self) -> None:
        """A joining replica asks whether it has become a member."""
        if self.coordinator is not None:
            return
        learning = self._learning
        if learning is not None and not learning.graduating and self._is_silent(learning.heard_at):
            self._learning = learning = None
        lesson, applied = ("", 0) if learning is None else (learning.name, learning.learner.applied)
        if self._fetch == 0:
            for peer in self.host.introduction.replicas:
                if peer != self.replica:
                    greeting = frames.Greeting(0, self.incarnation, self.disk.identity, True, lesson, applied)
                    self._send(peer, greeting)
        self.world.after(self.profile.greeting_s, self.enter, self._poll)

    def _epoch_notice(self, sender: ReplicaId, epoch: int) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            if self.disk.read(META_TABLE, ANCHOR_KEY) is None and self._learning is None:
                self._fetch_snapshot(sender, epoch, 0, wished=False)
        elif epoch > coordinator.epoch and coordinator.sealed is None:
            self._fetch_snapshot(sender, epoch, 0, wished=False)

    def _fetch_snapshot(self, peer: ReplicaId, epoch: int, frontier: Frontier, *, wished: bool) -> None:
        if self._fetch or peer == self.replica:
            return
        self._fetches += 1
        self._fetch = self._fetches
        self._fetch_peer = peer
        self._fetch_wished = wished
        self._send(peer, frames.SnapshotRequest(epoch, frontier, self._fetch))
        self.world.after(self.profile.fetch_timeout_s, self.enter, self._fetch_failed, self._fetch)

    def _fetch_failed(self, number: int) -> None:
        if self._fetch != number:
            return
        self._fetch = 0
        self.world.count("snapshot transfers failed")
        if self._fetch_wished:
            self._unavailable(self._fetch_peer)

    def _unavailable(self, peer: ReplicaId) -> None:
        self._inbox.append(SnapshotUnavailable(peer))
        self._schedule_turn()

    def _snapshot_requested(self, sender: ReplicaId, request: frames.SnapshotRequest) -> None:
        coordinator = self.coordinator
        state = self.host.state
        offer = frames.SnapshotOffer(request.number)
        if coordinator is not None and coordinator.sealed is None and coordinator.epoch >= request.epoch:
            anchor = coordinator.anchor
            later = coordinator.epoch > request.epoch
            if anchor.snapshot and (later or covers(anchor.frontier, request.frontier)):
                image = self.disk.snapshots[anchor.snapshot]
                offer = frames.SnapshotOffer(request.number, anchor, image)
            elif later or covers(state.applied, request.frontier):
                fresh = coordinator.anchor_at(state.applied)
                offer = frames.SnapshotOffer(request.number, fresh, self._image(state.applied))
        self._send(sender, offer, transfer_s=self.profile.snapshot_s)

    def _snapshot_offered(self, sender: ReplicaId, offer: frames.SnapshotOffer) -> None:
        if offer.number != self._fetch or offer.number == self._fetch_arrived:
            return
        self._fetch_arrived = offer.number
        if offer.anchor is None:
            self._fetch_failed(offer.number)
            return
        assert isinstance(offer.image, Image)
        self.world.after(
            self.profile.snapshot_s, self.enter, self._staged_foreign, offer.number, sender, offer.anchor, offer.image
        )

    def _staged_foreign(self, number: int, sender: ReplicaId, anchor: Anchor, image: Image) -> None:
        if self._fetch != number:
            return
        self.host.boundary("before a snapshot is staged")
        name = self._snapshot_name(anchor, f"from-{sender}")
        self.disk.keep_snapshot(name, image)
        self.host.boundary("after a snapshot is staged")
        anchor = msgspec.structs.replace(anchor, snapshot=name)
        if anchor.configuration.member(self.replica) is None:
            self._fetch = 0
            self.world.count("replicas stopped because they were removed")
            self.host.stop(f"no member in epoch {anchor.configuration.epoch}")
            return
        self._switches.append(_Switch(anchor, image, "installed", sender if self._fetch_wished else 0))
        self._switch_when_idle()

    # -------------------------------------------------------------------------------------------------------- lessons

    def expect(self, learner: ReplicaId) -> bool:
        """Teach ``learner`` when it asks; True once it is near enough to become a member."""
        self._expected.add(learner)
        given = self._teaching.get(learner)
        return given is not None and given.lesson.near

    def _is_silent(self, since: float) -> bool:
        return self.world.now - since > self.profile.fetch_timeout_s

    def _teach(self, learner: ReplicaId, greeting: frames.Greeting) -> None:
        """A learner, or who would be one, has asked: begin its lesson, or tell again what it may not have heard."""
        coordinator = self.coordinator
        assert coordinator is not None
        given = self._teaching.get(learner)
        if coordinator.status().leader != self.replica:
            # Who asked this replica to add a member has been refused, and asks the next leader.
            self._expected.clear()
            for lesson in [each.lesson for each in self._teaching.values() if each.lesson.sealed is None]:
                lesson.broken("the teacher does not lead any more")
        if given is not None and given.name == greeting.lesson and not given.lesson.problem:
            self._lesson_taken(learner, greeting.lesson, greeting.applied)
            given.lesson.rewind()
            self._tell(learner, given, always=True)
            return
        if given is not None and given.lesson.acknowledged < 0 and not self._is_silent(given.begun_at):
            return  # the snapshot is on its way
        member = coordinator.configuration.member(learner) is not None
        if learner not in self._expected or member or coordinator.sealed is not None:
            return
        applied = self.host.state.applied
        assert isinstance(applied, int)
        self._taught += 1
        name = f"{self.replica}-{self.incarnation}-{self._taught}"
        self._teaching[learner] = _Teaching(name, self.world.now, Lesson(learner, applied))
        self.world.count("lessons begun")
        begun = frames.LessonBegun(name, coordinator.anchor_at(applied), self._image(applied))
        self._send(learner, begun, transfer_s=self.profile.snapshot_s)

    def _tell(self, learner: ReplicaId, given: _Teaching, *, always: bool = False) -> None:
        while given.lesson.unsaid or always:
            always = False
            self._send(learner, frames.LessonNews(given.name, given.lesson.take()))

    def _tell_all(self, turn: Turn) -> None:
        for learner, given in self._teaching.items():
            given.lesson.delivered(turn.deliveries)
            if turn.sealed is not None:
                given.lesson.ended(turn.sealed)
            if not given.lesson.problem and given.lesson.acknowledged >= 0:
                self._tell(learner, given)

    def _lesson_taken(self, learner: ReplicaId, name: str, applied: int) -> None:
        given = self._teaching.get(learner)
        if given is not None and given.name == name and not given.lesson.problem:
            given.lesson.acknowledge(applied)

    def _lesson_begun(self, sender: ReplicaId, begun: frames.LessonBegun) -> None:
        if self.coordinator is None and self._learning is None and self._fetch == 0 and not self._switches:
            self.world.after(self.profile.snapshot_s, self.enter, self._learn, sender, begun)

    def _learn(self, teacher: ReplicaId, begun: frames.LessonBegun) -> None:
        if self.coordinator is not None or self._learning is not None or self._fetch or self._switches:
            return
        if self._switching:
            return
        host = self.host
        host.boundary("before a lesson is begun")
        assert isinstance(begun.image, Image)
        # Whatever an earlier lesson had come to is of no use any more.
        host.oracle.stopped(self.replica)
        host.state.load(begun.image)
        host.oracle.moved(self.replica, host.state)
        applied = host.state.applied
        assert isinstance(applied, int)
        self._learning = _Learning(begun.lesson, teacher, Learner(self.replica, applied), self.world.now)
        self.trace.note(self.world.now, "lesson", self.replica, begun.lesson.encode())
        self._send(teacher, frames.LessonTaken(begun.lesson, applied))

    def _lesson_told(self, sender: ReplicaId, told: frames.LessonNews) -> None:
        learning = self._learning
        if learning is None or learning.name != told.lesson or learning.graduating:
            return
        learning.heard_at = self.world.now
        learner = learning.learner
        try:
            fresh = learner.accept(told.news)
            for delivery in fresh:
                self._deliver(delivery)
            self.world.count("positions learned before voting", len(fresh))
            if told.news.sealed is None:
                self._send(sender, frames.LessonTaken(told.lesson, learner.applied))
                return
            anchor = learner.anchor(told.news.sealed)
        except LessonBroken:
            self.world.count("news of lessons lost")
            return  # it is told again when this replica asks next
        if anchor is None:
            self._learning = None  # another has become a member
            return
        learning.graduating = True
        self.host.oracle.sealed(self.replica, told.news.sealed)
        self.world.count("lessons ended by a seal")
        self._freeze_commits = True
        image = self._image(told.news.sealed.frontier)
        self.world.after(self.profile.snapshot_s, self.enter, self._staged_own, anchor, image, "sealed")

    def _image(self, frontier: Frontier) -> Image:
        return self.host.state.image(frontier)

    def _snapshot_name(self, anchor: Anchor, origin: str) -> str:
        self._snapshots += 1
        return f"{anchor.configuration.epoch}-{reach(anchor.frontier)}-{self.incarnation}-{self._snapshots}-{origin}"

    def take_snapshot(self) -> None:
        """Take a snapshot of the own state, to let the log be truncated behind it."""
        coordinator = self.coordinator
        if coordinator is None or coordinator.sealed is not None or self._staging or self._switches:
            return
        state = self.host.state
        if covers(coordinator.anchor.frontier, state.applied):
            return
        self._staging = True
        anchor = coordinator.anchor_at(state.applied)
        image = self._image(state.applied)
        self.world.after(self.profile.snapshot_s, self.enter, self._staged_own, anchor, image, "taken")

    def _staged_own(self, anchor: Anchor, image: Image, kind: str) -> None:
        self._staging = False
        self.host.boundary("before a snapshot is staged")
        name = self._snapshot_name(anchor, kind)
        self.disk.keep_snapshot(name, image)
        self.host.boundary("after a snapshot is staged")
        self._switches.append(_Switch(msgspec.structs.replace(anchor, snapshot=name), image, kind))
        self._switch_when_idle()

    def _switch_when_idle(self) -> None:
        """Commit the next anchor once no group is in flight; until it is durable no turn is taken."""
        if self._switching or not self._switches or self.disk.busy or self.disk.waiting or self._afterwards:
            return
        switch = self._switches.popleft()
        coordinator = self.coordinator
        if not self._timely(switch):
            del self.disk.snapshots[switch.anchor.snapshot]
            self._end_fetch(switch)
            self.world.count("snapshots overtaken before their switch")
            if switch.wished_from:
                self._unavailable(switch.wished_from)
            self._switch_when_idle()
            self._schedule_turn()
            return
        self._switching = True
        if coordinator is None:
            encoded: list[EncodedWrite] = [(META_TABLE, ANCHOR_KEY, _META_ENCODER.encode(switch.anchor), b"")]
        else:
            encoded = encode_writes(
                coordinator.anchor_writes(switch.anchor),
                _META_ENCODER.encode,
                frozenset((META_TABLE, *coordinator.spec.tables)),
            )
        self.host.boundary("before the anchor is committed")
        self._submit(HOST_GROUP, encoded, lambda: self._switched(switch))

    def _timely(self, switch: _Switch) -> bool:
        """Is the anchor still ahead of where the replica stands?"""
        coordinator = self.coordinator
        if coordinator is None:
            return True
        epoch, frontier = switch.anchor.configuration.epoch, switch.anchor.frontier
        standing = coordinator.anchor.frontier
        if switch.kind == "sealed":
            return epoch == coordinator.epoch + 1
        if switch.kind == "taken":
            if epoch != coordinator.epoch or coordinator.sealed is not None:
                return False
            # One of a peer may have been installed meanwhile, which by object lies ahead in one and behind in another:
            # what it covers is not to be lost either.
            return covers(frontier, standing) and not covers(standing, frontier)
        if epoch != coordinator.epoch:
            return epoch > coordinator.epoch
        # By object a snapshot may lie ahead in one and behind in another. What the own one covers is not to be lost:
        # the log need not hold it any more.
        if not self.host.controls.snapshots_compared:
            return coordinator.sealed is None
        ahead = not covers(self.host.state.applied, frontier)
        return coordinator.sealed is None and ahead and covers(frontier, standing)

    def _end_fetch(self, switch: _Switch) -> None:
        if switch.kind == "installed":
            self._fetch = 0

    def _switched(self, switch: _Switch) -> None:
        """The anchor is durable."""
        host = self.host
        host.boundary("after the anchor is committed")
        anchor = switch.anchor
        coordinator = self.coordinator
        self.world.trace.note(self.world.now, switch.kind, self.replica, anchor.snapshot.encode())
        if self.trace.readable:
            self.trace.say(self.world.now, host.name, f"snapshot {switch.kind}: {anchor.snapshot}")
        self.world.count(f"snapshots {switch.kind}")
        if switch.kind == "installed":
            for given in self._teaching.values():
                given.lesson.broken("the teacher took over the state of another")
        if switch.kind != "taken":
            host.state.load(switch.image)
            self._freeze_commits = False
            host.oracle.moved(self.replica, host.state)
        host.boundary("after the state is switched")
        self._switching = False
        self._end_fetch(switch)
        self._drop_snapshots(anchor)
        if coordinator is None:
            self._run(anchor)
            return
        later = anchor.configuration.epoch != coordinator.epoch
        if later:
            self._inbox.clear()
            self._refuse_commands(Reason.SEALED)
            self._forget_reads()
            self.world.count("epoch switches")
            self._welcomed.clear()
            self.tally()
        self._carry_out(coordinator.switch(self.now(), anchor, installed=switch.kind == "installed"))
        if later:
            self._greet()
        self._schedule_turn()

    # ------------------------------------------------------------------------------------------------------- clients

    def _client(self, sender: Endpoint, frame: Any) -> None:
        state = self.host.state
        if isinstance(frame, frames.Run):
            self._sessions[frame.session] = sender
            for command in state.commands(frame):
                self._propose(command, b"", sender)
        elif isinstance(frame, frames.OpenSession):
            if self._mint is not None and (self.coordinator is None or not self.coordinator.voting):
                # On a disk that its peers have not admitted it may have been another replica of the same name before.
                self._send(sender, frames.Rejected(0, 0, 1, Reason.NOT_LEADER, True, None, frame.nonce))
                return
            if self._mint is not None:
                self._send(sender, frames.Opened(frame.nonce, self._name_session(self._mint)))
                return
            self._openings[frame.nonce] = sender
            self._propose(Command(state.opening(frame.nonce)), frame.nonce, sender)
        elif frame.stale:
            self._send(sender, frames.ReadResults(frame.id, state.read(frame.operations)))
        elif self.coordinator is None:
            self._send(sender, frames.ReadRejected(frame.id, Reason.NOT_LEADER, None))
        else:
            self._tokens += 1
            self._reads[self._tokens] = (sender, frame)
            self._inbox.append(ReadRequested(self._tokens, state.footprint(frame.operations), by_lease=True))
            self._schedule_turn()

    def _name_session(self, mint: Mint) -> int:
        mint.saw(self.host.state.newest_session or 0)
        session = mint.mint()
        self.host.oracle.minted(session)
        return session

    def _propose(self, command: Command, nonce: bytes, sender: Endpoint) -> None:
        if self.coordinator is None or len(self._commands) >= INBOX_COMMANDS_MAX:
            reason = Reason.NOT_LEADER if self.coordinator is None else Reason.OVERLOADED
            self._send(
                sender,
                frames.Rejected(command.session, command.sequence, command.count, reason, True, None, nonce),
            )
            return
        self._commands.append(command)
        self._schedule_turn()

    def _refuse_commands(self, reason: str) -> None:
        """Refuse what was never proposed."""
        commands, self._commands = self._commands, []
        for command in commands:
            self._reject(Reject(command, reason, True))

    def _forget_reads(self) -> None:
        reads, self._reads = self._reads, {}
        self._granted.clear()
        for sender, read in reads.values():
            self._send(sender, frames.ReadRejected(read.id, Reason.SEALED, None))

    def _reject(self, reject: Reject) -> None:
        command = reject.command
        nonce = b""
        if command.session == 0:
            nonce = self.host.state.nonce(command.payload)
            endpoint = self._openings.pop(nonce, None)
        else:
            endpoint = self._sessions.get(command.session)
        if reject.definite:
            self.host.oracle.refused(self.replica, command)
        if endpoint is not None:
            self._send(
                endpoint,
                frames.Rejected(
                    command.session,
                    command.sequence,
                    command.count,
                    reject.reason,
                    reject.definite,
                    reject.hint,
                    nonce,
                ),
            )

    def _answer(self, answer: Answer) -> None:
        if answer.nonce:
            endpoint = self._openings.pop(answer.nonce, None)
            if endpoint is not None:
                self._send(endpoint, frames.Opened(answer.nonce, answer.opened))
            return
        endpoint = self._sessions.get(answer.session)
        if endpoint is not None:
            self.host.boundary("before an answer")
            self._send(endpoint, frames.Results(answer.session, answer.first_sequence, answer.count, answer.results))

    # ------------------------------------------------------------------------------------------------------ operators

    def reconfigure(self, configuration: Configuration) -> None:
        """Ask the protocol to decide a configuration."""
        if self.coordinator is not None and configuration.epoch == self.coordinator.epoch + 1:
            self._tokens += 1
            self._inbox.append(Reconfigure(self._tokens, configuration))
            self._schedule_turn()

    def yield_leadership(self, successor: ReplicaId | None) -> None:
        """Ask the protocol to give up leadership."""
        self._inbox.append(Yield(successor))
        self._schedule_turn()

    # ---------------------------------------------------------------------------------------------------------- turns

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            # Now and then the loop is busy with something else.
            seconds = self.profile.turn_s
            if self._draw.random() < self.profile.turn_tail:
                seconds += self._draw.random() * self.profile.turn_tail_s
            self.world.after(seconds, self.enter, self._turn)

    def rearm(self) -> None:
        """The clock has changed its pace: look at the timers anew."""
        self._wake_at = None
        self._arm()

    def _arm(self) -> None:
        """See to it that the earliest timer finds the process awake."""
        coordinator = self.coordinator
        if coordinator is None:
            return
        deadline = coordinator.next_deadline()
        if deadline is None:
            return
        at = max(self.host.clock.world_time(deadline), self.world.now)
        if self._wake_at is None or at < self._wake_at:
            self._wake_at = at
            self.world.at(at, self.enter, self._woken, at, deadline)

    def _woken(self, at: float, deadline: float) -> None:
        if self._wake_at != at:
            return
        self._wake_at = None
        # The way from a deadline to the world's time and back may round to just before the deadline.
        if deadline - 1e-6 < self.host.clock.read(self.world.now) < deadline:
            self._last_now = max(self._last_now, deadline)
        self._turn()

    def _turn(self) -> None:
        self._turn_scheduled = False
        coordinator = self.coordinator
        if coordinator is None or self._blocked or self._switching:
            return
        if self._switches and coordinator.sealed is None:
            self._switch_when_idle()
            return
        if self._commands:
            self._inbox.append(Proposed(tuple(self._commands)))
            self._commands.clear()
        now = self.now()
        if len(self._inbox) > TURN_EVENTS_MAX:
            events = [self._inbox.popleft() for _ in range(TURN_EVENTS_MAX)]
            self._schedule_turn()
        else:
            events = list(self._inbox)
            self._inbox.clear()
        deadline = coordinator.next_deadline()
        if events or (deadline is not None and deadline <= now):
            if self.trace.readable:
                for event in events:
                    if not isinstance(event, Received):
                        self.trace.say(self.world.now, self.host.name, f"   {event!r}")
            self._carry_out(coordinator.step(now, events))
            self.steps += 1
            if self.steps % self.profile.check_every == 0:
                coordinator.protocol.check()
        self._arm()

    def _carry_out(self, turn: Turn) -> None:
        """Do what a turn asks for, in the order that the coordinator's contract gives."""
        host = self.host
        coordinator = self.coordinator
        assert coordinator is not None
        if turn.sends:
            host.boundary("before the sends")
            self._post(turn.sends, coordinator)
        if turn.group:
            host.boundary("before a commit")
            codec = host.protocols.codec(coordinator.spec)
            encoded = encode_writes(turn.writes, codec.encode, frozenset(coordinator.spec.tables))
            for table, key, record, _ in encoded:
                self.trace.note(self.world.now, table, self.replica, key + (record or b""))
            group = turn.group
            self._submit(group, encoded, None)
        if self._blocked and not self.profile.apply_first:
            self._afterwards.append(turn)
        else:
            self._finish(turn)
        self._arm()

    def _post(self, sends: list[Send], coordinator: Coordinator) -> None:
        codec = self.host.protocols.codec(coordinator.spec)
        outgoing: dict[ReplicaId, list[bytes]] = {}
        for send in sends:
            self.host.oracle.witness.sent(self.replica, send, coordinator.epoch)
            data = codec.encode(send.message)
            self.trace.note(self.world.now, "send", self.replica, data)
            if self.trace.readable:
                names = ",".join(f"r{peer}" for peer in send.to)
                self.trace.say(self.world.now, self.host.name, f"-> {names}  {send.message!r}")
            for peer in send.to:
                assert peer != self.replica, "a protocol sends to itself"
                if self.profile.frames:
                    outgoing.setdefault(peer, []).append(data)
                else:
                    self._frame(peer, coordinator.epoch, (data,))
                    self.host.boundary("between two sends")
        for peer, messages in outgoing.items():
            self._frame(peer, coordinator.epoch, tuple(messages))
            self.host.boundary("between two sends")

    def _frame(self, peer: ReplicaId, epoch: int, messages: tuple[bytes, ...]) -> None:
        frame = frames.Messages(epoch, self.incarnation, self.disk.identity, messages)
        self.host.network.send(self.replica, peer, frame, transfer_s=self.host.held_s)

    def _finish(self, turn: Turn) -> None:
        """The part of a turn that changes the state and answers clients."""
        state = self.host.state
        coordinator = self.coordinator
        assert coordinator is not None
        for install in turn.installs:
            self._install(install)
        for delivery in turn.deliveries:
            self._deliver(delivery)
        if turn.deliveries and turn.deliveries[0].object:
            # What a turn delivers by object is applied as one.
            self._commit_state_when_due()
        for answered in turn.answers:
            self._answer_register(answered)
        for grant in turn.reads:
            self._granted.append((grant.frontier, grant.token))
        if self._teaching:
            self._tell_all(turn)
        if self._granted:
            self._serve_reads()
        for reject in turn.rejections:
            self._reject(reject)
        for refused in turn.refused_reads:
            self._refuse_read(refused)
        if turn.snapshot_wish is not None:
            self._wish(turn.snapshot_wish)
        if turn.sealed is not None:
            self.host.oracle.sealed(self.replica, turn.sealed)
            self._freeze_commits = True
            frontier = turn.sealed.frontier
            self._forget_reads()
            self._staging = True
            self.world.after(
                self.profile.snapshot_s,
                self.enter,
                self._staged_own,
                coordinator.anchor_after_seal(""),
                self._image(frontier),
                "sealed",
            )
        elif (
            turn.deliveries and reach(state.applied) - reach(coordinator.anchor.frontier) >= self.profile.snapshot_every
        ):
            self.take_snapshot()

    def _install(self, install: Install) -> None:
        host = self.host
        host.boundary("before a delivery is applied")
        self.trace.note(self.world.now, "install", self.replica, install.object.encode() + install.image)
        if self.trace.readable:
            self.trace.say(self.world.now, host.name, f"   installs {install.object!r} at {install.position}")
        if host.state.install(install):
            host.oracle.installed(self.replica, install, host.state)
        host.boundary("after a delivery is applied")

    def _answer_register(self, answered: Answered) -> None:
        command = answered.command
        self.host.oracle.answered(self.replica, command)
        self.trace.note(self.world.now, "answer", self.replica, answered.results)
        self._answer(Answer(command.session, command.sequence, command.count, answered.results))

    def _deliver(self, delivery: Deliver) -> None:
        host = self.host
        host.boundary("before a delivery is applied")
        place = f"{delivery.object}:{delivery.position}" if delivery.object else f"{delivery.position}"
        if self.trace.readable:
            self.trace.say(self.world.now, host.name, f"   applies {place}: {_brief(delivery.commands)}")
        self.trace.note(self.world.now, "apply", self.replica, place.encode())
        host.oracle.delivered(self.replica, delivery, host.state)
        answers = host.state.apply(delivery)
        self._since_commit += 1
        if not delivery.object:
            self._commit_state_when_due()
        host.oracle.applied(self.replica, host.state)
        host.boundary("after a delivery is applied")
        for answer in answers:
            self._answer(answer)

    def _commit_state_when_due(self) -> None:
        if self._since_commit >= self.profile.state_commit_every and not self._freeze_commits:
            self._since_commit = 0
            self.host.boundary("before the state is committed")
            self.host.state.commit()

    def _serve_reads(self) -> None:
        applied = self.host.state.applied
        ready = [token for frontier, token in self._granted if covers(applied, frontier)]
        if not ready:
            self.world.count("reads that waited for the state")
            return
        self._granted = [(frontier, token) for frontier, token in self._granted if not covers(applied, frontier)]
        for token in ready:
            waiting = self._reads.pop(token, None)
            if waiting is not None:
                sender, read = waiting
                self.host.boundary("before an answer")
                self._send(sender, frames.ReadResults(read.id, self.host.state.read(read.operations)))

    def _refuse_read(self, refused: RejectRead) -> None:
        waiting = self._reads.pop(refused.token, None)
        if waiting is not None:
            sender, read = waiting
            self._send(sender, frames.ReadRejected(read.id, refused.reason, refused.hint))

    def _wish(self, wish: SnapshotWish) -> None:
        coordinator = self.coordinator
        assert coordinator is not None
        self.world.count("snapshots wished for")
        frontier = joined(wish.frontier, coordinator.anchor.frontier)
        self._fetch_snapshot(wish.peer, coordinator.epoch, frontier, wished=True)

    # ----------------------------------------------------------------------------------------------------- group commit

    def _submit(self, group: int, writes: list[EncodedWrite], completion: Callable[[], None] | None) -> None:
        """Hand a group to the disk; ``completion`` is called once it is durable, after the coordinator was told."""
        self.disk.submit(group, writes)
        self._completions.append(completion)
        if not self.disk.busy:
            self._begin_commit()

    def _begin_commit(self) -> None:
        count = self.disk.begin()
        self._flying = [self._completions.popleft() for _ in range(count)]
        if count > 1:
            self.world.count("groups merged into one transaction", count)
        if self.profile.sync_mode == "inline":
            self._blocked = True
        self.world.after(self._sync_time(), self.enter, self._committed)

    def _sync_time(self) -> float:
        profile = self.profile
        draw = self.host.disk_draw
        seconds = profile.sync_s + draw.expovariate(1.0) * profile.sync_jitter_s
        if profile.sync_tail and draw.random() < profile.sync_tail:
            self.world.count("slow syncs")
            seconds += draw.uniform(0.0, 2.0) * profile.sync_tail_s
        return min(seconds * self.host.sync_factor, profile.sync_max_s)

    def _committed(self) -> None:
        host = self.host
        host.boundary("before a commit is reported")
        if host.fail_next_sync and host.controls.sync_failures_fatal:
            # A failed sync is fatal, and nobody knows what of it is on the disk.
            host.fail_next_sync = False
            self.world.count("failed syncs")
            host.crash(power=host.crash_draw.random() < 0.5, why="a sync failed")
            self.world.after(self.profile.boot_s * 10, host.start)
            return
        if host.fail_next_sync:
            host.fail_next_sync = False
            self.world.count("failed syncs")
            last = self.disk.drop()
        else:
            last = self.disk.finish()
        if not host.controls.own_completions:
            last = max(last, self.disk.last_submitted)
        completions, self._flying = self._flying, []
        self._blocked = False
        if self.disk.waiting:
            self._begin_commit()
        host.boundary("after a commit")
        while self._afterwards:
            self._finish(self._afterwards.popleft())
        coordinator = self.coordinator
        if coordinator is not None and last != HOST_GROUP and last > coordinator.durable_group:
            self._carry_out(coordinator.durable(self.now(), last))
        for completion in completions:
            if completion is not None:
                completion()
        if self._switches:
            self._switch_when_idle()
        if self._inbox or self._commands:
            self._schedule_turn()
        self._arm()


def _peer_key(replica: ReplicaId) -> bytes:
    return b"peer/%010d" % replica


def _brief(commands: tuple[Command, ...]) -> str:
    return (
        ", ".join(f"{command.session}:{command.sequence}+{command.count}" for command in commands)
        if commands
        else "no-op"
    )
