"""A `Store` in memory, for tests and for the simulator.

It keeps the store's contract on crashes: `crash` takes it back to the last `commit`. What that costs is an undo log of
the open transaction, not a copy of everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sortedcontainers import SortedDict

_ABSENT: Final = None


class MemoryStore:
    """Named ordered tables in memory."""

    def __init__(self) -> None:
        self._tables: dict[str, SortedDict] = {}
        self._undo: dict[tuple[str, bytes], bytes | None] = {}
        self.commits = 0
        """How often `commit` was called."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value, or None."""
        found: bytes | None = self._table(table).get(key)
        return found

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Insert or replace."""
        self._remember(table, key)
        self._table(table)[key] = value

    def put_many(self, table: str, items: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        """Insert or replace several. Raises `ValueError` for an ``append`` that is none."""
        rows = self._table(table)
        for key, value in items:
            if append and rows and key <= rows.peekitem(-1)[0]:
                raise ValueError(f"key {key.hex()} does not lie behind the last of table {table!r}")
            self._remember(table, key)
            rows[key] = value

    def delete(self, table: str, key: bytes) -> bool:
        """Remove; True when it was there."""
        self._remember(table, key)
        return self._table(table).pop(key, None) is not None

    def delete_many(self, table: str, keys: Iterable[bytes]) -> None:
        """Remove several; absent ones are passed over."""
        for key in keys:
            self.delete(table, key)

    def seek(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The first item at or behind ``key``."""
        rows = self._table(table)
        index = rows.bisect_left(key)
        return rows.peekitem(index) if index < len(rows) else None

    def seek_before(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """The last item before ``key``; an empty key means the last of the table."""
        rows = self._table(table)
        index = rows.bisect_left(key) if key else len(rows)
        return rows.peekitem(index - 1) if index else None

    def scan(self, table: str, first: bytes, last: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Items in ``[first, last)`` (empty ``last``: to the end). The table must not be written while it runs."""
        rows = self._table(table)
        for key in rows.irange(first, last or None, inclusive=(True, False), reverse=reverse):
            yield key, rows[key]

    def count(self, table: str) -> int:
        """How many items the table holds."""
        return len(self._table(table))

    def clear(self) -> None:
        """Remove everything, as part of the open transaction."""
        for table, rows in self._tables.items():
            for key in rows:
                self._remember(table, key)
            rows.clear()

    def commit(self) -> None:
        """End the open transaction and begin the next."""
        self._undo.clear()
        self.commits += 1

    # ------------------------------------------------------------------------------------- for tests and the simulator

    def crash(self) -> None:
        """Lose everything since the last commit."""
        for (table, key), value in self._undo.items():
            if value is _ABSENT:
                self._table(table).pop(key, None)
            else:
                self._table(table)[key] = value
        self._undo.clear()

    def copy(self) -> MemoryStore:
        """A store of its own with the same contents, the open transaction included, all committed."""
        twin = MemoryStore()
        twin._tables = {table: rows.copy() for table, rows in self._tables.items()}
        return twin

    def committed_copy(self) -> MemoryStore:
        """A store of its own with the contents as of the last commit: what a restart would find."""
        twin = self.copy()
        twin._undo = dict(self._undo)
        twin.crash()
        return twin

    def contents(self) -> dict[str, dict[bytes, bytes]]:
        """Everything, by table and key; tables that are empty are left out."""
        return {table: dict(rows) for table, rows in sorted(self._tables.items()) if rows}

    def _table(self, table: str) -> SortedDict:
        rows = self._tables.get(table)
        if rows is None:
            rows = self._tables[table] = SortedDict()
        return rows

    def _remember(self, table: str, key: bytes) -> None:
        if (table, key) not in self._undo:
            self._undo[table, key] = self._table(table).get(key)
