"""Replicas as processes of this machine.

Each replica has a folder of its own below the cluster's: ``replica-N/config.toml``, ``replica-N/data``,
``replica-N/log``. Processes outlive the command that started them. A process is told by its id *and* by its command
line, so that an id which the system has given to somebody else meanwhile is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from deploy.drivers.base import Driver, DriverError
from deploy.layout import CERTIFICATES, ClusterLayout, ReplicaLayout
from deploy.node_config import render

POLL_S = 0.02
"""How often a process that should be going is looked at."""

START_TIMEOUT_S = 5.0
"""A process that shows no command line after this never will."""

KILL_TIMEOUT_S = 10.0
"""A killed process that is still there after this is stuck in the kernel."""


class ProcessDriver(Driver):
    """Starts ``synod serve`` under this interpreter."""

    def check(self, layout: ClusterLayout) -> None:
        """Processes can be started everywhere."""

    def plan(self, layout: ClusterLayout, taken: Collection[str]) -> None:
        """Replicas share the machine, and nothing else."""

    def release(self, folder: Path, layout: ClusterLayout, *, wipe: bool) -> None:
        """There is nothing beside the processes and the folder."""

    def start(self, folder: Path, layout: ClusterLayout, replica: ReplicaLayout) -> None:
        if self.alive(folder, replica):
            raise DriverError(f"replica {replica.replica} is running already (process {replica.process})")
        home = _home(folder, replica)
        home.mkdir(parents=True, exist_ok=True)
        config = _config(folder, replica)
        certificates = folder.resolve() / CERTIFICATES if layout.tls else None
        config.write_text(render(layout, replica, data=home / "data", certificates=certificates))
        command = [sys.executable, "-m", "replica.cli", "serve", "--config", str(config)]
        if not replica.formatted:
            command.append("--join" if replica.joining else "--bootstrap")
        command = self.command(replica, command)
        with _log(folder, replica).open("ab") as log, Path(os.devnull).open("rb") as nothing:
            # Not subprocess.Popen: it takes a child that outlives its parent for a mistake.
            replica.process = os.posix_spawn(
                command[0],
                command,
                _environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
                setsid=True,
            )
        replica.formatted = True
        self._await_command_line(folder, replica)

    def command(self, replica: ReplicaLayout, command: list[str]) -> list[str]:
        """The command that becomes ``command`` in the place of the replica; the first word is a path."""
        return command

    def _await_command_line(self, folder: Path, replica: ReplicaLayout) -> None:
        """Return once the process can be told by its command line, or has ended already.

        The kernel lets the parent go on a moment before it shows the child's new command line.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.alive(folder, replica) and _exists(replica.process) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def alive(self, folder: Path, replica: ReplicaLayout) -> bool:
        if not replica.process:
            return False
        _reap(replica.process)
        return str(_config(folder, replica)) in _command_line(replica.process)

    def stop(self, folder: Path, replica: ReplicaLayout, timeout_s: float) -> bool:
        if not self.alive(folder, replica):
            replica.process = 0
            return True
        with contextlib.suppress(ProcessLookupError):  # it may go by itself at any moment
            os.kill(replica.process, signal.SIGTERM)
            os.kill(replica.process, signal.SIGCONT)  # a paused process would not see the request
        if self._wait_gone(folder, replica, timeout_s):
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(replica.process, signal.SIGKILL)
        self._await_killed(folder, replica)
        return False

    def kill(self, folder: Path, replica: ReplicaLayout) -> None:
        self._signal(folder, replica, signal.SIGKILL)
        self._await_killed(folder, replica)

    def _await_killed(self, folder: Path, replica: ReplicaLayout) -> None:
        if not self._wait_gone(folder, replica, KILL_TIMEOUT_S):
            raise DriverError(f"replica {replica.replica} was killed and process {replica.process} is still there")

    def pause(self, folder: Path, replica: ReplicaLayout) -> None:
        self._signal(folder, replica, signal.SIGSTOP)

    def resume(self, folder: Path, replica: ReplicaLayout) -> None:
        self._signal(folder, replica, signal.SIGCONT)

    def log_tail(self, folder: Path, replica: ReplicaLayout, lines: int) -> list[str]:
        try:
            text = _log(folder, replica).read_text(errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-lines:]

    def _signal(self, folder: Path, replica: ReplicaLayout, number: int) -> None:
        if not self.alive(folder, replica):
            raise DriverError(f"replica {replica.replica} is not running")
        os.kill(replica.process, number)

    def _wait_gone(self, folder: Path, replica: ReplicaLayout, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive(folder, replica):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        replica.process = 0
        return True


def _home(folder: Path, replica: ReplicaLayout) -> Path:
    return folder.resolve() / f"replica-{replica.replica}"


def _config(folder: Path, replica: ReplicaLayout) -> Path:
    return _home(folder, replica) / "config.toml"


def _log(folder: Path, replica: ReplicaLayout) -> Path:
    return _home(folder, replica) / "log"


def _environment() -> dict[str, str]:
    """The caller's environment; variables that configure a node would override the file of every replica alike."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SYNOD_")}


def _reap(process: int) -> None:
    """Collect the exit status when the process is a child of ours: it would stay in the table otherwise."""
    try:
        os.waitpid(process, os.WNOHANG)
    except ChildProcessError:
        return


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _command_line(process: int) -> str:
    """The command line of a process, empty when there is none."""
    path = Path(f"/proc/{process}/cmdline")
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    found = subprocess.run(  # systems without /proc
        ["ps", "-o", "command=", "-p", str(process)],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()
