"""Folders of results that tests make up: every kind of run a report may meet."""

import math
import random
from pathlib import Path
from typing import Any

import msgspec

from bench.results import (
    Ceiling,
    Deployment,
    Failure,
    FaultEvent,
    Latencies,
    Link,
    Machine,
    Manifest,
    Network,
    PlannedRun,
    Point,
    Resources,
    RunResult,
    RunVerdict,
    Series,
    Skipped,
    Stage,
    Summary,
    encode_histogram,
    new_histogram,
    write_manifest,
    write_run,
)

GOOD = RunVerdict(answer="ok", reason="", sampled=0.02, operations=400, digests="agree")


def latencies(mean_ms: float, *, region: str = "", kind: str = "write", seed: int = 1, count: int = 2000) -> Latencies:
    """A histogram of latencies around a mean, with a tail."""
    draw = random.Random(f"{seed}/{region}/{kind}")
    histogram = new_histogram()
    for _ in range(count):
        histogram.record_value(max(1, int(1e3 * mean_ms * draw.lognormvariate(-0.08, 0.4))))
    return Latencies(region=region, kind=kind, origin="sent", hdr=encode_histogram(histogram))


def run_result(
    experiment: str,
    label: str,
    value: Any = "",
    repetition: int = 0,
    *,
    axis: str = "",
    throughput: float = 10_000.0,
    mean_ms: float = 2.0,
    regions: dict[str, float] | None = None,
    **fields: Any,
) -> RunResult:
    """A run with figures; further fields as `RunResult` has them."""
    deployment: dict[str, Any] = {"target": "synod", "protocol": label, "sync_mode": "inline", "batch_max": 512}
    deployment.update(fields.pop("deployment", {}))
    by_region = regions or {"": mean_ms}
    given = {
        "id": f"{experiment}-{label}-{value}-{repetition}".replace(" ", "-").replace("/", "-"),
        "experiment": experiment,
        "deployment": Deployment(label=label, **deployment),
        "point": Point(axis=axis, value=value),
        "repetition": repetition,
        "workload": {"name": "uniform", "keys": 1000},
        "load": {"loop": "closed", "in_flight": 64},
        "regions": [name for name in by_region if name],
        "measured_s": (1.0, 6.0),
        "summary": Summary(
            operations=int(5 * throughput),
            throughput=throughput,
            mean_ms=mean_ms,
            p50_ms=mean_ms * 0.9,
            p90_ms=mean_ms * 1.5,
            p95_ms=mean_ms * 1.8,
            p99_ms=mean_ms * 2.6,
            p999_ms=mean_ms * 4,
            max_ms=mean_ms * 6,
            gap_s=0.02,
        ),
        "latencies": [latencies(mean, region=name, seed=repetition) for name, mean in by_region.items()],
        "verdict": GOOD,
        **fields,
    }
    return RunResult(**given)


def stages(mean_ms: float, replica: int = 1) -> list[Stage]:
    """Stages that add up to a share of a mean latency."""
    shares = {"queue": 0.1, "batch": 0.05, "sync": 0.35, "network": 0.15, "quorum": 0.1, "apply": 0.05, "total": 0.8}
    return [Stage(name=name, replica=replica, count=100, mean_ms=share * mean_ms) for name, share in shares.items()]


def resources(busy: float = 0.6) -> list[Resources]:
    """Three replicas, a generator and the machine."""
    found = [
        Resources(
            name=f"replica {replica}",
            replica=replica,
            role="leader" if replica == 1 else "follower",
            cpu_user_s=5 * busy * (1.0 if replica == 1 else 0.5),
            cpu_system_s=5 * busy * 0.2,
            memory_bytes=80 << 20,
            disk_written_bytes=50 << 20,
            network_sent_bytes=20 << 20,
            network_received_bytes=20 << 20,
        )
        for replica in (1, 2, 3)
    ]
    found.append(Resources(name="generator 1", cpu_user_s=2.2, cpu_system_s=0.4, memory_bytes=120 << 20))
    found.append(Resources(name="machine", cpu_user_s=8.0, cpu_system_s=1.6, memory_bytes=4 << 30))
    return found


