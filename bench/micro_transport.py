"""What a message between replicas costs: round trips, messages a second, processor time, and what a flush is worth.

Two processes on loopback, each with the real `replica.transport.Transport`. One bounces what it gets back to the other,
frame for frame. Three measurements, one line of JSON each:

- ``bounce``: a frame of so many messages goes and comes back, one at a time. Round trip in microseconds (median and
  99th percentile), processor time of both processes for one frame in one direction.
- ``round``: a frame to each of so many peers, and all of them answer, as in a round of agreement: after how long has
  the first answered, the second, and so on (medians), and what does it cost the processor of both sides.
- ``window``: so many single messages are kept in flight; how they share frames is left to the links.
- ``blocked``: the sender blocks its loop right after handing a message over, as an inline sync does; when has the
  message arrived at the other side? With ``flush`` it is measured against the hand-over; without, the message waits.

``python -m bench.micro_transport`` takes about ten seconds. Times move from run to run: compare within one. grpc waits
for its sockets as it does by default; `synod serve` chooses otherwise (`replica.tuning`), which the same setting of
GRPC_EXPERIMENTS shows here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from replica.transport import (
    Accept,
    Identity,
    LessonSource,
    LinkEvent,
    LinkUp,
    PeerGreeting,
    SnapshotQuery,
    SnapshotSource,
    SnapshotUnserved,
    Transport,
    Verdict,
)

DRIVER, BOUNCER = 1, 2
BLOCK_S = 0.02
BLOCKED_ROUNDS = 50

Received = Callable[[list[Any]], None]


class Host:
    """As little of a node as the transport can live with."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.linked: set[int] = set()
        self.take: Received = lambda _: None

    def epoch(self) -> int:
        return 1

    def protocol(self) -> str:
        return "bench"

    def admitted(self) -> bool:
        return True

    def decode(self, data: bytes, /) -> bytes:
        return data

    def received(self, _sender: int, messages: list[Any], /) -> Awaitable[None] | None:
        self.take(messages)
        return None

    def notified(self, event: LinkEvent, /) -> None:
        if isinstance(event, LinkUp):
            self.linked.add(event.peer)
            self.up.set()

    async def greeted(self, _greeting: PeerGreeting, /) -> Verdict:
        return Accept()

    async def open_snapshot(self, _query: SnapshotQuery, /) -> SnapshotSource:
        raise SnapshotUnserved("nothing is stored here")

    async def open_lesson(self, _query: SnapshotQuery, /) -> LessonSource:
        raise SnapshotUnserved("nothing is taught here")


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """A frame to each of some peers, and their answers. Microseconds."""

    peers: int
    answered_us: tuple[float, ...]
    """When the first has answered, the second, ...: medians, from the hand-over on."""
    leading_us: float
    following_us: float
    """Processor time of the one that asks, and of each one that answers."""


