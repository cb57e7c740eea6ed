"""The allow-lists of the pure packages, and what importing a package drags in.

import-linter (`make check`) forbids modules by name and follows indirect imports; it cannot say "the standard
library and msgspec, nothing else", nor see what a package's `__init__` loads at run time. This file does.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "_thread",
    "_socket",
    "_random",
}
"""Modules of the standard library with a clock, randomness, I/O or threads."""

ALLOWED = {
    "replica.consensus": {"msgspec"},
    "replica.kv": {"msgspec", "sortedcontainers"},
}
"""What a pure package may import beside the rest of the standard library and itself."""

EXEMPT = {"replica.consensus": {"registry.py": {"importlib", "importlib.metadata", "importlib.util"}}}
"""Files of a pure package that may import more: the registry looks protocols up among the installed packages, which is
what an entry point is for, and no protocol imports it (see below)."""


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Every module named in an import statement anywhere in the source, with its line.

    A relative import is yielded with its dots; a dynamic one by the call that makes it.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, level=0, names=names):
                # `from replica import kv` imports a module, too: judge the longer name.
                if module in {"replica", "bench", "deploy"}:
                    yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
                else:
                    yield node.lineno, module or ""
            case ast.ImportFrom(module=module, level=level):
                yield node.lineno, "." * level + (module or "")
            case ast.Call(func=ast.Name(id="__import__")) | ast.Call(func=ast.Attribute(attr="import_module")):
                yield node.lineno, "importlib"
            case _:
                pass


def offences(package: str, source: str, exempt: frozenset[str] = frozenset()) -> list[tuple[int, str]]:
    """The imports of the source that a module of the package may not have."""
    found = []
    for line, module in imports_of(source):
        top = module.partition(".")[0]
        within = module == package or module.startswith((f"{package}.", "."))
        standard = top in sys.stdlib_module_names and top not in IMPURE and top != "importlib"
        if not (within or standard or top in ALLOWED[package] or module in exempt):
            found.append((line, module))
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_a_pure_package_imports_only_what_it_is_allowed(package):
    root = ROOT / package.replace(".", "/")
    found = {}
    for path in sorted(root.rglob("*.py")):
        exempt = EXEMPT.get(package, {}).get(str(path.relative_to(root)), set())
        if wrong := offences(package, path.read_text(encoding="utf-8"), frozenset(exempt)):
            found[str(path.relative_to(ROOT))] = wrong
    assert not found


def test_the_metadata_store_is_written_against_the_client_alone():
    """And against the vocabulary of operations, which is part of it."""
    allowed = ("replica.metadata", "replica.client", "replica.kv.operations")
    for path in sorted((ROOT / "replica/metadata").rglob("*.py")):
        modules = {module for _, module in imports_of(path.read_text(encoding="utf-8")) if module[:8] == "replica."}
        assert all(module.startswith(allowed) for module in modules), path


def test_no_protocol_imports_the_registry():
    for path in sorted((ROOT / "replica/consensus").rglob("*.py")):
        modules = {module for _, module in imports_of(path.read_text(encoding="utf-8"))}
        assert not any("registry" in module for module in modules), path


@pytest.mark.parametrize(
    "statement",
    [
        "import time",
        "import random as dice",
        "from asyncio import sleep",
        "def f():\n    import socket",
        "from threading import Lock",
        "import grpc",
        "from replica.kv import commands",
        "from replica import storage",
        "import replica.node.metrics",
        "import importlib\nimportlib.import_module('time')",
        "__import__('time')",
    ],
)
def test_a_forbidden_import_in_consensus_is_found(statement):
    assert offences("replica.consensus", statement)


@pytest.mark.parametrize(
    "statement",
    [
        "import msgspec",
        "from collections.abc import Mapping",
        "from replica.consensus.interface import Protocol",
        "from replica.consensus import quorums",
        "from . import messages",
    ],
)
def test_an_allowed_import_in_consensus_passes(statement):
    assert not offences("replica.consensus", statement)


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("replica", {"click", "grpc", "lmdb", "msgspec", "uvloop"}),
        ("replica.consensus", {"grpc", "lmdb", "uvloop"}),
        ("replica.kv", {"grpc", "lmdb", "uvloop"}),
        ("replica.simulation", {"grpc", "lmdb", "uvloop"}),
        ("replica.verification", {"grpc", "lmdb", "replica.kv", "uvloop"}),
        ("replica.client", {"lmdb", "prometheus_client", "replica.consensus", "replica.node", "uvloop"}),
        (
            "replica.metadata",
            {"lmdb", "optuna", "prometheus_client", "replica.consensus", "replica.node", "rich", "uvloop"},
        ),
        ("replica.storage", {"grpc", "lmdb"}),
    ],
)
def test_importing_a_package_loads_nothing_it_must_not(package, absent):
    program = f"import sys, {package}; print(*sorted({absent!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
