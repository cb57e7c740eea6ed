"""What a link does to messages on purpose: delay, jitter, loss, a rate, a block.

Three layers, the lower two pure: `Shaper` decides when a message arrives or that it never does; `DelayLine` holds what
is under way; `Pump` drives a line with a clock and timers given to it. Nothing here knows of streams or replicas, so
that the same three shape whatever goes from one place to another: replica to replica, client to replica.

The model is a first-in-first-out line like a TCP connection over a shaped network: a message leaves once the ones
before it have been sent at ``rate_bytes_s``, travels for ``delay_s`` with a jitter that is either *uniform* (plus or
minus up to ``jitter_s``) or *normal* (``jitter_s`` is the standard deviation), and never overtakes. What overtakes on
the network arrives, in a stream, together with what it overtook. A lost message is lost for good: messages are what
protocols retransmit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from .bounds import LINE_BYTES_MAX, LINE_MESSAGES_MAX

Item = TypeVar("Item")


class LinkFault(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to messages in one direction. The default does nothing."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    jitter_shape: Literal["uniform", "normal"] = "uniform"
    loss: float = 0.0
    """Probability, 0 to 1."""
    blocked: bool = False
    rate_bytes_s: float = 0.0
    """0: no limit."""

    def __post_init__(self) -> None:
        for name in ("delay_s", "jitter_s", "rate_bytes_s"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss: expected a probability from 0 to 1, got {self.loss}")
        if self.jitter_shape not in {"uniform", "normal"}:
            raise ValueError(f"jitter_shape: expected uniform or normal, got {self.jitter_shape!r}")

    @property
    def harmless(self) -> bool:
        """Nothing at all is done to a message."""
        return not (self.delay_s or self.jitter_s or self.loss or self.blocked or self.rate_bytes_s)

    def combined(self, other: LinkFault) -> LinkFault:
        """Both, one behind the other: a fault on top of a shaped topology."""
        rates = [rate for rate in (self.rate_bytes_s, other.rate_bytes_s) if rate > 0]
        return LinkFault(
            delay_s=self.delay_s + other.delay_s,
            jitter_s=self.jitter_s + other.jitter_s,
            jitter_shape=(self if self.jitter_s >= other.jitter_s else other).jitter_shape,
            loss=1 - (1 - self.loss) * (1 - other.loss),
            blocked=self.blocked or other.blocked,
            rate_bytes_s=min(rates, default=0.0),
        )


NO_FAULT = LinkFault()


class Randomness(Protocol):
    """The seeded source that is injected; `random.Random` is one."""

    def random(self) -> float: ...


class Shaper:
    """Decides when a message arrives. Pure: time is what it is told, chance is what it was given."""

    def __init__(self, fault: LinkFault, randomness: Randomness) -> None:
        self.fault = fault
        self._randomness = randomness
        self._line_free = -math.inf
        self._last_arrival = -math.inf

    def arrival(self, now: float, size_bytes: int) -> float | None:
        """When a message handed over at ``now`` arrives, never before an earlier one; None when it is lost."""
        fault = self.fault
        if fault.blocked or (fault.loss and self._randomness.random() < fault.loss):
            return None
        departure = now
        if fault.rate_bytes_s:
            # A new fault keeps what the line has already taken on, hence the maximum.
            departure = max(now, self._line_free) + size_bytes / fault.rate_bytes_s
            self._line_free = departure
        arrival = departure + fault.delay_s
        if fault.jitter_s:
            arrival += fault.jitter_s * self._deviation(fault)
        arrival = max(arrival, now, self._last_arrival)
        self._last_arrival = arrival
        return arrival

    def _deviation(self, fault: LinkFault) -> float:
        draw = self._randomness.random
        if fault.jitter_shape == "uniform":
            return 2 * draw() - 1
        # Box and Muller, 1958; 1 - draw() is never 0.
        return math.sqrt(-2 * math.log(1 - draw())) * math.cos(2 * math.pi * draw())


class DelayLine(Generic[Item]):
    """What is under way, in order of arrival. Pure, and bounded: what does not fit is lost."""

    def __init__(self, shaper: Shaper, *, items_max: int = LINE_MESSAGES_MAX, bytes_max: int = LINE_BYTES_MAX) -> None:
        self.shaper = shaper
        self.lost = 0
        self.overflowed = 0
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._items: deque[tuple[float, int, Item]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def push(self, now: float, size_bytes: int, item: Item) -> bool:
        """Send ``item`` on its way. False when it was lost."""
        if len(self._items) >= self._items_max or self._bytes + size_bytes > self._bytes_max:
            self.overflowed += 1
            return False
        arrival = self.shaper.arrival(now, size_bytes)
        if arrival is None:
            self.lost += 1
            return False
        self._items.append((arrival, size_bytes, item))
        self._bytes += size_bytes
        return True

    def due(self, now: float) -> list[Item]:
        """Take out what has arrived by ``now``, in order."""
        items: list[Item] = []
        while self._items and self._items[0][0] <= now:
            _, size_bytes, item = self._items.popleft()
            self._bytes -= size_bytes
            items.append(item)
        return items

    def next_arrival(self) -> float | None:
        """When the next item arrives; None when nothing is under way."""
        return self._items[0][0] if self._items else None

    def clear(self) -> int:
        """Lose everything under way, and say how much that was."""
        lost = len(self._items)
        self._items.clear()
        self._bytes = 0
        self.lost += lost
        return lost


class Cancellable(Protocol):
    """A timer that can be called off; `asyncio.TimerHandle` is one."""

    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Cancellable]
"""Calls back after so many seconds, as an event loop's ``call_later`` does."""


class Pump(Generic[Item]):
    """Delivers what a line holds when its time has come, by a clock and timers given to it.

    ``deliver`` gets the items that have become due together, in order. Runs on one thread, that of the timers.
    """

    TIMER_SLACK_S = 0.0005
    """Event loops round timers to a millisecond: what is due within half of one is delivered rather than waited for.
    Finer timers (`replica.transport.timers`) need less."""

    def __init__(
        self,
        shaper: Shaper,
        deliver: Callable[[Iterable[Item]], None],
        *,
        clock: Callable[[], float],
        call_later: CallLater,
        slack_s: float = TIMER_SLACK_S,
    ) -> None:
        self._slack_s = slack_s
        self.line: DelayLine[Item] = DelayLine(shaper)
        self._deliver = deliver
        self._clock = clock
        self._call_later = call_later
        self._timer: Cancellable | None = None

    def push(self, size_bytes: int, item: Item) -> bool:
        """Send ``item`` on its way; False when it was lost. Never delivers before it returns."""
        taken = self.line.push(self._clock(), size_bytes, item)
        if taken and self._timer is None:
            self._arm()
        return taken

    def close(self) -> int:
        """Stop, losing what is under way; says how much that was."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self.line.clear()

    def _arm(self) -> None:
        arrival = self.line.next_arrival()
        if arrival is not None:
            self._timer = self._call_later(max(0.0, arrival - self._clock()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        due = self.line.due(self._clock() + self._slack_s)
        self._arm()
        if due:
            self._deliver(due)
