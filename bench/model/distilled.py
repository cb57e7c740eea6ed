"""The study's distilled formulas (SIGMOD 2019, section 6): a strategy in three numbers.

N replicas, L leaders, a quorum of Q (the leader included), conflict probability c, locality l (the share of requests
whose object is led where the client is). Sending is thrifty: a leader asks Q−1 peers and no more. Load is in messages
a request at the busiest replica, capacity in requests per unit of load.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import ModelError, not_negative, share

__all__ = ["STUDY_TABLE", "Strategy", "capacity", "follower_messages", "latency_ms", "leader_messages", "load"]


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol as the formulas see it."""

    name: str
    replicas: int
    quorum: int
    leaders: int
    conflict: float = 0.0
    locality: float = 0.0


def _valid(strategy: Strategy) -> Strategy:
    share("conflict", strategy.conflict)
    share("locality", strategy.locality)
    if not 1 <= strategy.quorum <= strategy.replicas:
        raise ModelError(f"quorum: {strategy.quorum} of {strategy.replicas} replicas cannot be had")
    if not 1 <= strategy.leaders <= strategy.replicas:
        raise ModelError(f"leaders: {strategy.leaders} of {strategy.replicas} replicas cannot lead")
    return strategy


def load(strategy: Strategy) -> float:
    """L(S) = (1+c)(Q+L−2)/L."""
    _valid(strategy)
    return (1 + strategy.conflict) * (strategy.quorum + strategy.leaders - 2) / strategy.leaders


def capacity(strategy: Strategy) -> float:
    """1 / L(S); infinite for a single replica, which exchanges no messages."""
    found = load(strategy)
    return 1 / found if found else float("inf")


def latency_ms(strategy: Strategy, *, to_leader_ms: float, quorum_ms: float) -> float:
    """Latency(S) = (1+c)((1−l)(D_L+D_Q) + l·D_Q), in ms.

    ``to_leader_ms`` D_L is the round trip between client and leader, ``quorum_ms`` D_Q that between leader and quorum.
    A leaderless protocol has l = 1; all the others have c = 0.
    """
    _valid(strategy)
    not_negative("to_leader_ms", to_leader_ms)
    not_negative("quorum_ms", quorum_ms)
    remote = (1 - strategy.locality) * (to_leader_ms + quorum_ms)
    return (1 + strategy.conflict) * (remote + strategy.locality * quorum_ms)


def leader_messages(replicas: int) -> int:
    """Messages that the leader handles in a round without thrift: N + 2."""
    return replicas + 2


def follower_messages() -> int:
    """Messages that a follower handles in a round."""
    return 2


STUDY_TABLE: Final = (
    Strategy(name="Paxos", replicas=9, quorum=5, leaders=1),
    Strategy(name="EPaxos", replicas=9, quorum=5, leaders=9, locality=1.0),
    Strategy(name="WPaxos 3×3", replicas=9, quorum=3, leaders=3),
)
"""The three that the study compares at N = 9: loads 4, 4/3·(1+c) and 4/3."""
