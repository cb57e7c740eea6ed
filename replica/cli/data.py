"""`synod put`, `get`, `delete`, `range`, `add` and `compact`: the store from the shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import EXPLANATION, NOT_FOUND, statuses

C = TypeVar("C")

CONSISTENCIES: Final = ("linearizable", "stale", "read-index", "log", "lease", "quorum")

_key = click.argument("key", metavar="KEY")
_if_revision = click.option(
    "--if-revision",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the key was last modified at revision N; 0: only if there is none.",
)
_consistency = click.option(
    "--consistency",
    type=click.Choice(CONSISTENCIES),
    default="linearizable",
    show_default=True,
    help="How the read is served; stale asks any replica for what it has.",
)
_revision = click.option(
    "--revision", type=click.IntRange(min=0), default=0, metavar="N", help="As of revision N; 0: now."
)


@click.command(epilog=EXPLANATION)
@_key
@click.argument("value", required=False)
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the value from a file.",
)
@_if_revision
@connection_options
def put(
    key: str, value: str | None, path: Path | None, if_revision: int | None, as_json: bool, **connection: Any
) -> None:
    """Set KEY to VALUE.

    Without VALUE, or with "-", the value is all that comes on standard input, byte for byte.
    """
    from replica.cli.text import from_argument, result

    if path is not None and value is not None:
        raise click.UsageError("give a VALUE or --file, not both")
    if path is not None:
        content = path.read_bytes()
    elif value is None or value == "-":
        content = sys.stdin.buffer.read()
    else:
        content = from_argument(value)
    with statuses(as_json=as_json), store_of(**connection) as store:
        written = store.put(from_argument(key), content, if_revision=if_revision)
    click.echo(json.dumps(result(written)) if as_json else f"revision {written.revision}")


@click.command(epilog=EXPLANATION)
@_key
@_revision
@_consistency
@connection_options
def get(key: str, revision: int, consistency: Any, as_json: bool, **connection: Any) -> None:
    """Print the value of KEY.

    The bytes are written as they are; only on a terminal a newline follows. With --json the value comes with its
    history, and bytes that are no UTF-8 as {"base64": ...}.
    """
    from replica.cli.text import escaped, from_argument, item

    with statuses(as_json=as_json), store_of(**connection) as store:
        found = store.get(from_argument(key), revision=revision, consistency=consistency)
    if found is None:
        click.echo("null" if as_json else f"no key {escaped(from_argument(key))}", err=not as_json)
        sys.exit(NOT_FOUND)
    if as_json:
        click.echo(json.dumps(item(found)))
        return
    output = sys.stdout.buffer
    output.write(found.value + (b"\n" if sys.stdout.isatty() else b""))
    output.flush()


@click.command(epilog=EXPLANATION)
@_key
@click.option("--prefix", is_flag=True, help="Remove every key that begins with KEY.")
@_if_revision
@connection_options
def delete(key: str, prefix: bool, if_revision: int | None, as_json: bool, **connection: Any) -> None:
    """Remove KEY."""
    from replica.cli.text import escaped, from_argument, result

    if prefix and if_revision is not None:
        raise click.UsageError("--if-revision is about one key, --prefix about many")
    name = from_argument(key)
    with statuses(as_json=as_json), store_of(**connection) as store:
        deleted = store.delete_range(name) if prefix else store.delete(name, if_revision=if_revision)
    if as_json:
        click.echo(json.dumps(result(deleted)))
    elif deleted.count:
        click.echo(f"removed {deleted.count}")
    else:
        click.echo(f"no key {'that begins with ' if prefix else ''}{escaped(name)}", err=True)
    if not deleted.count:
        sys.exit(NOT_FOUND)


@click.command("range", epilog=EXPLANATION)
@click.argument("prefix", required=False)
@click.option("--first", metavar="KEY", help="Begin at this key instead of a prefix.")
@click.option("--last", metavar="KEY", help="End before this key.")
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="At most N keys; 0: all.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--keys-only", is_flag=True, help="Leave the values where they are.")
@click.option("--count", "only_count", is_flag=True, help="Print only how many keys there are.")
@_revision
@_consistency
@connection_options
def range_(
    *,
    prefix: str | None,
    first: str | None,
    last: str | None,
    limit: int,
    reverse: bool,
    keys_only: bool,
    only_count: bool,
    revision: int,
    consistency: Any,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print the keys that begin with PREFIX (all keys without one), in order.

    A line each: key, tab, value; what is not printable is escaped as in Python. With --json, a JSON object a line.
    """
    from replica.cli.text import escaped, from_argument, item

    ends: dict[str, Any] = {"first": _bytes(first), "last": _bytes(last)}
    if first is None and last is None:
        ends = {"prefix": from_argument(prefix or "")}
    elif prefix is not None:
        raise click.UsageError("give a PREFIX, or --first and --last")
    with statuses(as_json=as_json), store_of(**connection) as store:
        if only_count:
            click.echo(store.count(**ends, revision=revision, consistency=consistency))
            return
        for found in store.range(
            **ends, limit=limit, reverse=reverse, keys_only=keys_only, revision=revision, consistency=consistency
        ):
            if as_json:
                click.echo(json.dumps(item(found, keys_only=keys_only)))
            else:
                click.echo(escaped(found.key) if keys_only else f"{escaped(found.key)}\t{escaped(found.value)}")


@click.command(epilog=EXPLANATION)
@_key
@click.argument("delta", type=int, default=1)
@connection_options
def add(key: str, delta: int, as_json: bool, **connection: Any) -> None:
    """Add DELTA (1 if not given) to the decimal integer at KEY and print the sum.

    A key that does not exist counts as 0. A negative DELTA goes behind "--".
    """
    from replica.cli.text import from_argument, result

    with statuses(as_json=as_json), store_of(**connection) as store:
        added = store.add(from_argument(key), delta)
    click.echo(json.dumps(result(added)) if as_json else added.value)


@click.command(epilog=EXPLANATION)
@click.argument("revision", type=click.IntRange(min=1))
@connection_options
def compact(revision: int, as_json: bool, **connection: Any) -> None:
    """Forget what was superseded at or before REVISION."""
    with statuses(as_json=as_json), store_of(**connection) as store:
        done = store.compact(revision)
    facts = {"revision": done.revision, "compacted": done.compacted}
    click.echo(json.dumps(facts) if as_json else f"compacted to revision {done.compacted}")


def _bytes(argument: str | None) -> bytes | None:
    from replica.cli.text import from_argument

    return None if argument is None else from_argument(argument)
