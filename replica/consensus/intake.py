"""Commands that wait for a leader's log: admission, bounds, and cutting batches. Shared by the protocols with a leader.

A leader takes commands on here and moves them into slots as its window allows. What there is no room for is refused
before anything is proposed, so the refusal is definite. One slot takes at least one command and then as many as the
bounds of a batch allow; a command is never split.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from .interface import Command, Reason, Reject, ReplicaId
from .options import COMMAND_BYTES_MAX, COMMAND_OVERHEAD_BYTES
from .turn import TurnState


class BatchBounds(Protocol):
    """The options that bound a batch."""

    @property
    def batch_max(self) -> int: ...

    @property
    def batch_bytes_max(self) -> int: ...


class IntakeBounds(BatchBounds, Protocol):
    """The options that bound a queue and a batch."""

    @property
    def queue_max(self) -> int: ...

    @property
    def queue_bytes_max(self) -> int: ...


def cut(queue: deque[Command], options: BatchBounds) -> tuple[tuple[Command, ...], int, int]:
    """Take the next batch from the head of ``queue``, with the operations and the bytes in it: at least one command, if
    there is one, then as many as the bounds allow."""
    batch: list[Command] = []
    operations = size = 0
    while queue:
        command = queue[0]
        length = len(command.payload) + COMMAND_OVERHEAD_BYTES
        if batch and (operations + command.count > options.batch_max or size + length > options.batch_bytes_max):
            break
        operations += command.count
        size += length
        batch.append(queue.popleft())
    return tuple(batch), operations, size


class Intake:
    """The queue of a leader."""

    def __init__(self, core: TurnState, options: IntakeBounds) -> None:
        self._core = core
        self._options = options
        self._queue: deque[Command] = deque()
        self.operations = 0
        """Operations that wait."""
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def full(self) -> bool:
        """Would another command be refused?"""
        return self.operations >= self._options.queue_max

    def offer(self, commands: Iterable[Command]) -> None:
        """Clients ask a replica that leads for these: queue them, or refuse what there is no room for."""
        options, reject = self._options, self._core.effects.rejections.append
        operations, size = self.operations, self._bytes
        for command in commands:
            length = len(command.payload) + COMMAND_OVERHEAD_BYTES
            if length > COMMAND_BYTES_MAX:
                reject(Reject(command, Reason.UNSUPPORTED, True))
            elif operations >= options.queue_max or (size > 0 and size + length > options.queue_bytes_max):
                reject(Reject(command, Reason.OVERLOADED, True, self._core.replica))
            else:
                operations += command.count
                size += length
                self._queue.append(command)
        self.operations, self._bytes = operations, size

    def take(self) -> tuple[Command, ...]:
        """The commands of the next slot: at least one, then as many as the bounds allow. Something must wait."""
        options, queue = self._options, self._queue
        if self.operations <= options.batch_max and self._bytes <= options.batch_bytes_max:
            commands = tuple(queue)
            queue.clear()
            self.operations = self._bytes = 0
            return commands
        batch, operations, size = cut(queue, options)
        self.operations -= operations
        self._bytes -= size
        return batch

    def refuse(self, reason: str, hint: ReplicaId | None) -> None:
        """Refuse what waits and was never proposed."""
        self._core.effects.rejections.extend(Reject(command, reason, True, hint) for command in self._queue)
        self._queue.clear()
        self.operations = self._bytes = 0

    def check(self) -> None:
        """Assert that the sums are right."""
        assert self.operations == sum(command.count for command in self._queue)
        assert self._bytes == sum(len(command.payload) + COMMAND_OVERHEAD_BYTES for command in self._queue)
