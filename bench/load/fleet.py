"""The generator processes of a run: started together, measured together, gone afterwards.

`Fleet` starts one process or more for each region, waits until all of them are connected, names one moment as the start
for all, and merges what they hand back. Processes are children whose standard input is a pipe of ours; each ends when
that pipe does, so that none outlives this process. They run here, or wherever a `Launch` starts them; all keep time by
the monotonic clock of this kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TypeAlias

import msgspec

from bench.load.generator import GeneratorResult, GeneratorSpec, Progress, Start, window_of
from bench.load.measure import Window
from bench.suite import Load
from replica.tuning import tune_grpc

READY_TIMEOUT_S: Final = 120.0
"""Connecting, and loading of keys."""

LEAD_S: Final = 0.3
"""Between the order to start and the start: the order must have arrived everywhere."""

GRACE_S: Final = 30.0
"""For the last answers, and for what a generator does when its clock has stopped."""

STDERR_BYTES_MAX: Final = 16_384


MODULE: Final = ("-m", "bench.load.generator")

Launch: TypeAlias = Callable[[GeneratorSpec, Sequence[str], Mapping[str, str]], list[str]]
"""From what a generator is to do, the arguments of Python, and what its environment has besides, to the command."""


def launch_here(_: GeneratorSpec, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A process of this machine, beside this one, whose environment it inherits."""
    return [sys.executable, *arguments]


class LoadError(Exception):
    """The load could not be made or measured; the text says why."""


class Fleet:
    """Generators of one run. Use it as an asynchronous context manager: at its end no process is left."""

    def __init__(self, specs: list[GeneratorSpec], launch: Launch = launch_here, *, hint: str = "") -> None:
        """``hint`` is what to do when a generator dies, for whoever reads of it."""
        self._specs = specs
        self._launch = launch
        self._hint = hint
        self._processes: list[asyncio.subprocess.Process] = []
        self.window: Window | None = None

    async def __aenter__(self) -> Self:
        environment = dict(os.environ)
        tune_grpc(environment, child=True)
        changed = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        for spec in self._specs:
            process = await asyncio.create_subprocess_exec(
                *self._launch(spec, MODULE, changed),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._processes.append(process)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        for process in self._processes:
            await process.wait()
            transport = getattr(process, "_transport", None)
            if transport is not None:
                transport.close()  # pipes of a killed child would be found open by the collector

    @property
    def processes(self) -> list[int]:
        """The ids of the processes."""
        return [process.pid for process in self._processes]

    async def ready(self) -> None:
        """Hand out the orders; returns once all are connected and keys are loaded. Raises `LoadError`.

        Each generator loads the keys that it was given (`GeneratorSpec.preload`); the load begins when all have.
        """
        for process, spec in zip(self._processes, self._specs, strict=True):
            self._send(process, msgspec.json.encode(spec))
        await asyncio.gather(*(self._expect(process, "ready", READY_TIMEOUT_S) for process in self._processes))

    def start(self, load: Load) -> Window:
        """Name the start, a moment from now."""
        at = time.monotonic() + LEAD_S
        for process in self._processes:
            self._send(process, msgspec.json.encode(Start(at=at)))
        self.window = window_of(load, at)
        return self.window

    async def finish(self, timeout_s: float) -> list[GeneratorResult]:
        """Wait for the end of the window and the results. ``timeout_s`` is that of an operation."""
        assert self.window is not None
        patience = max(0.0, self.window.end - time.monotonic()) + timeout_s + GRACE_S
        return list(await asyncio.gather(*(self._collect(process, patience) for process in self._processes)))

    def _send(self, process: asyncio.subprocess.Process, line: bytes) -> None:
        assert process.stdin is not None
        process.stdin.write(line + b"\n")

    async def _collect(self, process: asyncio.subprocess.Process, timeout_s: float) -> GeneratorResult:
        progress = await self._expect(process, "done", timeout_s)
        assert process.stdout is not None
        try:
            packed = await asyncio.wait_for(process.stdout.readexactly(progress.size_bytes), GRACE_S)
        except (TimeoutError, asyncio.IncompleteReadError):
            raise LoadError("a generator was done, and its result did not arrive") from None
        return msgspec.msgpack.decode(packed, type=GeneratorResult)

    async def _expect(self, process: asyncio.subprocess.Process, state: str, timeout_s: float) -> Progress:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), timeout_s)
        except TimeoutError:
            raise LoadError(f"a generator was not {state} after {timeout_s:.0f} s") from None
        if not line:
            assert process.stderr is not None
            said = (await process.stderr.read(STDERR_BYTES_MAX)).decode(errors="replace").strip().splitlines()
            raise LoadError(f"a generator died: {said[-1] if said else 'it said nothing'}{self._hint}")
        progress = msgspec.json.decode(line, type=Progress)
        if progress.state != state:
            raise LoadError(f"a generator failed: {progress.error}")
        return progress
