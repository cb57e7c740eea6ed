"""Reports from folders that were made up: what stands in the tables and on the page."""

import io
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.report import Prediction, experiments_of, plots, print_tables, write_report
from bench.report.cli import compare as compare_command
from bench.report.cli import report as report_command
from bench.report.compare import Side, compare, incomparable, unpaired_ratio
from bench.report.settling import Settlement, settlements
from bench.report.style import Palette, rendered
from bench.report.why import explain
from bench.report.words import interval, verdict_text
from bench.results import Estimate, Link, Network, Resources, RunResult, RunVerdict, Series, read_folder
from tests.unit.bench.folders import (
    availability,
    changed,
    conflict,
    everything,
    failed,
    folder_of,
    resources,
    run_result,
    stages,
    wide,
)


def exactly(mean: float) -> Estimate:
    return Estimate(mean=mean, low=None, high=None, count=1)


def pair(**second: Any) -> list:
    """Two targets at one load, three interleaved repetitions; the second is twice as fast."""
    return [
        run_result("load", label, 64, repetition, axis="load.in_flight", throughput=(1 + repetition / 10) * throughput,
                   **(second if label == "b" else {}))
        for repetition in range(3)
        for label, throughput in (("a", 1000.0), ("b", 2000.0))
    ]  # fmt: skip


def views_of(path: Path, runs: list):
    return experiments_of(read_folder(folder_of(path, runs)))


# ------------------------------------------------------------------------------------------------------------- figures


def test_a_ratio_is_formed_within_each_repetition(tmp_path):
    [view] = views_of(tmp_path, pair())
    point = view.at("b", 64)
    assert point is not None
    found = view.ratio_to_baseline(point)
    assert found is not None
    assert found.low is not None
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0), "the drift over the repetitions meets both alike"


def test_no_ratio_is_claimed_where_the_harness_was_the_limit_or_durability_differs(tmp_path):
    cases: list[dict[str, Any]] = [{"harness_limited": True}, {"deployment": {"durability": "none"}}]
    for number, fields in enumerate(cases):
        [view] = views_of(tmp_path / str(number), pair(**fields))
        point = view.at("b", 64)
        assert point is not None
        assert view.ratio_to_baseline(point) is None


def test_a_point_is_as_good_as_its_worst_run(tmp_path):
    runs = pair()
    runs[3] = msgspec.structs.replace(runs[3], verdict=RunVerdict(answer="violation", reason="5 was lost"))
    [view] = views_of(tmp_path, runs)
    assert [point.mark for point in view.points] == ["checked", "violation"]
    assert "WRONG" in verdict_text(view.points[1])
    assert view.points[1].reasons == ["load-b-64-1: 5 was lost"]


def test_replicas_that_differ_at_the_end_are_a_violation_whatever_the_clients_saw(tmp_path):
    verdict = RunVerdict(answer="ok", sampled=1.0, digests="differ", digest_detail="replica 2 stands apart")
    [view] = views_of(tmp_path, [run_result("x", "a", verdict=verdict)])
    assert view.points[0].mark == "violation"
    assert "replica 2 stands apart" in view.points[0].reasons[0]


def test_stale_reads_are_not_applicable_and_never_green(tmp_path):
    verdict = RunVerdict(answer="not applicable", reason="stale reads promise nothing")
    [view] = views_of(tmp_path, [run_result("x", "a", verdict=verdict, deployment={"consistency": "stale"})])
    assert verdict_text(view.points[0]) == "– not applicable"
    assert view.points[0].flags() == ["stale reads"]


def test_stages_with_the_way_of_the_client_add_up_to_what_writes_took(tmp_path):
    [view] = views_of(tmp_path, [run_result("x", "a", mean_ms=2.0, stages=stages(2.0))])
    found = view.points[0].stages()
    assert "total" not in found
    assert sum(found.values()) == pytest.approx(2.0, rel=0.05)
    assert found["way"] == pytest.approx(0.4, abs=0.1)


