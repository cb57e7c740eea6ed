"""What the judgement says of single histories, of its budget, and of large histories."""

import random
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import pytest

from bench.micro_checker import make_history
from replica.kv.machine import StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import (
    Add,
    Compact,
    Compare,
    Condition,
    Delete,
    DeleteRange,
    DescribeLease,
    Get,
    GrantLease,
    KeepAlive,
    ListLeases,
    Put,
    Range,
    RevokeLease,
    Transaction,
    Unchanged,
)
from replica.kv.runs import encode_operations
from replica.kv.transcript import describe_operation, describe_result
from replica.verification import (
    Budget,
    Header,
    History,
    HistoryError,
    Method,
    Recorder,
    Report,
    UnknownModel,
    Verdict,
    Violation,
    check,
    draw_report,
    parse_history,
    write_history,
)


def record(*operations: tuple[Any, ...], model: str = "kv") -> History:
    """Operations as (begin, end, name, key, arguments, result), or with None for an end that never came.

    A result that is an integer says that somebody found out where the operation took effect.
    """
    recorder = Recorder(Header(model=model))
    moments = []
    identifiers = {}
    for number, (begin, end, *_) in enumerate(operations):
        moments.append((begin, number, True))
        if end is not None:
            moments.append((end, number, False))
    for time, number, begins in sorted(moments):
        _, _, name, key, arguments, result = operations[number]
        if begins:
            identifiers[number] = recorder.invoke(number, name, time, key=key, arguments=arguments)
        else:
            recorder.ok(identifiers[number], time, result)
    for number, (_, end, *_, result) in enumerate(operations):
        if end is None and isinstance(result, int):
            recorder.resolved(identifiers[number], result)
    return recorder.history()


def violation_of(report: Report) -> Violation:
    assert report.violation is not None
    return report.violation


def put(begin: float, end: float | None, value: str, revision: int | None, key: str = "x") -> tuple[Any, ...]:
    result = revision if end is None else {"revision": revision}
    return begin, end, "put", key, {"value": value}, result


def get(begin: float, end: float, value: str | None, mod: int, revision: int, **more: Any) -> tuple[Any, ...]:
    item = None if value is None else {"value": value, "mod": mod, **more}
    return begin, end, "get", "x", {}, {"revision": revision, "item": item}


# ---------------------------------------------------------------------------------------------------- single histories


def test_a_stale_read_is_a_violation_that_names_both_operations():
    report = check(record(put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "a", 1, 1)))
    assert (report.verdict, report.method) == (Verdict.VIOLATION, Method.WITNESS)
    assert (violation_of(report).stuck, violation_of(report).related) == (3, (2,))
    assert violation_of(report).prefix == (1, 2)


def test_an_answer_that_fits_no_revision_is_a_violation():
    report = check(record(put(0, 1, "a", 1), put(2, 3, "b", 2), get(4, 5, "a", 1, 2)))
    assert report.verdict is Verdict.VIOLATION
    assert "wrote it at revision 2" in report.explanation


def test_two_operations_cannot_make_one_revision():
    report = check(record(put(0, 3, "a", 1), put(1, 4, "b", 1, key="y")))
    assert report.verdict is Verdict.VIOLATION
    assert "both made revision 1" in report.explanation


def test_an_operation_of_unknown_outcome_explains_what_was_seen_of_it():
    assert check(record(put(0, None, "a", None), get(1, 2, "a", 1, 1))).verdict is Verdict.OK


def test_it_does_not_explain_what_was_seen_before_it_was_invoked():
    report = check(record(put(3, None, "a", None), get(1, 2, "a", 1, 1)))
    assert report.verdict is Verdict.VIOLATION
    assert "nobody" in report.explanation


def test_an_operation_that_failed_explains_nothing():
    recorder = Recorder(Header(model="kv"))
    recorder.fail(recorder.invoke(1, "put", 0.0, key="x", arguments={"value": "a"}), 5.0)
    seen = recorder.invoke(2, "get", 1.0, key="x")
    recorder.ok(seen, 2.0, {"revision": 1, "item": {"value": "a", "mod": 1}})
    assert check(recorder.history()).verdict is Verdict.VIOLATION


