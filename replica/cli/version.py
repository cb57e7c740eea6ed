"""`synod version`: what is installed, without importing any of it."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

import click

from replica import __version__

LIBRARIES = ("grpcio", "protobuf", "lmdb", "msgspec", "uvloop")
"""The distributions whose versions matter when a problem or a measurement is reported."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(as_json: bool) -> None:
    """Show the version of Synod and of what it runs on."""
    facts: dict[str, str | None] = {
        "synod": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version_of(name) for name in LIBRARIES},
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:<9} {value or 'not installed'}")


def _version_of(distribution: str) -> str | None:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return None
