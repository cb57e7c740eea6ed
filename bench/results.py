"""What a benchmark leaves behind: one folder, readable by people and programs, whole or cut short.

Layout
------
::

    DIR/manifest.json         what was asked for, where, with what: written first, and again at the end
    DIR/runs/ID.json          one `RunResult` a run: a target at one point, once; complete or not there at all
    DIR/histories/ID.jsonl    the sample of operations that was judged, in the format of `replica.verification`
    DIR/logs/ID/              logs of the replicas of a run that failed
    DIR/plots/, report.html   made from the above by the report, and again at will

Theory of operation
-------------------
A *run* is one deployment under one load at one point for some seconds. Its file holds everything that a report needs
to know of it, so that a folder that was cut short is as good as what it holds: `read_folder` lists what is missing or
broken instead of giving up. Files are written beside their name and renamed, so nobody reads half of one.

Times within a run are seconds from its *start*, the moment at which the generators begin (the warm-up included);
``measured_s`` says which part counts. Latencies are HDR histograms in microseconds with three significant digits, by
region and kind of operation, encoded in the interchange format of the HDR libraries: they can be added without loss,
over processes, regions and repetitions. ``origin`` tells from when a latency counts: ``intended`` is the moment at
which an open loop meant to send, which a generator or a server that lags behind cannot hide; ``sent`` is when it was
sent. In a closed loop the two are the same, and only ``sent`` is stored.

Confidence intervals are over *repetitions*, never over the operations of one run, which depend on each other
(`estimate`: Student's t). A ratio is formed within each repetition, of runs that followed each other, and estimated on
the logarithm (`ratio`).
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from hdrh.histogram import HdrHistogram

from replica import __version__

FORMAT: Final = 1
"""The version of the layout. Fields are only appended, with defaults; a change of meaning raises it."""

MANIFEST: Final = "manifest.json"
RUNS: Final = "runs"
HISTORIES: Final = "histories"
LOGS: Final = "logs"
PLOTS: Final = "plots"
REPORT: Final = "report.html"

LATENCY_US_MAX: Final = 3_600_000_000
"""The longest latency that a histogram tells apart: an hour."""

SIGNIFICANT_DIGITS: Final = 3

CONFIDENCE: Final = 0.95
"""Of the intervals that are stored and shown."""

CEILING_FACTOR: Final = 1.5
"""A throughput that the generator's ceiling exceeds by less than this is limited by the harness."""

LOG_LINES: Final = 20
"""So many last lines of each replica's log are kept with a failure."""

Scalar: TypeAlias = int | float | str | bool
Origin: TypeAlias = Literal["intended", "sent"]
Answer: TypeAlias = Literal["ok", "violation", "unknown", "not applicable"]
Durability: TypeAlias = Literal["sync", "none"]


class ResultsError(Exception):
    """A folder holds no results, or results that cannot be used; the text says which file and why."""


# ------------------------------------------------------------------------------------------------------ the manifest


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran."""

    system: str = ""
    release: str = ""
    architecture: str = ""
    processor: str = ""
    cores: int = 0
    memory_bytes: int = 0
    load_average: float = 0.0
    """Of the last minute, when the benchmark began: what else was running."""


class PlannedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that the manifest announces; it has been done once its file is there."""

    id: str
    experiment: str
    label: str
    """The target, as tables name it."""
    axis: str = ""
    value: Scalar = ""
    repetition: int = 0


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What was not run, and why: never in silence."""

    experiment: str
    label: str
    reason: str


class Manifest(msgspec.Struct, kw_only=True):
    """What was asked for and where. ``suite`` is the whole configuration as it was resolved, defaults included."""

    format: int = FORMAT
    name: str
    summary: str = ""
    command: list[str] = []
    created: str = ""
    """UTC, ISO 8601."""
    finished: str = ""
    """Empty while it runs, and for ever if it was interrupted."""
    versions: dict[str, str] = {}
    machine: Machine = Machine()
    seed: int = 0
    suite: dict[str, Any] = {}
    planned: list[PlannedRun] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    """Sentences for the reader: how it was interleaved, cross-checks, what limited it."""
    ceilings: list[Ceiling] = []


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator reached against a responder that answers at once, speaking the same RPC."""

    rpc: str
    """``session`` (Synod's) or ``etcd``."""
    in_flight: int
    throughput: float
    """Operations a second, of all generator processes together."""
    p50_ms: float = 0.0
    processes: int = 1
    """Generators in each region."""
    value_bytes: int = 0
    """Of what was written."""
    responder: str = "instant"
    """``instant``, or ``null``: the whole system with one replica that decides alone."""


