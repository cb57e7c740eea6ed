"""What can go wrong, by what the caller may conclude from it.

Every error is a `SynodError` and says three things: what happened, whether the operation may have taken effect, and
what to do. The second is the one to act on, so it is the hierarchy:

- `NotCommitted`: the operation had no effect and never will. Doing it again is safe.
- `Indefinite`: it may have taken effect, or may yet. Read before doing it again, unless doing it twice is harmless.

Reads change nothing, so they fail with `NotCommitted` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from replica.kv.operations import Failed, Failure


class SynodError(Exception):
    """Base of the client's errors."""

    may_have_taken_effect: bool = False
    """Whether the operation may have taken effect, or may yet."""
    advice: str = ""
    """What to do next, in a sentence."""

    def __str__(self) -> str:
        text = super().__str__()
        effect = "it may have taken effect" if self.may_have_taken_effect else "it had no effect"
        return f"{text} ({effect}{f'; {self.advice}' if self.advice else ''})"

    @property
    def reason(self) -> str:
        """What happened, without the rest."""
        return str(self.args[0]) if self.args else ""


# ------------------------------------------------------------------------------------------------ definitely nothing


class NotCommitted(SynodError):
    """The operation had no effect and never will."""


class Unavailable(NotCommitted):
    """No replica could be brought to take the operation before its deadline."""

    advice = "try again once a majority of the replicas is up and reachable"


class Overloaded(NotCommitted):
    """The client's queue, or the replica's, is full."""

    advice = "slow down, then try again"


class StorageFull(NotCommitted):
    """The replica's disk or its reserved map is nearly full."""

    advice = "compact or make room on the replicas, then try again"


class InvalidArgument(NotCommitted, ValueError):
    """The request makes no sense as it stands."""

    advice = "correct the request"


class TooLarge(InvalidArgument):
    """A key, a value, a transaction or a frame is beyond its limit."""

    advice = "make it smaller"


class NotANumber(InvalidArgument):
    """An addition met a value that is not a decimal integer."""

    advice = "use another key, or replace the value"


class Unsupported(NotCommitted):
    """The protocol that this cluster runs, or this version of it, does not offer that."""

    advice = "use another protocol or another operation"


class ConditionFailed(NotCommitted):
    """The condition of a put or delete did not hold."""

    advice = "read the key again and decide anew"

    def __init__(self, text: str, revision: int = 0) -> None:
        super().__init__(text)
        self.revision = revision
        """The modification revision that the key has instead; 0 when there is no such key."""


class Conflict(NotCommitted):
    """What a transaction had read was changed by somebody else before it committed."""

    advice = "run it again, for example with retry()"


class Compacted(NotCommitted):
    """The revision asked for has been compacted."""

    advice = "read at a later revision"

    def __init__(self, text: str, revision: int = 0) -> None:
        super().__init__(text)
        self.revision = revision
        """The oldest revision that can still be read."""


class LeaseUnknown(NotCommitted):
    """There is no such lease: it expired, was revoked, or never was."""

    advice = "grant another"


class LeaseExists(NotCommitted):
    """A lease with that id exists already."""

    advice = "choose another id, or let the store choose one"


class LeaseLost(NotCommitted):
    """A lease of this program has ended, or may have: it was not renewed in time."""

    advice = "begin anew under another lease; what lived with this one is gone or will be"


class NotAcquired(NotCommitted):
    """Others held a lock, or led, for as long as this program was willing to wait."""

    advice = "wait longer, or try again later"


class LockLost(LeaseLost):
    """A lock is not held any more: its lease has ended, or may have, or somebody removed its key."""

    advice = "stop what the lock protects, and acquire it again"


class LeadershipLost(LeaseLost):
    """This candidate does not lead any more: its lease has ended, or may have, or somebody removed its key."""

    advice = "stop acting as the leader, and campaign again"


class FutureRevision(NotCommitted):
    """The revision asked for does not exist yet where it was asked."""

    advice = "read at an earlier revision, or read without one"


class WrongCluster(NotCommitted):
    """The replicas belong to another cluster, or speak another version of the interface."""

    advice = "check the endpoints and the versions"


class Unauthenticated(NotCommitted):
    """The replicas do not know who asks: no certificate or token, or none that they accept (any more)."""

    advice = "connect with a certificate and a token that are valid"


class PermissionDenied(NotCommitted):
    """The token's role or its prefixes do not reach so far."""

    advice = "use a token that allows it"


class Closed(NotCommitted):
    """The store object has been closed."""

    advice = "connect again"


class Refused(NotCommitted):
    """The replica would not do it, for a reason of its own that no other class names."""

    advice = "the replica's log says more"


# --------------------------------------------------------------------------------------------------------- who knows


class Indefinite(SynodError):
    """Nobody can say whether the operation took effect, or will."""

    may_have_taken_effect = True
    advice = "read before you do it again, unless doing it twice is harmless"


class MaybeCommitted(Indefinite):
    """The operation was sent, and its deadline or its connection ended before the answer came."""


class SessionLost(Indefinite):
    """The cluster no longer knows the session under which the operation was sent, nor what became of it."""


class ResultForgotten(Indefinite):
    """The operation was executed once, but its result is no longer kept."""

    advice = "read what you wanted to change"


# ------------------------------------------------------------------------------------------- what the store answers

_BY_CODE: Final[Mapping[str, Callable[[str], SynodError]]] = MappingProxyType(
    {
        Failure.FUTURE_REVISION: FutureRevision,
        Failure.NOT_A_NUMBER: NotANumber,
        Failure.INVALID: InvalidArgument,
        Failure.UNSUPPORTED: Unsupported,
        Failure.SESSION_UNKNOWN: SessionLost,
        Failure.RESULT_FORGOTTEN: ResultForgotten,
        Failure.WINDOW: Overloaded,
        Failure.CROWDED: Overloaded,
        Failure.LEASE_UNKNOWN: LeaseUnknown,
        Failure.LEASE_EXISTS: LeaseExists,
        Failure.LEASES_FULL: Overloaded,
    }
)


def error_of(failed: Failed) -> SynodError:
    """The exception for an operation that the state machine refused."""
    text = failed.message or failed.code
    if failed.code in {Failure.CONDITION, Failure.LEASE_RENEWED}:
        return ConditionFailed(text, failed.detail)
    if failed.code == Failure.COMPACTED:
        return Compacted(text, failed.detail)
    return _BY_CODE.get(failed.code, Refused)(text)
