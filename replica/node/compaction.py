"""Compaction without anybody asking for it: whoever leads proposes it, now and then.

Which revisions are given up is decided through the log, like everything else that changes the state: all replicas
forget the same ones at the same position, whatever their clocks and settings say. Only what is proposed depends on
them, and on the leader's alone. Each replica notes now and then which revision it stands at, so that one that comes to
lead knows how old revisions are; a replica that was started just now knows of none, and gives nothing up by age before
it has been up for as long as is to be kept.

A proposal that is lost or refused is not made again: the next look makes up for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["Compactor"]


class Policy(Protocol):
    """What is to be kept (`replica.node.config.CompactionPolicy` satisfies it)."""

    @property
    def keep_revisions(self) -> int: ...

    @property
    def keep_s(self) -> float: ...

    @property
    def every_s(self) -> float: ...


class Compactor:
    """Proposes compactions by a policy that keeps something. Not thread-safe."""

    def __init__(
        self,
        policy: Policy,
        *,
        clock: Callable[[], float],
        standing: Callable[[], tuple[int, int]],
        leads: Callable[[], bool],
        propose: Callable[[int], None],
    ) -> None:
        """``standing`` gives the present revision and the oldest that can be read; ``propose`` has a compaction at a
        revision decided, or not.
        """
        self._policy = policy
        self._clock = clock
        self._standing = standing
        self._leads = leads
        self._propose = propose
        self._seen: deque[tuple[float, int]] = deque()
        """When the replica stood at which revision, oldest first."""

    def look(self) -> None:
        """To be called every ``every_s``."""
        revision, compacted = self._standing()
        now = self._clock()
        if self._policy.keep_s:
            self._seen.append((now, revision))
            # The first is the newest that is old enough, once there is one that is.
            while len(self._seen) > 1 and self._seen[1][0] <= now - self._policy.keep_s:
                self._seen.popleft()
        target = self._target(now, revision)
        if target > compacted and self._leads():
            self._propose(target)

    def _target(self, now: float, revision: int) -> int:
        """The oldest revision that must remain readable; what either of the bounds keeps is kept. 0: all of them."""
        target = revision
        if self._policy.keep_revisions:
            target = min(target, revision - self._policy.keep_revisions)
        if self._policy.keep_s:
            noted, then = self._seen[0]
            target = min(target, then if noted <= now - self._policy.keep_s else 0)
        return max(target, 0)
