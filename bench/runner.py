"""Runs a suite: deployments come and go, loads are made, results are written, and nothing is left behind.

One run at a time. For each: the deployment (kept from the run before, if that was the same), its network, the
generators, the faults; when the clock has stopped, the replicas' digests, the history and its verdict. Whatever goes
wrong with a run is its result: the reason, and the last lines of the replicas' logs. A run's file is written when it is
over, so a suite that was interrupted goes on with what is missing (`run_suite` with the same folder).

Everything that was started is stopped at the end, however that comes: by itself, by an error, or by cancellation, which
is what the keyboard's interrupt becomes.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from bench import results
from bench.attribution import make_observer
from bench.faults import FaultError, make_timeline, parse_faults
from bench.judging import judge
from bench.load.fleet import Fleet, LoadError
from bench.load.generator import GeneratorResult, GeneratorSpec
from bench.load.measure import Window, merge
from bench.networks import make_shaper
from bench.parts import FaultTimeline, NetworkShaper, Observer
from bench.planning import Plan, Planned, plan_suite
from bench.results import (
    Ceiling,
    Failure,
    FaultEvent,
    Manifest,
    Resources,
    RunResult,
    RunVerdict,
    Skipped,
    Stage,
)
from bench.suite import ClusterShape, Suite, SuiteError, TargetEntry
from bench.targets import Target, TargetError, find_target
from bench.usage import Meter
from bench.workload import parse_workload
from deploy import ClusterError, admin
from replica.client import SynodError

INTERLEAVED: Final = (
    "Runs are interleaved: in each repetition every target in turn at each point, all asked the same operations, on "
    "the same machine and, unless a label says otherwise, with the same durability."
)

ONE_BY_ONE: Final = (
    "In each repetition the targets are run one after the other, each at all of its points, all asked the same "
    "operations, on the same machine and, unless a label says otherwise, with the same durability."
)

STALLED_STEPS: Final = 2

CALIBRATIONS: Final = "calibrations"
"""The passes of the model's calibration, below a folder of results."""

CALIBRATION_S: Final = 30.0
"""What a pass takes, about."""

CEILING_SECONDS: Final = 1.0
CEILING_WARM_UP_S: Final = 0.3


class Watcher(Protocol):
    """Is told how far a suite has come."""

    def planned(self, plans: list[Plan], ceilings: int, done: int) -> None:
        """So many runs are to be made; ``done`` of them were made before."""

    def begins(self, what: str) -> None:
        """Something begins."""

    def ended(self, run: RunResult | None, seconds: float) -> None:
        """What began has ended (None: a ceiling); it had been expected to take so many seconds."""

    def says(self, text: str) -> None:
        """A line for the reader."""


class Interrupted(Exception):
    """The time that was given is over, or somebody interrupted; the folder can be resumed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a suite is run, beside what it is."""

    folder: Path
    command: list[str] = []
    seconds_max: float = 0.0
    """Begin no run that would go on beyond it; 0: no limit."""
    ceilings: bool = True
    keep_data: bool = False
    """Leave the data folders of clusters there."""
    check_perf: bool = False
    """Let etcd's own program measure etcd as well, once; it takes a minute."""


async def run_suite(suite: Suite, settings: Settings, watcher: Watcher) -> Manifest:
    """Run what is missing of ``suite`` in the folder; returns the manifest.

    Raises:
        SuiteError: it cannot be run, or the folder holds the results of something else.
        Interrupted: time was up; what was done is in the folder.
    """
    planned = plan_suite(suite)
    _check_parts(planned.plans)
    return await _Bench(suite, planned, settings, watcher).run()


def _check_parts(plans: list[Plan]) -> None:
    """Faults are read once before anything starts."""
    for plan in plans:
        try:
            parse_faults(plan.experiment.faults, replicas=plan.shape.replicas)
        except FaultError as error:
            raise SuiteError(f"experiment {plan.experiment.name}: {error}") from None


