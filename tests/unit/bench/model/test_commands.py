"""`synod model` and `synod advise`, as a person types them."""

import json

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from bench.model.calibration import store
from bench.model.cli import advise, model

from .test_beside import a_run, folder_of
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


@pytest.fixture
def measuring(monkeypatch):
    """Calibration that takes no time: what it would find is given."""

    def of(*, others_cores: float = 0.0):
        found = msgspec.structs.replace(MACHINE, others_cores=others_cores)
        monkeypatch.setattr("bench.model.calibration.calibrate", lambda *_args, **_options: found)
        monkeypatch.setattr("replica.tuning.tune_grpc", lambda _environment: False)

    return of


def test_a_calibration_on_a_busy_machine_is_stored_with_a_warning_and_refused_when_that_is_asked(measuring, tmp_path):
    path = tmp_path / "calibration.json"
    measuring()
    calm = run(model, "calibrate", "--out", str(path), "--strict")
    assert calm.exit_code == 0, calm.output
    assert "not to be trusted" not in calm.output
    path.unlink()
    measuring(others_cores=1.5)
    refused = run(model, "calibrate", "--out", str(path), "--strict")
    assert refused.exit_code == 1
    assert "nothing was stored" in refused.output
    assert not path.exists()
    warned = run(model, "calibrate", "--out", str(path))
    assert warned.exit_code == 0
    assert "not to be trusted: other programs kept 1.5 of 2 cores busy" in warned.output
    assert path.exists()


def test_several_folders_are_listed_together_the_largest_error_first(tmp_path, calibrated):
    folders = [folder_of(tmp_path / name, a_run(1, off=off)) for name, off in (("good", 1.02), ("bad", 1.9))]
    page = tmp_path / "page.html"
    arguments = ("disagreements", *map(str, folders), "--calibration", calibrated)
    shown = run(model, *arguments, "--html", str(page))
    assert shown.exit_code == 0, shown.output
    assert "the largest 90%" in shown.output
    assert page.exists()
    points = json.loads(run(model, *arguments, "--json").output)["points"]
    assert [(point["results"], point["within_20_percent"]) for point in points] == [("bad", False), ("good", True)]


def test_disagreements_without_a_calibration_say_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = run(model, "disagreements", str(folder_of(tmp_path / "some", a_run(1))))
    assert refused.exit_code == 1
    assert "synod model calibrate" in refused.output
