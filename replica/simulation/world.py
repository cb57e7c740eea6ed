"""Virtual time: a queue of things to come, seeded randomness, and a trace of what happened.

Nothing in a world runs at the same time as anything else, and nothing depends on the machine it runs on: what is
scheduled for the same instant happens in the order in which it was scheduled, every subsystem draws from a generator of
its own (so that a fault taken away does not change the dice of the rest), and generators are seeded by text, which
Python hashes with SHA-512 whatever ``PYTHONHASHSEED`` says.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

EVENTS_MAX: Final = 5_000_000
"""Events after which a world is taken to run in circles. A run of the standard profile takes some ten thousand."""

_DIGEST_BATCH: Final = 512
"""Entries that are gathered before they go into the digest together."""


class RunawayWorld(Exception):
    """More than `EVENTS_MAX` events happened: some component reschedules itself without end."""


class Trace:
    """What happened, as a digest always and as readable lines on demand.

    Two runs are the same when their digests are: every entry carries its virtual time, what it was, whom it concerned,
    and the bytes that moved. Lines cost memory and time, so they are kept only when ``readable``.
    """

    def __init__(self, *, readable: bool = False) -> None:
        self.readable = readable
        self.lines: list[str] = []
        self.entries = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._batch: list[bytes] = []

    def note(self, now: float, kind: str, who: int, data: bytes = b"") -> None:
        """Enter something into the digest."""
        self.entries += 1
        batch = self._batch
        batch.append(b"%.9f %s %d %d " % (now, kind.encode(), who, len(data)))
        batch.append(data)
        if len(batch) >= _DIGEST_BATCH:
            self._hash.update(b"".join(batch))
            batch.clear()

    def say(self, now: float, who: str, text: str) -> None:
        """Keep a line for people. Callers ask ``readable`` first where the text is costly to build."""
        if self.readable:
            self.lines.append(f"{now:12.6f}  {who:<4} {text}")

    def digest(self) -> str:
        """The digest over all entries so far, in hexadecimal."""
        self._hash.update(b"".join(self._batch))
        self._batch.clear()
        return self._hash.hexdigest()


class World:
    """The queue of events, in seconds of virtual time from 0."""

    def __init__(self, seed: int, *, readable: bool = False) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.trace = Trace(readable=readable)
        self.counters: dict[str, int] = {}
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._stopped = False

    def generator(self, name: str) -> random.Random:
        """A generator for the subsystem of that name, a function of the seed and the name alone."""
        return random.Random(f"{self.seed}/{name}")

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter of what was covered."""
        self.counters[what] = self.counters.get(what, 0) + by

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do ``action(*arguments)`` at ``time``, or now if that has passed."""
        self._scheduled += 1
        heappush(self._queue, (max(time, self.now), self._scheduled, action, arguments))

    def after(self, delay: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do ``action(*arguments)`` once ``delay`` seconds have passed."""
        self._scheduled += 1
        heappush(self._queue, (self.now + delay, self._scheduled, action, arguments))

    def run(self, until: float) -> None:
        """Let time pass up to and including ``until``, or until `stop` is called. Raises `RunawayWorld`."""
        queue = self._queue
        self._stopped = False
        while queue and not self._stopped and queue[0][0] <= until:
            self.now, _, action, arguments = heappop(queue)
            self.events += 1
            if self.events > EVENTS_MAX:
                raise RunawayWorld(f"more than {EVENTS_MAX} events by {self.now:.3f} s of virtual time")
            action(*arguments)
        if not self._stopped and self.now < until:
            self.now = until

    def stop(self) -> None:
        """End the present `run` after the event that calls this."""
        self._stopped = True
