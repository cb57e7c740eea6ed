"""The model of the store: it agrees with the definition, with a witness and without, with revisions and without."""

import copy
import random
from collections import Counter
from typing import Any

import pytest

from replica.verification.checker import check
from replica.verification.history import Header, History, Recorder
from replica.verification.verdict import Method, Verdict

from .brute_force import EMPTY_STORE, carry_out, is_store_linearizable


class Draw:
    """A small history drawn from a seed: up to seven operations by four or more clients on two keys."""

    def __init__(self, seed: int, *, revisioned: bool) -> None:
        self.draw = random.Random(seed)
        self.revisioned = revisioned
        self.recorder = Recorder(Header(model="kv"))
        self.state = EMPTY_STORE

    def operation(self) -> tuple[str, str | None, dict[str, Any]]:
        draw = self.draw
        name = draw.choice(("get", "get", "get", "put", "put", "delete", "add", "transaction", "range"))
        key = draw.choice("ab")
        arguments: dict[str, Any]
        if name == "put":
            arguments = {"value": str(draw.randrange(3))}
            if self.revisioned and draw.random() < 0.3:
                arguments["if_revision"] = draw.randrange(4)
        elif name == "add":
            arguments = {"delta": draw.choice((1, 2))}
        elif name == "transaction":
            keys = draw.choice(("a", "b", "ab"))
            put = {"operation": "put", "key": keys[0], "value": str(draw.randrange(3))}
            get = {"operation": "get", "key": keys[-1]}
            condition = {"condition": "compare", "key": keys[-1], "target": "exists", "relation": "=", "operand": 1}
            arguments = {"conditions": [condition], "then": [put, get], "otherwise": draw.choice(([get], [put]))}
            return name, None, arguments
        elif name == "range":
            return name, None, {"first": "", "last": ""}
        else:
            arguments = {}
        return name, key, arguments

    def damage(self, result: dict[str, Any]) -> None:
        """Change an answer a little."""
        draw = self.draw
        items = [result[name] for name in ("item",) if result.get(name)] + result.get("items", [])
        items += [each["item"] for each in result.get("results", []) if each.get("item")]
        kind = draw.random()
        if items and kind < 0.6:
            item = draw.choice(items)
            field = draw.choice([name for name in item if name != "key"])
            item[field] = str(draw.randrange(3)) if field == "value" else max(1, item[field] + draw.choice((-1, 1)))
        elif "item" in result:
            result["item"] = None
        elif "count" in result and "items" not in result:
            result["count"] = 1 - result["count"]
        elif "value" in result and kind < 0.6:
            result["value"] += 1
        elif self.revisioned:
            result["revision"] = max(1, result["revision"] + draw.choice((-1, 1)))

    def history(self) -> History:
        draw = self.draw
        idle = list(range(draw.randint(4, 5)))
        running: list[list[Any]] = []
        time = started = 0
        wrong = draw.choice((0.0, 0.5, 1.0, 1.0) if self.revisioned else (0.0, 1.0, 1.0, 1.0))
        size = draw.randint(4, 7)
        damages = 2 if self.revisioned else 5
        while started < size or running:
            time += 1
            kind = draw.random()
            if started < size and idle and kind < 0.45:
                started += 1
                name, key, arguments = self.operation()
                client = idle.pop()
                identifier = self.recorder.invoke(client, name, time, key=key, arguments=arguments)
                running.append([identifier, client, None])
            elif running and kind < 0.75:
                waiting = [each for each in running if each[2] is None]
                if waiting:
                    self.take_effect(draw.choice(waiting))
            elif running:
                operation = running.pop(draw.randrange(len(running)))
                identifier, client, result = operation
                idle.append(client)
                if draw.random() < 0.15:
                    idle[-1] += 100
                    if result is None and draw.random() < 0.5:
                        self.take_effect(operation)
                elif result is None:
                    self.recorder.fail(identifier, time)
                else:
                    if damages and draw.random() < wrong:
                        damages -= 1
                        self.damage(result)
                    self.recorder.ok(identifier, time, result)
        return self.recorder.history()

    def take_effect(self, operation: list[Any]) -> None:
        invoked = self.recorder.history().operations[operation[0] - 1]
        own = self.state[0] + 1 if self.revisioned else 0
        base = self.state[0] if self.revisioned else 0
        result, self.state = carry_out(self.state, invoked, base, own)
        operation[2] = copy.deepcopy(result)


def highest_revision(history: History) -> int:
    seen: list[int] = [each.result["revision"] for each in history.operations if each.outcome == "ok"]
    return max(seen, default=0) or 1


@pytest.mark.parametrize("witness", [True, False], ids=["witness", "search"])
def test_the_judgement_agrees_with_the_definition_on_thousands_of_histories(witness):
    verdicts: Counter[Verdict] = Counter()
    methods: Counter[Method] = Counter()
    uncertain = 0
    for seed in range(3000):
        history = Draw(seed, revisioned=True).history()
        expected = is_store_linearizable(history.operations, highest_revision(history))
        report = check(history, witness=witness)
        if report.verdict is not Verdict.UNKNOWN:
            assert report.verdict is (Verdict.OK if expected else Verdict.VIOLATION), (seed, report)
        verdicts[report.verdict] += 1
        methods[report.method] += 1
        uncertain += report.uncertain > 0
    assert min(verdicts[Verdict.OK], verdicts[Verdict.VIOLATION]) >= 900, verdicts
    assert verdicts[Verdict.UNKNOWN] <= 5, verdicts
    assert uncertain >= 900, uncertain
    if witness:
        assert methods[Method.WITNESS] > 1500, methods


def test_without_revisions_values_alone_are_judged_by_search():
    verdicts: Counter[Verdict] = Counter()
    for seed in range(1500):
        history = Draw(seed, revisioned=False).history()
        report = check(history)
        expected = is_store_linearizable(history.operations, 0)
        assert report.verdict is (Verdict.OK if expected else Verdict.VIOLATION), (seed, report)
        verdicts[report.verdict] += 1
    assert min(verdicts.values()) >= 450, verdicts
