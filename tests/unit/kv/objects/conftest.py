import pytest

from tests.unit.kv.support import STORES

from .support import Objects


@pytest.fixture(params=sorted(STORES))
def store(request):
    """An empty store, of every kind there is."""
    with STORES[request.param]() as opened:
        yield opened


@pytest.fixture
def objects(store):
    return Objects(store)
