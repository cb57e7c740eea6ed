"""The client over a real gRPC server on loopback."""

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from replica.client import InvalidArgument, Unauthenticated, Unavailable, connect_async, port
from replica.client.grpc_port import GrpcPort, parse_endpoints
from replica.client.port import AttachmentLost, PortOptions, open_port, scheme_of
from replica.wire.typed import WIRE_VERSION, ClientFrame, Hello
from tests.support.doubles import ClusterDouble, DoublePort, serve


@pytest.fixture
async def cluster():
    cluster = ClusterDouble(3)
    async with serve(cluster):
        yield cluster


@pytest.fixture
async def store(cluster):
    async with connect_async(",".join(cluster.endpoints)) as store:
        yield store


async def test_operations_over_the_wire(store):
    await asyncio.gather(*(store.put(f"k{n:04d}", bytes([n % 256]) * 100) for n in range(2000)))
    items = await store.range("k").all()
    assert [item.key for item in items] == [b"k%04d" % n for n in range(2000)]
    async with store.txn() as t:
        assert (await t.get("k0000")).value == bytes(100)
        t.add("n", 1)
    assert (await store.get("n", consistency="stale")).value == b"1"


async def test_one_endpoint_is_enough_to_find_the_others(cluster):
    async with connect_async(cluster.endpoints[0]) as store:
        await store.put("key", "1")
        cluster.leader = 3
        cluster.replicas[0].break_streams()
        cluster.replicas[0].hints = False
        await store.put("key", "2")
        assert cluster.replicas[2].hellos


async def test_streams_that_break_under_load_lose_and_double_nothing(store, cluster):
    async def disturb() -> None:
        for leader in (2, 3, 1, 2, 3, 1):
            await asyncio.sleep(0.02)
            cluster.replicas[cluster.leader - 1].break_streams()
            cluster.leader = leader

    async def load() -> None:
        for _ in range(50):
            await store.add("n", 1)

    await asyncio.gather(disturb(), *(load() for _ in range(20)))
    assert (await store.get("n")).value == b"1000"


async def test_large_frames_pass(store):
    values = [bytes([n]) * (1 << 20) for n in range(12)]
    await asyncio.gather(*(store.put(f"k{n}", value) for n, value in enumerate(values)))
    assert [item.value async for item in store.range("k", limit=2)] == [values[0], values[1]]


async def test_a_port_that_nobody_listens_on_is_unavailable():
    async with connect_async("127.0.0.1:1", timeout_s=0.3) as store:
        with pytest.raises(Unavailable, match="Connection refused"):
            await store.put("key", "value")


async def test_a_closed_attachment_wakes_whoever_waits_on_it(cluster):
    port = GrpcPort(cluster.endpoints[0], PortOptions())
    attachment = await port.attach(cluster.endpoints[0], Hello(wire_version=WIRE_VERSION))
    assert (await attachment.receive()).HasField("welcome")
    waiting = asyncio.create_task(attachment.receive())
    await asyncio.sleep(0)
    await attachment.close()
    await attachment.close()
    with pytest.raises(AttachmentLost):
        await waiting
    with pytest.raises(AttachmentLost):
        await attachment.send(ClientFrame())


async def test_a_cancelled_receiver_stays_cancelled(cluster):
    port = GrpcPort(cluster.endpoints[0], PortOptions())
    attachment = await port.attach(cluster.endpoints[0], Hello(wire_version=WIRE_VERSION))
    await attachment.receive()
    waiting = asyncio.create_task(attachment.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await attachment.close()


async def test_a_stream_that_the_replica_ends_is_lost(cluster):
    port = GrpcPort(cluster.endpoints[0], PortOptions())
    attachment = await port.attach(cluster.endpoints[0], Hello(wire_version=WIRE_VERSION))
    await attachment.receive()
    cluster.replicas[0].break_streams()
    with pytest.raises(AttachmentLost, match=cluster.endpoints[0]):
        await attachment.receive()
    await attachment.close()


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("a:1", ("a:1",)),
        ("a:1, b:2 ,a:1", ("a:1", "b:2")),
        ("synod://a:1,b:2/", ("a:1", "b:2")),
        ("host", ("host:7001",)),
        ("[::1]:5,[::1]", ("[::1]:5", "[::1]:7001")),
    ],
)
def test_endpoints_are_read(url, endpoints):
    assert parse_endpoints(url) == endpoints


@pytest.mark.parametrize("url", ["", ",", "a:b", "a:0", "a:70000", ":1", "a/b:1"])
def test_what_is_no_endpoint_is_refused(url):
    with pytest.raises(InvalidArgument):
        parse_endpoints(url)


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("memory:", "memory"),
        ("file:/tmp/x", "file"),
        ("file:relative", "file"),
        ("synod://a:1", "synod"),
        ("localhost:7001", ""),
        ("localhost:7001,b:2", ""),
        ("10.0.0.1:7001", ""),
        ("[::1]:7001", ""),
        ("localhost", ""),
        ("", ""),
    ],
)
def test_schemes_are_told_from_host_names(url, scheme):
    assert scheme_of(url) == scheme


async def test_tls_with_certificates_on_both_sides(tmp_path):
    _certificates(tmp_path)
    key, certificate = (tmp_path / "key.pem").read_bytes(), (tmp_path / "certificate.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    cluster = ClusterDouble(1)
    trusted: Any = {
        "tls_authority": str(tmp_path / "certificate.pem"),
        "tls_certificate": str(tmp_path / "certificate.pem"),
        "tls_key": str(tmp_path / "key.pem"),
    }
    async with serve(cluster, credentials):
        async with connect_async(cluster.endpoints[0], **trusted) as store:
            await store.put("key", "value")
        async with connect_async(cluster.endpoints[0], timeout_s=5.0) as store:
            with pytest.raises(Unauthenticated):
                await store.put("key", "value")
    with pytest.raises(InvalidArgument, match=r"missing\.pem"):
        connect_async("127.0.0.1:1", tls_authority=str(tmp_path / "missing.pem"))


def _certificates(folder: Path) -> None:
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    name = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*request.split(), *name, *files], check=True, capture_output=True)


def test_other_schemes_are_served_by_whoever_named_them(monkeypatch):
    cluster = ClusterDouble(1)
    opened = []

    def factory(url: str, options: PortOptions) -> DoublePort:
        opened.append((url, options))
        return DoublePort(cluster)

    class Point:
        name = "memory"

        @staticmethod
        def load():
            return factory

    monkeypatch.setattr(port, "entry_points", lambda *, group: [Point] if group == "synod.ports" else [])
    assert open_port("memory:name", PortOptions()).endpoints == ["replica-1"]
    assert opened == [("memory:name", PortOptions())]
    with pytest.raises(InvalidArgument, match="known: memory:, synod:"):
        open_port("other:name", PortOptions())
