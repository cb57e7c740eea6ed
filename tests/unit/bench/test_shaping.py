"""A client in another region: what the shaped port does to frames, and what it refuses."""

import asyncio
import random
import time
from types import SimpleNamespace

import pytest

from bench.networks import make_shaper
from bench.shaping import ShapedPort, StreamShaper, shaped_port, shaped_url
from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout
from deploy.topology import OneWay, load_topology
from replica.client.errors import InvalidArgument
from replica.client.port import AttachmentLost, PortOptions
from replica.wire.typed import ClientFrame, Endpoint, Hello, ServerFrame, StatusReply


def one_way(**fields) -> OneWay:
    return OneWay(
        **{"delay_ms": 50.0, "jitter_ms": 0.0, "jitter_shape": "normal", "loss": 0.0, "rate_bytes_s": 0.0, **fields}
    )


class Echo:
    """A replica that answers every run with a result of the same sequence, at once, and then may end."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[ServerFrame | None] = asyncio.Queue()
        self.sent: list[int] = []
        self.closed = False
        welcome = ServerFrame.Welcome(endpoints=[Endpoint(replica=9, address="new:1", region="japan")])
        self.frames.put_nowait(ServerFrame(welcome=welcome))

    async def send(self, frame: ClientFrame) -> None:
        for run in frame.runs:
            self.sent.append(run.first_sequence)
            answer = ServerFrame()
            answer.results.add(first_sequence=run.first_sequence)
            self.frames.put_nowait(answer)

    async def receive(self) -> ServerFrame:
        frame = await self.frames.get()
        if frame is None:
            raise AttachmentLost("the replica is gone")
        return frame

    async def close(self) -> None:
        self.closed = True


class EchoPort:
    endpoints = ("far:1", "near:1")

    def __init__(self) -> None:
        self.echo = Echo()
        self.asked: list[str] = []

    async def attach(self, endpoint, hello):
        self.asked.append(endpoint)
        return self.echo

    async def status(self, endpoint):
        return StatusReply()

    async def close(self):
        pass


def shaped(region="virginia", topology="wan5", **regions) -> tuple[ShapedPort, Echo]:
    inner = EchoPort()
    places = {"near:1": "ohio", "far:1": "california", **regions}
    return (
        ShapedPort(inner, topology=load_topology(topology), region=region, regions=places),  # type: ignore[arg-type]
        inner.echo,
    )


def run_frame(number: int) -> ClientFrame:
    frame = ClientFrame()
    frame.runs.add(first_sequence=number, count=1)
    return frame


async def test_frames_arrive_in_order_and_no_round_trip_is_shorter_than_declared():
    port, echo = shaped()
    began = time.monotonic()
    attachment = await port.attach("near:1", Hello())
    await attachment.receive()
    assert time.monotonic() - began >= 2 * 0.0104, "the handshake, and the greeting and its answer"
    began = time.monotonic()
    for number in range(20):
        await attachment.send(run_frame(number))
    assert echo.sent == [], "nothing has arrived yet"
    answers = [(await attachment.receive()).results[0].first_sequence for _ in range(20)]
    assert time.monotonic() - began >= 0.0104
    assert answers == list(range(20))
    await attachment.close()
    await port.close()


async def test_what_the_replica_said_before_it_went_arrives_before_the_news_that_it_is_gone():
    port, echo = shaped()
    attachment = await port.attach("near:1", Hello())
    echo.frames.put_nowait(None)
    assert (await attachment.receive()).HasField("welcome")
    with pytest.raises(AttachmentLost, match="the replica is gone"):
        await attachment.receive()
    with pytest.raises(AttachmentLost, match="the replica is gone"):
        await attachment.send(run_frame(1))
    await attachment.close()
    await port.close()


async def test_closing_ends_whoever_waits():
    port, echo = shaped()
    attachment = await port.attach("near:1", Hello())
    await attachment.receive()
    waiting = asyncio.ensure_future(attachment.receive())
    await asyncio.sleep(0)
    await attachment.close()
    await attachment.close()
    with pytest.raises(AttachmentLost, match="closed"):
        await waiting
    with pytest.raises(AttachmentLost, match="closed"):
        await attachment.send(run_frame(1))
    assert echo.closed
    await port.close()


async def test_a_line_that_is_full_holds_back_the_sender_and_loses_nothing(monkeypatch):
    monkeypatch.setattr("bench.shaping.QUEUED_FRAMES_MAX", 4)
    port, _ = shaped()
    attachment = await port.attach("near:1", Hello())
    await attachment.receive()

    async def send() -> None:
        for number in range(100):
            await attachment.send(run_frame(number))

    sending = asyncio.ensure_future(send())
    answers = [(await attachment.receive()).results[0].first_sequence for _ in range(100)]
    await sending
    assert answers == list(range(100))
    await attachment.close()
    await port.close()


async def test_a_replica_that_joined_later_is_placed_by_the_welcome():
    port, _ = shaped()
    attachment = await port.attach("near:1", Hello())
    assert port._link("new:1").delay_ms == 0.13, "nobody has said where it is"
    await attachment.receive()
    assert port._link("new:1").delay_ms == 152.4 / 2
    await attachment.close()
    await port.close()


def test_the_nearest_replica_is_asked_first():
    port, _ = shaped()
    assert port.endpoints == ["near:1", "far:1"]


def test_a_lost_segment_costs_a_round_trip_and_holds_up_what_follows():
    class Chance:
        def random(self) -> float:
            return draws.pop(0)

    draws = [0.001, 0.9]
    line = StreamShaper(one_way(loss=0.01), Chance())
    assert line.arrival(0.0, 100) == pytest.approx(0.15)
    assert line.arrival(0.01, 100) == pytest.approx(0.15)
    assert line.resent == 1


def test_the_more_segments_a_frame_has_the_likelier_one_is_lost():
    def resent(size_bytes: int) -> int:
        line = StreamShaper(one_way(loss=0.01), random.Random(1))
        for number in range(2000):
            line.arrival(float(number), size_bytes)
        return line.resent

    assert 5 < resent(100) < 40
    assert resent(100_000) > 800


def test_the_url_is_read_back_as_it_was_made():
    port = shaped_port(shaped_url({"a:1": "ohio", "b:2": "japan"}, region="ireland", topology="wan5"), PortOptions())
    assert port._region == "ireland"
    assert port._regions == {"a:1": "ohio", "b:2": "japan"}
    assert port.endpoints == ["a:1", "b:2"]


async def test_a_replica_is_reached_where_the_url_says_and_known_by_its_own_name():
    url = shaped_url({"a:1": "ohio", "b:2": "ohio"}, region="ohio", topology="", reached={"a:1": "10.0.0.1:7"})
    port = shaped_port(url, PortOptions())
    assert port.endpoints == ["a:1", "b:2"]
    inner = EchoPort()
    port._port = inner  # type: ignore[assignment]
    for endpoint in ("a:1", "b:2"):
        await (await port.attach(endpoint, Hello())).close()
    assert inner.asked == ["10.0.0.1:7", "b:2"]
    assert port._link("a:1").harmless, "no topology, no delay"


def way(shaped_by: str, *, placed: bool, region: str = "virginia") -> str:
    """The URL of a client in a region, to replicas in containers."""
    layout = ClusterLayout(cluster="5eed", driver="docker", protocol="p", topology="wan3", shaped_by=shaped_by)
    for number, place in enumerate(("california", "ohio", "virginia"), 1):
        client, internal = f"127.0.0.1:700{number}", f"10.0.0.1{number}:7001"
        layout.replicas.append(ReplicaLayout(replica=number, peer="", region=place, client=client, internal=internal))
    if placed:
        layout.places = [PlaceLayout(region=region, address="10.0.0.254", unit="clients")]
    return make_shaper(SimpleNamespace(layout=layout)).endpoints(region)  # type: ignore[arg-type]


def test_the_delays_of_clients_are_made_by_the_kernel_only_where_it_shapes_their_place():
    here = shaped_port(way("netem", placed=False), PortOptions())
    assert here._link("127.0.0.1:7002").delay_ms == 10.5 / 2
    assert here._reached["127.0.0.1:7002"] == "127.0.0.1:7002"
    in_place = shaped_port(way("netem", placed=True), PortOptions())
    assert in_place._link("127.0.0.1:7002").harmless
    assert in_place._reached["127.0.0.1:7002"] == "10.0.0.12:7001"
    by_library = shaped_port(way("transport", placed=True), PortOptions())
    assert by_library._link("127.0.0.1:7002").delay_ms == 10.5 / 2
    assert by_library._reached["127.0.0.1:7002"] == "10.0.0.12:7001"
    assert way("none", placed=False) == "127.0.0.1:7003,127.0.0.1:7002,127.0.0.1:7001", "the nearest first"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("shaped://a:1=ohio?region=ohio", "topology"),
        ("shaped://a:1=ohio?topology=wan5", "region"),
        ("shaped://a:1=ohio?region=mars&topology=wan5", "mars"),
        ("shaped://a:1=mars?region=ohio&topology=wan5", "mars"),
        ("shaped://a:1=ohio?region=ohio&topology=milky-way", "milky-way"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url, named):
    with pytest.raises(InvalidArgument, match=named):
        shaped_port(url, PortOptions())