class _Bench:
    def __init__(self, suite: Suite, planned: Planned, settings: Settings, watcher: Watcher) -> None:
        self._suite = suite
        self._plans = planned.plans
        self._settings = settings
        self._folder = settings.folder
        self._watcher = watcher
        self._began = time.monotonic()
        self._target: Target | None = None
        self._deployed = ""
        self._scratch: Path | None = None
        self._saturated: set[tuple[str, str, int]] = set()
        self._stalled: dict[tuple[str, str, int], int] = {}
        self._best: dict[tuple[str, str, int], float] = {}
        self._checked: set[str] = set()
        self._manifest = self._open_manifest(planned)

    def _open_manifest(self, planned: Planned) -> Manifest:
        configuration = msgspec.to_builtins(self._suite)
        announced = [plan.announced() for plan in planned.plans]
        if (self._folder / results.MANIFEST).exists():
            manifest = results.read_manifest(self._folder)
            if _completed(manifest.suite) != configuration:
                raise SuiteError(
                    f"{self._folder} holds the results of another suite or of other targets: give another folder, or "
                    f"the same suite and options as before to go on with it"
                )
            manifest.planned, manifest.skipped = announced, planned.skipped
            return manifest
        return Manifest(
            name=self._suite.name,
            summary=self._suite.summary,
            command=self._settings.command,
            created=results.timestamp(),
            versions=results.versions(),
            machine=results.this_machine(),
            seed=self._suite.seed,
            suite=configuration,
            planned=announced,
            skipped=planned.skipped,
            notes=[INTERLEAVED if self._suite.turns == "points" else ONE_BY_ONE],
        )

    async def run(self) -> Manifest:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._save()
        done = self._done()
        waiting = [plan for plan in self._plans if plan.id not in done]
        for run in results.read_folder(self._folder).runs:
            self._note_step(run)
        ceilings = self._missing_ceilings(waiting) if self._settings.ceilings else []
        for skip in self._manifest.skipped:
            self._watcher.says(f"skipped: {skip.experiment}, {skip.label}: {skip.reason}")
        self._watcher.planned(self._plans, len(ceilings), len(self._plans) - len(waiting))
        self._scratch = Path(tempfile.mkdtemp(prefix=".data-", dir=self._folder))
        try:
            for plan in ceilings:
                await self._ceiling(plan)
            for plan in waiting:
                if self._suite.calibrate:
                    await self._calibrate(plan.experiment.name)
                await self._next(plan)
            if self._suite.calibrate:
                await self._calibrate("end")
        finally:
            await asyncio.shield(self._clean_up())
            self._hold_against_null()
            self._save()
        done = self._done()
        self._manifest.planned = [each for each in self._manifest.planned if each.id in done]
        self._manifest.finished = results.timestamp()
        self._save()
        return self._manifest

    def _hold_against_null(self) -> None:
        """Write beside each result of a protocol what one replica that decides alone reached at the same point.

        Of closed loops only: an open one offers both the same.
        """
        runs = [run for run in results.read_folder(self._folder).runs if run.usable]
        reached: dict[tuple[str, results.Scalar, str, str], list[float]] = {}
        loads: dict[int, list[float]] = {}
        for run in runs:
            if run.deployment.protocol == "null":
                reached.setdefault(_alike(run), []).append(run.summary.throughput)
                if run.load["loop"] == "closed" and not run.deployment.simulated:
                    loads.setdefault(run.load["in_flight"], []).append(run.summary.throughput)
        for run in runs:
            found = reached.get(_alike(run))
            if found and run.load["loop"] == "closed" and run.deployment.protocol not in {"", "null"}:
                run.null = sum(found) / len(found)
                results.write_run(self._folder, run)
        kept = [each for each in self._manifest.ceilings if each.responder != "null"]
        self._manifest.ceilings = kept + [
            Ceiling(rpc="session", in_flight=in_flight, throughput=sum(found) / len(found), responder="null")
            for in_flight, found in sorted(loads.items())
        ]

    async def _clean_up(self) -> None:
        await self._undeploy()
        if self._scratch is not None and not self._settings.keep_data:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def _done(self) -> set[str]:
        return {run.id for run in results.read_folder(self._folder).runs if run.failure is None}

    def _save(self) -> None:
        results.write_manifest(self._folder, self._manifest)

    # --------------------------------------------------------------------------------------------------- the order

    async def _next(self, plan: Plan) -> None:
        limit = self._settings.seconds_max
        if limit and time.monotonic() - self._began + plan.seconds > limit:
            raise Interrupted("the time that was given is over")
        place = (plan.experiment.name, plan.label, plan.repetition)
        if place in self._saturated:
            return
        what = f"{plan.experiment.name}: {plan.label}"
        if plan.point.axis:
            what += f", {plan.point.axis.rpartition('.')[2].replace('_', ' ')} {plan.point.value}"
        self._watcher.begins(f"{what} ({plan.repetition + 1})")
        run = await self._run(plan)
        results.write_run(self._folder, run)
        self._note_step(run)
        self._watcher.ended(run, plan.seconds)

    def _note_step(self, run: RunResult) -> None:
        """A search for saturation ends where throughput stops growing, or where the latency passes the bound.

        It takes `STALLED_STEPS` in a row, so that one bad moment of the machine does not end it.
        """
        experiment = next((each for each in self._suite.experiments if each.name == run.experiment), None)
        steps = experiment.load.saturation if experiment is not None else None
        if steps is None or run.failure is not None:
            return
        place = (run.experiment, run.deployment.label, run.repetition)
        best = self._best.get(place, 0.0)
        slow = steps.p99_ms and run.summary.p99_ms > steps.p99_ms
        stalled = bool(best) and run.summary.throughput < best * (1 + steps.gain)
        self._stalled[place] = self._stalled.get(place, 0) + 1 if stalled else 0
        if slow or self._stalled[place] >= STALLED_STEPS:
            self._saturated.add(place)
        self._best[place] = max(best, run.summary.throughput)

    # -------------------------------------------------------------------------------------------------- calibration

    async def _calibrate(self, name: str) -> None:
        """A pass of the model's calibration, once for each name, in a process of its own with nothing beside it."""
        from bench.model import ModelError
        from bench.model.beside import CALIBRATION
        from bench.model.calibration import combine, load, store
        from bench.model.rounds import PROTOCOLS

        path = self._folder / CALIBRATIONS / f"{name}.json"
        if path.exists():
            return
        limit = self._settings.seconds_max
        if limit and time.monotonic() - self._began + CALIBRATION_S > limit:
            raise Interrupted("the time that was given is over")
        await self._undeploy()
        self._watcher.says("calibrating the model")
        protocols = sorted({plan.entry.protocol for plan in self._plans} & set(PROTOCOLS))
        command = [sys.executable, "-m", "replica.cli", "model", "calibrate", "--passes", "1", "--out", str(path)]
        command += ["--folder", str(self._home()), *(part for each in protocols for part in ("--protocol", each))]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True
        )
        try:
            _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            if process.returncode:
                raise ModelError((said.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1])
            made = sorted((self._folder / CALIBRATIONS).glob("*.json"))
            store(self._folder / CALIBRATION, combine([load(each) for each in made]))
        except ModelError as error:
            self._watcher.says(f"the model could not be calibrated: {error}")

    # ---------------------------------------------------------------------------------------------------- ceilings

    def _missing_ceilings(self, plans: list[Plan]) -> list[Plan]:
        """One plan for each RPC and load whose ceiling is not known: links that are slow limit before a generator."""
        known = {_kind_of(each) for each in self._manifest.ceilings if each.responder == "instant"}
        found = []
        for plan in plans:
            rpc = find_target(plan.entry.target).rpc
            if plan.shape.topology or plan.load.loop == "open" or _ceiling_for(plan) in known:
                continue
            if plan.entry.target.startswith("instant") or rpc not in {"session", "etcd"}:
                continue
            known.add(_ceiling_for(plan))
            found.append(plan)
        return found

    async def _ceiling(self, plan: Plan) -> None:
        rpc = find_target(plan.entry.target).rpc
        self._watcher.begins(f"ceiling of the generator: {rpc}, {plan.load.in_flight} in flight")
        entry = TargetEntry(target="instant" if rpc == "session" else "instant-etcd")
        target = find_target(entry.target)(entry, ClusterShape())
        load = msgspec.structs.replace(
            plan.load, seconds=CEILING_SECONDS, warm_up_s=CEILING_WARM_UP_S, cool_down_s=0.0, saturation=None
        )
        value_bytes = plan.workload.value.bytes
        table = {"name": "ceiling", "writes": 1.0, "value": {"bytes": value_bytes}}
        probe = msgspec.structs.replace(plan, load=load, workload=parse_workload(table))
        try:
            await asyncio.to_thread(target.start, self._home())
            async with AsyncExitStack() as stack:
                found, window = await self._generate(stack, probe, target, None)
            summary, _, _ = merge([("", each.measured) for each in found], window, open_loop=False)
        finally:
            await asyncio.shield(asyncio.to_thread(target.stop))
        self._manifest.ceilings.append(
            Ceiling(
                rpc=rpc,
                in_flight=plan.load.in_flight,
                processes=plan.load.processes,
                value_bytes=value_bytes,
                throughput=summary.throughput,
                p50_ms=summary.p50_ms,
            )
        )
        self._save()
        self._watcher.ended(None, CEILING_SECONDS + CEILING_WARM_UP_S + 1.0)

    def _ceiling_of(self, plan: Plan) -> float:
        if plan.load.loop == "open":
            return 0.0
        for each in self._manifest.ceilings:
            if each.responder == "instant" and _kind_of(each) == _ceiling_for(plan):
                return each.throughput
        return 0.0

    # ------------------------------------------------------------------------------------------------- deployments

    def _home(self) -> Path:
        assert self._scratch is not None
        return Path(tempfile.mkdtemp(dir=self._scratch))

    async def _deploy(self, plan: Plan) -> Target:
        """The deployment that the plan wants: that of the run before, or a new one."""
        fresh = plan.experiment.fresh or bool(plan.experiment.faults)
        if self._target is not None and self._deployed == plan.deployment and not fresh:
            return self._target
        await self._undeploy()
        target = find_target(plan.entry.target)(plan.entry, plan.shape)
        self._target, self._deployed = target, plan.deployment
        await asyncio.to_thread(target.start, self._home())
        return target

    async def _undeploy(self) -> None:
        target, self._target, self._deployed = self._target, None, ""
        if target is not None:
            await asyncio.to_thread(target.stop)
            if self._scratch is not None and not self._settings.keep_data:
                for home in self._scratch.iterdir():
                    await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)

    # ----------------------------------------------------------------------------------------------------- one run

    async def _run(self, plan: Plan) -> RunResult:
        run = RunResult(
            id=plan.id,
            experiment=plan.experiment.name,
            deployment=find_target(plan.entry.target)(plan.entry, plan.shape).describe(),
            point=plan.point,
            repetition=plan.repetition,
            seed=plan.seed,
            started=results.timestamp(),
            workload=msgspec.to_builtins(plan.workload),
            load=msgspec.to_builtins(plan.load),
            regions=[region for region in plan.regions if region],
        )
        try:
            target = await self._deploy(plan)
            run.deployment = target.describe()
            await self._measure(plan, target, run)
            if plan.entry.target == "etcd":
                await self._cross_check(plan, target)
        except (TargetError, LoadError, ClusterError, admin.AdminError, SynodError, OSError) as error:
            run.failure = await self._obituary(str(error))
        except results.ResultsError as error:
            run.failure = await self._obituary(str(error))
        if run.failure is not None or plan.experiment.fresh or plan.experiment.faults:
            await self._undeploy()
        return run

    async def _obituary(self, reason: str) -> Failure:
        """Why a run failed: what was said, who is dead, and everybody's last lines."""
        target = self._target
        if target is None:
            return Failure(reason=reason)
        try:
            dead = await asyncio.to_thread(target.dead)
            logs = await asyncio.to_thread(target.logs, results.LOG_LINES)
        except (TargetError, ClusterError, admin.AdminError, OSError) as error:
            return Failure(reason=f"{reason} (and its logs cannot be read: {error})")
        if dead:
            reason = f"{', '.join(dead)} died: {reason}"
        return Failure(reason=reason, logs=logs)

    async def _measure(self, plan: Plan, target: Target, run: RunResult) -> None:
        async with AsyncExitStack() as stack:
            shaper = await self._shape(stack, plan, target, run)
            await asyncio.to_thread(target.place_leader)
            timeline: FaultTimeline | None = None
            if plan.experiment.faults and target.cluster is not None:
                timeline = make_timeline(plan.experiment.faults, target.cluster)
            probe = _Probe(plan, target)
            found, window = await self._generate(stack, plan, target, shaper, timeline=timeline, probe=probe)
            if timeline is not None:
                run.faults = timeline.events()
        run.stages, run.resources, run.counters = probe.stages, probe.resources, probe.counters
        run.leader, run.leader_at_end = probe.leader, probe.leader_at_end
        run.resources += [
            Resources(
                name=f"generator {number}",
                role="generator",
                cpu_user_s=each.cpu_user_s,
                cpu_system_s=each.cpu_system_s,
                memory_bytes=each.memory_bytes,
            )
            for number, each in enumerate(found, 1)
        ]
        self._account(plan, run, found, window)
        await self._judge(plan, target, run, found, window)
        dead = await asyncio.to_thread(target.dead)
        if dead:
            run.failure = await self._obituary("it was not running at the end")
        elif not run.summary.operations:
            errors = ", ".join(f"{count} times {name}" for name, count in sorted(run.errors.items()))
            run.failure = await self._obituary(f"no operation was completed ({errors or 'none failed either'})")

    async def _shape(self, stack: AsyncExitStack, plan: Plan, target: Target, run: RunResult) -> NetworkShaper | None:
        """The network between regions, of replicas and clients, and what it really is."""
        run.network = target.network()
        if target.cluster is None:
            return None
        shaper: NetworkShaper = make_shaper(target.cluster)
        if plan.shape.driver != "process":
            refused = await asyncio.to_thread(target.cluster.place_clients, plan.regions)
            if refused:
                run.notes.append(f"load generators ran on this machine: {refused}")
            run.deployment = target.describe()
        if not plan.shape.topology:
            return shaper
        await shaper.start()
        stack.push_async_callback(shaper.stop)
        run.network = await shaper.measure()
        return shaper

    async def _generate(
        self,
        stack: AsyncExitStack,
        plan: Plan,
        target: Target,
        shaper: NetworkShaper | None,
        *,
        timeline: FaultTimeline | None = None,
        probe: _Probe | None = None,
    ) -> tuple[list[GeneratorResult], Window]:
        specs = [
            self._spec(plan, target, shaper, region, place * plan.load.processes + process)
            for place, region in enumerate(plan.regions)
            for process in range(plan.load.processes)
        ]
        if target.simulated:
            if target.note() not in self._manifest.notes:
                self._manifest.notes.append(target.note())
                self._save()
            found, window = await asyncio.to_thread(target.generate, specs)
            if probe is not None:
                probe.resources, probe.counters = target.used(), target.counted()
                probe.leader, probe.leader_at_end = target.led_by()
            return found, window
        fleet = await stack.enter_async_context(self._fleet(specs, target))
        await fleet.ready()
        window = fleet.start(plan.load)
        watching: asyncio.Task[None] | None = None
        if probe is not None:
            watching = asyncio.create_task(probe.watch(window))
        try:
            if timeline is not None:
                await timeline.start(window.start)
            found = await fleet.finish(plan.load.timeout_s)
            if watching is not None:
                await watching  # on a busy machine it may still be asking when the load is over
        finally:
            if timeline is not None:
                await asyncio.shield(timeline.stop())
            if watching is not None:
                watching.cancel()
        return found, window

    def _fleet(self, specs: list[GeneratorSpec], target: Target) -> Fleet:
        """The generators, each in the place of its region where clients have places."""
        cluster = target.cluster
        if cluster is None or not cluster.layout.places:
            return Fleet(specs)
        image = cluster.layout.image
        return Fleet(
            specs,
            lambda spec, arguments, environment: cluster.python_in(spec.region, arguments, environment),
            hint=f" (in image {image}: `synod cluster image` builds it anew)" if image else "",
        )

    def _spec(
        self, plan: Plan, target: Target, shaper: NetworkShaper | None, region: str, client: int
    ) -> GeneratorSpec:
        share, rest = divmod(plan.load.in_flight, plan.clients)
        return GeneratorSpec(
            rpc=target.rpc,
            url=shaper.endpoints(region) if shaper is not None else target.url(region),
            workload=plan.workload,
            load=plan.load,
            seed=plan.seed,
            client=client,
            clients=plan.clients,
            in_flight=share + (client < rest),
            rate=plan.load.rate / plan.clients,
            region=region,
            region_index=plan.regions.index(region),
            regions=len(plan.regions),
            prefix=plan.prefix,
            consistency=plan.shape.consistency,
            fraction=plan.experiment.history.fraction,
            operations_max=plan.experiment.history.operations_max // plan.clients,
            preload=plan.preloads(client),
        )

    def _account(self, plan: Plan, run: RunResult, found: list[GeneratorResult], window: Window) -> None:
        open_loop = plan.load.loop == "open"
        regions = [region for region in plan.regions for _ in range(plan.load.processes)]
        parts = [(region, each.measured) for region, each in zip(regions, found, strict=True)]
        run.summary, run.series, run.latencies = merge(parts, window, open_loop=open_loop)
        run.measured_s = (window.measured_from - window.start, window.measured_to - window.start)
        for each in found:
            for name, count in each.measured.errors.items():
                run.errors[name] = run.errors.get(name, 0) + count
        if open_loop:
            late = max(each.measured.late_ms for each in found)
            run.notes.append(f"half of the operations were sent within {late:.2f} ms of their intended time")
        run.ceiling = self._ceiling_of(plan)
        if run.ceiling and run.summary.throughput * results.CEILING_FACTOR > run.ceiling:
            run.harness_limited = True
            run.notes.append(
                f"limited by the harness: the generator itself does {run.ceiling:,.0f}/s at most at this load"
            )

    async def _judge(
        self, plan: Plan, target: Target, run: RunResult, found: list[GeneratorResult], window: Window
    ) -> None:
        if not target.judged:
            run.verdict = RunVerdict(answer="not applicable", reason="its answers are no history")
            return
        recordings = [(f"client {client}", each.recording) for client, each in enumerate(found)]
        loaded = [(f"loader {client}", each.loaded) for client, each in enumerate(found) if each.loaded.operations]
        run.verdict = await asyncio.to_thread(
            lambda: judge(
                recordings,
                loaded=loaded,
                start=window.start,
                total=sum(each.measured.total for each in found),
                stale=plan.shape.consistency == "stale",
                revisions=target.ordered,
                options=plan.experiment.history,
                faults=run.faults,
                folder=self._folder,
                run_id=run.id,
                attributes={
                    "run": run.id,
                    "protocol": run.deployment.protocol,
                    "durability": run.deployment.durability,
                    "reads": run.deployment.consistency,
                    "seed": run.seed,
                },
            )
        )
        run.verdict.digests, run.verdict.digest_detail = await asyncio.to_thread(target.digests)

    async def _cross_check(self, plan: Plan, target: Target) -> None:
        """Once, what etcd's own program measures: our figures must not be a matter of our client."""
        from bench.targets.etcd import EtcdTarget

        if not self._settings.check_perf or plan.label in self._checked or not isinstance(target, EtcdTarget):
            return
        self._checked.add(plan.label)
        mark = f"{plan.label}, by its own program (etcdctl check perf"
        if any(note.startswith(mark) for note in self._manifest.notes):
            return
        said = await asyncio.to_thread(target.check_perf)
        self._manifest.notes.append(f"{mark}): {said}" if said else f"{mark}): not installed")
        self._save()
        self._watcher.says(self._manifest.notes[-1])


