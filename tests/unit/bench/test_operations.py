"""Operations are a pure function of (seed, client, number), and follow the distributions that were declared."""

from collections import Counter
from typing import Any

import pytest

from bench.operations import KINDS, Planned, Sample, Stream, operation_of
from bench.workload import WorkloadError, available_workloads, load_workload, parse_workload
from replica.kv.operations import Get, Put, Range, Transaction

MANY = 4000


def stream(table: dict[str, Any], **options: Any) -> Stream:
    return Stream(parse_workload(table), **{"seed": 7, **options})


def first(made: Stream, count: int = MANY) -> list[Planned]:
    return [made.operation(number) for number in range(count)]


def key_numbers(made: Stream, count: int = MANY) -> list[int]:
    found = []
    for planned in first(made, count):
        operation: Any = planned.operation
        assert isinstance(operation, Get | Put)
        found.append(int(operation.key))
    return found


@pytest.mark.parametrize("name", available_workloads())
def test_two_runs_ask_the_same_and_any_operation_can_be_made_alone(name):
    workload = load_workload(name)
    one = Stream(workload, seed=5, client=1, clients=3, region=1, regions=3, prefix=b"p/", fraction=0.1)
    asked = first(one, 1000)
    for number in (999, 0, 500, 257, 255, 3):
        other = Stream(workload, seed=5, client=1, clients=3, region=1, regions=3, prefix=b"p/", fraction=0.1)
        assert other.operation(number) == asked[number]


def test_another_seed_or_another_client_asks_something_else():
    table = {"writes": 0.5}
    asked = first(stream(table), 100)
    assert first(stream(table, seed=8), 100) != asked
    assert first(stream(table, client=1, clients=2), 100) != asked


def test_a_hot_spot_moves_with_the_number_of_the_operation_and_not_with_time():
    table = {
        "keys": 1000,
        "distribution": {"kind": "normal", "deviation": 0.001, "move_every": 1000, "move_by": 250},
    }
    made = stream(table)
    keys = key_numbers(made)
    for quarter, centre in enumerate((500, 750, 0, 250)):
        near = keys[quarter * 1000 : (quarter + 1) * 1000]
        assert all(min(abs(key - centre), 1000 - abs(key - centre)) <= 10 for key in near)
    # Asked for out of order, the same spot is found.
    again = stream(table)
    assert again.operation(3500) == made.operation(3500)
    assert again.operation(10) == made.operation(10)


def test_every_written_value_names_its_operation_and_no_two_are_the_same():
    made = stream({"keys": 64, "mix": {"write": 0.4, "update": 0.2, "transaction": 0.4}}, client=2, clients=3)
    seen = set()
    for number, planned in enumerate(first(made)):
        operation: Any = planned.operation
        puts: list[Put] = []
        if isinstance(operation, Put):
            puts = [operation]
        elif isinstance(operation, Transaction):
            puts = [each for each in operation.then if isinstance(each, Put)]
        elif planned.after is not None:
            puts = [planned.after]
        for put in puts:
            identity = operation_of(put.value)
            assert identity is not None
            assert (identity.client, identity.number) == (2, number)
            assert put.value not in seen
            seen.add(put.value)
            assert len(put.value) == 128
    assert seen


def test_the_mix_is_kept():
    counts = Counter(KINDS[each.kind] for each in first(stream({"mix": {"read": 0.7, "write": 0.2, "delete": 0.1}})))
    assert counts["read"] / MANY == pytest.approx(0.7, abs=0.03)
    assert counts["write"] / MANY == pytest.approx(0.2, abs=0.03)
    assert counts["delete"] / MANY == pytest.approx(0.1, abs=0.03)


def test_uniform_keys_are_all_asked_for_about_equally():
    counts = Counter(key_numbers(stream({"keys": 10})))
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 2 * min(counts.values())


