"""Phase 1: campaigning, what an acceptor answers, and what a new leader must do before it proposes.

The candidate asks from its first undecided slot on. Each answer says how far the acceptor knows the log to be decided,
and all that it holds beyond. With a phase-1 quorum of complete answers the candidate knows two things: every slot up to
the highest such mark *is* decided, so it fetches those values (or a snapshot) and proposes nothing there; and behind
that mark, whatever may have been decided is among the reports, under the highest ballot reported for its slot. So it
proposes those values again, fills the gaps with no-ops, and only then what clients ask for.
"""

from __future__ import annotations

from replica.consensus.ballots import Ballot
from replica.consensus.interface import NO_TICKET, ReplicaId, Ticket

from .catchup import CatchUps
from .leadership import ELECTION_TIMER, HEARTBEAT_TIMER, RETRY_TIMER, Leadership
from .log import Log
from .messages import Prepare, Promised, Refused, Report
from .reads import Reads
from .replication import Replication
from .state import Core, Role

END = 0
"""The ``end`` of a part that reaches to the end of all slots."""


class Answer:
    """What one acceptor has answered so far: complete when its parts cover everything it holds."""

    __slots__ = ("decided", "ends")

    def __init__(self) -> None:
        self.decided = 0
        self.ends: dict[int, int] = {}
        """By first slot, the end of each part received."""

    def add(self, message: Promised) -> None:
        """One part."""
        self.decided = max(self.decided, message.decided)
        known = self.ends.get(message.first)
        if known is None or message.end == END or (known != END and message.end > known):
            self.ends[message.first] = message.end

    def complete(self, asked: int) -> bool:
        """Do the parts cover everything from the asked slot, or from what is decided, on?"""
        position = max(asked, self.decided + 1)
        for first in sorted(self.ends):
            end = self.ends[first]
            if first > position:
                return False
            if end == END:
                return True
            position = max(position, end)
        return False


