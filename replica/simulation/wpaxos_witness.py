"""What WPaxos' own messages and the disks give away."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Command, Configuration, ReplicaId, Send, parse_options
from replica.consensus.quorums import Quorums
from replica.consensus.wpaxos import PROTOCOL
from replica.consensus.wpaxos.messages import Accept, Accepted, Prepare, Promised
from replica.consensus.wpaxos.options import quorums_of
from replica.simulation.violation import Violation
from replica.simulation.witness import Ledger, Witness, require_durable


class WPaxosWitness(Witness):
    """Of WPaxos: a ballot proposes one value at a position, promises are kept, by object, and what is decided lies on
    the disks of a phase-2 quorum."""

    checks = ("one value per slot and ballot", "promises are kept", "decided implies durable")

    def __init__(self) -> None:
        self._quorums: dict[int, Quorums] = {}
        self._proposed: dict[tuple[str, Ballot, int], bytes] = {}
        self._promised: dict[tuple[ReplicaId, str], Ballot] = {}

    def _quorums_of(self, configuration: Configuration) -> Quorums:
        quorums = self._quorums.get(configuration.epoch)
        if quorums is None:
            quorums = quorums_of(configuration, parse_options(PROTOCOL, configuration.options))
            self._quorums[configuration.epoch] = quorums
        return quorums

    def suffices(self, configuration: Configuration, replicas: AbstractSet[ReplicaId]) -> bool:
        """See the base."""
        quorums = self._quorums_of(configuration)
        return quorums.phase1(replicas) and quorums.phase2(replicas)

    def sent(self, replica: ReplicaId, send: Send, epoch: int) -> None:
        """See the base."""
        message = send.message
        if isinstance(message, Accept):
            for each in message.proposals:
                if each.ballot.replica != replica:
                    raise Violation(
                        "one value per slot and ballot", f"r{replica} proposes at ballot {each.ballot}, not its own"
                    )
                known = self._proposed.setdefault((each.name, each.ballot, each.position), each.value)
                if known != each.value:
                    raise Violation(
                        "one value per slot and ballot",
                        f"r{replica} proposes two values at {each.name}:{each.position} at {each.ballot}",
                    )
        elif isinstance(message, Prepare):
            for claim in message.claims:
                self._promise(replica, claim.name, claim.ballot)
        elif isinstance(message, Promised):
            for promise in message.promises:
                self._promise(replica, promise.name, promise.ballot)
        elif isinstance(message, Accepted):
            for vote in message.votes:
                promised = self._promised.get((replica, vote.name), vote.ballot)
                if vote.ballot < promised:
                    raise Violation(
                        "promises are kept",
                        f"r{replica} votes for {vote.name!r} at ballot {vote.ballot} after it had promised {promised}",
                    )

    def _promise(self, replica: ReplicaId, name: str, ballot: Ballot) -> None:
        known = self._promised.get((replica, name), ballot)
        self._promised[replica, name] = max(known, ballot)

    def decided_in(
        self,
        name: str,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """See the base."""
        require_durable(position, commands, configuration, ledgers, self._quorums_of(configuration).phase2)
