"""The session engine: what a client keeps so that every operation takes effect once, or says that it cannot know.

Theory of operation
-------------------
A pure object, like a protocol: it is handed operations, frames and the time, and hands back frames to send,
operations that are settled, and wishes (go to another replica, wait a while). It never waits, never reads a clock and
never touches a network; `replica.client.connection` drives it over a port, tests drive it by hand. *Tokens* stand for
the caller's operations; the engine only carries them (they are futures, or anything else).

**Sequences.** Writes leave as *runs*: operations with consecutive sequence numbers in the engine's session, encoded
once. A run is outstanding until each of its operations is settled. Whenever the stream is lost, all outstanding runs
are sent again on the next one, under the same sequences: the session's window in the replicated state sees to it that
each takes effect once. Results that arrive twice, or late, find nothing outstanding and are passed over.

**The watermark.** Every run says that all sequences up to ``acknowledged`` are settled here, so that the cluster may
forget their results. It is the sequence before the first outstanding one. An operation that was given up (deadline)
counts as settled; it is never sent again.

**The window.** No sequence beyond ``acknowledged + session_window`` is used. Operations beyond it wait in the queue,
whose length is bounded: beyond `QUEUE_OPERATIONS_MAX` they are refused, definitely.

**Few frames at a time.** What is asked for leaves at once while nothing is unanswered; else it gathers until an answer
comes (`replica.client.gathering`). Stale reads, reads that travel alone and what is sent again do not.

**Definite or not.** A run is *doubtful* once a transmission of it ended without a definite answer (the stream was
lost, or a replica said that it may yet happen). An operation that fails was certainly without effect only if it was
never sent, or if every transmission was refused definitely; otherwise the error is an `Indefinite` one. A replica's
definite refusal speaks for this transmission, not for an earlier one, save one: what the cluster's protocol does not
offer, no replica has ever proposed.

**Sessions that are lost.** A session is evicted after long silence. An operation that was sent once, and was answered
with "session unknown" where it was applied, had no effect: it goes out again under a new session, together with what
was not sent yet, and an idle client notices nothing. Of everything else that was on its way nobody can say what became
of it: that ends as `SessionLost`.

**No session without a write.** As long as only reads are asked for, the stream is attached without a session: a reader
costs the cluster nothing durable and can be served where nothing can be decided.

**One bad operation** must not fail its company: when a replica refuses a whole run or read as malformed, its
operations are sent again one by one, under their sequences.

**Without exactly-once** (the welcome says so) nothing that may have taken effect is ever sent again.

**Reads** change nothing: they carry an id of the stream's, are sent again at will and never fail as indefinite.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import msgspec

from replica.client.errors import (
    Indefinite,
    InvalidArgument,
    MaybeCommitted,
    NotCommitted,
    Overloaded,
    PermissionDenied,
    Refused,
    SessionLost,
    StorageFull,
    SynodError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongCluster,
)
from replica.client.gathering import Gathering
from replica.client.port import AttachmentLost
from replica.client.queue import Batch, Queue, spans, split_marks
from replica.kv.operations import (
    KEY_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_OPERATIONS_MAX,
    SESSION_WINDOW,
    VALUE_BYTES_MAX,
    AnyResult,
    Failed,
    Failure,
)
from replica.wire.typed import WIRE_VERSION, ClientFrame, Code, Consistency, Endpoint, Hello, Rejection, ServerFrame

T = TypeVar("T")

QUEUE_OPERATIONS_MAX: Final = 1 << 16
"""Operations that may wait to be sent, writes and reads apart."""

READS_OUTSTANDING_MAX: Final = 4096
"""Reads that may be sent and unanswered."""

INFLIGHT_BYTES_MAX: Final = 32 << 20
"""Encoded operations that may be sent and unanswered, as far as one run of the frame's limit allows."""

FRAME_OVERHEAD_BYTES: Final = 4096
"""What a frame may need beside operations."""

RUN_OPERATIONS_FIRST: Final = 64
"""The first guess of how many operations fit a frame; from then on the sizes seen so far decide."""

READ_OPERATIONS_FIRST: Final = 16
"""The same guess for reads, whose answers have to fit a frame."""

READ_RESULT_BYTES: Final = 1 << 20
"""The size of an answer that the guess aims at."""

OVERLOAD_PAUSE_FIRST_S: Final = 0.005
OVERLOAD_PAUSE_MAX_S: Final = 0.5


class Limits(msgspec.Struct, frozen=True):
    """What replicas accept, as the welcome states it; until then, the defaults of this version."""

    key_bytes_max: int = KEY_BYTES_MAX
    value_bytes_max: int = VALUE_BYTES_MAX
    run_operations_max: int = RUN_OPERATIONS_MAX
    frame_bytes_max: int = 4 << 20
    session_window: int = SESSION_WINDOW


class Move(msgspec.Struct, frozen=True):
    """Leave this attachment and make another: at ``hint`` if it names an endpoint, else wherever is next."""

    reason: str
    hint: str = ""
    stay: bool = False
    """The replica is the right one, only the attachment is not."""
    mismatch: type[NotCommitted] | None = None
    """The replica will never serve this client, and what that is to whoever waits: another cluster, another version of
    the interface, no admittance."""


