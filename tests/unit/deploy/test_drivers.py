"""Where drivers put replicas, the Compose file that they write, partitions, and what shaping is chosen."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import Cluster, ClusterError, netem
from deploy.drivers import Driver, DriverError, docker
from deploy.drivers.docker import (
    LABEL,
    DockerDriver,
    address_of,
    compose,
    compose_file,
    free_subnet,
    place_address,
)
from deploy.drivers.process import ProcessDriver
from deploy.layout import ClusterLayout, PlaceLayout, ReplicaLayout
from deploy.node_config import render
from deploy.shaping import ShapingError, choose, shape, shape_places
from deploy.topology import load_topology
from replica.node.config import load_config

PROJECT = Path(__file__).parents[3]


def in_containers(replicas: int = 3, *, metrics: bool = True) -> ClusterLayout:
    layout = ClusterLayout(cluster="5eed" * 8, driver="docker", protocol="multipaxos", last_replica=replicas)
    driver = DockerDriver()
    driver.plan(layout, ())
    for number in range(1, replicas + 1):
        entry = ReplicaLayout(replica=number, client="", peer="")
        driver.place(layout, entry, base_port=7001, metrics=metrics)
        layout.replicas.append(entry)
    return layout


def test_replicas_in_containers_have_fixed_addresses_and_published_ports() -> None:
    layout = in_containers()
    assert [each.peer for each in layout.replicas] == [f"{layout.subnet}.{host}:7101" for host in (11, 12, 13)]
    assert [each.client for each in layout.replicas] == [f"127.0.0.1:{port}" for port in (7001, 7002, 7003)]
    assert [each.metrics for each in layout.replicas] == [f"127.0.0.1:{port}" for port in (7201, 7202, 7203)]


def test_the_compose_file_says_what_the_layout_says() -> None:
    layout = in_containers()
    layout.replicas[1].formatted = True
    found: dict[str, Any] = yaml.safe_load(compose(layout))
    first, second = found["services"]["replica-1"], found["services"]["replica-2"]
    assert first["command"][-1] == "--bootstrap"
    assert "--bootstrap" not in second["command"], "a volume that was lost must not be formatted in silence"
    assert first["ports"] == ["127.0.0.1:7001:7001", "127.0.0.1:7201:7201"]
    assert first["networks"]["replicas"]["ipv4_address"] == f"{layout.subnet}.11"
    assert first["cap_drop"] == ["ALL"]
    for made in (*found["services"].values(), *found["networks"].values(), *found["volumes"].values()):
        assert made["labels"] == {LABEL: layout.cluster}, "what has no label is not found again"


def test_the_files_of_containers_are_read_as_they_are_meant(tmp_path: Path) -> None:
    layout = in_containers()
    DockerDriver().write(tmp_path, layout)
    assert compose_file(tmp_path).exists()
    config = load_config(tmp_path / "replica-2" / "config.toml")
    assert config.listen.peer == "0.0.0.0:7101"
    assert config.listen.client == "0.0.0.0:7001"
    assert config.advertise.client == "127.0.0.1:7002"
    assert config.data == "/data/replica"
    assert (tmp_path / "replica-2" / "config.toml").stat().st_mode & 0o004, "the replica's user is another one"


def test_the_plain_compose_file_configures_three_replicas_of_one_cluster() -> None:
    found: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "compose.yaml").read_text())
    replicas = [service for name, service in found["services"].items() if name.startswith("replica-")]
    configs = [load_config(None, environment=each["environment"]) for each in replicas]
    assert [config.replica for config in configs] == [1, 2, 3]
    assert len({config.members for config in configs}) == 1
    assert all(config.bootstrap for config in configs)
    published = [each["ports"][0].rpartition(":")[0] for each in replicas]
    assert published == [member.client for member in configs[0].members]
    optional = [service for name, service in found["services"].items() if not name.startswith("replica-")]
    assert all(service["profiles"] == ["observe"] for service in optional)


def test_a_subnet_that_is_taken_is_passed_over() -> None:
    first = free_subnet("5eed" * 8, ())
    second = free_subnet("5eed" * 8, {first})
    assert first != second
    assert first.startswith("10.")


def test_an_address_that_others_know_may_differ_from_where_a_replica_listens() -> None:
    layout = in_containers()
    listen = {"peer": "0.0.0.0:1", "client": "0.0.0.0:2", "metrics": ""}
    found = tomllib.loads(render(layout, layout.replicas[0], data=Path("/d"), listen=listen))
    assert found["listen"] == listen
    assert found["advertise"]["client"] == "127.0.0.1:7001"


# ------------------------------------------------------------------------------------------------------- partitions


def test_a_partition_cuts_between_groups_and_leaves_unnamed_replicas_alone() -> None:
    layout = in_containers(5)
    layout.groups = [[1, 2], [3, 4]]
    assert layout.cut_off(1) == [3, 4, 5]
    assert layout.cut_off(5) == [1, 2, 3, 4]
    layout.groups = []
    assert layout.cut_off(1) == []


def test_groups_that_overlap_or_name_nobody_are_refused_before_anything_is_cut(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", base_port=7001)
    with pytest.raises(ClusterError, match="in common"):
        cluster.partition([[1, 2], [2, 3]])
    with pytest.raises(ClusterError, match="no replica 9"):
        cluster.partition([[1], [9]])
    assert Cluster.open(tmp_path / "c").layout.groups == []


# ---------------------------------------------------------------------------------------------------------- shaping


class Networked(ProcessDriver):
    """Has networks of which a test says what the kernel answers."""

    device = "eth0"

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.scripts: dict[str, str] = {}

    def alive(self, folder: Path, replica: ReplicaLayout) -> bool:
        return True

    def in_network(self, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, script: str) -> str:
        self.scripts[unit.unit] = script
        if self.answer:
            raise DriverError(self.answer)
        return ""


def chosen(driver: Driver, asked: str) -> tuple[str, str]:
    layout = in_containers()
    layout.shaping = asked  # type: ignore[assignment]
    return choose(driver, Path(), layout)


NO = "Error: Specified qdisc kind is unknown."


def test_netem_is_chosen_where_the_kernel_has_it_and_the_transport_aloud_where_not() -> None:
    assert chosen(Networked(""), "auto") == ("netem", "")
    assert chosen(Networked(NO), "auto") == (
        "transport", "this kernel has no netem: the transport shapes the links instead"
    )  # fmt: skip
    assert chosen(ProcessDriver(), "auto") == ("transport", "")
    assert chosen(Networked(""), "none") == ("none", "")


def test_netem_that_was_asked_for_and_is_not_there_is_refused() -> None:
    with pytest.raises(ShapingError, match="no netem"):
        chosen(Networked(NO), "netem")


def test_another_trouble_is_not_taken_for_a_missing_netem() -> None:
    with pytest.raises(ShapingError, match="not permitted"):
        chosen(Networked("RTNETLINK answers: Operation not permitted"), "auto")


def test_the_kernel_shapes_both_halves_of_the_links_of_clients_in_places(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, topology, driver = in_containers(), load_topology("wan3"), Networked("")
    for number, replica in enumerate(layout.replicas):
        replica.region = topology.region_of(number)
    place = PlaceLayout(region="california", address=place_address(layout, 0), unit="clients")
    layout.places, layout.shaped_by = [place], "netem"

    class Obeyed(dict[str, netem.Shaped]):
        def __contains__(self, address: object) -> bool:
            return True

        def __missing__(self, address: str) -> netem.Shaped:
            return netem.Shaped()

    monkeypatch.setattr(netem, "read_back", lambda _: Obeyed())
    monkeypatch.setattr(netem.Shaped, "differs", lambda *_: "")
    shape(driver, Path(), layout, topology, layout.replicas)
    shape_places(driver, Path(), layout, topology)
    ohio = next(replica for replica in layout.replicas if replica.region == "ohio")

    def delay(unit: str, address: str) -> str:
        lines = driver.scripts[unit].splitlines()
        (found,) = (line.rpartition(":")[2] for line in lines if f"match ip dst {address}/32" in line)
        (made,) = (line for line in lines if f"handle {found}: netem" in line)
        return made.partition("delay ")[2].split()[0]

    half_ms = topology.round_trip("california", "ohio") / 2
    assert delay(ohio.unit, place.address) == delay("clients", ohio.address) == f"{round(1000 * half_ms)}us"


class Kernel(Networked):
    """Does what it is told to a replica's network, and shows it."""

    def __init__(self) -> None:
        super().__init__("")
        self.shown: dict[str, dict[str, netem.Shaped]] = {}
        self.made = 0

    def in_network(self, folder: Path, layout: ClusterLayout, unit: ReplicaLayout | PlaceLayout, script: str) -> str:
        there = self.shown.setdefault(unit.unit, {})
        if " root handle" in script:
            self.made += 1
            there.clear()
        netems = re.findall(r"netem .* delay (\d+)us .*rate (\d+)bps", script)
        for address, (delay_us, rate) in zip(re.findall(r"match ip dst ([\d.]+)/32", script), netems, strict=True):
            there[address] = netem.Shaped(delay_ms=int(delay_us) / 1000, rate_bytes_s=float(rate))
        return unit.unit