def processor_time_s() -> float:
    """Processor time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def connect(replica: int, *pipes: Connection) -> tuple[Transport, Host]:
    """Start a transport and find the others through the pipes: all bouncers, or the driver.

    Bouncers are numbered from `BOUNCER` on, in the order of the driver's pipes.
    """
    host = Host()
    transport = Transport(
        Identity(cluster="bench", replica=replica, disk=f"disk-{replica}", incarnation=1), host, listen="127.0.0.1:0"
    )
    await transport.start()
    peers = {}
    for number, pipe in enumerate(pipes):
        pipe.send(transport.port)
        port = await asyncio.to_thread(pipe.recv)
        peers[BOUNCER + number if replica == DRIVER else DRIVER] = f"127.0.0.1:{port}"
    transport.set_peers(peers)
    while len(host.linked) < len(peers):
        await host.up.wait()
        host.up.clear()
    return transport, host


async def bounce_back(pipe: Connection, replica: int) -> None:
    """The other process: send every frame back; answer the pipe with the times of arrival and of the processor."""
    transport, host = await connect(replica, pipe)
    arrivals: list[int] = []

    def take(messages: list[Any]) -> None:
        arrivals.append(time.monotonic_ns())
        for message in messages:
            transport.send((DRIVER,), message)

    host.take = take
    while (await asyncio.to_thread(pipe.recv)) != "stop":
        pipe.send((processor_time_s(), arrivals[:]))
        arrivals.clear()
    await transport.stop()


async def drive(pipe: Connection, seconds: float, sizes: list[int]) -> list[dict[str, Any]]:
    """The measuring process."""
    transport, host = await connect(DRIVER, pipe)
    results: list[dict[str, Any]] = []

    async def other() -> tuple[float, list[int]]:
        pipe.send("report")
        answer: tuple[float, list[int]] = await asyncio.to_thread(pipe.recv)
        return answer

    await other()  # it answers once its own link stands
    for size in sizes:
        for messages in (1, 16):
            await bounce(transport, host, messages, size, seconds / 10)
            before = (await other())[0] + processor_time_s()
            times = await bounce(transport, host, messages, size, seconds)
            after = processor_time_s() + (await other())[0]
            results.append(
                {
                    "measurement": "bounce",
                    "messages_per_frame": messages,
                    "message_bytes": size,
                    "round_trip_us": statistics.median(times) * 1e6,
                    "round_trip_p99_us": statistics.quantiles(times, n=100)[98] * 1e6,
                    "messages_per_s": 2 * messages * len(times) / sum(times),
                    "processor_us_per_frame": (after - before) / (2 * len(times)) * 1e6,
                }
            )
        for window in (16, 256):
            counters = transport.peers()[BOUNCER].counters
            frames, before = counters.frames, (await other())[0] + processor_time_s()
            count = await keep_in_flight(transport, host, window, size, seconds)
            after = processor_time_s() + (await other())[0]
            results.append(
                {
                    "measurement": "window",
                    "in_flight": window,
                    "message_bytes": size,
                    "messages_per_s": 2 * count / seconds,
                    "messages_per_frame": count / max(1, counters.frames - frames),
                    "processor_us_per_message": (after - before) / (2 * count) * 1e6,
                }
            )
    for flush in (False, True):
        await other()
        handed = []
        for _ in range(BLOCKED_ROUNDS):
            handed.append(time.monotonic_ns())
            transport.send((BOUNCER,), b"before the disk")
            if flush:
                await transport.flush()
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - blocking the loop is what is measured
            await asyncio.sleep(BLOCK_S / 2)
        delays = [arrived - sent for sent, arrived in zip(handed, (await other())[1], strict=True)]
        results.append(
            {
                "measurement": "blocked",
                "flush": flush,
                "blocked_us": BLOCK_S * 1e6,
                "arrived_after_us": statistics.median(delays) / 1e3,
                "arrived_while_blocked": sum(delay < BLOCK_S * 1e9 for delay in delays) / len(delays),
            }
        )
    pipe.send("stop")
    await transport.stop()
    return results


async def bounce(transport: Transport, host: Host, messages: int, size: int, seconds: float) -> list[float]:
    """Round trips of one frame at a time, in seconds."""
    loop = asyncio.get_running_loop()
    data, times = bytes(size), []
    missing, back = 0, loop.create_future()

    def take(frame: list[Any]) -> None:
        nonlocal missing
        missing -= len(frame)
        if not missing:
            back.set_result(None)

    host.take = take
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        missing, back = messages, loop.create_future()
        for _ in range(messages):
            transport.send((BOUNCER,), data)
        await back
        times.append(time.perf_counter() - start)
    return times


async def ask_all(pipes: Sequence[Connection], seconds: float, size: int) -> Round:
    """The measuring process of `measure_round`."""
    transport, host = await connect(DRIVER, *pipes)
    peers = tuple(range(BOUNCER, BOUNCER + len(pipes)))

    async def others() -> list[float]:
        for pipe in pipes:
            pipe.send("report")
        return [(await asyncio.to_thread(pipe.recv))[0] for pipe in pipes]

    loop = asyncio.get_running_loop()
    data = bytes(size)
    rounds: list[list[float]] = []
    times: list[float] = []
    back = loop.create_future()

    def take(_frame: list[Any]) -> None:
        times.append(time.perf_counter())
        if len(times) == len(peers):
            back.set_result(None)

    host.take = take
    await others()  # they answer once their links stand
    before: list[float] = []
    spent = 0.0
    warm, end = time.perf_counter() + seconds / 5, time.perf_counter() + seconds * 6 / 5
    while (start := time.perf_counter()) < end:
        if not before and start >= warm:
            before, spent = await others(), processor_time_s()
            rounds.clear()
            start = time.perf_counter()
        times, back = [], loop.create_future()
        transport.send(peers, data)
        await back
        rounds.append([at - start for at in times])
    spent = processor_time_s() - spent
    taken = [after - earlier for after, earlier in zip(await others(), before, strict=True)]
    for pipe in pipes:
        pipe.send("stop")
    await transport.stop()
    return Round(
        peers=len(peers),
        answered_us=tuple(statistics.median(each) * 1e6 for each in zip(*rounds, strict=True)),
        leading_us=spent / len(rounds) * 1e6,
        following_us=statistics.fmean(taken) / len(rounds) * 1e6,
    )


async def keep_in_flight(transport: Transport, host: Host, window: int, size: int, seconds: float) -> int:
    """Send a new message for each that comes back, and return how many came."""
    done = asyncio.get_running_loop().create_future()
    data, came, missing = bytes(size), 0, window
    end = time.perf_counter() + seconds

    def take(frame: list[Any]) -> None:
        nonlocal came, missing
        came += len(frame)
        if time.perf_counter() < end:
            for _ in frame:
                transport.send((BOUNCER,), data)
        else:
            missing -= len(frame)
            if not missing:
                done.set_result(None)

    host.take = take
    for _ in range(window):
        transport.send((BOUNCER,), data)
    await done
    return came


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where there is one, as the node does."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


def bouncing_process(pipe: Connection, replica: int = BOUNCER) -> None:
    """Entry of the other process."""
    run(bounce_back(pipe, replica))


@contextlib.contextmanager
def others(count: int, target: Callable[[Connection, int], None] = bouncing_process) -> Iterator[list[Connection]]:
    """So many other processes, with a pipe to each; they are gone at the end."""
    context = multiprocessing.get_context("spawn")  # grpc does not survive a fork
    pipes, processes = [], []
    try:
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=target, args=(theirs, BOUNCER + number), daemon=True)
            process.start()
            pipes.append(ours)
            processes.append(process)
        yield pipes
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()


def measure_round(peers: int, *, seconds: float, size: int = 128) -> Round:
    """Rounds with so many peers, one after the other. ``size`` of a message in bytes."""
    with others(peers) as pipes:
        found: Round = run(ask_all(pipes, seconds, size))
    return found


def measure(seconds: float, sizes: list[int]) -> list[dict[str, Any]]:
    """All measurements, each of so many seconds and for each size of message in bytes."""
    with others(1) as pipes:
        results: list[dict[str, Any]] = run(drive(pipes[0], seconds, sizes))
    results.extend(
        {"measurement": "round", **msgspec.structs.asdict(measure_round(peers, seconds=seconds))} for peers in (2, 4)
    )
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="measure what a message between replicas costs")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each measurement")
    parser.add_argument("--message-bytes", type=int, nargs="+", default=[128, 4096])
    options = parser.parse_args()
    for result in measure(options.seconds, options.message_bytes):
        rounded = {
            name: [round(each, 2) for each in value]
            if isinstance(value, tuple)
            else round(value, 2)
            if isinstance(value, float)
            else value
            for name, value in result.items()
        }
        sys.stdout.write(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
