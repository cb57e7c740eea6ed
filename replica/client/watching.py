"""Drives the engine of watches over a port, on one event loop; beside `replica.client.connection`, which does the same
for sessions.

One supervisor task makes streams as long as something is watched; beside each stream a reader and a writer run. A watch
has no task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from copy import copy

from replica import __version__
from replica.client.discovery import Discovery
from replica.client.engine import Move, move_after
from replica.client.errors import Closed
from replica.client.port import Attachment, AttachmentLost, Port
from replica.client.watches import Watch, WatchEngine, WatchOptions
from replica.kv.operations import WatchBatch

logger = logging.getLogger("replica.client")

Future = asyncio.Future


class Watching:
    """All watches of a store object, on one event loop. Created, used and closed there."""

    def __init__(self, port: Port, *, cluster: str, region: str, zone: str, stall_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._stall_s = stall_s
        self._random = random.Random()
        self.engine = WatchEngine(client=f"synod-python/{__version__}", cluster=cluster, region=region, zone=zone)
        endpoints = list(port.endpoints)
        self._random.shuffle(endpoints)
        self._discovery = Discovery(endpoints, self._random)
        self._mismatches: set[str] = set()
        self._waiter: Future[None] | None = None
        self._awake = False
        self._leave: Future[None] | None = None
        self._move: Move | None = None
        self._answers = 0
        self._retry: asyncio.TimerHandle | None = None
        self._supervisor = self._supervision()

    # -------------------------------------------------------------------------------------------------------- watches

    def open(self, options: WatchOptions, revision: int) -> LiveWatch:
        """Begin a watch. Raises `Overloaded`."""
        live = LiveWatch(self, self._loop)
        live.watch = self.engine.open(options, revision, live.wake)
        self.wake()
        return live

    def close_watch(self, watch: Watch) -> None:
        """Its owner wants no more."""
        self.engine.close(watch)
        self.wake()

    def taken(self, watch: Watch) -> None:
        """Its owner has taken something."""
        if self.engine.taken(watch):
            self.wake()

    async def close(self) -> None:
        """End the stream and all watches."""
        await self._stop()
        self.engine.detached()
        self.engine.fail_everything(Closed("the store was closed"))
        if self._retry is not None:
            self._retry.cancel()

    async def suspend(self) -> None:
        """Leave the stream and stay away until `resume`."""
        await self._stop()
        self.engine.detached()

    def resume(self) -> None:
        """Go on after `suspend`."""
        self._supervisor = self._supervision()

    # --------------------------------------------------------------------------------------------------------- streams

    def _supervision(self) -> asyncio.Task[None]:
        return self._loop.create_task(self._supervise(), name="synod-watches")

    async def _stop(self) -> None:
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])
        with suppress(asyncio.CancelledError):
            self._supervisor.result()

    def wake(self) -> None:
        """There is something to send, or a first watch to make a stream for."""
        self._awake = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _work(self) -> None:
        """Wait until `wake` is called, unless it was since the last look."""
        if not self._awake:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._awake = False

    async def _supervise(self) -> None:
        while True:
            if self.engine.idle:
                await self._work()
                continue
            endpoint, delay = self._discovery.next()
            if delay:
                await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(self._stall_s):
                    attachment = await self._port.attach(endpoint, self.engine.attaching())
            except TimeoutError:
                self._trouble(endpoint, Move(f"no connection within {self._stall_s:g} s"))
            except AttachmentLost as lost:
                self._trouble(endpoint, Move(str(lost), mismatch=lost.mismatch))
            else:
                await self._converse(attachment, endpoint)

    def _trouble(self, endpoint: str, move: Move) -> None:
        self.engine.detached()
        reason = move.reason if move.reason.startswith(endpoint) else f"{endpoint}: {move.reason}"
        self._discovery.failed(endpoint, reason)
        self._discovery.hint(move.hint)
        logger.debug("watches left %s", reason)
        if move.mismatch:
            self._mismatches.add(endpoint)
            if set(self._discovery.known) <= self._mismatches:
                self.engine.fail_everything(move.mismatch(move.reason))

    async def _converse(self, attachment: Attachment, endpoint: str) -> None:
        """Use the stream until it ends or the engine wants another."""
        self._move = None
        self._leave = self._loop.create_future()
        tasks = [self._loop.create_task(self._read(attachment)), self._loop.create_task(self._send(attachment))]
        try:
            done, _ = await asyncio.wait([*tasks, self._leave], return_when=asyncio.FIRST_COMPLETED)
            first = [task.exception() for task in tasks if task in done]
        finally:
            self._leave = None
            await attachment.close()
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, AttachmentLost):
                logger.error("watches at %s failed", endpoint, exc_info=outcome)
        self._trouble(endpoint, self._take_move() or move_after(first))

    def _take_move(self) -> Move | None:
        move, self._move = self._move, None
        return move

    async def _read(self, attachment: Attachment) -> None:
        engine, receive = self.engine, attachment.receive
        while True:
            welcome = not engine.attached
            try:
                async with asyncio.timeout(self._stall_s if welcome else None):
                    frame = await receive()
            except TimeoutError:
                raise AttachmentLost(f"no welcome within {self._stall_s:g} s") from None
            try:
                engine.received(frame, self._loop.time())
            except ValueError as error:
                raise AttachmentLost(f"the replica sent what makes no sense: {error}") from None
            if welcome and engine.attached:
                self._discovery.learned(engine.endpoints)
                self._mismatches.clear()
            if engine.answers != self._answers:
                self._answers = engine.answers
                self._discovery.progress()
            wish = engine.take_wish()
            if wish is not None and self._leave is not None and not self._leave.done():
                self._move = wish
                self._leave.set_result(None)
                return
            self.wake()

    async def _send(self, attachment: Attachment) -> None:
        while True:
            now = self._loop.time()
            frame = self.engine.next_frame(now)
            if frame is not None:
                await attachment.send(frame)
                continue
            retry = self.engine.next_retry()
            if retry is not None and (self._retry is None or self._retry.cancelled() or self._retry.when() <= now):
                self._retry = self._loop.call_at(retry, self.wake)
            await self._work()


class LiveWatch:
    """A watch as its owner waits on it."""

    watch: Watch

    def __init__(self, watching: Watching, loop: asyncio.AbstractEventLoop) -> None:
        self.watching = watching
        self._loop = loop
        self._waiter: Future[None] | None = None

    def wake(self) -> None:
        """There is something to take, or the watch has begun or ended."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> WatchBatch:
        """The next batch. Raises the error that ended the watch. Cancelling loses nothing."""
        watch = self.watch
        while True:
            batch = watch.take()
            if batch is not None:
                if watch.resting:
                    self.watching.taken(watch)
                return batch
            self._check()
            await self._wait()

    async def begun(self) -> int:
        """The first revision that the watch tells of. Raises the error that ended it before."""
        while not self.watch.next_revision:
            self._check()
            await self._wait()
        return self.watch.next_revision

    def close(self) -> None:
        """End the watch; what was not taken is gone."""
        if not self.watch.ended:
            self.watching.close_watch(self.watch)
        self.watch.items.clear()
        self.wake()

    def _check(self) -> None:
        watch = self.watch
        if watch.error is not None:
            raise copy(watch.error)  # a traceback is added where it is raised
        if watch.ended:
            raise Closed("the watch was closed")

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
