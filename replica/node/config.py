"""The configuration of a node: one frozen struct, read once and validated once.

A value comes from, in order of precedence: a flag of the command line, an environment variable, the TOML
file, the default. The name of an environment variable is ``SYNOD_`` and the path of the field with
underscores, in capitals: ``listen.peer`` is ``SYNOD_LISTEN_PEER``. Two fields that are no scalars have a
notation of their own, for flags and environment alike:

- ``members``: ``ID=PEER[/CLIENT][@REGION[/ZONE]]``, separated by commas;
- ``protocol.options``: ``NAME=VALUE``, separated by commas.

Every error is a `ConfigurationError` whose text begins with the path of the field.

What is pinned when the data folder is formatted (cluster, replica, protocol, its options, the members) is
changed by a reconfiguration and never by editing the file; `replica.node.replica` compares them. Only
*addresses* of members may be edited: where a replica can be reached is not a matter of consensus.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from replica.consensus.interface import Configuration, ConfigurationError, Member, validate_configuration
from replica.consensus.registry import find_protocol
from replica.kv.operations import OPERATION_BYTES_MAX, RUN_OPERATIONS_MAX, SESSION_WINDOW

__all__ = ["ENVIRONMENT_PREFIX", "NodeConfig", "load_config", "split_address"]

ENVIRONMENT_PREFIX = "SYNOD_"

Bytes: TypeAlias = int
"""A size in bytes."""


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the replica listens: ``HOST:PORT``, ``[V6]:PORT``; port 0 takes a free one. Loopback unless
    told otherwise.
    """

    peer: str = "127.0.0.1:7101"
    client: str = "127.0.0.1:7001"
    metrics: str = ""
    """Prometheus exposition over HTTP; empty: none."""


class Advertise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where others reach the replica, if that differs from where it listens."""

    peer: str = ""
    client: str = ""


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files of one listener. Empty: plain text."""

    certificate: str = ""
    key: str = ""
    authority: str = ""
    """Certificates by which the other side is recognised; with it, whoever connects must show one."""


class SecurityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may connect, and do what. Files are read again when they change."""

    peer: TlsConfig = TlsConfig()
    """Between replicas, always mutual; the certificate of replica N names ``replica-N.synod``."""
    client: TlsConfig = TlsConfig()
    tokens: str = ""
    """The TOML file of tokens (`replica.node.access`); empty: whoever can connect may do everything."""


class MemberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One replica of the initial configuration (or, for one that joins, one to ask)."""

    replica: int
    peer: str
    client: str = ""
    region: str = ""
    zone: str = ""


class ProtocolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The protocol by its name in the entry-point group ``synod.protocols``, and its options."""

    name: str = "multipaxos"
    options: dict[str, int | float | str | bool] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds. What goes beyond them is refused before it is proposed."""

    queued_operations_max: int = 100_000
    """Operations proposed and not yet decided, over all sessions."""
    queued_bytes_max: Bytes = 256 << 20
    """Their payloads together."""
    queued_reads_max: int = 20_000
    """Reads that wait for their frontier, over all sessions."""
    session_operations_max: int = SESSION_WINDOW
    """Operations of one attached session that are not yet answered."""
    session_outgoing_bytes_max: Bytes = 64 << 20
    """Answers that a client has not taken yet; beyond it the stream is closed."""
    sessions_attached_max: int = 4096
    client_streams_max: int = 4096
    """Streams of one client: of one token or else certificate or else host."""
    client_operations_per_s_max: int = 0
    """Operations a second that one client may write, in the mean over a second; 0: as many as it likes."""
    session_watches_max: int = 4096
    """Watches of one stream."""
    watches_max: int = 100_000
    """Watches of all streams."""
    watch_stream_bytes_max: Bytes = 16 << 20
    """What the watches of one stream have been told and their client has not taken; beyond it they end as slow."""
    watch_bytes_max: Bytes = 256 << 20
    """The same over all streams; beyond it those that leave much untaken are ended."""
    run_operations_max: int = RUN_OPERATIONS_MAX
    """Operations in one run."""
    frame_bytes_max: Bytes = 8 << 20
    """A frame from a client, and as a rule a frame to it (one result may be larger)."""
    turn_events_max: int = 4096
    """Events that one turn digests; the rest waits for the next."""
    turn_operations_max: int = 16_384
    """Operations that one turn proposes; the rest waits for the next."""
    storage_reserve_bytes: Bytes = 64 << 20
    """Proposals are refused once less than this is free, on the disk or in the maps of the two
    environments.
    """


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the replica takes a snapshot and truncates its log behind it, whichever comes first; 0: never."""

    every_positions: int = 200_000
    every_bytes: Bytes = 512 << 20


COMPACTION_LOOKS_MAX: Final = 100_000
"""Revisions that a replica notes within `CompactionPolicy.keep_s`."""


class CompactionPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which revisions the leader keeps when nobody asks; what either of the bounds keeps is kept. Both 0: all of them,
    until a client compacts.

    The leader's policy counts, so give all replicas the same.
    """

    keep_revisions: int = 0
    """So many of the last changes can still be watched, and the revision before them be read."""
    keep_s: float = 0.0
    """The revisions of the last so many seconds stay readable."""
    every_s: float = 60.0
    """How often the leader looks."""

    @property
    def enabled(self) -> bool:
        """Is anything given up?"""
        return bool(self.keep_revisions or self.keep_s)


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Address space reserved for the two environments (sparse: it costs nothing until it is used)."""

    log_map_bytes: Bytes = 16 << 30
    state_map_bytes: Bytes = 64 << 30
    state_commit_ms: float = 1000.0
    """How long applied commands may wait to be committed to the state, so that a process that was killed need not
    replay them from the log; a busy replica may take twice as long.
    """
    state_commit_bytes: Bytes = 16 << 20
    """So much written to the log has the state committed sooner: what waits is held in memory."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The replica's account of itself on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
    metrics_every_s: float = 0.0
    """So often the metrics are logged, under the names by which they are exposed; 0: never."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a node is told from outside."""

    cluster: str
    """The cluster's identity: replicas and clients of another one are refused."""
    replica: int
    """This replica's id, 1 or more; never reused."""
    data: str
    """The data folder."""
    region: str = ""
    zone: str = ""
    members: tuple[MemberConfig, ...] = ()
    listen: Listen = Listen()
    advertise: Advertise = Advertise()
    protocol: ProtocolConfig = ProtocolConfig()
    durability: Literal["sync", "none"] = "sync"
    """``none`` is for experiments: a power cut or a crash of the operating system may lose acknowledged
    writes.
    """
    sync_mode: Literal["inline", "thread", "auto"] = "auto"
    """Where syncs run; ``auto`` measures the disk at the start and moves to the thread after slow syncs."""
    reads: Literal["auto", "read-index", "lease", "quorum", "log"] = "auto"
    """How a read that asks for ``linearizable`` is served; ``auto`` takes the first of that list that there
    is.
    """
    batch_max: int = 512
    """Operations of one session that are proposed as one command; 1 turns batching off."""
    security: SecurityConfig = SecurityConfig()
    limits: Limits = Limits()
    snapshot: SnapshotPolicy = SnapshotPolicy()
    compaction: CompactionPolicy = CompactionPolicy()
    storage: StorageConfig = StorageConfig()
    log: LogConfig = LogConfig()
    enable_fault_injection: bool = False
    bootstrap: bool = False
    """Format an empty data folder as that of a member of the initial configuration."""
    join: bool = False
    """Format an empty data folder as that of a replica which waits to be made a member."""

    def member(self, replica: int) -> MemberConfig | None:
        """The member with that id, or None."""
        return next((member for member in self.members if member.replica == replica), None)

    def initial_configuration(self) -> Configuration:
        """The configuration of the first epoch."""
        return Configuration(
            epoch=1,
            members=tuple(
                Member(
                    replica=member.replica,
                    peer_address=member.peer,
                    client_address=member.client,
                    region=member.region,
                    zone=member.zone,
                )
                for member in sorted(self.members, key=lambda member: member.replica)
            ),
            protocol=self.protocol.name,
            options=self.protocol.options,
        )


def load_config(
    path: str | Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Read, merge and validate.

    ``flags`` maps the path of a field (``"listen.peer"``) to its value, or to its text. Raises
    `ConfigurationError`.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        merged = _read_file(Path(path))
    for field_path, kind in _fields(NodeConfig):
        variable = ENVIRONMENT_PREFIX + field_path.replace(".", "_").upper()
        text = (environment or {}).get(variable)
        if text is not None:
            _insert(merged, field_path, _parse(field_path, kind, text, f" (from {variable})"))
    kinds = dict(_fields(NodeConfig))
    for field_path, value in (flags or {}).items():
        if field_path not in kinds:
            raise ConfigurationError(f"{field_path}: there is no such field (there are: {', '.join(kinds)})")
        _insert(merged, field_path, _parse(field_path, kinds[field_path], value, ""))
    try:
        config = msgspec.convert(merged, NodeConfig)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_rephrase(error)) from None
    _validate(config)
    return config


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[V6]:PORT``. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r} is not HOST:PORT (write an IPv6 address as [ADDRESS]:PORT)")
    return host, int(port)


