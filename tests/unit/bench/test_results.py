"""A folder of results can be read whole and in part, histograms add up, and intervals mean what they say."""

import random
from typing import Any

import pytest
from scipy import stats

from bench import results
from bench.results import (
    Deployment,
    Latencies,
    Manifest,
    PlannedRun,
    ResultsError,
    RunResult,
    Series,
    estimate,
    merged_latencies,
    percentile_ms,
    ratio,
    read_folder,
    write_manifest,
    write_run,
)


def a_run(identifier: str = "a-1", **fields: Any) -> RunResult:
    return RunResult(id=identifier, experiment="a", deployment=Deployment(target="synod", label="multipaxos"), **fields)


def histogram(values: list[int]) -> str:
    made = results.new_histogram()
    for value in values:
        made.record_value(value)
    return results.encode_histogram(made)


def test_a_folder_is_read_in_the_order_in_which_it_was_planned(tmp_path):
    planned = [PlannedRun(id=name, experiment="a", label="multipaxos") for name in ("b", "c", "a")]
    write_manifest(tmp_path, Manifest(name="quick", planned=planned, finished=results.timestamp()))
    for name in ("a", "b", "c"):
        write_run(tmp_path, a_run(name))
    found = read_folder(tmp_path)
    assert [run.id for run in found.runs] == ["b", "c", "a"]
    assert found.complete


def test_a_folder_that_was_cut_short_says_what_is_missing_and_what_is_broken(tmp_path):
    planned = [PlannedRun(id=name, experiment="a", label="multipaxos") for name in ("a", "b", "c")]
    write_manifest(tmp_path, Manifest(name="quick", planned=planned))
    write_run(tmp_path, a_run("a"))
    (tmp_path / results.RUNS / "b.json").write_text('{"id": "b", "exper')
    (tmp_path / results.RUNS / ".c.json.tmp").write_text("half")
    found = read_folder(tmp_path)
    assert [run.id for run in found.runs] == ["a"]
    assert [entry.id for entry in found.missing] == ["b", "c"]
    assert len(found.problems) == 1
    assert "b.json" in found.problems[0]
    assert not found.complete


def test_a_folder_without_a_manifest_is_refused_by_name(tmp_path):
    with pytest.raises(ResultsError, match=r"manifest\.json"):
        read_folder(tmp_path)


def test_a_result_of_a_newer_release_is_not_guessed_at(tmp_path):
    write_manifest(tmp_path, Manifest(name="quick", planned=[]))
    write_run(tmp_path, a_run("a", format=results.FORMAT + 1))
    assert "newer release" in read_folder(tmp_path).problems[0]


def test_histograms_of_regions_and_kinds_add_up_without_loss():
    values = [random.Random(3).randrange(1, 1_000_000) for _ in range(1000)]
    run = a_run(
        latencies=[
            Latencies(region="va", kind="read", origin="sent", hdr=histogram(values[:300])),
            Latencies(region="oh", kind="write", origin="sent", hdr=histogram(values[300:])),
        ]
    )
    whole = merged_latencies(run)
    assert whole.get_total_count() == 1000
    assert merged_latencies(run, region="va").get_total_count() == 300
    assert merged_latencies(run, kind="write").get_total_count() == 700
    expected = sorted(values)[499] / 1e3
    assert percentile_ms(whole, 50) == pytest.approx(expected, rel=0.01)


def test_a_mean_over_time_counts_every_operation_and_whole_windows_alone():
    series = Series(
        window_s=1.0,
        completed=[3, 1, 8, 0],
        regions={"ohio": [3, 1, 8, 0]},
        region_mean_ms={"ohio": [10.0, 30.0, 100.0, None]},
    )
    assert series.mean_ms("ohio", 0.0, 2.0) == pytest.approx(15.0)
    assert series.mean_ms("ohio", 0.5, 2.9) == pytest.approx(30.0)
    assert series.mean_ms("ohio", 3.0, 4.0) is None


def test_an_open_loop_is_measured_from_its_intended_starts_where_they_are_known():
    run = a_run(
        latencies=[
            Latencies(region="", kind="read", origin="sent", hdr=histogram([1000])),
            Latencies(region="", kind="read", origin="intended", hdr=histogram([9000])),
        ]
    )
    assert percentile_ms(merged_latencies(run), 50) == pytest.approx(9.0, rel=0.01)
    assert percentile_ms(merged_latencies(run, origin="sent"), 50) == pytest.approx(1.0, rel=0.01)


def test_the_interval_of_a_mean_is_that_of_student():
    values = [10.0, 12.0, 9.0, 11.0, 13.0]
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 4, loc=11.0, scale=stats.sem(values))
    assert found.mean == 11.0
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)


def test_one_repetition_has_no_interval():
    found = estimate([5.0])
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert estimate([]) is None


def test_a_ratio_is_formed_within_each_repetition():
    # Both systems drift by a factor of four together; what one is to the other does not.
    found = ratio([(30.0, 10.0), (60.0, 20.0), (120.0, 40.0)])
    assert found is not None
    assert found.mean == pytest.approx(3.0)
    assert found.low == pytest.approx(3.0)
    assert ratio([(0.0, 1.0)]) is None