def saturation() -> list[RunResult]:
    """Operations in flight over four targets, one of them simulated, one limited by the harness at its end."""
    found = []
    for repetition in range(3):
        for value in (1, 4, 16, 64, 256, 512):
            for label, best, base in (
                ("etcd", 11_000, 1.0),
                ("multipaxos", 47_000, 1.4),
                ("fpaxos", 45_000, 1.3),
                ("multipaxos, simulated", 60_000, 1.1),
            ):
                noise = 1 + 0.04 * math.sin(7 * repetition + value + best)
                throughput = noise * min(best, value * 1000 / base) * (value / (value + 8)) ** 0.2
                mean_ms = 1000 * value / throughput
                found.append(
                    run_result(
                        "saturation",
                        label,
                        value,
                        repetition,
                        axis="load.in_flight",
                        throughput=throughput,
                        mean_ms=mean_ms,
                        stages=[] if label == "etcd" else stages(mean_ms),
                        resources=resources(0.9 if value >= 256 else 0.4),
                        deployment={
                            "target": "etcd" if label == "etcd" else "synod",
                            "simulated": "simulated" in label,
                        },
                        harness_limited=label == "multipaxos" and value == 512,
                        ceiling=60_000.0 if value == 512 else 0.0,
                    )
                )
    return found


def wide() -> list[RunResult]:
    """Latency by region over a network that is not quite as declared."""
    means = {
        "multipaxos": {"ohio": 51.0, "virginia": 61.5, "california": 101.6, "ireland": 135.8, "japan": 206.5},
        "epaxos": {"ohio": 60.0, "virginia": 70.5, "california": 111.7, "ireland": 141.1, "japan": 155.5},
    }
    network = Network(
        topology="wan5",
        shaper="transport",
        links=[
            Link(one="ohio", other="virginia", declared_ms=10.5, achieved_ms=10.9),
            Link(one="ohio", other="japan", declared_ms=155.5, achieved_ms=180.0, client=True),
        ],
        as_declared=False,
        problems=["between clients in ohio and japan a round trip takes 180.0 ms, declared are 155.5 ms"],
    )
    return [
        run_result(
            "regions",
            label,
            "",
            repetition,
            throughput=400.0,
            mean_ms=sum(by_region.values()) / 5,
            regions={name: mean * (1 + 0.01 * repetition) for name, mean in by_region.items()},
            stages=[
                Stage(name=name, replica=1, count=50, mean_ms=mean)
                for name, mean in (("queue", 0.3), ("batch", 0.2), ("sync", 1.2), ("network", 50.6), ("quorum", 0.9),
                                   ("apply", 0.1), ("total", 53.3))
            ],
            network=network,
            deployment={"replicas": 5, "topology": "wan5"},
        )
        for repetition in range(2)
        for label, by_region in means.items()
    ]  # fmt: skip


def conflict() -> list[RunResult]:
    """An axis of numbers that is no load."""
    return [
        run_result(
            "conflict", label, value, repetition, axis="workload.conflict.percent",
            throughput=best * (1 - slope * value / 100), mean_ms=base * (1 + 2 * slope * value / 100),
        )
        for repetition in range(3)
        for value in (0, 25, 50, 75, 100)
        for label, best, slope, base in (
            ("multipaxos", 20_000, 0.02, 3.0), ("epaxos", 26_000 - 300 * repetition, 0.6, 2.2),
        )
    ]  # fmt: skip


