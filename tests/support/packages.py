"""Installs a package of `tests/packages` as a package manager leaves it behind, without one and without network."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

PACKAGES = Path(__file__).resolve().parents[1] / "packages"


def install(name: str, target: Path) -> Path:
    """Put the package ``name`` with its metadata into ``target``, a directory for the module path; returns it."""
    source = PACKAGES / name
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = target / f"{name}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items())])
        for group, entries in project["entry-points"].items()
    )
    (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return target
