"""The timers of key leases: kept by whoever leads, outside the replicated state.

The state machine knows that a lease lives for so long, and which of its renewals was the last; it knows no clock. Each
replica notes when it applied the last grant or renewal of a lease, by its own clock. When the time of one has run out
at the leader, it proposes a revocation that names the renewal that it saw: whoever renews before the proposal is
decided keeps the lease, whatever the leader's clock says. So errors of clocks and leaders make a lease end early or
late, never differently on two replicas, and they err on the side of late:

- A replica that comes to lead grants every lease its full time: it cannot know which keep-alives the one before it
  received.
- A replica that was not run for a while (stopped, swapped out) lets every lease live as much longer: keep-alives may
  have been waiting for it as it has for the processor. So does a leader that could take on no proposals for a while:
  keep-alives were refused, too. But it does not begin anew, or leases would live for as long as it has too much to do.

A proposal may be lost or refused. It is made again after `RETRY_S`, as long as the lease is there and was not renewed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import msgspec

from replica.kv.leases import Leases
from replica.kv.operations import AnyResult, LeaseDescribed, LeasesListed, RevokeLease

__all__ = ["TICK_S", "Expiry"]

TICK_S: Final = 0.1
"""How often it is looked whether a lease has run out, while there are leases."""

LATE_S: Final = 1.0
"""A look that comes later than this after the last one says that the replica was not run meanwhile."""

RETRY_S: Final = 2.0
"""How long a proposal to end a lease has before it is made again."""

PROPOSED_MAX: Final = 256
"""Leases whose end is proposed at one look; the others wait for the next."""

SLACK: Final = 64
"""So many timers may be void, beside one for each lease, before they are cleared away."""


class Expiry:
    """The timers of one replica. Not thread-safe."""

    def __init__(
        self,
        leases: Callable[[], Leases],
        *,
        clock: Callable[[], float],
        term: Callable[[], str],
        propose: Callable[[list[RevokeLease]], None],
    ) -> None:
        """``leases`` gives the present table; ``term`` names what this replica leads by (its ballot, which nobody leads
        by again), or is empty while it does not, or can propose nothing; ``propose`` has revocations decided, or not.
        """
        self._leases = leases
        self._clock = clock
        self._term_of = term
        self._propose = propose
        self._term = ""
        """What this replica led by last."""
        self._unable_since: float | None = None
        """Since when it has not led, or could propose nothing."""
        self._deadlines: dict[int, float] = {}
        self._timers: list[tuple[float, int]] = []
        self._looked = clock()

    @property
    def needed(self) -> bool:
        """Are there leases?"""
        return bool(self._timers) or len(self._leases()) > 0

    def observe(self) -> None:
        """Leases were granted or renewed: their time begins now."""
        leases = self._leases()
        now = self._clock()
        for lease in leases.touched:
            self._begin(lease, now + leases.known(lease).ttl_ms / 1000)
        leases.touched.clear()
        if len(self._timers) > 2 * len(leases) + SLACK:
            self._rebuild(leases)

    def _begin(self, lease: int, deadline: float) -> None:
        known = self._deadlines.get(lease)
        self._deadlines[lease] = deadline
        # A timer that fires too early looks again; only one that would fire too late needs another beside it.
        if known is None or deadline < known:
            heapq.heappush(self._timers, (deadline, lease))

    def _rebuild(self, leases: Leases) -> None:
        self._deadlines = {lease: deadline for lease, deadline in self._deadlines.items() if lease in leases}
        self._timers = [(deadline, lease) for lease, deadline in self._deadlines.items()]
        heapq.heapify(self._timers)

    def tick(self) -> None:
        """Look whether a lease has run out. To be called every `TICK_S` while there are leases."""
        leases = self._leases()
        self.observe()
        now = self._clock()
        looked, self._looked = self._looked, now
        term = self._term_of()
        if not term:
            if self._unable_since is None:
                self._unable_since = looked
            return
        unable_since, self._unable_since = self._unable_since, None
        if term != self._term:
            self._term = term
            for lease in self._deadlines:
                if lease in leases:
                    self._deadlines[lease] = now + leases.known(lease).ttl_ms / 1000
            self._rebuild(leases)
        elif unable_since is not None or now - looked > LATE_S:
            absent = now - (looked if unable_since is None else unable_since)
            self._deadlines = {lease: deadline + absent for lease, deadline in self._deadlines.items()}
            self._rebuild(leases)
        self._expire(leases, now)

    def idle(self) -> None:
        """There was nothing to look at: the time until the next look says nothing."""
        self._looked = self._clock()

    def _expire(self, leases: Leases, now: float) -> None:
        ended: list[RevokeLease] = []
        while self._timers and self._timers[0][0] <= now and len(ended) < PROPOSED_MAX:
            _, lease = heapq.heappop(self._timers)
            known = leases.get(lease)
            if known is None:
                self._deadlines.pop(lease, None)
                continue
            deadline = self._deadlines[lease]
            if deadline > now:
                heapq.heappush(self._timers, (deadline, lease))
                continue
            ended.append(RevokeLease(lease, known.renewal))
            heapq.heappush(self._timers, (now + RETRY_S, lease))
        if ended:
            self._propose(ended)

    # -------------------------------------------------------------------------------------------------------- reading

    def annotate(self, result: AnyResult) -> AnyResult:
        """Add to what is told of leases how much of their time is left, as this replica sees it."""
        match result:
            case LeaseDescribed():
                return self._annotated(result)
            case LeasesListed():
                return msgspec.structs.replace(result, leases=tuple(map(self._annotated, result.leases)))
            case _:
                return result

    def _annotated(self, described: LeaseDescribed) -> LeaseDescribed:
        deadline = self._deadlines.get(described.lease)
        if deadline is None:
            return described
        remaining_ms = max(0, round((deadline - self._clock()) * 1000))
        return msgspec.structs.replace(described, remaining_ms=remaining_ms)
