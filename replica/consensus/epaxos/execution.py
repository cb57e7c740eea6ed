"""Execution: decided instances, in an order that their dependencies allow and that is the same everywhere.

An instance is executed when it is decided, durably here, and everything that it depends on has been executed or belongs
to its strongly connected component; a component is executed as a whole, by (space, number). Any two that interfere are
joined by a dependency one way or the other, so every replica executes them in the same order. A component is delivered
in one turn, so that no state and no snapshot ever stands in the middle of one: what is left of a component would have
another order.

To know what an instance depends on, every value that its dependencies cover must be known. What is in the way (a value
or a decision that is missing) is remembered as a *blocker*; whoever waits for it is looked at again when it has come,
and the blockers are what recovery and catch-up care about first.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from replica.consensus.interface import Deliver

from .graph import Blocked, components
from .instance import Instance
from .instances import Instances
from .messages import InstanceId
from .state import Core

DELIVER_TIMER: Final = "deliver"

DELIVER_INSTANCES_MAX: Final = 1024
"""Instances delivered in one turn, or a component more; the rest follows in the next."""

DELIVER_BYTES_MAX: Final = 16 << 20
"""Bytes of values delivered in one turn, or a component more."""


class Execution:
    """Delivers what can be delivered."""

    def __init__(self, core: Core, instances: Instances) -> None:
        self._core = core
        self._instances = instances
        self._deciding: deque[Instance] = deque()
        """Decided, and not durable yet."""
        self._candidates: deque[InstanceId] = deque()
        self._waiting: dict[InstanceId, InstanceId] = {}
        """What is in the way of an instance."""
        self._waiters: dict[InstanceId, list[InstanceId]] = {}
        self._done = 0
        self._done_bytes = 0
        instances.on_news = self.release

    @property
    def blockers(self) -> list[InstanceId]:
        """What is in the way of something, in the order in which it was met."""
        return list(self._waiters)

    def restart(self) -> None:
        """Look at everything that is decided and not executed, from the beginning."""
        self._waiting.clear()
        self._waiters.clear()
        self._candidates.clear()
        durable = self._core.durable
        for space in self._instances.spaces:
            for number in sorted(space.live):
                instance = space.live[number]
                if instance.decided and instance.ticket <= durable:
                    self._candidates.append(instance.id)

    def decided(self, instance: Instance) -> None:
        """An instance was decided in this turn."""
        self._deciding.append(instance)
        if "executes ignoring dependencies" in self._core.bugs:
            instance.ticket = 0

    def release(self, blocker: InstanceId) -> None:
        """More is known of that one: look again at what waits for it."""
        for name in self._waiters.pop(blocker, ()):
            if self._waiting.get(name) == blocker:
                del self._waiting[name]
                self._candidates.append(name)

    def settle(self) -> None:
        """Deliver as far as possible."""
        durable, deciding = self._core.durable, self._deciding
        while deciding and deciding[0].ticket <= durable:
            instance = deciding.popleft()
            self._candidates.append(instance.id)
            self.release(instance.id)
        self._done = self._done_bytes = 0
        find, waiting, candidates = self._instances.find, self._waiting, self._candidates
        while candidates:
            if self._done >= DELIVER_INSTANCES_MAX or self._done_bytes >= DELIVER_BYTES_MAX:
                self._core.timer(DELIVER_TIMER, self._core.now)
                return
            name = candidates.popleft()
            candidate = find(*name)
            if candidate is None or name in waiting:
                continue
            try:
                for component in components(candidate, self._look):
                    self._deliver(component)
            except Blocked as blocked:
                self._waiters.setdefault(blocked.of, []).extend(blocked.names)
                for name in blocked.names:
                    waiting[name] = blocked.of

    def _look(self, instance: Instance) -> InstanceId | list[Instance]:
        if not instance.decided or instance.ticket > self._core.durable:
            return instance.id
        if instance.noop or "executes ignoring dependencies" in self._core.bugs:
            return []
        blocker = self._waiting.get(instance.id)
        if blocker is not None:
            return blocker
        instances = self._instances
        for number, space in zip(instance.dependencies, instances.spaces, strict=True):
            if number > space.known:
                return (space.replica, space.known + 1)
        return instances.pending.edges(instance)

    def _deliver(self, component: list[Instance]) -> None:
        core, deliveries = self._core, self._core.effects.deliveries
        if len(component) > 1:
            core.counters["entangled"] += len(component)
        for instance in component:
            deliveries.append(Deliver(instance.number, () if instance.noop else instance.commands, str(instance.space)))
            self._instances.execute(instance)
            if instance.value is not None:
                self._done_bytes += len(instance.value)
        self._done += len(component)
        core.counters["executed"] += len(component)

    def check(self) -> None:
        """Assert that what waits is known, and waits for something that is in the way."""
        durable = self._core.durable
        for name, blocker in self._waiting.items():
            assert self._instances.find(*name) is not None, f"{name} waits and is not known"
            assert name in self._waiters.get(blocker, ()), f"{name} waits for {blocker}, which does not know"
        for blocker in self._waiters:
            space = self._instances.by_member[blocker[0]]
            assert not space.has_executed(blocker[1]), f"{blocker} is in the way though it was executed"
            instance = space.live.get(blocker[1])
            assert instance is None or not instance.decided or instance.ticket > durable
