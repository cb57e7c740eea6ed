"""Timelines of faults: how they are written, what replicas are told, and what is recorded."""

import time
from typing import Any

import pytest

from bench.faults import Fault, FaultError, Timeline, faults_of, make_timeline, parse_fault, parse_faults
from deploy import ClusterError, admin
from deploy.layout import ClusterLayout, ReplicaLayout
from tests.support.nodes import eventually


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("5s kill leader", Fault(at_s=5, kind="kill", replica="leader")),
        ("2.5 pause 3 for 1.5s", Fault(at_s=2.5, kind="pause", replica=3, for_s=1.5)),
        ("2s drop 1 -> 2", Fault(at_s=2, kind="drop", replica=1, peer=2)),
        ("2s slow leader 50ms for 3s", Fault(at_s=2, kind="slow", replica="leader", delay_ms=50, for_s=3)),
        ("2s slow 1 → follower 0.2s", Fault(at_s=2, kind="slow", replica=1, peer="follower", delay_ms=200)),
        ("1s flaky 2 -> 1 0.3", Fault(at_s=1, kind="flaky", replica=2, peer=1, loss=0.3)),
        ("4s partition 1,2 for 2s", Fault(at_s=4, kind="partition", group=(1, 2), for_s=2)),
        ("1s slow-disk leader 20ms", Fault(at_s=1, kind="slow-disk", replica="leader", delay_ms=20)),
        ("8s heal", Fault(at_s=8, kind="heal")),
    ],
)
def test_a_fault_in_words_means_what_it_says(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kill leader", "cannot be read"),
        ("5s explode 1", "kind"),
        ("5s kill", "replica"),
        ("5s heal 1", "replica"),
        ("5s drop 1 -> 1", "peer"),
        ("5s kill 1 -> 2", "peer"),
        ("5s slow 1 -> 2", "delay_ms"),
        ("5s kill 1 30ms", "delay_ms"),
        ("5s flaky 1 -> 2 1.5", "loss"),
        ("5s partition", "group"),
        ("5s kill 1,2", "names several"),
        ("5s heal for 2s", "for_s"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_by_field(text, named):
    with pytest.raises(FaultError, match=named):
        parse_fault(text)


def test_tables_and_words_may_be_mixed_and_come_in_order_of_time():
    found = parse_faults(["5s heal", {"at_s": 1.0, "kind": "kill", "replica": "leader"}], replicas=3)
    assert [fault.kind for fault in found] == ["kill", "heal"]


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ([{"at_s": 1, "kind": "kill", "replica": 4}], "no replica 4 among 3"),
        ([{"at_s": 1, "kind": "partition", "group": [1, 2, 3]}], "nobody is left"),
        ([{"at_s": 1, "kind": "kill", "replica": 1, "colour": "red"}], r"faults\[0\].*colour"),
        ([{"at_s": -1, "kind": "heal"}], r"faults\[0\].*at_s"),
    ],
)
def test_faults_that_no_cluster_of_that_size_can_have_are_refused(tables, named):
    with pytest.raises(FaultError, match=named):
        parse_faults(tables, replicas=3)


def links(replica: int, *broken: tuple[Fault, int, int]) -> dict[int, tuple[bool, float, float]]:
    request = faults_of(replica, [1, 2, 3], broken)
    assert request.heal
    return {link.peer: (link.blocked, link.delay_ms, round(link.loss, 3)) for link in request.links}


def test_a_partition_blocks_the_links_across_it_and_no_others():
    cut = (Fault(at_s=0, kind="partition", group=(1,)), 0, 0)
    assert links(1, cut) == {2: (True, 0, 0), 3: (True, 0, 0)}
    assert links(2, cut) == {1: (True, 0, 0)}


def test_overlapping_faults_add_up():
    slow = Fault(at_s=0, kind="slow", replica=1, peer=2, delay_ms=30)
    flaky = Fault(at_s=0, kind="flaky", replica=1, loss=0.5)
    assert links(1, (slow, 1, 2), (slow, 1, 2), (flaky, 1, 0), (flaky, 1, 0)) == {
        2: (False, 60, 0.75),
        3: (False, 0, 0.75),
    }
    assert links(2, (slow, 1, 2), (flaky, 1, 0)) == {}


def test_slow_disks_add_up_too():
    slow = Fault(at_s=0, kind="slow-disk", replica="leader", delay_ms=20)
    assert faults_of(2, [1, 2, 3], [(slow, 2, 0), (slow, 2, 0), (slow, 1, 0)]).sync_delay_ms == 40


