"""Figures in words, the same in a terminal and on a page."""

from __future__ import annotations

from typing import Final

from bench.report.data import Mark, PointView
from bench.results import Estimate, RunResult

__all__ = ["SYMBOLS", "interval", "latency", "number", "ratio_text", "share_text", "verdict_short", "verdict_text"]

SYMBOLS: Final[dict[Mark, str]] = {
    "checked": "✓",
    "violation": "✗",
    "unknown": "?",
    "not applicable": "–",
    "failed": "✗",
}


def number(value: float) -> str:
    """Three significant digits, or whole thousands with a thin space between them."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def interval(found: Estimate | None) -> str:
    """A mean, and half the width of its interval."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return number(found.mean)
    half = (found.high - found.low) / 2
    if half <= found.mean / 1000:
        return f"{number(found.mean)} ± 0"
    return f"{number(found.mean)} ± {number(half) if half >= 100 else f'{half:.2g}'}"


def latency(found: Estimate | None) -> str:
    """Milliseconds."""
    return "–" if found is None else interval(found)


def ratio_text(found: Estimate | None) -> str:
    """A ratio with its interval."""
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}×"
    return f"{found.mean:.2f}× ({found.low:.2f}–{found.high:.2f})"


def share_text(found: Estimate | None) -> str:
    """A share of all, in per cent, with half the width of its interval."""
    if found is None:
        return "–"
    text = _share(found.mean) if found.mean else "0%"
    if found.low is None or found.high is None:
        return text
    return f"{text} ± {100 * (found.high - found.low) / 2:.2g}"


def _share(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 else f"{100 * value:.2g}%"


def verdict_text(point: PointView) -> str:
    """The verdict with the share that was judged."""
    mark = point.mark
    if mark == "checked":
        return f"{SYMBOLS[mark]} linearizable ({_share(point.sampled)} judged)"
    texts = {
        "violation": "WRONG",
        "unknown": "unknown",
        "not applicable": "not applicable",
        "failed": "no figures",
    }
    return f"{SYMBOLS[mark]} {texts[mark]}"


def verdict_short(point: PointView) -> str:
    """The same for a narrow column."""
    text = verdict_text(point)
    return text.replace("linearizable (", "").replace(" judged)", "")


def gap_text(run: RunResult) -> str:
    """How long a run with faults stood still at most, and whether what it acknowledged was there afterwards."""
    gap = f"the longest time without a completed operation was {run.summary.gap_s * 1000:,.0f} ms"
    verdict = run.verdict
    if not verdict.good:
        return gap
    return f"{gap}; nothing acknowledged was lost, by the {_share(verdict.sampled)} of the operations that were judged"
