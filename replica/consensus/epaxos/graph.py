"""The dependency graph of what is known and not executed, and its strongly connected components.

An instance *depends* on everything that its dependencies cover and that interferes with it. So the edges are a function
of what was decided and the same everywhere. Between instances of one space that touch a key, the highest that writes it
stands for those before it, since it depends on them itself: `Pending` yields no more edges than reach the rest, so that
a key that everybody writes costs one edge for each space.

`components` is Tarjan's algorithm (1972) without recursion: however long a chain grew, it costs memory and no stack. It
yields components in an order in which each comes after all it depends on, and stops short of what it can't see through.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from .instance import Instance, Space
from .messages import InstanceId

Look: TypeAlias = Callable[[Instance], InstanceId | list[Instance]]
"""Yields what an instance depends on, or the name of what must be learned before that can be told."""


class Pending:
    """The instances whose value is known and that have not been executed, by what they touch."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._spaces = spaces
        # By key and rank: 2 * number, and one more if it writes the key; ascending.
        self._by_key: dict[bytes, dict[int, list[int]]] = {}
        self._wide: dict[InstanceId, Instance] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, instance: Instance) -> None:
        """The value has become known."""
        touch = instance.touch
        assert touch is not None
        rank, by_key = instance.rank, self._by_key
        for keys, mark in ((touch.writes, 2 * instance.number + 1), (touch.reads, 2 * instance.number)):
            for key in keys:
                rows = by_key.get(key)
                if rows is None:
                    by_key[key] = {rank: [mark]}
                    continue
                row = rows.get(rank)
                if row is None:
                    rows[rank] = [mark]
                elif row[-1] < mark:
                    row.append(mark)
                else:
                    insort(row, mark)
        if touch.wide:
            self._wide[instance.id] = instance

    def remove(self, instance: Instance) -> None:
        """Executed, or decided to be nothing."""
        touch = instance.touch
        assert touch is not None
        rank, by_key = instance.rank, self._by_key
        for keys, mark in ((touch.writes, 2 * instance.number + 1), (touch.reads, 2 * instance.number)):
            for key in keys:
                rows = by_key[key]
                row = rows[rank]
                if len(row) > 1:
                    del row[0 if row[0] == mark else bisect_left(row, mark)]
                elif len(rows) > 1:
                    del rows[rank]
                else:
                    del by_key[key]
        if touch.wide:
            del self._wide[instance.id]

    def edges(self, instance: Instance) -> list[Instance]:
        """What the instance must not be executed before, as far as it is known and has not been executed."""
        touch = instance.touch
        assert touch is not None
        dependencies, spaces = instance.dependencies, self._spaces
        found: dict[InstanceId, Instance] = {}
        for keys, writes in ((touch.writes, True), (touch.reads, False)):
            for key in keys:
                for rank, row in self._by_key[key].items():
                    index = bisect_right(row, 2 * dependencies[rank] + 1)
                    while index:
                        index -= 1
                        mark = row[index]
                        if mark & 1 or writes:
                            other = spaces[rank].live[mark >> 1]
                            found[other.id] = other
                        if mark & 1:
                            break
        for other in self._wide.values():
            if other.number <= dependencies[other.rank] and touch.interferes(other.touch or touch):
                found[other.id] = other
        if touch.wide:
            for space in spaces:
                for number, other in space.live.items():
                    if number <= dependencies[space.rank] and other.touch is not None and touch.interferes(other.touch):
                        found[other.id] = other
        found.pop(instance.id, None)
        return list(found.values())


class Blocked(Exception):
    """``names`` can't be executed before more is known of ``of``."""

    def __init__(self, of: InstanceId, names: list[InstanceId]) -> None:
        super().__init__(f"{len(names)} instances wait for {of}")
        self.of = of
        self.names = names


def components(root: Instance, look: Look) -> Iterator[list[Instance]]:
    """The components that ``root`` reaches, its own the last, each sorted by (space, number).

    Whoever consumes them may remove them from the graph meanwhile. Raises `Blocked` on reaching something that can't be
    looked through, for all that has been reached and not yielded: all of it reaches that.
    """
    index: dict[InstanceId, int] = {}
    low: dict[InstanceId, int] = {}
    finished: set[InstanceId] = set()
    stack: list[Instance] = []
    path: list[tuple[Instance, Iterator[Instance]]] = []

    def enter(instance: Instance) -> None:
        index[instance.id] = low[instance.id] = len(index)
        stack.append(instance)
        seen = look(instance)
        if isinstance(seen, tuple):
            raise Blocked(seen, [waiting.id for waiting in stack])
        path.append((instance, iter(seen)))

    enter(root)
    while path:
        instance, rest = path[-1]
        for other in rest:
            if other.id in finished:
                continue
            if other.id not in index:
                enter(other)
                break
            low[instance.id] = min(low[instance.id], index[other.id])
        else:
            path.pop()
            if path:
                parent = path[-1][0].id
                low[parent] = min(low[parent], low[instance.id])
            if low[instance.id] == index[instance.id]:
                where = next(i for i in range(len(stack) - 1, -1, -1) if stack[i] is instance)
                component = stack[where:]
                del stack[where:]
                finished.update(member.id for member in component)
                yield sorted(component, key=lambda member: member.id)
