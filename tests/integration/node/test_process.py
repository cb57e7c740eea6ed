"""A replica as a process of its own: the lines for scripts, signals, exit statuses, and what it says when it cannot."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from replica.kv import operations as kv
from replica.wire import typed as wire
from replica.wire.v1.admin_pb2_grpc import AdminStub
from tests.support.nodes import PATIENCE_S, RawSession, free_addresses

ROOT = Path(__file__).resolve().parents[3]
SYNOD = [sys.executable, "-c", "from replica.cli import main; main()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def configuration(tmp_path):
    peer, client, metrics = free_addresses(3)
    path = tmp_path / "node.toml"
    path.write_text(
        f"""
cluster = "test"
replica = 1
data = "{tmp_path}/data"
[listen]
peer = "{peer}"
client = "{client}"
metrics = "{metrics}"
[[members]]
replica = 1
peer = "{peer}"
client = "{client}"
[log]
format = "json"
""",
        encoding="utf-8",
    )
    return path


def synod(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SYNOD, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A replica that has said that it is ready, and what it said before."""
    process = subprocess.Popen(
        [*SYNOD, "serve", *map(str, arguments)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        listening = process.stdout.readline().split()
        assert listening[:1] == ["listening"], process.communicate()
        assert process.stdout.readline() == "ready replica=1\n"
        yield process, dict(word.split("=", 1) for word in listening[1:])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def put_and_get(address: str, key: bytes, value: bytes) -> None:
    async with await RawSession.open(address) as session:
        await session.put(key, value)
        assert await session.get(key) == value


async def value_of(address: str, key: bytes) -> bytes | None:
    async with await RawSession.open(address) as session:
        return await session.get(key)


def test_a_replica_says_when_it_listens_and_when_it_is_ready_and_stops_when_told(configuration):
    with serving("--config", configuration, "--bootstrap") as (process, said):
        assert said["replica"] == "1"
        assert said["cluster"] == "test"
        asyncio.run(put_and_get(said["client"], b"key", b"value"))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        lines = [json.loads(line) for line in errors.splitlines()]
        events = [line["event"] for line in lines]
        assert "stopping" in events
        assert events[-1] == "stopped"
        assert all(line["replica"] == 1 for line in lines)
    with serving("--config", configuration) as (process, said):
        assert asyncio.run(value_of(said["client"], b"key")) == b"value"


def test_what_was_acknowledged_survives_a_kill(configuration):
    with serving("--config", configuration, "--bootstrap") as (process, said):
        for number in range(5):
            asyncio.run(put_and_get(said["client"], b"key%d" % number, b"value"))
        process.kill()
        process.wait()
    with serving("--config", configuration) as (_, said):
        for number in range(5):
            assert asyncio.run(value_of(said["client"], b"key%d" % number)) == b"value"


def test_health_reflection_and_metrics_are_there(configuration):
    with serving("--config", configuration, "--bootstrap") as (_, said):
        asyncio.run(put_and_get(said["client"], b"key", b"value"))
        with grpc.insecure_channel(said["client"]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            operator: Any = AdminStub(channel)
            status = operator.Status(wire.StatusRequest())
            assert (status.ready, status.accepting, status.problem, status.revision) == (True, True, "", 1)
            assert status.members[0].connected
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            (listed,) = reflection.ServerReflectionInfo(iter([request]))
            names = {service.name for service in listed.list_services_response.service}
            assert {"synod.v1.Session", "synod.v1.Admin", "grpc.health.v1.Health"} <= names
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with urllib.request.urlopen(f"http://{said['metrics']}/metrics") as response:
                text = response.read().decode()
            if "synod_ready 1.0" in text and "synod_revision 1.0" in text:
                break
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        for name in ("synod_turns_total", "synod_sync_seconds_bucket", "synod_operations_applied_total"):
            assert f"\n{name}" in text


def test_faults_are_refused_unless_they_were_enabled(configuration):
    with (
        serving("--config", configuration, "--bootstrap") as (_, said),
        grpc.insecure_channel(said["client"]) as channel,
    ):
        with pytest.raises(grpc.RpcError) as refused:
            AdminStub(channel).InjectFaults(wire.InjectFaultsRequest(disk_full=True))
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        asyncio.run(put_and_get(said["client"], b"key", b"value"))


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert not result.stdout
    return line


def test_a_configuration_can_be_checked_without_starting(configuration, tmp_path):
    result = synod("serve", "--config", configuration, "--check-config")
    assert (result.returncode, result.stderr) == (0, "")
    assert "is valid" in result.stdout
    result = synod("serve", "--config", configuration, "--set", "listen.peer=nowhere", "--check-config")
    assert result.returncode == 2
    assert one_line(result).startswith("Error: listen.peer: ")
    result = synod("serve", "--config", configuration, "--protocol", "paxish")
    assert result.returncode == 2
    assert "multipaxos" in one_line(result)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_is_not_formatted_is_not_served(configuration):
    result = synod("serve", "--config", configuration)
    assert result.returncode == 2
    assert "--bootstrap" in one_line(result)


def test_a_folder_is_formatted_once(configuration):
    result = synod("format", "--config", configuration)
    assert (result.returncode, result.stderr) == (0, "")
    assert "formatted" in result.stdout
    result = synod("format", "--config", configuration)
    assert result.returncode == 2
    assert "already formatted" in one_line(result)
    with serving("--config", configuration):
        pass


def test_a_port_in_use_has_a_status_of_its_own(configuration):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = synod("serve", "--config", configuration, "--bootstrap", "--set", f"listen.client={address}")
    assert result.returncode == 3
    assert f"listen.client: cannot listen on {address}" in result.stderr.splitlines()[-1]


def test_a_disk_on_which_nothing_can_be_written_ends_in_one_line(configuration, tmp_path):
    (tmp_path / "file").touch()
    result = synod("serve", "--config", configuration, "--bootstrap", "--data", tmp_path / "file" / "data")
    assert result.returncode == 2
    assert "file/data: cannot be formatted: " in one_line(result)


@pytest.mark.parametrize("operation", [kv.Get(b"x")])
def test_a_stream_of_a_replica_that_stops_is_told_so(configuration, operation):
    async def until_told(process: subprocess.Popen[str], address: str) -> wire.Closing | None:
        async with await RawSession.open(address) as session:
            await session.read(operation)
            process.send_signal(signal.SIGTERM)
            return await session.ended()

    with serving("--config", configuration, "--bootstrap") as (process, said):
        closing = asyncio.run(until_told(process, said["client"]))
        assert closing is not None
        assert closing.code == wire.Code.UNAVAILABLE
        assert process.wait(PATIENCE_S) == 0
