"""The end of an epoch: deciding a seal.

The leader appends the seal behind everything that it has taken on, and no command behind it. A later leader that
inherits a seal opens its term behind it, which commits the seal, and takes no commands either. Delivery is in order and
stops at the seal, so nobody ever acts upon what stands behind. Whoever delivers up to the seal reports it and falls
silent; the driver snapshots, and starts the next epoch. A replica that misses the news learns from its peers' epoch
that it must fetch that snapshot.
"""

from __future__ import annotations

from replica.consensus.interface import Reason, Reconfigure, RejectRead, ReplicaId

from .replication import Replication
from .state import Core


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
        elif not accepting:
            refuse(RejectRead(event.token, Reason.NOT_LEADER, hint=hint))
        elif self._replication.sealing:
            refuse(RejectRead(event.token, Reason.SEALED, hint=hint))
        else:
            self._replication.on_reconfigure(event.token, event.configuration)
