"""The synchronous face: its thread, other people's loops, forks and pickles. On real gRPC, from a thread apart."""

# ruff: noqa: PT012 - a transaction is a block, and its errors come from the end of it

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from replica.client import (
    AsyncStore,
    Closed,
    ConditionFailed,
    Conflict,
    InvalidArgument,
    Store,
    Unavailable,
    connect,
    forking,
)
from replica.client.grpc_port import GrpcPort
from replica.client.options import make_options
from tests.support.doubles import ClusterDouble, DoublePort


@pytest.fixture
def cluster(served):
    return served


@pytest.fixture
def server():
    """The same in a process of its own, for tests that fork: gRPC servers do not survive that either."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from tests.support.doubles import ClusterDouble, serve

        async def run():
            cluster = ClusterDouble(2)
            async with serve(cluster):
                print(",".join(cluster.endpoints), flush=True)
                await asyncio.to_thread(sys.stdin.read)

        asyncio.run(run())
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.stdout.close()
    process.wait(10)


def value_of(store: Store, key: str) -> int:
    item = store.get(key)
    assert item is not None
    return int(item.value)


@pytest.fixture
def store(cluster):
    with connect(",".join(cluster.endpoints)) as store:
        yield store


def test_operations_wait_for_their_results(store):
    assert store.put("a", "1").revision == 1
    assert store.get("a").value == b"1"
    assert store.add("n", 2).value == 2
    assert [item.key for item in store.range("")] == [b"a", b"n"]
    assert store.range("").all()[0].key == b"a"
    assert store.count("") == 2
    assert store.delete("a").count == 1
    with pytest.raises(ConditionFailed):
        store.put("n", "1", if_revision=0)
    assert store.delete_range("").count == 1
    assert store.compact(2).compacted == 2


def test_many_are_put_in_one_go(store):
    written = store.put_many([(f"k{n}", "v") for n in range(2000)])
    assert [result.revision for result in written] == list(range(1, 2001))
    assert len(list(store.range("k"))) == 2000


def test_a_transaction_commits_at_the_end_of_its_block(store):
    store.put("a", "1")
    with store.txn() as t:
        t.put("b", t.get("a").value)
        assert [item.key for item in t.range("")] == [b"a", b"b"]
    assert t.result.succeeded
    with pytest.raises(Conflict), store.txn() as t:
        t.get("a")
        store.put("a", "2")
        t.put("b", "x")
    with pytest.raises(ZeroDivisionError), store.txn() as t:
        t.put("c", "1")
        raise ZeroDivisionError
    assert store.get("c") is None


def test_retry_runs_the_work_in_this_thread_until_it_commits(store):
    store.put("n", "0")
    interfered: list[Any] = []

    def increment(t: Any) -> int:
        assert threading.current_thread() is threading.main_thread()
        value = int(t.get("n").value)
        if not interfered:
            interfered.append(store.add("n", 10))
        t.put("n", str(value + 1))
        return value

    assert store.retry(increment) == 10
    assert value_of(store, "n") == 11


def test_threads_share_a_store(store):
    def work():
        for _ in range(20):
            store.add("n", 1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(store, "n") == 160


async def test_it_works_where_a_loop_is_running_already(cluster):
    with connect(",".join(cluster.endpoints)) as store:
        assert store.put("a", "1").revision == 1
        assert value_of(store, "a") == 1
    assert asyncio.get_running_loop().is_running()


def test_it_sets_no_policy_and_no_loop(store):
    policy = asyncio.get_event_loop_policy()
    store.put("a", "1")
    assert asyncio.get_event_loop_policy() is policy
    assert asyncio._get_running_loop() is None


def test_its_thread_ends_with_it(cluster):
    before = threading.active_count()
    store = connect(",".join(cluster.endpoints))
    assert threading.active_count() == before
    store.put("a", "1")
    thread = store._running().thread
    store.close()
    assert not thread.is_alive()
    with pytest.raises(Closed):
        store.put("a", "2")
    store.close()


def test_a_forgotten_store_is_closed(cluster):
    store = connect(",".join(cluster.endpoints))
    store.put("a", "1")
    thread = store._running().thread
    del store
    gc.collect()
    assert not thread.is_alive()


def test_a_store_that_is_not_closed_does_not_hold_up_the_exit(server):
    program = f"from replica.client import connect; s = connect({server!r}); print(s.put('a', '1').revision)"
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


def test_a_call_from_its_own_thread_is_refused_rather_than_waiting_for_itself(store):
    store.put("a", "1")

    def call() -> bool:
        with pytest.raises(InvalidArgument):
            store.get("a")
        return True

    async def run(_store):
        return call()

    assert store._call(run)


def test_a_pickled_store_has_a_session_of_its_own(store, cluster):
    store.put("a", "1")
    with pickle.loads(pickle.dumps(store)) as copy:
        copy.put("a", "2")
        assert copy.options == store.options
    store.put("a", "3")
    assert len({hello.nonce for hello in cluster.replicas[0].hellos if hello.nonce}) == 2


def test_other_schemes_are_found_by_their_entry_points():
    with pytest.raises(InvalidArgument, match="nosuch"):
        connect("nosuch:thing")


# ------------------------------------------------------------------------------------------------------------ forks


# Each in a process of its own: whatever else uses gRPC in this one would not survive a fork.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_children_have_sessions_of_their_own_while_the_parent_goes_on(server):
    program = textwrap.dedent(
        f"""
        import multiprocessing, threading
        from replica.client import connect

        def in_child(store):
            for _ in range(10):
                store.add("n", 1)
            store.close()

        done, stop = 0, threading.Event()

        def work():
            global done
            while not stop.is_set():
                store.add("n", 1)
                done += 1

        with connect({server!r}, timeout_s=60) as store:
            store.add("n", 1)
            worker = threading.Thread(target=work)
            worker.start()
            fork = multiprocessing.get_context("fork")
            children = [fork.Process(target=in_child, args=(store,)) for _ in range(3)]
            for child in children:
                child.start()
            for child in children:
                child.join()
            stop.set()
            worker.join()
            print([child.exitcode for child in children], int(store.get("n").value) - done)
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stdout) == (0, "[0, 0, 0] 31\n"), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_beside_a_running_loop_leaves_both_with_a_working_store(server):
    program = textwrap.dedent(
        f"""
        import asyncio, os
        from replica.client import connect_async

        async def in_child(store):
            await store.add("n", 1)
            await store.close()

        async def in_parent():
            async with connect_async({server!r}, timeout_s=60) as store:
                await store.add("n", 1)

                def fork():
                    child = os.fork()
                    if child == 0:
                        asyncio.run(in_child(store))
                        os._exit(0)
                    return os.waitpid(child, 0)[1]

                print(await asyncio.to_thread(fork), (await store.add("n", 1)).value)

        asyncio.run(in_parent())
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stdout) == (0, "0 3\n"), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_replica_in_memory_stays_with_the_parent():
    program = textwrap.dedent(
        """
        import os
        from replica.client import connect

        with connect("memory:") as store:
            store.put("a", "1")
            child = os.fork()
            if child == 0:
                os._exit(7 if store.get("a") is None else 8)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.get("a").value)
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stdout) == (0, "7 b'1'\n"), result.stderr


