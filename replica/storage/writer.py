"""Group commit: where the groups of the node's turns go to become durable, and come back from as completions.

Two ways, one interface. *Inline*, the caller's thread commits and syncs before `submit` returns: on few cores the hop
to a thread costs more than a short sync. On the *thread*, one dedicated writer commits, and while its sync is in flight
the next groups accumulate and are merged into one transaction: group commit without a timer. Groups complete in the
order in which they were submitted, and several may be reported by the last of them.

A failed commit is fatal. It is reported once; whatever was submitted after it is never reported durable.

A commit lets go of the interpreter and takes it back several times (LMDB runs without it). Beside an owner that
computes without a pause, each time costs up to the interpreter's switch interval, 5 ms by default. A process that
commits on the thread does well to set it to `SWITCH_INTERVAL_S` (`sys.setswitchinterval`), not for a library to do.
"""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import lmdb
import msgspec

from replica.consensus.interface import Write

from .environment import explain, open_environment
from .files import DIRECTORY_MODE
from .log import LogEnvironment

SyncMode: TypeAlias = Literal["inline", "thread", "auto"]

INLINE_MEDIAN_S_MAX: Final = 0.001
"""Up to this median a sync may be done inline: it is short beside a round trip between replicas."""

INLINE_TAIL_S_MAX: Final = 0.010
"""Up to this 95th percentile: longer ones hold up heartbeats and reads."""

MEASURED_COMMITS_MAX: Final = 64
MEASURED_SECONDS_MAX: Final = 0.5
MEASURED_BYTES: Final = 4096

SLOW_SYNC_S: Final = 0.050
"""In mode auto, a sync that takes longer counts as slow."""

SLOW_SYNCS_MAX: Final = 3
"""That many slow syncs among the last `SLOW_WINDOW` move the commits to the thread."""

SLOW_WINDOW: Final = 256

SWITCH_INTERVAL_S: Final = 0.0005
"""What suits a process whose loop is busy while the writer thread commits."""

MERGED_GROUPS_MAX: Final = 1024
"""Groups in one transaction of the writer thread."""


class SyncMeasurement(msgspec.Struct, frozen=True):
    """What commits cost on the disk below a folder, in seconds."""

    median_s: float
    tail_s: float
    """The 95th percentile."""
    commits: int


class WriterStatistics(msgspec.Struct):
    """What a writer has done so far."""

    commits: int = 0
    groups: int = 0
    bytes: int = 0
    """Of records, headers included."""
    seconds: float = 0.0
    slowest_s: float = 0.0