def test_zipfian_keys_follow_their_law():
    made = stream({"keys": 100, "distribution": {"kind": "zipfian", "exponent": 1.0, "scramble": False}})
    counts = Counter(key_numbers(made))
    harmonic = sum(1 / rank for rank in range(1, 101))
    assert counts[0] / MANY == pytest.approx(1 / harmonic, rel=0.15)
    assert counts[9] / MANY == pytest.approx(0.1 / harmonic, rel=0.35)


def test_scrambling_moves_the_popular_keys_apart_and_loses_none():
    made = stream({"keys": 100, "distribution": {"kind": "zipfian", "exponent": 1.0}})
    popular = [key for key, _ in Counter(key_numbers(made)).most_common(3)]
    assert max(popular) - min(popular) > 10
    assert len(set(key_numbers(made, 20_000))) == 100


def test_exponential_keys_crowd_at_the_beginning():
    counts = Counter(key_numbers(stream({"keys": 1000, "distribution": {"kind": "exponential", "rate": 10.0}})))
    assert sum(count for key, count in counts.items() if key < 100) / MANY == pytest.approx(0.632, abs=0.05)


def test_ordered_keys_are_taken_in_turn_by_all_clients_together():
    table = {"keys": 6, "distribution": {"kind": "ordered"}}
    assert key_numbers(stream(table, client=0, clients=2), 4) == [0, 2, 4, 0]
    assert key_numbers(stream(table, client=1, clients=2), 4) == [1, 3, 5, 1]


def test_a_conflict_meets_the_shared_key_as_often_as_asked_and_else_the_clients_own():
    table = {"keys": 101, "writes": 1.0, "conflict": {"percent": 25.0}}
    one, other = (key_numbers(stream(table, client=client, clients=2)) for client in (0, 1))
    assert one.count(0) / MANY == pytest.approx(0.25, abs=0.03)
    assert set(one) & set(other) == {0}


@pytest.mark.parametrize(("percent", "shared"), [(0.0, 0), (100.0, MANY)])
def test_a_conflict_of_nothing_and_of_everything_are_exact(percent, shared):
    keys = key_numbers(stream({"keys": 101, "writes": 1.0, "conflict": {"percent": percent}}))
    assert keys.count(0) == shared


def test_regions_prefer_keys_of_their_own():
    table = {"keys": 900, "locality": {"deviation": 0.02}}
    for region, centre in enumerate((150, 450, 750)):
        keys = key_numbers(stream(table, region=region, regions=3))
        assert sum(keys) / len(keys) == pytest.approx(centre, abs=5)


@pytest.mark.parametrize(("deviation", "shared"), [(0.055, False), (0.07, True)])
def test_regions_may_use_an_interval_of_keys_alike(deviation, shared):
    table = {"keys": 900, "locality": {"kind": "uniform", "deviation": deviation}}
    chosen = [key_numbers(stream(table, region=region, regions=5)) for region in range(5)]
    for region, keys in list(enumerate(chosen))[1:-1]:  # the others may wrap around
        width = deviation * 12**0.5 * 900
        centre = 90 + 180 * region
        assert sum(keys) / len(keys) == pytest.approx(centre, abs=5)
        assert centre - width / 2 - 1 <= min(keys) < centre - width / 2 + 5
        assert centre + width / 2 - 5 < max(keys) <= centre + width / 2
    assert bool(set(chosen[0]) & set(chosen[1])) is shared


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("keys", [50, 900, 1003])
def test_every_key_is_loaded_by_the_region_it_belongs_to_and_once(keys, shift):
    table = {"keys": keys, "locality": {"deviation": 0.02, "shift": shift}}
    whole = [int(put.key) for put, _ in stream(table).loads()]
    parted = [[int(put.key) for put, _ in stream(table, regions=5).loads([region])] for region in range(5)]
    assert sorted(key for part in parted for key in part) == whole == list(range(keys))
    assert sorted(int(put.key) for put, _ in stream(table, regions=5).loads((0, 3))) == sorted(parted[0] + parted[3])
    assert list(stream(table, regions=5).loads(())) == []
    for region, belonging in enumerate(parted):
        used = key_numbers(stream(table, region=region, regions=5))
        assert sum(key in belonging for key in used) > 0.99 * MANY


