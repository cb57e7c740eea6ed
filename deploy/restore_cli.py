"""``synod restore``: a cluster from a backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from deploy.cli import parse_option
from deploy.cluster import BASE_PORT, Cluster, ClusterError


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Of the new cluster; empty."
)
@click.option("--replicas", type=int, default=3, show_default=True)
@click.option("--protocol", default="multipaxos", show_default=True, help="One that orders all commands.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the protocol.")
@click.option("--base-port", type=int, default=BASE_PORT, show_default=True, help="First client port; 0: free ones.")
@click.option("--tls", is_flag=True, help="Mutual TLS, as in `synod cluster up`.")
def restore(
    *,
    file: Path,
    folder: Path,
    replicas: int,
    protocol: str,
    options: tuple[str, ...],
    base_port: int,
    tls: bool,
) -> None:
    """Make a new cluster in an empty folder, with the keys of the backup FILE. `synod cluster up` starts it.

    Keys keep their revisions and versions, leases get their full time to live. The cluster has an identity of its own,
    so that replicas and clients of the one that was backed up take no part in it.
    """
    try:
        made = restore_cluster(
            file,
            folder,
            replicas=replicas,
            protocol=protocol,
            options=dict(parse_option(text) for text in options),
            base_port=base_port,
            tls=tls,
        )
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"cluster {made.layout.cluster}: {replicas} replicas of {protocol} in {folder}, made from {file}")
    click.echo(f"start it with: synod cluster up --folder {folder}")


def restore_cluster(
    file: Path,
    folder: Path,
    *,
    replicas: int = 3,
    protocol: str = "multipaxos",
    options: dict[str, int | float | str | bool] | None = None,
    base_port: int = BASE_PORT,
    tls: bool = False,
) -> Cluster:
    """A new cluster, not started, whose replicas all hold what is in the backup.

    Raises `ClusterError`; then the folder is as it was.
    """
    from replica.node.errors import NodeFailure
    from replica.node.folder import prepare_folder

    if folder.exists() and any(folder.iterdir()):
        raise ClusterError(f"{folder} is not empty: a backup is restored into an empty folder; nothing was changed")
    existed = folder.exists()
    try:
        made = Cluster.create(
            folder,
            replicas=replicas,
            protocol=protocol,
            options=options,
            base_port=base_port,
            tls=tls,
        )
        for config in made.configurations():
            prepare_folder(config, backup=file)
        made.formatted()
    except (NodeFailure, ClusterError) as error:
        _clear(folder, keep=existed)
        raise ClusterError(f"{error}; nothing was restored") from None
    except BaseException:
        _clear(folder, keep=existed)
        raise
    return made


def _clear(folder: Path, *, keep: bool) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    if keep:
        folder.mkdir()
