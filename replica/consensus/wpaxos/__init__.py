"""WPaxos: every key has an owner, a ballot and a log of its own, and moves to where it is used.

Reference
---------
Ailijiang, Charapko, Demirbas, Kosar: "WPaxos: Wide Area Network Flexible Consensus", IEEE TPDS 2020 (online 2019). The
quorums are those of Howard, Malkhi, Spiegelman: "Flexible Paxos", OPODIS 2016, counted on a grid of zones.

Roles
-----
Every replica may own objects, votes for all owners, and learns everything. An *object* is a key. It has a ballot, and
the replica that the highest promised ballot names owns it, or is about to. Clients talk to the nearest replica; a
command on an object that is owned elsewhere is *forwarded* to its owner, and its result comes back by being delivered
at the replica of the client, since all replicas deliver everything.

Quorums
-------
``Z`` zones of ``l`` replicas (a member's zone, or its region). A phase-1 quorum is ``l - f_n`` replicas in each of
``Z - f_z`` zones, a phase-2 quorum ``f_n + 1`` replicas in each of ``f_z + 1`` zones, with ``l >= 2 f_n + 1`` and
``Z >= 2 f_z + 1``; zones have one size. In a zone that both ask, ``l - f_n + f_n + 1 > l``; and ``Z - f_z + f_z + 1 >
Z`` zones can't be all different. What is built is checked again for two quorums that miss each other. Quorums are
predicates over whoever has answered; nobody picks the members of a quorum beforehand, which is where the set-builders
of the paper can go wrong. By default ``f_z = 1`` from three zones on. Everything goes on while ``f_z`` zones are lost
and ``f_n`` replicas in each of the others; with more than that lost, objects are still written by owners that reach a
phase-2 quorum, but not stolen.

Flow
----
1. *Claim* (phase 1, `stealing`): an object is asked for and has no owner, its owner offers it, or its owner is
   suspected. The claimant mints a ballot, durably, and asks everybody to promise. It proposes nothing before it has
   delivered as far as any member of its quorum.
2. *Replicate* (phase 2, `replication`): the owner puts commands into positions, everybody writes them down and votes;
   a phase-2 quorum near the owner decides, and the decision is announced. A window of positions is under way at once.
3. *Offer* (`policies`): the owner watches from which zones its objects are accessed, and offers one to a replica that
   uses it more. The owner serves on until the object is claimed. One that has just moved rests.
4. *Relay*: a replica that reaches neither an owner nor a phase-1 quorum turns to one that does, as signs of life tell,
   and hands over to it what it has claimed or owns in vain. Where there is none it refuses, rather than let clients
   wait.
5. *Catch up* (`catchup`): whoever sees that it is behind compares and is handed objects as they stand, sessions
   included; the log of an object before that is of no use to anybody.

What is always true
-------------------
- A ballot is minted once: it is durable as a promise of the replica that it names before anybody hears of it.
- What is decided at a position of an object is decided for good: a claimant's quorum meets every quorum that may have
  decided, and each of its members tells what it accepted or, where it has delivered, that the claimant is behind.
- An owner proposes one value at a position and ballot. After a restart it owns nothing, and claims anew.
- A mark "decided up to" applies to what was accepted at that very ballot.
- Commands on a key are delivered in one order, everywhere; what makes a command take effect once is in the key's record
  and moves with it. A command that was forwarded twice may be decided twice, and is executed once.

Durable before it is told
-------------------------
Promise, before `Prepare` and `Promised` leave; vote, before `Accepted` leaves and before the own vote counts; an image,
before it is installed. The mark of what is decided rides along with the next vote, or is written when the object is
quiet: it spares a restart the claims, and is no matter of safety.

What it can't do
----------------
Nothing spans two objects: no transactions, no order between keys, no revision of the whole. Reads are commands in the
object's log. Members do not change: a seal would have to be agreed on in every object's log.
"""

from replica.consensus.wpaxos.options import WPaxosOptions
from replica.consensus.wpaxos.protocol import WPaxos
from replica.consensus.wpaxos.specification import CAPABILITIES, PROTOCOL

__all__ = ["CAPABILITIES", "PROTOCOL", "WPaxos", "WPaxosOptions"]
