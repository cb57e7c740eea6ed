"""What can be set on a store object, and the names of the ways to read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, TypedDict

import msgspec

from replica.client.errors import InvalidArgument
from replica.client.port import PortOptions
from replica.wire.typed import Consistency as WireConsistency

Consistency: TypeAlias = Literal["linearizable", "stale", "read-index", "log", "lease", "quorum"]
"""How a read is served. ``linearizable`` leaves the way to the cluster and reflects every write acknowledged before;
``stale`` is whatever the replica nearest at hand has applied; the others demand one way and are refused where the
protocol does not offer it."""

CONSISTENCIES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "linearizable": WireConsistency.LINEARIZABLE,
        "stale": WireConsistency.STALE,
        "read-index": WireConsistency.READ_INDEX,
        "log": WireConsistency.LOG,
        "lease": WireConsistency.LEASE,
        "quorum": WireConsistency.QUORUM,
    }
)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a store object behaves. All have defaults; each field can be given to `connect` by name."""

    timeout_s: float = 10.0
    """How long an operation may take, unless it is given a time of its own. Kept to within 50 ms."""
    consistency: Consistency = "linearizable"
    """How reads are served, unless they say otherwise."""
    cluster: str = ""
    """The cluster that is meant; replicas of another one are refused. Empty: any."""
    region: str = ""
    """Where this client runs."""
    zone: str = ""
    """Where in the region."""
    stall_s: float = 3.0
    """A replica that takes so long to open a stream, or to answer an operation, is left for another."""
    drain_s: float = 5.0
    """How long `close` waits for operations that are on their way."""
    tls_authority: str = ""
    """File with the certificates (PEM) by which replicas are recognised; empty: no TLS."""
    tls_certificate: str = ""
    """File with this client's certificate chain (PEM), for mutual TLS."""
    tls_key: str = ""
    """File with the key of that certificate (PEM)."""
    token: str = ""
    """What this client shows to the replicas, where they ask for tokens; sent over TLS alone, unless to this host."""

    def port_options(self) -> PortOptions:
        """The part that concerns the port."""
        return PortOptions(
            tls_authority=self.tls_authority,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
            token=self.token,
        )


class OptionFields(TypedDict, total=False):
    """The fields of `Options`, as keyword arguments."""

    timeout_s: float
    consistency: Consistency
    cluster: str
    region: str
    zone: str
    stall_s: float
    drain_s: float
    tls_authority: str
    tls_certificate: str
    tls_key: str
    token: str


def make_options(fields: OptionFields) -> Options:
    """Checked options. Raises `InvalidArgument` naming what is wrong."""
    known = {field.name for field in msgspec.structs.fields(Options)}
    for name in fields:
        if name not in known:
            raise InvalidArgument(f"no option is called {name!r} (there are: {', '.join(sorted(known))})")
    try:
        options = msgspec.convert(dict(fields), Options)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"options: {error}") from None
    for name in ("timeout_s", "stall_s"):
        if not getattr(options, name) > 0:
            raise InvalidArgument(f"options: {name} must be more than 0")
    if not options.drain_s >= 0:
        raise InvalidArgument("options: drain_s must not be negative")
    return options


def wire_consistency(name: str) -> int:
    """The number of a way to read on the wire. Raises `InvalidArgument`."""
    try:
        return CONSISTENCIES[name]
    except KeyError:
        raise InvalidArgument(f"no consistency is called {name!r} (there are: {', '.join(CONSISTENCIES)})") from None
