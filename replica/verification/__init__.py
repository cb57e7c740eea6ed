"""Histories of what clients saw, and the checker that judges whether they are linearizable.

The history format imports nothing of the project. The checker's models are written independently of
`replica.kv` and never import it: a checker that shares code with what it judges shares its mistakes.
"""

from .checker import MODELS, UnknownModel, check, find_model
from .history import (
    FaultWindow,
    Header,
    History,
    HistoryError,
    Operation,
    Recorder,
    brief,
    merge_events,
    parse_history,
    read_history,
    text,
    write_history,
)
from .picture import draw_report, draw_violation
from .verdict import Budget, Method, Report, Verdict, Violation

__all__ = [
    # histories
    "FaultWindow",
    "Header",
    "History",
    "HistoryError",
    "Operation",
    "Recorder",
    "brief",
    "merge_events",
    "parse_history",
    "read_history",
    "text",
    "write_history",
    # judgement
    "MODELS",
    "Budget",
    "Method",
    "Report",
    "UnknownModel",
    "Verdict",
    "Violation",
    "check",
    "find_model",
    "draw_report",
    "draw_violation",
]
