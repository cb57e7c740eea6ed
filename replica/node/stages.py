"""Where a command's time goes at the replica that serves it, by following one command at a time.

A command that is followed is stamped where it passes anyway: when it comes in, when a turn takes it up, when that turn
has stepped the protocol, when the turn's group is durable here, when the command is delivered, when its answer is with
its client's stream. The stages are

- *queue*: in the inbox, until a turn takes it up;
- *batch*: with the rest of its turn, until the protocol has been stepped;
- *sync*: from there until the own disk holds it (beside the rest of *decide*, not before it);
- *decide*: from there until it is delivered: frames, the others' disks, their answers, and the own sync beside them;
- *apply*: until the turn's answers are with their streams;
- *total*: all of it.

What of *decide* is network and what is waiting for others is told apart by whoever knows the round trips of the links.

While nobody is followed every `SKIPPED_MAX`-th or earlier command is picked up, by a fixed sequence, lest the first of
every batch be the only one ever seen. Following costs a comparison a command and a few clock readings a turn.
"""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import Command

from .distributions import Distribution

__all__ = ["STAGES", "Stages"]

STAGES: Final = ("queue", "batch", "sync", "decide", "apply", "total")

SKIPPED_MAX: Final = 13
"""At most so many commands pass before the next one is followed."""

_STRIDE: Final = 5
"""Coprime to `SKIPPED_MAX`, so that every number of skipped commands has its turn."""

GIVEN_UP_S: Final = 10.0
"""A command that was not delivered after so long was lost with its leader; the next one is followed."""

_SECONDS: Final = tuple(round(base * 10.0**power, 9) for power in range(-5, 1) for base in (1.0, 1.8, 3.2, 5.6))


class Stages:
    """Follows commands of sessions. Told by the loop; every time is one of `time.perf_counter`."""

    __slots__ = (
        "_arrived",
        "_durable",
        "_skip",
        "_skipped",
        "_stepped",
        "_taken",
        "command",
        "distributions",
        "group",
        "sequence",
        "session",
        "waiting",
    )

    def __init__(self) -> None:
        self.distributions = {name: Distribution(_SECONDS) for name in STAGES}
        self.command: Command | None = None
        """Who is followed."""
        self.session = 0
        self.sequence = -1
        """Of the command that is followed; -1, which no command has, while none is."""
        self.waiting = False
        """It is in the inbox still."""
        self.group = 0
        """The group whose durability is awaited; 0: none."""
        self._skip = 0
        self._skipped = 0
        self._arrived = self._taken = self._stepped = self._durable = 0.0

    def passes(self) -> bool:
        """Nobody is followed and a command comes in: is it let go?"""
        if self._skipped < self._skip:
            self._skipped += 1
            return True
        return False

    def follow(self, command: Command, now: float) -> None:
        """Follow this one."""
        self._skipped = 0
        self._skip = (self._skip + _STRIDE) % SKIPPED_MAX
        self.command = command
        self.session = command.session
        self.sequence = command.sequence
        self.waiting = True
        self._arrived = now
        self._taken = self._stepped = self._durable = 0.0

    def stepped(self, taken: float, now: float, group: int) -> None:
        """The turn that began at ``taken`` took it up and has stepped the protocol; its writes are ``group``."""
        self.waiting = False
        self.group = group
        self._taken = taken
        self._stepped = now

    def durable(self, now: float) -> None:
        """The own disk holds its turn's writes."""
        self.group = 0
        self._durable = now

    def answered(self, delivered: float, now: float) -> None:
        """It was delivered in a pass that began at ``delivered``, and is answered."""
        if self._stepped:
            observe = self.distributions
            observe["queue"].observe(self._taken - self._arrived)
            observe["batch"].observe(self._stepped - self._taken)
            if self._durable:
                observe["sync"].observe(self._durable - self._stepped)
            observe["decide"].observe(max(0.0, delivered - self._stepped))
            observe["apply"].observe(now - delivered)
            observe["total"].observe(now - self._arrived)
        self.lose()

    def expire(self, now: float) -> None:
        """Give up one that was followed for too long."""
        if now - self._arrived > GIVEN_UP_S:
            self.lose()

    def lose(self) -> None:
        """Follow nobody: it was refused, or will not be answered here."""
        self.command = None
        self.sequence = -1
        self.waiting = False
        self.group = 0
