"""`synod serve` and `synod format`: run a replica, and prepare its data folder.

Exit status of `serve`:

    0  stopped as asked (SIGTERM, SIGINT)
    1  failed; the line on standard error says why
    2  the configuration, or the data folder that it names, is not right
    3  an address to listen on is taken or not of this machine
    4  this replica is no longer a member of the cluster: starting it again is in vain
    5  the peers know this id with another disk, or belong to another cluster
    6  a durable record cannot be read or written: replace the replica

On standard output a script finds one line once the replica listens and one line once it can serve:

    listening replica=1 cluster=demo client=127.0.0.1:7001 peer=127.0.0.1:7101
    ready replica=1
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from replica.tuning import tune_grpc

__all__ = ["format_command", "serve"]


def _options(command: Any) -> Any:
    """The options that both commands share; each is the flag of a field of the configuration."""
    for option in reversed(
        (
            click.option(
                "--config", "-c", "config_path", type=click.Path(dir_okay=False), help="The TOML file to read."
            ),
            click.option("--cluster", help="The cluster's identity."),
            click.option("--replica", help="This replica's id."),
            click.option("--data", type=click.Path(file_okay=False), help="The data folder."),
            click.option("--members", help="ID=PEER[/CLIENT][@REGION[/ZONE]],..."),
            click.option("--protocol", help="The protocol's name."),
            click.option(
                "--bootstrap", is_flag=True, default=None, help="First start of a new cluster: format an empty folder."
            ),
            click.option("--join", is_flag=True, default=None, help="First start of a replica that is to be added."),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="PATH=VALUE",
                help="Any field of the configuration, e.g. listen.client=127.0.0.1:7001; may be repeated.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.option("--check-config", is_flag=True, help="Validate the configuration, say so, and exit.")
def serve(check_config: bool, **flags: Any) -> None:
    """Run one replica until it is told to stop (SIGTERM or SIGINT).

    Values come from flags, then from SYNOD_* variables, then from the file, then from the defaults.

    \b
    Exit status: 0 stopped as asked, 1 failed, 2 wrong configuration or data folder, 3 cannot listen,
    4 no longer a member, 5 wrong disk or cluster, 6 damaged storage.
    """
    tune_grpc(os.environ)
    config = _load(flags)
    if check_config:
        click.echo(f"the configuration of replica {config.replica} of cluster {config.cluster!r} is valid")
        return
    from replica.node.process import run

    sys.exit(run(config))


@click.command(name="format")
@_options
def format_command(**flags: Any) -> None:
    """Make an empty folder the data folder of a replica, once.

    Says --bootstrap (the default: a member of the initial configuration) or --join (a replica that waits to be made a
    member of a running cluster). A folder that holds anything already is refused.
    """
    if not flags.get("join"):
        flags["bootstrap"] = True
    config = _load(flags)
    from replica.node.errors import NodeFailure
    from replica.node.folder import prepare_folder

    try:
        identity = prepare_folder(config)
    except NodeFailure as error:
        _fail(str(error), error.exit_status)
    click.echo(
        f"formatted {config.data} for replica {identity.replica} of cluster {identity.cluster!r}, disk {identity.disk}"
    )


def _load(flags: dict[str, Any]) -> Any:
    from replica.consensus.interface import ConfigurationError
    from replica.node.config import load_config

    given: dict[str, object] = {}
    for name in ("cluster", "replica", "data", "members", "bootstrap", "join"):
        if flags.get(name) is not None:
            given[name] = flags[name]
    if flags.get("protocol") is not None:
        given["protocol.name"] = flags["protocol"]
    for setting in flags["settings"]:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            _fail(f"--set: {setting!r} is not PATH=VALUE", 2)
        given[path] = value
    try:
        return load_config(flags["config_path"], environment=os.environ, flags=given)
    except ConfigurationError as error:
        _fail(str(error), 2)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(status)
