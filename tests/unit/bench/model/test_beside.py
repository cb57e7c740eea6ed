"""Predictions stand beside measurements, with the error of each."""

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.model.beside import CALIBRATION, Model, model_of
from bench.model.beside import _deployment as deployment_of
from bench.model.calibration import DEFAULT_FILE, describe_machine, store
from bench.model.errors import ModelError
from bench.model.system import Deployment as Deployed
from bench.model.system import closed_loop
from bench.report import print_tables, write_report
from bench.report.cli import report
from bench.report.data import experiments_of
from bench.report.disagreement import disagreements, page_of
from bench.results import (
    Deployment,
    FaultEvent,
    Latencies,
    Manifest,
    PlannedRun,
    Point,
    RunResult,
    Summary,
    encode_histogram,
    new_histogram,
    read_folder,
    write_manifest,
    write_run,
)

from .test_system import MACHINE


def a_run(in_flight: int, *, off: float = 1.0, region: str = "", **changes: object) -> RunResult:
    """A run that turned out as the model says, or ``off`` times that latency."""
    said = closed_loop(MACHINE, Deployed(protocol="multipaxos"), in_flight)
    latency_ms = said.latency_ms * off
    histogram = new_histogram()
    histogram.record_value(max(1, round(latency_ms * 1e3)))
    run = RunResult(
        id=f"load-{in_flight}",
        experiment="load",
        deployment=Deployment(target="synod", label="multipaxos", protocol="multipaxos", batch_max=512),
        point=Point(axis="load.in_flight", value=in_flight),
        workload={"writes": 1.0, "value": {"bytes": 128}},
        load={"loop": "closed", "in_flight": in_flight},
        summary=Summary(operations=100, throughput=in_flight / latency_ms * 1e3, mean_ms=latency_ms, p50_ms=latency_ms),
        latencies=[Latencies(region=region, kind="write", origin="sent", hdr=encode_histogram(histogram))],
    )
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def folder_of(where: Path, *runs: RunResult) -> Path:
    """A folder of results that holds the runs."""
    planned = [
        PlannedRun(id=run.id, experiment=run.experiment, label=run.deployment.label, value=run.point.value)
        for run in runs
    ]
    write_manifest(where, Manifest(name="trial", planned=planned, finished="now"))
    for run in runs:
        write_run(where, run)
    return where


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *runs: read_folder(folder_of(tmp_path / "results", *runs))


def test_a_measurement_that_is_as_predicted_has_no_error(folder):
    (view,) = experiments_of(folder(a_run(1), a_run(64)), Model(MACHINE))
    rows = Model(MACHINE).compared(view)
    assert [row.value for row in rows] == [1, 64]
    assert all(row.good and row.rate_error == pytest.approx(0) for row in rows)
    (series,) = view.predictions
    assert len(series.x) == 2


@pytest.mark.parametrize(
    ("workload", "locality", "spread"),
    [
        ({}, 1 / 3, True),
        ({"conflict": None, "locality": None}, 1 / 3, True),
        ({"locality": {"deviation": 0.02}}, 1.0, True),
        ({"locality": {"deviation": 1 / 6}}, 0.683, True),
        ({"locality": {"kind": "uniform", "deviation": 0.09}}, 1.0, True),
        ({"locality": {"kind": "uniform", "deviation": 0.2}}, 1 / 3 / (0.2 * 12**0.5), True),
        ({"conflict": {"percent": 40}}, None, False),
    ],
)
def test_where_objects_are_owned_follows_from_who_uses_them(workload, locality, spread):
    run = a_run(3, regions=["ohio", "virginia", "california"], workload={"writes": 1.0, **workload})
    found = deployment_of(run)
    assert found is not None
    assert found.locality == (None if locality is None else pytest.approx(locality, abs=1e-3))
    assert found.spread is spread


@pytest.mark.parametrize(
    ("protocol", "preload_at", "covered"),
    [("wpaxos", "leader", True), ("wpaxos", "farthest", False), ("epaxos", "farthest", True)],
)
def test_objects_that_are_on_their_way_are_not_predicted(protocol, preload_at, covered):
    run = a_run(3, regions=["ohio", "virginia", "california"], load={"loop": "open", "preload_at": preload_at})
    run.deployment = msgspec.structs.replace(run.deployment, protocol=protocol)
    assert (deployment_of(run) is not None) is covered


@pytest.mark.parametrize("leader", ["ohio", "california"])
def test_the_prediction_of_each_region_is_of_the_leader_where_it_stood(folder, leader):
    regions = ["ohio", "virginia", "california"]
    deployed = Deployment(
        target="synod", label="multipaxos", protocol="multipaxos", batch_max=512, topology="wan3", leader=leader
    )

    def run(percent: int) -> RunResult:
        point = Point(axis="workload.conflict.percent", value=percent)
        workload = {"writes": 1.0, "value": {"bytes": 128}, "conflict": {"percent": percent}}
        return a_run(
            3, id=f"load-{percent}", deployment=deployed, point=point, workload=workload, regions=regions, leader=leader
        )

    (view,) = experiments_of(folder(run(0), run(100)), Model(MACHINE))
    found = {each.region: each.y for each in view.predictions if each.region}
    assert list(found) == regions
    assert {len(ys) for ys in found.values()} == {2}
    # Whoever stands beside the leader waits for its quorum alone: Virginia is 10.5 ms from Ohio, California 50.6.
    nearest_ms, others = {"ohio": 10.5, "california": 50.6}[leader], {name for name in regions if name != leader}
    assert nearest_ms < found[leader][0] < nearest_ms + 5
    assert all(found[name][0] > found[leader][0] + 10 for name in others)


