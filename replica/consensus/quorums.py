"""Quorum systems: which sets of replicas suffice for which phase. Knows nothing of any protocol.

A quorum system is two monotone predicates over sets of members. ``phase1`` says which sets suffice to take over (to
learn what may have been decided before), ``phase2`` which suffice to decide. What makes a system sound is that every
phase-1 quorum meets every phase-2 quorum (Howard, Malkhi, Spiegelman 2016); phase-2 quorums need not meet one another,
nor phase-1 quorums. The constructors check it and raise `ConfigurationError` naming the field at fault.

Because the predicates are monotone, two quorums that miss each other exist if and only if some set S satisfies phase 1
while its complement satisfies phase 2. `find_disjoint` searches all subsets for that, which is exact for any system
and quick up to `ENUMERATION_MEMBERS_MAX` members; each class states a closed formula besides, and the tests compare
the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from .interface import ConfigurationError, ReplicaId

ENUMERATION_MEMBERS_MAX: Final = 12
"""Systems of at most so many members are checked by looking at every subset (4096 of them) at construction."""


class Quorums(ABC):
    """The common face. Acknowledgements are sets of replicas; those of strangers count for nothing."""

    def __init__(self, members: Iterable[ReplicaId]) -> None:
        """``members``: at least one, each once. Raises `ConfigurationError`."""
        self.members: frozenset[ReplicaId] = frozenset(members)
        if not self.members:
            raise ConfigurationError("members: a quorum system needs at least one replica")

    @abstractmethod
    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        """Do ``acks`` contain a phase-1 quorum?"""

    @abstractmethod
    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        """Do ``acks`` contain a phase-2 quorum?"""

    @property
    @abstractmethod
    def phase1_size(self) -> int:
        """The size of the smallest phase-1 quorum."""

    @property
    @abstractmethod
    def phase2_size(self) -> int:
        """The size of the smallest phase-2 quorum."""

    def meets_every_phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        """Does every phase-1 quorum contain a member of ``acks``?

        Then nobody can have taken over before the last of them acknowledged: what a quorum read or a read index needs.
        Every phase-2 quorum does; smaller sets may.
        """
        return not self.phase1(self.members - acks)

    @property
    def admission_others(self) -> int:
        """How many *other* members must have put a fresh replica's disk on record before it may vote.

        Two things are asked. Two disks under one id must not both be admitted: a member records one disk an id, so two
        sets of recorders must share a member, which takes more than half of the ``n - 1`` others. And every quorum
        should hold somebody who knows the disk: ``n - q + 1`` of all, where ``q`` is the smallest quorum. The larger
        of both, and never more than there are.
        """
        n = len(self.members)
        smallest = min(self.phase1_size, self.phase2_size)
        return min(n - 1, max((n - 1) // 2 + 1, n - smallest + 1))


class Majority(Quorums):
    """More than half, for both phases."""

    def __init__(self, members: Iterable[ReplicaId]) -> None:
        super().__init__(members)
        self._size = len(self.members) // 2 + 1

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._size

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._size

    @property
    def phase1_size(self) -> int:
        return self._size

    @property
    def phase2_size(self) -> int:
        return self._size


class Flexible(Quorums):
    """Any ``q1`` members for phase 1 and any ``q2`` for phase 2, with ``q1 + q2 > n``.

    A small ``q2`` makes decisions cheap and take-overs dear: with ``q2 = 1`` the loss of one member stops every
    election.
    """

    def __init__(self, members: Iterable[ReplicaId], *, q1: int, q2: int) -> None:
        """Raises `ConfigurationError` naming ``q1`` or ``q2``."""
        super().__init__(members)
        n = len(self.members)
        for field, size in (("q1", q1), ("q2", q2)):
            if not 1 <= size <= n:
                raise ConfigurationError(
                    f"{field}: a quorum of {size} is not possible among {n} members; give 1 to {n}"
                )
        if q1 + q2 <= n:
            raise ConfigurationError(
                f"q1, q2: quorums of {q1} and {q2} among {n} members need not intersect; q1 + q2 must exceed {n}"
            )
        self._q1 = q1
        self._q2 = q2

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._q1

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._q2

    @property
    def phase1_size(self) -> int:
        return self._q1

    @property
    def phase2_size(self) -> int:
        return self._q2


class Grid(Quorums):
    """Members stand in zones (the rows of a grid); a quorum is so many members in each of so many zones.

    Rows against columns: ``q1_zones=1`` with everybody of the zone, ``q2_zones=Z`` with one member each. WPaxos' form
    (Ailijiang et al. 2019) with ``Z`` zones of ``l`` members, tolerating ``f_n`` failures in a zone and ``f_z`` zones:
    ``q1 = (Z - f_z, l - f_n)`` and ``q2 = (f_z + 1, f_n + 1)``; see `Grid.tolerant`.
    """

    def __init__(
        self,
        zones: Sequence[Iterable[ReplicaId]],
        *,
        q1_zones: int,
        q1_members: int,
        q2_zones: int,
        q2_members: int,
    ) -> None:
        """Raises `ConfigurationError` naming the field."""
        self._zones = tuple(frozenset(zone) for zone in zones)
        super().__init__(replica for zone in self._zones for replica in zone)
        if any(not zone for zone in self._zones):
            raise ConfigurationError("zones: a zone has no member")
        if sum(len(zone) for zone in self._zones) != len(self.members):
            raise ConfigurationError("zones: a replica stands in more than one zone")
        self._q1 = (q1_zones, q1_members)
        self._q2 = (q2_zones, q2_members)
        for name, (zone_count, member_count) in (("q1", self._q1), ("q2", self._q2)):
            if not 1 <= zone_count <= len(self._zones):
                raise ConfigurationError(
                    f"{name}_zones: {zone_count} of {len(self._zones)} zones is not possible; "
                    f"give 1 to {len(self._zones)}"
                )
            able = sum(len(zone) >= member_count for zone in self._zones)
            if member_count < 1 or able < zone_count:
                raise ConfigurationError(
                    f"{name}_members: {member_count} members in each of {zone_count} zones is not possible; "
                    f"the zones have {', '.join(str(len(zone)) for zone in self._zones)} members"
                )
        if not self._intersects():
            raise ConfigurationError(
                f"q1_zones, q1_members, q2_zones, q2_members: {q1_members} members in each of {q1_zones} zones "
                f"need not meet {q2_members} members in each of {q2_zones} zones"
            )

    @classmethod
    def tolerant(cls, zones: Sequence[Iterable[ReplicaId]], *, zone_failures: int, member_failures: int) -> Grid:
        """Decide although ``member_failures`` members fail in each zone, take over although ``zone_failures`` zones
        do. Zones are to have one size. Raises `ConfigurationError`."""
        rows = [tuple(zone) for zone in zones]
        size = min((len(row) for row in rows), default=0)
        if member_failures < 0 or size < 2 * member_failures + 1:
            raise ConfigurationError(
                f"member_failures: {member_failures} failures in a zone need zones of at least "
                f"{2 * member_failures + 1} members; the smallest has {size}"
            )
        if zone_failures < 0 or len(rows) < 2 * zone_failures + 1:
            raise ConfigurationError(
                f"zone_failures: losing {zone_failures} zones needs at least {2 * zone_failures + 1} zones; "
                f"there are {len(rows)}"
            )
        return cls(
            rows,
            q1_zones=len(rows) - zone_failures,
            q1_members=size - member_failures,
            q2_zones=zone_failures + 1,
            q2_members=member_failures + 1,
        )

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return self._holds(acks, self._q1)

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return self._holds(acks, self._q2)

    @property
    def phase1_size(self) -> int:
        return self._q1[0] * self._q1[1]

    @property
    def phase2_size(self) -> int:
        return self._q2[0] * self._q2[1]

    def _holds(self, acks: AbstractSet[ReplicaId], quorum: tuple[int, int]) -> bool:
        zone_count, member_count = quorum
        return sum(len(acks & zone) >= member_count for zone in self._zones) >= zone_count

    def _intersects(self) -> bool:
        """Whether an adversary who picks both quorums can keep them apart.

        Two quorums may share a zone without sharing a member only if the zone has room for both. Zones with that room
        serve both; every other zone serves one of them, if it is large enough for it.
        """
        (zones1, members1), (zones2, members2) = self._q1, self._q2
        sizes = [len(zone) for zone in self._zones]
        roomy = sum(size >= members1 + members2 for size in sizes)
        narrow = [size for size in sizes if size < members1 + members2]
        only1 = sum(members1 <= size < members2 for size in narrow)
        only2 = sum(members2 <= size < members1 for size in narrow)
        either = sum(size >= max(members1, members2) for size in narrow)
        wanted = max(0, zones1 - roomy - only1) + max(0, zones2 - roomy - only2)
        return wanted > either


class FastQuorum(Quorums):
    """Classic quorums of ``classic`` members beside fast ones of ``fast`` (Lamport, Fast Paxos, 2006).

    A fast quorum decides without a coordinator in between. Whoever recovers with a classic quorum must be able to tell
    which value a fast quorum may have decided, so any classic and any two fast quorums share a member:
    ``2 * fast + classic > 2 * n``; and any two classic quorums do: ``2 * classic > n``.
    """

    def __init__(self, members: Iterable[ReplicaId], *, classic: int, fast: int) -> None:
        """Raises `ConfigurationError` naming ``classic`` or ``fast``."""
        super().__init__(members)
        n = len(self.members)
        if not (1 <= classic <= n and 2 * classic > n):
            raise ConfigurationError(
                f"classic: two quorums of {classic} among {n} members need not intersect; give {n // 2 + 1} to {n}"
            )
        least = (2 * n - classic) // 2 + 1
        if not (classic <= fast <= n and 2 * fast + classic > 2 * n):
            raise ConfigurationError(
                f"fast: two fast quorums of {fast} and a classic one of {classic} among {n} members need not "
                f"share a member; give {max(least, classic)} to {n}"
            )
        self._classic = classic
        self._fast = fast

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._classic

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= self._classic

    def fast(self, acks: AbstractSet[ReplicaId]) -> bool:
        """Do ``acks`` contain a fast quorum?"""
        return len(acks & self.members) >= self._fast

    @property
    def phase1_size(self) -> int:
        return self._classic

    @property
    def phase2_size(self) -> int:
        return self._classic

    @property
    def fast_size(self) -> int:
        """The size of the smallest fast quorum."""
        return self._fast


class Egalitarian(Quorums):
    """The quorums of a protocol in which any replica proposes: classic ones of ``n - f``, fast ones of ``n - e``.

    A fast quorum counts the proposer, which is why one replica fewer suffices than in Fast Paxos: ``n`` is to be at
    least ``2e + f - 1`` and ``2f + 1``, and no protocol of this kind can do with fewer (Ryabinin, Gotsman, Sutra 2025).
    ``f`` failures are survived; commands without contention are decided in one round trip in spite of ``e``.
    """

    def __init__(self, members: Iterable[ReplicaId], *, e: int, f: int) -> None:
        """Raises `ConfigurationError` naming ``e`` or ``f``."""
        super().__init__(members)
        n = len(self.members)
        if f < 0 or 2 * f + 1 > n:
            raise ConfigurationError(f"f: surviving {f} failures needs {2 * f + 1} members; there are {n}")
        if not 0 <= e <= f:
            raise ConfigurationError(f"e: must be 0 to f, which is {f}, not {e}")
        if 2 * e + f - 1 > n:
            raise ConfigurationError(
                f"e, f: fast decisions in spite of {e} failures and survival of {f} need {2 * e + f - 1} members; "
                f"there are {n}"
            )
        self.e = e
        self.f = f

    def phase1(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= len(self.members) - self.f

    def phase2(self, acks: AbstractSet[ReplicaId]) -> bool:
        return len(acks & self.members) >= len(self.members) - self.f

    @property
    def phase1_size(self) -> int:
        return len(self.members) - self.f

    @property
    def phase2_size(self) -> int:
        return len(self.members) - self.f

    @property
    def fast_size(self) -> int:
        """The size of a fast quorum, the proposer included."""
        return len(self.members) - self.e


def find_disjoint(quorums: Quorums) -> tuple[frozenset[ReplicaId], frozenset[ReplicaId]] | None:
    """A phase-1 quorum and a phase-2 quorum that share no member, or None when every pair intersects.

    Looks at every subset of the members: exact, and exponential in their number.
    """
    members = sorted(quorums.members)
    for bits in range(1 << len(members)):
        side = frozenset(replica for index, replica in enumerate(members) if bits >> index & 1)
        if quorums.phase1(side) and quorums.phase2(quorums.members - side):
            return side, quorums.members - side
    return None


def checked(quorums: Quorums) -> Quorums:
    """``quorums`` itself, after a look at every pair where that is cheap: for systems that come from elsewhere.

    Raises `ConfigurationError` when two quorums miss each other, or when even all members are no quorum.
    """
    for field, predicate in (("phase1", quorums.phase1), ("phase2", quorums.phase2)):
        if not predicate(quorums.members):
            raise ConfigurationError(f"{field}: not even all {len(quorums.members)} members are a quorum")
    if len(quorums.members) <= ENUMERATION_MEMBERS_MAX:
        apart = find_disjoint(quorums)
        if apart is not None:
            first, second = (", ".join(map(str, sorted(side))) for side in apart)
            raise ConfigurationError(
                f"quorums: the phase-1 quorum within ({first}) misses the phase-2 quorum within ({second})"
            )
    return quorums
