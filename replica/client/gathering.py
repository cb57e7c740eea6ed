"""When what is asked for leaves at once, and when it gathers.

To a replica a frame is a turn, and what a turn proposes is a slot and a sync; a turn's reads are a round among the
replicas. So many small frames queue behind each other where one large one would be through. A closed loop of many
callers ends up there by itself: whenever answers come at different times, those who were answered ask again in a frame
of their own, are answered apart from the others, and so on, until every frame carries next to nothing.

Operations of a kind (writes, or reads of one consistency) leave at once while

- none is unanswered: a request by itself never waits; or
- the last frame was full, so that the next one is large as well; or
- the way is long: for each `FRAME_SPACING_S` of the shortest time that an answer has taken there may be one more
  unanswered frame than one, because on the way frames are in nobody's way.

Otherwise they gather until a frame has been answered in full, or for `HOLD_S`. No kind waits for another: a scan that
takes its time holds up no write.
"""

from __future__ import annotations

from math import inf
from typing import Final

FRAME_SPACING_S: Final = 0.005
"""There may be another unanswered frame for each time so much that an answer takes at least."""

HOLD_S: Final = 0.02
"""Nothing gathers for longer than this: an answer may be late for reasons that do not concern the rest."""


class Gathering:
    """The frames of one kind of operation that wait for their answers."""

    __slots__ = ("_answer_s", "_frames", "_held_since", "full")

    def __init__(self) -> None:
        self._frames: dict[int, tuple[int, float]] = {}
        """By number: how many runs or queries of it are open, and when it left."""
        self._answer_s = inf
        """The shortest time that the answer to a frame has taken."""
        self._held_since = inf
        self.full = False
        """The last frame had no room for all that there was."""

    def holds(self, now: float) -> bool:
        """Should what is asked for gather?"""
        frames = len(self._frames)
        spaced = frames <= self._answer_s / FRAME_SPACING_S < inf
        if not frames or self.full or spaced:
            self._held_since = inf
            return False
        self._held_since = min(self._held_since, now)
        if now < self._held_since + HOLD_S:
            return True
        self._held_since = inf
        return False

    @property
    def held_until(self) -> float:
        """When what gathers leaves, answer or not; infinite when nothing does."""
        return self._held_since + HOLD_S

    def sent(self, frame: int, now: float) -> None:
        """A run or a query leaves in that frame."""
        pieces, _ = self._frames.get(frame, (0, now))
        self._frames[frame] = (pieces + 1, now)

    def closed(self, frame: int, now: float | None = None) -> None:
        """A run or query of that frame is no longer waited for; ``now``, if it was answered."""
        open_frame = self._frames.get(frame)
        if open_frame is None:
            return
        pieces, sent_at = open_frame
        if pieces > 1:
            self._frames[frame] = (pieces - 1, sent_at)
            return
        del self._frames[frame]
        if now is not None:
            self._answer_s = min(self._answer_s, now - sent_at)

    def clear(self) -> None:
        """The attachment has ended, and nothing is waited for on it; the next one may lead elsewhere."""
        self._frames.clear()
        self.full = False
        self._answer_s = self._held_since = inf
