"""Measure what the parts of this build cost here: `synod model calibrate`.

Every constant of `system.Calibration` comes from a part that is run alone, with nothing of the whole around it:

==========================  =========================================================================================
constant                    from
==========================  =========================================================================================
hop, frame, byte            two real transports in two processes: one frame to and fro (`bench.micro_transport`), and
                            frames in one direction, whose sender and receiver are timed apart (t_out and t_in)
client                      the client library against an answer prepared beforehand (`bench.micro_client`), with few
                            and with many operations in flight
service                     checking a run and encoding its results (`bench.micro_kv`)
state machine               applying runs to LMDB, commits of the state included (`bench.micro_kv`)
sync, log                   commits of the log, few and many operations in one (`bench.micro_log`)
steps                       the protocol's own steps (`steps`)
company                     the state machine again, alone and then once for each core at the same time
==========================  =========================================================================================

Costs by operation and by batch are separated by least squares over batches of several sizes. The runs by which the
model is judged are no part of this.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from scipy.optimize import nnls

from bench import micro_client, micro_kv, micro_log, micro_transport
from bench.results import this_machine, timestamp
from replica.consensus.interface import Command
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import OpenSession
from replica.kv.runs import encode_operations, pack_payload
from replica.storage.log import Durability

from .errors import ModelError
from .steps import measure_steps
from .system import FORMAT, RUN_OPERATIONS_MAX, Calibration, StepCosts

__all__ = ["DEFAULT_FILE", "calibrate", "describe_machine", "load", "store"]

DEFAULT_FILE: Final = Path("data") / "calibration.json"
"""Where the commands keep and look for a calibration, below the working directory."""

VALUE_BYTES: Final = 128
SMALL_BYTES: Final = 128
LARGE_BYTES: Final = 32_768
SETTLING_S: Final = 0.1
"""For the last frames to arrive."""
BATCHES: Final = (1, 16, 128, 512)

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
    path.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")


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


# ------------------------------------------------------------------------------------------------------ the transport


def _sink_process(pipe: Connection) -> None:
    """Take frames in and count the processor time they cost."""

    async def main() -> None:
        transport, _host = await micro_transport.connect(micro_transport.BOUNCER, pipe)
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


def _beside(target: Callable[[Connection], None], main: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    """Run ``main`` here and ``target`` in another process, with a pipe between them."""
    context = multiprocessing.get_context("spawn")  # grpc does not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs,), daemon=True)
    process.start()
    try:
        found: T = micro_transport.run(main(ours))
        process.join(10)
    finally:
        process.kill()
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


def _client(puts: int) -> dict[str, float]:
    points = []
    for tasks in BATCHES:
        figures = micro_transport.run(
            micro_client.measure(max(puts // (512 // tasks + 1), 2_000), tasks, VALUE_BYTES, 0)
        )
        batch = figures["operations_a_frame"]
        points.append((batch, figures["client_us"] * batch))
    frame, operation = _line(points)
    return {"client_frame_us": frame, "client_operation_us": operation}


def _state_machine(puts: int, folder: Path) -> dict[str, float]:
    measured = micro_kv.Measurement(micro_kv.Load(puts=puts, keys=1_000, value_bytes=VALUE_BYTES), folder)
    for _ in range(2):
        measured.round()
    costs = measured.costs()

    def of(step: str, name: str = "") -> list[tuple[float, float]]:
        return [(cost.run, cost.us * cost.run) for cost in costs if cost.step == step and cost.store == name]

    command, operation = _line(of("apply", "lmdb"))
    validate = _line(of("validate run"))[1]
    answer = _line(of("encode results"))[1]
    return {
        "apply_command_us": command,
        "apply_operation_us": operation,
        "service_operation_us": validate + answer,
    }


def _log(seconds: float, folder: Path) -> dict[str, float]:
    durabilities: tuple[Durability, ...] = ("sync", "none")
    sizes = {operations: operations * (VALUE_BYTES + 16) for operations in (1, 64, 512)}
    medians: dict[tuple[str, int], float] = {}
    series = {
        (durability, operations): micro_log.Series(folder, durability, 1, size)
        for durability in durabilities
        for operations, size in sizes.items()
    }
    for _ in range(4):
        for each in series.values():
            each.run(seconds / 4)
    for key, each in series.items():
        medians[key] = each.finish().median_us
    # What a record adds is processor time, and cleaner without the disk's own moods.
    unsynced, operation = _line([(operations - 1, medians["none", operations]) for operations in sizes])
    return {"sync_us": medians["sync", 1], "unsynced_us": unsynced, "log_operation_us": operation}


def _applying(connection: Connection, puts: int) -> None:
    """Apply puts in memory when told to; answer with the processor µs of one."""
    load_ = micro_kv.Load(puts=puts, keys=1_000, value_bytes=VALUE_BYTES)
    decided = micro_kv.commands(load_.runs(128))
    connection.send("ready")
    while connection.recv() == "go":
        machine = StateMachine(MemoryStore())
        machine.apply(1, (Command(pack_payload(0, encode_operations([OpenSession(b"calibration")]))),))
        began = time.process_time_ns()
        micro_kv.apply_all(machine, decided, compacting=False)
        connection.send((time.process_time_ns() - began) / puts / 1e3)


def _company(puts: int, cores: int) -> float:
    """How much more processor time the same work takes with every core busy."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for _ in range(cores + 1):
        ours, theirs = context.Pipe()
        process = context.Process(target=_applying, args=(theirs, puts), daemon=True)
        process.start()
        workers.append((process, ours))
    try:
        for _, pipe in workers:
            pipe.recv()
        alone, together = [], []
        for _ in range(5):
            workers[0][1].send("go")
            alone.append(workers[0][1].recv())
            for _, pipe in workers:
                pipe.send("go")
            together.append(statistics.fmean(pipe.recv() for _, pipe in workers))
        for process, pipe in workers:
            pipe.send("stop")
            process.join(10)
    finally:
        for process, _ in workers:
            process.kill()
    factor: float = statistics.median(together) / statistics.median(alone)
    return max(1.0, factor)


