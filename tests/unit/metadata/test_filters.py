"""The filter language: what it means, and where it says that something is wrong."""

from typing import Any

import pytest

from replica.metadata import FilterError
from replica.metadata.filters import holds, parse

FACTS = {
    "name": "resnet_50",
    "state": "LIVE",
    "uri": None,
    "properties.acc": 0.93,
    "properties.epochs": 12,
    "properties.good": True,
    "properties.learning rate": 0.1,
    "context": ["exp7", "exp8"],
}


def truth(source: str) -> bool | None:
    def value(field: Any) -> Any:
        found = FACTS.get(str(field))
        return [] if found is None and field.multiple else found

    return holds(parse(source), value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", True),
        ("name = 'resnet_50'", True),
        ("name != 'resnet_50'", False),
        ("properties.acc > 0.9", True),
        ("properties.acc>=0.93 and properties.epochs<12.5", True),
        ("properties.epochs IN (1, 12)", True),
        ("properties.epochs NOT IN (1, 12)", False),
        ("name LIKE 'res%'", True),
        ("name LIKE 'resnet_5'", False),
        ("name LIKE 'resnet\\_50'", True),
        ("name LIKE '%x_50'", False),
        ("name NOT LIKE 'vgg%'", True),
        ("uri IS NULL", True),
        ("uri IS NOT NULL", False),
        ("uri = 'x'", None),
        ("NOT uri = 'x'", None),
        ("uri = 'x' OR name LIKE 'r%'", True),
        ("uri = 'x' AND name LIKE 'r%'", None),
        ("uri = 'x' AND name LIKE 'z%'", False),
        ("properties.good = TRUE", True),
        ('properties."learning rate" = 1e-1', True),
        ("context = 'exp7'", True),
        ("context != 'exp7'", False),
        ("context NOT IN ('exp1', 'exp2')", True),
        ("context IS NULL", False),
        ("NOT (state = 'LIVE' OR state = 'DRAFT') OR name = 'it''s'", False),
        ("state = 'a' OR state = 'LIVE' AND name = 'b'", False),
    ],
)
def test_a_filter_means(source, expected):
    assert truth(source) is expected


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ("name", 4),
        ("name = ", 7),
        ("name = 'x' name", 11),
        ("colour = 'x'", 0),
        ("state = 'x' AND size > 3", 16),
        ("(name = 'x'", 11),
        ("name = NULL", 7),
        ("name LIKE 3", 10),
        ("name IN 'x'", 8),
        ("name IN ('x'", 12),
        ("name IS 3", 8),
        ("name ~ 'x'", 5),
        ("name = 'x", 7),
        ("things.x = 3", 0),
        ("properties. = 3", 12),
        ("NOT", 3),
        ("name = 12abc", 7),
    ],
)
def test_a_filter_that_does_not_parse_says_where(source, position):
    with pytest.raises(FilterError) as raised:
        parse(source)
    assert raised.value.position == position
    assert f"position {position}" in str(raised.value)


def test_what_is_nested_too_deeply_is_refused_and_not_recursed_into():
    with pytest.raises(FilterError, match="within each other"):
        parse("(" * 5000 + "name = 'x'" + ")" * 4000)
