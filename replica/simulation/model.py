"""What the key-value store means, written a second time and as plainly as possible.

The model executes every decided command exactly once, in order, on dictionaries. It shares the vocabulary of operations
and results with `replica.kv` and not a line of its implementation, so that the two can be held against each other. It
forgets no result and bounds no answer: workloads that are judged by it stay below those limits.
"""

from __future__ import annotations

from typing import TypeAlias

from replica.consensus.interface import Command
from replica.kv import operations as kv
from replica.kv.runs import unpack

Entry: TypeAlias = kv.KeyValue


class _ConditionFailed(Exception):
    def __init__(self, code: str, detail: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class Model:
    """The store as it ought to be after the commands executed so far."""

    def __init__(self, *, sessions_max: int) -> None:
        """``sessions_max``: so many sessions are open at once; the one used least recently makes room for another."""
        self._sessions_max = sessions_max
        self.revision = 0
        self.live: dict[bytes, Entry] = {}
        self.versions: dict[bytes, list[tuple[int, Entry | None]]] = {}
        """Every write of a key, oldest first: revision, and what the key was from then on (None: deleted)."""
        self.executed: dict[tuple[int, int], list[kv.AnyResult]] = {}
        """Results by session and sequence: one for a write, however often it was decided; one a decision for a read."""
        self.openings: dict[bytes, list[int]] = {}
        """Session ids by the nonce that asked for them."""
        self.leases: dict[int, tuple[int, int]] = {}
        """Time to live and number of the last renewal, by lease."""
        self._last_lease = 0
        self._renewals = 0
        self._sessions = 0
        self._acknowledged: dict[int, int] = {}
        """What the client of each open session holds; ordered by last use."""
        self.evicted: set[int] = set()
        """Sessions that were open once."""

    # ------------------------------------------------------------------------------------------------------- commands

    def execute(self, commands: tuple[Command, ...]) -> None:
        """Execute what was decided at one position."""
        for command in commands:
            payload = unpack(command.payload)
            assert len(payload.operations) == command.count, "a command's count is not that of its operations"
            if command.session == 0:
                for operation in payload.operations:
                    if isinstance(operation, kv.OpenSession):
                        if len(self._acknowledged) >= self._sessions_max:
                            oldest = next(iter(self._acknowledged))
                            del self._acknowledged[oldest]
                            self.evicted.add(oldest)
                        self._sessions += 1
                        self._acknowledged[self._sessions] = 0
                        self.openings.setdefault(operation.nonce, []).append(self._sessions)
                    else:
                        self._evaluate(operation)
                continue
            known = self._acknowledged.pop(command.session, None)
            if known is None:
                continue
            self._acknowledged[command.session] = known = max(known, payload.acknowledged)
            for offset, operation in enumerate(payload.operations):
                sequence = command.sequence + offset
                done = self.executed.get((command.session, sequence))
                if sequence <= known:
                    continue
                if done is None:
                    self.executed[command.session, sequence] = [self._evaluate(operation)]
                elif isinstance(operation, kv.READ_ONLY):
                    done.append(self._evaluate(operation))

    def _evaluate(self, operation: kv.AnyOperation) -> kv.AnyResult:
        draft: dict[bytes, Entry | None] = {}
        try:
            if isinstance(operation, kv.Transaction):
                result: kv.AnyResult = self._transaction(operation, draft)
            elif isinstance(operation, kv.GrantLease | kv.KeepAlive | kv.RevokeLease | kv.DescribeLease):
                result = self._lease(operation, draft)
            else:
                result = self._simple(operation, draft)
        except _ConditionFailed as failed:
            return kv.Failed(self.revision, failed.code, "", failed.detail)
        if draft:
            self.revision += 1
            for key, entry in draft.items():
                if entry is None:
                    self.live.pop(key, None)
                else:
                    self.live[key] = entry
                self.versions.setdefault(key, []).append((self.revision, entry))
        return result

    def _transaction(self, operation: kv.Transaction, draft: dict[bytes, Entry | None]) -> kv.Transacted:
        succeeded = all(self._holds(condition) for condition in operation.conditions)
        branch = operation.then if succeeded else operation.otherwise
        results = tuple(self._simple(simple, draft) for simple in branch)
        return kv.Transacted(self._now(draft), succeeded, results)

    def _simple(self, operation: kv.AnyOperation, draft: dict[bytes, Entry | None]) -> kv.AnyResult:
        match operation:
            case kv.Put():
                before = self._seen(operation.key, draft)
                self._demand(before, operation.if_revision)
                if operation.lease and operation.lease not in self.leases:
                    raise _ConditionFailed(kv.Failure.LEASE_UNKNOWN)
                self._write(operation.key, operation.value, before, draft, operation.lease)
                return kv.Written(self.revision + 1, before if operation.previous else None)
            case kv.Get():
                return kv.Got(self._now(draft), self._seen(operation.key, draft))
            case kv.Range():
                found = self._interval(operation.first, operation.last, draft)
                if operation.reverse:
                    found.reverse()
                more = bool(operation.limit) and len(found) > operation.limit
                items = tuple(found[: operation.limit] if operation.limit else found)
                return kv.Ranged(self._now(draft), items, len(items), more)
            case kv.Delete():
                before = self._seen(operation.key, draft)
                self._demand(before, operation.if_revision)
                if before is None:
                    return kv.Deleted(self._now(draft))
                draft[operation.key] = None
                return kv.Deleted(self.revision + 1, 1, (before,) if operation.previous else ())
            case kv.DeleteRange():
                found = self._interval(operation.first, operation.last, draft)
                for entry in found:
                    draft[entry.key] = None
                return kv.Deleted(self._now(draft), len(found), tuple(found) if operation.previous else ())
            case kv.Add():
                before = self._seen(operation.key, draft)
                try:
                    value = int(before.value if before is not None else b"0") + operation.delta
                except ValueError:
                    raise _ConditionFailed(kv.Failure.NOT_A_NUMBER) from None
                lease = before.lease if before is not None else 0
                self._write(operation.key, str(value).encode(), before, draft, lease)
                return kv.Added(self.revision + 1, value)
            case _:
                raise AssertionError(f"the model does not know {operation!r}")

    def _lease(
        self,
        operation: kv.GrantLease | kv.KeepAlive | kv.RevokeLease | kv.DescribeLease,
        draft: dict[bytes, Entry | None],
    ) -> kv.AnyResult:
        lease = operation.lease
        if isinstance(operation, kv.GrantLease):
            if lease in self.leases:
                raise _ConditionFailed(kv.Failure.LEASE_EXISTS)
            while not lease or lease in self.leases:
                self._last_lease += 1
                lease = self._last_lease
            self._renewals += 1
            self.leases[lease] = operation.ttl_ms, self._renewals
            return kv.LeaseGranted(self.revision, lease, operation.ttl_ms, self._renewals)
        if lease not in self.leases:
            raise _ConditionFailed(kv.Failure.LEASE_UNKNOWN)
        ttl_ms, renewal = self.leases[lease]
        attached = sorted(key for key, entry in self.live.items() if entry.lease == lease)
        match operation:
            case kv.KeepAlive():
                self._renewals += 1
                self.leases[lease] = ttl_ms, self._renewals
                return kv.LeaseGranted(self.revision, lease, ttl_ms, self._renewals)
            case kv.DescribeLease():
                names = tuple(attached) if operation.names else ()
                return kv.LeaseDescribed(self.revision, lease, ttl_ms, renewal, len(attached), names)
            case kv.RevokeLease():
                if operation.if_renewal not in {None, renewal}:
                    raise _ConditionFailed(kv.Failure.LEASE_RENEWED, renewal)
                del self.leases[lease]
                draft.update(dict.fromkeys(attached))
                return kv.LeaseRevoked(self._now(draft), len(attached))

    # --------------------------------------------------------------------------------------------------------- helpers

    def _now(self, draft: dict[bytes, Entry | None]) -> int:
        return self.revision + 1 if draft else self.revision

    def _seen(self, key: bytes, draft: dict[bytes, Entry | None]) -> Entry | None:
        return draft[key] if key in draft else self.live.get(key)

    def _interval(self, first: bytes, last: bytes, draft: dict[bytes, Entry | None]) -> list[Entry]:
        keys = sorted(key for key in self.live.keys() | draft.keys() if first <= key and (not last or key < last))
        return [entry for key in keys if (entry := self._seen(key, draft)) is not None]

    def _write(
        self, key: bytes, value: bytes, before: Entry | None, draft: dict[bytes, Entry | None], lease: int
    ) -> None:
        revision = self.revision + 1
        if before is None:
            draft[key] = Entry(key, value, revision, revision, 1, lease)
        else:
            draft[key] = Entry(key, value, before.create_revision, revision, before.version + 1, lease)

    def _demand(self, before: Entry | None, wanted: int | None) -> None:
        found = 0 if before is None else before.mod_revision
        if wanted is not None and found != wanted:
            raise _ConditionFailed(kv.Failure.CONDITION, found)

    def _holds(self, condition: kv.Condition) -> bool:
        if isinstance(condition, kv.Unchanged):
            return not any(
                writes[-1][0] > condition.revision
                for key, writes in self.versions.items()
                if condition.first <= key and (not condition.last or key < condition.last)
            )
        entry = self.live.get(condition.key)
        actual: bytes | int
        if condition.target == "value":
            if entry is None:
                return condition.relation == "!="
            actual = entry.value
        elif condition.target == "exists":
            actual = int(entry is not None)
        elif entry is None:
            actual = 0
        else:
            actual = {
                "version": entry.version,
                "create": entry.create_revision,
                "mod": entry.mod_revision,
            }[condition.target]
        order = (actual > condition.operand) - (actual < condition.operand)  # type: ignore[operator]
        return {"=": order == 0, "!=": order != 0, "<": order < 0, ">": order > 0}[condition.relation]

    # --------------------------------------------------------------------------------------------------------- reading

    def read_at(self, operation: kv.AnyOperation, revision: int) -> kv.AnyResult:
        """What a `Get` or a `Range` had to answer when the store stood at ``revision``."""
        if isinstance(operation, kv.Get):
            return kv.Got(revision, self._entry_at(operation.key, revision))
        assert isinstance(operation, kv.Range)
        keys = sorted(
            key for key in self.versions if operation.first <= key and (not operation.last or key < operation.last)
        )
        found = [entry for key in keys if (entry := self._entry_at(key, revision)) is not None]
        if operation.reverse:
            found.reverse()
        more = bool(operation.limit) and len(found) > operation.limit
        items = tuple(found[: operation.limit] if operation.limit else found)
        return kv.Ranged(revision, items, len(items), more)

    def _entry_at(self, key: bytes, revision: int) -> Entry | None:
        for written, entry in reversed(self.versions.get(key, [])):
            if written <= revision:
                return entry
        return None


def same_result(one: kv.AnyResult, other: kv.AnyResult) -> bool:
    """Equal, but for the words of a refusal."""
    if isinstance(one, kv.Failed) and isinstance(other, kv.Failed):
        return (one.revision, one.code, one.detail) == (other.revision, other.code, other.detail)
    return one == other
