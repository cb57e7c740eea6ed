"""The model of this build behaves as such a system must."""

import os

import msgspec
import pytest

from bench.model import ModelError, Saturated
from bench.model.calibration import BUSY_SHARE, combine, doubts, load, others_cores, store
from bench.model.steps import measure_steps
from bench.model.system import (
    Calibration,
    Deployment,
    RoundCosts,
    StepCosts,
    capacity,
    closed_loop,
    open_loop,
)
from deploy.topology import load_topology

STEPS = StepCosts(
    leading_turn_us=40,
    leading_command_us=0.2,
    leading_operation_us=0.1,
    following_turn_us=25,
    following_command_us=0.1,
    following_operation_us=0.1,
)
ALONE = StepCosts(
    leading_turn_us=10,
    leading_command_us=0.2,
    leading_operation_us=0.05,
    following_turn_us=0,
    following_command_us=0,
    following_operation_us=0,
)
MACHINE = Calibration(
    machine="made up",
    cores=2,
    hop_us=90,
    frame_in_us=40,
    frame_out_us=60,
    byte_us=0.001,
    rounds={
        "3": RoundCosts(answered_us=(200, 280), leading_us=180, following_us=120),
        "5": RoundCosts(answered_us=(300, 380, 450, 520), leading_us=320, following_us=120),
    },
    synced_rounds={
        "1": RoundCosts(answered_us=(700,), operation_us=0.2, leading_us=120, following_us=0),
        "3": RoundCosts(answered_us=(1200, 1400), operation_us=1.5, leading_us=450, following_us=320),
        "5": RoundCosts(answered_us=(1500, 1700, 1800, 1900), operation_us=2, leading_us=600, following_us=320),
    },
    served_frame_us=400,
    served_operation_us=6,
    served_command_us=3,
    client_frame_us=180,
    client_operation_us=2.5,
    node_frame_us=200,
    node_operation_us=2,
    node_command_us=3,
    apply_operation_us=1.2,
    apply_command_us=2,
    synced_frame_us=1000,
    synced_operation_us=7,
    sync_us=700,
    unsynced_us=8,
    log_operation_us=0.1,
    loop_us=50,
    busy_frame_us=1.2 * 380,
    busy_operation_us=1.2 * 4.5,
    steps={"multipaxos/3": STEPS, "multipaxos/5": STEPS, "epaxos/3": STEPS, "abd/3": STEPS, "null/1": ALONE},
)
PAXOS = Deployment(protocol="multipaxos")
COMPANY = 1.2
FOLLOWING_US = COMPANY * (STEPS.following_turn_us + 2 * MACHINE.loop_us)
"""A follower's turn, and the two passes of loops on the way to a vote that counts."""


def test_throughput_grows_with_what_is_in_flight_and_never_beyond_capacity():
    points = [closed_loop(MACHINE, PAXOS, count) for count in (1, 16, 64, 256, 512)]
    rates = [point.throughput for point in points]
    assert rates == sorted(rates)
    assert all(rate <= capacity(MACHINE, PAXOS) * (1 + 1e-6) for rate in rates)
    assert [point.latency_ms for point in points] == sorted(point.latency_ms for point in points)


def test_littles_law_holds_at_every_point():
    for count in (1, 7, 64, 2_000):
        point = closed_loop(MACHINE, msgspec.structs.replace(PAXOS, topology=load_topology("wan3")), count)
        assert point.throughput * point.latency_ms / 1e3 == pytest.approx(count)
        shares = [count / 3 / region.latency_ms * 1e3 for region in point.regions]
        assert sum(shares) == pytest.approx(point.throughput, rel=1e-3)


def test_the_parts_of_an_unhurried_operation_add_up_to_its_latency():
    point = closed_loop(MACHINE, PAXOS, 1)
    assert point.limit == "path"
    assert sum(point.parts_ms.values()) == pytest.approx(point.latency_ms)


def test_a_leader_waits_for_the_quorum_as_long_as_it_takes_beyond_its_own_sync():
    synced = closed_loop(MACHINE, PAXOS, 1)
    assert synced.parts_ms["the quorum"] == pytest.approx((1200 + FOLLOWING_US - 700) / 1e3)
    many = closed_loop(MACHINE, PAXOS, 101)
    more = 100 * (1.5 - 0.2 + COMPANY * STEPS.following_operation_us)
    assert many.parts_ms["the quorum"] - synced.parts_ms["the quorum"] == pytest.approx(more / 1e3)