class Recovery:
    """Phase 1, from both sides."""

    def __init__(
        self,
        *,
        core: Core,
        log: Log,
        leadership: Leadership,
        replication: Replication,
        reads: Reads,
        catchups: CatchUps,
    ) -> None:
        self._core = core
        self._log = log
        self._leadership = leadership
        self._replication = replication
        self._reads = reads
        self._catchups = catchups
        self._asked = 0
        self._own_ticket: Ticket | None = None
        """What the own promise waits for; None once it counts."""
        self._answers: dict[ReplicaId, Answer] = {}
        self._complete: set[ReplicaId] = set()
        self._found: dict[int, tuple[bool, Ballot, bytes]] = {}
        """By slot, the report to go by: a decided one beats any ballot, then the highest ballot. As many as an earlier
        leader had under way beyond what the most advanced member of the quorum knows to be decided: its window bounds
        that, unless all of them lag in hearing of decisions."""
        self._source: ReplicaId | None = None
        """Who knows the most decided slots of the quorum, while this replica fetches them."""
        self._target = 0
        self._fetched_at = 0.0
        self._fetched_to = 0

    # ------------------------------------------------------------------------------------------------------ candidate

    @property
    def awaits_disk(self) -> bool:
        """Is the own promise still being written, so that nobody could have answered yet?"""
        return self._core.role is Role.PREPARING and self._own_ticket is not None

    def campaign(self) -> None:
        """Mint a ballot, and ask for promises once it is durable here."""
        core, log = self._core, self._log
        assert core.voting, "a replica that has not been admitted must not campaign"
        self._leadership.step_down(None)
        ballot = core.promised.successor(core.replica, round_seen=self._leadership.round_seen)
        core.promise(ballot)
        core.ballot = ballot
        core.role = Role.PREPARING
        self._asked = log.decided + 1
        self._own_ticket = core.written
        self._answers = {}
        self._complete = set()
        self._found = {}
        after = NO_TICKET if "ballot used before it is durable" in core.bugs else core.written
        core.broadcast(Prepare(ballot, self._asked), after)
        core.timer(RETRY_TIMER, core.now + core.options.retransmit_s)

    def on_persisted(self, ticket: Ticket) -> None:
        """The own promise counts once it is durable, and the campaign's time starts to run."""
        core, log = self._core, self._log
        if core.role is not Role.PREPARING or self._own_ticket is None or ticket < self._own_ticket:
            return
        self._own_ticket = None
        self._leadership.wait()
        for report in log.reports(log.decided + 1):
            self._find(report)
        self._complete.add(core.replica)
        self._try_to_lead()

    def retry(self) -> None:
        """Ask those again whose answers are missing or incomplete."""
        core = self._core
        if core.role is not Role.PREPARING:
            return
        for replica in core.others:
            if replica not in self._complete:
                core.send(replica, Prepare(core.ballot, self._asked), core.written)
        core.timer(RETRY_TIMER, core.now + core.options.retransmit_s)

    def on_promised(self, sender: ReplicaId, message: Promised) -> None:
        """1b, or a part of it."""
        core = self._core
        if message.ballot != core.ballot or core.role is not Role.PREPARING:
            return
        answer = self._answers.setdefault(sender, Answer())
        answer.add(message)
        for report in message.reports:
            self._find(report)
        if answer.complete(self._asked) or "phase 1b counted before it is whole" in core.bugs:
            self._complete.add(sender)
            self._try_to_lead()

    def on_refused(self, message: Refused) -> None:
        """Somebody has promised a higher ballot than this replica's."""
        core = self._core
        self._leadership.see(message.promised)
        if message.ballot == core.ballot and core.role is not Role.FOLLOWER and message.promised > core.ballot:
            self._leadership.step_down(None)

    def _find(self, report: Report) -> None:
        candidate = (report.decided, report.ballot, report.value)
        known = self._found.get(report.slot)
        if known is not None and "any vote adopted" in self._core.bugs:
            return
        if known is None or candidate[:2] > known[:2]:
            self._found[report.slot] = candidate

    def _try_to_lead(self) -> None:
        core, log = self._core, self._log
        if not core.quorums.phase1(self._complete):
            return
        core.role = Role.RECOVERING
        core.leader = core.replica
        core.timer(RETRY_TIMER, None)
        core.timer(ELECTION_TIMER, None)
        core.timer(HEARTBEAT_TIMER, core.now)
        self._reads.begin()
        self._target, self._source = max(
            ((answer.decided, replica) for replica, answer in self._answers.items() if replica in self._complete),
            default=(0, None),
            key=lambda pair: pair[0],
        )
        log.target = max(log.target, self._target)
        self._fetched_at, self._fetched_to = core.now, log.decided
        self.settle()

    def settle(self) -> None:
        """Lead as soon as everything that the quorum knows to be decided is known here; until then, fetch it."""
        core, log = self._core, self._log
        if core.role is not Role.RECOVERING:
            return
        if log.decided < self._target:
            assert self._source is not None
            self._catchups.request(self._source)
            return
        core.role = Role.LEADING
        found = {slot: value for slot, (_, _, value) in self._found.items()}
        self._found = {}
        self._answers = {}
        self._replication.begin(found)

    @property
    def stuck(self) -> bool:
        """Has fetching what is decided come to a standstill?"""
        core, log = self._core, self._log
        if core.role is not Role.RECOVERING:
            return False
        if log.decided > self._fetched_to or self._catchups.awaits_snapshot:
            self._fetched_at, self._fetched_to = core.now, log.decided
        return core.now > self._fetched_at + 2 * core.options.election_timeout_max_s

    # ------------------------------------------------------------------------------------------------------- acceptor

    def on_prepare(self, sender: ReplicaId, message: Prepare) -> None:
        """1a: promise, and report; both leave once the promise is durable."""
        core = self._core
        assert message.ballot.replica == sender, f"replica {sender} campaigns with ballot {message.ballot}"
        if not core.voting:
            return
        if message.ballot < core.promised:
            core.send(sender, Refused(message.ballot, core.promised))
            return
        if message.ballot > core.promised:
            self._leadership.see(message.ballot)
            self._leadership.step_down(None)
            core.promise(message.ballot)
            core.heard_at = core.now  # the candidate is given time before this replica helps another
        self._answer(sender, message)

    def _answer(self, sender: ReplicaId, message: Prepare) -> None:
        core, log = self._core, self._log
        decided = log.decided
        first = max(message.first, decided + 1)
        reports = log.reports(first)
        if "phase 1b omits decided slots" in core.bugs:
            decided = message.first - 1
            reports = [report for report in reports if not report.decided]
            first = message.first
        part: list[Report] = []
        size = 0
        for report in reports:
            if part and size + len(report.value) > core.options.chunk_bytes_max:
                core.send(sender, Promised(message.ballot, decided, first, report.slot, tuple(part)), core.vote_ticket)
                first, part, size = report.slot, [], 0
            part.append(report)
            size += len(report.value)
        core.send(sender, Promised(message.ballot, decided, first, END, tuple(part)), core.vote_ticket)
