"""`synod model` and `synod advise`, as a person types them."""

import json

import click
import pytest
from click.testing import CliRunner, Result

from bench.model.calibration import store
from bench.model.cli import advise, model

from .test_system import MACHINE


@pytest.fixture
def calibrated(tmp_path):
    path = tmp_path / "calibration.json"
    store(path, MACHINE)
    return str(path)


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_a_prediction_is_a_table_for_people_and_json_for_programs(calibrated):
    arguments = ("predict", "--protocol", "multipaxos", "--calibration", calibrated, "--topology", "wan3")
    shown = run(model, *arguments)
    assert shown.exit_code == 0, shown.output
    assert "california ms" in shown.output
    points = json.loads(run(model, *arguments, "--in-flight", "1,64", "--json").output)
    assert [point["in_flight"] for point in points] == [1, 64]


def test_a_workload_gives_its_shares(calibrated):
    shown = run(
        model, "predict", "--protocol", "multipaxos", "--calibration", calibrated, "--workload", "uniform", "--json"
    )
    assert shown.exit_code == 0, shown.output


def test_the_studys_constants_are_both_shown():
    answers = json.loads(
        run(model, "predict", "--protocol", "multipaxos", "--replicas", "9", "--study", "--json").output
    )
    assert len({answer["constants"] for answer in answers}) == 2


def test_a_rate_beyond_capacity_says_where_it_is_saturated():
    refused = run(model, "predict", "--protocol", "multipaxos", "--replicas", "9", "--study", "--rate", "1000000")
    assert refused.exit_code == 1
    assert "saturated at" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--conflict", "2"), "conflict: 2 is not within [0, 1]"),
        (("--topology", "moon"), "there is no 'moon'"),
        (("--in-flight", "many"), "--in-flight"),
        (("--topology", "wan3", "--leader", "mars"), "leader: the topology has no region 'mars'"),
    ],
)
def test_bad_input_is_one_line_that_names_it(calibrated, arguments, said):
    refused = run(model, "predict", "--protocol", "multipaxos", "--calibration", calibrated, *arguments)
    assert refused.exit_code == 1
    assert said in refused.output
    assert len(refused.output.strip().splitlines()) == 1


def test_the_figures_are_drawn_and_the_formulas_printed(tmp_path):
    shown = run(model, "figures", "--out", str(tmp_path))
    assert shown.exit_code == 0, shown.output
    assert {file.name for file in tmp_path.iterdir()} == {"lan.png", "wan.png", "epaxos-conflict.png"}
    assert "1.333" in shown.output


def test_advice_says_what_is_recommended_what_is_there_and_the_numbers():
    flags = ("--consensus", "--wan", "--locality", "--dynamic", "--region-failure")
    shown = run(advise, *flags)
    assert shown.exit_code == 0, shown.output
    assert "WPaxos" in shown.output
    assert "wpaxos" in shown.output
    assert "Extrapolating" in shown.output
    found = json.loads(run(advise, *flags, "--volatile", "--json").output)
    assert found["leaf"]["name"] == "wpaxos"
    assert found["extrapolating"] == []


def test_a_question_that_nobody_can_answer_is_named():
    refused = run(advise, "--consensus")
    assert refused.exit_code == 1
    assert "several regions" in refused.output
