"""Which witness watches which protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from replica.simulation.abd_witness import AbdWitness
from replica.simulation.epaxos_witness import EPaxosWitness
from replica.simulation.raft_witness import RaftWitness
from replica.simulation.witness import MultiPaxosWitness, SoloWitness, Witness
from replica.simulation.wpaxos_witness import WPaxosWitness

WITNESSES: Final[Mapping[str, Callable[[], Witness]]] = {
    "multipaxos": MultiPaxosWitness,
    "fpaxos": MultiPaxosWitness,
    "null": SoloWitness,
    "abd": AbdWitness,
    "epaxos": EPaxosWitness,
    "raft": RaftWitness,
    "wpaxos": WPaxosWitness,
}
"""By the protocol's name."""
