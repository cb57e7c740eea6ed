"""The configuration of a node: where values come from, and what is said about those that cannot be."""

from pathlib import Path
from typing import Any

import pytest

from replica.consensus.interface import ConfigurationError
from replica.node.config import load_config, split_address

MINIMAL = """
cluster = "demo"
replica = 1
data = "/tmp/demo"

[[members]]
replica = 1
peer = "127.0.0.1:7101"
client = "127.0.0.1:7001"

[protocol]
name = "null"
"""


@pytest.fixture
def write(tmp_path):
    def write(text=MINIMAL):
        path = tmp_path / "node.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problem_of(path: Path, **given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_config(path, **given)
    return str(caught.value)


def test_a_minimal_file_is_completed_by_defaults_that_are_safe(write):
    config = load_config(write())
    assert config.durability == "sync"
    assert config.listen.peer.startswith("127.0.0.1:")
    assert config.listen.client.startswith("127.0.0.1:")
    assert not config.listen.metrics
    assert not config.enable_fault_injection
    assert not config.bootstrap


def test_a_variable_stands_before_the_file_and_a_flag_before_both(write):
    path = write(MINIMAL + '\n[listen]\nclient = "127.0.0.1:1"\npeer = "127.0.0.1:2"\nmetrics = "127.0.0.1:3"\n')
    environment = {"SYNOD_LISTEN_CLIENT": "127.0.0.1:11", "SYNOD_LISTEN_PEER": "127.0.0.1:12"}
    config = load_config(path, environment=environment, flags={"listen.client": "127.0.0.1:21"})
    assert (config.listen.client, config.listen.peer, config.listen.metrics) == (
        "127.0.0.1:21",
        "127.0.0.1:12",
        "127.0.0.1:3",
    )


def test_without_a_file_everything_can_come_from_the_environment():
    config = load_config(
        environment={
            "SYNOD_CLUSTER": "demo",
            "SYNOD_REPLICA": "2",
            "SYNOD_DATA": "/data",
            "SYNOD_MEMBERS": "1=a:1/a:2@west/w1, 2=b:1/b:2",
            "SYNOD_PROTOCOL_NAME": "null",
            "SYNOD_ENABLE_FAULT_INJECTION": "true",
            "SYNOD_LIMITS_SESSIONS_ATTACHED_MAX": "7",
        }
        | {"SYNOD_MEMBERS": "2=b:1/b:2@west/w1"}
    )
    assert config.replica == 2
    assert config.enable_fault_injection
    assert config.limits.sessions_attached_max == 7
    (member,) = config.members
    assert (member.peer, member.client, member.region, member.zone) == ("b:1", "b:2", "west", "w1")


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (("replica = 1\ndata", "data"), "replica", "required"),
        (('data = "/tmp/demo"', ""), "data", "required"),
        (('data = "/tmp/demo"', "data = 7"), "data", "expected"),
        (('cluster = "demo"', 'cluster = ""'), "cluster", "empty"),
        (('cluster = "demo"', 'cluster = "demo"\ncolour = "red"'), "colour", "no such field"),
        (("[protocol]", '[listen]\npeer = "localhost"\n[protocol]'), "listen.peer", "HOST:PORT"),
        (("[protocol]", '[listen]\npeers = "localhost:1"\n[protocol]'), "listen.peers", "there are: peer, client"),
        (
            ("[protocol]", '[listen]\npeer = "127.0.0.1:5"\nclient = "127.0.0.1:5"\n[protocol]'),
            "listen.client",
            "already that of listen.peer",
        ),
        (("[[members]]", 'durability = "maybe"\n[[members]]'), "durability", "maybe"),
        (("[[members]]", "batch_max = 0\n[[members]]"), "batch_max", "less than 1"),
        (("[[members]]", "bootstrap = true\njoin = true\n[[members]]"), "join", "not both"),
        (('peer = "127.0.0.1:7101"', 'peer = "nowhere"'), "members[0].peer", "HOST:PORT"),
        (("[protocol]", '[[members]]\nreplica = 1\npeer = "h:1"\n[protocol]'), "members[1].replica", "more than once"),
        (("[protocol]", "[limits]\nqueued_operations_max = 0\n[protocol]"), "limits.queued_operations_max", "positive"),
        (("[protocol]", "[limits]\nframe_bytes_max = 1000\n[protocol]"), "limits.frame_bytes_max", "largest size"),
        (("[protocol]", "[snapshot]\nevery_positions = -1\n[protocol]"), "snapshot.every_positions", "never"),
        (("[protocol]", "[compaction]\nkeep_revisions = -1\n[protocol]"), "compaction.keep_revisions", "negative"),
        (("[protocol]", "[compaction]\nkeep_s = inf\n[protocol]"), "compaction.keep_s", "not a time"),
        (("[protocol]", "[compaction]\nevery_s = 0\n[protocol]"), "compaction.every_s", "positive"),
        (("[protocol]", "[compaction]\nkeep_s = 1e6\nevery_s = 1\n[protocol]"), "compaction.every_s", "too often"),
        (
            ('[protocol]\nname = "null"', '[compaction]\nkeep_s = 1\n[protocol]\nname = "abd"'),
            "compaction",
            "by object",
        ),
        (('name = "null"', 'name = "raftish"'), "protocol", "multipaxos, null, raft"),
        (('name = "null"', 'name = "null"\n[protocol.options]\nspeed = 3'), "protocol.options.speed", "no such option"),
    ],
)
def test_a_wrong_value_is_reported_by_the_name_of_its_field(write, change, field, words):
    before, after = change
    assert before in MINIMAL
    problem = problem_of(write(MINIMAL.replace(before, after)))
    assert problem.startswith(field), problem
    assert words in problem
    assert "\n" not in problem