def test_links_that_are_as_declared_are_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = load_topology("wan3")
    layout, driver = in_containers(), Kernel()
    layout.shaped_by = "netem"
    monkeypatch.setattr(netem, "read_back", lambda unit: dict(driver.shown[unit]))
    for number, replica in enumerate(layout.replicas):
        replica.region = topology.region_of(number)
    shape(driver, Path(), layout, topology, layout.replicas)
    shape(driver, Path(), layout, topology, layout.replicas)
    assert driver.made == 3, "each network once"
    layout.places = [PlaceLayout(region="california", address=place_address(layout, 0), unit="clients")]
    shape(driver, Path(), layout, topology, layout.replicas)
    assert driver.made == 3, "a client that comes is added"
    assert all(layout.places[0].address in links for links in driver.shown.values())
    driver.shown[layout.replicas[0].unit][layout.replicas[1].address] = netem.Shaped(delay_ms=1.0)
    shape(driver, Path(), layout, topology, layout.replicas)
    assert driver.made == 4, "and what is not as declared is made anew"


def test_where_there_is_no_place_for_clients_that_is_said(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", base_port=7001)
    assert "share the network of this machine" in cluster.place_clients([""])
    assert cluster.layout.places == []


def test_addresses_of_clients_never_meet_those_of_replicas() -> None:
    layout = in_containers()
    assert {place_address(layout, number) for number in range(54)}.isdisjoint(
        address_of(layout, ReplicaLayout(replica=number, client="", peer="")) for number in range(1, 191)
    )
    with pytest.raises(DriverError, match="no address left"):
        place_address(layout, 54)
    with pytest.raises(DriverError, match="no address left"):
        address_of(layout, ReplicaLayout(replica=191, client="", peer=""))


def test_who_is_started_in_a_container_for_clients_keeps_our_streams_and_gets_our_variables() -> None:
    place = PlaceLayout(region="ohio", address="10.201.0.254", unit="synod-5eed5eed-clients-1")
    command = DockerDriver().python_in(place, ["-m", "bench.load.generator"], {"GRPC_EXPERIMENTS": "some"})
    assert command == [
        *("docker", "exec", "--interactive", "--env", "GRPC_EXPERIMENTS=some", "synod-5eed5eed-clients-1"),
        *("python3", "-m", "bench.load.generator"),
    ]


def test_a_network_that_replicas_share_is_not_shaped_by_the_kernel(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--driver docker or namespace"):
        Cluster.create(tmp_path / "c", base_port=7001, topology="wan3", shaping="netem")
    with pytest.raises(ClusterError, match="there is no 'magic'"):
        Cluster.create(tmp_path / "c", base_port=7001, shaping="magic")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(("boot", "said"), [("5eed\n", ""), ("another\n", "containers run on another kernel")])
def test_clients_stay_out_of_containers_whose_clock_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, said: str
) -> None:
    (tmp_path / "boot_id").write_text("5eed\n")
    asked: list[tuple[str, ...]] = []

    def answer(*arguments: str, **_: object) -> str:
        asked.append(arguments)
        return boot if arguments[0] == "exec" else ""

    monkeypatch.setattr(docker, "docker", answer)
    monkeypatch.setattr(docker, "_state", lambda _: ("", 0))
    monkeypatch.setattr(docker, "BOOT", str(tmp_path / "boot_id"))
    layout = in_containers()
    layout.image, layout.topology = "synod:local", str(tmp_path / "mine.toml")
    place = PlaceLayout(region="ohio", address=place_address(layout, 0), unit="clients")
    refused = DockerDriver().make_place(layout, place)
    assert refused.startswith(said)
    assert bool(refused) == bool(said)
    made = " ".join(asked[0])
    assert f"--label {LABEL}={layout.cluster}" in made, "what has no label is not taken away"
    assert f"--ip {place.address}" in made
    assert f"--volume {layout.topology}:{layout.topology}:ro" in made, "the file means the same to a client there"


def test_a_replica_that_goes_just_when_it_is_to_be_killed_counts_as_stopped(tmp_path, monkeypatch):
    replica = ReplicaLayout(replica=1, client="", peer="")
    home = tmp_path.resolve() / "replica-1"
    home.mkdir()
    config = home / "config.toml"
    config.touch()
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", str(config)])
    driver = ProcessDriver()
    replica.process = process.pid
    patient = driver._wait_gone

    def too_late(folder: Path, replica: ReplicaLayout, timeout_s: float) -> bool:
        """It goes after the last look."""
        monkeypatch.setattr(driver, "_wait_gone", patient)
        process.wait()
        return False

    monkeypatch.setattr(driver, "_wait_gone", too_late)
    driver._await_command_line(tmp_path, replica)
    assert not driver.stop(tmp_path, replica, 0.0)
    assert not driver.alive(tmp_path, replica)
