"""One generator process: ``python -m bench.load.generator``, started and told what to do by `bench.load.fleet`.

It reads its orders (a `GeneratorSpec` as one line of JSON) from standard input, connects, loads keys if it is told to,
says ``ready``, waits for the line that names the start, and drives the load. What it measured follows the line that
says ``done``, so that it may run wherever a process of this kernel can: here, in a container, in a network namespace.
It ignores the keyboard's interrupt, which is the parent's to handle, and ends by itself when its standard input ends: a
parent that is gone, however it went, leaves no generator behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import sys
from typing import Any

import msgspec

from bench.increments import run
from bench.load.clients import open_client
from bench.load.drive import Driver
from bench.load.measure import Measured, Notes, Window
from bench.load.record import Recorder, Recording
from bench.operations import Stream
from bench.suite import Load
from bench.workload import Workload
from replica.client.options import Consistency

OPEN_ATTEMPTS = 20
OPEN_PAUSE_S = 0.25


class GeneratorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one generator is to do. ``in_flight`` and ``rate`` are its own share."""

    rpc: str
    url: str
    workload: Workload
    load: Load
    seed: int
    client: int
    clients: int
    in_flight: int
    rate: float
    region: str = ""
    region_index: int = 0
    regions: int = 1
    prefix: str = ""
    consistency: Consistency = "linearizable"
    fraction: float = 0.0
    operations_max: int = 0
    preload: tuple[int, ...] = ()
    """The regions, by number, whose keys it writes before the start."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """When the run starts, on the monotonic clock of the machine."""

    at: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a generator tells its parent, a line each."""

    state: str
    """``ready``, ``done`` or ``failed``."""
    error: str = ""
    size_bytes: int = 0
    """Of the result (`GeneratorResult`) that follows the line, packed by msgpack."""


class GeneratorResult(msgspec.Struct, kw_only=True):
    """What a generator hands back."""

    measured: Measured
    recording: Recording
    loaded: Recording
    cpu_user_s: float
    cpu_system_s: float
    memory_bytes: int


def window_of(load: Load, start: float) -> Window:
    """The parts of a run that starts at ``start``."""
    begin = start + load.warm_up_s
    end = begin + load.seconds
    return Window(start=start, measured_from=begin, measured_to=end, end=end + load.cool_down_s)


async def _generate(spec: GeneratorSpec, order: asyncio.Future[bytes]) -> GeneratorResult:
    stream = Stream(
        spec.workload,
        seed=spec.seed,
        client=spec.client,
        clients=spec.clients,
        region=spec.region_index,
        regions=spec.regions,
        prefix=spec.prefix.encode(),
        fraction=spec.fraction,
    )
    client = open_client(
        spec.rpc,
        spec.url,
        region=spec.region,
        consistency=spec.consistency,
        timeout_s=spec.load.timeout_s,
        in_flight=spec.in_flight,
    )
    await _open(client)
    try:
        loaded = Recorder(stream, spec.operations_max)
        if spec.preload:
            nowhere = Window(start=0.0, measured_from=0.0, measured_to=1.0, end=1.0)
            await Driver(client, stream, Notes(nowhere, 1.0, open_loop=False), loaded, nowhere).load(spec.preload)
        _say(Progress(state="ready"))
        start = msgspec.json.decode(await order, type=Start).at
        window = window_of(spec.load, start)
        open_loop = spec.load.loop == "open"
        notes = Notes(window, spec.load.window_s, open_loop=open_loop)
        recorder = Recorder(stream, spec.operations_max)
        driver = Driver(client, stream, notes, recorder, window)
        gc.collect()
        gc.freeze()  # what is here by now lives as long as the run does, and need not be looked at again
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if open_loop:
            share = max(1, 4096 // spec.clients)
            await driver.open(spec.rate, spec.load.arrivals, seed=spec.seed * 31 + spec.client, in_flight_max=share)
        else:
            await driver.closed(spec.in_flight)
        used = resource.getrusage(resource.RUSAGE_SELF)
        return GeneratorResult(
            measured=notes.finish(),
            recording=recorder.finish(client.result),
            loaded=loaded.finish(client.result),
            cpu_user_s=used.ru_utime - usage.ru_utime,
            cpu_system_s=used.ru_stime - usage.ru_stime,
            memory_bytes=used.ru_maxrss * 1024,
        )
    finally:
        await client.close()


async def _open(client: Any) -> None:
    """Connect; a cluster that has just come up may need a moment."""
    for attempt in range(OPEN_ATTEMPTS):
        try:
            await client.open()
        except Exception:
            if attempt == OPEN_ATTEMPTS - 1:
                raise
            await asyncio.sleep(OPEN_PAUSE_S)
        else:
            return


def _say(progress: Progress, result: bytes = b"") -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n" + result)
    sys.stdout.buffer.flush()


async def _main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    spec = msgspec.json.decode(await orders.readline(), type=GeneratorSpec)
    order: asyncio.Future[bytes] = loop.create_future()
    work = asyncio.create_task(_generate(spec, order))
    orphaned = asyncio.create_task(_listen(orders, order))
    await asyncio.wait({work, orphaned}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        return
    orphaned.cancel()
    try:
        result = work.result()
    except Exception as error:  # noqa: BLE001 - the parent reports it
        _say(Progress(state="failed", error=f"{type(error).__name__}: {error}"))
        return
    packed = msgspec.msgpack.encode(result)
    _say(Progress(state="done", size_bytes=len(packed)), packed)


async def _listen(orders: asyncio.StreamReader, order: asyncio.Future[bytes]) -> None:
    """Hand over the order to start; return when the parent's end of the pipe is closed."""
    while line := await orders.readline():
        order.set_result(line)


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(_main())


if __name__ == "__main__":
    main()
