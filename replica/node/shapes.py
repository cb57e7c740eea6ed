"""What a replica is made of, by the shape of its protocol's decisions.

One order over all commands is what `Loop`, `Sessions` and `StateMachine` are written for, and they know of nothing
else. The other shapes put something in their places once, when a replica comes up: `replica.node.objects` has the loop
and the sessions, `replica.kv.objects` the state.
"""

from __future__ import annotations

from typing import TypeAlias

from replica.consensus.frontiers import reach
from replica.consensus.interface import Capabilities, Registers
from replica.kv.machine import StateMachine
from replica.kv.objects import Abilities, AtomicRegisters, ObjectMachine, PlainRegisters, RegisterMachine
from replica.kv.store import Store

__all__ = ["Machine", "abilities_of", "make_machine", "make_registers", "progress_of"]

Machine: TypeAlias = StateMachine | ObjectMachine | RegisterMachine


def abilities_of(capabilities: Capabilities) -> Abilities:
    """What the store can do under a protocol."""
    return Abilities(
        total_order=capabilities.total_order,
        transactions=capabilities.transactions,
        compare_and_set=capabilities.compare_and_set,
    )


def make_machine(capabilities: Capabilities, store: Store) -> Machine:
    """The state for a protocol of that shape, on what the store holds. Raises `CorruptState`."""
    if capabilities.registers:
        return RegisterMachine()
    if capabilities.total_order:
        return StateMachine(store)
    return ObjectMachine(store, abilities=abilities_of(capabilities))


def make_registers(capabilities: Capabilities) -> Registers | None:
    """What records mean, for protocols that need to know."""
    if not capabilities.registers:
        return None
    return AtomicRegisters() if capabilities.compare_and_set else PlainRegisters()


def progress_of(machine: Machine) -> int:
    """How many positions have been applied, of all objects together."""
    return machine.progress if isinstance(machine, ObjectMachine) else reach(machine.applied)