def test_an_unseen_write_explains_a_version_that_was_skipped():
    unseen = put(0, None, "a", None)
    seen = get(3, 4, "b", 2, 2, create=1, version=2)
    assert check(record(unseen, put(1, 2, "b", 2), seen)).verdict is Verdict.OK
    assert check(record(put(1, 2, "b", 2), seen)).verdict is Verdict.VIOLATION


def test_an_unseen_deletion_explains_that_a_key_is_gone():
    deletion: tuple[Any, ...] = (0, None, "delete", "x", {}, None)
    gone: tuple[Any, ...] = (3, 4, "get", "x", {}, {"revision": 2, "item": None})
    report = check(record(deletion, put(1, 2, "a", 1), gone))
    assert (report.verdict, report.method) == (Verdict.OK, Method.WITNESS)
    assert check(record(put(1, 2, "a", 1), gone)).verdict is Verdict.VIOLATION


def test_what_was_seen_unchanged_cannot_have_been_written_in_between():
    unseen = put(0, None, "b", None)
    seen = [get(begin, begin + 1, "a", 1, revision, create=1, version=1) for begin, revision in ((3, 1), (5, 3))]
    later = put(7, 8, "c", 4)
    last = get(9, 10, "c", 4, 4, create=1, version=3)
    assert check(record(unseen, put(1, 2, "a", 1), *seen, later, last)).verdict is Verdict.VIOLATION


def test_a_resolved_operation_must_have_taken_effect_where_it_was_found():
    seen = get(3, 4, "b", 2, 2, create=1, version=2)
    assert check(record(put(0, None, "a", 1), put(1, 2, "b", 2), seen)).verdict is Verdict.OK
    report = check(record(put(0, None, "a", 3), put(1, 2, "b", 2), get(3, 4, "b", 2, 3)))
    assert report.verdict is Verdict.VIOLATION
    assert report.method is Method.WITNESS


def test_a_resolved_operation_cannot_lie_behind_what_ended_before_it_began():
    report = check(record(put(0, 1, "b", 2), put(2, None, "a", 1)))
    assert report.verdict is Verdict.VIOLATION
    assert "out of order" in report.explanation


def test_a_stale_read_may_be_old_but_not_wrong():
    def history(value: str) -> History:
        recorder = Recorder(Header(model="kv"))
        for number, written in enumerate("abc", 1):
            identifier = recorder.invoke(1, "put", number, key="x", arguments={"value": written})
            recorder.ok(identifier, number + 0.5, {"revision": number})
        seen = recorder.invoke(2, "get", 5.0, key="x", stale=True)
        recorder.ok(seen, 6.0, {"revision": 2, "item": {"value": value, "mod": 2}})
        return recorder.history()

    assert check(history("b")).verdict is Verdict.OK
    assert check(history("a")).verdict is Verdict.VIOLATION
    assert check(history("b"), witness=False).verdict is Verdict.OK
    assert check(history("a"), witness=False).verdict is Verdict.VIOLATION


def test_what_was_compacted_cannot_be_read_and_nothing_else_is_refused():
    writes = [put(number, number + 0.5, "v", number) for number in (1, 2, 3)]
    compaction = (4, 5, "compact", None, {"revision": 2}, {"revision": 3, "compacted": 2})
    shown = {"revision": 3, "item": {"value": "v", "mod": 1}}
    refused = {"revision": 3, "failed": "compacted", "detail": 2}

    def read(begin: float, result: dict[str, Any]) -> tuple[Any, ...]:
        return begin, begin + 0.5, "get", "x", {"revision": 1}, result

    assert check(record(*writes, compaction, read(6, refused))).verdict is Verdict.OK
    assert check(record(*writes, compaction, read(6, shown))).verdict is Verdict.VIOLATION
    assert check(record(*writes, compaction, read(3.4, refused))).verdict is Verdict.VIOLATION
    assert check(record(*writes, compaction, read(4.1, refused))).verdict is Verdict.OK
    assert check(record(*writes, compaction, read(4.1, shown))).verdict is Verdict.OK


# ------------------------------------------------------------------------------------------- the store and its judge


class Recorded(msgspec.Struct):
    """A command, as the state machine wants it."""

    payload: bytes
    session: int
    sequence: int
    count: int


RELATIONS: tuple[Literal["=", "!=", "<", ">"], ...] = ("=", "!=", "<", ">")


