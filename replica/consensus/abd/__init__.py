"""ABD: an atomic register a key, without consensus and without a leader.

Reference: Attiya, Bar-Noy, Dolev, "Sharing Memory Robustly in Message-Passing Systems", JACM 1995; with many writers:
Lynch and Shvartsman, "Robust Emulation of Shared Memory Using Dynamic Quorum-Acknowledged Broadcasts", FTCS 1997.

Every replica holds, for each key, a record and its *stamp*: (counter, writer, run). Any replica serves any client.

    read    query a phase-1 quorum for (stamp, record); the highest stamp wins; store it at a phase-2 quorum; answer
    write   query a phase-1 quorum for stamps; choose a higher one of one's own; store at a phase-2 quorum; answer

The second round of a read is left out when those that answered with the highest stamp hold it at a phase-2 quorum
already: with majorities, when the quorum was unanimous.

Quorums: ``phase1`` to query, ``phase2`` to store; every one of the first meets every one of the second. Majorities by
default; a smaller ``q1`` makes reads cheaper, writes dearer, and unanimity rarer to be enough.

Invariants:

- A stamp names one record for ever. Two writes through one replica never share one: neither at the same time, since a
  replica remembers the highest counter that it has used on a key until all its writes of the key are done, those that
  still query included; nor across a crash, since the run of the replica is part of the stamp.
- A replica's stamp for a key never goes down.
- Whoever answers "this is what I hold" or "stored" has it on disk: an answer waits for the ticket of the write that it
  tells of, and the own vote counts no earlier.
- Messages may be lost, repeated and late: answers name the request, which no other run of any replica uses, and count
  as sets of replicas. What is missing is asked for again until it comes.

What it cannot do. A write takes effect whatever it replaces, so nothing whose effect depends on what it finds is
possible: no compare-and-set, no additions, no transactions. A write of which the outcome is unknown may surface at any
later time, and one that is repeated gets a new stamp and would bring an old value back: it is *not exactly once*, and
clients never repeat one. There is no order to hand over, so members cannot be changed.
"""

from .protocol import PROTOCOL, Abd

__all__ = ["PROTOCOL", "Abd"]
