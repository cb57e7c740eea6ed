"""The operations of a workload: operation n of client i is a pure function of (seed, i, n).

Two runs with the same seed ask the same, whatever the systems under test are, however fast they answer, and wherever
hot spots have moved to meanwhile: a hot spot moves with n, not with time. Draws come from a counter-based generator
(Philox, keyed by seed and client, with the number of a block of operations as its counter), so that any operation can
be made without those before it, and cheaply: a block is drawn at once by numpy, and an operation is built from the
drawn numbers when it is its turn.

What depends on earlier operations is arranged so that it can be computed: inserts come at regular places of a client's
sequence (with the share that the mix wants), so that how many there were before n is known without looking, and
"latest" chooses among them; likewise the runs that a metadata client has created.

Every value that is written begins with 16 bytes that name its operation: the client, n, and which of the values of the
operation it is. So no two writes write the same, and whoever reads a value knows whose it is.

Keys are ``PREFIX`` and ten digits, in the order of their numbers. Clients insert keys of their own, behind the others.
Groups of neighbouring keys are what transactions stay in (`bench.workload`); `Sample` chooses some of the groups, the
same for all clients, and an operation within them is *recorded*.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from bench.workload import METADATA_KINDS, Locality, Workload, WorkloadError
from replica.kv.operations import (
    Add,
    AnyOperation,
    Compare,
    Delete,
    Get,
    Put,
    Range,
    Simple,
    Transaction,
    prefix_end,
)

BLOCK: Final = 256
"""Operations drawn at once."""

BLOCKS_KEPT: Final = 8
"""Drawn blocks that a stream holds, for operations that refer to earlier ones."""

ZIPF_KEYS_MAX: Final = 10_000_000
"""A Zipfian choice keeps a table of all keys."""

GROUPS_RANKED_MAX: Final = 1_000_000
"""Up to so many groups are ranked to sample exactly the share that was asked for."""

GROUPS_SAMPLED_MIN: Final = 4
"""A sample holds at least so many groups, if there are so many."""

LOADER: Final = 0xFFFF_FFFF
"""The client id under which keys are written before the clock runs."""

KINDS: Final = (
    "read",
    "write",
    "update",
    "insert",
    "delete",
    "add",
    "scan",
    "transaction",
    "create-run",
    "log-metrics",
    "register-artifact",
    "list-runs",
)
"""The kinds of operations; a number stands for each."""

UPDATE: Final = KINDS.index("update")

_UNIFORM_WIDTH: Final = 12**0.5
"""Of an interval, in standard deviations of a uniform choice from it."""

_HEADER: Final = struct.Struct(">IQI")
_FILLER_BYTES: Final = 1 << 16

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class Planned(msgspec.Struct, frozen=True, gc=False):
    """One operation. An ``update`` is a read and the write that follows it."""

    kind: int
    operation: AnyOperation
    recorded: bool
    after: Put | None = None
    """Of an update: what is written once the read has been answered."""


class OperationId(msgspec.Struct, frozen=True):
    """Who wrote a value."""

    client: int
    number: int
    part: int


def operation_of(value: bytes) -> OperationId | None:
    """The operation that wrote ``value``; None for a value that no workload wrote (a counter)."""
    return OperationId(*_HEADER.unpack_from(value)) if len(value) >= _HEADER.size else None


class Sample:
    """Which groups of keys are recorded: the same for all clients of a run."""

    def __init__(self, workload: Workload, seed: int, fraction: float) -> None:
        self.size = group_size(workload)
        """Keys in a group."""
        self._salt = np.uint64(_mix_scalar(seed ^ 0x5EED))
        groups = -(-workload.keys // self.size)
        if fraction <= 0:
            self._limit: int | None = None
        elif fraction >= 1:
            self._limit = (1 << 64) - 1
        elif groups <= GROUPS_RANKED_MAX:
            wanted = min(groups, max(GROUPS_SAMPLED_MIN, round(fraction * groups)))
            ranks = np.sort(self._rank(np.arange(groups, dtype=np.int64)))
            self._limit = int(ranks[wanted - 1])
        else:
            self._limit = int(fraction * (1 << 64))

    def holds(self, keys: Integers) -> list[bool]:
        """For each key, whether its group is recorded."""
        if self._limit is None:
            return [False] * len(keys)
        chosen: list[bool] = (self._rank(keys // self.size) <= np.uint64(self._limit)).tolist()
        return chosen

    def _rank(self, groups: Integers) -> npt.NDArray[np.uint64]:
        """A hash of each group (the finaliser of splitmix64)."""
        with np.errstate(over="ignore"):
            x = groups.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + self._salt
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
            return mixed


def group_size(workload: Workload) -> int:
    """Keys in a group; groups of one where no operation touches several keys."""
    if not {"transaction", "scan"} & workload.shares.keys():
        return 1
    return workload.group or workload.keys


def _mix_scalar(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@lru_cache(maxsize=4)
def _zipf_table(keys: int, exponent: float, offset: float) -> Reals:
    """Cumulated probabilities of (offset + n) ** -exponent, n from 0."""
    table = np.cumsum((offset + np.arange(keys, dtype=np.float64)) ** -exponent)
    table /= table[-1]
    return table


def _scrambler(keys: int) -> int:
    """A multiplier that permutes the numbers below ``keys``."""
    candidate = 0x9E3779B1 % keys or 1
    while np.gcd(candidate, keys) != 1:
        candidate += 1
    return candidate


def check_sharing(workload: Workload, clients: int) -> None:
    """Raises `WorkloadError` when the workload cannot be made by so many clients."""
    if workload.conflict is not None and workload.keys - workload.conflict.keys < clients:
        raise WorkloadError(
            f"workload.keys: {workload.keys} keys, {workload.conflict.keys} of them shared, leave none to some of "
            f"{clients} clients"
        )
    if workload.distribution.kind == "zipfian" and workload.keys > ZIPF_KEYS_MAX:
        raise WorkloadError(f"workload.keys: a Zipfian choice is among {ZIPF_KEYS_MAX} keys at most")


class _Block(msgspec.Struct):
    """The numbers drawn for `BLOCK` operations, as lists."""

    kinds: list[int]
    keys: list[int]
    recorded: list[bool]
    sizes: list[int]
    extra: list[float]
    """A second draw for whatever a kind needs."""
    salts: list[int]


class Stream:
    """The operations of one client.

    Args:
        client, clients: which of how many; clients are numbered from 0.
        region, regions: where it is, for locality.
        prefix: of all keys; runs that share a cluster have prefixes of their own.
        fraction: of the groups that is recorded.

    Raises `WorkloadError` when the workload cannot be divided among so many clients.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        seed: int,
        client: int = 0,
        clients: int = 1,
        region: int = 0,
        regions: int = 1,
        prefix: bytes = b"",
        fraction: float = 0.0,
    ) -> None:
        check_sharing(workload, clients)
        self.workload = workload
        self.client = client
        self.prefix = prefix
        self.end = prefix_end(prefix)
        self._clients = clients
        self._region = region
        self._regions = regions
        self._seed = seed
        self._keys = workload.keys
        self.sample = Sample(workload, seed, fraction)
        shares = workload.shares
        regular = "insert" if "insert" in shares else "create-run" if "create-run" in shares else ""
        self._regular = KINDS.index(regular) if regular else -1
        self._share = shares.get(regular, 0.0)
        others = {kind: share for kind, share in shares.items() if kind != regular}
        total = sum(others.values())
        self._others = np.array([KINDS.index(kind) for kind in others] or [self._regular], dtype=np.int64)
        self._edges = np.cumsum([share / total for share in others.values()]) if others else np.array([1.0])
        self._phase = (_mix_scalar(seed * 31 + client) >> 11) / (1 << 53)
        self._multiplier = _scrambler(self._keys)
        self._blocks: dict[int, _Block] = {}
        self._filler = np.random.Generator(np.random.Philox(key=seed & ((1 << 64) - 1))).bytes(
            _FILLER_BYTES + max(workload.value.maximum, workload.value.bytes)
        )

    # --------------------------------------------------------------------------------------------------- operations

    def __iter__(self) -> Iterator[Planned]:
        number = 0
        while True:
            yield self.operation(number)
            number += 1

    def operation(self, number: int) -> Planned:
        """The operation of that number, counted from 0."""
        block = self._block(number // BLOCK)
        index = number % BLOCK
        kind = block.kinds[index]
        key = block.keys[index]
        recorded = block.recorded[index]
        if kind == 0:
            return Planned(0, Get(self.key(key)), recorded)
        if kind == 1:
            return Planned(1, Put(self.key(key), self._value(number, 0, block.sizes[index])), recorded)
        return self._build(number, block, index)

    def _build(self, number: int, block: _Block, index: int) -> Planned:
        kind, key, recorded, size = block.kinds[index], block.keys[index], block.recorded[index], block.sizes[index]
        name = KINDS[kind]
        if name in METADATA_KINDS:
            return self._metadata(number, block, index)
        match name:
            case "update":
                put = Put(self.key(key), self._value(number, 0, size))
                return Planned(kind, Get(self.key(key)), recorded, put)
            case "insert":
                return Planned(kind, Put(self.key(key), self._value(number, 0, size)), recorded)
            case "delete":
                return Planned(kind, Delete(self.key(key)), recorded)
            case "add":
                return Planned(kind, Add(self.prefix + b"n%010d" % key, 1), recorded)
            case "scan":
                scans = self.workload.scans
                length = scans.length if scans.kind == "fixed" else 1 + int(block.extra[index] * scans.length)
                return Planned(kind, Range(self.key(key), self.end, length), recorded)
            case _:
                return Planned(kind, self._transaction(number, key, size, block.salts[index]), recorded)

    def _transaction(self, number: int, key: int, size: int, salt: int) -> Transaction:
        """Reads and writes of different keys of the group that ``key`` is in."""
        wanted = self.workload.transactions
        group = self.workload.group or self._keys
        first = key - key % group
        room = min(group, self._keys - first)
        if room < wanted.reads + wanted.writes:  # the last group is short: borrow from the one before
            first, room = max(0, self._keys - group), min(group, self._keys)
        step = 1 + salt % room
        while np.gcd(step, room) != 1:
            step += 1
        chosen = [first + (key - first + place * step) % room for place in range(wanted.reads + wanted.writes)]
        read = [Get(self.key(each)) for each in chosen[: wanted.reads]]
        written = [
            Put(self.key(each), self._value(number, part, size)) for part, each in enumerate(chosen[wanted.reads :])
        ]
        if not wanted.conditional:
            return Transaction((), (*read, *written), ())
        condition = Compare(self.key(chosen[0]), "version", "<", 1 + salt % 64)
        return Transaction((condition,), (*read, *written), tuple(read))

    def loads(self, regions: Collection[int] | None = None) -> Iterator[tuple[Put, bool]]:
        """What is written before the clock runs: every key once; and whether it is recorded.

        Several clients may share the work: each writes the keys that belong to the ``regions`` given.
        """
        for first in range(0, self._keys, BLOCK):
            keys = np.arange(first, min(first + BLOCK, self._keys), dtype=np.int64)
            if regions is not None:
                keys = keys[np.isin(self._home(keys), list(regions))]
            for key, recorded in zip(keys.tolist(), self.sample.holds(keys), strict=True):
                header = _HEADER.pack(LOADER, key, 0)
                size = self.workload.value.bytes
                yield Put(self.key(key), header + self._filler[: size - _HEADER.size]), recorded

    # ---------------------------------------------------------------------------------------------- keys and values

    def key(self, number: int) -> bytes:
        """The key of that number."""
        return self.prefix + b"%010d" % number

    def bounds(self, key: bytes) -> tuple[bytes, bytes]:
        """The interval of the group that ``key`` is in."""
        size = self.sample.size
        first = int(key[len(self.prefix) :]) // size * size
        return self.key(first), self.key(first + size)

    def _value(self, number: int, part: int, size: int) -> bytes:
        start = (number * 97 + part * 13) % _FILLER_BYTES
        return _HEADER.pack(self.client, number, part) + self._filler[start : start + size - _HEADER.size]

    def regular_before(self, number: int) -> int:
        """How many inserts (or created runs) there are among the operations before ``number``."""
        return int(number * self._share + self._phase)

    # -------------------------------------------------------------------------------------------------------- metadata

    def _metadata(self, number: int, block: _Block, index: int) -> Planned:
        """Records, indexes and edges are written in one transaction, as a metadata store does."""
        kind, key, recorded = block.kinds[index], block.keys[index], block.recorded[index]
        name, options, size = KINDS[kind], self.workload.metadata, block.sizes[index]
        if name == "create-run":
            return Planned(kind, self._create_run(number, key, size), recorded)
        if name == "list-runs":
            folder = self._folder(key) + (b"running/" if block.extra[index] < 0.5 else b"run/")
            return Planned(kind, Range(folder, prefix_end(folder), options.page), recorded)
        recent = self._recent_run(number, block.salts[index])
        run = b"none"
        if recent is not None:
            key, recorded, run = recent
        folder = self._folder(key)
        exists = (Compare(folder + b"run/" + run, "exists", "=", 1),)
        missing = (Get(folder + b"run/" + run),)
        if name == "log-metrics":
            written = [
                Put(folder + b"metric/%s/%03d" % (run, part), self._value(number, part, size))
                for part in range(options.metrics)
            ]
            then: tuple[Simple, ...] = (*written, Add(folder + b"steps/" + run, 1))
            return Planned(kind, Transaction(exists, then, missing), recorded)
        artifact = b"%d-%d" % (self.client, number)
        inputs = 1 + block.salts[index] % options.inputs
        edges = [
            Put(folder + b"lineage/%s/%03d" % (artifact, part), self._value(number, 1 + part, size))
            for part in range(inputs)
        ]
        record = Put(folder + b"artifact/" + artifact, self._value(number, 0, size))
        back = Put(folder + b"output/%s/%s" % (run, artifact), self._value(number, 1 + inputs, size))
        then = (record, back, *edges, Get(folder + b"artifact/base"))
        return Planned(kind, Transaction(exists, then, missing), recorded)

    def _create_run(self, number: int, experiment: int, size: int) -> Transaction:
        folder = self._folder(experiment)
        run = b"%d-%d" % (self.client, number)
        record = Put(folder + b"run/" + run, self._value(number, 0, size))
        index = Put(folder + b"running/" + run, self._value(number, 1, size))
        absent = (Compare(record.key, "exists", "=", 0),)
        return Transaction(absent, (record, index, Add(folder + b"count", 1)), (Get(record.key),))

    def _recent_run(self, number: int, salt: int) -> tuple[int, bool, bytes] | None:
        """One of the last runs that this client has created: its experiment, whether that is recorded, its name."""
        created = self.regular_before(number)
        if not created:
            return None
        place = self._place_of(created - min(created, 1 + salt % 4))
        block = self._block(place // BLOCK)
        index = place % BLOCK
        return block.keys[index], block.recorded[index], b"%d-%d" % (self.client, place)

    def _place_of(self, ordinal: int) -> int:
        """Which operation the insert (or creation) of that ordinal is."""
        place = int((ordinal + 1 - self._phase) / self._share) - 1
        while self.regular_before(place + 1) <= ordinal:
            place += 1
        while place > 0 and self.regular_before(place) > ordinal:
            place -= 1
        return place

    def _folder(self, experiment: int) -> bytes:
        return self.key(experiment) + b"/"

    # ------------------------------------------------------------------------------------------------------- drawing

    def _block(self, number: int) -> _Block:
        block = self._blocks.get(number)
        if block is None:
            while len(self._blocks) >= BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            block = self._blocks[number] = self._draw(number)
        return block

    def _draw(self, block: int) -> _Block:
        key = ((self._seed & ((1 << 64) - 1)) << 64) | self.client
        draw = np.random.Generator(np.random.Philox(key=key, counter=block << 192))
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.int64)
        kinds = self._others[
            np.minimum(np.searchsorted(self._edges, draw.random(BLOCK), side="right"), len(self._others) - 1)
        ]
        before = np.floor(numbers * self._share + self._phase).astype(np.int64)
        if self._share:
            after = np.floor((numbers + 1) * self._share + self._phase).astype(np.int64)
            kinds = np.where(after > before, self._regular, kinds)
        keys = self._choose(draw, numbers, before)
        if self._regular == KINDS.index("insert"):
            fresh = self._keys + before * self._clients + self.client
            keys = np.where(kinds == self._regular, fresh, keys)
        return _Block(
            kinds=kinds.tolist(),
            keys=keys.tolist(),
            recorded=self.sample.holds(keys),
            sizes=self._sizes(draw),
            extra=draw.random(BLOCK).tolist(),
            salts=draw.integers(0, 1 << 31, BLOCK).tolist(),
        )

    def _choose(self, draw: np.random.Generator, numbers: Integers, inserted: Integers) -> Integers:
        """A key for each operation, below ``keys`` but for ``latest``."""
        if self.workload.conflict is not None:
            return self._contended(draw, numbers)
        if self.workload.locality is not None:
            return self._local(draw, numbers, self.workload.locality)
        chosen = self.workload.distribution
        keys = self._keys
        match chosen.kind:
            case "uniform":
                found = draw.integers(0, keys, BLOCK)
            case "zipfian":
                table = _zipf_table(keys, chosen.exponent, chosen.offset)
                found = np.searchsorted(table, draw.random(BLOCK), side="right").astype(np.int64)
                if chosen.scramble:
                    found = found * self._multiplier % keys
            case "normal":
                found = np.rint(draw.normal(chosen.mean * keys, chosen.deviation * keys, BLOCK)).astype(np.int64)
            case "exponential":
                found = np.floor(draw.exponential(keys / chosen.rate, BLOCK)).astype(np.int64)
            case "ordered":
                found = numbers * self._clients + self.client
            case _:
                return self._latest(draw, inserted)
        return self._moved(found, numbers)

    def _moved(self, keys: Integers, numbers: Integers) -> Integers:
        """The hot spot is where it is at that operation; keys wrap around."""
        chosen = self.workload.distribution
        if chosen.move_every:
            keys = keys + numbers // chosen.move_every * chosen.move_by
        return keys % self._keys

    def _contended(self, draw: np.random.Generator, numbers: Integers) -> Integers:
        """A shared key with the given probability, else one of the client's own in turn."""
        conflict = self.workload.conflict
        assert conflict is not None
        own = (self._keys - conflict.keys) // self._clients
        alone = conflict.keys + self.client + self._clients * (numbers % own)
        shared = draw.integers(0, conflict.keys, BLOCK)
        return np.where(draw.random(BLOCK) * 100 < conflict.percent, shared, alone)

    def _local(self, draw: np.random.Generator, numbers: Integers, locality: Locality) -> Integers:
        mean = ((self._region + 0.5) / self._regions + locality.shift) * self._keys
        deviation = locality.deviation * self._keys
        if locality.kind == "uniform":
            found = np.floor(mean + deviation * _UNIFORM_WIDTH * (draw.random(BLOCK) - 0.5))
        else:
            found = np.rint(draw.normal(mean, deviation, BLOCK))
        return self._moved(found.astype(np.int64), numbers)

    def _home(self, keys: Integers) -> Integers:
        """The region that each key belongs to, by number: the one whose mean is nearest."""
        shift = self.workload.locality.shift if self.workload.locality is not None else 0.0
        found: Integers = np.floor(((keys + 0.5) / self._keys - shift) * self._regions).astype(np.int64) % self._regions
        return found

    def _latest(self, draw: np.random.Generator, inserted: Integers) -> Integers:
        """Zipfian backwards from what this client inserted last, on into the keys that were there before."""
        chosen = self.workload.distribution
        table = _zipf_table(min(self._keys, ZIPF_KEYS_MAX), chosen.exponent, chosen.offset)
        back = np.searchsorted(table, draw.random(BLOCK), side="right").astype(np.int64)
        fresh = self._keys + (inserted - 1 - back) * self._clients + self.client
        old = self._keys - 1 - (back - inserted) % self._keys
        return np.where(back < inserted, fresh, old)

    def _sizes(self, draw: np.random.Generator) -> list[int]:
        value = self.workload.value
        sizes: Any
        match value.kind:
            case "fixed":
                return [value.bytes] * BLOCK
            case "uniform":
                return [int(size) for size in draw.integers(value.minimum, value.maximum + 1, BLOCK)]
            case "normal":
                sizes = draw.normal(value.bytes, value.deviation * value.bytes, BLOCK)
            case "lognormal":
                sizes = value.bytes * draw.lognormal(0.0, value.deviation, BLOCK)
            case "exponential":
                sizes = draw.exponential(value.bytes, BLOCK)
        clipped: list[int] = np.clip(np.rint(sizes), value.minimum, value.maximum).astype(np.int64).tolist()
        return clipped
