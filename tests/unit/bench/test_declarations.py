"""Workloads and suites are checked once, before anything starts, by errors that name the field."""

from typing import Any

import pytest

from bench.cli import _targets
from bench.planning import expected_s, plan_suite
from bench.suite import SECONDS_MIN, SuiteError, TargetEntry, available_suites, load_suite, parse_suite, scaled
from bench.targets.synod import SynodTarget
from bench.workload import WorkloadError, available_workloads, load_workload, parse_workload
from replica.consensus.registry import available


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"keys": 0}, r"workload\.keys: 0"),
        ({"keys": "many"}, r"workload\.keys: expected"),
        ({"kees": 5}, r"workload: .*kees"),
        ({"writes": 1.5}, r"workload\.writes: 1\.5"),
        ({"writes": 0.5, "mix": {"read": 1.0}}, r"workload\.writes: is short for a mix"),
        ({"mix": {"read": 0.5}}, r"workload\.mix: the shares sum to 0\.5"),
        ({"mix": {"reed": 1.0}}, r"workload\.mix"),
        ({"value": {"bytes": 4}}, r"workload\.value\.bytes: 4"),
        ({"value": {"minimum": 1}}, r"workload\.value\.minimum: 16"),
        ({"distribution": {"kind": "pareto"}}, r"workload\.distribution\.kind"),
        ({"distribution": {"kind": "normal", "deviation": 0.0}}, r"workload\.distribution\.deviation"),
        ({"distribution": {"kind": "latest"}}, r"workload\.distribution\.kind: latest .* mix\.insert is 0"),
        ({"keys": 1, "conflict": {"percent": 5.0}}, r"workload\.conflict\.keys: 1 shared keys leave none"),
        ({"locality": {"deviation": 0.0}}, r"workload\.locality\.deviation: 0\.0 is not positive"),
        ({"locality": {"deviation": 0.3, "kind": "uniform"}}, r"workload\.locality\.deviation: 0\.3 is more than"),
        ({"conflict": {"percent": 101.0}}, r"workload\.conflict\.percent: 101"),
        ({"conflict": {"percent": 5.0}, "locality": {"deviation": 0.1}}, r"workload\.locality: cannot be combined"),
        ({"keys": 2, "mix": {"transaction": 1.0}}, r"workload\.keys: 2 keys cannot hold the 3"),
        ({"group": 2, "mix": {"transaction": 1.0}}, r"workload\.group: 2 keys cannot hold the 3"),
        ({"mix": {"create-run": 0.5, "read": 0.5}}, r"workload\.mix: operations on metadata"),
        ({"mix": {"scan": 1.0}, "scans": {"length": 0}}, r"workload\.scans\.length: 0"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused_by_its_field(table, message):
    with pytest.raises(WorkloadError, match=message):
        parse_workload(table)


def test_an_unknown_workload_is_answered_with_those_there_are():
    with pytest.raises(WorkloadError, match="uniform"):
        load_workload("uniforn")


@pytest.mark.parametrize("name", available_workloads())
def test_every_shipped_workload_is_sound_and_says_what_it_is(name):
    assert load_workload(name).summary


@pytest.mark.parametrize("name", available_suites())
def test_every_shipped_suite_is_sound_and_says_what_it_is(name):
    suite = load_suite(name)
    assert suite.summary
    assert plan_suite(suite).plans


def suite(*experiments: dict[str, Any], targets: tuple[dict[str, Any], ...] = ({"protocol": "multipaxos"},)) -> Any:
    return {"name": "test", "repetitions": 2, "targets": list(targets), "experiments": list(experiments)}


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"workload": "unknown"}, "there is no 'unknown'"),
        ({"load": {"in_flight": 0}}, r"load\.in_flight: 0"),
        ({"load": {"loop": "half-open"}}, r"load\.loop"),
        ({"load": {"regions": 3}}, r"load\.regions: 3 regions need a topology"),
        ({"load": {"in_flight": 2, "processes": 3}}, r"load\.in_flight: 2 cannot be shared among 3"),
        ({"cluster": {"replicas": 3, "topology": "wan5"}}, r"cluster\.replicas: 3 replicas cannot stand in the 5"),
        ({"cluster": {"topology": "moon"}}, r"cluster\.topology: there is no 'moon'"),
        ({"cluster": {"batch_max": 0}}, r"cluster\.batch_max: 0"),
        ({"cluster": {"leader": "ohio"}}, r"cluster\.leader: 'ohio' is a region, which needs a topology"),
        ({"cluster": {"leader": "mars", "topology": "wan3"}}, r"cluster\.leader: wan3 has no region 'mars'"),
        ({"faults": [{"kind": "kill", "replica": 1, "at_s": 6.25}]}, r"faults\.at_s: 6\.25 s is when the run is over"),
        ({"history": {"fraction": 2.0}}, r"history\.fraction: 2\.0"),
        ({"sweep": {"axis": "load.in_flght", "values": [1]}}, "in_flght"),
        ({"sweep": {"axis": "moon", "values": [1]}}, r"sweep\.axis: 'moon'"),
        ({"sweep": {"axis": "workload.conflict.percent", "values": [500]}}, r"workload\.conflict\.percent: 500"),
        ({"sweep": {"axis": "load.rate", "values": [1]}, "load": {"saturation": {}}}, "saturation steps the load"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused_before_anything_starts(experiment, message):
    with pytest.raises(SuiteError, match=message):
        plan_suite(parse_suite(suite({"name": "one", **experiment})))


def test_an_unknown_protocol_is_refused_with_those_there_are():
    with pytest.raises(SuiteError, match="there is no protocol 'raft9'"):
        plan_suite(parse_suite(suite({"name": "one"}, targets=({"protocol": "raft9"},))))


def test_what_a_protocol_cannot_do_is_skipped_aloud():
    planned = plan_suite(
        parse_suite(
            suite(
                {"name": "leases", "cluster": {"consistency": "lease"}},
                {"name": "plain"},
            )
        )
    )
    assert {plan.experiment.name for plan in planned.plans} == {"plain"}
    (skip,) = planned.skipped
    assert (skip.experiment, skip.label) == ("leases", "multipaxos")
    assert "no reads by lease" in skip.reason


@pytest.mark.parametrize(("leader", "region"), [("", "ohio"), ("japan", "japan")])
def test_keys_are_loaded_where_the_leader_is_to_stand(leader, region):
    experiment = {
        "name": "one",
        "cluster": {"replicas": 5, "topology": "wan5", "leader": leader},
        "load": {"processes": 2},
    }
    plan = plan_suite(parse_suite(suite(experiment))).plans[0]
    assert [plan.preloads(client) for client in range(plan.clients)] == [()] * plan.clients, "it does not want it"
    experiment["changes"] = {"preload": True}
    plan = plan_suite(parse_suite(suite(experiment))).plans[0]
    places = [name for name in plan.regions for _ in range(2)]
    (loader,) = [client for client in range(plan.clients) if plan.preloads(client)]
    assert places[loader] == region
    assert loader % 2 == 0
    assert plan.preloads(loader) == (0, 1, 2, 3, 4)


AWAY: dict[str, Any] = {
    "name": "one",
    "workload": "locality",
    "changes": {"preload": True},
    "cluster": {"replicas": 5, "topology": "wan5"},
    "load": {"processes": 2, "preload_at": "farthest"},
}


@pytest.mark.parametrize(
    ("regions", "farthest"),
    [
        (0, {"ohio": "japan", "virginia": "japan", "california": "ireland", "ireland": "japan", "japan": "ireland"}),
        (3, {"ohio": "california", "virginia": "california", "california": "virginia"}),
    ],
)
def test_keys_may_be_loaded_in_the_region_farthest_from_those_they_belong_to(regions, farthest):
    plan = plan_suite(parse_suite(suite({**AWAY, "load": {**AWAY["load"], "regions": regions}}))).plans[0]
    loaded = {
        plan.regions[home]: plan.regions[client // 2]
        for client in range(plan.clients)
        for home in plan.preloads(client)
    }
    assert loaded == farthest
    assert not any(plan.preloads(client) for client in range(1, plan.clients, 2)), "one process of a region is enough"


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({"changes": {}}, r"needs a workload that writes its keys .*workload\.preload"),
        ({"workload": "ycsb-a"}, r"needs keys that belong to a region .*workload\.locality"),
        ({"cluster": {}}, r"needs clients in several regions .*cluster\.topology"),
        ({"load": {"regions": 1, "preload_at": "farthest"}}, r"needs clients in several regions .*load\.regions"),
        ({"load": {"preload_at": "nearest"}}, r"preload_at"),
    ],
)
def test_loading_far_away_is_refused_where_there_is_no_far_away(changed, missing):
    with pytest.raises(SuiteError, match=missing):
        plan_suite(parse_suite(suite({**AWAY, **changed})))