def test_without_syncs_an_operation_waits_for_the_round_alone():
    unsynced = closed_loop(MACHINE, msgspec.structs.replace(PAXOS, durability="none"), 1)
    assert unsynced.parts_ms["the quorum"] == pytest.approx((200 + FOLLOWING_US) / 1e3)
    assert unsynced.latency_ms < closed_loop(MACHINE, PAXOS, 1).latency_ms


@pytest.mark.parametrize(("durability", "kind"), [("none", "served"), ("sync", "synced")])
def test_what_one_replica_does_by_itself_is_not_counted_twice(durability, kind):
    alone = msgspec.structs.replace(PAXOS, protocol="null", replicas=1, durability=durability)
    for count in (1, 64, 512):
        took_us = getattr(MACHINE, f"{kind}_frame_us") + count * getattr(MACHINE, f"{kind}_operation_us")
        assert closed_loop(MACHINE, alone, count).latency_ms == pytest.approx(took_us / 1e3)


def test_unbatched_commands_cost_the_replicas_but_share_turns_and_syncs():
    single = msgspec.structs.replace(PAXOS, batch_max=1)
    assert closed_loop(MACHINE, single, 1) == closed_loop(MACHINE, PAXOS, 1)
    together, apart = closed_loop(MACHINE, PAXOS, 256), closed_loop(MACHINE, single, 256)
    more = {name: apart.parts_ms[name] - part for name, part in together.parts_ms.items()}
    in_company_us = (COMPANY - 1) * MACHINE.node_command_us
    assert more["client and one replica"] == pytest.approx(255 * (MACHINE.served_command_us + in_company_us) / 1e3)
    assert more["protocol"] < 0.1
    assert more["the quorum"] < 0.1
    assert capacity(MACHINE, single) < capacity(MACHINE, PAXOS)


def test_work_costs_more_where_there_are_more_processes_than_cores():
    roomy = msgspec.structs.replace(MACHINE, cores=4)
    assert MACHINE.company(2, 64) == 1
    assert MACHINE.company(3, 64) == pytest.approx(COMPANY)
    served = [closed_loop(machine, PAXOS, 64).parts_ms["client and one replica"] for machine in (MACHINE, roomy)]
    work_us = 380 + 64 * 4.5
    assert served[0] - served[1] == pytest.approx((COMPANY - 1) * work_us / 1e3)
    unmeasured = msgspec.structs.replace(MACHINE, busy_frame_us=0.0, busy_operation_us=0.0)
    assert unmeasured.company(4, 64) == 1


def test_two_phases_wait_for_two_rounds():
    writes = closed_loop(MACHINE, msgspec.structs.replace(PAXOS, protocol="abd"), 1)
    one = closed_loop(MACHINE, PAXOS, 1)
    another_round_ms = (1200 + FOLLOWING_US) / 1e3
    assert writes.latency_ms - one.latency_ms == pytest.approx(another_round_ms)


def test_reads_wait_for_no_sync_but_for_the_frames_of_their_kind():
    read, write = (msgspec.structs.replace(PAXOS, write_share=share) for share in (0.0, 1.0))
    assert closed_loop(MACHINE, read, 1).latency_ms < closed_loop(MACHINE, write, 1).latency_ms - 0.4
    roomy = msgspec.structs.replace(MACHINE, cores=16)
    mixed = closed_loop(roomy, msgspec.structs.replace(PAXOS, write_share=0.5), 64)
    assert mixed.limit == "path"
    assert mixed.parts_ms["gathering"] > 0
    assert sum(mixed.parts_ms.values()) == pytest.approx(mixed.latency_ms)
    # A caller by itself never waits for a frame of another.
    assert closed_loop(MACHINE, msgspec.structs.replace(PAXOS, write_share=0.5), 1).parts_ms["gathering"] == 0


def test_numbers_of_replicas_that_were_not_measured_follow_the_nearest():
    seven = msgspec.structs.replace(PAXOS, replicas=7)
    five = msgspec.structs.replace(PAXOS, replicas=5)
    assert closed_loop(MACHINE, seven, 16).latency_ms > closed_loop(MACHINE, five, 16).latency_ms


def test_far_regions_wait_for_their_way_to_the_leader():
    point = closed_loop(MACHINE, msgspec.structs.replace(PAXOS, topology=load_topology("wan5"), replicas=5), 5)
    by_region = {entry.region: entry for entry in point.regions}
    assert by_region["japan"].latency_ms - by_region["ohio"].latency_ms == pytest.approx(155.5, abs=0.2)


