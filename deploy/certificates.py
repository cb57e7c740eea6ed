"""A certificate authority in a folder, for tests and for clusters of one's own.

The folder holds ``authority.pem`` and ``authority.key``, and for everybody who was given a certificate ``NAME.pem`` and
``NAME.key``. Keys are readable by their owner alone. What a certificate says:

- of a replica: its name, ``replica-N.synod`` (`replica.transport.security`), by which peers recognise it, and the hosts
  under which clients reach it. It serves and it connects, for peers are both;
- of a client: its name, as common name. It connects, and cannot pose as a replica.

Asking again for a certificate that is there changes nothing, unless it is renewed: then the files are replaced, and who
uses them takes the new ones up without a restart. An authority made here is no substitute for one that is looked after:
whoever reads ``authority.key`` can be anybody.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from replica.transport.security import replica_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY = "authority"
DAYS = 825
"""How long certificates hold unless told otherwise; the authority holds ten times as long."""

BACKDATED = dt.timedelta(minutes=5)
"""Certificates hold from so long before they are made: clocks differ."""


class CertificateError(Exception):
    """What went wrong, and what to do."""


class CertificateFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where the certificate and the key of somebody lie, and the certificate of the authority."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """The authority in a folder; made on the first use."""

    def __init__(self, folder: Path, *, days: int = DAYS) -> None:
        """Raises `CertificateError` where the package ``cryptography`` is missing, or the folder is of no use."""
        try:
            import cryptography  # noqa: F401
        except ImportError:
            raise CertificateError(
                "making certificates needs the package cryptography: pip install 'synod[certs]'"
            ) from None
        self.folder = folder
        self._days = days
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._path(AUTHORITY, "key").exists():
                self._found()
            self._key, self._certificate = self._load()
        except (OSError, ValueError) as error:
            raise CertificateError(f"{folder}: the authority cannot be used: {error}") from None

    def replica(self, replica: int, hosts: Sequence[str], *, renew: bool = False) -> CertificateFiles:
        """The certificate of a replica that clients reach at ``hosts`` (names or addresses)."""
        name = f"replica-{replica}"
        return self._issue(name, [replica_name(replica), *hosts], server=True, renew=renew)

    def client(self, name: str, *, renew: bool = False) -> CertificateFiles:
        """The certificate of a client. Raises `CertificateError` for a name that is no file's."""
        if not name or not all(each.isalnum() or each in "-_." for each in name) or name.startswith("."):
            raise CertificateError(f"{name!r} is no name for a client: letters, digits, '-', '_' and '.'")
        if name == AUTHORITY or name.startswith("replica-"):
            raise CertificateError(f"{name!r} is the name of the authority or of a replica, not of a client")
        return self._issue(name, [], server=False, renew=renew)

    # -------------------------------------------------------------------------------------------------------- internal

    def _path(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"

    def _found(self) -> None:
        from cryptography import x509

        key = _new_key()
        name = _name("Synod authority")
        builder = (
            _builder(name, name, key, 10 * self._days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        self._save(AUTHORITY, _signed(builder, key), key)

    def _load(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(self._path(AUTHORITY, "key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is not one of an elliptic curve")
        return key, x509.load_pem_x509_certificate(self._path(AUTHORITY, "pem").read_bytes())

    def _issue(self, name: str, names: Sequence[str], *, server: bool, renew: bool) -> CertificateFiles:
        from cryptography import x509
        from cryptography.x509.oid import ExtendedKeyUsageOID

        files = CertificateFiles(
            certificate=self._path(name, "pem"), key=self._path(name, "key"), authority=self._path(AUTHORITY, "pem")
        )
        if files.certificate.exists() and files.key.exists() and not renew:
            return files
        key = _new_key()
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if server else [])]
        builder = (
            _builder(_name(name), self._certificate.subject, key, self._days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(each) for each in dict.fromkeys(names)]), critical=False
            )
        try:
            self._save(name, _signed(builder, self._key), key)
        except OSError as error:
            raise CertificateError(f"{self.folder}: the certificate of {name} cannot be written: {error}") from None
        return files

    def _save(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The certificate last: whoever watches the pair takes it up when both are there.
        _replace(self._path(name, "key"), secret, 0o600)
        _replace(self._path(name, "pem"), certificate.public_bytes(Encoding.PEM), 0o644)


def _replace(path: Path, data: bytes, mode: int) -> None:
    staged = path.with_name(path.name + ".tmp")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    staged.replace(path)


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)
