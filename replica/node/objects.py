"""The loop and the sessions for protocols that order by object, and for registers.

What differs from one order over all commands:

- A client's run is cut into commands each of which touches one key, so that keys do not interfere only because they
  travelled together; results go back as they come. An operation that the protocol cannot carry out is refused before
  anything of its run is proposed.
- Sessions are named here, not registered through a log (`replica.kv.objects.minting`): what makes a command take effect
  once is with the keys. So closing one is not worth a command.
- A read is granted for the keys that it reads; where the protocol reads by log, and for registers, it is a command of
  its own for each key, which leaves no trace.
- What the protocol asks to be installed goes before what is delivered, and everything is applied before the protocol
  takes its next step: it may look at the state (`replica.consensus.interface.Objects`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from replica.consensus.interface import (
    Answer,
    Deliver,
    Event,
    Footprint,
    Frontier,
    Install,
    ReadRequested,
    Reject,
    RejectRead,
)
from replica.kv import operations as kv
from replica.kv import runs
from replica.kv.objects import Abilities, ObjectMachine, cut
from replica.kv.objects.minting import Mint
from replica.kv.operations import RUN_OPERATIONS_MAX
from replica.kv.outcomes import Outcome
from replica.wire import typed as wire

from .attachment import Attachment
from .loop import Loop
from .sessions import PendingRead, Sessions, code_of

__all__ = ["KeyedSessions", "ObjectLoop"]


class ObjectLoop(Loop):
    """Drives a protocol that orders by object, or one of registers."""

    def _turn(self) -> None:
        if self._outcomes:
            self._outcome()
        super()._turn()

    def _durable(self, group: int) -> None:
        if self._outcomes:
            self._outcome()
        super()._durable(group)

    def _ask_reads(self, events: list[Event]) -> None:
        reads, self._reads = self._reads, []
        for read in reads:
            try:
                touched = runs.footprint(runs.validate_reads(read.operations, read.count))
            except runs.MalformedOperation as error:
                self.sessions.refuse_read(read, code_of(error), str(error))
                continue
            token = self._take_token()
            self._reads_by_token[token] = [read]
            events.append(ReadRequested(token, Footprint(*touched)))

    def _install(self, installs: list[Install]) -> None:
        machine = self.machine
        assert isinstance(machine, ObjectMachine), "only orders by object install objects"
        for install in installs:
            machine.install(install.object, install.position, install.image)

    def _apply(self, deliveries: list[Deliver]) -> int:
        machine = self.machine
        assert isinstance(machine, ObjectMachine), "only orders of commands deliver"
        by_session = self.sessions.by_session
        stages = self._stages
        applied = 0
        for deliver in deliveries:
            for outcome in machine.apply(deliver.object, deliver.position, deliver.commands):
                applied += outcome.count
                session = outcome.session
                if session:
                    if outcome.sequence == stages.sequence and session == stages.session:
                        self._delivered_followed = True
                    if session in by_session:
                        self.sessions.answer(outcome)
                else:
                    done = self._detached.pop(outcome.sequence, None)
                    if done is not None:
                        done(outcome.encoded())
        return applied

    def _hand_out(self, answers: list[Answer]) -> int:
        stages = self._stages
        operations = 0
        for answer in answers:
            command = answer.command
            operations += command.count
            if command.session:
                if command.sequence == stages.sequence and command.session == stages.session:
                    self._delivered_followed = True
                if command.session in self.sessions.by_session:
                    results = runs.decode_results(answer.results, command.count)
                    self.sessions.answer(
                        Outcome(
                            session=command.session, sequence=command.sequence, count=command.count, answers=results
                        )
                    )
            else:
                done = self._detached.pop(command.sequence, None)
                if done is not None:
                    done(answer.results)
        return operations

    def _reached(self, frontier: Frontier) -> bool:
        machine = self.machine
        if not isinstance(machine, ObjectMachine) or not isinstance(frontier, dict):
            return super()._reached(frontier)
        return machine.covers(frontier)


class KeyedSessions(Sessions):
    """Sessions that are named by this replica and remembered by the keys."""

    abilities: Abilities = Abilities()
    """What the store can do under the protocol."""
    reads_everywhere: bool = True
    """Is there an applied state that a stale read can look at?"""
    mint: Mint
    """Names sessions; there from the moment at which the replica takes part."""

    def _open(self, attachment: Attachment, nonce: bytes) -> None:
        if not self._engine.names_sessions:
            # On another disk a replica of this name may have named sessions that would be named again.
            message = "no session opened: the disk of this replica has not been admitted by its peers"
            self._turn_away(attachment, wire.Rejection(code=wire.Code.UNAVAILABLE, definite=True, message=message))
            return
        self.mint.saw(self._engine.newest_session)
        try:
            session = self.mint.mint()
        except OverflowError as error:
            message = f"no session opened: {error}"
            self._turn_away(attachment, wire.Rejection(code=wire.Code.INTERNAL, definite=True, message=message))
            return
        self._bind(attachment, session)

    def implausible(self, session: int) -> str:
        """As for the base. Whatever a client names moves the clock of all replicas, which must not run out of it."""
        self.mint.saw(self._engine.newest_session)
        if session <= kv.REVISION_MAX and self.mint.plausible(session):
            return ""
        return f"session {session} is far beyond those that were opened so far"

    def _goodbye(self, attachment: Attachment) -> None:
        attachment.ended = True
        self._touch(attachment)

    def _propose_run(self, attachment: Attachment, run: wire.Run) -> None:
        try:
            operations = runs.validate_run(run.operations, run.count)
        except runs.MalformedOperation as error:
            self._refuse_run(attachment, run, code_of(error), str(error))
            return
        if self._forbids(attachment, run, operations):
            return
        for operation in operations:
            if reason := self.abilities.refusal(operation):
                self._refuse_run(attachment, run, wire.Code.UNSUPPORTED, reason)
                return
        parts = cut(
            operations,
            run.operations,
            acknowledged=run.acknowledged,
            operations_max=min(self._batch_max, RUN_OPERATIONS_MAX),
        )
        for part in parts:
            sequence = run.first_sequence + part.offset
            self._propose(attachment, sequence, part.count, part.payload, Footprint(*part.touched))

    def _reads(self, attachment: Attachment, incoming: Any) -> None:
        allowed = []
        for read in incoming:
            if reason := self._unreadable(read):
                self._refuse_read(attachment, read.id, *reason)
                continue
            if read.consistency == wire.Consistency.STALE and not self.reads_everywhere:
                # Nothing here may be shown without asking the others: it is read as it stands, which is no less.
                read.consistency = wire.Consistency.LINEARIZABLE
            allowed.append(read)
        super()._reads(attachment, allowed)

    def _unreadable(self, read: wire.Read) -> tuple[wire.Code, str] | None:
        try:
            operations = runs.validate_reads(read.operations, read.count)
        except runs.MalformedOperation as error:
            return code_of(error), str(error)
        abilities = self.abilities
        if read.consistency == wire.Consistency.STALE and self.reads_everywhere:
            # What this replica has applied can be looked at in any way that needs no revisions.
            abilities = Abilities(total_order=abilities.total_order)
        for operation in operations:
            if reason := abilities.refusal(operation):
                return wire.Code.UNSUPPORTED, reason
        return None

    def _ask(self, pending: PendingRead, way: str) -> None:
        # Registers have no state that a read could be granted on: whichever way, the protocol answers it.
        super()._ask(pending, way if self.reads_everywhere else "log")

    def _read_by_log(self, pending: PendingRead) -> None:
        try:
            operations = runs.validate_reads(pending.operations, pending.count)
            parts = cut(operations, pending.operations, acknowledged=0, operations_max=RUN_OPERATIONS_MAX)
        except runs.MalformedOperation as error:
            self.refuse_read(pending, code_of(error), str(error))
            return
        gathered = _Gathered(self, pending, len(parts))
        for number, part in enumerate(parts):
            self._engine.propose_part(part, partial(gathered.put, number))

    def answer_gathered(self, pending: PendingRead, results: bytes) -> None:
        """All parts of a read have been answered."""
        self._release_read(pending)
        if not pending.attachment.ended:
            pending.attachment.put_read_result(pending.id, results)
            self._metrics.reads_served += 1
            self._touched.add(pending.attachment)


class _Gathered:
    """The answers to the parts of a read, until all are there or one is refused."""

    def __init__(self, sessions: KeyedSessions, pending: PendingRead, parts: int) -> None:
        self._sessions = sessions
        self._pending = pending
        self._results: list[bytes] = [b""] * parts
        self._missing = parts

    def put(self, number: int, outcome: bytes | Reject) -> None:
        """The answer to a part, or its refusal."""
        if self._missing <= 0:
            return
        if isinstance(outcome, Reject):
            self._missing = 0
            self._sessions.reject_read(self._pending, RejectRead(0, outcome.reason, True, outcome.hint))
            return
        self._results[number] = outcome
        self._missing -= 1
        if self._missing == 0:
            self._sessions.answer_gathered(self._pending, runs.join_results(self._results))
