"""`synod backup` and `synod inspect`: the store as a file, and what a data folder holds."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import click

from replica import __version__
from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import EXPLANATION, statuses


@click.command(epilog=EXPLANATION)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--revision", type=click.IntRange(min=0), default=0, metavar="N", help="As of revision N; 0: now.")
@click.option("--verify", is_flag=True, help="Write nothing: read FILE to its end and say what is in it.")
@connection_options
def backup(file: Path, revision: int, verify: bool, as_json: bool, **connection: Any) -> None:
    """Write all keys, as they are at one revision, to FILE, while the cluster works.

    The file depends on no protocol and carries checksums; `synod restore` makes a cluster from it. A compaction that
    overtakes the backup ends it with an error: take it again. FILE must not exist.
    """
    from replica.storage.backup import BackupError, BackupHeader, BackupReader, write_backup

    try:
        if verify:
            with BackupReader(file) as reader:
                _tell(file, reader.header, reader.verify(), as_json=as_json)
            return
        with statuses(as_json=as_json), store_of(**connection) as store:
            items = store.range(prefix=b"", revision=revision)
            head = list(itertools.islice(items, 1))
            replica = next((each for each in store.status() if each.reachable), None)
            header = BackupHeader(
                version=1,
                cluster=replica.cluster if replica else "",
                revision=items.revision or 0,
                protocol=replica.protocol if replica else "",
                release=__version__,
                created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                leases=tuple((lease.lease, lease.ttl_ms) for lease in store.leases()),
            )
            footer = write_backup(file, header, itertools.chain(head, items))
    except BackupError as error:
        raise click.ClickException(str(error)) from None
    _tell(file, header, footer, as_json=as_json)


def _tell(file: Path, header: Any, footer: Any, *, as_json: bool) -> None:
    facts = {
        "file": str(file),
        "cluster": header.cluster,
        "protocol": header.protocol,
        "revision": header.revision,
        "keys": footer.keys,
        "leases": len(header.leases),
        "created": header.created,
        "digest": footer.digest,
        "bytes": file.stat().st_size,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{file}: {footer.keys} keys at revision {header.revision} of cluster {header.cluster}")
    click.echo(f"digest {footer.digest}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(folder: Path, as_json: bool) -> None:
    """Say what the data FOLDER of a replica that does not run holds, and whether all of it can be read.

    Nothing is changed.

    \b
    Exit status: 0 all of it can be read, 1 some of it cannot (a line each says what), 2 it is no data folder, or in
    use.
    """
    import msgspec

    from replica.storage.errors import StorageError
    from replica.storage.inspection import inspect_folder

    try:
        found = inspect_folder(folder)
    except StorageError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(found, str_keys=True), "problems": found.problems}))
    else:
        for line in _lines(found):
            click.echo(line)
    for problem in found.problems:
        click.echo(f"Error: {problem}", err=True)
    sys.exit(1 if found.problems else 0)


def _lines(found: Any) -> list[str]:
    identity, log, state = found.identity, found.log, found.state
    closed = "cleanly" if state.clean else "by a crash, or never used"
    lines = [f"replica {identity.replica} of cluster {identity.cluster}, disk {identity.disk}, made {identity.created}"]
    lines.append(
        f"log: epoch {log.epoch} of {log.protocol or '(none yet: it waits to join)'}, members "
        f"{', '.join(map(str, log.members)) or 'none'}, retired {', '.join(map(str, log.retired)) or 'none'}"
    )
    lines.append(
        f"log: started {log.incarnation} times, {'admitted' if log.admitted else 'not admitted: it does not vote'}, "
        f"{log.bytes} bytes in {_tables(log.tables)}"
    )
    lines.append(f"log: begins behind {log.frontier}, the epoch at {log.base}; snapshot {log.snapshot or 'none'}")
    for replica, disk in sorted(log.peer_disks.items()):
        lines.append(f"log: replica {replica} is on record with disk {disk}")
    lines.append(
        f"state: generation {state.generation}, closed {closed}, {state.bytes} bytes in {_tables(state.tables)}"
    )
    lines.append(
        f"state: applied {state.applied}, revision {state.revision}, compacted {state.compacted}, {state.sessions} "
        f"sessions, {state.leases} leases"
    )
    for each in found.snapshots:
        mark = "the one that counts" if each.anchored else "superseded"
        lines.append(
            f"snapshot {each.name}: {mark}, epoch {each.epoch}, covers {each.frontier}, {each.items} items, "
            f"{each.bytes} bytes"
        )
    return lines


def _tables(tables: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(tables.items())) or "no tables"
