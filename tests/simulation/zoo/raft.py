"""Raft: what its paper warns of, and what its implementations got wrong."""

from replica.consensus.raft import PROTOCOL
from replica.consensus.raft.planted import BUGS, planted
from replica.simulation.plan import FaultProfile
from replica.simulation.zoo import Specimen

CAUGHT_BY = {
    "commits an older term by counting": {"leader completeness"},
    "truncates on a delayed append": {"acknowledged entries are kept", "invariants of the protocol"},
    "commit beyond what matches": {"one value per slot", "decided implies durable"},
    "term and vote lost on restart": {"terms never go back", "one vote a term", "one leader a term"},
    "vote counted before its sync": {"decided implies durable"},
    "stale lease read after a pause": {"linearizability"},
    "votes without looking at the log": {"leader completeness", "one value per slot"},
    "append matched by index alone": {"log matching", "one value per slot"},
    "acknowledges all of its log": {"decided implies durable"},
    "completion matched by index alone": {"decided implies durable"},
    "read granted without a round": {"linearizability"},
    "read granted before the term is opened": {"linearizability"},
    "promise of a lease lost on restart": {"linearizability"},
    "no poll before a campaign": {"stable leadership"},
}

RARE = {
    "commits an older term by counting",
    "stale lease read after a pause",
    "acknowledges all of its log",
    "completion matched by index alone",
    "promise of a lease lost on restart",
}

BY_LEASE = {"stale lease read after a pause", "promise of a lease lost on restart"}
"""Need leases, and clocks that keep to what leases are declared to bear."""

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        options={"lease_s": 0.3} if bug in BY_LEASE else {},
        profile=FaultProfile(clocks=False) if bug in BY_LEASE else "all",
        rare=bug in RARE,
    )
    for bug, consequence in BUGS.items()
)
