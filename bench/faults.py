"""Faults in a run: what breaks, when, and what really happened.

A fault is a table, in a suite's TOML or from a flag, which says the same in words:

    [[experiments.faults]]              --fault "3s kill leader for 2s"
    at_s = 3.0
    kind = "kill"
    replica = "leader"                  # or a number, or "follower"; "leader" is whoever leads at that moment
    for_s = 2.0                         # healed after so long (0: when the run is over)

| kind | does | needs |
| --- | --- | --- |
| ``kill`` | ``kill -9``; healing starts it again from its data | ``replica`` |
| ``crash`` | another name of ``kill`` | ``replica`` |
| ``stop`` | asks it to shut down in order; healing starts it again | ``replica`` |
| ``pause`` | takes its processor away (SIGSTOP); healing gives it back | ``replica`` |
| ``drop`` | messages from ``replica`` to ``peer`` are lost | ``replica``, ``peer`` |
| ``slow`` | messages from ``replica`` to ``peer`` take ``delay_ms`` longer | ``replica``, ``peer``, ``delay_ms`` |
| ``flaky`` | a share ``loss`` of the messages from ``replica`` to ``peer`` is lost | ``replica``, ``peer``, ``loss`` |
| ``partition`` | no message crosses between ``group`` and the others, either way | ``group`` |
| ``slow-disk`` | every sync of ``replica`` takes ``delay_ms`` longer | ``replica``, ``delay_ms`` |
| ``heal`` | undoes every fault there is | |

``peer`` may be left out: then all links of the replica are meant. In words: ``5s kill leader``,
``2s pause 3 for 1.5s``, ``2s drop 1 -> 2``, ``2s slow leader 50ms for 3s``, ``2s flaky 2 -> 1 0.3``,
``4s partition 1,2 for 2s``, ``1s slow-disk leader 20ms``, ``8s heal``.

Links and disks are broken by the replicas themselves (`Admin.InjectFaults`), which must have been started with fault
injection enabled. That call replaces all faults of a replica, so the state of each replica is kept here and sent whole:
faults that overlap add up, and healing one leaves the others. Partitions cut replicas from each other, not clients from
replicas.

`Timeline` records what happened rather than what was asked: when the call returned, whom ``leader`` named, and why
something could not be done. A fault that fails is an entry with its error, never the end of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bench.results import FaultEvent
from deploy import Cluster, ClusterError, admin
from replica.wire.v1 import admin_pb2

__all__ = ["Fault", "FaultError", "Timeline", "make_timeline", "parse_fault", "parse_faults"]

Kind: TypeAlias = Literal["kill", "crash", "stop", "pause", "drop", "slow", "flaky", "partition", "slow-disk", "heal"]

_ON_REPLICAS: Final = frozenset({"kill", "crash", "stop", "pause", "slow-disk"})
_ON_LINKS: Final = frozenset({"drop", "slow", "flaky"})
_DELAYED: Final = frozenset({"slow", "slow-disk"})
_INJECTED: Final = _ON_LINKS | {"partition", "slow-disk"}

LEADER_WAIT_S: Final = 5.0
"""How long a fault of the leader waits for there to be one."""

RESTART_TIMEOUT_S: Final = 30.0

POLL_S: Final = 0.05


class FaultError(ValueError):
    """A fault that cannot be injected; the text names the field."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault of a timeline; see the module's text."""

    at_s: float
    kind: Kind
    replica: int | str = 0
    peer: int | str = 0
    group: tuple[int, ...] = ()
    for_s: float = 0.0
    delay_ms: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.at_s < 86_400:
            raise FaultError(f"at_s: {self.at_s} is not a time within a run")
        if not 0 <= self.for_s < 86_400:
            raise FaultError(f"for_s: {self.for_s} is not a duration")
        for field in ("replica", "peer"):
            named = getattr(self, field)
            if isinstance(named, str) and named not in {"leader", "follower"}:
                raise FaultError(f'{field}: {named!r} is neither a number nor "leader" or "follower"')
            if isinstance(named, int) and named < 0:
                raise FaultError(f"{field}: {named} is no replica")
        if self.kind in _ON_REPLICAS | _ON_LINKS and not self.replica:
            raise FaultError(f"replica: {self.kind} needs one")
        if self.kind not in _ON_REPLICAS | _ON_LINKS and self.replica:
            raise FaultError(f"replica: {self.kind} has none")
        if self.kind not in _ON_LINKS and self.peer:
            raise FaultError(f"peer: {self.kind} has none")
        if self.peer and self.peer == self.replica:
            raise FaultError("peer: a replica has no link to itself")
        if (self.kind == "partition") != bool(self.group):
            raise FaultError(f"group: {self.kind} {'needs one' if self.kind == 'partition' else 'has none'}")
        if (self.kind in _DELAYED) != (self.delay_ms > 0):
            raise FaultError(f"delay_ms: {self.kind} {'needs a positive one' if self.kind in _DELAYED else 'has none'}")
        if (self.kind == "flaky") != (self.loss > 0) or not 0 <= self.loss <= 1:
            raise FaultError(
                f"loss: {self.kind} {'needs a probability above 0' if self.kind == 'flaky' else 'has none'}"
            )
        if self.kind == "heal" and self.for_s:
            raise FaultError("for_s: healing is not undone")

    @property
    def injected(self) -> bool:
        """Does it need replicas that were started with fault injection?"""
        return self.kind in _INJECTED

    def text(self) -> str:
        """In words, as a plot or a table has it."""
        link = f"{self.replica} → {self.peer or 'all'}"
        match self.kind:
            case "heal":
                return "heal"
            case "partition":
                return f"partition {','.join(map(str, self.group))}"
            case "slow":
                return f"slow {link} by {self.delay_ms:g} ms"
            case "flaky":
                return f"flaky {link}, {self.loss:g} lost"
            case "drop":
                return f"drop {link}"
            case "slow-disk":
                return f"slow disk of {self.replica} by {self.delay_ms:g} ms"
            case _:
                return f"{self.kind} {self.replica}"