def _steps(protocols: Mapping[str, Iterable[int]], commands: int, report: Report) -> dict[str, StepCosts]:
    found = {}
    for protocol, counts in protocols.items():
        for replicas in counts:
            report(f"the steps of {protocol} with {replicas} replicas")
            leading, following = [], []
            for run in (1, 64, RUN_OPERATIONS_MAX):
                cost = measure_steps(protocol, replicas, run=run, value_bytes=VALUE_BYTES, commands=commands)
                leading.append((float(run), cost.leading_us))
                following.append((float(run), cost.following_us))
            lead, follow = _line(leading), _line(following) if replicas > 1 else (0.0, 0.0)
            found[f"{protocol}/{replicas}"] = StepCosts(
                leading_command_us=lead[0],
                leading_operation_us=lead[1],
                following_command_us=follow[0],
                following_operation_us=follow[1],
            )
    return found


def calibrate(
    protocols: Mapping[str, Iterable[int]],
    *,
    folder: Path | None = None,
    seconds: float = 1.0,
    report: Report = lambda _text: None,
) -> Calibration:
    """Measure everything, about a quarter of a minute and as long as ``seconds`` times twelve.

    ``protocols``: the numbers of replicas for which each one's steps are measured. ``folder``: on the disk that counts.
    ``report`` is told what is being measured. Raises `ModelError`, `OSError`.
    """
    if not math.isfinite(seconds) or seconds <= 0:
        raise ModelError(f"seconds: {seconds:g} is not above 0")
    cores = os.cpu_count() or 1
    puts = max(4_000, int(20_000 * seconds))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="synod-calibrate-", dir=folder) as name:
        report("the transport between two replicas")
        found |= _transport(seconds)
        report("the client library")
        found |= _client(puts * 4)
        report("the state machine")
        found |= _state_machine(puts, Path(name))
        report("commits of the log")
        found |= _log(seconds, Path(name))
        report("a busy machine")
        found["company"] = _company(puts, cores)
        found["steps"] = _steps(protocols, max(100, int(400 * seconds)), report)
    # A client's stream is a stream of the same library, on the same loopback, with frames of the same kind.
    return Calibration(
        created=timestamp(),
        machine=describe_machine(),
        cores=cores,
        value_bytes=VALUE_BYTES,
        client_hop_us=found["hop_us"],
        **found,
    )
