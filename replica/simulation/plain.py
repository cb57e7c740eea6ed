"""The key-value store a second time, as plainly as possible, for orders by key.

The twin of `replica.simulation.model`: every key counts its own revisions, and remembers by itself who has written it.
It forgets no result and bounds no answer.
"""

from __future__ import annotations

import msgspec

from replica.consensus.interface import Command
from replica.kv import operations as kv
from replica.kv.runs import unpack

Entry = kv.KeyValue


class Refused(Exception):
    """The operation is refused."""

    def __init__(self, code: str, detail: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


class Remembered(msgspec.Struct):
    """A session, as one key remembers it."""

    acknowledged: int = 0
    done: set[int] = msgspec.field(default_factory=set)


class Key(msgspec.Struct):
    """A key: ``past`` holds what it was after each of its revisions, from 0 on."""

    past: list[Entry | None] = msgspec.field(default_factory=lambda: [None])
    sessions: dict[int, Remembered] = {}
    floor: int = 0

    @property
    def revision(self) -> int:
        return len(self.past) - 1

    @property
    def entry(self) -> Entry | None:
        return self.past[-1]


class Execution(msgspec.Struct):
    """What carrying out an operation once came to: the revisions that it made, and those that it saw, by key."""

    result: kv.AnyResult
    made: dict[bytes, int]
    saw: dict[bytes, int]


class PlainStore:
    """The store as it ought to be after the commands executed so far."""

    def __init__(self, *, sessions_max: int) -> None:
        """``sessions_max``: so many sessions a key remembers; the one used least recently makes room for another."""
        self._sessions_max = sessions_max
        self.keys: dict[bytes, Key] = {}
        self.executed: dict[tuple[int, int], list[Execution]] = {}
        """By session and sequence: one for a write, however often it was decided; one a decision for a read."""

    def execute(self, command: Command) -> None:
        """Execute a decided command."""
        payload = unpack(command.payload)
        assert len(payload.operations) == command.count, "a command's count is not that of its operations"
        for offset, operation in enumerate(payload.operations):
            name = (command.session, command.sequence + offset)
            writes = _writes(operation)
            if not writes:
                self.executed.setdefault(name, []).append(self._evaluate(operation))
            elif self._is_new(name, writes, payload.acknowledged):
                self.executed[name] = [self._evaluate(operation)]
                for key in writes:
                    self._remember(key, name)

    def _is_new(self, name: tuple[int, int], writes: set[bytes], acknowledged: int) -> bool:
        session, sequence = name
        known = []
        refused = False
        for key in writes:
            held = self.keys.get(key)
            if held is None:
                continue
            remembered = held.sessions.pop(session, None)
            if remembered is None:
                refused = refused or session <= held.floor
                continue
            held.sessions[session] = remembered
            remembered.acknowledged = max(remembered.acknowledged, acknowledged)
            known.append(remembered)
        if any(sequence in each.done or sequence <= each.acknowledged for each in known):
            return False
        return not refused and sequence > acknowledged

    def _remember(self, key: bytes, name: tuple[int, int]) -> None:
        held = self._at(key)
        session, sequence = name
        if session not in held.sessions:
            if len(held.sessions) >= self._sessions_max:
                evicted = next(iter(held.sessions))
                del held.sessions[evicted]
                held.floor = max(held.floor, evicted)
            held.sessions[session] = Remembered()
        held.sessions[session].done.add(sequence)

    def _at(self, key: bytes) -> Key:
        held = self.keys.get(key)
        if held is None:
            held = self.keys[key] = Key(sessions={})
        return held

    # ------------------------------------------------------------------------------------------------------ evaluation

    def _evaluate(self, operation: kv.AnyOperation) -> Execution:
        draft: dict[bytes, Entry | None] = {}
        saw: dict[bytes, int] = {}
        try:
            if isinstance(operation, kv.Transaction):
                result: kv.AnyResult = self._transaction(operation, draft, saw)
            else:
                result = self._simple(operation, draft, saw)
        except Refused as refused:
            return Execution(kv.Failed(0, refused.code, "", refused.detail), {}, saw)
        made = {}
        for key, entry in draft.items():
            self._at(key).past.append(entry)
            made[key] = self.keys[key].revision
            saw.pop(key, None)
        return Execution(result, made, saw)

    def _transaction(
        self, operation: kv.Transaction, draft: dict[bytes, Entry | None], saw: dict[bytes, int]
    ) -> kv.Transacted:
        held = [self._holds(condition, saw) for condition in operation.conditions]
        succeeded = all(held)
        branch = operation.then if succeeded else operation.otherwise
        return kv.Transacted(0, succeeded, tuple(self._simple(simple, draft, saw) for simple in branch))

    def _simple(
        self, operation: kv.AnyOperation, draft: dict[bytes, Entry | None], saw: dict[bytes, int]
    ) -> kv.AnyResult:
        match operation:
            case kv.Put(key=key):
                before = self._seen(key, draft, saw)
                self._demand(before, operation.if_revision)
                self._write(key, operation.value, before, draft)
                return kv.Written(self._revision(key, draft), before if operation.previous else None)
            case kv.Get(key=key):
                return kv.Got(self._revision(key, draft), self._seen(key, draft, saw))
            case kv.Range():
                keys = sorted(
                    key
                    for key in self.keys.keys() | draft.keys()
                    if operation.first <= key and (not operation.last or key < operation.last)
                )
                found = [entry for key in keys if (entry := self._seen(key, draft, saw)) is not None]
                if operation.reverse:
                    found.reverse()
                more = bool(operation.limit) and len(found) > operation.limit
                items = tuple(found[: operation.limit] if operation.limit else found)
                return kv.Ranged(0, items, len(items), more)
            case kv.Delete(key=key):
                before = self._seen(key, draft, saw)
                self._demand(before, operation.if_revision)
                if before is None:
                    return kv.Deleted(self._revision(key, draft))
                draft[key] = None
                return kv.Deleted(self._revision(key, draft), 1, (before,) if operation.previous else ())
            case kv.Add(key=key):
                before = self._seen(key, draft, saw)
                try:
                    value = int(before.value if before is not None else b"0") + operation.delta
                except ValueError:
                    raise Refused(kv.Failure.NOT_A_NUMBER) from None
                self._write(key, str(value).encode(), before, draft)
                return kv.Added(self._revision(key, draft), value)
            case _:
                raise AssertionError(f"the workload holds {operation!r}, which has no meaning key by key")

    def _revision(self, key: bytes, draft: dict[bytes, Entry | None]) -> int:
        held = self.keys.get(key)
        return (0 if held is None else held.revision) + (key in draft)

    def _seen(self, key: bytes, draft: dict[bytes, Entry | None], saw: dict[bytes, int]) -> Entry | None:
        held = self.keys.get(key)
        saw[key] = 0 if held is None else held.revision
        if key in draft:
            return draft[key]
        return None if held is None else held.entry

    def _write(self, key: bytes, value: bytes, before: Entry | None, draft: dict[bytes, Entry | None]) -> None:
        held = self.keys.get(key)
        revision = 1 if held is None else held.revision + 1
        if before is None:
            draft[key] = Entry(key, value, revision, revision, 1)
        else:
            draft[key] = Entry(key, value, before.create_revision, revision, before.version + 1)

    def _demand(self, before: Entry | None, wanted: int | None) -> None:
        found = 0 if before is None else before.mod_revision
        if wanted is not None and found != wanted:
            raise Refused(kv.Failure.CONDITION, found)

    def _holds(self, condition: kv.Condition, saw: dict[bytes, int]) -> bool:
        assert isinstance(condition, kv.Compare), "an interval is unchanged since a revision: there is none"
        entry = self._seen(condition.key, {}, saw)
        if condition.target == "value":
            if entry is None:
                return condition.relation == "!="
            actual: bytes | int = entry.value
        elif condition.target == "exists":
            actual = int(entry is not None)
        elif entry is None:
            actual = 0
        else:
            actual = {"version": entry.version, "create": entry.create_revision, "mod": entry.mod_revision}[
                condition.target
            ]
        order = (actual > condition.operand) - (actual < condition.operand)  # type: ignore[operator]
        return {"=": order == 0, "!=": order != 0, "<": order < 0, ">": order > 0}[condition.relation]


def _writes(operation: kv.AnyOperation) -> set[bytes]:
    match operation:
        case kv.Put() | kv.Delete() | kv.Add():
            return {operation.key}
        case kv.Transaction():
            return {key for simple in (*operation.then, *operation.otherwise) for key in _writes(simple)}
        case _:
            return set()
