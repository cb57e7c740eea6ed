"""What many runs came to, added up: what was injected, what was covered, and what never happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from replica.consensus.interface import Capabilities
from replica.simulation.plan import FaultProfile
from replica.simulation.runner import Report

_ALWAYS: Final = ("groups merged into one transaction",)
_ONCE: Final = ("runs retried", "sessions evicted")
_NETWORK: Final = ("frames lost", "frames duplicated", "frames reordered")
_PARTITIONS: Final = (
    "frames lost in a partition",
    "frames released after a partition",
    "fault: partition",
    "fault: reset",
    "fault: slow link",
)
_CRASHES: Final = (
    "fault: crash",
    "fault: power cut",
    "fault: pause",
    "pauses within a turn",
    "fault: shut down",
    "fault: rolling restart",
    "unsynced writes lost",
    "merged transactions torn",
)
_LEADERS: Final = ("leader changes", "leader changes with proposals in flight")
_STATES: Final = ("states rebuilt from snapshot and log",)
_DISKS: Final = ("fault: slow disk", "fault: failed sync", "slow syncs")
_LOSSES: Final = (
    "fault: corrupt",
    "fault: wipe",
    "replicas stopped by a corrupt record",
    "replicas stopped because their disk is another",
)
_CLOCKS: Final = ("fault: clock jump", "fault: clock rate")
_CHANGES: Final = ("fault: snapshot", "fault: yield", "fault: client crash", "fault: client move")
_MEMBERS: Final = ("fault: replace", "epoch switches", "snapshots sealed", "rival changes")

RESTS_ON: Final[Mapping[str, tuple[str, ...]]] = {
    "abd": ("abd: reads_in_one_round", "abd: write_backs", "abd: writes", "abd: repeats"),
    "epaxos": (
        "epaxos: fast",
        "epaxos: slow",
        "epaxos: entangled",
        "epaxos: recoveries",
        "epaxos: noops",
        "epaxos: validations",
        "epaxos: kept",
        "epaxos: waits",
        "snapshots wished for",
        "snapshots installed",
    ),
    "wpaxos": (
        "wpaxos: owned",
        "wpaxos: steals",
        "wpaxos: forwarded",
        "wpaxos: offers",
        "wpaxos: overtaken",
        "wpaxos: rescues",
        "wpaxos: images",
        "wpaxos: noops",
    ),
}
"""By the protocol's name, what its soundness rests on besides, and so has to have been tried where replicas crash and
are cut off: mostly what it counts itself (`Status.counters`, with the name before it)."""


def expected(profile: FaultProfile, capabilities: Capabilities, replicas: int, protocol: str = "") -> tuple[str, ...]:
    """The counters of which none may stay at zero over a good number of runs, those of `RESTS_ON` included for the
    ``protocol`` of that name."""
    names = list(_ALWAYS)
    if capabilities.exactly_once:
        names += _ONCE
    if not capabilities.registers:
        names.append("snapshots taken")
    if profile.network:
        names += _NETWORK
    if profile.partitions:
        names += _PARTITIONS
        if capabilities.total_order:
            names.append("snapshots installed")
    if profile.crashes:
        names += _CRASHES
        if capabilities.routing == "leader":
            names += _LEADERS
        if not capabilities.registers:
            names += _STATES
    if profile.disks:
        names += _DISKS
    if profile.losses:
        names += _LOSSES
    if profile.clocks:
        names += _CLOCKS
    if profile.changes:
        names += _CHANGES
        if capabilities.reconfiguration:
            names += _MEMBERS
    if profile.crashes and profile.partitions and replicas > 2:
        names += RESTS_ON.get(protocol, ())
    alone = {"frames", "leader", "fault: reset", "fault: slow", "snapshots installed", "replicas stopped", "fault: wi"}
    if replicas == 1:
        names = [name for name in names if not any(name.startswith(start) for start in alone)]
    return tuple(names)


FAULTS_A_RUN_MIN: Final = 3
"""Faults that have to strike in a run for it to have tried anything."""

SUCCEEDED_MIN: Final = 0.5
"""More than this share of a run's operations has to succeed: a cluster that is down cannot be wrong."""


