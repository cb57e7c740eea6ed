"""What the state machine costs: CPU µs a put, step by step, by the operations in a run and by store.

``python -m bench.micro_kv [--puts 40000] [--rounds 3] [--keys 1000] [--value-bytes 128] [--folder DIR] [--json]``

The steps are those that a put goes through: the client encodes the run, the leader validates it, every replica applies
it (decoding, session, history, and the commit of the state, once in ``COMMIT_PUTS``), and the replica to which the
client is attached encodes the results. ``null`` is a store that does nothing: what remains is the machine itself.
``compacting`` compacts behind itself, so that every put also pays for the removal of an older one. CPU time of one
thread, the fastest of the rounds: compare within one run.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import Final

import msgspec

from replica.consensus.interface import Command
from replica.kv.machine import Outcome, StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import AnyOperation, Compact, Get, OpenSession, Put, Range
from replica.kv.runs import encode_operations, pack_payload, validate_run
from replica.kv.store import Store
from replica.storage.state import LmdbStore

RUNS: Final = (1, 16, 128, 512)
"""Operations in a run."""

COMMIT_PUTS: Final = 16_384
"""Puts between two commits of the state, about as many as a busy replica applies in the time between two."""

COMPACTION_PUTS: Final = 8192
"""Puts between two compactions, where there are any; as many stay readable."""


class Cost(msgspec.Struct, frozen=True):
    """CPU µs an operation."""

    step: str
    store: str
    run: int
    us: float


class NullStore:
    """A store that holds nothing."""

    def get(self, table: str, key: bytes) -> bytes | None:
        return None

    def put(self, table: str, key: bytes, value: bytes) -> None:
        pass

    def put_many(self, table: str, items: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        pass

    def delete(self, table: str, key: bytes) -> bool:
        return False

    def delete_many(self, table: str, keys: Iterable[bytes]) -> None:
        pass

    def seek(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        return None

    def seek_before(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        return None

    def scan(self, table: str, first: bytes, last: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return iter(())

    def count(self, table: str) -> int:
        return 0

    def clear(self) -> None:
        pass

    def commit(self) -> None:
        pass


class Load:
    """The same puts for every variant."""

    def __init__(self, *, puts: int, keys: int, value_bytes: int, seed: int = 1) -> None:
        chance = random.Random(seed)
        value = chance.randbytes(value_bytes)
        self.operations = [Put(b"key%08d" % chance.randrange(keys), value) for _ in range(puts)]
        self.gets = [Get(put.key) for put in self.operations]

    def runs(self, run: int) -> list[list[AnyOperation]]:
        """The puts in runs."""
        return [list(self.operations[at : at + run]) for at in range(0, len(self.operations), run)]


def commands(runs: list[list[AnyOperation]]) -> list[Command]:
    """The runs of one session as commands; the client acknowledges one run behind."""
    made = []
    sequence = 1
    for operations in runs:
        acknowledged = max(0, sequence - 1 - len(operations))
        payload = pack_payload(acknowledged, encode_operations(operations))
        made.append(Command(payload, 1, sequence, len(operations)))
        sequence += len(operations)
    return made


def timed(action: Callable[[], object], operations: int) -> float:
    """CPU µs an operation."""
    began = time.process_time_ns()
    action()
    return (time.process_time_ns() - began) / operations / 1000


def apply_all(machine: StateMachine, decided: list[Command], *, compacting: bool) -> None:
    """Apply the commands, a position each, committing now and then."""
    uncommitted = 0
    uncompacted = 0
    for command in decided:
        machine.apply(machine.applied + 1, (command,))
        uncommitted += command.count
        uncompacted += command.count
        if compacting and uncompacted >= COMPACTION_PUTS and machine.revision > COMPACTION_PUTS:
            compact = encode_operations([Compact(machine.revision - COMPACTION_PUTS)])
            machine.apply(machine.applied + 1, (Command(pack_payload(0, compact)),))
            uncompacted = 0
        if uncommitted >= COMMIT_PUTS:
            machine.commit()
            uncommitted = 0
    machine.commit()


class Measurement:
    """All steps; of each, the fastest of the rounds."""

    def __init__(self, load: Load, folder: Path) -> None:
        self._load = load
        self._folder = folder
        self._environments = 0
        self._best: dict[tuple[str, str, int], float] = {}

    def round(self) -> None:
        """Measure everything once."""
        for run in RUNS:
            runs = self._load.runs(run)
            decided = commands(runs)
            self._coding(run, runs)
            self._applying("apply", "null", NullStore(), run, decided)
            self._reading("memory", run, self._applying("apply", "memory", MemoryStore(), run, decided))
            with closing(self._environment()) as store:
                self._reading("lmdb", run, self._applying("apply", "lmdb", store, run, decided))
            with closing(self._environment()) as store:
                self._applying("apply, compacting", "lmdb", store, run, decided, compacting=True)

    def costs(self) -> list[Cost]:
        """What was found."""
        return [Cost(step, store, run, round(us, 3)) for (step, store, run), us in self._best.items()]

    def _coding(self, run: int, runs: list[list[AnyOperation]]) -> None:
        puts = len(self._load.operations)
        encoded = [(encode_operations(operations), len(operations)) for operations in runs]
        outcomes = [Outcome(session=1, sequence=1, count=count, first_revision=1_000_000) for _, count in encoded]
        self._note("encode run", "", run, timed(lambda: list(map(encode_operations, runs)), puts))
        self._note("validate run", "", run, timed(lambda: list(starmap(validate_run, encoded)), puts))
        self._note("encode results", "", run, timed(lambda: [one.encoded() for one in outcomes], puts))

    def _applying(
        self, step: str, name: str, store: Store, run: int, decided: list[Command], *, compacting: bool = False
    ) -> StateMachine:
        machine = StateMachine(store)
        opening = encode_operations([OpenSession(b"nonce")])
        machine.apply(1, (Command(pack_payload(0, opening)),))
        us = timed(
            lambda: apply_all(machine, decided, compacting=compacting), sum(command.count for command in decided)
        )
        self._note(step, name, run, us)
        return machine

    def _reading(self, name: str, run: int, machine: StateMachine) -> None:
        gets = self._load.gets
        self._note("get", name, run, timed(lambda: machine.query(gets), len(gets)))
        keys = machine.digest().keys
        self._note("range, a key", name, run, timed(lambda: machine.query([Range(b"", b"")]), keys))

    def _environment(self) -> LmdbStore:
        self._environments += 1
        path = self._folder / str(self._environments)
        path.mkdir()
        return LmdbStore(path)

    def _note(self, step: str, store: str, run: int, us: float) -> None:
        key = (step, store, run)
        self._best[key] = min(us, self._best.get(key, us))


def table(costs: list[Cost]) -> str:
    """A line a step and store, a column a size of run."""
    lines = [f"{'CPU µs an operation':<28}" + "".join(f"{f'run of {run}':>12}" for run in RUNS)]
    rows: dict[tuple[str, str], dict[int, float]] = {}
    for cost in costs:
        rows.setdefault((cost.step, cost.store), {})[cost.run] = cost.us
    for (step, store), row in rows.items():
        label = f"{step} ({store})" if store else step
        lines.append(f"{label:<28}" + "".join(f"{row[run]:>12.2f}" for run in RUNS))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puts", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where the LMDB environments go; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = Load(puts=arguments.puts, keys=arguments.keys, value_bytes=arguments.value_bytes)
    with tempfile.TemporaryDirectory(prefix="synod-micro-", dir=arguments.folder) as folder:
        measurement = Measurement(load, Path(folder))
        for _ in range(arguments.rounds):
            measurement.round()
        costs = measurement.costs()
    output = json.dumps(msgspec.to_builtins(costs), indent=2) if arguments.json else table(costs)
    sys.stdout.write(output + "\n")


if __name__ == "__main__":
    main()
