"""EPaxos: what its publication and its implementations got wrong."""

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.planted import BUGS, planted
from replica.simulation.zoo import Specimen

DIVERGED = {
    "one value per slot",
    "one order per key",
    "invariants of the protocol",
    "one value per instance",
    "one decision per instance",
    "interference is seen",
}

CAUGHT_BY = {
    "executes ignoring dependencies": {"one order per key", "linearizability"},
    "single-ballot recovery": DIVERGED,
    "vote before its sync": DIVERGED,
    "instance minted twice": DIVERGED,
}

IMPATIENT = {"single-ballot recovery"}
"""Shows when an instance is recovered again and again, by one after the other: nobody waits long."""

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        options={"recovery_s": 0.05} if bug in IMPATIENT else {},
    )
    for bug, consequence in BUGS.items()
)
