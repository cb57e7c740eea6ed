"""What has been executed, by key: what a replica can say against a value when the records are gone.

A recovery asks whether something decided interferes with a value and neither is among its dependencies nor depends on
it (`recovery`). Records of what was executed are discarded behind snapshots, and may be asked about long after: by
whoever pre-accepted a value, was cut off, and recovers it when its leader is lost. So of everything that was executed
the keys are remembered for longer than the values, and over restarts too: they go into the mark of each snapshot
(`Protocol.snapshot_mark`), and whoever installs the snapshot knows what its giver knew. What was executed beyond the
snapshot is on the disk, and is read there when it is asked for.

*Traces* are single instances, the latest ones, with their dependencies. What is older is folded into *generations*:
for each key the highest number that wrote it and the highest that read it, in each space. The highest is enough. An
instance is folded once everything up to it in its space, and all that it depends on, has been executed: whatever is
still undecided is then later than its dependencies, so it speaks against a value exactly if its number is beyond the
value's dependencies, and if any does then the highest does.

*Settled* is what nobody will be asked about, and forgotten. Each replica tells how far it has executed and which
numbers it has used (`Progress`): what it proposes under later numbers comes after what it had executed. Once all have
executed something, and all that any of them had proposed until it told so has been executed here, nothing undecided can
lack it. In a healthy cluster that is so within moments.

While a replica is away nothing is settled, and the keys add up. Beyond two generations of ``KEYS_MAX`` the older one is
given up, and this replica *blind* for it: it can't tell any more what is against a value whose dependencies end there.

The published protocol discards nothing: what is remembered by key, and for how long, is this package's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from .interference import Touch, raise_to
from .messages import Dependencies

KEYS_MAX: Final = 1 << 16
"""Keys and intervals in a generation."""

KEYS_BYTES_MAX: Final = 8 << 20
"""And their bytes: two generations and the traces must fit the header of a snapshot."""

RECENT_MAX: Final = 1 << 12
"""Keys and intervals in traces; when there are more, the older half of the traces is folded."""

Interval: TypeAlias = tuple[bytes, bytes]


class Trace(NamedTuple):
    """One executed instance, by rank of its space."""

    rank: int
    number: int
    dependencies: Dependencies
    touch: Touch

    @property
    def weight(self) -> int:
        """What it counts for."""
        touch = self.touch
        return 1 + len(touch.writes) + len(touch.reads) + len(touch.ranges) + len(touch.written_ranges)


Reader: TypeAlias = Callable[[int, int, int], Iterator[Trace]]
"""Reads from disk what was decided in the space of a rank from a first to a last number, no-ops left out."""


class _Written(msgspec.Struct, frozen=True, array_like=True):
    """A trace in a mark."""

    rank: int
    number: int
    dependencies: Dependencies
    writes: tuple[bytes, ...]
    reads: tuple[bytes, ...]
    ranges: tuple[Interval, ...]
    written_ranges: tuple[Interval, ...]


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """What goes with a snapshot."""

    blind: Dependencies
    keys: dict[bytes, list[int]]
    intervals: list[tuple[bytes, bytes, list[int]]]
    traces: list[_Written]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Mark)


class _Generation:
    """Highest numbers by key: first those that write it, by rank, then those that read it."""

    __slots__ = ("keys", "intervals", "top", "reach", "size")

    def __init__(self, n: int) -> None:
        self.keys: dict[bytes, list[int]] = {}
        self.intervals: dict[Interval, list[int]] = {}
        self.top = [0] * n
        """The highest numbers in it."""
        self.reach = [0] * n
        """The highest numbers in it or among their dependencies."""
        self.size = 0
        """Bytes of keys."""

    @property
    def full(self) -> bool:
        return len(self.keys) + len(self.intervals) >= KEYS_MAX or self.size >= KEYS_BYTES_MAX

    def fold(self, trace: Trace) -> None:
        n, rank, number, touch = len(self.top), trace.rank, trace.number, trace.touch
        keys, intervals = self.keys, self.intervals
        for names, place in ((touch.writes, rank), (touch.reads, n + rank)):
            for key in names:
                entry = keys.get(key)
                if entry is None:
                    keys[key] = entry = [0] * (2 * n)
                    self.size += len(key)
                entry[place] = max(entry[place], number)
        for spans, place in ((touch.written_ranges, rank), (touch.ranges, n + rank)):
            for interval in spans:
                entry = intervals.get(interval)
                if entry is None:
                    intervals[interval] = entry = [0] * (2 * n)
                    self.size += len(interval[0]) + len(interval[1])
                entry[place] = max(entry[place], number)
        self.top[rank] = max(self.top[rank], number)
        raise_to(self.reach, trace.dependencies)
        self.reach[rank] = max(self.reach[rank], number)

    def against(self, rank: int, touch: Touch, dependencies: Dependencies) -> tuple[int, int] | None:
        """Something that interferes with ``touch`` in another space than that of ``rank``, beyond ``dependencies``."""
        if not any(r != rank and top > dependencies[r] for r, top in enumerate(self.top)):
            return None
        n = len(dependencies)
        for key, entry in self._entries(touch):
            written, read = _beyond(rank, entry, 0, dependencies), _beyond(rank, entry, n, dependencies)
            if written is not None and touch.interferes(Touch({key: None}, {})):
                return written
            if read is not None and touch.interferes(Touch({}, {key: None})):
                return read
        for interval, entry in self.intervals.items():
            written, read = _beyond(rank, entry, 0, dependencies), _beyond(rank, entry, n, dependencies)
            if written is not None and touch.interferes(Touch({}, {}, (), (interval,))):
                return written
            if read is not None and touch.interferes(Touch({}, {}, (interval,))):
                return read
        return None

    def _entries(self, touch: Touch) -> Iterable[tuple[bytes, list[int]]]:
        if touch.wide:
            return self.keys.items()
        return [(key, self.keys[key]) for keys in (touch.writes, touch.reads) for key in keys if key in self.keys]


class History:
    """What one replica of ``n`` remembers of what was executed. Positions in lists are ranks of members."""

    def __init__(self, n: int, read: Reader) -> None:
        self._n = n
        self._read = read
        self._traces: deque[Trace] = deque()
        self._weight = 0
        self._young = _Generation(n)
        self._old = _Generation(n)
        self.blind = [0] * n
        """Of what lies at or before these numbers not everything is remembered that may be asked about."""
        self._unread = [(0, 0)] * n
        """What was executed before the start and is on the disk alone: behind the first number, up to the second."""
        self._settled = [0] * n
        self._settled_by = [0] * n
        """What this replica has to have executed for that."""
        self._awaited: tuple[Dependencies, Dependencies] | None = None
        """What will be settled, and once what has been executed."""

    def __len__(self) -> int:
        """Keys and intervals that are remembered."""
        generations = (self._young, self._old)
        return self._weight + sum(len(each.keys) + len(each.intervals) for each in generations)

    def add(self, rank: int, number: int, dependencies: Dependencies, touch: Touch) -> None:
        """An instance is executed; a no-op touches nothing."""
        self._append(Trace(rank, number, dependencies, touch))

    def _append(self, trace: Trace) -> None:
        self._traces.append(trace)
        self._weight += trace.weight

    # ---------------------------------------------------------------------------------------------------------- asking

    def against(self, rank: int, number: int, touch: Touch, dependencies: Dependencies) -> tuple[int, int] | None:
        """Something that was decided and speaks against the undecided instance ``number`` of the space of ``rank``, as
        (rank, number), if anything does.

        In its own space an instance comes after whatever it met, and what came later after it: nothing there speaks
        against it. Raises `CorruptRecord`.
        """
        for traces in (self._traces, *self._stored(rank, dependencies)):
            for trace in traces:
                if (
                    trace.number > dependencies[trace.rank]
                    and trace.rank != rank
                    and trace.dependencies[rank] < number
                    and touch.interferes(trace.touch)
                ):
                    return trace.rank, trace.number
        return self._young.against(rank, touch, dependencies) or self._old.against(rank, touch, dependencies)

    def is_blind(self, rank: int, dependencies: Dependencies) -> bool:
        """May anything be forgotten that speaks against an instance of that space with these dependencies?"""
        return any(other != rank and self.blind[other] > number for other, number in enumerate(dependencies))

    def _stored(self, rank: int, dependencies: Dependencies) -> Iterator[Iterator[Trace]]:
        for other, (low, high) in enumerate(self._unread):
            first = max(low, dependencies[other]) + 1
            if other != rank and first <= high:
                yield self._read(other, first, high)

    # ------------------------------------------------------------------------------------------------------ forgetting

    def tick(self, executed: Dependencies, everywhere: Dependencies | None, proposed: Dependencies) -> None:
        """Forget what is settled, and fold what is too much.

        ``executed``: how far this replica is. ``everywhere``: how far all of them are (None: some have not told), and
        ``proposed`` the highest numbers that they had used when they told so.
        """
        if self._awaited is not None and _covers(executed, self._awaited[1]):
            raise_to(self._settled, self._awaited[0])
            raise_to(self._settled_by, self._awaited[1])
            self._awaited = None
            self._forget()
        if self._awaited is None and everywhere is not None and not _covers(self._settled, everywhere):
            self._awaited = (everywhere, proposed)
        if self._weight > RECENT_MAX:
            self._fold(executed)

    def _forget(self) -> None:
        settled, traces = self._settled, self._traces
        while traces and traces[0].number <= settled[traces[0].rank]:
            self._weight -= traces.popleft().weight
        if _covers(settled, self._old.top):
            self._old = _Generation(self._n)
        if _covers(settled, self._young.top):
            self._young = _Generation(self._n)
        self._unread = [(max(low, done), high) for (low, high), done in zip(self._unread, settled, strict=True)]

    def _fold(self, executed: Dependencies) -> None:
        """Fold the older half of the traces, those that may be."""
        kept: list[Trace] = []
        traces, young = self._traces, self._young
        ahead = self._weight
        while ahead > RECENT_MAX // 2:
            trace = traces.popleft()
            weight = trace.weight
            ahead -= weight
            if trace.number > executed[trace.rank] or not _covers(executed, trace.dependencies):
                kept.append(trace)
                continue
            self._weight -= weight
            if trace.number > self._settled[trace.rank]:
                if young.full:
                    raise_to(self.blind, self._old.top)
                    self._old, self._young = young, _Generation(self._n)
                    young = self._young
                young.fold(trace)
        traces.extendleft(reversed(kept))
        while self._weight > KEYS_MAX:
            # Something that they depend on is stuck, and they are too many to be kept one by one.
            trace = traces.popleft()
            self._weight -= trace.weight
            self.blind[trace.rank] = max(self.blind[trace.rank], trace.number)

    # -------------------------------------------------------------------------------------------------------- snapshots

    def mark(self, frontier: Sequence[int], executed: Dependencies, pending: Iterable[Trace] = ()) -> bytes:
        """What is to be known of a snapshot at ``frontier``. Raises `CorruptRecord`.

        The state may hold more than has been executed since the start: what it held before that, as single instances
        above its frontier. Some of it is ``pending``, decided and to be executed again; some is told by a peer's mark.
        """
        for rank, (low, high) in enumerate(self._unread):
            if low < high:
                for trace in self._read(rank, low + 1, high):
                    self._append(trace)
                    if self._weight > 2 * RECENT_MAX:
                        self._fold(executed)
        self._unread = [(0, 0)] * self._n
        blind = list(self.blind)
        if not _covers(frontier, self._settled_by):
            raise_to(blind, self._settled)
        kept = (*self._traces, *pending)
        known = {(trace.rank, trace.number) for trace in kept}
        for rank, (done, held) in enumerate(zip(executed, frontier, strict=True)):
            for number in range(done + 1, held + 1):
                if (rank, number) not in known:
                    blind[rank] = max(blind[rank], number)
        keys: dict[bytes, list[int]] = {}
        intervals: dict[Interval, list[int]] = {}
        for generation in (self._old, self._young):
            if not _covers(frontier, generation.reach):
                # Whoever stands at the frontier may have to decide what these depend on: nothing folded is of use.
                raise_to(blind, generation.top)
                continue
            for key, entry in generation.keys.items():
                keys[key] = list(map(max, keys[key], entry)) if key in keys else entry
            for interval, entry in generation.intervals.items():
                intervals[interval] = list(map(max, intervals[interval], entry)) if interval in intervals else entry
        traces = [
            _Written(
                trace.rank,
                trace.number,
                trace.dependencies,
                tuple(trace.touch.writes),
                tuple(trace.touch.reads),
                trace.touch.ranges,
                trace.touch.written_ranges,
            )
            for trace in kept
        ]
        spans = [(first, last, entry) for (first, last), entry in intervals.items()]
        return _encoder.encode(_Mark(tuple(blind), keys, spans, traces))

    def load(self, mark: bytes, frontier: Sequence[int], applied: Sequence[int]) -> None:
        """Remember what ``mark`` says of the snapshot at ``frontier``; the state stands at ``applied``, and what lies
        between is on the disk. Raises `msgspec.DecodeError`."""
        n = self._n
        self._traces, self._weight = deque(), 0
        self._young, self._old = _Generation(n), _Generation(n)
        self._settled, self._settled_by, self._awaited = [0] * n, [0] * n, None
        if not mark and any(frontier):
            # A snapshot of a release that said nothing about it.
            self.blind = list(map(max, frontier, applied))
            self._unread = [(0, 0)] * n
            return
        self.blind = [0] * n
        self._unread = list(zip(frontier, applied, strict=True))
        if not mark:
            return
        known = _decoder.decode(mark)
        self.blind = list(known.blind)
        generation = self._old
        generation.keys = known.keys
        generation.intervals = {(first, last): entry for first, last, entry in known.intervals}
        generation.size = sum(map(len, known.keys)) + sum(len(first) + len(last) for first, last, _ in known.intervals)
        for entry in (*generation.keys.values(), *generation.intervals.values()):
            raise_to(generation.top, entry[:n])
            raise_to(generation.top, entry[n:])
        generation.reach = list(frontier)
        for trace in known.traces:
            touch = Touch(dict.fromkeys(trace.writes), dict.fromkeys(trace.reads), trace.ranges, trace.written_ranges)
            self._append(Trace(trace.rank, trace.number, trace.dependencies, touch))


def _covers(numbers: Sequence[int], others: Sequence[int]) -> bool:
    return all(number >= other for number, other in zip(numbers, others, strict=True))


def _beyond(rank: int, entry: list[int], place: int, dependencies: Dependencies) -> tuple[int, int] | None:
    for other, number in enumerate(dependencies):
        if other != rank and entry[place + other] > number:
            return other, entry[place + other]
    return None
