"""What it costs to judge a history: seconds, by model and method.

``python -m bench.micro_checker [--operations 100000] [--json]`` makes up histories of a correct store under load from a
seed, and reports the processor time to make, write, read and check each. One core, no other process needed.

Clients run in a closed loop over keys drawn by Zipf's law. Every operation takes effect at one moment between its
invocation and its outcome; of an unknown share the client never hears, and half of those take effect, some of them long
after.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import sys
import tempfile
import time
from bisect import bisect
from pathlib import Path
from typing import Any, Final

import msgspec

from replica.verification import Header, History, Recorder, check, read_history, write_history

ZIPF_EXPONENT: Final = 0.99

VARIANTS: Final = (("register", True), ("kv", True), ("kv", False))
"""Model, and whether answers carry revisions, which serve as a witness. Where they do not, transactions are left out:
they would make one part of all keys, which no search can be asked to judge."""


class Cost(msgspec.Struct, frozen=True):
    """What one history took, in seconds of processor time."""

    model: str
    method: str
    verdict: str
    operations: int
    uncertain: int
    parts: int
    states: int
    write_s: float
    read_s: float
    check_s: float


def make_history(
    *,
    operations: int,
    clients: int = 64,
    keys: int = 1000,
    unknown: float = 0.05,
    reads: float = 0.5,
    seed: int = 1,
    model: str = "register",
    revisions: bool = True,
) -> History:
    """A linearizable history of the model ``register`` or ``kv`` (puts, gets and, with ``revisions``, transactions)."""
    return _Load(
        operations=operations,
        clients=clients,
        keys=keys,
        unknown=unknown,
        reads=reads,
        seed=seed,
        model=model,
        revisions=revisions,
    ).run()


class _Load:
    def __init__(
        self,
        *,
        operations: int,
        clients: int,
        keys: int,
        unknown: float,
        reads: float,
        seed: int,
        model: str,
        revisions: bool,
    ) -> None:
        self._draw = random.Random(seed)
        self._operations = operations
        self._clients = clients
        self._unknown = unknown
        self._reads = reads
        self._revisions = revisions
        self._revisioned = model == "kv"
        self._recorder = Recorder(Header(model=model, attributes={"seed": seed}))
        self._weights = list(itertools.accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, keys + 1)))
        self._events: list[tuple[float, int, Any]] = []
        self._order = 0
        self._items: dict[str, dict[str, Any]] = {}
        self._revision = 0
        self._started = 0

    def run(self) -> History:
        for client in range(self._clients):
            self._later(self._draw.random() * 1e-3, self._begin, client)
        while self._events:
            time, _, (action, arguments) = heapq.heappop(self._events)
            action(time, *arguments)
        return self._recorder.history()

    def _later(self, time: float, action: Any, *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, (action, arguments)))

    def _key(self) -> str:
        return f"key{bisect(self._weights, self._draw.random() * self._weights[-1])}"

    def _begin(self, time: float, client: int) -> None:
        if self._started == self._operations:
            return
        self._started += 1
        draw = self._draw
        keys = [self._key()]
        chance = draw.random()
        if chance < self._reads:
            name = "get" if self._revisioned else "read"
            arguments: dict[str, Any] = {}
        elif self._revisions and self._revisioned and chance > 0.98:
            name = "transaction"
            keys.append(self._key())
            puts = [{"operation": "put", "key": key, "value": f"v{self._started}"} for key in keys]
            arguments = {"then": puts}
        else:
            name = "put" if self._revisioned else "write"
            arguments = {"value": f"v{self._started}"}
        identifier = self._recorder.invoke(
            client, name, time, key=keys[0] if name != "transaction" else None, arguments=arguments
        )
        lost = draw.random() < self._unknown
        delay = draw.expovariate(1000.0)
        if lost:
            self._later(time + 0.02, self._give_up, client, identifier)
            if draw.random() < 0.5:
                return
            delay *= draw.choice((1, 1, 30))
        self._later(time + delay, self._take_effect, client, identifier, (name, keys, arguments), lost)

    def _give_up(self, time: float, client: int, identifier: int) -> None:
        self._recorder.unknown(identifier, time, "timed out")
        self._begin(time, client)

    def _take_effect(
        self, time: float, client: int, identifier: int, asked: tuple[str, list[str], dict[str, Any]], lost: bool
    ) -> None:
        name, keys, arguments = asked
        result: dict[str, Any]
        if name == "read":
            item = self._items.get(keys[0])
            result = {"value": None if item is None else item["value"]}
        elif name == "get":
            result = {"revision": self._revision, "item": self._items.get(keys[0])}
        elif name == "write":
            self._items[keys[0]] = arguments
            result = {}
        else:
            self._revision += 1
            if name == "put":
                self._put(keys[0], arguments["value"])
                result = {"revision": self._revision}
            else:
                for each in arguments["then"]:
                    self._put(each["key"], each["value"])
                results = [{"revision": self._revision}] * len(arguments["then"])
                result = {"revision": self._revision, "succeeded": True, "results": results}
        if not self._revisions and self._revisioned:
            item = result.get("item")
            result = {} if name == "put" else {"item": None if item is None else {"value": item["value"]}}
        if not lost:
            self._later(time + self._draw.expovariate(1000.0), self._answer, client, identifier, result)

    def _put(self, key: str, value: str) -> None:
        before = self._items.get(key, {"create": self._revision, "version": 0})
        self._items[key] = {
            "value": value,
            "create": before["create"],
            "mod": self._revision,
            "version": before["version"] + 1,
        }

    def _answer(self, time: float, client: int, identifier: int, result: dict[str, Any]) -> None:
        self._recorder.ok(identifier, time, result)
        self._begin(time, client)


def measure(model: str, *, revisions: bool, operations: int, folder: Path) -> Cost:
    """Make, write, read and check one history."""
    history = make_history(operations=operations, model=model, revisions=revisions)
    path = folder / "history.jsonl"
    marks = [time.process_time()]
    write_history(history, path)
    marks.append(time.process_time())
    history = read_history(path)
    marks.append(time.process_time())
    report = check(history)
    marks.append(time.process_time())
    write_s, read_s, check_s = (round(after - before, 3) for before, after in itertools.pairwise(marks))
    return Cost(
        model=model,
        method=report.method,
        verdict=report.verdict,
        operations=report.operations,
        uncertain=report.uncertain,
        parts=report.parts,
        states=report.states,
        write_s=write_s,
        read_s=read_s,
        check_s=check_s,
    )


def main() -> None:
    """Measure every variant and print a table."""
    parser = argparse.ArgumentParser(description="What it costs to judge a history.")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = [
            measure(model, revisions=revisions, operations=options.operations, folder=Path(folder))
            for model, revisions in VARIANTS
        ]
    if options.json:
        for cost in costs:
            sys.stdout.write(json.dumps(msgspec.to_builtins(cost)) + "\n")
        return
    sys.stdout.write("model     method   verdict  operations  unknown  parts   states   write    read   check\n")
    for cost in costs:
        sys.stdout.write(
            f"{cost.model:<9} {cost.method:<8} {cost.verdict:<8} {cost.operations:>10} {cost.uncertain:>8} "
            f"{cost.parts:>6} {cost.states:>8} {cost.write_s:>5.2f} s {cost.read_s:>5.2f} s {cost.check_s:>5.2f} s\n"
        )


if __name__ == "__main__":
    main()