# ---------------------------------------------------------------------------------------------------- reading


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(
            f"config: {path} cannot be read: {error.strerror or error} (name another file with --config)"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"config: {path} is not TOML: {error}") from None


def _fields(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _fields(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.type


def _insert(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        inner = target.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{parent}: expected a table")
        target = inner
    target[name] = value


def _parse(path: str, kind: Any, value: object, origin: str) -> Any:
    if not isinstance(value, str):
        return value
    if path == "members":
        return _parse_members(value, origin)
    if path == "protocol.options":
        return _parse_options(value, origin)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {_lower(str(error))}{origin}") from None


def _parse_members(text: str, origin: str) -> list[dict[str, Any]]:
    members = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        replica, equals, rest = part.partition("=")
        addresses, _, place = rest.partition("@")
        peer, _, client = addresses.partition("/")
        region, _, zone = place.partition("/")
        if not equals or not replica.isdecimal() or not peer:
            raise ConfigurationError(f"members: {part!r} is not ID=PEER[/CLIENT][@REGION[/ZONE]]{origin}")
        members.append({"replica": int(replica), "peer": peer, "client": client, "region": region, "zone": zone})
    return members


def _parse_options(text: str, origin: str) -> dict[str, int | float | str | bool]:
    options: dict[str, int | float | str | bool] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"protocol.options: {part!r} is not NAME=VALUE{origin}")
        options[name] = _scalar(value)
    return options


def _scalar(text: str) -> int | float | str | bool:
    if text in {"true", "false"}:
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _rephrase(error: msgspec.ValidationError) -> str:
    """msgspec says "Expected `int`, got `str` - at `$.listen.peer`"; here the path stands in front."""
    message, _, path = str(error).partition(" - at `")
    path = path.removesuffix("`").removeprefix("$").removeprefix(".")
    message = message.replace("`", "")
    for opening in ("Object missing required field ", "Object contains unknown field "):
        if message.startswith(opening):
            name = message.removeprefix(opening)
            missing = opening.startswith("Object missing")
            what = "is required and was not given" if missing else f"there is no such field{_known(path)}"
            return f"{path}.{name}: {what}" if path else f"{name}: {what}"
    return f"{path or 'config'}: {_lower(message)}"


def _known(path: str) -> str:
    kind: Any = NodeConfig
    for name in filter(None, path.split(".")):
        field = next((f for f in msgspec.structs.fields(kind) if f.name == name), None)
        if field is None or not (isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)):
            return ""
        kind = field.type
    return f" (there are: {', '.join(field.name for field in msgspec.structs.fields(kind))})"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].replace("`", "")


# ------------------------------------------------------------------------------------------------- validation


def _validate(config: NodeConfig) -> None:
    if not config.cluster:
        raise ConfigurationError("cluster: must not be empty")
    if config.replica < 1:
        raise ConfigurationError(f"replica: {config.replica} is not a positive integer")
    if not config.data:
        raise ConfigurationError("data: must not be empty")
    _check_addresses(config)
    _check_limits(config)
    _check_security(config.security)
    if config.log.metrics_every_s < 0:
        raise ConfigurationError(f"log.metrics_every_s: {config.log.metrics_every_s} is negative (0: never)")
    if config.bootstrap and config.join:
        raise ConfigurationError("join: a replica is either bootstrapped or joins, not both")
    _check_members(config.members)
    if not config.members:
        raise ConfigurationError("members: at least one replica is required")
    if config.member(config.replica) is None and not config.join:
        ids = ", ".join(str(member.replica) for member in config.members)
        raise ConfigurationError(
            f"replica: {config.replica} is not among the members ({ids}); "
            "a replica that is to be added to a running cluster is started with --join"
        )
    spec = find_protocol(config.protocol.name)
    _check_compaction(config.compaction)
    if config.compaction.enabled and not spec.capabilities.total_order:
        raise ConfigurationError(
            f"compaction: protocol {spec.name!r} orders by object and has no revisions of the store to keep or give up"
        )
    offered = spec.offers(validate_configuration(spec, config.initial_configuration())).reads
    if config.reads not in {"auto", *offered}:
        raise ConfigurationError(
            f"reads: protocol {spec.name!r} has no reads by {config.reads!r} "
            f"(it has: {', '.join(sorted(offered)) or 'none'})"
        )


