"""What can be seen of a protocol from outside that no client and no state would show.

A witness watches the messages that replicas send and what has become durable on their disks. It knows the protocol's
own promises, so it is written for a protocol; one without a witness is judged by everything else. Through restarts it
remembers what a replica has said before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from replica.consensus.interface import Command, Configuration, ReplicaId, Send, parse_options
from replica.consensus.multipaxos import FPAXOS, PROTOCOL
from replica.consensus.multipaxos.messages import Accept, Accepted, HeartbeatAck, Prepare, Promised
from replica.consensus.multipaxos.options import quorums_of
from replica.consensus.quorums import Quorums
from replica.simulation.violation import Violation


class Ledger:
    """Every record that was ever durable on a host, whatever became of it later."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    def enter(self, record: bytes) -> None:
        """A record has become durable."""
        self._records.append(record)

    def holds(self, payload: bytes) -> bool:
        """Was there a durable record that contains ``payload``?"""
        return any(payload in record for record in reversed(self._records))


class Witness:
    """Sees nothing; the base of those that do."""

    checks: tuple[str, ...] = ()
    """Names of what is checked."""

    def suffices(self, configuration: Configuration, replicas: AbstractSet[ReplicaId]) -> bool:
        """Can these members, in touch with each other, elect and decide without the others?"""
        return len(replicas) > len(configuration.members) // 2

    def sent(self, replica: ReplicaId, send: Send, epoch: int) -> None:
        """A replica sends a message, in the epoch in which it is. Raises `Violation`."""

    def decided(
        self,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """Commands are delivered for the first time anywhere. Raises `Violation`."""

    def decided_in(
        self,
        name: str,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """The same at a position of the object ``name``, for protocols that order by object. Raises `Violation`."""

    def answered(
        self,
        replica: ReplicaId,
        command: Command,
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """A replica of a register protocol answers a command. Raises `Violation`."""


def require_durable(
    position: int,
    commands: tuple[Command, ...],
    configuration: Configuration,
    ledgers: Mapping[ReplicaId, Ledger],
    suffices: Callable[[AbstractSet[ReplicaId]], bool],
) -> None:
    """What is delivered has been durable on the disks of members that suffice to decide. Raises `Violation`."""
    for command in commands:
        holders = {replica for replica in configuration.replicas if ledgers[replica].holds(command.payload)}
        if not suffices(holders):
            names = ", ".join(f"r{replica}" for replica in sorted(holders)) or "nobody"
            raise Violation(
                "decided implies durable",
                f"position {position} is delivered while operation {command.session}:{command.sequence} "
                f"is durable at {names} alone",
            )


class MultiPaxosWitness(Witness):
    """Of MultiPaxos and its variants: ballots are used once, promises kept, and decisions lie on a quorum's disks."""

    checks = ("one value per slot and ballot", "promises are kept", "decided implies durable")

    def __init__(self) -> None:
        self._quorums: dict[int, Quorums] = {}
        self._proposed: dict[tuple[int, int, int, int], bytes] = {}
        self._promised: dict[ReplicaId, tuple[int, int, int]] = {}

    def _quorums_of(self, configuration: Configuration) -> Quorums:
        quorums = self._quorums.get(configuration.epoch)
        if quorums is None:
            spec = FPAXOS if configuration.protocol == FPAXOS.name else PROTOCOL
            quorums = quorums_of(configuration, parse_options(spec, configuration.options))
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
            ballot = message.ballot
            if ballot.replica != replica:
                raise Violation("one value per slot and ballot", f"r{replica} proposes at ballot {ballot}, not its own")
            for offset, value in enumerate(message.values):
                slot = message.first + offset
                known = self._proposed.setdefault((ballot.epoch, ballot.round, ballot.replica, slot), value)
                if known != value:
                    raise Violation(
                        "one value per slot and ballot", f"r{replica} proposes two values in slot {slot} at {ballot}"
                    )
        elif isinstance(message, Promised | Prepare):
            ballot = message.ballot
            said = (ballot.epoch, ballot.round, ballot.replica)
            if said > self._promised.get(replica, said):
                self._promised[replica] = said
            self._promised.setdefault(replica, said)
        elif isinstance(message, Accepted | HeartbeatAck):
            ballot = message.ballot
            said = (ballot.epoch, ballot.round, ballot.replica)
            promised = self._promised.get(replica, said)
            if said < promised:
                raise Violation(
                    "promises are kept",
                    f"r{replica} says {type(message).__name__} at ballot {ballot} after it had promised "
                    f"{'.'.join(map(str, promised))}",
                )

    def decided(
        self,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """See the base."""
        require_durable(position, commands, configuration, ledgers, self._quorums_of(configuration).phase2)


class SoloWitness(Witness):
    """Of a single replica: what it delivers is durable."""

    checks = ("decided implies durable",)

    def decided(
        self,
        position: int,
        commands: tuple[Command, ...],
        configuration: Configuration,
        ledgers: Mapping[ReplicaId, Ledger],
    ) -> None:
        """See the base."""
        for command in commands:
            if not any(ledgers[replica].holds(command.payload) for replica in configuration.replicas):
                raise Violation("decided implies durable", f"position {position} is delivered and durable nowhere")


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """Negative controls: ways to break the world around a protocol, which the checks must notice.

    Each is a mistake that storage, snapshots or sessions of real systems have made; True is as it ought to be.
    """

    persistence: bool = True
    """False: after a crash a disk holds nothing of what the protocol wrote."""
    sync: bool = True
    """False: writes are reported durable before they are."""
    sessions_in_snapshots: bool = True
    """False: a snapshot leaves the sessions out."""
    same_disk: bool = True
    """False: a replica whose disk was wiped passes for the one it was."""
    gates: bool = True
    """False: a message does not wait for the ticket that it names."""
    own_completions: bool = True
    """False: when a transaction is durable, groups that came behind it are reported durable, too."""
    sync_failures_fatal: bool = True
    """False: after a failed sync the next one is believed, though the system has dropped what the first should have
    written (Rebello et al., "Can Applications Recover from fsync Failures?", 2020)."""
    sync_at_start: bool = True
    """False: a replica acts on what it reads after a crash without making it durable first."""
    corrupt_is_unknown: bool = True
    """False: a record that cannot be read passes for one that was never written (Alagappan et al., "Protocol-Aware
    Recovery for Consensus-Based Storage", 2018)."""
    batches_atomic: bool = True
    """False: of the transaction that a crash interrupts, any part may survive."""
    power_distrusts_state: bool = True
    """False: after a power cut the state is taken as it was found, though it was never synced."""
    snapshots_synced: bool = True
    """False: an anchor names a snapshot whose file and directory were not synced."""
    snapshots_compared: bool = True
    """False: a snapshot is installed whether the state has got further meanwhile or not."""
    epochs_start_empty: bool = True
    """False: the log of an epoch that has ended is left to the protocol of the next."""
    retries_recognised: bool = True
    """False: sessions remember nothing of what was executed."""
    sequences_as_set: bool = True
    """False: a session takes whatever lies below the highest executed sequence for executed."""
    last_use_replicated: bool = True
    """False: when a session was used last, which decides about eviction, is forgotten in a restart."""
