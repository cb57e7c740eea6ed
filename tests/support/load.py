"""Clients as processes of their own, whose record survives whatever happens to the replicas."""

from __future__ import annotations

import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

import msgspec

from bench.increments import Outcome
from deploy import Cluster

LINE_TIMEOUT_S = 60.0


class IncrementClient:
    """``python -m bench.increments`` as a child, whose lines are read as they come."""

    def __init__(self, cluster: Cluster, name: str, *, in_flight: int, timeout_s: float = 60.0) -> None:
        self.name = name
        self._outcome: Outcome | None = None
        self._acknowledged = 0
        self._condition = threading.Condition()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.increments", "--client", name),
                *("--endpoints", ",".join(cluster.endpoints)),
                *("--in-flight", str(in_flight), "--timeout", str(timeout_s)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    @property
    def acknowledged(self) -> int:
        """How many operations have been acknowledged so far."""
        return self._acknowledged

    def wait_acknowledged(self, count: int, timeout_s: float = LINE_TIMEOUT_S) -> None:
        """Return once that many have been acknowledged. Raises `TimeoutError`."""
        with self._condition:
            if not self._condition.wait_for(
                lambda: self._acknowledged >= count or self._process.poll() is not None, timeout_s
            ):
                raise TimeoutError(f"client {self.name}: {self._acknowledged} of {count} after {timeout_s:g} s")
        assert self._process.poll() is None, f"client {self.name} died with status {self._process.returncode}"

    def finish(self, timeout_s: float = 120.0) -> Outcome:
        """End the load and return what the client knows."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout_s)
        self._reader.join()
        assert self._outcome is not None, f"client {self.name} ended with status {self._process.returncode}"
        return self._outcome

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            entry = msgspec.json.decode(line)
            with self._condition:
                if "outcome" in entry:
                    self._outcome = msgspec.convert(entry["outcome"], Outcome)
                else:
                    self._acknowledged += 1
                self._condition.notify_all()
        with self._condition:
            self._condition.notify_all()