def test_targets_take_turns_and_begin_in_turn():
    experiment = {"name": "one", "sweep": {"axis": "load.in_flight", "values": [1, 2]}}
    plans = plan_suite(
        parse_suite(suite(experiment, targets=({"protocol": "multipaxos"}, {"protocol": "fpaxos"})))
    ).plans
    order = [(plan.repetition, plan.point.value, plan.label) for plan in plans]
    assert order == [
        (0, 1, "multipaxos"),
        (0, 1, "fpaxos"),
        (0, 2, "multipaxos"),
        (0, 2, "fpaxos"),
        (1, 1, "fpaxos"),
        (1, 1, "multipaxos"),
        (1, 2, "fpaxos"),
        (1, 2, "multipaxos"),
    ]


def test_targets_may_be_run_one_after_the_other_each_at_all_of_its_points():
    experiment = {"name": "one", "sweep": {"axis": "load.in_flight", "values": [1, 2]}}
    table = suite(experiment, targets=({"protocol": "multipaxos"}, {"protocol": "fpaxos"})) | {"turns": "targets"}
    plans = plan_suite(parse_suite(table)).plans
    order = [(plan.label, plan.point.value) for plan in plans if plan.repetition == 0]
    assert order == [("multipaxos", 1), ("multipaxos", 2), ("fpaxos", 1), ("fpaxos", 2)]
    assert plans[4].label == "fpaxos", "the next repetition begins with the other one"
    interleaved = plan_suite(parse_suite(table | {"turns": "points"})).plans
    assert expected_s(plans) < expected_s(interleaved), "fewer deployments are started"


