"""One replica, no replication: the ceiling of the harness itself.

Theory of operation
-------------------
**Reference.** None; it is what remains of a log protocol when there is nobody to agree with. A measurement of it says
what the node, the disk and the client cost, and so how much of another protocol's figures is the protocol.

**Roles, quorums.** A single member, which leads as soon as it has been admitted. A configuration with more is refused.

**Flow.** Commands of a turn take the next slots, as many a slot as ``batch_max`` allows; a slot is decided, and
delivered, when its record is durable. The log keeps what no durable snapshot covers, and a restart delivers from it
what the state lacks: a record that became durable just before a crash is delivered although nobody was told, which is
why a command that was never answered is indefinite.

**Invariants.** Slots are delivered in order, each once, after their record is durable. Nothing follows a seal. No slot
is used twice: the next one lies behind everything in the log and everything in the state.

**Durable before sent.** There is nobody to send to; deliveries wait for the disk.

**Reads.** Granted at what was delivered: whatever was acknowledged was delivered here. They wait for a replay to end.
**Reconfiguration** by a seal, so a store begun with one replica can go on with more, under another protocol.

**What it can't do.** Survive the loss of its disk.
"""

from .protocol import PROTOCOL, NullOptions

__all__ = ["PROTOCOL", "NullOptions"]
