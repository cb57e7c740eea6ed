"""Executions that are under way: their beginning, their life, and the one moment at which their outputs come to be.

A run is an execution in state ``RUNNING`` and a key that lives with a lease. While the program lives the lease does. At
the end of the run one unit makes its outputs, their edges, and the state ``COMPLETE``, on condition that the key is
still there; so either everything a run made is published, or nothing, and a run that was given up for dead publishes no
more. When the key goes, because the program died, the execution *has* failed: whoever reads it is told so from that
revision on, and `reap` writes it down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from replica.client import AsyncLease
from replica.client.errors import NotCommitted, SynodError
from replica.metadata.core import LEASE_ENDED, Ref, id_of, now_ms, object_of
from replica.metadata.errors import InvalidValue, RunLost
from replica.metadata.keys import check_text, tail_id
from replica.metadata.metrics import Metrics, finite_step
from replica.metadata.model import (
    CANCELED,
    COMPLETE,
    FAILED,
    NAME_BYTES_MAX,
    RUNNING,
    Artifact,
    Context,
    Execution,
    Point,
)
from replica.metadata.objects import RESERVED, Objects, _text
from replica.metadata.unit import Unit
from replica.metadata.values import declared

TTL_S: Final = 10.0
"""A program that died is known to be dead after so long."""

EXPERIMENT: Final = RESERVED + "experiment"
"""The type of contexts that a run names by text."""

ERROR_CHARACTERS_MAX: Final = 2000
BUFFERED_POINTS_MAX: Final = 1000
"""Points of metrics that a run holds before it writes them."""


class Runs(Objects, Metrics):
    """Executions as blocks."""

    def execution(
        self,
        type: str,  # noqa: A002 - the word for it
        *,
        inputs: Iterable[Ref] | Mapping[str, Ref] = (),
        context: Ref | str | Iterable[Ref | str] = (),
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        ttl_s: float = TTL_S,
    ) -> Run:
        """A run, to be entered: it is ``RUNNING`` within the block, and its outputs are published at the end.

        ::

            async with md.execution("Train", inputs=[data], context="exp7") as run:
                run.output("Model", uri="s3://…", properties={"acc": 0.93})

        An exception ends it as ``FAILED``, a cancellation as ``CANCELED``; neither publishes anything.

        Args:
            inputs: artifacts; a mapping gives their roles.
            context: contexts that the run and its outputs belong to; text names one of type ``synod.experiment``, which
                comes to be if it is not there.
            ttl_s: after so long without a sign of life the run has failed.

        Raises, at the end of the block:
            RunLost: the lease had ended, and nothing was published.
            AlreadyExists and others: an output cannot be; nothing was published, and the execution failed.
        """
        given: list[tuple[str, Any]] = (
            list(inputs.items()) if isinstance(inputs, Mapping) else [("", each) for each in inputs]
        )
        contexts: list[Ref | str] = (
            [context] if isinstance(context, str | int | Artifact | Execution | Context) else [*context]
        )
        return Run(
            self,
            type=type,
            inputs=[(_text("a role", role), id_of(each)) for role, each in given],
            contexts=contexts,
            name=name,
            properties=properties,
            custom=custom,
            ttl_s=ttl_s,
        )

    async def reap(self) -> list[Execution]:
        """Write down that executions have failed whose lease has ended. Anybody may, at any time."""
        revision = await self.revision()
        found: list[Execution] = []
        async for page in self.scan_prefix(self.keys.running, revision, keys_only=True):
            ids = [tail_id(item.key) for item in page]
            living = await self.fetch_all([self.keys.run(each)[1] for each in ids], revision)
            for identity, item in zip(ids, living, strict=True):
                if item is None:
                    ended = await self._end(identity, FAILED, LEASE_ENDED, dead=True)
                    found += [ended] if ended is not None else []
        return found

    async def _end(self, identity: int, state: str, error: str, *, dead: bool = False) -> Execution | None:
        """Put a running execution into its final state; None if it has one, or lives although it should not."""
        running, living = self.keys.run(identity)

        async def build(unit: Unit) -> Execution | None:
            item = await unit.get(self.keys.object(identity))
            life = await unit.get(living)
            if item is None or (dead and life is not None):
                return None
            before = object_of(item)
            if not isinstance(before, Execution) or before.state != RUNNING:
                return None
            of = await self.type_in(unit, "execution", before.type)
            after = msgspec.structs.replace(before, state=state, error=error, update_time_ms=now_ms(), revision=0)
            self._write(unit, of, before, after)
            unit.delete(running)
            unit.delete(living)
            return after

        return await self.carry_out("end execution", build, reading=True)

    async def _experiment_type(self) -> None:
        if ("context", EXPERIMENT) not in self._types:
            await self._define(EXPERIMENT, declared({}), (), "context", "an experiment, as runs name it")


class Output(msgspec.Struct):
    """What a run will have made, once it has ended well."""

    arguments: dict[str, Any]
    role: str
    id: int
    artifact: Artifact | None = None
    """The artifact, once it is published."""


class Run:
    """An execution that is under way; made by `AsyncMetadata.execution`, for one task at a time."""

    def __init__(
        self,
        store: Runs,
        *,
        type: str,  # noqa: A002
        inputs: list[tuple[str, int]],
        contexts: list[Ref | str],
        name: str | None,
        properties: Mapping[str, Any] | None,
        custom: Mapping[str, Any] | None,
        ttl_s: float,
    ) -> None:
        self._store = store
        self._type = type
        self._inputs = inputs
        self._contexts = contexts
        self._context_ids: list[int] = []
        self._name = name
        self._properties = properties
        self._custom = custom
        self._ttl_s = ttl_s
        self._lease: AsyncLease | None = None
        self._outputs: list[Output] = []
        self._points: dict[str, list[Point]] = {}
        self._buffered = 0
        self._changes: dict[str, Any] = {}
        self._execution: Execution | None = None

    @property
    def execution(self) -> Execution:
        """The execution, as this run has last written it."""
        assert self._execution is not None, "the run has not begun"
        return self._execution

    @property
    def id(self) -> int:
        """The execution's id."""
        return self.execution.id

    @property
    def held(self) -> bool:
        """Is the run alive, for certain?"""
        return self._lease is not None and self._lease.held

    # ------------------------------------------------------------------------------------------------------- the block

    async def begin(self) -> Self:
        """Enter: the execution is ``RUNNING`` from here on."""
        store = self._store
        if any(isinstance(each, str) for each in self._contexts):
            await store._experiment_type()
        await store.open()
        serial = await store.serial()
        spare = {each: await store.serial() for each in self._contexts if isinstance(each, str)}
        lease = await store.store.lease(self._ttl_s)

        async def build(unit: Unit) -> Execution:
            of = await store.type_in(unit, "execution", self._type)
            made = store._made(
                Execution,
                of,
                serial,
                name=self._name,
                properties=self._properties,
                custom=self._custom,
                state=RUNNING,
            )
            await store._create(unit, of, made)
            for role, artifact in self._inputs:
                await store._expect_kind(artifact, "artifact")
                await store._link(unit, "input", artifact, made.id, role)
            self._context_ids = []
            for each in self._contexts:
                context = await self._context(unit, each, spare) if isinstance(each, str) else id_of(each)
                await store._expect_kind(context, "context")
                await store._link(unit, "member", made.id, context)
                self._context_ids.append(context)
            running, living = store.keys.run(made.id)
            unit.put(running)
            unit.put(living, lease=lease.id)
            return made

        try:
            self._execution = await store.carry_out("begin execution", build)
        except BaseException:
            await _let_go(lease)
            raise
        self._lease = lease
        return self

    async def _context(self, unit: Unit, name: str, spare: Mapping[str, int]) -> int:
        """The experiment of that name, made if it is not there."""
        store = self._store
        of = await store.type_in(unit, "context", EXPERIMENT)
        check_text("the name of an experiment", name, NAME_BYTES_MAX)
        item = await unit.look(store.keys.name(of.number, name))
        if item is not None:
            return int(item.value)
        made = store._made(Context, of, spare[name], name=name)
        await store._create(unit, of, made)
        return made.id

    def output(
        self,
        type: str,  # noqa: A002 - the word for it
        *,
        role: str = "",
        name: str | None = None,
        uri: str = "",
        digest: str = "",
        properties: Mapping[str, Any] | None = None,
        custom: Mapping[str, Any] | None = None,
        external_id: str | None = None,
    ) -> Output:
        """Say what the run makes. It comes to be at the end of the block, with all the others or not at all."""
        output = Output(
            arguments={
                "type": type,
                "name": name,
                "uri": uri,
                "digest": digest,
                "properties": dict(properties or {}),
                "custom": dict(custom or {}),
                "external_id": external_id,
            },
            role=_text("a role", role),
            id=0,
        )
        self._outputs.append(output)
        return output

    def set(self, *, properties: Mapping[str, Any] | None = None, custom: Mapping[str, Any] | None = None) -> None:
        """Properties of the execution that its end brings."""
        self._changes.setdefault("properties", {}).update(properties or {})
        self._changes.setdefault("custom", {}).update(custom or {})

    async def log(self, step: int, values: Mapping[str, float]) -> None:
        """Points of metrics: held back, and written some thousand at a time, and at the end whatever that is."""
        finite_step(step)
        time_ms = now_ms()
        for name, value in values.items():
            self._points.setdefault(name, []).append(Point(step, float(value), time_ms))
            self._buffered += 1
        if self._buffered >= BUFFERED_POINTS_MAX:
            await self.flush()

    async def flush(self) -> None:
        """Write the points that are held back."""
        points, self._points, self._buffered = self._points, {}, 0
        try:
            await self._store.log_metrics(self.id, points)
        except SynodError:
            for name, some in points.items():
                self._points.setdefault(name, []).extend(some)
                self._buffered += len(some)
            raise

    async def complete(self) -> Execution:
        """Publish the outputs and end well. All or nothing.

        Raises:
            RunLost: the run had been given up for dead.
        """
        store, identity = self._store, self.id
        await self.flush()
        serials = [await store.serial() for _ in self._outputs]
        running, living = store.keys.run(identity)

        async def build(unit: Unit) -> Execution:
            await unit.present(living, lambda: RunLost(f"execution {identity} is not running any more"))
            if unit.reading:
                before = await store._object_in(unit, identity)
            else:
                # Most likely it is still as this run has written it.
                before = self.execution
                unit.unchanged(store.keys.object(identity), before.revision)
            assert isinstance(before, Execution)
            if before.state != RUNNING:
                raise RunLost(f"execution {identity} is {before.state}")
            of = await store.type_in(unit, "execution", before.type)
            after = store._changed(of, before, self._changes, state=COMPLETE)
            for output, serial in zip(self._outputs, serials, strict=True):
                kind = await store.type_in(unit, "artifact", output.arguments["type"])
                given = {each: value for each, value in output.arguments.items() if each != "type"}
                made = store._made(Artifact, kind, serial, **given)
                await store._create(unit, kind, made)
                await store._link(unit, "output", identity, made.id, output.role)
                for context in self._context_ids:
                    await store._link(unit, "member", made.id, context)
                output.artifact, output.id = made, made.id
            store._write(unit, of, before, after)
            unit.delete(running)
            unit.delete(living)
            return after

        try:
            self._execution = await store.carry_out("complete execution", build)
        except BaseException:
            for output in self._outputs:
                output.artifact, output.id = None, 0
            raise
        revision = self._execution.revision
        for output in self._outputs:
            assert output.artifact is not None
            output.artifact = msgspec.structs.replace(output.artifact, created=revision, revision=revision)
        await self._release()
        return self._execution

    async def abort(self, state: str, error: str) -> None:
        """End badly: nothing is published."""
        if state not in {FAILED, CANCELED}:
            raise InvalidValue(f"a run ends badly as {FAILED} or {CANCELED}, not as {state!r}")
        ended = await self._store._end(self.id, state, error[:ERROR_CHARACTERS_MAX])
        if ended is not None:
            self._execution = ended
        await self._release()

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await _let_go(lease)

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.finish(error)

    async def finish(self, error: BaseException | None) -> None:
        """Leave the block: well without an error, badly with one."""
        if error is None:
            try:
                await self.complete()
            except NotCommitted as problem:
                await self._abort_after(problem, FAILED)
                raise
            except BaseException:
                # Nobody knows whether it was published; the lease ends by itself if it was not.
                if self._lease is not None:
                    self._lease.abandon()
                raise
            return
        stopped = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        await self._abort_after(error, CANCELED if stopped else FAILED)

    async def _abort_after(self, error: BaseException, state: str) -> None:
        """End badly because of an error, which matters more than one that ending meets: then the lease does it."""
        try:
            await self.abort(state, f"{type(error).__name__}: {error}")
        except SynodError as problem:
            error.add_note(f"the execution {self.id} could not be marked {state}; its lease will: {problem}")
            if self._lease is not None:
                self._lease.abandon()


async def _let_go(lease: AsyncLease) -> None:
    """End a lease that is needed no more; if that cannot be, its time will."""
    try:
        await lease.revoke()
    except SynodError:
        lease.abandon()