# ----------------------------------------------------------------------------------------------------------- reading

_WORDS: Final = re.compile(
    r"""^\s*(?P<at>[\d.]+)\s*s?\s+(?P<kind>[a-z-]+)
        (?:\s+(?P<who>leader|follower|\d+(?:\s*,\s*\d+)*))?
        (?:\s*(?:->|→)\s*(?P<peer>leader|follower|\d+))?
        (?:\s+(?P<amount>[\d.]+)\s*(?P<unit>ms|s)?)??
        (?:\s+for\s+(?P<for>[\d.]+)\s*s?)?\s*$""",
    re.VERBOSE,
)


def parse_fault(text: str) -> Fault:
    """A fault in words. Raises `FaultError`."""
    found = _WORDS.match(text)
    if found is None:
        raise FaultError(
            f'fault: {text!r} cannot be read: expected for example "5s kill leader", "2s slow 1 -> 2 50ms for 3s"'
        )
    kind = found["kind"]
    table: dict[str, Any] = {"at_s": _number("at_s", found["at"]), "kind": kind}
    who = found["who"]
    if who and kind == "partition":
        table["group"] = [int(part) for part in who.split(",")] if who[0].isdigit() else who
    elif who:
        table["replica"] = _name("replica", who)
    if found["peer"]:
        table["peer"] = _name("peer", found["peer"])
    if found["for"]:
        table["for_s"] = _number("for_s", found["for"])
    if found["amount"]:
        amount = _number("amount", found["amount"])
        if kind == "flaky":
            table["loss"] = amount
        else:
            table["delay_ms"] = amount * (1000 if found["unit"] == "s" else 1)
    return _convert(table, f"fault {text!r}")


def parse_faults(tables: Sequence[Mapping[str, Any] | str], *, replicas: int = 0) -> list[Fault]:
    """The faults of a timeline, in order of time, from tables or words.

    ``replicas``: how many there are, if that is known: nobody beyond them may be named. Raises `FaultError`, a
    `ValueError`, which names the field.
    """
    faults = [
        parse_fault(table) if isinstance(table, str) else _convert(dict(table), f"faults[{number}]")
        for number, table in enumerate(tables)
    ]
    if replicas:
        for number, fault in enumerate(faults):
            named = [each for each in (fault.replica, fault.peer, *fault.group) if isinstance(each, int)]
            if max(named, default=0) > replicas:
                raise FaultError(f"faults[{number}]: there is no replica {max(named)} among {replicas}")
            if fault.kind == "partition" and len(set(fault.group)) >= replicas:
                raise FaultError(f"faults[{number}]: group: nobody is left on the other side")
    return sorted(faults, key=lambda fault: fault.at_s)


def _convert(table: dict[str, Any], where: str) -> Fault:
    try:
        return msgspec.convert(table, Fault)
    except msgspec.ValidationError as error:
        raise FaultError(f"{where}: {error}") from None