def test_an_interval_is_written_with_its_mean():
    assert interval(None) == "–"
    assert interval(Estimate(mean=12.5, low=None, high=None, count=1)) == "12.5"
    assert interval(Estimate(mean=12.5, low=12.25, high=12.75, count=3)) == "12.5 ± 0.25"
    assert interval(Estimate(mean=43_912.4, low=41_000.0, high=46_824.8, count=3)) == "43\u202f912 ± 2\u202f912"


# ---------------------------------------------------------------------------------------------------------------- why


def test_the_report_says_why_with_figures(tmp_path):
    runs = [run_result("x", "a", mean_ms=2.0, stages=stages(2.0), resources=resources(0.9))]
    [view] = views_of(tmp_path, runs)
    [sentence] = explain(view, cores=2)
    assert "the sync to disk" in sentence
    assert "replica 1 uses 1.08 cores" in sentence
    assert "the machine's 2 cores are used up (1.92)" in sentence


def test_what_other_programs_used_is_told_from_what_the_run_used(tmp_path):
    used = resources(0.2)  # 1.04 of the machine's 1.92 cores: replicas and the generator
    [view] = views_of(tmp_path, [run_result("x", "a", mean_ms=2.0, stages=stages(2.0), resources=used)])
    assert view.points[0].flags() == ["others used 0.9 cores"]
    [sentence] = explain(view, cores=2)
    assert "programs that have no part in the run used 0.88 of the machine's 2 cores" in sentence
    assert "compete" not in sentence


def test_nothing_is_said_of_what_was_not_measured(tmp_path):
    [view] = views_of(tmp_path, [run_result("x", "a")])
    assert explain(view, cores=2) == []


# --------------------------------------------------------------------------------------------------------------- plots


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    runs = [*pair(), *availability()[:1], failed()]
    return folder_of(tmp_path_factory.mktemp("small"), runs)


def texts(picture) -> str:
    found = [text.get_text() for legend in picture.legends for text in legend.get_texts()]
    for axes in picture.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join(found)


def test_predicted_series_are_drawn_beside_what_was_measured(tmp_path):
    [view] = views_of(tmp_path, conflict())
    view.predictions = [
        Prediction(experiment="conflict", label="epaxos", quantity="throughput", x=(0.0, 100.0), y=(26_000.0, 9_000.0))
    ]
    picture = plots.lines(view, Palette(view.labels))
    dashed = [line for line in picture.axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[26_000.0, 9_000.0]]
    assert not [line for line in picture.axes[1].lines if line.get_linestyle() == "--"]
    assert "model" in texts(picture)


def test_a_timeline_shows_the_gap_the_faults_and_their_failures():
    run = availability()[0]
    picture = plots.timeline(run, Palette(["multipaxos"]))
    assert "1: kill 2 (leader) at 3.0 s until 6.2 s" in texts(picture)
    assert "3: pause 7 at 9.8 s (failed)" in texts(picture)
    assert "seconds from the start of the run" in texts(picture)
    heights = picture.axes[0].patches[0].get_data().values
    assert list(heights[12:16]) == [0, 0, 0, 0]


def test_bars_by_region_have_a_prediction_where_there_is_one(tmp_path):
    [view] = views_of(tmp_path, wide()[:1])
    view.predictions = [Prediction(experiment="regions", label="multipaxos", regions={"ohio": 50.6, "japan": 206.1})]
    picture = plots.regions(view, Palette(view.labels), "")
    assert len([line for line in picture.axes[0].lines if line.get_linestyle() == "--"]) == 2
    assert "latency, ms" in texts(picture)


def test_of_many_replicas_the_busiest_are_shown_and_the_others_summed_up(tmp_path):
    used = [Resources(name=f"replica {n}", role="follower", cpu_user_s=n / 10) for n in range(1, 100)]
    [view] = views_of(tmp_path, [run_result("x", "a", resources=used)])
    axes = plots.resources(view, Palette(view.labels), "").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:-1] == [f"a: replica {n} (follower)" for n in range(92, 100)]
    assert names[-1] == "a: mean of the 91 others"


