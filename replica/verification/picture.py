"""A history as a picture: what ran when, in which order it can have taken effect, and where that ends.

One row a client, or several where it had several operations under way; a bar an operation, from its invocation to its
outcome; the linearization as numbers below the bars; the operation that cannot be explained in red. The drawing is SVG
without scripts or references, inside one HTML page that can be sent around.
"""

from __future__ import annotations

from html import escape
from typing import Final

from .history import History, Operation
from .verdict import Report, Verdict, Violation

EXPLAINED_MAX: Final = 8
"""So many operations of the linearization are drawn, the last ones."""

OTHERS_MAX: Final = 6
"""So many others are drawn, the nearest in time to the stuck one."""

LABEL_CHARACTERS_MAX: Final = 34
NAME_CHARACTERS_MAX: Final = 18

_LEFT: Final = 150
_ROW: Final = 50
_BAR: Final = 22
_TOP: Final = 66
_COLUMN: Final = 34
"""Pixels between two moments: bars are drawn in the order of events, not to scale, so that nothing is too short to
read."""
_CHARACTER: Final = 6.2

_COLOURS: Final = {
    "explained": ("#d7ecd9", "#2f7d3b"),
    "stuck": ("#f9d0cd", "#c0281c"),
    "related": ("#fde5c0", "#b26a00"),
    "open": ("#e8e8ee", "#6b6b80"),
    "unknown": ("#ffffff", "#6b6b80"),
}

_LINK: Final = ' (<a href="#stuck">show it in the drawing</a>)'

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; padding: 0 1.5em; color: #1c1c28;
  background: #fff; }
