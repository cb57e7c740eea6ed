"""A holder of a lock that is paused, loses the lock, wakes late, and acts as if nothing had happened."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from replica.client import LockLost, Put, connect
from replica.kv.operations import Get, Transacted
from tests.support.alone import replica_alone

HOLDER = textwrap.dedent(
    """
    import sys
    from replica.client import LockLost, Put, connect

    def try_to(act):
        try:
            act()
            return "done"
        except LockLost:
            return "lost"

    with connect(sys.argv[1], timeout_s=60) as store:
        lock = store.lock("shared", ttl_s=3.0)
        print(lock.acquire(), flush=True)
        fence = lock.condition
        sys.stdin.readline()
        # It has slept over the end of its lease. Its own clock tells it; the store does not rely on that.
        print(try_to(lock.check), flush=True)
        print(try_to(lambda: lock.transaction([Put(b"guarded", b"late")])), flush=True)
        print(store.transaction([fence], [Put(b"guarded", b"late")]).succeeded, flush=True)
    """
)


class Resource:
    """Something outside the store that a lock protects: it remembers the largest token it has seen."""

    def __init__(self) -> None:
        self.token = 0
        self.written: list[str] = []

    def write(self, token: int, what: str) -> bool:
        if token < self.token:
            return False
        self.token = token
        self.written.append(what)
        return True


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped here")
def test_a_fencing_token_stops_a_paused_holder_that_wakes_up_late(tmp_path):
    resource = Resource()
    with replica_alone(tmp_path) as endpoint, connect(endpoint, timeout_s=60) as store:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            paused_token = int(holder.stdout.readline())
            assert resource.write(paused_token, "by the first holder")
            os.kill(holder.pid, signal.SIGSTOP)
            with store.lock("shared") as lock:  # once the lease of the paused one has run out
                assert lock.token > paused_token
                lock.transaction([Put(b"guarded", b"by the second holder")])
                assert resource.write(lock.token, "by the second holder")
                os.kill(holder.pid, signal.SIGCONT)
                holder.stdin.write("go on\n")
                holder.stdin.flush()
                answers = [holder.stdout.readline().strip() for _ in range(3)]
                assert not resource.write(paused_token, "late")
                lock.check()
        finally:
            holder.kill()
            holder.communicate()
        assert answers == ["lost", "lost", "False"]
        item = store.get("guarded")
        assert item is not None
        assert item.value == b"by the second holder"
    assert resource.written == ["by the first holder", "by the second holder"]


def test_without_the_fence_the_late_write_would_have_happened(tmp_path):
    """The fence is what stops it: the same write without the condition takes effect."""
    with connect("memory:") as store:
        lease = store.lease(60, keep_alive=False)
        lock = store.lock("shared", lease=lease)
        lock.acquire()
        fence = lock.condition
        store.revoke_lease(lease.id)  # as if its time had run out: the holder has not heard of it
        with store.lock("shared") as other:
            other.transaction([Put(b"guarded", b"second")])
            with pytest.raises(LockLost):
                lock.transaction([Put(b"guarded", b"late")])
            fenced = store.transaction([fence], [Put(b"guarded", b"late")], [Get(b"guarded")])
            assert isinstance(fenced, Transacted)
            assert not fenced.succeeded
            assert store.transaction([], [Put(b"guarded", b"late")]).succeeded
