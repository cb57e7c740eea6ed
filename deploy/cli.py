"""The command groups ``synod cluster`` and ``synod member``.

Exit codes: 0 done; 1 it did not work, with one line that says why; 2 wrong usage; 3 (``status``) not all replicas are
ready.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from deploy import admin
from deploy.cluster import BASE_PORT, READY_TIMEOUT_S, Cluster, ClusterError, ReplicaStatus, default_folder
from deploy.drivers import DRIVERS, DriverError
from deploy.drivers.docker import DEFAULT_IMAGE, build_image
from deploy.shaping import SHAPINGS
from deploy.topology import available
from replica.wire.v1 import admin_pb2

NOT_READY = 3

F = TypeVar("F", bound=Callable[..., Any])


def _folder_option(function: F) -> F:
    return click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="The cluster's folder.  [default: $SYNOD_CLUSTER or data/cluster]",
    )(function)


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def _open(folder: Path | None) -> Cluster:
    try:
        return Cluster.open(folder or default_folder())
    except ClusterError as error:
        raise click.ClickException(str(error)) from None


def parse_option(text: str) -> tuple[str, int | float | str | bool]:
    """``NAME=VALUE``. Raises `click.BadParameter`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--option")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return name, value
    return name, parsed if isinstance(parsed, int | float | str | bool) else value


def _which(cluster: Cluster, replica: str) -> int:
    """A replica by its id, or ``leader``."""
    if replica != "leader":
        if not replica.isdecimal():
            raise click.BadParameter(f"{replica!r} is neither a replica's id nor 'leader'", param_hint="REPLICA")
        return int(replica)
    leader = cluster.leader()
    if leader is None:
        raise click.ClickException("no replica leads at the moment")
    return leader


@click.group()
def cluster() -> None:
    """Start, look at and disturb a local cluster."""


