"""Histories of a correct store under load, made up from a seed: what the checker is measured on.

Clients run in a closed loop over keys drawn by Zipf's law. Every operation takes effect at one moment between its
invocation and its outcome; of an unknown share the client never hears, and half of those take effect, some of them long
after.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect
from itertools import accumulate
from typing import Any

from replica.verification.history import Header, History, Recorder

ZIPF_EXPONENT = 0.99


def make_history(
    *,
    operations: int,
    clients: int = 64,
    keys: int = 1000,
    unknown: float = 0.05,
    reads: float = 0.5,
    seed: int = 1,
    model: str = "register",
) -> History:
    """A linearizable history of the model ``register`` or ``kv`` (puts, gets and some transactions on two keys)."""
    return _Load(
        operations=operations, clients=clients, keys=keys, unknown=unknown, reads=reads, seed=seed, model=model
    ).run()


class _Load:
    def __init__(
        self, *, operations: int, clients: int, keys: int, unknown: float, reads: float, seed: int, model: str
    ) -> None:
        self._draw = random.Random(seed)
        self._operations = operations
        self._clients = clients
        self._unknown = unknown
        self._reads = reads
        self._revisioned = model == "kv"
        self._recorder = Recorder(Header(model=model, attributes={"seed": seed}))
        self._weights = list(accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, keys + 1)))
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
        elif self._revisioned and chance > 0.98:
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
        self._later(time + delay, self._take_effect, client, identifier, name, keys, arguments, lost)

    def _give_up(self, time: float, client: int, identifier: int) -> None:
        self._recorder.unknown(identifier, time, "timed out")
        self._begin(time, client)

    def _take_effect(
        self,
        time: float,
        client: int,
        identifier: int,
        name: str,
        keys: list[str],
        arguments: dict[str, Any],
        lost: bool,
    ) -> None:
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
