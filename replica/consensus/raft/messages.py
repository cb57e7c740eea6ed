"""What replicas say to each other and what they write down.

Tags are part of the wire and disk format: they are never reused, and fields are only appended, with defaults.
Every message carries its sender's term, except for polls, which name the term that a campaign would be for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replica.consensus.interface import Message, Record, ReplicaId

# ------------------------------------------------------------------------------------------------------- replication


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it travels: the term it was appended in and its value."""

    term: int
    value: bytes


class Append(Message, frozen=True, tag=1):
    """AppendEntries: ``entries`` follow the entry at ``prev_index``, which is of ``prev_term``. Of the log that this
    makes, everything at or before ``commit`` is committed."""

    term: int
    prev_index: int
    prev_term: int
    entries: tuple[LogEntry, ...]
    commit: int


class Appended(Message, frozen=True, tag=2):
    """The sender's log matches that of the leader of ``term`` up to ``index``, durably. From a replica that may not
    vote yet it says how far it has come, and counts for nothing."""

    term: int
    index: int
    voting: bool = True


class Mismatch(Message, frozen=True, tag=3):
    """The sender's log has no entry of the right term at ``prev_index``.

    It ends at ``last``. If it reaches ``prev_index``, the entry there is of ``conflict_term``, of which the first in
    the log is at ``conflict_first``; otherwise both are 0.
    """

    term: int
    prev_index: int
    last: int
    conflict_term: int = 0
    conflict_first: int = 0


class Resume(Message, frozen=True, tag=4):
    """The sender's log ends at ``last``, whatever the leader took it for: probe it from there."""

    term: int
    last: int


class Discarded(Message, frozen=True, tag=5):
    """What the recipient lacks is gone: entries at or before ``floor`` can be had as a snapshot alone."""

    term: int
    floor: int


class Commit(Message, frozen=True, tag=6):
    """Of the log of the leader of ``term``, everything at or before ``commit`` is committed. Asks for no answer."""

    term: int
    commit: int


class Heartbeat(Message, frozen=True, tag=7):
    """The leader of ``term`` is there. ``round`` numbers its heartbeats; answered by the same. ``lease``: whoever
    answers promises its vote to nobody else for the lease of the options."""

    term: int
    commit: int
    round: int
    lease: bool = False


class HeartbeatAck(Message, frozen=True, tag=8):
    """The sender, a voter, was in ``term`` and said so after heartbeat ``round`` had left."""

    term: int
    round: int


# --------------------------------------------------------------------------------------------------------- elections


class Poll(Message, frozen=True, tag=9):
    """Pre-vote: would you vote for me in ``term``? Binds nobody. ``incarnation`` and ``number`` name the poll."""

    incarnation: int
    number: int
    term: int
    last_index: int
    last_term: int


class PollAnswer(Message, frozen=True, tag=10):
    """The answer to that poll, with the sender's present term."""

    incarnation: int
    number: int
    granted: bool
    term: int


class RequestVote(Message, frozen=True, tag=11):
    """Vote for the sender in ``term``; its log ends at ``last_index``, in an entry of ``last_term``. The leader of term
    ``released`` has asked for this campaign, and given up its lease (0: nobody has)."""

    term: int
    last_index: int
    last_term: int
    released: int = 0


class Vote(Message, frozen=True, tag=12):
    """The sender has voted for the recipient in ``term``, durably."""

    term: int


class Refused(Message, frozen=True, tag=13):
    """The sender is in ``term``, which is beyond that of the message that it answers."""

    term: int


class TakeOver(Message, frozen=True, tag=14):
    """TimeoutNow: the leader of ``term`` has stepped down in favour of the recipient, who may campaign at once."""

    term: int


MESSAGES: Final = (
    Append,
    Appended,
    Mismatch,
    Resume,
    Discarded,
    Commit,
    Heartbeat,
    HeartbeatAck,
    Poll,
    PollAnswer,
    RequestVote,
    Vote,
    Refused,
    TakeOver,
)


# ------------------------------------------------------------------------------------------------------------- records


class CurrentTerm(Record, frozen=True, tag=1):
    """The latest term that this replica has seen, and whom it voted for in it (0: nobody)."""

    term: int
    voted_for: ReplicaId = 0


class EntryRecord(Record, frozen=True, tag=2):
    """The entry at an index."""

    term: int
    value: bytes


class TermStart(Record, frozen=True, tag=3):
    """The entries from an index on, up to that of the next such record, are of ``term``."""

    term: int


class Progress(Record, frozen=True, tag=4):
    """Everything at or before ``commit`` is committed. The log holds the entries behind ``floor``; the entry at
    ``floor`` was of ``floor_term``, and what the log may still hold at or before it is void."""

    commit: int
    floor: int
    floor_term: int


TERM_TABLE: Final = "term"
LOG_TABLE: Final = "log"
STARTS_TABLE: Final = "starts"
PROGRESS_TABLE: Final = "progress"

TERM_KEY: Final = b"term"
PROGRESS_KEY: Final = b"progress"

TABLES: Final[dict[str, type[Record] | tuple[type[Record], ...]]] = {
    TERM_TABLE: (CurrentTerm,),
    LOG_TABLE: (EntryRecord,),
    STARTS_TABLE: (TermStart,),
    PROGRESS_TABLE: (Progress,),
}


# ---------------------------------------------------------------------------------------------------------------- marks


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What goes along with a snapshot: the term of its last entry, and the term that the replica was in which took it.
    The latter is at least the one in which that entry was committed."""

    last_term: int = 0
    term: int = 0


_encoder = msgspec.msgpack.Encoder()
_marks: msgspec.msgpack.Decoder[Mark] = msgspec.msgpack.Decoder(Mark)


def encode_mark(mark: Mark) -> bytes:
    """The mark as the driver keeps it."""
    return _encoder.encode(mark)


def decode_mark(data: bytes) -> Mark:
    """Raises `msgspec.DecodeError`. Nothing stands for the mark of the state in which an epoch begins."""
    return _marks.decode(data) if data else Mark()
