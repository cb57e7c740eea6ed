"""The sending half: one outgoing stream to each peer.

Theory of operation
-------------------
A `PeerLink` keeps one stream open to its peer: connect, greet, be answered, send frames until the stream breaks, pause,
again. Its one task does all of that; a second one reads what comes back on the stream, which after the answer to the
greeting is little: notices of another epoch, and echoes.

- What is sent while the link is *down* is dropped. A protocol hears of the link coming up and retransmits; what was
  said to a dead stream is of no use by then.
- What is sent while it is *up* joins a bounded queue and wakes the task. Whatever has accumulated when the task gets to
  it is one frame. There is no timer: a single message leaves in the next turn of the loop.
- The queue holds messages of one epoch. The first message of the next one empties it: the seal made the rest void.
- A full queue drops what comes; so a peer that does not keep up costs its link's memory bound and nobody's time.
- A link that is shaped on purpose (`replica.transport.faults`) sends through a delay line in front of the queue; one
  that is not has no line and pays one comparison.
- Every attempt to connect takes the next connection number of this incarnation, so that a peer can tell streams apart.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import DecodeError

from replica.consensus.interface import ReplicaId
from replica.wire.typed import PEER, WIRE_VERSION, Greeting, Messages, PeerFrame, PeerReply, method_path

from .bounds import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    FRAME_BYTES_MAX,
    GREETING_TIMEOUT_S,
    MESSAGE_OVERHEAD_BYTES,
    QUEUE_BYTES_MAX,
    QUEUE_MESSAGES_MAX,
    ROUND_TRIP_GAIN,
    ROUND_TRIPS_KEPT,
    STUCK_WRITE_S,
)
from .channels import Security, open_channel
from .faults import NO_FAULT, LinkFault, Pump, Randomness, Shaper
from .host import EpochSeen, Identity, LinkDown, LinkRefused, LinkUp, RefusalCode, TransportHost
from .timers import FineTimers

_LOG = logging.getLogger(__name__)

_CONNECT = method_path(PEER, "Connect")

_Shaped: TypeAlias = tuple[int, bytes, int]
"""What a delay line holds: the epoch and the message, or with an empty message the time of a probe in microseconds."""


class LinkCounters(msgspec.Struct):
    """What a link has done since it was made. All of them only grow."""

    connections: int = 0
    frames: int = 0
    messages: int = 0
    bytes: int = 0
    dropped_down: int = 0
    """Sent while the link was down."""
    dropped_full: int = 0
    """Sent while the queue was full."""
    dropped_epoch: int = 0
    """Still queued when a later epoch began."""
    dropped_fault: int = 0
    """Lost on purpose."""


class PeerLink:
    """One outgoing stream. Not thread-safe: made, used and closed on the event loop."""

    def __init__(
        self,
        *,
        peer: ReplicaId,
        address: str,
        identity: Identity,
        host: TransportHost,
        security: Security,
        randomness: Randomness,
        timers: FineTimers,
        next_connection: Callable[[], int],
    ) -> None:
        self.peer = peer
        self.address = address
        self.counters = LinkCounters()
        self.up = False
        self.round_trip_s: float | None = None
        """Smoothed; None until it was measured since the link was last shaped."""
        self.round_trips: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)
        """The latest ones, in seconds, as far as the link has been shaped as it is now."""
        self.problem = "connecting"
        """Why the link is down, in words; empty while it is up."""
        self._identity = identity
        self._host = host
        self._security = security
        self._randomness = randomness
        self._timers = timers
        self._next_connection = next_connection
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._queue_epoch = 0
        self._probe_us = 0
        self._measured_from_us = 0
        self._writing_since = math.inf
        self._waiter: asyncio.Future[None] | None = None
        self._broken: str | None = None
        self._fault = NO_FAULT
        self._pump: Pump[_Shaped] | None = None
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------------------------- the face

    def start(self) -> None:
        """Begin to connect."""
        assert self._task is None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link to replica {self.peer}")
        self._task.add_done_callback(report_failure)

    async def close(self) -> None:
        """End the stream and the task. What is queued, or under way on a shaped link, is dropped."""
        self._drop_queue()
        if self._pump is not None:
            self._pump.close()
        if self.up:
            self.problem = "closed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, data: bytes, epoch: int) -> None:
        """Queue one encoded message of ``epoch``; it leaves in the next turn of the loop, or is dropped and counted."""
        if not self.up:
            self.counters.dropped_down += 1
        elif self._pump is None:
            self._enqueue(data, epoch)
        elif not self._pump.push(len(data), (epoch, data, 0)):
            self.counters.dropped_fault += 1

    @property
    def unsent(self) -> bool:
        """Messages wait in the queue, and it is worth waiting for them: the frame before is not stuck at the peer."""
        return bool(self._queue) and time.monotonic() - self._writing_since < STUCK_WRITE_S

    @property
    def queued_messages(self) -> int:
        return len(self._queue)

    @property
    def fault(self) -> LinkFault:
        """What is done to messages on this link."""
        return self._fault

    def set_fault(self, fault: LinkFault) -> None:
        """Shape the link from the next message on. What is under way arrives as it was going to, and in order."""
        if self._fault.blocked and not fault.blocked:
            self.kick()
        if fault != self._fault:
            self.forget_round_trips()
        self._fault = fault
        if self._pump is not None:
            # A healed line stays until it is empty, lest new messages overtake.
            self._pump.line.shaper.fault = fault
            self._retire_pump()
        elif not fault.harmless:
            self._pump = Pump(
                Shaper(fault, self._randomness),
                self._arrive,
                clock=time.monotonic,
                call_later=self._timers.call_later,
                slack_s=self._timers.resolution_s / 2,
            )

    def forget_round_trips(self) -> None:
        """Measure afresh from here on; what is under way is not counted."""
        self.round_trip_s = None
        self.round_trips.clear()
        self._measured_from_us = time.monotonic_ns() // 1000

    def probe(self) -> None:
        """Measure a round trip with the next frame, or with an empty one."""
        if not self.up:
            return
        now_us = time.monotonic_ns() // 1000
        if self._pump is None:
            self._probe_us = now_us
            self._wake()
        else:
            self._pump.push(0, (0, b"", now_us))

    def kick(self) -> None:
        """Connect now rather than after the pause: the peer has shown signs of life."""
        self._kicked.set()

    # ---------------------------------------------------------------------------------------------------------- queue

    def _enqueue(self, data: bytes, epoch: int) -> None:
        if epoch != self._queue_epoch:
            if self._queue:
                if epoch < self._queue_epoch:
                    # It came through a delay line and a later epoch has begun meanwhile.
                    self.counters.dropped_epoch += 1
                    return
                self.counters.dropped_epoch += len(self._queue)
                self._drop_queue()
            self._queue_epoch = epoch
        size = len(data) + MESSAGE_OVERHEAD_BYTES
        if len(self._queue) >= QUEUE_MESSAGES_MAX or self._queue_bytes + size > QUEUE_BYTES_MAX:
            self.counters.dropped_full += 1
            return
        self._queue.append(data)
        self._queue_bytes += size
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.set_result(None)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            waiter.set_result(None)

    def _drop_queue(self) -> None:
        self._queue = []
        self._queue_bytes = 0

    def _take(self) -> bytes:
        """Everything that has accumulated, or as much of it as fits, as one encoded frame."""
        batch = self._queue
        if self._queue_bytes <= FRAME_BYTES_MAX:
            self._queue = []
            self._queue_bytes = 0
        else:
            size, count = 0, 0
            for data in batch:
                size += len(data) + MESSAGE_OVERHEAD_BYTES
                if size > FRAME_BYTES_MAX:
                    size -= len(data) + MESSAGE_OVERHEAD_BYTES
                    break
                count += 1
            batch, self._queue = batch[:count], batch[count:]
            self._queue_bytes -= size
        counters = self.counters
        counters.frames += 1
        counters.messages += len(batch)
        epoch = self._queue_epoch if batch else self._host.epoch()
        frame = PeerFrame(messages=Messages(epoch=epoch, messages=batch, sent_us=self._probe_us))
        self._probe_us = 0
        encoded: bytes = frame.SerializeToString()
        counters.bytes += len(encoded)
        return encoded

    def _arrive(self, items: Iterable[_Shaped]) -> None:
        """What has passed the delay line joins the queue."""
        for epoch, data, probe_us in items:
            if not self.up:
                self.counters.dropped_down += 1
            elif probe_us:
                self._probe_us = probe_us
                self._wake()
            else:
                self._enqueue(data, epoch)
        self._retire_pump()

    def _retire_pump(self) -> None:
        if self._pump is not None and self._fault.harmless and not len(self._pump.line):
            self._pump = None

    # --------------------------------------------------------------------------------------------------------- stream

    async def _run(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            self._kicked.clear()
            if self._fault.blocked:
                # Neither does a new connection come about on a network that is cut.
                self.problem = "blocked by an injected fault"
                await self._kicked.wait()
                continue
            stood = await self._converse()
            if stood:
                pause_s = BACKOFF_FIRST_S
            shortened_s = pause_s * (1 - self._randomness.random() / 2)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)
            try:
                async with asyncio.timeout(shortened_s):
                    await self._kicked.wait()
            except TimeoutError:
                pass

    async def _converse(self) -> bool:
        """One stream from its greeting to its end. True when the greeting was accepted."""
        channel = open_channel(self.address, self.peer, self._security)
        stood = False
        call: Any = None
        try:
            call = channel.stream_stream(_CONNECT)()
            try:
                async with asyncio.timeout(GREETING_TIMEOUT_S):
                    stood = await self._greet(call)
                if stood:
                    await self._speak(call)
            finally:
                call.cancel()
        except TimeoutError:
            self._describe("no answer to the greeting in time")
        except grpc.aio.AioRpcError as error:
            self._describe(_reason(error))
        except asyncio.InvalidStateError:
            # What writing to a call that has ended raises; the listener may know why it did.
            self._describe(self._broken or await _ending(call))
        except asyncio.CancelledError:
            # grpc raises it for a call that was cancelled, too: it ends this task only if the task was meant.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._describe(self._broken or "the stream was cancelled")
        except DecodeError:
            self._describe("the answer to the greeting is not one: is that address a replica's peer listener?")
        finally:
            was_up, self.up = self.up, False
            self._drop_queue()
            await channel.close()
            if was_up:
                self._host.notified(LinkDown(self.peer, self.problem))
        return stood

    async def _greet(self, call: Any) -> bool:
        self.counters.connections += 1
        identity = self._identity
        greeting = Greeting(
            wire_version=WIRE_VERSION,
            cluster=identity.cluster,
            replica=identity.replica,
            recipient=self.peer,
            disk=identity.disk,
            incarnation=identity.incarnation,
            connection=self._next_connection(),
            epoch=self._host.epoch(),
            protocol=self._host.protocol(),
            admitted=self._host.admitted(),
        )
        await call.write(PeerFrame(greeting=greeting).SerializeToString())
        answer = await call.read()
        if answer is grpc.aio.EOF:
            self._describe("the stream ended before the greeting was answered")
            return False
        reply = PeerReply.FromString(answer)
        kind = reply.WhichOneof("content")
        if kind == "refusal":
            code = _refusal_code(reply.refusal.code)
            self.problem = f"refused ({code.name}): {reply.refusal.message}"
            self._host.notified(LinkRefused(self.peer, code, reply.refusal.message, greeting.epoch))
            return False
        if kind != "welcome":
            self._describe(f"expected an answer to the greeting, got {kind or 'nothing known'}")
            return False
        welcome = reply.welcome
        self._broken = None
        self._probe_us = 0
        self.up = True
        self.problem = ""
        _LOG.info("link to replica %d at %s is up", self.peer, self.address)
        self._host.notified(LinkUp(self.peer, welcome.epoch, welcome.disk, welcome.incarnation, welcome.admitted))
        self._compare_epoch(welcome.epoch)
        return True

    async def _speak(self, call: Any) -> None:
        """Write frames until the stream breaks."""
        loop = asyncio.get_running_loop()
        listener = loop.create_task(self._listen(call), name=f"replies of replica {self.peer}")
        try:
            while self._broken is None:
                if self._queue or self._probe_us:
                    self._writing_since = time.monotonic()
                    await call.write(self._take())
                    self._writing_since = math.inf
                else:
                    self._waiter = loop.create_future()
                    await self._waiter
            self._describe(self._broken)
        finally:
            self._waiter = None
            self._writing_since = math.inf
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self, call: Any) -> None:
        """Read what comes back until the stream ends, then wake the writer."""
        reason = "the peer ended the stream"
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                reply = PeerReply.FromString(answer)
                match reply.WhichOneof("content"):
                    case "echo":
                        self._measure(reply.echo.sent_us)
                    case "epoch_notice":
                        self._compare_epoch(reply.epoch_notice.epoch)
                    case _:
                        # A later version may say more; what is not understood is not for us.
                        _LOG.debug("replica %d replied with something unknown", self.peer)
        except grpc.aio.AioRpcError as error:
            reason = _reason(error)
        except DecodeError:
            reason = "a reply could not be decoded"
        finally:
            self._broken = reason
            self._wake()

    def _measure(self, sent_us: int) -> None:
        sample_s = (time.monotonic_ns() // 1000 - sent_us) / 1e6
        if sample_s < 0 or sent_us < self._measured_from_us:
            return  # not one of ours, or of a link that was shaped otherwise
        self.round_trips.append(sample_s)
        if self.round_trip_s is None:
            self.round_trip_s = sample_s
        else:
            self.round_trip_s += ROUND_TRIP_GAIN * (sample_s - self.round_trip_s)

    def _compare_epoch(self, epoch: int) -> None:
        if epoch > self._host.epoch():
            self._host.notified(EpochSeen(self.peer, epoch))

    def _describe(self, problem: str) -> None:
        """Keep why the link is down; log it when it is news."""
        if problem != self.problem:
            self.problem = problem
            _LOG.info("link to replica %d at %s is down: %s", self.peer, self.address, problem)


def report_failure(task: asyncio.Task[None]) -> None:
    """Tell the loop's exception handler at once that a task has failed: only a defect makes one of ours fail."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": f"{task.get_name()} failed", "exception": error, "task": task}
        )


def _reason(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name.lower().replace('_', ' ')}: {error.details()}"


async def _ending(call: Any) -> str:
    """How a call ended."""
    if call is None or not call.done():
        return "the stream ended"
    code, details = await call.code(), await call.details()
    return f"{code.name.lower().replace('_', ' ')}: {details}" if details else "the stream ended"


def _refusal_code(number: int) -> RefusalCode:
    try:
        return RefusalCode(number)
    except ValueError:
        return RefusalCode.UNSPECIFIED
