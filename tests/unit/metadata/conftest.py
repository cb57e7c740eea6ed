"""A metadata store on one replica in this process, for each test under a prefix of its own."""

import itertools

import pytest

from replica.client import connect
from replica.metadata import Metadata
from replica.metadata.check import check

NUMBERS = itertools.count(1)


@pytest.fixture(scope="package")
def store():
    with connect("memory:") as connected:
        yield connected


@pytest.fixture
def md(store):
    """At the end of each test the checker walks over what it has left."""
    prefix = f"md{next(NUMBERS)}/"
    metadata = Metadata(store, prefix=prefix, actor="tester")
    yield metadata
    report = store.call(lambda inner: check(inner, prefix=prefix))
    assert not report.count, report.faults


@pytest.fixture
def lab(md):
    """A store with the usual types."""
    md.define_type("Data", properties={"rows": int, "source": str}, index=["rows", "source", "uri"])
    md.define_type("Model", properties={"acc": float, "good": bool}, index=["acc"])
    md.define_type("Train", kind="execution", properties={"epochs": int})
    md.define_type("Project", kind="context")
    return md
