"""What a client saw of one operation, and how it came out."""

from __future__ import annotations

from typing import Final

import msgspec

from replica.kv import operations as kv

OK: Final = "ok"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"
PENDING: Final = "pending"


class Seen(msgspec.Struct):
    """One operation as its client saw it. Times in seconds of the world's time."""

    client: int
    number: int
    operation: kv.AnyOperation
    invoked: float
    consistency: str
    """``log``, ``read-index`` or ``stale``."""
    session: int = 0
    sequence: int = 0
    completed: float | None = None
    outcome: str = PENDING
    result: kv.AnyResult | None = None
