"""The state machine once more, as simple as can be: it keeps a full copy of all keys for every revision.

Written from the documentation of the operations, to be compared with the real one. It shares the vocabulary and not a
line of code.
"""

from typing import Any

from replica.kv.operations import (
    READ_ONLY,
    SESSION_WINDOW,
    SYSTEM_PREFIX,
    Add,
    Added,
    AnyResult,
    CloseSession,
    Compact,
    Compacted,
    Compare,
    Condition,
    Delete,
    Deleted,
    DeleteRange,
    DescribeLease,
    Failed,
    Failure,
    Get,
    Got,
    GrantLease,
    KeepAlive,
    KeyValue,
    LeaseDescribed,
    LeaseGranted,
    LeaseRevoked,
    LeasesListed,
    ListLeases,
    OpenSession,
    Put,
    Range,
    Ranged,
    RevokeLease,
    SessionClosed,
    SessionOpened,
    Transacted,
    Transaction,
    Written,
)

READ = object()

State = dict[bytes, KeyValue]


class Refusal(Exception):
    def __init__(self, code: str, detail: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class Reference:
    def __init__(self, sessions_max: int) -> None:
        self.states: list[State] = [{}]  # by revision: key -> KeyValue
        self.touched: list[set[bytes]] = [set()]  # by revision: keys written or deleted
        self.compacted = 0
        self.sessions_max = sessions_max
        self.sessions: dict[
            int, list[Any]
        ] = {}  # id -> [acknowledged, {sequence: result or READ}], least recently used first
        self.next_session = 1
        self.leases: dict[int, tuple[int, int]] = {}  # id -> (time to live, number of the last renewal)
        self.last_lease = 0
        self.renewals = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    # ---------------------------------------------------------------------------------------------------- sessions

    def apply(
        self, session: int, sequence: int, acknowledged: int, operations: tuple[Any, ...], system: bool
    ) -> list[AnyResult]:
        if session == 0:
            return [self.execute(operation, system) for operation in operations]
        if session not in self.sessions:
            return [Failed(self.revision, Failure.SESSION_UNKNOWN) for _ in operations]
        record = self.sessions.pop(session)
        self.sessions[session] = record
        record[0] = max(record[0], acknowledged)
        results = []
        for number, operation in enumerate(operations, sequence):
            results.append(self.execute_once(record, number, operation, system))
        return results

    def execute_once(self, record: list[Any], number: int, operation: Any, system: bool) -> AnyResult:
        acknowledged, executed = record
        is_read = isinstance(operation, READ_ONLY)
        if number <= acknowledged:
            return Failed(self.revision, Failure.RESULT_FORGOTTEN)
        if number > acknowledged + SESSION_WINDOW:
            return Failed(self.revision, Failure.WINDOW, "", acknowledged + SESSION_WINDOW)
        if number not in executed:
            answer = self.execute(operation, system)
            executed[number] = READ if is_read else answer
            return answer
        if is_read:
            return self.execute(operation, system)
        if executed[number] is READ:
            return Failed(self.revision, Failure.INVALID)
        result: AnyResult = executed[number]
        return result

    # -------------------------------------------------------------------------------------------------- operations

    def execute(self, operation: Any, system: bool) -> AnyResult:
        match operation:
            case OpenSession():
                if len(self.sessions) >= self.sessions_max:
                    del self.sessions[next(iter(self.sessions))]
                opened = self.next_session
                self.next_session += 1
                self.sessions[opened] = [0, {}]
                return SessionOpened(self.revision, opened)
            case CloseSession():
                self.sessions.pop(operation.session, None)
                return SessionClosed(self.revision)
            case Compact():
                if operation.revision > self.revision:
                    return Failed(self.revision, Failure.FUTURE_REVISION, "", self.revision)
                self.compacted = max(self.compacted, operation.revision)
                return Compacted(self.revision, self.compacted)
        attempt = Attempt(self, system)
        try:
            if isinstance(operation, Transaction):
                result: AnyResult = attempt.transaction(operation)
            elif isinstance(operation, GrantLease | KeepAlive | RevokeLease | DescribeLease | ListLeases):
                result = self.lease(operation, attempt)
            else:
                result = attempt.do(operation)
        except Refusal as refusal:
            return Failed(self.revision, refusal.code, "", refusal.detail)
        if attempt.touched:
            self.states.append(attempt.state)
            self.touched.append(attempt.touched)
        return result

    def lease(self, operation: Any, attempt: "Attempt") -> AnyResult:
        match operation:
            case ListLeases():
                behind = [lease for lease in sorted(self.leases) if lease > operation.after]
                shown = behind[: operation.limit] if operation.limit else behind
                described = tuple(self.describe(lease, False) for lease in shown)
                return LeasesListed(self.revision, described, len(shown) < len(behind))
            case GrantLease():
                lease = operation.lease
                if lease in self.leases:
                    raise Refusal(Failure.LEASE_EXISTS)
                while not lease:
                    self.last_lease += 1
                    lease = 0 if self.last_lease in self.leases else self.last_lease
                self.renewals += 1
                self.leases[lease] = (operation.ttl_ms, self.renewals)
                return LeaseGranted(self.revision, lease, operation.ttl_ms, self.renewals)
        self.check_lease(operation.lease)
        ttl_ms, renewal = self.leases[operation.lease]
        match operation:
            case KeepAlive():
                self.renewals += 1
                self.leases[operation.lease] = (ttl_ms, self.renewals)
                return LeaseGranted(self.revision, operation.lease, ttl_ms, self.renewals)
            case RevokeLease():
                if operation.if_renewal is not None and operation.if_renewal != renewal:
                    raise Refusal(Failure.LEASE_RENEWED, renewal)
                del self.leases[operation.lease]
                doomed = [key for key, item in attempt.state.items() if item.lease == operation.lease]
                for key in doomed:
                    attempt.remove(key)
                return LeaseRevoked(attempt.now(), len(doomed))
            case DescribeLease():
                return self.describe(operation.lease, operation.names)
        raise AssertionError(operation)

    def describe(self, lease: int, names: bool) -> LeaseDescribed:
        keys = tuple(key for key, item in sorted(self.states[-1].items()) if item.lease == lease)
        return LeaseDescribed(self.revision, lease, *self.leases[lease], len(keys), keys if names else ())

    def check_lease(self, lease: int) -> None:
        if lease not in self.leases:
            raise Refusal(Failure.LEASE_UNKNOWN)

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise Refusal(Failure.FUTURE_REVISION, self.revision)
        if revision < self.compacted:
            raise Refusal(Failure.COMPACTED, self.compacted)


class Attempt:
    """The effect of one operation, on a copy."""

    def __init__(self, reference: Reference, system: bool) -> None:
        self.reference = reference
        self.system = system
        self.before = reference.states[-1]
        self.state = dict(self.before)
        self.touched: set[bytes] = set()
        self.next = reference.revision + 1

    def now(self) -> int:
        return self.next if self.touched else self.next - 1

    def visible(self, revision: int) -> State:
        if revision == 0:
            return self.state
        self.reference.check_revision(revision)
        return self.reference.states[revision]

    def select(self, state: State, first: bytes, last: bytes) -> list[KeyValue]:
        hidden = not self.system and not first.startswith(SYSTEM_PREFIX)
        return [
            state[key]
            for key in sorted(state)
            if inside(key, first, last) and not (hidden and key.startswith(SYSTEM_PREFIX))
        ]

    def transaction(self, operation: Transaction) -> Transacted:
        succeeded = all(self.holds(condition) for condition in operation.conditions)
        branch = operation.then if succeeded else operation.otherwise
        results = tuple(self.do(simple) for simple in branch)
        return Transacted(self.now(), succeeded, results)

    def holds(self, condition: Condition) -> bool:
        if not isinstance(condition, Compare):
            self.reference.check_revision(condition.revision)
            return not any(
                inside(key, condition.first, condition.last) and not key.startswith(SYSTEM_PREFIX)
                for touched in self.reference.touched[condition.revision + 1 :]
                for key in touched
            )
        item = self.before.get(condition.key)
        if condition.target == "value" and item is None:
            return condition.relation == "!="
        actual: Any = {
            "value": item.value if item else b"",
            "version": item.version if item else 0,
            "create": item.create_revision if item else 0,
            "mod": item.mod_revision if item else 0,
            "exists": int(item is not None),
        }[condition.target]
        operand: Any = condition.operand
        outcome: bool = {
            "=": actual == operand,
            "!=": actual != operand,
            "<": actual < operand,
            ">": actual > operand,
        }[condition.relation]
        return outcome

    def do(self, operation: Any) -> AnyResult:
        match operation:
            case Get():
                return Got(self.now(), self.visible(operation.revision).get(operation.key))
            case Range():
                found = self.select(self.visible(operation.revision), operation.first, operation.last)
                if operation.count_only:
                    return Ranged(self.now(), (), len(found))
                if operation.reverse:
                    found.reverse()
                more = 0 < operation.limit < len(found)
                if more:
                    found = found[: operation.limit]
                if operation.keys_only:
                    found = [KeyValue(i.key, b"", i.create_revision, i.mod_revision, i.version, i.lease) for i in found]
                return Ranged(self.now(), tuple(found), len(found), more)
            case Put():
                old = self.writable(operation.key, operation.if_revision)
                if operation.lease:
                    self.reference.check_lease(operation.lease)
                self.put(operation.key, operation.value, operation.lease)
                return Written(self.next, old if operation.previous else None)
            case Add():
                old = self.writable(operation.key, None)
                try:
                    total = int(old.value.decode()) if old else 0
                except ValueError:
                    raise Refusal(Failure.NOT_A_NUMBER) from None
                total += operation.delta
                if not -(2**63) <= total < 2**63:
                    raise Refusal(Failure.NOT_A_NUMBER)
                self.put(operation.key, str(total).encode(), old.lease if old else 0)
                return Added(self.next, total)
            case Delete():
                old = self.writable(operation.key, operation.if_revision)
                if old is None:
                    return Deleted(self.now())
                self.remove(operation.key)
                return Deleted(self.next, 1, (old,) if operation.previous else ())
            case DeleteRange():
                if operation.first.startswith(SYSTEM_PREFIX) and not self.system:
                    raise Refusal(Failure.INVALID)
                found = self.select(self.state, operation.first, operation.last)
                for item in found:
                    self.remove(item.key)
                return Deleted(self.now(), len(found), tuple(found) if operation.previous else ())
        raise AssertionError(operation)

    def writable(self, key: bytes, if_revision: int | None) -> KeyValue | None:
        if key.startswith(SYSTEM_PREFIX) and not self.system:
            raise Refusal(Failure.INVALID)
        old = self.state.get(key)
        found = old.mod_revision if old else 0
        if if_revision is not None and if_revision != found:
            raise Refusal(Failure.CONDITION, found)
        return old

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        old = self.state.get(key)
        create = old.create_revision if old else self.next
        version = old.version + 1 if old else 1
        self.state[key] = KeyValue(key, value, create, self.next, version, lease)
        self.touched.add(key)

    def remove(self, key: bytes) -> None:
        del self.state[key]
        self.touched.add(key)


def inside(key: bytes, first: bytes, last: bytes) -> bool:
    return first <= key and (last == b"" or key < last)