UNDECIDED_SHARE_MAX: Final = 0.01
"""No more than this share of the histories may be too hard for the search that judges them."""


class Survey:
    """The sum of reports."""

    def __init__(self) -> None:
        self.runs = 0
        self.events = 0
        self.virtual_s = 0.0
        self.operations = 0
        self.succeeded = 0
        self.failed = 0
        self.unknown = 0
        self.positions = 0
        self.faults = 0
        self.checked = 0
        self.undecided = 0
        self.slowest_recovery = 0.0
        self.fewest_operations = 0
        self.fewest_faults = 0
        self.least_success = 1.0
        self.counters: dict[str, int] = {}
        self.checks: tuple[str, ...] = ()
        self.skipped: tuple[str, ...] = ()

    def add(self, report: Report) -> None:
        """Count a run in."""
        first = self.runs == 0
        self.runs += 1
        self.events += report.events
        self.virtual_s += report.virtual_s
        self.operations += report.operations
        self.succeeded += report.succeeded
        self.failed += report.failed
        self.unknown += report.unknown
        self.positions += report.positions
        self.faults += report.faults
        self.checked += report.checked
        self.undecided += report.undecided
        self.slowest_recovery = max(self.slowest_recovery, report.recovery_units)
        self.fewest_operations = report.operations if first else min(self.fewest_operations, report.operations)
        self.fewest_faults = report.faults if first else min(self.fewest_faults, report.faults)
        self.least_success = min(self.least_success, report.succeeded / max(1, report.operations))
        self.checks = report.checks
        self.skipped = report.skipped
        for name, number in report.counters.items():
            self.counters[name] = self.counters.get(name, 0) + number

    def missing(self, names: Iterable[str]) -> list[str]:
        """Which of these never happened."""
        return [name for name in names if not self.counters.get(name)]

    def shortcomings(self, profile: FaultProfile, operations: int) -> list[str]:
        """What some run lacked: operations (so many were asked for), faults of ``profile``, or success."""
        found = []
        if self.fewest_operations < operations:
            found.append(f"a run had {self.fewest_operations} operations only, not {operations}")
        if any(msgspec.structs.astuple(profile)) and self.fewest_faults < FAULTS_A_RUN_MIN:
            found.append(f"only {self.fewest_faults} faults struck in a run, not {FAULTS_A_RUN_MIN}")
        if self.least_success <= SUCCEEDED_MIN:
            found.append(f"only {self.least_success:.0%} of a run's operations succeeded")
        return found

    def doubts(self) -> list[str]:
        """What was not judged and should have been, however few the runs."""
        if self.undecided <= UNDECIDED_SHARE_MAX * self.runs:
            return []
        share = f"{self.undecided} of {self.runs} histories were undecided, more than {UNDECIDED_SHARE_MAX:.0%}"
        return [f"{share}: the search gave up on them, and nothing is known of their order"]

    def lines(self) -> list[str]:
        """The summary for people."""
        runs = (
            f"{self.runs} runs, {self.virtual_s:.0f} s of virtual time, {self.events} events, "
            f"{self.positions} positions decided, {self.faults} faults (at least {self.fewest_faults} a run)"
        )
        operations = (
            f"{self.operations} operations (at least {self.fewest_operations} a run): {self.succeeded} succeeded "
            f"(at least {self.least_success:.0%} in a run), {self.failed} failed for certain, "
            f"{self.unknown} have an unknown outcome; {self.checked} were held against real time; "
            f"{self.undecided} of {self.runs} histories undecided"
        )
        recovery = f"healed clusters were back within {self.slowest_recovery:.2f} election timeouts"
        lines = [runs, operations, recovery, f"checked: {', '.join(self.checks)}"]
        if self.skipped:
            lines.append(f"not checked, for want of a witness of this protocol: {', '.join(self.skipped)}")
        width = max(map(len, self.counters), default=0)
        lines += [f"  {name:<{width}}  {number}" for name, number in sorted(self.counters.items())]
        return lines
