"""The file of golden bytes."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parent / "golden.json"


def load() -> dict[str, list[str]]:
    """Name to hexadecimal texts, oldest first."""
    found: dict[str, list[str]] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return found


def save(known: dict[str, list[str]]) -> None:
    """Write the file, in order of names."""
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
