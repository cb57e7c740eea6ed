"""Who leads: following a term, and stepping down from one."""

from __future__ import annotations

from replica.consensus.interface import Reason, ReplicaId

from .log import Log
from .messages import Refused
from .reads import Reads
from .replication import Replication
from .state import Core, Role

ELECTION_TIMER = "election"
HEARTBEAT_TIMER = "heartbeat"
RETRY_TIMER = "retry"


class Leadership:
    """The transitions between roles that every concern may cause."""

    def __init__(self, core: Core, log: Log, replication: Replication, reads: Reads) -> None:
        self._core = core
        self._log = log
        self._replication = replication
        self._reads = reads
        self.timeout = 0.0
        """How long this replica waits for a sign of its leader, in seconds; drawn anew with each wait."""
        self.term_seen = 0
        """The highest term that was heard of, entered or not: the next campaign goes beyond it."""
        self.matched = 0
        """Up to where the log is known to match that of the leader of ``_followed``."""
        self._followed = 0

    def wait(self) -> None:
        """Draw a timeout, and begin to wait for it."""
        core, options = self._core, self._core.options
        if core.voting:
            self.timeout = core.randomness.uniform(options.election_timeout_min_s, options.election_timeout_max_s)
            core.timer(ELECTION_TIMER, core.now + self.timeout)

    def see(self, term: int) -> None:
        """Remember that a term exists."""
        self.term_seen = max(self.term_seen, term)

    def step_down(self, leader: ReplicaId | None) -> None:
        """Become a follower, of ``leader`` where one is known."""
        core = self._core
        if core.leads:
            self._replication.abandon(leader)
            self._reads.abandon(Reason.NOT_LEADER, leader)
            core.timer(HEARTBEAT_TIMER, None)
        core.timer(RETRY_TIMER, None)
        core.role = Role.FOLLOWER
        core.leader = leader
        self.wait()

    def enter(self, term: int) -> None:
        """Somebody is in a later term: follow it there, whoever leads in it."""
        self.see(term)
        if term > self._core.term:
            self.step_down(None)
            self._core.adopt(term)

    def follow(self, term: int, sender: ReplicaId) -> bool:
        """A message of the leader of ``term`` has come. False, and refused, if this replica is in a later one."""
        core = self._core
        if term < core.term:
            core.send(sender, Refused(core.term), core.term_ticket)
            return False
        self.enter(term)
        assert not core.leads, f"replica {sender} leads in term {term}, in which this replica leads"
        if self._followed != term:
            self._followed = term
            # What is committed is in the log of every leader of this term.
            self.matched = self._log.decided
        if core.role is not Role.FOLLOWER:
            self.step_down(sender)
        core.leader = sender
        core.heard_at = core.now
        return True
