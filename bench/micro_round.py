"""What a round among replicas costs beside the protocol: real transports and real logs, and nothing else.

``python -m bench.micro_round`` has one process send a frame to each of two and of four others, put it into its own log
and sync that, as a leader does; each of the others puts it into its log, syncs, and answers. When has the first
answered, the second, and so on, and the own log been synced as well? What does it cost the processor of both sides?
And how long does the own commit take without anybody else? All processes share the cores and the disk of this machine,
and sleep while they wait for the disk or for each other: being woken is a good part of what it costs.

Between two rounds there is a pause of `PAUSE_S`, about as long as a client takes to ask again. Without a pause and
without disks, `bench.micro_transport` measures the same round of frames alone. Times in µs, means.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.micro_log import Series
from bench.micro_transport import BOUNCER, DRIVER, connect, others, processor_time_s, run

PAUSE_S: Final = 0.0004

SIZES: Final = (144, 512 * 144)
"""Bytes of what is replicated: one operation, and 512 of them, of 128 bytes each."""

WARM: Final = 5
"""Rounds that do not count."""


class SyncedRound(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds with so many peers (none: the own commit alone) and one size of value. Microseconds."""

    peers: int
    value_bytes: int
    answered_us: tuple[float, ...]
    """When the own log is synced and the first has answered, the second, ...; with no peers, the own log alone."""
    leading_us: float
    following_us: float
    """Processor time a round of the one that asks, and of each one that answers."""


async def _vote(pipe: Connection, replica: int) -> None:
    """A process that answers once its log holds what it was sent."""
    transport, host = await connect(replica, pipe)
    folder, sizes = await asyncio.to_thread(pipe.recv)
    series = {size: _log(Path(folder), replica, size) for size in sizes}

    def take(messages: list[Any]) -> None:
        for message in messages:
            series[len(message)].commit()  # blocks the loop, as an inline commit does
            transport.send((DRIVER,), b"durable")

    host.take = take
    pipe.send("ready")
    while (await asyncio.to_thread(pipe.recv)) != "stop":
        pipe.send(processor_time_s())
    await transport.stop()
    for each in series.values():
        each.finish()


def _voting_process(pipe: Connection, replica: int) -> None:
    run(_vote(pipe, replica))


def _log(folder: Path, replica: int, size: int) -> Series:
    home = folder / f"replica-{replica}-{size}"
    home.mkdir()
    series = Series(home, "sync", 1, size)
    series.commit()
    return series


async def _lead(pipes: Sequence[Connection], folder: Path, sizes: Sequence[int], rounds: int) -> list[SyncedRound]:
    """The process that asks."""
    transport, host = await connect(DRIVER, *pipes)
    peers = tuple(range(BOUNCER, BOUNCER + len(pipes)))
    for pipe in pipes:
        pipe.send((str(folder), list(sizes)))
    for pipe in pipes:
        await asyncio.to_thread(pipe.recv)
    series = {size: _log(folder, DRIVER, size) for size in sizes}
    loop = asyncio.get_running_loop()
    arrived: list[float] = []
    back = loop.create_future()

    def take(frame: list[Any]) -> None:
        arrived.extend(time.perf_counter() for _ in frame)
        if len(arrived) == len(peers):
            back.set_result(None)

    host.take = take

    async def theirs() -> float:
        for pipe in pipes:
            pipe.send("report")
        return statistics.fmean([await asyncio.to_thread(pipe.recv) for pipe in pipes]) if pipes else 0.0

    async def one(size: int) -> list[float]:
        nonlocal arrived, back
        time.sleep(PAUSE_S)  # noqa: ASYNC251 - a leader that waits for its client does nothing either
        arrived, back = [], loop.create_future()
        began = time.perf_counter()
        if peers:
            transport.send(peers, bytes(size))
            await transport.flush()
        series[size].commit()
        if not peers:
            return [time.perf_counter() - began]
        await back
        return [at - began for at in arrived]

    found = []
    for size in sizes:
        for _ in range(WARM):
            await one(size)
        others_before, own_before = await theirs(), processor_time_s()
        times = [await one(size) for _ in range(rounds)]
        own, other = processor_time_s() - own_before, await theirs() - others_before
        found.append(
            SyncedRound(
                peers=len(peers),
                value_bytes=size,
                answered_us=tuple(statistics.fmean(each) * 1e6 for each in zip(*times, strict=True)),
                leading_us=own / rounds * 1e6,
                following_us=other / rounds * 1e6,
            )
        )
    for pipe in pipes:
        pipe.send("stop")
    await transport.stop()
    for each in series.values():
        each.finish()
    return found


def measure_synced_round(folder: Path, peers: int, *, rounds: int, sizes: Sequence[int] = SIZES) -> list[SyncedRound]:
    """``rounds`` rounds for each size with so many peers, logs in a new folder below ``folder``."""
    with tempfile.TemporaryDirectory(prefix="rounds-", dir=folder) as name, others(peers, _voting_process) as pipes:
        found: list[SyncedRound] = run(_lead(pipes, Path(name), sizes, rounds))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="measure the disk below this folder (default: that of /tmp)")
    parser.add_argument("--rounds", type=int, default=300, help="of each kind (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="synod-round-", dir=options.folder) as folder:
        for peers in (0, 2, 4):
            for found in measure_synced_round(Path(folder), peers, rounds=options.rounds):
                sys.stdout.write(json.dumps(msgspec.to_builtins(found)) + "\n")


if __name__ == "__main__":
    main()
