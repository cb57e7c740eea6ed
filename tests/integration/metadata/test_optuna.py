"""Optuna's own suite for storages, on three replicas; and the journal alone, from many processes."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")
testing = pytest.importorskip("optuna.testing.pytest_storages")

from deploy import Cluster  # noqa: E402 - behind the question whether Optuna is here
from replica.client import TooLarge, connect  # noqa: E402
from replica.integrations.optuna import SynodBackend  # noqa: E402
from replica.integrations.optuna import storage as storage_at  # noqa: E402
from replica.integrations.optuna.example import run  # noqa: E402

NAMES = itertools.count(1)
SECONDS_BETWEEN_KILLS = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster.create(tmp_path_factory.mktemp("optuna") / "cluster", replicas=3, base_port=0)
    try:
        found.up()
        yield found
    finally:
        found.down(timeout_s=5.0)


@pytest.fixture
def backend(cluster: Cluster) -> Iterator[SynodBackend]:
    found = SynodBackend(",".join(cluster.endpoints), name=f"study{next(NAMES)}")
    yield found
    found.close()


class TestStorage(testing.StorageTestCase):  # type: ignore[misc,name-defined]
    """All of Optuna's tests of a storage."""

    @pytest.fixture
    def storage(self, backend: SynodBackend) -> Any:
        return optuna.storages.JournalStorage(backend)


@pytest.fixture(scope="module")
def killing(cluster: Cluster) -> Iterator[None]:
    """The leader is killed every few seconds, from the first test that wants it on."""
    stop = threading.Event()
    killed: list[int] = []
    broken: list[BaseException] = []

    def kill() -> None:
        try:
            while not stop.wait(SECONDS_BETWEEN_KILLS):
                leader = cluster.leader()
                if leader is not None:
                    cluster.kill(leader)
                    killed.append(leader)
                    cluster.restart(leader)
        except BaseException as error:
            broken.append(error)
            raise

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert killed
    assert not broken


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestStorageWhileTheLeaderIsKilled(testing.StorageTestCase):  # type: ignore[misc,name-defined]
    """The same, with the leader killed every few seconds."""

    @pytest.fixture
    def storage(self, backend: SynodBackend, killing: None) -> Any:
        return optuna.storages.JournalStorage(backend)


def append(pickled: bytes, worker: int, count: int) -> None:
    """One process of those that append."""
    backend: SynodBackend = pickle.loads(pickled)
    for number in range(count):
        backend.append_logs([{"worker": worker, "number": number, "part": part} for part in range(1 + number % 2)])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [2, pytest.param(10, marks=pytest.mark.slow)], ids=["two", "ten"])
def test_appends_from_many_processes_are_there_once_and_in_one_order(backend: SynodBackend, workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append, args=(pickle.dumps(backend), each, 20)) for each in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * workers
    logs = list(backend.read_logs(0))
    for worker in range(workers):
        own = [(log["number"], log["part"]) for log in logs if log["worker"] == worker]
        assert own == [(number, part) for number in range(20) for part in range(1 + number % 2)]
    assert len(logs) == 30 * workers
    # Batches stand together, and every place of the order can be read from.
    for at, log in enumerate(logs):
        if log["part"] == 1:
            assert logs[at - 1] == {**log, "part": 0}
    copy = pickle.loads(pickle.dumps(backend))
    for begin in (1, 17, len(logs) - 1, len(logs)):
        assert list(copy.read_logs(begin)) == logs[begin:]
    copy.close()


def test_a_worker_that_comes_later_begins_with_a_snapshot(backend: SynodBackend) -> None:
    assert backend.load_snapshot() is None
    backend.save_snapshot(b"one")
    large = bytes(range(256)) * 8192 + time.time_ns().to_bytes(8) * 100_000
    backend.save_snapshot(large)
    assert backend.load_snapshot() == large
    backend.save_snapshot(b"three")
    assert backend.load_snapshot() == b"three"
    with connect(backend._url) as store:
        assert store.count(backend._prefix + b"g/") == 1


def test_a_record_beyond_the_limit_is_refused_and_nothing_is_appended(backend: SynodBackend) -> None:
    with pytest.raises(TooLarge):
        backend.append_logs([{"a": 1}, {"b": "x" * (1 << 20)}])
    assert list(backend.read_logs(0)) == []


@pytest.mark.slow
def test_the_example_study_runs_with_several_processes(cluster: Cluster) -> None:
    study = run(",".join(cluster.endpoints), f"example{next(NAMES)}", workers=3, trials=4)
    assert len(study.trials) == 12
    assert [trial.number for trial in study.trials] == list(range(12))
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)


def test_a_storage_is_made_from_a_url() -> None:
    study = optuna.create_study(storage=storage_at("memory:"))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert len(study.trials) == 3
