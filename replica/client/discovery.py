"""Which replica to try next, and when.

A hint ("the leader is there") is followed at once. Without one the endpoints are tried in turn; the first round does
not wait, later ones wait longer and longer, with jitter so that clients that lost the same replica do not return in
step. A round ends when an operation was answered. Hints that lead nowhere are bounded: replicas that point at each
other count as replicas that know nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

BACKOFF_FIRST_S: Final = 0.02
BACKOFF_MAX_S: Final = 1.0
HINTS_IN_A_ROW_MAX: Final = 4
"""So many hints are followed without an answer in between."""


class Randomness(Protocol):
    """What is needed of `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Discovery:
    """The endpoints of a cluster and what was learned of them. Pure: no clock, no I/O."""

    def __init__(self, endpoints: Sequence[str], randomness: Randomness) -> None:
        assert endpoints, "a port names at least one endpoint"
        self._randomness = randomness
        self._given = list(endpoints)
        self._known = list(endpoints)
        self._position = -1
        self._hint = ""
        self._hints_in_a_row = 0
        self._attempts = 0
        self._troubles: dict[str, str] = {}

    @property
    def known(self) -> Sequence[str]:
        """All endpoints, those given first."""
        return tuple(self._known)

    def next(self) -> tuple[str, float]:
        """The endpoint to try, and how many seconds to wait before."""
        if self._hint:
            endpoint, self._hint = self._hint, ""
            if endpoint in self._known:
                self._position = self._known.index(endpoint)
            return endpoint, 0.0
        delay = self._delay()
        self._attempts += 1
        self._position = (self._position + 1) % len(self._known)
        return self._known[self._position], delay

    def hint(self, endpoint: str) -> None:
        """A replica says to turn to ``endpoint`` (empty: it does not know where)."""
        self._hints_in_a_row += 1
        if endpoint and self._hints_in_a_row <= HINTS_IN_A_ROW_MAX:
            self._hint = endpoint

    def stay(self) -> None:
        """Try the endpoint that was tried last once more, before the others."""
        if self._position >= 0:
            self._hint = self._known[self._position]

    def learned(self, endpoints: Iterable[str]) -> None:
        """The cluster says that these are its endpoints. What was given at first stays known: it may be a name in
        front of all of them."""
        self._known = list(dict.fromkeys([*self._given, *(endpoint for endpoint in endpoints if endpoint)]))
        self._position = min(self._position, len(self._known) - 1)

    def failed(self, endpoint: str, reason: str) -> None:
        """Trying ``endpoint`` came to nothing; ``reason`` is for people."""
        self._troubles.pop(endpoint, None)
        self._troubles[endpoint] = reason

    def progress(self) -> None:
        """An operation was answered: what went wrong before counts no more."""
        self._attempts = 0
        self._hints_in_a_row = 0
        self._troubles.clear()

    def account(self) -> str:
        """What is wrong, endpoint by endpoint, in a line."""
        if not self._troubles:
            return f"no answer from {', '.join(self._known)}"
        return "; ".join(self._troubles.values())

    def _delay(self) -> float:
        rounds = self._attempts // len(self._known)
        if rounds == 0:
            return 0.0
        ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(rounds - 1, 16))
        return self._randomness.uniform(ceiling / 2, ceiling)
