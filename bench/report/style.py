"""How plots look: one place for colours, sizes and units.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; a target keeps its colour and
its marker through all plots of a report.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["COLOURS", "MARKERS", "STAGE_COLOURS", "Palette", "figure", "rendered", "thousands"]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#444444")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")

STAGE_COLOURS: Final = {
    "way": "#BBBBBB",
    "queue": "#E69F00",
    "batch": "#F0E442",
    "sync": "#D55E00",
    "network": "#56B4E9",
    "quorum": "#0072B2",
    "apply": "#009E73",
}

INK: Final = "#222222"
FAULT: Final = "#B00020"

_STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "synod",
}


class Palette:
    """A colour and a marker for each target, by its place among all of a report."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._place = {label: place for place, label in enumerate(labels)}

    def colour(self, label: str) -> str:
        """Of a target."""
        return COLOURS[self._place.get(label, 0) % len(COLOURS)]

    def marker(self, label: str) -> str:
        """Of a target."""
        return MARKERS[self._place.get(label, 0) % len(MARKERS)]


@contextmanager
def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the house style, inches; nothing of pyplot, so that no state is shared or kept."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        yield made, made.subplots(rows, columns, squeeze=False, **options)


def rendered(made: Any, kind: str = "svg") -> bytes:
    """The figure as a file of that kind; the same bytes for the same figure."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": "synod"} if kind == "svg" else {"Software": "synod"}
    with mpl.rc_context(_STYLE):
        made.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()


def thousands(value: float, _position: object = None) -> str:
    """A number as ticks have it: 1 500, 20 000, 0.5."""
    if value >= 1000 and value == int(value):
        return f"{int(value):,}".replace(",", "\N{THIN SPACE}")
    return f"{value:g}"