def test_grpc_says_that_it_cannot_be_used_after_a_fork_on_the_loop_s_own_thread(monkeypatch):
    monkeypatch.setattr(GrpcPort, "inherited", True)
    with connect("127.0.0.1:1", timeout_s=0.2) as store, pytest.raises(Unavailable, match="start children with spawn"):
        store.put("a", "1")


def test_a_child_begins_anew_even_without_a_network(monkeypatch):
    cluster = ClusterDouble(1)
    store = AsyncStore("double:", make_options({}), opener=lambda _url, _options: DoublePort(cluster))

    async def use() -> None:
        await store.put("a", "1")
        store.begin_anew()
        await store.put("a", "2")
        await store.close()

    asyncio.run(use())
    assert len({hello.nonce for hello in cluster.replicas[0].hellos}) == 2


def test_unreachable_endpoints_are_told_of():
    with connect("127.0.0.1:1", timeout_s=0.3) as store, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        store.put("a", "1")


def test_the_store_is_what_connect_returns():
    assert isinstance(connect("127.0.0.1:1"), Store)


def test_a_child_is_told_when_somebody_else_used_grpc_at_the_fork(monkeypatch):
    monkeypatch.setattr(GrpcPort, "inherited", False)
    monkeypatch.setattr(forking, "QUIET_TIMEOUT_S", 0.0)
    guard = forking.ForkGuard()
    busy = threading.Event()
    thread = threading.Thread(target=busy.wait, name="Thread-1 (_poll_wrapper)")
    thread.start()
    try:
        guard.before()
    finally:
        busy.set()
        thread.join()
    guard.after_in_child()
    assert GrpcPort.inherited
