"""What the records of register protocols mean (`replica.consensus.interface.Registers`).

Two kinds, by what the protocol can do with a record:

- `AtomicRegisters`: a transition is computed from the very record that it replaces (CASPaxos). The record is that of
  `replica.kv.objects.record`: item, revision and sessions, with everything that one key offers.
- `PlainRegisters`: a write takes effect whatever it replaces (ABD). The record is the value, or nothing for a deleted
  key. There is nothing that could be counted, so results say 0 wherever they speak of revisions or versions, and a
  deletion answers that one key was removed whether there was something or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

from replica.kv.execution import CROWDED, MALFORMED
from replica.kv.leases import Leases
from replica.kv.memory import MemoryStore
from replica.kv.operations import (
    RESULT_BYTES_MAX,
    SYSTEM_PREFIX,
    AnyOperation,
    AnyResult,
    Delete,
    Deleted,
    Failed,
    Failure,
    Get,
    Got,
    KeyValue,
    Put,
    Written,
)
from replica.kv.runs import MalformedOperation, encode_results, unpack

from .abilities import Abilities
from .execution import AppliedCommand, execute
from .record import SESSIONS_PER_KEY_MAX, KeyRecord, decode_record, encode_record

_encode = msgspec.msgpack.Encoder().encode


class _Value(msgspec.Struct, frozen=True, array_like=True):
    value: bytes | None


_values: Final = msgspec.msgpack.Decoder(_Value)


class Registers(Protocol):
    """Pure functions of a record and a command that touches one key."""

    def transition(self, record: bytes | None, command: AppliedCommand) -> tuple[bytes, bytes]:
        """The record after the command, and the encoded results. The record is empty when nothing is to be written."""

    def read(self, record: bytes | None, command: AppliedCommand) -> bytes:
        """The encoded results of a command that only reads."""


class PlainRegisters:
    """Registers that are read and written, and nothing else."""

    def __init__(self) -> None:
        self._abilities = Abilities(total_order=False, transactions=False, compare_and_set=False)

    def transition(self, record: bytes | None, command: AppliedCommand) -> tuple[bytes, bytes]:
        """As `Registers.transition`; for a command that only writes, ``record`` makes no difference."""
        value = None if record is None else _values.decode(record).value
        results, value = self._run(command, value)
        written = any(isinstance(result, Written | Deleted) for result in results)
        return _encode(_Value(value)) if written else b"", encode_results(results)

    def read(self, record: bytes | None, command: AppliedCommand) -> bytes:
        """As `Registers.read`."""
        value = None if record is None else _values.decode(record).value
        return encode_results(self._run(command, value)[0])

    def _run(self, command: AppliedCommand, value: bytes | None) -> tuple[list[AnyResult], bytes | None]:
        operations = _operations(command)
        if operations is None:
            return [Failed(0, Failure.INVALID, MALFORMED)] * command.count, value
        results: list[AnyResult] = []
        room = RESULT_BYTES_MAX
        for operation in operations:
            result, value = self._one(operation, value, room)
            if isinstance(result, Got) and result.item is not None:
                room -= len(result.item.value)
            results.append(result)
        return results, value

    def _one(self, operation: AnyOperation, value: bytes | None, room: int) -> tuple[AnyResult, bytes | None]:
        if (reason := self._abilities.refusal(operation)) is not None:
            return Failed(0, Failure.UNSUPPORTED, f"{reason}; nothing was changed"), value
        match operation:
            case Get(key=key):
                if room <= 0:
                    return Failed(0, Failure.CROWDED, CROWDED), value
                return Got(0, None if value is None else KeyValue(key, value, 0, 0, 0)), value
            case Put(key=key) | Delete(key=key) if key.startswith(SYSTEM_PREFIX):
                return Failed(0, Failure.INVALID, "the key belongs to the system; nothing was changed"), value
            case Put(value=written):
                return Written(0), written
            case Delete():
                return Deleted(0, 1), None
            case _:
                raise AssertionError(f"{type(operation).__name__} was not refused")


class AtomicRegisters:
    """Registers whose next record is computed from the one that it replaces."""

    def __init__(self, *, sessions_max: int = SESSIONS_PER_KEY_MAX) -> None:
        self._abilities = Abilities(total_order=False, transactions=False)
        self._sessions_max = sessions_max

    def transition(self, record: bytes | None, command: AppliedCommand) -> tuple[bytes, bytes]:
        """As `Registers.transition`."""
        keys = _OneKey(record)
        outcome = execute(keys, command, self._abilities, sessions_max=self._sessions_max)
        return encode_record(keys.record), outcome.encoded()

    def read(self, record: bytes | None, command: AppliedCommand) -> bytes:
        """As `Registers.read`."""
        return execute(_OneKey(record), command, self._abilities, sessions_max=self._sessions_max).encoded()


class RegisterMachine:
    """Stands where a state machine stands, for protocols whose records are the state: there is nothing to apply."""

    applied: Final[dict[str, int]] = {}
    revision: Final = 0
    compacted: Final = 0
    sessions: Final = ()
    scavenging: Final = False
    newest_session: Final = 0

    def __init__(self) -> None:
        self.leases = Leases(MemoryStore())
        """None, ever."""

    settled: Final = True

    def settle(self) -> None:
        """There is nothing to be done."""

    def commit(self) -> None:
        """There is nothing that could be lost."""

    def query(self, operations: Sequence[AnyOperation]) -> list[AnyResult]:
        """Nothing is answered from here."""
        message = "registers are read through the protocol, since a replica's own record may be an old one"
        return [Failed(0, Failure.UNSUPPORTED, message) for _ in operations]


class _OneKey:
    """A record as the keys that operations work on: they name no other key, the command touches one alone."""

    def __init__(self, record: bytes | None) -> None:
        self.record = KeyRecord(sessions={}) if record is None else decode_record(record)

    def find(self, key: bytes) -> KeyRecord | None:
        return self.record

    def change(self, key: bytes) -> KeyRecord:
        return self.record

    def interval(self, first: bytes, last: bytes, *, reverse: bool, system: bool) -> Iterator[KeyValue]:
        raise AssertionError("a register has no intervals")


def _operations(command: AppliedCommand) -> list[AnyOperation] | None:
    try:
        operations = unpack(command.payload).operations
    except MalformedOperation:
        return None
    return operations if len(operations) == command.count else None
