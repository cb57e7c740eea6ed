"""Find and lineage."""

import random
from itertools import pairwise
from typing import Any

import pytest

from replica.metadata import FilterError, InvalidValue, Metadata, UnknownProperty, UnknownType, core, queries


def test_an_index_never_changes_what_is_found(md):
    """The same objects under a type with indexes and one without, and many filters: the answers agree."""
    draw = random.Random(7)
    fields = {"n": int, "x": float, "s": str, "b": bool}
    md.define_type("Plain", properties=fields)
    md.define_type("Indexed", properties=fields, index=["n", "x", "s", "b"])
    texts = ["", "a", "ab", "b", "a" * 64, "a" * 70, "a" * 70 + "b", "é", "z%"]
    for number in range(60):
        properties = {
            "n": draw.choice([-(1 << 60), -3, 0, 1, 2, (1 << 53) + 1, None]),
            "x": draw.choice([-1.5, -0.0, 0.0, 2.0, float("inf"), float("nan"), None]),
            "s": draw.choice([*texts, None]),
            "b": draw.choice([True, False, None]),
        }
        for kind in ("Plain", "Indexed"):
            md.put_artifact(kind, name=f"{number}", properties=properties)
    numbers = ["-3", "0", "1.5", "9007199254740993", "-1152921504606846976"]
    filters = [f"properties.{field} {op} {value}" for field in "nx" for op in ("=", "<", "<=", ">", ">=", "!=")
               for value in numbers]  # fmt: skip
    filters += [f"properties.s {op} '{text}'" for op in ("=", "<", "<=", ">", ">=", "LIKE") for text in texts]
    filters += ["properties.b = TRUE", "properties.s LIKE 'a%'", "properties.n = 1 AND properties.s > 'a'",
                "properties.n > 5 AND properties.n < 2",
                "NOT properties.n = 1", "properties.n IS NULL", "properties.n IN (0, 1)"]  # fmt: skip
    filters += [f"properties.x > {low} AND properties.x <= {high}" for low in numbers[:3] for high in numbers]
    filters += [f"properties.s >= '{low}' AND properties.s < '{high}'" for low in texts[1::3] for high in texts[::2]]
    for each in filters:
        plain, indexed = (
            [found.name for found in md.find(kind, each, order_by="name", limit=100)] for kind in ("Plain", "Indexed")
        )
        assert plain == indexed, each


def test_pages_in_the_order_of_an_index_are_those_of_a_scan(md, monkeypatch):
    monkeypatch.setattr(queries, "FRONT", 4)
    fields = {"n": int, "s": str, "b": bool, "x": float}
    md.define_type("Plain", properties=fields)
    md.define_type("Indexed", properties=fields, index=list(fields))
    draw = random.Random(11)
    with md.load() as load:
        for number in range(24):
            properties = {
                "n": draw.choice([-(1 << 60), -3, 0, (1 << 53) + 1, (1 << 53) + 2, None]),
                "s": draw.choice(["", "a", "a" * 70, "a" * 70 + "b", "é", None]),
                "b": draw.choice([True, False]),
                "x": draw.choice([-0.0, 0.0, 2.0, float("nan")]),
            }
            for kind in ("Plain", "Indexed"):
                load.put_artifact(kind, name=f"{number}", properties=properties)
    for order in [f"{sign}properties.{field}" for sign in ("", "-") for field in fields]:
        for each in ("", "properties.s >= 'a'"):
            plain, indexed = (paged(md, kind, each, order, 9) for kind in ("Plain", "Indexed"))
            assert plain == indexed, (order, each)


def paged(md: Metadata, kind: str, each: str, order: str, limit: int) -> list[str | None]:
    """The names of all pages of a find."""
    names: list[str | None] = []
    token = None
    while True:
        page = md.find(kind, each, order_by=order, limit=limit, page=token)
        names += [found.name for found in page]
        if page.next is None:
            return names
        token = page.next


