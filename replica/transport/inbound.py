"""The receiving half: what a peer opens towards this replica.

A stream begins with a greeting. It is judged twice: here, for what any replica can tell (version, cluster, who is
meant, whether the stream is older than one already accepted), then by the host (membership, the disk on record). Only
after that has the sender a name, and every frame of the stream is from that sender.

One stream a peer counts, the newest by (incarnation, connection). An older one that is still open is ended, and what it
may yet hold is dropped: a reconnect breaks order, and a frame from before must not arrive among those after it.

Frames of another epoch never reach the host. A sender that is behind is told so; of one that is ahead the host is told.
What does not decode is counted, logged and dropped, a message or a frame at a time, and never ends the stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import DecodeError

from replica.consensus.interface import ReplicaId
from replica.wire.typed import (
    WIRE_VERSION,
    Echo,
    EpochNotice,
    Greeting,
    PeerFrame,
    PeerReply,
    Refusal,
    Welcome,
)

from .bounds import GREETING_TIMEOUT_S, NOTICE_INTERVAL_S, REPLIES_MAX
from .faults import LinkFault, Randomness, Shaper
from .host import (
    EpochSeen,
    Identity,
    PeerArrived,
    PeerDeparted,
    PeerGreeting,
    RefusalCode,
    Refuse,
    TransportHost,
)
from .security import certified, certified_as, replica_name
from .timers import FineTimers

_LOG = logging.getLogger(__name__)


class InboundCounters(msgspec.Struct):
    """What has come in since the start. All of them only grow."""

    frames: int = 0
    messages: int = 0
    bytes: int = 0
    refused: int = 0
    malformed_frames: int = 0
    malformed_messages: int = 0
    dropped_stale: int = 0
    """Frames of a stream that a newer one has replaced."""
    dropped_epoch: int = 0
    """Frames of another epoch."""


class _Stream:
    """One accepted stream, as long as its handler runs."""

    __slots__ = ("ended", "greeting", "noticed_at", "replies", "replies_ready", "task")

    def __init__(self, greeting: PeerGreeting, task: asyncio.Task[Any]) -> None:
        self.greeting = greeting
        self.task = task
        self.replies: list[PeerReply] = []
        self.replies_ready = asyncio.Event()
        self.noticed_at = float("-inf")
        self.ended = ""

    @property
    def order(self) -> tuple[int, int]:
        return (self.greeting.incarnation, self.greeting.connection)

    def end(self, reason: str) -> None:
        """Make the handler leave, telling the peer why."""
        if not self.ended:
            self.ended = reason
            self.task.cancel()

    def reply(self, reply: PeerReply) -> None:
        """Queue a reply; a peer that does not read them loses them."""
        if len(self.replies) < REPLIES_MAX:
            self.replies.append(reply)
            self.replies_ready.set()


class Inbound:
    """Serves `Peer.Connect`. Handler and frames are bytes here: grpc would end a stream over one that is malformed."""

    def __init__(
        self,
        *,
        identity: Identity,
        host: TransportHost,
        randomness: Randomness,
        timers: FineTimers,
        fault_towards: Callable[[ReplicaId], LinkFault],
        greeted: Callable[[ReplicaId], None],
        mutual: bool = False,
    ) -> None:
        """``mutual``: a peer's certificate must name the replica that it says to be."""
        self.counters = InboundCounters()
        self._identity = identity
        self._host = host
        self._randomness = randomness
        self._timers = timers
        self._fault_towards = fault_towards
        self._greeted = greeted
        self._mutual = mutual
        self._streams: dict[ReplicaId, _Stream] = {}
        self._newest: dict[ReplicaId, tuple[int, int]] = {}
        self._unblocked = asyncio.Event()

    def arrived(self) -> frozenset[ReplicaId]:
        """The peers that have a stream to this replica."""
        return frozenset(self._streams)

    def retain(self, peers: frozenset[ReplicaId], reason: str) -> None:
        """End the streams of everybody else, who are told the reason."""
        for replica in [replica for replica in self._streams if replica not in peers]:
            self._streams.pop(replica).end(reason)

    def faults_changed(self) -> None:
        """Look again whether an answer that was held back may go."""
        self._unblocked.set()
        self._unblocked = asyncio.Event()

    async def connect(self, _requests: object, context: Any) -> None:
        """The handler of one stream."""
        stream: _Stream | None = None
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                stream = await self._welcome(context)
            if stream is not None:
                await self._converse(stream, context)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if stream is None or not stream.ended or task is None:
                raise
            # It was us: grpc would leave the peer in the dark if the handler just ended as cancelled.
            task.uncancel()
            try:
                await context.abort(grpc.StatusCode.ABORTED, stream.ended)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.BaseError:
                # A reply was being written, and grpc takes no status beside it: the stream ends without a word.
                raise asyncio.CancelledError from None
        except TimeoutError:
            _LOG.warning("a stream from %s was not greeted, or not answered, in time", context.peer())
        finally:
            if stream is not None and self._streams.get(stream.greeting.replica) is stream:
                del self._streams[stream.greeting.replica]
                self._host.notified(PeerDeparted(stream.greeting.replica))

    # ------------------------------------------------------------------------------------------------------- greeting

    async def _welcome(self, context: Any) -> _Stream | None:
        """Judge the greeting, answer it, and take the stream on."""
        first = await context.read()
        if first is grpc.aio.EOF:
            return None
        try:
            frame = PeerFrame.FromString(first)
        except DecodeError:
            frame = PeerFrame()
        if frame.WhichOneof("content") != "greeting":
            self.counters.malformed_frames += 1
            await self._refuse(
                context, Refuse(RefusalCode.VERSION, "expected a greeting as the first frame of a stream")
            )
            return None
        greeting = PeerGreeting(
            replica=frame.greeting.replica,
            disk=frame.greeting.disk,
            incarnation=frame.greeting.incarnation,
            connection=frame.greeting.connection,
            epoch=frame.greeting.epoch,
            protocol=frame.greeting.protocol,
            admitted=frame.greeting.admitted,
        )
        refusal = (
            judge(frame.greeting, self._identity)
            or self._judge_certificate(context, greeting)
            or self._judge_order(greeting)
        )
        if refusal is not None:
            await self._refuse(context, refusal)
            return None
        verdict = await self._host.greeted(greeting)
        while self._fault_towards(greeting.replica).blocked:
            # The way back is cut: as on a real network, no new connection comes about.
            await self._unblocked.wait()
        if isinstance(verdict, Refuse):
            await self._refuse(context, verdict)
            return None
        # The verdict may have taken a while, and a newer stream may have come.
        refusal = self._judge_order(greeting)
        if refusal is not None:
            await self._refuse(context, refusal)
            return None
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(greeting, task)
        before = self._newest.get(greeting.replica)
        self._newest[greeting.replica] = stream.order
        previous = self._streams.get(greeting.replica)
        self._streams[greeting.replica] = stream
        if previous is not None:
            previous.end("a newer stream has replaced this one")
        welcome = Welcome(
            epoch=self._host.epoch(),
            disk=self._identity.disk,
            incarnation=self._identity.incarnation,
            admitted=verdict.admitted,
        )
        stream.reply(PeerReply(welcome=welcome))
        self._greeted(greeting.replica)
        restarted = before is not None and before[0] < greeting.incarnation
        self._host.notified(PeerArrived(greeting.replica, greeting.incarnation, restarted))
        if greeting.epoch > self._host.epoch():
            self._host.notified(EpochSeen(greeting.replica, greeting.epoch))
        return stream

    def _judge_certificate(self, context: Any, greeting: PeerGreeting) -> Refuse | None:
        if not self._mutual or certified(context, greeting.replica):
            return None
        return Refuse(
            RefusalCode.CERTIFICATE,
            f"the greeting is from replica {greeting.replica}, the certificate is that of {certified_as(context)}: it "
            f"must name {replica_name(greeting.replica)}",
        )

    def _judge_order(self, greeting: PeerGreeting) -> Refuse | None:
        newest = self._newest.get(greeting.replica)
        if newest is None or newest < (greeting.incarnation, greeting.connection):
            return None
        return Refuse(
            RefusalCode.STALE_CONNECTION,
            f"incarnation {greeting.incarnation}, connection {greeting.connection} of replica {greeting.replica} "
            "has been replaced by a newer one; are two processes running on the same data?",
        )

    async def _refuse(self, context: Any, refusal: Refuse) -> None:
        self.counters.refused += 1
        _LOG.warning("refused a stream from %s (%s): %s", context.peer(), refusal.code.name, refusal.message)
        reply = PeerReply(refusal=Refusal(code=int(refusal.code), message=refusal.message))  # type: ignore[arg-type]
        await context.write(reply.SerializeToString())

    # --------------------------------------------------------------------------------------------------------- frames

    async def _converse(self, stream: _Stream, context: Any) -> None:
        replier = asyncio.get_running_loop().create_task(self._reply(stream, context))
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                if self._streams.get(stream.greeting.replica) is not stream:
                    self.counters.dropped_stale += 1
                    continue
                pause = self._frame(stream, data)
                if pause is not None:
                    await pause
        finally:
            replier.cancel()
            await asyncio.gather(replier, return_exceptions=True)

    def _frame(self, stream: _Stream, data: bytes) -> Awaitable[None] | None:
        """Hand one frame to the host; what the host wants to be waited for comes back."""
        counters = self.counters
        sender = stream.greeting.replica
        try:
            frame = PeerFrame.FromString(data)
        except DecodeError as error:
            counters.malformed_frames += 1
            _LOG.warning("dropped a frame from replica %d that does not decode: %s", sender, error)
            return None
        if frame.WhichOneof("content") != "messages":
            counters.malformed_frames += 1
            _LOG.warning("dropped a frame from replica %d that holds no messages", sender)
            return None
        batch = frame.messages
        if batch.sent_us:
            self._echo(stream, batch.sent_us)
        epoch = self._host.epoch()
        if batch.epoch != epoch:
            counters.dropped_epoch += 1
            self._other_epoch(stream, batch.epoch, epoch)
            return None
        messages = self._decode(sender, batch.messages)
        counters.frames += 1
        counters.bytes += len(data)
        if not messages:
            return None
        counters.messages += len(messages)
        return self._host.received(sender, messages)

    def _decode(self, sender: ReplicaId, encoded: Iterable[bytes]) -> list[Any]:
        decode = self._host.decode
        try:
            return [decode(data) for data in encoded]
        except ValueError:
            # Once more, one by one: what is sound in the frame is worth having.
            messages = []
            for data in encoded:
                try:
                    messages.append(decode(data))
                except ValueError as error:
                    self.counters.malformed_messages += 1
                    _LOG.warning("dropped a message from replica %d that does not decode: %s", sender, error)
            return messages

    def _other_epoch(self, stream: _Stream, theirs: int, ours: int) -> None:
        now = time.monotonic()
        if now - stream.noticed_at < NOTICE_INTERVAL_S:
            return
        stream.noticed_at = now
        if theirs > ours:
            self._host.notified(EpochSeen(stream.greeting.replica, theirs))
        elif not self._fault_towards(stream.greeting.replica).blocked:
            stream.reply(PeerReply(epoch_notice=EpochNotice(epoch=ours)))

    def _echo(self, stream: _Stream, sent_us: int) -> None:
        """Send a probe back, shaped like any message on the way to that peer."""
        reply = PeerReply(echo=Echo(sent_us=sent_us))
        fault = self._fault_towards(stream.greeting.replica)
        if fault.harmless:
            stream.reply(reply)
            return
        now = time.monotonic()
        arrival = Shaper(fault, self._randomness).arrival(now, 0)
        if arrival is not None:
            self._timers.call_later(arrival - now, lambda: stream.reply(reply))

    async def _reply(self, stream: _Stream, context: Any) -> None:
        """Write what is to be replied, as it comes."""
        while True:
            await stream.replies_ready.wait()
            stream.replies_ready.clear()
            replies, stream.replies = stream.replies, []
            for reply in replies:
                await context.write(reply.SerializeToString())


def judge(greeting: Greeting, identity: Identity) -> Refuse | None:
    """What any replica can tell of a greeting. Pure."""
    if greeting.wire_version != WIRE_VERSION:
        return Refuse(
            RefusalCode.VERSION,
            f"replica {identity.replica} speaks version {WIRE_VERSION} of the wire contract, "
            f"not {greeting.wire_version}",
        )
    if greeting.cluster != identity.cluster:
        return Refuse(
            RefusalCode.WRONG_CLUSTER,
            f"replica {identity.replica} belongs to cluster {identity.cluster!r}, not {greeting.cluster!r}",
        )
    if greeting.recipient != identity.replica:
        return Refuse(
            RefusalCode.WRONG_RECIPIENT,
            f"replica {identity.replica} answers here, not replica {greeting.recipient}: check the addresses",
        )
    if greeting.replica in {0, identity.replica}:
        return Refuse(
            RefusalCode.NOT_A_MEMBER,
            f"replica {greeting.replica} cannot be a peer of replica {identity.replica}",
        )
    return None
