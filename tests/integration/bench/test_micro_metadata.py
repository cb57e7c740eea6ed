"""Metadata on Synod beside SQL databases, for a moment: nothing is lost on any side."""

import argparse
from typing import Any

import pytest

from bench.micro_metadata import append, compare
from bench.micro_metadata.databases import NoPostgreSQL


def asked(module: Any, arguments: list[str]) -> tuple[dict[str, Any], str, bool]:
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    options = parser.parse_args(arguments)
    options.replicas, options.folder, options.json = 1, None, False
    measured: tuple[dict[str, Any], str, bool] = module.measure(options)
    return measured


@pytest.mark.timeout(300)
@pytest.mark.parametrize("other", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_what_is_acknowledged_is_there_on_both_sides(other):
    # Several callers in a process share its counters.
    arguments = [
        "--processes",
        "2",
        "--tasks",
        "3",
        "--repetitions",
        "2",
        "--seconds",
        "1",
        "--sides",
        f"synod,{other}",
    ]
    figures, table, good = asked(compare, arguments)
    assert good, figures
    if other in figures["skipped"]:
        pytest.skip(figures["skipped"][other])
    for side in ("synod", other):
        found = figures["sides"][side]
        assert len(found["per_s"]) == 2
        assert sum(found["kinds"].values()) > 0
        assert found["acknowledged"]["runs"] == found["found"]["runs"] > 0
        assert set(found["lost"].values()) == {0}
    assert figures["ratios"][f"synod / {other}"]["count"] == 2
    assert "95 % interval" in table


def test_a_side_that_is_not_there_is_skipped_aloud(monkeypatch, capsys):
    def none(folder, connections):
        raise NoPostgreSQL("there is no initdb")

    monkeypatch.setattr(compare, "postgresql", none)
    figures, table, good = asked(compare, ["--processes", "1", "--repetitions", "1", "--sides", "postgresql"])
    assert good
    assert figures["skipped"] == {"postgresql": "there is no initdb"}
    assert "skipped: there is no initdb" in table
    assert "skipped postgresql" in capsys.readouterr().err


def test_points_that_were_appended_are_read_back():
    figures, table, good = asked(append, ["--seconds", "0.5"])
    assert good, figures
    assert figures["as_a_training"]["points"] > 0
    assert figures["in_batches"]["points"] > 0
    assert "| lost |" in table
