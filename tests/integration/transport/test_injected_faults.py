"""Faults on real streams. When exactly a delayed message arrives is tested under a virtual clock, not here."""

from replica.transport import NO_FAULT, LinkDown, LinkFault
from tests.support.transports import Party, eventually, running

DELAY_S = 0.05


async def test_a_blocked_link_loses_one_direction_and_keeps_the_stream():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_faults({2: LinkFault(blocked=True)})
        one.transport.send((2,), b"lost")
        two.transport.send((1,), b"the way back is open")
        await one.host.until(lambda: one.host.messages == [b"the way back is open"])
        one.transport.set_faults({2: NO_FAULT})
        one.transport.send((2,), b"healed")
        await two.host.until(lambda: two.host.messages)
        assert two.host.messages == [b"healed"]
        assert one.transport.peers()[2].counters.dropped_fault == 1
        assert not one.host.events_of(LinkDown)


async def test_no_new_stream_comes_about_while_either_direction_is_blocked():
    for blocked in (1, 2):
        one, two = Party(1), Party(2)
        async with running(one, two, connected=False):
            cut = {1: one, 2: two}[blocked].transport
            cut.set_faults({3 - blocked: LinkFault(blocked=True)})
            one.transport.set_peers({2: two.address})
            two.transport.set_peers({1: one.address})
            if blocked == 2:
                await eventually(lambda two=two: two.host.greetings)  # type: ignore[misc]
            else:
                await eventually(lambda one=one: "fault" in one.transport.peers()[2].problem)  # type: ignore[misc]
            assert not one.link_up(2)
            assert not two.link_up(1)
            cut.set_faults({}, heal=True)
            await eventually(lambda one=one: one.link_up(2))  # type: ignore[misc]
            await eventually(lambda two=two: two.link_up(1))  # type: ignore[misc]


async def test_delayed_messages_arrive_in_order_and_not_before_their_time():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_faults({2: LinkFault(delay_s=DELAY_S, jitter_s=DELAY_S / 2)})
        for number in range(50):
            one.transport.send((2,), b"%d" % number)
        await one.transport.flush()
        assert not two.host.frames
        assert one.transport.peers()[2].counters.messages == 0, "all are still under way"
        await two.host.until(lambda: len(two.host.messages) == 50)
        assert two.host.messages == [b"%d" % number for number in range(50)]


async def test_healing_lets_what_is_under_way_arrive_first():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_faults({2: LinkFault(delay_s=DELAY_S)})
        one.transport.send((2,), b"slow")
        one.transport.set_faults({}, heal=True)
        one.transport.send((2,), b"fast")
        await two.host.until(lambda: len(two.host.messages) == 2)
        assert two.host.messages == [b"slow", b"fast"]
        assert one.transport.faults() == {}


async def test_nothing_arrives_from_a_link_that_was_closed():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_shapes({2: LinkFault(delay_s=DELAY_S)})
        one.transport.send((2,), b"under way")
        one.transport.set_peers({})
        one.transport.set_shapes({})
        one.transport.set_peers({2: two.address})
        await one.host.until(lambda: one.link_up(2))
        one.transport.send((2,), b"anew")
        await two.host.until(lambda: two.host.messages)
        assert two.host.messages == [b"anew"]
        assert one.host.events_of(LinkDown) == [LinkDown(2, "closed")]


async def test_a_lossy_link_loses_some_and_counts_them():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_faults({2: LinkFault(loss=0.5)})
        for number in range(200):
            one.transport.send((2,), b"%d" % number)
        lost = one.transport.peers()[2].counters.dropped_fault
        assert 50 < lost < 150
        await two.host.until(lambda: len(two.host.messages) == 200 - lost)


async def test_faults_come_on_top_of_the_shape_of_a_topology():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_shapes({2: LinkFault(delay_s=0.01)})
        one.transport.set_faults({2: LinkFault(blocked=True)})
        one.transport.send((2,), b"lost")
        assert one.transport.faults() == {2: LinkFault(blocked=True)}
        one.transport.set_faults({}, heal=True)
        one.transport.send((2,), b"shaped")
        assert one.transport.peers()[2].queued_messages == 0, "it is in the line"
        await two.host.until(lambda: two.host.messages == [b"shaped"])


async def test_the_measured_round_trip_holds_the_delays_of_both_directions(monkeypatch):
    monkeypatch.setattr("replica.transport.transport.PROBE_INTERVAL_S", 0.01)
    one, two = Party(1), Party(2)
    async with running(one, two, connected=False):
        one.transport.set_shapes({2: LinkFault(delay_s=0.03)})
        two.transport.set_shapes({1: LinkFault(delay_s=0.07)})
        one.transport.set_peers({2: two.address})
        two.transport.set_peers({1: one.address})
        await eventually(lambda: one.transport.peers()[2].round_trip_s is not None)
        round_trip_s = one.transport.peers()[2].round_trip_s
        assert round_trip_s is not None
        # No upper bound: a busy machine adds what it likes. Timers may be half a millisecond early, each way.
        assert round_trip_s >= 0.098


async def test_round_trips_are_measured_anew_when_a_link_is_shaped_otherwise():
    one, two = Party(1), Party(2)
    async with running(one, two):
        before = await one.transport.measure_round_trips(3, 30.0)
        assert len(before[2]) == 3
        one.transport.set_shapes({2: LinkFault(delay_s=0.04)})
        two.transport.set_shapes({1: LinkFault(delay_s=0.04)})
        after = await one.transport.measure_round_trips(3, 30.0)
        assert len(after[2]) == 3
        assert min(after[2]) >= 0.0795


async def test_a_peer_that_does_not_answer_leaves_its_round_trips_out():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.set_faults({2: LinkFault(blocked=True)})
        assert await one.transport.measure_round_trips(3, 0.1) == {2: []}
