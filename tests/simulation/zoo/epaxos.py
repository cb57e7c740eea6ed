"""EPaxos: what its publication and its implementations got wrong."""

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.planted import BUGS, planted
from replica.simulation.zoo import Specimen

CAUGHT_BY = {
    "executes ignoring dependencies": {"one order per key", "linearizability"},
    "single-ballot recovery": {"one value per slot", "one order per key", "invariants of the protocol"},
    "vote before its sync": {"one value per slot", "one order per key", "invariants of the protocol"},
    "instance minted twice": {"one value per slot", "one order per key", "invariants of the protocol"},
}

RARE = {"single-ballot recovery"}

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        replicas=5 if bug == "single-ballot recovery" else 3,
        rare=bug in RARE,
    )
    for bug, consequence in BUGS.items()
)
