"""`synod status`: what the replicas say of themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import NOT_DONE, statuses

if TYPE_CHECKING:
    from replica.client import ReplicaStatus

HEADINGS = (
    "REPLICA", "ENDPOINT", "ROLE", "LEADER", "EPOCH", "APPLIED", "DECIDED", "REVISION", "SYNC", "READY", "PROBLEM"
)  # fmt: skip


@click.command()
@connection_options
def status(as_json: bool, timeout_s: float, **connection: Any) -> None:
    """Show every replica of the cluster.

    Replicas that the given ones name are asked as well.

    \b
    Exit status:
      0  linearizable commands would be served
      5  they would not, as far as the replicas that answered know
    """
    import msgspec

    with statuses(as_json=as_json), store_of(timeout_s=timeout_s, **connection) as store:
        replicas = store.status(timeout_s=timeout_s)
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(replica) for replica in replicas]))
    else:
        for heading in {
            f"cluster {replica.cluster}, protocol {replica.protocol}, version {replica.version}": None
            for replica in replicas
            if replica.reachable
        }:
            click.echo(heading)
        for line in table([HEADINGS, *(row(replica) for replica in replicas)]):
            click.echo(line)
    if not any(replica.ready for replica in replicas):
        sys.exit(NOT_DONE)


def row(replica: ReplicaStatus) -> tuple[str, ...]:
    """A replica's line."""
    if not replica.reachable:
        return ("?", replica.endpoint, *["-"] * 7, "no", replica.problem)
    return (
        str(replica.replica),
        replica.endpoint,
        replica.role,
        str(replica.leader or "-"),
        str(replica.epoch),
        str(replica.applied),
        str(replica.decided),
        str(replica.revision),
        replica.sync_mode if replica.durability == "sync" else replica.durability,
        "yes" if replica.ready else "no",
        replica.problem,
    )


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
