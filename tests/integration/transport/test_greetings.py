"""Who may open a stream, what happens to one who may not, and to one who does not keep to the rules."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from replica.transport import (
    Accept,
    EpochSeen,
    LinkRefused,
    LinkUp,
    PeerArrived,
    RefusalCode,
    Refuse,
)
from replica.wire.typed import PEER, WIRE_VERSION, Greeting, Messages, PeerFrame, PeerReply, method_path
from tests.support.transports import PATIENCE_S, Party, all_links_up, eventually, running


class RawStream:
    """A stream that says whatever the test wants."""

    def __init__(self, call) -> None:
        self._call = call

    async def say(self, data: bytes) -> None:
        await self._call.write(data)

    async def hear(self) -> PeerReply | None:
        """The next reply, or None when the stream has ended."""
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._call.read()
        return None if answer is grpc.aio.EOF else PeerReply.FromString(answer)

    async def greet(self, **fields) -> PeerReply | None:
        await self.say(PeerFrame(greeting=greeting(**fields)).SerializeToString())
        return await self.hear()

    async def say_messages(self, *messages: bytes, epoch: int = 1) -> None:
        await self.say(PeerFrame(messages=Messages(epoch=epoch, messages=messages)).SerializeToString())


def greeting(**fields) -> Greeting:
    """A sound greeting of replica 2 to replica 1, but for the fields given."""
    sound: dict[str, Any] = {
        "wire_version": WIRE_VERSION,
        "cluster": "test",
        "replica": 2,
        "recipient": 1,
        "disk": "disk-2",
        "incarnation": 1,
        "connection": 1,
        "epoch": 1,
        "protocol": "none",
        "admitted": True,
    }
    return Greeting(**(sound | fields))


@asynccontextmanager
async def raw_stream(party: Party):
    async with grpc.aio.insecure_channel(party.address) as channel:
        call: Any = channel.stream_stream(method_path(PEER, "Connect"))()
        try:
            yield RawStream(call)
        finally:
            call.cancel()


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"wire_version": WIRE_VERSION + 1}, "VERSION"),
        ({"cluster": "another"}, "WRONG_CLUSTER"),
        ({"recipient": 3}, "WRONG_RECIPIENT"),
        ({"replica": 1}, "NOT_A_MEMBER"),
        ({"replica": 0}, "NOT_A_MEMBER"),
    ],
)
async def test_a_greeting_that_any_replica_can_refuse_never_reaches_the_host(fields, code):
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as stream:
        reply = await stream.greet(**fields)
        assert reply is not None
        assert RefusalCode(reply.refusal.code).name == code
        assert reply.refusal.message
        assert await stream.hear() is None, "the stream ends"
        assert not one.host.greetings
        assert one.transport.inbound.refused == 1


@pytest.mark.parametrize("code", [RefusalCode.NOT_A_MEMBER, RefusalCode.DIFFERENT_DISK, RefusalCode.PROTOCOL])
async def test_the_host_of_the_refused_is_told_why_and_asks_again_until_it_is_let_in(code):
    one, two = Party(1), Party(2)
    one.host.verdict = lambda _: Refuse(code, "not today")
    async with running(one, two, connected=False):
        two.transport.set_peers({1: one.address})
        await two.host.until(lambda: len(two.host.events_of(LinkRefused)) >= 2)
        assert two.host.events_of(LinkRefused)[0] == LinkRefused(1, code, "not today", two.host.epoch())
        assert "not today" in two.transport.peers()[1].problem
        assert not two.host.events_of(LinkUp)
        assert not one.host.events_of(PeerArrived)
        one.host.verdict = lambda _: Accept()
        await two.host.until(lambda: two.link_up(1))


async def test_a_greeting_and_its_welcome_say_who_is_there_and_whether_it_is_admitted():
    one, two = Party(1), Party(2, disk="brand-new")
    two.host.is_admitted = False
    one.host.verdict = lambda greeting: Accept(admitted=greeting.disk == "brand-new")
    async with running(one, two):
        (heard,) = one.host.greetings
        assert (heard.replica, heard.disk, heard.incarnation, heard.epoch) == (2, "brand-new", 1, 1)
        assert (heard.protocol, heard.admitted) == ("none", False)
        (up,) = two.host.events_of(LinkUp)
        assert (up.peer, up.disk, up.incarnation, up.epoch, up.admitted) == (1, "disk-1", 1, 1, True)


async def test_a_peer_is_told_nothing_before_the_host_has_decided():
    one = Party(1)
    decided = asyncio.Event()

    async def undecided(greeting):
        one.host.greetings.append(greeting)
        await decided.wait()
        return Accept()

    one.host.greeted = undecided  # type: ignore[method-assign]
    async with running(one, connected=False), raw_stream(one) as stream:
        answer = asyncio.create_task(stream.greet())
        await eventually(lambda: one.host.greetings)
        assert not answer.done()
        decided.set()
        reply = await answer
        assert reply is not None
        assert reply.welcome.admitted


async def test_an_older_stream_is_refused_and_a_newer_one_ends_it():
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as middle, raw_stream(one) as old, raw_stream(one) as new:
        assert (await middle.greet(connection=5)) is not None
        reply = await old.greet(connection=4)
        assert reply is not None
        assert reply.refusal.code == RefusalCode.STALE_CONNECTION
        reply = await new.greet(connection=6)
        assert reply is not None
        assert reply.HasField("welcome")
        with pytest.raises(grpc.aio.AioRpcError, match="newer stream"):
            await middle.hear()
        await new.say_messages(b"from the new one")
        await one.host.until(lambda: one.host.messages == [b"from the new one"])


async def test_a_lower_incarnation_is_stale_whatever_its_connection():
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as new, raw_stream(one) as old:
        assert (await new.greet(incarnation=3, connection=1)) is not None
        reply = await old.greet(incarnation=2, connection=900)
        assert reply is not None
        assert reply.refusal.code == RefusalCode.STALE_CONNECTION


async def test_what_an_ended_stream_still_held_is_dropped():
    one = Party(1)
    one.host.gate = asyncio.Event()
    async with running(one, connected=False), raw_stream(one) as old, raw_stream(one) as new:
        await old.greet(connection=1)
        await old.say_messages(b"old, taken")
        await one.host.until(lambda: one.host.messages == [b"old, taken"])
        # The host pauses the stream, so this one stays in it.
        await old.say_messages(b"old, left behind")
        await new.greet(connection=2)
        one.host.gate.set()
        await new.say_messages(b"new")
        await one.host.until(partial(one.host.received_frames, 2))
        assert one.host.messages == [b"old, taken", b"new"]


# ------------------------------------------------------------------------------------------------------------ epochs


async def test_messages_of_another_epoch_never_reach_the_host():
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as stream:
        one.host.present_epoch = 5
        await stream.greet(epoch=5)
        await stream.say_messages(b"of the past", epoch=4)
        reply = await stream.hear()
        assert reply is not None
        assert reply.epoch_notice.epoch == 5
        await stream.say_messages(b"of the future", epoch=6)
        await stream.say_messages(b"of today", epoch=5)
        await one.host.until(lambda: one.host.messages)
        assert one.host.messages == [b"of today"]
        assert one.transport.inbound.dropped_epoch == 2


async def test_a_replica_that_is_behind_hears_of_it_from_the_welcome():
    one, two = Party(1), Party(2)
    one.host.present_epoch = 3
    async with running(one, two):
        await two.host.until(lambda: EpochSeen(1, 3) in two.host.events)
        assert not one.host.events_of(EpochSeen)


async def test_a_replica_that_falls_behind_hears_of_it_when_it_speaks():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.host.present_epoch = 2
        two.transport.send((1,), b"of epoch 1")
        await two.host.until(lambda: EpochSeen(1, 2) in two.host.events)


async def test_a_replica_that_falls_behind_hears_of_it_when_it_is_spoken_to():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.host.present_epoch = 2
        one.transport.send((2,), b"of epoch 2")
        await two.host.until(lambda: EpochSeen(1, 2) in two.host.events)
        assert not two.host.messages


async def test_the_first_message_of_an_epoch_voids_what_is_queued_of_the_one_before():
    one, two = Party(1), Party(2)
    async with running(one, two):
        one.transport.send((2,), b"void")
        one.host.present_epoch = two.host.present_epoch = 2
        one.transport.send((2,), b"valid")
        await two.host.until(lambda: two.host.messages == [b"valid"])
        assert one.transport.peers()[2].counters.dropped_epoch == 1


# ----------------------------------------------------------------------------------------------------------- garbage


async def test_a_stream_that_does_not_begin_with_a_greeting_is_refused():
    one = Party(1)
    async with running(one, connected=False):
        for first in (b"\xff\xff\xff not a frame", b"", PeerFrame(messages=Messages(epoch=1)).SerializeToString()):
            async with raw_stream(one) as stream:
                await stream.say(first)
                reply = await stream.hear()
                assert reply is not None
                assert reply.refusal.code == RefusalCode.VERSION
        assert one.transport.inbound.malformed_frames == 3
        assert not one.host.greetings


async def test_malformed_frames_are_counted_and_dropped_and_the_stream_goes_on():
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as stream:
        await stream.greet()
        await stream.say(b"\xff\xff\xff not a frame")
        await stream.say(b"")
        await stream.say(PeerFrame(greeting=greeting(connection=9)).SerializeToString())
        await stream.say_messages(b"sound")
        await one.host.until(lambda: one.host.messages == [b"sound"])
        assert one.transport.inbound.malformed_frames == 3


async def test_a_malformed_message_is_dropped_and_the_others_of_its_frame_are_not():
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as stream:
        await stream.greet()
        await stream.say_messages(b"malformed alone")
        await stream.say_messages(b"before", b"malformed", b"after")
        await one.host.until(lambda: one.host.frames)
        assert one.host.frames == [(2, [b"before", b"after"])]
        assert one.transport.inbound.malformed_messages == 2


async def test_a_silent_stream_does_not_stay(monkeypatch):
    monkeypatch.setattr("replica.transport.inbound.GREETING_TIMEOUT_S", 0.05)
    one = Party(1)
    async with running(one, connected=False), raw_stream(one) as stream:
        assert await stream.hear() is None


async def test_a_peer_that_never_answers_is_given_up_and_tried_again(monkeypatch):
    monkeypatch.setattr("replica.transport.links.GREETING_TIMEOUT_S", 0.05)
    one, two = Party(1), Party(2)
    silent = asyncio.Event()

    async def undecided(greeting):
        two.host.greetings.append(greeting)
        await silent.wait()
        return Accept()

    two.host.greeted = undecided  # type: ignore[method-assign]
    async with running(one, two, connected=False):
        one.transport.set_peers({2: two.address})
        await eventually(lambda: len(two.host.greetings) >= 2)
        await eventually(lambda: "in time" in one.transport.peers()[2].problem)
        silent.set()
        await one.host.until(lambda: one.link_up(2))


async def test_an_address_that_speaks_something_else_is_no_peer():
    talks: list[Any] = []

    async def babble(reader, writer):
        talks.append(asyncio.current_task())
        try:
            writer.write(b"220 mail.example ready\r\n")
            await writer.drain()
            await reader.read()
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    one = Party(1)
    async with server, running(one, connected=False):
        one.transport.set_peers({2: f"127.0.0.1:{server.sockets[0].getsockname()[1]}"})
        await eventually(lambda: one.transport.peers()[2].counters.connections >= 2)
        assert not one.link_up(2)
    # They end when the other side has hung up, which it has by now, or is about to. What was accepted last begins to
    # talk in the next pass of the event loop.
    await asyncio.sleep(0)
    await asyncio.gather(*talks, return_exceptions=True)


async def test_both_directions_are_welcomed_once_both_run():
    one, two = Party(1), Party(2)
    async with running(one, two):
        await all_links_up(one, two)
        await eventually(lambda: one.transport.peers()[2].heard)
        await eventually(lambda: two.transport.peers()[1].heard)