def test_inserted_keys_are_new_and_latest_asks_for_them():
    made = stream({"keys": 100, "mix": {"read": 0.5, "insert": 0.5}, "distribution": {"kind": "latest"}})
    inserted: set[int] = set()
    recent = 0
    for planned in first(made):
        operation: Any = planned.operation
        if isinstance(operation, Put):
            key = int(operation.key)
            assert key >= 100
            assert key not in inserted
            inserted.add(key)
        else:
            assert isinstance(operation, Get)
            key = int(operation.key)
            assert key < 100 or key in inserted
            recent += key in inserted
    assert recent > MANY // 4


def test_a_transaction_stays_within_one_group_and_names_no_key_twice():
    made = stream({"keys": 100, "group": 16, "mix": {"transaction": 1.0}, "transactions": {"reads": 2, "writes": 3}})
    for planned in first(made, 500):
        operation: Any = planned.operation
        assert isinstance(operation, Transaction)
        keys = [int(each.key) for each in operation.then if isinstance(each, Get | Put)]
        assert len(keys) == len(set(keys)) == 5
        # The last group of four keys borrows from those before it.
        assert max(keys) < 100
        assert len({key // 16 for key in keys}) == 1 or min(keys) >= 84


def test_value_sizes_follow_their_distribution():
    made = stream({"writes": 1.0, "value": {"kind": "uniform", "bytes": 50, "minimum": 20, "maximum": 80}})
    sizes = [len(each.operation.value) for each in first(made) if isinstance(each.operation, Put)]
    assert (min(sizes), max(sizes)) == (20, 80)
    assert sum(sizes) / len(sizes) == pytest.approx(50, abs=2)


def test_a_sample_is_the_same_groups_for_all_clients_and_records_whole_groups():
    table = {"keys": 1024, "group": 16, "mix": {"transaction": 0.5, "read": 0.5}}
    recorded: set[int] = set()
    others: set[int] = set()
    for client in range(3):
        for planned in first(stream(table, client=client, clients=3, fraction=0.1)):
            operation: Any = planned.operation
            keys = [operation.key] if isinstance(operation, Get) else [each.key for each in operation.then]
            (recorded if planned.recorded else others).update(int(key) // 16 for key in keys)
    assert len(recorded) == round(0.1 * 64)
    assert not recorded & others


def test_a_small_sample_still_holds_something():
    sample = Sample(parse_workload({"keys": 100}), 1, 0.001)
    import numpy as np

    assert sum(sample.holds(np.arange(100))) == 4
    assert sum(Sample(parse_workload({"keys": 100}), 1, 0.0).holds(np.arange(100))) == 0
    assert sum(Sample(parse_workload({"keys": 100}), 1, 1.0).holds(np.arange(100))) == 100


def test_metadata_operations_stay_within_one_experiment_and_refer_to_runs_that_were_created():
    made = Stream(load_workload("metadata"), seed=3, prefix=b"m/", fraction=0.2)
    created: set[bytes] = set()
    for planned in first(made, 2000):
        operation: Any = planned.operation
        keys: list[bytes] = []
        if isinstance(operation, Range):
            keys = [operation.first]
        else:
            assert isinstance(operation, Transaction)
            parts: tuple[Any, ...] = (*operation.conditions, *operation.then, *operation.otherwise)
            keys = [each.key for each in parts]
        assert len({key.split(b"/")[1] for key in keys}) == 1
        kind = KINDS[planned.kind]
        if kind == "create-run":
            created.add(keys[0])
        elif kind in {"log-metrics", "register-artifact"} and created:
            assert keys[0] in created
    assert created


def test_a_workload_that_cannot_be_divided_among_its_clients_is_refused():
    with pytest.raises(WorkloadError, match=r"workload\.keys: 3 keys"):
        stream({"keys": 3, "conflict": {"percent": 10.0}}, clients=5)