class FakeCluster:
    """Writes down what is done to it; replica 2 leads."""

    def __init__(self, *, injection: bool = True) -> None:
        self.layout = ClusterLayout(
            cluster="c", driver="process", protocol="multipaxos", node={"enable_fault_injection": injection},
            replicas=[ReplicaLayout(replica=n, peer=f"p:{n}", client=f"c:{n}") for n in (1, 2, 3)],
        )  # fmt: skip
        self.done: list[Any] = []
        self.refuses: set[str] = set()

    def leader(self) -> int:
        return 2

    def _do(self, what: str, replica: int) -> None:
        if what in self.refuses:
            raise ClusterError(f"replica {replica} is not running")
        self.done.append((what, replica))

    def kill(self, replica: int) -> None:
        self._do("kill", replica)

    def stop(self, replica: int) -> None:
        self._do("stop", replica)

    def pause(self, replica: int) -> None:
        self._do("pause", replica)

    def resume(self, replica: int) -> None:
        self._do("resume", replica)

    def start(self, replica: int, *, wait: bool, timeout_s: float) -> None:
        self._do("start", replica)

    def wait_ready(self, replicas: list[int], *, timeout_s: float) -> None:
        self._do("wait", replicas[0])


@pytest.fixture
def injected(monkeypatch) -> list[tuple[str, int, bool]]:
    """What replicas were told: address, links concerned, slow disk."""
    calls: list[tuple[str, int, bool]] = []
    monkeypatch.setattr(
        "deploy.admin.inject_faults",
        lambda address, request: calls.append((address, len(request.links), request.sync_delay_ms > 0)),
    )
    return calls


async def play(cluster: FakeCluster, *tables: Any, until: int | None = None) -> Timeline:
    timeline = make_timeline(tables, cluster)  # type: ignore[arg-type]
    await timeline.start(time.monotonic())
    wanted = len(tables) if until is None else until
    await eventually(lambda: len(cluster.done) >= wanted, "the faults")
    return timeline


async def test_the_leader_of_the_moment_is_killed_and_started_again_when_its_time_has_come(injected):
    cluster = FakeCluster()
    timeline = await play(cluster, "0.01s kill leader for 0.02s", until=2)
    await timeline.stop()
    assert cluster.done == [("kill", 2), ("start", 2)]
    [event] = timeline.events()
    assert (event.kind, event.replica, event.error) == ("kill", 2, "")
    assert event.detail == "kill 2 (leader)"
    assert event.until_s is not None
    assert event.at_s >= 0.01
    assert event.until_s >= event.at_s + 0.02


async def test_what_is_still_broken_at_the_end_is_healed(injected):
    cluster = FakeCluster()
    timeline = await play(cluster, "0s pause 1", "0.01s kill 3")
    assert [event.until_s for event in timeline.events()] == [None, None]
    await timeline.stop()
    assert cluster.done == [("pause", 1), ("kill", 3), ("resume", 1), ("start", 3), ("wait", 3)]
    assert all(event.until_s is not None for event in timeline.events())


async def test_healing_one_fault_leaves_the_others(injected):
    cluster = FakeCluster()
    timeline = make_timeline(["0s slow 1 10ms", "0s slow-disk 1 5ms for 0.02s"], cluster)  # type: ignore[arg-type]
    await timeline.start(time.monotonic())
    await eventually(lambda: len(injected) >= 3, "the faults")
    assert injected == [("c:1", 2, False), ("c:1", 2, True), ("c:1", 2, False)]
    await timeline.stop()
    assert injected[-1] == ("c:1", 0, False)


async def test_a_fault_that_fails_is_an_entry_and_the_timeline_goes_on(injected):
    cluster = FakeCluster()
    cluster.refuses.add("kill")
    timeline = await play(cluster, "0s kill 1", "0.01s pause 2", until=1)
    await timeline.stop()
    first, second = timeline.events()
    assert first.error == "replica 1 is not running"
    assert second.error == ""
    assert cluster.done == [("pause", 2), ("resume", 2)]


async def test_a_partition_that_did_not_reach_everybody_is_taken_back_where_it_did(monkeypatch):
    blocked: dict[str, int] = {}
    tried: list[str] = []

    def inject(address: str, request: Any) -> None:
        tried.append(address)
        if len(tried) == 2:
            raise admin.AdminError("it is down", unreachable=True)
        blocked[address] = sum(link.blocked for link in request.links)

    monkeypatch.setattr("deploy.admin.inject_faults", inject)
    timeline = make_timeline(["0s partition 1"], FakeCluster())  # type: ignore[arg-type]
    await timeline.start(time.monotonic())
    await eventually(lambda: len(tried) >= 6, "the partition, and its end")
    await timeline.stop()
    [event] = timeline.events()
    assert "it is down" in event.error
    assert event.until_s is None
    assert set(blocked.values()) == {0}


def test_faults_of_links_need_replicas_that_were_started_for_it():
    with pytest.raises(FaultError, match="enable_fault_injection"):
        make_timeline(["1s drop 1 -> 2"], FakeCluster(injection=False))  # type: ignore[arg-type]
    make_timeline(["1s kill 1"], FakeCluster(injection=False))  # type: ignore[arg-type]