def test_the_quick_suite_has_every_protocol_that_comes_with_the_project():
    assert {entry.protocol for entry in load_suite("quick").targets} == set(available())


def test_protocols_that_are_named_run_as_the_suite_runs_them_and_plainly_where_it_does_not():
    entries = load_suite("wan").targets
    flexible, partitioned = _targets([], ["fpaxos,my.py:PROTOCOL"], entries)
    assert (flexible.cluster, flexible.experiments) == ({"options": {"q1": 4, "q2": 2}}, ["wan5"])
    assert partitioned == TargetEntry(protocol="my.py:PROTOCOL")
    (simulated,) = _targets(["simulated"], ["fpaxos"], entries)
    assert (simulated.target, simulated.cluster) == ("simulated", flexible.cluster)


def test_a_scaled_experiment_is_shorter_in_all_of_its_times_and_the_same_otherwise():
    (experiment, *_) = load_suite("availability").experiments
    short = scaled(experiment, 0.1)
    assert short.load.seconds == pytest.approx(1.6)
    assert short.load.warm_up_s == pytest.approx(0.1)
    (fault,) = short.faults
    assert (fault["at_s"], fault["for_s"], fault["kind"]) == (pytest.approx(0.5), pytest.approx(0.6), "kill")
    assert short.load.in_flight == experiment.load.in_flight
    assert scaled(experiment, 1e-6).load.seconds == SECONDS_MIN


def test_where_the_leader_stands_is_part_of_what_is_deployed_where_one_leads():
    table = suite(
        {"name": "one", "cluster": {"topology": "wan3", "leader": "virginia"}},
        targets=({"protocol": "multipaxos"}, {"protocol": "epaxos"}),
    )
    wanted = {
        plan.label: SynodTarget(plan.entry, plan.shape).describe().leader
        for plan in plan_suite(parse_suite(table)).plans
    }
    assert wanted == {"multipaxos": "virginia", "epaxos": ""}


def test_all_targets_are_asked_the_same_and_repetitions_something_else():
    plans = plan_suite(
        parse_suite(suite({"name": "one"}, targets=({"protocol": "multipaxos"}, {"protocol": "fpaxos"})))
    ).plans
    seeds = {(plan.repetition, plan.label): (plan.seed, plan.prefix) for plan in plans}
    assert seeds[0, "multipaxos"] == seeds[0, "fpaxos"]
    assert seeds[0, "multipaxos"] != seeds[1, "multipaxos"]


def test_two_targets_of_one_name_are_refused():
    twice = ({"protocol": "multipaxos"}, {"protocol": "multipaxos"})
    with pytest.raises(SuiteError, match="appears more than once"):
        plan_suite(parse_suite(suite({"name": "one"}, targets=twice)))


def test_a_target_may_change_the_cluster_and_says_so_in_its_name():
    entry = {"protocol": "multipaxos", "cluster": {"batch_max": 1}}
    (plan, *_) = plan_suite(parse_suite(suite({"name": "one"}, targets=(entry,)))).plans
    assert plan.shape.batch_max == 1
    assert plan.label == "multipaxos, batch_max 1"


def test_a_suite_of_which_nothing_is_left_is_refused_with_the_field_that_is_in_the_way():
    table = suite({"name": "one", "workload": "transactions"}, targets=({"protocol": "abd"},))
    with pytest.raises(SuiteError, match=r"nothing is left to run: abd: .*mix\.transaction"):
        plan_suite(parse_suite(table))


def test_what_a_record_costs_can_be_swept():
    experiment = {"name": "one", "sweep": {"axis": "history.fraction", "values": [0.0, 0.5]}}
    plans = plan_suite(parse_suite(suite(experiment))).plans
    assert {plan.experiment.history.fraction for plan in plans} == {0.0, 0.5}
