"""The state machine against the reference, on random logs."""

from collections.abc import Container, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import replica.kv.history
from replica.kv.machine import StateMachine
from replica.kv.operations import AnyResult, DescribeLease, Failed, ListLeases, Range, ReadOperation, Transacted
from replica.kv.runs import decode_results

from .reference import Reference
from .scripts import Step, commit_points, history_scripts, lease_scripts, reads, scripts, session_scripts
from .support import STORES

SESSIONS_MAX = 3


def without_messages(result: AnyResult) -> AnyResult:
    """Texts are for people; codes and numbers must agree."""
    if isinstance(result, Failed):
        return msgspec.structs.replace(result, message="")
    if isinstance(result, Transacted):
        return msgspec.structs.replace(result, results=tuple(map(without_messages, result.results)))
    return result


TINY = {
    "CACHED_KEYS_MAX": 2,
    "CACHED_VALUE_BYTES_MAX": 4,
    "TAKEN_ON_PUTS_MAX": 2,
    "PENDING_KEYS_MAX": 1,
    "RECORD_BYTES_MAX": 16,
    "BATCH_KEYS_MAX": 2,
    "SKIPPED_RECORDS_MAX": 1,
    "SOUGHT_KEYS": 1,
    "RECENT_CHANGES_MAX": 2,
}


@pytest.fixture(params=["bounds as they are", "tiny bounds"])
def bounds(request, monkeypatch):
    """Evictions, early flushes and seeks are rare with the real bounds and constant with tiny ones."""
    if request.param == "tiny bounds":
        for name, value in TINY.items():
            monkeypatch.setattr(replica.kv.history, name, value)


on_every_store = pytest.mark.parametrize("kind", sorted(STORES))


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compare(
    kind: str, script: Sequence[Step], questions: Sequence[ReadOperation] = (), commits: Container[int] = ()
) -> None:
    """Run the script on both; commit, and now and then start again, after the positions in ``commits``."""
    reference = Reference(SESSIONS_MAX)
    asked = [Range(b"", b""), *questions]
    with STORES[kind]() as store:
        machine = StateMachine(store, sessions_max=SESSIONS_MAX)
        for position, step in enumerate(script, 1):
            (outcome,) = machine.apply(position, [step.command()])
            expected = reference.apply(step.session, step.sequence, step.acknowledged, step.operations, step.system)
            assert list(map(without_messages, outcome.results())) == list(map(without_messages, expected))
            assert decode_results(outcome.encoded(), outcome.count) == outcome.results()
            assert (machine.revision, machine.compacted) == (reference.revision, reference.compacted)
            assert len(machine.sessions) == len(reference.sessions)
            if position in commits:
                machine.commit()
                if position % 2:
                    machine = StateMachine(store, sessions_max=SESSIONS_MAX)
            answers = [reference.execute(question, False) for question in asked]
            assert list(map(without_messages, machine.query(asked))) == list(map(without_messages, answers))


@on_every_store
@examples(80)
@given(script=scripts, questions=st.lists(reads, max_size=3), commits=commit_points)
def test_the_machine_answers_as_the_reference_does(bounds, kind, script, questions, commits):
    compare(kind, script, questions, commits)


@on_every_store
@examples(80)
@given(script=session_scripts, commits=commit_points)
def test_retries_in_any_order_are_answered_as_the_reference_does(bounds, kind, script, commits):
    compare(kind, script, (), commits)


@on_every_store
@examples(80)
@given(script=history_scripts, questions=st.lists(reads, max_size=3), commits=commit_points)
def test_the_past_is_read_as_the_reference_does(bounds, kind, script, questions, commits):
    compare(kind, script, questions, commits)


@on_every_store
@examples(60)
@given(script=lease_scripts, commits=commit_points)
def test_leases_and_their_keys_are_what_the_reference_says(bounds, kind, script, commits):
    compare(kind, script, [ListLeases(), DescribeLease(1, True), DescribeLease(2, True)], commits)


@on_every_store
@examples(40)
@given(script=history_scripts)
def test_once_all_is_compacted_nothing_but_the_live_keys_remains(bounds, kind, script):
    with STORES[kind]() as store:
        machine = StateMachine(store, sessions_max=SESSIONS_MAX)
        for position, step in enumerate(script, 1):
            machine.apply(position, [step.command()])
        machine.history.compact(machine.revision)
        before = machine.digest()
        while machine.history.scavenge(2):
            pass
        assert machine.store.count("history") == before.keys
        assert machine.store.count("changes") == 0
        assert machine.digest() == before


def test_the_reference_can_disagree():
    """The comparison is worth something only if a wrong answer shows."""
    reference = Reference(SESSIONS_MAX)
    step = Step((Range(b"", b""),))
    (answer,) = reference.apply(0, 1, 0, step.operations, False)
    assert without_messages(answer) != without_messages(msgspec.structs.replace(answer, count=1))
