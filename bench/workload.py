"""What clients ask: the declaration of a workload, as TOML has it.

    summary = "half reads, Zipfian keys, some transactions"
    keys = 1000

    [mix]                     # shares of the kinds of operations, 1 in all (or `writes = 0.5` for reads and writes)
    read = 0.5
    write = 0.4
    transaction = 0.1

    [distribution]            # how a key is chosen
    kind = "zipfian"
    exponent = 0.99

    [value]
    kind = "fixed"
    bytes = 128

A file is read once and checked as a whole by `load_workload`; a mistake is one line that names the field. The shipped
ones are in ``bench/workloads``. What they ask is made by `bench.operations`, where operation n of client i is a pure
function of (seed, i, n).

Kinds of operations
-------------------
``read`` one key; ``write`` one key blindly; ``update`` reads and then writes one key, as two operations that count as
one (the write depends on what was read: YCSB F); ``insert`` a new key; ``delete`` one key; ``add`` 1 to a counter;
``scan`` an interval; ``transaction`` over several keys of one *group*. ``create-run``, ``log-metrics``,
``register-artifact`` and ``list-runs`` are those of a store of machine-learning metadata.

Groups
------
Keys fall into groups of ``group`` neighbours, and a transaction stays within one group (``group = 0``: anywhere). So
the sets of keys that operations connect are known, and a sample of groups can be judged without the rest.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

VALUE_BYTES_MIN: Final = 16
"""Every value that is written carries the id of its operation."""

VALUE_BYTES_MAX: Final = 1 << 20

KEYS_MAX: Final = 100_000_000

TRANSACTION_KEYS_MAX: Final = 64
"""A transaction compares and writes each of its keys at most once, which must stay within the store's limit."""

SCAN_MAX: Final = 10_000

Kind: TypeAlias = Literal[
    "read",
    "write",
    "update",
    "insert",
    "delete",
    "add",
    "scan",
    "transaction",
    "create-run",
    "log-metrics",
    "register-artifact",
    "list-runs",
]

METADATA_KINDS: Final[frozenset[str]] = frozenset({"create-run", "log-metrics", "register-artifact", "list-runs"})
TRANSACTIONAL: Final[frozenset[str]] = frozenset({"transaction"}) | METADATA_KINDS - {"list-runs"}
"""Kinds that a protocol without transactions cannot do."""

WRITING: Final[frozenset[str]] = frozenset(
    {"write", "update", "insert", "delete", "add", "transaction", "create-run", "log-metrics", "register-artifact"}
)


class WorkloadError(ValueError):
    """A workload that cannot be used; the text names the field."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key is chosen among ``keys``, numbered from 0."""

    kind: Literal["uniform", "zipfian", "normal", "exponential", "ordered", "latest"] = "uniform"
    """``ordered`` takes them in turn; ``latest`` is Zipfian over what was inserted most recently."""
    exponent: float = 0.99
    """Of ``zipfian`` and ``latest``: the n-th key is chosen in proportion to (offset + n) ** -exponent."""
    offset: float = 1.0
    scramble: bool = True
    """Of ``zipfian``: spread the popular keys over all keys, rather than have them begin at 0."""
    mean: float = 0.5
    """Of ``normal``, as a share of the keys."""
    deviation: float = 0.1
    """Of ``normal`` (standard deviation) as a share of the keys."""
    rate: float = 10.0
    """Of ``exponential``: the mean is ``keys / rate``."""
    move_every: int = 0
    """The hot spot (of any distribution) moves after so many operations of a client; 0: it stays."""
    move_by: int = 1
    """By how many keys it moves."""


class Conflict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The study's conflict workload: a share of operations goes to keys that all clients share, the others to keys
    that belong to one client alone."""

    percent: float
    """0 to 100."""
    keys: int = 1
    """How many shared keys."""


class Locality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The study's locality workload: each region's clients choose keys around a mean of its own; the means are spread
    evenly over the keys. A key *belongs* to the region whose mean is nearest."""

    kind: Literal["normal", "uniform"] = "normal"
    """The study's, with keys at its edges that are hardly ever used; or an interval of keys that are used alike."""
    deviation: float
    """Standard deviation, as a share of the keys; the smaller, the less the regions overlap. A uniform choice is from
    an interval √12 times as wide: R regions share no key up to 1 / (R √12), which is 0.057 for five."""
    shift: float = 0.0
    """Moves all means, as a share of the keys."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a value is, in bytes. ``bytes`` is the length, the mean, or the median of ``lognormal``."""

    kind: Literal["fixed", "uniform", "normal", "lognormal", "exponential"] = "fixed"
    bytes: int = 128
    minimum: int = VALUE_BYTES_MIN
    maximum: int = 65_536
    deviation: float = 0.5
    """Of ``normal`` as a share of ``bytes``; of ``lognormal`` that of the logarithm."""


