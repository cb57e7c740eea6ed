"""What a message costs: the constants of the model, the study's and those measured on this machine.

``t_in_ms`` and ``t_out_ms`` are the processor time to take a message in and to send one, whatever is in it; a broadcast
is serialised once, so it counts as one message out. ``wire_ms`` is what a message of ``message_bytes`` keeps a network
interface of ``bandwidth_mbps`` busy.

The study prints neither t_in nor t_out. Those in its authors' code (0.025 and 0.001 ms, 100-byte messages, 110 for
EPaxos, 980 Mb/s) give a Paxos of nine replicas 4 140 operations a second, where the figures of its LAN model show about
9 000; that needs a t_in of about 0.0105 ms. Both sets are here, and whatever reproduces the study shows both.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import not_negative, positive


class MessageCosts(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of processor time a message, and the wire."""

    name: str
    t_in_ms: float
    t_out_ms: float
    message_bytes: int = 100
    bandwidth_mbps: float = 980.0
    penalty: float = 1.0
    """Both times are multiplied by it for protocols that compute dependencies (the authors' code: 2)."""

    def __post_init__(self) -> None:
        not_negative("t_in_ms", self.t_in_ms)
        not_negative("t_out_ms", self.t_out_ms)
        positive("message_bytes", self.message_bytes)
        positive("bandwidth_mbps", self.bandwidth_mbps)
        positive("penalty", self.penalty)

    @property
    def wire_ms(self) -> float:
        """How long one message keeps the interface busy: s_m / b."""
        return self.message_bytes * 8 / (self.bandwidth_mbps * 1e3)


STUDY_CODE: Final = MessageCosts(name="the study's code", t_in_ms=0.025, t_out_ms=0.001)
"""The defaults in the authors' code."""

STUDY_CODE_EPAXOS: Final = MessageCosts(
    name="the study's code, EPaxos", t_in_ms=0.025, t_out_ms=0.001, message_bytes=110
)
"""The same for EPaxos, whose messages carry dependencies, without the penalty."""

STUDY_FIGURES: Final = MessageCosts(name="fitted to the study's figures", t_in_ms=0.0105, t_out_ms=0.001)
"""What its LAN figures need, with the wire term."""
