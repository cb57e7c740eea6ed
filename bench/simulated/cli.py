"""``synod bench calibrate``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

__all__ = ["calibrate"]


@click.command("calibrate")
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File to write; simulated runs look for data/costs.json.",
)
@click.option("--seconds", type=float, default=1.5, show_default=True, help="Of each of the twelve loads.")
def calibrate(into: Path | None, seconds: float) -> None:
    """Measure on this machine what simulated runs (--target simulated) take things to cost."""
    from bench.increments import run
    from bench.simulated.costs import DEFAULT_FILE
    from bench.simulated.costs import calibrate as measure
    from deploy import ClusterError
    from replica.client import SynodError

    try:
        costs = run(measure(seconds))
    except (ClusterError, SynodError, ValueError) as error:
        raise click.ClickException(f"the costs could not be measured: {error}") from None
    path = into or DEFAULT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")
    for name in costs.__struct_fields__:
        value = getattr(costs, name)
        if name.endswith("_s"):
            click.echo(f"{name.removesuffix('_s').replace('_', ' '):18} {value * 1e6:10.3f} µs")
    click.echo(f"{'misfit':18} {costs.misfit:10.1%}")
    click.echo(f"Written to {path}")
