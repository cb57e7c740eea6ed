"""The flowchart leads where the study's does."""

import pytest

from bench.model import ModelError
from bench.model.advice import LEAVES, QUESTIONS, Advice, Question, advise, extrapolations

WAYS = [
    ({"consensus": False}, "atomic-storage"),
    ({"consensus": True, "wan": False, "read-heavy": True}, "lan-leaderless"),
    ({"consensus": True, "wan": False, "read-heavy": False}, "lan-leader"),
    ({"consensus": True, "wan": True, "locality": False}, "wan-leaderless"),
    ({"consensus": True, "wan": True, "locality": True, "dynamic": False}, "paxos-groups"),
    (
        {"consensus": True, "wan": True, "locality": True, "dynamic": True, "region-failure": False},
        "hierarchical",
    ),
    ({"consensus": True, "wan": True, "locality": True, "dynamic": True, "region-failure": True}, "wpaxos"),
]


@pytest.mark.parametrize(("answers", "leaf"), WAYS)
def test_each_way_through_the_chart_ends_at_its_leaf(answers, leaf):
    found = advise(answers)
    assert isinstance(found, Advice)
    assert found.leaf.name == leaf
    assert [question.name for question, _ in found.path] == list(answers)


def test_every_leaf_is_reached_by_some_way():
    assert {leaf for _, leaf in WAYS} == set(LEAVES)


def test_an_open_question_is_asked_and_not_guessed():
    found = advise({"consensus": True, "wan": True})
    assert isinstance(found, Question)
    assert found.name == "locality"


def test_an_answer_to_no_question_is_refused():
    with pytest.raises(ModelError, match="there is no question 'colour'"):
        advise({"colour": True})


def test_questions_lead_to_questions_or_leaves():
    for question in QUESTIONS.values():
        for way in (question.yes, question.no):
            assert way in QUESTIONS or way in LEAVES


def test_what_lies_outside_the_study_is_said():
    assert extrapolations(replicas=9, round_trip_ms_max=204, value_bytes=100, durable=False) == []
    said = extrapolations(replicas=25, round_trip_ms_max=400, value_bytes=4096, durable=True)
    assert len(said) == 4
    assert "25" in said[0]
