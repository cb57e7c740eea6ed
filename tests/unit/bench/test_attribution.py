"""From counters to stages and resources."""

from types import SimpleNamespace

import psutil
import pytest

from bench.attribution import (
    Reading,
    _machine,
    counters_between,
    leader_of,
    quantile,
    quorum_of,
    resources_between,
    split_stages,
    stages_between,
)
from bench.networks import compare
from bench.results import Stage
from deploy.topology import load_topology


def stage(name: str, mean_ms: float) -> Stage:
    return Stage(name=name, replica=1, count=10, mean_ms=mean_ms)


def split(round_trips_ms: list[float], *, decide: float = 10.0, sync: float = 1.0, quorum: int = 2) -> dict[str, float]:
    measured = {name: stage(name, 0.1) for name in ("queue", "batch", "apply")}
    measured |= {"decide": stage("decide", decide), "sync": stage("sync", sync), "total": stage("total", decide + 0.3)}
    return {found.name: found.mean_ms for found in split_stages(measured, round_trips_ms=round_trips_ms, quorum=quorum)}


def test_the_parts_add_up_to_the_total():
    for round_trips in ([], [0.4, 3.0], [20.0, 30.0]):
        found = split(round_trips)
        total = found.pop("total")
        assert sum(found.values()) == pytest.approx(total), round_trips
        assert min(found.values()) >= 0


def test_the_network_is_the_round_trip_to_the_last_one_that_the_quorum_needs():
    assert split([3.0, 9.0, 2.0, 8.0], quorum=3)["network"] == 3.0
    assert split([3.0, 9.0, 2.0, 8.0], quorum=2)["network"] == 2.0
    assert split([3.0], quorum=1)["network"] == 0.0


def test_a_slow_own_disk_is_the_sync_and_a_slow_peer_is_the_quorum():
    assert split([0.5, 0.5], decide=10.0, sync=9.5)["sync"] == 9.5
    assert split([0.5, 0.5], decide=10.0, sync=0.5)["quorum"] == 9.0


def test_the_quorum_is_what_the_protocol_was_told_or_a_majority():
    assert quorum_of({}, 5) == 3
    assert quorum_of({"q2": 2}, 5) == 2


def reading(count: float, seconds: float, **fields) -> Reading:
    buckets = {
        f"synod_stage_{name}_seconds": {0.001: 0.0, 0.01: count, float("inf"): count} for name in ("decide", "total")
    }
    values = {f"{name}_sum": seconds for name in buckets}
    return Reading(replica=1, values={**values, **fields}, buckets=buckets)


def test_only_what_came_between_two_readings_counts():
    found = {s.name: s for s in stages_between(reading(10, 5.0), reading(30, 5.1), quorum=2)}
    assert found["total"].count == 20
    assert found["total"].mean_ms == pytest.approx(5.0)
    assert 1 < found["total"].p50_ms < 10


def test_a_replica_that_served_nobody_has_no_stages():
    assert stages_between(reading(10, 5.0), reading(10, 5.0), quorum=2) == []


def test_resources_are_what_has_been_added():
    before = Reading(replica=2, cpu_user_s=1.0, values={"synod_peer_bytes_sent": 100.0})
    now = Reading(replica=2, role="leader", cpu_user_s=3.0, memory_bytes=7, values={"synod_peer_bytes_sent": 350.0})
    found = resources_between(before, now)
    assert (found.name, found.role, found.cpu_user_s, found.memory_bytes) == ("replica 2", "leader", 2.0, 7)
    assert (found.network_sent_bytes, found.network_received_bytes) == (250, 0)


def test_what_a_protocol_counted_is_told_from_the_gauges_that_begin_alike():
    before = Reading(replica=1, values={"synod_protocol_fast": 5.0, "synod_protocol_queued": 9.0})
    now = Reading(
        replica=1,
        values={
            "synod_protocol_fast": 8.0,
            "synod_protocol_slow": 2.0,
            "synod_protocol_queued": 1.0,
            "synod_protocol_in_flight": 3.0,
            "synod_turns": 70.0,
        },
    )
    assert counters_between(before, now) == {"fast": 3, "slow": 2}


def test_a_leader_is_named_by_its_region_and_only_if_nobody_else_says_that_it_leads():
    follower = Reading(replica=1, region="ohio")
    one, other = Reading(replica=2, region="virginia", leads=True), Reading(replica=3, leads=True)
    assert leader_of([follower, one]) == "virginia"
    assert leader_of([follower, other]) == "replica 3"
    assert leader_of([one, other]) == ""
    assert leader_of([follower]) == ""


def test_a_quantile_lies_within_its_bucket():
    assert quantile({0.001: 50.0, 0.01: 100.0, float("inf"): 100.0}, 0.5) == pytest.approx(0.001)
    assert quantile({0.001: 50.0, 0.01: 100.0, float("inf"): 100.0}, 0.75) == pytest.approx(0.0055)
    assert quantile({0.001: 0.0, float("inf"): 10.0}, 0.5) == 0.001, "beyond the last bound nothing is known"
    assert quantile({}, 0.5) == 0.0


# ----------------------------------------------------------------------------------------------------------- networks


def test_a_network_within_a_tenth_or_two_milliseconds_is_as_declared():
    topology = load_topology("wan3")
    found = compare(
        topology, {("ohio", "virginia"): [12.0, 12.2, 99.0]}, {("california", "ohio"): [55.0]}, name="wan3", shaper="x"
    )
    assert found.as_declared
    assert [(link.one, link.declared_ms, link.achieved_ms, link.client) for link in found.links] == [
        ("ohio", 10.5, 12.2, False), ("california", 50.6, 55.0, True)
    ]  # fmt: skip


def test_a_network_that_is_not_as_declared_says_where():
    topology = load_topology("wan3")
    found = compare(topology, {("ohio", "virginia"): [13.0]}, {("california", "ohio"): []}, name="wan3", shaper="x")
    assert not found.as_declared
    assert "ohio and virginia a round trip takes 13.0 ms, declared are 10.5 ms" in found.problems[0]
    assert "clients in california and ohio no round trip could be measured" in found.problems[1]


def test_without_a_topology_nothing_is_declared():
    assert compare(None, {("", ""): [0.4]}, {("", ""): [0.7]}, name="", shaper="none").as_declared


def test_what_runs_with_a_lowered_priority_is_time_of_the_machine_too(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=3.0, nice=2.0, system=1.0))
    assert _machine() == (5.0, 1.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(user=3.0, system=1.0))  # some know of no such time
    assert _machine() == (3.0, 1.0)
