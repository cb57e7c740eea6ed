"""`synod md`: the metadata store from the shell."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
from click.decorators import FC

from replica.cli.connecting import connection_options, store_of
from replica.cli.exits import EXPLANATION, NOT_FOUND, statuses
from replica.cli.status import table

if TYPE_CHECKING:
    from replica.metadata import Artifact, Metadata
    from replica.metadata.model import AnyObject

FAULTS: Final = 1
"""Exit status of `synod md check` when a promise is broken."""

VALUE_CHARACTERS_MAX: Final = 40

_prefix = click.option(
    "--prefix", default="md/", show_default=True, metavar="TEXT", help="Where the store's keys begin."
)
_at = click.option("--at", type=click.IntRange(min=1), metavar="REVISION", help="Show how it was at this revision.")
_kind = click.option("--kind", type=click.Choice(["artifact", "execution", "context"]), help="Only these.")
_limit = click.option(
    "--limit", type=click.IntRange(min=1, max=10_000), default=50, show_default=True, metavar="N", help="At most N."
)
_ref = click.argument("ref")


def _command(command: FC) -> FC:
    return connection_options(_prefix(command))


@contextmanager
def _metadata(*, prefix: str, as_json: bool, **connection: Any) -> Iterator[Metadata]:
    """The store, with errors turned into statuses."""
    with statuses(as_json=as_json, special=_special()), store_of(**connection) as store:
        from replica.metadata import Metadata

        yield Metadata(store, prefix=prefix)


def _special() -> dict[type[Exception], int]:
    from replica.metadata import NotFound

    return {NotFound: NOT_FOUND}


@click.group()
def md() -> None:
    """Machine-learning metadata: types, artifacts, runs, versions, lineage.

    REF names an object: an id, Type:name, an alias, or name@version (name@latest) of a data set or package.
    """


@md.command(epilog=EXPLANATION)
@_kind
@_at
@_command
def types(*, kind: Any, at: int | None, as_json: bool, **connection: Any) -> None:
    """Print the types: kind, name, properties (with * where they are indexed)."""
    with _metadata(as_json=as_json, **connection) as metadata:
        found = metadata.types(kind=kind, at=at)
    if as_json:
        click.echo(json.dumps([_builtins(each) for each in found]))
        return
    rows = [
        (
            each.kind,
            each.name,
            " ".join(f"{name}:{kind}{'*' if name in each.index else ''}" for name, kind in each.properties.items()),
        )
        for each in found
    ]
    _print(("KIND", "TYPE", "PROPERTIES"), rows)


@md.command("ls", epilog=EXPLANATION)
@click.argument("type", required=False)
@_kind
@_limit
@_at
@_command
def list_(*, type: str | None, kind: Any, limit: int, at: int | None, as_json: bool, **connection: Any) -> None:  # noqa: A002
    """Print the newest objects, of a TYPE or of all."""
    with _metadata(as_json=as_json, **connection) as metadata:
        page = metadata.find(type, kind=kind, order_by="-created", limit=limit, at=at)
    _objects(page.items, as_json=as_json, more=page.next)


@md.command(epilog=EXPLANATION)
@click.argument("type")
@click.argument("filter", default="")
@click.option("--order-by", default="id", show_default=True, metavar="FIELD", help="With - before it: greatest first.")
@click.option("--page", metavar="TOKEN", help="Go on where a page ended.")
@_limit
@_at
@_command
def find(
    *,
    type: str,  # noqa: A002
    filter: str,  # noqa: A002
    order_by: str,
    page: str | None,
    limit: int,
    at: int | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print the objects of a TYPE (- for all) of which FILTER holds.

    For example: synod md find Model "properties.acc > 0.9 AND context = 'exp7'" --order-by -properties.acc
    """
    with _metadata(as_json=as_json, **connection) as metadata:
        found = metadata.find(None if type == "-" else type, filter, order_by=order_by, page=page, limit=limit, at=at)
    _objects(found.items, as_json=as_json, more=found.next)