def measure_sync(path: Path) -> SyncMeasurement:
    """Measure real synced commits in a scratch environment in ``path``. Takes at most `MEASURED_SECONDS_MAX` or so.

    Raises `StorageFull`, `SyncFailed`.
    """
    scratch = path / "sync-measurement"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(DIRECTORY_MODE)
    samples: list[float] = []
    try:
        environment = open_environment(scratch, map_bytes=16 << 20, sync=True)
        try:
            value = bytes(MEASURED_BYTES)
            began = time.perf_counter()
            while len(samples) < MEASURED_COMMITS_MAX and time.perf_counter() - began < MEASURED_SECONDS_MAX:
                before = time.perf_counter()
                with environment.begin(write=True) as transaction:
                    transaction.put(b"%08d" % len(samples), value)
                samples.append(time.perf_counter() - before)
        except lmdb.Error as error:
            raise explain(path, error, "measure the disk") from error
        finally:
            environment.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    # The first commits extend the new file and are slower than any that follow.
    samples = sorted(samples[len(samples) // 8 :])
    return SyncMeasurement(
        median_s=samples[len(samples) // 2], tail_s=samples[int(len(samples) * 0.95)], commits=len(samples)
    )


def choose_mode(measured: SyncMeasurement) -> Literal["inline", "thread"]:
    """Inline where a sync is short and steady."""
    steady = measured.median_s <= INLINE_MEDIAN_S_MAX and measured.tail_s <= INLINE_TAIL_S_MAX
    return "inline" if steady else "thread"


class GroupWriter:
    """Commits groups to the log. All methods are for one thread, the owner's; callbacks are made on that, too.

    ``deliver`` takes a function and has it called on the owner's thread soon (`loop.call_soon_threadsafe`).
    ``on_durable`` is told the last durable group; ``on_failure`` is told once of a failed commit on the writer thread
    (an inline one raises from `submit`). ``observe`` is told how long each commit took, in seconds.
    """

    def __init__(
        self,
        log: LogEnvironment,
        *,
        mode: SyncMode,
        deliver: Callable[[Callable[[], None]], object],
        on_durable: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
        observe: Callable[[float], None] | None = None,
        measured: SyncMeasurement | None = None,
    ) -> None:
        """``measured`` saves mode ``auto`` from measuring itself. Raises `StorageError` from the measurement."""
        self._log = log
        self._deliver = deliver
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._observe = observe
        self.statistics = WriterStatistics()
        self.measured = measured
        self._may_change = mode == "auto"
        if mode == "auto":
            if log.durability == "none":
                mode = "inline"
            else:
                self.measured = measured or measure_sync(log.path)
                mode = choose_mode(self.measured)
        self.mode: Literal["inline", "thread"] = mode
        """How commits are done now."""
        self.sync_delay_s = 0.0
        """Every sync takes this much longer, for experiments."""
        self.failure: BaseException | None = None
        self._submitted = 0
        self._settled = 0
        self._since_slow: list[int] = []
        self._notifications: dict[int, Callable[[], None]] = {}
        self._queue: queue.SimpleQueue[tuple[int, int, Sequence[Write]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def in_flight(self) -> int:
        """Groups that were submitted and not yet reported."""
        return self._submitted - self._settled

    def submit(self, group: int, writes: Sequence[Write], notify: Callable[[], None] | None = None) -> int:
        """Have ``writes`` committed, after all that was submitted before. Return the group if it is durable already.

        Inline, the group is durable on return, and its number is returned: ``on_durable`` is not called for it. On the
        thread, 0 is returned and ``on_durable`` called later. ``group`` 0 stands for writes outside the coordinator's
        groups (an anchor, an admission). ``notify`` is called once they are durable, in both modes, inline before this
        returns. Raises `StorageError` when an inline commit fails, or anything failed before; fatal.
        """
        if self.failure is not None:
            raise self.failure
        self._submitted += 1
        if self.mode == "inline":  # it never comes back to that from the thread, so nothing is in flight
            began = time.perf_counter()
            try:
                size = self._log.commit((writes,))
            except BaseException as error:
                self.failure = error
                raise
            if self.sync_delay_s > 0.0:
                time.sleep(self.sync_delay_s)
            self._settled = self._submitted
            self._account(time.perf_counter() - began, 1, size)
            if notify is not None:
                notify()
            return group
        if notify is not None:
            self._notifications[self._submitted] = notify
        self._log.expect(self._submitted, writes)
        if self._thread is None:
            # A daemon, so that an owner that dies of an exception isn't kept alive by its writer.
            self._thread = threading.Thread(target=self._run, name="synod-log-writer", daemon=True)
            self._thread.start()
        self._queue.put((self._submitted, group, writes))
        return 0

    def close(self) -> None:
        """Wait until everything submitted has been committed, or has failed, and stop the thread.

        Completions are delivered as always, which needs the owner's loop to run on. The log stays open.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    # --------------------------------------------------------------------------------------------- the writer thread

    def _run(self) -> None:
        closing = False
        while not closing:
            item = self._queue.get()
            if item is None:
                return
            numbers, groups = [item[0]], [item[1]]
            merged = [item[2]]
            while len(merged) < MERGED_GROUPS_MAX:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    closing = True
                    break
                numbers.append(item[0])
                groups.append(item[1])
                merged.append(item[2])
            began = time.perf_counter()
            try:
                size = self._log.commit(merged)
            except BaseException as error:  # noqa: BLE001 - it is the owner's to act on: fatal, whatever it is
                self._deliver(_call(self._failed, error))
                return
            if self.sync_delay_s > 0.0:
                time.sleep(self.sync_delay_s)
            seconds = time.perf_counter() - began
            self._deliver(_call(self._completed, numbers[-1], max(groups), seconds, len(merged), size))

    def _completed(self, number: int, group: int, seconds: float, groups: int, size: int) -> None:
        """On the owner's thread: everything up to submission ``number`` is durable."""
        self._log.settle(number)
        first, self._settled = self._settled + 1, number
        self._account(seconds, groups, size)
        if group:
            self._on_durable(group)
        if self._notifications:
            for settled in range(first, number + 1):
                notify = self._notifications.pop(settled, None)
                if notify is not None:
                    notify()

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        self._on_failure(error)

    # ------------------------------------------------------------------------------------------------------ internal

    def _account(self, seconds: float, groups: int, size: int) -> None:
        statistics = self.statistics
        statistics.commits += 1
        statistics.groups += groups
        statistics.bytes += size
        statistics.seconds += seconds
        statistics.slowest_s = max(statistics.slowest_s, seconds)
        if self._observe is not None:
            self._observe(seconds)
        if self._may_change and self.mode == "inline" and seconds > SLOW_SYNC_S:
            # The disk has become erratic. Inline, nothing is in flight here, so the order can't be upset.
            slow = [commit for commit in self._since_slow if statistics.commits - commit < SLOW_WINDOW]
            slow.append(statistics.commits)
            self._since_slow = slow
            if len(slow) >= SLOW_SYNCS_MAX:
                self.mode = "thread"


def _call(function: Callable[..., None], *arguments: object) -> Callable[[], None]:
    def call() -> None:
        function(*arguments)

    return call


__all__ = [
    "SWITCH_INTERVAL_S",
    "GroupWriter",
    "SyncMeasurement",
    "SyncMode",
    "WriterStatistics",
    "choose_mode",
    "measure_sync",
]