def test_a_replica_must_be_among_the_members_unless_it_joins(write):
    path = write()
    problem = problem_of(path, flags={"replica": 4})
    assert problem.startswith("replica: 4 is not among the members (1)")
    assert "--join" in problem
    assert load_config(path, flags={"replica": 4, "join": True}).replica == 4


def test_quorums_that_do_not_intersect_are_refused(write):
    members = "1=a:1/a:2,2=b:1/b:2,3=c:1/c:2,4=d:1/d:2"
    flags = {"members": members, "protocol.name": "fpaxos", "protocol.options": "q1=2,q2=2"}
    problem = problem_of(write(), flags=flags)
    assert "intersect" in problem


def test_a_variable_that_cannot_be_read_is_named(write):
    problem = problem_of(write(), environment={"SYNOD_BATCH_MAX": "many"})
    assert problem.startswith("batch_max: ")
    assert "SYNOD_BATCH_MAX" in problem


def test_a_way_to_read_that_the_protocol_lacks_is_refused(write):
    problem = problem_of(write(), flags={"reads": "lease"})
    assert problem.startswith("reads: ")


def test_reads_by_lease_are_offered_where_the_options_of_the_protocol_ask_for_leases(write):
    flags = {"protocol.name": "raft", "reads": "lease"}
    assert problem_of(write(), flags=flags).startswith("reads: protocol 'raft' has no reads by 'lease'")
    assert load_config(write(), flags={**flags, "protocol.options": "lease_s=0.3"}).reads == "lease"


def test_a_file_that_is_missing_or_is_not_toml_is_one_line(write, tmp_path):
    assert "cannot be read" in problem_of(tmp_path / "absent.toml")
    assert "is not TOML" in problem_of(write("cluster = "))


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:port", "host:70000", "::1:80"])
def test_an_address_without_host_or_port_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_address(text)


def test_an_address_of_the_sixth_version_stands_in_brackets():
    assert split_address("[::1]:80") == ("::1", 80)
