"""A load of increments that can be audited: was anything that was acknowledged lost, was anything done twice?

Every operation has an id of its own. It is a transaction that writes a marker under its id, if there is none, and adds
1 to the client's total; if the marker is there already, it adds 1 to a count of duplicates instead. Whatever faults
the replicas go through meanwhile, afterwards it must hold that

- the marker of every acknowledged operation is there, and no marker of an operation that was definitely refused;
- ``acknowledged <= total <= acknowledged + unknown``, where the outcome of *unknown* operations was never learnt;
- the total equals the number of markers, and no duplicate was counted.

``python -m bench.increments --endpoints HOST:PORT,… --client NAME`` runs the load until its standard input ends (or a
number of operations is reached) and prints JSON lines: one for every acknowledged operation in order of
acknowledgement, as soon as it is acknowledged, and one with the outcome of all at the end. The lines are a record
outside the cluster, which survives whatever happens to the replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any, TextIO, TypeVar

import msgspec

from replica.client import AsyncStore, Indefinite, NotCommitted, connect_async
from replica.kv.operations import Add, Compare, Put, Transaction

MARKERS = b"increments/id/"
TOTALS = b"increments/total/"
DUPLICATES = b"increments/duplicates/"
PAUSE_AFTER_REFUSAL_S = 0.02

T = TypeVar("T")


class Outcome(msgspec.Struct):
    """What a client knows of its operations when it is done; operations are numbered from 1."""

    client: str
    acknowledged: list[int] = []
    unknown: list[int] = []
    refused: list[int] = []
    times: list[float] = []
    """When each of ``acknowledged`` was acknowledged, in seconds of this machine's monotonic clock."""


class Audit(msgspec.Struct):
    """What the store holds, held against what the clients know. Empty lists mean that all is well."""

    acknowledged: int = 0
    unknown: int = 0
    total: int = 0
    lost: list[str] = []
    """Acknowledged operations whose marker is missing."""
    resurrected: list[str] = []
    """Operations that were refused for certain, and took effect."""
    duplicated: int = 0
    problems: list[str] = []

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing twice, nothing from nowhere."""
        return not (self.lost or self.resurrected or self.duplicated or self.problems)


def longest_gap(times: list[float], begin: float, end: float) -> float:
    """The longest time within ``[begin, end]`` without an acknowledgement, in seconds."""
    inside = [begin, *(t for t in sorted(times) if begin <= t <= end), end]
    return max(later - earlier for earlier, later in pairwise(inside))


def marker(client: str, number: int) -> bytes:
    """The key of an operation's marker."""
    return b"%s%s/%010d" % (MARKERS, client.encode(), number)


def increment(client: str, number: int) -> Transaction:
    """The operation of that number."""
    key = marker(client, number)
    return Transaction(
        conditions=(Compare(key, "exists", "=", 0),),
        then=(Put(key, b"%d" % number), Add(TOTALS + client.encode(), 1)),
        otherwise=(Add(DUPLICATES + client.encode(), 1),),
    )


async def run_increments(
    store: AsyncStore,
    client: str,
    *,
    in_flight: int,
    stop: asyncio.Event,
    operations_max: int = 0,
    record: TextIO | None = None,
    timeout_s: float = 30.0,
) -> Outcome:
    """Keep ``in_flight`` increments outstanding until ``stop`` is set (or that many were begun); then wait for all.

    ``record`` is given a line for every acknowledgement, at once.
    """
    outcome = Outcome(client=client)
    begun = 0

    async def worker() -> None:
        nonlocal begun
        while not stop.is_set() and (not operations_max or begun < operations_max):
            begun += 1
            number = begun
            operation = increment(client, number)
            try:
                await store.transaction(operation.conditions, operation.then, operation.otherwise, timeout_s=timeout_s)
            except Indefinite:
                outcome.unknown.append(number)
            except NotCommitted:
                outcome.refused.append(number)
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)
            else:
                outcome.acknowledged.append(number)
                outcome.times.append(time.monotonic())
                if record is not None:
                    record.write(f'{{"acknowledged":{number}}}\n')
                    record.flush()

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return outcome


async def audit(store: AsyncStore, outcomes: list[Outcome]) -> Audit:
    """Read back what the store holds and compare."""
    found = Audit()
    for outcome in outcomes:
        name = outcome.client
        prefix = MARKERS + name.encode() + b"/"
        present = set()
        async for item in store.range(prefix=prefix):
            number = int(item.key[len(prefix) :])
            present.add(number)
            if item.version != 1:
                found.problems.append(f"{name}/{number}: its marker was written {item.version} times")
        total = await _number(store, TOTALS + name.encode())
        acknowledged, unknown = len(outcome.acknowledged), len(outcome.unknown)
        found.acknowledged += acknowledged
        found.unknown += unknown
        found.total += total
        found.duplicated += await _number(store, DUPLICATES + name.encode())
        found.lost.extend(f"{name}/{number}" for number in outcome.acknowledged if number not in present)
        found.resurrected.extend(f"{name}/{number}" for number in outcome.refused if number in present)
        if not acknowledged <= total <= acknowledged + unknown:
            found.problems.append(
                f"{name}: a total of {total} does not lie between {acknowledged} acknowledged "
                f"and {acknowledged + unknown} with the unknown ones"
            )
        if total != len(present):
            found.problems.append(f"{name}: a total of {total}, but {len(present)} markers")
    return found


async def _number(store: AsyncStore, key: bytes) -> int:
    item = await store.get(key)
    return int(item.value) if item is not None else 0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under uvloop where it is installed."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.run(main)
    return asyncio.run(main)


async def _main(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def wait_for_end_of_input() -> None:
        while await reader.read(1024):
            pass
        stop.set()

    watcher = asyncio.create_task(wait_for_end_of_input())
    async with connect_async(options.endpoints) as store:
        outcome = await run_increments(
            store,
            options.client,
            in_flight=options.in_flight,
            stop=stop,
            operations_max=options.operations,
            record=sys.stdout,
            timeout_s=options.timeout,
        )
    watcher.cancel()
    sys.stdout.write(json.dumps({"outcome": msgspec.to_builtins(outcome)}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="a load of increments that can be audited")
    parser.add_argument("--endpoints", required=True)
    parser.add_argument("--client", required=True, help="a name that no other client of this cluster has")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--operations", type=int, default=0, help="stop after that many; 0: when the input ends")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that one operation may take")
    run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
