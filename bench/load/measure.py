"""Turns what a generator noted of each operation into time series and histograms.

A generator only appends numbers (`Notes.note`, a fraction of a microsecond); sorting them into windows, kinds and
histograms is done by numpy when the run is over, or when `NOTES_MAX` have been gathered. A histogram is fed with its
own resolution: equal latencies are counted first.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from bench import results
from bench.operations import KINDS
from bench.results import Latencies, Series, Summary

NOTES_MAX: Final = 2_000_000
"""Operations noted before they are folded into the totals."""

Reals = npt.NDArray[np.float64]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run begins and ends, and which part counts; in seconds of the monotonic clock."""

    start: float
    measured_from: float
    measured_to: float
    end: float

    @property
    def measured_s(self) -> float:
        """How long the measured part is."""
        return self.measured_to - self.measured_from


class Measured(msgspec.Struct, kw_only=True):
    """What one generator measured. Histograms by kind and origin, encoded; series in windows from the start."""

    window_s: float
    completed: list[int] = []
    failed: list[int] = []
    unknown: list[int] = []
    windows: list[str] = []
    """A histogram a window, encoded: what percentiles over time are made of."""
    histograms: dict[str, dict[str, str]] = {}
    """By kind, then by origin."""
    operations: int = 0
    """Completed in the measured part."""
    failures: int = 0
    uncertain: int = 0
    total: int = 0
    """Completed in the whole run."""
    gap_s: float = 0.0
    errors: dict[str, int] = {}
    offered: int = 0
    """Intended within the measured part, by an open loop."""
    late_ms: float = 0.0
    """Median of how much later than intended an open loop sent."""


class Notes:
    """Gathers what happens to operations."""

    def __init__(self, window: Window, window_s: float, *, open_loop: bool) -> None:
        self._window = window
        self._width = window_s
        self._open = open_loop
        self._count = max(1, int(np.ceil((window.end - window.start) / window_s)))
        self._ends = array("d")
        self._starts = array("d")
        self._intended = array("d")
        self._kinds = array("B")
        self._windows = [results.new_histogram() for _ in range(self._count)]
        self._completed = np.zeros(self._count, dtype=np.int64)
        self._failed: list[float] = []
        self._unknown: list[float] = []
        self._histograms: dict[str, dict[str, Any]] = {}
        self._operations = 0
        self._total = 0
        self._last = window.measured_from
        self._gap = 0.0
        self._late: list[Reals] = []
        self._offered = 0
        self.errors: dict[str, int] = {}

    def note(self, kind: int, started: float, ended: float) -> None:
        """An operation of a closed loop has been completed."""
        self._kinds.append(kind)
        self._starts.append(started)
        self._ends.append(ended)
        if len(self._ends) >= NOTES_MAX:
            self._fold()

    def note_open(self, kind: int, intended: float, started: float, ended: float) -> None:
        """An operation of an open loop has been completed."""
        self._intended.append(intended)
        self.note(kind, started, ended)

    def failure(self, ended: float, error: Exception, *, unknown: bool) -> None:
        """An operation was refused, or its outcome is unknown."""
        (self._unknown if unknown else self._failed).append(ended)
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1

    def offer(self, intended: float) -> None:
        """An open loop means to send then."""
        if self._window.measured_from <= intended < self._window.measured_to:
            self._offered += 1

    def _fold(self) -> None:
        # Copies: an array that numpy looks into cannot grow.
        ends, starts = np.array(self._ends), np.array(self._starts)
        kinds = np.array(self._kinds)
        intended = np.array(self._intended) if self._open else starts
        for each in (self._ends, self._starts, self._intended, self._kinds):
            del each[:]
        if not len(ends):
            return
        places = self._places(ends)
        self._completed += np.bincount(places, minlength=self._count)
        self._total += len(ends)
        for place in np.unique(places).tolist():
            _feed(self._windows[place], (ends - intended)[places == place])
        counts = (ends >= self._window.measured_from) & (ends < self._window.measured_to)
        self._operations += int(counts.sum())
        self._widen_gap(np.sort(ends[counts]))
        for kind in np.unique(kinds[counts]).tolist():
            of_kind = counts & (kinds == kind)
            histograms = self._histograms.setdefault(KINDS[kind], {})
            for origin, begun in (("sent", starts), ("intended", intended)):
                if origin == "sent" or self._open:
                    histogram = histograms.setdefault(origin, results.new_histogram())
                    _feed(histogram, (ends - begun)[of_kind])
        if self._open:
            self._late.append((starts - intended)[counts])

    def _places(self, times: Reals) -> npt.NDArray[np.int64]:
        places = ((times - self._window.start) / self._width).astype(np.int64)
        return np.clip(places, 0, self._count - 1)

    def _widen_gap(self, ends: Reals) -> None:
        if len(ends):
            self._gap = max(self._gap, float(np.max(np.diff(ends, prepend=self._last))))
            self._last = float(ends[-1])

    def finish(self) -> Measured:
        """Everything, once the run is over."""
        self._fold()
        window = self._window
        failed, unknown = np.array(self._failed), np.array(self._unknown)
        late = np.concatenate(self._late) if self._late else np.zeros(0)
        return Measured(
            window_s=self._width,
            completed=self._completed.tolist(),
            failed=self._counted(failed),
            unknown=self._counted(unknown),
            windows=[results.encode_histogram(each) for each in self._windows],
            histograms={
                kind: {origin: results.encode_histogram(each) for origin, each in origins.items()}
                for kind, origins in self._histograms.items()
            },
            operations=self._operations,
            failures=_within(failed, window),
            uncertain=_within(unknown, window),
            total=self._total,
            gap_s=max(self._gap, window.measured_to - self._last),
            errors=self.errors,
            offered=self._offered,
            late_ms=float(np.median(late)) * 1e3 if len(late) else 0.0,
        )

    def _counted(self, times: Reals) -> list[int]:
        counted: list[int] = np.bincount(self._places(times), minlength=self._count).tolist()
        return counted


