"""``synod certs`` and ``synod token``: certificates and tokens for a cluster of one's own."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import secrets
from pathlib import Path

import click

from deploy.certificates import DAYS, Authority, CertificateError

TOKEN_BYTES = 32
_DURATION = re.compile(r"(\d+)([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--replica", "replicas", type=click.IntRange(min=1), multiple=True, metavar="ID", help="For a replica.")
@click.option("--replicas", "count", type=click.IntRange(min=1), metavar="N", help="For the replicas 1 to N.")
@click.option(
    "--host", "hosts", multiple=True, help="A name or address of the replicas.  [default: localhost, 127.0.0.1, ::1]"
)
@click.option("--client", "clients", multiple=True, metavar="NAME", help="For a client.")
@click.option("--days", type=click.IntRange(min=1), default=DAYS, show_default=True, help="How long they hold.")
@click.option("--renew", is_flag=True, help="Replace certificates that are there; replicas take them up by themselves.")
def certs(
    *,
    folder: Path,
    replicas: tuple[int, ...],
    count: int | None,
    hosts: tuple[str, ...],
    clients: tuple[str, ...],
    days: int,
    renew: bool,
) -> None:
    """Make certificates in FOLDER, and an authority for them if there is none.

    For tests and clusters of one's own: the authority's key lies in the folder. Each name gets NAME.pem and NAME.key; a
    replica's name is replica-ID. What is there already is kept, unless --renew.
    """
    wanted = sorted({*replicas, *(range(1, count + 1) if count else ())})
    try:
        authority = Authority(folder, days=days)
        made = [authority.replica(each, hosts or ("localhost", "127.0.0.1", "::1"), renew=renew) for each in wanted]
        made += [authority.client(each, renew=renew) for each in clients]
    except CertificateError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"authority: {folder / 'authority.pem'}")
    for files in made:
        click.echo(f"{files.certificate.stem}: {files.certificate} {files.key}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="Whose it is; for people, and to tell clients apart.")
@click.option("--role", type=click.Choice(["read", "write", "admin"]), required=True)
@click.option("--prefix", "prefixes", multiple=True, help="Keys that it is good for; all, without one.")
@click.option("--expires", metavar="30d", help="How long it holds: minutes (30m), hours (12h) or days (90d).")
def token(file: Path, name: str, role: str, prefixes: tuple[str, ...], expires: str | None) -> None:
    """Make a token, print it once, and add its hash to FILE.

    FILE is what the replicas are given as security.tokens; they read it again by themselves. To withdraw a token,
    remove its entry.
    """
    made = secrets.token_urlsafe(TOKEN_BYTES)
    lines = ["", "[[tokens]]", f"name = {json.dumps(name)}", f'sha256 = "{_digest(made)}"', f'role = "{role}"']
    if prefixes:
        lines.append(f"prefixes = {json.dumps(list(prefixes))}")
    if expires is not None:
        lines.append(f"expires = {_until(expires).isoformat(timespec='seconds')}")
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else "# Tokens of a Synod cluster: hashes alone.\n"
        staged = file.with_name(file.name + ".tmp")
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.write(before + "\n".join(lines) + "\n")
        staged.replace(file)
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror or error}") from None
    click.echo(made)


def _digest(made: str) -> str:
    from replica.node.access import digest_of_token

    return digest_of_token(made)


def _until(text: str) -> dt.datetime:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a number of minutes, hours or days, as 90d", param_hint="--expires")
    return dt.datetime.now(dt.UTC) + dt.timedelta(**{_UNITS[match[2]]: int(match[1])})
