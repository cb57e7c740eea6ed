"""Which operations a store can carry out, given what its protocol offers."""

from __future__ import annotations

from typing import Final

import msgspec

from replica.kv.operations import (
    Add,
    AnyOperation,
    CloseSession,
    Compact,
    Delete,
    DeleteRange,
    DescribeLease,
    Get,
    GrantLease,
    KeepAlive,
    ListLeases,
    OpenSession,
    Put,
    Range,
    RevokeLease,
    Transaction,
    Unchanged,
)
from replica.kv.runs import footprint


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the store's protocol makes possible. The fields are those of its capabilities of the same names."""

    total_order: bool = True
    """One revision for all keys."""
    transactions: bool = True
    """Operations on several keys at once."""
    compare_and_set: bool = True
    """Operations whose effect, or whose answer beside it, depends on what they find."""

    def refusal(self, operation: AnyOperation) -> str | None:
        """Why the operation is not possible here, for people; None when it is. Depends on the operation alone."""
        if not self.total_order and (reason := _needs_revisions(operation)):
            return f"{reason} needs one revision for all keys, which the protocol does not have"
        if not self.compare_and_set and (reason := _depends(operation)):
            return f"{reason} depends on what the key holds, and the protocol only reads and writes"
        if not self.transactions and (reason := _spans(operation)):
            return f"{reason} spans several keys, which the protocol orders one by one"
        return None


EVERYTHING: Final = Abilities()
"""Of a protocol with one order over all commands."""


def _needs_revisions(operation: AnyOperation) -> str:
    match operation:
        case Get() | Range() if operation.revision:
            return "a read at a revision"
        case Put() if operation.lease:
            return "a lease"
        case GrantLease() | KeepAlive() | RevokeLease() | DescribeLease() | ListLeases():
            return "a lease"
        case DeleteRange():
            return "deleting an interval"
        case Compact():
            return "compaction"
        case OpenSession() | CloseSession():
            return "a registered session"
        case Transaction():
            if any(isinstance(condition, Unchanged) for condition in operation.conditions):
                return "the condition that an interval is unchanged"
            for simple in (*operation.then, *operation.otherwise):
                if reason := _needs_revisions(simple):
                    return reason
    return ""


def _depends(operation: AnyOperation) -> str:
    match operation:
        case Put() | Delete() if operation.if_revision is not None:
            return "a condition on a write"
        case Put() | Delete() if operation.previous:
            return "the previous value"
        case Add():
            return "an addition"
        case Transaction():
            return "a transaction"
    return ""


def _spans(operation: AnyOperation) -> str:
    if isinstance(operation, Range):
        return "a range"
    if isinstance(operation, DeleteRange):
        return "deleting an interval"
    if isinstance(operation, Transaction):
        touched = footprint((operation,))
        if touched.ranges or touched.written_ranges or len({*touched.reads, *touched.writes}) > 1:
            return "the transaction"
    return ""
