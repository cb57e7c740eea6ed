"""Measure what the parts of this build cost here: `synod model calibrate`.

Every constant of `system.Calibration` comes from a part that is run alone, with nothing of the whole around it:

==========================  =========================================================================================
constant                    from
==========================  =========================================================================================
hop, frame, byte            two real transports in two processes: one frame to and fro (`bench.micro_transport`), and
                            frames in one direction, whose sender and receiver are timed apart (t_out and t_in)
rounds, synced_rounds       a transport that sends a frame to each of two and of four others and awaits their answers,
                            all on the cores of this machine; the same where each of them, and the one that asks, syncs
                            a log first (`bench.micro_round`), and a log by itself
client, served, synced      one replica by itself, with nobody to agree with (protocol ``null``), under one client:
                            latency, and processor time of both; nothing synced, and everything; with single operations
                            and with large batches, and with batching turned off
state machine               applying runs to LMDB, commits of the state included (`bench.micro_kv`)
log                         commits of the log without syncs, few and many operations in one (`bench.micro_log`)
steps                       the protocol's own steps: a turn of a replica that was asleep; further commands and
                            operations in a turn (`steps`)
loop                        what one replica by itself spends on an operation beside its frames, its commit and its
                            steps, by turn
busy                        a replica by itself and its client again, beside as many such pairs as make more processes
                            than there are cores: processor time of both
==========================  =========================================================================================

Costs by operation, by command and by batch are separated by least squares over batches of several sizes. The runs by
which the model is judged are no part of this: none of them has one replica.

Everything is measured in several *passes*, one after the other. A constant is the median of its passes, and its spread
(largest less smallest, over the median) goes with it. What other programs keep busy meanwhile is measured as well:
beside them every constant is too large.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import psutil
from scipy.optimize import nnls

from bench import micro_kv, micro_log, micro_round, micro_transport
from bench.results import RunResult, read_folder, this_machine, timestamp
from bench.runner import Settings, run_suite
from bench.suite import ClusterShape, Experiment, HistoryOptions, Load, Suite, Sweep, TargetEntry

from .errors import ModelError
from .steps import measure_steps
from .system import FORMAT, RUN_OPERATIONS_MAX, TURNS, Calibration, RoundCosts, StepCosts

__all__ = [
    "BUSY_SHARE",
    "DEFAULT_FILE",
    "PASSES",
    "calibrate",
    "combine",
    "describe_machine",
    "doubts",
    "load",
    "measure_pass",
    "others_cores",
    "store",
]

DEFAULT_FILE: Final = Path("data") / "calibration.json"
"""Where the commands keep and look for a calibration, below the working directory."""

VALUE_BYTES: Final = 128
SMALL_BYTES: Final = 128
LARGE_BYTES: Final = 32_768
SETTLING_S: Final = 0.1
"""For the last frames to arrive."""

PASSES: Final = 3
"""Passes of a calibration, unless one is told otherwise."""

BUSY_SHARE: Final = 0.1
"""When other programs keep more than this share of the cores busy, constants are not to be trusted."""

SPREAD_MAX: Final = 0.5
"""A constant that matters and moves by more than this between passes is not to be trusted either."""

LOOKING_S: Final = 0.4
"""So long it is watched what other programs use, before each pass and at the end."""

PEERS: Final = (2, 4)
"""Those of the rounds that are measured: of three and of five replicas."""

BATCHES: Final = (1, 64, 512)
"""Operations in flight with one replica by itself."""

UNBATCHED: Final = 256
"""The same with batching turned off."""

SYNC_ROUNDS: Final = 200
"""Rounds with synced logs, of each number of replicas and size."""

Report = Callable[[str], None]

T = TypeVar("T")


def load(path: Path) -> Calibration:
    """A stored calibration. Raises `ModelError`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        raise ModelError(
            f"calibration: there is no {path}; make one with: synod model calibrate --out {path}"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"calibration: {path} cannot be read: {error}") from None
    if found.format != FORMAT:
        raise ModelError(f"calibration: {path} has format {found.format}, this program reads {FORMAT}: calibrate again")
    return found


