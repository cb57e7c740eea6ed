"""MultiPaxos, and FPaxos: one leader at a time orders all commands in a log.

Theory of operation
-------------------
**References.** Lamport, *Paxos Made Simple* (2001); Chandra, Griesemer, Redstone, *Paxos Made Live* (2007); van Renesse
and Altinbuken, *Paxos Made Moderately Complex* (2015). Flexible quorums: Howard, Malkhi, Spiegelman, *Flexible Paxos*
(2016). Read-index and the poll before a campaign follow Ongaro's thesis (2014) in spirit.

**Roles.** Every replica is acceptor and learner; at most one leads usefully, and several may believe that they do.
A replica is a follower, polls, prepares (phase 1), recovers (fetches what its quorum knows to be decided) or leads.

**Quorums.** Any system in which each phase-1 quorum meets each phase-2 quorum: majorities in ``multipaxos``, counted or
grid quorums in ``fpaxos``. Phase 1, and the poll before it, count phase-1 quorums; deciding, and the leader's check
that it still has company, count phase-2 quorums; a read is confirmed by acknowledgements that meet every phase-1
quorum.

**Flow.** A leader at ballot *b* puts commands into slots and sends ``Accept(b, slot, values, commit)``; a follower that
has promised nothing higher votes, and answers ``Accepted(b, slots)`` once the votes are durable; the leader counts its
own vote when its own disk has it. A phase-2 quorum of votes *at b* decides a slot. The news travels as the commit mark
of the next accept, or by itself after a few milliseconds. One round trip, many slots in flight, many commands a slot.
When the leader is silent a follower polls, then sends ``Prepare(b', first undecided slot)``; each ``Promised`` says up
to where the acceptor knows the log as decided and reports everything it holds beyond. See `recovery` for the rest.

**Invariants.**

1. A ballot has one owner, who reserves it durably before using it; a leader proposes one value a slot and ballot.
2. An acceptor accepts nothing below its promise, and never forgets a promise or a vote, except votes in slots that a
   durable snapshot covers.
3. A value is proposed at *b* only if no other can have been decided in its slot below *b*. A leader never proposes in a
   slot that a member of its phase-1 quorum knows to be decided: it fetches the value, or a snapshot.
4. "Decided up to *s*" from the leader of *b* says nothing of a vote at another ballot.
5. Slots are delivered in order, each once, and only when the replica's own record of it is durable.
6. Nothing is delivered at or behind a seal.

**Durable before sent.** The promise before ``Promised``; the own promise before ``Prepare``; votes before ``Accepted``,
and before the leader counts its own. ``Accept`` itself, heartbeats, commits and polls wait for nothing. How far the log
is decided is written along with other things and may lag: it is knowledge, not a vote.

**Reads.** By read-index at the leader (see `reads`); followers refuse with a hint. A read may also be an ordinary
command. **Reconfiguration** by a seal (see `reconfiguration`).

**What it can't do.** Decide without a phase-2 quorum, or elect without a phase-1 quorum; tolerate a replica that lost
its disk and pretends otherwise (the driver admits a fresh disk as a new voter, see ``Context.voting``); guarantee
progress while messages take longer than the election timeout; serve a linearizable read at a follower. A command that
was proposed when its leader was deposed may be decided later or never: it is rejected as indefinite, and sessions make
a retry safe.

**The files.** `messages` (wire, records, values), `options`, `state` (what the concerns share), `log` (votes,
decisions, delivery, truncation), `replication` (the leader's phase 2), `acceptor` (the follower's), `recovery`
(phase 1), `election`, `leadership` (role changes), `reads`, `catchup`, `snapshots`, `reconfiguration`, `protocol` (the
object that wires them), `specification`; and `planted`, for tests.
"""

from .options import FPaxosOptions, MultiPaxosOptions
from .specification import FPAXOS, PROTOCOL

__all__ = ["FPAXOS", "PROTOCOL", "FPaxosOptions", "MultiPaxosOptions"]
