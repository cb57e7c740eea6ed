"""What is measured: the declaration of a suite, as TOML has it.

    summary = "how conflicts cost"
    repetitions = 3

    [[targets]]                          # several; `--target` and `--protocol` put others in their place
    target = "synod"
    protocol = "multipaxos"

    [[experiments]]
    name = "conflict"
    title = "Latency under conflicts"
    workload = "conflict"                # a shipped workload or a file
    changes = { "value.bytes" = 64 }     # to the workload, by path

    [experiments.sweep]                  # one parameter varies
    axis = "workload.conflict.percent"   # or a field of load, cluster or history, or "workload" for whole workloads
    values = [0, 25, 50, 75, 100]

    [experiments.load]
    loop = "closed"
    in_flight = 64
    seconds = 5.0

    [experiments.cluster]
    replicas = 3
    topology = "wan3"

    [[experiments.faults]]               # see bench.faults
    at_s = 3.0
    kind = "kill"
    replica = "leader"

A suite is read once and checked as a whole, workloads and capabilities of protocols included, before anything starts; a
mistake is one line that names the field. The shipped ones are in ``bench/suites``.

Order
-----
Runs are interleaved: for each repetition, for each point, every target in turn (in the reverse order in every other
repetition), so that whatever the machine does meanwhile meets all alike. A deployment is kept while consecutive runs
want the same one, and is otherwise started anew with empty folders. ``turns = "targets"`` takes each target through all
points of a repetition before the next: less fair where the machine is shared, with fewer deployments to start.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bench.results import Durability, Scalar
from bench.workload import WorkloadError, load_workload, rephrase

IN_FLIGHT_MAX: Final = 4096
"""A session cannot have more outstanding."""

SECONDS_MAX: Final = 86_400.0

REPLICAS_MAX: Final = 99

Consistency: TypeAlias = Literal["linearizable", "stale", "read-index", "log", "lease", "quorum"]


class SuiteError(ValueError):
    """A suite that cannot be run; the text names the field."""


class Saturation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Step the load up until throughput stops growing or latency passes a bound; every step is a point."""

    first: float = 1
    factor: float = 2.0
    last: float = 1024
    gain: float = 0.05
    """The second step in a row that adds less than this share of throughput is the last."""
    p99_ms: float = 0.0
    """A step whose 99th percentile is above this is the last; 0: no bound."""


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How operations are issued. Numbers are of all generator processes together."""

    loop: Literal["closed", "open"] = "closed"
    in_flight: int = 64
    """Of a closed loop: so many are outstanding at any time. An open loop has at most `IN_FLIGHT_MAX`."""
    rate: float = 1000.0
    """Of an open loop: operations a second that are meant to be sent."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    seconds: float = 5.0
    """What is measured."""
    warm_up_s: float = 1.0
    cool_down_s: float = 0.25
    """The load goes on so long after the measured part."""
    processes: int = 1
    """Generator processes in each region."""
    regions: int = 0
    """In how many of the topology's regions there are clients; 0: in all."""
    preload_at: Literal["leader", "farthest"] = "leader"
    """Where the keys are written that a workload wants written before the clock runs; with a protocol whose objects
    have owners, they begin there. ``leader``: all where the leader is to stand, else in the first region.
    ``farthest``: the keys that belong to a region (`bench.workload.Locality`) in the region with clients that is
    farthest from it."""
    timeout_s: float = 10.0
    """Of one operation."""
    window_s: float = 1.0
    """Of the time series."""
    saturation: Saturation | None = None


class ClusterShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is deployed. A target uses what it understands, and says so where it does not."""

    replicas: int = 3
    topology: str = ""
    leader: str = ""
    """The region of the topology in which the leader is to stand when the load begins; leadership is handed over before
    the run. Empty: wherever it is. Protocols without a single leader take no notice."""
    durability: Durability = "sync"
    sync_mode: Literal["inline", "thread", "auto"] = "inline"
    """Pinned, unless ``auto``."""
    batch_max: int = 512
    consistency: Consistency = "linearizable"
    """Of reads."""
    options: dict[str, Scalar] = {}
    """Of the protocol."""
    node: dict[str, Any] = {}
    """Further fields of the replicas' configuration."""
    driver: Literal["process", "docker", "namespace"] = "process"
    """Where replicas run; see `deploy.drivers`."""
    shaping: Literal["auto", "netem", "transport", "none"] = "auto"
    """What makes the links between replicas, and with netem those of clients that have a place beside them; all others
    are shaped under the client library."""
    image: str = ""
    """What containers are made from; empty: what `synod cluster image` builds."""


class HistoryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is recorded and how long it may be judged."""

    fraction: float = 0.02
    """Of the groups of keys; 0 records nothing (and the verdict is unknown)."""
    operations_max: int = 20_000
    """A run records so many operations at most, from its start on; what follows is not judged."""
    states_max: int = 1_000_000
    seconds_max: float = 20.0


class TargetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One system to be measured. ``cluster`` changes fields of the experiment's cluster for it."""

    target: str = "synod"
    protocol: str = ""
    label: str = ""
    """In tables and legends; by default made of the above."""
    cluster: dict[str, Any] = {}
    experiments: list[str] = []
    """Only in these; empty: in all."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One parameter and its values."""

    axis: str
    values: list[Scalar]
    title: str = ""
    """Of the axis, with its unit."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Points along one axis, under one kind of load."""

    name: str
    title: str = ""
    plot: Literal["", "curve", "bars", "regions", "timeline", "cdf"] = ""
    """How the report shows it first; empty: it decides by the axis."""
    workload: str = "uniform"
    changes: dict[str, Any] = {}
    sweep: Sweep | None = None
    load: Load = Load()
    cluster: ClusterShape = ClusterShape()
    history: HistoryOptions = HistoryOptions()
    faults: list[dict[str, Any]] = []
    repetitions: int = 0
    """0: the suite's."""
    fresh: bool = False
    """Start a new deployment for every run."""