def test_the_same_figure_is_the_same_file(tmp_path):
    [view] = views_of(tmp_path, conflict())
    first, second = (rendered(plots.lines(view, Palette(view.labels))) for _ in range(2))
    assert first == second


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_page_stands_alone_and_has_a_verdict_beside_every_figure(small):
    path = write_report(read_folder(small))
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text), "nothing is loaded from elsewhere"
    assert "<script" not in text
    rows = re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    figures = [row for row in rows if "±" in row and "ms" not in row]
    assert figures
    assert all("linearizable" in row for row in figures)
    assert text.count("data:image/svg+xml;base64,") >= 4
    assert "no space left on device" in text, "the last lines of a replica that died"
    assert {file.suffix for file in (small / "plots").iterdir()} == {".svg", ".png"}


def test_the_page_says_that_the_network_was_not_as_declared(tmp_path):
    run = msgspec.structs.replace(wide()[0], latencies=[])
    text = write_report(read_folder(folder_of(tmp_path, [run]))).read_text(encoding="utf-8")
    assert "not as declared" in text
    assert "a round trip takes 180.0 ms, declared are 155.5 ms" in text


def test_a_folder_without_any_run_has_a_page_that_says_so(tmp_path):
    folder = folder_of(tmp_path, pair())
    for file in (tmp_path / "runs").iterdir():
        file.unlink()
    text = write_report(read_folder(folder)).read_text(encoding="utf-8")
    assert "This is a partial result" in text
    assert "6 of 6 planned runs are missing" in text


@pytest.mark.slow
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.timeout(600)  # thirty plots
def test_a_folder_with_everything_and_a_part_of_it_have_a_page(tmp_path, partial):
    text = write_report(read_folder(everything(tmp_path, partial=partial))).read_text(encoding="utf-8")
    assert ("This is a partial result" in text) == partial
    assert ("runs/broken.json cannot be read" in text) == partial
    assert "abd cannot do transactions" in text


def moving(label: str, protocol: str, seconds: float = 60.0) -> RunResult:
    """A minute in which the clients in Ohio see less and less, and those in Japan do not."""
    steps = int(seconds)
    means: dict[str, list[float | None]] = {
        "ohio": [50.0 - 45.0 * min(1.0, step / 30) for step in range(steps)],
        "japan": [220.0] * steps,
    }
    return run_result(
        "moving", label, regions={"ohio": 20.0, "japan": 220.0}, measured_s=(0.0, seconds),
        series=Series(
            window_s=1.0, completed=[20] * steps, regions={name: [10] * steps for name in means}, region_mean_ms=means
        ),
        deployment={"protocol": protocol, "replicas": 5, "topology": "wan5"},
    )  # fmt: skip


def test_the_first_and_the_last_seconds_of_a_long_run_stand_beside_the_local_quorum(tmp_path):
    [view] = views_of(tmp_path, [moving("wpaxos", "wpaxos"), moving("multipaxos", "multipaxos")])
    ours, others = (settlements(point) for point in view.points)
    assert [row.region for row in ours] == ["ohio", "japan"]
    assert [row.first.mean for row in ours] == pytest.approx([43.25, 220.0])
    assert [row.last.mean for row in ours] == pytest.approx([5.0, 220.0])
    assert [row.measured_ms for row in ours] == [pytest.approx(0.11 + 10.5), pytest.approx(0.10 + 111.7)]
    assert [row.declared_ms for row in ours] == [row.measured_ms for row in ours], "no link was measured"
    assert [row.said for row in ours] == ["at the local quorum, within 2 ms", "no"]
    assert [row.said for row in others] == ["at most half", "–"]
    page = write_report(read_folder(tmp_path)).read_text()
    assert "at the local quorum, within 2 ms" in page
    assert (tmp_path / "plots" / "moving-regions-over-time.png").exists()
    out = io.StringIO()
    print_tables(read_folder(tmp_path), Console(file=out, width=140))
    assert re.search(r"wpaxos +│ ohio +│ +43\.[23] │ +5 │ +10\.6 │ +10\.6 │ at the local quorum", out.getvalue())


