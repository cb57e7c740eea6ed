"""What replicas say to each other and what they write down.

Tags are part of the wire and disk format: they are never reused, and fields are only appended, with defaults.
"""

from __future__ import annotations

from typing import Final

import msgspec

from replica.consensus.ballots import Ballot
from replica.consensus.interface import Message, Record

# --------------------------------------------------------------------------------------------------------- phase 1


class Prepare(Message, frozen=True, tag=1):
    """1a: promise ``ballot``, and report what you accepted from slot ``first`` on."""

    ballot: Ballot
    first: int


class Report(msgspec.Struct, frozen=True, array_like=True):
    """The value that an acceptor holds at ``slot``: accepted at ``ballot``, or known to be decided."""

    slot: int
    ballot: Ballot
    value: bytes
    decided: bool = False


class Promised(Message, frozen=True, tag=2):
    """1b: everything at or before ``decided`` is decided (fetch it, never propose there), and ``reports`` is all that
    the sender holds beyond that in the slots ``[first, end)``; ``end`` 0 means all slots there will ever be.

    An answer too large for one message comes in parts, and counts when the parts cover everything from
    ``max(asked, decided + 1)`` on. Parts of two answers may be mixed: an acceptor that promised can only have learned
    more in between.
    """

    ballot: Ballot
    decided: int
    first: int
    end: int
    reports: tuple[Report, ...]


class Refused(Message, frozen=True, tag=3):
    """``ballot`` was refused because a higher one was ``promised``."""

    ballot: Ballot
    promised: Ballot


# --------------------------------------------------------------------------------------------------------- phase 2


class Accept(Message, frozen=True, tag=4):
    """2a: accept ``values`` in consecutive slots from ``first`` on. Of what was accepted at ``ballot``, everything at
    or before ``commit`` is decided."""

    ballot: Ballot
    first: int
    values: tuple[bytes, ...]
    commit: int


class Accepted(Message, frozen=True, tag=5):
    """2b: the values of ``ballot`` in the ``count`` slots from ``first`` on are durable at the sender."""

    ballot: Ballot
    first: int
    count: int


class Commit(Message, frozen=True, tag=6):
    """Of what was accepted at ``ballot``, everything at or before ``commit`` is decided. Asks for no answer."""

    ballot: Ballot
    commit: int


# ------------------------------------------------------------------------------------------------------- leadership


class Heartbeat(Message, frozen=True, tag=7):
    """The leader of ``ballot`` is there. ``round`` numbers the read rounds that it has begun; answered by the same."""

    ballot: Ballot
    commit: int
    round: int


class HeartbeatAck(Message, frozen=True, tag=8):
    """The sender, a voter, has promised nothing above ``ballot``, and said so after ``round`` had begun."""

    ballot: Ballot
    round: int
    decided: int


class Poll(Message, frozen=True, tag=9):
    """Would you promise ``ballot``? Binds nobody. ``incarnation`` and ``number`` name the poll."""

    incarnation: int
    number: int
    ballot: Ballot
    decided: int


class PollAnswer(Message, frozen=True, tag=10):
    """The answer to that poll, with what the sender has promised so far."""

    incarnation: int
    number: int
    granted: bool
    promised: Ballot


class TakeOver(Message, frozen=True, tag=11):
    """The leader of ``ballot`` steps down in favour of the recipient, who may campaign at once."""

    ballot: Ballot


# --------------------------------------------------------------------------------------------------------- catch-up


class CatchUp(Message, frozen=True, tag=12):
    """Send what was decided from slot ``first`` on."""

    first: int


class Decided(Message, frozen=True, tag=13):
    """``values`` were decided in consecutive slots from ``first`` on. The sender knows everything up to ``decided`` to
    be decided and can vouch for the slots behind ``floor``; a recipient that needs an earlier one needs a snapshot."""

    first: int
    values: tuple[bytes, ...]
    decided: int
    floor: int


MESSAGES: Final = (
    Prepare,
    Promised,
    Refused,
    Accept,
    Accepted,
    Commit,
    Heartbeat,
    HeartbeatAck,
    Poll,
    PollAnswer,
    TakeOver,
    CatchUp,
    Decided,
)


# ---------------------------------------------------------------------------------------------------------- records


class Promise(Record, frozen=True, tag=1):
    """The highest ballot promised: nothing below it may be accepted any more."""

    ballot: Ballot


class AcceptedRecord(Record, frozen=True, tag=2):
    """The vote at a slot: ``value`` at ``ballot``."""

    ballot: Ballot
    value: bytes


class DecidedRecord(Record, frozen=True, tag=3):
    """The value that is decided at a slot, learned from a peer rather than voted for."""

    value: bytes


class Progress(Record, frozen=True, tag=4):
    """Everything at or before ``decided`` is decided. The log holds the decided values of the slots behind ``floor``
    up to there, and what it may still hold at or before ``floor`` is void."""

    decided: int
    floor: int


ACCEPTOR_TABLE: Final = "acceptor"
LOG_TABLE: Final = "log"
PROGRESS_TABLE: Final = "progress"

PROMISE_KEY: Final = b"promise"
PROGRESS_KEY: Final = b"progress"

TABLES: Final = {
    ACCEPTOR_TABLE: (Promise,),
    LOG_TABLE: (AcceptedRecord, DecidedRecord),
    PROGRESS_TABLE: (Progress,),
}
