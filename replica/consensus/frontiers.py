"""Comparing frontiers (`replica.consensus.interface.Frontier`): numbers for a total order, maps for orders by object.

The number 0 is the beginning of either kind: where nothing was applied, nothing tells which kind it is.
"""

from __future__ import annotations

from replica.consensus.interface import Frontier


def covers(applied: Frontier, frontier: Frontier) -> bool:
    """Has everything up to ``frontier`` been applied? Raises `TypeError` for frontiers of different kinds."""
    if isinstance(frontier, int):
        if isinstance(applied, int):
            return applied >= frontier
        if frontier == 0:
            return True
    elif isinstance(applied, dict):
        return all(applied.get(name, 0) >= position for name, position in frontier.items())
    elif applied == 0:
        return not any(frontier.values())
    raise TypeError(f"{applied!r} and {frontier!r} are frontiers of different kinds")


def joined(one: Frontier, other: Frontier) -> Frontier:
    """The lowest frontier that covers both. Raises `TypeError` for frontiers of different kinds."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}
    return one if covers(one, other) else other


def reach(frontier: Frontier) -> int:
    """How many positions lie at or before ``frontier``, of all objects together."""
    return frontier if isinstance(frontier, int) else sum(frontier.values())
