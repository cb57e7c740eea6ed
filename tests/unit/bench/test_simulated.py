"""Benchmarks in virtual time: what they cost, whom they wait for, and that they are judged like any other."""

import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.judging import judge
from bench.load.generator import GeneratorResult, GeneratorSpec
from bench.load.measure import Window, merge
from bench.report import experiments_of
from bench.report.settling import settlements
from bench.results import Summary, decode_histogram, read_folder
from bench.runner import Settings, run_suite
from bench.simulated.costs import ClientSample, Costs, Sample, fit, load_costs
from bench.simulated.machine import SimulationLimit
from bench.simulated.run import Simulation
from bench.suite import ClusterShape, HistoryOptions, Load, TargetEntry, load_suite
from bench.targets import TargetError, find_target
from bench.targets.simulated import COSTS_VARIABLE
from bench.workload import parse_workload
from deploy.topology import load_topology
from replica.consensus.registry import find_protocol

WRITES: dict[str, Any] = {"name": "writes", "writes": 1.0, "keys": 50}


def simulation(protocol: str = "multipaxos", replicas: int = 3, costs: Costs | None = None, **shape: Any) -> Simulation:
    described = ClusterShape(replicas=replicas, **shape)
    topology = load_topology(described.topology) if described.topology else None
    made = Simulation(find_protocol(protocol), described, topology=topology, costs=costs or Costs(), seed=3)
    made.start()
    return made


def load(
    cluster: Simulation,
    workload: dict[str, Any] = WRITES,
    *,
    fraction: float = 0.0,
    preload: bool = False,
    **fields: Any,
) -> tuple[Summary, list[GeneratorResult], Window]:
    settings = Load(**{"seconds": 0.3, "warm_up_s": 0.1, "cool_down_s": 0.0, "in_flight": 8, **fields})
    regions = list(cluster.topology.regions.names) if cluster.topology is not None else [""]
    specs = [
        GeneratorSpec(
            rpc="simulated", url="", workload=parse_workload(workload), load=settings, seed=1, client=place,
            clients=len(regions), in_flight=settings.in_flight, rate=settings.rate / len(regions), region=region,
            region_index=place, regions=len(regions), prefix="p", fraction=fraction, operations_max=10_000,
            preload=tuple(range(len(regions))) if preload and place == 0 else (),
        )
        for place, region in enumerate(regions)
    ]  # fmt: skip
    found, window = cluster.generate(specs)
    parts = [(region, each.measured) for region, each in zip(regions, found, strict=True)]
    summary, _, _ = merge(parts, window, open_loop=settings.loop == "open")
    return summary, found, window


def test_a_run_is_the_same_when_it_is_made_again():
    first, second = (load(simulation()) for _ in range(2))
    assert first[0] == second[0]
    assert first[0].operations > 100
    assert [each.measured for each in first[1]] == [each.measured for each in second[1]]


def test_what_things_cost_is_what_a_write_takes():
    quick = Costs()
    slow = msgspec.structs.replace(quick, sync_s=quick.sync_s + 0.01)
    without, _, _ = load(simulation(costs=quick), in_flight=1)
    with_it, _, _ = load(simulation(costs=slow), in_flight=1)
    # The leader and a follower sync at the same time.
    assert with_it.mean_ms - without.mean_ms == pytest.approx(10.0, abs=1.0)
    not_durable, _, _ = load(simulation(costs=slow, durability="none"), in_flight=1)
    assert not_durable.mean_ms < without.mean_ms


def test_a_leader_has_more_to_do_the_more_replicas_there_are():
    few, _, _ = load(simulation(replicas=3), in_flight=64)
    cluster = simulation(replicas=25)
    many, _, _ = load(cluster, in_flight=64)
    assert many.throughput < few.throughput / 2
    used = {each.role: each.cpu_user_s for each in cluster.resources}
    assert used["leader"] > 5 * used["follower"]
    assert len({digest for _, digest in cluster.digests().values()}) == 1


