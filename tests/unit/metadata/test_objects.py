"""Types, objects and edges."""

import pickle
import threading
from itertools import pairwise

import pytest

from replica.client import ConditionFailed
from replica.metadata import (
    AlreadyExists,
    CyclicParent,
    InvalidValue,
    Metadata,
    NotFound,
    StaleRevision,
    TypeConflict,
    UnitTooLarge,
    UnknownProperty,
    UnknownType,
    WrongLayout,
    WrongValue,
)


def test_a_type_grows_by_additions(md):
    first = md.define_type("Data", properties={"rows": int})
    assert md.define_type("Data", properties={"rows": int}).revision == first.revision
    grown = md.define_type("Data", properties={"source": str})
    assert grown.properties == {"rows": "int", "source": "str"}
    with pytest.raises(TypeConflict, match="rows"):
        md.define_type("Data", properties={"rows": float})


def test_an_index_that_is_added_later_finds_what_was_there_before(md):
    md.define_type("Data", properties={"rows": int, "source": str})
    for number in range(150):
        md.put_artifact("Data", properties={"rows": number, "source": "s"})
    assert md.define_type("Data", index=["rows", "source"]).index == ("rows", "source")
    assert len(md.find("Data", "properties.rows >= 140")) == 10


def test_an_artifact_is_found_as_it_was_put(lab):
    made = lab.put_artifact(
        "Data", name="iris", uri="file:iris", digest="sha256:1", properties={"rows": 150}, custom={"tags": ["a", 1]}
    )
    assert lab.get(made) == made
    assert lab.by_name("Data", "iris") == made
    assert made.created == made.revision


def test_long_names_and_uris_are_as_good_as_short_ones(lab):
    names = ["n" * 1000, "n" * 999 + "m", "ü" * 400]
    made = [lab.put_artifact("Data", name=name, uri="s3://" + name) for name in names]
    assert [lab.by_name("Data", name) for name in names] == made
    assert lab.find("Data", f"uri = 's3://{names[1]}'").items == (made[1],)
    with pytest.raises(InvalidValue):
        lab.put_artifact("Data", name="n" * 1025)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"type": "Nothing"}, UnknownType),
        ({"type": "Data", "properties": {"colour": 1}}, UnknownProperty),
        ({"type": "Data", "properties": {"rows": "many"}}, WrongValue),
        ({"type": "Data", "properties": {"rows": 1.5}}, WrongValue),
        ({"type": "Data", "properties": {"rows": True}}, WrongValue),
        ({"type": "Data", "properties": {"rows": 1 << 63}}, WrongValue),
        ({"type": "Data", "custom": {"x": object()}}, WrongValue),
        ({"type": "Data", "name": ""}, InvalidValue),
        ({"type": "Data", "name": "a\x00b"}, InvalidValue),
        ({"type": "Data", "contexts": [3]}, NotFound),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(lab, arguments, error):
    before = lab.revision()
    with pytest.raises(error) as raised:
        lab.put_artifact(**arguments)
    assert not raised.value.may_have_taken_effect
    assert "it had no effect" in str(raised.value)
    assert not list(lab.find_all(at=lab.revision()))
    assert lab.types(at=before) == lab.types()


def test_a_name_is_borne_once_among_its_type(lab):
    made = lab.put_artifact("Data", name="x")
    with pytest.raises(AlreadyExists) as raised:
        lab.put_artifact("Data", name="x")
    assert raised.value.id == made.id
    lab.put_artifact("Model", name="x")
    lab.put_artifact("Data", external_id="e")
    with pytest.raises(AlreadyExists, match="external id"):
        lab.put_context("Project", "p", external_id="e")


