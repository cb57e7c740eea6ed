"""Hunts the zoo and prints how many seeds each bug took: ``python -m tests.simulation.zoo [--jobs N] [WORD ...]``.

Exit status 1 if a bug was not found within the seeds, was found by a check that nobody named for it, or if its seed is
not clean with the switch off.
"""

import multiprocessing
import sys

import click

from replica.simulation.zoo import SEEDS_MAX, Catch, table
from tests.simulation.zoo import collect, hunt_by_name


@click.command()
@click.argument("words", nargs=-1)
@click.option("--seeds", type=click.IntRange(1), default=SEEDS_MAX, show_default=True, help="At most, for each bug.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the bugs.")
def main(words: tuple[str, ...], seeds: int, jobs: int) -> None:
    """Hunt the planted bugs whose names contain one of WORDS, or all of them."""
    zoo = collect()
    names = [name for name in zoo if not words or any(word in name for word in words)]
    if not names:
        raise click.UsageError("no bug is called so; there are:\n  " + "\n  ".join(zoo))
    catches: list[Catch] = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for catch in pool.imap(hunt_by_name, [(name, seeds) for name in names]):
            catches.append(catch)
            click.echo(f"{catch.name}: {catch.check or 'not found'} after {catch.tried} seeds", err=True)
    click.echo("\n".join(table(catches)))
    bad = [catch for catch in catches if not catch.good]
    for catch in bad:
        click.echo(f"{catch.name}: {catch.text or 'not found'}", err=True)
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
