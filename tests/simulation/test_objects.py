"""The world drives protocols that order by object, and notices what they do wrong."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from replica.consensus.interface import Command, Configuration, Deliver, Effects, Member, ProtocolSpec
from replica.consensus.registry import find_protocol
from replica.simulation import Controls, FaultProfile, SimulationFailure, run
from replica.simulation.host import Process, _Switch
from replica.simulation.serial import Placed, check_serial
from replica.simulation.violation import Violation
from replica.storage.coordinator import Anchor
from replica.verification import Header, Recorder, Verdict, check

SOURCE = Path(__file__).resolve().parents[1] / "packages" / "partitioned" / "partitioned" / "__init__.py"
PROTOCOL = find_protocol(f"{SOURCE}:PROTOCOL")

RECOVERABLE = FaultProfile(losses=False, endurance=False)
"""Everything but the loss of a disk: nobody takes over from the owner of a key."""


def first_failure(
    seeds: Iterable[int], spec: ProtocolSpec = PROTOCOL, operations: int = 150, **how: Any
) -> SimulationFailure | None:
    """The failure of the first seed that has one, or None."""
    for seed in seeds:
        try:
            run(seed, spec, 3, RECOVERABLE, operations=operations, **how)
        except SimulationFailure as failure:
            return failure
    return None


def with_deliveries(change: Any) -> ProtocolSpec:
    """The protocol, with every turn's deliveries changed at one replica."""

    def create(context: Any, options: Any) -> Any:
        protocol = PROTOCOL.create(context, options)
        settle = protocol.settle  # type: ignore[attr-defined]

        def settled(effects: Effects) -> None:
            settle(effects)
            if context.replica == 2:
                effects.deliveries = change(effects.deliveries)

        protocol.settle = settled  # type: ignore[attr-defined]
        return protocol

    return msgspec.structs.replace(PROTOCOL, create=create)


def test_a_sound_protocol_passes_under_faults():
    reports = [run(seed, PROTOCOL, 3, RECOVERABLE, operations=200) for seed in range(20)]
    total: dict[str, int] = {}
    for report in reports:
        for name, number in report.counters.items():
            total[name] = total.get(name, 0) + number
    operations = sum(report.operations for report in reports)
    assert sum(report.succeeded for report in reports) > 0.5 * operations
    assert sum(report.checked for report in reports) > 0.4 * operations
    for name in ("states rebuilt from snapshot and log", "snapshots taken", "runs retried", "sessions evicted"):
        assert total.get(name), f"{name} never happened"


def test_the_same_seed_is_the_same_run():
    one, other = (run(7, PROTOCOL, 3, RECOVERABLE, operations=150) for _ in range(2))
    assert one == other


def test_a_report_says_what_was_checked():
    report = run(3, PROTOCOL, 3, "none", operations=50)
    for name in ("one order per key", "one value per slot", "state digests", "exactly once", "linearizability"):
        assert name in report.checks
    assert "prefixes" not in report.checks


def test_a_position_used_twice_is_noticed():
    failure = first_failure(range(200), options={"bug_reuses_positions": True})
    assert failure is not None
    assert failure.check in {"one value per slot", "one order per key"}


def test_commands_on_one_key_in_another_order_are_noticed():
    def reverse(deliveries: Sequence[Deliver]) -> list[Deliver]:
        return list(reversed(deliveries))

    failure = first_failure(range(20), with_deliveries(reverse))
    assert failure is not None
    assert failure.check == "one order per key"


def test_a_command_that_is_left_out_is_noticed():
    def drop(deliveries: Sequence[Deliver]) -> list[Deliver]:
        return [Deliver(each.position, (), each.object) if each.position == 3 else each for each in deliveries]

    failure = first_failure(range(20), with_deliveries(drop))
    assert failure is not None
    assert failure.check in {"one value per slot", "one order per key"}


def test_a_command_that_is_delivered_twice_is_executed_once():
    def twice(deliveries: Sequence[Deliver]) -> list[Deliver]:
        return [each for delivery in deliveries for each in (delivery, delivery)]

    assert first_failure(range(10), with_deliveries(twice)) is None