@md.command(epilog=EXPLANATION)
@_ref
@_at
@_command
def show(*, ref: str, at: int | None, as_json: bool, **connection: Any) -> None:
    """Print an object with its properties, edges, contexts, aliases and metrics."""
    with _metadata(as_json=as_json, **connection) as metadata:
        revision = at or metadata.revision()
        found = _resolve(metadata, ref, revision)
        edges = metadata.edges(found, at=revision)
        others = {each: metadata.get(each, at=revision) for edge in edges for each in (edge.source, edge.target)}
        aliases = sorted(metadata.aliases(found, at=revision)) if found.kind == "artifact" else []
        metrics = metadata.metric_names(found, at=revision)
    if as_json:
        facts = {"object": _builtins(found), "edges": [_builtins(edge) for edge in edges]}
        click.echo(json.dumps(facts | {"aliases": aliases, "metrics": metrics, "revision": revision}))
        return
    for name, value in _facts(found):
        click.echo(f"{name:<14}{value}")
    for alias in aliases:
        click.echo(f"{'alias':<14}{alias}")
    for metric in metrics:
        click.echo(f"{'metric':<14}{metric}")
    for edge in edges:
        other = others[edge.target if edge.source == found.id else edge.source]
        arrow = "→" if edge.source == found.id else "←"
        role = f" [{edge.role}]" if edge.role else ""
        click.echo(f"{edge.kind:<12}{arrow} {other.label}{role}")