def test_what_was_slow_to_answer_when_the_load_had_ended_is_not_drawn(tmp_path):
    run = moving("wpaxos", "wpaxos", seconds=61.0)
    run.measured_s = (0.0, 60.0 + 1e-9)
    [view] = views_of(tmp_path, [run])
    made = plots.regions_over_time(view, Palette(view.labels), "")
    assert [max(axes.lines[0].get_xdata()) for axes in made.axes if axes.lines] == [59.5, 59.5]


def test_the_links_as_measured_say_what_a_local_quorum_takes(tmp_path):
    run = moving("wpaxos", "wpaxos")
    run.network = Network(
        topology="wan5",
        links=[
            Link(one="virginia", other="ohio", declared_ms=10.5, achieved_ms=12.5),
            Link(one="california", other="japan", declared_ms=111.7, achieved_ms=215.0),
            Link(one="japan", other="japan", declared_ms=0.1, achieved_ms=2.0, client=True),
            Link(one="japan", other="california", declared_ms=111.7, achieved_ms=1.0, client=True),
            Link(one="japan", other="virginia", declared_ms=152.4, achieved_ms=219.0),
            Link(one="ohio", other="japan", declared_ms=155.5, achieved_ms=None),
        ],
    )
    [view] = views_of(tmp_path, [run])
    ohio, japan = settlements(view.points[0])
    assert [ohio.declared_ms, ohio.measured_ms] == pytest.approx([0.11 + 10.5, 0.11 + 12.5])
    assert [japan.declared_ms, japan.measured_ms] == pytest.approx([0.10 + 111.7, 2.0 + 155.5])
    assert japan.said == "no"


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (115.0, 116.0, "no"),
        (113.0, 113.0, "at the local quorum, within 2 ms"),
        (230.0, 113.0, "at the local quorum, within 2 ms"),
        (240.0, 120.0, "at most half"),
        (240.0, 121.0, "no"),
    ],
)
def test_a_region_has_settled_at_half_of_its_first_seconds_or_at_the_quorum_as_declared(first, last, said):
    row = Settlement(
        label="wpaxos", value="", region="japan", first=exactly(first), last=exactly(last),
        declared_ms=111.8, measured_ms=115.0,
    )  # fmt: skip
    assert row.said == said


def test_the_ends_of_a_short_run_are_not_compared(tmp_path):
    [view] = views_of(tmp_path, [moving("wpaxos", "wpaxos", 20.0)])
    assert settlements(view.points[0]) == []


def test_the_share_of_slow_paths_stands_in_the_table_and_has_a_plot(tmp_path):
    runs = [
        run_result("conflict", label, percent, axis="workload.conflict.percent",
                   counters={"fast": 300 - 2 * percent, "slow": percent} if label == "epaxos" else {"slow": 9})
        for label in ("epaxos", "multipaxos")
        for percent in (0, 100)
    ]  # fmt: skip
    runs[-1].counters = {}
    runs[-2].counters = {}
    [view] = views_of(tmp_path, runs)
    assert [point.slow_paths.mean if point.slow_paths else None for point in view.points] == [0.0, 0.5, None, None]
    out = io.StringIO()
    print_tables(read_folder(tmp_path), Console(file=out, width=140))
    assert re.search(r"100 │ epaxos .* 50% │ ✓", out.getvalue())
    assert "slow paths" in write_report(read_folder(tmp_path)).read_text()
    assert (tmp_path / "plots" / "conflict-slow-paths.png").exists()


def test_where_no_command_took_a_slow_path_nothing_is_said_of_it(tmp_path):
    runs = [run_result("load", "epaxos", load, axis="load.in_flight", counters={"fast": 300}) for load in (1, 64)]
    [view] = views_of(tmp_path, runs)
    assert not view.has_slow_paths
    assert "slow paths" not in write_report(read_folder(tmp_path)).read_text()


