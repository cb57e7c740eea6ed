"""EPaxos: what its publication and its implementations got wrong.

Not here: "single-ballot recovery". It takes four ballots of one instance in a row, each heard by the right few, which
whole runs hardly ever contain; `tests.unit.consensus.egalitarian.Ambush` draws such schedules and finds it within a
hundred, and `tests.unit.consensus.test_epaxos` tells the published one as a story.
"""

from replica.consensus.epaxos import PROTOCOL
from replica.consensus.epaxos.planted import BUGS, planted
from replica.simulation.zoo import Specimen

CAUGHT_BY = {
    "executes ignoring dependencies": {"one order per key", "linearizability"},
    "vote before its sync": {"one value per slot", "one order per key", "invariants of the protocol"},
    "instance minted twice": {"one value per slot", "one order per key", "invariants of the protocol"},
}

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=BUGS[bug],
        caught_by=frozenset(checks),
        spec=planted(bug),
        sound=PROTOCOL,
    )
    for bug, checks in CAUGHT_BY.items()
)
