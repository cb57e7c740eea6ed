"""How replicas name sessions without asking each other.

An id is a clock in the manner of Lamport, with the replica and its incarnation in the low bits::

    clock (31 bits) · replica (12) · incarnation (20)

The clock grows with every session that is minted, and is never behind the ids that this replica has seen in commands or
in refusals. No two replicas share an id, and neither do two runs of one replica, since the incarnation was made durable
before: nothing needs to be reserved. The clock may start low again after a restart; that costs a refusal by a key
whose floor is higher, and no more.
"""

from __future__ import annotations

from typing import Final

from replica.kv.operations import REVISION_MAX

_REPLICA_BITS: Final = 12
_INCARNATION_BITS: Final = 20
_CLOCK_SHIFT: Final = _REPLICA_BITS + _INCARNATION_BITS

REPLICAS_MAX: Final = (1 << _REPLICA_BITS) - 1
"""The highest replica id that can mint sessions."""

CLOCK_AHEAD_MAX: Final = 1 << 16
"""So many sessions another replica may have minted that this one has not seen used. Whoever makes up ids needs 32 768
of them, each used in a command, to use up the clock."""

INCARNATIONS_MAX: Final = (1 << _INCARNATION_BITS) - 1
"""So often a replica may start before it must be replaced by a new one."""


class Mint:
    """Mints the ids of the sessions that open at one replica, during one run of it."""

    def __init__(self, replica: int, incarnation: int) -> None:
        """Raises `ValueError` when replica or incarnation do not fit."""
        if not 0 < replica <= REPLICAS_MAX:
            raise ValueError(f"replica {replica} cannot name sessions: ids up to {REPLICAS_MAX} can")
        if not 0 <= incarnation <= INCARNATIONS_MAX:
            raise ValueError(
                f"replica {replica} has started {incarnation} times, and names sessions up to {INCARNATIONS_MAX} "
                "starts: replace it by a new replica"
            )
        self._low = replica << _INCARNATION_BITS | incarnation
        self._clock = 0

    def saw(self, session: int) -> None:
        """An id has been seen; what is minted from now on lies above it."""
        self._clock = max(self._clock, session >> _CLOCK_SHIFT)

    def plausible(self, session: int) -> bool:
        """May a replica have minted the id? Its clock may be ahead of this one's by the sessions that nobody has used;
        by more, it was made up, and believing it would use up the clock of everybody.
        """
        return session >> _CLOCK_SHIFT <= self._clock + CLOCK_AHEAD_MAX

    def mint(self) -> int:
        """An id that nobody has or will ever have again."""
        self._clock += 1
        minted = self._clock << _CLOCK_SHIFT | self._low
        if minted > REVISION_MAX:
            raise OverflowError("the clock of sessions has run out")
        return minted
