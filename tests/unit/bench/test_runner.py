"""What the runner decides between runs."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import pytest

from bench import results
from bench.cli import _interruptible
from bench.conclusion import conclusion
from bench.load.measure import Window
from bench.model.calibration import load, store
from bench.planning import plan_suite
from bench.results import (
    Ceiling,
    Deployment,
    Failure,
    Folder,
    Manifest,
    Point,
    Resources,
    RunResult,
    RunVerdict,
    Stage,
    Summary,
    write_run,
)
from bench.runner import CALIBRATION_S, Interrupted, Settings, _Bench, _Probe
from bench.suite import SuiteError, parse_suite

from .model.test_system import MACHINE


class Silent:
    """A watcher that keeps what it is told to itself."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def a_bench(folder: Any, saturation: dict[str, Any]) -> _Bench:
    suite = parse_suite(
        {
            "name": "test",
            "targets": [{"protocol": "multipaxos"}],
            "experiments": [{"name": "one", "load": {"saturation": saturation}}],
        }
    )
    watcher: Any = Silent()
    return _Bench(suite, plan_suite(suite), Settings(folder=folder), watcher)


def a_run(throughput: float = 1.0, p99_ms: float = 1.0, **fields: Any) -> RunResult:
    return RunResult(
        id="run",
        experiment="one",
        deployment=Deployment(target="synod", label="multipaxos"),
        point=Point(axis="load.in_flight", value=1),
        summary=Summary(operations=1, throughput=throughput, p99_ms=p99_ms),
        **fields,
    )


@pytest.mark.parametrize(
    ("throughputs", "ended"),
    [
        ([100, 200, 400, 800], [False, False, False, False]),
        ([100, 200, 150, 400], [False, False, False, False]),
        ([100, 200, 203, 204], [False, False, False, True]),
    ],
)
def test_a_search_for_saturation_ends_at_the_second_step_that_brings_nothing(tmp_path, throughputs, ended):
    bench = a_bench(tmp_path, {})
    seen = []
    for throughput in throughputs:
        bench._note_step(a_run(throughput))
        seen.append(bool(bench._saturated))
    assert seen == ended


def test_a_search_for_saturation_ends_where_the_latency_passes_its_bound(tmp_path):
    bench = a_bench(tmp_path, {"p99_ms": 50.0})
    bench._note_step(a_run(100, 49.0))
    assert not bench._saturated
    bench._note_step(a_run(200, 51.0))
    assert bench._saturated


def test_a_result_is_held_against_the_one_that_decides_alone_at_the_same_point_of_a_closed_loop(tmp_path):
    bench = a_bench(tmp_path, {})

    def stored(name: str, protocol: str, throughput: float, **fields: Any) -> None:
        deployment = Deployment(target=fields.pop("target", "synod"), label=name, protocol=protocol)
        load = {"loop": fields.pop("loop", "closed"), "in_flight": 1}
        run = a_run(throughput, load=load)
        write_run(tmp_path, msgspec.structs.replace(run, id=name, deployment=deployment, **fields))

    stored("alone", "null", 300.0)
    stored("alone-again", "null", 500.0)
    stored("near", "raft", 300.0)
    stored("far", "epaxos", 100.0)
    stored("elsewhere", "raft", 300.0, point=Point(axis="load.in_flight", value=2))
    stored("simulated", "raft", 300.0, target="simulated")
    stored("open", "raft", 300.0, loop="open")
    results.write_manifest(tmp_path, bench._manifest)
    bench._hold_against_null()
    found = {run.id: run for run in results.read_folder(tmp_path).runs}
    assert {name: run.null for name, run in found.items() if run.null} == {"near": 400.0, "far": 400.0}
    assert found["near"].near_null
    assert not found["far"].near_null
    assert [(each.responder, each.throughput) for each in bench._manifest.ceilings] == [("null", 400.0)]


def test_results_of_a_suite_that_could_say_less_are_gone_on_with(tmp_path):
    stored = a_bench(tmp_path, {})._manifest
    stored.suite["experiments"][0]["load"].pop("preload_at")
    results.write_manifest(tmp_path, stored)
    assert a_bench(tmp_path, {})._manifest.created == stored.created
    stored.suite["experiments"][0]["load"]["preload_at"] = "farthest"
    results.write_manifest(tmp_path, stored)
    with pytest.raises(SuiteError, match="another suite"):
        a_bench(tmp_path, {})
    stored.suite["moons"] = 1
    results.write_manifest(tmp_path, stored)
    with pytest.raises(SuiteError, match="another suite"):
        a_bench(tmp_path, {})


