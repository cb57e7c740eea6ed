"""Which witness watches which protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from replica.simulation.raft_witness import RaftWitness
from replica.simulation.witness import MultiPaxosWitness, SoloWitness, Witness

WITNESSES: Final[Mapping[str, Callable[[], Witness]]] = {
    "multipaxos": MultiPaxosWitness,
    "fpaxos": MultiPaxosWitness,
    "null": SoloWitness,
    "raft": RaftWitness,
}
"""By the protocol's name."""