def operation_of(draw: random.Random, revision: int, *, nested: bool = False) -> Any:
    keys = [b"a", b"b", b"b\x00", b"c"]
    key = draw.choice(keys)
    bounds = sorted(draw.sample([b"", *keys, b"d"], 2))
    choice = draw.randrange(8 if nested else 15)
    match choice:
        case 0 | 1:
            condition = draw.choice((None, None, revision, draw.randint(0, revision)))
            return Put(
                key,
                draw.choice((b"x", b"%d" % draw.randrange(50))),
                if_revision=condition,
                previous=draw.random() < 0.3,
            )
        case 2:
            return Get(key)
        case 3:
            return Delete(key, previous=draw.random() < 0.5)
        case 4:
            return Add(key, draw.randint(-3, 3))
        case 5:
            return DeleteRange(bounds[0], bounds[1], previous=draw.random() < 0.5)
        case 6 | 7:
            flags = [draw.random() < 0.3 for _ in range(3)]
            return Range(bounds[0], draw.choice((bounds[1], b"")), draw.choice((0, 1, 2)), *flags)
        case 8:
            return Get(key, revision=draw.randint(0, revision + 1))
        case 9:
            return Range(b"", b"", revision=draw.randint(0, revision + 1))
        case 10 if draw.random() < 0.3:
            return Compact(draw.randint(0, revision + 1))
        case 12:
            return draw.choice((GrantLease(1), GrantLease(1), KeepAlive(1), DescribeLease(1), ListLeases()))
        case 13:
            return draw.choice((RevokeLease(1), RevokeLease(2), RevokeLease(3), RevokeLease(1, 2)))
        case 14:
            return Put(key, b"leased", draw.randint(1, 3))
        case _:
            conditions: list[Condition] = draw.sample(
                [
                    Compare(key, "value", draw.choice(RELATIONS), b"3"),
                    Compare(key, "mod", draw.choice(RELATIONS), draw.randint(0, revision)),
                    Compare(key, "version", ">", 1),
                    Compare(key, "exists", "=", draw.randrange(2)),
                    Unchanged(bounds[0], bounds[1], draw.randint(0, revision)),
                ],
                draw.randrange(3),
            )
            branches = [[operation_of(draw, revision, nested=True) for _ in range(draw.randrange(4))] for _ in "01"]
            return Transaction(tuple(conditions), *map(tuple, branches))


def history_of_store(seed: int, *, unheard: float = 0.1) -> History:
    """What the real state machine answers to operations of every kind, some of them unheard or resolved."""
    draw = random.Random(seed)
    machine = StateMachine(MemoryStore())
    recorder = Recorder(Header(model="kv"))
    for position in range(1, 41):
        operation = operation_of(draw, machine.revision)
        payload = b"\x92\x00" + encode_operations([operation])
        (outcome,) = machine.apply(position, [Recorded(payload, 0, 0, 1)])
        (result,) = outcome.results()
        name, key, arguments = describe_operation(operation)
        begin = position - draw.random()
        identifier = recorder.invoke(draw.randrange(4), name, begin, key=key, arguments=arguments)
        if draw.random() < unheard:
            before = machine.revision
            if result.revision == before and draw.random() < 0.7:
                recorder.unknown(identifier, position + 0.4)
            else:
                recorder.ok(identifier, position + 0.4, describe_result(result))
        else:
            recorder.ok(identifier, position + draw.random(), describe_result(result))
    return recorder.history()


def test_the_model_agrees_with_the_real_state_machine():
    kinds = set()
    refusals = set()
    undecided = uncertain = 0
    for seed in range(300):
        history = history_of_store(seed)
        report = check(history, budget=Budget(states=20_000))
        assert report.verdict is not Verdict.VIOLATION, (seed, report)
        if not report.uncertain:
            assert report.verdict is Verdict.OK
        uncertain += report.uncertain > 0
        undecided += report.verdict is Verdict.UNKNOWN
        kinds |= {each.operation for each in history.operations}
        refusals |= {each.result.get("failed") for each in history.operations}
    assert len(kinds) == 10
    assert uncertain > 150, uncertain
    assert undecided <= 3, undecided
    assert {"condition", "not a number", "compacted", "future revision", "lease unknown"} <= refusals