# ------------------------------------------------------------------------------------------------------------ a run


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, with everything that must be equal (or said) when two are compared."""

    target: str
    """``synod``, ``etcd``, ``bare`` …"""
    label: str
    """The name in tables and legends."""
    protocol: str = ""
    options: dict[str, Scalar] = {}
    replicas: int = 3
    durability: Durability = "sync"
    sync_mode: str = ""
    batch_max: int = 0
    """Operations of one session that are proposed as one command; 0: not applicable."""
    consistency: str = "linearizable"
    """How reads are done."""
    topology: str = ""
    leader: str = ""
    """The region in which the leader was to stand; empty: none was asked for, or the protocol has no single leader."""
    simulated: bool = False
    driver: str = "process"
    """Where the replicas ran: ``process``, ``docker``, ``namespace``."""
    placed: bool = False
    """Load generators ran as the replicas did, in their network; else they were processes of the machine."""
    version: str = ""
    node: dict[str, Any] = {}
    """Further fields of the replicas' configuration."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Where on the experiment's axis. ``parameters`` holds all that may vary within the experiment."""

    axis: str = ""
    value: Scalar = ""
    parameters: dict[str, Scalar] = {}


class Series(msgspec.Struct, kw_only=True):
    """Counts in consecutive windows from the start of the run, the warm-up and the cool-down included."""

    window_s: float = 1.0
    completed: list[int] = []
    failed: list[int] = []
    """Refused for certain."""
    unknown: list[int] = []
    """It is not known whether they took effect."""
    p50_ms: list[float | None] = []
    p99_ms: list[float | None] = []
    regions: dict[str, list[int]] = {}
    """``completed`` by the region of the client."""
    region_mean_ms: dict[str, list[float | None]] = {}
    """The mean latency of these."""

    def mean_ms(self, region: str, from_s: float, to_s: float) -> float | None:
        """The mean latency of what clients in ``region`` completed in the windows within that time; None: nothing."""
        counts, means = self.regions.get(region, []), self.region_mean_ms.get(region, [])
        total, count = 0.0, 0
        for place, (completed, mean) in enumerate(zip(counts, means, strict=False)):
            begun = place * self.window_s
            if mean is not None and from_s - 1e-9 <= begun and begun + self.window_s <= to_s + 1e-9:
                total += mean * completed
                count += completed
        return total / count if count else None


class Latencies(msgspec.Struct, kw_only=True):
    """One histogram, of the measured part alone."""

    region: str
    """Of the client; empty where there is one region."""
    kind: str
    """``read``, ``write``, ``transaction``, ``scan`` …"""
    origin: Origin
    hdr: str
    """Microseconds; see `decode_histogram`."""


class Summary(msgspec.Struct, kw_only=True):
    """The figures of the measured part. Latencies in ms, of all regions and kinds, from the intended start."""

    operations: int = 0
    failed: int = 0
    unknown: int = 0
    throughput: float = 0.0
    """Completed operations a second."""
    offered: float = 0.0
    """What an open loop meant to send, a second; 0 for a closed loop."""
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0
    gap_s: float = 0.0
    """The longest time without a completed operation."""


class FaultEvent(msgspec.Struct, kw_only=True):
    """A fault that was injected: ``at_s`` and ``until_s`` in seconds from the start of the run."""

    at_s: float
    kind: str
    until_s: float | None = None
    replica: int = 0
    peer: int = 0
    detail: str = ""
    error: str = ""
    """Why it could not be injected; empty when it was."""


class Resources(msgspec.Struct, kw_only=True):
    """What one process used during the measured part."""

    name: str
    """``replica 1``, ``generator 1`` …"""
    replica: int = 0
    role: str = ""
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_bytes: int = 0
    disk_written_bytes: int = 0
    """As Linux counts it: what was dirtied in its cache. Where a file system caches large folios (ext4 from Linux 6.16
    on) a page that is written counts as its whole folio, several times what reaches the device."""
    disk_read_bytes: int = 0
    network_sent_bytes: int = 0
    network_received_bytes: int = 0


class Stage(msgspec.Struct, kw_only=True):
    """Time spent in one stage on the way of an operation, as a replica measured it."""

    name: str
    """``queue``, ``batch``, ``sync``, ``network``, ``quorum``, ``apply`` …"""
    replica: int = 0
    count: int = 0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    hdr: str = ""


class Link(msgspec.Struct, kw_only=True):
    """A round trip: between the replicas of two regions, or from a region's clients to its replica."""

    one: str
    other: str
    declared_ms: float
    achieved_ms: float | None = None
    client: bool = False


