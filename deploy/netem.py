"""Shapes real networks: from a topology to commands of ``tc``, and from what ``tc`` shows back to what there is.

Every replica shapes what it *sends*, peer by peer, so that a pair is shaped once in each direction. On the replica's
device stands one tree:

    htb 1:            sorts packets; what is for nobody known goes through class 1:1, untouched
      class 1:10      what goes to the first peer (a u32 filter on the destination)
        netem 10:     delay, jitter and its distribution, loss, rate
      class 1:11      the second peer, and so on

The classes of htb are wide open; the rate is netem's own, which queues as a line does. It is always stated, because
netem lets packets of a link without a rate overtake each other as soon as there is jitter, and a topology's links keep
their order. What is lost here is a packet, which TCP sends again; the transport's shaping loses messages instead.

The functions are pure: they make text for a shell and read text from one. Who runs it, and in whose network, is the
driver's business (`deploy.drivers`). Partitions are routes: a route that is a black hole needs neither netem nor a
firewall.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from deploy.topology import OneWay

__all__ = [
    "DELAY_TOLERANCE_MS",
    "NO_NETEM",
    "Shaped",
    "block_script",
    "extend_script",
    "is_missing",
    "probe_script",
    "read_back",
    "shape_script",
    "show_script",
    "unshape_script",
]

NO_NETEM: Final = "this kernel has no netem"

FIRST_CLASS: Final = 0x10
"""The class of the first peer; 1:1 is that of everybody else."""

OPEN_BYTES_S: Final = 1_250_000_000
"""What a link without a limit gets: ten gigabits a second."""

QUEUED_PACKETS_MAX: Final = 100_000
"""What a link holds that is under way; netem drops what goes beyond it. Enough for 10 gigabits over 100 ms."""

DELAY_TOLERANCE_MS: Final = 0.01
"""The kernel keeps delays in ticks, and shows them cut off to a microsecond."""

LOSS_TOLERANCE: Final = 1e-4
RATE_TOLERANCE: Final = 0.01

_MARK: Final = "--filters--"
_MISSING: Final = ("qdisc kind is unknown", "qdisc not found", "No such file or directory", "is unknown")


class Shaped(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel says that it does to packets for one peer."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_bytes_s: float = 0.0

    def differs(self, wanted: OneWay) -> str:
        """What is not as wanted, in words; empty when all is."""
        found = []
        if abs(self.delay_ms - wanted.delay_ms) > DELAY_TOLERANCE_MS:
            found.append(f"delay {self.delay_ms:g} ms instead of {wanted.delay_ms:g}")
        if abs(self.jitter_ms - wanted.jitter_ms) > DELAY_TOLERANCE_MS:
            found.append(f"jitter {self.jitter_ms:g} ms instead of {wanted.jitter_ms:g}")
        if abs(self.loss - wanted.loss) > LOSS_TOLERANCE:
            found.append(f"loss {self.loss:g} instead of {wanted.loss:g}")
        rate = wanted.rate_bytes_s or OPEN_BYTES_S
        if abs(self.rate_bytes_s - rate) > RATE_TOLERANCE * rate:
            found.append(f"rate {self.rate_bytes_s:g} bytes/s instead of {rate:g}")
        return ", ".join(found)


def probe_script(device: str = "lo") -> str:
    """Fails, with what `is_missing` knows, where the kernel has no netem."""
    return f"tc qdisc add dev {device} root netem delay 1ms && tc qdisc del dev {device} root"


def is_missing(said: str) -> bool:
    """Is that how ``tc`` says that the kernel does not have what was asked for?"""
    return any(part in said for part in _MISSING)


def shape_script(device: str, peers: Mapping[str, OneWay]) -> str:
    """Commands that make ``device`` send to each address as its link says, whatever was there before.

    What is under way then is lost.
    """
    lines = [
        "set -e",
        f"tc qdisc del dev {device} root 2>/dev/null || true",
        f"tc qdisc add dev {device} root handle 1: htb default 1",
        f"tc class add dev {device} parent 1: classid 1:1 htb rate {OPEN_BYTES_S}bps quantum 60000",
    ]
    return "\n".join([*lines, *_peers(device, peers, before=0)])


def extend_script(device: str, peers: Mapping[str, OneWay], *, before: int) -> str:
    """Commands that add peers to the ``before`` ones that a script of this module made. Nothing is lost meanwhile."""
    return "\n".join(["set -e", *_peers(device, peers, before=before)])


def _peers(device: str, peers: Mapping[str, OneWay], *, before: int) -> list[str]:
    lines = []
    for index, (address, link) in enumerate(peers.items(), start=before):
        minor, host = f"{FIRST_CLASS + index:x}", ipaddress.IPv4Address(address)
        # Replaced, since a script that was cut short may have left a class without its filter.
        lines += [
            f"tc class replace dev {device} parent 1: classid 1:{minor} htb rate {OPEN_BYTES_S}bps quantum 60000",
            f"tc qdisc replace dev {device} parent 1:{minor} handle {minor}: netem {_netem(link)}",
            f"tc filter add dev {device} parent 1: protocol ip prio 1 u32 match ip dst {host}/32 flowid 1:{minor}",
        ]
    return lines


def _netem(link: OneWay) -> str:
    words = [f"limit {QUEUED_PACKETS_MAX}", f"delay {_ms(link.delay_ms)}"]
    if link.jitter_ms:
        words.append(_ms(link.jitter_ms))
        if link.jitter_shape == "normal":
            words.append("distribution normal")  # without a distribution netem's jitter is uniform
    if link.loss:
        words.append(f"loss {100 * link.loss:.6f}%")
    words.append(f"rate {round(link.rate_bytes_s or OPEN_BYTES_S)}bps")
    return " ".join(words)


def _ms(value: float) -> str:
    return f"{round(1000 * value)}us"


def unshape_script(device: str) -> str:
    """Takes away whatever `shape_script` made."""
    return f"tc qdisc del dev {device} root 2>/dev/null || true"


def show_script(device: str) -> str:
    """Shows what `read_back` reads."""
    return f"tc -j qdisc show dev {device} && echo {_MARK} && tc filter show dev {device} parent 1:"


def read_back(shown: str) -> dict[str, Shaped]:
    """By destination, what the kernel does. Raises ValueError for text that `show_script` does not print."""
    disciplines, mark, filters = shown.partition(_MARK)
    if not mark:
        raise ValueError(f"tc showed no filters: {shown.strip()[:200]!r}")
    by_class: dict[str, Shaped] = {}
    for entry in json.loads(disciplines or "[]"):
        if entry.get("kind") == "netem":
            by_class[str(entry["parent"]).lower()] = _shaped(entry.get("options", {}))
    found: dict[str, Shaped] = {}
    flow = ""
    for line in filters.splitlines():
        named = re.search(r"flowid ([0-9a-f]+:[0-9a-f]+)", line)
        if named:
            flow = named.group(1)
        matched = re.search(r"match ([0-9a-f]{8})/ffffffff at 16", line)
        if matched and flow in by_class:
            found[str(ipaddress.IPv4Address(int(matched.group(1), 16)))] = by_class[flow]
    return found


def _shaped(options: Mapping[str, Any]) -> Shaped:
    delay = options.get("delay") or {}
    loss = options.get("loss-random") or {}
    rate = options.get("rate") or {}
    return Shaped(
        delay_ms=round(1000 * float(delay.get("delay", 0.0)), 6),
        jitter_ms=round(1000 * float(delay.get("jitter", 0.0)), 6),
        loss=float(loss.get("loss", 0.0)),
        rate_bytes_s=float(rate.get("rate", 0.0)),
    )


def block_script(blocked: Collection[str], others: Collection[str]) -> str:
    """Commands after which nothing goes to the addresses of ``blocked``, and all that is for ``others`` goes again."""
    lines = ["set -e"]
    lines += [f"ip route del blackhole {address}/32 2>/dev/null || true" for address in sorted(others)]
    lines += [f"ip route replace blackhole {address}/32" for address in sorted(blocked)]
    return "\n".join(lines)