def test_text_with_a_zero_byte_is_ordered_as_it_is(md, monkeypatch):
    monkeypatch.setattr(queries, "FRONT", 3)
    md.define_type("Indexed", properties={"s": str}, index=["s"])
    texts = ["a\x00\x01", "a", "a\x00", "a\x00", "a\x00b", "b"]
    for number, text in enumerate(texts):
        md.put_artifact("Indexed", name=f"{number}", properties={"s": text})
    for sign in ("", "-"):
        names = paged(md, "Indexed", "", f"{sign}properties.s", 1)
        assert [texts[int(each or 0)] for each in names] == sorted(texts, reverse=bool(sign))


@pytest.mark.parametrize("order", ["id", "-id", "properties.rows", "-properties.rows", "-properties.source"])
def test_a_page_reads_no_more_than_it_needs(store, lab, monkeypatch, order):
    with lab.load() as load:
        for number in range(300):
            load.put_artifact("Data", properties={"rows": number, "source": f"s{number:03}"})
    read = []
    decode = core.object_of

    def counted(item):
        read.append(item)
        return decode(item)

    monkeypatch.setattr(queries, "object_of", counted)
    monkeypatch.setattr(core, "object_of", counted)
    token, seen = None, []
    for _ in range(3):
        page = lab.find("Data", order_by=order, limit=5, page=token)
        seen += [each.properties["rows"] for each in page]
        token = page.next
    assert seen == list(range(15)) if order[0] != "-" else list(range(299, 284, -1))
    assert len(read) <= 3 * 64


def test_pages_show_one_revision_and_miss_nothing(lab):
    made = {lab.put_artifact("Data", name=f"d{n:02}", properties={"rows": n % 5}).id for n in range(25)}
    for order in ("id", "-id", "properties.rows", "-properties.rows", "name", "-name", "-created"):
        seen, token = [], None
        while True:
            page = lab.find("Data", "name LIKE 'd%'", order_by=order, limit=7, page=token)
            seen += page.items
            if page.next is None:
                break
            token = page.next
            lab.put_artifact("Data", name=f"d-later-{order}-{len(seen)}")
        assert len(seen) == len({each.id for each in seen})
        assert made <= {each.id for each in seen}
        values = [getattr(each, order.strip("-"), each.properties.get("rows")) for each in seen]
        values = [each for each in values if each is not None]
        assert values == sorted(values, reverse=order[0] == "-")


def test_a_page_token_belongs_to_its_question(lab):
    for _ in range(3):
        lab.put_artifact("Data")
    token = lab.find("Data", limit=1).next
    with pytest.raises(InvalidValue, match="another question"):
        lab.find("Model", limit=1, page=token)
    with pytest.raises(InvalidValue, match="no page token"):
        lab.find("Data", page="nonsense")


def test_contexts_narrow_a_search(lab):
    one, two = (lab.put_context("Project", name) for name in ("one", "two"))
    first = lab.put_artifact("Data", name="a", contexts=[one, two])
    second = lab.put_artifact("Data", name="b", contexts=[two])
    third = lab.put_artifact("Data", name="c")
    assert lab.find("Data", "context = 'two'").items == (first, second)
    assert lab.find("Data", "context = 'two' AND name = 'b'").items == (second,)
    assert lab.find("Data", "context != 'one'").items == (second, third)
    assert lab.find("Data", "context IS NULL").items == (third,)
    assert lab.find("Data", f"context_id = {one.id}").items == (first,)
    assert lab.find("Data", "context = 'three'").items == ()


def test_members_of_a_context_come_in_pages_in_either_order(lab):
    one, two = lab.put_context("Project", "one"), lab.put_context("Project", "two")
    for number in range(20):
        places = [each for each, step in ((one, 2), (two, 3)) if number % step == 0]
        lab.put_artifact("Data", name=f"{number:02}", contexts=places)
        lab.put_artifact("Model", name=f"{number:02}", contexts=places)
        lab.put_execution("Train", name=f"{number:02}", contexts=places)
    for order in ("id", "-id", "name", "-name"):
        for where, step in (("context = 'one'", 2), (f"context_id = {two.id}", 3)):
            expected = [f"{number:02}" for number in range(0, 20, step)]
            expected = expected[::-1] if order[0] == "-" else expected
            for kind in ("Data", "Model", "Train"):
                assert paged(lab, kind, where, order, 3) == expected
                assert paged(lab, kind, f"{where} AND name > '09'", order, 3) == [
                    each for each in expected if each > "09"
                ]
    both = paged(lab, "Data", "context IN ('one', 'two')", "-id", 4)
    assert both == [f"{number:02}" for number in range(19, -1, -1) if number % 2 == 0 or number % 3 == 0]
    assert paged(lab, "Data", "context = 'one' AND context = 'two'", "id", 1) == ["00", "06", "12", "18"]
    assert len(lab.find(filter="context = 'one'", limit=100)) == 30
    assert not lab.find("Data", "context = 'three'").items


