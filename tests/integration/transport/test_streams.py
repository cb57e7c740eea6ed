"""Two or three transports on loopback: what is sent arrives, and what must not does not."""

import asyncio
from functools import partial

from replica.transport import LinkDown, PeerArrived, PeerDeparted
from tests.support.transports import Party, all_links_up, eventually, introduce, running, ups, was_up


async def test_a_message_reaches_every_recipient_and_nobody_else():
    one, two, three, four = parties = [Party(replica) for replica in (1, 2, 3, 4)]
    async with running(*parties):
        one.transport.send((2, 3), b"to two and three")
        two.transport.send((4,), b"to four")
        await two.host.until(lambda: two.host.frames == [(1, [b"to two and three"])])
        await three.host.until(lambda: three.host.frames == [(1, [b"to two and three"])])
        await four.host.until(lambda: four.host.frames == [(2, [b"to four"])])
        assert not one.host.frames


async def test_what_is_sent_in_one_turn_travels_as_one_frame_in_order():
    one, two = Party(1), Party(2)
    async with running(one, two):
        expected = [b"%d" % number for number in range(100)]
        for message in expected:
            one.transport.send((2,), message)
        await two.host.until(lambda: len(two.host.messages) == 100)
        assert two.host.frames == [(1, expected)]


async def test_a_single_message_needs_no_other_to_leave():
    one, two = Party(1), Party(2)
    async with running(one, two):
        for number in range(20):
            one.transport.send((2,), b"%d" % number)
            await two.host.until(partial(two.host.received_frames, number + 1))


async def test_flush_hands_over_what_was_sent():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.send((2,), b"before the disk")
        await one.transport.flush()
        # From here on only grpc's own threads have run on the sending side.
        assert one.transport.peers()[2].queued_messages == 0
        assert one.transport.peers()[2].counters.messages == 1
        await two.host.until(lambda: two.host.messages == [b"before the disk"])


async def test_more_than_fits_in_a_frame_travels_in_several(monkeypatch):
    monkeypatch.setattr("replica.transport.links.FRAME_BYTES_MAX", 1000)
    one, two = Party(1), Party(2)
    async with running(one, two):
        expected = [bytes([number]) * 300 for number in range(20)]
        for message in expected:
            one.transport.send((2,), message)
        await two.host.until(lambda: len(two.host.messages) == 20)
        assert two.host.messages == expected
        assert [len(frame) for _, frame in two.host.frames] == [3, 3, 3, 3, 3, 3, 2]


async def test_a_peer_that_starts_late_is_connected_to_when_it_does():
    one, two = Party(1), Party(2)
    async with running(one, connected=False):
        # Its port is known before it listens: taken once, then given up and taken again.
        await two.transport.start()
        address = two.address
        await two.transport.stop()
        one.transport.set_peers({2: address})
        await eventually(lambda: one.transport.peers()[2].problem.startswith("unavailable"))
        one.transport.send((2,), b"lost")
        assert one.transport.peers()[2].counters.dropped_down == 1

        two.transport = two.make(address)
        async with running(two, connected=False):
            await one.host.until(lambda: one.link_up(2))
            one.transport.send((2,), b"found")
            await two.host.until(lambda: two.host.messages == [b"found"])


async def test_a_restarted_peer_comes_back_with_a_higher_incarnation():
    one, two = Party(1), Party(2)
    async with running(one):
        await two.transport.start()
        introduce(one, two)
        await all_links_up(one, two)
        address = two.address
        await two.transport.stop()
        await one.host.until(lambda: one.host.events_of(LinkDown))
        await one.host.until(lambda: one.host.events_of(PeerDeparted))

        again = Party(2, incarnation=2)
        again.transport = again.make(address)
        async with running(again, connected=False):
            again.transport.set_peers({1: one.address})
            await all_links_up(one, again)
            await one.host.until(lambda: len(one.host.events_of(PeerArrived)) == 2)
            assert [up.incarnation for up in ups(one, 2)] == [1, 2]
            assert one.host.events_of(PeerArrived)[-1] == PeerArrived(2, 2, restarted=True)
            one.transport.send((2,), b"welcome back")
            await again.host.until(lambda: again.host.messages == [b"welcome back"])


async def test_every_connection_of_an_incarnation_has_a_higher_number():
    one, two = Party(1), Party(2)
    async with running(one, two):
        for round_number in range(3):
            one.transport.set_peers({})
            await eventually(lambda: not one.transport.peers())
            one.transport.set_peers({2: two.address})
            await one.host.until(partial(was_up, one, 2, round_number + 2))
    numbers = [greeting.connection for greeting in two.host.greetings if greeting.replica == 1]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 4


async def test_a_removed_peer_is_neither_sent_to_nor_heard():
    one, two, three = parties = [Party(replica) for replica in (1, 2, 3)]
    async with running(*parties):
        one.transport.set_peers({2: two.address})
        assert set(one.transport.peers()) == {2}
        one.transport.send((2, 3), b"to the members")
        await two.host.until(lambda: two.host.messages == [b"to the members"])
        await three.host.until(lambda: three.host.events_of(LinkDown))
        three.transport.send((1,), b"from outside")
        assert not three.host.messages
        assert not one.host.messages


async def test_a_peer_that_moved_is_found_at_its_new_address():
    one, two = Party(1), Party(2)
    async with running(one, two):
        moved = Party(2, incarnation=2)
        async with running(moved, connected=False):
            one.transport.set_peers({2: moved.address})
            await one.host.until(lambda: len(ups(one, 2)) == 2)
            one.transport.send((2,), b"to the new house")
            await moved.host.until(lambda: moved.host.messages == [b"to the new house"])
            assert not two.host.messages


async def test_a_host_that_is_full_pauses_its_peer_alone():
    one, two, three = parties = [Party(replica) for replica in (1, 2, 3)]
    async with running(*parties):
        one.host.gate = asyncio.Event()
        two.transport.send((1,), b"first")
        await one.host.until(lambda: one.host.messages == [b"first"])
        two.transport.send((1,), b"second")
        await two.transport.flush()
        three.transport.send((1,), b"from another")
        await one.host.until(lambda: (3, [b"from another"]) in one.host.frames)
        assert (2, [b"second"]) not in one.host.frames
        one.host.gate.set()
        await one.host.until(lambda: (2, [b"second"]) in one.host.frames)


async def test_round_trips_are_measured_even_when_nothing_is_said(monkeypatch):
    monkeypatch.setattr("replica.transport.transport.PROBE_INTERVAL_S", 0.01)
    one, two = Party(1), Party(2)
    async with running(one, two):
        await eventually(lambda: one.transport.peers()[2].round_trip_s is not None)
        round_trip_s = one.transport.peers()[2].round_trip_s
        assert round_trip_s is not None
        assert round_trip_s > 0
        assert not two.host.frames


async def test_stopping_twice_is_stopping_once():
    one = Party(1)
    async with running(one, connected=False):
        await one.transport.stop()
    assert one.transport.peers() == {}
