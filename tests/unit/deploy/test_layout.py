"""What a cluster folder says, and what is refused before anything starts."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from deploy import Cluster, ClusterError
from deploy.drivers.base import FIRST_FREE_PORT, free_ports
from deploy.layout import FILE_NAME, FORMAT
from deploy.node_config import render
from deploy.topology import TopologyError, available, load_topology

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_a_cluster_is_found_again_as_it_was_described(tmp_path: Path) -> None:
    made = Cluster.create(tmp_path / "c", replicas=5, base_port=7001, protocol="fpaxos", options={"q1": 4, "q2": 2})
    found = Cluster.open(tmp_path / "c")
    assert found.layout == made.layout
    assert found.endpoints == [f"127.0.0.1:{port}" for port in range(7001, 7006)]
    assert len({replica.peer for replica in found.layout.replicas}) == 5


def test_free_ports_are_all_different(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", replicas=5, base_port=0, metrics=True)
    addresses = [address for r in cluster.layout.replicas for address in (r.client, r.peer, r.metrics)]
    assert len(set(addresses)) == 15


@pytest.mark.skipif(not OUTGOING.exists(), reason="this system does not say which ports it gives to connections")
def test_no_free_port_is_one_that_an_outgoing_connection_may_take() -> None:
    first, last = map(int, OUTGOING.read_text().split())
    if first <= FIRST_FREE_PORT + 1:
        pytest.skip("nearly all ports may be given to connections here")
    assert not [port for port in free_ports(50) if first <= port <= last]


def test_the_configuration_of_a_replica_says_what_the_layout_says(tmp_path: Path) -> None:
    cluster = Cluster.create(
        tmp_path / "c",
        base_port=7001,
        options={"heartbeat_s": 0.1},
        node={"durability": "none", "log": {"level": "debug"}},
    )
    first = cluster.layout.replicas[0]
    text = render(cluster.layout, first, data=tmp_path / 'a "quoted" folder')
    config = tomllib.loads(text)
    assert config["data"] == str(tmp_path / 'a "quoted" folder')
    assert config["listen"] == {"peer": first.peer, "client": first.client, "metrics": ""}
    assert config["protocol"] == {"name": "multipaxos", "options": {"heartbeat_s": 0.1}}
    assert config["durability"] == "none"
    assert config["log"] == {"level": "debug"}
    assert [member["replica"] for member in config["members"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"protocol": "paxoss"}, "multipaxos"),
        ({"protocol": "fpaxos", "options": {"q1": 1, "q2": 1}}, "intersect"),
        ({"options": {"heartbeats": 1}}, "heartbeats"),
        ({"node": {"durability": "perhaps"}}, "durability"),
        ({"topology": "mars"}, "wan3"),
        ({"driver": "pigeon"}, "process"),
        ({"replicas": 0}, "replicas"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_leaves_no_cluster(
    tmp_path: Path, wrong: dict[str, object], named: str
) -> None:
    with pytest.raises(ClusterError, match=named) as refusal:
        Cluster.create(tmp_path / "c", base_port=7001, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    assert not Cluster.exists(tmp_path / "c")


def test_a_folder_that_holds_a_cluster_is_not_described_anew(tmp_path: Path) -> None:
    Cluster.create(tmp_path / "c", base_port=7001)
    with pytest.raises(ClusterError, match="holds a cluster already"):
        Cluster.create(tmp_path / "c", base_port=7001)


def test_a_folder_without_a_cluster_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="synod cluster up"):
        Cluster.open(tmp_path)


def test_a_damaged_or_newer_description_is_refused(tmp_path: Path) -> None:
    Cluster.create(tmp_path / "c", base_port=7001)
    path = tmp_path / "c" / FILE_NAME
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(ClusterError, match="cannot be read"):
        Cluster.open(tmp_path / "c")
    path.write_text(text.replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}'))
    with pytest.raises(ClusterError, match="newer release"):
        Cluster.open(tmp_path / "c")


def test_a_replica_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", base_port=7001)
    with pytest.raises(ClusterError, match=r"no replica 9 .*1, 2, 3"):
        cluster.kill(9)


def test_a_replica_that_does_not_run_cannot_be_killed(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", base_port=7001)
    with pytest.raises(ClusterError, match="not running"):
        cluster.kill(1)


def test_a_process_id_that_the_system_gave_to_somebody_else_is_left_alone(tmp_path: Path) -> None:
    cluster = Cluster.create(tmp_path / "c", base_port=7001)
    cluster.layout.replica(1).process = os.getpid()
    with pytest.raises(ClusterError, match="not running"):
        cluster.kill(1)


@pytest.mark.parametrize("name", available())
def test_every_topology_that_is_shipped_states_all_round_trips(name: str) -> None:
    topology = load_topology(name)
    names = topology.regions.names
    for one in names:
        for other in names:
            assert topology.round_trip(one, other) == topology.round_trip(other, one)
            assert one == other or topology.round_trip(one, other) > 0


def test_a_link_of_its_own_stands_for_the_shared_one() -> None:
    topology = load_topology("edge")
    there, back = topology.link_between("cloud", "mobile"), topology.link_between("mobile", "cloud")
    assert there == back
    assert there.delay_ms == 22.5
    assert there.loss == 0.01
    assert there.rate_bytes_s == 2_500_000
    assert topology.link_between("cloud", "cloud").loss == 0
    assert topology.shaped


def test_one_room_without_delays_is_not_shaped() -> None:
    assert not load_topology("lan").shaped
    assert load_topology("lan").link_between("local", "local").harmless


def test_round_trips_of_five_regions_are_those_that_were_published() -> None:
    topology = load_topology("wan5")
    assert topology.round_trip("japan", "ireland") == 204.4
    assert topology.round_trip("virginia", "ohio") == 10.5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[regions]\nnames = ["a", "b"]\n', "nothing is said of a.b"),
        ('[regions]\nnames = ["a", "a"]\n', "distinct"),
        ('[regions]\nnames = ["a", "b"]\n[round_trip_ms]\n"a.b" = -1\n', "not a duration"),
        ('[regions]\nnames = ["a", "b"]\n[round_trip_ms]\n"a.c" = 1\n', "a.c"),
        ('[regions]\nnames = ["a"]\n[link]\nloss = 1.5\n', "probability"),
        ('[regions]\nnames = ["a"]\ncolour = "red"\n', "colour"),
        ('[regions]\nnames = ["a"]\n[links."a.b"]\nloss = 0.1\n', "links: 'a.b'"),
        ('[regions]\nnames = ["a"]\n[links."a.a"]\nbandwidth_mbit_s = -1\n', "links.a.a.bandwidth_mbit_s"),
        ('[regions]\nnames = ["a"]\n[link]\njitter_shape = "round"\n', "jitter_shape"),
        ("[regions", "topology"),
    ],
)
def test_a_topology_that_cannot_be_used_names_the_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(TopologyError, match=named):
        load_topology(str(path))
