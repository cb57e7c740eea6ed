"""What a check raises."""

from __future__ import annotations


class Violation(AssertionError):
    """A guarantee was broken. ``check`` names which one."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"{check}: {text}")
        self.check = check