class Network(msgspec.Struct, kw_only=True):
    """The network that was declared and the one that was measured before the run."""

    topology: str = ""
    shaper: str = ""
    """``none``, ``transport``, ``netem``, ``simulated``."""
    links: list[Link] = []
    as_declared: bool = True
    problems: list[str] = []


class RunVerdict(msgspec.Struct, kw_only=True):
    """Was what the clients saw linearizable? ``sampled`` is the share of the run's operations that was judged."""

    answer: Answer = "unknown"
    reason: str = "nothing was judged"
    sampled: float = 0.0
    operations: int = 0
    history: str = ""
    """The file, relative to the folder."""
    digests: Literal["agree", "differ", "not compared"] = "not compared"
    """The replicas' states at the end, at one frontier."""
    digest_detail: str = ""

    @property
    def good(self) -> bool:
        """Nothing speaks against the run, and something was shown."""
        return self.answer == "ok" and self.digests != "differ"

    @property
    def bad(self) -> bool:
        """The run was shown to be wrong."""
        return self.answer == "violation" or self.digests == "differ"


class Failure(msgspec.Struct, kw_only=True):
    """Why there are no figures, or figures that end early."""

    reason: str
    logs: dict[str, list[str]] = {}
    """The last lines of each replica's log, by its name."""


