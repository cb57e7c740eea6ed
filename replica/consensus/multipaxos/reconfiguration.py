"""The end of an epoch: deciding a seal.

The leader proposes the seal behind everything that it has taken on, and nothing behind it. A later leader that recovers
a seal proposes it again and drops what stands behind it: such values may have been accepted, even by a quorum, under an
older ballot, but delivery is in slot order and stops at the seal, so nobody ever acted upon them. Whoever delivers up
to the seal reports it and falls silent; the driver snapshots, and starts the next epoch. A replica that misses the news
learns from its peers' epoch that it must fetch that snapshot.
"""

from __future__ import annotations

from replica.consensus.interface import Reason, Reconfigure, RejectRead, ReplicaId

from .replication import Replication
from .state import Core, Role


class Reconfiguration:
    """Requests to end the epoch."""

    def __init__(self, core: Core, replication: Replication) -> None:
        self._core = core
        self._replication = replication

    def on_reconfigure(self, event: Reconfigure, *, accepting: bool, hint: ReplicaId | None) -> None:
        """Decide a seal, or refuse; `Sealed` is the answer when it is decided."""
        core = self._core
        refuse = core.effects.refused_reads.append
        if event.configuration.epoch != core.epoch + 1:
            refuse(RejectRead(event.token, Reason.UNSUPPORTED))
        elif not accepting or core.role is not Role.LEADING:
            refuse(RejectRead(event.token, Reason.NOT_LEADER, hint=hint))
        elif self._replication.sealing:
            refuse(RejectRead(event.token, Reason.SEALED, hint=hint))
        else:
            self._replication.on_reconfigure(event.token, event.configuration)
