"""What a node says on standard error: one line an event, for people or as JSON."""

from __future__ import annotations

import logging
import sys
from typing import Any, TypeAlias

import structlog

from .config import LogConfig

__all__ = ["Logger", "make_logger"]

Logger: TypeAlias = Any
"""A structlog logger: ``info("event", key=value)``. It is typed by what it wraps, hence Any."""


def make_logger(config: LogConfig, *, cluster: str, replica: int) -> Logger:
    """A logger of its own for one node; the global configuration of structlog and logging is left alone."""
    level = getattr(logging, config.level.upper())
    renderer: Any
    if config.format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False)
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    ).bind(cluster=cluster, replica=replica)
