"""What can be mutated, and the sample of it that a seed draws."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import msgspec
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

SOURCES = (
    "replica/consensus/multipaxos/*.py",
    "replica/consensus/quorums.py",
    # What MultiPaxos shares with other protocols.
    *(
        f"replica/consensus/{name}.py"
        for name in (
            "ballots",
            "contacts",
            "delivery",
            "intake",
            "rounds",
            "tail",
            "turn",
            "values",
            "window",
            "wishes",
        )
    ),
)

LEFT_OUT = ("planted.py", "__init__.py")

_COMPARISONS = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")

OPERATORS = (
    *(
        f"core/ReplaceComparisonOperator_{one}_{other}"
        for one in _COMPARISONS
        for other in _COMPARISONS
        if one != other
    ),
    "core/ReplaceComparisonOperator_Is_IsNot",
    "core/ReplaceComparisonOperator_IsNot_Is",
    "core/ReplaceAndWithOr",
    "core/ReplaceOrWithAnd",
    "core/ReplaceUnaryOperator_Delete_Not",
    "core/AddNot",
)


class Mutant(msgspec.Struct, frozen=True):
    """One change to one file."""

    path: str
    """Below the root of the tree."""
    operator: str
    occurrence: int
    line: int
    before: str
    """The line as it is."""
    after: str
    """The line as the mutation has it."""

    @property
    def name(self) -> str:
        """What identifies the mutant in `SURVIVORS.md`, whatever its line number has become."""
        return f"{Path(self.path).name}: `{self.before}` → `{self.after}`"

    def source(self, root: Path) -> str:
        """The mutated file."""
        mutated = _mutated((root / self.path).read_text(), self.operator, self.occurrence)
        assert mutated is not None, f"{self.path} has changed since the mutants were drawn"
        return mutated


class Place(msgspec.Struct, frozen=True):
    """Where a mutation applies."""

    path: str
    operator: str
    occurrence: int
    line: int


def all_places(root: Path) -> list[Place]:
    """Every mutation of the sources, in a fixed order."""
    paths = [path for pattern in SOURCES for path in sorted(root.glob(pattern)) if path.name not in LEFT_OUT]
    return [place for path in paths for place in _places_in(path, str(path.relative_to(root)))]


def draw_mutants(root: Path, seed: int, number: int) -> list[Mutant]:
    """A sample of that size, or all if there are not so many."""
    places = all_places(root)
    mutants = []
    for place in random.Random(f"mutants/{seed}").sample(places, min(number, len(places))):
        source = (root / place.path).read_text()
        mutated = _mutated(source, place.operator, place.occurrence)
        assert mutated is not None
        before, after = _first_difference(source, mutated)
        mutants.append(Mutant(place.path, place.operator, place.occurrence, place.line, before, after))
    return mutants


def _places_in(path: Path, name: str) -> Iterator[Place]:
    source = path.read_text()
    excluded = _excluded(source)
    tree = get_ast(source)
    for operator in OPERATORS:
        instance: Any = cosmic_ray.plugins.get_operator(operator)()
        positions = [start for node in ast_nodes(tree) for start, _ in instance.mutation_positions(node)]
        for occurrence, (line, _) in enumerate(positions):
            if line not in excluded:
                yield Place(name, operator, occurrence, line)


def _mutated(source: str, operator: str, occurrence: int) -> str | None:
    mutated: str | None = mutate_code(source, cosmic_ray.plugins.get_operator(operator)(), occurrence)
    return mutated


def _excluded(source: str) -> set[int]:
    """Lines of assertions and of planted bugs."""
    lines = {
        number
        for number, line in enumerate(source.splitlines(), 1)
        if ".bugs" in line or "quorums or quorums_of" in line
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _first_difference(one: str, other: str) -> tuple[str, str]:
    for before, after in zip(one.splitlines(), other.splitlines(), strict=False):
        if before != after:
            return before.strip(), after.strip()
    raise AssertionError("the mutation changes nothing")