def _number(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FaultError(f"{field}: {text!r} is not a number") from None


def _name(field: str, text: str) -> int | str:
    if text.isdecimal():
        return int(text)
    if "," in text:
        raise FaultError(f"{field}: {text!r} names several; only a partition has a group")
    return text


# ---------------------------------------------------------------------------------------------------------- injecting


class _Broken(msgspec.Struct):
    """A fault that is in force: how to undo it, and its entry."""

    fault: Fault
    event: FaultEvent
    replica: int = 0
    peer: int = 0


def make_timeline(tables: Sequence[Mapping[str, Any] | str], cluster: Cluster) -> Timeline:
    """The timeline of a run against ``cluster``. Raises `FaultError`."""
    faults = parse_faults(tables, replicas=len(cluster.layout.replicas))
    if any(fault.injected for fault in faults) and not cluster.layout.node.get("enable_fault_injection"):
        kind = next(fault.kind for fault in faults if fault.injected)
        raise FaultError(f"kind: {kind} needs replicas that were started with enable_fault_injection = true")
    return Timeline(faults, cluster)


class Timeline:
    """Injects faults when their time has come. Calls to the cluster run on a thread, one at a time, in order."""

    def __init__(
        self, faults: Sequence[Fault], cluster: Cluster, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        for fault in faults:
            self._schedule(fault.at_s, lambda fault=fault: self._inject(fault))  # type: ignore[misc]
        self._broken: list[_Broken] = []
        self._events: list[FaultEvent] = []
        self._run_start = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self, run_start: float) -> None:
        """Begin; returns at once."""
        self._run_start = run_start
        self._task = asyncio.get_running_loop().create_task(self._run(), name="faults")

    async def stop(self) -> None:
        """End the timeline, heal what is still broken, and wait until everybody runs again."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._due.clear()
        await asyncio.to_thread(self._heal_all, wait=True)

    def events(self) -> list[FaultEvent]:
        """What happened so far, in order."""
        return list(self._events)

    async def _run(self) -> None:
        while self._due:
            at_s, _, _ = self._due[0]
            await asyncio.sleep(max(0.0, self._run_start + at_s - self._clock()))
            _, _, action = heapq.heappop(self._due)
            # Shielded: a call that has begun is finished before anything is healed.
            work = asyncio.ensure_future(asyncio.to_thread(action))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await work
                raise

    def _schedule(self, at_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._order), action))

    def _now(self) -> float:
        return self._clock() - self._run_start

    # ----- below here: on a worker thread

    def _inject(self, fault: Fault) -> None:
        event = FaultEvent(at_s=self._now(), kind=fault.kind, detail=fault.text())
        self._events.append(event)
        if fault.kind == "heal":
            self._heal_all(wait=False)
            return
        broken = _Broken(fault=fault, event=event)
        try:
            broken.replica = event.replica = self._who(fault.replica)
            broken.peer = event.peer = self._who(fault.peer, other_than=broken.replica)
            event.detail = self._detail(fault, broken)
            event.at_s = self._now()
            self._break(broken)
        except (ClusterError, admin.AdminError) as error:
            event.error = str(error)
            return
        event.at_s = min(event.at_s, self._now())
        self._broken.append(broken)
        if fault.for_s:
            self._schedule(self._now() + fault.for_s, lambda: self._heal([broken], wait=False))

    def _detail(self, fault: Fault, broken: _Broken) -> str:
        named = msgspec.structs.replace(fault, replica=broken.replica, peer=broken.peer)
        role = f" ({fault.replica})" if isinstance(fault.replica, str) else ""
        return named.text() + role

    def _who(self, named: int | str, *, other_than: int = 0) -> int:
        if isinstance(named, int):
            return named
        deadline = self._clock() + LEADER_WAIT_S
        while (leader := self._cluster.leader()) is None:
            if self._clock() > deadline:
                raise ClusterError(f"no replica led within {LEADER_WAIT_S:g} s, so that nobody was {named}")
            time.sleep(POLL_S)
        if named == "leader":
            return leader
        others = [entry.replica for entry in self._cluster.layout.replicas if entry.replica not in {leader, other_than}]
        if not others:
            raise ClusterError("there is no follower")
        return others[0]

    def _break(self, broken: _Broken) -> None:
        match broken.fault.kind:
            case "kill" | "crash":
                self._cluster.kill(broken.replica)
            case "stop":
                self._cluster.stop(broken.replica)
            case "pause":
                self._cluster.pause(broken.replica)
            case _:
                try:
                    self._send_faults([*self._broken, broken], [broken])
                except ClusterError:
                    # It arrived at some, and nobody would ever heal it: a fault is there as a whole, or not at all.
                    with contextlib.suppress(ClusterError):  # who cannot be told now has no faults, either
                        self._send_faults(self._broken, [broken])
                    raise

    def _heal_all(self, *, wait: bool) -> None:
        self._heal(list(self._broken), wait=wait)

    def _heal(self, healed: list[_Broken], *, wait: bool) -> None:
        healed = [broken for broken in healed if broken in self._broken]
        if not healed:
            return
        self._broken = [broken for broken in self._broken if broken not in healed]
        started = []
        for broken in healed:
            try:
                if broken.fault.kind in {"kill", "crash", "stop"}:
                    self._cluster.start(broken.replica, wait=False, timeout_s=RESTART_TIMEOUT_S)
                    started.append(broken.replica)
                elif broken.fault.kind == "pause":
                    self._cluster.resume(broken.replica)
                else:
                    self._send_faults(self._broken, [broken])
            except (ClusterError, admin.AdminError) as error:
                broken.event.error = f"it was not healed: {error}"
            else:
                broken.event.until_s = self._now()
        for replica in started:
            try:
                self._tell_newcomer(replica)
            except (ClusterError, admin.AdminError) as error:
                healed[-1].event.error = f"replica {replica} was started without the faults there are: {error}"
        if wait and started:
            try:
                self._cluster.wait_ready(started, timeout_s=RESTART_TIMEOUT_S)
            except ClusterError as error:
                healed[-1].event.error = f"it was not healed: {error}"

    def _tell_newcomer(self, replica: int) -> None:
        """A new process knows of no faults, and takes a moment to listen. Raises when it does not within the time."""
        deadline = self._clock() + RESTART_TIMEOUT_S
        while True:
            try:
                self._send_faults_to(replica, self._broken)
            except admin.AdminError as error:
                if not error.unreachable or self._clock() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return

    def _send_faults(self, broken: Sequence[_Broken], changed: Sequence[_Broken]) -> None:
        concerned: set[int] = set()
        for each in changed:
            if each.fault.kind == "partition":
                concerned.update(entry.replica for entry in self._cluster.layout.replicas)
            else:
                concerned.add(each.replica)
        problems = []
        for replica in sorted(concerned):
            try:
                self._send_faults_to(replica, broken)
            except (ClusterError, admin.AdminError) as error:
                problems.append(f"replica {replica}: {error}")
        if problems:
            raise ClusterError("; ".join(problems))

    def _send_faults_to(self, replica: int, broken: Sequence[_Broken]) -> None:
        if not self._cluster.layout.node.get("enable_fault_injection"):
            return
        members = [entry.replica for entry in self._cluster.layout.replicas]
        request = faults_of(replica, members, [(each.fault, each.replica, each.peer) for each in broken])
        entry = self._cluster.layout.replica(replica)
        admin.inject_faults(entry.client, request)


def faults_of(
    replica: int, members: Sequence[int], broken: Sequence[tuple[Fault, int, int]]
) -> admin_pb2.InjectFaultsRequest:
    """Everything that is broken at one replica, as one request. Pure.

    ``broken`` holds each fault with the replica and the peer (0: all) that it turned out to concern.
    """
    links: dict[int, admin_pb2.LinkFault] = {}

    def link(peer: int) -> admin_pb2.LinkFault:
        return links.setdefault(peer, admin_pb2.LinkFault(peer=peer))

    request = admin_pb2.InjectFaultsRequest(heal=True)
    for fault, who, peer in broken:
        if fault.kind == "partition":
            inside = replica in fault.group
            for other in members:
                if other != replica and (other in fault.group) != inside:
                    link(other).blocked = True
        elif who != replica:
            continue
        elif fault.kind == "slow-disk":
            request.sync_delay_ms += fault.delay_ms
        elif fault.kind in _ON_LINKS:
            for other in [peer] if peer else [each for each in members if each != replica]:
                at = link(other)
                at.blocked = at.blocked or fault.kind == "drop"
                at.delay_ms += fault.delay_ms
                at.loss = 1 - (1 - at.loss) * (1 - fault.loss)
    request.links.extend(links[peer] for peer in sorted(links))
    return request