def damaged(history: History, draw: random.Random) -> tuple[int, History] | None:
    """The history with one number or value in one answer changed; with the id of the operation."""
    operations = [each for each in history.operations if each.outcome == "ok" and each.operation != "compact"]
    chosen = draw.choice(operations)
    result = msgspec.json.decode(msgspec.json.encode(chosen.result))
    spots = list(spots_of(result))
    if not spots:
        return None
    holder, name = draw.choice(spots)
    holder[name] = f"{holder[name]}!" if isinstance(holder[name], str) else holder[name] + 1
    replaced = [msgspec.structs.replace(each, result=result) if each is chosen else each for each in history.operations]
    return chosen.id, History(history.header, tuple(replaced))


def spots_of(result: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """The fields of an answer that must be exactly what they are."""
    for name, value in result.items():
        if isinstance(value, dict):
            yield from spots_of(value)
        elif isinstance(value, list):
            for each in value:
                yield from spots_of(each)
        elif name in {"value", "create", "mod", "version"} or (name == "count" and "items" not in result):
            yield result, name


def test_a_single_wrong_number_in_an_answer_is_found():
    draw = random.Random(7)
    tried = 0
    for seed in range(300):
        history = history_of_store(seed, unheard=0.0)
        wrong = damaged(history, draw)
        if wrong is None:
            continue
        tried += 1
        report = check(wrong[1])
        assert report.verdict is Verdict.VIOLATION, (seed, wrong[0])
    assert tried > 100


# --------------------------------------------------------------------------------------------------- budget and size


def stubborn_history() -> History:
    """Concurrent writes in plenty, and at the end a read that none of them explains."""
    recorder = Recorder(Header(model="register"))
    writes = [recorder.invoke(number, "write", 0.0, key="x", arguments={"value": number}) for number in range(14)]
    for number, identifier in enumerate(writes):
        recorder.ok(identifier, 1.0 + number)
    recorder.ok(recorder.invoke(99, "read", 50.0, key="x"), 51.0, {"value": -1})
    return recorder.history()


@pytest.mark.parametrize("states", [1, 100, 2000])
def test_out_of_budget_is_unknown_and_never_ok(states):
    report = check(stubborn_history(), budget=Budget(states=states))
    assert report.verdict is Verdict.UNKNOWN
    assert "budget" in report.explanation


def test_out_of_time_is_unknown_as_well():
    ticks = iter(range(1_000_000))
    report = check(stubborn_history(), budget=Budget(seconds=2.0), clock=lambda: float(next(ticks)))
    assert report.verdict is Verdict.UNKNOWN


def test_with_the_budget_it_needs_the_same_history_is_a_violation():
    report = check(stubborn_history())
    assert report.verdict is Verdict.VIOLATION
    assert len(violation_of(report).prefix) == 14


def test_one_stubborn_key_does_not_hide_a_violation_on_another():
    stubborn = list(stubborn_history().events())
    recorder = Recorder(Header(model="register"))
    for event in stubborn:
        recorder.append(event)
    read = {"type": "invoke", "id": 1000, "client": "a", "operation": "read", "key": "y", "time": 0.0}
    ok = {"type": "ok", "id": 1000, "time": 1.0, "result": {"value": 5}}
    header = msgspec.json.encode(recorder.header)
    lines = [header, *map(msgspec.json.encode, [*stubborn, read, ok])]
    lines.append(msgspec.json.encode({"type": "end", "events": len(lines) - 1}))
    history = parse_history(b"\n".join(lines) + b"\n")
    report = check(history, budget=Budget(states=1000))
    assert report.verdict is Verdict.VIOLATION
    assert violation_of(report).where == "key 'y'"


@pytest.mark.parametrize(("model", "method"), [("register", Method.SEARCH), ("kv", Method.WITNESS)])
def test_a_large_history_with_many_unknown_outcomes_is_linearizable(model, method):
    history = make_history(operations=10_000, clients=64, keys=200, unknown=0.05, model=model)
    report = check(history)
    assert (report.verdict, report.method) == (Verdict.OK, method)
    assert report.uncertain > 200


@pytest.mark.parametrize("model", ["register", "kv"])
def test_a_lost_write_in_a_large_history_is_found(model):
    history = make_history(operations=5_000, clients=64, keys=200, unknown=0.05, model=model)
    name, read = ("write", "read") if model == "register" else ("put", "get")
    seen = {
        (each.key, each.result["value"] if model == "register" else (each.result["item"] or {}).get("value"))
        for each in history.operations
        if each.operation == read and each.outcome == "ok"
    }
    lost = next(
        each
        for each in history.operations[1000:]
        if each.operation == name and (each.key, each.arguments["value"]) in seen and each.outcome == "ok"
    )
    kept = tuple(each for each in history.operations if each is not lost)
    report = check(History(history.header, kept))
    assert report.verdict is Verdict.VIOLATION


# -------------------------------------------------------------------------------------------------- what is malformed


@pytest.mark.parametrize(
    ("model", "operation", "line", "message"),
    [
        ("register", (0, 1, "cas", "x", {"from": 1, "to": 2}, {"succeeded": True}), 2, "it has: read, write"),
        ("register", (0, 1, "write", "x", {}, {}), 2, "value"),
        ("register", (0, 1, "read", "x", {}, {}), 3, "value"),
        ("register", (0, 1, "read", "x", {}, {"value": [1]}), 3, "value"),
        ("kv", (0, 1, "read", "x", {}, {"value": 1}), 2, "it has: add, compact"),
        ("kv", (0, 1, "put", None, {"value": "1"}, {"revision": 1}), 2, "key"),
        ("kv", (0, 1, "put", "x", {"value": 1}, {"revision": 1}), 2, "value"),
        ("kv", (0, 1, "get", "x", {}, {"revision": 1}), 3, "lacks 'item'"),
        ("kv", (0, 1, "get", "x", {}, {"revision": -1, "item": None}), 3, "revision"),
        ("kv", (0, 1, "put", "x", {"value": "1", "if_revision": 0}, {}), 2, "cannot be judged"),
        ("kv", (0, 1, "put", "x", {"value": "1"}, {"revision": 1, "failed": "session unknown"}), 3, "unknown"),
        (
            "kv",
            (
                0,
                1,
                "transaction",
                None,
                {"then": [{"operation": "get", "key": "x"}]},
                {"succeeded": True, "results": []},
            ),
            3,
            "0 results answer a branch of 1",
        ),
    ],
)
def test_what_a_model_does_not_know_is_named_by_its_line(model, operation, line, message):
    with pytest.raises(HistoryError, match=message) as raised:
        check(record(operation, model=model))
    assert raised.value.line == line


def test_revisions_are_recorded_of_all_answers_or_none():
    with pytest.raises(HistoryError, match="record all or none") as raised:
        check(record(put(0, 1, "a", 1), (2, 3, "put", "x", {"value": "b"}, {})))
    assert raised.value.line == 5


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(UnknownModel, match="cas-register, kv, register"):
        check(record(), "regsiter")


# ------------------------------------------------------------------------------------------------------- the picture


def test_the_picture_shows_the_linearization_and_what_is_stuck(tmp_path):
    recorder = Recorder(Header(model="register"))
    recorder.fault(0.5, "partition <1>", until=3.0)
    recorder.fault(0.6, "crash", until=3.0)
    write = recorder.invoke("alice & co", "write", 0.0, key="x", arguments={"value": "<b>"})
    recorder.ok(write, 1.0)
    recorder.ok(recorder.invoke("bob", "read", 2.0, key="x"), 3.0, {"value": "old"})
    history = recorder.history()
    write_history(history, tmp_path / "history.jsonl")
    page = draw_report(history, check(history))
    assert "alice &amp; co" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "partition &lt;1&gt;, crash<" in page, "two faults in one place have one label"
    assert ">#1<" in page
    assert "stuck: #2 would be next" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_picture_of_a_large_violation_stays_small():
    history = make_history(operations=3_000, clients=64, keys=2, model="kv")
    reads = [each for each in history.operations if each.operation == "get" and each.outcome == "ok"]
    reads[-5].result["item"] = {**reads[-5].result["item"], "value": "never written"}
    report = check(history)
    assert report.verdict is Verdict.VIOLATION
    page = draw_report(history, report)
    assert len(page) < 100_000
    assert "are not drawn" in page


def test_a_verdict_without_violation_has_a_page_too():
    history = record(put(0, 1, "a", 1))
    page = draw_report(history, check(history))
    assert "linearizable" in page
    assert "<svg" not in page
