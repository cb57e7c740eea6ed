"""The engine of watches: what a client keeps so that each watch hears every revision once, in order, or why not.

Theory of operation
-------------------
Pure, as the session engine is (`replica.client.engine`): it is handed watches, frames and the time, and hands back
frames to send and wishes where to go; `replica.client.watching` drives it over a port, tests drive it by hand.

A watch is a place in the history: the first revision that it has not heard of (`Watch.next_revision`). Whatever
happens to the stream, the watch is asked for again from there, at the same replica or another. A replica that has not
come so far waits, so a watch never goes back, wherever it goes. What a replica tells twice, or tells of a revision that
is past, is passed over. Batches that come in pieces are put together first; what was half told when the stream was lost
is told anew from the beginning of that revision.

**Nothing is buffered without bound.** A watch whose owner has more than `BUFFERED_BYTES_MAX` untaken is cancelled at
the replica, and asked for again when the owner has taken what is there. An owner that takes its time costs nobody
anything, and at last, if what comes next is compacted meanwhile, gets told so.

**What ends a watch**: that its revision is compacted, or that it can be served nowhere (it makes no sense, or the
protocol has no order to tell). Everything else, a replica that goes away or ends a watch as slow or for want of room,
is a reason to ask again.

All watches share one stream, without a session, to any replica; the nearest if the client has said where it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from replica.client.engine import MISMATCHES, Move, nearer_endpoint
from replica.client.errors import (
    Compacted,
    InvalidArgument,
    NotCommitted,
    Overloaded,
    PermissionDenied,
    SynodError,
    Unauthenticated,
    Unsupported,
    WrongCluster,
)
from replica.kv.operations import WatchBatch, WatchEvent
from replica.wire import typed as wire
from replica.wire.typed import WIRE_VERSION, ClientFrame, Code, Hello, ServerFrame

BUFFERED_BYTES_MAX: Final = 4 << 20
"""What a watch may hold for an owner that does not take it, in encoded bytes; beyond it the watch rests."""

WATCHES_MAX: Final = 4096
"""Watches of one store object."""

RETRY_S: Final = 0.5
"""A replica that has no room for a watch is asked again after so long."""

_decode: Final = msgspec.msgpack.Decoder(list[WatchBatch]).decode


class WatchOptions(msgspec.Struct, frozen=True):
    """What a watch is about."""

    first: bytes
    last: bytes
    puts: bool = True
    deletes: bool = True
    previous: bool = False
    progress: bool = False


class Watch:
    """One watch. `take` hands out what has come; ``woken`` is called when there is something new to take."""

    __slots__ = ("asked_as", "buffered", "ended", "error", "items", "next_revision", "options", "partial", "resting",
                 "retry_at", "woken")  # fmt: skip

    def __init__(self, options: WatchOptions, revision: int, woken: Callable[[], None]) -> None:
        self.options = options
        self.next_revision = revision
        """The first revision that was not handed in yet; 0 until the replica has said where it begins."""
        self.woken = woken
        self.items: deque[tuple[WatchBatch, int]] = deque()
        self.buffered = 0
        self.partial: list[WatchEvent] = []
        self.asked_as = 0
        """The id under which the present stream knows it; 0: it does not."""
        self.resting = False
        """Not to be asked for before the owner has taken what there is."""
        self.retry_at = 0.0
        self.ended = False
        self.error: SynodError | None = None

    def take(self) -> WatchBatch | None:
        """The next batch; None when none is there."""
        if not self.items:
            return None
        batch, size = self.items.popleft()
        self.buffered -= size
        return batch

    @property
    def waiting(self) -> bool:
        """Is it to be asked for?"""
        return not (self.asked_as or self.resting or self.ended)

    def _add(self, batch: WatchBatch, size: int) -> None:
        self.items.append((batch, size))
        self.buffered += size
        self.next_revision = batch.revision + 1


class WatchEngine:
    """All watches of one client. Not thread-safe."""

    def __init__(self, *, client: str = "", cluster: str = "", region: str = "", zone: str = "") -> None:
        self._client = client
        self._cluster = cluster
        self._region = region
        self._zone = zone
        self._watches: dict[Watch, None] = {}
        self._by_id: dict[int, Watch] = {}
        self._next_id = 1
        self._cancelled: list[int] = []
        self._welcomed = False
        self._wish: Move | None = None
        self._tried_nearby: set[str] = set()
        self.answers = 0
        """How many frames told something, so far."""
        self.endpoints: tuple[str, ...] = ()
        self.watches_max = WATCHES_MAX

    @property
    def idle(self) -> bool:
        """Is there nothing to watch?"""
        return not self._watches

    @property
    def attached(self) -> bool:
        """Whether the present stream was welcomed."""
        return self._welcomed

    # -------------------------------------------------------------------------------------------------------- watches

    def open(self, options: WatchOptions, revision: int, woken: Callable[[], None]) -> Watch:
        """Begin a watch from ``revision`` on; 0: from what comes next. Raises `Overloaded`."""
        if len(self._watches) >= WATCHES_MAX:
            raise Overloaded(f"{WATCHES_MAX} watches are open already")
        watch = Watch(options, revision, woken)
        self._watches[watch] = None
        return watch

    def close(self, watch: Watch) -> None:
        """Its owner wants no more."""
        watch.ended = True
        self._watches.pop(watch, None)
        self._let_go(watch)

    def _let_go(self, watch: Watch) -> None:
        if watch.asked_as:
            self._by_id.pop(watch.asked_as, None)
            self._cancelled.append(watch.asked_as)
            watch.asked_as = 0
        watch.partial.clear()

    def taken(self, watch: Watch) -> bool:
        """The owner has taken something; True when there is something to send because of it."""
        if watch.resting and not watch.items:
            watch.resting = False
            return True
        return False

    def fail_everything(self, error: SynodError) -> None:
        """Nothing can be watched any more, and why."""
        for watch in list(self._watches):
            self._fail(watch, error)

    def _fail(self, watch: Watch, error: SynodError) -> None:
        watch.error = error
        self.close(watch)
        watch.woken()

    # ------------------------------------------------------------------------------------------------------ the stream

    def attaching(self) -> Hello:
        """A new stream is being made: what it begins with."""
        return Hello(
            wire_version=WIRE_VERSION,
            cluster=self._cluster,
            client=self._client,
            region=self._region,
            zone=self._zone,
        )

    def detached(self) -> None:
        """The stream has ended; everything is asked for anew on the next."""
        self._welcomed = False
        self._wish = None
        self._by_id.clear()
        self._cancelled.clear()
        for watch in self._watches:
            watch.asked_as = 0
            watch.partial.clear()

    def take_wish(self) -> Move | None:
        """Where to go, if anywhere; each wish is handed out once."""
        wish, self._wish = self._wish, None
        return wish

    def next_retry(self) -> float | None:
        """When something that was refused for want of room may be asked for again."""
        return min((watch.retry_at for watch in self._watches if watch.waiting and watch.retry_at), default=None)

    def next_frame(self, now: float) -> ClientFrame | None:
        """What is to be sent; None when nothing is."""
        if not self._welcomed:
            return None
        frame = ClientFrame()
        for watch in self._watches:
            if not watch.waiting or watch.retry_at > now or len(self._by_id) >= self.watches_max:
                continue
            watch.retry_at = 0.0
            watch.asked_as = self._next_id
            self._next_id += 1
            self._by_id[watch.asked_as] = watch
            options = watch.options
            frame.watches.add(
                id=watch.asked_as,
                first=options.first,
                last=options.last,
                revision=watch.next_revision,
                no_puts=not options.puts,
                no_deletes=not options.deletes,
                previous=options.previous,
            )
        if self._cancelled:
            frame.unwatch.extend(self._cancelled)
            self._cancelled.clear()
        return frame if frame.watches or frame.unwatch else None

    # ------------------------------------------------------------------------------------------------------- receiving

    def received(self, frame: ServerFrame, now: float) -> None:
        """Digest a frame. Raises `ValueError` for one that makes no sense; the stream is then to be left."""
        if frame.HasField("welcome"):
            self._welcome(frame.welcome)
        for rejection in frame.rejections:
            mismatch = MISMATCHES.get(rejection.code)
            self._wish = Move(rejection.message or "the replica refuses the stream", mismatch=mismatch)
        for news in frame.watch_news:
            self._news(news, now)
        if frame.HasField("closing") and self._wish is None:
            mismatch = MISMATCHES.get(frame.closing.code)
            self._wish = Move(frame.closing.message or "the replica ended the stream", mismatch=mismatch)

    def _welcome(self, welcome: ServerFrame.Welcome) -> None:
        if welcome.wire_version != WIRE_VERSION:
            raise ValueError(f"the replica speaks version {welcome.wire_version}, this client {WIRE_VERSION}")
        self._welcomed = True
        self.endpoints = tuple(endpoint.address for endpoint in welcome.endpoints)
        self.watches_max = welcome.limits.watches_max
        if not self.watches_max:
            self.fail_everything(Unsupported("the replicas are of a release that has no watches"))
        self._look_nearby(welcome)

    def _look_nearby(self, welcome: ServerFrame.Welcome) -> None:
        nearer = nearer_endpoint(welcome, self._region, self._zone, self._tried_nearby)
        if nearer:
            self._tried_nearby.add(nearer)
            self._wish = Move("another replica is nearer", nearer)

    def _news(self, news: wire.WatchNews, now: float) -> None:
        watches = [watch for id_ in news.ids if (watch := self._by_id.get(id_)) is not None]
        match news.WhichOneof("content"):
            case "batches":
                self._told(watches, news)
            case "started":
                for watch in watches:
                    watch.next_revision = watch.next_revision or news.started
                    watch.woken()
            case "progress":
                for watch in watches:
                    if watch.next_revision <= news.progress:
                        watch.next_revision = news.progress + 1
                        if watch.options.progress:
                            watch._add(WatchBatch(news.progress, ()), 1)
                            watch.woken()
            case "ended":
                for watch in watches:
                    self._ended(watch, news.ended, now)
        if watches and news.WhichOneof("content") != "ended":
            self.answers += 1

    def _told(self, watches: list[Watch], news: wire.WatchNews) -> None:
        try:
            batches = _decode(news.batches)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"changes that cannot be read: {error}") from None
        # However many watches are told the same, it is decoded once and shared.
        share = len(news.batches) // max(1, len(batches)) + 1
        for watch in watches:
            for index, batch in enumerate(batches):
                if batch.revision < watch.next_revision:
                    continue
                if news.partial and index == len(batches) - 1:
                    watch.partial.extend(batch.events)
                    continue
                whole = batch
                if watch.partial:
                    whole = WatchBatch(batch.revision, (*watch.partial, *batch.events))
                    watch.partial.clear()
                if whole.events:
                    watch._add(whole, share)
                else:
                    watch.next_revision = whole.revision + 1
            if watch.buffered > BUFFERED_BYTES_MAX:
                watch.resting = True
                self._let_go(watch)
            watch.woken()

    def _ended(self, watch: Watch, ended: wire.WatchEnded, now: float) -> None:
        self._by_id.pop(watch.asked_as, None)
        watch.asked_as = 0
        watch.partial.clear()
        if ended.code == Code.COMPACTED:
            self._fail(watch, Compacted(ended.message, ended.revision))
        elif ended.code in _FINAL:
            self._fail(watch, _FINAL[ended.code](ended.message))
        elif ended.code == Code.SLOW:
            if not watch.next_revision:
                watch.next_revision = ended.revision
        elif ended.code == Code.OVERLOADED:
            watch.retry_at = now + RETRY_S
        else:
            self._wish = Move(ended.message or "the replica can tell nothing")


_FINAL: Final[dict[int, Callable[[str], NotCommitted]]] = {
    Code.INVALID: InvalidArgument,
    Code.UNSUPPORTED: Unsupported,
    Code.WRONG_CLUSTER: WrongCluster,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
}
