"""What a fork does to store objects, and what is done about it.

A child must not go on with its parent's session (the cluster would take its operations for repetitions of the
parent's), and cannot use the parent's network library: threads do not survive a fork. So before a fork every store
object lets go of its stream, and gRPC, left without a channel, ends its threads; afterwards the parent goes on with its
session and sends again what was outstanding, while the child begins anew.

Two things can't be helped. A fork on the thread of the event loop itself comes too suddenly for the loop to let go; and
somebody else in the process may be using gRPC. In either case a child that tried to use gRPC would wait forever, so it
is told instead (`GrpcPort.inherited`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Final, Protocol

from replica.client.grpc_port import GrpcPort

logger = logging.getLogger("replica.client")

SUSPEND_TIMEOUT_S: Final = 5.0
"""How long a fork waits for a stream to be left."""

QUIET_TIMEOUT_S: Final = 1.0
"""How long it waits for gRPC to end its threads after that."""

POLLING_THREAD: Final = "_poll_wrapper"
"""What the name of grpc.aio's thread contains; it runs as long as there is a channel."""


class Suspendable(Protocol):
    """A store object that lives on an event loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop on which it is in use."""

    async def suspend(self) -> None:
        """Let go of the network."""

    def resume(self) -> None:
        """Go on."""

    def begin_anew(self) -> None:
        """Forget the loop, the stream and the session, without touching them: they are another process's."""


class Resettable(Protocol):
    """A store object that matters in a child alone."""

    def begin_anew(self) -> None:
        """Forget what belongs to another process, without touching it."""


class ForkGuard:
    """Told of every store object, and by the interpreter of every fork."""

    def __init__(self) -> None:
        self._living: weakref.WeakSet[Suspendable] = weakref.WeakSet()
        self._faces: weakref.WeakSet[Resettable] = weakref.WeakSet()
        self._suspended: list[tuple[Suspendable, asyncio.AbstractEventLoop]] = []
        self._grpc_in_use = False
        self._left_behind: list[Any] = []

    def watch(self, store: Suspendable) -> None:
        """``store`` is to be suspended before a fork and begun anew in the child."""
        self._living.add(store)

    def watch_face(self, store: Resettable) -> None:
        """``store`` is to be begun anew in the child."""
        self._faces.add(store)

    def leave_behind(self, thing: Any) -> None:
        """In a child: keep ``thing`` from being collected. Ending it would call into gRPC, or take the parent's file
        descriptors out of an epoll that both share."""
        self._left_behind.append(thing)

    def before(self) -> None:
        """A fork is about to happen."""
        for store in list(self._living):
            loop = store.loop
            if loop is None or not loop.is_running() or asyncio._get_running_loop() is loop:
                continue
            try:
                asyncio.run_coroutine_threadsafe(store.suspend(), loop).result(SUSPEND_TIMEOUT_S)
            except TimeoutError:
                logger.warning("%r did not let go of the network before a fork: its loop is busy", store)
            else:
                self._suspended.append((store, loop))
        self._grpc_in_use = not self._wait_for_quiet({loop for _, loop in self._suspended})

    def after_in_parent(self) -> None:
        """It has happened, and this is the parent."""
        for store, loop in self._suspended:
            loop.call_soon_threadsafe(store.resume)
        self._suspended.clear()

    def after_in_child(self) -> None:
        """It has happened, and this is the child."""
        self._suspended.clear()
        if self._grpc_in_use:
            GrpcPort.inherited = True
        for face in list(self._faces):
            face.begin_anew()
        for store in list(self._living):
            store.begin_anew()

    def _wait_for_quiet(self, loops: Iterable[asyncio.AbstractEventLoop]) -> bool:
        """Whether gRPC has ended its threads, which it does with its last channel."""
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        pause_s = 0.001
        while _polling():
            if not self._suspended or time.monotonic() > deadline:
                return False
            # Channels take part in cycles of references, and calls that were cancelled need a turn of their loop.
            gc.collect()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        for loop in loops:
            # The last channel may have been given up on the loop's thread, which then still is inside gRPC.
            asyncio.run_coroutine_threadsafe(_nothing(), loop).result(SUSPEND_TIMEOUT_S)
        return True


async def _nothing() -> None:
    pass


def _polling() -> bool:
    return any(POLLING_THREAD in thread.name for thread in threading.enumerate())


GUARD: Final = ForkGuard()

os.register_at_fork(before=GUARD.before, after_in_parent=GUARD.after_in_parent, after_in_child=GUARD.after_in_child)