class RunResult(msgspec.Struct, kw_only=True):
    """Everything about one run."""

    format: int = FORMAT
    id: str
    experiment: str
    deployment: Deployment
    point: Point = Point()
    repetition: int = 0
    seed: int = 0
    started: str = ""
    """UTC, ISO 8601."""
    workload: dict[str, Any] = {}
    load: dict[str, Any] = {}
    regions: list[str] = []
    """Of the clients, one generator process or more each."""
    measured_s: tuple[float, float] = (0.0, 0.0)
    """From and to, in seconds from the start: what the summary and the histograms are of."""
    summary: Summary = msgspec.field(default_factory=Summary)
    series: Series = msgspec.field(default_factory=Series)
    latencies: list[Latencies] = []
    faults: list[FaultEvent] = []
    resources: list[Resources] = []
    stages: list[Stage] = []
    counters: dict[str, int] = {}
    """What the protocol counted during the measured part, by its own names, of all replicas together."""
    leader: str = ""
    """Who led when the measured part began, by region, or by replica where there are no regions; empty: nobody."""
    leader_at_end: str = ""
    """Who led when it ended."""
    network: Network | None = None
    verdict: RunVerdict = msgspec.field(default_factory=RunVerdict)
    ceiling: float = 0.0
    """What the generator can do at this load, in operations a second; 0: not measured."""
    harness_limited: bool = False
    """Within `CEILING_FACTOR` of the ceiling: no ratio may be claimed."""
    null: float = 0.0
    """What the protocol ``null`` (the whole system, with one replica that decides alone) reached at the same point, in
    operations a second; 0: it was not measured."""
    failure: Failure | None = None
    errors: dict[str, int] = {}
    """How often each kind of error was met."""
    notes: list[str] = []

    @property
    def usable(self) -> bool:
        """There are figures."""
        return self.failure is None and self.summary.operations > 0

    @property
    def cores_of_others(self) -> float:
        """Processor that programs beside this run's replicas and generators used, in cores; 0 if it is not known."""
        seconds = self.measured_s[1] - self.measured_s[0]
        machine = next((each for each in self.resources if each.name == "machine"), None)
        if machine is None or seconds <= 0:
            return 0.0
        own = sum(each.cpu_user_s + each.cpu_system_s for each in self.resources if each is not machine)
        return max(0.0, (machine.cpu_user_s + machine.cpu_system_s - own) / seconds)

    @property
    def leader_astray(self) -> bool:
        """It did not stand all the time where it was to stand."""
        wanted = self.deployment.leader
        return bool(wanted) and not self.leader == self.leader_at_end == wanted

    @property
    def near_null(self) -> bool:
        """Agreement costs so little of this figure that it says more of the system around the protocol."""
        return bool(self.null) and self.summary.throughput * CEILING_FACTOR > self.null


# ------------------------------------------------------------------------------------------------------- histograms


def new_histogram() -> Any:
    """An empty histogram of microseconds."""
    return HdrHistogram(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)


def encode_histogram(histogram: Any) -> str:
    """The histogram in the HDR interchange format (compressed, base64)."""
    encoded: bytes = histogram.encode()
    return encoded.decode("ascii")


def decode_histogram(text: str) -> Any:
    """What `encode_histogram` wrote. Raises `ResultsError`."""
    try:
        return HdrHistogram.decode(text)
    except Exception as error:
        raise ResultsError(f"a histogram cannot be read: {error}") from error


def merge_histograms(texts: Iterable[str]) -> Any:
    """The sum of encoded histograms."""
    total = new_histogram()
    for text in texts:
        total.add(decode_histogram(text))
    return total


def merged_latencies(
    run: RunResult, *, origin: Origin = "intended", region: str | None = None, kind: str | None = None
) -> Any:
    """The run's latencies, of one region or kind or of all. A closed loop's intended starts are those of sending."""
    wanted: Origin = origin if any(entry.origin == origin for entry in run.latencies) else "sent"
    return merge_histograms(
        entry.hdr
        for entry in run.latencies
        if entry.origin == wanted and region in {None, entry.region} and kind in {None, entry.kind}
    )


def percentile_ms(histogram: Any, percentile: float) -> float:
    """A percentile (0 to 100) of a histogram, in ms; 0 when it is empty."""
    if not histogram.get_total_count():
        return 0.0
    value: float = histogram.get_value_at_percentile(percentile)
    return value / 1e3