async def test_what_is_still_being_asked_when_the_load_is_over_is_waited_for(tmp_path, monkeypatch):
    over = asyncio.Event()

    class Asking:
        leader = "ohio"
        counters: ClassVar[dict[str, int]] = {}

        async def begin(self) -> None:
            return

        async def end(self) -> tuple[list[Stage], list[Resources]]:
            await over.wait()
            await asyncio.sleep(0)
            return [Stage(name="total", count=7)], []

    class Fleet:
        def __init__(self, specs: Any) -> None:
            assert specs

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            return

        async def ready(self) -> None:
            return

        def start(self, _: Any) -> Window:
            return Window(start=0.0, measured_from=0.0, measured_to=0.0, end=0.0)

        async def finish(self, _: float) -> list[Any]:
            over.set()
            return []

    monkeypatch.setattr("bench.runner.Fleet", Fleet)
    monkeypatch.setattr("bench.runner.make_observer", lambda _: Asking())
    bench = a_bench(tmp_path, {})
    bench._scratch = tmp_path
    target: Any = SimpleNamespace(
        simulated=False,
        cluster=SimpleNamespace(layout=SimpleNamespace(places=[])),
        rpc="session",
        processes=dict,
        url=lambda _: "memory:",
    )
    probe = _Probe(bench._plans[0], target)
    async with AsyncExitStack() as stack:
        await bench._generate(stack, bench._plans[0], target, None, probe=probe)
    assert [stage.count for stage in probe.stages] == [7]


def test_a_ceiling_is_that_of_the_same_load_with_values_of_the_same_size(tmp_path):
    table = {
        "name": "test",
        "targets": [{"protocol": "multipaxos"}, {"protocol": "raft"}, {"target": "etcd"}],
        "experiments": [
            {"name": "small", "workload": "writes", "load": {"in_flight": 4}},
            {"name": "large", "workload": "writes", "changes": {"value.bytes": 4000}, "load": {"in_flight": 4}},
            {"name": "far", "workload": "writes", "cluster": {"topology": "wan3"}},
        ],
    }
    suite = parse_suite(table)
    watcher: Any = Silent()
    bench = _Bench(suite, plan_suite(suite), Settings(folder=tmp_path), watcher)
    wanted = [(each.experiment.name, each.entry.target) for each in bench._missing_ceilings(bench._plans)]
    assert [each for each in wanted if each[1] == "synod"] == [("small", "synod"), ("large", "synod")]
    bench._manifest.ceilings.append(Ceiling(rpc="session", in_flight=4, value_bytes=4000, throughput=9.0))
    found = {
        plan.experiment.name: bench._ceiling_of(plan) for plan in bench._plans if plan.entry.protocol == "multipaxos"
    }
    assert found == {"small": 0.0, "large": 9.0, "far": 0.0}
    assert len(bench._missing_ceilings(bench._plans)) == len(wanted) - 1


def test_a_benchmark_that_ends_by_its_own_cancellation_was_not_interrupted():
    async def itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled itself"):
        _interruptible(itself())


@pytest.fixture
def measuring(tmp_path, monkeypatch):
    """A program in the place of this one's interpreter: it stores a calibration where it is told, and counts."""
    made, count = tmp_path / "made.json", tmp_path / "count"
    store(made, MACHINE)
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\necho called >> {count}\nwhile [ "$1" != --out ]; do shift; done\n'
        f'[ -s {made} ] || {{ echo "no such disk" >&2; exit 1; }}\nmkdir -p "$(dirname "$2")"\ncp {made} "$2"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    return made, lambda: len(count.read_text().splitlines())


def test_a_suite_that_calibrates_keeps_each_pass_once_and_what_they_come_to(tmp_path, measuring):
    bench = a_bench(tmp_path / "results", {})
    bench._scratch = tmp_path
    for name in ("one", "one", "end"):
        asyncio.run(bench._calibrate(name))
    _, calls = measuring
    assert calls() == 2
    assert sorted(path.name for path in (tmp_path / "results" / "calibrations").iterdir()) == ["end.json", "one.json"]
    assert load(tmp_path / "results" / "calibration.json").passes == 2


def test_a_calibration_that_fails_is_told_and_the_suite_goes_on(tmp_path, measuring):
    bench = a_bench(tmp_path / "results", {})
    bench._scratch = tmp_path
    said: list[str] = []
    bench._watcher.says = said.append  # type: ignore[method-assign,assignment]
    measuring[0].write_text("")
    asyncio.run(bench._calibrate("one"))
    assert said[-1] == "the model could not be calibrated: no such disk"


def test_no_calibration_is_begun_that_would_go_on_beyond_the_time_that_was_given(tmp_path, measuring):
    bench = a_bench(tmp_path / "results", {})
    bench._settings = Settings(folder=tmp_path / "results", seconds_max=CALIBRATION_S / 2)
    with pytest.raises(Interrupted):
        asyncio.run(bench._calibrate("one"))


def concluded(*runs: RunResult) -> tuple[str, bool]:
    return conclusion(Folder(path=Path(), manifest=Manifest(name="x"), runs=list(runs), missing=[], problems=[]))


def test_the_conclusion_is_good_only_when_nothing_was_wrong_and_nothing_failed():
    fine = a_run(verdict=RunVerdict(answer="ok", digests="agree"))
    assert concluded(fine)[1]
    sentence, good = concluded(fine, a_run(verdict=RunVerdict(answer="violation", reason="lost")))
    assert not good
    assert "WRONG in 1 of 2 runs" in sentence
    assert not concluded(fine, a_run(verdict=RunVerdict(answer="ok", digests="differ")))[1]
    assert not concluded(fine, a_run(failure=Failure(reason="gone")))[1]


def test_what_was_not_decided_or_does_not_apply_is_not_called_linearizable():
    sentence, _ = concluded(
        a_run(verdict=RunVerdict(answer="unknown")), a_run(verdict=RunVerdict(answer="not applicable"))
    )
    assert "1 undecided, 1 not applicable" in sentence
    assert "linearizable" not in sentence