def test_along_an_axis_of_numbers_each_region_has_a_panel_with_its_prediction(tmp_path):
    runs = [
        run_result("conflict", "epaxos", percent, axis="workload.conflict.percent",
                   regions={"ohio": 10.0 + percent / 10, "japan": 100.0})
        for percent in (0, 50, 100)
    ]  # fmt: skip
    [view] = views_of(tmp_path, runs)
    view.predictions = [
        Prediction(experiment="conflict", label="epaxos", region="ohio", x=(0.0, 50.0, 100.0), y=(10.0, 15.0, 20.0))
    ]
    made = plots.regions_along(view, Palette(["epaxos"]))
    panels = {axes.get_title(loc="left"): axes for axes in made.axes}
    assert set(panels) == {"ohio", "japan"}
    dashed = {name: [each for each in axes.lines if each.get_linestyle() == "--"] for name, axes in panels.items()}
    assert [list(each.get_ydata()) for each in dashed["ohio"]] == [[10.0, 15.0, 20.0]]
    assert not dashed["japan"]


def test_a_leader_that_was_not_where_it_was_to_be_is_to_be_known(tmp_path):
    where: dict[str, Any] = {"deployment": {"topology": "wan3", "leader": "ohio"}}
    runs = [
        run_result("wan", "raft", 1, leader="ohio", leader_at_end="ohio", **where),
        run_result("wan", "raft", 2, leader="ohio", leader_at_end="virginia", **where),
    ]
    [view] = views_of(tmp_path, runs)
    assert [point.flags() for point in view.points] == [[], ["leader not where it was to be"]]


def test_what_is_close_to_the_one_that_decides_alone_is_marked_and_keeps_its_ratio(tmp_path):
    runs = pair()
    for run in runs:
        run.null = 1.4 * run.summary.throughput if run.deployment.label == "b" else 10 * run.summary.throughput
    [view] = views_of(tmp_path, runs)
    one, other = view.at("a", 64), view.at("b", 64)
    assert one is not None
    assert other is not None
    assert one.flags() == []
    assert other.flags() == ["harness-limited (null)"]
    assert view.ratio_to_baseline(other) is not None


def test_the_suite_says_what_others_are_held_against(tmp_path):
    folder = read_folder(folder_of(tmp_path, pair()))
    assert experiments_of(folder)[0].baseline == "a"
    folder.manifest.suite = {"baseline": "b"}
    assert experiments_of(folder)[0].baseline == "b"


# ---------------------------------------------------------------------------------------------------------- terminal


def test_the_table_in_a_terminal_has_the_verdict_and_what_must_be_known(small):
    out = io.StringIO()
    print_tables(read_folder(small), Console(file=out, width=140))
    text = out.getvalue()
    assert re.search(r"64 │ b .*2.00× \(2.00–2.00\).*✓ 2%", text)
    assert "no figures" in text
    assert re.search(
        r"multipaxos: the longest time without a completed operation was [\d,]+ ms; nothing acknowledged", text
    )
    assert "no space left on device" in text


def test_the_report_command_makes_the_page_of_a_folder_and_refuses_one_without_results(small, tmp_path):
    done = CliRunner().invoke(report_command, [str(small)])
    assert done.exit_code == 0, done.output
    assert str(small / "report.html") in done.output
    refused = CliRunner().invoke(report_command, [str(tmp_path)])
    assert refused.exit_code == 1
    assert "holds no results" in refused.output


# --------------------------------------------------------------------------------------------------------- comparing


def sides(tmp_path, first, second) -> tuple[Side, Side]:
    found = [read_folder(folder_of(tmp_path / name, runs)) for name, runs in (("first", first), ("second", second))]
    return Side(folder=found[0]), Side(folder=found[1])