class Transactions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kind ``transaction`` does: read ``reads`` keys and write ``writes`` others of one group."""

    reads: int = 1
    writes: int = 2
    conditional: bool = False
    """Write only if the first key read has not been written by a transaction whose value is greater (a condition
    that both branches of which are met): otherwise read."""


class Scans(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kind ``scan`` does: the keys from a chosen one on, at most ``length`` of them."""

    length: int = 100
    kind: Literal["fixed", "uniform"] = "uniform"
    """``uniform``: 1 to ``length``."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A store of machine-learning metadata: ``keys`` experiments with runs, metrics, artifacts and lineage."""

    metrics: int = 10
    """Metrics in a batch."""
    inputs: int = 2
    """Artifacts that a new one was made from, at most."""
    page: int = 20
    """Runs that a list shows."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workload. Shares are of 1."""

    name: str = ""
    summary: str = ""
    keys: int = 1000
    writes: float | None = None
    """The write ratio; short for a mix of reads and writes."""
    mix: dict[Kind, float] = {}
    group: int = 16
    """Neighbouring keys that form a group; 0: all keys are one."""
    distribution: Distribution = Distribution()
    conflict: Conflict | None = None
    locality: Locality | None = None
    value: Value = Value()
    transactions: Transactions = Transactions()
    scans: Scans = Scans()
    metadata: Metadata = Metadata()
    preload: bool = False
    """Write all keys before the clock runs."""

    @property
    def shares(self) -> dict[str, float]:
        """The mix with the short form resolved, without kinds that do not occur."""
        if self.mix:
            return {kind: share for kind, share in self.mix.items() if share > 0}
        writes = 0.5 if self.writes is None else self.writes
        return {kind: share for kind, share in (("read", 1 - writes), ("write", writes)) if share > 0}

    @property
    def transactional(self) -> bool:
        """Some operations touch several keys at once."""
        return bool(TRANSACTIONAL & self.shares.keys())


def available_workloads() -> list[str]:
    """The names of the workloads that are shipped."""
    folder = files("bench") / "workloads"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_workload(name: str, changes: Mapping[str, Any] | None = None) -> Workload:
    """A shipped workload by name or one from a file by path, with ``changes`` (paths such as ``value.bytes``) applied.

    Raises `WorkloadError`.
    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise WorkloadError(f"workload: {name} cannot be read: {error.strerror}") from None
    elif name in available_workloads():
        text = (files("bench") / "workloads" / f"{name}.toml").read_text()
    else:
        raise WorkloadError(
            f"workload: there is no {name!r} (there are: {', '.join(available_workloads())}; or give a .toml file)"
        )
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WorkloadError(f"workload: {name} is not TOML: {error}") from None
    table.setdefault("name", Path(name).stem)
    return parse_workload(table, changes)


def parse_workload(table: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Workload:
    """A workload from its table. Raises `WorkloadError` that names the field."""
    merged: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in table.items()
    }
    for path, value in (changes or {}).items():
        _insert(merged, path, value)
    if "writes" in (changes or {}):
        merged.pop("mix", None)
    try:
        workload = msgspec.convert(merged, Workload)
    except msgspec.ValidationError as error:
        raise WorkloadError(rephrase(error, "workload")) from None
    _validate(workload)
    return workload


def _insert(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        inner = target.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise WorkloadError(f"workload.{parent}: expected a table")
        target = inner
    target[name] = value


def rephrase(error: msgspec.ValidationError, root: str) -> str:
    """msgspec's "Expected `int`, got `str` - at `$.value.bytes`" with the path in front."""
    message, _, path = str(error).partition(" - at `")
    # A key that is wrong stands at "key` in `$.mix".
    where = path.removeprefix("key` in `").removesuffix("`").removeprefix("$").removeprefix(".").replace("[...]", "")
    message = message.replace("`", "")
    return f"{root}.{where}: {message[:1].lower()}{message[1:]}" if where else f"{root}: {message}"


# ------------------------------------------------------------------------------------------------------- validation


def _refuse(field: str, why: str) -> None:
    raise WorkloadError(f"workload.{field}: {why}")


