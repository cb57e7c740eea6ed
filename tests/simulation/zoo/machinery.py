"""Storage, snapshots and sessions: what stands around every protocol, tried around MultiPaxos."""

from replica.consensus.multipaxos import PROTOCOL
from replica.simulation import Controls
from replica.simulation.zoo import Specimen


def specimen(
    place: str, bug: str, consequence: str, caught_by: set[str], *, rare: bool = False, **off: bool
) -> Specimen:
    """``off`` names the controls that are switched off."""
    return Specimen(
        place=place,
        bug=bug,
        consequence=consequence,
        caught_by=frozenset(caught_by),
        spec=PROTOCOL,
        sound=PROTOCOL,
        controls=Controls(**off),
        rare=rare,
    )


SPECIMENS = (
    specimen(
        "storage",
        "nothing is kept",
        "a replica that restarts has forgotten its promises and votes",
        {"promises are kept", "one value per slot", "records are whole"},
        persistence=False,
    ),
    specimen(
        "storage",
        "writes reported before they are synced",
        "what was promised, voted for and acknowledged is lost with the power",
        {"decided implies durable"},
        sync=False,
    ),
    specimen(
        "storage",
        "a message does not wait for its ticket",
        "a vote is counted that a crash takes back",
        {"decided implies durable", "promises are kept"},
        gates=False,
    ),
    specimen(
        "storage",
        "a completion covers groups that still wait",
        "a vote is counted while it waits for its transaction",
        {"decided implies durable"},
        own_completions=False,
    ),
    specimen(
        "storage",
        "a failed sync is tried again and believed",
        "the system has dropped the pages: the second sync writes nothing and succeeds",
        {"decided implies durable", "promises are kept", "records are whole"},
        sync_failures_fatal=False,
    ),
    specimen(
        "storage",
        "what a crash left is acted upon unsynced",
        "a successor reads a vote that the next power cut takes away",
        {"decided implies durable", "promises are kept"},
        rare=True,
        sync_at_start=False,
    ),
    specimen(
        "storage",
        "a corrupt record passes for none",
        "an acceptor that cannot read its promise or vote acts as though there had been none",
        {"promises are kept", "one value per slot", "invariants of the protocol"},
        rare=True,
        corrupt_is_unknown=False,
    ),
    specimen(
        "storage",
        "a transaction survives in part",
        "records that belong together contradict each other after a crash",
        {"records are whole"},
        batches_atomic=False,
    ),
    specimen(
        "storage",
        "state trusted after a power cut",
        "the state was never synced, and what is found of it has holes",
        {"state digests", "acknowledged implies durable", "invariants of the protocol", "exactly once"},
        power_distrusts_state=False,
    ),
    specimen(
        "storage",
        "a wiped disk passes for the old one",
        "a member that has lost its votes helps to elect a leader without them",
        {"one value per slot", "promises are kept"},
        same_disk=False,
    ),
    specimen(
        "snapshots",
        "session table lost in a snapshot",
        "a replica that installs it executes retries again, or knows nobody",
        {"state digests"},
        sessions_in_snapshots=False,
    ),
    specimen(
        "snapshots",
        "snapshot installed over newer state",
        "what was applied and acknowledged is undone",
        {"prefixes"},
        rare=True,
        snapshots_compared=False,
    ),
    specimen(
        "snapshots",
        "anchor committed before the snapshot is synced",
        "the log was truncated behind a snapshot that the power cut took away",
        {"acknowledged implies durable"},
        snapshots_synced=False,
    ),
    specimen(
        "snapshots",
        "an ended epoch's log left to the next",
        "the next protocol takes votes and marks of another for its own",
        {"invariants of the protocol", "one value per slot", "records are whole"},
        epochs_start_empty=False,
    ),
    specimen(
        "sessions",
        "retries executed again",
        "an operation whose answer was lost takes effect twice",
        {"exactly once", "linearizable reads", "acknowledged implies durable"},
        retries_recognised=False,
    ),
    specimen(
        "sessions",
        "a maximum in place of a set",
        "an operation that is overtaken by a later one of its session is never executed",
        {"exactly once"},
        sequences_as_set=False,
    ),
    specimen(
        "sessions",
        "eviction decided by what a restart forgets",
        "replicas evict different sessions",
        {"state digests"},
        last_use_replicated=False,
    ),
)
