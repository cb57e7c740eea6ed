"""``kill -9`` of any replica under load, where commands are ordered by object or records are registers.

Clients on all replicas read and write a few keys together, every value once, and write down what they saw. Whatever is
killed meanwhile, afterwards their history has to be linearizable, a last read of every key included: so nothing that
was acknowledged is lost, and no read ever goes back. Where the protocol executes a command once however often it is
asked, they count, too; where it has transactions, they write two keys at once, which nobody may see apart.

Every second victim stays dead until the others have gone on without it, for as many operations as between kills: what
it owned or had begun is stolen or recovered by then. The others are started again at once, and may be killed while
they learn what they missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy import Cluster, admin
from deploy.top import counters_of
from replica.client import AsyncStore, Indefinite, NotCommitted, connect_async
from replica.consensus.registry import find_protocol
from replica.kv.operations import Get, Got, Put
from replica.verification import Header, Recorder, Verdict, check
from tests.support.packages import install

KEYS = 6
COUNTERS = 3
LOOK_S = 5.0
"""Without progress for so long it is looked whether anybody died who was not killed."""
KILLS_THAT_INTERRUPT = 20
"""So many cannot all have missed what was owned or under way."""
WORKERS = 9
ACKNOWLEDGED_BETWEEN_KILLS = 300
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Case:
    """A cluster, and who is killed together."""

    protocol: str
    replicas: int
    options: dict[str, int | float | str | bool] = field(default_factory=dict)
    together: int = 1
    """Replicas that are killed at once: those whose ids are alike modulo the number of zones."""
    goes_on: bool = True
    """Whether the others serve all keys without those that are killed."""
    replaces: str = ""
    """What the protocol counts when it goes on without somebody who owned or had begun something."""


# The quorums that follow from these: ABD any two of three; EPaxos f = e = 1 of three, f = e = 2 of five, or f = 2 and
# e = 0, where the fast path needs all five; WPaxos f_z = 1 and f_n = 0 in three zones of one replica, f_z = f_n = 1 in
# three zones of three, of which a whole zone is killed at a time.
CASES = {
    "abd": Case("abd", 3),
    "epaxos": Case("epaxos", 3, replaces="recoveries"),
    "wpaxos": Case("wpaxos", 3, replaces="steals"),
    "epaxos-of-five": Case("epaxos", 5, replaces="recoveries"),
    "epaxos-of-five-slowly": Case("epaxos", 5, {"e": 0, "f": 2}, replaces="recoveries"),
    "wpaxos-of-nine": Case("wpaxos", 9, {"zones": 3}, together=3, replaces="steals"),
    "partitioned": Case("partitioned", 3, goes_on=False),
}
QUICK = ("abd", "epaxos", "wpaxos")


@pytest.fixture(params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def cluster(tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    site = install("partitioned", tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))))
    monkeypatch.syspath_prepend(str(site))
    found = Cluster.create(
        tmp_path / "cluster", replicas=case.replicas, protocol=case.protocol, options=case.options, base_port=0
    )
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


class Load:
    """Workers that read and write, each by way of one replica for a start."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        can = find_protocol(cluster.layout.protocol).capabilities
        self.counts, self.transacts = can.exactly_once, can.transactions
        self.counted = Counter[str]()
        """Increments that were acknowledged."""
        self.uncertain = Counter[str]()
        """Increments that may have taken effect."""
        self.replaced: dict[tuple[int, int], int] = {}
        """What the protocol counted when it went on without somebody, by replica and epoch: since its start."""
        self.torn: list[tuple[bytes | None, ...]] = []
        """What was read of the two keys that are written together, where they differed."""
        self.recorder = Recorder(Header(model="register"))
        self.acknowledged = 0
        self.stopping = False
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._values = 0

    def look(self, name: str) -> None:
        """Ask those who are alive what they have counted under ``name``."""
        for status in self._cluster.status():
            if status.ready:
                counted = counters_of(admin.metrics(status.client))
                self.replaced[status.replica, status.epoch] = int(counted.get(f"synod_protocol_{name}", 0))

    async def work(self, worker: int) -> None:
        """One worker, until `stopping`."""
        endpoints = self._cluster.endpoints
        first = worker % len(endpoints)
        async with connect_async(",".join(endpoints[first:] + endpoints[:first]), timeout_s=TIMEOUT_S) as store:
            while not self.stopping:
                key = f"k{self._draw.randrange(KEYS)}"
                choice = self._draw.random()
                if choice < 0.1 and self.counts:
                    await self.count(store, f"n{self._draw.randrange(COUNTERS)}")
                elif choice < 0.2 and self.transacts:
                    await (self.write_both(store) if choice < 0.15 else self.read_both(store))
                else:
                    await (self.read(store, worker, key) if choice > 0.6 else self.write(store, worker, key))

    async def read(self, store: AsyncStore, worker: int, key: str) -> None:
        """One read."""
        asked = self.recorder.invoke(worker, "read", time.monotonic(), key=key)
        try:
            item = await store.get(key)
        except NotCommitted as error:
            self.recorder.fail(asked, time.monotonic(), str(error))
            return
        self.acknowledged += 1
        self.recorder.ok(asked, time.monotonic(), {"value": None if item is None else item.value.decode()})

    async def write(self, store: AsyncStore, worker: int, key: str) -> None:
        """One write, of a value that nobody has written before."""
        self._values += 1
        value = str(self._values)
        asked = self.recorder.invoke(worker, "write", time.monotonic(), key=key, arguments={"value": value})
        try:
            await store.put(key, value)
        except Indefinite as error:
            self.recorder.unknown(asked, time.monotonic(), str(error))
        except NotCommitted as error:
            self.recorder.fail(asked, time.monotonic(), str(error))
        else:
            self.acknowledged += 1
            self.recorder.ok(asked, time.monotonic())

    async def count(self, store: AsyncStore, counter: str) -> None:
        """One increment."""
        try:
            await store.add(counter, 1)
        except Indefinite:
            self.uncertain[counter] += 1
        except NotCommitted:
            return
        else:
            self.acknowledged += 1
            self.counted[counter] += 1

    async def write_both(self, store: AsyncStore) -> None:
        """One value for two keys."""
        self._values += 1
        value = str(self._values).encode()
        with contextlib.suppress(NotCommitted, Indefinite):
            await store.transaction((), (Put(b"left", value), Put(b"right", value)))
            self.acknowledged += 1

    async def read_both(self, store: AsyncStore) -> None:
        """The two keys at once."""
        with contextlib.suppress(NotCommitted):
            done = await store.transaction((), (Get(b"left"), Get(b"right")))
            seen = tuple(got.item.value if isinstance(got, Got) and got.item else None for got in done.results)
            if len(set(seen)) != 1:
                self.torn.append(seen)