def test_far_apart_a_write_takes_what_the_matrix_says():
    cluster = simulation(replicas=5, topology="wan5")
    _, found, _ = load(cluster, in_flight=1, seconds=4.0, warm_up_s=0.5)
    topology = cluster.topology
    assert topology is not None
    regions = topology.regions.names
    leader = regions[cluster.leader - 1]
    quorum_ms = sorted(topology.round_trip(leader, other) for other in regions if other != leader)[1]
    for region, each in zip(regions, found, strict=True):
        histogram = decode_histogram(each.measured.histograms["write"]["sent"])
        predicted_ms = topology.round_trip(region, leader) + quorum_ms
        assert histogram.get_mean_value() / 1e3 == pytest.approx(predicted_ms, abs=3.0), region
    network = cluster.network()
    assert network is not None
    assert network.shaper == "simulated"
    assert network.as_declared


@pytest.mark.parametrize("region", ["virginia", "california"])
@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
def test_a_leader_is_placed_and_stays_there(protocol, region):
    cluster = simulation(protocol, topology="wan3")
    cluster.place_leader(region)
    load(cluster, in_flight=3, seconds=1.0)
    assert cluster.led_by == [region, region]


def test_what_protocols_count_in_the_measured_part_is_added_up():
    cluster = simulation("epaxos", topology="wan3")
    alone, _, _ = load(cluster, {**WRITES, "conflict": {"percent": 0.0}}, in_flight=1, seconds=2.0)
    assert cluster.counters["fast"] == pytest.approx(alone.operations, rel=0.1)
    assert not cluster.counters.get("slow")
    load(cluster, {**WRITES, "conflict": {"percent": 100.0}}, in_flight=1, seconds=2.0)
    assert cluster.counters["slow"] > cluster.counters["fast"]


@pytest.mark.parametrize("protocol", ["multipaxos", "null"])
@pytest.mark.parametrize("sync_mode", ["inline", "thread"])
def test_what_clients_saw_is_judged_like_what_they_saw_of_a_real_cluster(tmp_path: Path, protocol, sync_mode):
    cluster = simulation(protocol, 1 if protocol == "null" else 3, sync_mode=sync_mode)
    mix = {"name": "mix", "keys": 20, "mix": {"read": 0.4, "write": 0.4, "transaction": 0.2}, "group": 4}
    _, found, window = load(cluster, mix, fraction=1.0, preload=True, in_flight=16)
    assert found[0].loaded.operations
    verdict = judge(
        [("client", found[0].recording)],
        loaded=[("loader", found[0].loaded)],
        start=window.start,
        total=found[0].measured.total,
        stale=False,
        revisions=True,
        options=HistoryOptions(fraction=1.0),
        faults=[],
        folder=tmp_path,
        run_id="x",
        attributes={},
    )
    assert verdict.answer == "ok", verdict.reason
    assert verdict.operations > 100
    assert verdict.sampled == pytest.approx(len(found[0].recording.operations) / found[0].measured.total)
    assert verdict.operations == len(found[0].recording.operations) + len(found[0].loaded.operations)


def test_an_open_loop_offers_what_it_was_told_to():
    summary, _, _ = load(simulation(), loop="open", rate=400.0, arrivals="constant", seconds=1.0)
    assert summary.offered == pytest.approx(400, abs=5)
    assert summary.throughput == pytest.approx(400, abs=10)


def test_an_interrupt_ends_a_run_that_is_being_made():
    cluster = simulation()
    threading.Timer(0.2, cluster.interrupt).start()
    with pytest.raises(SimulationLimit, match="interrupted"):
        load(cluster, seconds=3600.0)


def test_the_target_says_that_it_is_simulated_with_which_costs_and_refuses_faults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = find_target("simulated")(TargetEntry(target="simulated"), ClusterShape(replicas=9))
    described = target.describe()
    assert (described.simulated, described.label, described.replicas) == (True, "multipaxos, simulated", 9)
    assert described.node["costs"]["sync_s"] == Costs().sync_s
    assert "nothing was measured here" in target.note()
    assert f"sync {Costs().sync_s * 1e6:.4g}" in target.note()
    workload = parse_workload(WRITES)
    assert "nothing fails" in target.refusal(workload, [{"kind": "kill"}])
    assert target.refusal(workload, []) == ""


