"""Groups become durable in order, whichever way they are committed."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from replica.consensus.interface import Write
from replica.storage.coordinator import LAST_KEY
from replica.storage.errors import StorageFull
from replica.storage.log import LogEnvironment
from replica.storage.writer import (
    SLOW_SYNC_S,
    SLOW_SYNCS_MAX,
    GroupWriter,
    SyncMeasurement,
    SyncMode,
    choose_mode,
    measure_sync,
)

from .support import MIB, SPEC, Vote, new_log, reopened, slot, vote


class Owner:
    """Stands for the node's loop: callbacks wait until it runs them."""

    def __init__(self, log: LogEnvironment, mode: SyncMode, measured: SyncMeasurement | None = None) -> None:
        self.log = log
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.durable: list[int] = []
        self.failures: list[BaseException] = []
        self.threads: set[int] = set()
        self.writer = GroupWriter(
            log,
            mode=mode,
            deliver=self.calls.put,
            on_durable=self.reported,
            on_failure=self.failures.append,
            measured=measured,
        )

    def reported(self, group: int) -> None:
        self.threads.add(threading.get_ident())
        self.durable.append(group)

    def submit(self, group: int, writes: Sequence[Write]) -> None:
        """As the node does: what is durable at once is reported at once."""
        at_once = self.writer.submit(group, writes)
        if at_once:
            self.reported(at_once)

    def run_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.calls.get(timeout=30)()


class HeldLog:
    """Stops commits until it is told to let them go, and remembers what each was given."""

    def __init__(self, log: LogEnvironment) -> None:
        self.log = log
        self.entered = threading.Semaphore(0)
        self.release = threading.Semaphore(0)
        self.batches: list[int] = []
        self.commit = log.commit
        log.commit = self.held  # type: ignore[method-assign]

    def held(self, groups):
        groups = list(groups)
        self.batches.append(len(groups))
        self.entered.release()
        assert self.release.acquire(timeout=30)
        return self.commit(groups)


@pytest.fixture
def log(tmp_path):
    log = new_log(tmp_path / "log")
    yield log
    log.close()


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_completions_come_in_the_order_of_submission_and_on_the_owners_thread(log, mode):
    owner = Owner(log, mode)
    for group in range(1, 51):
        owner.submit(group, [vote(group)])
    owner.run_until(lambda: owner.durable and owner.durable[-1] == 50)
    owner.writer.close()
    assert owner.durable == sorted(set(owner.durable))
    assert owner.threads == {threading.get_ident()}
    assert [int(key) for key, _ in log.reader(SPEC).scan("votes", b"", LAST_KEY)] == list(range(1, 51))
    assert owner.writer.in_flight == 0
    assert owner.writer.statistics.groups == 50


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_both_ways_leave_the_same_log(tmp_path, mode):
    log = new_log(tmp_path / "log")
    owner = Owner(log, mode)
    for group in range(1, 31):
        owner.submit(group, [vote(group % 7, ballot=group), vote(group, ballot=group)])
    owner.run_until(lambda: owner.durable and owner.durable[-1] == 30)
    owner.writer.close()
    log.close()
    log = reopened(tmp_path / "log")
    found = {int(key): record for key, record in log.reader(SPEC).scan("votes", b"", LAST_KEY)}
    expected: dict[int, Vote] = {}
    for group in range(1, 31):
        for number in (group % 7, group):
            expected[number] = Vote(group, b"value %d" % number)
    assert found == expected
    log.close()


def test_inline_the_group_is_durable_on_return(log):
    owner = Owner(log, "inline")
    assert owner.writer.submit(1, [vote(1)]) == 1
    assert owner.writer.in_flight == 0
    assert owner.durable == []


def test_on_the_thread_nothing_is_reported_before_its_sync(log):
    held = HeldLog(log)
    owner = Owner(log, "thread")
    assert owner.writer.submit(1, [vote(1)]) == 0
    assert held.entered.acquire(timeout=30)
    assert owner.calls.empty()
    assert owner.writer.in_flight == 1
    held.release.release()
    owner.run_until(lambda: owner.durable)
    assert owner.durable == [1]
    owner.writer.close()


def test_groups_that_come_during_a_sync_are_merged_into_the_next_and_reported_by_the_last(log):
    held = HeldLog(log)
    owner = Owner(log, "thread")
    owner.writer.submit(1, [vote(1)])
    assert held.entered.acquire(timeout=30)
    for group in range(2, 6):
        owner.writer.submit(group, [vote(group)])
    held.release.release(2)
    owner.run_until(lambda: len(owner.durable) == 2)
    assert owner.durable == [1, 5]
    assert held.batches == [1, 4]
    owner.writer.close()


def test_the_protocol_reads_its_own_writes_while_they_are_in_flight(log):
    held = HeldLog(log)
    owner = Owner(log, "thread")
    reader = log.reader(SPEC)
    owner.writer.submit(1, [vote(1, ballot=3)])
    owner.writer.submit(2, [vote(1, ballot=4), vote(2)])
    assert reader.get("votes", slot(1)) == Vote(4, b"value 1")
    assert [int(key) for key, _ in reader.scan("votes", b"", LAST_KEY)] == [1, 2]
    held.release.release(2)
    owner.run_until(lambda: owner.durable and owner.durable[-1] == 2)
    assert reader.get("votes", slot(1)) == Vote(4, b"value 1")
    assert not log._expected
    owner.writer.close()


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_writes_outside_the_groups_are_in_order_too_and_notify(log, mode):
    owner = Owner(log, mode)
    notified: list[int] = []
    owner.submit(1, [vote(1)])
    owner.writer.submit(0, log.admission_writes(), lambda: notified.append(len(owner.durable)))
    owner.submit(2, [vote(2)])
    owner.run_until(lambda: owner.durable and owner.durable[-1] == 2 and notified)
    owner.writer.close()
    assert log.admitted
    assert len(notified) == 1
    assert 0 not in owner.durable


