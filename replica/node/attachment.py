"""One stream of one client: what it is owed, and what has accumulated for it.

Answers are put in by plain calls as they come up; `Attachment.next_frame` takes out everything that is there as one
frame and waits when there is nothing. What a client does not take is bounded by whoever puts in.
"""

from __future__ import annotations

import asyncio

from replica.kv.machine import Outcome
from replica.wire import typed as wire

__all__ = ["Attachment"]


class Attachment:
    """One stream of one client: what it is owed, and what has accumulated for it. Made by
    `Sessions.attach`.
    """

    __slots__ = (
        "_closing",
        "_frame_bytes_max",
        "_outgoing_bytes",
        "_read_results",
        "_rejections",
        "_results",
        "_waiter",
        "_welcome",
        "client",
        "ended",
        "greeted",
        "in_flight",
        "in_flight_operations",
        "opening",
        "reads",
        "session",
    )

    def __init__(self, frame_bytes_max: int) -> None:
        self.session = 0
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
            if self._results or self._read_results or self._rejections or self._welcome is not None:
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
        return frame
