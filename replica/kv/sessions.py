"""Sessions: what makes a retried operation take effect once.

A session is registered through the log and named by a counter, so every replica gives it the same id. A client numbers
its operations from 1 in the session and may have `SESSION_WINDOW` of them outstanding, counted from the last one whose
results, and those of all before, it holds (``acknowledged``). The session remembers every executed sequence above that
mark together with its result. It remembers a *set*, not a maximum: with several runs under way, a retry of 5 may well
be decided after 7.

Runs are remembered whole. One that consists of successful puts and nothing else, the usual case, is remembered as the
revision of its first put, and such runs that continue each other as one. Any other is remembered as its encoded
results, with nil in the place of reads: what a read answered is not remembered, it is executed again.

Everything here is a function of the log: the bounds, too, so what is forgotten is forgotten everywhere.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec

from .layout import SESSIONS, CorruptState, pack_revision
from .operations import SESSION_WINDOW, AnyResult, Written
from .store import Store

SESSIONS_MAX: Final = 1024
"""Sessions that exist at once; a further one evicts the one that was used least recently."""

RESULTS_BYTES_MAX: Final = 1 << 20
"""Encoded results that one session keeps; beyond it the oldest are forgotten (but not that they were executed)."""


class Recorded(msgspec.Struct, array_like=True, gc=False):
    """An executed run: ``count`` sequences from ``first`` on.

    Their results are puts at consecutive revisions from ``revision`` on; or, if that is 0, ``results``, an array with
    nil for reads; or, if that is None, too, forgotten.
    """

    first: int
    count: int
    revision: int = 0
    results: bytes | None = None


class Session(msgspec.Struct, array_like=True):
    """One session. ``touched`` orders sessions by their last use; ``runs`` are disjoint and ascend."""

    touched: int
    acknowledged: int = 0
    runs: list[Recorded] = []
    kept_bytes: int = 0

    def acknowledge(self, sequence: int) -> None:
        """The client holds all results up to ``sequence``."""
        if sequence <= self.acknowledged:
            return
        self.acknowledged = sequence
        passed = 0
        for run in self.runs:
            if run.first + run.count - 1 > sequence:
                break
            passed += 1
            if run.results is not None:
                self.kept_bytes -= len(run.results)
        if passed:
            del self.runs[:passed]
        if self.runs:
            # Puts that continue each other are one run, which would grow for as long as the session lives.
            oldest = self.runs[0]
            behind = sequence + 1 - oldest.first
            if behind > 0 and oldest.revision:
                oldest.first += behind
                oldest.count -= behind
                oldest.revision += behind

    def is_fresh(self, first: int, count: int) -> bool:
        """Do these sequences all lie in the window and behind everything executed so far?"""
        if first <= self.acknowledged or first + count - 1 > self.acknowledged + SESSION_WINDOW:
            return False
        if not self.runs:
            return True
        newest = self.runs[-1]
        return first >= newest.first + newest.count

    def find(self, sequence: int) -> Recorded | None:
        """The executed run that holds ``sequence``."""
        index = bisect_right(self.runs, sequence, key=_first) - 1
        if index < 0:
            return None
        run = self.runs[index]
        return run if sequence < run.first + run.count else None

    def record_puts(self, first: int, count: int, revision: int) -> None:
        """Remember a run of puts at consecutive revisions. None of its sequences was executed before."""
        runs = self.runs
        if not runs or first >= runs[-1].first + runs[-1].count:
            if runs:
                newest = runs[-1]
                offset = first - newest.first
                if offset == newest.count and newest.revision and revision == newest.revision + offset:
                    newest.count += count
                    return
            runs.append(Recorded(first, count, revision))
            return
        self._insert(Recorded(first, count, revision))

    def record_results(self, first: int, count: int, results: bytes) -> None:
        """Remember a run by its encoded results (nil for reads). None of its sequences was executed before."""
        self._insert(Recorded(first, count, 0, results))
        self.kept_bytes += len(results)
        for run in self.runs:
            if self.kept_bytes <= RESULTS_BYTES_MAX:
                break
            if run.results is not None:
                self.kept_bytes -= len(run.results)
                run.results = None

    def _insert(self, run: Recorded) -> None:
        self.runs.insert(bisect_right(self.runs, run.first, key=_first), run)


class _Counters(msgspec.Struct, array_like=True):
    """What the sessions have in common: the next id, and the clock by which they are touched."""

    next_id: int = 1
    touches: int = 0


_encode = msgspec.msgpack.Encoder().encode
_session = msgspec.msgpack.Decoder(Session)
_counters = msgspec.msgpack.Decoder(_Counters)
_results: Final = msgspec.msgpack.Decoder(list[AnyResult | None])

_COUNTERS_KEY: Final = pack_revision(0)  # sessions count from 1


class Sessions:
    """The table of sessions, held in memory and written to the store at each commit."""

    def __init__(self, store: Store, *, sessions_max: int = SESSIONS_MAX) -> None:
        self._store = store
        self._max = sessions_max
        self.reload()

    def reload(self) -> None:
        """Forget everything held in memory and read the store. Raises `CorruptState`."""
        self._counters = _Counters()
        self._sessions: dict[int, Session] = {}
        self._dirty: dict[int, None] = {}
        for key, data in self._store.scan(SESSIONS, b"", b""):
            try:
                if key == _COUNTERS_KEY:
                    self._counters = _counters.decode(data)
                else:
                    self._sessions[int.from_bytes(key, "big")] = _session.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise CorruptState(SESSIONS, key, str(error)) from None

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: int) -> bool:
        return session in self._sessions

    def use(self, session: int) -> Session | None:
        """The session, marked as the one used last; None for one that was evicted, closed or never opened."""
        found = self._sessions.get(session)
        if found is not None:
            self._counters.touches = found.touched = self._counters.touches + 1
            self._dirty[session] = None
        return found

    def open(self) -> tuple[int, int]:
        """Register a session; returns its id and that of the session evicted for it (0: none)."""
        evicted = 0
        if len(self._sessions) >= self._max:
            evicted = min(self._sessions, key=lambda each: self._sessions[each].touched)
            self.close(evicted)
        counters = self._counters
        opened = counters.next_id
        counters.next_id += 1
        counters.touches += 1
        self._sessions[opened] = Session(counters.touches, runs=[])
        self._dirty[opened] = None
        return opened, evicted

    def close(self, session: int) -> bool:
        """Forget the session; False when there was none."""
        if self._sessions.pop(session, None) is None:
            return False
        self._dirty[session] = None
        return True

    def save(self) -> None:
        """Write what has changed since the last call to the store."""
        if not self._dirty:
            return
        records = []
        for session in sorted(self._dirty):
            key = pack_revision(session)
            found = self._sessions.get(session)
            if found is None:
                self._store.delete(SESSIONS, key)
            else:
                records.append((key, _encode(found)))
        records.append((_COUNTERS_KEY, _encode(self._counters)))
        self._store.put_many(SESSIONS, records)
        self._dirty.clear()

    def canonical(self) -> bytes:
        """All sessions as bytes that are equal on replicas at equal positions."""
        return _encode([self._counters, sorted(self._sessions.items())])


def recall(run: Recorded) -> list[AnyResult | None] | None:
    """The results of an executed run, None for reads; None for all when they are forgotten."""
    if run.revision:
        return [Written(revision) for revision in range(run.revision, run.revision + run.count)]
    return None if run.results is None else _results.decode(run.results)


def _first(run: Recorded) -> int:
    return run.first
