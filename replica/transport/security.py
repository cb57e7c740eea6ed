"""TLS between replicas and towards clients: files in, credentials out, and who a peer is certified to be.

**Names.** The certificate of replica 3 names ``replica-3.synod``. Whoever connects to replica 3 demands that name of
the one who answers, wherever it runs; who is connected to demands it of the one who says to be replica 3. An address
can be taken over, a name cannot.

**Renewal.** Files are looked at when a connection is made, and read again when they have changed: a certificate is
renewed by replacing its files, and connections that stand are left alone. Files that cannot be read, or are half
written, change nothing: the last that could be used stay in use, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec

from replica.consensus.interface import ReplicaId

_LOG = logging.getLogger(__name__)

_SUFFIX: Final = ".synod"

_BEGIN: Final = b"-----BEGIN "


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of PEM files."""

    certificate: str
    """The certificate, followed by those between it and the authority."""
    key: str
    authority: str = ""
    """By which the other side is recognised. A listener without it asks nobody for a certificate."""


class Material(msgspec.Struct, frozen=True):
    """What the files hold."""

    certificate: bytes
    key: bytes
    authority: bytes | None


class Credentials:
    """The files of one listener and of the channels that lead to its like; read again when they have changed."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `OSError` or `ValueError` when they cannot be used."""
        self.files = files
        self._stamp = self._look()
        self._material = self._read()

    @property
    def mutual(self) -> bool:
        """Must the other side show a certificate?"""
        return bool(self.files.authority)

    def current(self) -> Material:
        """What the files hold now, or held when they could last be used. From any thread."""
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._material = self._read()
                self._stamp = stamp
                _LOG.info("certificates read again from %s", self.files.certificate)
        except (OSError, ValueError) as error:
            _LOG.warning("certificates stay as they were: %s", error)
        return self._material

    def server(self) -> grpc.ServerCredentials:
        """For a listener. What it shows follows the files."""
        fetch: Callable[[], Any] = lambda: _configuration(self.current())  # noqa: E731 - grpc calls it for each connection
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._material), fetch, require_client_authentication=self.mutual
        )

    def channel(self) -> grpc.ChannelCredentials:
        """For one channel, as the files are now."""
        material = self.current()
        return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)

    def _paths(self) -> list[str]:
        files = self.files
        return [path for path in (files.certificate, files.key, files.authority) if path]

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = (Path(path).stat() for path in self._paths())
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)

    def _read(self) -> Material:
        certificate, key, *authority = (Path(path).read_bytes() for path in self._paths())
        for path, data in zip(self._paths(), (certificate, key, *authority), strict=True):
            if _BEGIN not in data:
                raise ValueError(f"{path} is not a PEM file")
        return Material(certificate, key, authority[0] if authority else None)


def replica_name(replica: ReplicaId) -> str:
    """The name in the certificate of a replica."""
    return f"replica-{replica}{_SUFFIX}"


def certified(context: Any, replica: ReplicaId) -> bool:
    """Does the certificate of the one who called name that replica?"""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return replica_name(replica).encode() in names


def certified_as(context: Any) -> str:
    """What the caller's certificate says of it, for people."""
    facts = context.auth_context()
    names = [*facts.get("x509_common_name", ()), *facts.get("x509_subject_alternative_name", ())]
    return ", ".join(dict.fromkeys(name.decode(errors="replace") for name in names)) or "nobody"


def common_name(context: Any) -> str:
    """The common name of the caller's certificate; empty without one."""
    names = context.auth_context().get("x509_common_name", ())
    return names[0].decode(errors="replace") if names else ""


def _configuration(material: Material) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.authority
    )
