"""Commands of ``tc`` from a topology, and what ``tc`` shows, read back."""

from __future__ import annotations

import pytest

from deploy import netem
from deploy.netem import Shaped
from deploy.topology import OneWay, load_topology

FAR = OneWay(delay_ms=25.3, jitter_ms=0.5, jitter_shape="normal", loss=0.01, rate_bytes_s=2_500_000)
NEAR = OneWay(delay_ms=0.13, jitter_ms=0.0, jitter_shape="normal", loss=0.0, rate_bytes_s=0.0)

# What iproute2 6.1 shows on Linux 6.1 after the script of `test_each_peer_has_a_class…`.
SHOWN = """[{"kind":"htb","handle":"1:","root":true,"refcnt":2,"options":{"r2q":10,"default":"0x1"}},\
{"kind":"netem","handle":"10:","parent":"1:10","options":{"limit":100000,"delay":{"delay":0.0253,"jitter":0.0005,\
"correlation":0},"loss-random":{"loss":0.01,"correlation":0},"rate":{"rate":2500000,"packetoverhead":0,\
"cellsize":0,"celloverhead":0},"ecn":false,"gap":0}},\
{"kind":"netem","handle":"11:","parent":"1:11","options":{"limit":100000,"delay":{"delay":0.00013,"jitter":0,\
"correlation":0},"rate":{"rate":1250000000},"ecn":false,"gap":0}}]
--filters--
filter protocol ip pref 1 u32 chain 0
filter protocol ip pref 1 u32 chain 0 fh 800: ht divisor 1
filter protocol ip pref 1 u32 chain 0 fh 800::800 order 2048 key ht 800 bkt 0 *flowid 1:10 not_in_hw
  match 0ac9010c/ffffffff at 16
filter protocol ip pref 1 u32 chain 0 fh 800::801 order 2049 key ht 800 bkt 0 *flowid 1:11 not_in_hw
  match 0ac9010d/ffffffff at 16
"""


def test_each_peer_has_a_class_a_netem_and_a_filter_of_its_own() -> None:
    script = netem.shape_script("eth0", {"10.201.1.12": FAR, "10.201.1.13": NEAR}).splitlines()
    assert script[0] == "set -e"
    assert "tc qdisc add dev eth0 root handle 1: htb default 1" in script
    assert (
        "tc qdisc replace dev eth0 parent 1:10 handle 10: netem limit 100000 delay 25300us 500us distribution normal "
        "loss 1.000000% rate 2500000bps" in script
    )
    assert "tc filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 10.201.1.12/32 flowid 1:10" in script
    assert "tc filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 10.201.1.13/32 flowid 1:11" in script


def test_peers_that_come_later_get_classes_of_their_own_and_what_is_there_stays() -> None:
    script = netem.extend_script("eth0", {"10.0.0.9": NEAR}, before=2).splitlines()
    assert not any(" root" in line for line in script)
    assert script[-1].endswith("match ip dst 10.0.0.9/32 flowid 1:12")


def test_a_link_without_a_limit_states_a_rate_all_the_same_so_that_packets_keep_their_order() -> None:
    near = next(line for line in netem.shape_script("eth0", {"10.0.0.2": NEAR}).splitlines() if "netem" in line)
    assert near.endswith(f"delay 130us rate {netem.OPEN_BYTES_S}bps")


def test_uniform_jitter_names_no_distribution() -> None:
    link = OneWay(delay_ms=5.0, jitter_ms=1.0, jitter_shape="uniform", loss=0.0, rate_bytes_s=0.0)
    script = netem.shape_script("eth0", {"10.0.0.2": link})
    assert "delay 5000us 1000us rate" in script


def test_many_peers_have_classes_in_the_numbers_that_tc_reads() -> None:
    topology = load_topology("wan13")
    peers = {
        f"10.0.0.{index + 2}": topology.link_between(topology.regions.names[0], name)
        for index, name in enumerate(topology.regions.names)
    }
    script = netem.shape_script("eth0", peers)
    handles = {line.split("handle ")[1].split()[0] for line in script.splitlines() if "netem" in line}
    assert len(handles) == 13
    assert "1c:" in handles, "tc reads classes as hexadecimal numbers"


def test_what_is_no_address_never_gets_into_a_shell() -> None:
    with pytest.raises(ValueError, match="reboot"):
        netem.shape_script("eth0", {"10.0.0.2; reboot": NEAR})


def test_what_the_kernel_shows_is_read_back_by_destination() -> None:
    found = netem.read_back(SHOWN)
    assert found == {
        "10.201.1.12": Shaped(delay_ms=25.3, jitter_ms=0.5, loss=0.01, rate_bytes_s=2_500_000),
        "10.201.1.13": Shaped(delay_ms=0.13, rate_bytes_s=1_250_000_000),
    }
    assert found["10.201.1.12"].differs(FAR) == ""
    assert found["10.201.1.13"].differs(NEAR) == ""


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (Shaped(delay_ms=25.0, jitter_ms=0.5, loss=0.01, rate_bytes_s=2_500_000), "delay 25 ms instead of 25.3"),
        (Shaped(delay_ms=25.3, jitter_ms=0.0, loss=0.01, rate_bytes_s=2_500_000), "jitter 0 ms"),
        (Shaped(delay_ms=25.3, jitter_ms=0.5, loss=0.0, rate_bytes_s=2_500_000), "loss 0 instead"),
        (Shaped(delay_ms=25.3, jitter_ms=0.5, loss=0.01, rate_bytes_s=5_000_000), "rate 5e"),
    ],
)
def test_a_link_that_the_kernel_made_otherwise_is_named(shown: Shaped, said: str) -> None:
    assert said in shown.differs(FAR)


def test_text_that_tc_does_not_print_is_refused() -> None:
    with pytest.raises(ValueError, match="no filters"):
        netem.read_back("[]")


def test_a_kernel_without_netem_is_told_from_other_troubles() -> None:
    assert netem.is_missing("Error: Specified qdisc kind is unknown.")
    assert not netem.is_missing("RTNETLINK answers: Operation not permitted")


def test_a_partition_blocks_some_addresses_and_frees_the_others() -> None:
    lines = netem.block_script({"10.0.0.3"}, {"10.0.0.2", "10.0.0.3"}).splitlines()
    assert lines[-1] == "ip route replace blackhole 10.0.0.3/32"
    assert "ip route del blackhole 10.0.0.2/32 2>/dev/null || true" in lines
