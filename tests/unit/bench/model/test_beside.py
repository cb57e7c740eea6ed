"""Predictions stand beside measurements, with the error of each."""

import msgspec
import pytest

from bench.model.beside import CALIBRATION, Model, model_of
from bench.model.calibration import DEFAULT_FILE, describe_machine, store
from bench.model.errors import ModelError
from bench.model.system import Deployment as Deployed
from bench.model.system import closed_loop
from bench.report import write_report
from bench.report.data import experiments_of
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "results"

    def filled(*runs: RunResult):
        planned = [
            PlannedRun(id=run.id, experiment=run.experiment, label=run.deployment.label, value=run.point.value)
            for run in runs
        ]
        write_manifest(where, Manifest(name="trial", planned=planned, finished="now"))
        for run in runs:
            write_run(where, run)
        return read_folder(where)

    return filled


def test_a_measurement_that_is_as_predicted_has_no_error(folder):
    (view,) = experiments_of(folder(a_run(1), a_run(64)), Model(MACHINE))
    rows = Model(MACHINE).compared(view)
    assert [row.value for row in rows] == [1, 64]
    assert all(row.good and row.rate_error == pytest.approx(0) for row in rows)
    (series,) = view.predictions
    assert len(series.x) == 2


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
