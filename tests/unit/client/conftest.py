"""Clusters of doubles, and stores connected to them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from replica.client.options import OptionFields, make_options
from replica.client.store import AsyncStore
from tests.support.doubles import ClusterDouble, DoublePort, serve


@pytest.fixture
def cluster():
    return ClusterDouble(3)


@asynccontextmanager
async def connected(cluster: ClusterDouble, **options: Any) -> AsyncIterator[Any]:
    """A store on doubles in this process; its port is ``store.port``."""
    port = DoublePort(cluster)
    store: Any = AsyncStore("double:", make_options(cast("OptionFields", options)), opener=lambda _url, _options: port)
    store.port = port
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def served():
    """A cluster of doubles, served by a loop in a thread of its own."""
    cluster = ClusterDouble(3)
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with serve(cluster):
            ready.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield cluster
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
async def store(cluster):
    async with connected(cluster) as store:
        yield store