h1 { font-size: 1.4em; margin: 0 0 .3em; }
.verdict { display: inline-block; padding: .1em .6em; border-radius: .3em; color: #fff; }
.violation { background: #c0281c; } .ok { background: #2f7d3b; } .unknown { background: #b26a00; }
.drawing { overflow-x: auto; border: 1px solid #d5d5de; border-radius: .4em; margin: 1em 0; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15em .9em .15em 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .93em; }
tr.stuck td { color: #c0281c; font-weight: 600; }
html { scroll-padding: 6em 40vw; } svg text { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
"""


def draw_report(history: History, report: Report) -> str:
    """A report as an HTML page; with the drawing, if it is of a violation."""
    facts = (
        f"{report.operations} operations of the model <code>{escape(report.model)}</code>, {report.uncertain} of them "
        f"of unknown outcome; parts: {report.parts}; by {report.method}"
        + (f", {report.states} states explored" if report.states else "")
    )
    body = [
        f'<h1><span class="verdict {report.verdict}">{report.verdict}</span> {escape(_title(report))}</h1>',
        f"<p>{escape(report.explanation)}{_LINK if report.violation is not None else ''}</p>",
        f"<p>{facts}.</p>",
    ]
    if report.violation is not None:
        drawing = _Drawing(history, report.violation)
        body.append(f'<div class="drawing">{drawing.svg()}</div>')
        body.append(drawing.legend())
        body.append(drawing.table())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Synod: '
        f"{report.verdict}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def draw_violation(history: History, violation: Violation) -> str:
    """The drawing alone, as an SVG document."""
    return _Drawing(history, violation).svg()


def _title(report: Report) -> str:
    if report.violation is not None:
        return f"on {report.violation.where}"
    return "the history is linearizable" if report.verdict is Verdict.OK else "the history was not judged"


class _Drawing:
    def __init__(self, history: History, violation: Violation) -> None:
        self._violation = violation
        by_id = {operation.id: operation for operation in history.operations}
        self._stuck = by_id[violation.stuck]
        self._numbers = {identifier: number for number, identifier in enumerate(violation.prefix, 1)}
        concerned = [by_id[identifier] for identifier in violation.concerned or (violation.stuck,)]
        always = {violation.stuck, *violation.related}
        concerned += [by_id[identifier] for identifier in always - {each.id for each in concerned}]
        chosen = self._choose(concerned, always)
        self._hidden = len(concerned) - len(chosen)
        self._operations = sorted(chosen, key=lambda each: (each.invoked, each.invoked_line))
        self._faults = history.faults
        self._place_moments()
        self._place_rows()

    def _choose(self, concerned: list[Operation], always: set[int]) -> list[Operation]:
        """Not more than can be read."""
        explained = [each for each in concerned if each.id in self._numbers and each.id not in always]
        explained.sort(key=lambda each: self._numbers[each.id])
        others = [each for each in concerned if each.id not in self._numbers and each.id not in always]
        end = self._stuck.completed if self._stuck.completed is not None else self._stuck.invoked
        others.sort(key=lambda each: (abs(each.invoked - end), each.invoked_line))
        chosen = [each for each in concerned if each.id in always]
        return chosen + explained[-EXPLAINED_MAX:] + others[:OTHERS_MAX]

    def _place_moments(self) -> None:
        """Columns for all invocations and outcomes, wide enough for the labels."""
        moments: list[tuple[float, int]] = []
        for each in self._operations:
            moments.append((each.invoked, each.invoked_line))
            if _ended(each):
                moments.append((each.completed or 0.0, each.completed_line))
        moments.sort()
        self._columns = {line: index for index, (_, line) in enumerate(moments)}
        self._times = [time for time, _ in moments]
        widths = [float(_COLUMN)] * (len(moments) + 1)
        for each in self._operations:
            first, last = self._columns[each.invoked_line], self._last_column(each)
            needed = (len(self._label(each)) + 5) * _CHARACTER
            missing = needed - sum(widths[first:last])
            if missing > 0:
                share = missing / (last - first)
                for column in range(first, last):
                    widths[column] += share
        self._positions = [float(_LEFT)]
        for width in widths:
            self._positions.append(self._positions[-1] + width)
        self._width = self._positions[-1] + 20

    def _last_column(self, operation: Operation) -> int:
        return self._columns[operation.completed_line] if _ended(operation) else len(self._times)

    def _place_rows(self) -> None:
        """A row a client; operations of one client that overlap get rows of their own."""
        self._rows: dict[int, int] = {}
        self._names: list[str] = []
        clients = {str(each.client) for each in self._operations}
        for client in sorted(clients, key=lambda name: (len(name), name)):
            ends: list[int] = []
            first = len(self._names)
            for each in self._operations:
                if str(each.client) != client:
                    continue
                column = self._columns[each.invoked_line]
                lane = next((lane for lane, end in enumerate(ends) if end <= column), len(ends))
                if lane == len(ends):
                    ends.append(0)
                    self._names.append(client if lane == 0 else "")
                ends[lane] = self._last_column(each)
                self._rows[each.id] = first + lane
        self._height = _TOP + _ROW * len(self._names) + 34

    def svg(self) -> str:
        """The whole drawing."""
        width, height = round(self._width), round(self._height)
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img" font-size="11" '
                'font-family="ui-monospace, DejaVu Sans Mono, monospace">'
            ),
            f"<title>{escape(self._violation.reason)}</title>",
            (
                '<defs><pattern id="open" width="6" height="6" patternUnits="userSpaceOnUse" '
                'patternTransform="rotate(45)"><path d="M0 0V6" stroke="#b9b9c8" stroke-width="2"/></pattern></defs>'
            ),
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
        ]
        parts += self._fault_windows()
        for row, name in enumerate(self._names):
            y = _TOP + _ROW * row
            parts.append(f'<path d="M{_LEFT} {y + _ROW - 6}H{width - 10}" stroke="#ececf2"/>')
            if name:
                label = f"client {_cut(name, NAME_CHARACTERS_MAX)}"
                parts.append(f'<text x="10" y="{y + 26}" font-size="12">{escape(label)}</text>')
        parts += self._axis()
        parts += [self._bar(each) for each in self._operations]
        parts.append(self._mark())
        parts.append("</svg>")
        return "".join(parts)

    def _axis(self) -> list[str]:
        """Times at the top, where there is room for them, and the order of events below."""
        parts = [f'<text x="10" y="{_TOP - 14}" fill="#6b6b80">seconds</text>']
        free = 0.0
        origin = self._times[0]
        for index, time in enumerate(self._times):
            x = self._positions[index]
            parts.append(f'<path d="M{x:.1f} {_TOP - 8}v5" stroke="#9a9aab"/>')
            if x >= free:
                label = f"{time:.6g}" if not index else f"+{time - origin:.4g}"
                parts.append(f'<text x="{x:.1f}" y="{_TOP - 14}" fill="#6b6b80">{label}</text>')
                free = x + (len(label) + 2) * _CHARACTER
        return parts

    def _fault_windows(self) -> list[str]:
        """The background of what was wrong meanwhile; what covers the same columns shares a label."""
        windows: dict[tuple[float, float], list[str]] = {}
        for fault in self._faults:
            begin, end = self._moment(fault.time), self._moment(fault.until)
            if begin < end:
                windows.setdefault((begin, end), []).append(f"{fault.kind} {fault.detail}".strip())
        return [self._window(begin, end, labels) for (begin, end), labels in windows.items()]

    def _window(self, begin: float, end: float, labels: list[str]) -> str:
        label = _cut(", ".join(dict.fromkeys(labels)), int((end - begin) / _CHARACTER))
        return (
            f'<rect x="{begin:.1f}" y="22" width="{end - begin:.1f}" height="{self._height - 30:.1f}" fill="#f6ecd9" '
            f'opacity=".6"/><text x="{begin + 4:.1f}" y="36" fill="#8a5a00">{escape(label)}</text>'
        )

    def _moment(self, time: float | None) -> float:
        """Where on the drawing a time lies."""
        if time is None or time >= self._times[-1]:
            return self._positions[len(self._times)]
        before = sum(moment <= time for moment in self._times)
        return self._positions[max(0, before - 1)] if before else self._positions[0]

    def _bar(self, operation: Operation) -> str:
        first, last = self._columns[operation.invoked_line], self._last_column(operation)
        x = self._positions[first]
        width = self._positions[last] - x - 4
        y = _TOP + _ROW * self._rows[operation.id] + 6
        role = self._role(operation)
        fill, stroke = _COLOURS[role]
        dash = "" if _ended(operation) else ' stroke-dasharray="5 3"'
        background = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="4" fill="{fill}" '
        parts = [f'<g><title>{escape(self._full(operation))}</title>{background}stroke="{stroke}"{dash}/>']
        if not _ended(operation):
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1}" width="{width - 2:.1f}" height="{_BAR - 2}" rx="3" '
                'fill="url(#open)" opacity=".45"/>'
            )
        weight = ' font-weight="700"' if role in {"stuck", "related"} else ""
        label = escape(self._label(operation))
        ink = stroke if role == "stuck" else "#1c1c28"
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 15}" fill="{ink}"{weight}>{label}</text>')
        number = self._numbers.get(operation.id)
        if number is not None:
            parts.append(
                f'<text x="{x + 2:.1f}" y="{y + _BAR + 12}" fill="{stroke}" font-size="10" font-weight="700">'
                f"{_ordinal(number)}</text>"
            )
        parts.append("</g>")
        return "".join(parts)

    def _mark(self) -> str:
        """A cross and a line where the linearization ends."""
        column = self._last_column(self._stuck)
        x = self._positions[column] - 4
        y = _TOP + _ROW * self._rows[self._stuck.id] + 6
        text = f"stuck: {_ordinal(len(self._numbers) + 1)} would be next"
        left = x - len(text) * _CHARACTER if x + len(text) * _CHARACTER > self._width else x
        return (
            f'<path id="stuck" d="M{x:.1f} 20V{self._height - 8:.1f}" stroke="#c0281c" stroke-dasharray="2 4"/>'
            f'<path d="M{x - 5:.1f} {y + 6}l10 10m0 -10l-10 10" stroke="#c0281c" stroke-width="2.5"/>'
            f'<text x="{left:.1f}" y="16" fill="#c0281c" font-weight="700">{escape(text)}</text>'
        )

    def _role(self, operation: Operation) -> str:
        if operation.id == self._stuck.id:
            return "stuck"
        if operation.id in self._violation.related:
            return "related"
        if operation.id in self._numbers:
            return "explained"
        return "open" if _ended(operation) else "unknown"

    def _label(self, operation: Operation) -> str:
        return _cut(f"{operation}{_answer(operation)}", LABEL_CHARACTERS_MAX)

    def _full(self, operation: Operation) -> str:
        ended = f"{operation.completed}" if operation.completed is not None else "never"
        return (
            f"operation {operation.id} of client {operation.client}: {operation} — {operation.outcome}"
            f"{_answer(operation)}; from {operation.invoked} (line {operation.invoked_line}) to {ended}"
            + (f" (line {operation.completed_line})" if operation.completed_line else "")
        )

    def legend(self) -> str:
        """What the colours mean."""
        meanings = {
            "explained": "in the longest linearization; the number below is its place there",
            "stuck": "cannot be explained",
            "related": "what it disagrees with",
            "open": "not reached",
            "unknown": "outcome unknown (dashed): may take effect at any time after, or never",
        }
        present = {self._role(each) for each in self._operations}
        items = [
            f'<td><svg width="26" height="14"><rect x="1" y="1" width="24" height="12" rx="3" '
            f'fill="{_COLOURS[role][0]}" stroke="{_COLOURS[role][1]}"/></svg></td><td>{meaning}</td>'
            for role, meaning in meanings.items()
            if role in present
        ]
        rows = "".join(f"<tr>{item}</tr>" for item in items)
        hidden = f" {self._hidden} operations are not drawn." if self._hidden else ""
        return (
            f"<table>{rows}</table><p>Bars are drawn in the order of events, not to scale.{hidden} "
            "Pointing at a bar shows all of it.</p>"
        )

    def table(self) -> str:
        """The linearization drawn, as text, ending in what is stuck."""
        shown = sorted(
            (each for each in self._operations if each.id in self._numbers), key=lambda each: self._numbers[each.id]
        )
        rows = [self._row(str(self._numbers[each.id]), each, "") for each in shown]
        rows.append(self._row("stuck", self._stuck, "stuck"))
        return (
            "<table><tr><th></th><th>operation</th><th>answer</th><th>client</th><th>lines</th></tr>"
            f"{''.join(rows)}</table>"
        )

    def _row(self, number: str, operation: Operation, kind: str) -> str:
        ended = str(operation.completed_line) if _ended(operation) else ""
        answer = _cut(_answer(operation).removeprefix(" → "), 160)
        return (
            f'<tr class="{kind}"><td class="number">{number}</td>'
            f"<td><code>{escape(_cut(str(operation), 160))}</code></td><td><code>{escape(answer)}</code></td>"
            f"<td>{escape(str(operation.client))}</td><td>{operation.invoked_line} to {ended}</td></tr>"
        )


def _ended(operation: Operation) -> bool:
    return operation.outcome == "ok"


def _answer(operation: Operation) -> str:
    if operation.outcome != "ok":
        return " → ?"
    result = operation.result
    if not result:
        return ""
    if len(result) == 1:
        return f" → {next(iter(result.values()))!r}"
    brief = []
    for name, value in result.items():
        if name == "revision":
            brief.append(f"@{value}")
        elif isinstance(value, dict) and "value" in value:
            brief.append(f"{value['value']!r}" + (f" of {value['mod']}" if "mod" in value else ""))
        elif name == "item":
            brief.append("nothing")
        else:
            brief.append(f"{name}={value!r}")
    return f" → {' '.join(brief)}"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: max(0, characters - 1)] + "…"


def _ordinal(number: int) -> str:
    return f"#{number}"