def test_a_prediction_that_is_off_is_called_so_on_the_page(folder):
    found = folder(a_run(1, off=2.0), a_run(64))
    page = write_report(found, Model(MACHINE)).read_text()
    assert "1 of 2 predictions are off by more than 20 %" in page
    assert "-50%" in page


def test_a_page_lists_every_point_the_largest_error_first_with_what_it_comes_to(folder, tmp_path):
    found = folder(a_run(1, off=1.1), a_run(16, off=2.0), a_run(64))
    listed = disagreements([("trial", found, Model(MACHINE))])
    assert [row.value for _, row in listed.rows] == [16, 1, 64]
    assert [row.value for _, row in listed.wrong] == [16]
    assert "Of 3 points 2 are predicted within 20%" in listed.sentence()
    page = page_of(listed, tmp_path / "deep" / "page.html").read_text()
    assert page.index("-50%") < page.index("-9%")
    assert page.count("beyond 20 %") == 1
    report = write_report(found, Model(MACHINE)).read_text()
    assert "Where model and measurement disagree" in report
    assert listed.sentence() in report


def test_a_disturbed_repetition_does_not_move_what_is_compared_but_is_told(folder):
    runs = [a_run(16, off=off, id=f"r{place}", repetition=place) for place, off in enumerate((1.0, 1.0, 30.0))]
    (view,) = experiments_of(folder(*runs), Model(MACHINE))
    (row,) = Model(MACHINE).compared(view)
    assert row.good
    assert row.within_noise
    assert row.measured_ms_range is not None
    assert row.measured_ms_range[1] == pytest.approx(30 * row.measured_ms)


def test_the_report_in_a_terminal_names_the_points_that_are_off(folder):
    console = Console(width=160, record=True, file=StringIO())
    print_tables(folder(a_run(1, off=3.0)), console, Model(MACHINE))
    assert "-67%" in console.export_text()


def test_a_calibration_that_is_not_to_be_trusted_says_so_beside_the_errors(folder):
    busy = Model(msgspec.structs.replace(MACHINE, others_cores=1.5))
    page = write_report(folder(a_run(1)), busy).read_text()
    assert "Not to be trusted: other programs kept 1.5 of 2 cores busy" in page


def test_a_report_without_a_model_says_nothing_of_predictions(folder):
    assert "Predicted and measured" not in write_report(folder(a_run(1))).read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"deployment": Deployment(target="etcd", label="etcd")},
        {"deployment": Deployment(target="synod", label="x", protocol="raft", batch_max=512)},
        {"deployment": Deployment(target="synod", label="x", protocol="multipaxos", simulated=True)},
        {"faults": [FaultEvent(at_s=1, kind="kill")]},
        {"workload": {"mix": {"scan": 1.0}}},
        {"load": {"loop": "open", "rate": 1e9}},
    ],
)
def test_what_the_model_does_not_cover_is_left_alone(folder, changes):
    (view,) = experiments_of(folder(a_run(1, **changes)), Model(MACHINE))
    assert view.predictions == []
    assert Model(MACHINE).compared(view) == []


def test_this_machines_calibration_is_kept_with_the_results(folder):
    found = folder(a_run(1))
    assert model_of(found.path) is None
    store(DEFAULT_FILE, msgspec.structs.replace(MACHINE, machine=describe_machine()))
    assert model_of(found.path) is not None
    assert (found.path / CALIBRATION).exists()
    DEFAULT_FILE.unlink()
    assert model_of(found.path) is not None


def test_a_calibration_of_another_machine_is_not_used_unless_asked_for(folder, tmp_path):
    found = folder(a_run(1))
    store(DEFAULT_FILE, MACHINE)
    assert model_of(found.path) is None
    assert model_of(found.path, DEFAULT_FILE) is not None
    with pytest.raises(ModelError, match="there is no"):
        model_of(found.path, tmp_path / "none.json")


def test_a_report_is_made_without_predictions_where_the_machines_calibration_is_of_another_version(folder):
    found = folder(a_run(1))
    store(DEFAULT_FILE, msgspec.structs.replace(MACHINE, format=1))
    made = CliRunner().invoke(report, [str(found.path)])
    assert made.exit_code == 0, made.output
    assert "Without predictions" in made.output
    refused = CliRunner().invoke(report, [str(found.path), "--calibration", str(DEFAULT_FILE)])
    assert refused.exit_code == 1
    assert "calibrate again" in refused.output