def _validate(workload: Workload) -> None:
    if not 1 <= workload.keys <= KEYS_MAX:
        _refuse("keys", f"{workload.keys} is not between 1 and {KEYS_MAX}")
    _validate_mix(workload)
    _validate_choice(workload)
    _validate_value(workload.value)
    if workload.group < 0:
        _refuse("group", f"{workload.group} is negative")
    transactions = workload.transactions
    if "transaction" in workload.shares:
        if transactions.reads < 0 or transactions.writes < 0 or not transactions.reads + transactions.writes:
            _refuse("transactions", "reads and writes must not be negative, nor both 0")
        wanted = transactions.reads + transactions.writes
        if wanted > TRANSACTION_KEYS_MAX:
            _refuse("transactions", f"{wanted} keys are more than {TRANSACTION_KEYS_MAX}")
        size = min(workload.group or workload.keys, workload.keys)
        if wanted > size:
            where = "group" if workload.group and workload.group <= workload.keys else "keys"
            _refuse(where, f"{size} keys cannot hold the {wanted} different keys of a transaction")
        if transactions.conditional and not (transactions.reads and transactions.writes):
            _refuse("transactions.conditional", "needs reads and writes of at least 1 each")
    if "scan" in workload.shares and not 1 <= workload.scans.length <= SCAN_MAX:
        _refuse("scans.length", f"{workload.scans.length} is not between 1 and {SCAN_MAX}")
    metadata = workload.metadata
    for name, value, most in (
        ("metrics", metadata.metrics, 100),
        ("inputs", metadata.inputs, 16),
        ("page", metadata.page, 1000),
    ):
        if not 1 <= value <= most:
            _refuse(f"metadata.{name}", f"{value} is not between 1 and {most}")


def _validate_mix(workload: Workload) -> None:
    if workload.writes is not None:
        if workload.mix:
            _refuse("writes", "is short for a mix of reads and writes, and a mix is given: leave one out")
        if not 0 <= workload.writes <= 1:
            _refuse("writes", f"{workload.writes} is not a share between 0 and 1")
    for kind, share in workload.mix.items():
        if not 0 <= share <= 1:
            _refuse(f"mix.{kind}", f"{share} is not a share between 0 and 1")
    if workload.mix and not math.isclose(math.fsum(workload.mix.values()), 1.0, abs_tol=1e-6):
        _refuse("mix", f"the shares sum to {math.fsum(workload.mix.values()):g}, not to 1")
    kinds = workload.shares.keys()
    if METADATA_KINDS & kinds and kinds - METADATA_KINDS:
        others = ", ".join(sorted(kinds - METADATA_KINDS))
        _refuse("mix", f"operations on metadata stand for themselves and cannot be mixed with {others}")


def _validate_choice(workload: Workload) -> None:
    chosen = workload.distribution
    if chosen.kind in {"zipfian", "latest"} and (chosen.exponent <= 0 or chosen.offset < 1):
        _refuse("distribution", f"{chosen.kind} needs an exponent above 0 and an offset of at least 1")
    if chosen.kind == "normal" and chosen.deviation <= 0:
        _refuse("distribution.deviation", f"{chosen.deviation} is not positive")
    if chosen.kind == "exponential" and chosen.rate <= 0:
        _refuse("distribution.rate", f"{chosen.rate} is not positive")
    if chosen.kind == "latest" and "insert" not in workload.shares:
        _refuse("distribution.kind", "latest chooses among what was inserted, and mix.insert is 0")
    if chosen.move_every < 0:
        _refuse("distribution.move_every", f"{chosen.move_every} is negative (0: the hot spot stays)")
    if METADATA_KINDS & workload.shares.keys() and chosen.kind == "latest":
        _refuse("distribution.kind", "latest is not for operations on metadata")
    if workload.conflict is not None:
        if not 0 <= workload.conflict.percent <= 100:
            _refuse("conflict.percent", f"{workload.conflict.percent} is not between 0 and 100")
        if workload.conflict.keys < 1:
            _refuse("conflict.keys", "a conflict needs at least one shared key")
        if workload.conflict.keys >= workload.keys:
            _refuse("conflict.keys", f"{workload.conflict.keys} shared keys leave none of {workload.keys} to a client")
        if workload.locality is not None:
            _refuse("locality", "cannot be combined with a conflict: both choose the key")
        if METADATA_KINDS & workload.shares.keys() or "scan" in workload.shares:
            _refuse("conflict", "is for operations on keys, not for scans and metadata")
    if workload.locality is not None and workload.locality.deviation <= 0:
        _refuse("locality.deviation", f"{workload.locality.deviation} is not positive")
    if workload.locality is not None and workload.locality.kind == "uniform" and workload.locality.deviation > 12**-0.5:
        _refuse("locality.deviation", f"{workload.locality.deviation} is more than that of all keys, 1 / √12")


def _validate_value(value: Value) -> None:
    if not VALUE_BYTES_MIN <= value.minimum <= value.maximum <= VALUE_BYTES_MAX:
        _refuse(
            "value.minimum",
            f"{VALUE_BYTES_MIN} <= minimum <= maximum <= {VALUE_BYTES_MAX} must hold (a value carries the id of the "
            "operation that wrote it)",
        )
    if not value.minimum <= value.bytes <= max(value.maximum, value.bytes if value.kind == "fixed" else 0):
        _refuse("value.bytes", f"{value.bytes} is not between {value.minimum} and {value.maximum}")
    if value.bytes > VALUE_BYTES_MAX:
        _refuse("value.bytes", f"{value.bytes} is more than {VALUE_BYTES_MAX}")
    if value.kind in {"normal", "lognormal"} and value.deviation <= 0:
        _refuse("value.deviation", f"{value.deviation} is not positive")