def store(path: Path, calibration: Calibration) -> None:
    """Write a calibration where `load` finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(calibration), indent=2).decode()
    # A list of numbers is one line.
    text = re.sub(
        r"\[[\s\d.,e+-]+\]", lambda found: f"[{', '.join(found.group()[1:-1].split()).replace(',,', ',')}]", text
    )
    path.write_text(f"{text}\n")


def describe_machine() -> str:
    """The machine as a calibration names it."""
    machine = this_machine()
    processor = machine.processor or machine.architecture
    return f"{processor}, {machine.cores} cores, {machine.system} {machine.release}"


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The line through (x, y), both coefficients at least 0, by the relative error: y ≈ first + second · x."""
    x = np.array([point[0] for point in points])
    y = np.array([point[1] for point in points])
    weights = 1 / np.maximum(y, 1e-9)
    (first, second), _ = nnls(np.column_stack([weights, x * weights]), y * weights)
    return float(first), float(second)


def _plane(points: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The plane through (x, y, z), as `_line`: z ≈ first + second · x + third · y."""
    given = np.array(points)
    weights = 1 / np.maximum(given[:, 2], 1e-9)
    columns = np.column_stack([np.ones(len(points)), given[:, 0], given[:, 1]])
    found, _ = nnls(columns * weights[:, None], given[:, 2] * weights)
    return float(found[0]), float(found[1]), float(found[2])


# ------------------------------------------------------------------------------------------------------ the transport


def _sink_process(pipe: Connection, replica: int) -> None:
    """Take frames in and count the processor time they cost."""

    async def main() -> None:
        transport, _host = await micro_transport.connect(replica, pipe)
        while (await asyncio.to_thread(pipe.recv)) != "stop":
            pipe.send(micro_transport.processor_time_s())
        await transport.stop()

    micro_transport.run(main())


async def _one_way(pipe: Connection, seconds: float) -> tuple[float, float]:
    """Processor µs of the receiver and of the sender for one frame of one message, while it has nothing else to do."""
    transport, _host = await micro_transport.connect(micro_transport.DRIVER, pipe)

    async def receiver() -> float:
        pipe.send("report")
        answer: float = await asyncio.to_thread(pipe.recv)
        return answer

    await receiver()
    data = bytes(SMALL_BYTES)
    counters = transport.peers()[micro_transport.BOUNCER].counters
    frames, taken, spent = counters.frames, await receiver(), micro_transport.processor_time_s()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        transport.send((micro_transport.BOUNCER,), data)
        await transport.flush()
    spent = micro_transport.processor_time_s() - spent
    frames = counters.frames - frames
    await asyncio.sleep(SETTLING_S)
    taken = await receiver() - taken
    pipe.send("stop")
    await transport.stop()
    return taken / frames * 1e6, spent / frames * 1e6


async def _round_trips(pipe: Connection, seconds: float) -> dict[int, tuple[float, float]]:
    """By the bytes of a message: the median round trip of one frame, and the processor time of one way; both in µs."""
    transport, host = await micro_transport.connect(micro_transport.DRIVER, pipe)

    async def other() -> float:
        pipe.send("report")
        answer: tuple[float, list[int]] = await asyncio.to_thread(pipe.recv)
        return answer[0]

    await other()
    found = {}
    for size in (SMALL_BYTES, LARGE_BYTES):
        await micro_transport.bounce(transport, host, 1, size, seconds / 10)
        before = await other() + micro_transport.processor_time_s()
        times = await micro_transport.bounce(transport, host, 1, size, seconds)
        spent = await other() + micro_transport.processor_time_s() - before
        found[size] = statistics.median(times) * 1e6, spent / (2 * len(times)) * 1e6
    pipe.send("stop")
    await transport.stop()
    return found


def _beside(target: Callable[[Connection, int], None], main: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` here and ``target`` in another process, with a pipe between them."""
    with micro_transport.others(1, target) as (pipe,):
        found: T = micro_transport.run(main(pipe))
    return found


def measure_frames(seconds: float) -> tuple[float, float]:
    """Processor time to take in and to send a frame between two transports, in microseconds."""
    return _beside(_sink_process, lambda pipe: _one_way(pipe, seconds))


def _transport(seconds: float) -> dict[str, float]:
    trips = _beside(micro_transport.bouncing_process, lambda pipe: _round_trips(pipe, seconds))
    (small_us, small_work), (_, large_work) = trips[SMALL_BYTES], trips[LARGE_BYTES]
    frame_in, frame_out = measure_frames(seconds)
    return {
        "hop_us": small_us / 2,
        "frame_in_us": frame_in,
        "frame_out_us": frame_out,
        "byte_us": max(0.0, (large_work - small_work) / (LARGE_BYTES - SMALL_BYTES)),
    }


# --------------------------------------------------------------------------------------------------------- other parts


class _Silent:
    """Nobody is told how far the runs have come."""

    def planned(self, plans: Any, ceilings: int, done: int) -> None: ...

    def begins(self, what: str) -> None: ...

    def ended(self, run: RunResult | None, seconds: float) -> None: ...

    def says(self, text: str) -> None: ...


def _suite_of_one(load_: Load, *experiments: tuple[str, Sequence[int], Mapping[str, Any]]) -> Suite:
    """One replica that decides alone, under one client that writes: for each experiment so many in flight in turn."""
    return Suite(
        name="serving",
        repetitions=1,
        targets=[TargetEntry(target="synod", protocol="null")],
        experiments=[
            Experiment(
                name=name,
                workload="writes",
                changes={"value.bytes": VALUE_BYTES},
                sweep=Sweep(axis="load.in_flight", values=list(counts)),
                load=load_,
                cluster=ClusterShape(replicas=1, **cluster),
                history=HistoryOptions(fraction=0.0),
            )
            for name, counts, cluster in experiments
        ],
    )


def _served(suite: Suite, homes: Sequence[Path]) -> list[dict[tuple[str, int], RunResult]]:
    """The runs of a suite by experiment and operations in flight; done in each of ``homes`` at the same time.

    Raises `ModelError`.
    """

    async def all_at_once() -> None:
        await asyncio.gather(*(run_suite(suite, Settings(folder=home, ceilings=False), _Silent()) for home in homes))

    asyncio.run(all_at_once())
    found = []
    for home in homes:
        runs = {(run.experiment, run.load["in_flight"]): run for run in read_folder(home).runs}
        for run in runs.values():
            if run.failure is not None:
                raise ModelError(f"calibration: a replica by itself could not be measured: {run.failure.reason}")
        found.append(runs)
    return found


def _batch_costs(run: RunResult) -> tuple[float, float, float]:
    """Latency, and processor time of client and replica, of a whole batch; µs."""
    batch = float(run.load["in_flight"])
    begin, end = run.measured_s
    operations = run.summary.throughput * (end - begin)
    # A generator's account covers warming up and cooling down as well.
    issued = run.summary.throughput * (end + float(run.load["cool_down_s"]))
    spent = {used.role == "generator": used.cpu_user_s + used.cpu_system_s for used in _processes(run)}
    return (
        run.summary.mean_ms * 1e3,
        spent[True] / issued * batch * 1e6,
        spent[False] / operations * batch * 1e6,
    )


def _serving(seconds: float, folder: Path) -> dict[str, float]:
    """One replica that decides alone, under one client: latency and processor time by batch, synced and not."""
    load_ = Load(seconds=max(0.3, seconds / 2), warm_up_s=0.3, cool_down_s=0.05)
    suite = _suite_of_one(
        load_,
        ("synced", BATCHES, {}),
        ("unbatched", (UNBATCHED,), {"batch_max": 1}),
        ("unsynced", BATCHES, {"durability": "none"}),
    )
    (runs,) = _served(suite, [folder / "serving"])
    found = {}
    for experiment_name, names in (("synced", ("synced", "client", "node")), ("unsynced", ("served", "", ""))):
        measured = [(float(count), _batch_costs(runs[experiment_name, count])) for count in BATCHES]
        for place, name in enumerate(names):
            if name:
                frame, operation = _line([(batch, costs[place]) for batch, costs in measured])
                found[f"{name}_frame_us"], found[f"{name}_operation_us"] = frame, operation
    latency, _, node = _batch_costs(runs["unbatched", UNBATCHED])
    for name, constant, whole in (("synced", "served", latency), ("node", "node", node)):
        alone = found[f"{name}_frame_us"] + UNBATCHED * found[f"{name}_operation_us"]
        found[f"{constant}_command_us"] = max(0.0, (whole - alone) / (UNBATCHED - 1))
    return found


def _busy(seconds: float, folder: Path, *, pairs: int) -> dict[str, float]:
    """Processor time of a client and of its one replica together, so many such pairs at work at the same time."""
    # The pairs do not begin at quite the same moment, which matters less in a longer run.
    load_ = Load(seconds=max(0.3, seconds), warm_up_s=0.5, cool_down_s=0.25)
    runs = _served(_suite_of_one(load_, ("busy", BATCHES, {})), [folder / f"busy-{pair}" for pair in range(pairs)])
    costs = [(float(count), sum(_batch_costs(each["busy", count])[1:])) for each in runs for count in BATCHES]
    frame, operation = _line(costs)
    return {"busy_frame_us": frame, "busy_operation_us": operation}


def _loop(found: Mapping[str, Any]) -> float:
    """What a replica by itself spends on a batch of one beside frames, commit and steps, by turn; µs."""
    steps = found["steps"]["null/1"].leading_turn_us
    commit = found["synced_rounds"]["1"].leading_us
    frames = found["frame_in_us"] + found["frame_out_us"]
    rest = found["node_frame_us"] + found["node_operation_us"] - found["apply_command_us"] - frames - commit - steps
    return max(0.0, float(rest)) / TURNS


def _processes(run: RunResult) -> list[Any]:
    """What the generator and the replica used."""
    return [used for used in run.resources if used.role == "generator" or used.replica]


def _state_machine(puts: int, folder: Path) -> dict[str, float]:
    measured = micro_kv.Measurement(micro_kv.Load(puts=puts, keys=1_000, value_bytes=VALUE_BYTES), folder)
    measured.round()
    costs = measured.costs()

    def of(step: str, name: str = "") -> list[tuple[float, float]]:
        return [(cost.run, cost.us * cost.run) for cost in costs if cost.step == step and cost.store == name]

    command, operation = _line(of("apply", "lmdb"))
    return {"apply_command_us": command, "apply_operation_us": operation}


def _log(seconds: float, folder: Path) -> dict[str, Any]:
    bytes_of = {operations: operations * (VALUE_BYTES + 16) for operations in (1, 64, RUN_OPERATIONS_MAX)}
    series = {operations: micro_log.Series(folder, "none", 1, size) for operations, size in bytes_of.items()}
    for _ in range(4):
        for each in series.values():
            each.run(seconds / 8)
    unsynced = _line([(operations - 1, each.finish().median_us) for operations, each in series.items()])
    return {"unsynced_us": unsynced[0], "log_operation_us": unsynced[1]}


def _rounds(seconds: float) -> dict[str, RoundCosts]:
    found = {}
    for peers in PEERS:
        measured = micro_transport.measure_round(peers, seconds=seconds, size=SMALL_BYTES)
        found[str(peers + 1)] = RoundCosts(
            answered_us=measured.answered_us, leading_us=measured.leading_us, following_us=measured.following_us
        )
    return found


def _synced_rounds(seconds: float, folder: Path) -> dict[str, RoundCosts]:
    found = {}
    for peers in (0, *PEERS):
        small, large = micro_round.measure_synced_round(
            folder,
            peers,
            rounds=max(5, round(SYNC_ROUNDS * min(1.0, seconds))),
            sizes=tuple(operations * (VALUE_BYTES + 16) for operations in (1, RUN_OPERATIONS_MAX)),
        )
        more = statistics.fmean(large.answered_us) - statistics.fmean(small.answered_us)
        found[str(peers + 1)] = RoundCosts(
            answered_us=small.answered_us,
            operation_us=max(0.0, more / (RUN_OPERATIONS_MAX - 1)),
            leading_us=small.leading_us,
            following_us=small.following_us,
            leading_operation_us=max(0.0, large.leading_us - small.leading_us) / (RUN_OPERATIONS_MAX - 1),
            following_operation_us=max(0.0, large.following_us - small.following_us) / (RUN_OPERATIONS_MAX - 1),
        )
    return found


def _steps(protocols: Mapping[str, Iterable[int]], turns: int, report: Report) -> dict[str, StepCosts]:
    found = {}
    for protocol, counts in protocols.items():
        for replicas in counts:
            report(f"the steps of {protocol} with {replicas} replica(s)")
            leading, following = [], []
            for run, together in ((1, 1), (64, 1), (RUN_OPERATIONS_MAX, 1), (1, 16), (1, 64)):
                few = max(20, turns // together)
                cost = measure_steps(protocol, replicas, run=run, together=together, value_bytes=VALUE_BYTES, turns=few)
                point = (float(together - 1), float(run * together - 1))
                leading.append((*point, cost.leading_us))
                following.append((*point, cost.following_us))
            lead = _plane(leading)
            follow = _plane(following) if replicas > 1 else (0.0, 0.0, 0.0)
            # What a turn costs whatever is in it is paid by a replica that was woken for it.
            woken = measure_steps(protocol, replicas, value_bytes=VALUE_BYTES, turns=max(10, turns // 3), rested=True)
            found[f"{protocol}/{replicas}"] = StepCosts(
                leading_turn_us=max(lead[0], woken.leading_us),
                leading_command_us=lead[1],
                leading_operation_us=lead[2],
                following_turn_us=max(follow[0], woken.following_us),
                following_command_us=follow[1],
                following_operation_us=follow[2],
            )
    return found


def others_cores(seconds: float = LOOKING_S) -> float:
    """How many cores other programs keep busy while this one sleeps."""
    before = psutil.cpu_times()
    time.sleep(seconds)
    after = psutil.cpu_times()

    def idle(times: Any) -> float:
        return float(times.idle + getattr(times, "iowait", 0.0))

    passed = sum(after) - sum(before)
    if passed <= 0:
        return 0.0
    return max(0.0, 1 - (idle(after) - idle(before)) / passed) * (os.cpu_count() or 1)


def measure_pass(
    protocols: Mapping[str, Iterable[int]],
    *,
    folder: Path | None = None,
    seconds: float = 1.0,
    report: Report = lambda _text: None,
) -> Calibration:
    """Measure everything once, as `calibrate` does several times."""
    cores = os.cpu_count() or 1
    puts = max(4_000, int(20_000 * seconds))
    found: dict[str, Any] = {"others_cores": others_cores()}
    with tempfile.TemporaryDirectory(prefix="synod-calibrate-", dir=folder) as name:
        report("the transport between two replicas")
        found |= _transport(seconds / 2)
        report("rounds of three and of five replicas")
        found["rounds"] = _rounds(seconds / 2)
        report("the same with synced logs")
        found["synced_rounds"] = _synced_rounds(seconds, Path(name))
        found["sync_us"] = found["synced_rounds"]["1"].answered_us[0]
        report("one replica by itself, and its client")
        found |= _serving(seconds, Path(name))
        report("the state machine")
        found |= _state_machine(puts, Path(name))
        report("commits of the log")
        found |= _log(seconds, Path(name))
        report("the same beside another such pair")
        found |= _busy(seconds, Path(name), pairs=max(2, (cores + 2) // 2))
        # What one replica by itself does of its own accord is in what it was measured to take.
        found["steps"] = _steps({**protocols, "null": (1,)}, max(60, int(200 * seconds)), report)
        found["loop_us"] = _loop(found)
    found["others_cores"] = (found["others_cores"] + others_cores()) / 2
    return Calibration(created=timestamp(), machine=describe_machine(), cores=cores, value_bytes=VALUE_BYTES, **found)


def combine(passes: Sequence[Calibration]) -> Calibration:
    """Of every constant the median over the passes, and its spread. Raises `ModelError`."""
    if not passes:
        raise ModelError("calibration: there is no pass to make one of")
    spread: dict[str, float] = {}

    def middle(name: str, values: Sequence[float]) -> float:
        found = statistics.median(values)
        spread[name] = round((max(values) - min(values)) / found, 3) if found else 0.0
        return found

    def merged(name: str, parts: Sequence[Any]) -> Any:
        first = parts[0]
        if isinstance(first, msgspec.Struct):
            fields = {
                field: merged(f"{name} {field}", [getattr(part, field) for part in parts]) for field in _of(first)
            }
            return msgspec.structs.replace(first, **fields)
        if isinstance(first, tuple):
            return tuple(merged(f"{name} {place + 1}", values) for place, values in enumerate(zip(*parts, strict=True)))
        return middle(name, parts)

    found: dict[str, Any] = {}
    for field in _of(passes[0]):
        values = [getattr(each, field) for each in passes]
        if field in {"rounds", "steps", "synced_rounds"}:
            names = [name for name in values[0] if all(name in value for value in values)]
            found[field] = {name: merged(f"{field} {name}", [value[name] for value in values]) for name in names}
        elif field == "others_cores":
            found[field] = statistics.fmean(values)
        elif field == "passes":
            found[field] = sum(values)
        elif isinstance(values[0], float):
            found[field] = middle(field, values)
    return msgspec.structs.replace(passes[-1], **found, spread=spread)


def _of(struct: msgspec.Struct) -> tuple[str, ...]:
    return struct.__struct_fields__


WEIGHTY: Final = ("synced_frame_us", "synced_operation_us", "synced_rounds 3 answered_us 1", "sync_us", "hop_us")
"""Constants that decide most of a prediction: if they do not hold still, it will not."""


def doubts(calibration: Calibration) -> list[str]:
    """Why the constants of a calibration are not to be trusted; a sentence each, none if they are."""
    found = []
    if calibration.others_cores > BUSY_SHARE * calibration.cores:
        found.append(
            f"other programs kept {calibration.others_cores:.1f} of {calibration.cores} cores busy during the "
            f"calibration, so that its constants are too large: repeat it on a quiet machine"
        )
    found.extend(
        f"{name} moved by {calibration.spread[name]:.0%} between the passes of the calibration"
        for name in WEIGHTY
        if calibration.spread.get(name, 0.0) > SPREAD_MAX
    )
    return found


def calibrate(
    protocols: Mapping[str, Iterable[int]],
    *,
    folder: Path | None = None,
    seconds: float = 1.0,
    passes: int = PASSES,
    report: Report = lambda _text: None,
) -> Calibration:
    """Measure everything, ``passes`` times, each about a third of a minute.

    ``protocols``: the numbers of replicas for which each one's steps are measured. ``folder``: on the disk that counts.
    ``report`` is told what is being measured. Raises `ModelError`, `OSError`.
    """
    if not math.isfinite(seconds) or seconds <= 0:
        raise ModelError(f"seconds: {seconds:g} is not above 0")
    if passes < 1:
        raise ModelError(f"passes: {passes} is not a positive number")
    return combine(
        [
            measure_pass(
                protocols,
                folder=folder,
                seconds=seconds,
                report=lambda text, number=number: report(f"{text} ({number + 1}/{passes})"),  # type: ignore[misc]
            )
            for number in range(passes)
        ]
    )