def test_a_failed_commit_on_the_thread_is_reported_once_and_nothing_after_it_is_durable(tmp_path):
    log = new_log(tmp_path / "log", map_bytes=MIB)
    owner = Owner(log, "thread")
    owner.submit(1, [vote(1)])
    owner.run_until(lambda: owner.durable)
    owner.submit(2, [vote(number, value=bytes(50_000)) for number in range(40)])
    owner.submit(3, [vote(3)])
    owner.run_until(lambda: owner.failures)
    with pytest.raises(StorageFull):
        owner.writer.submit(4, [vote(4)])
    owner.writer.close()
    assert owner.durable == [1]
    assert len(owner.failures) == 1
    log.close()


def test_a_failed_commit_inline_is_raised_and_so_is_every_later_one(tmp_path):
    log = new_log(tmp_path / "log", map_bytes=MIB)
    owner = Owner(log, "inline")
    for _ in range(2):
        with pytest.raises(StorageFull):
            owner.submit(1, [vote(number, value=bytes(50_000)) for number in range(40)])
    assert owner.durable == []
    log.close()


def test_closing_commits_what_was_submitted(tmp_path):
    log = new_log(tmp_path / "log")
    owner = Owner(log, "thread")
    for group in range(1, 20):
        owner.writer.submit(group, [vote(group)])
    owner.writer.close()
    log.close()
    log = reopened(tmp_path / "log")
    assert len(list(log.reader(SPEC).scan("votes", b"", LAST_KEY))) == 19
    log.close()


def test_auto_takes_what_the_disk_is_measured_to_do(log):
    quick = SyncMeasurement(median_s=0.0003, tail_s=0.0009, commits=50)
    slow = SyncMeasurement(median_s=0.004, tail_s=0.009, commits=50)
    erratic = SyncMeasurement(median_s=0.0003, tail_s=0.08, commits=50)
    assert [choose_mode(measured) for measured in (quick, slow, erratic)] == ["inline", "thread", "thread"]
    assert Owner(log, "auto", quick).writer.mode == "inline"
    assert Owner(log, "auto", slow).writer.mode == "thread"


def test_the_measurement_leaves_nothing_behind(log):
    before = sorted(entry.name for entry in log.path.iterdir())
    measured = measure_sync(log.path)
    assert 0 < measured.median_s <= measured.tail_s
    assert sorted(entry.name for entry in log.path.iterdir()) == before


def test_auto_moves_to_the_thread_after_slow_syncs_and_keeps_the_order(log, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    clock = iter(range(10_000))
    monkeypatch.setattr("replica.storage.writer.time.perf_counter", lambda: next(clock) * SLOW_SYNC_S * 2)
    owner = Owner(log, "auto", SyncMeasurement(median_s=0.0001, tail_s=0.0002, commits=1))
    for group in range(1, SLOW_SYNCS_MAX + 1):
        assert owner.writer.mode == "inline"
        owner.submit(group, [vote(group)])
    assert owner.writer.mode == "thread"
    for group in range(SLOW_SYNCS_MAX + 1, 20):
        owner.submit(group, [vote(group)])
    owner.run_until(lambda: owner.durable[-1] == 19)
    owner.writer.close()
    assert owner.durable == sorted(owner.durable)


def test_a_pinned_mode_stays(log, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("replica.storage.writer.time.perf_counter", lambda: next(clock) * 10.0)
    owner = Owner(log, "inline")
    for group in range(1, 20):
        owner.submit(group, [vote(group)])
    assert owner.writer.mode == "inline"


def test_an_injected_delay_lengthens_every_sync(log, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("replica.storage.writer.time.sleep", slept.append)
    owner = Owner(log, "inline")
    owner.submit(1, [vote(1)])
    owner.writer.sync_delay_s = 0.25
    owner.submit(2, [vote(2)])
    assert slept == [0.25]


CRASHING = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.unit.storage.support import reopened, vote
from replica.storage.writer import GroupWriter
import queue
log = reopened(Path(sys.argv[1]), durability=sys.argv[3])
calls = queue.SimpleQueue()
def durable(group):
    os.write(1, b"%d\\n" % group)
writer = GroupWriter(log, mode=sys.argv[2], deliver=calls.put, on_durable=durable, on_failure=print)
group = 0
while True:
    group += 1
    if writer.submit(group, [vote(group, value=b"x" * 500), vote(group + 1_000_001)]):
        durable(group)
    while not calls.empty() or writer.in_flight > 50:
        calls.get()()
"""


@pytest.mark.parametrize("mode", ["inline", "thread"])
@pytest.mark.parametrize("durability", ["sync", "none"])
def test_kill_9_in_the_middle_of_commits_loses_nothing_that_was_acknowledged(tmp_path, mode, durability):
    new_log(tmp_path / "log").close()
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path / "log"), mode, durability],
        stdout=subprocess.PIPE,
        cwd=os.getcwd(),
    ) as process:
        assert process.stdout is not None
        acknowledged = 0
        while acknowledged < 60:
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().split(b"\n")[:-1]:
            acknowledged = int(line)
    log = reopened(tmp_path / "log", durability=durability)
    found = [int(key) for key, _ in log.reader(SPEC).scan("votes", b"", LAST_KEY)]
    groups = [number for number in found if number < 1_000_000]
    assert groups == list(range(1, len(groups) + 1))  # a prefix, without gaps
    assert len(groups) >= acknowledged
    assert [number - 1_000_000 - 1 for number in found if number > 1_000_000] == [*groups]  # each group whole
    log.close()