# ------------------------------------------------------------------------------------------------------- estimates


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over repetitions with its confidence interval; the interval is open with fewer than two repetitions."""

    mean: float
    low: float | None
    high: float | None
    count: int
    confidence: float = CONFIDENCE


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Student's t interval for the mean; None without values."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(mean=mean, low=None, high=None, count=len(values), confidence=confidence)
    half = _half_width(values, mean, confidence)
    return Estimate(mean=mean, low=mean - half, high=mean + half, count=len(values), confidence=confidence)


def ratio(pairs: Sequence[tuple[float, float]], confidence: float = CONFIDENCE) -> Estimate | None:
    """How many times the second is in the first, from runs that were made in pairs: t interval of the logarithms.

    None when there is no pair of two positive values.
    """
    logarithms = [math.log(one / other) for one, other in pairs if one > 0 and other > 0]
    found = estimate(logarithms, confidence)
    if found is None:
        return None
    return Estimate(
        mean=math.exp(found.mean),
        low=None if found.low is None else math.exp(found.low),
        high=None if found.high is None else math.exp(found.high),
        count=found.count,
        confidence=confidence,
    )


def _half_width(values: Sequence[float], mean: float, confidence: float) -> float:
    from scipy.stats import t  # a second to import, and only estimates need it

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return quantile * deviation / math.sqrt(len(values))


def points_of(runs: Iterable[RunResult]) -> dict[tuple[str, str, Scalar], list[RunResult]]:
    """Runs of the same experiment, label and value of the axis: the repetitions of one point, in the order found."""
    found: dict[tuple[str, str, Scalar], list[RunResult]] = {}
    for run in runs:
        found.setdefault((run.experiment, run.deployment.label, run.point.value), []).append(run)
    return found


# -------------------------------------------------------------------------------------------------- the folder itself


class Folder(msgspec.Struct, kw_only=True):
    """What `read_folder` found. ``missing`` are planned runs without a result, ``problems`` files that are broken."""

    path: Path
    manifest: Manifest
    runs: list[RunResult]
    missing: list[PlannedRun]
    problems: list[str]

    @property
    def complete(self) -> bool:
        """Everything that was planned is there."""
        return bool(self.manifest.finished) and not self.missing and not self.problems


def read_folder(path: str | Path) -> Folder:
    """Everything that a folder holds, in the order in which it was planned.

    Raises `ResultsError` when there is no manifest that can be read; whatever else is missing or broken is listed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    problems: list[str] = []
    found: dict[str, RunResult] = {}
    for file in sorted((folder / RUNS).glob("*.json")):
        try:
            run = msgspec.json.decode(file.read_bytes(), type=RunResult)
        except (OSError, msgspec.DecodeError) as error:
            problems.append(f"{file.relative_to(folder)} cannot be read: {error}")
            continue
        if run.format > FORMAT:
            problems.append(f"{file.relative_to(folder)} was written by a newer release (format {run.format})")
            continue
        found[run.id] = run
    order = {planned.id: position for position, planned in enumerate(manifest.planned)}
    runs = sorted(found.values(), key=lambda run: (order.get(run.id, len(order)), run.id))
    missing = [planned for planned in manifest.planned if planned.id not in found]
    return Folder(path=folder, manifest=manifest, runs=runs, missing=missing, problems=problems)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder. Raises `ResultsError`."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise ResultsError(f"{folder} holds no results (no {MANIFEST})") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from None
    if manifest.format > FORMAT:
        raise ResultsError(f"{path} was written by a newer release (format {manifest.format}, known: {FORMAT})")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest anew."""
    _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def write_run(folder: Path, run: RunResult) -> Path:
    """Write the file of a run; returns its path."""
    path = folder / RUNS / f"{run.id}.json"
    _write(path, msgspec.json.encode(run) + b"\n")
    return path


def history_path(folder: Path, run_id: str) -> Path:
    """Where the history of a run lies."""
    return folder / HISTORIES / f"{run_id}.jsonl"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_bytes(data)
    staged.replace(path)


# ------------------------------------------------------------------------------------------------------ where it ran

_PACKAGES: Final = ("grpcio", "protobuf", "msgspec", "lmdb", "uvloop", "numpy", "hdrhistogram")


def versions() -> dict[str, str]:
    """Of Synod, Python and the packages that figures depend on."""
    found = {"synod": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # an optional one
    return found


def this_machine() -> Machine:
    """The machine as it is now."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = 0.0
    return Machine(
        system=platform.system(),
        release=platform.release(),
        architecture=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 0,
        memory_bytes=memory,
        load_average=round(load, 2),
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor()  # not Linux
    return platform.processor()


def timestamp() -> str:
    """Now, as the files have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
