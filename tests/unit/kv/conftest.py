import pytest

from .support import STORES, Replica


@pytest.fixture(params=sorted(STORES))
def store(request):
    """An empty store, of every kind there is."""
    with STORES[request.param]() as opened:
        yield opened


@pytest.fixture
def replica(store):
    return Replica(store)
