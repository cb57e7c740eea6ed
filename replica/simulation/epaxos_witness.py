"""What EPaxos' own messages give away."""

from __future__ import annotations

from typing import TypeAlias

from replica.consensus.epaxos.interference import Touch, touch_of
from replica.consensus.epaxos.messages import Accept, Commit, Dependencies, InstanceId, PreAccept
from replica.consensus.interface import ReplicaId, Send
from replica.consensus.values import Batch, decode_value
from replica.simulation.violation import Violation
from replica.simulation.witness import Witness

Decision: TypeAlias = tuple[bool, Dependencies]
"""Is it nothing at all, and what does it depend on?"""


class EPaxosWitness(Witness):
    """Of EPaxos: an instance has one value and one decision, and of two decided ones that interfere one depends on the
    other. The last shows at once, where the states of replicas would differ only after a restart.
    """

    checks = ("one value per instance", "one decision per instance", "interference is seen")

    def __init__(self) -> None:
        self._values: dict[InstanceId, bytes] = {}
        self._decisions: dict[InstanceId, Decision] = {}
        self._touches: dict[InstanceId, Touch] = {}

    def sent(self, replica: ReplicaId, send: Send, epoch: int) -> None:
        """See the base."""
        message = send.message
        if isinstance(message, PreAccept | Accept | Commit) and message.value:
            name = (message.space, message.number)
            if self._values.setdefault(name, message.value) != message.value:
                raise Violation("one value per instance", f"r{replica} speaks of another value for {_named(name)}")
        if isinstance(message, Commit):
            self._decided(replica, message)

    def _decided(self, replica: ReplicaId, message: Commit) -> None:
        name = (message.space, message.number)
        decision = (message.noop, message.dependencies)
        known = self._decisions.setdefault(name, decision)
        if known != decision:
            raise Violation("one decision per instance", f"r{replica} has {decision} for {_named(name)}, not {known}")
        if message.noop or name in self._touches or name not in self._values:
            return
        content = decode_value(self._values[name])
        assert isinstance(content, Batch), "the value of an instance is a batch"
        touch = touch_of(content.commands)
        for other, other_touch in self._touches.items():
            seen = self._covers(name, other) or self._covers(other, name)
            if not seen and touch.interferes(other_touch):
                raise Violation(
                    "interference is seen", f"{_named(name)} and {_named(other)} interfere, and neither sees the other"
                )
        self._touches[name] = touch

    def _covers(self, name: InstanceId, other: InstanceId) -> bool:
        dependencies = self._decisions[name][1]
        return dependencies[other[0] - 1] >= other[1]


def _named(name: InstanceId) -> str:
    return f"{name[0]}.{name[1]}"
