"""What the tests of the state machine share: stores by name, a machine that is spoken to in operations, commands."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from replica.kv.machine import Outcome, StateMachine
from replica.kv.memory import MemoryStore
from replica.kv.operations import AnyOperation, AnyResult, Failed, OpenSession
from replica.kv.runs import encode_operations, pack_payload
from replica.kv.store import Store
from replica.storage.state import LmdbStore


@contextmanager
def memory_store() -> Iterator[Store]:
    """An empty store in memory."""
    yield MemoryStore()


@contextmanager
def lmdb_store() -> Iterator[Store]:
    """An empty store on LMDB, in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="synod-kv-") as folder:
        store = LmdbStore(Path(folder), map_bytes=64 << 20)
        try:
            yield store
        finally:
            store.close()


STORES: dict[str, Callable[[], AbstractContextManager[Store]]] = {"memory": memory_store, "lmdb": lmdb_store}
"""Every implementation of the port; each test that takes the fixture `store` runs on all of them."""


class Command(msgspec.Struct, frozen=True):
    """A command as the machine sees it; the protocols' own has more fields."""

    payload: bytes
    session: int = 0
    sequence: int = 0
    count: int = 1


def command(
    *operations: AnyOperation, session: int = 0, sequence: int = 1, acknowledged: int = 0, system: bool = False
) -> Command:
    """A run of operations as a command."""
    payload = pack_payload(acknowledged, encode_operations(operations), system=system)
    return Command(payload, session, sequence, len(operations))


class Replica:
    """A state machine that gives its own commands the next position."""

    def __init__(self, store: Store, **options: int) -> None:
        self.machine = StateMachine(store, **options)

    def apply(self, *commands: Command) -> list[Outcome]:
        """Apply the commands at the next position."""
        return self.machine.apply(self.machine.applied + 1, commands)

    def do(self, *operations: AnyOperation, system: bool = False) -> list[Any]:
        """Apply a run outside any session."""
        return self.apply(command(*operations, system=system))[0].results()

    def one(self, operation: AnyOperation, *, system: bool = False) -> Any:
        """Apply a single operation outside any session."""
        return self.do(operation, system=system)[0]

    def open_session(self) -> int:
        """A new session's id."""
        return self.apply(command(OpenSession(b"nonce")))[0].opened[0].session

    def run(self, session: int, sequence: int, *operations: AnyOperation, acknowledged: int = 0) -> list[Any]:
        """Apply a run of a session."""
        made = command(*operations, session=session, sequence=sequence, acknowledged=acknowledged)
        return self.apply(made)[0].results()

    def restart(self, **options: int) -> None:
        """Stop in an orderly way and start again from the store."""
        self.machine.commit()
        self.machine = StateMachine(self.machine.store, **options)


def codes(results: Sequence[AnyResult]) -> list[str]:
    """The code of each failure, "ok" for what did not fail."""
    return [result.code if isinstance(result, Failed) else "ok" for result in results]
