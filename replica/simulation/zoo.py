"""The bug zoo: published mistakes planted on purpose, each with the checks that have to find it.

A suite that has never caught anything proves nothing. A `Specimen` is a protocol (or the world around one) with one
mistake that real implementations have made, and the names of the checks that may be the first to object. `hunt` runs
seeds until one of them does, and says how many that took; the same seed with the switch off has to be clean.

Nothing here reaches production. A protocol's mistakes sit behind an argument of its constructor that no option and no
registry entry fills (``planted.py`` in the protocol's package builds a `ProtocolSpec` with it), and those of storage,
sessions and snapshots behind `replica.simulation.witness.Controls`, which only the simulator has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from replica.consensus.interface import Options, ProtocolSpec
from replica.simulation.plan import FaultProfile
from replica.simulation.runner import SimulationFailure, run
from replica.simulation.witness import Controls, Witness

SEEDS_MAX: Final = 2000
"""Seeds within which every specimen has to be found."""

QUICK_SEEDS_MAX: Final = 100
"""Seeds within which one has to be found that is not ``rare``."""


class Specimen(msgspec.Struct, frozen=True, kw_only=True):
    """One planted bug."""

    bug: str
    """Its name, as it is known."""
    place: str = ""
    """Where the mistake lives; empty for the protocol."""
    consequence: str
    """What comes of it."""
    caught_by: frozenset[str]
    """The checks that may be the first to object."""
    spec: ProtocolSpec
    """The protocol with the bug in it, or the sound one if the bug is in ``controls``."""
    sound: ProtocolSpec
    """The protocol with the switch off."""
    controls: Controls = Controls()
    """Mistakes in what stands around the protocol."""
    replicas: int = 3
    profile: str | FaultProfile = "all"
    operations: int = 500
    witness: Callable[[], Witness] | None = None
    """Makes the witness of a run; by default the one that is known for the protocol's name."""
    options: Options = {}
    rare: bool = False
    """Found within `SEEDS_MAX` seeds, but not quickly (never within `QUICK_SEEDS_MAX`, or only after some dozens): left
    to the slow tests."""

    @property
    def name(self) -> str:
        """Unique in the zoo: where it lives, and the bug."""
        return f"{self.place or self.spec.name}: {self.bug}"

    def run(self, seed: int) -> SimulationFailure | None:
        """Run a seed with the bug in place; the failure, if there was one."""
        return _failure(self, seed, self.spec, self.controls)

    def run_without(self, seed: int) -> SimulationFailure | None:
        """Run a seed with the switch off; a failure is a bug that nobody planted."""
        return _failure(self, seed, self.sound, Controls())


class Catch(msgspec.Struct, frozen=True, kw_only=True):
    """How a specimen was found, or that it was not."""

    name: str
    tried: int
    """Seeds that it took, the one that failed included."""
    seed: int | None = None
    check: str = ""
    """Which check objected; empty if none did."""
    expected: bool = False
    """Is that one of the specimen's ``caught_by``?"""
    clean: bool = False
    """Is the same seed clean with the switch off?"""
    text: str = ""

    @property
    def good(self) -> bool:
        """Found, by a check that was named, and clean without the bug."""
        return self.seed is not None and self.expected and self.clean


def hunt(
    specimen: Specimen,
    seeds: Iterable[int] = range(SEEDS_MAX),
    *,
    progress: Callable[[int], None] | None = None,
) -> Catch:
    """Run seeds until one fails. ``progress`` is told how many have been tried."""
    tried = 0
    for seed in seeds:
        tried += 1
        failure = specimen.run(seed)
        if progress is not None:
            progress(tried)
        if failure is not None:
            return Catch(
                name=specimen.name,
                tried=tried,
                seed=seed,
                check=failure.check,
                expected=failure.check in specimen.caught_by,
                clean=specimen.run_without(seed) is None,
                text=str(failure),
            )
    return Catch(name=specimen.name, tried=tried)


def table(catches: Sequence[Catch]) -> list[str]:
    """Seeds to detection, as lines of a Markdown table."""
    lines = ["| bug | found by | seeds |", "| --- | --- | ---: |"]
    for catch in catches:
        found = catch.check or "nothing"
        if catch.seed is not None and not catch.expected:
            found += " (not a check that was named for it)"
        if catch.seed is not None and not catch.clean:
            found += " (and the seed fails without the bug, too)"
        lines.append(f"| {catch.name} | {found} | {catch.tried} |")
    return lines


def _failure(specimen: Specimen, seed: int, spec: ProtocolSpec, controls: Controls) -> SimulationFailure | None:
    try:
        run(
            seed,
            spec,
            specimen.replicas,
            specimen.profile,
            operations=specimen.operations,
            options=specimen.options,
            controls=controls,
            witness=None if specimen.witness is None else specimen.witness(),
        )
    except SimulationFailure as failure:
        return failure
    return None