Settled: TypeAlias = tuple[list[T | None], Sequence[AnyResult] | SynodError]
"""Tokens with their results, one each in the same order, or with the error that all of them share. A token that is
None was settled before."""


class Run(Generic[T]):
    """Writes with consecutive sequences that are not all settled."""

    __slots__ = ("count", "doubtful", "first", "frame", "marks", "open", "payload", "refused", "sent", "tokens")

    def __init__(self, first: int, tokens: list[T | None], marks: list[tuple[int, float]], payload: bytes) -> None:
        self.first = first
        self.count = len(tokens)
        self.tokens = tokens
        self.marks = marks
        self.payload = payload
        self.open = sum(token is not None for token in tokens)
        self.sent = False
        self.frame = 0
        """The frame that it left in."""
        self.doubtful = False
        self.refused: set[int] = set()
        """Offsets that were refused definitely since the last transmission. A replica cuts a long run into commands
        and may refuse one of them while another is on its way."""

    @property
    def may_happen(self) -> bool:
        """Is a transmission of any of it without a definite answer?"""
        if self.sent or self.doubtful:
            return True
        return bool(self.refused) and any(
            token is not None and offset not in self.refused for offset, token in enumerate(self.tokens)
        )

    def trim(self) -> None:
        """Forget the settled operations at the front: they lie at or below the watermark."""
        settled = 0
        while self.tokens[settled] is None:
            settled += 1
        if settled == 0:
            return
        operations = _RAW_DECODER.decode(self.payload)
        self.payload = _ENCODER.encode(operations[settled:])
        self.first += settled
        self.count -= settled
        self.tokens = self.tokens[settled:]
        self.refused = {offset - settled for offset in self.refused if offset >= settled}
        self.marks = split_marks(self.marks, settled)[1]

    def singles(self) -> list[Run[T]]:
        """A run for each operation that is not settled."""
        operations = _RAW_DECODER.decode(self.payload)
        return [
            Run(self.first + index, [token], split_marks(self.marks, index)[1][:1], _ENCODER.encode([operation]))
            for index, (token, operation) in enumerate(zip(self.tokens, operations, strict=True))
            if token is not None
        ]


class Query(Generic[T]):
    """Reads that travel together."""

    __slots__ = ("consistency", "frame", "marks", "payload", "sent", "tokens")

    def __init__(
        self, consistency: int, tokens: list[T | None], marks: list[tuple[int, float]], payload: bytes
    ) -> None:
        self.consistency = consistency
        self.tokens = tokens
        self.marks = marks
        self.payload = payload
        self.sent = False
        self.frame = 0
        """The frame that it left in; 0 for one that no other waits for."""

    def singles(self) -> list[Query[T]]:
        """A query for each read that is not settled."""
        operations = _RAW_DECODER.decode(self.payload)
        return [
            Query(self.consistency, [token], split_marks(self.marks, index)[1][:1], _ENCODER.encode([operation]))
            for index, (token, operation) in enumerate(zip(self.tokens, operations, strict=True))
            if token is not None
        ]


