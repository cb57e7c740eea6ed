"""etcd, started by the harness where its program is installed: members on loopback, with its own defaults.

Its durability is that of ``sync``: every entry is synced by a majority before it is acknowledged (a batch of entries
shares a sync, as Synod's does). Without syncing it is another experiment (``--unsafe-no-fsync``, from 3.5 on), which
older releases do not have.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import grpc

from bench.load import etcd_messages as etcd
from bench.results import Deployment
from bench.suite import ClusterShape, TargetEntry
from bench.targets.base import Digests, Target, TargetError, TargetUnavailable
from bench.workload import METADATA_KINDS, Workload
from deploy.drivers.base import free_ports

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
CALL_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
QUOTA_BYTES: Final = 8 << 30
"""What etcd may store; its default of 2 GiB would end a long run."""


@lru_cache(maxsize=1)
def etcd_version() -> str:
    """The version of the installed etcd; empty where there is none."""
    program = shutil.which("etcd")
    if program is None:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    first = said.splitlines()[0] if said else ""
    return first.rpartition(" ")[2]


class EtcdTarget(Target):
    """A cluster of etcd."""

    rpc = "etcd"

    def __init__(self, entry: TargetEntry, shape: ClusterShape) -> None:
        super().__init__(entry, shape)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: list[str] = []
        self._folder = Path()

    def describe(self) -> Deployment:
        version = etcd_version()
        return Deployment(
            target="etcd",
            label=self.entry.label or f"etcd {version}".strip(),
            protocol="raft",
            replicas=self.shape.replicas,
            durability="sync",
            sync_mode="its own",
            consistency=self.shape.consistency,
            version=version,
        )

    def refusal(self, workload: Workload, faults: Sequence[Mapping[str, object]]) -> str:
        if not etcd_version():
            raise TargetUnavailable("etcd is not installed here (Debian: apt-get install etcd-server)")
        if self.shape.durability != "sync":
            return "etcd has no durability other than sync here"
        if self.shape.topology:
            return "the links of etcd are not shaped"
        if faults:
            return "faults are not injected into etcd"
        if self.shape.consistency not in {"linearizable", "stale"}:
            return f"etcd has no reads by {self.shape.consistency}"
        if "add" in workload.shares or METADATA_KINDS & workload.shares.keys():
            return "etcd has no addition that is evaluated where it is applied"
        if workload.value.maximum > 1 << 20:
            return "etcd refuses requests beyond 1.5 MiB"
        return ""

    def start(self, folder: Path) -> None:
        self._folder = folder
        count = self.shape.replicas
        ports = free_ports(2 * count)
        names = [f"member-{number + 1}" for number in range(count)]
        peers = [f"http://127.0.0.1:{port}" for port in ports[:count]]
        self._clients = [f"127.0.0.1:{port}" for port in ports[count:]]
        initial = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        for name, peer, client in zip(names, peers, self._clients, strict=True):
            home = folder / name
            home.mkdir(parents=True)
            with (home / "log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [
                            *("etcd", "--name", name, "--data-dir", str(home / "data")),
                            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                            *(
                                "--listen-client-urls",
                                f"http://{client}",
                                "--advertise-client-urls",
                                f"http://{client}",
                            ),
                            *("--initial-cluster", initial, "--initial-cluster-state", "new"),
                            *("--quota-backend-bytes", str(QUOTA_BYTES), "--logger", "zap", "--log-level", "warn"),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=environment,
                        start_new_session=True,
                    )
                )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._leader() is None:
            if dead := self.dead():
                raise TargetError(f"{', '.join(dead)} of etcd died while it came up")
            if time.monotonic() > deadline:
                raise TargetError(f"etcd was not ready after {READY_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def _leader(self) -> int | None:
        """Which member leads, once all of them know it."""
        statuses = []
        for address in self._clients:
            try:
                statuses.append(_call(address, etcd.STATUS, etcd.StatusRequest(), etcd.StatusResponse))
            except grpc.RpcError:
                return None
        leaders = {status.leader for status in statuses}
        if len(leaders) != 1 or not min(leaders):
            return None
        (leader,) = leaders
        return next(place for place, status in enumerate(statuses) if status.header.member_id == leader)

    def url(self, region: str) -> str:
        leader = self._leader() or 0
        return ",".join([self._clients[leader], *(self._clients[:leader] + self._clients[leader + 1 :])])

    def stop(self) -> None:
        processes, self._processes = self._processes, []
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def dead(self) -> list[str]:
        return [f"member {number}" for number, each in enumerate(self._processes, 1) if each.poll() is not None]

    def logs(self, lines: int) -> dict[str, list[str]]:
        return {
            f"member {number}": (self._folder / f"member-{number}" / "log")
            .read_text(errors="replace")
            .splitlines()[-lines:]
            for number in range(1, len(self._clients) + 1)
            if (self._folder / f"member-{number}" / "log").exists()
        }

    def digests(self) -> Digests:
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            try:
                found = [_call(address, etcd.HASH, etcd.HashRequest(), etcd.HashResponse) for address in self._clients]
            except grpc.RpcError as error:
                return "not compared", str(error)
            at = {reply.header.revision for reply in found}
            if len(at) == 1 or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        detail = ", ".join(
            f"{number}: {reply.hash:08x} at {reply.header.revision}" for number, reply in enumerate(found, 1)
        )
        if len(at) > 1:
            return "not compared", f"the members are not at one revision: {detail}"
        return ("agree" if len({reply.hash for reply in found}) == 1 else "differ"), detail

    def processes(self) -> dict[str, int]:
        return {f"member {number}": each.pid for number, each in enumerate(self._processes, 1)}

    def check_perf(self) -> str:
        """What etcd's own program says of it (``etcdctl check perf``, 1 000 clients, a minute); empty without it."""
        program = shutil.which("etcdctl")
        if program is None:
            return ""
        done = subprocess.run(
            [program, "--endpoints", ",".join(self._clients), "check", "perf", "--load", "xl"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "ETCDCTL_API": "3"},
        )
        text = (done.stdout + done.stderr).replace("\r", "\n")
        lines = [line.strip() for line in text.splitlines() if line.startswith(("PASS", "FAIL"))]
        return "; ".join(lines)


def _call(address: str, path: str, request: Any, reply: Any) -> Any:
    """One call on a channel of its own."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        method = channel.unary_unary(path, type(request).SerializeToString, reply.FromString)
        return method(request, timeout=CALL_TIMEOUT_S)
