"""What the metadata store refuses, and why.

All of these are `replica.client.NotCommitted`: nothing was changed, not even in part, since every change is one
transaction of the store. What the client itself raises (`Unavailable`, `MaybeCommitted` when a majority was lost after
a transaction had been sent) passes through as it is, and says the same three things: what happened, whether it may have
taken effect, what to do.
"""

from __future__ import annotations

from replica.client.errors import Compacted, Conflict, InvalidArgument, LeaseLost, NotCommitted, TooLarge, Unsupported


class MetadataError(NotCommitted):
    """Base of the errors that the metadata store raises itself."""


class InvalidValue(MetadataError, InvalidArgument):
    """A name, a value or an argument makes no sense as it stands."""

    advice = "correct the argument"


class UnknownType(InvalidValue):
    """No type has that name."""

    advice = "define the type first, or correct its name"


class UnknownProperty(InvalidValue):
    """The type declares no such property."""

    advice = "declare the property with define_type, put the value under custom=, or correct the name"


class WrongValue(InvalidValue):
    """A value is not of the type that its property has."""

    advice = "give a value of the declared type"


class TypeConflict(MetadataError):
    """A type was to change otherwise than by additions."""

    advice = "properties can be added and never removed or given another type: define a new type instead"


class FilterError(InvalidValue):
    """A filter cannot be understood; ``position`` counts its characters from 0."""

    advice = "correct the filter"

    def __init__(self, text: str, source: str = "", position: int = -1) -> None:
        # What is pickled comes back with the finished text alone, and the rest as attributes.
        super().__init__(text if position < 0 else f"{text} at position {position} of {source!r}")
        self.source = source
        self.position = position


class NotFound(MetadataError):
    """There is no such object, version, or alias."""

    advice = "check the name or the id"


class AlreadyExists(MetadataError):
    """The name, or the external id, is taken; ``id`` is whose it is."""

    advice = "use the object that is there, or choose another name"

    def __init__(self, text: str, id: int = 0) -> None:  # noqa: A002 - the word for it
        super().__init__(text)
        self.id = id


class WrongState(MetadataError):
    """The object's state does not allow that."""

    advice = "look at its state; published means immutable: draft a new version instead"


class Referenced(MetadataError):
    """What was to be purged is referenced; ``by`` names some of what refers to it."""

    advice = "purge what refers to it, or move the aliases, first"

    def __init__(self, text: str, by: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.by = by


class CyclicParent(MetadataError):
    """A context would become its own ancestor."""

    advice = "parents form no cycle: leave one of the links out"


class AliasMoved(MetadataError, Conflict):
    """An alias does not point where the caller thought; ``current`` is where it points (None: nowhere)."""

    advice = "resolve the alias again and decide anew"

    def __init__(self, text: str, current: int | None = None) -> None:
        super().__init__(text)
        self.current = current


class StaleRevision(MetadataError, Compacted):
    """The revision asked for, or that a page token was for, has been compacted."""

    advice = "begin again at a later revision, or without one"


class RunLost(MetadataError, LeaseLost):
    """The execution is not running any more: its lease ended, or somebody ended it. Its outputs were not published."""

    advice = "run it again as a new execution"


class UnitTooLarge(MetadataError, TooLarge):
    """More changes than one transaction of the store takes."""

    advice = "publish less at once: fewer outputs, inputs or indexed properties"


class NeedsTotalOrder(MetadataError, Unsupported):
    """The cluster's protocol has no one order over all keys, which referential integrity needs."""

    advice = "run the metadata store on a protocol with a total order, such as multipaxos or raft"


class WrongLayout(MetadataError):
    """The keys under this prefix were laid out by another version of this package."""

    advice = "use the version of this package that wrote them, or another prefix"
