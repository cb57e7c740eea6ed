"""What the concerns of one replica share, beside what every protocol's turn has.

A turn speaks of many objects. What it has to say to the same replicas is gathered and leaves together when the turn
ends, cut by bytes and by number. Whatever a peer may count on (a promise, a vote) waits for everything that the turn
has written; proposals and news of decisions count on nothing of this replica's disk and leave at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from replica.consensus.ballots import no_ballot
from replica.consensus.interface import NO_TICKET, Context, Effects, Message, ReplicaId, Send
from replica.consensus.quorums import Quorums
from replica.consensus.turn import TurnState

from .messages import (
    Accept,
    Accepted,
    Decided,
    Fetch,
    Forward,
    Handed,
    Offer,
    Prepare,
    Promised,
    Redirect,
    Refused,
    Relay,
)
from .options import WPaxosOptions

TICK_TIMER: Final = "tick"

ITEMS_MAX: Final = 1024
"""Items in one message."""

GATED: Final = (Prepare, Promised, Accepted, Refused, Redirect, Offer)
"""Messages that tell of something that the sender must not forget."""

LAST: Final[dict[type[Message], int]] = {Promised: 1, Prepare: 2}
"""What goes out behind everything else."""

Kind: TypeAlias = type[
    Prepare | Promised | Accept | Accepted | Refused | Decided | Forward | Redirect | Offer | Fetch | Handed | Relay
]


class Core(TurnState):
    """Shared state. The concerns read it freely; the methods are the only way to write, send or set a timer."""

    def __init__(
        self,
        context: Context,
        options: WPaxosOptions,
        quorums: Quorums,
        zones: dict[ReplicaId, str],
        bugs: frozenset[str],
    ) -> None:
        super().__init__(context)
        self.options = options
        self.quorums = quorums
        self.zones = zones
        self.zone = zones[context.replica]
        self.rank = context.configuration.replicas.index(context.replica)
        self.bugs = bugs
        self.unowned = no_ballot(self.epoch)
        """The ballot of an object that nobody has claimed."""
        self.counters: Counter[str] = Counter()
        """What happened how often since the start."""
        self._outbox: dict[tuple[tuple[ReplicaId, ...], Kind], list[tuple[Any, int]]] = {}

    def post(self, to: ReplicaId, kind: Kind, item: Any, size: int = 0) -> None:
        """Have ``item``, which carries ``size`` bytes of values, said to one other member."""
        self._outbox.setdefault(((to,), kind), []).append((item, size))

    def post_all(self, kind: Kind, item: Any, size: int = 0) -> None:
        """The same to every other member."""
        if self.others:
            self._outbox.setdefault((self.others, kind), []).append((item, size))

    def post_some(self, to: tuple[ReplicaId, ...], kind: Kind, item: Any, size: int = 0) -> None:
        """The same to these other members, if any."""
        if to:
            self._outbox.setdefault((to, kind), []).append((item, size))

    def finish(self) -> Effects:
        """The turn ends: what it asks for."""
        outbox, self._outbox = self._outbox, {}
        # A vote that was given before a promise of the same turn goes out before it.
        for (to, kind), items in sorted(outbox.items(), key=lambda group: LAST.get(group[0][1], 0)):
            after = self.written if kind in GATED else NO_TICKET
            if "vote before its sync" in self.bugs and kind is Accepted:
                after = NO_TICKET
            build: Callable[[Any], Message] = kind
            chunk: list[Any] = []
            total = 0
            for item, size in items:
                if chunk and (total + size > self.options.chunk_bytes_max or len(chunk) >= ITEMS_MAX):
                    self.effects.sends.append(Send(to, build(tuple(chunk)), after))
                    chunk, total = [], 0
                chunk.append(item)
                total += size
            self.effects.sends.append(Send(to, build(tuple(chunk)), after))
        return super().finish()
