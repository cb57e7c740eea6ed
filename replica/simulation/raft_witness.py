"""What Raft's messages and disks give away: its published safety properties, watched from outside.

Raft's messages carry terms and no epoch, and terms begin anew with each epoch, so everything is kept by epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final, TypeAlias

from replica.consensus.interface import Command, Configuration, ReplicaId, Send
from replica.consensus.quorums import Majority
from replica.consensus.raft.messages import (
    Append,
    Appended,
    Commit,
    Discarded,
    Heartbeat,
    HeartbeatAck,
    Mismatch,
    Poll,
    Refused,
    RequestVote,
    Resume,
    Vote,
)
from replica.consensus.values import encode_batch
from replica.simulation.violation import Violation
from replica.simulation.witness import Ledger, Witness, require_durable

Position: TypeAlias = tuple[int, int]
"""The term of an entry and its index: what Raft compares logs by."""


IN_TERM: Final = (
    Append,
    Appended,
    Commit,
    Discarded,
    Heartbeat,
    HeartbeatAck,
    Mismatch,
    Refused,
    RequestVote,
    Resume,
    Vote,
)
"""Messages that say in which term their sender is. Polls speak of terms that nobody is in yet."""


class RaftWitness(Witness):
    """Of Raft: one leader a term and one vote, terms that never go back, logs that match, leaders that hold what was
    committed, followers that keep what they acknowledged, and decisions that lie on a majority's disks."""

    checks = (
        "one vote a term",
        "one leader a term",
        "terms never go back",
        "log matching",
        "leader completeness",
        "acknowledged entries are kept",
        "decided implies durable",
    )

    def __init__(self) -> None:
        self._epoch = 0
        self._votes: dict[tuple[ReplicaId, int], ReplicaId] = {}
        self._leaders: dict[int, ReplicaId] = {}
        self._terms: dict[ReplicaId, int] = {}
        self._entries: dict[Position, tuple[bytes, int]] = {}
        """By term and index, the value of an entry and the term of the one before it."""
        self._logs: dict[int, dict[int, int]] = {}
        """By term of the leader and index, the term of the entry in its log, as far as appends have shown it."""
        self._acknowledged: dict[ReplicaId, Position] = {}
        """The last entry that each replica has acknowledged, by the order in which Raft compares logs."""
        self._decided: dict[int, tuple[int, bytes]] = {}
        """By position: the highest term that anybody was in when it was decided, and the value."""
        self._highest = 0

    def _enter(self, epoch: int) -> bool:
        """Is ``epoch`` the present one? A later one makes everything else history."""
        if epoch > self._epoch:
            RaftWitness.__init__(self)
            self._epoch = epoch
        return epoch == self._epoch

    def suffices(self, configuration: Configuration, replicas: AbstractSet[ReplicaId]) -> bool:
        """See the base."""
        return Majority(configuration.replicas).phase1(replicas)

    def sent(self, replica: ReplicaId, send: Send, epoch: int) -> None:
        """See the base."""
        if not self._enter(epoch):
            return
        message = send.message
        if isinstance(message, Poll | RequestVote):
            self._campaigned(replica, message)
        if isinstance(message, Vote):
            self._voted(replica, message.term, send.to[0])
        if isinstance(message, Append | Commit | Heartbeat | Discarded):
            self._led(replica, message)
        if isinstance(message, IN_TERM):
            if message.term < self._terms.get(replica, 0):
                raise Violation(
                    "terms never go back",
                    f"r{replica} sends {type(message).__name__} of term {message.term} after it was in "
                    f"{self._terms[replica]}",
                )
            self._terms[replica] = message.term
            self._highest = max(self._highest, message.term)
        if isinstance(message, Append):
            self._appends(replica, message)
        elif isinstance(message, Appended) and message.voting:
            term = self._logs.get(message.term, {}).get(message.index)
            if term is not None:
                self._acknowledged[replica] = max(self._acknowledged.get(replica, (0, 0)), (term, message.index))

    def _campaigned(self, replica: ReplicaId, message: Poll | RequestVote) -> None:
        if isinstance(message, RequestVote):
            self._voted(replica, message.term, replica)
        acknowledged = self._acknowledged.get(replica, (0, 0))
        if (message.last_term, message.last_index) < acknowledged:
            raise Violation(
                "acknowledged entries are kept",
                f"r{replica} has a log that ends at {message.last_index} in term {message.last_term}, after it had "
                f"acknowledged an entry of term {acknowledged[0]} at {acknowledged[1]}",
            )

    def _voted(self, replica: ReplicaId, term: int, candidate: ReplicaId) -> None:
        known = self._votes.setdefault((replica, term), candidate)
        if known != candidate:
            raise Violation("one vote a term", f"r{replica} votes for r{candidate} in term {term}, after r{known}")

    def _led(self, replica: ReplicaId, message: Append | Commit | Heartbeat | Discarded) -> None:
        known = self._leaders.setdefault(message.term, replica)
        if known != replica:
            raise Violation(
                "one leader a term",
                f"r{replica} sends {type(message).__name__} in term {message.term}, in which r{known} led",
            )

    def _appends(self, replica: ReplicaId, message: Append) -> None:
        log = self._logs.setdefault(message.term, {})
        log[message.prev_index] = before = message.prev_term
        for index, entry in enumerate(message.entries, message.prev_index + 1):
            log[index] = entry.term
            known = self._entries.setdefault((entry.term, index), (entry.value, before))
            if known != (entry.value, before):
                raise Violation(
                    "log matching",
                    f"r{replica} sends an entry of term {entry.term} at {index}, behind one of term {before}, that "
                    "differs from the entry of that term which was sent before",
                )
            before = entry.term
            term, value = self._decided.get(index, (message.term, entry.value))
            if message.term > term and value != entry.value:
                raise Violation(
                    "leader completeness",
                    f"r{replica} leads term {message.term} with an entry at {index} that is not what was committed "
                    f"there in term {term} at the latest",
                )

    def decided(
        self,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """See the base."""
        if self._enter(configuration.epoch):
            self._decided[position] = (self._highest, encode_batch(commands))
        require_durable(position, commands, configuration, ledgers, Majority(configuration.replicas).phase2)
