"""Raft: what its paper warns of, and what its implementations got wrong."""

from typing import Any

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
    "read granted without a round": {"linearizability"},
    "read granted before the term is opened": {"linearizability"},
    "no poll before a campaign": {"stable leadership"},
}

TAME = FaultProfile(losses=False, clocks=False, endurance=False)
"""Neither lost disks nor clocks that are worse than leases are declared to bear."""

HOW: dict[str, dict[str, Any]] = {
    "commits an older term by counting": {
        "profile": TAME,
        "operations": 100,
        "options": {"chunk_bytes_max": 1, "batch_max": 1},
    },
    "stale lease read after a pause": {"profile": TAME, "operations": 200, "options": {"lease_s": 0.3}},
}
"""Where a bug shows: entries of an earlier term are acknowledged apart from those of the leader's own only where they
travel apart; a lease is there only where it is asked for."""

SPECIMENS = tuple(
    Specimen(
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(CAUGHT_BY[bug]),
        spec=planted(bug),
        sound=PROTOCOL,
        **HOW.get(bug, {}),
    )
    for bug, consequence in BUGS.items()
)