def test_find_reaches_over_types_and_into_the_past(lab):
    data, model = lab.put_artifact("Data", name="x"), lab.put_artifact("Model", name="x")
    before = lab.revision()
    lab.update(data, name="y")
    assert lab.find(filter="name = 'x'").items == (model,)
    assert lab.find(filter="name = 'x'", at=before).items == (data, model)
    assert lab.find(kind="execution").items == ()
    assert [each.id for each in lab.find_all(kind="artifact")] == [data.id, model.id]
    assert lab.find(filter=f"id = {model.id}").items == (model,)


def test_what_cannot_be_asked_is_refused_with_its_position(lab):
    with pytest.raises(UnknownType, match="there are: Data, Model"):
        lab.find("Nothing", kind="artifact")
    with pytest.raises(UnknownProperty, match="position 17"):
        lab.find("Data", "name = 'x' AND properties.colour = 1".replace("AND properties", "AND\n  properties"))
    with pytest.raises(FilterError) as raised:
        lab.find("Data", "properties.rows = 'many'")
    assert raised.value.position == 16
    with pytest.raises(FilterError):
        lab.find("Data", order_by="colour")
    with pytest.raises(InvalidValue):
        lab.find("Data", limit=0)


def chain(lab: Any, length: int) -> list[Any]:
    """Data, train, model, train, model …"""
    nodes: list[Any] = [lab.put_artifact("Data", name="origin")]
    for number in range(length):
        run = lab.put_execution("Train")
        lab.put_input(run, nodes[-1])
        made = lab.put_artifact("Model", name=f"m{number}")
        lab.put_output(run, made)
        nodes += [run, made]
    return nodes


def test_lineage_goes_up_and_down_as_far_as_it_is_told(lab):
    nodes = chain(lab, 5)
    ids = [each.id for each in nodes]
    assert list(lab.lineage(nodes[-1], direction="up", hops=100).nodes) == ids[::-1]
    assert list(lab.lineage(nodes[0], direction="down", hops=100).nodes) == ids
    middle = lab.lineage(nodes[4], direction="both", hops=2)
    assert set(middle.nodes) == set(ids[2:7])
    assert middle.depth[ids[2]] == 2
    assert middle.cut == {ids[2], ids[6]}
    assert {(edge.source, edge.target) for edge in middle.edges} == set(pairwise(ids[2:7]))
    assert lab.lineage(nodes[0], hops=0).nodes == {ids[0]: nodes[0]}


def test_lineage_stops_where_a_filter_says(lab):
    nodes = chain(lab, 5)
    found = lab.lineage(nodes[-1], direction="up", hops=100, stop="name = 'm2'")
    assert list(found.nodes) == [each.id for each in nodes[:5:-1]]
    assert not found.cut


def test_lineage_says_where_it_was_cut(lab):
    data = lab.put_artifact("Data")
    runs = [lab.put_execution("Train") for _ in range(6)]
    for run in runs:
        lab.put_input(run, data)
    found = lab.lineage(data, direction="down", nodes_max=4)
    assert len(found.nodes) == 4
    assert found.cut == {data.id}
    before = found.revision
    assert len(lab.lineage(data, direction="down", at=before).nodes) == 7


def test_lineage_bears_an_execution_that_takes_what_it_makes(lab):
    data, run = lab.put_artifact("Data"), lab.put_execution("Train")
    lab.put_input(run, data)
    lab.put_output(run, data)
    assert len(lab.lineage(data, hops=50).edges) == 2
