"""``kill -9`` under load: what was acknowledged is there, and everything took effect once."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.increments import Audit, Outcome, audit, longest_gap
from deploy import Cluster, admin
from replica.client import connect_async
from tests.faults import guest_cluster
from tests.support.load import IncrementClient

IN_FLIGHT = 64
CLIENTS = ("one", "two")
ACKNOWLEDGED_BETWEEN_KILLS = 1_000


@pytest.fixture
def protocol() -> str:
    """What the cluster runs, unless a test is parametrised with something else."""
    return "multipaxos"


@pytest.fixture
def cluster(tmp_path: Path, protocol: str) -> Iterator[Cluster]:
    found = Cluster.create(tmp_path / "cluster", replicas=3, base_port=0, protocol=protocol)
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


def kill_leader(cluster: Cluster, randomness: random.Random) -> list[int]:
    """Kill whoever leads; returns the victims."""
    while (leader := cluster.leader()) is None:
        time.sleep(0.02)
    cluster.kill(leader)
    return [leader]


def kill_anyone(cluster: Cluster, randomness: random.Random) -> list[int]:
    """Kill any replica; returns the victims."""
    victim = randomness.choice([replica.replica for replica in cluster.layout.replicas])
    cluster.kill(victim)
    return [victim]


def kill_everyone(cluster: Cluster, randomness: random.Random) -> list[int]:
    """Kill all replicas, in random order, as close together as can be."""
    victims = [replica.replica for replica in cluster.layout.replicas]
    randomness.shuffle(victims)
    for victim in victims:
        cluster.kill(victim)
    return victims


def run_kills(cluster: Cluster, kills: int, strike: object, seed: int) -> tuple[list[Outcome], list[float]]:
    """Load from two processes, ``kills`` strikes at random moments, each after further acknowledgements.

    Returns what the clients know, and the length of the gap after each strike in seconds.
    """
    randomness = random.Random(seed)
    strikes = []
    with ExitStack() as stack:
        clients = [
            stack.enter_context(IncrementClient(cluster, name, in_flight=IN_FLIGHT // len(CLIENTS))) for name in CLIENTS
        ]
        for _ in range(kills):
            before = sum(client.acknowledged for client in clients)
            extra = randomness.randrange(ACKNOWLEDGED_BETWEEN_KILLS // 2)
            while sum(client.acknowledged for client in clients) < before + ACKNOWLEDGED_BETWEEN_KILLS + extra:
                for client in clients:
                    client.wait_acknowledged(client.acknowledged + 1)
            time.sleep(randomness.uniform(0, 0.05))  # the moment within a turn is to be anywhere
            strikes.append(time.monotonic())
            for victim in strike(cluster, randomness):  # type: ignore[operator]
                cluster.start(victim, wait=False)
        cluster.wait_ready()
        after = sum(client.acknowledged for client in clients)
        while sum(client.acknowledged for client in clients) < after + ACKNOWLEDGED_BETWEEN_KILLS:
            for client in clients:
                client.wait_acknowledged(client.acknowledged + 1)
        outcomes = [client.finish() for client in clients]
    times = [t for outcome in outcomes for t in outcome.times]
    end = max(times)
    gaps = [longest_gap(times, begin, following) for begin, following in zip(strikes, [*strikes[1:], end], strict=True)]
    return outcomes, gaps


def digests_at_one_position(cluster: Cluster) -> list[str]:
    """What each replica's state comes to, once all stand at the same position.

    An attempt of a run that was executed already may still be on its way when its client has all answers; it changes
    nothing but when the session was used last, which is part of the state as well.
    """
    while True:
        frontier = max(status.applied for status in cluster.wait_ready())
        replies = [admin.digest(endpoint, frontier) for endpoint in cluster.endpoints]
        if len({reply.applied for reply in replies}) == 1:
            return [reply.digest for reply in replies]


def verify(cluster: Cluster, outcomes: list[Outcome], gaps: list[float]) -> Audit:
    """The store agrees with the clients, and the replicas with each other."""

    async def read_back() -> Audit:
        async with connect_async(",".join(cluster.endpoints)) as store:
            return await audit(store, outcomes)

    found = asyncio.run(read_back())
    shown = " ".join(f"{gap * 1e3:.0f}" for gap in gaps)
    sys.stdout.write(
        f"\n{found.acknowledged} acknowledged, {found.unknown} unknown, total {found.total}; gaps in ms: {shown}\n"
    )
    assert not found.lost
    assert not found.resurrected
    assert not found.duplicated
    assert not found.problems
    assert found.acknowledged >= ACKNOWLEDGED_BETWEEN_KILLS * len(gaps)
    assert len(set(digests_at_one_position(cluster))) == 1
    return found


@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_when_the_leader_is_killed_again_and_again(cluster: Cluster, kills: int) -> None:
    outcomes, gaps = run_kills(cluster, kills, kill_leader, seed=kills)
    verify(cluster, outcomes, gaps)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["multipaxos", "raft"])
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_when_any_replica_is_killed_again_and_again(cluster: Cluster) -> None:
    outcomes, gaps = run_kills(cluster, 20, kill_anyone, seed=20)
    verify(cluster, outcomes, gaps)


@pytest.mark.parametrize(
    ("protocol", "kills"),
    [
        ("multipaxos", 2),
        pytest.param("multipaxos", 20, marks=pytest.mark.slow),
        pytest.param("raft", 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_when_all_replicas_are_killed_at_once(cluster: Cluster, kills: int) -> None:
    outcomes, gaps = run_kills(cluster, kills, kill_everyone, seed=kills)
    verify(cluster, outcomes, gaps)


def test_the_search_for_traces_finds_what_killed_replicas_have_synced(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IncrementClient(cluster, "traced", in_flight=8) as client:
        client.wait_acknowledged(100)
        outcome = client.finish()
    kill_everyone(cluster, random.Random(0))
    monkeypatch.setattr(guest_cluster, "FOLDER", cluster.folder)
    assert guest_cluster.missing([outcome]) == []
    never = Outcome(client="traced", acknowledged=[9_999_999_999])
    assert guest_cluster.missing([never]) == ["traced/9999999999"]
