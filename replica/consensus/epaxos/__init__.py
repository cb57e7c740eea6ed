"""EPaxos: every replica proposes, and only commands that interfere are ordered.

Theory of operation
-------------------
**References.** Moraru, Andersen, Kaminsky, *There Is More Consensus in Egalitarian Parliaments* (SOSP 2013). Its
recovery is not this one: Sutra, *On the correctness of Egalitarian Paxos* (2020) shows what is wrong with it, and
Ryabinin, Gotsman, Sutra, *Making Democracy Work: Fixing and Simplifying Egalitarian Paxos* (2025) give and prove the
one that `recovery` carries out, under the name of EPaxos*.

**Roles.** Every replica proposes for its own clients, votes, executes, and recovers what others left undecided. There
is no leader of the whole: an *instance* has one, the replica in whose *space* it is numbered.

**Quorums.** ``f`` failures are survived and ``e`` of them do not even cost the fast path: classic quorums of ``n - f``,
fast ones of ``n - e`` with the leader of the instance among them, and ``n >= max(2e + f - 1, 2f + 1)``. So 2 of 3
(f = e = 1), 3 of 5 (f = e = 2), or 4 of 5 with ``e = 1``.

**Flow.** A leader puts a batch into its next instance, with the dependencies that it knows: ``PreAccept(value, D)``.
The others pre-accept and answer with ``D`` and whatever interferes besides. If a fast quorum adds nothing, the instance
is decided with ``D``: one round trip. Otherwise the union of what a quorum answered is voted on, ``Accept`` at the
first ballot: two. ``Commit`` tells the rest. A decided instance is executed after what it depends on (`execution`);
clients are answered then, by the replica that they asked.

**Dependencies** are one number for each member: everything in that space up to there. An instance depends on what it
covers *and* interferes with (`interference`), so what lies between costs nothing but that its value must be known. Two
commands interfere when one writes what the other reads or writes; a batch is the union of its commands, which
``batch_max = 1`` avoids. What a leader proposes comes after everything it has executed, so of what all replicas have
executed no keys need be remembered, only how far it goes.

**Invariants.**

1. *Agreement.* An instance is decided once: its value, or nothing at all, and its dependencies.
2. *Visibility.* Of two decided instances that interfere, one depends on the other, directly.
3. Together: all replicas execute interfering commands in one order, components of the graph by (space, number).
4. The ballot that was promised and the ballot of the vote are two, each written down.
5. A command of a client is in one instance, and in another only once the first is decided to be nothing.
6. A component is delivered in one turn: no state and no snapshot stands in the middle of one.
7. Whatever interferes and was executed first is before it also when it is executed again after a restart.

**Durable before sent.** Everything: no message leaves, and nothing is executed, before all that the replica knew when
it spoke is on its disk: the own instance before ``PreAccept``, so that no number is ever used twice and no proposal is
forgotten; the promise with the vote before any answer; the decision before ``Commit`` and before its execution. A
restart is then no more than a pause with some messages lost, which is why the proofs, made for replicas that stop for
good, hold. It costs the fast path one sync more than it would need while nobody crashes, and the execution another.

**Reads** are commands that only read; they do not interfere with one another.

**What bounds a wait.** An instance that is not decided in time is recovered by others, one after the other
(``recovery_s``), first of all what is in the way of an execution; by those alone who hear from a quorum, or they would
only get in the way of the rest. A replica has at most ``window_instances`` of its own that are not executed, so a chain
of dependencies ends, however many write one key.

**What it can't do.** Decide without ``n - f`` replicas; a total order, and so no global revision; change its members in
place: an epoch ends with a seal, which would have to come before or after every single command. Remember without bound
what may be asked about: while a member is away, and once more than 65 536 keys have been used since, a recovery of what
is older and was pre-accepted unchanged by fewer than f replicas, the leader apart, waits for others who know, for all
but the leader at worst (`history`). With three replicas that does not occur. Put two states together: where two
replicas have each discarded what the other lacks, only a third that has both helps. While they hear of each other, and
for ten seconds after, they see to it that this does not come about (`catchup`).

**The files.** `messages` (wire, records), `options`, `state` (what the concerns share), `interference`, `instance` and
`instances` (what is known), `history` (what was executed, by key), `rounds` (leading), `acceptor` (answering),
`recovery`, `graph` and `execution`, `catchup` (progress, fetching, snapshots), `protocol` (the object that wires them),
`specification`; and `planted`, for tests.
"""

from .options import EPaxosOptions
from .specification import PROTOCOL

__all__ = ["PROTOCOL", "EPaxosOptions"]
