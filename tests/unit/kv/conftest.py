import pytest

from .support import STORES, Replica


@pytest.fixture(params=sorted(STORES))
def store(request):
    """An empty store, of every kind there is."""
    return STORES[request.param]()


@pytest.fixture
def replica(store):
    return Replica(store)
