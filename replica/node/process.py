"""A replica as a process of its own: signals, the two lines for scripts, and the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from typing import Any, Final

import click

from replica.storage.writer import SWITCH_INTERVAL_S

from .config import NodeConfig, split_address
from .errors import NodeFailure
from .logs import configure_standard_logging, make_logger
from .replica import Replica

__all__ = ["run"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

GC_THRESHOLD: Final = 50_000
"""Objects allocated between two collections: frames and commands come by the thousand and hold no cycles."""


def run(config: NodeConfig) -> int:
    """Run the replica until it is told to stop or cannot go on; return the exit status."""
    # What was made by importing lives as long as the process: no collection needs to look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config))


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _serve(config: NodeConfig) -> int:
    configure_standard_logging(config.log)
    logger = make_logger(config.log, cluster=config.cluster, replica=config.replica)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, told.set)
    replica = Replica(config, logger)
    try:
        await replica.start()
    except NodeFailure as failure:
        return _give_up(failure)
    _announce(replica)
    waiting: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(told.wait()),
        replica.failed,
        asyncio.ensure_future(_announce_ready(replica)),
    ]
    while not told.is_set() and not replica.failed.done():
        _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        waiting = list(pending)
    logger.info("stopping", asked=told.is_set())
    try:
        await replica.stop()
    except NodeFailure as failure:
        return _give_up(failure)
    for future in waiting:
        if isinstance(future, asyncio.Task):
            future.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await future
    if replica.failed.done():
        return _give_up(replica.failed.result())
    logger.info("stopped")
    return 0


def _announce(replica: Replica) -> None:
    config = replica.config
    host, _ = split_address(config.listen.client)
    peer_host, _ = split_address(config.listen.peer)
    words = [
        f"listening replica={config.replica}",
        f"cluster={config.cluster}",
        f"client={_address(host, replica.client_port)}",
        f"peer={_address(peer_host, replica.transport.port)}",
    ]
    if replica.exposition is not None:
        metrics_host, _ = split_address(config.listen.metrics)
        words.append(f"metrics={_address(metrics_host, replica.exposition.port)}")
    _say(" ".join(words))


async def _announce_ready(replica: Replica) -> None:
    await asyncio.shield(replica.was_ready)
    _say(f"ready replica={replica.config.replica}")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(line: str) -> None:
    """One line on standard output, at once; a script that has closed its end does not end the replica."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(line)
        sys.stdout.flush()


def _give_up(failure: NodeFailure) -> int:
    click.echo(f"Error: {failure}", err=True)
    return failure.exit_status
