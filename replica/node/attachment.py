"""One stream of one client: what it is owed, and what has accumulated for it.

Answers are put in by plain calls as they come up; `Attachment.next_frame` takes out everything that is there as one
frame and waits when there is nothing. What a client does not take is bounded by whoever puts in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from replica.kv.machine import Outcome
from replica.wire import typed as wire

from .access import Denied
from .callers import Caller

__all__ = ["Attachment", "News"]

NEWS_BYTES: Final = 64
"""What news of watches count beside what is told."""


class News(NamedTuple):
    """What some watches of a stream are told. The bytes are shared by all streams that are told the same."""

    ids: tuple[int, ...]
    size: int
    started_at: int = 0
    batches: bytes = b""
    partial: bool = False
    progress: int = 0
    end: wire.WatchEnded | None = None

    @classmethod
    def started(cls, ids: tuple[int, ...], revision: int) -> News:
        """They are going to be told everything from ``revision`` on."""
        return cls(ids, NEWS_BYTES, started_at=revision)

    @classmethod
    def told(cls, ids: tuple[int, ...], batches: bytes, *, partial: bool = False) -> News:
        """Encoded batches; ``partial`` when the last goes on in the next news."""
        return cls(ids, NEWS_BYTES + 8 * len(ids) + len(batches), batches=batches, partial=partial)

    @classmethod
    def progressed(cls, ids: tuple[int, ...], revision: int) -> News:
        """They have been told everything up to ``revision``."""
        return cls(ids, NEWS_BYTES + 8 * len(ids), progress=revision)

    @classmethod
    def ended(cls, ids: tuple[int, ...], code: wire.Code, message: str, revision: int) -> News:
        """They have ended; ``revision`` is where to resume."""
        ended = wire.WatchEnded(code=code, message=message, revision=revision)
        return cls(ids, NEWS_BYTES + len(message), end=ended)

    def message(self) -> wire.WatchNews:
        """As it stands in a frame."""
        if self.batches:
            return wire.WatchNews(ids=self.ids, batches=self.batches, partial=self.partial)
        if self.end is not None:
            return wire.WatchNews(ids=self.ids, ended=self.end)
        if self.progress:
            return wire.WatchNews(ids=self.ids, progress=self.progress)
        return wire.WatchNews(ids=self.ids, started=self.started_at)


class Attachment:
    """One stream of one client: what it is owed, and what has accumulated for it. Made by
    `Sessions.attach`.
    """

    __slots__ = (
        "_closing",
        "_frame_bytes_max",
        "_news",
        "_outgoing_bytes",
        "_read_results",
        "_rejections",
        "_results",
        "_waiter",
        "_welcome",
        "caller",
        "client",
        "denied",
        "ended",
        "greeted",
        "in_flight",
        "in_flight_operations",
        "news_bytes",
        "on_taken",
        "opening",
        "reads",
        "session",
    )

    def __init__(self, frame_bytes_max: int) -> None:
        self.session = 0
        self.caller: Caller | None = None
        """Whose stream it is, where that matters."""
        self.denied: Denied | None = None
        """Why nothing is done for it."""
        self.client = ""
        self.greeted = False
        self.opening = False
        self.ended = False
        """Nothing more is taken from the client, and nothing more will be put in."""
        self.in_flight: dict[int, tuple[int, int]] = {}
        """Commands not answered yet: first sequence to (operations, payload bytes)."""
        self.in_flight_operations = 0
        self.reads = 0
        self._frame_bytes_max = frame_bytes_max
        self._outgoing_bytes = 0
        self._results: list[wire.RunResult] = []
        self._read_results: list[wire.ReadResult] = []
        self._rejections: list[wire.Rejection] = []
        self._welcome: wire.ServerFrame.Welcome | None = None
        self._closing: wire.Closing | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._news: deque[News] = deque()
        self.news_bytes = 0
        """Bytes of news of watches that wait to be taken."""
        self.on_taken: Callable[[int], None] | None = None
        """Told how many bytes of news were taken."""

    @property
    def outgoing_bytes(self) -> int:
        """Bytes of answers that wait to be taken."""
        return self._outgoing_bytes

    def put_welcome(self, welcome: wire.ServerFrame.Welcome) -> None:
        self._welcome = welcome

    def put_outcome(self, outcome: Outcome) -> None:
        results = outcome.encoded()
        size = len(results)
        if size <= self._frame_bytes_max:
            self._results.append(wire.RunResult(first_sequence=outcome.sequence, count=outcome.count, results=results))
        else:
            for first, count, piece in outcome.pieces(self._frame_bytes_max):
                self._results.append(wire.RunResult(first_sequence=first, count=count, results=piece))
        self._outgoing_bytes += size

    def put_read_result(self, id_: int, results: bytes) -> None:
        self._read_results.append(wire.ReadResult(id=id_, results=results))
        self._outgoing_bytes += len(results)

    def put_rejection(self, rejection: wire.Rejection) -> None:
        self._rejections.append(rejection)

    def put_closing(self, code: wire.Code, message: str) -> None:
        """The last thing that this stream says; what waits already is still sent, and nothing is added to it."""
        if not self.ended:
            self.ended = True
            self._closing = wire.Closing(code=code, message=message)

    def put_news(self, news: News) -> None:
        self._news.append(news)
        self.news_bytes += news.size

    def drop_news(self) -> int:
        """Forget the news that were not taken; returns their bytes."""
        dropped, self.news_bytes = self.news_bytes, 0
        self._news.clear()
        return dropped

    def drop_answers(self) -> None:
        """Forget what the client did not take."""
        self._results.clear()
        self._read_results.clear()
        self._outgoing_bytes = 0

    def wake(self) -> None:
        """Something has accumulated (or the stream has ended): let `next_frame` go on."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def next_frame(self) -> wire.ServerFrame | None:
        """Everything that has accumulated, as one frame; None once there will be nothing more."""
        while True:
            if self._results or self._read_results or self._rejections or self._welcome is not None or self._news:
                return self._take()
            if self._closing is not None:
                frame = wire.ServerFrame(closing=self._closing)
                self._closing = None
                return frame
            if self.ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _take(self) -> wire.ServerFrame:
        results, read_results = self._results, self._read_results
        room = self._frame_bytes_max - self._outgoing_bytes
        if self._outgoing_bytes <= self._frame_bytes_max:
            self._results, self._read_results, self._outgoing_bytes = [], [], 0
        else:
            # One frame has a limit: take what fits, and at least one answer.
            room = self._frame_bytes_max
            taken: int = 0
            for taken, result in enumerate(results, 1):  # noqa: B007 - the count is wanted
                room -= len(result.results)
                if room <= 0:
                    break
            taken_reads: int = 0
            if room > 0:
                for taken_reads, read_result in enumerate(read_results, 1):  # noqa: B007
                    room -= len(read_result.results)
                    if room <= 0:
                        break
            results, self._results = results[:taken], results[taken:]
            read_results, self._read_results = read_results[:taken_reads], read_results[taken_reads:]
            self._outgoing_bytes -= self._frame_bytes_max - room
        frame = wire.ServerFrame(
            welcome=self._welcome,
            results=results,
            read_results=read_results,
            rejections=self._rejections,
        )
        self._rejections = []
        self._welcome = None
        if self._news:
            self._take_news(frame, room)
        return frame

    def _take_news(self, frame: wire.ServerFrame, room: int) -> None:
        """Add the news for which a frame has room, or one if it has nothing else to say."""
        taken = 0
        told: list[wire.WatchNews] = []
        alone = not (frame.results or frame.read_results)
        while self._news and (taken + self._news[0].size <= room or (alone and not told)):
            news = self._news.popleft()
            taken += news.size
            told.append(news.message())
        frame.watch_news.extend(told)
        self.news_bytes -= taken
        if self.on_taken is not None:
            self.on_taken(taken)
