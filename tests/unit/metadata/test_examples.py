"""The examples on real data run, and leave what they say."""

import pytest

from replica.metadata.check import check
from replica.metadata.picture import tree


def test_digits_go_from_bytes_to_production_and_can_be_traced_back(md):
    pytest.importorskip("sklearn")
    from replica.metadata.examples import digits

    found = digits.project(md)
    best = found.nodes[found.root]
    assert best.properties["accuracy"] > 0.85
    assert md.resolve(digits.PRODUCTION) == best
    names = {node.name for node in found.nodes.values()}
    assert {"digits@1.0.0", "digits-labels@1.0.0", "digits-split@1.0.0", "digits-train@1.0.0"} <= names
    assert [each.state for each in md.find("TrainDigits", order_by="created")] == ["COMPLETE"] * 3 + ["FAILED"]
    run = next(node for node in found.nodes.values() if node.kind == "execution")
    assert [point.step for point in md.metric(run, "accuracy")] == list(range(digits.EPOCHS))
    assert len(tree(found)) >= 6
    # Again, on the same store: new versions, and production moves only to something better.
    again = digits.project(md)
    assert md.resolve("digits-train@latest").version == "1.1.0"
    assert again.nodes[again.root] == best
    assert not md.store.call(lambda inner: check(inner, prefix=md._prefix)).count