def test_two_folders_are_compared_point_by_point_with_an_interval(tmp_path):
    faster = [run_result("load", "a", 64, n, axis="load.in_flight", throughput=3000.0 + n) for n in range(3)]
    [found] = compare(*sides(tmp_path, [run for run in pair() if run.deployment.label == "a"], faster))
    assert found.differences == []
    assert found.throughput is not None
    assert found.throughput.low is not None
    assert found.throughput.low < found.throughput.mean < 3.0
    assert found.throughput.mean == pytest.approx(2.74, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"durability": "none"}, "durability: sync against none"),
        ({"consistency": "stale"}, "reads: linearizable against stale"),
        ({"replicas": 5}, "replicas: 3 against 5"),
        ({"topology": "wan3"}, "network: none against wan3"),
        ({"simulated": True}, "one is simulated"),
    ],
)
def test_what_promises_something_else_is_not_compared(tmp_path, fields, named):
    first = [run_result("load", "a")]
    [found] = compare(*sides(tmp_path, first, [changed(run, **fields) for run in first]))
    assert any(named in difference for difference in found.differences)
    assert found.throughput is None


@pytest.mark.parametrize(("one", "other", "named"), [("ohio", "japan", True), ("ohio", "", False), ("", "", False)])
def test_leaders_in_different_regions_are_not_compared_but_with_what_has_none(one, other, named):
    run = run_result("load", "a")
    differences = incomparable(changed(run, leader=one), changed(run, leader=other))
    assert differences == (["the leader's region: ohio against japan"] if named else [])


def test_what_was_asked_otherwise_or_could_not_be_done_is_not_compared():
    one = run_result("load", "a")
    assert incomparable(one, one) == []
    other = msgspec.structs.replace(one, workload={"name": "uniform", "keys": 10})
    assert incomparable(one, other) == ["the workload differs (keys)"]
    assert incomparable(one, msgspec.structs.replace(one, workload={**one.workload, "preload": False})) == []
    away = msgspec.structs.replace(one, load={**one.load, "preload_at": "farthest"})
    assert incomparable(one, away) == [], "nothing was written before the run"
    one, away = (msgspec.structs.replace(run, workload={"keys": 10, "preload": True}) for run in (one, away))
    assert incomparable(one, away) == ["where keys were written before the run: leader against farthest"]
    reading = [msgspec.structs.replace(entry, kind="read") for entry in one.latencies]
    assert "kinds of operations" in incomparable(one, msgspec.structs.replace(one, latencies=reading))[0]


def test_the_compare_command_pairs_two_targets_of_one_folder(small):
    done = CliRunner().invoke(compare_command, [f"{small}:a", f"{small}:b", "--json"])
    assert done.exit_code == 0, done.output
    [row] = msgspec.json.decode(done.output)
    assert row["throughput"]["mean"] == pytest.approx(2.0)
    assert row["throughput"]["low"] == pytest.approx(2.0)


def test_the_compare_command_says_what_it_cannot_find(small, tmp_path):
    unknown = CliRunner().invoke(compare_command, [f"{small}:a", f"{small}:z"])
    assert unknown.exit_code == 1
    assert "no target 'z' (there are: a, b" in unknown.output
    nothing = CliRunner().invoke(compare_command, [str(small), str(folder_of(tmp_path, conflict()[:1]))])
    assert "no point in common" in nothing.output


def test_strictness_is_an_exit_status(tmp_path):
    first = [run_result("load", "a")]
    folder_of(tmp_path / "one", first)
    folder_of(tmp_path / "two", [changed(run, durability="none") for run in first])
    arguments = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert CliRunner().invoke(compare_command, arguments).exit_code == 0
    assert CliRunner().invoke(compare_command, [*arguments, "--strict"]).exit_code == 1


def test_an_unpaired_ratio_of_single_values_has_no_interval():
    found = unpaired_ratio([2.0], [1.0])
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert found.low is found.high is None
    assert unpaired_ratio([], [1.0]) is None
