"""Drives the session engine over a port, on one event loop.

One *supervisor* task makes attachments, as long as there is work; beside each attachment a reader and a writer run.
There is no task, timer or lock for a single operation: `submit` appends to the engine's queue and hands out a future,
whatever has accumulated when the writer's turn comes leaves as one frame, a frame of results settles all its futures in
one loop, and one timer sweeps for deadlines every `SWEEP_S`. So deadlines are kept to within that time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from math import inf
from typing import Any, Final, cast

from replica import __version__
from replica.client.discovery import Discovery
from replica.client.engine import Engine, Move, move_after
from replica.client.errors import Closed, MaybeCommitted, SynodError, error_of
from replica.client.port import Attachment, AttachmentLost, Port
from replica.kv.operations import Failed

logger = logging.getLogger("replica.client")

SWEEP_S: Final = 0.05
"""How often deadlines are looked at while anything waits for an answer."""

GOODBYE_TIMEOUT_S: Final = 1.0
"""How long a replica has to end the stream after a goodbye."""

MEASURE_TIMEOUT_S: Final = 1.0
"""A replica that is further away than this is not worth going to."""

NEARER_SHARE: Final = 0.7
"""Another replica is nearer when the way to it takes at most this share of the time to the present one."""

NEARER_ATTEMPTS_MAX: Final = 200
"""So often it is looked, every `SWEEP_S`, whether the client may go there without losing what is on its way."""

Future = asyncio.Future


class Connection:
    """A session (or, without one, a way to read) on one event loop.

    Must be created, used and closed where that loop runs. Everything here runs between two awaits of the loop, so the
    engine needs no lock.

    Args:
        port: the way to the replicas; not closed here.
        stall_s: a replica that takes so long to open a stream, or leaves operations unanswered for so long, is left
            for another.
        follow_leader: prefer the leader (as writes and linearizable reads must) to whoever is next.
    """

    def __init__(
        self,
        port: Port,
        *,
        cluster: str = "",
        region: str = "",
        zone: str = "",
        stall_s: float = 3.0,
        follow_leader: bool = True,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._random = random.Random()
        self._stall_s = stall_s
        self.engine: Engine[Future[Any]] = Engine(
            nonce=lambda: os.urandom(16),
            jitter=self._random.random,
            abandoned=_is_done,
            client=f"synod-python/{__version__}",
            cluster=cluster,
            region=region,
            zone=zone,
            stall_s=stall_s,
            follow_leader=follow_leader,
        )
        endpoints = list(port.endpoints)
        if not follow_leader:
            self._random.shuffle(endpoints)
        self._discovery = Discovery(endpoints, self._random)
        self._mismatches: dict[str, str] = {}
        self._create_future = self._loop.create_future
        self._write = self.engine.write
        self._awake = False
        """The writer (or the supervisor) has been told that there is work, and has not looked yet."""
        self._waiter: Future[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._leave: Future[None] | None = None
        self._move: Move | None = None
        self._answers_seen = 0
        self._closing = False
        self._endpoint = ""
        self._measured = False
        self._measuring: asyncio.Task[None] | None = None
        self._drained: Future[None] | None = None
        self._supervisor = self._supervision()

    # ------------------------------------------------------------------------------------------------- operations

    def submit(self, operation: Any, timeout_s: float) -> Future[Any]:
        """Queue a write; the future gets its result, or a `SynodError`. Raises `Overloaded`."""
        if not self._awake:
            self._wake()
        future: Future[Any] = self._create_future()
        self._write(operation, future, timeout_s)
        return future

    def submit_read(self, operation: Any, timeout_s: float, consistency: int, *, alone: bool = False) -> Future[Any]:
        """Queue a read; the future gets its result, or a `SynodError`. Raises `Overloaded`."""
        if not self._awake:
            self._wake()
        future: Future[Any] = self._create_future()
        self.engine.read(operation, future, timeout_s, consistency, alone=alone)
        return future

    async def close(self, drain_s: float) -> None:
        """Settle what is outstanding, waiting up to ``drain_s`` for the answers, say goodbye and end the stream."""
        if self._closing:
            await asyncio.wait([self._supervisor])
            return
        if not self.engine.idle and drain_s > 0:
            self._drained = self._loop.create_future()
            self._arm()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained, drain_s)
        self._closing = True
        if self.engine.idle and self.engine.attached and self.engine.session:
            self.engine.say_goodbye()
            self._wake()
            await asyncio.wait([self._supervisor], timeout=GOODBYE_TIMEOUT_S)
        await self._stop()
        self.engine.fail_everything(
            Closed("the store was closed before the operation was sent"),
            MaybeCommitted("the store was closed before the answer came"),
        )
        self._settle()
        for timer in (self._sweeper, self._resume):
            if timer is not None:
                timer.cancel()

    async def suspend(self) -> None:
        """Leave the attachment and stay away until `resume`. What is outstanding is sent again then."""
        await self._stop()
        self.engine.detached("the client's process was forked")
        self._after_engine()

    def resume(self) -> None:
        """Go on after `suspend`."""
        self._supervisor = self._supervision()

    def _supervision(self) -> asyncio.Task[None]:
        return self._loop.create_task(self._supervise(), name="synod-client")

    # --------------------------------------------------------------------------------------------- waking and timing

    def _wake(self) -> None:
        """There is something to do for the writer, or for the supervisor while there is no attachment."""
        self._awake = True
        self.engine.tick(self._loop.time())
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._sweeper is None:
            self._arm()

    def _resumed(self) -> None:
        """A pause is over."""
        self._resume = None
        self._wake()

    async def _work(self) -> None:
        """Wait until `_wake` is called, unless it was since the last look."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _arm(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        self.engine.expire(self._loop.time(), self._discovery.account())
        self._after_engine()
        if not self.engine.idle:
            self._arm()

    def _after_engine(self) -> None:
        """What every call that may settle or wish for something ends with."""
        self._settle()
        wish = self.engine.take_wish()
        if wish is not None and self._leave is not None and not self._leave.done():
            self._move = wish
            self._leave.set_result(None)
        if self._drained is not None and self.engine.idle and not self._drained.done():
            self._drained.set_result(None)

    def _settle(self) -> None:
        for tokens, outcome in self.engine.take_settled():
            if isinstance(outcome, SynodError):
                for future in tokens:
                    if future is not None and not future.done():
                        # Each caller gets an exception of its own: a traceback is added where it is raised.
                        future.set_exception(copy(outcome))
                continue
            for future, result in zip(tokens, outcome, strict=True):
                if result.__class__ is Failed:
                    if future is not None and not future.done():
                        future.set_exception(error_of(result))
                elif future is not None and not future.done():
                    future.set_result(result)

    # ------------------------------------------------------------------------------------------------- attachments

    async def _stop(self) -> None:
        """End the supervisor, and the attachment with it."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.wait([self._measuring])
            self._measuring = None
        self._supervisor.cancel()
        await asyncio.wait([self._supervisor])
        # The task keeps its cancellation, that the frames it passed through, and those the stream and its channel.
        with suppress(asyncio.CancelledError):
            self._supervisor.result()

    async def _supervise(self) -> None:
        while True:
            self._awake = False
            if self.engine.idle:
                if self._closing:
                    return
                await self._work()
                continue
            endpoint, delay = self._discovery.next()
            if delay:
                await asyncio.sleep(delay)
            hello = self.engine.attaching(self._loop.time())
            try:
                async with asyncio.timeout(self._stall_s):
                    attachment = await self._port.attach(endpoint, hello)
            except TimeoutError:
                self._trouble(endpoint, Move(f"{endpoint}: no connection within {self._stall_s:g} s"))
            except AttachmentLost as lost:
                self._trouble(endpoint, Move(str(lost), mismatch=lost.mismatch))
            else:
                await self._converse(attachment, endpoint)

    def _trouble(self, endpoint: str, move: Move) -> None:
        """The attachment to ``endpoint`` came to nothing or has ended."""
        reason = move.reason if move.reason.startswith(endpoint) else f"{endpoint}: {move.reason}"
        self.engine.detached(reason)
        if move.stay:
            self._discovery.stay()
        else:
            self._discovery.failed(endpoint, reason)
            self._discovery.hint(move.hint)
        logger.debug("left %s", reason)
        if move.mismatch:
            self._mismatches[endpoint] = move.reason
            if set(self._discovery.known) <= self._mismatches.keys():
                error = move.mismatch(move.reason)
                self.engine.fail_everything(error, MaybeCommitted(move.reason))
        self._after_engine()

    async def _converse(self, attachment: Attachment, endpoint: str) -> None:
        """Use the attachment until it ends or the engine wants another."""
        self._move = None
        self._endpoint = endpoint
        self._leave = self._loop.create_future()
        tasks = [self._loop.create_task(self._read(attachment)), self._loop.create_task(self._send(attachment))]
        try:
            done, _ = await asyncio.wait([*tasks, self._leave], return_when=asyncio.FIRST_COMPLETED)
            first = [task.exception() for task in tasks if task in done]
        finally:
            self._leave = None
            await attachment.close()
            # Both end by themselves, because the attachment is closed; the writer may also wait for work.
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, AttachmentLost):
                logger.error("the attachment to %s failed", endpoint, exc_info=outcome)
        self._trouble(endpoint, self._take_move() or move_after(first))

    async def _find_nearest(self) -> None:
        """Measure the way to each replica, once, and turn to the nearest if it is much nearer than the present one."""
        endpoints = list(dict.fromkeys((self._endpoint, *self.engine.endpoints)))
        seconds = dict(zip(endpoints, await asyncio.gather(*map(self._round_trip, endpoints)), strict=True))
        nearest = min(endpoints, key=seconds.__getitem__)
        logger.debug("round trips: %s", seconds)
        if seconds[nearest] > NEARER_SHARE * seconds[endpoints[0]]:
            return
        for _ in range(NEARER_ATTEMPTS_MAX):
            if self._closing or self._endpoint == nearest:
                return
            if self.engine.nearer(nearest):
                self._after_engine()
                return
            await asyncio.sleep(SWEEP_S)

    async def _round_trip(self, endpoint: str) -> float:
        """The shorter of two round trips to a replica, in seconds; infinite when it does not answer."""
        best = inf
        for _ in range(2):
            began = self._loop.time()
            try:
                async with asyncio.timeout(MEASURE_TIMEOUT_S):
                    await self._port.status(endpoint)
            except (AttachmentLost, TimeoutError):
                continue
            best = min(best, self._loop.time() - began)
        return best

    def _take_move(self) -> Move | None:
        move, self._move = self._move, None
        return move

    async def _read(self, attachment: Attachment) -> None:
        engine, receive = self.engine, attachment.receive
        while True:
            frame = await receive()
            welcome = not engine.attached
            try:
                engine.received(frame, self._loop.time())
            except ValueError as error:
                raise AttachmentLost(f"the replica sent what makes no sense: {error}") from None
            if engine.answers != self._answers_seen:
                self._answers_seen = engine.answers
                self._discovery.progress()
                self._mismatches.clear()
            if welcome and engine.attached:
                self._discovery.learned(engine.endpoints)
                if engine.seeks_nearest and not self._measured and len(engine.endpoints) > 1:
                    self._measured = True
                    self._measuring = self._loop.create_task(self._find_nearest(), name="synod-nearest")
            self._after_engine()
            if self._leave is None or self._leave.done():
                return
            if engine.pending and not self._awake:
                self._wake()

    async def _send(self, attachment: Attachment) -> None:
        engine, send, loop = self.engine, attachment.send, self._loop
        while True:
            self._awake = False
            now = loop.time()
            engine.tick(now)
            frame = engine.next_frame(now)
            if frame is not None:
                await send(frame)
                continue
            self._after_engine()
            pause = engine.pause(now)
            if pause and self._resume is None:
                self._resume = loop.call_later(pause, self._resumed)
            await self._work()


_is_done: Final[Callable[[Future[Any]], bool]] = cast("Any", asyncio.Future.done)
"""Whether nobody waits for a future any more. The bare method, because it runs once an operation."""
