"""MultiPaxos: what the literature and its implementations got wrong."""

from replica.consensus.multipaxos import PROTOCOL
from replica.consensus.multipaxos.planted import BUGS, planted
from replica.simulation.zoo import Specimen

CAUGHT_BY = {
    "phase 1b omits decided slots": {"one value per slot", "acknowledged implies decided", "liveness"},
    "gaps never filled": {"liveness"},
    "commit applied to an entry of an older ballot": {"one value per slot", "decided implies durable"},
    "promise lost on restart": {"promises are kept"},
    "vote counted before its sync": {"decided implies durable"},
    "duplicate acknowledgements counted twice": {"decided implies durable"},
    "log completion matched by slot only": {"decided implies durable"},
    "quorums that do not intersect": {"one value per slot", "prefixes", "invariants of the protocol"},
    "any vote adopted": {"one value per slot"},
    "phase 1b counted before it is whole": {"one value per slot"},
    "ballot used before it is durable": {"one value per slot and ballot", "promises are kept"},
    "read granted without a round": {"linearizability"},
    "read granted before recovery": {"linearizability"},
    "snapshot erases votes above it": {"one value per slot"},
    "no poll before a campaign": {"stable leadership"},
}

RARE = {
    "log completion matched by slot only",
    "gaps never filled",
    "any vote adopted",
    "phase 1b counted before it is whole",
    "ballot used before it is durable",
    "read granted without a round",
    "read granted before recovery",
    "snapshot erases votes above it",
}

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        rare=bug in RARE,
    )
    for bug, consequence in BUGS.items()
)
