"""The simulated part of what a mutant has to survive: ``python -m tests.mutation.seeds``. The first failure ends it."""

from replica.consensus.interface import Options, ProtocolSpec
from replica.consensus.multipaxos import FPAXOS, PROTOCOL
from replica.simulation import run

SEEDS: tuple[tuple[ProtocolSpec, int, Options, int], ...] = (
    (PROTOCOL, 3, {}, 24),
    (PROTOCOL, 5, {}, 12),
    (FPAXOS, 5, {"q1": 4, "q2": 2}, 4),
    (FPAXOS, 5, {"q1": 2, "q2": 4}, 4),
    (PROTOCOL, 1, {}, 2),
)
"""Protocol, replicas, options, and how many seeds of them."""


def main() -> None:
    for spec, replicas, options, number in SEEDS:
        for seed in range(number):
            run(seed, spec, replicas, options=options)


if __name__ == "__main__":
    main()
