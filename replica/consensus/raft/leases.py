"""Leases: a leader that may answer reads by itself for a while. Off unless asked for; the one thing here that rests on
clocks.

A follower that answers a heartbeat which asks for a lease promises, for ``lease_s`` from the moment in which it answers
and on its own clock, to vote for nobody else and not to campaign. A leader that holds the answers of replicas which
meet every majority can't be replaced before the first of these promises ends. It counts from the moment in which it
*sent* the heartbeat, which lies before every answer, and takes off what two clocks may differ by in measuring an
interval (``lease_drift``, declared). So its lease ends, on any clock, before any promise does.

- Whether the lease holds is judged by ``now`` with each read, never by the arrival of a timer: after a pause of the
  process, what was queued meanwhile must not be served by a lease that has run out.
- A replica that restarts has forgotten what it promised, so it keeps quiet for a full lease.
- A leader that hands over steps down before it tells its successor, which names the term that was given up when it asks
  for votes: promises given in that term bind nobody any more.
- Like every read, one by lease waits for a commit of the leader's own term.
"""

from __future__ import annotations

from replica.consensus.rounds import ReadRounds

from .state import Core

LEASE_TIMER = "lease"


class Lease:
    """The leader's side."""

    def __init__(self, core: Core, rounds: ReadRounds) -> None:
        self._core = core
        self._rounds = rounds
        self._sent: dict[int, float] = {}
        """When each heartbeat left that has not been answered by enough replicas, by its round."""
        self._until = 0.0
        self._timed = False
        """What a leader believes that goes by the timer; only a planted bug looks at it."""

    def begin(self) -> None:
        """A leadership begins, without a lease."""
        self._sent = {}
        self._until = 0.0
        self._timed = False

    def sent(self, round_: int) -> None:
        """A heartbeat that asks for a lease leaves now."""
        if self._core.options.lease_s:
            self._sent[round_] = self._core.now

    def renew(self) -> None:
        """Answers may have come."""
        core, options = self._core, self._core.options
        if not self._sent:
            return
        confirmed = self._rounds.confirmed(core.quorums.meets_every_phase1)
        at = self._sent.get(confirmed)
        if at is None:
            return
        self._sent = {round_: sent for round_, sent in self._sent.items() if round_ > confirmed}
        self._until = max(self._until, at + options.lease_s * (1.0 - options.lease_drift))
        if "stale lease read after a pause" in core.bugs:
            self._timed = True
            core.timer(LEASE_TIMER, self._until)

    @property
    def holds(self) -> bool:
        """May reads be answered from the own state now?"""
        if "stale lease read after a pause" in self._core.bugs:
            return self._timed
        return self._core.leads and self._core.now < self._until

    def on_timer(self) -> None:
        """Somebody has set the timer."""
        self._timed = False


class Grants:
    """The follower's side: what it has promised."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.until = 0.0
        """Until then this replica votes for nobody but the leader that it promised it to, and does not campaign."""
        self._term = 0

    def restart(self) -> None:
        """A replica that has voted or followed before starts: who knows what it had promised."""
        core = self._core
        if core.options.lease_s and core.term:
            self.until = core.now + core.options.lease_s
            self._term = 0

    def grant(self, term: int) -> None:
        """Promise the vote to the leader of ``term``."""
        self.until = max(self.until, self._core.now + self._core.options.lease_s)
        self._term = term

    def binds(self, released: int) -> bool:
        """Does a promise stand in the way of a campaign, which the leader of term ``released`` asked for?"""
        return self._core.now < self.until and not (released and released == self._term)