def availability() -> list[RunResult]:
    """A run with faults, and one that was shown to be wrong."""
    completed = [180] * 12 + [0] * 4 + [60] + [190] * 15 + [150] * 8
    series = Series(
        window_s=0.25,
        completed=completed,
        failed=[0] * 12 + [20, 30, 10, 0] + [0] * 24,
        unknown=[0] * 12 + [64, 0, 0, 0] + [0] * 24,
        p50_ms=[2.0 if count else None for count in completed],
        p99_ms=[5.0 + (700 if 15 < place < 19 else 0) if count else None for place, count in enumerate(completed)],
    )
    faults = [
        FaultEvent(at_s=3.05, kind="kill", until_s=6.2, replica=2, detail="kill 2 (leader)"),
        FaultEvent(at_s=8.0, kind="slow-disk", until_s=9.5, replica=1, detail="slow disk of 1 by 20 ms"),
        FaultEvent(at_s=9.8, kind="pause", replica=7, detail="pause 7", error="there is no replica 7 in this cluster"),
    ]
    wrong = RunVerdict(answer="violation", reason="key 17: read 4 after 5 was read", sampled=0.1, digests="agree")
    return [
        run_result("kill", "multipaxos", throughput=700.0, series=series, faults=faults, stages=stages(2.0)),
        run_result("kill", "planted bug", throughput=720.0, series=series, faults=faults[:1], verdict=wrong),
    ]


def failed() -> RunResult:
    """A run that came to nothing."""
    return run_result(
        "saturation",
        "broken",
        64,
        axis="load.in_flight",
        summary=Summary(),
        latencies=[],
        verdict=RunVerdict(),
        failure=Failure(
            reason="replica 2 is not running; its last line: no space left on device",
            logs={"replica 2": ["starting", "disk: no space left on device"]},
        ),
    )


def everything(path: Path, *, partial: bool = False) -> Path:
    """A folder with all of the above."""
    runs = [*saturation(), failed(), *wide(), *conflict(), *availability()]
    planned = [
        PlannedRun(
            id=run.id, experiment=run.experiment, label=run.deployment.label, axis=run.point.axis,
            value=run.point.value, repetition=run.repetition,
        )
        for run in runs
    ]  # fmt: skip
    titles = {"saturation": "Saturation", "regions": "Five regions", "conflict": "Conflicts", "kill": "Leader killed"}
    manifest = Manifest(
        name="everything",
        summary="what a report may meet",
        command=["synod", "bench", "suite", "everything"],
        created="2026-01-02T03:04:05+00:00",
        finished="" if partial else "2026-01-02T03:14:05+00:00",
        versions={"synod": "0.1.0", "python": "3.11.7"},
        machine=Machine(system="Linux", release="6.1", architecture="x86_64", processor="made up", cores=2,
                        memory_bytes=8 << 30, load_average=0.1),
        seed=7,
        suite={"experiments": [{"name": name, "title": title} for name, title in titles.items()]},
        planned=planned,
        skipped=[Skipped(experiment="conflict", label="abd", reason="abd cannot do transactions")],
        notes=["Repetitions were interleaved."],
        ceilings=[Ceiling(rpc="session", in_flight=512, throughput=60_000.0, p50_ms=8.0)],
    )  # fmt: skip
    write_manifest(path, manifest)
    for place, run in enumerate(runs):
        if not partial or place % 3 == 0:
            write_run(path, run)
    if partial:
        (path / "runs" / "broken.json").write_text('{"id": ')
    return path


def manifest_of(runs: list[RunResult]) -> Manifest:
    """A manifest that plans just these runs."""
    return Manifest(
        name="made up",
        finished="2026-01-02T03:14:05+00:00",
        planned=[PlannedRun(id=run.id, experiment=run.experiment, label=run.deployment.label) for run in runs],
    )


def folder_of(path: Path, runs: list[RunResult]) -> Path:
    """A finished folder with these runs."""
    write_manifest(path, manifest_of(runs))
    for run in runs:
        write_run(path, run)
    return path


def changed(run: RunResult, **fields: Any) -> RunResult:
    """The run with other fields of its deployment."""
    return msgspec.structs.replace(run, deployment=msgspec.structs.replace(run.deployment, **fields))
