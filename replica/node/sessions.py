"""The service that clients attach to: frames in, commands and reads out, results back.

One `Attachment` is one stream of one client, for at most one session. It knows nothing of gRPC:
`SessionService` serves it over gRPC, `replica.node.embedded` within the process, and both call the same two
ends, `Sessions.receive` for a frame that came in and `Attachment.next_frame` for what has accumulated on
the way out.

What a client may rely on:

- The first frame greets. ``session`` 0 with a ``nonce`` opens a session through the log; the welcome
  carries its id. ``session`` 0 without a nonce attaches without a session, for reads alone. A session named
  in the greeting is taken as it stands: should nobody know it, its runs are answered so.
- A greeting that cannot be served is answered with a `Rejection` of no run and no read, which names the
  leader where it is the leader who should be asked, and the end of the stream.
- While the storage is nearly full, what would add to it is refused as ``STORAGE_FULL``; a run of nothing but deletions,
  compactions and reads still passes, up to a second mark (`replica.storage.space`), and so does opening a session.
- A run is answered in full: its sequences come back in one or more `RunResult`, or in a `Rejection`. What
  the node refuses by itself is definite: it was never proposed.
- Results go to whichever stream the session is attached to at this replica, on any replica that applies them.
  A second stream for the same session takes its place; the first one is closed.
- A read is answered by one `ReadResult` or one `Rejection`.
- A watch is told of by `WatchNews`: that it has started, then whatever concerns it (`replica.node.watches`), and that
  it has ended, unless the client or the stream ended it. It needs no session, and any replica serves it.

Nothing here waits for a single command: frames are parsed, turned into commands and queued by plain calls,
and everything that one turn of the loop produces for a client leaves in one frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from replica.consensus.interface import Command, Footprint, Reason, Reject, RejectRead
from replica.kv import operations as kv
from replica.kv import runs
from replica.kv.machine import Outcome
from replica.kv.objects import Part
from replica.wire import typed as wire

from .access import Denied
from .attachment import Attachment
from .callers import Callers, check_operations, check_watch
from .config import Limits
from .metrics import NodeMetrics
from .watches import Watches

__all__ = ["Engine", "PendingRead", "Sessions", "code_of"]

_READ_NAMES: Final = {
    wire.Consistency.READ_INDEX: "read-index",
    wire.Consistency.LOG: "log",
    wire.Consistency.LEASE: "lease",
    wire.Consistency.QUORUM: "quorum",
}

_CODES: Final = {
    Reason.NOT_LEADER: wire.Code.NOT_LEADER,
    Reason.OVERLOADED: wire.Code.OVERLOADED,
    Reason.SEALED: wire.Code.UNAVAILABLE,
    Reason.UNSUPPORTED: wire.Code.UNSUPPORTED,
    Reason.LOST: wire.Code.UNAVAILABLE,
}

_MESSAGES: Final = {
    Reason.NOT_LEADER: "this replica does not lead",
    Reason.OVERLOADED: "the protocol's queue is full",
    Reason.SEALED: "the membership is being changed",
    Reason.UNSUPPORTED: "the protocol does not offer this",
    Reason.LOST: "leadership was lost while the command was in flight",
}


OPENINGS_MAX: Final = 4096
"""Openings of sessions that a replica remembers by their nonce."""


def code_of(error: runs.MalformedOperation) -> wire.Code:
    """What the client is told for an operation that does not parse or is too large."""
    return wire.Code.TOO_LARGE if isinstance(error, runs.OversizedOperation) else wire.Code.INVALID


def _removes(run: wire.Run) -> bool:
    """Does the run free space? One that does not parse frees none."""
    try:
        return runs.removes(runs.validate_run(run.operations, run.count))
    except runs.MalformedOperation:
        return False


class PendingRead:
    """A read that waits: for its grant, or for its turn through the log."""

    __slots__ = ("attachment", "by_lease", "count", "id", "operations")

    def __init__(self, attachment: Attachment, read: wire.Read, *, by_lease: bool) -> None:
        self.attachment = attachment
        self.id = read.id
        self.count = read.count
        self.operations = read.operations
        self.by_lease = by_lease
        """May the answer rest on a lease, and so on clocks?"""


class Engine(Protocol):
    """What the sessions ask of the loop."""

    def propose(self, command: Command) -> None:
        """Queue a command for the next turn."""

    def foresee(self, payload: bytes, acknowledged: int, operations: list[kv.ClientOperation]) -> None:
        """Told of a payload that is about to be proposed, and of what it was parsed into."""

    def propose_detached(
        self, operations: bytes, count: int, done: Callable[[bytes | Reject], None], *, system: bool = False
    ) -> None:
        """Queue operations outside any session; ``done`` gets their results or the refusal."""

    def propose_part(self, part: Part, done: Callable[[bytes | Reject], None]) -> None:
        """The same for operations that were cut out of a run."""

    @property
    def names_sessions(self) -> bool:
        """May the replica name sessions, where replicas do?"""

    @property
    def newest_session(self) -> int:
        """The highest session id seen, where replicas name sessions."""

    def request_read(self, read: PendingRead) -> None:
        """Queue a linearizable read for the next turn."""

    def read_now(self, operations: bytes, count: int) -> bytes:
        """Results of read-only operations on what this replica has applied. Raises `MalformedOperation`."""

    def leader(self, hint: int | None = None) -> tuple[int, str]:
        """The leader (or the replica hinted at) and its client address; 0 and empty while there is none."""

    def describe(self) -> wire.ServerFrame.Welcome:
        """The welcome, but for the session."""

    def unavailable(self) -> str:
        """Why nobody is served at present; empty when they are."""

    def refusal(self, *, removing: bool = False) -> tuple[wire.Code, str] | None:
        """Why nothing may be proposed at present (storage nearly full, shutting down), or None.

        ``removing``: why not even what frees space may be.
        """

    def offers(self, read: str) -> bool:
        """Does the protocol offer that way to read?"""

    @property
    def default_read(self) -> str:
        """How a read that only asks to be linearizable is served."""


class _Opening:
    """A session that is being opened, or was, for whoever greets with its nonce."""

    __slots__ = ("attachment", "session")

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        """Who asked last: the streams before are gone, or will not be told."""
        self.session = 0
        """0 until it is there."""


class Sessions:
    """All attachments of one replica. Called from the loop's thread alone."""

    def __init__(
        self,
        engine: Engine,
        *,
        cluster: str,
        limits: Limits,
        batch_max: int,
        metrics: NodeMetrics,
        watches: Watches | None = None,
        callers: Callers | None = None,
    ) -> None:
        """Without ``watches``, nobody can watch here; without ``callers``, everybody may do everything."""
        self._engine = engine
        self._watches = watches
        self.callers = callers
        self._cluster = cluster
        self._limits = limits
        self._batch_max = batch_max
        self._metrics = metrics
        self._attachments: set[Attachment] = set()
        self.by_session: dict[int, Attachment] = {}
        """The streams that have a session, by it. To be looked at from outside, and changed here alone."""
        self._touched: set[Attachment] = set()
        self._openings: dict[bytes, _Opening] = {}
        """By nonce, those asked for last; a client that lost its stream before it was welcomed comes with it again."""
        self.in_flight_operations = 0
        self.in_flight_bytes = 0
        self.reads_waiting = 0

    # --------------------------------------------------------------------------------------- coming and going

    @property
    def attached(self) -> int:
        """How many streams there are."""
        return len(self._attachments)

    def attach(self, context: Any = None) -> Attachment:
        """A new stream, which has not said anything yet; ``context`` is that of its call."""
        attachment = Attachment(self._limits.frame_bytes_max)
        if self.callers is not None and context is not None:
            try:
                attachment.caller = self.callers.arrive(context)
            except Denied as denied:
                attachment.denied = denied
        self._attachments.add(attachment)
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """The stream is gone. What it proposed may still take effect."""
        attachment.ended = True
        self._attachments.discard(attachment)
        self._touched.discard(attachment)
        if self.by_session.get(attachment.session) is attachment:
            del self.by_session[attachment.session]
        self._forget_in_flight(attachment)
        if self._watches is not None:
            self._watches.detach(attachment)
        if self.callers is not None and attachment.caller is not None:
            self.callers.leave(attachment.caller)
            attachment.caller = None
        attachment.wake()

    def review(self) -> None:
        """End the streams whose tokens have expired or were withdrawn."""
        for attachment in self._attachments:
            if attachment.caller is not None and attachment.caller.grant is not None and attachment.greeted:
                denied = self._denied(attachment)
                if denied is not None and not attachment.ended:
                    self._close(attachment, denied.code, str(denied))

    def close_all(self, code: wire.Code, message: str) -> None:
        """Tell every client that this replica ends its stream."""
        for attachment in self._attachments:
            attachment.put_closing(code, message)
            attachment.wake()

    def flush(self) -> None:
        """The turn is over: send each client what has accumulated for it."""
        for attachment in self._touched:
            if attachment.outgoing_bytes > self._limits.session_outgoing_bytes_max and not attachment.ended:
                self._close_slow(attachment)
            attachment.wake()
        self._touched.clear()

    # ----------------------------------------------------------------------------------------------- incoming

    def receive(self, attachment: Attachment, frame: wire.ClientFrame) -> None:
        """A frame of the client."""
        if attachment.ended:
            return
        if not attachment.greeted:
            if not self._greet(attachment, frame):
                return
        elif frame.HasField("hello"):
            self._close(attachment, wire.Code.INVALID, "a stream is greeted once")
            return
        elif (denied := self._denied(attachment)) is not None:
            self._deny(attachment, frame, denied)
            return
        if frame.runs:
            self._runs(attachment, frame.runs)
        if frame.reads:
            self._reads(attachment, frame.reads)
        if self._watches is not None and (frame.watches or frame.unwatch):
            for watch in frame.watches:
                self._watches.open(attachment, watch, self._watch_refusal(attachment, watch))
            for id_ in frame.unwatch:
                self._watches.cancel(attachment, id_)
        if frame.goodbye:
            self._goodbye(attachment)

    def _greet(self, attachment: Attachment, frame: wire.ClientFrame) -> bool:
        hello = frame.hello
        refusal: tuple[wire.Code, str] | None = None
        if not frame.HasField("hello"):
            refusal = wire.Code.INVALID, "the first frame of a stream carries a hello"
        elif hello.wire_version != wire.WIRE_VERSION:
            refusal = (
                wire.Code.WIRE_VERSION,
                (
                    f"this replica speaks version {wire.WIRE_VERSION} of the client interface, the client speaks "
                    f"version {hello.wire_version}: use a client of the replica's release"
                ),
            )
        elif hello.cluster and hello.cluster != self._cluster:
            refusal = (
                wire.Code.WRONG_CLUSTER,
                f"this replica belongs to cluster {self._cluster!r}, the client asked for {hello.cluster!r}",
            )
        elif attachment.denied is not None:
            refusal = attachment.denied.code, str(attachment.denied)
        elif attachment.caller is not None and attachment.caller.streams > self._limits.client_streams_max:
            refusal = (
                wire.Code.OVERLOADED,
                f"{attachment.caller.name} has {self._limits.client_streams_max} streams to this replica already",
            )
        elif len(self._attachments) > self._limits.sessions_attached_max:
            refusal = (
                wire.Code.OVERLOADED,
                f"{self._limits.sessions_attached_max} clients are attached to this replica already",
            )
        elif problem := self._engine.unavailable():
            refusal = wire.Code.UNAVAILABLE, problem
        elif hello.session == 0 and hello.nonce:
            # A session is small, and whoever comes to empty a full store needs one.
            refusal = self._engine.refusal(removing=True)
        if refusal is not None:
            code, message = refusal
            self._turn_away(attachment, wire.Rejection(code=code, definite=True, message=message))
            return False
        attachment.greeted = True
        attachment.client = hello.client
        if hello.session:
            if problem := self.implausible(hello.session):
                self._close(attachment, wire.Code.SESSION_UNKNOWN, problem)
                return False
            self._bind(attachment, hello.session)
        elif hello.nonce:
            self._open(attachment, hello.nonce)
        else:
            self._welcome(attachment)
        return True

    def _denied(self, attachment: Attachment) -> Denied | None:
        """Why the client may do nothing any more, or None."""
        if self.callers is not None and attachment.caller is not None and attachment.denied is None:
            try:
                self.callers.check(attachment.caller)
            except Denied as denied:
                attachment.denied = denied
        return attachment.denied

    def _deny(self, attachment: Attachment, frame: wire.ClientFrame, denied: Denied) -> None:
        """Refuse all of the frame, definitely, and end the stream."""
        for run in frame.runs:
            self._refuse_run(attachment, run, denied.code, str(denied))
        for read in frame.reads:
            self._refuse_read(attachment, read.id, denied.code, str(denied))
        self._close(attachment, denied.code, str(denied))

    def _watch_refusal(self, attachment: Attachment, watch: wire.Watch) -> tuple[wire.Code, str] | None:
        if attachment.caller is not None:
            try:
                check_watch(attachment.caller, watch.first, watch.last)
            except Denied as denied:
                return denied.code, str(denied)
        return None

    def _turn_away(self, attachment: Attachment, rejection: wire.Rejection) -> None:
        """The greeting is refused: say so, and end the stream."""
        attachment.put_rejection(rejection)
        attachment.ended = True
        attachment.wake()

    def _open(self, attachment: Attachment, nonce: bytes) -> None:
        opening = self._openings.get(nonce)
        if opening is not None:
            if opening.session:
                self._bind(attachment, opening.session)
                return
            # It is being decided: who comes with the same nonce is the same client, on a new stream.
            attachment.opening = True
            opening.attachment, before = attachment, opening.attachment
            before.opening = False
            if not before.ended:
                self._close(before, wire.Code.UNAVAILABLE, "the session is being opened on another stream")
            return
        attachment.opening = True
        opening = self._openings[nonce] = _Opening(attachment)
        if len(self._openings) > OPENINGS_MAX:
            del self._openings[next(iter(self._openings))]

        def opened(outcome: bytes | Reject) -> None:
            attachment = opening.attachment
            attachment.opening = False
            if isinstance(outcome, Reject):
                if self._openings.get(nonce) is opening:
                    del self._openings[nonce]
                if attachment.ended:
                    return
                attachment.put_rejection(self._rejection_of(outcome.reason, outcome.definite, outcome.hint))
                self._close(attachment, _CODES[outcome.reason], f"no session opened: {_MESSAGES[outcome.reason]}")
                return
            result = runs.decode_results(outcome, 1)[0]
            if isinstance(result, kv.SessionOpened):
                opening.session = result.session
            if attachment.ended:
                return
            if not isinstance(result, kv.SessionOpened):
                message = result.message if isinstance(result, kv.Failed) else "unexpected answer"
                self._close(attachment, wire.Code.INTERNAL, f"no session opened: {message}")
                return
            self._bind(attachment, result.session)

        operations = runs.encode_operations([kv.OpenSession(nonce)])
        self._engine.propose_detached(operations, 1, opened, system=True)

    def implausible(self, session: int) -> str:
        """Why no replica can have opened a session of that id, as far as this one can tell; empty when one may have.

        A plausible one that is unknown is answered so through the log: nothing is executed for it.
        """
        return "" if session <= kv.REVISION_MAX else f"session {session} is beyond the last id there can be"

    def _bind(self, attachment: Attachment, session: int) -> None:
        other = self.by_session.get(session)
        if other is not None and other is not attachment:
            self._close(other, wire.Code.UNAVAILABLE, "the session was attached by another stream")
            self._forget_in_flight(other)
        attachment.session = session
        self.by_session[session] = attachment
        self._welcome(attachment)

    def _welcome(self, attachment: Attachment) -> None:
        welcome = self._engine.describe()
        welcome.session = attachment.session
        attachment.put_welcome(welcome)
        self._metrics.sessions_opened += 1
        self._touch(attachment)

    def _goodbye(self, attachment: Attachment) -> None:
        if attachment.session and self._engine.refusal(removing=True) is None:
            operations = runs.encode_operations([kv.CloseSession(attachment.session)])
            self._engine.propose_detached(operations, 1, lambda _outcome: None, system=True)
        attachment.ended = True
        self._touch(attachment)

    # --------------------------------------------------------------------------------------------------- runs

    def _runs(self, attachment: Attachment, incoming: Any) -> None:
        refusal = self._engine.refusal()
        # Nearly full is not full: what frees space may still have its turn.
        removals_pass = refusal is not None and self._engine.refusal(removing=True) is None
        session = attachment.session
        limits = self._limits
        for run in incoming:
            count = run.count
            if refusal is not None and not (removals_pass and _removes(run)):
                self._refuse_run(attachment, run, *refusal)
            elif not session:
                self._refuse_run(attachment, run, wire.Code.INVALID, "the stream has no session yet")
            elif count > limits.run_operations_max:
                self._refuse_run(
                    attachment,
                    run,
                    wire.Code.TOO_LARGE,
                    f"a run has at most {limits.run_operations_max} operations, this one {count}",
                )
            elif attachment.in_flight_operations + count > limits.session_operations_max:
                self._refuse_run(
                    attachment,
                    run,
                    wire.Code.OVERLOADED,
                    f"{attachment.in_flight_operations} operations of this session are in flight",
                )
            elif (
                self.in_flight_operations + count > limits.queued_operations_max
                or self.in_flight_bytes + len(run.operations) > limits.queued_bytes_max
            ):
                self._refuse_run(attachment, run, wire.Code.OVERLOADED, "the replica's queue is full")
            elif (
                self.callers is not None
                and attachment.caller is not None
                and not self.callers.room(attachment.caller, count)
            ):
                self._refuse_run(
                    attachment,
                    run,
                    wire.Code.OVERLOADED,
                    f"{attachment.caller.name} writes more than {self.callers.rate:g} operations a second",
                )
            else:
                self._propose_run(attachment, run)

    def _forbids(self, attachment: Attachment, run: wire.Run, operations: list[kv.ClientOperation]) -> bool:
        """May the client not do what is in the run? Then the run is refused."""
        if attachment.caller is None or attachment.caller.grant is None:
            return False
        try:
            check_operations(attachment.caller, operations)
        except Denied as denied:
            self._refuse_run(attachment, run, denied.code, str(denied))
            return True
        return False

    def _propose_run(self, attachment: Attachment, run: wire.Run) -> None:
        operations, count = run.operations, run.count
        try:
            parsed = runs.validate_run(operations, count)
        except runs.MalformedOperation as error:
            self._refuse_run(attachment, run, code_of(error), str(error))
            return
        if self._forbids(attachment, run, parsed):
            return
        payload = runs.pack_payload(run.acknowledged, operations)
        if count <= self._batch_max:
            self._engine.foresee(payload, run.acknowledged, parsed)
            self._propose(attachment, run.first_sequence, count, payload)
            return
        for offset, part, piece in runs.split_payload(payload, self._batch_max):
            self._propose(attachment, run.first_sequence + offset, part, piece)

    def _propose(
        self,
        attachment: Attachment,
        sequence: int,
        count: int,
        payload: bytes,
        footprint: Footprint | None = None,
    ) -> None:
        size = len(payload)
        before = attachment.in_flight.pop(sequence, None)
        if before is not None:
            self._subtract(attachment, *before)
        attachment.in_flight[sequence] = (count, size)
        attachment.in_flight_operations += count
        self.in_flight_operations += count
        self.in_flight_bytes += size
        self._engine.propose(Command(payload, attachment.session, sequence, count, footprint))

    def _refuse_run(self, attachment: Attachment, run: wire.Run, code: wire.Code, message: str) -> None:
        self._metrics.operations_refused += run.count
        attachment.put_rejection(
            wire.Rejection(
                first_sequence=run.first_sequence, count=run.count, code=code, definite=True, message=message
            )
        )
        self._touch(attachment)

    # -------------------------------------------------------------------------------------------------- reads

    def _reads(self, attachment: Attachment, incoming: Any) -> None:
        engine = self._engine
        for read in incoming:
            consistency = read.consistency
            if attachment.caller is not None and attachment.caller.grant is not None:
                try:
                    check_operations(attachment.caller, runs.validate_reads(read.operations, read.count))
                except Denied as denied:
                    self._refuse_read(attachment, read.id, denied.code, str(denied))
                    continue
                except runs.MalformedOperation as error:
                    self._refuse_read(attachment, read.id, code_of(error), str(error))
                    continue
            if consistency == wire.Consistency.STALE:
                self._read_now(attachment, read.id, read.operations, read.count)
                attachment.wake()
                continue
            if consistency == wire.Consistency.LINEARIZABLE:
                way = engine.default_read
            else:
                way = _READ_NAMES.get(consistency, f"consistency {consistency}")
                if not engine.offers(way):
                    self._refuse_read(attachment, read.id, wire.Code.UNSUPPORTED, f"the protocol has no reads by {way}")
                    continue
            if (
                self.reads_waiting >= self._limits.queued_reads_max
                or attachment.reads >= self._limits.session_operations_max
            ):
                self._refuse_read(attachment, read.id, wire.Code.OVERLOADED, "too many reads wait already")
                continue
            pending = PendingRead(attachment, read, by_lease=way == "lease")
            attachment.reads += 1
            self.reads_waiting += 1
            self._ask(pending, way)

    def _ask(self, pending: PendingRead, way: str) -> None:
        """Have a read answered in that way."""
        if way == "log":
            self._read_by_log(pending)
        else:
            self._engine.request_read(pending)

    def _read_by_log(self, pending: PendingRead) -> None:
        try:
            runs.validate_reads(pending.operations, pending.count)
        except runs.MalformedOperation as error:
            self.refuse_read(pending, code_of(error), str(error))
            return

        def done(outcome: bytes | Reject) -> None:
            if isinstance(outcome, Reject):
                self.reject_read(pending, RejectRead(0, outcome.reason, True, outcome.hint))
            else:
                self._release_read(pending)
                if not pending.attachment.ended:
                    pending.attachment.put_read_result(pending.id, outcome)
                    self._metrics.reads_served += 1
                    self._touched.add(pending.attachment)

        self._engine.propose_detached(pending.operations, pending.count, done)

    def answer_read(self, pending: PendingRead) -> None:
        """A read that waited may be answered now, from what has been applied."""
        self._release_read(pending)
        if not pending.attachment.ended:
            self._read_now(pending.attachment, pending.id, pending.operations, pending.count)

    def _read_now(self, attachment: Attachment, id_: int, operations: bytes, count: int) -> None:
        try:
            results = self._engine.read_now(operations, count)
        except runs.MalformedOperation as error:
            self._refuse_read(attachment, id_, code_of(error), str(error))
            return
        attachment.put_read_result(id_, results)
        self._metrics.reads_served += 1
        self._touched.add(attachment)

    def reject_read(self, pending: PendingRead, refused: RejectRead) -> None:
        """The protocol refuses a read."""
        self._release_read(pending)
        if not pending.attachment.ended:
            rejection = self._rejection_of(refused.reason, True, refused.hint)
            rejection.read_id = pending.id
            pending.attachment.put_rejection(rejection)
            self._touch(pending.attachment)

    def refuse_read(self, pending: PendingRead, code: wire.Code, message: str) -> None:
        """The node refuses a read that waited."""
        self._release_read(pending)
        if not pending.attachment.ended:
            self._refuse_read(pending.attachment, pending.id, code, message)

    def _release_read(self, pending: PendingRead) -> None:
        pending.attachment.reads -= 1
        self.reads_waiting -= 1

    def _refuse_read(self, attachment: Attachment, id_: int, code: wire.Code, message: str) -> None:
        attachment.put_rejection(wire.Rejection(read_id=id_, code=code, definite=True, message=message))
        self._touch(attachment)

    # ----------------------------------------------------------------------------------------------- outgoing

    def answer(self, outcome: Outcome) -> None:
        """A command of a session that is attached here was applied."""
        attachment = self.by_session[outcome.session]
        if attachment.ended:
            return
        sent = attachment.in_flight.pop(outcome.sequence, None)
        if sent is not None:
            self._subtract(attachment, *sent)
        attachment.put_outcome(outcome)
        self._touched.add(attachment)

    def reject(self, refused: Reject) -> None:
        """The protocol refuses a command of a session."""
        command = refused.command
        attachment = self.by_session.get(command.session)
        if attachment is None or attachment.ended:
            return
        sent = attachment.in_flight.pop(command.sequence, None)
        if sent is not None:
            self._subtract(attachment, *sent)
        self._metrics.operations_refused += command.count
        rejection = self._rejection_of(refused.reason, refused.definite, refused.hint)
        rejection.first_sequence = command.sequence
        rejection.count = command.count
        attachment.put_rejection(rejection)
        self._touch(attachment)

    def lose_in_flight(self, message: str) -> None:
        """What is in flight will not be answered by this replica, though it may have taken effect."""
        for attachment in list(self.by_session.values()):
            for sequence, (count, _) in attachment.in_flight.items():
                attachment.put_rejection(
                    wire.Rejection(
                        first_sequence=sequence,
                        count=count,
                        code=wire.Code.UNAVAILABLE,
                        definite=False,
                        message=message,
                    )
                )
                self._touch(attachment)
            self._forget_in_flight(attachment)

    def _rejection_of(self, reason: str, definite: bool, hint: int | None) -> wire.Rejection:
        leader, address = self._engine.leader(hint)
        return wire.Rejection(
            code=_CODES.get(reason, wire.Code.UNAVAILABLE),
            definite=definite,
            message=_MESSAGES.get(reason, reason),
            leader=leader,
            leader_address=address,
        )

    # ----------------------------------------------------------------------------------------------- internal

    def _touch(self, attachment: Attachment) -> None:
        """Wake the stream now: outside a turn nobody else would."""
        attachment.wake()

    def _close(self, attachment: Attachment, code: wire.Code, message: str) -> None:
        attachment.put_closing(code, message)
        attachment.wake()

    def _close_slow(self, attachment: Attachment) -> None:
        self._metrics.sessions_closed_slow += 1
        attachment.drop_answers()
        self._close(
            attachment,
            wire.Code.OVERLOADED,
            f"the client left more than {self._limits.session_outgoing_bytes_max} bytes of answers untaken",
        )

    def _subtract(self, attachment: Attachment, count: int, size: int) -> None:
        attachment.in_flight_operations -= count
        self.in_flight_operations -= count
        self.in_flight_bytes -= size

    def _forget_in_flight(self, attachment: Attachment) -> None:
        for count, size in attachment.in_flight.values():
            self._subtract(attachment, count, size)
        attachment.in_flight.clear()
