"""A machine that is spoken to in operations: each key is an object with a log of its own."""

from typing import Any

from replica.consensus.interface import object_of
from replica.kv.objects import Abilities, ObjectMachine
from replica.kv.operations import AnyOperation
from replica.kv.outcomes import Outcome
from replica.kv.store import Store
from tests.unit.kv.support import Command, command

SHARED = "shared"
"""The object of commands on several keys."""


class Objects:
    """An object machine that gives commands the next position of their object."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.options = options
        self.machine = ObjectMachine(store, **options)

    def apply(self, name: str, *commands: Command) -> list[Outcome]:
        """Apply commands at the next position of an object."""
        return self.machine.apply(name, self.machine.applied.get(name, 0) + 1, commands)

    def run(
        self, session: int, sequence: int, *operations: AnyOperation, acknowledged: int = 0, name: str = SHARED
    ) -> list[Any]:
        """Apply a run of a session."""
        made = command(*operations, session=session, sequence=sequence, acknowledged=acknowledged)
        return self.apply(name, made)[0].results()

    def one(self, operation: AnyOperation) -> Any:
        """Apply one operation outside any session."""
        return self.apply(SHARED, command(operation))[0].results()[0]

    def restart(self) -> None:
        """Stop in an orderly way and start again from the store."""
        self.machine.commit()
        self.machine = ObjectMachine(self.machine.store, **self.options)


KEY_BY_KEY = Abilities(total_order=False, transactions=False)

__all__ = ["KEY_BY_KEY", "SHARED", "Objects", "command", "object_of"]
