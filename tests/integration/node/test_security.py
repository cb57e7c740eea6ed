"""TLS, certificates and tokens on replicas that run: who is let in, who is not, and what each is told."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import admin
from deploy.certificates import Authority, CertificateFiles
from replica.client import AsyncStore, MaybeCommitted, PermissionDenied, SynodError, Unauthenticated, connect_async
from replica.node.access import digest_of_token
from replica.node.errors import BadSecurity
from replica.wire.v1 import admin_pb2
from tests.support.nodes import Nodes, eventually, nodes

HOSTS = ["127.0.0.1", "localhost"]


def listener(name: str, files: CertificateFiles) -> dict[str, str]:
    """The settings of one listener."""
    return {
        f"security.{name}.certificate": str(files.certificate),
        f"security.{name}.key": str(files.key),
        f"security.{name}.authority": str(files.authority),
    }


def shown_by(files: CertificateFiles) -> dict[str, str]:
    """The options of a client."""
    return {
        "tls_authority": str(files.authority),
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
    }


async def start(cluster: Nodes, authority: Authority, **settings: Any) -> None:
    """Start all replicas of the cluster with mutual TLS everywhere."""
    for replica in cluster.members:
        files = authority.replica(replica, HOSTS)
        await cluster.start(replica, **listener("peer", files), **listener("client", files), **settings)


def client(cluster: Nodes, **options: Any) -> AsyncStore:
    """A client of all replicas that run."""
    endpoints = ",".join(f"127.0.0.1:{node.client_port}" for node in cluster.running.values())
    return connect_async(endpoints, **{"timeout_s": 20.0, **options})


async def value_of(store: AsyncStore, key: str) -> bytes | None:
    """The value of a key."""
    found = await store.get(key)
    return None if found is None else found.value


async def test_with_mutual_tls_only_those_with_a_certificate_of_the_authority_are_served(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certs")
    mine, foreign = authority.client("app"), Authority(tmp_path / "foreign").client("app")
    async with nodes(tmp_path) as cluster:
        await start(cluster, authority)
        await cluster.ready()
        async with client(cluster, **shown_by(mine)) as store:
            await store.put("k", "v")
            assert await value_of(store, "k") == b"v"
        refused: list[tuple[dict[str, str], str]] = [
            ({"tls_authority": str(mine.authority)}, "demands a certificate"),
            ({**shown_by(foreign), "tls_authority": str(mine.authority)}, "does not accept this client's certificate"),
            (shown_by(foreign), "certificate is not accepted here"),
            ({}, "speaks TLS"),
        ]
        for options, what in refused:
            async with client(cluster, **options) as store:
                with pytest.raises(Unauthenticated, match=what):
                    await store.put("k", "w")
                with pytest.raises(Unauthenticated, match=what):
                    await store.get("k", consistency="stale")


async def test_a_replica_whose_certificate_names_another_is_not_let_in_and_not_connected_to(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certs")
    async with nodes(tmp_path) as cluster:
        for replica in (1, 2):
            await cluster.start(replica, **listener("peer", authority.replica(replica, HOSTS)))
        await cluster.start(3, **listener("peer", authority.replica(2, HOSTS)))
        wrong = cluster.running[3]
        problem = await eventually(
            lambda: next(
                (state.problem for state in wrong.transport.peers().values() if "CERTIFICATE" in state.problem), ""
            ),
            "a refusal of the certificate",
        )
        assert "the certificate is that of replica-2" in problem
        right = cluster.running[1]
        await eventually(lambda: "verification" in right.transport.peers()[3].problem.lower(), "a refusal to connect")
        assert 3 not in right.transport._inbound.arrived()


async def test_a_certificate_is_renewed_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certs")
    mine = authority.client("app")
    async with nodes(tmp_path, count=1) as cluster:
        files = authority.replica(1, ["elsewhere.example"])
        await cluster.start(1, **listener("client", files))
        async with client(cluster, **shown_by(mine)) as store:
            with pytest.raises(Unauthenticated, match="not accepted here"):
                await store.put("k", "v")
        authority.replica(1, HOSTS, renew=True)
        async with client(cluster, **shown_by(mine)) as store:
            await store.put("k", "v")
        # Half a renewal changes nothing.
        files.certificate.write_text("not yet")
        async with client(cluster, **shown_by(mine)) as store:
            await store.put("k", "w")


async def test_files_that_are_of_no_use_end_the_start_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("nothing")
    async with nodes(tmp_path, count=1) as cluster:
        for settings in (
            {"security.client.certificate": str(tmp_path / "none.pem"), "security.client.key": "k"},
            {"security.client.certificate": str(tmp_path / "a.pem"), "security.client.key": str(tmp_path / "a.pem")},
            {"security.tokens": str(tmp_path / "none.toml")},
        ):
            with pytest.raises(BadSecurity) as failed:
                await cluster.start(1, **settings)
            assert "\n" not in str(failed.value)


def write_tokens(path: Path, **roles: str) -> None:
    """A file of tokens, each of which is the name with ``-secret`` behind it."""
    lines = []
    for name, role in roles.items():
        lines += ["[[tokens]]", f'name = "{name}"', f'sha256 = "{digest_of_token(name + "-secret")}"', role]
    path.write_text("\n".join(lines))
    os.utime(path, (time.time() + 60, time.time() + 60 + len(lines)))


TOKENS = {
    "reader": 'role = "read"',
    "trainer": 'role = "write"\nprefixes = ["runs/"]',
    "late": 'role = "admin"\nexpires = 2020-01-01T00:00:00Z',
    "boss": 'role = "admin"',
}


async def test_a_token_does_what_its_role_and_prefixes_allow_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    write_tokens(path, **TOKENS)
    async with nodes(tmp_path) as cluster:
        await cluster.start(**{"security.tokens": str(path)})
        await cluster.ready()
        async with client(cluster, token="trainer-secret") as store:
            await store.put("runs/1", "v")
            refused: list[Callable[[], Awaitable[Any]]] = [
                lambda: store.put("models/1", "v"),
                lambda: store.get("models/1"),
                lambda: store.range(prefix="").all(),
                lambda: store.get("models/1", consistency="stale"),
            ]
            for act in refused:
                with pytest.raises(PermissionDenied, match="prefixes"):
                    await act()
            # One that is refused costs those that travel with it nothing.
            outcomes = await asyncio.gather(
                *(store.put(f"{where}/{n}", "v") for n in range(20) for where in ("runs", "models")),
                return_exceptions=True,
            )
            assert [isinstance(each, PermissionDenied) for each in outcomes] == [False, True] * 20
        async with client(cluster, token="reader-secret") as store:
            assert await value_of(store, "runs/1") == b"v"
            with pytest.raises(PermissionDenied, match="needs the role write"):
                await store.put("runs/1", "w")
        for token, what in (("", "sent none"), ("x", "not known"), ("late-secret", "expired")):
            async with client(cluster, token=token) as store:
                with pytest.raises(Unauthenticated, match=what):
                    await store.get("runs/1")
        async with client(cluster, token="boss-secret") as store:
            assert await value_of(store, "runs/1") == b"v"
            await store.compact(1)


async def test_a_token_that_is_withdrawn_ends_streams_and_watches(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    write_tokens(path, **TOKENS)
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start(**{"security.tokens": str(path)})
        await cluster.ready()
        async with client(cluster, token="trainer-secret") as store:
            await store.put("runs/1", "v")
            with pytest.raises(PermissionDenied):
                async with store.watch(prefix="models/") as watch:
                    await watch.__anext__()
            async with store.watch(prefix="runs/", revision=1) as watch:
                await watch.__anext__()
                write_tokens(path, boss=TOKENS["boss"])
                with pytest.raises(Unauthenticated, match=r"withdrawn|not known"):
                    await watch.__anext__()
            with contextlib.suppress(MaybeCommitted, Unauthenticated):
                await store.put("runs/1", "w")  # it may be under way when the stream is ended
            with pytest.raises(Unauthenticated):
                await store.put("runs/1", "w")


async def test_the_admin_service_asks_for_the_role(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    write_tokens(path, **TOKENS)
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start(**{"security.tokens": str(path)})
        await cluster.ready()
        address = f"127.0.0.1:{cluster.running[1].client_port}"

        def ask(token: str) -> None:
            access = admin.Access(token=token)
            admin.status(address, access=access)
            admin.inject_faults(address, admin_pb2.InjectFaultsRequest(heal=True), access=access)

        await asyncio.to_thread(ask, "boss-secret")
        for token, what in (("", "sent none"), ("reader-secret", "needs the role admin"), ("late-secret", "expired")):
            with pytest.raises(admin.AdminError, match=what):
                await asyncio.to_thread(ask, token)


async def test_the_streams_and_the_writes_of_one_client_are_bounded(tmp_path: Path) -> None:
    async with nodes(tmp_path, count=1) as cluster:
        await cluster.start(**{"limits.client_streams_max": 1, "limits.client_operations_per_s_max": 50})
        await cluster.ready()
        async with client(cluster) as first, client(cluster, timeout_s=1.0) as second:
            await first.put("k", "v")
            with pytest.raises(SynodError, match="1 streams to this replica already"):
                await second.put("k", "w")
            # What goes beyond the rate is refused before it is proposed, and sent again until there is room.
            for _ in range(2):
                await asyncio.gather(*(first.put(f"k{n}", "v") for n in range(60)))
            assert cluster.running[1].metrics.operations_refused > 0
