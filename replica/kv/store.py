"""The port beneath the state machine: ordered tables of bytes with one open write transaction.

The state machine stands on this and nothing else; `replica.storage` offers it on LMDB, and `MemoryStore` (in
`replica.kv.memory`) in memory for the simulator and for tests. Reads see what was written since the last `commit`.
Everything written between two commits becomes visible to a restart together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol


class Reader(Protocol):
    """Named ordered tables, bytes to bytes, to be read. A table that is not there is an empty one."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""

    def seek(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The first item at or behind ``key``."""

    def seek_before(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The last item before ``key``; an empty key means the last of the table."""

    def scan(self, table: str, first: bytes, last: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Items in ``[first, last)`` (empty ``last``: to the end). The table must not be written while it runs."""

    def count(self, table: str) -> int:
        """How many items the table holds."""


class Store(Reader, Protocol):
    """Tables that can be written, too. Keys are at most 511 bytes. Not thread-safe."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Insert or replace."""

    def put_many(self, table: str, items: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Insert or replace several; ``append`` promises ascending keys behind the last one of the table."""

    def delete(self, table: str, key: bytes) -> bool:
        """Remove; True when it was there."""

    def delete_many(self, table: str, keys: Iterable[bytes]) -> None:
        """Remove several; absent ones are passed over."""

    def clear(self) -> None:
        """Remove everything, as part of the open transaction."""

    def commit(self) -> None:
        """End the open transaction (visible to a restart of the process) and begin the next."""