def _within(times: Reals, window: Window) -> int:
    return int(((times >= window.measured_from) & (times < window.measured_to)).sum())


def _feed(histogram: Any, seconds: Reals) -> None:
    """Count latencies: those that are the same in microseconds (and beyond three digits, about so) at once."""
    if not len(seconds):
        return
    micros = np.maximum(1, np.rint(seconds * 1e6)).astype(np.int64)
    # Beyond 2 048 µs the histogram tells apart steps of two and more: halve the values that must be counted.
    coarse = np.where(micros >= 1 << 14, micros & ~np.int64(7), micros)
    values, counts = np.unique(coarse, return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(min(value, results.LATENCY_US_MAX), count)


# ---------------------------------------------------------------------------------------------------------- merging


def merge(
    parts: list[tuple[str, Measured]], window: Window, *, open_loop: bool
) -> tuple[Summary, Series, list[Latencies]]:
    """The generators' measurements, each with its region, as one."""
    window_s = parts[0][1].window_s
    count = max(len(part.completed) for _, part in parts)
    series = Series(window_s=window_s)
    series.completed = [sum(part.completed[place] for _, part in parts) for place in range(count)]
    series.failed = [sum(part.failed[place] for _, part in parts) for place in range(count)]
    series.unknown = [sum(part.unknown[place] for _, part in parts) for place in range(count)]
    for region, part in parts:
        if region:
            so_far = series.regions.setdefault(region, [0] * count)
            series.regions[region] = [one + other for one, other in zip(so_far, part.completed, strict=True)]
    for name in series.regions:
        series.region_mean_ms[name] = [
            _mean_ms(part.windows[place] for region, part in parts if region == name) for place in range(count)
        ]
    for place in range(count):
        histogram = results.merge_histograms(part.windows[place] for _, part in parts)
        empty = not histogram.get_total_count()
        series.p50_ms.append(None if empty else results.percentile_ms(histogram, 50))
        series.p99_ms.append(None if empty else results.percentile_ms(histogram, 99))
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for region, part in parts:
        for kind, origins in part.histograms.items():
            for origin, encoded in origins.items():
                grouped.setdefault((region, kind, origin), []).append(encoded)
    latencies = [
        Latencies(
            region=region,
            kind=kind,
            origin="intended" if origin == "intended" else "sent",
            hdr=results.encode_histogram(results.merge_histograms(encoded)),
        )
        for (region, kind, origin), encoded in sorted(grouped.items())
    ]
    return _summary(parts, window, latencies, open_loop=open_loop), series, latencies


def _mean_ms(histograms: Iterable[str]) -> float | None:
    merged = results.merge_histograms(histograms)
    return merged.get_mean_value() / 1e3 if merged.get_total_count() else None


def _summary(
    parts: list[tuple[str, Measured]], window: Window, latencies: list[Latencies], *, open_loop: bool
) -> Summary:
    wanted = "intended" if open_loop else "sent"
    whole = results.merge_histograms(entry.hdr for entry in latencies if entry.origin == wanted)
    operations = sum(part.operations for _, part in parts)
    return Summary(
        operations=operations,
        failed=sum(part.failures for _, part in parts),
        unknown=sum(part.uncertain for _, part in parts),
        throughput=operations / window.measured_s,
        offered=sum(part.offered for _, part in parts) / window.measured_s,
        mean_ms=whole.get_mean_value() / 1e3 if operations else 0.0,
        p50_ms=results.percentile_ms(whole, 50),
        p90_ms=results.percentile_ms(whole, 90),
        p95_ms=results.percentile_ms(whole, 95),
        p99_ms=results.percentile_ms(whole, 99),
        p999_ms=results.percentile_ms(whole, 99.9),
        max_ms=whole.get_max_value() / 1e3 if operations else 0.0,
        gap_s=min(part.gap_s for _, part in parts),
    )
