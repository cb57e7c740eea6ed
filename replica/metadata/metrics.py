"""Metrics: many points, appended in batches, read by ranges of steps.

Points stand in chunks of up to `CHUNK_POINTS` under the execution or artifact they belong to. A chunk lies within one
window of `keys.WINDOW_STEPS` steps, which stands in its key, so a range of steps is a range of keys; and its key ends
in a number that nobody else has, so appends never conflict, and one that is sent twice is there once. All chunks of a
batch that fit one transaction come to be together, on condition that the owner is there.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from replica.client import Compare, Get, Put
from replica.kv.operations import Transacted, Transaction
from replica.metadata.core import Core, Ref, encode, id_of
from replica.metadata.errors import InvalidValue, NotFound
from replica.metadata.keys import PLAIN_BYTES_MAX, WINDOW_STEPS, check_text, hexadecimal
from replica.metadata.model import AuditRecord, Point

METRIC_NAME_BYTES_MAX: Final = PLAIN_BYTES_MAX
CHUNK_POINTS: Final = 1000
CHUNKS_MAX: Final = 100
"""Chunks in one transaction."""

STEP_MAX: Final = (1 << 48) - 1

_points = msgspec.msgpack.Decoder(list[Point])
_records = msgspec.msgpack.Decoder(AuditRecord)


class Metrics(Core):
    """Points of metrics, and the audit trail: what is appended and read in order."""

    async def log_metrics(
        self, ref: Ref, metrics: Mapping[str, Iterable[Point | tuple[int, float] | tuple[int, float, int]]]
    ) -> int:
        """Append points to the metrics of an execution or artifact; returns how many.

        A point is ``(step, value)`` or ``(step, value, time_ms)``. Up to `CHUNKS_MAX` chunks take effect together;
        a larger batch part by part, so that an error may leave the first parts there.

        Raises:
            NotFound: there is no such object; nothing was appended.
        """
        identity = id_of(ref)
        chunks: list[tuple[bytes, list[Point]]] = []
        count = 0
        for name, given in metrics.items():
            check_text("the name of a metric", name, METRIC_NAME_BYTES_MAX)
            windows: dict[int, list[Point]] = {}
            for each in given:
                point = _point(each)
                windows.setdefault(point.step // WINDOW_STEPS, []).append(point)
                count += 1
            for window, some in sorted(windows.items()):
                some.sort(key=_step)
                begin = self.keys.metric(identity, name, window)
                chunks += [(begin, some[at : at + CHUNK_POINTS]) for at in range(0, len(some), CHUNK_POINTS)]
        await self.open()
        for at in range(0, len(chunks), CHUNKS_MAX):
            await self._append(identity, chunks[at : at + CHUNKS_MAX])
        return count

    async def _append(self, identity: int, chunks: Sequence[tuple[bytes, list[Point]]]) -> None:
        owner = self.keys.object(identity)
        conditions = (
            Compare(owner, "exists", "=", 1),
            Compare(self.keys.layout, "mod", "=", self._layout_revision),
        )
        # Keys of its own, so that sending it again changes nothing.
        puts = [Put(begin + hexadecimal(await self.serial()), encode(points)) for begin, points in chunks]
        operation = Transaction(conditions, tuple(puts), (Get(owner),))
        answer = await self._patiently(lambda: self.store.execute(operation))
        assert isinstance(answer, Transacted)
        self._see(answer.revision)
        if not answer.succeeded:
            raise NotFound(f"there is no object {identity} to have metrics")

    async def metric_names(self, ref: Ref, *, at: int | None = None) -> list[str]:
        """The metrics of an object that have points."""
        identity = id_of(ref)
        revision = await self.at(at)
        begin = self.keys.metrics + hexadecimal(identity) + b"/"
        found: list[str] = []
        first, last = begin, begin[:-1] + b"0"
        # From each name straight to behind its last chunk.
        while True:
            async for page in self.scan(first, last, revision, keys_only=True, page=1):
                name, _, _ = page[0].key[len(begin) :].partition(b"\x00")
                break
            else:
                return found
            found.append(name[1:].decode())
            first = begin + name + b"\x01"

    async def metric(
        self, ref: Ref, name: str, *, first: int = 0, last: int | None = None, at: int | None = None
    ) -> AsyncIterator[Point]:
        """Points with steps from ``first`` to before ``last``, in order of steps; one window is held at a time."""
        identity = id_of(ref)
        check_text("the name of a metric", name, METRIC_NAME_BYTES_MAX)
        finite_step(first)
        revision = await self.at(at)
        begin = self.keys.metric(identity, name)
        low = self.keys.metric(identity, name, first // WINDOW_STEPS)
        high = begin[:-1] + b"\x01"
        if last is not None:
            finite_step(last)
            high = min(high, self.keys.metric(identity, name, last // WINDOW_STEPS + 1))
        window, held = b"", list[Point]()
        async for page in self.scan(low, high, revision, page=64):
            for item in page:
                here = item.key[:-16]
                if here != window:
                    for point in _within(held, first, last):
                        yield point
                    window, held = here, []
                held += _points.decode(item.value)
        for point in _within(held, first, last):
            yield point

    async def audit(
        self, ref: Ref | None = None, *, since: int = 0, until: int | None = None, at: int | None = None
    ) -> AsyncIterator[AuditRecord]:
        """Who did what, in the order in which it took effect; of one object, or of all.

        Args:
            since, until: revisions; the first included, the last not.
        """
        identity = None if ref is None else id_of(ref)
        revision = await self.at(at)
        # Records stand by the newest revision that their writer had heard of when it began, which is before theirs:
        # what is held here is what others did meanwhile.
        held: list[AuditRecord] = []
        begin = len(self.keys.audit)
        async for page in self.scan_prefix(self.keys.audit, revision):
            for item in page:
                hint = int(item.key[begin : begin + 16], 16)
                ready = sorted((each for each in held if each.revision <= hint), key=_revision)
                held = [each for each in held if each.revision > hint]
                for each in ready:
                    yield each
                record = msgspec.structs.replace(_records.decode(item.value), revision=item.create_revision)
                wanted = since <= record.revision and (until is None or record.revision < until)
                if wanted and (identity is None or identity in record.objects):
                    held.append(record)
        for each in sorted(held, key=_revision):
            yield each


def finite_step(step: object) -> int:
    """A step. Raises `InvalidValue`."""
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= STEP_MAX:
        raise InvalidValue(f"a step is an integer from 0 to {STEP_MAX}, not {step!r}")
    return step


def _point(given: Any) -> Point:
    if isinstance(given, Point):
        finite_step(given.step)
        return given
    try:
        step, value, *time = given
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidValue(f"a point is (step, value) or (step, value, time_ms), not {given!r}") from None
    if len(time) > 1 or not all(isinstance(each, int) for each in time):
        raise InvalidValue(f"a point is (step, value) or (step, value, time_ms), not {given!r}")
    return Point(finite_step(step), number, *time)


def _within(points: list[Point], first: int, last: int | None) -> list[Point]:
    """In order of steps; for a step that was logged twice, in order of times as their writers had them."""
    bound = math.inf if last is None else last
    return sorted((each for each in points if first <= each.step < bound), key=_place)


def _place(point: Point) -> tuple[int, int]:
    return point.step, point.time_ms


def _step(point: Point) -> int:
    return point.step


def _revision(record: AuditRecord) -> int:
    return record.revision