class Suite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A suite."""

    name: str = ""
    summary: str = ""
    seed: int = 1
    repetitions: int = 3
    turns: Literal["points", "targets"] = "points"
    """Within a repetition: all targets at a point before the next point, or all points of a target before the next."""
    targets: list[TargetEntry] = []
    experiments: list[Experiment] = []
    calibrate: bool = False
    """Measure the constants of the model before each experiment and at the end (`synod model calibrate`, one pass each
    time), so that its predictions are for the machine as it was meanwhile."""
    baseline: str = ""
    """The target (by its label, or the beginning of it) that others are compared with; empty: etcd, if it is there."""


def available_suites() -> list[str]:
    """The names of the suites that are shipped."""
    folder = files("bench") / "suites"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or one from a file by path. Raises `SuiteError`."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise SuiteError(f"suite: {name} cannot be read: {error.strerror}") from None
    elif name in available_suites():
        text = (files("bench") / "suites" / f"{name}.toml").read_text()
    else:
        raise SuiteError(
            f"suite: there is no {name!r} (there are: {', '.join(available_suites())}; or give a .toml file)"
        )
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"suite: {name} is not TOML: {error}") from None
    table.setdefault("name", Path(name).stem)
    return parse_suite(table)


def parse_suite(table: Mapping[str, Any]) -> Suite:
    """A suite from its table. Raises `SuiteError` that names the field."""
    try:
        suite = msgspec.convert(table, Suite)
    except msgspec.ValidationError as error:
        raise SuiteError(rephrase(error, "suite")) from None
    _validate(suite)
    return suite


SECONDS_MIN: Final = 0.1
"""A measured part that is shorter says nothing."""


def scaled(experiment: Experiment, factor: float) -> Experiment:
    """The experiment with all of its times, those of faults included, by a factor."""
    if factor == 1.0:
        return experiment
    load = experiment.load
    times = {name: getattr(load, name) * factor for name in ("warm_up_s", "cool_down_s", "window_s")}
    shorter = msgspec.structs.replace(load, seconds=max(SECONDS_MIN, load.seconds * factor), **times)
    faults = [
        {name: value * factor if name in {"at_s", "for_s"} else value for name, value in table.items()}
        for table in experiment.faults
    ]
    return msgspec.structs.replace(experiment, load=shorter, faults=faults)


def _validate(suite: Suite) -> None:
    if not suite.experiments:
        raise SuiteError("suite.experiments: there is none")
    names = [experiment.name for experiment in suite.experiments]
    for name in names:
        if names.count(name) > 1:
            raise SuiteError(f"suite.experiments: {name!r} appears more than once")
        if not name or not name.replace("-", "").isalnum():
            raise SuiteError(f"suite.experiments.name: {name!r} is not made of letters, digits and hyphens")
    if suite.repetitions < 1:
        raise SuiteError(f"suite.repetitions: {suite.repetitions} is less than 1")
    for entry in suite.targets:
        for name in entry.experiments:
            if name not in names:
                raise SuiteError(f"suite.targets.experiments: there is no experiment {name!r}")
    for experiment in suite.experiments:
        try:
            load_workload(experiment.workload, experiment.changes)
        except WorkloadError as error:
            raise SuiteError(f"experiment {experiment.name}: {error}") from None
        if experiment.sweep is not None and experiment.load.saturation is not None:
            raise SuiteError(f"experiment {experiment.name}: sweep: a search for saturation steps the load by itself")


def validate_load(load: Load) -> None:
    """Raises `SuiteError` for a load that cannot be made."""
    for name, low, high in (
        ("in_flight", 1, IN_FLIGHT_MAX),
        ("processes", 1, 64),
        ("regions", 0, 64),
        ("rate", 0.001, 10_000_000),
        ("seconds", SECONDS_MIN, SECONDS_MAX),
        ("warm_up_s", 0.0, SECONDS_MAX),
        ("cool_down_s", 0.0, SECONDS_MAX),
        ("timeout_s", 0.01, 3600.0),
        ("window_s", 0.01, 3600.0),
    ):
        value = getattr(load, name)
        if not low <= value <= high:
            raise SuiteError(f"load.{name}: {value} is not between {low} and {high}")
    steps = load.saturation
    if steps is not None and not (0 < steps.first <= steps.last and steps.factor > 1 and 0 <= steps.gain < 1):
        raise SuiteError("load.saturation: 0 < first <= last, factor > 1 and 0 <= gain < 1 must hold")


def validate_shape(shape: ClusterShape) -> None:
    """Raises `SuiteError` for a cluster that cannot be."""
    if not 1 <= shape.replicas <= REPLICAS_MAX:
        raise SuiteError(f"cluster.replicas: {shape.replicas} is not between 1 and {REPLICAS_MAX}")
    if shape.batch_max < 1:
        raise SuiteError(f"cluster.batch_max: {shape.batch_max} is less than 1 (1 turns batching off)")


def validate_history(history: HistoryOptions) -> None:
    """Raises `SuiteError` for a sample that cannot be drawn."""
    if not 0 <= history.fraction <= 1:
        raise SuiteError(f"history.fraction: {history.fraction} is not between 0 and 1")
    if history.operations_max < 1 or history.states_max < 1 or history.seconds_max <= 0:
        raise SuiteError("history: operations_max, states_max and seconds_max must be positive")
