"""ABD: what the literature and its implementations got wrong."""

from replica.consensus.abd import PROTOCOL
from replica.consensus.abd.planted import BUGS, planted
from replica.simulation.zoo import Specimen

CAUGHT_BY = {
    "versions without writer id": {"linearizability", "one record per stamp"},
    "reader without write-back": {"linearizability"},
    "acknowledged before its sync": {"linearizability"},
    "a stamp shared by two writes": {"linearizability", "one record per stamp"},
    "stamps used again after a crash": {"linearizability", "one record per stamp"},
}

RARE: set[str] = set()

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        operations=300,
        rare=bug in RARE,
    )
    for bug, consequence in BUGS.items()
)