@cluster.command()
@_folder_option
@click.option("--driver", type=click.Choice(sorted(DRIVERS)), default="process", show_default=True)
@click.option("--replicas", type=int, default=3, show_default=True)
@click.option("--protocol", default="multipaxos", show_default=True, help="By name, or path.py:ATTRIBUTE.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the protocol.")
@click.option("--topology", default="", help=f"Delays between replicas: {', '.join(available())}, or a TOML file.")
@click.option(
    "--shaping", type=click.Choice(SHAPINGS), default="auto", show_default=True, help="What makes those delays."
)
@click.option("--image", default=DEFAULT_IMAGE, show_default=True, help="Of the containers of --driver docker.")
@click.option("--durability", type=click.Choice(["sync", "none"]), default="sync", show_default=True)
@click.option("--sync-mode", type=click.Choice(["inline", "thread", "auto"]), default="auto", show_default=True)
@click.option("--base-port", type=int, default=BASE_PORT, show_default=True, help="First client port; 0: free ones.")
@click.option("--metrics", is_flag=True, help="Expose Prometheus metrics, 200 ports above the client's.")
@click.option("--tls", is_flag=True, help="Mutual TLS, with an authority of the cluster's own in its folder.")
@click.option("--fault-injection", is_flag=True, help="Let the replicas accept injected faults.")
@click.option("--timeout", "timeout_s", type=float, default=READY_TIMEOUT_S, show_default=True, help="Seconds.")
@_json_option
def up(
    *,
    folder: Path | None,
    driver: str,
    replicas: int,
    protocol: str,
    options: tuple[str, ...],
    topology: str,
    shaping: str,
    image: str,
    durability: str,
    sync_mode: str,
    base_port: int,
    metrics: bool,
    tls: bool,
    fault_injection: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Start a cluster and wait until it serves.

    In a folder that holds a cluster already, start what is down; the other options then have no effect. A new cluster
    that does not come up is taken away again.
    """
    folder = folder or default_folder()
    node: dict[str, Any] = {"durability": durability, "sync_mode": sync_mode}
    if fault_injection:
        node["enable_fault_injection"] = True
    try:
        new = not Cluster.exists(folder)
        if not new:
            found = Cluster.open(folder)
        else:
            found = Cluster.create(
                folder,
                driver=driver,
                replicas=replicas,
                protocol=protocol,
                options=dict(parse_option(text) for text in options),
                topology=topology,
                base_port=base_port,
                node=node,
                metrics=metrics,
                tls=tls,
                image=image,
                shaping=shaping,
            )
        try:
            found.up(timeout_s=timeout_s)
        except (ClusterError, KeyboardInterrupt):
            if new:
                found.abandon()
            raise
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    for note in found.notes:
        click.echo(note, err=True)
    if as_json:
        about = {"folder": str(folder), "endpoints": found.endpoints, "leader": found.leader()}
        click.echo(json.dumps(about | {"shaping": found.layout.shaped_by}))
    else:
        click.echo(f"{len(found.endpoints)} replicas of {found.layout.protocol} are ready; data and logs in {folder}")
        if found.layout.shaped_by:
            click.echo(f"links are those of {found.layout.topology}, shaped by: {found.layout.shaped_by}")
        click.echo(f"endpoints: {','.join(found.endpoints)}")
        if found.layout.tls:
            click.echo("clients need (synod reads it from the environment):")
            click.echo(f"  export SYNOD_TLS_AUTHORITY={found.access.authority}")
            click.echo(f"  export SYNOD_TLS_CERTIFICATE={found.access.certificate}")
            click.echo(f"  export SYNOD_TLS_KEY={found.access.key}")


@cluster.command()
@_folder_option
@click.option("--wipe", is_flag=True, help="Delete the folder, data included.")
def down(folder: Path | None, wipe: bool) -> None:
    """Shut all replicas down; the data stays unless --wipe is given."""
    found = _open(folder)
    try:
        killed = found.down()
        if wipe:
            found.remove()
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    if killed:
        click.echo(f"replicas {', '.join(map(str, killed))} did not shut down in time and were killed")
    click.echo("the cluster is down" + (" and its data is deleted" if wipe else ""))


@cluster.command()
@_folder_option
@_json_option
@click.pass_context
def status(context: click.Context, folder: Path | None, as_json: bool) -> None:
    """Show every replica. Exit status 3 unless all are ready."""
    found = _open(folder)
    rows = found.status()
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(row) for row in rows]))
    else:
        _print_table(rows)
    if not all(row.ready for row in rows):
        context.exit(NOT_READY)


def _print_table(rows: list[ReplicaStatus]) -> None:
    head = ("replica", "client", "state", "role", "epoch", "ballot", "applied", "revision", "")
    table = [head]
    for row in rows:
        state = "ready" if row.ready else "running" if row.running else "down"
        numbers = (str(row.epoch), row.ballot, str(row.applied), str(row.revision)) if row.epoch else ("", "", "", "")
        table.append((str(row.replica), row.client, state, row.role, *numbers, row.problem))
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _simple(name: str, act: Callable[[Cluster, int], object], done: str, help_text: str) -> None:
    @cluster.command(name, help=help_text)
    @_folder_option
    @click.argument("replica")
    def command(folder: Path | None, replica: str) -> None:
        found = _open(folder)
        which = _which(found, replica)
        try:
            act(found, which)
        except ClusterError as error:
            raise click.ClickException(str(error)) from None
        click.echo(f"replica {which} {done}")


_simple("kill", lambda found, which: found.kill(which), "is killed", "kill -9 REPLICA (an id, or 'leader').")
_simple("restart", lambda found, which: found.restart(which), "is ready", "Shut REPLICA down and start it again.")
_simple("stop", lambda found, which: found.stop(which), "is down", "Shut REPLICA down.")
_simple("start", lambda found, which: found.start(which), "is ready", "Start REPLICA from its data.")
_simple("pause", lambda found, which: found.pause(which), "is paused", "Take REPLICA's processor away.")
_simple("resume", lambda found, which: found.resume(which), "goes on", "Let a paused REPLICA go on.")


@cluster.command()
@_folder_option
@click.argument("replica")
@click.option("--lines", type=int, default=20, show_default=True)
def logs(folder: Path | None, replica: str, lines: int) -> None:
    """Print the last lines of REPLICA's log."""
    found = _open(folder)
    try:
        for line in found.log_tail(_which(found, replica), lines):
            click.echo(line)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None


@cluster.command()
@_folder_option
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
def partition(folder: Path | None, groups: tuple[str, ...]) -> None:
    """Cut the cluster into groups between which no message crosses, e.g. `partition 1,2 3`.

    A replica that no group names is alone. Clients still reach all of them.
    """
    found = _open(folder)
    try:
        sides = [[int(replica) for replica in group.split(",")] for group in groups]
    except ValueError:
        raise click.BadParameter(f"{' '.join(groups)!r} is not ID,ID… ID,ID…", param_hint="GROUP") from None
    try:
        found.partition(sides)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"cut: {' | '.join(','.join(map(str, side)) for side in found.layout.groups)}")


@cluster.command()
@_folder_option
def heal(folder: Path | None) -> None:
    """End the partition."""
    found = _open(folder)
    try:
        found.heal()
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo("all replicas reach each other again")


