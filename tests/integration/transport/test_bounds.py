"""What is too much, too large or already taken is refused in words, and nobody else is held up."""

import asyncio
import subprocess
import sys

import pytest

from replica.transport import AddressUnavailable, MessageTooLarge, bind, create_server
from replica.transport.bounds import MESSAGE_BYTES_MAX
from tests.support.transports import Party, eventually, running


async def test_the_largest_message_passes_and_one_byte_more_is_refused_to_everybody():
    one, two = Party(1), Party(2)
    async with running(one, two):
        with pytest.raises(MessageTooLarge, match=f"{MESSAGE_BYTES_MAX + 1} bytes .* {MESSAGE_BYTES_MAX}"):
            one.transport.send((2,), bytes(MESSAGE_BYTES_MAX + 1))
        one.transport.send((2,), bytes(MESSAGE_BYTES_MAX))
        await two.host.until(lambda: two.host.frames)
        assert two.host.messages == [bytes(MESSAGE_BYTES_MAX)]
        assert one.link_up(2)


async def test_frames_of_many_large_messages_stay_below_the_limit():
    one, two = Party(1), Party(2)
    async with running(one, two):
        for number in range(10):
            one.transport.send((2,), bytes([number]) * 1_500_000)
        await two.host.until(lambda: len(two.host.messages) == 10)
        assert [message[0] for message in two.host.messages] == list(range(10))


async def test_a_peer_that_does_not_keep_up_loses_messages_and_holds_up_nobody():
    one, two, three = parties = [Party(replica) for replica in (1, 2, 3)]
    async with running(*parties):
        two.host.gate = asyncio.Event()
        counters = one.transport.peers()[2].counters
        sent = 0
        while not counters.dropped_full:
            one.transport.send((2, 3), bytes(1_000_000))
            sent += 1
            await three.host.until(lambda sent=sent: len(three.host.messages) == sent)  # type: ignore[misc]
        assert one.transport.peers()[2].queued_messages <= 16
        assert not one.transport.peers()[3].counters.dropped_full
        await eventually(lambda: not one.transport.unsent)
        assert one.transport.peers()[2].queued_messages, "nobody waits for a link that is stuck"
        two.host.gate.set()
        lost = counters.dropped_full
        await two.host.until(lambda: len(two.host.messages) == sent - lost)


async def test_a_queue_is_bounded_in_messages_too(monkeypatch):
    monkeypatch.setattr("replica.transport.links.QUEUE_MESSAGES_MAX", 10)
    one, two = Party(1), Party(2)
    async with running(one, two):
        for number in range(15):
            one.transport.send((2,), b"%d" % number)
        await two.host.until(lambda: two.host.messages)
        assert two.host.messages == [b"%d" % number for number in range(10)]
        assert one.transport.peers()[2].counters.dropped_full == 5


async def test_a_port_in_use_is_refused_in_one_line():
    one, two = Party(1), Party(2)
    async with running(one, connected=False):
        two.transport = two.make(one.address)
        with pytest.raises(AddressUnavailable) as refused:
            await two.transport.start()
        assert str(refused.value) == f"cannot listen on {one.address}: Address already in use"
        assert two.transport.port == 0


async def test_a_port_that_is_taken_at_the_last_moment_is_not_shared(monkeypatch):
    """Without the option for it, grpc binds a port in use along with its owner, and says nothing."""
    monkeypatch.setattr("replica.transport.channels.check_address", lambda _: None)
    first, second = create_server(), create_server()
    try:
        port = bind(first, "127.0.0.1:0")
        with pytest.raises(AddressUnavailable):
            bind(second, f"127.0.0.1:{port}")
    finally:
        await first.stop(None)
        await second.stop(None)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":80", "nowhere.invalid:1"])
async def test_an_address_that_cannot_be_is_refused_in_words(address):
    one = Party(1)
    one.transport = one.make(address)
    with pytest.raises(AddressUnavailable, match="cannot listen on"):
        await one.transport.start()


def test_a_port_in_use_leaves_nothing_on_the_terminal():
    """grpc's own report of it is several lines long."""
    program = """
import asyncio, socket
from replica.transport import AddressUnavailable, bind, create_server

async def main():
    server = create_server()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        try:
            bind(server, "127.0.0.1:%d" % taken.getsockname()[1])
        except AddressUnavailable as error:
            print(error)
    await server.stop(None)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("Address already in use\n")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


async def test_messages_to_a_peer_that_is_unknown_or_away_are_dropped_in_silence():
    one = Party(1)
    async with running(one, connected=False):
        one.transport.set_peers({2: "127.0.0.1:1"})
        one.transport.send((2, 99), b"to nobody")
        await eventually(lambda: one.transport.peers()[2].problem.startswith("unavailable"))
        assert one.transport.peers()[2].counters.dropped_down == 1
