"""Replicas in containers of a Docker engine, on a network of their own.

What is made is written down first: ``compose.yaml`` in the cluster's folder, which ``docker compose up`` (or
``docker-compose up``, 1.29 and later) runs as well as this driver does, with ``replica-N/config.toml`` beside it. Data
is in named volumes, so that it belongs to the replica's user and can be mapped on every system.

- Everything carries the label ``synod.cluster`` with the cluster's identity, and is found by it again: `release` needs
  neither the file nor the memory of who made it.
- Replicas have fixed addresses and know each other by those. A name would have to be looked up again whenever a
  container has been restarted, and gRPC is in no hurry with that.
- Clients reach a replica at a published port of 127.0.0.1.
- Replicas have no privileges. What is done to a replica's network is done by a container that shares it for a moment.
- A place for clients is a container of the same image that sleeps; who works there is started in it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.drivers.base import HOST, Driver, DriverError, routed_subnets
from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout
from deploy.node_config import render

__all__ = ["DEFAULT_IMAGE", "LABEL", "DockerDriver", "build_image", "compose_file"]

DEFAULT_IMAGE: Final = "synod:local"
LABEL: Final = "synod.cluster"

CLIENT_PORT: Final = 7001
PEER_PORT: Final = 7101
METRICS_PORT: Final = 7201
"""Where a replica listens within its container."""

FIRST_HOST: Final = 10
"""The last number of a replica's address is this and its id."""

HOSTS_MAX: Final = 200
"""The last number of the last address that a replica may have."""

LAST_HOST: Final = 254
"""The last number of the first place for clients; the others follow downwards."""

BOOT: Final = "/proc/sys/kernel/random/boot_id"
"""Tells kernels apart."""

ENGINE_TIMEOUT_S: Final = 120.0
"""An engine that takes longer over one request is taken for broken."""

STOP_SLACK_S: Final = 30.0


