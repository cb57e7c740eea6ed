"""What a put costs in the client itself: CPU microseconds, with a replica that answers at once.

``python -m bench.micro_client`` runs so many tasks, each of which puts one value after the other, against a port in
this process that answers a run with results prepared beforehand. The price of that answer is measured apart and
subtracted; what remains is the client: making the operation, future, frame, wake-up, and result. A second figure shows
the tasks alone (each awaits a future that is resolved at once), which no client can avoid.

Absolute figures move from machine to machine; compare them within one run.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import click
import msgspec

from replica.client.options import make_options
from replica.client.port import AttachmentLost
from replica.client.store import AsyncStore
from replica.kv.operations import Written
from replica.wire.typed import WIRE_VERSION, ClientFrame, Hello, RunResult, ServerFrame, StatusReply


class InstantAttachment:
    """Answers each run with ``Written`` for all of its operations, without looking at them."""

    def __init__(self, piece: int) -> None:
        self._piece = piece
        self._answers: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._prepared: dict[int, bytes] = {}
        self._closed = False
        self.spent_ns = 0
        self.frames = 0
        welcome = ServerFrame.Welcome(wire_version=WIRE_VERSION, replica=1, session=1, exactly_once=True)
        self._answers.append(ServerFrame(welcome=welcome).SerializeToString())

    async def send(self, frame: ClientFrame, /) -> None:
        data = frame.SerializeToString()
        before = time.perf_counter_ns()
        received = ClientFrame.FromString(data)
        self.frames += 1
        answer = ServerFrame()
        for run in received.runs:
            piece = self._piece or run.count
            for offset in range(0, run.count, piece):
                count = min(piece, run.count - offset)
                answer.results.append(
                    RunResult(first_sequence=run.first_sequence + offset, count=count, results=self._results(count))
                )
        self._answers.append(answer.SerializeToString())
        self._wake()
        self.spent_ns += time.perf_counter_ns() - before
        await asyncio.sleep(0)  # as on a network: what is sent is not answered in the same turn

    async def receive(self) -> ServerFrame:
        while not self._answers:
            if self._closed:
                raise AttachmentLost("closed")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return ServerFrame.FromString(self._answers.popleft())

    async def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _results(self, count: int) -> bytes:
        if count not in self._prepared:
            self._prepared[count] = msgspec.msgpack.encode([Written(1_000_000 + n) for n in range(count)])
        return self._prepared[count]


class InstantPort:
    """A way to one replica that answers at once."""

    endpoints: Sequence[str] = ("instant",)

    def __init__(self, piece: int) -> None:
        self._piece = piece
        self.attachments: list[InstantAttachment] = []

    async def attach(self, endpoint: str, hello: Hello) -> InstantAttachment:
        self.attachments.append(InstantAttachment(self._piece))
        return self.attachments[-1]

    async def status(self, endpoint: str) -> StatusReply:
        return StatusReply(replica=1)

    async def close(self) -> None:
        """Nothing was started."""


async def run_tasks(count: int, tasks: int, operation: Callable[[], Any]) -> float:
    """CPU seconds for ``count`` operations from ``tasks`` tasks, each with one on its way."""

    async def worker(share: int) -> None:
        for _ in range(share):
            await operation()

    before = time.process_time()
    await asyncio.gather(*(worker(count // tasks) for _ in range(tasks)))
    return time.process_time() - before


async def measure(count: int, tasks: int, value_bytes: int, piece: int) -> dict[str, float]:
    """CPU microseconds a put: in all, in the answering port, in the client; and of the tasks alone."""
    port = InstantPort(piece)
    store = AsyncStore("instant:", make_options({}), opener=lambda _url, _options: port)
    key, value = b"key-000123", bytes(value_bytes)
    await run_tasks(tasks * 20, tasks, lambda: store.put(key, value))
    attachment = port.attachments[0]
    spent_ns, frames = attachment.spent_ns, attachment.frames
    seconds = await run_tasks(count, tasks, lambda: store.put(key, value))
    answering = (attachment.spent_ns - spent_ns) / 1e9
    frames = attachment.frames - frames
    await store.close()
    bare = await run_tasks(count, tasks, _bare_operation(asyncio.get_running_loop()))
    return {
        "total_us": seconds / count * 1e6,
        "answering_us": answering / count * 1e6,
        "client_us": (seconds - answering) / count * 1e6,
        "tasks_alone_us": bare / count * 1e6,
        "operations_a_frame": count / frames,
    }


def _bare_operation(loop: asyncio.AbstractEventLoop) -> Callable[[], Any]:
    def operation() -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    return operation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400_000, help="puts to measure")
    parser.add_argument("--tasks", type=int, default=512, help="puts in flight")
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--piece", type=int, default=0, help="operations in one result; 0: a run is answered whole")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop rather than asyncio's own loop")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    arguments = parser.parse_args()
    work = measure(arguments.count, arguments.tasks, arguments.value_bytes, arguments.piece)
    if arguments.profile:
        profile = cProfile.Profile()
        profile.enable()
        figures = _run(work, arguments.uvloop)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    else:
        figures = _run(work, arguments.uvloop)
    for name, figure in figures.items():
        click.echo(f"{name:<20} {figure:8.2f}")


def _run(work: Coroutine[Any, Any, dict[str, float]], on_uvloop: bool) -> dict[str, float]:
    if not on_uvloop:
        return asyncio.run(work)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


if __name__ == "__main__":
    main()