# --------------------------------------------------------------------------------------------------------------- costs


def test_costs_are_found_again_in_what_they_caused():
    true = Costs(turn_s=50e-6, frame_s=80e-6, message_s=5e-6, apply_s=2e-6, serve_s=1e-6, byte_s=2e-9)
    draw = random.Random(5)
    samples = []
    for _ in range(24):
        turns, frames, messages = draw.uniform(100, 1000), draw.uniform(200, 3000), draw.uniform(300, 9000)
        applied, size, commits = draw.uniform(200, 60_000), draw.uniform(1e5, 4e7), draw.uniform(80, 300)
        served = applied if draw.random() < 0.4 else 0.0
        spent = turns * true.turn_s + frames * true.frame_s + messages * true.message_s + commits * true.commit_s
        spent += applied * true.apply_s + served * true.serve_s + size * true.byte_s
        samples.append(
            Sample(
                processor_s=spent + 0.08,  # what it uses without being asked anything
                turns=turns,
                frames=frames,
                messages=messages,
                applied=applied,
                served=served,
                bytes=size,
                commits=commits,
            )
        )
    clients = [
        ClientSample(processor_s=frames * 90e-6 + operations * 5e-6, frames=frames, operations=operations)
        for frames, operations in ((500, 500), (300, 30_000), (900, 2000))
    ]
    found = fit(samples, clients, [0.002, 0.001, 0.004], true.frame_s)
    for name in ("turn_s", "frame_s", "message_s", "apply_s", "serve_s", "byte_s", "commit_s"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.02), name
    assert found.client_frame_s == pytest.approx(90e-6)
    assert found.client_operation_s == pytest.approx(5e-6)
    assert found.sync_s == 0.002
    assert found.misfit < 0.01
    assert found.measured


def test_without_a_measurement_there_are_no_costs():
    with pytest.raises(ValueError, match="nothing was measured"):
        fit([], [], [], 0.0)


def test_costs_are_read_from_their_file_and_a_broken_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "costs.json"
    assert load_costs(path) == Costs()
    path.write_bytes(msgspec.json.encode(Costs(sync_s=0.123)))
    assert load_costs(path).sync_s == 0.123
    path.write_text("{")
    with pytest.raises(ValueError, match=r"costs\.json"):
        load_costs(path)
    monkeypatch.setenv("SYNOD_BENCH_COSTS", str(path))
    with pytest.raises(TargetError, match=r"costs\.json"):
        find_target("simulated")(TargetEntry(target="simulated"), ClusterShape())


async def test_objects_that_begin_far_away_come_home_within_a_minute(tmp_path, monkeypatch):
    monkeypatch.setenv(COSTS_VARIABLE, str(tmp_path / "none.json"))
    shipped = load_suite("locality")
    (moving,) = [each for each in shipped.experiments if each.name == "moving"]
    (wpaxos,) = [each for each in shipped.targets if each.protocol == "wpaxos"]
    assert moving.sweep is not None
    half = msgspec.structs.replace(
        moving,
        sweep=msgspec.structs.replace(moving.sweep, values=[0.05]),
        # Half as many of both: each object is used as often.
        changes={**moving.changes, "keys": 150},
        load=msgspec.structs.replace(moving.load, rate=25.0),
    )
    suite = msgspec.structs.replace(
        shipped,
        experiments=[half],
        targets=[msgspec.structs.replace(wpaxos, target="simulated")],
        repetitions=1,
    )
    watcher: Any = SimpleNamespace(**dict.fromkeys(("planned", "begins", "ended", "says"), lambda *_: None))
    await run_suite(suite, Settings(folder=tmp_path / "results", ceilings=False), watcher)
    (view,) = experiments_of(read_folder(tmp_path / "results"))
    point = view.at("wpaxos", 0.05)
    assert point is not None
    assert [run.verdict.answer for run in point.runs] == ["ok"]
    rows = settlements(point)
    assert {row.region for row in rows} == set(load_topology("wan5").regions.names)
    for row in rows:
        assert row.last.mean <= row.first.mean / 2, row
        assert row.declared_ms is not None
        assert row.declared_ms < row.last.mean, row
