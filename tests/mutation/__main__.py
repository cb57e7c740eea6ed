"""Draws mutants, tries to kill them, and reports: ``python -m tests.mutation [--jobs N] [--mutants N] [--seed N]``.

Exit status 1 if fewer than `KILLED_MIN` are killed, or if a survivor is not explained.
"""

from __future__ import annotations

import compileall
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import click
import msgspec

from tests.mutation.mutants import Mutant, all_places, draw_mutants

ROOT = Path(__file__).resolve().parents[2]

SURVIVORS = Path(__file__).with_name("SURVIVORS.md")

KILLED_MIN = 0.9

SUITES: tuple[tuple[str, list[str], list[str]], ...] = (
    (
        "unit tests",
        ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m"],
        [
            "not slow",
            "tests/unit/consensus/test_quorums.py",
            "tests/unit/consensus/test_parts.py",
            "tests/unit/consensus/test_shared.py",
            "tests/unit/consensus/test_multipaxos.py",
            "tests/unit/consensus/test_multipaxos_traps.py",
            "tests/unit/consensus/test_multipaxos_chaos.py",
        ],
    ),
    ("simulation", ["-m", "tests.mutation.seeds"], []),
)

SUITE_S_MAX = 300
"""A mutant that keeps a suite busy for longer runs in circles. The original takes some seconds."""

MEMORY_BYTES_MAX = 3 << 30


class Fate(msgspec.Struct, frozen=True):
    """What became of a mutant."""

    mutant: Mutant
    killer: str
    """The suite that noticed it; empty if none did."""
    seconds: float


def copy_tree(to: Path) -> None:
    """A copy in which a mutant can live, compiled, since mutants leave nothing behind."""
    shutil.copy(ROOT / "pyproject.toml", to)
    for name in ("replica", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(to, quiet=2)


def bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


def killer_of(tree: Path, before: Sequence[str]) -> str:
    """The first suite that fails in the tree, or runs in circles; empty if none does."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    for name, program, arguments in SUITES:
        try:
            done = subprocess.run(
                [*before, sys.executable, *program, *arguments],
                cwd=tree,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=SUITE_S_MAX,
                preexec_fn=bound_memory,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{name} (in circles)"
        if done.returncode:
            return name
    return ""


def try_to_kill(mutant: Mutant, tree: Path, before: Sequence[str]) -> Fate:
    """Make the mutant in the tree, run the suites, and put the original back."""
    began = time.perf_counter()
    target = tree / mutant.path
    original = target.read_text()
    for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"):
        compiled.unlink()
    target.write_text(mutant.source(tree))
    try:
        return Fate(mutant, killer_of(tree, before), time.perf_counter() - began)
    finally:
        target.write_text(original)


def explained() -> str:
    """What is written about survivors."""
    return SURVIVORS.read_text() if SURVIVORS.exists() else ""


@click.command()
@click.option("--mutants", type=click.IntRange(1), default=240, show_default=True, help="How many are drawn.")
@click.option("--seed", type=int, default=1, show_default=True, help="What draws them.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Mutants tried at a time.")
@click.option("--skip", type=click.IntRange(0), default=0, help="How many of those drawn to pass over.")
@click.option("--only", default="", help="Only mutants whose names contain this.")
@click.option("--before", default="", metavar="COMMAND", help="What each suite is run under, such as 'nice -n 10'.")
def main(*, mutants: int, seed: int, jobs: int, skip: int, only: str, before: str) -> None:
    """Mutate guards and comparisons of MultiPaxos and of the quorum systems, and see who notices."""
    drawn = [mutant for mutant in draw_mutants(ROOT, seed, mutants)[skip:] if only in mutant.name]
    click.echo(f"{len(drawn)} of {len(all_places(ROOT))} mutants, drawn by seed {seed}", err=True)
    fates: list[Fate] = []
    with tempfile.TemporaryDirectory(prefix="synod-mutants-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for job in range(jobs):
            tree = Path(folder) / str(job)
            tree.mkdir()
            copy_tree(tree)
            trees.put(tree)
        under = shlex.split(before)
        if killer := killer_of(tree, under):
            raise click.ClickException(f"the original does not pass: {killer}")

        def work(mutant: Mutant) -> Fate:
            free = trees.get()
            try:
                return try_to_kill(mutant, free, under)
            finally:
                trees.put(free)

        with ThreadPoolExecutor(jobs) as pool:
            for fate in pool.map(work, drawn):
                fates.append(fate)
                click.echo(
                    f"{len(fates):4} {fate.killer or 'SURVIVED':22} {fate.seconds:6.1f} s  "
                    f"{fate.mutant.path}:{fate.mutant.line} {fate.mutant.name}",
                    err=True,
                )
    report(fates)


def report(fates: list[Fate]) -> None:
    """Print what became of the mutants, and exit with 1 if that is not good enough."""
    survivors = [fate.mutant for fate in fates if not fate.killer]
    killed = len(fates) - len(survivors)
    killers: dict[str, int] = {}
    for fate in fates:
        killers[fate.killer or "nothing"] = killers.get(fate.killer or "nothing", 0) + 1
    click.echo(f"{killed} of {len(fates)} killed ({killed / len(fates):.1%})")
    for killer, number in sorted(killers.items()):
        click.echo(f"  by {killer}: {number}")
    known = explained()
    unexplained = [mutant for mutant in survivors if mutant.name.replace("|", "\\|") not in known]
    for mutant in survivors:
        mark = "not explained" if mutant in unexplained else "explained"
        click.echo(f"survived ({mark}): {mutant.path}:{mutant.line} {mutant.name}")
    if unexplained or killed < KILLED_MIN * len(fates):
        sys.exit(1)


if __name__ == "__main__":
    main()
