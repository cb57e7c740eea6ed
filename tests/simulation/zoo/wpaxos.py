"""WPaxos: what its publication and its implementations got wrong."""

from replica.consensus.wpaxos import PROTOCOL
from replica.consensus.wpaxos.planted import BUGS, planted
from replica.simulation.zoo import Specimen

DIVERGED = {"one value per slot", "one order per key", "invariants of the protocol"}

CAUGHT_BY = {
    "steal drops the decided prefix": DIVERGED,
    "quorums that do not intersect": DIVERGED,
    "vote before its sync": {"decided implies durable", *DIVERGED},
    "promise lost on restart": {"promises are kept", *DIVERGED},
    "steal leaves the sessions behind": {"state digests", "exactly once"},
}

WIDE = {"quorums that do not intersect"}
"""Shows where two phase-2 quorums can miss each other: two zones of five."""

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        replicas=5 if bug in WIDE else 3,
        operations=300,
    )
    for bug, consequence in BUGS.items()
)