def test_an_open_loop_beyond_capacity_is_saturated_and_below_it_finite():
    limit = capacity(MACHINE, PAXOS)
    with pytest.raises(Saturated) as refused:
        open_loop(MACHINE, PAXOS, limit * 1.01)
    assert refused.value.capacity == pytest.approx(limit)
    calm, busy = (open_loop(MACHINE, PAXOS, limit * share) for share in (0.05, 0.9))
    assert 0 < calm.latency_ms < busy.latency_ms < float("inf")
    assert busy.batch > calm.batch


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol": "raft"}, "protocol"),
        ({"durability": "maybe"}, "durability"),
        ({"batch_max": 0}, "batch_max"),
        ({"value_bytes": 0}, "value_bytes"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_by_field(change, field):
    with pytest.raises(ModelError, match=rf"^{field}: "):
        closed_loop(MACHINE, msgspec.structs.replace(PAXOS, **change), 1)


def test_a_calibration_comes_back_from_its_file_as_it_was(tmp_path):
    path = tmp_path / "deep" / "calibration.json"
    store(path, MACHINE)
    assert load(path) == MACHINE


def test_a_calibration_that_is_missing_or_broken_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match="synod model calibrate"):
        load(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(broken)
    store(broken, msgspec.structs.replace(MACHINE, format=99))
    with pytest.raises(ModelError, match="calibrate again"):
        load(broken)


def a_pass(**changes: object) -> Calibration:
    return msgspec.structs.replace(MACHINE, **changes)


def test_a_constant_is_the_median_of_its_passes_and_says_how_far_they_were_apart():
    found = combine([a_pass(hop_us=80.0), a_pass(hop_us=90.0), a_pass(hop_us=400.0)])
    assert found.hop_us == 90
    assert found.spread["hop_us"] == pytest.approx(320 / 90, abs=1e-3)
    assert found.passes == 3
    slower = RoundCosts(answered_us=(240, 300), leading_us=200, following_us=130)
    found = combine([a_pass(), a_pass(rounds={"3": slower}), a_pass(rounds={"3": slower})])
    assert found.rounds == {"3": slower}
    assert found.steps == MACHINE.steps


def test_a_calibration_that_combines_nothing_is_refused():
    with pytest.raises(ModelError, match="no pass"):
        combine([])


def test_a_calibration_on_a_busy_machine_or_that_did_not_hold_still_is_doubted():
    assert doubts(MACHINE) == []
    (busy,) = doubts(a_pass(others_cores=MACHINE.cores * BUSY_SHARE * 1.5))
    assert "quiet machine" in busy
    (moving,) = doubts(combine([a_pass(sync_us=500.0), a_pass(sync_us=800.0), a_pass(sync_us=2_000.0)]))
    assert moving.startswith("sync_us moved by")


def test_what_other_programs_use_is_at_most_all_cores():
    assert 0 <= others_cores(0.05) <= (os.cpu_count() or 1)


def test_a_stored_calibration_has_a_line_for_each_list_of_numbers(tmp_path):
    path = tmp_path / "calibration.json"
    store(path, MACHINE)
    assert "[300, 380, 450, 520]" in path.read_text()


# Messages a write by peer, as the table of all protocols has them (replica/consensus/README.md).
MESSAGES_A_PEER = {"multipaxos": 2, "fpaxos": 2, "raft": 2, "epaxos": 3, "abd": 4, "wpaxos": 3, "null": 0}


@pytest.mark.parametrize(
    ("protocol", "replicas", "messages"),
    [
        (protocol, replicas, each * (replicas - 1))
        for protocol, each in MESSAGES_A_PEER.items()
        for replicas in ((1,) if protocol == "null" else (3, 5))
    ],
)
def test_steps_are_counted_in_an_undisturbed_cluster(protocol, replicas, messages):
    cost = measure_steps(protocol, replicas, turns=40)
    assert cost.messages == pytest.approx(messages, abs=0.5)
    assert cost.writes >= replicas
    assert cost.leading_us > 0


def test_commands_that_are_proposed_in_one_turn_travel_together():
    alone = measure_steps("multipaxos", 3, turns=40)
    together = measure_steps("multipaxos", 3, together=16, turns=40)
    assert together.messages == pytest.approx(alone.messages, abs=0.5)


def test_a_replica_that_was_asleep_takes_no_less_for_a_turn():
    busy = measure_steps("multipaxos", 3, turns=30)
    rested = measure_steps("multipaxos", 3, turns=30, rested=True)
    assert rested.messages == pytest.approx(busy.messages, abs=0.5)
    assert rested.leading_us > busy.leading_us / 4