class DockerDriver(Driver):
    """Asks the engine through its program ``docker``, and makes containers with Compose."""

    device = "eth0"

    def check(self, layout: ClusterLayout) -> None:
        if layout.tls:
            raise DriverError(
                "tls: keys in the cluster's folder cannot be read by the user of a container: mount certificates and "
                "configure `security` in a Compose file of your own, or take another driver"
            )
        docker("version", "--format", "{{.Server.Version}}")
        _compose_program()
        if _run(["docker", "image", "inspect", "--format", "{{.Id}}", layout.image]).returncode:
            raise DriverError(
                f"image {layout.image} is missing: `synod cluster image` builds it from a checkout, "
                f"--image names another"
            )

    def plan(self, layout: ClusterLayout, taken: Collection[str]) -> None:
        layout.image = layout.image or DEFAULT_IMAGE
        layout.subnet = free_subnet(layout.cluster, taken)

    def place(self, layout: ClusterLayout, replica: ReplicaLayout, *, base_port: int, metrics: bool) -> None:
        super().place(layout, replica, base_port=base_port, metrics=metrics)
        address = address_of(layout, replica)
        replica.peer = f"{address}:{PEER_PORT}"
        replica.internal = f"{address}:{CLIENT_PORT}"
        replica.unit = f"synod-{layout.cluster[:8]}-{replica.replica}"

    def start(self, folder: Path, layout: ClusterLayout, replica: ReplicaLayout) -> None:
        state, _ = _state(replica)
        if state in {"running", "paused", "restarting"}:
            raise DriverError(f"replica {replica.replica} is running already (container {replica.unit})")
        for published in filter(None, (replica.client, replica.metrics)):
            _assert_free(replica, published)
        self.write(folder, layout)
        if state:
            docker("start", replica.unit)
        else:
            command = [*_compose_program(), "-f", str(compose_file(folder)), "up", "-d", "--no-deps", "--no-build"]
            _checked([*command, f"replica-{replica.replica}"], cwd=folder)
        replica.formatted = True
        replica.process = _process_of(replica)

    def write(self, folder: Path, layout: ClusterLayout) -> None:
        """Write the Compose file and the replicas' configurations."""
        for replica in layout.replicas:
            home = folder / f"replica-{replica.replica}"
            home.mkdir(parents=True, exist_ok=True)
            listen = {
                "peer": f"0.0.0.0:{PEER_PORT}",
                "client": f"0.0.0.0:{CLIENT_PORT}",
                "metrics": f"0.0.0.0:{METRICS_PORT}" if replica.metrics else "",
            }
            config = home / "config.toml"
            config.write_text(render(layout, replica, data=Path("/data/replica"), listen=listen))
            config.chmod(0o644)  # the replica's user is none of this machine
        compose_file(folder).write_text(compose(layout))
        (folder / ".env").write_text(f"COMPOSE_PROJECT_NAME=synod-{layout.cluster[:8]}\n")

    def alive(self, folder: Path, replica: ReplicaLayout) -> bool:
        return _state(replica)[0] in {"running", "paused", "restarting"}

    def stop(self, folder: Path, replica: ReplicaLayout, timeout_s: float) -> bool:
        state, _ = _state(replica)
        replica.process = 0
        if state not in {"running", "paused", "restarting"}:
            return True
        if state == "paused":
            docker("unpause", replica.unit)
        docker("stop", "-t", str(round(timeout_s)), replica.unit, timeout_s=timeout_s + STOP_SLACK_S)
        return _state(replica)[1] != 128 + 9

    def kill(self, folder: Path, replica: ReplicaLayout) -> None:
        self._assert_alive(folder, replica)
        docker("kill", "--signal", "KILL", replica.unit)
        docker("wait", replica.unit)
        replica.process = 0

    def pause(self, folder: Path, replica: ReplicaLayout) -> None:
        self._assert_alive(folder, replica)
        docker("pause", replica.unit)

    def resume(self, folder: Path, replica: ReplicaLayout) -> None:
        self._assert_alive(folder, replica)
        docker("unpause", replica.unit)

    def log_tail(self, folder: Path, replica: ReplicaLayout, lines: int) -> list[str]:
        if not _state(replica)[0]:
            return []
        said = _run(["docker", "logs", "--tail", str(lines), replica.unit], stderr=subprocess.STDOUT)
        return said.stdout.splitlines()[-lines:]

    def in_network(self, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, script: str) -> str:
        if isinstance(unit, ReplicaLayout):
            self._assert_alive(folder, unit)
        return docker(
            *("run", "--rm", "--network", f"container:{unit.unit}", "--cap-add", "NET_ADMIN", "--user", "0"),
            *("--label", f"{LABEL}={layout.cluster}", "--entrypoint", "sh", layout.image, "-c", script),
        )

    def make_place(self, layout: ClusterLayout, place: PlaceLayout) -> str:
        state, _ = _state(place)
        if state and state != "running":
            docker("rm", "--force", place.unit)
        if state != "running":
            docker(
                *("run", "--detach", "--init", "--name", place.unit, "--label", f"{LABEL}={layout.cluster}"),
                *("--network", _network(layout), "--ip", place.address),
                *("--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"),
                *("--tmpfs", "/data", "--no-healthcheck", *_topology_mount(layout)),
                *("--entrypoint", "sleep", layout.image, "infinity"),
            )
        try:
            here = Path(BOOT).read_text()
        except OSError:  # not Linux, where an engine runs in a machine of its own
            here = ""
        if docker("exec", place.unit, "cat", BOOT) != here:
            return "containers run on another kernel, whose clock is not that of this machine"
        return ""

    def python_in(self, place: PlaceLayout, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        return ["docker", "exec", "--interactive", *variables, place.unit, "python3", *arguments]

    def release(self, folder: Path, layout: ClusterLayout, *, wipe: bool) -> None:
        ours = ("--filter", f"label={LABEL}={layout.cluster}")
        for replica in layout.replicas:
            replica.process = 0
        if containers := docker("ps", "--all", "--quiet", *ours).split():
            docker("rm", "--force", "--volumes", *containers)  # named volumes stay
        if networks := docker("network", "ls", "--quiet", *ours).split():
            docker("network", "rm", *networks)
        if wipe and (volumes := docker("volume", "ls", "--quiet", *ours).split()):
            docker("volume", "rm", "--force", *volumes)

    def _assert_alive(self, folder: Path, replica: ReplicaLayout) -> None:
        if not self.alive(folder, replica):
            raise DriverError(f"replica {replica.replica} is not running")


def compose_file(folder: Path) -> Path:
    """Where the Compose file of a cluster is."""
    return folder.resolve() / "compose.yaml"


def compose(layout: ClusterLayout) -> str:
    """The text of the Compose file. JSON's strings and lists are YAML's, too."""
    name = _network(layout)
    label = json.dumps({LABEL: layout.cluster})
    lines = [
        "# Written by `synod cluster`, which runs it; `docker compose up` in this folder does the same.",
        "services:",
    ]
    for replica in layout.replicas:
        command = ["serve", "--config", "/etc/synod/config.toml"]
        if not replica.formatted:
            command.append("--join" if replica.joining else "--bootstrap")
        ports = [f"{replica.client}:{CLIENT_PORT}"]
        if replica.metrics:
            ports.append(f"{replica.metrics}:{METRICS_PORT}")
        mounts = [
            f"./replica-{replica.replica}/config.toml:/etc/synod/config.toml:ro",
            f"data-{replica.replica}:/data",
        ]
        lines += [
            f"  replica-{replica.replica}:",
            f"    image: {json.dumps(layout.image)}",
            f"    container_name: {json.dumps(replica.unit)}",
            f"    labels: {label}",
            f"    command: {json.dumps(command)}",
            f"    ports: {json.dumps(ports)}",
            f"    volumes: {json.dumps(mounts)}",
            "    stop_grace_period: 15s",
            '    cap_drop: ["ALL"]',
            '    security_opt: ["no-new-privileges:true"]',
            "    networks:",
            "      replicas:",
            f"        ipv4_address: {address_of(layout, replica)}",
        ]
    lines += [
        "networks:",
        "  replicas:",
        f"    name: {name}",
        f"    labels: {label}",
        "    ipam:",
        f'      config: [{{"subnet": "{layout.subnet}.0/24"}}]',
        "volumes:",
    ]
    for replica in layout.replicas:
        lines += [f"  data-{replica.replica}:", f"    name: {replica.unit}", f"    labels: {label}"]
    return "\n".join(lines) + "\n"


def address_of(layout: ClusterLayout, replica: ReplicaLayout) -> str:
    """The fixed address of a replica in the cluster's own network. Raises `DriverError`."""
    host = FIRST_HOST + replica.replica
    if host > HOSTS_MAX:
        raise DriverError(f"replica id {replica.replica} has no address left in {layout.subnet}.0/24")
    return f"{layout.subnet}.{host}"


def place_address(layout: ClusterLayout, number: int) -> str:
    """The address of the ``number``-th place for clients, counted from 0. Raises `DriverError`."""
    host = LAST_HOST - number
    if host <= HOSTS_MAX:
        raise DriverError(f"clients are in {number + 1} regions, and {layout.subnet}.0/24 has no address left for them")
    return f"{layout.subnet}.{host}"


def _network(layout: ClusterLayout) -> str:
    return f"synod-{layout.cluster[:8]}"


def _topology_mount(layout: ClusterLayout) -> list[str]:
    """A topology in a file of this machine is at the same path in the place of a client."""
    if not layout.topology.endswith(".toml"):
        return []
    path = Path(layout.topology).resolve()
    return ["--volume", f"{path}:{path}:ro"]


def free_subnet(cluster: str, taken: Collection[str]) -> str:
    """The first three numbers of a private network that this machine has no route to. Raises `DriverError`."""
    routed = routed_subnets() | set(taken)
    for candidate in _candidates(cluster):
        if candidate not in routed:
            return candidate
    raise DriverError("no private network is free between 10.201.0.0 and 10.232.255.0: take clusters down")


def _candidates(cluster: str) -> Iterator[str]:
    """All that there are, beginning at a place which the cluster's identity decides."""
    first = int(cluster[:8], 16)
    for step in range(32 * 256):
        number = (first + step) % (32 * 256)
        yield f"10.{201 + number // 256}.{number % 256}"


def build_image(image: str, base: str, checkout: Path) -> Iterator[str]:
    """Build the image from a checkout; yields what the engine says. Raises `DriverError`."""
    recipe = checkout / "deploy" / "Dockerfile"
    if not recipe.exists() or not (checkout / "pyproject.toml").exists():
        raise DriverError(f"{checkout} is no checkout of Synod: run this in one, or name it with --checkout")
    docker("version", "--format", "{{.Server.Version}}")
    command = ["docker", "build", "--file", str(recipe), "--tag", image]
    if base:
        command += ["--build-arg", f"BASE={base}"]
    said: list[str] = []
    with subprocess.Popen(
        [*command, str(checkout)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.rstrip())
            yield line.rstrip()
    if process.returncode:
        last = next((line for line in reversed(said) if line), "it said nothing")
        raise DriverError(f"the image was not built: {last}")


# ------------------------------------------------------------------------------------------------------- the engine


def docker(*arguments: str, timeout_s: float = ENGINE_TIMEOUT_S) -> str:
    """What ``docker`` prints. Raises `DriverError` with one line when it fails."""
    return _checked(["docker", *arguments], timeout_s=timeout_s)


def _checked(command: Sequence[str], *, timeout_s: float = ENGINE_TIMEOUT_S, cwd: Path | None = None) -> str:
    ended = _run(command, timeout_s=timeout_s, cwd=cwd)
    if ended.returncode:
        raise DriverError(_explain(command, ended.stderr or ended.stdout))
    return ended.stdout


def _run(
    command: Sequence[str],
    *,
    timeout_s: float = ENGINE_TIMEOUT_S,
    stderr: int = subprocess.PIPE,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd=cwd,
            env=_environment(),
        )
    except FileNotFoundError:
        raise DriverError(f"the program {command[0]} is not installed: containers need a Docker engine") from None
    except subprocess.TimeoutExpired:
        raise DriverError(f"`{shlex.join(command[:3])} …` did not end within {timeout_s:g} s") from None


def _environment() -> dict[str, str]:
    """The caller's, without what would change the meaning of a cluster's own Compose file."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}


def _explain(command: Sequence[str], said: str) -> str:
    if "permission denied" in said and "docker" in said:
        return "no permission to talk to the Docker engine: join the group docker, or run as root"
    if "Cannot connect to the Docker daemon" in said or "error during connect" in said:
        return "no Docker engine is running (or DOCKER_HOST points to none)"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "cannot" in line.lower()]
    return f"`{shlex.join(command[:3])} …` failed: {(telling or lines or ['it said nothing'])[-1]}"


def _compose_program() -> list[str]:
    """Compose as a part of ``docker``, or as a program by itself."""
    if not _run(["docker", "compose", "version"]).returncode:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise DriverError("neither `docker compose` nor `docker-compose` is installed")


def _state(replica: ReplicaLayout | PlaceLayout) -> tuple[str, int]:
    """The container's state and exit status; an empty state when there is no container."""
    found = _run(["docker", "container", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", replica.unit])
    if found.returncode:
        if "o such container" in found.stderr.lower():
            return "", 0
        raise DriverError(_explain(["docker", "container", "inspect"], found.stderr))
    state, status = found.stdout.split()
    return state, int(status)


def _process_of(replica: ReplicaLayout) -> int:
    """The process on this machine, or 0 where the engine runs on another kernel."""
    process = int(docker("container", "inspect", "--format", "{{.State.Pid}}", replica.unit))
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return 0
    return process if b"/etc/synod/config.toml" in command else 0


def _assert_free(replica: ReplicaLayout, address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise DriverError(
                f"replica {replica.replica}: cannot listen on {address}: {error.strerror} "
                f"(choose others with --base-port)"
            ) from None
