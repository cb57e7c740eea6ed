"""Ranges of keys, fetched page by page.

All pages are read at one revision, that of the first, so that a long range is a consistent picture.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from replica.client.errors import InvalidArgument
from replica.kv.operations import KEY_BYTES_MAX, KeyValue, Range, Ranged, prefix_end

PAGE_KEYS: Final = 1000
"""Keys asked for at once; the replica may answer with fewer where values are large."""

Text = bytes | str


def as_bytes(text: object) -> bytes:
    """Keys and values may be text; it is stored in UTF-8."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return bytes(text)
    if isinstance(text, bytearray | memoryview):
        return bytes(text)
    raise InvalidArgument(f"keys and values are bytes or str, not {type(text).__name__}")


def interval(prefix: Text | None, first: Text | None, last: Text | None) -> tuple[bytes, bytes]:
    """The half-open interval that a prefix, or two ends, stand for. An empty end means to the end of all keys."""
    if prefix is not None:
        if first is not None or last is not None:
            raise InvalidArgument("a range has a prefix or two ends, not both")
        start = as_bytes(prefix)
        return start, prefix_end(start)
    start, end = as_bytes(first or b""), as_bytes(last or b"")
    if len(start) > KEY_BYTES_MAX or len(end) > KEY_BYTES_MAX:
        raise InvalidArgument(f"the ends of a range have at most {KEY_BYTES_MAX} bytes, like keys")
    return start, end


def behind(key: bytes) -> bytes:
    """The smallest possible key greater than ``key``; empty ("to the end") when there is none.

    A key of full length has no longer one behind it: the next is the first that does not begin with it.
    """
    return key + b"\x00" if len(key) < KEY_BYTES_MAX else prefix_end(key)


class Pages:
    """Which page to ask for next; pure."""

    def __init__(self, operation: Range) -> None:
        self._operation = operation
        self._left = operation.limit
        self.revision = operation.revision or None
        """The revision that all pages show; None before the first, unless it was asked for."""
        self.done = False

    def next(self) -> Range:
        """The operation that fetches the next page."""
        assert not self.done
        count = min(self._left, PAGE_KEYS) if self._operation.limit else PAGE_KEYS
        return msgspec.structs.replace(self._operation, limit=count)

    def take(self, page: Ranged) -> Sequence[KeyValue]:
        """Digest the answer; returns its items."""
        self.revision = self.revision or page.revision
        items = page.items
        self._left -= len(items)
        self.done = not page.more or not items or (self._operation.limit > 0 and self._left <= 0)
        if not self.done:
            edge = items[-1].key
            ends = {"last": edge} if self._operation.reverse else {"first": behind(edge)}
            self._operation = msgspec.structs.replace(self._operation, revision=self.revision, **ends)
            # Behind the greatest possible key, or before the smallest, there is nothing left to ask for.
            self.done = not edge if self._operation.reverse else not self._operation.first
        return items


class AsyncRange:
    """The items of a range, as an asynchronous iterator that fetches pages as they are needed."""

    def __init__(self, pages: Pages, fetch: Callable[[Range], Awaitable[Ranged]]) -> None:
        self._pages = pages
        self._fetch = fetch
        self._items: Sequence[KeyValue] = ()
        self._next = 0

    @property
    def revision(self) -> int | None:
        """The revision that all items show; None before the first page has come."""
        return self._pages.revision

    async def page(self) -> Sequence[KeyValue]:
        """The next page; empty at the end."""
        if self._pages.done:
            return ()
        return self._pages.take(await self._fetch(self._pages.next()))

    async def all(self) -> list[KeyValue]:
        """What is left of the range, as a list."""
        return [item async for item in self]

    def __aiter__(self) -> AsyncRange:
        return self

    async def __anext__(self) -> KeyValue:
        while self._next >= len(self._items):
            if self._pages.done:
                raise StopAsyncIteration
            self._items, self._next = await self.page(), 0
        item = self._items[self._next]
        self._next += 1
        return item