_ENCODER: Final = msgspec.msgpack.Encoder()
_RAW_DECODER: Final[msgspec.msgpack.Decoder[list[msgspec.Raw]]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
_RESULTS_DECODER: Final[msgspec.msgpack.Decoder[list[AnyResult]]] = msgspec.msgpack.Decoder(list[AnyResult])


class Engine(Generic[T]):
    """One client's session. Not thread-safe.

    Args:
        nonce: yields 16 random bytes for each new session.
        jitter: yields a number between 0 and 1.
        abandoned: says of a token that its caller no longer waits; what was not sent yet is then dropped.
        stall_s: a replica that leaves operations unanswered for so long is left for another.
        follow_leader: prefer the leader; otherwise any replica will do (stale reads).
    """

    def __init__(
        self,
        *,
        nonce: Callable[[], bytes],
        jitter: Callable[[], float],
        abandoned: Callable[[T], bool] = lambda _token: False,
        client: str = "",
        cluster: str = "",
        region: str = "",
        zone: str = "",
        stall_s: float = 3.0,
        follow_leader: bool = True,
    ) -> None:
        self._new_nonce = nonce
        self._nonce = b""
        """Of the session that is being opened: the same until one is there, however often it takes to attach, so that
        a replica that was asked before opens no other."""
        self._jitter = jitter
        self._abandoned = abandoned
        self._client = client
        self._cluster = cluster
        self._region = region
        self._zone = zone
        self._stall_s = stall_s
        self._follow_leader = follow_leader

        self.writes: Queue[T] = Queue()
        self.reads: dict[tuple[int, bool], Queue[T]] = {}
        """By consistency, and whether each read travels alone because its answer may be large."""
        self.session = 0
        self.exactly_once = True
        self.limits = Limits()
        self.replica = 0
        self.epoch = 0
        self.protocol = ""
        self.routing = "leader"
        """Whom the protocol wants to be asked: the leader, the owner of a key, the nearest replica …"""
        self.leader_address = ""
        self.endpoints: tuple[str, ...] = ()

        self._runs: dict[int, Run[T]] = {}
        """Outstanding runs by first sequence, in ascending order."""
        self._next_sequence = 1
        self._queries: dict[int, Query[T]] = {}
        self._next_query = 1
        self._inflight_bytes = 0
        self._reads_outstanding = 0
        self._run_operations = RUN_OPERATIONS_FIRST
        self._read_operations = READ_OPERATIONS_FIRST
        self._unsent = False
        """Some outstanding run or query has to be sent on this attachment."""
        self._next_frame = 1
        self._gathered_writes = Gathering()
        self._gathered_reads: defaultdict[int, Gathering] = defaultdict(Gathering)
        """By consistency."""
        self._attaching = False
        self._welcomed = False
        self._goodbye = False
        self._paused_until = 0.0
        self._overload_pauses = 0
        self._heard = 0.0
        self._now = 0.0
        self._wish: Move | None = None
        self._leaving = False
        self._settled: list[Settled[T]] = []
        self._answers = 0
        self._tried_nearby: set[str] = set()

    # ------------------------------------------------------------------------------------------------- operations

    def tick(self, now: float) -> None:
        """Timeouts of operations added from now on count from ``now``."""
        self.writes.tick(now)
        for queue in self.reads.values():
            queue.tick(now)

    def write(self, operation: Any, token: T, timeout_s: float) -> None:
        """Queue a write. Raises `Overloaded` when the queue is full."""
        queue = self.writes
        if len(queue.operations) >= QUEUE_OPERATIONS_MAX:
            raise Overloaded(f"{QUEUE_OPERATIONS_MAX} writes wait to be sent")
        queue.add(operation, token, timeout_s)

    def read(self, operation: Any, token: T, timeout_s: float, consistency: int, *, alone: bool = False) -> None:
        """Queue a read-only operation; ``alone`` when its answer may be large. Raises `Overloaded` when the queue is
        full."""
        queue = self.reads.get((consistency, alone))
        if queue is None:
            queue = self.reads[consistency, alone] = Queue()
            queue.tick(self.writes.now)
        if len(queue.operations) >= QUEUE_OPERATIONS_MAX:
            raise Overloaded(f"{QUEUE_OPERATIONS_MAX} reads wait to be sent")
        queue.add(operation, token, timeout_s)

    @property
    def idle(self) -> bool:
        """Nothing is queued and nothing outstanding."""
        return not (self._runs or self._queries or self.writes.operations or any(self.reads.values()))

    @property
    def outstanding(self) -> int:
        """Writes that were given a sequence and are not settled."""
        return sum(run.open for run in self._runs.values())

    @property
    def answers(self) -> int:
        """How many frames have settled something, so far."""
        return self._answers

    @property
    def acknowledged(self) -> int:
        """The watermark: every sequence up to it is settled."""
        if not self._runs:
            return self._next_sequence - 1
        run = next(iter(self._runs.values()))
        return run.first - 1 + next(index for index, token in enumerate(run.tokens) if token is not None)

    # --------------------------------------------------------------------------------------------- the attachment

    def attaching(self, now: float) -> Hello:
        """A new attachment is being made: what it begins with."""
        assert not self._welcomed, "one attachment at a time"
        self._attaching = True
        self._heard = now
        opening = not self.session and bool(self.writes.operations)
        if opening and not self._nonce:
            self._nonce = self._new_nonce()
        return Hello(
            wire_version=WIRE_VERSION,
            cluster=self._cluster,
            session=self.session,
            nonce=self._nonce if opening else b"",
            client=self._client,
            region=self._region,
            zone=self._zone,
        )

    @property
    def attached(self) -> bool:
        """Whether the present attachment was welcomed."""
        return self._welcomed

    def detached(self, reason: str) -> None:
        """The attachment ended. What was sent on it and not answered has become doubtful."""
        self._attaching = self._welcomed = self._leaving = False
        self._wish = None
        self._paused_until = 0.0
        self._forget_frames()
        for run in list(self._runs.values()):
            if run.sent:
                self._doubt(run, reason)
        for number, query in list(self._queries.items()):
            query.sent = False
            if len(query.tokens) > 1:
                # Their answers may have been too much for one frame, which would break the next stream, too.
                del self._queries[number]
                self._add_singles(query)
        self._unsent = bool(self._runs or self._queries)

    def _want(self, wish: Move) -> None:
        """Nothing is sent on this attachment from here on: without exactly-once it could not be taken back."""
        self._wish = wish
        self._leaving = True

    def take_wish(self) -> Move | None:
        """What the driver should do about the attachment, if anything; each wish is handed out once."""
        wish, self._wish = self._wish, None
        return wish

    def take_settled(self) -> list[Settled[T]]:
        """Operations settled since the last call."""
        settled, self._settled = self._settled, []
        return settled

    # ---------------------------------------------------------------------------------------------------- sending

    def say_goodbye(self) -> None:
        """End the session once nothing is queued or outstanding: the last frame says so."""
        self._goodbye = True

    @property
    def pending(self) -> bool:
        """Something waits to be sent."""
        return self._unsent or bool(self.writes.operations) or any(self.reads.values()) or self._goodbye

    def pause(self, now: float) -> float:
        """In how many seconds to ask for a frame again whatever happens, because the replica was overloaded or because
        something gathers; 0 for no such time."""
        if now < self._paused_until:
            return self._paused_until - now
        until = self._gathered_writes.held_until
        for gathered in self._gathered_reads.values():
            until = min(until, gathered.held_until)
        return max(0.0, until - now) if until < inf else 0.0

    def next_frame(self, now: float) -> ClientFrame | None:
        """The frame to send now, with everything that accumulated and fits; None when there is nothing."""
        if not self._welcomed or self._leaving or now < self._paused_until:
            return None
        if not (self._unsent or self.writes.operations or any(self.reads.values())):
            if self._goodbye and not (self._runs or self._queries):
                self._goodbye = False
                return ClientFrame(goodbye=True)
            return None
        if not self.session and self.writes.operations:
            self._want(Move("a session is needed for the first write", stay=True))
            return None
        if not self._runs and not self._queries:
            self._heard = now
        self._now = now
        frame = ClientFrame()
        room = self.limits.frame_bytes_max - FRAME_OVERHEAD_BYTES
        if self._unsent:
            room = self._send_again(frame, room)
        if not self._unsent:
            # Where a frame leaves with such anyway, what has gathered goes along.
            if self.writes.operations and (frame.runs or not self._gathered_writes.holds(now)):
                room = self._send_writes(frame, room)
            for (consistency, alone), queue in self.reads.items():
                if queue.operations and not (
                    gathers(consistency, alone=alone) and self._gathered_reads[consistency].holds(now)
                ):
                    room = self._send_reads(frame, room, consistency, queue, alone=alone)
        if not (frame.runs or frame.reads):
            return None
        self._next_frame += 1
        return frame

    def _send_again(self, frame: ClientFrame, room: int) -> int:
        acknowledged = self.acknowledged
        for run in list(self._runs.values()):
            if run.sent:
                continue
            if len(run.payload) > room and frame.runs:
                return room
            if run.tokens[0] is None:
                self._inflight_bytes -= len(run.payload)
                run.trim()
                self._inflight_bytes += len(run.payload)
                self._runs = {other.first: other for other in self._runs.values()}
            self._put_run(frame, run, acknowledged)
            room -= len(run.payload)
        for number, query in self._queries.items():
            if query.sent:
                continue
            if len(query.payload) > room and (frame.runs or frame.reads):
                return room
            self._put_query(frame, number, query)
            room -= len(query.payload)
        self._unsent = False
        return room

    def _send_writes(self, frame: ClientFrame, room: int) -> int:
        acknowledged = self.acknowledged
        window_end = acknowledged + self.limits.session_window
        queue = self.writes
        while queue.operations:
            slots = min(window_end - self._next_sequence + 1, self.limits.run_operations_max, self._run_operations)
            if slots <= 0 or (self._inflight_bytes >= INFLIGHT_BYTES_MAX and self._runs):
                break
            batch = self._without_abandoned(queue.take(slots))
            if not batch.operations:
                continue
            payload = self._encode(batch, queue, room, nothing_yet=not (frame.runs or frame.reads))
            if payload is None:
                break
            if not batch.operations:
                continue
            run = Run(self._next_sequence, batch.tokens, batch.marks, payload)
            self._next_sequence += run.count
            self._runs[run.first] = run
            self._inflight_bytes += len(payload)
            room -= len(payload)
            self._put_run(frame, run, acknowledged)
        self._gathered_writes.full = bool(queue.operations)
        return room

    def _send_reads(self, frame: ClientFrame, room: int, consistency: int, queue: Queue[T], *, alone: bool) -> int:
        gathered = self._gathered_reads[consistency] if gathers(consistency, alone=alone) else None
        at_once = 1 if alone else min(self.limits.run_operations_max, self._read_operations)
        while queue.operations and self._reads_outstanding < READS_OUTSTANDING_MAX:
            slots = min(at_once, READS_OUTSTANDING_MAX - self._reads_outstanding)
            batch = self._without_abandoned(queue.take(slots))
            if not batch.operations:
                continue
            payload = self._encode(batch, queue, room, nothing_yet=not (frame.runs or frame.reads))
            if payload is None:
                break
            if not batch.operations:
                continue
            query = Query(consistency, batch.tokens, batch.marks, payload)
            self._put_query(frame, self._new_query(query), query)
            if gathered is not None:
                query.frame = self._next_frame
                gathered.sent(query.frame, self._now)
            self._reads_outstanding += len(batch.operations)
            room -= len(payload)
        if gathered is not None:
            gathered.full = bool(queue.operations)
        return room

    def _new_query(self, query: Query[T]) -> int:
        number = self._next_query
        self._next_query += 1
        self._queries[number] = query
        return number

    def _encode(self, batch: Batch[T], queue: Queue[T], room: int, *, nothing_yet: bool) -> bytes | None:
        """The operations as bytes that fit ``room``; what does not fit goes back to the queue.

        None when nothing fits this frame. A single operation that fits no frame is settled as `TooLarge`, and the
        batch comes back empty.
        """
        while True:
            count = len(batch.operations)
            payload = _ENCODER.encode(batch.operations)
            # Let the sizes seen decide how much is encoded at once, so that large values are not encoded in vain.
            fitting = min(self.limits.frame_bytes_max, RUN_BYTES_MAX) * count // (len(payload) + 1)
            self._run_operations = max(1, min(fitting, 4 * max(count, self._run_operations)))
            if len(payload) <= min(room, RUN_BYTES_MAX) or (count == 1 and len(payload) <= room):
                return payload
            if count == 1 and not nothing_yet:
                queue.put_back(batch)
                return None
            if count == 1:
                self._settled.append(
                    (
                        batch.tokens,
                        TooLarge(
                            f"the operation has {len(payload)} bytes, a frame takes {self.limits.frame_bytes_max}"
                        ),
                    )
                )
                batch.operations, batch.tokens = [], []
                return payload
            half = max(1, count * min(max(room, 0), RUN_BYTES_MAX) // (2 * len(payload)))
            before, behind = split_marks(batch.marks, half)
            queue.put_back(Batch(batch.operations[half:], batch.tokens[half:], behind))
            batch.operations, batch.tokens, batch.marks = batch.operations[:half], batch.tokens[:half], before

    def _without_abandoned(self, batch: Batch[T]) -> Batch[T]:
        """What nobody waits for any more has not been sent and need not be."""
        # Tokens in the queue are never None: those of a run that was taken back are picked out there.
        if not any(map(self._abandoned, cast("list[T]", batch.tokens))):
            return batch
        kept: Queue[T] = Queue()
        for start, end, deadline in spans(batch.marks, len(batch.operations)):
            kept.tick(0.0)
            for operation, token in zip(batch.operations[start:end], batch.tokens[start:end], strict=True):
                if token is not None and not self._abandoned(token):
                    kept.add(operation, token, deadline)
        return kept.take(len(kept))

    def _put_run(self, frame: ClientFrame, run: Run[T], acknowledged: int) -> None:
        if run.refused:
            run.doubtful = run.may_happen
            run.refused.clear()
        run.sent = True
        run.frame = self._next_frame
        self._gathered_writes.sent(run.frame, self._now)
        frame.runs.add(first_sequence=run.first, count=run.count, acknowledged=acknowledged, operations=run.payload)

    def _put_query(self, frame: ClientFrame, number: int, query: Query[T]) -> None:
        query.sent = True
        frame.reads.add(id=number, consistency=query.consistency, count=len(query.tokens), operations=query.payload)

    # -------------------------------------------------------------------------------------------------- receiving

    def received(self, frame: ServerFrame, now: float) -> None:
        """Digest a frame. Raises `ValueError` for one that makes no sense; the attachment is then to be left."""
        self._heard = now
        if frame.HasField("welcome"):
            self._welcome(frame.welcome)
        unknown = ""
        refused_runs: list[tuple[int, int]] = []
        for result in frame.results:
            results = _decode(result.results, result.count)
            refused = results[0]
            if isinstance(refused, Failed) and refused.code == Failure.SESSION_UNKNOWN:
                # The session is looked up once a command: all its results say so.
                unknown = refused.message or refused.code
                refused_runs.append((result.first_sequence, result.count))
            else:
                self._run_result(result.first_sequence, result.count, results)
        for first, count in reversed(refused_runs):
            self._take_back(first, count)
        if unknown:
            self.session_lost(unknown)
        for answer in frame.read_results:
            self._read_result(answer.id, answer.results)
        for rejection in frame.rejections:
            self._rejected(rejection, now)
        if frame.HasField("closing"):
            self._closing(frame.closing.code, frame.closing.message)

    def _welcome(self, welcome: ServerFrame.Welcome) -> None:
        if welcome.wire_version != WIRE_VERSION:
            raise ValueError(f"the replica speaks version {welcome.wire_version}, this client {WIRE_VERSION}")
        if self.session and welcome.session != self.session:
            raise ValueError(f"the replica attached session {welcome.session} where {self.session} was meant")
        if not self.session:
            self._next_sequence = 1
        self.session = welcome.session
        if self.session:
            self._nonce = b""
        self.exactly_once = welcome.exactly_once
        self.replica = welcome.replica
        self.epoch = welcome.epoch
        self.protocol = welcome.protocol
        self.routing = welcome.routing or "leader"
        self.leader_address = welcome.leader_address
        self.endpoints = tuple(endpoint.address for endpoint in welcome.endpoints)
        if welcome.HasField("limits"):
            stated = welcome.limits
            self.limits = Limits(
                key_bytes_max=stated.key_bytes_max or self.limits.key_bytes_max,
                value_bytes_max=stated.value_bytes_max or self.limits.value_bytes_max,
                run_operations_max=stated.run_operations_max or self.limits.run_operations_max,
                frame_bytes_max=max(stated.frame_bytes_max, 2 * FRAME_OVERHEAD_BYTES)
                if stated.frame_bytes_max
                else self.limits.frame_bytes_max,
                session_window=stated.session_window or self.limits.session_window,
            )
        self._welcomed = True
        if self._follow_leader and welcome.leader:
            if welcome.leader != welcome.replica and welcome.leader_address:
                self._want(Move("another replica leads", welcome.leader_address))
        else:
            self._look_nearby(welcome)

    @property
    def seeks_nearest(self) -> bool:
        """Would any replica do, and is it for the client to find out which is nearest? Where it knows its own region it
        goes by that."""
        return self._follow_leader and self.routing in {"nearest", "owner"} and not self._region

    def nearer(self, address: str) -> bool:
        """Another replica is nearer: go there, unless something would be lost by it (then False: ask again later)."""
        if not self._welcomed or self._leaving or (self._runs and not self.exactly_once):
            return False
        self._want(Move("another replica is nearer", address))
        return True

    def _look_nearby(self, welcome: ServerFrame.Welcome) -> None:
        """Where any replica will do, one in the own zone or region is better; each is tried once."""
        nearer = nearer_endpoint(welcome, self._region, self._zone, self._tried_nearby)
        if nearer:
            self._tried_nearby.add(nearer)
            self._want(Move("another replica is nearer", nearer))

    def _run_result(self, first: int, count: int, results: list[AnyResult]) -> None:
        self._answers += 1
        self._overload_pauses = 0
        run = self._runs.get(first)
        if run is not None and run.count == count:
            # What nearly always happens: a run is answered as it was sent.
            del self._runs[first]
            self._inflight_bytes -= len(run.payload)
            self._gathered_writes.closed(run.frame, self._heard)
            self._settle_results(run, run.tokens, results)
            return
        for part, start, end in self._overlapping(first, count):
            tokens = part.tokens[start:end]
            part.tokens[start:end] = [None] * (end - start)
            part.open -= sum(token is not None for token in tokens)
            offset = part.first + start - first
            self._settle_results(part, tokens, results[offset : offset + end - start])
            self._drop_if_settled(part)

    def _settle_results(self, run: Run[T], tokens: list[T | None], results: list[AnyResult]) -> None:
        if run.doubtful:
            # This may be the answer to one attempt while another is still to be executed.
            for index, result in enumerate(results):
                token = tokens[index]
                if token is not None and isinstance(result, Failed) and result.code in _UNREMEMBERED:
                    tokens[index] = None
                    self._settled.append(
                        ([token], MaybeCommitted(f"attempted twice, and refused once: {result.message}"))
                    )
        self._settled.append((tokens, results))

    def _take_back(self, first: int, count: int) -> None:
        """The operations were refused where they would have been applied: if that was their only attempt, queue them
        again, to be sent under another session."""
        for run, start, end in reversed(self._overlapping(first, count)):
            if run.doubtful:
                continue
            operations = _RAW_DECODER.decode(run.payload)
            again: Queue[T] = Queue()
            for span_start, span_end, deadline in spans(run.marks, run.count):
                for index in range(max(start, span_start), min(end, span_end)):
                    token = run.tokens[index]
                    if token is not None:
                        again.add(operations[index], token, deadline)
            run.open -= len(again)
            run.tokens[start:end] = [None] * (end - start)
            self._drop_if_settled(run)
            self.writes.put_back(again.take(len(again)))

    def _read_result(self, number: int, results: bytes) -> None:
        query = self._queries.pop(number, None)
        if query is None:
            return
        self._close_query(query, self._heard)
        self._answers += 1
        self._overload_pauses = 0
        count = len(query.tokens)
        self._reads_outstanding -= count
        decoded = _decode(results, count)
        if count > 1 and isinstance(decoded[-1], Failed):
            # The answers to one query are bounded together; those that found no room are asked for one by one.
            answered = next(index for index, result in enumerate(decoded) if isinstance(result, Failed))
            refused = [None] * answered + query.tokens[answered:]
            single = Query(query.consistency, refused, query.marks, query.payload)
            self._reads_outstanding += count
            self._add_singles(single)
            self._unsent = True
            query.tokens, decoded = query.tokens[:answered], decoded[:answered]
        self._settled.append((query.tokens, decoded))
        fitting = READ_RESULT_BYTES * count // (len(results) + 1)
        self._read_operations = max(1, min(fitting, 4 * max(count, self._read_operations)))

    def _rejected(self, rejection: Rejection, now: float) -> None:
        code, reason = rejection.code, _reason(rejection.code, rejection.message)
        if code == Code.SESSION_UNKNOWN:
            self.session_lost(reason)
            return
        final = _FINAL.get(code) if rejection.definite else None
        if code == Code.OVERLOADED and rejection.definite:
            self._pause(now)
        elif final is None:
            self._want(Move(reason, rejection.leader_address))
        if rejection.count:
            for run, start, end in self._overlapping(rejection.first_sequence, rejection.count):
                self._reject_run(run, start, end, rejection, reason)
        elif rejection.read_id:
            self._reject_read(rejection.read_id, code, final, reason)
        elif code == Code.OVERLOADED:
            self._want(Move(reason))
        elif final is not None:
            self._want(Move(reason, mismatch=MISMATCHES.get(code)))

    def _reject_read(self, number: int, code: int, final: Callable[[str], NotCommitted] | None, reason: str) -> None:
        query = self._queries.get(number)
        if query is None:
            return
        self._close_query(query)
        if final is None:
            query.sent = False
            self._unsent = True
            return
        del self._queries[number]
        if code in _BLAMES_CONTENT and len(query.tokens) > 1:
            self._add_singles(query)
            self._unsent = True
            return
        self._reads_outstanding -= len(query.tokens)
        self._settled.append((query.tokens, final(reason)))

    def _add_singles(self, query: Query[T]) -> None:
        singles = query.singles()
        self._reads_outstanding -= len(query.tokens) - len(singles)
        for single in singles:
            self._new_query(single)

    def _reject_run(self, run: Run[T], start: int, end: int, rejection: Rejection, reason: str) -> None:
        whole = start == 0 and end == run.count
        if not rejection.definite:
            self._doubt(run, reason)
        elif rejection.code in _FINAL:
            if whole and rejection.code in _BLAMES_CONTENT and run.count > 1:
                self._split(run)
            elif run.doubtful and rejection.code not in _ALIKE_EVERYWHERE:
                self._give_up(run, start, end, MaybeCommitted(f"an earlier attempt was left open, then: {reason}"))
            else:
                self._give_up(run, start, end, _FINAL[rejection.code](reason))
        elif self.exactly_once or (whole and run.open == run.count):
            run.refused.update(range(start, end))
            run.sent = False
            self._close_run(run)
            self._unsent = True
        else:
            # A part was refused, another part may have happened: the run cannot be sent again as it is.
            self._give_up(run, start, end, Unavailable(reason))

    def _split(self, run: Run[T]) -> None:
        """Send the operations of ``run`` one by one: one of them is to blame."""
        singles = run.singles()
        self._close_run(run)
        for single in singles:
            single.doubtful = run.doubtful
        outstanding: dict[int, Run[T]] = {}
        for first, other in self._runs.items():
            if other is run:
                outstanding.update((single.first, single) for single in singles)
            else:
                outstanding[first] = other
        self._runs = outstanding
        self._inflight_bytes += sum(len(single.payload) for single in singles) - len(run.payload)
        self._unsent = True

    def _closing(self, code: int, message: str) -> None:
        reason = _reason(code, message)
        if code == Code.SESSION_UNKNOWN:
            self.session_lost(reason)
        elif self._wish is None:
            # A rejection before it may have said more.
            self._want(Move(reason, mismatch=MISMATCHES.get(code)))

    # ---------------------------------------------------------------------------------------- failing and expiring

    def session_lost(self, reason: str) -> None:
        """The cluster does not know the session: what was sent under it is indefinite, a new one is opened."""
        error = SessionLost(f"the cluster no longer knows the session: {reason}")
        for run in list(self._runs.values()):
            self._give_up(run, 0, run.count, error)
        assert not self._runs
        self.session = 0
        self._welcomed = False
        self._want(Move(reason, stay=True))

    def expire(self, now: float, account: str) -> None:
        """Settle what is past its deadline; ``account`` says what is known of the reasons. To be called often."""
        self.tick(now)
        unavailable = f"the deadline passed before a replica took it ({account})"
        for queue in (self.writes, *self.reads.values()):
            expired = queue.remove_expired(now)
            if expired:
                self._settled.append((list(expired), Unavailable(unavailable)))
        suspicious = False
        for run in list(self._runs.values()):
            for start, end, deadline in spans(run.marks, run.count):
                if deadline > now or not any(token is not None for token in run.tokens[start:end]):
                    continue
                suspicious = suspicious or run.sent
                error: SynodError = (
                    MaybeCommitted(f"the deadline passed before the answer came ({account})")
                    if run.may_happen
                    else Unavailable(unavailable)
                )
                self._give_up(run, start, end, error)
        for number, query in list(self._queries.items()):
            suspicious = self._expire_query(number, query, now, account) or suspicious
        self._suspect(now, suspicious=suspicious)

    def _expire_query(self, number: int, query: Query[T], now: float, account: str) -> bool:
        late: list[T] = []
        for start, end, deadline in spans(query.marks, len(query.tokens)):
            if deadline <= now:
                late += [token for token in query.tokens[start:end] if token is not None]
                query.tokens[start:end] = [None] * (end - start)
        if late:
            self._settled.append((list(late), Unavailable(f"the deadline passed before the answer came ({account})")))
        if all(token is None for token in query.tokens):
            del self._queries[number]
            self._close_query(query)
            self._reads_outstanding -= len(query.tokens)
        return bool(late) and query.sent

    def fail_everything(self, definite: NotCommitted, indefinite: Indefinite) -> None:
        """Settle all there is, each with the error that is true of it."""
        for queue in (self.writes, *self.reads.values()):
            if queue.operations:
                self._settled.append((list(queue.clear()), definite))
        for run in list(self._runs.values()):
            self._give_up(run, 0, run.count, indefinite if run.may_happen else definite)
        for query in self._queries.values():
            self._settled.append((query.tokens, definite))
        self._queries.clear()
        self._reads_outstanding = 0
        self._unsent = False
        self._forget_frames()

    def _suspect(self, now: float, *, suspicious: bool) -> None:
        """A replica that leaves everything unanswered may be cut off; ask another. Without exactly-once writes
        that are on their way would be lost by leaving, so only a deadline that passed counts."""
        waiting = any(run.sent for run in self._runs.values()) or any(query.sent for query in self._queries.values())
        silent = now - self._heard >= self._stall_s
        may_leave = self.exactly_once or not self._runs
        stuck = self._attaching if not self._welcomed else (waiting and may_leave) or suspicious
        if stuck and silent:
            self._want(Move(f"no answer for {now - self._heard:.1f} s"))

    def _doubt(self, run: Run[T], reason: str) -> None:
        run.doubtful = True
        run.sent = False
        self._close_run(run)
        if self.exactly_once:
            self._unsent = True
        else:
            self._give_up(run, 0, run.count, MaybeCommitted(reason))

    def _give_up(self, run: Run[T], start: int, end: int, error: SynodError) -> None:
        tokens = [token for token in run.tokens[start:end] if token is not None]
        if tokens:
            run.tokens[start:end] = [None] * (end - start)
            run.open -= len(tokens)
            self._settled.append((list(tokens), error))
        self._drop_if_settled(run)

    def _drop_if_settled(self, run: Run[T]) -> None:
        if run.open == 0 and self._runs.pop(run.first, None) is not None:
            self._inflight_bytes -= len(run.payload)
            self._close_run(run)

    def _close_run(self, run: Run[T]) -> None:
        """It is no longer waited for in the frame that it left in."""
        self._gathered_writes.closed(run.frame)
        run.frame = 0

    def _close_query(self, query: Query[T], now: float | None = None) -> None:
        """The same; ``now`` if it was answered."""
        if query.frame:
            self._gathered_reads[query.consistency].closed(query.frame, now)
            query.frame = 0

    def _forget_frames(self) -> None:
        """Nothing is waited for on this attachment any more."""
        self._gathered_writes.clear()
        self._gathered_reads.clear()
        for run in self._runs.values():
            run.frame = 0
        for query in self._queries.values():
            query.frame = 0

    def _pause(self, now: float) -> None:
        ceiling = min(OVERLOAD_PAUSE_MAX_S, OVERLOAD_PAUSE_FIRST_S * 2.0 ** min(self._overload_pauses, 10))
        self._overload_pauses += 1
        self._paused_until = now + ceiling * (0.5 + 0.5 * self._jitter())

    def _overlapping(self, first: int, count: int) -> list[tuple[Run[T], int, int]]:
        """Outstanding runs that share sequences with [first, first + count), with the shared part of each."""
        head = next(iter(self._runs.values()), None)
        if head is None or first + count <= head.first:
            return []
        if head.first <= first and first + count <= head.first + head.count:
            return [(head, first - head.first, first + count - head.first)]
        firsts = list(self._runs)
        found = []
        for key in firsts[max(0, bisect_right(firsts, first) - 1) :]:
            run = self._runs[key]
            if run.first >= first + count:
                break
            start, end = max(0, first - run.first), min(run.count, first + count - run.first)
            if start < end:
                found.append((run, start, end))
        return found


_FINAL: Final[dict[int, Callable[[str], NotCommitted]]] = {
    Code.INVALID: InvalidArgument,
    Code.UNSUPPORTED: Unsupported,
    Code.TOO_LARGE: TooLarge,
    Code.STORAGE_FULL: StorageFull,
    Code.INTERNAL: Refused,
    Code.WRONG_CLUSTER: WrongCluster,
    Code.WIRE_VERSION: WrongCluster,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
}
"""Refusals that another attempt would meet again, and what they become."""

_BLAMES_CONTENT: Final = frozenset({Code.INVALID, Code.TOO_LARGE, Code.UNSUPPORTED, Code.PERMISSION_DENIED})
"""Refusals that may be due to one operation among many."""

_ALIKE_EVERYWHERE: Final = frozenset({Code.UNSUPPORTED})
"""Refusals by the protocol, which a cluster keeps for life: an earlier attempt met them too."""

_UNREMEMBERED: Final = frozenset({Failure.CROWDED, Failure.WINDOW})
"""Refusals after which the session does not count the sequence as executed: another attempt of it may take effect."""

MISMATCHES: Final[Mapping[int, type[NotCommitted]]] = MappingProxyType(
    {
        Code.WRONG_CLUSTER: WrongCluster,
        Code.WIRE_VERSION: WrongCluster,
        Code.UNAUTHENTICATED: Unauthenticated,
        Code.PERMISSION_DENIED: PermissionDenied,
    }
)
"""What ends every attempt at a replica, and what it is to whoever waits."""


def move_after(errors: Iterable[BaseException | None]) -> Move:
    """Where to go after a stream ended with these errors: wherever is next."""
    error = next((error for error in errors if error is not None), None)
    if error is None:
        return Move("the stream ended")
    return Move(str(error), mismatch=error.mismatch if isinstance(error, AttachmentLost) else None)


def gathers(consistency: int, *, alone: bool) -> bool:
    """Do reads of that kind gather while others are unanswered? Stale ones and large ones are answered each by
    itself."""
    return not alone and consistency != Consistency.STALE


def nearer_endpoint(welcome: ServerFrame.Welcome, region: str, zone: str, tried: Container[str]) -> str:
    """An endpoint nearer than the replica that says welcome, and not tried yet; empty when there is none."""

    def distance(endpoint: Endpoint) -> int:
        if zone and (endpoint.region, endpoint.zone) == (region, zone):
            return 0
        return 1 if region and endpoint.region == region else 2

    here = min((distance(each) for each in welcome.endpoints if each.replica == welcome.replica), default=2)
    nearer = [
        (distance(each), each.address)
        for each in welcome.endpoints
        if each.address and distance(each) < here and each.address not in tried
    ]
    return min(nearer)[1] if nearer else ""


def _reason(code: int, message: str) -> str:
    return message or Code.Name(Code.ValueType(code)).lower().replace("_", " ")


def _decode(results: bytes, count: int) -> list[AnyResult]:
    try:
        decoded = _RESULTS_DECODER.decode(results)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"results that cannot be read: {error}") from None
    if len(decoded) != count:
        raise ValueError(f"{len(decoded)} results where {count} were announced")
    return decoded
