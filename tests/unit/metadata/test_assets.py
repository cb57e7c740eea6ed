"""Versions, aliases, and the end of things."""

import threading

import pytest

from replica.metadata import AliasMoved, InvalidValue, NotFound, Referenced, WrongState


def test_versions_are_numbered_as_they_are_bumped(md):
    bumps = ("revision", "patch", "patch", "revision", "schema", "patch")
    numbers = [md.publish(md.draft("dataset", "iris"), bump=bump).version for bump in bumps]
    assert numbers == ["1.0.0", "1.0.1", "1.0.2", "1.1.0", "2.0.0", "2.0.1"]
    assert [each.version for each in md.versions("iris")] == numbers
    assert md.resolve("iris@latest").version == "2.0.1"
    assert md.resolve("iris").version == "2.0.1"
    assert md.resolve("iris@1.0.2").version == "1.0.2"
    (asset,) = md.assets()
    assert (asset.name, asset.kind, asset.last, asset.count) == ("iris", "dataset", "2.0.1", 6)
    with pytest.raises(NotFound):
        md.resolve("iris@7.0.0")


def test_a_draft_changes_and_a_published_version_does_not(md):
    draft = md.draft("dataset", "iris", uri="a")
    assert md.drafts("iris") == [draft]
    md.update(draft, uri="b", custom={"rows": 150})
    published = md.publish(draft)
    assert (published.uri, published.state, published.name) == ("b", "PUBLISHED", "iris@1.0.0")
    assert md.drafts("iris") == []
    with pytest.raises(WrongState, match="immutable"):
        md.update(published, uri="c")
    with pytest.raises(WrongState, match="already"):
        md.publish(published)


def test_whoever_publishes_at_once_gets_numbers_without_gaps(md):
    drafts = [md.draft("dataset", "iris") for _ in range(6)]
    threads = [threading.Thread(target=md.publish, args=(draft,), kwargs={"bump": "patch"}) for draft in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.version for each in md.versions("iris")] == [f"1.0.{number}" for number in range(6)]


def test_a_package_pins_published_versions(md):
    data = md.publish(md.draft("dataset", "iris"))
    labels = md.draft("annotation", "iris-labels", of=[data])
    with pytest.raises(WrongState, match="DRAFT"):
        md.package("train", [data, labels])
    assert md.assets(kind="package") == []
    package = md.package("train", [data, md.publish(labels)])
    assert package.version == "1.0.0"
    assert {each.name for each in md.lineage(package, direction="up").nodes.values()} == {
        "train@1.0.0", "iris@1.0.0", "iris-labels@1.0.0",
    }  # fmt: skip
    with pytest.raises(InvalidValue, match="is a dataset"):
        md.draft("split", "iris")


def test_what_is_referenced_is_not_purged(md):
    data = md.publish(md.draft("dataset", "iris", uri="s3://iris", digest="d", properties={"rows": 3}))
    package = md.package("train", [data])
    md.alias("prod", package)
    with pytest.raises(WrongState, match="archive it first"):
        md.purge(data)
    md.archive(data)
    with pytest.raises(Referenced, match=r"train@1\.0\.0"):
        md.purge(data)
    md.archive(package)
    with pytest.raises(Referenced, match="alias 'prod'") as raised:
        md.purge(package)
    assert raised.value.by == ("alias 'prod'",)
    md.alias("prod", None)
    md.purge(package)
    gone = md.purge(data)
    assert (gone.state, gone.uri, gone.custom, gone.digest, gone.name) == ("PURGED", "", {}, "d", "iris@1.0.0")
    with pytest.raises(WrongState, match="purged"):
        md.draft("annotation", "late", of=[data])
    assert md.get(package).state == "PURGED"
    assert len(md.lineage(package, direction="up").nodes) == 2


def test_an_artifact_that_a_running_execution_uses_is_not_purged(lab):
    data = lab.put_artifact("Data")
    lab.archive(data)
    with lab.execution("Train", inputs=[data]), pytest.raises(Referenced):
        lab.purge(data)
    assert lab.purge(data).state == "PURGED"
    with pytest.raises(WrongState, match="purged"), lab.execution("Train", inputs=[data]):
        pytest.fail("it began")


def test_a_draft_can_be_thrown_away(md):
    draft = md.draft("dataset", "iris")
    assert md.purge(draft).state == "PURGED"
    assert md.drafts("iris") == []
    assert md.publish(md.draft("dataset", "iris")).version == "1.0.0"


def test_an_alias_moves_by_comparison(md):
    one, two = (md.publish(md.draft("dataset", "iris")) for _ in range(2))
    md.alias("prod", one, if_current=None)
    md.alias("prod", two, if_current=one)
    with pytest.raises(AliasMoved) as raised:
        md.alias("prod", one, if_current=one)
    assert raised.value.current == two.id
    assert md.resolve("prod") == two
    md.alias("iris@stable", one)
    assert md.resolve("iris@stable") == one
    assert md.aliases() == {"prod": two.id, "iris@stable": one.id}
    assert md.aliases(one) == {"iris@stable": one.id}
    for name in ("iris@latest", "iris@1.2.3"):
        with pytest.raises(InvalidValue):
            md.alias(name, one)
    with pytest.raises(WrongState):
        md.alias("draft", md.draft("dataset", "iris"))