def test_an_answer_for_a_command_nobody_decided_is_noticed():
    def invent(deliveries: Sequence[Deliver]) -> list[Deliver]:
        return [
            Deliver(
                each.position,
                tuple(Command(c.payload, c.session, c.sequence + 1000, c.count, c.footprint) for c in each.commands),
                each.object,
            )
            for each in deliveries
        ]

    failure = first_failure(range(10), with_deliveries(invent))
    assert failure is not None
    assert failure.check == "one value per slot"


def test_a_disk_that_keeps_nothing_is_noticed():
    assert first_failure(range(30), controls=Controls(persistence=False)) is not None


def test_a_snapshot_without_its_sessions_is_noticed():
    failure = first_failure(range(100), controls=Controls(sessions_in_snapshots=False))
    assert failure is not None
    assert failure.check in {"state digests", "exactly once"}


def test_what_clients_saw_satisfies_the_independent_checker():
    undecided = 0
    for seed in range(6):
        recorder = Recorder(Header(model="kv"))
        run(seed, PROTOCOL, 3, RECOVERABLE, operations=150, recorder=recorder)
        verdict = check(recorder.history()).verdict
        assert verdict is not Verdict.VIOLATION
        undecided += verdict is Verdict.UNKNOWN
    assert undecided <= 2


def placed(
    name: str, invoked: float, completed: float | None, made: dict[bytes, int], saw: dict[bytes, int] | None = None
) -> Placed:
    return Placed(name, invoked, completed, made, saw or {})


def test_an_order_against_real_time_is_a_violation():
    later = placed("the second write", 0.0, 1.0, {b"a": 2})
    check_serial([placed("the first write", 0.5, 2.0, {b"a": 1}), later])
    with pytest.raises(Violation, match="the first write"):
        check_serial([placed("the first write", 1.5, 2.0, {b"a": 1}), later])


def test_a_read_that_missed_a_finished_write_is_a_violation():
    write = placed("the write", 0.0, 1.0, {b"a": 1})
    check_serial([write, placed("the read", 0.5, 2.0, {}, {b"a": 0})])
    with pytest.raises(Violation):
        check_serial([write, placed("the read", 1.5, 2.0, {}, {b"a": 0})])


def test_two_transactions_that_each_missed_the_other_are_a_violation():
    one = placed("one", 0.0, 5.0, {b"a": 1}, {b"b": 0})
    check_serial([one, placed("other", 0.0, 5.0, {b"b": 1}, {b"a": 1})])
    with pytest.raises(Violation):
        check_serial([one, placed("other", 0.0, 5.0, {b"b": 1}, {b"a": 0})])


def test_a_write_nobody_heard_of_stands_where_it_was_seen():
    lost = placed("lost", 3.0, None, {b"a": 1})
    with pytest.raises(Violation):
        check_serial([lost, placed("the read", 0.0, 2.0, {}, {b"a": 1})])
    check_serial([lost, placed("the read", 0.0, 4.0, {}, {b"a": 1})])


def test_a_revision_made_twice_is_a_violation():
    with pytest.raises(Violation, match="made twice"):
        check_serial([placed("one", 0.0, 1.0, {b"a": 1}), placed("other", 0.0, 1.0, {b"a": 1})])


@pytest.mark.parametrize(
    ("standing", "frontier", "timely"),
    [
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, {"a": 1, "b": 1}, True),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}, False),
        ({"a": 2}, {"a": 1}, False),
        ({"a": 1}, {"a": 1}, False),
    ],
    ids=["ahead", "another object", "behind in one", "behind", "equal"],
)
def test_a_snapshot_of_the_own_state_does_not_take_the_place_of_one_that_covers_more_of_an_object(
    standing, frontier, timely
):
    """That of a peer may have been installed while the own one was written."""
    configuration = Configuration(epoch=1, members=(Member(1),), protocol="partitioned")
    process: Any = SimpleNamespace(
        coordinator=SimpleNamespace(anchor=Anchor(configuration, standing), epoch=1, sealed=None),
    )
    image: Any = None
    switch = _Switch(Anchor(configuration, frontier), image, "taken")
    assert Process._timely(process, switch) is timely