@md.command(epilog=EXPLANATION)
@_ref
@click.option(
    "--direction", type=click.Choice(["up", "down", "both"]), default="both", show_default=True,
    help="What it was made from, what was made of it, or both.",
)  # fmt: skip
@click.option("--hops", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="At most N edges.")
@click.option("--stop", default="", metavar="FILTER", help="Do not go beyond what this filter holds of.")
@click.option("--dot", "as_dot", is_flag=True, help="Print a Graphviz graph.")
@click.option("--svg", "picture", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it (needs Graphviz).")
@_at
@_command
def lineage(
    *,
    ref: str,
    direction: Any,
    hops: int,
    stop: str,
    as_dot: bool,
    picture: str | None,
    at: int | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Print the lineage of an object as a tree."""
    from replica.metadata.picture import dot, svg, tree

    with _metadata(as_json=as_json, **connection) as metadata:
        revision = at or metadata.revision()
        root = _resolve(metadata, ref, revision)
        found = metadata.lineage(root, direction=direction, hops=hops, stop=stop, at=revision)
        if picture is not None:
            drawn = svg(dot(found))
            with click.open_file(picture, "wb") as file:
                file.write(drawn)
    if as_json:
        facts = _builtins(found)
        click.echo(json.dumps(facts | {"nodes": list(facts["nodes"].values()), "cut": sorted(found.cut)}))
    elif as_dot:
        click.echo(dot(found), nl=False)
    elif picture is None:
        for each in tree(found):
            click.echo(each)


@md.command(epilog=EXPLANATION)
@_ref
@_limit
@_command
def history(*, ref: str, limit: int, as_json: bool, **connection: Any) -> None:
    """Print the states of an object, the newest first, with what each changed."""
    with _metadata(as_json=as_json, **connection) as metadata:
        revision = metadata.revision()
        found = metadata.history(_resolve(metadata, ref, revision), limit=limit, at=revision)
    if as_json:
        click.echo(json.dumps(_builtins(found)))
        return
    states = list(found.states)
    rows = []
    for state, before in zip(states, [*states[1:], None], strict=True):
        rows.append((str(state.revision), _time(state.update_time_ms), _changes(before, state, found.complete)))
    _print(("REVISION", "TIME", "CHANGES"), rows)
    if not found.complete:
        click.echo("earlier states have been compacted, or lie beyond the limit", err=True)


@md.command(epilog=EXPLANATION)
@click.argument("name", required=False)
@_at
@_command
def versions(*, name: str | None, at: int | None, as_json: bool, **connection: Any) -> None:
    """Print the versions of a data set, annotation, split or package; without NAME, all of those."""
    with _metadata(as_json=as_json, **connection) as metadata:
        if name is None:
            assets = metadata.assets(at=at)
            if as_json:
                click.echo(json.dumps([_builtins(each) for each in assets]))
            else:
                rows = [(each.kind, each.name, each.last or "-", str(each.count)) for each in assets]
                _print(("KIND", "NAME", "LATEST", "VERSIONS"), rows)
            return
        revision = at or metadata.revision()
        found = [*metadata.versions(name, at=revision), *metadata.drafts(name, at=revision)]
    if as_json:
        click.echo(json.dumps([_builtins(each) for each in found]))
        return
    _print(("VERSION", "STATE", "ID", "TIME", "URI", "DIGEST"), [_version(each) for each in found])


@md.command(epilog=EXPLANATION)
@click.argument("ref", required=False)
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="REVISION", help="From this revision on.")
@_command
def audit(*, ref: str | None, since: int, as_json: bool, **connection: Any) -> None:
    """Print who did what, in the order in which it took effect; about one object, or all."""
    with _metadata(as_json=as_json, **connection) as metadata:
        identity = None if ref is None else _resolve(metadata, ref, metadata.revision()).id
        for each in metadata.audit(identity, since=since):
            if as_json:
                click.echo(json.dumps(_builtins(each)))
            else:
                objects = " ".join(map(str, each.objects))
                click.echo(f"{each.revision}\t{_time(each.time_ms)}\t{each.actor}\t{each.action}\t{objects}")


@md.command(epilog=EXPLANATION + f"  {FAULTS}  (of this command) a promise is broken; each place is printed\n")
@_at
@_command
def check(*, at: int | None, prefix: str, as_json: bool, **connection: Any) -> None:
    """Walk the whole store: dangling edges, stale index entries, names borne twice, gaps in versions, and more."""
    from replica.metadata.check import check as walk

    with statuses(as_json=as_json, special=_special()), store_of(**connection) as store:
        report = store.call(lambda inner: walk(inner, prefix=prefix, at=at))
    if as_json:
        click.echo(json.dumps(_builtins(report)))
    else:
        for fault in report.faults:
            click.echo(fault)
        click.echo(str(report))
    if report.count:
        sys.exit(FAULTS)


# ------------------------------------------------------------------------------------------------------------- inside


def _resolve(metadata: Metadata, ref: str, revision: int) -> AnyObject:
    """What a REF names."""
    if ref.isascii() and ref.isdecimal():
        return metadata.get(int(ref), at=revision)
    from replica.metadata import NotFound

    try:
        return metadata.resolve(ref, at=revision)
    except NotFound:
        type_name, colon, name = ref.partition(":")
        if not colon:
            raise
    if name.isascii() and name.isdecimal():
        found = metadata.find(type_name, f"id = {name}", at=revision)
        if found.items:
            return found[0]
    return metadata.by_name(type_name, name, at=revision)


def _builtins(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value, str_keys=True)


def _print(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for each in table([tuple(headings), *(tuple(row) for row in rows)]):
        click.echo(each)


def _objects(found: Sequence[AnyObject], *, as_json: bool, more: str | None) -> None:
    if as_json:
        click.echo(json.dumps({"items": [_builtins(each) for each in found], "next": more}))
        return
    rows = [
        (
            str(each.id),
            each.type,
            each.name or "-",
            getattr(each, "state", "-"),
            _time(each.create_time_ms),
            " ".join(f"{name}={_short(value)}" for name, value in sorted(each.properties.items())) or "-",
        )
        for each in found
    ]
    _print(("ID", "TYPE", "NAME", "STATE", "CREATED", "PROPERTIES"), rows)
    if more is not None:
        click.echo(f"there are more: --page {more}", err=True)


def _facts(found: AnyObject) -> Iterator[tuple[str, str]]:
    hidden = {"properties", "custom", "create_time_ms", "update_time_ms", "asset"}
    for name in found.__struct_fields__:
        value = getattr(found, name)
        if name not in hidden and value not in {None, ""}:
            yield name, str(value)
    yield "create time", _time(found.create_time_ms)
    yield "update time", _time(found.update_time_ms)
    for kind in ("properties", "custom"):
        for name, value in sorted(getattr(found, kind).items()):
            yield ("property" if kind == "properties" else "custom"), f"{name} = {json.dumps(value)}"


def _changes(before: AnyObject | None, after: AnyObject, complete: bool) -> str:
    if before is None:
        return "created" if complete else "(unknown)"
    old, new = _builtins(before), _builtins(after)
    quiet = {"revision", "update_time_ms"}
    names = [name for name in new.keys() | old.keys() if name not in quiet and new.get(name) != old.get(name)]
    return ", ".join(f"{name}: {_short(old.get(name))} → {_short(new.get(name))}" for name in sorted(names)) or "-"


def _version(of: Artifact) -> tuple[str, ...]:
    return of.version or "-", of.state, str(of.id), _time(of.update_time_ms), of.uri or "-", of.digest or "-"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if time_ms else "-"
