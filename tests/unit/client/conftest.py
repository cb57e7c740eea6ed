"""Clusters of doubles, and stores connected to them."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from replica.client.options import make_options
from replica.client.store import AsyncStore
from tests.support.doubles import ClusterDouble, DoublePort


@pytest.fixture
def cluster():
    return ClusterDouble(3)


@asynccontextmanager
async def connected(cluster: ClusterDouble, **options):
    """A store on doubles in this process; its port is ``store.port``."""
    port = DoublePort(cluster)
    store = AsyncStore("double:", make_options(options), opener=lambda _url, _options: port)
    store.port = port
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(cluster):
    async with connected(cluster) as store:
        yield store
