"""Who may do what here: tokens with roles and prefixes, and what each operation needs.

A token is a secret that a client sends with every stream and call, in the metadata ``authorization: Bearer TOKEN``. The
replica knows its SHA-256 alone, from a TOML file that is read again when it changes:

    [[tokens]]
    name = "trainer"
    sha256 = "9f86d08…"
    role = "write"
    prefixes = ["runs/", "models/"]
    expires = 2027-01-01T00:00:00Z

A *reader* may read and watch, a *writer* may also write, both within the prefixes (all keys, without any); an *admin*
may also compact, take snapshots, change the members, and whatever else `Admin` offers. An interval is within the
prefixes when all keys that could be in it are. Leases belong to nobody: a writer who knows an id may renew or revoke
it, unless bound by prefixes; one who is bound may grant and renew.

A token is 32 random bytes, so a plain hash is as good as a slow one: there is nothing to guess.

Without a file of tokens everybody who can connect may do everything; certificates then decide who can connect.
"""

from __future__ import annotations

import hashlib
import logging
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, cast

import grpc
import grpc.aio
import msgspec

from replica.kv import operations as kv
from replica.wire import typed as wire

__all__ = ["AdminGuard", "Denied", "Grant", "Role", "TokenFileError", "Tokens", "digest_of_token", "required"]

_LOG = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the file is looked at, at most."""

TOKENS_MAX: Final = 10_000
"""Tokens in one file."""

_SCHEME: Final = "Bearer "


class Role(IntEnum):
    """What somebody may do; each includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class TokenFileError(Exception):
    """The file of tokens cannot be used; the text says why."""


class Denied(Exception):
    """Somebody may not do that. ``known``: it is known who asks, and it is too little."""

    def __init__(self, message: str, *, known: bool) -> None:
        super().__init__(message)
        self.known = known

    @property
    def code(self) -> wire.Code:
        """As clients are told."""
        return wire.Code.PERMISSION_DENIED if self.known else wire.Code.UNAUTHENTICATED


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a token allows."""

    name: str
    role: Role
    prefixes: tuple[bytes, ...] = ()
    """Empty: all keys."""
    expires_at: float | None = None
    """In seconds since the epoch."""
    digest: str = ""

    def allow(self, role: Role, what: str) -> None:
        """Raises `Denied` when the role does not reach so far."""
        if self.role < role:
            raise Denied(
                f"{what} needs the role {role.name.lower()}, and the token {self.name!r} has the role "
                f"{self.role.name.lower()}",
                known=True,
            )

    def check(self, operations: Iterable[kv.ClientOperation]) -> None:
        """May all of them be done? Raises `Denied` for the first that may not."""
        for operation in operations:
            role, what = required(operation)
            self.allow(role, what)
            if self.prefixes:
                self._check_keys(operation)

    def check_interval(self, first: bytes, last: bytes) -> None:
        """May all keys of ``[first, last)`` be seen? Raises `Denied`."""
        if self.prefixes and not any(_within(first, last, prefix) for prefix in self.prefixes):
            raise Denied(
                f"the interval from {first!r} to {last!r} is not within {self._where()} of the token {self.name!r}",
                known=True,
            )

    def _check_keys(self, operation: Any) -> None:
        match operation:
            case kv.Transaction(conditions=conditions, then=then, otherwise=otherwise):
                for each in (*conditions, *then, *otherwise):
                    self._check_keys(each)
            case kv.Range(first=first, last=last) | kv.DeleteRange(first=first, last=last):
                self.check_interval(first, last)
            case kv.Unchanged(first=first, last=last):
                self.check_interval(first, last)
            case kv.RevokeLease() | kv.ListLeases():
                raise Denied(
                    f"the keys of a lease may lie beyond {self._where()} of the token {self.name!r}: let it expire",
                    known=True,
                )
            case kv.DescribeLease(names=True):
                raise Denied(f"a lease may have keys beyond {self._where()} of the token {self.name!r}", known=True)
            case kv.AboutLeases() | kv.Compact():
                return
            case _:
                if not any(operation.key.startswith(prefix) for prefix in self.prefixes):
                    raise Denied(
                        f"the key {operation.key!r} is not within {self._where()} of the token {self.name!r}",
                        known=True,
                    )

    def _where(self) -> str:
        return f"the prefixes {', '.join(map(repr, self.prefixes))}"


def required(operation: kv.ClientOperation) -> tuple[Role, str]:
    """The role that an operation needs, and what it does, in a word."""
    match operation:
        case kv.Get() | kv.Range() | kv.DescribeLease() | kv.ListLeases():
            return Role.READ, "reading"
        case kv.Transaction(then=then, otherwise=otherwise):
            writes = any(not isinstance(each, kv.Get | kv.Range) for each in (*then, *otherwise))
            return (Role.WRITE, "writing") if writes else (Role.READ, "reading")
        case kv.Compact():
            return Role.ADMIN, "compacting"
        case _:
            return Role.WRITE, "writing"


def digest_of_token(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _within(first: bytes, last: bytes, prefix: bytes) -> bool:
    """Do all keys of ``[first, last)`` begin with ``prefix``? An empty ``last`` is the end of all keys."""
    if not first.startswith(prefix):
        return False
    end = _after(prefix)
    return not end or (bool(last) and last <= end)


def _after(prefix: bytes) -> bytes:
    """The first key that is behind all that begin with ``prefix``; empty when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


