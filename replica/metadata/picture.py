"""Lineage for people: as a tree of text, as a Graphviz graph, and, where Graphviz is installed, as an SVG picture.

Artifacts are boxes, executions rounded, contexts dashed; colour says the state, and a node beyond which there is more
ends in "…". The graph runs from left to right, downstream.
"""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from replica.client.errors import NotCommitted
from replica.metadata.model import SERIAL_BITS, AnyObject, Artifact, Context, Edge, Execution, Lineage

LINES_MAX: Final = 10_000
"""Lines of a tree."""

DRAWING_TIMEOUT_S: Final = 60.0
VALUE_CHARACTERS_MAX: Final = 24
VALUES_SHOWN: Final = 3

COLOURS: Final[Mapping[str, str]] = {
    "LIVE": "#dbeafe",
    "DRAFT": "#fef9c3",
    "PUBLISHED": "#dcfce7",
    "ARCHIVED": "#e5e7eb",
    "PURGED": "#ffffff",
    "RUNNING": "#fef9c3",
    "COMPLETE": "#ede9fe",
    "FAILED": "#fecaca",
    "CANCELED": "#e5e7eb",
}


class NoGraphviz(NotCommitted):
    """There is no program ``dot``, or it would not draw."""

    advice = "install Graphviz, or use the graph itself (--dot)"


def line(of: AnyObject) -> str:
    """An object in a line: label, state, and what it was made with."""
    state = getattr(of, "state", "")
    values = " ".join(f"{name}={_short(value)}" for name, value in sorted(of.properties.items())[:VALUES_SHOWN])
    quiet = state in {"", "LIVE", "COMPLETE"}
    return " ".join(part for part in (of.label, f"({of.id})", "" if quiet else state, values) if part)


def tree(found: Lineage) -> list[str]:
    """The lineage as lines, from its root; what was shown already is named and not gone into again."""
    lines = [line(found.nodes[found.root])]
    directions = {"up": ("up",), "down": ("down",), "both": ("up", "down")}[found.direction]
    for direction in directions:
        if len(directions) > 1:
            lines.append("↑ made from" if direction == "up" else "↓ made into")
        _branches(found, direction, lines)
    return lines


def _branches(found: Lineage, direction: str, lines: list[str]) -> None:
    beyond: dict[int, list[tuple[Edge, int]]] = {}
    for edge in found.edges:
        here, there = (edge.target, edge.source) if direction == "up" else (edge.source, edge.target)
        beyond.setdefault(here, []).append((edge, there))
    seen = {found.root}
    # A stack rather than recursion: a chain of models may be long.
    stack = [(edge, there, "", at == len(beyond[found.root]) - 1) for at, (edge, there) in
             enumerate(beyond.get(found.root, []))][::-1]  # fmt: skip
    while stack:
        edge, node, indent, last = stack.pop()
        if len(lines) >= LINES_MAX:
            lines.append("…")
            return
        again = node in seen
        role = f"[{edge.role}] " if edge.role else ""
        more = " (see above)" if again and beyond.get(node) else " …" if node in found.cut else ""
        lines.append(f"{indent}{'└─ ' if last else '├─ '}{role}{line(found.nodes[node])}{more}")
        if again:
            continue
        seen.add(node)
        inner = indent + ("   " if last else "│  ")
        branches = beyond.get(node, [])
        stack += [(each, there, inner, at == len(branches) - 1) for at, (each, there) in enumerate(branches)][::-1]


def dot(found: Lineage) -> str:
    """The lineage in the language of Graphviz."""
    lines = [
        "digraph lineage {",
        '  rankdir=LR; bgcolor="white"; nodesep=0.25; ranksep=0.5;',
        '  node [fontname="Helvetica" fontsize=11 style="filled" color="#475569" margin="0.15,0.08"];',
        '  edge [fontname="Helvetica" fontsize=9 fontcolor="#334155" color="#64748b" arrowsize=0.7];',
        "  edge [headport=w tailport=e];",
    ]
    for identity, node in found.nodes.items():
        shape, style = _look(node)
        fill = COLOURS.get(getattr(node, "state", ""), "#ffffff")
        width = ' penwidth="2.5"' if identity == found.root else ""
        label, tip = _label(node, identity in found.cut), _quoted(line(node))
        lines.append(
            f'  n{identity} [shape={shape} style="{style}" fillcolor="{fill}"{width} label=<{label}> tooltip={tip}];'
        )
    for edge in found.edges:
        attributes = [f"label={_quoted(edge.role)}"] if edge.role else []
        attributes += ["style=dashed"] if edge.kind == "dependency" else []
        lines.append(f"  n{edge.source} -> n{edge.target} [{' '.join(attributes)}];")
    return "\n".join([*lines, "}", ""])


def svg(graph: str) -> bytes:
    """A picture of a graph. Raises `NoGraphviz`."""
    program = shutil.which("dot")
    if program is None:
        raise NoGraphviz("there is no program dot on the path")
    try:
        drawn = subprocess.run(
            [program, "-Tsvg"], input=graph.encode(), capture_output=True, timeout=DRAWING_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGraphviz(f"dot would not draw: {error}") from None
    return drawn.stdout


def _look(node: AnyObject) -> tuple[str, str]:
    match node:
        case Artifact():
            return "box", "filled"
        case Execution():
            return "box", "filled,rounded"
        case Context():
            return "box", "filled,dashed"


def _label(node: AnyObject, cut: bool) -> str:
    """What stands in a node, as Graphviz has text with fonts: the type, the name, a few values, the state."""
    state = getattr(node, "state", "")
    parts = [f"<b>{_escaped(node.type)}</b>", _escaped(node.name or f"#{node.id & (1 << SERIAL_BITS) - 1}")]
    values = [f"{name} = {_short(value)}" for name, value in sorted(node.properties.items())[:VALUES_SHOWN]]
    parts += [f'<font point-size="9" color="#334155">{_escaped(each)}</font>' for each in values]
    if state not in {"", "LIVE", "COMPLETE"}:
        parts.append(f'<font point-size="9"><i>{_escaped(state)}</i></font>')
    return "<br/>".join([*parts, *(["…"] if cut else [])])


def _escaped(text: str) -> str:
    return html.escape(_printable(text))


def _printable(text: str) -> str:
    """Text as XML can carry it."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def _quoted(text: str) -> str:
    escaped = _printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
