"""Histories of what clients saw, and the checker that judges whether they are linearizable.

The history format imports nothing of the project. The checker's models are written independently of
`replica.kv` and never import it: a checker that shares code with what it judges shares its mistakes.
"""

from .history import (
    Header,
    History,
    HistoryError,
    Operation,
    Recorder,
    merge_events,
    parse_history,
    read_history,
    text,
    write_history,
)

__all__ = [
    "Header",
    "History",
    "HistoryError",
    "Operation",
    "Recorder",
    "merge_events",
    "parse_history",
    "read_history",
    "text",
    "write_history",
]