# ----------------------------------------------------------------------------------------------------- the file


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    sha256: str
    role: str
    prefixes: list[str] = []
    expires: datetime | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokens: list[_Entry] = []


class Tokens:
    """The tokens of a file, looked at again at most every `LOOK_S`; what cannot be read leaves them as they were."""

    def __init__(
        self, path: str, *, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `TokenFileError`."""
        self._path = Path(path)
        self._wall = wall
        self._clock = clock
        self._looked_at = clock()
        self._stamp = self._look()
        self._grants = _load(self._path)

    def grant_of(self, metadata: Any) -> Grant:
        """Whose call it is, by its metadata. Raises `Denied`."""
        for key, value in metadata or ():
            if key == "authorization":
                text = value if isinstance(value, str) else value.decode(errors="replace")
                return self._grant(text.removeprefix(_SCHEME).strip())
        raise Denied("a token is needed here, and the client sent none", known=False)

    def check(self, grant: Grant) -> None:
        """Does what was granted hold still? Raises `Denied`."""
        self._refresh()
        if self._grants.get(grant.digest) != grant:
            raise Denied(f"the token {grant.name!r} was withdrawn or changed", known=False)
        self._check_expiry(grant)

    def _grant(self, token: str) -> Grant:
        self._refresh()
        grant = self._grants.get(digest_of_token(token))
        if grant is None:
            raise Denied("the client's token is not known here", known=False)
        self._check_expiry(grant)
        return grant

    def _check_expiry(self, grant: Grant) -> None:
        if grant.expires_at is not None and grant.expires_at <= self._wall():
            when = datetime.fromtimestamp(grant.expires_at).astimezone().isoformat(timespec="seconds")
            raise Denied(f"the token {grant.name!r} expired at {when}", known=False)

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._grants = _load(self._path)
                self._stamp = stamp
                _LOG.info("tokens read again from %s", self._path)
        except TokenFileError as error:
            _LOG.warning("tokens stay as they were: %s", error)

    def _look(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError as error:
            raise TokenFileError(f"{self._path} cannot be read: {error.strerror or error}") from None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _load(path: Path) -> Mapping[str, Grant]:
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise TokenFileError(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise TokenFileError(f"{path} is no file of tokens: {error}") from None
    if len(found.tokens) > TOKENS_MAX:
        raise TokenFileError(f"{path} has {len(found.tokens)} tokens, more than {TOKENS_MAX}")
    grants: dict[str, Grant] = {}
    for entry in found.tokens:
        grant = _grant_of(path, entry)
        if grant.digest in grants:
            raise TokenFileError(f"{path}: the tokens {entry.name!r} and {grants[grant.digest].name!r} are the same")
        grants[grant.digest] = grant
    return grants


def _grant_of(path: Path, entry: _Entry) -> Grant:
    digest = entry.sha256.lower()
    if len(digest) != 2 * hashlib.sha256().digest_size or not all(each in "0123456789abcdef" for each in digest):
        raise TokenFileError(f"{path}: sha256 of the token {entry.name!r} is not a SHA-256 in hexadecimal")
    try:
        role = Role[entry.role.upper()]
    except KeyError:
        roles = ", ".join(role.name.lower() for role in Role)
        raise TokenFileError(
            f"{path}: role of the token {entry.name!r} is {entry.role!r}, not one of {roles}"
        ) from None
    return Grant(
        name=entry.name,
        role=role,
        prefixes=tuple(prefix.encode() for prefix in entry.prefixes),
        expires_at=None if entry.expires is None else entry.expires.timestamp(),
        digest=digest,
    )


# ------------------------------------------------------------------------------------------------- the admin service

_ADMIN_PATH: Final = f"/{wire.ADMIN}/"

_READING: Final = frozenset({"Status", "Digest", "Metrics", "MeasureLinks"})
"""What of `Admin` a reader may ask for; everything else is for admins."""


class AdminGuard(grpc.aio.ServerInterceptor):
    """Lets nobody call `Admin` whose token does not say so. Health and reflection are for everybody, and `Session`
    judges for itself.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Judge a call before it reaches the service."""
        method = handler_call_details.method
        if method.startswith(_ADMIN_PATH):
            name = method.removeprefix(_ADMIN_PATH)
            try:
                grant = self._tokens.grant_of(handler_call_details.invocation_metadata)
                grant.allow(Role.READ if name in _READING else Role.ADMIN, name)
            except Denied as denied:
                return _refusing(denied)
        return await continuation(handler_call_details)


def _refusing(denied: Denied) -> grpc.RpcMethodHandler[Any, Any]:
    code = grpc.StatusCode.PERMISSION_DENIED if denied.known else grpc.StatusCode.UNAUTHENTICATED

    async def refuse(_request: Any, context: Any) -> Any:
        await context.abort(code, str(denied))

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(cast("Any", refuse))
    return handler
