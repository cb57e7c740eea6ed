"""`synod watch`, `synod lease` and `synod lock` against a replica; and what a fork does to those who watch and hold."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from replica.cli import main
from replica.cli.watching import COMPACTED
from replica.client import LeaseLost, LockLost, Store, connect
from tests.support.alone import replica_alone


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory) -> Iterator[str]:
    with replica_alone(tmp_path_factory.mktemp("replica")) as endpoint:
        yield endpoint


@pytest.fixture
def store(endpoint) -> Iterator[Store]:
    with connect(endpoint, timeout_s=60) as store:
        yield store


@pytest.fixture
def synod(endpoint) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"SYNOD_ENDPOINTS": endpoint})

    return run


def test_changes_are_printed_as_they_come(synod, store):
    first = store.put("shown/a", "one").revision
    store.put("shown/b", b"\xff\n")
    store.delete("shown/a")
    result = synod("watch", "shown/", "--revision", str(first), "--count", "3", "--previous")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{first}\tput\tshown/a\tone",
        f"{first + 1}\tput\tshown/b\t\\xff\\n",
        f"{first + 2}\tdelete\tshown/a\twas one",
    ]
    result = synod("watch", "--key", "shown/a", "--revision", str(first), "--count", "2", "--json")
    put, deletion = map(json.loads, result.stdout.splitlines())
    assert put["events"][0]["value"] == "one"
    assert deletion == {"revision": first + 2, "events": [{"event": "delete", "key": "shown/a"}]}


def test_a_watch_of_what_is_compacted_names_the_revision_to_resume_from(synod, store):
    revision = store.put("gone", "1").revision
    store.put("gone", "2")
    store.compact(revision)
    result = synod("watch", "--revision", str(revision), "--count", "1", "--json")
    assert result.exit_code == COMPACTED
    facts = json.loads(result.stderr.splitlines()[-1])
    assert (facts["error"], facts["revision"], facts["may_have_taken_effect"]) == ("Compacted", revision + 1, False)


def test_leases_from_the_shell(synod, store):
    granted = synod("lease", "grant", "60")
    lease = granted.stdout.strip()
    assert granted.exit_code == 0
    store.put("leased", "", lease=int(lease))
    assert f"{lease}\t60 s\t" in synod("lease", "list").stdout
    told = json.loads(synod("lease", "ttl", lease, "--json").stdout)
    assert (told["lease"], told["ttl_s"], told["keys"]) == (int(lease), 60.0, ["leased"])
    assert 0 < told["remaining_s"] <= 60
    assert synod("lease", "keep-alive", lease, "--once").exit_code == 0
    assert synod("lease", "revoke", lease).stdout == "removed 1\n"
    assert synod("get", "leased").exit_code == 3
    for command in ("revoke", "ttl", "keep-alive"):
        result = synod("lease", command, lease)
        assert result.exit_code == 3
        assert "no lease" in result.stderr
    assert synod("lease", "grant", "60", "--id", "4711").exit_code == 0
    assert synod("lease", "grant", "60", "--id", "4711").exit_code == 4
    assert synod("lease", "grant", "0").exit_code == 2


def test_a_command_runs_while_a_lock_is_held(synod, store, tmp_path):
    shown = "import os; print(os.environ['SYNOD_LOCK_TOKEN'], os.environ['SYNOD_LOCK_KEY'], file=open({!r}, 'w'))"
    path = tmp_path / "shown"
    result = synod("lock", "shell", "--", sys.executable, "-c", shown.format(str(path)))
    assert result.exit_code == 0, result.output
    token, key = path.read_text().split()
    assert key.startswith("locks/shell/")
    with store.lock("shell") as lock:
        assert lock.token > int(token)
        busy = synod("lock", "shell", "--wait", "0.1", "--", "true")
        assert (busy.exit_code, "held by others" in busy.stderr) == (5, True)
    assert synod("lock", "shell", "--", sys.executable, "-c", "raise SystemExit(17)").exit_code == 17
    assert synod("lock", "shell", "--", "no such program").exit_code == 2
    assert store.count("locks/shell/") == 0


def in_child(work: Callable[[], Any]) -> str:
    """What ``work`` returned in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the child says what went wrong, whatever it is
            os.write(writer, f"failed: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        answer = said.read().decode()
    os.waitpid(child, 0)
    return answer


def test_a_forked_child_holds_nothing_and_watches_on_while_the_parent_goes_on(store):
    lease = store.lease(30)
    lock = store.lock("forked")
    token = lock.acquire()
    watch = store.watch("forked/")
    watch.begin()
    store.put("forked/1", "")

    def work() -> Any:
        seen = [watch.next(timeout_s=30).events[0].key]
        refused = []
        for check, kind in ((lease.check, LeaseLost), (lock.check, LockLost)):
            try:
                check()
            except kind:
                refused.append(kind.__name__)
        store.put("forked/2", "by the child")
        return seen, refused, watch.next(timeout_s=30).events[0].value

    outcome: list[str] = []
    # Not on the main thread, where nothing is wrong with forking, but the test's own loop may be gRPC's.
    thread = threading.Thread(target=lambda: outcome.append(in_child(work)))
    thread.start()
    thread.join()
    assert outcome == [repr(([b"forked/1"], ["LeaseLost", "LockLost"], b"by the child"))]
    assert [watch.next(timeout_s=30).events[0].key for _ in range(2)] == [b"forked/1", b"forked/2"]
    assert (lease.held, lock.token) == (True, token)
    lock.transaction([])
    lock.release()
    lease.revoke()
