"""What applying a command comes to, for whoever has to answer the client."""

from __future__ import annotations

import msgspec

from .operations import AnyResult, Written
from .runs import array_header

_encode = msgspec.msgpack.Encoder().encode


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """A session was opened: ``nonce`` is the request's; ``evicted`` the session that made room for it (0: none)."""

    nonce: bytes
    session: int
    evicted: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """What applying one command came to: ``count`` results for the sequences from ``sequence`` on."""

    session: int
    sequence: int
    count: int
    opened: tuple[Opened, ...] = ()
    closed: tuple[int, ...] = ()
    """Sessions that the command closed."""
    first_revision: int = 0
    """Of a run that is nothing but puts that took effect: their revisions ascend from here. 0 for any other."""
    answers: list[AnyResult] | None = None
    """The results of any other run."""

    def results(self) -> list[AnyResult]:
        """The results, one an operation."""
        if self.answers is not None:
            return self.answers
        return [Written(revision) for revision in range(self.first_revision, self.first_revision + self.count)]

    def encoded(self) -> bytes:
        """The results as they stand in an answer: a MessagePack array."""
        return _encode(self.results())

    def pieces(self, bytes_max: int) -> list[tuple[int, int, bytes]]:
        """The results in pieces of about ``bytes_max`` bytes: (first sequence, count, encoded results) each.

        A single result may be as large as `RESULT_BYTES_MAX` and a little more.
        """
        whole = self.encoded()
        if len(whole) <= bytes_max:
            return [(self.sequence, self.count, whole)]
        pieces = []
        chunk: list[bytes] = []
        size = 0
        first = self.sequence
        for result in map(_encode, self.results()):
            if chunk and size + len(result) > bytes_max:
                pieces.append((first, len(chunk), array_header(len(chunk)) + b"".join(chunk)))
                first += len(chunk)
                chunk, size = [], 0
            chunk.append(result)
            size += len(result)
        pieces.append((first, len(chunk), array_header(len(chunk)) + b"".join(chunk)))
        return pieces