async def kills_under_load(cluster: Cluster, case: Case, kills: int) -> Load:
    load = Load(cluster, kills)
    draw = random.Random(f"kills {kills}")
    workers = [asyncio.create_task(load.work(number)) for number in range(WORKERS)]

    async def progress(more: int, killed: Sequence[int] = ()) -> None:
        aim = load.acknowledged + more
        looked = time.monotonic()
        while load.acknowledged < aim:
            if any(worker.done() for worker in workers):
                await asyncio.gather(*workers)
            if time.monotonic() > looked + LOOK_S:
                running = {each.replica for each in await asyncio.to_thread(cluster.status) if each.running}
                died = {each.replica for each in cluster.layout.replicas} - running - set(killed)
                assert not died, "\n".join(line for replica in died for line in cluster.log_tail(replica))
                looked = time.monotonic()
            await asyncio.sleep(0.005)

    alike = case.replicas // case.together
    zones = [[each.replica for each in cluster.layout.replicas[first::alike]] for first in range(alike)]
    for number in range(kills):
        await progress(ACKNOWLEDGED_BETWEEN_KILLS)
        stays_dead = case.goes_on and number % 2 == 0
        if stays_dead or case.together > 1:
            await asyncio.to_thread(cluster.wait_ready)  # or too many are missing for anything to go on
        victims = draw.choice(zones)
        for victim in victims:
            cluster.kill(victim)
        if stays_dead:
            await progress(ACKNOWLEDGED_BETWEEN_KILLS, victims)
            await asyncio.to_thread(load.look, case.replaces)
        else:
            await asyncio.sleep(draw.uniform(0.0, 0.5))
        for victim in victims:
            await asyncio.to_thread(cluster.start, victim, wait=False)
    await asyncio.to_thread(cluster.wait_ready)
    await progress(ACKNOWLEDGED_BETWEEN_KILLS)
    load.stopping = True
    await asyncio.gather(*workers)
    for number, endpoint in enumerate(cluster.endpoints):
        async with connect_async(endpoint) as store:
            for key in range(KEYS):
                await load.read(store, WORKERS + number, f"k{key}")
        async with connect_async(endpoint) as store:
            for counter in load.counted.keys() | load.uncertain.keys():
                item = await store.get(counter)
                total = int(item.value) if item is not None else 0
                assert 0 <= total - load.counted[counter] <= load.uncertain[counter], f"{counter} by {endpoint}"
    load.recorder.close()
    return load


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_what_clients_saw_is_linearizable_whoever_is_killed(cluster: Cluster, case: Case, kills: int) -> None:
    load = asyncio.run(kills_under_load(cluster, case, kills))
    report = check(load.recorder.history())
    assert report.verdict is Verdict.OK, report.explanation
    assert load.acknowledged >= ACKNOWLEDGED_BETWEEN_KILLS * (kills + 1)
    assert not load.torn
    replaced = sum(load.replaced.values())
    counted = f"{sum(load.counted.values())} increments counted once" if load.counts else "no increments"
    replacing = f"{case.replaces} {replaced}" if case.replaces else "nobody to replace"
    sys.stdout.write(f"\n{case}: {kills} kills, {load.acknowledged} acknowledged, {counted}, {replacing}\n")
    if kills >= KILLS_THAT_INTERRUPT:
        assert replaced or not case.replaces