def _completed(configuration: dict[str, Any]) -> dict[str, Any]:
    """A stored suite with the defaults of what it could not say yet when it was stored."""
    try:
        found: dict[str, Any] = msgspec.to_builtins(msgspec.convert(configuration, Suite))
    except msgspec.ValidationError:
        return configuration
    return found


_CeilingKind: TypeAlias = tuple[str, int, int, int]


def _kind_of(ceiling: Ceiling) -> _CeilingKind:
    return ceiling.rpc, ceiling.in_flight, ceiling.processes, ceiling.value_bytes


def _ceiling_for(plan: Plan) -> _CeilingKind:
    """Which ceiling a plan's runs are held against: its RPC at its load, writing values of its size."""
    return find_target(plan.entry.target).rpc, plan.load.in_flight, plan.load.processes, plan.workload.value.bytes


def _alike(run: RunResult) -> tuple[str, results.Scalar, str, str]:
    """What a protocol and the one that decides alone must share to be held against each other."""
    return run.experiment, run.point.value, run.deployment.target, run.deployment.durability


class _Probe:
    """Looks at the processes at both ends of the measured part."""

    def __init__(self, plan: Plan, target: Target) -> None:
        self.stages: list[Stage] = []
        self.resources: list[Resources] = []
        self.counters: dict[str, int] = {}
        self.leader = self.leader_at_end = ""
        self._meter = Meter(target.processes())
        self._observer: Observer | None = None
        if target.cluster is not None:
            self._observer = make_observer(target.cluster)

    async def watch(self, window: Window) -> None:
        await asyncio.sleep(max(0.0, window.measured_from - time.monotonic()))
        self._meter.begin()
        if self._observer is not None:
            await self._observer.begin()
            self.leader = self._observer.leader
        await asyncio.sleep(max(0.0, window.measured_to - time.monotonic()))
        self.resources = self._meter.end()
        if self._observer is not None:
            self.stages, observed = await self._observer.end()
            self.counters, self.leader_at_end = self._observer.counters, self._observer.leader
            seen = {each.name for each in observed}
            self.resources = [*observed, *(each for each in self.resources if each.name not in seen)]


def default_command() -> list[str]:
    """The command line, as the manifest keeps it."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


__all__ = ["FaultEvent", "Interrupted", "Settings", "Skipped", "Watcher", "default_command", "run_suite"]