def test_of_many_who_create_one_name_one_does(lab):
    outcomes = []

    def create():
        try:
            outcomes.append(lab.put_artifact("Data", name="contested").id)
        except AlreadyExists as error:
            outcomes.append(-error.id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({abs(each) for each in outcomes}) == 1
    assert sum(each > 0 for each in outcomes) == 1


def test_concurrent_updates_of_different_properties_all_take_effect(lab):
    made = lab.put_artifact("Data")
    threads = [threading.Thread(target=lab.update, args=(made,), kwargs={"custom": {f"p{n}": n}}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lab.get(made).custom == {f"p{n}": n for n in range(8)}


def test_an_update_moves_names_and_index_entries(lab):
    made = lab.put_artifact("Data", name="old", properties={"rows": 1, "source": "a"})
    after = lab.update(made, name="new", properties={"rows": 2, "source": None}, uri="u")
    assert after.properties == {"rows": 2}
    assert lab.find("Data", "properties.rows = 1").items == ()
    assert lab.find("Data", "properties.rows = 2 AND uri = 'u'").items == (after,)
    with pytest.raises(NotFound):
        lab.by_name("Data", "old")
    lab.put_artifact("Data", name="old")
    with pytest.raises(ConditionFailed):
        lab.update(made, custom={"x": 1}, if_revision=made.revision)


def test_edges_stand_at_both_ends_and_need_both_nodes(lab):
    data, run = lab.put_artifact("Data"), lab.put_execution("Train")
    lab.put_input(run, data, role="train")
    (edge,) = lab.edges(data)
    assert (edge,) == tuple(lab.edges(run))
    assert (edge.source, edge.target, edge.kind, edge.role) == (data.id, run.id, "input", "train")
    with pytest.raises(NotFound):
        lab.put_output(run, data.id + 1)
    with pytest.raises(InvalidValue, match="not execution"):
        lab.put_input(data, data)


def test_contexts_have_members_and_parents(lab):
    top = lab.put_context("Project", "top")
    low = lab.put_context("Project", "low", parents=[top])
    data = lab.put_artifact("Data", contexts=[low])
    run = lab.put_execution("Train")
    lab.associate(run, low)
    lab.attribute(data, top)
    assert {each.id for each in lab.members_of(low)} == {data.id, run.id}
    assert {each.id for each in lab.contexts_of(data)} == {low.id, top.id}
    assert lab.parents_of(low) == [top]
    assert lab.children_of(top) == [low]


def test_a_context_cannot_become_its_own_ancestor(lab):
    chain = [lab.put_context("Project", f"c{number}") for number in range(5)]
    for child, parent in pairwise(chain):
        lab.add_parent(child, parent)
    with pytest.raises(CyclicParent):
        lab.add_parent(chain[-1], chain[0])
    with pytest.raises(CyclicParent):
        lab.add_parent(chain[0], chain[0])
    assert lab.parents_of(chain[-1]) == []


def test_of_two_links_that_would_close_a_cycle_one_is_made(lab):
    left, right = lab.put_context("Project", "l"), lab.put_context("Project", "r")
    refused = []

    def link(child, parent):
        try:
            lab.add_parent(child, parent)
        except CyclicParent:
            refused.append(child)

    threads = [threading.Thread(target=link, args=pair) for pair in ((left, right), (right, left))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1


def test_more_than_a_transaction_takes_is_refused_before_it_is_sent(lab):
    contexts = [lab.put_context("Project", f"c{number}") for number in range(90)]
    with pytest.raises(UnitTooLarge, match="256"):
        lab.put_artifact("Data", contexts=contexts)


def test_a_revision_that_was_compacted_is_stale(lab):
    made = lab.put_artifact("Data", name="x")
    before = lab.revision()
    lab.update(made, custom={"a": 1})
    after = lab.update(made, custom={"a": 2})
    assert lab.get(made, at=before) == made
    lab.store.compact(after.revision)
    with pytest.raises(StaleRevision) as raised:
        lab.get(made, at=before)
    assert raised.value.revision
    with pytest.raises(StaleRevision):
        list(lab.diff(before, after.revision))
    history = lab.history(made)
    assert history.states == (after,)
    assert not history.complete


def test_history_and_difference_tell_what_changed(lab):
    made = lab.put_artifact("Data", name="x", properties={"rows": 1})
    start = lab.revision()
    second = lab.update(made, properties={"rows": 2})
    other = lab.put_artifact("Model", name="m")
    assert lab.history(made).states == (second, made)
    assert lab.history(made).complete
    changes = {change.after.id: change for change in lab.diff(start, lab.revision())}
    assert changes.keys() == {made.id, other.id}
    assert changes[made.id].before == made
    assert changes[made.id].after == second
    assert changes[other.id].created
    assert [change.after.id for change in lab.diff(start, lab.revision(), type="Model")] == [other.id]


def test_a_watch_hears_of_each_change_once_and_in_order(lab):
    with lab.watch("Data") as changes:
        made = lab.put_artifact("Data", name="x")
        lab.put_artifact("Model")
        after = lab.update(made, custom={"a": 1})
        first, second = changes.next(timeout_s=30), changes.next(timeout_s=30)
    assert (first.before, first.after, first.created) == (None, made, True)
    assert (second.before, second.after) == (made, after)
    with lab.watch(kind="artifact", revision=after.revision) as changes:
        assert changes.next(timeout_s=30).after == after


def test_the_audit_trail_tells_who_did_what_in_order(lab):
    made = lab.put_artifact("Data", name="x")
    after = lab.update(made, custom={"a": 1})
    trail = list(lab.audit(made))
    assert [(each.action, each.actor, each.revision) for each in trail] == [
        ("put artifact", "tester", made.revision),
        ("update", "tester", after.revision),
    ]
    assert list(lab.audit(made, since=after.revision)) == trail[1:]
    revisions = [each.revision for each in lab.audit()]
    assert revisions == sorted(revisions)


def test_metrics_are_appended_in_batches_and_read_by_steps(lab):
    run = lab.put_execution("Train")
    count = lab.log_metrics(run, {"loss": [(step, 1 / (step + 1)) for step in range(10_000)], "acc": [(5, 0.5, 17)]})
    assert count == 10_001
    assert lab.metric_names(run) == ["acc", "loss"]
    found = list(lab.metric(run, "loss", first=4090, last=4100))
    assert [point.step for point in found] == list(range(4090, 4100))
    assert len(list(lab.metric(run, "loss"))) == 10_000
    lab.log_metrics(run, {"loss": [(3, 7.0, 1)]})
    assert len(list(lab.metric(run, "loss", first=3, last=4))) == 2
    with pytest.raises(NotFound):
        lab.log_metrics(run.id + 1, {"loss": [(1, 1.0)]})
    with pytest.raises(InvalidValue):
        lab.log_metrics(run, {"loss": [(-1, 1.0)]})


def test_it_can_be_pickled(lab, store):
    copy = pickle.loads(pickle.dumps(Metadata(store, prefix="other/", actor="me")))
    assert (copy._prefix, copy._actor, copy.store.url) == ("other/", "me", "memory:")


def test_a_layout_of_another_version_is_refused(store):
    store.put("future/layout", "99")
    with pytest.raises(WrongLayout, match="99"):
        Metadata(store, prefix="future/").types()


def test_writes_of_a_client_that_the_layout_has_moved_past_are_void(store):
    md = Metadata(store, prefix="moved/")
    md.define_type("Data")
    store.put("moved/layout", "2")
    with pytest.raises(WrongLayout):
        md.put_artifact("Data", name="x")
    assert store.get("moved/n/0001/=x") is None
