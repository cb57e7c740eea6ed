"""The model of this build behaves as such a system must."""

import msgspec
import pytest

from bench.model import ModelError, Saturated
from bench.model.calibration import load, store
from bench.model.steps import measure_steps
from bench.model.system import Calibration, Deployment, StepCosts, capacity, closed_loop, open_loop
from deploy.topology import load_topology

STEPS = StepCosts(leading_command_us=40, leading_operation_us=0.1, following_command_us=25, following_operation_us=0.1)
MACHINE = Calibration(
    machine="made up",
    cores=2,
    hop_us=90,
    frame_in_us=40,
    frame_out_us=60,
    byte_us=0.001,
    client_hop_us=90,
    client_operation_us=1.5,
    client_frame_us=30,
    service_operation_us=0.3,
    apply_operation_us=1.2,
    apply_command_us=2,
    sync_us=800,
    unsynced_us=8,
    log_operation_us=0.1,
    company=1.2,
    steps={"multipaxos/3": STEPS, "multipaxos/5": STEPS, "epaxos/3": STEPS},
)
PAXOS = Deployment(protocol="multipaxos")


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


def test_without_syncs_an_operation_is_faster_by_about_a_sync():
    synced = closed_loop(MACHINE, PAXOS, 1).latency_ms
    unsynced = closed_loop(MACHINE, msgspec.structs.replace(PAXOS, durability="none"), 1).latency_ms
    assert synced - unsynced == pytest.approx((MACHINE.sync_us - MACHINE.unsynced_us) / 1e3, rel=0.01)


def test_unbatched_commands_cost_capacity():
    single = msgspec.structs.replace(PAXOS, batch_max=1)
    assert capacity(MACHINE, single) < capacity(MACHINE, PAXOS) / 5
    assert closed_loop(MACHINE, single, 512).throughput < closed_loop(MACHINE, PAXOS, 512).throughput


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


@pytest.mark.parametrize(
    ("protocol", "replicas", "messages"), [("multipaxos", 3, 4), ("multipaxos", 5, 8), ("null", 1, 0)]
)
def test_steps_are_counted_in_an_undisturbed_cluster(protocol, replicas, messages):
    cost = measure_steps(protocol, replicas, commands=40)
    assert cost.messages == pytest.approx(messages, abs=0.5)
    assert cost.writes >= replicas
    assert cost.leading_us > 0
