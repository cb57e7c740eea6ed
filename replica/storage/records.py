"""The storage's own records, in the table ``meta`` beside those of the protocol."""

from __future__ import annotations

from typing import Final

from replica.consensus.interface import Record, ReplicaId

IDENTITY_KEY: Final = b"identity"
INCARNATION_KEY: Final = b"incarnation"
ADMITTED_KEY: Final = b"admitted"
PEER_PREFIX: Final = b"peer/"


class StoredIdentity(Record, frozen=True, tag=2):
    """A copy of the folder's identity, so that a log that was moved to another folder is noticed."""

    cluster: str
    replica: ReplicaId
    disk: str


class Incarnation(Record, frozen=True, tag=3):
    """How often the replica has been started. Written before the replica does anything else."""

    number: int


class Admission(Record, frozen=True, tag=4):
    """The peers have taken this disk on record: the replica votes. Present or absent, never changed."""

    incarnation: int
    """In which it happened; for people."""


class PeerDisk(Record, frozen=True, tag=5):
    """The disk that a peer showed first under its id; another one under that id is refused."""

    disk: str


def peer_key(replica: ReplicaId) -> bytes:
    """The key of a peer's disk."""
    return PEER_PREFIX + b"%010d" % replica
