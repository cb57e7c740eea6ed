"""The search on registers: it agrees with the definition, and says what it found."""

import random
from collections import Counter
from typing import Any

import pytest

from replica.verification.checker import check
from replica.verification.history import Header, History, Recorder
from replica.verification.verdict import Verdict

from .brute_force import is_linearizable, register


def small_history(seed: int, *, swaps: bool) -> History:
    """A history of at most eight operations by four to six clients, half right and half wrong or so."""
    draw = random.Random(seed)
    recorder = Recorder(Header(model="cas-register" if swaps else "register"))
    clients = draw.randint(4, 6)
    values = list(range(draw.choice((2, 3, 4))))
    value = None
    wrong = draw.choice((0.0, 0.5, 0.9))
    unheard = draw.choice((0.1, 0.1, 0.5))
    idle = list(range(clients))
    running: list[list[Any]] = []
    time = 0.0
    started = 0
    while started < 8 or running:
        time += draw.choice((0.0, 1.0))
        kind = draw.random()
        if started < 8 and idle and kind < 0.5:
            client = idle.pop(draw.randrange(len(idle)))
            name = draw.choice(("read", "write", "cas") if swaps else ("read", "read", "write"))
            arguments: dict[str, Any] = {
                "read": {},
                "write": {"value": draw.choice(values)},
                "cas": {"from": draw.choice(values), "to": draw.choice(values)},
            }[name]
            identifier = recorder.invoke(client, name, time, arguments=arguments)
            running.append([identifier, client, name, arguments, None])
            started += 1
        elif running and kind < 0.75:
            operation = draw.choice(running)
            if operation[4] is None:
                name, arguments = operation[2], operation[3]
                if name == "read":
                    operation[4] = {"value": value}
                elif name == "write":
                    operation[4] = {}
                    value = arguments["value"]
                else:
                    operation[4] = {"succeeded": value == arguments["from"]}
                    value = arguments["to"] if value == arguments["from"] else value
        elif running:
            operation = running.pop(draw.randrange(len(running)))
            identifier, client, name, _, result = operation
            idle.append(client)
            fate = draw.random()
            if fate < unheard:
                if draw.random() < 0.5:
                    recorder.unknown(identifier, time)
                idle.remove(client)
                idle.append(client + 100)
            elif result is None:
                recorder.fail(identifier, time)
            else:
                if draw.random() < wrong:
                    if name == "read":
                        result = {"value": draw.choice([each for each in values if each != result["value"]])}
                    elif name == "cas":
                        result = {"succeeded": not result["succeeded"]}
                recorder.ok(identifier, time, result)
    return recorder.history()


def concurrency(history: History) -> int:
    """The largest number of operations that were under way at once."""
    moments = []
    for each in history.operations:
        moments.append(((each.invoked, each.invoked_line), 1))
        if each.outcome == "ok" and each.completed is not None:
            moments.append(((each.completed, each.completed_line), -1))
    level = highest = 0
    for _, change in sorted(moments):
        level += change
        highest = max(highest, level)
    return highest


@pytest.mark.parametrize("swaps", [False, True], ids=["register", "cas-register"])
def test_the_search_agrees_with_the_definition_on_thousands_of_histories(swaps):
    verdicts: Counter[Verdict] = Counter()
    unknown = concurrent = 0
    for seed in range(3000):
        history = small_history(seed, swaps=swaps)
        expected = is_linearizable(history.operations, None, register)
        report = check(history)
        assert report.verdict is (Verdict.OK if expected else Verdict.VIOLATION), seed
        verdicts[report.verdict] += 1
        unknown += any(each.outcome == "unknown" for each in history.operations)
        concurrent += concurrency(history) >= 4
    assert min(verdicts[Verdict.OK], verdicts[Verdict.VIOLATION]) >= 900, verdicts
    assert unknown > 1500, unknown
    assert concurrent > 1500, concurrent


def crowded_history(seed: int) -> History:
    """Reads one after the other, beside writes of few values of which nobody heard again."""
    draw = random.Random(seed)
    recorder = Recorder(Header(model="cas-register"))
    for time in range(7):
        if draw.random() < 0.6:
            name, arguments = draw.choice(
                (
                    ("write", {"value": draw.randrange(2)}),
                    ("cas", {"from": draw.randrange(2), "to": draw.randrange(2)}),
                )
            )
            recorder.invoke(f"lost {time}", name, time, arguments=arguments)
        else:
            identifier = recorder.invoke("reader", "read", time)
            recorder.ok(identifier, time + draw.choice((0.5, 2.5)), {"value": draw.choice((0, 1, 1))})
    return recorder.history()


def test_the_search_agrees_with_the_definition_where_most_outcomes_are_unknown():
    verdicts: Counter[Verdict] = Counter()
    for seed in range(1000):
        history = crowded_history(seed)
        report = check(history)
        expected = is_linearizable(history.operations, None, register)
        assert report.verdict is (Verdict.OK if expected else Verdict.VIOLATION), seed
        verdicts[report.verdict] += 1
    assert min(verdicts.values()) >= 300, verdicts


def test_a_resolved_write_must_take_effect_though_nobody_knows_when():
    recorder = Recorder(Header(model="register"))
    lost = recorder.invoke("a", "write", 0.0, arguments={"value": 1})
    recorder.ok(recorder.invoke("b", "read", 1.0), 2.0, {"value": None})
    recorder.ok(recorder.invoke("b", "read", 3.0), 4.0, {"value": 1})
    recorder.resolved(lost, 1)
    assert check(recorder.history()).verdict is Verdict.OK
    recorder = Recorder(Header(model="register"))
    never = recorder.invoke("a", "write", 0.0, arguments={"value": 1})
    recorder.ok(recorder.invoke("b", "read", 1.0), 2.0, {"value": 1})
    recorder.resolved(never, None)
    assert check(recorder.history()).verdict is Verdict.VIOLATION


def test_a_way_that_used_up_fewer_unknown_operations_is_still_tried():
    recorder = Recorder(Header(model="cas-register"))
    recorder.invoke("lost", "write", 0.0, arguments={"value": 0})
    recorder.invoke("lost too", "cas", 0.0, arguments={"from": 0, "to": 1})
    zero = recorder.invoke("a", "write", 0.0, arguments={"value": 0})
    two = recorder.invoke("b", "write", 0.0, arguments={"value": 2})
    recorder.ok(zero, 1.0)
    recorder.ok(two, 1.0)
    for time, value in ((2.0, 1), (4.0, 0)):
        recorder.ok(recorder.invoke("a", "read", time), time + 1, {"value": value})
    # Zero, two, lost and lost too explain the first read; but then nobody is left to write 0 again for the second.
    assert check(recorder.history()).verdict is Verdict.OK