@cluster.command()
@_folder_option
@_json_option
def network(folder: Path | None, as_json: bool) -> None:
    """Measure the round trips between the replicas, and print them beside those that the topology declares."""
    found = _open(folder)
    try:
        rows = found.round_trips()
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        shaping = {"topology": found.layout.topology, "shaping": found.layout.shaped_by}
        click.echo(json.dumps(shaping | {"links": [msgspec.to_builtins(row) for row in rows]}))
        return
    click.echo(f"topology {found.layout.topology or 'none'}, shaped by: {found.layout.shaped_by or 'nothing'}")
    for row in rows:
        achieved = "no answer" if row.achieved_ms is None else f"{row.achieved_ms:.2f} ms"
        places = f"  {row.one_region} - {row.other_region}" if row.one_region else ""
        click.echo(f"{row.one} - {row.other}{places}  declared {row.declared_ms:g} ms, achieved {achieved}")


@cluster.command()
@click.option("--tag", default=DEFAULT_IMAGE, show_default=True, help="The name of the image.")
@click.option("--base", default="", help="The image to build on.  [default: that of deploy/Dockerfile]")
@click.option(
    "--checkout",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(__file__).parents[1],
    help="A checkout of Synod.  [default: where this program comes from]",
)
def image(tag: str, base: str, checkout: Path) -> None:
    """Build the image for --driver docker."""
    try:
        for line in build_image(tag, base, checkout):
            click.echo(line)
    except DriverError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"image {tag} is there")


@click.group()
def member() -> None:
    """Look at and change who is in the cluster."""


@member.command("list")
@_folder_option
@_json_option
def list_members(folder: Path | None, as_json: bool) -> None:
    """Print the members as the cluster itself knows them."""
    found = _open(folder)
    reply = _newest(found)
    rows = [
        {"replica": m.replica, "peer": m.peer_address, "client": m.client_address, "region": m.region, "zone": m.zone}
        for m in reply.members
    ]
    if as_json:
        click.echo(json.dumps({"epoch": reply.epoch, "members": rows}))
        return
    click.echo(f"epoch {reply.epoch}")
    for row in rows:
        click.echo(f"{row['replica']}  peer {row['peer']}  client {row['client']}  {row['region']}".rstrip())


def _newest(found: Cluster) -> admin_pb2.StatusReply:
    replies = []
    for endpoint in found.endpoints:
        try:
            replies.append(admin.status(endpoint, access=found.access))
        except admin.AdminError:
            continue  # the others may answer
    if not replies:
        raise click.ClickException("no replica answers")
    return max(replies, key=lambda reply: reply.epoch)


@member.command()
@_folder_option
@click.argument("old", type=int)
@click.option("--with", "new", type=int, default=None, help="The new replica's id.  [default: the next free one]")
@click.option("--timeout", "timeout_s", type=float, default=READY_TIMEOUT_S, show_default=True, help="Seconds.")
def replace(folder: Path | None, old: int, new: int | None, timeout_s: float) -> None:
    """Put a new replica in the place of OLD while the cluster works.

    Use it for a replica whose disk is lost: ids are not used twice, since a wiped disk has forgotten its promises.
    """
    found = _open(folder)
    try:
        added = found.replace(old, new, timeout_s=timeout_s)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"replica {added} stands in the place of replica {old}")


@member.command()
@_folder_option
@click.option("--id", "new", type=int, default=None, help="The new replica's id.  [default: the next free one]")
@click.option("--region", default="", help="Where it stands in the cluster's topology.")
@click.option("--timeout", "timeout_s", type=float, default=READY_TIMEOUT_S, show_default=True, help="Seconds.")
def add(folder: Path | None, new: int | None, region: str, timeout_s: float) -> None:
    """Add a replica while the cluster works; return once it votes and serves."""
    found = _open(folder)
    try:
        added = found.add(new, region=region, timeout_s=timeout_s)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"replica {added} is a member; there are {len(found.layout.replicas)}")


@member.command()
@_folder_option
@click.argument("replica")
@click.option("--timeout", "timeout_s", type=float, default=READY_TIMEOUT_S, show_default=True, help="Seconds.")
def remove(folder: Path | None, replica: str, timeout_s: float) -> None:
    """Remove REPLICA (an id, or 'leader') while the cluster works, and stop it. Its folder stays.

    Refused, and nothing is changed, for the last member, and when the others that are up would be no majority.
    """
    found = _open(folder)
    which = _which(found, replica)
    try:
        found.remove_member(which, timeout_s=timeout_s)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"replica {which} is no member any more; there are {len(found.layout.replicas)}")
