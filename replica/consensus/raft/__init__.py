"""Raft: a strong leader, elected for a term, whose log the others follow.

Theory of operation
-------------------
**References.** Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (2014); Ongaro's thesis,
*Consensus: Bridging Theory and Practice* (2014): pre-vote (9.6), check-quorum (6.2), read-index and leases (6.4),
leadership transfer (3.10), pipelined and batched replication (10.2). Names are theirs.

**Roles.** A replica follows, polls (pre-vote), campaigns or leads. At most one leads in a term; several may believe
that they lead, in different terms.

**Quorums.** Majorities, for votes and for commitment alike.

**Flow.** A leader of term *t* appends commands to its log and sends ``Append(t, prev, entries, commit)``; a follower
whose log holds ``prev`` (index and term) appends what it lacks and answers ``Appended(t, index)`` once that is durable;
the leader counts its own log when its own disk has it. An entry *of term t* that a majority holds is committed, and
with it everything before. The news travels as the commit mark of the next append, or by itself after a few
milliseconds. One round trip, many appends in flight, many commands an entry. A follower that lacks ``prev`` says where
its log parts from the leader's, by whole terms; the leader goes back there, probes with one append at a time until one
fits, and pipelines again. When the leader is silent a follower polls; with a majority that would vote for it, it
campaigns in the next term; a new leader opens its term with an empty entry, since only what is of its own term may be
counted.

**Invariants.**

1. A replica votes once in a term, durably; its term never goes back, across restarts either.
2. One leader a term. A leader never removes or replaces an entry of its own log within its term.
3. *Log matching*: two logs that agree on the term at an index agree on everything up to there.
4. *Leader completeness*: whoever is elected holds everything committed in earlier terms, since a majority voted for
   it, and no voter's log was further (by term of the last entry, then by length).
5. An entry is committed by counting only if it is of the leader's own term (figure 8 of the paper).
6. A follower removes entries only where an append holds another term at their index: a real conflict. What is
   committed never conflicts with the leader of the follower's term.
7. A follower believes a commit mark only as far as its log is known to match the leader's.
8. Entries are delivered in order, each once, and only when the replica's own record of them is durable. Nothing is
   delivered at or behind a seal.

**Durable before sent.** Term and vote before anything that tells of them; entries before ``Appended``, and before the
leader counts its own. ``Append`` itself, heartbeats, commit marks and polls wait for nothing new. How far the log is
committed is written along with other things and may lag: it is knowledge, not a vote.

**Reads.** By read-index at the leader: behind a commit of its own term, confirmed by a round of heartbeats (see
`reads`). Optionally by lease (see `leases`): off unless ``lease_s`` is set, since it rests on clocks. Followers refuse
with a hint. **Snapshots** carry the term of their last entry, and the term of the replica that took them, as the mark
that the driver keeps beside them (see `snapshots`). **Reconfiguration** by a seal that ends the epoch, as in
MultiPaxos, in place of Raft's own changes of members: the seal needs an entry of the leader's term behind it only if it
is inherited.

**What it can't do.** Commit or elect without a majority; tolerate a replica that lost its disk and pretends otherwise
(the driver admits a fresh disk as a new voter, see ``Context.voting``; until then it follows as a learner, whose
acknowledgements count for nothing); elect a replica that hears everybody but lags behind them, while nobody else
reaches a majority (MultiPaxos can, because its candidates fetch what they lack); guarantee progress while messages take
longer than the election timeout; serve a linearizable read at a follower. A command that was appended when its leader
was deposed may be committed later or never: it is rejected as indefinite, and sessions make a retry safe.

**The files.** `messages` (wire and records), `options`, `state` (term, vote, role), `terms` (which index is of which
term), `log` (entries, commitment, conflicts), `replication` (the leader's side of the log), `follower` (the other
side), `election`, `leadership` (role changes), `reads`, `leases`, `snapshots`, `protocol` (the object that wires them),
`specification`; and `planted`, for tests.
"""

from .options import RaftOptions
from .specification import PROTOCOL

__all__ = ["PROTOCOL", "RaftOptions"]