def _check_compaction(policy: CompactionPolicy) -> None:
    if policy.keep_revisions < 0:
        raise ConfigurationError(f"compaction.keep_revisions: {policy.keep_revisions} is negative (0: no bound)")
    if not 0 <= policy.keep_s < math.inf:
        raise ConfigurationError(f"compaction.keep_s: {policy.keep_s} is not a time in seconds (0: no bound)")
    if not 0 < policy.every_s < math.inf:
        raise ConfigurationError(f"compaction.every_s: {policy.every_s} is not a positive time in seconds")
    if policy.keep_s / policy.every_s > COMPACTION_LOOKS_MAX:
        raise ConfigurationError(
            f"compaction.every_s: {policy.every_s} is too often for keep_s {policy.keep_s}: at most "
            f"{COMPACTION_LOOKS_MAX} looks within it are remembered"
        )


def _check_addresses(config: NodeConfig) -> None:
    named = {
        "listen.peer": config.listen.peer,
        "listen.client": config.listen.client,
        "listen.metrics": config.listen.metrics,
        "advertise.peer": config.advertise.peer,
        "advertise.client": config.advertise.client,
    }
    for path, address in named.items():
        if address or path in {"listen.peer", "listen.client"}:
            _check_address(path, address)
    listening = [(p, a) for p, a in named.items() if p.startswith("listen.") and a and not a.endswith(":0")]
    for index, (path, address) in enumerate(listening):
        for other_path, other in listening[:index]:
            if other == address:
                raise ConfigurationError(f"{path}: {address} is already that of {other_path}")


def _check_address(path: str, address: str) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _check_security(security: SecurityConfig) -> None:
    for path, tls in (("security.peer", security.peer), ("security.client", security.client)):
        for name, other in (("certificate", "key"), ("key", "certificate")):
            if getattr(tls, name) and not getattr(tls, other):
                raise ConfigurationError(f"{path}.{other}: is required with {path}.{name}")
        if tls.authority and not tls.certificate:
            raise ConfigurationError(f"{path}.certificate: is required with {path}.authority")
    if security.peer.certificate and not security.peer.authority:
        raise ConfigurationError("security.peer.authority: is required: between replicas, TLS is mutual")


def _check_members(members: Sequence[MemberConfig]) -> None:
    seen: set[int] = set()
    for index, member in enumerate(members):
        if member.replica < 1:
            raise ConfigurationError(f"members[{index}].replica: {member.replica} is not a positive integer")
        if member.replica in seen:
            raise ConfigurationError(f"members[{index}].replica: replica id {member.replica} appears more than once")
        seen.add(member.replica)
        _check_address(f"members[{index}].peer", member.peer)
        if member.client:
            _check_address(f"members[{index}].client", member.client)


_MAY_BE_ZERO = frozenset({"client_operations_per_s_max"})


def _check_limits(config: NodeConfig) -> None:
    if config.batch_max < 1:
        raise ConfigurationError(f"batch_max: {config.batch_max} is less than 1 (1 turns batching off)")
    for table, struct in (("limits", config.limits), ("storage", config.storage)):
        for field in msgspec.structs.fields(type(struct)):
            value = getattr(struct, field.name)
            if value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
                raise ConfigurationError(f"{table}.{field.name}: {value} is not positive")
    for field in msgspec.structs.fields(SnapshotPolicy):
        value = getattr(config.snapshot, field.name)
        if value < 0:
            raise ConfigurationError(f"snapshot.{field.name}: {value} is negative (0: never)")
    limits = config.limits
    for name, most in (
        ("run_operations_max", RUN_OPERATIONS_MAX),
        ("session_operations_max", SESSION_WINDOW),
    ):
        if getattr(limits, name) > most:
            raise ConfigurationError(f"limits.{name}: {getattr(limits, name)} is more than {most}")
    if limits.frame_bytes_max < 2 * OPERATION_BYTES_MAX:
        raise ConfigurationError(
            f"limits.frame_bytes_max: {limits.frame_bytes_max} is less than two operations of the largest size "
            f"({2 * OPERATION_BYTES_MAX})"
        )
