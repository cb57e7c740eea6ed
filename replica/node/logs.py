"""What a node says on standard error: one line an event, for people or as JSON."""

from __future__ import annotations

import logging
import sys
from typing import Any, TypeAlias

import structlog

from .config import LogConfig

__all__ = ["Logger", "configure_standard_logging", "make_logger"]

Logger: TypeAlias = Any
"""A structlog logger: ``info("event", key=value)``. It is typed by what it wraps, hence Any."""


def make_logger(config: LogConfig, *, cluster: str, replica: int) -> Logger:
    """A logger of its own for one node; the global configuration of structlog and logging is left alone."""
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[*_common(), structlog.processors.format_exc_info, _renderer(config)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(config)),
        cache_logger_on_first_use=True,
    ).bind(cluster=cluster, replica=replica)


def configure_standard_logging(config: LogConfig) -> None:
    """Have what libraries (and the transport) log look the same. For a process that is a node and nothing else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_common()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(config),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_level(config))
    # grpc reports at this level what its peers do, and nothing that an operator could act on.
    logging.getLogger("grpc").setLevel(max(_level(config), logging.INFO))
    logging.getLogger("asyncio").setLevel(max(_level(config), logging.INFO))


def _common() -> list[Any]:
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]


def _renderer(config: LogConfig) -> Any:
    if config.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, sort_keys=False)


def _level(config: LogConfig) -> int:
    level: int = getattr(logging, config.level.upper())
    return level
