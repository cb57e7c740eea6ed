"""Shaping a link, with a clock that the test moves."""

import random
import statistics
from collections.abc import Callable

import pytest

from replica.transport.faults import NO_FAULT, DelayLine, LinkFault, Pump, Shaper


class Chance:
    """Randomness that was decided beforehand."""

    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def random(self) -> float:
        return self._values.pop(0)


class VirtualLoop:
    """A clock, and timers that fire when the test moves it."""

    class Timer:
        def __init__(self, at: float, callback: Callable[[], None]) -> None:
            self.at = at
            self.callback = callback
            self.cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[VirtualLoop.Timer] = []

    def clock(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> "VirtualLoop.Timer":
        assert delay_s >= 0
        timer = self.Timer(self.now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, to: float) -> None:
        while due := sorted((t for t in self.timers if not t.cancelled and t.at <= to), key=lambda t: t.at):
            self.timers.remove(due[0])
            self.now = due[0].at
            due[0].callback()
        self.now = to


def shaper(fault: LinkFault, *chances: float) -> Shaper:
    return Shaper(fault, Chance(*chances))


def test_a_delay_is_added_to_the_time_of_sending():
    link = shaper(LinkFault(delay_s=0.05))
    assert link.arrival(1.0, 10) == pytest.approx(1.05)


def test_jitter_spreads_to_both_sides_of_the_delay():
    fault = LinkFault(delay_s=0.05, jitter_s=0.02)
    assert shaper(fault, 0.0).arrival(1.0, 1) == pytest.approx(1.03)
    assert shaper(fault, 0.5).arrival(1.0, 1) == pytest.approx(1.05)
    assert shaper(fault, 1.0).arrival(1.0, 1) == pytest.approx(1.07)


def test_normal_jitter_has_the_standard_deviation_that_was_declared():
    link = Shaper(LinkFault(delay_s=1.0, jitter_s=0.05, jitter_shape="normal"), random.Random(3))
    delays = [(link.arrival(10.0 * number, 1) or 0.0) - 10.0 * number for number in range(4000)]
    assert statistics.mean(delays) == pytest.approx(1.0, abs=0.005)
    assert statistics.stdev(delays) == pytest.approx(0.05, rel=0.05)
    assert max(delays) > 1.1, "a normal distribution has tails"


def test_jitter_larger_than_the_delay_never_delivers_in_the_past():
    assert shaper(LinkFault(delay_s=0.01, jitter_s=0.05), 0.0).arrival(1.0, 1) == 1.0


def test_a_message_never_overtakes_an_earlier_one():
    link = shaper(LinkFault(delay_s=0.05, jitter_s=0.05), 1.0, 0.0)
    slow = link.arrival(1.0, 1)
    assert slow == pytest.approx(1.1)
    assert link.arrival(1.01, 1) == slow


def test_nothing_passes_a_blocked_link():
    assert shaper(LinkFault(blocked=True)).arrival(1.0, 1) is None


def test_loss_takes_the_declared_share_and_the_same_one_for_the_same_seed():
    def lost(seed: int) -> list[bool]:
        link = Shaper(LinkFault(loss=0.3), random.Random(seed))
        return [link.arrival(float(number), 1) is None for number in range(2000)]

    assert lost(7) == lost(7)
    assert lost(7) != lost(8)
    assert 0.25 < sum(lost(7)) / 2000 < 0.35


def test_a_rate_makes_messages_queue_behind_each_other():
    link = shaper(LinkFault(rate_bytes_s=1000, delay_s=0.01))
    assert link.arrival(0.0, 100) == pytest.approx(0.11)
    assert link.arrival(0.0, 100) == pytest.approx(0.21)
    # The line has been idle since 0.2: nothing is owed, nothing is saved up.
    assert link.arrival(5.0, 100) == pytest.approx(5.11)


def test_a_fault_on_a_shaped_link_adds_up():
    shaped = LinkFault(delay_s=0.05, rate_bytes_s=1000)
    both = shaped.combined(LinkFault(delay_s=0.01, jitter_s=0.002, loss=0.5, rate_bytes_s=500))
    assert both.delay_s == pytest.approx(0.06)
    assert both.jitter_s == 0.002
    assert both.loss == 0.5
    assert both.rate_bytes_s == 500
    assert LinkFault(loss=0.5).combined(LinkFault(loss=0.5)).loss == 0.75
    assert shaped.combined(LinkFault(blocked=True)).blocked
    assert NO_FAULT.combined(NO_FAULT).harmless


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"delay_s": -1}, "delay_s"),
        ({"jitter_s": float("nan")}, "jitter_s"),
        ({"rate_bytes_s": float("inf")}, "rate_bytes_s"),
        ({"loss": 1.5}, "loss"),
        ({"loss": float("nan")}, "loss"),
        ({"jitter_shape": "square"}, "jitter_shape"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_field(fields, field):
    with pytest.raises(ValueError, match=field):
        LinkFault(**fields)


def test_a_line_hands_out_what_is_due_and_keeps_the_rest():
    line: DelayLine[str] = DelayLine(shaper(LinkFault(delay_s=1.0)))
    assert line.push(0.0, 1, "first")
    assert line.push(0.5, 1, "second")
    assert line.next_arrival() == 1.0
    assert line.due(0.9) == []
    assert line.due(1.2) == ["first"]
    assert line.due(2.0) == ["second"]
    assert line.next_arrival() is None


def test_a_line_is_bounded_in_items_and_in_bytes():
    few: DelayLine[int] = DelayLine(shaper(LinkFault(delay_s=1.0)), items_max=2)
    assert [few.push(0.0, 1, number) for number in range(3)] == [True, True, False]
    small: DelayLine[int] = DelayLine(shaper(LinkFault(delay_s=1.0)), bytes_max=100)
    assert [small.push(0.0, size, size) for size in (60, 50, 40)] == [True, False, True]
    assert (few.overflowed, small.overflowed) == (1, 1)
    assert small.due(1.0) == [60, 40]
    assert small.push(2.0, 100, 100), "what has left makes room"


def pump(loop: VirtualLoop, fault: LinkFault) -> tuple[Pump[str], list[tuple[float, str]]]:
    delivered: list[tuple[float, str]] = []
    made: Pump[str] = Pump(
        shaper(fault),
        lambda items: delivered.extend((loop.now, item) for item in items),
        clock=loop.clock,
        call_later=loop.call_later,
    )
    return made, delivered


def test_a_pump_delivers_when_the_time_has_come():
    loop = VirtualLoop()
    made, delivered = pump(loop, LinkFault(delay_s=0.05))
    made.push(1, "first")
    loop.advance(0.02)
    made.push(1, "second")
    assert delivered == []
    loop.advance(1.0)
    assert [item for _, item in delivered] == ["first", "second"]
    assert [at for at, _ in delivered] == pytest.approx([0.05, 0.07])


def test_a_pump_never_delivers_while_it_is_pushed_into():
    loop = VirtualLoop()
    made, delivered = pump(loop, NO_FAULT)
    made.push(1, "first")
    assert delivered == []
    loop.advance(0.0)
    assert delivered == [(0.0, "first")]


def test_a_change_of_delay_does_not_reorder_what_is_under_way():
    loop = VirtualLoop()
    made, delivered = pump(loop, LinkFault(delay_s=0.5))
    made.push(1, "slow")
    made.line.shaper.fault = NO_FAULT
    made.push(1, "fast")
    loop.advance(1.0)
    assert [item for _, item in delivered] == ["slow", "fast"]


def test_a_closed_pump_delivers_nothing_and_says_what_it_lost():
    loop = VirtualLoop()
    made, delivered = pump(loop, LinkFault(delay_s=0.5))
    made.push(1, "one")
    made.push(1, "two")
    assert made.close() == 2
    loop.advance(1.0)
    assert delivered == []
