"""The state machine for protocols that order by object, and what the records of register protocols mean.

Beside the revisioned machine (`replica.kv.machine`): the same operations and results, without a revision of the whole.

Every *key* has a revision of its own, which counts its writes and deletions and never goes back: `create_revision`,
`mod_revision`, ``if_revision`` and the revision of a result on one key (`Written` among them) count in it. What speaks
of several keys (`Ranged`, `Transacted`) says 0, and its parts say what concerns each key. What needs one revision for
all keys is refused as ``unsupported``: reading the past, compaction, "nothing in this interval has changed", deleting
an interval, leases.

Sessions live with the keys (`replica.kv.objects.record`), so that an object that moves from one replica to another
takes along what makes its commands take effect once.
"""

from .abilities import Abilities
from .cutting import Part, cut
from .machine import ObjectDigest, ObjectMachine, object_digest_of
from .record import SESSIONS_PER_KEY_MAX
from .registers import AtomicRegisters, PlainRegisters, RegisterMachine

__all__ = [
    "SESSIONS_PER_KEY_MAX",
    "Abilities",
    "AtomicRegisters",
    "ObjectDigest",
    "ObjectMachine",
    "Part",
    "PlainRegisters",
    "RegisterMachine",
    "cut",
    "object_digest_of",
]
