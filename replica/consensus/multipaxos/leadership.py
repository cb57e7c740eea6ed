"""Who leads: following a ballot, and stepping down from one."""

from __future__ import annotations

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Reason, ReplicaId

from .messages import Refused
from .reads import Reads
from .replication import Replication
from .state import Core, Role

ELECTION_TIMER = "election"
HEARTBEAT_TIMER = "heartbeat"
RETRY_TIMER = "retry"


class Leadership:
    """The transitions between roles that every concern may cause."""

    def __init__(self, core: Core, replication: Replication, reads: Reads) -> None:
        self._core = core
        self._replication = replication
        self._reads = reads
        self.timeout = 0.0
        """How long this replica waits for a sign of its leader, in seconds; drawn anew with each wait."""
        self.round_seen = 0
        """The highest round of any ballot that was seen: the next one of one's own goes above it."""
        self._followed = core.nothing
        """The highest ballot followed, voter or not."""

    def wait(self) -> None:
        """Draw a timeout, and begin to wait for it."""
        core, options = self._core, self._core.options
        if core.voting:
            self.timeout = core.randomness.uniform(options.election_timeout_min_s, options.election_timeout_max_s)
            core.timer(ELECTION_TIMER, core.now + self.timeout)

    def see(self, ballot: Ballot) -> None:
        """Remember that a ballot exists."""
        self.round_seen = max(self.round_seen, ballot.round)

    def step_down(self, leader: ReplicaId | None) -> None:
        """Become a follower, of ``leader`` where one is known."""
        core = self._core
        if core.leads:
            self._replication.abandon(leader)
            self._reads.refuse(Reason.NOT_LEADER, leader)
            core.timer(HEARTBEAT_TIMER, None)
        core.timer(RETRY_TIMER, None)
        core.role = Role.FOLLOWER
        core.ballot = core.nothing
        core.leader = leader
        self.wait()

    def follow(self, ballot: Ballot, sender: ReplicaId) -> bool:
        """A message of the leader of ``ballot`` has come. False, and refused, if a higher ballot was promised."""
        core = self._core
        assert ballot.replica == sender, f"replica {sender} speaks for ballot {ballot}"
        if ballot < core.promised:
            core.send(sender, Refused(ballot, core.promised))
            return False
        if ballot < self._followed:
            return False
        self._followed = ballot
        self.see(ballot)
        if core.voting and ballot > core.promised:
            core.promise(ballot)
        if core.role is not Role.FOLLOWER:
            self.step_down(sender)
        core.leader = sender
        core.heard_at = core.now
        return True
