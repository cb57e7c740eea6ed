"""``synod certs``, ``synod token`` and ``synod cluster up --tls`` as a person types them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from deploy import Cluster
from tests.integration.deploy.test_commands import done, folder, synod

pytest.importorskip("cryptography")

__all__ = ["folder"]


def lines_of(output: str) -> list[str]:
    return [line.partition(":")[0] for line in output.splitlines()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_certificates_are_made_for_replicas_and_clients_and_keys_are_their_owners_alone(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    made = done("certs", str(certs), "--replicas", "3", "--replica", "7", "--client", "alice")
    assert lines_of(made) == ["authority", "replica-1", "replica-2", "replica-3", "replica-7", "alice"]
    for name in ("authority", "replica-1", "replica-7", "alice"):
        assert (certs / f"{name}.pem").exists()
        assert mode(certs / f"{name}.key") == 0o600


def test_what_is_there_is_kept_and_renewed_only_when_asked(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    done("certs", str(certs), "--replicas", "1")
    before = {path.name: path.read_bytes() for path in certs.iterdir()}
    done("certs", str(certs), "--replicas", "1")
    assert {path.name: path.read_bytes() for path in certs.iterdir()} == before
    done("certs", str(certs), "--replicas", "1", "--renew")
    changed = {path.name for path in certs.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"replica-1.pem", "replica-1.key"}


@pytest.mark.parametrize("name", ["authority", "replica-1", "../elsewhere", ".hidden", ""])
def test_a_client_cannot_be_given_the_name_of_something_else(tmp_path: Path, name: str) -> None:
    refused = synod("certs", str(tmp_path / "certs"), "--client", name)
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
    assert not (tmp_path / "elsewhere.pem").exists()


def test_an_authority_that_cannot_be_read_is_an_error_and_is_not_replaced(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    certs.mkdir()
    (certs / "authority.key").write_text("no key")
    refused = synod("certs", str(certs), "--replicas", "1")
    assert refused.exit_code == 1
    assert "the authority cannot be used" in refused.output
    assert (certs / "authority.key").read_text() == "no key"


def test_a_token_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    first = done(
        "token", str(file), "--name", "writer", "--role", "write", "--prefix", "a/", "--expires", "30d"
    ).strip()
    second = done("token", str(file), "--name", "reader", "--role", "read").strip()
    kept = file.read_text()
    assert first not in kept
    assert second not in kept
    assert kept.count("[[tokens]]") == 2
    assert mode(file) == 0o600
    wrong = synod("token", str(file), "--name", "x", "--role", "read", "--expires", "soon")
    assert wrong.exit_code == 2
    assert file.read_text() == kept


@pytest.mark.timeout(300)
def test_a_cluster_with_tls_serves_those_with_a_certificate_and_refuses_others(folder: str, tmp_path: Path) -> None:
    said = done("cluster", "up", "--folder", folder, "--base-port", "0", "--tls")
    found = Cluster.open(folder)
    access = found.access
    assert access.authority in said
    endpoints = ",".join(found.endpoints)
    shown = ("--tls-authority", access.authority)
    own = (*shown, "--tls-certificate", access.certificate, "--tls-key", access.key)
    done("put", "--endpoints", endpoints, *own, "greeting", "hello")
    assert done("get", "--endpoints", endpoints, *own, "greeting").strip() == "hello"
    for lacking in ((), shown):
        refused = synod("get", "--endpoints", endpoints, "--timeout", "2", *lacking, "greeting")
        assert refused.exit_code != 0, "no certificate was shown"
    # Of another authority, by the same name.
    done("certs", str(tmp_path / "others"), "--client", "client")
    foreign = (
        "--tls-certificate",
        str(tmp_path / "others/client.pem"),
        "--tls-key",
        str(tmp_path / "others/client.key"),
    )
    assert synod("get", "--endpoints", endpoints, "--timeout", "2", *shown, *foreign, "greeting").exit_code != 0
    # Who comes later is given a certificate as well.
    assert "replica 4 is a member" in done("member", "add", "--folder", folder, "--timeout", "120")
    assert all(row["ready"] for row in json.loads(done("cluster", "status", "--folder", folder, "--json")))


def test_tls_where_replicas_would_not_see_the_certificates_is_refused(folder: str) -> None:
    refused = synod("cluster", "up", "--folder", folder, "--tls", "--driver", "docker")
    assert refused.exit_code != 0
    assert "tls" in refused.output
