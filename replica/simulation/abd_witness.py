"""What ABD's own messages give away."""

from __future__ import annotations

from replica.consensus.abd.messages import Stamp, Store
from replica.consensus.interface import ReplicaId, Send
from replica.simulation.violation import Violation
from replica.simulation.witness import Witness


class AbdWitness(Witness):
    """Of ABD: a stamp names one record for ever, whoever stores it."""

    checks = ("one record per stamp",)

    def __init__(self) -> None:
        self._records: dict[tuple[bytes, Stamp], bytes] = {}

    def sent(self, replica: ReplicaId, send: Send, epoch: int) -> None:
        """See the base."""
        if isinstance(send.message, Store):
            for kept in send.message.kept:
                known = self._records.setdefault((kept.key, kept.stamp), kept.record)
                if known != kept.record:
                    raise Violation(
                        "one record per stamp", f"r{replica} stores another record under {kept.stamp} of {kept.key!r}"
                    )
